#include "proxy/cli/switching.h"

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
} Switch;

static Switch
switch_of(MigrationCommand command)
{
	if (command == COMMAND_FAILBACK)
		return (Switch){command, 0, "failback", "failback", "target", STATE_FAILED_BACK};
	if (command == COMMAND_REHEARSE)
		return (Switch){command, 0, "rehearse", "rehearsal", "source", STATE_CANCELLED};
	return (Switch){command, 0, "cutover", "cutover", "source", STATE_SWITCHED};
}

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
	const Switch *asked = arg;
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
		.judge = judge,
		.arg = asked,
	};

	if (config->hold_timeout_given)
		json_object_set_new(body, "hold_timeout",
		                    json_real((double)config->hold_timeout_ms / 1000));
	if (config->unmovable_given)
		json_object_set_new(body, "unmovable",
		                    json_string(config_unmovable_names[config->unmovable]));
	bool posted = client_post(client, asked->path, body, &asked->id, err);
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
	Client *client = client_new(config, &err);
	bool ok = client != NULL && ask(config, client, &asked, &status, &err);
	if (status != NULL)
		report_switch(status, config->json);
	exit_code = ok ? EXIT_DONE : cli_fail(&err);
	json_decref(status);
	client_free(client);
	config_free(config);
	return exit_code;
}
