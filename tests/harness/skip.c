#include "tests/harness/skip.h"

#include <check.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void
test_skip(const char *test, const char *fmt, ...)
{
	const char *ci = getenv("CI");
	char why[512];
	va_list args;

	va_start(args, fmt);
	vsnprintf(why, sizeof(why), fmt, args);
	va_end(args);
	if (ci != NULL && strcmp(ci, "true") == 0)
		ck_abort_msg("nothing may be skipped with CI=true: %s", why);
	/* Check appends _fn to a test's name. tools/check counts these lines. */
	const char *suffix = strstr(test, "_fn");
	int len = suffix != NULL && suffix[3] == '\0' ? (int)(suffix - test) : (int)strlen(test);
	printf("SKIP: %.*s: %s\n", len, test, why);
	fflush(stdout);
}
