/* A loop: its thread, its inbox, its buffers, its tick. */
#include <stdlib.h>
#include <string.h>

#include "common/memory.h"
#include "proxy/listener/move/move.h"

void
loop_post(Loop *loop, Job *job)
{
	job->next = NULL;
	pthread_mutex_lock(&loop->lock);
	*loop->inbox_end = job;
	loop->inbox_end = &job->next;
	pthread_mutex_unlock(&loop->lock);
	ev_async_send(loop->ev, &loop->wake);
}

static void
run_jobs(Loop *loop)
{
	pthread_mutex_lock(&loop->lock);
	Job *jobs = loop->inbox;
	loop->inbox = NULL;
	loop->inbox_end = &loop->inbox;
	pthread_mutex_unlock(&loop->lock);
	while (jobs != NULL) {
		Job *job = jobs;
		jobs = job->next;
		job->run(loop, job);
	}
}

static void
on_wake(struct ev_loop *ev UNUSED, ev_async *wake, int events UNUSED)
{
	run_jobs(wake->data);
}

static void
on_tick(struct ev_loop *ev UNUSED, ev_timer *tick, int events UNUSED)
{
	Loop *loop = tick->data;
	Session *next;

	if (loop->accepting != NULL)
		accept_again(loop);
	for (Session *session = loop->sessions; session != NULL; session = next) {
		next = session->next;
		if (session->login != NULL || session->state == SESSION_CLOSING)
			session_tick(session, loop->listener->options.login_timeout_ms);
		else
			move_tick(session);
	}
	queue_go_on(loop);
}

/* Before the loop waits again: nobody can look at closed sessions any more. */
static void
on_sweep(struct ev_loop *ev, ev_prepare *sweep, int events UNUSED)
{
	Loop *loop = sweep->data;

	session_free_closed(loop);
	if (loop->ending && loop->sessions == NULL)
		ev_break(ev, EVBREAK_ALL);
}

/* ---- buffers ---- */

void
loop_process_ended(Loop *loop, ListenerRoute on, uint32_t pid)
{
	if (pid != 0)
		loop->ended[loop->ended_count++ % ENDED_KEPT] = (EndedProcess){
			.pid = pid, .on = on, .at = ev_now(loop->ev)};
}

uint8_t *
loop_take_buffer(Loop *loop)
{
	return loop->spare_count > 0 ? loop->spare[--loop->spare_count] : mem_alloc(BUFFER_SIZE);
}

void
loop_give_buffer(Loop *loop, uint8_t *buffer)
{
	if (loop->spare_count < sizeof(loop->spare) / sizeof(loop->spare[0]))
		loop->spare[loop->spare_count++] = buffer;
	else
		free(buffer);
}

/* ---- the thread ---- */

static void *
loop_main(void *arg)
{
	Loop *loop = arg;

	ev_run(loop->ev, 0);
	return NULL;
}

bool
loop_start(Loop *loop, Listener *listener, int index, Error *err)
{
	*loop = (Loop){.listener = listener, .index = index};
	loop->inbox_end = &loop->inbox;
	pthread_mutex_init(&loop->lock, NULL);
	loop->ev = ev_loop_new(EVBACKEND_EPOLL | EVFLAG_NOENV);
	if (loop->ev == NULL)
		return error_set(err, ERROR_BUG, "libev has no loop for us");
	ev_async_init(&loop->wake, on_wake);
	ev_timer_init(&loop->tick, on_tick, 1, 1);
	ev_prepare_init(&loop->sweep, on_sweep);
	loop->wake.data = loop->tick.data = loop->sweep.data = loop;
	ev_async_start(loop->ev, &loop->wake);
	ev_timer_start(loop->ev, &loop->tick);
	ev_prepare_start(loop->ev, &loop->sweep);
	int failed = pthread_create(&loop->thread, NULL, loop_main, loop);
	if (failed == 0)
		return true;
	ev_loop_destroy(loop->ev);
	loop->ev = NULL;
	return error_set_errno(err, ERROR_BUG, failed, "cannot start a thread");
}

void
loop_join(Loop *loop)
{
	pthread_join(loop->thread, NULL);
}

void
loop_destroy(Loop *loop)
{
	run_jobs(loop); /* what came to it last owns memory */
	leaving_end(loop);
	session_free_closed(loop);
	while (loop->spare_count > 0)
		free(loop->spare[--loop->spare_count]);
	ev_loop_destroy(loop->ev);
	pthread_mutex_destroy(&loop->lock);
}

/* ---- a function on all loops ---- */

typedef struct {
	pthread_mutex_t lock;
	pthread_cond_t done;
	size_t left;
	void (*fn)(Loop *loop, void *arg);
	void *arg;
} Call;

typedef struct {
	Job job;
	Call *call;
} CallJob;

static void
run_call(Loop *loop, Job *job)
{
	Call *call = ((CallJob *)job)->call;

	call->fn(loop, call->arg);
	pthread_mutex_lock(&call->lock);
	if (--call->left == 0)
		pthread_cond_signal(&call->done);
	pthread_mutex_unlock(&call->lock);
}

void
loops_call(Listener *listener, void (*fn)(Loop *loop, void *arg), void *arg)
{
	Call call = {.left = listener->loop_count, .fn = fn, .arg = arg};
	CallJob *jobs = mem_zalloc(listener->loop_count * sizeof(CallJob));

	pthread_mutex_init(&call.lock, NULL);
	pthread_cond_init(&call.done, NULL);
	for (size_t i = 0; i < listener->loop_count; i++) {
		jobs[i] = (CallJob){.job = {.run = run_call}, .call = &call};
		loop_post(&listener->loops[i], &jobs[i].job);
	}
	pthread_mutex_lock(&call.lock);
	while (call.left > 0)
		pthread_cond_wait(&call.done, &call.lock);
	pthread_mutex_unlock(&call.lock);
	pthread_mutex_destroy(&call.lock);
	pthread_cond_destroy(&call.done);
	free(jobs);
}
