#include "protocol/message/message.h"

#include <string.h>

/* Begins a message; the returned offset goes to message_end_at. */
static size_t
put_begin(Buffer *out, char type)
{
	buffer_put_u8(out, (uint8_t)type);
	size_t at = out->len;
	buffer_put_u32(out, 0);
	return at;
}

static void
put_end(Buffer *out, size_t at)
{
	buffer_set_u32(out, at, (uint32_t)(out->len - at));
}

void
message_put_startup(Buffer *out, const StartupParam *params, size_t count)
{
	size_t at = out->len;

	buffer_put_u32(out, 0);
	buffer_put_u32(out, PROTOCOL_3_0);
	for (size_t i = 0; i < count; i++) {
		buffer_put_cstr(out, params[i].name);
		buffer_put_cstr(out, params[i].value);
	}
	buffer_put_u8(out, 0);
	put_end(out, at);
}

void
message_put_ssl_request(Buffer *out)
{
	buffer_put_u32(out, 8);
	buffer_put_u32(out, PROTOCOL_SSL_REQUEST);
}

void
message_put_cancel(Buffer *out, uint32_t pid, Slice key)
{
	buffer_put_u32(out, (uint32_t)(12 + key.len));
	buffer_put_u32(out, PROTOCOL_CANCEL_REQUEST);
	buffer_put_u32(out, pid);
	buffer_put_slice(out, key);
}

void
message_put_query(Buffer *out, const char *sql)
{
	size_t at = put_begin(out, 'Q');
	buffer_put_cstr(out, sql);
	put_end(out, at);
}

void
message_put_password(Buffer *out, const char *password)
{
	size_t at = put_begin(out, 'p');
	buffer_put_cstr(out, password);
	put_end(out, at);
}

void
message_put_sasl_initial(Buffer *out, const char *mechanism, Slice data)
{
	size_t at = put_begin(out, 'p');
	buffer_put_cstr(out, mechanism);
	buffer_put_u32(out, (uint32_t)data.len);
	buffer_put_slice(out, data);
	put_end(out, at);
}

void
message_put_sasl_response(Buffer *out, Slice data)
{
	size_t at = put_begin(out, 'p');
	buffer_put_slice(out, data);
	put_end(out, at);
}

void
message_put_copy_data(Buffer *out, Slice payload)
{
	size_t at = put_begin(out, 'd');
	buffer_put_slice(out, payload);
	put_end(out, at);
}

void
message_put_copy_done(Buffer *out)
{
	put_end(out, put_begin(out, 'c'));
}

void
message_put_copy_fail(Buffer *out, const char *reason)
{
	size_t at = put_begin(out, 'f');
	buffer_put_cstr(out, reason);
	put_end(out, at);
}

void
message_put_terminate(Buffer *out)
{
	put_end(out, put_begin(out, 'X'));
}

bool
message_end(const ByteReader *r, const char *what, Error *err)
{
	if (reader_done(r))
		return true;
	return error_set(err, ERROR_PROTOCOL, "the server's %s message is malformed", what);
}

/* clang-format off */
static const char **
report_field(ServerReport *report, uint8_t code)
{
	switch (code) {
	case 'S': return &report->severity;
	case 'V': return &report->severity_raw;
	case 'C': return &report->sqlstate;
	case 'M': return &report->message;
	case 'D': return &report->detail;
	case 'H': return &report->hint;
	case 'P': return &report->position;
	case 'p': return &report->internal_position;
	case 'q': return &report->internal_query;
	case 'W': return &report->where;
	case 's': return &report->schema;
	case 't': return &report->table;
	case 'c': return &report->column;
	case 'd': return &report->data_type;
	case 'n': return &report->constraint;
	case 'F': return &report->source_file;
	case 'L': return &report->source_line;
	case 'R': return &report->source_routine;
	default: return NULL; /* "frontends should silently ignore" them */
	}
}
/* clang-format on */

bool
message_parse_report(Slice payload, ServerReport *out, Error *err)
{
	ByteReader r = reader_of(payload);

	*out = (ServerReport){0};
	for (;;) {
		uint8_t code = read_u8(&r);
		if (r.failed || code == 0)
			break;
		const char *text = read_cstr(&r);
		if (r.failed)
			break;
		const char **field = report_field(out, code);
		if (field != NULL)
			*field = text;
	}
	return message_end(&r, "error or notice", err);
}

