/* The ledger's list of what was made or changed, and its undoing (S2). */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "apply/ledger.h"
#include "apply/setup/locked.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/memory.h"

enum {
	UNDO_PATIENCE_MS = 10000, /* for one lock */
	SLOT_PATIENCE_MS = 10000, /* for the walsender of a slot to end */
	SLOT_POLITE_MS = 2000,    /* of these, before it is ended by us */
	SLOT_PAUSE_MS = 100
};

static bool
record(const Book *book, const char *kind, const char *what, const char *undo, bool found,
       Error *err)
{
	const char *values[] = {book->side, kind, what, undo, found ? "true" : "false"};
	char *text = mem_printf("INSERT INTO %s.object (side, kind, what, undo, found)"
	                        " VALUES ($1, $2, $3, $4, $5) ON CONFLICT (side, kind, what)"
	                        " DO UPDATE SET undo = EXCLUDED.undo",
	                        book->ledger->schema);
	PGresult *result = sql_query_params(book->sql, err, text, 5, values);

	free(text);
	if (result == NULL)
		return error_add_context(err, "recording %s", what);
	PQclear(result);
	return true;
}

bool
ledger_record(Sql *target, const Ledger *ledger, const char *side, const char *kind,
              const char *what, const char *undo, Error *err)
{
	const Book book = {target, ledger, side};

	return record(&book, kind, what, undo, false, err);
}

bool
book_record(const Book *book, const char *kind, const char *what, const char *undo, Error *err)
{
	return record(book, kind, what, undo, false, err);
}

bool
book_record_found(const Book *book, const char *kind, const char *what, const char *select,
                  Error *err)
{
	return record(book, kind, what, select, true, err);
}

bool
ledger_objects(Sql *target, const Ledger *ledger, const char *side, const char *kind,
               LedgerObject **out, size_t *count, Error *err)
{
	const char *values[] = {side, kind};
	/* An identity of a table that was added is younger than the publication, in which it has to
	 * stay as it is. */
	char *text = mem_printf(
		"SELECT id, side, kind, what, undo, found FROM %s.object WHERE side = $1"
		" AND ($2::text IS NULL OR kind = $2)"
		" ORDER BY kind = 'replica_identity', id DESC",
		ledger->schema);
	PGresult *result = sql_query_params(target, err, text, 2, values);

	free(text);
	*out = NULL;
	*count = 0;
	if (result == NULL)
		return false;
	*count = (size_t)PQntuples(result);
	*out = mem_zalloc(sizeof(LedgerObject) * (*count + 1));
	for (size_t i = 0; i < *count; i++) {
		LedgerObject *object = &(*out)[i];
		int row = (int)i;
		object->id = sql_get_int(result, row, 0);
		snprintf(object->side, sizeof(object->side), "%s", PQgetvalue(result, row, 1));
		snprintf(object->kind, sizeof(object->kind), "%s", PQgetvalue(result, row, 2));
		snprintf(object->what, sizeof(object->what), "%s", PQgetvalue(result, row, 3));
		object->undo = mem_strdup(PQgetvalue(result, row, 4));
		object->found = sql_get_bool(result, row, 5);
	}
	PQclear(result);
	return true;
}

/* One of a kind by its name, more by their number: a fence has as many as there are tables. */
bool
ledger_objects_sum(Sql *target, const Ledger *ledger, char *out, size_t size, Error *err)
{
	PGresult *rows = sql_queryf(
		target, err,
		"SELECT side || ': ' || string_agg(item, ', ' ORDER BY item) FROM (SELECT side,"
		" CASE WHEN count(*) = 1 THEN min(what) ELSE count(*) || ' of kind ' || kind END AS item"
		" FROM %s.object GROUP BY side, kind) o GROUP BY side ORDER BY side",
		ledger->schema);

	out[0] = '\0';
	if (rows == NULL)
		return false;
	for (int i = 0; i < PQntuples(rows); i++) {
		size_t len = strlen(out);
		snprintf(out + len, size - len, "%s%s", i > 0 ? "; " : "", PQgetvalue(rows, i, 0));
	}
	PQclear(rows);
	return true;
}

/* Several in one query, for a fence has as many as there are tables; but its planning grows with the
 * square of their number. */
static bool
find_some(Sql *side, LedgerObject **objects, size_t count, Error *err)
{
	Buffer sql = BUFFER_INIT;

	for (size_t i = 0; i < count; i++)
		buffer_printf(&sql, "%s(%s)", i > 0 ? ", " : "SELECT unnest(ARRAY[", objects[i]->undo);
	buffer_put_text(&sql, "]::text[])");
	PGresult *result = sql_query(side, err, buffer_cstr(&sql));
	buffer_free(&sql);
	if (result == NULL)
		return false;
	for (size_t i = 0; i < count; i++) {
		free(objects[i]->undo);
		objects[i]->undo = mem_strdup(PQgetvalue(result, (int)i, 0)); /* "" for NULL */
		objects[i]->found = false;
	}
	PQclear(result);
	return true;
}

