/* pgbaton check: every finding with what mends it, worst first. */
#include <jansson.h>
#include <string.h>

#include "apply/ledger.h"
#include "apply/setup/check.h"
#include "proxy/cli/cli.h"

static const char *const severity_names[] = {
	[FINDING_INFO] = "info",
	[FINDING_WARNING] = "warning",
	[FINDING_BLOCKER] = "blocker",
};

static void
print_json(const Findings *findings)
{
	json_t *list = json_array();
	json_t *json = json_object();

	for (size_t i = 0; i < findings->count; i++) {
		const Finding *f = &findings->items[i];
		json_t *item = json_object();

		json_object_set_new(item, "severity", json_string(severity_names[f->severity]));
		json_object_set_new(item, "code", json_string(f->code));
		json_object_set_new(item, "object", json_string(f->object));
		json_object_set_new(item, "message", json_string(f->message));
		json_object_set_new(item, "fix", f->fix != NULL ? json_string(f->fix) : json_null());
		json_array_append_new(list, item);
	}
	json_object_set_new(json, "ok", json_boolean(findings_count(findings, FINDING_BLOCKER) == 0));
	json_object_set_new(json, "findings", list);
	json_dumpf(json, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(json);
}

/* The fix on lines of its own, without marks in front, ready to be pasted. */
static void
print_group(const Findings *findings, Severity severity, const char *title)
{
	if (findings_count(findings, severity) == 0)
		return;
	printf("%s\n", title);
	for (size_t i = 0; i < findings->count; i++) {
		const Finding *f = &findings->items[i];
		if (f->severity != severity)
			continue;
		printf("\n  %s [%s]\n  %s\n", f->object, f->code, f->message);
		if (f->fix != NULL)
			printf("\n%s\n", f->fix);
	}
	putchar('\n');
}

static void
print_text(const Findings *findings)
{
	size_t blockers = findings_count(findings, FINDING_BLOCKER);
	size_t warnings = findings_count(findings, FINDING_WARNING);

	print_group(findings, FINDING_BLOCKER, "BLOCKERS: these must be mended first");
	print_group(findings, FINDING_WARNING, "WARNINGS: it works, but read them");
	print_group(findings, FINDING_INFO, "INFORMATION");
	if (blockers > 0)
		printf("%zu blocker%s, %zu warning%s\n", blockers, blockers == 1 ? "" : "s", warnings,
		       warnings == 1 ? "" : "s");
	else
		printf("nothing blocks the migration; %zu warning%s\n", warnings, warnings == 1 ? "" : "s");
}

/* The same name may have a ledger already: then its slot and tables are no finding. */
static bool
check_both(const Config *config, Sql *source, Sql *target, Findings *findings, Error *err)
{
	CheckOptions options = {
		.online = config->mode == MODE_ONLINE,
		.schema_copy = config->schema_copy,
		.replica_identity = config->replica_identity,
		.no_owner = config->no_owner,
		.no_security_labels = config->no_security_labels,
		.failback = config->failback,
		.listens = config->listen.address_count > 0,
		.auth_file = config->listen.auth_file != NULL,
		.name = config->name,
		.selection = config->selection,
	};
	Catalog *catalog = NULL;

	if (!ledger_exists(target, config->name, &options.resuming, err)) {
		if (err->class != ERROR_CONFIG)
			return false;
		/* A schema of our name that is not ours: a finding like others. */
		findings_add(findings, FINDING_BLOCKER, "own_schema", "target",
		             err->hint[0] != '\0' ? err->hint : NULL, "%s", err->message);
	}
	options.selection.recorded = options.resuming;
	if (!check_run(source, target, config->source, &options, findings, &catalog, err))
		return false;
	catalog_free(catalog);
	return true;
}

static int
check(const Config *config)
{
	Error err = ERROR_INIT;
	Findings *findings = findings_new();
	Sql *source = sql_connect(config->source, "source", "check", NULL, &err);
	Sql *target = source != NULL ? sql_connect(config->target, "target", "check", NULL, &err)
	                             : NULL;
	int exit_code;

	if (target != NULL && check_both(config, source, target, findings, &err)) {
		if (config->json)
			print_json(findings);
		else
			print_text(findings);
		exit_code = findings_count(findings, FINDING_BLOCKER) > 0 ? EXIT_CHECK : EXIT_DONE;
	} else {
		exit_code = cli_fail(&err);
	}
	sql_close(source);
	sql_close(target);
	findings_free(findings);
	return exit_code;
}

int
cmd_check(int argc, char **argv)
{
	int exit_code;
	Config *config = cli_config(argc, argv, &exit_code);

	if (config == NULL)
		return exit_code;
	log_set_level(config->log_level);
	exit_code = check(config);
	config_free(config);
	return exit_code;
}
