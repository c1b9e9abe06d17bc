#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/memory.h"
#include "decoder/txlog/internal.h"

/*
 * A side file read while it is written. Writer and reader meet in log->offer, once a block:
 * the reader says how far it reads before it does, so the writer knows whether what it cuts
 * off may have been read. Bytes below `size` change in no other way.
 */
struct TxLogEarly {
	TxLog *log;
	uint64_t serial;
	uint64_t seed;
	uint32_t xid;
	int fd;
	char name[TXLOG_NAME_SIZE];
	uint64_t limit;  /* may be read */
	uint64_t offset; /* of the next block */
	size_t inside;
	Block block;
	Lsn after;
};

/* ---- the writer ---- */

void
early_grown(TxLog *log, StreamedTx *tx, uint64_t written)
{
	EarlyOffer *offer = &log->offer;
	bool giant = written > TXLOG_EARLY_BLOCK_MAX;
	bool is_new = false;

	pthread_mutex_lock(&log->lock);
	if (offer->serial == tx->serial) {
		offer->size = tx->size;
		offer->after = log->writer.appended.commit;
		offer->gone = offer->gone || giant;
		pthread_cond_broadcast(&log->offer_moved);
	} else if (!tx->offered && giant) {
		tx->offered = true;
	} else if (!tx->offered && offer->serial == 0 && tx->size >= log->early_min) {
		*offer = (EarlyOffer){
			.serial = tx->serial,
			.xid = tx->xid,
			.seed = side_seed(&log->writer.streams, tx),
			.size = tx->size,
			.after = log->writer.appended.commit,
		};
		tx->offered = is_new = true;
	}
	if (is_new) {
		atomic_store(&log->offered, true);
		txlog_wake_readers(log, true);
	}
	pthread_mutex_unlock(&log->lock);
}

void
early_cut(TxLog *log, const StreamedTx *tx, uint64_t size)
{
	EarlyOffer *offer = &log->offer;

	pthread_mutex_lock(&log->lock);
	if (offer->serial == tx->serial) {
		offer->gone = offer->gone || size < offer->read;
		offer->size = size;
		pthread_cond_broadcast(&log->offer_moved);
	}
	pthread_mutex_unlock(&log->lock);
}

void
early_over(TxLog *log, const StreamedTx *tx, bool whole)
{
	EarlyOffer *offer = &log->offer;

	pthread_mutex_lock(&log->lock);
	if (offer->serial == tx->serial && !offer->taken) {
		*offer = (EarlyOffer){0};
		atomic_store(&log->offered, false);
	} else if (offer->serial == tx->serial) {
		offer->whole = whole;
		offer->gone = offer->gone || !whole;
		pthread_cond_broadcast(&log->offer_moved);
	}
	pthread_mutex_unlock(&log->lock);
}

/* ---- the reader ---- */

bool
txlog_early_offered(TxLog *log)
{
	return atomic_load(&log->offered);
}

/* Opened under the lock: as long as it is on offer the file has its first name. */
TxLogEarly *
txlog_early_take(TxLog *log)
{
	TxLogEarly *early = mem_zalloc(sizeof(TxLogEarly));
	EarlyOffer *offer = &log->offer;

	early->log = log;
	early->fd = -1;
	pthread_mutex_lock(&log->lock);
	if (atomic_load(&log->offered)) {
		early->serial = offer->serial;
		early->seed = offer->seed;
		early->xid = offer->xid;
		txlog_stream_name(offer->serial, early->name);
		early->fd = openat(log->dir_fd, early->name, O_RDONLY | O_CLOEXEC);
		if (early->fd >= 0)
			offer->taken = true;
		else
			*offer = (EarlyOffer){0};
		atomic_store(&log->offered, false);
	}
	pthread_mutex_unlock(&log->lock);
	if (early->fd >= 0)
		return early;
	free(early);
	return NULL;
}

