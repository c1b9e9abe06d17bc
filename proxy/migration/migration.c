/*
 * The migration's thread and its state machine.
 *
 *                 phase_check      phase_prepare    phase_copy
 *   CHECKING ----------------> PREPARING ------> COPYING ------> CATCHING_UP
 *      | blockers: exit 3                           |                 | phase_catch_up
 *      v                              offline: FINISHED               v
 *                                                                 FOLLOWING <--+
 *                                                      cutover_run |           | aborted
 *                                                                  v           |
 *                                                            CUTTING_OVER -----+
 *                                                                  | journal committed (K4)
 *                                                                  v
 *                                               FINISHED <---- SWITCHED <----------+
 *                                                  ^               | cutover_run,  | aborted
 *                                                  |               v back          |
 *                                                  |          FAILING_BACK --------+
 *                               cleanup_all(finish)|               | journal committed (K4)
 *                                                  |               v
 *                                                  +---------- FAILED_BACK
 *
 * From COPYING on a failure leads to FAILED, where the process stays so that the status can
 * be read; resume runs the phase again (each phase can be repeated), cancel undoes all. Before
 * COPYING a failure of a fresh migration undoes what was made and ends with exit 1.
 */
#include "proxy/migration/migration.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/memory.h"
#include "proxy/migration/internal.h"

static const char *const state_names[] = {
	[STATE_CHECKING] = "checking",       [STATE_PREPARING] = "preparing",
	[STATE_COPYING] = "copying",         [STATE_CATCHING_UP] = "catching_up",
	[STATE_FOLLOWING] = "following",     [STATE_CUTTING_OVER] = "cutting_over",
	[STATE_SWITCHED] = "switched",       [STATE_FAILING_BACK] = "failing_back",
	[STATE_FAILED_BACK] = "failed_back", [STATE_FINISHED] = "finished",
	[STATE_FAILED] = "failed",           [STATE_CANCELLED] = "cancelled",
};

const char *
migration_state_name(MigrationState state)
{
	return state_names[state];
}

bool
migration_state_parse(const char *text, MigrationState *out)
{
	for (size_t i = 0; i < sizeof(state_names) / sizeof(state_names[0]); i++) {
		if (strcmp(text, state_names[i]) == 0) {
			*out = (MigrationState)i;
			return true;
		}
	}
	return false;
}

bool
migration_online(const Migration *m)
{
	return m->config->mode == MODE_ONLINE;
}

void
migration_enter_state(Migration *m, MigrationState state)
{
	pthread_mutex_lock(&m->lock);
	bool changed = m->state != state;
	if (changed) {
		m->state = state;
		m->since_us = clock_wall_us();
		m->detail[0] = '\0';
	}
	pthread_mutex_unlock(&m->lock);
	/* Everywhere else somebody wants locks on the target's tables. */
	if (m->applier != NULL)
		applier_allow_early(m->applier, state == STATE_FOLLOWING);
	if (changed)
		log_info("migration", "state is now %s", state_names[state]);
}

/* FAILED, CANCELLED and FINISHED are not recorded: after a restart the migration goes on
 * from the last working state, and the other two have no ledger any more. */
bool
migration_set_state(Migration *m, MigrationState state, Error *err)
{
	if (state != STATE_CHECKING && state < STATE_FINISHED &&
	    !ledger_set_state(m->target, &m->ledger, state_names[state], err))
		return false;
	migration_enter_state(m, state);
	return true;
}

void
migration_set_detail(Migration *m, const char *fmt, ...)
{
	char text[sizeof(m->detail)];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	pthread_mutex_lock(&m->lock);
	snprintf(m->detail, sizeof(m->detail), "%s", text);
	pthread_mutex_unlock(&m->lock);
	log_debug("migration", "now: %s", text);
}

static void
note_error(Migration *m, const Error *err, bool retrying)
{
	pthread_mutex_lock(&m->lock);
	m->error = *err;
	m->retrying = retrying;
	pthread_mutex_unlock(&m->lock);
}

void
migration_clear_error(Migration *m)
{
	Error none = ERROR_INIT;
	note_error(m, &none, false);
}

SchemaWork
migration_schema_work(Migration *m)
{
	return (SchemaWork){
		.source = m->config->source,
		.target = m->config->target,
		.tools = &m->tools,
		.target_sql = m->target,
		.ledger = &m->ledger,
		.catalog = m->catalog,
		.state_dir = m->config->state_dir,
		.selection = &m->selection,
		.jobs = m->config->jobs,
		.maintenance_bytes = m->config->maintenance_bytes,
		.no_owner = m->config->no_owner,
		.no_privileges = m->config->no_privileges,
		.no_security_labels = m->config->no_security_labels,
		.stop = m->stop,
	};
}

