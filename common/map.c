#include "common/map.h"

#include <stdlib.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "common/memory.h"

typedef struct {
	uint64_t hash;
	Slice key;
	void *value;
	bool used;
} Entry;

/* Linear probing; capacity is a power of two, at most 3/4 full. Removal moves
 * the followers back, so there are no tombstones. */
struct Map {
	Entry *entries;
	size_t capacity;
	size_t count;
};

uint64_t
hash_bytes(Slice bytes, uint64_t seed)
{
	return XXH3_64bits_withSeed(bytes.data != NULL ? (const void *)bytes.data : "", bytes.len,
	                            seed);
}

static size_t
capacity_for(size_t expected)
{
	size_t capacity = 16;

	while (capacity * 3 / 4 < expected)
		capacity *= 2;
	return capacity;
}

Map *
map_new(size_t expected)
{
	Map *map = mem_zalloc(sizeof(Map));
	map->capacity = capacity_for(expected);
	map->entries = mem_zalloc(map->capacity * sizeof(Entry));
	return map;
}

void
map_free(Map *map)
{
	if (map == NULL)
		return;
	free(map->entries);
	free(map);
}

void
map_clear(Map *map)
{
	size_t capacity = capacity_for(map->count);

	map->count = 0;
	if (capacity >= map->capacity / 8) {
		memset(map->entries, 0, map->capacity * sizeof(Entry));
		return;
	}
	free(map->entries);
	map->capacity = capacity;
	map->entries = mem_zalloc(capacity * sizeof(Entry));
}

/* The key's entry, or the free one where it would go. */
static Entry *
find(const Map *map, Slice key, uint64_t hash)
{
	for (size_t i = hash & (map->capacity - 1);; i = (i + 1) & (map->capacity - 1)) {
		Entry *entry = &map->entries[i];
		if (!entry->used || (entry->hash == hash && slice_eq(entry->key, key)))
			return entry;
	}
}

static void
grow(Map *map)
{
	Map bigger = {
		.entries = mem_zalloc(map->capacity * 2 * sizeof(Entry)),
		.capacity = map->capacity * 2,
		.count = map->count,
	};

	for (size_t i = 0; i < map->capacity; i++)
		if (map->entries[i].used)
			*find(&bigger, map->entries[i].key, map->entries[i].hash) = map->entries[i];
	free(map->entries);
	*map = bigger;
}

void *
map_get(const Map *map, Slice key)
{
	const Entry *entry = find(map, key, hash_bytes(key, 0));
	return entry->used ? entry->value : NULL;
}

void **
map_slot(Map *map, Slice key, bool *found)
{
	uint64_t hash = hash_bytes(key, 0);
	Entry *entry = find(map, key, hash);

	if (found != NULL)
		*found = entry->used;
	if (!entry->used) {
		if ((map->count + 1) > map->capacity * 3 / 4) {
			grow(map);
			entry = find(map, key, hash);
		}
		*entry = (Entry){.hash = hash, .key = key, .value = NULL, .used = true};
		map->count++;
	}
	return &entry->value;
}

void
map_put(Map *map, Slice key, void *value)
{
	*map_slot(map, key, NULL) = value;
}

bool
map_remove(Map *map, Slice key)
{
	Entry *gap = find(map, key, hash_bytes(key, 0));
	if (!gap->used)
		return false;

	size_t mask = map->capacity - 1;
	size_t hole = (size_t)(gap - map->entries);
	for (size_t i = (hole + 1) & mask; map->entries[i].used; i = (i + 1) & mask) {
		size_t home = map->entries[i].hash & mask;
		/* Movable when its home is not cyclically within (hole, i]. */
		if (((i - home) & mask) >= ((i - hole) & mask)) {
			map->entries[hole] = map->entries[i];
			hole = i;
		}
	}
	map->entries[hole] = (Entry){0};
	map->count--;
	return true;
}

size_t
map_count(const Map *map)
{
	return map->count;
}

bool
map_each(const Map *map, size_t *at, Slice *key, void **value)
{
	while (*at < map->capacity) {
		const Entry *entry = &map->entries[(*at)++];
		if (!entry->used)
			continue;
		if (key != NULL)
			*key = entry->key;
		if (value != NULL)
			*value = entry->value;
		return true;
	}
	return false;
}
