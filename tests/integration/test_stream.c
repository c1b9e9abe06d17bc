/*
 * Large transactions, streamed by the source before their commit (14 and newer, 64 kB of
 * decoding memory): through side files to the target, under everything that rolls back in part,
 * beside the copy, and with pgbaton killed around the commit. At the end both sides are equal; a
 * table without a key would show what was done twice.
 */
#include <check.h>
#include <dirent.h>
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
#include "tests/harness/skip.h"
#include "tests/unit/runner.h"

enum { WRITERS = 3, SMALL = 300, LARGE = 15000 }; /* LARGE is beyond what is copied into the log */

typedef struct {
	Cluster *source_cluster;
	Cluster *target_cluster;
	const char *lanes;
	PGconn *source;
	PGconn *target;
	PGconn *writers[WRITERS];
	char source_uri[160];
	char target_uri[160];
	char *state_dir;
	Pgbaton *p;
	int ids;
	int steps;
} Case;

static const char schema[] =
	"CREATE TABLE big (id int PRIMARY KEY, n int NOT NULL DEFAULT 0, t text);"
	"CREATE TABLE other (id int PRIMARY KEY, t text);"
	"CREATE TABLE bare (a int, f text);"
	"CREATE TABLE step (id int PRIMARY KEY);";

static void
case_open(Case *c, int source_major, const char *lanes)
{
	*c = (Case){.lanes = lanes, .ids = 10000};
	c->source_cluster = cluster_start(&(ClusterOptions){
		.major = source_major,
		.name = "source",
		.conf = "logical_decoding_work_mem = '64kB'\nmax_prepared_transactions = 5\n"});
	c->target_cluster = cluster_start(&(ClusterOptions){.name = "target"});
	snprintf(c->source_uri, sizeof(c->source_uri), "%s", cluster_uri(c->source_cluster, NULL));
	snprintf(c->target_uri, sizeof(c->target_uri), "%s", cluster_uri(c->target_cluster, NULL));
	c->source = db_connect_uri(c->source_uri);
	c->target = db_connect_uri(c->target_uri);
	for (int i = 0; i < WRITERS; i++)
		c->writers[i] = db_connect_uri(c->source_uri);
	db_exec(c->source, "%s", schema);
	db_exec(c->target, "%s", schema);
	db_exec(c->source,
	        "INSERT INTO big SELECT i, 0, repeat('t', 50) FROM generate_series(1, 9000) i;"
	        "INSERT INTO bare SELECT i %% 50, 'f' FROM generate_series(1, 500) i;");
	c->state_dir = scratch_dir_new("stream");
}

/* fault NULL: none. Goes on with the same migration. */
static void
case_run(Case *c, const char *fault)
{
	char text[96];
	const char *env[] = {text, NULL};
	const char *args[] = {"--schema", "none", "--lanes", c->lanes, NULL};

	snprintf(text, sizeof(text), "PGBATON_FAULT=%s", fault != NULL ? fault : "none");
	pgbaton_free(c->p);
	c->p = pgbaton_start(&(PgbatonOptions){.source = c->source_uri,
	                                       .target = c->target_uri,
	                                       .args = args,
	                                       .env = env,
	                                       .state_dir = c->state_dir});
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
	cluster_free(c->source_cluster);
	cluster_free(c->target_cluster);
}

static int
count_files(const Case *c, const char *suffix)
{
	char *path = mem_printf("%s/log", c->state_dir);
	DIR *dir = opendir(path);
	int count = 0;

	for (struct dirent *entry; dir != NULL && (entry = readdir(dir)) != NULL;)
		count += strstr(entry->d_name, suffix) != NULL;
	if (dir != NULL)
		closedir(dir);
	free(path);
	return count;
}

static void
wait_in_progress(const Case *c)
{
	int64_t deadline = deadline_in_ms(60000);

	while (count_files(c, ".stream") == 0) {
		ck_assert_msg(deadline_left_ms(deadline) > 0, "nothing is being streamed");
		poll(NULL, 0, 5);
	}
}

