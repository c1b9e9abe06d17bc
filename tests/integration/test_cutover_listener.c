/*
 * A cutover with the listener in front: the clients notice nothing, or a connection that was
 * cut; never an error, never a side that is not the live one. Under load, blocked, hung, and
 * killed at each named step, there and back.
 */
#include <check.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/harness/db.h"
#include "tests/harness/pgbaton.h"
#include "tests/integration/through.h"
#include "tests/unit/runner.h"

enum { SOURCE, TARGET, SIDES, CLIENTS = 3, HANGS = 2 };

static Cluster *clusters[SIDES];

static void
start_clusters(void)
{
	static const char hba[] = "host all app 127.0.0.1/32 scram-sha-256\n";
	char *stored = NULL;

	for (int i = 0; i < SIDES; i++) {
		clusters[i] = cluster_start(
			&(ClusterOptions){.name = i == SOURCE ? "source" : "target", .hba = hba});
		PGconn *conn = db_connect(clusters[i], NULL);
		/* As pg_dumpall does it: the verifier byte for byte. */
		db_exec(conn, "CREATE ROLE app LOGIN PASSWORD '%s'", stored != NULL ? stored : "secret");
		if (stored == NULL)
			stored = db_value(conn, "SELECT rolpassword FROM pg_authid WHERE rolname = 'app'");
		PQfinish(conn);
	}
	free(stored);
}

static void
stop_clusters(void)
{
	for (int i = 0; i < SIDES; i++)
		cluster_free(clusters[i]);
}

typedef struct {
	char name[32];
	char uri[SIDES][160];
	char app[200];       /* through the listener */
	char direct[200];    /* past it, to the source */
	PGconn *conn[SIDES]; /* a superuser's, past it */
	char listen[32];
	const char *args[20];
	int arg_count;
	Pgbaton *p;
	char *state_dir;
	Through *through;
	bool holds_at_once; /* whatever transactions are running */
} Case;

static void
case_arg(Case *c, const char *option, const char *value)
{
	c->args[c->arg_count++] = option;
	if (value != NULL)
		c->args[c->arg_count++] = value;
}

static void
case_open(Case *c, const char *name)
{
	memset(c, 0, sizeof(*c));
	snprintf(c->name, sizeof(c->name), "%s", name);
	for (int i = 0; i < SIDES; i++) {
		db_create(clusters[i], name);
		snprintf(c->uri[i], sizeof(c->uri[i]), "%s", cluster_uri(clusters[i], name));
		c->conn[i] = db_connect_uri(c->uri[i]);
	}
	db_exec(c->conn[SOURCE],
	        "%s CREATE TABLE other (id int PRIMARY KEY, v text); INSERT INTO other VALUES (1, 'a');"
	        "GRANT ALL ON ALL TABLES IN SCHEMA public TO app;"
	        "GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO app",
	        through_schema);
	int port = free_port();
	snprintf(c->listen, sizeof(c->listen), "127.0.0.1:%d", port);
	snprintf(c->app, sizeof(c->app), "postgresql://app:secret@127.0.0.1:%d/%s", port, name);
	snprintf(c->direct, sizeof(c->direct), "postgresql://app:secret@127.0.0.1:%d/%s",
	         cluster_port(clusters[SOURCE]), name);
	c->state_dir = scratch_dir_new(name);
	case_arg(c, "--name", c->name);
	case_arg(c, "--listen", c->listen);
	case_arg(c, "--listen-threads", "2");
	case_arg(c, "--failback", NULL);
}

static void
case_run(Case *c, const char *fault)
{
	char text[96];
	const char *env[] = {text, c->holds_at_once ? "PGBATON_HOLD_AT_ONCE=1" : NULL, NULL};

	snprintf(text, sizeof(text), "PGBATON_FAULT=%s", fault != NULL ? fault : "none");
	pgbaton_free(c->p);
	c->p = pgbaton_start(&(PgbatonOptions){.source = c->uri[SOURCE],
	                                       .target = c->uri[TARGET],
	                                       .args = c->args,
	                                       .env = env,
	                                       .state_dir = c->state_dir});
}

static void
case_follow(Case *c)
{
	case_run(c, NULL);
	pgbaton_wait_state(c->p, "following", 60);
	c->through = through_start(c->app, CLIENTS);
	through_progress(c->through, 10);
}

static void
case_wait_way_back(Case *c)
{
	for (int i = 0;; i++) {
		char *state = pgbaton_status_text(c->p, "way_back.state");
		bool follows = strcmp(state, "following") == 0;
		ck_assert_msg(i < 6000 && strcmp(state, "failed") != 0, "%s: %s", state, pgbaton_log(c->p));
		free(state);
		if (follows)
			return;
		usleep(10000);
	}
}

/* The report, which the caller decrefs. */
static json_t *
case_ask(Case *c, const char *command, const char *option)
{
	char *out;
	int code = pgbaton_cli(c->p, &out, 60, command, "--json", option, NULL);
	if (code != 0)
		fprintf(stderr, "--- log of pgbaton\n%s---\n", pgbaton_log(c->p));
	ck_assert_msg(code == 0, "%s exited with %d: %.1000s", command, code, out);
	json_t *json = json_loads(out, 0, NULL);
	ck_assert_ptr_nonnull(json);
	free(out);
	return json;
}

