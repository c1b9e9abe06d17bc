/*
 * The old server's connections after a change: closed a few at a time.
 *
 * Hundreds of server processes that end at once keep a machine busy for some hundred
 * milliseconds, just when the sessions go on: 450 ms for 500 of them on two cores, 6 without
 * them. Nothing is sent on these connections any more but the Terminate. And not at once: an end
 * is 2.3 ms of CPU with 512 MB of shared buffers, and what the clients have sent during the hold
 * comes first.
 */
#include <stdlib.h>

#include "common/memory.h"
#include "protocol/message/message.h"
#include "proxy/listener/move/move.h"

enum { AT_ONCE = 1 };
static const double FIRST_AFTER_S = 0.5, EVERY_S = 0.02;

struct Leaving {
	Leaving *next;
	Channel channel;
	Endpoint *endpoint;
	uint32_t pid;
};

static void
close_one(Loop *loop, Leaving **at)
{
	Leaving *leaving = *at;
	Buffer bye = BUFFER_INIT;
	Error err = ERROR_INIT;

	*at = leaving->next;
	message_put_terminate(&bye);
	/* Whether it is taken or not: what is closed then is idle. */
	(void)!leaving->channel.ops->write(&leaving->channel, bye.data, bye.len, &err);
	buffer_free(&bye);
	channel_close(&leaving->channel);
	loop_process_ended(loop, leaving->endpoint->route, leaving->pid);
	endpoint_release(leaving->endpoint);
	free(leaving);
}

static void
on_leave(struct ev_loop *ev, ev_timer *timer, int events UNUSED)
{
	Loop *loop = timer->data;

	for (int i = 0; i < AT_ONCE && loop->leaving != NULL; i++)
		close_one(loop, &loop->leaving);
	if (loop->leaving == NULL)
		ev_timer_stop(ev, timer);
}

void
leaving_add(Session *session)
{
	Loop *loop = session->loop;
	Leaving *leaving = mem_zalloc(sizeof(Leaving));

	*leaving = (Leaving){.next = loop->leaving,
	                     .channel = session->server,
	                     .endpoint = session->endpoint,
	                     .pid = session->server_pid};
	loop->leaving = leaving;
	session->server = (Channel){.fd = -1};
	session->endpoint = NULL;
	if (ev_is_active(&loop->leave))
		return;
	ev_timer_init(&loop->leave, on_leave, FIRST_AFTER_S, EVERY_S);
	loop->leave.data = loop;
	ev_timer_start(loop->ev, &loop->leave);
}

void
leaving_end(Loop *loop)
{
	while (loop->leaving != NULL)
		close_one(loop, &loop->leaving);
}

void
leaving_make_room(Loop *loop, void *arg)
{
	const ListenerRoute *on = arg;

	for (Leaving **at = &loop->leaving; *at != NULL;) {
		if ((*at)->endpoint->route == *on)
			close_one(loop, at);
		else
			at = &(*at)->next;
	}
}

uint32_t
leaving_pid(const Leaving **at, ListenerRoute on)
{
	while (*at != NULL) {
		const Leaving *leaving = *at;
		*at = leaving->next;
		if (leaving->endpoint->route == on)
			return leaving->pid;
	}
	return 0;
}
