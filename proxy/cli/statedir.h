/*
 * statedir.h: the small files that `run` leaves in its state directory for the
 * other commands: admin.port (while it runs) and last_status.json (when it has
 * ended). The transaction log has a directory of its own below it.
 */
#ifndef PGBATON_PROXY_CLI_STATEDIR_H
#define PGBATON_PROXY_CLI_STATEDIR_H

#include <jansson.h>
#include <stdbool.h>

#include "common/error.h"

/*
 * Makes the directory (0700) where it is not there and takes its lock, so that a second
 * process does not replace the first one's files. The result is the lock's descriptor,
 * to be closed at the end; -1 on failure. Removes what an earlier run left.
 */
int statedir_open(const char *path, Error *err);
/* The status at the end of the run, replaced in one step. */
MUST_CHECK bool statedir_write_last(const char *path, const json_t *status, Error *err);
void statedir_remove_port(const char *path);

/* NULL when there is none: never ran, runs now, or was killed. */
json_t *statedir_read_last(const char *path);
/* What admin.port says; false when it is not there or is not a port. */
bool statedir_read_port(const char *path, char *host, size_t host_size, int *port);

#endif
