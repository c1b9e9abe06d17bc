#include "apply/lane/stmt.h"

#include <string.h>

#include "common/memory.h"

enum {
	OID_BYTEA = 17,
	OID_BYTEA_ARRAY = 1001,
	OID_INT4_ARRAY = 1007,
	OID_TEXT = 25,
	OID_TEXT_ARRAY = 1009,
	OID_INT8 = 20,
	OID_INT8_ARRAY = 1016,
	OID_REGCLASS = 2205
};

typedef struct {
	const Shape *shape;
	Buffer *sql;
	Oid *types;
	int count;
} Writer;

unsigned
shape_key_count(const Shape *shape)
{
	switch (shape->op) {
	case STMT_DELETE_ONE_IMAGE:
	case STMT_UPDATE_ONE_IMAGE:
		return shape->plan->count;
	case STMT_UPDATE:
	case STMT_DELETE:
		return shape->plan->key_count;
	default:
		return 0;
	}
}

static bool
is_image(const Shape *shape)
{
	return shape->op == STMT_DELETE_ONE_IMAGE || shape->op == STMT_UPDATE_ONE_IMAGE;
}

static const Column *
key_column(const Shape *shape, unsigned i)
{
	return shape->plan->columns[is_image(shape) ? i : shape->plan->key_columns[i]].column;
}

static void
put_name(Buffer *sql, const char *name)
{
	buffer_put_u8(sql, '"');
	for (; *name != '\0'; name++) {
		if (*name == '"')
			buffer_put_u8(sql, '"');
		buffer_put_u8(sql, (uint8_t)*name);
	}
	buffer_put_u8(sql, '"');
}

/* "" the first time, ", " (or " AND ") afterwards. */
static void
put_joint(Buffer *sql, bool *more, const char *joint)
{
	if (*more)
		buffer_put_text(sql, joint);
	*more = true;
}

static void
add_type(Writer *w, const Column *column, uint8_t form)
{
	bool array = w->shape->rows == 0;

	if (form != VALUE_BINARY)
		w->types[w->count++] = array ? OID_TEXT_ARRAY : OID_TEXT;
	else
		w->types[w->count++] = array ? column->target_array_oid : column->target_type_oid;
}

/* A parameter's value: $n of one row, d.kN or d.cN of the rows in the FROM clause. */
static void
put_value_of(Writer *w, bool key, unsigned i, int parameter)
{
	uint8_t form = key ? w->shape->key_forms[i] : w->shape->forms[i];
	const Column *column = key ? key_column(w->shape, i) : w->shape->plan->columns[i].column;

	/* The cast of text to regclass is a function that does not know what regclassout
	 * prints for no table ("-") and for one that is gone (its number). The other such
	 * casts take what the type's input takes; all the rest are the input itself. */
	bool regclass = form != VALUE_BINARY && column->target_type_oid == OID_REGCLASS;

	if (regclass)
		buffer_put_text(w->sql, "pg_catalog.regclassin(pg_catalog.textout(");
	if (w->shape->rows == 1 && w->shape->op != STMT_DELETE_IMAGE)
		buffer_printf(w->sql, "$%d", parameter);
	else
		buffer_printf(w->sql, "d.%c%u", key ? 'k' : 'c', i);
	if (regclass)
		buffer_put_text(w->sql, "))");
	else if (form != VALUE_BINARY)
		buffer_printf(w->sql, "::%s", column->target_type);
}

static void
put_unnest(Writer *w, char kind, unsigned i, bool *more)
{
	put_joint(w->sql, more, ", ");
	buffer_printf(w->sql, "pg_catalog.unnest($%d) AS %c%u", w->count, kind, i);
}

/* Parameters in their order. With arrays also "(SELECT unnest($1) AS k0, ...) AS d": set
 * returning functions beside each other go in step, and a composite value stays one column
 * (in FROM it would become several). */
