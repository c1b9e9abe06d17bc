#include "apply/copy/table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "apply/schema/build.h"
#include "common/memory.h"
#include "protocol/replication.h"

void
copy_attempt_clear(CopyAttempt *attempt)
{
	copy_view_clear(&attempt->view);
	*attempt = (CopyAttempt){0};
}

/* ---- rows ---- */

/* A table without such columns has no list at all: "()" is no SQL. */
static void
put_column_list(Buffer *sql, const Table *table)
{
	size_t before = sql->len;

	buffer_put_text(sql, " (");
	if (copy_put_columns(table, sql))
		buffer_put_text(sql, ")");
	else
		sql->len = before;
}

static void
put_copy_out(Buffer *sql, const Table *table, const char *where)
{
	buffer_put_text(sql, "COPY ");
	if (where != NULL) {
		buffer_put_text(sql, "(SELECT ");
		copy_put_columns(table, sql);
		buffer_printf(sql, " FROM ONLY %s WHERE %s)", table->qualified, where);
	} else {
		buffer_put_text(sql, table->qualified);
		put_column_list(sql, table);
	}
	buffer_printf(sql, " TO STDOUT WITH (FORMAT %s)", table->copy_binary ? "binary" : "text");
}

static void
put_copy_in(Buffer *sql, const Table *table, bool freeze)
{
	buffer_printf(sql, "COPY %s", table->qualified);
	put_column_list(sql, table);
	buffer_printf(sql, " FROM STDIN WITH (FORMAT %s%s)", table->copy_binary ? "binary" : "text",
	              freeze ? ", FREEZE" : "");
}

static bool
start_copies(const CopySession *session, const Table *table, const char *where, bool freeze,
             Error *err)
{
	Buffer sql = BUFFER_INIT;

	put_copy_out(&sql, table, where);
	bool ok = wire_copy_out_start(session->source, buffer_cstr(&sql), err);
	if (!ok)
		error_add_context(err, "source");
	buffer_reset(&sql);
	put_copy_in(&sql, table, freeze);
	if (ok && !wire_copy_in_start(session->target, buffer_cstr(&sql), err))
		ok = error_add_context(err, "target");
	buffer_free(&sql);
	return ok;
}

/* No work per row: runs of frames go over as they came. */
static bool
relay(const CopySession *session, const CopyOptions *options, Table *table, uint64_t *rows,
      uint64_t *bytes, Error *err)
{
	uint64_t source_rows = 0;
	uint64_t target_rows = 0;

	for (bool done = false; !done;) {
		Slice frames = SLICE_EMPTY;
		uint64_t messages = 0;
		if (!wire_copy_out_next(session->source, &frames, &messages, &done, &source_rows, err))
			return error_add_context(err, "source");
		if (frames.len == 0)
			continue;
		if (!throttle_take(options->throttle, frames.len, options->stop, err))
			return false;
		if (!wire_copy_in_frames(session->target, frames, err))
			return error_add_context(err, "target");
		*rows += messages;
		*bytes += frames.len;
		atomic_fetch_add_explicit(&table->copied_rows, messages, memory_order_relaxed);
		atomic_fetch_add_explicit(&table->copied_bytes, frames.len, memory_order_relaxed);
	}
	if (!wire_copy_in_end(session->target, &target_rows, err))
		return error_add_context(err, "target");
	if (target_rows != source_rows)
		return error_set(err, ERROR_DIVERGENCE, "the source sent %llu rows, the target stored %llu",
		                 (unsigned long long)source_rows, (unsigned long long)target_rows);
	/* Binary has a header and a trailer, which were counted as rows. */
	atomic_fetch_sub_explicit(&table->copied_rows, *rows - target_rows, memory_order_relaxed);
	*rows = target_rows;
	return true;
}

bool
copy_rows(const CopySession *session, const CopyOptions *options, Table *table, const char *where,
          bool freeze, uint64_t *rows, uint64_t *bytes, Error *err)
{
	*rows = *bytes = 0;
	return start_copies(session, table, where, freeze, err) &&
	       relay(session, options, table, rows, bytes, err);
}

/* ---- a table ---- */

/* C3: the record is part of the rows' own transaction, and for a small table its indexes
 * are too: for thousands of them a transaction each would cost more than they do. */
static bool
record_copied(const CopySession *session, const CopyOptions *options, Table *table,
              const CopyAttempt *attempt, Error *err)
{
	const LedgerCopied copied = {.table = table,
	                             .snapshot = attempt->view.snapshot,
	                             .lsn = attempt->view.lsn,
	                             .rows = attempt->rows,
	                             .bytes = attempt->bytes,
	                             .stamp = attempt->view.stamps};
	Buffer sql = BUFFER_INIT;

	if (build_is_small(table) && options->build != NULL)
		build_put_whole(options->build, &table, 1, &sql);
	ledger_copied_sql(options->ledger, &copied, 1, &sql);
	bool ok = copy_target_record(session->target, buffer_cstr(&sql), 1, err);
	buffer_free(&sql);
	return ok;
}

bool
copy_table_once(CopySession *session, const CopyOptions *options, Table *table,
                const SharedSnapshot *shared, CopyAttempt *attempt, Error *err)
{
	bool fresh = false;

	copy_attempt_clear(attempt);
	atomic_store(&table->copied_rows, 0);
	atomic_store(&table->copied_bytes, 0);

	/* The target first: waiting for its locks must not age the source's snapshot. And while
	 * the copy is held none is taken at all. */
	return throttle_take(options->throttle, 0, options->stop, err) &&
	       copy_target_begin(session, table, &fresh, err) &&
	       copy_source_begin(session->source, options->ledger, table, shared, false, &attempt->view,
	                         err) &&
	       copy_rows(session, options, table, NULL, fresh, &attempt->rows, &attempt->bytes, err) &&
	       copy_source_end(session->source, options->catalog, attempt->view.lsn, options->stop,
	                       err) &&
	       record_copied(session, options, table, attempt, err) &&
	       copy_target_commit(session->target, &attempt->commit, err);
}
