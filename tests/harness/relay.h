/*
 * relay.h: a network between a client and a PostgreSQL server that breaks on demand, at the
 * worst moment there is: around a COMMIT.
 *
 * Listens on 127.0.0.1 and passes connections on to a server there. Connections must not be
 * encrypted (sslmode=disable gssencmode=disable). Threads of the test's process do the work;
 * one owner.
 */
#ifndef PGBATON_TESTS_HARNESS_RELAY_H
#define PGBATON_TESTS_HARNESS_RELAY_H

typedef struct Relay Relay;

typedef enum {
	RELAY_BEFORE, /* the COMMIT does not reach the server, which sees the connection close */
	RELAY_AFTER,  /* the server has committed; its answer does not reach the client */
	RELAY_SILENT, /* the COMMIT does not reach the server, which hears nothing any more at all */
	RELAY_LATE    /* the same, until relay_deliver */
} RelayCut;

/* application: cut are sessions whose application_name begins so. */
Relay *relay_start(int server_port, const char *application);
void relay_free(Relay *relay);
int relay_port(const Relay *relay);

/* Cuts the connection of the count-th COMMIT from now on (1: the next one). It takes the
 * place of a cut that is still to come. */
void relay_cut(Relay *relay, int count, RelayCut how);
/* After a cut with RELAY_LATE: the server gets the COMMIT now. Returns when it has answered, or
 * when its side is closed. */
void relay_deliver(Relay *relay);
/* How many have been cut so far. */
int relay_cuts(Relay *relay);

#endif
