/*
 * txlog/known.h: the Relation and Type messages that the log has to repeat.
 *
 * In force is what the last commit has left; a new segment starts with it (T4). What
 * a streamed transaction says is held for it and comes into force at its commit: the
 * source counts it as said from then on. Another description of the same relation may
 * have come meanwhile, outside of that transaction; then the one that ARRIVED last
 * stays in force, as the source believes it.
 *
 * Each distinct message's text is held once, however many transactions have said it.
 * Not thread-safe: of the log's writer.
 */
#ifndef PGBATON_DECODER_TXLOG_KNOWN_H
#define PGBATON_DECODER_TXLOG_KNOWN_H

#include <stdint.h>

#include "common/bytes.h"
#include "common/slice.h"

typedef struct Known Known;
typedef struct KnownText KnownText;

/* One message of a transaction in progress. */
typedef struct {
	KnownText *text;
	uint64_t arrival;
} KnownHeld;

Known *known_new(void);
/* Everything held was dropped before. */
void known_free(Known *known);

/* message: a whole Relation or Type message without xid. In force from here on. */
void known_set(Known *known, Slice message);
/* Held until known_drop. */
KnownHeld known_hold(Known *known, Slice message);
bool known_is(KnownHeld held, Slice message);
void known_drop(Known *known, KnownHeld held);
/* Its transaction has committed: in force, unless another one arrived later. */
void known_commit(Known *known, KnownHeld held);

/* Appends, as frames, what is in force of all that known_commit has touched and that
 * a reader of the log would otherwise not know. */
void known_put_restated(Known *known, Buffer *out);
/* Appends all that is in force as frames: types first, then relations. */
void known_put_all(Known *known, Buffer *out);

#endif
