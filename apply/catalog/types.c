#include "apply/catalog/types.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/map.h"
#include "common/memory.h"

typedef struct {
	uint32_t oid;
	const char *name;      /* "schema.name" */
	const char *extension; /* that it belongs to, "" none */
	char kind;             /* typtype: b c d e r m p */
	uint32_t inner;        /* element, base, subtype or range type; 0 for the others */
	bool is_array;
	bool has_io;          /* send and receive functions */
	const char *equality; /* of a base type's operator class; NULL: none */
	uint32_t array_over;
	const char *field_text; /* composite: names and types */
	uint32_t *fields;
	size_t field_count;
	const char *signature; /* made when first asked for */
} Type;

struct TypeSet {
	Arena *arena;
	Map *by_oid;
};

/* FIRST_OWN_OID: below it they are assigned by hand (FirstGenbkiObjectId), the same everywhere. */
enum { DEPTH_LIMIT = 64, FIRST_OWN_OID = 10000 };

/*
 * Built-in base types whose binary form has been the same from 12 to 18 and does not
 * depend on settings or on OIDs of a server (src/include/catalog/pg_type.dat). Left
 * out: reg* (OIDs), aclitem (no send), pg_node_tree and the statistics types (their
 * receive functions refuse), int2vector and oidvector (an empty one is sent with a dimension
 * that receive does not take), xml (its receive function believes the encoding named in
 * the document, where the text form has been converted already).
 */
static const uint32_t safe_types[] = {
	16,   /* bool */ 17,       /* bytea */ 18,         /* "char" */ 19,  /* name */
	20,   /* int8 */ 21,       /* int2 */ 23,                            /* int4 */
	25,   /* text */ 26,       /* oid */ 27,           /* tid */ 28,     /* xid */
	29,   /* cid */ 114,       /* json */ 600,                           /* point */
	601,  /* lseg */ 602,      /* path */ 603,         /* box */ 604,    /* polygon */
	628,  /* line */ 650,      /* cidr */ 700,         /* float4 */ 701, /* float8 */
	718,  /* circle */ 774,    /* macaddr8 */ 790, /* money: 64 bits, no locale */
	829,  /* macaddr */ 869,   /* inet */ 1042,        /* bpchar */ 1043,    /* varchar */
	1082, /* date */ 1083,     /* time */ 1114,        /* timestamp */ 1184, /* timestamptz */
	1186, /* interval */ 1266, /* timetz */ 1560,      /* bit */ 1562,       /* varbit */
	1700, /* numeric */ 1790,  /* refcursor */ 2950,   /* uuid */ 2970,      /* txid_snapshot */
	3220, /* pg_lsn */ 3614,   /* tsvector */ 3615,    /* tsquery */ 3802,   /* jsonb */
	4072, /* jsonpath */ 5038, /* pg_snapshot */ 5069,                       /* xid8 */
};

/* Types of extensions whose binary form is that of their first release. */
static const char *const safe_extensions[] = {"citext", "hstore"};

static const Type *
type_find(const TypeSet *types, uint32_t oid)
{
	return map_get(types->by_oid, slice_of(&oid, sizeof(oid)));
}