static int
number(const json_t *report, const char *key)
{
	const json_t *value = json_object_get(report, key);

	ck_assert_msg(json_is_number(value), "%s is no number", key);
	return (int)json_number_value(value);
}

/* Which server a session of the application's is on now. */
static int
side_of(PGconn *conn)
{
	return db_int(conn, "SELECT inet_server_port()") == cluster_port(clusters[SOURCE]) ? SOURCE
	                                                                                   : TARGET;
}

static bool
writable(Case *c, int side)
{
	char sqlstate[6];
	bool ok = db_try(c->conn[side], sqlstate, "UPDATE other SET v = v WHERE id = 1");

	if (!ok)
		ck_assert_str_eq(sqlstate, "25006");
	return ok;
}

/* Asks for it in the background: the caller has something to do meanwhile. */
static Process *
begin(Case *c, const char *command, const char *a, const char *b)
{
	char admin[32];

	snprintf(admin, sizeof(admin), "127.0.0.1:%d", pgbaton_admin_port(c->p));
	const char *argv[] = {pgbaton_binary(), command, "--admin", admin, a, b, NULL};
	return process_start(argv, NULL);
}

/* live: where the application has come to. The migration ends by the command, and the
 * application's rows are all there. */
static void
case_end(Case *c, int live, const char *command)
{
	int code = pgbaton_cli(c->p, NULL, 60, command, NULL);
	if (code != 0)
		fprintf(stderr, "--- log of pgbaton\n%s---\n", pgbaton_log(c->p));
	ck_assert_msg(code == 0, "%s exited with %d", command, code);
	/* Whoever is still connected is still served. */
	int reconnects = through_reconnects(c->through);
	through_progress(c->through, 5);
	ck_assert_int_eq(through_reconnects(c->through), reconnects);
	through_end(c->through, c->conn[live]);
	ck_assert_int_eq(pgbaton_wait_exit(c->p, 30), 0);
	pgbaton_free(c->p);
	for (int i = 0; i < SIDES; i++)
		PQfinish(c->conn[i]);
	scratch_dir_free(c->state_dir);
}

static void
case_close(Case *c, int live)
{
	case_end(c, live, "finish");
}

/* ---- when all is well ---- */

/* Rehearsed, there, back and finished: connections that were made before all that. */
START_TEST(clients_stay)
{
	Case c;

	case_open(&c, "stay");
	case_follow(&c);
	PGconn *idle = db_connect_uri(c.app);
	db_exec(idle, "SET application_name = 'idle one'");
	db_exec(idle, "PREPARE q AS SELECT v FROM other");

	for (int i = 0; i < 2; i++) {
		json_t *report = case_ask(&c, "cutover", "--rehearse");
		ck_assert_int_eq(number(report, "sessions_moved"), CLIENTS + 1);
		ck_assert_int_eq(number(report, "sessions_closed"), 0);
		ck_assert_int_eq(number(report, "sessions_unmovable"), 0);
		/* Its sessions on the source are the application's, not somebody's beside it. */
		ck_assert_int_eq(number(report, "bypassing_sessions"), 1);
		json_decref(report);
		ck_assert_int_eq(side_of(idle), SOURCE);
		through_progress(c.through, 5);
	}
	(void)through_worst_ms(c.through);
	json_t *report = case_ask(&c, "cutover", NULL);
	ck_assert_int_eq(number(report, "sessions_moved"), CLIENTS + 1);
	through_progress(c.through, 20);
	printf(
		"cutover: hold_ms %.1f (quiet %.1f, fence %.1f, marker %.1f, drain %.1f, sequences %.1f, "
		"sessions %.1f, commit %.1f), worst answer %.1f ms\n",
		json_number_value(json_object_get(report, "hold_ms")),
		json_number_value(json_object_get(report, "quiet_ms")),
		json_number_value(json_object_get(report, "fence_ms")),
		json_number_value(json_object_get(report, "marker_ms")),
		json_number_value(json_object_get(report, "drain_ms")),
		json_number_value(json_object_get(report, "sequences_ms")),
		json_number_value(json_object_get(report, "sessions_ms")),
		json_number_value(json_object_get(report, "commit_ms")), through_worst_ms(c.through));
	json_decref(report);
	ck_assert_int_eq(side_of(idle), TARGET);
	char *v = db_value(idle, "EXECUTE q");
	ck_assert_str_eq(v, "a");
	free(v);
	ck_assert(!writable(&c, SOURCE));

	case_wait_way_back(&c);
	through_progress(c.through, 20);
	report = case_ask(&c, "failback", NULL);
	ck_assert_int_eq(number(report, "sessions_moved"), CLIENTS + 1);
	json_decref(report);
	ck_assert_int_eq(side_of(idle), SOURCE);
	ck_assert(!writable(&c, TARGET));
	through_progress(c.through, 20);
	ck_assert_int_eq(through_reconnects(c.through), 0);
	char *name = db_value(idle, "SHOW application_name");
	ck_assert_str_eq(name, "idle one");
	free(name);
	PQfinish(idle);
	case_close(&c, SOURCE);
}
END_TEST

