/*
 * add-table and recopy under writers: the tables join the others with nothing lost or double,
 * whoever was in the middle of a transaction, and killed (kill -9) at each step; with a way back
 * they come back, too.
 */
#include <check.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "tests/harness/compare.h"
#include "tests/harness/db.h"
#include "tests/harness/pgbaton.h"
#include "tests/unit/runner.h"

enum { WRITERS = 3, ADDED = 9 };

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

/* base is moved from the start; add1 to add9, nokey and part come later. */
static const char schema[] =
	"CREATE TABLE base (id int PRIMARY KEY, n int, v text);"
	"CREATE TABLE child (id int PRIMARY KEY REFERENCES base);"
	"CREATE TYPE mood AS ENUM ('sad', 'ok');"
	"INSERT INTO base SELECT i, 0, 'b' FROM generate_series(0, 9600) i;"
	"DO $$ BEGIN FOR i IN 1..9 LOOP"
	" EXECUTE format('CREATE TABLE add%s (id int PRIMARY KEY REFERENCES base,"
	" n int, v text, s serial)', i);"
	" EXECUTE format('CREATE INDEX ON add%s (n)', i);"
	" EXECUTE format('INSERT INTO add%s SELECT i, 0, repeat(''x'', 100)"
	" FROM generate_series(1, 9000) i', i); END LOOP; END $$;"
	"CREATE TABLE nokey (id int, n int, v text);"
	"CREATE TABLE part (id int, n int, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id);"
	"CREATE TABLE part1 PARTITION OF part FOR VALUES FROM (0) TO (250);"
	"CREATE TABLE part2 PARTITION OF part FOR VALUES FROM (250) TO (5000);"
	"INSERT INTO child SELECT generate_series(1, 50);"
	"INSERT INTO nokey SELECT i % 300, 0, 'n' FROM generate_series(1, 2000) i;"
	"INSERT INTO part SELECT i, 0, 'p' FROM generate_series(1, 2000) i;"
	"CREATE FUNCTION work() RETURNS void LANGUAGE plpgsql AS $$"
	" DECLARE names text[] := '{base,add1,add2,add3,add4,add5,add6,add7,add8,add9,part,nokey}';"
	" t text; k int; BEGIN FOR i IN 0..floor(random() * 6)::int LOOP"
	"  t := names[1 + floor(random() * 12)::int]; k := floor(random() * 500)::int;"
	"  CASE floor(random() * 4)::int"
	"  WHEN 0 THEN EXECUTE format('UPDATE %s SET n = n + 1 WHERE id = %s', t, k);"
	"  WHEN 1 THEN IF t <> 'base' THEN EXECUTE format('DELETE FROM %s WHERE id = %s', t, k); END IF;"
	"  WHEN 2 THEN EXECUTE format('UPDATE %s SET v = md5(random()::text) WHERE id = %s', t, k);"
	"  ELSE BEGIN EXECUTE format('INSERT INTO %s (id, n, v) VALUES (%s, 0, ''new'')', t, k);"
	"   EXCEPTION WHEN unique_violation THEN NULL; END;"
	"  END CASE;"
	"  IF random() < 0.2 THEN PERFORM pg_sleep(0.005); END IF;"
	" END LOOP; END $$";

/* ---- the application ---- */

static atomic_bool writing;
static atomic_long commits;
static char writer_uri[160];

static void *
writer_main(void *arg)
{
	PGconn *conn = db_connect_uri(writer_uri);
	char sqlstate[6];

	while (atomic_load(&writing)) {
		if (db_try(conn, sqlstate, "SELECT work()"))
			atomic_fetch_add(&commits, 1);
		else
			ck_assert_msg(strcmp(sqlstate, "40P01") == 0, "SQLSTATE %s", sqlstate);
		poll(NULL, 0, 4); /* an application's pace: the machine has others to serve */
	}
	PQfinish(conn);
	return arg;
}

typedef struct {
	PGconn *source;
	PGconn *target;
	char source_uri[160];
	char target_uri[160];
	const char *name; /* of the databases and the migration */
	bool failback;
	char *state_dir;
	pthread_t writers[WRITERS];
	Pgbaton *p;
} Move;

static void
open_move(Move *m, const char *database)
{
	m->name = database;
	db_create(source_cluster, database);
	db_create(target_cluster, database);
	m->source = db_connect(source_cluster, database);
	m->target = db_connect(target_cluster, database);
	snprintf(m->source_uri, sizeof(m->source_uri), "%s", cluster_uri(source_cluster, database));
	snprintf(m->target_uri, sizeof(m->target_uri), "%s", cluster_uri(target_cluster, database));
	snprintf(writer_uri, sizeof(writer_uri), "%s", m->source_uri);
	m->state_dir = scratch_dir_new(database);
	db_exec(m->source, "%s", schema);
	atomic_store(&writing, true);
	for (int i = 0; i < WRITERS; i++)
		ck_assert_int_eq(pthread_create(&m->writers[i], NULL, writer_main, NULL), 0);
}

