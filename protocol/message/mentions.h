/*
 * mentions.h: what a statement's text says of the session that no server can be asked for.
 *
 * A custom setting ("app.tenant") that was SET is in no view of the server; one must know
 * its name. currval and lastval use what only this session has. Looked for are
 * SET/RESET/SHOW at the beginning of a statement and calls of set_config, current_setting,
 * currval and lastval: by the bytes, without parsing SQL, so a mention in a comment or
 * a literal counts too. Only the first MENTIONS_SCAN_MAX bytes of a text are looked at.
 */
#ifndef PGBATON_PROTOCOL_MENTIONS_H
#define PGBATON_PROTOCOL_MENTIONS_H

#include <stdbool.h>

#include "common/bytes.h"

enum { MENTIONS_SCAN_MAX = 4096, MENTIONS_NAMES_MAX = 16384 };

typedef struct {
	Buffer names;   /* lower case, each with its zero; at most MENTIONS_NAMES_MAX bytes */
	bool crowded;   /* there were more */
	bool sequences; /* currval or lastval */
	bool settings;  /* set_config */
} Mentions;

void mentions_free(Mentions *mentions);
void mentions_scan(Mentions *mentions, Slice text);
/* Adds one name, if it is none that is there already. */
void mentions_add(Mentions *mentions, Slice name);

/* The statement is the second phase of a two-phase commit: COMMIT PREPARED or ROLLBACK PREPARED,
 * behind spaces and comments (documentation, "PREPARE TRANSACTION"). What is cut before the end of
 * the second word is not. */
bool mentions_second_phase(Slice text);

#endif
