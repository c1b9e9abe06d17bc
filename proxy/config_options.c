/* Every option once: its name, who takes it, what it sets, what the help says. */
#include <string.h>

#include "common/memory.h"
#include "proxy/config_internal.h"

/* At least one segment of the log must fit beside the one being written. */
#define LOG_MIN_BYTES UINT64_C(1000000)
/* Above 2^53 a JSON reader would round it. */
#define MARGIN_MAX (INT64_C(1) << 53)
#define MAINTENANCE_MIN UINT64_C(1000000)
#define MAINTENANCE_MAX UINT64_C(2000000000)

static bool
replace_secret(char **at, const char *value)
{
	mem_wipe_free_cstr(*at);
	*at = mem_strdup(value);
	return true;
}

static bool
set_source(ConfigDraft *draft, const char *value, Error *err UNUSED)
{
	return replace_secret(&draft->source, value);
}

static bool
set_target(ConfigDraft *draft, const char *value, Error *err UNUSED)
{
	return replace_secret(&draft->target, value);
}

/* It names slot, publication and schema, so it must need no quotes anywhere. */
static bool
set_name(ConfigDraft *draft, const char *value, Error *err)
{
	size_t len = strlen(value);

	if (len < 1 || len > 41 || value[0] < 'a' || value[0] > 'z' ||
	    strspn(value, "abcdefghijklmnopqrstuvwxyz0123456789_") != len)
		return error_set(err, ERROR_CONFIG,
		                 "--name: \"%s\" must begin with a to z and go on with a to z, 0 to 9 "
		                 "and _, at most 41 characters",
		                 value);
	draft->config->name = arena_strdup(draft->config->arena, value);
	draft->config->name_given = true;
	return true;
}

static bool
set_mode(ConfigDraft *draft, const char *value, Error *err)
{
	static const char *const choices[] = {"online", "offline", NULL};
	int chosen;

	if (!value_choice("--mode", value, choices, &chosen, err))
		return false;
	draft->config->mode = chosen == 0 ? MODE_ONLINE : MODE_OFFLINE;
	return true;
}

static bool
set_schema(ConfigDraft *draft, const char *value, Error *err)
{
	static const char *const choices[] = {"copy", "none", NULL};
	int chosen;

	if (!value_choice("--schema", value, choices, &chosen, err))
		return false;
	draft->config->schema_copy = chosen == 0;
	return true;
}

static bool
set_text(ConfigDraft *draft, const char *name, const char *value, const char **out, Error *err)
{
	if (value[0] == '\0')
		return error_set(err, ERROR_CONFIG, "%s: the value is empty", name);
	*out = arena_strdup(draft->config->arena, value);
	return true;
}

static bool
set_state_dir(ConfigDraft *draft, const char *value, Error *err)
{
	draft->config->state_dir_given = true;
	return set_text(draft, "--state-dir", value, &draft->config->state_dir, err);
}

static bool
set_admin(ConfigDraft *draft, const char *value, Error *err)
{
	Config *config = draft->config;

	config->admin_given = true;
	return value_address(config->arena, "--admin", value, &config->admin_host, &config->admin_port,
	                     err);
}

static bool
set_token_file(ConfigDraft *draft, const char *value, Error *err)
{
	return set_text(draft, "--admin-token-file", value, &draft->config->admin_token_file, err);
}

static bool
set_jobs(ConfigDraft *draft, const char *value, Error *err)
{
	return value_small("--jobs", value, 64, &draft->config->jobs, err);
}

static bool
set_split_above(ConfigDraft *draft, const char *value, Error *err)
{
	return value_size("--split-above", value, &draft->config->split_above, err);
}

static bool
set_copy_rate(ConfigDraft *draft, const char *value, Error *err)
{
	draft->config->copy_rate_given = true;
	return value_size("--copy-rate", value, &draft->config->copy_rate, err);
}

