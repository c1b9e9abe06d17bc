/*
 * late.h: what the stream does not carry, brought up to date under the fence.
 *
 * Writes to unlogged tables are in no WAL that is decoded: at the cutover, while the
 * fence keeps writers out, their rows are copied again from nothing. A cutover that is undone afterwards
 * leaves newer rows on a target that nobody uses yet; the next one copies them again.
 */
#ifndef PGBATON_APPLY_FINISH_LATE_H
#define PGBATON_APPLY_FINISH_LATE_H

#include "apply/catalog/catalog.h"
#include "apply/ledger.h"
#include "apply/sql.h"
#include "common/stop.h"
#include "protocol/conninfo.h"

typedef struct {
	const ConnInfo *source;
	const ConnInfo *target;
	Sql *target_sql;
	const Ledger *ledger;
	Catalog *catalog; /* the unlogged tables' states and counters change */
	int jobs;
	int64_t deadline_ms; /* of the hold (clock.h) */
	const Stop *stop;
} LateCopy;

/* The caller holds the fence's locks. At the deadline all of it is given up: ERROR_CONFIG
 * that says what would have to change, since another try would not be faster. */
MUST_CHECK bool late_copy(const LateCopy *late, Error *err);

/* Seconds that late_copy will hold writers, from sizes: for the check. */
double late_estimate_s(const Catalog *catalog);

#endif
