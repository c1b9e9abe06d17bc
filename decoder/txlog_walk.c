#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/bytes.h"
#include "decoder/txlog_internal.h"

/* One walk; what lies before `from` is left out, except the descriptions of
 * relations and types, which what follows needs. */
typedef struct {
	Lsn from;
	bool skipping; /* inside a transaction before from */
	bool ended;    /* the visitor has had enough */
	char name[TXLOG_NAME_SIZE];
	TxLogVisit visit;
	void *arg;
} Walk;

static bool
walk_message(void *arg, uint64_t offset, Slice message)
{
	Walk *walk = arg;
	uint8_t kind = message.data[0];

	if (kind == PGO_BEGIN && message.len >= 9) {
		ByteReader r = reader_of(slice_of(message.data + 1, 8));
		walk->skipping = read_u64(&r) < walk->from.v;
	}
	bool skip = walk->skipping && kind != PGO_RELATION && kind != PGO_TYPE;
	if (kind == PGO_COMMIT)
		walk->skipping = false;
	if (!skip)
		walk->ended = !walk->visit(walk->arg, walk->name, offset, message);
	return !walk->ended;
}

static bool
walk_segment(int dir_fd, uint64_t number, bool last, Walk *walk, Error *err)
{
	SegmentHeader header;
	SegmentScan scan;
	uint64_t size;
	int fd;

	txlog_segment_name(number, walk->name);
	if (!segment_open(dir_fd, number, O_RDONLY, &fd, &header, err))
		return false;
	walk->skipping = false;
	bool ok = txlog_file_size(fd, walk->name, &size, err) &&
	          segment_scan(fd, &header, size, last, walk_message, walk, &scan, err);
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
	Walk walk = {.from = from, .visit = visit, .arg = arg};
	uint64_t *numbers;
	size_t count;
	size_t first;

	int dir_fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir_fd < 0)
		return error_set_errno(err, ERROR_STORAGE, errno, "open the transaction log in %s",
		                       directory);
	bool ok = txlog_dir_list(dir_fd, directory, &numbers, &count, err);
	if (ok) {
		ok = first_segment(dir_fd, numbers, count, from, &first, err);
		for (size_t i = first; ok && !walk.ended && i < count; i++)
			ok = walk_segment(dir_fd, numbers[i], i + 1 == count, &walk, err);
		free(numbers);
	}
	close(dir_fd);
	return ok;
}
