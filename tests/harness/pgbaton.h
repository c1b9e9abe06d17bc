/*
 * pgbaton.h: the program under test, as an operator starts it.
 *
 * The binary is the test variant (build/test/pgbaton, with fault points), or
 * what PGBATON_BIN names. Source, target, state directory and admin address
 * are put into the arguments; everything else comes from the options.
 * Functions end the test with ck_abort_msg and pgbaton's own log.
 */
#ifndef PGBATON_TESTS_HARNESS_PGBATON_H
#define PGBATON_TESTS_HARNESS_PGBATON_H

#include <jansson.h>
#include <stdbool.h>

#include "tests/harness/cluster.h"
#include "tests/harness/process.h"

typedef struct Pgbaton Pgbaton;

typedef struct {
	const char *source;      /* connection string; cluster_uri(...) */
	const char *target;      /* connection string */
	const char *const *args; /* more arguments of `run`, NULL at the end; or NULL */
	const char *const *env;  /* more "KEY=VALUE", NULL at the end; or NULL */
	const char *state_dir;   /* NULL: a scratch directory of this Pgbaton's */
} PgbatonOptions;

/* Starts `pgbaton run` in the background; does not wait for anything. */
Pgbaton *pgbaton_start(const PgbatonOptions *options);
/* Kills it if it runs, removes the state directory if it was ours, frees. */
void pgbaton_free(Pgbaton *p);

/* Ends it with the signal, waits for the end; returns as process_wait does. */
int pgbaton_stop(Pgbaton *p, int signal);
/* The same arguments again, after it has ended: a resume. */
void pgbaton_again(Pgbaton *p);
/* Waits for the end of `run`; its exit code (process_wait). */
int pgbaton_wait_exit(Pgbaton *p, int timeout_s);
/* Waits until the fault point it was given (PGBATON_FAULT) has killed it. */
void pgbaton_wait_killed(Pgbaton *p, const char *point, int timeout_s);
bool pgbaton_ended(Pgbaton *p);
/* Waits until a fault point (":stop") has stopped it (process_wait_stopped). */
void pgbaton_wait_stopped(Pgbaton *p, int timeout_s);
pid_t pgbaton_pid(const Pgbaton *p);

/*
 * Waits until the state is `state` or a later one (checking, preparing,
 * copying, catching_up, following, cutting_over, switched, finished). Fails at
 * once when it is failed or cancelled, unless that was waited for, and when the
 * process ends.
 */
void pgbaton_wait_state(Pgbaton *p, const char *state, int timeout_s);
/* Has the state been reached? No wait; false also when it does not answer. */
bool pgbaton_reached(Pgbaton *p, const char *state);

/* GET /v1/status. json_decref it. NULL when the admin port does not answer yet. */
json_t *pgbaton_status(Pgbaton *p);
/* A number or text at "stream.applied_lsn" in the status; ends the test when it
 * is not there. The text is the caller's to free. */
long long pgbaton_status_int(Pgbaton *p, const char *path);
char *pgbaton_status_text(Pgbaton *p, const char *path);

/* A whole response of the admin port, headers and body, to the request as
 * given (the caller writes every byte, so also wrong ones); "" when nobody
 * listens. The caller frees it. */
char *pgbaton_admin_raw(Pgbaton *p, const char *request);
int pgbaton_admin_port(const Pgbaton *p);

/* `pgbaton SUBCOMMAND --admin ... ARGS`, NULL at the end:
 *   pgbaton_cli(p, &out, 30, "cutover", "--json", NULL)
 * Returns the exit code; out (may be NULL) gets its stdout, else stderr when
 * that is empty, and is the caller's to free. */
int pgbaton_cli(Pgbaton *p, char **out, int timeout_s, ...);
/* The same, beside the test. */
Process *pgbaton_cli_start(Pgbaton *p, ...);

/* Any call of the binary without a running one: args NULL at the end; out as
 * process_run's. */
int pgbaton_run(const char *const args[], const char *const env[], int timeout_s, char **out);
const char *pgbaton_binary(void);

/* Log of the present (or last) run. Lives until the next call. */
const char *pgbaton_log(Pgbaton *p);
/* Until the text is in it; fails when the time is over. */
void pgbaton_wait_log(Pgbaton *p, const char *text, int timeout_s);
const char *pgbaton_state_dir(const Pgbaton *p);

#endif
