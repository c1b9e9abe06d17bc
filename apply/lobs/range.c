/*
 * One range of OIDs: what is on both sides is read, merged, and `to` made equal, in one
 * transaction on each side.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "apply/lobs/internal.h"
#include "common/clock.h"
#include "common/fault.h"
#include "common/memory.h"

/* Of one side; NULL: nothing is there (a copy's `to`). */
typedef struct {
	PGresult *meta;
	PGresult *units;
} Side;

/* What is to be done, as found by the merges. */
typedef struct {
	int *created; /* rows of from.meta */
	size_t created_count;
	uint32_t *dropped;
	size_t dropped_count;
	Buffer changes;    /* SQL */
	LobUnits clear;    /* of `to` */
	LobUnits cut;      /* lengths, one an object */
	LobUnits move;     /* of `from` */
	uint32_t *changed; /* objects, ascending, may have one twice */
	size_t changed_count;
	uint64_t bytes; /* of `from` */
} Plan;

static void
side_clear(Side *side)
{
	PQclear(side->meta);
	PQclear(side->units);
}

static void
plan_free(Plan *plan)
{
	free(plan->created);
	free(plan->dropped);
	free(plan->changed);
	free(plan->clear.items);
	free(plan->cut.items);
	free(plan->move.items);
	buffer_free(&plan->changes);
}

/* ---- reading ---- */

/* Both sides' servers work at the same time. */
static bool
ask(Sql *sql, const char *text, Error *err)
{
	return PQsendQuery(sql_pgconn(sql), text) || sql_error_of(sql, NULL, err);
}

/* Always to the end: the session goes on. The two results that have rows are meta, units. */
static bool
answer(Sql *sql, Side *side, Error *err)
{
	bool ok = true;

	for (;;) {
		PGresult *result = NULL;
		if (!sql_next_result(sql, &result, ok ? err : NULL))
			return false;
		if (result == NULL)
			break;
		ExecStatusType status = PQresultStatus(result);
		if (status == PGRES_TUPLES_OK && side->units == NULL) {
			*(side->meta == NULL ? &side->meta : &side->units) = result;
			continue;
		}
		if (ok && status != PGRES_COMMAND_OK)
			ok = sql_error_of(sql, result, err);
		PQclear(result);
	}
	if (ok && side->units == NULL)
		ok = error_set(err, ERROR_PROTOCOL, "no large objects in the answer of the %s",
		               sql_side(sql));
	return ok;
}

static void
put_questions(const LobRun *run, const Buffer *meta, const LobRange *range, bool hash, Buffer *sql)
{
	buffer_printf(sql, "%.*s WHERE m.oid BETWEEN '%" PRIu32 "' AND '%" PRIu32 "' ORDER BY m.oid;",
	              (int)meta->len, (const char *)meta->data, range->first, range->last);
	lob_units_sql(run, range, hash, sql);
}