/* With the arguments of the first time, whatever has been added since. */
static void
start(Move *m, const char *fault)
{
	const char *args[] = {"--name",
	                      m->name,
	                      "--include-table",
	                      "public.base",
	                      "--include-table",
	                      "public.child",
	                      "--lanes",
	                      "2",
	                      "--jobs",
	                      "2",
	                      "--split-above",
	                      "200kB",
	                      "--log-max-bytes",
	                      "16MB",
	                      m->failback ? "--failback" : NULL,
	                      NULL};
	char text[64];
	const char *env[] = {text, NULL};

	snprintf(text, sizeof(text), "PGBATON_FAULT=%s", fault);
	pgbaton_free(m->p);
	m->p = pgbaton_start(&(PgbatonOptions){.source = m->source_uri,
	                                       .target = m->target_uri,
	                                       .args = args,
	                                       .env = env,
	                                       .state_dir = m->state_dir});
}

static void
run(Move *m, const char *fault)
{
	start(m, fault);
	pgbaton_wait_state(m->p, "following", 60);
}

static void
stop_writers(Move *m)
{
	if (!atomic_exchange(&writing, false))
		return;
	for (int i = 0; i < WRITERS; i++)
		pthread_join(m->writers[i], NULL);
}

static void
close_move(Move *m)
{
	stop_writers(m);
	pgbaton_free(m->p);
	PQfinish(m->source);
	PQfinish(m->target);
	scratch_dir_free(m->state_dir);
}

static int
ask(Move *m, char **out, const char *command, const char *pattern, const char *option)
{
	return pgbaton_cli(m->p, out, 120, command, pattern, option, NULL);
}

static void
must(Move *m, const char *command, const char *pattern)
{
	char *out;
	int code = ask(m, &out, command, pattern, NULL);

	ck_assert_msg(code == 0, "%s: exit %d: %s\n%s", command, code, out, pgbaton_log(m->p));
	free(out);
}

static void
wait_outcome(Move *m, const char *outcome)
{
	int64_t deadline = deadline_in_ms(90000);

	for (;;) {
		char *now = pgbaton_status_text(m->p, "addition.outcome");
		bool there = strcmp(now, outcome) == 0;
		ck_assert_msg(there || strcmp(now, "failed") != 0, "%s", pgbaton_log(m->p));
		free(now);
		if (there)
			return;
		ck_assert_msg(deadline_left_ms(deadline) > 0, "%s", pgbaton_log(m->p));
		poll(NULL, 0, 10);
	}
}

/* What a killed process has begun is over; it may have been so when it was killed. */
static void
wait_over(Move *m)
{
	char *now = pgbaton_status_text(m->p, "addition.outcome");

	if (strcmp(now, "none") != 0)
		wait_outcome(m, "done");
	free(now);
}

/* The writers end, the rest is applied, and all tables are the same. */
static void
switch_and_compare(Move *m, const char *const *left_out)
{
	ck_assert_int_gt(atomic_load(&commits), 100);
	stop_writers(m);
	must(m, "cutover", NULL);
	compare_databases(m->source, m->target,
	                  &(CompareOptions){.own_schema = m->name, .skip_tables = left_out});
	must(m, "finish", NULL);
	ck_assert_msg(pgbaton_wait_exit(m->p, 60) == 0, "%s", pgbaton_log(m->p));
	ck_assert(db_true(m->target, "SELECT count(*) = 0 FROM pg_namespace WHERE nspname LIKE '%s%%'",
	                  m->name));
	ck_assert_int_eq(
		db_int(m->source, "SELECT count(*) FROM pg_publication WHERE pubname = '%s'", m->name), 0);
	/* nokey's was given later than the publication was made. */
	ck_assert(db_true(m->source, "SELECT count(*) = 0 FROM pg_class WHERE relreplident = 'f'"));
}

/* ---- whole ---- */

#define DEFINITIONS                                                                            \
	"SELECT pg_get_indexdef(indexrelid) FROM pg_index JOIN pg_class c ON c.oid = indrelid"     \
	" WHERE relnamespace = 'public'::regnamespace AND c.relname ~ '%s'"                        \
	" UNION ALL SELECT conrelid::regclass || ' ' || pg_get_constraintdef(oid) || convalidated" \
	" FROM pg_constraint WHERE contype = 'f' AND conrelid::regclass::text ~ '%s' ORDER BY 1"

