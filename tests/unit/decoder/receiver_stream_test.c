#include <dirent.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/map.h"
#include "common/memory.h"
#include "decoder/receiver/receiver.h"
#include "decoder/relation.h"
#include "tests/harness/cluster.h"
#include "tests/harness/db.h"
#include "tests/harness/skip.h"
#include "tests/unit/decoder/txlog_fixture.h"
#include "tests/unit/runner.h"

/*
 * Real servers that stream every transaction above 64 kB before its commit. What comes
 * out of the log is done to tables in memory, which in the end are the server's.
 */
enum { OLDEST = 14, BIG = 3000, TABLES = 3, IDS_MAX = 400000 };

static const char *const table_names[TABLES] = {"t", "u", "v"};

static Cluster *clusters[CLUSTER_NEWEST + 1];
static Cluster *cluster;
static char *directory;
static ConnInfo *source;
static char *system_id;
static PGconn *db;
static PGconn *others[4];
static Lsn slot_start;
static TxLog *txlog;
static Receiver *receiver;
static int next_id;

/* Made when first asked for, and shared by the tests that Check forks afterwards. */
static void
start_servers(void)
{
	for (int major = OLDEST; major <= CLUSTER_NEWEST; major++) {
		if (!cluster_available(major))
			continue;
		ClusterOptions options = {
			.major = major,
			.conf = "logical_decoding_work_mem = '64kB'\nmax_prepared_transactions = 5\n",
		};
		clusters[major] = cluster_start(&options);
	}
}

static void
stop_servers(void)
{
	for (int major = OLDEST; major <= CLUSTER_NEWEST; major++)
		cluster_free(clusters[major]);
}

static void
start_receiver(void)
{
	Error err = ERROR_INIT;
	ReceiverOptions options = {
		.source = source,
		.system_id = system_id,
		.slot = "s",
		.publication = "p",
		.confirm = CONFIRM_LOGGED,
		.start = slot_start,
	};
	/* Small segments, and nothing copied into the log: all by reference. */
	txlog = fixture_open_with(directory, 256 * 1024, 0, false);
	txlog->inline_max = 0;
	receiver = receiver_start(&options, txlog, &err);
	ck_assert_msg(receiver != NULL, "%s", err.message);
}

static void
stop_receiver(void)
{
	receiver_stop(receiver);
	txlog_close(txlog);
}

static void
open_source(int major)
{
	Error err = ERROR_INIT;

	log_set_level(LOG_ERROR);
	cluster = clusters[major];
	directory = fixture_directory();
	db = db_connect(cluster, NULL);
	for (int i = 0; i < 4; i++)
		others[i] = db_connect(cluster, NULL);
	db_exec(db, "CREATE TABLE t (id int8 PRIMARY KEY, note text);"
	            "CREATE TABLE u (id int8 PRIMARY KEY, note text);"
	            "CREATE TABLE v (id int8 PRIMARY KEY, note text);"
	            "CREATE TABLE elsewhere (x text);"
	            "CREATE PUBLICATION p FOR TABLE t, u, v");
	db_exec(db, "SELECT pg_create_logical_replication_slot('s', 'pgoutput')");
	char *text = db_value(db, "SELECT confirmed_flush_lsn FROM pg_replication_slots"
	                          " WHERE slot_name = 's'");
	ck_assert(lsn_parse(text, &slot_start));
	free(text);
	system_id = db_value(db, "SELECT system_identifier FROM pg_control_system()");
	source = conninfo_parse(cluster_uri(cluster, NULL), &err);
	next_id = 1;
	start_receiver();
}

static void
close_source(void)
{
	stop_receiver();
	db_wait_until(db, "SELECT NOT active FROM pg_replication_slots WHERE slot_name = 's'", 30);
	db_exec(db, "SELECT pg_drop_replication_slot('s')");
	for (int i = 0; i < 4; i++)
		PQfinish(others[i]);
	db_exec(db, "DROP PUBLICATION p; DROP TABLE t, u, v, elsewhere");
	PQfinish(db);
	conninfo_free(source);
	free(system_id);
	fixture_remove(directory);
}

/* ---- what the log says, done to tables in memory ---- */

