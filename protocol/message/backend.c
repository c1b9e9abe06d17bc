#include "protocol/message/backend.h"

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

static void
put_field(Buffer *out, char field, const char *text)
{
	buffer_put_u8(out, (uint8_t)field);
	buffer_put_cstr(out, text);
}

void
backend_put_fatal(Buffer *out, const char *sqlstate, const char *message, const char *hint)
{
	size_t at = put_begin(out, 'E');

	put_field(out, 'S', "FATAL");
	put_field(out, 'V', "FATAL");
	put_field(out, 'C', sqlstate);
	put_field(out, 'M', message);
	if (hint != NULL && hint[0] != '\0')
		put_field(out, 'H', hint);
	buffer_put_u8(out, 0);
	put_end(out, at);
}

void
backend_put_auth(Buffer *out, uint32_t code, Slice rest)
{
	size_t at = put_begin(out, 'R');

	buffer_put_u32(out, code);
	buffer_put_slice(out, rest);
	put_end(out, at);
}

void
backend_put_key(Buffer *out, uint32_t pid, Slice key)
{
	size_t at = put_begin(out, 'K');

	buffer_put_u32(out, pid);
	buffer_put_slice(out, key);
	put_end(out, at);
}

void
backend_put_negotiate(Buffer *out, uint32_t newest_version, uint32_t option_count, Slice options)
{
	size_t at = put_begin(out, 'v');

	buffer_put_u32(out, newest_version);
	buffer_put_u32(out, option_count);
	buffer_put_slice(out, options);
	put_end(out, at);
}
