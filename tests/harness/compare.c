#include "tests/harness/compare.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/attr.h"
#include "common/memory.h"
#include "tests/harness/db.h"

enum { ROWS_SHOWN = 5 };

/*
 * One name, one expression a table. The columns come in the order of their
 * names, for a copy may hold them in another one. Always quoted: what quote_ident
 * quotes differs between majors. %s: the own schema.
 */
#define QUOTED "'\"' || replace(a.attname, '\"', '\"\"') || '\"'"
#define TABLES_SQL                                                     \
	"SELECT n.nspname || '.' || c.relname, c.oid::regclass::text,"     \
	" 'ROW(' || coalesce(string_agg(" QUOTED " || '::text', ', '"      \
	"   ORDER BY a.attname COLLATE \"C\"), '') || ')::text'"           \
	" FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"   \
	" LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0" \
	"   AND NOT a.attisdropped AND a.attgenerated = ''"                \
	" WHERE c.relkind = 'r' AND c.relpersistence = 'p'" NOT_OURS       \
	" GROUP BY c.oid, n.nspname, c.relname ORDER BY (n.nspname || '.' || c.relname) COLLATE \"C\""
#define SEQUENCES_SQL                                                                   \
	"SELECT n.nspname || '.' || c.relname, c.oid::regclass::text, s.seqincrement::text" \
	" FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"                    \
	" JOIN pg_sequence s ON s.seqrelid = c.oid"                                         \
	" WHERE c.relpersistence = 'p'" NOT_OURS                                            \
	" ORDER BY (n.nspname || '.' || c.relname) COLLATE \"C\""
#define NOT_OURS                                                                         \
	" AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND n.nspname <> %s" \
	" AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass"    \
	"   AND d.objid = c.oid AND d.deptype = 'e')"

typedef struct {
	PGconn *source;
	PGconn *target;
	const CompareOptions *options;
	Buffer *report;
	size_t tables;
	bool equal;
} Comparison;

static void differ(Comparison *cmp, const char *fmt, ...) PRINTF_LIKE(2, 3);

static void
differ(Comparison *cmp, const char *fmt, ...)
{
	char *line = NULL;
	va_list args;

	va_start(args, fmt);
	if (vasprintf(&line, fmt, args) < 0)
		abort();
	va_end(args);
	buffer_put_text(cmp->report, line);
	buffer_put_u8(cmp->report, '\n');
	free(line);
	cmp->equal = false;
}

static PGresult *
rows_of(PGconn *conn, const char *sql)
{
	PGresult *res = PQexec(conn, sql);

	if (PQresultStatus(res) != PGRES_TUPLES_OK)
		ck_abort_msg("comparing: %.1500s\n%.1500s", sql, PQerrorMessage(conn));
	return res;
}

