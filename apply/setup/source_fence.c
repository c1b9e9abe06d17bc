/*
 * The fence and the marker (K2, K3).
 *
 * Made ahead of time: a function and, on each table, a disabled statement trigger. At the
 * cutover one transaction locks all tables, enables the triggers and stays open until
 * the target is ready. Nothing in it depends on this process: if it vanishes, the
 * source's own server ends the transaction and the source goes on.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "apply/setup/source_internal.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/memory.h"
#include "protocol/replication.h"

/* ---- all tables and parents, by oid ---- */

typedef struct {
	uint32_t oid;
	const char *schema;
	const char *name;
	const char *qualified;
} Fenced;

typedef struct {
	Fenced *items;
	size_t count;
} FencedList;

static int
by_oid(const void *a, const void *b)
{
	const Fenced *left = a;
	const Fenced *right = b;

	return (left->oid > right->oid) - (left->oid < right->oid);
}

/* In a stable order, so that two runs can never wait for each other. */
static FencedList
fenced_list(const Catalog *catalog)
{
	FencedList list = {
		mem_alloc(sizeof(Fenced) * (catalog->table_count + catalog->parent_count + 3)), 0};

	for (size_t i = 0; i < catalog->table_count; i++) {
		const Table *table = &catalog->tables[i];
		list.items[list.count++] = (Fenced){table->oid, table->schema, table->name,
		                                    table->qualified};
	}
	for (size_t i = 0; i < catalog->parent_count; i++) {
		const Named *parent = &catalog->parents[i];
		list.items[list.count++] = (Fenced){parent->oid, parent->schema, parent->name,
		                                    parent->qualified};
	}
	qsort(list.items, list.count, sizeof(Fenced), by_oid);
	return list;
}

/*
 * Large objects are locked with the tables, where that is allowed: who reads one has to wait,
 * too, since the server takes a writer's lock for both. Triggers cannot be made on them.
 */
static FencedList
locked_list(const Catalog *catalog)
{
	FencedList list = fenced_list(catalog);

	if (!catalog->locks_large_objects)
		return list;
	list.items[list.count++] = (Fenced){0, "pg_catalog", "pg_largeobject_metadata",
	                                    "pg_catalog.pg_largeobject_metadata"};
	list.items[list.count++] = (Fenced){0, "pg_catalog", "pg_largeobject",
	                                    "pg_catalog.pg_largeobject"};
	return list;
}

/* ---- prepared ahead of time ---- */

/*
 * Says where the database has gone, without user or password. Lets nobody through but the way
 * back, which says who it is by the setting pgbaton.writer.
 *
 * Between the fence's commit and the journal's nobody knows yet whether a writer is to be
 * refused: the fence's session keeps an advisory lock, and the writer waits for it. What became
 * of the switch tells the sequence `gate`, whose value a writer sees at once, whatever its
 * snapshot: a table would show a REPEATABLE READ transaction the past. An application's role
 * need not be allowed to read it, so the function runs as its owner.
 *
 * A session that is lost has said nothing, and then the writer goes on waiting: the next start
 * may find that the switch was not committed. So an undecided gate's value is the time, of the
 * server's clock in ms, up to which somebody may come and say it.
 */
#define GATE_SHUT "1"
#define GATE_OPEN "2"
#define GATE_PATIENCE_MS "30000" /* then it is refused, as if the switch had happened */
#define GATE_LOOK_S "0.02"

static void
put_gate_key(Buffer *sql, const Ledger *ledger)
{
	buffer_printf(sql, "pg_catalog.hashtextextended('%s', 0)", ledger->id);
}

