/*
 * snapshot.h: was a transaction visible in a table's snapshot? (C2)
 *
 * Text form "xmin:xmax:xip,xip,..." of pg_current_snapshot() (64-bit xids, PostgreSQL
 * documentation, "Transaction ID and Snapshot Information Functions").
 */
#ifndef PGBATON_APPLY_BATCH_SNAPSHOT_H
#define PGBATON_APPLY_BATCH_SNAPSHOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/arena.h"
#include "common/error.h"

typedef struct {
	uint64_t xmin;
	uint64_t xmax;
	uint64_t *xip; /* sorted, in the arena */
	size_t xip_count;
} Snapshot;

MUST_CHECK bool snapshot_parse(const char *text, Arena *arena, Snapshot *out, Error *err);
/* xid: 32 bits from the stream, widened by the epoch that brings it nearest to xmax. */
bool snapshot_sees(const Snapshot *snapshot, uint32_t xid);

#endif
