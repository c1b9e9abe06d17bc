/* The target: may we work there, and is anything in the way. */
#include <stdlib.h>
#include <string.h>

#include "apply/ledger.h"
#include "apply/setup/check_internal.h"

enum { OLDEST_TARGET = 150000, TABLES_AT_ONCE = 200 };

static void
check_versions(Check *check)
{
	int source = sql_server_version(check->source);
	int target = sql_server_version(check->target);

	if (target < OLDEST_TARGET)
		findings_add(check->findings, FINDING_BLOCKER, "target_version", "target",
		             "use a target of 15 or newer",
		             "the target is PostgreSQL %d.%d; 15 is the oldest that works", target / 10000,
		             target % 10000);
	else if (target / 10000 < source / 10000)
		findings_add(check->findings, FINDING_WARNING, "downgrade", "target", NULL,
		             "the target (%d) is older than the source (%d): definitions that use newer "
		             "features cannot be made there",
		             target / 10000, source / 10000);
}

/* Where it is set for us: role, database, both, or the server. */
static const char *
read_only_fix(Check *check)
{
	const char *fix = check_value(
		check, check->target, "read only",
		"SELECT string_agg(CASE WHEN setrole = 0 THEN format('ALTER DATABASE %I RESET"
		" default_transaction_read_only;', current_database())"
		" WHEN setdatabase = 0 THEN format('ALTER ROLE %I RESET default_transaction_read_only;',"
		" session_user) ELSE format('ALTER ROLE %I IN DATABASE %I RESET"
		" default_transaction_read_only;', session_user, current_database()) END, ' ')"
		" FROM pg_catalog.pg_db_role_setting WHERE setrole IN (0, (SELECT oid FROM"
		" pg_catalog.pg_roles WHERE rolname = session_user)) AND setdatabase IN (0, (SELECT oid"
		" FROM pg_catalog.pg_database WHERE datname = current_database()))"
		" AND EXISTS (SELECT 1 FROM unnest(setconfig) s WHERE"
		" s ~ '^default_transaction_read_only=')");

	/* Who connects to do it comes into a session that can only read. */
	return fix != NULL ? check_text(check, "SET default_transaction_read_only = off; %s", fix)
	                   : "ALTER SYSTEM SET default_transaction_read_only = off;"
	                     " SELECT pg_reload_conf();";
}

static void
check_writable(Check *check)
{
	const char *standby = check_value(check, check->target, "recovery",
	                                  "SELECT pg_catalog.pg_is_in_recovery()");
	/* Our own session has switched it off; what the others get is its reset value. */
	const char *read_only = check_value(check, check->target, "read only",
	                                    "SELECT reset_val FROM pg_catalog.pg_settings"
	                                    " WHERE name = 'default_transaction_read_only'");

	if (standby != NULL && *standby == 't')
		findings_add(check->findings, FINDING_BLOCKER, "target_standby", "target",
		             "use the primary's connection string as --target",
		             "the target is a standby and cannot be written");
	if (read_only != NULL && strcmp(read_only, "on") == 0)
		findings_add(check->findings, FINDING_BLOCKER, "target_read_only", "target",
		             read_only_fix(check), "default_transaction_read_only is on");
}

static void
check_rights(Check *check)
{
	const char *user = check_quoted(check, PQuser(sql_pgconn(check->target)));
	const char *database = check_value(
		check, check->target, "rights",
		"SELECT current_database() WHERE NOT"
		" pg_catalog.has_database_privilege(current_database(), 'CREATE')");

	if (database != NULL)
		findings_add(check->findings, FINDING_BLOCKER, "target_rights", "target",
		             check_text(check, "GRANT CREATE ON DATABASE %s TO %s;",
		                        check_quoted(check, database), user),
		             "%s may not create schemas in database %s", user, database);
}

