/* The status document and the metrics, field by field. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "proxy/admin/admin.h"
#include "proxy/cli/client.h"
#include "tests/unit/proxy/fake_migration.h"
#include "tests/unit/runner.h"

static Catalog *catalog;
static MigrationStatus status;

static void
setup(void)
{
	catalog = fake_catalog_new();
	fake_status_fill(&status, catalog);
}

static void
teardown(void)
{
	fake_catalog_free(catalog);
}

typedef struct {
	const char *path;
	double value;
} NumberField;

static const NumberField numbers[] = {
	{"lag.received_bytes", 101},
	{"lag.applied_bytes", 102},
	{"lag.seconds", 1.25},
	{"lag.pending_transactions", 103},
	{"tables.queued", 161},
	{"tables.copying", 162},
	{"tables.copied", 163},
	{"tables.errored", 164},
	{"copy.rows", 151},
	{"copy.bytes", 152},
	{"copy.bytes_total", 153},
	{"large_objects.objects", 191},
	{"large_objects.objects_total", 192},
	{"large_objects.bytes", 193},
	{"large_objects.bytes_total", 194},
	{"copy.rate_limit", 154},
	{"copy.rate", 156.5},
	{"index.done", 171},
	{"index.count", 172},
	{"index.bytes", 173},
	{"index.bytes_total", 174},
	{"eta.seconds", 4.5},
	{"addition.id", 5},
	{"addition.tables", 195},
	{"copy.oldest_snapshot_seconds", 3.5},
	{"standbys.count", 2},
	{"standbys.hidden", 1},
	{"standbys.lag_seconds", 2.5},
	{"standbys.lag_bytes", 155},
	{"standbys.max_lag_seconds", 1.5},
	{"stream.transactions", 122},
	{"stream.inserts", 123},
	{"stream.updates", 124},
	{"stream.deletes", 125},
	{"stream.truncates", 126},
	{"stream.batches", 127},
	{"stream.replays", 128},
	{"stream.early", 129},
	{"stream.early_given_up", 130},
	{"receiver.reconnects", 112},
	{"receiver.bytes", 113},
	{"log.bytes_on_disk", 132},
	{"log.segments", 133},
	{"log.transactions", 131},
	{"slot.kept_bytes", 142},
	{"slot.safe_bytes", 143},
	{"slot.unread_bytes", 145},
	{"slot.spilled_bytes", 146},
	{"slot.reading_seconds", 14.5},
	{"cutover.id", 3},
	{"cutover.prepare_ms", 1.5},
	{"cutover.hold_ms", 20.25},
	{"cutover.quiet_ms", 2.5},
	{"cutover.fence_ms", 3.5},
	{"cutover.marker_ms", 3.75},
	{"cutover.drain_ms", 4.5},
	{"cutover.sequences_ms", 5.5},
	{"cutover.verify_ms", 6.5},
	{"cutover.sessions_ms", 7.25},
	{"cutover.large_objects_ms", 8.5},
	{"cutover.large_objects", 187},
	{"cutover.large_objects_differed", 188},
	{"cutover.commit_ms", 7.5},
	{"cutover.sessions_unmovable", 85},
	{"cutover.sessions_moved", 81},
	{"cutover.sessions_closed", 82},
	{"cutover.sequences", 83},
	{"cutover.attempts", 2},
	{"cutover.bypassing_sessions", 84},
	{"way_back.received_bytes", 191},
	{"way_back.applied_bytes", 192},
	{"way_back.transactions", 193},
};

typedef struct {
	const char *path;
	const char *value;
} TextField;

static const TextField texts[] = {
	{"name", "move"},
	{"id", "0b7c"},
	{"state", "copying"},
	{"mode", "online"},
	{"since", "2023-11-14T22:13:20.123Z"},
	{"detail", "indexes 12 of 40"},
	{"error.class", "sql"},
	{"error.message", "relation \"x\" is in the way"},
	{"error.context", "target"},
	{"error.sqlstate", "42P07"},
	{"error.hint", "drop it"},
	{"stream.source_lsn", "16/B374D848"},
	{"stream.received_lsn", "0/110"},
	{"stream.logged_lsn", "0/130"},
	{"stream.applied_lsn", "0/120"},
	{"stream.durable_lsn", "0/121"},
	{"receiver.confirmed_lsn", "0/111"},
	{"applier.phase", "retrying"},
	{"slot.why", "reserved"},
	{"slot.wal_status", "extended"},
	{"slot.warning", "the slot is in danger"},
	{"copy.held", "a standby is behind"},
	{"copy.waiting", "process 157 waits"},
	{"stream.waiting", "the apply waits for 158"},
	{"eta.until", "copied"},
	{"addition.outcome", "failed"},
	{"addition.step", "rows and indexes"},
	{"slot.confirmed_lsn", "0/140"},
	{"slot.restart_lsn", "0/141"},
	{"slot.read_lsn", "0/144"},
	{"cutover.outcome", "aborted"},
	{"cutover.step", "drain"},
	{"cutover.error.message", "not drained"},
	{"way_back.state", "following"},
	{"way_back.target_lsn", "0/194"},
	{"removed", "source: slot"},
};

START_TEST(json_has_every_field)
{
	json_t *json = status_json(&status);

	for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++) {
		ck_assert_msg(json_is_number(doc_at(json, numbers[i].path)), "%s", numbers[i].path);
		ck_assert_msg(fabs(doc_number(json, numbers[i].path) - numbers[i].value) < 1e-9, "%s is %g",
		              numbers[i].path, doc_number(json, numbers[i].path));
	}
	for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++)
		ck_assert_msg(strcmp(doc_text(json, texts[i].path), texts[i].value) == 0, "%s is %s",
		              texts[i].path, doc_text(json, texts[i].path));
	ck_assert(doc_true(json, "retrying"));
	ck_assert(json_is_false(doc_at(json, "paused")));
	ck_assert(doc_true(json, "receiver.connected"));
	ck_assert(doc_true(json, "slot.exists"));
	ck_assert(json_is_false(doc_at(json, "cutover.failback")));
	const json_t *sessions = json_array_get(doc_at(json, "cutover.bypassing"), 0);
	ck_assert_str_eq(doc_text(sessions, "user"), "app");
	ck_assert_int_eq((int)doc_number(sessions, "sessions"), 4);
	const json_t *stays = json_array_get(doc_at(json, "cutover.unmovable"), 0);
	ck_assert_int_eq((int)doc_number(stays, "pid"), 86);
	ck_assert_str_eq(doc_text(stays, "reason"), "temporary tables");
	ck_assert_str_eq(doc_text(stays, "since"), "2023-11-14T22:13:20.123Z");
	ck_assert(!doc_true(stays, "movable"));
	/* Unknown is null, not a number that looks like one. */
	ck_assert(json_is_null(doc_at(json, "copy.eta_seconds")));
	ck_assert(json_is_null(doc_at(json, "standbys.max_lag_bytes")));
	ck_assert(json_is_null(doc_at(json, "eta.unknown")));
	ck_assert(doc_true(json, "addition.recopy"));
	const json_t *running = json_array_get(doc_at(json, "index.running"), 0);
	ck_assert_str_eq(doc_text(running, "name"), "INDEX public i");
	ck_assert_str_eq(doc_text(running, "table"), "big");
	ck_assert_str_eq(doc_text(running, "phase"), "building index");
	ck_assert(doc_number(running, "share") == 0.25);
	ck_assert(json_is_null(doc_at(json, "receiver.error")));
	json_decref(json);
}
END_TEST

