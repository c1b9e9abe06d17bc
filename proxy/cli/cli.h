/*
 * cli.h: the sub-commands. Each has one function in a file of its own; argv[0]
 * is the command's name, the result the exit code.
 */
#ifndef PGBATON_PROXY_CLI_CLI_H
#define PGBATON_PROXY_CLI_CLI_H

#include <stdio.h>

#include "common/error.h"
#include "proxy/config.h"

#define PGBATON_VERSION "0.1.0"

enum {
	EXIT_DONE = 0,
	EXIT_FAILED = 1,
	EXIT_USAGE = 2,
	EXIT_CHECK = 3,
	EXIT_INTERRUPTED = 130 /* as shells show SIGINT */
};

typedef struct {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *summary; /* one line */
	const char *text;    /* what it does, when it ends, its exit codes */
} CliCommand;

extern const CliCommand cli_commands[];
extern const size_t cli_command_count;
const CliCommand *cli_command_find(const char *name);

int cmd_run(int argc, char **argv);
int cmd_check(int argc, char **argv);
int cmd_status(int argc, char **argv);
int cmd_wait(int argc, char **argv);
int cmd_sessions(int argc, char **argv);
int cmd_cutover(int argc, char **argv);
int cmd_verify(int argc, char **argv);
int cmd_failback(int argc, char **argv);
int cmd_finish(int argc, char **argv);
int cmd_cancel(int argc, char **argv);
int cmd_pause(int argc, char **argv);
int cmd_resume(int argc, char **argv);
int cmd_throttle(int argc, char **argv);
int cmd_add_table(int argc, char **argv);
int cmd_recopy(int argc, char **argv);
int cmd_log(int argc, char **argv);

/* All commands. */
void cli_help(FILE *out);
/* One command with its options. */
void cli_help_command(FILE *out, const CliCommand *command);

/*
 * The configuration of a command, or NULL with *exit_code set: 0 after --help was
 * printed, 2 after the error was.
 */
Config *cli_config(int argc, char **argv, int *exit_code);

/* The error on stderr: what, where, what to do. Returns EXIT_FAILED. */
int cli_fail(const Error *err);

#endif
