/*
 * C2 through the applier: tables whose snapshots were taken one after the other under
 * concurrent writers, with savepoints, and with transactions that stay open over many of
 * them. What a snapshot saw is skipped, all else is applied; a table without a key would show
 * what came twice.
 */
#include <check.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "tests/unit/apply/test_stream_rig.h"
#include "tests/unit/runner.h"

enum { TABLES = 8, WRITERS = 3, OPEN = 16, BETWEEN = 25, MOST = 4000 };

static Cluster *cluster;

static void
start(void)
{
	cluster = servers_start(0, "max_connections = 80");
}

static void
stop(void)
{
	cluster_free(cluster);
}

typedef struct {
	pthread_t thread;
	PGconn *conn; /* opened by the test's thread: a Cluster has one owner */
	unsigned seed;
	int number;
	_Atomic int *commits;
	_Atomic int *inserts; /* of those transactions */
	_Atomic bool *enough;
} Writer;

/* Even tables have a key. */
static void
write_once(Writer *w, int id)
{
	char state[6];
	int a = (int)(rand_r(&w->seed) % TABLES);
	int b = (int)(rand_r(&w->seed) % TABLES);
	bool keep = rand_r(&w->seed) % 2 == 0;

	bool ok = db_try(w->conn, state, "BEGIN; INSERT INTO t%d VALUES (%d, 0)", a, id) &&
	          db_try(w->conn, state, "SAVEPOINT s; INSERT INTO t%d VALUES (-%d, 1)", b, id) &&
	          db_try(w->conn, state, "UPDATE t%d SET w = w + 1 WHERE id = -%d", b, id) &&
	          db_try(w->conn, state, keep ? "RELEASE s" : "ROLLBACK TO s") &&
	          db_try(w->conn, state, "UPDATE t%d SET w = w + 1 WHERE id %% 5 = %d AND id %% 3 = %d",
	                 b, id % 5, w->number) &&
	          db_try(w->conn, state, "DELETE FROM t%d WHERE id = %d", b, id - 9);
	(void)!db_try(w->conn, state, ok ? "COMMIT" : "ROLLBACK");
	atomic_fetch_add(w->commits, ok);
	atomic_fetch_add(w->inserts, ok ? 1 + keep : 0);
}

static void *
writer_main(void *arg)
{
	Writer *w = arg;

	for (int i = 1; i <= MOST && !atomic_load(w->enough); i++)
		write_once(w, i * 3 + w->number);
	PQfinish(w->conn);
	return NULL;
}

static void
wait_commits(_Atomic int *commits, int more)
{
	int64_t deadline = deadline_in_ms(30000);
	int until = atomic_load(commits) + more;

	while (atomic_load(commits) < until) {
		ck_assert(deadline_left_ms(deadline) > 0);
		poll(NULL, 0, 1);
	}
}

/*
 * What the copy does: one snapshot, named with its position, and the rows it sees. The position
 * is only a bound, visibility decides: one that is read late, when other transactions have
 * committed since the snapshot, must do as well (and makes a rare race the usual case).
 */
static void
copy_table(Rig *rig, int number, _Atomic int *commits)
{
	char name[16];
	PGconn *conn = db_connect(cluster, "source");

	snprintf(name, sizeof(name), "t%d", number);
	db_exec(conn, "BEGIN ISOLATION LEVEL REPEATABLE READ");
	char *snapshot = db_value(conn, "SELECT pg_current_snapshot()");
	if (number % 4 >= 2)
		wait_commits(commits, BETWEEN);
	char *position = db_value(conn, "SELECT pg_current_wal_insert_lsn()");
	db_exec(conn, "COPY %s TO '%s/%s.rows'", name, cluster_data_dir(cluster), name);
	db_exec(conn, "COMMIT");
	PQfinish(conn);
	db_exec(rig->target, "COPY %s FROM '%s/%s.rows'", name, cluster_data_dir(cluster), name);

	Lsn lsn;
	ck_assert(lsn_parse(position, &lsn));
	/* Some of the open ones are running in it. */
	ck_assert_msg(strchr(snapshot, ',') != NULL, "%s", snapshot);
	table_set_snapshot(rig->catalog, catalog_find(rig->catalog, "public", name), snapshot, lsn);
	free(snapshot);
	free(position);
}

