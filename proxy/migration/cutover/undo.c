/*
 * Back to where it was. The order is `from` first, without `to`: the sessions that are held
 * and the writers at the fence wait for nothing else.
 */
#include "common/clock.h"
#include "common/log.h"
#include "proxy/migration/cutover/internal.h"

enum { UNDO_PAUSE_MS = 200, GATE_MS = 2000 };

/* The fence's session may have been cut during its COMMIT, which can come through still (it waits
 * for a standby, say): the session is ended first, so that what became of it is seen. Nobody is
 * released before the gate is open: their writes would be refused by a source that has not moved.
 * From then on the triggers let all through, and switching them off may take a moment: whoever has
 * come through the gate has locks on its tables. */
static bool
open_from(Cutover *c, Error *err)
{
	const Way *way = &c->way;

	if (c->fence_enabled) {
		if (!way_connect_from(way, err) || !journal_end_fence(way, err) ||
		    !source_fence_open_gate(way_from(way), way->ledger, err))
			return false;
		log_info("cutover", "the %s takes writes again", way->from_side);
	}
	sessions_release(c);
	if (c->held_since_us != 0)
		c->now.hold_ms = cutover_ms_since(c->held_since_us);
	c->held_since_us = 0;
	if (c->fence_enabled && !source_fence_disable(way_from(way), way->ledger, way->catalog, err))
		return false;
	c->fence_enabled = false;
	return true;
}

/* On the way back a start asks the target's fence first, which is off: the old source may
 * be gone, and must not keep the target's operator waiting. */
static bool
close_journal(Cutover *c, Error *err)
{
	const Way *way = &c->way;

	if (c->rehearsal)
		return true;
	bool ok = migration_connect(c->m, err) && journal_set(way, JOURNAL_NONE, err);
	if (!ok && way->back) {
		log_failure(LOG_WARNING, "cutover", err);
		error_clear(err);
	}
	return ok || way->back;
}

/* Writers beside the listener who wait for the outcome go on; where the session is lost, when the
 * triggers are switched off. */
static void
open_gate(Cutover *c)
{
	Error err = ERROR_INIT;

	sql_set_timeout_ms(c->fence, GATE_MS);
	if (!source_fence_open_gate(c->fence, c->way.ledger, &err))
		log_failure(LOG_WARNING, "cutover", &err);
}

void
cutover_undo(Cutover *c)
{
	Migration *m = c->m;

	sql_close(c->switcher); /* rolls back */
	if (c->fence_enabled)
		open_gate(c);
	sql_close(c->fence);
	c->switcher = c->fence = NULL;
	steps_unbound(c);
	for (;;) {
		Error err = ERROR_INIT;
		if (open_from(c, &err) && close_journal(c, &err))
			break;
		if (stop_requested(m->stop))
			return;
		log_failure(LOG_ERROR, "cutover", &err);
		migration_set_detail(m, "undoing the cutover: %s", err.message);
		if (!stop_sleep_ms(m->stop, UNDO_PAUSE_MS, NULL))
			return;
	}
	log_info("cutover", "undone after %.1f ms: the %s goes on", c->now.hold_ms, c->way.from_side);
}
