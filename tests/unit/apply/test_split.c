/*
 * Tables copied in ranges: each row once whatever moves meanwhile, whatever ends in the
 * middle; what an attempt leaves is removed, and nobody else's row is.
 */
#include <check.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "apply/copy/target.h"
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
	cluster = NULL;
}

static void
split_open(Load *load, const char *tables)
{
	load_open(load, cluster, tables, false);
	load->options.split_above = 64 * 1024;
	load->options.tries = 1; /* nothing is hidden by another one */
}

/* The ledger's row of a table that was split; attempt stays as the trace. */
static bool
was_split(const Load *load, const char *name)
{
	return db_true(load->target,
	               "SELECT state = 'copied' AND attempt IS NOT NULL FROM pgbaton.relation"
	               " WHERE table_name = '%s'",
	               name);
}

/* ---- kinds of tables ---- */

static const char kinds[] =
	"CREATE TABLE nokey (a int, t text);"
	"INSERT INTO nokey SELECT i % 100, md5((i / 3)::text) FROM generate_series(1, 20000) i;"
	"CREATE TABLE dropped (x int, id int PRIMARY KEY, y text, twice int GENERATED ALWAYS AS (id * 2) STORED);"
	"INSERT INTO dropped (x, id, y) SELECT i, i, 'y' || i FROM generate_series(1, 10000) i;"
	"ALTER TABLE dropped DROP COLUMN x; ALTER TABLE dropped ADD z int DEFAULT 7;"
	"CREATE TABLE toasted (id int PRIMARY KEY, t text); ALTER TABLE toasted ALTER t SET STORAGE EXTERNAL;"
	"INSERT INTO toasted SELECT i, repeat(md5(i::text), 300) FROM generate_series(1, 300) i;"
	"CREATE TABLE astext (id int, r regclass, t text);"
	"INSERT INTO astext SELECT i, 'pg_class', E'\\\\t\\t' || i FROM generate_series(1, 10000) i;"
	"CREATE TABLE root (id int, k int) PARTITION BY LIST (k);"
	"CREATE TABLE leaf1 PARTITION OF root FOR VALUES IN (1);"
	"CREATE TABLE leaf2 (k int, junk text, id int); ALTER TABLE leaf2 DROP COLUMN junk;"
	"ALTER TABLE root ATTACH PARTITION leaf2 FOR VALUES IN (2);"
	"INSERT INTO root SELECT i, 1 + i % 2 FROM generate_series(1, 20000) i;"
	"CREATE TABLE mother (id int); CREATE TABLE child () INHERITS (mother);"
	"INSERT INTO mother SELECT generate_series(1, 10000);"
	"INSERT INTO child SELECT generate_series(1, 10000);"
	"CREATE TABLE holes (id int, t text);"
	"INSERT INTO holes SELECT i, md5(i::text) FROM generate_series(1, 20000) i;"
	"DELETE FROM holes WHERE id > 100;"
	"CREATE TABLE gone (id int, t text);"
	"INSERT INTO gone SELECT i, md5(i::text) FROM generate_series(1, 20000) i; DELETE FROM gone;"
	"CREATE TABLE vacant (id int);";

START_TEST(each_kind_of_table)
{
	static const char *const split[] = {"nokey", "dropped", "toasted", "astext", "leaf1",
	                                    "leaf2", "mother",  "child",   "holes",  "gone"};
	Error err = ERROR_INIT;
	Load load;

	split_open(&load, kinds);
	ASSERT_OK(copy_tables(&load.options, &err));
	for (size_t i = 0; i < sizeof(split) / sizeof(split[0]); i++)
		ck_assert_msg(was_split(&load, split[i]), "%s was not split", split[i]);
	ck_assert(!was_split(&load, "vacant"));
	load_same(&load, "SELECT a, t, count(*) FROM nokey GROUP BY 1, 2 ORDER BY 1, 2");
	load_same(&load, "SELECT * FROM dropped ORDER BY id");
	load_same(&load, "SELECT id, md5(t) FROM toasted ORDER BY id");
	load_same(&load, "SELECT * FROM astext ORDER BY id");
	load_same(&load, "SELECT tableoid::regclass, id, k FROM root ORDER BY id");
	load_same(&load, "SELECT count(*), sum(id) FROM ONLY mother");
	load_same(&load, "SELECT count(*), sum(id) FROM child");
	load_same(&load, "SELECT * FROM holes ORDER BY id");
	load_same(&load, "SELECT count(*) FROM gone");
	ck_assert_uint_eq(atomic_load(&load_table(&load, "nokey")->copied_rows), 20000);
	ck_assert_uint_eq(atomic_load(&load_table(&load, "toasted")->copied_rows), 300);
	load_close(&load);
}
END_TEST

