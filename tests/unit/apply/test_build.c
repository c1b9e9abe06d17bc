/*
 * Indexes as tables fill: the target's dump is the source's, steps happen once, a failure
 * stays with its table, statistics are there.
 */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "tests/harness/skip.h"
#include "tests/unit/apply/load_rig.h"
#include "tests/unit/runner.h"

static Cluster *cluster;

static void
start(void)
{
	cluster = servers_start(0, "max_connections = 40");
}

static void
stop(void)
{
	cluster_free(cluster);
}

/* "large" is above BUILD_SMALL_BYTES and has every kind of key; the others are small. */
static const char rich[] =
	"CREATE EXTENSION btree_gist;"
	"CREATE TABLE large (id int, a int NOT NULL, b text, c int, d int, r int4range,"
	" CONSTRAINT \"large key\" PRIMARY KEY (id) INCLUDE (a) WITH (fillfactor = 70),"
	" UNIQUE (b) DEFERRABLE INITIALLY DEFERRED, CONSTRAINT only_a UNIQUE (a),"
	" EXCLUDE USING gist (c WITH =, d WITH =));"
	"INSERT INTO large SELECT i, i, md5(i::text), i, i, int4range(i, i + 1) FROM generate_series(1, 15000) i;"
	"CREATE INDEX ON large (c, d DESC NULLS LAST) WHERE c > 5; CREATE INDEX ON large ((c + 1));"
	"CREATE INDEX ON large USING gist (r);"
	"ALTER TABLE large CLUSTER ON \"large key\"; ALTER TABLE large REPLICA IDENTITY USING INDEX only_a;"
	"COMMENT ON CONSTRAINT \"large key\" ON large IS 'the key'; COMMENT ON INDEX only_a IS 'a''s';"
	"CREATE STATISTICS st ON c, d FROM large;"
	"CREATE TABLE single (id int PRIMARY KEY, pad text);"
	"INSERT INTO single SELECT i, repeat('x', 100) FROM generate_series(1, 15000) i;"
	"CREATE TABLE small (id int PRIMARY KEY, t text UNIQUE); INSERT INTO small VALUES (1, 'a');"
	"CREATE INDEX ON small (lower(t)); CREATE STATISTICS st2 ON id, t FROM small;"
	"CREATE TABLE root (id int, k int, PRIMARY KEY (id, k)) PARTITION BY LIST (k);"
	"CREATE TABLE leaf1 PARTITION OF root FOR VALUES IN (1) PARTITION BY LIST (k);"
	"CREATE TABLE leaf11 PARTITION OF leaf1 FOR VALUES IN (1);"
	"CREATE TABLE leaf2 PARTITION OF root FOR VALUES IN (2); CREATE INDEX ON root (id);"
	"INSERT INTO root SELECT i, 1 + i % 2 FROM generate_series(1, 1000) i;"
	"CREATE MATERIALIZED VIEW mv AS SELECT id FROM small; CREATE UNIQUE INDEX ON mv (id);";

START_TEST(the_targets_dump_is_the_sources)
{
	Error err = ERROR_INIT;
	Load load;

	load_open(&load, cluster, rich, true);
	ASSERT_OK(load_run(&load, &err));
	load_same_dumps(&load);
	load_same(&load, "SELECT count(*), sum(id) FROM large");
	ck_assert_int_eq(db_int(load.target, "SELECT count(*) FROM pg_index WHERE NOT indisvalid"), 0);
	/* The keys of large that could be were made as indexes first; of the others none. */
	ck_assert_int_eq(db_int(load.target, "SELECT count(*) FROM pgbaton.post_data"
	                                     " WHERE step LIKE 'index of %%'"),
	                 3);
	ck_assert_int_eq(db_int(load.target, "SELECT count(*) FROM pgbaton.post_data"
	                                     " WHERE step LIKE 'index of %% public large %%'"),
	                 3);
	load_close(&load);
}
END_TEST

START_TEST(statistics_of_tables_and_roots)
{
	Error err = ERROR_INIT;
	Load load;

	load_open(&load, cluster, rich, true);
	ASSERT_OK(load_run(&load, &err));
	char *tables = db_value(load.target,
	                        "SELECT string_agg(DISTINCT tablename, ' ' ORDER BY tablename)"
	                        " FROM pg_stats WHERE schemaname = 'public'");
	ck_assert_str_eq(tables,
	                 "large large_expr_idx leaf1 leaf11 leaf2 root single small small_lower_idx");
	free(tables);
	ck_assert_int_eq(db_int(load.target, "SELECT count(*) FROM pg_statistic_ext_data"), 2);
	load_close(&load);
}
END_TEST