/* What a client's thread does; Check's own asserts are for one thread at a time. */
static void
say(PGconn *conn, bool extended, const char *sql)
{
	PGresult *result = extended ? PQexecParams(conn, sql, 0, NULL, NULL, NULL, NULL, 0)
	                            : PQexec(conn, sql);
	ExecStatusType status = PQresultStatus(result);

	if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK)
		ck_abort_msg("%s: %s", sql, PQerrorMessage(conn));
	PQclear(result);
}

typedef struct {
	const char *uri;
	pthread_t thread;
	_Atomic long visits;
	_Atomic bool end;
} Visitor;

static void *
visit(void *arg)
{
	Visitor *visitor = arg;

	while (!visitor->end) {
		PGconn *conn = PQconnectdb(visitor->uri);
		say(conn, false, "SELECT 1");
		PQfinish(conn);
		visitor->visits++;
	}
	return NULL;
}

/* An application that connects for each request: not one of its sessions, however new, is taken for
 * somebody's beside the listener. */
START_TEST(short_visits_are_no_bypassing)
{
	enum { VISITORS = 4, LOOKS = 8 };
	Case c;
	Visitor visitors[VISITORS];

	case_open(&c, "visits");
	case_follow(&c);
	for (int i = 0; i < VISITORS; i++) {
		visitors[i] = (Visitor){.uri = c.app};
		ck_assert_int_eq(pthread_create(&visitors[i].thread, NULL, visit, &visitors[i]), 0);
	}
	for (int i = 0; i < LOOKS; i++) {
		json_t *report = case_ask(&c, "cutover", "--rehearse");
		ck_assert_int_eq(number(report, "bypassing_sessions"), 1); /* the test's own */
		json_decref(report);
	}
	for (int i = 0; i < VISITORS; i++) {
		visitors[i].end = true;
		pthread_join(visitors[i].thread, NULL);
		ck_assert_int_gt(visitors[i].visits, 0);
	}
	case_end(&c, SOURCE, "cancel");
}
END_TEST

/* A transaction manager: one session prepares, it or another one ends. */
typedef struct {
	const char *uri;
	int number;
	pthread_t thread;
	_Atomic long done;
	_Atomic bool end;
} Manager;

static void *
manage(void *arg)
{
	Manager *m = arg;
	PGconn *first = PQconnectdb(m->uri), *second = PQconnectdb(m->uri);
	char sql[160];

	for (long n = 1; !m->end; n++) {
		snprintf(sql, sizeof(sql), "INSERT INTO entry (client, n) VALUES (%d, %ld)", m->number, n);
		say(first, false, "BEGIN");
		say(first, true, sql);
		snprintf(sql, sizeof(sql), "PREPARE TRANSACTION 'two-phase %d %ld'", m->number, n);
		say(first, false, sql);
		snprintf(sql, sizeof(sql), "COMMIT PREPARED 'two-phase %d %ld'", m->number, n);
		say(n % 3 == 0 ? first : second, n % 2 == 0, sql);
		m->done = n;
	}
	PQfinish(first);
	PQfinish(second);
	return NULL;
}

static void
managers_progress(Manager *managers, int count)
{
	for (int i = 0; i < count; i++)
		for (long from = managers[i].done; managers[i].done < from + 20;)
			usleep(2000);
}

/* Between their two phases sessions are between transactions, and hold locks on the tables. */
START_TEST(two_phase_commit)
{
	enum { MANAGERS = 4 };
	Case c;
	Manager managers[MANAGERS];
	char *out;

	case_open(&c, "two_phase");
	case_follow(&c);
	for (int i = 0; i < MANAGERS; i++) {
		managers[i] = (Manager){.uri = c.app, .number = 100 + i};
		ck_assert_int_eq(pthread_create(&managers[i].thread, NULL, manage, &managers[i]), 0);
	}
	managers_progress(managers, MANAGERS);
	/* One that nobody ends is named. */
	PGconn *forgotten = db_connect_uri(c.app);
	db_exec(forgotten, "BEGIN; INSERT INTO other VALUES (2, 'b'); PREPARE TRANSACTION 'forgotten'");
	ck_assert_int_eq(
		pgbaton_cli(c.p, &out, 60, "cutover", "--rehearse", "--hold-timeout", "0.3", NULL), 1);
	ck_assert_msg(strstr(out, "'forgotten' (of app in two_phase") != NULL, "%s", out);
	free(out);
	managers_progress(managers, MANAGERS);
	db_exec(forgotten, "ROLLBACK PREPARED 'forgotten'");
	PQfinish(forgotten);

	json_t *report = case_ask(&c, "cutover", NULL);
	ck_assert_int_eq(number(report, "sessions_moved"), CLIENTS + 2 * MANAGERS);
	json_decref(report);
	managers_progress(managers, MANAGERS);
	case_wait_way_back(&c);
	report = case_ask(&c, "failback", NULL);
	ck_assert_int_eq(number(report, "sessions_moved"), CLIENTS + 2 * MANAGERS);
	json_decref(report);
	managers_progress(managers, MANAGERS);
	for (int i = 0; i < MANAGERS; i++) {
		managers[i].end = true;
		pthread_join(managers[i].thread, NULL);
		char *rows = db_rows(c.conn[SOURCE],
		                     "SELECT count(*), min(n), max(n) FROM entry WHERE client = %d",
		                     100 + i);
		char expected[80];
		snprintf(expected, sizeof(expected), "%ld|1|%ld", managers[i].done, managers[i].done);
		ck_assert_str_eq(rows, expected);
		free(rows);
	}
	ck_assert_int_eq(through_reconnects(c.through), 0);
	case_close(&c, SOURCE);
}
END_TEST

