/*
 * run.h: one call of copy_tables: what is to be done, who does it, how it ended. For the
 * files of this folder.
 */
#ifndef PGBATON_APPLY_COPY_RUN_H
#define PGBATON_APPLY_COPY_RUN_H

#include <pthread.h>

#include "apply/copy/group.h"
#include "apply/copy/split.h"

/*
 *   table:  QUEUED --taken--> COPYING --> COPIED | ERRORED
 *                                 `--a split whose snapshot was lost--> QUEUED again
 *
 * Everything here is under `lock`, but for the first two.
 */
typedef struct {
	const CopyOptions *options;
	const SharedSnapshot *shared; /* NULL: one snapshot per table */
	pthread_mutex_t lock;
	pthread_cond_t changed; /* something ended: there may be more to take, or nothing */
	size_t next;            /* no table before it is QUEUED */
	Split *splits;          /* in flight, the newest first */
	uint8_t *begun;         /* per table: how often its split was begun */
	size_t busy;            /* workers at work */
	size_t reading;         /* of them, those that read the source */
	Wire *holder;           /* has the shared snapshot, until the last table is in */
	bool unreachable;       /* a server is gone for good: nothing will do better */
	Error first;
	size_t failed;
	size_t left; /* not tried: cancelled or unreachable */
} CopyRun;

typedef enum { WORK_TABLE, WORK_GROUP, WORK_RANGE, WORK_BUILD } WorkKind;

/* One thing to do, and what its tries have learnt. */
typedef struct {
	WorkKind kind;
	Table *table;
	Split *split; /* RANGE; TABLE: when it was split after all */
	size_t range;
	BuildTask *task;
	int helpers;
	CopyAttempt attempt; /* of a whole table */
	CopyGroup group;
	CopyCommit commit; /* of a range */
	uint64_t rows;     /* of a range */
	uint64_t bytes;
	int64_t began_ms;
} Work;

static inline bool
copy_is_ours(const CopyOptions *options, const Table *table)
{
	return atomic_load(&table->apart) == options->apart;
}

/* Waits until there is something to do. False: all is done, or given up. */
bool copy_run_take(CopyRun *run, Work *work);
/* After it; wakes the others. */
void copy_run_ended(CopyRun *run, const Work *work);

/* The three ends of a table. */
void copy_run_copied(CopyRun *run, Table *table, const char *snapshot, Lsn lsn, uint64_t rows,
                     uint64_t bytes, int64_t began_ms);
void copy_run_failed(CopyRun *run, Table *table, Error *err);
/* It was taken and not tried, since all is given up. False: it is to be tried. */
bool copy_run_given_up(CopyRun *run, Table *table);
/* False: it was begun too often already. */
bool copy_run_again(CopyRun *run, Table *table);

void copy_run_split(CopyRun *run, Split *split);
/* A range has ended; err: why it failed. True: it was the last one, and the split is now
 * the caller's. */
bool copy_run_range_ended(CopyRun *run, const Work *work, bool ok, const Error *err);
void copy_run_build_ended(CopyRun *run, BuildTask *task, bool ok, const Error *err);

/* No table, range or index is taken any more. */
void copy_run_unreachable(CopyRun *run);
int copy_run_tries(const CopyRun *run);

/* A worker's thread; arg: the CopyRun. */
void *copy_worker_main(void *arg);

#endif
