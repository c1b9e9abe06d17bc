#include "tests/integration/workload_sql.h"

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/memory.h"
#include "tests/integration/workload.h"

/* "{N}" becomes a number from 1 to N. The comment says why the line is there. */
static const char *const statements[] = {
	/* identity ALWAYS, triggers, TOAST, the reference to itself */
	"INSERT INTO shop.customer (email, note, referrer) VALUES ('n{1000000}@x', 'new {9}',"
	" (SELECT min(id) FROM shop.customer WHERE id > {200}))",
	"UPDATE shop.customer SET note = repeat('edit {99} ', {900})"
	" WHERE id = (SELECT min(id) FROM shop.customer WHERE id >= {150})",
	"UPDATE shop.customer SET level = {9} WHERE id % 10 = {9}",
	"UPDATE shop.customer SET email = NULL WHERE id = {80}",
	"WITH free AS (UPDATE shop.customer SET email = NULL WHERE id = {60} RETURNING id)"
	" SELECT * FROM free",
	"UPDATE shop.customer SET id = DEFAULT"
	" WHERE id = (SELECT min(id) FROM shop.customer WHERE id >= {100})",
	"UPDATE shop.customer SET referrer = (SELECT max(id) FROM shop.customer WHERE id < {200})"
	" WHERE id = {100}",
	"DELETE FROM shop.customer WHERE id = (SELECT max(id) FROM shop.customer WHERE id < {300})",
	"DELETE FROM shop.customer WHERE id < (SELECT max(id) - 400 FROM shop.customer)",
	/* composite key, generated column */
	"INSERT INTO shop.\"order line\" (\"Customer\", \"select\", \"a.b\", \"c\"\"d\")"
	" SELECT id, 'art {9}', {99}, NULL FROM shop.customer WHERE id % 7 = {7}"
	" ON CONFLICT (\"select\", \"Customer\") DO UPDATE SET price = EXCLUDED.\"a.b\" + {50}",
	"UPDATE shop.\"order line\" SET \"select\" = 'moved {30}' WHERE \"Customer\" = {90}"
	" AND \"select\" = 'art {5}'",
	"UPDATE shop.\"order line\" SET \"a.b\" = \"a.b\" + 1 WHERE \"Customer\" = {90}",
	"DELETE FROM shop.\"order line\" WHERE \"Customer\" = {90} AND \"a.b\" % 3 = 0",
	/* circles */
	"SELECT shop.new_team({30})",
	"UPDATE shop.player SET team = (SELECT max(id) FROM shop.team WHERE id < {200}) WHERE id = "
	"{90}",
	"UPDATE shop.team SET captain = (SELECT max(id) FROM shop.player WHERE id < {99})"
	" WHERE id = (SELECT max(id) FROM shop.team WHERE id < {200})",
	"DELETE FROM shop.player WHERE id = {90}",
	"DELETE FROM shop.team WHERE id = {120}",
	/* unique values that change places */
	"UPDATE shop.board SET pos = 31 - pos",
	"UPDATE shop.board SET pos = CASE WHEN pos = 1 THEN 30 ELSE pos - 1 END",
	"WITH p AS (SELECT {30} AS a, {30} AS b) UPDATE shop.board SET pos = a + b - pos FROM p"
	" WHERE pos IN (a, b)",
	"UPDATE shop.board SET id = id + 100, who = 'moved' WHERE id = {30}",
	"UPDATE shop.board SET id = id - 100 WHERE id = {30} + 100",
	"SELECT shop.swap_tag({30}, {30})",
	"SELECT shop.swap_tag({30}, {30})",
	"UPDATE shop.wander SET \"Größe\" = 'G{40}' WHERE id = {30}",
	"UPDATE shop.wander SET id = -id WHERE id = {30}",
	"UPDATE shop.wander SET id = -id WHERE id = -{30}",
	"SELECT shop.swap_booking({40}, {40})",
	"UPDATE shop.booking SET during = int4range(lower(during), lower(during) + {9}) WHERE id = "
	"{40}",
	"UPDATE shop.key_deferred SET id = 21 - id",
	"UPDATE shop.key_deferred SET v = 'v{9}' WHERE id = {20}",
	/* no key, duplicates */
	"INSERT INTO shop.no_key SELECT {3}, 'n', '{\"b\": {3}}', point({2}, '-0'), '<y>{2}</y>'"
	" FROM generate_series(1, {3})",
	"UPDATE shop.no_key SET b = 'u{3}' WHERE ctid ="
	" (SELECT ctid FROM shop.no_key ORDER BY ctid OFFSET {60} LIMIT 1)",
	"UPDATE shop.no_key SET c = '[{3}]', p = NULL WHERE a = {3} AND b = 'u{3}'",
	"DELETE FROM shop.no_key WHERE ctid ="
	" (SELECT ctid FROM shop.no_key ORDER BY ctid OFFSET {60} LIMIT 1)",
	"INSERT INTO shop.no_identity VALUES ({3}, 1.0, '0'), ({3}, 1.00, '-0'), (NULL, NULL, 'NaN')",
	"UPDATE shop.no_identity SET a = {3} WHERE ctid ="
	" (SELECT ctid FROM shop.no_identity ORDER BY ctid OFFSET {20} LIMIT 1)",
	"DELETE FROM shop.no_identity WHERE ctid ="
	" (SELECT ctid FROM shop.no_identity ORDER BY ctid OFFSET {9} LIMIT 1)",
	"DELETE FROM shop.no_identity WHERE ctid <"
	" (SELECT ctid FROM shop.no_identity ORDER BY ctid OFFSET 99 LIMIT 1)",
	"INSERT INTO shop.identity_nothing VALUES ({9}, 'x'), ({9}, NULL)",
	"INSERT INTO shop.nothing_in_it DEFAULT VALUES",
	/* keys that are not the primary key, or not numbers */
	"UPDATE shop.by_index SET code = code + 100 WHERE code = {30}",
	"UPDATE shop.by_index SET code = code - 100, v = 'w{9}' WHERE code = {30} + 100",
	"UPDATE shop.by_index SET \"Land\" = CASE \"Land\" WHEN 'DE' THEN 'FR' ELSE 'DE' END"
	" WHERE code = {30}",
	"UPDATE shop.by_index SET id = -id WHERE abs(id) = {30}",
	"UPDATE shop.odd_key SET v = v + 1 WHERE arr[1] = {20}",
	"UPDATE shop.odd_key SET f = CASE WHEN f = 'NaN' THEN '-0'::float ELSE 'NaN' END, size = 'l'"
	" WHERE arr[1] = {20}",
	"UPDATE shop.odd_key SET arr = arr || NULL::integer WHERE arr[1] = {20}"
	" AND array_length(arr, 1) < 5",
	/* large values that stay, large values that change, keys that move with them */
	"UPDATE shop.document SET version = version + 1 WHERE id % 20 = {20} - 1",
	"UPDATE shop.document SET body = repeat(md5('{99}'), {400}) WHERE id % 20 = {20} - 1",
	"UPDATE shop.document SET id = id + 20 WHERE id % 20 = {20} - 1",
	"UPDATE shop.document SET body = NULL, version = 0 WHERE id % 20 = {20} - 1",
	"UPDATE shop.document_full SET version = version + 1 WHERE id = {8}",
	"UPDATE shop.document_full SET body = body || '{9}' WHERE id = {8} AND version % 5 = 0",
	"DELETE FROM shop.document_full WHERE id = {8} AND version > 20",
	"INSERT INTO shop.document_full SELECT * FROM shop.document WHERE id = {20}",
	/* partitions, inheritance */
	"INSERT INTO shop.event VALUES ({100000}, chr(96 + {4}), date '2025-06-01' + {900}, 'new')",
	"UPDATE shop.event SET at = at + {300} - 150 WHERE id = {200}",
	"UPDATE shop.event SET kind = chr(96 + {4}), v = 'k' WHERE id = {200}",
	"UPDATE shop.event SET v = 'v{99}' WHERE id % 50 = {50}",
	"DELETE FROM shop.event WHERE id = (SELECT min(id) FROM shop.event WHERE id > {1000})",
	"UPDATE shop.hashed SET k = {9} WHERE ctid = (SELECT min(ctid::text)::tid FROM shop.hashed)",
	"INSERT INTO shop.hashed VALUES ({9}, 'h')",
	"UPDATE shop.animal SET name = 'n{99}' WHERE id = {20}",
	"UPDATE ONLY shop.animal SET id = -id WHERE abs(id) = {10}",
	"INSERT INTO shop.animal SELECT {10}, 'new' ON CONFLICT DO NOTHING",
	"DELETE FROM shop.dog WHERE id = {9} + 11",
	"INSERT INTO shop.dog VALUES ({9} + 11, 'again', 'b{9}') ON CONFLICT DO NOTHING",
	/* rules, views, policies, names */
	"UPDATE shop.ruled SET v = 'r{9}' WHERE id = {10}",
	"UPDATE shop.ruled_view SET v = 'v{9}' WHERE id = {10}",
	"UPDATE shop.secret SET v = 's{9}' WHERE id = {10}",
	"UPDATE \"Ünï \"\"schema\"\" .x\".\"таблица с пробелом\" SET \"столбец\"\"1\"\"\" = 'é{9}',"
	" \"%s {}'\\\" = NULL WHERE \"ключ\" = {10}",
	"INSERT INTO \"Ünï \"\"schema\"\" .x\".\"nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn"
	"nnnnnnnnn\" (v) VALUES ('{9}')",
	"UPDATE \"table\" SET \"TRUNCATE\" = '', \"ctid_\" = NULL WHERE \"primary\" = {10}",
	"UPDATE \"table\" SET \"ctid_\" = '{9}' WHERE \"primary\" = {10}",
	"INSERT INTO shop.scratch VALUES ({1000}, 'x') ON CONFLICT DO NOTHING",
	/* sequences; an INSERT, for the fence does not keep anybody from calling nextval alone */
	"INSERT INTO hist.drawn VALUES (nextval('shop.down'), nextval('shop.round'),"
	" nextval('shop.cached'))",
	/* sub-transactions */
	"SELECT shop.nested({5}, {1000})",
	"SELECT shop.nested({3}, {1000})",
};

