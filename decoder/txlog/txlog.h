/*
 * txlog.h: the durable transaction log, pgbaton's spill-to-disk queue.
 *
 * An append-only file in segments below one directory: whole transactions in
 * commit order, pgoutput's own message bytes inside checksummed blocks. What the
 * source streams before its commit waits in a side file of its own, without what it
 * rolls back, and enters the log by reference when it commits. One
 * writer (the receiver's thread), a thread that writes for it where there is much, any
 * number of readers (threads of their own), one flusher thread that fsyncs in groups. Files are 0600 in a directory 0700;
 * a lock file keeps other processes out.
 *
 * Invariants
 *  T1 A block holds either whole transactions only, or bytes of one single
 *     transaction only. So what is unfinished can be cut off at a block's edge.
 *  T2 Readers see nothing beyond the end of the last whole transaction.
 *  T3 Commit LSNs grow strictly; a transaction at or below the last one is
 *     dropped on arrival (P7).
 *  T4 Each segment starts with the Relation (and Type) messages in force, so it
 *     can be read on its own; a transaction never spans two segments.
 *  T5 A segment is removed only when every transaction in it was released, and
 *     after it the side files that it refers to.
 *  T6 A torn tail (after the last whole transaction of the last segment) is cut
 *     at open; a bad checksum or a gap anywhere else is an error naming file,
 *     offset and LSN.
 *  T7 synced_end never exceeds what fdatasync has returned for.
 *  T8 A reference in the log means that its side file is whole and durable; one that
 *     is missing, shorter, longer or damaged is an error naming file, offset and LSN.
 */
#ifndef PGBATON_DECODER_TXLOG_TXLOG_H
#define PGBATON_DECODER_TXLOG_TXLOG_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "common/lsn.h"
#include "common/slice.h"
#include "common/stop.h"

typedef struct TxLog TxLog;

typedef struct {
	const char *directory;  /* made (0700) if it is not there */
	const char *identity;   /* the migration's id: another one's log is refused */
	uint64_t segment_bytes; /* 0: 64 MiB; a larger transaction gets a larger segment */
	uint64_t max_bytes;     /* 0: no limit; --log-max-bytes */
	bool compress;          /* LZ4 blocks */
} TxLogOptions;

/* Locks, checks every segment's header, scans the last one and cuts its torn
 * tail (T6), starts the flusher. */
TxLog *txlog_open(const TxLogOptions *options, Error *err);
/* Waits for the last fsync. Readers must be closed before. */
void txlog_close(TxLog *log);

/* ---- the writer: one thread ---- */

/* True when the log is at max_bytes: the receiver then stops reading its
 * socket (back pressure) and asks again when the release callback ran. */
bool txlog_full(TxLog *log);

/* A Begin with that final LSN was logged already (T3): the caller drops the
 * whole transaction. */
bool txlog_has(TxLog *log, Lsn commit_lsn);

/*
 * One pgoutput message of the transaction being received, in order: Begin
 * first, Commit last. Relation and Type messages also update the set that new
 * segments start with (T4). A message outside a transaction (non-transactional
 * 'M') may come between transactions. Buffers; a big transaction is written
 * before it is whole, but no reader sees it (T2).
 *
 * Between transactions also what protocol 2 to 4 stream: Stream Start, messages with
 * their xid, Stop, Abort and Commit. Readers get such a transaction where its commit
 * stands, as protocol 1 has it. A Stream Commit that the log has (P7) drops what came.
 * Memory: what waits to be written (some 4 MiB), and a few bytes a sub-transaction, however
 * many are in progress.
 * A commit waits for the disk as far as that is behind (at most some 16 MiB).
 */
MUST_CHECK bool txlog_append(TxLog *log, Slice message, Error *err);
/* Writes what is buffered and whole, makes it visible to the readers and wakes
 * them and the flusher. Called when the socket has nothing more for now. Where that is much,
 * or more is being written, a thread of the log's own does it a moment later. */
MUST_CHECK bool txlog_publish(TxLog *log, Error *err);
/* The disk is behind by so much that txlog_append may soon have to wait for it: the receiver
 * stops reading and asks again when the callback ran. */
bool txlog_behind(TxLog *log);
/* The connection was lost: cuts off what came of an open transaction, and drops the
 * streamed ones in progress, which the source starts again. */
MUST_CHECK bool txlog_discard_open(TxLog *log, Error *err);

/*
 * Keeps durably that a position beyond the last transaction is about to be
 * confirmed to the source (P6: an idle stream confirms by keepalives). So a
 * start can tell a quiet source from a log that has lost its end. Waits for the
 * disk.
 */
MUST_CHECK bool txlog_note_confirmed(TxLog *log, Lsn upto, Error *err);
/* Keeps durably on which of the source's timelines the positions here are. fork, unless it is 0:
 * that one left the noted one's there, so a confirmed position beyond it means nothing any more. */
MUST_CHECK bool txlog_note_timeline(TxLog *log, uint32_t timeline, Lsn fork, Error *err);

/* ---- positions, any thread ---- */

typedef struct {
	Lsn last_commit;       /* of the last transaction published; 0 when there never was one */
	Lsn last_end;          /* its end LSN */
	Lsn synced_end;        /* end LSN up to which all is fsynced */
	bool all_synced;       /* everything published is, also messages outside transactions */
	Lsn noted;             /* the highest position given to txlog_note_confirmed */
	uint32_t timeline;     /* given to txlog_note_timeline last; 0: never */
	uint64_t transactions; /* appended by this process */
	uint64_t bytes_on_disk;
	uint64_t segments;
	int64_t last_commit_time_us; /* source's clock, since 2000 */
} TxLogState;

