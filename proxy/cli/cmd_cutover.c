/* pgbaton cutover: asks for it and waits until it has switched or was undone. */
#include <string.h>

#include "proxy/cli/cli.h"
#include "proxy/cli/follow.h"

enum { POLL_MS = 30 };

/*
 * The process may be killed inside its cutover and started again; it then counts from
 * 1 anew, and the state tells what the journal said: switched, or undone.
 */
static FollowVerdict
judge_after_restart(const json_t *status, Error *err)
{
	MigrationState state;

	if (!doc_state(status, &state))
		return FOLLOW_ON;
	if (state == STATE_SWITCHED || state == STATE_FINISHED)
		return FOLLOW_DONE;
	if (state == STATE_CHECKING || state == STATE_PREPARING || state == STATE_CUTTING_OVER)
		return FOLLOW_ON;
	error_set(err, ERROR_CANCELLED,
	          "the process was started again during the cutover, which "
	          "was undone; the source goes on");
	return FOLLOW_FAILED;
}

static FollowVerdict
judge(void *arg, const json_t *status, bool gone UNUSED, Error *err)
{
	uint64_t id = *(const uint64_t *)arg;
	uint64_t now = (uint64_t)doc_number(status, "cutover.id");
	const char *outcome = doc_text(status, "cutover.outcome");

	if (now < id)
		return judge_after_restart(status, err);
	if (now > id) {
		error_set(err, ERROR_CANCELLED, "another cutover has begun since");
		return FOLLOW_FAILED;
	}
	if (strcmp(outcome, "switched") == 0)
		return FOLLOW_DONE;
	if (strcmp(outcome, "aborted") != 0)
		return FOLLOW_ON;
	if (!doc_error(status, "cutover.error", err))
		error_set(err, ERROR_BUG, "no reason was given");
	error_add_context(err, "cutover undone, the source goes on");
	return FOLLOW_FAILED;
}

static void
print_result(const json_t *status, bool as_json)
{
	const json_t *cutover = doc_at(status, "cutover");

	if (as_json) {
		json_dumpf(cutover, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
		putchar('\n');
		return;
	}
	if (strcmp(doc_text(cutover, "outcome"), "switched") == 0)
		printf("switched: writes were held %.1f ms (drain %.1f ms), %.0f sequences set\n",
		       doc_number(cutover, "hold_ms"), doc_number(cutover, "drain_ms"),
		       doc_number(cutover, "sequences"));
	else if (strcmp(doc_text(cutover, "outcome"), "none") == 0)
		puts("switched");
}

static bool
cut_over(const Config *config, Client *client, json_t **status, Error *err)
{
	json_t *body = json_object();
	uint64_t id = 0;
	FollowOptions options = {
		.poll_ms = POLL_MS,
		.unreached_ms = 10000,
		.judge = judge,
		.arg = &id,
	};

	if (config->hold_timeout_given)
		json_object_set_new(body, "hold_timeout",
		                    json_real((double)config->hold_timeout_ms / 1000));
	bool ok = client_post(client, "cutover", body, &id, err) &&
	          follow_status(client, &options, status, err);
	json_decref(body);
	return ok;
}

int
cmd_cutover(int argc, char **argv)
{
	Error err = ERROR_INIT;
	json_t *status = NULL;
	int exit_code;
	Config *config = cli_config(argc, argv, &exit_code);

	if (config == NULL)
		return exit_code;
	Client *client = client_new(config, &err);
	bool ok = client != NULL && cut_over(config, client, &status, &err);
	if (status != NULL)
		print_result(status, config->json);
	exit_code = ok ? EXIT_DONE : cli_fail(&err);
	json_decref(status);
	client_free(client);
	config_free(config);
	return exit_code;
}