/* One of these in so many statements. */
enum { RARE = 150 };
static const char *const rare_statements[] = {
	"TRUNCATE shop.no_identity",
	"TRUNCATE shop.event_2026_ab",
	"TRUNCATE ONLY shop.animal",
	"TRUNCATE shop.hashed, shop.secret, hist.ruled RESTART IDENTITY",
	"TRUNCATE shop.team CASCADE",
	"TRUNCATE shop.no_key; INSERT INTO shop.no_key VALUES ({3}, 'after', NULL, NULL, NULL)",
	"DELETE FROM shop.no_key",
	"DELETE FROM shop.identity_nothing",
	("INSERT INTO shop.secret SELECT g, 'x', 'again' FROM generate_series({20}, 20) g"
     " ON CONFLICT (id) DO UPDATE SET v = 'upsert'"),
	"INSERT INTO shop.no_identity SELECT g % 3, g % 5, 0.5 FROM generate_series(1, 1000) g",
	"UPDATE shop.event SET v = v || '{9}'",
	"INSERT INTO shop.empty SELECT md5(random()::text)::uuid FROM generate_series(1, 500)",
};

typedef struct {
	char *name; /* "t3" */
	char **columns;
	size_t count;
} TypeTable;

struct SqlSource {
	TypeTable *tables;
	size_t count;
};

