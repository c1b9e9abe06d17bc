/*
 * The initial copy: C2 under writers, types, failures that stay with their table,
 * lost sessions at every stage, stop.
 */
#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "apply/copy/copy.h"
#include "tests/unit/apply/servers.h"
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

/* One migration: both databases hold the same tables, the ledger is made. */
typedef struct {
	PGconn *source;
	PGconn *target;
	Sql *sql; /* on the target */
	Ledger ledger;
	Catalog *catalog;
	ConnInfo *source_info;
	ConnInfo *target_info;
	Stop *stop;
	CopyOptions options;
} Job;

static void
job_open(Job *job, const char *tables)
{
	Error err = ERROR_INIT;

	servers_clean(cluster);
	*job = (Job){0};
	job->source = db_connect(cluster, "source");
	job->target = db_connect(cluster, "target");
	db_exec(job->source, "%s", tables);
	db_exec(job->target, "%s", tables);
	job->sql = servers_open(cluster, "target");
	job->ledger = servers_ledger(job->sql, "pgbaton");
	Sql *source = servers_open(cluster, "source");
	job->catalog = servers_catalog(source);
	sql_close(source);
	ASSERT_OK(catalog_match_target(job->catalog, job->sql, &err));
	ASSERT_OK(ledger_sync_tables(job->sql, &job->ledger, job->catalog, &err));
	job->source_info = servers_info(cluster, "source", NULL);
	job->target_info = servers_info(cluster, "target", NULL);
	job->stop = stop_new();
	job->options = (CopyOptions){
		.source = job->source_info,
		.target = job->target_info,
		.ledger = &job->ledger,
		.catalog = job->catalog,
		.jobs = 3,
		.stop = job->stop,
	};
}

static void
job_close(Job *job)
{
	catalog_free(job->catalog);
	conninfo_free(job->source_info);
	conninfo_free(job->target_info);
	stop_free(job->stop);
	sql_close(job->sql);
	PQfinish(job->source);
	PQfinish(job->target);
}

static Table *
table_of(const Job *job, const char *name)
{
	Table *table = catalog_find(job->catalog, "public", name);

	ck_assert_msg(table != NULL, "no table %s", name);
	return table;
}

static void
assert_same(const Job *job, const char *query)
{
	char *from = db_rows(job->source, "%s", query);
	char *to = db_rows(job->target, "%s", query);

	ck_assert_str_eq(from, to);
	ck_assert_str_ne(from, "");
	free(from);
	free(to);
}

/* copy_tables in a thread, for tests that act in the middle. */
typedef struct {
	const Job *job;
	pthread_t thread;
	bool ok;
	Error err;
} Copier;

static void *
copier_main(void *arg)
{
	Copier *copier = arg;
	copier->ok = copy_tables(&copier->job->options, &copier->err);
	return NULL;
}

static void
copier_start(Copier *copier, const Job *job)
{
	*copier = (Copier){.job = job};
	ck_assert_int_eq(pthread_create(&copier->thread, NULL, copier_main, copier), 0);
}

static void
copier_join(Copier *copier)
{
	pthread_join(copier->thread, NULL);
}

/* ---- types and names ---- */

static const char awkward[] =
	"CREATE TYPE mood AS ENUM ('sad', 'ok');"
	"CREATE TYPE pair AS (a int, b text);"
	"CREATE DOMAIN posint AS int CHECK (VALUE > 0);"
	"CREATE TABLE plain (id int PRIMARY KEY, t text, b bytea, n numeric, f float8, d date,"
	" ts timestamptz, iv interval, u uuid, j jsonb, ip inet, bits bit varying, a int[]);"
	"CREATE TABLE odd (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, m mood, p pair,"
	" q posint, x xml, js json, r regclass, tm money, vec tsvector, rng tstzrange[],"
	" twice bigint GENERATED ALWAYS AS (q * 2) STORED, tail text);"
	"CREATE TABLE \"Q\"\"uote d\" (\"a b\" int, \"select\" text, \"\xc3\xa4\" text);"
	"CREATE TABLE nothing ();"
	"CREATE TABLE vacant (a int);"
	"CREATE UNLOGGED TABLE fleeting (a int);"
	"CREATE TABLE part (id int, k int) PARTITION BY LIST (k);"
	"CREATE TABLE part1 PARTITION OF part FOR VALUES IN (1);"
	"CREATE TABLE part2 PARTITION OF part FOR VALUES IN (2);";

