#include "proxy/cli/follow.h"

#include "common/clock.h"
#include "common/stop.h"

/* A process that has gone without a last word was killed, or its port is in trouble;
 * somebody may start it again. So long we keep asking. */
enum { GONE_PATIENCE_MS = 10000, LAST_WORD_AFTER_MS = 3000 };

typedef struct {
	const FollowOptions *options;
	bool seen;            /* it has answered at least once */
	int64_t silent_since; /* clock_mono_ms of the first question without answer; 0: none */
} Follow;

static FollowVerdict
judge_last_word(const FollowOptions *options, const json_t *status, Error *err)
{
	FollowVerdict verdict = options->judge(options->arg, status, true, err);

	if (verdict != FOLLOW_ON)
		return verdict;
	error_set(err, ERROR_CANCELLED, "the process has ended in state %s", doc_text(status, "state"));
	error_set_hint(err, "a second `pgbaton run` with the same arguments goes on");
	return FOLLOW_FAILED;
}

/* Nobody answers: is that the end? err has the reason. */
static FollowVerdict
judge_silence(Follow *follow, Client *client, json_t **status, Error *err)
{
	const FollowOptions *options = follow->options;
	int64_t now = clock_mono_ms();

	if (follow->silent_since == 0)
		follow->silent_since = now;
	int64_t silent = now - follow->silent_since;

	/* One that was never seen may be starting just now, and the last word be that
	 * of the run before. */
	if (follow->seen || silent >= LAST_WORD_AFTER_MS)
		*status = client_last_status(client);
	if (*status != NULL)
		return judge_last_word(options, *status, err);
	int64_t patience = !follow->seen          ? options->unreached_ms
	                   : options->gone_ms > 0 ? options->gone_ms
	                                          : GONE_PATIENCE_MS;
	return options->deadline_ms == 0 && silent >= patience ? FOLLOW_FAILED : FOLLOW_ON;
}

static FollowVerdict
ask_once(Follow *follow, Client *client, json_t **status, Error *err)
{
	*status = client_status(client, err);
	if (*status != NULL) {
		follow->seen = true;
		follow->silent_since = 0;
		return follow->options->judge(follow->options->arg, *status, false, err);
	}
	return err->class == ERROR_NETWORK ? judge_silence(follow, client, status, err) : FOLLOW_FAILED;
}

bool
follow_status(Client *client, const FollowOptions *options, json_t **last, Error *err)
{
	Follow follow = {.options = options};

	for (;;) {
		json_t *status = NULL;
		Error ignored = ERROR_INIT;
		FollowVerdict verdict = ask_once(&follow, client, &status, err);

		if (verdict != FOLLOW_ON) {
			if (last != NULL)
				*last = json_incref(status);
			json_decref(status);
			return verdict == FOLLOW_DONE;
		}
		if (deadline_left_ms(options->deadline_ms) == 0) {
			if (status != NULL)
				error_set(err, ERROR_TIMEOUT, "the time is up; the state is %s",
				          doc_text(status, "state"));
			else
				error_add_context(err, "the time is up");
			json_decref(status);
			return false;
		}
		json_decref(status);
		int64_t nap = deadline_left_ms(options->deadline_ms);
		if (!stop_sleep_ms(NULL, nap < options->poll_ms ? nap : options->poll_ms, &ignored))
			continue;
	}
}
