/*
 * runner.h: how a test file joins its folder's program.
 *
 *   static Suite *make(void) { ... }
 *   TEST_SUITE(make)
 *
 * The runner collects every suite that is linked in, runs each test in a
 * process of its own (CK_FORK=no for a debugger) and exits 1 on a failure. Its
 * last line is Check's own summary.
 */
#ifndef PGBATON_TESTS_UNIT_RUNNER_H
#define PGBATON_TESTS_UNIT_RUNNER_H

#include <check.h>

typedef Suite *(*SuiteMaker)(void);

void runner_add(SuiteMaker make);

#define TEST_SUITE(make)                                           \
	__attribute__((constructor)) static void register_##make(void) \
	{                                                              \
		runner_add(make);                                          \
	}

#endif
