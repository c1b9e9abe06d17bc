/*
 * check.h: everything that would go wrong, found before anything is touched.
 */
#ifndef PGBATON_APPLY_SETUP_CHECK_H
#define PGBATON_APPLY_SETUP_CHECK_H

#include <stdbool.h>
#include <stddef.h>

#include "apply/catalog/catalog.h"
#include "apply/setup/source.h"
#include "apply/sql.h"
#include "common/arena.h"

typedef enum { FINDING_INFO, FINDING_WARNING, FINDING_BLOCKER } Severity;

typedef struct {
	Severity severity;
	const char *code;    /* stable, for scripts: "wal_level", "replica_identity", ... */
	const char *object;  /* "source", "table public.t", ... */
	const char *message; /* what is, and what follows from it */
	const char *fix;     /* the exact statement or setting that mends it; may be NULL */
} Finding;

typedef struct {
	Arena *arena;
	Finding *items;
	size_t count;
	size_t capacity;
} Findings;

typedef struct {
	bool online;                  /* replication is needed */
	bool schema_copy;             /* --schema copy: target must be empty of our tables */
	const char *replica_identity; /* full | refuse | insert-only */
	const char *name;             /* of the migration */
	const char *log_directory;    /* disk for the log; NULL: not checked */
	bool no_owner;                /* what is copied belongs to the user that connects */
	bool no_security_labels;      /* they are left out */
	bool failback;                /* --failback: the target as a source, too */
	bool resuming;                /* a ledger exists: own slot and tables are expected */
	bool listens;                 /* --listen: the application's roles log in to both */
	bool auth_file;               /* --auth-file is given */
	const OurSessions *ours;      /* the listener's on the source; NULL: there is none */
	Selection selection;
} CheckOptions;

Findings *findings_new(void);
void findings_free(Findings *findings);
/* A finding that is already there (code, object) is not added twice. fix may be NULL. */
void findings_add(Findings *findings, Severity severity, const char *code, const char *object,
                  const char *fix, const char *fmt, ...) PRINTF_LIKE(6, 7);
size_t findings_count(const Findings *findings, Severity severity);

/*
 * Runs every check on two open sessions and adds what it finds. False only when
 * a server cannot be asked at all (connection lost) or the name is none (ERROR_CONFIG). *catalog gets the source's
 * catalogue when it could be read (caller frees), else NULL.
 */
MUST_CHECK bool check_run(Sql *source, Sql *target, const ConnInfo *source_info,
                          const CheckOptions *options, Findings *findings, Catalog **catalog,
                          Error *err);

#endif
