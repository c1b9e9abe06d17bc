/* What no single table's rows are needed for, and statistics of whole partitioned tables. */
#include <stdlib.h>
#include <string.h>

#include "apply/schema/build_plan.h"
#include "common/log.h"
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

enum { ANALYZE_ONLY_SINCE = 180000 };

/* The leaves have theirs; of the whole autovacuum never makes any. From 18 on each level is
 * done alone, before ANALYZE of a root does all below it. */
static PGresult *
find_parents(Sql *target, const Catalog *catalog, bool only_roots, Error *err)
{
	Buffer sql = BUFFER_INIT;

	buffer_put_text(&sql, "SELECT v.q FROM (VALUES ");
	for (size_t i = 0; i < catalog->parent_count; i++) {
		buffer_put_text(&sql, i == 0 ? "(" : ", (");
		sql_put_literal(&sql, catalog->parents[i].qualified);
		buffer_put_text(&sql, "::text)");
	}
	buffer_put_text(&sql,
	                ") AS v (q) JOIN pg_catalog.pg_class c ON c.oid = v.q::pg_catalog.regclass");
	buffer_put_text(&sql, only_roots ? " WHERE NOT c.relispartition" : "");
	PGresult *found = sql_query(target, err, buffer_cstr(&sql));
	buffer_free(&sql);
	return found;
}

static bool
put_leaves(const Build *build, Buffer *sql)
{
	const Catalog *catalog = build->work->catalog;
	bool any = false;

	for (size_t i = 0; i < catalog->table_count; i++) {
		const Table *table = &catalog->tables[i];
		if (!table->is_partition || atomic_load(&table->apart) != build->work->apart)
			continue;
		buffer_printf(sql, "%sONLY %s", any ? ", " : "", table->qualified);
		any = true;
	}
	return any;
}

/*
 * A session that keeps the leaves from ANALYZE, which then passes over them (SKIP_LOCKED) and
 * still reads its sample of the whole from them: one process for all leaves would need longer
 * than all workers together needed for the leaves' own. Writers and readers do not notice this
 * lock. NULL, where it cannot be had: the leaves are done twice, nothing else.
 */
static Sql *
hold_leaves(const Build *build)
{
	const SchemaWork *work = build->work;
	Buffer sql = BUFFER_INIT;
	Error ignored = ERROR_INIT;
	Sql *holder = NULL;

	buffer_put_text(&sql, "BEGIN; LOCK TABLE ");
	if (put_leaves(build, &sql))
		holder = sql_connect(work->target, "target", "index", work->stop, &ignored);
	buffer_put_text(&sql, " IN SHARE UPDATE EXCLUSIVE MODE");
	if (holder != NULL && !sql_exec(holder, &ignored, buffer_cstr(&sql))) {
		log_debug("schema", "the leaves are analyzed with the whole: %s", ignored.message);
		sql_close(holder);
		holder = NULL;
	}
	buffer_free(&sql);
	return holder;
}

/* Each leaf passed over is a warning, to us and (who may, prevents it) in the server's log. What
 * must not be passed over, the levels above, is waited for first. */
static void
put_analyze_without_leaves(const Catalog *catalog, Buffer *sql)
{
	buffer_put_text(sql, "SET LOCAL client_min_messages = error;"
	                     "SELECT pg_catalog.set_config('log_min_messages', 'error', true)"
	                     " WHERE pg_catalog.has_parameter_privilege('log_min_messages', 'SET');"
	                     "LOCK TABLE ");
	for (size_t i = 0; i < catalog->parent_count; i++)
		buffer_printf(sql, "%sONLY %s", i == 0 ? "" : ", ", catalog->parents[i].qualified);
	buffer_put_text(sql, " IN SHARE UPDATE EXCLUSIVE MODE; ANALYZE (SKIP_LOCKED)");
}

static bool
analyze_found(const Build *build, const PGresult *found, const char *analyze, Error *err)
{
	const SchemaWork *work = build->work;
	char step[SCHEMA_STEP_SIZE];
	bool ok = true;

	for (int row = 0; ok && row < PQntuples(found); row++) {
		build_analyze_step(sql_get(found, row, 0), step);
		if (build_step_done(build, step))
			continue;
		char *text = mem_printf("%s %s", analyze, sql_get(found, row, 0));
		ok = schema_step_once(work->target_sql, work, step, text, err);
		free(text);
	}
	return ok;
}

static bool
analyze_parents(const Build *build, Error *err)
{
	const SchemaWork *work = build->work;
	bool only = PQserverVersion(sql_pgconn(work->target_sql)) >= ANALYZE_ONLY_SINCE;
	Buffer analyze = BUFFER_INIT;

	if (work->catalog->parent_count == 0)
		return true;
	PGresult *found = find_parents(work->target_sql, work->catalog, !only, err);
	Sql *holder = found != NULL && !only ? hold_leaves(build) : NULL;
	if (holder != NULL)
		put_analyze_without_leaves(work->catalog, &analyze);
	else
		buffer_put_text(&analyze, only ? "ANALYZE ONLY" : "ANALYZE");
	bool ok = found != NULL && analyze_found(build, found, buffer_cstr(&analyze), err);
	sql_close(holder);
	PQclear(found);
	buffer_free(&analyze);
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
	return analyze_parents(build, err) || error_add_context(err, "statistics");
}
