/* pgbaton sessions: who is connected through the listener, and what keeps one from moving. */
#include "proxy/cli/cli.h"
#include "proxy/cli/client.h"
#include "proxy/cli/format.h"

static void
print_table(const json_t *list)
{
	size_t i, stay = 0;
	json_t *session;

	json_array_foreach (list, i, session)
		stay += !doc_true(session, "movable");
	printf("%zu session%s, %zu of them cannot be moved now\n", json_array_size(list),
	       json_array_size(list) == 1 ? "" : "s", stay);
	json_array_foreach (list, i, session) {
		printf("%8.0f  %-14s ", doc_number(session, "pid"), doc_text(session, "state"));
		print_plain(stdout, doc_text(session, "who"));
		if (!doc_true(session, "movable")) {
			fputs(": ", stdout);
			print_plain(stdout, doc_text(session, "reason"));
		}
		putchar('\n');
	}
}

int
cmd_sessions(int argc, char **argv)
{
	Error err = ERROR_INIT;
	int exit_code;
	Config *config = cli_config(argc, argv, &exit_code);

	if (config == NULL)
		return exit_code;
	Client *client = client_new(config, &err);
	json_t *answer = client != NULL ? client_get(client, "/v1/sessions", &err) : NULL;
	if (answer != NULL && config->json) {
		json_dumpf(answer, stdout, JSON_INDENT(2));
		putchar('\n');
	} else if (answer != NULL) {
		print_table(doc_at(answer, "sessions"));
	}
	exit_code = answer != NULL ? EXIT_DONE : cli_fail(&err);
	json_decref(answer);
	client_free(client);
	config_free(config);
	return exit_code;
}
