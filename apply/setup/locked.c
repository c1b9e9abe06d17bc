#include "apply/setup/locked.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/memory.h"

enum { NAMED_BLOCKERS = 4, PAUSE_FIRST_MS = 150, PAUSE_MOST_MS = 2000, AUTOVACUUM_MARGIN_MS = 300 };

void
locked_describe(const PGresult *sessions, int row, char *out, size_t size)
{
	size_t len = strlen(out);
	const char *application = PQgetvalue(sessions, row, 2);
	const char *query = PQgetvalue(sessions, row, 5);

	snprintf(out + len, size - len, "%spid %s (%s%s%s%s%s, in a transaction for %s s%s%s)",
	         len > 0 ? ", " : "", PQgetvalue(sessions, row, 0), PQgetvalue(sessions, row, 1),
	         *application ? " " : "", application, *PQgetvalue(sessions, row, 3) ? ", " : "",
	         PQgetvalue(sessions, row, 3), PQgetvalue(sessions, row, 4), *query ? ": " : "", query);
}

void
locked_describe_prepared(const PGresult *prepared, char *out, size_t size)
{
	for (int i = 0; i < PQntuples(prepared); i++) {
		size_t len = strlen(out);
		snprintf(out + len, size - len, "%sprepared transaction %s (of %s in %s, for %s s)",
		         len > 0 ? ", " : "", PQgetvalue(prepared, i, 0), PQgetvalue(prepared, i, 1),
		         PQgetvalue(prepared, i, 2), PQgetvalue(prepared, i, 3));
	}
}

/* No session has them any more: in pg_locks who holds the transaction's own lock. */
#define PREPARED_HOLDING                                                                          \
	" FROM pg_catalog.pg_prepared_xacts p WHERE EXISTS"                                           \
	" (SELECT 1 FROM pg_catalog.pg_locks x JOIN pg_catalog.pg_locks l USING (virtualtransaction)" \
	" WHERE x.transactionid = p.transaction AND x.granted AND x.pid IS NULL AND l.pid IS NULL"    \
	" AND l.locktype = 'relation' AND l.relation >= 16384 AND l.database ="                       \
	" (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())"

/* How many there are. */
static int
prepared_blockers(Sql *sql, uint32_t relation, char *out, size_t size)
{
	PGresult *result = sql_queryf(sql, NULL,
	                              "SELECT " LOCKED_PREPARED_COLUMNS PREPARED_HOLDING
	                              " AND %u IN (0, l.relation)) ORDER BY p.prepared LIMIT %d",
	                              relation, NAMED_BLOCKERS);
	int count = result != NULL ? PQntuples(result) : 0;

	if (result != NULL)
		locked_describe_prepared(result, out, size);
	PQclear(result);
	return count;
}

/* The lock that was waited for is gone from pg_locks by the time the wait was
 * given up, so the holders are found by the relation. */
void
locked_blockers(Sql *sql, uint32_t relation, char *out, size_t size, bool *only_autovacuum)
{
	char condition[80] = "a.xact_start < now() - interval '200 ms'";

	out[0] = '\0';
	if (relation != 0)
		snprintf(condition, sizeof(condition), "l.relation = %u", relation);
	PGresult *result = sql_queryf(
		sql, NULL,
		"SELECT " LOCKED_SESSION_COLUMNS " FROM pg_catalog.pg_stat_activity a"
		" WHERE a.pid <> pg_catalog.pg_backend_pid() AND EXISTS (SELECT 1"
		" FROM pg_catalog.pg_locks l WHERE l.pid = a.pid AND l.granted"
		" AND l.locktype = 'relation' AND l.relation >= 16384 AND l.database ="
		" (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())"
		" AND %s) ORDER BY a.xact_start, a.pid",
		condition);

	if (only_autovacuum != NULL)
		*only_autovacuum = result != NULL && PQntuples(result) > 0;
	if (result == NULL)
		return;
	for (int i = 0; i < PQntuples(result); i++) {
		if (i < NAMED_BLOCKERS)
			locked_describe(result, i, out, size);
		if (only_autovacuum != NULL && strcmp(PQgetvalue(result, i, 6), "autovacuum worker") != 0)
			*only_autovacuum = false;
	}
	PQclear(result);
	if (prepared_blockers(sql, relation, out, size) > 0 && only_autovacuum != NULL)
		*only_autovacuum = false;
}

/* Those of `which` ("{700,701}"; NULL: all) that there still are, like it; NULL: an error. */
static char *
prepared_now(Sql *sql, const char *which, Error *err)
{
	PGresult *result = sql_queryf(
		sql, err,
		"SELECT coalesce(array_agg(p.transaction::text), '{}')" PREPARED_HOLDING
		") AND (%s::text[] IS NULL OR p.transaction::text = ANY (%s))",
		which != NULL ? which : "NULL", which != NULL ? which : "NULL::text[]");
	char *left = result != NULL ? mem_printf("'%s'", PQgetvalue(result, 0, 0)) : NULL;

	PQclear(result);
	return left;
}

