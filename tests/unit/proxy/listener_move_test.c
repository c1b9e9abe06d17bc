/* A live session goes on at another server, and its client notices nothing. */
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/memory.h"
#include "tests/unit/proxy/listener_fixture.h"
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
	equals(conn, "shadowed_variables", "SHOW plpgsql.extra_warnings");
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
	/* Of a library that the other server's session has not loaded. */
	db_exec(conn, "DO 'BEGIN END'; SET plpgsql.extra_warnings = 'shadowed_variables'");
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
		Cluster *where = turn == 0 ? move_target : move_source;

		move_all_to(turn == 0 ? ROUTE_TARGET : ROUTE_SOURCE);
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

/* ---- who cannot be moved ---- */

static void
expect_reason(PGconn *conn, const char *words)
{
	const char *reason = move_reason_of(conn);

	ck_assert_msg(words[0] == '\0' ? reason[0] == '\0' : strstr(reason, words) != NULL,
	              "\"%s\" instead of \"%s\"", reason, words);
}

/* Each is said before anything is held, and not any more when it is over. */
START_TEST(reasons_come_and_go)
{
	static const struct {
		const char *begin, *words, *end;
	} cases[] = {
		{"CREATE TEMP TABLE mine (a int)", "temporary objects: table mine", "DROP TABLE mine"},
		{"CREATE TEMP SEQUENCE s", "temporary objects: sequence s", "DISCARD TEMP"},
		{"BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1; COMMIT", "cursor WITH HOLD: c",
	     "CLOSE c"},
		{"SELECT pg_advisory_lock(7)", "session advisory lock", "SELECT pg_advisory_unlock(7)"},
		{"SELECT pg_advisory_lock_shared(7)", "session advisory lock",
	     "SELECT pg_advisory_unlock_all()"},
	};
	PGconn *conn = move_session("");

	expect_reason(conn, "");
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		db_exec(conn, "%s", cases[i].begin);
		expect_reason(conn, cases[i].words);
		db_exec(conn, "%s", cases[i].end);
		expect_reason(conn, "");
	}
	/* Of a transaction that goes on nothing is asked: its temporary table may not last. */
	db_exec(conn, "BEGIN; CREATE TEMP TABLE passing (a int) ON COMMIT DROP");
	db_exec(conn, "SELECT pg_advisory_xact_lock(8)");
	expect_reason(conn, "");
	db_exec(conn, "COMMIT");
	expect_reason(conn, "");
	PQfinish(conn);
}
END_TEST

START_TEST(reasons_that_stay)
{
	static const char *const nothing[] = {NULL};
	PGconn *sequences = move_session(""), *numbers = move_session("");
	PGconn *trusted = move_trusted("open");
	MoveReport report;

	/* The source lets it in without a password; whether the target does is known once it was tried. */
	expect_reason(trusted, "");
	move_prepare(&report);
	ck_assert_uint_eq(report.unmovable, 1);
	move_report_free(&report);
	expect_reason(trusted, "asks for a password, and the client was let in without one");
	expect_reason(sequences, "");
	db_exec(sequences, "SELECT nextval('numbers')");
	expect_reason(sequences, "");
	db_exec(sequences, "SELECT currval('numbers')");
	expect_reason(sequences, "currval");
	db_exec(sequences, "DISCARD ALL");
	expect_reason(sequences, "");
	db_exec(sequences, "SELECT nextval('numbers'), lastval()");
	expect_reason(sequences, "lastval");

	const Oid mood = (Oid)db_int(numbers, "SELECT 'mood'::regtype::oid");
	ok(PQexecParams(numbers, "SELECT $1", 1, &mood, nothing, NULL, NULL, 0));
	expect_reason(numbers, "names types by numbers");
	PQfinish(sequences);
	PQfinish(numbers);
	PQfinish(trusted);
}
END_TEST

/* A statement whose types only the server knows is made there with that server's own. */
START_TEST(types_of_the_other_server)
{
	static const char *const values[] = {"happy"};
	PGconn *conn = move_session("");

	ok(PQprepare(conn, "by_mood", "SELECT id FROM item WHERE mood = $1", 0, NULL));
	db_exec(conn, "PREPARE as_well (mood[]) AS SELECT count(*) FROM item WHERE mood = ANY ($1)");
	move_all();
	ck_assert_int_eq(move_where(conn), cluster_port(move_target));
	PGresult *r = PQexecPrepared(conn, "by_mood", 1, values, NULL, NULL, 0);
	ck_assert_str_eq(PQgetvalue(r, 0, 0), "1");
	PQclear(r);
	ck_assert_int_eq(db_int(conn, "EXECUTE as_well('{happy,sad}')"), 1);
	PQfinish(conn);
}
END_TEST

/* What a rehearsal has prepared there is of the tables as they were then; the client has prepared
 * anew what has changed since, or has only ever seen it changed. */
