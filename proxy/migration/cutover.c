/*
 * The cutover: design.md K1-K4, without a listener.
 *
 *   prepare    triggers made (disabled), materialised views, a first drain; nobody is held
 *   journal    SWITCHING on the target: a start after a crash undoes what follows
 *   fence      one source transaction locks all tables (K2); from here writers wait
 *   marker     committed by another session, waited for in the stream (K3)
 *   sequences  read after the marker, set on the target
 *   commit     target transaction made ready, fence committed, journal committed (K4)
 *
 * Until the journal's commit every failure ends in undo(): the fence session is rolled back,
 * the triggers are off, the journal is NONE, the source goes on. Its
 * idle_in_transaction_session_timeout lets the source's own server end the fence when this
 * process stops in between (K1); then the fence's COMMIT fails and undo() follows.
 */
#include <stdio.h>
#include <string.h>

#include "apply/schema/target.h"
#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"
#include "proxy/migration/internal.h"

enum {
	ATTEMPTS = 3,
	ATTEMPT_PAUSE_MS = 1000,
	FIRST_DRAIN_MS = 60000,    /* for all drains before the hold */
	QUICK_DRAIN_MS = 250,      /* what the hold may then take about again */
	FENCE_PATIENCE_MS = 10000, /* for triggers that could not be made ahead of time */
	OLD_FENCE_MS = 30000,
	LOOKUP_PAUSE_MS = 200
};

typedef struct {
	Migration *m;
	Sql *fence;    /* the source session that holds the locks */
	Sql *switcher; /* the target session that commits the journal */
	int switcher_pid;
	int64_t deadline_ms;   /* K1 */
	int64_t held_since_us; /* 0: nobody is held */
	bool fence_enabled;    /* the fence's COMMIT was tried */
	bool outcome_unknown;  /* the journal's: neither undone nor switched until it is known (K4) */
	char tables[64];       /* relations_print() of what was compared before the hold */
	CutoverStatus now;
} Cutover;

static double
ms_since(int64_t start_us)
{
	return (double)(clock_mono_us() - start_us) / 1000.0;
}

static void
publish(Cutover *c, const char *step)
{
	Migration *m = c->m;

	snprintf(c->now.step, sizeof(c->now.step), "%s", step);
	pthread_mutex_lock(&m->lock);
	c->now.id = m->cutover.id;
	m->cutover = c->now;
	pthread_mutex_unlock(&m->lock);
	log_info("cutover", "%s", step);
}

static bool
in_time(const Cutover *c, Error *err)
{
	if (stop_requested(c->m->stop))
		return error_set(err, ERROR_CANCELLED, "stopped on request");
	if (deadline_left_ms(c->deadline_ms) > 0)
		return true;
	return error_set(err, ERROR_TIMEOUT, "the hold's deadline has passed");
}

/* ---- before anybody is held ---- */

/* Which relations there are and how many columns they have, in one cheap query: to see under
 * the locks that nothing has come or changed since refuse_ddl looked closely. */
static bool
relations_print(Cutover *c, char *out, size_t size, Error *err)
{
	char query[480];

	snprintf(query, sizeof(query),
	         "SELECT count(*) || '.' || coalesce(sum(pg_catalog.hashtext(c.oid || '.' || c.relnatts"
	         " || '.' || c.relname)), 0) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n"
	         " ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'"
	         " AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', '%s')",
	         c->m->ledger.name);
	return sql_value(c->m->source, err, out, size, query);
}

/* A table that was made, or a column that was added, while we drained would be lost. */
static bool
refuse_late_ddl(Cutover *c, Error *err)
{
	char now[sizeof(c->tables)];

	if (!relations_print(c, now, sizeof(now), err))
		return false;
	if (strcmp(now, c->tables) == 0)
		return true;
	error_set(err, ERROR_CONFIG,
	          "tables were made or changed on the source while the cutover began");
	return error_set_hint(err, "ask for the cutover again: it will name them");
}

