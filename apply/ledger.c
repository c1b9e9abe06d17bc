#include "apply/ledger.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/map.h"
#include "common/memory.h"
#include "protocol/replication.h"

/* How a schema is known to be ours; the number grows with the tables' form. */
#define OUR_KIND "pgbaton migration, format "
#define OUR_MARK OUR_KIND "8"

enum { NAME_MAX_LENGTH = 41 };

/* Names become identifiers, file names and metric labels, and NAME_insert_only
 * has to fit in 63 bytes. pg_ is the server's own. */
bool
ledger_name_check(const char *name, Error *err)
{
	size_t len = strlen(name);
	bool ok = len >= 1 && len <= NAME_MAX_LENGTH && name[0] >= 'a' && name[0] <= 'z' &&
	          strncmp(name, "pg_", 3) != 0;

	for (size_t i = 0; ok && i < len; i++)
		ok = (name[i] >= 'a' && name[i] <= 'z') || (name[i] >= '0' && name[i] <= '9') ||
		     name[i] == '_';
	if (ok)
		return true;
	error_set(err, ERROR_CONFIG, "\"%s\" cannot be the name of a migration", name);
	return error_set_hint(err, "use a letter, then at most 40 of a-z, 0-9 and _ "
	                           "(not starting with pg_)");
}

static void
put_schema(const char *name, char out[136])
{
	Buffer quoted = BUFFER_INIT;

	sql_put_identifier(&quoted, name);
	snprintf(out, 136, "%s", buffer_cstr(&quoted));
	buffer_free(&quoted);
}

/* ---- one process at a time ---- */

static bool
describe_holder(Sql *target, const char *name, uint64_t key, Error *err)
{
	PGresult *result = sql_queryf(
		target, err,
		"SELECT l.pid, coalesce(pg_catalog.host(a.client_addr), 'local'),"
		" coalesce(a.application_name, ''), coalesce(a.usename, '')"
		" FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid"
		" WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1"
		" AND l.classid = %" PRIu32 " AND l.objid = %" PRIu32
		" AND l.database = (SELECT oid FROM pg_catalog.pg_database"
		" WHERE datname = current_database())",
		(uint32_t)(key >> 32), (uint32_t)key);

	if (result == NULL)
		return false;
	if (PQntuples(result) == 0)
		error_set(err, ERROR_CONFIG, "another process worked on migration \"%s\" just now", name);
	else
		error_set(err, ERROR_CONFIG,
		          "another process works on migration \"%s\": server process %s, \"%s\" as "
		          "%s from %s",
		          name, PQgetvalue(result, 0, 0), PQgetvalue(result, 0, 2),
		          PQgetvalue(result, 0, 3), PQgetvalue(result, 0, 1));
	PQclear(result);
	return error_set_hint(err, "stop that one first, or choose another --name");
}

/* A killed process's server has to notice that it is gone, which on a busy machine a start right after
 * it may be ahead of. */
static bool
wait_for_lock(Sql *target, int64_t key, Error *err)
{
	enum { PATIENCE_MS = 3000 };

	if (sql_execf(target, err,
	              "BEGIN; SET LOCAL lock_timeout = %d;"
	              "SELECT pg_catalog.pg_advisory_lock(%" PRId64 "); COMMIT",
	              PATIENCE_MS, key))
		return true;
	(void)!sql_exec(target, NULL, "ROLLBACK");
	return false;
}

bool
ledger_lock(Sql *target, const char *name, Error *err)
{
	char text[80];
	char got[8];

	if (!ledger_name_check(name, err))
		return false;
	int len = snprintf(text, sizeof(text), "pgbaton/%s", name);
	uint64_t key = hash_bytes(slice_of(text, (size_t)len), 0);
	snprintf(text, sizeof(text), "SELECT pg_catalog.pg_try_advisory_lock(%" PRId64 ")",
	         (int64_t)key);
	/* The smallest number has no literal of its own type in SQL. */
	if ((int64_t)key == INT64_MIN)
		return error_set(err, ERROR_CONFIG, "\"%s\" cannot be locked: choose another --name", name);
	if (!sql_value(target, err, got, sizeof(got), text))
		return false;
	if (got[0] == 't' || wait_for_lock(target, (int64_t)key, err))
		return true;
	if (!error_has_sqlstate(err, "55P03"))
		return false;
	error_clear(err);
	return describe_holder(target, name, key, err);
}