static PGresult *
query_types(Sql *sql, Error *err)
{
	/* pg_range.rngmultitypid came with multiranges in 14. */
	bool multiranges = sql_server_version(sql) >= 140000;

	return sql_queryf(
		sql, err,
		"WITH RECURSIVE used(oid) AS ("
		" SELECT DISTINCT a.atttypid FROM pg_catalog.pg_attribute a"
		" JOIN pg_catalog.pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p')"
		" JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname !~ '^pg_'"
		" AND n.nspname <> 'information_schema' WHERE a.attnum > 0 AND NOT a.attisdropped"
		" UNION SELECT d.oid FROM used u, LATERAL ("
		" SELECT e.oid FROM pg_catalog.pg_type t JOIN pg_catalog.pg_type e"
		" ON e.oid = t.typelem AND e.typarray = t.oid WHERE t.oid = u.oid"
		" UNION ALL SELECT t.typbasetype FROM pg_catalog.pg_type t"
		" WHERE t.oid = u.oid AND t.typtype = 'd'"
		" UNION ALL SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE r.rngtypid = u.oid %s"
		" UNION ALL SELECT a.atttypid FROM pg_catalog.pg_type t"
		" JOIN pg_catalog.pg_attribute a ON a.attrelid = t.typrelid"
		" WHERE t.oid = u.oid AND t.typtype = 'c' AND a.attnum > 0 AND NOT a.attisdropped"
		") d(oid))"
		"SELECT t.oid, n.nspname || '.' || t.typname, t.typtype,"
		" coalesce(e.extname, ''),"
		" coalesce(el.oid, nullif(t.typbasetype, 0), r.rngsubtype, %s, 0),"
		" el.oid IS NOT NULL, t.typsend <> 0 AND t.typreceive <> 0,"
		/* An extension's operator is in the extension's schema, which no search_path of ours
		 * has; a lone "=" would find another one (text's, for citext) or none. */
		" (SELECT CASE WHEN s.nspname = 'pg_catalog' AND q.oprname = '=' THEN '='"
		"  ELSE pg_catalog.format('OPERATOR(%%I.%%s)', s.nspname, q.oprname) END"
		"  FROM pg_catalog.pg_opclass o JOIN pg_catalog.pg_amop m ON m.amopfamily = o.opcfamily"
		"  AND m.amoplefttype = o.opcintype AND m.amoprighttype = o.opcintype"
		"  AND m.amopstrategy = CASE o.opcmethod WHEN 403 THEN 3 ELSE 1 END"
		"  JOIN pg_catalog.pg_operator q ON q.oid = m.amopopr"
		"  JOIN pg_catalog.pg_namespace s ON s.oid = q.oprnamespace WHERE o.opcdefault"
		"  AND o.opcmethod IN (403, 405) AND (o.opcintype = t.oid OR EXISTS (SELECT 1"
		"  FROM pg_catalog.pg_cast k WHERE k.castsource = t.oid AND k.casttarget = o.opcintype"
		"  AND k.castmethod = 'b' AND k.castcontext = 'i'))"
		"  ORDER BY o.opcintype <> t.oid, o.opcmethod LIMIT 1),"
		" t.typarray,"
		/* not quote_ident: what it quotes differs between majors */
		" CASE WHEN t.typtype = 'c' THEN (SELECT string_agg("
		"  '\"' || replace(a.attname, '\"', '\"\"') || '\" ' ||"
		"  pg_catalog.format_type(a.atttypid, a.atttypmod), ', ' ORDER BY a.attnum)"
		"  FROM pg_catalog.pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0"
		"  AND NOT a.attisdropped) END,"
		" CASE WHEN t.typtype = 'c' THEN (SELECT string_agg(a.atttypid::text, ' '"
		"  ORDER BY a.attnum) FROM pg_catalog.pg_attribute a WHERE a.attrelid = t.typrelid"
		"  AND a.attnum > 0 AND NOT a.attisdropped) END"
		" FROM used JOIN pg_catalog.pg_type t ON t.oid = used.oid"
		" JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace"
		" LEFT JOIN pg_catalog.pg_type el ON el.oid = t.typelem AND el.typarray = t.oid"
		" LEFT JOIN pg_catalog.pg_range r ON r.rngtypid = t.oid"
		" LEFT JOIN pg_catalog.pg_depend x ON x.classid = 'pg_catalog.pg_type'::regclass"
		"  AND x.objid = coalesce(el.oid, t.oid) AND x.deptype = 'e'"
		"  AND x.refclassid = 'pg_catalog.pg_extension'::regclass"
		" LEFT JOIN pg_catalog.pg_extension e ON e.oid = x.refobjid",
		multiranges ? "UNION ALL SELECT r.rngtypid FROM pg_catalog.pg_range r"
					  " WHERE r.rngmultitypid = u.oid"
					: "",
		multiranges ? "(SELECT m.rngtypid FROM pg_catalog.pg_range m"
					  " WHERE m.rngmultitypid = t.oid)"
					: "NULL");
}

static void
read_fields(Type *type, const char *oids, Arena *arena)
{
	char *end;

	type->fields = arena_new_array(arena, uint32_t, strlen(oids) / 2 + 1);
	for (const char *at = oids; *at != '\0'; at = end) {
		unsigned long oid = strtoul(at, &end, 10);
		if (end == at)
			break;
		type->fields[type->field_count++] = (uint32_t)oid;
	}
}

static void
read_type(TypeSet *types, const PGresult *result, int row)
{
	Type *type = arena_new_array(types->arena, Type, 1);
	const char *oids = sql_get(result, row, 10);

	type->oid = (uint32_t)sql_get_int(result, row, 0);
	type->name = arena_strdup(types->arena, PQgetvalue(result, row, 1));
	type->kind = PQgetvalue(result, row, 2)[0];
	type->extension = arena_strdup(types->arena, PQgetvalue(result, row, 3));
	type->inner = (uint32_t)sql_get_int(result, row, 4);
	type->is_array = sql_get_bool(result, row, 5);
	type->has_io = sql_get_bool(result, row, 6);
	type->equality = PQgetisnull(result, row, 7)
	                     ? NULL
	                     : arena_strdup(types->arena, PQgetvalue(result, row, 7));
	type->array_over = (uint32_t)sql_get_int(result, row, 8);
	type->field_text = arena_strdup(types->arena, PQgetvalue(result, row, 9));
	read_fields(type, oids != NULL ? oids : "", types->arena);
	map_put(types->by_oid, slice_of(&type->oid, sizeof(type->oid)), type);
}

TypeSet *
types_load(Sql *sql, Arena *arena, Error *err)
{
	PGresult *result = query_types(sql, err);

	if (result == NULL) {
		error_add_context(err, "reading the types");
		return NULL;
	}
	TypeSet *types = arena_new_array(arena, TypeSet, 1);
	types->arena = arena;
	types->by_oid = map_new((size_t)PQntuples(result));
	for (int i = 0; i < PQntuples(result); i++)
		read_type(types, result, i);
	PQclear(result);
	return types;
}

