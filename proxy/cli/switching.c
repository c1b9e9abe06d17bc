#include "proxy/cli/switching.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "proxy/cli/cli.h"
#include "proxy/cli/follow.h"
#include "proxy/cli/switching_report.h"

/* A rehearsal that was cut off has no outcome that a new process could tell. */
enum { POLL_MS = 30, REHEARSAL_GONE_MS = 2000 };

typedef struct {
	MigrationCommand command;
	uint64_t id;
	const char *path;     /* of the admin port */
	const char *what;     /* for people */
	const char *goes_on;  /* where the application stays when it is undone */
	MigrationState after; /* the state once it has switched */
	Client *client;
	bool giving_up; /* the process was told so */
} Switch;

static Switch
switch_of(MigrationCommand command)
{
	if (command == COMMAND_FAILBACK)
		return (Switch){.command = command,
		                .path = "failback",
		                .what = "failback",
		                .goes_on = "target",
		                .after = STATE_FAILED_BACK};
	if (command == COMMAND_REHEARSE)
		return (Switch){.command = command,
		                .path = "rehearse",
		                .what = "rehearsal",
		                .goes_on = "source",
		                .after = STATE_CANCELLED};
	return (Switch){.command = command,
	                .path = "cutover",
	                .what = "cutover",
	                .goes_on = "source",
	                .after = STATE_SWITCHED};
}

/* ---- giving up: who interrupts this command means the cutover ---- */

static Stop *interrupted;

static void
on_interrupt(int signal UNUSED)
{
	stop_request(interrupted);
}

/* The second one ends us, as ever. */
static void
catch_interrupts(void)
{
	struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND};

	interrupted = stop_new();
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
}

static void
give_up_if_interrupted(Switch *asked)
{
	Error err = ERROR_INIT;

	if (asked->giving_up || !stop_requested(interrupted))
		return;
	asked->giving_up = true;
	fprintf(stderr, "pgbaton: giving up the %s; another interrupt leaves it to go on by itself\n",
	        asked->what);
	/* A refusal: it has come to its end, which we are about to be told. */
	if (!client_post(asked->client, "abort", NULL, NULL, &err))
		fprintf(stderr, "pgbaton: %s\n", err.message);
}

/* ---- the outcome ---- */

/*
 * The process may be killed inside and started again; it then counts from 1 anew, and the
 * state tells what the journal said: switched, or undone.
 */
static FollowVerdict
judge_after_restart(const Switch *asked, const json_t *status, Error *err)
{
	MigrationState state;

	if (!doc_state(status, &state))
		return FOLLOW_ON;
	if (state == asked->after || (state == STATE_FINISHED && asked->command != COMMAND_REHEARSE))
		return FOLLOW_DONE;
	if (state == STATE_CHECKING || state == STATE_PREPARING || state == STATE_CUTTING_OVER ||
	    state == STATE_FAILING_BACK)
		return FOLLOW_ON;
	error_set(err, ERROR_CANCELLED,
	          "the process was started again during the %s, which was undone; the %s goes on",
	          asked->what, asked->goes_on);
	return FOLLOW_FAILED;
}

/* The outcome is told a moment before the state, which the next command is judged by. */
static bool
is_in_between(const json_t *status)
{
	MigrationState state;

	return doc_state(status, &state) &&
	       (state == STATE_CUTTING_OVER || state == STATE_FAILING_BACK);
}

