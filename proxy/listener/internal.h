/*
 * internal.h: what the files of proxy/listener share. Nobody else includes it.
 *
 * A Session, its Login and its Cancels belong to the thread of one Loop. Loops meet
 * through jobs (loop_post), and with other threads through the atomics below.
 */
#ifndef PGBATON_PROXY_LISTENER_INTERNAL_H
#define PGBATON_PROXY_LISTENER_INTERNAL_H

#include <ev.h>
#include <pthread.h>
#include <stdatomic.h>

#include "common/bytes.h"
#include "protocol/channel/tls_server.h"
#include "protocol/message/startup.h"
#include "protocol/message/track.h"
#include "proxy/listener/listener.h"
#include "proxy/listener/trust.h"
#include "proxy/listener/upstream.h"

typedef struct Loop Loop;
typedef struct Session Session;
typedef struct Login Login;
typedef struct Cancel Cancel;
typedef struct Move Move;
typedef struct Leaving Leaving;
typedef struct Mover Mover;

/* ---- loop.c: a thread with an event loop ---- */

/* Something to be run on a loop's thread; whoever posts it owns it again in run. */
typedef struct Job Job;
struct Job {
	Job *next;
	void (*run)(Loop *loop, Job *job);
};

enum { BUFFER_SIZE = 64 * 1024, ENDED_KEPT = 256 };

/* A server process of ours whose connection is closed; the server may need a moment for it. */
typedef struct {
	uint32_t pid;
	ListenerRoute on;
	ev_tstamp at;
} EndedProcess;

/*
 *                    greet.c                    login.c                       login.c
 *   GREETING ------------------> ASKING ------------------> AUTHENTICATING --------+
 *      | |  startup packet         |  what the route's server                      | the client
 *      | v                         |  keeps of the role                            | has proved
 *      | TLS_HANDSHAKE             |                                               | itself
 *      |                           |  trusted, or passed through                   v
 *      | CancelRequest             +-----------------------------------------> WAITING (held)
 *      v                                                                           |
 *   CANCELLING                                              link.c   CONNECTING <--+
 *      |                                                                 | TCP, TLS
 *      |     relay.c        hold        login_server.c: our login, or    v
 *      |   HELD <-----> RELAYING <------------------------------- SERVER_LOGIN
 *      |              release     |     the client's passed through; ReadyForQuery
 *      |                          |
 *      |   any: an error or a farewell for the client
 *      +------> CLOSING <---------+   flushes, then waits for the client's end
 *                  |
 *   any -------> CLOSED               freed at the end of the loop's turn
 */
typedef enum {
	SESSION_GREETING,
	SESSION_TLS_HANDSHAKE,
	SESSION_CANCELLING,
	SESSION_ASKING,
	SESSION_AUTHENTICATING,
	SESSION_WAITING,
	SESSION_CONNECTING,
	SESSION_SERVER_LOGIN,
	SESSION_RELAYING,
	SESSION_HELD,
	SESSION_CLOSING,
	SESSION_CLOSED,
	SESSION_STATES
} SessionState;

struct Loop {
	Listener *listener;
	int index;
	struct ev_loop *ev;
	pthread_t thread;
	ev_async wake;
	ev_timer tick;    /* every second: logins that take too long */
	ev_prepare sweep; /* frees closed sessions */
	ev_io *accepting; /* loop 0: one for each socket; else NULL */
	bool holding;
	bool second_phase; /* holding, but for COMMIT PREPARED and ROLLBACK PREPARED */
	bool ending;       /* stops when its sessions are closed */
	ListenerRoute route;

	pthread_mutex_t lock; /* the inbox */
	Job *inbox;
	Job **inbox_end;

	Session *sessions; /* newest first */
	Session *closed;
	Leaving *leaving; /* connections of the old server (move/leaving.c) */
	ev_timer leave;
	Session *queue; /* sessions whose wish was not begun with yet (move/queue.c) */
	Session *queue_last;
	int looked_at;       /* and those whose was */
	int at_once;         /* how many of these there may be */
	int64_t least_us[2]; /* that one took: without a login, and with one; 0: none yet */
	int64_t begun_us;
	bool queue_busy;
	EndedProcess ended[ENDED_KEPT]; /* the last ones */
	size_t ended_count;             /* ever */
	uint8_t *spare[8];              /* buffers that no session has */
	size_t spare_count;

	atomic_size_t states[SESSION_STATES]; /* written by session_set_state only */
	atomic_size_t unmovable;
};

struct Listener {
	ListenerOptions options;
	TlsServer *tls; /* NULL: off */
	Trust *trust;
	Upstream *upstream;
	int *sockets;
	size_t socket_count;
	Loop *loops;
	size_t loop_count;
	atomic_int route;
	atomic_uint_fast64_t accepted;
	atomic_uint_fast64_t refused;
	atomic_uint_fast64_t cancels;
	atomic_size_t connections;
	Mover *mover;

	pthread_mutex_t lock; /* hold and release */
	pthread_cond_t changed;
	bool holding;
	bool hold_waits; /* somebody waits for `changed` */
};

