/*
 * Any bytes as a segment file, scanned as recovery does, as the last segment
 * and as an earlier one, or as a side file, read by its reference. The header and
 * the blocks' checksums are made right first where the input asks for it, so that
 * the fuzzer gets behind them.
 */
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "decoder/txlog/internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool
count_message(void *arg, uint64_t offset, const Frame *frame)
{
	uint64_t *sum = arg;
	for (size_t i = 0; i < frame->message.len; i++)
		*sum += frame->message.data[i]; /* every byte is there to be read */
	*sum += offset;
	return true;
}

/* Walks the blocks by their lengths and sets each checksum. */
static void
mend_checksums(Buffer *file, size_t at, uint64_t segment)
{
	BlockHeader header;
	while (at < file->len && file->len - at >= BLOCK_HEADER_SIZE &&
	       block_header_parse(file->data + at, at, file->len - at, &header) == NULL) {
		Slice stored = slice_of(file->data + at + BLOCK_HEADER_SIZE, header.stored_len);
		uint8_t head[BLOCK_HEADER_SIZE];
		block_header_put(&header, segment, &stored, 1, head);
		memcpy(file->data + at, head, sizeof(head));
		at += BLOCK_HEADER_SIZE + header.stored_len;
	}
}

static void
scan(const Buffer *file, const SegmentHeader *header, bool last)
{
	SegmentScan out;
	Error err = ERROR_INIT;
	uint64_t sum = 0;
	int fd = memfd_create("segment", MFD_CLOEXEC);

	if (fd < 0 || write(fd, file->data, file->len) != (ssize_t)file->len)
		abort();
	if (segment_scan(fd, header, file->len, last, count_message, &sum, &out, &err)) {
		if (out.whole_end < header->size || out.whole_end > file->len)
			abort();
		if (!last && out.whole_end != file->len)
			abort(); /* an earlier segment has no tail to lose */
	} else if (err.class != ERROR_STORAGE) {
		abort();
	}
	close(fd);
}

static void
read_side_file(const uint8_t *data, size_t size, bool mend)
{
	SideReader reader = {.open = true, .ref = {.xid = 1, .seed = 7, .bytes = size}};
	Buffer file = BUFFER_INIT;
	Error err = ERROR_INIT;
	Slice message;
	uint64_t sum = 0;

	buffer_put(&file, data, size);
	if (mend)
		mend_checksums(&file, 0, reader.ref.seed);
	reader.fd = memfd_create("side", MFD_CLOEXEC);
	if (reader.fd < 0 || (size > 0 && write(reader.fd, file.data, size) != (ssize_t)size))
		abort();
	while (reader.open && side_reader_next(&reader, &message, &err))
		count_message(&sum, 0, &(Frame){.message = message});
	if (reader.open && err.class != ERROR_STORAGE)
		abort();
	if (!reader.open && reader.offset != size)
		abort(); /* it ends with its last byte, or not at all */
	side_reader_free(&reader);
	buffer_free(&file);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	SegmentHeader header = {.number = 1, .identity = "fuzz"};
	Error err = ERROR_INIT;
	Buffer file = BUFFER_INIT;

	if (size == 0)
		return 0;
	if ((data[0] & 4) != 0) {
		read_side_file(data + 1, size - 1, (data[0] & 2) != 0);
		return 0;
	}
	if ((data[0] & 1) != 0) {
		segment_header_put(&header, &file);
		header.size = file.len;
		buffer_put(&file, data + 1, size - 1);
		if ((data[0] & 2) != 0)
			mend_checksums(&file, header.size, header.number);
	} else {
		buffer_put(&file, data + 1, size - 1);
		if (!segment_header_parse(buffer_slice(&file), &header, &err)) {
			if (err.class != ERROR_STORAGE)
				abort();
			buffer_free(&file);
			return 0;
		}
	}
	scan(&file, &header, true);
	scan(&file, &header, false);
	buffer_free(&file);
	return 0;
}
