/*
 * config.h: what the user asked for: options, then PGBATON_SOURCE and
 * PGBATON_TARGET, then the configuration file (--config, INI by inih; the same
 * names as the long options, without dashes in front, in section [pgbaton] or none).
 * The command line wins. A wrong option, value or combination is ERROR_CONFIG
 * (exit 2) naming option and value. Owns its strings; connection strings never get
 * into logs, only conninfo_display of them.
 */
#ifndef PGBATON_PROXY_CONFIG_H
#define PGBATON_PROXY_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "apply/catalog/catalog.h"
#include "apply/schema/target.h"
#include "common/arena.h"
#include "common/error.h"
#include "common/log.h"
#include "decoder/receiver.h"
#include "protocol/conninfo.h"

typedef enum { MODE_ONLINE, MODE_OFFLINE } MigrationMode;
typedef enum { VERIFY_OFF, VERIFY_ON } VerifyWhen;

typedef struct {
	Arena *arena;
	ConnInfo *source;            /* --source, PGBATON_SOURCE */
	ConnInfo *target;            /* --target, PGBATON_TARGET */
	const char *name;            /* --name, default "pgbaton" */
	MigrationMode mode;          /* --mode online|offline */
	bool schema_copy;            /* --schema copy|none, default copy */
	const char *state_dir;       /* --state-dir, default ./NAME.state */
	const char *admin_host;      /* --admin HOST:PORT, default 127.0.0.1:7430 */
	int admin_port;
	const char *admin_token_file;/* --admin-token-file; needed when not loopback */
	int jobs;                    /* --jobs, default 4 */
	int lanes;                   /* --lanes, default 4, 1 to 8 */
	Selection selection;         /* --include-table, --exclude-table, repeatable */
	bool cutover_auto;           /* --cutover manual|auto */
	ConfirmMode confirm;         /* --confirm logged|applied */
	uint64_t log_max_bytes;      /* --log-max-bytes SIZE (64MB, 10GB), 0 none */
	bool log_compress;           /* --log-compress */
	const char *replica_identity;/* --replica-identity full|refuse|insert-only */
	int64_t sequence_margin;     /* --sequence-margin N, default 0 */
	VerifyWhen verify;           /* --verify[=counts|checksums]: before the switch */
	VerifyKind verify_kind;
	int64_t hold_timeout_ms;     /* --hold-timeout SECONDS, default 2 s */
	int64_t slot_timeout_ms;     /* --slot-timeout SECONDS, default 60 s */
	bool no_owner;               /* --no-owner */
	bool log_json;               /* --log-format text|json */
	LogLevel log_level;          /* --log-level */
} Config;

/* argv[0] is the sub-command's name. On failure NULL and err; a --help request
 * gives NULL with ERROR_NONE (the caller prints the sub-command's help). */
Config *config_from_args(int argc, char **argv, Error *err);
void config_free(Config *config);

#endif
