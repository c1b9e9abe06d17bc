#include <fcntl.h>
#include <inttypes.h>
#include <lz4.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <errno.h>

#include "common/memory.h"
#include "decoder/txlog/internal.h"

/* A buffer that a giant message made large is given back when the next block
 * is of the usual size. */
enum { KEEP_MAX = 16 * 1024 * 1024 };

static uint8_t *
make_room(Buffer *buf, size_t len)
{
	if (buf->cap > KEEP_MAX && len < KEEP_MAX / 4)
		buffer_free(buf);
	buf->len = 0;
	return buffer_reserve(buf, len);
}

static BlockRead
bad_block(const char *name, uint64_t offset, const char *problem, Error *err)
{
	error_set(err, ERROR_STORAGE, "transaction log file %s, offset %" PRIu64 ": %s", name, offset,
	          problem);
	return BLOCK_READ_BAD;
}

static bool
unpack(Block *block)
{
	const BlockHeader *header = &block->header;

	if ((header->flags & BLOCK_LZ4) == 0) {
		block->raw = buffer_slice(&block->stored);
		return true;
	}
	uint8_t *to = make_room(&block->unpacked, header->raw_len);
	int n = LZ4_decompress_safe((const char *)block->stored.data, (char *)to,
	                            (int)header->stored_len, (int)header->raw_len);
	if (n < 0 || (uint32_t)n != header->raw_len)
		return false;
	block->unpacked.len = header->raw_len;
	block->raw = buffer_slice(&block->unpacked);
	return true;
}

BlockRead
block_read(int fd, const char *name, uint64_t segment, uint64_t offset, uint64_t limit,
           Block *block, Error *err)
{
	uint8_t head[BLOCK_HEADER_SIZE] = {0};
	uint64_t left = limit - offset;
	size_t want = left < sizeof(head) ? (size_t)left : sizeof(head);
	ssize_t n = txlog_file_read(fd, name, offset, head, want, err);

	if (n < 0)
		return BLOCK_READ_FAILED;
	if ((size_t)n < want)
		return bad_block(name, offset, "the file ends too early", err);
	const char *problem = block_header_parse(head, offset, left, &block->header);
	if (problem != NULL)
		return bad_block(name, offset, problem, err);

	size_t len = block->header.stored_len;
	uint8_t *to = make_room(&block->stored, len);
	n = txlog_file_read(fd, name, offset + BLOCK_HEADER_SIZE, to, len, err);
	if (n < 0)
		return BLOCK_READ_FAILED;
	if ((size_t)n < len)
		return bad_block(name, offset, "the file ends too early", err);
	block->stored.len = len;
	if (!block_checksum_ok(head, segment, buffer_slice(&block->stored)))
		return bad_block(name, offset, "the checksum does not match", err);
	if (!unpack(block))
		return bad_block(name, offset, "the block cannot be decompressed", err);
	return BLOCK_READ_OK;
}

bool
block_is_alone(const Block *block, Slice message)
{
	return message.len > TXLOG_BLOCK_TARGET &&
	       message.data == block->raw.data + FRAME_HEADER_SIZE &&
	       message.len + FRAME_HEADER_SIZE == block->raw.len;
}

uint8_t *
block_detach(Block *block)
{
	Buffer *in = (block->header.flags & BLOCK_LZ4) != 0 ? &block->unpacked : &block->stored;
	uint8_t *data = in->data;

	*in = BUFFER_INIT;
	block->raw = SLICE_EMPTY;
	return data;
}

void
block_free(Block *block)
{
	buffer_free(&block->stored);
	buffer_free(&block->unpacked);
	*block = (Block){0};
}

/* Every offset is a candidate: a damaged length says nothing about where the
 * next block stands. A header names its own offset, so candidates are few. */
bool
block_find_after(int fd, const char *name, uint64_t segment, uint64_t from, uint64_t size,
                 bool *found, uint64_t *at, Error *err)
{
	enum { WINDOW = 1024 * 1024 };
	uint8_t *window = mem_alloc(WINDOW);
	Block block = {0};
	BlockHeader header;
	bool ok = true;

	*found = false;
	for (uint64_t start = from; ok && !*found && start + BLOCK_HEADER_SIZE <= size;
	     start += WINDOW - BLOCK_HEADER_SIZE + 1) {
		ssize_t n = txlog_file_read(fd, name, start, window, WINDOW, err);
		ok = n >= 0;
		for (ssize_t i = 0; ok && !*found && i + BLOCK_HEADER_SIZE <= n; i++) {
			uint64_t offset = start + (uint64_t)i;
			if (window[i] != 'P' ||
			    block_header_parse(window + i, offset, size - offset, &header) != NULL)
				continue;
			BlockRead result = block_read(fd, name, segment, offset, size, &block, err);
			ok = result != BLOCK_READ_FAILED;
			*found = result == BLOCK_READ_OK;
			*at = offset;
		}
	}
	block_free(&block);
	free(window);
	return ok;
}

