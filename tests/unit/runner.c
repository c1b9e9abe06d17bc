#include "tests/unit/runner.h"

#include <stdlib.h>

#include "tests/harness/install.h"

enum { MAX_SUITES = 64 };

static SuiteMaker makers[MAX_SUITES];
static int count;

void
runner_add(SuiteMaker make)
{
	if (count == MAX_SUITES)
		abort();
	makers[count++] = make;
}

/* Below HOME it would be lost to those who come after a test of connection defaults, which sets HOME. */
static void
keep_cache_dir(void)
{
	char *cache = install_cache_dir();

	setenv("PGBATON_CACHE", cache, 1);
	free(cache);
}

int
main(void)
{
	SRunner *runner = srunner_create(NULL);

	keep_cache_dir();

	/* Limits are there for tests that hang, not for a sanitizer on a busy machine:
	 * Check's 4 s are far too few, and what a test case sets itself is tripled. */
	setenv("CK_DEFAULT_TIMEOUT", "120", 0);
	setenv("CK_TIMEOUT_MULTIPLIER", "3", 0);
	for (int i = 0; i < count; i++)
		srunner_add_suite(runner, makers[i]());
	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
