/*
 * through.h: an application that goes through the listener, for cutovers with clients.
 *
 * Each client is a thread with one connection. It inserts numbered rows by a prepared
 * statement, one at a time, and knows which ones were acknowledged; an answer that it has lost
 * is looked up through the listener, once that serves again. Any error but a lost connection
 * ends the test.
 */
#ifndef PGBATON_TESTS_INTEGRATION_THROUGH_H
#define PGBATON_TESTS_INTEGRATION_THROUGH_H

#include <libpq-fe.h>
#include <stdbool.h>

typedef struct Through Through;

/* The table they write to; the rows are (client, n), n from 1 on without a gap. */
extern const char through_schema[];

/* uri: the listener's, or any server's. */
Through *through_start(const char *uri, int clients);
/* Waits until each client has had `more` answers from now on. */
void through_progress(Through *through, int more);
/* Connections made beyond each client's first one. */
int through_reconnects(const Through *through);
/* The longest that a client has waited for an answer since the last call, in ms. */
double through_worst_ms(Through *through);
/* Ends the clients and looks into the database: every acknowledged row once, no other. */
void through_end(Through *through, PGconn *database);

#endif
