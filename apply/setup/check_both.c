/* Source and target side by side. */
#include <stdlib.h>
#include <string.h>

#include "apply/setup/check_internal.h"

/* ---- the same server? ---- */

/* Where the control file may not be read, the address that the server sees itself. */
static const char *
server_identity(Check *check, Sql *sql)
{
	Error err = ERROR_INIT;
	char text[100];

	if (sql_value(sql, &err, text, sizeof(text),
	              "SELECT system_identifier FROM pg_catalog.pg_control_system()"))
		return check_text(check, "%s", text);
	if (err.class != ERROR_SQL) {
		check->broken = err;
		return NULL;
	}
	return check_value(check, sql, "server address",
	                   "SELECT coalesce(pg_catalog.host(pg_catalog.inet_server_addr()), 'local')"
	                   " || ' ' || current_setting('port') || ' '"
	                   " || pg_catalog.pg_postmaster_start_time()");
}

static void
check_not_the_same(Check *check)
{
	const char *source = server_identity(check, check->source);
	const char *target = source != NULL ? server_identity(check, check->target) : NULL;

	if (target == NULL || strcmp(source, target) != 0)
		return;
	const char *database = PQdb(sql_pgconn(check->source));
	if (strcmp(database, PQdb(sql_pgconn(check->target))) == 0)
		findings_add(check->findings, FINDING_BLOCKER, "same_database", "target",
		             "name another database as --target",
		             "source and target are the same database (%s) of the same server", database);
	else
		findings_add(check->findings, FINDING_INFO, "same_server", "target", NULL,
		             "source and target are databases of the same server");
}

/* ---- encoding and locale ---- */

static PGresult *
ask_locale(Check *check, Sql *sql)
{
	const char *provider = "'c'";
	const char *locale = "NULL";

	if (sql_server_version(sql) >= 170000) {
		provider = "datlocprovider";
		locale = "datlocale";
	} else if (sql_server_version(sql) >= 150000) {
		provider = "datlocprovider";
		locale = "daticulocale";
	}
	return check_askf(
		check, sql, "locale",
		"SELECT pg_catalog.pg_encoding_to_char(encoding), %s, datcollate, datctype,"
		" coalesce(%s, '') FROM pg_catalog.pg_database WHERE datname = current_database()",
		provider, locale);
}

static void
check_encoding(Check *check, const char *source, const char *target)
{
	/* Our sessions speak UTF8, to a target without an encoding, too. */
	if (strcmp(source, "SQL_ASCII") == 0)
		findings_add(check->findings, FINDING_WARNING, "encoding", "source",
		             "repair such texts on the source",
		             "the source has no encoding (SQL_ASCII), the target's is %s: the first text "
		             "that is not valid UTF8 stops the copy, or later the stream",
		             target);
	else if (strcmp(source, target) == 0)
		return;
	else if (strcmp(target, "UTF8") != 0)
		findings_add(
			check->findings, FINDING_WARNING, "encoding", "target",
			check_text(check, "make the target's database with ENCODING '%s' or 'UTF8'", source),
			"the source is %s, the target %s: a character that it does not have stops the "
			"copy",
			source, target);
	else
		findings_add(check->findings, FINDING_INFO, "encoding", "target", NULL,
		             "texts are converted from %s to UTF8", source);
}

static void
check_locale(Check *check)
{
	static const char *const names[] = {NULL, "locale provider", "collation", "character type",
	                                    "ICU or builtin locale"};
	PGresult *source = ask_locale(check, check->source);
	PGresult *target = source != NULL ? ask_locale(check, check->target) : NULL;

	if (target != NULL) {
		check_encoding(check, PQgetvalue(source, 0, 0), PQgetvalue(target, 0, 0));
		for (int i = 1; i < 5; i++) {
			if (strcmp(PQgetvalue(source, 0, i), PQgetvalue(target, 0, i)) == 0)
				continue;
			findings_add(check->findings, FINDING_WARNING, "locale",
			             check_text(check, "target, %s", names[i]),
			             check_text(check,
			                        "CREATE DATABASE ... TEMPLATE template0 LC_COLLATE '%s' "
			                        "LC_CTYPE '%s'",
			                        PQgetvalue(source, 0, 2), PQgetvalue(source, 0, 3)),
			             "%s is '%s' on the source and '%s' on the target: texts may sort and "
			             "compare otherwise",
			             names[i], PQgetvalue(source, 0, i), PQgetvalue(target, 0, i));
		}
	}
	PQclear(source);
	PQclear(target);
}

