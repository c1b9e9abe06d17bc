/* post.h: a command that is handed over and not waited for. */
#ifndef PGBATON_PROXY_CLI_POST_H
#define PGBATON_PROXY_CLI_POST_H

/* POST /v1/COMMAND with the options of argv; prints `done` when it was accepted. The
 * exit code. */
int cli_post(int argc, char **argv, const char *command, const char *done);

#endif
