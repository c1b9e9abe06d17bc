/* What a session carries: rows as a server should not send them, and the plan from one to the
 * other. */
#include <stdlib.h>
#include <string.h>

#include "common/memory.h"
#include "proxy/listener/move/carried.h"
#include "tests/unit/runner.h"

static void
put_row(Buffer *out, const char *const values[5])
{
	buffer_put_u16(out, 5);
	for (int i = 0; i < 5; i++) {
		if (values[i] == NULL) {
			buffer_put_u32(out, UINT32_MAX);
			continue;
		}
		buffer_put_u32(out, (uint32_t)strlen(values[i]));
		buffer_put_text(out, values[i]);
	}
}

/* From memory of exactly that size. */
static bool
take(Carried *carried, const uint8_t *data, size_t len, Error *err)
{
	uint8_t *copy = malloc(len + (len == 0));

	memcpy(copy, data, len);
	bool ok = carried_take_row(carried, slice_of(copy, len), err);
	free(copy);
	return ok;
}

static const char *const good[5] = {"p", "name", "SELECT $1", "{23}", "{integer}"};

START_TEST(rows_cut_anywhere)
{
	Buffer row = BUFFER_INIT;
	Carried carried;
	Error err = ERROR_INIT;

	put_row(&row, good);
	carried_init(&carried);
	for (size_t len = 0; len < row.len; len++) {
		ck_assert_msg(!take(&carried, row.data, len, &err), "%zu bytes", len);
		ck_assert_int_eq(err.class, ERROR_PROTOCOL);
	}
	buffer_put_u8(&row, 0);
	ck_assert(!take(&carried, row.data, row.len, &err));
	ck_assert(take(&carried, row.data, row.len - 1, &err));
	ck_assert_uint_eq(carried.count, 1);
	carried_free(&carried);
	buffer_free(&row);
}
END_TEST

/* Each of the lengths, and the count, one more and one less. */
START_TEST(rows_with_wrong_lengths)
{
	Buffer row = BUFFER_INIT;
	Carried carried;
	Error err = ERROR_INIT;
	size_t at = 2;

	put_row(&row, good);
	carried_init(&carried);
	for (int i = 0; i < 5; i++) {
		for (int change = -1; change <= 1; change += 2) {
			row.data[at + 3] = (uint8_t)(row.data[at + 3] + change);
			ck_assert_msg(!take(&carried, row.data, row.len, &err), "column %d, %d", i, change);
			row.data[at + 3] = (uint8_t)(row.data[at + 3] - change);
		}
		at += 4 + strlen(good[i]);
	}
	row.data[1] = 4;
	ck_assert(!take(&carried, row.data, row.len, &err));
	row.data[1] = 6;
	ck_assert(!take(&carried, row.data, row.len, &err));
	ck_assert_uint_eq(carried.count, 0);
	carried_free(&carried);
	buffer_free(&row);
}
END_TEST

START_TEST(kinds_and_limits)
{
	static const char *const kinds[] = {"", "pp", "x", NULL};
	Carried carried;
	Error err = ERROR_INIT;

	carried_init(&carried);
	for (int i = 0; i < 4; i++) {
		const char *values[5] = {kinds[i], "n", "v", NULL, NULL};
		Buffer row = BUFFER_INIT;
		put_row(&row, values);
		ck_assert(!take(&carried, row.data, row.len, &err));
		ck_assert_int_eq(err.class, ERROR_PROTOCOL);
		buffer_free(&row);
	}
	Buffer row = BUFFER_INIT;
	char *large = mem_alloc(1024 * 1024 + 1);
	memset(large, 'x', 1024 * 1024);
	large[1024 * 1024] = '\0';
	const char *values[5] = {"p", "n", large, NULL, NULL};
	put_row(&row, values);
	int rows = 0;
	while (carried_take_row(&carried, buffer_slice(&row), &err))
		rows++;
	ck_assert_int_eq(err.class, ERROR_CONFIG);
	ck_assert_int_eq(rows, (CARRIED_BYTES_MAX >> 20) - 1);
	free(large);
	buffer_free(&row);
	carried_free(&carried);
}
END_TEST

static void
session_of(Carried *carried, const char *role)
{
	carried_init(carried);
	carried_add(carried, CARRIED_REPORT, "role", role);
	carried_add(carried, CARRIED_REPORT, "session_authorization", "app");
	carried_add(carried, CARRIED_REPORT, "client_encoding", "UTF8");
}

/* The names of all steps with commas. */
static char *
steps_ahead_of(const Carried *have, const Carried *want, bool ahead, size_t *groups)
{
	Buffer text = BUFFER_INIT;
	Error err = ERROR_INIT;
	Plan plan;

	ck_assert_msg(carried_plan(have, want, ahead, &plan, &err), "%s", err.message);
	for (size_t i = 0; i < plan.step_count; i++)
		buffer_printf(&text, "%s%s", i > 0 ? "," : "", plan.steps[i].name);
	*groups = plan.group_count;
	char *copy = mem_strdup(buffer_cstr(&text));
	buffer_free(&text);
	plan_free(&plan);
	return copy;
}