static void
put_source(Writer *w, bool array)
{
	const Shape *shape = w->shape;
	bool more = false;

	if (array)
		buffer_put_text(w->sql, "(SELECT ");
	for (unsigned i = 0; i < shape_key_count(shape); i++) {
		if (shape->key_forms[i] == FORM_ABSENT)
			continue;
		add_type(w, key_column(shape, i), shape->key_forms[i]);
		if (array)
			put_unnest(w, 'k', i, &more);
	}
	if (shape->masked) {
		w->types[w->count++] = array ? OID_BYTEA_ARRAY : OID_BYTEA;
		if (array)
			put_unnest(w, 'm', 0, &more);
	}
	for (unsigned i = 0; i < shape->plan->count; i++) {
		if (shape->forms[i] == FORM_ABSENT)
			continue;
		add_type(w, shape->plan->columns[i].column, shape->forms[i]);
		if (array)
			put_unnest(w, 'c', i, &more);
	}
	if (array)
		buffer_put_text(w->sql, ") AS d");
}

static int
present(const uint8_t *forms, unsigned count)
{
	int n = 0;
	for (unsigned i = 0; i < count; i++)
		n += forms[i] != FORM_ABSENT;
	return n;
}

int
shape_parameter_count(const Shape *shape)
{
	int columns = present(shape->forms, shape->plan->count);

	if (shape->op == STMT_DELETE_IMAGE)
		return shape->rows == 0 ? 2 + columns : (int)shape->rows * (1 + columns);
	return present(shape->key_forms, shape_key_count(shape)) + shape->masked + columns;
}

static void
write_insert(Writer *w)
{
	const Shape *shape = w->shape;
	bool more = false;
	int parameter = 0;

	buffer_printf(w->sql, "INSERT INTO %s", shape->plan->table->qualified);
	if (present(shape->forms, shape->plan->count) == 0) {
		buffer_put_text(w->sql, " DEFAULT VALUES");
		return;
	}
	buffer_put_text(w->sql, " (");
	for (unsigned i = 0; i < shape->plan->count; i++) {
		if (shape->forms[i] == FORM_ABSENT)
			continue;
		put_joint(w->sql, &more, ", ");
		put_name(w->sql, shape->plan->columns[i].column->name);
	}
	buffer_put_text(w->sql, ") OVERRIDING SYSTEM VALUE ");
	buffer_put_text(w->sql, shape->rows == 0 ? "SELECT " : "VALUES (");
	more = false;
	for (unsigned i = 0; i < shape->plan->count; i++) {
		if (shape->forms[i] == FORM_ABSENT)
			continue;
		put_joint(w->sql, &more, ", ");
		put_value_of(w, false, i, ++parameter);
	}
	buffer_put_text(w->sql, shape->rows == 0 ? " FROM " : ")");
	put_source(w, shape->rows == 0);
}

/* Of exactly the column's type, or the server would coerce (and detoast) what stays. */
static void
put_masked_value(Writer *w, unsigned i, int mask, int parameter)
{
	const Column *column = w->shape->plan->columns[i].column;

	buffer_put_text(w->sql, "CASE WHEN pg_catalog.get_bit(");
	if (w->shape->rows == 0)
		buffer_put_text(w->sql, "d.m0");
	else
		buffer_printf(w->sql, "$%d", mask);
	buffer_printf(w->sql, ", %u) = 1 THEN ", i);
	put_value_of(w, false, i, parameter);
	buffer_printf(w->sql, "::%s ELSE t.", column->target_type);
	put_name(w->sql, column->name);
	buffer_put_text(w->sql, " END");
}

static void
put_set(Writer *w, int parameter)
{
	const Shape *shape = w->shape;
	bool more = false;

	int mask = shape->masked ? ++parameter : 0;
	buffer_put_text(w->sql, " SET ");
	for (unsigned i = 0; i < shape->plan->count; i++) {
		if (shape->forms[i] == FORM_ABSENT)
			continue;
		const Column *column = shape->plan->columns[i].column;
		put_joint(w->sql, &more, ", ");
		put_name(w->sql, column->name);
		buffer_put_text(w->sql, " = ");
		parameter++;
		if (shape->masked && column->varlena)
			put_masked_value(w, i, mask, parameter);
		else
			put_value_of(w, false, i, parameter);
	}
	if (more)
		return;
	/* Nothing to set, but the row must be there: the count says so. */
	const char *name = shape->op == STMT_UPDATE ? key_column(shape, 0)->name
	                                            : shape->plan->table->columns[0].name;
	put_name(w->sql, name);
	buffer_put_text(w->sql, " = t.");
	put_name(w->sql, name);
}

