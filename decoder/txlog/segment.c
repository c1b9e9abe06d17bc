#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/log.h"
#include "common/memory.h"
#include "decoder/txlog/internal.h"

static void
push_segment(TxLog *log, Segment segment)
{
	if (log->segment_count == log->segment_capacity) {
		log->segment_capacity = log->segment_capacity != 0 ? log->segment_capacity * 2 : 16;
		log->segments = mem_realloc(log->segments, log->segment_capacity * sizeof(Segment));
	}
	log->segments[log->segment_count++] = segment;
	log->bytes_on_disk += segment.size;
}

void
txlog_push_side(TxLog *log, Side side)
{
	if (log->side_count == log->side_capacity) {
		log->side_capacity = log->side_capacity != 0 ? log->side_capacity * 2 : 16;
		log->sides = mem_realloc(log->sides, log->side_capacity * sizeof(Side));
	}
	log->sides[log->side_count++] = side;
}

/* Header into a file of another name, synced, renamed, directory synced: a
 * crash leaves either nothing or a segment that can be read. */
static bool
make_file(TxLog *log, const SegmentHeader *header, const Buffer *bytes, int *fd, Error *err)
{
	char name[TXLOG_NAME_SIZE];
	char temporary[TXLOG_NAME_SIZE];
	Slice piece = buffer_slice(bytes);

	txlog_segment_name(header->number, name);
	snprintf(temporary, sizeof(temporary), "%016" PRIx64 ".tmp", header->number);
	if (!txlog_file_make(log, temporary, fd, err))
		return false;
	if (txlog_file_write(&log->faults, *fd, temporary, 0, &piece, 1, err) &&
	    txlog_file_sync(&log->faults, *fd, temporary, err) &&
	    txlog_file_rename(log, temporary, name, err))
		return true;
	close(*fd);
	*fd = -1;
	return false;
}

/* The old file goes once the flusher has let go of it. All in it was synced, so
 * synced_end may move along (T7). What was released of it is the flusher's to remove. */
static void
switch_to(TxLog *log, int fd, const SegmentHeader *header)
{
	Output *out = &log->output;

	pthread_mutex_lock(&log->lock);
	while (log->flushing)
		pthread_cond_wait(&log->synced, &log->lock);
	if (out->fd >= 0)
		close(out->fd);
	out->fd = fd;
	out->number = header->number;
	push_segment(log, (Segment){
						  .number = header->number,
						  .size = header->size,
						  .previous_commit = header->previous_commit,
						  .last_commit = header->previous_commit,
					  });
	log->visible = header->size;
	log->synced_publications = log->written_publications;
	log->synced_end = log->written_end;
	log->release_news = true;
	pthread_cond_signal(&log->flusher);
	pthread_cond_broadcast(&log->synced);
	txlog_wake_readers(log, false);
	pthread_mutex_unlock(&log->lock);
}

void
txlog_segment_header(const TxLog *log, uint64_t number, SegmentHeader *out)
{
	Buffer bytes = BUFFER_INIT;

	*out = (SegmentHeader){
		.number = number,
		.previous_commit = log->writer.appended.commit,
		.previous_end = log->writer.appended.end,
	};
	snprintf(out->identity, sizeof(out->identity), "%s", log->identity);
	segment_header_put(out, &bytes);
	out->size = bytes.len;
	buffer_free(&bytes);
}

bool
txlog_segment_begin(TxLog *log, const SegmentHeader *header, Error *err)
{
	Buffer bytes = BUFFER_INIT;
	int fd;

	segment_header_put(header, &bytes);
	bool ok = make_file(log, header, &bytes, &fd, err);
	buffer_free(&bytes);
	if (ok)
		switch_to(log, fd, header);
	return ok;
}

/* ---- open ---- */

typedef struct {
	TxLog *log;
	Error *err;
	bool ok;
} Recovery;

/* A transaction in a side file says nothing here: what it changed about relations the
 * log says again behind the reference. */
static bool
recover_frame(void *arg, uint64_t offset UNUSED, const Frame *frame)
{
	Recovery *to = arg;

	if (frame->kind == FRAME_STREAMED)
		to->ok = side_check(to->log->dir_fd, &frame->streamed, to->err);
	else if (frame->message.data[0] == PGO_RELATION || frame->message.data[0] == PGO_TYPE)
		known_set(to->log->writer.known, frame->message);
	return to->ok;
}

static bool
cut_tail(TxLog *log, const char *name, uint64_t size, const SegmentScan *scan, Error *err)
{
	if (size == scan->whole_end)
		return true;
	log_warning("txlog", "%s/%s: cut %" PRIu64 " bytes of an unfinished write behind commit %s",
	            log->directory, name, size - scan->whole_end, LSN_STR(scan->last_commit));
	return txlog_file_truncate(&log->faults, log->output.fd, name, scan->whole_end, err);
}

/* The last segment, which the writer goes on with (T6). */
static bool
recover_last(TxLog *log, int fd, const SegmentHeader *header, uint64_t size, Error *err)
{
	Writer *w = &log->writer;
	char name[TXLOG_NAME_SIZE];
	SegmentScan scan;
	Recovery to = {log, err, true};

	log->output.fd = fd;
	log->output.number = w->number = header->number;
	txlog_segment_name(header->number, name);
	if (!segment_scan(fd, header, size, true, recover_frame, &to, &scan, err))
		return false;
	if (!to.ok)
		return error_add_context(err, "transaction log file %s", name);
	if (!cut_tail(log, name, size, &scan, err) || !txlog_file_sync(&log->faults, fd, name, err))
		return false;
	w->size = scan.whole_end;
	w->appended = (Progress){scan.last_commit, scan.last_end, scan.last_time_us, 0};
	push_segment(
		log, (Segment){header->number, scan.whole_end, header->previous_commit, scan.last_commit});
	log->visible = scan.whole_end;
	log->published = w->appended;
	log->written_end = log->synced_end = scan.last_end;
	return true;
}

