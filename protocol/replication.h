/*
 * replication.h: the walsender's commands and what travels inside copy-both.
 * PostgreSQL documentation, "Streaming Replication Protocol" and "Logical
 * Streaming Replication Protocol". The envelope functions know no socket.
 */
#ifndef PGBATON_PROTOCOL_REPLICATION_H
#define PGBATON_PROTOCOL_REPLICATION_H

#include <stdbool.h>
#include <stdint.h>

#include "common/bytes.h"
#include "common/error.h"
#include "common/lsn.h"
#include "common/slice.h"
#include "protocol/wire.h"

typedef struct {
	char system_id[24];
	uint32_t timeline;
	Lsn xlogpos;
	char dbname[256];
} SystemIdentity;

/* Columns are found by name: not every server has them in the same order. */
MUST_CHECK bool replication_identify(Wire *wire, SystemIdentity *out, Error *err);

/* Where the history of the server's timeline `present` leaves the timeline `past`, its ancestor:
 * TIMELINE_HISTORY. *fork is 0 when it is no ancestor. */
MUST_CHECK bool replication_fork(Wire *wire, uint32_t present, uint32_t past, Lsn *fork,
                                 Error *err);
/* The same from the text of a history file. */
Lsn replication_history_fork(const char *history, uint32_t past);

/* CREATE_REPLICATION_SLOT name LOGICAL pgoutput without a snapshot, from 17 on with FAILOVER; waits for
 * every transaction with an xid that is running now, so it has a deadline:
 * ERROR_TIMEOUT then, and the slot does not exist. */
MUST_CHECK bool replication_create_slot(Wire *wire, const char *name, int64_t deadline_ms,
                                        Lsn *consistent_point, Error *err);
MUST_CHECK bool replication_drop_slot(Wire *wire, const char *name, Error *err);

typedef struct {
	const char *slot;
	const char *publication; /* names joined by commas ("a,b"); each is quoted by the function */
	Lsn start;               /* commits whose end is at or below it are not sent again */
	int proto_version;       /* 1 to 4 */
	bool binary;             /* 14+ */
	bool messages;           /* 14+ */
	bool streaming;          /* 14+, proto_version 2+ */
} StartReplication;

/* The highest pgoutput protocol version that a server of that version speaks:
 * 1 before 14, then 2, 3 (15), 4 (16+). */
int replication_proto_version(int server_version);
/* Appends the START_REPLICATION command. */
void replication_start_command(const StartReplication *start, Buffer *sql);

typedef enum { REPLICATION_DATA, REPLICATION_KEEPALIVE } ReplicationKind;

typedef struct {
	ReplicationKind kind;
	Lsn start;         /* DATA: of this message, 0 for Relation and Type */
	Lsn end;           /* KEEPALIVE: sent up to here */
	int64_t time_us;   /* the server's clock, since 2000-01-01 */
	bool reply_wanted; /* KEEPALIVE */
	Slice message;     /* DATA: one pgoutput message, borrowed from the payload */
} ReplicationFrame;

/* payload: of one CopyData message. ERROR_PROTOCOL on anything else. */
MUST_CHECK bool replication_parse(Slice payload, ReplicationFrame *out, Error *err);

/* Appends a standby status update ('r'). written >= flushed >= applied is not
 * demanded; flushed is what lets the server recycle WAL (P6: a commit's end). */
void replication_status_update(Lsn written, Lsn flushed, Lsn applied, int64_t now_us,
                               bool reply_wanted, Buffer *out);

/* SQL quoting without a connection: "a""b" and 'a''b' (with E'' for '\\'). */
void sql_put_identifier(Buffer *out, const char *name);
void sql_put_literal(Buffer *out, const char *text);

#endif
