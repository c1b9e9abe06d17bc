/*
 * pgbaton run --listen, as an application meets it: psql and pgbench in its three modes go
 * through the listener while the database behind it is copied, followed and switched.
 */
#include <check.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/memory.h"
#include "tests/harness/compare.h"
#include "tests/harness/db.h"
#include "tests/harness/pgbaton.h"
#include "tests/unit/runner.h"

static Cluster *source_cluster;
static Cluster *target_cluster;
static int port;
static char port_text[16];

static void
start_clusters(void)
{
	static const char hba[] = "host all app 127.0.0.1/32 scram-sha-256\n";

	source_cluster = cluster_start(&(ClusterOptions){.name = "source", .hba = hba});
	target_cluster = cluster_start(&(ClusterOptions){.name = "target", .hba = hba});
	PGconn *source = db_connect(source_cluster, NULL);
	PGconn *target = db_connect(target_cluster, NULL);
	db_exec(source, "CREATE ROLE app LOGIN PASSWORD 'secret'");
	char *stored = db_value(source, "SELECT rolpassword FROM pg_authid WHERE rolname = 'app'");
	/* As pg_dumpall does it: the verifier byte for byte. */
	db_exec(target, "CREATE ROLE app LOGIN PASSWORD '%s'", stored);
	free(stored);
	PQfinish(source);
	PQfinish(target);
}

static void
stop_clusters(void)
{
	cluster_free(source_cluster);
	cluster_free(target_cluster);
}

static Pgbaton *
start_with_listener(const char *db)
{
	char source_uri[160], target_uri[160], where[64];

	snprintf(source_uri, sizeof(source_uri), "%s", cluster_uri(source_cluster, db));
	snprintf(target_uri, sizeof(target_uri), "%s", cluster_uri(target_cluster, db));
	port = free_port();
	snprintf(port_text, sizeof(port_text), "%d", port);
	snprintf(where, sizeof(where), "127.0.0.1:%d", port);
	const char *args[] = {"--name", db, "--listen", where, "--listen-threads", "2", NULL};
	return pgbaton_start(
		&(PgbatonOptions){.source = source_uri, .target = target_uri, .args = args});
}

static PGconn *
through_listener(const char *db)
{
	char uri[160];

	snprintf(uri, sizeof(uri), "postgresql://app:secret@127.0.0.1:%d/%s", port, db);
	return db_connect_uri(uri);
}

static void
make_databases(const char *name)
{
	db_create(source_cluster, name);
	db_create(target_cluster, name);
	PGconn *source = db_connect(source_cluster, name);
	db_exec(source, "CREATE TABLE ledger (id int PRIMARY KEY, n bigint NOT NULL);"
	                "INSERT INTO ledger SELECT i, 0 FROM generate_series(1, 4) i;"
	                "ALTER TABLE ledger OWNER TO app");
	PQfinish(source);
}

static char *
write_script(void)
{
	char *dir = scratch_dir_new("script");
	char *path = mem_printf("%s/add.sql", dir);
	FILE *out = fopen(path, "w");

	ck_assert_ptr_nonnull(out);
	fputs("\\set id random(1, 4)\nBEGIN;\nUPDATE ledger SET n = n + 1 WHERE id = :id;\n"
	      "SELECT sum(n) FROM ledger;\nCOMMIT;\n",
	      out);
	fclose(out);
	free(dir);
	return path;
}

