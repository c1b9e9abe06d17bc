#include "proxy/cli/ending.h"

#include <string.h>

#include "common/clock.h"
#include "proxy/cli/cli.h"
#include "proxy/cli/follow.h"
#include "proxy/cli/format.h"

/* So long an error in the status may still be one from before our request. */
enum { OLD_ERROR_MS = 2000 };

typedef struct {
	MigrationState wanted;
	bool finish;
	int64_t asked_ms;
} Ending;

static FollowVerdict
judge(void *arg, const json_t *status, bool gone, Error *err)
{
	const Ending *ending = arg;
	MigrationState state;

	if (!doc_state(status, &state))
		return FOLLOW_ON;
	if (state == ending->wanted)
		return FOLLOW_DONE;
	bool settled = gone || clock_mono_ms() - ending->asked_ms > OLD_ERROR_MS;
	/* finish that failed leaves it switched; cancel that failed ends the process, or leaves it
	 * serving its clients. */
	bool may_fail = ending->finish ? state == STATE_SWITCHED || state == STATE_FAILED_BACK
	                               : gone || state == STATE_FAILED;
	if (settled && may_fail && !doc_true(status, "retrying") && doc_error(status, "error", err))
		return FOLLOW_FAILED;
	return FOLLOW_ON;
}

/* Asked for once more: there is nothing to do, which is what was wanted. The process may have gone,
 * or go on serving clients. */
static bool
has_ended_so(Client *client, MigrationState wanted)
{
	Error ignored = ERROR_INIT;
	json_t *last = client_status(client, &ignored);
	MigrationState state;

	if (last == NULL)
		last = client_last_status(client);
	bool same = last != NULL && doc_state(last, &state) && state == wanted;
	json_decref(last);
	return same;
}

static bool
end_from_here(const Config *config, bool finish, const Error *unreachable, Error *err)
{
	if (config->source == NULL) {
		*err = *unreachable;
		error_set_hint(err, "where no process runs any more, give --source and --target");
		return false;
	}
	return migration_cleanup(config, finish, err);
}

static bool
end_migration(const Config *config, Client *client, bool finish, json_t **status, Error *err)
{
	Ending ending = {
		.wanted = finish ? STATE_FINISHED : STATE_CANCELLED,
		.finish = finish,
		.asked_ms = clock_mono_ms(),
	};
	FollowOptions options = {
		.poll_ms = 50,
		.unreached_ms = 10000,
		.judge = judge,
		.arg = &ending,
	};
	Error unread = ERROR_INIT;
	Error post = ERROR_INIT;

	/* Asked before, so that the state directory is known: the process may have ended and
	 * gone before it could be asked again. */
	json_decref(client_status(client, &unread));
	if (client_post(client, finish ? "finish" : "cancel", NULL, NULL, &post))
		return follow_status(client, &options, status, err);
	if ((post.class != ERROR_NETWORK || config->source == NULL) &&
	    has_ended_so(client, ending.wanted))
		return true;
	if (post.class == ERROR_NETWORK)
		return end_from_here(config, finish, &post, err);
	*err = post;
	return false;
}

static void
print_removed(const json_t *status)
{
	const char *removed = doc_text(status, "removed");

	if (removed[0] == '\0')
		return;
	fputs("removed, or put back as it was: ", stdout);
	print_plain(stdout, removed);
	putchar('\n');
}

int
cli_end(int argc, char **argv, bool finish)
{
	Error err = ERROR_INIT;
	json_t *status = NULL;
	int exit_code;
	Config *config = cli_config(argc, argv, &exit_code);

	if (config == NULL)
		return exit_code;
	log_set_level(config->log_level);
	Client *client = client_new(config, &err);
	bool ok = client != NULL && end_migration(config, client, finish, &status, &err);
	if (ok) {
		puts(finish ? "finished" : "cancelled");
		print_removed(status);
	}
	exit_code = ok ? EXIT_DONE : cli_fail(&err);
	json_decref(status);
	client_free(client);
	config_free(config);
	return exit_code;
}
