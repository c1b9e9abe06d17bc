#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/memory.h"
#include "tests/unit/decoder/messages.h"
#include "tests/unit/decoder/txlog_fixture.h"
#include "tests/unit/runner.h"

/*
 * Streamed transactions beside a model: a source with some backends that write,
 * nest sub-transactions, roll back and commit at random, and a walsender that streams
 * what it has decoded whenever it likes. Each row says which version of its relation
 * it was sent with; a reader must know just that version when it meets the row.
 */
enum { BACKENDS = 6, RELATIONS = 3, SUBS_MAX = 4000, ROWS_MAX = 40000, COMMITS_MAX = 6000 };

typedef struct {
	uint32_t xid;  /* 0: has not written */
	int parent;    /* -1: the top-level transaction */
	bool over;     /* rolled back; its rows are gone */
	bool streamed; /* the walsender has sent rows of it */
} Sub;

typedef struct {
	uint32_t id;
	int sub;
	int relation;
	uint32_t size;
	bool sent;
} Row;

/* One backend's transaction; subs[0] is the top-level one. */
typedef struct {
	bool active;
	bool streamed;
	Sub *subs;
	int sub_count;
	int current; /* the innermost sub-transaction */
	Row *rows;
	int row_count;
} Tx;

typedef struct {
	uint32_t version;
	bool sent;              /* to everybody */
	bool sent_in[BACKENDS]; /* in the stream of that transaction */
} Table;

typedef struct {
	char *directory;
	TxLog *log;
	unsigned seed;
	uint64_t segment_bytes;
	uint64_t inline_max;
	bool compress;
	Tx txs[BACKENDS];
	Table tables[RELATIONS];
	uint32_t xids;
	uint32_t ids;
	uint32_t commits;
	uint32_t published;
	uint32_t released;
	uint32_t ever_released;
	uint64_t sums[COMMITS_MAX]; /* of each commit, from 1 on: see add_row */
	Buffer message;
} World;

static unsigned
dice(World *w, unsigned sides)
{
	return (unsigned)rand_r(&w->seed) % sides;
}

/* In this order, of this transaction. */
static uint64_t
add_row(uint64_t sum, uint32_t id)
{
	return (sum ^ id) * UINT64_C(0x9E3779B97F4A7C15) + 1;
}

static void
send(World *w)
{
	Error err = ERROR_INIT;
	ck_assert_msg(txlog_append(w->log, buffer_slice(&w->message), &err), "%s", err.message);
	buffer_reset(&w->message);
}

static void
open_log(World *w)
{
	w->log = fixture_open_with(w->directory, w->segment_bytes, 0, w->compress);
	w->log->inline_max = w->inline_max;
}

/* ---- the walsender ---- */

static void
send_relation(World *w, uint32_t xid, int relation)
{
	char name[32];
	snprintf(name, sizeof(name), "t%u", w->tables[relation].version);
	message_relation(&w->message, xid, 100 + (uint32_t)relation, name);
	send(w);
}

static void
send_row(World *w, uint32_t xid, const Row *row)
{
	message_insert_filler(&w->message, xid, 100 + (uint32_t)row->relation, row->id, row->size,
	                      (uint8_t)w->tables[row->relation].version);
	send(w);
}

static void
stream_rows(World *w, int backend)
{
	Tx *tx = &w->txs[backend];

	message_stream_start(&w->message, tx->subs[0].xid, !tx->streamed);
	send(w);
	tx->streamed = true;
	for (int i = 0; i < tx->row_count; i++) {
		Row *row = &tx->rows[i];
		Table *table = &w->tables[row->relation];
		Sub *sub = &tx->subs[row->sub];
		if (row->sent)
			continue;
		if (!table->sent_in[backend])
			send_relation(w, sub->xid, row->relation);
		table->sent_in[backend] = true;
		send_row(w, sub->xid, row);
		row->sent = sub->streamed = true;
	}
	message_stream_stop(&w->message);
	send(w);
}

static void
stream_some(World *w)
{
	int backend = (int)dice(w, BACKENDS);
	if (w->txs[backend].active && w->txs[backend].subs[0].xid != 0)
		stream_rows(w, backend);
}

static void
send_abort(World *w, int backend, Sub *sub)
{
	Tx *tx = &w->txs[backend];

	if (!tx->streamed || (!sub->streamed && sub != &tx->subs[0]))
		return;
	message_stream_abort(&w->message, tx->subs[0].xid, sub->xid);
	send(w);
	for (int i = 0; i < RELATIONS; i++)
		w->tables[i].sent_in[backend] = false;
}

