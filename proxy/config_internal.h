/*
 * config_internal.h: the option table and the readers of values, shared by the
 * config*.c files and the help texts. Nothing else includes it.
 */
#ifndef PGBATON_PROXY_CONFIG_INTERNAL_H
#define PGBATON_PROXY_CONFIG_INTERNAL_H

#include "proxy/config.h"

/* Which sub-commands take an option on their command line. The file may hold
 * any key of in_file options for every command, so that one file serves all. */
enum {
	FOR_RUN = 1 << 0,
	FOR_CHECK = 1 << 1,
	FOR_STATUS = 1 << 2,
	FOR_WAIT = 1 << 3,
	FOR_CUTOVER = 1 << 4,
	FOR_VERIFY = 1 << 5,
	FOR_ENDING = 1 << 6, /* finish, cancel */
	FOR_OTHER = 1 << 7,  /* pause, resume */
	FOR_FAILBACK = 1 << 8,
	FOR_SESSIONS = 1 << 9,
	FOR_THROTTLE = 1 << 10,
	FOR_TABLES = 1 << 11, /* add-table, recopy: one argument */
	FOR_CLIENTS = FOR_STATUS | FOR_WAIT | FOR_CUTOVER | FOR_FAILBACK | FOR_VERIFY | FOR_ENDING |
	              FOR_OTHER | FOR_SESSIONS | FOR_THROTTLE | FOR_TABLES,
	FOR_SIDES = FOR_RUN | FOR_CHECK | FOR_ENDING,
	FOR_ALL = FOR_RUN | FOR_CHECK | FOR_CLIENTS
};

/* What was read, before it is looked at as a whole. The strings of source and
 * target may hold passwords: they are wiped once parsed. */
typedef struct {
	Config *config;
	int command; /* one FOR_ bit */
	char *source;
	char *target;
	const char *filters; /* --filters, or NULL */
	bool listen_tls_given;
} ConfigDraft;

typedef struct {
	const char *name;  /* without dashes; also the file's key */
	const char *value; /* what the help calls its value; NULL: a switch */
	bool value_optional;
	bool in_file;
	int commands;
	bool (*set)(ConfigDraft *draft, const char *value, Error *err);
	const char *help;
} ConfigOption;

extern const ConfigOption config_options[];
extern const size_t config_option_count;

/* The FOR_ bit of a sub-command's name; 0: not one that takes options of ours. */
int config_command_bit(const char *command);
const ConfigOption *config_option_find(const char *name);
/* The file's keys into draft. Errors name file, line and key. */
MUST_CHECK bool config_file_load(ConfigDraft *draft, const char *path, Error *err);

/* ---- config_selection.c ---- */

MUST_CHECK bool config_add_pattern(ConfigDraft *draft, SelectionList list, const char *pattern,
                                   Error *err);
/* verify --table. */
MUST_CHECK bool config_add_table(ConfigDraft *draft, const char *pattern, Error *err);
/* The list with this option's name ("include-table"); -1: it is none of these. */
int config_selection_list(const char *option);
/* Adds what pgcopydb's filter file at draft->filters says. */
MUST_CHECK bool config_filters_load(ConfigDraft *draft, Error *err);
/* Lists that exclude each other. */
MUST_CHECK bool config_selection_check(const Selection *selection, Error *err);

/* Readers of values: false with ERROR_CONFIG "--NAME: ..." naming value and what is
 * allowed. */
MUST_CHECK bool value_bool(const char *name, const char *text, bool *out, Error *err);
MUST_CHECK bool value_int(const char *name, const char *text, int64_t min, int64_t max,
                          int64_t *out, Error *err);
/* 1 to max. */
MUST_CHECK bool value_small(const char *name, const char *text, int64_t max, int *out, Error *err);
MUST_CHECK bool value_size(const char *name, const char *text, uint64_t *out, Error *err);
MUST_CHECK bool value_seconds(const char *name, const char *text, int64_t min_ms, int64_t max_ms,
                              int64_t *out_ms, Error *err);
/* One of a NULL-terminated list; *out is its index. */
MUST_CHECK bool value_choice(const char *name, const char *text, const char *const *choices,
                             int *out, Error *err);
/* "HOST:PORT", "[::1]:PORT"; *host in the arena, without brackets. */
MUST_CHECK bool value_address(Arena *arena, const char *name, const char *text, const char **host,
                              int *port, Error *err);

/* ---- config_listen.c: the listener's options ---- */

bool config_set_listen(ConfigDraft *draft, const char *value, Error *err);
bool config_set_listen_tls(ConfigDraft *draft, const char *value, Error *err);
bool config_set_listen_cert(ConfigDraft *draft, const char *value, Error *err);
bool config_set_listen_key(ConfigDraft *draft, const char *value, Error *err);
bool config_set_listen_ca(ConfigDraft *draft, const char *value, Error *err);
bool config_add_trust(ConfigDraft *draft, const char *value, Error *err);
bool config_set_max_clients(ConfigDraft *draft, const char *value, Error *err);
bool config_set_listen_threads(ConfigDraft *draft, const char *value, Error *err);
bool config_set_auth_file(ConfigDraft *draft, const char *value, Error *err);
void config_listen_default(Config *config);
/* A list on the command line replaces the file's. */
void config_listen_replace(Config *config, const char *option);
/* After source and target are known; what does not fit together is ERROR_CONFIG. */
MUST_CHECK bool config_listen_check(ConfigDraft *draft, Error *err);

/* Overwrites with 'x' whatever is, or may be, a password in a connection string. */
void config_mask_password(char *conninfo);

#endif
