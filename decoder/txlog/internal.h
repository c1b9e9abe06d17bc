/*
 * txlog/internal.h: what the files of the transaction log share. Nobody else
 * includes it but its tests.
 *
 * On disk. All integers in network order.
 *  DIR/lock                  flock'ed; the owner's pid as text
 *  DIR/confirmed             txlog_note_confirmed: position and its hash
 *  DIR/timeline              txlog_note_timeline: number and its hash
 *  DIR/%016llx.log           a segment, numbered from 1 without holes
 *  DIR/%016llx.tmp           a segment being made; dropped at open
 *  Segment header            magic, version, length, number, last commit and
 *                            end LSN before it, identity, checksum. Written and
 *                            synced before the rename to .log: a .log with a
 *                            bad header is damage, never a torn tail.
 *  Block                     header of BLOCK_HEADER_SIZE bytes, then stored_len
 *                            bytes. The header names its own offset, and the
 *                            checksum is seeded with the segment's number, so
 *                            bytes in the wrong place are never taken for one.
 *  Message in a block        u32 length, u8 FrameKind, bytes
 *  Side files                txlog/side.h
 */
#ifndef PGBATON_DECODER_TXLOG_INTERNAL_H
#define PGBATON_DECODER_TXLOG_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "common/arena.h"
#include "common/bytes.h"
#include "decoder/pgoutput.h"
#include "decoder/txlog/side.h"
#include "decoder/txlog/txlog.h"

#define TXLOG_BLOCK_TARGET ((size_t)256 * 1024)
/* A message above the target is a block of its own, and stored as it is above
 * this: compressing it would need a second gigabyte. */
#define TXLOG_COMPRESS_MAX ((size_t)16 * 1024 * 1024)
/* PostgreSQL's messages stay below 1 GiB; a field is at most 1 GiB. */
#define TXLOG_MESSAGE_MAX ((size_t)1536 * 1024 * 1024)
#define TXLOG_SEGMENT_BYTES ((uint64_t)64 * 1024 * 1024)
/* A streamed transaction of up to so many bytes is copied into the log at its commit:
 * that costs less than making a file durable. */
#define TXLOG_INLINE_MAX ((uint64_t)1024 * 1024)
/* From so many bytes on a streamed transaction may be read before its commit; */
#define TXLOG_EARLY_MIN ((uint64_t)8 * 1024 * 1024)
/* but not one with a block beyond this, which its reader would have in memory once more. */
#define TXLOG_EARLY_BLOCK_MAX ((uint64_t)4 * 1024 * 1024)

/* ---- faults: tests make the N-th file operation fail ---- */

/* op: "write", "sync", "truncate", "create", "rename". Returns an errno, or 0 for none.
 * A failing write first writes half of its bytes. */
typedef struct {
	int (*fail)(void *arg, const char *op);
	void *arg;
} TxLogFaults;

TxLog *txlog_open_with_faults(const TxLogOptions *options, TxLogFaults faults, Error *err);

/* ---- txlog/file.c: file operations with names in their errors ---- */

#define TXLOG_NAME_SIZE 24
void txlog_segment_name(uint64_t number, char out[TXLOG_NAME_SIZE]);
void txlog_stream_name(uint64_t serial, char out[TXLOG_NAME_SIZE]);
void txlog_xact_name(Lsn commit, char out[TXLOG_NAME_SIZE]);

MUST_CHECK bool txlog_file_write(const TxLogFaults *faults, int fd, const char *name,
                                 uint64_t offset, const Slice *pieces, int count, Error *err);
MUST_CHECK bool txlog_file_sync(const TxLogFaults *faults, int fd, const char *name, Error *err);
MUST_CHECK bool txlog_file_truncate(const TxLogFaults *faults, int fd, const char *name,
                                    uint64_t size, Error *err);
/* A new, empty file (0600), whatever was there by that name. */
MUST_CHECK bool txlog_file_make(const TxLog *log, const char *name, int *fd, Error *err);
/* From one name in the log's directory to another, durably. */
MUST_CHECK bool txlog_file_rename(const TxLog *log, const char *from, const char *to, Error *err);
/* Less than len only at the end of the file. -1 with err. */
ssize_t txlog_file_read(int fd, const char *name, uint64_t offset, void *to, size_t len,
                        Error *err);
