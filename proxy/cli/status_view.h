/* status_view.h: a status document as a page or as a line for people. */
#ifndef PGBATON_PROXY_CLI_STATUS_VIEW_H
#define PGBATON_PROXY_CLI_STATUS_VIEW_H

#include <jansson.h>
#include <stdio.h>

/* tables: how many are listed at most, a number or "all". before: an earlier document of the same
 * run, seconds ago, for rates; or NULL. */
void status_view(FILE *out, const json_t *status, const char *tables, const json_t *before,
                 double seconds);
/* One line: time, state, what matters in it. */
void status_line(FILE *out, const json_t *status, const json_t *before, double seconds);

#endif