START_TEST(tables_that_change_between_two_looks)
{
	static const char *const tables = "CREATE TABLE grown (a int); GRANT ALL ON grown TO app";
	static const char *const wider = "ALTER TABLE grown ADD b int";
	PGconn *sides[] = {move_admin(move_source), move_admin(move_target)};
	PGconn *conn = move_session(""), *unnamed = move_session(""), *later = move_session("");
	MoveReport report;

	for (int i = 0; i < 2; i++)
		db_exec(sides[i], "%s", tables);
	ok(PQprepare(conn, "by_protocol", "SELECT * FROM grown", 0, NULL));
	db_exec(conn, "PREPARE by_sql AS SELECT * FROM grown");
	ok(PQprepare(unnamed, "", "SELECT * FROM grown", 0, NULL));
	db_exec(sides[0], "%s", wider);
	ok(PQprepare(later, "wide", "SELECT * FROM grown", 0, NULL));
	move_prepare(&report);
	move_report_free(&report);
	db_exec(sides[1], "%s", wider);
	db_exec(conn, "DEALLOCATE ALL");
	ok(PQprepare(conn, "by_protocol", "SELECT * FROM grown", 0, NULL));
	db_exec(conn, "PREPARE by_sql AS SELECT * FROM grown");
	ok(PQprepare(unnamed, "", "SELECT * FROM grown", 0, NULL));
	usleep(600000);

	move_all();
	ok(PQexecPrepared(conn, "by_protocol", 0, NULL, NULL, NULL, 0));
	db_exec(conn, "EXECUTE by_sql");
	ok(PQexecPrepared(unnamed, "", 0, NULL, NULL, NULL, 0));
	ok(PQexecPrepared(later, "wide", 0, NULL, NULL, NULL, 0));
	for (int i = 0; i < 2; i++) {
		db_exec(sides[i], "DROP TABLE grown");
		PQfinish(sides[i]);
	}
	PQfinish(conn);
	PQfinish(unnamed);
	PQfinish(later);
}
END_TEST

/* What the other server does not take is the session's reason, by its name. */
START_TEST(what_the_other_server_refuses)
{
	static const struct {
		const char *begin, *words, *end;
	} cases[] = {
		{"PREPARE odd AS SELECT * FROM only_here", "prepared statement odd: relation",
	     "DEALLOCATE odd"},
		{"SET work_mem = '64kB'; PREPARE two AS SELECT 1", "prepared statement two came with",
	     "DEALLOCATE ALL"},
		{"SET role = only_here", "setting role: ", "RESET role"},
	};
	PGconn *source = move_admin(move_source);
	PGconn *conn = move_session("");
	MoveReport report;

	db_exec(source,
	        "CREATE TABLE only_here (a int); CREATE ROLE only_here; GRANT only_here TO app");
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		db_exec(conn, "%s", cases[i].begin);
		move_prepare(&report);
		ck_assert_uint_eq(report.unmovable, 1);
		ck_assert_msg(strstr(report.which[0].reason, cases[i].words) != NULL, "%s",
		              report.which[0].reason);
		ck_assert_uint_eq(report.which[0].pid, (uint32_t)PQbackendPID(conn));
		move_report_free(&report);
		db_exec(conn, "%s", cases[i].end);
		move_prepare(&report);
		ck_assert_msg(report.unmovable == 0, "%s", report.which[0].reason);
		move_report_free(&report);
	}
	ck_assert_int_eq(move_where(conn), cluster_port(move_source));
	db_exec(source, "DROP TABLE only_here; REVOKE only_here FROM app; DROP ROLE only_here");
	PQfinish(conn);
	PQfinish(source);
}
END_TEST

START_TEST(a_login_that_is_refused)
{
	PGconn *target = move_admin(move_target);
	PGconn *conn = move_session(""), *hashed = move_session("user=hashed");
	MoveReport report;

	db_exec(target, "ALTER ROLE app PASSWORD 'other'");
	move_prepare(&report);
	ck_assert_uint_eq(report.unmovable, 1);
	ck_assert_uint_eq(report.moved, 1);
	ck_assert_msg(strstr(report.which[0].reason, "refuses its login") != NULL &&
	                  strstr(report.which[0].reason, "28P01") != NULL,
	              "%s", report.which[0].reason);
	ck_assert_msg(strstr(move_report_hint(&report), "pg_dumpall --roles-only") != NULL &&
	                  strstr(move_report_hint(&report), "--unmovable") == NULL,
	              "%s", move_report_hint(&report));
	move_report_free(&report);
	/* It stays until the next try, and says that it is of this one. */
	while (strstr(move_reason_of(conn), "28P01) (at the last try, ") == NULL)
		usleep(10000);
	PGconn *source = move_admin(move_source);
	char *stored = db_value(source, "SELECT rolpassword FROM pg_authid WHERE rolname = 'app'");
	db_exec(target, "ALTER ROLE app PASSWORD '%s'", stored);
	free(stored);
	move_all();
	ck_assert_int_eq(move_where(conn), cluster_port(move_target));
	ck_assert_int_eq(move_where(hashed), cluster_port(move_target));
	PQfinish(source);
	PQfinish(target);
	PQfinish(conn);
	PQfinish(hashed);
}
END_TEST

