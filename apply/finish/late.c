#include "apply/finish/late.h"

#include "apply/copy/copy.h"
#include "apply/finish/limit.h"
#include "common/clock.h"
#include "common/log.h"

/* COPY into a table whose indexes are there, from one table to the next; on the slow side
 * of what was seen, so that an operator plans too much rather than too little. */
#define BYTES_PER_SECOND (40.0 * 1024 * 1024)

static bool
is_late(const Table *table)
{
	return table->persistence == 'u';
}

double
late_estimate_s(const Catalog *catalog)
{
	double bytes = 0;

	for (size_t i = 0; i < catalog->table_count; i++) {
		if (is_late(&catalog->tables[i]))
			bytes += (double)catalog->tables[i].bytes;
	}
	return bytes / BYTES_PER_SECOND;
}

/* ---- unlogged tables ---- */

/* In the replica role no trigger or foreign key of theirs acts. TRUNCATE takes all in one
 * statement: they may refer to each other. */
static bool
empty_by(const LateCopy *late, const char *first, const char *next, Error *err)
{
	const Catalog *catalog = late->catalog;
	Buffer sql = BUFFER_INIT;
	const char *separator = first;

	buffer_printf(
		&sql, "BEGIN; SET LOCAL lock_timeout = %d; SET LOCAL session_replication_role = replica;",
		deadline_left_ms(late->deadline_ms) + 1);
	for (size_t i = 0; i < catalog->table_count; i++) {
		if (!is_late(&catalog->tables[i]))
			continue;
		buffer_printf(&sql, "%s%s", separator, catalog->tables[i].qualified);
		separator = next;
	}
	buffer_put_text(&sql, "; COMMIT");
	bool ok = sql_exec(late->target_sql, err, buffer_cstr(&sql));
	buffer_free(&sql);
	if (!ok)
		(void)!sql_exec(late->target_sql, NULL, "ROLLBACK");
	return ok;
}

/* A partitioned table that refers to one of them forbids TRUNCATE, and cannot be named
 * beside them: other partitions of it may have rows that are not copied again. */
static bool
empty_tables(const LateCopy *late, Error *err)
{
	return empty_by(late, "TRUNCATE ONLY ", ", ONLY ", err) ||
	       (error_has_sqlstate(err, "0A000") &&
	        empty_by(late, "DELETE FROM ONLY ", "; DELETE FROM ONLY ", err));
}

/* To their old state whatever comes of it: a start copies none of them again, the next
 * cutover copies all. */
static void
set_states(Catalog *catalog, TableState state)
{
	for (size_t i = 0; i < catalog->table_count; i++) {
		if (!is_late(&catalog->tables[i]))
			continue;
		atomic_store(&catalog->tables[i].state, (int)state);
		table_set_error(catalog, &catalog->tables[i], NULL);
	}
}

static bool
copy_until(const Stop *limit, void *arg, Error *err)
{
	const LateCopy *late = arg;
	CopyOptions options = {
		.source = late->source,
		.target = late->target,
		.ledger = late->ledger,
		.catalog = late->catalog,
		.jobs = late->jobs,
		.stop = limit,
	};

	return copy_tables(&options, err);
}

static bool
copy_again(const LateCopy *late, Error *err)
{
	LateCopy work = *late;

	set_states(late->catalog, TABLE_QUEUED);
	bool ok = within_deadline(late->stop, late->deadline_ms, copy_until, &work, err);
	set_states(late->catalog, TABLE_COPIED);
	return ok;
}

bool
late_copy(const LateCopy *late, Error *err)
{
	int64_t start_ms = clock_mono_ms();

	if (late->catalog->unlogged_tables == 0)
		return true;
	if (empty_tables(late, err) && copy_again(late, err)) {
		log_info("cutover", "unlogged tables copied again in %lld ms",
		         (long long)(clock_mono_ms() - start_ms));
		return true;
	}
	error_add_context(err, "copying the unlogged tables again");
	if (err->class != ERROR_TIMEOUT && !error_has_sqlstate(err, "55P03"))
		return false;
	err->class = ERROR_CONFIG;
	err->sqlstate[0] = '\0';
	return error_set_hint(err, "a longer --hold-timeout gives them the time; --unlogged skip or "
	                           "--exclude-table-data leave their rows out");
}
