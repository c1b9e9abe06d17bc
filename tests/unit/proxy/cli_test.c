/*
 * The program as it is called: exit codes, what stands on stdout and stderr, and
 * the commands against an admin port with a fake migration behind it. The binary
 * is the one built beside this test program, or what PGBATON_BIN names.
 */
#include <jansson.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"
#include "common/memory.h"
#include "proxy/admin/admin.h"
#include "proxy/cli/client.h"
#include "proxy/cli/statedir.h"
#include "tests/harness/process.h"
#include "tests/unit/proxy/fake_migration.h"
#include "tests/unit/runner.h"

enum { MAX_ARGS = 24, PATIENCE_S = 60 };

static char binary[4096];
static char *dir;
static Config config;
static Migration *migration;
static Catalog *catalog;
static Admin *admin;
static Process *last; /* of the last pgbaton() */

static void
find_binary(void)
{
	const char *own = getenv("PGBATON_BIN");
	ssize_t len = readlink("/proc/self/exe", binary, sizeof(binary) - 16);

	ck_assert_int_gt(len, 0);
	binary[len] = '\0';
	strcpy(strrchr(binary, '/') + 1, "pgbaton");
	if (own != NULL)
		snprintf(binary, sizeof(binary), "%s", own);
	ck_assert_msg(access(binary, X_OK) == 0, "%s is not there", binary);
}

static void
setup(void)
{
	find_binary();
	log_set_level(LOG_WARNING);
	unsetenv("PGBATON_ADMIN");
	unsetenv("PGBATON_SOURCE");
	unsetenv("PGBATON_TARGET");
	dir = scratch_dir_new("cli");
	config = (Config){.name = "shop", .admin_host = "127.0.0.1", .state_dir = dir};
	migration = fake_migration_new();
	catalog = fake_catalog_new();
	fake_status_fill(&migration->status, catalog);
}

static void
teardown(void)
{
	admin_stop(admin);
	process_free(last);
	migration_free(migration);
	fake_catalog_free(catalog);
	scratch_dir_free(dir);
}

static void
start_admin(void)
{
	Error err = ERROR_INIT;

	admin = admin_start(&config, migration, &err);
	ck_assert_msg(admin != NULL, "%s", err.message);
}

static void
start(const char *const *args)
{
	const char *argv[MAX_ARGS + 2] = {binary};

	for (int i = 0; args[i] != NULL; i++) {
		ck_assert_int_lt(i, MAX_ARGS);
		argv[i + 1] = args[i];
	}
	process_free(last);
	last = process_start(argv, NULL);
}

/* Runs pgbaton with the arguments, NULL at the end; the exit code. */
static int
pgbaton(const char *first, ...)
{
	const char *args[MAX_ARGS + 1] = {first};
	va_list rest;
	int count = 1;

	va_start(rest, first);
	while (first != NULL && (args[count] = va_arg(rest, const char *)) != NULL)
		ck_assert_int_lt(++count, MAX_ARGS);
	va_end(rest);
	start(args);
	return process_wait(last, PATIENCE_S);
}

/* pgbaton COMMAND --state-dir DIR ... */
static int
client(const char *command, const char *a, const char *b, const char *c)
{
	return pgbaton(command, "--state-dir", dir, a, b, c, NULL);
}

static void
assert_out(const char *text)
{
	ck_assert_msg(strstr(process_stdout(last), text) != NULL, "no \"%s\" in \"%.1500s\"", text,
	              process_stdout(last));
}

static void
assert_err(const char *text)
{
	ck_assert_msg(strstr(process_stderr(last), text) != NULL, "no \"%s\" in \"%.1500s\"", text,
	              process_stderr(last));
}

static void
set_state(MigrationState state)
{
	pthread_mutex_lock(&migration->lock);
	migration->status.state = state;
	pthread_mutex_unlock(&migration->lock);
}

/* ---- dispatch and usage ---- */

START_TEST(version_and_help)
{
	ck_assert_int_eq(pgbaton("--version", NULL), 0);
	assert_out("pgbaton 0.");
	ck_assert_int_eq(pgbaton("--help", NULL), 0);
	assert_out("cutover");
	ck_assert_int_eq(pgbaton("help", NULL), 0);
	ck_assert_int_eq(pgbaton(NULL), 2);
	assert_err("Usage");
}
END_TEST