/* Who finds no place there is not helped by being closed. */
START_TEST(too_few_connections)
{
	PGconn *target = move_admin(move_target);
	PGconn *first = move_session(""), *second = move_session("");
	MoveReport report;

	/* Those of the test before may take a moment to end. */
	db_wait_until(target, "SELECT count(*) = 0 FROM pg_stat_activity WHERE usename = 'app'", 30);
	db_exec(target, "ALTER ROLE app CONNECTION LIMIT 1");
	move_prepare(&report);
	ck_assert_uint_eq(report.unmovable, 1);
	ck_assert_msg(strstr(report.which[0].reason, "53300") != NULL, "%s", report.which[0].reason);
	ck_assert_msg(strstr(move_report_hint(&report), "CONNECTION LIMIT") != NULL &&
	                  strstr(move_report_hint(&report), "--unmovable") == NULL,
	              "%s", move_report_hint(&report));
	move_report_free(&report);
	db_exec(target, "ALTER ROLE app CONNECTION LIMIT -1");
	move_all();
	ck_assert_int_eq(move_where(first), cluster_port(move_target));
	ck_assert_int_eq(move_where(second), cluster_port(move_target));
	PQfinish(target);
	PQfinish(first);
	PQfinish(second);
}
END_TEST

/* The connections that a move has left behind give way to a move back right after it. */
START_TEST(back_at_once)
{
	PGconn *source = move_admin(move_source);
	PGconn *conn = move_session("");
	uint32_t left = (uint32_t)PQbackendPID(conn), *pids;
	MoveReport report;
	Error err = ERROR_INIT;
	bool room = false, found = false;

	db_exec(source, "ALTER ROLE app CONNECTION LIMIT 1");
	move_all();
	while (!room) {
		bool done = listener_move_prepare(move_listener, ROUTE_SOURCE, deadline_in_ms(30000), NULL,
		                                  &report, &err);
		ck_assert_msg(done, "%s", err.message);
		room = report.unmovable == 0; /* its process may take a moment to end */
		move_report_free(&report);
		size_t count = listener_server_pids(move_listener, ROUTE_SOURCE, false, &pids);
		for (size_t k = 0; k < count; k++)
			found = found || pids[k] == left;
		free(pids);
	}
	ck_assert_msg(!found, "it was still kept");
	move_all_to(ROUTE_SOURCE);
	ck_assert_int_eq(move_where(conn), cluster_port(move_source));
	db_exec(source, "ALTER ROLE app CONNECTION LIMIT -1");
	PQfinish(source);
	PQfinish(conn);
}
END_TEST

/* Custom settings that the other server has by its own defaults are in nobody's way. */
START_TEST(defaults_of_the_other_server)
{
	static const char there[] = "SELECT current_setting('app.there', true)";
	PGconn *target = move_admin(move_target);
	PGconn *conn = move_session("");

	db_exec(target, "ALTER ROLE app SET app.there = 'by role'");
	db_exec(conn, "%s", there);
	move_all();
	ck_assert_int_eq(move_where(conn), cluster_port(move_target));
	char *value = db_value(conn, "%s", there);
	ck_assert_str_eq(value, "by role");
	free(value);
	db_exec(target, "ALTER ROLE app RESET app.there");
	PQfinish(target);
	PQfinish(conn);
}
END_TEST

/* But not the one by which their writes would fail; who has SET it takes his own along. */
START_TEST(read_only_on_the_other_server)
{
	PGconn *target = move_admin(move_target);
	PGconn *conn = move_session(""), *own = move_session("");
	MoveReport report;

	db_exec(target, "ALTER ROLE app SET default_transaction_read_only = on");
	db_exec(own, "SET default_transaction_read_only = off");
	move_prepare(&report);
	ck_assert_uint_eq(report.unmovable, 1);
	ck_assert_msg(strstr(report.which[0].reason, "default_transaction_read_only") != NULL, "%s",
	              report.which[0].reason);
	ck_assert_uint_eq(report.which[0].pid, PQbackendPID(conn));
	move_report_free(&report);
	db_exec(target, "ALTER ROLE app RESET default_transaction_read_only");
	move_all();
	for (int i = 0; i < 2; i++)
		db_exec(i == 0 ? conn : own, "UPDATE ledger SET n = n");
	ck_assert_int_eq(move_where(own), cluster_port(move_target));
	PQfinish(target);
	PQfinish(conn);
	PQfinish(own);
}
END_TEST

/* ---- policies ---- */

START_TEST(wait_and_abort_leave_everything_as_it_is)
{
	PGconn *stays = move_session(""), *goes = move_session("");
	MoveReport report;
	char pid[32];

	db_exec(stays, "CREATE TEMP TABLE mine AS SELECT 42 AS a");
	snprintf(pid, sizeof(pid), "(pid %d)", PQbackendPID(stays));
	for (int i = 0; i < 2; i++) {
		Error err = ERROR_INIT;
		move_prepare(&report);
		ck_assert_uint_eq(report.unmovable, 1);
		ck_assert_uint_eq(report.moved, 1);
		move_report_free(&report);
		move_hold();
		ck_assert(!listener_move_open(move_listener, ROUTE_TARGET,
		                              i == 0 ? UNMOVABLE_WAIT : UNMOVABLE_ABORT,
		                              deadline_in_ms(30000), NULL, &report, &err));
		ck_assert_int_eq(err.class, ERROR_CONFIG);
		ck_assert_msg(strstr(err.message, pid) != NULL &&
		                  strstr(err.message, "temporary objects: table mine") != NULL,
		              "%s", err.message);
		ck_assert_uint_eq(report.unmovable, 1);
		move_report_free(&report);
		listener_move_abort(move_listener);
		listener_release(move_listener);
		ck_assert_int_eq(db_int(stays, "SELECT a FROM mine"), 42);
		ck_assert_int_eq(move_where(goes), cluster_port(move_source));
	}
	/* What was waited for. */
	db_exec(stays, "DROP TABLE mine");
	move_all();
	ck_assert_int_eq(move_where(stays), cluster_port(move_target));
	ck_assert_int_eq(move_where(goes), cluster_port(move_target));
	PQfinish(stays);
	PQfinish(goes);
}
END_TEST