/* ---- the schema ---- */

bool
ledger_exists(Sql *target, const char *name, bool *exists, Error *err)
{
	const char *values[] = {name};

	*exists = false;
	if (!ledger_name_check(name, err))
		return false;
	PGresult *result = sql_query_params(
		target, err,
		"SELECT coalesce(pg_catalog.obj_description(oid, 'pg_namespace'), '')"
		" FROM pg_catalog.pg_namespace WHERE nspname = $1",
		1, values);
	if (result == NULL)
		return false;
	bool there = PQntuples(result) == 1;
	const char *mark = there ? PQgetvalue(result, 0, 0) : OUR_MARK;
	bool ok = strcmp(mark, OUR_MARK) == 0;
	if (!ok && strncmp(mark, OUR_KIND, strlen(OUR_KIND)) == 0) {
		error_set(err, ERROR_CONFIG,
		          "migration \"%s\" was begun by another version of pgbaton (its ledger has format "
		          "%.8s, this version's format %s)",
		          name, mark + strlen(OUR_KIND), &OUR_MARK[strlen(OUR_KIND)]);
		error_set_hint(err, "go on with that version, or cancel with it and begin again; another "
		                    "--name begins another migration");
	} else if (!ok) {
		error_set(err, ERROR_CONFIG, "the target has a schema \"%s\" that pgbaton did not make",
		          name);
		error_set_hint(err, "choose another --name");
	}
	PQclear(result);
	*exists = there;
	return ok;
}

/* The progress rows are the hottest of the target: room on their page keeps
 * the updates heap-only. */
static void
put_tables_sql(const char *schema, Buffer *sql)
{
	buffer_printf(
		sql,
		"CREATE SCHEMA %s; COMMENT ON SCHEMA %s IS '" OUR_MARK "';"
		"CREATE TABLE %s.migration (one boolean PRIMARY KEY DEFAULT true CHECK (one),"
		" id text NOT NULL, system_id text NOT NULL, source_db text NOT NULL,"
		" mode text NOT NULL, lanes integer NOT NULL CHECK (lanes > 0), state text NOT NULL,"
		" start_lsn pg_lsn, confirmed_lsn pg_lsn, source_timeline bigint, selection text,"
		" journal text NOT NULL DEFAULT 'none'"
		" CHECK (journal IN ('none', 'switching', 'switched')),"
		" apart text CHECK (apart IN ('add', 'recopy')), aparts integer NOT NULL DEFAULT 0,"
		" apart_lsn pg_lsn, apart_try bigint NOT NULL DEFAULT 0,"
		" created timestamptz NOT NULL DEFAULT now(),"
		" changed timestamptz NOT NULL DEFAULT now());"
		"CREATE TABLE %s.relation (schema_name text, table_name text,"
		" state text NOT NULL CHECK (state IN ('queued', 'copying', 'copied')), attempt bigint,"
		" apart boolean NOT NULL DEFAULT false, level_lsn pg_lsn,"
		" source_oid oid, target_oid oid, snapshot text, snapshot_lsn pg_lsn, copied_rows bigint NOT NULL DEFAULT 0,"
		" copied_bytes bigint NOT NULL DEFAULT 0, stamp jsonb, PRIMARY KEY (schema_name, table_name));",
		schema, schema, schema, schema);
	buffer_printf(sql,
	              "CREATE TABLE %s.progress (lane integer PRIMARY KEY, commit_lsn pg_lsn NOT NULL,"
	              " position bigint NOT NULL) WITH (fillfactor = 20);"
	              "CREATE TABLE %s.object (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
	              " side text NOT NULL, kind text NOT NULL, what text NOT NULL, undo text NOT NULL,"
	              " found boolean NOT NULL,"
	              " made timestamptz NOT NULL DEFAULT now(), UNIQUE (side, kind, what));"
	              "CREATE TABLE %s.post_data (step text PRIMARY KEY,"
	              " done timestamptz NOT NULL DEFAULT now());",
	              schema, schema, schema);
}

