#include "decoder/txlog/txlog.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"
#include "common/memory.h"
#include "decoder/txlog/internal.h"

/*
 * The log as an object: opening, positions, the flusher. Writing is in
 * txlog/write.c and txlog/output.c, streamed transactions in txlog/stream.c and
 * txlog/side.c, segments and recovery in txlog/segment.c, readers in txlog/reader.c and
 * txlog/early.c.
 *
 * Who keeps which invariant
 *  T1 whole transactions or one part of one: txlog/write.c, flush_whole and
 *     flush_part; checked again in txlog/block.c, check_order
 *  T2 readers see up to log->visible: txlog/output.c, wrote
 *  T3 strictly growing commits: txlog/write.c, append_begin; txlog_has
 *  T4 segments begin with the preamble: txlog/segment.c; rolled only with no
 *     transaction open: txlog/write.c, roll
 *  T5 removal: remove_released below
 *  T6 torn tails: txlog/block.c, judge_bad; cut in txlog/segment.c
 *  T7 synced_end: sync_once below
 *  T8 references: txlog/stream.c, commit_by_reference; remove_sides below; checked in
 *     txlog/side_reader.c
 *
 * Threads: the writer owns log->writer without a lock; what was written is published
 * under log->lock. Who writes to output.fd says txlog/output.c. The flusher touches it
 * only between setting and clearing log->flushing, and it is exchanged only while that is
 * clear.
 */

static int
cond_wait_until(pthread_cond_t *cond, pthread_mutex_t *lock, int64_t deadline_ms)
{
	struct timespec until = {.tv_sec = deadline_ms / 1000,
	                         .tv_nsec = (deadline_ms % 1000) * 1000000};
	return pthread_cond_timedwait(cond, lock, &until);
}

static void
log_free(TxLog *log)
{
	txlog_writer_free(log);
	txlog_output_free(log);
	if (log->dir_fd >= 0)
		close(log->dir_fd);
	if (log->confirmed_fd >= 0)
		close(log->confirmed_fd);
	if (log->timeline_fd >= 0)
		close(log->timeline_fd);
	if (log->lock_fd >= 0)
		close(log->lock_fd); /* and with it the lock */
	pthread_cond_destroy(&log->flusher);
	pthread_cond_destroy(&log->synced);
	pthread_cond_destroy(&log->offer_moved);
	pthread_mutex_destroy(&log->lock);
	free(log->segments);
	free(log->sides);
	free(log->directory);
	free(log->identity);
	free(log);
}

/* With a limit the segments are small enough for releases to make room in
 * steps, not all at once. */
static uint64_t
segment_size(const TxLogOptions *options)
{
	uint64_t size = options->segment_bytes != 0 ? options->segment_bytes : TXLOG_SEGMENT_BYTES;
	uint64_t part = options->max_bytes / 8;

	if (options->max_bytes != 0 && size > part)
		size = part > 64 * 1024 ? part : 64 * 1024;
	return size;
}

static TxLog *
log_new(const TxLogOptions *options, TxLogFaults faults)
{
	TxLog *log = mem_zalloc(sizeof(TxLog));

	log->directory = mem_strdup(options->directory);
	log->identity = mem_strdup(options->identity);
	log->segment_bytes = segment_size(options);
	log->max_bytes = options->max_bytes;
	log->compress = options->compress;
	log->inline_max = TXLOG_INLINE_MAX;
	log->early_min = FAULT_NUMBER("PGBATON_EARLY_BYTES");
	if (log->early_min == 0)
		log->early_min = TXLOG_EARLY_MIN;
	log->faults = faults;
	log->dir_fd = -1;
	log->lock_fd = -1;
	log->confirmed_fd = -1;
	log->timeline_fd = -1;
	log->output.fd = -1;
	log->writer.known = known_new();
	txlog_streams_init(&log->writer.streams);
	log->writer.parse = arena_new(0);
	atomic_init(&log->failed, false);
	pthread_mutex_init(&log->lock, NULL);
	cond_init_monotonic(&log->flusher);
	cond_init_monotonic(&log->synced);
	cond_init_monotonic(&log->output.work);
	cond_init_monotonic(&log->output.room);
	cond_init_monotonic(&log->offer_moved);
	return log;
}