START_TEST(close_ends_them_cleanly)
{
	PGconn *stays = move_session(""), *goes = move_session("");
	PGconn *passed = move_trusted("open");
	MoveReport report;
	char sqlstate[6];

	db_exec(stays, "CREATE TEMP TABLE mine AS SELECT 42 AS a");
	move_prepare(&report);
	move_report_free(&report);
	move_hold();
	/* What it has sent meanwhile is not done, nor answered but by the end. */
	ck_assert_int_eq(PQsendQuery(stays, "INSERT INTO ledger VALUES (2, 2)"), 1);
	move_open(UNMOVABLE_CLOSE, &report);
	ck_assert_uint_eq(report.closed, 2);
	ck_assert_uint_eq(report.moved, 1);
	move_report_free(&report);
	listener_move_commit(move_listener);
	PGresult *r = PQgetResult(stays);
	ck_assert_str_eq(PQresultErrorField(r, PG_DIAG_SQLSTATE), "57P01");
	PQclear(r);
	ck_assert(!db_try(passed, sqlstate, "SELECT 1"));
	ck_assert_msg(strstr(PQerrorMessage(passed), "served by another server now") != NULL, "%s",
	              PQerrorMessage(passed));
	ck_assert_int_eq(move_where(goes), cluster_port(move_target));
	ck_assert_int_eq(db_int(goes, "SELECT count(*) FROM ledger"), 1);
	PQfinish(stays);
	PQfinish(passed);
	PQfinish(goes);
}
END_TEST

/* ---- in the hold ---- */

static void
finish_move(void)
{
	MoveReport report;

	move_open(UNMOVABLE_ABORT, &report);
	move_report_free(&report);
	listener_move_commit(move_listener);
}

/* What was changed after the last prepare is seen in the hold; what was sent in the hold is
 * done once, there. */
START_TEST(what_came_after_prepare)
{
	PGconn *conn = move_session(""), *fresh;
	MoveReport report;

	db_exec(conn, "SET work_mem = '9MB'; SET app.first = 'a'; SET lock_timeout = '1s'");
	db_exec(conn, "PREPARE gone AS SELECT 1");
	db_exec(conn, "PREPARE changed AS SELECT 1");
	db_exec(conn, "LISTEN before; SET ROLE boss");
	move_prepare(&report);
	move_report_free(&report);
	db_exec(conn, "RESET work_mem; RESET ROLE; SET lock_timeout = '2s'");
	db_exec(conn, "SET app.second = 'b'");
	db_exec(conn, "UNLISTEN before; LISTEN after");
	db_exec(conn, "DEALLOCATE gone; DEALLOCATE changed");
	db_exec(conn, "PREPARE changed AS SELECT 2");
	ok(PQprepare(conn, "added", "SELECT 3", 0, NULL));
	fresh = move_session("");
	move_hold();
	ck_assert_int_eq(PQsendQuery(conn, "UPDATE ledger SET n = n + 1 RETURNING n"), 1);
	finish_move();
	PGresult *r = PQgetResult(conn);
	ck_assert_str_eq(PQgetvalue(r, 0, 0), "1");
	PQclear(r);
	ck_assert_ptr_null(PQgetResult(conn));
	ck_assert_int_eq(move_where(conn), cluster_port(move_target));
	equals(conn, "7MB", "SHOW work_mem");
	equals(conn, "2s", "SHOW lock_timeout");
	equals(conn, "a", "SHOW app.first");
	equals(conn, "b", "SHOW app.second");
	equals(conn, "app", "SELECT current_user");
	equals(conn, "after", "SELECT string_agg(c, ' ') FROM pg_listening_channels() c");
	ck_assert_int_eq(db_int(conn, "EXECUTE changed"), 2);
	free(db_expect_error(conn, "26000", "EXECUTE gone"));
	ok(PQexecPrepared(conn, "added", 0, NULL, NULL, NULL, 0));
	ck_assert_int_eq(move_where(fresh), cluster_port(move_target));
	PQfinish(conn);
	PQfinish(fresh);
}
END_TEST

/* What no command tells of is seen by the digest; what the digest cannot see, by the command, or
 * by what functions there are. */
