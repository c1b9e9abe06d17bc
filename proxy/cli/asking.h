/* asking.h: a command that the process takes, and whose outcome its status tells. */
#ifndef PGBATON_PROXY_CLI_ASKING_H
#define PGBATON_PROXY_CLI_ASKING_H

#include <jansson.h>

#include "proxy/config.h"

typedef struct {
	const char *command; /* POST /v1/COMMAND */
	const char *key;     /* of the status: its id, outcome, error */
	const char *success; /* the outcome; "failed" is the other one */
	int poll_ms;
	json_t *(*body)(const Config *config); /* NULL for nothing */
	/* The end, whichever it was: the document at key. */
	void (*print)(const Config *config, const json_t *document);
} Asking;

/* Asks, waits but for --no-wait, prints. Returns the exit code. */
int cli_ask(int argc, char **argv, const Asking *asking);

#endif