/* A batch begins when the one before is committed on all lanes: the second step tells of the
 * first, and of all before it. */
static void
case_equal(Case *c)
{
	char sql[80];

	for (int i = 0; i < 2; i++) {
		db_exec(c->source, "INSERT INTO step VALUES (%d)", ++c->steps);
		snprintf(sql, sizeof(sql), "SELECT count(*) = 1 FROM step WHERE id = %d", c->steps);
		db_wait_until(c->target, sql, 60);
	}
	compare_databases(c->source, c->target, NULL);
}

static void
check_streamed(Case *c)
{
	db_wait_until(c->source,
	              "SELECT stream_txns > 0 AND stream_count > stream_txns"
	              " FROM pg_stat_replication_slots WHERE slot_name = 'pgbaton'",
	              30);
}

/* ---- what the source does ---- */

/* Part `part` of 3 of the rows from 1 to 9000, so that writers do not meet. */
static void
change(Case *c, int part, int rows)
{
	PGconn *conn = c->writers[part];

	db_exec(conn, "INSERT INTO big SELECT i, %d, repeat('new', 30) FROM generate_series(%d, %d) i",
	        part, c->ids, c->ids + rows - 1);
	c->ids += rows;
	db_exec(conn,
	        "UPDATE big SET n = n + 1, t = md5(t) || t WHERE id %% 3 = %d AND id <= 9000;"
	        "INSERT INTO bare SELECT %d, 'from a stream' FROM generate_series(1, 20);",
	        part, part);
}

/* What rolls back has touched the same rows as what stays. */
static void
change_in_vain(Case *c, int part)
{
	PGconn *conn = c->writers[part];

	db_exec(conn, "SAVEPOINT a");
	change(c, part, SMALL);
	db_exec(conn, "SAVEPOINT b");
	db_exec(conn, "DELETE FROM big WHERE id %% 3 = %d AND id <= 9000", part);
	db_exec(conn, "SAVEPOINT c");
	change(c, part, SMALL);
	db_exec(conn, "RELEASE b; INSERT INTO bare VALUES (9, 'never'); ROLLBACK TO a");
}

static void
interleave(Case *c)
{
	for (int i = 0; i < WRITERS; i++)
		db_exec(c->writers[i], "BEGIN");
	for (int round = 0; round < 2; round++)
		for (int i = 0; i < WRITERS; i++) {
			change(c, i, SMALL);
			change_in_vain(c, i);
			db_exec(c->source, "INSERT INTO other VALUES (%d, 'small')", ++c->ids);
			db_exec(c->source, "UPDATE other SET t = t || '.'");
		}
	db_exec(c->writers[1], "DELETE FROM big WHERE id %% 9 = 4; COMMIT");
	db_exec(c->writers[0], "ROLLBACK");
	db_exec(c->writers[2], "UPDATE big SET id = -id WHERE id %% 18 = 5; COMMIT");
}

/* A sub-transaction a row, half of them undone; and a table emptied on the way. */
static void
odd_ones(Case *c)
{
	db_exec(c->writers[0],
	        "BEGIN; DO $$ BEGIN FOR i IN 1 .. 4000 LOOP BEGIN"
	        "  INSERT INTO big VALUES (%d + i, i, repeat('sub', 20));"
	        "  IF i %% 2 = 0 THEN RAISE EXCEPTION 'no'; END IF;"
	        "  EXCEPTION WHEN raise_exception THEN NULL; END; END LOOP; END $$;"
	        "TRUNCATE other; INSERT INTO other SELECT i, repeat('o', 60) FROM"
	        " generate_series(1, 3000) i; COMMIT",
	        c->ids);
	c->ids += 4001;
	db_exec(c->writers[1], "BEGIN");
	change(c, 1, SMALL);
	db_exec(c->writers[1], "PREPARE TRANSACTION 'later'");
	change(c, 2, 1);
	db_exec(c->writers[1], "COMMIT PREPARED 'later'");
}

