#include "apply/stream/durable.h"

#include <stdlib.h>

#include "common/memory.h"

void
durable_free(Durable *durable)
{
	free(durable->entries);
}

void
durable_add(Durable *durable, Lsn wal, Lsn commit, Lsn end)
{
	if (durable->count > 0) {
		DurableEntry
			*last = &durable->entries[(durable->head + durable->count - 1) % durable->capacity];
		if (lsn_cmp(last->wal, wal) == 0) {
			*last = (DurableEntry){wal, commit, end};
			return;
		}
	}
	if (durable->count == durable->capacity) {
		size_t capacity = durable->capacity * 2 + 16;
		DurableEntry *entries = mem_alloc(capacity * sizeof(DurableEntry));
		for (size_t i = 0; i < durable->count; i++)
			entries[i] = durable->entries[(durable->head + i) % durable->capacity];
		free(durable->entries);
		durable->entries = entries;
		durable->capacity = capacity;
		durable->head = 0;
	}
	durable->entries[(durable->head + durable->count++) % durable->capacity] = (DurableEntry){
		wal, commit, end};
}

static bool
take_first(Durable *durable)
{
	const DurableEntry *entry = &durable->entries[durable->head];

	durable->commit = entry->commit;
	durable->end = entry->end;
	durable->head = (durable->head + 1) % durable->capacity;
	durable->count--;
	return true;
}

bool
durable_flushed(Durable *durable, Lsn flushed)
{
	bool moved = false;

	while (durable->count > 0 && lsn_cmp(durable->entries[durable->head].wal, flushed) <= 0)
		moved = take_first(durable);
	return moved;
}

bool
durable_all(Durable *durable)
{
	bool moved = false;

	while (durable->count > 0)
		moved = take_first(durable);
	return moved;
}

void
durable_forget(Durable *durable)
{
	durable->count = 0;
}
