/* What is expected of a copy, and how long it takes: arithmetic on made-up tables. */
#include <check.h>
#include <math.h>
#include <string.h>

#include "apply/care/pace.h"
#include "tests/unit/runner.h"

enum { MB = 1000000 };

static void
assert_near(double value, double expected)
{
	ck_assert_msg(fabs(value - expected) < 1e-6 * (1 + fabs(expected)), "%g, not %g", value,
	              expected);
}

/* ---- expectation ---- */

START_TEST(tables_are_expected_by_their_rows)
{
	Table tables[] = {
		/* half of its disk is dead rows: 100 bytes a row, by its own rows so far */
		{.bytes = 40 * MB,
	     .rows_estimate = 200000,
	     .state = TABLE_COPYING,
	     .copied_rows = 50000,
	     .copied_bytes = 5 * MB},
		/* in: what it was */
		{.bytes = 10 * MB,
	     .rows_estimate = 1,
	     .state = TABLE_COPIED,
	     .copied_rows = 9,
	     .copied_bytes = 5 * MB},
		/* by the ratio of those two: 25 of 50 */
		{.bytes = 8 * MB, .rows_estimate = 100, .state = TABLE_QUEUED},
		/* no estimate, and few rows: the ratio; but never less than is there */
		{.bytes = 2 * MB,
	     .rows_estimate = -1,
	     .state = TABLE_COPYING,
	     .copied_rows = 5000,
	     .copied_bytes = 3 * MB},
		{.bytes = 2 * MB,
	     .rows_estimate = 1000,
	     .state = TABLE_COPYING,
	     .copied_rows = 999,
	     .copied_bytes = 100},
		/* more rows than the planner thought */
		{.bytes = 0,
	     .rows_estimate = 1000,
	     .state = TABLE_COPYING,
	     .copied_rows = 2000,
	     .copied_bytes = MB},
	};
	const uint64_t expected[] = {20 * MB, 5 * MB, 4 * MB, 3 * MB, MB, MB};
	Catalog catalog = {.tables = tables, .table_count = 6};

	pace_expect(&catalog);
	for (size_t i = 0; i < 6; i++)
		ck_assert_msg(tables[i].expected_bytes == expected[i], "table %zu: %llu", i,
		              (unsigned long long)tables[i].expected_bytes);
}
END_TEST

START_TEST(before_anything_the_disk_is_expected)
{
	Table tables[] = {{.bytes = 7 * MB, .rows_estimate = 10, .state = TABLE_QUEUED}};
	Catalog catalog = {.tables = tables, .table_count = 1};
	Catalog none = {.table_count = 0};

	pace_expect(&none);
	pace_expect(&catalog);
	ck_assert_uint_eq(tables[0].expected_bytes, 7 * MB);
}
END_TEST

/* ---- time ---- */

/* Four workers for ten seconds: 10 MB of rows a second each, then indexes at 5. */
static void
fill(Pace *pace, bool indexes)
{
	*pace = (Pace){0};
	for (int i = 0; i <= 10; i++)
		pace_add(pace, &(PaceSample){.at_ms = 1000 * i,
		                             .copied = 40.0 * MB * i,
		                             .copying_s = 4.0 * i,
		                             .indexed = indexes ? 20.0 * MB * i : 0,
		                             .indexing_s = indexes ? 4.0 * i : 0});
}

START_TEST(work_is_shared_by_the_workers)
{
	Pace pace;
	const char *why;
	PaceLeft left = {.copy = 400.0 * MB, .copy_longest = 40 * MB, .jobs = 4};

	fill(&pace, false);
	assert_near(pace_rate(&pace), 40 * MB);
	assert_near(pace_copy_eta(&pace, &left, &why), 10);
	assert_near(pace_eta(&pace, &left, &why), 10);
	ck_assert_ptr_null(why);
	/* One table that cannot be divided goes on when the others are in. */
	left.copy_longest = 300.0 * MB;
	assert_near(pace_copy_eta(&pace, &left, &why), 30);
}
END_TEST

START_TEST(indexes_count_once_they_were_measured)
{
	Pace pace;
	const char *why;
	PaceLeft left = {.copy = 400.0 * MB, .index = 200.0 * MB, .jobs = 4};

	fill(&pace, false);
	assert_near(pace_copy_eta(&pace, &left, &why), 10);
	assert_near(pace_eta(&pace, &left, &why), -1);
	ck_assert_str_eq(why, "too little was indexed to tell");
	fill(&pace, true);
	assert_near(pace_eta(&pace, &left, &why), 20);
	left.index_longest = 150.0 * MB;
	assert_near(pace_eta(&pace, &left, &why), 30);
	left.copy = 0; /* all rows are in */
	assert_near(pace_eta(&pace, &left, &why), 30);
	left.index = 0;
	assert_near(pace_eta(&pace, &left, &why), 0);
}
END_TEST

