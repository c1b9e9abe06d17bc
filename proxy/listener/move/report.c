/* What the outside is told of sessions: rows, server pids, a move's report. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/memory.h"
#include "common/utf8.h"
#include "proxy/listener/move/move.h"

void
reason_set(char *reason, const char *fmt, ...)
{
	char text[2048];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	/* A server answers in the client's encoding; whoever reads this expects UTF-8. */
	for (size_t at = 0, left = strlen(text); left > 0;) {
		size_t n = utf8_char_len(text + at, left);
		if (n == 0)
			text[at] = '?';
		at += n > 0 ? n : 1;
		left -= n > 0 ? n : 1;
	}
	size_t len = utf8_cut(text, strnlen(text, LISTENER_REASON_MAX - 1));
	memcpy(reason, text, len);
	reason[len] = '\0';
}

/* Rows from all loops; one grows it at a time, under its lock. */
typedef struct {
	pthread_mutex_t lock;
	RowFilter wanted;
	ListenerSession *rows;
	size_t count;
	size_t others; /* logged in, and not wanted */
} Rows;

static const char *
state_name(const Session *session)
{
	if (session->state == SESSION_HELD)
		return "held";
	if (session->state != SESSION_RELAYING)
		return "login";
	if (track_busy(&session->track))
		return "active";
	return session->track.status == 'I' ? "idle" : "in transaction";
}

/* What the other server does not have it would refuse at a rehearsal, or at the switch. */
static void
name_unknown_setting(const Session *session, ListenerSession *row)
{
	Mover *mover = session->loop->listener->mover;
	const Carried *carried = session->move != NULL ? &session->move->carried : NULL;

	for (size_t i = 0; carried != NULL && i < carried->count; i++) {
		const CarriedItem *item = &carried->items[i];
		if (item->kind != CARRIED_SETTING || mover_knows(mover, session->route, item->name))
			continue;
		reason_set(row->reason, "the other server does not have setting %s", item->name);
		return;
	}
}

/* What the other server said when it was last tried: it may have been mended since. */
static void
name_last_try(const Session *session, ListenerSession *row)
{
	enum { JUST_NOW_MS = 1000 };
	const Target *target = &session->move->target;
	int64_t age_ms = (int64_t)(ev_now(session->loop->ev) * 1000.0) - target->used_ms;

	if (age_ms > JUST_NOW_MS && target->used_ms > 0)
		reason_set(row->reason, "%s (at the last try, %lld s ago)", target->reason,
		           (long long)(age_ms / 1000));
}

static void
fill_row(const Session *session, ListenerSession *row)
{
	const char *reason = move_reason(session);

	*row = (ListenerSession){.pid = session->server_pid, .since_ms = session->since_ms};
	snprintf(row->who, sizeof(row->who), "%s", session->who);
	snprintf(row->state, sizeof(row->state), "%s", state_name(session));
	snprintf(row->reason, sizeof(row->reason), "%s", reason);
	if (reason[0] == '\0')
		name_unknown_setting(session, row);
	else if (session->move != NULL && reason == session->move->target.reason)
		name_last_try(session, row);
}

static void
collect_rows(Loop *loop, void *arg)
{
	Rows *rows = arg;

	pthread_mutex_lock(&rows->lock);
	for (Session *session = loop->sessions; session != NULL; session = session->next) {
		if (session->state < SESSION_ASKING || session->state > SESSION_HELD)
			continue;
		if (!rows->wanted(session)) {
			rows->others += session->state >= SESSION_RELAYING;
			continue;
		}
		rows->rows = mem_realloc(rows->rows, (rows->count + 1) * sizeof(*rows->rows));
		fill_row(session, &rows->rows[rows->count++]);
	}
	pthread_mutex_unlock(&rows->lock);
}

size_t
report_rows(Listener *listener, RowFilter wanted, ListenerSession **out, size_t *others)
{
	Rows rows = {.wanted = wanted};

	pthread_mutex_init(&rows.lock, NULL);
	loops_call(listener, collect_rows, &rows);
	pthread_mutex_destroy(&rows.lock);
	*out = rows.rows;
	if (others != NULL)
		*others = rows.others;
	return rows.count;
}

