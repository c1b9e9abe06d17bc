#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/memory.h"
#include "tests/unit/decoder/messages.h"
#include "tests/unit/decoder/txlog_fixture.h"
#include "tests/unit/runner.h"

/* Transactions streamed before their commit: what becomes of each message, of damage, of
 * failing disks. At random: txlog_stream_model_test.c. */

static char *directory;
static Buffer message;

static void
setup(void)
{
	log_set_level(LOG_ERROR);
	directory = fixture_directory();
}

static void
teardown(void)
{
	buffer_free(&message);
	fixture_remove(directory);
}

/* By reference always, or copied where it is small. */
static TxLog *
open_log(uint64_t segment_bytes, uint64_t inline_max)
{
	TxLog *log = fixture_open_with(directory, segment_bytes, 0, false);
	log->inline_max = inline_max;
	return log;
}

static void
send(TxLog *log)
{
	fixture_append(log, &message);
	buffer_reset(&message);
}

static void
start(TxLog *log, uint32_t xid, bool first)
{
	message_stream_start(&message, xid, first);
	send(log);
}

static void
stop(TxLog *log)
{
	message_stream_stop(&message);
	send(log);
}

static void
row(TxLog *log, uint32_t xid, uint32_t id, size_t bytes)
{
	message_insert_filler(&message, xid, 77, id, bytes, (uint8_t)id);
	send(log);
}

static void
relation(TxLog *log, uint32_t xid, const char *name)
{
	message_relation(&message, xid, 77, name);
	send(log);
}

static void
roll_back(TxLog *log, uint32_t xid, uint32_t subxid)
{
	message_stream_abort(&message, xid, subxid);
	send(log);
}

static void
commit(TxLog *log, uint32_t xid, uint32_t n)
{
	message_stream_commit(&message, xid, FIXTURE_COMMIT(n), FIXTURE_END(n));
	send(log);
}

/* A block of rows; ids from first on, a sub-transaction's when xid is not the stream's. */
static void
block(TxLog *log, uint32_t stream, bool first, uint32_t xid, uint32_t first_id, uint32_t rows,
      size_t bytes)
{
	start(log, stream, first);
	for (uint32_t i = 0; i < rows; i++)
		row(log, xid, first_id + i, bytes);
	stop(log);
}

/* What a reader gives, as text: "B1 R=t I5 I6 C1 ". */
static void
describe(Buffer *out, Slice m)
{
	static const PgoContext context = {.proto_version = 1};
	Error err = ERROR_INIT;
	PgoMessage parsed;
	Arena *arena = arena_new(0);

	ck_assert_msg(pgoutput_parse(&context, m, arena, &parsed, &err), "%s", err.message);
	switch (parsed.kind) {
	case PGO_BEGIN:
		buffer_printf(out, "B%u/%u ", (unsigned)(parsed.begin.final_lsn.v / 0x100),
		              parsed.begin.xid);
		break;
	case PGO_COMMIT:
		ck_assert_uint_eq(parsed.commit.end_lsn.v - parsed.commit.commit_lsn.v, 0x40);
		buffer_printf(out, "C%u ", (unsigned)(parsed.commit.commit_lsn.v / 0x100));
		break;
	case PGO_RELATION:
		buffer_printf(out, "R=%s ", parsed.relation.name);
		break;
	case PGO_INSERT: {
		Slice id = parsed.change.new_row.values[0].bytes;
		buffer_printf(out, "I%.*s ", (int)id.len, (const char *)id.data);
		break;
	}
	case PGO_TYPE:
		buffer_printf(out, "Y=%s ", parsed.type.name);
		break;
	default:
		buffer_printf(out, "%c ", parsed.kind);
		break;
	}
	arena_free(arena);
}

static char *
read_all(TxLog *log)
{
	Error err = ERROR_INIT;
	Buffer out = BUFFER_INIT;
	Slice m;
	TxLogNext next;
	TxLogReader *reader = txlog_reader_open(log, LSN_INVALID, &err);

	ck_assert_ptr_nonnull(reader);
	while ((next = txlog_reader_next(reader, NULL, 1, &m, &err)) == TXLOG_MESSAGE)
		describe(&out, m);
	ck_assert_msg(next == TXLOG_WAIT, "%s: %s", err.context, err.message);
	ck_assert(!txlog_reader_ready(reader));
	txlog_reader_close(reader);
	return buffer_cstr(&out);
}