static void
put_key_condition(Writer *w)
{
	bool more = false;

	buffer_put_text(w->sql, " WHERE ");
	for (unsigned i = 0; i < w->shape->plan->key_count; i++) {
		put_joint(w->sql, &more, " AND ");
		buffer_put_text(w->sql, "t.");
		put_name(w->sql, key_column(w->shape, i)->name);
		buffer_printf(w->sql, " %s ", key_column(w->shape, i)->target_equality);
		put_value_of(w, true, i, (int)i + 1);
	}
}

static void
write_keyed(Writer *w)
{
	const Shape *shape = w->shape;
	const char *table = shape->plan->table->qualified;
	bool array = shape->rows == 0;

	if (shape->op == STMT_UPDATE) {
		buffer_printf(w->sql, "UPDATE ONLY %s AS t", table);
		put_set(w, shape->plan->key_count);
		buffer_put_text(w->sql, array ? " FROM " : "");
	} else {
		buffer_printf(w->sql, "DELETE FROM ONLY %s AS t", table);
		buffer_put_text(w->sql, array ? " USING " : "");
	}
	put_source(w, array);
	put_key_condition(w);
}

/* ROW(t.a, t.b)::record, or the values' side of the comparison. The cast keeps the parser
 * from comparing the columns one by one. */
static void
put_record(Writer *w, bool table_side, bool key)
{
	const Plan *plan = w->shape->plan;
	const uint8_t *forms = key ? w->shape->key_forms : w->shape->forms;
	bool more = false;
	int parameter = 0;

	buffer_put_text(w->sql, "ROW(");
	for (unsigned i = 0; i < plan->count; i++) {
		if (forms[i] == FORM_ABSENT)
			continue;
		put_joint(w->sql, &more, ", ");
		parameter++;
		if (!table_side) {
			put_value_of(w, key, i, parameter);
			continue;
		}
		buffer_put_text(w->sql, "t.");
		put_name(w->sql, plan->columns[i].column->name);
	}
	buffer_put_text(w->sql, ")::pg_catalog.record");
}

/* (ord, n, c0, ...) of each image: from arrays, or as a list of VALUES for columns whose
 * binary form cannot be an array's element. */
static void
put_images(Writer *w)
{
	const Shape *shape = w->shape;

	if (shape->rows == 0) {
		w->types[w->count++] = OID_INT4_ARRAY;
		w->types[w->count++] = OID_INT8_ARRAY;
		buffer_put_text(w->sql, "(SELECT pg_catalog.unnest($1) AS ord, pg_catalog.unnest($2) AS n");
		bool more = true;
		for (unsigned i = 0; i < shape->plan->count; i++) {
			if (shape->forms[i] == FORM_ABSENT)
				continue;
			add_type(w, shape->plan->columns[i].column, shape->forms[i]);
			put_unnest(w, 'c', i, &more);
		}
		buffer_put_text(w->sql, ") AS d");
		return;
	}
	for (uint32_t row = 0; row < shape->rows; row++) {
		w->types[w->count++] = OID_INT8;
		buffer_printf(w->sql, "%s(%u, $%d", row == 0 ? "(VALUES " : ", ", row, w->count);
		for (unsigned i = 0; i < shape->plan->count; i++) {
			if (shape->forms[i] == FORM_ABSENT)
				continue;
			add_type(w, shape->plan->columns[i].column, shape->forms[i]);
			buffer_printf(w->sql, ", $%d", w->count);
		}
		buffer_put_text(w->sql, ")");
	}
	buffer_put_text(w->sql, ") AS d(ord, n");
	for (unsigned i = 0; i < shape->plan->count; i++)
		if (shape->forms[i] != FORM_ABSENT)
			buffer_printf(w->sql, ", c%u", i);
	buffer_put_text(w->sql, ")");
}

