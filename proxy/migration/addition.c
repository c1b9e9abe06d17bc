/*
 * add-table and recopy: tables that are copied beside all else, and join the others when they
 * have come level (C2).
 *
 *              written down, with the stream stopped       the thread (adder.c)
 *   (request) ------------------------------------> apart: copied, indexes, followed by an
 *                                                     |     applier of its own
 *                                                     v
 *                        the others' applier stops at Q; theirs goes on to R, behind Q;
 *                        one transaction: they are level at R, and joined
 *                                                     |
 *                                                     v
 *                        the others' applier goes on from Q, with them: what of theirs lies
 *                        at or before R it passes over (plan_skips)
 *                                                     |
 *                                                     v
 *                        the thread again: foreign keys and triggers of what was added
 *                                                     |
 *                                                     v
 *                        the way back, where there is one, takes them in (K5)
 *
 *  - While they are apart the others' applier passes over their changes, and the log keeps
 *    what the other one has not read (way.c, passed).
 *  - Where the others fail at one more table, that one is written down, too (recopy).
 *  - Killed anywhere it goes on from what is written down: a start reads the same state.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "apply/schema/step.h"
#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"
#include "common/memory.h"
#include "proxy/migration/adder.h"

enum { RETRY_MS = 1000, JOIN_TIMEOUT_MS = 60000 };

static void
set_outcome(Migration *m, AdditionOutcome outcome, const Error *err)
{
	pthread_mutex_lock(&m->lock);
	m->addition.outcome = outcome;
	if (outcome == ADDITION_DONE)
		m->addition.step[0] = '\0';
	if (err != NULL)
		m->addition.error = *err;
	else
		error_clear(&m->addition.error);
	pthread_mutex_unlock(&m->lock);
}

void
addition_step(Migration *m, const char *step)
{
	pthread_mutex_lock(&m->lock);
	snprintf(m->addition.step, sizeof(m->addition.step), "%s", step);
	pthread_mutex_unlock(&m->lock);
}

SchemaWork
addition_work(Migration *m, Sql *target)
{
	SchemaWork work = migration_schema_work(m);

	work.target_sql = target;
	work.addition = m->apart.number;
	work.apart = true;
	return work;
}

/* ---- what is chosen ---- */

/* Of a recopy: the tables of ours that the pattern names; those that are apart already stay as
 * they are. */
static bool
mark_matching(Migration *m, const char *pattern, size_t *count, Error *err)
{
	const char *items[] = {pattern};
	Selection selection = {.lists = {[INCLUDE_TABLE] = {items, 1}}};
	Arena *arena = arena_new(0);
	Matches *matches = matches_find(m->source, &selection, false, arena, err);
	bool apart = false;

	*count = 0;
	for (size_t i = 0; matches != NULL && i < m->catalog->table_count; i++) {
		Table *table = &m->catalog->tables[i];
		bool named = table->persistence == 'p' &&
		             matches_relation(matches, INCLUDE_TABLE, table->oid);
		bool new = named && !atomic_load(&table->apart);
		apart = apart || (named && !new);
		atomic_store(&table->marked, new);
		*count += new;
	}
	bool ok = matches != NULL;
	matches_free(matches);
	arena_free(arena);
	if (ok && *count == 0 && apart) {
		error_set(err, ERROR_CONFIG, "what \"%s\" names is being copied afresh already", pattern);
		ok = error_set_hint(err, "`pgbaton resume` goes on with it");
	} else if (ok && *count == 0) {
		error_set(err, ERROR_CONFIG, "\"%s\" names no table that is followed here", pattern);
		ok = error_set_hint(err, "partitions are named by themselves; unlogged tables are copied"
		                         " at the cutover");
	}
	return ok;
}

