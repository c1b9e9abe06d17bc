#include "apply/schema/definitions.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "apply/schema/archive.h"
#include "common/arena.h"
#include "common/bytes.h"
#include "common/map.h"
#include "common/memory.h"

/*
 * A row of the catalogue as jsonb, less what is no part of the definition: what VACUUM, a
 * validation or our own preparations change. Of a type that is the values of an enum, too.
 */
static const struct {
	const char *catalog;
	const char *without; /* columns, as an array's elements */
	const char *more;    /* another expression of the definition, or NULL */
	const char *schema;  /* its schema's OID, NULL: it is in none */
	const char *which;
} kinds[] = {
	{"pg_proc", "", NULL, "o.pronamespace", "true"},
	{"pg_class",
     "relpages,reltuples,relallvisible,relallfrozen,relfilenode,relfrozenxid,relminmxid,relhasindex,"
     "relhasrules,relhastriggers,relhassubclass,relreplident,reltoastrelid,relchecks,relnatts,"
     "relispartition,relispopulated,relrewrite",
     "pg_catalog.concat((SELECT pg_catalog.to_jsonb(s) FROM pg_catalog.pg_sequence s WHERE"
     " s.seqrelid = o.oid), (SELECT r.ev_action FROM pg_catalog.pg_rewrite r WHERE r.ev_class ="
     " o.oid AND r.rulename = '_RETURN'), (SELECT pg_catalog.array_agg(a.attname || a.attacl::text"
     " ORDER BY a.attnum) FROM pg_catalog.pg_attribute a WHERE a.attrelid = o.oid AND a.attacl IS"
     " NOT NULL))",
     "o.relnamespace",
     "o.relkind IN ('r', 'p', 'v', 'm', 'S', 'f', 'c') AND o.relpersistence <> 't'"},
	{"pg_class",
     "relpages,reltuples,relallvisible,relallfrozen,relfilenode,relfrozenxid,relminmxid,reltablespace,"
     "relhassubclass,relispartition",
     "(SELECT pg_catalog.to_jsonb(i) - '{indcheckxmin,indisreplident,indisclustered,indisvalid,"
     "indisready,indislive}'::text[] FROM pg_catalog.pg_index i WHERE i.indexrelid = o.oid)",
     "o.relnamespace",
     "o.relkind IN ('i', 'I') AND o.relpersistence <> 't' AND NOT EXISTS"
     " (SELECT 1 FROM pg_catalog.pg_constraint c WHERE c.conindid = o.oid AND c.contype IN"
     " ('p', 'u', 'x'))"},
	{"pg_constraint", "convalidated,conexclop", NULL, "o.connamespace",
     "o.contype IN ('c', 'f', 'p', 'u', 'x')"},
	{"pg_attrdef", "", NULL,
     "(SELECT c.relnamespace FROM pg_catalog.pg_class c WHERE c.oid = o.adrelid)", "true"},
	{"pg_trigger", "", NULL,
     "(SELECT c.relnamespace FROM pg_catalog.pg_class c WHERE c.oid = o.tgrelid)",
     "NOT o.tgisinternal"},
	{"pg_rewrite", "", NULL,
     "(SELECT c.relnamespace FROM pg_catalog.pg_class c WHERE c.oid = o.ev_class)",
     "o.rulename <> '_RETURN'"},
	{"pg_policy", "", NULL,
     "(SELECT c.relnamespace FROM pg_catalog.pg_class c WHERE c.oid = o.polrelid)", "true"},
	{"pg_type", "typarray",
     "(SELECT pg_catalog.array_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_catalog.pg_enum e"
     " WHERE e.enumtypid = o.oid)",
     "o.typnamespace", "o.typtype IN ('b', 'd', 'e', 'r') AND o.typelem = 0"},
	{"pg_collation", "collversion", NULL, "o.collnamespace", "true"},
	{"pg_operator", "", NULL, "o.oprnamespace", "true"},
	{"pg_opclass", "", NULL, "o.opcnamespace", "true"},
	{"pg_conversion", "", NULL, "o.connamespace", "true"},
	{"pg_ts_config", "",
     "(SELECT pg_catalog.string_agg(m::text, ' ' ORDER BY m::text) FROM pg_catalog.pg_ts_config_map m"
     " WHERE m.mapcfg = o.oid)",
     "o.cfgnamespace", "true"},
	{"pg_ts_dict", "", NULL, "o.dictnamespace", "true"},
	{"pg_statistic_ext", "", NULL, "o.stxnamespace", "true"},
	{"pg_namespace", "", NULL, "o.oid", "true"},
	{"pg_extension", "extconfig,extcondition", NULL, NULL, "true"},
	{"pg_event_trigger", "evtenabled", NULL, NULL, "true"},
	{"pg_foreign_server", "", NULL, NULL, "true"},
	{"pg_foreign_data_wrapper", "", NULL, NULL, "true"},
	{"pg_cast", "", NULL, NULL, "true"},
	{"pg_default_acl", "", NULL, NULL, "true"},
};