/* Each once: a small and a large leaf with their rows, the levels above without them. */
static void
expect_statistics_of_the_whole(Load *load)
{
	Error err = ERROR_INIT;

	load_open(load, cluster,
	          "CREATE TABLE root (id int, k int, t text) PARTITION BY LIST (k);"
	          "CREATE TABLE leaf1 PARTITION OF root FOR VALUES IN (1) PARTITION BY LIST (k);"
	          "CREATE TABLE leaf11 PARTITION OF leaf1 FOR VALUES IN (1);"
	          "CREATE TABLE leaf2 PARTITION OF root FOR VALUES IN (2);"
	          "INSERT INTO root SELECT i, 1, 'x' FROM generate_series(1, 100) i;"
	          "INSERT INTO root SELECT i, 2, md5(i::text) FROM generate_series(1, 20000) i",
	          false);
	load->options.build = build_open(&load->work, false, &err);
	ck_assert_msg(load->options.build != NULL, "%s", servers_error(&err));
	ASSERT_OK(copy_tables(&load->options, &err));
	ASSERT_OK(build_finish(load->options.build, &err));
	build_close(load->options.build);
	ck_assert_int_eq(
		db_int(load->target,
	           "SELECT count(DISTINCT (starelid, stainherit)) FROM pg_statistic WHERE"
	           " (starelid IN ('root'::regclass, 'leaf1'::regclass) AND stainherit) OR"
	           " (starelid IN ('leaf11'::regclass, 'leaf2'::regclass) AND NOT stainherit)"),
		4);
	db_wait_until(load->target,
	              "SELECT sum(analyze_count) >= 4 FROM pg_stat_all_tables"
	              " WHERE relname IN ('root', 'leaf1', 'leaf11', 'leaf2')",
	              60);
	char *counts = db_value(load->target,
	                        "SELECT string_agg(analyze_count::text, ' ' ORDER BY relname)"
	                        " FROM pg_stat_all_tables"
	                        " WHERE relname IN ('root', 'leaf1', 'leaf11', 'leaf2')");
	ck_assert_str_eq(counts, "1 1 1 1");
	free(counts);
	load_close(load);
}

START_TEST(statistics_of_the_whole)
{
	Load load;

	expect_statistics_of_the_whole(&load);
}
END_TEST

START_TEST(statistics_of_the_whole_since_18)
{
	Load load;

	TEST_NEEDS_MAJOR(18);
	cluster = servers_start(18, NULL);
	expect_statistics_of_the_whole(&load);
	stop();
}
END_TEST

/* Small tables come with their indexes: there is no moment at which the one is recorded and
 * the others are not there. */
START_TEST(a_small_table_brings_its_indexes)
{
	Error err = ERROR_INIT;
	Load load;

	load_open(&load, cluster, rich, true);
	db_exec(load.target,
	        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
	        " 'BEGIN IF new.schema_name = ''public'' AND new.table_name = ''small'' THEN"
	        " RAISE ''not recorded''; END IF; RETURN new; END';"
	        "CREATE TRIGGER refuse BEFORE UPDATE ON pgbaton.relation FOR EACH ROW"
	        " EXECUTE FUNCTION refuse();"
	        "ALTER TABLE pgbaton.relation ENABLE ALWAYS TRIGGER refuse");
	ck_assert(!load_run(&load, &err));
	ck_assert(strstr(servers_error(&err), "not recorded") != NULL);
	ck_assert_int_eq(db_int(load.target, "SELECT count(*) FROM small"), 0);
	ck_assert_int_eq(
		db_int(load.target, "SELECT count(*) FROM pg_index WHERE indrelid = 'small'::regclass"), 0);
	ck_assert_int_eq(
		db_int(load.target, "SELECT count(*) FROM pgbaton.post_data WHERE step LIKE '%% small%%'"),
		0);
	ck_assert_int_eq(atomic_load(&load_table(&load, "large")->state), TABLE_COPIED);

	db_exec(load.target, "DROP TRIGGER refuse ON pgbaton.relation; DROP FUNCTION refuse()");
	load_restart(&load);
	ASSERT_OK(load_run(&load, &err));
	load_same_dumps(&load);
	load_close(&load);
}
END_TEST

/* Stopped behind each task in turn: the next process does what is missing and nothing
 * twice (the OIDs of what was there stay). */
