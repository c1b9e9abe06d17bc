/* Every option, from each place it can come from, right and wrong. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/memory.h"
#include "proxy/config.h"
#include "proxy/config_internal.h"
#include "tests/unit/runner.h"

enum { MAX_ARGS = 64 };

static Error err;
static char dir[] = "/tmp/pgbaton-config-XXXXXX";
static char file[64];

static void
setup(void)
{
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(file, sizeof(file), "%s/file", dir);
	unsetenv("PGBATON_SOURCE");
	unsetenv("PGBATON_TARGET");
	unsetenv("PGBATON_ADMIN");
	error_clear(&err);
}

static void
teardown(void)
{
	unlink(file);
	rmdir(dir);
}

static void
write_file(const char *text, mode_t mode)
{
	FILE *out = fopen(file, "w");

	ck_assert_ptr_nonnull(out);
	fputs(text, out);
	fclose(out);
	ck_assert_int_eq(chmod(file, mode), 0);
}

/* Splits at blanks; "run A B". */
static Config *
parse(const char *line)
{
	static char text[4096];
	char *argv[MAX_ARGS];
	int argc = 0;

	snprintf(text, sizeof(text), "%s", line);
	for (char *at = strtok(text, " "); at != NULL && argc < MAX_ARGS - 1; at = strtok(NULL, " "))
		argv[argc++] = at;
	argv[argc] = NULL;
	return config_from_args(argc, argv, &err);
}

#define SIDES "--source host=a --target host=b "

static Config *
parse_run(const char *options)
{
	char line[2048];

	snprintf(line, sizeof(line), "run " SIDES "%s", options);
	return parse(line);
}

static void
assert_refused(Config *config, const char *text)
{
	char all[sizeof(Error)];

	ck_assert_ptr_null(config);
	ck_assert_int_eq((int)err.class, (int)ERROR_CONFIG);
	error_format(&err, all, sizeof(all));
	ck_assert_msg(strstr(all, text) != NULL, "\"%s\" does not contain \"%s\"", all, text);
}

START_TEST(listener_options)
{
	Config *c = parse_run("");

	ck_assert_uint_eq(c->listen.address_count, 0);
	ck_assert_int_eq((int)c->listen.tls, (int)LISTEN_TLS_OFF);
	ck_assert_int_eq(c->listen.max_clients, 5000);
	ck_assert_int_ge(c->listen.threads, 1);
	config_free(c);
	c = parse_run("--listen 0.0.0.0:6432 --listen /run/pg/.s.PGSQL.6432 --listen [::1]:1 "
	              "--listen-tls-cert a --listen-tls-key b --listen-trust ::1 "
	              "--listen-trust 10.0.0.0/8 --listen-threads 3 --auth-file users");
	ck_assert_msg(c != NULL, "%s", err.message);
	ck_assert_uint_eq(c->listen.address_count, 3);
	ck_assert_str_eq(c->listen.addresses[0].host, "0.0.0.0");
	ck_assert_int_eq(c->listen.addresses[0].port, 6432);
	ck_assert_str_eq(c->listen.addresses[1].path, "/run/pg/.s.PGSQL.6432");
	ck_assert_str_eq(c->listen.addresses[2].host, "::1");
	/* A certificate means that TLS is offered, an authority that it is demanded. */
	ck_assert_int_eq((int)c->listen.tls, (int)LISTEN_TLS_ALLOW);
	ck_assert_uint_eq(c->listen.trust_count, 2);
	ck_assert_int_eq(c->listen.threads, 3);
	ck_assert_str_eq(c->listen.auth_file, "users");
	ck_assert_ptr_eq(c->listen.source, c->source);
	config_free(c);
	c = parse_run("--listen-tls-cert a --listen-tls-key b --listen-tls-ca c");
	ck_assert_int_eq((int)c->listen.tls, (int)LISTEN_TLS_REQUIRE);
	config_free(c);
}
END_TEST