/* ---- C2 under writers ---- */

static _Atomic bool writing;

typedef struct {
	pthread_t thread;
	PGconn *conn;
} Mover;

static void
mover_start(Mover *mover, void *(*main)(void *))
{
	mover->conn = db_connect(cluster, "source");
	atomic_store(&writing, true);
	ck_assert_int_eq(pthread_create(&mover->thread, NULL, main, mover), 0);
}

static void
mover_end(Mover *mover)
{
	atomic_store(&writing, false);
	pthread_join(mover->thread, NULL);
	PQfinish(mover->conn);
}

/* Every transaction keeps the number of rows and their sum: rows move to other pages by
 * UPDATE, and rows are replaced by others far away. */
static void *
mover_main(void *arg)
{
	PGconn *conn = ((Mover *)arg)->conn;

	while (atomic_load(&writing)) {
		db_exec(conn,
		        "BEGIN; UPDATE moving SET v = v + CASE WHEN id %% 2 = 0 THEN 1 ELSE -1 END,"
		        " pad = md5(random()::text) WHERE id / 2 IN"
		        " (SELECT 1 + (random() * 4000)::int FROM generate_series(1, 30));"
		        "WITH old AS (DELETE FROM moving WHERE id = (SELECT max(id) FROM moving)"
		        " RETURNING id, v, pad) INSERT INTO moving SELECT id + 1, v, pad FROM old; COMMIT");
	}
	return NULL;
}

START_TEST(rows_that_move_are_copied_once)
{
	enum { ROUNDS = 4 };
	Error err = ERROR_INIT;
	Mover mover;
	Load load;

	/* Pairs 2k, 2k + 1: one gains what the other loses. One writer, so that it never waits. */
	split_open(&load,
	           "CREATE TABLE moving (id int, v int, pad text);"
	           "INSERT INTO moving SELECT i, 1000, md5(i::text) FROM generate_series(2, 10001) i;"
	           "CREATE INDEX ON moving ((id / 2)); CREATE INDEX ON moving (id)");
	mover_start(&mover, mover_main);
	for (int round = 0; round < ROUNDS; round++) {
		db_exec(load.target, "TRUNCATE moving; UPDATE pgbaton.relation SET state = 'queued'");
		atomic_store(&load_table(&load, "moving")->state, TABLE_QUEUED);
		ASSERT_OK(copy_tables(&load.options, &err));
		ck_assert(was_split(&load, "moving"));
		ck_assert_int_eq(db_int(load.target, "SELECT count(DISTINCT id) FROM moving"), 10000);
		ck_assert_int_eq(db_int(load.target, "SELECT count(*) FROM moving"), 10000);
		ck_assert_int_eq(db_int(load.target, "SELECT sum(v) FROM moving"), 10000 * 1000);
	}
	mover_end(&mover);
	ck_assert_msg(db_int(load.source, "SELECT max(id) FROM moving") > 10001, "nothing moved");
	load_close(&load);
}
END_TEST

static void *
grower_main(void *arg)
{
	PGconn *conn = ((Mover *)arg)->conn;

	while (atomic_load(&writing))
		db_exec(conn, "INSERT INTO growing SELECT txid_current(), md5(i::text)"
		              " FROM generate_series(1, 50) i");
	return NULL;
}

/* The table grows while its ranges are measured and copied: the copy is what the stored
 * snapshot sees. */
START_TEST(a_growing_table_is_what_its_snapshot_sees)
{
	Error err = ERROR_INIT;
	Mover grower;
	Load load;

	split_open(&load, "CREATE TABLE growing (x bigint, t text);"
	                  "INSERT INTO growing SELECT txid_current(), md5(i::text)"
	                  " FROM generate_series(1, 20000) i");
	mover_start(&grower, grower_main);
	db_wait_until(load.source, "SELECT count(*) > 20500 FROM growing", 30);
	bool ok = copy_tables(&load.options, &err);
	mover_end(&grower);
	ck_assert_msg(ok, "%s", servers_error(&err));
	ck_assert(was_split(&load, "growing"));
	int64_t seen = db_int(load.source,
	                      "SELECT count(*) FROM growing WHERE pg_visible_in_snapshot(x::text::xid8,"
	                      " '%s')",
	                      load_table(&load, "growing")->snapshot);
	ck_assert_int_eq(db_int(load.target, "SELECT count(*) FROM growing"), seen);
	ck_assert_int_lt(seen, db_int(load.source, "SELECT count(*) FROM growing"));
	load_close(&load);
}
END_TEST