START_TEST(what_is_not_known_is_not_told)
{
	Pace pace = {0};
	const char *why;
	PaceLeft left = {.copy = 1, .jobs = 1};

	assert_near(pace_copy_eta(&pace, &left, &why), -1);
	ck_assert_str_eq(why, "too little was copied to tell");
	assert_near(pace_rate(&pace), 0);
	/* A second of one worker is too little, too. */
	pace_add(&pace, &(PaceSample){.at_ms = 0});
	pace_add(&pace, &(PaceSample){.at_ms = 1000, .copied = MB, .copying_s = 1});
	assert_near(pace_copy_eta(&pace, &left, &why), -1);
	assert_near(pace_rate(&pace), 0);

	fill(&pace, true);
	left.held = "a standby is behind";
	assert_near(pace_eta(&pace, &left, &why), -1);
	ck_assert_str_eq(why, "a standby is behind");
	/* Nothing is left: nothing is waited for. */
	left = (PaceLeft){.jobs = 1, .held = "held"};
	assert_near(pace_eta(&pace, &left, &why), 0);
}
END_TEST

/* A table that begins anew takes its bytes back. */
START_TEST(a_fresh_start_is_no_rate)
{
	Pace pace;
	const char *why;
	PaceLeft left = {.copy = 100.0 * MB, .jobs = 1};

	fill(&pace, false);
	pace_add(&pace, &(PaceSample){.at_ms = 11000, .copied = 0, .copying_s = 44});
	assert_near(pace_rate(&pace), 0);
	assert_near(pace_copy_eta(&pace, &left, &why), 10);
}
END_TEST

/* What is older than the samples kept has no say. */
START_TEST(only_the_last_minute_counts)
{
	Pace pace;
	const char *why;
	PaceLeft left = {.copy = 10.0 * MB, .jobs = 1};

	fill(&pace, false);
	for (int i = 1; i <= PACE_SAMPLES; i++)
		pace_add(&pace, &(PaceSample){.at_ms = 10000 + 1000 * i,
		                              .copied = 400.0 * MB + 1.0 * MB * i,
		                              .copying_s = 40 + i});
	assert_near(pace_rate(&pace), MB);
	assert_near(pace_copy_eta(&pace, &left, &why), 10);
}
END_TEST

START_TEST(lag_is_gained_or_not)
{
	Pace pace = {0};
	const char *why;

	assert_near(pace_lag_eta(&pace, 0, &why), -1);
	/* 5 MB a second applied, 1 MB a second new, 100 MB behind at the start. */
	for (uint64_t i = 0; i <= 10; i++)
		pace_add(&pace, &(PaceSample){.at_ms = 1000 * (int64_t)i,
		                              .applied = lsn_make(1000 * (uint64_t)MB + i * 5 * MB),
		                              .source = lsn_make(1100 * (uint64_t)MB + i * MB)});
	assert_near(pace_lag_eta(&pace, 0, &why), 15);
	assert_near(pace_lag_eta(&pace, 20 * MB, &why), 10);
	assert_near(pace_lag_eta(&pace, 60 * MB, &why), 0);

	pace = (Pace){0};
	for (uint64_t i = 0; i <= 10; i++)
		pace_add(&pace, &(PaceSample){.at_ms = 1000 * (int64_t)i,
		                              .applied = lsn_make(1000 * (uint64_t)MB + i * MB),
		                              .source = lsn_make(1100 * (uint64_t)MB + i * MB)});
	assert_near(pace_lag_eta(&pace, 0, &why), -1);
	ck_assert_str_eq(why, "changes come as fast as they are applied");
}
END_TEST

/* ---- an index ---- */

START_TEST(an_index_has_its_share)
{
	static const struct {
		IndexProgress progress;
		double share;
	} cases[] = {
		{{"initializing", 5, 10, 0, 0}, 0},
		{{"waiting for writers before build", 10, 10, 0, 0}, 0},
		{{"building index: scanning table", 0, 0, 0, 0}, 0},
		{{"building index: scanning table", 25, 100, 0, 0}, 0.125},
		{{"building index: scanning table", 101, 100, 0, 0}, 0.5},
		{{"building index: sorting live tuples", 100, 100, 0, 0}, 0.5},
		{{"building index: loading tuples in tree", 0, 0, 0, 0}, 0.6},
		{{"building index: loading tuples in tree", 0, 0, 50, 100}, 0.8},
		{{"building index: loading tuples in tree", 0, 0, 100, 100}, 1},
		{{"building index", 30, 100, 0, 0}, 0.3},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		assert_near(pace_index_share(&cases[i].progress), cases[i].share);
}
END_TEST

/* The last index, nearly done, is not all of its time away. */
START_TEST(of_running_indexes_the_rest_is_left)
{
	double done = 100, longest = 30;

	pace_add_index(200, 0.25, &done, &longest);
	assert_near(done, 150);
	assert_near(longest, 150);
	pace_add_index(1000, 0.9, &done, &longest);
	assert_near(done, 1050);
	assert_near(longest, 150);
}
END_TEST

static Suite *
make_pace(void)
{
	Suite *suite = suite_create("pace");
	TCase *tc = tcase_create("pace");

	tcase_add_test(tc, tables_are_expected_by_their_rows);
	tcase_add_test(tc, before_anything_the_disk_is_expected);
	tcase_add_test(tc, work_is_shared_by_the_workers);
	tcase_add_test(tc, indexes_count_once_they_were_measured);
	tcase_add_test(tc, what_is_not_known_is_not_told);
	tcase_add_test(tc, a_fresh_start_is_no_rate);
	tcase_add_test(tc, only_the_last_minute_counts);
	tcase_add_test(tc, lag_is_gained_or_not);
	tcase_add_test(tc, an_index_has_its_share);
	tcase_add_test(tc, of_running_indexes_the_rest_is_left);
	suite_add_tcase(suite, tc);
	return suite;
}

TEST_SUITE(make_pace)