START_TEST(defaults)
{
	Config *c = parse_run("");

	ck_assert_msg(c != NULL, "%s", err.message);
	ck_assert_str_eq(c->name, "pgbaton");
	ck_assert_str_eq(c->state_dir, "./pgbaton.state");
	ck_assert_int_eq((int)c->mode, (int)MODE_ONLINE);
	ck_assert(c->schema_copy);
	ck_assert_str_eq(c->admin_host, "127.0.0.1");
	ck_assert_int_eq(c->admin_port, 7430);
	ck_assert(!c->admin_given);
	ck_assert_int_eq(c->jobs, 4);
	ck_assert_int_eq(c->lanes, 0);
	ck_assert(!c->cutover_auto && !c->log_compress && !c->no_owner && !c->log_json);
	ck_assert_int_eq((int)c->confirm, (int)CONFIRM_LOGGED);
	ck_assert_str_eq(c->replica_identity, "full");
	ck_assert_int_eq((int)c->verify, (int)VERIFY_OFF);
	ck_assert_int_eq((int)c->hold_timeout_ms, 2000);
	ck_assert_int_eq((int)c->slot_timeout_ms, 60000);
	ck_assert_uint_eq(c->log_max_bytes, 0);
	ck_assert_str_eq(conninfo_get(c->source, "host"), "a");
	ck_assert_str_eq(conninfo_get(c->target, "host"), "b");
	config_free(c);
}
END_TEST

START_TEST(all_options)
{
	Config *c = parse_run(
		"--name move_2 --mode online --schema none --state-dir /x --admin [::1]:0 --jobs 64 "
		"--lanes=8 --include-table a.* --include-table b --exclude-table c --cutover auto "
		"--confirm applied --log-max-bytes 64MB --log-compress --replica-identity insert-only "
		"--sequence-margin 32 --verify=checksums --hold-timeout 0.25 --slot-timeout 5 "
		"--unmovable close --no-owner --large-objects skip --log-format json --log-level warning "
		"--copy-rate 50MB --max-source-lag 1.5");

	ck_assert_msg(c != NULL, "%s", err.message);
	ck_assert_str_eq(c->name, "move_2");
	ck_assert_str_eq(c->state_dir, "/x");
	ck_assert(!c->schema_copy);
	ck_assert_str_eq(c->admin_host, "::1");
	ck_assert_int_eq(c->admin_port, 0);
	ck_assert(c->admin_given);
	ck_assert_int_eq(c->jobs, 64);
	ck_assert_uint_eq(c->copy_rate, 50000000);
	ck_assert_int_eq((int)c->max_source_lag.ms, 1500);
	ck_assert_uint_eq(c->max_source_lag.bytes, 0);
	ck_assert_int_eq(c->lanes, 8);
	ck_assert_uint_eq(c->selection.lists[INCLUDE_TABLE].count, 2);
	ck_assert_str_eq(c->selection.lists[INCLUDE_TABLE].items[0], "a.*");
	ck_assert_str_eq(c->selection.lists[INCLUDE_TABLE].items[1], "b");
	ck_assert_uint_eq(c->selection.lists[EXCLUDE_TABLE].count, 1);
	ck_assert_str_eq(c->selection.lists[EXCLUDE_TABLE].items[0], "c");
	ck_assert_int_eq((int)c->selection.large_objects, (int)LARGE_OBJECTS_SKIP);
	ck_assert(c->cutover_auto && c->log_compress && c->no_owner && c->log_json);
	ck_assert_int_eq((int)c->confirm, (int)CONFIRM_APPLIED);
	ck_assert_uint_eq(c->log_max_bytes, 64000000);
	ck_assert_str_eq(c->replica_identity, "insert-only");
	ck_assert_int_eq((int)c->sequence_margin, 32);
	ck_assert_int_eq((int)c->verify, (int)VERIFY_ON);
	ck_assert_int_eq((int)c->verify_kind, (int)VERIFY_CHECKSUMS);
	ck_assert_int_eq((int)c->hold_timeout_ms, 250);
	ck_assert_int_eq((int)c->slot_timeout_ms, 5000);
	ck_assert_int_eq((int)c->unmovable, (int)UNMOVABLE_CLOSE);
	ck_assert_int_eq((int)c->log_level, (int)LOG_WARNING);
	config_free(c);
}
END_TEST

