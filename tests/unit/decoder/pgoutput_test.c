#include "decoder/pgoutput.h"

#include <stdlib.h>

#include "common/memory.h"
#include "tests/unit/decoder/messages.h"
#include "tests/unit/runner.h"

static const PgoContext plain = {.proto_version = 1};
static const PgoContext plain4 = {.proto_version = 4};
static const PgoContext stream = {.proto_version = 4, .in_stream = true};
static const PgoContext parallel = {.proto_version = 4, .parallel_streaming = true};

/* Parses a copy of exactly that size, so that a sanitizer sees a read past it. */
static bool
parse(const PgoContext *context, Slice bytes, PgoMessage *out, Error *err)
{
	static Arena *arena;
	static uint8_t *copy;
	if (arena == NULL)
		arena = arena_new(0);
	arena_reset(arena);
	free(copy);
	copy = mem_alloc(bytes.len);
	if (bytes.len > 0)
		memcpy(copy, bytes.data, bytes.len);
	return pgoutput_parse(context, slice_of(copy, bytes.len), arena, out, err);
}

static PgoMessage
parse_ok(const PgoContext *context, const Buffer *buf)
{
	PgoMessage out;
	Error err = ERROR_INIT;
	ck_assert_msg(parse(context, buffer_slice(buf), &out, &err), "%s", err.message);
	return out;
}

static void
put_old_and_new(Buffer *out, char old)
{
	buffer_put_u32(out, 77);
	if (old != 0) {
		buffer_put_u8(out, (uint8_t)old);
		buffer_put_u16(out, 2);
		buffer_put_u8(out, 't');
		buffer_put_u32(out, 2);
		buffer_put_text(out, "42");
		buffer_put_u8(out, 'n');
	}
}

static void
put_new(Buffer *out)
{
	buffer_put_u8(out, 'N');
	buffer_put_u16(out, 2);
	buffer_put_u8(out, 'b');
	buffer_put_u32(out, 4);
	buffer_put_u32(out, 43);
	buffer_put_u8(out, 'u');
}

static void
put_prepared(Buffer *out, char kind)
{
	buffer_put_u8(out, (uint8_t)kind);
	if (kind != 'b')
		buffer_put_u8(out, 0);
	buffer_put_u64(out, 0x1000);
	buffer_put_u64(out, 0x1100);
	buffer_put_u64(out, 5);
	if (kind == 'r')
		buffer_put_u64(out, 6);
	buffer_put_u32(out, 9);
	buffer_put_cstr(out, "gid-1");
}

typedef struct {
	const char *name;
	const PgoContext *context;
	Buffer bytes;
} Sample;

enum { SAMPLES = 29 };

static Buffer *
sample_add(Sample *samples, int *n, const char *name, const PgoContext *context)
{
	ck_assert_int_lt(*n, SAMPLES);
	samples[*n] = (Sample){name, context, BUFFER_INIT};
	return &samples[(*n)++].bytes;
}

/* One of every message and form: what all the mutation tests start from. */
static int
make_samples(Sample *s)
{
	int n = 0;
	Buffer *b;
	message_begin(sample_add(s, &n, "begin", &plain), 0x1000, 7);
	message_commit(sample_add(s, &n, "commit", &plain), 0x1000, 0x1040);
	b = sample_add(s, &n, "origin", &plain);
	buffer_put_u8(b, 'O');
	buffer_put_u64(b, 0x900);
	buffer_put_cstr(b, "elsewhere");
	message_relation(sample_add(s, &n, "relation", &plain), 0, 77, "t");
	message_relation(sample_add(s, &n, "relation in stream", &stream), 9, 77, "t");
	message_type(sample_add(s, &n, "type", &plain), 16400, "mood");
	message_insert(sample_add(s, &n, "insert", &plain), 0, 77, "1", "one");
	message_insert(sample_add(s, &n, "insert null", &plain), 0, 77, "1", NULL);
	message_insert(sample_add(s, &n, "insert in stream", &stream), 9, 77, "1", "one");
	const char olds[] = {0, 'K', 'O'};
	for (int i = 0; i < 3; i++) {
		b = sample_add(s, &n, "update", &plain);
		buffer_put_u8(b, 'U');
		put_old_and_new(b, olds[i]);
		put_new(b);
	}
	for (int i = 1; i < 3; i++) {
		b = sample_add(s, &n, "delete", &plain);
		buffer_put_u8(b, 'D');
		put_old_and_new(b, olds[i]);
	}
	b = sample_add(s, &n, "truncate", &plain);
	buffer_put_u8(b, 'T');
	buffer_put_u32(b, 2);
	buffer_put_u8(b, 3);
	buffer_put_u32(b, 77);
	buffer_put_u32(b, 78);
	message_logical(sample_add(s, &n, "message", &plain), false, 0x2000, "hello");
	b = sample_add(s, &n, "stream start", &plain4);
	buffer_put_u8(b, 'S');
	buffer_put_u32(b, 9);
	buffer_put_u8(b, 1);
	buffer_put_u8(sample_add(s, &n, "stream stop", &stream), 'E');
	b = sample_add(s, &n, "stream commit", &plain4);
	buffer_put_u8(b, 'c');
	buffer_put_u32(b, 9);
	buffer_put_u8(b, 0);
	buffer_put_u64(b, 0x3000);
	buffer_put_u64(b, 0x3040);
	buffer_put_u64(b, 5);
	b = sample_add(s, &n, "stream abort", &plain4);
	buffer_put_u8(b, 'A');
	buffer_put_u32(b, 9);
	buffer_put_u32(b, 10);
	b = sample_add(s, &n, "stream abort with position", &parallel);
	buffer_put_u8(b, 'A');
	buffer_put_u32(b, 9);
	buffer_put_u32(b, 10);
	buffer_put_u64(b, 0x3000);
	buffer_put_u64(b, 5);
	for (const char *kind = "bPpKr"; *kind != '\0'; kind++)
		put_prepared(sample_add(s, &n, "prepared", &plain4), *kind);
	return n;
}

