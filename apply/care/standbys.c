#include "apply/care/standbys.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* state is NULL where we may not look. replay_lag of a standby that has stopped replaying
 * grows; that of one which is level is NULL. */
static const char standbys_sql[] =
	"SELECT r.application_name, coalesce(extract(epoch FROM r.replay_lag), 0)::float8,"
	" greatest(pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), r.replay_lsn), 0)"
	"::bigint, r.state IS NULL"
	" FROM pg_catalog.pg_stat_replication r"
	" LEFT JOIN pg_catalog.pg_replication_slots s ON s.active_pid = r.pid"
	" WHERE coalesce(s.slot_type, 'physical') = 'physical'"
	" AND (r.state IS NULL OR (r.state IN ('catchup', 'streaming') AND r.replay_lsn IS NOT NULL))"
	" ORDER BY 3 DESC NULLS LAST";

bool
standbys_read(Sql *source, Standbys *out, Error *err)
{
	PGresult *rows = sql_query(source, err, standbys_sql);

	*out = (Standbys){0};
	if (rows == NULL)
		return error_add_context(err, "looking at the source's standbys");
	for (int i = 0; i < PQntuples(rows); i++) {
		if (sql_get_bool(rows, i, 3)) {
			out->hidden++;
			continue;
		}
		double seconds = strtod(sql_get(rows, i, 1), NULL);
		if (out->count++ == 0) {
			const char *name = sql_get(rows, i, 0);
			snprintf(out->worst, sizeof(out->worst), "%s", name != NULL ? name : "");
			out->bytes = (uint64_t)sql_get_int(rows, i, 2);
		}
		if (seconds > out->seconds)
			out->seconds = seconds;
	}
	PQclear(rows);
	return true;
}

bool
standbys_too_far(const Standbys *standbys, const LagLimit *limit, bool held, char *reason,
                 size_t size)
{
	double part = held ? 0.5 : 1;
	double most = (double)limit->ms / 1e3;

	if (limit->ms > 0 && standbys->seconds > most * part) {
		snprintf(
			reason, size,
			"a standby of the source is %.1f s behind (--max-source-lag %g; goes on below half)",
			standbys->seconds, most);
		return true;
	}
	if (limit->bytes > 0 && (double)standbys->bytes > (double)limit->bytes * part) {
		snprintf(
			reason, size,
			"standby \"%s\" of the source is %llu bytes behind (--max-source-lag %lluB; goes on"
			" below half)",
			standbys->worst, (unsigned long long)standbys->bytes, (unsigned long long)limit->bytes);
		return true;
	}
	return false;
}
