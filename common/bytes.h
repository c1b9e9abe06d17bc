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

ByteReader reader_of(Slice slice);
uint8_t read_u8(ByteReader *r);
uint16_t read_u16(ByteReader *r);
uint32_t read_u32(ByteReader *r);
uint64_t read_u64(ByteReader *r);
Slice read_bytes(ByteReader *r, size_t len);
/* Up to and without the terminating zero; NULL and failed when there is none.
 * The text lives as long as the bytes read from. */
const char *read_cstr(ByteReader *r);
static inline size_t
reader_left(const ByteReader *r)
{
	return (size_t)(r->end - r->at);
}
/* Everything read, nothing missing and nothing left over. */
static inline bool
reader_done(const ByteReader *r)
{
	return !r->failed && r->at == r->end;
}

#endif
