#include "protocol/message/frame.h"

#include <stdlib.h>
#include <string.h>

#include "common/memory.h"

enum {
	ROOM_MIN = 16 * 1024,
	/* Large reads make large runs in the copy relay: fewer system calls. */
	BUFFER_BASE = 256 * 1024,
	/* A buffer that grew for one huge message goes back when it is empty. */
	BUFFER_KEEP = 4 * 1024 * 1024,
};

void
frame_reader_init(FrameReader *reader, FrameLimits limits)
{
	*reader = (FrameReader){.limits = limits};
}

void
frame_reader_free(FrameReader *reader)
{
	mem_wipe(reader->data, reader->len);
	free(reader->data);
	*reader = (FrameReader){.limits = reader->limits};
}

static uint32_t
load_u32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

uint8_t *
frame_reader_room(FrameReader *reader, size_t *room)
{
	CHECK(reader->pos <= reader->len && reader->len <= reader->cap);
	if (reader->pos == reader->len) {
		reader->pos = reader->len = 0;
		if (reader->cap > BUFFER_KEEP) {
			free(reader->data);
			reader->data = NULL;
			reader->cap = 0;
		}
	}
	if (reader->data == NULL) {
		reader->data = mem_alloc(BUFFER_BASE);
		reader->cap = BUFFER_BASE;
	}
	if (reader->pos > 0 && reader->cap - reader->len < reader->cap / 2) {
		/* What stands at the end is one message's beginning: short. */
		memmove(reader->data, reader->data + reader->pos, reader->len - reader->pos);
		reader->len -= reader->pos;
		reader->pos = 0;
	}
	if (reader->cap - reader->len < ROOM_MIN) {
		reader->data = mem_realloc(reader->data, reader->cap * 2);
		reader->cap *= 2;
	}
	*room = reader->cap - reader->len;
	return reader->data + reader->len;
}

void
frame_reader_received(FrameReader *reader, size_t count)
{
	CHECK(count <= reader->cap - reader->len);
	reader->len += count;
}

/* The payload sizes that make sense for a type; false: no such message. */
static bool
type_bounds(const FrameLimits *limits, char type, uint32_t *min, uint32_t *max)
{
	*min = 0;
	*max = 64 * 1024;
	switch (type) {
	case 'R': /* Authentication: SASL data are a few hundred bytes */
		*min = 4;
		*max = 8 * 1024;
		return true;
	case 'K': /* BackendKeyData: a key of 4 to 256 bytes */
		*min = 8;
		*max = 4 + 256;
		return true;
	case 'Z': /* ReadyForQuery */
		*min = *max = 1;
		return true;
	case 'E':
	case 'N':
		*max = limits->answer;
		return true;
	case 'D':
	case 'd':
		*max = limits->data;
		return limits->data > 0;
	case 'T': /* RowDescription: 1,664 columns with their names */
	case 'S': /* ParameterStatus: search_path may be long */
		*max = 1024 * 1024;
		return true;
	case 'G':
	case 'H':
	case 'W': /* CopyIn-, CopyOut-, CopyBothResponse */
		*min = 3;
		return true;
	case 'v': /* NegotiateProtocolVersion */
		*min = 8;
		return true;
	case 'C':
	case 'A': /* CommandComplete, NotificationResponse */
		return true;
	case 't': /* ParameterDescription: an Int16 and so many OIDs */
		*min = 2;
		*max = 2 + 4 * 65535;
		return true;
	case '1':
	case '2':
	case '3': /* Parse-, Bind-, CloseComplete */
	case 'n':
	case 's': /* NoData, PortalSuspended */
	case 'c':
	case 'I': /* CopyDone, EmptyQueryResponse */
		*max = 0;
		return true;
	default:
		return false;
	}
}

static bool
header_check(const FrameReader *reader, const uint8_t *header, uint32_t *payload, Error *err)
{
	uint32_t length = load_u32(header + 1);
	uint32_t min, max;
	char type = (char)header[0];

	if (!type_bounds(&reader->limits, type, &min, &max))
		return error_set(err, ERROR_PROTOCOL, "unexpected message type 0x%02x from the server",
		                 header[0]);
	if (length < 4 || length - 4 < min || length - 4 > max)
		return error_set(err, ERROR_PROTOCOL,
		                 "message '%c' from the server has the impossible length %u", type, length);
	*payload = length - 4;
	return true;
}

FrameResult
frame_reader_next(FrameReader *reader, Frame *out, Error *err)
{
	CHECK(reader->run_left == 0);
	const uint8_t *at = reader->data + reader->pos;
	size_t have = frame_reader_buffered(reader);
	uint32_t payload;

	if (have < FRAME_HEADER_SIZE)
		return FRAME_MORE;
	if (!header_check(reader, at, &payload, err))
		return FRAME_BAD;
	if (have - FRAME_HEADER_SIZE < payload)
		return FRAME_MORE;
	out->type = (char)at[0];
	out->payload = slice_of(at + FRAME_HEADER_SIZE, payload);
	reader->pos += FRAME_HEADER_SIZE + (size_t)payload;
	return FRAME_READY;
}

bool
frame_reader_run(FrameReader *reader, FrameRun *out, Error *err)
{
	size_t start = reader->pos;

	*out = (FrameRun){.bytes = SLICE_EMPTY};
	for (;;) {
		size_t have = frame_reader_buffered(reader);
		if (reader->run_left > 0) {
			size_t take = have < reader->run_left ? have : (size_t)reader->run_left;
			reader->pos += take;
			reader->run_left -= take;
			if (reader->run_left > 0)
				break;
			continue;
		}
		if (have < FRAME_HEADER_SIZE)
			break;
		const uint8_t *at = reader->data + reader->pos;
		uint32_t payload;
		if (!header_check(reader, at, &payload, err))
			return false;
		if (at[0] != 'd') {
			out->other = true;
			break;
		}
		reader->pos += FRAME_HEADER_SIZE;
		reader->run_left = payload;
		out->messages++;
	}
	if (reader->pos > start)
		out->bytes = slice_of(reader->data + start, reader->pos - start);
	return true;
}

bool
frame_walk(FrameWalk *walk, Slice bytes, Error *err)
{
	const uint8_t *at = bytes.data;
	size_t left = bytes.len;

	while (left > 0) {
		size_t take;
		if (walk->left > 0) {
			take = left < walk->left ? left : (size_t)walk->left;
			walk->left -= take;
		} else {
			take = FRAME_HEADER_SIZE - walk->header_len;
			if (take > left)
				take = left;
			memcpy(walk->header + walk->header_len, at, take);
			walk->header_len += (uint32_t)take;
			if (walk->header_len == FRAME_HEADER_SIZE) {
				uint32_t length = load_u32(walk->header + 1);
				if (walk->header[0] != 'd' || length < 4)
					return error_set(err, ERROR_BUG, "copy data to send is not CopyData");
				walk->left = length - 4;
				walk->header_len = 0;
			}
		}
		at += take;
		left -= take;
	}
	return true;
}
