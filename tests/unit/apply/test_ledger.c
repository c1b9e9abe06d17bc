/*
 * The ledger: one process at a time, what is written is read back, objects are undone
 * newest first and what cannot be undone is named.
 */
#include <check.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "apply/ledger.h"
#include "tests/unit/apply/servers.h"
#include "tests/unit/runner.h"

static Cluster *cluster;

static void
start(void)
{
	cluster = servers_start(0, NULL);
}

static void
stop(void)
{
	cluster_free(cluster);
}

START_TEST(one_process_works_on_a_migration)
{
	Error err;
	Sql *first = servers_open(cluster, "target");
	Sql *second = servers_open(cluster, "target");
	char pid[16];

	ASSERT_OK(ledger_lock(first, "lock_a", &err));
	ASSERT_OK(ledger_lock(second, "lock_b", &err));
	ck_assert(!ledger_lock(second, "lock_a", &err));
	ck_assert_int_eq(err.class, ERROR_CONFIG);
	snprintf(pid, sizeof(pid), "%d", PQbackendPID(sql_pgconn(first)));
	ck_assert_msg(strstr(err.message, pid) != NULL, "%s", err.message);
	ck_assert_ptr_nonnull(strstr(err.message, "pgbaton test"));
	sql_close(first);
	PGconn *conn = db_connect(cluster, "target");
	db_wait_until(conn, "SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory'", 10);
	ASSERT_OK(ledger_lock(second, "lock_a", &err));
	PQfinish(conn);
	sql_close(second);
}
END_TEST

static void *
close_once_waited_for(void *arg)
{
	PGconn *conn = db_connect(cluster, "target");

	db_wait_until(
		conn, "SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted", 10);
	PQfinish(conn);
	sql_close(arg);
	return NULL;
}

/* A start right after a kill: the server has not noticed yet. */
START_TEST(the_lock_of_one_that_is_going)
{
	Error err;
	Sql *first = servers_open(cluster, "target");
	Sql *second = servers_open(cluster, "target");
	pthread_t closer;
	char timeout[16];

	ASSERT_OK(ledger_lock(first, "lock_a", &err));
	ck_assert_int_eq(pthread_create(&closer, NULL, close_once_waited_for, first), 0);
	ASSERT_OK(ledger_lock(second, "lock_a", &err));
	pthread_join(closer, NULL);
	ASSERT_OK(sql_value(second, &err, timeout, sizeof(timeout), "SHOW lock_timeout"));
	ck_assert_str_eq(timeout, "0");
	sql_close(second);
}
END_TEST

/* Where a service keeps it to itself nobody is refused for it. */
START_TEST(which_timeline_it_is)
{
	_Atomic uint32_t noted = 1;
	Ledger ledger = {.timeline = &noted};
	Error err = ERROR_INIT;
	uint32_t now = 7;
	Sql *sql = servers_open(cluster, "target");

	ASSERT_OK(ledger_read_timeline(sql, &now, &err));
	ck_assert_uint_eq(now, 1);
	ASSERT_OK(ledger_same_timeline(&ledger, now, &err));
	ck_assert(!ledger_same_timeline(&ledger, 2, &err));
	ck_assert_int_eq(err.class, ERROR_NETWORK);
	ck_assert_ptr_nonnull(strstr(err.message, "timeline 2, not 1"));
	error_clear(&err);
	ASSERT_OK(sql_exec(sql, &err,
	                   "BEGIN; REVOKE EXECUTE ON FUNCTION pg_walfile_name(pg_lsn) FROM PUBLIC;"
	                   "CREATE ROLE of_a_service; COMMIT; SET ROLE of_a_service"));
	ASSERT_OK(ledger_read_timeline(sql, &now, &err));
	ck_assert_int_eq(err.class, ERROR_NONE);
	ck_assert_uint_eq(now, 0);
	ASSERT_OK(ledger_same_timeline(&ledger, now, &err));
	ASSERT_OK(sql_exec(sql, &err,
	                   "RESET ROLE; DROP ROLE of_a_service;"
	                   "GRANT EXECUTE ON FUNCTION pg_walfile_name(pg_lsn) TO PUBLIC"));
	sql_close(sql);
}
END_TEST

