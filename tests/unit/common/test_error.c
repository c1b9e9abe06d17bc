/* common/error.c and common/utf8.c */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/error.h"
#include "common/memory.h"
#include "common/utf8.h"
#include "tests/unit/runner.h"

static bool
is_utf8(const char *text)
{
	size_t len = strlen(text);

	for (size_t i = 0; i < len;) {
		size_t step = utf8_char_len(text + i, len - i);
		if (step == 0)
			return false;
		i += step;
	}
	return true;
}

START_TEST(valid_and_invalid_characters)
{
	static const struct {
		const char *text;
		size_t len;
	} cases[] = {
		{"a", 1},
		{"\xc3\xa9", 2},
		{"\xe2\x82\xac", 3},
		{"\xf0\x9f\x98\x80", 4},
		{"\xf4\x8f\xbf\xbf", 4}, /* U+10FFFF, the last one */
		{"\x80", 0},             /* begins in the middle */
		{"\xc0\x80", 0},         /* overlong */
		{"\xc1\xbf", 0},         /* overlong */
		{"\xe0\x9f\xbf", 0},     /* overlong */
		{"\xf0\x8f\xbf\xbf", 0}, /* overlong */
		{"\xed\xa0\x80", 0},     /* a surrogate */
		{"\xf4\x90\x80\x80", 0}, /* beyond U+10FFFF */
		{"\xf5\x80\x80\x80", 0},
		{"\xff", 0},
		{"\xc3(", 0},
		{"\xe2\x82(", 0},
		{"", 0},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		size_t all = strlen(cases[i].text);
		ck_assert_uint_eq(utf8_char_len(cases[i].text, all), cases[i].len);
		for (size_t cut = 0; cases[i].len > 0 && cut < all; cut++)
			ck_assert_uint_eq(utf8_char_len(cases[i].text, cut), 0);
	}
}
END_TEST

START_TEST(cut_never_halves_a_character)
{
	const char *text = "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80z";
	/* index: the wanted length; value: where it is cut */
	static const size_t expected[] = {0, 1, 1, 3, 3, 3, 6, 6, 6, 6, 10, 11};

	for (size_t len = 0; len < sizeof(expected) / sizeof(expected[0]); len++)
		ck_assert_uint_eq(utf8_cut(text, len), expected[len]);
	/* What is no UTF-8 is not shortened to nothing. */
	ck_assert_uint_eq(utf8_cut("\x80\x80\x80\x80\x80\x80", 6), 6);
	ck_assert_uint_eq(utf8_cut("\xff\xff", 2), 2);
}
END_TEST

START_TEST(message_context_and_hint_are_cut_at_characters)
{
	/* Every shift of a text of four-byte characters against the arrays' ends. */
	for (int shift = 0; shift < 4; shift++) {
		Error err = ERROR_INIT;
		char *text = mem_zalloc(2048);
		memset(text, 'x', (size_t)shift);
		for (size_t i = (size_t)shift; i + 4 < 2000; i += 4)
			memcpy(text + i, "\xf0\x9f\x98\x80", 4);

		ck_assert(!error_set(&err, ERROR_SQL, "%s", text));
		ck_assert_uint_ge(strlen(err.message), sizeof(err.message) - 4);
		ck_assert(is_utf8(err.message));
		ck_assert(!error_set_hint(&err, "%s", text));
		ck_assert_uint_ge(strlen(err.hint), sizeof(err.hint) - 4);
		ck_assert(is_utf8(err.hint));
		ck_assert(!error_add_context(&err, "%s", text));
		ck_assert_uint_ge(strlen(err.context), sizeof(err.context) - 4);
		ck_assert(is_utf8(err.context));
		for (int i = 0; i < 4; i++) {
			error_add_context(&err, "x");
			ck_assert(is_utf8(err.context));
		}
		free(text);
	}
}
END_TEST

