/*
 * The status document: design.md, "The outside", and a little more. LSNs and
 * states are text, times are seconds (those of the cutover milliseconds, as
 * their names say), dates ISO 8601 in UTC, what is unknown is null.
 */
#include <math.h>
#include <time.h>

#include "common/clock.h"
#include "proxy/admin/admin_internal.h"

json_t *
json_count(uint64_t n)
{
	return json_integer(n > INT64_MAX ? INT64_MAX : (json_int_t)n);
}

static json_t *
json_lsn(Lsn lsn)
{
	return json_string(LSN_STR(lsn));
}

/* JSON has no infinity; a negative number says "unknown" in the structs. */
static json_t *
json_known(double value)
{
	return isfinite(value) && value >= 0 ? json_real(value) : json_null();
}

/* Names and messages come from servers and may be cut inside a character or be
 * in another encoding: json_string refuses those, so they are mended first. */
json_t *
json_text(const char *text)
{
	json_t *json = json_string(text);

	if (json != NULL)
		return json;
	char *copy = mem_strdup(text);
	for (char *c = copy; *c != '\0'; c++) {
		if ((unsigned char)*c >= 0x80)
			*c = '?';
	}
	json = json_string(copy);
	free(copy);
	return json;
}

static json_t *
json_time(int64_t wall_us)
{
	time_t seconds = (time_t)(wall_us / 1000000);
	struct tm tm;
	char text[32], all[48];

	if (wall_us == 0)
		return json_null();
	gmtime_r(&seconds, &tm);
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(all, sizeof(all), "%s.%03dZ", text, (int)(wall_us / 1000 % 1000));
	return json_string(all);
}

json_t *
error_json(const Error *error)
{
	json_t *json;

	if (error->class == ERROR_NONE)
		return json_null();
	json = json_object();
	json_object_set_new(json, "class", json_string(error_class_name(error->class)));
	json_object_set_new(json, "message", json_text(error->message));
	json_object_set_new(json, "context", json_text(error->context));
	json_object_set_new(json, "sqlstate", json_text(error->sqlstate));
	json_object_set_new(json, "hint", json_text(error->hint));
	return json;
}

static json_t *
lag_json(const MigrationStatus *s)
{
	json_t *json = json_object();

	json_object_set_new(json, "received_bytes", json_count(s->received_bytes));
	json_object_set_new(json, "applied_bytes", json_count(s->applied_bytes));
	json_object_set_new(json, "seconds", json_known(s->lag_seconds));
	json_object_set_new(json, "pending_transactions", json_count(s->pending_transactions));
	return json;
}

static json_t *
tables_json(const MigrationStatus *s, size_t matching)
{
	json_t *json = json_object();

	json_object_set_new(json, "queued", json_count(s->tables_queued));
	json_object_set_new(json, "copying", json_count(s->tables_copying));
	json_object_set_new(json, "copied", json_count(s->tables_copied));
	json_object_set_new(json, "errored", json_count(s->tables_errored));
	json_object_set_new(json, "matching", json_count(matching));
	return json;
}

static json_t *
copy_json(const MigrationStatus *s)
{
	json_t *json = json_object();

	json_object_set_new(json, "rows", json_count(s->copy_rows));
	json_object_set_new(json, "bytes", json_count(s->copy_bytes));
	json_object_set_new(json, "bytes_total", json_count(s->copy_bytes_total));
	json_object_set_new(json, "eta_seconds", json_known(s->copy_eta_seconds));
	json_object_set_new(json, "rate", s->copy_rate > 0 ? json_real(s->copy_rate) : json_null());
	json_object_set_new(json, "oldest_snapshot_seconds", json_known(s->oldest_snapshot_s));
	json_object_set_new(json, "waiting",
	                    s->waiting[0] != '\0' ? json_text(s->waiting) : json_null());
	json_object_set_new(json, "rate_limit",
	                    s->throttle.rate > 0 ? json_count(s->throttle.rate) : json_null());
	json_object_set_new(json, "held",
	                    s->throttle.held[0] != '\0' ? json_text(s->throttle.held) : json_null());
	return json;
}