static const char awkward_rows[] =
	"INSERT INTO plain VALUES (1, '', '\\x00ff', 'NaN', 'Infinity', 'infinity', '-infinity',"
	" '1 mon -2 days 03:04:05.6', '00000000-0000-0000-0000-000000000001', '{\"a\": null}', '::1/64',"
	" '101', '{{1,2},{3,NULL}}'), (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),"
	" (3, E'tab\\tnl\\n\\\\.\\n\\\\N', '', 1e100, 1e-300, '0044-03-15 BC', '2020-01-01 00:00:00.000001+00',"
	" '-1 year', NULL, '1', '10.0.0.1', '', '{}');"
	"INSERT INTO odd (m, p, q, x, js, r, tm, vec, rng, tail) VALUES ('sad', '(1,\"a,b\")', 5,"
	" '<a/>text', '{\"a\" : 1}', 'pg_class', 12.34, 'fat cat', '{\"[2020-01-01,)\",empty}', 'null'),"
	" (NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);"
	"INSERT INTO \"Q\"\"uote d\" VALUES (1, 'x', 'y'), (1, 'x', 'y');"
	"INSERT INTO nothing DEFAULT VALUES; INSERT INTO nothing DEFAULT VALUES;"
	"INSERT INTO fleeting VALUES (1);"
	"INSERT INTO part SELECT i, 1 + i % 2 FROM generate_series(1, 100) i;";

START_TEST(copies_types_and_names)
{
	Error err = ERROR_INIT;
	Job job;

	job_open(&job, awkward);
	db_exec(job.source, "%s", awkward_rows);
	ASSERT_OK(copy_tables(&job.options, &err));
	ck_assert(table_of(&job, "plain")->copy_binary);
	ck_assert(!table_of(&job, "odd")->copy_binary);
	assert_same(&job, "SELECT * FROM plain ORDER BY id");
	assert_same(&job, "SELECT * FROM odd ORDER BY id");
	assert_same(&job, "SELECT * FROM \"Q\"\"uote d\" ORDER BY 1");
	assert_same(&job, "SELECT count(*) FROM nothing");
	assert_same(&job, "SELECT count(*) FROM vacant");
	assert_same(&job, "SELECT * FROM fleeting");
	assert_same(&job, "SELECT tableoid::regclass, * FROM part ORDER BY id");

	Table *plain = table_of(&job, "plain");
	ck_assert_int_eq(atomic_load(&plain->state), TABLE_COPIED);
	ck_assert_uint_eq(atomic_load(&plain->copied_rows), 3);
	ck_assert(atomic_load(&plain->copied_bytes) > 0);
	ck_assert(plain->snapshot != NULL && lsn_valid(plain->snapshot_lsn));
	/* A second call has nothing to do; a second process reads the same from the ledger. */
	ASSERT_OK(copy_tables(&job.options, &err));
	ck_assert_int_eq(db_int(job.target, "SELECT count(*) FROM pgbaton.relation"
	                                    " WHERE state = 'copied' AND snapshot IS NOT NULL"),
	                 (int)job.catalog->table_count);
	job_close(&job);
}
END_TEST

START_TEST(copies_a_value_of_50_megabytes)
{
	Error err = ERROR_INIT;
	Job job;

	job_open(&job, "CREATE TABLE big (id int PRIMARY KEY, t text, b bytea);"
	               "CREATE TABLE bigtext (r regclass, t text)");
	db_exec(job.source,
	        "INSERT INTO big SELECT 1, repeat(md5('x'), 1638400),"
	        " convert_to(repeat(md5('y'), 1638400), 'UTF8');"
	        "INSERT INTO bigtext SELECT 'pg_class', repeat(E'\\\\\\n' || md5('z'), 1500000)");
	ASSERT_OK(copy_tables(&job.options, &err));
	assert_same(&job, "SELECT length(t), md5(t), length(b), md5(b) FROM big");
	assert_same(&job, "SELECT r, length(t), md5(t) FROM bigtext");
	job_close(&job);
}
END_TEST

/* ---- C2 ---- */

enum { WRITERS = 3, WRITTEN_TABLES = 4 };

static _Atomic bool writing;

/* Rows carry their top-level transaction's xid, also those of sub-transactions; some of
 * these are rolled back. */
typedef struct {
	pthread_t thread;
	PGconn *conn; /* opened by the test: the harness is not for several threads */
	int seed;
} Writer;

