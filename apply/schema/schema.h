/*
 * schema.h: definitions, by PostgreSQL's own pg_dump and pg_restore.
 *
 * One dump (custom format, --schema-only, taken once into the state directory),
 * restored in parts. Passwords reach the children by environment only.
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

typedef struct {
	const ConnInfo *source;
	const ConnInfo *target;
	Sql *target_sql;
	const Ledger *ledger;
	const Catalog *catalog;
	const char *state_dir; /* holds schema.dump, 0600 */
	const Selection *selection;
	int jobs;
	bool no_owner;
	bool no_privileges;
	const Stop *stop;
} SchemaWork;

/* ERROR_CONFIG naming the versions when no pg_dump is new enough. */
MUST_CHECK bool schema_find_tools(int source_version, char *pg_dump, char *pg_restore, size_t size,
                                  Error *err);
/* Takes the dump, once: to be called before replica identities are changed on the source,
 * which would otherwise be the target's too. schema_pre_data calls it if nobody has. */
MUST_CHECK bool schema_dump(const SchemaWork *work, Error *err);
/* Restores the pre-data section, with the rows of extensions' tables. An object in the way is an error that names
 * it, and nothing is left half made (one transaction). Done once (ledger step). */
MUST_CHECK bool schema_pre_data(const SchemaWork *work, Error *err);
/* Indexes, primary keys, unique and exclusion constraints, statistics; each step recorded,
 * so that a crash repeats only the one in flight. Before changes are applied (C4). */
MUST_CHECK bool schema_indexes(const SchemaWork *work, Error *err);
/* What is left: foreign keys (NOT VALID first, then validated), triggers, rules, policies,
 * event triggers, publications no. apply is paused by the caller around
 * schema_rest_locking (short locks); schema_rest_validate runs beside the apply and
 * retries a validation that met a state between two lanes' commits. */
MUST_CHECK bool schema_rest_locking(const SchemaWork *work, Error *err);
MUST_CHECK bool schema_rest_validate(const SchemaWork *work, Error *err);

#endif
