/*
 * listener.h: pgbaton in front of the application, as a PostgreSQL server.
 *
 * One client connection is one server connection; a session stays on one of N event
 * loops, each a thread. In normal running bytes are relayed as they come and only message
 * headers are looked at (protocol/message/track.h). Where new sessions go is the route,
 * which this object owns. docs/architecture.md, "The listener".
 *
 * Errors of a session end that session, never the listener; errors of the listener never
 * reach the migration. All functions may be called from any thread, but start and stop.
 */
#ifndef PGBATON_PROXY_LISTENER_LISTENER_H
#define PGBATON_PROXY_LISTENER_LISTENER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "common/stop.h"
#include "protocol/conninfo.h"

typedef struct Listener Listener;

typedef enum { LISTEN_TLS_OFF, LISTEN_TLS_ALLOW, LISTEN_TLS_REQUIRE } ListenTls;

typedef struct {
	const char *host; /* NULL: path is a Unix socket's */
	int port;
	const char *path;
} ListenAddress;

typedef struct {
	const ListenAddress *addresses; /* at least one */
	size_t address_count;
	ListenTls tls;
	const char *tls_cert; /* PEM; with ALLOW and REQUIRE */
	const char *tls_key;
	const char *tls_ca;       /* clients must have a certificate signed by it; or NULL */
	const char *auth_file;    /* users and secrets as in pgbouncer's userlist.txt; or NULL */
	const char *const *trust; /* CIDR blocks, or "local" for Unix sockets */
	size_t trust_count;
	int threads;              /* loops */
	int max_clients;          /* connections, those logging in among them */
	int64_t login_timeout_ms; /* from accept to the end of the login; not while held */
	const ConnInfo *source;   /* must outlive the listener, like all strings here */
	const ConnInfo *target;
} ListenerOptions;

/* NONE: not known yet; clients wait in their login. */
typedef enum { ROUTE_NONE, ROUTE_SOURCE, ROUTE_TARGET } ListenerRoute;

/* "none", "source", "target" */
const char *listener_route_name(ListenerRoute route);

/* Binds and listens; ERROR_CONFIG when an address, file or block cannot be used. */
Listener *listener_start(const ListenerOptions *options, Error *err);
/* Ends all sessions (57P01 where one stands between two messages), closes, frees. NULL is
 * allowed. */
void listener_stop(Listener *listener);

/* New sessions go there from now on. Sessions of another route are ended, with 57P01, when
 * they are between transactions; replication connections at once. */
void listener_set_route(Listener *listener, ListenerRoute route);
ListenerRoute listener_route(const Listener *listener);

/*
 * Waits until every session is held: nothing of it is under way on the server, and what
 * its client sends stays here (64 KiB of it; then the client must wait). Sessions between
 * transactions are held at once, others at the end of theirs; new ones wait in their
 * login. At the deadline, or at stop, everything is released and it fails: ERROR_TIMEOUT
 * names the sessions that did not come to a boundary. Only one hold at a time.
 */
MUST_CHECK bool listener_hold(Listener *listener, int64_t deadline_ms, const Stop *stop,
                              Error *err);

/*
 * The same for applications that use two-phase commit: until listener_hold_shut the sessions'
 * COMMIT PREPARED and ROLLBACK PREPARED still go to the server, so that what is prepared can end
 * before its locks are waited for. Shut waits like hold for those under way, and fails like it.
 */
MUST_CHECK bool listener_hold_two_phase(Listener *listener, int64_t deadline_ms, const Stop *stop,
                                        Error *err);
MUST_CHECK bool listener_hold_shut(Listener *listener, int64_t deadline_ms, const Stop *stop,
                                   Error *err);
void listener_release(Listener *listener);

/* ---- sessions, and moving them from one server to the other ---- */

enum { LISTENER_WHO_MAX = 256, LISTENER_REASON_MAX = 256 };

typedef struct {
	uint32_t pid;                     /* of its server process, on the present route; 0: none yet */
	char who[LISTENER_WHO_MAX];       /* user@database from address */
	char state[24];                   /* idle, in transaction, active, held, login */
	char reason[LISTENER_REASON_MAX]; /* "": it can be moved; else why not, for people */
	int64_t since_ms;                 /* wall clock: when the state began */
} ListenerSession;

