/*
 * What happens around a migration in its life: servers restart, connections are
 * killed, the target stands still, the process is stopped for a while; and pgbench
 * at a steady rate through all phases.
 */
#include <check.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/harness/compare.h"
#include "tests/harness/db.h"
#include "tests/harness/process.h"
#include "tests/integration/move.h"
#include "tests/unit/runner.h"

enum { STALL_S = 10, PGBENCH_S = 20, PGBENCH_RATE = 500 };

/* ALTER SYSTEM would be copied; this is the server's own. */
static const char impatient[] = "wal_sender_timeout = 1s\n";

/* The apply is at work: what the application commits now arrives on the target. */
static void
wait_applied(Move *m)
{
	char sql[200];

	snprintf(sql, sizeof(sql), "SELECT count(*) >= %lld FROM hist.commits",
	         (long long)db_int(m->source, "SELECT count(*) FROM hist.commits"));
	db_wait_until(m->target, sql, 60);
}

static void
open_following(Move *m, const MoveOptions *options)
{
	move_open(m, options);
	move_run(m);
	pgbaton_wait_state(m->p, "following", 60);
	wait_applied(m);
}

/* The source goes down with us connected, cleanly or not, and the target too. */
START_TEST(servers_restart)
{
	static const ClusterStop ways[] = {CLUSTER_FAST, CLUSTER_IMMEDIATE};
	Move m;

	open_following(&m, &(MoveOptions){.durable = true});
	for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
		cluster_restart(m.source_cluster, ways[i]);
		move_reconnect(&m);
		workload_wait_commits(m.writer, 50, 30);
		wait_applied(&m);
		cluster_restart(m.target_cluster, ways[i]);
		move_reconnect(&m);
		workload_wait_commits(m.writer, 50, 30);
		wait_applied(&m);
	}
	pgbaton_wait_state(m.p, "following", 30);
	move_cutover(&m);
	move_check(&m);
	move_close(&m);
}
END_TEST

START_TEST(connections_are_killed)
{
	Move m;

	open_following(&m, &(MoveOptions){0});
	for (int i = 0; i < 3; i++) {
		db_exec(m.source, "SELECT pg_terminate_backend(pid) FROM pg_stat_replication");
		workload_wait_commits(m.writer, 20, 30);
		db_exec(m.target, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
		                  " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()");
		workload_wait_commits(m.writer, 20, 30);
		db_exec(m.source, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
		                  " WHERE application_name LIKE 'pgbaton%%'");
		workload_wait_commits(m.writer, 20, 30);
		wait_applied(&m);
	}
	pgbaton_wait_state(m.p, "following", 30);
	move_cutover(&m);
	move_check(&m);
	move_close(&m);
}
END_TEST

/* The source would end a connection that does not answer for one second; that the
 * target stands still for ten must not keep the receiver from answering. */
START_TEST(target_stalled)
{
	Move m;

	open_following(&m, &(MoveOptions){.source_conf = impatient});
	int64_t walsender = db_int(m.source, "SELECT pid FROM pg_stat_replication");
	PGconn *locker = db_connect_uri(m.target_uri);
	db_exec(locker, "BEGIN; LOCK TABLE hist.commits, shop.customer IN ACCESS EXCLUSIVE MODE");
	char *until = db_value(locker, "SELECT now() + interval '%d s'", STALL_S);
	char *sql = db_value(locker, "SELECT format('SELECT clock_timestamp() > %%L', '%s')", until);
	workload_wait_commits(m.writer, 100, 30);
	db_wait_until(m.source, sql, STALL_S + 10);
	ck_assert_int_eq(db_int(m.source, "SELECT pid FROM pg_stat_replication"), walsender);
	db_exec(locker, "COMMIT");
	wait_applied(&m);
	ck_assert_int_eq(db_int(m.source, "SELECT pid FROM pg_stat_replication"), walsender);
	PQfinish(locker);
	free(sql);
	free(until);
	move_cutover(&m);
	move_check(&m);
	move_close(&m);
}
END_TEST

