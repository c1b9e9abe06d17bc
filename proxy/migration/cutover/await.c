/*
 * Long transactions, waited for while nobody is held. Within a hold all others would wait for their
 * end, and where that does not come, for the whole of the hold in vain.
 *
 * A transaction is long when it is still there LONG_MS after it was seen. Short ones come and go all
 * the time; the hold is made for them.
 */
#include <stdlib.h>

#include "apply/setup/locked.h"
#include "apply/setup/running.h"
#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"
#include "proxy/migration/cutover/internal.h"

enum { LONG_MS = 250, LOOK_EVERY_MS = 20, PATIENCE = 5, PATIENCE_MOST_MS = 10000 };

/* Of `of` only, unless NULL. */
static char *
running(const Cutover *c, const char *of, Error *err)
{
	const Way *way = &c->way;
	uint32_t *pids = NULL;
	size_t count = 0;

	if (c->m->listener != NULL)
		count = listener_server_pids(c->m->listener, way->back ? ROUTE_TARGET : ROUTE_SOURCE, false,
		                             &pids);
	char *which = running_now(way_from(way), way->ledger, pids, count, of, err);
	free(pids);
	if (which == NULL)
		error_add_context(err, "looking for long transactions");
	return which;
}

/* Those of *which that are left after a pause. */
static bool
look_again(const Cutover *c, int64_t pause_ms, char **which, Error *err)
{
	char *before = *which;

	*which = stop_sleep_ms(c->way.stop, pause_ms, err) ? running(c, before, err) : NULL;
	free(before);
	return *which != NULL;
}

/* The hold ends before they do, as it seems. */
static bool
refuse_running(const Cutover *c, const char *which, int64_t seen_ms, Error *err)
{
	char who[700];

	running_describe(way_from(&c->way), which, who, sizeof(who));
	error_set(err, ERROR_TIMEOUT,
	          "transactions on the %s that the hold would have to wait for have not ended within "
	          "%.1f s; nobody was held; in the way: %s",
	          c->way.from_side, (double)seen_ms / 1000.0,
	          who[0] != '\0' ? who : "transactions that have ended just now");
	error_set_sqlstate(err, "55P03");
	return error_set_hint(err, "end those transactions (" LOCKED_ENDING
	                           "), or try again when they have ended");
}

static void
say_awaited(Cutover *c, const char *which)
{
	char who[700];

	cutover_publish(c, "await");
	running_describe(way_from(&c->way), which, who, sizeof(who));
	log_info("cutover", "nobody is held yet, for these have not ended: %s", who);
}

/* Until those are gone that are long by now, or the patience is over. *none: there are no long ones. */
static bool
await_some(Cutover *c, int64_t deadline_ms, bool *none, Error *err)
{
	int64_t seen_ms = clock_mono_ms();
	char *which = running(c, NULL, err);
	bool ok = which != NULL;

	*none = ok && running_none(which);
	if (ok && !*none)
		ok = look_again(c, LONG_MS, &which, err);
	if (ok && !*none) {
		*none = running_none(which);
		if (!*none)
			say_awaited(c, which);
	}
	while (ok && !running_none(which) && deadline_left_ms(deadline_ms) > 0)
		ok = look_again(c, LOOK_EVERY_MS, &which, err);
	seen_ms = clock_mono_ms() - seen_ms;
	if (ok && !running_none(which) && seen_ms > c->timeout_ms)
		ok = refuse_running(c, which, seen_ms, err);
	free(which);
	return ok;
}

bool
cutover_await_running(Cutover *c, Error *err)
{
	int64_t patience_ms = PATIENCE * c->timeout_ms;
	int64_t deadline_ms = deadline_in_ms(patience_ms < PATIENCE_MOST_MS ? patience_ms
	                                                                    : PATIENCE_MOST_MS);
	bool none = FAULT_NUMBER("PGBATON_HOLD_AT_ONCE") > 0; /* for tests of the hold */

	/* Others may be long by now. Where there is always one, each for a while, the hold has to do. */
	while (!none && deadline_left_ms(deadline_ms) > 0) {
		if (!await_some(c, deadline_ms, &none, err))
			return false;
	}
	return true;
}
