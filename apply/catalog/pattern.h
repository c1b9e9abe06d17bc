/*
 * pattern.h: which tables the user chose (--include-table, --exclude-table).
 *
 * pg_dump's rules (PostgreSQL documentation, psql, "Patterns"): "schema.table"
 * or "table" in any schema; * is any run of characters, ? is one; what is
 * not in double quotes is folded to lower case; inside quotes * ? . are
 * themselves and "" is one quote. Regular expressions are not taken.
 */
#ifndef PGBATON_APPLY_CATALOG_PATTERN_H
#define PGBATON_APPLY_CATALOG_PATTERN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "apply/catalog/catalog.h"
#include "common/arena.h"
#include "common/error.h"

/* A byte to match, or one of the wildcards. */
typedef struct {
	uint16_t *items;
	size_t count;
} Glob;

typedef struct {
	const char *text; /* as the user wrote it */
	bool any_schema;
	Glob schema;
	Glob name;
	bool used; /* it has matched something */
} Pattern;

typedef struct {
	Pattern *include;
	size_t include_count;
	Pattern *exclude;
	size_t exclude_count;
} Patterns;

/* ERROR_CONFIG on a pattern that is none. Lives in the arena. */
MUST_CHECK bool patterns_compile(const Selection *selection, Arena *arena, Patterns *out,
                                 Error *err);
bool patterns_include(Patterns *patterns, const char *schema, const char *name);
bool patterns_exclude(Patterns *patterns, const char *schema, const char *name);
/* The first include pattern that has matched nothing; NULL: all have. */
const char *patterns_unused(const Patterns *patterns);

#endif
