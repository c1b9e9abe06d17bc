/*
 * pattern.h: pg_dump's patterns, as regular expressions for the server.
 *
 * The rules are psql's (PostgreSQL documentation, psql, "Patterns"): "schema.table" or
 * "table"; * is any run of characters, ? is one; what is not in double quotes is folded to
 * lower case, and regular expressions work there ([0-9], |, +, ...), but for $; inside
 * quotes every character is itself and "" is one quote. The server matches (~), so that
 * its own expressions are what counts.
 */
#ifndef PGBATON_APPLY_CATALOG_PATTERN_H
#define PGBATON_APPLY_CATALOG_PATTERN_H

#include <stdbool.h>

#include "common/attr.h"
#include "common/bytes.h"
#include "common/error.h"

/* Anchored expressions; schema stays empty when the pattern has none. Names what is wrong
 * with a pattern that is none (ERROR_CONFIG). */
MUST_CHECK bool pattern_to_regex(const char *text, Buffer *schema, Buffer *name, Error *err);
/* Has it a schema? "t" is a table of any schema here, of the search_path for pg_dump. */
bool pattern_has_schema(const char *text);

#endif
