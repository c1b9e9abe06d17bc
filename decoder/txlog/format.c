#include <stdio.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "decoder/txlog/internal.h"

static const char segment_magic[8] = {'P', 'G', 'B', 'A', 'T', 'L', 'O', 'G'};
#define SEGMENT_VERSION 1
#define BLOCK_MAGIC UINT32_C(0x50474242) /* "PGBB" */
#define BLOCK_CHECKSUM_AT (BLOCK_HEADER_SIZE - 8)
/* A message's most, its frame, and some room: nothing larger was ever written. */
#define BLOCK_RAW_MAX (TXLOG_MESSAGE_MAX + 64 * 1024)

void
segment_header_put(const SegmentHeader *header, Buffer *out)
{
	size_t start = out->len;

	buffer_put(out, segment_magic, sizeof(segment_magic));
	buffer_put_u32(out, SEGMENT_VERSION);
	buffer_put_u32(out, 0); /* the length, below */
	buffer_put_u64(out, header->number);
	buffer_put_u64(out, header->previous_commit.v);
	buffer_put_u64(out, header->previous_end.v);
	buffer_put_cstr(out, header->identity);
	buffer_set_u32(out, start + 12, (uint32_t)(out->len + 8 - start));
	buffer_put_u64(out, hash_bytes(slice_of(out->data + start, out->len - start), 0));
}

bool
segment_header_parse(Slice bytes, SegmentHeader *out, Error *err)
{
	ByteReader r = reader_of(bytes);
	Slice magic = read_bytes(&r, sizeof(segment_magic));

	if (!slice_eq(magic, slice_of(segment_magic, sizeof(segment_magic))))
		return error_set(err, ERROR_STORAGE, "not a segment of a transaction log");
	uint32_t version = read_u32(&r);
	uint32_t size = read_u32(&r);
	if (version != SEGMENT_VERSION)
		return error_set(err, ERROR_STORAGE, "transaction log format %u; this program reads %d",
		                 version, SEGMENT_VERSION);
	if (r.failed || size > bytes.len || size > SEGMENT_HEADER_MAX || size < 49)
		return error_set(err, ERROR_STORAGE, "the segment's header is damaged (length)");

	r = reader_of(slice_of(bytes.data + size - 8, 8));
	if (read_u64(&r) != hash_bytes(slice_of(bytes.data, size - 8), 0))
		return error_set(err, ERROR_STORAGE, "the segment's header is damaged (checksum)");

	r = reader_of(slice_of(bytes.data + 16, size - 8 - 16));
	out->size = size;
	out->number = read_u64(&r);
	out->previous_commit = lsn_make(read_u64(&r));
	out->previous_end = lsn_make(read_u64(&r));
	const char *identity = read_cstr(&r);
	if (!reader_done(&r) || strlen(identity) >= sizeof(out->identity))
		return error_set(err, ERROR_STORAGE, "the segment's header is damaged (identity)");
	memcpy(out->identity, identity, strlen(identity) + 1);
	return true;
}

static uint64_t
checksum(const uint8_t *header, uint64_t segment, const Slice *pieces, int count)
{
	XXH3_state_t state;

	XXH3_INITSTATE(&state);
	XXH3_64bits_reset_withSeed(&state, segment);
	XXH3_64bits_update(&state, header, BLOCK_CHECKSUM_AT);
	for (int i = 0; i < count; i++)
		if (pieces[i].len > 0)
			XXH3_64bits_update(&state, pieces[i].data, pieces[i].len);
	return XXH3_64bits_digest(&state);
}

static void
store_u32(uint8_t *to, uint32_t v)
{
	for (int i = 0; i < 4; i++)
		to[i] = (uint8_t)(v >> (24 - 8 * i));
}

static void
store_u64(uint8_t *to, uint64_t v)
{
	store_u32(to, (uint32_t)(v >> 32));
	store_u32(to + 4, (uint32_t)v);
}

void
block_header_put(const BlockHeader *header, uint64_t segment, const Slice *pieces, int count,
                 uint8_t out[BLOCK_HEADER_SIZE])
{
	store_u32(out, BLOCK_MAGIC);
	store_u32(out + 4, header->flags);
	store_u32(out + 8, header->stored_len);
	store_u32(out + 12, header->raw_len);
	store_u64(out + 16, header->offset);
	store_u64(out + 24, header->first_commit.v);
	store_u64(out + 32, header->last_commit.v);
	store_u64(out + 40, header->last_end.v);
	store_u64(out + 48, (uint64_t)header->last_time_us);
	store_u64(out + BLOCK_CHECKSUM_AT, checksum(out, segment, pieces, count));
}

