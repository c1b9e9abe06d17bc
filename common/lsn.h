/*
 * lsn.h: a position in a server's write-ahead log.
 *
 * A struct, so that it cannot be mixed up with a count or an offset. LSNs are
 * comparable only within one server and timeline. Text form as PostgreSQL
 * prints pg_lsn: "16/B374D848" (src/backend/utils/adt/pg_lsn.c).
 */
#ifndef PGBATON_COMMON_LSN_H
#define PGBATON_COMMON_LSN_H

#include <stdbool.h>
#include <stdint.h>

#include "common/attr.h"

typedef struct {
	uint64_t v;
} Lsn;

#define LSN_INVALID ((Lsn){0})
#define LSN_TEXT_SIZE 18 /* 8 + '/' + 8 + terminator */

static inline Lsn
lsn_make(uint64_t v)
{
	return (Lsn){v};
}

static inline bool
lsn_valid(Lsn lsn)
{
	return lsn.v != 0;
}

/* <0, 0, >0 like memcmp. */
static inline int
lsn_cmp(Lsn a, Lsn b)
{
	return (a.v > b.v) - (a.v < b.v);
}

static inline Lsn
lsn_max(Lsn a, Lsn b)
{
	return a.v > b.v ? a : b;
}

static inline Lsn
lsn_min(Lsn a, Lsn b)
{
	return a.v < b.v ? a : b;
}

/* An insert position right behind a page's header (40 bytes at most) as the end of what was written
 * before it, where the page before ends: no flush comes further until more is written. */
static inline Lsn
lsn_before_page_header(Lsn lsn)
{
	uint64_t in_page = lsn.v % 8192;

	return (Lsn){in_page <= 40 ? lsn.v - in_page : lsn.v};
}

/* Writes the text form into out[LSN_TEXT_SIZE] and returns out. */
char *lsn_format(Lsn lsn, char out[LSN_TEXT_SIZE]);

/* For printf: `LSN_STR(lsn)` lives until the end of the enclosing block. */
#define LSN_STR(lsn) lsn_format((lsn), (char[LSN_TEXT_SIZE]){0})

/* Strict: two hexadecimal numbers of 1 to 8 digits around one '/'. */
MUST_CHECK bool lsn_parse(const char *text, Lsn *out);

#endif