/* DDL somewhere, or only the caches were reset. */
static void
invalidate(World *w)
{
	Table *table = &w->tables[dice(w, RELATIONS)];
	/* 0 to 127: what a row of filler can say */
	if (dice(w, 2) == 0)
		table->version = (table->version + 1) % 128;
	table->sent = false;
	memset(table->sent_in, 0, sizeof(table->sent_in));
}

/* ---- the backends ---- */

static void
tx_end(Tx *tx)
{
	tx->active = tx->streamed = false;
	tx->sub_count = tx->row_count = 0;
}

static void
tx_begin(Tx *tx)
{
	tx->active = true;
	tx->subs[0] = (Sub){.parent = -1};
	tx->sub_count = 1;
	tx->current = 0;
}

/* A parent gets its xid before its child. */
static void
assign_xid(World *w, Tx *tx, int sub)
{
	if (tx->subs[sub].xid != 0)
		return;
	if (tx->subs[sub].parent >= 0)
		assign_xid(w, tx, tx->subs[sub].parent);
	if (++w->xids == 0)
		++w->xids;
	tx->subs[sub].xid = w->xids;
}

static void
tx_write(World *w, Tx *tx)
{
	static const uint32_t sizes[] = {1, 100, 2000, 30000, 300000};
	uint32_t rows = 1 + dice(w, 5);

	assign_xid(w, tx, tx->current);
	for (uint32_t i = 0; i < rows && tx->row_count < ROWS_MAX; i++)
		tx->rows[tx->row_count++] = (Row){
			.id = ++w->ids,
			.sub = tx->current,
			.relation = (int)dice(w, RELATIONS),
			.size = sizes[dice(w, dice(w, 20) == 0 ? 5 : 3)],
		};
}

static void
tx_savepoint(Tx *tx)
{
	if (tx->sub_count == SUBS_MAX)
		return;
	tx->subs[tx->sub_count] = (Sub){.parent = tx->current};
	tx->current = tx->sub_count++;
}

static bool
is_inside(const Tx *tx, int sub, int outer)
{
	while (sub >= 0 && sub != outer)
		sub = tx->subs[sub].parent;
	return sub == outer;
}

/* The children first, then itself; their rows are gone, sent or not. */
static void
tx_roll_back(World *w, int backend, int outer)
{
	Tx *tx = &w->txs[backend];
	int keep = 0;

	for (int i = outer + 1; i < tx->sub_count; i++) {
		if (tx->subs[i].over || !is_inside(tx, i, outer))
			continue;
		tx->subs[i].over = true;
		if (tx->subs[i].xid != 0)
			send_abort(w, backend, &tx->subs[i]);
	}
	tx->subs[outer].over = true;
	if (tx->subs[outer].xid != 0)
		send_abort(w, backend, &tx->subs[outer]);
	for (int i = 0; i < tx->row_count; i++)
		if (!tx->subs[tx->rows[i].sub].over)
			tx->rows[keep++] = tx->rows[i];
	tx->row_count = keep;
}

static void
send_whole(World *w, Tx *tx)
{
	message_begin(&w->message, FIXTURE_COMMIT(w->commits), tx->subs[0].xid);
	send(w);
	for (int i = 0; i < tx->row_count; i++) {
		Table *table = &w->tables[tx->rows[i].relation];
		if (!table->sent)
			send_relation(w, 0, tx->rows[i].relation);
		table->sent = true;
		send_row(w, 0, &tx->rows[i]);
	}
	message_commit(&w->message, FIXTURE_COMMIT(w->commits), FIXTURE_END(w->commits));
	send(w);
}

static void
tx_commit(World *w, int backend)
{
	Tx *tx = &w->txs[backend];
	uint64_t sum = 0;

	if (tx->subs[0].xid != 0) {
		w->commits++;
		ck_assert_uint_lt(w->commits, COMMITS_MAX);
		for (int i = 0; i < tx->row_count; i++)
			sum = add_row(sum, tx->rows[i].id);
		w->sums[w->commits] = sum;
		if (!tx->streamed) {
			send_whole(w, tx);
		} else {
			if (dice(w, 4) != 0)
				stream_rows(w, backend);
			else
				for (int i = 0; i < tx->row_count; i++)
					if (!tx->rows[i].sent) {
						stream_rows(w, backend);
						break;
					}
			message_stream_commit(&w->message, tx->subs[0].xid, FIXTURE_COMMIT(w->commits),
			                      FIXTURE_END(w->commits));
			send(w);
			for (int i = 0; i < RELATIONS; i++) {
				Table *table = &w->tables[i];
				table->sent = table->sent || table->sent_in[backend];
				table->sent_in[backend] = false;
			}
		}
	}
	tx_end(tx);
}

