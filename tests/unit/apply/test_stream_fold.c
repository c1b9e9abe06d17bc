/*
 * Folding beside a naive model: random transactions are done to a small table in memory one
 * by one, and the batch's net changes to a copy of the table as it was before. Both must
 * end the same, in the order in which the lanes execute: deletes, updates, inserts.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "apply/batch/batch.h"
#include "apply/lane/encode.h"
#include "tests/unit/runner.h"

/* id (key), a, big: big is a value that the stream may leave out. */
enum { IDS = 8, COLUMNS = 3 };

typedef struct {
	bool there;
	int a;
	int big;
} ModelRow;

typedef struct {
	Column columns[COLUMNS];
	PlanColumn plan_columns[COLUMNS];
	uint16_t key_columns[1];
	Table table;
	Plan plan;
} Fixture;

static void
fixture_init(Fixture *f, KeyKind key)
{
	memset(f, 0, sizeof(*f));
	f->key_columns[0] = 0;
	f->table.qualified = "t";
	f->plan = (Plan){.id = 1,
	                 .table = &f->table,
	                 .key = key,
	                 .count = COLUMNS,
	                 .columns = f->plan_columns,
	                 .route = 7};
	for (int i = 0; i < COLUMNS; i++)
		f->plan_columns[i].column = &f->columns[i];
	f->columns[COLUMNS - 1].varlena = true;
	if (key == KEY_INDEX) {
		f->plan.key_count = 1;
		f->plan.key_columns = f->key_columns;
		f->plan_columns[0].key = true;
	}
}

static void
put_int(Buffer *out, int value)
{
	char text[16];
	int len = snprintf(text, sizeof(text), "%d", value);

	buffer_put_u8(out, 't');
	buffer_put_u32(out, (uint32_t)len);
	buffer_put(out, text, (size_t)len);
}

/* big_known false: an unchanged TOAST value. */
static void
put_row(Buffer *out, char mark, int id, int a, int big, bool big_known)
{
	buffer_put_u8(out, (uint8_t)mark);
	buffer_put_u16(out, COLUMNS);
	put_int(out, id);
	put_int(out, a);
	if (big_known)
		put_int(out, big);
	else
		buffer_put_u8(out, 'u');
}

static void
put_key(Buffer *out, int id)
{
	buffer_put_u8(out, 'K');
	buffer_put_u16(out, COLUMNS);
	put_int(out, id);
	buffer_put_u8(out, 'n');
	buffer_put_u8(out, 'n');
}

static BatchAdd
add(Batch *batch, const Fixture *f, Buffer *message)
{
	PgoContext context = {.proto_version = 1};
	Error err = ERROR_INIT;
	BatchAdd result = batch_add(batch, &f->plan, &context, buffer_slice(message), lsn_make(5), 9,
	                            &err);

	ck_assert_msg(result != BATCH_BAD, "%s", err.message);
	return result;
}

static void
begin_message(Buffer *out, char kind)
{
	buffer_reset(out);
	buffer_put_u8(out, (uint8_t)kind);
	buffer_put_u32(out, 1);
}

static int
int_of(const Value *value)
{
	char text[16] = "";

	ck_assert_int_eq(value->kind, VALUE_TEXT);
	ck_assert_uint_lt(value->bytes.len, sizeof(text));
	memcpy(text, value->bytes.data, value->bytes.len);
	return atoi(text);
}

/* A random change to the model and its message. False: the dice showed nothing possible. */
static bool
random_change(unsigned *seed, ModelRow *model, Buffer *out)
{
	int id = (int)(rand_r(seed) % IDS);
	int to = (int)(rand_r(seed) % IDS);
	int value = (int)(rand_r(seed) % 1000);
	bool big_known = rand_r(seed) % 2 == 0;

	switch (rand_r(seed) % 4) {
	case 0:
		if (model[id].there)
			return false;
		model[id] = (ModelRow){true, value, value + 1};
		begin_message(out, 'I');
		put_row(out, 'N', id, value, value + 1, true);
		return true;
	case 1:
		if (!model[id].there)
			return false;
		model[id].there = false;
		begin_message(out, 'D');
		put_key(out, id);
		return true;
	case 2:
		if (!model[id].there || id == to || model[to].there)
			return false;
		model[to] = (ModelRow){true, value, big_known ? value + 2 : model[id].big};
		model[id].there = false;
		begin_message(out, 'U');
		put_key(out, id);
		put_row(out, 'N', to, value, value + 2, big_known);
		return true;
	default:
		if (!model[id].there)
			return false;
		model[id].a = value;
		if (big_known)
			model[id].big = value + 3;
		begin_message(out, 'U');
		put_row(out, 'N', id, value, value + 3, big_known);
		return true;
	}
}

