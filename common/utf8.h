/*
 * utf8.h: where characters begin and end (RFC 3629).
 */
#ifndef PGBATON_COMMON_UTF8_H
#define PGBATON_COMMON_UTF8_H

#include <stddef.h>

/* Length in bytes of the valid character that text[0, len) starts with; 0 when
 * it does not start with one (overlong forms, surrogates and what lies beyond
 * U+10FFFF are not valid). */
size_t utf8_char_len(const char *text, size_t len);

/* The greatest length up to len at which text can be cut without halving a
 * character. Bytes that are no UTF-8 at all are left as they are. */
size_t utf8_cut(const char *text, size_t len);

#endif
