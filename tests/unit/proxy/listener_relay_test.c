/* Sessions through the listener do what they do without it. */
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/memory.h"
#include "tests/harness/process.h"
#include "tests/harness/tls.h"
#include "tests/unit/proxy/listener_fixture.h"

static void
listen_plain(void)
{
	fixture_listen(NULL);
}

static ListenerState
state_now(void)
{
	ListenerState state;
	listener_state(fixture_listener, &state);
	return state;
}

/* Until what the status counts is so; ends the test after 30 s. */
#define WAIT_FOR(cond)                                     \
	do {                                                   \
		int64_t deadline = deadline_in_ms(30000);          \
		while (!(cond) && deadline_left_ms(deadline) > 0)  \
			usleep(2000);                                  \
		ck_assert_msg(cond, "not within 30 s: %s", #cond); \
	} while (0)

START_TEST(queries_and_errors)
{
	PGconn *conn = fixture_session();

	for (int i = 0; i < 50; i++)
		ck_assert_int_eq(db_int(conn, "SELECT %d + 1", i), i + 1);
	free(db_expect_error(conn, "22012", "SELECT 1 / 0"));
	free(db_expect_error(conn, "22012", "SELECT 1 / (50 - i) FROM generate_series(1, 100) i"));
	db_exec(conn, "BEGIN; CREATE TEMP TABLE t (a int) ON COMMIT DROP");
	free(db_expect_error(conn, "42P01", "SELECT * FROM nowhere"));
	free(db_expect_error(conn, "25P02", "SELECT 1"));
	db_exec(conn, "ROLLBACK");
	ck_assert_int_eq(db_int(conn, "SELECT 7"), 7);
	PQfinish(conn);
	WAIT_FOR(state_now().sessions == 0);
}
END_TEST

START_TEST(pipelines)
{
	enum { COUNT = 3000 };
	PGconn *conn = fixture_session();

	ck_assert_int_eq(PQenterPipelineMode(conn), 1);
	ck_assert_int_eq(PQsetnonblocking(conn, 1), 0);
	for (int i = 0; i < COUNT; i++) {
		char text[16];
		const char *values[] = {text};
		snprintf(text, sizeof(text), "%d", i % 10 == 9 ? 0 : i);
		ck_assert_int_eq(
			PQsendQueryParams(conn, "SELECT 1000 / $1::int", 1, NULL, values, NULL, NULL, 0), 1);
		ck_assert_int_eq(PQpipelineSync(conn), 1);
	}
	while (PQflush(conn) == 1) {
		struct pollfd ready = {.fd = PQsocket(conn), .events = POLLIN | POLLOUT};
		ck_assert_int_ge(poll(&ready, 1, 30000), 1);
		ck_assert_int_eq(PQconsumeInput(conn), 1);
	}
	ck_assert_int_eq(PQsetnonblocking(conn, 0), 0);
	int good = 0, bad = 0, syncs = 0;
	while (syncs < COUNT) {
		PGresult *result = PQgetResult(conn);
		if (result == NULL)
			continue;
		good += PQresultStatus(result) == PGRES_TUPLES_OK;
		bad += PQresultStatus(result) == PGRES_FATAL_ERROR;
		syncs += PQresultStatus(result) == PGRES_PIPELINE_SYNC;
		PQclear(result);
	}
	ck_assert_int_eq(bad, COUNT / 10 + 1);
	ck_assert_int_eq(good, COUNT - bad);
	ck_assert_int_eq(PQexitPipelineMode(conn), 1);
	ck_assert_int_eq(db_int(conn, "SELECT 1"), 1);
	PQfinish(conn);
}
END_TEST

/* Both ways, by Query and in the extended protocol, with an error in the middle. */
START_TEST(copies)
{
	PGconn *conn = fixture_session();
	static const char line[] = "12345\tsome text that is long enough to fill buffers\n";

	db_exec(conn, "CREATE TEMP TABLE t (a int, b text)");
	for (int extended = 0; extended < 2; extended++) {
		PGresult *r = extended
		                  ? PQexecParams(conn, "COPY t FROM STDIN", 0, NULL, NULL, NULL, NULL, 0)
		                  : PQexec(conn, "COPY t FROM STDIN");
		ck_assert_int_eq(PQresultStatus(r), PGRES_COPY_IN);
		PQclear(r);
		for (int i = 0; i < 20000; i++)
			ck_assert_int_eq(PQputCopyData(conn, line, sizeof(line) - 1), 1);
		ck_assert_int_eq(PQputCopyEnd(conn, NULL), 1);
		while ((r = PQgetResult(conn)) != NULL) {
			ck_assert_int_eq(PQresultStatus(r), PGRES_COMMAND_OK);
			PQclear(r);
		}
	}
	PGresult *r = PQexec(conn, "COPY t FROM STDIN");
	ck_assert_int_eq(PQresultStatus(r), PGRES_COPY_IN);
	PQclear(r);
	ck_assert_int_eq(PQputCopyData(conn, "x\ty\n", 4), 1);
	for (int i = 0; i < 20000; i++)
		ck_assert_int_eq(PQputCopyData(conn, line, sizeof(line) - 1), 1);
	ck_assert_int_eq(PQputCopyEnd(conn, NULL), 1);
	r = PQgetResult(conn);
	ck_assert_str_eq(PQresultErrorField(r, PG_DIAG_SQLSTATE), "22P02");
	PQclear(r);
	while ((r = PQgetResult(conn)) != NULL)
		PQclear(r);

	r = PQexec(conn, "COPY t TO STDOUT");
	ck_assert_int_eq(PQresultStatus(r), PGRES_COPY_OUT);
	PQclear(r);
	char *data;
	int rows = 0;
	while (PQgetCopyData(conn, &data, 0) > 0) {
		rows++;
		PQfreemem(data);
	}
	ck_assert_int_eq(rows, 40000);
	while ((r = PQgetResult(conn)) != NULL)
		PQclear(r);
	ck_assert_int_eq(db_int(conn, "SELECT count(*) FROM t"), 40000);
	PQfinish(conn);
}
END_TEST

static char tls_dir[256];

static void
with_tls(ListenerOptions *options)
{
	static char cert[300], key[300];
	char *dir = scratch_dir_new("tls");

	snprintf(tls_dir, sizeof(tls_dir), "%s", dir);
	tls_make_files(tls_dir);
	snprintf(cert, sizeof(cert), "%s/server.crt", tls_dir);
	snprintf(key, sizeof(key), "%s/server.key", tls_dir);
	options->tls = LISTEN_TLS_REQUIRE;
	options->tls_cert = cert;
	options->tls_key = key;
	free(dir);
}

/* More than all buffers hold, over TLS on both sides, read and written in bursts: bytes that
 * TLS has and the socket has not must not be forgotten. */
START_TEST(bulk_over_tls)
{
	fixture_unlisten();
	fixture_listen(with_tls);
	PGconn *conn = fixture_client("user=scram password=secret sslmode=require");
	static char line[32768];
	static const char stuck[] =
		"SELECT wait_event = 'ClientWrite' FROM pg_stat_activity WHERE usename = 'scram'";
	PGconn *admin = fixture_admin();
	char *data;
	int rows = 0;

	ck_assert_msg(PQstatus(conn) == CONNECTION_OK, "%s", PQerrorMessage(conn));
	db_exec(conn, "CREATE TEMP TABLE t (a text)");
	PGresult *r = PQexec(conn, "COPY t FROM STDIN");
	PQclear(r);
	memset(line, 'y', sizeof(line));
	line[sizeof(line) - 1] = '\n';
	for (int i = 0; i < 2000; i++)
		ck_assert_int_eq(PQputCopyData(conn, line, sizeof(line)), 1);
	ck_assert_int_eq(PQputCopyEnd(conn, NULL), 1);
	while ((r = PQgetResult(conn)) != NULL) {
		ck_assert_int_eq(PQresultStatus(r), PGRES_COMMAND_OK);
		PQclear(r);
	}
	r = PQexec(conn, "COPY t TO STDOUT");
	PQclear(r);
	while (PQgetCopyData(conn, &data, 0) > 0) {
		/* Twice it does not read until all buffers on the way are full. */
		if (++rows == 100 || rows == 600)
			db_wait_until(admin, stuck, 30);
		PQfreemem(data);
	}
	ck_assert_int_eq(rows, 2000);
	while ((r = PQgetResult(conn)) != NULL)
		PQclear(r);
	ck_assert_int_eq(db_int(conn, "SELECT count(*) FROM t"), 2000);
	PQfinish(conn);
	PQfinish(admin);
}
END_TEST

START_TEST(notifications)
{
	PGconn *listening = fixture_session();
	PGconn *other = fixture_session();
	PGnotify *note = NULL;
	int64_t deadline = deadline_in_ms(30000);

	db_exec(listening, "LISTEN shop");
	db_exec(other, "NOTIFY shop, 'open'");
	while (note == NULL && deadline_left_ms(deadline) > 0) {
		struct pollfd ready = {.fd = PQsocket(listening), .events = POLLIN};
		poll(&ready, 1, 1000);
		ck_assert_int_eq(PQconsumeInput(listening), 1);
		note = PQnotifies(listening);
	}
	ck_assert_ptr_nonnull(note);
	ck_assert_str_eq(note->extra, "open");
	/* A client tells its own notifications from others' by this. */
	ck_assert_int_eq(note->be_pid, PQbackendPID(other));
	PQfreemem(note);
	PQfinish(listening);
	PQfinish(other);
}
END_TEST

START_TEST(functions_and_replication)
{
	PGconn *conn = fixture_session();
	int answer = 0, len = 0;
	PQArgBlock args[] = {{.isint = 1, .len = 4, .u.integer = -5}};

	/* int4abs has oid 1251 on every version */
	PGresult *r = PQfn(conn, 1251, &answer, &len, 1, args, 1);
	ck_assert_int_eq(PQresultStatus(r), PGRES_COMMAND_OK);
	ck_assert_int_eq(answer, 5);
	PQclear(r);
	PQfinish(conn);

	PGconn *admin = fixture_admin();
	db_exec(admin, "ALTER ROLE scram REPLICATION");
	conn = fixture_client("user=scram password=secret replication=database");
	ck_assert_msg(PQstatus(conn) == CONNECTION_OK, "%s", PQerrorMessage(conn));
	r = PQexec(conn, "IDENTIFY_SYSTEM");
	ck_assert_int_eq(PQntuples(r), 1);
	PQclear(r);
	ck_assert_uint_eq(state_now().unmovable, 1);
	PQfinish(conn);
	db_exec(admin, "ALTER ROLE scram NOREPLICATION");
	PQfinish(admin);
}
END_TEST

static long
resident_kb(void)
{
	struct rusage usage;
	getrusage(RUSAGE_SELF, &usage);
	return usage.ru_maxrss;
}

/* A message is never collected: its size costs nothing here. Read without libpq, which
 * would keep the whole of it in this very process. */
START_TEST(large_messages)
{
	enum { BYTES = 200 * 1000 * 1000 };
	static const char query[] = "SELECT repeat('x', 200000000)";
	static char buffer[1 << 16];
	PGconn *conn = fixture_session();
	int fd = PQsocket(conn);
	uint32_t length = htobe32(sizeof(query) + 4);
	long before = resident_kb();
	size_t got = 0;
	char last[6] = "";

	fixture_send(fd, "Q", 1);
	fixture_send(fd, &length, 4);
	fixture_send(fd, query, sizeof(query));
	while (got < BYTES || memcmp(last, "Z\0\0\0\5I", 6) != 0) {
		struct pollfd ready = {.fd = fd, .events = POLLIN};
		ck_assert_int_eq(poll(&ready, 1, 60000), 1);
		ssize_t n = recv(fd, buffer, sizeof(buffer), MSG_DONTWAIT);
		if (n < 0)
			continue;
		ck_assert_int_gt(n, 0);
		got += (size_t)n;
		if (n >= 6)
			memcpy(last, buffer + n - 6, 6);
	}
	ck_assert_int_lt(resident_kb() - before, 20000);
	PQfinish(conn);
}
END_TEST

/* ---- cancels ---- */

typedef struct {
	PGconn *conn;
	const char *sql;
	char sqlstate[6];
} Running;

static void *
run_query(void *arg)
{
	Running *running = arg;
	db_try(running->conn, running->sqlstate, "%s", running->sql);
	return NULL;
}

static void
send_cancel(PGconn *conn)
{
	char text[256] = "";
	PGcancel *cancel = PQgetCancel(conn);

	ck_assert_msg(PQcancel(cancel, text, sizeof(text)) == 1, "%s", text);
	PQfreeCancel(cancel);
}

START_TEST(cancel_ends_a_query)
{
	PGconn *admin = fixture_admin();
	Running running = {.conn = fixture_session(), .sql = "SELECT pg_sleep(60)"};
	pthread_t thread;

	ck_assert_int_eq(pthread_create(&thread, NULL, run_query, &running), 0);
	db_wait_until(admin, "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'",
	              30);
	send_cancel(running.conn);
	pthread_join(thread, NULL);
	ck_assert_str_eq(running.sqlstate, "57014");
	ck_assert_uint_eq(state_now().cancels, 1);
	/* Idle: nothing to cancel, and nothing is cancelled later. */
	send_cancel(running.conn);
	ck_assert_int_eq(db_int(running.conn, "SELECT 1 FROM pg_sleep(0.05)"), 1);
	PQfinish(running.conn);
	PQfinish(admin);
}
END_TEST

/* Half a request is nothing that could be cancelled, and no cancel waits until it is whole: the
 * client that asks for it may be the one that has to send the rest. */
START_TEST(cancel_of_half_a_request)
{
	static const char query[] = "Q\0\0\0\x0dSELECT 7";
	static const char done[] = "C\0\0\0\x0dSELECT 1\0Z\0\0\0\5I";
	enum { LEN = sizeof(query), REPLY = 34 + 12 + sizeof(done) - 1 };
	static const size_t cuts[] = {1, 5, 9, LEN - 1};
	PGconn *conn = fixture_session();
	char reply[REPLY];

	for (size_t i = 0; i < sizeof(cuts) / sizeof(cuts[0]); i++) {
		fixture_send(PQsocket(conn), query, cuts[i]);
		send_cancel(conn);
		fixture_send(PQsocket(conn), query + cuts[i], LEN - cuts[i]);
		ck_assert_uint_eq(fixture_recv(PQsocket(conn), reply, REPLY), REPLY);
		ck_assert_mem_eq(reply + REPLY - (sizeof(done) - 1), done, sizeof(done) - 1);
	}
	ck_assert_uint_eq(state_now().cancels, 0);
	PQfinish(conn);
}
END_TEST

/* Cancels without end beside short queries: each cancel that works ends the query that was
 * under way when it was sent, never the next one. The next one says by a setting which it is. */
typedef struct {
	PGconn *conn;
	_Atomic bool wanted;
	_Atomic bool ended;
} Canceller;

static void *
cancel_when_wanted(void *arg)
{
	Canceller *c = arg;
	char text[256];
	PGcancel *cancel = PQgetCancel(c->conn);

	while (!c->ended) {
		if (!c->wanted)
			continue;
		PQcancel(cancel, text, sizeof(text));
		c->wanted = false;
	}
	PQfreeCancel(cancel);
	return NULL;
}

START_TEST(cancel_is_never_late)
{
	Canceller c = {.conn = fixture_session()};
	pthread_t thread;
	int hits = 0;
	double seconds = 0.002;

	ck_assert_int_eq(pthread_create(&thread, NULL, cancel_when_wanted, &c), 0);
	for (int i = 0; i < 200; i++) {
		char sqlstate[6];
		if (hits == 0 && i % 20 == 19)
			seconds *= 2; /* cancels are slower than that here */
		c.wanted = true;
		/* May be hit: the cancel was asked for now. */
		if (!db_try(c.conn, sqlstate, "SELECT pg_sleep(%f)", (i % 5) * seconds)) {
			ck_assert_str_eq(sqlstate, "57014");
			hits++;
		}
		/* Two more, whose time begins only when the client's cancel call has returned: */
		while (c.wanted)
			;
		ck_assert_msg(db_try(c.conn, sqlstate, "SELECT 1"), "hit late: %s", sqlstate);
		ck_assert_msg(db_try(c.conn, sqlstate, "SELECT pg_sleep(0.0003)"), "hit late: %s",
		              sqlstate);
	}
	c.ended = true;
	pthread_join(thread, NULL);
	ck_assert_int_gt(hits, 0);
	PQfinish(c.conn);
}
END_TEST

/* With a wrong key, and to a session that has gone: the answer is the same silence. */
START_TEST(cancel_with_a_wrong_key)
{
	PGconn *admin = fixture_admin();
	Running running = {.conn = fixture_session(), .sql = "SELECT pg_sleep(1)"};
	pthread_t thread;
	char request[16], byte;
	uint32_t words[4] = {htobe32(16), htobe32(80877102),
	                     htobe32((uint32_t)PQbackendPID(running.conn)), htobe32(0x12345678)};

	memcpy(request, words, sizeof(request));
	ck_assert_int_eq(pthread_create(&thread, NULL, run_query, &running), 0);
	db_wait_until(admin, "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'",
	              30);
	for (int i = 0; i < 3; i++) {
		int fd = fixture_raw();
		fixture_send(fd, request, sizeof(request));
		ck_assert_uint_eq(fixture_recv(fd, &byte, 1), 0);
		close(fd);
	}
	pthread_join(thread, NULL);
	ck_assert_str_eq(running.sqlstate, "");
	PQfinish(running.conn);
	PQfinish(admin);
}
END_TEST

/* ---- ends ---- */

/* The FATAL error that waits for the client, by its own bytes. */
static void
is_told_to_go(PGconn *conn)
{
	char text[400] = "";
	size_t got = fixture_recv(PQsocket(conn), text, sizeof(text));

	ck_assert_uint_gt(got, 30);
	ck_assert_int_eq(text[0], 'E');
	ck_assert_ptr_nonnull(memmem(text, got, "SFATAL\0VFATAL\0C57P01", 20));
}

START_TEST(server_ends_a_session)
{
	PGconn *admin = fixture_admin();
	PGconn *conn = fixture_session();

	db_exec(admin, "SELECT pg_terminate_backend(%d)", PQbackendPID(conn));
	WAIT_FOR(state_now().sessions == 0);
	is_told_to_go(conn);
	PQfinish(conn);
	PQfinish(admin);
}
END_TEST

/* What a client has sent before it goes is done. */
START_TEST(client_leaves_work_behind)
{
	PGconn *admin = fixture_admin();
	int64_t before = db_int(admin, "SELECT n FROM ledger");

	for (int i = 0; i < 20; i++) {
		PGconn *conn = fixture_session();
		ck_assert_int_eq(PQsendQuery(conn, "UPDATE ledger SET n = n + 1"), 1);
		ck_assert_int_eq(PQflush(conn), 0);
		PQfinish(conn);
	}
	char *sql = mem_printf("SELECT n = %lld FROM ledger", (long long)before + 20);
	db_wait_until(admin, sql, 30);
	free(sql);
	PQfinish(admin);
}
END_TEST

START_TEST(stop_says_goodbye)
{
	PGconn *idle = fixture_session();
	PGconn *open = fixture_session();

	db_exec(open, "BEGIN");
	listener_stop(fixture_listener);
	fixture_listener = NULL;
	is_told_to_go(idle);
	is_told_to_go(open);
	PQfinish(idle);
	PQfinish(open);
}
END_TEST

START_TEST(server_away_and_back)
{
	cluster_stop(fixture_server, CLUSTER_FAST);
	PGconn *conn = fixture_client("user=scram password=secret");
	ck_assert_int_eq(PQstatus(conn), CONNECTION_BAD);
	ck_assert_ptr_nonnull(strstr(PQerrorMessage(conn), "cannot be reached"));
	PQfinish(conn);
	cluster_resume(fixture_server);
	PQfinish(fixture_session());
}
END_TEST

/* The session in which roles are asked for has ended since, and says so only now. */
START_TEST(server_restarted_between_two_logins)
{
	PQfinish(fixture_client("user=scram password=secret"));
	cluster_restart(fixture_server, CLUSTER_FAST);
	PGconn *conn = fixture_client("user=scram password=secret");
	ck_assert_msg(PQstatus(conn) == CONNECTION_OK, "%s", PQerrorMessage(conn));
	PQfinish(conn);
}
END_TEST

/* ---- the route ---- */

/* The farewell comes with COMMIT's answer: libpq shows it as a notice. */
static void
ignore_notice(void *arg UNUSED, const char *text UNUSED)
{
}

START_TEST(route_ends_sessions_between_transactions)
{
	PGconn *idle = fixture_session();
	PGconn *open = fixture_session();
	char sqlstate[6];

	db_exec(open, "BEGIN; UPDATE ledger SET n = n + 0");
	listener_set_route(fixture_listener, ROUTE_TARGET);
	is_told_to_go(idle);
	/* A transaction goes on to its end, and its COMMIT is answered. */
	ck_assert_int_eq(db_int(open, "SELECT 3"), 3);
	PQsetNoticeProcessor(open, ignore_notice, NULL);
	db_exec(open, "COMMIT");
	ck_assert(!db_try(open, sqlstate, "SELECT 1"));
	PQfinish(fixture_session());
	PQfinish(idle);
	PQfinish(open);
}
END_TEST

static Suite *
make(void)
{
	Suite *suite = suite_create("listener_relay");
	TCase *tcase = tcase_create("listener_relay");
	TCase *ends = tcase_create("listener_ends");

	tcase_add_unchecked_fixture(tcase, fixture_server_start, fixture_server_stop);
	tcase_add_checked_fixture(tcase, listen_plain, fixture_unlisten);
	tcase_add_test(tcase, queries_and_errors);
	tcase_add_test(tcase, pipelines);
	tcase_add_test(tcase, copies);
	tcase_add_test(tcase, bulk_over_tls);
	tcase_add_test(tcase, notifications);
	tcase_add_test(tcase, functions_and_replication);
	tcase_add_test(tcase, large_messages);
	tcase_add_test(tcase, cancel_ends_a_query);
	tcase_add_test(tcase, cancel_of_half_a_request);
	tcase_add_test(tcase, cancel_is_never_late);
	tcase_add_test(tcase, cancel_with_a_wrong_key);
	suite_add_tcase(suite, tcase);

	tcase_add_unchecked_fixture(ends, fixture_server_start, fixture_server_stop);
	tcase_add_checked_fixture(ends, listen_plain, fixture_unlisten);
	tcase_add_test(ends, server_ends_a_session);
	tcase_add_test(ends, client_leaves_work_behind);
	tcase_add_test(ends, stop_says_goodbye);
	tcase_add_test(ends, server_away_and_back);
	tcase_add_test(ends, server_restarted_between_two_logins);
	tcase_add_test(ends, route_ends_sessions_between_transactions);
	suite_add_tcase(suite, ends);
	return suite;
}

TEST_SUITE(make)
