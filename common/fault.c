#include "common/fault.h"

#ifdef PGBATON_FAULTS

#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void
fault_point(const char *name)
{
	static atomic_int passed;
	const char *wanted = getenv("PGBATON_FAULT");
	size_t len = strlen(name);

	if (wanted == NULL || strncmp(wanted, name, len) != 0)
		return;
	if (wanted[len] != '\0' && wanted[len] != ':')
		return;

	int at = wanted[len] == ':' ? atoi(wanted + len + 1) : 1;
	if (atomic_fetch_add(&passed, 1) + 1 != at)
		return;
	while (strstr(wanted + len, ":hang") != NULL)
		pause();
	raise(strstr(wanted + len, ":stop") != NULL ? SIGSTOP : SIGKILL);
}

unsigned
fault_number(const char *variable)
{
	const char *text = getenv(variable);
	return text != NULL ? (unsigned)strtoul(text, NULL, 10) : 0;
}

#else

/* ISO C wants a declaration in every translation unit. */
typedef int fault_points_are_off;

#endif