typedef struct {
	RelationMap *relations;
	uint64_t *notes[TABLES]; /* by id: the note's hash; 0: no such row */
	uint32_t rows[TABLES];
	uint32_t transactions;
	uint32_t markers;
	uint32_t xid;
	PgoContext context;
	Arena *arena;
} Replay;

static int
table_of(const Relation *relation)
{
	for (int i = 0; i < TABLES; i++)
		if (strcmp(relation->def.name, table_names[i]) == 0)
			return i;
	ck_abort_msg("table %s", relation->def.name);
}

static uint64_t *
note_at(Replay *r, int table, Slice id)
{
	char text[24] = "";
	ck_assert_uint_lt(id.len, sizeof(text));
	memcpy(text, id.data, id.len);
	int i = atoi(text);
	ck_assert(i > 0 && i < IDS_MAX);
	return &r->notes[table][i];
}

static void
replay_change(Replay *r, const PgoMessage *m)
{
	const Relation *relation = relation_map_get(r->relations, m->change.relation);
	ck_assert_msg(relation != NULL, "relation %u was not described", m->change.relation);
	int table = table_of(relation);
	const Tuple *row = m->kind == PGO_DELETE ? &m->change.old_row : &m->change.new_row;
	/* The description in force is the one that the row was sent with. */
	ck_assert_uint_eq(row->count, relation->def.count);
	uint64_t *note = note_at(r, table, row->values[0].bytes);

	if (m->kind == PGO_INSERT)
		ck_assert_msg(*note == 0, "row %.*s of %s came twice", (int)row->values[0].bytes.len,
		              (const char *)row->values[0].bytes.data, table_names[table]);
	else
		ck_assert_msg(*note != 0, "row %.*s of %s is not there", (int)row->values[0].bytes.len,
		              (const char *)row->values[0].bytes.data, table_names[table]);
	r->rows[table] += m->kind == PGO_INSERT;
	r->rows[table] -= m->kind == PGO_DELETE;
	*note = m->kind == PGO_DELETE ? 0 : hash_bytes(row->values[1].bytes, 1) | 1;
}

static void
replay_truncate(Replay *r, const PgoMessage *m)
{
	for (uint32_t i = 0; i < m->truncate.count; i++) {
		int table = table_of(relation_map_get(r->relations, m->truncate.relations[i]));
		memset(r->notes[table], 0, IDS_MAX * sizeof(uint64_t));
		r->rows[table] = 0;
	}
}

static void
replay_message(Replay *r, Slice bytes)
{
	Error err = ERROR_INIT;
	PgoMessage m;

	arena_reset(r->arena);
	ck_assert_msg(pgoutput_parse(&r->context, bytes, r->arena, &m, &err), "%s", err.message);
	switch (m.kind) {
	case PGO_BEGIN:
		ck_assert_uint_eq(r->xid, 0);
		r->xid = m.begin.xid;
		ck_assert_uint_ne(r->xid, 0);
		break;
	case PGO_COMMIT:
		r->xid = 0;
		r->transactions++;
		break;
	case PGO_RELATION:
		relation_map_put(r->relations, &m.relation);
		break;
	case PGO_TRUNCATE:
		replay_truncate(r, &m);
		break;
	case PGO_MESSAGE:
		r->markers++;
		break;
	case PGO_INSERT:
	case PGO_UPDATE:
	case PGO_DELETE:
		ck_assert_uint_ne(r->xid, 0);
		replay_change(r, &m);
		break;
	default:
		break;
	}
}

static Replay
replay_log(void)
{
	Error err = ERROR_INIT;
	Slice m;
	TxLogNext next;
	Replay r = {
		.relations = relation_map_new(), .arena = arena_new(0), .context = {.proto_version = 1}};
	TxLogReader *reader = txlog_reader_open(txlog, LSN_INVALID, &err);

	for (int i = 0; i < TABLES; i++)
		r.notes[i] = mem_zalloc(IDS_MAX * sizeof(uint64_t));
	ck_assert_ptr_nonnull(reader);
	while ((next = txlog_reader_next(reader, NULL, 1, &m, &err)) == TXLOG_MESSAGE)
		replay_message(&r, m);
	ck_assert_msg(next == TXLOG_WAIT, "%s: %s", err.context, err.message);
	txlog_reader_close(reader);
	return r;
}

