/*
 * standbys.h: how far the source's own standbys are behind, and the limit that the copy keeps.
 *
 * By pg_stat_replication (PostgreSQL documentation, "The Cumulative Statistics System"):
 * walsenders that serve a standby which replays; logical ones, ours among them, base backups
 * and pg_receivewal do not count. A role without pg_read_all_stats sees of them only that they are
 * there.
 */
#ifndef PGBATON_APPLY_CARE_STANDBYS_H
#define PGBATON_APPLY_CARE_STANDBYS_H

#include <stddef.h>

#include "apply/sql.h"

/* 0: no limit of this kind. */
typedef struct {
	int64_t ms;
	uint64_t bytes;
} LagLimit;

typedef struct {
	int count;
	int hidden;     /* that we may not look at */
	char worst[64]; /* application_name of the one most bytes behind; "": none */
	double seconds; /* replay_lag of the slowest one; 0: idle or level */
	uint64_t bytes; /* not replayed by the one most behind */
} Standbys;

MUST_CHECK bool standbys_read(Sql *source, Standbys *out, Error *err);

/*
 * Should the copy rest? It does from the limit on, and goes on below half of it, so that it
 * does not begin and stop all the time: held says what it does now. Then reason is filled.
 */
bool standbys_too_far(const Standbys *standbys, const LagLimit *limit, bool held, char *reason,
                      size_t size);

#endif
