/*
 * cores.h: how many lanes suit the target (--lanes when it is not given).
 *
 * A lane keeps one core of the target busy: its cores, 1 to 8. SQL tells them only to who may
 * read the server's files (superusers, members of pg_read_server_files that were granted
 * pg_read_file): /proc/cpuinfo, and cgroup v2's cpu.max, which is less in a container. All
 * others, and servers that are not on Linux, get CORES_UNKNOWN_LANES.
 */
#ifndef PGBATON_APPLY_LANE_CORES_H
#define PGBATON_APPLY_LANE_CORES_H

#include "apply/sql.h"

enum { CORES_MOST_LANES = 8, CORES_UNKNOWN_LANES = 4 };

/* *cores: 0 when they cannot be seen. False: the session is gone. */
MUST_CHECK bool cores_of_target(Sql *target, int *cores, Error *err);
int cores_lanes(int cores);

#endif