/* The database is copied and followed behind clients that know nothing of it. */
START_TEST(application_through_a_migration)
{
	static const char *const modes[] = {"simple", "extended", "prepared"};
	const char *env[] = {"PGPASSWORD=secret", NULL};
	char *script = write_script();
	Process *benches[3];

	make_databases("shop");
	Pgbaton *p = start_with_listener("shop");
	pgbaton_wait_state(p, "copying", 60);
	for (int i = 0; i < 3; i++) {
		const char *argv[] = {"pgbench", "-n",     "-h", "127.0.0.1", "-p",   port_text, "-U",
		                      "app",     "-c",     "2",  "-j",        "2",    "-t",      "200",
		                      "-M",      modes[i], "-f", script,      "shop", NULL};
		benches[i] = process_start(argv, env);
	}
	for (int i = 0; i < 3; i++) {
		ck_assert_msg(process_wait(benches[i], 120) == 0, "%s", process_stderr(benches[i]));
		process_free(benches[i]);
	}
	pgbaton_wait_state(p, "following", 60);

	char *out = NULL;
	const char *psql[] = {"psql",
	                      "-XAt",
	                      "-h",
	                      "127.0.0.1",
	                      "-p",
	                      port_text,
	                      "-U",
	                      "app",
	                      "shop",
	                      "-c",
	                      "SELECT sum(n) FROM ledger",
	                      "-c",
	                      "\\copy (SELECT 7) TO STDOUT",
	                      NULL};
	ck_assert_int_eq(process_run(psql, env, 30, &out), 0);
	ck_assert_str_eq(out, "1200\n7\n");
	free(out);

	PGconn *idle = through_listener("shop");
	char *route = pgbaton_status_text(p, "listener.route");
	ck_assert_str_eq(route, "source");
	free(route);
	ck_assert_int_eq(pgbaton_status_int(p, "listener.sessions"), 1);

	/* The switch: an idle session goes on at the target, and so does a new one. */
	ck_assert_int_eq(pgbaton_cli(p, NULL, 60, "cutover", NULL), 0);
	ck_assert_int_eq(db_int(idle, "SELECT sum(n) FROM ledger"), 1200);
	ck_assert_int_eq(db_int(idle, "SELECT inet_server_port()"), cluster_port(target_cluster));
	PQfinish(idle);
	PGconn *again = through_listener("shop");
	ck_assert_int_eq(db_int(again, "SELECT sum(n) FROM ledger"), 1200);
	ck_assert_int_eq(db_int(again, "SELECT inet_server_port()"), cluster_port(target_cluster));
	db_exec(again, "UPDATE ledger SET n = n + 1 WHERE id = 1");
	PQfinish(again);

	/* A process that is started after the switch routes to the target at once. */
	ck_assert_int_eq(pgbaton_stop(p, SIGTERM), 0);
	pgbaton_again(p);
	pgbaton_wait_state(p, "switched", 30);
	again = through_listener("shop");
	ck_assert_int_eq(db_int(again, "SELECT sum(n) FROM ledger"), 1201);
	PQfinish(again);
	ck_assert_int_eq(pgbaton_cli(p, NULL, 60, "finish", NULL), 0);
	ck_assert_int_eq(pgbaton_wait_exit(p, 30), 0);
	pgbaton_free(p);
	free(script);
}
END_TEST

/* An address in use is said before anything is begun. */
START_TEST(address_in_use)
{
	char source_uri[160], target_uri[160], where[64];
	char *out = NULL;

	make_databases("taken");
	Pgbaton *p = start_with_listener("taken");
	pgbaton_wait_state(p, "following", 60);
	snprintf(source_uri, sizeof(source_uri), "%s", cluster_uri(source_cluster, "taken"));
	snprintf(target_uri, sizeof(target_uri), "%s", cluster_uri(target_cluster, "taken"));
	snprintf(where, sizeof(where), "127.0.0.1:%d", port);
	char *dir = scratch_dir_new("state");
	const char *args[] = {"run",    "--source", source_uri,    "--target", target_uri,
	                      "--name", "other",    "--listen",    where,      "--state-dir",
	                      dir,      "--admin",  "127.0.0.1:0", NULL};
	ck_assert_int_eq(pgbaton_run(args, NULL, 60, &out), 1);
	ck_assert_msg(strstr(out, where) != NULL && strstr(out, "in use") != NULL, "%s", out);
	free(out);
	pgbaton_free(p);
	scratch_dir_free(dir);
}
END_TEST

/* The migration fails when it is started again; the application does not notice. */
START_TEST(migration_that_fails_goes_on_serving)
{
	make_databases("broken");
	Pgbaton *p = start_with_listener("broken");
	pgbaton_wait_state(p, "following", 60);
	ck_assert_int_eq(pgbaton_stop(p, SIGTERM), 0);
	PGconn *source = db_connect(source_cluster, "broken");
	db_exec(source, "SELECT pg_drop_replication_slot('broken')");
	pgbaton_again(p);
	pgbaton_wait_state(p, "failed", 60);
	PGconn *conn = through_listener("broken");
	db_exec(conn, "UPDATE ledger SET n = n + 1 WHERE id = 1");
	ck_assert_int_eq(db_int(source, "SELECT n FROM ledger WHERE id = 1"), 1);
	ck_assert(!pgbaton_ended(p));
	PQfinish(conn);
	PQfinish(source);
	ck_assert_int_eq(pgbaton_stop(p, SIGTERM), 1);
	pgbaton_free(p);
}
END_TEST

static Suite *
make(void)
{
	Suite *suite = suite_create("listener");
	TCase *tcase = tcase_create("listener");

	tcase_set_timeout(tcase, 240);
	tcase_add_unchecked_fixture(tcase, start_clusters, stop_clusters);
	tcase_add_test(tcase, application_through_a_migration);
	tcase_add_test(tcase, address_in_use);
	tcase_add_test(tcase, migration_that_fails_goes_on_serving);
	suite_add_tcase(suite, tcase);
	return suite;
}

TEST_SUITE(make)