const char *
block_header_parse(const uint8_t bytes[BLOCK_HEADER_SIZE], uint64_t offset, uint64_t left,
                   BlockHeader *out)
{
	ByteReader r = reader_of(slice_of(bytes, BLOCK_HEADER_SIZE));

	if (left < BLOCK_HEADER_SIZE)
		return "the block's header is not whole";
	if (read_u32(&r) != BLOCK_MAGIC)
		return "no block starts here";
	out->flags = read_u32(&r);
	out->stored_len = read_u32(&r);
	out->raw_len = read_u32(&r);
	out->offset = read_u64(&r);
	out->first_commit = lsn_make(read_u64(&r));
	out->last_commit = lsn_make(read_u64(&r));
	out->last_end = lsn_make(read_u64(&r));
	out->last_time_us = (int64_t)read_u64(&r);
	if (out->offset != offset)
		return "the block belongs to another place";
	if (out->stored_len > left - BLOCK_HEADER_SIZE)
		return "the block is not whole";
	if ((out->flags & ~(unsigned)BLOCK_FLAGS) != 0 ||
	    ((out->flags & BLOCK_LAST) != 0 && (out->flags & BLOCK_PART) == 0))
		return "the block's flags are unknown";
	/* LZ4 shrinks to a 255th at the very best: caps what a length can make us
	 * allocate before the bytes have proved anything. No block is empty. */
	if (out->raw_len > BLOCK_RAW_MAX || out->raw_len == 0 || out->stored_len == 0 ||
	    ((out->flags & BLOCK_LZ4) == 0 ? out->raw_len != out->stored_len
	                                   : out->raw_len / 255 > out->stored_len))
		return "the block's lengths do not fit each other";
	return NULL;
}

bool
block_checksum_ok(const uint8_t header[BLOCK_HEADER_SIZE], uint64_t segment, Slice stored)
{
	ByteReader r = reader_of(slice_of(header + BLOCK_CHECKSUM_AT, 8));
	return read_u64(&r) == checksum(header, segment, &stored, 1);
}

void
frame_header_put(size_t len, FrameKind kind, uint8_t out[FRAME_HEADER_SIZE])
{
	store_u32(out, (uint32_t)len);
	out[4] = (uint8_t)kind;
}

void
streamed_ref_put(const StreamedRef *ref, Buffer *out)
{
	uint8_t head[FRAME_HEADER_SIZE];

	frame_header_put(STREAMED_REF_SIZE, FRAME_STREAMED, head);
	buffer_put(out, head, sizeof(head));
	buffer_put_u32(out, ref->xid);
	buffer_put_u64(out, ref->seed);
	buffer_put_u64(out, ref->bytes);
	buffer_put_u64(out, ref->commit.v);
	buffer_put_u64(out, ref->end.v);
	buffer_put_u64(out, (uint64_t)ref->time_us);
}

static bool
ref_parse(Slice record, StreamedRef *out)
{
	ByteReader r = reader_of(record);

	out->xid = read_u32(&r);
	out->seed = read_u64(&r);
	out->bytes = read_u64(&r);
	out->commit = lsn_make(read_u64(&r));
	out->end = lsn_make(read_u64(&r));
	out->time_us = (int64_t)read_u64(&r);
	return reader_done(&r) && out->xid != 0 && out->bytes > BLOCK_HEADER_SIZE &&
	       out->bytes <= INT64_MAX && lsn_valid(out->commit) && lsn_cmp(out->end, out->commit) >= 0;
}

Slice
streamed_ref_begin(const StreamedRef *ref, uint8_t out[STREAMED_MESSAGE_MAX])
{
	out[0] = PGO_BEGIN;
	store_u64(out + 1, ref->commit.v);
	store_u64(out + 9, (uint64_t)ref->time_us);
	store_u32(out + 17, ref->xid);
	return slice_of(out, 21);
}

Slice
streamed_ref_commit(const StreamedRef *ref, uint8_t out[STREAMED_MESSAGE_MAX])
{
	out[0] = PGO_COMMIT;
	out[1] = 0; /* flags */
	store_u64(out + 2, ref->commit.v);
	store_u64(out + 10, ref->end.v);
	store_u64(out + 18, (uint64_t)ref->time_us);
	return slice_of(out, 26);
}

bool
frame_next(Slice raw, size_t *inside, Frame *frame, const char **problem)
{
	*problem = NULL;
	if (*inside == raw.len)
		return false;

	ByteReader r = reader_of(raw);
	read_bytes(&r, *inside);
	uint32_t len = read_u32(&r);
	uint8_t kind = read_u8(&r);
	frame->kind = (FrameKind)kind;
	frame->message = read_bytes(&r, len);
	if (r.failed || len == 0)
		*problem = "a message is longer than its block";
	else if (kind == FRAME_STREAMED && !ref_parse(frame->message, &frame->streamed))
		*problem = "a reference to a streamed transaction is malformed";
	else if (kind != FRAME_MESSAGE && kind != FRAME_STREAMED)
		*problem = "it has a record of an unknown kind";
	if (*problem != NULL)
		return false;
	*inside += FRAME_HEADER_SIZE + len;
	return true;
}
