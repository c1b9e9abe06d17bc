/*
 * statements.h: what must be known of a session's statements so that it can go on at
 * another server, and what that server's views do not tell. No socket.
 *
 * Fed by a Track with the Parse and Query messages that pass, and with what is answered:
 *   - the unnamed statement: the Parse message of the last one that was completed and that
 *     no Query has replaced. Named statements are in pg_prepared_statements.
 *   - whether the client names parameter types that are not the same on every server
 *   - mentions of custom settings and of currval (mentions.h)
 *
 * A Parse longer than STATEMENTS_PARSE_MAX is not kept: statements_too_long says so.
 */
#ifndef PGBATON_PROTOCOL_STATEMENTS_H
#define PGBATON_PROTOCOL_STATEMENTS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/bytes.h"
#include "protocol/message/mentions.h"

enum { STATEMENTS_PARSE_MAX = 256 * 1024, STATEMENTS_FIRST_USER_OID = 16384 };

typedef struct {
	Buffer message; /* a whole Parse; empty: none, or too long */
	bool too_long;
} KeptParse;

typedef struct {
	KeptParse kept;
	uint32_t group; /* the request that it belongs to: how many were asked before */
	bool unnamed;
} PendingParse;

typedef struct {
	KeptParse unnamed;  /* the server has it */
	bool foreign_types; /* a Parse named a type's OID of STATEMENTS_FIRST_USER_OID or more */
	Mentions mentions;
	uint32_t sequences_group; /* the last request that mentioned currval or lastval */

	PendingParse *pending; /* sent, not yet completed, oldest first */
	uint32_t pending_count;
	uint32_t pending_cap;

	/* the message that passes */
	Buffer passing;
	uint32_t passing_length;
	char passing_type;  /* 'P', 'Q'; 0: none of interest */
	bool passing_whole; /* its bytes are kept in `passing`; else only looked at */
} Statements;

void statements_free(Statements *statements);

/* A client's Parse or Query with a body of that length. */
void statements_begin(Statements *statements, char type, uint32_t length);
static inline bool
statements_wants_body(const Statements *statements)
{
	return statements->passing_type != 0;
}
/* The next bytes of its body; group: how many requests were asked so far. */
void statements_body(Statements *statements, Slice bytes, bool last, uint32_t group);

/* ParseComplete, while the request `group` is answered. */
void statements_parsed(Statements *statements, uint32_t group);
/* DISCARD ALL was done, while the request `group` is answered: what was mentioned before it of
 * currval and lastval has no meaning any more. */
void statements_discarded(Statements *statements, uint32_t group);
/* Requests below `group` are answered; what they had not completed was not done. */
void statements_answered(Statements *statements, uint32_t group, bool was_query);

#endif
