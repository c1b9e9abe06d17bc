#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/memory.h"
#include "decoder/txlog/internal.h"

/*
 * A reader holds one segment open and one block in memory, and the same of a side
 * file while it is in a streamed transaction (txlog/side_reader.c). It takes the log's
 * lock only when it has come to the end of what it knows to be readable, so a
 * reader that is behind meets the writer once a block at most.
 *
 * Waiting is poll(2) on an eventfd of its own together with the stop: a
 * condition variable could not wait for both. The writer writes to the eventfd
 * only of readers that said they wait.
 */
struct TxLogReader {
	TxLog *log;
	TxLogReader *next; /* log->readers, under its lock */
	int event;
	bool waiting; /* under the log's lock */
	bool woken;   /* txlog_wake: the next wait ends at once; under the lock */

	int fd;
	uint64_t number; /* of the segment that is open; written under the log's lock */
	char name[TXLOG_NAME_SIZE];
	uint64_t offset; /* of the next block */
	uint64_t limit;  /* what is known to be readable of this segment (T2) */
	Block block;
	uint64_t block_at;
	size_t inside; /* of the next frame */
	Lsn last_good; /* last whole transaction before the block being read */
	SideReader side;
};

void
txlog_wake_readers(TxLog *log, bool woken)
{
	uint64_t one = 1;

	for (TxLogReader *reader = log->readers; reader != NULL; reader = reader->next) {
		if (woken)
			reader->woken = true;
		else if (!reader->waiting)
			continue;
		reader->waiting = false;
		CHECK(write(reader->event, &one, sizeof(one)) == sizeof(one));
	}
}

void
txlog_wake(TxLog *log)
{
	pthread_mutex_lock(&log->lock);
	txlog_wake_readers(log, true);
	pthread_mutex_unlock(&log->lock);
}

bool
txlog_readers_need(const TxLog *log, uint64_t number)
{
	for (const TxLogReader *reader = log->readers; reader != NULL; reader = reader->next)
		if (number > reader->number)
			return true;
	return false;
}

static bool
reader_enter(TxLogReader *reader, uint64_t number, Error *err)
{
	TxLog *log = reader->log;
	SegmentHeader header;
	int fd;

	if (!segment_open(log->dir_fd, number, O_RDONLY, &fd, &header, err))
		return false;
	if (reader->fd >= 0)
		close(reader->fd);
	reader->fd = fd;
	txlog_segment_name(number, reader->name);
	reader->offset = reader->limit = header.size;
	reader->last_good = header.previous_commit;
	pthread_mutex_lock(&log->lock);
	reader->number = number;
	log->release_news = true; /* perhaps this reader was what kept a segment */
	pthread_cond_signal(&log->flusher);
	pthread_mutex_unlock(&log->lock);
	return true;
}

/* Lock held. Nothing from this segment on is removed any more. */
static TxLogReader *
reader_new(TxLog *log, uint64_t number)
{
	TxLogReader *reader = mem_zalloc(sizeof(TxLogReader));

	reader->log = log;
	reader->fd = -1;
	reader->number = number - 1;
	reader->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	CHECK(reader->event >= 0);
	reader->next = log->readers;
	log->readers = reader;
	return reader;
}

void
txlog_reader_close(TxLogReader *reader)
{
	if (reader == NULL)
		return;
	pthread_mutex_lock(&reader->log->lock);
	TxLogReader **link = &reader->log->readers;
	while (*link != reader)
		link = &(*link)->next;
	*link = reader->next;
	pthread_mutex_unlock(&reader->log->lock);
	close(reader->event);
	if (reader->fd >= 0)
		close(reader->fd);
	block_free(&reader->block);
	side_reader_free(&reader->side);
	free(reader);
}

TxLogReader *
txlog_reader_open(TxLog *log, Lsn after, Error *err)
{
	size_t i = 0;

	pthread_mutex_lock(&log->lock);
	Lsn released = log->segments[0].previous_commit;
	while (i + 1 < log->segment_count && lsn_cmp(log->segments[i].last_commit, after) <= 0)
		i++;
	uint64_t number = log->segments[i].number;
	TxLogReader *reader = reader_new(log, number);
	pthread_mutex_unlock(&log->lock);

	bool ok = !lsn_valid(after) || lsn_cmp(released, after) <= 0;
	if (!ok) {
		error_set(err, ERROR_STORAGE,
		          "the transaction log starts behind commit %s, but %s is the last one applied",
		          LSN_STR(released), LSN_STR(after));
		error_set_hint(err, "the target is older than the log, as after a restore: cancel the "
		                    "migration and start it again");
	}
	if (ok && reader_enter(reader, number, err))
		return reader;
	txlog_reader_close(reader);
	return NULL;
}

/* The segment is no longer written to: all of the file is readable, even when
 * it was removed from the directory meanwhile. Then the next one. */
static bool
reader_leave(TxLogReader *reader, Error *err)
{
	if (!txlog_file_size(reader->fd, reader->name, &reader->limit, err))
		return false;
	return reader->offset < reader->limit || reader_enter(reader, reader->number + 1, err);
}

typedef enum { MORE, NO_MORE, TROUBLE } More;

/* What is readable now, as the log knows it. announce: on NO_MORE the reader
 * is set to be woken, in the same hold of the lock. */
