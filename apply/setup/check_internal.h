/*
 * check_internal.h: shared by the files that implement check.h.
 *
 * A check asks one question and adds findings. It never fails: what the server
 * refuses to tell is a finding, a lost connection is kept in `broken` and ends
 * the run.
 */
#ifndef PGBATON_APPLY_SETUP_CHECK_INTERNAL_H
#define PGBATON_APPLY_SETUP_CHECK_INTERNAL_H

#include "apply/setup/check.h"
#include "protocol/conninfo.h"

typedef enum { PROVIDER_NONE, PROVIDER_RDS, PROVIDER_CLOUD_SQL, PROVIDER_AZURE } Provider;

typedef struct {
	Sql *source;
	Sql *target;
	const ConnInfo *source_info;
	const CheckOptions *options;
	Findings *findings;
	Catalog *catalog;  /* NULL when it could not be read */
	Provider provider; /* of the source */
	const char *user;  /* on the source, quoted */
	bool superuser;    /* on the source */
	Error broken;      /* ERROR_NONE while both servers answer */
} Check;

/* At most this many findings of one kind; one more says how many were left out. */
enum { CHECK_CAP = 50 };

/* NULL: the question could not be answered, which has become a finding (or broken). */
PGresult *check_ask(Check *check, Sql *sql, const char *code, const char *query);
PGresult *check_askf(Check *check, Sql *sql, const char *code, const char *fmt, ...)
	PRINTF_LIKE(4, 5);
/* One value as text in the findings' arena; NULL as above or when it is NULL. */
const char *check_value(Check *check, Sql *sql, const char *code, const char *query);
/* A setting's value in its base unit; "" when the server does not know it. */
const char *check_setting(Check *check, Sql *sql, const char *name);

/* The row whose first column is text; -1: none. */
int check_row_of(const PGresult *rows, const char *text);

/* In the findings' arena: "name" and 'text' quoted, and printf. */
const char *check_quoted(Check *check, const char *name);
const char *check_text(Check *check, const char *fmt, ...) PRINTF_LIKE(2, 3);
/* The statements of ALTER SYSTEM, or where the provider keeps the setting. */
const char *check_setting_fix(Check *check, const char *name, const char *value, bool restart);

void check_source_server(Check *check);  /* version, recovery, settings, slots, rights */
void check_source_traffic(Check *check); /* transactions, what of ours is there already */
void check_source_tables(Check *check);  /* rights, RLS, identities, what cannot move */
void check_large_objects(Check *check);
void check_source_objects(Check *check); /* triggers, publications, large objects, ... */
void check_selection(Check *check);      /* where it cuts through what belongs together */
void check_target_server(Check *check);
void check_target_contents(Check *check); /* what is in the way */
void check_both(Check *check);            /* same server, encoding, locale, extensions, roles */
void check_defaults(Check *check);        /* ALTER DATABASE and ALTER ROLE ... SET */
void check_listener(Check *check);        /* who logs in through it, and would not be let in */
void check_log_disk(Check *check);
void check_way_back(Check *check); /* what --failback asks for besides */

#endif