START_TEST(json_has_tables)
{
	json_t *json = status_json(&status);
	const json_t *list = doc_at(json, "table");

	ck_assert_uint_eq(json_array_size(list), 2);
	const json_t *big = json_array_get(list, 0);
	ck_assert_str_eq(doc_text(big, "schema"), "public");
	ck_assert_str_eq(doc_text(big, "name"), "big");
	ck_assert_str_eq(doc_text(big, "state"), "copying");
	ck_assert_int_eq((int)doc_number(big, "rows"), 11);
	ck_assert_int_eq((int)doc_number(big, "bytes"), 12);
	ck_assert_int_eq((int)doc_number(big, "bytes_expected"), 32);
	ck_assert_int_eq((int)doc_number(big, "rate"), 5);
	ck_assert(doc_number(big, "eta_seconds") == 4);
	ck_assert_int_eq((int)doc_number(big, "inserts"), 13);
	ck_assert_int_eq((int)doc_number(big, "updates"), 14);
	ck_assert_int_eq((int)doc_number(big, "deletes"), 15);
	ck_assert_int_eq((int)doc_number(big, "truncates"), 16);
	ck_assert(json_is_null(doc_at(big, "error")));
	const json_t *odd = json_array_get(list, 1);
	ck_assert_str_eq(doc_text(odd, "name"), "new\nline \xc3\xa9");
	ck_assert_str_eq(doc_text(odd, "state"), "errored");
	ck_assert_str_eq(doc_text(odd, "error"), "no \"room\"");
	ck_assert(json_is_null(doc_at(odd, "rate")));
	ck_assert(json_is_null(doc_at(odd, "eta_seconds")));
	json_decref(json);
}
END_TEST

