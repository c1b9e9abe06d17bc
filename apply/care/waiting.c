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