static const char counted[] =
	"CREATE TABLE t (a int); INSERT INTO t SELECT generate_series(1, 50000)";

static void
assert_counted(const Load *load)
{
	ck_assert_int_eq(db_int(load->target, "SELECT count(*) FROM t"), 50000);
	ck_assert_int_eq(db_int(load->target, "SELECT count(DISTINCT a) FROM t"), 50000);
	ck_assert_int_eq(db_int(load->target, "SELECT copied_rows FROM pgbaton.relation"), 50000);
	ck_assert_uint_eq(atomic_load(&load_table(load, "t")->copied_rows), 50000);
}

static void *
filler_main(void *arg)
{
	PGconn *conn = ((Mover *)arg)->conn;

	db_exec(conn, "BEGIN");
	while (atomic_load(&writing))
		db_exec(conn, "INSERT INTO filled VALUES (1)");
	db_exec(conn, "ROLLBACK");
	return NULL;
}

/* The end of the WAL is not on the disk where a transaction writes and does not commit: the flush is
 * asked for without ending the transaction that holds the snapshot. */
START_TEST(a_snapshot_outlives_the_wait_for_its_flush)
{
	Error err = ERROR_INIT;
	Mover filler;
	Load load;

	split_open(&load, counted);
	db_exec(load.source, "CREATE TABLE filled (x int)");
	mover_start(&filler, filler_main);
	db_wait_until(load.source, "SELECT pg_current_wal_flush_lsn() < pg_current_wal_insert_lsn()",
	              30);
	bool ok = copy_tables(&load.options, &err);
	mover_end(&filler);
	ck_assert_msg(ok, "%s", servers_error(&err));
	assert_counted(&load);
	load_close(&load);
}
END_TEST

START_TEST(split_within_one_snapshot_of_all)
{
	Error err = ERROR_INIT;
	Load load;

	split_open(&load, kinds);
	load.options.one_snapshot = true;
	ASSERT_OK(copy_tables(&load.options, &err));
	ck_assert_str_eq(load_table(&load, "nokey")->snapshot, load_table(&load, "vacant")->snapshot);
	load_same(&load, "SELECT a, t, count(*) FROM nokey GROUP BY 1, 2 ORDER BY 1, 2");
	load_close(&load);
}
END_TEST

/* ---- what ends in the middle ---- */

static void
kill_sessions(PGconn *by, const char *db, const char *which)
{
	db_exec(by,
	        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '%s'"
	        " AND application_name = 'pgbaton copy' %s",
	        db, which);
}

/* side: whose sessions end. At the source that is the snapshot's holder too, so the whole
 * table begins anew; at the target the one in the middle of a range. (One in its COMMIT would
 * begin the table anew, too.) */
static void
kill_in_the_middle(const char *side)
{
	Loader loader;
	Load load;

	split_open(&load, counted);
	load.options.tries = 2;
	PGconn *holder = load_hold(&load);
	loader_start(&loader, &load);
	db_wait_until(load.target, load_held, 20);
	db_wait_until(load.target, "SELECT count(*) > 0 FROM t", 20);
	int64_t attempt = db_int(load.target, "SELECT attempt FROM pgbaton.relation");
	bool source = strcmp(side, "source") == 0;
	kill_sessions(holder, side, source ? "" : "AND wait_event = 'advisory'");
	PQfinish(holder);
	loader_join(&loader);
	ck_assert_msg(loader.ok, "%s", servers_error(&loader.err));
	assert_counted(&load);
	bool anew = db_int(load.target, "SELECT attempt FROM pgbaton.relation") != attempt;
	ck_assert(anew == source);
	load_close(&load);
}

START_TEST(a_killed_range_is_tried_again)
{
	kill_in_the_middle("target");
}
END_TEST

START_TEST(a_lost_snapshot_begins_the_table_anew)
{
	kill_in_the_middle("source");
}
END_TEST

