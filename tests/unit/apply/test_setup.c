/*
 * Set-up on the source: identities, publications, slot, fence, marker; and that
 * undoing leaves nothing behind.
 */
#include <check.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "apply/care/waiting.h"
#include "apply/setup/locked.h"
#include "apply/setup/source.h"
#include "common/clock.h"
#include "common/memory.h"
#include "tests/harness/skip.h"
#include "tests/unit/apply/servers.h"
#include "tests/unit/runner.h"

static Cluster *cluster;

static void
start(void)
{
	cluster = servers_start(0, "max_prepared_transactions = 5\nautovacuum_naptime = 1s\n");
}

static void
stop(void)
{
	cluster_free(cluster);
}

/* What a test has in hand. */
typedef struct {
	PGconn *app; /* the application on the source */
	Sql *source;
	Sql *target;
	ConnInfo *info;
	Ledger ledger;
	SourceSetup setup;
} Bench;

static void
bench_open(Bench *bench, Cluster *on, const char *ddl)
{
	servers_clean(on);
	memset(bench, 0, sizeof(*bench));
	bench->app = db_connect(on, "source");
	db_exec(bench->app, "%s", ddl);
	bench->source = servers_open(on, "source");
	bench->target = servers_open(on, "target");
	bench->info = servers_info(on, "source", NULL);
	bench->ledger = servers_ledger(bench->target, "pgbaton");
	bench->setup = (SourceSetup){.source = bench->source,
	                             .target = bench->target,
	                             .source_info = bench->info,
	                             .ledger = &bench->ledger,
	                             .catalog = servers_catalog(bench->source),
	                             .replica_identity = "full",
	                             .slot_timeout_ms = 20000,
	                             .lock_timeout_ms = 100,
	                             .lock_patience_ms = 20000};
}

static void
bench_close(Bench *bench)
{
	catalog_free(bench->setup.catalog);
	sql_close(bench->source);
	sql_close(bench->target);
	conninfo_free(bench->info);
	PQfinish(bench->app);
}

static void
assert_text(PGconn *conn, const char *sql, const char *expected)
{
	char *got = db_rows(conn, "%s", sql);

	ck_assert_msg(strcmp(got, expected) == 0, "%s\n  gives: %s\n  not:   %s", sql, got, expected);
	free(got);
}

static const char all_of_it[] =
	"CREATE TABLE pk (id int PRIMARY KEY, v text); CREATE TABLE none (a int);"
	"CREATE TABLE nothing (a int); ALTER TABLE nothing REPLICA IDENTITY NOTHING;"
	"CREATE UNLOGGED TABLE quick (a int);"
	"CREATE TABLE \"Mixed \"\"Case\" (id int PRIMARY KEY);"
	"CREATE TABLE part (k int PRIMARY KEY) PARTITION BY LIST (k);"
	"CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1)";

#define IDENTITIES                                                       \
	"SELECT relname, relreplident FROM pg_class WHERE relkind = 'r' AND" \
	" relnamespace = 'public'::regnamespace ORDER BY relname COLLATE \"C\""

static void
make_all(Bench *bench, Lsn *from)
{
	Error err;
	bool created;

	ASSERT_OK(source_setup_identities(&bench->setup, &err));
	ASSERT_OK(source_setup_publication(&bench->setup, &err));
	ASSERT_OK(source_setup_slot(&bench->setup, &created, from, &err));
	ck_assert(created);
	ASSERT_OK(source_fence_prepare(&bench->setup, &err));
}