MUST_CHECK bool loop_start(Loop *loop, Listener *listener, int index, Error *err);
/* The thread ends when `ending` is set and its last session is closed. */
void loop_join(Loop *loop);
/* After all loops are joined: the last jobs may be of each other's. */
void loop_destroy(Loop *loop);
/* From any thread. */
void loop_post(Loop *loop, Job *job);
/* Runs fn on every loop's thread and waits until all have. Not from a loop. */
void loops_call(Listener *listener, void (*fn)(Loop *loop, void *arg), void *arg);
/* pid 0: it had none yet. */
void loop_process_ended(Loop *loop, ListenerRoute on, uint32_t pid);
uint8_t *loop_take_buffer(Loop *loop);
void loop_give_buffer(Loop *loop, uint8_t *buffer);

/* ---- accept.c ---- */

MUST_CHECK bool accept_bind(Listener *listener, Error *err);
void accept_close(Listener *listener); /* Unix sockets are removed, too */
/* On loop 0, which hands the connections out. */
void accept_begin(Loop *loop);
void accept_again(Loop *loop); /* after a pause for want of descriptors */
void accept_end(Loop *loop);

/* ---- session.c ---- */

/* What was read from one side and not yet written to the other.
 *   data:  | written | may be written | must wait | room |
 *          0        pos             admit        len   BUFFER_SIZE
 */
typedef struct {
	uint8_t *data; /* NULL: empty */
	uint32_t pos;
	uint32_t admit;
	uint32_t len;
} Flow;

enum { KEY_MAX = 32, SERVER_KEY_MAX = 4 };

struct Session {
	Loop *loop;
	Session *next;
	Session *prev;
	SessionState state;
	Channel client;
	Channel server;
	ev_io client_read, client_write;
	ev_io server_read, server_write;
	Flow to_server;
	Flow to_client;
	Track track;
	Login *login;        /* until RELAYING */
	Move *move;          /* from then on (move/move.h); NULL: it never can be moved */
	bool asking;         /* a question of ours is under way at its server */
	bool at_work;        /* to be asked at the next boundary, which it is not at */
	int64_t since_ms;    /* of the state, and of the last ReadyForQuery */
	ListenerRoute route; /* where the server is */
	bool surplus;        /* beyond --listen-max-clients: refused once it has said what it wants */
	/* The last read filled its buffer: TLS may have bytes that epoll cannot see. */
	bool client_more, server_more;
	bool client_ended; /* the client has closed; what it sent is still passed on */
	bool server_deaf;  /* it has closed; its last words are still to be read */
	bool end_wanted;   /* to be ended at the next boundary */
	bool replicates;
	const char *unmovable; /* why; NULL: nothing known that is in the way */
	char *who;             /* "user@database from 10.0.0.1", for people */

	uint32_t pid;        /* the first server's; the client knows the session by it */
	uint32_t server_pid; /* the present server's */
	uint8_t server_key[SERVER_KEY_MAX];
	uint8_t key[KEY_MAX]; /* ours */
	uint32_t key_len;
	Endpoint *endpoint; /* where `server` is, for cancels */
	Cancel *cancelling; /* on its way to the server: no new request goes out meanwhile */
	Cancel *cancels;    /* that wait for their turn, or for a request that is held */
};

void session_new(Loop *loop, int fd, const char *from);
void session_set_state(Session *session, SessionState state);
/* At once. The memory lives until the end of the loop's turn. */
void session_close(Session *session);
/* CLOSING: the server's connection is closed, the client gets what is under way for it. */
void session_end(Session *session);
/* CLOSING: all of that has been sent. */
void session_flushed(Session *session);
/* Ends it with a FATAL error of ours, where the client can still be told. */
void session_refuse(Session *session, const Error *err);
void session_farewell(Session *session, const char *message); /* 57P01 */
void session_tick(Session *session, int64_t login_timeout_ms);
void session_free_closed(Loop *loop);
static inline bool
session_alive(const Session *session)
{
	return session->state != SESSION_CLOSED;
}
void watch_io(Loop *loop, ev_io *io, bool on);

/* ---- greet.c, login.c, login_server.c ---- */

void greet_readable(Session *session);
void login_begin(Session *session); /* startup packet is parsed */
/* What a client's database is called on that server, where it is called otherwise; else NULL. */
const char *login_database(const Listener *listener, const Startup *startup,
                           const Endpoint *endpoint);
void login_free(Session *session);
void login_client_readable(Session *session);
void login_client_writable(Session *session);
void login_server_event(Session *session);
void login_connect(Session *session); /* from WAITING, when the hold is over */

/* ---- relay.c ---- */

/* The login is over and is freed. What it had left: bytes for the client of the login
 * itself, then bytes of the session from the server and from the client. */
void relay_begin(Session *session, Slice greeting, Slice from_server, Slice from_client);
void relay_client_readable(Session *session);
void relay_server_readable(Session *session);
void relay_client_writable(Session *session);
void relay_server_writable(Session *session);
/* Something has changed that may let bytes go on, or hold or end the session. */
void relay_progress(Session *session);
void relay_watch(Session *session);
/* Bytes from the server that were not read here. False: the session is ending. */
MUST_CHECK bool relay_server_bytes(Session *session, Slice bytes);
/* Whole messages for the client; false: no room, or not now. */
MUST_CHECK bool relay_put_client(Session *session, Slice messages);

/* ---- cancel.c ---- */

/* The client of `requester` (state CANCELLING) asks for it. */
void cancel_begin(Session *requester, uint32_t pid, Slice key);
/* To be called when the session's requests may have begun or ended. */
void cancel_consider(Session *session);
/* Asks its server to give up our question; the session's next request waits until it has been told. */
void cancel_question(Session *session);
void cancel_forget_session(Session *session); /* it is being closed */

#endif