bool
ledger_create(Sql *target, Ledger *ledger, Error *err)
{
	Buffer sql = BUFFER_INIT;

	if (!ledger_name_check(ledger->name, err))
		return false;
	put_schema(ledger->name, ledger->schema);
	if (ledger->id[0] == '\0' &&
	    !sql_value(target, err, ledger->id, sizeof(ledger->id), "SELECT gen_random_uuid()"))
		return false;

	buffer_put_text(&sql, "BEGIN;");
	put_tables_sql(ledger->schema, &sql);
	buffer_printf(&sql,
	              "INSERT INTO %s.migration (id, system_id, source_db, mode, lanes, state)"
	              " VALUES (",
	              ledger->schema);
	sql_put_literal(&sql, ledger->id);
	buffer_put_text(&sql, ", ");
	sql_put_literal(&sql, ledger->system_id);
	buffer_put_text(&sql, ", ");
	sql_put_literal(&sql, ledger->source_db);
	buffer_put_text(&sql, ", ");
	sql_put_literal(&sql, ledger->mode);
	buffer_printf(&sql, ", %d, 'preparing'); COMMIT;", ledger->lanes);
	bool ok = sql_exec(target, err, buffer_cstr(&sql));
	buffer_free(&sql);
	if (!ok) {
		/* On an error inside the string the session is left in a failed transaction. */
		(void)!sql_exec(target, NULL, "ROLLBACK");
		return error_add_context(err, "creating schema %s", ledger->schema);
	}
	return true;
}

bool
ledger_load(Sql *target, const char *name, Ledger *out, Error *err)
{
	bool exists;

	if (!ledger_exists(target, name, &exists, err))
		return false;
	if (!exists)
		return error_set(err, ERROR_CONFIG, "there is no migration \"%s\" on the target", name);
	memset(out, 0, sizeof(*out));
	snprintf(out->name, sizeof(out->name), "%s", name);
	put_schema(name, out->schema);

	PGresult *result = sql_queryf(
		target, err, "SELECT id, system_id, source_db, mode, lanes FROM %s.migration", out->schema);
	if (result == NULL)
		return false;
	bool ok = PQntuples(result) == 1;
	if (ok) {
		snprintf(out->id, sizeof(out->id), "%s", PQgetvalue(result, 0, 0));
		snprintf(out->system_id, sizeof(out->system_id), "%s", PQgetvalue(result, 0, 1));
		snprintf(out->source_db, sizeof(out->source_db), "%s", PQgetvalue(result, 0, 2));
		snprintf(out->mode, sizeof(out->mode), "%s", PQgetvalue(result, 0, 3));
		out->lanes = (int)sql_get_int(result, 0, 4);
	} else {
		error_set(err, ERROR_CONFIG, "table %s.migration on the target has no row", out->schema);
	}
	PQclear(result);
	return ok;
}

bool
ledger_drop(Sql *target, const char *name, Error *err)
{
	bool exists;
	char schema[136];

	/* Never drop a schema that is not ours. */
	if (!ledger_exists(target, name, &exists, err))
		return false;
	put_schema(name, schema);
	return !exists || sql_execf(target, err, "DROP SCHEMA %s CASCADE", schema);
}

/* ---- the migration's row ---- */

/* SET column = $1::type on the one row. */
static bool
migration_set(Sql *target, const Ledger *ledger, const char *column, const char *type,
              const char *value, Error *err)
{
	const char *values[] = {value};
	char *text = mem_printf("UPDATE %s.migration SET %s = $1::%s, changed = now()", ledger->schema,
	                        column, type);
	PGresult *result = sql_query_params(target, err, text, 1, values);

	free(text);
	if (result == NULL)
		return false;
	bool one = strcmp(PQcmdTuples(result), "1") == 0;
	PQclear(result);
	return one || error_set(err, ERROR_CONFIG, "table %s.migration on the target has no row",
	                        ledger->schema);
}

