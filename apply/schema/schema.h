/*
 * schema.h: definitions, by PostgreSQL's own pg_dump and pg_restore.
 *
 * One dump (custom format, --schema-only, taken once into the state directory),
 * restored in parts: here what comes before the rows and after everything; indexes and
 * keys are build.h's. Passwords reach the children by environment only.
 * pg_dump must be at least the source's major version; found on PATH and in the
 * usual places (/usr/lib/postgresql/N/bin, /usr/pgsql-N/bin, /opt/...), the newest wins.
 */
#ifndef PGBATON_APPLY_SCHEMA_SCHEMA_H
#define PGBATON_APPLY_SCHEMA_SCHEMA_H

#include "apply/catalog/catalog.h"
#include "apply/ledger.h"
#include "apply/sql.h"
#include "common/stop.h"
#include "protocol/conninfo.h"

/* What the first call that needs the archive found out; kept by the caller for the others. */
typedef struct {
	bool known;
	char pg_dump[512];
	char pg_restore[512];
	bool no_owner;         /* asked for, or an owner is not on the target */
	bool no_privileges;    /* a grantee is not on the target */
	bool no_tablespaces;   /* a tablespace is not on the target */
	struct PostData *post; /* the archive's post-data, read once (archive.c) */
} SchemaTools;

typedef struct {
	const ConnInfo *source;
	const ConnInfo *target;
	SchemaTools *tools; /* NULL: found out each time */
	Sql *target_sql;
	const Ledger *ledger;
	const Catalog *catalog;
	const char *state_dir; /* holds schema.dump, 0600 */
	/* Of tables that are added (apart): their number, with an archive of their own,
	 * schema-N.dump; 0: everything. before: the catalogue without them, for the dump. */
	int addition;
	bool apart; /* the tables that are apart, and no others, get indexes now (build.h) */
	const Catalog *before;
	const Selection *selection;
	int jobs;
	uint64_t maintenance_bytes; /* memory of each of jobs; 0: by the target's (build.c) */
	bool no_owner;
	bool no_privileges;
	bool no_security_labels;
	const Stop *stop;
} SchemaWork;

/* What it keeps; all zero is fine. */
void schema_tools_free(SchemaTools *tools);
/* ERROR_CONFIG naming the versions when no pg_dump is new enough. */
MUST_CHECK bool schema_find_tools(int source_version, char *pg_dump, char *pg_restore, size_t size,
                                  Error *err);
/* Takes the dump, once: to be called before replica identities are changed on the source,
 * which would otherwise be the target's too. schema_pre_data calls it if nobody has. */
MUST_CHECK bool schema_dump(const SchemaWork *work, Error *err);
/* Restores the pre-data section, with the rows of extensions' tables. An object in the way is an error that names
 * it, and nothing is left half made (one transaction). Done once (ledger step). */
MUST_CHECK bool schema_pre_data(const SchemaWork *work, Error *err);
/* One or several statements as one transaction. */
MUST_CHECK bool schema_text_run(Sql *sql, const char *text, Error *err);
/* Of an addition: dumps its tables and appends what creates them, for the transaction that
 * records the addition. */
MUST_CHECK bool schema_addition(const SchemaWork *work, Buffer *sql, Error *err);
/* The step that is recorded when all of addition N is made. */
void schema_addition_end(int addition, char step[400]);
/* What is left: foreign keys (NOT VALID first, then validated), triggers, rules, policies,
 * event triggers, publications no. apply is paused by the caller around
 * schema_rest_locking (short locks); schema_rest_validate runs beside the apply, on jobs
 * sessions but never two for one large table, and
 * retries a validation that met a state between two lanes' commits. */
MUST_CHECK bool schema_rest_locking(const SchemaWork *work, Error *err);
MUST_CHECK bool schema_rest_validate(const SchemaWork *work, Error *err);

#endif
