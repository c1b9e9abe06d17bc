/* pgbaton wait: until the migration has come to a state, or past it. */
#include <string.h>

#include "common/clock.h"
#include "proxy/cli/cli.h"
#include "proxy/cli/follow.h"

static bool
is_end_without_success(MigrationState state)
{
	return state == STATE_FAILED || state == STATE_CANCELLED;
}

static FollowVerdict
judge(void *arg, const json_t *status, bool gone, Error *err)
{
	MigrationState wanted = *(const MigrationState *)arg;
	MigrationState state;

	if (!doc_state(status, &state)) {
		error_set(err, ERROR_PROTOCOL, "the status has no state that this pgbaton knows");
		return FOLLOW_FAILED;
	}
	if (state == wanted && (!gone || state >= STATE_SWITCHED))
		return FOLLOW_DONE;
	if (is_end_without_success(state)) {
		if (!doc_error(status, "error", err))
			error_set(err, ERROR_CONFIG, "the migration was %s", migration_state_name(state));
		error_add_context(err, "migration %s", migration_state_name(state));
		return FOLLOW_FAILED;
	}
	if (is_end_without_success(wanted) || state < wanted)
		return FOLLOW_ON;
	/* What a process that has ended once reached counts only if it stays true. */
	return !gone || state >= STATE_SWITCHED ? FOLLOW_DONE : FOLLOW_ON;
}

static int
wait_for(const Config *config, MigrationState wanted)
{
	Error err = ERROR_INIT;
	Client *client = client_new(config, &err);
	FollowOptions options = {
		.poll_ms = 100,
		.deadline_ms = config->timeout_ms > 0 ? deadline_in_ms(config->timeout_ms) : 0,
		.unreached_ms = 10000,
		.judge = judge,
		.arg = &wanted,
	};

	bool ok = client != NULL && follow_status(client, &options, NULL, &err);
	client_free(client);
	return ok ? EXIT_DONE : cli_fail(&err);
}

int
cmd_wait(int argc, char **argv)
{
	Error err = ERROR_INIT;
	MigrationState wanted;
	int exit_code;
	Config *config = cli_config(argc, argv, &exit_code);

	if (config == NULL)
		return exit_code;
	exit_code = EXIT_USAGE;
	if (config->wait_for == NULL) {
		error_set(&err, ERROR_CONFIG, "option --for STATE is missing");
		cli_fail(&err);
	} else if (!migration_state_parse(config->wait_for, &wanted)) {
		error_set(&err, ERROR_CONFIG, "--for: \"%s\" is not a state", config->wait_for);
		error_set_hint(&err, "checking, preparing, copying, catching_up, following, "
		                     "cutting_over, switched, failing_back, failed_back, finished, failed "
		                     "or cancelled");
		cli_fail(&err);
	} else {
		exit_code = wait_for(config, wanted);
	}
	config_free(config);
	return exit_code;
}
