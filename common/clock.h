/*
 * clock.h: monotonic time for deadlines, wall time for people and PostgreSQL.
 */
#ifndef PGBATON_COMMON_CLOCK_H
#define PGBATON_COMMON_CLOCK_H

#include <pthread.h>
#include <stdint.h>

/* Microseconds between 1970-01-01 and 2000-01-01, PostgreSQL's epoch. */
#define CLOCK_PG_EPOCH_US INT64_C(946684800000000)

int64_t clock_mono_us(void);
int64_t clock_mono_ms(void);
int64_t clock_wall_us(void); /* since 1970 */
int64_t clock_pg_us(void);   /* since 2000, as in replication messages */

/* base_ms scaled by a random factor in [0.5, 1.5): for retries that must not
 * march in step. */
int64_t clock_jitter_ms(int64_t base_ms);

/* A deadline is a clock_mono_ms value; 0 means none. Left: never negative,
 * INT_MAX when there is none, ready for poll(2). */
int64_t deadline_in_ms(int64_t ms);
int deadline_left_ms(int64_t deadline_ms);

/* For pthread_cond_timedwait until a moment of the same clock. */
void cond_init_monotonic(pthread_cond_t *cond);

#endif
