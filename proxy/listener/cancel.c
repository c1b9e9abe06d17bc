/*
 * Cancel requests: from a client's CancelRequest with our key to the server's with its own.
 *
 * Never late: a cancel reaches the server only while the session has a request under way,
 * and until the server has closed the cancel's connection (it has sent its signal then) no
 * new request of that session goes out. A request that is held here is not yet the
 * server's: its cancel waits with it, and is repeated until the request has ended, since a
 * server ignores a cancel that overtakes its request. What has nothing to cancel is
 * dropped, as on a PostgreSQL server, and so is what comes while only a part of a request is
 * here: its client may send the rest when the cancel has been done, and not before. A question
 * of ours is cancelled in the same way.
 *
 *   requester's loop: cancel_begin -> each loop in turn: visit -> the session's loop:
 *   cancel_consider -> link -> CancelRequest -> closed -> requester's loop: finish
 */
#include <openssl/crypto.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/memory.h"
#include "protocol/message/message.h"
#include "proxy/listener/internal.h"
#include "proxy/listener/link.h"

struct Cancel {
	Job job;
	Loop *home;         /* the requester's loop */
	Session *requester; /* NULL: it has gone; only on home's thread */
	Cancel *next;       /* in the session's list */
	uint32_t pid;
	uint8_t key[256];
	uint32_t key_len;
	size_t visited;

	/* on its way to the server, on the session's loop */
	Session *session;
	Loop *loop;
	Endpoint *endpoint;
	uint32_t server_pid;
	uint8_t server_key[SERVER_KEY_MAX];
	Channel channel;
	Link link;
	bool sent;
	bool question; /* of ours is what is to be cancelled */
	bool waited;   /* it was here before its request went out */
	int deliveries;
	ev_io readable, writable;
	ev_timer timeout; /* of the delivery, or until the next one */
};

/* A server that does not answer must not hold back the session for ever. */
static const double TIMEOUT_S = 30;
/* Nor one whose request cannot be cancelled. */
enum { DELIVERIES_MOST = 50 };
static const double AGAIN_S = 0.05;

/* ---- the end, on the requester's loop ---- */

static void
run_finish(Loop *loop UNUSED, Job *job)
{
	Cancel *cancel = (Cancel *)job;
	Session *requester = cancel->requester;

	if (requester != NULL) {
		requester->cancelling = NULL;
		session_close(requester); /* the client waits for just that */
	}
	mem_wipe(cancel, sizeof(*cancel));
	free(cancel);
}

static void
finish(Cancel *cancel)
{
	cancel->job.run = run_finish;
	loop_post(cancel->home, &cancel->job);
}

/* ---- on its way ---- */

static void connect_to_server(Cancel *cancel);

static void
close_link(Cancel *cancel)
{
	ev_io_stop(cancel->loop->ev, &cancel->readable);
	ev_io_stop(cancel->loop->ev, &cancel->writable);
	ev_timer_stop(cancel->loop->ev, &cancel->timeout);
	channel_close(&cancel->channel);
	endpoint_release(cancel->endpoint);
	cancel->endpoint = NULL;
}

static void
deliver_again(struct ev_loop *ev UNUSED, ev_timer *timer, int events UNUSED)
{
	Cancel *cancel = timer->data;
	connect_to_server(cancel);
}

static void
done(Cancel *cancel)
{
	Session *session = cancel->session;

	close_link(cancel);
	if (cancel->sent && cancel->waited && ++cancel->deliveries < DELIVERIES_MOST &&
	    track_busy(&session->track)) {
		ev_timer_init(&cancel->timeout, deliver_again, AGAIN_S, 0);
		ev_timer_start(cancel->loop->ev, &cancel->timeout);
		return;
	}
	finish(cancel);
	session->cancelling = NULL;
	relay_progress(session);
}

static bool
is_under_way(const Cancel *cancel)
{
	return cancel->question ? cancel->session->asking : track_busy(&cancel->session->track);
}

static void
send_request(Cancel *cancel)
{
	Buffer message = BUFFER_INIT;
	Error err;

	/* The request may have ended while we connected. */
	if (!is_under_way(cancel)) {
		done(cancel);
		return;
	}
	message_put_cancel(&message, cancel->server_pid,
	                   slice_of(cancel->server_key, sizeof(cancel->server_key)));
	ssize_t n = cancel->channel.ops->write(&cancel->channel, message.data, message.len, &err);
	bool ok = n == (ssize_t)message.len;
	mem_wipe(message.data, message.len);
	buffer_free(&message);
	cancel->sent = ok;
	if (!ok) {
		done(cancel);
		return;
	}
	if (!cancel->question)
		atomic_fetch_add(&cancel->loop->listener->cancels, 1);
	watch_io(cancel->loop, &cancel->writable, false);
	watch_io(cancel->loop, &cancel->readable, true);
}

static void
link_went(Cancel *cancel, LinkResult result, const Error *err)
{
	if (result == LINK_READY) {
		send_request(cancel);
		return;
	}
	if (result == LINK_FAILED) {
		log_warning("listener", "a cancel request cannot be delivered: %s", err->message);
		done(cancel);
		return;
	}
	bool write = cancel->channel.read_wants == POLLOUT;
	watch_io(cancel->loop, &cancel->writable, write);
	watch_io(cancel->loop, &cancel->readable, !write);
}

