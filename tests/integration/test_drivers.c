/*
 * The clients that applications are made of, all at once through one listener, each with one
 * connection that it keeps: psql, pgbench in its three modes, JDBC, node-postgres, psycopg, DBD::Pg,
 * asyncpg, Ruby's pg and PHP's PDO. They work, are moved while they work, and go on.
 *
 * The protocol of tests/drivers/: a program is started with the number of its row in the table
 * `ledger` and the path of a file, and finds the server in PGHOST, PGPORT, PGUSER, PGPASSWORD and
 * PGDATABASE. Until that file exists it adds one to its row, again and again, each time leaving in
 * `entries` the new value, the port of the server it was done on and a setting that the session
 * made at its beginning. What it knows to be committed it prints as "ack VALUE PORT", and "done"
 * at the end. Any error ends it with another exit code than 0: there is no second try, and no
 * second connection. Its short pause between two turns leaves room for the others.
 *
 * The invariant: a row's value is the number of times that its client was told "done".
 */
#include <check.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/memory.h"
#include "tests/harness/db.h"
#include "tests/harness/install.h"
#include "tests/harness/pgbaton.h"
#include "tests/harness/skip.h"
#include "tests/unit/runner.h"

enum { DRIVERS = 11, PGBENCH_CLIENTS = 2, ENOUGH = 30 };

typedef struct {
	const char *name;
	int row;             /* of the ledger; pgbench's clients have this one and the next */
	bool pgbench;        /* else one of tests/drivers/ */
	const char *mode;    /* pgbench's */
	const char *program; /* NULL: the interpreter that has what it needs was not found */
	const char *args[4]; /* in front of row and file */
	Process *process;
} Driver;

static Cluster *source_cluster;
static Cluster *target_cluster;

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

/* ---- the programs ---- */

static const char jar[] = "/usr/share/java/postgresql.jar";
static char *node_path;

static bool
works(const char *const argv[])
{
	const char *env[] = {node_path, NULL};
	char *out;
	int code = process_run(argv, env, 60, &out);

	free(out);
	return code == 0;
}

/* The system's first: the driver was installed for that one. */
static const char *
python(const char *probe)
{
	static const char *const names[] = {"/usr/bin/python3", "python3"};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (works((const char *[]){names[i], "-c", probe, NULL}))
			return names[i];
	return NULL;
}

static const char *
program_if(const char *program, const char *const probe[])
{
	return works(probe) ? program : NULL;
}

static void
find_drivers(Driver drivers[DRIVERS])
{
	char *cache = install_cache_dir();
	const char *java[] = {"sh", "-c", "test -e /usr/share/java/postgresql.jar && javac -version",
	                      NULL};
	const char *node[] = {"node", "-e", "require('pg')", NULL};
	const char *perl[] = {"perl", "-MDBD::Pg", "-e", "1", NULL};
	const char *ruby[] = {"ruby", "-e", "require 'pg'", NULL};
	const char *php[] = {"php", "-r", "exit(extension_loaded('pdo_pgsql') ? 0 : 1);", NULL};

	node_path = mem_printf("NODE_PATH=/usr/share/nodejs:%s/node/node_modules", cache);
	free(cache);
	const Driver all[DRIVERS] = {
		{.name = "psql", .row = 1, .program = "bash", .args = {"tests/drivers/psql.sh"}},
		{.name = "jdbc",
	     .row = 2,
	     .program = program_if("java", java),
	     .args = {"-cp", jar, "tests/drivers/jdbc.java"}},
		{.name = "node",
	     .row = 3,
	     .program = program_if("node", node),
	     .args = {"tests/drivers/node.js"}},
		{.name = "psycopg",
	     .row = 4,
	     .program = python("import psycopg"),
	     .args = {"tests/drivers/psycopg3.py"}},
		{.name = "dbd_pg",
	     .row = 5,
	     .program = program_if("perl", perl),
	     .args = {"tests/drivers/dbd_pg.pl"}},
		{.name = "asyncpg",
	     .row = 6,
	     .program = python("import asyncpg"),
	     .args = {"tests/drivers/async_pg.py"}},
		{.name = "ruby_pg",
	     .row = 7,
	     .program = program_if("ruby", ruby),
	     .args = {"tests/drivers/ruby_pg.rb"}},
		{.name = "pdo",
	     .row = 8,
	     .program = program_if("php", php),
	     .args = {"tests/drivers/pdo.php"}},
		{.name = "pgbench", .row = 10, .pgbench = true, .mode = "simple", .program = "pgbench"},
		{.name = "pgbench", .row = 20, .pgbench = true, .mode = "extended", .program = "pgbench"},
		{.name = "pgbench", .row = 30, .pgbench = true, .mode = "prepared", .program = "pgbench"},
	};
	memcpy(drivers, all, sizeof(all));
	for (int i = 0; i < DRIVERS; i++)
		if (drivers[i].program == NULL)
			test_skip(drivers[i].name, "it is not installed (tools/deps --test)");
}

