#include "protocol/message/extended.h"

#include <string.h>

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
message_put_parse(Buffer *out, const char *name, const char *sql, const uint32_t *types,
                  size_t type_count)
{
	size_t at = put_begin(out, 'P');

	buffer_put_cstr(out, name);
	buffer_put_cstr(out, sql);
	buffer_put_u16(out, (uint16_t)type_count);
	for (size_t i = 0; i < type_count; i++)
		buffer_put_u32(out, types[i]);
	put_end(out, at);
}

void
message_put_bind(Buffer *out, const char *portal, const char *statement, const char *const *values,
                 size_t value_count)
{
	size_t at = put_begin(out, 'B');

	buffer_put_cstr(out, portal);
	buffer_put_cstr(out, statement);
	buffer_put_u16(out, 0);
	buffer_put_u16(out, (uint16_t)value_count);
	for (size_t i = 0; i < value_count; i++) {
		if (values[i] == NULL) {
			buffer_put_u32(out, UINT32_MAX);
			continue;
		}
		size_t len = strlen(values[i]);
		buffer_put_u32(out, (uint32_t)len);
		buffer_put(out, values[i], len);
	}
	buffer_put_u16(out, 0);
	put_end(out, at);
}

void
message_put_execute(Buffer *out, const char *portal)
{
	size_t at = put_begin(out, 'E');

	buffer_put_cstr(out, portal);
	buffer_put_u32(out, 0);
	put_end(out, at);
}

static void
put_statement(Buffer *out, char type, const char *name)
{
	size_t at = put_begin(out, type);

	buffer_put_u8(out, 'S');
	buffer_put_cstr(out, name);
	put_end(out, at);
}

void
message_put_describe_statement(Buffer *out, const char *name)
{
	put_statement(out, 'D', name);
}

void
message_put_close_statement(Buffer *out, const char *name)
{
	put_statement(out, 'C', name);
}

void
message_put_sync(Buffer *out)
{
	put_end(out, put_begin(out, 'S'));
}
