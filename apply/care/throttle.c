#include "apply/care/throttle.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/clock.h"
#include "common/memory.h"

/* What may be passed at once after a rest, as a part of a second: the rate is kept over any
 * longer time. And how long nobody looks whether rate or hold have changed. */
#define BURST_SECONDS 0.1
enum { LOOK_EVERY_MS = 50 };

struct Throttle {
	pthread_mutex_t lock;
	double tokens; /* bytes; negative: taken ahead */
	int64_t filled_us;
	ThrottleState state;
};

Throttle *
throttle_new(void)
{
	Throttle *throttle = mem_zalloc(sizeof(Throttle));

	pthread_mutex_init(&throttle->lock, NULL);
	throttle->filled_us = clock_mono_us();
	return throttle;
}

void
throttle_free(Throttle *throttle)
{
	if (throttle == NULL)
		return;
	pthread_mutex_destroy(&throttle->lock);
	free(throttle);
}

void
throttle_set_rate(Throttle *throttle, uint64_t rate)
{
	pthread_mutex_lock(&throttle->lock);
	throttle->state.rate = rate;
	throttle->tokens = 0;
	throttle->filled_us = clock_mono_us();
	pthread_mutex_unlock(&throttle->lock);
}

void
throttle_hold(Throttle *throttle, const char *reason)
{
	pthread_mutex_lock(&throttle->lock);
	snprintf(throttle->state.held, sizeof(throttle->state.held), "%s",
	         reason != NULL ? reason : "");
	pthread_mutex_unlock(&throttle->lock);
}

void
throttle_state(Throttle *throttle, ThrottleState *out)
{
	pthread_mutex_lock(&throttle->lock);
	*out = throttle->state;
	pthread_mutex_unlock(&throttle->lock);
}

/* Lock held. */
static void
fill(Throttle *throttle)
{
	int64_t now_us = clock_mono_us();
	double rate = (double)throttle->state.rate;

	throttle->tokens += rate * (double)(now_us - throttle->filled_us) / 1e6;
	if (throttle->tokens > rate * BURST_SECONDS)
		throttle->tokens = rate * BURST_SECONDS;
	throttle->filled_us = now_us;
}

/* Lock held. How long to wait until it can be tried again; 0: taken. */
static int64_t
try_take(Throttle *throttle, uint64_t bytes)
{
	if (throttle->state.held[0] != '\0')
		return LOOK_EVERY_MS;
	if (throttle->state.rate == 0)
		return 0;
	fill(throttle);
	if (throttle->tokens < 0) {
		double ms = -throttle->tokens * 1e3 / (double)throttle->state.rate;
		return ms < LOOK_EVERY_MS ? (int64_t)ms + 1 : LOOK_EVERY_MS;
	}
	throttle->tokens -= (double)bytes;
	return 0;
}

bool
throttle_take(Throttle *throttle, uint64_t bytes, const Stop *stop, Error *err)
{
	bool waited = false;

	if (throttle == NULL)
		return true;
	for (;;) {
		pthread_mutex_lock(&throttle->lock);
		int64_t wait_ms = try_take(throttle, bytes);
		throttle->state.waits += wait_ms > 0 && !waited;
		pthread_mutex_unlock(&throttle->lock);
		if (wait_ms == 0)
			return true;
		waited = true;
		if (!stop_sleep_ms(stop, wait_ms, err))
			return false;
	}
}
