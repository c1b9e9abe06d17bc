#include <stdlib.h>
#include <string.h>

#include "protocol/message/message.h"
#include "protocol/replication.h"
#include "tests/unit/runner.h"

#define BYTES(text) slice_of(text, sizeof(text) - 1)

typedef bool (*Parser)(Slice payload, Error *err);

/* A parser takes the whole payload and none of its beginnings or extensions,
 * each in memory of exactly its size, so that ASan sees one byte too far. */
static void
only_whole(Parser parse, Slice whole, const char *what)
{
	for (size_t len = 0; len <= whole.len + 1; len++) {
		uint8_t *copy = malloc(len > 0 ? len : 1);
		Error err = ERROR_INIT;
		if (len <= whole.len)
			memcpy(copy, whole.data, len);
		else {
			memcpy(copy, whole.data, whole.len);
			copy[whole.len] = 'x';
		}
		bool ok = parse(slice_of(copy, len), &err);
		ck_assert_msg(ok == (len == whole.len), "%s with %zu of %zu bytes: %d", what, len,
		              whole.len, ok);
		ck_assert(ok || err.class == ERROR_PROTOCOL);
		free(copy);
	}
}

static bool
parse_report(Slice payload, Error *err)
{
	ServerReport report;
	return message_parse_report(payload, &report, err);
}

static bool
parse_parameter(Slice payload, Error *err)
{
	const char *name, *value;
	return message_parse_parameter(payload, &name, &value, err);
}

static bool
parse_ready(Slice payload, Error *err)
{
	char status;
	return message_parse_ready(payload, &status, err);
}

static bool
parse_negotiate(Slice payload, Error *err)
{
	uint32_t version, options;
	return message_parse_negotiate(payload, &version, &options, err);
}

static bool
parse_columns(Slice payload, Error *err)
{
	ByteReader r;
	ColumnDescription column;
	int count;

	if (!message_row_description_begin(payload, &r, &count, err))
		return false;
	for (int i = 0; i < count; i++)
		if (!message_row_description_next(&r, &column, err))
			return false;
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
	for (int i = 0; i < count; i++)
		if (!message_data_row_next(&r, &value, &is_null, err))
			return false;
	return message_end(&r, "DataRow", err);
}

static bool
parse_complete(Slice payload, Error *err)
{
	const char *tag;
	uint64_t rows;
	return message_parse_complete(payload, &tag, &rows, err);
}

static bool
parse_copy(Slice payload, Error *err)
{
	int format;
	return message_parse_copy_response(payload, &format, err);
}

static bool
parse_keepalive(Slice payload, Error *err)
{
	ReplicationFrame frame;
	return replication_parse(payload, &frame, err);
}

START_TEST(every_truncation)
{
	only_whole(parse_report, BYTES("SERROR\0C42P01\0Mno table\0\0"), "report");
	only_whole(parse_report, BYTES("\0"), "empty report");
	only_whole(parse_parameter,
	           BYTES("server_version\0"
	                 "15.4\0"),
	           "parameter");
	only_whole(parse_ready, BYTES("E"), "ready");
	only_whole(parse_negotiate, BYTES("\0\3\0\0\0\0\0\2_pq_.a\0_pq_.b\0"), "negotiate");
	only_whole(parse_columns,
	           BYTES("\0\2a\0\0\0\0\0\0\0\0\0\0\27\0\4\xff\xff\xff\xff\0\0"
	                 "bb\0\0\0\0\1\0\2\0\0\0\31\xff\xff\0\0\0\7\0\1"),
	           "columns");
	only_whole(parse_row, BYTES("\0\3\0\0\0\1x\xff\xff\xff\xff\0\0\0\0"), "row");
	only_whole(parse_complete, BYTES("INSERT 0 5\0"), "complete");
	only_whole(parse_copy, BYTES("\1\0\2\0\1\0\1"), "copy response");
	only_whole(parse_keepalive, BYTES("k\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\2\1"), "keepalive");
}
END_TEST

