/*
 * The catalogue: selection, keys, types, what is left out, matching, DDL seen.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "apply/catalog/catalog.h"
#include "apply/catalog/pattern.h"
#include "tests/harness/skip.h"
#include "tests/unit/apply/servers.h"
#include "tests/unit/runner.h"

static Cluster *cluster;

static void
start(void)
{
	cluster = servers_start(0, NULL);
}

static void
stop(void)
{
	cluster_free(cluster);
}

/* ---- patterns ---- */

static PGconn *matcher;

static bool
server_matches(const char *regex, const char *text)
{
	const char *values[] = {text, regex};
	PGresult *result = PQexecParams(matcher, "SELECT $1::text ~ $2", 2, NULL, values, NULL, NULL,
	                                0);

	ck_assert_msg(PQntuples(result) == 1, "'%s': %s", regex, PQresultErrorMessage(result));
	bool matched = PQgetvalue(result, 0, 0)[0] == 't';
	PQclear(result);
	return matched;
}

static bool
matches(const char *pattern, const char *schema, const char *name)
{
	Error err = ERROR_INIT;
	Buffer schemas = BUFFER_INIT;
	Buffer names = BUFFER_INIT;

	ASSERT_OK(pattern_to_regex(pattern, &schemas, &names, &err));
	ck_assert(pattern_has_schema(pattern) == (schemas.len > 0));
	bool result = (schemas.len == 0 || server_matches(buffer_cstr(&schemas), schema)) &&
	              server_matches(buffer_cstr(&names), name);
	buffer_free(&schemas);
	buffer_free(&names);
	return result;
}

START_TEST(patterns_follow_pg_dump)
{
	matcher = db_connect(cluster, "postgres");
	ck_assert(matches("orders", "any", "orders"));
	ck_assert(matches("ORDERS", "any", "orders"));
	ck_assert(!matches("\"ORDERS\"", "any", "orders"));
	ck_assert(matches("\"ORDERS\"", "any", "ORDERS"));
	ck_assert(matches("public.*", "public", "x"));
	ck_assert(matches("public.*", "public", "x.y"));
	ck_assert(!matches("public.*", "public2", "x"));
	ck_assert(matches("p*.or?er*", "pub", "orders"));
	ck_assert(!matches("or?", "public", "or"));
	ck_assert(matches("\xc3\x84?", "s", "\xc3\x84\xc3\x96"));
	ck_assert(!matches("\"a*\"", "s", "ab"));
	ck_assert(matches("\"a*\"", "s", "a*"));
	ck_assert(matches("\"a.b\"", "s", "a.b"));
	ck_assert(matches("\"a\"\"b\"", "s", "a\"b"));
	ck_assert(matches("FOO\"FOO\"bar", "s", "fooFOObar"));
	ck_assert(matches("*a*a*b", "s", "aaaaaaaaab"));
	ck_assert(!matches("*a*a*b", "s", "aaaaaaaaac"));
	ck_assert(matches("*", "s", ""));
	ck_assert(matches("event_20[12]?", "s", "event_201x"));
	ck_assert(!matches("event_20[12]?", "s", "event_2030"));
	ck_assert(matches("(a|b)c+", "s", "bcc"));
	ck_assert(!matches("\"(a|b)c+\"", "s", "bcc"));
	ck_assert(matches("\"(a|b)c+\"", "s", "(a|b)c+"));
	ck_assert(matches("a$b", "s", "a$b"));
	ck_assert(!matches("a$", "s", "a"));
	ck_assert(matches("x[]", "s", "x[]"));
	ck_assert(matches("\"\\^.[]{}$|\"", "s", "\\^.[]{}$|"));
	ck_assert(!matches("a|ab", "s", "xab")); /* anchored around the whole */
	PQfinish(matcher);
}
END_TEST

START_TEST(bad_patterns_are_refused)
{
	const char *bad[] = {"", "a.b.c", "\"a", ".a", "a.", "\"\""};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		Error err = ERROR_INIT;
		Buffer schema = BUFFER_INIT;
		Buffer name = BUFFER_INIT;
		ck_assert_msg(!pattern_to_regex(bad[i], &schema, &name, &err), "'%s'", bad[i]);
		ck_assert_int_eq(err.class, ERROR_CONFIG);
		buffer_free(&schema);
		buffer_free(&name);
	}
}
END_TEST

