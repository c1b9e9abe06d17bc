#include "common/clock.h"

#include <limits.h>
#include <stdlib.h>
#include <time.h>

static int64_t
read_us(clockid_t id)
{
	struct timespec ts;
	clock_gettime(id, &ts);
	return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

int64_t
clock_mono_us(void)
{
	return read_us(CLOCK_MONOTONIC);
}

int64_t
clock_mono_ms(void)
{
	return clock_mono_us() / 1000;
}

int64_t
clock_wall_us(void)
{
	return read_us(CLOCK_REALTIME);
}

int64_t
clock_pg_us(void)
{
	return clock_wall_us() - CLOCK_PG_EPOCH_US;
}

int64_t
clock_jitter_ms(int64_t base_ms)
{
	static _Thread_local unsigned seed;
	if (seed == 0)
		seed = (unsigned)clock_mono_us() | 1;
	double factor = 0.5 + (double)rand_r(&seed) / ((double)RAND_MAX + 1);
	return (int64_t)((double)base_ms * factor);
}

int64_t
deadline_in_ms(int64_t ms)
{
	return clock_mono_ms() + ms;
}

int
deadline_left_ms(int64_t deadline_ms)
{
	if (deadline_ms == 0)
		return INT_MAX;
	int64_t left = deadline_ms - clock_mono_ms();
	if (left < 0)
		return 0;
	return left > INT_MAX ? INT_MAX : (int)left;
}

void
cond_init_monotonic(pthread_cond_t *cond)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(cond, &attr);
	pthread_condattr_destroy(&attr);
}