static void
replay_free(Replay *r)
{
	relation_map_free(r->relations);
	arena_free(r->arena);
	for (int i = 0; i < TABLES; i++)
		free(r->notes[i]);
}

/* All that was written until now has been logged, synced and confirmed. */
static void
wait_all(void)
{
	char *now = db_value(db, "SELECT pg_current_wal_lsn()");
	char *sql = mem_printf("SELECT confirmed_flush_lsn >= '%s' FROM pg_replication_slots"
	                       " WHERE slot_name = 's'",
	                       now);
	ReceiverState state;
	int64_t deadline = deadline_in_ms(60000);
	while (!db_true(db, "%s", sql)) {
		char text[2048];
		receiver_state(receiver, &state);
		ck_assert_msg(!state.failed, "%s", error_format(&state.error, text, sizeof(text)));
		ck_assert_msg(deadline_left_ms(deadline) > 0, "never: %s", sql);
		poll(NULL, 0, 5);
	}
	free(sql);
	free(now);
}

static void
check_tables(uint32_t markers)
{
	wait_all();
	Replay r = replay_log();
	for (int i = 0; i < TABLES; i++) {
		char *sql = mem_printf("SELECT id, note FROM %s", table_names[i]);
		PGresult *result = PQexec(db, sql);
		ck_assert_int_eq(PQresultStatus(result), PGRES_TUPLES_OK);
		ck_assert_msg((uint32_t)PQntuples(result) == r.rows[i], "table %s: %d rows, %u in the log",
		              table_names[i], PQntuples(result), r.rows[i]);
		for (int row = 0; row < PQntuples(result); row++) {
			const char *note = PQgetvalue(result, row, 1);
			ck_assert_uint_eq(*note_at(&r, i, slice_cstr(PQgetvalue(result, row, 0))),
			                  hash_bytes(slice_cstr(note), 1) | 1);
		}
		PQclear(result);
		free(sql);
	}
	ck_assert_uint_eq(r.markers, markers);
	replay_free(&r);
}

static int
count_files(const char *suffix)
{
	int count = 0;
	DIR *dir = opendir(directory);
	for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
		count += strstr(entry->d_name, suffix) != NULL;
	closedir(dir);
	return count;
}

/* The test would prove nothing if the server had not streamed, rolled back and
 * committed streams of several transactions. */
static void
check_streamed(int at_least)
{
	char *sql = mem_printf("SELECT stream_txns >= %d AND stream_count > stream_txns"
	                       " FROM pg_stat_replication_slots WHERE slot_name = 's'",
	                       at_least);
	db_wait_until(db, sql, 30);
	free(sql);
	ck_assert_int_gt(count_files(".xact"), 0);
}

/* ---- what the source does ---- */

static void
write_big(PGconn *conn, const char *table, const char *note)
{
	db_exec(conn, "INSERT INTO %s SELECT g, repeat('%s', 20) || g FROM generate_series(%d, %d) g",
	        table, note, next_id, next_id + BIG - 1);
	next_id += BIG;
}

static void
write_small(void)
{
	db_exec(db, "INSERT INTO t VALUES (%d, 'small')", next_id++);
	db_exec(db, "INSERT INTO v VALUES (%d, 'small')", next_id++);
}

/* Four transactions at once, in pieces, some of which roll back. */
static void
interleave(void)
{
	for (int i = 0; i < 4; i++)
		db_exec(others[i], "BEGIN");
	for (int round = 0; round < 3; round++)
		for (int i = 0; i < 4; i++) {
			write_big(others[i], round == 1 ? "u" : "t", "abc");
			db_exec(others[i], "SAVEPOINT a");
			write_big(others[i], "t", "maybe");
			db_exec(others[i], "SAVEPOINT b");
			write_big(others[i], "u", "maybe more");
			if ((i + round) % 2 == 0)
				db_exec(others[i], "RELEASE b; INSERT INTO t VALUES (%d, 'in a')", next_id++);
			if (i != 3)
				db_exec(others[i], "ROLLBACK TO a");
			if (round == 1)
				db_exec(others[i], "UPDATE t SET note = note || 'x' WHERE id %% 7 = %d AND id > %d",
				        i, next_id - 4 * BIG);
			write_small();
		}
	db_exec(others[2], "COMMIT");
	write_small();
	db_exec(others[0], "ROLLBACK");
	db_exec(others[3], "COMMIT");
	db_exec(others[1], "DELETE FROM u WHERE id %% 3 = 0; COMMIT");
}