START_TEST(everything_is_made_and_undone)
{
	Bench bench;
	Error err;
	Lsn from, again;
	bool created;
	SlotHealth health;

	bench_open(&bench, cluster, all_of_it);
	char *before = db_rows(bench.app, IDENTITIES);
	make_all(&bench, &from);
	ck_assert(lsn_valid(from));
	assert_text(bench.app, IDENTITIES,
	            "Mixed \"Case|d\nnone|f\nnothing|f\npart_1|d\npk|d\nquick|d");
	assert_text(bench.app,
	            "SELECT tablename FROM pg_publication_tables WHERE pubname = 'pgbaton'"
	            " ORDER BY tablename COLLATE \"C\"",
	            "Mixed \"Case\nnone\nnothing\npart_1\npk");
	assert_text(bench.app,
	            "SELECT count(*), bool_and(tgenabled = 'D') FROM pg_trigger"
	            " WHERE tgname = 'pgbaton_fence'",
	            "7|t");
	db_exec(bench.app,
	        "INSERT INTO none VALUES (1); UPDATE none SET a = 2; INSERT INTO part VALUES (1)");
	ASSERT_OK(source_slot_health(bench.source, &bench.ledger, &health, &err));
	ck_assert(health.exists && !health.lost && !health.active);
	ck_assert_int_eq(lsn_cmp(health.confirmed, from), 0);
	ck_assert_int_eq(health.safe_bytes, -1);

	/* A second run changes nothing, and still knows what it was like. */
	catalog_free(bench.setup.catalog);
	bench.setup.catalog = servers_catalog(bench.source);
	ASSERT_OK(source_setup_identities(&bench.setup, &err));
	ASSERT_OK(source_setup_publication(&bench.setup, &err));
	ASSERT_OK(source_setup_slot(&bench.setup, &created, &again, &err));
	ck_assert(!created);
	ck_assert_int_eq(lsn_cmp(from, again), 0);
	ASSERT_OK(source_fence_prepare(&bench.setup, &err));
	ASSERT_OK(source_check_publication(bench.source, &bench.ledger, bench.setup.catalog, &err));
	char names[200];
	source_publications(&bench.ledger, bench.setup.catalog, names, sizeof(names));
	ck_assert_str_eq(names, "pgbaton");

	ASSERT_OK(ledger_undo(bench.target, bench.source, &bench.ledger, "source", NULL, &err));
	assert_text(bench.app, IDENTITIES, before);
	assert_text(bench.app,
	            "SELECT (SELECT count(*) FROM pg_publication),"
	            " (SELECT count(*) FROM pg_replication_slots), (SELECT count(*) FROM pg_trigger),"
	            " (SELECT count(*) FROM pg_namespace WHERE nspname = 'pgbaton')",
	            "0|0|0|0");
	LedgerObject *objects;
	size_t count;
	ASSERT_OK(ledger_objects(bench.target, &bench.ledger, "source", NULL, &objects, &count, &err));
	ck_assert_uint_eq(count, 0);
	ledger_objects_free(objects, count);
	free(before);
	bench_close(&bench);
}
END_TEST

START_TEST(refuse_and_insert_only)
{
	Bench bench;
	Error err = ERROR_INIT;
	char names[200];

	bench_open(&bench, cluster, all_of_it);
	bench.setup.replica_identity = "refuse";
	ck_assert(!source_setup_identities(&bench.setup, &err));
	ck_assert_int_eq(err.class, ERROR_CONFIG);
	ck_assert_ptr_nonnull(strstr(err.message, "2 tables"));
	ck_assert_ptr_nonnull(strstr(err.message, "\"none\""));

	bench.setup.replica_identity = "insert-only";
	ASSERT_OK(source_setup_identities(&bench.setup, &err));
	ASSERT_OK(source_setup_publication(&bench.setup, &err));
	source_publications(&bench.ledger, bench.setup.catalog, names, sizeof(names));
	ck_assert_str_eq(names, "pgbaton,pgbaton_insert_only");
	assert_text(bench.app,
	            "SELECT tablename FROM pg_publication_tables WHERE pubname ="
	            " 'pgbaton_insert_only' ORDER BY 1",
	            "none\nnothing");
	/* The application's updates go on: what is not published needs no identity. */
	db_exec(bench.app, "INSERT INTO none VALUES (1); UPDATE none SET a = 2; DELETE FROM none");
	ASSERT_OK(source_check_publication(bench.source, &bench.ledger, bench.setup.catalog, &err));
	bench_close(&bench);
}
END_TEST