START_TEST(values_come_out)
{
	Buffer buf = BUFFER_INIT;
	message_begin(&buf, 0x1000, 7);
	PgoMessage m = parse_ok(&plain, &buf);
	ck_assert_uint_eq(m.begin.final_lsn.v, 0x1000);
	ck_assert_uint_eq(m.begin.xid, 7);

	buffer_reset(&buf);
	message_relation(&buf, 5, 77, "t");
	m = parse_ok(&stream, &buf);
	ck_assert_uint_eq(m.xid, 5);
	ck_assert_str_eq(m.relation.schema, "public");
	ck_assert_int_eq(m.relation.replica_identity, 'd');
	ck_assert_uint_eq(m.relation.count, 2);
	ck_assert(m.relation.columns[0].key && !m.relation.columns[1].key);
	ck_assert_str_eq(m.relation.columns[1].name, "note");
	ck_assert_int_eq(m.relation.columns[1].typmod, -1);

	buffer_reset(&buf);
	buffer_put_u8(&buf, 'U');
	put_old_and_new(&buf, 'K');
	put_new(&buf);
	m = parse_ok(&plain, &buf);
	ck_assert_int_eq(m.change.old_kind, OLD_KEY);
	ck_assert(slice_eq_cstr(m.change.old_row.values[0].bytes, "42"));
	ck_assert_int_eq(m.change.old_row.values[1].kind, VALUE_NULL);
	ck_assert_int_eq(m.change.new_row.values[0].kind, VALUE_BINARY);
	ck_assert_uint_eq(m.change.new_row.values[0].bytes.len, 4);
	ck_assert_int_eq(m.change.new_row.values[1].kind, VALUE_UNCHANGED);

	buffer_reset(&buf);
	put_prepared(&buf, 'r');
	m = parse_ok(&plain4, &buf);
	ck_assert_int_eq(m.prepared.time_us, 6);
	ck_assert_str_eq(m.prepared.gid, "gid-1");
	buffer_free(&buf);
}
END_TEST

START_TEST(an_empty_schema_is_pg_catalog)
{
	Buffer buf = BUFFER_INIT;
	buffer_put_u8(&buf, 'Y');
	buffer_put_u32(&buf, 20);
	buffer_put_cstr(&buf, "");
	buffer_put_cstr(&buf, "int8");
	ck_assert_str_eq(parse_ok(&plain, &buf).type.schema, "pg_catalog");
	buffer_free(&buf);
}
END_TEST

START_TEST(each_truncation_and_each_surplus_is_refused)
{
	Sample samples[SAMPLES];
	int n = make_samples(samples);
	for (int i = 0; i < n; i++) {
		Slice whole = buffer_slice(&samples[i].bytes);
		PgoMessage out;
		Error err = ERROR_INIT;
		parse_ok(samples[i].context, &samples[i].bytes);
		for (size_t len = 0; len < whole.len; len++) {
			ck_assert_msg(!parse(samples[i].context, slice_of(whole.data, len), &out, &err),
			              "%s cut to %zu of %zu", samples[i].name, len, whole.len);
			ck_assert_int_eq(err.class, ERROR_PROTOCOL);
		}
		buffer_put_u8(&samples[i].bytes, 0);
		ck_assert_msg(!parse(samples[i].context, buffer_slice(&samples[i].bytes), &out, &err),
		              "%s with a byte too many", samples[i].name);
		ck_assert_int_eq(err.class, ERROR_PROTOCOL);
		buffer_free(&samples[i].bytes);
	}
}
END_TEST

/* Every byte set to every value: nothing may crash or read past the end, and
 * whatever is accepted must have used all bytes. */