/* Until it waits for the copy's lock. */
static PGconn *
truncate_queued(const Load *load, const char *table)
{
	PGconn *other = db_connect(cluster, "source");
	char sql[120];

	snprintf(sql, sizeof(sql), "TRUNCATE %s", table);
	ck_assert(PQsendQuery(other, sql));
	snprintf(sql, sizeof(sql),
	         "SELECT count(*) = 1 FROM pg_locks WHERE relation = '%s'::regclass AND NOT granted",
	         table);
	db_wait_until(load->source, sql, 20);
	return other;
}

/* A lock that waits for the snapshot's holder, with all that comes later behind it: the copy must
 * not wait for itself there. */
START_TEST(a_lock_that_waits_does_not_stop_the_copy)
{
	Loader loader;
	Load load;

	split_open(&load, counted);
	load.options.jobs = 1; /* most ranges are still to come */
	load.options.one_snapshot = _i == 1;
	PGconn *holder = load_hold(&load);
	loader_start(&loader, &load);
	db_wait_until(load.target, load_held, 20);
	PGconn *other = truncate_queued(&load, "t");
	PQfinish(holder);
	db_wait_until(load.target, "SELECT state = 'copied' FROM pgbaton.relation", 20);
	loader_join(&loader);
	ck_assert_msg(loader.ok, "%s", servers_error(&loader.err));
	assert_counted(&load);
	db_wait_until(load.source, "SELECT count(*) = 0 FROM t", 20);
	PQfinish(other);
	load_close(&load);
}
END_TEST

/* One snapshot of all tables holds all their locks: who waits for one that is still to come would
 * be waited for. */
START_TEST(a_lock_that_waits_for_all_is_named)
{
	Loader loader;
	Load load;

	split_open(&load, "CREATE TABLE t (a int); INSERT INTO t SELECT generate_series(1, 50000);"
	                  "CREATE TABLE u (a int); INSERT INTO u VALUES (1)");
	load.options.jobs = 1; /* the larger one first */
	load.options.one_snapshot = true;
	PGconn *holder = load_hold(&load);
	loader_start(&loader, &load);
	db_wait_until(load.target, load_held, 20);
	PGconn *other = truncate_queued(&load, "u");
	PQfinish(holder);
	db_wait_until(load.source, "SELECT count(*) = 0 FROM pg_locks WHERE NOT granted", 20);
	loader_join(&loader);
	ck_assert(!loader.ok);
	ck_assert_msg(strstr(servers_error(&loader.err), "table public.u") != NULL, "%s",
	              servers_error(&loader.err));
	ck_assert_int_eq(db_int(load.target, "SELECT count(*) FROM t"), 50000);
	PQfinish(other);
	load_close(&load);
}
END_TEST

/* A table copied afresh has its constraints already. */
START_TEST(rows_that_break_a_constraint_say_what_to_do)
{
	Error err = ERROR_INIT;
	Load load;

	split_open(&load, "CREATE TABLE t (a int); INSERT INTO t VALUES (-1);"
	                  "ALTER TABLE t ADD CHECK (a > 0) NOT VALID");
	ck_assert(!copy_tables(&load.options, &err));
	ck_assert_str_eq(err.sqlstate, "23514");
	ck_assert_msg(strstr(err.hint, "NOT VALID") != NULL, "%s", servers_error(&err));
	load_close(&load);
}
END_TEST

/* As after kill -9: some ranges are committed, nothing says copied. The next process
 * removes them, also when it does not split. */
static void
broken_off(uint64_t split_above)
{
	Error err = ERROR_INIT;
	Loader loader;
	Load load;

	split_open(&load, counted);
	PGconn *holder = load_hold(&load);
	loader_start(&loader, &load);
	db_wait_until(load.target, load_held, 20);
	db_wait_until(load.target, "SELECT count(*) > 0 FROM t", 20);
	stop_request(load.stop);
	loader_join(&loader);
	ck_assert(!loader.ok);
	ck_assert_int_eq(loader.err.class, ERROR_CANCELLED);
	PQfinish(holder);
	ck_assert_int_gt(db_int(load.target, "SELECT count(*) FROM t"), 0);
	ck_assert(db_true(load.target, "SELECT state = 'copying' FROM pgbaton.relation"));

	load_restart(&load);
	ck_assert_int_eq(atomic_load(&load_table(&load, "t")->state), TABLE_QUEUED);
	load.options.split_above = split_above;
	ASSERT_OK(copy_tables(&load.options, &err));
	assert_counted(&load);
	/* Once it is copied a later start leaves it alone. */
	load_restart(&load);
	ASSERT_OK(copy_tables(&load.options, &err));
	assert_counted(&load);
	load_close(&load);
}