static FollowVerdict
judge(void *arg, const json_t *status, bool gone, Error *err)
{
	Switch *asked = arg;
	give_up_if_interrupted(asked);
	uint64_t now = (uint64_t)doc_number(status, "cutover.id");
	const char *outcome = doc_text(status, "cutover.outcome");

	if (now < asked->id)
		return judge_after_restart(asked, status, err);
	if (now > asked->id) {
		error_set(err, ERROR_CANCELLED, "another cutover has begun since");
		return FOLLOW_FAILED;
	}
	if (strcmp(outcome, "switched") == 0 || strcmp(outcome, "rehearsed") == 0)
		return !gone && is_in_between(status) ? FOLLOW_ON : FOLLOW_DONE;
	bool unknown = strcmp(outcome, "unknown") == 0;
	if (strcmp(outcome, "aborted") != 0 && !unknown)
		return FOLLOW_ON;
	if (!doc_error(status, "cutover.error", err))
		error_set(err, ERROR_BUG, "no reason was given");
	if (unknown)
		error_add_context(err, "the outcome of the %s", asked->what);
	else
		error_add_context(err, "%s undone, the %s goes on", asked->what, asked->goes_on);
	return FOLLOW_FAILED;
}

/* The same, for who wants it undone. */
static FollowVerdict
judge_given_up(void *arg, const json_t *status, bool gone, Error *err)
{
	const Switch *asked = arg;
	FollowVerdict verdict = judge(arg, status, gone, err);
	const char *outcome = doc_text(status, "cutover.outcome");

	if (verdict == FOLLOW_FAILED && strcmp(outcome, "aborted") == 0) {
		error_clear(err);
		return FOLLOW_DONE;
	}
	if (verdict == FOLLOW_DONE) {
		error_set(err, ERROR_CONFIG, "too late: the %s has %s", asked->what,
		          asked->command == COMMAND_REHEARSE ? "ended" : "switched");
		return FOLLOW_FAILED;
	}
	return verdict;
}

/* ---- */

/* Nobody answers any more, and nobody has left a last word. */
static bool
outcome_unknown(const Switch *asked, Error *err)
{
	error_add_context(err, "the process is gone, and the outcome of the %s is not known here",
	                  asked->what);
	return error_set_hint(
		err, asked->command == COMMAND_REHEARSE
				 ? "a rehearsal changes nothing: `pgbaton run` with the same arguments goes on"
				 : "`pgbaton run` with the same arguments finds out and goes on from there; "
				   "`pgbaton status` then says where it stands");
}

static bool
ask(const Config *config, Client *client, Switch *asked, json_t **status, Error *err)
{
	json_t *body = json_object();
	FollowOptions options = {
		.poll_ms = POLL_MS,
		.unreached_ms = 10000,
		.gone_ms = asked->command == COMMAND_REHEARSE ? REHEARSAL_GONE_MS : 0,
		.judge = config->abort ? judge_given_up : judge,
		.arg = asked,
	};
	const char *path = config->abort ? "abort" : asked->path;

	asked->client = client;
	if (config->hold_timeout_given)
		json_object_set_new(body, "hold_timeout",
		                    json_real((double)config->hold_timeout_ms / 1000));
	if (config->unmovable_given)
		json_object_set_new(body, "unmovable",
		                    json_string(config_unmovable_names[config->unmovable]));
	bool posted = client_post(client, path, body, &asked->id, err);
	bool ok = posted && follow_status(client, &options, status, err);
	json_decref(body);
	return ok || (posted && err->class == ERROR_NETWORK && outcome_unknown(asked, err));
}

int
cli_switch(int argc, char **argv, MigrationCommand command)
{
	Error err = ERROR_INIT;
	json_t *status = NULL;
	int exit_code;
	Config *config = cli_config(argc, argv, &exit_code);

	if (config == NULL)
		return exit_code;
	Switch asked = switch_of(config->rehearse ? COMMAND_REHEARSE : command);
	catch_interrupts();
	Client *client = client_new(config, &err);
	bool ok = client != NULL && ask(config, client, &asked, &status, &err);
	if (status != NULL)
		report_switch(status, ok, config->json);
	if (ok && config->abort && !config->json)
		puts("given up: nothing was changed");
	exit_code = ok ? EXIT_DONE : cli_fail(&err);
	json_decref(status);
	client_free(client);
	config_free(config);
	stop_free(interrupted);
	return exit_code;
}