START_TEST(selections_are_compared)
{
	const char *some[] = {"b", "a", "a"};
	const char *other[] = {"a", "c.*"};
	Selection was = {.lists = {[INCLUDE_TABLE] = {some, 3}, [EXCLUDE_DATA] = {some, 1}}};
	Selection is = {.lists = {[INCLUDE_TABLE] = {other, 2}}};
	Selection all = {0};
	Buffer texts[3] = {BUFFER_INIT, BUFFER_INIT, BUFFER_INIT};
	Buffer difference = BUFFER_INIT;

	selection_describe(&was, &texts[0]);
	selection_describe(&is, &texts[1]);
	selection_describe(&all, &texts[2]);
	ck_assert_str_eq(buffer_cstr(&texts[0]),
	                 "include-table a\ninclude-table b\nexclude-table-data b\n");
	ck_assert_str_eq(buffer_cstr(&texts[2]), "");
	ck_assert(selection_is_all(&all) && !selection_is_all(&is));
	selection_difference(buffer_cstr(&texts[0]), buffer_cstr(&texts[0]), &difference);
	ck_assert_uint_eq(difference.len, 0);
	selection_difference(buffer_cstr(&texts[0]), buffer_cstr(&texts[1]), &difference);
	ck_assert_str_eq(buffer_cstr(&difference),
	                 "without --include-table b, without --exclude-table-data b, with "
	                 "--include-table c.*");
	buffer_reset(&difference);
	selection_difference(buffer_cstr(&texts[2]), buffer_cstr(&texts[1]), &difference);
	ck_assert_str_eq(buffer_cstr(&difference), "with --include-table a, with --include-table c.*");
	Selection asked = {.large_objects = LARGE_OBJECTS_COPY};
	Selection skipped = {.large_objects = LARGE_OBJECTS_SKIP};
	ck_assert(selection_is_all(&asked) && !selection_is_all(&skipped));
	buffer_reset(&texts[0]);
	selection_describe(&skipped, &texts[0]);
	ck_assert_str_eq(buffer_cstr(&texts[0]), "large-objects skip\n");
	is.large_objects = LARGE_OBJECTS_COPY;
	ck_assert(selection_large_objects(&is) && !selection_large_objects(&was));
	for (int i = 0; i < 3; i++)
		buffer_free(&texts[i]);
	buffer_free(&difference);
}
END_TEST

/* ---- tables and keys ---- */

static const Column *
column(const Table *table, const char *name)
{
	for (int i = 0; i < table->column_count; i++) {
		if (strcmp(table->columns[i].name, name) == 0)
			return &table->columns[i];
	}
	ck_abort_msg("no column %s", name);
	return NULL;
}

static const Table *
table_of(const Catalog *catalog, const char *name)
{
	const Table *table = catalog_find(catalog, "public", name);

	ck_assert_msg(table != NULL, "no table %s", name);
	return table;
}

START_TEST(keys_are_what_pgoutput_takes)
{
	servers_clean(cluster);
	PGconn *conn = db_connect(cluster, "source");
	db_exec(
		conn,
		"CREATE TABLE pk (junk int, b int, a int, PRIMARY KEY (a, b));"
		"ALTER TABLE pk DROP COLUMN junk;"
		"CREATE TABLE late (a int PRIMARY KEY DEFERRABLE);"
		"CREATE TABLE none (a int);"
		"CREATE TABLE alone (a int NOT NULL UNIQUE);"
		"CREATE TABLE by_index (a int NOT NULL, b int);"
		"CREATE UNIQUE INDEX by_index_i ON by_index (a) INCLUDE (b);"
		"ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_i;"
		"CREATE TABLE lost_index (a int NOT NULL, b int PRIMARY KEY);"
		"CREATE UNIQUE INDEX lost_i ON lost_index (a);"
		"ALTER TABLE lost_index REPLICA IDENTITY USING INDEX lost_i; DROP INDEX lost_i;"
		"CREATE TABLE whole (a int PRIMARY KEY); ALTER TABLE whole REPLICA IDENTITY FULL;"
		"CREATE TABLE nothing (a int PRIMARY KEY); ALTER TABLE nothing REPLICA IDENTITY NOTHING;"
		"CREATE UNLOGGED TABLE unlogged (a int); CREATE TEMP TABLE temporary (a int)");
	Sql *source = servers_open(cluster, "source");
	Catalog *catalog = servers_catalog(source);

	ck_assert_uint_eq(catalog->table_count, 9);
	const Table *pk = table_of(catalog, "pk");
	ck_assert_int_eq(pk->key, KEY_INDEX);
	ck_assert_str_eq(pk->key_index, "pk_pkey");
	ck_assert_int_eq(pk->key_count, 2);
	ck_assert_str_eq(pk->columns[pk->key_columns[0]].name, "a");
	ck_assert_str_eq(pk->columns[pk->key_columns[1]].name, "b");
	ck_assert_str_eq(pk->qualified, "\"public\".\"pk\"");
	ck_assert(!pk->key_needs_full);
	ck_assert(table_of(catalog, "late")->key_needs_full);
	ck_assert(table_of(catalog, "none")->key_needs_full);
	ck_assert(table_of(catalog, "lost_index")->key_needs_full);
	ck_assert(table_of(catalog, "nothing")->key_needs_full);
	const Table *by_index = table_of(catalog, "by_index");
	ck_assert_int_eq(by_index->key, KEY_INDEX);
	ck_assert_int_eq(by_index->key_count, 1);
	ck_assert_str_eq(by_index->key_index, "by_index_i");
	ck_assert_int_eq(table_of(catalog, "whole")->key, KEY_FULL);
	ck_assert(!table_of(catalog, "whole")->key_needs_full);
	ck_assert(!table_of(catalog, "unlogged")->key_needs_full);
	ck_assert_int_eq(table_of(catalog, "unlogged")->persistence, 'u');
	ck_assert_uint_eq(catalog->unlogged_tables, 1);
	catalog_free(catalog);
	sql_close(source);
	PQfinish(conn);
}
END_TEST

