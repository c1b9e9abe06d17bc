/* What a cutover does while nobody is held yet, so that it need not be done in the hold. */
#include <string.h>

#include "apply/schema/target.h"
#include "common/clock.h"
#include "common/log.h"
#include "proxy/migration/cutover/internal.h"

enum {
	FIRST_DRAIN_MS = 60000,    /* for all drains before the hold */
	QUICK_DRAIN_MS = 250,      /* what the hold may then take about again */
	FENCE_PATIENCE_MS = 10000, /* for triggers that could not be made ahead of time */
};

/*
 * What is behind now need not be drained while writers wait. A long drain leaves behind what
 * was written during it, so it is drained again until there is next to nothing; when the
 * source writes as fast as the target applies, the last one has to do.
 */
bool
cutover_drain_before_hold(Cutover *c, Error *err)
{
	int64_t deadline_ms = deadline_in_ms(FIRST_DRAIN_MS);

	cutover_publish(c, "drain ahead");
	while (cutover_wanted(c, err)) {
		int64_t start_us = clock_mono_us();
		if (!way_drain_to_marker(&c->way, deadline_ms, false, err))
			return error_add_context(err, "draining before the hold");
		double took_ms = cutover_ms_since(start_us);
		if (took_ms < QUICK_DRAIN_MS)
			return true;
		bool last = deadline_left_ms(deadline_ms) < FIRST_DRAIN_MS / 2;
		log_info("cutover", "nobody is held yet: the %s was %.1f s behind the %s; %s",
		         c->way.to_side, took_ms / 1000.0, c->way.from_side,
		         last ? "it does not come closer, so the hold has to do" : "draining again");
		if (last)
			return true;
	}
	return false;
}

/* Named beforehand: the switch ends nobody's session, but their writes are refused after it.
 * Those of the listener are moved, and none of these. */
static bool
name_bypassing(Cutover *c, Error *err)
{
	SessionGroups *found = &c->now.bypassing;
	OurSessions ours = way_our_sessions(&c->way);
	char text[256];

	bool ok = source_sessions(way_from(&c->way), c->m->listener != NULL ? &ours : NULL, found, err);

	for (size_t i = 0; ok && i < found->count; i++) {
		source_sessions_describe(&found->groups[i], text, sizeof(text));
		log_event(c->rehearsal ? LOG_INFO : LOG_WARNING, "cutover",
		          "sessions on the %s whose writes are refused (25006) after the switch: %s",
		          c->way.from_side, text);
	}
	return ok;
}

bool
cutover_has_way_back(const Cutover *c)
{
	return !c->way.back && way_back_wanted(c->m);
}

/* What setval would refuse is better known now; and what the hold's queries need of both
 * catalogues is then in the sessions' caches. */
static bool
look_at_sequences(Cutover *c, Error *err)
{
	size_t count;

	return target_check_sequences(way_from(&c->way), way_to(&c->way), c->m->catalog, &count, err);
}

/* Asked beforehand, so that the hold is not the longer for it where nobody can. */
static bool
look_for_two_phase(Cutover *c, Error *err)
{
	char most[16];

	if (!sql_value(way_from(&c->way), err, most, sizeof(most),
	               "SELECT pg_catalog.current_setting('max_prepared_transactions')"))
		return false;
	c->two_phase = strcmp(most, "0") != 0;
	return true;
}

bool
cutover_prepare(Cutover *c, Error *err)
{
	SourceSetup setup = way_setup(&c->way);
	int64_t start_us = clock_mono_us();

	setup.lock_patience_ms = FENCE_PATIENCE_MS;

	cutover_publish(c, "prepare");
	if (!name_bypassing(c, err) || !look_for_two_phase(c, err) || !cutover_refuse_ddl(c, err) ||
	    !cutover_name_definitions(c, err) || !source_fence_prepare(&setup, err) ||
	    !cutover_wanted(c, err) || !target_refresh_matviews(way_to(&c->way), c->m->catalog, err) ||
	    !look_at_sequences(c, err))
		return false;
	/* K5: the slot waits for transactions that run on the target; nobody waits for it yet. */
	if (!cutover_wanted(c, err) || (cutover_has_way_back(c) && !way_back_arm(c->m, err)))
		return false;
	/* The sessions last but for the drain: what they execute from now on is asked again. */
	if (!cutover_large_objects_ahead(c, err) || !sessions_prepare(c, err) ||
	    !cutover_drain_before_hold(c, err))
		return false;
	c->now.prepare_ms = cutover_ms_since(start_us);
	return true;
}