MUST_CHECK bool txlog_file_size(int fd, const char *name, uint64_t *out, Error *err);
/* Makes and locks; *dir_fd and *lock_fd are the caller's to close. */
MUST_CHECK bool txlog_dir_open(const char *directory, int *dir_fd, int *lock_fd, Error *err);
/* The numbers of all files "%016x" + suffix, ascending. *numbers: free(). */
MUST_CHECK bool txlog_dir_list(int dir_fd, const char *directory, const char *suffix,
                               uint64_t **numbers, size_t *count, Error *err);
/* The same of the segments, which have no holes (else ERROR_STORAGE). */
MUST_CHECK bool txlog_dir_segments(int dir_fd, const char *directory, uint64_t **numbers,
                                   size_t *count, Error *err);
/* The files of txlog_note_confirmed and _timeline; *value is 0 when it was never written. */
MUST_CHECK bool txlog_note_open(int dir_fd, const char *name, int *fd, uint64_t *value, Error *err);
MUST_CHECK bool txlog_note_write(const TxLogFaults *faults, int fd, const char *name,
                                 uint64_t value, Error *err);

/* ---- txlog/format.c: bytes <-> headers, no files ---- */

#define SEGMENT_HEADER_MAX 512

typedef struct {
	uint64_t number;
	Lsn previous_commit; /* of the last transaction before this segment */
	Lsn previous_end;
	char identity[256];
	size_t size; /* of the header: where the first block stands */
} SegmentHeader;

void segment_header_put(const SegmentHeader *header, Buffer *out);
/* bytes: the file's first SEGMENT_HEADER_MAX bytes or all there are. */
MUST_CHECK bool segment_header_parse(Slice bytes, SegmentHeader *out, Error *err);

#define BLOCK_HEADER_SIZE 64

enum {
	BLOCK_PART = 1,     /* of one transaction only (T1); without it: whole ones */
	BLOCK_LAST = 2,     /* with PART: the transaction ends here */
	BLOCK_PREAMBLE = 4, /* Relation and Type messages in force (T4) */
	BLOCK_LZ4 = 8,
	BLOCK_FLAGS = 15
};

typedef struct {
	unsigned flags;
	uint32_t stored_len;
	uint32_t raw_len;
	uint64_t offset;
	Lsn first_commit; /* of the first transaction that ends in it, or is in part in it */
	Lsn last_commit;  /* of the last whole transaction up to its end */
	Lsn last_end;
	int64_t last_time_us;
} BlockHeader;

/* Puts the header with the checksum over it and the pieces. */
void block_header_put(const BlockHeader *header, uint64_t segment, const Slice *pieces, int count,
                      uint8_t out[BLOCK_HEADER_SIZE]);
/* NULL, or what is wrong. left: bytes of the file from the header on. */
const char *block_header_parse(const uint8_t bytes[BLOCK_HEADER_SIZE], uint64_t offset,
                               uint64_t left, BlockHeader *out);
bool block_checksum_ok(const uint8_t header[BLOCK_HEADER_SIZE], uint64_t segment, Slice stored);

typedef enum {
	FRAME_MESSAGE = 0, /* a pgoutput message as it came */
	FRAME_STREAMED = 1 /* a streamed transaction by reference: StreamedRef */
} FrameKind;

/* A committed transaction in a side file (txlog/side.h). */
typedef struct {
	uint32_t xid; /* top-level */
	uint64_t seed;
	uint64_t bytes; /* length of the file, which is nothing but whole blocks */
	Lsn commit;
	Lsn end;
	int64_t time_us;
} StreamedRef;

#define STREAMED_REF_SIZE 44

typedef struct {
	FrameKind kind;
	Slice message;        /* FRAME_MESSAGE */
	StreamedRef streamed; /* FRAME_STREAMED */
} Frame;

#define FRAME_HEADER_SIZE 5
void frame_header_put(size_t len, FrameKind kind, uint8_t out[FRAME_HEADER_SIZE]);
/* The record and its frame. */
void streamed_ref_put(const StreamedRef *ref, Buffer *out);
#define STREAMED_MESSAGE_MAX 26
/* The Begin and the Commit that protocol 1 would have sent. */
Slice streamed_ref_begin(const StreamedRef *ref, uint8_t out[STREAMED_MESSAGE_MAX]);
Slice streamed_ref_commit(const StreamedRef *ref, uint8_t out[STREAMED_MESSAGE_MAX]);
/* The frame at *inside, which moves behind it. False: NULL *problem at the block's
 * end, else what is wrong. */
