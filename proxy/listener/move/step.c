/*
 * One session on its way to the other server: what its wish still needs, and the change itself.
 *
 *   KNOW     its last answer is of now, if it is idle
 *   PREPARE  its last answer is of its last boundary, and its target is logged in, and level with it
 *   OPEN     the same, but it is held, and nothing less will do
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/memory.h"
#include "protocol/message/message.h"
#include "proxy/listener/login.h"
#include "proxy/listener/move/move.h"

/* How long what is open on the other server is kept without being used, and our statement at the
 * session's own: clients can see that one. */
enum { KEEP_MS = 60000, KEEP_STATEMENT_MS = 3000 };

static const char farewell[] =
	"terminating connection: the database is served by another server now; connect again";

/* ---- beginning and end ---- */

void
move_keep(Session *session)
{
	Login *login = session->login;
	Error err = ERROR_INIT;
	size_t used;

	if (session->unmovable != NULL)
		return;
	Move *move = mem_zalloc(sizeof(Move));
	move->packet = login->packet;
	login->packet = BUFFER_INIT;
	CHECK(startup_parse(buffer_slice(&move->packet), &used, &move->startup, &err) == STARTUP_READY);
	move->md5_secret = login->md5_secret;
	move->password = login->password;
	move->keys = login->keys;
	move->keyless = login->passed;
	login->md5_secret = login->password = NULL;
	move->target.channel.fd = -1;
	session->move = move;
	session->track.statements = &move->statements;
}

void
move_free(Session *session)
{
	Move *move = session->move;

	if (move == NULL)
		return;
	ask_end(session);
	move_forget_wish(session, false);
	target_close(&move->target, session->loop);
	buffer_free(&move->packet);
	mem_wipe_free_cstr(move->md5_secret);
	mem_wipe_free_cstr(move->password);
	session->track.statements = NULL;
	statements_free(&move->statements);
	frame_reader_free(&move->in);
	buffer_free(&move->out);
	carried_free(&move->answer);
	carried_free(&move->carried);
	mem_wipe(&move->keys, sizeof(move->keys));
	free(move);
	session->move = NULL;
}

/* ---- what is in the way ---- */

static const char *
reason_of_statements(const Move *move)
{
	if (move->statements.foreign_types)
		return "its client names types by numbers that are not the same on the other server";
	if (move->statements.mentions.sequences)
		return "it uses currval or lastval, whose values stay behind (until it does DISCARD ALL)";
	if (move->statements.mentions.crowded)
		return "it mentions more custom settings than can be followed";
	if (move->statements.unnamed.too_long)
		return "its unnamed statement is too long to be kept";
	return NULL;
}

const char *
move_reason(const Session *session)
{
	const Move *move = session->move;
	const char *reason;

	if (session->unmovable != NULL)
		return session->unmovable;
	if (move == NULL)
		return "";
	reason = reason_of_statements(move);
	if (reason != NULL)
		return reason;
	if (move->ask_reason[0] != '\0')
		return move->ask_reason;
	if (session->asking && move->slow)
		return "its server does not answer when it is asked (a lock, or a safe snapshot to wait for)";
	reason = carried_known(&move->carried) ? carried_block(&move->carried) : NULL;
	if (reason != NULL)
		return reason;
	if (move->locks)
		return "it holds a session advisory lock";
	if (move->target.reason[0] != '\0')
		return move->target.reason;
	return move->late ? "it did not become ready on the other server in time" : "";
}

/* Of these nothing is asked, and nothing opened. */
static bool
is_hopeless(const Session *session)
{
	return session->move == NULL || reason_of_statements(session->move) != NULL;
}

uint32_t
move_pid_on(const Session *session, ListenerRoute on)
{
	const Target *target = session->move != NULL ? &session->move->target : NULL;

	return target != NULL && target->state >= TARGET_LOGIN && target->endpoint->route == on
	           ? target->pid
	           : 0;
}

/* ---- wishes ---- */

static void
count_wish(Session *session, int change, int at_work)
{
	Mover *mover = session->loop->listener->mover;

	pthread_mutex_lock(&mover->lock);
	mover->waiting += (size_t)change;
	mover->at_work += (size_t)at_work;
	if (mover->waiting == mover->at_work)
		pthread_cond_broadcast(&mover->changed);
	pthread_mutex_unlock(&mover->lock);
}

/* Ahead of the hold, who is at work is asked at the next boundary, where relay.c comes back to it.
 * Until then it keeps nobody from being looked at, and is not waited for long (move.c). */
static void
set_at_work(Session *session, bool at_work)
{
	if (session->at_work == at_work)
		return;
	session->at_work = at_work;
	count_wish(session, 0, at_work ? 1 : -1);
	if (at_work)
		queue_leave(session, false);
	else
		queue_return(session);
}

