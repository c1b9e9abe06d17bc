/*
 * The harness itself: a test that stands on it must be able to trust it.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/memory.h"
#include "tests/harness/cluster.h"
#include "tests/harness/db.h"
#include "tests/harness/process.h"
#include "tests/harness/skip.h"
#include "tests/harness/watcher.h"
#include "tests/unit/runner.h"

START_TEST(every_major_starts)
{
	TEST_NEEDS_MAJOR(_i);
	Cluster *cluster = cluster_start(&(ClusterOptions){.major = _i});
	PGconn *conn = db_connect(cluster, NULL);

	ck_assert_int_eq(db_int(conn, "SELECT current_setting('server_version_num')::int / 10000"), _i);
	char *level = db_value(conn, "SHOW wal_level");
	ck_assert_str_eq(level, "logical");
	free(level);
	PQfinish(conn);
	cluster_free(cluster);
}
END_TEST

START_TEST(two_servers_are_told_apart)
{
	Cluster *one = cluster_start(&(ClusterOptions){.name = "one"});
	Cluster *two = cluster_start(&(ClusterOptions){.name = "two"});
	PGconn *a = db_connect(one, NULL);
	PGconn *b = db_connect(two, NULL);
	const char *sql = "SELECT system_identifier FROM pg_control_system()";

	ck_assert_int_ne(db_int(a, "%s", sql), db_int(b, "%s", sql));
	PQfinish(a);
	PQfinish(b);
	cluster_free(one);
	cluster_free(two);
}
END_TEST

START_TEST(stop_kill_and_restart_keep_data)
{
	Cluster *cluster = cluster_start(&(ClusterOptions){.durable = true});
	PGconn *conn = db_connect(cluster, NULL);
	db_exec(conn, "CREATE TABLE t (a int); INSERT INTO t VALUES (1)");
	pid_t first = cluster_pid(cluster);
	int port = cluster_port(cluster);

	cluster_restart(cluster, CLUSTER_FAST);
	ck_assert_int_ne(cluster_pid(cluster), first);
	ck_assert_int_eq(cluster_port(cluster), port);
	PQfinish(conn);
	conn = db_connect(cluster, NULL);
	db_exec(conn, "INSERT INTO t VALUES (2)");

	cluster_kill9(cluster);
	ck_assert(!cluster_running(cluster));
	char state[6];
	ck_assert(!db_try(conn, state, "SELECT 1"));
	PQfinish(conn);
	cluster_resume(cluster);
	conn = db_connect(cluster, NULL);
	ck_assert_int_eq(db_int(conn, "SELECT sum(a) FROM t"), 3);
	PQfinish(conn);
	cluster_free(cluster);
}
END_TEST

START_TEST(settings_hba_and_tls)
{
	Cluster *cluster = cluster_start(&(ClusterOptions){
		.conf = "work_mem = '5MB'\n",
		.hba = "hostssl all alice 127.0.0.1/32 scram-sha-256\nhost all alice 127.0.0.1/32 reject\n",
		.tls = true,
	});
	PGconn *conn = db_connect(cluster, NULL);
	char *value = db_value(conn, "SHOW work_mem");
	ck_assert_str_eq(value, "5MB");
	free(value);
	db_exec(conn, "CREATE ROLE alice LOGIN PASSWORD 'secret'");

	char *uri = mem_printf("host=127.0.0.1 port=%d user=alice password=secret dbname=postgres "
	                       "sslmode=verify-full sslrootcert=%s",
	                       cluster_port(cluster), cluster_tls_file(cluster, "root.crt"));
	PGconn *alice = db_connect_uri(uri);
	ck_assert(PQsslInUse(alice));
	PQfinish(alice);
	free(uri);

	cluster_configure(cluster, "work_mem = '6MB'");
	PGconn *later = db_connect(cluster, NULL);
	value = db_value(later, "SHOW work_mem");
	ck_assert_str_eq(value, "6MB");
	free(value);
	PQfinish(later);

	cluster_allow(cluster, "host all alice 127.0.0.1/32 trust");
	char *plain = mem_printf("host=127.0.0.1 port=%d user=alice dbname=postgres sslmode=disable",
	                         cluster_port(cluster));
	alice = db_connect_uri(plain);
	PQfinish(alice);
	free(plain);
	PQfinish(conn);
	cluster_free(cluster);
}
END_TEST

START_TEST(frozen_server_does_not_answer)
{
	Cluster *cluster = cluster_start(NULL);
	PGconn *conn = db_connect(cluster, NULL);

	cluster_freeze(cluster);
	ck_assert(PQsendQuery(conn, "SELECT 1"));
	ck_assert(PQconsumeInput(conn));
	ck_assert(PQisBusy(conn));
	cluster_thaw(cluster);
	PGresult *res = PQgetResult(conn);
	ck_assert_int_eq(PQresultStatus(res), PGRES_TUPLES_OK);
	PQclear(res);
	PQfinish(conn);
	cluster_free(cluster);
}
END_TEST

/* A process that starts a server and a program, says where, and is killed. */
static pid_t
start_victim(FILE **said)
{
	int fds[2];

	ck_assert_int_eq(pipe(fds), 0);
	pid_t pid = fork();
	if (pid == 0) {
		Cluster *cluster = cluster_start(NULL);
		Process *process = process_start((const char *const[]){"sleep", "600", NULL}, NULL);
		dprintf(fds[1], "%s %d %d\n", cluster_data_dir(cluster), (int)cluster_pid(cluster),
		        (int)process_pid(process));
		for (;;)
			pause();
	}
	close(fds[1]);
	*said = fdopen(fds[0], "r");
	return pid;
}

