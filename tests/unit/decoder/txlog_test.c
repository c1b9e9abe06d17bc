#include "decoder/txlog/txlog.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "tests/unit/decoder/messages.h"
#include "tests/unit/decoder/txlog_fixture.h"
#include "tests/unit/runner.h"

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

static void
sync_log(TxLog *log)
{
	Error err = ERROR_INIT;
	ck_assert_msg(txlog_sync(log, deadline_in_ms(20000), &err), "%s", err.message);
}

static TxLogState
state_of(TxLog *log)
{
	TxLogState state;
	txlog_state(log, &state);
	return state;
}

/* Waits, by the log's own callback, until removal has come so far. */
static void
wait_segments(TxLog *log, uint64_t at_most)
{
	FixtureProgress p = FIXTURE_PROGRESS;
	txlog_on_progress(log, fixture_on_progress, &p);
	/* A repeated release is no news; publish makes the flusher look again. */
	while (state_of(log).segments > at_most) {
		pthread_mutex_lock(&p.lock);
		struct timespec until;
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_sec += 1;
		uint64_t seen = p.calls;
		while (p.calls == seen && state_of(log).segments > at_most &&
		       pthread_cond_timedwait(&p.cond, &p.lock, &until) == 0)
			;
		pthread_mutex_unlock(&p.lock);
	}
	txlog_on_progress(log, NULL, NULL);
}

START_TEST(what_goes_in_comes_out)
{
	TxLog *log = fixture_open(directory);
	fixture_transaction(log, 1, 3, 10);
	fixture_transaction(log, 2, 1, 10);
	ck_assert_uint_eq(fixture_read_all(log, LSN_INVALID).transactions, 0); /* not published */
	fixture_publish(log);
	FixtureSeen seen = fixture_read_all(log, LSN_INVALID);
	ck_assert_uint_eq(seen.transactions, 2);
	ck_assert_uint_eq(seen.rows, 4);
	sync_log(log);
	TxLogState state = state_of(log);
	ck_assert_uint_eq(state.last_commit.v, FIXTURE_COMMIT(2));
	ck_assert_uint_eq(state.last_end.v, FIXTURE_END(2));
	ck_assert_uint_eq(state.synced_end.v, FIXTURE_END(2));
	ck_assert_uint_eq(state.transactions, 2);
	txlog_close(log);

	log = fixture_open(directory);
	state = state_of(log);
	ck_assert_uint_eq(state.last_commit.v, FIXTURE_COMMIT(2));
	ck_assert_uint_eq(state.synced_end.v, FIXTURE_END(2));
	ck_assert_int_eq(state.last_commit_time_us, 800000000000000 + FIXTURE_COMMIT(2));
	fixture_transaction(log, 3, 1, 10);
	fixture_publish(log);
	ck_assert_uint_eq(fixture_read_all(log, LSN_INVALID).transactions, 3);
	txlog_close(log);
}
END_TEST

START_TEST(files_are_private)
{
	struct stat st;
	char path[256];
	snprintf(path, sizeof(path), "%s/log", directory);
	TxLog *log = fixture_open(path);
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_uint_eq(st.st_mode & 0777, 0700);
	char *segment = fixture_path(path, 1);
	ck_assert_int_eq(stat(segment, &st), 0);
	ck_assert_uint_eq(st.st_mode & 0777, 0600);
	free(segment);
	txlog_close(log);
	fixture_remove(strdup(path));
}
END_TEST

