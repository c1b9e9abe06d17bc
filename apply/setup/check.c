#include "apply/setup/check.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#include "apply/ledger.h"
#include "apply/schema/schema.h"
#include "apply/setup/check_internal.h"
#include "common/memory.h"
#include "protocol/replication.h"

/* ---- findings ---- */

Findings *
findings_new(void)
{
	Findings *findings = mem_zalloc(sizeof(Findings));

	findings->arena = arena_new(0);
	return findings;
}

void
findings_free(Findings *findings)
{
	if (findings == NULL)
		return;
	arena_free(findings->arena);
	free(findings->items);
	free(findings);
}

void
findings_add(Findings *findings, Severity severity, const char *code, const char *object,
             const char *fix, const char *fmt, ...)
{
	va_list args;

	for (size_t i = 0; i < findings->count; i++) {
		if (strcmp(findings->items[i].code, code) == 0 &&
		    strcmp(findings->items[i].object, object) == 0)
			return;
	}
	if (findings->count == findings->capacity) {
		findings->capacity = findings->capacity == 0 ? 16 : findings->capacity * 2;
		findings->items = mem_realloc(findings->items, findings->capacity * sizeof(Finding));
	}
	Finding *finding = &findings->items[findings->count++];
	finding->severity = severity;
	finding->code = arena_strdup(findings->arena, code);
	finding->object = arena_strdup(findings->arena, object);
	finding->fix = fix != NULL ? arena_strdup(findings->arena, fix) : NULL;
	va_start(args, fmt);
	finding->message = arena_vprintf(findings->arena, fmt, args);
	va_end(args);
}

size_t
findings_count(const Findings *findings, Severity severity)
{
	size_t count = 0;

	for (size_t i = 0; i < findings->count; i++)
		count += findings->items[i].severity == severity;
	return count;
}

/* ---- asking ---- */

PGresult *
check_ask(Check *check, Sql *sql, const char *code, const char *query)
{
	Error err = ERROR_INIT;
	char text[2400];

	if (check->broken.class != ERROR_NONE)
		return NULL;
	PGresult *result = sql_query(sql, &err, query);
	if (result != NULL)
		return result;
	if (err.class != ERROR_SQL) {
		check->broken = err;
		return NULL;
	}
	error_format(&err, text, sizeof(text));
	findings_add(check->findings, FINDING_WARNING, "not_checked",
	             check_text(check, "%s, %s", sql_side(sql), code), NULL,
	             "this could not be checked: %s", text);
	return NULL;
}

PGresult *
check_askf(Check *check, Sql *sql, const char *code, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	const char *query = arena_vprintf(check->findings->arena, fmt, args);
	va_end(args);
	return check_ask(check, sql, code, query);
}

const char *
check_value(Check *check, Sql *sql, const char *code, const char *query)
{
	PGresult *result = check_ask(check, sql, code, query);
	const char *value = NULL;

	if (result == NULL)
		return NULL;
	if (PQntuples(result) > 0 && !PQgetisnull(result, 0, 0))
		value = arena_strdup(check->findings->arena, PQgetvalue(result, 0, 0));
	PQclear(result);
	return value;
}

const char *
check_setting(Check *check, Sql *sql, const char *name)
{
	const char *value = check_value(
		check, sql, name,
		check_text(check, "SELECT setting FROM pg_catalog.pg_settings WHERE name = '%s'", name));

	return value != NULL ? value : "";
}

const char *
check_text(Check *check, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	const char *text = arena_vprintf(check->findings->arena, fmt, args);
	va_end(args);
	return text;
}

const char *
check_quoted(Check *check, const char *name)
{
	Buffer out = BUFFER_INIT;

	sql_put_identifier(&out, name);
	const char *text = arena_strdup(check->findings->arena, buffer_cstr(&out));
	buffer_free(&out);
	return text;
}

/* Managed services keep settings outside of SQL, and logical decoding under a name of
 * their own. */
const char *
check_setting_fix(Check *check, const char *name, const char *value, bool restart)
{
	bool decoding = strcmp(name, "wal_level") == 0;
	const char *then = restart ? "restart the server" : "SELECT pg_reload_conf();";

	switch (check->provider) {
	case PROVIDER_RDS:
		return check_text(check,
		                  "set %s = %s in the instance's (Aurora: the cluster's) parameter "
		                  "group%s",
		                  decoding ? "rds.logical_replication" : name, decoding ? "1" : value,
		                  restart ? " and reboot" : "");
	case PROVIDER_CLOUD_SQL:
		return check_text(check, "set the database flag %s = %s%s",
		                  decoding ? "cloudsql.logical_decoding" : name, decoding ? "on" : value,
		                  restart ? " (the instance restarts)" : "");
	case PROVIDER_AZURE:
		return check_text(check, "set the server parameter %s = %s%s", name, value,
		                  restart ? " and restart the server" : "");
	case PROVIDER_NONE:
		break;
	}
	return check_text(check, "ALTER SYSTEM SET %s = '%s'; then %s", name, value, then);
}