typedef struct {
	const char *options;
	const char *text;
} Wrong;

static const Wrong wrong[] = {
	{"--name 1a", "--name"},
	{"--name Pg", "--name"},
	{"--name a-b", "--name"},
	{"--name a23456789012345678901234567890123456789012", "--name"},
	{"--mode fast", "--mode: \"fast\" is not one of: online, offline"},
	{"--schema maybe", "--schema"},
	{"--state-dir=", "--state-dir"},
	{"--admin 127.0.0.1", "HOST:PORT"},
	{"--admin :7430", "HOST:PORT"},
	{"--admin ::1:7430", "HOST:PORT"},
	{"--admin [::1]7430", "HOST:PORT"},
	{"--admin localhost:65536", "65535"},
	{"--admin localhost:-1", "65535"},
	{"--admin localhost:", "whole number"},
	{"--jobs 0", "between 1 and 64"},
	{"--jobs 65", "between 1 and 64"},
	{"--jobs 4x", "whole number"},
	{"--jobs 99999999999999999999", "between"},
	{"--lanes 9", "between 1 and 8"},
	{"--include-table=", "--include-table"},
	{"--cutover soon", "--cutover"},
	{"--confirm never", "--confirm"},
	{"--log-max-bytes 12XB", "size"},
	{"--log-max-bytes 1e9", "size"},
	{"--log-max-bytes -1", "size"},
	{"--log-max-bytes 1.2.3MB", "size"},
	{"--log-max-bytes 10kB", "1MB"},
	{"--log-max-bytes 99999999TB", "large"},
	{"--replica-identity nothing", "--replica-identity"},
	{"--large-objects all", "--large-objects"},
	{"--sequence-margin -1", "--sequence-margin"},
	{"--verify=maybe", "--verify"},
	{"--hold-timeout 0", "between"},
	{"--hold-timeout nan", "seconds"},
	{"--hold-timeout 1e3", "seconds"},
	{"--slot-timeout 0.01", "between"},
	{"--copy-rate fast", "--copy-rate"},
	{"--max-source-lag 10MX", "--max-source-lag"},
	{"--max-source-lag 2d", "--max-source-lag"},
	{"--max-source-lag xB", "--max-source-lag"},
	{"--log-format xml", "--log-format"},
	{"--log-level loud", "--log-level"},
	{"--jobs", "needs a value"},
	{"--log-compress=yes", "takes no value"},
	{"--lane 4 --jbos 3", "did you mean --jobs?"},
	{"--json", "does not belong"},
	{"--for following", "does not belong"},
	{"-x", "unknown option -x"},
	{"extra", "unexpected argument \"extra\""},
	{"--listen :5432", "is not HOST:PORT"},
	{"--listen 1.2.3.4", "is not HOST:PORT"},
	{"--listen-tls maybe", "off, allow, require"},
	{"--listen-tls require", "--listen-tls-cert"},
	{"--listen-tls-cert a", "go together"},
	{"--listen-tls-key a", "go together"},
	{"--listen-tls allow --listen-tls-cert a --listen-tls-key b --listen-tls-ca c", "require"},
	{"--listen-trust 10.0.0.0/33", "CIDR"},
	{"--listen-trust host", "CIDR"},
	{"--listen-max-clients 0", "between"},
	{"--listen-threads 65", "between"},
	{"--mode offline --cutover auto", "no meaning"},
	{"--admin 0.0.0.0:7430", "--admin-token-file"},
	{"--admin db.example:7430", "--admin-token-file"},
	{"--config /nonexistent/file", "cannot open"},
};

START_TEST(wrong_options)
{
	assert_refused(parse_run(wrong[_i].options), wrong[_i].text);
}
END_TEST

START_TEST(sizes)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {
		{"0", 0},
		{"1000000", 1000000},
		{"64MB", 64000000},
		{"64mb", 64000000},
		{"1.5GB", 1500000000},
		{"10 GiB", UINT64_C(10) << 30},
		{"2TiB", UINT64_C(2) << 40},
		{"3TB", UINT64_C(3000000000000)},
		{"2048KiB", 2048 * 1024},
	};

	for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
		uint64_t bytes = 1;
		ck_assert_msg(value_size("s", good[i].text, &bytes, &err), "%s", good[i].text);
		ck_assert_uint_eq(bytes, good[i].bytes);
	}
}
END_TEST

