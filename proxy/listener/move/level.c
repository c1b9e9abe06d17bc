/*
 * Brings a session's connection on the other server level with it, and makes sure of it: what
 * the plan says, the same question that the session itself was asked, and the unnamed
 * statement last, since the plan's commands have used its place. All in one go: one round
 * trip.
 */
#include <stdio.h>
#include <string.h>

#include "common/memory.h"
#include "protocol/message/extended.h"
#include "protocol/message/message.h"
#include "proxy/listener/move/move.h"

/* Empty: none. */
static Slice
unnamed_wanted(const Move *move)
{
	return move->unnamed ? buffer_slice(&move->statements.unnamed.message) : SLICE_EMPTY;
}

bool
level_is_given(const Session *session)
{
	const Move *move = session->move;
	const Target *target = &move->target;

	return target->state == TARGET_OPEN && target->level &&
	       slice_eq(unnamed_wanted(move), buffer_slice(&target->unnamed)) &&
	       carried_difference(&move->carried, &target->have) == NULL;
}

void
level_begin(Session *session)
{
	Move *move = session->move;
	Target *target = &move->target;
	const Mover *mover = session->loop->listener->mover;
	Error err = ERROR_INIT;

	bool ahead = move->wish == WISH_PREPARE;
	if (!carried_plan(&target->have, &move->carried, ahead, &target->plan, &err)) {
		target_fail(session, "%s", err.message);
		return;
	}
	target->state = TARGET_LEVELLING;
	target->level = false;
	target->level_at = move->carried_at;
	target->group = target->completed = 0;
	target->failed = false;
	carried_init(&target->answer);
	buffer_put_slice(&target->out, buffer_slice(&target->plan.messages));
	carried_put_question(&target->out, buffer_slice(&mover->names.names));
	buffer_reset(&target->unnamed);
	buffer_put_slice(&target->unnamed, unnamed_wanted(move));
	if (target->unnamed.len > 0)
		buffer_put_slice(&target->out, buffer_slice(&target->unnamed));
	else
		message_put_close_statement(&target->out, "");
	message_put_sync(&target->out);
	target_flush(session);
}

void
level_doubt_statements(Session *session)
{
	Target *target = &session->move->target;

	if (target->state != TARGET_OPEN)
		return;
	target->level = target->level && target->unnamed.len == 0;
	carried_doubt_statements(&target->have);
}

/* ---- the answers ---- */

static void
take_error(Session *session, const Frame *frame)
{
	Target *target = &session->move->target;
	ServerReport report;
	Error err = ERROR_INIT;
	char what[LISTENER_REASON_MAX / 2] = "its state";

	if (!message_parse_report(frame->payload, &report, &err) || server_report_is_fatal(&report)) {
		target_fail(session, "the other server has ended its connection: %s",
		            report.message != NULL ? report.message : "(no message)");
		return;
	}
	if (target->group < target->plan.group_count && target->plan.groups[target->group].to_spare)
		return;
	if (target->group < target->plan.group_count)
		plan_name_step(&target->plan, target->group, target->completed, what, sizeof(what));
	else if (target->completed > 0)
		snprintf(what, sizeof(what), "its unnamed statement");
	if (!target->failed)
		reason_set(target->reason, "the other server does not take %s: %s", what,
		           report.message != NULL ? report.message : "(no message)");
	target->failed = true;
}

static const char *
kind_name(char kind)
{
	switch (kind) {
	case CARRIED_CHANNEL:
		return "LISTEN";
	case CARRIED_PROTOCOL:
	case CARRIED_SQL:
		return "prepared statement";
	default:
		return "setting";
	}
}

/* Defaults of the other server hold for a session there, but not this one: writes would fail that
 * have not failed here. */
static bool
may_only_read(const Carried *wanted, const Carried *there)
{
	static const char setting[] = "default_transaction_read_only";
	const CarriedItem *here = carried_find(wanted, CARRIED_REPORT, setting);
	const CarriedItem *now = carried_find(there, CARRIED_REPORT, setting);

	return here != NULL && now != NULL && strcmp(here->value, "off") == 0 &&
	       strcmp(now->value, "on") == 0;
}

static void
all_answered(Session *session)
{
	Move *move = session->move;
	Target *target = &move->target;
	char reason[LISTENER_REASON_MAX];

	if (target->failed) {
		memcpy(reason, target->reason, sizeof(reason));
		target_fail(session, "%s", reason);
		return;
	}
	carried_complete(&target->answer);
	carried_add_hidden(&target->answer, &move->carried);
	const CarriedItem *item = carried_difference(&move->carried, &target->answer);
	if (item != NULL) {
		reason_set(reason, "%s %s is not the same on the other server", kind_name(item->kind),
		           item->name);
		target_fail(session, "%s", reason);
		return;
	}
	if (may_only_read(&move->carried, &target->answer)) {
		target_fail(session, "default_transaction_read_only is on for it on the other server");
		return;
	}
	plan_free(&target->plan);
	carried_free(&target->have);
	target->have = target->answer;
	target->answer = (Carried){.arena = NULL};
	target->state = TARGET_OPEN;
	target->level = true;
	target->reason[0] = '\0';
	move_step(session);
}

void
level_frame(Session *session, const Frame *frame)
{
	Target *target = &session->move->target;
	bool asking = target->group == target->plan.group_count;
	char progress = asking ? 'C' : target->plan.groups[target->group].progress;
	Error err = ERROR_INIT;

	if (frame->type == progress)
		target->completed++;
	switch (frame->type) {
	case 'S':
	case 'A':
		target_note(target, frame);
		break;
	case 'E':
		take_error(session, frame);
		break;
	case 'D':
		if (asking && !carried_take_row(&target->answer, frame->payload, &err)) {
			target->failed = true;
			reason_set(target->reason, "%s", err.message);
		}
		break;
	case 'Z':
		target->completed = 0;
		if (asking)
			all_answered(session);
		else
			target->group++;
		break;
	default:
		break;
	}
}
