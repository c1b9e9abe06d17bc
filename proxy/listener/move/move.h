/*
 * move.h: what the files of proxy/listener/move share, and what the listener's own files
 * call of them.
 *
 *   ask.c     asks the session's own server what it carries (question.c, carried.h)
 *   target.c  a connection to the other server, logged in as the session's client
 *   level.c   brings that connection level with the session (plan.c)
 *   leaving.c closes the connections to the old one, bit by bit
 *   step.c    drives one session through these, and puts the connection in its place
 *   queue.c   how many sessions at a time
 *   move.c    all sessions: listener_move_*, listener_sessions
 *   outside.c the mover's own sessions on both servers
 *   report.c  what is told of it
 *
 * A Move is its session's, and its loop's; the listener's Mover is whose who holds its lock.
 */
#ifndef PGBATON_PROXY_LISTENER_MOVE_H
#define PGBATON_PROXY_LISTENER_MOVE_H

#include "protocol/auth/auth.h"
#include "protocol/message/frame.h"
#include "protocol/message/startup.h"
#include "proxy/listener/internal.h"
#include "proxy/listener/link.h"
#include "proxy/listener/move/carried.h"

/*
 *            target_open         LINK_READY         ReadyForQuery         level_begin
 *   CLOSED -------------> LINKING --------> LOGIN ---------------> OPEN -------------+
 *     ^                                                             |                v
 *     |   target_fail, target_close: any                            |           LEVELLING
 *     +---------------------------------------------------          +----------------+
 *                                                                      level, or not
 */
typedef enum {
	TARGET_CLOSED,
	TARGET_LINKING,
	TARGET_LOGIN,
	TARGET_OPEN,
	TARGET_LEVELLING
} TargetState;

typedef struct {
	TargetState state;
	Channel channel;
	Link link;
	Endpoint *endpoint;
	ev_io readable, writable;
	FrameReader in;
	Auth *auth;
	Buffer out;
	size_t out_pos;
	uint32_t pid;
	uint8_t key[SERVER_KEY_MAX];
	Buffer reported;   /* ParameterStatus as they came: name, value, name, value, ... */
	Buffer for_client; /* NotificationResponses: the client's, once the session is there */
	int64_t used_ms;   /* the last time that anything was done with it */

	Carried have;   /* what it has; known from the login on */
	Buffer unnamed; /* the Parse of its unnamed statement; empty: none */
	bool level;     /* with the session as it was after `level_at` requests */
	uint32_t level_at;

	/* LEVELLING */
	Plan plan;
	size_t group;     /* that is being answered; plan.group_count: the question */
	size_t completed; /* steps of it */
	bool failed;
	Carried answer;
	char reason[LISTENER_REASON_MAX]; /* why it is not there, or not level; "": nothing known */
} Target;

typedef enum { WISH_NONE, WISH_KNOW, WISH_PREPARE, WISH_OPEN } Wish;

typedef struct Move Move;
struct Move {
	/* How to log in as this client once more; wiped. */
	Buffer packet; /* startup points into it */
	Startup startup;
	char *md5_secret, *password;
	ScramKeys keys;
	bool keyless; /* it was let in without a proof: there is nothing to log in with */

	Statements statements; /* the Track's */

	/* the question under way: session->asking */
	FrameReader in;
	Buffer out;
	size_t out_pos;
	bool quick;    /* only the digest */
	bool closing;  /* nothing is asked: the kept statement is dropped */
	bool slow;     /* it takes long */
	bool given_up; /* it took too long */
	ev_timer patience;
	int syncs;        /* ReadyForQuery still to come */
	int answer_group; /* and those that came */
	uint32_t asked_at;
	Carried answer;
	bool answer_unnamed;
	bool answer_failed;
	char answer_reason[LISTENER_REASON_MAX];

	/* the last answer */
	Carried carried;
	uint32_t carried_at;                  /* the requests that were before it */
	uint32_t carried_sets;                /* Track.sets */
	const char *settings;                 /* its CARRIED_NAMES, the Mover's; NULL: too many kinds */
	bool unnamed;                         /* the server has the unnamed statement */
	char ask_reason[LISTENER_REASON_MAX]; /* it could not be asked; "": it could */
	bool locks;                           /* session advisory locks, seen from outside */

	/* the quick question's statement, kept at the session's server while there may be others */
	bool kept;
	size_t kept_names;         /* it is of so many bytes of the Mover's names */
	const char *kept_settings; /* and of these */

	Wish wish;         /* what the mover waits for */
	bool asked;        /* for this wish */
	bool changed;      /* the quick question's answer: ask for all */
	bool late;         /* the wish was not fulfilled in time */
	bool queued;       /* its wish has not been begun with: queue.c */
	bool begun_closed; /* it had no target when it was */
	int64_t begun_us;
	Session *queue_next, *queue_prev;
	bool stepping;
	bool promised; /* it was ready when the last open looked */
	Target target;
};

/* The listener's part of it. */
struct Mover {
	pthread_mutex_t phase; /* one of sessions, prepare and open at a time */
	Stop *stop;            /* of sql, requested by mover_stop */
	ListenerRoute from, to;
	bool open;           /* the last open was true: commit may follow */
	struct Sql *sql[3];  /* by route; NULL: not connected */
	Endpoint *endpoint;  /* of `to` */
	Mentions names;      /* of custom settings, to be asked for */
	char *settings[4];   /* CARRIED_NAMES that sessions have; under lock, and never changed */
	char *known[3];      /* by route: that server's settings, with commas; likewise */
	bool hidden_sets;    /* functions of the database may SET */
	bool anew;           /* statements on targets from an earlier prepare are not trusted */
	int64_t prepared_ms; /* the end of the last prepare; under phase */
	Wish wish;           /* what the loops are asked to do */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	size_t waiting; /* sessions with a wish, under lock */
	size_t at_work; /* of them Session.at_work, under lock */
};

