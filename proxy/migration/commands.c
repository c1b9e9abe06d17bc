#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/memory.h"
#include "proxy/migration/internal.h"

static bool
refuse(Error *err, MigrationState state, const char *what, const char *needs)
{
	error_set(err, ERROR_CONFIG, "cannot %s while %s", what, migration_state_name(state));
	return error_set_hint(err, "%s", needs);
}

/* What helps in that state whoever wants something that can be done while following only. */
static bool
refuse_unless_following(Error *err, MigrationState state, const char *what)
{
	static const char *const needs[] = {
		[STATE_CUTTING_OVER] = "wait for the cutover's end",
		[STATE_SWITCHED] = "it has switched: `pgbaton failback` leads back where `run` was given"
						   " --failback, `pgbaton finish` ends the migration",
		[STATE_FAILING_BACK] = "wait for the failback's end",
		[STATE_FAILED_BACK] = "it has come back to the old source: `pgbaton finish` ends the"
							  " migration, and another one can begin",
		[STATE_FINISHED] = "this migration is over",
		[STATE_FAILED] = "`pgbaton status` says why; `pgbaton resume` tries again",
		[STATE_CANCELLED] = "this migration is over",
	};

	if (state == STATE_FOLLOWING)
		return true;
	return refuse(err, state, what,
	              needs[state] != NULL ? needs[state]
	                                   : "`pgbaton wait --for following` waits until it can");
}

static bool
failback_allowed(Migration *m, Error *err)
{
	if (m->cutover.outcome == CUTOVER_RUNNING)
		return error_set(err, ERROR_CONFIG, "a %s is running already",
		                 m->cutover.failback ? "failback" : "cutover");
	if (m->state == STATE_FAILED_BACK)
		return refuse(err, m->state, "fail back",
		              "the old source is live already: `pgbaton finish` ends the migration");
	if (m->state != STATE_SWITCHED)
		return refuse(err, m->state, "fail back", "the way back is open once it has switched");
	return way_back_may_come(m) || way_back_refused(m, err);
}

static bool
being_added(Error *err)
{
	error_set(err, ERROR_CONFIG, "tables are being added or copied afresh");
	return error_set_hint(err, "see addition in `pgbaton status --json`; `pgbaton resume` tries"
	                           " again after a failure");
}

static bool
addition_allowed(Migration *m, MigrationCommand command, Error *err)
{
	bool add = command == COMMAND_ADD_TABLE;
	bool failed = m->state == STATE_FAILED && m->resumes_in == STATE_CATCHING_UP;
	/* The apply has met one more such table. */
	bool more = failed && !add && m->apart.kind == APART_RECOPY;

	if (!more && (m->addition.outcome == ADDITION_RUNNING || addition_is_on(m)))
		return being_added(err);
	if (m->cutover.outcome == CUTOVER_RUNNING || m->verify.outcome == VERIFY_RUNNING)
		return error_set(err, ERROR_CONFIG, "a cutover or a comparison is running");
	if (strlen(m->config->name) > LEDGER_APART_NAME_MAX)
		return error_set(err, ERROR_CONFIG, "the migration's --name has more than %d characters",
		                 LEDGER_APART_NAME_MAX);
	/* A table that stopped the apply is a reason to copy it afresh. */
	if (failed && !add)
		return true;
	return refuse_unless_following(err, m->state, add ? "add tables" : "copy tables afresh");
}

static bool
finish_allowed(Migration *m, Error *err)
{
	bool switched = m->state == STATE_SWITCHED || m->state == STATE_FAILED_BACK;

	/* A failback that prepares itself is SWITCHED still: queued behind it, a finish that was meant
	 * for one side would end the migration on the other. */
	if (m->state == STATE_CUTTING_OVER || m->state == STATE_FAILING_BACK ||
	    (switched && m->cutover.outcome == CUTOVER_RUNNING)) {
		error_set(err, ERROR_CONFIG, "cannot finish while a %s is running",
		          m->state == STATE_CUTTING_OVER ? "cutover" : "failback");
		return error_set_hint(err, "wait for its end: it decides which side is live");
	}
	return switched || refuse(err, m->state, "finish",
	                          "finish ends a migration that has switched; "
	                          "`pgbaton cancel` gives one up before");
}

