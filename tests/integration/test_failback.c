/*
 * The way back (K5): after the switch the old source follows, and failback returns to it.
 * A writer goes with the active side and keeps count of what was acknowledged; at the end
 * both sides hold exactly that. Killed at each step of both switches and in between.
 */
#include <check.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/harness/compare.h"
#include "tests/harness/db.h"
#include "tests/harness/pgbaton.h"
#include "tests/harness/skip.h"
#include "tests/unit/runner.h"

enum { SOURCE, TARGET, SIDES };

static Cluster *clusters[SIDES];

static void
start_majors(int source, int target)
{
	clusters[SOURCE] = cluster_start(&(ClusterOptions){.name = "source", .major = source});
	clusters[TARGET] = cluster_start(&(ClusterOptions){.name = "target", .major = target});
}

static void
start_clusters(void)
{
	start_majors(0, 0);
}

static void
stop_clusters(void)
{
	cluster_free(clusters[SOURCE]);
	cluster_free(clusters[TARGET]);
}

/* ---- the application ---- */

typedef struct {
	char uri[SIDES][160];
	_Atomic int side; /* where it writes; what is refused there is tried again */
	_Atomic bool end;
	_Atomic long acknowledged;
	pthread_t thread;
} Writer;

/* One transaction over three tables: with a key and a sequence, a counter, and without a key. */
static const char write_sql[] =
	"WITH e AS (INSERT INTO entry (k) VALUES (%ld)), l AS (INSERT INTO line VALUES (%ld %% 5))"
	" UPDATE account SET total = total + 1 WHERE id = %ld %% 7";

typedef enum { WROTE, REFUSED, LOST } Written;

static Written
write_once(PGconn *conn, long k)
{
	char sql[300];

	snprintf(sql, sizeof(sql), write_sql, k, k, k);
	PGresult *result = PQexec(conn, sql);
	const char *sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);
	Written written = PQresultStatus(result) == PGRES_COMMAND_OK ? WROTE : LOST;

	if (sqlstate != NULL && strcmp(sqlstate, "25006") == 0)
		written = REFUSED;
	else if (sqlstate != NULL && strncmp(sqlstate, "57P", 3) != 0)
		ck_abort_msg("the application got %s: %s", sqlstate, PQresultErrorMessage(result));
	PQclear(result);
	return written;
}

static bool
has_entry(PGconn *conn, long k, bool *known)
{
	char sql[80];

	snprintf(sql, sizeof(sql), "SELECT 1 FROM entry WHERE k = %ld", k);
	PGresult *result = PQexec(conn, sql);
	bool found = PQntuples(result) > 0;
	*known = PQresultStatus(result) == PGRES_TUPLES_OK;
	PQclear(result);
	return found;
}

/* A lost answer is looked up where it was asked for. */
static bool
settle(PGconn **conn, const char *uri, long k)
{
	for (;;) {
		bool known = false;
		PQfinish(*conn);
		*conn = PQconnectdb(uri);
		bool found = PQstatus(*conn) == CONNECTION_OK && has_entry(*conn, k, &known);
		if (known)
			return found;
		usleep(20000);
	}
}

static void *
writer_main(void *arg)
{
	Writer *w = arg;
	PGconn *conn[SIDES] = {PQconnectdb(w->uri[SOURCE]), PQconnectdb(w->uri[TARGET])};

	for (long k = 1; !w->end;) {
		int side = w->side;
		Written written = write_once(conn[side], k);
		if (written == LOST && settle(&conn[side], w->uri[side], k))
			written = WROTE;
		if (written == WROTE) {
			w->acknowledged = k++;
			usleep(1000);
		} else {
			usleep(5000);
		}
	}
	for (int i = 0; i < SIDES; i++)
		PQfinish(conn[i]);
	return NULL;
}

static void
writer_end(Writer *w)
{
	w->end = true;
	pthread_join(w->thread, NULL);
}

