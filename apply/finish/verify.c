#include <stdio.h>
#include <string.h>

#include "apply/schema/target.h"
#include "protocol/replication.h"

enum { NAMED_MAX = 10 };

/* One table's answer from one side. */
typedef struct {
	char count[32];
	char sum[64];
} Digest;

static bool
same_encoding(Sql *source, Sql *target)
{
	const char *a = PQparameterStatus(sql_pgconn(source), "server_encoding");
	const char *b = PQparameterStatus(sql_pgconn(target), "server_encoding");

	return a != NULL && b != NULL && strcmp(a, b) == 0;
}

/* By name in the source's order; a generated column is computed from the others, but on
 * both sides by its own server, so it is left out as in the copy. */
static void
put_row_text(Buffer *sql, const Table *table)
{
	const char *separator = "";

	buffer_put_text(sql, "ROW(");
	for (int i = 0; i < table->column_count; i++) {
		if (table->columns[i].generated)
			continue;
		buffer_put_text(sql, separator);
		sql_put_identifier(sql, table->columns[i].name);
		buffer_put_text(sql, "::pg_catalog.text");
		separator = ", ";
	}
	buffer_put_text(sql, ")::pg_catalog.text");
}

/* The sum of 64 bits of each row's MD5: independent of the order, and, unlike xor, it
 * sees a row that is there twice. md5() hashes the server's own encoding, hence the
 * conversion where the two differ. sum(bigint) is numeric: it cannot overflow. */
static void
put_query(Buffer *sql, const Table *table, VerifyKind kind, bool convert)
{
	if (kind == VERIFY_COUNTS) {
		buffer_printf(sql, "SELECT pg_catalog.count(*), 0 FROM ONLY %s", table->qualified);
		return;
	}
	buffer_put_text(sql, "SELECT pg_catalog.count(*), COALESCE(pg_catalog.sum(('x' ||"
	                     " pg_catalog.substr(pg_catalog.md5(");
	buffer_put_text(sql, convert ? "pg_catalog.convert_to(" : "");
	put_row_text(sql, table);
	buffer_put_text(sql, convert ? ", 'UTF8')" : "");
	buffer_printf(sql, "), 1, 16))::pg_catalog.bit(64)::pg_catalog.int8), 0) FROM ONLY %s",
	              table->qualified);
}

static void
take_row(const PGresult *result, Digest *out)
{
	if (PQntuples(result) != 1)
		return;
	snprintf(out->count, sizeof(out->count), "%s", PQgetvalue(result, 0, 0));
	snprintf(out->sum, sizeof(out->sum), "%s", PQgetvalue(result, 0, 1));
}

/* Always to the end, also after an error: the session is used again. */
static bool
read_digest(Sql *sql, Digest *out, Error *err)
{
	bool ok = true;

	for (;;) {
		PGresult *result = NULL;
		if (!sql_next_result(sql, &result, ok ? err : NULL))
			return false;
		if (result == NULL)
			break;
		if (PQresultStatus(result) == PGRES_TUPLES_OK)
			take_row(result, out);
		else if (ok)
			ok = sql_error_of(sql, result, err);
		PQclear(result);
	}
	if (ok && out->count[0] == '\0')
		ok = error_set(err, ERROR_PROTOCOL, "no row in the answer of the %s", sql_side(sql));
	return ok;
}

static bool
send_query(Sql *sql, const char *text, Error *err)
{
	return PQsendQuery(sql_pgconn(sql), text) || sql_error_of(sql, NULL, err);
}

/* Both servers work at the same time. */
static bool
ask_both(Sql *source, Sql *target, const char *text, Digest *from, Digest *to, Error *err)
{
	Error second = ERROR_INIT;

	if (!send_query(source, text, err))
		return false;
	bool sent = send_query(target, text, &second);
	bool ok = read_digest(source, from, err);
	bool target_ok = sent && read_digest(target, to, &second);
	if (ok && !target_ok)
		*err = second;
	return ok && target_ok;
}

/* True in *same when the table is equal; else its error is set. */
static bool
verify_table(Sql *source, Sql *target, Catalog *catalog, Table *table, VerifyKind kind, bool *same,
             Error *err)
{
	Digest from = {{0}, {0}};
	Digest to = {{0}, {0}};
	Buffer sql = BUFFER_INIT;

	put_query(&sql, table, kind, !same_encoding(source, target));
	bool ok = ask_both(source, target, buffer_cstr(&sql), &from, &to, err);
	buffer_free(&sql);
	if (!ok)
		return error_add_context(err, "comparing %s.%s", table->schema, table->name);

	bool counts = strcmp(from.count, to.count) == 0;
	*same = counts && strcmp(from.sum, to.sum) == 0;
	if (*same)
		return true;
	Error different = ERROR_INIT;
	if (counts)
		error_set(&different, ERROR_DIVERGENCE, "%s rows on both sides, but not the same ones",
		          from.count);
	else
		error_set(&different, ERROR_DIVERGENCE, "%s rows on the source, %s on the target",
		          from.count, to.count);
	table_set_error(catalog, table, &different);
	return true;
}

static bool
report(size_t different, const Buffer *names, Error *err)
{
	if (different == 0)
		return true;
	return error_set(err, ERROR_DIVERGENCE, "%zu tables are not the same on both sides: %.*s%s",
	                 different, (int)names->len, (const char *)names->data,
	                 different > NAMED_MAX ? ", ..." : "");
}

bool
verify_tables(Sql *source, Sql *target, Catalog *catalog, VerifyKind kind, bool marked, Error *err)
{
	Buffer names = BUFFER_INIT;
	size_t different = 0;
	/* money's text follows the locale. */
	bool ok = sql_exec(source, err, "SET lc_monetary = 'C'") &&
	          sql_exec(target, err, "SET lc_monetary = 'C'");

	for (size_t i = 0; ok && i < catalog->table_count; i++) {
		Table *table = &catalog->tables[i];
		bool same = true;

		/* Behind while following; at the cutover copied under the very locks. */
		if (table->persistence == 'u' || (marked && !atomic_load(&table->marked)))
			continue;
		ok = verify_table(source, target, catalog, table, kind, &same, err);
		if (ok && !same && different++ < NAMED_MAX)
			buffer_printf(&names, "%s%s.%s", names.len > 0 ? ", " : "", table->schema, table->name);
	}
	ok = ok && report(different, &names, err);
	buffer_free(&names);
	return ok;
}
