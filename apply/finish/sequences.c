#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "apply/schema/target.h"
#include "common/map.h"
#include "common/memory.h"
#include "protocol/replication.h"

/* A query reads or sets so many at once: one round trip costs more than 500 of them. */
enum { CHUNK = 500, NAMED_MAX = 20 };

typedef struct {
	int64_t value;
	bool called;
	int64_t increment;
	int64_t min;
	int64_t max;
	bool on_target;
} Sequence;

/* The relation itself, not pg_sequences: that hides the value of a sequence that has been
 * set but not called, and of one we may not read (which here is an error). */
static bool
read_chunk(Sql *sql, const Catalog *catalog, size_t first, size_t end, Sequence *out, Error *err)
{
	Buffer text = BUFFER_INIT;

	for (size_t i = first; i < end; i++)
		buffer_printf(&text, "%sSELECT %zu, last_value, is_called FROM %s",
		              i == first ? "" : " UNION ALL ", i, catalog->sequences[i].qualified);
	PGresult *found = sql_query(sql, err, buffer_cstr(&text));
	buffer_free(&text);
	if (found == NULL)
		return false;
	for (int row = 0; row < PQntuples(found); row++) {
		Sequence *sequence = &out[sql_get_int(found, row, 0)];
		sequence->value = sql_get_int(found, row, 1);
		sequence->called = sql_get_bool(found, row, 2);
	}
	bool all = (size_t)PQntuples(found) == end - first;
	PQclear(found);
	return all ||
	       error_set(err, ERROR_PROTOCOL, "a sequence without a row on the %s", sql_side(sql));
}

static bool
read_all(Sql *sql, const Catalog *catalog, Sequence *out, Error *err)
{
	for (size_t first = 0; first < catalog->sequence_count; first += CHUNK) {
		size_t end = first + CHUNK;
		if (end > catalog->sequence_count)
			end = catalog->sequence_count;
		if (!read_chunk(sql, catalog, first, end, out, err))
			return error_add_context(err, "reading sequences");
	}
	return true;
}

/* "schema.name" of different sequences could be the same text: the quoted form cannot. */
static Map *
index_by_name(const Catalog *catalog, Sequence *sequences)
{
	Map *map = map_new(catalog->sequence_count);

	for (size_t i = 0; i < catalog->sequence_count; i++)
		map_put(map, slice_cstr(catalog->sequences[i].qualified), &sequences[i]);
	return map;
}

static void
keep_bounds(const PGresult *found, int row, const Map *map)
{
	Buffer key = BUFFER_INIT;

	sql_put_identifier(&key, sql_get(found, row, 0));
	buffer_put_u8(&key, '.');
	sql_put_identifier(&key, sql_get(found, row, 1));
	Sequence *sequence = map_get(map, slice_of(key.data, key.len));
	buffer_free(&key);
	if (sequence == NULL)
		return;
	sequence->increment = sql_get_int(found, row, 2);
	sequence->min = sql_get_int(found, row, 3);
	sequence->max = sql_get_int(found, row, 4);
	sequence->on_target = true;
}

static bool
missing_error(const Catalog *catalog, const Sequence *sequences, Error *err)
{
	Buffer names = BUFFER_INIT;
	size_t missing = 0;

	for (size_t i = 0; i < catalog->sequence_count; i++) {
		if (sequences[i].on_target)
			continue;
		if (missing++ < NAMED_MAX)
			buffer_printf(&names, "%s%s", names.len > 0 ? ", " : "",
			              catalog->sequences[i].qualified);
	}
	bool ok = missing == 0 ||
	          error_set(err, ERROR_CONFIG, "%zu sequences are not on the target: %s", missing,
	                    buffer_cstr(&names));
	buffer_free(&names);
	return ok;
}

/* The target's own bounds, since setval refuses what lies outside them. */
static bool
read_bounds(Sql *target, const Catalog *catalog, Sequence *sequences, Error *err)
{
	PGresult *found = sql_query(target, err,
	                            "SELECT n.nspname, c.relname, s.seqincrement, s.seqmin, s.seqmax"
	                            " FROM pg_catalog.pg_sequence s"
	                            " JOIN pg_catalog.pg_class c ON c.oid = s.seqrelid"
	                            " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace");
	if (found == NULL)
		return false;
	Map *map = index_by_name(catalog, sequences);
	for (int row = 0; row < PQntuples(found); row++)
		keep_bounds(found, row, map);
	map_free(map);
	PQclear(found);
	return missing_error(catalog, sequences, err);
}