/* All sessions. Those that are idle and have executed something since the last time are
 * asked what they carry, within their own connection; none at work is disturbed. What is
 * not known by the deadline (or during a hold) is what was known before. *out is the
 * caller's to free(). False: ERROR_CANCELLED, the listener is stopping. */
MUST_CHECK bool listener_sessions(Listener *listener, int64_t deadline_ms, ListenerSession **out,
                                  size_t *count, Error *err);

/* The server processes on that server which serve the listener's sessions or itself (those
 * opened for a move among them); lately: also those that did so until a moment ago. *out is the caller's to free(); NULL when there is none. */
size_t listener_server_pids(Listener *listener, ListenerRoute on, bool lately, uint32_t **out);

/* What to do with sessions that cannot be moved: both WAIT and ABORT fail; the caller of
 * WAIT tries again later. */
typedef enum { UNMOVABLE_WAIT, UNMOVABLE_CLOSE, UNMOVABLE_ABORT } UnmovablePolicy;

typedef struct {
	size_t moved;           /* prepare: could be moved now; open: are ready on the other side */
	size_t closed;          /* open with CLOSE: will be ended by the commit, with 57P01 */
	size_t unmovable;       /* the length of which: also those that are going to be closed */
	ListenerSession *which; /* with their reasons */
	int64_t took_us;
} MoveReport;

void move_report_free(MoveReport *report); /* the members; leaves it empty */
/* What helps against what is in the way. */
const char *move_report_hint(const MoveReport *report);

/*
 * Ahead of the hold, as often as one likes: asks the sessions, logs in on `to` for each and
 * brings that connection level with it. What fails for one session is its reason in the
 * report, not an error. ERROR_NETWORK, ERROR_AUTH, ERROR_SQL when `to` cannot be reached at
 * all; ERROR_CANCELLED at stop. report: move_report_free, whatever is returned.
 */
MUST_CHECK bool listener_move_prepare(Listener *listener, ListenerRoute to, int64_t deadline_ms,
                                      const Stop *stop, MoveReport *report, Error *err);

/*
 * The last thing ahead of the hold, after a prepare: who has executed something since is asked
 * again, and again who has meanwhile, as long as that takes less each time, so that few are left
 * for the hold. False: ERROR_CANCELLED, or as prepare; who could not be asked is in nobody's way.
 */
MUST_CHECK bool listener_move_refresh(Listener *listener, int64_t deadline_ms, const Stop *stop,
                                      Error *err);

/*
 * Within a hold: whoever executed something since is asked again, and its connection on
 * `to` brought level. True: every session is ready there, or (CLOSE) will be ended. False:
 * ERROR_CONFIG names those that cannot be moved (WAIT, ABORT); ERROR_TIMEOUT and
 * ERROR_CANCELLED as usual. The hold goes on in any case: commit, or abort and release.
 */
MUST_CHECK bool listener_move_open(Listener *listener, ListenerRoute to, UnmovablePolicy policy,
                                   int64_t deadline_ms, const Stop *stop, MoveReport *report,
                                   Error *err);

/* After a true of open, and before anything is decided: a connection on `to` may have ended since (a
 * timeout of that server's, an administrator, a network). False: ERROR_TIMEOUT names whose it was. */
MUST_CHECK bool listener_move_still_open(Listener *listener, Error *err);

/* After a true of open: route = to, all sessions go on there, the hold is over. Cannot
 * fail: a session whose new connection has broken since is ended with 57P01. */
void listener_move_commit(Listener *listener);

/* All stay where they are. What is open on `to` is kept for a minute, for the next try. Does
 * not release the hold: listener_release. Also harmless without a prepare or open. */
void listener_move_abort(Listener *listener);

/* ---- status ---- */

typedef struct {
	bool listening; /* false: there is no listener */
	ListenerRoute route;
	size_t sessions;  /* logged in */
	size_t held;      /* of them, and of those in their login */
	size_t logins;    /* not logged in yet */
	size_t unmovable; /* sessions whose password went to the server itself, or that replicate */
	uint64_t accepted;
	uint64_t refused; /* wrong password, too many, not understood, too slow */
	uint64_t cancels; /* delivered */
} ListenerState;

void listener_state(const Listener *listener, ListenerState *out);

#endif
