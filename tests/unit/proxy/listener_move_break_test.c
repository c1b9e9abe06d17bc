/* A move while servers and networks break: at every message of either side's answers. */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/memory.h"
#include "tests/unit/proxy/listener_middle.h"
#include "tests/unit/proxy/listener_move_fixture.h"

static Middle *middle;

/* The listener comes to the source, or to the target, through the middle. */
static void
listen_through(bool source)
{
	middle = middle_start(cluster_port(source ? move_source : move_target), "app");
	char *uri = mem_printf("host=127.0.0.1 port=%d user=postgres dbname=postgres sslmode=disable "
	                       "gssencmode=disable",
	                       middle_port(middle));
	if (source)
		move_listen_between(uri, NULL);
	else
		move_listen_between(NULL, uri);
	free(uri);
}

static void
unlisten(void)
{
	move_unlisten();
	middle_free(middle);
}

static void
listen_to_source(void)
{
	listen_through(true);
}

static void
listen_to_target(void)
{
	listen_through(false);
}

static PGconn *
laden_session(void)
{
	PGconn *conn = move_session("");

	db_exec(conn, "SET work_mem = '11MB'");
	db_exec(conn, "PREPARE by_sql AS SELECT 1");
	db_exec(conn, "LISTEN channel");
	PQclear(PQprepare(conn, "by_protocol", "SELECT 2", 0, NULL));
	PQclear(PQprepare(conn, "", "SELECT 3", 0, NULL));
	return conn;
}

/* ---- the target's side ---- */

/* Whatever happens to the new connection before the commit: that session is named, everybody
 * stays at the source, and the next try comes through. */
START_TEST(the_target_breaks_anywhere)
{
	static const MiddleMode modes[] = {MIDDLE_CUT, MIDDLE_BREAK, MIDDLE_ERROR};
	const MiddleMode mode = modes[_i];
	PGconn *conn = laden_session(), *other = move_session("user=hashed");
	MoveReport report;
	char pid[32];

	snprintf(pid, sizeof(pid), "(pid %d)", PQbackendPID(conn));
	middle_set(middle, MIDDLE_PASS, 0);
	move_prepare(&report);
	move_report_free(&report);
	int all = middle_passed(middle);
	ck_assert_int_gt(all, 15);
	for (int count = 1; count <= all + 1; count++) {
		Error err = ERROR_INIT;
		/* A new connection each time. */
		listener_move_abort(move_listener);
		db_exec(conn, "SET work_mem = '%dMB'", count + 10);
		middle_set(middle, mode, count);
		move_hold();
		bool ok = listener_move_open(move_listener, ROUTE_TARGET, UNMOVABLE_ABORT,
		                             deadline_in_ms(30000), NULL, &report, &err);
		if (middle_struck(middle) == 0) {
			ck_assert_msg(ok, "%s", err.message);
		} else {
			ck_assert_msg(!ok, "message %d", count);
			ck_assert_int_eq(err.class, ERROR_CONFIG);
			ck_assert_uint_eq(report.unmovable, 1);
			ck_assert_msg(strstr(err.message, pid) != NULL, "%s", err.message);
			ck_assert_msg(mode != MIDDLE_ERROR || strstr(err.message, "spoilt") != NULL, "%s",
			              err.message);
		}
		move_report_free(&report);
		listener_move_abort(move_listener);
		listener_release(move_listener);
		ck_assert_int_eq(move_where(conn), cluster_port(move_source));
		ck_assert_int_eq(move_where(other), cluster_port(move_source));
		if (middle_struck(middle) == 0 && count > 1)
			break;
	}
	middle_set(middle, MIDDLE_PASS, 0);
	move_all();
	ck_assert_int_eq(move_where(conn), cluster_port(move_target));
	ck_assert_int_eq(db_int(conn, "EXECUTE by_sql"), 1);
	PQfinish(conn);
	PQfinish(other);
}
END_TEST

START_TEST(the_target_says_nothing)
{
	PGconn *conn = laden_session();
	MoveReport report;
	Error err = ERROR_INIT;

	middle_set(middle, MIDDLE_STALL, 5);
	ck_assert(listener_move_prepare(move_listener, ROUTE_TARGET, deadline_in_ms(200), NULL, &report,
	                                &err));
	ck_assert_uint_eq(report.unmovable, 1);
	ck_assert_msg(strstr(report.which[0].reason, "in time") != NULL, "%s", report.which[0].reason);
	move_report_free(&report);
	move_hold();
	for (int i = 0; i < 2; i++) {
		/* Not even `close` ends a session because a server was slow. */
		ck_assert(!listener_move_open(move_listener, ROUTE_TARGET,
		                              i == 0 ? UNMOVABLE_CLOSE : UNMOVABLE_WAIT,
		                              deadline_in_ms(200), NULL, &report, &err));
		ck_assert_int_eq(err.class, ERROR_TIMEOUT);
		move_report_free(&report);
	}
	listener_move_abort(move_listener);
	listener_release(move_listener);
	ck_assert_int_eq(move_where(conn), cluster_port(move_source));
	PQfinish(conn);
}
END_TEST

