/* common/bytes.c and common/lsn.c */
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/lsn.h"
#include "common/memory.h"
#include "tests/unit/runner.h"

static void
put_all(Buffer *buf)
{
	buffer_put_u8(buf, 0xfe);
	buffer_put_u16(buf, 0x0102);
	buffer_put_u32(buf, 0xfffefdfc);
	buffer_put_u64(buf, UINT64_C(0x0123456789abcdef));
	buffer_put_cstr(buf, "name");
	buffer_put(buf, "raw", 3);
	buffer_put_cstr(buf, "");
}

/* Reads what put_all wrote; whether it was all there and nothing more. */
static bool
read_all(Slice from)
{
	ByteReader r = reader_of(from);

	bool same = read_u8(&r) == 0xfe;
	same &= read_u16(&r) == 0x0102;
	same &= read_u32(&r) == 0xfffefdfc;
	same &= read_u64(&r) == UINT64_C(0x0123456789abcdef);
	const char *name = read_cstr(&r);
	same &= name != NULL && strcmp(name, "name") == 0;
	same &= slice_eq_cstr(read_bytes(&r, 3), "raw");
	const char *empty = read_cstr(&r);
	same &= empty != NULL && empty[0] == '\0';
	bool done = reader_done(&r);
	ck_assert(!done || same);
	return done;
}

START_TEST(network_order)
{
	static const uint8_t expected[] = {
		0xfe, 0x01, 0x02, 0xff, 0xfe, 0xfd, 0xfc, 0x01, 0x23, 0x45, 0x67, 0x89,
		0xab, 0xcd, 0xef, 'n',  'a',  'm',  'e',  0,    'r',  'a',  'w',  0,
	};
	Buffer buf = BUFFER_INIT;

	put_all(&buf);
	ck_assert_uint_eq(buf.len, sizeof(expected));
	ck_assert_mem_eq(buf.data, expected, sizeof(expected));
	ck_assert(read_all(buffer_slice(&buf)));
	buffer_free(&buf);
	ck_assert_ptr_null(buf.data);
}
END_TEST

START_TEST(every_truncation_is_noticed)
{
	Buffer buf = BUFFER_INIT;

	put_all(&buf);
	for (size_t len = 0; len < buf.len; len++) {
		/* A copy of exactly this size: a sanitizer sees a byte read beyond it. */
		uint8_t *exact = mem_alloc(len);
		memcpy(exact, buf.data, len);
		ck_assert_msg(!read_all(slice_of(exact, len)), "cut at %zu", len);
		free(exact);
	}
	buffer_put_u8(&buf, 0);
	ck_assert(!read_all(buffer_slice(&buf))); /* one byte too many */
	buffer_free(&buf);
}
END_TEST

START_TEST(failure_is_sticky)
{
	ByteReader r = reader_of(slice_of("\1\2\3\4", 4));

	ck_assert_uint_eq(read_u64(&r), 0);
	ck_assert(r.failed);
	ck_assert_uint_eq(read_u8(&r), 0);
	ck_assert_uint_eq(read_u16(&r), 0);
	ck_assert_uint_eq(read_u32(&r), 0);
	ck_assert_ptr_null(read_cstr(&r));
	ck_assert_ptr_null(read_bytes(&r, 0).data);
	ck_assert(!reader_done(&r));
	ck_assert_uint_eq(reader_left(&r), 4); /* nothing was taken */
}
END_TEST

START_TEST(empty_and_huge_lengths)
{
	ByteReader r = reader_of(SLICE_EMPTY);

	ck_assert(reader_done(&r));
	ck_assert_uint_eq(read_bytes(&r, 0).len, 0);
	ck_assert(reader_done(&r));
	ck_assert_uint_eq(read_bytes(&r, SIZE_MAX).len, 0);
	ck_assert(r.failed);

	r = reader_of(slice_of("abc", 3)); /* no terminating zero inside */
	ck_assert_ptr_null(read_cstr(&r));
	ck_assert(r.failed);
}
END_TEST

START_TEST(buffer_grows_and_keeps_its_bytes)
{
	Buffer buf = BUFFER_INIT;

	for (unsigned i = 0; i < 100000; i++)
		buffer_put_u32(&buf, i);
	ByteReader r = reader_of(buffer_slice(&buf));
	for (unsigned i = 0; i < 100000; i++)
		ck_assert_uint_eq(read_u32(&r), i);
	ck_assert(reader_done(&r));
	size_t cap = buf.cap;
	buffer_reset(&buf);
	ck_assert_uint_eq(buf.len, 0);
	ck_assert_uint_eq(buf.cap, cap);
	buffer_free(&buf);
}
END_TEST

