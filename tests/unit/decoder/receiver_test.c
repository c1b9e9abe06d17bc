#include "decoder/receiver/receiver.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/memory.h"
#include "tests/harness/cluster.h"
#include "tests/harness/db.h"
#include "tests/unit/decoder/txlog_fixture.h"
#include "tests/unit/runner.h"

/* Against a real server: table t(id, note), publication p, slot s. */

static Cluster *cluster;
static char *directory;
static ConnInfo *source;
static char *system_id;
static PGconn *db;
static Lsn slot_start; /* where the slot began, as a migration keeps it */

static void
start_server(void)
{
	cluster = cluster_start(NULL);
}

static void
stop_server(void)
{
	cluster_free(cluster);
}

/* What stands for the target's ledger. */
static ReceiverKnown known;

static void
setup(void)
{
	Error err = ERROR_INIT;
	log_set_level(LOG_ERROR);
	known = (ReceiverKnown){0};
	directory = fixture_directory();
	db = db_connect(cluster, NULL);
	db_exec(db, "CREATE TABLE t (id int8 PRIMARY KEY, note text);"
	            "CREATE TABLE elsewhere (x text);"
	            "CREATE PUBLICATION p FOR TABLE t");
	db_exec(db, "SELECT pg_create_logical_replication_slot('s', 'pgoutput')");
	char *text = db_value(db, "SELECT confirmed_flush_lsn FROM pg_replication_slots"
	                          " WHERE slot_name = 's'");
	ck_assert(lsn_parse(text, &slot_start));
	free(text);
	system_id = db_value(db, "SELECT system_identifier FROM pg_control_system()");
	source = conninfo_parse(cluster_uri(cluster, NULL), &err);
	ck_assert_msg(source != NULL, "%s", err.message);
}

/* The walsender may live a little longer than its client. */
static const char drop_slot[] =
	"DO $$ BEGIN LOOP BEGIN"
	"  PERFORM pg_terminate_backend(active_pid) FROM pg_replication_slots"
	"   WHERE slot_name = 's' AND active;"
	"  PERFORM pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
	"   WHERE slot_name = 's';"
	"  EXIT; EXCEPTION WHEN object_in_use THEN NULL; END; END LOOP; END $$";

static void
teardown(void)
{
	db_exec(db, drop_slot);
	db_exec(db, "DROP PUBLICATION IF EXISTS p; DROP TABLE t, elsewhere");
	PQfinish(db);
	conninfo_free(source);
	free(system_id);
	fixture_remove(directory);
}

static Receiver *
start(TxLog *log, ConfirmMode confirm, int64_t wal_sender_timeout_ms)
{
	Error err = ERROR_INIT;
	ReceiverOptions options = {
		.source = source,
		.system_id = system_id,
		.slot = "s",
		.publication = "p",
		.confirm = confirm,
		.known = known,
		.start = slot_start,
		.wal_sender_timeout_ms = wal_sender_timeout_ms,
	};
	Receiver *receiver = receiver_start(&options, log, &err);
	ck_assert_msg(receiver != NULL, "%s", err.message);
	return receiver;
}

static void
note(Receiver *receiver)
{
	if (!receiver_to_note(receiver, &known.timeline, &known.confirmed))
		return;
	receiver_noted(receiver, known.timeline, known.confirmed);
}

typedef bool (*Condition)(const ReceiverState *state, const void *arg);

/* Asks until the condition holds; a receiver that gave up ends the test unless
 * that is what is waited for. */
static ReceiverState
wait_state(Receiver *receiver, Condition condition, const void *arg)
{
	int64_t deadline = deadline_in_ms(60000);
	ReceiverState state;

	for (;;) {
		char text[2048];
		note(receiver);
		receiver_state(receiver, &state);
		if (condition(&state, arg))
			return state;
		ck_assert_msg(!state.failed, "%s", error_format(&state.error, text, sizeof(text)));
		ck_assert_msg(deadline_left_ms(deadline) > 0, "the condition did not come");
		poll(NULL, 0, 5);
	}
}

static bool
is_connected(const ReceiverState *state, const void *arg UNUSED)
{
	return state->connected;
}

static bool
is_failed(const ReceiverState *state, const void *arg UNUSED)
{
	return state->failed;
}

