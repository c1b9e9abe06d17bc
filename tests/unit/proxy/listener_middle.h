/*
 * listener_middle.h: something between the listener and a server that spoils what the server
 * says to the sessions of one role, message by message.
 *
 * Threads of the test's process; one owner. Counted are the server's messages after the
 * login's ReadyForQuery. No TLS.
 */
#ifndef PGBATON_TESTS_UNIT_PROXY_LISTENER_MIDDLE_H
#define PGBATON_TESTS_UNIT_PROXY_LISTENER_MIDDLE_H

typedef struct Middle Middle;

typedef enum {
	MIDDLE_PASS,
	MIDDLE_CUT,    /* half of the count-th message is passed, then the connection is closed */
	MIDDLE_STALL,  /* nothing more is passed from the count-th on */
	MIDDLE_BREAK,  /* the count-th message has a length that cannot be */
	MIDDLE_NOTIFY, /* before each message stands a notification and a ParameterStatus */
	MIDDLE_ERROR,  /* instead of the count-th message comes an ErrorResponse; the rest of the
	                  group is left out but for its ReadyForQuery */
	MIDDLE_LOGIN   /* closes new connections instead of the login's first answer */
} MiddleMode;

Middle *middle_start(int server_port, const char *role);
void middle_free(Middle *middle);
int middle_port(const Middle *middle);
/* From the next message on; the count begins anew in every connection. */
void middle_set(Middle *middle, MiddleMode mode, int count);
/* How many messages passed in all since middle_set, and how often it struck. */
int middle_passed(const Middle *middle);
int middle_struck(const Middle *middle);

#endif
