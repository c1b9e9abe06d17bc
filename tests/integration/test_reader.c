/*
 * What a reader of the target sees while changes are applied: with one lane only states that
 * the source once had, transactions larger than a batch among them; with four the same at
 * every marker (verify) and after the cutover.
 */
#include <check.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "tests/harness/compare.h"
#include "tests/harness/db.h"
#include "tests/harness/pgbaton.h"
#include "tests/integration/workload.h"
#include "tests/unit/runner.h"

enum { ACCOUNTS = 300, WRITERS = 2, LARGE_TIMES = 4, AHEAD = 50 };

/* A transaction of the large table is several. */
static const char *const small_batches[] = {"PGBATON_BATCH_ROWS=2000", NULL};

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

/* Every transaction keeps: the sum and the number of accounts and of the entries without a
 * key, all rows of the large table alike and as many of them, and its version in `version`. */
static const char invariant[] =
	"SELECT (SELECT sum(v) FROM account) = 0 AND (SELECT count(*) FROM account) = 300"
	" AND (SELECT coalesce(sum(v), 0) FROM entry) = 0"
	" AND (SELECT max(v) - min(v) FROM large) = 0 AND (SELECT count(*) FROM large) = 6000"
	" AND (SELECT max(v) FROM large) = (SELECT v FROM version),"
	" (SELECT v FROM version), (SELECT count(*) FROM entry)";

static const char schema[] = "CREATE TABLE account (id int PRIMARY KEY, v int NOT NULL);"
							 "CREATE TABLE entry (v int NOT NULL, note text);"
							 "CREATE TABLE large (id int PRIMARY KEY, v int NOT NULL);"
							 "CREATE TABLE version (v int PRIMARY KEY);"
							 "CREATE TABLE written (writer int PRIMARY KEY, n int NOT NULL);"
							 "INSERT INTO version VALUES (0);"
							 "INSERT INTO written VALUES (0, 0), (1, 0);"
							 "INSERT INTO account SELECT g, 0 FROM generate_series(1, 300) g;"
							 "INSERT INTO large SELECT g, 0 FROM generate_series(1, 6000) g;";

typedef struct {
	char name[32];
	PGconn *source;
	PGconn *target;
	Pgbaton *p;
	atomic_bool stop;
	pthread_t writers[WRITERS];
	PGconn *writer_conns[WRITERS];
	pthread_t reader;
	PGconn *reader_conn;
	atomic_long reads;
	atomic_bool ended; /* the reader, because it saw something broken */
	/* of the reader; to be read after it was joined */
	long states; /* that were other than the one before */
	char broken[200];
} Case;

typedef struct {
	Case *c;
	int number;
	PGconn *conn;
	PGconn *target;
	uint64_t random;
} Writer;

/* What it wrote up to its n-th transaction is on the target, or nobody wants more. Without
 * that the writers would leave a slower applier ever further behind. */
static void
wait_written(Writer *w, int n)
{
	while (!atomic_load(&w->c->stop) &&
	       !db_true(w->target, "SELECT n >= %d FROM written WHERE writer = %d", n, w->number))
		usleep(5000);
}

/* Transfers: between accounts, and entries that cancel each other. */
static void *
writer_main(void *arg)
{
	Writer *w = arg;
	char sqlstate[6];

	for (int n = 1; !atomic_load(&w->c->stop); n++) {
		int from = 1 + (int)random_below(&w->random, ACCOUNTS);
		int to = 1 + (int)random_below(&w->random, ACCOUNTS);
		int by = (int)random_below(&w->random, 100);
		if (!db_try(w->conn, sqlstate,
		            "BEGIN; UPDATE account SET v = v - %d WHERE id = %d;"
		            "UPDATE account SET v = v + %d WHERE id = %d;"
		            "INSERT INTO entry VALUES (%d, 'a'), (%d, 'b');"
		            "UPDATE account SET v = v + CASE WHEN id %% 2 = 0 THEN 1 ELSE -1 END"
		            " WHERE id <= %d; UPDATE written SET n = %d WHERE writer = %d; COMMIT",
		            by, from, by, to, by, -by, 2 * (from % 60), n, w->number))
			(void)!db_try(w->conn, sqlstate, "ROLLBACK");
		else if (n % AHEAD == 0)
			wait_written(w, n);
	}
	PQfinish(w->target);
	free(w);
	return NULL;
}

static void *
reader_main(void *arg)
{
	Case *c = arg;
	char *last = NULL;

	while (!atomic_load(&c->stop) && c->broken[0] == '\0') {
		char *row = db_rows(c->reader_conn, "%s", invariant);
		if (row == NULL || row[0] != 't')
			snprintf(c->broken, sizeof(c->broken), "%s", row != NULL ? row : "no row");
		c->states += last == NULL || strcmp(last, row) != 0;
		atomic_fetch_add(&c->reads, 1);
		free(last);
		last = row;
	}
	free(last);
	atomic_store(&c->ended, true);
	return NULL;
}