static bool
is_held(const ReceiverState *state, const void *arg UNUSED)
{
	return state->held_by_log;
}

static bool
has_reconnected(const ReceiverState *state, const void *arg)
{
	return state->connected && state->reconnects > *(const uint64_t *)arg;
}

static bool
has_confirmed(const ReceiverState *state, const void *arg)
{
	return state->confirmed.v >= ((const Lsn *)arg)->v;
}

static Lsn
current_lsn(void)
{
	Lsn lsn;
	char *text = db_value(db, "SELECT pg_current_wal_lsn()");
	ck_assert(lsn_parse(text, &lsn));
	free(text);
	return lsn;
}

/* All that was written until now has been logged, synced and confirmed: with
 * CONFIRM_LOGGED the confirmed position passes it only then. */
static void
wait_all(Receiver *receiver)
{
	Lsn now = current_lsn();
	wait_state(receiver, has_confirmed, &now);
	char *sql = mem_printf("SELECT confirmed_flush_lsn >= '%s' FROM pg_replication_slots"
	                       " WHERE slot_name = 's'",
	                       LSN_STR(now));
	db_wait_until(db, sql, 60);
	free(sql);
}

/* So many were logged since it was opened. */
static TxLogState
wait_transactions(TxLog *log, uint64_t count)
{
	int64_t deadline = deadline_in_ms(60000);
	TxLogState state;

	for (;;) {
		txlog_state(log, &state);
		if (state.transactions >= count)
			return state;
		ck_assert(deadline_left_ms(deadline) > 0);
		poll(NULL, 0, 5);
	}
}

enum { ROWS_MAX = 200000 };

typedef struct {
	uint8_t seen[ROWS_MAX];
	uint32_t rows;
	uint32_t transactions;
	Lsn last;
} Arrived;

static uint32_t
inserted_id(Slice message)
{
	char text[24] = "";
	ByteReader r = reader_of(message);
	read_bytes(&r, 1 + 4 + 1 + 2);
	ck_assert_int_eq(read_u8(&r), 't');
	Slice id = read_bytes(&r, read_u32(&r));
	ck_assert(!r.failed && id.len < sizeof(text));
	memcpy(text, id.data, id.len);
	return (uint32_t)atoi(text);
}

/* Reads on from where the reader is; each row must come exactly once. */
static void
take_arrived(TxLogReader *reader, Arrived *arrived)
{
	Error err = ERROR_INIT;
	Slice m;
	TxLogNext next;

	while ((next = txlog_reader_next(reader, NULL, 1, &m, &err)) == TXLOG_MESSAGE) {
		if (m.data[0] == 'I') {
			uint32_t id = inserted_id(m);
			ck_assert_uint_lt(id, ROWS_MAX);
			ck_assert_msg(!arrived->seen[id], "row %u came twice", id);
			arrived->seen[id] = 1;
			arrived->rows++;
		} else if (m.data[0] == 'C') {
			ByteReader r = reader_of(m);
			read_bytes(&r, 2);
			arrived->last = lsn_make(read_u64(&r));
			arrived->transactions++;
		}
	}
	ck_assert_msg(next == TXLOG_WAIT, "%s", err.message);
}

static void
check_arrived(TxLog *log, uint32_t rows)
{
	Error err = ERROR_INIT;
	Arrived *arrived = mem_zalloc(sizeof(Arrived));
	TxLogReader *reader = txlog_reader_open(log, LSN_INVALID, &err);
	ck_assert_ptr_nonnull(reader);
	take_arrived(reader, arrived);
	txlog_reader_close(reader);
	ck_assert_uint_eq(arrived->rows, rows);
	ck_assert_int_eq(db_int(db, "SELECT count(*) FROM t"), rows);
	free(arrived);
}

/* Transactions of one to four rows, some of them rolled back, some with
 * savepoints; ids from first on. Returns the next free id. */