static json_t *
index_json(const IndexStatus *index)
{
	json_t *json = json_object();
	json_t *list = json_array();

	json_object_set_new(json, "done", json_count(index->done));
	json_object_set_new(json, "count", json_count(index->count));
	json_object_set_new(json, "bytes", json_count((uint64_t)index->bytes_done));
	json_object_set_new(json, "bytes_total", json_count((uint64_t)index->bytes_total));
	for (size_t i = 0; i < index->running_count; i++) {
		const IndexRunning *running = &index->running[i];
		json_t *one = json_object();
		json_object_set_new(one, "name", json_text(running->name));
		json_object_set_new(one, "schema", json_text(running->table->schema));
		json_object_set_new(one, "table", json_text(running->table->name));
		json_object_set_new(one, "phase", json_text(running->phase));
		json_object_set_new(one, "share", json_known(running->share));
		json_array_append_new(list, one);
	}
	json_object_set_new(json, "running", list);
	return json;
}

static json_t *
eta_json(const MigrationStatus *s)
{
	json_t *json = json_object();
	bool any = s->eta_until != NULL;

	json_object_set_new(json, "seconds", any ? json_known(s->eta_seconds) : json_null());
	json_object_set_new(json, "until", any ? json_string(s->eta_until) : json_null());
	json_object_set_new(json, "unknown",
	                    s->eta_why[0] != '\0' ? json_text(s->eta_why) : json_null());
	return json;
}

static json_t *
standbys_json(const MigrationStatus *s)
{
	json_t *json = json_object();

	json_object_set_new(json, "count", json_integer(s->standbys.count));
	json_object_set_new(json, "hidden", json_integer(s->standbys.hidden));
	json_object_set_new(json, "lag_seconds", json_known(s->standbys.seconds));
	json_object_set_new(json, "lag_bytes", json_count(s->standbys.bytes));
	json_object_set_new(json, "max_lag_seconds",
	                    s->lag_limit.ms > 0 ? json_real((double)s->lag_limit.ms / 1e3)
	                                        : json_null());
	json_object_set_new(json, "max_lag_bytes",
	                    s->lag_limit.bytes > 0 ? json_count(s->lag_limit.bytes) : json_null());
	return json;
}

static json_t *
stream_json(const MigrationStatus *s)
{
	json_t *json = json_object();

	json_object_set_new(json, "source_lsn", json_lsn(s->source_lsn));
	json_object_set_new(json, "received_lsn", json_lsn(s->receiver.received));
	json_object_set_new(json, "logged_lsn", json_lsn(s->log.synced_end));
	json_object_set_new(json, "applied_lsn", json_lsn(s->applier.applied_end));
	json_object_set_new(json, "durable_lsn", json_lsn(s->applier.durable_end));
	json_object_set_new(json, "transactions", json_count(s->applier.transactions));
	json_object_set_new(json, "inserts", json_count(s->applier.inserts));
	json_object_set_new(json, "updates", json_count(s->applier.updates));
	json_object_set_new(json, "deletes", json_count(s->applier.deletes));
	json_object_set_new(json, "truncates", json_count(s->applier.truncates));
	json_object_set_new(json, "batches", json_count(s->applier.batches));
	json_object_set_new(json, "replays", json_count(s->applier.replays));
	json_object_set_new(json, "early", json_count(s->applier.early));
	json_object_set_new(json, "early_given_up", json_count(s->applier.early_given_up));
	json_object_set_new(json, "waiting",
	                    s->apply_waiting[0] != '\0' ? json_text(s->apply_waiting) : json_null());
	return json;
}

static json_t *
receiver_json(const ReceiverState *r)
{
	json_t *json = json_object();

	json_object_set_new(json, "connected", json_boolean(r->connected));
	json_object_set_new(json, "failed", json_boolean(r->failed));
	json_object_set_new(json, "confirmed_lsn", json_lsn(r->confirmed));
	json_object_set_new(json, "reconnects", json_count(r->reconnects));
	json_object_set_new(json, "bytes", json_count(r->bytes));
	json_object_set_new(json, "last_message", json_time(r->last_message_us));
	json_object_set_new(json, "held_by_log", json_boolean(r->held_by_log));
	json_object_set_new(json, "held_by_disk", json_boolean(r->held_by_disk));
	json_object_set_new(json, "error", error_json(&r->error));
	return json;
}