/* ---- extensions and roles ---- */

int
check_row_of(const PGresult *rows, const char *text)
{
	for (int i = 0; i < PQntuples(rows); i++) {
		if (strcmp(PQgetvalue(rows, i, 0), text) == 0)
			return i;
	}
	return -1;
}

static void
check_extension(Check *check, const char *name, const char *version, const PGresult *theirs)
{
	int row = check_row_of(theirs, name);
	const char *object = check_text(check, "extension %s", name);
	bool copied = check->options->schema_copy;
	const char *installed = row < 0 ? NULL : sql_get(theirs, row, 2);
	const char *would_be = row < 0             ? NULL
	                       : installed != NULL ? installed
	                                           : PQgetvalue(theirs, row, 1);

	if (would_be == NULL) {
		findings_add(
			check->findings, copied ? FINDING_BLOCKER : FINDING_WARNING, "extension", object,
			"install its package on the target's machine (or allow it at the "
			"provider), or DROP EXTENSION on the source",
			"the source has version %s of it, the target's server does not have it", version);
		return;
	}
	if (!copied && installed == NULL)
		findings_add(check->findings, FINDING_WARNING, "extension", object,
		             check_text(check, "CREATE EXTENSION %s;", check_quoted(check, name)),
		             "it is on the source but not in the target's database");
	else if (strcmp(version, would_be) != 0)
		findings_add(check->findings, FINDING_WARNING, "extension_version", object,
		             check_text(check, "ALTER EXTENSION %s UPDATE;", check_quoted(check, name)),
		             "it has version %s on the source and %s on the target", version, would_be);
}

static void
check_extensions(Check *check)
{
	PGresult *ours = check_ask(
		check, check->source, "extensions",
		"SELECT extname, extversion FROM pg_catalog.pg_extension WHERE extname <> 'plpgsql'"
		" ORDER BY 1");
	PGresult *theirs = ours == NULL ? NULL
	                                : check_ask(check, check->target, "extensions",
	                                            "SELECT name, default_version, installed_version"
	                                            " FROM pg_catalog.pg_available_extensions");

	for (int i = 0; theirs != NULL && i < PQntuples(ours); i++)
		check_extension(check, PQgetvalue(ours, i, 0), PQgetvalue(ours, i, 1), theirs);
	PQclear(ours);
	PQclear(theirs);
}

enum { NEED_ROLE, NEED_WHAT, NEED_TABLE };

/* Policies and user mappings: neither can be made without the role, nor be left to another one as what
 * it owns, or left out as what it was granted. */
static PGresult *
ask_needs(Check *check)
{
	return check_ask(
		check, check->source, "roles",
		"SELECT r.rolname, pg_catalog.pg_describe_object(d.classid, d.objid, 0),"
		" coalesce(p.polrelid, 0) FROM pg_catalog.pg_shdepend d"
		" JOIN pg_catalog.pg_roles r ON r.oid = d.refobjid"
		" AND d.refclassid = 'pg_catalog.pg_authid'::regclass"
		" LEFT JOIN pg_catalog.pg_policy p ON d.classid = 'pg_catalog.pg_policy'::regclass"
		" AND p.oid = d.objid WHERE d.dbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname ="
		" current_database()) AND (p.oid IS NOT NULL OR"
		" d.classid = 'pg_catalog.pg_user_mapping'::regclass) ORDER BY 1, 2");
}

static bool
is_moved(const Catalog *catalog, uint32_t oid)
{
	bool moved = false;

	for (size_t i = 0; i < catalog->table_count; i++)
		moved = moved || catalog->tables[i].oid == oid;
	for (size_t i = 0; i < catalog->parent_count; i++)
		moved = moved || catalog->parents[i].oid == oid;
	for (size_t i = 0; i < catalog->rowless_count; i++)
		moved = moved || catalog->rowless[i].oid == oid;
	return moved;
}

