/*
 * session.h: a copy worker's two connections, with settings that make a value's text
 * mean the same on both ends whatever role and database say.
 *
 * One owner. After any failed call the pair is closed and opened again for the next
 * try: a server that was in the middle of COPY sees the closed socket and rolls back.
 */
#ifndef PGBATON_APPLY_COPY_SESSION_H
#define PGBATON_APPLY_COPY_SESSION_H

#include <stdbool.h>

#include "apply/copy/copy.h"
#include "common/error.h"
#include "protocol/wire.h"

typedef struct {
	Wire *source;
	Wire *target;
	bool replica; /* session_replication_role = replica was allowed on the target */
} CopySession;

#define COPY_SESSION_CLOSED ((CopySession){NULL, NULL, false})

/* Nothing to do when it is open. */
MUST_CHECK bool copy_session_open(CopySession *session, const CopyOptions *options, Error *err);
void copy_session_close(CopySession *session);

/* A source session alone, for the holder of a shared snapshot. */
Wire *copy_source_connect(const CopyOptions *options, Error *err);

/* wire_query with the side ("source", "target") in the error's context. */
MUST_CHECK bool copy_query(Wire *wire, const char *side, const char *sql, WireResult **result,
                           Error *err);

#endif
