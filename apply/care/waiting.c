#include "apply/care/waiting.h"

#include <stdio.h>

/* pg_blocking_pids() stops the lock manager for a moment, so it is asked only of who waits. */
bool
waiting_read(Sql *source, char *out, size_t size, Error *err)
{
	PGresult *rows = sql_query(
		source, err,
		"SELECT a.pid, a.usename, a.application_name, pg_catalog.left(pg_catalog.regexp_replace("
		"a.query, '\\s+', ' ', 'g'), 60) FROM pg_catalog.pg_stat_activity a"
		" WHERE a.wait_event_type = 'Lock' AND a.datname = pg_catalog.current_database()"
		" AND a.application_name NOT LIKE 'pgbaton %' AND EXISTS (SELECT 1"
		" FROM pg_catalog.unnest(pg_catalog.pg_blocking_pids(a.pid)) b (pid)"
		" JOIN pg_catalog.pg_stat_activity o ON o.pid = b.pid"
		" WHERE o.application_name = 'pgbaton copy') ORDER BY a.query_start LIMIT 1");

	if (rows == NULL)
		return false;
	out[0] = '\0';
	if (PQntuples(rows) > 0)
		snprintf(out, size, "process %s of user \"%s\" (%s) waits for a lock of the copy: %s",
		         PQgetvalue(rows, 0, 0), PQgetvalue(rows, 0, 1), PQgetvalue(rows, 0, 2),
		         PQgetvalue(rows, 0, 3));
	PQclear(rows);
	return true;
}

/* What we may not see of somebody else's session is NULL. A prepared transaction has no process. */
bool
waiting_lanes_read(Sql *target, const char *side, int at_least_s, char *out, size_t size,
                   Error *err)
{
	PGresult *rows = sql_queryf(
		target, err,
		"SELECT CASE WHEN a.wait_event = 'SyncRep' THEN 'a synchronous standby"
		" (synchronous_standby_names)' WHEN b.pid = 0 THEN 'a prepared transaction"
		" (pg_prepared_xacts)' ELSE pg_catalog.format('process %%s of user \"%%s\" (%%s), %%s: %%s',"
		" b.pid, o.usename, o.application_name, o.state, pg_catalog.left("
		"pg_catalog.regexp_replace(o.query, '\\s+', ' ', 'g'), 60)) END"
		" FROM pg_catalog.pg_stat_activity a LEFT JOIN LATERAL"
		" pg_catalog.unnest(pg_catalog.pg_blocking_pids(a.pid)) b (pid)"
		" ON a.wait_event_type = 'Lock' LEFT JOIN pg_catalog.pg_stat_activity o ON o.pid = b.pid"
		" WHERE a.application_name LIKE 'pgbaton apply%%' AND a.state = 'active'"
		" AND a.datname = pg_catalog.current_database() AND (a.wait_event = 'SyncRep'"
		" OR b.pid IS NOT NULL AND coalesce(o.application_name, '') NOT LIKE 'pgbaton apply%%')"
		" AND a.query_start < pg_catalog.clock_timestamp() - %d * interval '1 second'"
		" ORDER BY a.query_start, b.pid LIMIT 1",
		at_least_s);

	if (rows == NULL)
		return false;
	out[0] = '\0';
	if (PQntuples(rows) > 0)
		snprintf(out, size, "the apply waits on the %s for %s", side, PQgetvalue(rows, 0, 0));
	PQclear(rows);
	return true;
}