enum { TABLES = 1000 };

static Catalog *
many_new(void)
{
	Arena *arena = arena_new(0);
	Catalog *many = arena_zalloc(arena, sizeof(*many));

	many->arena = arena;
	many->table_count = TABLES;
	many->tables = arena_new_array(arena, Table, TABLES);
	pthread_mutex_init(&many->lock, NULL);
	for (size_t i = 0; i < TABLES; i++) {
		many->tables[i].schema = i % 2 == 0 ? "even" : "odd";
		many->tables[i].name = arena_printf(arena, "t%zu", i);
		atomic_store(&many->tables[i].state, (int)(i % 4));
	}
	return many;
}

static void
many_free(Catalog *many)
{
	pthread_mutex_destroy(&many->lock);
	arena_free(many->arena);
}

/* The numbers of the tables listed, "1 5 9". */
static char *
listed(const Catalog *many, const StatusTables *which, size_t *matching)
{
	MigrationStatus s = {.catalog = many};
	json_t *json = status_json_some(&s, which);
	json_t *table;
	size_t i;
	Buffer out = BUFFER_INIT;

	json_array_foreach (json_object_get(json, "table"), i, table)
		buffer_printf(&out, "%s%s", i > 0 ? " " : "", doc_text(table, "name") + 1);
	*matching = (size_t)doc_number(json, "tables.matching");
	json_decref(json);
	return buffer_cstr(&out);
}

static void
assert_listed(const Catalog *many, StatusTables which, size_t matching, const char *names)
{
	size_t found;
	char *text = listed(many, &which, &found);

	ck_assert_str_eq(text, names);
	ck_assert_uint_eq(found, matching);
	free(text);
}

/* State n of table i is i % 4: queued, copying, copied, errored. */
START_TEST(json_has_some_tables)
{
	Catalog *many = many_new();
	const unsigned errored = 1u << TABLE_ERRORED;
	const unsigned copying = 1u << TABLE_COPYING;

	assert_listed(many, (StatusTables){.limit = 3}, TABLES, "3 7 11");
	assert_listed(many, (StatusTables){.limit = 3, .offset = 248}, TABLES, "1 995 999");
	assert_listed(many, (StatusTables){.limit = 2, .offset = TABLES - 1}, TABLES, "998");
	assert_listed(many, (StatusTables){.limit = 2, .offset = TABLES}, TABLES, "");
	assert_listed(many, (StatusTables){.limit = 0}, TABLES, "");
	assert_listed(many, (StatusTables){.limit = 2, .states = copying}, TABLES / 4, "1 5");
	assert_listed(many, (StatusTables){.limit = 4, .states = copying | errored, .offset = 249},
	              TABLES / 2, "1 5 9 999");
	assert_listed(many, (StatusTables){.limit = 9, .match = "odd.t99"}, 6,
	              "99 991 993 995 997 999");
	assert_listed(many, (StatusTables){.limit = SIZE_MAX, .match = "even.t10", .states = errored},
	              0, "");
	many_free(many);
}
END_TEST

