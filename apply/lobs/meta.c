/*
 * Owner, privileges and comment of large objects, by the catalogue: pg_dump before 17 has an
 * entry for each object and keeps all of them in memory.
 *
 * Each side's server writes the statements that would make its own state; that text is what
 * is compared, so what is compared is exactly what can be made.
 */
#include <inttypes.h>
#include <string.h>

#include "apply/lobs/internal.h"
#include "common/log.h"
#include "protocol/replication.h"

static const char roles_sql[] =
	"SELECT DISTINCT r.rolname::text FROM pg_catalog.pg_largeobject_metadata m"
	" JOIN pg_catalog.pg_roles r ON r.oid = m.lomowner"
	" UNION SELECT r.rolname::text FROM pg_catalog.pg_largeobject_metadata m,"
	" LATERAL pg_catalog.aclexplode(m.lomacl) a JOIN pg_catalog.pg_roles r ON r.oid = a.grantee"
	" ORDER BY 1";

/* As an array literal's elements: "'a', 'b'". */
static bool
find_missing_roles(Sql *from, Sql *to, Buffer *missing, Buffer *names, Error *err)
{
	PGresult *roles = sql_query(from, err, roles_sql);
	bool ok = roles != NULL;

	for (int i = 0; ok && i < PQntuples(roles); i++) {
		const char *values[] = {PQgetvalue(roles, i, 0)};
		PGresult *found = sql_query_params(
			to, err, "SELECT 1 FROM pg_catalog.pg_roles WHERE rolname = $1", 1, values);
		ok = found != NULL;
		if (ok && PQntuples(found) == 0) {
			buffer_put_text(missing, missing->len > 0 ? ", " : "");
			sql_put_literal(missing, values[0]);
			buffer_printf(names, "%s%s", names->len > 0 ? ", " : "", values[0]);
		}
		PQclear(found);
	}
	PQclear(roles);
	return ok;
}

/* Name of the owner as it shall be on `to`; NULL: whoever creates it there. */
static void
put_owner(const LobRun *run, const char *missing, const char *user, Buffer *sql)
{
	if (run->work->no_owner) {
		buffer_put_text(sql, "NULL::text");
		return;
	}
	buffer_printf(sql, "CASE WHEN r.rolname = ANY (ARRAY[%s]::text[]) OR r.rolname IS NULL THEN ",
	              missing);
	sql_put_literal(sql, user);
	buffer_put_text(sql, " ELSE r.rolname::text END");
}

#define DEFAULT_ACL "pg_catalog.acldefault('L', m.lomowner)"
#define OWN_ACL "coalesce(m.lomacl, " DEFAULT_ACL ")"

/*
 * '' is the default: all for the owner; ';' is none at all. Grantors are not kept: whoever
 * grants as a superuser or as the owner's member does it in the owner's name.
 */
static void
put_grants(const LobRun *run, const char *missing, Buffer *sql)
{
	if (run->work->no_privileges) {
		buffer_put_text(sql, ", ''");
		return;
	}
	buffer_printf(
		sql,
		", CASE WHEN m.lomacl IS NULL OR m.lomacl = " DEFAULT_ACL " THEN '' ELSE coalesce(("
		"SELECT pg_catalog.string_agg(g.t, '' ORDER BY g.t COLLATE \"C\") FROM (SELECT DISTINCT"
		" pg_catalog.format('GRANT %%s ON LARGE OBJECT %%s TO %%s%%s;', a.privilege_type, m.oid,"
		" CASE WHEN a.grantee = 0 THEN 'PUBLIC'"
		" WHEN a.grantee = m.lomowner THEN coalesce(pg_catalog.quote_ident(o.name), 'CURRENT_USER')"
		" ELSE pg_catalog.quote_ident(x.rolname) END,"
		" CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END) AS t"
		" FROM pg_catalog.aclexplode(m.lomacl) a LEFT JOIN pg_catalog.pg_roles x ON x.oid ="
		" a.grantee WHERE a.grantee IN (0, m.lomowner)"
		" OR (x.oid IS NOT NULL AND x.rolname <> ALL (ARRAY[%s]::text[]))) g), ';') END",
		missing);
}

static void
put_query(const LobRun *run, const char *missing, const char *user, Buffer *sql)
{
	buffer_put_text(sql, "SELECT m.oid, o.name");
	put_grants(run, missing, sql);
	buffer_put_text(
		sql, ", d.description, CASE WHEN m.lomacl IS NULL THEN '' ELSE"
			 " (SELECT pg_catalog.string_agg(DISTINCT pg_catalog.format("
			 "'REVOKE ALL ON LARGE OBJECT %s FROM %s CASCADE;', m.oid, CASE WHEN a.grantee = 0"
			 " THEN 'PUBLIC' ELSE pg_catalog.quote_ident(x.rolname) END), '')"
			 " FROM pg_catalog.aclexplode(m.lomacl) a LEFT JOIN pg_catalog.pg_roles x"
			 " ON x.oid = a.grantee WHERE a.grantee = 0 OR x.oid IS NOT NULL) END"
			 " FROM pg_catalog.pg_largeobject_metadata m"
			 " LEFT JOIN pg_catalog.pg_roles r ON r.oid = m.lomowner CROSS JOIN LATERAL (SELECT ");
	put_owner(run, missing, user, sql);
	buffer_put_text(sql, " AS name) o LEFT JOIN pg_catalog.pg_description d"
	                     " ON d.classoid = 'pg_catalog.pg_largeobject'::pg_catalog.regclass"
	                     " AND d.objoid = m.oid AND d.objsubid = 0");
}

