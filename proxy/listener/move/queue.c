/*
 * How many sessions of a loop are looked at at a time.
 *
 * Logging in, making statements again and answering the question is work for the servers and for
 * this process. Ahead of the hold the clients are at work meanwhile (20 sessions at once, on two
 * cores: some client waited for 98 ms, longer than in the hold after it), and in the hold the
 * fence's steps are.
 *
 * So each loop begins with one, and may look at one more each time that a session took hardly
 * longer (a quarter) than the least that one has taken, and at one less when it took longer: where
 * the processors are what is short, more at a time only wait for each other, and it stays at a few
 * (with twice instead of a quarter more, some client waited for 152 ms once in twenty cutovers);
 * where the server is far away, the number doubles with each round trip. And one more for each
 * IMPATIENT_US that it has been at it: on a machine that the clients keep busy a few get a few
 * shares of the processors only, and one that gets no answer is in the way of the others. (Each second,
 * as it was, made eight more of them by the end of 500 sessions' prepare, which some clients waited
 * for 250 to 750 ms then; the switch itself they did not notice.)
 */
#include "proxy/listener/move/move.h"

#include "common/clock.h"
#include "common/error.h"

enum { IMPATIENT_US = 4000000, FIRST_IN_HOLD = 8 };

void
queue_add(Session *session)
{
	Loop *loop = session->loop;

	session->move->queued = true;
	session->move->queue_next = NULL;
	session->move->queue_prev = loop->queue_last;
	*(loop->queue_last != NULL ? &loop->queue_last->move->queue_next : &loop->queue) = session;
	loop->queue_last = session;
}

void
queue_remove(Session *session)
{
	Loop *loop = session->loop;
	const Move *move = session->move;

	*(move->queue_prev != NULL ? &move->queue_prev->move->queue_next
	                           : &loop->queue) = move->queue_next;
	*(move->queue_next != NULL ? &move->queue_next->move->queue_prev
	                           : &loop->queue_last) = move->queue_prev;
	session->move->queued = false;
}

static bool
may_begin(const Loop *loop)
{
	return loop->looked_at < loop->at_once + (clock_mono_us() - loop->begun_us) / IMPATIENT_US;
}

/* A step may end with a wish fulfilled, and so in another call of this. */
void
queue_go_on(Loop *loop)
{
	if (loop->queue_busy)
		return;
	loop->queue_busy = true;
	while (loop->queue != NULL && may_begin(loop)) {
		Session *session = loop->queue;
		Move *move = session->move;
		queue_remove(session);
		move->begun_us = clock_mono_us();
		move->begun_closed = move->target.state == TARGET_CLOSED;
		loop->looked_at++;
		move_step(session);
	}
	loop->queue_busy = false;
}

/* What ends within queue_go_on has cost nothing, and says nothing. */
static void
learn(Loop *loop, const Move *move)
{
	int64_t took_us = clock_mono_us() - move->begun_us;
	int64_t *least_us = &loop->least_us[move->begun_closed];

	if (loop->queue_busy)
		return;
	if (*least_us == 0 || took_us < *least_us)
		*least_us = took_us;
	if (took_us <= *least_us + *least_us / 4)
		loop->at_once++;
	else if (loop->at_once > 1)
		loop->at_once--;
}

void
queue_leave(Session *session, bool ended)
{
	session->loop->looked_at--;
	if (ended)
		learn(session->loop, session->move);
	queue_go_on(session->loop);
}

void
queue_return(Session *session)
{
	session->loop->looked_at++;
	session->move->begun_us = clock_mono_us();
	session->move->begun_closed = false;
}

void
queue_begin(Loop *loop, Wish wish)
{
	loop->at_once = wish == WISH_OPEN ? FIRST_IN_HOLD : 1;
	loop->least_us[0] = loop->least_us[1] = 0;
	loop->begun_us = clock_mono_us();
	for (Session *session = loop->sessions; session != NULL; session = session->next)
		move_wish(session, wish);
	queue_go_on(loop);
}

void
queue_give_up(Loop *loop)
{
	loop->queue_busy = true; /* nothing new begins */
	for (Session *session = loop->sessions; session != NULL; session = session->next)
		move_forget_wish(session, !session->at_work); /* who was at work all the time is not late */
	loop->queue_busy = false;
}
