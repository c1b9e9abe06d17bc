/* The first packet of a client. */
#include <stdlib.h>
#include <string.h>

#include "protocol/message/message.h"
#include "protocol/message/startup.h"
#include "tests/unit/runner.h"

#define BYTES(text) slice_of(text, sizeof(text) - 1)

/* A packet with its length; body as a string literal. */
static Buffer
packet(Slice body)
{
	Buffer out = BUFFER_INIT;

	buffer_put_u32(&out, (uint32_t)(body.len + 4));
	buffer_put_slice(&out, body);
	return out;
}

static StartupResult
parse(Slice body, Startup *out, Error *err)
{
	static Buffer keep; /* what out points to */
	size_t used = 0;

	buffer_free(&keep);
	keep = packet(body);
	StartupResult result = startup_parse(buffer_slice(&keep), &used, out, err);
	ck_assert(result != STARTUP_READY || used == keep.len);
	return result;
}

START_TEST(all_kinds)
{
	Startup s;
	Error err = ERROR_INIT;

	ck_assert_int_eq(parse(BYTES("\x04\xd2\x16\x2f"), &s, &err), STARTUP_READY);
	ck_assert_int_eq(s.kind, STARTUP_SSL);
	ck_assert_int_eq(parse(BYTES("\x04\xd2\x16\x30"), &s, &err), STARTUP_READY);
	ck_assert_int_eq(s.kind, STARTUP_GSS);
	ck_assert_int_eq(parse(BYTES("\x04\xd2\x16\x2e\0\0\1\2KEY!"), &s, &err), STARTUP_READY);
	ck_assert(s.kind == STARTUP_CANCEL && s.pid == 258 && slice_eq_cstr(s.key, "KEY!"));
	ck_assert_int_eq(
		parse(BYTES("\0\3\0\0user\0me\0database\0db\0application_name\0app\0\0"), &s, &err),
		STARTUP_READY);
	ck_assert_int_eq(s.kind, STARTUP_SESSION);
	ck_assert_str_eq(s.user, "me");
	ck_assert_str_eq(s.database, "db");
	ck_assert_str_eq(s.application_name, "app");
	ck_assert(!s.replication && !startup_negotiates(&s));
	ck_assert_uint_eq(startup_key_size(&s), 4);
	ck_assert_int_eq(parse(BYTES("\0\3\0\0user\0me\0replication\0database\0\0"), &s, &err),
	                 STARTUP_READY);
	ck_assert_str_eq(s.database, "me");
	ck_assert(s.replication);
}
END_TEST

START_TEST(wrong_packets)
{
	static const struct {
		Slice body;
		const char *sqlstate;
	} cases[] = {
		{{(const uint8_t *)"\x04\xd2\x16\x2f\0", 5}, "08P01"},           /* SSLRequest, longer */
		{{(const uint8_t *)"\x04\xd2\x16\x2e\0\0\1\2KEY", 11}, "08P01"}, /* a key of 3 */
		{{(const uint8_t *)"\0\2\0\0user\0me\0\0", 13}, "0A000"},
		{{(const uint8_t *)"\0\4\0\0user\0me\0\0", 13}, "0A000"},
		{{(const uint8_t *)"\0\3\0\0user\0me\0", 12}, "08P01"},
		{{(const uint8_t *)"\0\3\0\0user\0me\0\0x", 14}, "08P01"},
		{{(const uint8_t *)"\0\3\0\0user\0", 9}, "08P01"},
		{{(const uint8_t *)"\0\3\0\0database\0me\0\0", 17}, "28000"},
		{{(const uint8_t *)"\0\3\0\0user\0\0\0", 11}, "28000"},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		Startup s;
		Error err = ERROR_INIT;
		ck_assert_int_eq(parse(cases[i].body, &s, &err), STARTUP_BAD);
		ck_assert_msg(strcmp(err.sqlstate, cases[i].sqlstate) == 0, "case %zu: %s %s", i,
		              err.sqlstate, err.message);
	}
}
END_TEST

/* A wrong length is seen with its four bytes; a cut packet is waited for. */
START_TEST(lengths)
{
	static const uint32_t wrong[] = {0, 4, 7, 10001, 65536, UINT32_MAX};
	Buffer whole = packet(BYTES("\0\3\0\0user\0me\0database\0db\0\0"));
	Startup s;
	Error err = ERROR_INIT;
	size_t used;

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		Buffer length = BUFFER_INIT;
		buffer_put_u32(&length, wrong[i]);
		ck_assert_int_eq(startup_parse(buffer_slice(&length), &used, &s, &err), STARTUP_BAD);
		buffer_free(&length);
	}
	for (size_t len = 0; len < whole.len; len++) {
		uint8_t *copy = malloc(len > 0 ? len : 1);
		memcpy(copy, whole.data, len);
		ck_assert_int_eq(startup_parse(slice_of(copy, len), &used, &s, &err), STARTUP_MORE);
		free(copy);
	}
	/* The length field off by one, the bytes as they are. */
	for (int off = -1; off <= 1; off += 2) {
		Buffer other = BUFFER_INIT;
		buffer_put_slice(&other, buffer_slice(&whole));
		buffer_put_u8(&other, 'x');
		buffer_set_u32(&other, 0, (uint32_t)((int)whole.len + off));
		ck_assert_int_eq(startup_parse(buffer_slice(&other), &used, &s, &err), STARTUP_BAD);
		buffer_free(&other);
	}
	buffer_free(&whole);
}
END_TEST

START_TEST(negotiation)
{
	Startup s;
	Error err = ERROR_INIT;
	Buffer out = BUFFER_INIT;

	ck_assert_int_eq(parse(BYTES("\0\3\0\2user\0me\0\0"), &s, &err), STARTUP_READY);
	ck_assert(!startup_negotiates(&s));
	ck_assert_uint_eq(startup_key_size(&s), 32);

	ck_assert_int_eq(parse(BYTES("\0\3\x27\x0fuser\0me\0_pq_.what\0ever\0_pq_.b\0\0\0"), &s, &err),
	                 STARTUP_READY);
	ck_assert(startup_negotiates(&s));
	startup_put_negotiate(&s, &out);
	ck_assert(
		slice_eq(buffer_slice(&out), BYTES("v\0\0\0\x1d\0\3\0\2\0\0\0\2_pq_.what\0_pq_.b\0")));
	buffer_reset(&out);
	/* The server sees none of it. */
	startup_put_for_server(&s, NULL, &out);
	ck_assert(slice_eq(buffer_slice(&out), BYTES("\0\0\0\x11\0\3\0\0user\0me\0\0")));
	buffer_free(&out);
}
END_TEST

static Suite *
make(void)
{
	Suite *suite = suite_create("startup");
	TCase *tcase = tcase_create("startup");

	tcase_add_test(tcase, all_kinds);
	tcase_add_test(tcase, wrong_packets);
	tcase_add_test(tcase, lengths);
	tcase_add_test(tcase, negotiation);
	suite_add_tcase(suite, tcase);
	return suite;
}

TEST_SUITE(make)