/* A size has a unit that ends in B, a time has not. */
static bool
set_source_lag(ConfigDraft *draft, const char *value, Error *err)
{
	LagLimit *limit = &draft->config->max_source_lag;
	size_t len = strlen(value);

	draft->config->max_source_lag_given = true;
	*limit = (LagLimit){0};
	if (len > 0 && value[len - 1] == 'B')
		return value_size("--max-source-lag", value, &limit->bytes, err);
	return value_seconds("--max-source-lag", value, 0, 86400 * INT64_C(1000), &limit->ms, err);
}

/* What the server takes: 1 MB (64 kB before 17), and 2 GB on some platforms. */
static bool
set_maintenance(ConfigDraft *draft, const char *value, Error *err)
{
	uint64_t bytes;

	if (!value_size("--maintenance-work-mem", value, &bytes, err))
		return false;
	if (bytes != 0 && (bytes < MAINTENANCE_MIN || bytes > MAINTENANCE_MAX))
		return error_set(err, ERROR_CONFIG,
		                 "--maintenance-work-mem: %s is not within 1MB and 2GB (0: by the target)",
		                 value);
	draft->config->maintenance_bytes = bytes;
	return true;
}

static bool
set_lanes(ConfigDraft *draft, const char *value, Error *err)
{
	return value_small("--lanes", value, 8, &draft->config->lanes, err);
}

static bool
add_include_table(ConfigDraft *draft, const char *value, Error *err)
{
	return config_add_pattern(draft, INCLUDE_TABLE, value, err);
}

static bool
add_exclude_table(ConfigDraft *draft, const char *value, Error *err)
{
	return config_add_pattern(draft, EXCLUDE_TABLE, value, err);
}

static bool
add_include_schema(ConfigDraft *draft, const char *value, Error *err)
{
	return config_add_pattern(draft, INCLUDE_SCHEMA, value, err);
}

static bool
add_exclude_schema(ConfigDraft *draft, const char *value, Error *err)
{
	return config_add_pattern(draft, EXCLUDE_SCHEMA, value, err);
}

static bool
add_exclude_data(ConfigDraft *draft, const char *value, Error *err)
{
	return config_add_pattern(draft, EXCLUDE_DATA, value, err);
}

static bool
add_exclude_index(ConfigDraft *draft, const char *value, Error *err)
{
	return config_add_pattern(draft, EXCLUDE_INDEX, value, err);
}

static bool
set_unlogged(ConfigDraft *draft, const char *value, Error *err)
{
	static const char *const choices[] = {"copy", "skip", NULL};
	int chosen;

	if (!value_choice("--unlogged", value, choices, &chosen, err))
		return false;
	draft->config->selection.skip_unlogged = chosen == 1;
	return true;
}

static bool
set_large_objects(ConfigDraft *draft, const char *value, Error *err)
{
	static const char *const choices[] = {"copy", "skip", NULL};
	int chosen;

	if (!value_choice("--large-objects", value, choices, &chosen, err))
		return false;
	draft->config->selection.large_objects = chosen == 1 ? LARGE_OBJECTS_SKIP : LARGE_OBJECTS_COPY;
	return true;
}

static bool
set_filters(ConfigDraft *draft, const char *value, Error *err)
{
	return set_text(draft, "--filters", value, &draft->filters, err);
}

static bool
set_cutover(ConfigDraft *draft, const char *value, Error *err)
{
	static const char *const choices[] = {"manual", "auto", NULL};
	int chosen;

	if (!value_choice("--cutover", value, choices, &chosen, err))
		return false;
	draft->config->cutover_auto = chosen == 1;
	return true;
}

static bool
set_failback(ConfigDraft *draft, const char *value, Error *err)
{
	return value_bool("--failback", value, &draft->config->failback, err);
}

static bool
set_confirm(ConfigDraft *draft, const char *value, Error *err)
{
	static const char *const choices[] = {"logged", "applied", NULL};
	int chosen;

	if (!value_choice("--confirm", value, choices, &chosen, err))
		return false;
	draft->config->confirm = chosen == 0 ? CONFIRM_LOGGED : CONFIRM_APPLIED;
	return true;
}