static bool
open_notes(TxLog *log, Error *err)
{
	uint64_t timeline = 0;
	bool ok = txlog_note_open(log->dir_fd, "confirmed", &log->confirmed_fd, &log->noted.v, err) &&
	          txlog_note_open(log->dir_fd, "timeline", &log->timeline_fd, &timeline, err);

	log->timeline = (uint32_t)timeline;
	return ok;
}

TxLog *
txlog_open_with_faults(const TxLogOptions *options, TxLogFaults faults, Error *err)
{
	if (strlen(options->identity) >= sizeof(((SegmentHeader *)0)->identity)) {
		error_set(err, ERROR_CONFIG, "the migration's id is too long");
		return NULL;
	}
	TxLog *log = log_new(options, faults);
	bool ok = txlog_dir_open(log->directory, &log->dir_fd, &log->lock_fd, err) &&
	          txlog_recover(log, err) && open_notes(log, err) && txlog_output_start(log, err);
	if (ok) {
		int failed = pthread_create(&log->flusher_thread, NULL, txlog_flusher_main, log);
		ok = failed == 0 || error_set_errno(err, ERROR_BUG, failed, "start a thread");
	}
	if (ok)
		return log;
	error_add_context(err, "transaction log in %s", log->directory);
	txlog_output_stop(log);
	log_free(log);
	return NULL;
}

TxLog *
txlog_open(const TxLogOptions *options, Error *err)
{
	return txlog_open_with_faults(options, (TxLogFaults){NULL, NULL}, err);
}

void
txlog_close(TxLog *log)
{
	Error err = ERROR_INIT;

	if (log == NULL)
		return;
	CHECK(log->readers == NULL);
	/* A failed log has said why already. */
	if (!atomic_load(&log->failed) && (!txlog_discard_open(log, &err) || !txlog_publish(log, &err)))
		log_failure(LOG_ERROR, "txlog", &err);
	txlog_output_stop(log);

	pthread_mutex_lock(&log->lock);
	log->closing = true;
	pthread_cond_signal(&log->flusher);
	pthread_mutex_unlock(&log->lock);
	pthread_join(log->flusher_thread, NULL);
	log_free(log);
}

bool
txlog_fail(TxLog *log, Error *err)
{
	pthread_mutex_lock(&log->lock);
	if (!atomic_load(&log->failed)) {
		log->failure = *err;
		atomic_store(&log->failed, true);
	}
	txlog_wake_readers(log, true);
	pthread_cond_broadcast(&log->synced);
	pthread_cond_signal(&log->flusher);
	pthread_cond_signal(&log->output.room);
	pthread_mutex_unlock(&log->lock);
	return false;
}

bool
txlog_failed(TxLog *log, Error *err)
{
	if (!atomic_load(&log->failed))
		return false;
	pthread_mutex_lock(&log->lock);
	if (err != NULL)
		*err = log->failure;
	pthread_mutex_unlock(&log->lock);
	return true;
}

bool
txlog_usable(TxLog *log, Error *err)
{
	return !txlog_failed(log, err);
}

bool
txlog_has(TxLog *log, Lsn commit_lsn)
{
	return lsn_cmp(commit_lsn, log->writer.appended.commit) <= 0;
}

/* Only what a release can mend counts: when everything whole was released, it
 * is the open transaction that is large, and it must come through to end. */
bool
txlog_full(TxLog *log)
{
	pthread_mutex_lock(&log->lock);
	bool full = log->max_bytes != 0 && log->bytes_on_disk >= log->max_bytes &&
	            lsn_cmp(log->published.commit, log->released) > 0;
	pthread_mutex_unlock(&log->lock);
	return full;
}

void
txlog_state(TxLog *log, TxLogState *out)
{
	pthread_mutex_lock(&log->lock);
	*out = (TxLogState){
		.last_commit = log->published.commit,
		.last_end = log->published.end,
		.synced_end = log->synced_end,
		.noted = log->noted,
		.timeline = log->timeline,
		.all_synced = log->synced_publications == log->publications,
		.transactions = log->published.transactions,
		.bytes_on_disk = log->bytes_on_disk,
		.segments = log->segment_count,
		.last_commit_time_us = log->published.time_us,
	};
	pthread_mutex_unlock(&log->lock);
}

