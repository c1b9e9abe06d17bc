#include "apply/lane/lane.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "apply/lane/run.h"
#include "apply/lane/share.h"
#include "common/fault.h"
#include "common/log.h"
#include "common/memory.h"
#include "common/queue.h"

struct Lane {
	pthread_t thread;
	const ConnInfo *target;
	const Ledger *ledger;
	int number;
	const Stop *stop;
	Queue *tasks; /* of Work */
	Sql *sql;
	StmtCache *cache;
	Pipe *pipe;
	Arena *arena; /* of the task in hand */
	const Task *task;
	Run *run;
	bool committed; /* the server said COMMIT, not ROLLBACK */
	Lsn wal;
	Lsn flushed;
};

/*
 * Generic plans, since a statement is planned once and then only executed. Nothing may scan
 * a large table to find a few rows because its statistics are old; the one statement that
 * must scan turns it on for itself (share.c).
 */
static const char lane_settings[] =
	"SET synchronous_commit = off; SET jit = off; SET plan_cache_mode = force_generic_plan;"
	"SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off;"
	"SET xmloption = content;";

/* C4: triggers and foreign keys rest. Without it they would act on what they did on the source
 * already, and deferred checks could refuse a lane's commit after its neighbours': there is
 * no going on. */
static bool
set_replica_role(Sql *sql, Error *err)
{
	Error local = ERROR_INIT;

	if (sql_exec(sql, &local, "SET session_replication_role = replica"))
		return true;
	if (!error_has_sqlstate(&local, "42501")) {
		*err = local;
		return false;
	}
	error_set(err, ERROR_CONFIG,
	          "user \"%s\" may not set session_replication_role on the target, "
	          "so that triggers and foreign keys would act on replicated changes",
	          PQuser(sql_pgconn(sql)));
	return error_set_hint(err,
	                      "GRANT SET ON PARAMETER session_replication_role TO the user (before "
	                      "PostgreSQL 15: a superuser is needed), then \"pgbaton resume\"");
}

/* The statements that every batch needs. */
static bool
prepare_fixed(Sql *sql, const Ledger *ledger, Error *err)
{
	return ledger_prepare_progress(sql, ledger, err) &&
	       sql_prepare(sql, err, "pgbaton_begin", "BEGIN") &&
	       sql_prepare(sql, err, "pgbaton_commit", "COMMIT") &&
	       sql_prepare(sql, err, "pgbaton_positions",
	                   "SELECT pg_catalog.pg_current_wal_insert_lsn(),"
	                   " pg_catalog.pg_current_wal_flush_lsn()");
}

static bool
is_same_target(Sql *sql, const Ledger *ledger, Error *err)
{
	uint32_t now;

	return ledger->timeline == NULL ||
	       (ledger_read_timeline(sql, &now, err) && ledger_same_timeline(ledger, now, err));
}

static Sql *
open_session(const ConnInfo *target, const Ledger *ledger, int number, const Stop *stop, Error *err)
{
	char purpose[32];

	if (number == LANE_EARLY)
		snprintf(purpose, sizeof(purpose), "apply early");
	else
		snprintf(purpose, sizeof(purpose), "apply %d", number);
	Sql *sql = sql_connect(target, "target", purpose, stop, err);
	if (sql == NULL || (is_same_target(sql, ledger, err) && set_replica_role(sql, err) &&
	                    sql_exec(sql, err, lane_settings) &&
	                    sql_execf(sql, err, "SET pgbaton.writer = '%s'", ledger->id) &&
	                    prepare_fixed(sql, ledger, err)))
		return sql;
	sql_close(sql);
	return NULL;
}

/* A giant row leaves its copy in libpq's buffer for as long as the session lives: hundreds
 * of megabytes a lane. The old session stays where there is no new one yet. */
static void
renew_session(Lane *lane)
{
	Error err = ERROR_INIT;
	Sql *sql = open_session(lane->target, lane->ledger, lane->number, lane->stop, &err);

	if (sql == NULL) {
		log_debug("applier", "no new session: %s", err.message);
		return;
	}
	pipe_free(lane->pipe);
	stmt_cache_clear(lane->cache);
	sql_close(lane->sql);
	lane->sql = sql;
	lane->pipe = pipe_new(sql, lane->cache);
}

/* ---- outcomes ---- */

static bool
state_is(const Error *err, const char *prefix)
{
	return strncmp(err->sqlstate, prefix, strlen(prefix)) == 0;
}

/* Waits for another, or was picked as the victim: says nothing about the data. */
static bool
is_concurrency(const Error *err)
{
	return state_is(err, "40") || state_is(err, "55P03");
}