/* A sub-transaction for each row, half of which roll back; inside of another one. */
static void
many_subs(void)
{
	db_exec(others[0],
	        "BEGIN; SAVEPOINT o; DO $$ BEGIN FOR i IN 1 .. %d LOOP BEGIN"
	        "  INSERT INTO t VALUES (%d + i, repeat('sub', 30));"
	        "  IF i %% 2 = 0 THEN RAISE EXCEPTION 'no'; END IF;"
	        "  EXCEPTION WHEN raise_exception THEN NULL; END; END LOOP; END $$;"
	        "RELEASE o; COMMIT",
	        2 * BIG, next_id);
	next_id += 2 * BIG + 1;
}

/* What is inside changes the table and empties another one. */
static void
ddl_inside(void)
{
	PGconn *conn = others[0];
	db_exec(conn, "BEGIN");
	write_big(conn, "u", "before");
	db_exec(conn, "ALTER TABLE u ADD COLUMN more int DEFAULT 5");
	write_big(conn, "u", "between");
	db_exec(conn, "SAVEPOINT a; ALTER TABLE u DROP COLUMN more");
	write_big(conn, "u", "never");
	db_exec(conn, "ROLLBACK TO a");
	write_big(conn, "u", "behind");
	db_exec(conn, "TRUNCATE v");
	write_big(conn, "v", "new");
	db_exec(conn, "SELECT pg_logical_emit_message(true, 'pgbaton', 'inside')");
	write_big(conn, "u", "last");
	db_exec(conn, "COMMIT");
	write_small();
	db_exec(db, "INSERT INTO u VALUES (%d, 'a plain one')", next_id++);
}

static void
prepared(void)
{
	for (int i = 0; i < 2; i++) {
		db_exec(others[i], "BEGIN");
		write_big(others[i], "t", "prepared");
		db_exec(others[i], "PREPARE TRANSACTION 'x%d'", i);
		write_small();
	}
	db_exec(others[0], "ROLLBACK PREPARED 'x1'");
	db_exec(others[0], "COMMIT PREPARED 'x0'");
}

START_TEST(what_is_streamed_arrives)
{
	TEST_NEEDS_MAJOR(_i);
	open_source(_i);
	write_small();
	interleave();
	many_subs();
	ddl_inside();
	prepared();
	check_tables(1);
	check_streamed(6);
	ck_assert_int_eq(count_files(".stream"), 0);
	ReceiverState state;
	receiver_state(receiver, &state);
	ck_assert_uint_eq(state.reconnects, 0);
	close_source();
}
END_TEST

static void
wait_streaming(void)
{
	int64_t deadline = deadline_in_ms(60000);
	while (count_files(".stream") == 0) {
		ck_assert_msg(deadline_left_ms(deadline) > 0, "nothing is being streamed");
		poll(NULL, 0, 2);
	}
}

START_TEST(a_killed_walsender_starts_the_streams_again)
{
	TEST_NEEDS_MAJOR(_i);
	open_source(_i);
	for (int i = 0; i < 3; i++) {
		db_exec(others[0], "BEGIN");
		write_big(others[0], "t", "big");
		db_exec(others[0], "SAVEPOINT a");
		write_big(others[0], "u", "never");
		db_exec(others[1], "BEGIN");
		write_big(others[1], "t", "other");
		wait_streaming();
		db_exec(db, "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots"
		            " WHERE slot_name = 's' AND active");
		if (i == 1)
			db_wait_until(db, "SELECT active FROM pg_replication_slots WHERE slot_name = 's'", 30);
		db_exec(others[0], "ROLLBACK TO a");
		write_big(others[0], "u", "more");
		write_small();
		db_exec(others[i % 2], "COMMIT");
		db_exec(others[1 - i % 2], i == 2 ? "ROLLBACK" : "COMMIT");
	}
	check_tables(0);
	check_streamed(1);
	ck_assert_int_eq(count_files(".stream"), 0);
	close_source();
}
END_TEST