bool frame_next(Slice raw, size_t *inside, Frame *frame, const char **problem);

/* ---- txlog/block.c: reading blocks from a file ---- */

/* One block in memory: header and raw bytes. */
typedef struct {
	BlockHeader header;
	Slice raw; /* into one of the two buffers */
	Buffer stored;
	Buffer unpacked;
} Block;

typedef enum {
	BLOCK_READ_OK,
	BLOCK_READ_BAD,   /* err says what is wrong with the bytes */
	BLOCK_READ_FAILED /* the file cannot be read */
} BlockRead;

/* limit: the end of what may be read. */
BlockRead block_read(int fd, const char *name, uint64_t segment, uint64_t offset, uint64_t limit,
                     Block *block, Error *err);
/* The message is large and all there is in the block: block_detach gives its memory away,
 * and the message with it. The caller's to free(). */
bool block_is_alone(const Block *block, Slice message);
uint8_t *block_detach(Block *block);
void block_free(Block *block);
/* True: between from and size stands a valid block. */
MUST_CHECK bool block_find_after(int fd, const char *name, uint64_t segment, uint64_t from,
                                 uint64_t size, bool *found, uint64_t *at, Error *err);

MUST_CHECK bool segment_open(int dir_fd, uint64_t number, int flags, int *fd, SegmentHeader *header,
                             Error *err);

/* What a walk over a segment's blocks ended with. */
typedef struct {
	uint64_t whole_end; /* behind the last whole transaction */
	bool torn;          /* there are bytes behind it, but no valid block */
	Lsn last_commit;
	Lsn last_end;
	int64_t last_time_us;
} SegmentScan;

/* offset: of the frame's block. False ends the scan (without an error). */
typedef bool (*SegmentVisit)(void *arg, uint64_t offset, const Frame *frame);
/* All blocks of a segment, checked, also against each other (T1, T3). In the
 * last segment a torn tail is no error (T6). */
MUST_CHECK bool segment_scan(int fd, const SegmentHeader *header, uint64_t size, bool last,
                             SegmentVisit visit, void *arg, SegmentScan *out, Error *err);

/* ---- txlog/side_reader.c: a committed side file, by its reference ---- */

/* Zero is closed. */
typedef struct {
	bool open;
	int fd;
	StreamedRef ref;
	char name[TXLOG_NAME_SIZE];
	bool begun;
	uint64_t offset;   /* of the next block */
	uint64_t block_at; /* of the one in memory */
	size_t inside;
	Block block;
	uint8_t made[STREAMED_MESSAGE_MAX]; /* the Begin or Commit last returned */
} SideReader;

/* T8: it is there and as long as the reference says; else ERROR_STORAGE. */
MUST_CHECK bool side_check(int dir_fd, const StreamedRef *ref, Error *err);
MUST_CHECK bool side_reader_open(SideReader *reader, int dir_fd, const StreamedRef *ref,
                                 Error *err);
/* Begin, its messages, Commit: valid until the next call. It is closed once it has
 * given the Commit. An error stays. */
MUST_CHECK bool side_reader_next(SideReader *reader, Slice *message, Error *err);
/* Closes it before its end. */
void side_reader_skip(SideReader *reader);
/* Also of a closed one: its memory. */
void side_reader_free(SideReader *reader);

/* ---- txlog/early.c: a side file that is read while it is written ---- */

/*
 * no offer --grown--> offered --take--> taken --cut, removed--> gone
 *     ^                  |                |                       |
 *     +---- over --------+                +--sealed--> whole      |
 *     +---------------- close ------------------------------------+
 */
typedef struct {
	uint64_t serial; /* of its StreamedTx; 0: none */
	uint32_t xid;
	uint64_t seed;
	uint64_t size; /* whole blocks, to be read */
	uint64_t read; /* the reader may have read up to here, into this block */
	Lsn after;     /* last commit appended before the last of them */
	bool taken;
	bool gone;  /* what was read is not to be used */
	bool whole; /* its commit has come: nothing more follows */
} EarlyOffer;