START_TEST(altered_publication_is_named)
{
	Bench bench;
	Error err;
	static const struct {
		const char *change, *what, *back;
	} cases[] = {
		{"ALTER PUBLICATION pgbaton DROP TABLE pk", "public.pk was taken out",
	     "ALTER PUBLICATION pgbaton ADD TABLE pk"},
		{"ALTER PUBLICATION pgbaton DROP TABLE pk; ALTER PUBLICATION pgbaton ADD TABLE pk WHERE (id > 1)",
	     "public.pk has a row filter",
	     "ALTER PUBLICATION pgbaton DROP TABLE pk; ALTER PUBLICATION pgbaton ADD TABLE pk (id)"},
		{"", "public.pk has a column list",
	     "ALTER PUBLICATION pgbaton DROP TABLE pk; ALTER PUBLICATION pgbaton ADD TABLE pk"},
		{"CREATE TABLE more (); ALTER PUBLICATION pgbaton ADD TABLE more", "public.more was added",
	     "DROP TABLE more"},
		{"ALTER PUBLICATION pgbaton SET (publish = 'insert, update, delete')",
	     "no longer publishes truncate",
	     "ALTER PUBLICATION pgbaton SET (publish = 'insert, update, delete, truncate')"},
		{"ALTER TABLE pk RENAME TO kp; ALTER PUBLICATION pgbaton DROP TABLE kp",
	     "public.pk was taken out",
	     "ALTER PUBLICATION pgbaton ADD TABLE kp; ALTER TABLE kp RENAME TO pk"},
		{"DROP PUBLICATION pgbaton", "publication.pgbaton is gone", ""},
	};

	bench_open(&bench, cluster, all_of_it);
	ASSERT_OK(source_setup_identities(&bench.setup, &err));
	ASSERT_OK(source_setup_publication(&bench.setup, &err));
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		db_exec(bench.app, "%s", cases[i].change);
		err = (Error)ERROR_INIT;
		ck_assert(
			!source_check_publication(bench.source, &bench.ledger, bench.setup.catalog, &err));
		ck_assert_int_eq(err.class, ERROR_CONFIG);
		ck_assert_msg(strstr(err.message, cases[i].what) != NULL, "\"%s\" not in: %s",
		              cases[i].what, err.message);
		db_exec(bench.app, "%s", cases[i].back);
	}
	bench_close(&bench);
}
END_TEST

/* ---- S1 ---- */

START_TEST(lock_is_not_waited_for_long)
{
	Bench bench;
	Error err = ERROR_INIT;

	bench_open(&bench, cluster, "CREATE TABLE none (a int)");
	db_exec(bench.app, "SET application_name = 'shop'");
	db_exec(bench.app, "BEGIN; INSERT INTO none VALUES (1)");
	bench.setup.lock_patience_ms = 600;
	ck_assert(!source_setup_identities(&bench.setup, &err));
	ck_assert_int_eq(err.class, ERROR_TIMEOUT);
	ck_assert_ptr_nonnull(strstr(err.message, "shop"));
	ck_assert_ptr_nonnull(strstr(err.message, "INSERT INTO none"));
	ck_assert_ptr_nonnull(strstr(err.message, "replica identity of public.none"));
	db_exec(bench.app, "COMMIT");
	ASSERT_OK(source_setup_identities(&bench.setup, &err));
	bench_close(&bench);
}
END_TEST

/* ---- the slot ---- */

START_TEST(slot_names_whom_it_waits_for)
{
	Bench bench;
	Error err = ERROR_INIT;
	Lsn from;
	bool created;

	bench_open(&bench, cluster, "CREATE TABLE pk (id int PRIMARY KEY)");
	db_exec(bench.app, "SET application_name = 'writer'");
	db_exec(bench.app, "BEGIN; INSERT INTO pk VALUES (1); PREPARE TRANSACTION 'orphan'");
	db_exec(bench.app, "BEGIN; INSERT INTO pk VALUES (2)");
	bench.setup.slot_timeout_ms = 700;
	ck_assert(!source_setup_slot(&bench.setup, &created, &from, &err));
	ck_assert_int_eq(err.class, ERROR_TIMEOUT);
	ck_assert_msg(strstr(err.message, "writer") != NULL, "%s", err.message);
	ck_assert_msg(strstr(err.message, "'orphan'") != NULL, "%s", err.message);
	PGconn *other = db_connect(cluster, "source");
	db_wait_until(other, "SELECT count(*) = 0 FROM pg_replication_slots", 10);
	db_exec(bench.app, "COMMIT");
	db_exec(bench.app, "ROLLBACK PREPARED 'orphan'");
	ASSERT_OK(source_setup_slot(&bench.setup, &created, &from, &err));
	ck_assert(created);
	PQfinish(other);
	bench_close(&bench);
}
END_TEST

