#include "apply/setup/running.h"

#include <inttypes.h>
#include <string.h>

#include "apply/setup/locked.h"
#include "common/bytes.h"
#include "common/memory.h"

enum { NAMED = 4 };

static void
put_pids(Buffer *sql, const uint32_t *pids, size_t count)
{
	buffer_put_text(sql, "ANY ('{");
	for (size_t i = 0; i < count; i++)
		buffer_printf(sql, "%s%" PRIu32, i > 0 ? "," : "", pids[i]);
	buffer_put_text(sql, "}'::int[])");
}

char *
running_now(Sql *sql, const Ledger *ledger, const uint32_t *pids, size_t pid_count, const char *of,
            Error *err)
{
	Buffer query = BUFFER_INIT;

	buffer_printf(
		&query,
		"SELECT coalesce(array_agg(DISTINCT l.virtualtransaction), '{}') FROM pg_catalog.pg_locks l"
		" LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid"
		" WHERE l.granted AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()"
		" AND (l.locktype = 'relation' AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d"
		" WHERE d.datname = pg_catalog.current_database()) AND l.mode <> 'AccessShareLock'"
		" AND (l.mode <> 'ShareUpdateExclusiveLock' OR a.usesysid IS NOT NULL)"
		" AND EXISTS (SELECT 1 FROM pg_catalog.pg_trigger t WHERE t.tgrelid = l.relation"
		" AND t.tgname = '%s_fence' AND NOT t.tgisinternal)"
		" OR l.locktype = 'virtualxid' AND l.pid NOT IN (SELECT r.pid FROM"
		" pg_catalog.pg_stat_replication r) AND l.pid = ",
		ledger->name);
	put_pids(&query, pids, pid_count);
	buffer_put_text(&query, ")");
	if (of != NULL)
		buffer_printf(&query, " AND l.virtualtransaction = ANY ('%s'::text[])", of);
	PGresult *result = sql_query(sql, err, buffer_cstr(&query));
	buffer_free(&query);
	char *which = result != NULL ? mem_strdup(PQgetvalue(result, 0, 0)) : NULL;

	PQclear(result);
	return which;
}

bool
running_none(const char *which)
{
	return strcmp(which, "{}") == 0;
}

void
running_describe(Sql *sql, const char *which, char *out, size_t size)
{
	out[0] = '\0';
	PGresult *sessions = sql_queryf(
		sql, NULL,
		"SELECT " LOCKED_SESSION_COLUMNS " FROM pg_catalog.pg_stat_activity a WHERE a.pid IN"
		" (SELECT l.pid FROM pg_catalog.pg_locks l"
		" WHERE l.virtualtransaction = ANY ('%s'::text[])) ORDER BY a.xact_start, a.pid LIMIT %d",
		which, NAMED);
	for (int i = 0; sessions != NULL && i < PQntuples(sessions); i++)
		locked_describe(sessions, i, out, size);
	PQclear(sessions);
	PGresult *prepared = sql_queryf(
		sql, NULL,
		"SELECT " LOCKED_PREPARED_COLUMNS " FROM pg_catalog.pg_prepared_xacts p WHERE EXISTS"
		" (SELECT 1 FROM pg_catalog.pg_locks x WHERE x.transactionid = p.transaction AND x.granted"
		" AND x.virtualtransaction = ANY ('%s'::text[])) ORDER BY p.prepared LIMIT %d",
		which, NAMED);
	if (prepared != NULL)
		locked_describe_prepared(prepared, out, size);
	PQclear(prepared);
}
