/*
 * applier.h: reads the transaction log and makes the target equal, exactly once.
 *
 * One thread (the batcher) folds transactions into net changes per row and hands each
 * batch to the lanes, threads with one target session each (design.md, "The way of the
 * data"; rules P1-P7, C2). Starts from the ledger's progress rows, levelling the lanes
 * first. A connection lost is retried with jittered back-off: the progress rows say what
 * had been committed (unknown outcomes included). A data error or divergence stops it
 * (state APPLIER_FAILED, table, key, LSN, xid named; that table is TABLE_ERRORED with its
 * error) with nothing applied past it; applier_resume tries again from the progress rows.
 */
#ifndef PGBATON_APPLY_STREAM_APPLIER_H
#define PGBATON_APPLY_STREAM_APPLIER_H

#include <stdbool.h>
#include <stdint.h>

#include "apply/catalog/catalog.h"
#include "apply/ledger.h"
#include "common/error.h"
#include "common/lsn.h"
#include "decoder/txlog/txlog.h"
#include "protocol/conninfo.h"

typedef struct Applier Applier;

typedef struct {
	const ConnInfo *target;
	const Ledger *ledger; /* lanes as recorded there */
	Catalog *catalog;     /* matched with the target */
	TxLog *log;
	Lsn start;            /* slot's consistent point: progress of a new lane */
	int lanes;            /* wanted; changed to when all are level (P4) */
	int proto_version;    /* of the logged messages */
	uint64_t batch_bytes; /* 0: 32 MiB */
	uint32_t batch_rows;  /* 0: 100,000 */
	/* NULL: the ledger's name. What the stream's markers are called after. */
	const char *stream_name;
	/* Applies the tables that are apart (catalog.h) and nothing else; or all others. */
	bool apart;
	/* From the applier's thread, when the target has flushed all up to this end LSN. */
	void (*on_durable)(void *arg, Lsn end);
	/* Instead, where another one reads the same log: this commit, which ends there, need not
	 * be read again by us; txlog_release is then the callee's business. arg as above. */
	void (*on_passed)(void *arg, Lsn commit, Lsn end);
	void *arg;
} ApplierOptions;

Applier *applier_start(const ApplierOptions *options, Error *err);
/* Ends after the batch in hand (rolled back if it does not end soon), joins. */
void applier_stop(Applier *applier);

/* Returns when no lane has anything in flight and nothing more is begun. The second one
 * for applier_resume, which also retries after APPLIER_FAILED. Nested pauses count. */
MUST_CHECK bool applier_pause(Applier *applier, int64_t deadline_ms, Error *err);
void applier_resume(Applier *applier);

typedef enum { APPLIER_RUNNING, APPLIER_PAUSED, APPLIER_RETRYING, APPLIER_FAILED } ApplierPhase;

typedef struct {
	ApplierPhase phase;
	Error error;        /* FAILED, RETRYING */
	Lsn applied_commit; /* all transactions up to this one are committed on the target */
	Lsn applied_end;
	Lsn durable_end;         /* and flushed there */
	int64_t applied_time_us; /* source's commit time of the last applied, since 2000 */
	uint64_t transactions;
	uint64_t inserts, updates, deletes, truncates; /* as the source did them, not net */
	uint64_t batches;
	uint64_t replays;        /* batches that were replayed in order */
	uint64_t early;          /* transactions that were applied before their commit (early.h), */
	uint64_t early_given_up; /* and those of which that was rolled back */
} ApplierState;

void applier_state(Applier *applier, ApplierState *out);

/* Large transactions may be applied before their commit: not at first, nor where others want
 * locks on the target's tables. What is under way is rolled back soon after, but before a
 * pause is told, and before a marker is. */
void applier_allow_early(Applier *applier, bool allow);

/* K3: waits until the marker with this content has come through and everything before it
 * is committed on the target, on all lanes. Fails at the deadline, on stop, or when the
 * applier fails. */
MUST_CHECK bool applier_wait_marker(Applier *applier, const char *content, int64_t deadline_ms,
                                    Error *err);

#endif
