/* What else lives in the source and moves in another way, or not at all. */
#include <stdlib.h>
#include <string.h>

#include "apply/setup/check_internal.h"

static void
check_counts(Check *check)
{
	const Catalog *catalog = check->catalog;
	Findings *f = check->findings;

	if (catalog->foreign_tables > 0)
		findings_add(f, FINDING_INFO, "foreign_tables", "source", NULL,
		             "%llu foreign tables: their definitions move, their rows stay where they are",
		             (unsigned long long)catalog->foreign_tables);
	if (catalog->matview_count > 0)
		findings_add(f, FINDING_INFO, "materialised_views", "source", NULL,
		             "%zu materialised views are refreshed on the target at the cutover",
		             catalog->matview_count);
	if (catalog->sequence_count > 0)
		findings_add(f, FINDING_INFO, "sequences", "source", NULL,
		             "%zu sequences get their values at the cutover", catalog->sequence_count);
}

/* One finding from one number; nothing when it is 0. */
static void
count_finding(Check *check, Severity severity, const char *code, const char *query,
              const char *what)
{
	const char *count = check_value(check, check->source, code, query);

	if (count != NULL && strcmp(count, "0") != 0)
		findings_add(check->findings, severity, code, "source", NULL, "%s %s", count, what);
}

static void
check_event_triggers(Check *check)
{
	PGresult *rows = check_ask(
		check, check->source, "event triggers",
		"SELECT evtname, evtenabled FROM pg_catalog.pg_event_trigger WHERE evtenabled <> 'D'"
		" AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend WHERE deptype = 'e' AND"
		" classid = 'pg_catalog.pg_event_trigger'::regclass AND objid = pg_event_trigger.oid)");

	for (int i = 0; rows != NULL && i < PQntuples(rows); i++) {
		/* See sql_rest_event_triggers: our sessions are in the replica role, where they may. */
		char enabled = PQgetvalue(rows, i, 1)[0];
		bool fires = check->superuser ? enabled != 'O' && sql_server_version(check->source) < 170000
		                              : enabled != 'R';
		findings_add(
			check->findings, fires ? FINDING_WARNING : FINDING_INFO, "event_trigger",
			check_text(check, "event trigger %s", PQgetvalue(rows, i, 0)),
			!fires ? NULL
				   : check_text(check, "ALTER EVENT TRIGGER %s DISABLE;",
		                        check_quoted(check, PQgetvalue(rows, i, 0))),
			fires
				? "it fires for what is set up on the source (CREATE PUBLICATION, CREATE TRIGGER, "
				  "ALTER TABLE); if it writes to a migrated table it stops the cutover"
				: "it does not fire for what pgbaton sets up");
	}
	PQclear(rows);
}

/* The source checks such a constraint only for a column that is assigned; here an update assigns
 * all of them. */
static void
check_domain_constraints(Check *check)
{
	PGresult *rows = check_ask(
		check, check->source, "constraints of domains",
		"SELECT n.nspname || '.' || t.typname, n.nspname, t.typname, c.conname"
		" FROM pg_catalog.pg_constraint c JOIN pg_catalog.pg_type t ON t.oid = c.contypid"
		" JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace WHERE NOT c.convalidated"
		" ORDER BY 1, 4");

	for (int i = 0; rows != NULL && i < PQntuples(rows); i++)
		findings_add(check->findings, FINDING_WARNING, "domain_constraint",
		             check_text(check, "domain %s", PQgetvalue(rows, i, 0)),
		             check_text(check, "ALTER DOMAIN %s.%s VALIDATE CONSTRAINT %s;",
		                        check_quoted(check, PQgetvalue(rows, i, 1)),
		                        check_quoted(check, PQgetvalue(rows, i, 2)),
		                        check_quoted(check, PQgetvalue(rows, i, 3))),
		             "its constraint %s is not validated: where a row breaks it, an update of "
		             "another column of that row goes through on the source and stops the apply",
		             PQgetvalue(rows, i, 3));
	PQclear(rows);
}

/* Tables that an extension made and users fill (pg_extension_config_dump). */
static void
check_extension_data(Check *check)
{
	PGresult *rows = check_ask(
		check, check->source, "extension data",
		"SELECT e.extname, string_agg(u.t::regclass::text, ', ') FROM pg_catalog.pg_extension e,"
		" LATERAL unnest(e.extconfig) u(t) JOIN pg_catalog.pg_class c ON c.oid = u.t"
		" AND c.relkind = 'r' WHERE c.reltuples <> 0 GROUP BY 1");

	for (int i = 0; rows != NULL && i < PQntuples(rows); i++)
		findings_add(check->findings, FINDING_WARNING, "extension_data",
		             check_text(check, "extension %s", PQgetvalue(rows, i, 0)), NULL,
		             "rows that were added to its own tables are copied once, with the schema; "
		             "what is written to them afterwards is not followed: %s",
		             PQgetvalue(rows, i, 1));
	PQclear(rows);
}

/* A provider is a library that the server has loaded: the server is asked for it before it looks
 * whether the object is there. */