/* Pages side by side are the whole, each table once. */
START_TEST(pages_are_the_whole)
{
	Catalog *many = many_new();
	bool seen[TABLES] = {false};
	size_t count = 0;

	for (size_t offset = 0; offset < TABLES; offset += 77) {
		StatusTables which = {.limit = 77, .offset = offset};
		size_t matching;
		char *text = listed(many, &which, &matching);
		for (char *at = text, *end; *at != '\0'; at = end) {
			unsigned long n = strtoul(at, &end, 10);
			ck_assert(n < TABLES && !seen[n]);
			seen[n] = true;
			count++;
		}
		free(text);
	}
	ck_assert_uint_eq(count, TABLES);
	many_free(many);
}
END_TEST

/* The first moment: no catalogue, nothing known, and a text cut inside a character. */
START_TEST(json_of_nothing)
{
	MigrationStatus nothing = {.detail = "half \xc3"};
	json_t *json = status_json(&nothing);
	char *text = json_dumps(json, 0);

	ck_assert_ptr_nonnull(text);
	ck_assert_str_eq(doc_text(json, "state"), "checking");
	ck_assert_str_eq(doc_text(json, "detail"), "half ?");
	ck_assert_str_eq(doc_text(json, "stream.applied_lsn"), "0/0");
	ck_assert_str_eq(doc_text(json, "cutover.outcome"), "none");
	ck_assert(json_is_null(doc_at(json, "error")));
	ck_assert(json_is_null(doc_at(json, "since")));
	ck_assert(json_is_null(doc_at(json, "eta.seconds")));
	ck_assert(json_is_null(doc_at(json, "eta.until")));
	ck_assert(json_is_null(doc_at(json, "slot.safe_bytes")));
	ck_assert_uint_eq(json_array_size(doc_at(json, "table")), 0);
	free(text);
	json_decref(json);
}
END_TEST

static void
assert_line(const char *text, const char *line)
{
	const char *at = strstr(text, line);

	ck_assert_msg(at != NULL && (at == text || at[-1] == '\n') && at[strlen(line)] == '\n',
	              "no line %s in\n%.1500s", line, text);
}

START_TEST(metrics_have_values)
{
	char *text = status_metrics(&status);

	assert_line(text, "pgbaton_state{state=\"copying\"} 1");
	assert_line(text, "pgbaton_state{state=\"following\"} 0");
	assert_line(text, "pgbaton_tables{state=\"errored\"} 164");
	assert_line(text, "pgbaton_lag_seconds 1.25");
	assert_line(text, "pgbaton_transactions_applied_total 122");
	assert_line(text, "pgbaton_changes_applied_total{kind=\"delete\"} 125");
	assert_line(text, "pgbaton_slot_kept_bytes 142");
	assert_line(text, "pgbaton_copy_eta_seconds NaN");
	assert_line(text, "pgbaton_copy_held 1");
	assert_line(text, "pgbaton_eta_seconds 4.5");
	assert_line(text, "pgbaton_index_steps_done 171");
	assert_line(text, "pgbaton_table_expected_bytes{schema=\"public\",table=\"big\"} 32");
	assert_line(text, "pgbaton_copy_rate_limit_bytes 154");
	assert_line(text, "pgbaton_standby_lag_bytes 155");
	assert_line(text, "pgbaton_slot_in_danger 1");
	assert_line(text, "pgbaton_source_reading_seconds 14.5");
	assert_line(text, "pgbaton_source_unread_bytes 145");
	assert_line(text, "pgbaton_cutover_hold_seconds 0.02025");
	assert_line(text, "pgbaton_table_updates_total{schema=\"public\",table=\"big\"} 14");
	assert_line(text, "pgbaton_table_copied_rows{schema=\"we\\\"ird\\\\\",table=\"new\\nline "
	                  "\xc3\xa9\"} 0");
	free(text);
}
END_TEST