bool
locked_await_prepared(Sql *sql, int64_t deadline_ms, const Stop *stop, Error *err)
{
	enum { LOOK_FIRST_MS = 1, LOOK_MOST_MS = 16 };
	char *left = prepared_now(sql, NULL, err);
	char who[500] = "";

	for (int64_t pause_ms = LOOK_FIRST_MS; left != NULL && strcmp(left, "'{}'") != 0;) {
		if (deadline_left_ms(deadline_ms) == 0) {
			free(left);
			(void)prepared_blockers(sql, 0, who, sizeof(who));
			error_set(err, ERROR_TIMEOUT,
			          "prepared transactions hold tables and were not ended in time: %s",
			          who[0] != '\0' ? who : "ended just now");
			return error_set_hint(err,
			                      "COMMIT PREPARED or ROLLBACK PREPARED them, or allow a longer"
			                      " --hold-timeout");
		}
		char *before = left;
		left = stop_sleep_ms(stop, pause_ms, err) ? prepared_now(sql, before, err) : NULL;
		free(before);
		pause_ms = pause_ms < LOOK_MOST_MS ? pause_ms * 2 : pause_ms;
	}
	bool ok = left != NULL;
	free(left);
	return ok;
}

static bool
lock_not_had(const Error *err)
{
	return error_has_sqlstate(err, "55P03") || error_has_sqlstate(err, "40P01");
}

/* An autovacuum in the way is cancelled by the server for us, but only after we
 * have waited deadlock_timeout (1 s); with less patience than that we would meet it
 * for hours. Only superusers may shorten deadlock_timeout, everybody else waits once
 * for a little more than it. */
static int64_t
timeout_past_autovacuum(Sql *sql, int64_t lock_timeout_ms)
{
	char text[32];

	if (sql_exec(sql, NULL, "SET deadlock_timeout = '20ms'"))
		return lock_timeout_ms;
	if (!sql_value(sql, NULL, text, sizeof(text),
	               "SELECT setting FROM pg_catalog.pg_settings WHERE name = 'deadlock_timeout'"))
		return lock_timeout_ms;
	int64_t wanted = atoll(text) + AUTOVACUUM_MARGIN_MS;
	return wanted > lock_timeout_ms ? wanted : lock_timeout_ms;
}

static bool
try_once(Sql *sql, int64_t lock_timeout_ms, const char *statements, Error *err)
{
	if (!sql_execf(sql, err, "SET lock_timeout = %lld", (long long)lock_timeout_ms))
		return false;
	bool ok = sql_exec(sql, err, statements);
	bool reset = sql_exec(sql, ok ? err : NULL, "SET lock_timeout = 0");
	return ok && reset;
}

bool
locked_exec(const Locked *locked, const char *statements, Error *err)
{
	int64_t base_ms = locked->lock_timeout_ms > 0 ? locked->lock_timeout_ms : LOCKED_TIMEOUT_MS;
	int64_t timeout_ms = base_ms;
	int64_t patience = locked->patience_ms > 0 ? locked->patience_ms : LOCKED_PATIENCE_MS;
	int64_t deadline = deadline_in_ms(patience);
	int64_t pause_ms = PAUSE_FIRST_MS;
	char blockers[700];

	for (int tries = 1;; tries++) {
		Error failure = ERROR_INIT;
		bool only_autovacuum;

		if (try_once(locked->sql, timeout_ms, statements, &failure))
			return true;
		if (!lock_not_had(&failure)) {
			if (err != NULL)
				*err = failure;
			return error_add_context(err, "%s", locked->what);
		}
		locked_blockers(locked->sql, locked->relation, blockers, sizeof(blockers),
		                &only_autovacuum);
		const char *who = blockers[0] != '\0' ? blockers : "sessions that have ended meanwhile";
		if (deadline_left_ms(deadline) == 0) {
			error_set(err, ERROR_TIMEOUT,
			          "%s: the lock was not had in %d tries within %lld s; in the way: %s",
			          locked->what, tries, (long long)(patience / 1000), who);
			error_set_sqlstate(err, "55P03");
			return error_set_hint(err, "end those transactions (" LOCKED_ENDING
			                           ") or try again when they have ended");
		}
		log_info("setup", "%s: lock not had in %lld ms, in the way: %s; trying again", locked->what,
		         (long long)timeout_ms, who);
		timeout_ms = only_autovacuum ? timeout_past_autovacuum(locked->sql, base_ms) : base_ms;
		if (!stop_sleep_ms(locked->stop, clock_jitter_ms(pause_ms), err))
			return false;
		pause_ms = pause_ms * 2 < PAUSE_MOST_MS ? pause_ms * 2 : PAUSE_MOST_MS;
	}
}