void
move_forget_wish(Session *session, bool late)
{
	Move *move = session->move;

	if (move == NULL || move->wish == WISH_NONE)
		return;
	bool begun = !move->queued && !session->at_work;
	if (move->queued)
		queue_remove(session);
	/* Who was only not asked in time is none that is in the way of a move. */
	move->late = late && move->wish != WISH_KNOW;
	if (move->wish != WISH_KNOW)
		move->target.used_ms = (int64_t)(ev_now(session->loop->ev) * 1000.0);
	move->wish = WISH_NONE;
	count_wish(session, -1, session->at_work ? -1 : 0);
	session->at_work = false;
	if (begun)
		queue_leave(session, true);
}

void
move_wish(Session *session, Wish wish)
{
	Move *move = session->move;

	if (is_hopeless(session) || session->end_wanted ||
	    (session->state != SESSION_RELAYING && session->state != SESSION_HELD))
		return;
	CHECK(move->wish == WISH_NONE);
	move->wish = wish;
	move->asked = move->late = move->changed = false;
	if (wish != WISH_KNOW)
		move->target.reason[0] = '\0'; /* another try */
	if (wish == WISH_PREPARE && session->loop->listener->mover->anew)
		level_doubt_statements(session);
	count_wish(session, 1, 0);
	queue_add(session);
}

/* The answer is of now. Who listens is asked in the hold in any case: before the answer the
 * server sends all notifications that were committed until then. */
static bool
is_known(const Move *move, const Session *session)
{
	if (!carried_known(&move->carried) || move->ask_reason[0] != '\0' ||
	    move->carried_at != session->track.requests)
		return false;
	if (move->wish != WISH_OPEN || move->asked)
		return true;
	for (size_t i = 0; i < move->carried.count; i++)
		if (move->carried.items[i].kind == CARRIED_CHANNEL)
			return false;
	return true;
}

/* Whatever has changed, the digest shows it. */
static bool
digest_will_do(const Session *session)
{
	const Move *move = session->move;
	const Mover *mover = session->loop->listener->mover;
	return carried_known(&move->carried) && carried_digest_will_do(&move->carried) &&
	       move->ask_reason[0] == '\0' && !move->changed &&
	       move->carried_sets == session->track.sets && !move->statements.mentions.settings &&
	       move->settings != NULL && !mover->hidden_sets;
}

typedef enum { ASK_DONE, ASK_UNDER_WAY, ASK_AT_WORK } AskStep;

/* DONE: there is nothing (more) to be asked. */
static AskStep
step_ask(Session *session)
{
	Move *move = session->move;

	if (session->asking)
		return ASK_UNDER_WAY;
	if (is_known(move, session))
		return ASK_DONE;
	if (move->asked) /* it failed, or the session has gone on since: that will do for now */
		return move->wish != WISH_OPEN || move->ask_reason[0] != '\0' ? ASK_DONE : ASK_UNDER_WAY;
	if (move->target.state == TARGET_LEVELLING)
		return ASK_UNDER_WAY;
	if (!ask_possible(session)) /* for people not now; in the hold it is a matter of moments */
		return move->wish == WISH_KNOW ? ASK_DONE : ASK_AT_WORK;
	ask_begin(session, digest_will_do(session));
	return ASK_UNDER_WAY;
}

/* True: it is logged in, or cannot be. */
static bool
step_login(Session *session)
{
	Target *target = &session->move->target;
	Endpoint *to = session->loop->listener->mover->endpoint;

	if (target->reason[0] != '\0')
		return true;
	if (target->state != TARGET_CLOSED && target->endpoint->route != to->route)
		target_close(target, session->loop);
	if (target->state == TARGET_CLOSED)
		target_open(session, to);
	return session->move != NULL &&
	       (target->reason[0] != '\0' || target->state >= TARGET_OPEN); /* it may fail at once */
}

static bool
is_blocked(const Session *session)
{
	const Move *move = session->move;

	return move->ask_reason[0] != '\0' || move->target.reason[0] != '\0' ||
	       (carried_known(&move->carried) && carried_block(&move->carried) != NULL);
}

/* True: its target is level with the answer, as far as the wish wants that. */
static bool
step_level(Session *session)
{
	Move *move = session->move;
	Target *target = &move->target;

	if (is_blocked(session))
		return true;
	if (target->state == TARGET_LEVELLING)
		return false;
	if (!carried_known(&move->carried))
		return move->wish == WISH_PREPARE;
	if (level_is_given(session)) {
		target->level_at = move->carried_at;
		return move->wish == WISH_PREPARE || session->to_client.data == NULL;
	}
	level_begin(session);
	return target->reason[0] != '\0'; /* what cannot be planned is known at once */
}

