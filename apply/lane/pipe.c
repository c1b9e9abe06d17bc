#include "apply/lane/pipe.h"

#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/memory.h"

/* In one statement: beyond what a batch of usual rows has. */
#define GIANT_BYTES ((size_t)16 * 1024 * 1024)

typedef struct {
	int64_t rows;
	const void *tag;
	PipeResult result;
	void *arg;
	const char *sqlstate; /* pipe_call's */
	const char *stale;
} Expect;

struct Pipe {
	Sql *sql;
	StmtCache *cache;
	bool open;
	bool swollen;
	Expect *expects; /* one for each statement queued */
	size_t count;
	size_t capacity;
	Oid *types;   /* room for any statement's parameters */
	int *formats; /* all binary */
	Table *blamed;
	Buffer scratch;
};

Pipe *
pipe_new(Sql *sql, StmtCache *cache)
{
	Pipe *pipe = mem_zalloc(sizeof(Pipe));

	pipe->sql = sql;
	pipe->cache = cache;
	pipe->types = mem_alloc(STMT_MAX_PARAMS * sizeof(Oid));
	pipe->formats = mem_alloc(STMT_MAX_PARAMS * sizeof(int));
	for (int i = 0; i < STMT_MAX_PARAMS; i++)
		pipe->formats[i] = 1;
	return pipe;
}

void
pipe_free(Pipe *pipe)
{
	if (pipe == NULL)
		return;
	free(pipe->expects);
	free(pipe->types);
	free(pipe->formats);
	buffer_free(&pipe->scratch);
	free(pipe);
}

void
pipe_blame(Pipe *pipe, Table *table)
{
	pipe->blamed = table;
}

Table *
pipe_blamed(const Pipe *pipe)
{
	return pipe->blamed;
}

int
pipe_server_version(const Pipe *pipe)
{
	return sql_server_version(pipe->sql);
}

Buffer *
pipe_scratch(Pipe *pipe)
{
	enum { KEPT = 4 * 1024 * 1024 };

	if (pipe->scratch.cap > KEPT)
		buffer_free(&pipe->scratch);
	buffer_reset(&pipe->scratch);
	return &pipe->scratch;
}

bool
pipe_is_swollen(const Pipe *pipe)
{
	return pipe->swollen;
}

static bool
enter(Pipe *pipe, Error *err)
{
	PGconn *conn = sql_pgconn(pipe->sql);

	if (pipe->open)
		return true;
	if (PQsetnonblocking(conn, 1) != 0 || PQenterPipelineMode(conn) != 1)
		return sql_error_of(pipe->sql, NULL, err);
	pipe->open = true;
	return true;
}

static void
expect(Pipe *pipe, Expect what)
{
	if (pipe->count == pipe->capacity) {
		pipe->capacity = pipe->capacity * 2 + 32;
		pipe->expects = mem_realloc(pipe->expects, pipe->capacity * sizeof(Expect));
	}
	pipe->expects[pipe->count++] = what;
}

bool
pipe_call(Pipe *pipe, Error *err, const PipeCall *call)
{
	if (!enter(pipe, err))
		return false;
	if (!PQsendQueryPrepared(sql_pgconn(pipe->sql), call->name, call->count, call->values,
	                         call->lengths, pipe->formats, 0))
		return sql_error_of(pipe->sql, NULL, err);
	expect(pipe, (Expect){
					 .rows = PIPE_ANY_COUNT,
					 .result = call->result,
					 .arg = call->arg,
					 .sqlstate = call->sqlstate,
					 .stale = call->stale,
				 });
	return true;
}

bool
pipe_query(Pipe *pipe, Error *err, const char *text, PipeResult result, void *arg)
{
	if (!enter(pipe, err))
		return false;
	if (!PQsendQueryParams(sql_pgconn(pipe->sql), text, 0, NULL, NULL, NULL, NULL, 0))
		return sql_error_of(pipe->sql, NULL, err);
	expect(pipe, (Expect){.rows = PIPE_ANY_COUNT, .result = result, .arg = arg});
	return true;
}