START_TEST(a_huge_transaction_is_seen_only_when_whole)
{
	TxLog *log = fixture_open_with(directory, 0, 0, _i == 1);
	fixture_transaction(log, 1, 1, 10);
	fixture_begin(log, 2);
	for (int i = 0; i < 10; i++) {
		fixture_rows(log, 2, 100, 3000);
		fixture_publish(log);
		ck_assert_uint_eq(fixture_read_all(log, LSN_INVALID).last, 1);
	}
	/* Larger than a block, and larger than what is compressed. */
	fixture_rows(log, 2, 1, 1000000);
	fixture_rows(log, 2, 1, 20000000);
	fixture_settle(log);
	ck_assert_uint_gt(state_of(log).bytes_on_disk, 20000000);
	fixture_commit(log, 2);
	fixture_transaction(log, 3, 1, 10);
	fixture_publish(log);
	FixtureSeen seen = fixture_read_all(log, LSN_INVALID);
	ck_assert_uint_eq(seen.last, 3);
	ck_assert_uint_eq(seen.rows, 1 + 1002 + 1);
	txlog_close(log);

	log = fixture_open(directory);
	ck_assert_uint_eq(fixture_read_all(log, LSN_INVALID).rows, 1 + 1002 + 1);
	txlog_close(log);
}
END_TEST

START_TEST(an_open_transaction_can_be_discarded)
{
	Error err = ERROR_INIT;
	TxLog *log = fixture_open(directory);
	fixture_transaction(log, 1, 1, 10);
	for (int big = 0; big < 2; big++) {
		fixture_begin(log, 2);
		fixture_rows(log, 2, big ? 300 : 2, 3000);
		ck_assert(txlog_discard_open(log, &err));
	}
	ck_assert(!txlog_has(log, lsn_make(FIXTURE_COMMIT(2))));
	fixture_transaction(log, 2, 5, 10); /* the server sends it again */
	fixture_publish(log);
	FixtureSeen seen = fixture_read_all(log, LSN_INVALID);
	ck_assert_uint_eq(seen.transactions, 2);
	ck_assert_uint_eq(seen.rows, 6);
	txlog_close(log);
	log = fixture_open(directory);
	ck_assert_uint_eq(fixture_read_all(log, LSN_INVALID).rows, 6);
	txlog_close(log);
}
END_TEST

/* T3, P7 */
START_TEST(a_commit_twice_is_refused)
{
	Error err = ERROR_INIT;
	Buffer buf = BUFFER_INIT;
	TxLog *log = fixture_open(directory);
	fixture_transaction(log, 5, 1, 10);
	ck_assert(txlog_has(log, lsn_make(FIXTURE_COMMIT(4))));
	ck_assert(txlog_has(log, lsn_make(FIXTURE_COMMIT(5))));
	ck_assert(!txlog_has(log, lsn_make(FIXTURE_COMMIT(6))));
	message_begin(&buf, FIXTURE_COMMIT(5), 5);
	ck_assert(!txlog_append(log, buffer_slice(&buf), &err));
	ck_assert_int_eq(err.class, ERROR_BUG);
	txlog_close(log);
	log = fixture_open(directory);
	ck_assert(txlog_has(log, lsn_make(FIXTURE_COMMIT(5))));
	txlog_close(log);
	buffer_free(&buf);
}
END_TEST

START_TEST(messages_out_of_place_are_refused)
{
	Error err = ERROR_INIT;
	Buffer buf = BUFFER_INIT;
	TxLog *log = fixture_open(directory);
	message_insert(&buf, 0, 77, "1", "x");
	ck_assert(!txlog_append(log, buffer_slice(&buf), &err));
	ck_assert_int_eq(err.class, ERROR_PROTOCOL);
	buffer_reset(&buf);
	message_commit(&buf, 0x100, 0x140);
	ck_assert(!txlog_append(log, buffer_slice(&buf), &err));
	ck_assert_int_eq(err.class, ERROR_PROTOCOL);
	fixture_begin(log, 1);
	buffer_reset(&buf);
	message_begin(&buf, 0x200, 2);
	ck_assert(!txlog_append(log, buffer_slice(&buf), &err));
	ck_assert_int_eq(err.class, ERROR_PROTOCOL);
	buffer_reset(&buf);
	message_commit(&buf, 0x300, 0x340);
	ck_assert(!txlog_append(log, buffer_slice(&buf), &err));
	ck_assert_int_eq(err.class, ERROR_PROTOCOL);
	fixture_commit(log, 1);
	txlog_close(log);
	buffer_free(&buf);
}
END_TEST

