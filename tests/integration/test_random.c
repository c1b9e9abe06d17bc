/*
 * Random transactions on a few rows, so that nearly every one collides with the ones
 * before it: keys that are deleted and come back, unique values that change owners (in
 * chains, in rotations, by way of NULL, where constraints are deferred all at once), ranges
 * that wander, rows that swap keys, duplicates without a key. Bursts pile up in front of a
 * paused or killed pgbaton and are then applied in large batches by 1, 2, 4 and 8 lanes; at
 * each marker source and target must be equal, and at the end batches must have been
 * replayed, or nothing collided.
 *
 * In the case `random` one session writes, so the seed decides all that reaches the source:
 * PGBATON_SEED=N CK_RUN_CASE=random repeats it. In `concurrent` three do. RANDOM_ROUNDS=N for
 * longer.
 */
#include <check.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/clock.h"
#include "tests/harness/compare.h"
#include "tests/harness/db.h"
#include "tests/harness/pgbaton.h"
#include "tests/integration/workload.h"
#include "tests/integration/workload_sql.h"
#include "tests/unit/runner.h"

enum { ROUNDS = 12, CONCURRENT_ROUNDS = 5, WRITERS = 3, BURST = 120, EQUAL_WITHIN_S = 60 };

static const int lane_counts[] = {1, 2, 4, 8};

static const char schema[] =
	"CREATE TABLE k (id int PRIMARY KEY, a int, b text);"
	"CREATE TABLE u (id int PRIMARY KEY, a int UNIQUE, b int UNIQUE);"
	"CREATE TABLE d (id int PRIMARY KEY, a int UNIQUE DEFERRABLE INITIALLY DEFERRED);"
	"CREATE TABLE e (id int PRIMARY KEY, r int4range, EXCLUDE USING gist (r WITH &&));"
	"CREATE TABLE nn (id int PRIMARY KEY, a int, UNIQUE NULLS NOT DISTINCT (a));"
	"CREATE TABLE pu (id int PRIMARY KEY, a int, live bool NOT NULL);"
	"CREATE UNIQUE INDEX pu_live ON pu (a) WHERE live;"
	"CREATE TABLE dp (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, v int);"
	"CREATE TABLE dx (id int PRIMARY KEY, r int4range,"
	" EXCLUDE USING gist (r WITH &&) DEFERRABLE INITIALLY DEFERRED);"
	"CREATE TABLE wide (id int PRIMARY KEY, e int UNIQUE, n int NOT NULL DEFAULT 0);"
	"CREATE TABLE c (x text, y int, v int[], PRIMARY KEY (y, x));"
	"CREATE TABLE f (a int, b text, j json, n numeric);"
	"CREATE TABLE big (id int PRIMARY KEY, t text, v int);"
	"ALTER TABLE big ALTER t SET STORAGE EXTERNAL;"
	"CREATE TABLE parent (id int PRIMARY KEY);"
	"CREATE TABLE child (id int PRIMARY KEY,"
	" p int REFERENCES parent ON UPDATE CASCADE ON DELETE CASCADE);"
	"CREATE TABLE part (id int, z int, v int, PRIMARY KEY (id, z)) PARTITION BY LIST (z);"
	"CREATE TABLE part1 PARTITION OF part FOR VALUES IN (1);"
	"CREATE TABLE part2 PARTITION OF part FOR VALUES IN (2, NULL);"
	"CREATE TABLE part_rest PARTITION OF part DEFAULT;"
	"CREATE TABLE mark (round int PRIMARY KEY);"
	"INSERT INTO u SELECT g, g, g FROM generate_series(1, 8) g;"
	"INSERT INTO d SELECT g, g FROM generate_series(1, 8) g;"
	"INSERT INTO e SELECT g, int4range(g * 4, g * 4 + 3) FROM generate_series(1, 8) g;"
	"INSERT INTO nn SELECT g, nullif(g, 8) FROM generate_series(1, 8) g;"
	"INSERT INTO pu SELECT g, (g + 1) / 2, g % 2 = 0 FROM generate_series(1, 8) g;"
	"INSERT INTO dp SELECT g, g FROM generate_series(1, 8) g;"
	"INSERT INTO dx SELECT g, int4range(g * 4, g * 4 + 3) FROM generate_series(1, 8) g;"
	"INSERT INTO wide SELECT g, g FROM generate_series(1, 400) g;"
	"INSERT INTO big SELECT g, repeat(md5(g::text), 120), 0 FROM generate_series(1, 4) g;";