START_TEST(verify_forms)
{
	Config *c = parse_run("--verify");

	ck_assert_ptr_nonnull(c);
	ck_assert_int_eq((int)c->verify, (int)VERIFY_ON);
	ck_assert_int_eq((int)c->verify_kind, (int)VERIFY_COUNTS);
	config_free(c);
	c = parse_run("--verify=counts");
	ck_assert_ptr_nonnull(c);
	ck_assert_int_eq((int)c->verify, (int)VERIFY_ON);
	config_free(c);
}
END_TEST

START_TEST(help_is_no_error)
{
	ck_assert_ptr_null(parse("run --help"));
	ck_assert_int_eq((int)err.class, (int)ERROR_NONE);
	ck_assert_ptr_null(parse("run --jobs 99 --help"));
	ck_assert_int_eq((int)err.class, (int)ERROR_NONE);
}
END_TEST

START_TEST(both_sides)
{
	assert_refused(parse("run --target host=b"), "PGBATON_SOURCE");
	assert_refused(parse("run --source host=a"), "PGBATON_TARGET");
	assert_refused(parse("check"), "PGBATON_SOURCE");
	assert_refused(parse("cancel --source host=a"), "PGBATON_TARGET");
	Config *c = parse("cancel");
	ck_assert_msg(c != NULL && c->source == NULL, "%s", err.message);
	config_free(c);
	c = parse("cancel " SIDES);
	ck_assert_msg(c != NULL && c->source != NULL, "%s", err.message);
	config_free(c);
}
END_TEST

START_TEST(environment)
{
	setenv("PGBATON_SOURCE", "host=env_a", 1);
	setenv("PGBATON_TARGET", "host=env_b", 1);
	setenv("PGBATON_ADMIN", "localhost:81", 1);
	Config *c = parse("run --target host=cmd_b");
	ck_assert_msg(c != NULL, "%s", err.message);
	ck_assert_str_eq(conninfo_get(c->source, "host"), "env_a");
	ck_assert_str_eq(conninfo_get(c->target, "host"), "cmd_b");
	ck_assert_int_eq(c->admin_port, 81);
	ck_assert(c->admin_given);
	config_free(c);
	c = parse("add-table shop.* --no-wait");
	ck_assert_msg(c != NULL, "%s", err.message);
	ck_assert_str_eq(c->pattern, "shop.*");
	ck_assert(c->detach);
	config_free(c);
	assert_refused(parse("add-table"), "a table is missing");
	assert_refused(parse("recopy a b"), "unexpected argument \"b\"");
	assert_refused(parse("pause a"), "unexpected argument \"a\"");
	/* A command that needs no databases does not stumble over them. */
	setenv("PGBATON_SOURCE", "not=a=connection", 1);
	c = parse("status");
	ck_assert_msg(c != NULL && c->source == NULL, "%s", err.message);
	config_free(c);
	setenv("PGBATON_ADMIN", "nonsense", 1);
	assert_refused(parse("status"), "PGBATON_ADMIN");
}
END_TEST

