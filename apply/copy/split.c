#include "apply/copy/split.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/fault.h"
#include "common/memory.h"
#include "protocol/replication.h"

/* So many ranges of a table that is just large enough: a worker that comes last idles for a
 * quarter of the threshold's time at most. */
enum { PIECES = 4, MOST_PIECES = 4096 };

/*
 * A byte of TOAST takes more than four times as long as one of the heap, in one process at
 * each end: it is decompressed and compressed again. And a table that is TOAST for the most
 * part loses little when it is not frozen.
 */
enum { TOAST_WEIGHT = 8 };

static uint64_t
weight_of(const Table *table)
{
	uint64_t toast = table->toast_bytes < table->bytes ? table->toast_bytes : table->bytes;

	return table->bytes + (TOAST_WEIGHT - 1) * toast;
}

static const Column *
only_integer_key(const Table *table)
{
	if (table->key != KEY_INDEX || table->key_count != 1)
		return NULL;
	const Column *column = &table->columns[table->key_columns[0]];
	bool integer = strcmp(column->type, "bigint") == 0 || strcmp(column->type, "integer") == 0 ||
	               strcmp(column->type, "smallint") == 0;
	return integer && !column->generated ? column : NULL;
}

bool
split_wanted(const CopyOptions *options, const Table *table)
{
	Buffer columns = BUFFER_INIT;
	bool any = copy_put_columns(table, &columns);

	buffer_free(&columns);
	/* A small table's indexes are made in the transaction of its rows, so there has to be one. */
	if (options->build != NULL && build_is_small(table))
		return false;
	return any && options->split_above > 0 && weight_of(table) > options->split_above &&
	       (options->catalog->source_version >= 140000 || only_integer_key(table) != NULL);
}

/* ---- ranges ---- */

static size_t
pieces_of(const CopyOptions *options, const Table *table)
{
	uint64_t piece = options->split_above / PIECES + 1;
	uint64_t pieces = weight_of(table) / piece + 1;

	return pieces < MOST_PIECES ? (size_t)pieces : MOST_PIECES;
}

/* Equal steps from low to high; fewer where they would be empty. */
static void
cut(Split *split, int64_t low, int64_t high, size_t pieces)
{
	uint64_t span = (uint64_t)high - (uint64_t)low + 1;

	if (span != 0 && span < pieces)
		pieces = (size_t)span;
	uint64_t step = (span == 0 ? UINT64_MAX : span) / pieces;
	split->count = pieces;
	split->bounds = mem_alloc(sizeof(int64_t) * pieces);
	for (size_t i = 0; i + 1 < pieces; i++)
		split->bounds[i] = (int64_t)((uint64_t)low + step * (i + 1));
}

/* False and no error: nothing to cut. */
static bool
cut_by_key(Split *split, const CopyOptions *options, bool *cuttable, Error *err)
{
	Buffer sql = BUFFER_INIT;
	WireResult *result = NULL;

	sql_put_identifier(&sql, only_integer_key(split->table)->name);
	split->key = mem_strdup(buffer_cstr(&sql));
	buffer_reset(&sql);
	buffer_printf(&sql, "SELECT min(%s)::text, max(%s)::text FROM ONLY %s", split->key, split->key,
	              split->table->qualified);
	bool ok = copy_query(split->holder, "source", buffer_cstr(&sql), &result, err);
	buffer_free(&sql);
	if (!ok)
		return false;
	const char *low = wire_result_rows(result) == 1 ? wire_result_get(result, 0, 0) : NULL;
	const char *high = low != NULL ? wire_result_get(result, 0, 1) : NULL;
	*cuttable = high != NULL;
	if (*cuttable)
		cut(split, strtoll(low, NULL, 10), strtoll(high, NULL, 10),
		    pieces_of(options, split->table));
	wire_result_free(result);
	return true;
}

static bool
make_ranges(Split *split, const CopyOptions *options, bool *cuttable, Error *err)
{
	if (wire_server_version(split->holder) < 140000)
		return cut_by_key(split, options, cuttable, err);
	*cuttable = split->view.pages > 1;
	if (*cuttable)
		cut(split, 0, (int64_t)split->view.pages - 1, pieces_of(options, split->table));
	return true;
}

static void
put_bound(Buffer *sql, const Split *split, const char *operator, int64_t bound)
{
	if (split->key != NULL)
		buffer_printf(sql, "%s %s %" PRId64, split->key, operator, bound);
	else
		buffer_printf(sql, "ctid %s '(%" PRId64 ",0)'::pg_catalog.tid", operator, bound);
}

/* Together they hold every row once; a key that identifies rows has no NULLs. */
static void
put_range(Buffer *sql, const Split *split, size_t range)
{
	bool first = range == 0;
	bool last = range + 1 == split->count;

	if (!first)
		put_bound(sql, split, ">=", split->bounds[range - 1]);
	if (!first && !last)
		buffer_put_text(sql, " AND ");
	if (!last)
		put_bound(sql, split, "<", split->bounds[range]);
	if (first && last)
		buffer_put_text(sql, "true");
}

/* ---- begin ---- */

void
split_let_go(Split *split)
{
	wire_close(split->holder);
	split->holder = NULL;
}

void
split_free(Split *split)
{
	if (split == NULL)
		return;
	split_let_go(split);
	copy_view_clear(&split->view);
	pthread_mutex_destroy(&split->reading);
	free(split->bounds);
	free((void *)(uintptr_t)split->key);
	free(split);
}