/* T4: each segment describes its relations itself. */
START_TEST(a_segment_can_be_read_on_its_own)
{
	Buffer buf = BUFFER_INIT;
	TxLog *log = fixture_open_with(directory, 64 * 1024, 0, false);
	fixture_begin(log, 1);
	message_type(&buf, 16400, "mood");
	fixture_append(log, &buf);
	buffer_reset(&buf);
	message_relation(&buf, 0, 77, "t");
	fixture_append(log, &buf);
	fixture_rows(log, 1, 1, 10);
	fixture_commit(log, 1);
	for (uint32_t n = 2; n <= 50; n++)
		fixture_transaction(log, n, 2, 5000);
	fixture_publish(log);
	uint64_t segments = state_of(log).segments;
	ck_assert_uint_gt(segments, 5);

	/* From the middle: the segment's preamble first. */
	Error err = ERROR_INIT;
	Slice m;
	TxLogReader *reader = txlog_reader_open(log, lsn_make(FIXTURE_COMMIT(30)), &err);
	ck_assert_int_eq(txlog_reader_next(reader, NULL, 1, &m, &err), TXLOG_MESSAGE);
	ck_assert_int_eq(m.data[0], 'Y');
	ck_assert_int_eq(txlog_reader_next(reader, NULL, 1, &m, &err), TXLOG_MESSAGE);
	ck_assert_int_eq(m.data[0], 'R');
	FixtureSeen seen = fixture_read(reader);
	ck_assert_uint_le(seen.first, 31);
	ck_assert_uint_gt(seen.first, 20);
	ck_assert_uint_eq(seen.last, 50);
	txlog_reader_close(reader);
	txlog_close(log);

	/* And the set is known again after a restart. */
	log = fixture_open_with(directory, 64 * 1024, 0, false);
	for (uint32_t n = 51; n <= 70; n++)
		fixture_transaction(log, n, 2, 5000);
	fixture_publish(log);
	ck_assert_uint_eq(fixture_read_all(log, lsn_make(FIXTURE_COMMIT(69))).relations, 1);
	ck_assert_uint_eq(fixture_read_all(log, LSN_INVALID).transactions, 70);
	txlog_close(log);
	buffer_free(&buf);
}
END_TEST

/* T5 */
START_TEST(release_drops_whole_segments)
{
	Error err = ERROR_INIT;
	TxLog *log = fixture_open_with(directory, 64 * 1024, 0, false);
	for (uint32_t n = 1; n <= 50; n++)
		fixture_transaction(log, n, 2, 5000);
	fixture_publish(log);
	uint64_t before = state_of(log).segments;
	uint64_t bytes = state_of(log).bytes_on_disk;
	txlog_release(log, lsn_make(FIXTURE_COMMIT(25)));
	wait_segments(log, before - 2);
	ck_assert_uint_lt(state_of(log).bytes_on_disk, bytes);
	FixtureSeen seen = fixture_read_all(log, LSN_INVALID);
	ck_assert_uint_le(seen.first, 26); /* nothing that was not released is gone */
	ck_assert_uint_eq(seen.last, 50);

	/* The gap is noticed. */
	ck_assert_ptr_null(txlog_reader_open(log, lsn_make(FIXTURE_COMMIT(3)), &err));
	ck_assert_int_eq(err.class, ERROR_STORAGE);

	/* All released: the segment being written goes too, its positions stay. */
	txlog_release(log, lsn_make(FIXTURE_COMMIT(50)));
	fixture_publish(log);
	wait_segments(log, 1);
	txlog_close(log);
	log = fixture_open(directory);
	ck_assert_uint_eq(state_of(log).last_commit.v, FIXTURE_COMMIT(50));
	ck_assert_uint_eq(state_of(log).last_end.v, FIXTURE_END(50));
	ck_assert(txlog_has(log, lsn_make(FIXTURE_COMMIT(50))));
	txlog_close(log);
}
END_TEST