/* ---- the walk through the phases ---- */

typedef bool (*Phase)(Migration *m, Error *err);

bool
migration_is_retryable(const Error *err)
{
	return err->class == ERROR_NETWORK || error_has_sqlstate(err, "57P01") ||
	       error_has_sqlstate(err, "57P02") || error_has_sqlstate(err, "57P03") ||
	       error_has_sqlstate(err, "53300");
}

/* The caller holds the lock. */
static void
end_cutover(Migration *m, CutoverOutcome outcome, const Error *err)
{
	m->cutover.outcome = outcome;
	m->cutover.error = *err;
	stop_free(m->cutover_stop);
	m->cutover_stop = NULL;
}

/* What was accepted and will not be run any more, or not before a resume. */
static void
abort_waiting(Migration *m, const Error *err)
{
	pthread_mutex_lock(&m->lock);
	if (m->cutover.outcome == CUTOVER_RUNNING)
		end_cutover(m, CUTOVER_ABORTED, err);
	if (m->verify.outcome == VERIFY_RUNNING) {
		m->verify.outcome = VERIFY_FAILED;
		m->verify.error = *err;
	}
	if (m->addition.outcome == ADDITION_RUNNING) {
		m->addition.outcome = ADDITION_FAILED;
		m->addition.error = *err;
	}
	pthread_mutex_unlock(&m->lock);
}

void
migration_leave_failed(Migration *m)
{
	pthread_mutex_lock(&m->lock);
	MigrationState next = m->state == STATE_FAILED ? m->resumes_in : STATE_FAILED;
	m->resumes_in = STATE_FAILED;
	pthread_mutex_unlock(&m->lock);
	if (next == STATE_FAILED)
		return;
	migration_clear_error(m);
	migration_enter_state(m, next);
}

/* True: it has begun; a stream that was stopped for it is to be begun anew. *err: the stream
 * could not be. */
static bool
follow_addition(Migration *m, const MigrationRequest *request, Error *err)
{
	bool begun = false;

	if (migration_connect(m, err) && addition_begin(m, request, &begun, err))
		return true;
	pthread_mutex_lock(&m->lock);
	m->addition.outcome = ADDITION_FAILED;
	m->addition.error = *err;
	pthread_mutex_unlock(&m->lock);
	log_failure(LOG_ERROR, "addition", err);
	return begun;
}

/* Waits in FAILED for resume (true), or for cancel and stop (false). */
static bool
wait_for_resume(Migration *m, const Error *err)
{
	note_error(m, err, false);
	abort_waiting(m, err);
	log_failure(LOG_ERROR, "migration", err);
	pthread_mutex_lock(&m->lock);
	/* What follows has to catch up first. */
	m->resumes_in = m->state == STATE_COPYING ? STATE_COPYING : STATE_CATCHING_UP;
	pthread_mutex_unlock(&m->lock);
	migration_enter_state(m, STATE_FAILED);

	while (!stop_requested(m->stop)) {
		MigrationRequest *request = NULL;
		if (queue_pop(m->requests, (void **)&request, deadline_in_ms(100)) != QUEUE_OK)
			continue;
		bool resume = request->command == COMMAND_RESUME;
		Error ignored = ERROR_INIT;
		if (request->command == COMMAND_ADD_TABLE || request->command == COMMAND_RECOPY)
			resume = follow_addition(m, request, &ignored);
		free(request);
		if (resume) {
			migration_leave_failed(m);
			return true;
		}
	}
	return false;
}

enum { RETRY_FIRST_MS = 500, RETRY_MOST_MS = 15000 };

/*
 * Runs one phase until it succeeds. Lost connections are retried with back-off; anything
 * else waits in FAILED for the operator. False: stop or cancel.
 */