static void
writer_progress(Writer *w, long more)
{
	long from = w->acknowledged;

	for (int i = 0; w->acknowledged < from + more; i++) {
		ck_assert_msg(i < 3000, "the application does not come on on the %s",
		              w->side == SOURCE ? "source" : "target");
		usleep(10000);
	}
}

/* ---- a migration with a way back ---- */

typedef struct {
	char name[32];
	PGconn *conn[SIDES];
	Writer writer;
	Pgbaton *p;
	const char *args[16];
	int arg_count;
	char *state_dir;
} Case;

static const char schema[] =
	"CREATE TABLE entry (k bigint PRIMARY KEY, s bigserial UNIQUE);"
	"CREATE TABLE account (id int PRIMARY KEY, total bigint NOT NULL);"
	"CREATE TABLE line (a bigint);"
	"CREATE TABLE always (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text);"
	"CREATE TABLE part (id int, k int, PRIMARY KEY (id, k)) PARTITION BY LIST (k);"
	"CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1);"
	"CREATE TABLE part_2 PARTITION OF part FOR VALUES IN (2);"
	"CREATE TABLE noted (k bigint);"
	"CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql SET search_path = public AS"
	" $$BEGIN INSERT INTO noted VALUES (NEW.k); RETURN NEW; END$$;"
	"CREATE TRIGGER note AFTER INSERT ON entry FOR EACH ROW EXECUTE FUNCTION note();"
	"ALTER TABLE entry ENABLE ALWAYS TRIGGER note;"
	"INSERT INTO account SELECT g, 0 FROM generate_series(0, 6) g;"
	"INSERT INTO always (v) SELECT 'v' || g FROM generate_series(1, 20) g;"
	"INSERT INTO part SELECT g, 1 + g % 2 FROM generate_series(1, 50) g;";

static void
case_open(Case *c, const char *name)
{
	memset(c, 0, sizeof(*c));
	snprintf(c->name, sizeof(c->name), "%s", name);
	for (int i = 0; i < SIDES; i++) {
		db_create(clusters[i], name);
		snprintf(c->writer.uri[i], sizeof(c->writer.uri[i]), "%s", cluster_uri(clusters[i], name));
		c->conn[i] = db_connect_uri(c->writer.uri[i]);
	}
	db_exec(c->conn[SOURCE], "%s", schema);
	c->state_dir = scratch_dir_new(name);
	c->args[c->arg_count++] = "--name";
	c->args[c->arg_count++] = c->name;
	c->args[c->arg_count++] = "--failback";
	ck_assert_int_eq(pthread_create(&c->writer.thread, NULL, writer_main, &c->writer), 0);
}

static void
case_run(Case *c, const char *fault)
{
	char text[96];
	const char *env[] = {text, NULL};

	snprintf(text, sizeof(text), "PGBATON_FAULT=%s", fault != NULL ? fault : "none");
	pgbaton_free(c->p);
	c->p = pgbaton_start(&(PgbatonOptions){.source = c->writer.uri[SOURCE],
	                                       .target = c->writer.uri[TARGET],
	                                       .args = c->args,
	                                       .env = env,
	                                       .state_dir = c->state_dir});
}

static void
case_reconnect(Case *c, int side)
{
	PQfinish(c->conn[side]);
	c->conn[side] = db_connect_uri(c->writer.uri[side]);
}

static void
case_ask(Case *c, const char *command)
{
	char *out;
	int code = pgbaton_cli(c->p, &out, 60, command, NULL);
	ck_assert_msg(code == 0, "%s exited with %d: %s\n%s", command, code, out, pgbaton_log(c->p));
	free(out);
}

static bool
writable(Case *c, int side)
{
	char sqlstate[6];
	bool ok = db_try(c->conn[side], sqlstate, "UPDATE account SET total = total WHERE id = 0");

	if (!ok)
		ck_assert_str_eq(sqlstate, "25006");
	return ok;
}

static void
case_wait_follows(Case *c)
{
	for (int i = 0;; i++) {
		char *state = pgbaton_status_text(c->p, "way_back.state");
		bool follows = strcmp(state, "following") == 0;
		ck_assert_msg(i < 3000 && strcmp(state, "failed") != 0, "the way back is %s\n%s", state,
		              pgbaton_log(c->p));
		free(state);
		if (follows)
			return;
		usleep(10000);
	}
}

