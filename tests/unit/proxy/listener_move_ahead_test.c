/* What is done ahead of the hold: at which moments a session is asked, and that what it changes
 * between them arrives. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "tests/unit/proxy/listener_move_fixture.h"

static void
refresh(void)
{
	Error err = ERROR_INIT;

	ck_assert_msg(listener_move_refresh(move_listener, deadline_in_ms(30000), NULL, &err), "%s: %s",
	              err.context, err.message);
}

static void
prepare(void)
{
	MoveReport report;

	move_prepare(&report);
	ck_assert_msg(report.unmovable == 0, "%s: %s", report.which[0].who, report.which[0].reason);
	move_report_free(&report);
}

static void
hold_and_move(void)
{
	MoveReport report;

	move_hold();
	move_open(UNMOVABLE_ABORT, &report);
	move_report_free(&report);
	listener_move_commit(move_listener);
}

static void
do_it(PGconn *conn, const char *sql)
{
	if (strcmp(sql, "(parse)") == 0)
		PQclear(PQprepare(conn, "late", "SELECT 8", 0, NULL));
	else if (sql[0] != '\0')
		db_exec(conn, "%s", sql);
	if (strcmp(sql, "DEALLOCATE p") == 0)
		db_exec(conn, "PREPARE p AS SELECT 2");
}

/* What a session does, and what is true on the other server afterwards. All of them begin alike. */
static const struct {
	const char *change, *there;
} changes[] = {
	{"", "current_setting('work_mem') = '9MB' AND current_setting('app.first') = 'a'"},
	{"SELECT 1", "current_setting('work_mem') = '9MB' AND current_setting('app.first') = 'a'"},
	{"SELECT become('x')", "current_setting('app.hidden') = 'x'"},
	{"SELECT set_config('work_mem', '10MB', false)", "current_setting('work_mem') = '10MB'"},
	{"DO $$BEGIN PERFORM set_config('work_mem', '10MB', false); END$$",
     "current_setting('work_mem') = '10MB'"},
	{"BEGIN; SET LOCAL work_mem = '10MB'; COMMIT", "current_setting('work_mem') = '9MB'"},
	{"BEGIN; SET work_mem = '10MB'; ROLLBACK", "current_setting('work_mem') = '9MB'"},
	{"RESET work_mem", "current_setting('work_mem') = '7MB'"},
	/* What the source's server has by default, and the other has not. */
	{"SET work_mem = '5MB'", "current_setting('work_mem') = '5MB'"},
	{"SET app.first = 'b'", "current_setting('app.first') = 'b'"},
	/* For sessions to come, and no others. */
	{"ALTER ROLE app SET lock_timeout = '3s'", "current_setting('lock_timeout') = '0'"},
	{"SET ROLE boss", "current_user = 'boss' AND session_user = 'app'"},
	{"DISCARD ALL",
     "current_setting('work_mem') = '7MB' AND NOT EXISTS (SELECT FROM pg_prepared_statements)"
     " AND NOT EXISTS (SELECT FROM pg_listening_channels())"},
	{"DEALLOCATE ALL", "NOT EXISTS (SELECT FROM pg_prepared_statements)"},
	{"DEALLOCATE p",
     "(SELECT statement LIKE '%SELECT 2' FROM pg_prepared_statements WHERE name = 'p')"},
	{"EXECUTE p", "(SELECT count(*) = 1 FROM pg_prepared_statements)"},
	{"PREPARE q AS SELECT 3", "(SELECT count(*) = 2 FROM pg_prepared_statements)"},
	{"(parse)", "(SELECT NOT from_sql FROM pg_prepared_statements WHERE name = 'late')"},
	{"LISTEN m", "(SELECT count(*) = 2 FROM pg_listening_channels())"},
	{"UNLISTEN l", "NOT EXISTS (SELECT FROM pg_listening_channels())"},
};

enum { CHANGES = sizeof(changes) / sizeof(changes[0]) };