static json_t *
applier_json(const ApplierState *a)
{
	static const char *const phases[] = {
		[APPLIER_RUNNING] = "running",
		[APPLIER_PAUSED] = "paused",
		[APPLIER_RETRYING] = "retrying",
		[APPLIER_FAILED] = "failed",
	};
	json_t *json = json_object();

	json_object_set_new(json, "phase", json_string(phases[a->phase]));
	json_object_set_new(json, "error", error_json(&a->error));
	return json;
}

static json_t *
log_json(const TxLogState *log)
{
	json_t *json = json_object();

	json_object_set_new(json, "bytes_on_disk", json_count(log->bytes_on_disk));
	json_object_set_new(json, "segments", json_count(log->segments));
	json_object_set_new(json, "transactions", json_count(log->transactions));
	return json;
}

static json_t *
slot_json(const SlotHealth *slot)
{
	json_t *json = json_object();

	json_object_set_new(json, "exists", json_boolean(slot->exists));
	json_object_set_new(json, "active", json_boolean(slot->active));
	json_object_set_new(json, "lost", json_boolean(slot->lost));
	json_object_set_new(json, "why", json_text(slot->why));
	json_object_set_new(json, "wal_status",
	                    slot->wal_status[0] != '\0' ? json_text(slot->wal_status) : json_null());
	json_object_set_new(json, "confirmed_lsn", json_lsn(slot->confirmed));
	json_object_set_new(json, "restart_lsn", json_lsn(slot->restart));
	json_object_set_new(json, "kept_bytes", json_count(slot->kept_bytes));
	json_object_set_new(json, "safe_bytes",
	                    slot->exists && slot->safe_bytes >= 0 ? json_integer(slot->safe_bytes)
	                                                          : json_null());
	json_object_set_new(json, "read_lsn", json_lsn(slot->read));
	json_object_set_new(json, "unread_bytes", json_count(slot->unread_bytes));
	json_object_set_new(json, "spilled_bytes",
	                    slot->exists && slot->spilled_bytes >= 0 ? json_integer(slot->spilled_bytes)
	                                                             : json_null());
	json_object_set_new(json, "reading_seconds", json_real(slot->reading_s));
	return json;
}

static json_t *
large_objects_json(const MigrationStatus *s)
{
	json_t *json = json_object();

	json_object_set_new(json, "objects", json_count(s->large_objects.objects));
	json_object_set_new(json, "objects_total", json_count(s->large_objects.objects_total));
	json_object_set_new(json, "bytes", json_count(s->large_objects.bytes));
	json_object_set_new(json, "bytes_total", json_count(s->large_objects.bytes_total));
	return json;
}

static json_t *
sessions_json(const SessionGroups *sessions)
{
	json_t *list = json_array();

	for (size_t i = 0; i < sessions->count; i++) {
		const SessionGroup *group = &sessions->groups[i];
		json_t *json = json_object();
		json_object_set_new(json, "user", json_text(group->user));
		json_object_set_new(json, "application", json_text(group->application));
		json_object_set_new(json, "address", json_text(group->address));
		json_object_set_new(json, "sessions", json_count(group->sessions));
		json_object_set_new(json, "writing", json_count(group->writing));
		json_array_append_new(list, json);
	}
	return list;
}

static json_t *
definitions_json(const DefinitionChanges *found)
{
	json_t *list = json_array();

	for (size_t i = 0; i < found->count && i < DEFINITIONS_NAMED; i++)
		json_array_append_new(list, json_text(found->named[i]));
	return list;
}

json_t *
listener_sessions_json(const ListenerSession *sessions, size_t count)
{
	json_t *list = json_array();

	for (size_t i = 0; i < count; i++) {
		const ListenerSession *session = &sessions[i];
		json_t *json = json_object();
		json_object_set_new(json, "pid", json_integer(session->pid));
		json_object_set_new(json, "who", json_text(session->who));
		json_object_set_new(json, "state", json_text(session->state));
		json_object_set_new(json, "since", json_time(session->since_ms * 1000));
		json_object_set_new(json, "movable", json_boolean(session->reason[0] == '\0'));
		json_object_set_new(json, "reason",
		                    session->reason[0] != '\0' ? json_text(session->reason) : json_null());
		json_array_append_new(list, json);
	}
	return list;
}