START_TEST(the_target_takes_no_login)
{
	PGconn *conn = laden_session();
	MoveReport report;

	middle_set(middle, MIDDLE_LOGIN, 0);
	move_prepare(&report);
	ck_assert_uint_eq(report.unmovable, 1);
	ck_assert_msg(strstr(report.which[0].reason, "connection has ended") != NULL, "%s",
	              report.which[0].reason);
	move_report_free(&report);
	ck_assert_int_eq(db_int(conn, "EXECUTE by_sql"), 1);
	middle_set(middle, MIDDLE_PASS, 0);
	move_all();
	ck_assert_int_eq(db_int(conn, "EXECUTE by_sql"), 1);
	ck_assert_int_eq(move_where(conn), cluster_port(move_target));
	PQfinish(conn);
}
END_TEST

/* Notifications that come to the new connection before the commit are the client's, after it. */
START_TEST(the_target_notifies_meanwhile)
{
	PGconn *conn = laden_session();
	PGnotify *notify;
	int count = 0;

	middle_set(middle, MIDDLE_NOTIFY, 0);
	move_all();
	middle_set(middle, MIDDLE_PASS, 0);
	ck_assert_int_eq(move_where(conn), cluster_port(move_target));
	ck_assert_int_eq(db_int(conn, "EXECUTE by_sql"), 1);
	while ((notify = PQnotifies(conn)) != NULL) {
		ck_assert_str_eq(notify->extra, "hello");
		PQfreemem(notify);
		count++;
	}
	ck_assert_int_gt(count, 3);
	ck_assert_str_eq(PQparameterStatus(conn, "made"), "unasked");
	PQfinish(conn);
}
END_TEST

static size_t
pids_on_target(void)
{
	uint32_t *pids;
	size_t count = listener_server_pids(move_listener, ROUTE_TARGET, false, &pids);

	free(pids);
	return count;
}

