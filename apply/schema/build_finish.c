/* What no single table's rows are needed for, and statistics of whole partitioned tables. */
#include <stdlib.h>
#include <string.h>

#include "apply/schema/build_plan.h"
#include "common/memory.h"
#include "protocol/replication.h"

/* A transaction each would cost more than the statements, which change catalogues only. */
enum { CHUNK = 100 };

/* Again one by one: the error then names its entry, and those before it stay done. */
static bool
run_singly(const Build *build, size_t from, size_t to, Error *err)
{
	const SchemaWork *work = build->work;

	for (size_t i = from; i < to; i++)
		if (!schema_step_entry(work->target_sql, work, build->loose[i], build->loose[i]->sql, err))
			return false;
	return true;
}

static bool
run_chunk(const Build *build, size_t from, size_t to, Error *err)
{
	const SchemaWork *work = build->work;
	Buffer sql = BUFFER_INIT;
	Error ignored = ERROR_INIT;
	char step[SCHEMA_STEP_SIZE];

	for (size_t i = from; i < to; i++) {
		const Entry *entry = build->loose[i];
		schema_step_name(entry, step);
		if (build_step_done(build, step))
			continue;
		buffer_printf(&sql, "%s%s", entry->settings, entry->sql);
		ledger_step_sql(work->ledger, step, &sql);
	}
	bool ok = sql.len == 0 || schema_text_run(work->target_sql, buffer_cstr(&sql), &ignored);
	buffer_free(&sql);
	return ok || run_singly(build, from, to, err);
}

/* Indexes first, also where the archive has them later: what joins needs all of them. */
static void
order_loose(const Build *build)
{
	const Entry **sorted = mem_alloc(sizeof(Entry *) * (build->loose_count + 1));
	size_t count = 0;

	for (int joins = 0; joins < 2; joins++)
		for (size_t i = 0; i < build->loose_count; i++)
			if (entry_joins_indexes(build->loose[i]) == (joins == 1))
				sorted[count++] = build->loose[i];
	if (count > 0)
		memcpy(build->loose, sorted, sizeof(Entry *) * count);
	free(sorted);
}

/* ---- statistics of the whole ---- */

/* ANALYZE of a root does all below it and the statistics of the whole, which autovacuum
 * never makes; the levels between must not be done twice. */
static PGresult *
find_roots(Sql *target, const Catalog *catalog, Error *err)
{
	Buffer sql = BUFFER_INIT;

	buffer_put_text(&sql, "SELECT v.q FROM (VALUES ");
	for (size_t i = 0; i < catalog->parent_count; i++) {
		buffer_put_text(&sql, i == 0 ? "(" : ", (");
		sql_put_literal(&sql, catalog->parents[i].qualified);
		buffer_put_text(&sql, "::text)");
	}
	buffer_put_text(&sql,
	                ") AS v (q) JOIN pg_catalog.pg_class c ON c.oid = v.q::pg_catalog.regclass"
	                " WHERE NOT c.relispartition");
	PGresult *found = sql_query(target, err, buffer_cstr(&sql));
	buffer_free(&sql);
	return found;
}

static bool
analyze_roots(const Build *build, Error *err)
{
	const SchemaWork *work = build->work;
	char step[SCHEMA_STEP_SIZE];

	if (work->catalog->parent_count == 0)
		return true;
	PGresult *found = find_roots(work->target_sql, work->catalog, err);
	bool ok = found != NULL;
	for (int row = 0; ok && row < PQntuples(found); row++) {
		char *analyze = mem_printf("ANALYZE %s", sql_get(found, row, 0));
		build_analyze_step(sql_get(found, row, 0), step);
		ok = schema_step_once(work->target_sql, work, step, analyze, err);
		free(analyze);
	}
	PQclear(found);
	return ok;
}

bool
build_finish(const Build *build, Error *err)
{
	order_loose(build);
	for (size_t i = 0; i < build->loose_count; i += CHUNK) {
		size_t to = i + CHUNK < build->loose_count ? i + CHUNK : build->loose_count;
		if (!run_chunk(build, i, to, err))
			return error_add_context(err, "joining indexes");
	}
	return analyze_roots(build, err) || error_add_context(err, "statistics");
}