/* promtool judges names, types, help and syntax. Without it the test says so. */
START_TEST(metrics_please_promtool)
{
	if (system("command -v promtool >/dev/null") != 0) {
		ck_assert_msg(getenv("CI") == NULL, "promtool is not installed");
		fputs("skipped: promtool is not installed\n", stderr);
		return;
	}
	for (int i = 0; i < 2; i++) {
		MigrationStatus nothing = {0};
		char *text = status_metrics(i == 0 ? &status : &nothing);
		FILE *promtool = popen("promtool check metrics 2>&1", "w");
		ck_assert_ptr_nonnull(promtool);
		fputs(text, promtool);
		int exit_status = pclose(promtool);
		ck_assert_msg(exit_status == 0, "promtool: status %d", exit_status);
		free(text);
	}
}
END_TEST

/* Labels are bounded, however many tables there are. */
START_TEST(metrics_cap_tables)
{
	enum { MANY = 1200 };
	Arena *arena = arena_new(0);
	Catalog many = {.table_count = MANY, .tables = arena_new_array(arena, Table, MANY)};
	MigrationStatus s = {.catalog = &many};
	size_t lines = 0;

	for (size_t i = 0; i < MANY; i++) {
		many.tables[i].schema = "public";
		many.tables[i].name = arena_printf(arena, "t%zu", i);
	}
	char *text = status_metrics(&s);
	for (const char *at = text; (at = strstr(at, "\npgbaton_table_inserts_total{")) != NULL; at++)
		lines++;
	ck_assert_uint_eq(lines, 1000);
	free(text);
	arena_free(arena);
}
END_TEST

START_TEST(listener_where_there_is_one)
{
	MigrationStatus s = {.listener = {.listening = false}};
	char *text = status_metrics(&s);
	json_t *json = status_json(&s);

	ck_assert(json_is_null(json_object_get(json, "listener")));
	ck_assert_ptr_null(strstr(text, "pgbaton_listener"));
	json_decref(json);
	free(text);
	s.listener = (ListenerState){.listening = true,
	                             .route = ROUTE_TARGET,
	                             .sessions = 12,
	                             .held = 3,
	                             .logins = 4,
	                             .unmovable = 5,
	                             .accepted = 600,
	                             .refused = 7,
	                             .cancels = 8};
	json = status_json(&s);
	text = status_metrics(&s);
	char *dump = json_dumps(json_object_get(json, "listener"), JSON_SORT_KEYS | JSON_COMPACT);
	ck_assert_str_eq(dump, "{\"accepted\":600,\"cancels\":8,\"held\":3,\"logins\":4,"
	                       "\"refused\":7,\"route\":\"target\",\"sessions\":12,"
	                       "\"unmovable\":5}");
	ck_assert_ptr_nonnull(strstr(text, "\npgbaton_listener_sessions 12\n"));
	ck_assert_ptr_nonnull(strstr(text, "\npgbaton_listener_route{route=\"target\"} 1\n"));
	ck_assert_ptr_nonnull(strstr(text, "\npgbaton_listener_refused_total 7\n"));
	free(dump);
	free(text);
	json_decref(json);
}
END_TEST

static Suite *
status_suite(void)
{
	Suite *suite = suite_create("status");
	TCase *tests = tcase_create("status");

	tcase_add_checked_fixture(tests, setup, teardown);
	tcase_add_test(tests, json_has_every_field);
	tcase_add_test(tests, json_has_tables);
	tcase_add_test(tests, json_has_some_tables);
	tcase_add_test(tests, pages_are_the_whole);
	tcase_add_test(tests, json_of_nothing);
	tcase_add_test(tests, metrics_have_values);
	tcase_add_test(tests, metrics_please_promtool);
	tcase_add_test(tests, metrics_cap_tables);
	tcase_add_test(tests, listener_where_there_is_one);
	suite_add_tcase(suite, tests);
	return suite;
}

TEST_SUITE(status_suite)
