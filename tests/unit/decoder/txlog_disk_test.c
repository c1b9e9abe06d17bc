#include <errno.h>
#include <stdlib.h>

#include "common/clock.h"
#include "common/log.h"
#include "tests/unit/decoder/messages.h"
#include "tests/unit/decoder/txlog_fixture.h"
#include "tests/unit/runner.h"

/* The log on a disk that is behind, full, or failing. */

static char *directory;

static void
setup(void)
{
	log_set_level(LOG_ERROR); /* cut tails are what these tests make */
	directory = fixture_directory();
}

static void
teardown(void)
{
	fixture_remove(directory);
}

static TxLogState
state_of(TxLog *log)
{
	TxLogState state;
	txlog_state(log, &state);
	return state;
}

/* ---- a disk that is behind ---- */

/* Appends transactions until the receiver would stop reading; returns the last. */
static uint32_t
fill_until_behind(TxLog *log)
{
	uint32_t n = 1;
	for (; !txlog_behind(log); n++) {
		fixture_transaction(log, n, 20, 5000);
		Error err = ERROR_INIT;
		ck_assert_msg(txlog_publish(log, &err), "%s", err.message);
		ck_assert_uint_lt(n, 1000);
	}
	return n - 1;
}

/* What waits for the disk is published, as the confirmation has to wait for it (P6), but
 * seen by no reader (T2), and not synced (T7). */
START_TEST(what_waits_for_the_disk_is_not_seen)
{
	Error err = ERROR_INIT;
	FixtureDisk disk = FIXTURE_DISK;
	FixtureProgress p = FIXTURE_PROGRESS;
	TxLog *log = fixture_open_on(&disk, directory);
	fixture_disk_hold(&disk);
	uint32_t last = fill_until_behind(log);
	fixture_disk_wait_held(&disk);
	TxLogState state = state_of(log);
	ck_assert_uint_eq(state.last_end.v, FIXTURE_END(last));
	ck_assert_uint_eq(state.synced_end.v, 0);
	ck_assert(!state.all_synced);
	ck_assert_uint_eq(fixture_read_all(log, LSN_INVALID).transactions, 0);

	/* The callback says when there is room again. */
	txlog_on_progress(log, fixture_on_progress, &p);
	fixture_disk_let_go(&disk, 0);
	pthread_mutex_lock(&p.lock);
	while (txlog_behind(log))
		pthread_cond_wait(&p.cond, &p.lock);
	pthread_mutex_unlock(&p.lock);
	ck_assert_msg(txlog_sync(log, deadline_in_ms(20000), &err), "%s", err.message);
	ck_assert(!txlog_behind(log));
	state = state_of(log);
	ck_assert_uint_eq(state.synced_end.v, FIXTURE_END(last));
	ck_assert(state.all_synced);
	FixtureSeen seen = fixture_read_all(log, LSN_INVALID);
	ck_assert_uint_eq(seen.transactions, last);
	ck_assert_uint_eq(seen.rows, 20 * (uint64_t)last);
	txlog_on_progress(log, NULL, NULL);
	txlog_close(log);
}
END_TEST

/* The writer hears it at its next call, whoever waits hears it at once, and the log ends
 * with the last block before it. */
START_TEST(a_disk_that_fails_behind_the_writer)
{
	Error err = ERROR_INIT;
	Error again = ERROR_INIT;
	FixtureProgress p = FIXTURE_PROGRESS;
	FixtureDisk disk = FIXTURE_DISK;
	TxLog *log = fixture_open_on(&disk, directory);
	fixture_transaction(log, 1, 20, 5000);
	fixture_publish(log);
	fixture_disk_hold(&disk);
	for (uint32_t n = 2; n <= 20; n++)
		fixture_transaction(log, n, 20, 5000);
	txlog_on_progress(log, fixture_on_progress, &p);
	fixture_disk_wait_held(&disk);
	fixture_disk_let_go(&disk, ENOSPC);
	pthread_mutex_lock(&p.lock);
	while (!txlog_failed(log, NULL))
		pthread_cond_wait(&p.cond, &p.lock);
	pthread_mutex_unlock(&p.lock);

	ck_assert(!txlog_publish(log, &err));
	ck_assert_int_eq(err.class, ERROR_STORAGE);
	ck_assert_ptr_nonnull(strstr(err.message, "0000000000000001.log: write at offset"));
	ck_assert_ptr_nonnull(strstr(err.message, "No space left"));
	ck_assert_ptr_nonnull(strstr(err.hint, "--log-max-bytes"));
	ck_assert(!txlog_sync(log, 0, &again));
	ck_assert_str_eq(again.message, err.message);
	ck_assert(!txlog_discard_open(log, &again));
	ck_assert_uint_eq(state_of(log).synced_end.v <= FIXTURE_END(1), 1);
	ck_assert_uint_eq(fixture_read_all(log, LSN_INVALID).last, 1);
	txlog_on_progress(log, NULL, NULL);
	txlog_close(log);

	/* Half of what failed is in the file: a torn tail. Of the blocks that went together
	 * some are whole: what is in them was received, and is there again. */
	log = fixture_open(directory);
	FixtureSeen seen = fixture_read_all(log, LSN_INVALID);
	ck_assert_uint_ge(seen.transactions, 1);
	ck_assert_uint_lt(seen.transactions, 20);
	ck_assert_uint_eq(seen.last, seen.transactions);
	ck_assert_uint_eq(seen.rows, 20 * seen.transactions);
	ck_assert_uint_eq(state_of(log).last_commit.v, FIXTURE_COMMIT(seen.last));
	txlog_close(log);
}
END_TEST

