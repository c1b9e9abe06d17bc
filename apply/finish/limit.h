/*
 * limit.h: work that knows no deadline, but a stop, ended at a deadline.
 */
#ifndef PGBATON_APPLY_FINISH_LIMIT_H
#define PGBATON_APPLY_FINISH_LIMIT_H

#include <stdint.h>

#include "common/stop.h"

typedef bool (*LimitedWork)(const Stop *limit, void *arg, Error *err);

/* Runs work with a stop of its own, which a thread requests at the deadline (clock.h), or when
 * outer is requested. ERROR_TIMEOUT when the deadline has ended it. */
MUST_CHECK bool within_deadline(const Stop *outer, int64_t deadline_ms, LimitedWork work, void *arg,
                                Error *err);

#endif