static bool
make_function(const SourceSetup *setup, Error *err)
{
	Buffer sql = BUFFER_INIT;
	Buffer body = BUFFER_INIT;
	PGconn *target = sql_pgconn(setup->target);
	char *where = mem_printf("It is now database \"%s\" on %s, port %s.", PQdb(target),
	                         PQhost(target), PQport(target));

	/* format() in the body would read % in a name; a literal does not. */
	buffer_printf(&body,
	              "DECLARE said bigint; BEGIN"
	              " IF pg_catalog.current_setting('pgbaton.writer', true) = '%s' THEN"
	              " RETURN NULL; END IF; BEGIN PERFORM pg_catalog.pg_advisory_xact_lock_shared(",
	              setup->ledger->id);
	put_gate_key(&body, setup->ledger);
	buffer_printf(&body,
	              "); EXCEPTION WHEN lock_not_available THEN NULL; END;"
	              " LOOP SELECT last_value INTO said FROM %s.gate;"
	              " IF said = " GATE_OPEN " THEN RETURN NULL; END IF;"
	              " EXIT WHEN said < extract(epoch FROM pg_catalog.clock_timestamp()) * 1000;"
	              " PERFORM pg_catalog.pg_sleep(" GATE_LOOK_S "); END LOOP; ",
	              setup->ledger->schema);
	buffer_put_text(&body,
	                "RAISE EXCEPTION USING ERRCODE = '25006', MESSAGE ="
	                " 'this database has moved: ' || TG_OP || ' on ' || TG_TABLE_SCHEMA || '.'"
	                " || TG_TABLE_NAME || ' is refused here', HINT = ");
	sql_put_literal(&body, where);
	buffer_put_text(&body, "; END");
	buffer_printf(&sql,
	              "SET LOCAL client_min_messages = warning;"
	              "CREATE SEQUENCE IF NOT EXISTS %s.gate;"
	              "CREATE OR REPLACE FUNCTION %s.refuse_writes() RETURNS trigger"
	              " LANGUAGE plpgsql SECURITY DEFINER SET lock_timeout = " GATE_PATIENCE_MS " AS ",
	              setup->ledger->schema, setup->ledger->schema);
	sql_put_literal(&sql, buffer_cstr(&body));
	bool ok = sql_exec(setup->source, err, buffer_cstr(&sql));
	buffer_free(&sql);
	buffer_free(&body);
	free(where);
	return ok || error_add_context(err, "making the fence's function");
}

/* The relations that have our trigger already, as a sorted list of oids. */
static PGresult *
query_triggers(Sql *source, const Ledger *ledger, const char *condition, Error *err)
{
	return sql_queryf(source, err,
	                  "SELECT t.tgrelid, n.nspname, c.relname FROM pg_catalog.pg_trigger t"
	                  " JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid"
	                  " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
	                  " WHERE t.tgname = '%s_fence' AND NOT t.tgisinternal %s ORDER BY t.tgrelid",
	                  ledger->name, condition);
}

static bool
has_trigger(const PGresult *rows, uint32_t oid)
{
	int low = 0;
	int high = PQntuples(rows);

	while (low < high) {
		int middle = (low + high) / 2;
		uint32_t at = (uint32_t)sql_get_int(rows, middle, 0);
		if (at == oid)
			return true;
		if (at < oid)
			low = middle + 1;
		else
			high = middle;
	}
	return false;
}

/* Created and disabled in one transaction: it never fires before its time. CREATE TRIGGER
 * keeps writers out, so each table has a transaction of its own. */
static bool
make_trigger(const SourceSetup *setup, const Fenced *table, Error *err)
{
	const char *name = setup->ledger->name;
	char *what = mem_printf("fence on %s.%s", table->schema, table->name);
	char *make = mem_printf(
		"CREATE TRIGGER \"%s_fence\" BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON %s"
		" FOR EACH STATEMENT EXECUTE FUNCTION %s.refuse_writes();"
		"ALTER TABLE ONLY %s DISABLE TRIGGER \"%s_fence\"",
		name, table->qualified, setup->ledger->schema, table->qualified, name);
	Locked locked = {.sql = setup->source,
	                 .what = what,
	                 .relation = table->oid,
	                 .lock_timeout_ms = setup->lock_timeout_ms,
	                 .patience_ms = setup->lock_patience_ms,
	                 .stop = setup->stop};
	bool ok = locked_exec(&locked, make, err);

	if (!ok && error_has_sqlstate(err, "42501"))
		error_set_hint(err,
		               "on the source: GRANT TRIGGER ON %s TO \"%s\", and its ownership, for "
		               "the fence is switched by ALTER TABLE",
		               table->qualified, PQuser(sql_pgconn(setup->source)));
	free(what);
	free(make);
	return ok;
}

/* One record for each: DROP TRIGGER needs a lock of its own on each table, and one that
 * cannot be had must not keep the others. */