static bool
refuse_ddl(Cutover *c, Error *err)
{
	Migration *m = c->m;
	bool same;
	char what[400];

	if (!relations_print(c, c->tables, sizeof(c->tables), err) ||
	    !source_check_publication(m->source, &m->ledger, m->catalog, err) ||
	    !catalog_compare_source(m->catalog, m->source, &m->config->selection, m->ledger.name, &same,
	                            what, sizeof(what), err))
		return false;
	if (same)
		return true;
	error_set(err, ERROR_CONFIG, "the source's tables are not those that were copied: %s", what);
	return error_set_hint(err, "undo the change on the source, or cancel and begin again");
}

static bool
set_journal(Migration *m, Journal journal, Error *err)
{
	Buffer sql = BUFFER_INIT;

	ledger_journal_sql(&m->ledger, journal, &sql);
	bool ok = sql_exec(m->target, err, buffer_cstr(&sql));
	buffer_free(&sql);
	return ok;
}

/*
 * What is behind now need not be drained while writers wait. A long drain leaves behind what
 * was written during it, so it is drained again until there is next to nothing; when the
 * source writes as fast as the target applies, the last one has to do.
 */
static bool
drain_before_hold(Migration *m, Error *err)
{
	int64_t deadline_ms = deadline_in_ms(FIRST_DRAIN_MS);

	for (;;) {
		int64_t start_us = clock_mono_us();
		if (!phase_drain_to_marker(m, deadline_ms, err))
			return error_add_context(err, "draining before the hold");
		if (ms_since(start_us) < QUICK_DRAIN_MS ||
		    deadline_left_ms(deadline_ms) < FIRST_DRAIN_MS / 2)
			return true;
	}
}

static bool
prepare(Cutover *c, Error *err)
{
	Migration *m = c->m;
	SourceSetup setup = migration_source_setup(m);
	int64_t start_us = clock_mono_us();

	setup.lock_patience_ms = FENCE_PATIENCE_MS;

	publish(c, "prepare");
	if (!refuse_ddl(c, err) || !source_fence_prepare(&setup, err) ||
	    !target_refresh_matviews(m->target, m->catalog, err))
		return false;
	if (!drain_before_hold(m, err))
		return false;
	c->now.prepare_ms = ms_since(start_us);
	return true;
}

/* ---- the hold ---- */

static bool
open_sessions(Cutover *c, Error *err)
{
	Migration *m = c->m;
	char purpose[80];

	snprintf(purpose, sizeof(purpose), "fence %s", m->ledger.name);
	c->fence = sql_connect(m->config->source, "source", purpose, m->stop, err);
	c->switcher = c->fence != NULL
	                  ? sql_connect(m->config->target, "target", "switch", m->stop, err)
	                  : NULL;
	if (c->switcher == NULL)
		return false;
	c->switcher_pid = PQbackendPID(sql_pgconn(c->switcher));
	return true;
}

static bool
lock_tables(Cutover *c, Error *err)
{
	Migration *m = c->m;

	publish(c, "fence");
	c->held_since_us = clock_mono_us();
	c->deadline_ms = clock_mono_ms() + (c->deadline_ms > 0 ? c->deadline_ms : 0);
	bool ok = source_fence_lock(c->fence, m->catalog, c->deadline_ms, err);
	c->now.fence_ms = ms_since(c->held_since_us);
	FAULT_POINT("cutover_locked");
	return ok;
}

static bool
drain(Cutover *c, Error *err)
{
	int64_t start_us = clock_mono_us();

	publish(c, "drain");
	bool ok = phase_drain_to_marker(c->m, c->deadline_ms, err);
	c->now.drain_ms = ms_since(start_us);
	FAULT_POINT("cutover_drained");
	return ok || error_add_context(err, "draining");
}

/* --verify, under the locks: neither side changes. It sees rows; new tables are
 * refuse_late_ddl's business. */