static const char *const commands[] = {
	"check",  "run",    "status", "wait",   "cutover",  "verify",
	"finish", "cancel", "pause",  "resume", "failback", "log",
};

START_TEST(every_command_has_help)
{
	ck_assert_int_eq(pgbaton(commands[_i], "--help", NULL), 0);
	assert_out(commands[_i]);
	ck_assert_str_eq(process_stderr(last), "");
	ck_assert_int_eq(pgbaton("help", commands[_i], NULL), 0);
	assert_out("--state-dir");
}
END_TEST

START_TEST(unknown_command)
{
	ck_assert_int_eq(pgbaton("staus", NULL), 2);
	assert_err("did you mean \"status\"?");
	ck_assert_int_eq(pgbaton("help", "rnu", NULL), 2);
	assert_err("did you mean \"run\"?");
	ck_assert_int_eq(pgbaton("postgres://u:s3cret@h/db", NULL), 2);
	ck_assert_ptr_null(strstr(process_stderr(last), "s3cret"));
}
END_TEST

typedef struct {
	const char *args[8];
	const char *text;
} Usage;

static const Usage usages[] = {
	{{"run"}, "PGBATON_SOURCE"},
	{{"run", "--source", "host=a"}, "PGBATON_TARGET"},
	{{"run", "--sauce", "host=a"}, "did you mean --source?"},
	{{"run", "--source", "host=a", "--target", "host=b", "--jobs", "0"}, "between 1 and 64"},
	{{"run", "--source", "host=a", "--target", "host=b", "--listen", ":1"}, "is not HOST:PORT"},
	{{"run", "--source", "nonsense", "--target", "host=b"}, "source"},
	{{"check"}, "PGBATON_SOURCE"},
	{{"status", "--jobs", "3"}, "does not belong"},
	{{"wait"}, "--for STATE is missing"},
	{{"wait", "--for", "done"}, "\"done\" is not a state"},
	{{"wait", "--for", "following", "--timeout", "soon"}, "--timeout"},
	{{"cutover", "--hold-timeout", "0"}, "--hold-timeout"},
	{{"verify", "--table", ""}, "is empty"},
	{{"pause", "now"}, "unexpected argument"},
	{{"finish", "--source", "host=a"}, "PGBATON_TARGET"},
	{{"status", "--admin", "localhost"}, "HOST:PORT"},
	{{"status", "--config", "/nonexistent"}, "cannot open"},
};

START_TEST(usage_is_exit_2)
{
	start(usages[_i].args);
	ck_assert_int_eq(process_wait(last, PATIENCE_S), 2);
	assert_err(usages[_i].text);
	ck_assert_str_eq(process_stdout(last), "");
}
END_TEST

START_TEST(check_without_server)
{
	char source[256];

	snprintf(source, sizeof(source), "host=%s dbname=x password=s3cret", dir);
	ck_assert_int_eq(pgbaton("check", "--source", source, "--target", source, NULL), 1);
	assert_err("source");
	ck_assert_ptr_null(strstr(process_stderr(last), "s3cret"));
}
END_TEST

/* ---- commands against a process ---- */

START_TEST(status_for_people_and_programs)
{
	start_admin();
	ck_assert_int_eq(client("status", NULL, NULL, NULL), 0);
	assert_out("copying");
	assert_out("public.big");
	assert_out("\n  copying "); /* its line in the list */
	assert_out("relation \"x\" is in the way");
	assert_out("drop it");
	/* A table's name cannot move the cursor. */
	assert_out("we\"ird\\.new?line");

	ck_assert_int_eq(client("status", "--json", NULL, NULL), 0);
	json_t *json = json_loads(process_stdout(last), 0, NULL);
	ck_assert_str_eq(doc_text(json, "stream.applied_lsn"), "0/120");
	ck_assert_uint_eq(json_array_size(doc_at(json, "table")), 2);
	json_decref(json);

	/* Those in error first. */
	ck_assert_int_eq(client("status", "--tables=1", NULL, NULL), 0);
	assert_out("we\"ird\\.new?line");
	assert_out("and 1 more");
	ck_assert_ptr_null(strstr(process_stdout(last), "\n  copying "));
	ck_assert_int_eq(client("status", "--json", "--tables", "0"), 0);
	json = json_loads(process_stdout(last), 0, NULL);
	ck_assert_uint_eq(json_array_size(doc_at(json, "table")), 0);
	ck_assert_int_eq((int)doc_number(json, "tables.matching"), 2);
	json_decref(json);
	ck_assert_int_eq(client("status", "--tables", "some", NULL), 2);
	assert_err("a number, or all");
}
END_TEST