/* Given up: the application goes on where it was, and is not cut off. */
START_TEST(cancelled_serves_on)
{
	Case c;

	case_open(&c, "cancelled");
	case_follow(&c);
	case_end(&c, SOURCE, "cancel");
}
END_TEST

/* The last client goes, and the process of a cancelled migration with it. */
static void
case_gone(Case *c)
{
	through_end(c->through, c->conn[SOURCE]);
	ck_assert_int_eq(pgbaton_wait_exit(c->p, 30), 0);
	pgbaton_free(c->p);
	for (int i = 0; i < SIDES; i++)
		PQfinish(c->conn[i]);
	scratch_dir_free(c->state_dir);
}

/* A command that is waiting for one that waits for a session, answered in time. */
static void
expect_failed(Process *command, const char *words)
{
	ck_assert_int_eq(process_wait(command, 30), 1);
	ck_assert_msg(strstr(process_stderr(command), words) != NULL, "%s", process_stderr(command));
	process_free(command);
}

static void
wait_text(Case *c, const char *path, const char *text)
{
	for (int i = 0;; i++) {
		char *now = pgbaton_status_text(c->p, path);
		bool equal = strcmp(now, text) == 0;
		ck_assert_msg(i < 3000, "%s is %s: %s", path, now, pgbaton_log(c->p));
		free(now);
		if (equal)
			return;
		usleep(10000);
	}
}

/* Commands that come while a cutover or a failback waits for a session, which it does in the
 * state before: each has an answer, and the clients notice nothing. */
START_TEST(commands_meanwhile)
{
	Case c;
	char *out;

	case_open(&c, "meanwhile");
	case_follow(&c);
	PGconn *locker = db_connect_uri(c.app);
	db_exec(locker, "SELECT pg_advisory_lock(1)");
	Process *cutover = begin(&c, "cutover", NULL, NULL);
	wait_text(&c, "cutover.step", "sessions");
	Process *verify = begin(&c, "verify", NULL, NULL);
	wait_text(&c, "verify.outcome", "running");
	db_exec(locker, "SELECT pg_advisory_unlock(1)");
	ck_assert_int_eq(process_wait(cutover, 30), 0);
	process_free(cutover);
	expect_failed(verify, "has switched since");

	case_wait_way_back(&c);
	db_exec(locker, "SELECT pg_advisory_lock(1)");
	Process *failback = begin(&c, "failback", NULL, NULL);
	wait_text(&c, "cutover.step", "sessions");
	ck_assert_int_eq(pgbaton_cli(c.p, &out, 30, "finish", NULL), 1);
	ck_assert_msg(strstr(out, "while a failback is running") != NULL, "%s", out);
	free(out);
	db_exec(locker, "SELECT pg_advisory_unlock(1)");
	ck_assert_int_eq(process_wait(failback, 30), 0);
	process_free(failback);
	ck_assert_int_eq(side_of(locker), SOURCE);
	ck_assert_int_eq(through_reconnects(c.through), 0);
	PQfinish(locker);
	case_close(&c, SOURCE);
}
END_TEST

/* What waits for its turn when the migration is cancelled is told so, although the process goes
 * on for the clients. */
START_TEST(cancelled_meanwhile)
{
	Case c;

	case_open(&c, "gone_meanwhile");
	case_follow(&c);
	PGconn *locker = db_connect_uri(c.app);
	db_exec(locker, "SELECT pg_advisory_lock(1)");
	Process *cutover = begin(&c, "cutover", NULL, NULL);
	wait_text(&c, "cutover.step", "sessions");
	Process *verify = begin(&c, "verify", NULL, NULL);
	wait_text(&c, "verify.outcome", "running");
	int code = pgbaton_cli(c.p, NULL, 30, "cancel", NULL);
	ck_assert_msg(code == 0, "%s", pgbaton_log(c.p));
	expect_failed(cutover, "cutover undone, the source goes on");
	expect_failed(verify, "has ended before");
	ck_assert_int_eq(side_of(locker), SOURCE);
	PQfinish(locker);
	through_progress(c.through, 5);
	case_gone(&c);
}
END_TEST

/* The target is away: nothing can be taken back without it, but that is nothing to the clients, whom
 * the source serves. */