static bool
provider_is_loaded(Check *check, const char *provider)
{
	Error err = ERROR_INIT;

	if (sql_execf(check->target, &err, "SECURITY LABEL FOR %s ON LARGE OBJECT 0 IS NULL",
	              check_quoted(check, provider)))
		return true;
	if (err.class != ERROR_SQL)
		check->broken = err;
	return !error_has_sqlstate(&err, "22023");
}

/* pg_dump has them, and without their provider nothing of the schema would be restored. */
static void
check_security_labels(Check *check)
{
	PGresult *rows = check_ask(
		check, check->source, "security labels",
		"SELECT provider, count(*), count(*) FILTER (WHERE classoid ="
		" 'pg_catalog.pg_largeobject'::pg_catalog.regclass) FROM pg_catalog.pg_seclabel GROUP BY 1"
		" ORDER BY 1");

	for (int i = 0; rows != NULL && i < PQntuples(rows); i++) {
		const char *object = check_text(check, "provider %s", PQgetvalue(rows, i, 0));
		if (check->options->schema_copy && !check->options->no_security_labels &&
		    !provider_is_loaded(check, PQgetvalue(rows, i, 0)))
			findings_add(check->findings, FINDING_BLOCKER, "security_labels", object,
			             "load its library on the target (shared_preload_libraries), or "
			             "--no-security-labels",
			             "%s security labels are of a provider that the target has not loaded",
			             PQgetvalue(rows, i, 1));
		if (sql_get_int(rows, i, 2) > 0 && check->catalog->moves_large_objects)
			findings_add(check->findings, FINDING_WARNING, "large_object_labels", object, NULL,
			             "the security labels of %s large objects are not moved",
			             PQgetvalue(rows, i, 2));
	}
	PQclear(rows);
}

static void
check_money(Check *check)
{
	bool used = false;
	const char *here = check_value(
		check, check->source, "lc_monetary",
		"SELECT reset_val FROM pg_catalog.pg_settings WHERE name = 'lc_monetary'");
	const char *there = check_value(
		check, check->target, "lc_monetary",
		"SELECT reset_val FROM pg_catalog.pg_settings WHERE name = 'lc_monetary'");

	for (size_t i = 0; i < check->catalog->table_count; i++) {
		for (int j = 0; j < check->catalog->tables[i].column_count; j++)
			used = used || strcmp(check->catalog->tables[i].columns[j].type, "money") == 0;
	}
	if (used && here != NULL && there != NULL && strcmp(here, there) != 0)
		findings_add(check->findings, FINDING_WARNING, "lc_monetary", "target",
		             check_text(check, "ALTER DATABASE %s SET lc_monetary = '%s';",
		                        check_quoted(check, PQdb(sql_pgconn(check->target))), here),
		             "money columns are shown by lc_monetary, which is %s on the source and %s on "
		             "the target",
		             here, there);
}

/* Neither is moved: they are of two databases, and each other one must be told. */
static void
check_replication(Check *check)
{
	PGresult *rows = check_askf(
		check, check->source, "publications and subscriptions",
		"SELECT 'publication', pubname FROM pg_catalog.pg_publication"
		" WHERE pubname NOT IN ('%s', '%s_insert_only')"
		" UNION ALL SELECT 'subscription', subname FROM pg_catalog.pg_subscription WHERE subdbid ="
		" (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())"
		" ORDER BY 1, 2",
		check->options->name, check->options->name);

	for (int i = 0; rows != NULL && i < PQntuples(rows); i++) {
		const char *kind = PQgetvalue(rows, i, 0);
		bool feeds = strcmp(kind, "subscription") == 0;
		findings_add(check->findings, feeds ? FINDING_WARNING : FINDING_INFO,
		             feeds ? "subscriptions" : "publications",
		             check_text(check, "%s %s", kind, PQgetvalue(rows, i, 1)), NULL,
		             feeds ? "it feeds this database; it is not moved and has to be made anew"
		                   : "it is not moved; its subscribers do not follow to the target by "
		                     "themselves");
	}
	PQclear(rows);
}

void
check_source_objects(Check *check)
{
	if (check->catalog == NULL)
		return;
	check_counts(check);
	check_money(check);
	check_domain_constraints(check);
	check_event_triggers(check);
	check_extension_data(check);
	check_security_labels(check);
	count_finding(check, FINDING_INFO, "triggers",
	              "SELECT count(*) FROM pg_catalog.pg_trigger WHERE NOT tgisinternal"
	              " AND tgenabled IN ('A', 'R')",
	              "triggers are ENABLE ALWAYS or ENABLE REPLICA; they are disabled on the target "
	              "until the cutover");
	count_finding(check, FINDING_INFO, "tablespaces",
	              "SELECT count(*) FROM pg_catalog.pg_class WHERE reltablespace <> 0"
	              " AND oid >= 16384 AND relkind IN ('r', 'i', 'm', 'p', 'I')",
	              "tables and indexes are in tablespaces of their own; on the target all are in "
	              "the database's default one");
	check_replication(check);
}
