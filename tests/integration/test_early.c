/*
 * Large transactions that are applied before their commit: seen at once when it comes, not
 * before, and not at all when it does not; beside small ones that commit meanwhile; given up
 * for everything that stands in their way; killed at each step. A table without a key would
 * show what was done twice.
 */
#include <check.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/memory.h"
#include "tests/harness/compare.h"
#include "tests/harness/db.h"
#include "tests/harness/pgbaton.h"
#include "tests/harness/relay.h"
#include "tests/integration/workload.h"
#include "tests/unit/runner.h"

enum { WRITERS = 3, LARGE = 16000 }; /* LARGE is beyond what is copied into the log */

typedef struct {
	char name[32];
	char lanes[4];
	char target_uri[160];
	PGconn *source;
	PGconn *target;
	PGconn *writers[WRITERS];
	char *state_dir;
	Pgbaton *p;
	int ids;
	int steps;
} Case;

static Cluster *source_cluster;
static Cluster *target_cluster;

static void
start_clusters(void)
{
	source_cluster = cluster_start(
		&(ClusterOptions){.name = "source", .conf = "logical_decoding_work_mem = '64kB'\n"});
	target_cluster = cluster_start(&(ClusterOptions){.name = "target"});
}

static void
stop_clusters(void)
{
	cluster_free(source_cluster);
	cluster_free(target_cluster);
}

/* u is unique on the source, too; seat on the target only (see a_lane_does_not_wait). */
static const char schema[] =
	"CREATE TABLE big (id int PRIMARY KEY, n int NOT NULL DEFAULT 0, t text, seat int);"
	"ALTER TABLE big ALTER t SET STORAGE EXTERNAL;"
	"CREATE TABLE pair (id int PRIMARY KEY, u int UNIQUE);"
	"CREATE TABLE bare (a int, f text);"
	"CREATE TABLE other (id int PRIMARY KEY, t text);"
	"CREATE TABLE step (id int PRIMARY KEY);";

static void
case_open(Case *c, const char *name, int lanes)
{
	*c = (Case){.ids = 10000};
	snprintf(c->name, sizeof(c->name), "%s", name);
	snprintf(c->lanes, sizeof(c->lanes), "%d", lanes);
	db_create(source_cluster, name);
	db_create(target_cluster, name);
	snprintf(c->target_uri, sizeof(c->target_uri), "%s", cluster_uri(target_cluster, name));
	c->source = db_connect(source_cluster, name);
	c->target = db_connect(target_cluster, name);
	for (int i = 0; i < WRITERS; i++)
		c->writers[i] = db_connect(source_cluster, name);
	db_exec(c->source, "%s", schema);
	db_exec(c->target, "%s CREATE UNIQUE INDEX ON big (seat)", schema);
	db_exec(c->source,
	        "INSERT INTO big SELECT i, 0, repeat('t', 50) FROM generate_series(1, 9100) i;"
	        "UPDATE big SET t = repeat('wide', 600) WHERE id %% 1000 = 0;"
	        "INSERT INTO pair SELECT i, i FROM generate_series(1, 100) i;"
	        "INSERT INTO other SELECT i, 'o' FROM generate_series(1, 100) i;"
	        "INSERT INTO bare SELECT i %% 50, 'f' FROM generate_series(1, 500) i;");
	c->state_dir = scratch_dir_new("early");
}

/* fault NULL: none. Goes on with the same migration. */
static void
case_run(Case *c, const char *fault)
{
	char text[96];
	const char *env[] = {text, "PGBATON_EARLY_BYTES=300000", NULL};
	const char *args[] = {"--name", c->name, "--schema", "none", "--lanes", c->lanes, NULL};

	snprintf(text, sizeof(text), "PGBATON_FAULT=%s", fault != NULL ? fault : "none");
	pgbaton_free(c->p);
	c->p = pgbaton_start(&(PgbatonOptions){.source = cluster_uri(source_cluster, c->name),
	                                       .target = c->target_uri,
	                                       .args = args,
	                                       .env = env,
	                                       .state_dir = c->state_dir});
}