/* ---- report.c ---- */

/* Cuts at a character. reason has LISTENER_REASON_MAX bytes. */
void reason_set(char *reason, const char *fmt, ...) PRINTF_LIKE(2, 3);

typedef bool (*RowFilter)(const Session *session);

/* The sessions that have logged in or are doing so, for which wanted is true. *others: those
 * logged in for which it is not; or NULL. */
size_t report_rows(Listener *listener, RowFilter wanted, ListenerSession **out, size_t *others);
/* ERROR_CONFIG that names report->which. Returns false. */
bool report_unmovable(const MoveReport *report, Error *err);

/* ---- step.c ---- */

/* Keeps from the login what a move needs. At the end of the login. */
void move_keep(Session *session);
void move_free(Session *session);
/* Something has changed that the session's wish may have waited for. */
void move_step(Session *session);
void move_wish(Session *session, Wish wish);
/* Gives the wish up. */
void move_forget_wish(Session *session, bool late);
/* Ready to go on at its target. */
bool move_is_ready(const Session *session);
/* Goes on there. */
void move_swap(Session *session);
/* Why the session cannot be moved; "" when nothing is known that is in the way. */
const char *move_reason(const Session *session);
/* The server process on that route that was opened for it; 0: none. */
uint32_t move_pid_on(const Session *session, ListenerRoute on);
/* Once a second: closes what was kept for a next try that does not come. */
void move_tick(Session *session);

/* ---- queue.c ---- */

/* Gives each session of the loop the wish. */
void queue_begin(Loop *loop, Wish wish);
/* Begins with the next ones, if it is time. Once a second. */
void queue_go_on(Loop *loop);
void queue_add(Session *session);
void queue_remove(Session *session);
/* A session that was begun with needs no looking at: its wish has ended, or waits for its client.
 * Goes on with others. */
void queue_leave(Session *session, bool ended);
void queue_return(Session *session);
void queue_give_up(Loop *loop);

/* ---- ask.c ---- */

/* At a boundary, nothing on its way in either direction. */
bool ask_possible(const Session *session);
/* quick: only whether anything has changed since the last answer. */
void ask_begin(Session *session, bool quick);
/* Drops the statement that was kept for the next question. */
void ask_forget(Session *session);
void ask_readable(Session *session);
/* The session is going. */
void ask_end(Session *session);
void ask_writable(Session *session);
static inline bool
ask_sending(const Session *session)
{
	return session->asking && session->move->out_pos < session->move->out.len;
}

/* ---- target.c ---- */

void target_open(Session *session, Endpoint *endpoint);
void target_close(Target *target, Loop *loop);
void target_fail(Session *session, const char *fmt, ...) PRINTF_LIKE(2, 3);
void target_flush(Session *session);
/* An open one is read now, whatever the loop has been told of: its end may be there. */
void target_look(Session *session);
/* Remembers a ParameterStatus, or a notification for later. */
void target_note(Target *target, const Frame *frame);

/* ---- level.c ---- */

void level_begin(Session *session);
void level_frame(Session *session, const Frame *frame);
/* What its target was given for its statements some time ago may be of tables that are not any
 * more what they were: it is given them anew. */
void level_doubt_statements(Session *session);
/* The session's last answer asks for nothing that its target does not have. */
bool level_is_given(const Session *session);

/* ---- leaving.c ---- */

/* Takes the session's connection to its server, to be closed soon. */
void leaving_add(Session *session);
void leaving_end(Loop *loop); /* all of them now */
/* Those on that server (arg: a ListenerRoute) now: sessions are to be opened there, and it may not
 * have connections for both. A loops_call. */
void leaving_make_room(Loop *loop, void *arg);
/* The next one's process on that server, from *at on, which begins as loop->leaving; 0: no more. */
uint32_t leaving_pid(const Leaving **at, ListenerRoute on);

/* ---- outside.c ---- */

void mover_init(Listener *listener);
void mover_stop(Listener *listener); /* ends what waits; any thread */
void mover_free(Listener *listener);
/* Connects where it is not. */
MUST_CHECK bool outside_connect(Listener *listener, ListenerRoute route, int64_t deadline_ms,
                                Error *err);
/* Mover.endpoint: where sessions of `route` are to go. */
MUST_CHECK bool outside_endpoint(Listener *listener, ListenerRoute route, int64_t deadline_ms,
                                 Error *err);
/* Names of custom settings that the database itself mentions; a failure is only logged. */
void outside_names(Listener *listener, Mentions *names);
/* Mover.hidden_sets; a failure is only logged. */
void outside_sets(Listener *listener);
/* Mover.known of that server, once; a failure is only logged. */
void outside_known(Listener *listener, ListenerRoute route, int64_t deadline_ms);
/* Whether the server that a session of `route` would go to has that setting, as far as that is
 * known. Any thread. */
bool mover_knows(Mover *mover, ListenerRoute route, const char *setting);
/* The one copy of a list of settings, nearly all sessions' having the same. Any thread. */
const char *mover_settings(Mover *mover, const char *list);
/* The processes that hold advisory locks, sorted; the caller's to free. */
MUST_CHECK bool outside_locks(Listener *listener, uint32_t **pids, size_t *count, Error *err);

#endif
