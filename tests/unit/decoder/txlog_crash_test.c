#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/log.h"
#include "common/memory.h"
#include "tests/unit/decoder/messages.h"
#include "tests/unit/decoder/txlog_fixture.h"
#include "tests/unit/runner.h"

/* What a crash, a full disk or a failing one may leave on disk (T6). */

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

static uint32_t
last_after_open(void)
{
	TxLog *log = fixture_open(directory);
	TxLogState state;
	txlog_state(log, &state);
	FixtureSeen seen = fixture_read_all(log, LSN_INVALID);
	ck_assert_uint_eq(FIXTURE_COMMIT(seen.last), state.last_commit.v);
	ck_assert_uint_eq(seen.transactions, seen.last); /* none is missing */
	txlog_close(log);
	return seen.last;
}

/* ends[n]: size of the file when transaction n had been published. */
enum { LAST = 8 };

static char *
make_log(uint64_t ends[LAST + 1], bool compress)
{
	char *path = fixture_path(directory, 1);
	TxLog *log = fixture_open_with(directory, 0, 0, compress);
	ends[0] = fixture_size(path);
	for (uint32_t n = 1; n <= LAST; n++) {
		/* The last but one is written in several parts. */
		bool big = n == LAST - 1;
		fixture_transaction(log, n, big ? 40 : 2, big ? 10000 : 20);
		fixture_publish(log);
		ends[n] = fixture_size(path);
	}
	txlog_close(log);
	ck_assert_uint_eq(fixture_size(path), ends[LAST]);
	return path;
}

static uint32_t
whole_at(const uint64_t ends[LAST + 1], uint64_t size)
{
	uint32_t n = 0;
	while (n < LAST && ends[n + 1] <= size)
		n++;
	return n;
}

START_TEST(cut_at_every_byte)
{
	uint64_t ends[LAST + 1];
	char *path = make_log(ends, _i == 1);
	Buffer image = fixture_load(path);
	/* All of the small transactions; of the big one every 997th byte. */
	for (uint64_t size = ends[0]; size <= ends[LAST];
	     size += size > ends[LAST - 2] + 200 && size + 1000 < ends[LAST - 1] ? 9973 : 1) {
		fixture_store(path, image.data, size);
		ck_assert_uint_eq(last_after_open(), whole_at(ends, size));
		ck_assert_uint_eq(fixture_size(path), ends[whole_at(ends, size)]);
	}
	buffer_free(&image);
	free(path);
}
END_TEST

START_TEST(after_a_cut_it_goes_on)
{
	uint64_t ends[LAST + 1];
	char *path = make_log(ends, false);
	ck_assert_int_eq(truncate(path, (off_t)ends[LAST] - 1), 0);
	TxLog *log = fixture_open(directory);
	ck_assert(!txlog_has(log, lsn_make(FIXTURE_COMMIT(LAST))));
	fixture_transaction(log, LAST, 2, 20); /* sent again */
	fixture_publish(log);
	txlog_close(log);
	ck_assert_uint_eq(last_after_open(), LAST);
	free(path);
}
END_TEST

START_TEST(a_flipped_byte_in_the_middle_is_damage)
{
	uint64_t ends[LAST + 1];
	char *path = make_log(ends, _i == 1);
	for (uint64_t at = ends[1]; at < ends[3]; at++) {
		fixture_flip(path, at);
		fixture_open_fails(directory, ERROR_STORAGE, "0000000000000001.log, offset");
		fixture_flip(path, at);
	}
	ck_assert_uint_eq(last_after_open(), LAST);
	free(path);
}
END_TEST

START_TEST(a_flipped_byte_at_the_very_end_is_cut)
{
	uint64_t ends[LAST + 1];
	char *path = make_log(ends, false);
	fixture_flip(path, ends[LAST] - 1);
	ck_assert_uint_eq(last_after_open(), LAST - 1);
	free(path);
}
END_TEST

