/*
 * lane.h: a target session with a thread, and the verdict that several of them share.
 *
 * A Run is one batch over the lanes that take part: each executes its task and reports;
 * when all have succeeded all commit, when one has failed all roll back (the one that
 * failed at once, so that a neighbour which waits for its locks goes on). The applier's
 * thread owns the Run, starts it, and looks at it again when on_done was called. Between
 * runs the sessions belong to the applier's thread.
 */
#ifndef PGBATON_APPLY_LANE_LANE_H
#define PGBATON_APPLY_LANE_LANE_H

#include "apply/batch/batch.h"
#include "apply/ledger.h"
#include "apply/sql.h"
#include "common/stop.h"

typedef struct Lane Lane;
typedef struct Run Run;

typedef enum {
	RUN_OK,
	RUN_CONFLICT, /* rolled back: to be replayed in the source's order */
	RUN_LOST,     /* a connection is gone, perhaps inside COMMIT: ask the progress rows */
	RUN_FAILED,   /* rolled back, and trying again would not help */
	RUN_CANCELLED
} RunOutcome;

typedef enum {
	TASK_SHARE,  /* the lane's net changes */
	TASK_ROWS,   /* the same, one row after the other */
	TASK_REPLAY, /* all changes in order */
	TASK_FLUSH   /* makes durable what was committed before */
} TaskKind;

typedef struct {
	TaskKind kind;
	const Batch *batch;
	int share;      /* lane number, or GROUP_ALL_LANES */
	bool begin;     /* a new transaction; else a savepoint in the open one */
	bool commit;    /* with the progress rows; else the transaction stays open */
	bool at_once;   /* commits in the round trip of the statements, which are guarded */
	bool positions; /* asks how far the target's WAL is, and flushed, after the commit */
	bool limited;   /* with a lock_timeout: other lanes may be in the way */
	const Ledger *ledger;
	Progress from; /* where the rows it writes stand now: else somebody else applies, too */
	Progress progress;
	const bool *writes; /* [ledger->lanes]: whose progress rows (P1) */
} Task;

enum { LANE_EARLY = -1 }; /* the number of the one that is none of the lanes (early.h) */

/* Opens the session (in the caller's thread) and starts the thread. By the ledger's id a
 * fence knows whom to let through. All but err outlive the lane, which may open its session
 * afresh. */
Lane *lane_start(const ConnInfo *target, const Ledger *ledger, int number, const Stop *stop,
                 Error *err);
/* Waits for the task in hand; closes. NULL: nothing. */
void lane_end(Lane *lane);
Sql *lane_sql(Lane *lane); /* between runs only */

Run *run_new(void (*on_done)(void *arg), void *arg);
void run_free(Run *run);
/* total lane_begin calls follow, with tasks that live until the run is done. */
void run_prepare(Run *run, int total);
void lane_begin(Lane *lane, Run *run, const Task *task);
/* The same in the caller's thread: it is done on return. */
void lane_do(Lane *lane, Run *run, const Task *task);
bool run_done(Run *run);
void run_wait(Run *run);
/* When done. *wal: the target's insert position after the commits, *flushed: how far it
 * had been flushed by then (RUN_OK of committing tasks that ask; else LSN_INVALID). */
RunOutcome run_outcome(Run *run, Lsn *wal, Lsn *flushed, Error *err);
/* RUN_FAILED: the table whose row it failed at; NULL when not known, and else. */
Table *run_blamed(Run *run);

#endif