/* Which states a command may come in; the caller holds the lock. */
static bool
command_allowed(Migration *m, MigrationCommand command, Error *err)
{
	MigrationState now = m->state;

	switch (command) {
	case COMMAND_ADD_TABLE:
	case COMMAND_RECOPY:
		return addition_allowed(m, command, err);
	case COMMAND_CUTOVER:
	case COMMAND_REHEARSE:
		if (m->addition.outcome == ADDITION_RUNNING || addition_is_on(m))
			return being_added(err);
		if (m->cutover.outcome == CUTOVER_RUNNING)
			return error_set(err, ERROR_CONFIG, "a %s is running already",
			                 m->cutover.failback ? "failback" : "cutover");
		if (!refuse_unless_following(err, now, "cut over"))
			return false;
		if (atomic_load(&m->pause_wanted))
			return refuse(err, now, "cut over a paused migration", "run `pgbaton resume` first");
		return true;
	case COMMAND_VERIFY:
		if (m->addition.outcome == ADDITION_RUNNING || addition_is_on(m))
			return being_added(err);
		if (m->verify.outcome == VERIFY_RUNNING)
			return error_set(err, ERROR_CONFIG, "a comparison is running already");
		return refuse_unless_following(err, now, "verify");
	case COMMAND_FAILBACK:
		return failback_allowed(m, err);
	case COMMAND_FINISH:
		return finish_allowed(m, err);
	case COMMAND_CANCEL:
		if (now >= STATE_SWITCHED && now <= STATE_FINISHED)
			return refuse(err, now, "cancel", "it has switched: `pgbaton finish` ends it");
		if (now == STATE_CUTTING_OVER)
			return refuse(err, now, "cancel", "wait for the cutover's end");
		return true;
	case COMMAND_ABORT:
		if (m->cutover.outcome == CUTOVER_RUNNING)
			return true;
		error_set(err, ERROR_CONFIG, "no cutover or failback is running");
		return error_set_hint(err, "`pgbaton status` says where the migration stands");
	case COMMAND_PAUSE:
	case COMMAND_RESUME:
		/* It needs the applier until its end, and may end the migration. */
		if (m->cutover.outcome == CUTOVER_RUNNING && command == COMMAND_PAUSE)
			return error_set(err, ERROR_CONFIG, "a cutover is running: wait for its end");
		if (now == STATE_FAILED && (m->resumes_in == STATE_FAILED || command == COMMAND_PAUSE))
			return refuse(err, now, "pause or resume", "see `pgbaton status` for why");
		if (now == STATE_SWITCHED && command == COMMAND_RESUME && m->back.state == WAY_BACK_FAILED)
			return true;
		return now < STATE_SWITCHED || now == STATE_FAILED ||
		       refuse(err, now, "pause or resume", "nothing is applied any more");
	case COMMAND_THROTTLE:
		return now < STATE_SWITCHED || now == STATE_FAILED ||
		       refuse(err, now, "throttle the copy", "nothing is copied any more");
	}
	return error_set(err, ERROR_BUG, "unknown command %d", (int)command);
}

/* At once: the workers go by it from their next run of rows on, the monitor from its next
 * round on. */
static void
set_throttle(Migration *m, const MigrationRequest *request)
{
	if (request->set_copy_rate) {
		throttle_set_rate(m->throttle, request->copy_rate);
		log_info("migration", "copy rate is now %llu bytes a second (0: no limit)",
		         (unsigned long long)request->copy_rate);
	}
	if (!request->set_lag_limit)
		return;
	pthread_mutex_lock(&m->lock);
	m->lag_limit = request->lag_limit;
	pthread_mutex_unlock(&m->lock);
	log_info("migration",
	         "the copy rests while a standby is more than %lld ms or %llu bytes behind"
	         " (0: no limit)",
	         (long long)request->lag_limit.ms, (unsigned long long)request->lag_limit.bytes);
}

bool
migration_command(Migration *migration, const MigrationRequest *request, uint64_t *ticket,
                  Error *err)
{
	pthread_mutex_lock(&migration->lock);
	bool ok = command_allowed(migration, request->command, err);
	if (ok && (request->command == COMMAND_CUTOVER || request->command == COMMAND_REHEARSE ||
	           request->command == COMMAND_FAILBACK)) {
		uint64_t id = migration->cutover.id + 1;
		migration->cutover_stop = stop_new();
		/* Asked for while the process is stopping: what stops it has passed here already. */
		if (stop_requested(migration->stop))
			stop_request(migration->cutover_stop);
		migration->cutover = (CutoverStatus){
			.id = id, .outcome = CUTOVER_RUNNING, .failback = request->command == COMMAND_FAILBACK};
	}
	if (ok && request->command == COMMAND_VERIFY) {
		uint64_t id = migration->verify.id + 1;
		migration->verify = (VerifyStatus){.id = id, .outcome = VERIFY_RUNNING};
	}
	bool addition = request->command == COMMAND_ADD_TABLE || request->command == COMMAND_RECOPY;
	if (ok && addition) {
		uint64_t id = migration->addition.id + 1;
		migration->addition = (AdditionStatus){
			.id = id, .outcome = ADDITION_RUNNING, .recopy = request->command == COMMAND_RECOPY};
	}
	if (ok && request->command == COMMAND_ABORT) {
		stop_request(migration->cutover_stop);
		atomic_store(&migration->auto_ended, true);
	}
	*ticket = request->command == COMMAND_VERIFY ? migration->verify.id
	          : addition                         ? migration->addition.id
	                                             : migration->cutover.id;
	pthread_mutex_unlock(&migration->lock);
	if (!ok)
		return false;

	if (request->command == COMMAND_ABORT) {
		log_warning("cutover", "to be given up, as asked");
		return true;
	}
	if (request->command == COMMAND_THROTTLE) {
		set_throttle(migration, request);
		return true;
	}
	if (request->command == COMMAND_RESUME)
		migration_leave_failed(migration);
	if (request->command == COMMAND_PAUSE || request->command == COMMAND_RESUME)
		atomic_store(&migration->pause_wanted, request->command == COMMAND_PAUSE);
	if (request->command == COMMAND_CANCEL) {
		/* The next one is the cancel's own. */
		migration_clear_error(migration);
		atomic_store(&migration->cancel_wanted, true);
		migration_request_stop(migration);
		return true;
	}

	MigrationRequest *copy = mem_alloc(sizeof(*copy));
	*copy = *request;
	if (queue_push(migration->requests, copy, deadline_in_ms(1000)) != QUEUE_OK) {
		free(copy);
		return error_set(err, ERROR_TIMEOUT, "too many commands are waiting");
	}
	return true;
}
