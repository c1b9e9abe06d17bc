/*
 * txlog_fixture.h: a transaction log in a directory of its own, and simple
 * transactions to put into it. Failures fail the running test.
 */
#ifndef PGBATON_TESTS_UNIT_DECODER_TXLOG_FIXTURE_H
#define PGBATON_TESTS_UNIT_DECODER_TXLOG_FIXTURE_H

#include <stdatomic.h>

#include "common/bytes.h"
#include "decoder/txlog/internal.h"
#include "decoder/txlog/txlog.h"

/* A fresh directory below /tmp; removed with its files by fixture_remove. */
char *fixture_directory(void);
void fixture_remove(char *directory);
char *fixture_path(const char *directory, uint64_t segment); /* free() */
uint64_t fixture_size(const char *path);
Buffer fixture_load(const char *path);
void fixture_store(const char *path, const uint8_t *data, size_t len);
void fixture_flip(const char *path, uint64_t offset);

TxLog *fixture_open(const char *directory);
TxLog *fixture_open_with(const char *directory, uint64_t segment_bytes, uint64_t max_bytes,
                         bool compress);
/* Expects the open to fail with that class and a text that has `part`. */
void fixture_open_fails(const char *directory, ErrorClass class, const char *part);

void fixture_append(TxLog *log, const Buffer *message);
/* Commit n has commit LSN n * 0x100 and end LSN n * 0x100 + 0x40. */
#define FIXTURE_COMMIT(n) ((uint64_t)(n)*0x100)
#define FIXTURE_END(n) (FIXTURE_COMMIT(n) + 0x40)
void fixture_begin(TxLog *log, uint32_t n);
void fixture_rows(TxLog *log, uint32_t n, uint32_t rows, size_t row_bytes);
void fixture_commit(TxLog *log, uint32_t n);
void fixture_transaction(TxLog *log, uint32_t n, uint32_t rows, size_t row_bytes);
/* And waits until it is in the file. */
void fixture_publish(TxLog *log);
void fixture_settle(TxLog *log);

/* The commit numbers n that a reader gives until there is nothing more, each
 * transaction checked for its rows: count of rows in rows[n]. */
typedef struct {
	uint32_t first;
	uint32_t last;
	uint32_t transactions;
	uint64_t rows;
	uint32_t relations;
} FixtureSeen;
FixtureSeen fixture_read(TxLogReader *reader);
FixtureSeen fixture_read_all(TxLog *log, Lsn after);

/* For txlog_on_progress: counts the calls, and signals each under the lock. */
typedef struct {
	pthread_mutex_t lock;
	pthread_cond_t cond;
	uint64_t calls;
} FixtureProgress;
#define FIXTURE_PROGRESS                                       \
	{                                                          \
		PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0 \
	}
void fixture_on_progress(void *progress);

/* For TxLogFaults: operation number `at`, counted from 0, fails with errnum. */
typedef struct {
	int at;
	int errnum;
	const char *op; /* only these count; NULL: all */
	atomic_int count;
} FixtureFault;
int fixture_fault(void *fault, const char *op);

/* A disk that holds the log's own thread in its next write until it is let go, or else
 * fails that write (errnum). What the writer's thread writes itself passes. */
typedef struct {
	pthread_mutex_t lock;
	pthread_cond_t moved;
	TxLog *log;
	bool hold;
	bool held; /* it has come to a write */
	int errnum;
} FixtureDisk;
#define FIXTURE_DISK                                                               \
	{                                                                              \
		PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, NULL, false, false, 0 \
	}
TxLog *fixture_open_on(FixtureDisk *disk, const char *directory);
void fixture_disk_hold(FixtureDisk *disk);
void fixture_disk_wait_held(FixtureDisk *disk);
void fixture_disk_let_go(FixtureDisk *disk, int errnum);

#endif
