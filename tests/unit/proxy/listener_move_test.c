/* A live session goes on at another server, and its client notices nothing. */
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "tests/unit/proxy/listener_move_fixture.h"

static void
ok(PGresult *r)
{
	ck_assert_msg(PQresultStatus(r) == PGRES_COMMAND_OK || PQresultStatus(r) == PGRES_TUPLES_OK,
	              "%s", PQresultErrorMessage(r));
	PQclear(r);
}

static void
equals(PGconn *conn, const char *expected, const char *sql)
{
	char *value = db_value(conn, "%s", sql);

	ck_assert_msg(value != NULL && strcmp(value, expected) == 0, "%s: %s instead of %s", sql, value,
	              expected);
	free(value);
}

/* What a session can carry is there, after one move and after another one back. */
static void
check_all_there(PGconn *conn)
{
	static const char *const four[] = {"4"};

	equals(conn, "11MB", "SHOW work_mem");
	equals(conn, "blue", "SHOW app.colour");
	equals(conn, "me", "SELECT current_setting('app.hidden')");
	equals(conn, "boss", "SELECT current_user");
	equals(conn, "app", "SELECT session_user");
	equals(conn, "other, public", "SHOW search_path");
	equals(conn, "tester", "SHOW application_name");
	equals(conn, "LATIN1", "SHOW client_encoding");
	equals(conn, "SQL, DMY", "SHOW datestyle");
	equals(conn, "Asia/Tokyo", "SHOW timezone");
	equals(conn, "5", "EXECUTE by_sql(4)");
	equals(conn, "channel", "SELECT pg_listening_channels()");
	PGresult *r = PQexecPrepared(conn, "by_protocol", 1, four, NULL, NULL, 0);
	ck_assert_msg(PQresultStatus(r) == PGRES_TUPLES_OK, "%s", PQresultErrorMessage(r));
	ck_assert_str_eq(PQgetvalue(r, 0, 0), "44");
	PQclear(r);
	ok(PQexecPrepared(conn, "of_item", 0, NULL, NULL, NULL, 0));
}

START_TEST(all_that_can_be_carried)
{
	PGconn *conn = move_session("application_name=before");
	PGconn *source = move_admin(move_source), *target = move_admin(move_target);

	db_exec(conn, "SET work_mem = '11MB'");
	db_exec(conn, "SET app.colour TO 'blue'");
	db_exec(conn, "SELECT become('me')");
	db_exec(conn, "SET client_encoding = 'LATIN1'; SET datestyle = 'SQL, DMY'");
	db_exec(conn, "SET timezone = 'Asia/Tokyo'; SET application_name = 'tester'");
	db_exec(conn, "SET search_path = other, public");
	db_exec(conn, "SET ROLE boss");
	db_exec(conn, "LISTEN channel");
	db_exec(conn, "PREPARE by_sql (int) AS SELECT $1 + 1");
	static const Oid int4 = 23;
	ok(PQprepare(conn, "by_protocol", "SELECT $1 * 11 AS \"\xe9t\xe9\"", 1, &int4));
	ok(PQprepare(conn, "of_item", "SELECT place FROM item", 0, NULL));
	ok(PQprepare(conn, "", "SELECT $1::int + 100", 1, NULL));
	int pid = PQbackendPID(conn);

	for (int turn = 0; turn < 2; turn++) {
		ListenerRoute to = turn == 0 ? ROUTE_TARGET : ROUTE_SOURCE;
		Cluster *where = turn == 0 ? move_target : move_source;
		MoveReport report;
		Error err = ERROR_INIT;

		if (turn == 0) {
			move_all();
		} else {
			ck_assert(listener_move_prepare(move_listener, to, deadline_in_ms(30000), NULL, &report,
			                                &err));
			move_report_free(&report);
			move_hold();
			ck_assert_msg(listener_move_open(move_listener, to, UNMOVABLE_ABORT,
			                                 deadline_in_ms(30000), NULL, &report, &err),
			              "%s", err.message);
			move_report_free(&report);
			listener_move_commit(move_listener);
		}
		if (turn == 0) {
			static const char *const one[] = {"1"};
			PGresult *r = PQexecPrepared(conn, "", 1, one, NULL, NULL, 0);
			ck_assert_msg(PQresultStatus(r) == PGRES_TUPLES_OK, "%s", PQresultErrorMessage(r));
			ck_assert_str_eq(PQgetvalue(r, 0, 0), "101");
			PQclear(r);
		}
		ck_assert_int_eq(move_where(conn), cluster_port(where));
		check_all_there(conn);
		ck_assert_int_eq(PQbackendPID(conn), pid);
		ck_assert_str_eq(PQparameterStatus(conn, "IntervalStyle"),
		                 turn == 0 ? "iso_8601" : "postgres");
		ck_assert_str_eq(PQparameterStatus(conn, "application_name"), "tester");

		db_exec(turn == 0 ? target : source, "NOTIFY channel, 'hello'");
		PGnotify *notify = NULL;
		for (int i = 0; i < 100 && notify == NULL; i++) {
			struct pollfd ready = {.fd = PQsocket(conn), .events = POLLIN};
			(void)poll(&ready, 1, 300);
			ck_assert(PQconsumeInput(conn));
			notify = PQnotifies(conn);
		}
		ck_assert_ptr_nonnull(notify);
		ck_assert_str_eq(notify->extra, "hello");
		PQfreemem(notify);
		/* What was SET is gone with RESET, as if nothing had been. */
		equals(conn, turn == 0 ? "7MB" : "5MB", "BEGIN; RESET work_mem; SHOW work_mem");
		db_exec(conn, "ROLLBACK");
	}
	/* The other server's processes are gone. */
	db_wait_until(target, "SELECT count(*) = 0 FROM pg_stat_activity WHERE usename = 'app'", 30);
	PQfinish(source);
	PQfinish(target);
	PQfinish(conn);
}
END_TEST

static Suite *
make(void)
{
	Suite *suite = suite_create("listener_move");
	TCase *tcase = tcase_create("listener_move");

	tcase_add_unchecked_fixture(tcase, move_servers_start, move_servers_stop);
	tcase_add_checked_fixture(tcase, move_listen, move_unlisten);
	tcase_add_test(tcase, all_that_can_be_carried);
	suite_add_tcase(suite, tcase);
	return suite;
}

TEST_SUITE(make)
