/*
 * Ahead of the hold the sessions are not looked at all at once: logging in, making statements
 * again and answering the question is work for the servers and for this process, and the
 * clients are at work meanwhile. (20 sessions at once, on two cores: some client waited for
 * 98 ms, longer than in the hold after it.)
 *
 * Each loop begins with one session at a time and becomes impatient: one more at a time for each
 * GROW_MS that it has been at it. So a server that is far away, where a session is mostly waiting,
 * delays nothing for long: with 80 ms for each, 250 sessions of a loop take 1.4 s.
 *
 * In the hold there is nobody to be disturbed: there all begin at once.
 */
#include "proxy/listener/move/move.h"

#include "common/clock.h"
#include "common/error.h"

enum { GROW_MS = 50 };

static Session *
first_queued(const Loop *loop)
{
	Session *session = loop->sessions;

	while (session != NULL && !(session->move != NULL && session->move->queued))
		session = session->next;
	CHECK(session != NULL);
	return session;
}

static bool
may_begin(const Loop *loop)
{
	return loop->preparing <= (clock_mono_ms() - loop->preparing_since_ms) / GROW_MS;
}

/* A step may end with a wish fulfilled, and so in another call of this. */
void
queue_go_on(Loop *loop)
{
	if (loop->queue_busy)
		return;
	loop->queue_busy = true;
	while (loop->queued > 0 && may_begin(loop)) {
		Session *session = first_queued(loop);
		session->move->queued = false;
		loop->queued--;
		loop->preparing++;
		move_step(session);
	}
	loop->queue_busy = false;
}

void
queue_begin(Loop *loop, Wish wish)
{
	Session *next;

	loop->preparing_since_ms = clock_mono_ms();
	for (Session *session = loop->sessions; session != NULL; session = next) {
		next = session->next;
		move_wish(session, wish);
	}
	queue_go_on(loop);
}

void
queue_give_up(Loop *loop)
{
	loop->queue_busy = true; /* nothing new begins */
	for (Session *session = loop->sessions; session != NULL; session = session->next)
		move_forget_wish(session, true);
	loop->queue_busy = false;
}