START_TEST(what_is_not_ours_is_left_out)
{
	servers_clean(cluster);
	PGconn *conn = db_connect(cluster, "source");
	db_exec(
		conn,
		"CREATE SCHEMA pgbaton; CREATE TABLE pgbaton.marker (id int);"
		"CREATE SCHEMA other; COMMENT ON SCHEMA other IS 'pgbaton migration, format 1';"
		"CREATE TABLE other.progress (id int);"
		"CREATE TABLE mine (id serial PRIMARY KEY);"
		"CREATE TABLE owned (id int); CREATE SEQUENCE owned_s;"
		"ALTER EXTENSION plpgsql ADD TABLE owned; ALTER EXTENSION plpgsql ADD SEQUENCE owned_s");
	Sql *source = servers_open(cluster, "source");
	Catalog *catalog = servers_catalog(source);

	ck_assert_uint_eq(catalog->table_count, 1);
	ck_assert_str_eq(catalog->tables[0].name, "mine");
	ck_assert_uint_eq(catalog->sequence_count, 1);
	catalog_free(catalog);
	sql_close(source);
	PQfinish(conn);
}
END_TEST

START_TEST(partitions_sequences_matviews)
{
	servers_clean(cluster);
	PGconn *conn = db_connect(cluster, "source");
	db_exec(conn, "CREATE TABLE part (k int, id int GENERATED BY DEFAULT AS IDENTITY)"
	              " PARTITION BY LIST (k);"
	              "CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1);"
	              "CREATE TABLE part_2 PARTITION OF part FOR VALUES IN (2) PARTITION BY LIST (k);"
	              "CREATE TABLE part_2a PARTITION OF part_2 FOR VALUES IN (2);"
	              "CREATE TABLE empty_part (k int) PARTITION BY LIST (k);"
	              "CREATE TABLE base (a int); CREATE TABLE child (b int) INHERITS (base);"
	              "CREATE SEQUENCE loose; CREATE SEQUENCE used;"
	              "CREATE TABLE uses (id int DEFAULT nextval('used'));"
	              "CREATE MATERIALIZED VIEW z_first AS SELECT 1 AS a;"
	              "CREATE VIEW y_view AS SELECT * FROM z_first;"
	              "CREATE MATERIALIZED VIEW a_second AS SELECT * FROM y_view;"
	              "CREATE MATERIALIZED VIEW hollow AS SELECT 1 WITH NO DATA;"
	              "SELECT lo_create(0), lo_create(0)");
	Sql *source = servers_open(cluster, "source");
	Catalog *catalog = servers_catalog(source);

	ck_assert_uint_eq(catalog->table_count, 5); /* part_1 part_2a base child uses */
	ck_assert(table_of(catalog, "part_2a")->is_partition);
	ck_assert(!table_of(catalog, "child")->is_partition);
	ck_assert_int_eq(table_of(catalog, "child")->column_count, 2);
	ck_assert_uint_eq(catalog->parent_count, 2);
	ck_assert_uint_eq(catalog->sequence_count, 3);
	ck_assert_uint_eq(catalog->matview_count, 2);
	ck_assert_str_eq(catalog->matviews[0].name, "z_first");
	ck_assert_str_eq(catalog->matviews[1].name, "a_second");
	ck_assert_uint_eq(catalog->large_objects, 2);
	ck_assert(catalog->moves_large_objects && catalog->locks_large_objects);
	catalog_free(catalog);

	Error err = ERROR_INIT;
	const char *include[] = {"part", "uses"};
	const char *exclude[] = {"part_1"};
	Selection some = {.lists = {[INCLUDE_TABLE] = {include, 2}, [EXCLUDE_TABLE] = {exclude, 1}}};
	catalog = catalog_read_source(source, &some, "pgbaton", &err);
	ck_assert_msg(catalog != NULL, "%s", servers_error(&err));
	ck_assert_uint_eq(catalog->table_count, 2);
	ck_assert(!catalog->moves_large_objects && !catalog->locks_large_objects);
	ck_assert_ptr_nonnull(catalog_find(catalog, "public", "part_2a"));
	ck_assert_ptr_nonnull(catalog_find(catalog, "public", "uses"));
	ck_assert_uint_eq(catalog->sequence_count, 2); /* the identity's and the default's */
	ck_assert_uint_eq(catalog->matview_count, 0);
	catalog_free(catalog);

	const char *typo[] = {"prat"};
	for (int list = 0; list < SELECTION_LISTS; list++) {
		Selection wrong = {0};
		wrong.lists[list] = (PatternList){typo, 1};
		ck_assert_ptr_null(catalog_read_source(source, &wrong, "pgbaton", &err));
		ck_assert_int_eq(err.class, ERROR_CONFIG);
		ck_assert_ptr_nonnull(strstr(err.message, "'prat' matches nothing"));
	}
	typo[0] = "pr(at";
	ck_assert_ptr_null(catalog_read_source(
		source, &(Selection){.lists = {[EXCLUDE_TABLE] = {typo, 1}}}, "pgbaton", &err));
	ck_assert_int_eq(err.class, ERROR_CONFIG);
	ck_assert_ptr_nonnull(strstr(err.context, "pr(at"));
	sql_close(source);
	PQfinish(conn);
}
END_TEST

