#include "apply/lane/run.h"

#include <pthread.h>
#include <stdlib.h>

#include "common/memory.h"

struct Run {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	void (*on_done)(void *arg);
	void *arg;
	int total;
	int reported;
	int finished;
	enum { UNDECIDED, COMMIT, ROLLBACK } verdict; /* once given it stays */
	RunOutcome outcome;                           /* the worst so far */
	Error error;                                  /* of the worst */
	Table *blamed;                                /* likewise */
	Lsn wal;
	Lsn flushed;
};

Run *
run_new(void (*on_done)(void *arg), void *arg)
{
	Run *run = mem_zalloc(sizeof(Run));

	pthread_mutex_init(&run->lock, NULL);
	pthread_cond_init(&run->changed, NULL);
	run->on_done = on_done;
	run->arg = arg;
	return run;
}

void
run_free(Run *run)
{
	if (run == NULL)
		return;
	pthread_cond_destroy(&run->changed);
	pthread_mutex_destroy(&run->lock);
	free(run);
}

void
run_prepare(Run *run, int total)
{
	pthread_mutex_lock(&run->lock);
	run->total = total;
	run->reported = run->finished = 0;
	run->verdict = UNDECIDED;
	run->outcome = RUN_OK;
	run->wal = run->flushed = LSN_INVALID;
	error_clear(&run->error);
	run->blamed = NULL;
	pthread_mutex_unlock(&run->lock);
}

/* Lock held. The enum is in the order of gravity. */
static void
worsen(Run *run, RunOutcome outcome, const Error *err, Table *table)
{
	if (outcome <= run->outcome)
		return;
	run->outcome = outcome;
	run->error = *err;
	run->blamed = table;
}

bool
run_report(Run *run, RunOutcome outcome, const Error *err, Table *table)
{
	pthread_mutex_lock(&run->lock);
	worsen(run, outcome, err, table);
	run->reported++;
	if (run->verdict == UNDECIDED && outcome != RUN_OK)
		run->verdict = ROLLBACK;
	else if (run->verdict == UNDECIDED && run->reported == run->total)
		run->verdict = COMMIT;
	pthread_cond_broadcast(&run->changed);
	while (run->verdict == UNDECIDED)
		pthread_cond_wait(&run->changed, &run->lock);
	bool commit = run->verdict == COMMIT;
	pthread_mutex_unlock(&run->lock);
	return commit;
}

void
run_finish(Run *run, RunOutcome outcome, const Error *err, Lsn wal, Lsn flushed)
{
	pthread_mutex_lock(&run->lock);
	worsen(run, outcome, err, NULL);
	run->wal = lsn_max(run->wal, wal);
	run->flushed = lsn_max(run->flushed, flushed);
	bool last = ++run->finished == run->total;
	void (*on_done)(void *) = run->on_done;
	void *arg = run->arg;
	pthread_cond_broadcast(&run->changed);
	pthread_mutex_unlock(&run->lock);
	if (last)
		on_done(arg);
}

bool
run_done(Run *run)
{
	pthread_mutex_lock(&run->lock);
	bool done = run->finished == run->total;
	pthread_mutex_unlock(&run->lock);
	return done;
}

void
run_wait(Run *run)
{
	pthread_mutex_lock(&run->lock);
	while (run->finished < run->total)
		pthread_cond_wait(&run->changed, &run->lock);
	pthread_mutex_unlock(&run->lock);
}

RunOutcome
run_outcome(Run *run, Lsn *wal, Lsn *flushed, Error *err)
{
	pthread_mutex_lock(&run->lock);
	RunOutcome outcome = run->outcome;
	*wal = run->wal;
	*flushed = run->flushed;
	if (outcome != RUN_OK)
		*err = run->error;
	pthread_mutex_unlock(&run->lock);
	return outcome;
}

Table *
run_blamed(Run *run)
{
	pthread_mutex_lock(&run->lock);
	Table *table = run->outcome == RUN_FAILED ? run->blamed : NULL;
	pthread_mutex_unlock(&run->lock);
	return table;
}
