/* pgbaton verify while following: both sides compared at one and the same state. */
#include <stdio.h>

#include "apply/schema/target.h"
#include "common/clock.h"
#include "proxy/migration/internal.h"

enum { FIRST_DRAIN_MS = 60000 };

/* Writers are held until the target has reached one point and the source's snapshot of that
 * very point is taken; the comparison then runs beside them, with the apply paused. */
static bool
meet_at_one_point(Migration *m, Sql *fence, Sql *reader, Error *err)
{
	int64_t deadline = deadline_in_ms(m->config->hold_timeout_ms);
	Way way = way_forth(m);

	return source_fence_lock(fence, m->catalog, deadline, err) &&
	       sql_exec(reader, err, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT 1") &&
	       way_drain_to_marker(&way, deadline, false, err) &&
	       applier_pause(m->applier, deadline, err);
}

bool
cutover_verify(Migration *m, Error *err)
{
	Way way = way_forth(m);

	if (!way_drain_to_marker(&way, deadline_in_ms(FIRST_DRAIN_MS), false, err))
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
