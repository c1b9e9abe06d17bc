#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/bytes.h"
#include "decoder/txlog/internal.h"

/* One walk; what lies before `from` is left out, except the descriptions of
 * relations and types, which what follows needs. */
typedef struct {
	int dir_fd;
	Lsn from;
	bool skipping; /* inside a transaction before from */
	bool ended;    /* the visitor has had enough, or *err is set */
	char name[TXLOG_NAME_SIZE];
	SideReader side;
	TxLogVisit visit;
	void *arg;
	bool ok;
	Error *err;
} Walk;

static bool
walk_message(Walk *walk, const char *file, uint64_t offset, Slice message)
{
	uint8_t kind = message.data[0];

	if (kind == PGO_BEGIN && message.len >= 9) {
		ByteReader r = reader_of(slice_of(message.data + 1, 8));
		walk->skipping = read_u64(&r) < walk->from.v;
	}
	bool skip = walk->skipping && kind != PGO_RELATION && kind != PGO_TYPE;
	if (kind == PGO_COMMIT)
		walk->skipping = false;
	if (!skip)
		walk->ended = !walk->visit(walk->arg, file, offset, message);
	return !walk->ended;
}

/* Released while we look: the log's process has removed the segment, and then this. */
static bool
walk_overtaken(const Walk *walk)
{
	return faccessat(walk->dir_fd, walk->name, F_OK, 0) != 0;
}

/* What it says about relations that lasts stands behind the reference. */
static bool
walk_streamed(Walk *walk, const StreamedRef *ref)
{
	SideReader *side = &walk->side;
	Slice message;

	if (lsn_cmp(ref->commit, walk->from) < 0)
		return true;
	walk->ok = side_reader_open(side, walk->dir_fd, ref, walk->err);
	while (walk->ok && side->open && !walk->ended) {
		walk->ok = side_reader_next(side, &message, walk->err);
		if (walk->ok)
			walk_message(walk, side->name, side->block_at, message);
	}
	if (!walk->ok && walk_overtaken(walk)) {
		error_clear(walk->err);
		walk->ok = true;
		walk->ended = true;
	}
	return walk->ok && !walk->ended;
}

static bool
walk_frame(void *arg, uint64_t offset, const Frame *frame)
{
	Walk *walk = arg;

	if (frame->kind == FRAME_STREAMED)
		return walk_streamed(walk, &frame->streamed);
	return walk_message(walk, walk->name, offset, frame->message);
}

static bool
walk_segment(Walk *walk, uint64_t number, bool last, Error *err)
{
	SegmentHeader header;
	SegmentScan scan;
	uint64_t size;
	int fd;

	txlog_segment_name(number, walk->name);
	if (!segment_open(walk->dir_fd, number, O_RDONLY, &fd, &header, err))
		return false;
	walk->skipping = false;
	bool ok = txlog_file_size(fd, walk->name, &size, err) &&
	          segment_scan(fd, &header, size, last, walk_frame, walk, &scan, err) && walk->ok;
	if (ok && !walk->ended && scan.torn)
		walk->visit(walk->arg, walk->name, scan.whole_end, SLICE_EMPTY);
	close(fd);
	return ok;
}

/* The first segment with a commit at or behind from: the one before the first
 * whose header says that all before it is older. */
static bool
first_segment(int dir_fd, const uint64_t *numbers, size_t count, Lsn from, size_t *first,
              Error *err)
{
	*first = 0;
	for (size_t i = 1; i < count; i++) {
		SegmentHeader header;
		int fd;
		if (!segment_open(dir_fd, numbers[i], O_RDONLY, &fd, &header, err))
			return false;
		close(fd);
		if (lsn_cmp(header.previous_commit, from) >= 0)
			break;
		*first = i;
	}
	return true;
}

bool
txlog_walk(const char *directory, Lsn from, TxLogVisit visit, void *arg, Error *err)
{
	Walk walk = {.from = from, .visit = visit, .arg = arg, .ok = true, .err = err};
	uint64_t *numbers;
	size_t count;
	size_t first;

	walk.dir_fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (walk.dir_fd < 0)
		return error_set_errno(err, ERROR_STORAGE, errno, "open the transaction log in %s",
		                       directory);
	bool ok = txlog_dir_segments(walk.dir_fd, directory, &numbers, &count, err);
	if (ok) {
		ok = first_segment(walk.dir_fd, numbers, count, from, &first, err);
		for (size_t i = first; ok && !walk.ended && i < count; i++)
			ok = walk_segment(&walk, numbers[i], i + 1 == count, err);
		free(numbers);
	}
	side_reader_free(&walk.side);
	close(walk.dir_fd);
	return ok;
}