START_TEST(cancelled_without_the_target)
{
	Case c;

	case_open(&c, "away");
	case_follow(&c);
	cluster_stop(clusters[TARGET], CLUSTER_IMMEDIATE);
	ck_assert_int_eq(pgbaton_cli(c.p, NULL, 30, "cancel", NULL), 1);
	through_progress(c.through, 20);
	ck_assert_int_eq(pgbaton_cli(c.p, NULL, 30, "cancel", NULL), 1);
	ck_assert_int_eq(pgbaton_cli(c.p, NULL, 30, "resume", NULL), 1);
	cluster_resume(clusters[TARGET]);
	int code = pgbaton_cli(c.p, NULL, 30, "cancel", NULL);
	ck_assert_msg(code == 0, "%s", pgbaton_log(c.p));
	through_progress(c.through, 5);
	ck_assert_int_eq(through_reconnects(c.through), 0);
	case_gone(&c);
}
END_TEST

/* ---- sessions that are in the way ---- */

/* A transaction that does not end, and one that only reads, is named; the others have only waited, or
 * not even that, and it goes on. */
START_TEST(a_transaction_that_does_not_end)
{
	Case c;
	char *out, expected[32];

	case_open(&c, _i == 0 ? "endless" : "endless_held");
	c.holds_at_once = _i == 1;
	case_follow(&c);
	PGconn *slow = db_connect_uri(c.app);
	db_exec(slow, "BEGIN; SELECT 1");
	snprintf(expected, sizeof(expected), "pid %d", (int)PQbackendPID(slow));
	int code = pgbaton_cli(c.p, &out, 60, "cutover", "--json", "--hold-timeout", "0.2", NULL);
	ck_assert_int_eq(code, 1);
	json_t *report = json_loads(out, JSON_DISABLE_EOF_CHECK, NULL);
	json_t *error = json_object_get(report, "error");
	const char *message = json_string_value(json_object_get(error, "message"));
	ck_assert_msg(strstr(message, expected) != NULL &&
	                  strstr(message, _i == 0 ? "nobody was held" : "app@endless_held") != NULL,
	              "%s", message);
	ck_assert_int_eq(number(report, "attempts"), _i == 0 ? 0 : 3);
	json_decref(report);
	free(out);
	through_progress(c.through, 5);
	db_exec(slow, "UPDATE other SET v = 'b' WHERE id = 1");
	ck_assert(db_true(slow, "SELECT v = 'b' FROM other"));
	db_exec(slow, "COMMIT");
	json_decref(case_ask(&c, "cutover", NULL));
	ck_assert_int_eq(side_of(slow), TARGET);
	ck_assert(db_true(slow, "SELECT v = 'b' FROM other"));
	ck_assert_int_eq(through_reconnects(c.through), 0);
	PQfinish(slow);
	case_close(&c, TARGET);
}
END_TEST

/* Given up while it waits for that transaction, ahead of the hold or in it: nobody is held any longer. */
START_TEST(given_up_in_the_hold)
{
	Case c;

	case_open(&c, _i == 0 ? "given_up" : "given_up_held");
	c.holds_at_once = _i == 1;
	case_follow(&c);
	PGconn *slow = db_connect_uri(c.app);
	db_exec(slow, "BEGIN; UPDATE other SET v = 'b' WHERE id = 1");
	Process *cutover = pgbaton_cli_start(c.p, "cutover", "--hold-timeout", "300", NULL);
	pgbaton_wait_log(c.p, _i == 0 ? "nobody is held yet" : "cutover   hold", 30);
	process_kill(cutover, SIGINT);
	ck_assert_int_eq(process_wait(cutover, 60), 1);
	ck_assert_msg(strstr(process_stderr(cutover), "given up at step") != NULL, "%s",
	              process_stderr(cutover));
	process_free(cutover);
	through_progress(c.through, 5);
	db_exec(slow, "COMMIT");
	json_decref(case_ask(&c, "cutover", NULL));
	ck_assert_int_eq(side_of(slow), TARGET);
	ck_assert_int_eq(through_reconnects(c.through), 0);
	PQfinish(slow);
	case_close(&c, TARGET);
}
END_TEST

/* A connection there that was ready and has ended since (an idle_session_timeout, an administrator, a
 * network), while all else waits for its switch: nobody is told, the next attempt opens it again. */
START_TEST(a_ready_connection_is_lost)
{
	Case c;

	case_open(&c, "ready_lost");
	case_run(&c, "cutover_opened:1:stop");
	pgbaton_wait_state(c.p, "following", 60);
	c.through = through_start(c.app, CLIENTS);
	through_progress(c.through, 10);
	PGconn *idle = db_connect_uri(c.app);
	db_exec(idle, "SET application_name = 'idle one'");

	Process *cutover = pgbaton_cli_start(c.p, "cutover", "--json", "--hold-timeout", "20", NULL);
	pgbaton_wait_stopped(c.p, 30);
	ck_assert_int_eq(db_int(c.conn[TARGET],
	                        "SELECT count(pg_terminate_backend(pid, 10000)) FROM (SELECT pid FROM"
	                        " pg_stat_activity WHERE usename = 'app' OFFSET 0) app"),
	                 CLIENTS + 1);
	kill(pgbaton_pid(c.p), SIGCONT);
	ck_assert_int_eq(process_wait(cutover, 60), 0);
	json_t *report = json_loads(process_stdout(cutover), 0, NULL);
	process_free(cutover);
	ck_assert_int_eq(number(report, "sessions_moved"), CLIENTS + 1);
	ck_assert_int_eq(number(report, "attempts"), 2);
	json_decref(report);
	through_progress(c.through, 10);
	ck_assert_int_eq(through_reconnects(c.through), 0);
	ck_assert_int_eq(side_of(idle), TARGET);
	PQfinish(idle);
	case_close(&c, TARGET);
}
END_TEST