static bool
record_trigger(const SourceSetup *setup, const Fenced *table, Error *err)
{
	char *what = mem_printf("fence on %s.%s", table->schema, table->name);
	char *select = mem_printf(
		"SELECT 'DROP TRIGGER \"%s_fence\" ON ' || tgrelid::pg_catalog.regclass"
		" FROM pg_catalog.pg_trigger WHERE tgname = '%s_fence' AND tgrelid = %u",
		setup->ledger->name, setup->ledger->name, table->oid);
	Book book = source_book(setup);
	bool ok = book_record_found(&book, "fence", what, select, err);

	free(what);
	free(select);
	return ok;
}

/* All in one transaction, before the first trigger is made (S2): a commit for each would be
 * thousands of flushes. */
static bool
record_triggers(const SourceSetup *setup, const FencedList *list, const PGresult *made, Error *err)
{
	Sql *book = setup->book.sql != NULL ? setup->book.sql : setup->target;
	bool ok = sql_exec(book, err, "BEGIN");

	for (size_t i = 0; ok && i < list->count; i++) {
		if (!has_trigger(made, list->items[i].oid))
			ok = record_trigger(setup, &list->items[i], err);
	}
	if (ok)
		return sql_exec(book, err, "COMMIT");
	(void)!sql_exec(book, NULL, "ROLLBACK");
	return false;
}

bool
source_fence_prepare(const SourceSetup *setup, Error *err)
{
	if (!source_make_schema(setup, err) || !make_function(setup, err))
		return false;
	PGresult *made = query_triggers(setup->source, setup->ledger, "", err);
	if (made == NULL)
		return false;
	FencedList list = fenced_list(setup->catalog);
	bool ok = record_triggers(setup, &list, made, err);
	for (size_t i = 0; ok && i < list.count; i++) {
		if (!has_trigger(made, list.items[i].oid))
			ok = make_trigger(setup, &list.items[i], err);
	}
	free(list.items);
	PQclear(made);
	return ok;
}

/* ---- the fence's transaction ---- */

/* What may be set depends on who we are: in a subtransaction, so that a refusal
 * costs nothing. A short one makes the server cancel an autovacuum in the way. */
static bool
set_deadlock_timeout(Sql *fence, Error *err)
{
	Error refused = ERROR_INIT;

	if (!sql_exec(fence, err, "SAVEPOINT timeout"))
		return false;
	if (sql_exec(fence, &refused, "SET LOCAL deadlock_timeout = '5ms'"))
		return sql_exec(fence, err, "RELEASE timeout");
	if (refused.class != ERROR_SQL) {
		if (err != NULL)
			*err = refused;
		return false;
	}
	return sql_exec(fence, err, "ROLLBACK TO timeout; RELEASE timeout");
}

/* The deadline is kept in the transaction itself, as the server's time in ms, so that
 * whoever goes on in this transaction knows it. */
static bool
begin_with_deadline(Sql *fence, int64_t left_ms, Error *err)
{
	if (left_ms < 1)
		left_ms = 1; /* 0 would mean no limit */
	if (!sql_exec(fence, err, "BEGIN ISOLATION LEVEL READ COMMITTED"))
		return false;
	/* From 17 on the server itself has a clock for the whole transaction. */
	if (sql_server_version(fence) >= 170000 &&
	    !sql_execf(fence, err, "SET LOCAL transaction_timeout = %" PRId64, left_ms))
		return false;
	return set_deadlock_timeout(fence, err) &&
	       sql_execf(fence, err,
	                 "SET LOCAL lock_timeout = %" PRId64 "; SET LOCAL statement_timeout = %" PRId64
	                 "; SELECT pg_catalog.set_config('pgbaton.deadline', (extract(epoch FROM"
	                 " clock_timestamp()) * 1000 + %" PRId64 ")::bigint::text, true)",
	                 left_ms, left_ms, left_ms);
}

/* K2: the server ends this transaction when we are silent past the deadline. The setting
 * counts from the end of each statement to the next one, not from BEGIN; so it is set to
 * what is left whenever we are about to be silent. */
#define SILENCE_UNTIL_DEADLINE                                                        \
	"SELECT pg_catalog.set_config('idle_in_transaction_session_timeout', greatest(1," \
	" pg_catalog.current_setting('pgbaton.deadline')::bigint"                         \
	" - extract(epoch FROM clock_timestamp()) * 1000)::bigint::text, true);"