START_TEST(changes_after_prepare_that_hide)
{
	PGconn *nothing = move_session(""), *custom = move_session(""), *prepared = move_session("");
	PGconn *same = move_session(""), *freed = move_session(""), *unnamed = move_session("");
	PGconn *conns[] = {nothing, custom, prepared, same, freed, unnamed};
	MoveReport report;

	db_exec(freed, "SET work_mem = '5MB'");
	move_prepare(&report);
	ck_assert_uint_eq(report.moved, 6);
	move_report_free(&report);
	db_exec(nothing, "SELECT 1");
	db_exec(custom, "SELECT become('somebody')");
	ok(PQprepare(prepared, "late", "SELECT 8", 0, NULL));
	db_exec(same, "SET work_mem = '5MB'"); /* what it had by default, and the target has not */
	db_exec(freed, "RESET work_mem");
	ok(PQprepare(unnamed, "", "SELECT 9", 0, NULL));
	move_hold();
	finish_move();
	ok(PQexecPrepared(unnamed, "", 0, NULL, NULL, NULL, 0));
	for (size_t i = 0; i < 6; i++)
		ck_assert_int_eq(move_where(conns[i]), cluster_port(move_target));
	equals(custom, "somebody", "SHOW app.hidden");
	ok(PQexecPrepared(prepared, "late", 0, NULL, NULL, NULL, 0));
	equals(nothing, "7MB", "SHOW work_mem");
	equals(same, "5MB", "SHOW work_mem");
	equals(freed, "7MB", "SHOW work_mem");
	for (size_t i = 0; i < 6; i++)
		PQfinish(conns[i]);
}
END_TEST

START_TEST(functions_that_set)
{
	static const char *const bodies[] = {"BEGIN PERFORM set_config('work_mem', '5MB', false); END",
	                                     "BEGIN SET work_mem = '5MB'; END"};
	PGconn *source = move_admin(move_source);

	for (int i = 0; i < 2; i++) {
		MoveReport report;
		db_exec(source,
		        "CREATE OR REPLACE FUNCTION quiet() RETURNS void LANGUAGE plpgsql AS $$%s$$",
		        bodies[i]);
		PGconn *conn = move_session("");
		move_prepare(&report);
		move_report_free(&report);
		db_exec(conn, "SELECT quiet()");
		move_hold();
		finish_move();
		ck_assert_int_eq(move_where(conn), cluster_port(move_target));
		equals(conn, "5MB", "SHOW work_mem");
		PQfinish(conn);
		listener_set_route(move_listener, ROUTE_SOURCE);
	}
	db_exec(source, "DROP FUNCTION quiet()");
	PQfinish(source);
}
END_TEST

/* A question that the server refuses leaves nothing behind in the session. */
START_TEST(a_question_that_fails)
{
	PGconn *source = move_admin(move_source);
	PGconn *conn = move_session("");

	db_exec(source, "REVOKE EXECUTE ON FUNCTION pg_listening_channels() FROM PUBLIC");
	for (int i = 0; i < 3; i++) {
		expect_reason(conn, "it cannot be asked: permission denied for function");
		equals(conn, "0", "SELECT count(*) FROM pg_prepared_statements");
	}
	db_exec(source, "GRANT EXECUTE ON FUNCTION pg_listening_channels() TO PUBLIC");
	expect_reason(conn, "");
	equals(conn, "0", "SELECT count(*) FROM pg_prepared_statements");
	move_all();
	ck_assert_int_eq(move_where(conn), cluster_port(move_target));
	equals(conn, "0", "SELECT count(*) FROM pg_prepared_statements");
	PQfinish(source);
	PQfinish(conn);
}
END_TEST

/* The unnamed statement is the last one that the server took; a Query ends it. */
START_TEST(the_unnamed_statement)
{
	PGconn *one = move_session(""), *two = move_session(""), *three = move_session("");

	ok(PQprepare(one, "", "SELECT 1", 0, NULL));
	PGresult *r = PQprepare(one, "", "SELECT nonsense", 0, NULL);
	ck_assert_str_eq(PQresultErrorField(r, PG_DIAG_SQLSTATE), "42703");
	PQclear(r);
	ok(PQprepare(two, "", "SELECT 2", 0, NULL));
	db_exec(two, "SELECT 1");
	/* An error behind it does not end it. */
	r = PQexecParams(three, "SELECT 1 / (random() * 0)::int", 0, NULL, NULL, NULL, NULL, 0);
	ck_assert_str_eq(PQresultErrorField(r, PG_DIAG_SQLSTATE), "22012");
	PQclear(r);
	move_all();
	r = PQexecPrepared(one, "", 0, NULL, NULL, NULL, 0);
	ck_assert_str_eq(PQresultErrorField(r, PG_DIAG_SQLSTATE), "26000");
	PQclear(r);
	r = PQexecPrepared(two, "", 0, NULL, NULL, NULL, 0);
	ck_assert_str_eq(PQresultErrorField(r, PG_DIAG_SQLSTATE), "26000");
	PQclear(r);
	r = PQexecPrepared(three, "", 0, NULL, NULL, NULL, 0);
	ck_assert_str_eq(PQresultErrorField(r, PG_DIAG_SQLSTATE), "22012");
	PQclear(r);
	ck_assert_int_eq(move_where(one), cluster_port(move_target));
	PQfinish(one);
	PQfinish(two);
	PQfinish(three);
}
END_TEST

typedef struct {
	PGcancel *cancel;
	_Atomic bool done;
} Canceller;

static void
cancel_once(PGcancel *cancel)
{
	char text[256] = "";
	ck_assert_int_eq(PQcancel(cancel, text, sizeof(text)), 1);
}

