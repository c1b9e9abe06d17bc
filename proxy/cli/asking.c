#include "proxy/cli/asking.h"

#include <string.h>

#include "proxy/cli/cli.h"
#include "proxy/cli/follow.h"

enum { UNREACHED_MS = 10000 };

typedef struct {
	const Asking *asking;
	uint64_t id;
} Asked;

static FollowVerdict
judge(void *arg, const json_t *status, bool gone UNUSED, Error *err)
{
	const Asked *asked = arg;
	const json_t *document = doc_at(status, asked->asking->key);
	const char *outcome = doc_text(document, "outcome");

	if ((uint64_t)doc_number(document, "id") != asked->id) {
		error_set(err, ERROR_CANCELLED,
		          "the process was started again, or was asked for another one since");
		return FOLLOW_FAILED;
	}
	if (strcmp(outcome, asked->asking->success) == 0)
		return FOLLOW_DONE;
	if (strcmp(outcome, "failed") != 0)
		return FOLLOW_ON;
	if (!doc_error(document, "error", err))
		error_set(err, ERROR_BUG, "no reason was given");
	return FOLLOW_FAILED;
}

int
cli_ask(int argc, char **argv, const Asking *asking)
{
	Error err = ERROR_INIT;
	json_t *status = NULL;
	Asked asked = {.asking = asking};
	int exit_code;
	Config *config = cli_config(argc, argv, &exit_code);
	FollowOptions options = {
		.poll_ms = asking->poll_ms,
		.unreached_ms = UNREACHED_MS,
		.judge = judge,
		.arg = &asked,
	};

	if (config == NULL)
		return exit_code;
	json_t *body = asking->body(config);
	Client *client = client_new(config, &err);
	bool ok = client != NULL && client_post(client, asking->command, body, &asked.id, &err) &&
	          (config->detach || follow_status(client, &options, &status, &err));
	if (status != NULL)
		asking->print(config, doc_at(status, asking->key));
	exit_code = ok ? EXIT_DONE : cli_fail(&err);
	json_decref(body);
	json_decref(status);
	client_free(client);
	config_free(config);
	return exit_code;
}