static bool
set_log_max(ConfigDraft *draft, const char *value, Error *err)
{
	uint64_t bytes;

	if (!value_size("--log-max-bytes", value, &bytes, err))
		return false;
	if (bytes != 0 && bytes < LOG_MIN_BYTES)
		return error_set(err, ERROR_CONFIG, "--log-max-bytes: %s is less than 1MB (0: no limit)",
		                 value);
	draft->config->log_max_bytes = bytes;
	return true;
}

static bool
set_log_compress(ConfigDraft *draft, const char *value, Error *err)
{
	return value_bool("--log-compress", value, &draft->config->log_compress, err);
}

static bool
set_replica_identity(ConfigDraft *draft, const char *value, Error *err)
{
	static const char *const choices[] = {"full", "refuse", "insert-only", NULL};
	int chosen;

	if (!value_choice("--replica-identity", value, choices, &chosen, err))
		return false;
	draft->config->replica_identity = choices[chosen];
	return true;
}

static bool
set_margin(ConfigDraft *draft, const char *value, Error *err)
{
	return value_int("--sequence-margin", value, 0, MARGIN_MAX, &draft->config->sequence_margin,
	                 err);
}

/* --verify alone, and verify = true in the file, mean counts. */
static bool
set_verify(ConfigDraft *draft, const char *value, Error *err)
{
	static const char *const choices[] = {"counts", "checksums", "off", NULL};
	int chosen = 0;

	if (strcmp(value, "true") != 0 && !value_choice("--verify", value, choices, &chosen, err))
		return false;
	draft->config->verify = chosen == 2 ? VERIFY_OFF : VERIFY_ON;
	draft->config->verify_kind = chosen == 1 ? VERIFY_CHECKSUMS : VERIFY_COUNTS;
	return true;
}

static bool
set_unmovable(ConfigDraft *draft, const char *value, Error *err)
{
	int chosen;

	if (!value_choice("--unmovable", value, config_unmovable_names, &chosen, err))
		return false;
	draft->config->unmovable = (UnmovablePolicy)chosen;
	draft->config->unmovable_given = true;
	return true;
}

static bool
set_hold_timeout(ConfigDraft *draft, const char *value, Error *err)
{
	draft->config->hold_timeout_given = true;
	return value_seconds("--hold-timeout", value, 10, 3600 * 1000, &draft->config->hold_timeout_ms,
	                     err);
}

static bool
set_slot_timeout(ConfigDraft *draft, const char *value, Error *err)
{
	return value_seconds("--slot-timeout", value, 100, 7 * 86400 * INT64_C(1000),
	                     &draft->config->slot_timeout_ms, err);
}

static bool
set_no_owner(ConfigDraft *draft, const char *value, Error *err)
{
	return value_bool("--no-owner", value, &draft->config->no_owner, err);
}

static bool
set_no_security_labels(ConfigDraft *draft, const char *value, Error *err)
{
	return value_bool("--no-security-labels", value, &draft->config->no_security_labels, err);
}

static bool
set_no_privileges(ConfigDraft *draft, const char *value, Error *err)
{
	return value_bool("--no-privileges", value, &draft->config->no_privileges, err);
}

static bool
set_log_format(ConfigDraft *draft, const char *value, Error *err)
{
	static const char *const choices[] = {"text", "json", NULL};
	int chosen;

	if (!value_choice("--log-format", value, choices, &chosen, err))
		return false;
	draft->config->log_json = chosen == 1;
	return true;
}

static bool
set_log_level(ConfigDraft *draft, const char *value, Error *err)
{
	static const char *const choices[] = {"debug", "info", "warning", "error", NULL};
	int chosen;

	if (!value_choice("--log-level", value, choices, &chosen, err))
		return false;
	draft->config->log_level = (LogLevel)chosen;
	return true;
}

static bool
set_json(ConfigDraft *draft, const char *value, Error *err)
{
	return value_bool("--json", value, &draft->config->json, err);
}

static bool
set_watch(ConfigDraft *draft, const char *value, Error *err)
{
	return value_bool("--watch", value, &draft->config->watch, err);
}