bool
txlog_sync(TxLog *log, int64_t deadline_ms, Error *err)
{
	int failed = 0;

	pthread_mutex_lock(&log->lock);
	uint64_t target = log->publications;
	log->sync_waiters++;
	pthread_cond_signal(&log->flusher);
	while (log->synced_publications < target && !atomic_load(&log->failed) && failed == 0)
		failed = deadline_ms == 0 ? pthread_cond_wait(&log->synced, &log->lock)
		                          : cond_wait_until(&log->synced, &log->lock, deadline_ms);
	log->sync_waiters--;
	bool done = log->synced_publications >= target;
	pthread_mutex_unlock(&log->lock);

	if (done)
		return true;
	if (!txlog_usable(log, err))
		return false;
	return error_set(err, ERROR_TIMEOUT, "the transaction log was not synced in time");
}

static bool
write_confirmed(TxLog *log, Lsn upto, Error *err)
{
	if (!txlog_note_write(&log->faults, log->confirmed_fd, "confirmed", upto.v, err))
		return txlog_fail(log, err);
	pthread_mutex_lock(&log->lock);
	log->noted = upto;
	pthread_mutex_unlock(&log->lock);
	return true;
}

bool
txlog_note_confirmed(TxLog *log, Lsn upto, Error *err)
{
	TxLogState state;

	if (!txlog_usable(log, err))
		return false;
	txlog_state(log, &state);
	if (lsn_cmp(upto, lsn_max(state.noted, state.last_end)) <= 0)
		return true;
	return write_confirmed(log, upto, err);
}

/* The note first: with the old timeline it is looked at once more, with the new one never. */
bool
txlog_note_timeline(TxLog *log, uint32_t timeline, Lsn fork, Error *err)
{
	TxLogState state;

	if (!txlog_usable(log, err))
		return false;
	txlog_state(log, &state);
	if (fork.v != 0 && lsn_cmp(state.noted, fork) > 0 && !write_confirmed(log, fork, err))
		return false;
	if (!txlog_note_write(&log->faults, log->timeline_fd, "timeline", timeline, err))
		return txlog_fail(log, err);
	pthread_mutex_lock(&log->lock);
	log->timeline = timeline;
	pthread_mutex_unlock(&log->lock);
	return true;
}

void
txlog_release(TxLog *log, Lsn upto)
{
	pthread_mutex_lock(&log->lock);
	if (lsn_cmp(upto, log->released) > 0) {
		log->released = upto;
		log->release_news = true;
		pthread_cond_signal(&log->flusher);
	}
	pthread_mutex_unlock(&log->lock);
}

void
txlog_on_progress(TxLog *log, void (*callback)(void *), void *arg)
{
	pthread_mutex_lock(&log->lock);
	/* Nobody is called any more once this returns: the receiver may be gone. */
	while (log->calling_back > 0)
		pthread_cond_wait(&log->synced, &log->lock);
	log->on_progress = callback;
	log->on_progress_arg = arg;
	pthread_mutex_unlock(&log->lock);
}

/* ---- the flusher's thread; the lock is held between the functions ---- */

/*
 * Group fsync. A sync takes from the writer and from everybody else on that disk, and what it
 * brings, a confirmation, goes to the source every STATUS_CONFIRM_MS at most: so one begins
 * SYNC_APART_MS after the last one began, unless somebody waits for it. The first after a
 * quiet time begins at once.
 */
enum { SYNC_APART_MS = 10 };

static bool
sync_is_due(const TxLog *log)
{
	return log->sync_waiters > 0 || log->closing || clock_mono_ms() >= log->next_sync_ms;
}

