/*
 * child.h: runs a program to its end and keeps what it said.
 *
 * posix_spawn with stdin from /dev/null, no descriptor of ours but its two pipes, and
 * default signals. The program is found by its path, never by a shell. A stop ends it:
 * SIGTERM, and SIGKILL five seconds later; it is always reaped before the return.
 */
#ifndef PGBATON_APPLY_SCHEMA_CHILD_H
#define PGBATON_APPLY_SCHEMA_CHILD_H

#include <stdbool.h>

#include "common/bytes.h"
#include "common/error.h"
#include "common/stop.h"

typedef struct {
	const char *const *argv; /* argv[0] is the path; NULL-terminated; no secrets */
	const char *const *envp; /* NULL: as ours */
	const Stop *stop;        /* may be NULL */
} ChildRun;

/* out: what it wrote to stdout (at most 1 GiB, as much as one query may have); NULL:
 * dropped. Any exit but 0 is ERROR_CONFIG with the last lines of its stderr. */
MUST_CHECK bool child_run(const ChildRun *run, Buffer *out, Error *err);

#endif