START_TEST(filters_of_pgcopydb)
{
	char line[256];

	write_file("; pgcopydb's own example, nearly\n"
	           "[include-only-schema]\n"
	           "shop\n"
	           "[exclude-table]\n"
	           "\"schema\".\"na:me = x\"\n"
	           "  schema.othername = not used\n"
	           "\n"
	           "[exclude-index]\n"
	           "schema.indexname\n"
	           "[exclude-table-data]\n"
	           "public.bar ; twice\n"
	           "nsitra.test1",
	           0600);
	snprintf(line, sizeof(line),
	         "run --source host=a --target host=b --filters %s "
	         "--exclude-table more",
	         file);
	Config *c = parse(line);
	ck_assert_msg(c != NULL, "%s: %s", err.context, err.message);
	const PatternList *lists = c->selection.lists;
	ck_assert_uint_eq(lists[INCLUDE_SCHEMA].count, 1);
	ck_assert_str_eq(lists[INCLUDE_SCHEMA].items[0], "shop");
	ck_assert_uint_eq(lists[EXCLUDE_TABLE].count, 3);
	ck_assert_str_eq(lists[EXCLUDE_TABLE].items[0], "more");
	ck_assert_str_eq(lists[EXCLUDE_TABLE].items[1], "\"schema\".\"na:me = x\"");
	ck_assert_str_eq(lists[EXCLUDE_TABLE].items[2], "schema.othername");
	ck_assert_str_eq(lists[EXCLUDE_INDEX].items[0], "schema.indexname");
	ck_assert_uint_eq(lists[EXCLUDE_DATA].count, 2);
	ck_assert_str_eq(lists[EXCLUDE_DATA].items[0], "public.bar");
	ck_assert_str_eq(lists[EXCLUDE_DATA].items[1], "nsitra.test1");
	ck_assert_uint_eq(lists[INCLUDE_TABLE].count + lists[EXCLUDE_SCHEMA].count, 0);
	config_free(c);
}
END_TEST

START_TEST(wrong_filters_are_refused)
{
	static const struct {
		const char *text;
		const char *needle;
	} files[] = {
		{"[exclude-tables]\na\n", "[exclude-tables]"},
		{"a\n[exclude-table]\n", "unknown section []"},
		{"[exclude-table\n", "line 1"},
		{"[include-only-table]\na\n[exclude-schema]\nb\n", "exclude each other"},
	};
	char line[256];

	snprintf(line, sizeof(line), "run --source host=a --target host=b --filters %s", file);
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		write_file(files[i].text, 0600);
		assert_refused(parse(line), files[i].needle);
	}
	unlink(file);
	assert_refused(parse(line), file);
	assert_refused(parse_run("--include-table a --include-schema b"), "--include-schema");
}
END_TEST

START_TEST(file_and_precedence)
{
	char line[256];

	write_file("# comment\n"
	           "jobs = 7\n"
	           "  lanes = 2\n"
	           "[pgbaton]\n"
	           "source = host=file_a password=secret\n"
	           "target = host=file_b\n"
	           "include-table = a\n"
	           "include-table = b\n"
	           "log-compress = yes\n"
	           "no-owner = false\n"
	           "verify = checksums\n",
	           0600);
	setenv("PGBATON_TARGET", "host=env_b", 1);
	snprintf(line, sizeof(line), "run --config %s --lanes 3", file);
	Config *c = parse(line);
	ck_assert_msg(c != NULL, "%s: %s", err.context, err.message);
	ck_assert_int_eq(c->jobs, 7);
	ck_assert_int_eq(c->lanes, 3);
	ck_assert_str_eq(conninfo_get(c->source, "host"), "file_a");
	ck_assert_str_eq(conninfo_get(c->target, "host"), "env_b");
	ck_assert_uint_eq(c->selection.lists[INCLUDE_TABLE].count, 2);
	ck_assert(c->log_compress && !c->no_owner);
	ck_assert_int_eq((int)c->verify_kind, (int)VERIFY_CHECKSUMS);
	config_free(c);

	snprintf(line, sizeof(line), "run --config %s --include-table only", file);
	c = parse(line);
	ck_assert_ptr_nonnull(c);
	ck_assert_uint_eq(c->selection.lists[INCLUDE_TABLE].count, 1);
	ck_assert_str_eq(c->selection.lists[INCLUDE_TABLE].items[0], "only");
	config_free(c);

	/* The same file serves every command. */
	snprintf(line, sizeof(line), "status --config %s", file);
	c = parse(line);
	ck_assert_msg(c != NULL, "%s", err.message);
	config_free(c);
}
END_TEST

static const Wrong wrong_files[] = {
	{"jbos = 3\n", "unknown key \"jbos\"; did you mean \"jobs\"?"},
	{"a = 1\n", "line 1"},
	{"jobs = 3\n\njobs = many\n", "line 3"},
	{"jobs\n", "line 1: neither"},
	{"jobs =\n", "has no value"},
	{"[other]\njobs = 3\n", "unknown section [other]"},
	{"json = true\n", "unknown key"},
	{"log-compress = perhaps\n", "neither true nor false"},
	{"listen = :5432\n", "is not HOST:PORT"},
};

