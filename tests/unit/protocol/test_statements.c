/* What is kept of a session's statements, however its bytes are cut. */
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "protocol/message/extended.h"
#include "protocol/message/message.h"
#include "protocol/message/track.h"
#include "tests/unit/runner.h"

static Track track;
static Statements statements;
static size_t piece;

static void
begin(size_t bytes_at_once)
{
	piece = bytes_at_once;
	track_init(&track);
	statements = (Statements){.pending = NULL};
	track.statements = &statements;
}

static void
end(void)
{
	track_free(&track);
	statements_free(&statements);
}

/* Each piece is freed when it has been shown. */
static void
show(bool client, Buffer *out)
{
	for (size_t at = 0; at < out->len; at += piece) {
		size_t len = out->len - at < piece ? out->len - at : piece;
		uint8_t *copy = malloc(len);
		memcpy(copy, out->data + at, len);
		if (client)
			track_client(&track, slice_of(copy, len));
		else
			ck_assert(track_server(&track, slice_of(copy, len)));
		free(copy);
	}
	buffer_free(out);
}

static void
client_parse(const char *name, const char *sql)
{
	Buffer out = BUFFER_INIT;
	message_put_parse(&out, name, sql, NULL, 0);
	show(true, &out);
}

static void
client_query(const char *sql)
{
	Buffer out = BUFFER_INIT;
	message_put_query(&out, sql);
	show(true, &out);
}

static void
client_sync(void)
{
	Buffer out = BUFFER_INIT;
	message_put_sync(&out);
	show(true, &out);
}

/* '1', 'E', 'Z', or 'C' with a tag. */
static void
server(char type, const char *tag)
{
	Buffer out = BUFFER_INIT;

	buffer_put_u8(&out, (uint8_t)type);
	buffer_put_u32(&out, 4 + (uint32_t)(tag != NULL ? strlen(tag) + 1 : 0) + (type == 'Z'));
	if (type == 'Z')
		buffer_put_u8(&out, 'I');
	if (tag != NULL)
		buffer_put_cstr(&out, tag);
	show(false, &out);
}

/* The text of the unnamed statement; "" without one. */
static const char *
unnamed(void)
{
	const Buffer *kept = &statements.unnamed.message;

	if (kept->len == 0)
		return "";
	ck_assert_int_eq(kept->data[0], 'P');
	ck_assert_uint_eq(kept->len, 5 + 1 + strlen((char *)kept->data + 6) + 1 + 2);
	return (const char *)kept->data + 6;
}

static void
cut(int turn)
{
	static const size_t pieces[] = {1, 2, 3, 5, 7, 64, 100000};
	begin(pieces[turn]);
}

START_TEST(the_last_one_completed)
{
	cut(_i);
	ck_assert_str_eq(unnamed(), "");
	client_parse("", "SELECT 1");
	ck_assert_str_eq(unnamed(), "");
	client_sync();
	server('1', NULL);
	server('Z', NULL);
	ck_assert_str_eq(unnamed(), "SELECT 1");
	/* A named one is another. */
	client_parse("name", "SELECT 2");
	client_sync();
	server('1', NULL);
	server('Z', NULL);
	ck_assert_str_eq(unnamed(), "SELECT 1");
	client_query("BEGIN");
	ck_assert_str_eq(unnamed(), "SELECT 1");
	server('Z', NULL);
	ck_assert_str_eq(unnamed(), "");
	ck_assert(track_at_boundary(&track));
	end();
}
END_TEST

/* Sent ahead, and answered later: what was skipped after an error leaves all as it was. */
START_TEST(errors_in_a_pipeline)
{
	cut(_i);
	client_parse("", "SELECT 1");
	client_sync();
	client_parse("a", "SELECT a");
	client_parse("", "SELECT 2");
	client_sync();
	client_parse("", "SELECT 3");
	client_parse("", "SELECT 4");
	client_sync();
	client_query("SELECT 5");
	client_parse("", "SELECT 6");
	client_sync();
	server('1', NULL);
	server('Z', NULL);
	ck_assert_str_eq(unnamed(), "SELECT 1");
	server('E', NULL);
	server('Z', NULL);
	ck_assert_str_eq(unnamed(), "SELECT 1");
	server('1', NULL);
	ck_assert_str_eq(unnamed(), "SELECT 3");
	server('E', NULL);
	server('Z', NULL);
	ck_assert_str_eq(unnamed(), "SELECT 3");
	server('Z', NULL);
	ck_assert_str_eq(unnamed(), "");
	server('1', NULL);
	server('Z', NULL);
	ck_assert_str_eq(unnamed(), "SELECT 6");
	ck_assert_uint_eq(statements.pending_count, 0);
	end();
}
END_TEST