START_TEST(no_byte_value_does_harm)
{
	Sample samples[SAMPLES];
	int n = make_samples(samples);
	for (int i = 0; i < n; i++) {
		Buffer *b = &samples[i].bytes;
		for (size_t at = 0; at < b->len; at++) {
			uint8_t was = b->data[at];
			for (int v = 0; v < 256; v++) {
				PgoMessage out;
				Error err = ERROR_INIT;
				b->data[at] = (uint8_t)v;
				if (!parse(samples[i].context, buffer_slice(b), &out, &err))
					ck_assert_int_eq(err.class, ERROR_PROTOCOL);
			}
			b->data[at] = was;
		}
		buffer_free(b);
	}
}
END_TEST

static void
expect_refused(const PgoContext *context, Slice bytes, const char *part)
{
	PgoMessage out;
	Error err = ERROR_INIT;
	ck_assert(!parse(context, bytes, &out, &err));
	ck_assert_int_eq(err.class, ERROR_PROTOCOL);
	ck_assert_msg(strstr(err.message, part) != NULL, "%s", err.message);
}

/* A length field that is off by one moves everything behind it. */
START_TEST(lengths_off_by_one)
{
	Buffer buf = BUFFER_INIT;
	message_insert(&buf, 0, 77, "12", "three");
	for (int delta = -1; delta <= 1; delta += 2) {
		Buffer copy = BUFFER_INIT;
		buffer_put_slice(&copy, buffer_slice(&buf));
		/* I oid N count t LEN "12" t LEN "three" */
		buffer_set_u32(&copy, 16, (uint32_t)(5 + delta) /* of "12" t LEN... */);
		expect_refused(&plain, buffer_slice(&copy), "Insert");
		copy.len = 0;
		buffer_put_slice(&copy, buffer_slice(&buf));
		buffer_set_u32(&copy, 9, (uint32_t)(2 + delta));
		expect_refused(&plain, buffer_slice(&copy), "Insert");
		copy.len = 0;
		buffer_put_slice(&copy, buffer_slice(&buf));
		copy.data[7] = (uint8_t)(2 + delta);
		expect_refused(&plain, buffer_slice(&copy), "Insert");
		buffer_free(&copy);
	}
	Buffer huge = BUFFER_INIT;
	buffer_put_slice(&huge, buffer_slice(&buf));
	buffer_set_u32(&huge, 9, UINT32_MAX);
	expect_refused(&plain, buffer_slice(&huge), "ends too early");
	buffer_free(&huge);
	buffer_free(&buf);
}
END_TEST

START_TEST(what_the_protocol_does_not_have)
{
	Buffer buf = BUFFER_INIT;
	expect_refused(&plain, slice_cstr("X"), "unknown pgoutput message type 0x58");
	expect_refused(&plain, SLICE_EMPTY, "empty");

	message_begin(&buf, 0, 7);
	expect_refused(&plain, buffer_slice(&buf), "Begin message: no commit position");
	buffer_reset(&buf);
	message_begin(&buf, 1, 7);
	expect_refused(&stream, buffer_slice(&buf), "inside a stream block");
	expect_refused(&plain4, slice_cstr("E"), "outside a stream block");
	expect_refused(&plain, slice_cstr("E"), "protocol version 1");

	/* An unchanged value has nothing to be unchanged from in an Insert. */
	buffer_reset(&buf);
	buffer_put_u8(&buf, 'I');
	buffer_put_u32(&buf, 77);
	put_new(&buf);
	expect_refused(&plain, buffer_slice(&buf), "Insert message: unchanged");

	/* Delete with a new row, Insert with an old one. */
	buf.data[0] = 'D';
	expect_refused(&plain, buffer_slice(&buf), "Delete message: old row or key expected");
	buf.data[0] = 'I';
	buf.data[5] = 'K';
	expect_refused(&plain, buffer_slice(&buf), "Insert message: new row expected");

	buffer_reset(&buf);
	message_insert(&buf, 0, 77, "1", NULL);
	expect_refused(&stream, buffer_slice(&buf), "Insert");
	buffer_free(&buf);
}
END_TEST

static Suite *
make(void)
{
	Suite *suite = suite_create("pgoutput");
	TCase *tcase = tcase_create("pgoutput");
	tcase_set_timeout(tcase, 60);
	tcase_add_test(tcase, values_come_out);
	tcase_add_test(tcase, an_empty_schema_is_pg_catalog);
	tcase_add_test(tcase, each_truncation_and_each_surplus_is_refused);
	tcase_add_test(tcase, no_byte_value_does_harm);
	tcase_add_test(tcase, lengths_off_by_one);
	tcase_add_test(tcase, what_the_protocol_does_not_have);
	suite_add_tcase(suite, tcase);
	return suite;
}

TEST_SUITE(make)