/* What is said of an object, by its class, OID and column. Of large objects it is compared with them
 * (lobs.h). */
static const struct {
	const char *catalog;
	const char *text;
	const char *what;
} notes[] = {
	{"pg_description", "o.description", "'comment on '"},
	{"pg_seclabel", "o.label", "'security label by ' || o.provider || ' on '"},
};

static void
put_notes(Buffer *sql)
{
	for (size_t i = 0; i < sizeof(notes) / sizeof(notes[0]); i++)
		buffer_printf(sql,
		              " UNION ALL SELECT pg_catalog.md5(%s), pg_catalog.translate(%s || i.type ||"
		              " ' ' || i.identity, E'\\n\\r', '  ') FROM pg_catalog.%s o, LATERAL"
		              " pg_catalog.pg_identify_object(o.classoid, o.objoid, o.objsubid) i"
		              " WHERE o.objoid >= 16384 AND o.classoid <> 'pg_catalog.pg_largeobject'"
		              "::pg_catalog.regclass AND coalesce(i.schema, '') !~ '^pg_'"
		              " AND %s NOT LIKE 'pgbaton migration%%' AND NOT EXISTS (SELECT 1 FROM"
		              " pg_catalog.pg_depend x WHERE x.classid = o.classoid AND x.objid = o.objoid"
		              " AND x.deptype = 'e')",
		              notes[i].text, notes[i].what, notes[i].catalog, notes[i].text);
}

/* Of this database, and neither a system's, an extension's nor ours. */
static char *
question(const Ledger *ledger)
{
	Buffer sql = BUFFER_INIT;

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		buffer_printf(
			&sql,
			"%sSELECT pg_catalog.md5((pg_catalog.to_jsonb(o) - '{%s}'::text[])::text ||"
			" coalesce((%s)::text, '')), pg_catalog.translate(i.type || ' ' || i.identity,"
			" E'\\n\\r', '  ') FROM pg_catalog.%s o, LATERAL"
			" pg_catalog.pg_identify_object('pg_catalog.%s'::regclass, o.oid, 0) i"
			" WHERE o.oid >= 16384 AND %s AND NOT EXISTS (SELECT 1 FROM"
			" pg_catalog.pg_depend x WHERE x.classid = 'pg_catalog.%s'::regclass AND"
			" x.objid = o.oid AND x.deptype = 'e')",
			i > 0 ? " UNION ALL " : "", kinds[i].without,
			kinds[i].more != NULL ? kinds[i].more : "''", kinds[i].catalog, kinds[i].catalog,
			kinds[i].which, kinds[i].catalog);
		if (kinds[i].schema != NULL)
			buffer_printf(&sql,
			              " AND %s IN (SELECT n.oid FROM pg_catalog.pg_namespace n WHERE n.nspname"
			              " !~ '^pg_' AND n.nspname <> 'information_schema' AND coalesce("
			              "pg_catalog.obj_description(n.oid, 'pg_namespace'), '') NOT LIKE"
			              " 'pgbaton migration%%')",
			              kinds[i].schema);
		if (strcmp(kinds[i].catalog, "pg_trigger") == 0)
			buffer_printf(&sql, " AND o.tgname <> '%s_fence'", ledger->name);
	}
	put_notes(&sql);
	return buffer_cstr(&sql);
}

static bool
ask(Sql *sql, const Ledger *ledger, Error *err)
{
	char *text = question(ledger);
	bool ok = sql_send(sql, err, text);

	free(text);
	return ok || error_add_context(err, "reading definitions");
}

static PGresult *
answer(Sql *sql, Error *err)
{
	PGresult *rows = sql_receive(sql, err);

	if (rows == NULL)
		error_add_context(err, "reading definitions");
	return rows;
}

/* Both servers work at once. The second one's answer is taken whatever the first one's is: its
 * session is used again. */
static bool
ask_both(Sql *source, Sql *target, const Ledger *ledger, PGresult **here, PGresult **there,
         Error *err)
{
	Error late = ERROR_INIT;

	if (!ask(target, ledger, err))
		return false;
	*here = ask(source, ledger, err) ? answer(source, err) : NULL;
	*there = answer(target, &late);
	if (*here != NULL && *there == NULL)
		*err = late;
	return *here != NULL && *there != NULL;
}

static bool
path_of(const char *state_dir, const char *suffix, char *out, size_t size, Error *err)
{
	if ((size_t)snprintf(out, size, "%s/schema.definitions%s", state_dir, suffix) < size)
		return true;
	return error_set(err, ERROR_CONFIG, "the state directory's name is too long");
}

/* ---- noted ---- */

static bool
write_rows(const PGresult *rows, const char *path, Error *err)
{
	Buffer text = BUFFER_INIT;

	for (int i = 0; i < PQntuples(rows); i++)
		buffer_printf(&text, "%s %s\n", PQgetvalue(rows, i, 0), PQgetvalue(rows, i, 1));
	bool ok = write_private(path, &text, err);
	buffer_free(&text);
	return ok;
}

