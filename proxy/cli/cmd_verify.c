/* pgbaton verify: asks for a comparison of both sides and waits for its outcome. */
#include <string.h>

#include "proxy/cli/cli.h"
#include "proxy/cli/follow.h"

enum { POLL_MS = 50 };

static FollowVerdict
judge(void *arg, const json_t *status, bool gone UNUSED, Error *err)
{
	uint64_t id = *(const uint64_t *)arg;
	const char *outcome = doc_text(status, "verify.outcome");

	if ((uint64_t)doc_number(status, "verify.id") != id) {
		error_set(err, ERROR_CANCELLED,
		          "the process was started again, or another comparison "
		          "has begun since");
		return FOLLOW_FAILED;
	}
	if (strcmp(outcome, "equal") == 0)
		return FOLLOW_DONE;
	if (strcmp(outcome, "failed") != 0)
		return FOLLOW_ON;
	if (!doc_error(status, "verify.error", err))
		error_set(err, ERROR_BUG, "no reason was given");
	return FOLLOW_FAILED;
}

static void
print_result(const json_t *status, bool as_json)
{
	const json_t *verify = doc_at(status, "verify");

	if (as_json) {
		json_dumpf(verify, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
		putchar('\n');
	} else if (strcmp(doc_text(verify, "outcome"), "equal") == 0) {
		printf("equal: %.0f tables compared in %.0f ms\n", doc_number(verify, "tables"),
		       doc_number(verify, "took_ms"));
	}
}

int
cmd_verify(int argc, char **argv)
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
	Client *client = client_new(config, &err);
	bool ok = client != NULL && client_post(client, "verify", NULL, &id, &err) &&
	          follow_status(client, &options, &status, &err);
	if (status != NULL)
		print_result(status, config->json);
	exit_code = ok ? EXIT_DONE : cli_fail(&err);
	json_decref(status);
	client_free(client);
	config_free(config);
	return exit_code;
}
