#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "apply/schema/archive.h"
#include "apply/schema/chosen.h"
#include "apply/schema/definitions.h"
#include "apply/schema/extension_rows.h"
#include "apply/schema/schema.h"
#include "apply/schema/step.h"
#include "common/log.h"
#include "common/memory.h"
#include "protocol/replication.h"

static const char pre_data_step[] = "pre-data";

/* ---- pre-data ---- */

static bool
hint_pre_data(Error *err)
{
	if (error_has_sqlstate(err, "42P07") || error_has_sqlstate(err, "42P06") ||
	    error_has_sqlstate(err, "42710") || error_has_sqlstate(err, "42723"))
		return error_set_hint(err, "nothing on the target is overwritten: drop it there, or use"
		                           " --schema none if the schema is complete");
	if (error_has_sqlstate(err, "42501"))
		return error_set_hint(err, "the target's user may not do this; --no-owner leaves all"
		                           " objects to that user");
	return false;
}

/* "ALTER TABLE t OWNER TO us;" behind the statement that makes it changes nothing. Of thousands
 * of tables it is a tenth of the work. */
static size_t
length_without_owner(const char *sql, const char *owner)
{
	size_t len = strlen(sql);
	const char *last = script_last(sql);
	size_t end = len;
	size_t owner_len = strlen(owner);

	if (strncmp(sql, "CREATE TABLE ", 13) != 0 && strncmp(sql, "CREATE SEQUENCE ", 16) != 0)
		return len;
	while (end > 0 && strchr(" \n", sql[end - 1]) != NULL)
		end--;
	const char *to = sql + end - owner_len;
	bool ours = last != sql && (size_t)(sql + end - last) > owner_len &&
	            memcmp(to, owner, owner_len) == 0 &&
	            (strncmp(last, "ALTER TABLE ", 12) == 0 ||
	             strncmp(last, "ALTER SEQUENCE ", 15) == 0);
	return ours ? (size_t)(last - sql) : len;
}

/* " OWNER TO us;", as pg_dump quotes it (where it does otherwise the statement stays). */
static char *
our_ownership(Sql *target, Error *err)
{
	char user[160];

	if (!sql_value(target, err, user, sizeof(user), "SELECT pg_catalog.quote_ident(current_user)"))
		return NULL;
	return mem_printf(" OWNER TO %s;", user);
}

static void
put_entries(const Entries *entries, const char *owner, Buffer *sql)
{
	const char *settings = "";

	for (size_t i = 0; i < entries->count; i++) {
		const Entry *entry = &entries->items[i];
		if (strcmp(entry->settings, settings) != 0)
			buffer_put_text(sql, entry->settings);
		settings = entry->settings;
		buffer_put(sql, entry->sql, length_without_owner(entry->sql, owner));
	}
}

static bool
restore_pre_data(const SchemaWork *work, const Archive *archive, Error *err)
{
	Entries entries = {NULL, 0};
	Buffer sql = BUFFER_INIT;
	ArchiveAhead ahead;

	if (!archive_read(work, archive, "pre-data", &entries, err))
		return false;
	char *owner = our_ownership(work->target_sql, err);
	if (owner == NULL)
		return false;
	bool ok = chosen_schemas(work, &archive->tools, &sql, err);
	put_entries(&entries, owner, &sql);
	free(owner);
	if (!ok) {
		buffer_free(&sql);
		return false;
	}
	archive_ahead_begin(&ahead, work, archive);
	ok = schema_step_run(work->target_sql, work->ledger, pre_data_step, buffer_cstr(&sql), err);
	archive_ahead_end(&ahead);
	buffer_free(&sql);
	if (ok)
		log_info("schema", "%zu objects created on the target", entries.count);
	else
		hint_pre_data(err);
	return ok || error_add_context(err, "creating the schema");
}

