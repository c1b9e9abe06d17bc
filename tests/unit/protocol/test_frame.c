#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "protocol/message/frame.h"
#include "protocol/message/message.h"
#include "tests/unit/runner.h"

static void
put_frame(Buffer *out, char type, const void *payload, size_t len)
{
	buffer_put_u8(out, (uint8_t)type);
	buffer_put_u32(out, (uint32_t)len + 4);
	buffer_put(out, payload, len);
}

/* A session's worth of messages of all kinds. */
static Buffer
sample(void)
{
	Buffer out = BUFFER_INIT;

	put_frame(&out, 'R', "\0\0\0\0", 4);
	put_frame(&out, 'S', "a\0b", 4);
	put_frame(&out, 'K', "\0\0\0\1\0\0\0\2", 8);
	put_frame(&out, 'Z', "I", 1);
	put_frame(&out, 'd', "row one\n", 8);
	put_frame(&out, 'd', "", 0);
	put_frame(&out, 'd', "row three, a bit longer\n", 24);
	put_frame(&out, 'c', "", 0);
	put_frame(&out, 'C', "COPY 3", 7);
	put_frame(&out, 'Z', "T", 1);
	return out;
}

static void
feed(FrameReader *reader, const uint8_t *data, size_t len)
{
	while (len > 0) {
		size_t room;
		uint8_t *to = frame_reader_room(reader, &room);
		size_t take = len < room ? len : room;
		memcpy(to, data, take);
		frame_reader_received(reader, take);
		data += take;
		len -= take;
	}
}

/* Takes all whole frames and writes them again. */
static void
drain(FrameReader *reader, Buffer *again)
{
	Frame frame;
	Error err = ERROR_INIT;
	FrameResult result;

	while ((result = frame_reader_next(reader, &frame, &err)) == FRAME_READY)
		put_frame(again, frame.type, frame.payload.data, frame.payload.len);
	ck_assert_msg(result == FRAME_MORE, "%s", err.message);
}

START_TEST(every_split)
{
	Buffer bytes = sample();

	for (size_t cut = 0; cut <= bytes.len; cut++) {
		FrameReader reader;
		Buffer again = BUFFER_INIT;
		frame_reader_init(&reader, FRAME_LIMITS_SESSION);
		feed(&reader, bytes.data, cut);
		drain(&reader, &again);
		feed(&reader, bytes.data + cut, bytes.len - cut);
		drain(&reader, &again);
		ck_assert(slice_eq(buffer_slice(&again), buffer_slice(&bytes)));
		ck_assert_uint_eq(frame_reader_buffered(&reader), 0);
		buffer_free(&again);
		frame_reader_free(&reader);
	}
	buffer_free(&bytes);
}
END_TEST

START_TEST(byte_by_byte)
{
	Buffer bytes = sample(), again = BUFFER_INIT;
	FrameReader reader;

	frame_reader_init(&reader, FRAME_LIMITS_SESSION);
	for (size_t i = 0; i < bytes.len; i++) {
		feed(&reader, bytes.data + i, 1);
		drain(&reader, &again);
	}
	ck_assert(slice_eq(buffer_slice(&again), buffer_slice(&bytes)));
	buffer_free(&again);
	buffer_free(&bytes);
	frame_reader_free(&reader);
}
END_TEST

/* Runs of any cut put together are the CopyData as they came. */
START_TEST(runs_of_any_cut)
{
	Buffer bytes = BUFFER_INIT;
	Error err = ERROR_INIT;

	for (int i = 0; i < 9; i++)
		put_frame(&bytes, 'd', "0123456789", (size_t)i);
	size_t data_end = bytes.len;
	put_frame(&bytes, 'c', "", 0);
	for (size_t step = 1; step <= bytes.len; step++) {
		FrameReader reader;
		FrameRun run = {.other = false};
		FrameWalk walk = {.left = 0};
		Buffer again = BUFFER_INIT;
		uint64_t messages = 0;
		frame_reader_init(&reader, FRAME_LIMITS_SESSION);
		for (size_t at = 0; at < bytes.len; at += step) {
			feed(&reader, bytes.data + at, step < bytes.len - at ? step : bytes.len - at);
			ck_assert(frame_reader_run(&reader, &run, &err));
			ck_assert(frame_walk(&walk, run.bytes, &err));
			buffer_put_slice(&again, run.bytes);
			messages += run.messages;
		}
		ck_assert(run.other);
		ck_assert_uint_eq(messages, 9);
		ck_assert(frame_walk_between(&walk));
		ck_assert(slice_eq(buffer_slice(&again), slice_of(bytes.data, data_end)));
		Frame frame;
		ck_assert_int_eq(frame_reader_next(&reader, &frame, &err), FRAME_READY);
		ck_assert_int_eq(frame.type, 'c');
		buffer_free(&again);
		frame_reader_free(&reader);
	}
	buffer_free(&bytes);
}
END_TEST

START_TEST(walk_of_any_cut)
{
	Buffer bytes = BUFFER_INIT;
	Error err = ERROR_INIT;

	for (int i = 0; i < 5; i++)
		put_frame(&bytes, 'd', "0123456789", (size_t)i);
	for (size_t cut = 0; cut <= bytes.len; cut++) {
		FrameWalk walk = {.left = 0};
		ck_assert(frame_walk(&walk, slice_of(bytes.data, cut), &err));
		bool between = cut == 0 || cut == 5 || cut == 11 || cut == 18 || cut == 26 || cut == 35;
		ck_assert_int_eq(frame_walk_between(&walk), between);
		ck_assert(frame_walk(&walk, slice_of(bytes.data + cut, bytes.len - cut), &err));
		ck_assert(frame_walk_between(&walk));
	}
	FrameWalk walk = {.left = 0};
	ck_assert(!frame_walk(&walk, slice_of("c\0\0\0\4", 5), &err));
	ck_assert_int_eq(err.class, ERROR_BUG);
	buffer_free(&bytes);
}
END_TEST