/* All locks in one round trip, a statement each, so that a failure tells which table it was
 * at: *at counts those that were had. No statement_timeout from there on: it could cut a
 * COMMIT's wait for a standby. */
static bool
lock_each(Sql *fence, const FencedList *list, int64_t deadline_ms, size_t *at, Error *err)
{
	Buffer sql = BUFFER_INIT;
	bool ok = true;
	PGresult *result = NULL;

	*at = 0;
	for (size_t i = 0; i < list->count; i++)
		buffer_printf(&sql, "LOCK TABLE ONLY %s IN EXCLUSIVE MODE;", list->items[i].qualified);
	buffer_put_text(&sql, "SET LOCAL statement_timeout = 0;" SILENCE_UNTIL_DEADLINE);
	if (!PQsendQuery(sql_pgconn(fence), buffer_cstr(&sql)))
		ok = sql_error_of(fence, NULL, err);
	buffer_free(&sql);

	bool sent = ok;
	do {
		/* lock_timeout and statement_timeout count for each table anew; this is over all. */
		int left = deadline_left_ms(deadline_ms);
		sql_set_timeout_ms(fence, left > 0 ? left : 1);
		if (!sent || !sql_next_result(fence, &result, ok ? err : NULL)) {
			ok = false;
			break;
		}
		if (result != NULL && PQresultStatus(result) == PGRES_COMMAND_OK)
			(*at)++;
		else if (result != NULL && ok && PQresultStatus(result) != PGRES_TUPLES_OK)
			ok = sql_error_of(fence, result, err);
		PQclear(result);
	} while (result != NULL);
	sql_set_timeout_ms(fence, 0);
	return ok;
}

/*
 * A deadlock means: whoever holds the table we waited for needs one that we had locked
 * before it. So the waited-for table belongs in front; after a few rounds the order is that
 * of the application's own transactions, which then drain instead of meeting us half-way.
 */
static void
move_to_front(FencedList *list, size_t at)
{
	if (at == 0 || at >= list->count)
		return;
	Fenced waited_for = list->items[at];
	memmove(&list->items[1], &list->items[0], at * sizeof(Fenced));
	list->items[0] = waited_for;
}

/* On a failure nobody knows which of the tables it was; blockers are all who hold locks
 * on tables here. Asked after the rollback, so that nobody waits for us meanwhile. */
static bool
fence_failed(Sql *fence, Error *failure, int64_t waited_ms, Error *err)
{
	char blockers[700];

	if (failure->class == ERROR_SQL || failure->class == ERROR_TIMEOUT)
		(void)!sql_exec(fence, NULL, "ROLLBACK");
	if (failure->class == ERROR_TIMEOUT || error_has_sqlstate(failure, "55P03") ||
	    error_has_sqlstate(failure, "40P01") || error_has_sqlstate(failure, "57014")) {
		locked_blockers(fence, 0, blockers, sizeof(blockers), NULL);
		error_set(err, ERROR_TIMEOUT,
		          "the tables could not be locked within %lld ms; in the way: "
		          "%s",
		          (long long)waited_ms,
		          blockers[0] != '\0' ? blockers : "transactions that have ended just now");
		error_set_sqlstate(err, "55P03");
		return error_set_hint(err, "end those transactions (" LOCKED_ENDING
		                           "), or allow a longer --hold-timeout");
	}
	if (err != NULL)
		*err = *failure;
	if (error_has_sqlstate(err, "25P03"))
		error_set(err, ERROR_TIMEOUT,
		          "the source has given itself back: the fence's transaction was silent until its "
		          "deadline and its server ended it");
	return error_add_context(err, "fence");
}

/* One try at all tables. */
static bool
lock_once(Sql *fence, const FencedList *list, int64_t deadline_ms, size_t *at, Error *err)
{
	*at = 0;
	if (PQtransactionStatus(sql_pgconn(fence)) == PQTRANS_IDLE &&
	    !source_fence_begin(fence, deadline_ms, err))
		return false;
	return lock_each(fence, list, deadline_ms, at, err);
}

bool
source_fence_begin(Sql *fence, int64_t deadline_ms, Error *err)
{
	return begin_with_deadline(fence, deadline_left_ms(deadline_ms), err) &&
	       sql_exec(fence, err, SILENCE_UNTIL_DEADLINE);
}

