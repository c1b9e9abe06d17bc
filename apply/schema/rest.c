#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "apply/schema/archive.h"
#include "apply/schema/schema.h"
#include "apply/schema/step.h"
#include "common/log.h"
#include "common/memory.h"

/* Fence triggers of ours (setup/source.h), which the dump of a source that is being
 * migrated already has: their function's schema is not in the dump. */
static bool
calls_our_schema(const SchemaWork *work, const Entry *entry)
{
	char *call = mem_printf(" EXECUTE FUNCTION %s.", work->ledger->name);
	char *quoted = mem_printf(" EXECUTE FUNCTION %s.", work->ledger->schema);
	bool ours = entry->kind == ENTRY_TRIGGER &&
	            (strstr(entry->sql, call) != NULL || strstr(entry->sql, quoted) != NULL);

	free(call);
	free(quoted);
	return ours;
}

/* Checked later, beside the apply; where that is refused (partitioned), at once: the
 * apply is paused and all lanes are level. */
static void
put_foreign_key(const char *sql, Buffer *out)
{
	ForeignKey fk;
	size_t len = strlen(sql);

	while (len > 0 && strchr(" \n\r\t;", sql[len - 1]) != NULL)
		len--;
	buffer_put(out, sql, len);
	if (foreign_key_read(sql, &fk) && !fk.partitioned && !fk.not_valid && !fk.not_enforced)
		buffer_put_text(out, " NOT VALID");
	buffer_put_text(out, ";");
}

/* Of an addition: partitions join the tables that were there before (restore.c), now that they
 * have the indexes that are asked for. */
static bool
join_partitions(const SchemaWork *work, const Archive *archive, Error *err)
{
	Entries entries = {NULL, 0};
	bool ok = work->addition == 0 || archive_read(work, archive, "pre-data", &entries, err);

	for (size_t i = 0; ok && i < entries.count; i++) {
		const Entry *entry = &entries.items[i];
		if (entry->kind == ENTRY_PARTITION)
			ok = schema_step_entry(work->target_sql, work, entry, entry->sql, err);
	}
	return ok;
}

/* What build.h has made. */
static bool
is_built(const SchemaWork *work, const Entry *entry)
{
	return entry_is_index(entry) ||
	       (entry_joins_indexes(entry) && !entry_waits_for_partition(work, entry));
}

static bool
restore_rest(const SchemaWork *work, const Entries *entries, Error *err)
{
	bool ok = true;

	for (size_t i = 0; ok && i < entries->count; i++) {
		const Entry *entry = &entries->items[i];
		Buffer sql = BUFFER_INIT;

		if (is_built(work, entry) || calls_our_schema(work, entry))
			continue;
		if (entry->kind == ENTRY_FOREIGN_KEY)
			put_foreign_key(entry->sql, &sql);
		else
			buffer_put_text(&sql, entry->sql);
		ok = schema_step_entry(work->target_sql, work, entry, buffer_cstr(&sql), err);
		buffer_free(&sql);
	}
	return ok;
}

static bool
make_rest(const SchemaWork *work, Error *err)
{
	Archive archive = {0};
	Entries entries = {NULL, 0};
	bool ok = archive_open(work, false, &archive, err) &&
	          archive_post_data(work, &archive, &entries, err) &&
	          join_partitions(work, &archive, err) && restore_rest(work, &entries, err);

	archive_close(&archive);
	return ok || error_add_context(err, "creating constraints and triggers");
}

bool
schema_rest_locking(const SchemaWork *work, Error *err)
{
	return schema_once(work, "all constraints and triggers", make_rest, err);
}