void
types_free(TypeSet *types)
{
	if (types != NULL)
		map_free(types->by_oid);
}

static bool
base_is_safe(const Type *type)
{
	if (!type->has_io)
		return false;
	for (size_t i = 0; i < sizeof(safe_types) / sizeof(safe_types[0]); i++) {
		if (safe_types[i] == type->oid)
			return true;
	}
	for (size_t i = 0; i < sizeof(safe_extensions) / sizeof(safe_extensions[0]); i++) {
		if (strcmp(safe_extensions[i], type->extension) == 0)
			return true;
	}
	return false;
}

/* Both questions go down the same tree; leaf answers for a base type, enums are 'yes' to
 * both (sent as their label; compared as numbers). Ranges need btree for their subtype. */
static bool
all_inside(const TypeSet *types, uint32_t oid, int depth, bool (*leaf)(const Type *),
           bool ranges_too)
{
	const Type *type = type_find(types, oid);

	if (type == NULL || depth > DEPTH_LIMIT)
		return false;
	if (type->is_array || type->kind == 'd')
		return all_inside(types, type->inner, depth + 1, leaf, ranges_too);
	switch (type->kind) {
	case 'e':
		return true;
	case 'r':
	case 'm':
		return ranges_too || all_inside(types, type->inner, depth + 1, leaf, ranges_too);
	case 'c':
		for (size_t i = 0; i < type->field_count; i++) {
			if (!all_inside(types, type->fields[i], depth + 1, leaf, ranges_too))
				return false;
		}
		return true;
	case 'b':
		return leaf(type);
	default:
		return false;
	}
}

bool
types_binary_safe(const TypeSet *types, uint32_t oid)
{
	return all_inside(types, oid, 0, base_is_safe, false);
}

static bool
named_in_binary(const TypeSet *types, uint32_t oid, int depth)
{
	const Type *type = type_find(types, oid);

	if (type == NULL || depth > DEPTH_LIMIT)
		return true;
	for (size_t i = 0; i < type->field_count; i++) {
		if (type->fields[i] >= FIRST_OWN_OID || named_in_binary(types, type->fields[i], depth + 1))
			return true;
	}
	if (type->inner == 0)
		return false;
	return (type->is_array && type->inner >= FIRST_OWN_OID) ||
	       named_in_binary(types, type->inner, depth + 1);
}

bool
types_name_others(const TypeSet *types, uint32_t oid)
{
	return named_in_binary(types, oid, 0);
}

static bool
base_has_equality(const Type *type)
{
	return type->equality != NULL;
}

bool
types_has_equality(const TypeSet *types, uint32_t oid)
{
	return all_inside(types, oid, 0, base_has_equality, true);
}

static const Type *
without_domains(const TypeSet *types, uint32_t oid)
{
	const Type *type = type_find(types, oid);

	for (int depth = 0; type != NULL && type->kind == 'd' && depth < DEPTH_LIMIT; depth++)
		type = type_find(types, type->inner);
	return type;
}

const char *
types_equality(const TypeSet *types, uint32_t oid)
{
	const Type *type = without_domains(types, oid);

	return type != NULL && type->equality != NULL ? type->equality : "=";
}

bool
types_is_array(const TypeSet *types, uint32_t oid)
{
	const Type *type = without_domains(types, oid);

	return type != NULL && type->is_array;
}

uint32_t
types_array_over(const TypeSet *types, uint32_t oid)
{
	const Type *type = type_find(types, oid);

	return type != NULL ? type->array_over : 0;
}

static void
put_signature(const TypeSet *types, uint32_t oid, int depth, Buffer *out)
{
	const Type *type = type_find(types, oid);

	if (type == NULL || depth > DEPTH_LIMIT) {
		buffer_put_text(out, "?");
		return;
	}
	if (type->kind == 'b' && !type->is_array) {
		buffer_put_text(out, type->name);
		return;
	}
	buffer_printf(out, "%c(", type->is_array ? 'a' : type->kind);
	if (type->kind == 'c') {
		buffer_put_text(out, type->field_text);
		for (size_t i = 0; i < type->field_count; i++) {
			buffer_put_text(out, "; ");
			put_signature(types, type->fields[i], depth + 1, out);
		}
	} else if (type->inner != 0) {
		put_signature(types, type->inner, depth + 1, out);
	} else {
		buffer_put_text(out, type->name);
	}
	buffer_put_text(out, ")");
}

const char *
types_signature(const TypeSet *types, uint32_t oid)
{
	Buffer out = BUFFER_INIT;
	Type *type = map_get(types->by_oid, slice_of(&oid, sizeof(oid)));

	if (type == NULL)
		return "?";
	if (type->signature == NULL) {
		put_signature(types, oid, 0, &out);
		type->signature = arena_strdup(types->arena, buffer_cstr(&out));
		buffer_free(&out);
	}
	return type->signature;
}