static void
expect(TxLog *log, const char *text)
{
	fixture_publish(log);
	char *all = read_all(log);
	ck_assert_str_eq(all, text);
	free(all);
}

static void
expect_refused(TxLog *log, const char *part)
{
	Error err = ERROR_INIT;
	ck_assert(!txlog_append(log, buffer_slice(&message), &err));
	ck_assert_msg(err.class == ERROR_PROTOCOL && strstr(err.message, part) != NULL, "%s: %s",
	              error_class_name(err.class), err.message);
	ck_assert(!txlog_failed(log, NULL));
	buffer_reset(&message);
}

static char *
xact_path(uint32_t n)
{
	char name[TXLOG_NAME_SIZE];
	txlog_xact_name(lsn_make(FIXTURE_COMMIT(n)), name);
	return mem_printf("%s/%s", directory, name);
}

static bool
is_there(uint32_t n)
{
	char *path = xact_path(n);
	bool there = access(path, F_OK) == 0;
	free(path);
	return there;
}

static TxLogState
state_of(TxLog *log)
{
	TxLogState state;
	txlog_state(log, &state);
	return state;
}

START_TEST(a_stream_comes_at_its_commit_as_protocol_1)
{
	TxLog *log = open_log(0, _i == 0 ? 0 : 1000000);
	start(log, 10, true);
	buffer_put_u8(&message, 'O');
	buffer_put_u64(&message, 0);
	buffer_put_cstr(&message, "origin");
	send(log);
	relation(log, 10, "t");
	row(log, 10, 1, 10);
	stop(log);
	fixture_transaction(log, 1, 1, 10);
	start(log, 20, true);
	relation(log, 21, "t");
	row(log, 21, 2, 10);
	stop(log);
	expect(log, "B1/1 I1000 C1 ");
	block(log, 10, false, 10, 3, 2, 10);
	commit(log, 20, 2);
	ck_assert(txlog_has(log, lsn_make(FIXTURE_COMMIT(2))));
	message_logical(&message, false, 5, "outside");
	send(log);
	commit(log, 10, 3);
	static const char all[] = "B1/1 I1000 C1 B2/20 R=t I2 C2 R=t M B3/10 O R=t I1 I3 I4 C3 ";
	expect(log, all);
	ck_assert_int_eq(is_there(2), _i == 0);
	ck_assert_int_eq(is_there(3), _i == 0);
	ck_assert_uint_eq(state_of(log).transactions, 3);
	txlog_close(log);

	log = fixture_open(directory);
	ck_assert_uint_eq(state_of(log).last_commit.v, FIXTURE_COMMIT(3));
	ck_assert_uint_eq(state_of(log).last_end.v, FIXTURE_END(3));
	expect(log, all);
	txlog_close(log);
}
END_TEST

/* In the buffer, in one block of the file, and in blocks of their own. */
START_TEST(sub_transactions_are_cut_off)
{
	static const size_t sizes[] = {10, 100000, 300000};
	size_t size = sizes[_i];
	TxLog *log = open_log(0, 0);

	block(log, 10, true, 10, 1, 2, size);
	block(log, 10, false, 11, 3, 2, size);
	block(log, 10, false, 12, 5, 2, size); /* a child of 11 */
	block(log, 10, false, 13, 7, 1, size); /* another one */
	roll_back(log, 10, 13);
	block(log, 10, false, 11, 8, 1, size);
	block(log, 10, false, 14, 9, 1, size); /* and a third */
	roll_back(log, 10, 99);                /* nothing of it was published */
	start(log, 30, true);                  /* the file of 10 is closed meanwhile */
	stop(log);
	roll_back(log, 10, 12); /* 11 rolls back: its children first */
	roll_back(log, 10, 14);
	roll_back(log, 10, 11);
	block(log, 10, false, 15, 10, 1, size);
	roll_back(log, 30, 30);
	roll_back(log, 30, 30); /* unknown now */
	commit(log, 10, 1);
	expect(log, "B1/10 I1 I2 I10 C1 ");
	txlog_close(log);
}
END_TEST