static RunOutcome
outcome_of(const Error *err, TaskKind kind)
{
	if (err->class == ERROR_CANCELLED)
		return RUN_CANCELLED;
	if (err->class == ERROR_DIVERGENCE)
		return kind == TASK_SHARE ? RUN_CONFLICT : RUN_FAILED;
	/* Without an SQLSTATE it is the connection that failed, not a statement. */
	if (err->class != ERROR_SQL || err->sqlstate[0] == '\0' || state_is(err, "08") ||
	    state_is(err, "57") || state_is(err, "53300"))
		return RUN_LOST;
	if (state_is(err, "53") || state_is(err, "58"))
		return RUN_FAILED; /* disk full, out of memory, I/O error on the target */
	if (kind == TASK_SHARE)
		return RUN_CONFLICT;
	return is_concurrency(err) ? RUN_LOST : RUN_FAILED;
}

/* The server's refusal to commit the only transaction leaves nothing behind. Everything
 * else is looked up in the progress rows. */
static RunOutcome
outcome_of_commit(const Task *task, const Error *err)
{
	bool known = err->class == ERROR_SQL && err->sqlstate[0] != '\0' && task->begin &&
	             !task->limited;

	if (err->class == ERROR_CANCELLED)
		return RUN_CANCELLED;
	return known ? outcome_of(err, task->kind) : RUN_LOST;
}

/* ---- a task ---- */

static bool
begin(Lane *lane, Error *err)
{
	if (!lane->task->begin)
		return pipe_text(lane->pipe, err, "SAVEPOINT batch");
	/* A lane that waits for another lane waits in vain: that one holds its locks until all
	 * have succeeded. Short, for each such batch pays it; what waits for a stranger is
	 * replayed without a limit. */
	return pipe_call(lane->pipe, err, &(PipeCall){.name = "pgbaton_begin"}) &&
	       (!lane->task->limited || pipe_text(lane->pipe, err, "SET LOCAL lock_timeout = '50ms'"));
}

/* A COMMIT whose answer was lost came through after all, or another process works. */
static const char moved[] = "the progress on the target was moved by another session";

static bool
move_rows(Lane *lane, int first, int count, Progress to, Error *err)
{
	LedgerMove move;

	ledger_move(lane->task->ledger, first, count, lane->task->from, to, &move);
	return pipe_call(lane->pipe, err,
	                 &(PipeCall){
						 .name = move.statement,
						 .count = move.count,
						 .values = move.values,
						 .lengths = move.lengths,
						 .sqlstate = LEDGER_MOVED,
						 .stale = moved,
					 });
}

/*
 * Before the rows, so that the lock of the progress row is what two appliers of one migration
 * meet at first: whoever comes second learns it before it has seen the other's rows. A
 * transaction of many batches takes the lock at its begin and moves the row at its end.
 */
static bool
write_progress(Lane *lane, Error *err)
{
	const Task *task = lane->task;
	Progress to = task->commit ? task->progress : task->from;
	bool all = true;
	bool ok = true;

	if (!task->begin && !task->commit)
		return true;
	for (int i = 0; i < task->ledger->lanes; i++)
		all = all && task->writes[i];
	if (all)
		return move_rows(lane, 0, task->ledger->lanes, to, err);
	for (int i = 0; ok && i < task->ledger->lanes; i++)
		if (task->writes[i])
			ok = move_rows(lane, i, 1, to, err);
	return ok;
}

static void
take_commit(void *arg, const PGresult *result)
{
	Lane *lane = arg;
	lane->committed = strcmp(PQcmdStatus((PGresult *)(uintptr_t)result), "COMMIT") == 0;
}

static void
take_positions(void *arg, const PGresult *result)
{
	Lane *lane = arg;
	lane->wal = sql_get_lsn(result, 0, 0);
	lane->flushed = sql_get_lsn(result, 0, 1);
}

static bool
queue_commit(Lane *lane, Error *err)
{
	const PipeCall commit = {.name = "pgbaton_commit", .result = take_commit, .arg = lane};
	const PipeCall positions = {.name = "pgbaton_positions", .result = take_positions, .arg = lane};

	return pipe_call(lane->pipe, err, &commit) &&
	       (!lane->task->positions || pipe_call(lane->pipe, err, &positions));
}

static bool
is_committed(const Lane *lane, Error *err)
{
	return lane->committed ||
	       error_set(err, ERROR_BUG, "the target rolled back where it should have committed");
}

