#include "apply/finish/limit.h"

#include <poll.h>
#include <pthread.h>

typedef struct {
	const Stop *outer;
	Stop *limit; /* the work's */
	Stop *done;  /* the work has ended */
	int64_t deadline_ms;
	pthread_t thread;
} Limit;

static void *
limit_main(void *arg)
{
	Limit *limit = arg;

	if (!stop_wait_fd(limit->outer, stop_fd(limit->done), POLLIN, limit->deadline_ms, NULL))
		stop_request(limit->limit);
	return NULL;
}

static void
limit_begin(Limit *limit, const Stop *outer, int64_t deadline_ms)
{
	*limit = (Limit){
		.outer = outer,
		.limit = stop_new(),
		.done = stop_new(),
		.deadline_ms = deadline_ms,
	};
	CHECK(pthread_create(&limit->thread, NULL, limit_main, limit) == 0);
}

/* True: it had to end the work. */
static bool
limit_end(Limit *limit)
{
	stop_request(limit->done);
	pthread_join(limit->thread, NULL);
	bool reached = stop_requested(limit->limit) && !stop_requested(limit->outer);
	stop_free(limit->limit);
	stop_free(limit->done);
	return reached;
}

bool
within_deadline(const Stop *outer, int64_t deadline_ms, LimitedWork work, void *arg, Error *err)
{
	Limit limit;

	limit_begin(&limit, outer, deadline_ms);
	bool ok = work(limit.limit, arg, err);
	if (limit_end(&limit) && !ok)
		error_set(err, ERROR_TIMEOUT, "the hold's deadline has passed");
	return ok;
}
