/*
 * memory.h: malloc that does not return NULL. Out of memory aborts: the state
 * that matters lies in PostgreSQL and in the log, and a start goes on from
 * there. Sizes that a peer chooses are capped before they come here.
 */
#ifndef PGBATON_COMMON_MEMORY_H
#define PGBATON_COMMON_MEMORY_H

#include <stddef.h>

#include "common/attr.h"
#include "common/error.h"

/* At the start of the process: what was freed goes back to the system soon, also after a
 * giant row, and threads share a few arenas. */
void mem_setup(void);

/* Free with free(). */
void *mem_alloc(size_t size);
void *mem_zalloc(size_t size);
void *mem_realloc(void *old, size_t size);
char *mem_strdup(const char *text);
char *mem_strndup(const char *text, size_t len);
char *mem_printf(const char *fmt, ...) PRINTF_LIKE(1, 2);

/* Overwrites a secret in a way the compiler may not drop; NULL is allowed. */
void mem_wipe(void *data, size_t size);
void mem_wipe_free_cstr(char *text);

#endif