bool
source_fence_warm(Sql *fence, const Ledger *ledger, Error *err)
{
	PGresult *sizes = sql_queryf(fence, err,
	                             "SELECT count(pg_catalog.pg_relation_size(tgrelid)) FROM"
	                             " pg_catalog.pg_trigger WHERE tgname = '%s_fence'"
	                             " AND NOT tgisinternal",
	                             ledger->name);

	if (sizes == NULL)
		return error_add_context(err, "fence");
	PQclear(sizes);
	return sql_exec(fence, err, SILENCE_UNTIL_DEADLINE);
}

/* Frees the list. */
static bool
lock_list(Sql *fence, FencedList list, int64_t deadline_ms, Error *err)
{
	int64_t begun = clock_mono_ms();
	Error failure = ERROR_INIT;
	size_t at = 0;
	bool ok = false;

	if (deadline_ms == 0 || deadline_left_ms(deadline_ms) == 0) {
		free(list.items);
		return error_set(err, ERROR_TIMEOUT, "no time is left to lock the tables");
	}
	while (!(ok = lock_once(fence, &list, deadline_ms, &at, &failure))) {
		/* Each round holds nobody longer than deadlock_timeout after its last lock. */
		if (!error_has_sqlstate(&failure, "40P01") || deadline_left_ms(deadline_ms) == 0 ||
		    !sql_exec(fence, &failure, "ROLLBACK"))
			break;
		move_to_front(&list, at);
	}
	free(list.items);
	return ok || fence_failed(fence, &failure, clock_mono_ms() - begun, err);
}

bool
source_fence_lock(Sql *fence, const Catalog *catalog, int64_t deadline_ms, Error *err)
{
	return lock_list(fence, locked_list(catalog), deadline_ms, err);
}

/* Without what stands above them: whoever writes through a parent locks the leaf, too. */
bool
source_fence_lock_marked(Sql *fence, const Catalog *catalog, int64_t deadline_ms, Error *err)
{
	FencedList list = {mem_alloc(sizeof(Fenced) * (catalog->table_count + 1)), 0};

	for (size_t i = 0; i < catalog->table_count; i++) {
		const Table *table = &catalog->tables[i];
		if (atomic_load(&table->marked))
			list.items[list.count++] = (Fenced){table->oid, table->schema, table->name,
			                                    table->qualified};
	}
	qsort(list.items, list.count, sizeof(Fenced), by_oid);
	return lock_list(fence, list, deadline_ms, err);
}

/* ALTER TABLE ONLY: a partitioned parent would switch its leaves' row triggers, too. */
static void
put_switch(const char *schema, const char *relation, const char *verb, const Ledger *ledger,
           Buffer *sql)
{
	buffer_put_text(sql, "ALTER TABLE ONLY ");
	sql_put_identifier(sql, schema);
	buffer_put_text(sql, ".");
	sql_put_identifier(sql, relation);
	buffer_printf(sql, " %s TRIGGER \"%s_fence\";", verb, ledger->name);
}

/* ALWAYS: sessions with session_replication_role = replica (loaders, other tools that
 * replicate into the source) are writers like the others. */
bool
source_fence_enable_begin(Sql *fence, const Ledger *ledger, const Catalog *catalog, Error *err)
{
	FencedList list = fenced_list(catalog);
	Buffer sql = BUFFER_INIT;

	/* Under the tables' locks: nobody who has waited at the gate is in a transaction still. */
	buffer_put_text(&sql, "SELECT pg_catalog.pg_advisory_lock(");
	put_gate_key(&sql, ledger);
	buffer_printf(&sql,
	              "), pg_catalog.setval('%s.gate', pg_catalog.current_setting('pgbaton.deadline')"
	              "::bigint + " GATE_PATIENCE_MS ");",
	              ledger->schema);
	for (size_t i = 0; i < list.count; i++)
		put_switch(list.items[i].schema, list.items[i].name, "ENABLE ALWAYS", ledger, &sql);
	buffer_put_text(&sql, SILENCE_UNTIL_DEADLINE);
	bool ok = PQsendQuery(sql_pgconn(fence), buffer_cstr(&sql)) && PQflush(sql_pgconn(fence)) >= 0;
	buffer_free(&sql);
	free(list.items);
	return ok || (sql_error_of(fence, NULL, err), error_add_context(err, "fence"));
}