bool
pipe_text(Pipe *pipe, Error *err, const char *text)
{
	return pipe_query(pipe, err, text, NULL, NULL);
}

bool
pipe_textf(Pipe *pipe, Error *err, const char *fmt, ...)
{
	char *text;
	va_list args;

	va_start(args, fmt);
	int len = vasprintf(&text, fmt, args);
	va_end(args);
	CHECK(len >= 0);
	bool ok = pipe_text(pipe, err, text);
	free(text);
	return ok;
}

static bool
prepare(Pipe *pipe, const Shape *shape, const char *name, const char *evicted, const void *tag,
        Error *err)
{
	Buffer sql = BUFFER_INIT;
	int count;

	if (evicted != NULL && !pipe_textf(pipe, err, "DEALLOCATE %s", evicted))
		return false;
	stmt_sql(shape, &sql, pipe->types, &count);
	bool ok = PQsendPrepare(sql_pgconn(pipe->sql), name, buffer_cstr(&sql), count, pipe->types);
	buffer_free(&sql);
	if (!ok)
		return sql_error_of(pipe->sql, NULL, err);
	expect(pipe, (Expect){.rows = PIPE_ANY_COUNT, .tag = tag});
	return true;
}

static bool
is_giant(const int *lengths, int count)
{
	size_t bytes = 0;

	for (int i = 0; i < count; i++)
		bytes += (size_t)lengths[i];
	return bytes > GIANT_BYTES;
}

bool
pipe_shape(Pipe *pipe, const Shape *shape, const char *const *values, const int *lengths,
           int64_t expect_rows, const void *tag, PipeResult result, void *arg, Error *err)
{
	bool fresh;
	const char *evicted;

	if (!enter(pipe, err))
		return false;
	const char *name = stmt_cache_get(pipe->cache, shape, &fresh, &evicted);
	if (fresh && !prepare(pipe, shape, name, evicted, tag, err))
		return false;
	int count = shape_parameter_count(shape);
	pipe->swollen = pipe->swollen || is_giant(lengths, count);
	if (!PQsendQueryPrepared(sql_pgconn(pipe->sql), name, count, values, lengths, pipe->formats, 0))
		return sql_error_of(pipe->sql, NULL, err);
	expect(pipe, (Expect){.rows = expect_rows, .tag = tag, .result = result, .arg = arg});
	return true;
}

/* One statement's result, and the NULL that ends it. */
static bool
next_result(Pipe *pipe, PGresult **result, Error *err)
{
	PGresult *end;

	if (!sql_next_result(pipe->sql, result, err))
		return false;
	if (*result == NULL)
		return sql_error_of(pipe->sql, NULL, err);
	if (PQresultStatus(*result) == PGRES_PIPELINE_SYNC)
		return true; /* comes alone */
	if (!sql_next_result(pipe->sql, &end, err)) {
		PQclear(*result);
		return false;
	}
	CHECK(end == NULL);
	return true;
}

static PipeEnd
judge(Pipe *pipe, const Expect *expected, const PGresult *result, Error *err)
{
	ExecStatusType status = PQresultStatus(result);

	if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK) {
		sql_error_of(pipe->sql, result, err);
		if (expected->sqlstate != NULL && err != NULL &&
		    error_has_sqlstate(err, expected->sqlstate))
			error_set(err, ERROR_NETWORK, "%s", expected->stale);
		return PIPE_ERROR;
	}
	if (expected->result != NULL)
		expected->result(expected->arg, result);
	int64_t rows = strtoll(PQcmdTuples((PGresult *)(uintptr_t)result), NULL, 10);
	if (expected->rows == PIPE_ANY_COUNT || rows == expected->rows)
		return PIPE_OK;
	error_set(err, ERROR_DIVERGENCE, "%lld rows where %lld were expected", (long long)rows,
	          (long long)expected->rows);
	return PIPE_MISMATCH;
}

