#include "apply/stream/tally.h"

#include <stdlib.h>

#include "common/memory.h"

typedef struct {
	Table *table; /* the key in the map */
	Counts counts;
} TableCounts;

struct Tally {
	Map *by_table;
};

Tally *
tally_new(void)
{
	Tally *tally = mem_zalloc(sizeof(Tally));
	tally->by_table = map_new(0);
	return tally;
}

void
tally_clear(Tally *tally)
{
	void *value;

	for (size_t i = 0; map_each(tally->by_table, &i, NULL, &value);)
		free(value);
	map_clear(tally->by_table);
}

void
tally_free(Tally *tally)
{
	if (tally == NULL)
		return;
	tally_clear(tally);
	map_free(tally->by_table);
	free(tally);
}

static Counts *
counts_of(Tally *tally, Table *table)
{
	TableCounts *entry = map_get(tally->by_table, slice_of(&table, sizeof(Table *)));

	if (entry == NULL) {
		entry = mem_zalloc(sizeof(TableCounts));
		entry->table = table;
		map_put(tally->by_table, slice_of(&entry->table, sizeof(Table *)), entry);
	}
	return &entry->counts;
}

void
tally_add(Tally *tally, const Batch *batch)
{
	for (size_t i = 0; i < batch->change_count; i++) {
		const Change *change = batch->changes[i];
		if (change->kind == PGO_TRUNCATE)
			for (uint32_t t = 0; t < change->table_count; t++)
				counts_of(tally, change->tables[t])->truncates++;
		else if (change->kind == PGO_INSERT)
			counts_of(tally, change->plan->table)->inserts++;
		else if (change->kind == PGO_UPDATE)
			counts_of(tally, change->plan->table)->updates++;
		else
			counts_of(tally, change->plan->table)->deletes++;
	}
}

void
tally_take(Tally *tally, Tally *from)
{
	void *value;

	for (size_t i = 0; map_each(from->by_table, &i, NULL, &value);) {
		const TableCounts *entry = value;
		Counts *counts = counts_of(tally, entry->table);
		counts->inserts += entry->counts.inserts;
		counts->updates += entry->counts.updates;
		counts->deletes += entry->counts.deletes;
		counts->truncates += entry->counts.truncates;
	}
	tally_clear(from);
}

void
tally_commit(Tally *tally, Counts *total)
{
	void *value;

	for (size_t i = 0; map_each(tally->by_table, &i, NULL, &value);) {
		const TableCounts *entry = value;
		const Counts *counts = &entry->counts;
		atomic_fetch_add(&entry->table->inserts, counts->inserts);
		atomic_fetch_add(&entry->table->updates, counts->updates);
		atomic_fetch_add(&entry->table->deletes, counts->deletes);
		atomic_fetch_add(&entry->table->truncates, counts->truncates);
		total->inserts += counts->inserts;
		total->updates += counts->updates;
		total->deletes += counts->deletes;
		total->truncates += counts->truncates;
	}
	tally_clear(tally);
}