static json_t *
listener_json(const ListenerState *l)
{
	if (!l->listening)
		return json_null();
	json_t *json = json_object();
	json_object_set_new(json, "route", json_string(listener_route_name(l->route)));
	json_object_set_new(json, "sessions", json_count(l->sessions));
	json_object_set_new(json, "held", json_count(l->held));
	json_object_set_new(json, "logins", json_count(l->logins));
	json_object_set_new(json, "unmovable", json_count(l->unmovable));
	json_object_set_new(json, "accepted", json_count(l->accepted));
	json_object_set_new(json, "refused", json_count(l->refused));
	json_object_set_new(json, "cancels", json_count(l->cancels));
	return json;
}

static json_t *
cutover_json(const CutoverStatus *c)
{
	static const char *const outcomes[] = {
		[CUTOVER_NONE] = "none",           [CUTOVER_RUNNING] = "running",
		[CUTOVER_SWITCHED] = "switched",   [CUTOVER_ABORTED] = "aborted",
		[CUTOVER_REHEARSED] = "rehearsed", [CUTOVER_UNKNOWN] = "unknown",
	};
	json_t *json = json_object();

	json_object_set_new(json, "id", json_count(c->id));
	json_object_set_new(json, "failback", json_boolean(c->failback));
	json_object_set_new(json, "outcome", json_string(outcomes[c->outcome]));
	json_object_set_new(json, "step", json_text(c->step));
	json_object_set_new(json, "prepare_ms", json_known(c->prepare_ms));
	json_object_set_new(json, "hold_ms", json_known(c->hold_ms));
	json_object_set_new(json, "quiet_ms", json_known(c->quiet_ms));
	json_object_set_new(json, "fence_ms", json_known(c->fence_ms));
	json_object_set_new(json, "marker_ms", json_known(c->marker_ms));
	json_object_set_new(json, "drain_ms", json_known(c->drain_ms));
	json_object_set_new(json, "sequences_ms", json_known(c->sequences_ms));
	json_object_set_new(json, "verify_ms", json_known(c->verify_ms));
	json_object_set_new(json, "sessions_ms", json_known(c->sessions_ms));
	json_object_set_new(json, "large_objects_ms", json_known(c->large_objects_ms));
	json_object_set_new(json, "commit_ms", json_known(c->commit_ms));
	json_object_set_new(json, "sessions_moved", json_count(c->sessions_moved));
	json_object_set_new(json, "sessions_closed", json_count(c->sessions_closed));
	json_object_set_new(json, "sessions_unmovable", json_count(c->sessions_unmovable));
	json_object_set_new(json, "unmovable",
	                    listener_sessions_json(c->unmovable, c->unmovable_count));
	json_object_set_new(json, "sequences", json_count(c->sequences));
	json_object_set_new(json, "large_objects", json_count(c->large_objects));
	json_object_set_new(json, "large_objects_differed", json_count(c->large_objects_differed));
	json_object_set_new(json, "attempts", json_integer(c->attempts));
	json_object_set_new(json, "bypassing_sessions", json_count(c->bypassing.sessions));
	json_object_set_new(json, "bypassing", sessions_json(&c->bypassing));
	json_object_set_new(json, "definitions_changed", json_count(c->definitions.count));
	json_object_set_new(json, "definitions", definitions_json(&c->definitions));
	json_object_set_new(json, "error", error_json(&c->error));
	return json;
}

static json_t *
way_back_json(const WayBackStatus *w)
{
	static const char *const states[] = {
		[WAY_BACK_NONE] = "none",
		[WAY_BACK_STARTING] = "starting",
		[WAY_BACK_FOLLOWING] = "following",
		[WAY_BACK_FAILED] = "failed",
	};
	json_t *json = json_object();

	json_object_set_new(json, "state", json_string(states[w->state]));
	json_object_set_new(json, "received_bytes", json_count(w->received_bytes));
	json_object_set_new(json, "applied_bytes", json_count(w->applied_bytes));
	json_object_set_new(json, "target_lsn", json_lsn(w->target_lsn));
	json_object_set_new(json, "logged_lsn", json_lsn(w->log.synced_end));
	json_object_set_new(json, "applied_lsn", json_lsn(w->applier.applied_end));
	json_object_set_new(json, "transactions", json_count(w->applier.transactions));
	json_object_set_new(json, "receiver", receiver_json(&w->receiver));
	json_object_set_new(json, "applier", applier_json(&w->applier));
	json_object_set_new(json, "log", log_json(&w->log));
	json_object_set_new(json, "slot", slot_json(&w->slot));
	json_object_set_new(json, "error", error_json(&w->error));
	return json;
}