/* What we have must be as it was: only what comes is new. */
static bool
same_as_before(const Catalog *was, const Catalog *now, Error *err)
{
	for (size_t i = 0; i < was->table_count; i++) {
		const Table *old = &was->tables[i];
		const Table *new = catalog_find(now, old->schema, old->name);
		if (new == NULL || new->oid != old->oid || new->column_count != old->column_count)
			return error_set(err, ERROR_CONFIG,
			                 "table %s has changed on the source since the start", old->qualified);
	}
	return true;
}

static void
carry_counts(const Table *old, Table *new)
{
	atomic_store(&new->inserts, atomic_load(&old->inserts));
	atomic_store(&new->updates, atomic_load(&old->updates));
	atomic_store(&new->deletes, atomic_load(&old->deletes));
	atomic_store(&new->truncates, atomic_load(&old->truncates));
}

static size_t
mark_new(const Catalog *was, Catalog *now)
{
	size_t count = 0;

	for (size_t i = 0; i < now->table_count; i++) {
		Table *table = &now->tables[i];
		const Table *old = catalog_find(was, table->schema, table->name);
		if (old != NULL) {
			carry_counts(old, table);
			continue;
		}
		atomic_store(&table->marked, true);
		atomic_store(&table->apart, true);
		log_info("addition", "%s comes in", table->qualified);
		count++;
	}
	return count;
}

static Selection
with_pattern(Migration *m, const char *pattern)
{
	Selection selection = m->selection;
	PatternList *list = &selection.lists[ADDED_TABLE];
	const char **items = arena_new_array(m->arena, const char *, list->count + 1);

	for (size_t i = 0; i < list->count; i++)
		items[i] = list->items[i];
	items[list->count] = arena_strdup(m->arena, pattern);
	*list = (PatternList){items, list->count + 1};
	return selection;
}

/* ---- begin ---- */

/* No applier is at work from here on until the stream is begun anew. More tables may be written
 * down than are apart already: theirs is the same beginning, for what the applier of those apart
 * has passed by now is visible in the snapshots that are still to be taken. */
static bool
write_down(Migration *m, ApartKind kind, const Catalog *catalog, const Selection *selection,
           const Buffer *definitions, Error *err)
{
	Buffer sql = BUFFER_INIT;
	Apart now;

	if (!ledger_apart(m->target, &m->ledger, &now, err))
		return false;
	if (definitions != NULL)
		buffer_put(&sql, definitions->data, definitions->len);
	ledger_apart_begin_sql(&m->ledger, kind, now.turn, selection, &sql);
	for (size_t i = 0; i < catalog->table_count; i++) {
		if (atomic_load(&catalog->tables[i].marked))
			ledger_apart_table_sql(&m->ledger, kind, &catalog->tables[i], &sql);
	}
	int before = now.number;
	bool sent = schema_text_run(m->target, buffer_cstr(&sql), err);
	buffer_free(&sql);
	if (!sent && err->class != ERROR_NETWORK)
		return false;
	/* Lost in the middle: whether it was committed is asked for until it is known. */
	Error asked = ERROR_INIT;
	while (!migration_connect_target(m, &asked) ||
	       !ledger_apart(m->target, &m->ledger, &now, &asked)) {
		if (!stop_sleep_ms(m->stop, RETRY_MS, err))
			return false;
	}
	if (now.number == before)
		return false;
	pthread_mutex_lock(&m->lock);
	m->apart = now;
	m->passed[0] = m->passed[1] = (Passed){LSN_INVALID, LSN_INVALID};
	pthread_mutex_unlock(&m->lock);
	FAULT_POINT("addition_written");
	return true;
}

/* Nothing of the stream runs; what is found out is found out again from the ledger. */
static bool
begin_stream(Migration *m, Error *err)
{
	for (;;) {
		error_clear(err);
		if (migration_connect(m, err) && phase_prepare(m, err) && phase_start_applier(m, err))
			return true;
		phase_stop_stream(m);
		if (!migration_is_retryable(err) || !stop_sleep_ms(m->stop, RETRY_MS, err))
			return false;
		log_failure(LOG_WARNING, "addition", err);
	}
}

