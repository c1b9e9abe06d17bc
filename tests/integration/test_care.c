/*
 * Care for the source: the copy keeps to its rate and rests while a standby is behind, and the
 * stream goes on meanwhile; a slot that comes close to max_slot_wal_keep_size is told of before
 * it is lost. The standby is one that says what the test wants it to have replayed.
 */
#include <check.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/clock.h"
#include "tests/harness/compare.h"
#include "tests/harness/db.h"
#include "tests/harness/pgbaton.h"
#include "tests/unit/runner.h"

static Cluster *source_cluster;
static Cluster *target_cluster;
static PGconn *source;
static PGconn *target;

static void
start_clusters(void)
{
	source_cluster = cluster_start(&(ClusterOptions){
		.name = "source", .conf = "max_slot_wal_keep_size = '96MB'\nmax_wal_size = '1GB'"});
	target_cluster = cluster_start(&(ClusterOptions){.name = "target"});
}

static void
stop_clusters(void)
{
	cluster_free(source_cluster);
	cluster_free(target_cluster);
}

static void
open_sides(const char *database)
{
	db_create(source_cluster, database);
	db_create(target_cluster, database);
	source = db_connect(source_cluster, database);
	target = db_connect(target_cluster, database);
	db_exec(source, "CREATE TABLE t (id int PRIMARY KEY, x text);"
	                "INSERT INTO t SELECT i, repeat('x', 200) FROM generate_series(1, 20000) i");
}

static void
close_sides(void)
{
	PQfinish(source);
	PQfinish(target);
}

static Pgbaton *
begin(const char *database, const char *const *args)
{
	return pgbaton_start(&(PgbatonOptions){.source = cluster_uri(source_cluster, database),
	                                       .target = cluster_uri(target_cluster, database),
	                                       .args = args});
}

static void
command(Pgbaton *p, const char *what, const char *option, const char *value)
{
	char *out;
	int code = pgbaton_cli(p, &out, 60, what, option, value, NULL);

	ck_assert_msg(code == 0, "%s: exit %d: %s\n%s", what, code, out, pgbaton_log(p));
	free(out);
}

static void
end(Pgbaton *p)
{
	command(p, "cancel", NULL, NULL);
	ck_assert_int_eq(pgbaton_wait_exit(p, 30), 0);
	pgbaton_free(p);
}

/* Until the value at path is a text (or null again). */
static void
wait_text(Pgbaton *p, const char *path, bool there)
{
	int64_t deadline = deadline_in_ms(60000);

	for (;;) {
		json_t *status = pgbaton_status(p);
		char first[32];
		snprintf(first, sizeof(first), "%.*s", (int)strcspn(path, "."), path);
		json_t *inner = json_object_get(status, first);
		bool is = json_is_string(json_object_get(inner, strchr(path, '.') + 1));
		json_decref(status);
		if (inner != NULL && is == there)
			return;
		ck_assert_msg(deadline_left_ms(deadline) > 0, "%s\n%s", path, pgbaton_log(p));
		poll(NULL, 0, 20);
	}
}

/* ---- a standby ---- */

static PGconn *
standby_open(void)
{
	char uri[256];

	snprintf(uri, sizeof(uri), "%s?replication=true&application_name=behind",
	         cluster_uri(source_cluster, "postgres"));
	PGconn *standby = PQconnectdb(uri);
	ck_assert_msg(PQstatus(standby) == CONNECTION_OK, "%s", PQerrorMessage(standby));
	char *lsn = db_value(source, "SELECT pg_current_wal_flush_lsn()");
	char start[96];
	snprintf(start, sizeof(start), "START_REPLICATION PHYSICAL %s", lsn);
	PGresult *result = PQexec(standby, start);
	ck_assert_msg(PQresultStatus(result) == PGRES_COPY_BOTH, "%s", PQerrorMessage(standby));
	PQclear(result);
	free(lsn);
	return standby;
}

/* Standby status update: written, flushed and replayed up to there (protocol documentation,
 * "Streaming Replication Protocol"). */
static void
standby_says(PGconn *standby, uint64_t lsn)
{
	Buffer message = BUFFER_INIT;

	buffer_put_u8(&message, 'r');
	for (int i = 0; i < 3; i++)
		buffer_put_u64(&message, lsn);
	buffer_put_u64(&message, (uint64_t)clock_pg_us());
	buffer_put_u8(&message, 0);
	ck_assert_int_eq(PQputCopyData(standby, (const char *)message.data, (int)message.len), 1);
	ck_assert_int_eq(PQflush(standby), 0);
	buffer_free(&message);
}

