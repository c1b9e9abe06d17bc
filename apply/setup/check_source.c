/* The source as a server: version, settings, slots, rights, transactions. */
#include <stdlib.h>
#include <string.h>

#include "apply/setup/check_internal.h"
#include "apply/setup/source.h"
#include "protocol/replication.h"
#include "protocol/wire.h"

enum { OLDEST_SOURCE = 120000 };

static const char *
version_text(Check *check, Sql *sql)
{
	int version = sql_server_version(sql);

	return check_text(check, "%d.%d", version / 10000, version % 10000);
}

/* Changes made while a publication was altered could be decoded with an old catalogue
 * and lost; fixed in the minor releases of May 2025. */
static void
check_version(Check *check)
{
	static const int fixed[] = {130021, 140018, 150013, 160009, 170005};
	int version = sql_server_version(check->source);
	bool old = version < 130000;

	if (version < OLDEST_SOURCE) {
		findings_add(check->findings, FINDING_BLOCKER, "source_version", "source",
		             "upgrade the source to 12 or newer first",
		             "the source is PostgreSQL %s; 12 is the oldest that works",
		             version_text(check, check->source));
		return;
	}
	for (size_t i = 0; i < sizeof(fixed) / sizeof(fixed[0]); i++)
		old = old || (version / 10000 == fixed[i] / 10000 && version < fixed[i]);
	if (old && check->options->online)
		findings_add(check->findings, FINDING_WARNING, "source_minor", "source",
		             version < 130000 ? NULL : "install the newest minor release of the source",
		             "PostgreSQL %s lacks the fix of May 2025 for changes lost in logical "
		             "decoding beside DDL: run no DDL while it is migrated",
		             version_text(check, check->source));
}

static void
check_settings(Check *check)
{
	Findings *f = check->findings;
	const char *level = check_setting(check, check->source, "wal_level");
	const char *keep = check_setting(check, check->source, "max_slot_wal_keep_size");
	const char *idle = check_setting(check, check->source, "idle_replication_slot_timeout");
	long timeout = strtol(check_setting(check, check->source, "wal_sender_timeout"), NULL, 10);

	if (*level != '\0' && strcmp(level, "logical") != 0)
		findings_add(f, FINDING_BLOCKER, "wal_level", "source",
		             check_setting_fix(check, "wal_level", "logical", true),
		             "wal_level is %s; logical decoding needs logical", level);
	if (*keep != '\0' && strcmp(keep, "-1") != 0)
		findings_add(f, FINDING_WARNING, "max_slot_wal_keep_size", "source",
		             check_setting_fix(check, "max_slot_wal_keep_size", "-1", false),
		             "max_slot_wal_keep_size is %s MB: when the slot is further behind, the server "
		             "invalidates it and the migration has to start again",
		             keep);
	if (*idle != '\0' && strcmp(idle, "0") != 0)
		findings_add(f, FINDING_WARNING, "idle_replication_slot_timeout", "source",
		             check_setting_fix(check, "idle_replication_slot_timeout", "0", false),
		             "a slot that nobody reads for %s s is invalidated by the server: after a "
		             "pause that long the migration has to start again",
		             idle);
	if (timeout > 0 && timeout < 10000)
		findings_add(f, FINDING_INFO, "wal_sender_timeout", "source", NULL,
		             "wal_sender_timeout is only %ld ms; a pause of this process that long costs a "
		             "reconnect",
		             timeout);
}

static void
check_room(Check *check)
{
	PGresult *rows = check_ask(check, check->source, "slots",
	                           "SELECT current_setting('max_replication_slots')::int,"
	                           " (SELECT count(*) FROM pg_catalog.pg_replication_slots),"
	                           " current_setting('max_wal_senders')::int,"
	                           " (SELECT count(*) FROM pg_catalog.pg_stat_replication)");

	if (rows == NULL)
		return;
	int64_t slots = sql_get_int(rows, 0, 0);
	int64_t slots_used = sql_get_int(rows, 0, 1);
	int64_t senders = sql_get_int(rows, 0, 2);
	int64_t senders_used = sql_get_int(rows, 0, 3);
	PQclear(rows);
	if (slots_used >= slots && !check->options->resuming)
		findings_add(check->findings, FINDING_BLOCKER, "replication_slots", "source",
		             check_setting_fix(check, "max_replication_slots",
		                               check_text(check, "%lld", (long long)slots_used + 4), true),
		             "all %lld replication slots are in use (max_replication_slots)",
		             (long long)slots);
	if (senders_used >= senders)
		findings_add(check->findings, FINDING_BLOCKER, "wal_senders", "source",
		             check_setting_fix(check, "max_wal_senders",
		                               check_text(check, "%lld", (long long)senders_used + 4),
		                               true),
		             "all %lld WAL senders are in use (max_wal_senders)", (long long)senders);
}