static char *
steps_of(const Carried *have, const Carried *want, size_t *groups)
{
	return steps_ahead_of(have, want, false, groups);
}

START_TEST(the_plan_is_what_differs)
{
	Carried have, want;
	size_t groups;

	session_of(&have, "none");
	session_of(&want, "none");
	carried_add(&have, CARRIED_SETTING, "gone", "1");
	carried_add(&have, CARRIED_SETTING, "same", "1");
	carried_add(&want, CARRIED_SETTING, "same", "1");
	carried_add(&want, CARRIED_SETTING, "work_mem", "1");
	carried_add(&want, CARRIED_CUSTOM, "app.x", "1");
	carried_add(&have, CARRIED_CHANNEL, "old", "");
	carried_add(&want, CARRIED_CHANNEL, "new", "");
	carried_add(&have, CARRIED_PROTOCOL, "changed", "SELECT 1");
	carried_add(&want, CARRIED_PROTOCOL, "changed", "SELECT 2");
	carried_add(&want, CARRIED_SQL, "q", " /* x */ -- y\n prepare q AS SELECT 3");
	carried_complete(&have);
	carried_complete(&want);
	char *steps = steps_of(&have, &want, &groups);
	ck_assert_str_eq(steps, "gone,app.x,work_mem,old,new,changed,q,changed");
	ck_assert_uint_eq(groups, 4);
	free(steps);
	steps = steps_ahead_of(&have, &want, true, &groups);
	ck_assert_str_eq(steps, "gone,app.x,work_mem,old,new,changed,q,changed,changed");
	ck_assert_uint_eq(groups, 5);
	free(steps);
	steps = steps_of(&want, &want, &groups);
	ck_assert_str_eq(steps, "");
	ck_assert_uint_eq(groups, 0);
	free(steps);
	ck_assert_ptr_nonnull(carried_difference(&have, &want));
	ck_assert_ptr_null(carried_difference(&want, &want));
	carried_free(&have);
	carried_free(&want);
}
END_TEST

/* A custom setting of the other server's own (ALTER ROLE ... SET, a login trigger) is its default,
 * which is neither taken away nor a difference; one of the session's own is. */
START_TEST(custom_settings_of_the_other_server)
{
	Carried have, want;
	size_t groups;

	session_of(&have, "none");
	session_of(&want, "none");
	carried_add(&have, CARRIED_CUSTOM, "app.here", "by role");
	carried_complete(&have);
	carried_complete(&want);
	char *steps = steps_of(&have, &want, &groups);
	ck_assert_str_eq(steps, "");
	free(steps);
	ck_assert_ptr_null(carried_difference(&want, &have));
	ck_assert_str_eq(carried_difference(&have, &want)->name, "app.here");
	carried_add(&want, CARRIED_CUSTOM, "app.here", "SET");
	carried_complete(&want);
	steps = steps_of(&have, &want, &groups);
	ck_assert_str_eq(steps, "app.here");
	free(steps);
	ck_assert_str_eq(carried_difference(&want, &have)->name, "app.here");
	carried_free(&have);
	carried_free(&want);
}
END_TEST

/* What the session's own role may set is set as that role. */
START_TEST(the_role_comes_last)
{
	Carried have, want;
	size_t groups;

	session_of(&have, "boss");
	session_of(&want, "boss");
	carried_add(&want, CARRIED_SETTING, "client_encoding", "UTF8");
	carried_add(&want, CARRIED_SETTING, "work_mem", "1");
	carried_complete(&have);
	carried_complete(&want);
	char *steps = steps_of(&have, &want, &groups);
	ck_assert_str_eq(steps, "client_encoding,role,work_mem,role");
	free(steps);
	carried_free(&have);
	carried_free(&want);
}
END_TEST

START_TEST(texts_that_cannot_be_prepared)
{
	static const char *const texts[] = {"SET a = 1; PREPARE x AS SELECT 1", "", "/* never ended",
	                                    "-- only"};

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		Carried have, want;
		Error err = ERROR_INIT;
		Plan plan;
		session_of(&have, "none");
		session_of(&want, "none");
		carried_add(&want, CARRIED_SQL, "x", texts[i]);
		carried_complete(&have);
		carried_complete(&want);
		ck_assert(!carried_plan(&have, &want, true, &plan, &err));
		ck_assert_int_eq(err.class, ERROR_CONFIG);
		plan_free(&plan);
		carried_free(&have);
		carried_free(&want);
	}
}
END_TEST

static Suite *
make(void)
{
	Suite *suite = suite_create("carried");
	TCase *tcase = tcase_create("carried");

	tcase_add_test(tcase, rows_cut_anywhere);
	tcase_add_test(tcase, rows_with_wrong_lengths);
	tcase_add_test(tcase, kinds_and_limits);
	tcase_add_test(tcase, the_plan_is_what_differs);
	tcase_add_test(tcase, custom_settings_of_the_other_server);
	tcase_add_test(tcase, the_role_comes_last);
	tcase_add_test(tcase, texts_that_cannot_be_prepared);
	suite_add_tcase(suite, tcase);
	return suite;
}

TEST_SUITE(make)