void
txlog_early_close(TxLogEarly *early)
{
	if (early == NULL)
		return;
	pthread_mutex_lock(&early->log->lock);
	early->log->offer = (EarlyOffer){0};
	pthread_mutex_unlock(&early->log->lock);
	close(early->fd);
	block_free(&early->block);
	free(early);
}

void
txlog_early_break(TxLogEarly *early)
{
	pthread_mutex_lock(&early->log->lock);
	early->log->offer.gone = true;
	pthread_cond_broadcast(&early->log->offer_moved);
	pthread_mutex_unlock(&early->log->lock);
}

static bool
is_gone(TxLogEarly *early)
{
	pthread_mutex_lock(&early->log->lock);
	bool gone = early->log->offer.gone;
	pthread_mutex_unlock(&early->log->lock);
	return gone;
}

/* MESSAGE: there is a block to be read. */
static TxLogEarlyNext
wait_for_block(TxLogEarly *early)
{
	TxLog *log = early->log;
	EarlyOffer *offer = &log->offer;

	pthread_mutex_lock(&log->lock);
	while (!offer->gone && !offer->whole && offer->size <= early->offset)
		pthread_cond_wait(&log->offer_moved, &log->lock);
	/* A cut may have moved the end to where we were, and no further: not what was read. */
	TxLogEarlyNext next = offer->gone                    ? TXLOG_EARLY_GONE
	                      : offer->size <= early->offset ? TXLOG_EARLY_END
	                                                     : TXLOG_EARLY_MESSAGE;
	early->limit = offer->size;
	early->after = offer->after;
	offer->read = early->offset + 1; /* cuts are at blocks' edges: this block */
	pthread_mutex_unlock(&log->lock);
	return next;
}

static TxLogEarlyNext
read_block(TxLogEarly *early, Error *err)
{
	Block *block = &early->block;

	early->inside = 0;
	block->raw = SLICE_EMPTY;
	/* What was cut meanwhile may be unreadable, and is no error. */
	BlockRead result = block_read(early->fd, early->name, early->seed, early->offset, early->limit,
	                              block, err);
	if (result != BLOCK_READ_OK) {
		block->raw = SLICE_EMPTY;
		if (!is_gone(early))
			return TXLOG_EARLY_ERROR;
		error_clear(err);
		return TXLOG_EARLY_GONE;
	}
	early->offset += BLOCK_HEADER_SIZE + block->header.stored_len;
	return is_gone(early) ? TXLOG_EARLY_GONE : TXLOG_EARLY_MESSAGE;
}

TxLogEarlyNext
txlog_early_next(TxLogEarly *early, Slice *message, Error *err)
{
	for (;;) {
		Frame frame;
		const char *problem;
		if (frame_next(early->block.raw, &early->inside, &frame, &problem) &&
		    frame.kind == FRAME_MESSAGE) {
			*message = frame.message;
			return TXLOG_EARLY_MESSAGE;
		}
		if (early->inside < early->block.raw.len || problem != NULL) {
			error_set(err, ERROR_STORAGE, "transaction log file %s: %s", early->name,
			          problem != NULL ? problem : "not a message");
			return TXLOG_EARLY_ERROR;
		}
		TxLogEarlyNext next = wait_for_block(early);
		if (next == TXLOG_EARLY_MESSAGE)
			next = read_block(early, err);
		if (next != TXLOG_EARLY_MESSAGE)
			return next;
	}
}

bool
txlog_early_ready(TxLogEarly *early)
{
	if (early->inside < early->block.raw.len)
		return true;
	pthread_mutex_lock(&early->log->lock);
	const EarlyOffer *offer = &early->log->offer;
	bool ready = offer->gone || offer->whole || offer->size > early->offset;
	pthread_mutex_unlock(&early->log->lock);
	return ready;
}

Lsn
txlog_early_after(const TxLogEarly *early)
{
	return early->after;
}

uint32_t
txlog_early_xid(const TxLogEarly *early)
{
	return early->xid;
}

uint64_t
txlog_early_stream(const TxLogEarly *early)
{
	return early->seed;
}

uint64_t
txlog_early_bytes(const TxLogEarly *early)
{
	return early->offset;
}