static void
case_switch(Case *c)
{
	case_ask(c, "cutover");
	c->writer.side = TARGET;
	ck_assert(!writable(c, SOURCE));
}

static void
case_traceless(Case *c, int side)
{
	PGconn *conn = c->conn[side];

	ck_assert_int_eq(db_int(conn,
	                        "SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE"
	                        " '%s%%'",
	                        c->name),
	                 0);
	ck_assert_int_eq(db_int(conn, "SELECT count(*) FROM pg_publication"), 0);
	ck_assert_int_eq(
		db_int(conn, "SELECT count(*) FROM pg_namespace WHERE nspname LIKE '%s%%'", c->name), 0);
	ck_assert_int_eq(db_int(conn, "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal AND"
	                              " (tgname <> 'note' OR tgenabled <> 'A')"),
	                 0);
	ck_assert_int_eq(db_int(conn, "SELECT count(*) FROM pg_class WHERE relname = 'line' AND"
	                              " relreplident = 'd'"),
	                 1);
	ck_assert_int_eq(db_int(conn, "SELECT count(*) FROM pg_attribute WHERE attidentity = 'a'"), 1);
}

/* Everything acknowledged is on both sides, once; nothing of ours is left on either. */
static void
case_finish(Case *c)
{
	writer_end(&c->writer);
	/* The last acknowledged may still be on its way. */
	int other = c->writer.side == SOURCE ? TARGET : SOURCE;
	char all[120];
	snprintf(all, sizeof(all), "SELECT count(*) = %ld FROM entry", (long)c->writer.acknowledged);
	bool failed_back = pgbaton_reached(c->p, "failed_back");
	if (!failed_back)
		db_wait_until(c->conn[other], all, 60);
	char *out;
	ck_assert_int_eq(pgbaton_cli(c->p, &out, 60, "finish", NULL), 0);
	ck_assert_msg(strstr(out, "replication slot") != NULL && strstr(out, "_back") != NULL,
	              "finish does not say what it removed: %s", out);
	free(out);
	ck_assert_int_eq(pgbaton_wait_exit(c->p, 20), 0);
	for (int i = 0; i < SIDES; i++) {
		case_traceless(c, i);
		if (failed_back && i == TARGET)
			continue; /* it is left behind where it was */
		ck_assert(db_true(c->conn[i], "%s", all));
		ck_assert_int_eq(db_int(c->conn[i], "SELECT sum(total) FROM account"),
		                 c->writer.acknowledged);
		ck_assert_int_eq(db_int(c->conn[i], "SELECT count(*) FROM line"), c->writer.acknowledged);
		ck_assert_int_eq(db_int(c->conn[i], "SELECT count(*) FROM noted"), c->writer.acknowledged);
	}
	if (!failed_back)
		compare_databases(c->conn[SOURCE], c->conn[TARGET], NULL);
}

static void
case_close(Case *c)
{
	pgbaton_free(c->p);
	PQfinish(c->conn[SOURCE]);
	PQfinish(c->conn[TARGET]);
	scratch_dir_free(c->state_dir);
}

/* ---- when all is well ---- */

START_TEST(old_source_follows)
{
	Case c;

	case_open(&c, "follows");
	case_run(&c, NULL);
	pgbaton_wait_state(c.p, "following", 60);
	writer_progress(&c.writer, 50);
	/* Off costs nothing, and on keeps no slot before it is needed. */
	ck_assert_int_eq(
		db_int(c.conn[TARGET],
	           "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"),
		0);
	case_switch(&c);
	case_wait_follows(&c);
	/* The slot of the way forth would keep the WAL of what flows back. */
	ck_assert_int_eq(
		db_int(c.conn[SOURCE],
	           "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"),
		0);
	writer_progress(&c.writer, 200);
	db_exec(
		c.conn[TARGET],
		"INSERT INTO always (v) VALUES ('new'); UPDATE always SET v = v || '+' WHERE id %% 3 = 0;"
		"DELETE FROM always WHERE id = 5; UPDATE part SET k = 3 - k WHERE id %% 4 = 0;"
		"UPDATE line SET a = a + 100 WHERE a = 3");
	db_wait_until(c.conn[SOURCE], "SELECT count(*) = 1 FROM always WHERE v = 'new+'", 30);
	ck_assert(!writable(&c, SOURCE));
	case_finish(&c);
	case_close(&c);
}
END_TEST