/* Shorter than it takes to say that there is to be none. */
START_TEST(a_short_statement_timeout_ends_nothing)
{
	enum { TRIES = 30 };
	Error err = ERROR_INIT;

	servers_clean(cluster);
	PGconn *conn = db_connect(cluster, "source");
	db_exec(conn, "DROP ROLE IF EXISTS hasty; CREATE ROLE hasty LOGIN;"
	              "ALTER ROLE hasty SET statement_timeout = '1ms'");
	for (int i = 0; i < TRIES; i++) {
		Sql *sql = servers_open_as(cluster, "source", "hasty");
		ASSERT_OK(sql_exec(sql, &err, "DO 'BEGIN PERFORM pg_catalog.pg_sleep(0.01); END'"));
		sql_close(sql);
	}
	PQfinish(conn);
}
END_TEST

START_TEST(foreign_slot_is_not_taken)
{
	Bench bench;
	Error err = ERROR_INIT;
	Lsn from;
	bool created;

	bench_open(&bench, cluster, "CREATE TABLE pk (id int PRIMARY KEY)");
	db_exec(bench.app, "SELECT pg_create_logical_replication_slot('pgbaton', 'test_decoding')");
	ck_assert(!source_setup_slot(&bench.setup, &created, &from, &err));
	ck_assert_int_eq(err.class, ERROR_CONFIG);
	ck_assert_ptr_nonnull(strstr(err.message, "test_decoding"));
	bench_close(&bench);
}
END_TEST

/* ---- the fence ---- */

typedef struct {
	Cluster *cluster;
	const char *sql;
	char sqlstate[6];
	bool ok;
	pthread_t thread;
} Writer;

static void *
write_once(void *arg)
{
	Writer *writer = arg;
	PGconn *conn = db_connect(writer->cluster, "source");

	writer->ok = db_try(conn, writer->sqlstate, "%s", writer->sql);
	PQfinish(conn);
	return NULL;
}

static void
writer_start(Writer *writer, Cluster *on, const char *sql)
{
	*writer = (Writer){.cluster = on, .sql = sql};
	ck_assert_int_eq(pthread_create(&writer->thread, NULL, write_once, writer), 0);
}

static const char waits_at_gate[] =
	"SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";

START_TEST(fence_holds_writers_and_refuses_them_afterwards)
{
	Bench bench;
	Error err;
	Lsn from;
	bool on;
	Writer writer;

	bench_open(&bench, cluster, all_of_it);
	make_all(&bench, &from);
	Sql *fence = servers_open(cluster, "source");
	ASSERT_OK(source_fence_lock(fence, bench.setup.catalog, deadline_in_ms(10000), &err));
	writer_start(&writer, cluster, "INSERT INTO pk VALUES (7, 'x')");
	db_wait_until(bench.app, "SELECT count(*) = 1 FROM pg_locks WHERE NOT granted", 10);
	assert_text(bench.app, "SELECT count(*) FROM pk", "0"); /* readers go on */
	ASSERT_OK(source_emit_marker(bench.source, &bench.ledger, "m1", &err));
	ASSERT_OK(source_fence_enable(fence, &bench.ledger, bench.setup.catalog, &err));
	ASSERT_OK(sql_exec(fence, &err, "COMMIT"));
	/* Until that session says what became of the switch. */
	db_wait_until(bench.app, waits_at_gate, 30);
	source_fence_shut_gate(fence, &bench.ledger);
	sql_close(fence);
	pthread_join(writer.thread, NULL);
	ck_assert(!writer.ok);
	ck_assert_str_eq(writer.sqlstate, "25006");

	static const char *const writes[] = {
		"INSERT INTO pk VALUES (1)",
		"DELETE FROM none",
		"TRUNCATE quick",
		"INSERT INTO part VALUES (1)",
		"UPDATE part_1 SET k = 1",
		"COPY nothing FROM PROGRAM 'echo 1'",
		"INSERT INTO \"Mixed \"\"Case\" VALUES (1)",
	};
	for (size_t i = 0; i < sizeof(writes) / sizeof(writes[0]); i++) {
		char *message = db_expect_error(bench.app, "25006", "%s", writes[i]);
		ck_assert_ptr_nonnull(strstr(message, "this database has moved"));
		free(message);
	}
	/* A session that replicates is no exception; only the way back is, by its setting. */
	db_exec(bench.app, "SET session_replication_role = replica");
	free(db_expect_error(bench.app, "25006", "INSERT INTO pk VALUES (1)"));
	free(db_expect_error(bench.app, "25006", "TRUNCATE part"));
	db_exec(bench.app, "SET pgbaton.writer = 'someone'");
	free(db_expect_error(bench.app, "25006", "INSERT INTO pk VALUES (1)"));
	db_exec(bench.app,
	        "SET pgbaton.writer = '%s'; INSERT INTO pk VALUES (1); DELETE FROM pk;"
	        "RESET session_replication_role; RESET pgbaton.writer",
	        bench.ledger.id);
	ASSERT_OK(source_fence_state(bench.source, &bench.ledger, &on, &err));
	ck_assert(on);
	ASSERT_OK(source_fence_disable(bench.source, &bench.ledger, bench.setup.catalog, &err));
	ASSERT_OK(source_fence_state(bench.source, &bench.ledger, &on, &err));
	ck_assert(!on);
	db_exec(bench.app, "INSERT INTO pk VALUES (2); TRUNCATE pk, none");
	bench_close(&bench);
}
END_TEST

