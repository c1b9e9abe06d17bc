/*
 * Bytes of a hostile server through the frame reader, and each frame through
 * the parsers of its type. Invariants: however the bytes are cut, the same
 * frames come out; what came out and what is left is what went in; a failure
 * has its class; no text that a parser hands out leaves the payload.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common/memory.h"
#include "protocol/message/frame.h"
#include "protocol/message/message.h"
#include "protocol/replication.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
inside(Slice payload, const char *text)
{
	const uint8_t *at = (const uint8_t *)text;

	if (text == NULL)
		return;
	CHECK(at >= payload.data && at < payload.data + payload.len);
	CHECK(at + strlen(text) < payload.data + payload.len);
}

static bool
parse_report(Slice payload, Error *err)
{
	ServerReport r;

	if (!message_parse_report(payload, &r, err))
		return false;
	const char *const texts[] = {r.severity, r.severity_raw,  r.sqlstate, r.message,
	                             r.detail,   r.hint,          r.where,    r.schema,
	                             r.table,    r.source_routine};
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		inside(payload, texts[i]);
	Error sql = ERROR_INIT;
	CHECK(!server_report_to_error(&r, &sql) && sql.class == ERROR_SQL);
	return true;
}

static bool
parse_columns(Slice payload, Error *err)
{
	ByteReader r;
	ColumnDescription column;
	int count;

	if (!message_row_description_begin(payload, &r, &count, err))
		return false;
	for (int i = 0; i < count; i++) {
		if (!message_row_description_next(&r, &column, err))
			return false;
		inside(payload, column.name);
	}
	return message_end(&r, "RowDescription", err);
}

static bool
parse_row(Slice payload, Error *err)
{
	ByteReader r;
	Slice value;
	bool is_null;
	int count;

	if (!message_data_row_begin(payload, &r, &count, err))
		return false;
	for (int i = 0; i < count; i++) {
		if (!message_data_row_next(&r, &value, &is_null, err))
			return false;
		CHECK(!is_null || value.len == 0);
	}
	return message_end(&r, "DataRow", err);
}

static bool
parse_frame(const Frame *frame, Error *err)
{
	const char *name, *value;
	uint32_t number, other;
	uint64_t rows;
	Slice key;
	char status;
	int format;
	ReplicationFrame envelope;

	switch (frame->type) {
	case 'E':
	case 'N':
		return parse_report(frame->payload, err);
	case 'S':
		if (!message_parse_parameter(frame->payload, &name, &value, err))
			return false;
		inside(frame->payload, name);
		inside(frame->payload, value);
		return true;
	case 'K':
		return message_parse_key(frame->payload, &number, &key, err);
	case 'Z':
		return message_parse_ready(frame->payload, &status, err);
	case 'v':
		return message_parse_negotiate(frame->payload, &number, &other, err);
	case 'T':
		return parse_columns(frame->payload, err);
	case 'D':
		return parse_row(frame->payload, err);
	case 'C':
		if (!message_parse_complete(frame->payload, &name, &rows, err))
			return false;
		inside(frame->payload, name);
		return true;
	case 'G':
	case 'H':
	case 'W':
		return message_parse_copy_response(frame->payload, &format, err);
	case 'd':
		if (!replication_parse(frame->payload, &envelope, err))
			return false;
		CHECK(envelope.kind != REPLICATION_DATA || envelope.message.len > 0);
		return true;
	default:
		return true;
	}
}

typedef struct {
	uint64_t frames;
	uint64_t bytes;
	uint64_t sum; /* of types and lengths, in order */
	bool bad;
} Seen;

static Seen
run(const uint8_t *data, size_t size, size_t step, FrameLimits limits)
{
	FrameReader reader;
	Seen seen = {0};

	frame_reader_init(&reader, limits);
	for (size_t at = 0; at < size && !seen.bad;) {
		size_t room, take = size - at < step ? size - at : step;
		uint8_t *to = frame_reader_room(&reader, &room);
		if (take > room)
			take = room;
		memcpy(to, data + at, take);
		frame_reader_received(&reader, take);
		at += take;
		for (;;) {
			Frame frame;
			Error err = ERROR_INIT;
			FrameResult result = frame_reader_next(&reader, &frame, &err);
			CHECK((result == FRAME_BAD) == (err.class == ERROR_PROTOCOL));
			seen.bad = result == FRAME_BAD;
			if (result != FRAME_READY)
				break;
			seen.frames++;
			seen.bytes += FRAME_HEADER_SIZE + frame.payload.len;
			seen.sum = seen.sum * 31 + (uint8_t)frame.type + frame.payload.len * 257;
			CHECK(parse_frame(&frame, &err) || err.class == ERROR_PROTOCOL);
		}
		CHECK(seen.bad || seen.bytes + frame_reader_buffered(&reader) == at);
	}
	frame_reader_free(&reader);
	return seen;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 2)
		return 0;
	FrameLimits limits = data[0] & 1 ? FRAME_LIMITS_STARTUP : FRAME_LIMITS_SESSION;
	Seen whole = run(data + 2, size - 2, SIZE_MAX, limits);
	Seen cut = run(data + 2, size - 2, (size_t)data[1] + 1, limits);

	CHECK(whole.frames == cut.frames && whole.bytes == cut.bytes && whole.sum == cut.sum &&
	      whole.bad == cut.bad);
	return 0;
}
