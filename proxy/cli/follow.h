/*
 * follow.h: watching a running process until something is true, for wait,
 * cutover, finish and cancel.
 */
#ifndef PGBATON_PROXY_CLI_FOLLOW_H
#define PGBATON_PROXY_CLI_FOLLOW_H

#include "proxy/cli/client.h"

typedef enum {
	FOLLOW_ON,    /* ask again */
	FOLLOW_DONE,  /* what was waited for is true */
	FOLLOW_FAILED /* it never will be; err says why */
} FollowVerdict;

/* Judges one status; gone: the process has ended and this was its last word. */
typedef FollowVerdict (*FollowJudge)(void *arg, const json_t *status, bool gone, Error *err);

typedef struct {
	int64_t poll_ms;      /* between two questions */
	int64_t deadline_ms;  /* clock.h; 0: none */
	int64_t unreached_ms; /* give up when it never answered for so long */
	int64_t gone_ms;      /* the same of one that has answered; 0: 10 s */
	FollowJudge judge;
	void *arg;
} FollowOptions;

/*
 * Asks until the judge has decided. A process that is not reachable is asked again;
 * when it answered before and has left its last status, the judge gets that one, and
 * whatever is not DONE then is a failure. *last (may be NULL) gets the status decided on.
 * False: FOLLOW_FAILED, the deadline (ERROR_TIMEOUT), or not reached (ERROR_NETWORK).
 */
MUST_CHECK bool follow_status(Client *client, const FollowOptions *options, json_t **last,
                              Error *err);

#endif
