/*
 * Care for the source: the copy keeps to its rate and rests while a standby is behind, and the
 * stream goes on meanwhile; a slot that comes close to max_slot_wal_keep_size is told of before
 * it is lost. The standby is one that says what the test wants it to have replayed.
 */
#include <check.h>
#include <poll.h>
#include <signal.h>
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
begin(const char *database, const char *const *more)
{
	const char *args[8] = {"--name", database};

	for (size_t i = 0; more[i] != NULL; i++)
		args[2 + i] = more[i];
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

/* Until the value at "a.b" is of that type (or not). */
static void
wait_type(Pgbaton *p, const char *path, json_type type, bool there)
{
	int64_t deadline = deadline_in_ms(60000);

	for (;;) {
		json_t *status = pgbaton_status(p);
		char first[32];
		snprintf(first, sizeof(first), "%.*s", (int)strcspn(path, "."), path);
		json_t *value = json_object_get(json_object_get(status, first), strchr(path, '.') + 1);
		bool is = value != NULL && (json_typeof(value) == type) == there;
		json_decref(status);
		if (is)
			return;
		ck_assert_msg(deadline_left_ms(deadline) > 0, "%s\n%s", path, pgbaton_log(p));
		poll(NULL, 0, 20);
	}
}

static void
wait_text(Pgbaton *p, const char *path, bool there)
{
	wait_type(p, path, JSON_STRING, there);
}

static void
wait_number(Pgbaton *p, const char *path)
{
	wait_type(p, path, JSON_REAL, true);
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
	pgbaton_wait_state(p, "copying", 60);
	wait_text(p, "copy.held", true);
	char *why = pgbaton_status_text(p, "copy.held");
	ck_assert_msg(strstr(why, "\"behind\"") != NULL, "%s", why);
	free(why);
	ck_assert(pgbaton_status_int(p, "standbys.lag_bytes") > 1000000);
	ck_assert_int_eq(pgbaton_status_int(p, "copy.rate_limit"), 200000);

	json_t *status = pgbaton_status(p);
	json_t *eta = json_object_get(status, "eta");
	ck_assert(json_is_null(json_object_get(eta, "seconds")));
	ck_assert_ptr_nonnull(strstr(json_string_value(json_object_get(eta, "unknown")), "behind"));
	json_decref(status);

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
	wait_number(p, "copy.eta_seconds");
	wait_number(p, "copy.rate");
	command(p, "throttle", "--copy-rate", "0");
	pgbaton_wait_state(p, "following", 60);
	command(p, "verify", NULL, NULL);
	compare_databases(source, target, &(CompareOptions){.own_schema = "standby"});
	ck_assert_ptr_nonnull(strstr(pgbaton_log(p), "the copy rests"));
	end(p);
	PQfinish(standby);
	close_sides();
}
END_TEST

/* What is copied without a stream is copied for nothing: minutes are left of it. */
START_TEST(a_lost_slot_ends_the_copy)
{
	static const char *const args[] = {"--copy-rate", "20kB", NULL};

	open_sides("slotless");
	db_exec(source, "CREATE TABLE more AS SELECT i, repeat('y', 100) AS y"
	                " FROM generate_series(1, 60000) i; ALTER TABLE more ADD PRIMARY KEY (i)");
	Pgbaton *p = begin("slotless", args);
	pgbaton_wait_state(p, "copying", 60);
	for (char state[6]; !db_try(source, state, "SELECT pg_drop_replication_slot('slotless')");)
		db_exec(source, "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots"
		                " WHERE slot_name = 'slotless' AND active");
	pgbaton_wait_state(p, "failed", 60);
	char *why = pgbaton_status_text(p, "error.message");
	ck_assert_msg(strstr(why, "\"slotless\"") != NULL, "%s", why);
	free(why);
	ck_assert_ptr_nonnull(strstr(pgbaton_log(p), "its stream is lost"));
	end(p);
	close_sides();
}
END_TEST

/* ---- the index phase ---- */

/* An index that waits in the middle of its scan, for a lock that only the target's have. */
START_TEST(an_index_is_told_while_it_is_built)
{
	open_sides("index");
	db_exec(source, "CREATE FUNCTION gate(i int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS"
	                " 'BEGIN IF i = 10000 THEN PERFORM pg_catalog.pg_advisory_xact_lock_shared(42);"
	                " END IF; RETURN i; END';"
	                "CREATE INDEX gated ON t (gate(id)); CREATE INDEX other ON t (x); ANALYZE t");
	db_exec(target, "SELECT pg_advisory_lock(42)");
	Pgbaton *p = begin("index", (const char *const[]){"--jobs", "2", NULL});

	int64_t deadline = deadline_in_ms(60000);
	double share = 0;
	while (share <= 0) {
		json_t *status = pgbaton_status(p);
		json_t *list = json_object_get(json_object_get(status, "index"), "running");
		for (size_t i = 0; i < json_array_size(list); i++) {
			json_t *one = json_array_get(list, i);
			if (strcmp(json_string_value(json_object_get(one, "name")), "INDEX public gated") != 0)
				continue;
			ck_assert_str_eq(json_string_value(json_object_get(one, "table")), "t");
			share = json_number_value(json_object_get(one, "share"));
			if (share > 0)
				ck_assert_str_eq(json_string_value(json_object_get(one, "phase")),
				                 "building index: scanning table");
		}
		json_decref(status);
		ck_assert_msg(deadline_left_ms(deadline) > 0, "%s", pgbaton_log(p));
		poll(NULL, 0, 20);
	}
	/* Half of the table is read; of the index that is less than a half. */
	ck_assert_msg(share > 0.1 && share < 0.4, "%g", share);
	char *out;
	ck_assert_int_eq(pgbaton_cli(p, &out, 60, "status", NULL), 0);
	ck_assert_msg(strstr(out, "INDEX public gated of public.t: building index: scan") != NULL, "%s",
	              out);
	ck_assert_msg(strstr(out, "\neta ") != NULL, "%s", out);
	free(out);

	db_exec(target, "SELECT pg_advisory_unlock(42)");
	pgbaton_wait_state(p, "following", 60);
	ck_assert_int_eq(pgbaton_status_int(p, "index.count"), 0);
	end(p);
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

static void
wait_reading(Pgbaton *p, bool reading)
{
	for (int64_t deadline = deadline_in_ms(60000);;) {
		json_t *status = pgbaton_status(p);
		json_t *slot = json_object_get(status, "slot");
		double seconds = json_number_value(json_object_get(slot, "reading_seconds"));
		bool done = json_is_true(json_object_get(slot, "active")) && (seconds > 0) == reading;
		json_decref(status);
		if (done)
			return;
		ck_assert_msg(deadline_left_ms(deadline) > 0, "reading_seconds is %g\n%s", seconds,
		              pgbaton_log(p));
		poll(NULL, 0, 20);
	}
}

/* A walsender that sends nothing for its reading: this one is stopped. */
START_TEST(a_source_that_only_reads_is_told)
{
	static const char *const args[] = {NULL};

	open_sides("reading");
	Pgbaton *p = begin("reading", args);
	pgbaton_wait_state(p, "following", 60);
	pid_t walsender = (pid_t)db_int(source, "SELECT active_pid FROM pg_replication_slots"
	                                        " WHERE slot_name = 'reading'");
	ck_assert_int_eq(kill(walsender, SIGSTOP), 0);
	db_exec(source, "UPDATE t SET x = repeat('y', 500)");
	db_exec(source, "UPDATE t SET x = repeat('z', 500)");
	wait_reading(p, true);
	char *out;
	ck_assert_int_eq(pgbaton_cli(p, &out, 60, "status", NULL), 0);
	ck_assert_msg(strstr(out, "source     decodes at ") != NULL, "%s", out);
	free(out);
	while (strstr(pgbaton_log(p), "the source has sent no change for") == NULL)
		poll(NULL, 0, 100);
	ck_assert_int_eq(kill(walsender, SIGCONT), 0);
	wait_reading(p, false);
	ck_assert(!pgbaton_ended(p));
	end(p);
	close_sides();
}
END_TEST

static void
wait_told(Pgbaton *p, const char *what)
{
	wait_text(p, "stream.waiting", true);
	char *told = pgbaton_status_text(p, "stream.waiting");
	ck_assert_msg(strstr(told, what) != NULL, "%s", told);
	ck_assert_ptr_nonnull(strstr(pgbaton_log(p), told));
	free(told);
}

/* A lock on the target, and a standby of its that is missing, hold the apply up without an error. */
START_TEST(who_holds_up_the_apply_is_told)
{
	static const char *const args[] = {NULL};

	open_sides("held_up");
	Pgbaton *p = begin("held_up", args);
	pgbaton_wait_state(p, "following", 60);
	db_exec(target, "BEGIN; LOCK TABLE t");
	db_exec(source, "UPDATE t SET x = 'behind the lock' WHERE id <= 100");
	wait_told(p, "idle in transaction: BEGIN; LOCK TABLE t");
	db_exec(target, "ROLLBACK");
	db_wait_until(target, "SELECT count(*) = 100 FROM t WHERE x = 'behind the lock'", 60);
	wait_text(p, "stream.waiting", false);

	/* The flush after the first one waits for it, and the second one for the flush. */
	cluster_configure(target_cluster, "synchronous_standby_names = 'nobody'");
	db_exec(source, "UPDATE t SET x = 'first' WHERE id = 1");
	db_wait_until(target,
	              "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND"
	              " application_name LIKE 'pgbaton apply%'",
	              60);
	db_exec(source, "UPDATE t SET x = 'second' WHERE id = 1");
	wait_told(p, "synchronous_standby_names");
	cluster_configure(target_cluster, "synchronous_standby_names = ''");
	db_wait_until(target, "SELECT x = 'second' FROM t WHERE id = 1", 60);
	wait_text(p, "stream.waiting", false);
	compare_databases(source, target, &(CompareOptions){.own_schema = "held_up"});
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
	tcase_add_test(tc, a_lost_slot_ends_the_copy);
	tcase_add_test(tc, an_index_is_told_while_it_is_built);
	tcase_add_test(tc, a_slot_in_danger_is_told);
	tcase_add_test(tc, who_holds_up_the_apply_is_told);
	tcase_add_test(tc, a_source_that_only_reads_is_told);
	suite_add_tcase(suite, tc);
	return suite;
}

TEST_SUITE(make_care)
