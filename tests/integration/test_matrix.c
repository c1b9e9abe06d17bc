/*
 * Every major as a source, the newer ones as targets: the whole schema with all
 * types, copied and followed under a random writer, cut over, compared row by row.
 */
#include <check.h>

#include "tests/harness/skip.h"
#include "tests/integration/move.h"
#include "tests/unit/runner.h"

static const struct {
	int source;
	int target;
} pairs[] = {
	{12, 15}, {13, 16}, {14, 17}, {15, 15}, {15, 17}, {16, 18}, {17, 18}, {18, 18}, {18, 15},
};
enum { PAIRS = sizeof(pairs) / sizeof(pairs[0]) };

/* So that what is not quite small is streamed before its commit, beside the copy, too. */
static const char *
stream_early(int major)
{
	return major >= 14 ? "logical_decoding_work_mem = '64kB'\n" : NULL;
}

START_TEST(moves_under_load)
{
	Move m;

	TEST_NEEDS_MAJOR(pairs[_i].source);
	TEST_NEEDS_MAJOR(pairs[_i].target);
	move_open(&m, &(MoveOptions){.source_major = pairs[_i].source,
	                             .target_major = pairs[_i].target,
	                             .source_conf = stream_early(pairs[_i].source),
	                             .types = true});
	workload_wait_commits(m.writer, 20, 30);
	move_run(&m);
	pgbaton_wait_state(m.p, "following", 90);
	workload_wait_commits(m.writer, 200, 30);
	move_cutover(&m);
	move_check(&m);
	move_close(&m);
}
END_TEST

static Suite *
make(void)
{
	Suite *suite = suite_create("matrix");
	TCase *tcase = tcase_create("pairs");

	tcase_add_loop_test(tcase, moves_under_load, 0, PAIRS);
	suite_add_tcase(suite, tcase);
	return suite;
}
TEST_SUITE(make)