static uint32_t
write_some(uint32_t first, uint32_t transactions)
{
	uint32_t id = first;
	for (uint32_t i = 0; i < transactions; i++) {
		uint32_t rows = 1 + i % 4;
		if (i % 10 == 3)
			db_exec(db, "BEGIN; INSERT INTO t VALUES (%u, 'never'); ROLLBACK", id);
		if (i % 10 == 7)
			db_exec(db,
			        "BEGIN; SAVEPOINT a; INSERT INTO t VALUES (%u, 'never');"
			        "ROLLBACK TO a; INSERT INTO t SELECT g, 'x' FROM"
			        " generate_series(%u, %u) g; COMMIT",
			        id, id, id + rows - 1);
		else
			db_exec(db, "INSERT INTO t SELECT g, repeat('x', 50) FROM generate_series(%u, %u) g",
			        id, id + rows - 1);
		id += rows;
	}
	return id;
}

START_TEST(every_transaction_arrives)
{
	TxLog *log = fixture_open_with(directory, 64 * 1024, 0, _i == 1);
	Receiver *receiver = start(log, CONFIRM_LOGGED, 0);
	uint32_t next = write_some(0, 200);
	wait_all(receiver);
	check_arrived(log, next);
	/* Larger than a block, and much larger than what one read brings. */
	db_exec(db, "INSERT INTO t SELECT g, repeat('y', 100) FROM generate_series(%u, %u) g", next,
	        next + 49999);
	db_exec(db, "INSERT INTO t VALUES (%u, repeat('z', 20000000))", next + 50000);
	wait_all(receiver);
	check_arrived(log, next + 50001);
	ReceiverState state;
	receiver_state(receiver, &state);
	ck_assert_uint_eq(state.reconnects, 0);
	ck_assert(state.connected && !state.failed && !state.held_by_log);
	ck_assert_uint_gt(state.bytes, 25000000);
	ck_assert_uint_ge(state.received.v, state.confirmed.v);
	receiver_stop(receiver);
	txlog_close(log);
}
END_TEST

START_TEST(a_stop_and_a_start_lose_and_double_nothing)
{
	uint32_t next = 0;
	for (int i = 0; i < 4; i++) {
		TxLog *log = fixture_open(directory);
		Receiver *receiver = start(log, CONFIRM_LOGGED, 0);
		next = write_some(next, 30);
		if (i % 2 == 0)
			wait_state(receiver, is_connected, NULL); /* stopped in the middle */
		else
			wait_all(receiver);
		receiver_stop(receiver);
		txlog_close(log);
		next = write_some(next, 5);
	}
	TxLog *log = fixture_open(directory);
	Receiver *receiver = start(log, CONFIRM_LOGGED, 0);
	wait_all(receiver);
	check_arrived(log, next);
	receiver_stop(receiver);
	txlog_close(log);
}
END_TEST

START_TEST(a_killed_walsender_loses_and_doubles_nothing)
{
	TxLog *log = fixture_open_with(directory, 256 * 1024, 0, false);
	Receiver *receiver = start(log, CONFIRM_LOGGED, 0);
	uint32_t next = 0;
	for (uint64_t i = 0; i < 6; i++) {
		wait_state(receiver, is_connected, NULL);
		next = write_some(next, 20);
		/* In the middle of a transaction that takes a while to send. */
		db_exec(db, "INSERT INTO t SELECT g, repeat('y', 200) FROM generate_series(%u, %u) g", next,
		        next + 9999);
		next += 10000;
		db_exec(db, "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots"
		            " WHERE slot_name = 's' AND active");
		wait_state(receiver, has_reconnected, &i);
	}
	wait_all(receiver);
	check_arrived(log, next);
	receiver_stop(receiver);
	txlog_close(log);
}
END_TEST

START_TEST(a_restarted_server_is_followed_again)
{
	TxLog *log = fixture_open(directory);
	Receiver *receiver = start(log, CONFIRM_LOGGED, 0);
	uint32_t next = write_some(0, 20);
	for (int i = 0; i < 2; i++) {
		wait_state(receiver, is_connected, NULL);
		PQfinish(db);
		/* Fast: the server waits until we have confirmed all. */
		cluster_restart(cluster, i == 0 ? CLUSTER_FAST : CLUSTER_IMMEDIATE);
		db = db_connect(cluster, NULL);
		next = write_some(next, 20);
		wait_all(receiver);
		check_arrived(log, next);
	}
	receiver_stop(receiver);
	txlog_close(log);
}
END_TEST