static void
open_case(Case *c, int lanes)
{
	char lanes_text[8];
	/* verify has the writers' locks for so long, on a slow machine too. */
	const char *args[] = {"--name", c->name, "--lanes", lanes_text, "--hold-timeout", "20", NULL};
	uint64_t seed = workload_seed();

	memset(c, 0, sizeof(*c));
	snprintf(lanes_text, sizeof(lanes_text), "%d", lanes);
	snprintf(c->name, sizeof(c->name), "reader_%d", lanes);
	db_create(source_cluster, c->name);
	db_create(target_cluster, c->name);
	c->source = db_connect(source_cluster, c->name);
	c->target = db_connect(target_cluster, c->name);
	db_exec(c->source, "%s", schema);
	c->p = pgbaton_start(&(PgbatonOptions){.source = cluster_uri(source_cluster, c->name),
	                                       .target = cluster_uri(target_cluster, c->name),
	                                       .args = args,
	                                       .env = small_batches});
	pgbaton_wait_state(c->p, "following", 60);
	for (int i = 0; i < WRITERS; i++) {
		Writer *w = malloc(sizeof(*w));
		c->writer_conns[i] = db_connect(source_cluster, c->name);
		*w = (Writer){.c = c,
		              .number = i,
		              .conn = c->writer_conns[i],
		              .target = db_connect(target_cluster, c->name),
		              .random = seed + (uint64_t)i};
		ck_assert_int_eq(pthread_create(&c->writers[i], NULL, writer_main, w), 0);
	}
}

/* In one transaction every row of the large table, and the number that says so. */
static void
write_large(Case *c)
{
	db_exec(c->source, "BEGIN; UPDATE large SET v = v + 1; UPDATE version SET v = v + 1; COMMIT");
}

static void
wait_version(Case *c, int version)
{
	char sql[80];

	snprintf(sql, sizeof(sql), "SELECT v >= %d FROM version", version);
	db_wait_until(c->target, sql, 60);
}

/* Two reads more: the first may have begun before what is to be seen. */
static void
wait_read(Case *c)
{
	long wanted = atomic_load(&c->reads) + 2;

	while (atomic_load(&c->reads) < wanted && !atomic_load(&c->ended))
		usleep(1000);
}

static void
stop_writers(Case *c)
{
	atomic_store(&c->stop, true);
	for (int i = 0; i < WRITERS; i++) {
		pthread_join(c->writers[i], NULL);
		PQfinish(c->writer_conns[i]);
	}
}

static void
close_case(Case *c)
{
	pgbaton_free(c->p);
	PQfinish(c->source);
	PQfinish(c->target);
}

/* Also across kills: a transaction that is half in is rolled back with its session. */
START_TEST(one_lane_shows_only_states_of_the_source)
{
	Case c;

	open_case(&c, 1);
	c.reader_conn = db_connect(target_cluster, c.name);
	ck_assert_int_eq(pthread_create(&c.reader, NULL, reader_main, &c), 0);
	for (int i = 1; i <= LARGE_TIMES; i++) {
		write_large(&c);
		if (i == 2) {
			pgbaton_stop(c.p, SIGKILL);
			pgbaton_again(c.p);
		}
		wait_version(&c, i);
		wait_read(&c);
	}
	stop_writers(&c);
	pthread_join(c.reader, NULL);
	PQfinish(c.reader_conn);
	printf("  %ld reads, %ld different states\n", atomic_load(&c.reads), c.states);
	ck_assert_msg(c.broken[0] == '\0', "a reader saw %s", c.broken);
	ck_assert_int_ge(c.states, LARGE_TIMES); /* otherwise it saw nothing of the versions */
	close_case(&c);
}
END_TEST

START_TEST(four_lanes_at_each_marker_and_after_the_cutover)
{
	char *out;
	Case c;

	open_case(&c, 4);
	for (int i = 1; i <= 2; i++) {
		write_large(&c);
		int code = pgbaton_cli(c.p, &out, 60, "verify", NULL);
		ck_assert_msg(code == 0, "verify: %s\n%s", out, pgbaton_log(c.p));
		free(out);
	}
	write_large(&c);
	int code = pgbaton_cli(c.p, &out, 60, "cutover", NULL);
	ck_assert_msg(code == 0, "cutover: %s\n%s", out, pgbaton_log(c.p));
	free(out);
	stop_writers(&c);
	char *row = db_rows(c.target, "%s", invariant);
	ck_assert_msg(row[0] == 't' && strncmp(row, "t|3|", 4) == 0, "%s", row);
	free(row);
	compare_databases(c.source, c.target, &(CompareOptions){.own_schema = c.name});
	close_case(&c);
}
END_TEST

static Suite *
make(void)
{
	Suite *suite = suite_create("reader");
	TCase *tcase = tcase_create("reader");

	tcase_add_unchecked_fixture(tcase, start_clusters, stop_clusters);
	tcase_set_timeout(tcase, 180);
	tcase_add_test(tcase, one_lane_shows_only_states_of_the_source);
	tcase_add_test(tcase, four_lanes_at_each_marker_and_after_the_cutover);
	suite_add_tcase(suite, tcase);
	return suite;
}

TEST_SUITE(make)