static bool
compare_rows(Cutover *c, Error *err)
{
	Migration *m = c->m;
	int64_t start_us = clock_mono_us();

	if (m->config->verify == VERIFY_OFF)
		return true;
	publish(c, "verify");
	bool ok = verify_tables(m->source, m->target, m->catalog, m->config->verify_kind, err);
	c->now.verify_ms = ms_since(start_us);
	return ok && in_time(c, err);
}

static bool
move_sequences(Cutover *c, Error *err)
{
	Migration *m = c->m;
	int64_t start_us = clock_mono_us();
	size_t count = 0;

	publish(c, "sequences");
	bool ok = target_set_sequences(m->source, m->target, m->catalog, m->config->sequence_margin,
	                               &count, err);
	c->now.sequences = count;
	c->now.sequences_ms = ms_since(start_us);
	FAULT_POINT("cutover_sequences");
	return ok && in_time(c, err);
}

/* The target's transaction: all that the switch changes there, open until the fence is in. */
static bool
ready_target(Cutover *c, Error *err)
{
	Migration *m = c->m;
	Buffer sql = BUFFER_INIT;

	buffer_printf(&sql, "BEGIN; SET LOCAL lock_timeout = %d; SET LOCAL synchronous_commit = on;",
	              deadline_left_ms(c->deadline_ms));
	bool ok = target_restore_sql(m->target, &m->ledger, &sql, err);
	if (ok) {
		buffer_printf(&sql, "; DELETE FROM %s.object WHERE side = 'target';", m->ledger.schema);
		ledger_journal_sql(&m->ledger, JOURNAL_SWITCHED, &sql);
		ok = sql_exec(c->switcher, err, buffer_cstr(&sql));
	}
	buffer_free(&sql);
	return ok && in_time(c, err);
}

static bool
commit_fence(Cutover *c, Error *err)
{
	Migration *m = c->m;

	/* The server's own deadline counts idle time anew after each statement: give it what
	 * is left now. */
	if (!sql_execf(c->fence, err, "SET LOCAL idle_in_transaction_session_timeout = %d",
	               deadline_left_ms(c->deadline_ms)) ||
	    !source_fence_enable(c->fence, &m->ledger, m->catalog, err))
		return false;
	FAULT_POINT("cutover_fence_enabled");
	if (!in_time(c, err))
		return false;
	c->fence_enabled = true;
	bool ok = sql_exec(c->fence, err, "COMMIT");
	FAULT_POINT("cutover_fence_committed");
	return ok || error_add_context(err, "committing the fence");
}

/*
 * What the journal says once no other session can change it any more: the switcher's backend
 * is ended, its row lock is waited out. Nobody is released before this is known (K4).
 */
static bool
settled_journal(Migration *m, int backend_pid, Journal *journal, Error *err)
{
	return migration_connect(m, err) &&
	       sql_execf(m->target, err, "SELECT pg_terminate_backend(%d)", backend_pid) &&
	       sql_execf(m->target, err, "SELECT 1 FROM %s.migration FOR UPDATE", m->ledger.schema) &&
	       ledger_journal(m->target, &m->ledger, journal, err);
}

static bool
commit_journal(Cutover *c, Error *err)
{
	Migration *m = c->m;
	Error first = ERROR_INIT;

	if (sql_exec(c->switcher, &first, "COMMIT"))
		return true;

	log_failure(LOG_WARNING, "cutover", &first);
	for (;;) {
		Journal journal;
		Error err_lookup = ERROR_INIT;
		if (settled_journal(m, c->switcher_pid, &journal, &err_lookup)) {
			if (journal == JOURNAL_SWITCHED)
				return true;
			*err = first;
			return error_add_context(err, "committing the journal");
		}
		log_failure(LOG_WARNING, "cutover", &err_lookup);
		if (!stop_sleep_ms(m->stop, LOOKUP_PAUSE_MS, err)) {
			c->outcome_unknown = true;
			error_set(err, ERROR_CANCELLED,
			          "stopped while it is not known whether the target has "
			          "committed the switch");
			return error_set_hint(err, "the next start finds out: until then the source refuses "
			                           "writes");
		}
	}
}

