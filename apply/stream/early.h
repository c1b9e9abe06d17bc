/*
 * early.h: a large transaction is applied before its commit.
 *
 * The source streams it, the log keeps it in a side file (txlog.h, "a streamed transaction
 * before its commit"), and an Early applies what there is of it, in its order, in one target
 * transaction on a session of its own. Nothing of it is seen or recorded before the commit:
 * when that is met in the log, and all lanes are level before it (P5), the same target
 * transaction writes every lane's progress row and commits (P1, P2). Whatever happens before
 * is rolled back, and the transaction then goes the ordinary way, from the log.
 *
 * A batch of it is executed only when the lanes have committed everything that had come to
 * the log before those changes: so it finds what it found on the source, and what others have
 * committed there beside it meets none of its rows.
 *
 * It has a thread; all functions are for the applier's.
 */
#ifndef PGBATON_APPLY_STREAM_EARLY_H
#define PGBATON_APPLY_STREAM_EARLY_H

#include "apply/lane/lane.h"
#include "apply/stream/tally.h"
#include "decoder/txlog/txlog.h"

typedef struct Early Early;

typedef struct {
	const ConnInfo *target; /* all pointers outlive it */
	const Ledger *ledger;
	Catalog *catalog;
	TxLog *log;       /* woken when it ends */
	const char *name; /* as the feed's */
	int proto_version;
	uint32_t batch_rows; /* at most */
} EarlyOptions;

/* applied: as in early_applied. tx is its own from here on. */
Early *early_start(const EarlyOptions *options, TxLogEarly *tx, Lsn applied);
/* Rolls back what is not committed. NULL: nothing. */
void early_end(Early *early);

uint64_t early_stream(const Early *early); /* txlog_early_stream */
uint32_t early_xid(const Early *early);

/* The lanes have committed all up to this commit. */
void early_applied(Early *early, Lsn commit);

/* Bytes of its side file that are applied. */
uint64_t early_bytes(Early *early);

/* Its commit is met, and all before it is committed: the rest, the progress rows, COMMIT. */
void early_finish(Early *early, const TxLogStreamed *met, Progress from);

typedef enum {
	EARLY_WORKS,
	EARLY_COMMITTED,
	EARLY_GIVEN_UP, /* rolled back: the ordinary way */
	EARLY_UNKNOWN   /* perhaps committed: ask the progress rows */
} EarlyState;

/* Waits so long for it to be over. Once it is, *err says why, but for COMMITTED. */
EarlyState early_state(Early *early, int64_t wait_ms, Error *err);
/* COMMITTED: as run_outcome's; and what it did, to take. */
Tally *early_result(Early *early, Lsn *wal, Lsn *flushed);

#endif
