/*
 * harness/pgbaton.c against a program of a few lines that behaves like the
 * real one outside: it answers GET /v1/status with states one after the other.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/memory.h"
#include "tests/harness/pgbaton.h"
#include "tests/harness/process.h"
#include "tests/unit/runner.h"

static char *dir;

/* A shell script as the binary: its own log line for `run`, and an exit code
 * that shows its arguments for everything else. */
static void
use_script(const char *body)
{
	dir = scratch_dir_new("script");
	char *path = mem_printf("%s/pgbaton", dir);
	FILE *file = fopen(path, "we");
	ck_assert_ptr_nonnull(file);
	fprintf(file, "#!/bin/sh\n%s\n", body);
	fclose(file);
	chmod(path, 0755);
	setenv("PGBATON_BIN", path, 1);
	free(path);
}

static void
done_with_script(void)
{
	unsetenv("PGBATON_BIN");
	scratch_dir_free(dir);
}

START_TEST(run_gets_its_arguments_and_stops)
{
	const char *const args[] = {"--jobs", "3", NULL};
	const char *const env[] = {"WORD=hello", NULL};

	use_script("trap 'exit 3' TERM; echo \"$WORD $*\" >&2; while :; do sleep 0.01; done");
	Pgbaton *p = pgbaton_start(
		&(PgbatonOptions){.source = "from", .target = "to", .args = args, .env = env});
	while (strchr(pgbaton_log(p), '\n') == NULL)
		ck_assert(!pgbaton_ended(p));
	char *expected = mem_printf("hello run --source from --target to --state-dir %s "
	                            "--admin 127.0.0.1:%d --jobs 3\n",
	                            pgbaton_state_dir(p), pgbaton_admin_port(p));
	ck_assert_str_eq(pgbaton_log(p), expected);
	ck_assert_ptr_null(pgbaton_status(p)); /* nobody listens there */
	ck_assert(!pgbaton_reached(p, "checking"));
	ck_assert_int_eq(pgbaton_stop(p, SIGTERM), 3);
	pgbaton_again(p);
	while (strchr(pgbaton_log(p), '\n') == NULL)
		ck_assert(!pgbaton_ended(p));
	ck_assert_str_eq(pgbaton_log(p), expected);
	ck_assert_int_eq(pgbaton_stop(p, SIGKILL), 128 + SIGKILL);
	free(expected);
	pgbaton_free(p);
	done_with_script();
}
END_TEST

/* A SIGCONT after that is not too early, and a second stop is waited for as well. */
START_TEST(a_stop_is_waited_for)
{
	use_script("kill -STOP $$; kill -STOP $$; exit 3");
	Pgbaton *p = pgbaton_start(&(PgbatonOptions){.source = "from", .target = "to"});
	for (int i = 0; i < 2; i++) {
		pgbaton_wait_stopped(p, 60);
		pgbaton_wait_stopped(p, 60); /* it is only looked at */
		ck_assert(!pgbaton_ended(p));
		kill(pgbaton_pid(p), SIGCONT);
	}
	ck_assert_int_eq(pgbaton_wait_exit(p, 60), 3);
	pgbaton_free(p);
	done_with_script();
}
END_TEST

START_TEST(cli_names_the_admin_port)
{
	char *out;

	use_script("[ \"$1\" = run ] && exec sleep 600; echo \"$*\"; echo err >&2; exit 4");
	Pgbaton *p = pgbaton_start(&(PgbatonOptions){.source = "from", .target = "to"});
	ck_assert_int_eq(pgbaton_cli(p, &out, 60, "cutover", "--json", NULL), 4);
	char *expected = mem_printf("cutover --admin 127.0.0.1:%d --json\n", pgbaton_admin_port(p));
	ck_assert_str_eq(out, expected);
	free(expected);
	free(out);
	ck_assert_int_eq(pgbaton_run((const char *const[]){"check", "x", NULL}, NULL, 60, &out), 4);
	ck_assert_str_eq(out, "check x\nerr\n");
	free(out);
	pgbaton_free(p);
	done_with_script();
}
END_TEST

/* Answers on the port behind --admin, its ninth argument, with each state once. */
static const char *const server =
	"exec perl -MIO::Socket::INET -e '"
	"my ($port) = $ARGV[8] =~ /:(\\d+)$/;"
	"my $listen = IO::Socket::INET->new(LocalAddr => \"127.0.0.1\", LocalPort => $port,"
	"  Listen => 5, ReuseAddr => 1) or die;"
	"my @states = split / /, $ENV{STATES};"
	"while (my $c = $listen->accept) {"
	"  while (<$c>) { last if /^\\r?$/ }"
	"  my $state = @states > 1 ? shift @states : $states[0];"
	"  my $body = "
	"\"{\\\"state\\\":\\\"$state\\\",\\\"lag\\\":{\\\"seconds\\\":1.5},\\\"log\\\":{"
	"\\\"segments\\\":7}}\";"
	"  print $c \"HTTP/1.1 200 OK\\r\\nContent-Length: \" . length($body) . \"\\r\\n\\r\\n$body\";"
	"  close $c; }' -- \"$@\"";

static Pgbaton *
start_server(const char *states)
{
	const char *const env[] = {states, NULL};

	use_script(server);
	return pgbaton_start(&(PgbatonOptions){.source = "from", .target = "to", .env = env});
}

START_TEST(waits_for_a_state_or_a_later_one)
{
	Pgbaton *p = start_server("STATES=checking preparing copying catching_up following");

	pgbaton_wait_state(p, "following", 20);
	ck_assert(pgbaton_reached(p, "copying"));
	ck_assert(!pgbaton_reached(p, "switched"));
	ck_assert_int_eq(pgbaton_status_int(p, "log.segments"), 7);
	ck_assert_int_eq(pgbaton_status_int(p, "lag.seconds"), 1);
	char *state = pgbaton_status_text(p, "state");
	ck_assert_str_eq(state, "following");
	free(state);
	pgbaton_free(p);
	done_with_script();
}
END_TEST

START_TEST(failed_can_be_waited_for)
{
	Pgbaton *p = start_server("STATES=checking failed");

	pgbaton_wait_state(p, "failed", 20);
	ck_assert(!pgbaton_reached(p, "checking")); /* failed is not later than anything */
	pgbaton_free(p);
	done_with_script();
}
END_TEST

static Suite *
make_pgbaton(void)
{
	Suite *suite = suite_create("pgbaton");
	TCase *tcase = tcase_create("pgbaton");

	tcase_add_test(tcase, run_gets_its_arguments_and_stops);
	tcase_add_test(tcase, a_stop_is_waited_for);
	tcase_add_test(tcase, cli_names_the_admin_port);
	tcase_add_test(tcase, waits_for_a_state_or_a_later_one);
	tcase_add_test(tcase, failed_can_be_waited_for);
	suite_add_tcase(suite, tcase);
	return suite;
}
TEST_SUITE(make_pgbaton)