static void
driver_start(Driver *driver, int port, const char *db, const char *stop_file)
{
	const char *argv[24];
	int count = 0;
	char *number = mem_printf("%d", driver->row);
	char *base = mem_printf("base=%d", driver->row);
	char *clients = mem_printf("%d", PGBENCH_CLIENTS);
	char *port_env = mem_printf("PGPORT=%d", port);
	char *db_env = mem_printf("PGDATABASE=%s", db);
	const char *env[] = {"PGHOST=127.0.0.1", "PGUSER=app", "PGPASSWORD=secret", port_env, db_env,
	                     node_path,          NULL};

	argv[count++] = driver->program;
	if (driver->pgbench) {
		const char *args[] = {"-n",
		                      "-M",
		                      driver->mode,
		                      "-c",
		                      clients,
		                      "-R",
		                      "100",
		                      "-T",
		                      "3600",
		                      "-D",
		                      base,
		                      "-f",
		                      "tests/drivers/pgbench.sql",
		                      NULL};
		for (int i = 0; args[i] != NULL; i++)
			argv[count++] = args[i];
	} else {
		for (int i = 0; driver->args[i] != NULL; i++)
			argv[count++] = driver->args[i];
		argv[count++] = number;
		argv[count++] = stop_file;
	}
	argv[count] = NULL;
	driver->process = process_start(argv, env);
	free(number);
	free(base);
	free(clients);
	free(port_env);
	free(db_env);
}

/* ---- together ---- */

typedef struct {
	Driver drivers[DRIVERS];
	int rows; /* of the ledger: clients */
	char *stop_file;
	char *dir;
	PGconn *source;
	PGconn *target;
} Crowd;

static void
crowd_start(Crowd *crowd, int port, const char *db)
{
	crowd->dir = scratch_dir_new("drivers");
	crowd->stop_file = mem_printf("%s/stop", crowd->dir);
	crowd->source = db_connect(source_cluster, db);
	crowd->target = db_connect(target_cluster, db);
	find_drivers(crowd->drivers);
	for (int i = 0; i < DRIVERS; i++) {
		Driver *driver = &crowd->drivers[i];
		if (driver->program == NULL)
			continue;
		crowd->rows += driver->pgbench ? PGBENCH_CLIENTS : 1;
		driver_start(driver, port, db, crowd->stop_file);
	}
}

/* Every client has done `ENOUGH` more on that server than the last time this was asked of it. */
static void
crowd_wait_work(Crowd *crowd, PGconn *conn, Cluster *where, int done)
{
	int64_t until = clock_mono_ms() + 90000;

	while (db_int(conn,
	              "SELECT count(*) FROM (SELECT FROM entries WHERE port = %d GROUP BY id HAVING"
	              " count(*) >= %d) enough",
	              cluster_port(where), done + ENOUGH) < crowd->rows) {
		for (int i = 0; i < DRIVERS; i++) {
			Driver *driver = &crowd->drivers[i];
			if (driver->process != NULL && process_ended(driver->process))
				ck_abort_msg("%s %s: %s%s", driver->name, driver->pgbench ? driver->mode : "",
				             process_stdout(driver->process), process_stderr(driver->process));
		}
		if (clock_mono_ms() > until) {
			char *rows = db_rows(conn, "SELECT port, id, count(*) FROM entries GROUP BY 1, 2"
			                           " ORDER BY 1, 2");
			ck_abort_msg("some client does not go on at port %d:\n%s", cluster_port(where), rows);
		}
		poll(NULL, 0, 20);
	}
}