bool
segment_open(int dir_fd, uint64_t number, int flags, int *fd, SegmentHeader *header, Error *err)
{
	char name[TXLOG_NAME_SIZE];
	uint8_t head[SEGMENT_HEADER_MAX];

	txlog_segment_name(number, name);
	*fd = openat(dir_fd, name, flags | O_CLOEXEC);
	if (*fd < 0)
		return error_set_errno(err, ERROR_STORAGE, errno, "transaction log file %s: open", name);
	ssize_t n = txlog_file_read(*fd, name, 0, head, sizeof(head), err);
	bool ok = n >= 0 && segment_header_parse(slice_of(head, (size_t)n), header, err);
	if (ok && header->number != number)
		ok = error_set(err, ERROR_STORAGE, "the file is segment number %" PRIu64, header->number);
	if (ok)
		return true;
	close(*fd);
	*fd = -1;
	return error_add_context(err, "transaction log file %s", name);
}

/* One segment being walked from its first block to its last. */
typedef struct {
	int fd;
	char name[TXLOG_NAME_SIZE];
	const SegmentHeader *header;
	uint64_t size;
	Block block;
	bool in_part; /* blocks of an unfinished transaction have been seen */
	SegmentScan *out;
} Scan;

/* What a block must be after its predecessors (T1, T3). */
static const char *
check_order(const Scan *scan)
{
	const BlockHeader *h = &scan->block.header;
	bool part = (h->flags & BLOCK_PART) != 0;

	if (scan->in_part && !part)
		return "an unfinished transaction is followed by another one";
	if (lsn_cmp(h->last_commit, scan->out->last_commit) < 0)
		return "commit positions go back";
	return NULL;
}

static void
take_positions(Scan *scan, uint64_t end)
{
	const BlockHeader *h = &scan->block.header;

	scan->in_part = (h->flags & BLOCK_PART) != 0 && (h->flags & BLOCK_LAST) == 0;
	if (scan->in_part)
		return;
	scan->out->whole_end = end;
	scan->out->last_commit = h->last_commit;
	scan->out->last_end = h->last_end;
	scan->out->last_time_us = h->last_time_us;
}

/* A block that cannot be right. Torn (T6) only if nothing valid comes behind
 * it in the last segment: blocks are written in order, so a valid one behind
 * means that bytes which had been written have changed. */
static bool
judge_bad(Scan *scan, uint64_t offset, bool last, Error *err)
{
	bool found = true;
	uint64_t at = 0;
	Error read_error = ERROR_INIT;

	if (last && !block_find_after(scan->fd, scan->name, scan->header->number, offset + 1,
	                              scan->size, &found, &at, &read_error)) {
		*err = read_error;
		return false;
	}
	if (last && !found) {
		error_clear(err);
		scan->out->torn = true;
		return true;
	}
	error_add_context(err, "damaged; last good commit %s", LSN_STR(scan->out->last_commit));
	return error_set_hint(err, "the file was changed or the disk has failed: restore it, or "
	                           "cancel the migration and start it again");
}

static bool
visit_frames(Scan *scan, uint64_t offset, SegmentVisit visit, void *arg, bool *go_on, Error *err)
{
	size_t inside = 0;
	Frame frame;
	const char *problem;

	while (*go_on && frame_next(scan->block.raw, &inside, &frame, &problem))
		*go_on = visit == NULL || visit(arg, offset, &frame);
	if (*go_on && problem != NULL) {
		bad_block(scan->name, offset, problem, err);
		return error_add_context(err, "last good commit %s", LSN_STR(scan->out->last_commit));
	}
	return true;
}

static bool
scan_blocks(Scan *scan, bool last, SegmentVisit visit, void *arg, Error *err)
{
	bool go_on = true;

	for (uint64_t at = scan->header->size; go_on && at < scan->size;) {
		BlockRead result = block_read(scan->fd, scan->name, scan->header->number, at, scan->size,
		                              &scan->block, err);
		if (result == BLOCK_READ_FAILED)
			return false;
		if (result == BLOCK_READ_BAD)
			return judge_bad(scan, at, last, err);
		const char *problem = check_order(scan);
		if (problem != NULL) {
			bad_block(scan->name, at, problem, err);
			return false;
		}
		if (!visit_frames(scan, at, visit, arg, &go_on, err))
			return false;
		at += BLOCK_HEADER_SIZE + scan->block.header.stored_len;
		take_positions(scan, at);
	}
	if (go_on && scan->in_part) {
		scan->out->torn = true;
		if (!last)
			return bad_block(scan->name, scan->out->whole_end, "the transaction here never ends",
			                 err) == BLOCK_READ_OK;
	}
	return true;
}

bool
segment_scan(int fd, const SegmentHeader *header, uint64_t size, bool last, SegmentVisit visit,
             void *arg, SegmentScan *out, Error *err)
{
	Scan scan = {.fd = fd, .header = header, .size = size, .out = out};

	txlog_segment_name(header->number, scan.name);
	*out = (SegmentScan){
		.whole_end = header->size,
		.last_commit = header->previous_commit,
		.last_end = header->previous_end,
	};
	bool ok = scan_blocks(&scan, last, visit, arg, err);
	block_free(&scan.block);
	return ok;
}