static Catalog *
choose(Sql *source, Selection selection)
{
	Error err = ERROR_INIT;
	Catalog *catalog = catalog_read_source(source, &selection, "pgbaton", &err);

	ck_assert_msg(catalog != NULL, "%s", servers_error(&err));
	return catalog;
}

static bool
is_named(const Named *items, size_t count, const char *qualified)
{
	for (size_t i = 0; i < count; i++) {
		if (strcmp(items[i].qualified, qualified) == 0)
			return true;
	}
	return false;
}

static const Outside *
outside_of(const Catalog *catalog, OutsideKind kind, const char *name)
{
	for (size_t i = 0; i < catalog->outside_count; i++) {
		if (catalog->outside[i].kind == kind && strcmp(catalog->outside[i].name, name) == 0)
			return &catalog->outside[i];
	}
	return NULL;
}

static const char two_schemas[] =
	"CREATE SCHEMA a; CREATE SCHEMA b;"
	"CREATE TABLE a.ref (id serial PRIMARY KEY); CREATE TABLE a.log (id serial, ref int"
	" REFERENCES a.ref); CREATE TABLE a.log2 (ref int, id int PRIMARY KEY);"
	"CREATE TABLE b.t (id int PRIMARY KEY, r int CONSTRAINT \"to ref\" REFERENCES a.ref,"
	" l int REFERENCES a.log2);"
	"CREATE TABLE b.p (k int, r int REFERENCES a.ref) PARTITION BY LIST (k);"
	"CREATE TABLE b.p1 PARTITION OF b.p FOR VALUES IN (1);"
	"CREATE TABLE a.p2 PARTITION OF b.p FOR VALUES IN (2);"
	"CREATE TABLE b.heir () INHERITS (a.log2); CREATE SEQUENCE a.used; CREATE SEQUENCE a.loose;"
	"CREATE TABLE b.uses (id int DEFAULT nextval('a.used'));"
	"CREATE VIEW b.v AS SELECT * FROM a.ref; CREATE VIEW b.w AS SELECT * FROM b.v;"
	"CREATE INDEX t_r ON b.t (r); CREATE INDEX p_k ON b.p (k);";

START_TEST(schemas_are_chosen)
{
	const char *a[] = {"a"};

	servers_clean(cluster);
	PGconn *conn = db_connect(cluster, "source");
	db_exec(conn, "%s", two_schemas);
	Sql *source = servers_open(cluster, "source");
	Catalog *catalog = choose(source, (Selection){.lists = {[EXCLUDE_SCHEMA] = {a, 1}}});
	ck_assert_uint_eq(catalog->table_count, 4);    /* t p1 heir uses */
	ck_assert_uint_eq(catalog->sequence_count, 1); /* used */
	const Outside *key = outside_of(catalog, OUTSIDE_KEY, "\"b\".\"t\"");
	ck_assert_ptr_nonnull(key);
	ck_assert_str_eq(key->other, "\"a\".\"ref\"");
	ck_assert_str_eq(key->constraint, "\"to ref\"");
	ck_assert_ptr_nonnull(outside_of(catalog, OUTSIDE_KEY, "\"b\".\"p\""));
	ck_assert_str_eq(outside_of(catalog, OUTSIDE_PARENT, "\"b\".\"heir\"")->other,
	                 "\"a\".\"log2\"");
	ck_assert_str_eq(outside_of(catalog, OUTSIDE_PARTITION, "\"b\".\"p\"")->other, "\"a\".\"p2\"");
	ck_assert_str_eq(outside_of(catalog, OUTSIDE_VIEW, "\"b\".\"v\"")->other, "\"a\".\"ref\"");
	ck_assert_ptr_null(outside_of(catalog, OUTSIDE_VIEW, "\"b\".\"w\""));
	ck_assert_uint_eq(catalog->outside_count, 6); /* three keys */
	catalog_free(catalog);

	catalog = choose(source, (Selection){.lists = {[INCLUDE_SCHEMA] = {a, 1}}});
	ck_assert_uint_eq(catalog->table_count, 4); /* ref log log2 p2 */
	ck_assert_uint_eq(catalog->sequence_count, 4);
	ck_assert_ptr_nonnull(outside_of(catalog, OUTSIDE_PARENT, "\"a\".\"p2\""));
	ck_assert_uint_eq(catalog->outside_count, 1);
	catalog_free(catalog);
	sql_close(source);
	PQfinish(conn);
}
END_TEST