START_TEST(contexts_pile_up_outermost_first)
{
	Error err = ERROR_INIT;
	char out[256];

	error_set(&err, ERROR_SQL, "no such %s", "table");
	error_set_sqlstate(&err, "42P01");
	error_add_context(&err, "copying");
	error_add_context(&err, "source");
	error_set_hint(&err, "make it");
	ck_assert_str_eq(err.context, "source: copying");
	ck_assert_str_eq(error_format(&err, out, sizeof(out)),
	                 "source: copying: no such table (SQLSTATE 42P01); make it");
	ck_assert(error_has_sqlstate(&err, "42P01"));
	ck_assert(!error_has_sqlstate(&err, "42P02"));
	ck_assert(!error_has_sqlstate(NULL, "42P01"));
	ck_assert_int_gt(err.line, 0);
	ck_assert_str_eq(err.file, __FILE__);

	/* A new error does not keep the old one's parts. */
	error_set(&err, ERROR_NETWORK, "gone");
	ck_assert_str_eq(error_format(&err, out, sizeof(out)), "gone");
	ck_assert_int_eq(err.class, ERROR_NETWORK);
	error_clear(&err);
	ck_assert_int_eq(err.class, ERROR_NONE);
	ck_assert_str_eq(err.message, "");
}
END_TEST

START_TEST(arguments_may_point_into_the_error)
{
	Error err = ERROR_INIT;

	error_set(&err, ERROR_NETWORK, "inner");
	error_set(&err, ERROR_STORAGE, "outer of %s", err.message);
	ck_assert_str_eq(err.message, "outer of inner");
	error_add_context(&err, "context");
	error_add_context(&err, "%s again", err.context);
	ck_assert_str_eq(err.context, "context again: context");
}
END_TEST

START_TEST(errno_is_spelled_out)
{
	Error err = ERROR_INIT;
	char out[256];

	ck_assert(!error_set_errno(&err, ERROR_STORAGE, ENOSPC, "write %s", "x"));
	snprintf(out, sizeof(out), "write x: %s", strerror(ENOSPC));
	ck_assert_str_eq(err.message, out);
}
END_TEST

START_TEST(null_error_is_allowed)
{
	ck_assert(!error_set(NULL, ERROR_BUG, "x"));
	ck_assert(!error_set_errno(NULL, ERROR_BUG, EIO, "x"));
	ck_assert(!error_add_context(NULL, "x"));
	ck_assert(!error_set_hint(NULL, "x"));
	ck_assert(!error_set_sqlstate(NULL, "42P01"));
	error_clear(NULL);
}
END_TEST

START_TEST(small_output_is_terminated)
{
	Error err = ERROR_INIT;
	char out[8] = "-------";

	error_set(&err, ERROR_SQL, "0123456789");
	ck_assert_str_eq(error_format(&err, out, sizeof(out)), "0123456");
}
END_TEST

START_TEST(every_class_has_a_name)
{
	for (int class = ERROR_NONE; class <= ERROR_BUG; class ++) {
		ck_assert_ptr_nonnull(error_class_name((ErrorClass) class));
		for (int other = ERROR_NONE; other < class; other++)
			ck_assert_str_ne(error_class_name((ErrorClass) class),
			                 error_class_name((ErrorClass)other));
	}
}
END_TEST

START_TEST(check_stops_the_process)
{
	CHECK(_i == 1); /* aborts: the test expects the signal */
}
END_TEST

static Suite *
make_error(void)
{
	Suite *suite = suite_create("error");
	TCase *tcase = tcase_create("error");

	tcase_add_test(tcase, valid_and_invalid_characters);
	tcase_add_test(tcase, cut_never_halves_a_character);
	tcase_add_test(tcase, message_context_and_hint_are_cut_at_characters);
	tcase_add_test(tcase, contexts_pile_up_outermost_first);
	tcase_add_test(tcase, arguments_may_point_into_the_error);
	tcase_add_test(tcase, errno_is_spelled_out);
	tcase_add_test(tcase, null_error_is_allowed);
	tcase_add_test(tcase, small_output_is_terminated);
	tcase_add_test(tcase, every_class_has_a_name);
	/* Needs a process of its own (not with CK_FORK=no). */
	const char *fork_mode = getenv("CK_FORK");
	if (fork_mode == NULL || strcmp(fork_mode, "no") != 0)
		tcase_add_test_raise_signal(tcase, check_stops_the_process, 6);
	suite_add_tcase(suite, tcase);
	return suite;
}
TEST_SUITE(make_error)
