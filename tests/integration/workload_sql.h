/*
 * workload_sql.h: the statements of the random writer. Part of workload.c's work.
 */
#ifndef PGBATON_TESTS_INTEGRATION_WORKLOAD_SQL_H
#define PGBATON_TESTS_INTEGRATION_WORKLOAD_SQL_H

#include <libpq-fe.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct SqlSource SqlSource;

/* Reads the columns of types.t1, ... and types.full1, ... when types is asked for.
 * What is made does not change: threads share it. */
SqlSource *sql_source_new(PGconn *conn, bool types);
void sql_source_free(SqlSource *sql);
/* The next statement, decided by *random alone. The caller frees it. */
char *sql_source_next(const SqlSource *sql, uint64_t *random);
/* A template with its {N} replaced, each by a number from 1 to N of its own. */
char *sql_fill(const char *text, uint64_t *random);

#endif
