#include <stdio.h>
#include <stdlib.h>

#include "apply/lane/stmt.h"
#include "common/map.h"
#include "common/memory.h"

enum { MAX_STATEMENTS = 512 };

typedef struct {
	uint8_t *key;
	size_t key_len;
	uint64_t used;
	char name[24];
} Entry;

struct StmtCache {
	Map *by_shape;
	Buffer key;
	uint64_t tick;
	uint64_t last_name;
	char evicted[24];
};

StmtCache *
stmt_cache_new(void)
{
	StmtCache *cache = mem_zalloc(sizeof(StmtCache));
	cache->by_shape = map_new(MAX_STATEMENTS);
	return cache;
}

static void
entry_free(Entry *entry)
{
	free(entry->key);
	free(entry);
}

void
stmt_cache_clear(StmtCache *cache)
{
	void *value;

	for (size_t i = 0; map_each(cache->by_shape, &i, NULL, &value);)
		entry_free(value);
	map_clear(cache->by_shape);
}

void
stmt_cache_free(StmtCache *cache)
{
	if (cache == NULL)
		return;
	stmt_cache_clear(cache);
	map_free(cache->by_shape);
	buffer_free(&cache->key);
	free(cache);
}

static Slice
shape_bytes(StmtCache *cache, const Shape *shape)
{
	Buffer *key = &cache->key;

	buffer_reset(key);
	buffer_put_u64(key, shape->plan->id);
	buffer_put_u8(key, (uint8_t)shape->op);
	buffer_put_u8(key, shape->masked);
	buffer_put_u8(key, shape->guarded);
	buffer_put_u32(key, shape->rows);
	buffer_put(key, shape->key_forms, shape_key_count(shape));
	buffer_put(key, shape->forms, shape->plan->count);
	return buffer_slice(key);
}

/* Walking all of them is rare and cheap beside what preparing one costs the server. */
static const char *
evict(StmtCache *cache)
{
	Entry *oldest = NULL;
	void *value;

	for (size_t i = 0; map_each(cache->by_shape, &i, NULL, &value);) {
		Entry *entry = value;
		if (oldest == NULL || entry->used < oldest->used)
			oldest = entry;
	}
	memcpy(cache->evicted, oldest->name, sizeof(cache->evicted));
	map_remove(cache->by_shape, slice_of(oldest->key, oldest->key_len));
	entry_free(oldest);
	return cache->evicted;
}

const char *
stmt_cache_get(StmtCache *cache, const Shape *shape, bool *fresh, const char **evicted)
{
	Slice key = shape_bytes(cache, shape);
	Entry *entry = map_get(cache->by_shape, key);

	*evicted = NULL;
	*fresh = entry == NULL;
	if (entry == NULL) {
		if (map_count(cache->by_shape) >= MAX_STATEMENTS)
			*evicted = evict(cache);
		entry = mem_zalloc(sizeof(Entry));
		entry->key = mem_alloc(key.len);
		memcpy(entry->key, key.data, key.len);
		entry->key_len = key.len;
		snprintf(entry->name, sizeof(entry->name), "b%llu", (unsigned long long)++cache->last_name);
		map_put(cache->by_shape, slice_of(entry->key, entry->key_len), entry);
	}
	entry->used = ++cache->tick;
	return entry->name;
}
