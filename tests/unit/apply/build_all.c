#include "tests/unit/apply/build_all.h"

static bool
run_tasks(Build *build, const SchemaWork *work, Error *err)
{
	BuildTask *task;
	size_t ready;
	bool ok = true;

	for (size_t i = 0; i < work->catalog->table_count; i++)
		build_rows_in(build, &work->catalog->tables[i]);
	while (ok && (task = build_take(build, &ready)) != NULL) {
		ok = build_run(build, task, 0, work->target_sql, err);
		build_ended(build, task, ok);
	}
	return ok && build_finish(build, err);
}

bool
build_all(const SchemaWork *work, Error *err)
{
	Build *build = build_open(work, true, err);
	bool ok = build != NULL && run_tasks(build, work, err);

	build_close(build);
	return ok;
}