START_TEST(what_was_broken_off_is_removed)
{
	broken_off(64 * 1024);
}
END_TEST

START_TEST(what_was_broken_off_is_removed_unsplit)
{
	broken_off(0);
}
END_TEST

START_TEST(rows_that_are_not_ours_are_refused)
{
	Error err = ERROR_INIT;
	Load load;

	split_open(&load, counted);
	db_exec(load.target, "INSERT INTO t VALUES (-1)");
	ck_assert(!copy_tables(&load.options, &err));
	ck_assert_int_eq(err.class, ERROR_CONFIG);
	ck_assert(strstr(servers_error(&err), "not empty") != NULL);
	ck_assert_int_eq(db_int(load.target, "SELECT sum(a) FROM t"), -1);
	ck_assert(db_true(load.target, "SELECT state = 'queued' FROM pgbaton.relation"));
	load_close(&load);
}
END_TEST

static bool
outcome(Load *load, const CopySession *session, const char *snapshot)
{
	Error err = ERROR_INIT;
	bool committed = false;

	ASSERT_OK(copy_target_outcome(session, &load->ledger, load_table(load, "t"), snapshot,
	                              &committed, &err));
	return committed;
}

/* After a crash of the target the copy's xid may be unknown, or another transaction's: the
 * record alone says what came of a COMMIT without an answer. */
START_TEST(an_outcome_is_what_the_record_says)
{
	Error err = ERROR_INIT;
	CopySession session = COPY_SESSION_CLOSED;
	Load load;

	split_open(&load, counted);
	ASSERT_OK(copy_session_open(&session, &load.options, &err));
	db_exec(load.target, "DELETE FROM pgbaton.relation");
	ck_assert(!outcome(&load, &session, "5:5:"));
	ck_assert_int_eq(db_int(load.target, "SELECT count(*) FROM pgbaton.relation"), 0);
	db_exec(load.target, "INSERT INTO pgbaton.relation (schema_name, table_name, state, snapshot)"
	                     " VALUES ('public', 't', 'copied', '5:5:')");
	ck_assert(outcome(&load, &session, "5:5:"));
	ck_assert(!outcome(&load, &session, "6:6:"));
	db_exec(load.target, "UPDATE pgbaton.relation SET state = 'queued'");
	ck_assert(!outcome(&load, &session, "5:5:"));
	/* While it is being recorded nothing is known. */
	db_exec(load.target, "BEGIN; UPDATE pgbaton.relation SET state = 'copied'");
	bool committed = false;
	ck_assert(!copy_target_outcome(&session, &load.ledger, load_table(&load, "t"),
	                               "5:5:", &committed, &err));
	ck_assert_int_eq(err.class, ERROR_NETWORK);
	db_exec(load.target, "COMMIT");
	copy_session_close(&session);
	load_close(&load);
}
END_TEST

/* A process that was thought dead goes on with its ranges: it finds another attempt. */
START_TEST(an_attempt_that_was_overtaken_adds_nothing)
{
	Error err = ERROR_INIT;
	CopySession session = COPY_SESSION_CLOSED;
	char first[24];
	char second[24];
	Load load;

	split_open(&load, counted);
	Table *t = load_table(&load, "t");
	ASSERT_OK(copy_session_open(&session, &load.options, &err));
	ASSERT_OK(copy_target_begin_split(&session, &load.ledger, t, first, &err));
	t->rows_remain = true;
	ASSERT_OK(copy_target_begin_split(&session, &load.ledger, t, second, &err));
	ck_assert_str_ne(first, second);
	ck_assert(!copy_target_begin_range(&session, &load.ledger, t, first, &err));
	ck_assert_int_eq(err.class, ERROR_CONFIG);
	copy_session_close(&session);
	ASSERT_OK(copy_session_open(&session, &load.options, &err));
	ASSERT_OK(copy_target_begin_range(&session, &load.ledger, t, second, &err));
	/* While it is open no other attempt can begin. */
	db_exec(load.target, "SET lock_timeout = 100");
	free(db_expect_error(load.target, "55P03", "UPDATE pgbaton.relation SET attempt = 1"));
	copy_session_close(&session);
	load_close(&load);
}
END_TEST

/* A foreign key that points to it forbids TRUNCATE: rows of a broken off split could not be
 * removed, so it is copied in one piece. */
