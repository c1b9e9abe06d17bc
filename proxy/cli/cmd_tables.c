/* pgbaton add-table, recopy: ask for it, and wait until the tables have joined the others. */
#include <string.h>

#include "proxy/cli/cli.h"
#include "proxy/cli/follow.h"

enum { POLL_MS = 100 };

static FollowVerdict
judge(void *arg, const json_t *status, bool gone, Error *err)
{
	uint64_t id = *(const uint64_t *)arg;
	const char *outcome = doc_text(status, "addition.outcome");

	if ((uint64_t)doc_number(status, "addition.id") != id || gone) {
		error_set(err, ERROR_CANCELLED,
		          "the process has ended or was started again: it goes on"
		          " with what was begun");
		return FOLLOW_FAILED;
	}
	if (strcmp(outcome, "done") == 0)
		return FOLLOW_DONE;
	if (strcmp(outcome, "failed") != 0)
		return FOLLOW_ON;
	if (!doc_error(status, "addition.error", err))
		error_set(err, ERROR_BUG, "no reason was given");
	return FOLLOW_FAILED;
}

static int
ask(int argc, char **argv, const char *command)
{
	Error err = ERROR_INIT;
	json_t *status = NULL;
	uint64_t id = 0;
	int exit_code;
	Config *config = cli_config(argc, argv, &exit_code);
	FollowOptions options = {
		.poll_ms = POLL_MS,
		.unreached_ms = 10000,
		.judge = judge,
		.arg = &id,
	};

	if (config == NULL)
		return exit_code;
	json_t *body = json_object();
	json_object_set_new(body, "pattern", json_string(config->pattern));
	Client *client = client_new(config, &err);
	bool ok = client != NULL && client_post(client, command, body, &id, &err) &&
	          (config->detach || follow_status(client, &options, &status, &err));
	if (ok && status != NULL)
		printf("%.0f tables have joined the others\n", doc_number(status, "addition.tables"));
	exit_code = ok ? EXIT_DONE : cli_fail(&err);
	json_decref(body);
	json_decref(status);
	client_free(client);
	config_free(config);
	return exit_code;
}

int
cmd_add_table(int argc, char **argv)
{
	return ask(argc, argv, "add-table");
}

int
cmd_recopy(int argc, char **argv)
{
	return ask(argc, argv, "recopy");
}