/* What needs the role, or NULL. Named tables or schemas bring no user mappings. */
static const char *
needed_by(const Check *check, const PGresult *needs, const char *role)
{
	const Selection *selection = &check->options->selection;
	bool named = selection->lists[INCLUDE_TABLE].count > 0 ||
	             selection->lists[INCLUDE_SCHEMA].count > 0;

	for (int i = 0; i < PQntuples(needs); i++) {
		uint32_t table = (uint32_t)sql_get_int(needs, i, NEED_TABLE);
		if (strcmp(PQgetvalue(needs, i, NEED_ROLE), role) == 0 &&
		    (table == 0 ? !named : check->catalog == NULL || is_moved(check->catalog, table)))
			return PQgetvalue(needs, i, NEED_WHAT);
	}
	return NULL;
}

static void
role_is_missing(Check *check, const char *role, bool owns, const char *needed)
{
	const char *object = check_text(check, "role %s", role);
	const char *fix = check_text(check,
	                             "CREATE ROLE %s; (or pg_dumpall --roles-only on the source)",
	                             check_quoted(check, role));

	/* Of one that goes on it would stop the apply, too, which keeps the source's WAL. */
	if (needed != NULL)
		findings_add(check->findings, check->options->resuming ? FINDING_WARNING : FINDING_BLOCKER,
		             "role_needed", object, fix,
		             "it does not exist on the target, where %s cannot be made without it", needed);
	else
		findings_add(check->findings, FINDING_WARNING, "role", object, fix,
		             "it %s on the source and does not exist on the target%s",
		             owns ? "owns objects" : "has been granted rights",
		             owns ? ": what it owns would belong to the connecting role" : "");
}

/* Owners and everybody who is named in a grant or a policy. Superuser names of services
 * differ on purpose; it is the user's to say what becomes of them. */
static void
check_roles(Check *check)
{
	PGresult *ours = check_ask(
		check, check->source, "roles",
		"SELECT r.rolname, bool_or(d.deptype = 'o') FROM pg_catalog.pg_shdepend d"
		" JOIN pg_catalog.pg_roles r ON r.oid = d.refobjid"
		" AND d.refclassid = 'pg_catalog.pg_authid'::regclass"
		" WHERE d.dbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname ="
		" current_database()) AND r.rolname !~ '^pg_' GROUP BY 1 ORDER BY 1");
	PGresult *theirs = ours == NULL ? NULL
	                                : check_ask(check, check->target, "roles",
	                                            "SELECT rolname FROM pg_catalog.pg_roles");

	PGresult *needs = theirs == NULL ? NULL : ask_needs(check);

	for (int i = 0; needs != NULL && i < PQntuples(ours); i++) {
		const char *role = PQgetvalue(ours, i, 0);
		if (check_row_of(theirs, role) < 0)
			role_is_missing(check, role, sql_get_bool(ours, i, 1), needed_by(check, needs, role));
	}
	PQclear(ours);
	PQclear(theirs);
	PQclear(needs);
}

/* Owners of everything that pg_dump gives an owner, as UNIONs. Schema public belongs to
 * pg_database_owner from 15 on, and to a superuser before: pg_dump 15 and newer says so. */