START_TEST(watch_ends_with_the_migration)
{
	const char *args[] = {"status", "--watch", "--state-dir", dir, NULL};

	start_admin();
	start(args);
	process_wait_output(last, "copying", PATIENCE_S);
	set_state(STATE_FINISHED);
	ck_assert_int_eq(process_wait(last, PATIENCE_S), 0);
	assert_out("finished");
	set_state(STATE_FAILED);
	ck_assert_int_eq(client("status", "--watch", NULL, NULL), 1);
}
END_TEST

START_TEST(nobody_answers)
{
	char address[32];

	snprintf(address, sizeof(address), "127.0.0.1:%d", free_port());
	ck_assert_int_eq(pgbaton("status", "--admin", address, "--state-dir", dir, NULL), 1);
	assert_err("no answer from http://127.0.0.1");
	ck_assert_int_eq(pgbaton("pause", "--admin", address, NULL), 1);
	ck_assert_int_eq(pgbaton("cancel", "--admin", address, NULL), 1);
	assert_err("--source and --target");
	ck_assert_int_eq(pgbaton("wait", "--for", "copying", "--timeout", "0.2", "--admin", address,
	                         "--state-dir", dir, NULL),
	                 1);
	assert_err("the time is up");
}
END_TEST

START_TEST(wait_for_states)
{
	start_admin();
	ck_assert_int_eq(client("wait", "--for", "copying", NULL), 0);
	ck_assert_int_eq(client("wait", "--for", "checking", NULL), 0);
	ck_assert_int_eq(client("wait", "--for=following", "--timeout", "0.2"), 1);
	assert_err("the time is up; the state is copying");
	set_state(STATE_FAILED);
	ck_assert_int_eq(client("wait", "--for", "following", NULL), 1);
	assert_err("is in the way");
	ck_assert_int_eq(client("wait", "--for", "copying", NULL), 1);
	ck_assert_int_eq(client("wait", "--for", "failed", NULL), 0);
	set_state(STATE_CANCELLED);
	ck_assert_int_eq(client("wait", "--for", "copying", NULL), 1);
	assert_err("migration cancelled");
}
END_TEST

START_TEST(wait_sees_a_change)
{
	const char *args[] = {"wait", "--for", "following", "--state-dir", dir, NULL};

	start_admin();
	start(args);
	set_state(STATE_SWITCHED);
	ck_assert_int_eq(process_wait(last, PATIENCE_S), 0);
}
END_TEST

/* The process ends while it is waited for: its last word decides. */
static void
end_with(MigrationState state)
{
	Error err = ERROR_INIT;

	set_state(state);
	json_t *json = status_json(&migration->status);
	ck_assert(statedir_write_last(dir, json, &err));
	json_decref(json);
	admin_stop(admin);
	admin = NULL;
}

START_TEST(wait_after_the_end)
{
	start_admin();
	end_with(STATE_FINISHED);
	ck_assert_int_eq(client("wait", "--for", "finished", NULL), 0);
	ck_assert_int_eq(client("status", NULL, NULL, NULL), 0);
	assert_out("The process has ended");
}
END_TEST

/* Stopped is not following: nothing follows any more. */
START_TEST(wait_after_a_stop)
{
	start_admin();
	end_with(STATE_FOLLOWING);
	ck_assert_int_eq(client("wait", "--for", "following", NULL), 1);
	assert_err("the process has ended in state following");
	ck_assert_int_eq(client("status", NULL, NULL, NULL), 1);
}
END_TEST

static void
set_cutover(uint64_t id, CutoverOutcome outcome)
{
	pthread_mutex_lock(&migration->lock);
	migration->ticket = 3;
	migration->status.cutover.id = id;
	migration->status.cutover.outcome = outcome;
	pthread_mutex_unlock(&migration->lock);
}