static const char *const statements[] = {
	"INSERT INTO k VALUES ({6}, {9}, 'x{9}') ON CONFLICT (id) DO UPDATE SET b = 'again'",
	"INSERT INTO k SELECT {6}, 0, NULL ON CONFLICT DO NOTHING",
	"DELETE FROM k WHERE id = {6}",
	"UPDATE k SET a = a + 1 WHERE id <= {6}",
	"UPDATE k SET id = {6} WHERE id = {6} AND NOT EXISTS (SELECT FROM k WHERE id < 0)",
	"UPDATE k SET id = -id",
	"UPDATE k SET b = NULL, a = {9} WHERE id = {6}",
	"UPDATE u SET a = NULL WHERE id = {8}",
	"UPDATE u SET a = {8} WHERE id = {8}",
	"UPDATE u SET b = {9} WHERE id = {8}",
	"DELETE FROM u WHERE a = {8}",
	"INSERT INTO u VALUES ({8}, {8}, {9})",
	"UPDATE u SET id = id + 8 WHERE id = {8}",
	"UPDATE u SET id = id - 8 WHERE id = 8 + {8}",
	"UPDATE u SET a = -a, b = -b WHERE id % 2 = 0",
	"UPDATE d SET a = 9 - a",
	"UPDATE d SET a = CASE a WHEN 8 THEN 1 ELSE a + 1 END",
	"UPDATE d SET id = id + 100 WHERE id = {8}",
	"UPDATE d SET id = id - 100 WHERE id = 100 + {8}",
	"UPDATE e SET r = int4range({30}, {30} + 30) WHERE id = {8}",
	"UPDATE e SET r = int4range(lower(r), lower(r) + {3}) WHERE id = {8}",
	"DELETE FROM e WHERE id = {8}",
	"INSERT INTO e SELECT {8}, int4range(a, a + 2) FROM (SELECT {40} AS a) x",
	"UPDATE e SET r = int4range(lower(r) + 100, upper(r) + 100) WHERE lower(r) < 50 AND id <= {8}",
	"UPDATE e SET r = int4range(lower(r) - 100, upper(r) - 100) WHERE lower(r) >= 100 AND id <= "
	"{8}",
	/* every value one on, in one statement each way */
	"UPDATE u SET a = -a; UPDATE u SET a = CASE WHEN a = -1 THEN 8 ELSE -a - 1 END WHERE a < 0",
	"UPDATE u SET b = NULL WHERE id = {8}; UPDATE u SET b = b + 1 WHERE b = {8};"
	"UPDATE u SET b = {9} WHERE b IS NULL AND id = {8}",
	"UPDATE nn SET a = {8} WHERE a IS NULL; UPDATE nn SET a = NULL WHERE id = {8}",
	"UPDATE nn SET a = {8} + 100 WHERE a = {8}; UPDATE nn SET a = a - 100 WHERE a > 100",
	"DELETE FROM nn WHERE id = {8}; INSERT INTO nn VALUES ({8}, {8})",
	"UPDATE pu SET live = false WHERE a = {4} AND live;"
	"UPDATE pu SET live = true WHERE id = {8}",
	"UPDATE pu SET a = {4} WHERE id = {8}",
	"UPDATE pu SET live = NOT live WHERE a = {4}",
	"UPDATE dp SET id = id + 1",
	"UPDATE dp SET id = id - 1 WHERE (SELECT min(id) FROM dp) > {8}",
	"UPDATE dp SET id = 9 - id WHERE id BETWEEN 1 AND 8; UPDATE dp SET v = v + 1",
	"DELETE FROM dp WHERE id = {8}; INSERT INTO dp SELECT max(id) + 1, {9} FROM dp",
	"UPDATE dx SET r = int4range(lower(r) + 4, upper(r) + 4)",
	"UPDATE dx SET r = int4range(lower(r) - 4, upper(r) - 4) WHERE lower(r) > {30}",
	"UPDATE dx SET r = (SELECT o.r FROM dx o WHERE o.id = 9 - dx.id) WHERE id IN (3, 6)",
	/* many rows, so that the lanes share the batch, and values that wander between them */
	"UPDATE wide SET n = n + 1",
	"UPDATE wide SET e = -e - 2000 WHERE e BETWEEN 1 AND {300};"
	"UPDATE wide SET e = CASE WHEN e = -2001 THEN (SELECT -2000 - min(e) FROM wide)"
	" ELSE -2001 - e END WHERE e <= -2001",
	"UPDATE wide SET e = e + 1000 WHERE id <= {300};"
	"UPDATE wide SET e = 1001 + (SELECT max(e) - 1000 FROM wide) - (e - 1000) WHERE e > 1000;"
	"UPDATE wide SET e = e - 1000 WHERE e > 1000",
	"DELETE FROM wide WHERE id > 400 - {99}; INSERT INTO wide SELECT g, -g FROM generate_series"
	"(301, 400) g ON CONFLICT DO NOTHING",
	"INSERT INTO c VALUES ('{3}', {3}, '{{1},{2}}') ON CONFLICT DO NOTHING",
	"UPDATE c SET x = '{3}' WHERE x = '{3}' AND y = {3}",
	"UPDATE c SET v = v || {9} WHERE y = {3} AND coalesce(array_length(v, 1), 0) < 4",
	"DELETE FROM c WHERE y = {3}",
	"INSERT INTO f SELECT {2}, 'd', '[{2}]', {2} FROM generate_series(1, {3})",
	"INSERT INTO f VALUES ({2}, NULL, NULL, 1.0), ({2}, NULL, NULL, 1.00)",
	"UPDATE f SET b = 'e{2}' WHERE ctid = (SELECT min(ctid::text)::tid FROM f)",
	"UPDATE f SET a = {2}, j = '{}' WHERE a = {2} AND b = 'd'",
	"DELETE FROM f WHERE ctid = (SELECT max(ctid::text)::tid FROM f)",
	"DELETE FROM f WHERE a = {2} AND n = {2}",
	"DELETE FROM f WHERE (SELECT count(*) FROM f) > 60",
	"UPDATE big SET v = v + 1 WHERE id = {4}",
	"UPDATE big SET t = repeat(md5('{99}'), {150}) WHERE id = {4}",
	"UPDATE big SET id = -id WHERE abs(id) = {4}",
	"DELETE FROM big WHERE id = {4}; INSERT INTO big VALUES ({9}, repeat('y{9}', 3000), {9})",
	"INSERT INTO big SELECT id + 4, t, v FROM big WHERE id = {4}",
	"DELETE FROM big WHERE id > 4",
	"INSERT INTO parent VALUES ({6}) ON CONFLICT DO NOTHING",
	"INSERT INTO child SELECT {9}, {6}",
	"UPDATE parent SET id = id + 10 WHERE id = {6}",
	"UPDATE parent SET id = id - 10 WHERE id = 10 + {6}",
	"DELETE FROM parent WHERE id % 10 = {6}",
	"DELETE FROM child WHERE id = {9}",
	"INSERT INTO part VALUES ({6}, {3}, 0)",
	"UPDATE part SET z = {4} WHERE id = {6}",
	"UPDATE part SET v = v + 1",
	"DELETE FROM part WHERE id = {6}",
	/* many rows at once */
	"INSERT INTO k SELECT g, g, 'many' FROM generate_series(100, 100 + {300}) g"
	" ON CONFLICT DO NOTHING",
	"DELETE FROM k WHERE id >= 100",
};

