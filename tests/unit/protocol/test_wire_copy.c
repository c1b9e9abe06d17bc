/* Queries, COPY and copy-both against a real server. */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/memory.h"
#include "tests/unit/protocol/wire_fixture.h"

static Cluster *cluster;
static PGconn *control; /* per test */

static void
start(void)
{
	cluster = cluster_start(&(ClusterOptions){.name = "wire", .tls = true});
	PGconn *conn = db_connect(cluster, NULL);
	db_exec(conn, "CREATE TABLE src (id int PRIMARY KEY, t text, b bytea, n numeric);"
	              "INSERT INTO src SELECT i, CASE WHEN i %% 7 <> 0 THEN repeat('x', i %% 300) END,"
	              " decode(md5(i::text), 'hex'), i / 7.0 FROM generate_series(1, 100000) i;"
	              "CREATE TABLE dst (LIKE src); CREATE TABLE narrow (id int CHECK (id < 50000));"
	              "CREATE TABLE big (t text)");
	PQfinish(conn);
}

static void
stop(void)
{
	cluster_free(cluster);
}

static void
open_control(void)
{
	control = db_connect(cluster, NULL);
}

static void
close_control(void)
{
	PQfinish(control);
}

static Wire *
open_wire(bool replication, const char *tls)
{
	return fixture_connect_with((WireOptions){.replication = replication}, "%s?sslmode=%s",
	                            cluster_uri(cluster, NULL), tls);
}

static void
assert_usable(Wire *wire)
{
	char *value = fixture_value(wire, "SELECT 'alive'");
	ck_assert_str_eq(value, "alive");
	free(value);
}

START_TEST(results)
{
	Wire *wire = open_wire(false, "disable");
	WireResult *result;
	Error err = ERROR_INIT;

	ck_assert(wire_query(wire,
	                     "SELECT 1; SELECT x AS a, NULL AS b, 'v' || x AS c FROM "
	                     "generate_series(1, 100) x; SET work_mem = '1MB'",
	                     0, &result, &err));
	ck_assert_int_eq(wire_result_rows(result), 100);
	ck_assert_int_eq(wire_result_columns(result), 3);
	ck_assert_int_eq(wire_result_column(result, "c"), 2);
	ck_assert_int_eq(wire_result_column(result, "d"), -1);
	ck_assert_str_eq(wire_result_get(result, 99, 0), "100");
	ck_assert_ptr_null(wire_result_get(result, 99, 1));
	ck_assert_str_eq(wire_result_get(result, 41, 2), "v42");
	ck_assert_str_eq(wire_result_tag(result), "SET");
	wire_result_free(result);
	ck_assert(wire_query(wire, "", 0, &result, &err));
	ck_assert_int_eq(wire_result_rows(result), 0);
	wire_result_free(result);
	ck_assert(wire_query(wire, "SELECT repeat('x', 20000000)", 0, &result, &err));
	ck_assert_uint_eq(strlen(wire_result_get(result, 0, 0)), 20000000);
	wire_result_free(result);
	ck_assert(wire_query(wire, "SELECT FROM generate_series(1, 3)", 0, &result, &err));
	ck_assert_int_eq(wire_result_rows(result), 3);
	ck_assert_int_eq(wire_result_columns(result), 0);
	wire_result_free(result);
	wire_close(wire);
}
END_TEST

START_TEST(errors_and_notices)
{
	Wire *wire = open_wire(false, "require");
	WireResult *result;
	Error err = ERROR_INIT;

	ck_assert(!wire_query(wire, "SELECT 1; SELECT * FROM nowhere; SELECT 2", 0, &result, &err));
	ck_assert_int_eq(err.class, ERROR_SQL);
	ck_assert_str_eq(err.sqlstate, "42P01");
	ck_assert_ptr_null(result);
	assert_usable(wire);
	ck_assert(!wire_query(wire,
	                      "DO $$BEGIN RAISE EXCEPTION 'm' USING DETAIL='d', HINT='h', "
	                      "ERRCODE='P9999'; END$$",
	                      0, NULL, &err));
	ck_assert_str_eq(err.message, "m (d)");
	ck_assert_str_eq(err.hint, "h");
	ck_assert_str_eq(err.sqlstate, "P9999");
	ck_assert_ptr_nonnull(strstr(err.context, "inline_code_block"));
	char *value = fixture_value(wire, "SET client_min_messages = debug; DO $$BEGIN FOR i IN 1..500 "
	                                  "LOOP RAISE NOTICE '%', repeat('n', 1000); END LOOP; END$$; "
	                                  "SELECT 'after'");
	ck_assert_str_eq(value, "after");
	free(value);
	/* COPY where none is expected leaves a usable connection. */
	ck_assert(!wire_query(wire, "COPY dst FROM STDIN", 0, NULL, &err));
	ck_assert_str_eq(err.sqlstate, "57014");
	ck_assert(wire_query(wire, "COPY (SELECT 1) TO STDOUT", 0, NULL, &err));
	assert_usable(wire);
	wire_close(wire);
}
END_TEST

