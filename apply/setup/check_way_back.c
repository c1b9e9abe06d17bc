/* What --failback asks for besides: the target as a source, the source as a target (K5). */
#include <stdlib.h>
#include <string.h>

#include "apply/ledger.h"
#include "apply/setup/check_internal.h"

static void
check_name(Check *check)
{
	if (strlen(check->options->name) > LEDGER_BACK_NAME_MAX)
		findings_add(check->findings, FINDING_BLOCKER, "way_back_name", "migration", NULL,
		             "with --failback the name has at most %d characters", LEDGER_BACK_NAME_MAX);
}

/* wal_level, slots, senders: as of a source. */
static void
check_target_settings(Check *check)
{
	PGresult *rows = check_ask(check, check->target, "way back",
	                           "SELECT current_setting('wal_level'),"
	                           " current_setting('max_replication_slots')::int,"
	                           " (SELECT count(*) FROM pg_catalog.pg_replication_slots),"
	                           " current_setting('max_wal_senders')::int,"
	                           " (SELECT count(*) FROM pg_catalog.pg_stat_replication),"
	                           " (SELECT rolsuper OR rolreplication FROM pg_catalog.pg_roles"
	                           " WHERE rolname = current_user)");

	if (rows == NULL)
		return;
	if (strcmp(PQgetvalue(rows, 0, 0), "logical") != 0)
		findings_add(check->findings, FINDING_BLOCKER, "way_back_wal_level", "target",
		             "ALTER SYSTEM SET wal_level = logical; restart the target",
		             "wal_level is %s; --failback needs logical on the target, too",
		             PQgetvalue(rows, 0, 0));
	if (sql_get_int(rows, 0, 2) >= sql_get_int(rows, 0, 1))
		findings_add(check->findings, FINDING_BLOCKER, "way_back_slots", "target",
		             "ALTER SYSTEM SET max_replication_slots = ...; restart the target",
		             "all replication slots of the target are in use; the way back needs one");
	if (sql_get_int(rows, 0, 4) >= sql_get_int(rows, 0, 3))
		findings_add(check->findings, FINDING_BLOCKER, "way_back_senders", "target",
		             "ALTER SYSTEM SET max_wal_senders = ...; restart the target",
		             "all WAL senders of the target are in use; the way back needs one");
	/* A service may grant it by a role of its own, so this is no blocker. */
	if (!sql_get_bool(rows, 0, 5))
		findings_add(
			check->findings, FINDING_WARNING, "way_back_replication", "target",
			check_text(check, "ALTER ROLE %s REPLICATION;",
		               check_quoted(check, PQuser(sql_pgconn(check->target)))),
			"the user of the target has not the attribute REPLICATION: the slot of the way "
			"back, and with it the cutover, may be refused");
	PQclear(rows);
}

/* C4, by trying: the lanes of the way back work on the source. */
static void
check_source_role(Check *check)
{
	Error err = ERROR_INIT;

	if (sql_exec(check->source, &err,
	             "BEGIN; SET LOCAL session_replication_role = 'replica'; ROLLBACK"))
		return;
	if (err.class != ERROR_SQL) {
		check->broken = err;
		return;
	}
	(void)!sql_exec(check->source, NULL, "ROLLBACK");
	findings_add(check->findings, FINDING_BLOCKER, "way_back_role", "source",
	             sql_server_version(check->source) >= 150000
	                 ? check_text(check, "GRANT SET ON PARAMETER session_replication_role TO %s;",
	                              check->user)
	                 : "before PostgreSQL 15 a superuser has to be used as --source",
	             "%s may not set session_replication_role on the source, which applying changes "
	             "there after the cutover needs: %s",
	             check->user, err.message);
}

/* Their rows are copied again at the cutover, and at no failback. */
static void
check_unlogged_back(Check *check)
{
	if (check->catalog != NULL && check->catalog->unlogged_tables > 0)
		findings_add(check->findings, FINDING_WARNING, "way_back_unlogged", "migration",
		             "ALTER TABLE ... SET LOGGED, or --unlogged skip",
		             "the way back does not carry unlogged tables: after a failback the rows of "
		             "%llu of them are those of the cutover",
		             (unsigned long long)check->catalog->unlogged_tables);
}

/* After the switch they are tables that the old source does not have. */
static void
check_target_only(Check *check)
{
	const CheckOptions *options = check->options;
	Selection selection = options->selection;
	Error err = ERROR_INIT;
	int count = 0;

	if (check->catalog == NULL)
		return;
	selection.recorded = true; /* a pattern may match nothing there */
	Catalog *theirs = catalog_read_source(check->target, &selection, options->name, &err);
	if (theirs == NULL && err.class != ERROR_SQL && err.class != ERROR_CONFIG)
		check->broken = err;
	for (size_t i = 0; theirs != NULL && i < theirs->table_count && count < CHECK_CAP; i++) {
		const Table *table = &theirs->tables[i];
		if (catalog_find(check->catalog, table->schema, table->name) != NULL)
			continue;
		count++;
		findings_add(check->findings, FINDING_WARNING, "way_back_table",
		             check_text(check, "target, table %s.%s", table->schema, table->name),
		             check_text(check,
		                        "drop it, or for a failback start pgbaton again after the switch"
		                        " with --exclude-table %s.%s",
		                        table->schema, table->name),
		             "only the target has it, and a failback is refused while it counts among the"
		             " tables that are moved");
	}
	catalog_free(theirs);
}

void
check_way_back(Check *check)
{
	if (!check->options->failback || !check->options->online)
		return;
	check_name(check);
	check_target_settings(check);
	if (check->broken.class == ERROR_NONE)
		check_source_role(check);
	check_unlogged_back(check);
	if (check->broken.class == ERROR_NONE)
		check_target_only(check);
}