static void
set_known(ModelRow *row, const Value *values)
{
	row->there = true;
	if (values[1].kind != VALUE_UNCHANGED)
		row->a = int_of(&values[1]);
	if (values[2].kind != VALUE_UNCHANGED)
		row->big = int_of(&values[2]);
}

/* As the lanes would, in three passes; a row that is missing or in the way fails. */
static void
apply_net(const Batch *batch, ModelRow *table, unsigned seed)
{
	for (int pass = 0; pass < 3; pass++) {
		for (size_t i = 0; i < batch->row_count; i++) {
			const Row *row = batch->rows[i];
			ModelRow *at = &table[int_of(&row->key_values[0])];
			bool replace = row->op == NET_REPLACE;
			if (pass == 0 && (row->op == NET_DELETE || replace)) {
				ck_assert_msg(at->there, "seed %u: deletes a missing row", seed);
				at->there = false;
			} else if (pass == 1 && row->op == NET_UPDATE) {
				ck_assert_msg(at->there, "seed %u: updates a missing row", seed);
				set_known(at, row->values);
			} else if (pass == 2 && (row->op == NET_INSERT || replace)) {
				ck_assert_msg(!at->there, "seed %u: inserts over a row", seed);
				ck_assert_int_eq(row->values[2].kind, VALUE_TEXT);
				set_known(at, row->values);
			}
		}
	}
}

static void
assert_equal(const ModelRow *a, const ModelRow *b, unsigned seed)
{
	for (int i = 0; i < IDS; i++) {
		ck_assert_msg(a[i].there == b[i].there, "seed %u: row %d", seed, i);
		if (a[i].there)
			ck_assert_msg(a[i].a == b[i].a && a[i].big == b[i].big,
			              "seed %u: row %d is (%d, %d), not (%d, %d)", seed, i, b[i].a, b[i].big,
			              a[i].a, a[i].big);
	}
}

static void
model_run(const Fixture *f, unsigned seed)
{
	unsigned dice = seed;
	ModelRow before[IDS] = {{false, 0, 0}};
	ModelRow model[IDS];
	Buffer message = BUFFER_INIT;

	for (int i = 0; i < IDS; i++)
		before[i] = (ModelRow){rand_r(&dice) % 2 == 0, i, i};
	memcpy(model, before, sizeof(model));
	Batch *batch = batch_new(3);
	for (int i = 0; i < 40; i++) {
		ModelRow last[IDS];
		memcpy(last, model, sizeof(last));
		if (!random_change(&dice, model, &message))
			continue;
		BatchAdd result = add(batch, f, &message);
		if (result == BATCH_CLOSE_FIRST || batch->closed) {
			/* Only a moved key with an unknown value stands alone (N3). */
			if (result == BATCH_CLOSE_FIRST)
				ck_assert_uint_gt(batch->change_count, 0);
			memcpy(model, last, sizeof(model));
			break;
		}
	}
	ck_assert(!batch->ordered || batch->change_count == 1);
	apply_net(batch, before, seed);
	assert_equal(model, before, seed);
	batch_free(batch);
	buffer_free(&message);
}

START_TEST(model)
{
	Fixture f;

	fixture_init(&f, KEY_INDEX);
	for (unsigned seed = 1; seed <= 20000; seed++)
		model_run(&f, seed);
}
END_TEST

/* N1: the same row cannot hide behind another form of its key. */
START_TEST(form_changes)
{
	Fixture f;
	Buffer message = BUFFER_INIT;

	fixture_init(&f, KEY_INDEX);
	Batch *batch = batch_new(1);
	begin_message(&message, 'U');
	put_row(&message, 'N', 1, 2, 3, true);
	ck_assert_int_eq(add(batch, &f, &message), BATCH_ADDED);
	message.data[8] = 'b'; /* kind of the first value */
	ck_assert_int_eq(add(batch, &f, &message), BATCH_CLOSE_FIRST);
	ck_assert_uint_eq(batch->row_count, 1);
	batch_free(batch);
	buffer_free(&message);
}
END_TEST