/* A committed fence, and a writer at its gate. */
static Sql *
fence_with_writer(Bench *bench, Writer *writer)
{
	Error err = ERROR_INIT;
	Sql *fence = servers_open(cluster, "source");

	ASSERT_OK(source_fence_lock(fence, bench->setup.catalog, deadline_in_ms(10000), &err));
	ASSERT_OK(source_fence_enable(fence, &bench->ledger, bench->setup.catalog, &err));
	ASSERT_OK(sql_exec(fence, &err, "COMMIT"));
	writer_start(writer, cluster, "INSERT INTO pk VALUES (7, 'x')");
	db_wait_until(bench->app, waits_at_gate, 30);
	return fence;
}

/* The switch is undone: whoever waits for the outcome goes on, and so does who comes later,
 * before the triggers are off; those are switched off once they let go. The next fence is as the
 * first. */
START_TEST(an_undone_fence_lets_go_on)
{
	Bench bench;
	Error err = ERROR_INIT;
	Lsn from;
	Writer writer;

	bench_open(&bench, cluster, all_of_it);
	make_all(&bench, &from);
	for (int i = 0; i < 2; i++) {
		Sql *fence = fence_with_writer(&bench, &writer);
		ASSERT_OK(source_fence_open_gate(fence, &bench.ledger, &err));
		sql_close(fence);
		pthread_join(writer.thread, NULL);
		ck_assert_msg(writer.ok, "%s", writer.sqlstate);
		db_exec(bench.app, "DELETE FROM pk");
		ASSERT_OK(source_fence_disable(bench.source, &bench.ledger, bench.setup.catalog, &err));
	}
	bench_close(&bench);
}
END_TEST

/* The fence's session ends without a word. Who waits goes on waiting: until somebody undoes the
 * switch, or until the time is over. */
START_TEST(an_undecided_fence_is_waited_for)
{
	Bench bench;
	Error err = ERROR_INIT;
	Lsn from;
	Writer writer;

	bench_open(&bench, cluster, all_of_it);
	make_all(&bench, &from);
	for (int undone = 1; undone >= 0; undone--) {
		Sql *fence = fence_with_writer(&bench, &writer);
		sql_close(fence);
		db_wait_until(bench.app,
		              "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'", 30);
		if (undone)
			ASSERT_OK(source_fence_disable(bench.source, &bench.ledger, bench.setup.catalog, &err));
		else
			ASSERT_OK(sql_execf(bench.source, &err,
			                    "SELECT setval('%s.gate', (extract(epoch FROM clock_timestamp())"
			                    " * 1000)::bigint)",
			                    bench.ledger.schema));
		pthread_join(writer.thread, NULL);
		ck_assert_msg(writer.ok == (undone == 1), "%s", writer.sqlstate);
		if (!undone)
			ck_assert_str_eq(writer.sqlstate, "25006");
	}
	bench_close(&bench);
}
END_TEST