/* In the time between prepare and refresh, and in that between refresh and hold. */
START_TEST(what_changes_between_the_questions)
{
	PGconn *conns[CHANGES], *admin = move_admin(move_source);

	for (int i = 0; i < CHANGES; i++) {
		conns[i] = move_session("");
		db_exec(conns[i], "SET work_mem = '9MB'; SET app.first = 'a'");
		db_exec(conns[i], "PREPARE p AS SELECT 1");
		db_exec(conns[i], "LISTEN l");
	}
	prepare();
	for (int i = 0; _i == 0 && i < CHANGES; i++)
		do_it(conns[i], changes[i].change);
	refresh();
	for (int i = 0; _i == 1 && i < CHANGES; i++)
		do_it(conns[i], changes[i].change);
	hold_and_move();
	for (int i = 0; i < CHANGES; i++) {
		ck_assert_msg(db_true(conns[i], "SELECT %s", changes[i].there), "%s", changes[i].change);
		ck_assert(!db_true(conns[i], "SELECT EXISTS (SELECT FROM pg_prepared_statements"
		                             " WHERE name LIKE 'pgbaton%%')"));
		ck_assert_int_eq(move_where(conns[i]), cluster_port(move_target));
		PQfinish(conns[i]);
	}
	db_exec(admin, "ALTER ROLE app RESET ALL");
	PQfinish(admin);
}
END_TEST

/* When its server has last begun and ended something for it. */
static char *
last_at_work(PGconn *admin, int pid)
{
	return db_value(admin, "SELECT state_change FROM pg_stat_activity WHERE pid = %d", pid);
}

/* A session that executes nothing is asked once, by prepare; one that has, for the digest only,
 * and then no more. */
START_TEST(only_who_has_executed_something_is_asked)
{
	PGconn *admin = move_admin(move_source), *still = move_session(""), *works = move_session("");
	int still_pid = (int)db_int(still, "SELECT pg_backend_pid()");
	int works_pid = (int)db_int(works, "SELECT pg_backend_pid()");

	prepare();
	char *still_at = last_at_work(admin, still_pid);
	db_exec(works, "SELECT 1");
	refresh();
	char *works_at = last_at_work(admin, works_pid);
	ck_assert(db_true(admin,
	                  "SELECT query LIKE '%%digest%%' AND query NOT LIKE '%%pg_show_all_settings%%'"
	                  " FROM pg_stat_activity WHERE pid = %d",
	                  works_pid));
	hold_and_move();
	char *still_then = last_at_work(admin, still_pid), *works_then = last_at_work(admin, works_pid);
	ck_assert_str_eq(still_at, still_then);
	ck_assert_str_eq(works_at, works_then);
	ck_assert_int_eq(move_where(still), cluster_port(move_target));
	ck_assert_int_eq(move_where(works), cluster_port(move_target));
	free(still_at);
	free(works_at);
	free(still_then);
	free(works_then);
	PQfinish(still);
	PQfinish(works);
	PQfinish(admin);
}
END_TEST

static int64_t
kept_by(PGconn *conn)
{
	return db_int(conn, "SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'pgbaton%%'");
}

/* The second quick question is asked by the first one's statement. A client that drops it is asked as if
 * for the first time, one that stays where it is has it for some seconds only. */
START_TEST(the_kept_statement)
{
	PGconn *drops = move_session(""), *uses = move_session("");
	MoveReport report;

	for (int moved = 0; moved < 2; moved++) {
		db_exec(drops, "SET app.first = 'a%d'", moved);
		db_exec(uses, "SET app.first = 'b%d'", moved);
		prepare();
		db_exec(drops, "SELECT 1");
		db_exec(uses, "SELECT 1");
		refresh();
		ck_assert_int_eq(kept_by(drops), 1);
		ck_assert_int_eq(kept_by(uses), 1);
		db_exec(drops, moved ? "DISCARD ALL" : "DEALLOCATE ALL");
		db_exec(uses, "SELECT become('c%d')", moved);
		if (moved) {
			hold_and_move();
			break;
		}
		move_hold();
		move_open(UNMOVABLE_ABORT, &report);
		move_report_free(&report);
		listener_move_abort(move_listener);
		listener_release(move_listener);
		for (int64_t until = deadline_in_ms(30000); kept_by(drops) + kept_by(uses) > 0;) {
			ck_assert_msg(deadline_left_ms(until) > 0, "it is still there");
			usleep(100000);
		}
	}
	ck_assert_int_eq(kept_by(drops) + kept_by(uses), 0);
	ck_assert_int_eq(move_where(drops), cluster_port(move_target));
	ck_assert(db_true(drops, "SELECT coalesce(current_setting('app.first', true), '') = ''"));
	ck_assert(db_true(uses, "SELECT current_setting('app.first') = 'b1'"
	                        " AND current_setting('app.hidden') = 'c1'"));
	PQfinish(drops);
	PQfinish(uses);
}
END_TEST

static void *
prepare_main(void *arg UNUSED)
{
	prepare();
	return NULL;
}

/* A session at work is asked when its request has ended, and no sooner; those that can be are
 * waited for meanwhile. Here all questions wait for a lock, so that they are seen. */