static bool
run_phase(Migration *m, MigrationState state, Phase phase)
{
	int64_t pause_ms = RETRY_FIRST_MS;

	for (;;) {
		Error err = ERROR_INIT;
		if (migration_connect(m, &err) &&
		    (state == STATE_COPYING || phase_settle_target(m, state, &err)) &&
		    migration_set_state(m, state, &err) && phase(m, &err)) {
			migration_clear_error(m);
			return true;
		}
		if (stop_requested(m->stop))
			return false;
		if (migration_is_retryable(&err)) {
			note_error(m, &err, true);
			log_failure(LOG_WARNING, "migration", &err);
			if (!stop_sleep_ms(m->stop, clock_jitter_ms(pause_ms), NULL))
				return false;
			pause_ms = pause_ms * 2 < RETRY_MOST_MS ? pause_ms * 2 : RETRY_MOST_MS;
			continue;
		}
		if (!wait_for_resume(m, &err))
			return false;
		pause_ms = RETRY_FIRST_MS;
	}
}

/* A fresh start that did not come to copying leaves nothing behind. */
static void
undo_fresh_start(Migration *m)
{
	Error err = ERROR_INIT;

	if (!m->fresh || m->ledger.id[0] == '\0' || stop_requested(m->stop))
		return;
	log_info("migration", "removing what this start has made");
	if (!migration_connect(m, &err) || !cleanup_all(m, false, &err))
		log_failure(LOG_ERROR, "migration", &err);
}

void
migration_tell_route(Migration *m, ListenerRoute route)
{
	if (m->listener != NULL)
		listener_set_route(m->listener, route);
}

/* Up to PREPARING: failures end the process, nothing has to be waited for. */
static bool
begin(Migration *m, MigrationState *at)
{
	Error err = ERROR_INIT;
	bool blocked = false;

	*at = STATE_CHECKING;
	if (!phase_open(m, &err) || !cutover_recover(m, at, &err))
		goto failed;
	migration_tell_route(m, *at == STATE_SWITCHED ? ROUTE_TARGET : ROUTE_SOURCE);
	if (*at != STATE_CHECKING)
		return true;
	if (!phase_check(m, &blocked, &err))
		goto failed;
	if (blocked) {
		m->exit_code = 3;
		migration_enter_state(m, STATE_FAILED);
		return false;
	}
	if (!phase_prepare(m, &err))
		goto failed;
	return true;

failed:
	if (err.class != ERROR_CANCELLED) {
		m->exit_code = 1;
		note_error(m, &err, false);
		log_failure(LOG_ERROR, "migration", &err);
		migration_enter_state(m, STATE_FAILED);
	}
	phase_stop_stream(m);
	undo_fresh_start(m);
	return false;
}

void
migration_follow_pause(Migration *m)
{
	Error err = ERROR_INIT;
	bool wanted = atomic_load(&m->pause_wanted);

	if (wanted == m->paused)
		return;
	if (wanted && !applier_pause(m->applier, deadline_in_ms(60000), &err)) {
		log_failure(LOG_WARNING, "migration", &err);
		return;
	}
	m->paused = wanted;
	log_info("migration", wanted ? "apply is paused; receiving goes on" : "apply goes on");
	if (!wanted)
		applier_resume(m->applier);
}

/* True: switched. */
static bool
follow_cutover(Migration *m, const MigrationRequest *request)
{
	Error err = ERROR_INIT;
	CutoverOutcome outcome = CUTOVER_ABORTED;
	bool back = request->command == COMMAND_FAILBACK;
	bool ok = !m->paused && (!back || way_back_await(m, &err)) && migration_connect(m, &err);
	Way way = back ? way_back(m) : way_forth(m);

	ok = ok && cutover_run(&way, request, &outcome, &err);

	if (m->paused)
		error_set(&err, ERROR_CONFIG, "the apply is paused: resume it first");
	pthread_mutex_lock(&m->lock);
	end_cutover(m, outcome, &err);
	pthread_mutex_unlock(&m->lock);
	if (!ok)
		log_failure(LOG_ERROR, "cutover", &err);
	return outcome == CUTOVER_SWITCHED;
}

static void
follow_verify(Migration *m, const MigrationRequest *request)
{
	Error err = ERROR_INIT;
	VerifyStatus now = {0};
	int64_t start_us = clock_mono_us();
	bool ok = !m->paused && migration_connect(m, &err) && cutover_verify(m, request, &now, &err);

	if (m->paused)
		error_set(&err, ERROR_CONFIG, "the apply is paused: resume it first");
	pthread_mutex_lock(&m->lock);
	now.id = m->verify.id;
	now.outcome = ok ? VERIFY_EQUAL : VERIFY_FAILED;
	now.took_ms = (double)(clock_mono_us() - start_us) / 1000.0;
	now.error = err;
	m->verify = now;
	pthread_mutex_unlock(&m->lock);
	if (ok)
		log_info("verify", "source and target are equal in %s%zu tables",
		         request->table_count == 0 ? "all " : "", now.tables);
	else
		log_failure(LOG_ERROR, "verify", &err);
}