static void
on_link(struct ev_loop *ev UNUSED, ev_io *io, int events UNUSED)
{
	Cancel *cancel = io->data;
	Error err = ERROR_INIT;
	char waste[64];

	if (!cancel->sent)
		link_went(cancel, link_step(&cancel->link, &err), &err);
	else if (cancel->channel.ops->read(&cancel->channel, waste, sizeof(waste), &err) < 0)
		done(cancel); /* the server has closed: its signal is sent */
}

static void
on_timeout(struct ev_loop *ev UNUSED, ev_timer *timer, int events UNUSED)
{
	Cancel *cancel = timer->data;

	log_warning("listener", "the server does not answer a cancel request");
	done(cancel);
}

static void
connect_to_server(Cancel *cancel)
{
	Error err = ERROR_INIT;

	cancel->sent = false;
	cancel->endpoint = endpoint_share(cancel->session->endpoint);
	LinkResult result = link_begin(&cancel->link, &cancel->channel, cancel->endpoint, &err);
	ev_io_init(&cancel->readable, on_link, cancel->channel.fd, EV_READ);
	ev_io_init(&cancel->writable, on_link, cancel->channel.fd, EV_WRITE);
	ev_timer_init(&cancel->timeout, on_timeout, TIMEOUT_S, 0);
	cancel->readable.data = cancel->writable.data = cancel->timeout.data = cancel;
	ev_timer_start(cancel->loop->ev, &cancel->timeout);
	link_went(cancel, result, &err);
}

static void
deliver(Session *session, Cancel *cancel)
{
	session->cancelling = cancel;
	cancel->session = session;
	cancel->loop = session->loop;
	cancel->server_pid = session->server_pid;
	memcpy(cancel->server_key, session->server_key, sizeof(cancel->server_key));
	connect_to_server(cancel);
}

void
cancel_question(Session *session)
{
	if (session->cancelling != NULL || !session->asking)
		return;
	Cancel *cancel = mem_zalloc(sizeof(Cancel));
	cancel->home = session->loop;
	cancel->channel.fd = -1;
	cancel->question = true;
	deliver(session, cancel);
}

/* All of it is here, or more than can be: else the server would not have begun with it either. */
static bool
has_request(const Session *session)
{
	const Flow *flow = &session->to_server;
	Slice rest = slice_of(flow->data + flow->admit, flow->len - flow->admit);

	return rest.len > 0 && !track_client_partial(&session->track, rest, BUFFER_SIZE);
}

void
cancel_consider(Session *session)
{
	while (session->cancels != NULL && session->cancelling == NULL) {
		Cancel *cancel = session->cancels;
		bool busy = track_busy(&session->track);

		if (!busy && has_request(session)) {
			cancel->waited = true; /* for the request that is held */
			return;
		}
		session->cancels = cancel->next;
		cancel->next = NULL;
		if (busy)
			deliver(session, cancel);
		else
			finish(cancel);
	}
}

/* ---- looking for the session ---- */

static Session *
find_session(const Loop *loop, const Cancel *cancel)
{
	for (Session *session = loop->sessions; session != NULL; session = session->next)
		if (session->pid == cancel->pid && session->key_len == cancel->key_len &&
		    (session->state == SESSION_RELAYING || session->state == SESSION_HELD) &&
		    CRYPTO_memcmp(session->key, cancel->key, cancel->key_len) == 0)
			return session;
	return NULL;
}

static void
run_visit(Loop *loop, Job *job)
{
	Cancel *cancel = (Cancel *)job;
	Listener *listener = loop->listener;
	Session *session = find_session(loop, cancel);

	if (session != NULL) {
		cancel->next = session->cancels;
		session->cancels = cancel;
		relay_progress(session);
	} else if (++cancel->visited == listener->loop_count) {
		log_debug("listener", "a cancel request for pid %u fits no session", cancel->pid);
		finish(cancel);
	} else {
		loop_post(&listener->loops[((size_t)loop->index + 1) % listener->loop_count], job);
	}
}

void
cancel_begin(Session *requester, uint32_t pid, Slice key)
{
	Cancel *cancel = mem_zalloc(sizeof(Cancel));

	session_set_state(requester, SESSION_CANCELLING);
	cancel->home = requester->loop;
	cancel->requester = requester;
	cancel->pid = pid;
	CHECK(key.len <= sizeof(cancel->key));
	memcpy(cancel->key, key.data, key.len);
	cancel->key_len = (uint32_t)key.len;
	cancel->channel.fd = -1;
	cancel->job.run = run_visit;
	requester->cancelling = cancel; /* here: the one that it has asked for */
	loop_post(requester->loop, &cancel->job);
}

void
cancel_forget_session(Session *session)
{
	if (session->pid == 0 && session->cancelling != NULL &&
	    session->cancelling->requester == session)
		session->cancelling->requester = NULL;
	else if (session->cancelling != NULL) {
		close_link(session->cancelling);
		finish(session->cancelling);
	}
	session->cancelling = NULL;
	while (session->cancels != NULL) {
		Cancel *cancel = session->cancels;
		session->cancels = cancel->next;
		finish(cancel);
	}
}
