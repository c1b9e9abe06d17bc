/*
 * map.h: a hash map from bytes to a pointer (XXH3, open addressing).
 *
 * The keys are borrowed: they must live as long as their entry (usually in the
 * same arena as what they point to). Not thread-safe: one owner.
 */
#ifndef PGBATON_COMMON_MAP_H
#define PGBATON_COMMON_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/slice.h"

typedef struct Map Map;

/* expected: entries to make room for; the map grows beyond it. */
Map *map_new(size_t expected);
void map_free(Map *map); /* not what the values point to */
/* Empties it. One that had few entries for its size becomes smaller: clearing costs the size. */
void map_clear(Map *map);
void *map_get(const Map *map, Slice key); /* NULL: not there */
/* The slot of the key's value, made with a NULL value if absent (*found says
 * which; found may be NULL). Valid until the next map_slot or map_remove. */
void **map_slot(Map *map, Slice key, bool *found);
void map_put(Map *map, Slice key, void *value);
bool map_remove(Map *map, Slice key);
size_t map_count(const Map *map);

/* Walks the entries in no order: for (size_t i = 0; map_each(map, &i, &key, &value);) */
bool map_each(const Map *map, size_t *at, Slice *key, void **value);

/* The hash that everything in the program uses for (table, key): stable
 * across runs and machines, since lanes are chosen by it (P4). */
uint64_t hash_bytes(Slice bytes, uint64_t seed);

#endif
