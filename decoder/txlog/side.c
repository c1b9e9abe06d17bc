#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/fault.h"
#include "common/memory.h"
#include "decoder/txlog/internal.h"

/*
 * The side file being written: Streams.current, its file and its one block. What is
 * in the buffer will stand at current->size, so a place is the same before and after
 * the buffer was written.
 */

uint64_t
side_seed(const Streams *streams, const StreamedTx *tx)
{
	return streams->seed + tx->serial;
}

SidePos
side_end(const Streams *streams)
{
	return (SidePos){streams->current->size, (uint32_t)streams->buffer.len};
}

static bool
open_file(TxLog *log, Error *err)
{
	Streams *s = &log->writer.streams;
	StreamedTx *tx = s->current;
	char name[TXLOG_NAME_SIZE];

	if (s->fd >= 0)
		return true;
	txlog_stream_name(tx->serial, name);
	if (!tx->made) {
		tx->made = txlog_file_make(log, name, &s->fd, err);
		return tx->made || txlog_fail(log, err);
	}
	s->fd = openat(log->dir_fd, name, O_RDWR | O_CLOEXEC);
	if (s->fd >= 0)
		return true;
	error_set_errno(err, ERROR_STORAGE, errno, "transaction log file %s: open", name);
	return txlog_fail(log, err);
}

/* Where the file system knows no such thing the fdatasync does it all. An error of
 * the disk is told only once, and must not be lost here. */
static bool
ask_range(TxLog *log, uint64_t from, uint64_t to, unsigned flags, Error *err)
{
	Streams *s = &log->writer.streams;
	char name[TXLOG_NAME_SIZE];

	if (from == to || sync_file_range(s->fd, (off_t)from, (off_t)(to - from), flags) == 0 ||
	    (errno != EIO && errno != ENOSPC && errno != EDQUOT))
		return true;
	txlog_stream_name(s->current->serial, name);
	error_set_errno(err, ERROR_STORAGE, errno, "transaction log file %s: write-out", name);
	return txlog_fail(log, err);
}

/* The disk writes while the transaction is still coming, and at most two windows
 * behind: the commit waits for no more than that. A disk that is slower than the
 * source holds it back here, a window at a time. */
static bool
write_out(TxLog *log, uint64_t window, Error *err)
{
	StreamedTx *tx = log->writer.streams.current;

	if (tx->size - tx->started < window)
		return true;
	if (!ask_range(log, tx->finished, tx->started,
	               SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER,
	               err) ||
	    !ask_range(log, tx->started, tx->size, SYNC_FILE_RANGE_WRITE, err))
		return false;
	tx->finished = tx->started;
	tx->started = tx->size;
	return true;
}

enum { WINDOW = 8 * 1024 * 1024 };

static bool
write_block(TxLog *log, const Slice *pieces, int count, Error *err)
{
	Streams *s = &log->writer.streams;
	StreamedTx *tx = s->current;
	char name[TXLOG_NAME_SIZE];
	BlockHeader header = {.flags = BLOCK_PART, .offset = tx->size};

	if (!open_file(log, err))
		return false;
	txlog_stream_name(tx->serial, name);
	if (!txlog_put_block(log, (BlockPlace){s->fd, name, side_seed(s, tx)}, &header, pieces, count,
	                     err))
		return txlog_fail(log, err);
	uint64_t written = BLOCK_HEADER_SIZE + header.stored_len;
	tx->size += written;
	txlog_count_bytes(log, (int64_t)written);
	early_grown(log, tx, written);
	return write_out(log, WINDOW, err);
}

static bool
flush(TxLog *log, Error *err)
{
	Streams *s = &log->writer.streams;
	Slice bytes = buffer_slice(&s->buffer);

	if (bytes.len == 0)
		return true;
	if (!write_block(log, &bytes, 1, err))
		return false;
	if (s->buffer.cap > 4 * TXLOG_COMPRESS_MAX)
		buffer_free(&s->buffer);
	buffer_reset(&s->buffer);
	return true;
}

static void
close_file(Streams *s)
{
	if (s->fd >= 0)
		close(s->fd);
	s->fd = -1;
}

bool
side_select(TxLog *log, StreamedTx *tx, Error *err)
{
	Streams *s = &log->writer.streams;

	if (s->current == tx)
		return true;
	if (s->current != NULL && !flush(log, err))
		return false;
	if (s->fd >= 0 && !write_out(log, 1, err))
		return false;
	close_file(s);
	s->current = tx;
	return true;
}

