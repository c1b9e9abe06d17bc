#include "decoder/receiver/internal.h"
#include "tests/unit/runner.h"

static Lsn
confirm(ConfirmInput input)
{
	return confirm_position(&input);
}

/* P6 */
START_TEST(logged_confirms_what_is_synced)
{
	ConfirmInput in = {.mode = CONFIRM_LOGGED,
	                   .last_end = {0x500},
	                   .synced_end = {0x300},
	                   .keepalive_end = {0x900},
	                   .applied_end = {0x100}};
	ck_assert_uint_eq(confirm(in).v, 0x300); /* the keepalive is beyond what is not durable */
	in.synced_end.v = 0x500;
	ck_assert_uint_eq(confirm(in).v, 0x500); /* a message outside transactions is not synced */
	in.all_synced = true;
	ck_assert_uint_eq(confirm(in).v, 0x900);
	in.open = true;
	ck_assert_uint_eq(confirm(in).v, 0x500);
	in.open = false;
	in.keepalive_end.v = 0x400;
	ck_assert_uint_eq(confirm(in).v, 0x500);
}
END_TEST

START_TEST(applied_confirms_what_the_target_has)
{
	ConfirmInput in = {.mode = CONFIRM_APPLIED,
	                   .last_end = {0x500},
	                   .synced_end = {0x500},
	                   .all_synced = true,
	                   .keepalive_end = {0x900},
	                   .applied_end = {0x100}};
	ck_assert_uint_eq(confirm(in).v, 0x100);
	in.applied_end.v = 0x500;
	ck_assert_uint_eq(confirm(in).v, 0x900);
	in.all_synced = false; /* a message outside transactions is nothing that the target has */
	ck_assert_uint_eq(confirm(in).v, 0x900);
	in.open = true;
	ck_assert_uint_eq(confirm(in).v, 0x500);
	in.synced_end.v = 0x300; /* the log has it, too */
	ck_assert_uint_eq(confirm(in).v, 0x300);
}
END_TEST

START_TEST(an_empty_log_follows_the_keepalives)
{
	ConfirmInput in = {.mode = CONFIRM_LOGGED, .all_synced = true, .keepalive_end = {0x900}};
	ck_assert_uint_eq(confirm(in).v, 0x900);
	in.open = true;
	ck_assert_uint_eq(confirm(in).v, 0);
}
END_TEST

START_TEST(what_is_tried_again)
{
	static const struct {
		ErrorClass class;
		const char *sqlstate;
		bool first;
		bool later;
	} cases[] = {
		{ERROR_NETWORK, "", true, true},
		{ERROR_TIMEOUT, "", true, true},
		{ERROR_AUTH, "", false, true},
		{ERROR_SQL, "28P01", false, true},
		{ERROR_SQL, "55006", true, true},
		{ERROR_SQL, "57P01", true, true},
		{ERROR_SQL, "57P03", true, true},
		{ERROR_SQL, "53300", true, true},
		{ERROR_SQL, "08006", true, true},
		{ERROR_SQL, "42704", false, false}, /* no such slot or publication */
		{ERROR_SQL, "55000", false, false}, /* the slot was invalidated */
		{ERROR_SQL, "", false, false},
		{ERROR_PROTOCOL, "", false, false},
		{ERROR_STORAGE, "", false, false},
		{ERROR_CONFIG, "", false, false},
		{ERROR_BUG, "", false, false},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		Error err = ERROR_INIT;
		error_set(&err, cases[i].class, "x");
		if (cases[i].sqlstate[0] != '\0')
			error_set_sqlstate(&err, cases[i].sqlstate);
		ck_assert_msg(receiver_can_retry(&err, false) == cases[i].first &&
		                  receiver_can_retry(&err, true) == cases[i].later,
		              "case %zu", i);
	}
}
END_TEST

static Suite *
make(void)
{
	Suite *suite = suite_create("receiver policy");
	TCase *tcase = tcase_create("policy");
	tcase_add_test(tcase, logged_confirms_what_is_synced);
	tcase_add_test(tcase, applied_confirms_what_the_target_has);
	tcase_add_test(tcase, an_empty_log_follows_the_keepalives);
	tcase_add_test(tcase, what_is_tried_again);
	suite_add_tcase(suite, tcase);
	return suite;
}

TEST_SUITE(make)