static void *
writer_main(void *arg)
{
	PGconn *conn = ((Writer *)arg)->conn;
	int seed = ((Writer *)arg)->seed;

	for (int n = 0; atomic_load(&writing); n++) {
		int table = (n + seed) % WRITTEN_TABLES;
		db_exec(conn,
		        "BEGIN; INSERT INTO w%d SELECT txid_current(), %d, %d, i"
		        " FROM generate_series(1, 5) i",
		        table, seed, n);
		db_exec(conn,
		        "SAVEPOINT a; INSERT INTO w%d VALUES (txid_current(), %d, %d, 6);"
		        "SAVEPOINT b; INSERT INTO w%d VALUES (txid_current(), %d, %d, 7)",
		        table, seed, n, table, seed, n);
		db_exec(conn, n % 3 == 0 ? "ROLLBACK TO a" : "RELEASE a");
		db_exec(conn, n % 7 == 0 ? "ROLLBACK" : "COMMIT");
	}
	return NULL;
}

/* What the stored snapshot sees, and nothing else, is in the copy. */
static void
assert_visible_copied(const Job *job, const Table *table)
{
	char *from = db_rows(
		job->source,
		"SELECT count(*), md5(string_agg(format('%%s/%%s/%%s/%%s', x, w, n, i), ',' ORDER BY x, w, n, i))"
		" FROM %s WHERE pg_visible_in_snapshot(x::text::xid8, '%s')",
		table->name, table->snapshot);
	char *to = db_rows(
		job->target,
		"SELECT count(*), md5(string_agg(format('%%s/%%s/%%s/%%s', x, w, n, i), ',' ORDER BY x, w, n, i))"
		" FROM %s",
		table->name);

	ck_assert_str_eq(from, to);
	free(from);
	free(to);
}

START_TEST(a_row_is_copied_iff_its_xid_is_in_the_snapshot)
{
	Error err = ERROR_INIT;
	Writer writers[WRITERS];
	Job job;
	int64_t missing = 0;

	job_open(&job,
	         "CREATE TABLE w0 (x bigint, w int, n int, i int);"
	         "CREATE TABLE w1 (LIKE w0); CREATE TABLE w2 (LIKE w0); CREATE TABLE w3 (LIKE w0)");
	for (int t = 0; t < WRITTEN_TABLES; t++)
		db_exec(job.source,
		        "INSERT INTO w%d SELECT txid_current(), -1, 0, i"
		        " FROM generate_series(1, 50000) i",
		        t);
	atomic_store(&writing, true);
	for (int i = 0; i < WRITERS; i++) {
		writers[i] = (Writer){.conn = db_connect(cluster, "source"), .seed = i};
		ck_assert_int_eq(pthread_create(&writers[i].thread, NULL, writer_main, &writers[i]), 0);
	}
	db_wait_until(job.source, "SELECT count(*) > 50100 FROM w0", 30);
	bool ok = copy_tables(&job.options, &err);
	atomic_store(&writing, false);
	for (int i = 0; i < WRITERS; i++) {
		pthread_join(writers[i].thread, NULL);
		PQfinish(writers[i].conn);
	}
	ck_assert_msg(ok, "%s", servers_error(&err));

	for (size_t t = 0; t < job.catalog->table_count; t++) {
		assert_visible_copied(&job, &job.catalog->tables[t]);
		missing += db_int(job.source, "SELECT count(*) FROM %s", job.catalog->tables[t].name) -
		           db_int(job.target, "SELECT count(*) FROM %s", job.catalog->tables[t].name);
	}
	ck_assert_msg(missing > 0, "the writers wrote nothing after the copies: no test at all");
	job_close(&job);
}
END_TEST

/* TRUNCATE does not respect snapshots: without the lock before it, the copy would be
 * empty while the snapshot saw neither TRUNCATE nor the row behind it. */
START_TEST(the_lock_comes_before_the_snapshot)
{
	Copier copier;
	Job job;

	job_open(&job, "CREATE TABLE t (a bigint)");
	db_exec(job.source, "INSERT INTO t SELECT generate_series(1, 10)");
	PGconn *holder = db_connect(cluster, "source");
	db_exec(holder, "BEGIN; TRUNCATE t; INSERT INTO t VALUES (txid_current())");
	copier_start(&copier, &job);
	db_wait_until(job.source,
	              "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type ="
	              " 'Lock' AND application_name = 'pgbaton copy'",
	              20);
	db_exec(holder, "COMMIT");
	copier_join(&copier);
	ck_assert_msg(copier.ok, "%s", servers_error(&copier.err));
	ck_assert_int_eq(db_int(job.target, "SELECT count(*) FROM t"), 1);
	ck_assert(db_true(job.source, "SELECT pg_visible_in_snapshot(a::text::xid8, '%s') FROM t",
	                  table_of(&job, "t")->snapshot));
	PQfinish(holder);
	job_close(&job);
}
END_TEST