bool
server_report_to_error(const ServerReport *report, Error *err)
{
	const char *message = report->message != NULL ? report->message : "(no message)";

	if (report->detail != NULL)
		error_set(err, ERROR_SQL, "%s (%s)", message, report->detail);
	else
		error_set(err, ERROR_SQL, "%s", message);
	if (report->sqlstate != NULL)
		error_set_sqlstate(err, report->sqlstate);
	if (report->hint != NULL)
		error_set_hint(err, "%s", report->hint);
	if (report->where != NULL)
		error_add_context(err, "%s", report->where);
	return false;
}

bool
server_report_is_fatal(const ServerReport *report)
{
	/* S is translated; servers before 9.6 have nothing else. */
	const char *severity = report->severity_raw != NULL ? report->severity_raw : report->severity;
	return severity != NULL && (strcmp(severity, "FATAL") == 0 || strcmp(severity, "PANIC") == 0);
}

bool
message_parse_parameter(Slice payload, const char **name, const char **value, Error *err)
{
	ByteReader r = reader_of(payload);

	*name = read_cstr(&r);
	*value = read_cstr(&r);
	return message_end(&r, "ParameterStatus", err);
}

bool
message_parse_key(Slice payload, uint32_t *pid, Slice *key, Error *err)
{
	ByteReader r = reader_of(payload);

	*pid = read_u32(&r);
	*key = read_bytes(&r, reader_left(&r));
	if (key->len < 4 || key->len > 256)
		r.failed = true;
	return message_end(&r, "BackendKeyData", err);
}

bool
message_parse_ready(Slice payload, char *status, Error *err)
{
	ByteReader r = reader_of(payload);

	*status = (char)read_u8(&r);
	if (*status != 'I' && *status != 'T' && *status != 'E')
		r.failed = true;
	return message_end(&r, "ReadyForQuery", err);
}

bool
message_parse_negotiate(Slice payload, uint32_t *version, uint32_t *options, Error *err)
{
	ByteReader r = reader_of(payload);

	*version = read_u32(&r);
	*options = read_u32(&r);
	for (uint32_t i = 0; i < *options && !r.failed; i++)
		(void)read_cstr(&r);
	return message_end(&r, "NegotiateProtocolVersion", err);
}

static bool
count_begin(Slice payload, ByteReader *r, int *count, const char *what, Error *err)
{
	*r = reader_of(payload);
	*count = (int16_t)read_u16(r);
	if (!r->failed && *count >= 0)
		return true;
	return error_set(err, ERROR_PROTOCOL, "the server's %s message is malformed", what);
}

bool
message_row_description_begin(Slice payload, ByteReader *r, int *count, Error *err)
{
	return count_begin(payload, r, count, "RowDescription", err);
}

bool
message_row_description_next(ByteReader *r, ColumnDescription *out, Error *err)
{
	out->name = read_cstr(r);
	out->table_oid = read_u32(r);
	out->column_number = (int16_t)read_u16(r);
	out->type_oid = read_u32(r);
	out->type_size = (int16_t)read_u16(r);
	out->type_modifier = (int32_t)read_u32(r);
	out->format = (int16_t)read_u16(r);
	if (!r->failed)
		return true;
	return error_set(err, ERROR_PROTOCOL, "the server's RowDescription message is malformed");
}

bool
message_data_row_begin(Slice payload, ByteReader *r, int *count, Error *err)
{
	return count_begin(payload, r, count, "DataRow", err);
}

bool
message_data_row_next(ByteReader *r, Slice *value, bool *is_null, Error *err)
{
	uint32_t len = read_u32(r);

	*is_null = !r->failed && len == UINT32_MAX;
	*value = *is_null || r->failed ? SLICE_EMPTY : read_bytes(r, len);
	if (!r->failed)
		return true;
	return error_set(err, ERROR_PROTOCOL, "the server's DataRow message is malformed");
}

bool
message_parse_complete(Slice payload, const char **tag, uint64_t *rows, Error *err)
{
	ByteReader r = reader_of(payload);

	*rows = 0;
	*tag = read_cstr(&r);
	if (!message_end(&r, "CommandComplete", err))
		return false;

	const char *digits = strrchr(*tag, ' ');
	for (digits = digits != NULL ? digits + 1 : ""; *digits >= '0' && *digits <= '9'; digits++)
		*rows = *rows * 10 + (uint64_t)(*digits - '0');
	return true;
}

bool
message_parse_copy_response(Slice payload, int *format, Error *err)
{
	ByteReader r = reader_of(payload);

	*format = read_u8(&r);
	uint16_t columns = read_u16(&r);
	for (int i = 0; i < columns && !r.failed; i++)
		(void)read_u16(&r);
	if (*format > 1)
		r.failed = true;
	return message_end(&r, "copy response", err);
}