static bool
migration_get(Sql *target, const Ledger *ledger, const char *column, char *out, size_t size,
              Error *err)
{
	char *text = mem_printf("SELECT %s FROM %s.migration", column, ledger->schema);
	bool ok = sql_value(target, err, out, size, text);

	free(text);
	return ok;
}

bool
ledger_set_state(Sql *target, const Ledger *ledger, const char *state, Error *err)
{
	return migration_set(target, ledger, "state", "text", state, err);
}

bool
ledger_no_timeline(const char *side, Error *err)
{
	if (error_has_sqlstate(err, "55000"))
		return error_set(err, ERROR_NETWORK,
		                 "the %s is a standby: waiting until it is promoted, or the address "
		                 "leads to the primary",
		                 side);
	if (err->class != ERROR_SQL || strncmp(err->sqlstate, "57", 2) == 0)
		return false;
	log_debug("ledger", "the %s's timeline is not known: %s", side, err->message);
	error_clear(err);
	return true;
}

bool
ledger_read_timeline(Sql *server, uint32_t *out, Error *err)
{
	char text[16];

	*out = 0;
	if (!sql_value(server, err, text, sizeof(text), LEDGER_TIMELINE_SQL))
		return ledger_no_timeline("target", err);
	*out = (uint32_t)strtoul(text, NULL, 10);
	return true;
}

bool
ledger_same_timeline(const Ledger *ledger, uint32_t now, Error *err)
{
	uint32_t wanted = ledger->timeline != NULL ? atomic_load(ledger->timeline) : 0;

	return wanted == 0 || now == 0 || now == wanted ||
	       error_set(err, ERROR_NETWORK,
	                 "the target is on timeline %u, not %u: another server has taken its place",
	                 now, wanted);
}

bool
ledger_get_state(Sql *target, const Ledger *ledger, char out[32], Error *err)
{
	return migration_get(target, ledger, "state", out, 32, err);
}

bool
ledger_set_start(Sql *target, const Ledger *ledger, Lsn start, Error *err)
{
	return migration_set(target, ledger, "start_lsn", "pg_lsn", LSN_STR(start), err);
}

bool
ledger_get_start(Sql *target, const Ledger *ledger, Lsn *start, Error *err)
{
	char text[LSN_TEXT_SIZE];

	if (!migration_get(target, ledger, "start_lsn", text, sizeof(text), err))
		return false;
	if (!lsn_parse(text, start))
		*start = LSN_INVALID; /* not set yet */
	return true;
}

bool
ledger_note_confirmed(Sql *target, const Ledger *ledger, uint32_t timeline, Lsn confirmed,
                      Error *err)
{
	return sql_execf(target, err,
	                 "BEGIN; SET LOCAL synchronous_commit = on;"
	                 "UPDATE %s.migration SET confirmed_lsn = '%s', source_timeline = %" PRIu32
	                 "; COMMIT",
	                 ledger->schema, LSN_STR(confirmed), timeline);
}

bool
ledger_get_confirmed(Sql *target, const Ledger *ledger, uint32_t *timeline, Lsn *confirmed,
                     Lsn *applied, Error *err)
{
	PGresult *row = sql_queryf(
		target, err,
		"SELECT coalesce(source_timeline, 0), coalesce(confirmed_lsn, '0/0'),"
		" coalesce((SELECT commit_lsn FROM %s.progress"
		" ORDER BY commit_lsn DESC NULLS LAST LIMIT 1), '0/0')"
		" FROM %s.migration",
		ledger->schema, ledger->schema);

	if (row == NULL)
		return false;
	bool ok = PQntuples(row) == 1;
	if (ok) {
		*timeline = (uint32_t)sql_get_int(row, 0, 0);
		*confirmed = sql_get_lsn(row, 0, 1);
		*applied = sql_get_lsn(row, 0, 2);
	} else {
		error_set(err, ERROR_CONFIG, "table %s.migration on the target has no row", ledger->schema);
	}
	PQclear(row);
	return ok;
}