static void
case_follow(Case *c)
{
	case_run(c, NULL);
	pgbaton_wait_state(c->p, "following", 60);
}

static void
case_close(Case *c)
{
	pgbaton_free(c->p);
	for (int i = 0; i < WRITERS; i++)
		PQfinish(c->writers[i]);
	PQfinish(c->source);
	PQfinish(c->target);
	scratch_dir_free(c->state_dir);
}

/* A batch begins when the one before is committed on all lanes: the second step tells of the
 * first, and of all before it. */
static void
case_sync(Case *c)
{
	char sql[80];

	for (int i = 0; i < 2; i++) {
		db_exec(c->source, "INSERT INTO step VALUES (%d)", ++c->steps);
		snprintf(sql, sizeof(sql), "SELECT count(*) = 1 FROM step WHERE id = %d", c->steps);
		db_wait_until(c->target, sql, 60);
	}
}

static void
case_equal(Case *c)
{
	case_sync(c);
	compare_databases(c->source, c->target, &(CompareOptions){.own_schema = c->name});
}

/* ---- what happens early ---- */

static long long
early(Case *c)
{
	return pgbaton_status_int(c->p, "stream.early");
}

static long long
given_up(Case *c)
{
	return pgbaton_status_int(c->p, "stream.early_given_up");
}

/* The status may be some milliseconds old. */
static void
expect_counts(Case *c, long long committed, long long rolled_back)
{
	int64_t deadline = deadline_in_ms(60000);

	while (early(c) < committed || given_up(c) < rolled_back) {
		ck_assert_msg(deadline_left_ms(deadline) > 0,
		              "%lld early, %lld given up, expected %lld, %lld\n%s", early(c), given_up(c),
		              committed, rolled_back, pgbaton_log(c->p));
		poll(NULL, 0, 5);
	}
	ck_assert_msg(early(c) == committed && given_up(c) == rolled_back,
	              "%lld early, %lld given up, expected %lld, %lld\n%s", early(c), given_up(c),
	              committed, rolled_back, pgbaton_log(c->p));
}

/* It has rows that are not committed, and waits for more. */
static void
wait_begun(Case *c)
{
	db_wait_until(c->target,
	              "SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = current_database()"
	              " AND application_name = 'pgbaton apply early' AND backend_xid IS NOT NULL"
	              " AND state = 'idle in transaction'",
	              60);
}

static void
wait_given_up(Case *c, long long count)
{
	expect_counts(c, early(c), count);
	db_wait_until(c->target,
	              "SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = current_database()"
	              " AND application_name = 'pgbaton apply early'",
	              60);
}

/* Inserts, each of which is in the way of nobody. */
static void
grow(Case *c, int writer, int rows)
{
	db_exec(c->writers[writer],
	        "INSERT INTO big SELECT i, %d, repeat('new', 30) FROM generate_series(%d, %d) i",
	        writer, c->ids, c->ids + rows - 1);
	c->ids += rows;
}

/* All there is, of part `writer` of 3 of the rows from 1 to 9000. */
static void
change(Case *c, int writer)
{
	db_exec(c->writers[writer],
	        "UPDATE big SET n = n + 1 WHERE id %% 3 = %d AND id <= 9000;" /* t: unchanged */
	        "UPDATE big SET t = md5(t) || t WHERE id %% 6 = %d AND id <= 9000 AND id %% 1000 <> 0;"
	        "UPDATE big SET id = -id WHERE id %% 30 = %d AND id < 9000;"
	        "DELETE FROM big WHERE id %% 33 = %d AND id <= 9000;"
	        "INSERT INTO bare SELECT %d, 'from a stream' FROM generate_series(1, 20);",
	        writer, writer, writer, writer, writer);
}

/* Unique values wander between rows: as a whole they would be in each other's way. */
static void
swap(Case *c, int writer)
{
	db_exec(c->writers[writer],
	        "UPDATE pair SET u = -u WHERE id <= 50; UPDATE pair SET u = 51 - id WHERE id <= 50");
}

static void
begin_large(Case *c, int writer)
{
	db_exec(c->writers[writer], "BEGIN");
	change(c, writer);
	grow(c, writer, LARGE);
}