/* ---- the run ---- */

static void
learn_who_we_are(Check *check)
{
	PGresult *result = check_ask(
		check, check->source, "role",
		"SELECT current_user, (SELECT rolsuper FROM pg_catalog.pg_roles"
		" WHERE rolname = current_user),"
		" (SELECT min(CASE rolname WHEN 'rds_superuser' THEN 1 WHEN 'cloudsqlsuperuser' THEN 2"
		" ELSE 3 END) FROM pg_catalog.pg_roles"
		" WHERE rolname IN ('rds_superuser', 'cloudsqlsuperuser', 'azure_pg_admin'))");

	check->user = "\"\"";
	if (result == NULL)
		return;
	check->user = check_quoted(check, PQgetvalue(result, 0, 0));
	check->superuser = sql_get_bool(result, 0, 1);
	check->provider = (Provider)sql_get_int(result, 0, 2);
	PQclear(result);
}

/* Kept when a table cannot be read, too: the catalogue is readable by everybody. */
static void
read_catalog(Check *check)
{
	Error err = ERROR_INIT;
	char text[2400];

	if (check->broken.class != ERROR_NONE)
		return;
	check->catalog = catalog_read_source(check->source, &check->options->selection,
	                                     check->options->name, &err);
	if (check->catalog != NULL)
		return;
	if (err.class != ERROR_SQL && err.class != ERROR_CONFIG) {
		check->broken = err;
		return;
	}
	error_format(&err, text, sizeof(text));
	findings_add(check->findings, FINDING_BLOCKER, "catalog", "source", NULL, "%s", text);
}

void
check_log_disk(Check *check)
{
	const char *directory = check->options->log_directory;
	struct statvfs disk;
	const double gib = 1024.0 * 1024 * 1024;

	if (directory == NULL || !check->options->online)
		return;
	if (statvfs(directory, &disk) != 0) {
		findings_add(check->findings, FINDING_WARNING, "log_disk", directory, NULL,
		             "the free space for the log cannot be read: %s", strerror(errno));
		return;
	}
	const char *size = check_value(check, check->source, "database size",
	                               "SELECT pg_catalog.pg_database_size(current_database())");
	double have = (double)disk.f_bavail * (double)disk.f_frsize / gib;
	double source = size != NULL ? strtod(size, NULL) / gib : 0;
	if (have < 10 || have < source)
		findings_add(check->findings, FINDING_WARNING, "log_disk", directory,
		             "use a --state-dir on a larger disk, or --log-max-bytes",
		             "%.1f GiB are free for the log, the source has %.1f GiB: all changes made "
		             "during the copy are kept here (when it is full, the source keeps them)",
		             have, source);
}

/* `run` is to be started where this is asked. */
static void
check_pg_dump(Check *check)
{
	Error err = ERROR_INIT;
	char dump[512], restore[512];

	if (!check->options->schema_copy || check->options->resuming ||
	    schema_find_tools(sql_server_version(check->source), dump, restore, sizeof(dump), &err))
		return;
	findings_add(check->findings, FINDING_BLOCKER, "pg_dump", "this machine", err.hint, "%s",
	             err.message);
}

bool
check_run(Sql *source, Sql *target, const ConnInfo *source_info, const CheckOptions *options,
          Findings *findings, Catalog **catalog, Error *err)
{
	static void (*const checks[])(Check *) = {
		check_both,          check_source_server,  check_target_server, check_source_traffic,
		check_source_tables, check_source_objects, check_selection,     check_target_contents,
		check_large_objects, check_defaults,       check_listener,      check_log_disk,
		check_pg_dump,       check_way_back,
	};
	Check check = {.source = source,
	               .target = target,
	               .source_info = source_info,
	               .options = options,
	               .findings = findings,
	               .broken = ERROR_INIT};

	*catalog = NULL;
	if (!ledger_name_check(options->name, err))
		return false;
	learn_who_we_are(&check);
	read_catalog(&check);
	for (size_t i = 0; i < sizeof(checks) / sizeof(checks[0]); i++) {
		if (check.broken.class == ERROR_NONE)
			checks[i](&check);
	}
	*catalog = check.catalog;
	if (check.broken.class == ERROR_NONE)
		return true;
	if (err != NULL)
		*err = check.broken;
	catalog_free(check.catalog);
	*catalog = NULL;
	return false;
}
