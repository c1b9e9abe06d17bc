/*
 * spawn.h: fork and exec, for the harness itself.
 */
#ifndef PGBATON_TESTS_HARNESS_SPAWN_H
#define PGBATON_TESTS_HARNESS_SPAWN_H

#include <stdbool.h>
#include <sys/types.h>

typedef struct {
	const char *const *argv; /* argv[0] is looked up on PATH */
	const char *const *env;  /* "KEY=VALUE" added to ours; or NULL */
	int out_fd;
	int err_fd;
	bool as_server_user; /* as root: become the user that runs the servers */
	bool new_session;    /* setsid: signals to our group do not reach it */
} Spawn;

/* Ends the test when fork fails; an exec that fails is exit code 127. */
pid_t spawn(const Spawn *what);
/* Waits; exit code, or 128 + signal. */
int spawn_wait(pid_t pid);
/* Runs it to its end with stdout and stderr in one text (the caller frees). */
int spawn_run(const char *const argv[], bool as_server_user, char **out);

/* The user that runs the servers: ours, or postgres/nobody when we are root. */
uid_t server_uid(void);
gid_t server_gid(void);

/* The whole file, terminated; NULL when it cannot be read. The caller frees. */
char *file_read(const char *path);

#endif