/* value + margin * increment, stopped at the bound that it walks towards. */
static int64_t
with_margin(const Sequence *sequence, int64_t margin)
{
	int64_t bound = sequence->increment < 0 ? sequence->min : sequence->max;
	int64_t step;
	int64_t value;

	if (!sequence->called || margin <= 0)
		return sequence->value;
	if (__builtin_mul_overflow(margin, sequence->increment, &step) ||
	    __builtin_add_overflow(sequence->value, step, &value))
		return bound;
	if (sequence->increment < 0)
		return value < bound ? bound : value;
	return value > bound ? bound : value;
}

static bool
set_chunk(Sql *target, const Catalog *catalog, size_t first, size_t end, const Sequence *sequences,
          Error *err)
{
	Buffer text = BUFFER_INIT;

	buffer_put_text(&text,
	                "SELECT pg_catalog.setval(v.q::pg_catalog.regclass, v.n, v.c) FROM (VALUES ");
	for (size_t i = first; i < end; i++) {
		buffer_put_text(&text, i == first ? "(" : ", (");
		sql_put_literal(&text, catalog->sequences[i].qualified);
		buffer_printf(&text, "::text, '%" PRId64 "'::bigint, %s)", sequences[i].value,
		              sequences[i].called ? "true" : "false");
	}
	buffer_put_text(&text, ") AS v (q, n, c)");
	bool ok = sql_exec(target, err, buffer_cstr(&text));
	buffer_free(&text);
	return ok || error_add_context(err, "setting sequences");
}

static bool
set_all(Sql *target, const Catalog *catalog, const Sequence *sequences, Error *err)
{
	for (size_t first = 0; first < catalog->sequence_count; first += CHUNK) {
		size_t end = first + CHUNK;
		if (end > catalog->sequence_count)
			end = catalog->sequence_count;
		if (!set_chunk(target, catalog, first, end, sequences, err))
			return false;
	}
	return true;
}

static bool
check_set(Sql *target, const Catalog *catalog, const Sequence *wanted, Error *err)
{
	Sequence *found = mem_zalloc(sizeof(Sequence) * catalog->sequence_count);
	bool ok = read_all(target, catalog, found, err);

	for (size_t i = 0; ok && i < catalog->sequence_count; i++) {
		if (found[i].value != wanted[i].value || found[i].called != wanted[i].called)
			ok = error_set(err, ERROR_DIVERGENCE,
			               "sequence %s is at %" PRId64 " on the target, set to %" PRId64
			               ": somebody else uses it",
			               catalog->sequences[i].qualified, found[i].value, wanted[i].value);
	}
	free(found);
	return ok;
}

bool
target_set_sequences(Sql *source, Sql *target, const Catalog *catalog, int64_t margin,
                     size_t *count, Error *err)
{
	*count = 0;
	if (catalog->sequence_count == 0)
		return true;

	Sequence *sequences = mem_zalloc(sizeof(Sequence) * catalog->sequence_count);
	bool ok = read_all(source, catalog, sequences, err) &&
	          read_bounds(target, catalog, sequences, err);
	for (size_t i = 0; i < catalog->sequence_count; i++)
		sequences[i].value = with_margin(&sequences[i], margin);
	ok = ok && set_all(target, catalog, sequences, err) &&
	     check_set(target, catalog, sequences, err);
	free(sequences);
	if (ok)
		*count = catalog->sequence_count;
	return ok;
}

/* setval would refuse a value outside of the target's bounds. */
bool
target_check_sequences(Sql *source, Sql *target, const Catalog *catalog, size_t *count, Error *err)
{
	*count = 0;
	if (catalog->sequence_count == 0)
		return true;

	Sequence *sequences = mem_zalloc(sizeof(Sequence) * catalog->sequence_count);
	bool ok = read_all(source, catalog, sequences, err) &&
	          read_bounds(target, catalog, sequences, err);
	for (size_t i = 0; ok && i < catalog->sequence_count; i++) {
		const Sequence *s = &sequences[i];
		if (s->value < s->min || s->value > s->max)
			ok = error_set(err, ERROR_CONFIG,
			               "sequence %s is at %" PRId64 ", outside of its bounds on the %s",
			               catalog->sequences[i].qualified, s->value, sql_side(target));
	}
	free(sequences);
	if (ok)
		*count = catalog->sequence_count;
	return ok;
}
