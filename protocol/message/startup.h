/*
 * startup.h: the first packet of a client, as the server reads it. No socket.
 *
 * SSLRequest, GSSENCRequest, CancelRequest, StartupMessage (protocol 3.0 to 3.2).
 * PostgreSQL documentation, "Message Formats"; its ProcessStartupPacket.
 */
#ifndef PGBATON_PROTOCOL_STARTUP_H
#define PGBATON_PROTOCOL_STARTUP_H

#include <stdbool.h>
#include <stdint.h>

#include "common/bytes.h"
#include "common/error.h"
#include "common/slice.h"

typedef enum { STARTUP_SSL, STARTUP_GSS, STARTUP_CANCEL, STARTUP_SESSION } StartupKind;

/* What the strings and slices point to is the packet. */
typedef struct {
	StartupKind kind;
	uint32_t version; /* SESSION: what the client asked for, 3.x */
	uint32_t pid;     /* CANCEL */
	Slice key;        /* CANCEL: 4 to 256 bytes */
	const char *user;
	const char *database;         /* the user's name when the client gave none */
	const char *application_name; /* "" without one */
	bool replication;             /* physical or logical */
	Slice params;     /* name, value, name, value, ...: checked, without the last zero */
	uint32_t unknown; /* protocol extensions (_pq_.) that we do not know: all */
} Startup;

typedef enum { STARTUP_READY, STARTUP_MORE, STARTUP_BAD } StartupResult;

/* received: from the first byte of the packet on. READY: *used bytes are it. BAD: err
 * has PostgreSQL's SQLSTATE and text. A wrong length is seen with its four bytes. */
StartupResult startup_parse(Slice received, size_t *used, Startup *out, Error *err);

/* Whether NegotiateProtocolVersion must be sent, and what is spoken then: 3.0 or 3.2. */
bool startup_negotiates(const Startup *startup);
void startup_put_negotiate(const Startup *startup, Buffer *out);
/* The packet for the server: 3.0, the client's parameters as they came, no extensions. database:
 * the one to ask for instead of the client's; NULL: that. */
void startup_put_for_server(const Startup *startup, const char *database, Buffer *out);
/* The length of a cancel key at the version that is spoken with the client. */
uint32_t startup_key_size(const Startup *startup);

#endif
