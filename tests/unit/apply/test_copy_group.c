/*
 * Many small tables: several in one transaction. Each has its rows, indexes, record and a true
 * snapshot; what fails fails alone; no lock is waited for while another is held.
 */
#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/apply/load_rig.h"
#include "tests/unit/runner.h"

enum { TABLES = 40 };

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

/* x: the row's transaction. One worker, so that the groups are as large as they can be. */
static const char many[] =
	"DO $$ BEGIN FOR i IN 0..39 LOOP"
	" EXECUTE format('CREATE TABLE t%s (id int PRIMARY KEY, x bigint, v text UNIQUE, e text"
	"  GENERATED ALWAYS AS (upper(v)) STORED)', i);"
	" EXECUTE format('INSERT INTO t%s SELECT g, txid_current(), md5(g::text) FROM generate_series(1, 9) g', i);"
	" EXECUTE format('CREATE INDEX ON t%s ((id + 1))', i); END LOOP; END $$; ANALYZE";

static void
open_many(Load *load)
{
	load_open(load, cluster, many, true);
	ck_assert_uint_eq(load->catalog->table_count, TABLES);
	load->options.jobs = 1;
}

static void
assert_all_there(const Load *load)
{
	char query[100];

	for (int i = 0; i < TABLES; i++) {
		snprintf(query, sizeof(query), "SELECT * FROM t%d ORDER BY id", i);
		load_same(load, query);
	}
	load_same_dumps(load);
	load_same(load,
	          "SELECT DISTINCT tablename FROM pg_stats WHERE schemaname = 'public' ORDER BY 1");
	ck_assert_int_eq(db_int(load->target, "SELECT count(*) FROM pgbaton.relation"
	                                      " WHERE state = 'copied' AND copied_rows = 9"),
	                 TABLES);
}

/* Records that were written by one transaction. */
static int64_t
transactions(const Load *load)
{
	return db_int(load->target, "SELECT count(DISTINCT xmin::text) FROM pgbaton.relation");
}

START_TEST(groups_are_whole)
{
	Error err = ERROR_INIT;
	Load load;

	open_many(&load);
	ASSERT_OK(load_run(&load, &err));
	assert_all_there(&load);
	ck_assert_int_lt(transactions(&load), TABLES / 2);
	/* Each index, constraint and ANALYZE has its record; a next process has nothing to do. */
	int64_t steps = db_int(load.target, "SELECT count(*) FROM pgbaton.post_data"
	                                    " WHERE step ~ ' t[0-9]+( |_)|\"t[0-9]+\"$'");
	ck_assert_int_eq(steps, TABLES * 4);
	int64_t oids = db_int(load.target, "SELECT sum(indexrelid::bigint) FROM pg_index");
	load_restart(&load);
	ASSERT_OK(load_run(&load, &err));
	ck_assert_int_eq(db_int(load.target, "SELECT sum(indexrelid::bigint) FROM pg_index"), oids);
	load_close(&load);
}
END_TEST

/* ---- C2 ---- */

static atomic_bool writing;

static void *
writer_main(void *arg)
{
	PGconn *conn = arg;

	for (int n = 100; atomic_load(&writing); n++)
		db_exec(conn, "INSERT INTO t%d VALUES (%d, txid_current(), '%d')", n * 7 % TABLES, n, n);
	return NULL;
}

START_TEST(each_has_its_snapshot)
{
	Error err = ERROR_INIT;
	pthread_t thread;
	Load load;
	int64_t missing = 0;

	open_many(&load);
	load.options.jobs = 2;
	PGconn *conn = db_connect(cluster, "source");
	atomic_store(&writing, true);
	ck_assert_int_eq(pthread_create(&thread, NULL, writer_main, conn), 0);
	db_wait_until(load.source, "SELECT count(*) > 10 FROM t0", 30);
	bool ok = copy_tables(&load.options, &err);
	db_wait_until(load.source, "SELECT max(id) > 2 + (SELECT max(id) FROM t0) FROM t1", 30);
	atomic_store(&writing, false);
	pthread_join(thread, NULL);
	PQfinish(conn);
	ck_assert_msg(ok, "%s", servers_error(&err));
	ck_assert_int_lt(transactions(&load), TABLES);
	for (size_t i = 0; i < load.catalog->table_count; i++) {
		const Table *table = &load.catalog->tables[i];
		char *from = db_rows(
			load.source,
			"SELECT id, x FROM %s WHERE pg_visible_in_snapshot(x::text::xid8, '%s')"
			" ORDER BY id",
			table->name, table->snapshot);
		char *to = db_rows(load.target, "SELECT id, x FROM %s ORDER BY id", table->name);
		ck_assert_str_eq(from, to);
		free(from);
		free(to);
		missing += db_int(load.source, "SELECT count(*) FROM %s", table->name) -
		           db_int(load.target, "SELECT count(*) FROM %s", table->name);
	}
	ck_assert_msg(missing > 0, "nothing was written behind the copies: no test at all");
	load_close(&load);
}
END_TEST