static void
tx_step(World *w)
{
	int backend = (int)dice(w, BACKENDS);
	Tx *tx = &w->txs[backend];

	if (!tx->active) {
		tx_begin(tx);
		return;
	}
	switch (dice(w, 24)) {
	case 0:
		tx_commit(w, backend);
		break;
	case 1:
		if (dice(w, 4) == 0) {
			tx_roll_back(w, backend, 0);
			tx_end(tx);
		}
		break;
	case 2:
	case 3:
	case 4:
	case 5:
	case 6:
		tx_savepoint(tx);
		break;
	case 7:
	case 8:
	case 9:
	case 10:
		if (tx->current > 0) /* released */
			tx->current = tx->subs[tx->current].parent;
		break;
	case 11:
	case 12:
		if (tx->current > 0) {
			int outer = tx->current;
			for (unsigned up = dice(w, 3); up > 0 && tx->subs[outer].parent > 0; up--)
				outer = tx->subs[outer].parent;
			tx->current = tx->subs[outer].parent;
			tx_roll_back(w, backend, outer);
		}
		break;
	default:
		tx_write(w, tx);
		break;
	}
}

/* ---- the reader ---- */

typedef struct {
	const World *w;
	char names[RELATIONS][32];
	uint32_t commit; /* in hand; 0: none */
	uint32_t last;
	uint32_t transactions;
	uint64_t sum;
} Seen;

static void
see_row(Seen *seen, Slice m)
{
	char text[24] = "";
	char name[32];
	ByteReader r = reader_of(m);

	read_u8(&r);
	uint32_t relation = read_u32(&r) - 100;
	read_bytes(&r, 1 + 2 + 1);
	Slice id = read_bytes(&r, read_u32(&r));
	ck_assert(!r.failed && relation < RELATIONS && id.len < sizeof(text));
	memcpy(text, id.data, id.len);
	snprintf(name, sizeof(name), "t%u", m.data[m.len - 1]);
	ck_assert_msg(strcmp(seen->names[relation], name) == 0,
	              "commit %u, row %s: relation %u is %s, not %s", seen->commit, text, relation,
	              seen->names[relation], name);
	seen->sum = add_row(seen->sum, (uint32_t)strtoul(text, NULL, 10));
}

static void
see(Seen *seen, Slice m)
{
	PgoMessage parsed;
	PgoContext context = {.proto_version = 1};
	Error err = ERROR_INIT;
	Arena *arena = arena_new(0);

	ck_assert_msg(pgoutput_parse(&context, m, arena, &parsed, &err), "%s", err.message);
	switch (parsed.kind) {
	case PGO_BEGIN:
		ck_assert_uint_eq(seen->commit, 0);
		seen->commit = (uint32_t)(parsed.begin.final_lsn.v / 0x100);
		seen->sum = 0;
		break;
	case PGO_RELATION:
		ck_assert_uint_lt(parsed.relation.oid - 100, RELATIONS);
		snprintf(seen->names[parsed.relation.oid - 100], 32, "%s", parsed.relation.name);
		break;
	case PGO_INSERT:
		ck_assert_uint_ne(seen->commit, 0);
		see_row(seen, m);
		break;
	default:
		ck_assert_int_eq(parsed.kind, PGO_COMMIT);
		ck_assert_uint_eq(parsed.commit.commit_lsn.v, FIXTURE_COMMIT(seen->commit));
		ck_assert_uint_eq(parsed.commit.end_lsn.v, FIXTURE_END(seen->commit));
		ck_assert_msg(seen->sum == seen->w->sums[seen->commit], "commit %u has other rows",
		              seen->commit);
		if (seen->transactions > 0)
			ck_assert_uint_eq(seen->commit, seen->last + 1);
		seen->transactions++;
		seen->last = seen->commit;
		seen->commit = 0;
		break;
	}
	arena_free(arena);
}