START_TEST(deadline_and_stop)
{
	static const char *const modes[] = {"disable", "require"};

	for (int i = 0; i < 2; i++) {
		Stop *please = stop_new();
		Wire *wire = fixture_connect_with((WireOptions){.stop = please}, "%s?sslmode=%s",
		                                  cluster_uri(cluster, NULL), modes[i]);
		Error err = ERROR_INIT;
		int64_t start_ms = clock_mono_ms();

		ck_assert(!wire_query(wire, "SELECT pg_sleep(60)", deadline_in_ms(200), NULL, &err));
		ck_assert_msg(err.class == ERROR_TIMEOUT, "%s", fixture_text(&err));
		ck_assert_int_lt(clock_mono_ms() - start_ms, 20000);
		assert_usable(wire);

		/* A server that ignores the cancel request is waited for, but not for ever:
		 * here it obeys at once, so the connection stays. */
		stop_request(please);
		ck_assert(!wire_query(wire, "SELECT pg_sleep(60)", 0, NULL, &err));
		ck_assert_int_eq(err.class, ERROR_CANCELLED);
		ck_assert_int_lt(clock_mono_ms() - start_ms, 40000);
		char *left = db_value(control,
		                      "SELECT count(*) FROM pg_stat_activity WHERE pid = %u AND "
		                      "state = 'active'",
		                      wire_backend_pid(wire));
		ck_assert_str_eq(left, "0");
		free(left);
		wire_close(wire);
		stop_free(please);
	}
}
END_TEST

START_TEST(terminated)
{
	Wire *wire = open_wire(false, "disable");
	Error err = ERROR_INIT;

	db_exec(control, "SELECT pg_terminate_backend(%u)", wire_backend_pid(wire));
	db_wait_until(control,
	              "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = "
	              "'client backend'",
	              10);
	ck_assert(!wire_query(wire, "SELECT 1", 0, NULL, &err));
	ck_assert_msg((err.class == ERROR_SQL && strcmp(err.sqlstate, "57P01") == 0) ||
	                  err.class == ERROR_NETWORK,
	              "%s", fixture_text(&err));
	ck_assert(!wire_query(wire, "SELECT 1", 0, NULL, &err));
	ck_assert_int_eq(err.class, ERROR_NETWORK);
	wire_close(wire);
}
END_TEST

typedef struct {
	uint64_t messages;
	uint64_t out_rows;
	uint64_t in_rows;
	size_t runs;
} Relay;

/* Copies src into dst; chop > 0: hands the frames on in pieces of that size. */
static void
relay(const char *out_tls, const char *in_tls, const char *format, size_t chop, Relay *sum)
{
	Wire *from = open_wire(false, out_tls), *to = open_wire(false, in_tls);
	Error err = ERROR_INIT;
	char sql[128];
	bool done = false;

	*sum = (Relay){0};
	snprintf(sql, sizeof(sql), "COPY src TO STDOUT (FORMAT %s)", format);
	ck_assert_msg(wire_copy_out_start(from, sql, &err), "%s", fixture_text(&err));
	snprintf(sql, sizeof(sql), "COPY dst FROM STDIN (FORMAT %s)", format);
	ck_assert_msg(wire_copy_in_start(to, sql, &err), "%s", fixture_text(&err));
	for (;;) {
		Slice frames;
		uint64_t messages;
		ck_assert_msg(wire_copy_out_next(from, &frames, &messages, &done, &sum->out_rows, &err),
		              "%s", fixture_text(&err));
		if (done)
			break;
		sum->messages += messages;
		sum->runs++;
		while (frames.len > 0) {
			size_t take = chop > 0 && chop < frames.len ? chop : frames.len;
			ck_assert_msg(wire_copy_in_frames(to, slice_of(frames.data, take), &err), "%s",
			              fixture_text(&err));
			frames = slice_of(frames.data + take, frames.len - take);
		}
	}
	ck_assert_msg(wire_copy_in_end(to, &sum->in_rows, &err), "%s", fixture_text(&err));
	assert_usable(from);
	assert_usable(to);
	wire_close(from);
	wire_close(to);
}

