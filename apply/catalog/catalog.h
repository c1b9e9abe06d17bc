/*
 * catalog.h: what is to be moved: tables, columns, keys, sequences, and what
 * was found that cannot be moved as it is.
 *
 * Read from the source once at the start (and compared later, to see DDL), then
 * matched with the target's catalogue by name. The Catalog owns everything in
 * its arena; the definitions do not change after catalog_match_target. The
 * counters and states of a Table are atomics: written by the one who works on
 * the table (copy worker, then applier), read by the status at any time.
 */
#ifndef PGBATON_APPLY_CATALOG_CATALOG_H
#define PGBATON_APPLY_CATALOG_CATALOG_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "apply/catalog/matches.h"
#include "apply/catalog/selection.h"
#include "apply/sql.h"
#include "common/arena.h"
#include "common/error.h"
#include "common/lsn.h"
#include "common/map.h"

typedef struct {
	const char *name;
	int16_t attnum;    /* on the source */
	uint32_t type_oid; /* on the source */
	int32_t typmod;
	const char *type;      /* format_type() on the source, schema-qualified */
	const char *signature; /* what the type is made of; compared with the target's */
	bool not_null;
	bool generated;    /* stored or virtual: not copied, not applied */
	bool is_virtual;   /* then: computed when it is read (18 and newer) */
	char identity;     /* 'a' ALWAYS, 'd' BY DEFAULT, 0 */
	bool binary_safe;  /* same binary form on both ends, through send/recv:
	                          * no reg*, no OID alias, no unknown extension type,
	                          * at any depth of array, composite, range, domain */
	bool is_array;     /* after domains: unnest would flatten it */
	bool has_equality; /* has a default btree or hash equality operator */
	bool varlena;      /* may be TOASTed, and then come as unchanged */
	/* target side; 0/NULL until matched */
	int16_t target_attnum;
	uint32_t target_type_oid;
	uint32_t target_array_oid;   /* the array type over target_type_oid, 0: none */
	const char *target_type;     /* format_type() with typmod on the target, for casts */
	const char *target_equality; /* types_equality() */
	char target_identity;
	bool target_generated;
} Column;

typedef enum {
	KEY_INDEX,  /* primary key or replica identity index: key_columns identify a row */
	KEY_FULL,   /* REPLICA IDENTITY FULL (as it is, or set by us): the whole row */
	KEY_NOTHING /* insert-only: no updates or deletes are published */
} KeyKind;

typedef enum { TABLE_QUEUED, TABLE_COPYING, TABLE_COPIED, TABLE_ERRORED } TableState;

typedef struct Table {
	uint32_t oid; /* on the source */
	const char *schema;
	const char *name;
	const char *qualified; /* "schema"."name", quoted, for SQL */
	char persistence;      /* 'p' permanent, 'u' unlogged */
	bool is_partition;     /* a leaf of a partitioned table */
	uint64_t bytes;        /* of heap and TOAST on the source */
	uint64_t toast_bytes;  /* of them; 0 also when it is not known */
	int64_t rows_estimate; /* reltuples; -1 unknown */
	uint16_t column_count;
	Column *columns;       /* live ones, in attnum order */
	char replica_identity; /* relreplident as found: d n f i */
	KeyKind key;           /* what the stream will carry, after set-up */
	bool key_needs_full;   /* no usable identity as found: set-up must decide */
	const char *key_index; /* name of the identifying index: KEY_INDEX, or key_generated */
	bool key_generated;    /* it has a generated column, which no stream carries: FULL instead */
	uint16_t key_count;
	uint16_t *key_columns; /* indexes into columns */
	bool copy_binary;      /* every copied column is binary_safe */
	uint32_t target_oid;   /* 0: not on the target (yet) */
	bool rows_remain;      /* of a broken off split copy, on the target; the copy's own */

	/* C2: set when the copy's transaction has read them (text as in
	 * pg_current_snapshot, owned by the catalog's arena); valid when COPIED. */
	const char *snapshot;
	Lsn snapshot_lsn;
	/* It is copied and followed beside the others (add-table, recopy), and not yet one of
	 * them. Changed only while no applier reads. */
	_Atomic bool apart;
	_Atomic bool marked; /* of who begins that, or a comparison: it is one of those */
	/* Then joined them: its changes of transactions up to this commit are in. */
	Lsn level_lsn;

	/* counters; state is an atomic TableState */
	_Atomic int state;
	_Atomic uint64_t copied_rows;
	_Atomic uint64_t copied_bytes;
	_Atomic uint64_t expected_bytes; /* of the copy, on the wire (care/pace.h); 0: unknown */
	_Atomic uint64_t copy_rate;      /* bytes a second, of late or as a whole; 0: unknown */
	_Atomic uint64_t inserts;
	_Atomic uint64_t updates;
	_Atomic uint64_t deletes;
	_Atomic uint64_t truncates;
	char error[512]; /* under Catalog.lock */
} Table;

