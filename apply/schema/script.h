/*
 * script.h: what pg_restore prints, taken apart into the archive's entries.
 *
 * `pg_restore --list` names them; `pg_restore --verbose -f -` prints their SQL, each
 * behind a comment "-- TOC entry ID (class C OID O)". The script is read with SQL's own
 * rules for quotes and comments, so that a text which looks like such a header inside a
 * literal (a COMMENT, a rule) cannot smuggle SQL of its own into another place.
 * What comes before the first entry (SET ..., psql's \restrict) is dropped: our sessions
 * have those settings. Changes of default_tablespace and default_table_access_method
 * between entries become settings of every entry that they are meant for, as SET LOCAL.
 */
#ifndef PGBATON_APPLY_SCHEMA_SCRIPT_H
#define PGBATON_APPLY_SCHEMA_SCRIPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/arena.h"
#include "common/error.h"
#include "common/slice.h"

typedef enum {
	ENTRY_INDEX,      /* CREATE INDEX */
	ENTRY_CONSTRAINT, /* primary key, unique, exclusion */
	ENTRY_ATTACH,     /* ALTER INDEX ... ATTACH PARTITION */
	ENTRY_PARTITION,  /* ALTER TABLE ... ATTACH PARTITION; pre-data */
	ENTRY_STATISTICS, /* of an index or extended statistics object */
	ENTRY_FOREIGN_KEY,
	ENTRY_TRIGGER,
	ENTRY_OTHER
} EntryKind;

typedef struct {
	int dump_id;
	EntryKind kind;
	uint32_t class_oid; /* in the source's catalogue, when it was dumped; 0: none */
	uint32_t oid;
	const char *what;     /* "1259 16501 INDEX app ei postgres": stable between dumps */
	const char *sql;      /* may be empty */
	const char *settings; /* SET LOCAL ... that belong in front of it; may be empty */
} Entry;

typedef struct {
	Entry *items;
	size_t count;
} Entries;

/* list: from pg_restore --list. Strings are copied into the arena. */
MUST_CHECK bool toc_read(Slice list, Arena *arena, Entries *out, Error *err);
/* Fills sql of the entries; one in the script that the list does not have is an error. */
MUST_CHECK bool script_read(Slice script, Arena *arena, Entries *entries, Error *err);

/* Whether an ENTRY_ATTACH is of that index, an ENTRY_PARTITION of that table: they have no OID, but
 * schema and name ("0 0 TABLE ATTACH s t owner"). */
bool entry_attaches(const Entry *entry, const char *schema, const char *name);

/* What follows an entry's first statement; "" when nothing does. */
const char *script_rest(const char *sql);

/* Where the last statement begins; sql itself when there is but one. */
const char *script_last(const char *sql);

/* The parts of "ALTER TABLE ONLY t ADD CONSTRAINT c FOREIGN KEY ...". */
typedef struct {
	Slice table; /* quoted as in the text */
	Slice constraint;
	bool partitioned;  /* no ONLY: NOT VALID is refused before 18 */
	bool not_valid;    /* it is so on the source */
	bool not_enforced; /* 18+ */
} ForeignKey;

/* False: not of that form. Slices point into sql. */
bool foreign_key_read(const char *sql, ForeignKey *out);

#endif