START_TEST(fence_gives_up_at_the_deadline)
{
	Bench bench;
	Error err = ERROR_INIT;
	Lsn from;

	bench_open(&bench, cluster, all_of_it);
	make_all(&bench, &from);
	db_exec(bench.app, "SET application_name = 'slow'");
	db_exec(bench.app, "BEGIN; INSERT INTO pk VALUES (1)");
	Sql *fence = servers_open(cluster, "source");
	int64_t begun = clock_mono_ms();
	ck_assert(!source_fence_lock(fence, bench.setup.catalog, deadline_in_ms(400), &err));
	ck_assert_int_lt(clock_mono_ms() - begun, 5000);
	ck_assert_int_eq(err.class, ERROR_TIMEOUT);
	ck_assert_msg(strstr(err.message, "slow") != NULL, "%s", err.message);
	/* No session has it any more. */
	db_exec(bench.app, "PREPARE TRANSACTION 'gone'");
	ck_assert(!source_fence_lock(fence, bench.setup.catalog, deadline_in_ms(400), &err));
	ck_assert_msg(strstr(err.message, "in the way: prepared transaction 'gone' (of postgres") !=
	                  NULL,
	              "%s", err.message);
	ck_assert_msg(strstr(err.hint, "ROLLBACK PREPARED") != NULL, "%s", err.hint);
	db_exec(bench.app, "COMMIT PREPARED 'gone'");
	/* Rolled back: nobody is held, and the session can try again. */
	db_exec(bench.app, "INSERT INTO none VALUES (1)");
	ASSERT_OK(source_fence_lock(fence, bench.setup.catalog, deadline_in_ms(5000), &err));
	ASSERT_OK(sql_exec(fence, &err, "ROLLBACK"));
	sql_close(fence);
	bench_close(&bench);
}
END_TEST

static void *
end_prepared_in_background(void *conn)
{
	db_exec(conn, "COMMIT PREPARED 'first'");
	return NULL;
}

/* Those that hold tables when it begins; who prepares later is no reason to wait. */
START_TEST(prepared_transactions_are_awaited)
{
	Bench bench;
	Error err = ERROR_INIT;
	pthread_t thread;

	bench_open(&bench, cluster, all_of_it);
	ASSERT_OK(locked_await_prepared(bench.source, deadline_in_ms(30000), NULL, &err));
	db_exec(bench.app, "BEGIN; SELECT txid_current(); PREPARE TRANSACTION 'of_nothing'");
	ASSERT_OK(locked_await_prepared(bench.source, deadline_in_ms(30000), NULL, &err));
	db_exec(bench.app, "BEGIN; INSERT INTO pk VALUES (1); PREPARE TRANSACTION 'first'");
	ck_assert(!locked_await_prepared(bench.source, deadline_in_ms(50), NULL, &err));
	ck_assert_int_eq(err.class, ERROR_TIMEOUT);
	ck_assert_msg(strstr(err.message, "prepared transaction 'first' (of postgres") != NULL &&
	                  strstr(err.message, "of_nothing") == NULL,
	              "%s", err.message);
	ck_assert_int_eq(pthread_create(&thread, NULL, end_prepared_in_background, bench.app), 0);
	error_clear(&err);
	ASSERT_OK(locked_await_prepared(bench.source, deadline_in_ms(30000), NULL, &err));
	pthread_join(thread, NULL);
	db_exec(bench.app, "ROLLBACK PREPARED 'of_nothing'");
	bench_close(&bench);
}
END_TEST