START_TEST(rows_and_indexes_are_left_out)
{
	const char *rows[] = {"a.log", "b.p"};
	const char *ref[] = {"ref", "v", "w"};
	const char *parent[] = {"b.p"};
	const char *indexes[] = {"p_k", "t_r"};
	Error err = ERROR_INIT;

	servers_clean(cluster);
	PGconn *conn = db_connect(cluster, "source");
	db_exec(conn, "%s", two_schemas);
	Sql *source = servers_open(cluster, "source");
	Catalog *catalog = choose(
		source, (Selection){.lists = {[EXCLUDE_DATA] = {rows, 2}, [EXCLUDE_TABLE] = {ref, 3}}});
	ck_assert_ptr_null(catalog_find(catalog, "a", "log"));
	ck_assert_uint_eq(catalog->rowless_count, 4); /* log p p1 p2 */
	ck_assert(is_named(catalog->rowless, 4, "\"b\".\"p\""));
	ck_assert_uint_eq(catalog->parent_count, 0);
	ck_assert_uint_eq(catalog->sequence_count, 3); /* log's, used, loose */
	ck_assert_ptr_nonnull(outside_of(catalog, OUTSIDE_KEY, "\"a\".\"log\""));
	ck_assert_uint_eq(catalog->outside_count, 3); /* of log, t, p to ref */
	catalog_free(catalog);

	catalog = choose(
		source,
		(Selection){.lists = {[EXCLUDE_TABLE] = {parent, 1}, [EXCLUDE_INDEX] = {indexes, 2}}});
	ck_assert_uint_eq(catalog->omitted_count, 2); /* p1 p2 */
	ck_assert_uint_eq(catalog->omitted_index_count, 4);
	ck_assert_uint_eq(catalog->outside_count, 0);
	catalog_free(catalog);

	const char *bad[] = {"t_pkey", "p1_k_idx"};
	const char *why[] = {"constraint t_pkey", "part of a partitioned index"};
	for (int i = 0; i < 2; i++) {
		Selection wrong = {.lists = {[EXCLUDE_INDEX] = {&bad[i], 1}}};
		ck_assert_ptr_null(catalog_read_source(source, &wrong, "pgbaton", &err));
		ck_assert_ptr_nonnull(strstr(err.message, why[i]));
	}
	sql_close(source);
	PQfinish(conn);
}
END_TEST

/* ---- types ---- */

START_TEST(types_are_judged_at_any_depth)
{
	servers_clean(cluster);
	PGconn *conn = db_connect(cluster, "source");
	db_exec(conn, "CREATE TYPE colour AS ENUM ('red', 'green');"
	              "CREATE DOMAIN positive AS int CHECK (VALUE > 0);"
	              "CREATE DOMAIN list AS int[];"
	              "CREATE TYPE inner_t AS (a positive, b colour[]);"
	              "CREATE TYPE pair AS (x inner_t, y text);"
	              "CREATE TYPE with_class AS (x regclass);"
	              "CREATE TYPE with_json AS (x json);"
	              "CREATE TYPE span AS RANGE (subtype = numeric);"
	              "CREATE TABLE t (a pair, b pair[], c with_class, d list, e span, f regtype,"
	              " g xml, h point, i with_json, j int4range[], k money, l varchar(10), m name,"
	              " n tsvector, o colour, p oid, q bit(3), r json[], s cidr, u box, v positive)");
	Sql *source = servers_open(cluster, "source");
	Catalog *catalog = servers_catalog(source);
	const Table *t = table_of(catalog, "t");
	static const struct {
		const char *name;
		bool safe, equality, array;
	} expected[] = {
		{"a", true, true, false},   {"b", true, true, true},   {"c", false, true, false},
		{"d", true, true, true},    {"e", true, true, false},  {"f", false, true, false},
		{"g", false, false, false}, {"h", true, false, false}, {"i", true, false, false},
		{"j", true, true, true},    {"k", true, true, false},  {"l", true, true, false},
		{"m", true, true, false},   {"n", true, true, false},  {"o", true, true, false},
		{"p", true, true, false},   {"q", true, true, false},  {"r", true, false, true},
		{"s", true, true, false},   {"u", true, false, false}, {"v", true, true, false},
	};

	for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++) {
		const Column *c = column(t, expected[i].name);
		ck_assert_msg(c->binary_safe == expected[i].safe, "%s %s binary", c->name, c->type);
		ck_assert_msg(c->has_equality == expected[i].equality, "%s %s =", c->name, c->type);
		ck_assert_msg(c->is_array == expected[i].array, "%s %s array", c->name, c->type);
	}
	ck_assert_str_eq(column(t, "l")->type, "character varying(10)");
	ck_assert_str_eq(column(t, "a")->type, "public.pair");
	ck_assert(!t->copy_binary);
	ck_assert(!catalog->stream_binary);
	catalog_free(catalog);

	db_exec(conn, "ALTER TABLE t DROP c, DROP f, DROP g");
	catalog = servers_catalog(source);
	ck_assert(table_of(catalog, "t")->copy_binary);
	ck_assert(catalog->stream_binary);
	catalog_free(catalog);
	sql_close(source);
	PQfinish(conn);
}
END_TEST

