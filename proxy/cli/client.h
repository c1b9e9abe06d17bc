/*
 * client.h: the commands' side of the admin port, over libcurl.
 *
 * Finds the process by --admin or PGBATON_ADMIN, else by admin.port in the state
 * directory (asked again for every request: it may start later), else at the
 * default address. No proxy, no redirect: the token goes nowhere else. With each request goes which
 * migration is meant (a --name that was given; the state directory, unless the address was): where
 * another one answers it is as if nobody did.
 */
#ifndef PGBATON_PROXY_CLI_CLIENT_H
#define PGBATON_PROXY_CLI_CLIENT_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "proxy/config.h"
#include "proxy/migration/migration.h"

typedef struct Client Client;

/* config is borrowed. ERROR_CONFIG when the token file is no good. */
Client *client_new(const Config *config, Error *err);
void client_free(Client *client);

/*
 * GET /v1/status, without a table or with as many as tables says ("20", "all"); the caller owns
 * the reference. NULL with ERROR_NETWORK when nobody
 * answers, ERROR_AUTH when the token is refused, ERROR_PROTOCOL for what is no answer of
 * pgbaton.
 */
json_t *client_status(Client *client, Error *err);
json_t *client_status_tables(Client *client, const char *tables, Error *err);

/* GET of another path ("/v1/sessions"), in the same way; a refusal of the process is
 * ERROR_CONFIG. */
json_t *client_get(Client *client, const char *path, Error *err);

/* POST /v1/COMMAND, with body (borrowed) or NULL. False also with the process's own
 * refusal (ERROR_CONFIG). *id may be NULL. */
MUST_CHECK bool client_post(Client *client, const char *command, const json_t *body, uint64_t *id,
                            Error *err);

/* The last word of a process that has ended: from the state directory that its status
 * named, or from --state-dir. NULL when there is none. */
json_t *client_last_status(Client *client);

/* ---- reading a status document; absent or of another type: 0, "", false ---- */

const json_t *doc_at(const json_t *doc, const char *path); /* "lag.seconds"; may be NULL */
double doc_number(const json_t *doc, const char *path);
const char *doc_text(const json_t *doc, const char *path);
bool doc_true(const json_t *doc, const char *path);
MUST_CHECK bool doc_state(const json_t *doc, MigrationState *out);
/* The error at path into err; false when there is none. */
bool doc_error(const json_t *doc, const char *path, Error *err);

#endif