/* Results up to the sync; the first failure stays. */
static PipeEnd
collect(Pipe *pipe, const void **failed, Error *err)
{
	PipeEnd end = PIPE_OK;
	PGresult *result;

	for (size_t i = 0;; i++) {
		if (!next_result(pipe, &result, end == PIPE_OK ? err : NULL))
			return PIPE_ERROR;
		if (PQresultStatus(result) == PGRES_PIPELINE_SYNC) {
			PQclear(result);
			return end;
		}
		if (i >= pipe->count) {
			/* The server's last words before it closed the session. */
			if (end == PIPE_OK)
				sql_error_of(pipe->sql, result, err);
			PQclear(result);
			return PIPE_ERROR;
		}
		if (end == PIPE_OK) {
			end = judge(pipe, &pipe->expects[i], result, err);
			if (end != PIPE_OK)
				*failed = pipe->expects[i].tag;
		}
		PQclear(result);
	}
}

PipeEnd
pipe_finish(Pipe *pipe, const void **failed, Error *err)
{
	PGconn *conn = sql_pgconn(pipe->sql);

	*failed = NULL;
	if (!pipe->open)
		return PIPE_OK;
	if (PQpipelineSync(conn) != 1) {
		sql_error_of(pipe->sql, NULL, err);
		return PIPE_ERROR;
	}
	PipeEnd end = collect(pipe, failed, err);
	pipe->count = 0;
	pipe->open = false;
	if (PQexitPipelineMode(conn) != 1 && end != PIPE_ERROR) {
		sql_error_of(pipe->sql, NULL, err);
		return PIPE_ERROR;
	}
	if (end != PIPE_OK)
		stmt_cache_clear(pipe->cache);
	return end;
}

/* ---- COPY ---- */

enum { COPY_PIECE = 256 * 1024 };

static bool
put_all(Pipe *pipe, Slice rows, Error *err)
{
	PGconn *conn = sql_pgconn(pipe->sql);

	for (size_t at = 0; at < rows.len;) {
		size_t piece = rows.len - at < COPY_PIECE ? rows.len - at : COPY_PIECE;
		if (PQputCopyData(conn, (const char *)rows.data + at, (int)piece) != 1)
			return sql_error_of(pipe->sql, NULL, err);
		at += piece;
	}
	if (PQputCopyEnd(conn, NULL) != 1)
		return sql_error_of(pipe->sql, NULL, err);
	return true;
}

/* Every result of a COPY; the row count must be the expected one. */
static bool
end_copy(Pipe *pipe, int64_t expect_rows, Error *err)
{
	PGresult *result;
	bool ok = true;

	for (;;) {
		if (!sql_next_result(pipe->sql, &result, ok ? err : NULL))
			return false;
		if (result == NULL)
			return ok;
		if (ok) {
			Expect expected = {.rows = expect_rows};
			ok = judge(pipe, &expected, result, err) == PIPE_OK;
		}
		PQclear(result);
	}
}

bool
pipe_copy(Pipe *pipe, const char *text, Slice rows, int64_t expect_rows, Error *err)
{
	PGconn *conn = sql_pgconn(pipe->sql);
	PGresult *result;

	CHECK(!pipe->open);
	/* In blocking mode libpq's own waiting for room would not see a stop: rows are at most
	 * a batch, and its buffer takes them. */
	if (PQsetnonblocking(conn, 1) != 0 || !PQsendQuery(conn, text))
		return sql_error_of(pipe->sql, NULL, err);
	if (!sql_next_result(pipe->sql, &result, err))
		return false;
	bool started = PQresultStatus(result) == PGRES_COPY_IN;
	if (!started)
		sql_error_of(pipe->sql, result, err);
	PQclear(result);
	if (!started) {
		if (!end_copy(pipe, PIPE_ANY_COUNT, NULL))
			return false;
		return false;
	}
	return put_all(pipe, rows, err) && end_copy(pipe, expect_rows, err);
}
