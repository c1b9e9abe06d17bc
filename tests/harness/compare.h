/*
 * compare.h: are two databases equal, row by row?
 *
 * Works on what a client can see: every column's text form, digested on each
 * server, so that servers of any two majors can be compared. Covers every
 * ordinary table and every leaf of a partitioned table in every schema that is
 * not the system's; generated columns and unlogged and temporary tables are
 * left out. Equal means: the same tables, the same columns by name, the same
 * rows as a multiset (order does not count, duplicates do).
 */
#ifndef PGBATON_TESTS_HARNESS_COMPARE_H
#define PGBATON_TESTS_HARNESS_COMPARE_H

#include <libpq-fe.h>
#include <stdbool.h>

#include "common/bytes.h"

typedef enum {
	SEQUENCES_IGNORED,
	SEQUENCES_EQUAL,   /* last_value and is_called are the same */
	SEQUENCES_AT_LEAST /* the target's next value is the source's or beyond it */
} CompareSequences;

typedef struct {
	CompareSequences sequences;
	const char *own_schema;         /* left out; NULL: "pgbaton" */
	const char *const *skip_tables; /* "schema.table" left out, NULL at the end; or NULL */
} CompareOptions;

/* Appends what differs to report (tables, counts, up to five rows of each
 * side, cut to 300 characters) and says whether nothing does. options may be
 * NULL. Ends the test only when a query fails. */
bool databases_equal(PGconn *source, PGconn *target, const CompareOptions *options, Buffer *report);
/* Ends the test with the report when they differ. Fails also when there is no
 * table at all to compare: such a test would prove nothing. */
void compare_databases(PGconn *source, PGconn *target, const CompareOptions *options);

#endif