START_TEST(cutover_passes_the_policy_on)
{
	set_cutover(3, CUTOVER_REHEARSED);
	start_admin();
	ck_assert_int_eq(client("cutover", "--rehearse", "--unmovable", "close"), 0);
	ck_assert_int_eq((int)fake_migration_last(migration).command, (int)COMMAND_REHEARSE);
	ck_assert(fake_migration_last(migration).unmovable_given);
	ck_assert_int_eq((int)fake_migration_last(migration).unmovable, (int)UNMOVABLE_CLOSE);
	assert_out("81 sessions would be moved");
	assert_out("app@shop from 10.0.0.5: temporary tables");
	ck_assert_int_eq(client("failback", "--unmovable", "kill", NULL), 2);
	assert_err("abort");
}
END_TEST

START_TEST(sessions_are_shown)
{
	start_admin();
	ck_assert_int_eq(client("sessions", NULL, NULL, NULL), 1);
	assert_err("no listener");
	pthread_mutex_lock(&migration->lock);
	migration->sessions[0] = (ListenerSession){
		.pid = 77, .who = "a\x1b@shop", .state = "idle", .reason = "it holds advisory locks"};
	migration->session_count = 1;
	pthread_mutex_unlock(&migration->lock);
	ck_assert_int_eq(client("sessions", NULL, NULL, NULL), 0);
	assert_out("1 session, 1 of them cannot be moved now");
	assert_out("a?@shop: it holds advisory locks");
	ck_assert_int_eq(client("sessions", "--json", NULL, NULL), 0);
	json_t *json = json_loads(process_stdout(last), 0, NULL);
	ck_assert_uint_eq(json_array_size(json_object_get(json, "sessions")), 1);
	json_decref(json);
}
END_TEST

START_TEST(cutover_switches)
{
	set_cutover(3, CUTOVER_SWITCHED);
	start_admin();
	ck_assert_int_eq(client("cutover", "--json", "--hold-timeout", "0.75"), 0);
	ck_assert(!fake_migration_last(migration).unmovable_given);
	json_t *json = json_loads(process_stdout(last), 0, NULL);
	ck_assert_str_eq(doc_text(json, "outcome"), "switched");
	ck_assert(doc_number(json, "hold_ms") > 20);
	json_decref(json);
	ck_assert_int_eq((int)fake_migration_last(migration).command, (int)COMMAND_CUTOVER);
	ck_assert_int_eq((int)fake_migration_last(migration).hold_timeout_ms, 750);
	ck_assert_int_eq(client("cutover", NULL, NULL, NULL), 0);
	ck_assert_int_eq((int)fake_migration_last(migration).hold_timeout_ms, 0);
	assert_out("switched: writes were held 20.2 ms");
}
END_TEST

START_TEST(cutover_is_undone)
{
	set_cutover(3, CUTOVER_ABORTED);
	start_admin();
	ck_assert_int_eq(client("cutover", "--json", NULL, NULL), 1);
	assert_err("not drained");
	assert_out("\"aborted\"");
}
END_TEST

START_TEST(cutover_is_waited_for)
{
	const char *args[] = {"cutover", "--json", "--state-dir", dir, NULL};

	set_cutover(3, CUTOVER_RUNNING);
	start_admin();
	start(args);
	set_cutover(3, CUTOVER_SWITCHED);
	ck_assert_int_eq(process_wait(last, PATIENCE_S), 0);
}
END_TEST

/* What follows at once, `finish` above all, finds the state that allows it. */
START_TEST(cutover_ends_with_the_state)
{
	const char *args[] = {"cutover", "--json", "--state-dir", dir, NULL};

	set_cutover(3, CUTOVER_SWITCHED);
	set_state(STATE_CUTTING_OVER);
	start_admin();
	start(args);
	while (fake_migration_statuses(migration) < 3 && !process_ended(last))
		poll(NULL, 0, 5);
	ck_assert(!process_ended(last));
	set_state(STATE_SWITCHED);
	ck_assert_int_eq(process_wait(last, PATIENCE_S), 0);
}
END_TEST