START_TEST(full_counts_only_what_a_release_can_mend)
{
	TxLog *log = fixture_open_with(directory, 0, 1024 * 1024, false);
	ck_assert(!txlog_full(log));
	/* One transaction larger than the limit must get through. */
	fixture_begin(log, 1);
	fixture_rows(log, 1, 400, 5000);
	fixture_settle(log);
	ck_assert_uint_gt(state_of(log).bytes_on_disk, 1024 * 1024);
	ck_assert(!txlog_full(log));
	fixture_commit(log, 1);
	fixture_publish(log);
	ck_assert(txlog_full(log));
	txlog_release(log, lsn_make(FIXTURE_COMMIT(1)));
	ck_assert(!txlog_full(log));
	fixture_publish(log);
	wait_segments(log, 1);
	ck_assert_uint_lt(state_of(log).bytes_on_disk, 1024 * 1024);
	txlog_close(log);
}
END_TEST

/* What was handed over outlives the reader's way on; what shares its block is not (with
 * compression the first shares it with the Begin). */
START_TEST(a_large_message_is_handed_over)
{
	enum { LARGE = 300 * 1024 };
	Error err = ERROR_INIT;
	Slice m;
	uint8_t *kept = NULL;
	Slice large = SLICE_EMPTY;
	uint32_t handed = 0;
	TxLog *log = fixture_open_with(directory, 0, 0, _i == 1);
	fixture_transaction(log, 1, 2, 100);
	fixture_transaction(log, 2, 3, LARGE);
	fixture_transaction(log, 3, 1, 100);
	fixture_publish(log);
	TxLogReader *reader = txlog_reader_open(log, LSN_INVALID, &err);
	while (txlog_reader_next(reader, NULL, 1, &m, &err) == TXLOG_MESSAGE) {
		bool alone = txlog_reader_is_alone(reader, m);
		ck_assert(!alone || (m.data[0] == 'I' && m.len > LARGE));
		if (!alone)
			continue;
		handed++;
		free(kept);
		large = m;
		kept = txlog_reader_detach(reader);
		ck_assert(m.data > kept);
	}
	ck_assert_int_eq(err.class, ERROR_NONE);
	ck_assert_uint_eq(handed, _i == 0 ? 3 : 2);
	txlog_reader_close(reader);
	ck_assert_int_eq(large.data[0], 'I');
	free(kept);
	FixtureSeen seen = fixture_read_all(log, LSN_INVALID);
	ck_assert_uint_eq(seen.transactions, 3);
	ck_assert_uint_eq(seen.rows, 6);
	txlog_close(log);
}
END_TEST

START_TEST(a_reader_waits_and_is_woken)
{
	Error err = ERROR_INIT;
	Slice m;
	Stop *stop = stop_new();
	TxLog *log = fixture_open(directory);
	TxLogReader *reader = txlog_reader_open(log, LSN_INVALID, &err);
	ck_assert(!txlog_reader_ready(reader));
	int64_t start = clock_mono_ms();
	ck_assert_int_eq(txlog_reader_next(reader, stop, deadline_in_ms(30), &m, &err), TXLOG_WAIT);
	ck_assert_int_ge(clock_mono_ms() - start, 29);
	/* A wake before the wait is not lost; it ends one wait. */
	txlog_wake(log);
	ck_assert_int_eq(txlog_reader_next(reader, stop, 0, &m, &err), TXLOG_WAIT);
	fixture_transaction(log, 1, 1, 1);
	fixture_publish(log);
	ck_assert(txlog_reader_ready(reader));
	for (const char *kind = "BIC"; *kind != '\0'; kind++) {
		ck_assert_int_eq(txlog_reader_next(reader, stop, 0, &m, &err), TXLOG_MESSAGE);
		ck_assert_int_eq(m.data[0], *kind);
	}
	ck_assert(!txlog_reader_ready(reader));
	stop_request(stop);
	ck_assert_int_eq(txlog_reader_next(reader, stop, 0, &m, &err), TXLOG_WAIT);
	txlog_reader_close(reader);
	txlog_close(log);
	stop_free(stop);
}
END_TEST

