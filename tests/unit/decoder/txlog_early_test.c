#include <stdlib.h>

#include "common/log.h"
#include "tests/unit/decoder/messages.h"
#include "tests/unit/decoder/txlog_fixture.h"
#include "tests/unit/runner.h"

/* A streamed transaction that is read before its commit: what is on offer, how far it can be
 * read, and what ends it. One thread: what would wait is asked for first. */

enum { ROW = 100000, ROWS_A_BLOCK = 3 }; /* the third one fills a block of the file */

static char *directory;
static Buffer message;
static TxLog *log_;

static void
setup(void)
{
	log_set_level(LOG_ERROR);
	directory = fixture_directory();
	log_ = fixture_open_with(directory, 0, 0, false);
	log_->inline_max = 0;
	log_->early_min = 500000;
}

static void
teardown(void)
{
	txlog_close(log_);
	buffer_free(&message);
	fixture_remove(directory);
}

static void
send(void)
{
	fixture_append(log_, &message);
	buffer_reset(&message);
}

static void
rows(uint32_t stream, bool first, uint32_t xid, int count)
{
	message_stream_start(&message, stream, first);
	send();
	for (int i = 0; i < count; i++) {
		message_insert_filler(&message, xid, 77, (uint32_t)i, ROW, 'x');
		send();
	}
	message_stream_stop(&message);
	send();
}

static void
roll_back(uint32_t xid, uint32_t subxid)
{
	message_stream_abort(&message, xid, subxid);
	send();
}

static void
commit(uint32_t xid, uint32_t n)
{
	message_stream_commit(&message, xid, FIXTURE_COMMIT(n), FIXTURE_END(n));
	send();
}

/* Messages up to where it would wait, or to *end. */
static int
read_what_is_there(TxLogEarly *early, TxLogEarlyNext *end)
{
	Error err = ERROR_INIT;
	Slice bytes;
	int count = 0;

	*end = TXLOG_EARLY_MESSAGE;
	while (*end == TXLOG_EARLY_MESSAGE && txlog_early_ready(early)) {
		*end = txlog_early_next(early, &bytes, &err);
		count += *end == TXLOG_EARLY_MESSAGE;
	}
	ck_assert_msg(*end != TXLOG_EARLY_ERROR, "%s", err.message);
	return count;
}

static TxLogEarly *
take_offer(uint32_t xid)
{
	ck_assert(txlog_early_offered(log_));
	TxLogEarly *early = txlog_early_take(log_);
	ck_assert_ptr_nonnull(early);
	ck_assert(!txlog_early_offered(log_));
	ck_assert_uint_eq(txlog_early_xid(early), xid);
	return early;
}

START_TEST(read_beside_the_writer_to_its_end)
{
	Error err = ERROR_INIT;
	TxLogEarlyNext end;
	Slice bytes;

	rows(10, true, 10, ROWS_A_BLOCK);
	ck_assert(!txlog_early_offered(log_));
	rows(10, false, 10, ROWS_A_BLOCK);
	TxLogEarly *early = take_offer(10);
	fixture_transaction(log_, 1, 1, 10); /* behind the second block, before the third */
	ck_assert_int_eq(read_what_is_there(early, &end), 2 * ROWS_A_BLOCK);
	ck_assert_int_eq(end, TXLOG_EARLY_MESSAGE);
	ck_assert(!lsn_valid(txlog_early_after(early)));
	rows(10, false, 10, ROWS_A_BLOCK + 1); /* the last one stays in the buffer */
	ck_assert_int_eq(read_what_is_there(early, &end), ROWS_A_BLOCK);
	ck_assert_uint_eq(txlog_early_after(early).v, FIXTURE_COMMIT(1));
	commit(10, 2);
	fixture_publish(log_);
	ck_assert_int_eq(read_what_is_there(early, &end), 1);
	ck_assert_int_eq(end, TXLOG_EARLY_END);

	/* The reference that the log's reader meets is this one's; what follows is not lost. */
	fixture_transaction(log_, 3, 1, 10);
	fixture_publish(log_);
	TxLogReader *reader = txlog_reader_open(log_, LSN_INVALID, &err);
	TxLogStreamed met = {0};
	while (met.stream == 0) {
		ck_assert_int_eq(txlog_reader_next(reader, NULL, 1, &bytes, &err), TXLOG_MESSAGE);
		met = txlog_reader_streamed(reader);
	}
	ck_assert_uint_eq(met.stream, txlog_early_stream(early));
	ck_assert_uint_eq(met.bytes, txlog_early_bytes(early));
	ck_assert_uint_eq(met.commit.v, FIXTURE_COMMIT(2));
	txlog_reader_skip_streamed(reader);
	FixtureSeen seen = fixture_read(reader);
	ck_assert_uint_eq(seen.transactions, 1);
	ck_assert_uint_eq(seen.first, 3);
	txlog_reader_close(reader);
	txlog_early_close(early);
}
END_TEST