START_TEST(there_and_back)
{
	Case c;

	case_open(&c, "and_back");
	case_run(&c, NULL);
	pgbaton_wait_state(c.p, "following", 60);
	case_switch(&c);
	case_wait_follows(&c);
	writer_progress(&c.writer, 100);
	char *out;
	int code = pgbaton_cli(c.p, &out, 60, "failback", "--json", NULL);
	ck_assert_msg(code == 0, "%s\n%s", out, pgbaton_log(c.p));
	json_t *json = json_loads(out, 0, NULL);
	ck_assert(json_is_true(json_object_get(json, "failback")));
	ck_assert_str_eq(json_string_value(json_object_get(json, "outcome")), "switched");
	printf("failback: hold_ms %.1f\n", json_number_value(json_object_get(json, "hold_ms")));
	json_decref(json);
	free(out);
	ck_assert(!writable(&c, TARGET));
	ck_assert(writable(&c, SOURCE));
	c.writer.side = SOURCE;
	writer_progress(&c.writer, 50); /* its sequence has gone on where the target's was */
	case_finish(&c);
	case_close(&c);
}
END_TEST

/* What was wrong with the new side is seen at once: the failback waits until the old source follows, 1:
 * after a start, too. */
START_TEST(asked_for_at_once)
{
	Case c;

	case_open(&c, _i == 0 ? "at_once" : "at_start");
	case_run(&c, NULL);
	pgbaton_wait_state(c.p, "following", 60);
	case_switch(&c);
	if (_i == 1) {
		writer_progress(&c.writer, 20);
		pgbaton_stop(c.p, SIGKILL);
		case_run(&c, NULL);
		pgbaton_wait_state(c.p, "switched", 60);
	}
	case_ask(&c, "failback");
	ck_assert(!writable(&c, TARGET));
	ck_assert(writable(&c, SOURCE));
	c.writer.side = SOURCE;
	writer_progress(&c.writer, 20);
	case_finish(&c);
	case_close(&c);
}
END_TEST

/* A failback that comes while the process is stopping, and would wait for a way back that does not come
 * any more, does not keep it. */
START_TEST(asked_for_while_it_stops)
{
	Case c;

	case_open(&c, "stopping");
	case_run(&c, NULL);
	pgbaton_wait_state(c.p, "following", 60);
	case_switch(&c);
	writer_progress(&c.writer, 20);
	ck_assert_int_eq(pgbaton_stop(c.p, SIGTERM), 0);
	cluster_freeze(clusters[SOURCE]);
	case_run(&c, NULL);
	pgbaton_wait_state(c.p, "switched", 60);
	kill(pgbaton_pid(c.p), SIGTERM);
	Process *failback = pgbaton_cli_start(c.p, "failback", NULL);
	ck_assert_int_eq(pgbaton_wait_exit(c.p, 30), 0);
	cluster_thaw(clusters[SOURCE]);
	process_free(failback);
	case_run(&c, NULL);
	pgbaton_wait_state(c.p, "switched", 60);
	case_finish(&c);
	case_close(&c);
}
END_TEST

START_TEST(refused_without_a_way_back)
{
	Case c;
	char *out;

	case_open(&c, "one_way");
	c.args[--c.arg_count] = NULL;
	case_run(&c, NULL);
	pgbaton_wait_state(c.p, "following", 60);
	ck_assert_int_eq(pgbaton_cli(c.p, &out, 20, "failback", NULL), 1);
	free(out);
	case_ask(&c, "cutover");
	ck_assert_int_eq(pgbaton_cli(c.p, &out, 20, "failback", NULL), 1);
	ck_assert_msg(strstr(out, "--failback") != NULL, "%s", out);
	free(out);
	ck_assert_int_eq(db_int(c.conn[TARGET], "SELECT count(*) FROM pg_publication"), 0);
	writer_end(&c.writer);
	case_ask(&c, "finish");
	case_close(&c);
}
END_TEST