bool
lob_meta_open(LobRun *run, Sql *from, Sql *to, Error *err)
{
	Buffer missing = BUFFER_INIT;
	Buffer names = BUFFER_INIT;
	char user[256];

	bool ok = find_missing_roles(from, to, &missing, &names, err) &&
	          sql_value(to, err, user, sizeof(user), "SELECT current_user");
	if (ok) {
		put_query(run, buffer_cstr(&missing), user, &run->meta_from);
		put_query(run, "", user, &run->meta_to);
	}
	if (ok && names.len > 0 && run->ledger != NULL)
		log_warning("large objects",
		            "roles that are not on the %s: %s; their large objects belong to our user "
		            "there, and what is granted to them is left out",
		            run->work->to_side, buffer_cstr(&names));
	buffer_free(&missing);
	buffer_free(&names);
	return ok;
}

/* ---- statements ---- */

static void
put_comment(const char *oid, const char *comment, Buffer *sql)
{
	buffer_printf(sql, "COMMENT ON LARGE OBJECT %s IS ", oid);
	if (comment != NULL)
		sql_put_literal(sql, comment);
	else
		buffer_put_text(sql, "NULL");
	buffer_put_text(sql, ";");
}

static void
put_owner_change(const char *oid, const char *owner, Buffer *sql)
{
	buffer_printf(sql, "ALTER LARGE OBJECT %s OWNER TO ", oid);
	sql_put_identifier(sql, owner);
	buffer_put_text(sql, ";");
}

static const char *
text_of(const PGresult *result, int row, int column)
{
	return PQgetisnull(result, row, column) ? NULL : PQgetvalue(result, row, column);
}

static bool
same_text(const char *a, const char *b)
{
	return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

static bool
same_column(const PGresult *from, int from_row, const PGresult *to, int to_row, int column)
{
	return same_text(text_of(from, from_row, column), text_of(to, to_row, column));
}

void
lob_meta_create(const PGresult *from, const int *rows, size_t count, Buffer *sql)
{
	if (count == 0)
		return;
	buffer_put_text(sql, "SELECT pg_catalog.count(pg_catalog.lo_create(v.o)) FROM"
	                     " pg_catalog.unnest('{");
	for (size_t i = 0; i < count; i++)
		buffer_printf(sql, "%s%s", i > 0 ? "," : "", PQgetvalue(from, rows[i], META_OID));
	buffer_put_text(sql, "}'::pg_catalog.oid[]) AS v (o);");
	for (size_t i = 0; i < count; i++) {
		const char *oid = PQgetvalue(from, rows[i], META_OID);
		const char *owner = text_of(from, rows[i], META_OWNER);
		const char *grants = PQgetvalue(from, rows[i], META_GRANTS);
		const char *comment = text_of(from, rows[i], META_COMMENT);

		/* Grants first: they are given in the name of the owner, and follow it. */
		if (grants[0] != '\0')
			buffer_printf(sql, "REVOKE ALL ON LARGE OBJECT %s FROM CURRENT_USER;", oid);
		if (comment != NULL)
			put_comment(oid, comment, sql);
		if (owner != NULL)
			put_owner_change(oid, owner, sql);
		buffer_put_text(sql, grants);
	}
}

bool
lob_meta_same(const PGresult *from, int from_row, const PGresult *to, int to_row)
{
	return same_column(from, from_row, to, to_row, META_OWNER) &&
	       same_column(from, from_row, to, to_row, META_GRANTS) &&
	       same_column(from, from_row, to, to_row, META_COMMENT);
}

void
lob_meta_change(const PGresult *from, int from_row, const PGresult *to, int to_row, Buffer *sql)
{
	const char *oid = PQgetvalue(from, from_row, META_OID);
	const char *owner = text_of(from, from_row, META_OWNER);
	const char *grants = PQgetvalue(from, from_row, META_GRANTS);

	if (!same_column(from, from_row, to, to_row, META_COMMENT))
		put_comment(oid, text_of(from, from_row, META_COMMENT), sql);
	if (owner != NULL && !same_column(from, from_row, to, to_row, META_OWNER))
		put_owner_change(oid, owner, sql);
	if (same_column(from, from_row, to, to_row, META_GRANTS))
		return;
	buffer_put_text(sql, PQgetvalue(to, to_row, META_REVOKES));
	buffer_printf(sql, "REVOKE ALL ON LARGE OBJECT %s FROM ", oid);
	if (owner != NULL)
		sql_put_identifier(sql, owner);
	else
		buffer_put_text(sql, "CURRENT_USER");
	buffer_put_text(sql, ";");
	if (grants[0] != '\0') {
		buffer_put_text(sql, grants);
		return;
	}
	buffer_printf(sql, "GRANT ALL ON LARGE OBJECT %s TO ", oid);
	if (owner != NULL)
		sql_put_identifier(sql, owner);
	else
		buffer_put_text(sql, "CURRENT_USER");
	buffer_put_text(sql, ";");
}