/* C4. Asked by trying, since services have rules of their own. */
static void
check_replica_role(Check *check)
{
	Error err = ERROR_INIT;
	const char *user = check_quoted(check, PQuser(sql_pgconn(check->target)));
	bool ok = sql_exec(check->target, &err,
	                   "BEGIN; SET LOCAL session_replication_role = 'replica'; ROLLBACK");

	if (ok)
		return;
	if (err.class != ERROR_SQL) {
		check->broken = err;
		return;
	}
	(void)!sql_exec(check->target, NULL, "ROLLBACK");
	findings_add(check->findings, FINDING_BLOCKER, "session_replication_role", "target",
	             check_text(check, "GRANT SET ON PARAMETER session_replication_role TO %s;", user),
	             "%s may not set session_replication_role, without which triggers and foreign keys "
	             "would act on replicated changes: %s",
	             user, err.message);
}

void
check_target_server(Check *check)
{
	check_versions(check);
	check_writable(check);
	check_rights(check);
	check_replica_role(check);
}

/* ---- contents ---- */

static bool
named_in(const Named *items, size_t count, const char *schema, const char *name)
{
	for (size_t i = 0; i < count; i++) {
		if (strcmp(items[i].name, name) == 0 && strcmp(items[i].schema, schema) == 0)
			return true;
	}
	return false;
}

static bool
is_moved(const Catalog *catalog, const char *schema, const char *name)
{
	return catalog_find(catalog, schema, name) != NULL ||
	       named_in(catalog->parents, catalog->parent_count, schema, name) ||
	       named_in(catalog->rowless, catalog->rowless_count, schema, name) ||
	       named_in(catalog->sequences, catalog->sequence_count, schema, name) ||
	       named_in(catalog->matviews, catalog->matview_count, schema, name);
}

/* Views, types and functions come with their schemas, so any of them of the same name is
 * in the way too; with --include-table only what was chosen is. */
static const char relations_and_types[] =
	"SELECT n.nspname, c.relname, CASE c.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'table'"
	" WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'S' THEN 'sequence'"
	" WHEN 'f' THEN 'foreign table' ELSE 'type' END, c.oid"
	" FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
	" WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f', 'c') AND n.nspname !~ '^pg_'"
	" AND n.nspname <> 'information_schema' AND c.relpersistence <> 't'"
	" AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend x WHERE"
	"  x.classid = 'pg_catalog.pg_class'::regclass AND x.objid = c.oid AND x.deptype = 'e')"
	" UNION ALL SELECT n.nspname, t.typname, CASE t.typtype WHEN 'd' THEN 'domain' ELSE 'type' END, 0"
	" FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace"
	" WHERE t.typtype IN ('e', 'd', 'r') AND n.nspname !~ '^pg_'"
	" AND n.nspname <> 'information_schema'"
	" AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend x WHERE"
	"  x.classid = 'pg_catalog.pg_type'::regclass AND x.objid = t.oid AND x.deptype = 'e')"
	" ORDER BY 1, 2";

/* Of those that come along. */
static Map *
names_of(Check *check, const PGresult *rows)
{
	const Matches *matches = check->catalog->matches;
	Map *map = map_new((size_t)PQntuples(rows));

	for (int i = 0; i < PQntuples(rows); i++) {
		uint32_t oid = (uint32_t)sql_get_int(rows, i, 3);
		const char *schema = PQgetvalue(rows, i, 0);
		if (!(oid != 0 ? matches_chosen(matches, oid, schema)
		               : matches_schema_chosen(matches, schema)))
			continue;
		const char *key = check_text(check, "%s\n%s", PQgetvalue(rows, i, 0),
		                             PQgetvalue(rows, i, 1));
		map_put(map, slice_cstr(key), check);
	}
	return map;
}