START_TEST(wrong_file)
{
	char line[256];

	write_file(wrong_files[_i].options, 0600);
	snprintf(line, sizeof(line), "run --config %s " SIDES, file);
	assert_refused(parse(line), wrong_files[_i].text);
}
END_TEST

/* inih would cut a long line in two and take the rest for another key. */
START_TEST(long_line_in_file)
{
	char text[1024], line[256];

	snprintf(text, sizeof(text), "source = host=a dbname=%0600d\ntarget = host=b\n", 0);
	write_file(text, 0600);
	snprintf(line, sizeof(line), "run --config %s", file);
	Config *c = parse(line);
	if (c != NULL) {
		ck_assert_uint_eq(strlen(conninfo_get(c->source, "dbname")), 600);
		config_free(c);
	} else {
		assert_refused(c, "longer than");
	}
}
END_TEST

START_TEST(token_file)
{
	char line[256];

	snprintf(line, sizeof(line), "--admin 0.0.0.0:7430 --admin-token-file %s", file);
	assert_refused(parse_run(line), "cannot open");
	write_file("0123456789abcdef0123\n", 0644);
	assert_refused(parse_run(line), "chmod 600");
	write_file("0123456789abcdef0123\n", 0640);
	assert_refused(parse_run(line), "only its owner");
	write_file("short\n", 0600);
	assert_refused(parse_run(line), "5 characters");
	write_file("0123456789 abcdef0123\n", 0600);
	assert_refused(parse_run(line), "printable");
	ck_assert_ptr_null(strstr(err.message, "abcdef"));
	write_file("", 0600);
	assert_refused(parse_run(line), "0 characters");
	write_file("  0123456789abcdef0123\r\n", 0600);
	Config *c = parse_run(line);
	ck_assert_msg(c != NULL, "%s", err.message);
	config_free(c);
	char *token = config_read_token(file, &err);
	ck_assert_ptr_nonnull(token);
	ck_assert_str_eq(token, "0123456789abcdef0123");
	mem_wipe_free_cstr(token);
}
END_TEST

START_TEST(loopback)
{
	ck_assert(config_is_loopback("localhost"));
	ck_assert(config_is_loopback("127.0.0.1"));
	ck_assert(config_is_loopback("127.9.9.9"));
	ck_assert(config_is_loopback("::1"));
	ck_assert(!config_is_loopback("0.0.0.0"));
	ck_assert(!config_is_loopback("::"));
	ck_assert(!config_is_loopback("127.0.0.1.example"));
	ck_assert(!config_is_loopback("localhost.example"));
	ck_assert(!config_is_loopback("10.0.0.1"));
}
END_TEST

static const Wrong masks[] = {
	{"postgres://joe:s3cret@h:5432/db", "postgres://joe:xxxxxx@h:5432/db"},
	{"postgresql://joe:s3%63ret@h/db", "postgresql://joe:xxxxxxxx@h/db"},
	{"postgresql://:s3cret@h/db", "postgresql://:xxxxxx@h/db"},
	{"postgresql://joe@h/db", "postgresql://joe@h/db"},
	{"postgresql://h/db?user=joe&password=s3cret&sslmode=require",
     "postgresql://h/db?user=joe&password=xxxxxx&sslmode=require"},
	{"postgresql://h/db?p%61ssword=s3cret", "postgresql://h/db?p%61ssword=xxxxxx"},
	{"postgresql://h/db?sslpassword=s3cret", "postgresql://h/db?sslpassword=xxxxxx"},
	{"postgresql://joe:s3@cret@h/db", "postgresql://joe:xxxxxxx@h/db"},
	{"host=h password=s3cret user=joe", "host=h password=xxxxxx user=joe"},
	{"host=h password = 's3 \\' cret' user=joe", "host=h password = 'xxxxxxxxxx' user=joe"},
	{"password=s3\\ cret user=joe", "password=xxxxxxxx user=joe"},
	{"host = h  password='s3cret", "host = h  password='xxxxxx"},
	{"host=h user=joe", "host=h user=joe"},
	{"service=x", "service=x"},
	{"", ""},
};

