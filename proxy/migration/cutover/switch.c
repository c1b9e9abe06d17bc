/*
 * The switch itself (K4): on `to` a transaction with all that changes there, open until the
 * fence of `from` is committed; then its own commit, one round trip later.
 */
#include "apply/schema/target.h"
#include "common/clock.h"
#include "common/fault.h"
#include "proxy/migration/cutover/internal.h"

/* What `to` was not allowed to do while it followed; and, on the way back, the old source's
 * fence off: in the journal's own transaction, so that not a moment lies between the two. */
static bool
put_opening(Cutover *c, Error *err)
{
	const Way *way = &c->way;
	Buffer *sql = &c->opening;
	Book book = way_book_to(way);
	int tables;

	if (!target_restore_booked_sql(way_to(way), &book, sql, err))
		return false;
	if (way->back)
		return source_fence_disable_sql(way_to(way), &c->m->ledger, sql, &tables, err);
	buffer_printf(sql,
	              "; DELETE FROM %s.object WHERE side = 'target'"
	              " AND kind IN ('trigger', 'identity', 'event_trigger');",
	              way->ledger->schema);
	if (cutover_has_way_back(c))
		ledger_way_back_start_sql(way->ledger, sql);
	return true;
}

/* Asked for ahead of the hold: what is booked does not change any more, and is looked up by its oid. */
bool
switch_plan(Cutover *c, Error *err)
{
	buffer_reset(&c->opening);
	return put_opening(c, err);
}

/* The transaction on `to`: all that the switch changes there, open until the fence is in. */
static bool
ready_target(Cutover *c, Error *err)
{
	Buffer sql = BUFFER_INIT;

	buffer_printf(&sql, "BEGIN; SET LOCAL lock_timeout = %d; SET LOCAL synchronous_commit = on;",
	              deadline_left_ms(c->deadline_ms));
	buffer_put_slice(&sql, buffer_slice(&c->opening));
	ledger_journal_sql(c->way.ledger, JOURNAL_SWITCHED, &sql);
	bool ok = sql_exec(c->switcher, err, buffer_cstr(&sql));
	buffer_free(&sql);
	return ok && steps_in_time(c, err);
}

static bool
enable_fence(Cutover *c, Error *err)
{
	/* The server's own deadline counts idle time anew after each statement: give it what
	 * is left now. */
	if (!source_fence_enable_end(c->fence, err) ||
	    !sql_execf(c->fence, err, "SET LOCAL idle_in_transaction_session_timeout = %d",
	               deadline_left_ms(c->deadline_ms)))
		return false;
	FAULT_POINT("cutover_fence_enabled");
	return steps_in_time(c, err);
}

/* The last moment at which the deadline can release the sessions is before it. */
static bool
commit_fence(Cutover *c, Error *err)
{
	if (!sessions_decide(c, err))
		return false;
	steps_bound(c);
	c->fence_enabled = true;
	bool ok = sql_exec(c->fence, err, "COMMIT");
	FAULT_POINT("cutover_fence_committed");
	return ok || error_add_context(err, "committing the fence");
}

/* What a rehearsal does instead of the commits; the writers go on when it returns. */
static bool
give_back(Cutover *c, Error *err)
{
	return sql_exec(c->fence, err, "ROLLBACK") && sql_exec(c->switcher, err, "ROLLBACK");
}

bool
switch_over(Cutover *c, Error *err)
{
	cutover_publish(c, "commit");
	steps_bound(c);
	int64_t start_us = clock_mono_us();
	bool ok = ready_target(c, err) && enable_fence(c, err) &&
	          (c->rehearsal ? give_back(c, err) : commit_fence(c, err) && journal_commit(c, err));
	if (ok && !c->rehearsal)
		source_fence_shut_gate(c->fence, c->way.ledger);
	c->now.commit_ms = cutover_ms_since(start_us);
	FAULT_POINT("cutover_switched");
	return ok;
}