/* The parent wrote first when its child was over: it begins where that one does. */
START_TEST(a_parent_that_writes_late_goes_with_its_children)
{
	TxLog *log = open_log(0, 0);
	block(log, 10, true, 10, 1, 1, 10);
	block(log, 10, false, 13, 2, 1, 200000); /* child of 12, which is a child of 11 */
	block(log, 10, false, 12, 3, 1, 200000);
	block(log, 10, false, 14, 4, 1, 10);
	roll_back(log, 10, 14);
	block(log, 10, false, 11, 5, 1, 10);
	if (_i == 0) {
		roll_back(log, 10, 12);
		roll_back(log, 10, 13);
		roll_back(log, 10, 11);
	}
	commit(log, 10, 1);
	expect(log, _i == 0 ? "B1/10 I1 C1 " : "B1/10 I1 I2 I3 I5 C1 ");
	txlog_close(log);
}
END_TEST

START_TEST(what_rolled_back_altogether_moves_the_end)
{
	TxLog *log = open_log(0, 0);
	block(log, 10, true, 11, 1, 3, 200000);
	roll_back(log, 10, 11);
	commit(log, 10, 1);
	block(log, 20, true, 20, 1, 3, 200000);
	roll_back(log, 20, 20);
	start(log, 30, true);
	stop(log);
	commit(log, 30, 2);
	expect(log, "B1/10 C1 B2/30 C2 ");
	ck_assert(!is_there(1) && !is_there(2));
	ck_assert_uint_eq(state_of(log).last_end.v, FIXTURE_END(2));
	txlog_close(log);
}
END_TEST

/* P7: sent again, as after a start; what it says about relations counts. */
START_TEST(what_the_log_has_is_dropped)
{
	TxLog *log = open_log(0, 0);
	fixture_transaction(log, 5, 1, 10);
	start(log, 10, true);
	relation(log, 10, "t");
	row(log, 10, 1, 300000);
	stop(log);
	commit(log, 10, 5);
	expect(log, "B5/5 I5000 C5 R=t ");
	ck_assert_uint_eq(state_of(log).bytes_on_disk, log->segments[0].size);
	txlog_close(log);
}
END_TEST

START_TEST(relations_are_in_force_as_the_source_believes)
{
	TxLog *log = open_log(0, 0);
	relation(log, 0, "v1");
	start(log, 10, true);
	relation(log, 10, "v1");
	row(log, 10, 1, 10);
	stop(log);
	relation(log, 0, "v2"); /* arrives after what 10 said */
	start(log, 20, true);
	relation(log, 20, "v3");
	row(log, 20, 2, 10);
	relation(log, 21, "v4");
	stop(log);
	roll_back(log, 20, 21);
	commit(log, 10, 1);
	fixture_transaction(log, 2, 1, 1);
	commit(log, 20, 3);
	start(log, 30, true);
	relation(log, 30, "v3");
	row(log, 30, 3, 10);
	stop(log);
	commit(log, 30, 4); /* nothing new: nothing is said again */
	expect(log, "R=v1 R=v2 B1/10 R=v1 I1 C1 R=v2 B2/2 I2000 C2 B3/20 R=v3 I2 C3 R=v3 "
	            "B4/30 R=v3 I3 C4 ");
	txlog_close(log);
}
END_TEST

START_TEST(a_new_segment_knows_what_streams_have_said)
{
	TxLog *log = open_log(64 * 1024, 0);
	start(log, 10, true);
	relation(log, 10, "t");
	row(log, 10, 1, 100000);
	stop(log);
	commit(log, 10, 1);
	fixture_publish(log);
	fixture_transaction(log, 2, 1, 1);
	fixture_publish(log);
	ck_assert_uint_eq(state_of(log).segments, 2); /* what it refers to has filled the first */
	FixtureSeen seen = fixture_read_all(log, lsn_make(FIXTURE_COMMIT(1)));
	ck_assert_uint_eq(seen.first, 2);
	ck_assert_uint_eq(seen.relations, 1);
	txlog_close(log);
}
END_TEST