/* Statuses come, three times as long as the server's timeout. */
static void
answers_for_3_s(int64_t pid)
{
	char *since = db_value(db, "SELECT now()");
	char *sql = mem_printf("SELECT reply_time > timestamptz '%s' + interval '3 s'"
	                       " FROM pg_stat_replication WHERE pid = %d",
	                       since, (int)pid);
	db_wait_until(db, sql, 30);
	free(sql);
	free(since);
}

/* Back pressure: a log at its limit is not read into, and statuses keep the
 * server's sender alive far beyond its timeout. */
START_TEST(a_full_log_holds_the_source_without_losing_it)
{
	Error err = ERROR_INIT;
	TxLog *log = fixture_open_with(directory, 0, 1024 * 1024, false);
	Receiver *receiver = start(log, CONFIRM_LOGGED, 1000);
	wait_state(receiver, is_connected, NULL);
	db_wait_until(db, "SELECT active FROM pg_replication_slots WHERE slot_name = 's'", 30);
	int64_t pid = db_int(db, "SELECT active_pid FROM pg_replication_slots WHERE slot_name = 's'");
	uint32_t next = 0;
	for (int i = 0; i < 300; i++, next += 100)
		db_exec(db,
		        "INSERT INTO t SELECT g, repeat(md5(g::text), 20) FROM"
		        " generate_series(%u, %u) g",
		        next, next + 99);
	wait_state(receiver, is_held, NULL);
	answers_for_3_s(pid);
	ReceiverState state;
	receiver_state(receiver, &state);
	ck_assert(state.held_by_log && state.reconnects == 0);
	TxLogState limits;
	txlog_state(log, &limits);
	ck_assert_uint_lt(limits.bytes_on_disk, 8 * 1024 * 1024);

	/* The target takes it: room is made, step by step, until all is there. */
	Arrived *arrived = mem_zalloc(sizeof(Arrived));
	TxLogReader *reader = txlog_reader_open(log, LSN_INVALID, &err);
	int64_t deadline = deadline_in_ms(60000);
	while (arrived->rows < next) {
		take_arrived(reader, arrived);
		txlog_release(log, arrived->last);
		ck_assert_int_gt(deadline_left_ms(deadline), 0);
		poll(NULL, 0, 2);
	}
	ck_assert_int_eq(db_int(db, "SELECT active_pid FROM pg_replication_slots"
	                            " WHERE slot_name = 's'"),
	                 pid);
	receiver_state(receiver, &state);
	ck_assert_uint_eq(state.reconnects, 0);
	txlog_reader_close(reader);
	free(arrived);
	receiver_stop(receiver);
	txlog_close(log);
}
END_TEST

/* A disk that stands still: the source keeps what there is no room for, gets its answers
 * all the same, and no confirmation of what is not durable. */
START_TEST(a_disk_that_stands_still_silences_nobody)
{
	FixtureDisk disk = FIXTURE_DISK;
	TxLog *log = fixture_open_on(&disk, directory);
	fixture_disk_hold(&disk);
	Receiver *receiver = start(log, CONFIRM_LOGGED, 1000);
	wait_state(receiver, is_connected, NULL);
	db_wait_until(db, "SELECT active FROM pg_replication_slots WHERE slot_name = 's'", 30);
	int64_t pid = db_int(db, "SELECT active_pid FROM pg_replication_slots WHERE slot_name = 's'");
	/* Four times what may wait for the disk. */
	db_exec(db,
	        "INSERT INTO t SELECT g, repeat(md5(g::text), 20) FROM generate_series(0, 49999) g");
	char *behind = db_value(db, "SELECT pg_current_wal_insert_lsn()");
	fixture_disk_wait_held(&disk);
	answers_for_3_s(pid);
	/* Keepalives may have confirmed up to the commit, which the walsender reads last. */
	char *sql = mem_printf("SELECT confirmed_flush_lsn < '%s' FROM pg_replication_slots", behind);
	char *held = db_value(db, "%s", sql);
	ck_assert_str_eq(held, "t");
	TxLogState limits;
	txlog_state(log, &limits);
	ck_assert_uint_lt(limits.bytes_on_disk, 1024 * 1024);

	fixture_disk_let_go(&disk, 0);
	wait_all(receiver);
	check_arrived(log, 50000);
	ReceiverState state;
	receiver_state(receiver, &state);
	ck_assert_uint_eq(state.reconnects, 0);
	free(held);
	free(sql);
	free(behind);
	receiver_stop(receiver);
	txlog_close(log);
}
END_TEST