static void
small(Case *c)
{
	db_exec(c->source,
	        "INSERT INTO other VALUES (%d, 'small'); UPDATE other SET t = t || '.'"
	        " WHERE id <= 10; UPDATE big SET n = n + 1 WHERE id > 9000 AND id <= 9100;"
	        "INSERT INTO bare VALUES (7, 'small')",
	        ++c->ids);
}

/* ---- the tests ---- */

/* Nothing is seen before the commit, and all of it at once; small ones go on meanwhile. */
static void
commits_at_once(Case *c)
{
	begin_large(c, 0);
	wait_begun(c);
	small(c);
	swap(c, 0);
	/* What it will update has come with a small one since it began. */
	db_exec(c->source, "INSERT INTO other SELECT i, 'then' FROM generate_series(501, 600) i");
	case_sync(c);
	db_exec(c->writers[0], "UPDATE other SET t = t || ' updated' WHERE id > 500 AND id <= 600");
	grow(c, 0, LARGE);
	case_sync(c);
	wait_begun(c);
	ck_assert(db_true(c->target, "SELECT max(id) <= 9100 AND min(id) = 1 FROM big"));
	db_exec(c->writers[0], "COMMIT");
	case_equal(c);
}

/* Two at once: the first to come is early, the other one comes after it. */
static void
two_at_once(Case *c)
{
	begin_large(c, 1);
	wait_begun(c);
	begin_large(c, 2);
	grow(c, 1, LARGE);
	small(c);
	db_exec(c->writers[2], "COMMIT");
	case_sync(c);
	wait_begun(c);
	db_exec(c->writers[1], "COMMIT");
	case_equal(c);
}

START_TEST(applied_before_the_commit)
{
	Case c;

	case_open(&c, _i == 0 ? "whole_2" : "whole_1", _i == 0 ? 2 : 1);
	case_follow(&c);
	commits_at_once(&c);
	expect_counts(&c, 1, 0);
	two_at_once(&c);
	expect_counts(&c, 2, 0);
	if (_i == 0) {
		char *out;
		int code = pgbaton_cli(c.p, &out, 60, "cutover", "--json", NULL);
		ck_assert_msg(code == 0, "%s\n%s", out, pgbaton_log(c.p));
		free(out);
		compare_databases(c.source, c.target, &(CompareOptions){.own_schema = c.name});
	}
	case_close(&c);
}
END_TEST

/* Rolled back in part, as a whole, by a lost connection to the source. */
static void
rolled_back_on_the_source(Case *c)
{
	long long before = given_up(c);

	db_exec(c->writers[0], "BEGIN; INSERT INTO bare VALUES (1, 'stays'); SAVEPOINT a");
	change(c, 0);
	grow(c, 0, LARGE);
	wait_begun(c);
	db_exec(c->writers[0], "ROLLBACK TO a");
	/* What it had changed is free again on the source. */
	db_exec(c->source, "UPDATE big SET n = n + 5 WHERE id %% 9 = 0; DELETE FROM big WHERE id = 3");
	case_sync(c);
	wait_given_up(c, before + 1);
	grow(c, 0, LARGE);
	change(c, 0);
	db_exec(c->writers[0], "COMMIT");
	case_equal(c);

	begin_large(c, 1);
	wait_begun(c);
	db_exec(c->writers[1], "ROLLBACK");
	db_exec(c->source, "UPDATE big SET n = n + 5 WHERE id %% 9 = 1");
	case_sync(c);
	wait_given_up(c, before + 2);

	begin_large(c, 1);
	wait_begun(c);
	db_exec(c->source,
	        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots"
	        " WHERE slot_name = '%s'",
	        c->name);
	wait_given_up(c, before + 3);
	grow(c, 1, LARGE);
	db_exec(c->writers[1], "COMMIT");
	case_equal(c);
}