/* Stopped until the source has given up on it. */
START_TEST(process_is_stopped)
{
	Move m;

	open_following(&m, &(MoveOptions){.source_conf = impatient});
	for (int i = 0; i < 2; i++) {
		kill(pgbaton_pid(m.p), SIGSTOP);
		db_wait_until(m.source, "SELECT NOT EXISTS (SELECT FROM pg_stat_replication)", 30);
		workload_wait_commits(m.writer, 50, 30);
		kill(pgbaton_pid(m.p), SIGCONT);
		wait_applied(&m);
	}
	pgbaton_wait_state(m.p, "following", 30);
	move_cutover(&m);
	move_check(&m);
	move_close(&m);
}
END_TEST

/* ---- pgbench ---- */

static void
run_pgbench_init(Cluster *cluster, char *program)
{
	const char *const argv[] = {program, "-i", "-q", "-s", "5", cluster_uri(cluster, "bench"),
	                            NULL};
	char *out;

	ck_assert_msg(process_run(argv, NULL, 120, &out) == 0, "%s", out);
	free(out);
}

static Process *
start_pgbench(Cluster *cluster, char *program)
{
	char rate[16];
	const char *const argv[] = {
		program, "-n", "-c", "4", "-T", "600", "-R", rate, cluster_uri(cluster, "bench"), NULL};

	snprintf(rate, sizeof(rate), "%d", PGBENCH_RATE);
	return process_start(argv, NULL);
}

static void
wait_history(PGconn *conn, int64_t more)
{
	char sql[100];

	snprintf(sql, sizeof(sql), "SELECT count(*) >= %lld FROM pgbench_history",
	         (long long)(more + db_int(conn, "SELECT count(*) FROM pgbench_history")));
	db_wait_until(conn, sql, 120);
}

START_TEST(pgbench_at_a_rate)
{
	Cluster *source_cluster = cluster_start(&(ClusterOptions){.name = "source"});
	Cluster *target_cluster = cluster_start(&(ClusterOptions){.name = "target"});
	char *program = cluster_program(cluster_default_major(), "pgbench");
	char source_uri[128];
	char *out;

	db_create(source_cluster, "bench");
	db_create(target_cluster, "bench");
	run_pgbench_init(source_cluster, program);
	snprintf(source_uri, sizeof(source_uri), "%s", cluster_uri(source_cluster, "bench"));
	PGconn *source = db_connect_uri(source_uri);
	PGconn *target = db_connect(target_cluster, "bench");
	Process *pgbench = start_pgbench(source_cluster, program);
	wait_history(source, PGBENCH_RATE);
	Pgbaton *p = pgbaton_start(
		&(PgbatonOptions){.source = source_uri, .target = cluster_uri(target_cluster, "bench")});
	pgbaton_wait_state(p, "following", 120);
	wait_history(source, (int64_t)PGBENCH_S * PGBENCH_RATE);
	int code = pgbaton_cli(p, &out, 120, "cutover", "--json", NULL);
	ck_assert_msg(code == 0, "%s\n%s", out, pgbaton_log(p));
	json_t *cutover = json_loads(out, 0, NULL);
	printf("  pgbench at %d/s: hold_ms %.1f\n", PGBENCH_RATE,
	       json_number_value(json_object_get(cutover, "hold_ms")));
	json_decref(cutover);
	free(out);
	/* Refused by the fence, its clients end. */
	process_wait(pgbench, 60);
	process_free(pgbench);
	compare_databases(source, target, NULL);
	ck_assert_int_eq(db_int(target, "SELECT sum(delta) FROM pgbench_history"),
	                 db_int(target, "SELECT sum(abalance) FROM pgbench_accounts"));
	pgbaton_free(p);
	free(program);
	PQfinish(source);
	PQfinish(target);
	cluster_free(source_cluster);
	cluster_free(target_cluster);
}
END_TEST

static Suite *
make(void)
{
	Suite *suite = suite_create("endurance");
	TCase *tcase = tcase_create("endurance");

	tcase_add_test(tcase, servers_restart);
	tcase_add_test(tcase, connections_are_killed);
	tcase_add_test(tcase, target_stalled);
	tcase_add_test(tcase, process_is_stopped);
	tcase_add_test(tcase, pgbench_at_a_rate);
	tcase_set_timeout(tcase, 240);
	suite_add_tcase(suite, tcase);
	return suite;
}
TEST_SUITE(make)