static FrameResult
judge(FrameLimits limits, char type, uint32_t length)
{
	FrameReader reader;
	Buffer bytes = BUFFER_INIT;
	Frame frame;
	Error err = ERROR_INIT;

	buffer_put_u8(&bytes, (uint8_t)type);
	buffer_put_u32(&bytes, length);
	frame_reader_init(&reader, limits);
	feed(&reader, bytes.data, bytes.len);
	FrameResult result = frame_reader_next(&reader, &frame, &err);
	ck_assert((result == FRAME_BAD) == (err.class == ERROR_PROTOCOL));
	/* The announced length alone makes nobody allocate. */
	ck_assert_uint_le(reader.cap, 1 << 20);
	frame_reader_free(&reader);
	buffer_free(&bytes);
	return result;
}

START_TEST(lengths_are_capped)
{
	static const struct {
		char type;
		uint32_t least, most; /* of the length field */
	} known[] = {
		{'R', 8, 4 + 8192},
		{'K', 12, 4 + 260},
		{'Z', 5, 5},
		{'E', 4, 4 + (16u << 20)},
		{'N', 4, 4 + (16u << 20)},
		{'D', 4, 4 + (1u << 30)},
		{'d', 4, 4 + (1u << 30)},
		{'T', 4, 4 + (1u << 20)},
		{'S', 4, 4 + (1u << 20)},
		{'G', 7, 4 + 65536},
		{'H', 7, 4 + 65536},
		{'W', 7, 4 + 65536},
		{'v', 12, 4 + 65536},
		{'C', 4, 4 + 65536},
		{'A', 4, 4 + 65536},
		{'c', 4, 4},
		{'I', 4, 4},
		{'t', 6, 6 + 4 * 65535},
		{'1', 4, 4},
		{'2', 4, 4},
		{'3', 4, 4},
		{'n', 4, 4},
		{'s', 4, 4},
	};

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
		char type = known[i].type;
		ck_assert_int_ne(judge(FRAME_LIMITS_SESSION, type, known[i].least), FRAME_BAD);
		ck_assert_int_eq(judge(FRAME_LIMITS_SESSION, type, known[i].least - 1), FRAME_BAD);
		ck_assert_int_ne(judge(FRAME_LIMITS_SESSION, type, known[i].most), FRAME_BAD);
		ck_assert_int_eq(judge(FRAME_LIMITS_SESSION, type, known[i].most + 1), FRAME_BAD);
		ck_assert_int_eq(judge(FRAME_LIMITS_SESSION, type, 0), FRAME_BAD);
		ck_assert_int_eq(judge(FRAME_LIMITS_SESSION, type, UINT32_MAX), FRAME_BAD);
		ck_assert_int_eq(judge(FRAME_LIMITS_SESSION, type, 0x80000000), FRAME_BAD);
	}
	ck_assert_int_eq(judge(FRAME_LIMITS_STARTUP, 'E', 4 + 30000), FRAME_MORE);
	ck_assert_int_eq(judge(FRAME_LIMITS_STARTUP, 'E', 4 + 30001), FRAME_BAD);
	ck_assert_int_eq(judge(FRAME_LIMITS_STARTUP, 'd', 5), FRAME_BAD);
	for (int type = 0; type < 256; type++)
		if (type == 0 || strchr("RKZENDdTSGHWvCAcIt123ns", type) == NULL)
			ck_assert_int_eq(judge(FRAME_LIMITS_SESSION, (char)type, 8), FRAME_BAD);
}
END_TEST

/* Memory for one huge message comes with its bytes and goes with it. */
START_TEST(large_messages)
{
	size_t size = 9 << 20;
	uint8_t *big = malloc(size);
	FrameReader reader;
	Frame frame;
	Error err = ERROR_INIT;
	Buffer header = BUFFER_INIT;
	size_t room;

	memset(big, 'x', size);
	frame_reader_init(&reader, FRAME_LIMITS_SESSION);
	buffer_put_u8(&header, 'd');
	buffer_put_u32(&header, (uint32_t)size + 4);
	feed(&reader, header.data, header.len);
	feed(&reader, big, size - 1);
	ck_assert_int_eq(frame_reader_next(&reader, &frame, &err), FRAME_MORE);
	feed(&reader, big, 1);
	ck_assert_int_eq(frame_reader_next(&reader, &frame, &err), FRAME_READY);
	ck_assert(slice_eq(frame.payload, slice_of(big, size)));
	frame_reader_room(&reader, &room);
	ck_assert_uint_le(reader.cap, 1 << 20);
	frame_reader_free(&reader);
	buffer_free(&header);
	free(big);
}
END_TEST

static Suite *
frame_suite(void)
{
	Suite *suite = suite_create("protocol/frame");
	TCase *tcase = tcase_create("frame");

	tcase_set_timeout(tcase, 60);
	tcase_add_test(tcase, every_split);
	tcase_add_test(tcase, byte_by_byte);
	tcase_add_test(tcase, runs_of_any_cut);
	tcase_add_test(tcase, walk_of_any_cut);
	tcase_add_test(tcase, lengths_are_capped);
	tcase_add_test(tcase, large_messages);
	suite_add_tcase(suite, tcase);
	return suite;
}
TEST_SUITE(frame_suite)