static bool
set_tables(ConfigDraft *draft, const char *value, Error *err)
{
	int64_t n;

	if (strcmp(value, "all") != 0 && !value_int("--tables", value, 0, INT32_MAX, &n, err))
		return error_set_hint(err, "a number, or all");
	return set_text(draft, "--tables", value, &draft->config->tables, err);
}

static bool
set_wait_for(ConfigDraft *draft, const char *value, Error *err)
{
	return set_text(draft, "--for", value, &draft->config->wait_for, err);
}

static bool
set_timeout(ConfigDraft *draft, const char *value, Error *err)
{
	return value_seconds("--timeout", value, 1, 365 * 86400 * INT64_C(1000),
	                     &draft->config->timeout_ms, err);
}

static bool
set_rehearse(ConfigDraft *draft, const char *value, Error *err)
{
	return value_bool("--rehearse", value, &draft->config->rehearse, err);
}

static bool
set_abort(ConfigDraft *draft, const char *value, Error *err)
{
	return value_bool("--abort", value, &draft->config->abort, err);
}

static bool
set_no_wait(ConfigDraft *draft, const char *value, Error *err)
{
	return value_bool("--no-wait", value, &draft->config->detach, err);
}

static bool
set_table(ConfigDraft *draft, const char *value, Error *err)
{
	return config_add_table(draft, value, err);
}

/* --config itself is read before the others (config.c). */
static bool
set_nothing(ConfigDraft *draft UNUSED, const char *value UNUSED, Error *err UNUSED)
{
	return true;
}

#define FOR_SETUP (FOR_RUN | FOR_CHECK)