/*
 * C2, with three that were being streamed when pgbaton was killed before its copies: the first
 * is committed then, so the snapshots have it, and it comes with the stream, too; the second
 * commits when all is copied; the third rolls back.
 */
static void
copy_beside_streams(Case *c)
{
	case_run(c, "copy_begin");
	pgbaton_wait_killed(c->p, "copy_begin", 60);
	for (int i = 0; i < WRITERS; i++) {
		db_exec(c->writers[i], "BEGIN");
		change(c, i, SMALL);
		change_in_vain(c, i);
	}
	db_exec(c->writers[0], "COMMIT");
	case_run(c, NULL);
	pgbaton_wait_state(c->p, "catching_up", 60); /* their locks keep it there */
	change(c, 1, SMALL);
	db_exec(c->writers[1], "COMMIT");
	db_exec(c->writers[2], "ROLLBACK");
	pgbaton_wait_state(c->p, "following", 60);
	case_equal(c);
}

START_TEST(large_transactions_arrive)
{
	static const struct {
		int source;
		const char *lanes;
	} choices[] = {{14, "4"}, {17, "1"}};
	Case c;

	TEST_NEEDS_MAJOR(choices[_i].source);
	case_open(&c, choices[_i].source, choices[_i].lanes);
	copy_beside_streams(&c);
	for (int i = 0; i < 2; i++) {
		interleave(&c);
		odd_ones(&c);
		case_equal(&c);
	}
	check_streamed(&c);
	ck_assert_int_eq(count_files(&c, ".stream"), 0);
	case_close(&c);
}
END_TEST

/* T8: whatever is left of a side file, the start goes on as if it had not been. After each
 * kill the source sends it again, which the next point then meets. */
START_TEST(killed_around_the_commit)
{
	static const char *const points[] = {"stream_synced",     "stream_renamed", "stream_referenced",
	                                     "stream_referenced", "stream_synced",  "stream_renamed"};
	Case c;

	TEST_NEEDS_MAJOR(14);
	case_open(&c, 14, "4");
	for (int i = 0; i < 6; i += 3) {
		case_run(&c, points[i]);
		pgbaton_wait_state(c.p, "following", 60);
		db_exec(c.writers[1], "BEGIN");
		change(&c, 1, SMALL);
		db_exec(c.writers[0], "BEGIN");
		change(&c, 0, LARGE);
		change_in_vain(&c, 0);
		db_exec(c.writers[0], "COMMIT");
		pgbaton_wait_killed(c.p, points[i], 60);
		db_exec(c.writers[1], i == 0 ? "ROLLBACK" : "COMMIT");
		for (int n = 1; n < 3; n++) {
			case_run(&c, points[i + n]);
			pgbaton_wait_killed(c.p, points[i + n], 60);
		}
		case_run(&c, NULL);
		pgbaton_wait_state(c.p, "following", 60);
		case_equal(&c);
	}
	/* In the middle of a stream. */
	db_exec(c.writers[0], "BEGIN");
	change(&c, 0, LARGE);
	wait_in_progress(&c);
	pgbaton_stop(c.p, SIGKILL);
	change_in_vain(&c, 0);
	case_run(&c, NULL);
	pgbaton_wait_state(c.p, "following", 60);
	db_exec(c.writers[0], "COMMIT");
	case_equal(&c);
	check_streamed(&c);
	ck_assert_int_eq(count_files(&c, ".stream"), 0);
	ck_assert_int_gt(count_files(&c, ".xact"), 0);
	case_close(&c);
}
END_TEST

static Suite *
make(void)
{
	Suite *suite = suite_create("stream");
	TCase *tcase = tcase_create("stream");
	tcase_set_timeout(tcase, 240);
	tcase_add_loop_test(tcase, large_transactions_arrive, 0, 2);
	tcase_add_test(tcase, killed_around_the_commit);
	suite_add_tcase(suite, tcase);
	return suite;
}

TEST_SUITE(make)