/* An undone cutover and a rehearsal leave no slot: it would keep the target's WAL. */
START_TEST(undone_keeps_no_slot)
{
	Case c;

	case_open(&c, "undone");
	case_run(&c, NULL);
	pgbaton_wait_state(c.p, "following", 60);
	PGconn *blocker = db_connect_uri(c.writer.uri[SOURCE]);
	db_exec(blocker, "BEGIN; UPDATE part SET id = id WHERE id = 1");
	ck_assert_int_eq(pgbaton_cli(c.p, NULL, 60, "cutover", "--hold-timeout", "0.2", NULL), 1);
	ck_assert_int_eq(
		db_int(c.conn[TARGET],
	           "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"),
		0);
	db_exec(blocker, "COMMIT");
	PQfinish(blocker);
	ck_assert_int_eq(pgbaton_cli(c.p, NULL, 60, "cutover", "--rehearse", NULL), 0);
	ck_assert_int_eq(
		db_int(c.conn[TARGET],
	           "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"),
		0);
	writer_progress(&c.writer, 20);
	/* And a failback that is blocked leaves the target as it was. */
	case_switch(&c);
	case_wait_follows(&c);
	blocker = db_connect_uri(c.writer.uri[TARGET]);
	db_exec(blocker, "BEGIN; UPDATE part SET id = id WHERE id = 1");
	ck_assert_int_eq(pgbaton_cli(c.p, NULL, 60, "failback", "--hold-timeout", "0.2", NULL), 1);
	db_exec(blocker, "COMMIT");
	PQfinish(blocker);
	ck_assert(!writable(&c, SOURCE));
	writer_progress(&c.writer, 20);
	case_finish(&c);
	case_close(&c);
}
END_TEST

/* ---- killed at each step ---- */

/* command NULL: it comes to that point by itself. */
static void
case_killed(Case *c, const char *command, const char *point)
{
	char admin[32];
	Process *asked = NULL;

	if (command != NULL) {
		snprintf(admin, sizeof(admin), "127.0.0.1:%d", pgbaton_admin_port(c->p));
		const char *argv[] = {pgbaton_binary(), command, "--admin", admin, NULL};
		asked = process_start(argv, NULL);
	}
	pgbaton_wait_killed(c->p, point, 60);
	/* It would look for the process a while longer. */
	process_free(asked);
}