START_TEST(a_lost_connection_drops_what_is_in_progress)
{
	Error err = ERROR_INIT;
	TxLog *log = open_log(0, 0);
	uint64_t before = state_of(log).bytes_on_disk;
	for (uint32_t xid = 10; xid < 70; xid += 10)
		block(log, xid, true, xid, 1, 2, 200000);
	start(log, 10, false);
	row(log, 10, 9, 10); /* in the middle of a block */
	ck_assert_uint_gt(state_of(log).bytes_on_disk, before + 2000000);
	ck_assert(txlog_discard_open(log, &err));
	ck_assert_uint_eq(state_of(log).bytes_on_disk, before);
	fixture_transaction(log, 1, 1, 1);
	block(log, 10, true, 10, 1, 1, 10);
	commit(log, 10, 2);
	expect(log, "B1/1 I1000 C1 B2/10 I1 C2 ");
	txlog_close(log);
}
END_TEST

START_TEST(what_the_protocol_does_not_allow_is_refused)
{
	TxLog *log = open_log(0, 0);
	message_stream_start(&message, 10, false);
	expect_refused(log, "its beginning never came");
	message_stream_stop(&message);
	expect_refused(log, "outside a stream block");
	message_stream_commit(&message, 10, FIXTURE_COMMIT(1), FIXTURE_END(1));
	expect_refused(log, "of which nothing came");
	message_stream_commit(&message, 10, FIXTURE_COMMIT(1), FIXTURE_COMMIT(1) - 1);
	expect_refused(log, "behind its end");

	start(log, 10, true);
	message_stream_start(&message, 20, true);
	expect_refused(log, "inside a stream block");
	message_begin(&message, FIXTURE_COMMIT(1), 10);
	expect_refused(log, "inside a stream block");
	message_commit(&message, FIXTURE_COMMIT(1), FIXTURE_END(1));
	expect_refused(log, "inside a stream block");
	message_stream_abort(&message, 10, 10);
	expect_refused(log, "inside a stream block");
	message_insert(&message, 9, 77, "1", "of an older transaction");
	expect_refused(log, "which began later");
	buffer_put(&message, "I\0\0", 3);
	expect_refused(log, "ends too early");
	buffer_put(&message, "R\0\0\0\xA", 5);
	expect_refused(log, "ends too early");
	buffer_put(&message, "x\0\0\0\xA", 5);
	expect_refused(log, "unknown pgoutput message");
	stop(log);
	message_stream_start(&message, 10, true);
	expect_refused(log, "begins twice");
	commit(log, 10, 1);
	expect(log, "B1/10 C1 ");
	txlog_close(log);
}
END_TEST

START_TEST(streams_and_transactions_do_not_nest)
{
	TxLog *log = open_log(0, 0);
	block(log, 10, true, 10, 1, 1, 10);
	fixture_begin(log, 1);
	message_stream_start(&message, 10, false);
	expect_refused(log, "inside a transaction");
	message_stream_commit(&message, 10, FIXTURE_COMMIT(1), FIXTURE_END(1));
	expect_refused(log, "inside a transaction");
	message_stream_abort(&message, 10, 10);
	expect_refused(log, "inside a transaction");
	fixture_commit(log, 1);
	commit(log, 10, 2);
	expect(log, "B1/1 C1 B2/10 I1 C2 ");
	txlog_close(log);
}
END_TEST

/* ---- room ---- */

static void
wait_gone(TxLog *log, uint32_t n)
{
	Error err = ERROR_INIT;
	int64_t deadline = deadline_in_ms(30000);
	while (is_there(n)) {
		ck_assert_int_gt(deadline_left_ms(deadline), 0);
		ck_assert(txlog_sync(log, deadline, &err));
		usleep(1000);
	}
}

START_TEST(a_release_removes_side_files)
{
	TxLog *log = open_log(1024 * 1024, 0);
	block(log, 10, true, 10, 1, 30, 50000);
	block(log, 20, true, 20, 1, 2, 50000);
	uint64_t in_progress = state_of(log).bytes_on_disk;
	ck_assert_uint_gt(in_progress, 30 * 50000); /* what is in progress counts */
	commit(log, 10, 1);
	commit(log, 20, 2);
	fixture_publish(log);
	/* The reference of 20 went to the next segment: the first one was full. */
	ck_assert_uint_eq(state_of(log).segments, 2);
	txlog_release(log, lsn_make(FIXTURE_COMMIT(1)));
	wait_gone(log, 1);
	ck_assert(is_there(2));
	ck_assert_uint_lt(state_of(log).bytes_on_disk, 110000);
	txlog_close(log);

	/* Half removed: the segment is gone, the file is not. */
	char *path = xact_path(1);
	fixture_store(path, (const uint8_t *)"x", 1);
	log = open_log(1024 * 1024, 0);
	ck_assert(!is_there(1) && is_there(2));
	ck_assert_uint_gt(state_of(log).bytes_on_disk, 2 * 50000);
	expect(log, "B2/20 I1 I2 C2 ");
	/* Released, a segment with large references is worth a new one at once. */
	block(log, 30, true, 30, 1, 10, 50000);
	commit(log, 30, 3);
	fixture_publish(log);
	txlog_release(log, lsn_make(FIXTURE_COMMIT(3)));
	fixture_publish(log);
	wait_gone(log, 3);
	ck_assert_uint_eq(state_of(log).segments, 1);
	ck_assert_uint_lt(state_of(log).bytes_on_disk, 10000);
	free(path);
	txlog_close(log);
}
END_TEST