START_TEST(what_is_written_is_read_back)
{
	Error err;
	bool exists;
	char text[36];
	Lsn lsn;
	Journal journal;

	servers_clean(cluster);
	Sql *target = servers_open(cluster, "target");
	ASSERT_OK(ledger_exists(target, "moved", &exists, &err));
	ck_assert(!exists);
	Ledger ledger = {.name = "moved",
	                 .lanes = 3,
	                 .mode = "online",
	                 .source_db = "it's \\ one",
	                 .system_id = "7"};
	ASSERT_OK(ledger_create(target, &ledger, &err));
	ck_assert_uint_eq(strlen(ledger.id), 36);
	ck_assert_str_eq(ledger.schema, "\"moved\"");
	ASSERT_OK(ledger_exists(target, "moved", &exists, &err));
	ck_assert(exists);
	Ledger loaded;
	ASSERT_OK(ledger_load(target, "moved", &loaded, &err));
	ck_assert_str_eq(loaded.id, ledger.id);
	ck_assert_str_eq(loaded.source_db, "it's \\ one");
	ck_assert_str_eq(loaded.schema, ledger.schema);
	ck_assert_int_eq(loaded.lanes, 3);

	ASSERT_OK(ledger_get_start(target, &ledger, &lsn, &err));
	ck_assert(!lsn_valid(lsn));
	ASSERT_OK(ledger_set_start(target, &ledger, lsn_make(0x1600000abcULL), &err));
	ASSERT_OK(ledger_get_start(target, &ledger, &lsn, &err));
	ck_assert_uint_eq(lsn.v, 0x1600000abcULL);
	ASSERT_OK(ledger_set_state(target, &ledger, "copying", &err));
	ASSERT_OK(ledger_get_state(target, &ledger, text, &err));
	ck_assert_str_eq(text, "copying");
	const char *chosen[] = {"public.a'b"};
	Selection some = {.lists = {[INCLUDE_TABLE] = {chosen, 1}}};
	Selection all = {0};
	ASSERT_OK(ledger_keep_selection(target, &ledger, &some, &err));
	ASSERT_OK(ledger_keep_selection(target, &ledger, &some, &err));
	ck_assert(!ledger_keep_selection(target, &ledger, &all, &err));
	ck_assert_int_eq(err.class, ERROR_CONFIG);
	ck_assert_ptr_nonnull(strstr(err.message, "without --include-table public.a'b"));

	for (int i = JOURNAL_SWITCHED; i >= JOURNAL_NONE; i--) {
		Buffer sql = BUFFER_INIT;
		ledger_journal_sql(&ledger, (Journal)i, &sql);
		ASSERT_OK(sql_exec(target, &err, buffer_cstr(&sql)));
		ASSERT_OK(ledger_journal(target, &ledger, &journal, &err));
		ck_assert_int_eq(journal, i);
		buffer_free(&sql);
	}

	bool done;
	Buffer step = BUFFER_INIT;
	ASSERT_OK(ledger_step_done(target, &ledger, "index it's", &done, &err));
	ck_assert(!done);
	ledger_step_sql(&ledger, "index it's", &step);
	ASSERT_OK(sql_exec(target, &err, buffer_cstr(&step)));
	ASSERT_OK(sql_exec(target, &err, buffer_cstr(&step)));
	ASSERT_OK(ledger_step_done(target, &ledger, "index it's", &done, &err));
	ck_assert(done);
	buffer_free(&step);

	ck_assert(!ledger_create(target, &ledger, &err));
	ck_assert(error_has_sqlstate(&err, "42P06"));
	ASSERT_OK(ledger_drop(target, "moved", &err));
	ASSERT_OK(ledger_exists(target, "moved", &exists, &err));
	ck_assert(!exists);
	sql_close(target);
}
END_TEST