static bool
check_header(const TxLog *log, const SegmentHeader *header, Error *err)
{
	char name[TXLOG_NAME_SIZE];

	txlog_segment_name(header->number, name);
	if (strcmp(header->identity, log->identity) != 0) {
		error_set(err, ERROR_CONFIG,
		          "segment %s belongs to another migration (\"%s\", this one is \"%s\")", name,
		          header->identity, log->identity);
		return error_set_hint(err, "give this migration a --state-dir of its own");
	}
	if (log->segment_count > 0 &&
	    lsn_cmp(header->previous_commit, log->segments[log->segment_count - 1].previous_commit) < 0)
		return error_set(err, ERROR_STORAGE, "segment %s: commit positions go back", name);
	return true;
}

static bool
recover_segment(TxLog *log, uint64_t number, bool last, Error *err)
{
	char name[TXLOG_NAME_SIZE];
	SegmentHeader header;
	uint64_t size;
	int fd;

	txlog_segment_name(number, name);
	if (!segment_open(log->dir_fd, number, last ? O_RDWR : O_RDONLY, &fd, &header, err))
		return false;
	bool ok = check_header(log, &header, err) && txlog_file_size(fd, name, &size, err);
	if (ok && log->segment_count > 0)
		log->segments[log->segment_count - 1].last_commit = header.previous_commit;
	if (ok && last)
		return recover_last(log, fd, &header, size, err); /* the output has fd now */
	if (ok)
		push_segment(log, (Segment){number, size, header.previous_commit, LSN_INVALID});
	close(fd);
	return ok;
}

static void
drop_file(const TxLog *log, const char *name)
{
	if (unlinkat(log->dir_fd, name, 0) != 0)
		log_warning("txlog", "cannot remove %s/%s: %s", log->directory, name, strerror(errno));
}

/* What a crash left half made: segments, and transactions in progress, which the
 * source sends again. */
static bool
drop_unfinished(TxLog *log, const char *suffix, const char *what, Error *err)
{
	uint64_t *numbers;
	size_t count;
	char name[TXLOG_NAME_SIZE];

	if (!txlog_dir_list(log->dir_fd, log->directory, suffix, &numbers, &count, err))
		return false;
	if (count > 0)
		log_info("txlog", "%s: removing %zu %s that were left unfinished", log->directory, count,
		         what);
	for (size_t i = 0; i < count; i++) {
		snprintf(name, sizeof(name), "%016" PRIx64 "%s", numbers[i], suffix);
		drop_file(log, name);
	}
	free(numbers);
	return true;
}

static bool
recover_side(TxLog *log, Lsn commit, Error *err)
{
	char name[TXLOG_NAME_SIZE];
	struct stat st;

	txlog_xact_name(commit, name);
	/* Its reference never came into the log, or went with its segment. */
	if (lsn_cmp(commit, log->writer.appended.commit) > 0 ||
	    lsn_cmp(commit, log->segments[0].previous_commit) <= 0) {
		log_info("txlog", "%s/%s: removed, nothing refers to it", log->directory, name);
		drop_file(log, name);
		return true;
	}
	if (fstatat(log->dir_fd, name, &st, 0) != 0)
		return error_set_errno(err, ERROR_STORAGE, errno, "transaction log file %s: stat", name);
	txlog_push_side(log, (Side){commit, (uint64_t)st.st_size});
	log->bytes_on_disk += (uint64_t)st.st_size;
	if (lsn_cmp(commit, log->segments[log->segment_count - 1].previous_commit) > 0)
		log->writer.referenced += (uint64_t)st.st_size;
	return true;
}

static bool
recover_sides(TxLog *log, Error *err)
{
	uint64_t *commits;
	size_t count;
	bool ok = true;

	if (!txlog_dir_list(log->dir_fd, log->directory, ".xact", &commits, &count, err))
		return false;
	for (size_t i = 0; ok && i < count; i++)
		ok = recover_side(log, lsn_make(commits[i]), err);
	free(commits);
	return ok;
}

static bool
first_segment(TxLog *log, Error *err)
{
	SegmentHeader header;

	txlog_segment_header(log, 1, &header);
	log->writer.number = header.number;
	log->writer.size = header.size;
	return txlog_segment_begin(log, &header, err);
}

bool
txlog_recover(TxLog *log, Error *err)
{
	uint64_t *numbers;
	size_t count;
	bool ok = true;

	if (!drop_unfinished(log, ".tmp", "segments", err) ||
	    !drop_unfinished(log, ".stream", "streamed transactions", err) ||
	    !txlog_dir_segments(log->dir_fd, log->directory, &numbers, &count, err))
		return false;
	for (size_t i = 0; ok && i < count; i++)
		ok = recover_segment(log, numbers[i], i + 1 == count, err);
	free(numbers);
	if (ok && count == 0)
		ok = first_segment(log, err);
	return ok && recover_sides(log, err);
}