/* A limit holds the source back only for what a release can mend. */
START_TEST(what_is_in_progress_does_not_make_the_log_full)
{
	TxLog *log = fixture_open_with(directory, 0, 1024 * 1024, false);
	block(log, 10, true, 10, 1, 60, 50000);
	ck_assert_uint_gt(state_of(log).bytes_on_disk, 2 * 1024 * 1024);
	ck_assert(!txlog_full(log));
	fixture_transaction(log, 1, 1, 10);
	fixture_publish(log);
	ck_assert(txlog_full(log));
	txlog_release(log, lsn_make(FIXTURE_COMMIT(1)));
	ck_assert(!txlog_full(log));
	block(log, 10, false, 10, 100, 60, 50000);
	ck_assert(!txlog_full(log));
	commit(log, 10, 2);
	fixture_publish(log);
	ck_assert(txlog_full(log));
	txlog_release(log, lsn_make(FIXTURE_COMMIT(2)));
	ck_assert(!txlog_full(log));
	fixture_publish(log);
	wait_gone(log, 2);
	ck_assert_uint_lt(state_of(log).bytes_on_disk, 100000);
	txlog_close(log);
}
END_TEST

/* Each second one rolls back. The list holds the others. */
START_TEST(many_sub_transactions_cost_little)
{
	enum { SUBS = 200000 };
	TxLog *log = open_log(0, 0);
	for (uint32_t i = 1; i <= SUBS; i++) {
		block(log, 10, i == 1, 10 + i, i, 1, 1);
		if (i % 2 == 0)
			roll_back(log, 10, 10 + i);
	}
	StreamedTx *tx = log->writer.streams.current;
	ck_assert_uint_eq(tx->sub_count, SUBS / 2);
	ck_assert_uint_eq(sizeof(SubStart), 16);
	commit(log, 10, 1);
	fixture_publish(log);
	char *all = read_all(log);
	uint32_t rows = 0;
	for (const char *at = all; (at = strchr(at, 'I')) != NULL; at++, rows++)
		ck_assert_int_eq(atoi(at + 1) % 2, 1);
	ck_assert_uint_eq(rows, SUBS / 2);
	free(all);
	txlog_close(log);
}
END_TEST

/* ---- damage ---- */

static void
make_streamed(uint32_t rows)
{
	TxLog *log = open_log(0, 0);
	fixture_transaction(log, 1, 1, 10);
	start(log, 10, true);
	for (uint32_t i = 0; i < rows; i++)
		row(log, 10, i, 20);
	stop(log);
	commit(log, 10, 2);
	fixture_transaction(log, 3, 1, 10);
	fixture_publish(log);
	txlog_close(log);
}

/* The open succeeds when only bytes differ; then the reader says it, again and again. */
static void
expect_reader_fails(const char *part)
{
	Error err = ERROR_INIT;
	char text[2048];
	Slice m;
	TxLogNext next;
	TxLog *log = fixture_open(directory);
	TxLogReader *reader = txlog_reader_open(log, LSN_INVALID, &err);

	int commits = 0;
	for (int again = 0; again < 2; again++) {
		while ((next = txlog_reader_next(reader, NULL, 1, &m, &err)) == TXLOG_MESSAGE)
			commits += m.data[0] == 'C';
		ck_assert_int_eq(next, TXLOG_ERROR);
		ck_assert_int_eq(commits, 1);
		ck_assert_int_eq(err.class, ERROR_STORAGE);
		error_format(&err, text, sizeof(text));
		ck_assert_msg(strstr(text, part) != NULL && strstr(text, "commit 0/200") != NULL, "%s",
		              text);
	}
	txlog_reader_close(reader);
	txlog_close(log);
}