static void
in_the_way(Check *check, const PGresult *theirs, int row, int *count)
{
	const char *schema = PQgetvalue(theirs, row, 0);
	const char *name = PQgetvalue(theirs, row, 1);
	const char *kind = PQgetvalue(theirs, row, 2);

	if ((*count)++ >= CHECK_CAP) {
		findings_add(check->findings, FINDING_BLOCKER, "target_not_empty", "more objects", NULL,
		             "there are more than %d objects in the way; the rest is not listed",
		             CHECK_CAP);
		return;
	}
	findings_add(check->findings, FINDING_BLOCKER, "target_not_empty",
	             check_text(check, "%s %s.%s", kind, schema, name),
	             check_text(check,
	                        "DROP %s %s.%s CASCADE; or --schema none when the definitions "
	                        "are there already",
	                        kind, check_quoted(check, schema), check_quoted(check, name)),
	             "the target has a %s of this name already; nothing is overwritten", kind);
}

static void
check_nothing_in_the_way(Check *check)
{
	PGresult *ours = check_ask(check, check->source, "names", relations_and_types);
	PGresult *theirs = ours == NULL ? NULL
	                                : check_ask(check, check->target, "names", relations_and_types);
	int count = 0;

	if (theirs != NULL) {
		Map *names = names_of(check, ours);
		for (int i = 0; i < PQntuples(theirs); i++) {
			const char *schema = PQgetvalue(theirs, i, 0);
			const char *name = PQgetvalue(theirs, i, 1);
			const char *key = check_text(check, "%s\n%s", schema, name);
			bool clash = is_moved(check->catalog, schema, name) ||
			             map_get(names, slice_cstr(key)) != NULL;
			if (clash && strcmp(schema, check->options->name) != 0)
				in_the_way(check, theirs, i, &count);
		}
		map_free(names);
	}
	PQclear(ours);
	PQclear(theirs);
}

/* The copy begins by truncating what an earlier try left: rows of somebody else must
 * not be there. Two hundred tables a query. */
static void
check_tables_empty(Check *check)
{
	const Catalog *catalog = check->catalog;
	Buffer sql = BUFFER_INIT;

	for (size_t i = 0; i < catalog->table_count;) {
		buffer_reset(&sql);
		for (int n = 0; n < TABLES_AT_ONCE && i < catalog->table_count; i++) {
			if (catalog->tables[i].target_oid == 0)
				continue;
			buffer_printf(&sql, "%sSELECT %zu WHERE EXISTS (SELECT 1 FROM ONLY %s)",
			              n++ > 0 ? " UNION ALL " : "", i, catalog->tables[i].qualified);
		}
		if (sql.len == 0)
			break;
		PGresult *rows = check_ask(check, check->target, "tables", buffer_cstr(&sql));
		for (int row = 0; rows != NULL && row < PQntuples(rows); row++) {
			const Table *table = &catalog->tables[sql_get_int(rows, row, 0)];
			findings_add(check->findings, FINDING_BLOCKER, "target_not_empty",
			             check_text(check, "table %s.%s", table->schema, table->name),
			             check_text(check, "TRUNCATE ONLY %s;", table->qualified),
			             "the target's table has rows already; nothing is overwritten");
		}
		PQclear(rows);
	}
	buffer_free(&sql);
}

static void
check_schema_fits(Check *check)
{
	Error err = ERROR_INIT;

	if (catalog_match_target(check->catalog, check->target, &err))
		return;
	if (err.class != ERROR_CONFIG && err.class != ERROR_SQL)
		check->broken = err;
	else
		findings_add(check->findings, FINDING_BLOCKER, "schema_mismatch", "target",
		             err.hint[0] != '\0' ? err.hint : NULL, "%s", err.message);
}

void
check_target_contents(Check *check)
{
	Error err = ERROR_INIT;
	bool exists;

	if (!ledger_exists(check->target, check->options->name, &exists, &err)) {
		if (err.class != ERROR_CONFIG) {
			check->broken = err;
			return;
		}
		findings_add(check->findings, FINDING_BLOCKER, "name_taken",
		             check_text(check, "target, schema %s", check->options->name), err.hint, "%s",
		             err.message);
	}
	if (check->catalog == NULL || check->options->resuming)
		return;
	if (check->options->schema_copy) {
		check_nothing_in_the_way(check);
		return;
	}
	check_schema_fits(check);
	if (check->broken.class == ERROR_NONE)
		check_tables_empty(check);
}