static void
open_transactions(PGconn *open[OPEN])
{
	for (int i = 0; i < OPEN; i++) {
		open[i] = db_connect(cluster, "source");
		db_exec(open[i],
		        "BEGIN; INSERT INTO t%d VALUES (%d, 5); SAVEPOINT s;"
		        "INSERT INTO t%d VALUES (%d, 6)",
		        i % TABLES, 1000001 + i, (i + 3) % TABLES, 2000001 + i);
	}
}

/* Committed with more, or given up. */
static void
end_transaction(PGconn *conn, int i)
{
	if (i % 4 == 3)
		db_exec(conn, "ROLLBACK");
	else
		db_exec(conn, "%s INSERT INTO t%d VALUES (%d, 7); COMMIT",
		        i % 2 == 0 ? "ROLLBACK TO s;" : "", i % TABLES, 3000001 + i);
	PQfinish(conn);
}

START_TEST(snapshots_under_writers)
{
	static const RigOptions variants[] = {{.lanes = 4}, {.lanes = 1, .binary = true}};
	_Atomic int commits = 0;
	_Atomic int inserts = 0;
	_Atomic bool enough = false;
	Writer writers[WRITERS];
	PGconn *open[OPEN];
	char tables[TABLES * 100] = "";
	Rig rig;

	for (int i = 0; i < TABLES; i++)
		snprintf(tables + strlen(tables), sizeof(tables) - strlen(tables),
		         "CREATE TABLE t%d (id int%s, w int);%s%d%s", i, i % 2 == 0 ? " PRIMARY KEY" : "",
		         "ALTER TABLE t", i,
		         i % 2 == 0 ? " REPLICA IDENTITY DEFAULT;" : " REPLICA IDENTITY FULL;");
	rig_open(&rig, cluster, tables, variants[_i]);
	open_transactions(open);
	for (int i = 0; i < WRITERS; i++) {
		writers[i] = (Writer){.conn = db_connect(cluster, "source"),
		                      .seed = (unsigned)(_i * 100 + i),
		                      .number = i,
		                      .commits = &commits,
		                      .inserts = &inserts,
		                      .enough = &enough};
		ck_assert_int_eq(pthread_create(&writers[i].thread, NULL, writer_main, &writers[i]), 0);
	}
	for (int i = 0; i < TABLES; i++) {
		wait_commits(&commits, BETWEEN);
		copy_table(&rig, i, &commits);
		end_transaction(open[2 * i], 2 * i);
		if (i == TABLES - 1)
			end_transaction(open[2 * i + 1], 2 * i + 1);
	}
	wait_commits(&commits, BETWEEN);
	atomic_store(&enough, true);
	for (int i = 0; i < WRITERS; i++)
		pthread_join(writers[i].thread, NULL);
	for (int i = 0; i + 1 < TABLES; i++)
		end_transaction(open[2 * i + 1], 2 * i + 1);

	rig_start(&rig);
	rig_compare(&rig);
	ApplierState state;
	applier_state(rig.applier, &state);
	/* Something was skipped, and something was not. */
	uint64_t written = (uint64_t)atomic_load(&inserts);
	ck_assert_uint_gt(state.inserts, 0);
	ck_assert_msg(state.inserts < written, "%llu of %llu inserts",
	              (unsigned long long)state.inserts, (unsigned long long)written);
	rig_close(&rig);
}
END_TEST

static Suite *
make(void)
{
	Suite *suite = suite_create("stream/copied");
	TCase *tcase = tcase_create("stream_copied");

	tcase_add_unchecked_fixture(tcase, start, stop);
	tcase_set_timeout(tcase, 300);
	tcase_add_loop_test(tcase, snapshots_under_writers, 0, 2);
	suite_add_tcase(suite, tcase);
	return suite;
}

TEST_SUITE(make)