/* Killed and started again inside the cutover: the state tells how it ended. */
START_TEST(cutover_with_a_restart)
{
	set_cutover(0, CUTOVER_NONE);
	set_state(STATE_SWITCHED);
	start_admin();
	ck_assert_int_eq(client("cutover", NULL, NULL, NULL), 0);
	set_state(STATE_FOLLOWING);
	ck_assert_int_eq(client("cutover", NULL, NULL, NULL), 1);
	assert_err("undone");
}
END_TEST

/* Killed inside, and nobody starts it again. */
START_TEST(rehearsal_whose_process_dies)
{
	const char *args[] = {"cutover", "--rehearse", "--state-dir", dir, NULL};

	set_cutover(3, CUTOVER_RUNNING);
	start_admin();
	start(args);
	while (fake_migration_statuses(migration) < 2 && !process_ended(last))
		poll(NULL, 0, 5);
	admin_stop(admin);
	admin = NULL;
	ck_assert_int_eq(process_wait(last, PATIENCE_S), 1);
	assert_err("the outcome of the rehearsal is not known here");
	assert_err("a rehearsal changes nothing");
}
END_TEST

START_TEST(refused_commands)
{
	error_set(&migration->refuse, ERROR_CONFIG, "cannot now");
	error_set_hint(&migration->refuse, "later");
	start_admin();
	static const char *const refused[] = {"cutover", "verify", "finish",
	                                      "cancel",  "pause",  "resume"};
	for (size_t i = 0; i < sizeof(refused) / sizeof(*refused); i++) {
		ck_assert_int_eq(client(refused[i], NULL, NULL, NULL), 1);
		assert_err("cannot now");
		assert_err("later");
	}
	ck_assert_int_eq(fake_migration_commands(migration), 6);
}
END_TEST

START_TEST(plain_commands)
{
	start_admin();
	ck_assert_int_eq(client("pause", NULL, NULL, NULL), 0);
	ck_assert_int_eq((int)fake_migration_last(migration).command, (int)COMMAND_PAUSE);
	ck_assert_int_eq(client("resume", NULL, NULL, NULL), 0);
	ck_assert_int_eq((int)fake_migration_last(migration).command, (int)COMMAND_RESUME);
}
END_TEST

static void
set_verify(uint64_t id, VerifyOutcome outcome)
{
	pthread_mutex_lock(&migration->lock);
	migration->ticket = 2;
	migration->status.verify = (VerifyStatus){.id = id, .outcome = outcome, .tables = 11};
	if (outcome == VERIFY_FAILED)
		error_set(&migration->status.verify.error, ERROR_DIVERGENCE, "public.t has 3 rows more");
	pthread_mutex_unlock(&migration->lock);
}

START_TEST(verify_waits_for_the_outcome)
{
	set_verify(2, VERIFY_EQUAL);
	start_admin();
	ck_assert_int_eq(client("verify", NULL, NULL, NULL), 0);
	ck_assert_int_eq((int)fake_migration_last(migration).command, (int)COMMAND_VERIFY);
	assert_out("11 tables");
	ck_assert_uint_eq(fake_migration_last(migration).table_count, 0);
	ck_assert_int_eq(client("verify", "--table=a", "--table=s.b*", NULL), 0);
	ck_assert_uint_eq(fake_migration_last(migration).table_count, 2);
	ck_assert_str_eq(fake_migration_last(migration).tables[1], "s.b*");

	set_verify(2, VERIFY_FAILED);
	ck_assert_int_eq(client("verify", NULL, NULL, NULL), 1);
	assert_err("public.t has 3 rows more");

	set_verify(3, VERIFY_FAILED); /* somebody else's */
	ck_assert_int_eq(client("verify", NULL, NULL, NULL), 1);
}
END_TEST

START_TEST(finish_and_cancel)
{
	set_state(STATE_FINISHED);
	start_admin();
	ck_assert_int_eq(client("finish", NULL, NULL, NULL), 0);
	ck_assert_int_eq((int)fake_migration_last(migration).command, (int)COMMAND_FINISH);
	set_state(STATE_CANCELLED);
	ck_assert_int_eq(client("cancel", NULL, NULL, NULL), 0);
	assert_out("cancelled");
	/* Once more, while the process goes on serving. */
	set_state(STATE_FINISHED);
	error_set(&migration->refuse, ERROR_CONFIG, "cannot finish while finished");
	ck_assert_int_eq(client("finish", NULL, NULL, NULL), 0);
	assert_out("finished");
	error_clear(&migration->refuse);
	/* What finish stumbles over stays in the status. */
	set_state(STATE_SWITCHED);
	pthread_mutex_lock(&migration->lock);
	migration->status.retrying = false;
	pthread_mutex_unlock(&migration->lock);
	ck_assert_int_eq(client("finish", NULL, NULL, NULL), 1);
	assert_err("is in the way");
}
END_TEST