/* Every type of the server either travels in text or survives a round trip in binary; the
 * list of the safe ones is ours, so ask the server for each of them. */
START_TEST(safe_builtin_types_have_send_and_receive)
{
	servers_clean(cluster);
	PGconn *conn = db_connect(cluster, "source");
	db_exec(
		conn,
		"DO $$ DECLARE list text; BEGIN SELECT string_agg(format('c%%s %%s', oid,"
		" format_type(oid, NULL)), ', ') INTO list FROM pg_type t WHERE typtype IN ('b', 'r', 'm')"
		" AND oid < 10000 AND typname !~ '^(_?pg_(node_tree|ndistinct|dependencies|mcv|brin|"
		"ddl))' AND typcategory <> 'Z' AND NOT EXISTS (SELECT 1 FROM pg_type e WHERE"
		" e.oid = t.typelem AND e.typtype IN ('c', 'p')); EXECUTE format('CREATE TABLE t (%%s)', list); END $$");
	Sql *source = servers_open(cluster, "source");
	Catalog *catalog = servers_catalog(source);
	const Table *t = table_of(catalog, "t");

	for (int i = 0; i < t->column_count; i++) {
		const Column *c = &t->columns[i];
		bool io = db_true(conn,
		                  "SELECT typsend <> 0 AND typreceive <> 0 FROM pg_type"
		                  " WHERE oid = %u",
		                  c->type_oid);
		bool is_reg = strncmp(c->type, "reg", 3) == 0 && strncmp(c->type, "refc", 4) != 0;
		/* An empty one is sent in a form that receive does not take. */
		bool is_vector = strncmp(c->type, "int2vector", 10) == 0 ||
		                 strncmp(c->type, "oidvector", 9) == 0;
		if (is_vector || strncmp(c->type, "aclitem", 7) == 0 || strncmp(c->type, "xml", 3) == 0 ||
		    is_reg)
			ck_assert_msg(!c->binary_safe, "%s is thought safe", c->type);
		else if (strncmp(c->type, "gtsvector", 9) != 0)
			ck_assert_msg(c->binary_safe && io, "%s is not thought safe", c->type);
	}
	ck_assert_int_gt(t->column_count, 100);
	catalog_free(catalog);
	sql_close(source);
	PQfinish(conn);
}
END_TEST

/* ---- the target ---- */

static void
on_both(const char *sql)
{
	const char *const names[] = {"source", "target"};

	for (int i = 0; i < 2; i++) {
		PGconn *conn = db_connect(cluster, names[i]);
		db_exec(conn, "%s", sql);
		PQfinish(conn);
	}
}

START_TEST(target_is_matched_by_name)
{
	servers_clean(cluster);
	PGconn *source_conn = db_connect(cluster, "source");
	PGconn *target_conn = db_connect(cluster, "target");
	db_exec(source_conn,
	        "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
	        " a text, b int GENERATED ALWAYS AS (1) STORED, c numeric(10,2)); CREATE TABLE e ()");
	db_exec(target_conn,
	        "CREATE TABLE t (extra int, c numeric(10,2), a text,"
	        " b int GENERATED ALWAYS AS (1) STORED, id int GENERATED BY DEFAULT AS IDENTITY);"
	        " CREATE TABLE e ()");
	Sql *source = servers_open(cluster, "source");
	Sql *target = servers_open(cluster, "target");
	Catalog *catalog = servers_catalog(source);
	Error err;

	ASSERT_OK(catalog_match_target(catalog, target, &err));
	const Table *t = table_of(catalog, "t");
	ck_assert_uint_ne(t->target_oid, 0);
	ck_assert_int_eq(column(t, "id")->target_attnum, 5);
	ck_assert_int_eq(column(t, "id")->identity, 'a');
	ck_assert_int_eq(column(t, "id")->target_identity, 'd');
	ck_assert_uint_eq(column(t, "id")->target_array_oid, 1007);
	ck_assert_str_eq(column(t, "c")->target_type, "numeric(10,2)");
	ck_assert(column(t, "b")->generated && column(t, "b")->target_generated);
	ck_assert_int_eq(catalog->target_version / 10000, cluster_major(cluster));
	ck_assert(catalog->stream_binary);
	catalog_free(catalog);
	sql_close(source);
	sql_close(target);
	PQfinish(source_conn);
	PQfinish(target_conn);
}
END_TEST

