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

#include "apply/care/standbys.h"
#include "apply/catalog/catalog.h"
#include "apply/schema/target.h"
#include "common/arena.h"
#include "common/error.h"
#include "common/log.h"
#include "decoder/receiver/receiver.h"
#include "protocol/conninfo.h"
#include "proxy/listener/listener.h"

/* Of a pattern that a running process is given; how many of them with one command. */
enum { CONFIG_PATTERN_SIZE = 256, CONFIG_TABLES_MAX = 16 };

typedef enum { MODE_ONLINE, MODE_OFFLINE } MigrationMode;
typedef enum { VERIFY_OFF, VERIFY_ON } VerifyWhen;

typedef struct {
	Arena *arena;
	ConnInfo *source;       /* --source, PGBATON_SOURCE */
	ConnInfo *target;       /* --target, PGBATON_TARGET */
	const char *name;       /* --name, default "pgbaton" */
	MigrationMode mode;     /* --mode online|offline */
	bool schema_copy;       /* --schema copy|none, default copy */
	const char *state_dir;  /* --state-dir, default ./NAME.state */
	const char *admin_host; /* --admin HOST:PORT, default 127.0.0.1:7430 */
	int admin_port;
	const char *admin_token_file; /* --admin-token-file; needed when not loopback */
	int jobs;                     /* --jobs, default 4 */
	uint64_t split_above;         /* --split-above SIZE, default 1GiB, 0 never */
	uint64_t copy_rate;           /* --copy-rate SIZE a second, 0 none */
	LagLimit max_source_lag;      /* --max-source-lag SECONDS|SIZE, 0 none */
	uint64_t maintenance_bytes;   /* --maintenance-work-mem SIZE, default 0: by the target's */
	int lanes;                    /* --lanes, 1 to 8; 0: as the target's cores */
	Selection selection;    /* --include-table, ..., --exclude-index (repeatable), --filters */
	bool cutover_auto;      /* --cutover manual|auto */
	bool failback;          /* --failback: keep a way back (K5) */
	ConfirmMode confirm;    /* --confirm logged|applied */
	uint64_t log_max_bytes; /* --log-max-bytes SIZE (64MB, 10GB), 0 none */
	bool log_compress;      /* --log-compress */
	const char *replica_identity; /* --replica-identity full|refuse|insert-only */
	int64_t sequence_margin;      /* --sequence-margin N, default 0 */
	VerifyWhen verify;            /* --verify[=counts|checksums]: before the switch */
	VerifyKind verify_kind;
	int64_t hold_timeout_ms;   /* --hold-timeout SECONDS, default 2 s */
	UnmovablePolicy unmovable; /* --unmovable wait|close|abort, default wait */
	int64_t slot_timeout_ms;   /* --slot-timeout SECONDS, default 60 s */
	bool no_owner;             /* --no-owner */
	bool no_privileges;        /* --no-privileges */
	bool no_security_labels;   /* --no-security-labels */
	bool log_json;             /* --log-format text|json */
	LogLevel log_level;        /* --log-level */
	bool admin_given;          /* --admin or PGBATON_ADMIN, not the default */
	bool name_given;
	bool state_dir_given;
	ListenerOptions listen; /* --listen..., --auth-file; address_count 0: no listener */

	/* of the commands that talk to a running process (proxy/cli) */
	bool json;                 /* --json */
	bool watch;                /* status --watch */
	const char *tables;        /* status --tables N|all; NULL: the default */
	const char *wait_for;      /* wait --for STATE */
	int64_t timeout_ms;        /* wait --timeout, 0: none */
	bool hold_timeout_given;   /* cutover --hold-timeout */
	bool unmovable_given;      /* cutover --unmovable */
	bool rehearse;             /* cutover --rehearse */
	bool abort;                /* cutover, failback --abort */
	const char *pattern;       /* add-table PATTERN, recopy TABLE; NULL with the others */
	bool detach;               /* their --no-wait */
	PatternList verify_tables; /* verify --table PATTERN (repeatable) */
	bool copy_rate_given;      /* throttle --copy-rate */
	bool max_source_lag_given;
} Config;

/*
 * argv[0] is the sub-command's name; each takes only its own options, any key of the
 * file is fine for all. run and check need both sides, finish and cancel may have them,
 * the other commands leave source and target NULL. Passwords in argv are overwritten.
 * On failure NULL and err; a --help request gives NULL with ERROR_NONE (the caller
 * prints the sub-command's help). Not thread-safe (getopt).
 */
Config *config_from_args(int argc, char **argv, Error *err);
void config_free(Config *config);

/* "wait", "close", "abort": UnmovablePolicy's values in order, then NULL. */
extern const char *const config_unmovable_names[];
/* Whether a listening address is this machine's alone: localhost, 127.x, ::1. */
bool config_is_loopback(const char *host);
/*
 * The admin token from a file that only its owner may read (0600): 16 to 512 printable
 * characters, white space around it dropped. malloc'd, mem_wipe_free_cstr it; NULL with
 * ERROR_CONFIG, never with the token in the text.
 */
char *config_read_token(const char *path, Error *err);
/* The candidate that text was probably meant to be, or NULL: for "did you mean". */
const char *config_nearest(const char *text, const char *const *candidates, size_t count);

#endif
