/*
 * listener_fixture.h: one server and a listener in front of it, for the tests of
 * proxy/listener. The server lives as long as the test case, the listener one test.
 *
 * The server asks for scram-sha-256 but from its superuser over the Unix socket (db_connect
 * goes there). Roles: scram/secret, hashed/secret (md5), open (no password),
 * late/secret (expired), locked/secret (NOLOGIN).
 */
#ifndef PGBATON_TESTS_UNIT_PROXY_LISTENER_FIXTURE_H
#define PGBATON_TESTS_UNIT_PROXY_LISTENER_FIXTURE_H

#include "proxy/listener/listener.h"
#include "tests/harness/cluster.h"
#include "tests/harness/db.h"
#include "tests/unit/runner.h"

extern Cluster *fixture_server;
extern Listener *fixture_listener;
extern int fixture_port;         /* of the listener, 127.0.0.1 */
extern char fixture_socket[128]; /* its Unix socket's directory; the port there is 5432 */

/* Unchecked fixtures of a test case. */
void fixture_server_start(void);
void fixture_server_stop(void);

/* Starts the listener with route SOURCE. adjust may change the options; NULL: as they are:
 * no TLS, no trust, two threads. */
void fixture_listen(void (*adjust)(ListenerOptions *options));
void fixture_unlisten(void); /* checked teardown */

/* Through the listener: "dbname=postgres" and what fmt says; may fail (PQstatus). */
PGconn *fixture_client(const char *fmt, ...) PRINTF_LIKE(1, 2);
/* As role scram; must work. */
PGconn *fixture_session(void);
/* The superuser's own session on the server, not through the listener. */
PGconn *fixture_admin(void);
/* A TCP connection to the listener without libpq; closed with close(2). */
int fixture_raw(void);
/* Sends all; reads until n bytes are here or the end (returns how many). Ends the test
 * after 30 s. */
void fixture_send(int fd, const void *data, size_t len);
size_t fixture_recv(int fd, void *data, size_t len);

#endif