/* ---- failures ---- */

static void
assert_only_t5_fails(Load *load, const char *text)
{
	Error err = ERROR_INIT;

	ck_assert(!copy_tables(&load->options, &err));
	ck_assert_msg(strstr(servers_error(&err), text) != NULL, "%s", servers_error(&err));
	ck_assert_msg(strstr(servers_error(&err), "public.t5: ") != NULL, "%s", servers_error(&err));
	for (int i = 0; i < TABLES; i++) {
		char name[8];
		snprintf(name, sizeof(name), "t%d", i);
		ck_assert_int_eq(atomic_load(&load_table(load, name)->state),
		                 i == 5 ? TABLE_ERRORED : TABLE_COPIED);
		if (i != 5)
			ck_assert_int_eq(db_int(load->target, "SELECT count(*) FROM t%d", i), 9);
	}
}

START_TEST(one_that_fails_fails_alone)
{
	Error err = ERROR_INIT;
	Load load;

	open_many(&load);
	db_exec(load.target, "ALTER TABLE t5 ADD CONSTRAINT below CHECK (id < 5)");
	assert_only_t5_fails(&load, "below");
	db_exec(load.target, "ALTER TABLE t5 DROP CONSTRAINT below");
	ASSERT_OK(load_run(&load, &err));
	assert_all_there(&load);
	load_close(&load);
}
END_TEST

START_TEST(rows_that_are_not_ours)
{
	Load load;

	open_many(&load);
	db_exec(load.target, "INSERT INTO t5 VALUES (1, 1, '1')");
	assert_only_t5_fails(&load, "not empty");
	ck_assert_int_eq(db_int(load.target, "SELECT count(*) FROM t5"), 1);
	load_close(&load);
}
END_TEST

START_TEST(one_that_has_changed)
{
	const char *const changes[] = {"ALTER TABLE t5 ADD c int", "ALTER TABLE t5 RENAME x TO z",
	                               "ALTER TABLE t5 ALTER x TYPE int",
	                               "ALTER TABLE t5 RENAME TO old; CREATE TABLE t5 (LIKE old)"};
	Load load;

	open_many(&load);
	db_exec(load.source, "%s", changes[_i]);
	assert_only_t5_fails(&load, "has changed on the source");
	load_close(&load);
}
END_TEST

/* Of the record, too: nothing of a table is there without it. */
START_TEST(not_recorded_is_not_there)
{
	Error err = ERROR_INIT;
	Load load;

	open_many(&load);
	db_exec(load.target, "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
	                     " 'BEGIN IF new.table_name = ''t5'' THEN RAISE ''not recorded''; END IF;"
	                     " RETURN new; END';"
	                     "CREATE TRIGGER refuse BEFORE UPDATE ON pgbaton.relation FOR EACH ROW"
	                     " EXECUTE FUNCTION refuse();"
	                     "ALTER TABLE pgbaton.relation ENABLE ALWAYS TRIGGER refuse");
	assert_only_t5_fails(&load, "not recorded");
	ck_assert_int_eq(db_int(load.target, "SELECT count(*) FROM t5"), 0);
	ck_assert_int_eq(
		db_int(load.target, "SELECT count(*) FROM pg_index WHERE indrelid = 't5'::regclass"), 0);
	db_exec(load.target, "DROP TRIGGER refuse ON pgbaton.relation; DROP FUNCTION refuse()");
	load_restart(&load);
	load.options.jobs = 1;
	ASSERT_OK(load_run(&load, &err));
	assert_all_there(&load);
	load_close(&load);
}
END_TEST