/* One that comes before its request is nothing, as on a server: so again. */
static void *
cancel_until_done(void *arg)
{
	Canceller *canceller = arg;

	do {
		cancel_once(canceller->cancel);
	} while (!canceller->done);
	return NULL;
}

/* The key that the client got at its login cancels at the other server, also a request that
 * was held; what is not under way is not hit. */
/* One that writes and returns rows cannot be described while its table is locked, as the fence
 * has it in the hold. */
/* A client that has gone silent in the midst of a request keeps nobody waiting, and its request is
 * done where the session is when the rest has come. */
START_TEST(requests_that_come_in_pieces)
{
	static const char query[] = "Q\0\0\0\x24SELECT current_setting('port') ";
	enum { LEN = sizeof(query) };
	static const size_t cuts[] = {1, 3, 5, 20, LEN - 1};

	ck_assert_uint_eq(LEN, 1 + 0x24);
	for (size_t i = 0; i < sizeof(cuts) / sizeof(cuts[0]); i++) {
		PGconn *silent = move_session("");
		Cluster *where = i % 2 == 0 ? move_target : move_source;
		char reply[200], port[12];
		size_t len = 0;
		fixture_send(PQsocket(silent), query, cuts[i]);
		move_all_to(i % 2 == 0 ? ROUTE_TARGET : ROUTE_SOURCE);
		fixture_send(PQsocket(silent), query + cuts[i], LEN - cuts[i]);
		while (len < 6 || memcmp(reply + len - 6, "Z\0\0\0\5I", 6) != 0) {
			struct pollfd ready = {.fd = PQsocket(silent), .events = POLLIN};
			ck_assert_int_eq(poll(&ready, 1, 30000), 1);
			ssize_t n = recv(PQsocket(silent), reply + len, sizeof(reply) - len, 0);
			ck_assert_int_gt(n, 0);
			len += (size_t)n;
		}
		snprintf(port, sizeof(port), "%d", cluster_port(where));
		ck_assert_msg(memmem(reply, len, port, strlen(port)) != NULL, "%zu bytes ahead", cuts[i]);
		PQfinish(silent);
	}
}
END_TEST

START_TEST(the_unnamed_statement_of_a_locked_table)
{
	static const char add[] = "UPDATE ledger SET n = n + 1 WHERE id = 1 RETURNING n";
	PGconn *conn = move_session(""), *fence = move_admin(move_source);
	MoveReport report;

	ok(PQexecParams(conn, add, 0, NULL, NULL, NULL, NULL, 0));
	move_prepare(&report);
	ck_assert_uint_eq(report.unmovable, 0);
	move_report_free(&report);
	ok(PQexecPrepared(conn, "", 0, NULL, NULL, NULL, 0)); /* so it is asked again */
	move_hold();
	db_exec(fence, "BEGIN; LOCK TABLE ledger IN EXCLUSIVE MODE");
	move_open(UNMOVABLE_ABORT, &report);
	move_report_free(&report);
	listener_move_commit(move_listener);
	db_exec(fence, "ROLLBACK");
	ok(PQexecPrepared(conn, "", 0, NULL, NULL, NULL, 0));
	ck_assert_int_eq(move_where(conn), cluster_port(move_target));
	PQfinish(conn);
	PQfinish(fence);
}
END_TEST

START_TEST(cancel_keys_go_on)
{
	PGconn *held = move_session(""), *later = move_session("");
	PGconn *target = move_admin(move_target);
	PGcancel *cancel_held = PQgetCancel(held), *cancel_later = PQgetCancel(later);
	Canceller canceller = {cancel_held, false};
	pthread_t thread;
	ListenerState state;

	MoveReport report;
	move_prepare(&report);
	move_report_free(&report);
	move_hold();
	cancel_once(cancel_later); /* it has nothing under way: lost, as on a server */
	ck_assert_int_eq(PQsendQuery(held, "SELECT pg_sleep(60)"), 1);
	ck_assert_int_eq(pthread_create(&thread, NULL, cancel_until_done, &canceller), 0);
	finish_move();
	PGresult *r = PQgetResult(held);
	canceller.done = true;
	ck_assert_str_eq(PQresultErrorField(r, PG_DIAG_SQLSTATE), "57014");
	PQclear(r);
	ck_assert_ptr_null(PQgetResult(held));
	pthread_join(thread, NULL);
	ck_assert_int_eq(db_int(later, "SELECT 1"), 1);

	ck_assert_int_eq(PQsendQuery(later, "SELECT pg_sleep(60)"), 1);
	db_wait_until(target,
	              "SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE 'SELECT "
	              "pg_sleep%' AND state = 'active'",
	              30);
	cancel_once(cancel_later);
	r = PQgetResult(later);
	ck_assert_str_eq(PQresultErrorField(r, PG_DIAG_SQLSTATE), "57014");
	PQclear(r);
	ck_assert_ptr_null(PQgetResult(later));
	listener_state(move_listener, &state);
	ck_assert_uint_ge(state.cancels, 2);
	PQfreeCancel(cancel_held);
	PQfreeCancel(cancel_later);
	PQfinish(held);
	PQfinish(later);
	PQfinish(target);
}
END_TEST

/* ---- the rest ---- */

typedef struct {
	PGconn *_Atomic conn;
} Arrival;

