/* The source's tables: may they be read whole, identified, moved. */
#include <stdlib.h>
#include <string.h>

#include "apply/finish/late.h"
#include "apply/setup/check_internal.h"

/* Rows are (schema, name, ...); only those that are to be moved count. */
static const Table *
table_at(const Check *check, const PGresult *rows, int row)
{
	return catalog_find(check->catalog, PQgetvalue(rows, row, 0), PQgetvalue(rows, row, 1));
}

static const char *
table_object(Check *check, const char *schema, const char *name)
{
	return check_text(check, "table %s.%s", schema, name);
}

/* True when one more finding of this kind may be added. */
static bool
within_cap(Check *check, Severity severity, const char *code, int *count)
{
	if ((*count)++ < CHECK_CAP)
		return true;
	findings_add(check->findings, severity, code, "more tables", NULL,
	             "there are more than %d tables like this; the rest is not listed", CHECK_CAP);
	return false;
}

static void
check_reading(Check *check)
{
	int count = 0;
	PGresult *rows = check_ask(
		check, check->source, "privileges",
		"SELECT n.nspname, c.relname, quote_ident(n.nspname), c.relkind,"
		" pg_catalog.has_schema_privilege(n.oid, 'USAGE'), quote_ident(c.relname)"
		" FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
		" WHERE c.relkind = 'r' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"
		" AND (NOT pg_catalog.has_schema_privilege(n.oid, 'USAGE')"
		" OR NOT pg_catalog.has_table_privilege(c.oid, 'SELECT'))"
		" ORDER BY 1, 2");

	for (int i = 0; rows != NULL && i < PQntuples(rows); i++) {
		const Table *table = table_at(check, rows, i);
		if (table == NULL || !within_cap(check, FINDING_BLOCKER, "select", &count))
			continue;
		const char *usage = sql_get_bool(rows, i, 4)
		                        ? ""
		                        : check_text(check, "GRANT USAGE ON SCHEMA %s TO %s; ",
		                                     PQgetvalue(rows, i, 2), check->user);
		findings_add(check->findings, FINDING_BLOCKER, "select",
		             table_object(check, table->schema, table->name),
		             check_text(check, "%sGRANT SELECT ON TABLE %s.%s TO %s;", usage,
		                        PQgetvalue(rows, i, 2), PQgetvalue(rows, i, 5), check->user),
		             "%s may not read it", check->user);
	}
	PQclear(rows);
}

static void
check_sequences(Check *check)
{
	PGresult *rows = check_ask(
		check, check->source, "sequences",
		"SELECT c.oid, n.nspname, c.relname,"
		" format('GRANT USAGE ON SCHEMA %I TO %I; GRANT SELECT ON SEQUENCE %I.%I TO %I;',"
		"  n.nspname, current_user, n.nspname, c.relname, current_user)"
		" FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
		" WHERE c.relkind = 'S' AND n.nspname !~ '^pg_'"
		" AND (NOT pg_catalog.has_schema_privilege(n.oid, 'USAGE')"
		" OR NOT pg_catalog.has_sequence_privilege(c.oid, 'SELECT'))");
	int count = 0;

	for (int i = 0; rows != NULL && i < PQntuples(rows); i++) {
		uint32_t oid = (uint32_t)sql_get_int(rows, i, 0);
		bool ours = false;
		for (size_t j = 0; j < check->catalog->sequence_count; j++)
			ours = ours || check->catalog->sequences[j].oid == oid;
		if (ours && within_cap(check, FINDING_BLOCKER, "select", &count))
			findings_add(
				check->findings, FINDING_BLOCKER, "select",
				check_text(check, "sequence %s.%s", PQgetvalue(rows, i, 1), PQgetvalue(rows, i, 2)),
				PQgetvalue(rows, i, 3), "%s may not read it", check->user);
	}
	PQclear(rows);
}

/* C5: with row_security off a policy is an error in the middle of the copy. */
static void
check_row_security(Check *check)
{
	int count = 0;
	PGresult *rows = check_ask(
		check, check->source, "row security",
		"SELECT n.nspname, c.relname FROM pg_catalog.pg_class c"
		" JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
		" WHERE c.relkind = 'r' AND c.relrowsecurity"
		" AND (c.relforcerowsecurity OR NOT pg_catalog.pg_has_role(c.relowner, 'USAGE'))"
		" AND NOT (SELECT rolsuper OR rolbypassrls FROM pg_catalog.pg_roles"
		" WHERE rolname = current_user) ORDER BY 1, 2");

	for (int i = 0; rows != NULL && i < PQntuples(rows); i++) {
		const Table *table = table_at(check, rows, i);
		if (table != NULL && within_cap(check, FINDING_BLOCKER, "row_security", &count))
			findings_add(check->findings, FINDING_BLOCKER, "row_security",
			             table_object(check, table->schema, table->name),
			             check_text(check, "ALTER ROLE %s BYPASSRLS;", check->user),
			             "row level security would hide rows of it from %s", check->user);
	}
	PQclear(rows);
}

