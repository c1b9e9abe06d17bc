#include "common/bytes.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/memory.h"

void
buffer_free(Buffer *buf)
{
	free(buf->data);
	*buf = BUFFER_INIT;
}

void
buffer_reset(Buffer *buf)
{
	buf->len = 0;
}

uint8_t *
buffer_reserve(Buffer *buf, size_t more)
{
	CHECK(more <= SIZE_MAX / 4 && buf->len <= SIZE_MAX / 4);
	if (buf->cap - buf->len < more) {
		size_t cap = buf->cap != 0 ? buf->cap * 2 : 256;
		if (cap < buf->len + more)
			cap = buf->len + more;
		buf->data = mem_realloc(buf->data, cap);
		buf->cap = cap;
	}
	return buf->data + buf->len;
}

void
buffer_put(Buffer *buf, const void *data, size_t len)
{
	if (len == 0)
		return;
	memcpy(buffer_reserve(buf, len), data, len);
	buf->len += len;
}

void
buffer_put_slice(Buffer *buf, Slice slice)
{
	buffer_put(buf, slice.data, slice.len);
}

void
buffer_put_u8(Buffer *buf, uint8_t v)
{
	*buffer_reserve(buf, 1) = v;
	buf->len += 1;
}

void
buffer_put_u16(Buffer *buf, uint16_t v)
{
	uint8_t *to = buffer_reserve(buf, 2);
	to[0] = (uint8_t)(v >> 8);
	to[1] = (uint8_t)v;
	buf->len += 2;
}

static void
store_u32(uint8_t *to, uint32_t v)
{
	to[0] = (uint8_t)(v >> 24);
	to[1] = (uint8_t)(v >> 16);
	to[2] = (uint8_t)(v >> 8);
	to[3] = (uint8_t)v;
}

void
buffer_put_u32(Buffer *buf, uint32_t v)
{
	store_u32(buffer_reserve(buf, 4), v);
	buf->len += 4;
}

void
buffer_put_u64(Buffer *buf, uint64_t v)
{
	buffer_put_u32(buf, (uint32_t)(v >> 32));
	buffer_put_u32(buf, (uint32_t)v);
}

void
buffer_put_cstr(Buffer *buf, const char *text)
{
	buffer_put(buf, text, strlen(text) + 1);
}

void
buffer_put_text(Buffer *buf, const char *text)
{
	buffer_put(buf, text, strlen(text));
}

void
buffer_printf(Buffer *buf, const char *fmt, ...)
{
	va_list args;
	va_start(args, fmt);
	int len = vsnprintf(NULL, 0, fmt, args);
	va_end(args);
	CHECK(len >= 0);

	char *to = (char *)buffer_reserve(buf, (size_t)len + 1);
	va_start(args, fmt);
	vsnprintf(to, (size_t)len + 1, fmt, args);
	va_end(args);
	buf->len += (size_t)len;
}

char *
buffer_cstr(Buffer *buf)
{
	*buffer_reserve(buf, 1) = '\0';
	return (char *)buf->data;
}

void
buffer_set_u32(Buffer *buf, size_t at, uint32_t v)
{
	CHECK(at + 4 <= buf->len);
	store_u32(buf->data + at, v);
}

void
buffer_consume(Buffer *buf, size_t n)
{
	CHECK(n <= buf->len);
	buf->len -= n;
	if (n > 0 && buf->len > 0)
		memmove(buf->data, buf->data + n, buf->len);
}

const char *
read_cstr(ByteReader *r)
{
	const uint8_t *zero = r->failed ? NULL : memchr(r->at, '\0', reader_left(r));
	if (zero == NULL) {
		r->failed = true;
		return NULL;
	}
	const char *out = (const char *)r->at;
	r->at = zero + 1;
	return out;
}
