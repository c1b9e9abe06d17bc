/* pgbaton verify while following: both sides compared at one and the same state. */
#include <stdio.h>

#include "apply/copy/rewrite.h"
#include "apply/schema/target.h"
#include "common/clock.h"
#include "common/log.h"
#include "proxy/migration/cutover/internal.h"
#include "proxy/migration/internal.h"

enum { FIRST_DRAIN_MS = 60000 };

/* Writers are held until the target has reached one point and the source's snapshot of that
 * very point is taken; the comparison then runs beside them, with the apply paused. */
static bool
meet_at_one_point(Migration *m, Sql *fence, Sql *reader, bool marked, Error *err)
{
	int64_t deadline = deadline_in_ms(m->config->hold_timeout_ms);
	Way way = way_forth(m);

	return (marked ? source_fence_lock_marked(fence, m->catalog, deadline, err)
	               : source_fence_lock(fence, m->catalog, deadline, err)) &&
	       sql_exec(reader, err, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT 1") &&
	       way_drain_to_marker(&way, deadline, false, err) &&
	       applier_pause(m->applier, deadline, err);
}

/* What is named, and is followed: the others' rows are not here, or behind. */
static bool
mark_named(Migration *m, const MigrationRequest *request, Error *err)
{
	for (size_t i = 0; i < m->catalog->table_count; i++)
		atomic_store(&m->catalog->tables[i].marked, false);
	for (size_t i = 0; i < request->table_count; i++) {
		const char *pattern = request->tables[i];
		size_t count;
		if (!catalog_mark_named(m->catalog, m->source, pattern, &count, err))
			return error_add_context(err, "--table '%s'", pattern);
		if (count > 0)
			continue;
		error_set(err, ERROR_CONFIG, "--table '%s' matches no table that is followed here",
		          pattern);
		return error_set_hint(err, "tables that are not moved, or unlogged, are not compared");
	}
	return true;
}

static size_t
count_compared(const Catalog *catalog, bool marked)
{
	size_t count = 0;

	for (size_t i = 0; i < catalog->table_count; i++)
		count += !marked || atomic_load(&catalog->tables[i].marked);
	return count;
}

bool
cutover_verify(Migration *m, const MigrationRequest *request, VerifyStatus *out, Error *err)
{
	Way way = way_forth(m);
	bool marked = request->table_count > 0;
	bool same;

	if (!mark_named(m, request, err) ||
	    !catalog_compare_source(m->catalog, m->source, &m->selection, m->ledger.name, &same,
	                            out->differs, sizeof(out->differs), err))
		return false;
	if (!marked && !cutover_refuse_dropped(m, err))
		return false;
	if (!same) /* a table more is not compared, a table less fails below */
		log_warning("verify", "the source's tables are not those that were copied: %s",
		            out->differs);
	out->tables = count_compared(m->catalog, marked);
	if (!way_drain_to_marker(&way, deadline_in_ms(FIRST_DRAIN_MS), false, err))
		return false;

	char purpose[80];
	snprintf(purpose, sizeof(purpose), "fence %s", m->ledger.name);
	Sql *fence = sql_connect(m->config->source, "source", purpose, m->stop, err);
	Sql *reader = fence != NULL ? sql_connect(m->config->source, "source", "verify", m->stop, err)
	                            : NULL;
	bool met = reader != NULL && meet_at_one_point(m, fence, reader, marked, err);
	sql_close(fence); /* rolls back: writers go on */
	VerifyKind kind = m->config->verify == VERIFY_ON ? m->config->verify_kind : VERIFY_CHECKSUMS;
	bool ok = met && verify_tables(reader, m->target, m->catalog, kind, marked, err) &&
	          (kind != VERIFY_CHECKSUMS ||
	           rewrite_stamp_again(reader, m->target, &m->ledger, m->catalog, marked, err));
	if (met)
		applier_resume(m->applier);
	sql_close(reader);
	if (!ok && !same)
		error_set_hint(err, "the source's tables are not those that were copied: %s", out->differs);
	return ok;
}