START_TEST(a_damaged_side_file_is_named)
{
	make_streamed(3);
	char *path = xact_path(2);
	Buffer image = fixture_load(path);

	for (uint64_t at = 0; at < image.len; at++) {
		fixture_flip(path, at);
		expect_reader_fails("0000000000000200.xact, offset 0");
		fixture_flip(path, at);
	}
	for (uint64_t size = 0; size < image.len; size++) {
		fixture_store(path, image.data, size);
		fixture_open_fails(directory, ERROR_STORAGE, "0000000000000200.xact has");
	}
	buffer_put_u8(&image, 0);
	fixture_store(path, image.data, image.len);
	fixture_open_fails(directory, ERROR_STORAGE, "0000000000000200.xact has");
	ck_assert_int_eq(unlink(path), 0);
	fixture_open_fails(directory, ERROR_STORAGE, "0000000000000200.xact");
	buffer_free(&image);
	free(path);
}
END_TEST

/* As long, whole, and of another transaction. */
START_TEST(another_transactions_side_file_is_damage)
{
	make_streamed(3);
	char *path = xact_path(2);
	TxLog *log = open_log(0, 0);
	block(log, 10, true, 10, 0, 3, 20);
	commit(log, 10, 4);
	fixture_publish(log);
	txlog_close(log);
	char *other = xact_path(4);
	Buffer image = fixture_load(other);
	ck_assert_uint_eq(image.len, fixture_size(path));
	fixture_store(path, image.data, image.len);
	expect_reader_fails("0000000000000200.xact, offset 0: the checksum does not match");
	buffer_free(&image);
	free(other);
	free(path);
}
END_TEST

/* A block that is as it should be, but for its frames. */
static void
append_block(const Buffer *raw)
{
	char *path = fixture_path(directory, 1);
	uint8_t head[BLOCK_HEADER_SIZE];
	uint64_t at = fixture_size(path);
	Slice piece = buffer_slice(raw);
	BlockHeader header = {.stored_len = (uint32_t)raw->len,
	                      .raw_len = (uint32_t)raw->len,
	                      .offset = at,
	                      .last_commit = {FIXTURE_COMMIT(9)},
	                      .last_end = {FIXTURE_END(9)}};
	block_header_put(&header, 1, &piece, 1, head);
	int fd = open(path, O_RDWR);
	ck_assert_int_eq(pwrite(fd, head, sizeof(head), (off_t)at), sizeof(head));
	ck_assert_int_eq(pwrite(fd, raw->data, raw->len, (off_t)(at + sizeof(head))),
	                 (ssize_t)raw->len);
	close(fd);
	free(path);
}

START_TEST(a_reference_of_another_length_is_damage)
{
	StreamedRef ref = {.xid = 10,
	                   .seed = 1,
	                   .bytes = 1000,
	                   .commit = {FIXTURE_COMMIT(9)},
	                   .end = {FIXTURE_END(9)}};
	Buffer raw = BUFFER_INIT;

	for (uint32_t len = 0; len <= STREAMED_REF_SIZE + 2; len++) {
		TxLog *log;
		fixture_remove(directory);
		directory = fixture_directory();
		log = fixture_open(directory);
		fixture_transaction(log, 1, 1, 1);
		fixture_publish(log);
		txlog_close(log);
		buffer_reset(&raw);
		streamed_ref_put(&ref, &raw);
		buffer_put(&raw, "\0\0\0\0", 4);
		raw.len = FRAME_HEADER_SIZE + len;
		buffer_set_u32(&raw, 0, len);
		append_block(&raw);
		fixture_open_fails(directory, ERROR_STORAGE,
		                   len == 0                   ? "longer than its block"
		                   : len == STREAMED_REF_SIZE ? "0000000000000900.xact"
		                                              : "malformed");
	}
	buffer_free(&raw);
}
END_TEST