/* All below the partitioned tables that are on the target already. */
static PGresult *
partitions_of(const SchemaWork *work, const Catalog *before, Error *err)
{
	Buffer sql = BUFFER_INIT;
	Sql *source = sql_connect(work->source, "source", "schema", work->stop, err);

	buffer_put_text(&sql, "WITH RECURSIVE below AS (SELECT i.inhrelid AS oid"
	                      " FROM pg_catalog.pg_inherits i WHERE i.inhparent = ANY ('{");
	for (size_t i = 0; i < before->parent_count; i++)
		buffer_printf(&sql, "%s%" PRIu32, i == 0 ? "" : ",", before->parents[i].oid);
	buffer_put_text(&sql, "}'::pg_catalog.oid[]) UNION SELECT i.inhrelid FROM below b"
	                      " JOIN pg_catalog.pg_inherits i ON i.inhparent = b.oid)"
	                      " SELECT n.nspname, c.relname FROM below JOIN pg_catalog.pg_class c"
	                      " ON c.oid = below.oid AND c.relispartition"
	                      " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace");
	PGresult *rows = source != NULL ? sql_query(source, err, buffer_cstr(&sql)) : NULL;
	sql_close(source);
	buffer_free(&sql);
	return rows;
}

static bool
joins_later(const Entry *entry, const PGresult *partitions)
{
	bool found = false;

	for (int i = 0; entry->kind == ENTRY_PARTITION && i < PQntuples(partitions) && !found; i++)
		found = entry_attaches(entry, sql_get(partitions, i, 0), sql_get(partitions, i, 1));
	return found;
}

/*
 * What comes below a partitioned table that is there already joins it with the rest (rest.c):
 * joined now it would get that one's indexes, and its own could not be made. A sub-partitioned
 * one's indexes are valid when they are made as long as nothing is below it. The others' steps are
 * recorded, so that the rest passes over them.
 */
static void
put_addition(const SchemaWork *work, const Entries *entries, const PGresult *partitions,
             Buffer *sql)
{
	char step[SCHEMA_STEP_SIZE];

	for (size_t i = 0; i < entries->count; i++) {
		const Entry *entry = &entries->items[i];
		if (joins_later(entry, partitions))
			continue;
		buffer_printf(sql, "%s%s", entry->settings, entry->sql);
		if (entry->kind != ENTRY_PARTITION)
			continue;
		schema_step_name(entry, step);
		ledger_step_sql(work->ledger, step, sql);
	}
}

bool
schema_addition(const SchemaWork *work, Buffer *sql, Error *err)
{
	Archive archive = {0};
	Entries entries = {NULL, 0};
	PGresult *partitions = NULL;
	bool ok = archive_open(work, true, &archive, err) &&
	          archive_read(work, &archive, "pre-data", &entries, err) &&
	          (partitions = partitions_of(work, work->before, err)) != NULL &&
	          chosen_schemas(work, &archive.tools, sql, err);

	if (ok)
		put_addition(work, &entries, partitions, sql);
	PQclear(partitions);
	/* The entries' settings were for them; what follows is ours. */
	if (ok)
		buffer_put_text(sql, "SET LOCAL search_path = ''; SET LOCAL check_function_bodies = true;");
	archive_close(&archive);
	return ok || error_add_context(err, "creating the added tables");
}

/* Before anything is changed on the source: our REPLICA IDENTITY FULL must not get into it.
 * A dump of an earlier, given up migration may lie in the directory. */
static bool
dump_with_definitions(const SchemaWork *work, Error *err)
{
	Archive archive = {0};
	Sql *source = sql_connect(work->source, "source", "schema", work->stop, err);
	bool ok = source != NULL && definitions_ask(source, work->ledger, err) &&
	          archive_open(work, true, &archive, err) &&
	          definitions_note(source, work->state_dir, err);

	archive_close(&archive);
	sql_close(source);
	return ok;
}

bool
schema_dump(const SchemaWork *work, Error *err)
{
	static const char step[] = "schema dump";
	Buffer sql = BUFFER_INIT;
	bool done = false;

	if (!ledger_step_done(work->target_sql, work->ledger, step, &done, err))
		return false;
	if (done)
		return true;
	bool ok = dump_with_definitions(work, err);
	ledger_step_sql(work->ledger, step, &sql);
	ok = ok && sql_exec(work->target_sql, err, buffer_cstr(&sql));
	buffer_free(&sql);
	return ok;
}

bool
schema_pre_data(const SchemaWork *work, Error *err)
{
	Archive archive = {0};
	bool done = false;

	if (!ledger_step_done(work->target_sql, work->ledger, pre_data_step, &done, err))
		return false;
	bool ok = done || (schema_dump(work, err) && archive_open(work, false, &archive, err) &&
	                   restore_pre_data(work, &archive, err));
	archive_close(&archive);
	return ok && extension_rows_copy(work, err);
}