START_TEST(foreign_schema_is_not_touched)
{
	Error err = ERROR_INIT;
	bool exists;

	servers_clean(cluster);
	Sql *target = servers_open(cluster, "target");
	ASSERT_OK(sql_exec(target, &err, "CREATE SCHEMA theirs"));
	ck_assert(!ledger_exists(target, "theirs", &exists, &err));
	ck_assert_int_eq(err.class, ERROR_CONFIG);
	ck_assert(!ledger_drop(target, "theirs", &err));
	char count[8];
	ASSERT_OK(sql_value(target, &err, count, sizeof(count),
	                    "SELECT count(*) FROM pg_namespace WHERE nspname = 'theirs'"));
	ck_assert_str_eq(count, "1");
	/* One of an older pgbaton's is named as that. */
	ASSERT_OK(sql_exec(target, &err, "COMMENT ON SCHEMA theirs IS 'pgbaton migration, format 1'"));
	ck_assert(!ledger_exists(target, "theirs", &exists, &err));
	ck_assert_msg(strstr(err.message, "another version of pgbaton (its ledger has format 1,") !=
	                  NULL,
	              "%s", err.message);
	ck_assert(!ledger_drop(target, "theirs", &err));
	sql_close(target);
}
END_TEST

static bool
move_progress(Sql *target, const Ledger *ledger, int first, int count, Progress from, Progress to,
              Error *err)
{
	static const int binary[LEDGER_MOVE_VALUES] = {1, 1, 1, 1, 1, 1, 1};
	LedgerMove move;

	ledger_move(ledger, first, count, from, to, &move);
	PGresult *result = PQexecPrepared(sql_pgconn(target), move.statement, move.count, move.values,
	                                  move.lengths, binary, 0);
	bool ok = PQresultStatus(result) == PGRES_COMMAND_OK || sql_error_of(target, result, err);
	PQclear(result);
	return ok;
}

START_TEST(progress_and_lanes)
{
	Error err;
	Progress progress[4];

	servers_clean(cluster);
	Sql *target = servers_open(cluster, "target");
	Ledger ledger = servers_ledger(target, "pgbaton");
	ASSERT_OK(ledger_load_progress(target, &ledger, lsn_make(100), progress, &err));
	ck_assert_uint_eq(progress[1].commit_lsn.v, 100);
	ck_assert_int_eq(progress[1].position, LEDGER_WHOLE);

	Progress start = progress[1];
	ASSERT_OK(ledger_prepare_progress(target, &ledger, &err));
	ASSERT_OK(move_progress(target, &ledger, 1, 1, start, (Progress){lsn_make(200), 7}, &err));
	/* A second start does not set them back. */
	ASSERT_OK(ledger_load_progress(target, &ledger, lsn_make(100), progress, &err));
	ck_assert_uint_eq(progress[0].commit_lsn.v, 100);
	ck_assert_uint_eq(progress[1].commit_lsn.v, 200);
	ck_assert_int_eq(progress[1].position, 7);

	/* P4 */
	err = (Error)ERROR_INIT;
	ck_assert(!ledger_set_lanes(target, &ledger, 4, &err));
	ck_assert_int_eq(ledger.lanes, 2);
	/* A share that was routed for another number of lanes. */
	Ledger other = ledger;
	other.lanes = 3;
	ck_assert(!move_progress(target, &other, 1, 1, (Progress){lsn_make(200), 7},
	                         (Progress){lsn_make(300), LEDGER_WHOLE}, &err));
	ck_assert_str_eq(err.sqlstate, LEDGER_MOVED);
	/* One of the two is not there: neither moves. */
	ck_assert(!move_progress(target, &ledger, 0, 2, start, (Progress){lsn_make(300), LEDGER_WHOLE},
	                         &err));
	ck_assert_str_eq(err.sqlstate, LEDGER_MOVED);
	ASSERT_OK(move_progress(target, &ledger, 0, 1, start, (Progress){lsn_make(200), 7}, &err));
	ASSERT_OK(move_progress(target, &ledger, 0, 2, (Progress){lsn_make(200), 7},
	                        (Progress){lsn_make(300), LEDGER_WHOLE}, &err));
	ASSERT_OK(ledger_set_lanes(target, &ledger, 4, &err));
	ASSERT_OK(ledger_load_progress(target, &ledger, lsn_make(1), progress, &err));
	for (int i = 0; i < 4; i++)
		ck_assert_uint_eq(progress[i].commit_lsn.v, 300);
	ASSERT_OK(ledger_set_lanes(target, &ledger, 1, &err));
	ASSERT_OK(ledger_load_progress(target, &ledger, lsn_make(1), progress, &err));
	ASSERT_OK(ledger_load(target, "pgbaton", &ledger, &err));
	ck_assert_int_eq(ledger.lanes, 1);
	sql_close(target);
}
END_TEST

