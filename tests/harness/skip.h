/*
 * skip.h: a test that cannot run here says so, and is counted.
 *
 *   START_TEST(from_13)
 *       TEST_NEEDS_MAJOR(13);
 *
 * prints "SKIP: NAME: no server of major 13" and returns from the test. With
 * CI=true it is a failure instead: there everything has to run.
 */
#ifndef PGBATON_TESTS_HARNESS_SKIP_H
#define PGBATON_TESTS_HARNESS_SKIP_H

#include "common/attr.h"
#include "tests/harness/cluster.h"

void test_skip(const char *test, const char *fmt, ...) PRINTF_LIKE(2, 3);

#define TEST_SKIP(...)                    \
	do {                                  \
		test_skip(__func__, __VA_ARGS__); \
		return;                           \
	} while (0)

#define TEST_NEEDS_MAJOR(major)                                                         \
	do {                                                                                \
		if (!cluster_available(major))                                                  \
			TEST_SKIP("no server of major %d (tools/deps --test fetches it)", (major)); \
	} while (0)

#endif