typedef struct {
	uint32_t oid;
	const char *schema;
	const char *name;
	const char *qualified;
	bool unlogged; /* of tables without rows only */
} Named;

/* Where the selection cuts through what belongs together. */
typedef enum {
	OUTSIDE_KEY,       /* a foreign key to a table whose rows are not moved: left out */
	OUTSIDE_PARENT,    /* name inherits from, or is a partition of, what is not moved */
	OUTSIDE_PARTITION, /* a partition (other) of name is not moved */
	OUTSIDE_VIEW       /* the view name reads what is not moved */
} OutsideKind;

typedef struct {
	OutsideKind kind;
	uint32_t oid;           /* of the constraint on the source; else 0 */
	const char *constraint; /* its quoted name and definition; else NULL */
	const char *definition;
	const char *name; /* qualified: what is moved */
	const char *other;
} Outside;

typedef struct Catalog {
	Arena *arena;
	pthread_mutex_t lock; /* Table.error, Table.snapshot, copied_lsn, arena while workers run */
	Lsn copied_lsn;       /* of the newest snapshot that a copy was read in to its end */
	Table *tables;        /* ordinary tables and leaves, by bytes, largest first */
	size_t table_count;
	Map *by_name;   /* "schema\0name" -> Table */
	Named *parents; /* partitioned tables above the leaves (for the fence) */
	size_t parent_count;
	Named *rowless; /* tables, and partitioned ones, that move without rows (EXCLUDE_DATA) */
	size_t rowless_count;
	Named *omitted; /* left out because a table above them, or their owner, is */
	size_t omitted_count;
	Named *omitted_indexes; /* EXCLUDE_INDEX, with all below them */
	size_t omitted_index_count;
	Outside *outside;
	size_t outside_count;
	Matches *matches; /* what the selection's patterns are here */
	Named *sequences;
	size_t sequence_count;
	Named *matviews; /* populated ones, in dependency order */
	size_t matview_count;
	uint64_t large_objects;      /* how many there are */
	uint64_t large_object_bytes; /* on disk */
	bool moves_large_objects;    /* chosen: also those that come later */
	bool locks_large_objects;    /* we may keep their writers out */
	uint64_t foreign_tables;
	uint64_t unlogged_tables; /* of those that move with rows */
	bool stream_binary;       /* every column of every table is binary_safe, source 14+ */
	int source_version;
	int target_version;   /* 0 until matched */
	char fingerprint[36]; /* of tables, columns and keys: changes with DDL */
} Catalog;

/* own_schema: the migration's own schema, left out. */
Catalog *catalog_read_source(Sql *source, const Selection *selection, const char *own_schema,
                             Error *err);
/* Fills the target side. Everything missing or different (table, column, type,
 * generated on one side only) is named in one ERROR_CONFIG, at most 20 of them. */
MUST_CHECK bool catalog_match_target(Catalog *catalog, Sql *target, Error *err);
void catalog_free(Catalog *catalog);

/* Marks the permanent tables that a pattern (pattern.h) names, by themselves or by a partitioned
 * table above them; *count of them. Takes no mark away. */
MUST_CHECK bool catalog_mark_named(Catalog *catalog, Sql *source, const char *pattern,
                                   size_t *count, Error *err);
Table *catalog_find(const Catalog *catalog, const char *schema, const char *name);
/* By the source's oid, which a table keeps when it is renamed. NULL: none of ours. */
Table *catalog_find_oid(const Catalog *catalog, uint32_t oid);
/* The same query again: false (no error) in *same when a table, column or key
 * has come, gone or changed; what says the first differences. */
MUST_CHECK bool catalog_compare_source(const Catalog *catalog, Sql *source,
                                       const Selection *selection, const char *own_schema,
                                       bool *same, char *what, size_t what_size, Error *err);

/* Arena allocation and Table.error from several threads. */
void table_set_error(Catalog *catalog, Table *table, const Error *error);
void table_set_snapshot(Catalog *catalog, Table *table, const char *snapshot, Lsn lsn);
/* Before the source is asked for the last time: a source that has lost that is none that has
 * everything from then on, however long the rows' COMMIT takes at the target. */
void catalog_note_copied(Catalog *catalog, Lsn snapshot_lsn);
Lsn catalog_copied_lsn(Catalog *catalog);

#endif