START_TEST(too_long)
{
	char *sql = malloc(STATEMENTS_PARSE_MAX + 10);

	begin((size_t)1 << (4 + 4 * _i));
	memset(sql, 'x', STATEMENTS_PARSE_MAX + 10);
	memcpy(sql, "SET app.long = ", 15);
	sql[STATEMENTS_PARSE_MAX - 4] = '\0'; /* with both zeros and the Int16: just fits */
	client_parse("", sql);
	client_sync();
	server('1', NULL);
	server('Z', NULL);
	ck_assert(!statements.unnamed.too_long);
	ck_assert_str_eq(unnamed(), sql);
	sql[STATEMENTS_PARSE_MAX - 4] = 'x';
	sql[STATEMENTS_PARSE_MAX - 3] = '\0';
	client_parse("", sql);
	client_sync();
	server('1', NULL);
	server('Z', NULL);
	ck_assert(statements.unnamed.too_long);
	ck_assert_str_eq(unnamed(), "");
	ck_assert_str_eq((char *)statements.mentions.names.data, "app.long");
	client_query("SELECT 1");
	server('Z', NULL);
	ck_assert(!statements.unnamed.too_long);
	free(sql);
	end();
}
END_TEST

static void
parse_with_type(uint32_t type)
{
	const uint32_t types[] = {23, type};
	Buffer out = BUFFER_INIT;

	message_put_parse(&out, "s", "SELECT $1, $2", types, 2);
	show(true, &out);
	client_sync();
	server('1', NULL);
	server('Z', NULL);
}

START_TEST(types_of_this_server)
{
	cut(_i);
	parse_with_type(16383);
	ck_assert(!statements.foreign_types);
	parse_with_type(16384);
	ck_assert(statements.foreign_types);
	end();
}
END_TEST

/* Bodies that are no Parse: each truncation of one, and wrong counts. The server refuses
 * them; here nothing may be read that is not there. */
START_TEST(parses_that_are_none)
{
	static const uint8_t body[] = "\0SELECT 1\0\0\2\0\0\0\x17\0\0\x40\0";
	enum { WHOLE = sizeof(body) - 1 };

	cut(_i);
	for (size_t len = 0; len <= WHOLE; len++) {
		for (int count = 0; count < 3; count++) {
			Buffer out = BUFFER_INIT;
			buffer_put_u8(&out, 'P');
			buffer_put_u32(&out, (uint32_t)len + 4);
			buffer_put(&out, body, len);
			if (len == WHOLE && count == 0)
				out.data[5 + 11] = 3;
			if (len == WHOLE && count == 1)
				out.data[5 + 11] = 1;
			show(true, &out);
			client_sync();
			server('E', NULL);
			server('Z', NULL);
			ck_assert_str_eq(unnamed(), "");
			ck_assert(track_at_boundary(&track));
		}
	}
	end();
}
END_TEST

START_TEST(commands_that_set)
{
	static const struct {
		const char *tag;
		bool sets;
	} tags[] = {{"SET", true},       {"RESET", true},  {"DISCARD ALL", true}, {"BEGIN", false},
	            {"SELECT 1", false}, {"FETCH", false}, {"GRANT", false},      {"INSERT 0 1", false},
	            {"COMMIT", false},   {"CLOSE", false}};

	for (size_t i = 0; i < sizeof(tags) / sizeof(tags[0]); i++) {
		cut(_i);
		client_query("x");
		server('C', tags[i].tag);
		server('Z', NULL);
		/* A cut behind the header hides the letter: then it may be one. */
		if (tags[i].sets || piece > 20)
			ck_assert_msg((track.sets > 0) == tags[i].sets, "%s", tags[i].tag);
		end();
	}
}
END_TEST

/* What was asked of sequences before a DISCARD ALL has no meaning after it; what a pipeline asked
 * already has. */
START_TEST(discarded_sequences)
{
	cut(_i);
	const bool seen = piece > 20; /* a tag that is cut is not known */
	client_query("SELECT lastval()");
	server('C', "SELECT 1");
	server('Z', NULL);
	client_query("DISCARD ALL");
	ck_assert(statements.mentions.sequences);
	server('C', "DISCARD ALL");
	ck_assert(statements.mentions.sequences == !seen);
	server('Z', NULL);

	client_parse("", "SELECT currval('s')");
	client_sync();
	server('1', NULL);
	server('Z', NULL);
	client_query("DROP SCHEMA s");
	server('C', "DROP SCHEMA"); /* as long, and the same letter */
	server('Z', NULL);
	ck_assert(statements.mentions.sequences);
	client_parse("", "DISCARD ALL");
	client_sync();
	client_parse("", "SELECT 1");
	client_sync();
	server('1', NULL);
	server('C', "DISCARD ALL");
	server('Z', NULL);
	ck_assert(statements.mentions.sequences == !seen);
	server('1', NULL);
	server('Z', NULL);

	client_query("DISCARD ALL");
	client_query("SELECT lastval()");
	server('C', "DISCARD ALL");
	server('Z', NULL);
	ck_assert(statements.mentions.sequences);
	end();
}
END_TEST

static Suite *
make(void)
{
	Suite *suite = suite_create("statements");
	TCase *tcase = tcase_create("statements");

	tcase_add_loop_test(tcase, the_last_one_completed, 0, 7);
	tcase_add_loop_test(tcase, errors_in_a_pipeline, 0, 7);
	tcase_add_loop_test(tcase, too_long, 0, 4);
	tcase_add_loop_test(tcase, types_of_this_server, 0, 7);
	tcase_add_loop_test(tcase, parses_that_are_none, 0, 7);
	tcase_add_loop_test(tcase, commands_that_set, 0, 7);
	tcase_add_loop_test(tcase, discarded_sequences, 0, 7);
	suite_add_tcase(suite, tcase);
	return suite;
}

TEST_SUITE(make)