/* A snapshot, so that what is listed is what is then read; a borrowed session has its own. */
static bool
read_sides(const LobRun *run, const LobSession *session, const LobRange *range, Side *from,
           Side *to, Error *err)
{
	bool compare = run->ledger == NULL;
	Buffer sql = BUFFER_INIT;
	Error second = ERROR_INIT;

	if (!session->borrowed)
		buffer_put_text(&sql, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;");
	put_questions(run, &run->meta_from, range, compare, &sql);
	bool ok = ask(session->from, buffer_cstr(&sql), err);
	buffer_reset(&sql);
	put_questions(run, &run->meta_to, range, true, &sql);
	bool asked = ok && compare && ask(session->to, buffer_cstr(&sql), &second);
	buffer_free(&sql);
	ok = ok && answer(session->from, from, err);
	bool target_ok = !compare || (asked && answer(session->to, to, &second));
	if (ok && !target_ok && err != NULL)
		*err = second;
	return ok && target_ok;
}

/* ---- merging ---- */

static uint32_t
oid_at(const PGresult *rows, int row)
{
	return (uint32_t)strtoul(PQgetvalue(rows, row, 0), NULL, 10);
}

static uint64_t
unit_at(const PGresult *rows, int row)
{
	return (uint64_t)oid_at(rows, row) << 32 |
	       (uint32_t)strtoul(PQgetvalue(rows, row, UNIT_NUMBER), NULL, 10);
}

static uint64_t
bytes_at(const PGresult *rows, int row)
{
	return strtoull(PQgetvalue(rows, row, UNIT_BYTES), NULL, 10);
}

static void
plan_open(Plan *plan, const Side *from, const Side *to)
{
	size_t there = to->meta != NULL ? (size_t)PQntuples(to->meta) : 0;
	size_t units = to->units != NULL ? (size_t)PQntuples(to->units) : 0;
	size_t here = (size_t)PQntuples(from->meta);

	*plan = (Plan){
		.created = mem_alloc(sizeof(int) * (here + 1)),
		.dropped = mem_alloc(sizeof(uint32_t) * (there + 1)),
		.changed = mem_alloc(sizeof(uint32_t) *
	                         (here + units + (size_t)PQntuples(from->units) + 1)),
	};
}

static void
note_changed(Plan *plan, uint32_t oid)
{
	plan->changed[plan->changed_count++] = oid;
}

static void
merge_meta(const LobRun *run, const Side *from, const Side *to, Plan *plan)
{
	int here = PQntuples(from->meta);
	int there = to->meta != NULL ? PQntuples(to->meta) : 0;

	for (int i = 0, j = 0; i < here || j < there;) {
		uint64_t left = i < here ? oid_at(from->meta, i) : UINT64_MAX;
		uint64_t right = j < there ? oid_at(to->meta, j) : UINT64_MAX;

		if (left == right && !run->work->contents_only &&
		    !lob_meta_same(from->meta, i, to->meta, j)) {
			lob_meta_change(from->meta, i, to->meta, j, &plan->changes);
			note_changed(plan, (uint32_t)left);
		}
		if (left < right)
			plan->created[plan->created_count++] = i;
		else if (right < left)
			plan->dropped[plan->dropped_count++] = (uint32_t)right;
		i += left <= right;
		j += right <= left;
	}
}

static int
by_oid(const void *a, const void *b)
{
	uint32_t left = *(const uint32_t *)a;
	uint32_t right = *(const uint32_t *)b;

	return (left > right) - (left < right);
}

static bool
is_dropped(const Plan *plan, uint32_t oid)
{
	return bsearch(&oid, plan->dropped, plan->dropped_count, sizeof(oid), by_oid) != NULL;
}

static bool
is_created(const Plan *plan, const PGresult *meta, uint32_t oid)
{
	size_t low = 0;
	size_t high = plan->created_count;

	while (low < high) {
		size_t middle = (low + high) / 2;
		uint32_t at = oid_at(meta, plan->created[middle]);
		if (at == oid)
			return true;
		if (at < oid)
			low = middle + 1;
		else
			high = middle;
	}
	return false;
}

static bool
same_unit(const Side *from, int i, const Side *to, int j)
{
	return strcmp(PQgetvalue(from->units, i, UNIT_BYTES), PQgetvalue(to->units, j, UNIT_BYTES)) ==
	           0 &&
	       strcmp(PQgetvalue(from->units, i, UNIT_HASH), PQgetvalue(to->units, j, UNIT_HASH)) == 0;
}

/* A page may be empty, and is one all the same: it says how long the object is. */
static void
unit_differs(const LobRun *run, const Side *from, Plan *plan, LobUnit item, bool here, bool there)
{
	if (is_dropped(plan, item.oid))
		return;
	if (!is_created(plan, from->meta, item.oid))
		note_changed(plan, item.oid);
	if (there)
		lob_units_add(&plan->clear, item);
	if (here && (run->pages || item.bytes > 0))
		lob_units_add(&plan->move, item);
}

static void
merge_units(const LobRun *run, const Side *from, const Side *to, Plan *plan)
{
	int here = PQntuples(from->units);
	int there = to->units != NULL ? PQntuples(to->units) : 0;

	for (int i = 0, j = 0; i < here || j < there;) {
		uint64_t left = i < here ? unit_at(from->units, i) : UINT64_MAX;
		uint64_t right = j < there ? unit_at(to->units, j) : UINT64_MAX;
		uint64_t at = left < right ? left : right;
		LobUnit item = {(uint32_t)(at >> 32), (uint32_t)at, 0};

		if (left <= right)
			item.bytes = bytes_at(from->units, i);
		plan->bytes += item.bytes;
		if (left != right || !same_unit(from, i, to, j))
			unit_differs(run, from, plan, item, left <= right, right <= left);
		i += left <= right;
		j += right <= left;
	}
}

/* Contents: an object that has units which differ may have become shorter. Its length on
 * `from` is that of its last unit there. */
static void
merge_lengths(const Side *from, Plan *plan)
{
	int here = PQntuples(from->units);
	size_t at = 0;

	for (int i = 0; i < here; i++) {
		uint32_t oid = oid_at(from->units, i);
		if (i + 1 < here && oid_at(from->units, i + 1) == oid)
			continue;
		while (at < plan->clear.count && plan->clear.items[at].oid < oid)
			at++;
		if (at == plan->clear.count || plan->clear.items[at].oid != oid)
			continue;
		uint64_t number = (uint32_t)unit_at(from->units, i);
		lob_units_add(&plan->cut,
		              (LobUnit){oid, 0, number * LOB_UNIT_BYTES + bytes_at(from->units, i)});
	}
}

/* ---- writing ---- */

static void
put_dropped(const Plan *plan, Buffer *sql)
{
	if (plan->dropped_count == 0)
		return;
	buffer_put_text(sql, "SELECT pg_catalog.count(pg_catalog.lo_unlink(v.o)) FROM"
	                     " pg_catalog.unnest('{");
	for (size_t i = 0; i < plan->dropped_count; i++)
		buffer_printf(sql, "%s%" PRIu32, i > 0 ? "," : "", plan->dropped[i]);
	buffer_put_text(sql, "}'::pg_catalog.oid[]) AS v (o);");
}

static bool
write_objects(const LobSession *session, const Side *from, const Plan *plan, Error *err)
{
	Buffer sql = BUFFER_INIT;

	put_dropped(plan, &sql);
	lob_meta_create(from->meta, plan->created, plan->created_count, &sql);
	buffer_put(&sql, plan->changes.data, plan->changes.len);
	bool ok = sql.len == 0 || sql_exec(session->to, err, buffer_cstr(&sql));
	buffer_free(&sql);
	return ok;
}

static bool
write_units(const LobRun *run, const LobSession *session, const Plan *plan, Error *err)
{
	return (run->pages ? lob_units_clear(run, session->to, &plan->clear, err)
	                   : lob_units_cut(session->to, &plan->cut, err)) &&
	       lob_units_move(run, session, &plan->move, err);
}

/* C3: the record is part of the same transaction. */
static bool
commit(const LobRun *run, const LobSession *session, const LobRange *range, const Side *from,
       const Plan *plan, Error *err)
{
	Buffer sql = BUFFER_INIT;

	if (run->ledger != NULL)
		lob_record_sql(run, range, (uint64_t)PQntuples(from->meta), plan->bytes, &sql);
	FAULT_POINT("lobs_commit");
	buffer_put_text(&sql, "COMMIT");
	bool ok = sql_exec(session->to, err, buffer_cstr(&sql));
	buffer_free(&sql);
	FAULT_POINT("lobs_committed");
	return ok;
}

static bool
write_range(const LobRun *run, const LobSession *session, const LobRange *range, const Side *from,
            const Plan *plan, Error *err)
{
	return write_objects(session, from, plan, err) && write_units(run, session, plan, err) &&
	       commit(run, session, range, from, plan, err);
}

/* ---- the range ---- */

static size_t
count_changed(Plan *plan)
{
	size_t count = 0;

	qsort(plan->changed, plan->changed_count, sizeof(uint32_t), by_oid);
	for (size_t i = 0; i < plan->changed_count; i++)
		count += i == 0 || plan->changed[i] != plan->changed[i - 1];
	return count;
}

static void
describe_first(const LobRun *run, const Side *from, const Plan *plan, char *out, size_t size)
{
	if (plan->changed_count > 0)
		snprintf(out, size, "large object %" PRIu32 " is not the same", plan->changed[0]);
	else if (plan->created_count > 0)
		snprintf(out, size, "large object %" PRIu32 " is not on the %s",
		         oid_at(from->meta, plan->created[0]), run->work->to_side);
	else
		snprintf(out, size, "large object %" PRIu32 " is on the %s only", plan->dropped[0],
		         run->work->to_side);
}

static void
count_found(LobRun *run, const Side *from, Plan *plan)
{
	size_t changed = count_changed(plan);

	pthread_mutex_lock(&run->lock);
	run->found.objects += (uint64_t)PQntuples(from->meta);
	run->found.bytes += plan->bytes;
	if (lobs_differ(&run->found) == 0 && changed + plan->created_count + plan->dropped_count > 0)
		describe_first(run, from, plan, run->found.first, sizeof(run->found.first));
	run->found.changed += changed;
	run->found.created += plan->created_count;
	run->found.dropped += plan->dropped_count;
	pthread_mutex_unlock(&run->lock);
	if (run->progress != NULL)
		atomic_fetch_add(&run->progress->objects, (uint64_t)PQntuples(from->meta));
}

static bool
merge_and_write(LobRun *run, const LobSession *session, const LobRange *range, const Side *from,
                const Side *to, Error *err)
{
	Plan plan;

	plan_open(&plan, from, to);
	merge_meta(run, from, to, &plan);
	merge_units(run, from, to, &plan);
	if (!run->pages)
		merge_lengths(from, &plan);
	bool differs = plan.changed_count + plan.created_count + plan.dropped_count > 0;
	bool ok = run->write && (differs || run->ledger != NULL)
	              ? write_range(run, session, range, from, &plan, err)
	              : sql_exec(session->to, err, "ROLLBACK");
	if (ok)
		count_found(run, from, &plan);
	plan_free(&plan);
	return ok;
}

/* Before 17 the server has no clock for a transaction that is busy: one large object must not
 * keep the hold past its deadline (K1). */
static void
limit_holder(const LobWork *work, Sql *holder)
{
	int left = deadline_left_ms(work->deadline_ms);

	if (work->deadline_ms != 0)
		sql_set_timeout_ms(holder, left > 0 ? left : 1);
}

bool
lob_range_do(LobRun *run, const LobSession *session, LobRange *range, Error *err)
{
	Side from = {NULL, NULL};
	Side to = {NULL, NULL};

	if (session->borrowed)
		limit_holder(run->work, session->from);
	if (!sql_exec(session->to, err, "BEGIN") ||
	    (run->ledger != NULL && !lob_record_lock(run, session->to, range, err)))
		return false;
	if (range->done)
		return sql_exec(session->to, err, "ROLLBACK");
	bool ok = read_sides(run, session, range, &from, &to, err) &&
	          merge_and_write(run, session, range, &from, &to, err) &&
	          (session->borrowed || sql_exec(session->from, err, "COMMIT"));
	side_clear(&from);
	side_clear(&to);
	return ok || error_add_context(err, "large objects %" PRIu32 " to %" PRIu32, range->first,
	                               range->last);
}