bool
source_fence_enable_end(Sql *fence, Error *err)
{
	Error failure = ERROR_INIT;
	PGresult *result = NULL;
	bool ok = true;

	do {
		if (!sql_next_result(fence, &result, ok ? &failure : NULL)) {
			ok = false;
			break;
		}
		ExecStatusType status = PQresultStatus(result);
		if (result != NULL && ok && status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK)
			ok = sql_error_of(fence, result, &failure);
		PQclear(result);
	} while (result != NULL);
	return ok || fence_failed(fence, &failure, 0, err);
}

bool
source_fence_enable(Sql *fence, const Ledger *ledger, const Catalog *catalog, Error *err)
{
	return source_fence_enable_begin(fence, ledger, catalog, err) &&
	       source_fence_enable_end(fence, err);
}

/* By the catalogue: a fence that an older version of ours has made has none. */
static char *
gate_statement(const Ledger *ledger, const char *value)
{
	return mem_printf("SELECT pg_catalog.setval(c.oid::pg_catalog.regclass, %s)"
	                  " FROM pg_catalog.pg_class c WHERE c.oid ="
	                  " pg_catalog.to_regclass('%s.gate')",
	                  value, ledger->schema);
}

bool
source_fence_open_gate(Sql *sql, const Ledger *ledger, Error *err)
{
	char *statement = gate_statement(ledger, GATE_OPEN);
	bool ok = sql_exec(sql, err, statement);

	free(statement);
	return ok;
}

void
source_fence_shut_gate(Sql *fence, const Ledger *ledger)
{
	char *statement = gate_statement(ledger, GATE_SHUT);

	if (PQsendQuery(sql_pgconn(fence), statement))
		(void)!PQflush(sql_pgconn(fence));
	free(statement);
}

/* Of whatever tables have it on, whether or not the catalogue knows them. All in one
 * transaction: half a fence is of no use. ALTER TABLE waits for those writers only who have
 * waited at the gate, which is opened first: they go on. */
bool
source_fence_disable(Sql *source, const Ledger *ledger, const Catalog *catalog, Error *err)
{
	Buffer sql = BUFFER_INIT;
	int tables;

	(void)catalog;
	if (!source_fence_disable_sql(source, ledger, &sql, &tables, err))
		return false;
	Locked locked = {.sql = source, .what = "switching the fence off"};
	bool ok = tables == 0 || (source_fence_open_gate(source, ledger, err) &&
	                          locked_exec(&locked, buffer_cstr(&sql), err));
	if (ok && tables > 0)
		log_info("setup", "fence off on %d tables", tables);
	buffer_free(&sql);
	return ok;
}

bool
source_fence_disable_sql(Sql *source, const Ledger *ledger, Buffer *sql, int *tables, Error *err)
{
	PGresult *rows = query_triggers(source, ledger, "AND t.tgenabled <> 'D'", err);

	if (rows == NULL)
		return error_add_context(err, "fence");
	*tables = PQntuples(rows);
	for (int i = 0; i < *tables; i++)
		put_switch(PQgetvalue(rows, i, 1), PQgetvalue(rows, i, 2), "DISABLE", ledger, sql);
	PQclear(rows);
	return true;
}

bool
source_fence_state(Sql *source, const Ledger *ledger, bool *on, Error *err)
{
	PGresult *rows = query_triggers(source, ledger, "AND t.tgenabled <> 'D'", err);

	if (rows == NULL)
		return error_add_context(err, "fence");
	*on = PQntuples(rows) > 0;
	PQclear(rows);
	return true;
}

/* ---- the marker ---- */

/* The commit has to be in the WAL that the walsender may send, so it is flushed whatever
 * the role's synchronous_commit says (the session sets it on). */
bool
source_emit_marker(Sql *source, const Ledger *ledger, const char *content, Error *err)
{
	const char *values[] = {content};
	char *text = sql_server_version(source) >= 140000
	                 ? mem_printf("SELECT pg_catalog.pg_logical_emit_message(true, '%s', $1)",
	                              ledger->name)
	                 : mem_printf("INSERT INTO %s.marker (content) VALUES ($1)", ledger->schema);
	PGresult *result = sql_query_params(source, err, text, 1, values);

	free(text);
	if (result == NULL)
		return error_add_context(err, "emitting the marker");
	PQclear(result);
	return true;
}
