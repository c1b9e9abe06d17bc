/*
 * Any bytes as a pgoutput message. The first byte chooses the context. What is
 * accepted must lie within the message, to the last byte of its values.
 */
#include <stdint.h>
#include <stdlib.h>

#include "common/arena.h"
#include "decoder/pgoutput.h"
#include "decoder/relation.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
must_lie_within(Slice bytes, Slice message)
{
	if (bytes.len > 0 &&
	    (bytes.data < message.data || bytes.data + bytes.len > message.data + message.len))
		abort();
}

static void
check_row(const Tuple *row, Slice message)
{
	for (unsigned i = 0; i < row->count; i++)
		must_lie_within(row->values[i].bytes, message);
}

/* The map copies: its entry is read after the message is gone. */
static void
check_relation(const PgoRelation *def)
{
	RelationMap *map = relation_map_new();
	Relation *first = relation_map_put(map, def);
	if (relation_map_put(map, &first->def) != first)
		abort();
	relation_map_free(map);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size == 0)
		return 0;
	PgoContext context = {
		.proto_version = 1 + (data[0] & 3),
		.in_stream = (data[0] & 4) != 0,
		.parallel_streaming = (data[0] & 8) != 0,
	};
	Slice message = slice_of(data + 1, size - 1);
	Arena *arena = arena_new(0);
	Error err = ERROR_INIT;
	PgoMessage m;

	if (pgoutput_parse(&context, message, arena, &m, &err)) {
		if (m.kind == PGO_INSERT || m.kind == PGO_UPDATE || m.kind == PGO_DELETE) {
			check_row(&m.change.old_row, message);
			check_row(&m.change.new_row, message);
		} else if (m.kind == PGO_RELATION) {
			check_relation(&m.relation);
		} else if (m.kind == PGO_MESSAGE) {
			must_lie_within(m.message.content, message);
		}
	} else if (err.class != ERROR_PROTOCOL) {
		abort();
	}
	arena_free(arena);
	return 0;
}