START_TEST(a_stop_in_the_middle_of_a_stream_loses_nothing)
{
	TEST_NEEDS_MAJOR(_i);
	open_source(_i);
	for (int i = 0; i < 3; i++) {
		db_exec(others[0], "BEGIN");
		write_big(others[0], "t", "big");
		wait_streaming();
		stop_receiver();
		ck_assert_int_eq(count_files(".stream"), 0);
		write_big(others[0], "u", "more");
		if (i == 1)
			db_exec(others[0], "COMMIT");
		start_receiver();
		write_small();
		if (i != 1)
			db_exec(others[0], i == 0 ? "COMMIT" : "ROLLBACK");
	}
	check_tables(0);
	check_streamed(1);
	close_source();
}
END_TEST

/* P6: what is in progress is neither confirmed nor does it hold anything back. */
START_TEST(a_stream_in_progress_does_not_hold_back_what_is_confirmed)
{
	TEST_NEEDS_MAJOR(_i);
	open_source(_i);
	db_exec(others[0], "BEGIN");
	write_big(others[0], "t", "big");
	wait_streaming();
	for (int i = 0; i < 2; i++) {
		write_small();
		wait_all();
		db_exec(db, "INSERT INTO elsewhere SELECT repeat('x', 100) FROM generate_series(1, 100)");
		wait_all();
	}
	/* The confirmed position is behind its first rows; all of them come again. (The
	 * server streams nothing before it has come to that position.) */
	stop_receiver();
	start_receiver();
	write_big(others[0], "t", "more");
	wait_streaming();
	db_exec(others[0], "COMMIT");
	check_tables(0);
	close_source();
}
END_TEST

/* After a TRUNCATE that was rolled back no server finds the table's file any more, at each try. As a
 * whole, after its end, the transaction can be sent. */
START_TEST(a_stream_that_the_server_cannot_send_comes_as_a_whole)
{
	static const char rolled_back[] =
		"INSERT INTO t SELECT i, repeat('b', 50) FROM generate_series(%d, %d) i; SAVEPOINT s;"
		"TRUNCATE t; INSERT INTO t SELECT i, 'never' FROM generate_series(1, 4000) i;"
		"ROLLBACK TO s; UPDATE t SET note = 'z' WHERE id %% 3 = 0;";

	TEST_NEEDS_MAJOR(_i);
	open_source(_i);
	write_small();
	stop_receiver();
	db_exec(db, "BEGIN; TRUNCATE t");
	db_exec(db, rolled_back, 100001, 106000);
	db_exec(db, "TRUNCATE t; INSERT INTO t VALUES (1, 'q'); COMMIT; BEGIN");
	db_exec(db, rolled_back, 110001, 116000);
	db_exec(db, "COMMIT");
	start_receiver();
	write_small();
	check_tables(0);
	close_source();
}
END_TEST

static Suite *
make(void)
{
	Suite *suite = suite_create("receiver streams");
	TCase *tcase = tcase_create("receiver streams");
	tcase_set_timeout(tcase, 180);
	tcase_add_unchecked_fixture(tcase, start_servers, stop_servers);
	tcase_add_loop_test(tcase, what_is_streamed_arrives, OLDEST, CLUSTER_NEWEST + 1);
	tcase_add_loop_test(tcase, a_killed_walsender_starts_the_streams_again, 14, 15);
	tcase_add_loop_test(tcase, a_killed_walsender_starts_the_streams_again, 17, 18);
	tcase_add_loop_test(tcase, a_stop_in_the_middle_of_a_stream_loses_nothing, 15, 16);
	tcase_add_loop_test(tcase, a_stream_in_progress_does_not_hold_back_what_is_confirmed, 14, 15);
	tcase_add_loop_test(tcase, a_stream_in_progress_does_not_hold_back_what_is_confirmed, 18, 19);
	tcase_add_loop_test(tcase, a_stream_that_the_server_cannot_send_comes_as_a_whole, OLDEST,
	                    CLUSTER_NEWEST + 1);
	suite_add_tcase(suite, tcase);
	return suite;
}

TEST_SUITE(make)
