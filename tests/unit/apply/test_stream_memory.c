/*
 * What the applier, the log and the receiver hold of large rows and large transactions, all in
 * this process: its peak is read from /proc, in bytes, whatever the time it takes.
 */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/memory.h"
#include "tests/unit/apply/test_stream_rig.h"
#include "tests/unit/runner.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define FOREIGN_MEMORY 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define FOREIGN_MEMORY 1
#endif
#endif
#ifndef FOREIGN_MEMORY
#define FOREIGN_MEMORY 0
#endif

#define MB ((uint64_t)1024 * 1024)
enum { ROW_MB = 30 };

static Cluster *cluster;

static void
start(void)
{
	cluster = servers_start(0, "max_connections = 60");
}

static void
stop(void)
{
	cluster_free(cluster);
}

/* Under a sanitizer or valgrind most of the memory is theirs: the rows are compared there,
 * and nothing is counted. */
static bool
is_counted(void)
{
	const char *preload = getenv("LD_PRELOAD");
	return !FOREIGN_MEMORY && (preload == NULL || strstr(preload, "vgpreload") == NULL);
}

static uint64_t
memory_of(const char *field)
{
	char line[128];
	uint64_t kb = 0;
	FILE *file = fopen("/proc/self/status", "r");

	ck_assert_ptr_nonnull(file);
	while (fgets(line, sizeof(line), file) != NULL)
		if (strncmp(line, field, strlen(field)) == 0)
			kb = strtoull(line + strlen(field), NULL, 10);
	fclose(file);
	ck_assert_uint_gt(kb, 0);
	return kb * 1024;
}

/* The peak is counted from here on. */
static uint64_t
count_anew(void)
{
	FILE *file = fopen("/proc/self/clear_refs", "w");

	ck_assert_ptr_nonnull(file);
	ck_assert_int_ge(fputs("5", file), 0);
	ck_assert_int_eq(fclose(file), 0);
	return memory_of("VmRSS:");
}

static void
check_peak(uint64_t before, uint64_t most)
{
	uint64_t peak = memory_of("VmHWM:");

	if (is_counted() && peak > before + most)
		ck_abort_msg("%llu MB more where %llu are enough",
		             (unsigned long long)((peak - before) / MB), (unsigned long long)(most / MB));
}

static void
check_now(uint64_t before, uint64_t most)
{
	uint64_t now = memory_of("VmRSS:");

	if (is_counted() && now > before + most)
		ck_abort_msg("%llu MB are kept", (unsigned long long)((now - before) / MB));
}

static void
open_rig(Rig *rig, int lanes)
{
	mem_setup();
	rig_open(rig, cluster,
	         "CREATE TABLE large (id int PRIMARY KEY, v text);"
	         "ALTER TABLE large ALTER v SET STORAGE EXTERNAL;"
	         "CREATE TABLE many (id int PRIMARY KEY, v int, t text);",
	         (RigOptions){.lanes = lanes, .binary = true, .batch_bytes = 4 * MB});
	rig_start(rig);
	db_exec(rig->source, "INSERT INTO many SELECT g, 0, 'warm' FROM generate_series(-1000, -1) g");
	rig_sync(rig);
}

/* Two copies: the log's block, which the batch takes over, and libpq's buffer. And nothing is
 * left of them once something else has been done. */
START_TEST(a_giant_row_is_there_twice)
{
	Rig rig;

	open_rig(&rig, 2);
	uint64_t before = count_anew();

	db_exec(rig.source, "INSERT INTO large VALUES (1, repeat('0123456789', %d))",
	        ROW_MB * 1024 * 1024 / 10);
	rig_sync(&rig);
	check_peak(before, (2 * ROW_MB + 24) * MB);
	db_exec(rig.source, "UPDATE large SET v = v || 'x'");
	rig_sync(&rig);
	check_peak(before, (2 * ROW_MB + 24) * MB);
	db_exec(rig.source, "INSERT INTO many VALUES (1, 1, 'small')");
	rig_compare(&rig);
	check_now(before, 20 * MB);
	rig_close(&rig);
}
END_TEST

/* One waits in the receiver's buffer or the log's block while another is applied. */
START_TEST(giant_rows_wait_for_each_other)
{
	Rig rig;

	open_rig(&rig, 2);
	uint64_t before = count_anew();

	db_exec(rig.source,
	        "INSERT INTO large SELECT g, repeat('0123456789', %d) FROM generate_series(1, 6) g",
	        ROW_MB * 1024 * 1024 / 10);
	rig_sync(&rig);
	check_peak(before, (3 * ROW_MB + 24) * MB);
	db_exec(rig.source, "DELETE FROM large WHERE id %% 2 = 0");
	rig_compare(&rig);
	check_now(before, 20 * MB);
	rig_close(&rig);
}
END_TEST

START_TEST(a_large_transaction_is_many_batches)
{
	enum { ROWS = 200000 };
	Rig rig;

	open_rig(&rig, _i == 0 ? 1 : 3);
	uint64_t before = count_anew();

	db_exec(rig.source, "INSERT INTO many SELECT g, 0, md5(g::text) FROM generate_series(1, %d) g",
	        ROWS);
	rig_sync(&rig);
	db_exec(rig.source, "UPDATE many SET v = v + 1 WHERE id > 0");
	rig_compare(&rig);
	check_peak(before, 48 * MB);
	rig_close(&rig);
}
END_TEST

static Suite *
stream_memory(void)
{
	Suite *suite = suite_create("stream/memory");
	TCase *tcase = tcase_create("stream_memory");

	tcase_add_unchecked_fixture(tcase, start, stop);
	tcase_set_timeout(tcase, 300);
	tcase_add_test(tcase, a_giant_row_is_there_twice);
	tcase_add_test(tcase, giant_rows_wait_for_each_other);
	tcase_add_loop_test(tcase, a_large_transaction_is_many_batches, 0, 2);
	suite_add_tcase(suite, tcase);
	return suite;
}
TEST_SUITE(stream_memory)