static const char *
replication_fix(Check *check, const Error *err)
{
	switch (check->provider) {
	case PROVIDER_RDS:
		return check_text(check, "GRANT rds_replication TO %s;", check->user);
	case PROVIDER_NONE:
	case PROVIDER_CLOUD_SQL:
	case PROVIDER_AZURE:
		break;
	}
	if (error_has_sqlstate(err, "28000") && strstr(err->message, "pg_hba") != NULL)
		return "let the role in by a line of pg_hba.conf that names the database (not the "
			   "keyword replication), then SELECT pg_reload_conf();";
	return check_text(check, "ALTER ROLE %s REPLICATION;", check->user);
}

/* Services grant it by roles that pg_roles does not tell: the only answer is to try. */
static void
check_replication_connection(Check *check)
{
	Error err = ERROR_INIT;
	SystemIdentity identity;
	WireOptions options = {
		.info = check->source_info, .application_name = "pgbaton check", .replication = true};
	char text[2400];

	Wire *wire = wire_connect(&options, &err);
	bool ok = wire != NULL && replication_identify(wire, &identity, &err);
	wire_close(wire);
	if (ok)
		return;
	error_format(&err, text, sizeof(text));
	findings_add(check->findings, FINDING_BLOCKER, "replication", "source",
	             replication_fix(check, &err),
	             "a replication connection to the source is refused: %s", text);
}

static void
check_recovery(Check *check)
{
	const char *standby = check_value(check, check->source, "recovery",
	                                  "SELECT pg_catalog.pg_is_in_recovery()");

	if (standby != NULL && *standby == 't')
		findings_add(check->findings, FINDING_BLOCKER, "source_standby", "source",
		             "use the primary's connection string as --source",
		             "the source is a standby; only a primary can be migrated");
}

static void
check_create_right(Check *check)
{
	const char *database = check_value(
		check, check->source, "rights",
		"SELECT current_database() WHERE NOT"
		" pg_catalog.has_database_privilege(current_database(), 'CREATE')");

	if (database != NULL)
		findings_add(check->findings, FINDING_BLOCKER, "publication_rights", "source",
		             check_text(check, "GRANT CREATE ON DATABASE %s TO %s;",
		                        check_quoted(check, database), check->user),
		             "%s may not create a publication and a schema in database %s", check->user,
		             database);
}

void
check_source_server(Check *check)
{
	check_version(check);
	check_recovery(check);
	if (!check->options->online)
		return;
	check_settings(check);
	check_room(check);
	check_replication_connection(check);
	check_create_right(check);
}

/* ---- traffic ---- */

/* One that is ended in the next second is as harmless as any transaction; in an application that
 * uses two-phase commit there may always be such. */
static void
check_prepared(Check *check)
{
	const char *begun = check_value(check, check->source, "prepared transactions",
	                                "SELECT max(prepared) FROM pg_catalog.pg_prepared_xacts");
	if (begun == NULL || *begun == '\0')
		return;
	(void)!stop_sleep_ms(NULL, 1000, NULL);
	PGresult *rows = check_askf(
		check, check->source, "prepared transactions",
		"SELECT gid, quote_literal(gid), database, owner,"
		" floor(extract(epoch FROM now() - prepared))::bigint FROM pg_catalog.pg_prepared_xacts"
		" WHERE prepared <= '%s' ORDER BY prepared LIMIT 50",
		begun);

	for (int i = 0; rows != NULL && i < PQntuples(rows); i++)
		findings_add(
			check->findings, FINDING_BLOCKER, "prepared_transaction", PQgetvalue(rows, i, 0),
			check_text(check, "in database %s: COMMIT PREPARED %s; or ROLLBACK PREPARED %s;",
		               PQgetvalue(rows, i, 2), PQgetvalue(rows, i, 1), PQgetvalue(rows, i, 1)),
			"a prepared transaction of %s in database %s, %s s old: the slot cannot be "
			"made until it ends",
			PQgetvalue(rows, i, 3), PQgetvalue(rows, i, 2), PQgetvalue(rows, i, 4));
	PQclear(rows);
}

