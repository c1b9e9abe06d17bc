/* common/arena.c and common/memory.c */
#include <stdalign.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/arena.h"
#include "common/memory.h"
#include "tests/unit/runner.h"

START_TEST(allocations_are_aligned_and_apart)
{
	enum { COUNT = 2000 };
	Arena *arena = arena_new(256);
	unsigned char *parts[COUNT];
	size_t sizes[COUNT];
	unsigned seed = 1;

	for (int i = 0; i < COUNT; i++) {
		sizes[i] = (size_t)rand_r(&seed) % 400; /* below and above half a block */
		parts[i] = arena_alloc(arena, sizes[i]);
		ck_assert_uint_eq((uintptr_t)parts[i] % alignof(max_align_t), 0);
		memset(parts[i], i & 0xff, sizes[i]);
	}
	/* Nobody wrote into somebody else's. */
	for (int i = 0; i < COUNT; i++)
		for (size_t j = 0; j < sizes[i]; j++)
			ck_assert_uint_eq(parts[i][j], (unsigned)(i & 0xff));
	arena_free(arena);
}
END_TEST

START_TEST(reset_frees_and_counts_anew)
{
	Arena *arena = arena_new(0);

	for (int round = 0; round < 3; round++) {
		ck_assert_uint_eq(arena_used(arena), 0);
		arena_alloc(arena, 100);
		size_t small = arena_used(arena);
		ck_assert_uint_ge(small, 100);
		arena_alloc(arena, 1024 * 1024);
		ck_assert_uint_ge(arena_used(arena), small + 1024 * 1024);
		char *text = arena_strdup(arena, "still here");
		ck_assert_str_eq(text, "still here");
		arena_reset(arena);
	}
	arena_free(arena);
	arena_free(NULL);
}
END_TEST

/* The same blocks again, small and large rounds in turn; what is handed out does not overlap. */
START_TEST(recycled_blocks_are_used_again)
{
	enum { SIZE = 100, MOST = 400 };
	Arena *arena = arena_new(1024);
	unsigned char *pieces[MOST];

	for (int round = 0; round < 20; round++) {
		int count = round % 3 == 0 ? 3 : MOST;
		for (int i = 0; i < count; i++) {
			pieces[i] = arena_alloc(arena, SIZE);
			memset(pieces[i], i % 251, SIZE);
			if (i % 50 == 0)
				memset(arena_alloc(arena, 5000), 0xff, 5000); /* a block of its own */
		}
		for (int i = 0; i < count; i++)
			for (int at = 0; at < SIZE; at++)
				ck_assert_uint_eq(pieces[i][at], i % 251);
		ck_assert_uint_ge(arena_used(arena), (size_t)count * SIZE);
		if (round % 7 == 6)
			arena_reset(arena);
		else
			arena_recycle(arena);
		ck_assert_uint_eq(arena_used(arena), 0);
	}
	arena_free(arena);
}
END_TEST

/* Valgrind and the address sanitizer see what is not freed, or twice. */
START_TEST(adopted_memory_counts_and_goes_with_the_rest)
{
	Arena *arena = arena_new(0);

	for (int round = 0; round < 3; round++) {
		char *text = mem_strdup("from somewhere else");
		size_t before = arena_used(arena);
		arena_adopt(arena, text, 1000);
		arena_adopt(arena, mem_alloc(5), 5);
		ck_assert_uint_ge(arena_used(arena), before + 1005);
		ck_assert_str_eq(text, "from somewhere else");
		if (round < 2)
			arena_reset(arena);
	}
	arena_free(arena);
}
END_TEST

START_TEST(zeroed_memory_is_zero_also_after_a_reset)
{
	Arena *arena = arena_new(1024);

	memset(arena_alloc(arena, 512), 0xff, 512);
	arena_reset(arena);
	const unsigned char *bytes = arena_zalloc(arena, 512);
	for (int i = 0; i < 512; i++)
		ck_assert_uint_eq(bytes[i], 0);
	const uint64_t *numbers = arena_new_array(arena, uint64_t, 10);
	for (int i = 0; i < 10; i++)
		ck_assert_uint_eq(numbers[i], 0);
	arena_free(arena);
}
END_TEST

START_TEST(copies_are_exact)
{
	Arena *arena = arena_new(0);
	const char bytes[] = {'a', '\0', 'b'};

	ck_assert_str_eq(arena_strndup(arena, "abcdef", 3), "abc");
	ck_assert_mem_eq(arena_memdup(arena, bytes, 3), bytes, 3);
	ck_assert_ptr_nonnull(arena_memdup(arena, NULL, 0));
	Slice copy = arena_slice(arena, slice_of(bytes, 3));
	ck_assert_uint_eq(copy.len, 3);
	ck_assert_ptr_ne(copy.data, (const uint8_t *)bytes);
	ck_assert(slice_eq(copy, slice_of(bytes, 3)));
	ck_assert_uint_eq(arena_slice(arena, SLICE_EMPTY).len, 0);

	char *longer = mem_alloc(100001);
	memset(longer, 'y', 100000);
	longer[100000] = '\0';
	char *printed = arena_printf(arena, "%d %s", 7, longer);
	ck_assert_uint_eq(strlen(printed), 100002);
	ck_assert_int_eq(strncmp(printed, "7 yyy", 5), 0);
	free(longer);
	arena_free(arena);
}
END_TEST

START_TEST(slices_compare_by_content)
{
	ck_assert(slice_eq(SLICE_EMPTY, slice_of("x", 0)));
	ck_assert(slice_eq(SLICE_EMPTY, SLICE_EMPTY));
	ck_assert(!slice_eq(slice_cstr("a"), SLICE_EMPTY));
	ck_assert(!slice_eq(slice_cstr("a"), slice_cstr("b")));
	ck_assert(slice_eq_cstr(slice_of("abc", 2), "ab"));
	ck_assert(!slice_eq_cstr(slice_of("abc", 3), "ab"));
}
END_TEST

START_TEST(plain_memory)
{
	char *text = mem_strdup("secret");

	text = mem_realloc(text, 100);
	ck_assert_str_eq(text, "secret");
	mem_wipe(text, 6);
	ck_assert_mem_eq(text, "\0\0\0\0\0\0", 6);
	free(text);
	text = mem_strndup("secret", 3);
	ck_assert_str_eq(text, "sec");
	mem_wipe_free_cstr(text);
	mem_wipe_free_cstr(NULL);
	mem_wipe(NULL, 3);
	text = mem_printf("%s-%d", "a", 5);
	ck_assert_str_eq(text, "a-5");
	free(text);
	/* Size 0 is memory that can be freed, not NULL. */
	void *nothing = mem_alloc(0);
	ck_assert_ptr_nonnull(nothing);
	free(nothing);
	nothing = mem_zalloc(0);
	ck_assert_ptr_nonnull(nothing);
	free(nothing);
}
END_TEST

static Suite *
make_arena(void)
{
	Suite *suite = suite_create("memory");
	TCase *tcase = tcase_create("arena");

	tcase_add_test(tcase, allocations_are_aligned_and_apart);
	tcase_add_test(tcase, reset_frees_and_counts_anew);
	tcase_add_test(tcase, recycled_blocks_are_used_again);
	tcase_add_test(tcase, adopted_memory_counts_and_goes_with_the_rest);
	tcase_add_test(tcase, zeroed_memory_is_zero_also_after_a_reset);
	tcase_add_test(tcase, copies_are_exact);
	tcase_add_test(tcase, slices_compare_by_content);
	tcase_add_test(tcase, plain_memory);
	suite_add_tcase(suite, tcase);
	return suite;
}
TEST_SUITE(make_arena)
