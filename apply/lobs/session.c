/* Sessions, ranges, and queries with binary parameters. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "apply/lobs/internal.h"
#include "common/memory.h"

/* A range has about so many bytes, so that several workers have some, a crash costs little, and
 * the server sorts its pages in memory (work_mem below). */
enum { RANGE_BYTES = 32 << 20 };

/* ---- sessions ---- */

/* Ranges and units are found by the index; what the planner thinks of an array's length must
 * not change that. */
static const char settings[] = "SET enable_hashjoin = off; SET enable_mergejoin = off;"
							   "SET max_parallel_workers_per_gather = 0; SET work_mem = '64MB'";

static Sql *
open_side(const LobRun *run, const ConnInfo *info, const char *side, Error *err)
{
	Sql *sql = sql_connect(info, side, "large objects", run->work->stop, err);

	if (sql != NULL && !sql_exec(sql, err, settings)) {
		sql_close(sql);
		return NULL;
	}
	return sql;
}

bool
lob_session_open(const LobRun *run, LobSession *session, Error *err)
{
	const LobWork *work = run->work;

	*session = (LobSession){.borrowed = work->holder != NULL && !(run->pages && work->held)};
	session->from = session->borrowed ? work->holder
	                                  : open_side(run, work->from, work->from_side, err);
	if (session->from == NULL)
		return false;
	session->to = open_side(run, work->to, work->to_side, err);
	return session->to != NULL;
}

void
lob_session_close(LobSession *session)
{
	if (!session->borrowed)
		sql_close(session->from);
	sql_close(session->to);
	*session = (LobSession){NULL, NULL, false};
}

/* ---- ranges ---- */

static int64_t
objects_a_range(int64_t objects, int64_t bytes)
{
	int64_t wanted = LOB_RANGE_OBJECTS;

	if (objects > 0 && bytes / objects > 0 && RANGE_BYTES / (bytes / objects) < wanted)
		wanted = RANGE_BYTES / (bytes / objects);
	return wanted < 1 ? 1 : wanted;
}

static void
fill_ranges(const PGresult *bounds, LobRanges *out)
{
	int count = PQntuples(bounds);

	out->items = mem_zalloc(sizeof(LobRange) * ((size_t)count + 1));
	out->count = (size_t)count + 1;
	for (int i = 0; i < count; i++) {
		uint32_t bound = (uint32_t)sql_get_int(bounds, i, 0);
		out->items[i].last = bound - 1;
		out->items[i + 1].first = bound;
	}
	out->items[count].last = UINT32_MAX;
}

bool
lob_ranges_read(Sql *from, LobRanges *out, Error *err)
{
	PGresult *size = sql_query(from, err,
	                           "SELECT count(*), pg_catalog.pg_relation_size("
	                           "'pg_catalog.pg_largeobject') FROM"
	                           " pg_catalog.pg_largeobject_metadata");
	if (size == NULL)
		return false;
	int64_t step = objects_a_range(sql_get_int(size, 0, 0), sql_get_int(size, 0, 1));
	PQclear(size);

	PGresult *bounds = sql_queryf(from, err,
	                              "SELECT oid FROM (SELECT oid, row_number() OVER (ORDER BY oid)"
	                              " AS n FROM pg_catalog.pg_largeobject_metadata) AS m"
	                              " WHERE n > 1 AND (n - 1) %% %" PRId64 " = 0 ORDER BY oid",
	                              step);
	if (bounds == NULL)
		return false;
	fill_ranges(bounds, out);
	PQclear(bounds);
	return true;
}

/* ---- binary ---- */

void
lob_array_begin(Buffer *out, uint32_t element, size_t n)
{
	buffer_reset(out);
	buffer_put_u32(out, n > 0 ? 1 : 0); /* dimensions */
	buffer_put_u32(out, 0);             /* no NULL */
	buffer_put_u32(out, element);
	if (n == 0)
		return;
	buffer_put_u32(out, (uint32_t)n);
	buffer_put_u32(out, 1); /* lower bound */
}

void
lob_array_u32(Buffer *out, uint32_t value)
{
	buffer_put_u32(out, sizeof(value));
	buffer_put_u32(out, value);
}

void
lob_array_bytes(Buffer *out, const void *data, size_t len)
{
	buffer_put_u32(out, (uint32_t)len);
	buffer_put(out, data, len);
}

uint32_t
lob_u32(const char *data)
{
	ByteReader reader = reader_of(slice_of(data, sizeof(uint32_t)));
	return read_u32(&reader);
}

uint64_t
lob_u64(const char *data)
{
	ByteReader reader = reader_of(slice_of(data, sizeof(uint64_t)));
	return read_u64(&reader);
}

/* The only result; an error of the server in it becomes err. */
static PGresult *
one_result(Sql *sql, Error *err)
{
	PGresult *kept = NULL;
	bool ok = true;

	for (;;) {
		PGresult *result;
		if (!sql_next_result(sql, &result, ok ? err : NULL)) {
			PQclear(kept);
			return NULL;
		}
		if (result == NULL)
			break;
		ExecStatusType status = PQresultStatus(result);
		if (ok && status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK)
			ok = sql_error_of(sql, result, err);
		PQclear(kept);
		kept = result;
	}
	if (ok && kept != NULL)
		return kept;
	if (ok)
		sql_error_of(sql, NULL, err);
	PQclear(kept);
	return NULL;
}

PGresult *
lob_query(Sql *sql, const char *text, const LobParam *params, int count, Error *err)
{
	Oid types[3];
	const char *values[3];
	int lengths[3];
	int formats[3];

	CHECK(count <= 3);
	for (int i = 0; i < count; i++) {
		types[i] = params[i].type;
		values[i] = (const char *)params[i].value->data;
		lengths[i] = (int)params[i].value->len;
		formats[i] = 1;
	}
	if (!PQsendQueryParams(sql_pgconn(sql), text, count, types, values, lengths, formats, 1)) {
		sql_error_of(sql, NULL, err);
		return NULL;
	}
	return one_result(sql, err);
}
