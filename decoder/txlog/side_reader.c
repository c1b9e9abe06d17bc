#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <unistd.h>

#include "decoder/txlog/internal.h"

/* What a reader of the log gives for a reference: the transaction as protocol 1
 * would have sent it. Begin and Commit are made from the reference. */

static bool
bad_file(const StreamedRef *ref, Error *err)
{
	error_add_context(err, "streamed transaction of commit %s", LSN_STR(ref->commit));
	return error_set_hint(err, "the file was changed or the disk has failed: restore it, or "
	                           "cancel the migration and start it again");
}

static bool
check_size(const StreamedRef *ref, const char *name, uint64_t size, Error *err)
{
	if (size == ref->bytes)
		return true;
	error_set(err, ERROR_STORAGE,
	          "transaction log file %s has %" PRIu64 " bytes, but the log says %" PRIu64, name,
	          size, ref->bytes);
	return bad_file(ref, err);
}

bool
side_check(int dir_fd, const StreamedRef *ref, Error *err)
{
	char name[TXLOG_NAME_SIZE];
	struct stat st;

	txlog_xact_name(ref->commit, name);
	if (fstatat(dir_fd, name, &st, 0) == 0)
		return check_size(ref, name, (uint64_t)st.st_size, err);
	error_set_errno(err, ERROR_STORAGE, errno, "transaction log file %s: stat", name);
	return bad_file(ref, err);
}

bool
side_reader_open(SideReader *reader, int dir_fd, const StreamedRef *ref, Error *err)
{
	uint64_t size;

	txlog_xact_name(ref->commit, reader->name);
	reader->fd = openat(dir_fd, reader->name, O_RDONLY | O_CLOEXEC);
	if (reader->fd < 0) {
		error_set_errno(err, ERROR_STORAGE, errno, "transaction log file %s: open", reader->name);
		return bad_file(ref, err);
	}
	if (!txlog_file_size(reader->fd, reader->name, &size, err) ||
	    !check_size(ref, reader->name, size, err)) {
		close(reader->fd);
		return false;
	}
	reader->open = true;
	reader->ref = *ref;
	reader->begun = false;
	reader->offset = reader->block_at = 0;
	reader->inside = 0;
	reader->block.raw = SLICE_EMPTY;
	return true;
}

static void
side_close(SideReader *reader)
{
	if (reader->open)
		close(reader->fd);
	reader->open = false;
}

void
side_reader_skip(SideReader *reader)
{
	side_close(reader);
}

void
side_reader_free(SideReader *reader)
{
	side_close(reader);
	block_free(&reader->block);
}

static bool
read_next_block(SideReader *reader, Error *err)
{
	Block *block = &reader->block;

	if (block_read(reader->fd, reader->name, reader->ref.seed, reader->offset, reader->ref.bytes,
	               block, err) != BLOCK_READ_OK) {
		block->raw = SLICE_EMPTY;
		reader->inside = 0;
		return bad_file(&reader->ref, err);
	}
	reader->inside = 0;
	reader->block_at = reader->offset;
	reader->offset += BLOCK_HEADER_SIZE + block->header.stored_len;
	return true;
}

static bool
bad_frame(const SideReader *reader, const char *problem, Error *err)
{
	error_set(err, ERROR_STORAGE, "transaction log file %s, offset %" PRIu64 ": %s", reader->name,
	          reader->block_at, problem);
	return bad_file(&reader->ref, err);
}

/* A frame of the side file; *none at its end. */
static bool
next_frame(SideReader *reader, Slice *message, bool *none, Error *err)
{
	Frame frame;
	const char *problem;

	for (;;) {
		size_t at = reader->inside;
		if (frame_next(reader->block.raw, &reader->inside, &frame, &problem)) {
			*message = frame.message;
			if (frame.kind == FRAME_MESSAGE)
				return true;
			reader->inside = at;
			problem = "a reference inside of a streamed transaction";
		}
		if (problem != NULL)
			return bad_frame(reader, problem, err);
		*none = reader->offset == reader->ref.bytes;
		if (*none)
			return true;
		if (!read_next_block(reader, err))
			return false;
	}
}

bool
side_reader_next(SideReader *reader, Slice *message, Error *err)
{
	bool none = false;

	if (!reader->begun) {
		reader->begun = true;
		*message = streamed_ref_begin(&reader->ref, reader->made);
		return true;
	}
	if (!next_frame(reader, message, &none, err))
		return false;
	if (none) {
		*message = streamed_ref_commit(&reader->ref, reader->made);
		side_close(reader);
	}
	return true;
}
