/* Columns and what identifies a row. */
#include <stdlib.h>
#include <string.h>

#include "apply/catalog/catalog_internal.h"
#include "common/map.h"

static Table *
table_of(const CatalogReader *reader, const PGresult *rows, int row)
{
	uint32_t oid = (uint32_t)sql_get_int(rows, row, 0);

	return map_get(reader->by_oid, slice_of(&oid, sizeof(oid)));
}

static PGresult *
query_columns(CatalogReader *reader, Error *err)
{
	return sql_queryf(reader->sql, err,
	                  "SELECT a.attrelid, a.attnum, a.attname, a.atttypid, a.atttypmod,"
	                  " pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull,"
	                  " a.attgenerated <> '', a.attidentity, a.attlen = -1, a.attgenerated = 'v'"
	                  " FROM pg_catalog.pg_attribute a"
	                  " JOIN pg_catalog.pg_class c ON c.oid = a.attrelid AND c.relkind = 'r'"
	                  " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
	                  " WHERE a.attnum > 0 AND NOT a.attisdropped AND n.nspname !~ '^pg_'"
	                  " AND n.nspname <> 'information_schema' ORDER BY a.attrelid, a.attnum");
}

static void
fill_column(CatalogReader *reader, Column *column, const PGresult *rows, int row)
{
	column->attnum = (int16_t)sql_get_int(rows, row, 1);
	column->name = arena_strdup(reader->arena, PQgetvalue(rows, row, 2));
	column->type_oid = (uint32_t)sql_get_int(rows, row, 3);
	column->typmod = (int32_t)sql_get_int(rows, row, 4);
	column->type = arena_strdup(reader->arena, PQgetvalue(rows, row, 5));
	column->signature = types_signature(reader->types, column->type_oid);
	column->not_null = sql_get_bool(rows, row, 6);
	column->generated = sql_get_bool(rows, row, 7);
	column->identity = PQgetvalue(rows, row, 8)[0];
	column->varlena = sql_get_bool(rows, row, 9);
	column->is_virtual = sql_get_bool(rows, row, 10);
	column->binary_safe = types_binary_safe(reader->types, column->type_oid);
	column->is_array = types_is_array(reader->types, column->type_oid);
	column->has_equality = types_has_equality(reader->types, column->type_oid);
}

/* Rows of one table stand together. */
static int
end_of_table(const PGresult *rows, int from)
{
	int to = from + 1;

	while (to < PQntuples(rows) && strcmp(PQgetvalue(rows, to, 0), PQgetvalue(rows, from, 0)) == 0)
		to++;
	return to;
}

bool
catalog_read_columns(CatalogReader *reader, Error *err)
{
	PGresult *rows = query_columns(reader, err);

	if (rows == NULL)
		return error_add_context(err, "reading the columns");
	for (int row = 0, end; row < PQntuples(rows); row = end) {
		Table *table = table_of(reader, rows, row);
		end = end_of_table(rows, row);
		if (table == NULL)
			continue;
		table->columns = arena_new_array(reader->arena, Column, end - row);
		for (int i = row; i < end; i++)
			fill_column(reader, &table->columns[table->column_count++], rows, i);
	}
	PQclear(rows);
	return true;
}

/* ---- keys ---- */

static bool
set_key_columns(CatalogReader *reader, Table *table, const char *attnums, int count, Error *err)
{
	char *end;

	table->key_columns = arena_new_array(reader->arena, uint16_t, count);
	for (int i = 0; i < count; i++, attnums = end) {
		long attnum = strtol(attnums, &end, 10);
		uint16_t at = 0;
		while (at < table->column_count && table->columns[at].attnum != attnum)
			at++;
		if (end == attnums || at == table->column_count)
			return error_set(err, ERROR_PROTOCOL, "%s: its key has a column that it has not",
			                 table->qualified);
		table->key_columns[table->key_count++] = at;
	}
	return true;
}

/* Up to 17 pgoutput never sends a generated column, later only where a publication asks for it: such
 * a key names no row, neither to the source's server (18: it refuses to update) nor to us. */
static bool
key_is_generated(const Table *table)
{
	for (unsigned i = 0; i < table->key_count; i++) {
		if (table->columns[table->key_columns[i]].generated)
			return true;
	}
	return false;
}

/* What pgoutput would take as the key: RelationGetReplicaIndex in PostgreSQL's
 * src/backend/utils/cache/relcache.c takes a primary key only when it is not
 * deferrable. An index with columns INCLUDEd is identified by its first ones. */
static PGresult *
query_keys(CatalogReader *reader, Error *err)
{
	return sql_queryf(
		reader->sql, err,
		"SELECT i.indrelid, ic.relname, i.indnkeyatts, i.indkey::text"
		" FROM pg_catalog.pg_index i"
		" JOIN pg_catalog.pg_class ic ON ic.oid = i.indexrelid"
		" JOIN pg_catalog.pg_class c ON c.oid = i.indrelid AND c.relkind = 'r'"
		" WHERE i.indrelid >= 16384 AND i.indisvalid AND i.indislive AND i.indimmediate"
		" AND ((c.relreplident = 'd' AND i.indisprimary)"
		" OR (c.relreplident = 'i' AND i.indisreplident))");
}

bool
catalog_read_keys(CatalogReader *reader, Error *err)
{
	PGresult *rows = query_keys(reader, err);
	bool ok = true;

	if (rows == NULL)
		return error_add_context(err, "reading the keys");
	for (int i = 0; ok && i < PQntuples(rows); i++) {
		Table *table = table_of(reader, rows, i);
		if (table == NULL)
			continue;
		table->key = KEY_INDEX;
		table->key_index = arena_strdup(reader->arena, PQgetvalue(rows, i, 1));
		ok = set_key_columns(reader, table, PQgetvalue(rows, i, 3), (int)sql_get_int(rows, i, 2),
		                     err);
		table->key_generated = ok && key_is_generated(table);
		if (table->key_generated)
			table->key_count = 0;
	}
	PQclear(rows);

	for (size_t i = 0; i < reader->catalog->table_count; i++) {
		Table *table = &reader->catalog->tables[i];
		if (table->key_index != NULL && !table->key_generated)
			continue;
		table->key = table->replica_identity == 'f' ? KEY_FULL : KEY_NOTHING;
		/* Changes of unlogged tables are not in the WAL: nothing to identify. */
		table->key_needs_full = table->key == KEY_NOTHING && table->persistence == 'p';
	}
	return ok;
}
