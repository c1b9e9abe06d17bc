/*
 * throttle.h: how fast the copy may read the source, all workers together.
 *
 * A token bucket in bytes of COPY data as the source sends them. Whoever has a run of frames
 * in hand takes its bytes before it passes them on; meanwhile the source's backend waits in
 * its socket. Besides, the copy can be held altogether, with a reason for people. Neither
 * touches the replication connection, which has a socket and a thread of its own.
 *
 * Any thread may call anything; rate and hold may change at any time, and who waits already
 * goes by the new ones.
 */
#ifndef PGBATON_APPLY_CARE_THROTTLE_H
#define PGBATON_APPLY_CARE_THROTTLE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "common/stop.h"

typedef struct Throttle Throttle;

typedef struct {
	uint64_t rate;  /* bytes a second; 0: no limit */
	char held[200]; /* why it is held; "": it is not */
	uint64_t waits; /* how often somebody had to wait */
} ThrottleState;

Throttle *throttle_new(void);
void throttle_free(Throttle *throttle); /* NULL is allowed */

/* Bytes a second; 0: no limit. What was taken too early is forgotten. */
void throttle_set_rate(Throttle *throttle, uint64_t rate);
/* NULL: goes on. The text is copied. */
void throttle_hold(Throttle *throttle, const char *reason);
void throttle_state(Throttle *throttle, ThrottleState *out);

/*
 * Waits until the copy is not held and the bucket is not empty, then takes so much: more than
 * is there is paid for by whoever comes next, so a run is never cut. 0 bytes wait all the
 * same. False: ERROR_CANCELLED. throttle NULL: true at once.
 */
MUST_CHECK bool throttle_take(Throttle *throttle, uint64_t bytes, const Stop *stop, Error *err);

#endif
