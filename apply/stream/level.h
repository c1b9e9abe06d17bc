/*
 * level.h: where the lanes stand, and bringing them level after a crash (P3, P4).
 */
#ifndef PGBATON_APPLY_STREAM_LEVEL_H
#define PGBATON_APPLY_STREAM_LEVEL_H

#include "apply/lane/lane.h"
#include "apply/stream/feed.h"

/*
 * Reads the progress rows by the lane's session; lanes that are behind get the net effect
 * of exactly what was routed to them between their position and the furthest (the rest of
 * the one batch whose commits were interrupted), each in one transaction. Then the number
 * of lanes becomes `wanted` (in *ledger and on the target). *level: where all are now.
 */
MUST_CHECK bool level_lanes(Lane *lane, Run *run, Ledger *ledger, const FeedOptions *options,
                            Lsn start, int wanted, Progress *level, Error *err);

#endif
