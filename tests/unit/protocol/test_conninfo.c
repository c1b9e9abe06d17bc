#include <libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/memory.h"
#include "protocol/conninfo.h"
#include "tests/unit/runner.h"

static char dir[] = "/tmp/pgbaton-conninfo-XXXXXX";

/* A home without files and an environment without PG*: each test runs in a
 * process of its own and sets what it needs. */
static void
setup(void)
{
	extern char **environ;

	for (char **at = environ; *at != NULL;) {
		char *name = strndup(*at, strcspn(*at, "="));
		bool drop = strncmp(name, "PG", 2) == 0;
		if (drop)
			unsetenv(name);
		free(name);
		at = drop ? environ : at + 1;
	}
	strcpy(dir + strlen(dir) - 6, "XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	setenv("HOME", dir, 1);
	setenv("USER", "nobody", 1);
}

static void
teardown(void)
{
	char *command = mem_printf("rm -rf %s", dir);
	ck_assert_int_eq(system(command), 0);
	free(command);
}

static char *
put_file(const char *name, const char *text, mode_t mode)
{
	char *path = mem_printf("%s/%s", dir, name);
	FILE *file = fopen(path, "w");

	ck_assert_ptr_nonnull(file);
	fputs(text, file);
	fclose(file);
	ck_assert_int_eq(chmod(path, mode), 0);
	return path;
}

static ConnInfo *
parse(const char *text)
{
	Error err = ERROR_INIT;
	ConnInfo *info = conninfo_parse(text, &err);
	ck_assert_msg(info != NULL, "%s: %s", text, err.message);
	return info;
}

static void
assert_value(const char *text, const char *keyword, const char *wanted)
{
	ConnInfo *info = parse(text);
	const char *value = conninfo_get(info, keyword);

	if (wanted == NULL)
		ck_assert_ptr_null(value);
	else
		ck_assert_str_eq(value != NULL ? value : "(none)", wanted);
	conninfo_free(info);
}

START_TEST(defaults)
{
	ConnInfo *info = parse("user=joe");

	ck_assert_str_eq(conninfo_get(info, "user"), "joe");
	ck_assert_str_eq(conninfo_get(info, "dbname"), "joe");
	ck_assert_str_eq(conninfo_get(info, "sslmode"), "prefer");
	ck_assert_str_eq(conninfo_get(info, "channel_binding"), "prefer");
	ck_assert_uint_eq(conninfo_host_count(info), 1);
	ConnHost host = conninfo_host(info, 0);
	ck_assert_int_eq(host.host[0], '/');
	ck_assert_str_eq(host.port, "5432");
	ck_assert_ptr_null(host.hostaddr);
	ck_assert_ptr_null(host.password);
	conninfo_free(info);
}
END_TEST

START_TEST(environment)
{
	setenv("PGHOST", "envhost", 1);
	setenv("PGPORT", "1234", 1);
	setenv("PGDATABASE", "envdb", 1);
	setenv("PGUSER", "envuser", 1);
	setenv("PGPASSWORD", "envsecret", 1);
	setenv("PGSSLMODE", "require", 1);
	setenv("PGCHANNELBINDING", "disable", 1);
	setenv("PGOPTIONS", "-c a=b", 1);
	setenv("PGREQUIREAUTH", "md5", 1);
	setenv("PGSSLNEGOTIATION", "direct", 1);
	ConnInfo *info = parse("");
	ck_assert_str_eq(conninfo_display(info), "envhost:1234/envdb as envuser");
	ck_assert_str_eq(conninfo_host(info, 0).password, "envsecret");
	ck_assert_str_eq(conninfo_get(info, "sslmode"), "require");
	ck_assert_str_eq(conninfo_get(info, "channel_binding"), "disable");
	ck_assert_str_eq(conninfo_get(info, "options"), "-c a=b");
	ck_assert_str_eq(conninfo_get(info, "require_auth"), "md5");
	ck_assert_str_eq(conninfo_get(info, "sslnegotiation"), "direct");
	conninfo_free(info);
	/* The string wins. */
	info = parse("postgresql://u@h:1/d?channel_binding=require&require_auth=none");
	ck_assert_str_eq(conninfo_display(info), "h:1/d as u");
	ck_assert_str_eq(conninfo_get(info, "channel_binding"), "require");
	ck_assert_str_eq(conninfo_get(info, "require_auth"), "none");
	conninfo_free(info);
	/* An empty host in the string is the default one, not the environment's. */
	info = parse("host=''");
	ck_assert_int_eq(conninfo_host(info, 0).host[0], '/');
	conninfo_free(info);
}
END_TEST

START_TEST(service_file)
{
	char *path = put_file("services",
	                      "[one]\nhost=svc1,svc2\nport=7\nuser=svcuser\n"
	                      "dbname=svcdb\npassword=svcsecret\nsslmode=disable\n"
	                      "channel_binding=require\n",
	                      0600);
	Error err = ERROR_INIT;

	setenv("PGSERVICEFILE", path, 1);
	setenv("PGHOST", "envhost", 1);
	ConnInfo *info = parse("service=one dbname=mine");
	ck_assert_str_eq(conninfo_display(info), "svc1:7,svc2:7/mine as svcuser");
	ck_assert_str_eq(conninfo_host(info, 1).password, "svcsecret");
	ck_assert_str_eq(conninfo_get(info, "sslmode"), "disable");
	ck_assert_str_eq(conninfo_get(info, "channel_binding"), "require");
	const char **keywords, **values;
	conninfo_libpq_params(info, &keywords, &values);
	for (int i = 0; keywords[i] != NULL; i++)
		ck_assert_str_ne(keywords[i], "service");
	free(keywords);
	free(values);
	conninfo_free(info);

	setenv("PGSERVICE", "one", 1);
	assert_value("", "user", "svcuser");
	ck_assert_ptr_null(conninfo_parse("service=two", &err));
	ck_assert_int_eq(err.class, ERROR_CONFIG);
	ck_assert_ptr_nonnull(strstr(err.message, "two"));
	free(path);
}
END_TEST

START_TEST(password_file)
{
	char *path = put_file("pass",
	                      "# comment\nh1:*:db:u:one\nh2:5433:*:u:two\\:x\n"
	                      "localhost:*:*:*:local\n*:*:*:other:three\n",
	                      0600);

	setenv("PGPASSFILE", path, 1);
	ConnInfo *info = parse("host=h1,h2,h3 port=5432,5433,5434 dbname=db user=u");
	ck_assert_str_eq(conninfo_host(info, 0).password, "one");
	ck_assert_str_eq(conninfo_host(info, 1).password, "two:x");
	ck_assert_ptr_null(conninfo_host(info, 2).password);
	ck_assert_ptr_null(conninfo_get(info, "password"));
	/* Another user, other lines. */
	conninfo_set(info, "user", "other");
	ck_assert_str_eq(conninfo_host(info, 2).password, "three");
	ConnInfo *copy = conninfo_copy(info);
	ck_assert_str_eq(conninfo_host(copy, 2).password, "three");
	conninfo_set(info, "password", "explicit");
	ck_assert_str_eq(conninfo_host(info, 0).password, "explicit");
	ck_assert_str_eq(conninfo_host(copy, 0).password, "three");
	conninfo_free(copy);
	conninfo_free(info);

	/* The default socket directory stands as localhost in the file. */
	info = parse("user=x");
	ck_assert_str_eq(conninfo_host(info, 0).password, "local");
	conninfo_free(info);
	/* A file that others may read is not used. */
	ck_assert_int_eq(chmod(path, 0644), 0);
	info = parse("host=h1 dbname=db user=u");
	ck_assert_ptr_null(conninfo_host(info, 0).password);
	conninfo_free(info);
	free(path);
}
END_TEST

START_TEST(several_hosts)
{
	ConnInfo *info = parse("postgresql://u:p@a:1,b,[::1]:3/d?hostaddr=127.0.0.1,::2,::1");

	ck_assert_uint_eq(conninfo_host_count(info), 3);
	ck_assert_str_eq(conninfo_host(info, 0).hostaddr, "127.0.0.1");
	ck_assert_str_eq(conninfo_host(info, 1).host, "b");
	ck_assert_str_eq(conninfo_host(info, 1).port, "5432");
	ck_assert_str_eq(conninfo_display(info), "a:1,b:5432,[::1]:3/d as u");
	conninfo_free(info);

	info = parse("host=/tmp,@abstract,h port=6000 user=u dbname=d");
	ck_assert_str_eq(conninfo_display(info), "/tmp:6000,@abstract:6000,h:6000/d as u");
	conninfo_set(info, "host", "other");
	ck_assert_uint_eq(conninfo_host_count(info), 1);
	ck_assert_str_eq(conninfo_display(info), "other:6000/d as u");
	conninfo_set(info, "dbname", "d2");
	ck_assert_str_eq(conninfo_display(info), "other:6000/d2 as u");
	conninfo_free(info);

	Error err = ERROR_INIT;
	ck_assert_ptr_null(conninfo_parse("host=a,b,c port=1,2", &err));
	ck_assert_int_eq(err.class, ERROR_CONFIG);
}
END_TEST

START_TEST(new_keywords)
{
	assert_value("require_auth=scram-sha-256 user=u", "require_auth", "scram-sha-256");
	assert_value("user=u require_auth = 'a b\\'c' host=h", "require_auth", "a b'c");
	assert_value("user=u require_auth = 'a b\\'c' host=h", "host", "h");
	assert_value("postgresql://h/?sslnegotiation=direct&sslmode=require", "sslnegotiation",
	             "direct");
	assert_value("postgresql://h/?sslnegotiation=direct&sslmode=require", "sslmode", "require");
	assert_value("postgresql://h/?sslmode=require&require_auth=%21none", "require_auth", "!none");
	assert_value("postgresql://h/db?require_auth=md5", "dbname", "db");
	assert_value("  ", "require_auth", NULL);

	/* libpq is handed only what it knows. */
	ConnInfo *info = parse("host=h require_auth=md5 sslcertmode=disable user=u");
	const char **keywords, **values;
	conninfo_libpq_params(info, &keywords, &values);
	PGconn *conn;
	int count = 0;
	while (keywords[count] != NULL)
		count++;
	keywords = mem_realloc(keywords, ((size_t)count + 2) * sizeof(char *));
	values = mem_realloc(values, ((size_t)count + 2) * sizeof(char *));
	keywords[count] = "channel_binding";
	values[count] = "@none@";
	keywords[count + 1] = values[count + 1] = NULL;
	conn = PQconnectStartParams(keywords, values, 0);
	ck_assert_ptr_nonnull(strstr(PQerrorMessage(conn), "@none@"));
	ck_assert_str_eq(PQuser(conn), "u");
	PQfinish(conn);
	free(keywords);
	free(values);
	conninfo_free(info);
}
END_TEST

/* What is wrong is said, what was written is not. */
START_TEST(no_secret_in_errors)
{
	static const struct {
		const char *text;
		const char *word; /* in the message or hint */
	} cases[] = {
		{"password=a hunter2", "\"=\""},
		{"password='hunter2", "not closed"},
		{"passwrd=hunter2", "\"password\""},
		{"hunter2", "\"=\""},
		{"hunter2=x", "unknown"},
		{"postgresql://u:hunter2%zz@h/d", "percent"},
		{"postgresql://u:p@h/d?hunter2=1", "unknown"},
		{"postgresql://u:p@h/d?hunter2", "\"=\""},
		{"postgresql://u:p@[::1hunter2", "]"},
		{"postgresql://h/?sslmod=hunter2", "\"sslmode\""},
		{"require_auth='hunter2", "not closed"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		Error err = ERROR_INIT;
		char text[4096];
		ck_assert_msg(conninfo_parse(cases[i].text, &err) == NULL, "%s", cases[i].text);
		ck_assert_int_eq(err.class, ERROR_CONFIG);
		error_format(&err, text, sizeof(text));
		ck_assert_msg(strstr(text, "hunter2") == NULL, "%s", text);
		ck_assert_msg(strstr(text, cases[i].word) != NULL, "%s: %s", cases[i].text, text);
	}
	ConnInfo *info = parse("host=h user=u dbname=d password=hunter2");
	ck_assert_ptr_null(strstr(conninfo_display(info), "hunter2"));
	conninfo_free(info);
}
END_TEST

static Suite *
conninfo_suite(void)
{
	Suite *suite = suite_create("protocol/conninfo");
	TCase *tcase = tcase_create("conninfo");

	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_add_test(tcase, defaults);
	tcase_add_test(tcase, environment);
	tcase_add_test(tcase, service_file);
	tcase_add_test(tcase, password_file);
	tcase_add_test(tcase, several_hosts);
	tcase_add_test(tcase, new_keywords);
	tcase_add_test(tcase, no_secret_in_errors);
	suite_add_tcase(suite, tcase);
	return suite;
}
TEST_SUITE(conninfo_suite)