START_TEST(relays)
{
	static const struct {
		const char *out_tls, *in_tls, *format;
		size_t chop;
	} cases[] = {
		{"disable", "disable", "text", 0},      {"disable", "disable", "binary", 0},
		{"require", "require", "binary", 0},    {"require", "disable", "text", 777},
		{"disable", "require", "binary", 3001},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		Relay sum;
		db_exec(control, "TRUNCATE dst");
		relay(cases[i].out_tls, cases[i].in_tls, cases[i].format, cases[i].chop, &sum);
		ck_assert_uint_eq(sum.out_rows, 100000);
		ck_assert_uint_eq(sum.in_rows, 100000);
		/* Binary: the header travels with the first row, the trailer alone. */
		ck_assert_uint_ge(sum.messages, 100000);
		ck_assert_uint_le(sum.messages, 100002);
		ck_assert_uint_lt(sum.runs, 10000);
		ck_assert(db_true(control, "SELECT (SELECT md5(string_agg(s::text, ';' ORDER BY id)) FROM "
		                           "src s) = (SELECT md5(string_agg(d::text, ';' ORDER BY id)) "
		                           "FROM dst d)"));
	}
}
END_TEST

START_TEST(copy_of_nothing_and_of_much)
{
	Wire *from = open_wire(false, "require"), *to = open_wire(false, "disable");
	Error err = ERROR_INIT;
	Slice frames;
	uint64_t messages, rows, in_rows;
	bool done;

	ck_assert(wire_copy_out_start(from, "COPY (SELECT 1 WHERE false) TO STDOUT", &err));
	ck_assert(wire_copy_out_next(from, &frames, &messages, &done, &rows, &err));
	ck_assert(done && frames.len == 0 && rows == 0 && messages == 0);
	/* One row of 60 MB goes through without being held as a whole. */
	ck_assert(wire_copy_out_start(from, "COPY (SELECT repeat('x', 60000000)) TO STDOUT", &err));
	ck_assert(wire_copy_in_start(to, "COPY big FROM STDIN", &err));
	for (uint64_t total = 0;;) {
		ck_assert(wire_copy_out_next(from, &frames, &messages, &done, &rows, &err));
		if (done)
			break;
		ck_assert_uint_le(frames.len, 1 << 20);
		total += messages;
		ck_assert_uint_le(total, 1);
		ck_assert(wire_copy_in_frames(to, frames, &err));
	}
	ck_assert(wire_copy_in_end(to, &in_rows, &err));
	ck_assert_uint_eq(rows, 1);
	ck_assert_uint_eq(in_rows, 1);
	ck_assert(db_true(control, "SELECT length(t) = 60000000 FROM big"));
	wire_close(from);
	wire_close(to);
}
END_TEST

START_TEST(copy_out_fails)
{
	Wire *wire = open_wire(false, "disable");
	Error err = ERROR_INIT;
	Slice frames;
	uint64_t messages, rows;
	bool done = false, ok;

	ck_assert(!wire_copy_out_start(wire, "COPY nowhere TO STDOUT", &err));
	ck_assert_str_eq(err.sqlstate, "42P01");
	assert_usable(wire);
	ck_assert(wire_copy_out_start(wire,
	                              "COPY (SELECT repeat('x', 1000), 1 / (50000 - x) FROM "
	                              "generate_series(1, 60000) x) TO STDOUT",
	                              &err));
	while ((ok = wire_copy_out_next(wire, &frames, &messages, &done, &rows, &err)) && !done)
		;
	ck_assert(!ok);
	ck_assert_str_eq(err.sqlstate, "22012");
	assert_usable(wire);
	wire_close(wire);
}
END_TEST

/* The server gives up half way, in the middle of what we send: the error is
 * its own, nothing hangs, the connection lives. */
