/*
 * txlog/side.h: side files, in which transactions that the source streams before
 * their commit wait for it. Part of txlog/internal.h.
 *
 *  DIR/%016llx.stream  a transaction in progress, by a serial number; what a crash
 *                      leaves of it is dropped at open
 *  DIR/%016llx.xact    a committed one, by its commit LSN; a reference in the log says
 *                      how long it is (T8). Without one it is a left-over.
 *  In it               blocks as in a segment (txlog/internal.h) from offset 0 on,
 *                      their checksums seeded with a number of the file's own; frames
 *                      of FRAME_MESSAGE only, as protocol 1 has them (no xid)
 *
 * Only one side file is open for writing at a time, with one block in memory: what is
 * kept of each other transaction is its StreamedTx.
 */
#ifndef PGBATON_DECODER_TXLOG_SIDE_H
#define PGBATON_DECODER_TXLOG_SIDE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/bytes.h"
#include "common/error.h"
#include "common/lsn.h"
#include "common/map.h"
#include "decoder/txlog/known.h"
#include "decoder/txlog/txlog.h"

/* Where a message begins in a side file. Also what is not yet in the file has its
 * place: the block that is being filled will stand at the file's end. */
typedef struct {
	uint64_t block; /* file offset of its block */
	uint32_t inside;
} SidePos;

/* The first message of a sub-transaction that may still roll back. */
typedef struct {
	uint32_t nth; /* its xid, counted from the top-level transaction's */
	uint32_t inside;
	uint64_t block;
} SubStart;

typedef struct {
	SidePos at;
	KnownHeld held;
} SideKnown;

/* A transaction in progress. */
typedef struct {
	uint32_t xid;
	uint64_t serial;
	uint64_t size;     /* of the file; all of it whole blocks */
	uint64_t started;  /* the disk was asked to write up to here, */
	uint64_t finished; /* and has done so up to here */
	bool made;         /* the file exists */
	bool offered;      /* to be read early, once; or must not be */
	SubStart *subs;    /* ascending by nth and by place */
	size_t sub_count;
	size_t sub_capacity;
	SideKnown *known; /* its Relation and Type messages, ascending by place */
	size_t known_count;
	size_t known_capacity;
} StreamedTx;

/* The writer's part that deals with streamed transactions. */
typedef struct {
	Map *transactions;   /* xid -> StreamedTx */
	StreamedTx *current; /* the one that buffer and fd belong to; NULL: none */
	bool in_block;       /* between Stream Start and Stream Stop: of current */
	int fd;              /* -1: not open */
	Buffer buffer;       /* the block being filled */
	Buffer message;      /* one message without its xid */
	uint64_t seed;       /* of this opening of the log; a file's is this + its serial */
	uint64_t serials;
} Streams;

/* ---- txlog/side.c: the current side file. All functions fail the log. ---- */

/* Makes it current: the one before is written and closed. NULL: none is. */
MUST_CHECK bool side_select(TxLog *log, StreamedTx *tx, Error *err);
/* Where the next message will stand. */
SidePos side_end(const Streams *streams);
/* One message: its type byte and what comes behind the xid. */
MUST_CHECK bool side_put(TxLog *log, uint8_t kind, Slice rest, Error *err);
/* Drops everything from there on. */
MUST_CHECK bool side_cut(TxLog *log, SidePos from, Error *err);
/* The raw bytes of all blocks, one after the other, to take. */
MUST_CHECK bool side_each_block(TxLog *log, bool (*take)(TxLog *log, Slice raw, Error *err),
                                Error *err);
/* Whole, durable, and under its lasting name (T8). Then none is current. */
MUST_CHECK bool side_seal(TxLog *log, Lsn commit, Error *err);
/* Removes the file, current or not. */
MUST_CHECK bool side_remove(TxLog *log, StreamedTx *tx, Error *err);
uint64_t side_seed(const Streams *streams, const StreamedTx *tx);

/* ---- txlog/stream.c: what pgoutput says of streamed transactions ---- */

void txlog_streams_init(Streams *streams);
void txlog_streams_free(TxLog *log);
/* Stream Start, Stop, Commit, Abort, and every message between Start and Stop. */
MUST_CHECK bool txlog_stream_append(TxLog *log, Slice message, Error *err);
/* The connection was lost: the source starts all that is in progress again. */
MUST_CHECK bool txlog_streams_discard(TxLog *log, Error *err);

#endif
