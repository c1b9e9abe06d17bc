/*
 * relation.h: what the stream has said about each relation so far.
 *
 * Each Relation message replaces its entry from that point of the stream on.
 * The map owns its entries. A replaced entry is kept until relation_map_free
 * or relation_map_trim, since changes already read point to it.
 */
#ifndef PGBATON_DECODER_RELATION_H
#define PGBATON_DECODER_RELATION_H

#include "decoder/pgoutput.h"

typedef struct Relation {
	PgoRelation def;  /* strings and columns owned by the map */
	uint64_t version; /* unique in the map; grows with every real change */
	void *user;       /* of whoever owns the map (the applier's plan); starts NULL */
} Relation;

typedef struct RelationMap RelationMap;

RelationMap *relation_map_new(void);
void relation_map_free(RelationMap *map);
/* An identical definition leaves the entry (and its version) as it is. */
Relation *relation_map_put(RelationMap *map, const PgoRelation *def);
/* NULL: the stream never described it, which is a protocol error of the peer. */
Relation *relation_map_get(const RelationMap *map, uint32_t oid);
/* for (size_t i = 0; (r = relation_map_each(map, &i)) != NULL;) */
Relation *relation_map_each(const RelationMap *map, size_t *at);
/* Frees replaced entries; nothing may point to them any more. */
void relation_map_trim(RelationMap *map);

#endif