START_TEST(references_that_cannot_be_are_damage)
{
	static const StreamedRef bad[] = {
		{.xid = 0, .bytes = 1000, .commit = {0x900}, .end = {0x940}},
		{.xid = 1, .bytes = BLOCK_HEADER_SIZE, .commit = {0x900}, .end = {0x940}},
		{.xid = 1, .bytes = UINT64_MAX, .commit = {0x900}, .end = {0x940}},
		{.xid = 1, .bytes = 1000, .commit = {0}, .end = {0x940}},
		{.xid = 1, .bytes = 1000, .commit = {0x900}, .end = {0x8FF}},
	};
	Buffer raw = BUFFER_INIT;
	size_t inside = 0;
	Frame frame;
	const char *problem;

	streamed_ref_put(&bad[_i], &raw);
	ck_assert(!frame_next(buffer_slice(&raw), &inside, &frame, &problem));
	ck_assert_ptr_nonnull(problem);
	ck_assert_uint_eq(inside, 0);
	buffer_free(&raw);
}
END_TEST

/* ---- the walk ---- */

typedef struct {
	Buffer text;
	int in_side_files;
} Walked;

static bool
walk_visit(void *arg, const char *file, uint64_t offset UNUSED, Slice m)
{
	Walked *walked = arg;
	ck_assert_uint_gt(m.len, 0);
	describe(&walked->text, m);
	walked->in_side_files += strstr(file, ".xact") != NULL;
	return m.data[0] != 'M';
}

static void
expect_walk(Lsn from, const char *text, int in_side_files)
{
	Error err = ERROR_INIT;
	Walked walked = {0};
	ck_assert_msg(txlog_walk(directory, from, walk_visit, &walked, &err), "%s", err.message);
	ck_assert_str_eq(buffer_cstr(&walked.text), text);
	ck_assert_int_eq(walked.in_side_files, in_side_files);
	buffer_free(&walked.text);
}

START_TEST(a_walk_goes_through_side_files)
{
	Error err = ERROR_INIT;
	Walked walked = {0};
	make_streamed(2);
	expect_walk(LSN_INVALID, "B1/1 I1000 C1 B2/10 I0 I1 C2 B3/3 I3000 C3 ", 4);
	expect_walk(lsn_make(FIXTURE_COMMIT(2)), "B2/10 I0 I1 C2 B3/3 I3000 C3 ", 4);
	expect_walk(lsn_make(FIXTURE_COMMIT(3)), "B3/3 I3000 C3 ", 0);
	char *path = xact_path(2);
	ck_assert_int_eq(unlink(path), 0);
	ck_assert(!txlog_walk(directory, LSN_INVALID, walk_visit, &walked, &err));
	ck_assert_int_eq(err.class, ERROR_STORAGE);
	ck_assert_ptr_nonnull(strstr(err.message, "0000000000000200.xact"));
	buffer_free(&walked.text);
	free(path);
}
END_TEST

/* ---- faults ---- */

static bool
try_block(TxLog *log, uint32_t xid, bool first, uint32_t subxid, Error *err)
{
	Buffer buf = BUFFER_INIT;
	bool ok;

	message_stream_start(&buf, xid, first);
	ok = txlog_append(log, buffer_slice(&buf), err);
	for (uint32_t i = 0; ok && i < 4; i++) {
		buffer_reset(&buf);
		message_insert_filler(&buf, subxid, 77, i, 100000, (uint8_t)('a' + xid / 10 % 26));
		ok = txlog_append(log, buffer_slice(&buf), err);
	}
	buffer_reset(&buf);
	message_stream_stop(&buf);
	ok = ok && txlog_append(log, buffer_slice(&buf), err);
	buffer_free(&buf);
	return ok;
}

/* Two streams at once: one commits, the other rolls back in part, then too. */
static bool
try_pair(TxLog *log, uint32_t n, Error *err)
{
	Buffer buf = BUFFER_INIT;
	uint32_t a = n * 10;
	uint32_t b = (n + 1) * 10;
	bool ok = try_block(log, a, true, a, err) && try_block(log, b, true, b, err) &&
	          try_block(log, a, false, a, err) && try_block(log, b, false, b + 1, err);

	message_stream_commit(&buf, a, FIXTURE_COMMIT(n), FIXTURE_END(n));
	ok = ok && txlog_append(log, buffer_slice(&buf), err);
	buffer_reset(&buf);
	message_stream_abort(&buf, b, b + 1);
	ok = ok && txlog_append(log, buffer_slice(&buf), err);
	buffer_reset(&buf);
	message_stream_commit(&buf, b, FIXTURE_COMMIT(n + 1), FIXTURE_END(n + 1));
	ok = ok && txlog_append(log, buffer_slice(&buf), err);
	buffer_free(&buf);
	return ok && txlog_publish(log, err) && txlog_sync(log, deadline_in_ms(20000), err);
}

