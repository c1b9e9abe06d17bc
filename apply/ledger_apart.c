/* The ledger's part in add-table and recopy. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "apply/ledger.h"
#include "common/memory.h"
#include "protocol/replication.h"

static const char *const kind_names[] = {
	[APART_NONE] = "", [APART_ADD] = "add", [APART_RECOPY] = "recopy"};

bool
ledger_apart(Sql *target, const Ledger *ledger, Apart *out, Error *err)
{
	PGresult *row = sql_queryf(target, err,
	                           "UPDATE %s.migration SET apart_try = apart_try + 1"
	                           " RETURNING apart, aparts, apart_lsn, apart_try",
	                           ledger->schema);

	*out = (Apart){.kind = APART_NONE};
	if (row == NULL)
		return false;
	const char *kind = PQntuples(row) == 1 ? sql_get(row, 0, 0) : NULL;
	for (int i = APART_ADD; kind != NULL && i <= APART_RECOPY; i++) {
		if (strcmp(kind, kind_names[i]) == 0)
			out->kind = (ApartKind)i;
	}
	if (PQntuples(row) == 1) {
		out->number = (int)sql_get_int(row, 0, 1);
		out->from = sql_get_lsn(row, 0, 2);
		out->turn = sql_get_int(row, 0, 3);
	}
	PQclear(row);
	return true;
}

bool
ledger_apart_turn(Sql *target, const Ledger *ledger, int64_t *turn, Error *err)
{
	PGresult *row = sql_queryf(target, err, "SELECT apart_try FROM %s.migration", ledger->schema);

	if (row == NULL)
		return false;
	*turn = PQntuples(row) == 1 ? sql_get_int(row, 0, 0) : -1;
	PQclear(row);
	return true;
}

bool
ledger_apart_tables(Sql *target, const Ledger *ledger, Catalog *catalog, Error *err)
{
	PGresult *rows = sql_queryf(
		target, err, "SELECT schema_name, table_name FROM %s.relation WHERE apart", ledger->schema);

	if (rows == NULL)
		return false;
	for (int i = 0; i < PQntuples(rows); i++) {
		Table *table = catalog_find(catalog, PQgetvalue(rows, i, 0), PQgetvalue(rows, i, 1));
		if (table != NULL)
			atomic_store(&table->apart, true);
	}
	PQclear(rows);
	return true;
}

/* ---- the selection ---- */

static void
add_pattern(Arena *arena, PatternList *list, const char *text, size_t len)
{
	const char **longer = arena_new_array(arena, const char *, list->count + 1);

	for (size_t i = 0; i < list->count; i++)
		longer[i] = list->items[i];
	longer[list->count] = arena_printf(arena, "%.*s", (int)len, text);
	*list = (PatternList){longer, list->count + 1};
}

bool
ledger_added(Sql *target, const Ledger *ledger, Arena *arena, Selection *selection, Error *err)
{
	static const char prefix[] = "add-table ";
	PGresult *row = sql_queryf(target, err, "SELECT coalesce(selection, '') FROM %s.migration",
	                           ledger->schema);

	if (row == NULL)
		return false;
	selection->lists[ADDED_TABLE] = (PatternList){NULL, 0};
	for (const char *at = PQntuples(row) == 1 ? PQgetvalue(row, 0, 0) : ""; *at != '\0';) {
		size_t len = strcspn(at, "\n");
		if (strncmp(at, prefix, sizeof(prefix) - 1) == 0)
			add_pattern(arena, &selection->lists[ADDED_TABLE], at + sizeof(prefix) - 1,
			            len - (sizeof(prefix) - 1));
		at += len + (at[len] == '\n');
	}
	PQclear(row);
	return true;
}

/* ---- begin ---- */

/* Not our turn: division by zero. A transaction that is in only partly has to be read again.
 * Tables that join others which are apart begin where those did. */
void
ledger_apart_begin_sql(const Ledger *ledger, ApartKind kind, int64_t turn,
                       const Selection *selection, Buffer *sql)
{
	Buffer text = BUFFER_INIT;

	buffer_printf(sql,
	              "UPDATE %s.migration SET apart = '%s', changed = now(),"
	              " aparts = (aparts + 1) / (apart_try = %" PRId64 ")::integer,"
	              " apart_lsn = coalesce(apart_lsn, (SELECT min(CASE WHEN position = %" PRId64
	              " THEN commit_lsn ELSE commit_lsn - 1 END) FROM %s.progress))",
	              ledger->schema, kind_names[kind], turn, LEDGER_WHOLE, ledger->schema);
	if (selection != NULL) {
		selection_describe(selection, &text);
		buffer_put_text(sql, ", selection = ");
		sql_put_literal(sql, buffer_cstr(&text));
	}
	buffer_put_text(sql, ";");
	buffer_free(&text);
}

void
ledger_apart_table_sql(const Ledger *ledger, ApartKind kind, const Table *table, Buffer *sql)
{
	const char *state = kind == APART_RECOPY ? "copying" : "queued";

	buffer_printf(sql, "INSERT INTO %s.relation (schema_name, table_name, state, apart) VALUES (",
	              ledger->schema);
	sql_put_literal(sql, table->schema);
	buffer_put_text(sql, ", ");
	sql_put_literal(sql, table->name);
	buffer_printf(sql,
	              ", '%s', true) ON CONFLICT (schema_name, table_name) DO UPDATE SET"
	              " state = '%s', apart = true, attempt = NULL, snapshot = NULL,"
	              " snapshot_lsn = NULL, level_lsn = NULL, copied_rows = 0, copied_bytes = 0;",
	              state, state);
}

bool
ledger_apart_open(Sql *target, const Ledger *ledger, Ledger *out, Error *err)
{
	char name[sizeof(ledger->name)];
	bool exists;

	snprintf(name, sizeof(name), "%.40s_apart", ledger->name);
	if (!ledger_exists(target, name, &exists, err))
		return false;
	if (exists)
		return ledger_load(target, name, out, err);
	*out = *ledger;
	snprintf(out->name, sizeof(out->name), "%s", name);
	out->lanes = 1;
	char *what = mem_printf("schema %s", name);
	char *undo = mem_printf("DROP SCHEMA IF EXISTS %s CASCADE", name);
	bool ok = ledger_record(target, ledger, "target", "apart", what, undo, err) &&
	          ledger_create(target, out, err);
	free(what);
	free(undo);
	return ok;
}

/* ---- end ---- */

bool
ledger_apart_end(Sql *target, const Ledger *ledger, const Ledger *apart, int64_t turn, Lsn *level,
                 Error *err)
{
	Progress progress;

	if (!ledger_load_progress(target, apart, LSN_INVALID, &progress, err))
		return false;
	if (progress.position != LEDGER_WHOLE)
		return error_set(err, ERROR_BUG, "%s.progress is inside of a transaction", apart->schema);
	*level = progress.commit_lsn;
	bool ok = sql_execf(target, err,
	                    "BEGIN; UPDATE %s.migration SET apart = NULL, apart_lsn = NULL,"
	                    " changed = now(), aparts = aparts / (apart_try = %" PRId64 ")::integer;"
	                    "UPDATE %s.relation SET apart = false, level_lsn = '%s' WHERE apart;"
	                    "DELETE FROM %s.object WHERE side = 'target' AND kind = 'apart';"
	                    "DROP SCHEMA %s CASCADE; COMMIT",
	                    ledger->schema, turn, ledger->schema, LSN_STR(*level), ledger->schema,
	                    apart->schema);
	if (!ok)
		(void)!sql_exec(target, NULL, "ROLLBACK");
	return ok;
}