/* ---- faults ---- */

/* Appends until something fails; the log must say so for ever, and what was
 * synced must be there afterwards. Returns false when nothing failed. */
static bool
run_with_fault(FixtureFault *fault)
{
	Error err = ERROR_INIT;
	TxLogOptions options = {
		.directory = directory, .identity = "fixture", .segment_bytes = 64 * 1024};
	TxLogFaults faults = {fixture_fault, fault};
	TxLog *log = txlog_open_with_faults(&options, faults, &err);
	Lsn synced = LSN_INVALID;
	Buffer buf = BUFFER_INIT;
	bool ok = log != NULL;

	for (uint32_t n = 1; ok && n <= 30; n++) {
		buffer_reset(&buf);
		message_begin(&buf, FIXTURE_COMMIT(n), n);
		ok = txlog_append(log, buffer_slice(&buf), &err);
		for (uint32_t i = 0; ok && i < (n % 10 == 0 ? 100 : 2); i++) {
			buffer_reset(&buf);
			message_insert_filler(&buf, 0, 77, i, 5000, (uint8_t)('a' + n % 26));
			ok = txlog_append(log, buffer_slice(&buf), &err);
		}
		if (ok && n % 7 == 0) {
			ok = txlog_discard_open(log, &err);
			continue;
		}
		buffer_reset(&buf);
		message_commit(&buf, FIXTURE_COMMIT(n), FIXTURE_END(n));
		ok = ok && txlog_append(log, buffer_slice(&buf), &err) && txlog_publish(log, &err) &&
		     txlog_sync(log, deadline_in_ms(20000), &err);
		if (ok)
			synced = state_of(log).synced_end;
	}
	buffer_free(&buf);
	if (!ok) {
		Error again = ERROR_INIT;
		ck_assert_int_eq(err.class, ERROR_STORAGE);
		if (log != NULL) {
			ck_assert(txlog_failed(log, &again));
			ck_assert_str_eq(again.message, err.message);
			ck_assert(!txlog_publish(log, &again));
			/* What was published stays readable. */
			ck_assert_uint_ge(FIXTURE_END(fixture_read_all(log, LSN_INVALID).last), synced.v);
			ck_assert_uint_le(state_of(log).synced_end.v, state_of(log).last_end.v);
		}
	}
	txlog_close(log);

	log = fixture_open(directory);
	FixtureSeen seen = fixture_read_all(log, LSN_INVALID);
	ck_assert_uint_ge(FIXTURE_END(seen.last), synced.v);
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

START_TEST(a_full_disk_is_named_with_file_and_hint)
{
	Error err = ERROR_INIT;
	FixtureFault fault = {1, ENOSPC, "write", 0};
	TxLogOptions options = {.directory = directory, .identity = "fixture"};
	TxLog *log = txlog_open_with_faults(&options, (TxLogFaults){fixture_fault, &fault}, &err);
	fixture_transaction(log, 1, 1, 10);
	ck_assert(!txlog_publish(log, &err));
	ck_assert_int_eq(err.class, ERROR_STORAGE);
	ck_assert_ptr_nonnull(strstr(err.message, "0000000000000001.log"));
	ck_assert_ptr_nonnull(strstr(err.message, "No space left"));
	ck_assert_ptr_nonnull(strstr(err.hint, "--log-max-bytes"));
	txlog_close(log);
}
END_TEST

static Suite *
make(void)
{
	Suite *suite = suite_create("txlog disk");
	TCase *tcase = tcase_create("disk");
	tcase_set_timeout(tcase, 240);
	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_add_test(tcase, what_waits_for_the_disk_is_not_seen);
	tcase_add_test(tcase, a_disk_that_fails_behind_the_writer);
	tcase_add_test(tcase, each_operation_fails_once);
	tcase_add_test(tcase, a_full_disk_is_named_with_file_and_hint);
	suite_add_tcase(suite, tcase);
	return suite;
}

TEST_SUITE(make)