typedef enum { FOLLOW_SWITCHED, FOLLOW_FAILED, FOLLOW_STOPPED } FollowEnd;

/* An automatic cutover that was aborted is tried again after this. */
enum { AUTO_CUTOVER_AGAIN_MS = 30000 };

/* FOLLOWING: the stream runs by itself; here commands are taken and its health is watched. */
static FollowEnd
follow(Migration *m, Error *err)
{
	int64_t next_auto_ms = clock_mono_ms();
	int64_t next_lock_ms = 0;

	while (!stop_requested(m->stop)) {
		MigrationRequest *request = NULL;

		if (!migration_keep_lock(m, &next_lock_ms, err))
			return FOLLOW_FAILED;
		error_clear(err);
		migration_follow_pause(m);
		if (m->config->cutover_auto && !atomic_load(&m->auto_ended) && !m->paused &&
		    !addition_is_on(m) && clock_mono_ms() >= next_auto_ms) {
			MigrationRequest own = {.command = COMMAND_CUTOVER};
			uint64_t ticket;
			next_auto_ms = clock_mono_ms() + AUTO_CUTOVER_AGAIN_MS;
			if (!migration_command(m, &own, &ticket, err))
				log_failure(LOG_WARNING, "cutover", err);
		}
		Way way = way_forth(m);
		if (way_failed(&way, err) || !addition_tend(m, err))
			return FOLLOW_FAILED;
		if (queue_pop(m->requests, (void **)&request, deadline_in_ms(50)) != QUEUE_OK)
			continue;
		MigrationRequest todo = *request;
		free(request);
		if ((todo.command == COMMAND_CUTOVER || todo.command == COMMAND_REHEARSE) &&
		    follow_cutover(m, &todo))
			return FOLLOW_SWITCHED;
		if (todo.command == COMMAND_VERIFY)
			follow_verify(m, &todo);
		if ((todo.command == COMMAND_ADD_TABLE || todo.command == COMMAND_RECOPY) &&
		    follow_addition(m, &todo, err) && err->class != ERROR_NONE)
			return FOLLOW_FAILED;
		if (todo.command == COMMAND_RESUME)
			addition_retry(m);
	}
	return FOLLOW_STOPPED;
}

/* FOLLOWING until the switch, through failures. False: stop or cancel. */
static bool
run_following(Migration *m)
{
	for (;;) {
		Error err = ERROR_INIT;
		if (migration_connect(m, &err) && phase_settle_target(m, STATE_FOLLOWING, &err) &&
		    migration_set_state(m, STATE_FOLLOWING, &err)) {
			FollowEnd end = follow(m, &err);
			if (end == FOLLOW_SWITCHED)
				return true;
			if (end == FOLLOW_STOPPED)
				return false;
		} else if (migration_is_retryable(&err)) {
			note_error(m, &err, true);
			if (!stop_sleep_ms(m->stop, clock_jitter_ms(RETRY_FIRST_MS), NULL))
				return false;
			continue;
		}
		do {
			if (!wait_for_resume(m, &err))
				return false;
		} while (!migration_connect(m, &err) || !phase_settle_target(m, STATE_CATCHING_UP, &err) ||
		         !phase_catch_up(m, &err));
	}
}

/* True: finished. */
static bool
end_finish(Migration *m)
{
	Error err = ERROR_INIT;

	migration_clear_error(m);
	if (cleanup_all(m, true, &err)) {
		migration_enter_state(m, STATE_FINISHED);
		return true;
	}
	note_error(m, &err, false);
	log_failure(LOG_ERROR, "migration", &err);
	return false;
}

/* After the journal's commit: it says so where finish and a start look first. */
static void
enter_failed_back(Migration *m)
{
	Error err = ERROR_INIT;

	way_back_end(m);
	while (!stop_requested(m->stop) && !(migration_connect_target(m, &err) &&
	                                     migration_set_state(m, STATE_FAILED_BACK, &err))) {
		log_failure(LOG_WARNING, "cutover", &err);
		if (!stop_sleep_ms(m->stop, RETRY_FIRST_MS, NULL))
			return;
	}
	migration_tell_route(m, ROUTE_SOURCE);
}