START_TEST(copy_in_fails)
{
	static const char *const modes[] = {"disable", "require"};

	for (int i = 0; i < 2; i++)
		for (size_t cut = 0; cut < 7; cut += 3) {
			Wire *from = open_wire(false, modes[i]), *to = open_wire(false, modes[i]);
			Error err = ERROR_INIT;
			Slice frames;
			uint64_t messages, rows;
			bool done = false, failed = false;
			ck_assert(wire_copy_out_start(from,
			                              "COPY (SELECT x FROM generate_series(1, 3000000) "
			                              "x) TO STDOUT",
			                              &err));
			ck_assert(wire_copy_in_start(to, "COPY narrow FROM STDIN", &err));
			while (!failed && !done) {
				ck_assert(wire_copy_out_next(from, &frames, &messages, &done, &rows, &err));
				/* Frames come as the network cuts them: some are shorter than the cut. */
				size_t head = frames.len > cut ? frames.len - cut : frames.len;
				if (head > 0)
					failed = !wire_copy_in_frames(to, slice_of(frames.data, head), &err);
				if (!failed && head < frames.len)
					failed = !wire_copy_in_frames(
						to, slice_of(frames.data + head, frames.len - head), &err);
			}
			ck_assert(failed);
			ck_assert_msg(err.class == ERROR_SQL, "%s", fixture_text(&err));
			ck_assert_str_eq(err.sqlstate, "23514");
			ck_assert_ptr_nonnull(strstr(err.context, "COPY narrow, line 50000"));
			assert_usable(to);
			wire_close(from); /* in the middle of its copy */
			wire_close(to);
		}
}
END_TEST

START_TEST(copy_in_bad_value_and_fail)
{
	static const char bad[] = "d\0\0\0\7"
							  "1\na"
							  "d\0\0\0\x06"
							  "b\n";
	static const char open_end[] = "d\0\0\0\x09"
								   "12";
	Wire *wire = open_wire(false, "disable");
	Error err = ERROR_INIT;
	uint64_t rows;

	ck_assert(wire_copy_in_start(wire, "COPY narrow FROM STDIN", &err));
	bool ok = wire_copy_in_frames(wire, slice_of(bad, sizeof(bad) - 1), &err) &&
	          wire_copy_in_end(wire, &rows, &err);
	ck_assert(!ok);
	ck_assert_str_eq(err.sqlstate, "22P02");
	assert_usable(wire);

	ck_assert(wire_copy_in_start(wire, "COPY narrow FROM STDIN", &err));
	ck_assert(wire_copy_in_fail(wire, "changed my mind", &err));
	assert_usable(wire);
	/* In the middle of a message, and of a header. */
	for (size_t len = 1; len < sizeof(open_end); len++) {
		ck_assert(wire_copy_in_start(wire, "COPY narrow FROM STDIN", &err));
		ck_assert(wire_copy_in_frames(wire, slice_of(open_end, len), &err));
		ck_assert(wire_copy_in_fail(wire, "changed my mind", &err));
		assert_usable(wire);
	}
	ck_assert(wire_copy_in_start(wire, "COPY narrow FROM STDIN", &err));
	ck_assert(wire_copy_in_frames(wire, slice_of(open_end, 7), &err));
	ck_assert(!wire_copy_in_end(wire, &rows, &err));
	ck_assert_int_eq(err.class, ERROR_BUG);
	ck_assert(wire_copy_in_fail(wire, "then not", &err));
	ck_assert(db_true(control, "SELECT count(*) = 0 FROM narrow"));
	wire_close(wire);
}
END_TEST

START_TEST(histories)
{
	static const char history[] = "# by hand\n1\t0/3000028\tno recovery target specified\n\n"
								  "2\t1A/4000098\tbefore 2026-01-01 00:00:00+00\n12\tx\n";

	ck_assert_uint_eq(replication_history_fork(history, 1).v, 0x3000028);
	ck_assert_uint_eq(replication_history_fork(history, 2).v, 0x1A04000098);
	ck_assert_uint_eq(replication_history_fork(history, 3).v, 0);
	ck_assert_uint_eq(replication_history_fork(history, 12).v, 0);
	ck_assert_uint_eq(replication_history_fork("", 1).v, 0);
}
END_TEST

