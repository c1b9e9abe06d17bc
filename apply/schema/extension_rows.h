/*
 * extension_rows.h: rows that users added to tables which an extension made.
 *
 * pg_dump's rule: a table or sequence that the extension has registered
 * (pg_extension_config_dump) is data of the database, less what the registered condition
 * leaves to the extension's own script. Such tables are members of their extension, so
 * that neither the catalogue nor the publication has them: they come once, with the
 * definitions, and what is written to them afterwards is not followed.
 */
#ifndef PGBATON_APPLY_SCHEMA_EXTENSION_ROWS_H
#define PGBATON_APPLY_SCHEMA_EXTENSION_ROWS_H

#include "apply/schema/schema.h"

/* After pre-data has made the extensions; a step that is done once. Nothing where tables
 * or schemas are included by name: then extensions are not dumped either. */
MUST_CHECK bool extension_rows_copy(const SchemaWork *work, Error *err);

#endif
