/*
 * arena.h: memory that is freed all at once.
 *
 * Arenas are named for what lives in them (process, migration, connection,
 * batch, message), passed as parameters, and reset on one line at the place
 * that ends the lifetime. Not thread-safe: one owner. Out of memory aborts;
 * a size that a peer chooses is capped before it comes here.
 */
#ifndef PGBATON_COMMON_ARENA_H
#define PGBATON_COMMON_ARENA_H

#include <stdarg.h>
#include <stddef.h>

#include "common/attr.h"
#include "common/slice.h"

typedef struct Arena Arena;

/* block_size 0: the default of 64 KiB. Allocations above half a block get a
 * block of their own. */
Arena *arena_new(size_t block_size);
void arena_free(Arena *arena);

/* Frees all but the first block: what it held is gone, the arena lives on. */
void arena_reset(Arena *arena);
/* The same, but the usual blocks that were used since the last reset are kept for what comes
 * next: for what is filled again to the same size (the system's work on fresh pages costs as
 * much as filling them). */
void arena_recycle(Arena *arena);

/* Aligned for any type; arena_alloc's bytes are not set, arena_zalloc's are 0. */
void *arena_alloc(Arena *arena, size_t size);
void *arena_zalloc(Arena *arena, size_t size);
void *arena_memdup(Arena *arena, const void *data, size_t size);
char *arena_strdup(Arena *arena, const char *text);
char *arena_strndup(Arena *arena, const char *text, size_t len);
Slice arena_slice(Arena *arena, Slice from);
char *arena_printf(Arena *arena, const char *fmt, ...) PRINTF_LIKE(2, 3);
char *arena_vprintf(Arena *arena, const char *fmt, va_list args) PRINTF_LIKE(2, 0);

/* Takes over malloc'ed memory: it is freed with what the arena handed out, and counts. */
void arena_adopt(Arena *arena, void *data, size_t size);

/* Bytes handed out since the last reset, for limits on a batch's memory. */
size_t arena_used(const Arena *arena);

#define arena_new_array(arena, type, count) \
	((type *)arena_zalloc((arena), sizeof(type) * (size_t)(count)))

#endif