static Seen
read_from(const World *w, TxLog *log, uint32_t after)
{
	Error err = ERROR_INIT;
	Seen seen = {.w = w};
	Slice m;
	TxLogNext next;
	TxLogReader *reader = txlog_reader_open(log, lsn_make(FIXTURE_COMMIT(after)), &err);

	ck_assert_msg(reader != NULL, "%s", err.message);
	while ((next = txlog_reader_next(reader, NULL, 1, &m, &err)) == TXLOG_MESSAGE)
		see(&seen, m);
	ck_assert_msg(next == TXLOG_WAIT, "%s: %s", err.context, err.message);
	ck_assert_uint_eq(seen.commit, 0); /* T2 */
	txlog_reader_close(reader);
	return seen;
}

/* ---- the log's own life ---- */

static void
publish(World *w)
{
	fixture_publish(w->log);
	w->published = w->commits;
}

static void
look(World *w)
{
	if (w->published <= w->ever_released)
		return;
	uint32_t after = w->ever_released + dice(w, w->published - w->ever_released);
	Seen seen = read_from(w, w->log, after);
	ck_assert_uint_ge(seen.last, w->published);
	ck_assert_uint_ge(seen.transactions, w->published - after);
}

static void
release(World *w)
{
	if (w->published <= w->released)
		return;
	w->released += 1 + dice(w, w->published - w->released);
	if (w->released > w->ever_released)
		w->ever_released = w->released;
	txlog_release(w->log, lsn_make(FIXTURE_COMMIT(w->released)));
}

/* The walsender starts all transactions in progress again, without what was rolled
 * back before; and says each relation again. */
static void
sender_is_new(World *w)
{
	for (int b = 0; b < BACKENDS; b++) {
		Tx *tx = &w->txs[b];
		tx->streamed = false;
		for (int i = 0; i < tx->sub_count; i++)
			tx->subs[i].streamed = false;
		for (int i = 0; i < tx->row_count; i++)
			tx->rows[i].sent = false;
	}
	for (int i = 0; i < RELATIONS; i++) {
		w->tables[i].sent = false;
		memset(w->tables[i].sent_in, 0, sizeof(w->tables[i].sent_in));
	}
}

static void
reconnect(World *w)
{
	Error err = ERROR_INIT;
	ck_assert(txlog_discard_open(w->log, &err));
	sender_is_new(w);
}

static void
reopen(World *w)
{
	txlog_close(w->log);
	w->published = w->commits;
	w->released = 0;
	open_log(w);
	sender_is_new(w);
}

static int
count_files(const char *directory, const char *suffix)
{
	int count = 0;
	DIR *dir = opendir(directory);
	ck_assert_ptr_nonnull(dir);
	for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
		count += strstr(entry->d_name, suffix) != NULL;
	closedir(dir);
	return count;
}

static void
copy_files(const char *from, const char *to)
{
	DIR *dir = opendir(from);
	for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
		if (entry->d_name[0] == '.')
			continue;
		char *source = mem_printf("%s/%s", from, entry->d_name);
		char *target = mem_printf("%s/%s", to, entry->d_name);
		Buffer bytes = fixture_load(source);
		fixture_store(target, bytes.data, bytes.len);
		buffer_free(&bytes);
		free(source);
		free(target);
	}
	closedir(dir);
}

/* All is written, and the flusher has nothing more to remove: files neither grow nor go
 * while they are copied. */
static void
wait_removed(const World *w)
{
	int64_t deadline = deadline_in_ms(60000);
	bool done;

	fixture_settle(w->log);
	do {
		pthread_mutex_lock(&w->log->lock);
		done = !w->log->release_news &&
		       count_files(w->directory, ".xact") == (int)w->log->side_count &&
		       count_files(w->directory, ".log") == (int)w->log->segment_count;
		pthread_mutex_unlock(&w->log->lock);
		ck_assert_int_gt(deadline_left_ms(deadline), 0);
	} while (!done);
}

/* What a killed process leaves, its last segment cut anywhere behind the header. */
static void
crash(World *w)
{
	TxLogState state;

	wait_removed(w);
	char *image = fixture_directory();
	copy_files(w->directory, image);
	char *last = fixture_path(image, w->log->writer.number);
	uint64_t size = fixture_size(last);
	uint64_t body = size - strlen("fixture") - 49; /* behind the header */
	uint64_t cut = dice(w, 2) == 0 ? 0 : dice(w, (unsigned)(body < 4000 ? body : 4000) + 1);
	ck_assert_int_eq(truncate(last, (off_t)(size - cut)), 0);

	TxLog *log = fixture_open_with(image, w->segment_bytes, 0, w->compress);
	ck_assert_int_eq(count_files(image, ".stream"), 0);
	ck_assert_int_eq(count_files(image, ".xact"), (int)log->side_count);
	for (size_t i = 0; i < log->side_count; i++)
		ck_assert(txlog_has(log, log->sides[i].commit));
	Seen seen = read_from(w, log, w->ever_released);
	txlog_state(log, &state);
	if (seen.transactions > 0)
		ck_assert_uint_eq(state.last_commit.v, FIXTURE_COMMIT(seen.last));
	else
		ck_assert_uint_le(state.last_commit.v, FIXTURE_COMMIT(w->ever_released));
	if (cut == 0 && w->published > w->ever_released)
		ck_assert_uint_ge(seen.last, w->published);
	txlog_close(log);
	free(last);
	fixture_remove(image);
}