bool
side_put(TxLog *log, uint8_t kind, Slice rest, Error *err)
{
	Streams *s = &log->writer.streams;
	uint8_t head[FRAME_HEADER_SIZE + 1];
	size_t len = 1 + rest.len;

	frame_header_put(len, FRAME_MESSAGE, head);
	head[FRAME_HEADER_SIZE] = kind;
	/* A block of its own, written from where it is. */
	if (len > TXLOG_BLOCK_TARGET && (!log->compress || len > TXLOG_COMPRESS_MAX)) {
		Slice pieces[2] = {slice_of(head, sizeof(head)), rest};
		return flush(log, err) && write_block(log, pieces, 2, err);
	}
	buffer_put(&s->buffer, head, sizeof(head));
	buffer_put_slice(&s->buffer, rest);
	return s->buffer.len < TXLOG_BLOCK_TARGET || flush(log, err);
}

/* What stands before `from` in its block becomes the buffer again. */
static bool
read_back(TxLog *log, SidePos from, Error *err)
{
	Streams *s = &log->writer.streams;
	StreamedTx *tx = s->current;
	char name[TXLOG_NAME_SIZE];
	Block block = {0};

	if (from.inside == 0)
		return true;
	txlog_stream_name(tx->serial, name);
	bool ok = block_read(s->fd, name, side_seed(s, tx), from.block, tx->size, &block, err) ==
	              BLOCK_READ_OK ||
	          txlog_fail(log, err);
	if (ok) {
		CHECK(from.inside <= block.raw.len);
		buffer_put(&s->buffer, block.raw.data, from.inside);
	}
	block_free(&block);
	return ok;
}

bool
side_cut(TxLog *log, SidePos from, Error *err)
{
	Streams *s = &log->writer.streams;
	StreamedTx *tx = s->current;
	char name[TXLOG_NAME_SIZE];

	CHECK(from.block < tx->size || (from.block == tx->size && from.inside <= s->buffer.len));
	if (from.block == tx->size) {
		s->buffer.len = from.inside;
		return true;
	}
	buffer_reset(&s->buffer);
	early_cut(log, tx, from.block);
	txlog_stream_name(tx->serial, name);
	if (!open_file(log, err) || !read_back(log, from, err))
		return false;
	if (!txlog_file_truncate(&log->faults, s->fd, name, from.block, err))
		return txlog_fail(log, err);
	txlog_count_bytes(log, (int64_t)from.block - (int64_t)tx->size);
	tx->size = from.block;
	tx->started = tx->started < tx->size ? tx->started : tx->size;
	tx->finished = tx->finished < tx->size ? tx->finished : tx->size;
	return true;
}

bool
side_each_block(TxLog *log, bool (*take)(TxLog *log, Slice raw, Error *err), Error *err)
{
	Streams *s = &log->writer.streams;
	StreamedTx *tx = s->current;
	char name[TXLOG_NAME_SIZE];
	Block block = {0};
	bool ok = tx->size == 0 || open_file(log, err);

	txlog_stream_name(tx->serial, name);
	for (uint64_t at = 0; ok && at < tx->size; at += BLOCK_HEADER_SIZE + block.header.stored_len)
		ok = (block_read(s->fd, name, side_seed(s, tx), at, tx->size, &block, err) ==
		          BLOCK_READ_OK ||
		      txlog_fail(log, err)) &&
		     take(log, block.raw, err);
	block_free(&block);
	return ok && (s->buffer.len == 0 || take(log, buffer_slice(&s->buffer), err));
}

bool
side_seal(TxLog *log, Lsn commit, Error *err)
{
	Streams *s = &log->writer.streams;
	char name[TXLOG_NAME_SIZE];
	char lasting[TXLOG_NAME_SIZE];

	if (!flush(log, err) || !open_file(log, err))
		return false;
	txlog_stream_name(s->current->serial, name);
	txlog_xact_name(commit, lasting);
	if (!txlog_file_sync(&log->faults, s->fd, name, err))
		return txlog_fail(log, err);
	FAULT_POINT("stream_synced");
	early_over(log, s->current, true);
	if (!txlog_file_rename(log, name, lasting, err))
		return txlog_fail(log, err);
	FAULT_POINT("stream_renamed");
	close_file(s);
	s->current = NULL;
	return true;
}

bool
side_remove(TxLog *log, StreamedTx *tx, Error *err)
{
	Streams *s = &log->writer.streams;
	char name[TXLOG_NAME_SIZE];

	if (s->current == tx) {
		close_file(s);
		buffer_reset(&s->buffer);
		s->current = NULL;
	}
	early_over(log, tx, false);
	if (!tx->made)
		return true;
	txlog_stream_name(tx->serial, name);
	if (unlinkat(log->dir_fd, name, 0) != 0) {
		error_set_errno(err, ERROR_STORAGE, errno, "remove transaction log file %s", name);
		return txlog_fail(log, err);
	}
	tx->made = false;
	txlog_count_bytes(log, -(int64_t)tx->size);
	return true;
}