static void
same_definitions(Move *m, const char *tables)
{
	char *from = db_rows(m->source, DEFINITIONS, tables, tables);
	char *to = db_rows(m->target, DEFINITIONS, tables, tables);

	ck_assert_str_eq(from, to);
	ck_assert_str_ne(from, "");
	free(from);
	free(to);
}

/* The others' applier goes past some segments of the log; the one to come has to read them. */
static void
pass_segments(Move *m)
{
	long long until = pgbaton_status_int(m->p, "stream.updates") + 2 * 9000;
	int64_t deadline = deadline_in_ms(60000);

	for (int i = 0; i < 2; i++)
		db_exec(m->source, "UPDATE base SET v = repeat(md5(id::text), 10) WHERE id > 600");
	while (pgbaton_status_int(m->p, "stream.updates") < until ||
	       pgbaton_status_int(m->p, "lag.pending_transactions") > 100) {
		ck_assert_msg(deadline_left_ms(deadline) > 0, "%s", pgbaton_log(m->p));
		poll(NULL, 0, 10);
	}
	ck_assert_int_gt(pgbaton_status_int(m->p, "log.segments"), 2);
}

START_TEST(tables_come_in_under_writers)
{
	static const char *const left_out[] = {"public.add2", "public.add3", "public.add4",
	                                       "public.add5", "public.add6", "public.add7",
	                                       "public.add8", "public.add9", NULL};
	Move m = {.p = NULL};
	char *out;

	open_move(&m, "whole");
	run(&m, "none");
	/* Wrote before the table is published, and goes on after: it has to be waited for. */
	PGconn *old = db_connect_uri(m.source_uri);
	db_exec(old, "BEGIN; INSERT INTO add1 (id, n, v) VALUES (9500, 1, 'before')");
	ck_assert_int_eq(ask(&m, &out, "add-table", "public.add1", "--no-wait"), 0);
	free(out);
	int64_t deadline = deadline_in_ms(60000);
	for (bool waits = false; !waits; poll(NULL, 0, 10)) {
		char *step = pgbaton_status_text(m.p, "addition.step");
		waits = strncmp(step, "waits for transactions", 22) == 0;
		free(step);
		ck_assert_msg(deadline_left_ms(deadline) > 0, "%s", pgbaton_log(m.p));
	}
	pass_segments(&m);
	db_exec(old, "INSERT INTO add1 (id, n, v) VALUES (9501, 1, 'between')");
	ck_assert_int_eq(ask(&m, &out, "cutover", NULL, NULL), 1);
	ck_assert_msg(strstr(out, "being added") != NULL, "%s", out);
	free(out);
	db_exec(old, "COMMIT; INSERT INTO add1 (id, n, v) VALUES (9502, 1, 'after')");
	PQfinish(old);
	wait_outcome(&m, "done");

	must(&m, "add-table", "part");
	must(&m, "add-table", "nokey");
	/* A new partition of a table that is moved already, itself divided. */
	db_exec(m.source, "CREATE INDEX part_n ON part (n);"
	                  "CREATE TABLE part3 PARTITION OF part FOR VALUES FROM (5000) TO (9000)"
	                  " PARTITION BY RANGE (id);"
	                  "CREATE TABLE part3a PARTITION OF part3 FOR VALUES FROM (5000) TO (6000);"
	                  "CREATE TABLE part4 PARTITION OF part FOR VALUES FROM (9000) TO (9999);"
	                  "INSERT INTO part SELECT i, 0, 'p' FROM generate_series(5001, 5900) i;"
	                  "INSERT INTO part SELECT i, 0, 'p' FROM generate_series(9001, 9900) i");
	db_exec(m.target, "CREATE INDEX part_n ON part (n)");
	must(&m, "add-table", "public.part4"); /* with it come all below part */
	db_exec(m.source, "UPDATE part SET n = n + 1 WHERE id > 5000");
	/* In a schema that the target does not have. */
	db_exec(m.source, "CREATE SCHEMA later AUTHORIZATION pg_monitor; GRANT USAGE ON SCHEMA later"
	                  " TO PUBLIC; CREATE TABLE later.t (id int PRIMARY KEY)");
	must(&m, "add-table", "later.*");
	ck_assert(db_true(m.target, "SELECT nspowner = 'pg_monitor'::regrole AND"
	                            " has_schema_privilege('pg_read_all_stats', oid, 'USAGE')"
	                            " FROM pg_namespace WHERE nspname = 'later'"));
	ck_assert_int_eq(ask(&m, &out, "add-table", "nokey", NULL), 1);
	ck_assert_msg(strstr(out, "not moved already") != NULL, "%s", out);
	free(out);
	ck_assert_int_eq(ask(&m, &out, "add-table", "nowhere", NULL), 1);
	ck_assert_msg(strstr(out, "matches nothing") != NULL, "%s", out);
	free(out);
	/* Foreign keys point to it: no TRUNCATE there. */
	must(&m, "recopy", "base");
	must(&m, "recopy", "nokey");
	must(&m, "recopy", "public.part1");
	/* The arguments of the first time go on with what was added. */
	ck_assert_int_eq(pgbaton_stop(m.p, SIGTERM), 0);
	run(&m, "none");
	same_definitions(&m, "^(add1|part|nokey|child)");
	switch_and_compare(&m, left_out);
	close_move(&m);
}
END_TEST