/* The way back goes on by itself, or is tried again; the application depends on none of it. */
static void
tend_switched(Migration *m, int64_t *next_lock_ms)
{
	Error err = ERROR_INIT;

	if (m->state != STATE_SWITCHED || (m->back.loaded && m->back.state == WAY_BACK_NONE))
		return;
	if (migration_keep_lock(m, next_lock_ms, &err))
		way_back_tend(m);
	else
		way_back_lost(m, &err);
}

/* It was asked for while the cutover was under way, and had to wait for its end. */
static void
refuse_verify(Migration *m)
{
	Error err = ERROR_INIT;

	error_set(&err, ERROR_CONFIG, "cannot verify: the migration has switched since it was asked");
	error_set_hint(&err,
	               "`pgbaton cutover` compares within its hold where `run` was given --verify");
	abort_waiting(m, &err);
}

/* SWITCHED, and with a way back FAILED_BACK: until finish. */
static void
run_switched(Migration *m, MigrationState at)
{
	int64_t next_lock_ms = 0;

	migration_tell_route(m, at == STATE_SWITCHED ? ROUTE_TARGET : ROUTE_SOURCE);
	migration_enter_state(m, at);
	while (!stop_requested(m->stop)) {
		MigrationRequest *request = NULL;

		tend_switched(m, &next_lock_ms);
		if (queue_pop(m->requests, (void **)&request, deadline_in_ms(100)) != QUEUE_OK)
			continue;
		MigrationRequest todo = *request;
		free(request);
		if (todo.command == COMMAND_VERIFY)
			refuse_verify(m);
		if (todo.command == COMMAND_RESUME)
			way_back_retry(m);
		if (todo.command == COMMAND_FAILBACK && follow_cutover(m, &todo))
			enter_failed_back(m);
		if (todo.command == COMMAND_FINISH && end_finish(m))
			return;
	}
}

static void
close_sessions(Migration *m)
{
	sql_close(m->lock_session);
	sql_close(m->source);
	sql_close(m->target);
	m->lock_session = m->source = m->target = NULL;
}

static void
run_cancel(Migration *m)
{
	Error err = ERROR_INIT;

	/* The old stop has been used up; what undoes must not be stopped by it. */
	sql_close(m->source);
	sql_close(m->target);
	m->source = migration_control_session(m->config->source, "source", "cancel", NULL, &err);
	m->target = m->source != NULL
	                ? migration_control_session(m->config->target, "target", "cancel", NULL, &err)
	                : NULL;
	if (m->target != NULL && cleanup_all(m, false, &err)) {
		migration_enter_state(m, STATE_CANCELLED);
		return;
	}
	bool away = err.class == ERROR_NETWORK || err.class == ERROR_AUTH;
	error_set_hint(&err, "run `pgbaton cancel` with --source and --target again when %s",
	               away ? "both servers can be reached" : "that is mended");
	m->exit_code = 1;
	pthread_mutex_lock(&m->lock);
	m->resumes_in = STATE_FAILED; /* only another cancel leads out of it */
	pthread_mutex_unlock(&m->lock);
	note_error(m, &err, false);
	log_failure(LOG_ERROR, "migration", &err);
	migration_enter_state(m, STATE_FAILED);
}

static void
run(Migration *m)
{
	MigrationState at;

	if (!begin(m, &at))
		return;
	if (at == STATE_CHECKING) {
		if (!run_phase(m, STATE_COPYING, phase_copy))
			return;
		if (!migration_online(m)) {
			if (run_phase(m, STATE_COPYING, phase_offline_end))
				migration_enter_state(m, STATE_FINISHED);
			return;
		}
		if (!run_phase(m, STATE_CATCHING_UP, phase_catch_up) || !run_following(m))
			return;
		phase_stop_stream(m);
		at = STATE_SWITCHED;
	}
	run_switched(m, at);
}

/*
 * A migration that fails when it is started again is no reason to leave the application
 * without its database: the listener serves it until somebody stops the process. A fresh one,
 * whose check found something, has no application behind it yet.
 */
static void
serve_on(Migration *m)
{
	if (m->listener == NULL || m->fresh || listener_route(m->listener) == ROUTE_NONE ||
	    m->state != STATE_FAILED || stop_requested(m->stop))
		return;
	log_warning("migration", "the migration stands still; the listener goes on serving the %s",
	            listener_route_name(listener_route(m->listener)));
	while (stop_sleep_ms(m->stop, 3600 * 1000, NULL))
		;
}