START_TEST(killed_there_and_back)
{
	static const char *const there[] = {
		"way_back_armed",        "cutover_journal_begun",   "cutover_locked",
		"cutover_fence_enabled", "cutover_fence_committed", "cutover_switched",
	};
	static const char *const back[] = {
		"way_back_started",        "apply_execute",    "apply_committed",   "cutover_journal_begun",
		"cutover_locked",          "cutover_drained",  "cutover_sequences", "cutover_fence_enabled",
		"cutover_fence_committed", "cutover_switched",
	};
	Case c;

	case_open(&c, "killed");
	case_run(&c, "way_back_prepared");
	case_killed(&c, NULL, "way_back_prepared");
	for (size_t i = 0; i < sizeof(there) / sizeof(*there); i++) {
		case_run(&c, there[i]);
		pgbaton_wait_state(c.p, "following", 60);
		writer_progress(&c.writer, 10);
		case_killed(&c, "cutover", there[i]);
	}
	ck_assert(!writable(&c, SOURCE));
	c.writer.side = TARGET;
	for (size_t i = 0; i < sizeof(back) / sizeof(*back); i++) {
		bool failback = strncmp(back[i], "cutover", 7) == 0;
		case_run(&c, back[i]);
		if (failback) {
			pgbaton_wait_state(c.p, "switched", 60);
			case_wait_follows(&c);
			writer_progress(&c.writer, 10);
		}
		case_killed(&c, failback ? "failback" : NULL, back[i]);
		/* Never both: the target's refusal comes before the old source takes writes. */
		bool source = writable(&c, SOURCE);
		bool target = writable(&c, TARGET);
		ck_assert_msg(!(source && target), "both sides are writable after %s", back[i]);
		ck_assert_msg(source == (strcmp(back[i], "cutover_switched") == 0), "%s", back[i]);
	}
	c.writer.side = SOURCE;
	case_run(&c, NULL);
	pgbaton_wait_state(c.p, "failed_back", 60);
	ck_assert(!writable(&c, TARGET));
	writer_progress(&c.writer, 20);
	/* A cancel beside nobody knows which side is live, too. */
	char *out;
	pgbaton_stop(c.p, SIGTERM);
	const char *cancel[] = {"cancel",
	                        "--name",
	                        c.args[1],
	                        "--source",
	                        c.writer.uri[SOURCE],
	                        "--target",
	                        c.writer.uri[TARGET],
	                        NULL};
	ck_assert_int_eq(pgbaton_run(cancel, NULL, 60, &out), 1);
	ck_assert_msg(strstr(out, "gone back: the source is live") != NULL, "%s", out);
	free(out);
	case_run(&c, NULL);
	pgbaton_wait_state(c.p, "failed_back", 60);
	case_finish(&c);
	case_close(&c);
}
END_TEST

/* ---- servers that go away ---- */

/* The target's application goes on; the log keeps what the old source has to catch up on. */
START_TEST(servers_restart)
{
	Case c;

	case_open(&c, "restarts");
	case_run(&c, NULL);
	pgbaton_wait_state(c.p, "following", 60);
	case_switch(&c);
	case_wait_follows(&c);
	writer_progress(&c.writer, 20);
	cluster_stop(clusters[SOURCE], CLUSTER_IMMEDIATE);
	writer_progress(&c.writer, 200);
	char *out;
	ck_assert_int_eq(pgbaton_cli(c.p, &out, 60, "failback", NULL), 1);
	free(out);
	writer_progress(&c.writer, 20);
	/* A start finds the target live without asking the old source. */
	pgbaton_stop(c.p, SIGTERM);
	case_run(&c, NULL);
	pgbaton_wait_state(c.p, "switched", 60);
	writer_progress(&c.writer, 20);
	cluster_resume(clusters[SOURCE]);
	case_reconnect(&c, SOURCE);
	case_wait_follows(&c);

	cluster_restart(clusters[TARGET], CLUSTER_IMMEDIATE);
	case_reconnect(&c, TARGET);
	writer_progress(&c.writer, 50);
	case_wait_follows(&c);
	ck_assert(!writable(&c, SOURCE));
	case_ask(&c, "failback");
	c.writer.side = SOURCE;
	ck_assert(!writable(&c, TARGET));
	writer_progress(&c.writer, 20);
	case_finish(&c);
	case_close(&c);
}
END_TEST

/* ---- a source that is gone for good ---- */

/* What is on the target, the server that is live, is removed all the same. */
START_TEST(finish_without_the_source)
{
	Case c;
	char *out;

	case_open(&c, "gone");
	case_run(&c, NULL);
	pgbaton_wait_state(c.p, "following", 60);
	case_switch(&c);
	case_wait_follows(&c);
	writer_progress(&c.writer, 20);
	writer_end(&c.writer);
	cluster_stop(clusters[SOURCE], CLUSTER_IMMEDIATE);
	ck_assert_int_eq(pgbaton_cli(c.p, &out, 60, "finish", NULL), 1);
	ck_assert_msg(strstr(out, "left on the source") != NULL, "%s", out);
	free(out);
	ck_assert_int_eq(db_int(c.conn[TARGET], "SELECT count(*) FROM pg_replication_slots"), 0);
	ck_assert_int_eq(db_int(c.conn[TARGET], "SELECT count(*) FROM pg_publication"), 0);
	/* It has come back after all. */
	cluster_resume(clusters[SOURCE]);
	case_reconnect(&c, SOURCE);
	case_ask(&c, "finish");
	ck_assert_int_eq(pgbaton_wait_exit(c.p, 20), 0);
	case_traceless(&c, SOURCE);
	case_traceless(&c, TARGET);
	case_close(&c);
}
END_TEST