START_TEST(what_cannot_be_emptied_is_not_split)
{
	Error err = ERROR_INIT;
	Load load;

	split_open(&load,
	           "CREATE TABLE t (a int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 50000);"
	           "CREATE TABLE r (a int REFERENCES t)");
	ASSERT_OK(copy_tables(&load.options, &err));
	ck_assert(!was_split(&load, "t"));
	ck_assert_int_eq(db_int(load.target, "SELECT count(*) FROM t"), 50000);
	load_close(&load);
}
END_TEST

/* ---- FREEZE ---- */

START_TEST(a_whole_table_is_frozen_as_it_comes)
{
	Error err = ERROR_INIT;
	Load load;

	load_open(&load, cluster,
	          "CREATE TABLE t (a int, t text);"
	          "INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 30000) i",
	          false);
	ASSERT_OK(copy_tables(&load.options, &err));
	load_same(&load, "SELECT * FROM t ORDER BY a");
	db_exec(load.target, "ANALYZE t");
	ck_assert(db_true(load.target, "SELECT relallvisible = relpages AND relpages > 100"
	                               " FROM pg_class WHERE oid = 't'::regclass"));
	load_close(&load);
}
END_TEST

/* ---- before 14: by key ---- */

static Cluster *
old_cluster(int major)
{
	return servers_start(major, NULL);
}

START_TEST(ranges_of_keys_before_14)
{
	Error err = ERROR_INIT;
	Load load;

	TEST_NEEDS_MAJOR(13);
	cluster = old_cluster(13);
	split_open(
		&load,
		"CREATE TABLE wide (id bigint PRIMARY KEY, t text);"
		"INSERT INTO wide SELECT i::bigint * 1000003, md5(i::text) FROM generate_series(-10000, 10000) i;"
		"INSERT INTO wide VALUES (-9223372036854775808, 'low'), (9223372036854775807, 'high');"
		"CREATE TABLE dense (id smallint PRIMARY KEY, t text);"
		"INSERT INTO dense SELECT i, repeat('x', 500) FROM generate_series(1, 300) i;"
		"CREATE TABLE nokey (t text); INSERT INTO nokey SELECT md5(i::text) FROM generate_series(1, 5000) i");
	ASSERT_OK(copy_tables(&load.options, &err));
	ck_assert(was_split(&load, "wide"));
	ck_assert(was_split(&load, "dense"));
	ck_assert(!was_split(&load, "nokey"));
	load_same(&load, "SELECT * FROM wide ORDER BY id");
	load_same(&load, "SELECT * FROM dense ORDER BY id");
	load_same(&load, "SELECT * FROM nokey ORDER BY t");
	load_close(&load);
	stop();
}
END_TEST

static Suite *
make_split(void)
{
	Suite *suite = suite_create("split");
	TCase *tc = tcase_create("split");
	TCase *old = tcase_create("split_by_key");

	tcase_add_unchecked_fixture(tc, start, stop);
	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, each_kind_of_table);
	tcase_add_test(tc, rows_that_move_are_copied_once);
	tcase_add_test(tc, a_growing_table_is_what_its_snapshot_sees);
	tcase_add_test(tc, a_snapshot_outlives_the_wait_for_its_flush);
	tcase_add_test(tc, split_within_one_snapshot_of_all);
	tcase_add_test(tc, a_killed_range_is_tried_again);
	tcase_add_test(tc, a_lost_snapshot_begins_the_table_anew);
	tcase_add_loop_test(tc, a_lock_that_waits_does_not_stop_the_copy, 0, 2);
	tcase_add_test(tc, a_lock_that_waits_for_all_is_named);
	tcase_add_test(tc, rows_that_break_a_constraint_say_what_to_do);
	tcase_add_test(tc, what_was_broken_off_is_removed);
	tcase_add_test(tc, what_was_broken_off_is_removed_unsplit);
	tcase_add_test(tc, rows_that_are_not_ours_are_refused);
	tcase_add_test(tc, an_outcome_is_what_the_record_says);
	tcase_add_test(tc, an_attempt_that_was_overtaken_adds_nothing);
	tcase_add_test(tc, what_cannot_be_emptied_is_not_split);
	tcase_add_test(tc, a_whole_table_is_frozen_as_it_comes);
	suite_add_tcase(suite, tc);
	tcase_set_timeout(old, 120);
	tcase_add_test(old, ranges_of_keys_before_14);
	suite_add_tcase(suite, old);
	return suite;
}

TEST_SUITE(make_split)