/* A new connection that ends when all was ready: nobody goes on at a server that is not there. */
START_TEST(the_target_goes_after_prepare)
{
	PGconn *conn = laden_session();
	PGconn *target = move_admin(move_target);
	MoveReport report;

	move_prepare(&report);
	ck_assert_uint_eq(report.unmovable, 0);
	move_report_free(&report);
	size_t before = pids_on_target();
	db_exec(target, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'");
	db_wait_until(target, "SELECT count(*) = 0 FROM pg_stat_activity WHERE usename = 'app'", 30);
	while (pids_on_target() == before) /* until the listener knows, too */
		usleep(1000);
	ck_assert_str_eq(move_reason_of(conn), "");
	move_hold();
	move_open(UNMOVABLE_ABORT, &report); /* made again */
	move_report_free(&report);
	listener_move_commit(move_listener);
	ck_assert_int_eq(move_where(conn), cluster_port(move_target));
	ck_assert_int_eq(db_int(conn, "EXECUTE by_sql"), 1);
	PQfinish(target);
	PQfinish(conn);
}
END_TEST

/* Between a rehearsal and the cutover: what was open there has ended, our own session, too. */
START_TEST(the_target_is_restarted_after_prepare)
{
	PGconn *conn = laden_session();
	MoveReport report;

	move_prepare(&report);
	move_report_free(&report);
	cluster_restart(move_target, CLUSTER_FAST);
	move_prepare(&report);
	ck_assert_uint_eq(report.unmovable, 0);
	move_report_free(&report);
	move_hold();
	move_open(UNMOVABLE_ABORT, &report);
	move_report_free(&report);
	listener_move_commit(move_listener);
	ck_assert_int_eq(move_where(conn), cluster_port(move_target));
	PQfinish(conn);
}
END_TEST

/* ---- the source's side ---- */

/* An answer to our question that is cut or senseless ends that session as its server's end
 * would; one that is an error is its reason. Its client never sees a message of ours. */
START_TEST(the_source_breaks_anywhere)
{
	static const MiddleMode modes[] = {MIDDLE_CUT, MIDDLE_BREAK, MIDDLE_ERROR};
	const MiddleMode mode = modes[_i];

	for (int count = 1;; count++) {
		PGconn *conn = laden_session();
		middle_set(middle, mode, count);
		const char *reason = move_reason_of_or_gone(conn);
		int struck = middle_struck(middle);
		middle_set(middle, MIDDLE_PASS, 0);
		if (mode == MIDDLE_ERROR || struck == 0) {
			/* The unnamed statement's description may fail, and its absence is no reason. */
			ck_assert_ptr_nonnull(reason);
			ck_assert_msg(struck == 0 ? reason[0] == '\0' : strstr(reason, "spoilt") != NULL,
			              "message %d: %s", count, reason);
			ck_assert_int_eq(db_int(conn, "EXECUTE by_sql"), 1);
			/* Asked again, with another answer. */
			ck_assert_str_eq(move_reason_of(conn), "");
		} else {
			char sqlstate[6];
			ck_assert(!db_try(conn, sqlstate, "SELECT 1"));
		}
		PQfinish(conn);
		if (struck == 0) {
			ck_assert_int_gt(count, 10);
			break;
		}
	}
}
END_TEST

/* What a server says unasked goes to the client in the middle of the answer, and nothing else. */
START_TEST(the_source_notifies_meanwhile)
{
	PGconn *conn = laden_session();
	int count = 0;
	PGnotify *notify;

	middle_set(middle, MIDDLE_NOTIFY, 0);
	ck_assert_str_eq(move_reason_of(conn), "");
	int messages = middle_passed(middle);
	middle_set(middle, MIDDLE_PASS, 0);
	/* No message of ours: libpq would complain about one that it has not asked for. */
	ck_assert_int_eq(PQconsumeInput(conn), 1);
	ck_assert_int_eq(db_int(conn, "EXECUTE by_sql"), 1);
	while ((notify = PQnotifies(conn)) != NULL) {
		PQfreemem(notify);
		count++;
	}
	ck_assert_int_eq(count, messages);
	ck_assert_str_eq(PQparameterStatus(conn, "made"), "unasked");
	PQfinish(conn);
}
END_TEST

/* A client's request, and its end, while the question is under way. */
START_TEST(the_client_while_it_is_asked)
{
	PGconn *sends = laden_session(), *leaves = laden_session();
	PGconn *source = move_admin(move_source);
	ListenerSession *rows;
	Error err = ERROR_INIT;
	size_t count;

	middle_set(middle, MIDDLE_STALL, 3);
	ck_assert(listener_sessions(move_listener, deadline_in_ms(200), &rows, &count, &err));
	ck_assert_uint_eq(count, 2);
	for (size_t i = 0; i < count; i++) /* not to have answered yet is no reason */
		ck_assert_str_eq(rows[i].reason, "");
	free(rows);
	ck_assert_int_eq(PQsendQuery(sends, "SELECT 5"), 1);
	PQfinish(leaves);
	db_wait_until(source, "SELECT count(*) = 1 FROM pg_stat_activity WHERE usename = 'app'", 30);
	struct pollfd ready = {.fd = PQsocket(sends), .events = POLLIN};
	ck_assert_int_eq(poll(&ready, 1, 100), 0);
	shutdown(PQsocket(sends), SHUT_RDWR);
	PQfinish(sends);
	db_wait_until(source, "SELECT count(*) = 0 FROM pg_stat_activity WHERE usename = 'app'", 30);
	PQfinish(source);
}
END_TEST

static Suite *
make(void)
{
	Suite *suite = suite_create("listener_move_break");
	TCase *target = tcase_create("listener_move_break_target");
	TCase *source = tcase_create("listener_move_break_source");

	tcase_add_unchecked_fixture(target, move_servers_start, move_servers_stop);
	tcase_add_checked_fixture(target, listen_to_target, unlisten);
	tcase_add_loop_test(target, the_target_breaks_anywhere, 0, 3);
	tcase_add_test(target, the_target_says_nothing);
	tcase_add_test(target, the_target_takes_no_login);
	tcase_add_test(target, the_target_notifies_meanwhile);
	tcase_add_test(target, the_target_goes_after_prepare);
	tcase_add_test(target, the_target_is_restarted_after_prepare);
	suite_add_tcase(suite, target);
	tcase_add_unchecked_fixture(source, move_servers_start, move_servers_stop);
	tcase_add_checked_fixture(source, listen_to_source, unlisten);
	tcase_add_loop_test(source, the_source_breaks_anywhere, 0, 3);
	tcase_add_test(source, the_source_notifies_meanwhile);
	tcase_add_test(source, the_client_while_it_is_asked);
	suite_add_tcase(suite, source);
	return suite;
}

TEST_SUITE(make)
