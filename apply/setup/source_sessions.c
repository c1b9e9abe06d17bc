/* Who is connected to a database beside us: they write past whatever stands in front of it. */
#include <stdio.h>

#include "apply/setup/source.h"

/* As an array's text. */
static void
put_pids(Buffer *out, const uint32_t *pids, size_t count)
{
	buffer_put_text(out, "{");
	for (size_t i = 0; i < count; i++)
		buffer_printf(out, "%s%u", i > 0 ? "," : "", pids[i]);
	buffer_put_text(out, "}");
}

/* What a session does not let us see of others (without pg_read_all_stats) is NULL: those
 * are counted, too. Our own are known by their application_name, the listener's, which has
 * the application's, by their pid. */
static PGresult *
query_sessions(Sql *sql, const uint32_t *ours, size_t our_count, Error *err)
{
	Buffer pids = BUFFER_INIT;

	put_pids(&pids, ours, our_count);
	const char *values[] = {buffer_cstr(&pids)};
	PGresult *rows = sql_query_params(
		sql, err,
		"SELECT coalesce(usename, ''), coalesce(application_name, ''),"
		" CASE WHEN client_addr IS NOT NULL THEN pg_catalog.host(client_addr)"
		" WHEN backend_type IS NULL THEN 'unknown' ELSE 'local' END,"
		" count(*), count(backend_xid) FROM pg_catalog.pg_stat_activity"
		" WHERE datname = current_database() AND pid <> pg_catalog.pg_backend_pid()"
		" AND coalesce(backend_type, 'client backend') = 'client backend'"
		" AND coalesce(application_name, '') NOT LIKE 'pgbaton%'"
		" AND pid <> ALL ($1::int[]) GROUP BY 1, 2, 3 ORDER BY 4 DESC, 1, 2, 3",
		1, values);
	buffer_free(&pids);
	return rows;
}

bool
source_sessions(Sql *sql, const uint32_t *ours, size_t our_count, SessionGroups *out, Error *err)
{
	PGresult *rows = query_sessions(sql, ours, our_count, err);

	*out = (SessionGroups){.count = 0};
	if (rows == NULL)
		return error_add_context(err, "looking for other sessions");
	for (int i = 0; i < PQntuples(rows); i++) {
		out->sessions += (uint64_t)sql_get_int(rows, i, 3);
		out->writing += (uint64_t)sql_get_int(rows, i, 4);
		if (out->count == SESSION_GROUPS_MAX)
			continue;
		SessionGroup *group = &out->groups[out->count++];
		snprintf(group->user, sizeof(group->user), "%s", PQgetvalue(rows, i, 0));
		snprintf(group->application, sizeof(group->application), "%s", PQgetvalue(rows, i, 1));
		snprintf(group->address, sizeof(group->address), "%s", PQgetvalue(rows, i, 2));
		group->sessions = (uint64_t)sql_get_int(rows, i, 3);
		group->writing = (uint64_t)sql_get_int(rows, i, 4);
	}
	PQclear(rows);
	return true;
}

void
source_sessions_describe(const SessionGroup *group, char *out, size_t size)
{
	snprintf(out, size, "%llu of user \"%s\", application \"%s\", from %s%s",
	         (unsigned long long)group->sessions, group->user, group->application, group->address,
	         group->writing > 0 ? " (writing now)" : "");
}
