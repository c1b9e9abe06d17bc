/*
 * catalog_internal.h: shared by the files of this folder only.
 */
#ifndef PGBATON_APPLY_CATALOG_CATALOG_INTERNAL_H
#define PGBATON_APPLY_CATALOG_CATALOG_INTERNAL_H

#include "apply/catalog/catalog.h"
#include "apply/catalog/matches.h"
#include "apply/catalog/types.h"

/* For queries with pg_class c and pg_namespace n: nothing of the server's own, of a
 * migration's own (marked by a comment on its schema), of another session, or of an
 * extension. */
#define CATALOG_OURS                                                                        \
	"c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'" \
	" AND coalesce(pg_catalog.obj_description(n.oid, 'pg_namespace'), '')"                  \
	" NOT LIKE 'pgbaton migration%%'"                                                       \
	" AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend x"                                 \
	" WHERE x.classid = 'pg_catalog.pg_class'::regclass AND x.objid = c.oid"                \
	" AND x.deptype = 'e')"

/* What becomes of a relation that is a table of some kind. */
enum {
	MOVES_DEFINITION = 1,
	MOVES_ROWS = 2,
	MOVES_WHOLE = 4 /* with all partitions below it */
};

/* One reading of the source. */
typedef struct {
	Sql *sql;
	Catalog *catalog;
	Arena *arena; /* the catalog's */
	const char *own_schema;
	const Selection *selection;
	bool strict;            /* a pattern that matches nothing is an error */
	const Matches *matches; /* the catalog's */
	Map *moves;             /* oid -> MOVES_ bits; keys in the arena */
	TypeSet *types;
	Map *by_oid; /* oid -> Table; keys in the tables */
	bool sizes;  /* pg_relation_size: waits for whoever holds a table exclusively */
} CatalogReader;

/* Tables and parents, then columns, keys, indexes that are left out. */
bool catalog_read_tables(CatalogReader *reader, Error *err);
bool catalog_read_columns(CatalogReader *reader, Error *err);
bool catalog_read_keys(CatalogReader *reader, Error *err);
bool catalog_read_omitted_indexes(CatalogReader *reader, Error *err);
/* Sequences, materialised views, counts of what is not moved. */
bool catalog_read_others(CatalogReader *reader, Error *err);
/* Where the selection cuts. */
bool catalog_read_outside(CatalogReader *reader, Error *err);

/* Has the relation all of these MOVES_ bits? */
bool catalog_moves(const CatalogReader *reader, uint32_t oid, unsigned bits);
/* From a row that begins with OID, schema and name. */
void catalog_fill_named(CatalogReader *reader, Named *out, const PGresult *rows, int row);
const char *catalog_qualified(Arena *arena, const char *schema, const char *name);
/* The key of Catalog.by_name: "schema\0name". */
Slice catalog_name_key(Arena *arena, const char *schema, const char *name);
/* One line per fact that DDL could change; the fingerprint is over all tables'. */
void catalog_describe_table(const Table *table, Buffer *out);
void catalog_set_fingerprint(Catalog *catalog);
/* Table.copy_binary and Catalog.stream_binary from the columns. */
void catalog_sum_binary(Catalog *catalog);

#endif
