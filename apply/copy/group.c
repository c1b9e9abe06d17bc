#include "apply/copy/group.h"

#include <stdlib.h>
#include <string.h>

#include "apply/copy/split.h"
#include "apply/schema/build.h"
#include "common/memory.h"

bool
copy_group_takes(const CopyOptions *options, const Table *table)
{
	return build_is_small(table) && !table->rows_remain && !split_wanted(options, table);
}

void
copy_group_clear(CopyGroup *group)
{
	copy_view_clear(&group->view);
}

/* As the source's query of the columns has them. */
static int
by_oid(const void *a, const void *b)
{
	const Table *const *left = a;
	const Table *const *right = b;

	return ((*left)->oid > (*right)->oid) - ((*left)->oid < (*right)->oid);
}

static bool
copy_all_rows(const CopySession *session, const CopyOptions *options, CopyGroup *group, Error *err)
{
	for (size_t i = 0; i < group->count; i++) {
		Table *table = group->tables[i];
		if (!copy_rows(session, options, table, NULL, false, &group->rows[i], &group->bytes[i],
		               err))
			return error_add_context(err, "table %s.%s", table->schema, table->name);
	}
	return true;
}

static bool
record_all(const CopySession *session, const CopyOptions *options, const CopyGroup *group,
           Error *err)
{
	LedgerCopied copied[COPY_GROUP_MOST];
	char *stamps = mem_strdup(group->view.stamps);
	char *rest = stamps;
	Buffer sql = BUFFER_INIT;

	if (options->build != NULL)
		build_put_whole(options->build, group->tables, group->count, &sql);
	for (size_t i = 0; i < group->count; i++)
		copied[i] = (LedgerCopied){.table = group->tables[i],
		                           .snapshot = group->view.snapshot,
		                           .lsn = group->view.lsn,
		                           .rows = group->rows[i],
		                           .bytes = group->bytes[i],
		                           .stamp = strsep(&rest, "\n")};
	ledger_copied_sql(options->ledger, copied, group->count, &sql);
	bool ok = copy_target_record(session->target, buffer_cstr(&sql), group->count, err);
	buffer_free(&sql);
	free(stamps);
	return ok;
}

bool
copy_group_once(CopySession *session, const CopyOptions *options, const SharedSnapshot *shared,
                CopyGroup *group, Error *err)
{
	qsort(group->tables, group->count, sizeof(group->tables[0]), by_oid);
	for (size_t i = 0; i < group->count; i++) {
		atomic_store(&group->tables[i]->copied_rows, 0);
		atomic_store(&group->tables[i]->copied_bytes, 0);
	}
	/* While the copy is held no snapshot is taken. */
	return throttle_take(options->throttle, 0, options->stop, err) &&
	       copy_target_begin_group(session, group->tables, group->count, err) &&
	       copy_source_begin_group(session->source, options->ledger, group->tables, group->count,
	                               shared, &group->view, err) &&
	       copy_all_rows(session, options, group, err) &&
	       copy_source_end(session->source, options->catalog, group->view.lsn, options->stop,
	                       err) &&
	       record_all(session, options, group, err) &&
	       copy_target_commit(session->target, &group->commit, err);
}