START_TEST(nothing_outlives_a_killed_test)
{
	FILE *said;
	char data[512];
	int server;
	int program;
	struct stat st;

	pid_t victim = start_victim(&said);
	ck_assert_int_eq(fscanf(said, "%511s %d %d", data, &server, &program), 3);
	fclose(said);
	kill(victim, SIGKILL);
	waitpid(victim, NULL, 0);
	ck_assert(process_wait_gone(server, 20000));
	ck_assert(process_wait_gone(program, 20000));
	/* The directory goes last; the wait above cannot see that. */
	for (int i = 0; i < 2000 && stat(data, &st) == 0; i++)
		usleep(10000);
	ck_assert_int_ne(stat(data, &st), 0);
}
END_TEST

START_TEST(output_exit_code_and_environment)
{
	const char *const script[] = {"sh", "-c", "echo out $WORD; echo err >&2; exit 7", NULL};
	const char *const env[] = {"WORD=hello", NULL};
	char *out;

	ck_assert_int_eq(process_run(script, env, 10, &out), 7);
	ck_assert_str_eq(out, "out hello\nerr\n");
	free(out);

	Process *process = process_start(
		(const char *const[]){"sh", "-c", "echo ready; exec sleep 600", NULL}, NULL);
	process_wait_output(process, "ready", 10);
	ck_assert(!process_ended(process));
	process_kill(process, SIGTERM);
	ck_assert_int_eq(process_wait(process, 10), 128 + SIGTERM);
	process_free(process);
	ck_assert_int_eq(process_run((const char *const[]){"/nonexistent", NULL}, NULL, 10, NULL), 127);
}
END_TEST

static Suite *
make_cluster(void)
{
	Suite *suite = suite_create("harness");
	TCase *servers = tcase_create("servers");
	TCase *programs = tcase_create("programs");

	tcase_set_timeout(servers, 120);
	tcase_add_loop_test(servers, every_major_starts, CLUSTER_OLDEST, CLUSTER_NEWEST + 1);
	tcase_add_test(servers, two_servers_are_told_apart);
	tcase_add_test(servers, stop_kill_and_restart_keep_data);
	tcase_add_test(servers, settings_hba_and_tls);
	tcase_add_test(servers, frozen_server_does_not_answer);
	tcase_add_test(servers, nothing_outlives_a_killed_test);
	suite_add_tcase(suite, servers);
	tcase_add_test(programs, output_exit_code_and_environment);
	suite_add_tcase(suite, programs);
	return suite;
}
TEST_SUITE(make_cluster)
