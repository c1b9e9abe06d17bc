/* Holding every session at a transaction boundary, and letting them go. */
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/memory.h"
#include "tests/harness/process.h"
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

#define WAIT_FOR(cond)                                     \
	do {                                                   \
		int64_t deadline = deadline_in_ms(30000);          \
		while (!(cond) && deadline_left_ms(deadline) > 0)  \
			usleep(2000);                                  \
		ck_assert_msg(cond, "not within 30 s: %s", #cond); \
	} while (0)

static void
hold(void)
{
	Error err = ERROR_INIT;
	ck_assert_msg(listener_hold(fixture_listener, deadline_in_ms(30000), NULL, &err), "%s",
	              err.message);
}

/* Nothing comes from the server: the request is here and stays here. */
static bool
is_silent(PGconn *conn)
{
	struct pollfd ready = {.fd = PQsocket(conn), .events = POLLIN};
	return poll(&ready, 1, 100) == 0;
}

static int64_t
answer(PGconn *conn)
{
	int64_t value = -1;
	PGresult *r;

	while ((r = PQgetResult(conn)) != NULL) {
		ck_assert_msg(PQresultStatus(r) == PGRES_TUPLES_OK, "%s", PQresultErrorMessage(r));
		value = atoll(PQgetvalue(r, 0, 0));
		PQclear(r);
	}
	return value;
}

START_TEST(idle_sessions_are_held_at_once)
{
	PGconn *one = fixture_session();
	PGconn *two = fixture_session();

	hold();
	ck_assert_uint_eq(state_now().held, 2);
	ck_assert_int_eq(PQsendQuery(one, "SELECT 41"), 1);
	ck_assert_int_eq(PQsendQueryParams(two, "SELECT 42", 0, NULL, NULL, NULL, NULL, 0), 1);
	ck_assert(is_silent(one) && is_silent(two));
	listener_release(fixture_listener);
	ck_assert_int_eq(answer(one), 41);
	ck_assert_int_eq(answer(two), 42);
	ck_assert_uint_eq(state_now().held, 0);
	PQfinish(one);
	PQfinish(two);
}
END_TEST

typedef struct {
	_Atomic bool held;
} Holder;

static void *
hold_in_background(void *arg)
{
	hold();
	((Holder *)arg)->held = true;
	return NULL;
}

/* A transaction goes on to its end, and not one request further. */
START_TEST(transactions_end_first)
{
	PGconn *conn = fixture_session();
	Holder holder = {false};
	pthread_t thread;

	db_exec(conn, "BEGIN; UPDATE ledger SET n = n");
	ck_assert_int_eq(pthread_create(&thread, NULL, hold_in_background, &holder), 0);
	for (int i = 0; i < 20; i++)
		ck_assert_int_eq(db_int(conn, "SELECT %d", i), i);
	ck_assert(!holder.held);
	free(db_expect_error(conn, "22012", "SELECT 1 / 0"));
	ck_assert(!holder.held);
	db_exec(conn, "ROLLBACK");
	pthread_join(thread, NULL);
	ck_assert_int_eq(PQsendQuery(conn, "SELECT 5"), 1);
	ck_assert(is_silent(conn));
	listener_release(fixture_listener);
	ck_assert_int_eq(answer(conn), 5);
	PQfinish(conn);
}
END_TEST

/* A client that never waits for answers comes to a boundary too, and what it sends stays in
 * its order. */
typedef struct {
	int results;
	_Atomic bool stop;
} Pipeline;

static void *
run_pipeline(void *arg)
{
	Pipeline *p = arg;
	PGconn *conn = fixture_session();
	int sent = 0;

	ck_assert_int_eq(PQenterPipelineMode(conn), 1);
	while (!p->stop || p->results < sent) {
		if (!p->stop && sent - p->results < 50) {
			char text[16];
			const char *values[] = {text};
			snprintf(text, sizeof(text), "%d", sent++);
			ck_assert_int_eq(
				PQsendQueryParams(conn, "SELECT $1::int", 1, NULL, values, NULL, NULL, 0), 1);
			ck_assert_int_eq(PQpipelineSync(conn), 1);
			continue;
		}
		PGresult *r = PQgetResult(conn);
		if (PQresultStatus(r) == PGRES_TUPLES_OK)
			ck_assert_int_eq(atoi(PQgetvalue(r, 0, 0)), p->results++);
		PQclear(r);
	}
	PQfinish(conn);
	return NULL;
}

START_TEST(pipelines_come_to_a_boundary)
{
	Pipeline p = {.results = 0};
	pthread_t thread;

	ck_assert_int_eq(pthread_create(&thread, NULL, run_pipeline, &p), 0);
	WAIT_FOR(state_now().sessions == 1);
	for (int i = 0; i < 200; i++) {
		hold();
		listener_release(fixture_listener);
	}
	p.stop = true;
	pthread_join(thread, NULL);
	ck_assert_int_gt(p.results, 0);
}
END_TEST

/* COPY from the client is one request: its data passes while everything is being held. */
START_TEST(copies_end_first)
{
	for (int extended = 0; extended < 2; extended++) {
		PGconn *conn = fixture_session();
		Holder holder = {false};
		pthread_t thread;

		db_exec(conn, "CREATE TEMP TABLE t (a int)");
		PGresult *r = extended
		                  ? PQexecParams(conn, "COPY t FROM STDIN", 0, NULL, NULL, NULL, NULL, 0)
		                  : PQexec(conn, "COPY t FROM STDIN");
		PQclear(r);
		ck_assert_int_eq(pthread_create(&thread, NULL, hold_in_background, &holder), 0);
		for (int i = 0; i < 20000; i++)
			ck_assert_int_eq(PQputCopyData(conn, "1234567\n", 8), 1);
		ck_assert(!holder.held);
		ck_assert_int_eq(PQputCopyEnd(conn, NULL), 1);
		while ((r = PQgetResult(conn)) != NULL) {
			ck_assert_int_eq(PQresultStatus(r), PGRES_COMMAND_OK);
			PQclear(r);
		}
		pthread_join(thread, NULL);
		listener_release(fixture_listener);
		ck_assert_int_eq(db_int(conn, "SELECT count(*) FROM t"), 20000);
		PQfinish(conn);
	}
}
END_TEST

/* A walsender is always at work; whoever streams goes on streaming during a hold and after. */
START_TEST(streams_are_not_waited_for)
{
	PGconn *admin = fixture_admin();
	char start[80];

	db_exec(admin, "ALTER ROLE scram REPLICATION");
	PGconn *conn = fixture_client("user=scram password=secret replication=true");
	ck_assert_msg(PQstatus(conn) == CONNECTION_OK, "%s", PQerrorMessage(conn));
	PGresult *r = PQexec(conn, "IDENTIFY_SYSTEM");
	ck_assert_int_eq(PQntuples(r), 1);
	snprintf(start, sizeof(start), "START_REPLICATION PHYSICAL %s", PQgetvalue(r, 0, 2));
	PQclear(r);
	r = PQexec(conn, start);
	ck_assert_msg(PQresultStatus(r) == PGRES_COPY_BOTH, "%s", PQerrorMessage(conn));
	PQclear(r);
	hold();
	db_exec(admin, "SELECT pg_switch_wal()");
	char *data = NULL;
	ck_assert_int_gt(PQgetCopyData(conn, &data, 0), 0);
	PQfreemem(data);
	listener_release(fixture_listener);
	ck_assert_int_eq(PQputCopyEnd(conn, NULL), 1);
	PQfinish(conn);
	db_exec(admin, "ALTER ROLE scram NOREPLICATION");
	PQfinish(admin);
}
END_TEST

START_TEST(the_deadline_names_who_is_late)
{
	PGconn *late = fixture_session();
	PGconn *idle = fixture_session();
	Error err = ERROR_INIT;
	char pid[32];

	db_exec(late, "BEGIN");
	ck_assert(!listener_hold(fixture_listener, deadline_in_ms(100), NULL, &err));
	ck_assert_int_eq(err.class, ERROR_TIMEOUT);
	snprintf(pid, sizeof(pid), "pid %d,", PQbackendPID(late));
	ck_assert_msg(strstr(err.message, pid) != NULL &&
	                  strstr(err.message, "scram@postgres from 127.0.0.1") != NULL &&
	                  strstr(err.message, "in a transaction for") != NULL,
	              "%s", err.message);
	snprintf(pid, sizeof(pid), "pid %d,", PQbackendPID(idle));
	ck_assert_ptr_null(strstr(err.message, pid));
	/* Everybody goes on, and the next hold is another one. */
	ck_assert_int_eq(db_int(idle, "SELECT 1"), 1);
	ck_assert_int_eq(db_int(late, "SELECT 2"), 2);
	db_exec(late, "COMMIT");
	hold();
	listener_release(fixture_listener);
	PQfinish(late);
	PQfinish(idle);
}
END_TEST

/* Where it is the client that has not sent all, that is said: no request of its is to be ended. */
START_TEST(late_clients_are_named)
{
	static const char long_query[] = "Q\0\2\0\0SELECT 1", parse[] = "P\0\0\0\x10\0SELECT 1\0\0\0";
	static const struct {
		const char *sent;
		size_t len;
		const char *expected;
	} cases[] = {
		{long_query, sizeof(long_query) - 1, "waiting for the rest of its client's message for"},
		{parse, sizeof(parse) - 1, "waiting for its client's Sync for"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		PGconn *late = fixture_session();
		Error err = ERROR_INIT;

		fixture_send(PQsocket(late), cases[i].sent, cases[i].len);
		/* Until it has come to the session. */
		int64_t until = deadline_in_ms(30000);
		while (listener_hold(fixture_listener, deadline_in_ms(100), NULL, &err)) {
			listener_release(fixture_listener);
			ck_assert(deadline_left_ms(until) > 0);
		}
		ck_assert_msg(strstr(err.message, cases[i].expected) != NULL, "%s", err.message);
		PQfinish(late);
		WAIT_FOR(state_now().sessions == 0);
	}
}
END_TEST

/* Nor of one whose client does not read. */
START_TEST(a_client_that_does_not_read_is_named)
{
	enum { TOO_MUCH = 64 };
	PGconn *late = fixture_session();
	Error err = ERROR_INIT;

	/* More megabytes than sockets take: the server, too, comes to wait for the client. */
	char *sql = mem_printf("SELECT repeat('x', 1000000) FROM generate_series(1, %d)", TOO_MUCH);
	ck_assert_int_eq(PQsendQuery(late, sql), 1);
	free(sql);
	int64_t until = deadline_in_ms(30000);
	do {
		error_clear(&err);
		if (listener_hold(fixture_listener, deadline_in_ms(100), NULL, &err))
			listener_release(fixture_listener);
	} while (strstr(err.message, "waiting for its client to read for") == NULL &&
	         deadline_left_ms(until) > 0);
	ck_assert_msg(strstr(err.message, "waiting for its client to read for") != NULL, "%s",
	              err.message);
	ck_assert_msg(strstr(err.hint, "--hold-timeout") != NULL, "%s", err.hint);
	PQfinish(late);
	WAIT_FOR(state_now().sessions == 0);
}
END_TEST

START_TEST(a_stop_ends_the_wait)
{
	PGconn *late = fixture_session();
	Stop *stop = stop_new();
	Error err = ERROR_INIT;

	db_exec(late, "BEGIN");
	stop_request(stop);
	ck_assert(!listener_hold(fixture_listener, 0, stop, &err));
	ck_assert_int_eq(err.class, ERROR_CANCELLED);
	ck_assert_int_eq(db_int(late, "SELECT 2"), 2);
	stop_free(stop);
	PQfinish(late);
}
END_TEST

static void
expect_done(PGconn *conn)
{
	PGresult *r;

	while ((r = PQgetResult(conn)) != NULL) {
		ck_assert_msg(PQresultStatus(r) == PGRES_COMMAND_OK, "%s", PQresultErrorMessage(r));
		PQclear(r);
	}
}

static int64_t
prepared_now(PGconn *admin)
{
	return db_int(admin, "SELECT count(*) FROM pg_prepared_xacts");
}

/* What ends a prepared transaction still goes out, whoever says it and however, and nothing else;
 * until the hold is shut. */
START_TEST(second_phases_go_out)
{
	PGconn *admin = fixture_admin();
	PGconn *one = fixture_session();
	PGconn *two = fixture_session();
	Error err = ERROR_INIT;
	int64_t before = db_int(admin, "SELECT n FROM ledger");

	for (int extended = 0; extended < 2; extended++) {
		db_exec(one, "BEGIN; UPDATE ledger SET n = n + 1; PREPARE TRANSACTION 'one'");
		ck_assert(listener_hold_two_phase(fixture_listener, deadline_in_ms(30000), NULL, &err));
		ck_assert_int_eq(PQsendQuery(one, "SELECT 41"), 1);
		ck_assert(is_silent(one));
		static const char commit[] = "/* the other's */ commit prepared 'one'";
		if (extended)
			ck_assert_int_eq(PQsendQueryParams(two, commit, 0, NULL, NULL, NULL, NULL, 0), 1);
		else
			ck_assert_int_eq(PQsendQuery(two, commit), 1);
		expect_done(two);
		ck_assert_int_eq(prepared_now(admin), 0);
		/* An error is one to the client as ever, and the next request of either waits. */
		ck_assert_int_eq(PQsendQuery(two, "ROLLBACK PREPARED 'none'"), 1);
		PGresult *r = PQgetResult(two);
		ck_assert_str_eq(PQresultErrorField(r, PG_DIAG_SQLSTATE), "42704");
		PQclear(r);
		ck_assert_ptr_null(PQgetResult(two));
		ck_assert_int_eq(PQsendQuery(two, "SELECT 42"), 1);
		ck_assert(is_silent(one) && is_silent(two));
		ck_assert(listener_hold_shut(fixture_listener, deadline_in_ms(30000), NULL, &err));
		ck_assert_uint_eq(state_now().held, 2);
		listener_release(fixture_listener);
		ck_assert_int_eq(answer(one), 41);
		ck_assert_int_eq(answer(two), 42);
	}
	db_exec(one, "BEGIN; UPDATE ledger SET n = n + 1; PREPARE TRANSACTION 'one'");
	ck_assert(listener_hold_two_phase(fixture_listener, deadline_in_ms(30000), NULL, &err));
	ck_assert(listener_hold_shut(fixture_listener, deadline_in_ms(30000), NULL, &err));
	ck_assert_int_eq(PQsendQuery(one, "COMMIT PREPARED 'one'"), 1);
	ck_assert(is_silent(one));
	ck_assert_int_eq(prepared_now(admin), 1);
	listener_release(fixture_listener);
	expect_done(one);
	ck_assert_int_eq(db_int(admin, "SELECT n FROM ledger"), before + 3);
	PQfinish(one);
	PQfinish(two);
	PQfinish(admin);
}
END_TEST

/* The hold waits for whoever waits for a row that is prepared. */
START_TEST(second_phases_go_out_while_others_are_waited_for)
{
	PGconn *admin = fixture_admin();
	PGconn *one = fixture_session();
	PGconn *two = fixture_session();
	Error err = ERROR_INIT;

	db_exec(one, "BEGIN; UPDATE ledger SET n = n + 1; PREPARE TRANSACTION 'one'");
	ck_assert_int_eq(PQsendQuery(two, "UPDATE ledger SET n = n - 1"), 1);
	db_wait_until(admin, "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'",
	              30);
	ck_assert_int_eq(PQsendQuery(one, "COMMIT PREPARED 'one'"), 1);
	ck_assert_msg(listener_hold_two_phase(fixture_listener, deadline_in_ms(30000), NULL, &err),
	              "%s", err.message);
	listener_release(fixture_listener);
	expect_done(one);
	expect_done(two);
	PQfinish(one);
	PQfinish(two);
	PQfinish(admin);
}
END_TEST

typedef struct {
	PGconn *_Atomic conn;
} Arrival;

static void *
connect_in_background(void *arg)
{
	((Arrival *)arg)->conn = fixture_session();
	return NULL;
}

START_TEST(new_sessions_wait)
{
	Arrival arrival = {NULL};
	pthread_t thread;

	hold();
	ck_assert_int_eq(pthread_create(&thread, NULL, connect_in_background, &arrival), 0);
	WAIT_FOR(state_now().held == 1);
	ck_assert_ptr_null(arrival.conn);
	listener_release(fixture_listener);
	pthread_join(thread, NULL);
	ck_assert_int_eq(db_int(arrival.conn, "SELECT 1"), 1);
	PQfinish(arrival.conn);
}
END_TEST

/* The connection that waits for the release is made where the route leads by then. */
START_TEST(new_sessions_go_where_the_route_leads)
{
	Arrival arrival = {NULL};
	pthread_t thread;

	hold();
	ck_assert_int_eq(pthread_create(&thread, NULL, connect_in_background, &arrival), 0);
	WAIT_FOR(state_now().held == 1);
	listener_set_route(fixture_listener, ROUTE_TARGET);
	listener_release(fixture_listener);
	pthread_join(thread, NULL);
	ck_assert_int_eq(db_int(arrival.conn, "SELECT 1"), 1);
	ck_assert_int_eq(state_now().route, ROUTE_TARGET);
	PQfinish(arrival.conn);
}
END_TEST

START_TEST(held_clients_may_go)
{
	PGconn *admin = fixture_admin();
	PGconn *polite = fixture_session();
	PGconn *rude = fixture_session();

	hold();
	PQfinish(polite);
	shutdown(PQsocket(rude), SHUT_RDWR);
	WAIT_FOR(state_now().sessions == 0);
	PQfinish(rude);
	db_wait_until(admin, "SELECT count(*) = 0 FROM pg_stat_activity WHERE usename = 'scram'", 30);
	listener_release(fixture_listener);
	PQfinish(admin);
}
END_TEST

static const char counting[] = "UPDATE ledger SET n = n + 1";

static PGconn *
sends_and_goes(bool says_so)
{
	PGconn *conn = fixture_session();

	hold();
	ck_assert_int_eq(PQsendQuery(conn, counting), 1);
	ck_assert_int_eq(PQflush(conn), 0);
	if (!says_so)
		shutdown(PQsocket(conn), SHUT_RDWR);
	return conn;
}

/* What it has sent before it goes is done, as without a hold, and once; half a request is not. */
START_TEST(held_clients_leave_work_behind)
{
	PGconn *admin = fixture_admin();
	int64_t before = db_int(admin, "SELECT n FROM ledger");

	for (int i = 0; i < 2; i++) {
		PGconn *conn = sends_and_goes(i == 0);
		PQfinish(conn);
		ck_assert_int_eq(db_int(admin, "SELECT n FROM ledger"), before + i);
		ck_assert_uint_eq(state_now().sessions, 1);
		listener_release(fixture_listener);
		WAIT_FOR(state_now().sessions == 0);
		db_wait_until(admin, "SELECT count(*) = 0 FROM pg_stat_activity WHERE usename = 'scram'",
		              30);
		ck_assert_int_eq(db_int(admin, "SELECT n FROM ledger"), before + i + 1);
	}
	PGconn *half = fixture_session();
	hold();
	ck_assert_int_eq(send(PQsocket(half), "Q\0\0\0\x20UPDATE", 11, 0), 11);
	shutdown(PQsocket(half), SHUT_RDWR);
	WAIT_FOR(state_now().sessions == 0);
	listener_release(fixture_listener);
	PQfinish(half);
	PQfinish(admin);
}
END_TEST

static void *
cancel_in_background(void *arg)
{
	char text[256] = "";
	ck_assert_int_eq(PQcancel(arg, text, sizeof(text)), 1);
	return NULL;
}

/* A cancel of a request that is held waits with it; of a session without one it is nothing. */
START_TEST(held_clients_can_cancel)
{
	PGconn *waiting = fixture_session();
	PGconn *idle = fixture_session();
	PGcancel *cancel = PQgetCancel(waiting), *other = PQgetCancel(idle);
	pthread_t thread;

	hold();
	cancel_in_background(other);
	ck_assert_int_eq(PQsendQuery(waiting, "SELECT pg_sleep(60)"), 1);
	ck_assert(is_silent(waiting)); /* it is here by now */
	ck_assert_int_eq(pthread_create(&thread, NULL, cancel_in_background, cancel), 0);
	WAIT_FOR(state_now().accepted == 4 && state_now().logins == 0);
	ck_assert(is_silent(waiting));
	listener_release(fixture_listener);
	PGresult *r = PQgetResult(waiting);
	ck_assert_str_eq(PQresultErrorField(r, PG_DIAG_SQLSTATE), "57014");
	pthread_join(thread, NULL);
	ck_assert_int_eq(db_int(idle, "SELECT 1"), 1);
	ck_assert_uint_eq(state_now().cancels, 1);
	PQclear(r);
	PQfreeCancel(cancel);
	PQfreeCancel(other);
	PQfinish(waiting);
	PQfinish(idle);
}
END_TEST

/* Whoever sends on while it is held must wait; memory is bounded, and nothing is lost. */
START_TEST(back_pressure)
{
	enum { BYTES = 32 << 20 };
	PGconn *conn = fixture_session();
	char *sql = malloc(BYTES + 64);
	size_t sent = 0, len;
	int quiet = 0;

	strcpy(sql, "SELECT length('");
	memset(sql + 15, 'x', BYTES);
	strcpy(sql + 15 + BYTES, "')");
	len = strlen(sql) + 1;
	uint32_t length = htobe32((uint32_t)len + 4);
	hold();
	fixture_send(PQsocket(conn), "Q", 1);
	fixture_send(PQsocket(conn), &length, 4);
	while (sent < len && quiet < 5) {
		ssize_t n = send(PQsocket(conn), sql + sent, len - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
		struct pollfd ready = {.fd = PQsocket(conn), .events = POLLOUT};
		if (n > 0)
			sent += (size_t)n;
		quiet = n > 0 || poll(&ready, 1, 50) == 1 ? 0 : quiet + 1;
	}
	ck_assert_uint_lt(sent, len);
	listener_release(fixture_listener);
	/* libpq's socket does not block */
	while (sent < len) {
		struct pollfd ready = {.fd = PQsocket(conn), .events = POLLOUT};
		ck_assert_int_eq(poll(&ready, 1, 30000), 1);
		ssize_t n = send(PQsocket(conn), sql + sent, len - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n > 0)
			sent += (size_t)n;
	}
	char reply[200] = "";
	size_t got = 0;
	while (got < 6 || memcmp(reply + got - 6, "Z\0\0\0\5I", 6) != 0) {
		struct pollfd ready = {.fd = PQsocket(conn), .events = POLLIN};
		ck_assert_int_eq(poll(&ready, 1, 30000), 1);
		ssize_t n = recv(PQsocket(conn), reply + got, sizeof(reply) - got, MSG_DONTWAIT);
		if (n > 0)
			got += (size_t)n;
	}
	ck_assert_ptr_nonnull(memmem(reply, got, "33554432", 8));
	free(sql);
	PQfinish(conn);
}
END_TEST

/* The buffer is full when they are released, and ends in the midst of a message. */
START_TEST(long_pipelines_go_on)
{
	enum { COUNT = 2000 };
	PGconn *conn = fixture_session();

	hold();
	ck_assert_int_eq(PQenterPipelineMode(conn), 1);
	ck_assert_int_eq(PQsetnonblocking(conn, 1), 0);
	for (int i = 0; i < COUNT; i++) {
		ck_assert_int_eq(PQsendQueryParams(conn, "SELECT 'of a length that divides no buffer'", 0,
		                                   NULL, NULL, NULL, NULL, 0),
		                 1);
		ck_assert_int_eq(PQpipelineSync(conn), 1);
	}
	ck_assert_int_eq(PQflush(conn) == -1, 0);
	ck_assert(is_silent(conn));
	listener_release(fixture_listener);
	ck_assert_int_eq(PQsetnonblocking(conn, 0), 0);
	for (int syncs = 0, ended = 0; syncs < COUNT;) {
		int64_t deadline = deadline_in_ms(30000);
		while (PQisBusy(conn)) {
			struct pollfd ready = {.fd = PQsocket(conn), .events = POLLIN};
			ck_assert_msg(poll(&ready, 1, deadline_left_ms(deadline)) == 1, "after %d answers",
			              syncs);
			ck_assert_int_eq(PQconsumeInput(conn), 1);
		}
		PGresult *r = PQgetResult(conn);
		ended = r == NULL ? ended + 1 : 0;
		ck_assert_int_lt(ended, 3);
		syncs += PQresultStatus(r) == PGRES_PIPELINE_SYNC;
		PQclear(r);
	}
	PQfinish(conn);
}
END_TEST

/* Holds without end under load: an increment that a client saw acknowledged is there, and
 * nothing is done twice. */
START_TEST(holds_under_load)
{
	PGconn *admin = fixture_admin();
	char port[16];
	char *script_dir = scratch_dir_new("pgbench");
	char *script = mem_printf("%s/add.sql", script_dir);
	FILE *out = fopen(script, "w");

	fputs("BEGIN;\nUPDATE ledger SET n = n + 1;\nSELECT n FROM ledger;\nCOMMIT;\n", out);
	fclose(out);
	chmod(script, 0644);
	snprintf(port, sizeof(port), "%d", fixture_port);
	int64_t before = db_int(admin, "SELECT n FROM ledger");
	const char *env[] = {"PGPASSWORD=secret", NULL};
	static const char *const modes[] = {"simple", "extended", "prepared"};
	Process *benches[3];
	for (int i = 0; i < 3; i++) {
		const char *argv[] = {"pgbench", "-n",     "-h", "127.0.0.1", "-p",       port,
		                      "-U",      "scram",  "-c", "2",         "-t",       "150",
		                      "-M",      modes[i], "-f", script,      "postgres", NULL};
		benches[i] = process_start(argv, env);
	}
	int holds = 0;
	while (!process_ended(benches[0]) || !process_ended(benches[1]) || !process_ended(benches[2])) {
		hold();
		/* Everybody is out of their transactions, seen from the server itself. */
		ck_assert_int_eq(db_int(admin, "SELECT count(*) FROM pg_stat_activity WHERE usename = "
		                               "'scram' AND (state <> 'idle' OR xact_start IS NOT NULL)"),
		                 0);
		listener_release(fixture_listener);
		usleep(3000);
		holds++;
	}
	for (int i = 0; i < 3; i++) {
		ck_assert_msg(process_wait(benches[i], 60) == 0, "%s", process_stderr(benches[i]));
		process_free(benches[i]);
	}
	ck_assert_int_gt(holds, 5);
	ck_assert_int_eq(db_int(admin, "SELECT n FROM ledger"), before + 3 * 2 * 150);
	PQfinish(admin);
	free(script);
	free(script_dir);
}
END_TEST

static Suite *
make(void)
{
	Suite *suite = suite_create("listener_hold");
	TCase *tcase = tcase_create("listener_hold");

	tcase_add_unchecked_fixture(tcase, fixture_server_start, fixture_server_stop);
	tcase_add_checked_fixture(tcase, listen_plain, fixture_unlisten);
	tcase_add_test(tcase, idle_sessions_are_held_at_once);
	tcase_add_test(tcase, transactions_end_first);
	tcase_add_test(tcase, pipelines_come_to_a_boundary);
	tcase_add_test(tcase, copies_end_first);
	tcase_add_test(tcase, streams_are_not_waited_for);
	tcase_add_test(tcase, the_deadline_names_who_is_late);
	tcase_add_test(tcase, late_clients_are_named);
	tcase_add_test(tcase, a_client_that_does_not_read_is_named);
	tcase_add_test(tcase, a_stop_ends_the_wait);
	tcase_add_test(tcase, second_phases_go_out);
	tcase_add_test(tcase, second_phases_go_out_while_others_are_waited_for);
	tcase_add_test(tcase, new_sessions_wait);
	tcase_add_test(tcase, new_sessions_go_where_the_route_leads);
	tcase_add_test(tcase, held_clients_may_go);
	tcase_add_test(tcase, held_clients_leave_work_behind);
	tcase_add_test(tcase, held_clients_can_cancel);
	tcase_add_test(tcase, back_pressure);
	tcase_add_test(tcase, long_pipelines_go_on);
	tcase_add_test(tcase, holds_under_load);
	suite_add_tcase(suite, tcase);
	return suite;
}

TEST_SUITE(make)
