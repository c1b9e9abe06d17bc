/* pgbaton add-table, recopy: ask for it, and wait until the tables have joined the others. */
#include <string.h>

#include "proxy/cli/asking.h"
#include "proxy/cli/cli.h"
#include "proxy/cli/client.h"

static json_t *
make_body(const Config *config)
{
	json_t *body = json_object();

	json_object_set_new(body, "pattern", json_string(config->pattern));
	return body;
}

static void
print_result(const Config *config UNUSED, const json_t *addition)
{
	if (strcmp(doc_text(addition, "outcome"), "done") == 0)
		printf("%.0f tables have joined the others\n", doc_number(addition, "tables"));
}

static int
ask(int argc, char **argv, const char *command)
{
	const Asking asking = {.command = command,
	                       .key = "addition",
	                       .success = "done",
	                       .poll_ms = 100,
	                       .body = make_body,
	                       .print = print_result};

	return cli_ask(argc, argv, &asking);
}

int
cmd_add_table(int argc, char **argv)
{
	return ask(argc, argv, "add-table");
}

int
cmd_recopy(int argc, char **argv)
{
	return ask(argc, argv, "recopy");
}