static bool
switch_over(Cutover *c, Error *err)
{
	publish(c, "commit");
	int64_t start_us = clock_mono_us();
	bool ok = ready_target(c, err) && commit_fence(c, err) && commit_journal(c, err);
	c->now.commit_ms = ms_since(start_us);
	FAULT_POINT("cutover_switched");
	return ok;
}

static bool
hold(Cutover *c, int64_t hold_timeout_ms, Error *err)
{
	c->deadline_ms = hold_timeout_ms;
	if (!open_sessions(c, err))
		return false;
	bool ok = lock_tables(c, err) && refuse_late_ddl(c, err) && drain(c, err) &&
	          compare_rows(c, err) && move_sequences(c, err) && switch_over(c, err);
	c->now.hold_ms = ms_since(c->held_since_us);
	return ok;
}

/* ---- back to the source ---- */

/* The source first, and without the target: its writers wait for nothing else. */
static bool
undo_once(Cutover *c, Error *err)
{
	Migration *m = c->m;

	/* The fence's session may have been cut during its COMMIT; disabling waits for its
	 * locks and so sees what became of it. */
	if (c->fence_enabled) {
		if (!migration_connect_source(m, err) ||
		    !source_fence_disable(m->source, &m->ledger, m->catalog, err))
			return false;
		c->fence_enabled = false;
		log_info("cutover", "the source takes writes again");
	}
	return migration_connect(m, err) && set_journal(m, JOURNAL_NONE, err);
}

/* Everything as it was before the hold. What cannot be undone now (a server is away) is
 * tried again until it can, or by the next start: nothing else is done before. */
static void
undo(Cutover *c)
{
	Migration *m = c->m;

	sql_close(c->switcher); /* rolls back */
	sql_close(c->fence);
	c->switcher = c->fence = NULL;
	if (c->held_since_us != 0)
		c->now.hold_ms = ms_since(c->held_since_us);

	for (;;) {
		Error err = ERROR_INIT;
		if (undo_once(c, &err))
			break;
		if (stop_requested(m->stop))
			return;
		log_failure(LOG_ERROR, "cutover", &err);
		migration_set_detail(m, "undoing the cutover: %s", err.message);
		if (!stop_sleep_ms(m->stop, LOOKUP_PAUSE_MS, NULL))
			return;
	}
	log_info("cutover", "undone after %.1f ms: the source goes on", c->now.hold_ms);
}

/* Locks that were not to be had may be had a moment later; other failures stay. */
static bool
worth_another_attempt(const Error *err)
{
	return err->class == ERROR_TIMEOUT || error_has_sqlstate(err, "55P03") ||
	       error_has_sqlstate(err, "40P01") || error_has_sqlstate(err, "57014");
}

static bool
attempt(Cutover *c, int64_t hold_timeout_ms, Error *err)
{
	Migration *m = c->m;

	if (!migration_set_state(m, STATE_CUTTING_OVER, err) || !set_journal(m, JOURNAL_SWITCHING, err))
		return false;
	FAULT_POINT("cutover_journal_begun");
	if (hold(c, hold_timeout_ms, err))
		return true;
	if (!c->outcome_unknown)
		undo(c);
	return false;
}