static void
step(World *w)
{
	switch (dice(w, 400)) {
	case 0:
		reconnect(w);
		break;
	case 1:
		reopen(w);
		break;
	case 2:
		crash(w);
		break;
	case 3:
	case 4:
		look(w);
		break;
	case 5:
	case 6:
	case 7:
		release(w);
		break;
	default:
		switch (dice(w, 12)) {
		case 0:
		case 1:
			stream_some(w);
			break;
		case 2:
			publish(w);
			break;
		case 3:
			if (dice(w, 3) == 0)
				invalidate(w);
			break;
		default:
			tx_step(w);
			break;
		}
	}
}

/* All was released and rolled: no side file is left, nor any count of one. */
static void
check_the_end(World *w)
{
	Error err = ERROR_INIT;
	TxLogState state;

	for (int b = 0; b < BACKENDS; b++)
		if (w->txs[b].active) {
			tx_roll_back(w, b, 0);
			tx_end(&w->txs[b]);
		}
	publish(w);
	if (w->ever_released < w->commits)
		ck_assert_uint_eq(read_from(w, w->log, w->ever_released).last, w->commits);
	ck_assert_int_eq(count_files(w->directory, ".stream"), 0);
	txlog_release(w->log, lsn_make(FIXTURE_COMMIT(w->commits)));
	w->log->segment_bytes = 1;
	publish(w);
	int64_t deadline = deadline_in_ms(60000);
	do {
		ck_assert(txlog_sync(w->log, deadline, &err));
		txlog_state(w->log, &state);
		ck_assert_int_gt(deadline_left_ms(deadline), 0);
		usleep(1000);
	} while (state.segments > 1 || count_files(w->directory, ".xact") > 0);
	char *path = fixture_path(w->directory, w->log->writer.number);
	ck_assert_uint_eq(state.bytes_on_disk, fixture_size(path));
	free(path);
}

START_TEST(streams_behave_like_their_model)
{
	const char *fixed = getenv("PGBATON_SEED");
	unsigned seed = fixed != NULL ? (unsigned)atoi(fixed)
	                              : (unsigned)clock_wall_us() + (unsigned)_i;
	World *w = mem_zalloc(sizeof(World));

	log_set_level(LOG_ERROR);
	fprintf(stderr, "stream model %d: PGBATON_SEED=%u\n", _i, seed);
	w->directory = fixture_directory();
	w->seed = seed;
	w->segment_bytes = _i % 2 == 0 ? 100000 : 3000000;
	w->inline_max = _i % 3 == 0 ? 0 : 100000;
	w->compress = _i % 4 == 3;
	w->xids = UINT32_MAX - 300; /* they wrap on the way */
	for (int b = 0; b < BACKENDS; b++) {
		w->txs[b].subs = mem_alloc(SUBS_MAX * sizeof(Sub));
		w->txs[b].rows = mem_alloc(ROWS_MAX * sizeof(Row));
	}
	open_log(w);
	const char *steps = getenv("PGBATON_STEPS");
	for (int i = steps != NULL ? atoi(steps) : 3000; i > 0; i--)
		step(w);
	ck_assert_uint_gt(w->commits, 10);
	check_the_end(w);
	txlog_close(w->log);
	fixture_remove(w->directory);
	for (int b = 0; b < BACKENDS; b++) {
		free(w->txs[b].subs);
		free(w->txs[b].rows);
	}
	buffer_free(&w->message);
	free(w);
}
END_TEST

static Suite *
make(void)
{
	Suite *suite = suite_create("txlog stream model");
	TCase *tcase = tcase_create("stream model");
	tcase_set_timeout(tcase, 300);
	tcase_add_loop_test(tcase, streams_behave_like_their_model, 0, 6);
	suite_add_tcase(suite, tcase);
	return suite;
}

TEST_SUITE(make)