static void
check_long_transactions(Check *check)
{
	PGresult *rows = check_ask(
		check, check->source, "transactions",
		"SELECT pid, coalesce(usename, ''), coalesce(datname, ''), coalesce(application_name, ''),"
		" floor(extract(epoch FROM now() - xact_start))::bigint, coalesce(state, '')"
		" FROM pg_catalog.pg_stat_activity WHERE backend_xid IS NOT NULL"
		" AND xact_start < now() - interval '1 minute' ORDER BY xact_start LIMIT 50");

	for (int i = 0; rows != NULL && i < PQntuples(rows); i++)
		findings_add(
			check->findings, FINDING_WARNING, "long_transaction",
			check_text(check, "pid %s", PQgetvalue(rows, i, 0)),
			check_text(check, "SELECT pg_terminate_backend(%s);", PQgetvalue(rows, i, 0)),
			"%s (\"%s\", database %s) has been in a writing transaction for %s s (%s): the "
			"slot cannot be made until it ends",
			PQgetvalue(rows, i, 1), PQgetvalue(rows, i, 3), PQgetvalue(rows, i, 2),
			PQgetvalue(rows, i, 4), PQgetvalue(rows, i, 5));
	PQclear(rows);
}

/* Nothing to mend: who has to be told where the database will be. */
static void
check_sessions(Check *check)
{
	SessionGroups *found = arena_new_array(check->findings->arena, SessionGroups, 1);
	Error err = ERROR_INIT;
	char text[256];

	if (!source_sessions(check->source, check->options->ours, found, &err)) {
		if (err.class != ERROR_SQL)
			check->broken = err;
		return;
	}
	for (size_t i = 0; i < found->count; i++) {
		source_sessions_describe(&found->groups[i], text, sizeof(text));
		findings_add(check->findings, FINDING_INFO, "sessions",
		             check_text(check, "source, user %s, application \"%s\", from %s",
		                        found->groups[i].user, found->groups[i].application,
		                        found->groups[i].address),
		             NULL,
		             "connected sessions: %s; at the switch they wait for it, and their writes are "
		             "refused (25006) after it until they connect to the target",
		             text);
	}
}

/* Slots are of the whole server: one of another database may be that of a migration beside
 * ours, and must not be proposed for removal.
 *
 * What has our name although no ledger knows of it: of a migration whose target is gone,
 * or of somebody else. Neither is touched. */
static void
check_leftovers(Check *check)
{
	const char *name = check->options->name;
	PGresult *rows = check_askf(
		check, check->source, "leftovers",
		"SELECT 'replication slot', CASE WHEN active OR database IS DISTINCT FROM"
		" current_database() THEN format('choose another --name: it is of database %%s%%s', database,"
		" CASE WHEN active THEN ', and in use' END)"
		" ELSE format('SELECT pg_drop_replication_slot(%%L);', slot_name) END"
		" FROM pg_catalog.pg_replication_slots WHERE slot_name = '%s'"
		" UNION ALL SELECT 'publication', format('DROP PUBLICATION %%I;', pubname)"
		" FROM pg_catalog.pg_publication WHERE pubname IN ('%s', '%s_insert_only')"
		" UNION ALL SELECT 'schema', CASE WHEN obj_description(oid, 'pg_namespace')"
		" LIKE 'pgbaton migration%%' THEN format('DROP SCHEMA %%I CASCADE;', nspname)"
		" ELSE 'choose another --name' END"
		" FROM pg_catalog.pg_namespace WHERE nspname IN ('%s', '%s_back')",
		name, name, name, name, name);

	for (int i = 0; rows != NULL && i < PQntuples(rows); i++)
		findings_add(check->findings, FINDING_BLOCKER, "name_taken",
		             check_text(check, "source, %s %s", PQgetvalue(rows, i, 0), name),
		             PQgetvalue(rows, i, 1),
		             "the source has a %s called %s, but no migration of that name is known on the "
		             "target",
		             PQgetvalue(rows, i, 0), name);
	PQclear(rows);
}

void
check_source_traffic(Check *check)
{
	if (!check->options->online)
		return;
	check_sessions(check);
	if (check->options->resuming)
		return;
	check_prepared(check);
	check_long_transactions(check);
	check_leftovers(check);
}