/* ---- locks and lost sessions ---- */

#define COPIES                                                  \
	"FROM pg_stat_activity a JOIN pg_locks l USING (pid) WHERE" \
	" a.datname = 'source' AND a.application_name = 'pgbaton copy'"

/* Somebody has one of a group locked and then alters the others: it must not wait for us, and
 * nobody's transaction may be ended by a deadlock. */
START_TEST(no_lock_is_waited_for_with_another)
{
	Loader loader;
	Load load;

	open_many(&load);
	PGconn *holder = db_connect(cluster, "source");
	db_exec(holder, "BEGIN; LOCK TABLE t5");
	loader_start(&loader, &load);
	db_wait_until(load.source, "SELECT count(*) > 0 " COPIES " AND NOT l.granted", 30);
	ck_assert_int_eq(db_int(load.source, "SELECT count(*) " COPIES " AND l.granted"
	                                     " AND l.locktype = 'relation' AND l.database ="
	                                     " (SELECT oid FROM pg_database WHERE datname = 'source')"
	                                     " AND l.relation >= 16384"),
	                 0);
	db_exec(holder, "SET lock_timeout = '1s'");
	for (int i = 0; i < TABLES; i++)
		db_exec(holder, "LOCK TABLE t%d", i);
	db_exec(holder, "COMMIT");
	PQfinish(holder);
	loader_join(&loader);
	ck_assert_msg(loader.ok, "%s", servers_error(&loader.err));
	for (int i = 0; i < TABLES; i++)
		ck_assert_int_eq(db_int(load.target, "SELECT count(*) FROM t%d", i), 9);
	load_close(&load);
}
END_TEST

/* The commit is there, its answer is not: copying again would meet its own rows. */
START_TEST(a_commit_without_answer_is_looked_up)
{
	Error err = ERROR_INIT;
	Loader loader;
	Load load;

	open_many(&load);
	cluster_configure(cluster, "synchronous_standby_names = 'nobody'");
	loader_start(&loader, &load);
	db_wait_until(load.target,
	              "SELECT count(*) > 0 FROM pg_stat_activity WHERE"
	              " application_name = 'pgbaton copy' AND wait_event = 'SyncRep'",
	              30);
	db_exec(load.target, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE"
	                     " datname = 'target' AND application_name = 'pgbaton copy'");
	cluster_configure(cluster, "synchronous_standby_names = ''");
	loader_join(&loader);
	ck_assert_msg(loader.ok, "%s", servers_error(&loader.err));
	ASSERT_OK(load_run(&load, &err));
	assert_all_there(&load);
	load_close(&load);
}
END_TEST

START_TEST(an_unreachable_target_ends_it_at_once)
{
	Error err = ERROR_INIT;
	Load load;

	open_many(&load);
	conninfo_set(load.target_info, "port", "1");
	load.options.tries = 1;
	ck_assert(!copy_tables(&load.options, &err));
	ck_assert_int_eq(err.class, ERROR_NETWORK);
	ck_assert_msg(strstr(servers_error(&err), "39 were not tried") != NULL, "%s",
	              servers_error(&err));
	load_close(&load);
}
END_TEST

static Suite *
make(void)
{
	Suite *suite = suite_create("copy group");
	TCase *tcase = tcase_create("copy group");

	tcase_add_unchecked_fixture(tcase, start, stop);
	tcase_set_timeout(tcase, 120);
	tcase_add_test(tcase, groups_are_whole);
	tcase_add_test(tcase, each_has_its_snapshot);
	tcase_add_test(tcase, one_that_fails_fails_alone);
	tcase_add_test(tcase, rows_that_are_not_ours);
	tcase_add_loop_test(tcase, one_that_has_changed, 0, 4);
	tcase_add_test(tcase, not_recorded_is_not_there);
	tcase_add_test(tcase, no_lock_is_waited_for_with_another);
	tcase_add_test(tcase, a_commit_without_answer_is_looked_up);
	tcase_add_test(tcase, an_unreachable_target_ends_it_at_once);
	suite_add_tcase(suite, tcase);
	return suite;
}

TEST_SUITE(make)
