/* switching_report.h: what a cutover, its rehearsal or a failback has come to, on stdout. */
#ifndef PGBATON_PROXY_CLI_SWITCHING_REPORT_H
#define PGBATON_PROXY_CLI_SWITCHING_REPORT_H

#include <jansson.h>
#include <stdbool.h>

void report_switch(const json_t *status, bool ok, bool as_json);

#endif
