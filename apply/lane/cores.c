#include "apply/lane/cores.h"

#include <stdlib.h>

/* Asked for first, so that a plain user's start leaves no error in the target's log. The
 * function with a length, since that one may find no file also before 16. */
static const char may_read[] =
	"SELECT pg_catalog.has_function_privilege("
	"'pg_catalog.pg_read_file(text, bigint, bigint, boolean)', 'EXECUTE')"
	" AND pg_catalog.pg_has_role('pg_read_server_files', 'USAGE')";

/* A quota of one and a half cores keeps two lanes busy for most of the time. */
static const char count_cores[] =
	"SELECT least(nullif(pg_catalog.regexp_count(pg_catalog.pg_read_file('/proc/cpuinfo', 0,"
	" 16777216, true), '^processor\\M', 1, 'n'), 0), (SELECT ceil(q[1]::numeric / q[2]::numeric)"
	" FROM pg_catalog.regexp_match(pg_catalog.pg_read_file('/sys/fs/cgroup/cpu.max', 0, 100,"
	" true), '^(\\d+) ([1-9]\\d*)') q))";

bool
cores_of_target(Sql *target, int *cores, Error *err)
{
	Error local = ERROR_INIT;
	char text[32];

	*cores = 0;
	if (!sql_value(target, err, text, sizeof(text), may_read))
		return false;
	if (text[0] != 't')
		return true;
	/* What the server's system does not let it read is as good as not there. */
	if (!sql_value(target, &local, text, sizeof(text), count_cores)) {
		if (local.class == ERROR_SQL)
			return true;
		*err = local;
		return false;
	}
	*cores = atoi(text);
	return true;
}

int
cores_lanes(int cores)
{
	if (cores <= 0)
		return CORES_UNKNOWN_LANES;
	return cores < CORES_MOST_LANES ? cores : CORES_MOST_LANES;
}