static void
crowd_stop(Crowd *crowd)
{
	FILE *stop = fopen(crowd->stop_file, "w");

	ck_assert_ptr_nonnull(stop);
	fclose(stop);
	for (int i = 0; i < DRIVERS; i++)
		if (crowd->drivers[i].process != NULL && crowd->drivers[i].pgbench)
			process_kill(crowd->drivers[i].process, SIGALRM); /* what its own clock sends it */
	for (int i = 0; i < DRIVERS; i++) {
		Driver *driver = &crowd->drivers[i];
		if (driver->process == NULL)
			continue;
		int code = process_wait(driver->process, 60);
		ck_assert_msg(code == 0, "%s %s: %d: %s", driver->name, driver->pgbench ? driver->mode : "",
		              code, process_stderr(driver->process));
	}
}

/* ---- the invariant ---- */

/* One line per increment, each the next one, and the last is all that the ledger has. `moves`
 * is how often the server changed, as the client saw it. */
static void
check_acknowledged(const Driver *driver, PGconn *conn, int moves)
{
	const char *line = process_stdout(driver->process);
	long long value = 0;
	int port = cluster_port(source_cluster);
	int moved = 0;

	while (strncmp(line, "ack ", 4) == 0) {
		long long next;
		int at;
		ck_assert_msg(sscanf(line, "ack %lld %d", &next, &at) == 2, "%s: %.40s", driver->name,
		              line);
		ck_assert_msg(next == value + 1, "%s: told %lld after %lld", driver->name, next, value);
		value = next;
		moved += at != port;
		port = at;
		line = strchr(line, '\n') + 1;
	}
	ck_assert_str_eq(line, "done\n");
	ck_assert_str_eq(process_stderr(driver->process), "");
	ck_assert_msg(moved == moves, "%s was moved %d times", driver->name, moved);
	ck_assert_int_eq(db_int(conn, "SELECT n FROM ledger WHERE id = %d", driver->row), value);
	printf("%s: %lld\n", driver->name, value);
}

static void
check_pgbench(const Driver *driver, PGconn *conn)
{
	const char *out = process_stdout(driver->process);
	const char *counted = strstr(out, "number of transactions actually processed: ");
	long long value = 0;

	ck_assert_msg(counted != NULL && sscanf(strchr(counted, ':'), ": %lld", &value) == 1, "%s",
	              out);
	ck_assert_msg(strstr(out, "number of failed transactions: 0 ") != NULL, "%s", out);
	ck_assert_int_eq(db_int(conn, "SELECT sum(n)::bigint FROM ledger WHERE id BETWEEN %d AND %d",
	                        driver->row, driver->row + PGBENCH_CLIENTS - 1),
	                 value);
	printf("pgbench %s: %lld\n", driver->mode, value);
}

/* `conn` is where the application was last. */
static void
crowd_check(Crowd *crowd, PGconn *conn, int moves)
{
	for (int i = 0; i < DRIVERS; i++) {
		const Driver *driver = &crowd->drivers[i];
		if (driver->process == NULL)
			continue;
		if (driver->pgbench)
			check_pgbench(driver, conn);
		else
			check_acknowledged(driver, conn, moves);
	}
	/* Each increment left one entry, with its session's setting. */
	ck_assert_int_eq(db_int(conn, "SELECT count(*) FROM ledger l WHERE n <> (SELECT count(*) FROM"
	                              " entries e WHERE e.id = l.id) OR n <> (SELECT coalesce(max(e.n),"
	                              " 0) FROM entries e WHERE e.id = l.id)"),
	                 0);
	for (int i = 0; i < DRIVERS; i++)
		ck_assert_int_eq(db_int(conn,
		                        "SELECT count(*) FROM entries WHERE id / 10 = %d AND id %% 10"
		                        " BETWEEN %d AND %d AND setting IS DISTINCT FROM '%s'",
		                        crowd->drivers[i].row / 10, crowd->drivers[i].row % 10,
		                        crowd->drivers[i].row % 10 + crowd->drivers[i].pgbench,
		                        crowd->drivers[i].name),
		                 0);
}