START_TEST(all_report_fields)
{
	static const char text[] = "Sa\0Vb\0C12345\0Mm\0Dd\0Hh\0Pp1\0pp2\0qq\0Ww\0ss\0tt\0cc\0dt\0nn\0"
							   "Ff\0L7\0Rr\0zunknown\0";
	ServerReport r;
	Error err = ERROR_INIT;

	ck_assert(message_parse_report(slice_of(text, sizeof(text)), &r, &err));
	const char *got[] = {r.severity,       r.severity_raw,  r.sqlstate,   r.message,
	                     r.detail,         r.hint,          r.position,   r.internal_position,
	                     r.internal_query, r.where,         r.schema,     r.table,
	                     r.column,         r.data_type,     r.constraint, r.source_file,
	                     r.source_line,    r.source_routine};
	static const char *const wanted[] = {"a", "b", "12345", "m", "d", "h", "p1", "p2", "q",
	                                     "w", "s", "t",     "c", "t", "n", "f",  "7",  "r"};
	for (size_t i = 0; i < sizeof(got) / sizeof(got[0]); i++)
		ck_assert_str_eq(got[i], wanted[i]);

	ck_assert(!server_report_to_error(&r, &err));
	ck_assert_int_eq(err.class, ERROR_SQL);
	ck_assert_str_eq(err.sqlstate, "12345");
	ck_assert_str_eq(err.message, "m (d)");
	ck_assert_str_eq(err.hint, "h");
	ck_assert_str_eq(err.context, "w");
}
END_TEST

START_TEST(counts_that_lie)
{
	Error err = ERROR_INIT;

	/* Value lengths: one more, one less, huge, negative but not -1. */
	ck_assert(parse_row(BYTES("\0\1\0\0\0\2xy"), &err));
	ck_assert(!parse_row(BYTES("\0\1\0\0\0\3xy"), &err));
	ck_assert(!parse_row(BYTES("\0\1\0\0\0\1xy"), &err));
	ck_assert(!parse_row(BYTES("\0\1\x7f\xff\xff\xffxy"), &err));
	ck_assert(!parse_row(BYTES("\0\1\xff\xff\xff\xfexy"), &err));
	ck_assert(!parse_row(BYTES("\xff\xff\0\0\0\2xy"), &err));
	ck_assert(!parse_row(BYTES("\0\0x"), &err));
	ck_assert(!parse_columns(BYTES("\xff\xff"), &err));
	ck_assert(!parse_copy(BYTES("\2\0\0"), &err));
	ck_assert(!parse_copy(BYTES("\0\xff\xff\0\0"), &err));
	ck_assert(!parse_ready(BYTES("X"), &err));
	ck_assert(!parse_negotiate(BYTES("\0\3\0\0\xff\xff\xff\xff"
	                                 "a\0"),
	                           &err));
	ck_assert(!parse_keepalive(BYTES("k\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\2\2"), &err));
	ck_assert(!parse_keepalive(BYTES("x"), &err));
}
END_TEST

START_TEST(tags)
{
	static const struct {
		const char *tag;
		uint64_t rows;
	} cases[] = {{"COPY 12", 12}, {"INSERT 0 5", 5}, {"BEGIN", 0}, {"CREATE TABLE", 0}, {"", 0}};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const char *tag;
		uint64_t rows;
		Error err = ERROR_INIT;
		ck_assert(message_parse_complete(slice_of(cases[i].tag, strlen(cases[i].tag) + 1), &tag,
		                                 &rows, &err));
		ck_assert_str_eq(tag, cases[i].tag);
		ck_assert_uint_eq(rows, cases[i].rows);
	}
}
END_TEST

static void
assert_bytes(Buffer *got, Slice wanted)
{
	ck_assert_uint_eq(got->len, wanted.len);
	ck_assert(slice_eq(buffer_slice(got), wanted));
	buffer_reset(got);
}

