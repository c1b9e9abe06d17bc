/*
 * A cutover that is undone at the last moment: the fence is committed, the journal is not. The
 * listener's clients are held until the source takes writes again; who writes past the listener
 * waits at the fence for the outcome, and goes on when it is undone. With the target lost, with
 * the source lost, with the answer to the fence's own COMMIT lost, and killed.
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
#include "tests/harness/relay.h"
#include "tests/integration/through.h"
#include "tests/unit/runner.h"

enum { CLIENTS = 3 };

static const char window[] = "cutover_fence_committed:1:stop";
static const char fenced[] =
	"SELECT count(*) > 0 FROM pg_trigger WHERE tgname = 'undo_fence' AND tgenabled <> 'D'";
static const char not_fenced[] =
	"SELECT count(*) = 0 FROM pg_trigger WHERE tgname = 'undo_fence' AND tgenabled <> 'D'";

typedef struct {
	Cluster *source_cluster, *target_cluster;
	Relay *to_source, *to_target;
	char source_uri[200], target_uri[200]; /* through the relays */
	char app[200];                         /* through the listener */
	char direct[200];                      /* past it */
	PGconn *source, *target;
	char *state_dir;
	const char *args[12];
	Pgbaton *p;
	Through *through;
	int rows; /* that writers past the listener have put in */
} Case;

static void
put_uri(char *out, size_t size, const char *role, int port)
{
	snprintf(out, size, "postgresql://%s@127.0.0.1:%d/undo?sslmode=disable&gssencmode=disable",
	         role, port);
}

static Cluster *
start_cluster(const char *name, char **stored)
{
	Cluster *cluster = cluster_start(
		&(ClusterOptions){.name = name, .hba = "host all app 127.0.0.1/32 scram-sha-256\n"});
	PGconn *conn = db_connect(cluster, NULL);

	db_exec(conn, "CREATE ROLE app LOGIN PASSWORD '%s'", *stored != NULL ? *stored : "secret");
	if (*stored == NULL)
		*stored = db_value(conn, "SELECT rolpassword FROM pg_authid WHERE rolname = 'app'");
	PQfinish(conn);
	db_create(cluster, "undo");
	return cluster;
}

static void
case_open(Case *c)
{
	static char listen[32];
	char *stored = NULL;

	memset(c, 0, sizeof(*c));
	c->source_cluster = start_cluster("source", &stored);
	c->target_cluster = start_cluster("target", &stored);
	free(stored);
	c->to_source = relay_start(cluster_port(c->source_cluster), "pgbaton fence");
	c->to_target = relay_start(cluster_port(c->target_cluster), "pgbaton switch");
	put_uri(c->source_uri, sizeof(c->source_uri), "postgres", relay_port(c->to_source));
	put_uri(c->target_uri, sizeof(c->target_uri), "postgres", relay_port(c->to_target));
	put_uri(c->direct, sizeof(c->direct), "app:secret", cluster_port(c->source_cluster));
	int port = free_port();
	put_uri(c->app, sizeof(c->app), "app:secret", port);
	snprintf(listen, sizeof(listen), "127.0.0.1:%d", port);
	c->source = db_connect(c->source_cluster, "undo");
	c->target = db_connect(c->target_cluster, "undo");
	db_exec(c->source,
	        "%s CREATE TABLE other (id int PRIMARY KEY);"
	        "GRANT ALL ON ALL TABLES IN SCHEMA public TO app;"
	        "GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO app",
	        through_schema);
	c->state_dir = scratch_dir_new("undo");
	const char *args[] = {"--name", "undo", "--listen", listen, "--listen-threads", "2", NULL};
	memcpy(c->args, args, sizeof(args));
}

static void
case_start(Case *c, const char *fault)
{
	char text[96];
	const char *env[] = {text, NULL};

	if (c->p != NULL && !pgbaton_ended(c->p))
		pgbaton_stop(c->p, SIGTERM);
	pgbaton_free(c->p);
	snprintf(text, sizeof(text), "PGBATON_FAULT=%s", fault);
	c->p = pgbaton_start(&(PgbatonOptions){.source = c->source_uri,
	                                       .target = c->target_uri,
	                                       .args = c->args,
	                                       .env = env,
	                                       .state_dir = c->state_dir});
}

