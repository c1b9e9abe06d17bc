/*
 * pipe.h: many statements in one round trip, and what each of them must have done.
 *
 * Statements are queued on a session in pipeline mode; pipe_finish sends the sync, reads
 * every result and compares the row counts with what was expected. After a failure the
 * server has skipped the rest, and the transaction must be rolled back. Queued data that
 * the socket does not take yet waits in libpq's buffer, and results are read while sending
 * goes on, so the two sides cannot block each other. One owner: the lane's thread.
 */
#ifndef PGBATON_APPLY_LANE_PIPE_H
#define PGBATON_APPLY_LANE_PIPE_H

#include "apply/lane/stmt.h"
#include "apply/sql.h"

typedef struct Pipe Pipe;

Pipe *pipe_new(Sql *sql, StmtCache *cache);
void pipe_free(Pipe *pipe); /* not the session and the cache */
int pipe_server_version(const Pipe *pipe);
/* Empty, for what is put together for one statement; keeps its memory (up to 4 MiB). */
Buffer *pipe_scratch(Pipe *pipe);
/* So much was queued that libpq's buffer, which only grows, is worth a new session. */
bool pipe_is_swollen(const Pipe *pipe);

enum { PIPE_ANY_COUNT = -1 };

/* Called with the result of a statement that succeeded, from pipe_finish. */
typedef void (*PipeResult)(void *arg, const PGresult *result);

MUST_CHECK bool pipe_text(Pipe *pipe, Error *err, const char *text);
MUST_CHECK bool pipe_query(Pipe *pipe, Error *err, const char *text, PipeResult result, void *arg);
MUST_CHECK bool pipe_textf(Pipe *pipe, Error *err, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* A statement that the session has prepared under this name; all parameters binary. */
typedef struct {
	const char *name;
	int count;
	const char *const *values;
	const int *lengths;
	PipeResult result; /* NULL: nobody wants it */
	void *arg;
	/* Not NULL: with this SQLSTATE it fails when what we know of the target is old. *err is
	 * then ERROR_NETWORK and says `stale`, so that all of it is read again. Both live on. */
	const char *sqlstate;
	const char *stale;
} PipeCall;

MUST_CHECK bool pipe_call(Pipe *pipe, Error *err, const PipeCall *call);
/* Prepared when the session has it not yet. All parameters binary; values[i] NULL: NULL.
 * They are copied. tag comes back when this statement is the one that failed. */
MUST_CHECK bool pipe_shape(Pipe *pipe, const Shape *shape, const char *const *values,
                           const int *lengths, int64_t expect_rows, const void *tag,
                           PipeResult result, void *arg, Error *err);

typedef enum {
	PIPE_OK,
	PIPE_MISMATCH, /* a row count: *err is ERROR_DIVERGENCE, its message begins with it */
	PIPE_ERROR,    /* anything else */
} PipeEnd;

/* *failed: the tag of the statement that failed (NULL: another one). */
PipeEnd pipe_finish(Pipe *pipe, const void **failed, Error *err);

/* The table that a failure was found to be of (NULL: none): for the caller's caller. */
void pipe_blame(Pipe *pipe, Table *table);
Table *pipe_blamed(const Pipe *pipe);

/* COPY ... FROM STDIN with rows already encoded, outside of a pipeline: the pipe must have
 * been finished. */
MUST_CHECK bool pipe_copy(Pipe *pipe, const char *text, Slice rows, int64_t expect_rows,
                          Error *err);

#endif