static void *
connect_in_background(void *arg)
{
	((Arrival *)arg)->conn = move_session("");
	return NULL;
}

/* Who comes during the hold, and who leaves. */
START_TEST(who_comes_and_goes)
{
	PGconn *leaves = move_session("");
	PGconn *source = move_admin(move_source), *target = move_admin(move_target);
	Arrival arrival = {NULL};
	pthread_t thread;
	MoveReport report;
	uint32_t *pids;

	move_prepare(&report);
	move_report_free(&report);
	size_t count = listener_server_pids(move_listener, ROUTE_TARGET, false, &pids);
	ck_assert_uint_ge(count, 1);
	free(pids);
	move_hold();
	ck_assert_int_eq(pthread_create(&thread, NULL, connect_in_background, &arrival), 0);
	PQfinish(leaves);
	db_wait_until(source, "SELECT count(*) = 0 FROM pg_stat_activity WHERE usename = 'app'", 30);
	db_wait_until(target, "SELECT count(*) = 0 FROM pg_stat_activity WHERE usename = 'app'", 30);
	finish_move();
	pthread_join(thread, NULL);
	ck_assert_int_eq(move_where(arrival.conn), cluster_port(move_target));
	/* Its server process is known as ours. */
	count = listener_server_pids(move_listener, ROUTE_TARGET, false, &pids);
	bool found = false;
	for (size_t i = 0; i < count; i++)
		found = found || pids[i] == (uint32_t)db_int(arrival.conn, "SELECT pg_backend_pid()");
	ck_assert(found);
	free(pids);
	PQfinish(arrival.conn);
	PQfinish(source);
	PQfinish(target);
}
END_TEST

/* What was sent before it left is done once, where the session has come to. */
START_TEST(who_left_has_left_work)
{
	PGconn *source = move_admin(move_source), *target = move_admin(move_target);
	int64_t here = db_int(source, "SELECT n FROM ledger"),
			there = db_int(target, "SELECT n FROM ledger");
	PGconn *leaves = move_session("");
	MoveReport report;

	move_prepare(&report);
	move_report_free(&report);
	move_hold();
	ck_assert_int_eq(PQsendQuery(leaves, "UPDATE ledger SET n = n + 1"), 1);
	PQfinish(leaves);
	finish_move();
	char *sql = mem_printf("SELECT n = %lld FROM ledger", (long long)there + 1);
	db_wait_until(target, sql, 30);
	free(sql);
	db_wait_until(target, "SELECT count(*) = 0 FROM pg_stat_activity WHERE usename = 'app'", 30);
	ck_assert_int_eq(db_int(source, "SELECT n FROM ledger"), here);
	PQfinish(source);
	PQfinish(target);
}
END_TEST

typedef struct {
	_Atomic bool stop;
	_Atomic int done;
	bool prepared;
} Worker;

static void *
work(void *arg)
{
	Worker *w = arg;
	PGconn *conn = move_session("");
	static const char *const one[] = {"1"};
	int n = 0;

	ok(PQprepare(conn, "add", "UPDATE ledger SET n = n + $1 WHERE id = 1", 1, NULL));
	while (!w->stop) {
		if (w->prepared) {
			PGresult *r = PQexecPrepared(conn, "add", 1, one, NULL, NULL, 0);
			ck_assert_msg(PQresultStatus(r) == PGRES_COMMAND_OK, "%s", PQresultErrorMessage(r));
			PQclear(r);
		} else {
			db_exec(conn, "SET app.n = '%d'", n);
			db_exec(conn, "BEGIN; UPDATE ledger SET n = n + current_setting('app.n')::int * 0 + 1 "
			              "WHERE id = 1; COMMIT");
			char *value = db_value(conn, "SHOW app.n");
			ck_assert_int_eq(atoi(value), n);
			free(value);
		}
		n++;
		w->done++;
	}
	PQfinish(conn);
	return NULL;
}

