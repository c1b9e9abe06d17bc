/*
 * From argv, environment and file to one Config. Sources are applied from the
 * weakest to the strongest (file, environment, command line), each value by its
 * option's setter, so each is checked where it stands.
 */
#include "proxy/config.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "apply/ledger.h"
#include "common/memory.h"
#include "proxy/config_internal.h"

enum { MAX_OPTIONS = 64, MAX_GIVEN = 512 };

/* What the command line said, in its order. value points into argv. */
typedef struct {
	const ConfigOption *option;
	char *value; /* NULL: none */
} Given;

typedef struct {
	Given items[MAX_GIVEN];
	int count;
	const char *file;     /* --config */
	const char *argument; /* that belongs to no option; NULL: none */
	bool help;
} CommandLine;

/* ---- the command line ---- */

static bool
unknown_option(int command, const char *arg, Error *err)
{
	const char *names[MAX_OPTIONS];
	size_t count = 0;
	/* Without "=value": that might be a connection string. */
	char *name = mem_strndup(arg, strcspn(arg, "="));
	const char *bare = name + strspn(name, "-");

	for (size_t i = 0; i < config_option_count; i++) {
		if (config_options[i].commands & command)
			names[count++] = config_options[i].name;
	}
	const char *nearest = config_nearest(bare, names, count);
	if (config_option_find(bare) != NULL)
		error_set(err, ERROR_CONFIG, "option %s does not belong to this command", name);
	else
		error_set(err, ERROR_CONFIG, "unknown option %s", name);
	if (nearest != NULL)
		error_set_hint(err, "did you mean --%s?", nearest);
	free(name);
	return false;
}

/* The argument itself is not repeated when it could be a connection string. */
static bool
unexpected_argument(const char *arg, Error *err)
{
	if (strpbrk(arg, ":=@") != NULL)
		return error_set(err, ERROR_CONFIG,
		                 "an argument that belongs to no option (a connection "
		                 "string? then put --source or --target before it)");
	return error_set(err, ERROR_CONFIG, "unexpected argument \"%s\"", arg);
}

static size_t
long_options(int command, struct option *out)
{
	size_t count = 0;

	for (size_t i = 0; i < config_option_count; i++) {
		const ConfigOption *option = &config_options[i];
		if (!(option->commands & command))
			continue;
		out[count++] = (struct option){
			.name = option->name,
			.has_arg = option->value == NULL    ? no_argument
		               : option->value_optional ? optional_argument
		                                        : required_argument,
			.val = (int)i + 256,
		};
	}
	out[count++] = (struct option){.name = "help", .has_arg = no_argument, .val = 'h'};
	out[count] = (struct option){0};
	return count;
}

static bool
take_option(CommandLine *line, const ConfigOption *option, char *value, Error *err)
{
	if (line->count == MAX_GIVEN)
		return error_set(err, ERROR_CONFIG, "more than %d options", MAX_GIVEN);
	line->items[line->count++] = (Given){option, value};
	if (strcmp(option->name, "config") == 0)
		line->file = value;
	return true;
}

static bool
command_line_read(int argc, char **argv, int command, CommandLine *line, Error *err)
{
	struct option longs[MAX_OPTIONS + 2];

	long_options(command, longs);
	opterr = 0;
	optind = 0; /* glibc: start afresh */
	for (;;) {
		int at = optind == 0 ? 1 : optind;
		int got = getopt_long(argc, argv, ":h", longs, NULL);

		if (got == -1)
			break;
		if (got == 'h') {
			line->help = true;
			return true;
		}
		if (got == ':')
			return error_set(err, ERROR_CONFIG, "option --%s needs a value",
			                 config_options[optopt - 256].name);
		if (got == '?' && optopt >= 256)
			return error_set(err, ERROR_CONFIG, "option --%s takes no value",
			                 config_options[optopt - 256].name);
		if (got == '?')
			return unknown_option(command, optind > at ? argv[optind - 1] : argv[at], err);
		if (!take_option(line, &config_options[got - 256], optarg, err))
			return false;
	}
	if (optind < argc && (command & FOR_TABLES))
		line->argument = argv[optind++];
	if (optind < argc)
		return unexpected_argument(argv[optind], err);
	return true;
}