/* Who asked for a cutover that was killed, and undone by the next start, is told that, and no word of
 * what that start is just passing through. */
START_TEST(killed_is_told_as_undone)
{
	Case c;

	case_open(&c, "told");
	case_run(&c, "cutover_held");
	pgbaton_wait_state(c.p, "following", 60);
	c.through = through_start(c.app, CLIENTS);
	through_progress(c.through, 10);
	Process *cutover = pgbaton_cli_start(c.p, "cutover", NULL);
	pgbaton_wait_killed(c.p, "cutover_held", 30);
	pgbaton_again(c.p);
	ck_assert_int_eq(process_wait(cutover, 60), 1);
	ck_assert_msg(strstr(process_stderr(cutover), "undone; the source goes on") != NULL, "%s",
	              process_stderr(cutover));
	ck_assert_str_eq(process_stdout(cutover), "");
	process_free(cutover);
	pgbaton_wait_state(c.p, "following", 60);
	through_progress(c.through, 5);
	case_end(&c, SOURCE, "cancel");
}
END_TEST

/* What cannot be moved is listed with its reason, and the policy decides. */
START_TEST(what_cannot_be_moved)
{
	Case c;
	char *out, sqlstate[6];

	case_open(&c, "unmovable");
	case_follow(&c);
	PGconn *stays = db_connect_uri(c.app);
	db_exec(stays, "CREATE TEMPORARY TABLE scratch (a int)");
	/* This one is found to be so only when it is to be opened on the other side. */
	PGconn *mixed = db_connect_uri(c.app);
	db_exec(mixed, "SET work_mem = '5MB'; PREPARE q AS SELECT 1");

	ck_assert_int_eq(pgbaton_cli(c.p, &out, 60, "sessions", "--json", NULL), 0);
	json_t *list = json_loads(out, 0, NULL);
	ck_assert_uint_eq(json_array_size(json_object_get(list, "sessions")), CLIENTS + 2);
	json_decref(list);
	ck_assert_msg(strstr(out, "emporary") != NULL, "%s", out);
	free(out);

	json_t *report = case_ask(&c, "cutover", "--rehearse");
	ck_assert_int_eq(number(report, "sessions_moved"), CLIENTS);
	ck_assert_int_eq(number(report, "sessions_unmovable"), 2);
	char *named = json_dumps(json_object_get(report, "unmovable"), 0);
	ck_assert_msg(strstr(named, "emporary") != NULL && strstr(named, "statement q") != NULL, "%s",
	              named);
	free(named);
	json_decref(report);
	db_exec(mixed, "DEALLOCATE q");

	ck_assert_int_eq(pgbaton_cli(c.p, &out, 60, "cutover", "--unmovable", "abort", NULL), 1);
	ck_assert_msg(strstr(out, "emporary") != NULL, "%s", out);
	free(out);
	ck_assert(db_true(stays, "SELECT count(*) = 0 FROM scratch"));

	/* Waited for: it gives up what kept it while the cutover waits. */
	Process *cutover = begin(&c, "cutover", "--unmovable", "wait");
	for (int i = 0;; i++) {
		char *step = pgbaton_status_text(c.p, "cutover.step");
		bool waits = strcmp(step, "sessions") == 0;
		free(step);
		ck_assert_int_lt(i, 3000);
		if (waits)
			break;
		usleep(10000);
	}
	db_exec(stays, "DROP TABLE scratch");
	ck_assert_msg(process_wait(cutover, 60) == 0, "%s", process_stderr(cutover));
	process_free(cutover);
	ck_assert_int_eq(side_of(stays), TARGET);
	ck_assert(db_true(mixed, "SELECT current_setting('work_mem') = '5MB'"));
	PQfinish(mixed);

	/* Closed, on the way back: it is told, and everybody else moves. */
	db_exec(stays, "CREATE TEMPORARY TABLE scratch (a int)");
	case_wait_way_back(&c);
	ck_assert_int_eq(pgbaton_cli(c.p, &out, 60, "failback", "--json", "--unmovable", "close", NULL),
	                 0);
	report = json_loads(out, 0, NULL);
	ck_assert_int_eq(number(report, "sessions_moved"), CLIENTS);
	ck_assert_int_eq(number(report, "sessions_closed"), 1);
	json_decref(report);
	free(out);
	ck_assert(!db_try(stays, sqlstate, "SELECT 1"));
	ck_assert_msg(strstr(PQerrorMessage(stays), "another server") != NULL, "%s",
	              PQerrorMessage(stays));
	ck_assert_int_eq(through_reconnects(c.through), 0);
	PQfinish(stays);
	case_close(&c, SOURCE);
}
END_TEST

/* ---- writers past the listener ---- */

typedef struct {
	PGconn *conn;
	const char *sql;
} Write;

