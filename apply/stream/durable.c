#include "apply/stream/durable.h"

#include <stdlib.h>

#include "common/memory.h"

void
durable_free(Durable *durable)
{
	free(durable->entries);
}

static void
place(Durable *durable, DurableEntry entry)
{
	if (durable->count > 0) {
		DurableEntry
			*last = &durable->entries[(durable->head + durable->count - 1) % durable->capacity];
		if (lsn_cmp(last->wal, entry.wal) == 0) {
			*last = entry;
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
	durable->entries[(durable->head + durable->count++) % durable->capacity] = entry;
}

void
durable_add(Durable *durable, Lsn wal, Lsn commit, Lsn end)
{
	DurableEntry entry = {wal, commit, end};

	if (!lsn_valid(wal)) {
		durable->unplaced = entry;
		return;
	}
	durable->unplaced = (DurableEntry){LSN_INVALID, LSN_INVALID, LSN_INVALID};
	place(durable, entry);
}

bool
durable_waits(const Durable *durable)
{
	return durable->count > 0 || lsn_valid(durable->unplaced.commit);
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
	if (!lsn_valid(durable->unplaced.commit))
		return moved;
	durable->commit = durable->unplaced.commit;
	durable->end = durable->unplaced.end;
	durable->unplaced = (DurableEntry){LSN_INVALID, LSN_INVALID, LSN_INVALID};
	return true;
}

void
durable_forget(Durable *durable)
{
	durable->count = 0;
	durable->unplaced = (DurableEntry){LSN_INVALID, LSN_INVALID, LSN_INVALID};
}
