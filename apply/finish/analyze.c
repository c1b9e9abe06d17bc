#include "apply/schema/target.h"
#include "protocol/replication.h"

enum { CHUNK = 100 };

/* Names joined to one ANALYZE; the server commits after each table. */
typedef struct {
	Sql *target;
	Buffer sql;
	int count;
} Batch;

static bool
batch_run(Batch *batch, Error *err)
{
	if (batch->count == 0)
		return true;
	bool ok = sql_exec(batch->target, err, buffer_cstr(&batch->sql));
	buffer_reset(&batch->sql);
	batch->count = 0;
	return ok || error_add_context(err, "statistics");
}

static bool
batch_add(Batch *batch, const char *qualified, Error *err)
{
	buffer_printf(&batch->sql, "%s %s", batch->count == 0 ? "ANALYZE" : ",", qualified);
	batch->count++;
	return batch->count < CHUNK || batch_run(batch, err);
}

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
add_roots(Batch *batch, const Catalog *catalog, Error *err)
{
	if (catalog->parent_count == 0)
		return true;
	PGresult *found = find_roots(batch->target, catalog, err);
	bool ok = found != NULL;

	for (int row = 0; ok && row < PQntuples(found); row++)
		ok = batch_add(batch, sql_get(found, row, 0), err);
	PQclear(found);
	return ok;
}

bool
target_analyze(Sql *target, const Catalog *catalog, Error *err)
{
	Batch batch = {.target = target, .sql = BUFFER_INIT};
	bool ok = add_roots(&batch, catalog, err);

	for (size_t i = 0; ok && i < catalog->table_count; i++) {
		if (!catalog->tables[i].is_partition)
			ok = batch_add(&batch, catalog->tables[i].qualified, err);
	}
	ok = ok && batch_run(&batch, err);
	buffer_free(&batch.sql);
	return ok;
}