/* Each transaction writes one row to both tables. */
static void *
pair_writer_main(void *arg)
{
	PGconn *conn = arg;

	while (atomic_load(&writing))
		db_exec(conn, "BEGIN; INSERT INTO a VALUES (1); INSERT INTO b VALUES (1); COMMIT");
	return NULL;
}

START_TEST(one_snapshot_for_all_tables)
{
	Error err = ERROR_INIT;
	pthread_t thread;
	Job job;

	job_open(&job, "CREATE TABLE a (x int); CREATE TABLE b (x int); CREATE TABLE filler (x int)");
	db_exec(job.source, "INSERT INTO filler SELECT generate_series(1, 200000)");
	PGconn *conn = db_connect(cluster, "source");
	job.options.one_snapshot = true;
	job.options.jobs = 1; /* one after the other, with writes between */
	atomic_store(&writing, true);
	ck_assert_int_eq(pthread_create(&thread, NULL, pair_writer_main, conn), 0);
	db_wait_until(job.source, "SELECT count(*) > 20 FROM b", 30);
	bool ok = copy_tables(&job.options, &err);
	atomic_store(&writing, false);
	pthread_join(thread, NULL);
	PQfinish(conn);
	ck_assert_msg(ok, "%s", servers_error(&err));
	ck_assert_int_eq(db_int(job.target, "SELECT count(*) FROM a"),
	                 db_int(job.target, "SELECT count(*) FROM b"));
	ck_assert_int_gt(db_int(job.source, "SELECT count(*) FROM a"),
	                 db_int(job.target, "SELECT count(*) FROM a"));
	ck_assert_str_eq(table_of(&job, "a")->snapshot, table_of(&job, "b")->snapshot);
	job_close(&job);
}
END_TEST

/* ---- failures ---- */

START_TEST(a_failing_table_fails_alone)
{
	Error err = ERROR_INIT;
	Job job;

	job_open(&job,
	         "CREATE TABLE good (a int); CREATE TABLE bad (a int); CREATE TABLE fine (a int)");
	db_exec(job.source,
	        "INSERT INTO good SELECT generate_series(1, 10);"
	        "INSERT INTO bad SELECT generate_series(1, 1000); INSERT INTO fine VALUES (1)");
	db_exec(job.target, "ALTER TABLE bad ADD CONSTRAINT below CHECK (a < 500)");
	job.options.tries = 1000000; /* data errors are not tried again at all */
	ck_assert(!copy_tables(&job.options, &err));
	ck_assert_int_eq(err.class, ERROR_SQL);
	ck_assert_str_eq(err.sqlstate, "23514");
	ck_assert_msg(strstr(servers_error(&err), "table public.bad: target") != NULL, "%s",
	              servers_error(&err));
	ck_assert_int_eq(atomic_load(&table_of(&job, "bad")->state), TABLE_ERRORED);
	ck_assert(strstr(table_of(&job, "bad")->error, "below") != NULL);
	ck_assert_int_eq(atomic_load(&table_of(&job, "good")->state), TABLE_COPIED);
	ck_assert_int_eq(db_int(job.target, "SELECT count(*) FROM bad"), 0);
	ck_assert_int_eq(db_int(job.target, "SELECT count(*) FROM fine"), 1);

	db_exec(job.target, "ALTER TABLE bad DROP CONSTRAINT below");
	ASSERT_OK(copy_tables(&job.options, &err));
	ck_assert_int_eq(db_int(job.target, "SELECT count(*) FROM bad"), 1000);
	ck_assert_int_eq(db_int(job.target, "SELECT count(*) FROM good"), 10);
	job_close(&job);
}
END_TEST

static void
assert_refused(const Job *job, ErrorClass class, const char *text)
{
	Error err = ERROR_INIT;

	ck_assert(!copy_tables(&job->options, &err));
	ck_assert_msg(err.class == class && strstr(servers_error(&err), text) != NULL, "%s",
	              servers_error(&err));
	ck_assert(strstr(servers_error(&err), "public.t") != NULL);
}

