/*
 * Looks after the stream while the copy runs: what is copied beside one that is lost for good (its slot
 * dropped, or invalidated) is copied for nothing, perhaps for hours.
 */
#include <poll.h>
#include <stdlib.h>

#include "common/memory.h"
#include "proxy/migration/internal.h"

enum { LOOK_EVERY_MS = 500 };

struct CopyWatch {
	Migration *m;
	Stop *copy; /* the copy's */
	Stop *over; /* ours */
	Error lost;
	pthread_t thread;
	bool started;
};

/* The copy ends, or the migration: true. */
static bool
rest(const CopyWatch *watch)
{
	struct pollfd stops[] = {{.fd = stop_fd(watch->m->stop), .events = POLLIN},
	                         {.fd = stop_fd(watch->over), .events = POLLIN}};

	(void)poll(stops, 2, LOOK_EVERY_MS);
	return stop_requested(watch->m->stop) || stop_requested(watch->over);
}

static void *
watch_main(void *arg)
{
	CopyWatch *watch = arg;
	Way way = way_forth(watch->m);
	bool lost = false;

	while (!lost && !rest(watch))
		lost = way_failed(&way, &watch->lost);
	if (lost || stop_requested(watch->m->stop))
		stop_request(watch->copy);
	return NULL;
}

CopyWatch *
copy_watch_begin(Migration *m, Error *err)
{
	CopyWatch *watch = mem_zalloc(sizeof(CopyWatch));

	watch->m = m;
	watch->copy = stop_new();
	watch->over = stop_new();
	watch->started = pthread_create(&watch->thread, NULL, watch_main, watch) == 0;
	if (watch->started)
		return watch;
	(void)!copy_watch_end(watch, NULL);
	error_set(err, ERROR_BUG, "cannot start a thread");
	return NULL;
}

const Stop *
copy_watch_stop(const CopyWatch *watch)
{
	return watch->copy;
}

bool
copy_watch_end(CopyWatch *watch, Error *err)
{
	if (watch->started) {
		stop_request(watch->over);
		pthread_join(watch->thread, NULL);
	}
	bool whole = watch->lost.class == ERROR_NONE;
	if (!whole && err != NULL) {
		*err = watch->lost;
		error_add_context(err, "the copy was ended, for its stream is lost");
	}
	stop_free(watch->copy);
	stop_free(watch->over);
	free(watch);
	return whole;
}