/* K2: nobody says anything, and the server gives the source back. */
START_TEST(silent_fence_is_ended_by_the_server)
{
	Bench bench;
	Error err;
	Lsn from;
	bool on;

	bench_open(&bench, cluster, all_of_it);
	make_all(&bench, &from);
	Sql *fence = servers_open(cluster, "source");
	int64_t begun = clock_mono_ms();
	ASSERT_OK(source_fence_lock(fence, bench.setup.catalog, deadline_in_ms(700), &err));
	db_exec(bench.app, "INSERT INTO pk VALUES (1)"); /* waits, then goes through */
	int64_t waited = clock_mono_ms() - begun;
	ck_assert_msg(waited >= 600, "%lld ms", (long long)waited);
	err = (Error)ERROR_INIT;
	ck_assert(!source_fence_enable(fence, &bench.ledger, bench.setup.catalog, &err));
	ck_assert_int_eq(err.class, ERROR_TIMEOUT);
	ck_assert_msg(strstr(err.message, "given itself back") != NULL, "%s", err.message);
	ASSERT_OK(source_fence_state(bench.source, &bench.ledger, &on, &err));
	ck_assert(!on);
	sql_close(fence);

	/* Enabling does not begin the time anew: no more than what is left is asked for. */
	char silence[32];
	fence = servers_open(cluster, "source");
	ASSERT_OK(source_fence_lock(fence, bench.setup.catalog, deadline_in_ms(20000), &err));
	ASSERT_OK(sql_exec(fence, &err, "SELECT pg_catalog.pg_sleep(0.6)"));
	ASSERT_OK(source_fence_enable(fence, &bench.ledger, bench.setup.catalog, &err));
	ASSERT_OK(sql_value(fence, &err, silence, sizeof(silence),
	                    "SELECT setting FROM pg_catalog.pg_settings"
	                    " WHERE name = 'idle_in_transaction_session_timeout'"));
	ck_assert_int_le(atoi(silence), 19400);
	ck_assert_int_gt(atoi(silence), 1);
	sql_close(fence);
	bench_close(&bench);
}
END_TEST

START_TEST(slot_in_use_is_freed_by_undo)
{
	Bench bench;
	Error err;
	Lsn from;
	bool created;

	bench_open(&bench, cluster, all_of_it);
	ASSERT_OK(source_setup_publication(&bench.setup, &err));
	ASSERT_OK(source_setup_slot(&bench.setup, &created, &from, &err));
	/* A consumer that does not go away by itself: SQL that waits inside the slot. */
	PGconn *consumer = db_connect_uri(cluster_uri(cluster, "source?replication=database"));
	PGresult *result = PQexec(consumer, "START_REPLICATION SLOT pgbaton LOGICAL 0/0"
	                                    " (proto_version '1', publication_names 'pgbaton')");
	ck_assert_int_eq(PQresultStatus(result), PGRES_COPY_BOTH);
	PQclear(result);
	db_wait_until(bench.app, "SELECT active FROM pg_replication_slots", 10);
	ASSERT_OK(ledger_undo(bench.target, bench.source, &bench.ledger, "source", NULL, &err));
	assert_text(bench.app, "SELECT count(*) FROM pg_replication_slots", "0");
	PQfinish(consumer);
	bench_close(&bench);
}
END_TEST

/* The statements differ between versions: everything once on each of them. */
START_TEST(other_versions)
{
	TEST_NEEDS_MAJOR(_i);
	Cluster *old = servers_start(_i, NULL);
	Bench bench;
	Error err;
	Lsn from;
	SlotHealth health;

	bench_open(&bench, old, all_of_it);
	make_all(&bench, &from);
	ASSERT_OK(source_slot_health(bench.source, &bench.ledger, &health, &err));
	ck_assert(health.exists && !health.lost && !lsn_valid(health.read));
	ck_assert(_i >= 14 || health.spilled_bytes == -1);
	ASSERT_OK(source_check_publication(bench.source, &bench.ledger, bench.setup.catalog, &err));
	ASSERT_OK(source_emit_marker(bench.source, &bench.ledger, "m1", &err));
	if (_i < 14)
		assert_text(bench.app, "SELECT id, content FROM pgbaton.marker", "1|m1");
	Sql *fence = servers_open(old, "source");
	ASSERT_OK(source_fence_lock(fence, bench.setup.catalog, deadline_in_ms(10000), &err));
	ASSERT_OK(source_fence_enable(fence, &bench.ledger, bench.setup.catalog, &err));
	ASSERT_OK(sql_exec(fence, &err, "COMMIT"));
	source_fence_shut_gate(fence, &bench.ledger); /* else who writes waits for somebody to say it */
	sql_close(fence);
	free(db_expect_error(bench.app, "25006", "INSERT INTO part_1 VALUES (1)"));
	ASSERT_OK(source_fence_disable(bench.source, &bench.ledger, bench.setup.catalog, &err));
	ASSERT_OK(ledger_undo(bench.target, bench.source, &bench.ledger, "source", NULL, &err));
	assert_text(bench.app,
	            "SELECT (SELECT count(*) FROM pg_publication),"
	            " (SELECT count(*) FROM pg_replication_slots), (SELECT count(*) FROM pg_trigger)",
	            "0|0|0");
	bench_close(&bench);
	cluster_free(old);
}
END_TEST