START_TEST(everything_that_does_not_fit_is_named)
{
	servers_clean(cluster);
	PGconn *source_conn = db_connect(cluster, "source");
	PGconn *target_conn = db_connect(cluster, "target");
	db_exec(source_conn, "CREATE TYPE pair AS (a int, b int); CREATE TABLE missing (a int);"
	                     "CREATE TABLE seen (a int); CREATE TABLE t (gone int, typed int, gen int"
	                     " GENERATED ALWAYS AS (1) STORED, p pair)");
	db_exec(target_conn,
	        "CREATE TYPE pair AS (b int, a int); CREATE VIEW seen AS SELECT 1 AS a;"
	        "CREATE TABLE t (typed bigint, gen int, p pair, must int NOT NULL, may int,"
	        " has int NOT NULL DEFAULT 1)");
	Sql *source = servers_open(cluster, "source");
	Sql *target = servers_open(cluster, "target");
	Catalog *catalog = servers_catalog(source);
	Error err = ERROR_INIT;

	ck_assert(!catalog_match_target(catalog, target, &err));
	ck_assert_int_eq(err.class, ERROR_CONFIG);
	const char *const named[] = {
		"7 differences",
		"\"missing\" is missing",
		"\"seen\" is not an ordinary table",
		"column gone of",
		"column typed of \"public\".\"t\" is integer on the source and bigint",
		"column gen of",
		"generated on the source only",
		"column must of",
		"type public.pair",
	};
	for (size_t i = 0; i < sizeof(named) / sizeof(named[0]); i++)
		ck_assert_msg(strstr(err.message, named[i]) != NULL, "\"%s\" is not in: %s", named[i],
		              err.message);
	ck_assert_ptr_null(strstr(err.message, "column may"));
	ck_assert_ptr_null(strstr(err.message, "column has"));
	catalog_free(catalog);
	sql_close(source);
	sql_close(target);
	PQfinish(source_conn);
	PQfinish(target_conn);
}
END_TEST

/* ---- DDL ---- */

static void
expect_change(const Catalog *catalog, Sql *source, const char *what)
{
	Error err;
	Selection all = {0};
	char text[400];
	bool same;

	ASSERT_OK(
		catalog_compare_source(catalog, source, &all, "pgbaton", &same, text, sizeof(text), &err));
	if (what == NULL)
		ck_assert_msg(same, "%s", text);
	else
		ck_assert_msg(!same && strstr(text, what) != NULL, "\"%s\" is not in \"%s\"", what, text);
	Catalog *now = servers_catalog(source);
	bool print_same = strcmp(now->fingerprint, catalog->fingerprint) == 0;
	ck_assert_int_eq(print_same, what == NULL);
	catalog_free(now);
}

START_TEST(ddl_is_seen_and_named)
{
	servers_clean(cluster);
	PGconn *conn = db_connect(cluster, "source");
	db_exec(conn, "CREATE TABLE t (a int PRIMARY KEY, b text); CREATE TABLE u (a int)");
	Sql *source = servers_open(cluster, "source");
	static const struct {
		const char *ddl, *what;
	} steps[] = {
		{"INSERT INTO t VALUES (1, 'x'); ANALYZE; CREATE INDEX ON t (b)", NULL},
		{"ALTER TABLE t ADD c int", "column c of \"public\".\"t\" is new"},
		{"ALTER TABLE t ALTER c TYPE bigint", "was integer and is bigint"},
		{"ALTER TABLE t DROP c", "column c of \"public\".\"t\" is gone"},
		{"ALTER TABLE t DROP b, ADD b text", "was made anew"},
		{"CREATE TABLE v ()", "table \"public\".\"v\" is new"},
		{"DROP TABLE v", "table \"public\".\"v\" is gone"},
		{"ALTER TABLE t RENAME TO w", "is gone"},
		{"DROP TABLE u; CREATE TABLE u (a int)", "dropped and made anew"},
		{"ALTER TABLE w DROP CONSTRAINT t_pkey", "the key"},
		{"ALTER TABLE u ALTER a SET NOT NULL", "column a of \"public\".\"u\" is NOT NULL now"},
		{"ALTER TABLE u ALTER a ADD GENERATED ALWAYS AS IDENTITY",
	     "how column a of \"public\".\"u\" is generated"},
		{"ALTER TABLE u SET UNLOGGED", "table \"public\".\"u\" is unlogged now"},
		{"CREATE TABLE p (a int) PARTITION BY LIST (a); CREATE TABLE l PARTITION OF p DEFAULT",
	     "table \"public\".\"l\" is new"},
		{"ALTER TABLE p DETACH PARTITION l", "table \"public\".\"l\" is no longer a partition"},
		{"ALTER TABLE p ATTACH PARTITION l DEFAULT", "table \"public\".\"l\" is a partition now"},
	};

	for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
		Catalog *catalog = servers_catalog(source);
		db_exec(conn, "%s", steps[i].ddl);
		expect_change(catalog, source, steps[i].what);
		catalog_free(catalog);
	}
	sql_close(source);
	PQfinish(conn);
}
END_TEST

