/*
 * The initial copy is killed (kill -9) at random points of schema, rows, indexes and foreign
 * keys, by fault points and by time, and now and then the target's server restarts under it.
 * What ends at last equals what an undisturbed run makes: rows, and what the catalogues say
 * of indexes, constraints, partitions and statistics.
 *
 * KILLS=1000 for longer; 30 without. PGBATON_SEED repeats the choices, not the moments.
 */
#include <check.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/harness/compare.h"
#include "tests/harness/db.h"
#include "tests/harness/pgbaton.h"
#include "tests/integration/workload.h"
#include "tests/unit/runner.h"

enum { DEFAULT_KILLS = 30, RESTART_ONE_IN = 8 };

static Cluster *source_cluster;
static Cluster *target_cluster;

static void
start_clusters(void)
{
	source_cluster = cluster_start(&(ClusterOptions){.name = "source"});
	target_cluster = cluster_start(&(ClusterOptions){.name = "target"});
}

static void
stop_clusters(void)
{
	cluster_free(source_cluster);
	cluster_free(target_cluster);
}

/* Above --split-above: large, nokey; above the limit of small tables: middle; so many that
 * several are copied together: s0 to s23. */
static const char schema[] =
	"DO $$ BEGIN FOR i IN 0..23 LOOP"
	" EXECUTE format('CREATE TABLE s%s (id int PRIMARY KEY, t text UNIQUE)', i);"
	" EXECUTE format('INSERT INTO s%s SELECT g, g::text FROM generate_series(1, 50) g', i);"
	" END LOOP; END $$;"
	"CREATE TABLE large (id int PRIMARY KEY, a int UNIQUE, t text);"
	"CREATE INDEX ON large (t); CREATE INDEX ON large ((a + 1));"
	"CREATE TABLE nokey (a int, t text);"
	"CREATE TABLE middle (id int PRIMARY KEY, l int REFERENCES large, t text UNIQUE DEFERRABLE);"
	"CREATE INDEX ON middle (l); CREATE STATISTICS st ON l, t FROM middle;"
	"CREATE TABLE small (id serial PRIMARY KEY, l int REFERENCES large, m int REFERENCES middle);"
	"CREATE TABLE root (id int, k int, PRIMARY KEY (id, k)) PARTITION BY LIST (k);"
	"CREATE TABLE leaf1 PARTITION OF root FOR VALUES IN (0);"
	"CREATE TABLE leaf2 PARTITION OF root FOR VALUES IN (1); CREATE INDEX ON root (id);"
	"CREATE MATERIALIZED VIEW mv AS SELECT count(*) AS n FROM large; CREATE UNIQUE INDEX ON mv (n);"
	"INSERT INTO large SELECT i, -i, md5(i::text) FROM generate_series(1, 30000) i;"
	"INSERT INTO nokey SELECT i % 1000, md5((i % 1000)::text) FROM generate_series(1, 30000) i;"
	"INSERT INTO middle SELECT i, i, repeat('m', 30) || i FROM generate_series(1, 15000) i;"
	"INSERT INTO small (l, m) SELECT i, i FROM generate_series(1, 500) i;"
	"INSERT INTO root SELECT i, i % 2 FROM generate_series(1, 2000) i;"
	"REFRESH MATERIALIZED VIEW mv";

static const char *const catalogues[] = {
	"SELECT pg_get_indexdef(indexrelid), indisvalid, indisready, indisprimary FROM pg_index"
	" JOIN pg_class c ON c.oid = indrelid WHERE relnamespace = 'public'::regnamespace ORDER BY 1",
	"SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid), convalidated FROM pg_constraint"
	" WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2",
	"SELECT inhrelid::regclass::text, inhparent::regclass::text FROM pg_inherits ORDER BY 1, 2",
	"SELECT DISTINCT tablename FROM pg_stats WHERE schemaname = 'public' ORDER BY 1",
	"SELECT stxname, count(stxdndistinct) FROM pg_statistic_ext LEFT JOIN pg_statistic_ext_data"
	" ON stxoid = oid GROUP BY 1",
};

/* Each with how often it can be passed. */
static const struct {
	const char *name;
	int most;
} points[] = {
	{"schema_step", 12},    {"copy_range", 30}, {"copy_commit", 30},
	{"copy_committed", 30}, {"copy_rows", 1},   {"copy_begin", 1},
};

typedef struct {
	uint64_t random;
	int number; /* of the migration */
	int kills;
	int restarts;
	PGconn *source;
	PGconn *target;
	char target_uri[160];
	char *state_dir;
	Pgbaton *p;
} Case;

static void
next_migration(Case *c)
{
	char name[24];

	PQfinish(c->target);
	scratch_dir_free(c->state_dir);
	snprintf(name, sizeof(name), "moved%d", c->number++);
	db_create(target_cluster, name);
	snprintf(c->target_uri, sizeof(c->target_uri), "%s", cluster_uri(target_cluster, name));
	c->target = db_connect_uri(c->target_uri);
	c->state_dir = scratch_dir_new(name);
}

static void
run(Case *c, const char *fault)
{
	static const char *const args[] = {"--mode", "offline", "--split-above", "300kB", NULL};
	char text[64];
	const char *env[] = {text, NULL};

	snprintf(text, sizeof(text), "PGBATON_FAULT=%s", fault);
	pgbaton_free(c->p);
	c->p = pgbaton_start(&(PgbatonOptions){.source = cluster_uri(source_cluster, "source"),
	                                       .target = c->target_uri,
	                                       .args = args,
	                                       .env = env,
	                                       .state_dir = c->state_dir});
}

