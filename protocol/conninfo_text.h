/*
 * conninfo_text.h: the text of a connection string, before libpq sees it.
 *
 * Takes out the keywords that newer majors of libpq know and the installed one
 * does not (sslnegotiation, require_auth, ...), since we connect by ourselves
 * and can honour them; and says what is wrong with a string without quoting it.
 */
#ifndef PGBATON_PROTOCOL_CONNINFO_TEXT_H
#define PGBATON_PROTOCOL_CONNINFO_TEXT_H

#include <stdbool.h>

#include "common/attr.h"
#include "common/bytes.h"
#include "common/error.h"

typedef struct {
	const char *keyword;
	const char *envvar;
} NewKeyword;

/* Ends with a NULL keyword. */
extern const NewKeyword conninfo_new_keywords[];

/* Is keyword one of the installed libpq's? */
bool conninfo_libpq_knows(const char *keyword);

/* Called for each keyword taken out; value is unquoted and decoded. */
typedef void (*ConninfoTake)(void *arg, const char *keyword, const char *value);

/* Writes text without the new keywords that libpq does not know into rest. A
 * text that cannot be read is copied: libpq will say what is wrong with it. */
void conninfo_text_split(const char *text, Buffer *rest, ConninfoTake take, void *arg);

/* ERROR_CONFIG from libpq's message about a string; nothing of the string or
 * of the message is repeated, for either may hold a password. */
bool conninfo_text_error(const char *libpq_message, Error *err);

/* Appends keyword='value' as libpq reads it. */
void conninfo_text_put(Buffer *out, const char *keyword, const char *value);

#endif