bool
ledger_keep_selection(Sql *target, const Ledger *ledger, const Selection *selection, Error *err)
{
	Buffer is = BUFFER_INIT;
	Buffer difference = BUFFER_INIT;
	PGresult *row = sql_queryf(target, err, "SELECT selection FROM %s.migration", ledger->schema);

	if (row == NULL)
		return false;
	const char *was = PQntuples(row) == 1 ? sql_get(row, 0, 0) : NULL;
	selection_describe(selection, &is);
	bool ok = true;
	if (was == NULL)
		ok = migration_set(target, ledger, "selection", "text", buffer_cstr(&is), err);
	else
		selection_difference(was, buffer_cstr(&is), &difference);
	if (difference.len > 0) {
		ok = error_set(
			err, ERROR_CONFIG,
			"migration \"%s\" was begun with another selection of tables; this one is %s",
			ledger->name, buffer_cstr(&difference));
		error_set_hint(err, "go on with the selection it was begun with, or run `pgbaton cancel`");
	}
	PQclear(row);
	buffer_free(&is);
	buffer_free(&difference);
	return ok;
}

static const char *const journal_names[] = {
	[JOURNAL_NONE] = "none",
	[JOURNAL_SWITCHING] = "switching",
	[JOURNAL_SWITCHED] = "switched",
};

bool
ledger_journal(Sql *target, const Ledger *ledger, Journal *out, Error *err)
{
	char text[32];

	if (!migration_get(target, ledger, "journal", text, sizeof(text), err))
		return false;
	for (int i = JOURNAL_NONE; i <= JOURNAL_SWITCHED; i++) {
		if (strcmp(text, journal_names[i]) == 0) {
			*out = (Journal)i;
			return true;
		}
	}
	return error_set(err, ERROR_CONFIG, "unknown journal \"%s\" in %s.migration", text,
	                 ledger->schema);
}

void
ledger_journal_sql(const Ledger *ledger, Journal journal, Buffer *sql)
{
	buffer_printf(sql, "UPDATE %s.migration SET journal = '%s', changed = now();", ledger->schema,
	              journal_names[journal]);
}

/* ---- steps ---- */

bool
ledger_step_done(Sql *target, const Ledger *ledger, const char *step, bool *done, Error *err)
{
	const char *values[] = {step};
	char *text = mem_printf("SELECT 1 FROM %s.post_data WHERE step = $1", ledger->schema);
	PGresult *result = sql_query_params(target, err, text, 1, values);

	free(text);
	if (result == NULL)
		return false;
	*done = PQntuples(result) > 0;
	PQclear(result);
	return true;
}

Map *
ledger_steps(Sql *target, const Ledger *ledger, Arena *arena, Error *err)
{
	PGresult *result = sql_queryf(target, err, "SELECT step FROM %s.post_data", ledger->schema);

	if (result == NULL)
		return NULL;
	Map *steps = map_new((size_t)PQntuples(result));
	for (int i = 0; i < PQntuples(result); i++) {
		char *step = arena_strdup(arena, PQgetvalue(result, i, 0));
		map_put(steps, slice_of(step, strlen(step)), step);
	}
	PQclear(result);
	return steps;
}

void
ledger_steps_add(const char *step, Buffer *values)
{
	buffer_put_text(values, values->len > 0 ? ", (" : "(");
	sql_put_literal(values, step);
	buffer_put_text(values, ")");
}

void
ledger_steps_sql(const Ledger *ledger, const Buffer *values, Buffer *sql)
{
	if (values->len == 0)
		return;
	buffer_printf(sql, "INSERT INTO %s.post_data (step) VALUES ", ledger->schema);
	buffer_put(sql, values->data, values->len);
	buffer_put_text(sql, " ON CONFLICT (step) DO NOTHING;");
}

void
ledger_step_sql(const Ledger *ledger, const char *step, Buffer *sql)
{
	Buffer values = BUFFER_INIT;

	ledger_steps_add(step, &values);
	ledger_steps_sql(ledger, &values, sql);
	buffer_free(&values);
}

/* ---- progress ---- */