/* And one that fails meanwhile ends the receiver, which is waiting for nothing else. */
START_TEST(a_disk_that_fails_ends_the_receiver)
{
	FixtureDisk disk = FIXTURE_DISK;
	TxLog *log = fixture_open_on(&disk, directory);
	fixture_disk_hold(&disk);
	Receiver *receiver = start(log, CONFIRM_LOGGED, 0);
	wait_state(receiver, is_connected, NULL);
	db_exec(db,
	        "INSERT INTO t SELECT g, repeat(md5(g::text), 20) FROM generate_series(0, 49999) g");
	fixture_disk_wait_held(&disk);
	fixture_disk_let_go(&disk, EIO);
	ReceiverState state = wait_state(receiver, is_failed, NULL);
	ck_assert_int_eq(state.error.class, ERROR_STORAGE);
	ck_assert_ptr_nonnull(strstr(state.error.message, "Input/output error"));
	receiver_stop(receiver);
	txlog_close(log);
}
END_TEST

/* P6: an idle publication does not hold back WAL that others write. */
START_TEST(an_idle_stream_confirms_by_keepalives)
{
	TxLog *log = fixture_open(directory);
	Receiver *receiver = start(log, _i == 0 ? CONFIRM_LOGGED : CONFIRM_APPLIED, 0);
	for (int i = 0; i < 3; i++) {
		db_exec(db, "INSERT INTO elsewhere SELECT repeat('x', 100) FROM generate_series(1, 100)");
		wait_all(receiver);
	}
	receiver_stop(receiver);
	txlog_close(log);
}
END_TEST

START_TEST(applied_confirms_only_what_the_target_has)
{
	TxLog *log = fixture_open(directory);
	Receiver *receiver = start(log, CONFIRM_APPLIED, 1000);
	wait_state(receiver, is_connected, NULL);
	Lsn before = current_lsn();
	write_some(0, 5);
	Lsn after = current_lsn();
	TxLogState state;
	/* Statuses go on (each answers a keepalive), and none confirms beyond. */
	char *sql = mem_printf("SELECT write_lsn >= '%s' FROM pg_stat_replication", LSN_STR(after));
	db_wait_until(db, sql, 30);
	free(sql);
	sql = mem_printf("SELECT confirmed_flush_lsn <= '%s' FROM pg_replication_slots"
	                 " WHERE slot_name = 's'",
	                 LSN_STR(before));
	ck_assert(db_true(db, "%s", sql));
	txlog_state(log, &state);
	receiver_set_applied(receiver, state.last_end);
	/* And what the target has only when that was noted there. */
	uint32_t timeline;
	Lsn confirmed;
	while (!receiver_to_note(receiver, &timeline, &confirmed) ||
	       lsn_cmp(confirmed, state.last_end) < 0)
		poll(NULL, 0, 5);
	char *moment = db_value(db, "SELECT clock_timestamp()");
	char *replied = mem_printf("SELECT reply_time > '%s' FROM pg_stat_replication", moment);
	db_wait_until(db, replied, 30);
	free(replied);
	free(moment);
	ck_assert(db_true(db, "%s", sql));
	free(sql);
	wait_all(receiver);
	receiver_stop(receiver);
	txlog_close(log);
}
END_TEST