/* These end what the others collide in: rarer. */
static const char *const truncates[] = {
	"TRUNCATE k", "TRUNCATE f, c", "TRUNCATE parent CASCADE", "TRUNCATE part1", "TRUNCATE e",
};

static void
append_statement(Buffer *sql, uint64_t *random)
{
	bool rare = random_below(random, 60) == 0;
	const char
		*text = rare ? truncates[random_below(random, sizeof(truncates) / sizeof(truncates[0]))]
	                 : statements[random_below(random, sizeof(statements) / sizeof(statements[0]))];
	char *filled = sql_fill(text, random);

	/* A statement that collides is as if it had not been. */
	buffer_printf(sql,
	              "BEGIN\n%s;\n%sEXCEPTION WHEN integrity_constraint_violation OR data_exception"
	              " THEN NULL; WHEN raise_exception THEN NULL;\nEND;\n",
	              filled, random_below(random, 8) == 0 ? "RAISE EXCEPTION 'back';\n" : "");
	free(filled);
}

/* 1 to 6 statements, each in a sub-transaction. */
static void
run_transaction(PGconn *conn, uint64_t *random)
{
	Buffer sql = BUFFER_INIT;
	char sqlstate[6];

	buffer_put_text(&sql, "DO $do$ BEGIN\n");
	for (uint64_t n = 1 + random_below(random, 6); n > 0; n--)
		append_statement(&sql, random);
	buffer_put_text(&sql, "END $do$");
	/* What is checked at the commit may refuse it as a whole, and so may another writer. */
	if (!db_try(conn, sqlstate, "%s", buffer_cstr(&sql)) && sqlstate[0] != '2' &&
	    strncmp(sqlstate, "40", 2) != 0)
		ck_abort_msg("SQLSTATE %s: %s", sqlstate, buffer_cstr(&sql));
	buffer_free(&sql);
}