START_TEST(text_in_a_buffer)
{
	Buffer buf = BUFFER_INIT;

	ck_assert_str_eq(buffer_cstr(&buf), "");
	buffer_put_text(&buf, "ab");
	buffer_printf(&buf, "%05d", 42);
	ck_assert_uint_eq(buf.len, 7);
	ck_assert_str_eq(buffer_cstr(&buf), "ab00042");
	ck_assert_uint_eq(buf.len, 7); /* the zero is not counted */
	buffer_put_slice(&buf, slice_cstr("!"));
	buffer_put(&buf, NULL, 0);
	ck_assert_str_eq(buffer_cstr(&buf), "ab00042!");
	for (int i = 0; i < 1000; i++)
		buffer_printf(&buf, "%d", i % 10);
	ck_assert_uint_eq(strlen(buffer_cstr(&buf)), 1008);
	buffer_free(&buf);
}
END_TEST

START_TEST(length_set_later_and_front_consumed)
{
	Buffer buf = BUFFER_INIT;

	buffer_put_u8(&buf, 'Q');
	buffer_put_u32(&buf, 0);
	buffer_put_cstr(&buf, "SELECT 1");
	buffer_set_u32(&buf, 1, (uint32_t)buf.len - 1);
	ck_assert_mem_eq(buf.data, "Q\0\0\0\15SELECT 1", 14);
	buffer_consume(&buf, 5);
	ck_assert_str_eq((const char *)buf.data, "SELECT 1");
	buffer_consume(&buf, 0);
	ck_assert_uint_eq(buf.len, 9);
	buffer_consume(&buf, 9);
	ck_assert_uint_eq(buf.len, 0);
	buffer_free(&buf);
}
END_TEST

START_TEST(lsn_text_and_back)
{
	static const struct {
		const char *text;
		uint64_t value;
	} cases[] = {
		{"0/0", 0},
		{"0/1", 1},
		{"1/0", UINT64_C(1) << 32},
		{"16/B374D848", UINT64_C(0x16B374D848)},
		{"FFFFFFFF/FFFFFFFF", UINT64_MAX},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		Lsn lsn;
		char out[LSN_TEXT_SIZE];
		ck_assert(lsn_parse(cases[i].text, &lsn));
		ck_assert_uint_eq(lsn.v, cases[i].value);
		ck_assert_str_eq(lsn_format(lsn, out), cases[i].text);
		ck_assert_str_eq(LSN_STR(lsn), cases[i].text);
	}
	Lsn lsn;
	ck_assert(lsn_parse("00000016/b374d848", &lsn)); /* as some tools print it */
	ck_assert_uint_eq(lsn.v, UINT64_C(0x16B374D848));
}
END_TEST

START_TEST(what_is_no_lsn)
{
	static const char *const wrong[] = {
		"",     "/",     "0",    "0/",   "/0",  "0/0 ",        " 0/0",        "0/0x",  "0x1/0",
		"0//0", "0/0/0", "-1/0", "+1/0", "g/0", "000000001/0", "0/000000001", "1.0/0", "0/\xc3\xa9",
	};

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		Lsn lsn = lsn_make(77);
		ck_assert_msg(!lsn_parse(wrong[i], &lsn), "\"%s\"", wrong[i]);
		ck_assert_uint_eq(lsn.v, 77);
	}
}
END_TEST

START_TEST(lsn_order)
{
	Lsn low = lsn_make(0xffffffff);
	Lsn high = lsn_make(UINT64_C(1) << 32);

	ck_assert_int_lt(lsn_cmp(low, high), 0);
	ck_assert_int_gt(lsn_cmp(high, low), 0);
	ck_assert_int_eq(lsn_cmp(low, low), 0);
	ck_assert_int_lt(lsn_cmp(LSN_INVALID, lsn_make(UINT64_MAX)), 0);
	ck_assert_uint_eq(lsn_max(low, high).v, high.v);
	ck_assert_uint_eq(lsn_min(low, high).v, low.v);
	ck_assert(!lsn_valid(LSN_INVALID));
	ck_assert(lsn_valid(low));
}
END_TEST

static Suite *
make_bytes(void)
{
	Suite *suite = suite_create("bytes");
	TCase *bytes = tcase_create("bytes");
	TCase *lsn = tcase_create("lsn");

	tcase_add_test(bytes, network_order);
	tcase_add_test(bytes, every_truncation_is_noticed);
	tcase_add_test(bytes, failure_is_sticky);
	tcase_add_test(bytes, empty_and_huge_lengths);
	tcase_add_test(bytes, buffer_grows_and_keeps_its_bytes);
	tcase_add_test(bytes, text_in_a_buffer);
	tcase_add_test(bytes, length_set_later_and_front_consumed);
	suite_add_tcase(suite, bytes);
	tcase_add_test(lsn, lsn_text_and_back);
	tcase_add_test(lsn, what_is_no_lsn);
	tcase_add_test(lsn, lsn_order);
	suite_add_tcase(suite, lsn);
	return suite;
}
TEST_SUITE(make_bytes)