/* A pause and a marker are told only when it is gone; so is a table's TRUNCATE. */
static void
given_up_for_others(Case *c)
{
	long long before = given_up(c);
	char *out;

	begin_large(c, 2);
	wait_begun(c);
	ck_assert_int_eq(pgbaton_cli(c->p, &out, 60, "pause", NULL), 0);
	free(out);
	expect_counts(c, early(c), before + 1);
	db_exec(c->writers[2], "COMMIT");
	ck_assert_int_eq(pgbaton_cli(c->p, &out, 60, "resume", NULL), 0);
	free(out);
	case_equal(c);

	begin_large(c, 2);
	wait_begun(c);
	db_exec(c->source, "TRUNCATE other");
	case_sync(c);
	expect_counts(c, early(c), before + 2);
	db_exec(c->writers[2], "TRUNCATE pair; COMMIT");
	case_equal(c);

	/* verify waits for its locks on the source, and its marker comes behind it. */
	begin_large(c, 2);
	wait_begun(c);
	db_exec(c->source, "SELECT pg_logical_emit_message(true, '%s', 'a marker')", c->name);
	case_sync(c);
	expect_counts(c, early(c), before + 3);
	db_exec(c->writers[2], "COMMIT");
	case_equal(c);
}

/* The server ends its session. */
static void
its_session_is_lost(Case *c)
{
	long long before = given_up(c);

	begin_large(c, 0);
	wait_begun(c);
	db_exec(c->target, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
	                   " WHERE application_name = 'pgbaton apply early'");
	grow(c, 0, LARGE);
	wait_given_up(c, before + 1);
	db_exec(c->writers[0], "COMMIT");
	case_equal(c);
}

/*
 * A lane never waits for it: an index that only the target has lets a small transaction meet
 * what the large one has taken, and will have given up by its commit.
 */
static void
a_lane_does_not_wait(Case *c)
{
	long long before = given_up(c);

	db_exec(c->writers[1], "BEGIN; UPDATE big SET seat = 77 WHERE id = 9001");
	grow(c, 1, LARGE);
	wait_begun(c);
	db_exec(c->source, "INSERT INTO big VALUES (%d, 0, 'a seat', 77)", ++c->ids);
	case_sync(c);
	expect_counts(c, early(c), before + 1);
	db_exec(c->writers[1], "UPDATE big SET seat = 78 WHERE id = 9001; COMMIT");
	case_equal(c);
}

START_TEST(given_up_and_done_later)
{
	Case c;

	case_open(&c, _i == 0 ? "up_2" : "up_1", _i == 0 ? 2 : 1);
	case_follow(&c);
	rolled_back_on_the_source(&c);
	given_up_for_others(&c);
	its_session_is_lost(&c);
	a_lane_does_not_wait(&c);
	case_close(&c);
}
END_TEST

/* How many batches so many rows are depends on how fast they come. */
static void
grow_until_ended(Case *c, int writer)
{
	for (int i = 0; i < 100 && !pgbaton_ended(c->p); i++) {
		grow(c, writer, LARGE / 4);
		poll(NULL, 0, 20);
	}
}

START_TEST(killed_at_each_step)
{
	static const char *const points[] = {"early_begin", "early_chunk:2", "early_commit",
	                                     "early_committed"};
	Case c;

	case_open(&c, "killed", 2);
	for (int i = 0; i < 4; i++) {
		bool open = i < 2; /* killed before the commit, and after it */
		case_run(&c, points[i]);
		pgbaton_wait_state(c.p, "following", 60);
		begin_large(&c, i % 3);
		if (open) {
			grow_until_ended(&c, i % 3);
		} else {
			wait_begun(&c);
			db_exec(c.writers[i % 3], "COMMIT");
		}
		pgbaton_wait_killed(c.p, points[i], 60);
		if (open)
			db_exec(c.writers[i % 3], i == 0 ? "COMMIT" : "ROLLBACK");
		case_follow(&c);
		case_equal(&c);
	}
	case_close(&c);
}
END_TEST

