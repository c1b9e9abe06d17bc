/*
 * The journal: one row on the side that a switch goes to, and the point of no return (K4).
 */
#include <stdio.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "proxy/migration/cutover/internal.h"

enum { OLD_FENCE_MS = 30000, LOOKUP_PAUSE_MS = 200, LOOKUP_TIMEOUT_MS = 5000 };

bool
journal_set(const Way *way, Journal journal, Error *err)
{
	Buffer sql = BUFFER_INIT;

	ledger_journal_sql(way->ledger, journal, &sql);
	bool ok = sql_exec(way_to(way), err, buffer_cstr(&sql));
	buffer_free(&sql);
	return ok;
}

/* What the journal says once nobody who holds its row can change it any more. */
static bool
journal_read_settled(const Way *way, Journal *journal, Error *err)
{
	return sql_execf(way_to(way), err, "SELECT 1 FROM %s.migration FOR UPDATE",
	                 way->ledger->schema) &&
	       ledger_journal(way_to(way), way->ledger, journal, err);
}

/*
 * The switcher's backend is ended, its row lock is waited out. Nobody is released before
 * this is known (K4).
 */
static bool
settled_journal(const Way *way, int backend_pid, Journal *journal, Error *err)
{
	if (!way_connect_to(way, err))
		return false;
	sql_set_timeout_ms(way_to(way), LOOKUP_TIMEOUT_MS);
	return sql_execf(way_to(way), err,
	                 "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = %d AND"
	                 " application_name = 'pgbaton switch'",
	                 backend_pid) &&
	       journal_read_settled(way, journal, err);
}

bool
journal_commit(Cutover *c, Error *err)
{
	Migration *m = c->m;
	Error first = ERROR_INIT;

	if (sql_exec(c->switcher, &first, "COMMIT"))
		return true;

	log_failure(LOG_WARNING, "cutover", &first);
	for (;;) {
		Journal journal;
		Error err_lookup = ERROR_INIT;
		if (settled_journal(&c->way, c->switcher_pid, &journal, &err_lookup)) {
			if (journal == JOURNAL_SWITCHED)
				return true;
			*err = first;
			return error_add_context(err, "committing the journal");
		}
		log_failure(LOG_WARNING, "cutover", &err_lookup);
		if (!stop_sleep_ms(m->stop, LOOKUP_PAUSE_MS, err)) {
			c->outcome_unknown = true;
			error_set(err, ERROR_CANCELLED,
			          "stopped while it is not known whether the %s has committed the switch",
			          c->way.to_side);
			return error_set_hint(err, "the next start finds out: until then the %s refuses writes",
			                      c->way.from_side);
		}
	}
}

/* ---- after a crash ---- */

/* A fence session, maybe of the process before us, may still be ending. */
bool
journal_end_fence(const Way *way, Error *err)
{
	int64_t deadline = deadline_in_ms(OLD_FENCE_MS);

	for (;;) {
		char left[16];
		char query[320];
		snprintf(query, sizeof(query),
		         "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE "
		         "application_name = 'pgbaton fence %s' AND datname = current_database()",
		         way->ledger->name);
		if (!sql_value(way_from(way), err, left, sizeof(left), query))
			return false;
		if (strcmp(left, "0") == 0)
			return true;
		if (deadline_left_ms(deadline) == 0)
			return error_set(err, ERROR_TIMEOUT, "an old fence session on the %s does not end",
			                 way->from_side);
		if (!stop_sleep_ms(way->m->stop, 20, err))
			return false;
	}
}

/* Nobody can commit the switch any more once the fence's session is ended, and with the gate open
 * `from` takes writes: the application need not wait until the triggers are off, for whoever has
 * waited at the gate has locks on his tables until the end of his transaction. */
static bool
undo_cut_off(const Way *way, Error *err)
{
	log_warning("cutover", "a cutover was cut off before its journal: undoing it");
	if (!journal_end_fence(way, err) || !source_fence_open_gate(way_from(way), way->ledger, err))
		return false;
	migration_tell_route(way->m, way->back ? ROUTE_TARGET : ROUTE_SOURCE);
	/* The catalogue is not read yet; the fence is known by its triggers' name. */
	return source_fence_disable(way_from(way), way->ledger, NULL, err) &&
	       journal_set(way, JOURNAL_NONE, err);
}

/*
 * After the switch, which side is live? A failback commits the target's fence first and its
 * journal, on the old source, after it: a target without its fence is live, whether or not
 * the old source can be asked. With it, only the journal knows.
 */
static bool
recover_back(Migration *m, MigrationState *at, Error *err)
{
	Way way = way_back(m);
	Journal journal;
	char state[32];
	bool fenced;

	*at = STATE_SWITCHED;
	if (!way_back_load(m, err) || !ledger_get_state(m->target, &m->ledger, state, err))
		return false;
	if (m->back.state == WAY_BACK_NONE)
		return true;
	if (strcmp(state, migration_state_name(STATE_FAILED_BACK)) == 0) {
		*at = STATE_FAILED_BACK;
		return true;
	}
	if (!way_back_fenced(m, &fenced, err))
		return false;
	if (!fenced)
		return true;
	if (!migration_connect(m, err) || !way_back_open(m, err) ||
	    !journal_read_settled(&way, &journal, err))
		return false;
	if (journal == JOURNAL_SWITCHED) {
		*at = STATE_FAILED_BACK;
		return migration_set_state(m, STATE_FAILED_BACK, err);
	}
	return undo_cut_off(&way, err);
}

bool
cutover_recover(Migration *m, MigrationState *at, Error *err)
{
	Way way = way_forth(m);
	Journal journal;

	*at = STATE_CHECKING;
	if (m->ledger.id[0] == '\0')
		return true;
	if (!journal_read_settled(&way, &journal, err))
		return false;
	if (journal == JOURNAL_SWITCHED)
		return recover_back(m, at, err);
	/* The slot of the way back belongs to a cutover that has not come to its end. */
	return (journal != JOURNAL_SWITCHING || undo_cut_off(&way, err)) && way_back_disarm(m, err);
}