START_TEST(refuses_rows_that_are_not_ours)
{
	Job job;

	job_open(&job, "CREATE TABLE t (a int)");
	db_exec(job.target, "INSERT INTO t VALUES (7)");
	assert_refused(&job, ERROR_CONFIG, "not empty");
	ck_assert_int_eq(db_int(job.target, "SELECT sum(a) FROM t"), 7);
	job_close(&job);
}
END_TEST

START_TEST(names_a_table_that_changed_meanwhile)
{
	const char *const changes[] = {"ALTER TABLE t ADD c int", "ALTER TABLE t RENAME a TO z",
	                               "ALTER TABLE t ALTER a TYPE bigint",
	                               "DROP TABLE t; CREATE TABLE t (a int, b int)"};

	for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
		Job job;
		job_open(&job, "CREATE TABLE t (a int, b int)");
		db_exec(job.source, "%s", changes[i]);
		assert_refused(&job, ERROR_CONFIG, "has changed on the source");
		job_close(&job);
	}
	Job job;
	job_open(&job, "CREATE TABLE t (a int, b int)");
	db_exec(job.source, "DROP TABLE t");
	assert_refused(&job, ERROR_SQL, "dropped or renamed");
	job_close(&job);
}
END_TEST

START_TEST(an_unreachable_target_ends_it_at_once)
{
	Error err = ERROR_INIT;
	Job job;

	job_open(&job, "CREATE TABLE a (x int); CREATE TABLE b (x int); CREATE TABLE c (x int)");
	conninfo_set(job.target_info, "port", "1");
	job.options.jobs = 1;
	job.options.tries = 1;
	ck_assert(!copy_tables(&job.options, &err));
	ck_assert_int_eq(err.class, ERROR_NETWORK);
	ck_assert(strstr(servers_error(&err), "2 were not tried") != NULL);
	job_close(&job);
}
END_TEST

/* ---- sessions lost in the middle ---- */

/* A trigger that acts even in the replica role and waits for an advisory lock that the
 * test holds: the copy stands still at a place that the test chose. */
static PGconn *
hold_copies(const Job *job, const char *trigger)
{
	PGconn *holder = db_connect(cluster, "target");

	db_exec(job->target, "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS"
	                     " 'BEGIN PERFORM pg_advisory_xact_lock_shared(42); RETURN new; END'");
	db_exec(job->target, "%s EXECUTE FUNCTION wait()", trigger);
	db_exec(job->target, "ALTER TABLE t ENABLE ALWAYS TRIGGER held");
	db_exec(holder, "SELECT pg_advisory_lock(42)");
	return holder;
}

static const char row_trigger[] =
	"CREATE TRIGGER held BEFORE INSERT ON t FOR EACH ROW WHEN (new.a = 500)";
static const char commit_trigger[] =
	"CREATE CONSTRAINT TRIGGER held AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED"
	" FOR EACH ROW WHEN (new.a = 500)";

static const char waiting[] = "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = 'target'"
							  " AND application_name = 'pgbaton copy' AND wait_event = 'advisory'";
static const char kill_target[] =
	"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'target'"
	" AND application_name = 'pgbaton copy'";

static void
kill_and_expect_success(const char *trigger)
{
	Copier copier;
	Job job;

	job_open(&job, "CREATE TABLE t (a int)");
	db_exec(job.source, "INSERT INTO t SELECT generate_series(1, 100000)");
	PGconn *holder = hold_copies(&job, trigger);
	copier_start(&copier, &job);
	db_wait_until(job.target, waiting, 20);
	db_exec(holder, "%s", kill_target);
	PQfinish(holder);
	copier_join(&copier);
	ck_assert_msg(copier.ok, "%s", servers_error(&copier.err));
	ck_assert_int_eq(db_int(job.target, "SELECT count(*) FROM t"), 100000);
	ck_assert_int_eq(db_int(job.target, "SELECT copied_rows FROM pgbaton.relation"), 100000);
	job_close(&job);
}

START_TEST(a_killed_target_session_is_tried_again)
{
	kill_and_expect_success(row_trigger);
}
END_TEST

START_TEST(a_session_killed_in_commit_is_looked_up_and_tried_again)
{
	kill_and_expect_success(commit_trigger);
}
END_TEST