char *
sql_fill(const char *text, uint64_t *random)
{
	Buffer out = BUFFER_INIT;
	char *after;

	for (; *text != '\0'; text++) {
		if (*text == '{') {
			unsigned long n = strtoul(text + 1, &after, 10);
			if (after != text + 1 && *after == '}') {
				buffer_printf(&out, "%llu", (unsigned long long)(1 + random_below(random, n)));
				text = after;
				continue;
			}
		}
		buffer_put_u8(&out, (uint8_t)*text);
	}
	return buffer_cstr(&out);
}

/* ---- the tables of types.sql ---- */

static void
add_column(SqlSource *sql, const char *table, const char *column)
{
	TypeTable *t = sql->count > 0 ? &sql->tables[sql->count - 1] : NULL;

	if (t == NULL || strcmp(t->name, table) != 0) {
		sql->tables = mem_realloc(sql->tables, (sql->count + 1) * sizeof(TypeTable));
		t = &sql->tables[sql->count++];
		*t = (TypeTable){.name = mem_strdup(table)};
	}
	t->columns = mem_realloc(t->columns, (t->count + 1) * sizeof(char *));
	t->columns[t->count++] = mem_strdup(column);
}

SqlSource *
sql_source_new(PGconn *conn, bool types)
{
	SqlSource *sql = mem_zalloc(sizeof(SqlSource));

	if (!types)
		return sql;
	PGresult *res = PQexec(
		conn, "SELECT c.relname, quote_ident(a.attname) FROM pg_attribute a"
			  " JOIN pg_class c ON c.oid = a.attrelid"
			  " WHERE c.relnamespace = 'types'::regnamespace AND c.relname ~ '^t[0-9]+$'"
			  " AND a.attnum > 1 ORDER BY 1, 2");
	ck_assert_msg(PQntuples(res) > 0, "no tables of types.sql: %s", PQerrorMessage(conn));
	for (int i = 0; i < PQntuples(res); i++)
		add_column(sql, PQgetvalue(res, i, 0), PQgetvalue(res, i, 1));
	PQclear(res);
	return sql;
}

