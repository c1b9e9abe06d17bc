/*
 * message.h: messages of the frontend/backend protocol as values. No socket.
 *
 * message_put_* append one whole frontend message to a buffer. message_parse_*
 * read a payload (without type and length); what they return borrows it. They
 * fail with ERROR_PROTOCOL on anything that is cut, too long, or unterminated.
 *
 * PostgreSQL documentation, "Message Formats" and "Error and Notice Message
 * Fields".
 */
#ifndef PGBATON_PROTOCOL_MESSAGE_H
#define PGBATON_PROTOCOL_MESSAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/bytes.h"
#include "common/error.h"
#include "common/slice.h"

#define PROTOCOL_3_0 UINT32_C(196608)
#define PROTOCOL_SSL_REQUEST UINT32_C(80877103)
#define PROTOCOL_CANCEL_REQUEST UINT32_C(80877102)
/* A server refuses longer ones. */
#define STARTUP_MAX 10000

/* ---- Frontend ---- */

typedef struct {
	const char *name;
	const char *value;
} StartupParam;

void message_put_startup(Buffer *out, const StartupParam *params, size_t count);
void message_put_ssl_request(Buffer *out);
void message_put_cancel(Buffer *out, uint32_t pid, Slice key);
void message_put_query(Buffer *out, const char *sql);
void message_put_password(Buffer *out, const char *password);
void message_put_sasl_initial(Buffer *out, const char *mechanism, Slice data);
void message_put_sasl_response(Buffer *out, Slice data);
void message_put_copy_data(Buffer *out, Slice payload);
void message_put_copy_done(Buffer *out);
void message_put_copy_fail(Buffer *out, const char *reason);
void message_put_terminate(Buffer *out);

/* ---- Backend ---- */

/* All fields of ErrorResponse and NoticeResponse; NULL when not sent. */
typedef struct {
	const char *severity;          /* S, localized */
	const char *severity_raw;      /* V, 9.6+ */
	const char *sqlstate;          /* C */
	const char *message;           /* M */
	const char *detail;            /* D */
	const char *hint;              /* H */
	const char *position;          /* P, characters from 1 */
	const char *internal_position; /* p */
	const char *internal_query;    /* q */
	const char *where;             /* W */
	const char *schema;            /* s */
	const char *table;             /* t */
	const char *column;            /* c */
	const char *data_type;         /* d */
	const char *constraint;        /* n */
	const char *source_file;       /* F */
	const char *source_line;       /* L */
	const char *source_routine;    /* R */
} ServerReport;

MUST_CHECK bool message_parse_report(Slice payload, ServerReport *out, Error *err);
/* ERROR_SQL with sqlstate, message and detail, the hint, and the server's
 * context ("COPY t, line 3, ..."). Returns false. */
bool server_report_to_error(const ServerReport *report, Error *err);
/* FATAL and PANIC: the server closes the connection. */
bool server_report_is_fatal(const ServerReport *report);

MUST_CHECK bool message_parse_parameter(Slice payload, const char **name, const char **value,
                                        Error *err);
/* key: 4 bytes at protocol 3.0. */
MUST_CHECK bool message_parse_key(Slice payload, uint32_t *pid, Slice *key, Error *err);
/* 'I' idle, 'T' in a transaction, 'E' in a failed one. */
MUST_CHECK bool message_parse_ready(Slice payload, char *status, Error *err);
/* *version: what the server offers instead; *options: how many it refuses. */
MUST_CHECK bool message_parse_negotiate(Slice payload, uint32_t *version, uint32_t *options,
                                        Error *err);

typedef struct {
	const char *name;
	uint32_t table_oid;
	int16_t column_number;
	uint32_t type_oid;
	int16_t type_size;
	int32_t type_modifier;
	int16_t format; /* 0 text, 1 binary */
} ColumnDescription;

/* Iterators: begin reads the count, next one item. The message is wholly
 * checked when reader_done(r) holds after `count` items. */
MUST_CHECK bool message_row_description_begin(Slice payload, ByteReader *r, int *count, Error *err);
MUST_CHECK bool message_row_description_next(ByteReader *r, ColumnDescription *out, Error *err);
MUST_CHECK bool message_data_row_begin(Slice payload, ByteReader *r, int *count, Error *err);
MUST_CHECK bool message_data_row_next(ByteReader *r, Slice *value, bool *is_null, Error *err);
MUST_CHECK bool message_end(const ByteReader *r, const char *what, Error *err);

/* *tag: "INSERT 0 5", "COPY 12"; *rows: its last number, 0 without one. */
MUST_CHECK bool message_parse_complete(Slice payload, const char **tag, uint64_t *rows, Error *err);
/* format: 0 text, 1 binary. */
MUST_CHECK bool message_parse_copy_response(Slice payload, int *format, Error *err);

#endif