/* Started elsewhere after the switch: the way back needs its log, and says what leads to it. */
START_TEST(another_state_directory)
{
	Case c;
	char *elsewhere = scratch_dir_new("elsewhere"), *own;

	case_open(&c, "moved_dir");
	case_run(&c, NULL);
	pgbaton_wait_state(c.p, "following", 60);
	case_switch(&c);
	case_wait_follows(&c);
	writer_progress(&c.writer, 20);
	ck_assert_int_eq(pgbaton_stop(c.p, SIGTERM), 0);
	own = c.state_dir;
	c.state_dir = elsewhere;
	case_run(&c, NULL);
	pgbaton_wait_state(c.p, "switched", 60);
	for (int i = 0;; i++) {
		char *state = pgbaton_status_text(c.p, "way_back.state");
		bool failed = strcmp(state, "failed") == 0;
		ck_assert_msg(i < 3000, "way back %s: %s", state, pgbaton_log(c.p));
		free(state);
		if (failed)
			break;
		usleep(10000);
	}
	char *hint = pgbaton_status_text(c.p, "way_back.error.hint");
	ck_assert_msg(strstr(hint, "--state-dir that was used before") != NULL, "%s", hint);
	free(hint);
	ck_assert_int_eq(pgbaton_stop(c.p, SIGTERM), 0);
	c.state_dir = own;
	case_run(&c, NULL);
	pgbaton_wait_state(c.p, "switched", 60);
	case_wait_follows(&c);
	case_ask(&c, "failback");
	c.writer.side = SOURCE;
	writer_progress(&c.writer, 20);
	case_finish(&c);
	case_close(&c);
	scratch_dir_free(elsewhere);
}
END_TEST

/* A table that only the target has would stay there: it is named, and need not go back if that is said. */
START_TEST(a_table_of_the_targets_own)
{
	Case c;
	char *out;

	case_open(&c, "own_table");
	db_exec(c.conn[TARGET], "CREATE TABLE of_the_target (id int)");
	case_run(&c, NULL);
	pgbaton_wait_state(c.p, "following", 60);
	case_switch(&c);
	case_wait_follows(&c);
	ck_assert_int_eq(pgbaton_cli(c.p, &out, 60, "failback", NULL), 1);
	ck_assert_msg(strstr(out, "of_the_target") != NULL &&
	                  strstr(out, "start it again with --exclude-table") != NULL,
	              "%s", out);
	free(out);
	ck_assert_int_eq(pgbaton_stop(c.p, SIGTERM), 0);
	/* Made on both sides since: a start goes on, and it cannot go back either. */
	db_exec(c.conn[TARGET], "CREATE TABLE made_on_both (id int PRIMARY KEY)");
	db_exec(c.conn[SOURCE], "CREATE TABLE made_on_both (id int PRIMARY KEY)");
	case_run(&c, NULL);
	pgbaton_wait_state(c.p, "switched", 60);
	case_wait_follows(&c);
	ck_assert_int_eq(pgbaton_cli(c.p, &out, 60, "failback", NULL), 1);
	ck_assert_msg(strstr(out, "made_on_both") != NULL, "%s", out);
	free(out);
	ck_assert_int_eq(pgbaton_stop(c.p, SIGTERM), 0);
	c.args[c.arg_count++] = "--exclude-table";
	c.args[c.arg_count++] = "public.made_on_both";
	c.args[c.arg_count++] = "--exclude-table";
	c.args[c.arg_count++] = "public.of_the_target";
	c.args[c.arg_count] = NULL;
	case_run(&c, NULL);
	pgbaton_wait_state(c.p, "switched", 60);
	case_wait_follows(&c);
	case_ask(&c, "failback");
	c.writer.side = SOURCE;
	writer_progress(&c.writer, 20);
	db_exec(c.conn[TARGET], "DROP TABLE of_the_target, made_on_both");
	db_exec(c.conn[SOURCE], "DROP TABLE made_on_both");
	case_finish(&c);
	case_close(&c);
}
END_TEST