/* The writer's side: after a block was written, of so many bytes, */
void early_grown(TxLog *log, StreamedTx *tx, uint64_t written);
/* before the file is cut, */
void early_cut(TxLog *log, const StreamedTx *tx, uint64_t size);
/* and before it gets its lasting name (whole) or is removed. */
void early_over(TxLog *log, const StreamedTx *tx, bool whole);

/* ---- the log itself ---- */

/* A committed side file. */
typedef struct {
	Lsn commit;
	uint64_t bytes;
} Side;

typedef struct {
	uint64_t number;
	uint64_t size;
	Lsn previous_commit; /* before its first transaction */
	Lsn last_commit;     /* of its last transaction (as published) */
} Segment;

/* Positions that belong together. */
typedef struct {
	Lsn commit;
	Lsn end;
	int64_t time_us;
	uint64_t transactions;
} Progress;

/* Of the writer's thread alone. block[0, whole) holds whole transactions,
 * block[whole, len) the open one as far as it is not yet in the file. */
typedef struct {
	Buffer block;
	Buffer packed;
	size_t whole;
	Lsn block_first; /* commit LSN of the first transaction in block[0, whole) */
	bool open;       /* between Begin and Commit */
	bool open_in_file;
	uint64_t open_at; /* where its first part stands */
	Lsn open_lsn;
	Progress appended; /* as of block[0, whole) */
	Known *known;
	Arena *parse;
	uint64_t number;     /* of the segment in which the next block will stand, */
	uint64_t size;       /* and its place there */
	uint64_t referenced; /* bytes of the side files that this segment refers to */
	Streams streams;
} Writer;

/* A block as it will stand in the file, or (segment) the order to go on in a new one. */
typedef struct {
	bool segment;
	SegmentHeader header; /* the new segment's */
	uint8_t head[BLOCK_HEADER_SIZE];
	Buffer bytes;
	uint64_t offset;
	bool whole; /* no transaction is unfinished behind it */
	Progress progress;
} OutputItem;

/* A ring. The writer fills the item behind the last one, the output's thread writes the
 * first ones; count and bytes are theirs in common, under the log's lock. */
enum { OUTPUT_ITEMS = 64, OUTPUT_SPARES = 16 };
/* Before so many bytes wait nobody waits for room: a block may still hold a large message. */
#define OUTPUT_BYTES ((size_t)4 * 1024 * 1024)
typedef struct {
	OutputItem items[OUTPUT_ITEMS];
	size_t first;
	size_t count;
	size_t bytes;
	Buffer spare[OUTPUT_SPARES]; /* memory that was used before */
	size_t spares;
	bool closing;
	bool was_behind;     /* the writer was told so: it is told when there is room again */
	pthread_cond_t work; /* something to write */
	pthread_cond_t room; /* something was written, or never will be */
	pthread_t thread;
	bool running;

	int fd; /* the segment being written, */
	uint64_t number;
} Output;

struct TxLog {
	char *directory;
	char *identity;
	uint64_t segment_bytes;
	uint64_t max_bytes;
	uint64_t inline_max; /* TXLOG_INLINE_MAX; tests change it */
	uint64_t early_min;  /* TXLOG_EARLY_MIN; likewise */
	bool compress;
	TxLogFaults faults;
	int dir_fd;
	int lock_fd;
	int confirmed_fd;
	int timeline_fd;

	Writer writer;
	Output output;

	pthread_mutex_t lock;   /* all that follows */
	pthread_cond_t flusher; /* something to do for the flusher */
	pthread_cond_t synced;  /* the flusher has done something */
	Segment *segments;      /* the last one is being written */
	size_t segment_count;
	size_t segment_capacity;
	Side *sides; /* ascending by commit */
	size_t side_count;
	size_t side_capacity;
	uint64_t visible; /* end of the last whole transaction in it (T2) */
	Progress published;
	uint64_t bytes_on_disk;
	uint64_t publications;         /* counts publishes, */
	uint64_t written_publications; /* the last one that is in the file, */
	uint64_t synced_publications;  /* and the last one that is synced (T7) */
	Lsn written_end;
	Lsn synced_end;
	Lsn noted;
	uint32_t timeline;
	Lsn released;
	bool release_news;
	int64_t next_sync_ms; /* not before, unless somebody waits for it */
	int sync_waiters;
	bool flusher_idle; /* has nothing to sync: a publication is to wake it */
	bool flushing;     /* the flusher uses output.fd outside the lock */
	int calling_back;  /* threads in on_progress */
	bool closing;
	atomic_bool failed;
	Error failure;
	TxLogReader *readers;
	EarlyOffer offer;
	pthread_cond_t offer_moved;
	atomic_bool offered; /* there is an offer, not yet taken; read without the lock */
	void (*on_progress)(void *arg);
	void *on_progress_arg;