START_TEST(at_work_it_is_asked_at_its_next_boundary)
{
	PGconn *admin = move_admin(move_source), *locks = move_admin(move_source);
	PGconn *target = move_admin(move_target);
	PGconn *idle = move_session(""), *works = move_session("");
	int works_pid = (int)db_int(works, "SELECT pg_backend_pid()");
	char asked[300];
	pthread_t thread;

	db_exec(locks, "BEGIN; SELECT pg_advisory_lock(7); LOCK TABLE pg_depend");
	ck_assert_int_eq(PQsendQuery(works, "SELECT pg_advisory_xact_lock(7)"), 1);
	db_wait_until(admin,
	              "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory'"
	              " AND NOT granted)",
	              30);
	ck_assert_int_eq(pthread_create(&thread, NULL, prepare_main, NULL), 0);
	/* Logged in on the other server are both; asked is the idle one only. */
	db_wait_until(target,
	              "SELECT count(*) = 2 FROM pg_stat_activity WHERE usename = 'app'"
	              " AND state = 'idle'",
	              30);
	db_wait_until(admin,
	              "SELECT count(*) = 1 FROM pg_locks WHERE NOT granted"
	              " AND relation = 'pg_depend'::regclass",
	              30);
	db_exec(locks, "SELECT pg_advisory_unlock(7)");
	snprintf(asked, sizeof(asked),
	         "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND pid = %d"
	         " AND relation = 'pg_depend'::regclass)",
	         works_pid);
	db_wait_until(admin, asked, 30);
	/* What it had asked for is answered, and nothing of ours. */
	PGresult *r = PQgetResult(works);
	ck_assert_int_eq(PQresultStatus(r), PGRES_TUPLES_OK);
	ck_assert_int_eq(PQnfields(r), 1);
	PQclear(r);
	ck_assert_ptr_null(PQgetResult(works));
	db_exec(locks, "COMMIT");
	pthread_join(thread, NULL);
	hold_and_move();
	ck_assert_int_eq(move_where(idle), cluster_port(move_target));
	ck_assert_int_eq(move_where(works), cluster_port(move_target));
	PQfinish(idle);
	PQfinish(works);
	PQfinish(target);
	PQfinish(locks);
	PQfinish(admin);
}
END_TEST

/* A session that stays in its transaction keeps prepare and refresh from nothing. */
START_TEST(a_transaction_is_not_waited_for)
{
	PGconn *conn = move_session(""), *idle = move_session("");

	db_exec(conn, "BEGIN; SET app.first = 'c'");
	prepare();
	refresh();
	db_exec(conn, "SET work_mem = '12MB'; COMMIT");
	hold_and_move();
	ck_assert(db_true(conn, "SELECT current_setting('work_mem') = '12MB'"
	                        " AND current_setting('app.first') = 'c'"));
	ck_assert_int_eq(move_where(conn), cluster_port(move_target));
	ck_assert_int_eq(move_where(idle), cluster_port(move_target));
	PQfinish(conn);
	PQfinish(idle);
}
END_TEST

/* A client's request does not wait for a question that a lock keeps from being answered, nor is it
 * what is cancelled, and nothing of the question is left. */
START_TEST(a_question_without_an_answer_is_given_up)
{
	PGconn *admin = move_admin(move_source), *conn = move_session("");
	ListenerSession *rows;
	Error err = ERROR_INIT;
	size_t count;

	for (int i = 0; i < 3; i++) {
		db_exec(admin, "BEGIN; LOCK TABLE pg_depend");
		db_exec(conn, "SET work_mem = '%dMB'", i + 1); /* so that the whole is asked */
		ck_assert(listener_sessions(move_listener, deadline_in_ms(50), &rows, &count, &err));
		free(rows);
		ck_assert_int_eq(db_int(conn, "SELECT 5 FROM pg_sleep(0.01)"), 5);
		db_exec(admin, "COMMIT");
	}
	ck_assert_str_eq(move_reason_of(conn), "");
	ck_assert_int_eq(db_int(conn, "SELECT count(*) FROM pg_prepared_statements"), 0);
	prepare();
	hold_and_move();
	ck_assert_int_eq(move_where(conn), cluster_port(move_target));
	ck_assert(db_true(conn, "SELECT current_setting('work_mem') = '3MB'"));
	PQfinish(conn);
	PQfinish(admin);
}
END_TEST