void
move_step(Session *session)
{
	Move *move = session->move;

	/* A step may end in another call of this: then that one has done what there was. */
	if (move == NULL || move->wish == WISH_NONE || move->queued || move->stepping)
		return;
	move->stepping = true;
	AskStep ask = step_ask(session);
	bool there = move->wish == WISH_KNOW || is_blocked(session) || step_login(session);
	bool done = ask == ASK_DONE && there;
	if (done && move->wish != WISH_KNOW)
		done = step_level(session);
	move->stepping = false;
	if (done)
		move_forget_wish(session, false);
	else
		set_at_work(session, ask == ASK_AT_WORK && there && move->wish == WISH_PREPARE);
}

bool
move_is_ready(const Session *session)
{
	const Move *move = session->move;

	return session->state == SESSION_HELD && move != NULL && move_reason(session)[0] == '\0' &&
	       move->target.state == TARGET_OPEN && move->target.level && !session->asking &&
	       move->target.level_at == session->track.requests && session->to_client.data == NULL;
}

/* ---- the change ---- */

static const char *
reported_value(const Buffer *reported, const char *wanted)
{
	ByteReader r = reader_of(buffer_slice(reported));
	const char *last = NULL;

	while (reader_left(&r) > 0) {
		const char *name = read_cstr(&r), *value = read_cstr(&r);
		if (name == NULL || value == NULL)
			break;
		if (strcmp(name, wanted) == 0)
			last = value;
	}
	return last;
}

static void
put_parameter(Buffer *out, const char *name, const char *value)
{
	buffer_put_u8(out, 'S');
	buffer_put_u32(out, (uint32_t)(4 + strlen(name) + 1 + strlen(value) + 1));
	buffer_put_cstr(out, name);
	buffer_put_cstr(out, value);
}

static bool
is_other_version(const Move *move)
{
	const CarriedItem *old = carried_find(&move->carried, CARRIED_REPORT, "server_version");
	const CarriedItem *new = carried_find(&move->target.have, CARRIED_REPORT, "server_version");

	return old == NULL || new == NULL || strcmp(old->value, new->value) != 0;
}

/* What the new server reports and the old one had otherwise; from another version all, since
 * it may report more than the old one did. Each name once, where it was said last. */
static void
put_differences(const Move *move, Buffer *out)
{
	const Target *target = &move->target;
	ByteReader r = reader_of(buffer_slice(&target->reported));
	bool all = is_other_version(move);

	while (reader_left(&r) > 0) {
		const char *name = read_cstr(&r), *value = read_cstr(&r);
		if (name == NULL || value == NULL)
			break;
		if (reported_value(&target->reported, name) != value)
			continue;
		const CarriedItem *old = carried_find(&move->carried, CARRIED_REPORT, name);
		const CarriedItem *new = carried_find(&target->have, CARRIED_REPORT, name);
		if (new != NULL)
			value = new->value;
		if (all || old == NULL || strcmp(old->value, value) != 0)
			put_parameter(out, name, value);
	}
}

static void
take_target(Session *session)
{
	Move *move = session->move;
	Target *target = &move->target;

	ev_io_stop(session->loop->ev, &target->readable);
	ev_io_stop(session->loop->ev, &target->writable);
	session->server = target->channel;
	target->channel = (Channel){.fd = -1};
	ev_io_set(&session->server_read, session->server.fd, EV_READ);
	ev_io_set(&session->server_write, session->server.fd, EV_WRITE);
	session->endpoint = target->endpoint;
	target->endpoint = NULL;
	session->route = session->endpoint->route;
	session->server_pid = target->pid;
	memcpy(session->server_key, target->key, sizeof(session->server_key));
	session->server_more = true;
	carried_free(&move->carried);
	move->carried = target->have;
	target->have = (Carried){.arena = NULL};
	move->kept = false;
	move->locks = false;
}

void
move_swap(Session *session)
{
	Move *move = session->move;
	Buffer said = BUFFER_INIT;

	if (!move_is_ready(session)) {
		session_farewell(session, farewell);
		return;
	}
	put_differences(move, &said);
	buffer_put_slice(&said, buffer_slice(&move->target.for_client));
	Slice rest = slice_of(move->target.in.data + move->target.in.pos,
	                      frame_reader_buffered(&move->target.in));
	watch_io(session->loop, &session->server_read, false);
	watch_io(session->loop, &session->server_write, false);
	leaving_add(session);
	take_target(session);
	bool alive = relay_server_bytes(session, buffer_slice(&said)) &&
	             (rest.len == 0 || relay_server_bytes(session, rest));
	buffer_free(&said);
	if (alive)
		target_close(&move->target, session->loop);
}

void
move_tick(Session *session)
{
	Move *move = session->move;
	int64_t now = (int64_t)(ev_now(session->loop->ev) * 1000.0);

	if (move == NULL || move->wish != WISH_NONE || session->loop->holding)
		return;
	if (move->kept && now - move->target.used_ms >= KEEP_STATEMENT_MS && ask_possible(session))
		ask_forget(session);
	if (move->target.state != TARGET_CLOSED && now - move->target.used_ms >= KEEP_MS)
		target_close(&move->target, session->loop);
}
