/*
 * build_plan.h: what a Build is made of; for build*.c only.
 */
#ifndef PGBATON_APPLY_SCHEMA_BUILD_PLAN_H
#define PGBATON_APPLY_SCHEMA_BUILD_PLAN_H

#include <stdatomic.h>

#include "apply/schema/archive.h"
#include "apply/schema/build.h"
#include "apply/schema/step.h"

/* An entry of the archive that belongs to one table. */
typedef struct Item {
	const Entry *entry;
	uint64_t bytes;    /* of its index on the source */
	bool key;          /* a primary key */
	bool joins;        /* its index may be made first, then joined by USING INDEX */
	const char *index; /* then: the statement that makes it */
	const char *join;  /* then: the statement that makes it the key, and what follows */
	struct Item *next;
} Item;

typedef struct {
	const Table *table;
	Item *items; /* keys first, then in the archive's order */
	Item **last;
	size_t item_count;
	size_t indexes_left; /* tasks of the first wave */
	BuildTask *finish;
	bool rows_in;
} TableBuild;

typedef enum { TASK_WAITS, TASK_READY, TASK_RUNS, TASK_DONE, TASK_FAILED } TaskState;

struct BuildTask {
	TableBuild *of;
	const Item *item; /* its index; NULL: what finishes the table */
	uint64_t bytes;
	_Atomic int state; /* a TaskState: others may read it */
	_Atomic int pid;   /* of the backend that does it; 0: none yet */
};

struct Build {
	const SchemaWork *work;
	Archive archive;
	Entries entries;
	Map *done;          /* steps that the ledger has */
	TableBuild *tables; /* beside the catalogue's */
	BuildTask *tasks;
	size_t task_count;
	BuildTask **ready; /* a heap (build_ready.c): the one to take first is at 0 */
	size_t ready_count;
	_Atomic size_t done_count; /* read by the status */
	const Entry **loose;       /* entries that belong to no table with rows, in order */
	size_t loose_count;
	uint64_t memory; /* maintenance_work_mem of one job */
};

/* Reads the archive and the source's catalogue: items, loose. */
MUST_CHECK bool build_plan_read(Build *build, Error *err);
bool build_step_done(const Build *build, const char *step);
/* The names under which the ledger has them. */
void build_index_step(const Item *item, char out[SCHEMA_STEP_SIZE]);
void build_analyze_step(const char *qualified, char out[SCHEMA_STEP_SIZE]);

/* Into the heap of what can be taken; out of it, or NULL. */
void build_ready_add(Build *build, BuildTask *task);
BuildTask *build_ready_take(Build *build);

static inline TableBuild *
build_table(const Build *build, const Table *table)
{
	return &build->tables[table - build->work->catalog->tables];
}

#endif