/* The target first, as with a whole table: its locks must not age the snapshot. */
static bool
begin(CopySession *session, const CopyOptions *options, const SharedSnapshot *shared, Split *split,
      bool *splittable, Error *err)
{
	Table *table = split->table;

	if (!throttle_take(options->throttle, 0, options->stop, err) ||
	    !copy_target_can_empty(session, table, splittable, err))
		return false;
	if (!*splittable)
		return true;
	split->holder = copy_source_connect(options, err);
	if (split->holder == NULL ||
	    !copy_target_begin_split(session, options->ledger, table, split->attempt, err))
		return false;
	table->rows_remain = true;
	/* The flush is asked for by a commit, which the holder must not make. */
	return copy_source_begin(split->holder, options->ledger, table, shared, true, &split->view,
	                         err) &&
	       copy_source_flushed(session->source, split->view.lsn, options->stop, err) &&
	       make_ranges(split, options, splittable, err);
}

bool
split_begin(CopySession *session, const CopyOptions *options, Table *table,
            const SharedSnapshot *shared, Split **out, Error *err)
{
	Split *split = mem_zalloc(sizeof(Split));
	bool splittable = false;

	pthread_mutex_init(&split->reading, NULL);
	split->table = table;
	split->began_ms = clock_mono_ms();
	atomic_store(&table->copied_rows, 0);
	atomic_store(&table->copied_bytes, 0);
	*out = NULL;
	bool ok = begin(session, options, shared, split, &splittable, err);
	if (ok && splittable)
		*out = split;
	else
		split_free(split);
	return ok;
}

/* ---- one range ---- */

/* The holder has the lock already: a queue behind which others would wait for its end does not
 * concern it. What fails in the middle of it takes the snapshot along. */
static bool
read_through_holder(const CopySession *session, const CopyOptions *options, Split *split,
                    const char *where, uint64_t *rows, uint64_t *bytes, Error *err)
{
	CopySession through = *session;

	pthread_mutex_lock(&split->reading);
	through.source = split->holder;
	bool ok = split->holder != NULL
	              ? copy_rows(&through, options, split->table, where, false, rows, bytes, err)
	              : error_set(err, ERROR_NETWORK, "the table's snapshot is lost");
	if (!ok)
		split_let_go(split);
	pthread_mutex_unlock(&split->reading);
	return ok;
}

static bool
read_range(const CopySession *session, const CopyOptions *options, Split *split, const char *where,
           uint64_t *rows, uint64_t *bytes, Error *err)
{
	bool queued = false;

	if (!copy_source_join(session->source, split->view.exported, split->table, &queued, err))
		return false;
	if (queued) {
		catalog_note_copied(options->catalog, split->view.lsn);
		return read_through_holder(session, options, split, where, rows, bytes, err);
	}
	if (!copy_rows(session, options, split->table, where, false, rows, bytes, err))
		return false;
	/* As in copy_source_end: it may be the last that the table needs of the source. */
	catalog_note_copied(options->catalog, split->view.lsn);
	return copy_query(session->source, "source", "COMMIT", NULL, err);
}

static bool
copy_range(CopySession *session, const CopyOptions *options, Split *split, size_t range,
           CopyCommit *commit, uint64_t *rows, uint64_t *bytes, Error *err)
{
	Buffer where = BUFFER_INIT;

	put_range(&where, split, range);
	bool ok = copy_target_begin_range(session, options->ledger, split->table, split->attempt,
	                                  err) &&
	          read_range(session, options, split, buffer_cstr(&where), rows, bytes, err) &&
	          copy_target_commit(session->target, commit, err);
	buffer_free(&where);
	return ok;
}

bool
split_copy_range(CopySession *session, const CopyOptions *options, Split *split, size_t range,
                 CopyCommit *commit, uint64_t *rows, uint64_t *bytes, Error *err)
{
	/* A range has no record of its own, and its xid may be another's after a crash of the
	 * target: then nothing says whether it is in, and the table begins anew. */
	if (commit->commit_sent)
		return error_set(err, ERROR_NETWORK,
		                 "the outcome of the commit of range %zu of %zu is not known", range + 1,
		                 split->count);
	/* What the try before has added to the status. */
	atomic_fetch_sub(&split->table->copied_rows, *rows);
	atomic_fetch_sub(&split->table->copied_bytes, *bytes);
	*rows = *bytes = 0;
	if (!copy_range(session, options, split, range, commit, rows, bytes, err))
		return error_add_context(err, "range %zu of %zu", range + 1, split->count);
	FAULT_POINT("copy_range");
	return true;
}

/* ---- the end ---- */

bool
split_record(CopySession *session, const CopyOptions *options, const Split *split, Error *err)
{
	const LedgerCopied copied = {.table = split->table,
	                             .snapshot = split->view.snapshot,
	                             .lsn = split->view.lsn,
	                             .rows = split->rows,
	                             .bytes = split->bytes,
	                             .stamp = split->view.stamps};
	Buffer sql = BUFFER_INIT;
	CopyCommit commit = {false};

	ledger_attempt_copied_sql(options->ledger, split->attempt, &copied, &sql);
	bool ok = copy_query(session->target, "target", "BEGIN", NULL, err) &&
	          copy_target_record(session->target, buffer_cstr(&sql), 1, err) &&
	          copy_target_commit(session->target, &commit, err);
	buffer_free(&sql);
	return ok;
}
