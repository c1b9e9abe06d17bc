#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/log.h"
#include "common/memory.h"
#include "decoder/txlog_internal.h"

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

static bool
create_failed(const TxLog *log, const char *what, const char *name, int errnum, Error *err)
{
	error_set_errno(err, ERROR_STORAGE, errnum, "%s transaction log segment %s/%s", what,
	                log->directory, name);
	return error_set_hint(err, "check room and permissions in the state directory");
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
	int planted = log->faults.fail != NULL ? log->faults.fail(log->faults.arg, "create") : 0;
	*fd = planted != 0
	          ? -1
	          : openat(log->dir_fd, temporary, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (*fd < 0)
		return create_failed(log, "make", name, planted != 0 ? planted : errno, err);

	bool ok = txlog_file_write(&log->faults, *fd, temporary, 0, &piece, 1, err) &&
	          txlog_file_sync(&log->faults, *fd, temporary, err);
	if (ok && renameat(log->dir_fd, temporary, log->dir_fd, name) != 0)
		ok = create_failed(log, "name", name, errno, err);
	if (ok && fsync(log->dir_fd) != 0)
		ok = create_failed(log, "sync the directory of", name, errno, err);
	if (!ok) {
		close(*fd);
		*fd = -1;
	}
	return ok;
}

/* The writer's old file goes once the flusher has let go of it. All before
 * was synced by roll, so synced_end may move along (T7). */
static void
switch_to(TxLog *log, int fd, const SegmentHeader *header)
{
	Writer *w = &log->writer;

	pthread_mutex_lock(&log->lock);
	while (log->flushing)
		pthread_cond_wait(&log->synced, &log->lock);
	if (w->fd >= 0)
		close(w->fd);
	w->fd = fd;
	w->number = header->number;
	w->size = header->size;
	push_segment(log, (Segment){
						  .number = header->number,
						  .size = header->size,
						  .previous_commit = header->previous_commit,
						  .last_commit = header->previous_commit,
					  });
	log->visible = header->size;
	log->synced_publications = log->publications;
	log->synced_end = log->published.end;
	pthread_cond_broadcast(&log->synced);
	txlog_wake_readers(log, false);
	pthread_mutex_unlock(&log->lock);
}

bool
txlog_segment_create(TxLog *log, uint64_t number, Error *err)
{
	Writer *w = &log->writer;
	Buffer bytes = BUFFER_INIT;
	int fd;
	SegmentHeader header = {
		.number = number,
		.previous_commit = w->appended.commit,
		.previous_end = w->appended.end,
	};

	snprintf(header.identity, sizeof(header.identity), "%s", log->identity);
	segment_header_put(&header, &bytes);
	header.size = bytes.len;
	bool ok = make_file(log, &header, &bytes, &fd, err);
	buffer_reset(&bytes);
	if (ok) {
		switch_to(log, fd, &header);
		txlog_put_preamble(w, &bytes);
		Slice preamble = buffer_slice(&bytes);
		ok = preamble.len == 0 || txlog_write_block(log, BLOCK_PREAMBLE, &preamble, 1, err);
	}
	buffer_free(&bytes);
	return ok;
}

/* ---- open ---- */

typedef struct {
	Writer *writer;
	Error *err;
	bool ok;
} Remember;

static bool
remember_visit(void *arg, uint64_t offset UNUSED, Slice message)
{
	Remember *to = arg;

	if (message.data[0] == PGO_RELATION || message.data[0] == PGO_TYPE)
		to->ok = txlog_remember(to->writer, message, to->err);
	return to->ok;
}

static bool
cut_tail(TxLog *log, const char *name, uint64_t size, const SegmentScan *scan, Error *err)
{
	Writer *w = &log->writer;

	if (size == scan->whole_end)
		return true;
	log_warning("txlog", "%s/%s: cut %" PRIu64 " bytes of an unfinished write behind commit %s",
	            log->directory, name, size - scan->whole_end, LSN_STR(scan->last_commit));
	return txlog_file_truncate(&log->faults, w->fd, name, scan->whole_end, err);
}

/* The last segment, which the writer goes on with (T6). */
static bool
recover_last(TxLog *log, int fd, const SegmentHeader *header, uint64_t size, Error *err)
{
	Writer *w = &log->writer;
	char name[TXLOG_NAME_SIZE];
	SegmentScan scan;
	Remember to = {w, err, true};

	w->fd = fd;
	w->number = header->number;
	txlog_segment_name(header->number, name);
	if (!segment_scan(fd, header, size, true, remember_visit, &to, &scan, err))
		return false;
	if (!to.ok)
		return error_add_context(err, "transaction log segment %s", name);
	if (!cut_tail(log, name, size, &scan, err) || !txlog_file_sync(&log->faults, fd, name, err))
		return false;
	w->size = scan.whole_end;
	w->appended = (Progress){scan.last_commit, scan.last_end, scan.last_time_us, 0};
	push_segment(
		log, (Segment){header->number, scan.whole_end, header->previous_commit, scan.last_commit});
	log->visible = scan.whole_end;
	log->published = w->appended;
	log->synced_end = scan.last_end;
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
		return recover_last(log, fd, &header, size, err); /* the writer has fd now */
	if (ok)
		push_segment(log, (Segment){number, size, header.previous_commit, LSN_INVALID});
	close(fd);
	return ok;
}

bool
txlog_recover(TxLog *log, Error *err)
{
	uint64_t *numbers;
	size_t count;
	bool ok = true;

	txlog_dir_drop_temporary(log->dir_fd);
	if (!txlog_dir_list(log->dir_fd, log->directory, &numbers, &count, err))
		return false;
	for (size_t i = 0; ok && i < count; i++)
		ok = recover_segment(log, numbers[i], i + 1 == count, err);
	free(numbers);
	if (ok && count == 0)
		ok = txlog_segment_create(log, 1, err);
	return ok;
}