static void *
write_main(void *arg)
{
	Write *write = arg;

	return PQexec(write->conn, write->sql);
}

/* Backends of the source that wait for a lock. */
static void
wait_for_waiters(Case *c, int count)
{
	char sql[160];

	snprintf(sql, sizeof(sql),
	         "SELECT count(*) >= %d FROM pg_stat_activity WHERE datname = current_database() AND"
	         " wait_event_type = 'Lock'",
	         count);
	db_wait_until(c->conn[SOURCE], sql, 30);
}

/* One that is under way is waited for, one that comes later waits: and goes on when the cutover
 * is undone, or is told where to go when it is not. */
START_TEST(writers_past_the_listener)
{
	Case c;
	char text[300];

	case_open(&c, "past");
	c.holds_at_once = true;
	case_follow(&c);
	for (int undone = 1; undone >= 0; undone--) {
		Write write = {.conn = db_connect_uri(c.direct),
		               .sql = "UPDATE other SET v = v || '+' WHERE id = 1"};
		pthread_t writer;
		PGconn *under_way = db_connect_uri(c.direct);
		db_exec(under_way, "BEGIN; INSERT INTO other VALUES (%d, 'under way')", 10 + undone);
		Process *cutover = begin(&c, "cutover", "--hold-timeout", undone ? "1" : "30");
		wait_for_waiters(&c, 1); /* the fence, for the one under way */
		ck_assert_int_eq(pthread_create(&writer, NULL, write_main, &write), 0);
		wait_for_waiters(&c, 2); /* and the later one, for the fence */
		char *out;
		ck_assert_int_eq(pgbaton_cli(c.p, &out, 60, "pause", NULL), 1);
		ck_assert_msg(strstr(out, "a cutover is running") != NULL, "%s", out);
		free(out);
		if (!undone)
			db_exec(under_way, "COMMIT");
		PGresult *result;
		pthread_join(writer, (void **)&result);
		if (undone) {
			ck_assert_msg(PQresultStatus(result) == PGRES_COMMAND_OK, "%s",
			              PQresultErrorMessage(result));
			/* Three attempts, and the one in the way is named. */
			ck_assert_int_eq(process_wait(cutover, 60), 1);
			snprintf(text, sizeof(text), "pid %d", PQbackendPID(under_way));
			ck_assert_ptr_nonnull(strstr(process_stderr(cutover), text));
			db_exec(under_way, "COMMIT");
		} else {
			ck_assert_msg(process_wait(cutover, 60) == 0, "%s", process_stderr(cutover));
			ck_assert_str_eq(PQresultErrorField(result, PG_DIAG_SQLSTATE), "25006");
			snprintf(text, sizeof(text), "port %d", cluster_port(clusters[TARGET]));
			ck_assert_ptr_nonnull(strstr(PQresultErrorField(result, PG_DIAG_MESSAGE_HINT), text));
		}
		PQclear(result);
		process_free(cutover);
		PQfinish(write.conn);
		PQfinish(under_way);
	}
	/* What was under way is on the other side, and what was refused is not. */
	char *rows = db_rows(c.conn[TARGET], "SELECT id, v FROM other ORDER BY id");
	ck_assert_str_eq(rows, "1|a+\n10|under way\n11|under way");
	free(rows);
	ck_assert_int_eq(through_reconnects(c.through), 0);
	case_close(&c, TARGET);
}
END_TEST

/* ---- a thread that hangs ---- */

/* The hold ends at its deadline, whatever the cutover's own thread waits for (K1). */
START_TEST(the_hold_ends_without_its_thread)
{
	static const char *const hangs[HANGS] = {"cutover_marked:1:hang", "cutover_prepared:1:hang"};
	Case c;

	case_open(&c, _i == 0 ? "hangs" : "hangs_prepared");
	case_arg(&c, "--hold-timeout", "1");
	case_run(&c, hangs[_i]);
	pgbaton_wait_state(c.p, "following", 60);
	c.through = through_start(c.app, CLIENTS);
	through_progress(c.through, 10);
	Process *cutover = begin(&c, "cutover", NULL, NULL);
	/* Held, then released with nobody's help. What the status says of the hold is gone by then. */
	for (int i = 0; strstr(pgbaton_log(c.p), "the hold's deadline has passed") == NULL; i++) {
		ck_assert_msg(i < 6000 && !process_ended(cutover), "%s", pgbaton_log(c.p));
		usleep(10000);
	}
	through_progress(c.through, 20);
	ck_assert_int_eq(through_reconnects(c.through), 0);
	ck_assert(writable(&c, SOURCE));
	pgbaton_stop(c.p, SIGKILL);
	process_free(cutover);
	case_run(&c, NULL);
	pgbaton_wait_state(c.p, "following", 60);
	through_progress(c.through, 5);
	json_decref(case_ask(&c, "cutover", NULL));
	through_progress(c.through, 5);
	case_close(&c, TARGET);
}
END_TEST

/* ---- killed at each step, with clients ---- */

typedef struct {
	const char *point;
	bool switched; /* the journal is committed */
} KillPoint;

