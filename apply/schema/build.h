/*
 * build.h: indexes, keys and statistics, table by table, as their rows come in.
 *
 * What is to be made comes from the archive (archive.h); to which table it belongs, how
 * large it will be, and what a key's index is, the source's catalogue says. For a small
 * table all of it goes into the copy's own transaction (build_put_whole). For a large one
 * there are tasks, each with its record in the ledger:
 *
 *   rows in --> CREATE INDEX, several at a time --> keys and the rest, one after the other,
 *               ANALYZE last, which needs the indexes on expressions
 *
 * A key that is not the table's only index is such a CREATE INDEX first, and joins by USING
 * INDEX: ADD PRIMARY KEY alone would keep all others out. What has no rows of its own
 * (indexes of partitioned tables and materialised views) and what joins indexes together
 * is left to build_finish, with ANALYZE of whole partitioned tables.
 *
 * The caller's lock guards a Build; build_run, build_put_whole and build_finish only read.
 */
#ifndef PGBATON_APPLY_SCHEMA_BUILD_H
#define PGBATON_APPLY_SCHEMA_BUILD_H

#include "apply/schema/schema.h"

/* Such a table is copied and built in one transaction: for thousands of them one each would
 * cost more than the rows. */
enum { BUILD_SMALL_BYTES = 1024 * 1024 };
static inline bool
build_is_small(const Table *table)
{
	return table->bytes < BUILD_SMALL_BYTES;
}

typedef struct Build Build;
typedef struct BuildTask BuildTask;

/* definitions: false with --schema none: only ANALYZE. What the ledger has is left out. */
Build *build_open(const SchemaWork *work, bool definitions, Error *err);
void build_close(Build *build); /* NULL is allowed */

/* Everything of these tables, with its records, for the transaction that copies them. */
void build_put_whole(const Build *build, Table *const *tables, size_t count, Buffer *sql);
/* It was committed so. */
void build_whole_done(Build *build, const Table *table);
/* The rows are in and committed; again: nothing. */
void build_rows_in(Build *build, const Table *table);

/* The largest that can be run now, keys first; NULL: none at the moment. *ready: how many
 * more there are. */
BuildTask *build_take(Build *build, size_t *ready);
/* helpers: how many of jobs would be idle meanwhile: parallel workers, and their memory.
 * Steps that are recorded already are not repeated. */
MUST_CHECK bool build_run(const Build *build, const BuildTask *task, int helpers, Sql *target,
                          Error *err);
/* After build_run; on success the table's next task can be taken. */
void build_ended(Build *build, BuildTask *task, bool ok);
const char *build_task_name(const BuildTask *task);
/* Which backend of the target does it; 0: none any more. */
void build_at(BuildTask *task, int pid);

/* Tasks and how many of them are done; from any thread, as the next one. */
void build_progress(const Build *build, size_t *done, size_t *count);

typedef struct {
	char name[160]; /* "INDEX public i", for people */
	const Table *table;
	uint64_t bytes;
	int pid;
} BuildRunning;

/* Bytes are those of the source's indexes, of tables that are not small (their indexes come
 * with the rows) and not what an earlier process has built. */
typedef struct {
	uint64_t done;
	uint64_t total;
	uint64_t longest; /* of one that is neither done nor among the running */
	BuildRunning running[64];
	size_t running_count;
} BuildWork;

void build_work(const Build *build, BuildWork *out);

/* When all tables' tasks are done. */
MUST_CHECK bool build_finish(const Build *build, Error *err);

#endif