/* The lanes write with row_security off, too: the first change of such a table would be an error.
 * A policy is forced on a table's owner with what comes after the rows, so the copy works. */
static void
check_target_row_security(Check *check)
{
	bool there = !check->options->schema_copy;
	const char *user = check_value(check, check->target, "row security",
	                               "SELECT pg_catalog.quote_ident(current_user)"
	                               " FROM pg_catalog.pg_roles WHERE rolname = current_user"
	                               " AND NOT rolsuper AND NOT rolbypassrls");
	if (user == NULL)
		return;
	int count = 0;
	PGresult *rows = check_askf(check, there ? check->target : check->source, "row security",
	                            "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c"
	                            " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
	                            " WHERE c.relkind = 'r' AND c.relrowsecurity AND %s ORDER BY 1, 2",
	                            there ? "pg_catalog.row_security_active(c.oid)"
	                                  : "c.relforcerowsecurity");

	for (int i = 0; rows != NULL && i < PQntuples(rows); i++) {
		const Table *table = table_at(check, rows, i);
		if (table != NULL && within_cap(check, FINDING_BLOCKER, "target_row_security", &count))
			findings_add(check->findings, FINDING_BLOCKER, "target_row_security",
			             table_object(check, table->schema, table->name),
			             check_text(check, "on the target: ALTER ROLE %s BYPASSRLS;", user),
			             "row level security would keep %s from writing its rows on the target",
			             user);
	}
	PQclear(rows);
}

/* CREATE PUBLICATION, ALTER TABLE and the fence all want the owner. One finding for each
 * role that owns something. */
static void
check_ownership(Check *check)
{
	PGresult *rows = check_ask(
		check, check->source, "ownership",
		"SELECT n.nspname, c.relname, r.rolname FROM pg_catalog.pg_class c"
		" JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
		" JOIN pg_catalog.pg_roles r ON r.oid = c.relowner"
		" WHERE c.relkind = 'r' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"
		" AND NOT pg_catalog.pg_has_role(c.relowner, 'USAGE') ORDER BY r.rolname, 1, 2");

	for (int i = 0; rows != NULL && i < PQntuples(rows); i++) {
		const Table *table = table_at(check, rows, i);
		const char *owner = PQgetvalue(rows, i, 2);
		if (table != NULL)
			findings_add(
				check->findings, FINDING_BLOCKER, "ownership",
				check_text(check, "tables of role %s", owner),
				check_text(check, "GRANT %s TO %s;", check_quoted(check, owner), check->user),
				"%s is not the owner of %s (and maybe others of %s), which publications, "
				"replica identities and the fence need",
				check->user, table->qualified, owner);
	}
	PQclear(rows);
}

/* A unique index that could identify the rows, for the fix. */
static const char *
usable_index(Check *check, const Table *table)
{
	return check_value(
		check, check->source, "unique indexes",
		check_text(check,
	               "SELECT c.relname FROM pg_catalog.pg_index i"
	               " JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = %u"
	               " AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL"
	               " AND i.indexprs IS NULL AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_attribute a"
	               " WHERE a.attrelid = i.indrelid AND (NOT a.attnotnull OR a.attgenerated <> '')"
	               " AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]))"
	               " ORDER BY i.indnkeyatts, c.relname LIMIT 1",
	               table->oid));
}

/* A server of 18 or newer would refuse the application's updates and deletes of it as soon as
 * it is published: no publication sends a virtual column. */
static bool
cannot_be_full(const Check *check, const Table *table)
{
	bool full = table->key == KEY_FULL ||
	            (table->key_needs_full && strcmp(check->options->replica_identity, "full") == 0);

	for (int i = 0; full && table->persistence == 'p' && i < table->column_count; i++) {
		if (table->columns[i].is_virtual)
			return true;
	}
	return false;
}

static void
virtual_finding(Check *check, const Table *table)
{
	findings_add(
		check->findings, FINDING_BLOCKER, "virtual_column",
		table_object(check, table->schema, table->name),
		check_text(
			check, "ALTER TABLE %s ADD PRIMARY KEY (...);%s", table->qualified,
			table->key == KEY_FULL
				? check_text(check, " ALTER TABLE %s REPLICA IDENTITY DEFAULT;", table->qualified)
				: ""),
		"its rows are identified as a whole (FULL), and it has a virtual generated column: once "
		"it is published, PostgreSQL refuses its updates and deletes");
}

static void
identity_finding(Check *check, Severity severity, const Table *table)
{
	const char *option = check->options->replica_identity;
	const char *index = usable_index(check, table);
	const char *fix = index != NULL
	                      ? check_text(check, "ALTER TABLE %s REPLICA IDENTITY USING INDEX %s;",
	                                   table->qualified, check_quoted(check, index))
	                      : check_text(check, "ALTER TABLE %s ADD PRIMARY KEY (...);",
	                                   table->qualified);
	const char *what = "it will be set to FULL until the end: updates and deletes write the whole "
					   "old row to the WAL";

	if (strcmp(option, "refuse") == 0)
		what = "with --replica-identity refuse such tables are not migrated";
	else if (strcmp(option, "insert-only") == 0)
		what = "with --replica-identity insert-only its updates and deletes are NOT followed";
	findings_add(
		check->findings, severity, "replica_identity",
		table_object(check, table->schema, table->name), fix, "%s; %s",
		table->key_generated
			? "its primary key or replica identity has a generated column, which the stream "
			  "does not carry"
			: "it has no primary key or replica identity that can be used",
		what);
}