static const KillPoint kill_points[] = {
	{"cutover_journal_begun", false},   {"cutover_held", false},
	{"cutover_locked", false},          {"cutover_marked", false},
	{"cutover_drained", false},         {"cutover_sequences", false},
	{"cutover_opened", false},          {"cutover_fence_enabled", false},
	{"cutover_fence_committed", false}, {"cutover_switched", true},
};

/* One way: killed at each point, and gone on from there. `at` is left for the other side. */
static void
kill_on_the_way(Case *c, int at)
{
	int other = at == SOURCE ? TARGET : SOURCE;
	const char *before = at == SOURCE ? "following" : "switched";
	const char *after = at == SOURCE ? "switched" : "failed_back";

	for (size_t i = 0; i < sizeof(kill_points) / sizeof(*kill_points); i++) {
		const KillPoint *kill = &kill_points[i];
		case_run(c, kill->point);
		pgbaton_wait_state(c->p, before, 60);
		if (at == TARGET)
			case_wait_way_back(c);
		through_progress(c->through, 3);
		Process *asked = begin(c, at == SOURCE ? "cutover" : "failback", NULL, NULL);
		int ended = pgbaton_wait_exit(c->p, 60);
		process_free(asked);
		ck_assert_msg(ended == 128 + SIGKILL, "%s was not passed: exit %d\n%s", kill->point, ended,
		              pgbaton_log(c->p));
		/* Never both. (Nothing stands in front of a target that nobody was sent to yet.) */
		if (kill->switched)
			ck_assert_msg(!writable(c, at), "after %s", kill->point);
		else if (at == TARGET)
			ck_assert_msg(!writable(c, other), "after %s", kill->point);
	}
	case_run(c, NULL);
	pgbaton_wait_state(c->p, after, 60);
	PGconn *conn = db_connect_uri(c->app);
	ck_assert_int_eq(side_of(conn), other);
	PQfinish(conn);
	ck_assert(writable(c, other));
	ck_assert(!writable(c, at));
	through_progress(c->through, 3);
}

START_TEST(killed_there_and_back)
{
	Case c;

	case_open(&c, "killed");
	c.through = through_start(c.app, CLIENTS);
	kill_on_the_way(&c, SOURCE);
	kill_on_the_way(&c, TARGET);
	case_close(&c, SOURCE);
}
END_TEST

/* Between the journal's commit and its sessions' move nobody was told anything yet. */
START_TEST(killed_as_they_move)
{
	Case c;

	case_open(&c, "moved");
	case_run(&c, "cutover_moved");
	pgbaton_wait_state(c.p, "following", 60);
	c.through = through_start(c.app, CLIENTS);
	through_progress(c.through, 5);
	Process *asked = begin(&c, "cutover", NULL, NULL);
	ck_assert_int_eq(pgbaton_wait_exit(c.p, 60), 128 + SIGKILL);
	process_free(asked);
	case_run(&c, NULL);
	pgbaton_wait_state(c.p, "switched", 60);
	through_progress(c.through, 5);
	/* What a start after the switch says of itself. */
	case_wait_way_back(&c);
	ck_assert_int_eq(pgbaton_status_int(c.p, "tables.copied"), 2);
	ck_assert_int_eq(pgbaton_status_int(c.p, "tables.queued"), 0);
	char *out;
	ck_assert_int_eq(pgbaton_cli(c.p, &out, 60, "cutover", NULL), 1);
	ck_assert_msg(strstr(out, "it has switched: `pgbaton failback`") != NULL, "%s", out);
	free(out);
	case_close(&c, TARGET);
}
END_TEST

static Suite *
cutover_listener_suite(void)
{
	Suite *suite = suite_create("cutover_listener");
	TCase *tc = tcase_create("cutover_listener");

	tcase_set_timeout(tc, 180);
	tcase_add_unchecked_fixture(tc, start_clusters, stop_clusters);
	tcase_add_test(tc, clients_stay);
	tcase_add_test(tc, short_visits_are_no_bypassing);
	tcase_add_test(tc, two_phase_commit);
	tcase_add_test(tc, cancelled_serves_on);
	tcase_add_loop_test(tc, a_transaction_that_does_not_end, 0, 2);
	tcase_add_loop_test(tc, given_up_in_the_hold, 0, 2);
	tcase_add_test(tc, a_ready_connection_is_lost);
	tcase_add_test(tc, killed_is_told_as_undone);
	tcase_add_test(tc, what_cannot_be_moved);
	tcase_add_test(tc, writers_past_the_listener);
	tcase_add_loop_test(tc, the_hold_ends_without_its_thread, 0, HANGS);
	tcase_add_test(tc, killed_there_and_back);
	tcase_add_test(tc, killed_as_they_move);
	suite_add_tcase(suite, tc);
	TCase *commands = tcase_create("commands");
	tcase_add_unchecked_fixture(commands, start_clusters, stop_clusters);
	tcase_set_timeout(commands, 120);
	tcase_add_test(commands, commands_meanwhile);
	tcase_add_test(commands, cancelled_meanwhile);
	tcase_add_test(commands, cancelled_without_the_target);
	suite_add_tcase(suite, commands);
	return suite;
}
TEST_SUITE(cutover_listener_suite)
