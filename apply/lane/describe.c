#include "apply/lane/describe.h"

#include <stdlib.h>
#include <string.h>

enum { SHOWN_BYTES = 120, SHOWN_COLUMNS = 6 };

static bool
is_printable(uint32_t oid)
{
	return oid == 25 /* text */ || oid == 1043 /* varchar */ || oid == 1042 /* bpchar */ ||
	       oid == 19 /* name */;
}

static void
put_binary(Buffer *out, const Column *column, Slice bytes)
{
	ByteReader r = reader_of(bytes);

	if (column->type_oid == 20 /* int8 */ && bytes.len == 8)
		buffer_printf(out, "%lld", (long long)(int64_t)read_u64(&r));
	else if (column->type_oid == 23 /* int4 */ && bytes.len == 4)
		buffer_printf(out, "%d", (int)(int32_t)read_u32(&r));
	else if (column->type_oid == 21 /* int2 */ && bytes.len == 2)
		buffer_printf(out, "%d", (int)(int16_t)read_u16(&r));
	else {
		buffer_put_text(out, "\\x");
		for (size_t i = 0; i < bytes.len && i < SHOWN_BYTES / 2; i++)
			buffer_printf(out, "%02x", bytes.data[i]);
	}
}

static void
put_value(Buffer *out, const Column *column, const Value *value)
{
	if (value->kind == VALUE_NULL)
		buffer_put_text(out, "NULL");
	else if (value->kind == VALUE_TEXT || is_printable(column->type_oid))
		buffer_put(out, value->bytes.data,
		           value->bytes.len < SHOWN_BYTES ? value->bytes.len : SHOWN_BYTES);
	else
		put_binary(out, column, value->bytes);
}

/* "(a, b)=(1, x)": the key, or the first columns of a table without one. */
static void
put_row(Buffer *out, const Plan *plan, const Value *row)
{
	unsigned count = plan->key == KEY_INDEX ? plan->key_count : plan->count;

	if (count > SHOWN_COLUMNS)
		count = SHOWN_COLUMNS;
	for (int pass = 0; pass < 2; pass++) {
		buffer_put_text(out, pass == 0 ? "(" : ")=(");
		bool more = false;
		for (unsigned i = 0; i < count; i++) {
			unsigned at = plan->key == KEY_INDEX ? plan->key_columns[i] : i;
			if (plan->columns[at].column == NULL)
				continue;
			if (more)
				buffer_put_text(out, ", ");
			more = true;
			if (pass == 0)
				buffer_put_text(out, plan->columns[at].column->name);
			else
				put_value(out, plan->columns[at].column, &row[at]);
		}
	}
	buffer_put_text(out, ")");
}

static const char *
verb(const Change *change)
{
	switch (change->kind) {
	case PGO_INSERT:
		return "insert";
	case PGO_UPDATE:
		return "update";
	case PGO_DELETE:
		return "delete";
	default:
		return "truncate";
	}
}

Table *
describe_table(const Change *change)
{
	return change->plan != NULL ? change->plan->table : change->tables[0];
}

/* Instead of "2 rows where 1 were expected". */
static bool
set_divergence(const char *what, Error *err)
{
	long long found = strtoll(err->message, NULL, 10);

	if (found == 0)
		return error_set(err, ERROR_DIVERGENCE, "%s: the row is not on the target", what);
	return error_set(err, ERROR_DIVERGENCE, "%s: the row is %lld times on the target", what, found);
}

bool
describe_failure(const Change *change, Error *err)
{
	Buffer text = BUFFER_INIT;

	if (err == NULL)
		return false;
	if (change->plan == NULL) {
		buffer_put_text(&text, "truncate of ");
		for (uint32_t i = 0; i < change->table_count; i++)
			buffer_printf(&text, "%s%s", i > 0 ? ", " : "", change->tables[i]->qualified);
	} else {
		const Value *row = change->old_row != NULL ? change->old_row : change->new_row;
		buffer_printf(&text, "%s of row ", verb(change));
		put_row(&text, change->plan, row);
		buffer_printf(&text, " of %s", change->plan->table->qualified);
	}
	buffer_printf(&text, ", source transaction %u committed at %s", change->xid,
	              LSN_STR(change->commit_lsn));

	if (err->class == ERROR_DIVERGENCE)
		set_divergence(buffer_cstr(&text), err);
	else
		error_add_context(err, "%s", buffer_cstr(&text));
	if (change->plan == NULL && error_has_sqlstate(err, "0A000"))
		error_set_hint(err, "a table on the target refers to one that is truncated: drop that "
		                    "foreign key on the target, then \"pgbaton resume\"");
	else if (error_has_sqlstate(err, "22P02") && strstr(err->message, " for enum ") != NULL)
		error_set_hint(err, "the type was changed on the source while it was being migrated: ALTER "
		                    "TYPE ... ADD VALUE (or RENAME VALUE) on the target, too, then "
		                    "\"pgbaton resume\"");
	else if (error_has_sqlstate(err, "23514") || error_has_sqlstate(err, "23502"))
		error_set_hint(err, "the target demands what the source does not: drop that constraint "
		                    "there, then \"pgbaton resume\"");
	else if (error_has_sqlstate(err, "23505") || error_has_sqlstate(err, "23P01"))
		error_set_hint(err,
		               "mend the row that is in the way on the target, or drop that "
		               "constraint there if the source has none such, then \"pgbaton resume\"");
	else if (err->hint[0] == '\0')
		error_set_hint(err, "mend the row on the target, then \"pgbaton resume\"");
	buffer_free(&text);
	return false;
}