bool
definitions_ask(Sql *source, const Ledger *ledger, Error *err)
{
	/* The snapshot is there before anything else begins. */
	if (!sql_exec(source, err, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1"))
		return false;
	return ask(source, ledger, err);
}

bool
definitions_note(Sql *source, const char *state_dir, Error *err)
{
	char path[1100];
	char unfinished[1100];

	if (!path_of(state_dir, "", path, sizeof(path), err) ||
	    !path_of(state_dir, ".tmp", unfinished, sizeof(unfinished), err))
		return false;
	PGresult *rows = answer(source, err);
	if (rows == NULL)
		return false;
	bool ok = write_rows(rows, unfinished, err);
	PQclear(rows);
	if (ok && rename(unfinished, path) != 0)
		return error_set_errno(err, ERROR_STORAGE, errno, "cannot rename %s", unfinished);
	return ok;
}

void
definitions_forget(const char *state_dir)
{
	char path[1100];
	Error ignored = ERROR_INIT;

	if (path_of(state_dir, "", path, sizeof(path), &ignored))
		(void)unlink(path);
}

enum { HASH_LEN = 32 };

/* Names to hashes. No file: an empty map, and *noted is false. */
static bool
read_noted(const char *state_dir, Arena *arena, Map *out, bool *noted, Error *err)
{
	char path[1100];
	char *line = NULL;
	size_t room = 0;
	ssize_t len;

	*noted = false;
	if (!path_of(state_dir, "", path, sizeof(path), err))
		return false;
	FILE *file = fopen(path, "re");
	if (file == NULL)
		return errno == ENOENT ||
		       error_set_errno(err, ERROR_STORAGE, errno, "cannot open %s", path);
	while ((len = getline(&line, &room, file)) > 0) {
		bool whole = line[len - 1] == '\n' && len > HASH_LEN + 2 && line[HASH_LEN] == ' ';
		line[len - 1] = '\0';
		if (!whole) {
			error_set(err, ERROR_STORAGE, "%s: this is no line of it: %.100s", path, line);
			free(line);
			fclose(file);
			return false;
		}
		line[HASH_LEN] = '\0';
		char *name = arena_strdup(arena, line + HASH_LEN + 1);
		map_put(out, slice_of(name, strlen(name)), arena_strdup(arena, line));
	}
	free(line);
	bool ok = ferror(file) == 0;
	fclose(file);
	*noted = ok;
	return ok || error_set(err, ERROR_STORAGE, "cannot read %s", path);
}

/* ---- compared ---- */

static void
add(DefinitionChanges *out, const char *what, const char *name)
{
	if (out->count < DEFINITIONS_NAMED)
		snprintf(out->named[out->count], DEFINITIONS_NAME_SIZE, "%s: %s", what, name);
	out->count++;
}

static Map *
names_of(const PGresult *rows)
{
	Map *names = map_new((size_t)PQntuples(rows));

	for (int i = 0; i < PQntuples(rows); i++) {
		char *name = PQgetvalue(rows, i, 1);
		map_put(names, slice_of(name, strlen(name)), PQgetvalue(rows, i, 0));
	}
	return names;
}

static bool
is_in(const Map *map, const char *name)
{
	return map_get(map, slice_of(name, strlen(name))) != NULL;
}

static void
compare(const Map *noted, const PGresult *here, const PGresult *there, DefinitionChanges *out)
{
	Map *now = names_of(here);
	Map *target = names_of(there);

	for (int i = 0; i < PQntuples(here); i++) {
		char *name = PQgetvalue(here, i, 1);
		const char *was = map_get(noted, slice_of(name, strlen(name)));
		if (was == NULL && !is_in(target, name))
			add(out, "new", name);
		else if (was != NULL && strcmp(was, PQgetvalue(here, i, 0)) != 0)
			add(out, "changed", name);
	}
	for (int i = 0; i < PQntuples(there); i++) {
		const char *name = PQgetvalue(there, i, 1);
		if (is_in(noted, name) && !is_in(now, name))
			add(out, "gone", name);
	}
	map_free(now);
	map_free(target);
}

bool
definitions_compare(Sql *source, Sql *target, const Ledger *ledger, const char *state_dir,
                    DefinitionChanges *out, Error *err)
{
	Arena *arena = arena_new(0);
	Map *noted = map_new(1024);
	PGresult *here = NULL;
	PGresult *there = NULL;
	bool any;

	*out = (DefinitionChanges){0};
	bool ok = read_noted(state_dir, arena, noted, &any, err);
	if (ok && any)
		ok = ask_both(source, target, ledger, &here, &there, err);
	if (ok && any)
		compare(noted, here, there, out);
	PQclear(here);
	PQclear(there);
	map_free(noted);
	arena_free(arena);
	return ok;
}
