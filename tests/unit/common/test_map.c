/* common/map.c against a model that is too simple to be wrong. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/map.h"
#include "common/memory.h"
#include "tests/unit/runner.h"

enum { KEYS = 300, STEPS = 100000 };

/* Key i has value model[i]; NULL: not in the map. */
typedef struct {
	Map *map;
	char keys[KEYS][16];
	void *model[KEYS];
	size_t count;
} Pair;

static Slice
key_of(const Pair *pair, int i)
{
	return slice_cstr(pair->keys[i]);
}

static Pair *
pair_new(void)
{
	Pair *pair = mem_zalloc(sizeof(Pair));

	pair->map = map_new(0);
	for (int i = 0; i < KEYS; i++)
		snprintf(pair->keys[i], sizeof(pair->keys[i]), "%s%d", i % 2 != 0 ? "key" : "", i);
	pair->keys[0][0] = '\0'; /* the empty key is a key */
	return pair;
}

static void
pair_check(const Pair *pair)
{
	size_t walked = 0;
	Slice key;
	void *value;

	ck_assert_uint_eq(map_count(pair->map), pair->count);
	for (int i = 0; i < KEYS; i++)
		ck_assert_ptr_eq(map_get(pair->map, key_of(pair, i)), pair->model[i]);
	for (size_t at = 0; map_each(pair->map, &at, &key, &value); walked++)
		ck_assert_ptr_eq(map_get(pair->map, key), value);
	ck_assert_uint_eq(walked, pair->count);
}

static void
pair_put(Pair *pair, int i, void *value)
{
	pair->count += pair->model[i] == NULL;
	pair->model[i] = value;
	map_put(pair->map, key_of(pair, i), value);
}

static void
pair_slot(Pair *pair, int i, void *value)
{
	bool found;
	void **slot = map_slot(pair->map, key_of(pair, i), &found);

	ck_assert_int_eq(found, pair->model[i] != NULL);
	ck_assert_ptr_eq(*slot, pair->model[i]);
	*slot = value;
	pair->count += pair->model[i] == NULL;
	pair->model[i] = value;
}

static void
pair_remove(Pair *pair, int i)
{
	ck_assert_int_eq(map_remove(pair->map, key_of(pair, i)), pair->model[i] != NULL);
	pair->count -= pair->model[i] != NULL;
	pair->model[i] = NULL;
}

START_TEST(random_operations_like_the_model)
{
	Pair *pair = pair_new();
	unsigned seed = (unsigned)_i + 1;

	/* Phases that mostly fill and mostly empty, so that it grows and that
	 * removals move entries back over the table's end. */
	for (int step = 0; step < STEPS; step++) {
		bool filling = step / 5000 % 2 == 0;
		int i = rand_r(&seed) % KEYS;
		int dice = rand_r(&seed) % 10;
		if (dice < (filling ? 4 : 1))
			pair_put(pair, i, &pair->model[(i + step) % KEYS]);
		else if (dice < (filling ? 7 : 2))
			pair_slot(pair, i, &pair->model[(i * 7 + step) % KEYS]);
		else
			pair_remove(pair, i);
		if (step % 997 == 0)
			pair_check(pair);
	}
	pair_check(pair);
	map_clear(pair->map);
	memset(pair->model, 0, sizeof(pair->model));
	pair->count = 0;
	pair_check(pair);
	map_free(pair->map);
	free(pair);
}
END_TEST

START_TEST(keys_are_bytes)
{
	Map *map = map_new(2);
	int one;
	int two;

	map_put(map, slice_of("a\0b", 3), &one);
	map_put(map, slice_of("a\0c", 3), &two);
	ck_assert_ptr_eq(map_get(map, slice_of("a\0b", 3)), &one);
	ck_assert_ptr_eq(map_get(map, slice_of("a\0c", 3)), &two);
	ck_assert_ptr_null(map_get(map, slice_of("a\0", 2)));
	ck_assert_ptr_null(map_get(map, slice_cstr("a")));
	ck_assert_ptr_null(map_get(map, SLICE_EMPTY));
	ck_assert(!map_remove(map, SLICE_EMPTY));
	map_free(map);
	map_free(NULL);
}
END_TEST

START_TEST(grows_beyond_what_was_expected)
{
	enum { COUNT = 20000 };
	Map *map = map_new(100);
	uint32_t *keys = mem_alloc(COUNT * sizeof(*keys));

	for (uint32_t i = 0; i < COUNT; i++) {
		keys[i] = i;
		map_put(map, slice_of(&keys[i], sizeof(keys[i])), &keys[i]);
	}
	ck_assert_uint_eq(map_count(map), COUNT);
	for (uint32_t i = 0; i < COUNT; i++)
		ck_assert_ptr_eq(map_get(map, slice_of(&i, sizeof(i))), &keys[i]);
	/* Emptied when full, when nearly empty and when empty, it goes on working. */
	for (uint32_t count = COUNT; count > 0; count /= 20) {
		map_clear(map);
		ck_assert_uint_eq(map_count(map), 0);
		ck_assert_ptr_null(map_get(map, slice_of(&keys[0], sizeof(keys[0]))));
		for (uint32_t i = 0; i < count / 20; i++)
			map_put(map, slice_of(&keys[i], sizeof(keys[i])), &keys[i]);
		for (uint32_t i = 0; i < count / 20; i++)
			ck_assert_ptr_eq(map_get(map, slice_of(&i, sizeof(i))), &keys[i]);
		ck_assert_uint_eq(map_count(map), count / 20);
	}
	map_free(map);
	free(keys);
}
END_TEST

/* Lanes are chosen by it and the choice outlives the process (P4): these
 * values, those of XXH3 with 64 bits, must never change. */
START_TEST(hash_is_the_same_on_every_machine)
{
	ck_assert_uint_eq(hash_bytes(SLICE_EMPTY, 0), UINT64_C(0x2d06800538d394c2));
	ck_assert_uint_eq(hash_bytes(slice_of("", 0), 0), hash_bytes(SLICE_EMPTY, 0));
	ck_assert_uint_eq(hash_bytes(slice_cstr("pgbaton"), 0), UINT64_C(0x6400f7bb2229d160));
	ck_assert_uint_eq(hash_bytes(slice_cstr("pgbaton"), 42), UINT64_C(0xfd526a455df341b0));
	ck_assert_uint_ne(hash_bytes(slice_cstr("pgbaton"), 1), hash_bytes(slice_cstr("pgbaton"), 2));
}
END_TEST

static Suite *
make_map(void)
{
	Suite *suite = suite_create("map");
	TCase *tcase = tcase_create("map");

	tcase_add_loop_test(tcase, random_operations_like_the_model, 0, 4);
	tcase_add_test(tcase, keys_are_bytes);
	tcase_add_test(tcase, grows_beyond_what_was_expected);
	tcase_add_test(tcase, hash_is_the_same_on_every_machine);
	suite_add_tcase(suite, tcase);
	return suite;
}
TEST_SUITE(make_map)