static void
put_owners(Check *check, Buffer *sql)
{
	static const struct {
		const char *catalog;
		const char *owner;
		const char *schema; /* NULL: in none */
		const char *which;
	} owned[] = {
		{"pg_class", "relowner", "relnamespace", "relkind IN ('r', 'p', 'v', 'm', 'S', 'f', 'c')"},
		{"pg_namespace", "nspowner", "oid", "true"},
		{"pg_type", "typowner", "typnamespace",
	     "typtype IN ('b', 'd', 'e', 'r') AND typcategory <> 'A'"},
		{"pg_proc", "proowner", "pronamespace", "true"},
		{"pg_operator", "oprowner", "oprnamespace", "true"},
		{"pg_opclass", "opcowner", "opcnamespace", "true"},
		{"pg_opfamily", "opfowner", "opfnamespace", "true"},
		{"pg_collation", "collowner", "collnamespace", "true"},
		{"pg_conversion", "conowner", "connamespace", "true"},
		{"pg_ts_config", "cfgowner", "cfgnamespace", "true"},
		{"pg_ts_dict", "dictowner", "dictnamespace", "true"},
		{"pg_statistic_ext", "stxowner", "stxnamespace", "true"},
		{"pg_foreign_data_wrapper", "fdwowner", NULL, "true"},
		{"pg_foreign_server", "srvowner", NULL, "true"},
		{"pg_event_trigger", "evtowner", NULL, "true"},
		{"pg_language", "lanowner", NULL, "true"},
	};
	const Selection *selection = &check->options->selection;
	/* Then there is nothing but relations, and their schemas. */
	enum { NAMED = 2 };
	bool named = selection->lists[INCLUDE_TABLE].count > 0 ||
	             selection->lists[INCLUDE_SCHEMA].count > 0;
	enum { FIRST_NORMAL_OID = 16384 }; /* below: made by initdb */

	for (size_t i = 0; i < (named ? NAMED : sizeof(owned) / sizeof(owned[0])); i++)
		buffer_printf(
			sql,
			"SELECT o.%s AS role FROM pg_catalog.%s o WHERE o.oid >= %d AND %s AND NOT"
			" EXISTS (SELECT 1 FROM pg_catalog.pg_depend x WHERE x.classid ="
			" 'pg_catalog.%s'::regclass AND x.objid = o.oid AND x.deptype = 'e')"
			" AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_namespace n WHERE n.oid = %s AND"
			" (n.nspname ~ '^pg_' OR n.nspname = 'information_schema')) UNION ",
			owned[i].owner, owned[i].catalog, FIRST_NORMAL_OID, owned[i].which, owned[i].catalog,
			owned[i].schema != NULL ? check_text(check, "o.%s", owned[i].schema)
									: "NULL::pg_catalog.oid");
	if (!named)
		buffer_put_text(sql, "SELECT nspowner FROM pg_catalog.pg_namespace WHERE nspname = 'public'"
		                     " UNION ");
	buffer_printf(sql, "SELECT lomowner FROM pg_catalog.pg_largeobject_metadata WHERE %s",
	              check->catalog != NULL && check->catalog->moves_large_objects ? "true" : "false");
}

/* ALTER ... OWNER TO on the target wants membership; SET is an option of its own from 16 on.
 * Owners that the target does not have are a finding already: then nobody's are restored. */
static void
check_memberships(Check *check)
{
	const char *right = sql_server_version(check->target) >= 160000 ? "SET" : "MEMBER";
	const char *user = check_quoted(check, PQuser(sql_pgconn(check->target)));
	Buffer sql = BUFFER_INIT;

	buffer_put_text(&sql, "SELECT r.rolname FROM pg_catalog.pg_roles r WHERE r.rolname !~ '^pg_'"
	                      " AND r.oid IN (");
	put_owners(check, &sql);
	buffer_put_text(&sql, ") ORDER BY 1");
	PGresult *owners = check_ask(check, check->source, "owners", buffer_cstr(&sql));
	buffer_free(&sql);
	PGresult *roles =
		owners == NULL
			? NULL
			: check_askf(
				  check, check->target, "roles",
				  "SELECT rolname, pg_catalog.pg_has_role(oid, '%s') FROM pg_catalog.pg_roles",
				  right);
	int rows = roles != NULL ? PQntuples(owners) : 0;

	for (int i = 0; i < rows; i++) {
		if (check_row_of(roles, PQgetvalue(owners, i, 0)) < 0)
			rows = 0;
	}
	for (int i = 0; i < rows; i++) {
		const char *owner = PQgetvalue(owners, i, 0);
		if (!sql_get_bool(roles, check_row_of(roles, owner), 1))
			findings_add(check->findings, FINDING_BLOCKER, "target_membership",
			             check_text(check, "target, role %s", owner),
			             check_text(check, "GRANT %s TO %s;", check_quoted(check, owner), user),
			             "%s may not give objects to it on the target; --no-owner leaves "
			             "everything to %s instead",
			             user, user);
	}
	PQclear(owners);
	PQclear(roles);
}

void
check_both(Check *check)
{
	check_not_the_same(check);
	if (check->broken.class == ERROR_NONE)
		check_locale(check);
	if (check->broken.class == ERROR_NONE)
		check_extensions(check);
	if (check->broken.class == ERROR_NONE && check->options->schema_copy)
		check_roles(check);
	if (check->broken.class == ERROR_NONE && check->options->schema_copy &&
	    !check->options->no_owner && !check->options->resuming)
		check_memberships(check);
}
