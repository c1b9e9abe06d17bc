#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/memory.h"
#include "tests/unit/decoder/messages.h"
#include "tests/unit/decoder/txlog_fixture.h"
#include "tests/unit/runner.h"

/*
 * Random operations on the log beside a model so simple that it is right by
 * looking at it: an array with the number of rows of each transaction. The seed
 * of a failure is printed; PGBATON_SEED runs it again.
 */
enum { MODEL_MAX = 4000 };

typedef struct {
	char *directory;
	TxLog *log;
	unsigned seed;
	uint64_t segment_bytes;
	bool compress;
	uint32_t rows[MODEL_MAX]; /* of each whole transaction, from 1 on */
	uint32_t appended;        /* the last whole one */
	uint32_t published;
	uint32_t released;
	uint32_t ever_released; /* also before a reopen */
	uint32_t open_rows;
	bool open;
} Model;

static unsigned
roll_dice(Model *m, unsigned sides)
{
	return (unsigned)rand_r(&m->seed) % sides;
}

static void
model_open(Model *m)
{
	m->log = fixture_open_with(m->directory, m->segment_bytes, 0, m->compress);
}

/* Close publishes what is whole and drops what is open. */
static void
model_reopen(Model *m)
{
	txlog_close(m->log);
	m->published = m->appended;
	m->open = false;
	m->released = 0; /* not remembered: the applier tells it again */
	model_open(m);
}

static void
model_begin(Model *m)
{
	fixture_begin(m->log, m->appended + 1);
	m->open = true;
	m->open_rows = 0;
}

static void
model_rows(Model *m)
{
	static const size_t sizes[] = {0, 10, 100, 5000, 70000, 300000};
	uint32_t rows = 1 + roll_dice(m, 4);
	size_t size = sizes[roll_dice(m, roll_dice(m, 10) == 0 ? 6 : 4)];
	if (!m->open)
		model_begin(m);
	fixture_rows(m->log, m->appended + 1, rows, size + 1);
	m->open_rows += rows;
}

static void
model_commit(Model *m)
{
	if (!m->open)
		model_begin(m);
	fixture_commit(m->log, ++m->appended);
	m->rows[m->appended] = m->open_rows;
	m->open = false;
}

static void
model_discard(Model *m)
{
	Error err = ERROR_INIT;
	ck_assert(txlog_discard_open(m->log, &err));
	m->open = false;
}

static void
model_publish(Model *m)
{
	fixture_publish(m->log);
	m->published = m->appended;
}

static void
model_release(Model *m)
{
	if (m->published <= m->released)
		return;
	m->released += 1 + roll_dice(m, m->published - m->released);
	if (m->released > m->ever_released)
		m->ever_released = m->released;
	txlog_release(m->log, lsn_make(FIXTURE_COMMIT(m->released)));
}

/* What stands in the log from `seen.first` on is exactly the model's. */
static void
check_seen(const Model *m, FixtureSeen seen, uint32_t at_latest)
{
	uint64_t rows = 0;
	ck_assert_uint_le(seen.last, m->appended);
	ck_assert_uint_ge(seen.last, m->published);
	if (seen.transactions == 0)
		return;
	ck_assert_uint_le(seen.first, at_latest);
	ck_assert_uint_eq(seen.transactions, seen.last - seen.first + 1);
	for (uint32_t n = seen.first; n <= seen.last; n++)
		rows += m->rows[n];
	ck_assert_uint_eq(seen.rows, rows);
}

static void
model_seek(Model *m)
{
	Error err = ERROR_INIT;
	if (m->published <= m->released)
		return;
	uint32_t after = m->released + roll_dice(m, m->published - m->released);
	TxLogReader *reader = txlog_reader_open(m->log, lsn_make(FIXTURE_COMMIT(after)), &err);
	/* What was released once may be gone; then the gap is told. */
	if (reader == NULL) {
		ck_assert_int_eq(err.class, ERROR_STORAGE);
		ck_assert_uint_lt(after, m->ever_released);
		return;
	}
	FixtureSeen seen = fixture_read(reader);
	check_seen(m, seen, after == 0 ? m->published : after + 1);
	ck_assert_uint_gt(seen.transactions, 0);
	txlog_reader_close(reader);
}

static void
model_check_state(Model *m)
{
	TxLogState state;
	txlog_state(m->log, &state);
	/* A block that is full is published by itself. */
	ck_assert_uint_ge(state.last_commit.v, FIXTURE_COMMIT(m->published));
	ck_assert_uint_le(state.last_commit.v, FIXTURE_COMMIT(m->appended));
	ck_assert_uint_le(state.synced_end.v, state.last_end.v); /* T7 */
	ck_assert(txlog_has(m->log, lsn_make(FIXTURE_COMMIT(m->appended))));
	ck_assert(!txlog_has(m->log, lsn_make(FIXTURE_COMMIT(m->appended) + 1)));
}

static void
model_step(Model *m)
{
	switch (roll_dice(m, 32)) {
	case 0:
		model_discard(m);
		break;
	case 1:
		if (roll_dice(m, 8) == 0)
			model_reopen(m);
		break;
	case 2:
		model_release(m);
		break;
	case 3:
	case 4:
		model_seek(m);
		break;
	case 5:
	case 6:
	case 7:
		model_publish(m);
		break;
	case 8:
	case 9:
	case 10:
	case 11:
	case 12:
	case 13:
		model_commit(m);
		break;
	default:
		model_rows(m);
		break;
	}
	model_check_state(m);
}