/* What a session holds on a server is not held for hours when the network loses us. */
START_TEST(servers_look_whether_we_are_there)
{
	Error err = ERROR_INIT;
	char shown[16];
	Sql *target = servers_open(cluster, "target");

	ASSERT_OK(sql_value(target, &err, shown, sizeof(shown), "SHOW tcp_keepalives_idle"));
	ck_assert_str_eq(shown, "30");
	ASSERT_OK(sql_value(target, &err, shown, sizeof(shown), "SHOW tcp_keepalives_count"));
	ck_assert_str_eq(shown, "3");
	sql_close(target);
}
END_TEST

/* From the beginning to the end, and what a late transaction of somebody else comes to. */
START_TEST(tables_are_apart_and_join)
{
	Error err;
	Buffer late = BUFFER_INIT;
	Buffer sql = BUFFER_INIT;
	Progress rows[2];
	Apart apart;
	Apart before;
	Lsn level;

	servers_clean(cluster);
	Sql *source = servers_open(cluster, "source");
	Sql *target = servers_open(cluster, "target");
	ASSERT_OK(
		sql_exec(source, &err, "CREATE TABLE public.a (a int); CREATE TABLE public.b (a int)"));
	Ledger ledger = servers_ledger(target, "pgbaton");
	const char *added[] = {"b", "\"we ird\".*"};
	Selection selection = {.lists = {[ADDED_TABLE] = {added, 2}}};
	Selection all = {0};
	Catalog *catalog = catalog_read_source(source, &all, "pgbaton", &err);
	ASSERT_OK(ledger_sync_tables(target, &ledger, catalog, &err));
	/* One lane is inside of a transaction: that is read again. */
	ASSERT_OK(ledger_load_progress(target, &ledger, lsn_make(100), rows, &err));
	ASSERT_OK(
		sql_exec(target, &err, "UPDATE pgbaton.progress SET commit_lsn = '0/C8', position = 3"));
	ASSERT_OK(ledger_keep_selection(target, &ledger, &all, &err));

	ASSERT_OK(ledger_apart(target, &ledger, &before, &err));
	ck_assert_int_eq((int)before.kind, APART_NONE);
	ledger_apart_begin_sql(&ledger, APART_RECOPY, before.turn, NULL, &late);
	/* Somebody looks: what was begun under the earlier turn cannot come any more. */
	ASSERT_OK(ledger_apart(target, &ledger, &apart, &err));
	ck_assert(!sql_exec(target, &err, buffer_cstr(&late)));
	ck_assert_str_eq(err.sqlstate, "22012");

	ledger_apart_begin_sql(&ledger, APART_ADD, apart.turn, &selection, &sql);
	ledger_apart_table_sql(&ledger, APART_ADD, catalog_find(catalog, "public", "b"), &sql);
	ASSERT_OK(sql_exec(target, &err, buffer_cstr(&sql)));
	ASSERT_OK(ledger_apart(target, &ledger, &apart, &err));
	ck_assert_int_eq((int)apart.kind, APART_ADD);
	ck_assert_int_eq(apart.number, 1);
	ck_assert_uint_eq(apart.from.v, 199);

	Selection read = {0};
	ASSERT_OK(ledger_added(target, &ledger, catalog->arena, &read, &err));
	ck_assert_uint_eq(read.lists[ADDED_TABLE].count, 2);
	ck_assert_str_eq(read.lists[ADDED_TABLE].items[0], "\"we ird\".*");
	ck_assert_str_eq(read.lists[ADDED_TABLE].items[1], "b");
	ASSERT_OK(ledger_keep_selection(target, &ledger, &read, &err));

	ASSERT_OK(ledger_apart_tables(target, &ledger, catalog, &err));
	const Table *b = catalog_find(catalog, "public", "b");
	ck_assert(atomic_load(&b->apart));
	ck_assert(!atomic_load(&catalog_find(catalog, "public", "a")->apart));

	Ledger own;
	ASSERT_OK(ledger_apart_open(target, &ledger, &own, &err));
	ASSERT_OK(ledger_load_progress(target, &own, lsn_make(500), rows, &err));
	ASSERT_OK(ledger_apart_open(target, &ledger, &own, &err)); /* again: it stays */
	ck_assert_int_eq(own.lanes, 1);
	int64_t turn = apart.turn;
	ASSERT_OK(ledger_apart(target, &ledger, &apart, &err));
	err = (Error)ERROR_INIT;
	ck_assert(!ledger_apart_end(target, &ledger, &own, turn, &level, &err));
	ck_assert_str_eq(err.sqlstate, "22012");
	ASSERT_OK(ledger_apart_end(target, &ledger, &own, apart.turn, &level, &err));
	ck_assert_uint_eq(level.v, 500);
	ASSERT_OK(ledger_apart(target, &ledger, &apart, &err));
	ck_assert_int_eq((int)apart.kind, APART_NONE);
	ASSERT_OK(ledger_sync_tables(target, &ledger, catalog, &err));
	ck_assert(!atomic_load(&b->apart));
	ck_assert_uint_eq(b->level_lsn.v, 500);
	PGconn *conn = db_connect(cluster, "target");
	ck_assert(db_true(conn, "SELECT to_regnamespace('pgbaton_apart') IS NULL"));
	ck_assert_int_eq(db_int(conn, "SELECT count(*) FROM pgbaton.object"), 0);
	PQfinish(conn);
	catalog_free(catalog);
	buffer_free(&late);
	buffer_free(&sql);
	sql_close(source);
	sql_close(target);
}
END_TEST