START_TEST(identify_and_slots)
{
	Wire *wire = open_wire(true, "require");
	SystemIdentity id;
	Error err = ERROR_INIT;
	Lsn point;

	ck_assert_msg(replication_identify(wire, &id, &err), "%s", fixture_text(&err));
	char *system = db_value(control, "SELECT system_identifier FROM pg_control_system()");
	ck_assert_str_eq(id.system_id, system);
	free(system);
	ck_assert_uint_eq(id.timeline, 1);
	ck_assert(lsn_valid(id.xlogpos));
	ck_assert_str_eq(id.dbname, "postgres");

	ck_assert_msg(replication_create_slot(wire, "made", 0, &point, &err), "%s", fixture_text(&err));
	ck_assert(lsn_cmp(point, id.xlogpos) >= 0);
	ck_assert(!replication_create_slot(wire, "made", 0, &point, &err));
	ck_assert_str_eq(err.sqlstate, "42710");
	ck_assert(replication_drop_slot(wire, "made", &err));
	ck_assert(!replication_drop_slot(wire, "made", &err));
	ck_assert_str_eq(err.sqlstate, "42704");

	/* A transaction that does not end: the deadline, and no slot. */
	PGconn *holder = db_connect(cluster, NULL);
	db_exec(holder, "BEGIN; INSERT INTO narrow VALUES (1)");
	ck_assert(!replication_create_slot(wire, "late", deadline_in_ms(300), &point, &err));
	ck_assert_msg(err.class == ERROR_TIMEOUT, "%s", fixture_text(&err));
	ck_assert(db_true(control, "SELECT count(*) = 0 FROM pg_replication_slots"));
	db_exec(holder, "ROLLBACK");
	PQfinish(holder);
	assert_usable(wire);
	wire_close(wire);
}
END_TEST

/* Waits for the next frame as an event loop would. */
static WireNext
next_frame(Wire *wire, Slice *payload, int64_t deadline_ms, Error *err)
{
	for (;;) {
		WireNext next = wire_copy_both_next(wire, payload, err);
		if (next != WIRE_NOTHING)
			return next;
		ck_assert_msg(stop_wait_fd(NULL, wire_socket(wire), wire_wants(wire), deadline_ms, err),
		              "no frame came");
	}
}

static void
start_stream(Wire *wire, Lsn at)
{
	Buffer sql = BUFFER_INIT;
	Error err = ERROR_INIT;
	StartReplication how = {.slot = "stream",
	                        .publication = "it's \"one\"",
	                        .start = at,
	                        .proto_version = replication_proto_version(wire_server_version(wire)),
	                        .binary = wire_server_version(wire) >= 140000};

	replication_start_command(&how, &sql);
	ck_assert_msg(wire_copy_both_start(wire, buffer_cstr(&sql), &err), "%s", fixture_text(&err));
	buffer_free(&sql);
}

START_TEST(streaming)
{
	static const char *const modes[] = {"disable", "require"};
	Error err = ERROR_INIT;

	db_exec(control, "CREATE TABLE streamed (id int PRIMARY KEY, t text)");
	db_exec(control, "CREATE PUBLICATION \"it's \"\"one\"\"\" FOR TABLE streamed");
	for (int i = 0; i < 2; i++) {
		Wire *wire = open_wire(true, modes[i]);
		Lsn point;
		int64_t deadline = deadline_in_ms(30000);
		int begins = 0, inserts = 0, commits = 0, keepalives = 0;
		Lsn end = LSN_INVALID;
		ck_assert(replication_create_slot(wire, "stream", 0, &point, &err));
		start_stream(wire, point);
		db_exec(control, "TRUNCATE streamed; INSERT INTO streamed SELECT x, repeat('y', x) FROM "
		                 "generate_series(1, 3000) x; INSERT INTO streamed VALUES (0, '')");
		while (inserts < 3001 || commits < begins || !lsn_valid(end)) {
			Slice payload;
			ReplicationFrame frame;
			ck_assert_msg(next_frame(wire, &payload, deadline, &err) == WIRE_FRAME, "%s",
			              fixture_text(&err));
			ck_assert(replication_parse(payload, &frame, &err));
			if (frame.kind == REPLICATION_KEEPALIVE) {
				keepalives++;
				continue;
			}
			begins += frame.message.data[0] == 'B';
			inserts += frame.message.data[0] == 'I';
			if (frame.message.data[0] == 'C') {
				ByteReader r = reader_of(frame.message);
				(void)read_bytes(&r, 1 + 1 + 8);
				end = lsn_make(read_u64(&r));
				commits++;
			}
		}
		/* Confirm, with an answer wanted: a keepalive comes back. */
		Buffer status = BUFFER_INIT;
		replication_status_update(end, end, end, clock_pg_us(), true, &status);
		ck_assert(wire_copy_both_put(wire, buffer_slice(&status), &err));
		bool empty = false;
		ck_assert(wire_flush(wire, &empty, &err));
		ck_assert(empty);
		int seen = keepalives;
		while (keepalives == seen) {
			Slice payload;
			ReplicationFrame frame;
			ck_assert_int_eq(next_frame(wire, &payload, deadline, &err), WIRE_FRAME);
			ck_assert(replication_parse(payload, &frame, &err));
			keepalives += frame.kind == REPLICATION_KEEPALIVE;
		}
		buffer_free(&status);
		char *text = mem_printf("SELECT confirmed_flush_lsn = '%s' FROM pg_replication_slots",
		                        LSN_STR(end));
		db_wait_until(control, text, 10);
		free(text);
		/* Ended while the server still sends; then the connection goes on. */
		db_exec(control, "UPDATE streamed SET t = t || 'z'");
		ck_assert_msg(wire_copy_both_end(wire, deadline, &err), "%s", fixture_text(&err));
		assert_usable(wire);
		start_stream(wire, end);
		ck_assert(wire_copy_both_end(wire, deadline, &err));
		ck_assert(replication_drop_slot(wire, "stream", &err));
		wire_close(wire);
	}
	db_exec(control, "DROP PUBLICATION \"it's \"\"one\"\"\"; DROP TABLE streamed");
}
END_TEST