/* The hash of a type that has one in every version (11 and newer); NULL: by its text. */
static const char *
hash_function(const Column *column)
{
	static const struct {
		Oid type;
		const char *name;
	} functions[] = {
		{20, "hashint8extended"},          {21, "hashint2extended"},
		{23, "hashint4extended"},          {25, "hashtextextended"},
		{26, "hashoidextended"},           {700, "hashfloat4extended"},
		{701, "hashfloat8extended"},       {1043, "hashtextextended"}, /* varchar */
		{1114, "timestamp_hash_extended"}, {1700, "hash_numeric_extended"},
		{2950, "uuid_hash_extended"},      {3802, "jsonb_hash_extended"},
	};

	for (size_t i = 0; i < sizeof(functions) / sizeof(functions[0]); i++)
		if (functions[i].type == column->target_type_oid)
			return functions[i].name;
	return NULL;
}

static void
put_side(Writer *w, bool table_side, unsigned i)
{
	if (table_side) {
		buffer_put_text(w->sql, "t.");
		put_name(w->sql, w->shape->plan->columns[i].column->name);
	} else {
		put_value_of(w, false, i, 0);
	}
}

/* Every type has a text form, and concat, which takes 100 arguments, costs a third of what
 * the text of the record does. */
static void
put_text_hash(Writer *w, bool table_side)
{
	enum { TOGETHER = 50 };
	const Plan *plan = w->shape->plan;
	unsigned done = 0;

	for (unsigned i = 0; i < plan->count; i++) {
		if (w->shape->forms[i] == FORM_ABSENT || hash_function(plan->columns[i].column) != NULL)
			continue;
		if (done == 0)
			buffer_put_text(w->sql, " OPERATOR(pg_catalog.#) pg_catalog.hashtextextended("
			                        "pg_catalog.concat('', pg_catalog.concat(''");
		else if (done % TOGETHER == 0)
			buffer_put_text(w->sql, "), pg_catalog.concat(''");
		done++;
		buffer_put_text(w->sql, ", ");
		put_side(w, table_side, i);
	}
	/* Columns of several collations leave none for the whole. */
	if (done > 0)
		buffer_put_text(w->sql, ")) COLLATE pg_catalog.\"C\", 0)");
}

/* A number that equal images have in common. Each column has a seed of its own, or two equal
 * ones would leave nothing. */
static void
put_hash(Writer *w, bool table_side)
{
	const Plan *plan = w->shape->plan;

	buffer_put_text(w->sql, "(0::pg_catalog.int8");
	for (unsigned i = 0; i < plan->count; i++) {
		const Column *column = plan->columns[i].column;
		if (w->shape->forms[i] == FORM_ABSENT)
			continue;
		const char *function = hash_function(column);
		if (function == NULL)
			continue;
		buffer_printf(w->sql, " OPERATOR(pg_catalog.#) COALESCE(pg_catalog.%s(", function);
		put_side(w, table_side, i);
		if (strcmp(function, "hashtextextended") == 0)
			buffer_put_text(w->sql, " COLLATE pg_catalog.\"C\"");
		buffer_printf(w->sql, ", %u), 0)", i + 1);
	}
	put_text_hash(w, table_side);
	buffer_put_text(w->sql, ")");
}

/*
 * One pass over the table: rows whose image is among those given, numbered within each, of
 * which the first n go. *= compares the stored bytes, which needs no equality operator and
 * tells 1.0 from 1.00; the hash only lets the server join by hashing.
 */
