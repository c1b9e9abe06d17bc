/* pgbaton verify: asks for a comparison of both sides and waits for its outcome. */
#include <string.h>

#include "proxy/cli/asking.h"
#include "proxy/cli/cli.h"
#include "proxy/cli/client.h"

static json_t *
make_body(const Config *config)
{
	const PatternList *chosen = &config->verify_tables;

	if (chosen->count == 0)
		return NULL;
	json_t *tables = json_array();
	for (size_t i = 0; i < chosen->count; i++)
		json_array_append_new(tables, json_string(chosen->items[i]));
	json_t *body = json_object();
	json_object_set_new(body, "tables", tables);
	return body;
}

static void
print_result(const Config *config, const json_t *verify)
{
	if (config->json) {
		json_dumpf(verify, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
		putchar('\n');
	} else if (strcmp(doc_text(verify, "outcome"), "equal") == 0) {
		printf("equal: %.0f tables compared in %.0f ms\n", doc_number(verify, "tables"),
		       doc_number(verify, "took_ms"));
		if (doc_text(verify, "differs")[0] != '\0')
			printf("but the source's tables are not those that were copied, and new ones are not "
			       "compared: %s\n",
			       doc_text(verify, "differs"));
	}
}

int
cmd_verify(int argc, char **argv)
{
	static const Asking asking = {.command = "verify",
	                              .key = "verify",
	                              .success = "equal",
	                              .poll_ms = 50,
	                              .body = make_body,
	                              .print = print_result};

	return cli_ask(argc, argv, &asking);
}