static More
reader_find_more(TxLogReader *reader, bool announce, Error *err)
{
	TxLog *log = reader->log;

	while (reader->offset == reader->limit) {
		pthread_mutex_lock(&log->lock);
		bool active = reader->number == log->segments[log->segment_count - 1].number;
		if (active)
			reader->limit = log->visible;
		bool none = active && reader->offset == reader->limit;
		if (none && announce)
			reader->waiting = true;
		pthread_mutex_unlock(&log->lock);
		if (none)
			return NO_MORE;
		if (!active && !reader_leave(reader, err))
			return TROUBLE;
	}
	return MORE;
}

static bool
reader_read_block(TxLogReader *reader, Error *err)
{
	Block *block = &reader->block;

	block->raw = SLICE_EMPTY;
	reader->inside = 0;
	if (block_read(reader->fd, reader->name, reader->number, reader->offset, reader->limit, block,
	               err) != BLOCK_READ_OK) {
		block->raw = SLICE_EMPTY;
		return error_add_context(err, "last good commit %s", LSN_STR(reader->last_good));
	}
	reader->block_at = reader->offset;
	reader->offset += BLOCK_HEADER_SIZE + block->header.stored_len;
	reader->last_good = block->header.last_commit;
	return true;
}

/* False: nothing more until the deadline, the stop or a wake. */
static bool
reader_wait(TxLogReader *reader, const Stop *stop, int64_t deadline_ms)
{
	struct pollfd fds[2] = {
		{.fd = reader->event, .events = POLLIN},
		{.fd = stop_fd(stop), .events = POLLIN},
	};
	uint64_t count;

	int left = deadline_ms == 0 ? -1 : deadline_left_ms(deadline_ms);
	if (left != 0 && poll(fds, 2, left) > 0 && fds[0].revents != 0) {
		ssize_t drained UNUSED = read(reader->event, &count, sizeof(count));
	}

	pthread_mutex_lock(&reader->log->lock);
	reader->waiting = false;
	bool woken = reader->woken;
	reader->woken = false;
	pthread_mutex_unlock(&reader->log->lock);
	return !woken && !stop_requested(stop) &&
	       (deadline_ms == 0 || deadline_left_ms(deadline_ms) > 0);
}

static bool
reader_bad_record(const TxLogReader *reader, const char *problem, Error *err)
{
	return error_set(err, ERROR_STORAGE,
	                 "transaction log file %s, offset %" PRIu64 ": %s (last good commit %s)",
	                 reader->name, reader->block_at, problem, LSN_STR(reader->last_good));
}

/* What is in memory: a message, or *none. */
static bool
reader_take(TxLogReader *reader, Slice *message, bool *none, Error *err)
{
	size_t at = reader->inside;
	const char *problem;
	Frame frame;

	*none = false;
	if (reader->side.open)
		return side_reader_next(&reader->side, message, err);
	*none = !frame_next(reader->block.raw, &reader->inside, &frame, &problem);
	if (*none)
		return problem == NULL || reader_bad_record(reader, problem, err);
	*message = frame.message;
	if (frame.kind == FRAME_MESSAGE)
		return true;
	if (side_reader_open(&reader->side, reader->log->dir_fd, &frame.streamed, err))
		return side_reader_next(&reader->side, message, err);
	reader->inside = at;
	return false;
}

TxLogNext
txlog_reader_next(TxLogReader *reader, const Stop *stop, int64_t deadline_ms, Slice *message,
                  Error *err)
{
	for (bool last_try = false;;) {
		bool none;

		if (!reader_take(reader, message, &none, err))
			return TXLOG_ERROR;
		if (!none)
			return TXLOG_MESSAGE;
		switch (reader_find_more(reader, true, err)) {
		case TROUBLE:
			return TXLOG_ERROR;
		case MORE:
			if (!reader_read_block(reader, err))
				return TXLOG_ERROR;
			break;
		case NO_MORE:
			if (last_try)
				return TXLOG_WAIT;
			/* What came in the very moment of the deadline is still given. */
			last_try = !reader_wait(reader, stop, deadline_ms);
			break;
		}
	}
}

bool
txlog_reader_ready(TxLogReader *reader)
{
	Error err = ERROR_INIT;

	/* Trouble counts: the next call tells it without waiting. */
	return reader->side.open || reader->inside < reader->block.raw.len ||
	       reader_find_more(reader, false, &err) != NO_MORE;
}

TxLogStreamed
txlog_reader_streamed(const TxLogReader *reader)
{
	const SideReader *side = &reader->side;

	if (!side->open || side->offset != 0)
		return (TxLogStreamed){0};
	return (TxLogStreamed){
		.stream = side->ref.seed,
		.bytes = side->ref.bytes,
		.commit = side->ref.commit,
		.end = side->ref.end,
		.time_us = side->ref.time_us,
	};
}

void
txlog_reader_skip_streamed(TxLogReader *reader)
{
	CHECK(reader->side.open);
	side_reader_skip(&reader->side);
}

/* The block that the message last returned stands in. */
static Block *
block_in_hand(TxLogReader *reader)
{
	return reader->side.open ? &reader->side.block : &reader->block;
}

bool
txlog_reader_is_alone(TxLogReader *reader, Slice message)
{
	return block_is_alone(block_in_hand(reader), message);
}

uint8_t *
txlog_reader_detach(TxLogReader *reader)
{
	if (reader->side.open)
		reader->side.inside = 0;
	else
		reader->inside = 0;
	return block_detach(block_in_hand(reader));
}