	pthread_t flusher_thread;
};

/* ---- txlog.c ---- */

/* The log fails for good; the first error stays, and is also given in err.
 * Takes the lock. Returns false. */
bool txlog_fail(TxLog *log, Error *err);
/* False with the error that stays, once there is one. */
MUST_CHECK bool txlog_usable(TxLog *log, Error *err);
void *txlog_flusher_main(void *arg);
/* Lock held, but not during the call. */
void txlog_call_back(TxLog *log);

/* ---- txlog/segment.c: makes segments, reads them back at open ---- */

/* Of a new segment behind all that was appended. */
void txlog_segment_header(const TxLog *log, uint64_t number, SegmentHeader *out);
/* Makes the file, and output.fd becomes it. All of the one before is written and synced. */
MUST_CHECK bool txlog_segment_begin(TxLog *log, const SegmentHeader *header, Error *err);
MUST_CHECK bool txlog_recover(TxLog *log, Error *err);

/* Lock held: one more committed side file. */
void txlog_push_side(TxLog *log, Side side);

/* ---- txlog/write.c ---- */

/* Where a block goes. */
typedef struct {
	int fd;
	const char *name;
	uint64_t seed; /* of the checksum */
} BlockPlace;

/* The raw bytes as one block at header->offset, packed where the log packs. Sets the
 * header's lengths and LZ4 flag. */
MUST_CHECK bool txlog_put_block(TxLog *log, BlockPlace place, BlockHeader *header,
                                const Slice *pieces, int count, Error *err);
/* The pieces of that block: *head, then what of them is stored. Returns how many. */
#define BLOCK_PIECES_MAX 4
int txlog_make_block(TxLog *log, uint64_t seed, BlockHeader *header, const Slice *pieces, int count,
                     uint8_t head[BLOCK_HEADER_SIZE], Slice all[BLOCK_PIECES_MAX]);
/* Frames as they are: of the open transaction, or between two. */
MUST_CHECK bool txlog_append_frames(TxLog *log, Slice frames, Error *err);
/* A whole transaction by reference. Its side file is durable (T8). */
MUST_CHECK bool txlog_append_reference(TxLog *log, const StreamedRef *ref, Error *err);
/* More or less bytes on disk than before, in side files. */
void txlog_count_bytes(TxLog *log, int64_t more);
void txlog_writer_free(TxLog *log);

/* ---- txlog/output.c: blocks into the segment, by a thread where there are many ---- */

/* Until then all is written by the caller. */
MUST_CHECK bool txlog_output_start(TxLog *log, Error *err);
/* Writes what was handed over, unless the log has failed. */
void txlog_output_stop(TxLog *log);
void txlog_output_free(TxLog *log);
/* Everything handed over is in the file, and nobody but the caller touches it. */
bool txlog_output_idle(TxLog *log);
/* Waits for that. False: the log has failed. */
MUST_CHECK bool txlog_output_settle(TxLog *log, Error *err);
/* The item to be filled next, with memory that was used before. Waits for it; NULL: the log
 * has failed. */
OutputItem *txlog_output_item(TxLog *log, Error *err);
void txlog_output_put(TxLog *log);
/* The output is idle: a block was written by the caller. */
void txlog_output_wrote(TxLog *log, uint64_t offset, uint64_t len, bool whole);

/* ---- txlog/reader.c ---- */

/* Lock held. woken: not for news, but since somebody asked (txlog_wake). */
void txlog_wake_readers(TxLog *log, bool woken);
/* Lock held: some reader has that segment still before it. */
bool txlog_readers_need(const TxLog *log, uint64_t number);

#endif