/* ---- a table that stopped the apply ---- */

START_TEST(a_fresh_copy_mends_divergence)
{
	static const char *const left_out[] = {
		"public.add1",  "public.add2",  "public.add3", "public.add4", "public.add5",
		"public.add6",  "public.add7",  "public.add8", "public.add9", "public.part1",
		"public.part2", "public.nokey", NULL};
	Move m = {.p = NULL};

	open_move(&m, "mended");
	run(&m, "none");
	db_exec(m.target, "SET session_replication_role = replica;"
	                  "DELETE FROM base WHERE id < 250; RESET session_replication_role");
	pgbaton_wait_state(m.p, "failed", 60);
	must(&m, "recopy", "public.base");
	pgbaton_wait_state(m.p, "following", 60);
	switch_and_compare(&m, left_out);
	close_move(&m);
}
END_TEST

/* ---- killed ---- */

static const struct {
	const char *point;
	bool recopy;
} kills[] = {
	{"addition_written", false}, {"addition_published", false}, {"addition_copying", false},
	{"copy_range", false},       {"addition_copied", false},    {"addition_following", false},
	{"addition_rest", false},    {"addition_joining", false},   {"addition_joined", false},
	{"addition_written", true},  {"copy_commit:2", true},       {"addition_joined", true},
};

START_TEST(killed_at_each_step)
{
	static const char *const left_out[] = {"public.part1", "public.part2", "public.nokey", NULL};
	Move m = {.p = NULL};
	int added = 0;

	open_move(&m, "killed");
	for (size_t i = 0; i < sizeof(kills) / sizeof(kills[0]); i++) {
		char name[16];
		char *out;
		snprintf(name, sizeof(name), "add%d", kills[i].recopy ? 1 + (int)i % ADDED : ++added);
		run(&m, kills[i].point);
		(void)ask(&m, &out, kills[i].recopy ? "recopy" : "add-table", name, "--no-wait");
		free(out);
		int code = pgbaton_wait_exit(m.p, 60);
		ck_assert_msg(code == 128 + SIGKILL, "%s: exit %d\n%s", kills[i].point, code,
		              pgbaton_log(m.p));
		run(&m, "none");
		wait_over(&m);
		ck_assert(db_true(m.target, "SELECT apart IS NULL FROM killed.migration"));
		ck_assert_int_eq(pgbaton_stop(m.p, SIGTERM), 0);
	}
	ck_assert_int_eq(added, ADDED);
	run(&m, "none");
	same_definitions(&m, "^(add.|child)$|^add._(pkey|n_idx)");
	switch_and_compare(&m, left_out);
	close_move(&m);
}
END_TEST

/* ---- there and back ---- */

static void
wait_way_back(Move *m)
{
	int64_t deadline = deadline_in_ms(60000);

	for (bool follows = false; !follows; poll(NULL, 0, 10)) {
		char *state = pgbaton_status_text(m->p, "way_back.state");
		follows = strcmp(state, "following") == 0;
		ck_assert_msg(strcmp(state, "failed") != 0 && deadline_left_ms(deadline) > 0, "%s",
		              pgbaton_log(m->p));
		free(state);
	}
}

/* Where the application would write after the switch, all is made for its way back. */
static void
is_ready_to_go_back(Move *m, const char *table, bool full)
{
	ck_assert_msg(db_true(m->target,
	                      "SELECT count(*) = 1 FROM pg_publication_tables"
	                      " WHERE pubname = '%s_back' AND tablename = '%s'",
	                      m->name, table),
	              "%s is not published", table);
	ck_assert_msg(db_true(m->target,
	                      "SELECT count(*) = 1 FROM pg_trigger WHERE tgname = '%s_back_fence'"
	                      " AND tgrelid = '%s'::regclass AND tgenabled = 'D'",
	                      m->name, table),
	              "%s has no fence", table);
	ck_assert_msg(
		db_true(m->target,
	            "SELECT (relreplident = 'f') = %s FROM pg_class WHERE oid = '%s'::regclass",
	            full ? "true" : "false", table),
		"%s has another identity", table);
}