START_TEST(a_flipped_byte_in_the_header_is_damage)
{
	uint64_t ends[LAST + 1];
	char *path = make_log(ends, false);
	for (uint64_t at = 0; at < ends[0]; at++) {
		fixture_flip(path, at);
		fixture_open_fails(directory, ERROR_STORAGE, "0000000000000001.log");
		fixture_flip(path, at);
	}
	free(path);
}
END_TEST

START_TEST(an_empty_file_is_damage)
{
	uint64_t ends[LAST + 1];
	char *path = make_log(ends, false);
	ck_assert_int_eq(truncate(path, 0), 0);
	fixture_open_fails(directory, ERROR_STORAGE, "not a segment");
	free(path);
}
END_TEST

START_TEST(zeros_at_the_end_are_cut)
{
	uint64_t ends[LAST + 1];
	char *path = make_log(ends, false);
	ck_assert_int_eq(truncate(path, (off_t)ends[LAST] + 3000000), 0);
	ck_assert_uint_eq(last_after_open(), LAST);
	ck_assert_uint_eq(fixture_size(path), ends[LAST]);
	free(path);
}
END_TEST

/* Blocks of another place are no blocks here: their offsets differ. */
START_TEST(old_bytes_behind_the_end_are_cut)
{
	uint64_t ends[LAST + 1];
	char *path = make_log(ends, false);
	Buffer image = fixture_load(path);
	Buffer twice = BUFFER_INIT;
	buffer_put(&twice, image.data, image.len);
	buffer_put(&twice, image.data + ends[0], image.len - ends[0]);
	fixture_store(path, twice.data, twice.len);
	ck_assert_uint_eq(last_after_open(), LAST);
	buffer_free(&twice);
	buffer_free(&image);
	free(path);
}
END_TEST

static void
make_segments(void)
{
	TxLog *log = fixture_open_with(directory, 64 * 1024, 0, false);
	for (uint32_t n = 1; n <= 40; n++)
		fixture_transaction(log, n, 2, 5000);
	fixture_publish(log);
	txlog_close(log);
}

START_TEST(a_missing_segment_is_named)
{
	make_segments();
	char *path = fixture_path(directory, 3);
	ck_assert_int_eq(unlink(path), 0);
	fixture_open_fails(directory, ERROR_STORAGE, "0000000000000003.log is missing");
	free(path);
}
END_TEST

/* Older segments are not read at open; the reader finds what is wrong. */
START_TEST(damage_in_an_old_segment_stops_the_reader)
{
	Error err = ERROR_INIT;
	Slice m;
	TxLogNext next;
	make_segments();
	char *path = fixture_path(directory, 2);
	if (_i == 0)
		fixture_flip(path, fixture_size(path) / 2);
	else
		ck_assert_int_eq(truncate(path, (off_t)fixture_size(path) - 1), 0);
	TxLog *log = fixture_open(directory);
	TxLogReader *reader = txlog_reader_open(log, LSN_INVALID, &err);
	ck_assert_ptr_nonnull(reader);
	while ((next = txlog_reader_next(reader, NULL, 1, &m, &err)) == TXLOG_MESSAGE)
		;
	ck_assert_int_eq(next, TXLOG_ERROR);
	ck_assert_int_eq(err.class, ERROR_STORAGE);
	ck_assert_ptr_nonnull(strstr(err.message, "0000000000000002.log, offset"));
	ck_assert_ptr_nonnull(strstr(err.context, "last good commit 0/"));
	/* It stays where it is: a second look does not skip. */
	ck_assert_int_eq(txlog_reader_next(reader, NULL, 1, &m, &err), TXLOG_ERROR);
	txlog_reader_close(reader);
	txlog_close(log);
	free(path);
}
END_TEST