/* The state directory is lost, and what was noted is what is known of the source. */
START_TEST(a_log_that_is_begun_anew)
{
	TxLog *log = fixture_open(directory);
	Receiver *receiver = start(log, CONFIRM_APPLIED, 0);

	write_some(0, 3);
	TxLogState state = wait_transactions(log, 3);
	known.applied = state.last_commit;
	receiver_set_applied(receiver, state.last_end);
	wait_all(receiver);
	receiver_stop(receiver);
	txlog_close(log);
	db_wait_until(db, "SELECT NOT active FROM pg_replication_slots WHERE slot_name = 's'", 30);

	fixture_remove(directory);
	directory = fixture_directory();
	write_some(100, 3);
	if (_i == 1)
		db_exec(db, "SELECT pg_replication_slot_advance('s', pg_current_wal_lsn())");
	if (_i == 2)
		known.timeline = 2;
	if (_i == 3) /* behind the end of its WAL */
		known.applied = lsn_make(current_lsn().v + (1 << 20));
	log = fixture_open(directory);
	receiver = start(log, CONFIRM_APPLIED, 0);
	if (_i == 0) {
		wait_state(receiver, is_connected, NULL);
		wait_transactions(log, 3);
	} else {
		static const char *const words[] = {NULL, "the slot stands at",
		                                    "does not come from timeline 2", "has gone back"};
		ReceiverState failed = wait_state(receiver, is_failed, NULL);
		ck_assert_msg(strstr(failed.error.message, words[_i]) != NULL, "%s", failed.error.message);
	}
	receiver_stop(receiver);
	txlog_close(log);
}
END_TEST

/* The server would go on behind what it believes is safe here. */
START_TEST(a_log_that_has_lost_its_end_is_noticed)
{
	TxLog *log = fixture_open(directory);
	Receiver *receiver = start(log, CONFIRM_LOGGED, 0);
	for (int i = 0; i < 2; i++) {
		write_some(i * 100, 3);
		wait_all(receiver);
	}
	receiver_stop(receiver);
	txlog_close(log);

	/* A stop and a start on an idle stream, confirmed beyond the last commit. */
	log = fixture_open(directory);
	receiver = start(log, CONFIRM_LOGGED, 0);
	wait_state(receiver, is_connected, NULL);
	receiver_stop(receiver);
	txlog_close(log);

	char *path = fixture_path(directory, 1);
	char *noted = mem_printf("%s/confirmed", directory);
	ck_assert_int_eq(truncate(path, (off_t)fixture_size(path) - 1), 0);
	ck_assert_int_eq(truncate(noted, 0), 0); /* an older state of the directory */
	log = fixture_open(directory);
	receiver = start(log, CONFIRM_LOGGED, 0);
	ReceiverState state = wait_state(receiver, is_failed, NULL);
	ck_assert_int_eq(state.error.class, ERROR_STORAGE);
	ck_assert_ptr_nonnull(strstr(state.error.message, "the slot stands at"));
	receiver_stop(receiver);
	txlog_close(log);
	free(noted);
	free(path);
}
END_TEST

/* Somebody has advanced the slot, or made it anew, while nobody read it: what lies between is not
 * sent any more, whatever is confirmed. */
START_TEST(a_slot_that_stands_elsewhere_is_noticed)
{
	ConfirmMode confirm = _i < 2 ? CONFIRM_LOGGED : CONFIRM_APPLIED;
	TxLog *log = fixture_open(directory);
	Receiver *receiver = start(log, confirm, 0);

	write_some(0, 3);
	TxLogState state = wait_transactions(log, 3);
	receiver_set_applied(receiver, state.last_end);
	wait_all(receiver);
	receiver_stop(receiver);
	txlog_close(log);

	/* Nothing was touched. */
	log = fixture_open(directory);
	receiver = start(log, confirm, 0);
	wait_state(receiver, is_connected, NULL);
	receiver_stop(receiver);
	txlog_close(log);

	db_wait_until(db, "SELECT NOT active FROM pg_replication_slots WHERE slot_name = 's'", 30);
	write_some(100, 3);
	if (_i % 2 == 0)
		db_exec(db, "SELECT pg_replication_slot_advance('s', pg_current_wal_lsn())");
	else
		db_exec(db, "SELECT pg_drop_replication_slot('s');"
		            "SELECT pg_create_logical_replication_slot('s', 'pgoutput')");
	log = fixture_open(directory);
	receiver = start(log, confirm, 0);
	ReceiverState failed = wait_state(receiver, is_failed, NULL);
	ck_assert_int_eq(failed.error.class, ERROR_STORAGE);
	ck_assert_ptr_nonnull(strstr(failed.error.message, "the slot stands at"));
	receiver_stop(receiver);
	txlog_close(log);
}
END_TEST