/* At a fault point, which it may not come to; or at any moment. */
static void
run_and_kill(Case *c)
{
	size_t count = sizeof(points) / sizeof(points[0]);
	uint64_t choice = random_below(&c->random, 2 * count);
	char fault[40];

	if (choice >= count) {
		run(c, "none");
		poll(NULL, 0, (int)random_below(&c->random, 900));
		if (!pgbaton_ended(c->p))
			pgbaton_stop(c->p, SIGKILL);
		return;
	}
	snprintf(fault, sizeof(fault), "%s:%d", points[choice].name,
	         1 + (int)random_below(&c->random, (uint64_t)points[choice].most));
	run(c, fault);
}

/* The process goes on by itself. */
static void
run_and_restart(Case *c)
{
	run(c, "none");
	while (!pgbaton_reached(c->p, "copying") && !pgbaton_ended(c->p))
		poll(NULL, 0, 5);
	poll(NULL, 0, (int)random_below(&c->random, 300));
	cluster_restart(target_cluster, CLUSTER_IMMEDIATE);
	PQfinish(c->target);
	c->target = db_connect_uri(c->target_uri);
	c->restarts++;
}

static void
assert_moved(Case *c)
{
	compare_databases(c->source, c->target, &(CompareOptions){.sequences = SEQUENCES_EQUAL});
	for (size_t i = 0; i < sizeof(catalogues) / sizeof(catalogues[0]); i++) {
		char *from = db_rows(c->source, "%s", catalogues[i]);
		char *to = db_rows(c->target, "%s", catalogues[i]);
		ck_assert_str_eq(from, to);
		ck_assert_str_ne(from, "");
		free(from);
		free(to);
	}
}

/* Killed behind its last statement: there is nothing left to go on with. */
static bool
is_finished(const Case *c)
{
	return db_true(c->target, "SELECT to_regnamespace('pgbaton') IS NULL"
	                          " AND to_regclass('public.mv') IS NOT NULL");
}

START_TEST(killed_while_it_copies)
{
	const char *kills = getenv("KILLS");
	int wanted = kills != NULL ? atoi(kills) : DEFAULT_KILLS;
	uint64_t seed = workload_seed();
	Case c = {.random = seed};

	db_create(source_cluster, "source");
	c.source = db_connect(source_cluster, "source");
	db_exec(c.source, "%s", schema);
	db_exec(c.source, "ANALYZE");
	next_migration(&c);
	while (c.kills < wanted) {
		if (random_below(&c.random, RESTART_ONE_IN) == 0)
			run_and_restart(&c);
		else
			run_and_kill(&c);
		int code = pgbaton_wait_exit(c.p, 90);
		ck_assert_msg(code == 0 || code == 128 + SIGKILL, "PGBATON_SEED=%llu: exit %d\n%s",
		              (unsigned long long)seed, code, pgbaton_log(c.p));
		c.kills += code != 0;
		if (!is_finished(&c)) {
			ck_assert_int_ne(code, 0);
			continue;
		}
		assert_moved(&c);
		next_migration(&c);
	}
	run(&c, "none");
	ck_assert_msg(pgbaton_wait_exit(c.p, 90) == 0, "%s", pgbaton_log(c.p));
	assert_moved(&c);
	printf("%d kills and %d restarts in %d migrations, PGBATON_SEED=%llu\n", c.kills, c.restarts,
	       c.number, (unsigned long long)seed);
	pgbaton_free(c.p);
	PQfinish(c.source);
	PQfinish(c.target);
	scratch_dir_free(c.state_dir);
}
END_TEST

/* The server's process of a killed pgbaton goes on with what it was sent: its ledger appears after the
 * next start has looked for one. */
START_TEST(a_ledger_comes_late)
{
	static const char making[] =
		"SELECT count(*) = %d FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
		" AND datname = 'late' AND query LIKE 'BEGIN;CREATE SCHEMA%%'";
	char sql[200];

	db_create(source_cluster, "late");
	db_create(target_cluster, "late");
	PGconn *source = db_connect(source_cluster, "late"),
		   *target = db_connect(target_cluster, "late");
	PGconn *lock = db_connect(target_cluster, "late");
	db_exec(source, "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)");
	/* Behind the schema, before the end. */
	db_exec(lock, "BEGIN; LOCK TABLE pg_attrdef IN SHARE MODE");
	Pgbaton *p = pgbaton_start(&(PgbatonOptions){.source = cluster_uri(source_cluster, "late"),
	                                             .target = cluster_uri(target_cluster, "late")});
	snprintf(sql, sizeof(sql), making, 1);
	db_wait_until(target, sql, 60);
	pgbaton_stop(p, SIGKILL);
	pgbaton_again(p);
	snprintf(sql, sizeof(sql), making, 2);
	db_wait_until(target, sql, 60);
	db_exec(lock, "COMMIT");
	pgbaton_wait_state(p, "following", 60);
	ck_assert(db_true(target, "SELECT count(*) = 1 FROM t"));
	ck_assert(db_true(target, "SELECT count(*) = 1 FROM pgbaton.migration"));
	pgbaton_free(p);
	PQfinish(source);
	PQfinish(target);
	PQfinish(lock);
}
END_TEST

static Suite *
make_copy_kill(void)
{
	Suite *suite = suite_create("copy_kill");
	TCase *tc = tcase_create("copy_kill");

	tcase_add_unchecked_fixture(tc, start_clusters, stop_clusters);
	tcase_set_timeout(tc, 600);
	tcase_add_test(tc, killed_while_it_copies);
	tcase_add_test(tc, a_ledger_comes_late);
	suite_add_tcase(suite, tc);
	return suite;
}

TEST_SUITE(make_copy_kill)