/* Once more, if that was asked for: both servers may be there now. */
static void
cancel_again(Migration *m)
{
	if (m->state != STATE_FAILED || !atomic_exchange(&m->cancel_wanted, false))
		return;
	m->exit_code = 0;
	run_cancel(m);
	close_sessions(m);
}

/*
 * The migration is at its end, and the application still goes through the listener: it is
 * served until its last connection has gone, or somebody stops the process. A cancel that did
 * not reach both servers is no reason to cut it off either.
 */
static void
serve_out(Migration *m, bool cancelled)
{
	enum { LOOK_EVERY_MS = 200 };
	ListenerState listener;

	if (m->listener == NULL || !migration_online(m) ||
	    (m->state != STATE_FINISHED && m->state != STATE_CANCELLED &&
	     !(m->state == STATE_FAILED && cancelled)))
		return;
	listener_state(m->listener, &listener);
	if (listener.sessions + listener.logins > 0)
		log_info("migration",
		         "%zu clients are still connected: the listener goes on serving the %s until they "
		         "have gone or the process is stopped",
		         listener.sessions + listener.logins, listener_route_name(listener.route));
	while (listener.sessions + listener.logins > 0 && !atomic_load(&m->end_wanted)) {
		/* cancel has used the stop up. */
		(void)!stop_sleep_ms(NULL, LOOK_EVERY_MS, NULL);
		cancel_again(m);
		listener_state(m->listener, &listener);
	}
}

static void *
migration_main(void *arg)
{
	Migration *m = arg;
	Error ended = ERROR_INIT;

	run(m);
	phase_stop_stream(m);
	way_back_stop(m);
	serve_on(m);
	bool cancelled = atomic_exchange(&m->cancel_wanted, false);
	if (cancelled) {
		if (m->ledger.id[0] != '\0')
			run_cancel(m);
		else
			migration_enter_state(m, STATE_CANCELLED); /* nothing was made yet */
	}
	close_sessions(m);
	/* What was still to be done then: whoever waits for it would wait as long as clients stay. */
	error_set(&ended, ERROR_CANCELLED, "the migration has ended before it came to this");
	abort_waiting(m, &ended);
	serve_out(m, cancelled);
	return NULL;
}

/* ---- the outside ---- */

Migration *
migration_start(const Config *config, Error *err)
{
	Migration *m = mem_zalloc(sizeof(Migration));

	m->config = config;
	m->stop = stop_new();
	m->requests = queue_new(64);
	m->throttle = throttle_new();
	m->arena = arena_new(0);
	m->selection = config->selection;
	throttle_set_rate(m->throttle, config->copy_rate);
	m->lag_limit = config->max_source_lag;
	m->state = STATE_CHECKING;
	m->resumes_in = STATE_FAILED;
	m->since_us = clock_wall_us();
	pthread_mutex_init(&m->lock, NULL);
	bool ok = true;
	if (config->listen.address_count > 0) {
		m->listener = listener_start(&config->listen, err);
		ok = m->listener != NULL;
	}
	if (ok && pthread_create(&m->thread, NULL, migration_main, m) != 0)
		ok = error_set(err, ERROR_BUG, "cannot start the migration's thread");
	if (ok)
		return m;
	migration_free(m);
	return NULL;
}

void
migration_stop(Migration *migration)
{
	atomic_store(&migration->end_wanted, true);
	migration_request_stop(migration);
}

void
migration_request_stop(Migration *m)
{
	stop_request(m->stop);
	pthread_mutex_lock(&m->lock);
	if (m->cutover_stop != NULL)
		stop_request(m->cutover_stop);
	pthread_mutex_unlock(&m->lock);
}

int
migration_wait(Migration *migration)
{
	pthread_join(migration->thread, NULL);
	return migration->exit_code;
}

void
migration_free(Migration *migration)
{
	void *request;

	if (migration == NULL)
		return;
	listener_stop(migration->listener);
	queue_close(migration->requests);
	while (queue_pop(migration->requests, &request, 1) == QUEUE_OK)
		free(request);
	queue_free(migration->requests);
	schema_tools_free(&migration->tools);
	catalog_free(migration->catalog);
	for (size_t i = 0; i < migration->old_count; i++)
		catalog_free(migration->old_catalogs[i]);
	free(migration->old_catalogs);
	arena_free(migration->arena);
	catalog_free(migration->back.catalog);
	throttle_free(migration->throttle);
	stop_free(migration->stop);
	pthread_mutex_destroy(&migration->lock);
	free(migration);
}
