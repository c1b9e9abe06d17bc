/* The ledger's part in the way back (K5). */
#include <stdio.h>
#include <stdlib.h>

#include "apply/ledger.h"
#include "common/memory.h"

void
ledger_back_name(const char *name, char out[64])
{
	snprintf(out, 64, "%s_back", name);
}

bool
ledger_way_back_create(Sql *target, const Ledger *ledger, Error *err)
{
	return sql_execf(target, err,
	                 "CREATE TABLE IF NOT EXISTS %s.way_back (one boolean PRIMARY KEY DEFAULT true"
	                 " CHECK (one), start_lsn pg_lsn);"
	                 "INSERT INTO %s.way_back (one) VALUES (true) ON CONFLICT (one) DO NOTHING",
	                 ledger->schema, ledger->schema);
}

static bool
way_back_exists(Sql *target, const Ledger *ledger, bool *exists, Error *err)
{
	const char *values[] = {ledger->name};
	PGresult *rows = sql_query_params(target, err,
	                                  "SELECT 1 FROM pg_catalog.pg_class c"
	                                  " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
	                                  " WHERE n.nspname = $1 AND c.relname = 'way_back'",
	                                  1, values);

	if (rows == NULL)
		return false;
	*exists = PQntuples(rows) > 0;
	PQclear(rows);
	return true;
}

bool
ledger_way_back_start(Sql *target, const Ledger *ledger, Lsn *start, Error *err)
{
	char text[LSN_TEXT_SIZE];
	bool exists;

	*start = LSN_INVALID;
	if (!way_back_exists(target, ledger, &exists, err))
		return false;
	if (!exists)
		return true;
	char *query = mem_printf("SELECT start_lsn FROM %s.way_back", ledger->schema);
	bool ok = sql_value(target, err, text, sizeof(text), query);
	free(query);
	if (ok && text[0] != '\0' && !lsn_parse(text, start))
		ok = error_set(err, ERROR_PROTOCOL, "%s.way_back holds \"%s\"", ledger->schema, text);
	return ok;
}

void
ledger_way_back_start_sql(const Ledger *ledger, Buffer *sql)
{
	buffer_printf(sql, "UPDATE %s.way_back SET start_lsn = pg_catalog.pg_current_wal_insert_lsn();",
	              ledger->schema);
}