static void
check_identities(Check *check)
{
	Severity severity = strcmp(check->options->replica_identity, "refuse") == 0 ? FINDING_BLOCKER
	                                                                            : FINDING_WARNING;
	int count = 0;

	for (size_t i = 0; i < check->catalog->table_count; i++) {
		const Table *table = &check->catalog->tables[i];
		if (cannot_be_full(check, table))
			virtual_finding(check, table);
		else if (table->key_needs_full && within_cap(check, severity, "replica_identity", &count))
			identity_finding(check, severity, table);
	}
}

/* Their changes are in no stream. Where it takes long the operator has to know in advance:
 * writers are held meanwhile. */
static void
check_unlogged(Check *check)
{
	const Catalog *catalog = check->catalog;
	double seconds = late_estimate_s(catalog);
	Severity severity = seconds < 0.5 ? FINDING_INFO : FINDING_WARNING;
	int count = 0;

	for (size_t i = 0; i < catalog->table_count; i++) {
		const Table *table = &catalog->tables[i];
		if (table->persistence == 'u' && within_cap(check, severity, "unlogged", &count))
			findings_add(check->findings, severity, "unlogged",
			             table_object(check, table->schema, table->name),
			             check_text(check,
			                        "ALTER TABLE %s SET LOGGED; or --unlogged skip; or a "
			                        "--hold-timeout that has the time",
			                        table->qualified),
			             "it is unlogged, its changes cannot be followed: its %.1f MiB are copied "
			             "again at the cutover while writers are held (all such tables: about %.1f "
			             "s)",
			             (double)table->bytes / (1024 * 1024), seconds);
	}
	count = 0;
	for (size_t i = 0; i < catalog->rowless_count; i++) {
		const Named *table = &catalog->rowless[i];
		if (table->unlogged && within_cap(check, FINDING_INFO, "unlogged", &count))
			findings_add(check->findings, FINDING_INFO, "unlogged",
			             table_object(check, table->schema, table->name), NULL,
			             "it is unlogged: its rows are left out, as asked for");
	}
}

/* Room for locks of relations that one transaction can count on, of a server that has others. */
static void
check_room(Check *check, Sql *sql, const char *server, size_t wanted, const char *what)
{
	const char *slots = check_value(check, sql, "locks",
	                                "SELECT current_setting('max_connections')::bigint"
	                                " + current_setting('max_prepared_transactions')::bigint");
	size_t sessions = slots != NULL ? strtoull(slots, NULL, 10) : 0;
	size_t each = strtoull(check_setting(check, sql, "max_locks_per_transaction"), NULL, 10);
	size_t fit = 512;

	if (sessions == 0 || each == 0 || wanted <= each * sessions)
		return;
	while (fit * sessions < wanted)
		fit *= 2;
	findings_add(
		check->findings, FINDING_WARNING, "lock_table", server,
		check_setting_fix(check, "max_locks_per_transaction", check_text(check, "%zu", fit), true),
		"%s, and the server has room for %zu locks in all", what, each * sessions);
}

/* pg_dump locks all of them in one transaction, and so does the fence; one more makes them all on
 * the target: each with its TOAST table and that one's index. */
static void
check_lock_tables(Check *check)
{
	const Catalog *catalog = check->catalog;
	bool copied = check->options->schema_copy && !check->options->resuming;
	size_t tables = catalog->table_count + catalog->parent_count;

	if (copied || check->options->online)
		check_room(check, check->source, "source", tables * 2,
		           check_text(check, "%zu tables are locked together %s%s%s", tables,
		                      copied ? "by pg_dump" : "",
		                      copied && check->options->online ? " and " : "",
		                      check->options->online ? "at the cutover" : ""));
	if (copied)
		check_room(check, check->target, "target",
		           3 * (catalog->table_count + catalog->rowless_count) + catalog->parent_count +
		               catalog->sequence_count,
		           check_text(check,
		                      "%zu tables are created in one transaction, each with its TOAST "
		                      "table and that one's index",
		                      tables + catalog->rowless_count));
}

void
check_source_tables(Check *check)
{
	if (check->catalog == NULL)
		return;
	if (check->catalog->table_count == 0)
		findings_add(check->findings, FINDING_WARNING, "no_tables", "source", NULL,
		             "there is no table to migrate");
	check_reading(check);
	check_sequences(check);
	check_lock_tables(check);
	check_row_security(check);
	if (check->options->online || !check->options->schema_copy)
		check_target_row_security(check);
	if (!check->options->online)
		return;
	check_ownership(check);
	check_unlogged(check);
	if (!check->options->resuming)
		check_identities(check);
}
