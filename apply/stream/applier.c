#include "apply/stream/applier.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "apply/stream/applier_internal.h"
#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"
#include "common/memory.h"

enum {
	STOP_GRACE_MS = 5000, /* for the batch in hand; then it is cancelled */
	RETRY_FIRST_MS = 200,
	RETRY_MOST_MS = 10000,
	DEFAULT_BATCH_ROWS = 100000
};

/* ---- state ---- */

void
applier_set_phase(Applier *applier, ApplierPhase phase, const Error *err)
{
	pthread_mutex_lock(&applier->lock);
	applier->state.phase = phase;
	if (err != NULL)
		applier->state.error = *err;
	else
		error_clear(&applier->state.error);
	pthread_cond_broadcast(&applier->changed);
	pthread_mutex_unlock(&applier->lock);
}

bool
applier_stopping(Applier *applier)
{
	pthread_mutex_lock(&applier->lock);
	bool stopping = applier->stopping;
	pthread_mutex_unlock(&applier->lock);
	return stopping;
}

bool
applier_paused(Applier *applier)
{
	pthread_mutex_lock(&applier->lock);
	bool paused = applier->pauses > 0;
	pthread_mutex_unlock(&applier->lock);
	return paused;
}

/* Lock held. False: the deadline (clock.h) has passed. */
static bool
wait_changed(Applier *applier, int64_t deadline_ms)
{
	if (deadline_ms == 0)
		return pthread_cond_wait(&applier->changed, &applier->lock) == 0;

	struct timespec until = {
		.tv_sec = deadline_ms / 1000,
		.tv_nsec = deadline_ms % 1000 * 1000000,
	};
	return pthread_cond_timedwait(&applier->changed, &applier->lock, &until) != ETIMEDOUT;
}

void
applier_wait_paused(Applier *applier)
{
	pthread_mutex_lock(&applier->lock);
	ApplierPhase before = applier->state.phase;
	while (applier->pauses > 0 && !applier->stopping) {
		if (applier->state.phase != APPLIER_PAUSED) {
			applier->state.phase = APPLIER_PAUSED;
			pthread_cond_broadcast(&applier->changed);
		}
		wait_changed(applier, 0);
	}
	applier->state.phase = before == APPLIER_PAUSED ? APPLIER_RUNNING : before;
	pthread_cond_broadcast(&applier->changed);
	pthread_mutex_unlock(&applier->lock);
}

void
applier_announce(Applier *applier, const char *marker)
{
	pthread_mutex_lock(&applier->lock);
	char **slot = &applier->markers[applier->marker_count++ % MARKERS_KEPT];
	free(*slot);
	*slot = mem_strdup(marker);
	pthread_cond_broadcast(&applier->changed);
	pthread_mutex_unlock(&applier->lock);
}

void
applier_state(Applier *applier, ApplierState *out)
{
	pthread_mutex_lock(&applier->lock);
	*out = applier->state;
	pthread_mutex_unlock(&applier->lock);
}

/* ---- the thread ---- */

/* Waits for a resume after a failure, or for the next try. */
static void
wait_failed(Applier *applier, bool retry, int64_t delay_ms)
{
	int64_t deadline = retry ? deadline_in_ms(clock_jitter_ms(delay_ms)) : 0;

	pthread_mutex_lock(&applier->lock);
	uint64_t seen = applier->resumes;
	/* A resume that comes before we wait must count: it has taken the phase away. A pause
	 * need not wait for a retry's delay. */
	while (!applier->stopping && applier->resumes == seen &&
	       (retry ? applier->pauses == 0 : applier->state.phase == APPLIER_FAILED) &&
	       wait_changed(applier, deadline))
		;
	pthread_mutex_unlock(&applier->lock);
}

static bool
has_applied_since(Applier *applier, uint64_t *batches)
{
	pthread_mutex_lock(&applier->lock);
	bool more = applier->state.batches > *batches;
	*batches = applier->state.batches;
	pthread_mutex_unlock(&applier->lock);
	return more;
}

static void *
thread_main(void *arg)
{
	Applier *applier = arg;
	int64_t delay_ms = RETRY_FIRST_MS;
	uint64_t batches = 0;

	while (!applier_stopping(applier)) {
		Error err = ERROR_INIT;
		bool retry = false;
		applier_wait_paused(applier);
		if (follow(applier, &retry, &err) || applier_stopping(applier))
			break;
		log_failure(retry ? LOG_WARNING : LOG_ERROR, "applier", &err);
		applier_set_phase(applier, retry ? APPLIER_RETRYING : APPLIER_FAILED, &err);
		if (has_applied_since(applier, &batches))
			delay_ms = RETRY_FIRST_MS;
		wait_failed(applier, retry, delay_ms);
		delay_ms = delay_ms * 2 < RETRY_MOST_MS ? delay_ms * 2 : RETRY_MOST_MS;
		if (!retry) {
			applier_set_phase(applier, APPLIER_RETRYING, NULL);
			delay_ms = RETRY_FIRST_MS;
		}
	}
	pthread_mutex_lock(&applier->lock);
	applier->ended = true;
	pthread_cond_broadcast(&applier->changed);
	pthread_mutex_unlock(&applier->lock);
	return NULL;
}