bool
ledger_find(Sql *side, LedgerObject *objects, size_t count, Error *err)
{
	enum { AT_ONCE = 100 };
	LedgerObject *some[AT_ONCE];
	size_t waiting = 0;

	for (size_t i = 0; i < count; i++) {
		if (objects[i].found)
			some[waiting++] = &objects[i];
		if (waiting == AT_ONCE && !find_some(side, some, waiting, err))
			return false;
		waiting %= AT_ONCE;
	}
	return waiting == 0 || find_some(side, some, waiting, err);
}

void
ledger_objects_free(LedgerObject *objects, size_t count)
{
	for (size_t i = 0; objects != NULL && i < count; i++)
		free(objects[i].undo);
	free(objects);
}

bool
ledger_forget(Sql *target, const Ledger *ledger, int64_t id, Error *err)
{
	return sql_execf(target, err, "DELETE FROM %s.object WHERE id = %" PRId64, ledger->schema, id);
}

/* A slot cannot be dropped while its walsender lives (55006). Ours may need a
 * moment to notice that its client is gone; after that moment it is ended. */
static bool
undo_slot(Sql *side, const LedgerObject *object, Error *err)
{
	int64_t deadline = deadline_in_ms(SLOT_PATIENCE_MS);
	int64_t polite = deadline_in_ms(SLOT_POLITE_MS);

	for (;;) {
		Error failure = ERROR_INIT;
		if (sql_exec(side, &failure, object->undo))
			return true;
		if (!error_has_sqlstate(&failure, "55006") || deadline_left_ms(deadline) == 0) {
			if (err != NULL)
				*err = failure;
			return false;
		}
		if (deadline_left_ms(polite) == 0 &&
		    !sql_execf(side, err,
		               "SELECT pg_catalog.pg_terminate_backend(active_pid)"
		               " FROM pg_catalog.pg_replication_slots"
		               " WHERE 'replication slot ' || slot_name = '%s' AND active_pid IS NOT NULL",
		               object->what))
			return false;
		if (!stop_sleep_ms(NULL, SLOT_PAUSE_MS, err))
			return false;
	}
}

static bool
undo_one(Sql *side, const LedgerObject *object, Error *err)
{
	Locked locked = {.sql = side, .what = object->what, .patience_ms = UNDO_PATIENCE_MS};

	if (object->undo[0] == '\0')
		return true;
	if (strcmp(object->kind, "slot") == 0)
		return undo_slot(side, object, err);
	return locked_exec(&locked, object->undo, err);
}

typedef struct {
	int count;
	Error first;
	char list[700]; /* "what: statement; ..." */
} Leftovers;

static void
leave(Leftovers *left, const LedgerObject *object, const Error *failure)
{
	size_t len = strlen(left->list);

	if (left->count++ == 0)
		left->first = *failure;
	snprintf(left->list + len, sizeof(left->list) - len, "%s%s", len > 0 ? " " : "", object->undo);
	log_failure(LOG_WARNING, "ledger", failure);
	log_warning("ledger", "left over: %s; remove it by: %s", object->what, object->undo);
}

bool
ledger_undo(Sql *target, Sql *side_session, const Ledger *ledger, const char *side,
            const char *kind, Error *err)
{
	LedgerObject *objects;
	size_t count;
	Leftovers left = {.count = 0};
	bool lost = false;
	int undone = 0;

	if (!ledger_objects(target, ledger, side, kind, &objects, &count, err))
		return false;
	if (!ledger_find(side_session, objects, count, err)) {
		ledger_objects_free(objects, count);
		return error_set_hint(err, "what is left stands in %s.object on the target",
		                      ledger->schema);
	}
	for (size_t i = 0; i < count && !lost; i++) {
		Error failure = ERROR_INIT;
		if (undo_one(side_session, &objects[i], &failure) &&
		    ledger_forget(target, ledger, objects[i].id, &failure)) {
			log_debug("ledger", "undone: %s", objects[i].what);
			undone++;
			continue;
		}
		lost = failure.class == ERROR_NETWORK || failure.class == ERROR_CANCELLED;
		leave(&left, &objects[i], &failure);
	}
	ledger_objects_free(objects, count);
	if (undone > 0)
		log_info("ledger", "undone on the %s: %d of our changes", side, undone);
	if (left.count == 0)
		return true;
	if (lost) {
		/* The next start comes here again; the rest was not tried. */
		if (err != NULL)
			*err = left.first;
		return error_set_hint(err, "what is left stands in %s.object on the target",
		                      ledger->schema);
	}
	error_set(err, left.first.class, "%d of %zu things on the %s could not be undone: %s",
	          left.count, count, side, left.first.message);
	if (left.first.sqlstate[0] != '\0')
		error_set_sqlstate(err, left.first.sqlstate);
	return error_set_hint(err, "run on the %s: %s", side, left.list);
}
