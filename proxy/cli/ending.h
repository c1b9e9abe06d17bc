/* ending.h: what finish and cancel have in common. */
#ifndef PGBATON_PROXY_CLI_ENDING_H
#define PGBATON_PROXY_CLI_ENDING_H

#include <stdbool.h>

/* Through the running process if one answers; else, with --source and --target, from
 * here. The exit code. */
int cli_end(int argc, char **argv, bool finish);

#endif
