#include "common/stop.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/memory.h"

struct Stop {
	int fd;
	atomic_bool requested;
};

Stop *
stop_new(void)
{
	Stop *stop = mem_zalloc(sizeof(Stop));
	stop->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	CHECK(stop->fd >= 0);
	atomic_init(&stop->requested, false);
	return stop;
}

void
stop_free(Stop *stop)
{
	if (stop == NULL)
		return;
	close(stop->fd);
	free(stop);
}

void
stop_request(Stop *stop)
{
	int saved = errno; /* may run in a signal handler */
	uint64_t one = 1;

	atomic_store(&stop->requested, true);
	ssize_t ignored UNUSED = write(stop->fd, &one, sizeof(one));
	errno = saved;
}

bool
stop_requested(const Stop *stop)
{
	return stop != NULL && atomic_load(&((Stop *)(uintptr_t)stop)->requested);
}

int
stop_fd(const Stop *stop)
{
	return stop != NULL ? stop->fd : -1;
}

bool
stop_wait_fd(const Stop *stop, int fd, short events, int64_t deadline_ms, Error *err)
{
	for (;;) {
		struct pollfd fds[2] = {
			{.fd = fd, .events = events},
			{.fd = stop_fd(stop), .events = POLLIN},
		};
		int left = deadline_left_ms(deadline_ms);
		int n = poll(fds, 2, deadline_ms == 0 ? -1 : left);

		if (n < 0 && errno != EINTR)
			return error_set_errno(err, ERROR_NETWORK, errno, "poll");
		if (stop_requested(stop))
			return error_set(err, ERROR_CANCELLED, "stopped on request");
		if (n > 0 && fds[0].revents != 0)
			return true;
		if (deadline_ms != 0 && deadline_left_ms(deadline_ms) == 0)
			return error_set(err, ERROR_TIMEOUT, "timed out");
	}
}

bool
stop_sleep_ms(const Stop *stop, int64_t ms, Error *err)
{
	if (stop_wait_fd(stop, -1, 0, deadline_in_ms(ms > 0 ? ms : 1), err))
		return true;
	if (err != NULL && err->class == ERROR_TIMEOUT) {
		error_clear(err);
		return true;
	}
	return err == NULL ? !stop_requested(stop) : false;
}
