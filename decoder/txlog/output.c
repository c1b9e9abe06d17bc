#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/memory.h"
#include "decoder/txlog/internal.h"

/*
 * The way of a block into the segment. Little, with nothing before it, is written by the
 * writer's own thread (txlog/write.c). Where there is much, blocks are handed to the thread
 * here, so that the writer fills the next ones while the kernel copies, makes room or lets a
 * disk catch up, and the receiver goes on answering the source.
 *
 * Who touches output.fd and writes: this thread while there are items, the writer while there
 * are none (it alone adds them). So the order in the file is the order of the writer.
 *
 * An item counts as published once it was handed over: a confirmation waits for it (P6),
 * readers do not see it yet. An error is found one or a few calls later than it would be
 * without the thread: nothing that was not written counts as such, and the log is at its end.
 */

/* Blocks that follow each other go into the file together. */
enum { TOGETHER = 8 };
/* Memory that a large message needed is not kept. */
#define KEEP_BYTES ((size_t)2 * 1024 * 1024)

static OutputItem *
item_at(Output *out, size_t i)
{
	return &out->items[(out->first + i) % OUTPUT_ITEMS];
}

/* ---- the writer's side ---- */

bool
txlog_output_idle(TxLog *log)
{
	pthread_mutex_lock(&log->lock);
	bool idle = log->output.count == 0;
	pthread_mutex_unlock(&log->lock);
	return idle;
}

bool
txlog_output_settle(TxLog *log, Error *err)
{
	pthread_mutex_lock(&log->lock);
	while (log->output.count > 0 && !atomic_load(&log->failed))
		pthread_cond_wait(&log->output.room, &log->lock);
	pthread_mutex_unlock(&log->lock);
	return txlog_usable(log, err);
}

OutputItem *
txlog_output_item(TxLog *log, Error *err)
{
	Output *out = &log->output;

	pthread_mutex_lock(&log->lock);
	while ((out->count == OUTPUT_ITEMS || out->bytes > OUTPUT_BYTES) && !atomic_load(&log->failed))
		pthread_cond_wait(&out->room, &log->lock);
	OutputItem *item = item_at(out, out->count);
	if (item->bytes.data == NULL && out->spares > 0)
		item->bytes = out->spare[--out->spares];
	pthread_mutex_unlock(&log->lock);
	return txlog_usable(log, err) ? item : NULL;
}

static void
published(TxLog *log, const Progress *progress)
{
	log->published = *progress;
	log->publications++;
}

void
txlog_output_put(TxLog *log)
{
	Output *out = &log->output;

	pthread_mutex_lock(&log->lock);
	const OutputItem *item = item_at(out, out->count);
	if (!item->segment && item->whole)
		published(log, &item->progress);
	out->bytes += item->bytes.len;
	if (out->count++ == 0)
		pthread_cond_signal(&out->work);
	pthread_mutex_unlock(&log->lock);
}

/* T2: all that the readers see moves at once. */
static void
wrote(TxLog *log, uint64_t offset, uint64_t len, const Progress *whole)
{
	Segment *segment = &log->segments[log->segment_count - 1];

	segment->size = offset + len;
	log->bytes_on_disk += len;
	if (whole == NULL)
		return;
	segment->last_commit = whole->commit;
	log->visible = segment->size;
	log->written_end = whole->end;
	log->written_publications++;
}

static void
tell(TxLog *log)
{
	txlog_wake_readers(log, false);
	if (log->flusher_idle)
		pthread_cond_signal(&log->flusher);
}

void
txlog_output_wrote(TxLog *log, uint64_t offset, uint64_t len, bool whole)
{
	const Progress *progress = &log->writer.appended;

	pthread_mutex_lock(&log->lock);
	if (whole)
		published(log, progress);
	wrote(log, offset, len, whole ? progress : NULL);
	if (whole)
		tell(log);
	pthread_mutex_unlock(&log->lock);
}

bool
txlog_behind(TxLog *log)
{
	Output *out = &log->output;

	pthread_mutex_lock(&log->lock);
	out->was_behind = out->count > OUTPUT_ITEMS / 2 || out->bytes > OUTPUT_BYTES / 2;
	bool behind = out->was_behind;
	pthread_mutex_unlock(&log->lock);
	return behind;
}

/* ---- the thread; the lock is held between the functions ---- */