/* N5 */
START_TEST(impossible_is_ordered)
{
	Fixture f;
	Buffer message = BUFFER_INIT;

	fixture_init(&f, KEY_INDEX);
	Batch *batch = batch_new(1);
	begin_message(&message, 'I');
	put_row(&message, 'N', 1, 2, 3, true);
	ck_assert_int_eq(add(batch, &f, &message), BATCH_ADDED);
	ck_assert(!batch->ordered);
	ck_assert_int_eq(add(batch, &f, &message), BATCH_ADDED);
	ck_assert(batch->ordered);
	batch_free(batch);
	buffer_free(&message);
}
END_TEST

/* N4: equal images cancel, whatever their order. */
START_TEST(images)
{
	Fixture f;
	Buffer message = BUFFER_INIT;
	int64_t net = 0;

	fixture_init(&f, KEY_FULL);
	Batch *batch = batch_new(4);
	for (int i = 0; i < 5; i++) {
		begin_message(&message, 'I');
		put_row(&message, 'N', 1, 1, 1, true);
		ck_assert_int_eq(add(batch, &f, &message), BATCH_ADDED);
	}
	begin_message(&message, 'U');
	put_row(&message, 'O', 1, 1, 1, true);
	put_row(&message, 'N', 1, 2, 0, false); /* unchanged: resolved from the old row */
	ck_assert_int_eq(add(batch, &f, &message), BATCH_ADDED);
	begin_message(&message, 'D');
	put_row(&message, 'O', 9, 9, 9, true);
	ck_assert_int_eq(add(batch, &f, &message), BATCH_ADDED);
	ck_assert_uint_eq(batch->row_count, 3);
	for (size_t i = 0; i < 3; i++) {
		const Row *row = batch->rows[i];
		int a = int_of(&row->values[1]);
		ck_assert_int_eq(row->net, a == 1 ? 4 : a == 2 ? 1 : -1);
		ck_assert_int_eq(int_of(&row->values[2]), a == 9 ? 9 : 1);
		ck_assert_int_eq(row->lane, batch->rows[0]->lane);
		net += row->net;
	}
	ck_assert_int_eq(net, 4);
	batch_free(batch);
	buffer_free(&message);
}
END_TEST

/* P4: which lane a key goes to is written on the target's disk in effect. These numbers
 * may never change. */
START_TEST(routes_last)
{
	Plan plan = {.route = plan_route(16384)};
	int seen[4] = {0};

	ck_assert_int_eq(plan_lane(&plan, slice_cstr("any"), 1), 0);
	for (int i = 0; i < 4000; i++) {
		char key[16];
		int len = snprintf(key, sizeof(key), "%d", i);
		int lane = plan_lane(&plan, slice_of(key, (size_t)len), 4);
		ck_assert_int_eq(lane, plan_lane(&plan, slice_of(key, (size_t)len), 4));
		seen[lane]++;
	}
	for (int i = 0; i < 4; i++)
		ck_assert_int_gt(seen[i], 800);
	ck_assert_uint_eq(hash_bytes(slice_cstr("pgbaton"), 7) % 1000, 137);
	ck_assert_uint_eq(plan_route(16384) % 1000, 116);
}
END_TEST

START_TEST(encoding)
{
	static const uint8_t array[] = {0, 0, 0, 1, 0, 0,   0,   1,   0,   0, 0, 25, 0, 0,  0,
	                                2, 0, 0, 0, 1, 255, 255, 255, 255, 0, 0, 0,  1, 'x'};
	Buffer out = BUFFER_INIT;
	Value null = {VALUE_NULL, SLICE_EMPTY};
	Value x = {VALUE_TEXT, slice_cstr("x")};

	encode_array_begin(&out, 25, 2);
	encode_value(&out, &null);
	encode_value(&out, &x);
	ck_assert(slice_eq(buffer_slice(&out), slice_of(array, sizeof(array))));
	buffer_reset(&out);
	encode_copy_begin(&out);
	ck_assert_uint_eq(out.len, 19);
	ck_assert_int_eq(memcmp(out.data, "PGCOPY\n\377\r\n\0", 11), 0);
	buffer_free(&out);
}
END_TEST

static Suite *
make(void)
{
	Suite *suite = suite_create("stream/fold");
	TCase *tcase = tcase_create("fold");

	tcase_set_timeout(tcase, 120);
	tcase_add_test(tcase, model);
	tcase_add_test(tcase, form_changes);
	tcase_add_test(tcase, impossible_is_ordered);
	tcase_add_test(tcase, images);
	tcase_add_test(tcase, routes_last);
	tcase_add_test(tcase, encoding);
	suite_add_tcase(suite, tcase);
	return suite;
}

TEST_SUITE(make)
