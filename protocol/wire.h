/*
 * wire.h: one connection to a PostgreSQL server, spoken by ourselves.
 *
 * Startup, TLS, authentication, simple queries, COPY both ways and the
 * copy-both mode of replication over a socket of our own (no libpq), because
 * the receiver and the copy relay must see the frames as they come.
 * PostgreSQL documentation, chapter "Frontend/Backend Protocol".
 *
 * One owner at a time; not thread-safe. The socket is non-blocking; functions
 * marked "waits" return when done, when `stop` is requested (ERROR_CANCELLED),
 * or at their deadline (ERROR_TIMEOUT). After ERROR_NETWORK or ERROR_PROTOCOL
 * the connection is useless and only wire_close may follow. An ErrorResponse
 * becomes ERROR_SQL with its SQLSTATE, message, detail and hint; where the
 * server goes on to ReadyForQuery the connection stays usable.
 */
#ifndef PGBATON_PROTOCOL_WIRE_H
#define PGBATON_PROTOCOL_WIRE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "common/slice.h"
#include "common/stop.h"
#include "protocol/conninfo.h"

typedef struct Wire Wire;

typedef struct {
	const ConnInfo *info;
	const char *application_name; /* when info has none */
	bool replication;             /* replication=database */
	const char *options;          /* added to info's options: "-c geqo=off"; or NULL */
	const Stop *stop;             /* may be NULL */
} WireOptions;

/* Waits. Tries the hosts in order; the error names each one's own reason. */
Wire *wire_connect(const WireOptions *options, Error *err);
/* Sends Terminate if it can, closes, frees. NULL is allowed. */
void wire_close(Wire *wire);

/* From the last ParameterStatus; NULL if never sent. */
const char *wire_parameter(const Wire *wire, const char *name);
/* 150018 style, from server_version. */
int wire_server_version(const Wire *wire);
uint32_t wire_backend_pid(const Wire *wire);
const char *wire_display(const Wire *wire); /* the host that answered: "host:port/db" */
bool wire_uses_tls(const Wire *wire);

/* ---- Simple queries (also on a replication connection) ---- */

/* A result of at most one result set (the last one with rows), all text. */
typedef struct WireResult WireResult;
int wire_result_rows(const WireResult *result);
int wire_result_columns(const WireResult *result);
/* -1: no such column. */
int wire_result_column(const WireResult *result, const char *name);
/* NULL for SQL NULL. Lives as long as the result. */
const char *wire_result_get(const WireResult *result, int row, int column);
const char *wire_result_tag(const WireResult *result); /* last CommandComplete */
void wire_result_free(WireResult *result);

/* Waits. sql may hold several statements. result may be NULL. deadline_ms as in
 * clock.h (0: none); at the deadline the query is cancelled on the server and
 * its end is awaited (bounded), so the connection stays usable where possible. */
MUST_CHECK bool wire_query(Wire *wire, const char *sql, int64_t deadline_ms, WireResult **result,
                           Error *err);

/* ---- COPY: frames relayed as they came ---- */

/* Waits for CopyOutResponse. */
MUST_CHECK bool wire_copy_out_start(Wire *wire, const char *sql, Error *err);
/*
 * Waits for more bytes. *frames is a borrowed run of bytes of consecutive
 * CopyData messages, headers included, exactly as they came; it may end in the
 * middle of one and the next run goes on there. Valid until the next call.
 * *frames empty and *done: the copy has ended, ReadyForQuery has come, and
 * *rows is the count from the server's "COPY n". *messages counts the CopyData
 * headers in this run (rows in text format; in binary plus header and trailer).
 */
MUST_CHECK bool wire_copy_out_next(Wire *wire, Slice *frames, uint64_t *messages, bool *done,
                                   uint64_t *rows, Error *err);

/* Waits for CopyInResponse. */
MUST_CHECK bool wire_copy_in_start(Wire *wire, const char *sql, Error *err);
/* Waits until `frames` (as from wire_copy_out_next) is handed to the kernel.
 * Sees an ErrorResponse that came meanwhile, then fails with it. */
MUST_CHECK bool wire_copy_in_frames(Wire *wire, Slice frames, Error *err);
/* CopyDone, then waits for ReadyForQuery; *rows from "COPY n". */
MUST_CHECK bool wire_copy_in_end(Wire *wire, uint64_t *rows, Error *err);
/* CopyFail(reason), then waits for ReadyForQuery. The ErrorResponse that
 * answers it is expected and is no error here. */
MUST_CHECK bool wire_copy_in_fail(Wire *wire, const char *reason, Error *err);

/* ---- Copy-both, for an event loop (START_REPLICATION) ---- */

/* Waits for CopyBothResponse. */
MUST_CHECK bool wire_copy_both_start(Wire *wire, const char *sql, Error *err);

int wire_socket(const Wire *wire);
/* What the socket must become ready for next: POLLIN, or POLLIN | POLLOUT when
 * bytes wait to be sent (or TLS wants to write). */
short wire_wants(const Wire *wire);

typedef enum {
	WIRE_FRAME,    /* *payload is the payload of one CopyData message */
	WIRE_NOTHING,  /* no whole frame is here: wait for the socket */
	WIRE_COPY_END, /* the server sent CopyDone or ended the copy */
	WIRE_FAILED    /* err is set */
} WireNext;

/* Reads what the socket has without waiting (at most one read) if no whole
 * frame is buffered, then gives the next frame. payload is valid until the
 * next call on this wire. NoticeResponse and ParameterStatus are absorbed. */
WireNext wire_copy_both_next(Wire *wire, Slice *payload, Error *err);
/* Queues one CopyData message and tries to send; never waits. */
MUST_CHECK bool wire_copy_both_put(Wire *wire, Slice payload, Error *err);
/* Sends more of what is queued; never waits. *empty says whether all went out. */
MUST_CHECK bool wire_flush(Wire *wire, bool *empty, Error *err);
/* Waits: CopyDone, drops frames still coming, until ReadyForQuery. */
MUST_CHECK bool wire_copy_both_end(Wire *wire, int64_t deadline_ms, Error *err);

/* Asks the server, on a connection of its own, to cancel what wire does. */
MUST_CHECK bool wire_cancel(const Wire *wire, Error *err);

#endif