START_TEST(tables_keep_their_state)
{
	Error err;
	Buffer sql = BUFFER_INIT;

	servers_clean(cluster);
	Sql *source = servers_open(cluster, "source");
	Sql *target = servers_open(cluster, "target");
	ASSERT_OK(sql_exec(source, &err,
	                   "CREATE TABLE public.\"it's\" (a int); CREATE TABLE public.b (a int)"));
	Ledger ledger = servers_ledger(target, "pgbaton");
	Selection all = {0};
	Catalog *catalog = catalog_read_source(source, &all, "pgbaton", &err);
	ASSERT_OK(ledger_sync_tables(target, &ledger, catalog, &err));
	Table *table = catalog_find(catalog, "public", "it's");
	atomic_store(&table->state, (int)TABLE_COPYING);
	const LedgerCopied copied = {.table = catalog_find(catalog, "public", "b"),
	                             .snapshot = "10:20:11,12",
	                             .lsn = lsn_make(77),
	                             .rows = 5,
	                             .bytes = 60,
	                             .stamp = "{}"};
	ledger_copied_sql(&ledger, &copied, 1, &sql);
	ASSERT_OK(sql_exec(target, &err, buffer_cstr(&sql)));
	catalog_free(catalog);

	/* The next start; a table has come meanwhile. */
	ASSERT_OK(sql_exec(source, &err, "CREATE TABLE public.c (a int)"));
	catalog = catalog_read_source(source, &all, "pgbaton", &err);
	ASSERT_OK(ledger_check_tables(target, &ledger, catalog, &err));
	ASSERT_OK(ledger_sync_tables(target, &ledger, catalog, &err));
	const Table *b = catalog_find(catalog, "public", "b");
	ck_assert_int_eq(atomic_load(&b->state), TABLE_COPIED);
	ck_assert_str_eq(b->snapshot, "10:20:11,12");
	ck_assert_uint_eq(b->snapshot_lsn.v, 77);
	ck_assert_uint_eq(atomic_load(&b->copied_rows), 5);
	ck_assert_uint_eq(atomic_load(&b->copied_bytes), 60);
	ck_assert_int_eq(atomic_load(&catalog_find(catalog, "public", "it's")->state), TABLE_QUEUED);
	char count[8];
	ASSERT_OK(
		sql_value(target, &err, count, sizeof(count), "SELECT count(*) FROM pgbaton.relation"));
	ck_assert_str_eq(count, "3");
	catalog_free(catalog);

	/* One that was copied is another by now; one that was not may be. */
	ASSERT_OK(sql_exec(source, &err,
	                   "DROP TABLE public.c, public.b; CREATE TABLE public.c (a int);"
	                   "CREATE TABLE public.b (a int)"));
	catalog = catalog_read_source(source, &all, "pgbaton", &err);
	ck_assert(!ledger_check_tables(target, &ledger, catalog, &err));
	ck_assert_ptr_nonnull(strstr(err.message, "\"public\".\"b\""));
	catalog_free(catalog);
	buffer_free(&sql);
	sql_close(source);
	sql_close(target);
}
END_TEST