/* The connection is lost around its COMMIT: the progress rows know. */
START_TEST(cut_in_its_commit)
{
	Relay *relay = relay_start(cluster_port(target_cluster), "pgbaton apply early");
	Case c;

	case_open(&c, "cut_early", 2);
	snprintf(c.target_uri, sizeof(c.target_uri),
	         "postgresql://postgres@127.0.0.1:%d/%s?sslmode=disable&gssencmode=disable",
	         relay_port(relay), c.name);
	case_follow(&c);
	for (int i = 0; i < 3; i++) {
		relay_cut(relay, 1, (RelayCut)i);
		begin_large(&c, i);
		wait_begun(&c);
		db_exec(c.writers[i], "COMMIT");
		small(&c);
		case_equal(&c);
		ck_assert_int_eq(relay_cuts(relay), i + 1);
	}
	case_close(&c);
	relay_free(relay);
}
END_TEST

/* ---- at random ---- */

typedef struct {
	bool open;
	int savepoints;
} Session;

/* One step of a session's transaction. Each has its third of the rows. */
static void
step_at_random(Case *c, Session *session, int writer, uint64_t *random)
{
	PGconn *conn = c->writers[writer];

	if (!session->open) {
		db_exec(conn, "BEGIN");
		*session = (Session){.open = true};
	}
	switch (random_below(random, 10)) {
	case 0:
		db_exec(conn, "SAVEPOINT s%d", ++session->savepoints);
		break;
	case 1:
		if (session->savepoints > 0)
			db_exec(conn, "ROLLBACK TO s%d", session->savepoints);
		break;
	case 2:
	case 3:
		db_exec(conn, random_below(random, 5) == 0 ? "ROLLBACK" : "COMMIT");
		session->open = false;
		break;
	case 4:
	case 5:
	case 6:
		grow(c, writer, LARGE / 2);
		break;
	default:
		db_exec(conn,
		        "UPDATE big SET n = n + 1, t = CASE WHEN id %% 2 = 0 THEN t ELSE md5(t) END"
		        " WHERE abs(id) %% 3 = %d AND abs(id) %% 7 = %d AND abs(id) <= 9000;"
		        "UPDATE big SET id = -id WHERE abs(id) %% 999 = %d AND abs(id) <= 9000;"
		        "INSERT INTO bare SELECT i, 'random' FROM generate_series(1, 300) i",
		        writer, (int)random_below(random, 7), writer);
		break;
	}
}

START_TEST(at_random)
{
	uint64_t seed = workload_seed();
	uint64_t random = seed + (uint64_t)_i;
	Session sessions[WRITERS] = {{0}};
	long long committed = 0;
	Case c;

	printf("  PGBATON_SEED=%llu\n", (unsigned long long)seed);
	case_open(&c, _i == 0 ? "random_4" : "random_1", _i == 0 ? 4 : 1);
	case_follow(&c);
	for (int i = 0; i < 90; i++) {
		int writer = (int)random_below(&random, WRITERS);
		step_at_random(&c, &sessions[writer], writer, &random);
		if (random_below(&random, 3) == 0)
			small(&c);
		if (i == 45) {
			committed += early(&c);
			pgbaton_stop(c.p, SIGKILL);
			case_follow(&c);
		}
	}
	for (int i = 0; i < WRITERS; i++)
		if (sessions[i].open)
			db_exec(c.writers[i], "COMMIT");
	case_equal(&c);
	printf("  %lld early, %lld given up\n", committed + early(&c), given_up(&c));
	case_close(&c);
}
END_TEST

static void
add(Suite *suite, const char *name, const TTest *test, int rounds)
{
	TCase *tcase = tcase_create(name);

	tcase_add_unchecked_fixture(tcase, start_clusters, stop_clusters);
	tcase_set_timeout(tcase, 180);
	tcase_add_loop_test(tcase, test, 0, rounds);
	suite_add_tcase(suite, tcase);
}

static Suite *
make(void)
{
	Suite *suite = suite_create("early");

	add(suite, "before", applied_before_the_commit, 2);
	add(suite, "given_up", given_up_and_done_later, 2);
	add(suite, "killed", killed_at_each_step, 1);
	add(suite, "cut", cut_in_its_commit, 1);
	add(suite, "random", at_random, 2);
	return suite;
}

TEST_SUITE(make)