static bool
prepare_add(Migration *m, const MigrationRequest *request, Selection *selection, Catalog **catalog,
            Buffer *definitions, Error *err)
{
	*selection = with_pattern(m, request->pattern);
	if (!phase_check_selection(m, selection, catalog, err) ||
	    !same_as_before(m->catalog, *catalog, err))
		return false;
	size_t count = mark_new(m->catalog, *catalog);
	if (count == 0)
		return error_set(err, ERROR_CONFIG,
		                 "\"%s\" matches nothing on the source that is not moved already",
		                 request->pattern);
	pthread_mutex_lock(&m->lock);
	m->addition.tables = count;
	pthread_mutex_unlock(&m->lock);
	/* Not there, or not the same: better known before anything is written down. */
	if (!m->config->schema_copy)
		return catalog_match_target(*catalog, m->target, err);
	addition_step(m, "reading definitions");
	SchemaWork work = addition_work(m, m->target);
	work.addition = m->apart.number + 1;
	work.catalog = *catalog;
	work.before = m->catalog;
	work.selection = selection;
	return schema_addition(&work, definitions, err);
}

bool
addition_begin(Migration *m, const MigrationRequest *request, bool *begun, Error *err)
{
	ApartKind kind = request->command == COMMAND_RECOPY ? APART_RECOPY : APART_ADD;
	bool following = m->state == STATE_FOLLOWING;
	Catalog *catalog = NULL;
	Selection selection = m->selection;
	Buffer definitions = BUFFER_INIT;
	size_t count = 0;

	addition_step(m, "checking");
	bool ok = kind == APART_RECOPY
	              ? mark_matching(m, request->pattern, &count, err)
	              : prepare_add(m, request, &selection, &catalog, &definitions, err);
	if (ok && kind == APART_RECOPY) {
		pthread_mutex_lock(&m->lock);
		m->addition.tables = count;
		pthread_mutex_unlock(&m->lock);
	}
	if (ok)
		addition_stop(m);
	bool paused = ok && m->applier != NULL;
	ok = ok && (m->applier == NULL || applier_pause(m->applier, deadline_in_ms(60000), err));
	paused = paused && ok;
	ok = ok && write_down(m, kind, catalog != NULL ? catalog : m->catalog,
	                      kind == APART_ADD ? &selection : NULL, &definitions, err);
	buffer_free(&definitions);
	if (!ok) {
		if (paused)
			applier_resume(m->applier);
		catalog_free(catalog);
		return false;
	}
	*begun = true;
	phase_stop_stream(m);
	if (catalog != NULL) {
		m->selection = selection;
		phase_keep_catalog(m, catalog);
	}
	log_info("addition", "%s of \"%s\" has begun",
	         kind == APART_ADD ? "the addition" : "a fresh copy", request->pattern);
	return !following || begin_stream(m, err);
}

bool
addition_publish(Migration *m, Error *err)
{
	SourceSetup setup = migration_source_setup(m);

	if (m->apart.kind == APART_NONE)
		return true;
	if (!ledger_apart_tables(m->target, &m->ledger, m->catalog, err) ||
	    !source_extend_publication(&setup, true, err))
		return false;
	FAULT_POINT("addition_published");
	return true;
}

/* ---- join ---- */

static void
stop_others(Migration *m)
{
	pthread_mutex_lock(&m->lock);
	Applier *others = m->applier;
	if (others != NULL)
		applier_state(others, &m->last_applier);
	m->applier = NULL;
	pthread_mutex_unlock(&m->lock);
	if (others != NULL)
		applier_stop(others);
}

/* The marker is committed after all that the others have come to: theirs are level when it has
 * come through. */
static bool
come_level(Migration *m, Error *err)
{
	char marker[64];

	return sql_value(m->target, err, marker, sizeof(marker), "SELECT gen_random_uuid()::text") &&
	       source_emit_marker(m->source, &m->ledger, marker, err) &&
	       adder_wait_marker(m->adder, marker, deadline_in_ms(JOIN_TIMEOUT_MS), err);
}

