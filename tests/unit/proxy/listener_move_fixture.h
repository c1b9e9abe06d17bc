/*
 * listener_move_fixture.h: two servers and a listener in front of them, for the tests of a
 * move. Schema and roles are alike, object numbers and some defaults are not.
 *
 * Roles: app/secret (SCRAM), hashed/secret (md5), open (no password), boss (no login, app may
 * become it), root/secret (superuser). Tables item(id, mood) and ledger(id, n).
 */
#ifndef PGBATON_TESTS_UNIT_PROXY_LISTENER_MOVE_FIXTURE_H
#define PGBATON_TESTS_UNIT_PROXY_LISTENER_MOVE_FIXTURE_H

#include "proxy/listener/listener.h"
#include "tests/harness/cluster.h"
#include "tests/harness/db.h"
#include "tests/unit/runner.h"

extern Cluster *move_source;
extern Cluster *move_target;
extern Listener *move_listener;
extern int move_port;

void move_servers_start(void);
void move_servers_start_of(int source_major, int target_major, bool tls); /* 0: the default */
void move_servers_stop(void);
/* NULL: to the clusters themselves. */
void move_listen_between(const char *source_uri, const char *target_uri);
void move_listen(void);
void move_unlisten(void);

/* As role app through the listener; more: conninfo words. */
PGconn *move_session(const char *more);
/* As a role without password, from a trusted address: "guest", whom both servers let in, or
 * "open", whom only the source does. */
PGconn *move_trusted(const char *role);
const char *move_socket_dir(void); /* port 5432; trusted */
PGconn *move_admin(Cluster *cluster);
/* The port of the server that answers. */
int move_where(PGconn *conn);

/* Each must work. */
void move_prepare(MoveReport *report);
void move_hold(void);
void move_open(UnmovablePolicy policy, MoveReport *report);
/* prepare, hold, open with ABORT, commit */
void move_all(void);
void move_all_to(ListenerRoute to);
/* The reason that listener_sessions has for it; static. */
const char *move_reason_of(PGconn *conn);
const char *move_reason_of_or_gone(PGconn *conn); /* NULL: there is no such session */

#endif