START_TEST(undone_newest_first_and_leftovers_named)
{
	Error err;
	LedgerObject *objects;
	size_t count;

	servers_clean(cluster);
	Sql *source = servers_open(cluster, "source");
	Sql *target = servers_open(cluster, "target");
	Ledger ledger = servers_ledger(target, "pgbaton");
	ASSERT_OK(sql_exec(source, &err, "CREATE TABLE public.log (n serial, what text)"));
	const char *const whats[] = {"one", "two", "three"};
	for (int i = 0; i < 3; i++) {
		char undo[80];
		snprintf(undo, sizeof(undo), "INSERT INTO public.%s (what) VALUES ('%s')",
		         i == 1 ? "nowhere" : "log", whats[i]);
		ASSERT_OK(ledger_record(target, &ledger, "source", "trigger", whats[i], undo, &err));
	}
	/* Recorded again, it was found undone: by its latest state. */
	ASSERT_OK(ledger_record(target, &ledger, "source", "trigger", "one",
	                        "INSERT INTO public.log (what) VALUES ('again')", &err));
	ASSERT_OK(ledger_record(target, &ledger, "target", "identity", "one", "SELECT 1/0", &err));

	ck_assert(!ledger_undo(target, source, &ledger, "source", NULL, &err));
	ck_assert_ptr_nonnull(strstr(err.message, "1 of 3"));
	ck_assert_ptr_nonnull(strstr(err.hint, "INSERT INTO public.nowhere (what) VALUES ('two')"));
	char text[40];
	ASSERT_OK(sql_value(source, &err, text, sizeof(text),
	                    "SELECT string_agg(what, ' ' ORDER BY n) FROM public.log"));
	ck_assert_str_eq(text, "three again");
	ASSERT_OK(ledger_objects(target, &ledger, "source", NULL, &objects, &count, &err));
	ck_assert_uint_eq(count, 1);
	ck_assert_str_eq(objects[0].what, "two");
	ASSERT_OK(ledger_forget(target, &ledger, objects[0].id, &err));
	ledger_objects_free(objects, count);
	ASSERT_OK(ledger_undo(target, source, &ledger, "source", NULL, &err));
	ASSERT_OK(ledger_objects(target, &ledger, "target", "identity", &objects, &count, &err));
	ck_assert_uint_eq(count, 1);
	ledger_objects_free(objects, count);
	sql_close(source);
	sql_close(target);
}
END_TEST

static Suite *
make_ledger(void)
{
	Suite *suite = suite_create("ledger");
	TCase *server = tcase_create("server");

	tcase_add_unchecked_fixture(server, start, stop);
	tcase_set_timeout(server, 60);
	tcase_add_test(server, one_process_works_on_a_migration);
	tcase_add_test(server, the_lock_of_one_that_is_going);
	tcase_add_test(server, what_is_written_is_read_back);
	tcase_add_test(server, foreign_schema_is_not_touched);
	tcase_add_test(server, progress_and_lanes);
	tcase_add_test(server, servers_look_whether_we_are_there);
	tcase_add_test(server, tables_keep_their_state);
	tcase_add_test(server, which_timeline_it_is);
	tcase_add_test(server, tables_are_apart_and_join);
	tcase_add_test(server, undone_newest_first_and_leftovers_named);
	suite_add_tcase(suite, server);
	return suite;
}
TEST_SUITE(make_ledger)