/* T7: synced_end is what was published before fdatasync began. */
static void
sync_once(TxLog *log)
{
	uint64_t target = log->written_publications;
	Lsn end = log->written_end;
	int fd = log->output.fd;
	Error err = ERROR_INIT;

	log->flushing = true;
	log->next_sync_ms = deadline_in_ms(SYNC_APART_MS);
	pthread_mutex_unlock(&log->lock);
	bool ok = txlog_file_sync(&log->faults, fd, log->directory, &err) || txlog_fail(log, &err);
	pthread_mutex_lock(&log->lock);
	log->flushing = false;
	if (ok && target > log->synced_publications) {
		log->synced_publications = target;
		log->synced_end = lsn_max(log->synced_end, end);
	}
	pthread_cond_broadcast(&log->synced);
}

/* T5, oldest first, so that a crash in between leaves no hole. Never the one
 * being written: its header carries the last commit LSN over a restart (T3). Nor one that a
 * reader has still before it: a target that is further ahead than a log which has lost its
 * tail releases what is only being written again. */
static void
remove_released(TxLog *log)
{
	size_t gone = 0;

	log->release_news = false;
	while (gone + 1 < log->segment_count && lsn_valid(log->released) &&
	       lsn_cmp(log->segments[gone].last_commit, log->released) <= 0 &&
	       !txlog_readers_need(log, log->segments[gone].number)) {
		char name[TXLOG_NAME_SIZE];
		txlog_segment_name(log->segments[gone].number, name);
		if (unlinkat(log->dir_fd, name, 0) != 0 && errno != ENOENT) {
			log_warning("txlog", "cannot remove %s/%s: %s; tried again later", log->directory, name,
			            strerror(errno));
			break;
		}
		log->bytes_on_disk -= log->segments[gone++].size;
	}
	log->segment_count -= gone;
	if (gone > 0)
		memmove(log->segments, log->segments + gone, log->segment_count * sizeof(Segment));
}

/* What the segments referred to that are gone. Outside of the lock, for a large file
 * takes its time; in this order, so that a crash leaves side files without a reference,
 * which the next open removes, and never a reference without its file (T8). */
static void
remove_sides(TxLog *log)
{
	size_t gone = 0;
	char name[TXLOG_NAME_SIZE];

	while (gone < log->side_count &&
	       lsn_cmp(log->sides[gone].commit, log->segments[0].previous_commit) <= 0)
		log->bytes_on_disk -= log->sides[gone++].bytes;
	if (gone == 0)
		return;
	Side *sides = mem_alloc(gone * sizeof(Side));
	memcpy(sides, log->sides, gone * sizeof(Side));
	log->side_count -= gone;
	memmove(log->sides, log->sides + gone, log->side_count * sizeof(Side));
	pthread_mutex_unlock(&log->lock);

	bool ok = fsync(log->dir_fd) == 0;
	for (size_t i = 0; ok && i < gone; i++) {
		txlog_xact_name(sides[i].commit, name);
		if (unlinkat(log->dir_fd, name, 0) != 0)
			log_warning("txlog", "cannot remove %s/%s: %s; the next start does", log->directory,
			            name, strerror(errno));
	}
	free(sides);
	pthread_mutex_lock(&log->lock);
}

void
txlog_call_back(TxLog *log)
{
	void (*callback)(void *) = log->on_progress;
	void *arg = log->on_progress_arg;

	if (callback == NULL)
		return;
	log->calling_back++;
	pthread_mutex_unlock(&log->lock);
	callback(arg);
	pthread_mutex_lock(&log->lock);
	log->calling_back--;
	pthread_cond_broadcast(&log->synced);
}

void *
txlog_flusher_main(void *arg)
{
	TxLog *log = arg;

	pthread_mutex_lock(&log->lock);
	for (;;) {
		bool news = log->written_publications > log->synced_publications &&
		            !atomic_load(&log->failed);
		bool sync = news && sync_is_due(log);
		bool release = log->release_news;

		if (!sync && !release) {
			if (log->closing)
				break;
			log->flusher_idle = !news;
			if (news)
				cond_wait_until(&log->flusher, &log->lock, log->next_sync_ms);
			else
				pthread_cond_wait(&log->flusher, &log->lock);
			log->flusher_idle = false;
			continue;
		}
		if (sync)
			sync_once(log);
		if (release) {
			remove_released(log);
			remove_sides(log);
		}
		txlog_call_back(log);
	}
	pthread_mutex_unlock(&log->lock);
	return NULL;
}