/* To and fro under load: every acknowledged change is on one of the servers, once. */
START_TEST(moves_under_load)
{
	enum { WORKERS = 6, MOVES = 20 };
	PGconn *source = move_admin(move_source), *target = move_admin(move_target);
	Worker workers[WORKERS] = {{false, 0, false}};
	pthread_t threads[WORKERS];
	int64_t before = db_int(source, "SELECT n FROM ledger") +
	                 db_int(target, "SELECT n FROM ledger");

	for (int i = 0; i < WORKERS; i++) {
		workers[i].prepared = i % 2 == 0;
		ck_assert_int_eq(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
	}
	for (int i = 0; i < MOVES; i++) {
		ListenerRoute to = listener_route(move_listener) == ROUTE_SOURCE ? ROUTE_TARGET
		                                                                 : ROUTE_SOURCE;
		MoveReport report;
		Error err = ERROR_INIT;
		if (i % 3 != 0) {
			ck_assert(listener_move_prepare(move_listener, to, deadline_in_ms(30000), NULL, &report,
			                                &err));
			move_report_free(&report);
		}
		if (i % 2 == 0)
			ck_assert(listener_move_refresh(move_listener, deadline_in_ms(30000), NULL, &err));
		move_hold();
		ck_assert_msg(listener_move_open(move_listener, to, UNMOVABLE_ABORT, deadline_in_ms(30000),
		                                 NULL, &report, &err),
		              "%s: %s", err.context, err.message);
		move_report_free(&report);
		if (i % 5 == 4) {
			listener_move_abort(move_listener);
			listener_release(move_listener);
			continue;
		}
		listener_move_commit(move_listener);
		/* Nobody of them is left behind. */
		PGconn *left = to == ROUTE_TARGET ? source : target;
		ck_assert_int_eq(db_int(left, "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' "
		                              "AND state = 'active'"),
		                 0);
	}
	int64_t done = 0;
	for (int i = 0; i < WORKERS; i++) {
		workers[i].stop = true;
		pthread_join(threads[i], NULL);
		done += workers[i].done;
	}
	int64_t after = db_int(source, "SELECT n FROM ledger") + db_int(target, "SELECT n FROM ledger");
	ck_assert_int_eq(after - before, done);
	ck_assert_int_gt(done, 0);
	PQfinish(source);
	PQfinish(target);
}
END_TEST

/* ---- which database ---- */

static void
start_shop(void)
{
	move_servers_start();
	db_create(move_source, "shop");
	db_create(move_target, "store");
}

static void
listen_to_shop(void)
{
	char source[300];

	snprintf(source, sizeof(source), "%s", cluster_uri(move_source, "shop"));
	move_listen_between(source, cluster_uri(move_target, "store"));
}

/* It is called otherwise on the target. Clients know the source's name, there and back. */
START_TEST(a_database_of_another_name)
{
	PGconn *conn = move_session("dbname=shop");

	db_exec(conn, "SET work_mem = '11MB'");
	db_exec(conn, "PREPARE by_sql AS SELECT 1");
	equals(conn, "shop", "SELECT current_database()");
	for (int turn = 0; turn < 2; turn++) {
		const char *name = turn == 0 ? "store" : "shop";

		move_all_to(turn == 0 ? ROUTE_TARGET : ROUTE_SOURCE);
		equals(conn, name, "SELECT current_database()");
		equals(conn, "11MB", "SHOW work_mem");
		equals(conn, "1", "EXECUTE by_sql");
		PGconn *later = move_session("dbname=shop");
		equals(later, name, "SELECT current_database()");
		PQfinish(later);
	}
	PQfinish(conn);
}
END_TEST

/* It exists on both servers, with rows of its own: whoever is in it stays, and is not let into the
 * other one later. */
START_TEST(a_database_that_is_not_migrated)
{
	PGconn *conn = move_session("");
	MoveReport report = {0};
	char all[200];

	equals(conn, "postgres", "SELECT current_database()");
	expect_reason(conn, "its database is not the one that is migrated");
	move_prepare(&report);
	ck_assert_uint_eq(report.unmovable, 1);
	ck_assert_uint_eq(report.moved, 0);
	move_report_free(&report);
	PQfinish(conn);

	listener_set_route(move_listener, ROUTE_TARGET);
	snprintf(all, sizeof(all), "host=127.0.0.1 port=%d dbname=postgres user=app password=secret",
	         move_port);
	conn = PQconnectdb(all);
	ck_assert_int_eq(PQstatus(conn), CONNECTION_BAD);
	ck_assert_msg(strstr(PQerrorMessage(conn), "database \"postgres\" is not the one") != NULL,
	              "%s", PQerrorMessage(conn));
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
	tcase_add_test(tcase, reasons_come_and_go);
	tcase_add_test(tcase, reasons_that_stay);
	tcase_add_test(tcase, types_of_the_other_server);
	tcase_add_test(tcase, tables_that_change_between_two_looks);
	tcase_add_test(tcase, what_the_other_server_refuses);
	tcase_add_test(tcase, a_login_that_is_refused);
	tcase_add_test(tcase, too_few_connections);
	tcase_add_test(tcase, back_at_once);
	tcase_add_test(tcase, defaults_of_the_other_server);
	tcase_add_test(tcase, read_only_on_the_other_server);
	tcase_add_test(tcase, wait_and_abort_leave_everything_as_it_is);
	tcase_add_test(tcase, close_ends_them_cleanly);
	tcase_add_test(tcase, what_came_after_prepare);
	tcase_add_test(tcase, changes_after_prepare_that_hide);
	tcase_add_test(tcase, functions_that_set);
	tcase_add_test(tcase, a_question_that_fails);
	tcase_add_test(tcase, the_unnamed_statement);
	tcase_add_test(tcase, the_unnamed_statement_of_a_locked_table);
	tcase_add_test(tcase, requests_that_come_in_pieces);
	tcase_add_test(tcase, cancel_keys_go_on);
	tcase_add_test(tcase, who_comes_and_goes);
	tcase_add_test(tcase, who_left_has_left_work);
	tcase_add_test(tcase, moves_under_load);
	suite_add_tcase(suite, tcase);
	tcase = tcase_create("listener_move_database");
	tcase_add_unchecked_fixture(tcase, start_shop, move_servers_stop);
	tcase_add_checked_fixture(tcase, listen_to_shop, move_unlisten);
	tcase_add_test(tcase, a_database_of_another_name);
	tcase_add_test(tcase, a_database_that_is_not_migrated);
	suite_add_tcase(suite, tcase);
	return suite;
}

TEST_SUITE(make)