START_TEST(every_step_happens_once)
{
	Error err = ERROR_INIT;
	Load load;
	size_t done = 0;

	load_open(&load, cluster, rich, true);
	ASSERT_OK(copy_tables(&load.options, &err)); /* rows alone */
	for (bool more = true; more; done++) {
		load_restart(&load);
		Build *build = build_open(&load.work, true, &err);
		ck_assert_msg(build != NULL, "%s", servers_error(&err));
		for (size_t i = 0; i < load.catalog->table_count; i++)
			build_rows_in(build, &load.catalog->tables[i]);
		char *oids = db_value(load.target,
		                      "SELECT coalesce(string_agg(indexrelid::text, ' ' ORDER BY"
		                      " indexrelid), '') FROM pg_index JOIN pg_class c ON"
		                      " c.oid = indrelid WHERE relnamespace = 'public'::regnamespace");
		BuildTask *task = NULL;
		size_t ready;
		/* Those before it are done: they find their records. */
		for (size_t i = 0; i <= done; i++) {
			task = build_take(build, &ready);
			if (task == NULL)
				break;
			ASSERT_OK(build_run(build, task, 0, load.sql, &err));
			build_ended(build, task, true);
		}
		more = task != NULL;
		char *kept = db_value(load.target,
		                      "SELECT (SELECT count(*) FROM pg_index WHERE indexrelid = ANY"
		                      " (string_to_array('%s', ' ')::oid[])) ="
		                      " cardinality(string_to_array('%s', ' '))",
		                      oids, oids);
		ck_assert_str_eq(kept, "t");
		free(kept);
		free(oids);
		if (!more)
			ASSERT_OK(build_finish(build, &err));
		build_close(build);
	}
	ck_assert_int_gt(done, 8);
	ASSERT_OK(load_run(&load, &err));
	load_same_dumps(&load);
	load_close(&load);
}
END_TEST

/* A table that grew beyond the limit of small ones between two starts, or shrank: a key that
 * was made whole is not made as an index too, and an index waits for its key. */
START_TEST(a_table_that_changed_its_size)
{
	Error err = ERROR_INIT;
	size_t ready;
	Load load;

	load_open(&load, cluster, rich, true);
	load.options.build = build_open(&load.work, true, &err);
	ASSERT_OK(copy_tables(&load.options, &err));
	build_close(load.options.build);
	load_restart(&load);
	load_table(&load, "small")->bytes = 100 * BUILD_SMALL_BYTES;
	ASSERT_OK(load_run(&load, &err));
	load_same_dumps(&load);
	load_close(&load);

	load_open(&load, cluster, rich, true);
	ASSERT_OK(copy_tables(&load.options, &err));
	load_restart(&load);
	Build *build = build_open(&load.work, true, &err);
	build_rows_in(build, load_table(&load, "large"));
	ASSERT_OK(build_run(build, build_take(build, &ready), 0, load.sql, &err));
	build_close(build);
	load_restart(&load);
	load_table(&load, "large")->bytes = 0;
	ASSERT_OK(load_run(&load, &err));
	load_same_dumps(&load);
	load_close(&load);
}
END_TEST

/* A stop that comes when nothing is at work fails nothing, and is no success. */
START_TEST(stopped_before_its_indexes)
{
	Error err = ERROR_INIT;
	Load load;

	load_open(&load, cluster, rich, true);
	ASSERT_OK(copy_tables(&load.options, &err)); /* rows alone */
	stop_request(load.stop);
	load.work.stop = NULL;
	load.options.build = build_open(&load.work, true, &err);
	ck_assert_msg(load.options.build != NULL, "%s", servers_error(&err));
	ck_assert(!copy_tables(&load.options, &err));
	ck_assert_int_eq(err.class, ERROR_CANCELLED);
	build_close(load.options.build);
	load_close(&load);
}
END_TEST

START_TEST(a_failing_index_fails_alone)
{
	Error err = ERROR_INIT;
	Load load;

	load_open(
		&load, cluster,
		"CREATE FUNCTION f(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1';"
		"CREATE TABLE a (id int PRIMARY KEY, pad text); CREATE TABLE b (id int PRIMARY KEY, pad text);"
		"INSERT INTO a SELECT i, repeat('x', 100) FROM generate_series(1, 15000) i;"
		"INSERT INTO b SELECT * FROM a; CREATE INDEX wrong ON a (f(id)); CREATE INDEX ON a (pad)",
		true);
	db_exec(load.target, "CREATE OR REPLACE FUNCTION f(int) RETURNS int IMMUTABLE LANGUAGE sql AS"
	                     " 'SELECT 1 / ($1 - $1)'");
	ck_assert(!load_run(&load, &err));
	ck_assert_str_eq(err.sqlstate, "22012");
	ck_assert_msg(strstr(servers_error(&err), "public wrong") != NULL, "%s", servers_error(&err));
	ck_assert(db_true(load.target, "SELECT to_regclass('b_pkey') IS NOT NULL AND"
	                               " to_regclass('a_pad_idx') IS NOT NULL"));

	db_exec(load.target, "CREATE OR REPLACE FUNCTION f(int) RETURNS int IMMUTABLE LANGUAGE sql AS"
	                     " 'SELECT $1'");
	load_restart(&load);
	ASSERT_OK(load_run(&load, &err));
	load_same_dumps(&load);
	load_close(&load);
}
END_TEST