/* ---- the three sources of values ---- */

static bool
apply_environment(ConfigDraft *draft, Error *err)
{
	static const struct {
		const char *variable;
		const char *option;
	} known[] = {
		{"PGBATON_SOURCE", "source"},
		{"PGBATON_TARGET", "target"},
		{"PGBATON_ADMIN", "admin"},
	};

	for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++) {
		const char *value = getenv(known[i].variable);
		if (value == NULL || value[0] == '\0')
			continue;
		if (!config_option_find(known[i].option)->set(draft, value, err))
			return error_add_context(err, "%s", known[i].variable);
	}
	return true;
}

static bool
apply_command_line(ConfigDraft *draft, const CommandLine *line, Error *err)
{
	Selection *selection = &draft->config->selection;

	/* A list on the command line replaces the file's, as any value does. */
	for (int i = 0; i < line->count; i++) {
		int list = config_selection_list(line->items[i].option->name);
		if (list >= 0)
			selection->lists[list].count = 0;
		config_listen_replace(draft->config, line->items[i].option->name);
	}
	for (int i = 0; i < line->count; i++) {
		const Given *given = &line->items[i];
		if (!given->option->set(draft, given->value != NULL ? given->value : "true", err))
			return false;
	}
	return true;
}

/* ---- the whole ---- */

static Config *
config_default(void)
{
	Arena *arena = arena_new(4096);
	Config *config = arena_zalloc(arena, sizeof(*config));

	config->arena = arena;
	config->name = "pgbaton";
	config->mode = MODE_ONLINE;
	config->schema_copy = true;
	config->admin_host = "127.0.0.1";
	config->admin_port = 7430;
	config->jobs = 4;
	config->split_above = UINT64_C(1) << 30;
	config->confirm = CONFIRM_LOGGED;
	config->replica_identity = "full";
	config->hold_timeout_ms = 2000;
	config->slot_timeout_ms = 60000;
	config->log_level = LOG_INFO;
	config_listen_default(config);
	return config;
}

/*
 * libpq waits for ever for a server that takes the connection and says nothing, and two hours
 * for a peer that is gone: nobody would see why nothing happens. Not tcp_user_timeout: it also
 * ends connections whose peer is only slow to read.
 */
static ConnInfo *
parse_server(const char *text, Error *err)
{
	static const char *const defaults[][2] = {
		{"connect_timeout", "30"},
		{"keepalives_idle", "30"},
		{"keepalives_interval", "10"},
		{"keepalives_count", "3"},
	};
	ConnInfo *info = conninfo_parse(text, err);

	for (size_t i = 0; info != NULL && i < sizeof(defaults) / sizeof(defaults[0]); i++) {
		if (conninfo_get(info, defaults[i][0]) == NULL)
			conninfo_set(info, defaults[i][0], defaults[i][1]);
	}
	return info;
}

static bool
parse_sides(ConfigDraft *draft, Error *err)
{
	Config *config = draft->config;

	if (draft->source == NULL && draft->target == NULL && draft->command == FOR_ENDING)
		return true;
	if (draft->source == NULL || draft->target == NULL) {
		const char *side = draft->source == NULL ? "source" : "target";
		error_set(err, ERROR_CONFIG, "no %s database", side);
		error_set_hint(err, "give --%s URI or set %s", side,
		               draft->source == NULL ? "PGBATON_SOURCE" : "PGBATON_TARGET");
		return false;
	}
	config->source = parse_server(draft->source, err);
	if (config->source == NULL)
		return error_add_context(err, "source");
	config->target = parse_server(draft->target, err);
	if (config->target == NULL)
		return error_add_context(err, "target");
	return true;
}

