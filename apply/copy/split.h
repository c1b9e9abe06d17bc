/*
 * split.h: a large table copied in ranges, by several workers at a time.
 *
 * One source transaction takes lock and snapshot (C2), exports it and stays open, idle,
 * until every range is in; the ranges' transactions join it, so all see one state of the
 * table. From 14 on ranges are of ctid (the server reads just those pages), before that of
 * an integer key. First and last are open, so it does not matter how they were measured.
 * Who waits for a lock on the table meanwhile (ALTER TABLE, TRUNCATE, LOCK TABLE) waits for the
 * holder, and whoever comes later waits behind him: ranges are read through the holder then.
 *
 * C3 over several target transactions: before the first one the ledger says "copying" and
 * that attempt's number; each of them holds the ledger's row for share under this number
 * until it commits; "copied" is written when all are. A crash loses the snapshot, so a
 * table that is "copying" at a start is truncated and copied afresh: rows without a record
 * do not stay, and a transaction of the attempt before can neither begin nor commit then
 * (its row lock has to be gone before the next attempt can write its number).
 *
 * A Split belongs to the run's lock (copy.c), but for a range's own copy; the holder, while ranges
 * are running, to the lock `reading`.
 */
#ifndef PGBATON_APPLY_COPY_SPLIT_H
#define PGBATON_APPLY_COPY_SPLIT_H

#include <pthread.h>

#include "apply/copy/table.h"

typedef struct Split {
	Table *table;
	Wire *holder; /* the session of the transaction that has the snapshot; NULL: let go, or lost */
	pthread_mutex_t reading; /* one range at a time is read through the holder */
	CopyView view;
	char attempt[24];
	const char *key; /* column, quoted; NULL: ctid */
	int64_t *bounds; /* between the ranges: count - 1 of them, pages or key values */
	size_t count;
	size_t next; /* to be handed out */
	size_t running;
	uint64_t rows; /* committed */
	uint64_t bytes;
	int64_t began_ms;
	bool failed; /* no more ranges are handed out: error says why */
	Error error;
	struct Split *older;
} Split;

/* Large enough, and of a kind that can be split at all. */
bool split_wanted(const CopyOptions *options, const Table *table);

/* *out NULL and true: it cannot be split after all (no heap, not ours to empty, ...): copy it
 * whole. On false the session is to be closed. */
MUST_CHECK bool split_begin(CopySession *session, const CopyOptions *options, Table *table,
                            const SharedSnapshot *shared, Split **out, Error *err);
/* The snapshot is not needed any more: all ranges are in, or none will be. */
void split_let_go(Split *split);
void split_free(Split *split);

/* Committed on the target, or looked up that it is; *rows and *bytes of it. On false the
 * session is to be closed. commit: zero at the range's first try. */
MUST_CHECK bool split_copy_range(CopySession *session, const CopyOptions *options, Split *split,
                                 size_t range, CopyCommit *commit, uint64_t *rows, uint64_t *bytes,
                                 Error *err);
/* All ranges are in: the record. Can be repeated. */
MUST_CHECK bool split_record(CopySession *session, const CopyOptions *options, const Split *split,
                             Error *err);

#endif
