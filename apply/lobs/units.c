/*
 * Contents, in units of LOB_UNIT_BYTES: listed, hashed on the server, moved.
 *
 * Pages: a unit is the pages whose numbers belong to it; one without any is not listed.
 * The hash is of numbers and bytes, so it also tells where a hole is; md5 of the joined pages
 * takes a quarter of the time of a sum over hashed pages. A page in the middle may be short,
 * and the last one empty (lo_truncate): both go over as they are.
 * Contents: the length by lo_lseek64, each object closed at once, since lo_open searches all
 * that are open (100,000 of them take 27 s); an object without bytes is one empty unit.
 */
#include <stdlib.h>
#include <string.h>

#include "apply/lobs/internal.h"
#include "common/memory.h"

/* What one query brings over: its memory is taken three times, in the result, in the
 * parameter, and in what libpq sends. */
enum { BATCH_BYTES = 4 << 20, BATCH_UNITS = 1000 };

/* ---- lists ---- */

static void
put_pages_list(const LobRun *run, const LobRange *range, bool hash, Buffer *sql)
{
	buffer_printf(
		sql,
		"SELECT loid, pageno / %u, pg_catalog.sum(pg_catalog.octet_length(data)), %s"
		" FROM pg_catalog.pg_largeobject WHERE loid BETWEEN '%u' AND '%u' GROUP BY 1, 2"
		" ORDER BY 1, 2",
		LOB_UNIT_BYTES / run->page_bytes,
		hash ? "pg_catalog.md5(pg_catalog.string_agg(pg_catalog.int4send(pageno) || data, '' ORDER"
			   " BY pageno))"
			 : "NULL",
		range->first, range->last);
}

static void
put_contents_list(const LobRange *range, bool hash, Buffer *sql)
{
	buffer_printf(
		sql,
		"SELECT s.oid, u.n, CASE WHEN s.size - u.n * %d::bigint < %d THEN s.size - u.n * %d::bigint"
		" ELSE %d END, ",
		LOB_UNIT_BYTES, LOB_UNIT_BYTES, LOB_UNIT_BYTES, LOB_UNIT_BYTES);
	if (hash)
		buffer_printf(sql, "pg_catalog.md5(pg_catalog.lo_get(s.oid, u.n * %d::bigint, %d))",
		              LOB_UNIT_BYTES, LOB_UNIT_BYTES);
	else
		buffer_put_text(sql, "NULL");
	/* OFFSET 0: each object is opened once, and closed before the next one. */
	buffer_printf(
		sql,
		" FROM (SELECT o.oid, pg_catalog.lo_lseek64(o.fd, 0, 2) AS size,"
		" pg_catalog.lo_close(o.fd) AS closed FROM (SELECT oid, pg_catalog.lo_open(oid, 262144) AS"
		" fd FROM pg_catalog.pg_largeobject_metadata WHERE oid BETWEEN '%u' AND '%u' ORDER BY oid"
		" OFFSET 0) AS o OFFSET 0) AS s CROSS JOIN LATERAL pg_catalog.generate_series(0,"
		" (CASE WHEN s.size > 0 THEN (s.size - 1) / %d ELSE s.closed END)::int) AS u (n)"
		" ORDER BY 1, 2",
		range->first, range->last, LOB_UNIT_BYTES);
}

void
lob_units_sql(const LobRun *run, const LobRange *range, bool hash, Buffer *sql)
{
	if (run->pages)
		put_pages_list(run, range, hash, sql);
	else
		put_contents_list(range, hash, sql);
}

void
lob_units_add(LobUnits *units, LobUnit unit)
{
	if (units->count == units->capacity) {
		units->capacity = units->capacity * 2 + 64;
		units->items = mem_realloc(units->items, units->capacity * sizeof(LobUnit));
	}
	units->items[units->count++] = unit;
}

/* ---- as parameters ---- */

typedef struct {
	Buffer oids;
	Buffer numbers;
	Buffer bytes; /* bytea or bigint */
} Arrays;

static void
arrays_free(Arrays *arrays)
{
	buffer_free(&arrays->oids);
	buffer_free(&arrays->numbers);
	buffer_free(&arrays->bytes);
}

static void
put_units(const LobUnit *units, size_t count, Arrays *out)
{
	lob_array_begin(&out->oids, LOB_OID, count);
	lob_array_begin(&out->numbers, LOB_INT4, count);
	for (size_t i = 0; i < count; i++) {
		lob_array_u32(&out->oids, units[i].oid);
		lob_array_u32(&out->numbers, units[i].number);
	}
}

static bool
run_query(Sql *sql, const char *text, const LobParam *params, int count, Error *err)
{
	PGresult *result = lob_query(sql, text, params, count, err);

	PQclear(result);
	return result != NULL;
}

bool
lob_units_clear(const LobRun *run, Sql *to, const LobUnits *units, Error *err)
{
	Arrays arrays = {BUFFER_INIT, BUFFER_INIT, BUFFER_INIT};
	const LobParam params[] = {{LOB_OID_ARRAY, &arrays.oids}, {LOB_INT4_ARRAY, &arrays.numbers}};
	unsigned pages = LOB_UNIT_BYTES / run->page_bytes;

	if (units->count == 0)
		return true;
	char *text = mem_printf("DELETE FROM pg_catalog.pg_largeobject p USING"
	                        " unnest($1, $2) AS u (o, n) WHERE p.loid = u.o"
	                        " AND p.pageno >= u.n * %u::bigint"
	                        " AND p.pageno < (u.n + 1) * %u::bigint",
	                        pages, pages);
	put_units(units->items, units->count, &arrays);
	bool ok = run_query(to, text, params, 2, err);
	free(text);
	arrays_free(&arrays);
	return ok;
}