static bool
run_with_fault(FixtureFault *fault)
{
	Error err = ERROR_INIT;
	TxLogOptions options = {
		.directory = directory, .identity = "fixture", .segment_bytes = 1024 * 1024};
	TxLog *log = txlog_open_with_faults(&options, (TxLogFaults){fixture_fault, fault}, &err);
	Lsn synced = LSN_INVALID;
	bool ok = log != NULL;

	for (uint32_t n = 1; ok && n < 8; n += 2) {
		log->inline_max = n == 1 ? TXLOG_INLINE_MAX : 0;
		ok = try_pair(log, n, &err);
		if (ok)
			synced = state_of(log).synced_end;
	}
	if (!ok) {
		ck_assert_msg(err.class == ERROR_STORAGE, "%s", err.message);
		if (log != NULL) {
			Error again = ERROR_INIT;
			ck_assert(txlog_failed(log, &again));
			ck_assert_uint_ge(FIXTURE_END(fixture_read_all(log, LSN_INVALID).last), synced.v);
		}
	}
	txlog_close(log);

	log = fixture_open(directory);
	FixtureSeen seen = fixture_read_all(log, LSN_INVALID);
	ck_assert_uint_ge(FIXTURE_END(seen.last), synced.v);
	ck_assert_uint_eq(seen.transactions, seen.last);
	ck_assert_uint_eq(seen.rows, seen.last / 2 * 12 + seen.last % 2 * 8);
	ck_assert_uint_eq(state_of(log).last_commit.v, FIXTURE_COMMIT(seen.last));
	txlog_close(log);
	return !ok;
}

START_TEST(each_operation_fails_once)
{
	int failures = 0;
	for (int at = 0;; at++) {
		FixtureFault fault = {at, at % 2 == 0 ? ENOSPC : EIO, NULL, 0};
		bool failed = run_with_fault(&fault);
		fixture_remove(directory);
		directory = fixture_directory();
		if (!failed)
			break;
		failures++;
	}
	ck_assert_int_gt(failures, 40);
}
END_TEST

static Suite *
make(void)
{
	Suite *suite = suite_create("txlog streams");
	TCase *tcase = tcase_create("txlog streams");
	tcase_set_timeout(tcase, 240);
	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_add_loop_test(tcase, a_stream_comes_at_its_commit_as_protocol_1, 0, 2);
	tcase_add_loop_test(tcase, sub_transactions_are_cut_off, 0, 3);
	tcase_add_loop_test(tcase, a_parent_that_writes_late_goes_with_its_children, 0, 2);
	tcase_add_test(tcase, what_rolled_back_altogether_moves_the_end);
	tcase_add_test(tcase, what_the_log_has_is_dropped);
	tcase_add_test(tcase, relations_are_in_force_as_the_source_believes);
	tcase_add_test(tcase, a_new_segment_knows_what_streams_have_said);
	tcase_add_test(tcase, a_lost_connection_drops_what_is_in_progress);
	tcase_add_test(tcase, what_the_protocol_does_not_allow_is_refused);
	tcase_add_test(tcase, streams_and_transactions_do_not_nest);
	tcase_add_test(tcase, a_release_removes_side_files);
	tcase_add_test(tcase, what_is_in_progress_does_not_make_the_log_full);
	tcase_add_test(tcase, many_sub_transactions_cost_little);
	tcase_add_test(tcase, a_damaged_side_file_is_named);
	tcase_add_test(tcase, another_transactions_side_file_is_damage);
	tcase_add_test(tcase, a_reference_of_another_length_is_damage);
	tcase_add_loop_test(tcase, references_that_cannot_be_are_damage, 0, 5);
	tcase_add_test(tcase, a_walk_goes_through_side_files);
	tcase_add_test(tcase, each_operation_fails_once);
	suite_add_tcase(suite, tcase);
	return suite;
}

TEST_SUITE(make)