bool
cutover_run(Migration *m, const MigrationRequest *request, Error *err)
{
	Cutover c = {.m = m};
	int64_t timeout_ms = request->hold_timeout_ms > 0 ? request->hold_timeout_ms
	                                                  : m->config->hold_timeout_ms;
	bool ok = prepare(&c, err);

	for (c.now.attempts = 1; ok; c.now.attempts++) {
		ok = attempt(&c, timeout_ms, err);
		if (ok || c.now.attempts == ATTEMPTS || !worth_another_attempt(err))
			break;
		log_failure(LOG_WARNING, "cutover", err);
		if (!stop_sleep_ms(m->stop, clock_jitter_ms(ATTEMPT_PAUSE_MS * c.now.attempts), err))
			break;
		c.held_since_us = 0;
		ok = drain_before_hold(m, err);
	}
	sql_close(c.switcher);
	sql_close(c.fence);
	publish(&c, ok ? "switched" : "aborted");
	if (ok) {
		log_info("cutover", "the target is live; writes were held for %.1f ms", c.now.hold_ms);
		phase_stop_stream(m);
		return true;
	}

	/* A failure to say so changes nothing: the next start reads the journal. */
	Error state_err = ERROR_INIT;
	if (!migration_set_state(m, STATE_FOLLOWING, &state_err))
		log_failure(LOG_WARNING, "cutover", &state_err);
	return false;
}

/* ---- after a crash ---- */

/* A fence session of the process before us may still be ending on the source. */
static bool
end_old_fence(Migration *m, Error *err)
{
	int64_t deadline = deadline_in_ms(OLD_FENCE_MS);

	for (;;) {
		char left[16];
		char query[320];
		snprintf(query, sizeof(query),
		         "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE "
		         "application_name = 'pgbaton fence %s' AND datname = current_database()",
		         m->ledger.name);
		if (!sql_value(m->source, err, left, sizeof(left), query))
			return false;
		if (strcmp(left, "0") == 0)
			return true;
		if (deadline_left_ms(deadline) == 0)
			return error_set(err, ERROR_TIMEOUT, "an old fence session on the source does not end");
		if (!stop_sleep_ms(m->stop, 20, err))
			return false;
	}
}

bool
cutover_recover(Migration *m, bool *switched, Error *err)
{
	Journal journal;

	*switched = false;
	if (m->ledger.id[0] == '\0')
		return true;
	if (!sql_execf(m->target, err, "SELECT 1 FROM %s.migration FOR UPDATE", m->ledger.schema) ||
	    !ledger_journal(m->target, &m->ledger, &journal, err))
		return false;
	*switched = journal == JOURNAL_SWITCHED;
	if (journal != JOURNAL_SWITCHING)
		return true;

	log_warning("cutover", "a cutover was cut off before its journal: undoing it");
	if (!end_old_fence(m, err))
		return false;
	/* The catalogue is not read yet; the fence is known by its triggers' name. */
	if (!source_fence_disable(m->source, &m->ledger, NULL, err))
		return false;
	return set_journal(m, JOURNAL_NONE, err);
}

/* ---- verify while following ---- */

/* Writers are held until the target has reached one point and the source's snapshot of that
 * very point is taken; the comparison then runs beside them, with the apply paused. */
static bool
meet_at_one_point(Migration *m, Sql *fence, Sql *reader, Error *err)
{
	int64_t deadline = deadline_in_ms(m->config->hold_timeout_ms);

	return source_fence_lock(fence, m->catalog, deadline, err) &&
	       sql_exec(reader, err, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT 1") &&
	       phase_drain_to_marker(m, deadline, err) && applier_pause(m->applier, deadline, err);
}

bool
cutover_verify(Migration *m, Error *err)
{
	if (!phase_drain_to_marker(m, deadline_in_ms(FIRST_DRAIN_MS), err))
		return false;

	char purpose[80];
	snprintf(purpose, sizeof(purpose), "fence %s", m->ledger.name);
	Sql *fence = sql_connect(m->config->source, "source", purpose, m->stop, err);
	Sql *reader = fence != NULL ? sql_connect(m->config->source, "source", "verify", m->stop, err)
	                            : NULL;
	bool met = reader != NULL && meet_at_one_point(m, fence, reader, err);
	sql_close(fence); /* rolls back: writers go on */
	bool ok = met && verify_tables(reader, m->target, m->catalog,
	                               m->config->verify == VERIFY_ON ? m->config->verify_kind
	                                                              : VERIFY_CHECKSUMS,
	                               err);
	if (met)
		applier_resume(m->applier);
	sql_close(reader);
	return ok;
}