static void
write_delete_image(Writer *w)
{
	const char *table = w->shape->plan->table->qualified;

	buffer_printf(w->sql,
	              "DELETE FROM ONLY %s AS x USING (SELECT tid, ord FROM (SELECT "
	              "t.ctid AS tid, d.ord, d.n, pg_catalog.row_number() OVER (PARTITION BY d.ord) "
	              "AS at FROM ",
	              table);
	put_images(w);
	buffer_printf(w->sql, ", ONLY %s AS t WHERE ", table);
	put_hash(w, true);
	buffer_put_text(w->sql, " = ");
	put_hash(w, false);
	buffer_put_text(w->sql, " AND ");
	put_record(w, true, false);
	buffer_put_text(w->sql, " OPERATOR(pg_catalog.*=) ");
	put_record(w, false, false);
	buffer_put_text(w->sql, ") AS f WHERE at <= n) AS y WHERE x.ctid = y.tid RETURNING y.ord");
}

/* Where no row has the very bytes, one with equal values is taken (a NaN has several
 * images). Types without equality are compared as text, and so are those that
 * IS NOT DISTINCT FROM, which takes no OPERATOR(), does not find the equality of. */
static void
put_one_image(Writer *w)
{
	const Plan *plan = w->shape->plan;
	bool more = false;
	int parameter = 0;

	buffer_printf(w->sql, " WHERE t.ctid = COALESCE((SELECT t.ctid FROM ONLY %s AS t WHERE ",
	              plan->table->qualified);
	put_record(w, true, true);
	buffer_put_text(w->sql, " OPERATOR(pg_catalog.*=) ");
	put_record(w, false, true);
	buffer_printf(w->sql, " LIMIT 1), (SELECT t.ctid FROM ONLY %s AS t WHERE ",
	              plan->table->qualified);
	for (unsigned i = 0; i < plan->count; i++) {
		if (w->shape->key_forms[i] == FORM_ABSENT)
			continue;
		const Column *column = plan->columns[i].column;
		bool equality = column->has_equality && strcmp(column->target_equality, "=") == 0;
		put_joint(w->sql, &more, " AND ");
		buffer_put_text(w->sql, "t.");
		put_name(w->sql, column->name);
		buffer_put_text(w->sql,
		                equality ? " IS NOT DISTINCT FROM " : "::text IS NOT DISTINCT FROM (");
		put_value_of(w, true, i, ++parameter);
		buffer_put_text(w->sql, equality ? "" : ")::text");
	}
	buffer_put_text(w->sql, more ? " LIMIT 1))" : "true LIMIT 1))");
}

static void
write_one_image(Writer *w)
{
	const char *table = w->shape->plan->table->qualified;

	put_source(w, false);
	if (w->shape->op == STMT_UPDATE_ONE_IMAGE) {
		buffer_printf(w->sql, "UPDATE ONLY %s AS t", table);
		put_set(w, present(w->shape->key_forms, w->shape->plan->count));
	} else {
		buffer_printf(w->sql, "DELETE FROM ONLY %s AS t", table);
	}
	put_one_image(w);
}

/* The server itself divides by zero where the count is not what it must be, so that a
 * COMMIT may follow in the same round trip. Returns one row. */
static void
write_guarded(Writer *w)
{
	buffer_put_text(w->sql, "WITH done AS (");
	write_keyed(w);
	buffer_printf(w->sql,
	              " RETURNING 1) SELECT 1 / (pg_catalog.count(*) = %s)::pg_catalog.int4 FROM done",
	              w->shape->rows == 0 ? "pg_catalog.cardinality($1)" : "1");
}

void
stmt_sql(const Shape *shape, Buffer *sql, Oid *types, int *count)
{
	Writer w = {.shape = shape, .sql = sql, .types = types};

	switch (shape->op) {
	case STMT_INSERT:
		write_insert(&w);
		break;
	case STMT_UPDATE:
	case STMT_DELETE:
		if (shape->guarded)
			write_guarded(&w);
		else
			write_keyed(&w);
		break;
	case STMT_DELETE_IMAGE:
		write_delete_image(&w);
		break;
	case STMT_DELETE_ONE_IMAGE:
	case STMT_UPDATE_ONE_IMAGE:
		write_one_image(&w);
		break;
	}
	CHECK(w.count <= STMT_MAX_PARAMS);
	*count = w.count;
}