/* ANALYZE of what has a foreign table below it would ask that one's server, which need not be
 * there for the target: as root of a partitioned table, and by inheritance, small and large. */
START_TEST(nothing_is_asked_of_foreign_servers)
{
	Error err = ERROR_INIT;
	Load load;

	load_open(&load, cluster,
	          "CREATE EXTENSION file_fdw; CREATE SERVER far FOREIGN DATA WRAPPER file_fdw;"
	          "CREATE TABLE root (id int, t text) PARTITION BY LIST (id);"
	          "CREATE TABLE leaf1 PARTITION OF root FOR VALUES IN (1) PARTITION BY LIST (id);"
	          "CREATE TABLE leaf11 PARTITION OF leaf1 FOR VALUES IN (1);"
	          "CREATE FOREIGN TABLE away PARTITION OF leaf1 DEFAULT SERVER far"
	          " OPTIONS (filename '/nowhere');"
	          "CREATE TABLE sound (id int, t text) PARTITION BY LIST (id);"
	          "CREATE TABLE sound1 PARTITION OF sound DEFAULT;"
	          "CREATE TABLE \"old Root\" (id int, t text);"
	          "CREATE TABLE child () INHERITS (\"old Root\");"
	          "CREATE FOREIGN TABLE away2 () INHERITS (child) SERVER far"
	          " OPTIONS (filename '/nowhere');"
	          "INSERT INTO leaf11 VALUES (1, 'a'); INSERT INTO sound VALUES (1, 'a');"
	          "INSERT INTO \"old Root\" SELECT i, md5(i::text) FROM generate_series(1, 20000) i;"
	          "INSERT INTO child VALUES (1, 'a')",
	          true);
	ASSERT_OK(load_run(&load, &err));
	char *tables = db_value(load.target,
	                        "SELECT string_agg(DISTINCT tablename, ' ' ORDER BY tablename)"
	                        " FROM pg_stats WHERE schemaname = 'public'");
	ck_assert_str_eq(tables, "leaf11 sound sound1");
	free(tables);
	load_close(&load);
}
END_TEST

/* --schema none: the tables are somebody else's, only statistics are made. */
START_TEST(without_definitions_only_statistics)
{
	Error err = ERROR_INIT;
	Load load;

	load_open(&load, cluster,
	          "CREATE TABLE t (a int, t text);"
	          "INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 30000) i",
	          false);
	load.options.build = build_open(&load.work, false, &err);
	ck_assert_msg(load.options.build != NULL, "%s", servers_error(&err));
	ASSERT_OK(copy_tables(&load.options, &err));
	ASSERT_OK(build_finish(load.options.build, &err));
	build_close(load.options.build);
	ck_assert_int_eq(db_int(load.target, "SELECT count(*) FROM pg_stats WHERE tablename = 't'"), 2);
	load_close(&load);
}
END_TEST

static Suite *
make_build(void)
{
	Suite *suite = suite_create("build");
	TCase *tc = tcase_create("build");
	TCase *foreign = tcase_create("foreign");
	TCase *since_18 = tcase_create("build_since_18");

	tcase_add_unchecked_fixture(tc, start, stop);
	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, the_targets_dump_is_the_sources);
	tcase_add_test(tc, statistics_of_tables_and_roots);
	tcase_add_test(tc, statistics_of_the_whole);
	tcase_add_test(tc, a_small_table_brings_its_indexes);
	tcase_add_test(tc, every_step_happens_once);
	tcase_add_test(tc, a_table_that_changed_its_size);
	tcase_add_test(tc, stopped_before_its_indexes);
	tcase_add_test(tc, a_failing_index_fails_alone);
	tcase_add_test(tc, without_definitions_only_statistics);
	suite_add_tcase(suite, tc);
	tcase_add_unchecked_fixture(foreign, start, stop);
	tcase_set_timeout(foreign, 120);
	tcase_add_test(foreign, nothing_is_asked_of_foreign_servers);
	suite_add_tcase(suite, foreign);
	tcase_set_timeout(since_18, 120);
	tcase_add_test(since_18, statistics_of_the_whole_since_18);
	suite_add_tcase(suite, since_18);
	return suite;
}

TEST_SUITE(make_build)