START_TEST(streaming_errors)
{
	Wire *wire = open_wire(true, "disable"), *other = open_wire(true, "disable");
	Error err = ERROR_INIT;
	Lsn point;
	Slice payload;

	ck_assert(!wire_copy_both_start(wire,
	                                "START_REPLICATION SLOT nope LOGICAL 0/0 (proto_version "
	                                "'1', publication_names 'p')",
	                                &err));
	ck_assert_str_eq(err.sqlstate, "42704");
	assert_usable(wire);
	db_exec(control, "CREATE PUBLICATION \"it's \"\"one\"\"\"");
	ck_assert(replication_create_slot(wire, "stream", 0, &point, &err));
	start_stream(wire, point);
	ck_assert(!wire_copy_both_start(other,
	                                "START_REPLICATION SLOT stream LOGICAL 0/0 "
	                                "(proto_version '1', publication_names 'p')",
	                                &err));
	ck_assert_str_eq(err.sqlstate, "55006");
	/* The walsender is terminated: an error, and then nothing more. */
	db_exec(control, "SELECT pg_terminate_backend(%u)", wire_backend_pid(wire));
	WireNext next;
	while ((next = next_frame(wire, &payload, deadline_in_ms(20000), &err)) == WIRE_FRAME)
		;
	ck_assert_int_eq(next, WIRE_FAILED);
	ck_assert_msg(err.class == ERROR_SQL || err.class == ERROR_NETWORK, "%s", fixture_text(&err));
	ck_assert_int_eq(wire_copy_both_next(wire, &payload, &err), WIRE_FAILED);
	ck_assert_int_eq(err.class, ERROR_NETWORK);
	wire_close(wire);
	ck_assert(replication_drop_slot(other, "stream", &err) || error_has_sqlstate(&err, "55006"));
	db_wait_until(control, "SELECT count(*) = 0 FROM pg_replication_slots WHERE active", 10);
	(void)!replication_drop_slot(other, "stream", &err);
	wire_close(other);
	db_exec(control, "DROP PUBLICATION \"it's \"\"one\"\"\"");
}
END_TEST

static Suite *
wire_copy_suite(void)
{
	Suite *suite = suite_create("protocol/wire copy");
	TCase *tcase = tcase_create("copy");

	tcase_set_timeout(tcase, 120);
	tcase_add_unchecked_fixture(tcase, start, stop);
	tcase_add_checked_fixture(tcase, open_control, close_control);
	tcase_add_test(tcase, results);
	tcase_add_test(tcase, errors_and_notices);
	tcase_add_test(tcase, deadline_and_stop);
	tcase_add_test(tcase, terminated);
	tcase_add_test(tcase, relays);
	tcase_add_test(tcase, copy_of_nothing_and_of_much);
	tcase_add_test(tcase, copy_out_fails);
	tcase_add_test(tcase, copy_in_fails);
	tcase_add_test(tcase, copy_in_bad_value_and_fail);
	tcase_add_test(tcase, histories);
	tcase_add_test(tcase, identify_and_slots);
	tcase_add_test(tcase, streaming);
	tcase_add_test(tcase, streaming_errors);
	suite_add_tcase(suite, tcase);
	return suite;
}
TEST_SUITE(wire_copy_suite)