const ConfigOption config_options[] = {
	{"source", "URI", false, true, FOR_SIDES, set_source,
     "the database to move: libpq connection string or URI (PGBATON_SOURCE)"},
	{"target", "URI", false, true, FOR_SIDES, set_target,
     "where it goes: libpq connection string or URI (PGBATON_TARGET)"},
	{"config", "FILE", false, false, FOR_ALL, set_nothing,
     "read options from FILE (key = value, named as here); the command line wins"},
	{"name", "NAME", false, true, FOR_ALL, set_name,
     "name of the migration: of its slot, publication and schema (default pgbaton)"},
	{"state-dir", "DIR", false, true, FOR_ALL, set_state_dir,
     "transaction log and state of this process (default ./NAME.state)"},
	{"mode", "MODE", false, true, FOR_SETUP, set_mode,
     "online: copy, then follow until the cutover; offline: copy and end (default online)"},
	{"schema", "HOW", false, true, FOR_SETUP, set_schema,
     "copy: create it on the target; none: it is already there (default copy)"},
	{"no-owner", NULL, false, true, FOR_SETUP, set_no_owner,
     "the objects on the target belong to the user that connects"},
	{"no-privileges", NULL, false, true, FOR_SETUP, set_no_privileges,
     "leave out GRANT and REVOKE, and default privileges"},
	{"no-security-labels", NULL, false, true, FOR_SETUP, set_no_security_labels,
     "leave out security labels"},
	{"include-table", "PATTERN", false, true, FOR_SETUP, add_include_table,
     "move only these, schema.table by pg_dump's pattern rules (repeatable; default all)"},
	{"exclude-table", "PATTERN", false, true, FOR_SETUP, add_exclude_table,
     "leave these out (repeatable)"},
	{"include-schema", "PATTERN", false, true, FOR_SETUP, add_include_schema,
     "move only what is in these schemas (repeatable)"},
	{"exclude-schema", "PATTERN", false, true, FOR_SETUP, add_exclude_schema,
     "leave these schemas out (repeatable)"},
	{"exclude-table-data", "PATTERN", false, true, FOR_SETUP, add_exclude_data,
     "move these tables' definitions without their rows (repeatable)"},
	{"exclude-index", "PATTERN", false, true, FOR_SETUP, add_exclude_index,
     "do not build these indexes on the target (repeatable)"},
	{"unlogged", "HOW", false, true, FOR_SETUP, set_unlogged,
     "copy: their rows again at the cutover; skip: definitions only (default copy)"},
	{"large-objects", "HOW", false, true, FOR_SETUP, set_large_objects,
     "copy: and compare them at the cutover; skip: leave them out (default copy, but skip where "
     "tables or schemas to include are named)"},
	{"filters", "FILE", false, true, FOR_SETUP, set_filters,
     "more of these lists from FILE, in pgcopydb's format"},
	{"replica-identity", "HOW", false, true, FOR_SETUP, set_replica_identity,
     "tables without a usable key: full, refuse or insert-only (default full)"},
	{"jobs", "N", false, true, FOR_RUN, set_jobs,
     "tables, parts of tables and indexes at a time, 1 to 64 (default 4)"},
	{"split-above", "SIZE", false, true, FOR_RUN, set_split_above,
     "copy larger tables in parts (default 1GiB, 0 never; TOAST counts eightfold)"},
	{"copy-rate", "SIZE", false, true, FOR_RUN | FOR_THROTTLE, set_copy_rate,
     "read at most so much a second from the source while copying (default 0, no limit)"},
	{"max-source-lag", "LAG", false, true, FOR_RUN | FOR_THROTTLE, set_source_lag,
     "the copy rests while a standby of the source is so far behind: seconds, or a size like "
     "64MB (default 0, no limit)"},
	{"maintenance-work-mem", "SIZE", false, true, FOR_RUN, set_maintenance,
     "memory of the target for each job's index, 1MB to 2GB (default 0, by its settings)"},
	{"lanes", "N", false, true, FOR_RUN, set_lanes,
     "connections that apply changes, 1 to 8; 1: readers of the target see only states the "
     "source had (default: the target's cores, 4 where they cannot be seen)"},
	{"confirm", "WHEN", false, true, FOR_RUN, set_confirm,
     "what the source may forget: logged here, or applied there (default logged)"},
	{"log-max-bytes", "SIZE", false, true, FOR_RUN, set_log_max,
     "limit of the transaction log, like 64MB or 10GiB (default 0, no limit)"},
	{"log-compress", NULL, false, true, FOR_RUN, set_log_compress,
     "compress the transaction log (LZ4)"},
	{"slot-timeout", "SECONDS", false, true, FOR_RUN, set_slot_timeout,
     "how long the slot may wait for running transactions (default 60)"},
	{"cutover", "WHEN", false, true, FOR_RUN, set_cutover,
     "manual: when asked to; auto: as soon as it follows (default manual)"},
	{"failback", NULL, false, true, FOR_SETUP, set_failback,
     "keep a way back: after the cutover the old source follows the target until finish"},
	{"hold-timeout", "SECONDS", false, true, FOR_RUN | FOR_CUTOVER | FOR_FAILBACK, set_hold_timeout,
     "a cutover ends within this time or is undone (default 2)"},
	{"unmovable", "POLICY", false, true, FOR_RUN | FOR_CUTOVER | FOR_FAILBACK, set_unmovable,
     "the listener's sessions that cannot be moved: wait for them, close them (57P01), or abort "
     "the cutover (default wait)"},
	{"sequence-margin", "N", false, true, FOR_RUN, set_margin,
     "set sequences this many steps further on the target (default 0)"},
	{"verify", "KIND", true, true, FOR_RUN, set_verify,
     "compare all tables before the switch: counts or checksums (default counts)"},
	{"listen", "WHERE", false, true, FOR_SETUP, config_set_listen,
     "stand in front of the application: HOST:PORT or /path of a Unix socket (repeatable)"},
	{"listen-tls", "MODE", false, true, FOR_RUN, config_set_listen_tls,
     "off, allow or require (default allow with a certificate, else off)"},
	{"listen-tls-cert", "FILE", false, true, FOR_RUN, config_set_listen_cert,
     "the listener's certificate, PEM"},
	{"listen-tls-key", "FILE", false, true, FOR_RUN, config_set_listen_key, "and its private key"},
	{"listen-tls-ca", "FILE", false, true, FOR_RUN, config_set_listen_ca,
     "clients must have a certificate signed by this authority"},
	{"listen-trust", "CIDR", false, true, FOR_RUN, config_add_trust,
     "clients from there need no password; \"local\": Unix sockets (repeatable)"},
	{"listen-max-clients", "N", false, true, FOR_RUN, config_set_max_clients,
     "connections of clients at most (default 5000)"},
	{"listen-threads", "N", false, true, FOR_RUN, config_set_listen_threads,
     "threads that relay, 1 to 64 (default: one for each two processors)"},
	{"auth-file", "FILE", false, true, FOR_SETUP, config_set_auth_file,
     "users and secrets as in pgbouncer's userlist.txt, where pg_authid has none"},
	{"admin", "HOST:PORT", false, true, FOR_RUN | FOR_CLIENTS, set_admin,
     "the admin port (PGBATON_ADMIN; default 127.0.0.1:7430)"},
	{"admin-token-file", "FILE", false, true, FOR_RUN | FOR_CLIENTS, set_token_file,
     "the token asked for by the admin port; needed when it is not on loopback"},
	{"log-format", "FORM", false, true, FOR_RUN, set_log_format, "text or json (default text)"},
	{"log-level", "LEVEL", false, true, FOR_SETUP | FOR_ENDING, set_log_level,
     "debug, info, warning or error (default info)"},
	{"rehearse", NULL, false, false, FOR_CUTOVER, set_rehearse,
     "do all but the switch, release the writers, and say how long it held them"},
	{"abort", NULL, false, false, FOR_CUTOVER | FOR_FAILBACK, set_abort,
     "give up the cutover, rehearsal or failback that is under way, unless it has switched already"},
	{"table", "PATTERN", false, false, FOR_VERIFY, set_table,
     "only these, schema.table by pg_dump's pattern rules (repeatable; default all)"},
	{"no-wait", NULL, false, false, FOR_TABLES, set_no_wait,
     "do not wait until the tables have joined the others"},
	{"for", "STATE", false, false, FOR_WAIT, set_wait_for,
     "checking, preparing, copying, catching_up, following, cutting_over, switched, failed_back, "
     "finished"},
	{"timeout", "SECONDS", false, false, FOR_WAIT, set_timeout,
     "give up after this time (default: never)"},
	{"watch", NULL, false, false, FOR_STATUS, set_watch,
     "again every second, until the migration has ended"},
	{"tables", "N", false, false, FOR_STATUS, set_tables,
     "list as many tables, or all; those in error first (default 20, with --json 100)"},
	{"json", NULL, false, false,
     FOR_CHECK | FOR_STATUS | FOR_CUTOVER | FOR_FAILBACK | FOR_VERIFY | FOR_SESSIONS, set_json,
     "print JSON"},
};

const size_t config_option_count = sizeof(config_options) / sizeof(*config_options);

const ConfigOption *
config_option_find(const char *name)
{
	for (size_t i = 0; i < config_option_count; i++) {
		if (strcmp(config_options[i].name, name) == 0)
			return &config_options[i];
	}
	return NULL;
}

int
config_command_bit(const char *command)
{
	static const struct {
		const char *name;
		int bit;
	} commands[] = {
		{"run", FOR_RUN},          {"check", FOR_CHECK},     {"status", FOR_STATUS},
		{"wait", FOR_WAIT},        {"cutover", FOR_CUTOVER}, {"verify", FOR_VERIFY},
		{"finish", FOR_ENDING},    {"cancel", FOR_ENDING},   {"failback", FOR_FAILBACK},
		{"pause", FOR_OTHER},      {"resume", FOR_OTHER},    {"throttle", FOR_THROTTLE},
		{"add-table", FOR_TABLES}, {"recopy", FOR_TABLES},   {"sessions", FOR_SESSIONS},
	};

	for (size_t i = 0; i < sizeof(commands) / sizeof(*commands); i++) {
		if (strcmp(commands[i].name, command) == 0)
			return commands[i].bit;
	}
	return 0;
}