static void
joined(Migration *m)
{
	pthread_mutex_lock(&m->lock);
	m->addition_rest = m->config->schema_copy && m->apart.kind == APART_ADD;
	m->addition_back = way_back_wanted(m);
	m->apart.kind = APART_NONE;
	m->passed[0] = m->passed[1] = (Passed){LSN_INVALID, LSN_INVALID};
	pthread_mutex_unlock(&m->lock);
}

/* Nobody may apply a change of theirs before it is known whether they have joined. */
static bool
settle(Migration *m, bool *is_over, Error *err)
{
	Apart now = {.kind = APART_NONE};
	Error asked = ERROR_INIT;

	while (!migration_connect_target(m, &asked) ||
	       !ledger_apart(m->target, &m->ledger, &now, &asked) ||
	       (now.kind == APART_NONE &&
	        !ledger_sync_tables(m->target, &m->ledger, m->catalog, &asked))) {
		log_failure(LOG_WARNING, "addition", &asked);
		if (!stop_sleep_ms(m->stop, RETRY_MS, err))
			return false;
	}
	m->apart.turn = now.turn;
	*is_over = now.kind == APART_NONE;
	return true;
}

static bool
join(Migration *m, Error *err)
{
	Ledger apart;
	Lsn level = LSN_INVALID;
	bool is_over = false;
	Error asked = ERROR_INIT;

	addition_step(m, "joining the others");
	stop_others(m);
	FAULT_POINT("addition_joining");
	bool ok = migration_connect(m, err) && come_level(m, err) &&
	          ledger_apart_open(m->target, &m->ledger, &apart, err);
	adder_free(m->adder);
	m->adder = NULL;
	if (ok)
		ok = ledger_apart_end(m->target, &m->ledger, &apart, m->apart.turn, &level, err);
	FAULT_POINT("addition_joined");
	if (!settle(m, &is_over, &asked)) {
		*err = asked;
		return false;
	}
	if (is_over) {
		joined(m);
		error_clear(err);
	}
	if (!phase_start_applier(m, ok || is_over ? err : &asked))
		return false;
	if (is_over)
		log_info("addition", "the tables have joined the others, level at %s", LSN_STR(level));
	return is_over;
}

/* ---- tend ---- */

/* The way back takes them in before a cutover is let in again, so before anybody but us writes
 * to them on the target. Their keys are there by now: with less it would take another identity. */
static bool
take_back(Migration *m, Error *err)
{
	if (!m->addition_back)
		return true;
	addition_step(m, "the way back");
	FAULT_POINT("addition_back");
	if (!migration_connect(m, err) || !way_back_prepare(m, err))
		return false;
	pthread_mutex_lock(&m->lock);
	m->addition_back = false;
	pthread_mutex_unlock(&m->lock);
	return true;
}

/* Recorded behind all of it: a server that has this turn has lost nothing of it (has_come_to). */
static bool
move_turn(Migration *m, Error *err)
{
	Apart now;

	if (!ledger_apart(m->target, &m->ledger, &now, err))
		return false;
	m->apart.turn = now.turn;
	return true;
}

static bool
finish(Migration *m, Error *err)
{
	Error late = ERROR_INIT;

	if (!take_back(m, err) || !move_turn(m, err))
		return false;
	set_outcome(m, ADDITION_DONE, NULL);
	if (!target_prepare(m->target, &m->ledger, m->catalog, &late))
		log_failure(LOG_WARNING, "addition", &late);
	phase_prepare_fence(m);
	return true;
}

static void
failed(Migration *m, const Error *err)
{
	bool retry = migration_is_retryable(err) || err->class == ERROR_TIMEOUT;

	set_outcome(m, retry ? ADDITION_RUNNING : ADDITION_FAILED, err);
	log_failure(retry ? LOG_WARNING : LOG_ERROR, "addition", err);
	m->addition_next_ms = retry ? clock_mono_ms() + clock_jitter_ms(RETRY_MS) : INT64_MAX;
}