void txlog_state(TxLog *log, TxLogState *out);
/* A flusher or writer error that stays: the log is unusable from then on. */
bool txlog_failed(TxLog *log, Error *err);
/* Waits until all that is published is fsynced. */
MUST_CHECK bool txlog_sync(TxLog *log, int64_t deadline_ms, Error *err);
/* All transactions with commit LSN <= upto are durably applied: T5. */
void txlog_release(TxLog *log, Lsn upto);
/* Called from the log's threads after synced_end moved, room was made, or the log failed. One
 * callback; it must not call back into the log except txlog_state. */
void txlog_on_progress(TxLog *log, void (*callback)(void *), void *arg);

/* ---- readers ---- */

typedef struct TxLogReader TxLogReader;

/*
 * Reads from the start of the segment that holds the first transaction with a
 * commit LSN > after (so earlier transactions of that segment come too, with
 * the Relation messages in force; the caller skips them by P3). With LSN_INVALID:
 * from the oldest segment. When the log has a gap after `after` (its oldest
 * transaction was released beyond it), ERROR_STORAGE.
 */
TxLogReader *txlog_reader_open(TxLog *log, Lsn after, Error *err);
void txlog_reader_close(TxLogReader *reader);

typedef enum {
	TXLOG_MESSAGE, /* *message is one pgoutput message, valid until the next call */
	TXLOG_WAIT,    /* nothing more until the deadline */
	TXLOG_ERROR
} TxLogNext;

/* Waits until deadline_ms (clock.h; 1: do not wait) or stop. Messages come as
 * pgoutput sent them: B, [O R Y I U D T M]*, C; and R, Y, M between transactions
 * (segment starts, and behind what was streamed). */
TxLogNext txlog_reader_next(TxLogReader *reader, const Stop *stop, int64_t deadline_ms,
                            Slice *message, Error *err);
/* The message just returned is large and stands in memory of its own: it can be had without
 * a copy by txlog_reader_detach, which gives that memory away (the caller's to free(); the
 * message is valid as long). */
bool txlog_reader_is_alone(TxLogReader *reader, Slice message);
uint8_t *txlog_reader_detach(TxLogReader *reader);
/* True: a call would return a message without waiting. */
bool txlog_reader_ready(TxLogReader *reader);
/* Makes waiting readers return TXLOG_WAIT at once (used to hand over commands). */
void txlog_wake(TxLog *log);

/* A transaction that was streamed and stands in a side file. */
typedef struct {
	uint64_t stream; /* its number, unlike any other's; 0: none */
	uint64_t bytes;  /* of the side file */
	Lsn commit;
	Lsn end;
	int64_t time_us;
} TxLogStreamed;

/* Is the message just returned the Begin of such a one? Else stream is 0. */
TxLogStreamed txlog_reader_streamed(const TxLogReader *reader);
/* Passes over the rest of it, its Commit included. */
void txlog_reader_skip_streamed(TxLogReader *reader);

/* ---- a streamed transaction before its commit ---- */

/*
 * The first one in progress that has grown beyond a limit (8 MiB) is on offer; whoever takes
 * it reads what there is of it, from its begin, beside the writer. One at a time. Nothing
 * that was read may be made to last before its reference is in the log with the same number
 * and as many bytes as were read.
 */
typedef struct TxLogEarly TxLogEarly;

/* There is one to take. Any thread; no lock. The readers are woken when it comes. */
bool txlog_early_offered(TxLog *log);
/* NULL: it is over meanwhile. One owner, but for txlog_early_break. */
TxLogEarly *txlog_early_take(TxLog *log);
/* It is not offered again. */
void txlog_early_close(TxLogEarly *early);
/* Any thread: the one that waits in txlog_early_next gets TXLOG_EARLY_GONE. */
void txlog_early_break(TxLogEarly *early);

typedef enum {
	TXLOG_EARLY_MESSAGE, /* as txlog_reader_next's, between Begin and Commit */
	TXLOG_EARLY_END,     /* that was all, and it has committed */
	TXLOG_EARLY_GONE,    /* rolled back, or a part of it that may have been read */
	TXLOG_EARLY_ERROR
} TxLogEarlyNext;

/* Waits for more. The message is valid until the next call. */
TxLogEarlyNext txlog_early_next(TxLogEarly *early, Slice *message, Error *err);
/* True: a call would not wait. */
bool txlog_early_ready(TxLogEarly *early);
/* All commits up to this one, and no others, may have come to the log before what was read
 * so far: what the transaction found on the source when it made these changes. */
Lsn txlog_early_after(const TxLogEarly *early);
uint32_t txlog_early_xid(const TxLogEarly *early);
uint64_t txlog_early_stream(const TxLogEarly *early);
uint64_t txlog_early_bytes(const TxLogEarly *early); /* read so far */

/* ---- looking inside without opening for writing (pgbaton log) ---- */

/* Read-only, without the lock: a torn tail is reported, not cut. The callback
 * gets each message, with the segment or side file it stands in; false ends the walk. An empty message: the bytes from that
 * offset on are an unfinished write or transaction (a torn tail). */
typedef bool (*TxLogVisit)(void *arg, const char *file, uint64_t offset, Slice message);
MUST_CHECK bool txlog_walk(const char *directory, Lsn from, TxLogVisit visit, void *arg,
                           Error *err);

#endif