static Cluster *source_cluster;
static Cluster *target_cluster;

static void
start_clusters(void)
{
	source_cluster = cluster_start(
		&(ClusterOptions){.name = "source", .conf = "deadlock_timeout = 20ms\n"});
	target_cluster = cluster_start(&(ClusterOptions){.name = "target"});
}

static void
stop_clusters(void)
{
	cluster_free(source_cluster);
	cluster_free(target_cluster);
}

typedef struct {
	char name[32];
	PGconn *source;
	PGconn *target;
	Pgbaton *p;
	uint64_t seed;
	uint64_t random;
	int lanes;
	int writers;
	long long replays; /* of the processes that have been killed */
} Case;

static void
open_case(Case *c, int lanes, int writers)
{
	char lanes_text[8];
	const char *args[] = {"--name", c->name, "--lanes", lanes_text, NULL};

	*c = (Case){.lanes = lanes, .writers = writers, .seed = workload_seed()};
	printf("  %d lanes: PGBATON_SEED=%llu\n", lanes, (unsigned long long)c->seed);
	c->random = c->seed + (uint64_t)lanes;
	snprintf(lanes_text, sizeof(lanes_text), "%d", lanes);
	snprintf(c->name, sizeof(c->name), "random_%d_%d", lanes, writers);
	db_create(source_cluster, c->name);
	db_create(target_cluster, c->name);
	c->source = db_connect(source_cluster, c->name);
	c->target = db_connect(target_cluster, c->name);
	db_exec(c->source, "%s", schema);
	c->p = pgbaton_start(&(PgbatonOptions){.source = cluster_uri(source_cluster, c->name),
	                                       .target = cluster_uri(target_cluster, c->name),
	                                       .args = args});
}

static void
close_case(Case *c)
{
	pgbaton_free(c->p);
	PQfinish(c->source);
	PQfinish(c->target);
}

typedef struct {
	pthread_t thread;
	PGconn *conn;
	uint64_t random;
	uint64_t transactions;
} Writer;

static void *
writer_main(void *arg)
{
	Writer *w = arg;

	for (uint64_t n = w->transactions; n > 0; n--)
		run_transaction(w->conn, &w->random);
	PQfinish(w->conn);
	return NULL;
}

static void
burst_together(Case *c, uint64_t transactions)
{
	Writer writers[WRITERS];

	for (int i = 0; i < c->writers; i++) {
		writers[i] = (Writer){.conn = db_connect(source_cluster, c->name),
		                      .random = random_next(&c->random),
		                      .transactions = transactions / (uint64_t)c->writers + 1};
		ck_assert_int_eq(pthread_create(&writers[i].thread, NULL, writer_main, &writers[i]), 0);
	}
	for (int i = 0; i < c->writers; i++)
		pthread_join(writers[i].thread, NULL);
}

static void
burst(Case *c)
{
	uint64_t transactions = 1 + random_below(&c->random, BURST);

	if (c->writers > 1)
		burst_together(c, transactions);
	for (uint64_t n = c->writers > 1 ? 0 : transactions; n > 0; n--)
		run_transaction(c->source, &c->random);
}

/*
 * Nobody writes: the target has to become what the source is. The comparison begins when
 * the round's last row has come: a TRUNCATE that is still under way would take its locks
 * in another order.
 */
static void
wait_equal(Case *c, int round)
{
	char sql[80];

	db_exec(c->source, "INSERT INTO mark VALUES (%d)", round);
	snprintf(sql, sizeof(sql), "SELECT EXISTS (SELECT FROM mark WHERE round = %d)", round);
	pgbaton_wait_state(c->p, "following", EQUAL_WITHIN_S);
	db_wait_until(c->target, sql, EQUAL_WITHIN_S);
	int64_t deadline = deadline_in_ms(EQUAL_WITHIN_S * 1000);
	Buffer report = BUFFER_INIT;

	const CompareOptions options = {.own_schema = c->name};
	while (!databases_equal(c->source, c->target, &options, &report)) {
		if (deadline_left_ms(deadline) == 0 || pgbaton_ended(c->p)) {
			fprintf(stderr, "--- log of pgbaton\n%s---\n%s---\n", pgbaton_log(c->p),
			        buffer_cstr(&report));
			ck_abort_msg("PGBATON_SEED=%llu, %d lanes, round %d: not equal: %.1200s",
			             (unsigned long long)c->seed, c->lanes, round, buffer_cstr(&report));
		}
		buffer_reset(&report);
		poll(NULL, 0, 30);
	}
	buffer_free(&report);
}