START_TEST(the_log_behaves_like_its_model)
{
	const char *fixed = getenv("PGBATON_SEED");
	unsigned seed = fixed != NULL ? (unsigned)atoi(fixed)
	                              : (unsigned)clock_wall_us() + (unsigned)_i;
	Model *m = mem_zalloc(sizeof(Model));

	log_set_level(LOG_ERROR);
	fprintf(stderr, "log model: PGBATON_SEED=%u\n", seed);
	m->directory = fixture_directory();
	m->seed = seed;
	m->segment_bytes = _i % 2 == 0 ? 100000 : 2000000;
	m->compress = _i % 3 == 0;
	model_open(m);
	for (int i = 0; i < 3000; i++)
		model_step(m);
	model_publish(m);
	check_seen(m, fixture_read_all(m->log, LSN_INVALID), m->published);
	model_reopen(m);
	check_seen(m, fixture_read_all(m->log, LSN_INVALID), m->published);
	txlog_close(m->log);
	fixture_remove(m->directory);
	free(m);
}
END_TEST

/* ---- a writer, its output, two readers, a releaser and the flusher at once ---- */

enum { TRANSACTIONS = 1500 };

typedef struct Follower {
	TxLog *log;
	Stop *stop;
	const struct Follower *other; /* nothing is released that it has not read */
	atomic_uint next;
	uint32_t waits;
} Follower;

static void
release_read_by_both(Follower *f)
{
	uint32_t mine = atomic_load(&f->next);
	uint32_t theirs = atomic_load(&f->other->next);
	uint32_t next = mine < theirs ? mine : theirs;
	if (next > 1)
		txlog_release(f->log, lsn_make(FIXTURE_COMMIT(next - 1)));
}

static void
follow_message(Follower *f, Slice m)
{
	ByteReader r = reader_of(m);
	uint8_t kind = read_u8(&r);
	if (kind == 'B') {
		ck_assert_uint_eq(read_u64(&r), FIXTURE_COMMIT(f->next));
	} else if (kind == 'C') {
		if (atomic_fetch_add(&f->next, 1) % 50 == 0)
			release_read_by_both(f);
	}
}

static void *
follow(void *arg)
{
	Follower *f = arg;
	Error err = ERROR_INIT;
	Slice m;
	TxLogReader *reader = txlog_reader_open(f->log, LSN_INVALID, &err);
	ck_assert_ptr_nonnull(reader);
	while (f->next <= TRANSACTIONS) {
		TxLogNext next = txlog_reader_next(reader, f->stop, deadline_in_ms(60000), &m, &err);
		ck_assert_msg(next != TXLOG_ERROR, "%s: %s", err.context, err.message);
		if (next == TXLOG_WAIT)
			f->waits++;
		else
			follow_message(f, m);
		ck_assert_uint_lt(f->waits, 10000);
	}
	txlog_reader_close(reader);
	return NULL;
}

static void
count_progress(void *arg)
{
	atomic_fetch_add((atomic_uint *)arg, 1);
}

START_TEST(writer_readers_and_flusher_together)
{
	Error err = ERROR_INIT;
	char *directory = fixture_directory();
	TxLog *log = fixture_open_with(directory, 200000, 0, _i == 1);
	Stop *stop = stop_new();
	Follower followers[2];
	for (int i = 0; i < 2; i++)
		followers[i] = (Follower){.log = log, .stop = stop, .other = &followers[1 - i], .next = 1};
	pthread_t threads[2];
	atomic_uint progress = 0;

	txlog_on_progress(log, count_progress, &progress);
	for (int i = 0; i < 2; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, follow, &followers[i]), 0);
	for (uint32_t n = 1; n <= TRANSACTIONS; n++) {
		if (n % 97 == 0) {
			fixture_begin(log, n);
			fixture_rows(log, n, 100, 5000);
			ck_assert(txlog_discard_open(log, &err));
		}
		fixture_transaction(log, n, 1 + n % 3, n % 200 == 0 ? 300000 : 300);
		if (n % 3 == 0)
			ck_assert(txlog_publish(log, &err));
		if (n % 100 == 0)
			txlog_wake(log);
	}
	fixture_publish(log);
	ck_assert_msg(txlog_sync(log, deadline_in_ms(60000), &err), "%s", err.message);
	for (int i = 0; i < 2; i++)
		ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
	ck_assert_uint_eq(atomic_load(&followers[0].next), TRANSACTIONS + 1);
	ck_assert_uint_eq(atomic_load(&followers[1].next), TRANSACTIONS + 1);
	ck_assert_uint_gt(atomic_load(&progress), 0);
	txlog_on_progress(log, NULL, NULL);
	txlog_close(log);
	stop_free(stop);
	fixture_remove(directory);
}
END_TEST

static Suite *
make(void)
{
	Suite *suite = suite_create("txlog model");
	TCase *tcase = tcase_create("model");
	tcase_set_timeout(tcase, 300);
	tcase_add_loop_test(tcase, the_log_behaves_like_its_model, 0, 6);
	tcase_add_loop_test(tcase, writer_readers_and_flusher_together, 0, 2);
	suite_add_tcase(suite, tcase);
	return suite;
}

TEST_SUITE(make)