static void
crowd_free(Crowd *crowd)
{
	for (int i = 0; i < DRIVERS; i++)
		process_free(crowd->drivers[i].process);
	PQfinish(crowd->source);
	PQfinish(crowd->target);
	free(crowd->stop_file);
	scratch_dir_free(crowd->dir);
}

static void
make_databases(const char *name)
{
	db_create(source_cluster, name);
	db_create(target_cluster, name);
	PGconn *source = db_connect(source_cluster, name);
	db_exec(source,
	        "CREATE TABLE ledger (id int PRIMARY KEY, n bigint NOT NULL);"
	        "CREATE TABLE entries (id int, n bigint, port int, setting text, PRIMARY KEY (id, n));"
	        "INSERT INTO ledger SELECT i, 0 FROM generate_series(1, 40) i;"
	        "ALTER TABLE ledger OWNER TO app; ALTER TABLE entries OWNER TO app");
	PQfinish(source);
}

static Pgbaton *
start_with_listener(const char *db, int port)
{
	char source_uri[160], target_uri[160], where[64];

	snprintf(source_uri, sizeof(source_uri), "%s", cluster_uri(source_cluster, db));
	snprintf(target_uri, sizeof(target_uri), "%s", cluster_uri(target_cluster, db));
	snprintf(where, sizeof(where), "127.0.0.1:%d", port);
	const char *args[] = {"--name", db, "--listen", where, "--failback", NULL};
	return pgbaton_start(
		&(PgbatonOptions){.source = source_uri, .target = target_uri, .args = args});
}

static void
switch_over(Pgbaton *p, const char *command, int sessions)
{
	char *out;
	int code = pgbaton_cli(p, &out, 60, command, "--json", NULL);

	ck_assert_msg(code == 0, "%s exited with %d: %s\n%s", command, code, out, pgbaton_log(p));
	json_t *json = json_loads(out, 0, NULL);
	ck_assert_ptr_nonnull(json);
	ck_assert_msg(json_integer_value(json_object_get(json, "sessions_moved")) == sessions &&
	                  json_integer_value(json_object_get(json, "sessions_closed")) == 0,
	              "%s", out);
	printf("%s: hold_ms %.1f\n", command, json_number_value(json_object_get(json, "hold_ms")));
	json_decref(json);
	free(out);
}

/* ---- the tests ---- */

/* Begun while the rows are copied, moved there and back, all with the connection that they had
 * at the start. */
START_TEST(moved_while_they_work)
{
	Crowd crowd = {0};
	int port = free_port();

	make_databases("moved");
	Pgbaton *p = start_with_listener("moved", port);
	pgbaton_wait_state(p, "copying", 60);
	crowd_start(&crowd, port, "moved");
	pgbaton_wait_state(p, "following", 60);
	crowd_wait_work(&crowd, crowd.source, source_cluster, 0);
	switch_over(p, "cutover", crowd.rows);
	crowd_wait_work(&crowd, crowd.target, target_cluster, 0);
	int64_t before = db_int(crowd.target,
	                        "SELECT max(n) FROM (SELECT count(*) AS n FROM entries WHERE port = %d"
	                        " GROUP BY id) done",
	                        cluster_port(source_cluster));
	switch_over(p, "failback", crowd.rows);
	crowd_wait_work(&crowd, crowd.source, source_cluster, (int)before);
	crowd_stop(&crowd);
	crowd_check(&crowd, crowd.source, 2);
	crowd_free(&crowd);
	pgbaton_free(p);
}
END_TEST

static Suite *
make(void)
{
	Suite *suite = suite_create("drivers");
	TCase *tcase = tcase_create("drivers");

	tcase_set_timeout(tcase, 240);
	tcase_add_unchecked_fixture(tcase, start_clusters, stop_clusters);
	tcase_add_test(tcase, moved_while_they_work);
	suite_add_tcase(suite, tcase);
	return suite;
}

TEST_SUITE(make)
