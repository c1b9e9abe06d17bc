/* The ledger's table large_object: one row a range, planned once. */
#include <inttypes.h>
#include <stdlib.h>

#include "apply/lobs/internal.h"
#include "common/memory.h"

static bool
make_table(const LobRun *run, Sql *to, Error *err)
{
	return sql_execf(to, err,
	                 "CREATE TABLE IF NOT EXISTS %s.large_object (first_oid bigint PRIMARY KEY,"
	                 " last_oid bigint NOT NULL, objects bigint, bytes bigint,"
	                 " copied boolean NOT NULL DEFAULT false)",
	                 run->ledger->schema);
}

/* All in one statement: half a plan would not be all OIDs. */
static bool
plan(LobRun *run, Sql *from, Sql *to, Error *err)
{
	Buffer sql = BUFFER_INIT;

	if (!lob_ranges_read(from, &run->ranges, err))
		return false;
	buffer_printf(&sql, "INSERT INTO %s.large_object (first_oid, last_oid) VALUES ",
	              run->ledger->schema);
	for (size_t i = 0; i < run->ranges.count; i++)
		buffer_printf(&sql, "%s(%" PRIu32 ", %" PRIu32 ")", i > 0 ? ", " : "",
		              run->ranges.items[i].first, run->ranges.items[i].last);
	bool ok = sql_exec(to, err, buffer_cstr(&sql));
	buffer_free(&sql);
	return ok;
}

static void
take_rows(LobRun *run, const PGresult *rows)
{
	size_t count = (size_t)PQntuples(rows);

	run->ranges.items = mem_zalloc(sizeof(LobRange) * (count + 1));
	run->ranges.count = count;
	for (size_t i = 0; i < count; i++) {
		LobRange *range = &run->ranges.items[i];
		range->first = (uint32_t)sql_get_int(rows, (int)i, 0);
		range->last = (uint32_t)sql_get_int(rows, (int)i, 1);
		range->done = sql_get_bool(rows, (int)i, 2);
		if (!range->done || run->progress == NULL)
			continue;
		atomic_fetch_add(&run->progress->objects, (uint64_t)sql_get_int(rows, (int)i, 3));
		atomic_fetch_add(&run->progress->bytes, (uint64_t)sql_get_int(rows, (int)i, 4));
	}
}

bool
lob_record_open(LobRun *run, Sql *from, Sql *to, Error *err)
{
	if (!make_table(run, to, err))
		return false;
	PGresult *rows = sql_queryf(to, err,
	                            "SELECT first_oid, last_oid, copied, objects, bytes"
	                            " FROM %s.large_object ORDER BY first_oid",
	                            run->ledger->schema);
	if (rows == NULL)
		return false;
	bool planned = PQntuples(rows) > 0;
	if (planned)
		take_rows(run, rows);
	PQclear(rows);
	return planned || plan(run, from, to, err);
}

bool
lob_record_lock(const LobRun *run, Sql *to, LobRange *range, Error *err)
{
	PGresult *row = sql_queryf(
		to, err, "SELECT copied FROM %s.large_object WHERE first_oid = %" PRIu32 " FOR UPDATE",
		run->ledger->schema, range->first);

	if (row == NULL)
		return false;
	bool ok = PQntuples(row) == 1 ||
	          error_set(err, ERROR_BUG, "the ledger has no row for large objects from %" PRIu32,
	                    range->first);
	range->done = ok && sql_get_bool(row, 0, 0);
	PQclear(row);
	return ok;
}

void
lob_record_sql(const LobRun *run, const LobRange *range, uint64_t objects, uint64_t bytes,
               Buffer *sql)
{
	buffer_printf(sql,
	              "UPDATE %s.large_object SET copied = true, objects = %" PRIu64
	              ", bytes = %" PRIu64 " WHERE first_oid = %" PRIu32 ";",
	              run->ledger->schema, objects, bytes, range->first);
}
