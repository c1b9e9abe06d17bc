#include "proxy/cli/switching.h"

#include <string.h>

#include "proxy/cli/cli.h"
#include "proxy/cli/follow.h"
#include "proxy/cli/format.h"

enum { POLL_MS = 30 };

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

static FollowVerdict
judge(void *arg, const json_t *status, bool gone UNUSED, Error *err)
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
		return FOLLOW_DONE;
	if (strcmp(outcome, "aborted") != 0)
		return FOLLOW_ON;
	if (!doc_error(status, "cutover.error", err))
		error_set(err, ERROR_BUG, "no reason was given");
	error_add_context(err, "%s undone, the %s goes on", asked->what, asked->goes_on);
	return FOLLOW_FAILED;
}

/* ---- the report ---- */

static void
print_sessions(const json_t *cutover)
{
	const json_t *list = doc_at(cutover, "bypassing");
	size_t i;
	json_t *group;

	if (json_array_size(list) == 0)
		return;
	printf("%.0f sessions on the side that is left; their writes are refused (25006) after the "
	       "switch:\n",
	       doc_number(cutover, "bypassing_sessions"));
	json_array_foreach (list, i, group) {
		printf("  %.0f of user ", doc_number(group, "sessions"));
		print_plain(stdout, doc_text(group, "user"));
		fputs(", application \"", stdout);
		print_plain(stdout, doc_text(group, "application"));
		fputs("\", from ", stdout);
		print_plain(stdout, doc_text(group, "address"));
		puts(doc_number(group, "writing") > 0 ? " (writing as it began)" : "");
	}
}

static void
print_rehearsal(const json_t *cutover)
{
	printf("rehearsed: a cutover now would hold writes for about %.1f ms; nothing was changed\n",
	       doc_number(cutover, "hold_ms"));
	printf("  before the hold      %8.1f ms\n", doc_number(cutover, "prepare_ms"));
	printf("  locks on all tables  %8.1f ms\n", doc_number(cutover, "fence_ms"));
	printf("  drain to the marker  %8.1f ms\n", doc_number(cutover, "drain_ms"));
	if (doc_number(cutover, "verify_ms") > 0)
		printf("  comparing rows       %8.1f ms\n", doc_number(cutover, "verify_ms"));
	printf("  reading %4.0f sequences %6.1f ms\n", doc_number(cutover, "sequences"),
	       doc_number(cutover, "sequences_ms"));
	printf("  both sides made ready %7.1f ms\n", doc_number(cutover, "commit_ms"));
	if (doc_number(cutover, "attempts") > 1)
		printf("  attempts             %8.0f\n", doc_number(cutover, "attempts"));
	print_sessions(cutover);
}

static void
print_result(const json_t *status, bool as_json)
{
	const json_t *cutover = doc_at(status, "cutover");
	const char *outcome = doc_text(cutover, "outcome");

	if (as_json) {
		json_dumpf(cutover, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
		putchar('\n');
		return;
	}
	if (strcmp(outcome, "switched") == 0)
		printf("%s: writes were held %.1f ms (drain %.1f ms), %.0f sequences set\n",
		       doc_true(cutover, "failback") ? "failed back: the old source is live" : "switched",
		       doc_number(cutover, "hold_ms"), doc_number(cutover, "drain_ms"),
		       doc_number(cutover, "sequences"));
	else if (strcmp(outcome, "rehearsed") == 0)
		print_rehearsal(cutover);
	else if (strcmp(outcome, "none") == 0)
		puts(doc_text(status, "state"));
}

/* ---- */

static bool
ask(const Config *config, Client *client, Switch *asked, json_t **status, Error *err)
{
	json_t *body = json_object();
	FollowOptions options = {
		.poll_ms = POLL_MS,
		.unreached_ms = 10000,
		.judge = judge,
		.arg = asked,
	};

	if (config->hold_timeout_given)
		json_object_set_new(body, "hold_timeout",
		                    json_real((double)config->hold_timeout_ms / 1000));
	bool ok = client_post(client, asked->path, body, &asked->id, err) &&
	          follow_status(client, &options, status, err);
	json_decref(body);
	return ok;
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
		print_result(status, config->json);
	exit_code = ok ? EXIT_DONE : cli_fail(&err);
	json_decref(status);
	client_free(client);
	config_free(config);
	return exit_code;
}