/* What rolls back behind what was read does no harm; what may have been read ends it. */
START_TEST(a_cut_ends_it_only_where_it_was_read)
{
	TxLogEarlyNext end;

	rows(10, true, 10, 2 * ROWS_A_BLOCK);
	TxLogEarly *early = take_offer(10);
	ck_assert_int_eq(read_what_is_there(early, &end), 2 * ROWS_A_BLOCK);
	rows(10, false, 11, ROWS_A_BLOCK);
	roll_back(10, 11);
	ck_assert_int_eq(read_what_is_there(early, &end), 0);
	ck_assert_int_eq(end, TXLOG_EARLY_MESSAGE);
	rows(10, false, 12, ROWS_A_BLOCK);
	ck_assert_int_eq(read_what_is_there(early, &end), ROWS_A_BLOCK);
	roll_back(10, 12);
	ck_assert_int_eq(read_what_is_there(early, &end), 0);
	ck_assert_int_eq(end, TXLOG_EARLY_GONE);
	commit(10, 1);
	txlog_early_close(early);
}
END_TEST

/* Rolled back, the connection lost, copied into the log, broken off by its owner. */
START_TEST(it_is_gone_with_its_file)
{
	Error err = ERROR_INIT;
	TxLogEarlyNext end;

	rows(10, true, 10, 2 * ROWS_A_BLOCK);
	TxLogEarly *early = take_offer(10);
	if (_i == 0) {
		roll_back(10, 10);
	} else if (_i == 1) {
		ck_assert(txlog_discard_open(log_, &err));
	} else if (_i == 2) {
		log_->inline_max = UINT64_MAX;
		commit(10, 1);
	} else {
		txlog_early_break(early);
	}
	ck_assert_int_eq(read_what_is_there(early, &end), 0);
	ck_assert_int_eq(end, TXLOG_EARLY_GONE);
	txlog_early_close(early);
}
END_TEST

/* One at a time, each once; an offer that nobody took ends with its transaction. */
START_TEST(the_next_one_is_offered_when_it_is_given_back)
{
	rows(10, true, 10, 2 * ROWS_A_BLOCK);
	rows(20, true, 20, 2 * ROWS_A_BLOCK);
	TxLogEarly *early = take_offer(10);
	rows(20, false, 20, ROWS_A_BLOCK);
	ck_assert(!txlog_early_offered(log_));
	txlog_early_close(early);
	rows(10, false, 10, ROWS_A_BLOCK);
	ck_assert(!txlog_early_offered(log_));
	rows(20, false, 20, ROWS_A_BLOCK);
	ck_assert(txlog_early_offered(log_));
	commit(20, 1);
	ck_assert(!txlog_early_offered(log_));
	ck_assert_ptr_null(txlog_early_take(log_));
	commit(10, 2);
}
END_TEST

static Suite *
make(void)
{
	Suite *suite = suite_create("txlog early");
	TCase *tcase = tcase_create("txlog early");

	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_add_test(tcase, read_beside_the_writer_to_its_end);
	tcase_add_test(tcase, a_cut_ends_it_only_where_it_was_read);
	tcase_add_loop_test(tcase, it_is_gone_with_its_file, 0, 4);
	tcase_add_test(tcase, the_next_one_is_offered_when_it_is_given_back);
	suite_add_tcase(suite, tcase);
	return suite;
}

TEST_SUITE(make)