void
move_report_free(MoveReport *report)
{
	free(report->which);
	*report = (MoveReport){0};
}

static bool
refused(const MoveReport *report, const char *sqlstate)
{
	for (size_t i = 0; i < report->unmovable; i++)
		if (strstr(report->which[i].reason, "refuses its login") != NULL &&
		    strstr(report->which[i].reason, sqlstate) != NULL)
			return true;
	return false;
}

/* Closing whom the other server does not let in ends it for nothing: its next connection would not
 * be let in either. 53300 comes from the limits of server, database and role. */
const char *
move_report_hint(const MoveReport *report)
{
	if (refused(report, "(53300)"))
		return "each session needs a connection on the other server: raise max_connections "
			   "there, or the CONNECTION LIMIT of the database or role";
	if (refused(report, "(28P01)"))
		return "the role's password must be stored on both servers byte for byte, as pg_dumpall "
			   "--roles-only writes it (ALTER ROLE ... PASSWORD 'SCRAM-SHA-256$...'): the same "
			   "password set again is stored otherwise";
	if (refused(report, "(28000)") || refused(report, "(42501)"))
		return "the other server must let in whom this one does: pg_hba.conf there for pgbaton's "
			   "address, LOGIN of the role, CONNECT on the database";
	return "`pgbaton sessions` lists them; --unmovable close ends them with 57P01 between two "
		   "transactions";
}

bool
report_unmovable(const MoveReport *report, Error *err)
{
	enum { NAMED = 5 };
	Buffer names = BUFFER_INIT;

	for (size_t i = 0; i < report->unmovable && i < NAMED; i++)
		buffer_printf(&names, "%s%s (pid %u): %s", i > 0 ? "; " : "", report->which[i].who,
		              report->which[i].pid, report->which[i].reason);
	error_set(err, ERROR_CONFIG, "%zu session%s cannot be moved: %s%s", report->unmovable,
	          report->unmovable == 1 ? "" : "s", buffer_cstr(&names),
	          report->unmovable > NAMED ? "; ..." : "");
	error_set_hint(err, "%s", move_report_hint(report));
	buffer_free(&names);
	return false;
}

/* ---- server processes ---- */

typedef struct {
	pthread_mutex_t lock;
	ListenerRoute on;
	bool lately;
	uint32_t *pids;
	size_t count;
} Pids;

static void
add_pid(Pids *pids, uint32_t pid)
{
	if (pid == 0)
		return;
	pids->pids = mem_realloc(pids->pids, (pids->count + 1) * sizeof(*pids->pids));
	pids->pids[pids->count++] = pid;
}

static const double ENDED_LATELY_S = 5.0;

static void
collect_pids(Loop *loop, void *arg)
{
	Pids *pids = arg;

	pthread_mutex_lock(&pids->lock);
	for (Session *session = loop->sessions; session != NULL; session = session->next) {
		if (session->route == pids->on)
			add_pid(pids, session->server_pid);
		add_pid(pids, move_pid_on(session, pids->on));
	}
	uint32_t pid;
	for (const Leaving *at = loop->leaving; (pid = leaving_pid(&at, pids->on)) != 0;)
		add_pid(pids, pid);
	for (size_t i = 0; pids->lately && i < ENDED_KEPT && i < loop->ended_count; i++)
		if (loop->ended[i].on == pids->on && ev_now(loop->ev) - loop->ended[i].at < ENDED_LATELY_S)
			add_pid(pids, loop->ended[i].pid);
	pthread_mutex_unlock(&pids->lock);
}

size_t
listener_server_pids(Listener *listener, ListenerRoute on, bool lately, uint32_t **out)
{
	Pids pids = {.on = on, .lately = lately};

	pthread_mutex_init(&pids.lock, NULL);
	loops_call(listener, collect_pids, &pids);
	add_pid(&pids, upstream_pid_on(listener->upstream, on));
	pthread_mutex_destroy(&pids.lock);
	*out = pids.pids;
	return pids.count;
}