START_TEST(frontend_messages)
{
	Buffer out = BUFFER_INIT;
	const StartupParam params[] = {{"user", "u"}, {"database", "d"}};

	message_put_startup(&out, params, 2);
	assert_bytes(&out, BYTES("\0\0\0\x1b\0\3\0\0user\0u\0database\0d\0\0"));
	message_put_ssl_request(&out);
	assert_bytes(&out, BYTES("\0\0\0\x08\x04\xd2\x16\x2f"));
	message_put_cancel(&out, 7, BYTES("\1\2\3\4"));
	assert_bytes(&out, BYTES("\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\7\1\2\3\4"));
	message_put_query(&out, "q");
	assert_bytes(&out, BYTES("Q\0\0\0\6q\0"));
	message_put_password(&out, "p");
	assert_bytes(&out, BYTES("p\0\0\0\6p\0"));
	message_put_sasl_initial(&out, "M", BYTES("xy"));
	assert_bytes(&out, BYTES("p\0\0\0\x0cM\0\0\0\0\2xy"));
	message_put_copy_data(&out, BYTES("ab"));
	message_put_copy_done(&out);
	message_put_copy_fail(&out, "r");
	message_put_terminate(&out);
	assert_bytes(&out, BYTES("d\0\0\0\6ab"
	                         "c\0\0\0\4"
	                         "f\0\0\0\6r\0"
	                         "X\0\0\0\4"));
	buffer_free(&out);
}
END_TEST

START_TEST(replication_data)
{
	static const char text[] = "w\0\0\0\0\0\0\1\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0\0\3B";
	ReplicationFrame frame;
	Error err = ERROR_INIT;

	ck_assert(replication_parse(BYTES(text), &frame, &err));
	ck_assert_int_eq(frame.kind, REPLICATION_DATA);
	ck_assert_uint_eq(frame.start.v, 0x100);
	ck_assert_uint_eq(frame.end.v, 0x200);
	ck_assert_int_eq(frame.time_us, 3);
	ck_assert(slice_eq_cstr(frame.message, "B"));
	for (size_t len = 0; len < sizeof(text) - 1; len++)
		ck_assert(!replication_parse(slice_of(text, len), &frame, &err));
}
END_TEST

START_TEST(status_update)
{
	Buffer out = BUFFER_INIT;

	replication_status_update(lsn_make(1), lsn_make(2), lsn_make(3), 4, true, &out);
	assert_bytes(&out, BYTES("r\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0\3"
	                         "\0\0\0\0\0\0\0\4\1"));
	buffer_free(&out);
}
END_TEST

START_TEST(start_command)
{
	Buffer out = BUFFER_INIT;

	replication_start_command(&(StartReplication){.slot = "s",
	                                              .publication = "p'\"\\,x",
	                                              .start = lsn_make(UINT64_C(0x1000000AB)),
	                                              .proto_version = 2,
	                                              .binary = true,
	                                              .messages = true,
	                                              .streaming = true},
	                          &out);
	ck_assert_str_eq(buffer_cstr(&out),
	                 "START_REPLICATION SLOT \"s\" LOGICAL 1/AB (proto_version '2', "
	                 "publication_names '\"p''\"\"\\\",\"x\"', binary 'true', messages 'true', "
	                 "streaming 'on')");
	buffer_free(&out);
}
END_TEST

START_TEST(quoting)
{
	Buffer out = BUFFER_INIT;

	sql_put_identifier(&out, "a\"b");
	sql_put_literal(&out, "a'b");
	sql_put_literal(&out, "a\\'");
	ck_assert_str_eq(buffer_cstr(&out), "\"a\"\"b\"'a''b' E'a\\\\'''");
	buffer_free(&out);
	ck_assert_int_eq(replication_proto_version(130010), 1);
	ck_assert_int_eq(replication_proto_version(140000), 2);
	ck_assert_int_eq(replication_proto_version(150000), 3);
	ck_assert_int_eq(replication_proto_version(180000), 4);
}
END_TEST

static Suite *
message_suite(void)
{
	Suite *suite = suite_create("protocol/message");
	TCase *tcase = tcase_create("message");

	tcase_add_test(tcase, every_truncation);
	tcase_add_test(tcase, all_report_fields);
	tcase_add_test(tcase, counts_that_lie);
	tcase_add_test(tcase, tags);
	tcase_add_test(tcase, frontend_messages);
	tcase_add_test(tcase, replication_data);
	tcase_add_test(tcase, status_update);
	tcase_add_test(tcase, start_command);
	tcase_add_test(tcase, quoting);
	suite_add_tcase(suite, tcase);
	return suite;
}
TEST_SUITE(message_suite)
