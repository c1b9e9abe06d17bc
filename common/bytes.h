/*
 * bytes.h: writing and reading network-order bytes.
 *
 * Buffer grows; it owns its bytes. ByteReader walks a borrowed Slice; the
 * first read past the end makes it fail, and from then on every read returns
 * 0 or an empty slice, so a parser reads a whole message and asks once.
 */
#ifndef PGBATON_COMMON_BYTES_H
#define PGBATON_COMMON_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/attr.h"
#include "common/slice.h"

/* data[0, len) is valid; data[len, cap) is room. */
typedef struct {
	uint8_t *data;
	size_t len;
	size_t cap;
} Buffer;

#define BUFFER_INIT ((Buffer){NULL, 0, 0})

void buffer_free(Buffer *buf);
void buffer_reset(Buffer *buf); /* len = 0, keeps the memory */
/* Room for `more` bytes behind len; returns where they start. */
uint8_t *buffer_reserve(Buffer *buf, size_t more);
void buffer_put(Buffer *buf, const void *data, size_t len);
void buffer_put_slice(Buffer *buf, Slice slice);
void buffer_put_u8(Buffer *buf, uint8_t v);
void buffer_put_u16(Buffer *buf, uint16_t v);
void buffer_put_u32(Buffer *buf, uint32_t v);
void buffer_put_u64(Buffer *buf, uint64_t v);
/* The text and its terminating zero. */
void buffer_put_cstr(Buffer *buf, const char *text);
/* The text without a zero. */
void buffer_put_text(Buffer *buf, const char *text);
void buffer_printf(Buffer *buf, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* Terminates without counting the zero; the text lives as the buffer's data. */
char *buffer_cstr(Buffer *buf);
/* Overwrites an already written 32-bit value at offset `at`. */
void buffer_set_u32(Buffer *buf, size_t at, uint32_t v);
/* Drops the first n bytes, moving the rest to the front. */
void buffer_consume(Buffer *buf, size_t n);

static inline Slice
buffer_slice(const Buffer *buf)
{
	return slice_of(buf->data, buf->len);
}

typedef struct {
	const uint8_t *at;
	const uint8_t *end;
	bool failed;
} ByteReader;

/* Up to and without the terminating zero; NULL and failed when there is none.
 * The text lives as long as the bytes read from. */
const char *read_cstr(ByteReader *r);

/* The rest is inline: every value of every row passes through it. */
static inline ByteReader
reader_of(Slice slice)
{
	/* Never NULL, so that pointer differences stay defined. */
	static const uint8_t nothing[1];
	const uint8_t *at = slice.data != NULL ? slice.data : nothing;
	return (ByteReader){at, at + slice.len, false};
}

static inline size_t
reader_left(const ByteReader *r)
{
	return (size_t)(r->end - r->at);
}

static inline Slice
read_bytes(ByteReader *r, size_t len)
{
	if (r->failed || reader_left(r) < len) {
		r->failed = true;
		return SLICE_EMPTY;
	}
	Slice out = slice_of(r->at, len);
	r->at += len;
	return out;
}

static inline uint8_t
read_u8(ByteReader *r)
{
	Slice s = read_bytes(r, 1);
	return s.len == 1 ? s.data[0] : 0;
}

static inline uint16_t
read_u16(ByteReader *r)
{
	Slice s = read_bytes(r, 2);
	return s.len == 2 ? (uint16_t)(s.data[0] << 8 | s.data[1]) : 0;
}

static inline uint32_t
read_u32(ByteReader *r)
{
	Slice s = read_bytes(r, 4);
	if (s.len != 4)
		return 0;
	return (uint32_t)s.data[0] << 24 | (uint32_t)s.data[1] << 16 | (uint32_t)s.data[2] << 8 |
	       (uint32_t)s.data[3];
}

static inline uint64_t
read_u64(ByteReader *r)
{
	/* All of it or nothing. */
	Slice s = read_bytes(r, 8);
	uint64_t out = 0;
	for (size_t i = 0; i < s.len; i++)
		out = out << 8 | s.data[i];
	return out;
}

/* Everything read, nothing missing and nothing left over. */
static inline bool
reader_done(const ByteReader *r)
{
	return !r->failed && r->at == r->end;
}

#endif