/* ---- who waits for the copy ---- */

START_TEST(who_waits_for_the_copy_is_named)
{
	Bench bench;
	char said[256];
	Error err = ERROR_INIT;

	bench_open(&bench, cluster, "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int)");
	PGconn *copy = db_connect(cluster, "source");
	PGconn *other = db_connect(cluster, "source");
	db_exec(copy, "SET application_name = 'pgbaton copy'; BEGIN; LOCK t IN ACCESS SHARE MODE");
	db_exec(bench.app, "BEGIN; LOCK u IN ACCESS EXCLUSIVE MODE");
	ASSERT_OK(waiting_read(bench.source, said, sizeof(said), &err));
	ck_assert_str_eq(said, "");
	/* Who waits for somebody else is none of ours. */
	ck_assert_int_eq(PQsendQuery(other, "SELECT * FROM u"), 1);
	db_wait_until(bench.app, "SELECT count(*) = 1 FROM pg_locks WHERE NOT granted", 30);
	ASSERT_OK(waiting_read(bench.source, said, sizeof(said), &err));
	ck_assert_str_eq(said, "");
	db_exec(bench.app, "COMMIT");
	PQclear(PQgetResult(other));
	ck_assert_ptr_null(PQgetResult(other));

	ck_assert_int_eq(PQsendQuery(other, "ALTER TABLE t\n  ADD c int"), 1);
	/* The lock's queue has it a moment before the view says what it waits for. */
	int64_t deadline = deadline_in_ms(30000);
	while (said[0] == '\0' && deadline_left_ms(deadline) > 0)
		ASSERT_OK(waiting_read(bench.source, said, sizeof(said), &err));
	ck_assert_msg(strstr(said, "waits for a lock of the copy: ALTER TABLE t ADD c int") != NULL,
	              "%s", said);
	db_exec(copy, "COMMIT");
	PQclear(PQgetResult(other));
	ck_assert_ptr_null(PQgetResult(other));
	PQfinish(copy);
	PQfinish(other);
	bench_close(&bench);
}
END_TEST

static Suite *
make_setup(void)
{
	Suite *suite = suite_create("setup");
	TCase *made = tcase_create("made");
	TCase *versions = tcase_create("versions");

	tcase_add_unchecked_fixture(made, start, stop);
	tcase_set_timeout(made, 60);
	tcase_add_test(made, everything_is_made_and_undone);
	tcase_add_test(made, refuse_and_insert_only);
	tcase_add_test(made, altered_publication_is_named);
	tcase_add_test(made, lock_is_not_waited_for_long);
	tcase_add_test(made, slot_names_whom_it_waits_for);
	tcase_add_test(made, a_short_statement_timeout_ends_nothing);
	tcase_add_test(made, foreign_slot_is_not_taken);
	tcase_add_test(made, fence_holds_writers_and_refuses_them_afterwards);
	tcase_add_test(made, an_undone_fence_lets_go_on);
	tcase_add_test(made, an_undecided_fence_is_waited_for);
	tcase_add_test(made, fence_gives_up_at_the_deadline);
	tcase_add_test(made, prepared_transactions_are_awaited);
	tcase_add_test(made, silent_fence_is_ended_by_the_server);
	tcase_add_test(made, slot_in_use_is_freed_by_undo);
	tcase_add_test(made, who_waits_for_the_copy_is_named);
	suite_add_tcase(suite, made);

	tcase_set_timeout(versions, 60);
	tcase_add_loop_test(versions, other_versions, CLUSTER_OLDEST, CLUSTER_NEWEST + 1);
	suite_add_tcase(suite, versions);
	return suite;
}
TEST_SUITE(make_setup)
