/*
 * receiver.h: the thread that follows the source.
 *
 * Connects (wire.h), starts replication behind what the log has, appends to the
 * log, answers keepalives and confirms; it never waits for the target. On a lost
 * connection it discards the open transaction and reconnects with jittered
 * back-off for ever (each failure is in the state and the log); what can never
 * come right (slot gone or invalidated, publication gone, a server that has lost
 * what was received or copied from it, protocol error, log disk full or damaged)
 * stops it with an error.
 */
#ifndef PGBATON_DECODER_RECEIVER_RECEIVER_H
#define PGBATON_DECODER_RECEIVER_RECEIVER_H

#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "common/lsn.h"
#include "common/stop.h"
#include "decoder/txlog/txlog.h"
#include "protocol/conninfo.h"

typedef struct Receiver Receiver;

typedef enum {
	CONFIRM_LOGGED, /* what the log has fsynced */
	CONFIRM_APPLIED /* what the target has flushed, too (receiver_set_applied) */
} ConfirmMode;

/*
 * What the target knows of the source with CONFIRM_APPLIED, where the log may be lost and is begun
 * anew: so the slot's position and the server's history can be judged all the same. All 0: nothing
 * was confirmed yet.
 */
typedef struct {
	uint32_t timeline; /* the source's, on which these positions are */
	Lsn confirmed;     /* nothing beyond it was ever confirmed */
	Lsn applied;       /* the last commit that is on the target */
} ReceiverKnown;

typedef struct {
	const ConnInfo *source;
	const char *system_id; /* of the source; another server behind the name is refused */
	const char *slot;
	const char *publication; /* names joined by commas */
	bool binary;
	ConfirmMode confirm;
	ReceiverKnown known; /* with CONFIRM_APPLIED */
	Lsn start;           /* the slot's consistent point: where to start when the log is empty */
	/* How far the source's rows were copied, asked at each connect from the receiver's thread;
	 * NULL: there is no copy. */
	Lsn (*copied)(void *arg);
	void *arg;
	/* What is to be done when changes are lost, for hints; a constant. NULL: cancel, and start again. */
	const char *when_lost;
	int64_t wal_sender_timeout_ms; /* 0: as the server has it; set per session */
} ReceiverOptions;

Receiver *receiver_start(const ReceiverOptions *options, TxLog *log, Error *err);
/* Stops the stream cleanly (CopyDone, last confirmation), joins. */
void receiver_stop(Receiver *receiver);

/* The applier's progress, durable on the target: the end LSN of the last
 * transaction applied and flushed. Any thread. */
void receiver_set_applied(Receiver *receiver, Lsn applied_end);

/*
 * With CONFIRM_APPLIED nothing is confirmed before it was noted on the target: what is to be noted
 * (ReceiverKnown), if it is other than what was noted last; and that this was done, durably. Any
 * thread, one at a time.
 */
bool receiver_to_note(Receiver *receiver, uint32_t *timeline, Lsn *confirmed);
void receiver_noted(Receiver *receiver, uint32_t timeline, Lsn confirmed);

typedef struct {
	bool connected;
	bool failed;    /* stopped for good; error says why */
	Error error;    /* the last one, also while reconnecting */
	Lsn received;   /* highest position the server said it has sent to us */
	Lsn server_end; /* last keepalive's end: how far the server's sender is */
	Lsn confirmed;  /* flushed position last sent */
	uint64_t reconnects;
	uint64_t bytes;          /* payload bytes received */
	uint64_t messages;       /* of pgoutput's: what is not a keepalive */
	int64_t last_message_us; /* wall clock of the last thing heard */
	bool held_by_log;        /* back pressure: the log is at its limit */
	bool held_by_disk;       /* the same: its disk is behind */
} ReceiverState;

void receiver_state(Receiver *receiver, ReceiverState *out);

#endif
