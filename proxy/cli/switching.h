/*
 * switching.h: cutover, its rehearsal and failback: asked for, waited for, reported.
 */
#ifndef PGBATON_PROXY_CLI_SWITCHING_H
#define PGBATON_PROXY_CLI_SWITCHING_H

#include "proxy/migration/migration.h"

/* COMMAND_CUTOVER (or its rehearsal, as the options say) or COMMAND_FAILBACK. */
int cli_switch(int argc, char **argv, MigrationCommand command);

#endif