/* ---- start and stop ---- */

Applier *
applier_start(const ApplierOptions *options, Error *err)
{
	if (options->lanes <= 0 || options->lanes > APPLIER_MOST_LANES) {
		error_set(err, ERROR_CONFIG, "%d lanes: 1 to %d are possible", options->lanes,
		          APPLIER_MOST_LANES);
		return NULL;
	}
	Applier *applier = mem_zalloc(sizeof(Applier));
	applier->options = *options;
	if (applier->options.batch_bytes == 0)
		applier->options.batch_bytes = UINT64_C(32) * 1024 * 1024;
	if (applier->options.batch_rows == 0)
		applier->options.batch_rows = FAULT_NUMBER("PGBATON_BATCH_ROWS");
	if (applier->options.batch_rows == 0)
		applier->options.batch_rows = DEFAULT_BATCH_ROWS;
	applier->target = conninfo_copy(options->target);
	applier->ledger = *options->ledger;
	applier->state.phase = APPLIER_RETRYING;
	applier->stop = stop_new();
	applier->tally = tally_new();
	pthread_mutex_init(&applier->lock, NULL);
	cond_init_monotonic(&applier->changed);
	CHECK(pthread_create(&applier->thread, NULL, thread_main, applier) == 0);
	return applier;
}

void
applier_stop(Applier *applier)
{
	if (applier == NULL)
		return;
	pthread_mutex_lock(&applier->lock);
	applier->stopping = true;
	pthread_cond_broadcast(&applier->changed);
	pthread_mutex_unlock(&applier->lock);
	txlog_wake(applier->options.log);

	int64_t deadline = deadline_in_ms(STOP_GRACE_MS);
	pthread_mutex_lock(&applier->lock);
	while (!applier->ended && wait_changed(applier, deadline))
		;
	pthread_mutex_unlock(&applier->lock);
	stop_request(applier->stop);
	pthread_join(applier->thread, NULL);

	for (int i = 0; i < MARKERS_KEPT; i++)
		free(applier->markers[i]);
	durable_free(&applier->durable);
	tally_free(applier->tally);
	stop_free(applier->stop);
	conninfo_free(applier->target);
	pthread_cond_destroy(&applier->changed);
	pthread_mutex_destroy(&applier->lock);
	free(applier);
}

bool
applier_pause(Applier *applier, int64_t deadline_ms, Error *err)
{
	pthread_mutex_lock(&applier->lock);
	applier->pauses++;
	pthread_cond_broadcast(&applier->changed);
	pthread_mutex_unlock(&applier->lock);
	txlog_wake(applier->options.log);

	pthread_mutex_lock(&applier->lock);
	bool still;
	/* FAILED holds nothing open and begins nothing by itself. */
	while ((still = applier->state.phase != APPLIER_PAUSED &&
	                applier->state.phase != APPLIER_FAILED && !applier->ended) &&
	       wait_changed(applier, deadline_ms))
		;
	if (still)
		applier->pauses--;
	pthread_cond_broadcast(&applier->changed);
	pthread_mutex_unlock(&applier->lock);
	return !still || error_set(err, ERROR_TIMEOUT, "what is being applied did not end in time");
}

void
applier_resume(Applier *applier)
{
	pthread_mutex_lock(&applier->lock);
	if (applier->pauses > 0)
		applier->pauses--;
	applier->resumes++;
	/* At once, so that who waits for a marker next does not see the old failure. */
	if (applier->state.phase == APPLIER_FAILED) {
		applier->state.phase = APPLIER_RETRYING;
		error_clear(&applier->state.error);
	}
	pthread_cond_broadcast(&applier->changed);
	pthread_mutex_unlock(&applier->lock);
}

void
applier_allow_early(Applier *applier, bool allow)
{
	atomic_store(&applier->early_allowed, allow);
	txlog_wake(applier->options.log);
}

/* ---- markers ---- */

/* Lock held. */
static bool
has_marker(const Applier *applier, const char *content)
{
	for (int i = 0; i < MARKERS_KEPT; i++)
		if (applier->markers[i] != NULL && strcmp(applier->markers[i], content) == 0)
			return true;
	return false;
}

bool
applier_wait_marker(Applier *applier, const char *content, int64_t deadline_ms, Error *err)
{
	bool in_time = true;
	bool ok;

	pthread_mutex_lock(&applier->lock);
	while (!(ok = has_marker(applier, content)) && in_time && !applier->stopping &&
	       applier->state.phase != APPLIER_FAILED)
		in_time = wait_changed(applier, deadline_ms);
	if (!ok && applier->state.phase == APPLIER_FAILED && err != NULL)
		*err = applier->state.error;
	else if (!ok && applier->stopping)
		error_set(err, ERROR_CANCELLED, "the applier stops");
	else if (!ok)
		error_set(err, ERROR_TIMEOUT,
		          "the marker has not come through the stream and been applied in time");
	pthread_mutex_unlock(&applier->lock);
	return ok;
}