bool
lob_units_cut(Sql *to, const LobUnits *units, Error *err)
{
	Arrays arrays = {BUFFER_INIT, BUFFER_INIT, BUFFER_INIT};
	const LobParam params[] = {{LOB_OID_ARRAY, &arrays.oids}, {LOB_INT8_ARRAY, &arrays.bytes}};

	if (units->count == 0)
		return true;
	lob_array_begin(&arrays.oids, LOB_OID, units->count);
	lob_array_begin(&arrays.bytes, LOB_INT8, units->count);
	for (size_t i = 0; i < units->count; i++) {
		uint64_t bytes = units->items[i].bytes;
		lob_array_u32(&arrays.oids, units->items[i].oid);
		buffer_put_u32(&arrays.bytes, sizeof(bytes));
		buffer_put_u64(&arrays.bytes, bytes);
	}
	bool ok = run_query(to,
	                    "SELECT pg_catalog.lo_truncate64(o.fd, o.n), pg_catalog.lo_close(o.fd) FROM"
	                    " (SELECT pg_catalog.lo_open(u.o, 131072) AS fd, u.n FROM"
	                    " unnest($1, $2) AS u (o, n) OFFSET 0) AS o",
	                    params, 2, err);
	arrays_free(&arrays);
	return ok;
}

/* ---- moved ---- */

static char *
read_sql(const LobRun *run)
{
	unsigned pages = LOB_UNIT_BYTES / run->page_bytes;

	if (run->pages)
		return mem_printf("SELECT p.loid, p.pageno, p.data FROM unnest($1, $2) AS"
		                  " u (o, n) JOIN pg_catalog.pg_largeobject p ON p.loid = u.o"
		                  " AND p.pageno >= u.n * %u::bigint"
		                  " AND p.pageno < (u.n + 1) * %u::bigint",
		                  pages, pages);
	return mem_printf("SELECT u.o, u.n, pg_catalog.lo_get(u.o, u.n * %d::bigint, %d)"
	                  " FROM unnest($1, $2) AS u (o, n)",
	                  LOB_UNIT_BYTES, LOB_UNIT_BYTES);
}

static char *
write_sql(const LobRun *run)
{
	if (run->pages)
		return mem_strdup("INSERT INTO pg_catalog.pg_largeobject (loid, pageno, data)"
		                  " SELECT * FROM unnest($1, $2, $3)");
	return mem_printf("SELECT pg_catalog.count(pg_catalog.lo_put(u.o, u.n * %d::bigint, u.d)) FROM"
	                  " unnest($1, $2, $3) AS u (o, n, d)",
	                  LOB_UNIT_BYTES);
}

typedef struct {
	char *read;
	char *write;
	Arrays wanted;
	Arrays found;
} Mover;

static void
put_found(const PGresult *found, Arrays *out)
{
	size_t rows = (size_t)PQntuples(found);

	lob_array_begin(&out->oids, LOB_OID, rows);
	lob_array_begin(&out->numbers, LOB_INT4, rows);
	lob_array_begin(&out->bytes, LOB_BYTEA, rows);
	for (int i = 0; i < PQntuples(found); i++) {
		lob_array_u32(&out->oids, lob_u32(PQgetvalue(found, i, 0)));
		lob_array_u32(&out->numbers, lob_u32(PQgetvalue(found, i, 1)));
		lob_array_bytes(&out->bytes, PQgetvalue(found, i, 2), (size_t)PQgetlength(found, i, 2));
	}
}

static bool
move_batch(Mover *mover, const LobSession *session, const LobUnit *units, size_t count, Error *err)
{
	const LobParam wanted[] = {{LOB_OID_ARRAY, &mover->wanted.oids},
	                           {LOB_INT4_ARRAY, &mover->wanted.numbers}};
	const LobParam found[] = {{LOB_OID_ARRAY, &mover->found.oids},
	                          {LOB_INT4_ARRAY, &mover->found.numbers},
	                          {LOB_BYTEA_ARRAY, &mover->found.bytes}};

	put_units(units, count, &mover->wanted);
	PGresult *rows = lob_query(session->from, mover->read, wanted, 2, err);
	if (rows == NULL)
		return false;
	put_found(rows, &mover->found);
	PQclear(rows);
	return run_query(session->to, mover->write, found, 3, err);
}

static void
add_progress(const LobRun *run, uint64_t bytes)
{
	if (run->progress != NULL)
		atomic_fetch_add(&run->progress->bytes, bytes);
}

bool
lob_units_move(const LobRun *run, const LobSession *session, const LobUnits *units, Error *err)
{
	Mover mover = {.read = read_sql(run), .write = write_sql(run)};
	uint64_t done = 0;
	bool ok = true;

	for (size_t from = 0, to; ok && from < units->count; from = to) {
		uint64_t bytes = 0;
		for (to = from; to < units->count && to - from < BATCH_UNITS && bytes < BATCH_BYTES; to++)
			bytes += units->items[to].bytes;
		ok = move_batch(&mover, session, &units->items[from], to - from, err);
		if (ok) {
			done += bytes;
			add_progress(run, bytes);
		}
	}
	if (!ok)
		add_progress(run, 0 - done);
	free(mover.read);
	free(mover.write);
	arrays_free(&mover.wanted);
	arrays_free(&mover.found);
	return ok;
}