START_TEST(a_dropped_slot_is_fatal)
{
	TxLog *log = fixture_open(directory);
	Receiver *receiver = start(log, CONFIRM_LOGGED, 0);
	wait_state(receiver, is_connected, NULL);
	db_exec(db, "%s", drop_slot);
	ReceiverState state = wait_state(receiver, is_failed, NULL);
	ck_assert_msg(error_has_sqlstate(&state.error, "42704"), "%s", state.error.message);
	ck_assert_ptr_nonnull(strstr(state.error.context, "slot \"s\""));
	ck_assert_ptr_nonnull(strstr(state.error.hint, "start it again"));
	ck_assert(!state.connected);
	receiver_stop(receiver);
	txlog_close(log);
}
END_TEST

START_TEST(a_dropped_publication_is_fatal)
{
	TxLog *log = fixture_open(directory);
	Receiver *receiver = start(log, CONFIRM_LOGGED, 0);
	wait_state(receiver, is_connected, NULL);
	db_exec(db, "DROP PUBLICATION p");
	db_exec(db, "INSERT INTO t VALUES (1, 'x')");
	ReceiverState state = wait_state(receiver, is_failed, NULL);
	ck_assert_msg(error_has_sqlstate(&state.error, "42704"), "%s", state.error.message);
	receiver_stop(receiver);
	txlog_close(log);
}
END_TEST

START_TEST(another_server_is_refused)
{
	TxLog *log = fixture_open(directory);
	free(system_id);
	system_id = mem_strdup("12345");
	Receiver *receiver = start(log, CONFIRM_LOGGED, 0);
	ReceiverState state = wait_state(receiver, is_failed, NULL);
	ck_assert_int_eq(state.error.class, ERROR_CONFIG);
	ck_assert_ptr_nonnull(strstr(state.error.message, "12345"));
	receiver_stop(receiver);
	txlog_close(log);
}
END_TEST

START_TEST(an_unreachable_server_is_tried_for_ever)
{
	Error err = ERROR_INIT;
	uint64_t twice = 2;
	TxLog *log = fixture_open(directory);
	conninfo_free(source);
	source = conninfo_parse("host=127.0.0.1 port=1 user=postgres dbname=postgres", &err);
	Receiver *receiver = start(log, CONFIRM_LOGGED, 0);
	int64_t deadline = deadline_in_ms(30000);
	ReceiverState state;
	do {
		receiver_state(receiver, &state);
		poll(NULL, 0, 5);
		ck_assert(deadline_left_ms(deadline) > 0 && !state.failed);
	} while (state.reconnects <= twice);
	ck_assert_int_eq(state.error.class, ERROR_NETWORK);
	receiver_stop(receiver); /* at once, in the middle of a back-off */
	txlog_close(log);
}
END_TEST

static Suite *
make(void)
{
	Suite *suite = suite_create("receiver");
	TCase *tcase = tcase_create("receiver");
	tcase_set_timeout(tcase, 180);
	tcase_add_unchecked_fixture(tcase, start_server, stop_server);
	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_add_loop_test(tcase, every_transaction_arrives, 0, 2);
	tcase_add_test(tcase, a_stop_and_a_start_lose_and_double_nothing);
	tcase_add_test(tcase, a_killed_walsender_loses_and_doubles_nothing);
	tcase_add_test(tcase, a_restarted_server_is_followed_again);
	tcase_add_test(tcase, a_full_log_holds_the_source_without_losing_it);
	tcase_add_test(tcase, a_disk_that_stands_still_silences_nobody);
	tcase_add_test(tcase, a_disk_that_fails_ends_the_receiver);
	tcase_add_loop_test(tcase, an_idle_stream_confirms_by_keepalives, 0, 2);
	tcase_add_test(tcase, applied_confirms_only_what_the_target_has);
	tcase_add_loop_test(tcase, a_log_that_is_begun_anew, 0, 4);
	tcase_add_test(tcase, a_log_that_has_lost_its_end_is_noticed);
	tcase_add_loop_test(tcase, a_slot_that_stands_elsewhere_is_noticed, 0, 4);
	tcase_add_test(tcase, a_dropped_slot_is_fatal);
	tcase_add_test(tcase, a_dropped_publication_is_fatal);
	tcase_add_test(tcase, another_server_is_refused);
	tcase_add_test(tcase, an_unreachable_server_is_tried_for_ever);
	suite_add_tcase(suite, tcase);
	return suite;
}

TEST_SUITE(make)