static const struct {
	const char *point;
	const char *command;
	const char *table;
	bool full; /* no key */
} kills_with_way_back[] = {
	{"addition_copying", "add-table", "add1", false},
	{"addition_back", "add-table", "nokey", true},
	/* The first one is that of the start. */
	{"way_back_prepared:2", "add-table", "part", false},
};

START_TEST(added_tables_come_back)
{
	static const char *const left_out[] = {"public.add2", "public.add3", "public.add4",
	                                       "public.add5", "public.add6", "public.add7",
	                                       "public.add8", "public.add9", NULL};
	Move m = {.failback = true};
	char *out;

	open_move(&m, "back");
	for (size_t i = 0; i < sizeof(kills_with_way_back) / sizeof(kills_with_way_back[0]); i++) {
		const char *table = kills_with_way_back[i].table;
		run(&m, kills_with_way_back[i].point);
		(void)ask(&m, &out, kills_with_way_back[i].command, table, "--no-wait");
		free(out);
		int code = pgbaton_wait_exit(m.p, 60);
		ck_assert_msg(code == 128 + SIGKILL, "%s: exit %d\n%s", kills_with_way_back[i].point, code,
		              pgbaton_log(m.p));
		run(&m, "none");
		wait_over(&m);
		is_ready_to_go_back(&m, strcmp(table, "part") == 0 ? "part1" : table,
		                    kills_with_way_back[i].full);
		ck_assert_int_eq(pgbaton_stop(m.p, SIGTERM), 0);
	}
	run(&m, "none");
	must(&m, "recopy", "nokey");
	stop_writers(&m);
	must(&m, "cutover", NULL);
	/* A later process has to know of the added tables without asking the source for them. */
	ck_assert_int_eq(pgbaton_stop(m.p, SIGTERM), 0);
	start(&m, "none");
	pgbaton_wait_state(m.p, "switched", 60);
	wait_way_back(&m);
	db_exec(m.target,
	        "UPDATE base SET n = n + 1 WHERE id %% 3 = 0;"
	        "UPDATE add1 SET v = 'back' WHERE id %% 2 = 0; DELETE FROM add1 WHERE id < 99;"
	        "UPDATE nokey SET n = n + 1 WHERE id %% 7 = 0;"
	        "INSERT INTO nokey VALUES (9999, 1, 'back'); INSERT INTO part VALUES (4999, 1);"
	        "TRUNCATE child");
	must(&m, "failback", NULL);
	must(&m, "finish", NULL);
	ck_assert_msg(pgbaton_wait_exit(m.p, 60) == 0, "%s", pgbaton_log(m.p));
	compare_databases(m.source, m.target, &(CompareOptions){.skip_tables = left_out});
	ck_assert(db_true(m.source, "SELECT count(*) = 1 FROM nokey WHERE id = 9999"));
	db_exec(m.source, "UPDATE add1 SET n = 0; DELETE FROM nokey"); /* taken again */
	for (int i = 0; i < 2; i++) {
		PGconn *side = i == 0 ? m.source : m.target;
		ck_assert(
			db_true(side, "SELECT count(*) = 0 FROM pg_namespace WHERE nspname LIKE 'back%%'"));
		ck_assert(db_true(side, "SELECT count(*) = 0 FROM pg_publication"));
		ck_assert(db_true(side, "SELECT count(*) = 0 FROM pg_class WHERE relreplident = 'f'"));
		ck_assert(db_true(side, "SELECT count(*) = 0 FROM pg_trigger WHERE NOT tgisinternal"));
	}
	close_move(&m);
}
END_TEST

static void
add_case(Suite *suite, const char *name, const TTest *test)
{
	TCase *tc = tcase_create(name);

	tcase_add_unchecked_fixture(tc, start_clusters, stop_clusters);
	tcase_set_timeout(tc, 300);
	tcase_add_test(tc, test);
	suite_add_tcase(suite, tc);
}

static Suite *
make_addition(void)
{
	Suite *suite = suite_create("addition");

	add_case(suite, "whole", tables_come_in_under_writers);
	add_case(suite, "mended", a_fresh_copy_mends_divergence);
	add_case(suite, "killed", killed_at_each_step);
	add_case(suite, "way_back", added_tables_come_back);
	return suite;
}

TEST_SUITE(make_addition)