/* What keeps a server from answering is named as that, while nobody waits for the answer, too. */
START_TEST(a_question_without_an_answer_is_named)
{
	static const char expected[] = "its server does not answer when it is asked";
	PGconn *writer = move_admin(move_source), *conn = move_session("");
	MoveReport report;
	Error err = ERROR_INIT;

	db_exec(conn, "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE,"
	              " READ ONLY, DEFERRABLE");
	db_exec(writer, "BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT * FROM ledger;"
	                " SELECT txid_current()");
	ck_assert_msg(listener_move_prepare(move_listener, ROUTE_TARGET, deadline_in_ms(1000), NULL,
	                                    &report, &err),
	              "%s", err.message);
	ck_assert_uint_eq(report.unmovable, 1);
	ck_assert_msg(strstr(report.which[0].reason, expected) != NULL, "%s", report.which[0].reason);
	free(report.which);
	ck_assert_msg(strstr(move_reason_of(conn), expected) != NULL, "%s", move_reason_of(conn));
	db_exec(writer, "COMMIT");
	move_all();
	ck_assert_int_eq(move_where(conn), cluster_port(move_target));
	PQfinish(conn);
	PQfinish(writer);
}
END_TEST

/* The other server plans each statement ahead of the hold: a function that may be evaluated while
 * planning is, with a NULL that it does not like, and that is no failure. Nothing is executed, and
 * the client's own statements are as new. */
START_TEST(statements_are_planned_ahead)
{
	static const char made[] =
		"CREATE FUNCTION fussy(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$BEGIN"
		" IF $1 IS NULL THEN RAISE EXCEPTION 'planned with nothing'; END IF; RETURN $1; END$$;"
		"CREATE SEQUENCE counted; GRANT ALL ON counted TO app";
	static const char *const texts[] = {"SELECT nextval('counted')",
	                                    "INSERT INTO ledger VALUES ($1, 1)", "SELECT fussy($1)"};
	static const char *const seven[] = {"7007"};
	PGconn *source = move_admin(move_source), *target = move_admin(move_target);
	PGconn *conn = move_session("");

	db_exec(source, "%s", made);
	db_exec(target, "%s", made);
	for (int i = 0; i < 3; i++) {
		char name[] = {(char)('a' + i), '\0'};
		PGresult *result = PQprepare(conn, name, texts[i], 0, NULL);
		ck_assert_int_eq(PQresultStatus(result), PGRES_COMMAND_OK);
		PQclear(result);
	}
	prepare();
	char *log = cluster_log(move_target);
	ck_assert_ptr_nonnull(strstr(log, "planned with nothing"));
	free(log);
	hold_and_move();
	ck_assert_int_eq(move_where(conn), cluster_port(move_target));
	ck_assert(db_true(conn, "SELECT count(*) = 3 FROM pg_prepared_statements"));
	if (PQserverVersion(conn) >= 140000)
		ck_assert(db_true(conn, "SELECT sum(generic_plans + custom_plans) = 0"
		                        " FROM pg_prepared_statements"));
	ck_assert(db_true(target, "SELECT NOT is_called FROM counted"));
	ck_assert(db_true(target, "SELECT count(*) = 0 FROM ledger WHERE id = 7007"));
	for (int i = 0; i < 3; i++) {
		char name[] = {(char)('a' + i), '\0'};
		PGresult *result = PQexecPrepared(conn, name, i > 0, seven, NULL, NULL, 0);
		ck_assert_msg(PQresultErrorMessage(result)[0] == '\0', "%s", PQresultErrorMessage(result));
		PQclear(result);
	}
	ck_assert(db_true(target, "SELECT count(*) = 1 FROM ledger WHERE id = 7007"));
	PQfinish(conn);
	PQfinish(source);
	PQfinish(target);
}
END_TEST

static Suite *
make(void)
{
	Suite *suite = suite_create("listener_move_ahead");
	TCase *tcase = tcase_create("listener_move_ahead");

	tcase_add_unchecked_fixture(tcase, move_servers_start, move_servers_stop);
	tcase_add_checked_fixture(tcase, move_listen, move_unlisten);
	tcase_add_loop_test(tcase, what_changes_between_the_questions, 0, 2);
	tcase_add_test(tcase, only_who_has_executed_something_is_asked);
	tcase_add_test(tcase, the_kept_statement);
	tcase_add_test(tcase, at_work_it_is_asked_at_its_next_boundary);
	tcase_add_test(tcase, a_transaction_is_not_waited_for);
	tcase_add_test(tcase, a_question_without_an_answer_is_given_up);
	tcase_add_test(tcase, a_question_without_an_answer_is_named);
	tcase_add_test(tcase, statements_are_planned_ahead);
	suite_add_tcase(suite, tcase);
	return suite;
}

TEST_SUITE(make)
