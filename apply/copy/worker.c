/* A copy worker: one thing after the other, each with its tries. */
#include <string.h>

#include "apply/copy/run.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/memory.h"

enum { BACKOFF_MS = 500, BACKOFF_MAX_MS = 15000 };

/* Its sessions: at the target either the one or the other is open. */
typedef struct {
	CopyRun *run;
	CopySession session;
	Sql *sql; /* for indexes */
} Worker;

static bool
sqlstate_in(const Error *err, const char *class)
{
	return strncmp(err->sqlstate, class, 2) == 0;
}

/*
 * What may be otherwise at the next try: connections, deadlocks, lack of connections or
 * memory, an administrator's intervention. Not: what the data or the catalogue say
 * (22, 23, 42), and not a full disk, which only somebody else can empty.
 */
static bool
worth_another_try(const Error *err)
{
	switch (err->class) {
	case ERROR_NETWORK:
	case ERROR_TIMEOUT:
		return true;
	case ERROR_SQL:
		break;
	default:
		return false;
	}
	if (error_has_sqlstate(err, "53100"))
		return false;
	return sqlstate_in(err, "08") || sqlstate_in(err, "40") || sqlstate_in(err, "53") ||
	       sqlstate_in(err, "55") || sqlstate_in(err, "57") || sqlstate_in(err, "72");
}

/* ---- tries ---- */

static bool
open_sessions(Worker *worker, const Work *work, Error *err)
{
	const CopyOptions *options = worker->run->options;

	if (work->kind != WORK_BUILD) {
		sql_close(worker->sql);
		worker->sql = NULL;
		return copy_session_open(&worker->session, options, err);
	}
	wire_close(worker->session.target);
	worker->session.target = NULL;
	if (worker->sql == NULL)
		worker->sql = sql_connect(options->target, "target", "index", options->stop, err);
	return worker->sql != NULL;
}

static void
close_sessions(Worker *worker)
{
	copy_session_close(&worker->session);
	sql_close(worker->sql);
	worker->sql = NULL;
}

static int64_t
backoff_ms(int tried)
{
	int64_t ms = BACKOFF_MS;

	while (--tried > 0 && ms < BACKOFF_MAX_MS)
		ms *= 2;
	return clock_jitter_ms(ms);
}

static const char *
work_name(const Work *work)
{
	return work->kind == WORK_BUILD ? build_task_name(work->task) : work->table->qualified;
}

typedef bool (*Try)(Worker *worker, Work *work, Error *err);

/* Sessions may be closed or left over from the work before. A failure while they are
 * opened is not about this work: no other will do better. */
static bool
try_often(Worker *worker, Work *work, Try try, Error *err)
{
	const Stop *stop = worker->run->options->stop;
	int tries = copy_run_tries(worker->run);

	for (int tried = 1;; tried++) {
		error_clear(err);
		bool reached = open_sessions(worker, work, err);
		if (reached && try(worker, work, err))
			return true;
		close_sessions(worker);
		if (tried >= tries || !worth_another_try(err) || stop_requested(stop)) {
			if (!reached && err->class != ERROR_CANCELLED)
				copy_run_unreachable(worker->run);
			return false;
		}
		error_add_context(err, "%s, try %d of %d", work_name(work), tried, tries);
		log_failure(LOG_WARNING, "copy", err);
		if (!stop_sleep_ms(stop, backoff_ms(tried), err))
			return false;
	}
}

/* ---- whole tables ---- */

static bool
try_table(Worker *worker, Work *work, Error *err)
{
	const CopyRun *run = worker->run;
	bool committed = false;

	if (work->attempt.commit.commit_sent &&
	    !copy_target_outcome(&worker->session, run->options->ledger, work->table,
	                         work->attempt.view.snapshot, &committed, err))
		return false;
	return committed || copy_table_once(&worker->session, run->options, work->table, run->shared,
	                                    &work->attempt, err);
}

static void
do_whole(Worker *worker, Work *work)
{
	const CopyAttempt *attempt = &work->attempt;
	Error err = ERROR_INIT;

	if (try_often(worker, work, try_table, &err))
		copy_run_copied(worker->run, work->table, attempt->view.snapshot, attempt->view.lsn,
		                attempt->rows, attempt->bytes, work->began_ms);
	else
		copy_run_failed(worker->run, work->table, &err);
	copy_attempt_clear(&work->attempt);
}

static bool
try_split(Worker *worker, Work *work, Error *err)
{
	const CopyRun *run = worker->run;
	return split_begin(&worker->session, run->options, work->table, run->shared, &work->split, err);
}

static void
do_table(Worker *worker, Work *work)
{
	Error err = ERROR_INIT;

	if (!split_wanted(worker->run->options, work->table)) {
		do_whole(worker, work);
		return;
	}
	if (!try_often(worker, work, try_split, &err))
		copy_run_failed(worker->run, work->table, &err);
	else if (work->split == NULL)
		do_whole(worker, work);
	else
		copy_run_split(worker->run, work->split);
}