/* ---- other majors ---- */

/* The oldest source without messages in the stream, and the newest target; 1: it confirms what is
 * applied, which the way back keeps in a ledger on that source. */
START_TEST(other_majors)
{
	Case c;

	TEST_NEEDS_MAJOR(12);
	TEST_NEEDS_MAJOR(18);
	start_majors(12, 18);
	case_open(&c, _i == 0 ? "majors" : "applied");
	if (_i == 1) {
		c.args[c.arg_count++] = "--confirm";
		c.args[c.arg_count++] = "applied";
	}
	/* Types of its own, which have other OIDs on the other side. */
	db_exec(c.conn[TARGET], "CREATE TYPE other AS ENUM (); DROP TYPE other");
	db_exec(c.conn[SOURCE],
	        "CREATE TYPE colour AS ENUM ('red', 'green'); CREATE TYPE pair AS (a colour, b int);"
	        "CREATE TABLE own (id int PRIMARY KEY, c colour[], p pair, ps pair[]);"
	        "INSERT INTO own VALUES (1, '{red,green}')");
	case_run(&c, NULL);
	pgbaton_wait_state(c.p, "following", 60);
	ck_assert_int_ne(db_int(c.conn[SOURCE], "SELECT 'colour'::regtype::oid::int"),
	                 db_int(c.conn[TARGET], "SELECT 'colour'::regtype::oid::int"));
	case_switch(&c);
	case_wait_follows(&c);
	writer_progress(&c.writer, 100);
	db_exec(c.conn[TARGET], "UPDATE own SET c = c || c, p = ROW(c[1], id); INSERT INTO own VALUES"
	                        " (4, '{green}', ROW('red', 4), ARRAY[ROW('red', 5)::pair])");
	db_wait_until(c.conn[SOURCE],
	              "SELECT string_agg(own::text, ' ' ORDER BY id) ="
	              " '(1,\"{red,green,red,green}\",\"(red,1)\",) (4,{green},\"(red,4)\","
	              "\"{\"\"(red,5)\"\"}\")' FROM own",
	              30);
	case_ask(&c, "failback");
	ck_assert(!writable(&c, TARGET));
	c.writer.side = SOURCE;
	writer_progress(&c.writer, 20);
	case_finish(&c);
	case_close(&c);
	stop_clusters();
}
END_TEST

static TCase *
add_case(Suite *suite, const char *name)
{
	TCase *tc = tcase_create(name);

	tcase_set_timeout(tc, 240);
	tcase_add_unchecked_fixture(tc, start_clusters, stop_clusters);
	suite_add_tcase(suite, tc);
	return tc;
}

static Suite *
failback_suite(void)
{
	Suite *suite = suite_create("failback");
	TCase *tc = add_case(suite, "well");

	tcase_add_test(tc, old_source_follows);
	tcase_add_test(tc, there_and_back);
	tcase_add_loop_test(tc, asked_for_at_once, 0, 2);
	tcase_add_test(tc, refused_without_a_way_back);
	tcase_add_test(tc, undone_keeps_no_slot);
	tcase_add_test(add_case(suite, "stopping"), asked_for_while_it_stops);
	tcase_add_test(add_case(suite, "killed"), killed_there_and_back);
	tc = add_case(suite, "restarts");
	tcase_add_test(tc, servers_restart);
	tcase_add_test(tc, finish_without_the_source);
	tcase_add_test(tc, another_state_directory);
	tcase_add_test(tc, a_table_of_the_targets_own);
	tc = tcase_create("majors");
	tcase_set_timeout(tc, 240);
	tcase_add_loop_test(tc, other_majors, 0, 2);
	suite_add_tcase(suite, tc);
	return suite;
}
TEST_SUITE(failback_suite)
