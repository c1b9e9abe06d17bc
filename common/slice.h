/*
 * slice.h: a borrowed view of bytes. It owns nothing; whoever hands one out
 * says how long it lives.
 */
#ifndef PGBATON_COMMON_SLICE_H
#define PGBATON_COMMON_SLICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct {
	const uint8_t *data;
	size_t len;
} Slice;

#define SLICE_EMPTY ((Slice){NULL, 0})

static inline Slice
slice_of(const void *data, size_t len)
{
	return (Slice){(const uint8_t *)data, len};
}

static inline Slice
slice_cstr(const char *text)
{
	return slice_of(text, strlen(text));
}

static inline bool
slice_eq(Slice a, Slice b)
{
	return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

static inline bool
slice_eq_cstr(Slice a, const char *text)
{
	return slice_eq(a, slice_cstr(text));
}

#endif