/* The first n items, which are blocks. */
static bool
write_items(TxLog *log, size_t n, Error *err)
{
	Output *out = &log->output;
	Slice pieces[2 * TOGETHER];
	char name[TXLOG_NAME_SIZE];
	uint64_t offset = item_at(out, 0)->offset;

	for (size_t i = 0; i < n; i++) {
		OutputItem *item = item_at(out, i);
		pieces[2 * i] = slice_of(item->head, sizeof(item->head));
		pieces[2 * i + 1] = buffer_slice(&item->bytes);
	}
	txlog_segment_name(out->number, name);
	return txlog_file_write(&log->faults, out->fd, name, offset, pieces, (int)(2 * n), err);
}

/* The old one is synced first: only the last segment may have a torn tail (T6). */
static bool
next_segment(TxLog *log, Error *err)
{
	Output *out = &log->output;
	char name[TXLOG_NAME_SIZE];

	txlog_segment_name(out->number, name);
	return txlog_file_sync(&log->faults, out->fd, name, err) &&
	       txlog_segment_begin(log, &item_at(out, 0)->header, err);
}

static size_t
blocks_in_front(Output *out)
{
	size_t n = 0;

	while (n < out->count && n < TOGETHER && !item_at(out, n)->segment)
		n++;
	return n;
}

static void
drop_items(TxLog *log, size_t n)
{
	Output *out = &log->output;

	for (size_t i = 0; i < n; i++) {
		Buffer *bytes = &item_at(out, i)->bytes;
		out->bytes -= bytes->len;
		buffer_reset(bytes);
		if (bytes->cap <= KEEP_BYTES && out->spares < OUTPUT_SPARES) {
			out->spare[out->spares++] = *bytes;
			*bytes = BUFFER_INIT;
		} else {
			buffer_free(bytes);
		}
	}
	out->first = (out->first + n) % OUTPUT_ITEMS;
	out->count -= n;
	/* Who waits goes on when half of it is free: not woken for each block. */
	if (out->count <= OUTPUT_ITEMS / 2 && out->bytes <= OUTPUT_BYTES / 2)
		pthread_cond_signal(&out->room);
}

static void
count_items(TxLog *log, size_t n)
{
	bool news = false;

	for (size_t i = 0; i < n; i++) {
		const OutputItem *item = item_at(&log->output, i);
		wrote(log, item->offset, BLOCK_HEADER_SIZE + item->bytes.len,
		      item->whole ? &item->progress : NULL);
		news = news || item->whole;
	}
	if (news)
		tell(log);
}

static void
work(TxLog *log)
{
	Output *out = &log->output;
	size_t blocks = blocks_in_front(out);
	Error err = ERROR_INIT;

	pthread_mutex_unlock(&log->lock);
	bool ok = (blocks > 0 ? write_items(log, blocks, &err) : next_segment(log, &err)) ||
	          txlog_fail(log, &err);
	pthread_mutex_lock(&log->lock);
	if (!ok) {
		txlog_call_back(log);
		return;
	}
	count_items(log, blocks);
	drop_items(log, blocks > 0 ? blocks : 1);
	if (out->was_behind && out->count <= OUTPUT_ITEMS / 4 && out->bytes <= OUTPUT_BYTES / 4) {
		out->was_behind = false;
		txlog_call_back(log);
	}
}

static void *
output_main(void *arg)
{
	TxLog *log = arg;
	Output *out = &log->output;

	pthread_mutex_lock(&log->lock);
	for (;;) {
		if (out->count > 0 && !atomic_load(&log->failed))
			work(log);
		else if (out->closing)
			break;
		else
			pthread_cond_wait(&out->work, &log->lock);
	}
	pthread_mutex_unlock(&log->lock);
	return NULL;
}

bool
txlog_output_start(TxLog *log, Error *err)
{
	Output *out = &log->output;
	int failed = pthread_create(&out->thread, NULL, output_main, log);

	out->running = failed == 0;
	return out->running || error_set_errno(err, ERROR_BUG, failed, "start a thread");
}

void
txlog_output_stop(TxLog *log)
{
	Output *out = &log->output;

	if (!out->running)
		return;
	pthread_mutex_lock(&log->lock);
	out->closing = true;
	pthread_cond_signal(&out->work);
	pthread_mutex_unlock(&log->lock);
	pthread_join(out->thread, NULL);
	out->running = false;
}

void
txlog_output_free(TxLog *log)
{
	Output *out = &log->output;

	for (size_t i = 0; i < OUTPUT_ITEMS; i++)
		buffer_free(&out->items[i].bytes);
	while (out->spares > 0)
		buffer_free(&out->spare[--out->spares]);
	if (out->fd >= 0)
		close(out->fd);
	pthread_cond_destroy(&out->work);
	pthread_cond_destroy(&out->room);
}
