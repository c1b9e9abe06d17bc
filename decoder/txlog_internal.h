/*
 * txlog_internal.h: what the files of the transaction log share. Nobody else
 * includes it but its tests.
 *
 * On disk. All integers in network order.
 *  DIR/lock                  flock'ed; the owner's pid as text
 *  DIR/confirmed             txlog_note_confirmed: position and its hash
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
 */
#ifndef PGBATON_DECODER_TXLOG_INTERNAL_H
#define PGBATON_DECODER_TXLOG_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "common/arena.h"
#include "common/bytes.h"
#include "common/map.h"
#include "decoder/relation.h"
#include "decoder/txlog.h"

#define TXLOG_BLOCK_TARGET ((size_t)256 * 1024)
/* A message above the target is a block of its own, and stored as it is above
 * this: compressing it would need a second gigabyte. */
#define TXLOG_COMPRESS_MAX ((size_t)16 * 1024 * 1024)
/* PostgreSQL's messages stay below 1 GiB; a field is at most 1 GiB. */
#define TXLOG_MESSAGE_MAX ((size_t)1536 * 1024 * 1024)
#define TXLOG_SEGMENT_BYTES ((uint64_t)64 * 1024 * 1024)

/* ---- faults: tests make the N-th file operation fail ---- */

/* op: "write", "sync", "truncate", "create". Returns an errno, or 0 for none.
 * A failing write first writes half of its bytes. */
typedef struct {
	int (*fail)(void *arg, const char *op);
	void *arg;
} TxLogFaults;

TxLog *txlog_open_with_faults(const TxLogOptions *options, TxLogFaults faults, Error *err);

/* ---- txlog_file.c: file operations with names in their errors ---- */

#define TXLOG_NAME_SIZE 24
void txlog_segment_name(uint64_t number, char out[TXLOG_NAME_SIZE]);

MUST_CHECK bool txlog_file_write(const TxLogFaults *faults, int fd, const char *name,
                                 uint64_t offset, const Slice *pieces, int count, Error *err);
MUST_CHECK bool txlog_file_sync(const TxLogFaults *faults, int fd, const char *name, Error *err);
MUST_CHECK bool txlog_file_truncate(const TxLogFaults *faults, int fd, const char *name,
                                    uint64_t size, Error *err);
/* Less than len only at the end of the file. -1 with err. */
ssize_t txlog_file_read(int fd, const char *name, uint64_t offset, void *to, size_t len,
                        Error *err);
MUST_CHECK bool txlog_file_size(int fd, const char *name, uint64_t *out, Error *err);
/* Makes and locks; *dir_fd and *lock_fd are the caller's to close. */
MUST_CHECK bool txlog_dir_open(const char *directory, int *dir_fd, int *lock_fd, Error *err);
/* The numbers of all segments, ascending and without holes (else ERROR_STORAGE).
 * *numbers: free(). */
MUST_CHECK bool txlog_dir_list(int dir_fd, const char *directory, uint64_t **numbers, size_t *count,
                               Error *err);
void txlog_dir_drop_temporary(int dir_fd);
/* The file of txlog_note_confirmed; *lsn is 0 when it was never written. */
MUST_CHECK bool txlog_confirmed_open(int dir_fd, int *fd, Lsn *lsn, Error *err);
MUST_CHECK bool txlog_confirmed_write(const TxLogFaults *faults, int fd, Lsn lsn, Error *err);

/* ---- txlog_format.c: bytes <-> headers, no files ---- */

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
	/* A streamed transaction by reference: xid, side file, byte length, commit
	 * LSN, end LSN, time. Reserved; readers of this version refuse it. */
	FRAME_STREAMED = 1
} FrameKind;

#define FRAME_HEADER_SIZE 5
void frame_header_put(size_t len, FrameKind kind, uint8_t out[FRAME_HEADER_SIZE]);
/* The message at *inside, which moves behind it. False: NULL *problem at the
 * block's end, else what is wrong. */
bool frame_next(Slice raw, size_t *inside, Slice *message, const char **problem);

/* ---- txlog_block.c: reading blocks from a file ---- */

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

/* offset: of the message's block. False ends the scan (without an error). */
typedef bool (*SegmentVisit)(void *arg, uint64_t offset, Slice message);
/* All blocks of a segment, checked, also against each other (T1, T3). In the
 * last segment a torn tail is no error (T6). */
MUST_CHECK bool segment_scan(int fd, const SegmentHeader *header, uint64_t size, bool last,
                             SegmentVisit visit, void *arg, SegmentScan *out, Error *err);

/* ---- the log itself ---- */

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
	RelationMap *relations;
	Map *types; /* oid -> TypeMessage */
	Arena *parse;
	int fd;
	uint64_t number;
	uint64_t size;
} Writer;

struct TxLog {
	char *directory;
	char *identity;
	uint64_t segment_bytes;
	uint64_t max_bytes;
	bool compress;
	TxLogFaults faults;
	int dir_fd;
	int lock_fd;
	int confirmed_fd;

	Writer writer;

	pthread_mutex_t lock;   /* all that follows */
	pthread_cond_t flusher; /* something to do for the flusher */
	pthread_cond_t synced;  /* the flusher has done something */
	Segment *segments;      /* the last one is being written */
	size_t segment_count;
	size_t segment_capacity;
	uint64_t visible; /* end of the last whole transaction in it (T2) */
	Progress published;
	uint64_t bytes_on_disk;
	uint64_t publications;        /* counts publishes, */
	uint64_t synced_publications; /* and the last one that is synced (T7) */
	Lsn synced_end;
	Lsn noted;
	Lsn released;
	bool release_news;
	bool flushing;     /* the flusher uses writer.fd outside the lock */
	bool calling_back; /* the flusher is in on_progress */
	bool closing;
	atomic_bool failed;
	Error failure;
	TxLogReader *readers;
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

/* ---- txlog_segment.c: makes segments, reads them back at open ---- */

/* The writer goes on in a new segment that starts with the Relation and Type
 * messages in force (T4). Everything before must be in the file and synced. */
MUST_CHECK bool txlog_segment_create(TxLog *log, uint64_t number, Error *err);
MUST_CHECK bool txlog_recover(TxLog *log, Error *err);

/* ---- txlog_write.c ---- */

MUST_CHECK bool txlog_remember(Writer *writer, Slice message, Error *err);
/* The raw bytes as one block at the end of the writer's segment; publishes
 * unless it leaves a transaction unfinished (T2). Fails the log. */
MUST_CHECK bool txlog_write_block(TxLog *log, unsigned flags, const Slice *pieces, int count,
                                  Error *err);
/* Frames of all Relation and Type messages in force. */
void txlog_put_preamble(Writer *writer, Buffer *out);
void txlog_writer_free(Writer *writer);

/* ---- txlog_reader.c ---- */

/* Lock held. woken: not for news, but since somebody asked (txlog_wake). */
void txlog_wake_readers(TxLog *log, bool woken);

#endif