/* ---- several tables ---- */

static void
group_copied(Worker *worker, const Work *work)
{
	const CopyGroup *group = &work->group;

	for (size_t i = 0; i < group->count; i++)
		copy_run_copied(worker->run, group->tables[i], group->view.snapshot, group->view.lsn,
		                group->rows[i], group->bytes[i], work->began_ms);
}

/* Each for itself; what came of a COMMIT without answer is looked up first. */
static void
do_singly(Worker *worker, const Work *work)
{
	const CopyGroup *group = &work->group;

	for (size_t i = 0; i < group->count; i++) {
		Work one = {.kind = WORK_TABLE, .table = group->tables[i], .began_ms = work->began_ms};
		if (copy_run_given_up(worker->run, one.table))
			continue;
		if (group->commit.commit_sent) {
			one.attempt.commit = group->commit;
			one.attempt.view.snapshot = mem_strdup(group->view.snapshot);
			one.attempt.view.lsn = group->view.lsn;
			one.attempt.rows = group->rows[i];
			one.attempt.bytes = group->bytes[i];
		}
		do_whole(worker, &one);
	}
}

static void
do_group(Worker *worker, Work *work)
{
	const CopyRun *run = worker->run;
	Error err = ERROR_INIT;
	bool ok = open_sessions(worker, work, &err) &&
	          copy_group_once(&worker->session, run->options, run->shared, &work->group, &err);

	if (ok) {
		group_copied(worker, work);
	} else {
		close_sessions(worker);
		log_debug("copy", "%zu tables at once: %s; now one by one", work->group.count, err.message);
		do_singly(worker, work);
	}
	copy_group_clear(&work->group);
}

/* ---- ranges ---- */

static bool
try_range(Worker *worker, Work *work, Error *err)
{
	return split_copy_range(&worker->session, worker->run->options, work->split, work->range,
	                        &work->commit, &work->rows, &work->bytes, err);
}

static bool
try_record(Worker *worker, Work *work, Error *err)
{
	return split_record(&worker->session, worker->run->options, work->split, err);
}

/* What a new snapshot may heal begins anew, after a pause; the rows that are in already are
 * removed then. */
static void
split_broken(Worker *worker, Split *split)
{
	const Stop *stop = worker->run->options->stop;
	Error ignored = ERROR_INIT;

	if (!worth_another_try(&split->error) || !stop_sleep_ms(stop, backoff_ms(1), &ignored) ||
	    !copy_run_again(worker->run, split->table))
		copy_run_failed(worker->run, split->table, &split->error);
	else
		log_failure(LOG_WARNING, "copy", &split->error);
}

static void
split_ended(Worker *worker, Work *work)
{
	Split *split = work->split;

	/* Record, pause and next try may take as long as they like. */
	split_let_go(split);
	if (!split->failed && !try_often(worker, work, try_record, &split->error))
		split->failed = true;
	if (split->failed)
		split_broken(worker, split);
	else
		copy_run_copied(worker->run, split->table, split->view.snapshot, split->view.lsn,
		                split->rows, split->bytes, split->began_ms);
	split_free(split);
}

static void
do_range(Worker *worker, Work *work)
{
	Error err = ERROR_INIT;
	bool ok = try_often(worker, work, try_range, &err);

	if (copy_run_range_ended(worker->run, work, ok, &err))
		split_ended(worker, work);
}

/* ---- indexes ---- */

static bool
try_build(Worker *worker, Work *work, Error *err)
{
	build_at(work->task, PQbackendPID(sql_pgconn(worker->sql)));
	bool ok = build_run(worker->run->options->build, work->task, work->helpers, worker->sql, err);
	build_at(work->task, 0);
	return ok;
}

static void
do_build(Worker *worker, Work *work)
{
	Error err = ERROR_INIT;
	bool ok = try_often(worker, work, try_build, &err);

	if (!ok && err.class != ERROR_CANCELLED)
		log_failure(LOG_ERROR, "copy", &err);
	copy_run_build_ended(worker->run, work->task, ok, &err);
}

void *
copy_worker_main(void *arg)
{
	Worker worker = {.run = arg, .session = COPY_SESSION_CLOSED};
	Work work;

	while (copy_run_take(worker.run, &work)) {
		if (work.kind == WORK_TABLE)
			do_table(&worker, &work);
		else if (work.kind == WORK_GROUP)
			do_group(&worker, &work);
		else if (work.kind == WORK_RANGE)
			do_range(&worker, &work);
		else
			do_build(&worker, &work);
		copy_run_ended(worker.run, &work);
	}
	close_sessions(&worker);
	return NULL;
}