/* The commit is there, its answer is not: the session waits for a standby that does not
 * exist, and is ended. Copying again would meet its own rows. */
START_TEST(a_commit_without_answer_is_looked_up)
{
	Copier copier;
	Job job;

	job_open(&job, "CREATE TABLE t (a int)");
	db_exec(job.source, "INSERT INTO t SELECT generate_series(1, 1000)");
	cluster_configure(cluster, "synchronous_standby_names = 'nobody'");
	copier_start(&copier, &job);
	db_wait_until(job.target,
	              "SELECT count(*) > 0 FROM pg_stat_activity WHERE"
	              " application_name = 'pgbaton copy' AND wait_event = 'SyncRep'",
	              20);
	db_exec(job.target, "%s", kill_target);
	copier_join(&copier);
	cluster_configure(cluster, "synchronous_standby_names = ''");
	ck_assert_msg(copier.ok, "%s", servers_error(&copier.err));
	ck_assert_int_eq(db_int(job.target, "SELECT count(*) FROM t"), 1000);
	ck_assert_int_eq(atomic_load(&table_of(&job, "t")->state), TABLE_COPIED);
	ck_assert(table_of(&job, "t")->snapshot != NULL);
	job_close(&job);
}
END_TEST

START_TEST(a_killed_source_session_is_tried_again)
{
	Copier copier;
	Job job;

	job_open(&job, "CREATE TABLE t (a int)");
	db_exec(job.source, "INSERT INTO t SELECT generate_series(1, 300000)");
	PGconn *holder = hold_copies(&job, row_trigger);
	copier_start(&copier, &job);
	db_wait_until(job.target, waiting, 20);
	db_exec(job.source, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname ="
	                    " 'source' AND application_name = 'pgbaton copy'");
	PQfinish(holder);
	copier_join(&copier);
	ck_assert_msg(copier.ok, "%s", servers_error(&copier.err));
	ck_assert_int_eq(db_int(job.target, "SELECT count(*) FROM t"), 300000);
	job_close(&job);
}
END_TEST

START_TEST(stop_ends_it_and_nothing_stays)
{
	Copier copier;
	Job job;

	job_open(&job, "CREATE TABLE t (a int); CREATE TABLE other (a int)");
	db_exec(job.source, "INSERT INTO t SELECT generate_series(1, 300000)");
	PGconn *holder = hold_copies(&job, row_trigger);
	copier_start(&copier, &job);
	db_wait_until(job.target, waiting, 20);
	stop_request(job.stop);
	copier_join(&copier); /* with the lock still held: it does not wait for the server */
	ck_assert(!copier.ok);
	ck_assert_int_eq(copier.err.class, ERROR_CANCELLED);
	ck_assert_int_eq(atomic_load(&table_of(&job, "t")->state), TABLE_QUEUED);
	PQfinish(holder);
	db_wait_until(job.target,
	              "SELECT count(*) = 0 FROM pg_stat_activity WHERE"
	              " application_name = 'pgbaton copy'",
	              20);
	ck_assert_int_eq(db_int(job.target, "SELECT count(*) FROM t"), 0);
	job_close(&job);
}
END_TEST

static Suite *
make_copy(void)
{
	Suite *suite = suite_create("copy");
	TCase *tc = tcase_create("copy");

	tcase_add_unchecked_fixture(tc, start, stop);
	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, copies_types_and_names);
	tcase_add_test(tc, copies_a_value_of_50_megabytes);
	tcase_add_test(tc, a_row_is_copied_iff_its_xid_is_in_the_snapshot);
	tcase_add_test(tc, the_lock_comes_before_the_snapshot);
	tcase_add_test(tc, one_snapshot_for_all_tables);
	tcase_add_test(tc, a_failing_table_fails_alone);
	tcase_add_test(tc, refuses_rows_that_are_not_ours);
	tcase_add_test(tc, names_a_table_that_changed_meanwhile);
	tcase_add_test(tc, an_unreachable_target_ends_it_at_once);
	tcase_add_test(tc, a_killed_target_session_is_tried_again);
	tcase_add_test(tc, a_session_killed_in_commit_is_looked_up_and_tried_again);
	tcase_add_test(tc, a_commit_without_answer_is_looked_up);
	tcase_add_test(tc, a_killed_source_session_is_tried_again);
	tcase_add_test(tc, stop_ends_it_and_nothing_stays);
	suite_add_tcase(suite, tc);
	return suite;
}

TEST_SUITE(make_copy)
