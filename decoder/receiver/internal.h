/*
 * receiver/internal.h: what the receiver's files share. receiver.c owns the
 * object, the thread and the reconnecting; receiver/stream.c is one connection
 * from CopyBoth to its end; receiver/history.c looks at who the server is;
 * receiver/policy.c decides what may be confirmed and what is worth trying again.
 */
#ifndef PGBATON_DECODER_RECEIVER_INTERNAL_H
#define PGBATON_DECODER_RECEIVER_INTERNAL_H

#include <ev.h>
#include <pthread.h>

#include "decoder/receiver/receiver.h"
#include "protocol/replication.h"
#include "protocol/wire.h"

/* ---- receiver/policy.c: what may be confirmed (P6); no socket, no clock ---- */

typedef struct {
	ConfirmMode mode;
	bool open;    /* a transaction is being received */
	Lsn last_end; /* end LSN of the last whole transaction in the log */
	Lsn synced_end;
	bool all_synced;
	Lsn applied_end;
	Lsn keepalive_end; /* of the last keepalive outside a transaction */
} ConfirmInput;

Lsn confirm_position(const ConfirmInput *input);

/* True: connecting again can help. was_connected: authentication has worked. */
bool receiver_can_retry(const Error *err, bool was_connected);

/* ---- receiver/backlog.c: fewer, larger reads while the source has a backlog ---- */

/* Of one connection, zero at its begin. */
typedef struct {
	bool behind;     /* the transaction that came last had been committed a while ago */
	bool set;        /* the socket wakes us only for a large piece */
	bool settling;   /* it did until now */
	int64_t wait_ms; /* for a large piece, at most */
} Backlog;

/* A transaction comes: when it was committed and when it was sent, by one clock. */
void backlog_begin(Backlog *backlog, int64_t commit_us, int64_t sent_us);
/* All that was there has been taken; received: it was something. Sets the socket. */
void backlog_turn(Backlog *backlog, int socket, bool received);
/* How long to wait for the socket at most, where nothing else is due before next_ms. */
int64_t backlog_wait_ms(const Backlog *backlog, int64_t next_ms);

/* ---- when a status update is due; times in ms of clock.h ---- */

enum {
	STATUS_CONFIRM_MS = 15,    /* the confirmed position moved */
	STATUS_RECEIVED_MS = 1000, /* only the received position moved */
	STATUS_IDLE_MS = 10000,    /* nothing moved, and the server's timeout is long */
	SILENCE_MS = 60000         /* the server is asked at half of it, given up at it */
};

/* ---- the object ---- */

struct Receiver {
	ConnInfo *source;
	char *system_id;
	char *slot;
	char *publication;
	char *session_options;
	const char *when_lost;
	bool binary;
	ConfirmMode confirm;
	ReceiverKnown known; /* at the start */
	Lsn start;
	Lsn (*copied)(void *arg);
	void *arg;
	TxLog *log;
	Stop *stop;
	Stop *connect_stop; /* what the wire knows: also requested while not streaming */
	struct ev_loop *loop;
	ev_async news; /* the log synced, made room or failed; applied moved; stop */
	pthread_t thread;
	/* The thread's own: */
	bool was_connected; /* authentication has worked once */
	bool streaming;     /* transactions in progress were asked for */
	bool whole;         /* they are asked for no more */

	pthread_mutex_t lock;
	ReceiverState state;
	Lsn applied_end;
	Lsn wanted; /* would be confirmed if it were noted (CONFIRM_APPLIED) */
	Lsn noted;
	uint32_t noted_timeline;
};

/* ---- receiver/history.c ---- */

/* A log that is begun anew, to a migration that goes on, is told what the target knows. */
MUST_CHECK bool receiver_use_known(const ReceiverKnown *known, TxLog *log, Error *err);
/* Is it the server that it was, with all that we have of it? */
MUST_CHECK bool receiver_check_server(Receiver *receiver, Wire *wire, Error *err);

/* Connects and streams until a stop (true) or an error. */
MUST_CHECK bool receiver_stream(Receiver *receiver, Error *err);

#endif