static void
case_run(Case *c, const char *fault)
{
	case_start(c, fault);
	pgbaton_wait_state(c->p, "following", 60);
	if (c->through == NULL)
		c->through = through_start(c->app, CLIENTS);
	through_progress(c->through, 5);
}

static Process *
begin(Case *c)
{
	return pgbaton_cli_start(c->p, "cutover", NULL);
}

/* ---- writers past the listener ---- */

typedef struct {
	PGconn *conn;
	char sql[80];
	pthread_t thread;
} Writer;

static void *
write_main(void *arg)
{
	Writer *writer = arg;

	return PQexec(writer->conn, writer->sql);
}

/* The second one's snapshot is older than all that the cutover does. */
static void
writers_open(Case *c, Writer writers[2])
{
	for (int i = 0; i < 2; i++) {
		writers[i].conn = db_connect_uri(c->direct);
		snprintf(writers[i].sql, sizeof(writers[i].sql), "INSERT INTO other VALUES (%d)",
		         ++c->rows);
	}
	db_exec(writers[1].conn, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1");
}

/* Returns when both wait at the gate. */
static void
writers_begin(Case *c, Writer writers[2])
{
	for (int i = 0; i < 2; i++)
		ck_assert_int_eq(pthread_create(&writers[i].thread, NULL, write_main, &writers[i]), 0);
	db_wait_until(c->source,
	              "SELECT count(*) = 2 FROM pg_stat_activity WHERE usename = 'app' AND "
	              "wait_event_type = 'Lock' AND wait_event = 'advisory'",
	              30);
}

static void
writers_answer(Case *c, Writer writers[2], bool refused)
{
	for (int i = 0; i < 2; i++) {
		PGresult *r;
		pthread_join(writers[i].thread, (void **)&r);
		if (refused)
			ck_assert_str_eq(PQresultErrorField(r, PG_DIAG_SQLSTATE), "25006");
		else
			ck_assert_msg(PQresultStatus(r) == PGRES_COMMAND_OK, "%s", PQresultErrorMessage(r));
		PQclear(r);
	}
	if (refused)
		c->rows -= 2;
}

static void
writers_commit(Writer writers[2])
{
	db_exec(writers[1].conn, "COMMIT");
	for (int i = 0; i < 2; i++)
		PQfinish(writers[i].conn);
}

static void
writers_end(Case *c, Writer writers[2], bool refused)
{
	writers_answer(c, writers, refused);
	writers_commit(writers);
}

/* ---- the ways in which it can go wrong ---- */

static void
is_undone(Case *c, Process *cutover)
{
	ck_assert_int_eq(process_wait(cutover, 60), 1);
	process_free(cutover);
	ck_assert(db_true(c->source, not_fenced));
	pgbaton_wait_state(c->p, "following", 60);
	through_progress(c->through, 5);
	ck_assert_int_eq(db_int(c->source, "SELECT count(*) FROM other"), c->rows);
}

static void
target_lost(Case *c)
{
	Writer writers[2];

	case_run(c, window);
	int reconnects = through_reconnects(c->through);
	writers_open(c, writers);
	relay_cut(c->to_target, 1, RELAY_BEFORE);
	Process *cutover = begin(c);
	pgbaton_wait_stopped(c->p, 60);
	writers_begin(c, writers);
	kill(pgbaton_pid(c->p), SIGCONT);
	writers_end(c, writers, false);
	is_undone(c, cutover);
	ck_assert_int_eq(through_reconnects(c->through), reconnects);
}

/* Nobody tells the outcome to those who wait, until the next start undoes it. From then on the
 * application is served, too, whoever has tables locked still. */
static void
killed(Case *c)
{
	Writer writers[2];

	case_run(c, window);
	writers_open(c, writers);
	Process *cutover = begin(c);
	pgbaton_wait_stopped(c->p, 60);
	writers_begin(c, writers);
	pgbaton_stop(c->p, SIGKILL);
	process_free(cutover);
	/* They wait on without the session that was to tell them. */
	db_wait_until(c->source,
	              "SELECT count(*) = 2 FROM pg_stat_activity WHERE usename = 'app' AND "
	              "wait_event = 'PgSleep'",
	              30);
	case_start(c, "none");
	writers_answer(c, writers, false);
	through_progress(c->through, 5);
	ck_assert(db_true(c->source, fenced));
	writers_commit(writers);
	pgbaton_wait_state(c->p, "following", 60);
	ck_assert(db_true(c->source, not_fenced));
}

/* It is undone when the source is there again, and nobody is let go before: a client that has
 * come meanwhile waits for it. */
static void
source_lost(Case *c)
{
	case_run(c, window);
	relay_cut(c->to_target, 1, RELAY_BEFORE);
	Process *cutover = begin(c);
	pgbaton_wait_stopped(c->p, 60);
	cluster_stop(c->source_cluster, CLUSTER_IMMEDIATE);
	kill(pgbaton_pid(c->p), SIGCONT);
	for (int i = 0;; i++) {
		char *detail = pgbaton_status_text(c->p, "detail");
		bool undoing = strstr(detail, "undoing the cutover") != NULL;
		free(detail);
		ck_assert_int_lt(i, 6000);
		if (undoing)
			break;
		usleep(10000);
	}
	ck_assert(!process_ended(cutover));
	char *outcome = pgbaton_status_text(c->p, "cutover.outcome");
	ck_assert_str_eq(outcome, "running");
	free(outcome);
	cluster_resume(c->source_cluster);
	PQfinish(c->source);
	c->source = db_connect(c->source_cluster, "undo");
	is_undone(c, cutover);
}

/* The fence is committed or is not: pgbaton has lost the answer. */
static void
answer_lost(Case *c, RelayCut how)
{
	int cuts = relay_cuts(c->to_source), reconnects = through_reconnects(c->through);

	relay_cut(c->to_source, 1, how);
	Process *cutover = begin(c);
	is_undone(c, cutover);
	ck_assert_int_eq(relay_cuts(c->to_source), cuts + 1);
	ck_assert_int_eq(through_reconnects(c->through), reconnects);
}

/* The fence's COMMIT reaches the source when its clients have gone on already. */
static void
comes_late(Case *c)
{
	int reconnects = through_reconnects(c->through);

	relay_cut(c->to_source, 1, RELAY_LATE);
	Process *cutover = begin(c);
	ck_assert_int_eq(process_wait(cutover, 60), 1);
	relay_deliver(c->to_source);
	is_undone(c, cutover);
	ck_assert_int_eq(through_reconnects(c->through), reconnects);
}

static void
switched(Case *c)
{
	Writer writers[2];

	case_run(c, window);
	int reconnects = through_reconnects(c->through);
	writers_open(c, writers);
	Process *cutover = begin(c);
	pgbaton_wait_stopped(c->p, 60);
	writers_begin(c, writers);
	kill(pgbaton_pid(c->p), SIGCONT);
	writers_end(c, writers, true);
	ck_assert_int_eq(process_wait(cutover, 60), 0);
	process_free(cutover);
	through_progress(c->through, 5);
	ck_assert_int_eq(through_reconnects(c->through), reconnects);
	ck_assert_int_eq(db_int(c->target, "SELECT count(*) FROM other"), c->rows);
}

START_TEST(undone_at_the_last_moment)
{
	Case c;

	case_open(&c);
	target_lost(&c);
	killed(&c);
	answer_lost(&c, RELAY_BEFORE);
	answer_lost(&c, RELAY_AFTER);
	comes_late(&c);
	source_lost(&c);
	switched(&c);
	ck_assert_int_eq(pgbaton_cli(c.p, NULL, 60, "finish", NULL), 0);
	through_end(c.through, c.target);
	ck_assert_int_eq(pgbaton_wait_exit(c.p, 30), 0);
	ck_assert(db_true(c.source, "SELECT count(*) = 0 FROM pg_namespace WHERE nspname = 'undo'"));
	pgbaton_free(c.p);
	PQfinish(c.source);
	PQfinish(c.target);
	relay_free(c.to_source);
	relay_free(c.to_target);
	cluster_free(c.source_cluster);
	cluster_free(c.target_cluster);
	scratch_dir_free(c.state_dir);
}
END_TEST

static Suite *
cutover_undo_suite(void)
{
	Suite *suite = suite_create("cutover_undo");
	TCase *tc = tcase_create("cutover_undo");

	tcase_set_timeout(tc, 180);
	tcase_add_test(tc, undone_at_the_last_moment);
	suite_add_tcase(suite, tc);
	return suite;
}
TEST_SUITE(cutover_undo_suite)