START_TEST(admin_from_environment)
{
	char address[32];

	start_admin();
	snprintf(address, sizeof(address), "127.0.0.1:%d", admin_port(admin));
	setenv("PGBATON_ADMIN", address, 1);
	ck_assert_int_eq(pgbaton("pause", NULL), 0);
	ck_assert_int_eq(fake_migration_commands(migration), 1);
}
END_TEST

/* Its process was killed and has left its port, which another migration's process has by now. */
START_TEST(another_migration_answers)
{
	char address[32];
	char *other = scratch_dir_new("cli");
	char *left = mem_printf("%s/admin.port", other);

	start_admin();
	snprintf(address, sizeof(address), "127.0.0.1:%d", admin_port(admin));
	FILE *file = fopen(left, "w");
	ck_assert_ptr_nonnull(file);
	fprintf(file, "%d\n127.0.0.1\n", admin_port(admin));
	fclose(file);
	ck_assert_int_eq(pgbaton("cancel", "--state-dir", other, NULL), 1);
	assert_err("another migration answers there: \"shop\"");
	ck_assert_int_eq(pgbaton("cutover", "--state-dir", other, NULL), 1);
	ck_assert_int_eq(pgbaton("status", "--state-dir", other, NULL), 1);
	ck_assert_int_eq(pgbaton("pause", "--name", "store", "--admin", address, NULL), 1);
	assert_err("another migration answers there");
	ck_assert_int_eq(fake_migration_commands(migration), 0);
	ck_assert_int_eq(pgbaton("pause", "--name", "shop", "--state-dir", dir, NULL), 0);
	/* Who names the address may have the state directory on another machine. */
	ck_assert_int_eq(pgbaton("pause", "--admin", address, "--state-dir", "/nowhere", NULL), 0);
	ck_assert_int_eq(fake_migration_commands(migration), 2);
	free(left);
	scratch_dir_free(other);
}
END_TEST

static Suite *
cli_suite(void)
{
	Suite *suite = suite_create("cli");
	TCase *tests = tcase_create("cli");

	tcase_set_timeout(tests, 120);
	tcase_add_checked_fixture(tests, setup, teardown);
	tcase_add_test(tests, version_and_help);
	tcase_add_loop_test(tests, every_command_has_help, 0,
	                    (int)(sizeof(commands) / sizeof(*commands)));
	tcase_add_test(tests, unknown_command);
	tcase_add_loop_test(tests, usage_is_exit_2, 0, (int)(sizeof(usages) / sizeof(*usages)));
	tcase_add_test(tests, check_without_server);
	tcase_add_test(tests, status_for_people_and_programs);
	tcase_add_test(tests, watch_ends_with_the_migration);
	tcase_add_test(tests, nobody_answers);
	tcase_add_test(tests, wait_for_states);
	tcase_add_test(tests, wait_sees_a_change);
	tcase_add_test(tests, wait_after_the_end);
	tcase_add_test(tests, wait_after_a_stop);
	tcase_add_test(tests, verify_waits_for_the_outcome);
	tcase_add_test(tests, cutover_passes_the_policy_on);
	tcase_add_test(tests, sessions_are_shown);
	tcase_add_test(tests, cutover_switches);
	tcase_add_test(tests, cutover_is_undone);
	tcase_add_test(tests, cutover_is_waited_for);
	tcase_add_test(tests, cutover_ends_with_the_state);
	tcase_add_test(tests, cutover_with_a_restart);
	tcase_add_test(tests, rehearsal_whose_process_dies);
	tcase_add_test(tests, refused_commands);
	tcase_add_test(tests, plain_commands);
	tcase_add_test(tests, finish_and_cancel);
	tcase_add_test(tests, admin_from_environment);
	tcase_add_test(tests, another_migration_answers);
	suite_add_tcase(suite, tests);
	return suite;
}

TEST_SUITE(cli_suite)