START_TEST(a_half_made_segment_is_forgotten)
{
	make_segments();
	char *path = mem_printf("%s/%016x.tmp", directory, 99);
	fixture_store(path, (const uint8_t *)"PGBAT", 5);
	TxLog *log = fixture_open(directory);
	ck_assert_uint_eq(fixture_read_all(log, LSN_INVALID).transactions, 40);
	ck_assert_int_ne(access(path, F_OK), 0);
	txlog_close(log);
	free(path);
}
END_TEST

typedef struct {
	int begins;
	int torn;
	uint64_t torn_at;
} Walked;

static bool
count_visit(void *arg, const char *segment UNUSED, uint64_t offset, Slice message)
{
	Walked *walked = arg;
	if (message.len == 0) {
		walked->torn++;
		walked->torn_at = offset;
	} else if (message.data[0] == 'B') {
		walked->begins++;
	}
	return true;
}

START_TEST(a_walk_reports_the_torn_tail_and_cuts_nothing)
{
	uint64_t ends[LAST + 1];
	Error err = ERROR_INIT;
	Walked walked = {0};
	char *path = make_log(ends, false);
	ck_assert(txlog_walk(directory, LSN_INVALID, count_visit, &walked, &err));
	ck_assert_int_eq(walked.begins, LAST);
	ck_assert_int_eq(walked.torn, 0);

	ck_assert_int_eq(truncate(path, (off_t)ends[LAST] - 1), 0);
	walked = (Walked){0};
	ck_assert(txlog_walk(directory, lsn_make(FIXTURE_COMMIT(4)), count_visit, &walked, &err));
	ck_assert_int_eq(walked.begins, LAST - 4);
	ck_assert_int_eq(walked.torn, 1);
	ck_assert_uint_eq(walked.torn_at, ends[LAST - 1]);
	ck_assert_uint_eq(fixture_size(path), ends[LAST] - 1);

	/* Beside the process that has the lock. */
	TxLog *log = fixture_open(directory);
	walked = (Walked){0};
	ck_assert(txlog_walk(directory, LSN_INVALID, count_visit, &walked, &err));
	ck_assert_int_eq(walked.begins, LAST - 1);
	txlog_close(log);
	free(path);
}
END_TEST

START_TEST(a_walk_over_segments_starts_late)
{
	Error err = ERROR_INIT;
	Walked walked = {0};
	make_segments();
	ck_assert(txlog_walk(directory, lsn_make(FIXTURE_COMMIT(31)), count_visit, &walked, &err));
	ck_assert_int_eq(walked.begins, 10);
	ck_assert(!txlog_walk("/nonexistent/log", LSN_INVALID, count_visit, &walked, &err));
	ck_assert_int_eq(err.class, ERROR_STORAGE);
}
END_TEST

static Suite *
make(void)
{
	Suite *suite = suite_create("txlog crash images");
	TCase *tcase = tcase_create("crash");
	tcase_set_timeout(tcase, 240);
	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_add_loop_test(tcase, cut_at_every_byte, 0, 2);
	tcase_add_test(tcase, after_a_cut_it_goes_on);
	tcase_add_loop_test(tcase, a_flipped_byte_in_the_middle_is_damage, 0, 2);
	tcase_add_test(tcase, a_flipped_byte_at_the_very_end_is_cut);
	tcase_add_test(tcase, a_flipped_byte_in_the_header_is_damage);
	tcase_add_test(tcase, an_empty_file_is_damage);
	tcase_add_test(tcase, zeros_at_the_end_are_cut);
	tcase_add_test(tcase, old_bytes_behind_the_end_are_cut);
	tcase_add_test(tcase, a_missing_segment_is_named);
	tcase_add_loop_test(tcase, damage_in_an_old_segment_stops_the_reader, 0, 2);
	tcase_add_test(tcase, a_half_made_segment_is_forgotten);
	tcase_add_test(tcase, a_walk_reports_the_torn_tail_and_cuts_nothing);
	tcase_add_test(tcase, a_walk_over_segments_starts_late);
	suite_add_tcase(suite, tcase);
	return suite;
}

TEST_SUITE(make)