/* One snapshot and one way to print values, gone with the transaction. */
static void
begin(PGconn *conn)
{
	ck_assert_msg(PQtransactionStatus(conn) == PQTRANS_IDLE,
	              "a session that compares must not be in a transaction");
	db_exec(conn, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
	db_exec(conn, "SET LOCAL search_path = ''; SET LOCAL datestyle = 'ISO, YMD';"
	              "SET LOCAL intervalstyle = 'postgres'; SET LOCAL extra_float_digits = 3;"
	              "SET LOCAL bytea_output = 'hex'; SET LOCAL timezone = 'UTC';"
	              "SET LOCAL lc_monetary = 'C'; SET LOCAL row_security = off;"
	              "SET LOCAL client_encoding = 'UTF8'; SET LOCAL statement_timeout = 0");
}

static char *
own_schema(const Comparison *cmp)
{
	const char *name = cmp->options->own_schema != NULL ? cmp->options->own_schema : "pgbaton";
	char *quoted = PQescapeLiteral(cmp->source, name, strlen(name));
	char *out = mem_strdup(quoted);

	PQfreemem(quoted);
	return out;
}

/* Rows as text do not depend on the database's encoding once they are UTF8. */
#define HASHED_SQL                                                                        \
	"(SELECT md5(convert_to(t, 'UTF8')) AS h, t FROM (SELECT %s AS t FROM ONLY %s) rows)" \
	" hashed"

/* "count sum sum": the sums do not depend on the rows' order, and duplicates
 * count; an exclusive or would let pairs vanish. */
static char *
digest(PGconn *conn, const char *expression, const char *table)
{
	return db_value(conn,
	                "SELECT count(*) || ' rows, digest '"
	                " || coalesce(sum(('x' || left(h, 16))::bit(64)::bigint), 0) || ' '"
	                " || coalesce(sum(('x' || right(h, 16))::bit(64)::bigint), 0)"
	                " FROM " HASHED_SQL,
	                expression, table);
}

static PGresult *
sorted_rows(PGconn *conn, const char *expression, const char *table)
{
	char *sql = mem_printf("SELECT h, left(t, 300) FROM " HASHED_SQL " ORDER BY h COLLATE \"C\"",
	                       expression, table);
	PGresult *res = rows_of(conn, sql);

	free(sql);
	return res;
}

static void
show_row(Comparison *cmp, const char *side, const PGresult *res, int row, int *shown)
{
	if ((*shown)++ < ROWS_SHOWN)
		differ(cmp, "    only on the %s: %s", side, PQgetvalue(res, row, 1));
}

/* Walks both sorted lists; what one has more of is shown. */
static void
show_rows(Comparison *cmp, const char *expression, const char *on_source, const char *on_target)
{
	PGresult *source = sorted_rows(cmp->source, expression, on_source);
	PGresult *target = sorted_rows(cmp->target, expression, on_target);
	int only_source = 0;
	int only_target = 0;

	for (int s = 0, t = 0; s < PQntuples(source) || t < PQntuples(target);) {
		int order = s == PQntuples(source) ? 1
		            : t == PQntuples(target)
		                ? -1
		                : strcmp(PQgetvalue(source, s, 0), PQgetvalue(target, t, 0));
		if (order < 0)
			show_row(cmp, "source", source, s++, &only_source);
		else if (order > 0)
			show_row(cmp, "target", target, t++, &only_target);
		else
			s++, t++;
	}
	differ(cmp, "    %d rows only on the source, %d only on the target", only_source, only_target);
	PQclear(target);
	PQclear(source);
}

static bool
is_skipped(const Comparison *cmp, const char *name)
{
	const char *const *skip = cmp->options->skip_tables;

	for (; skip != NULL && *skip != NULL; skip++)
		if (strcmp(*skip, name) == 0)
			return true;
	return false;
}

/* s and t: the object's row in the two lists; the same name. */
typedef void (*CompareObject)(Comparison *cmp, const PGresult *source, int s,
                              const PGresult *target, int t);

static void
compare_table(Comparison *cmp, const PGresult *source, int s, const PGresult *target, int t)
{
	const char *name = PQgetvalue(source, s, 0);
	const char *expression = PQgetvalue(source, s, 2);

	if (is_skipped(cmp, name))
		return;
	cmp->tables++;
	if (strcmp(expression, PQgetvalue(target, t, 2)) != 0) {
		differ(cmp, "%s: the columns differ: %s on the source, %s on the target", name, expression,
		       PQgetvalue(target, t, 2));
		return;
	}
	char *ours = digest(cmp->source, expression, PQgetvalue(source, s, 1));
	char *theirs = digest(cmp->target, expression, PQgetvalue(target, t, 1));
	if (strcmp(ours, theirs) != 0) {
		differ(cmp, "%s: %s on the source, %s on the target", name, ours, theirs);
		show_rows(cmp, expression, PQgetvalue(source, s, 1), PQgetvalue(target, t, 1));
	}
	free(theirs);
	free(ours);
}

/* The value that the next nextval will return. */
static int64_t
next_value(PGconn *conn, const char *increment, const char *sequence)
{
	return db_int(conn, "SELECT last_value + CASE WHEN is_called THEN %s ELSE 0 END FROM %s",
	              increment, sequence);
}

static void
compare_sequence(Comparison *cmp, const PGresult *source, int s, const PGresult *target, int t)
{
	const char *name = PQgetvalue(source, s, 0);
	const char *increment = PQgetvalue(source, s, 2);

	if (is_skipped(cmp, name))
		return;
	if (cmp->options->sequences == SEQUENCES_AT_LEAST) {
		int64_t ours = next_value(cmp->source, increment, PQgetvalue(source, s, 1));
		int64_t theirs = next_value(cmp->target, increment, PQgetvalue(target, t, 1));
		if (increment[0] == '-' ? theirs > ours : theirs < ours)
			differ(cmp, "sequence %s: next is %lld on the source, %lld on the target", name,
			       (long long)ours, (long long)theirs);
		return;
	}
	char *ours = db_value(cmp->source, "SELECT last_value || ' ' || is_called FROM %s",
	                      PQgetvalue(source, s, 1));
	char *theirs = db_value(cmp->target, "SELECT last_value || ' ' || is_called FROM %s",
	                        PQgetvalue(target, t, 1));
	if (strcmp(ours, theirs) != 0)
		differ(cmp, "sequence %s: %s on the source, %s on the target", name, ours, theirs);
	free(theirs);
	free(ours);
}

/* Walks the two lists, which are sorted by name. */
static void
compare_objects(Comparison *cmp, const char *what, const char *list_fmt, CompareObject compare)
{
	char *schema = own_schema(cmp);
	/* list_fmt is one of the two texts above, with one %s for the schema. */
	const char *hole = strstr(list_fmt, "%s");
	char *sql = mem_printf("%.*s%s%s", (int)(hole - list_fmt), list_fmt, schema, hole + 2);
	PGresult *source = rows_of(cmp->source, sql);
	PGresult *target = rows_of(cmp->target, sql);

	for (int s = 0, t = 0; s < PQntuples(source) || t < PQntuples(target);) {
		int order = s == PQntuples(source) ? 1
		            : t == PQntuples(target)
		                ? -1
		                : strcmp(PQgetvalue(source, s, 0), PQgetvalue(target, t, 0));
		const PGresult *side = order < 0 ? source : target;
		int row = order < 0 ? s : t;
		if (order == 0)
			compare(cmp, source, s, target, t);
		else if (!is_skipped(cmp, PQgetvalue(side, row, 0)))
			differ(cmp, "%s %s: only on the %s", what, PQgetvalue(side, row, 0),
			       order < 0 ? "source" : "target");
		s += order <= 0;
		t += order >= 0;
	}
	PQclear(target);
	PQclear(source);
	free(sql);
	free(schema);
}

static Comparison
compare(PGconn *source, PGconn *target, const CompareOptions *options, Buffer *report)
{
	static const CompareOptions defaults = {0};
	Comparison cmp = {
		.source = source,
		.target = target,
		.options = options != NULL ? options : &defaults,
		.report = report,
		.equal = true,
	};

	begin(source);
	begin(target);
	compare_objects(&cmp, "table", TABLES_SQL, compare_table);
	if (cmp.options->sequences != SEQUENCES_IGNORED)
		compare_objects(&cmp, "sequence", SEQUENCES_SQL, compare_sequence);
	db_exec(source, "COMMIT");
	db_exec(target, "COMMIT");
	return cmp;
}

bool
databases_equal(PGconn *source, PGconn *target, const CompareOptions *options, Buffer *report)
{
	return compare(source, target, options, report).equal;
}

void
compare_databases(PGconn *source, PGconn *target, const CompareOptions *options)
{
	Buffer report = BUFFER_INIT;
	Comparison cmp = compare(source, target, options, &report);

	if (!cmp.equal) {
		fprintf(stderr, "--- source and target differ\n%s---\n", buffer_cstr(&report));
		ck_abort_msg("source and target differ: %.1500s", buffer_cstr(&report));
	}
	if (cmp.tables == 0)
		ck_abort_msg("there was no table to compare");
	buffer_free(&report);
}