/* The batch's statements, up to but without the commit (but for at_once). */
static bool
work(Lane *lane, Error *err)
{
	const Task *task = lane->task;
	const void *failed;
	PipeEnd end = PIPE_OK;

	if (!begin(lane, err) || !write_progress(lane, err))
		return false;
	FAULT_POINT("apply_execute");
	if (task->kind == TASK_SHARE)
		end = share_run(lane->pipe, task->batch, task->share, task->at_once, lane->arena, err);
	else if (task->kind == TASK_REPLAY) {
		FAULT_POINT("apply_replay");
		end = replay_run(lane->pipe, task->batch, lane->arena, err);
	} else if (task->kind == TASK_ROWS)
		end = replay_share(lane->pipe, task->batch, task->share, lane->arena, err);
	else if (!pipe_text(lane->pipe, err, "SET LOCAL synchronous_commit = on"))
		return false;
	if (end != PIPE_OK)
		return false;
	if (!task->commit && !task->begin && !pipe_text(lane->pipe, err, "RELEASE SAVEPOINT batch"))
		return false;
	if (task->at_once && !queue_commit(lane, err))
		return false;
	return pipe_finish(lane->pipe, &failed, err) == PIPE_OK &&
	       (!task->at_once || is_committed(lane, err));
}

static bool
commit(Lane *lane, Error *err)
{
	const void *failed;

	return queue_commit(lane, err) && pipe_finish(lane->pipe, &failed, err) == PIPE_OK &&
	       is_committed(lane, err);
}

/* A batch inside an open transaction is undone alone when it can be replayed there. */
static void
roll_back(Lane *lane, RunOutcome outcome)
{
	bool alone = !lane->task->begin && outcome == RUN_CONFLICT;

	if (outcome == RUN_LOST || PQstatus(sql_pgconn(lane->sql)) != CONNECTION_OK)
		return; /* the session is closed, and the server rolls back */
	if (!sql_exec(lane->sql, NULL, alone ? "ROLLBACK TO SAVEPOINT batch" : "ROLLBACK") ||
	    !sql_exec(lane->sql, NULL, "DEALLOCATE ALL") ||
	    !prepare_fixed(lane->sql, lane->ledger, NULL))
		log_debug("applier", "a session was lost while rolling back");
	stmt_cache_clear(lane->cache);
}

static void
do_task(Lane *lane)
{
	Error err = ERROR_INIT;
	const Task *task = lane->task;
	RunOutcome outcome = RUN_OK;

	lane->wal = lane->flushed = LSN_INVALID;
	lane->committed = false;
	pipe_blame(lane->pipe, NULL);
	if (!work(lane, &err)) {
		outcome = lane->committed ? RUN_LOST : outcome_of(&err, task->kind);
		roll_back(lane, outcome);
	}
	FAULT_POINT("apply_executed");
	bool go = run_report(lane->run, outcome, &err, pipe_blamed(lane->pipe));
	if (outcome == RUN_OK && !go) {
		roll_back(lane, RUN_CONFLICT);
	} else if (outcome == RUN_OK && task->commit && !task->at_once) {
		FAULT_POINT("apply_commit");
		if (!commit(lane, &err))
			outcome = outcome_of_commit(task, &err);
		FAULT_POINT("apply_committed");
	}
	arena_reset(lane->arena);
	if (outcome == RUN_OK && go && task->commit && pipe_is_swollen(lane->pipe))
		renew_session(lane);
	run_finish(lane->run, outcome, &err, lane->wal, lane->flushed);
}

static void *
lane_main(void *arg)
{
	Lane *lane = arg;
	void *task;

	while (queue_pop(lane->tasks, &task, 0) == QUEUE_OK) {
		lane->task = task;
		do_task(lane);
	}
	return NULL;
}

/* ---- for the applier's thread ---- */

Lane *
lane_start(const ConnInfo *target, const Ledger *ledger, int number, const Stop *stop, Error *err)
{
	Sql *sql = open_session(target, ledger, number, stop, err);

	if (sql == NULL)
		return NULL;
	Lane *lane = mem_zalloc(sizeof(Lane));
	lane->target = target;
	lane->ledger = ledger;
	lane->number = number;
	lane->stop = stop;
	lane->sql = sql;
	lane->cache = stmt_cache_new();
	lane->pipe = pipe_new(sql, lane->cache);
	lane->arena = arena_new(0);
	lane->tasks = queue_new(1);
	CHECK(pthread_create(&lane->thread, NULL, lane_main, lane) == 0);
	return lane;
}

void
lane_end(Lane *lane)
{
	if (lane == NULL)
		return;
	queue_close(lane->tasks);
	pthread_join(lane->thread, NULL);
	queue_free(lane->tasks);
	pipe_free(lane->pipe);
	stmt_cache_free(lane->cache);
	arena_free(lane->arena);
	sql_close(lane->sql);
	free(lane);
}

Sql *
lane_sql(Lane *lane)
{
	return lane->sql;
}

void
lane_begin(Lane *lane, Run *run, const Task *task)
{
	lane->run = run; /* seen by the lane's thread through the queue's lock */
	QueueResult pushed = queue_push(lane->tasks, (void *)(uintptr_t)task, 0);
	CHECK(pushed == QUEUE_OK);
}

void
lane_do(Lane *lane, Run *run, const Task *task)
{
	lane->run = run;
	lane->task = task;
	do_task(lane);
}
