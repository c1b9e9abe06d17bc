/*
 * stop.h: one "please stop" that every thread can wait for together with its
 * sockets.
 *
 * stop_request may be called from any thread and from a signal handler; it is
 * never taken back. The descriptor becomes readable and stays so.
 */
#ifndef PGBATON_COMMON_STOP_H
#define PGBATON_COMMON_STOP_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"

typedef struct Stop Stop;

Stop *stop_new(void);
void stop_free(Stop *stop);
void stop_request(Stop *stop);
bool stop_requested(const Stop *stop); /* NULL: false */
int stop_fd(const Stop *stop);         /* for poll; NULL: -1 */

/*
 * Waits until fd is ready for `events` (POLLIN, POLLOUT), the stop is
 * requested or deadline_ms (clock.h, 0 = none) passes. fd -1 only sleeps.
 * True when fd is ready; false with ERROR_CANCELLED, ERROR_TIMEOUT or
 * ERROR_NETWORK. stop may be NULL.
 */
MUST_CHECK bool stop_wait_fd(const Stop *stop, int fd, short events, int64_t deadline_ms,
                             Error *err);

/* Sleeps ms; false at once with ERROR_CANCELLED when a stop is requested. */
MUST_CHECK bool stop_sleep_ms(const Stop *stop, int64_t ms, Error *err);

#endif
