/*
 * feed.h: from the log's messages to batches: transactions, positions, plans, rules P3, C2.
 *
 * A position is the number of row changes (I, U, D, T; 1 each) of a transaction that have
 * been passed; changes that are skipped count. One owner, the applier's thread. The plans
 * live as long as the feed, so batches must be gone before it.
 */
#ifndef PGBATON_APPLY_STREAM_FEED_H
#define PGBATON_APPLY_STREAM_FEED_H

#include "apply/batch/batch.h"
#include "common/stop.h"
#include "decoder/txlog/txlog.h"

typedef struct Feed Feed;

typedef struct {
	TxLog *log;
	Catalog *catalog;
	const char *name; /* of the migration: its schema and the prefix of its messages */
	int proto_version;
	uint64_t batch_bytes;
	uint32_t batch_rows;
	bool apart; /* applies the tables that are apart, and no others */
	bool whole; /* one lane: transactions are kept together where they fit */
} FeedOptions;

/* Reads on from there: everything up to `from` is on the target. */
Feed *feed_open(const FeedOptions *options, Progress from, Error *err);
void feed_close(Feed *feed);

typedef enum {
	FEED_MORE, /* a message was taken */
	FEED_FULL, /* the batch is closed */
	FEED_MET,  /* nothing was taken: the transaction of feed_expect comes next */
	FEED_WAIT, /* nothing more until the deadline, the stop or txlog_wake */
	FEED_ERROR
} FeedNext;

FeedNext feed_next(Feed *feed, Batch *batch, const Stop *stop, int64_t deadline_ms, Error *err);
/* A call would not wait. */
bool feed_ready(Feed *feed);

/* The last whole transaction that was on the target already (P3); end invalid: none. */
typedef struct {
	Lsn commit;
	Lsn end;
	int64_t time_us;
} FeedPassed;

FeedPassed feed_passed(const Feed *feed);
/* Markers of such transactions: called while reading. */
void feed_on_old_marker(Feed *feed, void (*callback)(void *arg, const char *content), void *arg);

/* The streamed transaction with this number (0: none) is being applied by somebody else: where
 * its Begin comes, FEED_MET. Then feed_met says which one it is, and either feed_pass_met
 * passes over it, for it is on the target, or another feed_expect takes the word back. */
void feed_expect(Feed *feed, uint64_t stream);
TxLogStreamed feed_met(const Feed *feed);
void feed_pass_met(Feed *feed);

int progress_cmp(Progress a, Progress b);

#endif