/* What set-up does to replica identities is no DDL of the user's. */
START_TEST(our_own_identities_are_no_change)
{
	servers_clean(cluster);
	PGconn *conn = db_connect(cluster, "source");
	db_exec(conn, "CREATE TABLE u (a int)");
	Sql *source = servers_open(cluster, "source");
	Catalog *catalog = servers_catalog(source);
	Table *u = catalog_find(catalog, "public", "u");

	expect_change(catalog, source, NULL); /* insert-only: left as it is */
	db_exec(conn, "ALTER TABLE u REPLICA IDENTITY FULL");
	u->key = KEY_FULL;
	u->key_needs_full = false;
	expect_change(catalog, source, NULL);
	db_exec(conn, "ALTER TABLE u REPLICA IDENTITY DEFAULT");
	Error err;
	Selection all = {0};
	char text[200];
	bool same;
	ASSERT_OK(
		catalog_compare_source(catalog, source, &all, "pgbaton", &same, text, sizeof(text), &err));
	ck_assert(!same);
	catalog_free(catalog);
	sql_close(source);
	PQfinish(conn);
}
END_TEST

/* No query per table. */
START_TEST(many_tables_need_few_queries)
{
	servers_clean(cluster);
	on_both(
		"DO $$ BEGIN FOR i IN 1..1500 LOOP EXECUTE format('CREATE TABLE t%s (id int PRIMARY KEY,"
		" a text, b int)', i); END LOOP; END $$");
	Sql *source = servers_open(cluster, "source");
	Sql *target = servers_open(cluster, "target");
	Catalog *catalog = servers_catalog(source);
	Error err;

	ck_assert_uint_eq(catalog->table_count, 1500);
	ASSERT_OK(catalog_match_target(catalog, target, &err));
	catalog_free(catalog);
	sql_close(source);
	sql_close(target);
}
END_TEST

/* A table that somebody holds exclusively delays its size, not us. */
START_TEST(locked_table_does_not_stop_reading)
{
	servers_clean(cluster);
	PGconn *conn = db_connect(cluster, "source");
	db_exec(conn, "CREATE TABLE t (a int)");
	db_exec(conn, "BEGIN; LOCK TABLE t");
	Sql *source = servers_open(cluster, "source");
	Catalog *catalog = servers_catalog(source);

	ck_assert_uint_eq(catalog->table_count, 1);
	catalog_free(catalog);
	sql_close(source);
	PQfinish(conn);
}
END_TEST

static Suite *
make_catalog(void)
{
	Suite *suite = suite_create("catalog");
	TCase *patterns = tcase_create("patterns");
	TCase *server = tcase_create("server");

	tcase_add_test(patterns, bad_patterns_are_refused);
	tcase_add_test(patterns, selections_are_compared);
	suite_add_tcase(suite, patterns);

	tcase_add_unchecked_fixture(server, start, stop);
	tcase_set_timeout(server, 60);
	tcase_add_test(server, patterns_follow_pg_dump);
	tcase_add_test(server, schemas_are_chosen);
	tcase_add_test(server, rows_and_indexes_are_left_out);
	tcase_add_test(server, keys_are_what_pgoutput_takes);
	tcase_add_test(server, what_is_not_ours_is_left_out);
	tcase_add_test(server, partitions_sequences_matviews);
	tcase_add_test(server, types_are_judged_at_any_depth);
	tcase_add_test(server, safe_builtin_types_have_send_and_receive);
	tcase_add_test(server, target_is_matched_by_name);
	tcase_add_test(server, everything_that_does_not_fit_is_named);
	tcase_add_test(server, ddl_is_seen_and_named);
	tcase_add_test(server, our_own_identities_are_no_change);
	tcase_add_test(server, many_tables_need_few_queries);
	tcase_add_test(server, locked_table_does_not_stop_reading);
	suite_add_tcase(suite, server);
	return suite;
}
TEST_SUITE(make_catalog)
