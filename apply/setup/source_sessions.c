/* Who is connected to a database beside us: they write past whatever stands in front of it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "apply/setup/source.h"
#include "common/memory.h"

/* What a session does not let us see of others (without pg_read_all_stats) is NULL: those
 * are counted, too. Our own are known by their application_name. */
static PGresult *
query_sessions(Sql *sql, Error *err)
{
	return sql_query(sql, err,
	                 "SELECT coalesce(usename, ''), coalesce(application_name, ''),"
	                 " CASE WHEN client_addr IS NOT NULL THEN pg_catalog.host(client_addr)"
	                 " WHEN backend_type IS NULL THEN 'unknown' ELSE 'local' END,"
	                 " pid, (backend_xid IS NOT NULL)::int FROM pg_catalog.pg_stat_activity"
	                 " WHERE datname = current_database() AND pid <> pg_catalog.pg_backend_pid()"
	                 " AND coalesce(backend_type, 'client backend') = 'client backend'"
	                 " AND coalesce(application_name, '') NOT LIKE 'pgbaton%'");
}

static bool
is_among(uint32_t pid, const uint32_t *pids, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (pids[i] == pid)
			return true;
	return false;
}

/* others[]: who of the rows is not known to be ours. How many that are still. */
static size_t
strike_ours(const PGresult *rows, const OurSessions *ours, bool *others)
{
	uint32_t *pids = NULL;
	size_t count = ours->pids(ours->arg, &pids);
	size_t left = 0;

	for (int i = 0; i < PQntuples(rows); i++) {
		others[i] = others[i] && !is_among((uint32_t)sql_get_int(rows, i, 3), pids, count);
		left += others[i];
	}
	free(pids);
	return left;
}

/* A login of ours is known by its process when it is done. */
static bool
find_others(const PGresult *rows, const OurSessions *ours, bool *others, Error *err)
{
	enum { LOOKS = 10, LOOK_EVERY_MS = 20 };

	for (int i = 0; i < PQntuples(rows); i++)
		others[i] = true;
	if (ours == NULL)
		return true;
	for (int i = 0; i < LOOKS && strike_ours(rows, ours, others) > 0; i++)
		if (!stop_sleep_ms(ours->stop, LOOK_EVERY_MS, err))
			return false;
	return true;
}

static bool
is_of(const SessionGroup *group, const PGresult *rows, int row)
{
	return strcmp(group->user, PQgetvalue(rows, row, 0)) == 0 &&
	       strcmp(group->application, PQgetvalue(rows, row, 1)) == 0 &&
	       strcmp(group->address, PQgetvalue(rows, row, 2)) == 0;
}

static SessionGroup *
group_of(SessionGroups *groups, const PGresult *rows, int row)
{
	for (size_t i = 0; i < groups->count; i++)
		if (is_of(&groups->groups[i], rows, row))
			return &groups->groups[i];
	if (groups->count == SESSION_GROUPS_MAX)
		return NULL;
	SessionGroup *group = &groups->groups[groups->count++];
	snprintf(group->user, sizeof(group->user), "%s", PQgetvalue(rows, row, 0));
	snprintf(group->application, sizeof(group->application), "%s", PQgetvalue(rows, row, 1));
	snprintf(group->address, sizeof(group->address), "%s", PQgetvalue(rows, row, 2));
	return group;
}

static int
by_sessions(const void *a, const void *b)
{
	const SessionGroup *x = a, *y = b;
	int order = (x->sessions < y->sessions) - (x->sessions > y->sessions);

	return order != 0 ? order : strcmp(x->user, y->user);
}

bool
source_sessions(Sql *sql, const OurSessions *ours, SessionGroups *out, Error *err)
{
	PGresult *rows = query_sessions(sql, err);

	*out = (SessionGroups){.count = 0};
	if (rows == NULL)
		return error_add_context(err, "looking for other sessions");
	bool *others = mem_zalloc((size_t)PQntuples(rows) + 1);
	bool ok = find_others(rows, ours, others, err);
	for (int i = 0; ok && i < PQntuples(rows); i++) {
		SessionGroup *group = others[i] ? group_of(out, rows, i) : NULL;
		uint64_t writing = (uint64_t)sql_get_int(rows, i, 4);
		out->sessions += others[i];
		out->writing += others[i] ? writing : 0;
		if (group == NULL)
			continue;
		group->sessions++;
		group->writing += writing;
	}
	qsort(out->groups, out->count, sizeof(out->groups[0]), by_sessions);
	free(others);
	PQclear(rows);
	return ok;
}

void
source_sessions_describe(const SessionGroup *group, char *out, size_t size)
{
	snprintf(out, size, "%llu of user \"%s\", application \"%s\", from %s%s",
	         (unsigned long long)group->sessions, group->user, group->application, group->address,
	         group->writing > 0 ? " (writing now)" : "");
}