static void
kill_and_resume(Case *c)
{
	c->replays += pgbaton_status_int(c->p, "stream.replays");
	pgbaton_stop(c->p, SIGKILL);
	if (random_below(&c->random, 2) == 0)
		burst(c);
	pgbaton_again(c->p);
}

static void
pause_and_resume(Case *c)
{
	pgbaton_wait_state(c->p, "following", 60);
	ck_assert_int_eq(pgbaton_cli(c->p, NULL, 30, "pause", NULL), 0);
	burst(c);
	burst(c);
	ck_assert_int_eq(pgbaton_cli(c->p, NULL, 30, "resume", NULL), 0);
}

/*
 * In the replica role what is deferred is never checked on the target: only that it is equal
 * to a source that was unique makes it so. Asked for all the same.
 */
static void
check_unique(Case *c)
{
	static const char *const twice[] = {
		"SELECT a FROM u GROUP BY a HAVING count(a) > 1",
		"SELECT b FROM u GROUP BY b HAVING count(b) > 1",
		"SELECT a FROM d GROUP BY a HAVING count(a) > 1",
		"SELECT a FROM nn GROUP BY a HAVING count(*) > 1",
		"SELECT a FROM pu WHERE live GROUP BY a HAVING count(*) > 1",
		"SELECT id FROM dp GROUP BY id HAVING count(*) > 1",
		"SELECT e FROM wide GROUP BY e HAVING count(e) > 1",
		"SELECT FROM dx x, dx y WHERE x.id < y.id AND x.r && y.r",
		"SELECT FROM e x, e y WHERE x.id < y.id AND x.r && y.r",
	};

	for (size_t i = 0; i < sizeof(twice) / sizeof(twice[0]); i++)
		ck_assert_msg(!db_true(c->target, "SELECT EXISTS (%s)", twice[i]), "%s", twice[i]);
}

static void
many_rounds(Case *c, int rounds)
{
	const char *more = getenv("RANDOM_ROUNDS");

	burst(c); /* during the copy */
	for (int round = 0; round < (more != NULL ? atoi(more) : rounds); round++) {
		burst(c);
		switch (random_below(&c->random, 4)) {
		case 0:
			kill_and_resume(c);
			break;
		case 1:
			pause_and_resume(c);
			break;
		default:
			break;
		}
		wait_equal(c, round);
	}
	check_unique(c);
	c->replays += pgbaton_status_int(c->p, "stream.replays");
	printf("  %d lanes, %d writers: %lld batches were replayed\n", c->lanes, c->writers,
	       c->replays);
	ck_assert_int_gt(c->replays, 0);
}

START_TEST(few_rows_many_conflicts)
{
	Case c;

	open_case(&c, lane_counts[_i], 1);
	many_rounds(&c, ROUNDS);
	close_case(&c);
}
END_TEST

START_TEST(several_writers)
{
	Case c;

	open_case(&c, _i == 0 ? 4 : 8, WRITERS);
	many_rounds(&c, CONCURRENT_ROUNDS);
	close_case(&c);
}
END_TEST

static Suite *
make(void)
{
	Suite *suite = suite_create("random");
	TCase *tcase = tcase_create("random");
	int timeout_s = getenv("RANDOM_ROUNDS") != NULL ? 86400 : 240;

	tcase_add_unchecked_fixture(tcase, start_clusters, stop_clusters);
	tcase_add_loop_test(tcase, few_rows_many_conflicts, 0,
	                    sizeof(lane_counts) / sizeof(lane_counts[0]));
	tcase_set_timeout(tcase, timeout_s);
	suite_add_tcase(suite, tcase);

	tcase = tcase_create("concurrent");
	tcase_add_unchecked_fixture(tcase, start_clusters, stop_clusters);
	tcase_add_loop_test(tcase, several_writers, 0, 2);
	tcase_set_timeout(tcase, timeout_s);
	suite_add_tcase(suite, tcase);
	return suite;
}
TEST_SUITE(make)
