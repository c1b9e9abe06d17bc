#include "protocol/message/startup.h"

#include <string.h>
#include <strings.h>

#include "protocol/message/backend.h"
#include "protocol/message/message.h"

#define GSSENC_REQUEST UINT32_C(80877104)
#define PROTOCOL_3_2 UINT32_C(196610)

enum { PACKET_MIN = 8, KEY_MIN = 4, KEY_MAX = 256, KEY_SIZE_3_0 = 4, KEY_SIZE_3_2 = 32 };

static const char extension_prefix[] = "_pq_.";

static StartupResult
bad(Error *err, const char *sqlstate, const char *message)
{
	error_set(err, ERROR_PROTOCOL, "%s", message);
	error_set_sqlstate(err, sqlstate);
	return STARTUP_BAD;
}

/* parse_bool, but for "database": a logical one. */
static bool
is_replication(const char *value)
{
	static const char *const yes[] = {"database", "true", "on", "yes", "1", "t", "y"};

	for (size_t i = 0; i < sizeof(yes) / sizeof(yes[0]); i++)
		if (strcasecmp(value, yes[i]) == 0)
			return true;
	return false;
}

static void
take_param(Startup *out, const char *name, const char *value)
{
	if (strcmp(name, "user") == 0)
		out->user = value;
	else if (strcmp(name, "database") == 0)
		out->database = value;
	else if (strcmp(name, "application_name") == 0)
		out->application_name = value;
	else if (strcmp(name, "replication") == 0)
		out->replication = is_replication(value);
	else if (strncmp(name, extension_prefix, strlen(extension_prefix)) == 0)
		out->unknown++;
}

static StartupResult
parse_session(ByteReader *r, Startup *out, Error *err)
{
	const uint8_t *from = r->at;

	if (out->version >> 16 != 3) {
		error_set(err, ERROR_PROTOCOL,
		          "unsupported frontend protocol %u.%u: server supports 3.0 to 3.2",
		          out->version >> 16, out->version & 0xFFFF);
		error_set_sqlstate(err, "0A000");
		return STARTUP_BAD;
	}
	out->kind = STARTUP_SESSION;
	out->application_name = "";
	for (;;) {
		const uint8_t *at = r->at;
		const char *name = read_cstr(r);
		if (r->failed)
			break;
		if (name[0] == '\0') {
			out->params = slice_of(from, (size_t)(at - from));
			break;
		}
		const char *value = read_cstr(r);
		if (r->failed)
			break;
		take_param(out, name, value);
	}
	if (!reader_done(r))
		return bad(err, "08P01", "invalid startup packet layout: expected terminator as last byte");
	if (out->user == NULL || out->user[0] == '\0')
		return bad(err, "28000", "no PostgreSQL user name specified in startup packet");
	if (out->database == NULL || out->database[0] == '\0')
		out->database = out->user;
	return STARTUP_READY;
}

static StartupResult
parse_body(ByteReader *r, Startup *out, Error *err)
{
	uint32_t code = read_u32(r);

	if (code == PROTOCOL_CANCEL_REQUEST) {
		out->kind = STARTUP_CANCEL;
		out->pid = read_u32(r);
		out->key = read_bytes(r, reader_left(r));
		if (r->failed || out->key.len < KEY_MIN || out->key.len > KEY_MAX)
			return bad(err, "08P01", "invalid length of cancel request packet");
		return STARTUP_READY;
	}
	if (code == PROTOCOL_SSL_REQUEST || code == GSSENC_REQUEST) {
		out->kind = code == GSSENC_REQUEST ? STARTUP_GSS : STARTUP_SSL;
		return reader_done(r) ? STARTUP_READY
		                      : bad(err, "08P01", "invalid length of encryption request packet");
	}
	out->version = code;
	return parse_session(r, out, err);
}

StartupResult
startup_parse(Slice received, size_t *used, Startup *out, Error *err)
{
	ByteReader head = reader_of(received);
	uint32_t len = read_u32(&head);

	*out = (Startup){.kind = STARTUP_SESSION};
	if (head.failed)
		return STARTUP_MORE;
	if (len < PACKET_MIN || len > STARTUP_MAX)
		return bad(err, "08P01", "invalid length of startup packet");
	if (received.len < len)
		return STARTUP_MORE;
	*used = len;
	ByteReader r = reader_of(slice_of(received.data + 4, len - 4));
	return parse_body(&r, out, err);
}

bool
startup_negotiates(const Startup *startup)
{
	return startup->version > PROTOCOL_3_2 || startup->unknown > 0;
}

static bool
next_param(ByteReader *r, const char **name, const char **value)
{
	if (reader_left(r) == 0)
		return false;
	*name = read_cstr(r);
	*value = read_cstr(r);
	return !r->failed;
}

static bool
is_extension(const char *name)
{
	return strncmp(name, extension_prefix, strlen(extension_prefix)) == 0;
}

static uint32_t
spoken(const Startup *startup)
{
	return startup->version < PROTOCOL_3_2 ? startup->version : PROTOCOL_3_2;
}

void
startup_put_negotiate(const Startup *startup, Buffer *out)
{
	Buffer names = BUFFER_INIT;
	ByteReader r = reader_of(startup->params);
	const char *name, *value;

	while (next_param(&r, &name, &value))
		if (is_extension(name))
			buffer_put_cstr(&names, name);
	backend_put_negotiate(out, spoken(startup), startup->unknown, buffer_slice(&names));
	buffer_free(&names);
}

void
startup_put_for_server(const Startup *startup, const char *database, Buffer *out)
{
	size_t at = out->len;
	ByteReader r = reader_of(startup->params);
	const char *name, *value;

	buffer_put_u32(out, 0);
	buffer_put_u32(out, PROTOCOL_3_0);
	while (next_param(&r, &name, &value)) {
		if (is_extension(name) || (database != NULL && strcmp(name, "database") == 0))
			continue;
		buffer_put_cstr(out, name);
		buffer_put_cstr(out, value);
	}
	if (database != NULL) {
		buffer_put_cstr(out, "database");
		buffer_put_cstr(out, database);
	}
	buffer_put_u8(out, 0);
	buffer_set_u32(out, at, (uint32_t)(out->len - at));
}

uint32_t
startup_key_size(const Startup *startup)
{
	return spoken(startup) >= PROTOCOL_3_2 ? KEY_SIZE_3_2 : KEY_SIZE_3_0;
}