/* Its definitions lie in the state directory, and the last of them are not made yet. */
static bool
rest_is_left(Migration *m, const Ledger *ledger, const Apart *apart, bool *left, Error *err)
{
	char *dump = mem_printf("%s/schema-%d.dump", m->config->state_dir, apart->number);
	char step[SCHEMA_STEP_SIZE];
	bool done = true;

	*left = false;
	bool there = m->config->schema_copy && apart->kind == APART_NONE && access(dump, F_OK) == 0;
	free(dump);
	schema_addition_end(apart->number, step);
	if (there && !ledger_step_done(m->target, ledger, step, &done, err))
		return false;
	*left = there && !done;
	return true;
}

bool
addition_load(Migration *m, const Ledger *ledger, Error *err)
{
	Apart apart;
	bool rest;

	if (!ledger_apart(m->target, ledger, &apart, err) ||
	    !rest_is_left(m, ledger, &apart, &rest, err))
		return false;
	pthread_mutex_lock(&m->lock);
	m->apart = apart;
	m->addition_rest = rest;
	m->addition_back = way_back_wanted(m) && (apart.kind != APART_NONE || rest);
	if (apart.kind != APART_NONE || rest)
		m->addition = (AdditionStatus){
			.id = 1, .outcome = ADDITION_RUNNING, .recopy = apart.kind == APART_RECOPY};
	pthread_mutex_unlock(&m->lock);
	return true;
}

bool
addition_is_on(const Migration *m)
{
	return m->apart.kind != APART_NONE || m->addition_rest || m->addition_back;
}

static void
count_tables(Migration *m)
{
	size_t tables = 0;

	for (size_t i = 0; i < m->catalog->table_count; i++)
		tables += atomic_load(&m->catalog->tables[i].apart);
	pthread_mutex_lock(&m->lock);
	if (tables > 0)
		m->addition.tables = tables;
	pthread_mutex_unlock(&m->lock);
}

/* The thread has done its part. */
static bool
go_on(Migration *m, Error *err)
{
	if (m->apart.kind != APART_NONE) {
		if (!join(m, err))
			return false;
	} else {
		adder_free(m->adder);
		m->adder = NULL;
		pthread_mutex_lock(&m->lock);
		m->addition_rest = false;
		pthread_mutex_unlock(&m->lock);
	}
	return m->addition_rest || finish(m, err);
}

bool
addition_tend(Migration *m, Error *err)
{
	Error failure = ERROR_INIT;

	if (!addition_is_on(m))
		return true;
	if (m->adder == NULL) {
		if (clock_mono_ms() < m->addition_next_ms)
			return true;
		if (m->apart.kind == APART_NONE && !m->addition_rest) {
			if (!finish(m, &failure) && !stop_requested(m->stop))
				failed(m, &failure);
			return true;
		}
		count_tables(m);
		if (m->addition.outcome == ADDITION_FAILED)
			set_outcome(m, ADDITION_RUNNING, NULL);
		m->adder = adder_start(m, m->apart.kind == APART_NONE);
		return true;
	}
	switch (adder_state(m->adder, &failure)) {
	case ADDER_WORKS:
		return true;
	case ADDER_READY:
		if (go_on(m, &failure))
			return true;
		break;
	case ADDER_FAILED:
		adder_free(m->adder);
		m->adder = NULL;
		break;
	}
	if (stop_requested(m->stop))
		return true;
	failed(m, &failure);
	/* Without an applier there is no going on. */
	if (m->applier != NULL)
		return true;
	*err = failure;
	return false;
}

void
addition_retry(Migration *m)
{
	m->addition_next_ms = 0;
	if (addition_is_on(m))
		set_outcome(m, ADDITION_RUNNING, NULL);
}

void
addition_stop(Migration *m)
{
	adder_free(m->adder);
	m->adder = NULL;
}