/* A session whose client is gone, or whose network is, can hold a lane's row for hours. Only
 * what has written to the progress is ended: the outcome of nothing else concerns us. Another
 * user's sessions may not be ended by us: those are waited for. */
static void
end_old_lanes(Sql *target, const Ledger *ledger)
{
	Error local = ERROR_INIT;

	if (!sql_execf(
			target, &local,
			"SELECT pg_catalog.pg_terminate_backend(a.pid) FROM pg_catalog.pg_stat_activity a"
			" JOIN pg_catalog.pg_locks l ON l.pid = a.pid"
			" WHERE l.relation = '%s.progress'::pg_catalog.regclass AND l.database ="
			" (SELECT oid FROM pg_catalog.pg_database"
			" WHERE datname = pg_catalog.current_database())"
			" AND l.mode = 'RowExclusiveLock' AND a.pid <> pg_catalog.pg_backend_pid()"
			" AND a.application_name LIKE 'pgbaton apply %%'",
			ledger->schema))
		log_failure(LOG_WARNING, "ledger", &local);
}

/*
 * The lock conflicts with that of a lane which has written its row and not yet ended. The
 * primary key makes two processes that both try harmless. One message without BEGIN and COMMIT:
 * a server that no longer reaches us ends it by itself, and nobody finds the lock held by a
 * session that waits for a COMMIT.
 */
bool
ledger_load_progress(Sql *target, const Ledger *ledger, Lsn start, Progress *progress, Error *err)
{
	end_old_lanes(target, ledger);
	PGresult *result = sql_queryf(
		target, err,
		"LOCK TABLE %s.progress IN SHARE ROW EXCLUSIVE MODE;"
		"INSERT INTO %s.progress (lane, commit_lsn, position)"
		" SELECT lane, '%s', %" PRId64 " FROM pg_catalog.generate_series(0, %d) lane"
		" ON CONFLICT (lane) DO NOTHING;"
		"SELECT lane, commit_lsn, position FROM %s.progress ORDER BY lane",
		ledger->schema, ledger->schema, LSN_STR(start), LEDGER_WHOLE, ledger->lanes - 1,
		ledger->schema);
	if (result == NULL)
		return false;
	bool ok = PQntuples(result) == ledger->lanes;
	for (int i = 0; ok && i < ledger->lanes; i++) {
		ok = sql_get_int(result, i, 0) == i;
		progress[i] = (Progress){sql_get_lsn(result, i, 1), sql_get_int(result, i, 2)};
	}
	if (!ok)
		error_set(err, ERROR_BUG, "%s.progress has %d rows, but the migration has %d lanes",
		          ledger->schema, PQntuples(result), ledger->lanes);
	PQclear(result);
	return ok;
}

/* The rows of lanes that did not come to the same point say who has done what: P4. */
bool
ledger_set_lanes(Sql *target, Ledger *ledger, int lanes, Error *err)
{
	if (lanes <= 0)
		return error_set(err, ERROR_BUG, "%d lanes", lanes);
	/* One message, as above. */
	bool ok = sql_execf(target, err,
	                    "LOCK TABLE %s.progress;"
	                    "UPDATE %s.migration SET changed = now(), lanes = %d /"
	                    " (SELECT (count(DISTINCT (commit_lsn, position)) <= 1)::integer"
	                    " FROM %s.progress);"
	                    "INSERT INTO %s.progress (lane, commit_lsn, position)"
	                    " SELECT lane, p.commit_lsn, p.position FROM (SELECT commit_lsn, position"
	                    " FROM %s.progress LIMIT 1) p, pg_catalog.generate_series(0, %d) lane"
	                    " ON CONFLICT (lane) DO NOTHING;"
	                    "DELETE FROM %s.progress WHERE lane >= %d",
	                    ledger->schema, ledger->schema, lanes, ledger->schema, ledger->schema,
	                    ledger->schema, lanes - 1, ledger->schema, lanes);
	if (!ok && error_has_sqlstate(err, "22012"))
		return error_set(err, ERROR_BUG, "the number of lanes changes while they are not level");
	if (ok)
		ledger->lanes = lanes;
	return ok;
}