START_TEST(one_process_at_a_time)
{
	char pid[32];
	TxLog *log = fixture_open(directory);
	snprintf(pid, sizeof(pid), "pid %ld", (long)getpid());
	fixture_open_fails(directory, ERROR_CONFIG, pid);
	fflush(NULL);
	pid_t child = fork();
	if (child == 0) {
		Error err = ERROR_INIT;
		TxLogOptions options = {.directory = directory, .identity = "fixture"};
		_exit(txlog_open(&options, &err) == NULL && strstr(err.message, pid) ? 0 : 1);
	}
	int status;
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	ck_assert_int_eq(status, 0);
	txlog_close(log);
}
END_TEST

START_TEST(another_migration_is_refused)
{
	Error err = ERROR_INIT;
	txlog_close(fixture_open(directory));
	TxLogOptions options = {.directory = directory, .identity = "another"};
	ck_assert_ptr_null(txlog_open(&options, &err));
	ck_assert_int_eq(err.class, ERROR_CONFIG);
	ck_assert_ptr_nonnull(strstr(err.message, "another migration"));
}
END_TEST

START_TEST(a_noted_confirmation_survives)
{
	Error err = ERROR_INIT;
	TxLog *log = fixture_open(directory);
	ck_assert_uint_eq(state_of(log).noted.v, 0);
	ck_assert(txlog_note_confirmed(log, lsn_make(0x5000), &err));
	ck_assert(txlog_note_confirmed(log, lsn_make(0x4000), &err)); /* never back */
	ck_assert(txlog_note_timeline(log, 7, LSN_INVALID, &err));
	ck_assert(txlog_note_timeline(log, 8, lsn_make(0x6000), &err));
	txlog_close(log);
	log = fixture_open(directory);
	ck_assert_uint_eq(state_of(log).noted.v, 0x5000);
	ck_assert_uint_eq(state_of(log).timeline, 8);
	/* What a timeline had beyond the place where it was left does not count on the next one. */
	ck_assert(txlog_note_timeline(log, 9, lsn_make(0x4800), &err));
	ck_assert_uint_eq(state_of(log).noted.v, 0x4800);
	txlog_close(log);
	log = fixture_open(directory);
	ck_assert_uint_eq(state_of(log).noted.v, 0x4800);
	ck_assert_uint_eq(state_of(log).timeline, 9);
	txlog_close(log);
	char path[256];
	snprintf(path, sizeof(path), "%s/confirmed", directory);
	fixture_flip(path, 3);
	fixture_open_fails(directory, ERROR_STORAGE, "\"confirmed\" is damaged");
}
END_TEST

static Suite *
make(void)
{
	Suite *suite = suite_create("txlog");
	TCase *tcase = tcase_create("txlog");
	tcase_set_timeout(tcase, 240);
	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_add_test(tcase, what_goes_in_comes_out);
	tcase_add_test(tcase, files_are_private);
	tcase_add_loop_test(tcase, a_huge_transaction_is_seen_only_when_whole, 0, 2);
	tcase_add_test(tcase, an_open_transaction_can_be_discarded);
	tcase_add_test(tcase, a_commit_twice_is_refused);
	tcase_add_test(tcase, messages_out_of_place_are_refused);
	tcase_add_test(tcase, a_segment_can_be_read_on_its_own);
	tcase_add_test(tcase, release_drops_whole_segments);
	tcase_add_test(tcase, full_counts_only_what_a_release_can_mend);
	tcase_add_loop_test(tcase, a_large_message_is_handed_over, 0, 2);
	tcase_add_test(tcase, a_reader_waits_and_is_woken);
	tcase_add_test(tcase, one_process_at_a_time);
	tcase_add_test(tcase, another_migration_is_refused);
	tcase_add_test(tcase, a_noted_confirmation_survives);
	suite_add_tcase(suite, tcase);
	return suite;
}

TEST_SUITE(make)
