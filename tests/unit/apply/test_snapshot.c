/*
 * Snapshots (C2): the text form, visibility, and widening across an epoch's end.
 */
#include <check.h>

#include "apply/batch/snapshot.h"
#include "tests/unit/runner.h"

static Snapshot
parsed(Arena *arena, const char *text)
{
	Snapshot snapshot;
	Error err = ERROR_INIT;

	ck_assert_msg(snapshot_parse(text, arena, &snapshot, &err), "%s: %s", text, err.message);
	return snapshot;
}

START_TEST(visibility)
{
	Arena *arena = arena_new(0);
	Snapshot s = parsed(arena, "100:110:108,100,104");

	for (uint32_t xid = 50; xid < 150; xid++) {
		bool expected = xid < 110 && xid != 100 && xid != 104 && xid != 108;
		ck_assert_msg(snapshot_sees(&s, xid) == expected, "xid %u", xid);
	}
	s = parsed(arena, "7:7:");
	ck_assert(snapshot_sees(&s, 6));
	ck_assert(!snapshot_sees(&s, 7));
	arena_free(arena);
}
END_TEST

/* xmax just behind the end of an epoch: large 32-bit xids are the epoch before. */
START_TEST(wraparound)
{
	Arena *arena = arena_new(0);
	Snapshot s = parsed(arena, "12884901885:12884901893:12884901887,12884901890");

	ck_assert(snapshot_sees(&s, 4294967000U));
	ck_assert(snapshot_sees(&s, 4294967294U));
	ck_assert(!snapshot_sees(&s, 4294967295U)); /* 12884901887 */
	ck_assert(!snapshot_sees(&s, 2));           /* 12884901890 */
	ck_assert(snapshot_sees(&s, 3));
	ck_assert(snapshot_sees(&s, 4));
	ck_assert(!snapshot_sees(&s, 5)); /* xmax */
	ck_assert(!snapshot_sees(&s, 1000000));
	/* And just before it: small ones come after. */
	s = parsed(arena, "8589934580:8589934590:");
	ck_assert(!snapshot_sees(&s, 5));
	ck_assert(snapshot_sees(&s, 4294967285U));
	ck_assert(!snapshot_sees(&s, 4294967294U));
	arena_free(arena);
}
END_TEST

START_TEST(refused)
{
	static const char *const bad[] = {
		"",       "1",      "1:",    ":2:",   "1:2",     "5:4:",   "1:3:a",
		"1:3:2,", "1:3:,2", "-1:3:", "1:3:5", "10:20:9", "1:3: 2", "99999999999999999999999:1:",
		"1:2:1x",
	};
	Arena *arena = arena_new(0);

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		Snapshot s;
		Error err = ERROR_INIT;
		ck_assert_msg(!snapshot_parse(bad[i], arena, &s, &err), "\"%s\"", bad[i]);
		ck_assert_int_eq(err.class, ERROR_PROTOCOL);
	}
	arena_free(arena);
}
END_TEST

static Suite *
make(void)
{
	Suite *suite = suite_create("stream/snapshot");
	TCase *tcase = tcase_create("snapshot");

	tcase_add_test(tcase, visibility);
	tcase_add_test(tcase, wraparound);
	tcase_add_test(tcase, refused);
	suite_add_tcase(suite, tcase);
	return suite;
}

TEST_SUITE(make)