void
sql_source_free(SqlSource *sql)
{
	for (size_t t = 0; t < sql->count; t++) {
		for (size_t c = 0; c < sql->tables[t].count; c++)
			free(sql->tables[t].columns[c]);
		free(sql->tables[t].columns);
		free(sql->tables[t].name);
	}
	free(sql->tables);
	free(sql);
}

/* About one column of `one_of`, at least one. */
static char *
choose_columns(const TypeTable *t, uint64_t *random, uint64_t one_of)
{
	Buffer out = BUFFER_INIT;
	size_t first = random_below(random, t->count);

	buffer_put_text(&out, t->columns[first]);
	for (size_t c = 0; c < t->count; c++)
		if (c != first && random_below(random, one_of) == 0)
			buffer_printf(&out, ", %s", t->columns[c]);
	return buffer_cstr(&out);
}

/* Values come from the rows 1 to 10, which hold the samples and stay. %1$s: the
 * table's number, %2$s: some columns, %3$s: all of them. */
static char *
types_statement(const SqlSource *sql, uint64_t *random)
{
	static const char *const templates[] = {
		"UPDATE types.t%1$s SET (%2$s) = (SELECT %2$s FROM types.t%1$s WHERE id = {10})"
		" WHERE id = (SELECT min(id) FROM types.t%1$s WHERE id > 999 + {60})",
		"INSERT INTO types.t%1$s (%3$s) SELECT %3$s FROM types.t%1$s WHERE id = {10}",
		"INSERT INTO types.t%1$s (%2$s) SELECT %2$s FROM types.t%1$s WHERE id > 10 AND id % 7 = 0"
		" LIMIT 5",
		"DELETE FROM types.t%1$s WHERE id > 10 AND id % 9 = {9}",
		"UPDATE types.full%1$s SET (%2$s) = (SELECT %2$s FROM types.t%1$s WHERE id = {10})"
		" WHERE ctid = (SELECT ctid FROM types.full%1$s ORDER BY ctid OFFSET {12} LIMIT 1)",
		"INSERT INTO types.full%1$s (%3$s) SELECT %3$s FROM types.t%1$s WHERE id = {10}",
		"DELETE FROM types.full%1$s WHERE ctid ="
		" (SELECT ctid FROM types.full%1$s ORDER BY ctid OFFSET {12} LIMIT 1)",
	};
	const TypeTable *t = &sql->tables[random_below(random, sql->count)];
	const char *text = templates[random_below(random, sizeof(templates) / sizeof(templates[0]))];
	char *some = choose_columns(t, random, 4);
	char *all = choose_columns(t, random, 1);
	Buffer out = BUFFER_INIT;

	for (const char *at = text; *at != '\0'; at++) {
		bool hole = at[0] == '%' && at[1] >= '1' && at[1] <= '3' && strncmp(at + 2, "$s", 2) == 0;
		if (!hole) {
			buffer_put_u8(&out, (uint8_t)*at);
			continue;
		}
		buffer_put_text(&out, at[1] == '1' ? t->name + 1 : at[1] == '2' ? some : all);
		at += 3;
	}
	char *filled = sql_fill(buffer_cstr(&out), random);
	buffer_free(&out);
	free(all);
	free(some);
	return filled;
}

char *
sql_source_next(const SqlSource *sql, uint64_t *random)
{
	if (sql->count > 0 && random_below(random, 4) == 0)
		return types_statement(sql, random);
	if (random_below(random, RARE) == 0)
		return sql_fill(rare_statements[random_below(random, sizeof(rare_statements) /
		                                                         sizeof(rare_statements[0]))],
		                random);
	return sql_fill(statements[random_below(random, sizeof(statements) / sizeof(statements[0]))],
	                random);
}