static uint64_t
source_end(void)
{
	return (uint64_t)db_int(source, "SELECT pg_current_wal_lsn() - '0/0'");
}

START_TEST(the_copy_rests_for_a_standby)
{
	static const char *const args[] = {"--copy-rate", "200kB", "--max-source-lag", "1MB", NULL};

	open_sides("standby");
	uint64_t before = source_end();
	PGconn *standby = standby_open();
	standby_says(standby, before);
	db_exec(source, "CREATE TABLE more AS SELECT i, repeat('y', 100) AS y"
	                " FROM generate_series(1, 20000) i; ALTER TABLE more ADD PRIMARY KEY (i)");
	db_wait_until(source,
	              "SELECT pg_current_wal_lsn() - replay_lsn > 1000000 FROM pg_stat_replication"
	              " WHERE application_name = 'behind'",
	              30);

	Pgbaton *p = begin("standby", args);
	wait_text(p, "copy.held", true);
	char *why = pgbaton_status_text(p, "copy.held");
	ck_assert_msg(strstr(why, "\"behind\"") != NULL, "%s", why);
	free(why);
	ck_assert(pgbaton_status_int(p, "standbys.lag_bytes") > 1000000);
	ck_assert_int_eq(pgbaton_status_int(p, "copy.rate_limit"), 200000);

	/* The stream goes on, and the whole time nothing is copied. */
	long long rows = pgbaton_status_int(p, "copy.rows");
	long long logged = pgbaton_status_int(p, "log.transactions");
	for (int i = 0; i < 20; i++) {
		db_exec(source, "UPDATE t SET x = 'changed' WHERE id = %d", i + 1);
		while (pgbaton_status_int(p, "log.transactions") <= logged + i)
			poll(NULL, 0, 5);
	}
	ck_assert_int_le(pgbaton_status_int(p, "copy.rows"), rows + 2000); /* what was under way */
	ck_assert(!pgbaton_reached(p, "catching_up"));

	standby_says(standby, source_end());
	wait_text(p, "copy.held", false);
	command(p, "throttle", "--max-source-lag", "0");
	command(p, "throttle", "--copy-rate", "0");
	pgbaton_wait_state(p, "following", 60);
	command(p, "verify", NULL, NULL);
	compare_databases(source, target, NULL);
	ck_assert_ptr_nonnull(strstr(pgbaton_log(p), "the copy rests"));
	end(p);
	PQfinish(standby);
	close_sides();
}
END_TEST

/* With --confirm applied a pause makes the slot keep WAL. */
START_TEST(a_slot_in_danger_is_told)
{
	static const char *const args[] = {"--confirm", "applied", NULL};

	open_sides("danger");
	Pgbaton *p = begin("danger", args);
	pgbaton_wait_state(p, "following", 60);
	command(p, "pause", NULL, NULL);
	for (int i = 0; i < 6; i++)
		db_exec(source, "UPDATE t SET x = 'w' WHERE id = %d; SELECT pg_switch_wal()", i + 1);
	wait_text(p, "slot.warning", true);
	ck_assert_ptr_nonnull(strstr(pgbaton_log(p), "max_slot_wal_keep_size"));
	char *out;
	ck_assert_int_eq(pgbaton_cli(p, &out, 60, "status", NULL), 0);
	ck_assert_msg(strstr(out, "WARNING    the slot holds back") != NULL, "%s", out);
	free(out);
	command(p, "resume", NULL, NULL);
	/* Its restart_lsn moves when the decoder has seen running transactions written again. */
	db_exec(source, "CHECKPOINT");
	wait_text(p, "slot.warning", false);
	ck_assert(!pgbaton_ended(p));
	end(p);
	close_sides();
}
END_TEST

static Suite *
make_care(void)
{
	Suite *suite = suite_create("care");
	TCase *tc = tcase_create("care");

	tcase_add_unchecked_fixture(tc, start_clusters, stop_clusters);
	tcase_set_timeout(tc, 180);
	tcase_add_test(tc, the_copy_rests_for_a_standby);
	tcase_add_test(tc, a_slot_in_danger_is_told);
	suite_add_tcase(suite, tc);
	return suite;
}

TEST_SUITE(make_care)
