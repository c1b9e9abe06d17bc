/*
 * extended.h: messages of the extended query protocol that pgbaton sends itself. No socket.
 *
 * Appends whole messages. Values are texts (format 0), NULL is SQL's NULL. Results come as
 * text. PostgreSQL documentation, "Message Formats".
 */
#ifndef PGBATON_PROTOCOL_EXTENDED_H
#define PGBATON_PROTOCOL_EXTENDED_H

#include <stdint.h>

#include "common/bytes.h"

/* types: OIDs, 0 for those that the server shall find out. */
void message_put_parse(Buffer *out, const char *name, const char *sql, const uint32_t *types,
                       size_t type_count);
void message_put_bind(Buffer *out, const char *portal, const char *statement,
                      const char *const *values, size_t value_count);
void message_put_execute(Buffer *out, const char *portal); /* all rows */
void message_put_describe_statement(Buffer *out, const char *name);
void message_put_close_statement(Buffer *out, const char *name);
void message_put_sync(Buffer *out);

#endif
