#include "decoder/relation.h"

#include <stdlib.h>

#include "common/map.h"
#include "common/memory.h"

/* A Relation with the arena that all of it lives in. */
typedef struct Entry {
	Relation relation; /* first: a Relation of the map is its Entry */
	Arena *arena;
	struct Entry *next_replaced;
} Entry;

struct RelationMap {
	Map *by_oid; /* key: the entry's own def.oid */
	Entry *replaced;
	uint64_t last_version;
};

RelationMap *
relation_map_new(void)
{
	RelationMap *map = mem_zalloc(sizeof(RelationMap));
	map->by_oid = map_new(0);
	return map;
}

static Slice
oid_key(const uint32_t *oid)
{
	return slice_of(oid, sizeof(*oid));
}

void
relation_map_trim(RelationMap *map)
{
	while (map->replaced != NULL) {
		Entry *entry = map->replaced;
		map->replaced = entry->next_replaced;
		arena_free(entry->arena);
	}
}

void
relation_map_free(RelationMap *map)
{
	if (map == NULL)
		return;
	relation_map_trim(map);
	void *value;
	for (size_t i = 0; map_each(map->by_oid, &i, NULL, &value);)
		arena_free(((Entry *)value)->arena);
	map_free(map->by_oid);
	free(map);
}

static bool
same_definition(const PgoRelation *a, const PgoRelation *b)
{
	if (a->oid != b->oid || a->replica_identity != b->replica_identity || a->count != b->count ||
	    strcmp(a->schema, b->schema) != 0 || strcmp(a->name, b->name) != 0)
		return false;
	for (unsigned i = 0; i < a->count; i++) {
		const PgoColumn *x = &a->columns[i];
		const PgoColumn *y = &b->columns[i];
		if (x->key != y->key || x->type_oid != y->type_oid || x->typmod != y->typmod ||
		    strcmp(x->name, y->name) != 0)
			return false;
	}
	return true;
}

static Entry *
entry_new(const PgoRelation *def, uint64_t version)
{
	Arena *arena = arena_new(2048);
	Entry *entry = arena_zalloc(arena, sizeof(Entry));
	PgoRelation *copy = &entry->relation.def;

	entry->arena = arena;
	*copy = *def;
	copy->schema = arena_strdup(arena, def->schema);
	copy->name = arena_strdup(arena, def->name);
	copy->columns = arena_new_array(arena, PgoColumn, def->count);
	for (unsigned i = 0; i < def->count; i++) {
		copy->columns[i] = def->columns[i];
		copy->columns[i].name = arena_strdup(arena, def->columns[i].name);
	}
	entry->relation.version = version;
	return entry;
}

Relation *
relation_map_put(RelationMap *map, const PgoRelation *def)
{
	Entry *old = map_get(map->by_oid, oid_key(&def->oid));

	if (old != NULL) {
		if (same_definition(&old->relation.def, def))
			return &old->relation;
		/* The key in the map lies in the entry: take both out together. */
		map_remove(map->by_oid, oid_key(&def->oid));
		old->next_replaced = map->replaced;
		map->replaced = old;
	}
	Entry *entry = entry_new(def, ++map->last_version);
	map_put(map->by_oid, oid_key(&entry->relation.def.oid), entry);
	return &entry->relation;
}

Relation *
relation_map_get(const RelationMap *map, uint32_t oid)
{
	Entry *entry = map_get(map->by_oid, oid_key(&oid));
	return entry != NULL ? &entry->relation : NULL;
}

Relation *
relation_map_each(const RelationMap *map, size_t *at)
{
	void *value;
	return map_each(map->by_oid, at, NULL, &value) ? &((Entry *)value)->relation : NULL;
}
