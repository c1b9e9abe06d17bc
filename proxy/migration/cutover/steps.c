/* What is done in the hold, before the commits: each step with its time. */
#include "apply/finish/late.h"
#include "common/clock.h"
#include "common/fault.h"
#include "proxy/migration/cutover/internal.h"

/* The control sessions are opened anew when they are lost, so they are asked for each time. */
static void
set_timeouts(Cutover *c, int64_t timeout_ms)
{
	Sql *sessions[] = {c->fence, c->switcher, way_from(&c->way), way_to(&c->way)};

	for (size_t i = 0; i < sizeof(sessions) / sizeof(*sessions); i++)
		if (sessions[i] != NULL)
			sql_set_timeout_ms(sessions[i], timeout_ms);
}

void
steps_bound(Cutover *c)
{
	int left = deadline_left_ms(c->deadline_ms);

	set_timeouts(c, left > 0 ? left : 1);
}

void
steps_unbound(Cutover *c)
{
	set_timeouts(c, 0);
}

bool
steps_in_time(const Cutover *c, Error *err)
{
	if (!cutover_wanted(c, err))
		return false;
	if (deadline_left_ms(c->deadline_ms) > 0)
		return true;
	return error_set(err, ERROR_TIMEOUT, "the hold's deadline has passed");
}

bool
steps_lock_tables(Cutover *c, Error *err)
{
	int64_t start_us = clock_mono_us();

	cutover_publish(c, "fence");
	bool ok = source_fence_lock(c->fence, c->way.catalog, c->deadline_ms, err);
	c->now.fence_ms = cutover_ms_since(start_us);
	FAULT_POINT("cutover_locked");
	return ok;
}

/* They act only for transactions that begin after the fence's commit, and have all the locks
 * that they need: the server switches them beside the drain. */
bool
steps_enable_triggers(Cutover *c, Error *err)
{
	return source_fence_enable_begin(c->fence, c->way.ledger, c->way.catalog, err);
}

/* Its way through the stream is waited for after the sequences, which need only that nobody
 * writes any more. */
bool
steps_send_marker(Cutover *c, Error *err)
{
	int64_t start_us = clock_mono_us();

	cutover_publish(c, "marker");
	steps_bound(c);
	bool ok = way_send_marker(&c->way, c->marker, err);
	c->now.marker_ms = cutover_ms_since(start_us);
	FAULT_POINT("cutover_marked");
	return ok || error_add_context(err, "sending the marker");
}

bool
steps_drain(Cutover *c, Error *err)
{
	int64_t start_us = clock_mono_us();

	cutover_publish(c, "drain");
	bool ok = way_wait_marker(&c->way, c->marker, c->deadline_ms, false, err);
	c->now.drain_ms = cutover_ms_since(start_us);
	FAULT_POINT("cutover_drained");
	return ok || error_add_context(err, "draining");
}

/* What the stream does not carry. On the way back it stays as it was at the switch: the
 * check has said so. */
bool
steps_copy_late(Cutover *c, Error *err)
{
	const Way *way = &c->way;

	if (way->back)
		return true;
	LateCopy late = {
		.source = way->from_info,
		.target = way->to_info,
		.target_sql = way_to(way),
		.ledger = way->ledger,
		.catalog = way->catalog,
		.jobs = c->m->config->jobs,
		.deadline_ms = c->deadline_ms,
		.stop = c->way.stop,
	};

	steps_unbound(c); /* it keeps the deadline itself, and says what would help */
	bool ok = late_copy(&late, err);
	FAULT_POINT("cutover_late");
	return ok && steps_in_time(c, err);
}

bool
steps_compare_large_objects(Cutover *c, Error *err)
{
	int64_t start_us = clock_mono_us();

	if (!c->way.catalog->moves_large_objects)
		return true;
	cutover_publish(c, "large objects");
	bool ok = cutover_large_objects(c, err);
	c->now.large_objects_ms = cutover_ms_since(start_us);
	return ok && steps_in_time(c, err);
}

/* --verify, under the locks: neither side changes. It sees rows; new tables are
 * cutover_refuse_late_ddl's business. */
bool
steps_compare_rows(Cutover *c, Error *err)
{
	Migration *m = c->m;
	int64_t start_us = clock_mono_us();

	if (m->config->verify == VERIFY_OFF)
		return true;
	cutover_publish(c, "verify");
	steps_bound(c);
	/* The fence's session reads the large objects where it has locked them. */
	bool ok = source_fence_enable_end(c->fence, err) &&
	          verify_tables(way_from(&c->way), way_to(&c->way), c->way.catalog,
	                        m->config->verify_kind, false, err) &&
	          (c->rehearsal ||
	           large_objects_verify(&c->way, c->way.catalog->locks_large_objects ? c->fence : NULL,
	                                c->way.catalog->locks_large_objects, err));
	c->now.verify_ms = cutover_ms_since(start_us);
	return ok && steps_in_time(c, err);
}

/* By the forward catalogue in both directions: their names are the same on both sides. */
bool
steps_move_sequences(Cutover *c, Error *err)
{
	Migration *m = c->m;
	Sql *from = way_from(&c->way);
	Sql *to = way_to(&c->way);
	int64_t start_us = clock_mono_us();
	size_t count = 0;

	cutover_publish(c, "sequences");
	steps_bound(c);
	bool ok = c->rehearsal ? target_check_sequences(from, to, m->catalog, &count, err)
	                       : target_set_sequences(from, to, m->catalog, m->config->sequence_margin,
	                                              &count, err);
	c->now.sequences = count;
	c->now.sequences_ms = cutover_ms_since(start_us);
	FAULT_POINT("cutover_sequences");
	return ok && steps_in_time(c, err);
}