static json_t *
verify_json(const VerifyStatus *v)
{
	static const char *const outcomes[] = {
		[VERIFY_NEVER] = "none",
		[VERIFY_RUNNING] = "running",
		[VERIFY_EQUAL] = "equal",
		[VERIFY_FAILED] = "failed",
	};
	json_t *json = json_object();

	json_object_set_new(json, "id", json_count(v->id));
	json_object_set_new(json, "outcome", json_string(outcomes[v->outcome]));
	json_object_set_new(json, "tables", json_count(v->tables));
	json_object_set_new(json, "took_ms", json_known(v->took_ms));
	json_object_set_new(json, "differs",
	                    v->differs[0] != '\0' ? json_text(v->differs) : json_null());
	json_object_set_new(json, "error", error_json(&v->error));
	return json;
}

static json_t *
addition_json(const AdditionStatus *a)
{
	static const char *const outcomes[] = {
		[ADDITION_NONE] = "none",
		[ADDITION_RUNNING] = "running",
		[ADDITION_DONE] = "done",
		[ADDITION_FAILED] = "failed",
	};
	json_t *json = json_object();

	json_object_set_new(json, "id", json_count(a->id));
	json_object_set_new(json, "recopy", json_boolean(a->recopy));
	json_object_set_new(json, "outcome", json_string(outcomes[a->outcome]));
	json_object_set_new(json, "step", json_text(a->step));
	json_object_set_new(json, "tables", json_count(a->tables));
	json_object_set_new(json, "error", error_json(&a->error));
	return json;
}

json_t *
status_json_some(const MigrationStatus *s, const StatusTables *which)
{
	json_t *json = json_object();
	size_t matching = 0;
	json_t *list = status_tables_json(s->catalog, which, &matching);

	json_object_set_new(json, "name", json_text(s->name));
	json_object_set_new(json, "id", json_text(s->id));
	json_object_set_new(json, "state", json_string(migration_state_name(s->state)));
	json_object_set_new(json, "mode", json_string(s->online ? "online" : "offline"));
	json_object_set_new(json, "since", json_time(s->since_us));
	json_object_set_new(json, "now", json_time(clock_wall_us()));
	json_object_set_new(json, "detail", json_text(s->detail));
	json_object_set_new(json, "paused", json_boolean(s->paused));
	json_object_set_new(json, "retrying", json_boolean(s->retrying));
	json_object_set_new(json, "error", error_json(&s->error));
	json_object_set_new(json, "lag", lag_json(s));
	json_object_set_new(json, "tables", tables_json(s, matching));
	json_object_set_new(json, "copy", copy_json(s));
	json_object_set_new(json, "large_objects", large_objects_json(s));
	json_object_set_new(json, "index", index_json(&s->index));
	json_object_set_new(json, "eta", eta_json(s));
	json_object_set_new(json, "stream", stream_json(s));
	json_object_set_new(json, "receiver", receiver_json(&s->receiver));
	json_object_set_new(json, "applier", applier_json(&s->applier));
	json_object_set_new(json, "log", log_json(&s->log));
	json_t *slot = slot_json(&s->slot);
	json_object_set_new(slot, "warning",
	                    s->slot_warning[0] != '\0' ? json_text(s->slot_warning) : json_null());
	json_object_set_new(json, "slot", slot);
	json_object_set_new(json, "standbys", standbys_json(s));
	json_object_set_new(json, "table", list);
	json_object_set_new(json, "listener", listener_json(&s->listener));
	json_object_set_new(json, "cutover", cutover_json(&s->cutover));
	json_object_set_new(json, "verify", verify_json(&s->verify));
	json_object_set_new(json, "addition", addition_json(&s->addition));
	json_object_set_new(json, "removed",
	                    s->removed[0] != '\0' ? json_text(s->removed) : json_null());
	json_object_set_new(json, "way_back", way_back_json(&s->way_back));
	return json;
}

json_t *
status_json(const MigrationStatus *s)
{
	return status_json_some(s, &(StatusTables){.limit = SIZE_MAX});
}