static bool
check_together(ConfigDraft *draft, Error *err)
{
	const Config *config = draft->config;

	if (config->mode == MODE_OFFLINE && config->cutover_auto)
		return error_set(err, ERROR_CONFIG,
		                 "--cutover auto has no meaning with --mode offline: it ends by itself");
	if (config->failback && config->mode == MODE_OFFLINE)
		return error_set(err, ERROR_CONFIG, "--failback has no meaning with --mode offline");
	if (config->failback && strlen(config->name) > LEDGER_BACK_NAME_MAX)
		return error_set(err, ERROR_CONFIG, "--name: with --failback at most %d characters",
		                 LEDGER_BACK_NAME_MAX);
	if (draft->command != FOR_RUN)
		return true;
	if (config->admin_token_file == NULL && !config_is_loopback(config->admin_host)) {
		error_set(err, ERROR_CONFIG,
		          "--admin %s is not on loopback: without --admin-token-file anybody who "
		          "reaches it could steer the migration",
		          config->admin_host);
		error_set_hint(err, "openssl rand -hex 32 > FILE && chmod 600 FILE");
		return false;
	}
	if (config->admin_token_file != NULL) {
		char *token = config_read_token(config->admin_token_file, err);
		if (token == NULL)
			return false;
		mem_wipe_free_cstr(token);
	}
	return config_listen_check(draft, err);
}

static bool
take_argument(ConfigDraft *draft, const char *argument, Error *err)
{
	if (!(draft->command & FOR_TABLES))
		return true;
	if (argument == NULL || argument[0] == '\0')
		return error_set(err, ERROR_CONFIG, "a table is missing: schema.name, or a pattern");
	if (strlen(argument) >= CONFIG_PATTERN_SIZE || strpbrk(argument, "\r\n") != NULL)
		return error_set(err, ERROR_CONFIG, "the pattern has a line break, or is too long");
	draft->config->pattern = arena_strdup(draft->config->arena, argument);
	return true;
}

static bool
draft_fill(ConfigDraft *draft, const CommandLine *line, Error *err)
{
	Config *config = draft->config;

	if (!take_argument(draft, line->argument, err))
		return false;
	if (line->file != NULL && !config_file_load(draft, line->file, err))
		return false;
	if (!apply_environment(draft, err) || !apply_command_line(draft, line, err))
		return false;
	if (draft->filters != NULL && !config_filters_load(draft, err))
		return false;
	if (!config_selection_check(&config->selection, err))
		return false;
	if (config->state_dir == NULL)
		config->state_dir = arena_printf(config->arena, "./%s.state", config->name);
	if ((draft->command & FOR_SIDES) && !parse_sides(draft, err))
		return false;
	return check_together(draft, err);
}

/* Whatever came of it: what ps shows from now on has no password. */
static void
mask_given(const CommandLine *line)
{
	for (int i = 0; i < line->count; i++) {
		const char *name = line->items[i].option->name;
		if (strcmp(name, "source") == 0 || strcmp(name, "target") == 0)
			config_mask_password(line->items[i].value);
	}
}

Config *
config_from_args(int argc, char **argv, Error *err)
{
	CommandLine *line = mem_zalloc(sizeof(*line));
	ConfigDraft draft = {.command = config_command_bit(argv[0])};
	Config *result = NULL;

	error_clear(err);
	if (draft.command == 0) {
		error_set(err, ERROR_BUG, "command \"%s\" has no options of its own", argv[0]);
	} else if (command_line_read(argc, argv, draft.command, line, err) && !line->help) {
		draft.config = config_default();
		if (draft_fill(&draft, line, err))
			result = draft.config;
		else
			config_free(draft.config);
	}
	mem_wipe_free_cstr(draft.source);
	mem_wipe_free_cstr(draft.target);
	mask_given(line);
	free(line);
	return result;
}

void
config_free(Config *config)
{
	if (config == NULL)
		return;
	conninfo_free(config->source);
	conninfo_free(config->target);
	arena_free(config->arena);
}