START_TEST(password_masks)
{
	char text[128];

	snprintf(text, sizeof(text), "%s", masks[_i].options);
	config_mask_password(text);
	ck_assert_str_eq(text, masks[_i].text);
}
END_TEST

START_TEST(argv_keeps_no_password)
{
	char a[] = "--source=postgres://u:s3cret@h/db", b[] = "--target";
	char c[] = "host=h password=s3cret", run[] = "run";
	char *argv[] = {run, a, b, c, NULL};
	Config *config = config_from_args(4, argv, &err);

	ck_assert_msg(config != NULL, "%s", err.message);
	ck_assert_str_eq(conninfo_get(config->source, "password"), "s3cret");
	ck_assert_str_eq(conninfo_get(config->target, "password"), "s3cret");
	ck_assert_str_eq(a, "--source=postgres://u:xxxxxx@h/db");
	ck_assert_str_eq(c, "host=h password=xxxxxx");
	config_free(config);
}
END_TEST

/* Wherever the string ends up by mistake, the message does not repeat it. */
START_TEST(messages_keep_no_password)
{
	static const char *const lines[] = {
		"run postgres://u:s3cret@h/db",
		"run --sorce=postgres://u:s3cret@h/db",
		"run --source postgres://u:s3cret@h:bad:port/db?x=y --target host=b",
		"run --source password=s3cret=host --target nonsense=s3cret",
	};
	char all[sizeof(Error)];

	for (size_t i = 0; i < sizeof(lines) / sizeof(*lines); i++) {
		ck_assert_ptr_null(parse(lines[i]));
		ck_assert_int_eq((int)err.class, (int)ERROR_CONFIG);
		error_format(&err, all, sizeof(all));
		ck_assert_msg(strstr(all, "s3cret") == NULL, "%s", all);
	}
}
END_TEST

START_TEST(nearest_names)
{
	static const char *const names[] = {"status", "run", "cutover", "wait"};

	ck_assert_str_eq(config_nearest("staus", names, 4), "status");
	ck_assert_str_eq(config_nearest("cutovre", names, 4), "cutover");
	ck_assert_str_eq(config_nearest("wiat", names, 4), "wait");
	ck_assert_ptr_null(config_nearest("something", names, 4));
	ck_assert_ptr_null(config_nearest("", names, 4));
}
END_TEST

static Suite *
config_suite(void)
{
	Suite *suite = suite_create("config");
	TCase *tests = tcase_create("config");

	tcase_add_checked_fixture(tests, setup, teardown);
	tcase_add_test(tests, defaults);
	tcase_add_test(tests, listener_options);
	tcase_add_test(tests, all_options);
	tcase_add_loop_test(tests, wrong_options, 0, (int)(sizeof(wrong) / sizeof(*wrong)));
	tcase_add_test(tests, sizes);
	tcase_add_test(tests, verify_forms);
	tcase_add_test(tests, help_is_no_error);
	tcase_add_test(tests, both_sides);
	tcase_add_test(tests, environment);
	tcase_add_test(tests, file_and_precedence);
	tcase_add_test(tests, filters_of_pgcopydb);
	tcase_add_test(tests, wrong_filters_are_refused);
	tcase_add_loop_test(tests, wrong_file, 0, (int)(sizeof(wrong_files) / sizeof(*wrong_files)));
	tcase_add_test(tests, long_line_in_file);
	tcase_add_test(tests, token_file);
	tcase_add_test(tests, loopback);
	tcase_add_loop_test(tests, password_masks, 0, (int)(sizeof(masks) / sizeof(*masks)));
	tcase_add_test(tests, argv_keeps_no_password);
	tcase_add_test(tests, messages_keep_no_password);
	tcase_add_test(tests, nearest_names);
	suite_add_tcase(suite, tests);
	return suite;
}

TEST_SUITE(config_suite)
