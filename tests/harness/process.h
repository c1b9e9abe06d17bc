/*
 * process.h: programs started by a test, with their output in files.
 *
 * A Process is killed (SIGKILL) at the latest when the test process ends
 * (watcher.h). Functions end the test with ck_abort_msg and the program's
 * output when they cannot do their work. Times are in seconds.
 */
#ifndef PGBATON_TESTS_HARNESS_PROCESS_H
#define PGBATON_TESTS_HARNESS_PROCESS_H

#include <signal.h>
#include <stdbool.h>
#include <sys/types.h>

typedef struct Process Process;

/* argv: the program (looked up on PATH) and its arguments, NULL at the end.
 * env: "KEY=VALUE" entries added to the environment, NULL at the end, or NULL.
 * Standard input is /dev/null. The strings are not kept. */
Process *process_start(const char *const argv[], const char *const env[]);
/* The exit code, or 128 + the signal that ended it. Can be asked again. */
int process_wait(Process *process, int timeout_s);
/* Has it ended by now? */
bool process_ended(Process *process);
/* Waits until a signal has stopped it, all its threads; fails when it ends. To be
 * waited for before SIGCONT: one that comes earlier is lost, and it stops for good. */
void process_wait_stopped(Process *process, int timeout_s);
void process_kill(Process *process, int signal);
pid_t process_pid(const Process *process);

/* What it wrote so far; lives until the next call for the same stream. */
const char *process_stdout(Process *process);
const char *process_stderr(Process *process);
/* Waits until the text is on stdout or stderr; fails when the program ends
 * without it or the time is over. */
void process_wait_output(Process *process, const char *text, int timeout_s);
/* Ends it with SIGKILL if it still runs (in a sanitizer's build with SIGTERM, so
 * that leaks are seen), and frees. Fails when its stderr holds a sanitizer's
 * report. NULL: nothing. */
void process_free(Process *process);

/* Start, wait, free. out (may be NULL) gets stdout followed by stderr; the
 * caller frees it. */
int process_run(const char *const argv[], const char *const env[], int timeout_s, char **out);

/* A new empty directory below ${TMPDIR:-/tmp}, removed with all it holds when
 * the test process ends. The caller frees the text. */
char *scratch_dir_new(const char *name);
/* Removes it earlier; also frees the text. */
void scratch_dir_free(char *path);

/* A TCP port of 127.0.0.1 that nobody listens on right now. */
int free_port(void);

#endif
