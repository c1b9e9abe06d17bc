/* common/log.c: one event is one line, and a line of JSON is JSON. */
#include <jansson.h>
#include <pthread.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"
#include "common/memory.h"
#include "tests/unit/runner.h"

/* What goes to stderr between capture and captured lands in a file. */
typedef struct {
	FILE *file;
	int stderr_fd;
} Capture;

static Capture
capture(void)
{
	Capture c = {.file = tmpfile(), .stderr_fd = dup(STDERR_FILENO)};

	ck_assert_ptr_nonnull(c.file);
	dup2(fileno(c.file), STDERR_FILENO);
	return c;
}

static char *
captured(Capture *c)
{
	char *text = mem_zalloc(1024 * 1024);

	dup2(c->stderr_fd, STDERR_FILENO);
	close(c->stderr_fd);
	rewind(c->file);
	size_t len = fread(text, 1, 1024 * 1024 - 1, c->file);
	text[len] = '\0';
	fclose(c->file);
	return text;
}

static size_t
count_lines(const char *text)
{
	size_t lines = 0;

	for (; *text != '\0'; text++)
		lines += *text == '\n';
	return lines;
}

/* The message of the only line, which must be valid JSON; the caller frees. */
static char *
json_message(const char *line)
{
	json_error_t why;
	json_t *event = json_loads(line, 0, &why);

	ck_assert_msg(event != NULL, "%s: %s", why.text, line);
	ck_assert_uint_eq(json_object_size(event), 4);
	ck_assert_ptr_nonnull(json_object_get(event, "time"));
	ck_assert_str_eq(json_string_value(json_object_get(event, "level")), "warning");
	ck_assert_str_eq(json_string_value(json_object_get(event, "component")), "test");
	char *message = mem_strdup(json_string_value(json_object_get(event, "message")));
	json_decref(event);
	return message;
}

static char *
log_as_json(const char *text)
{
	Capture c = capture();

	log_set_json(true);
	log_warning("test", "%s", text);
	log_set_json(false);
	char *line = captured(&c);
	ck_assert_uint_eq(count_lines(line), 1);
	char *message = json_message(line);
	free(line);
	return message;
}

START_TEST(text_line)
{
	regex_t form;
	Capture c = capture();

	log_info("receiver", "streaming from %s", "0/1A2B3C8");
	char *line = captured(&c);
	ck_assert_int_eq(regcomp(&form,
	                         "^20[0-9]{2}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{3}Z "
	                         "info    receiver  streaming from 0/1A2B3C8\n$",
	                         REG_EXTENDED | REG_NOSUB),
	                 0);
	ck_assert_msg(regexec(&form, line, 0, NULL, 0) == 0, "%s", line);
	regfree(&form);
	free(line);
}
END_TEST

START_TEST(control_characters_do_not_make_lines)
{
	Capture c = capture();

	log_info("test", "one\ntwo\rthree\tfour\x1b[31m\x7f"
	                 "end");
	char *line = captured(&c);
	ck_assert_uint_eq(count_lines(line), 1);
	ck_assert_ptr_nonnull(strstr(line, "one\\ntwo\\x0dthree\\x09four\\x1b[31m\\x7fend\n"));
	free(line);
}
END_TEST

START_TEST(json_holds_every_byte)
{
	char all[256];

	for (int i = 0; i < 127; i++)
		all[i] = (char)(i + 1);
	all[127] = '\0';
	char *message = log_as_json(all);
	ck_assert_str_eq(message, all); /* ASCII comes back as it was */
	free(message);

	message = log_as_json("table \"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\"");
	ck_assert_str_eq(message, "table \"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\"");
	free(message);

	/* A server's LATIN1 text is not UTF-8; the line stays JSON all the same. */
	message = log_as_json("caf\xe9 \xff\xc0\x80 end");
	ck_assert_str_eq(message, "caf\xef\xbf\xbd \xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd end");
	free(message);
}
END_TEST

START_TEST(long_messages_are_cut_at_a_character)
{
	char *text = mem_zalloc(20001);

	for (size_t shift = 0; shift < 3; shift++) {
		memset(text, 'x', shift);
		for (size_t i = shift; i + 3 < 20000; i += 3)
			memcpy(text + i, "\xe2\x82\xac", 3);
		char *message = log_as_json(text);
		ck_assert_uint_ge(strlen(message), 4092);
		ck_assert_ptr_null(strstr(message, "\xef\xbf\xbd"));
		free(message);
	}
	free(text);
}
END_TEST

START_TEST(levels)
{
	LogLevel level = LOG_ERROR;
	Capture c = capture();

	log_debug("test", "not shown");
	log_set_level(LOG_WARNING);
	log_info("test", "not shown");
	log_warning("test", "shown 1");
	log_error("test", "shown 2");
	log_set_level(LOG_DEBUG);
	log_debug("test", "shown 3");
	log_set_level(LOG_INFO);
	char *lines = captured(&c);
	ck_assert_uint_eq(count_lines(lines), 3);
	ck_assert_ptr_null(strstr(lines, "not shown"));
	free(lines);

	ck_assert(log_level_parse("debug", &level));
	ck_assert_int_eq(level, LOG_DEBUG);
	ck_assert(log_level_parse("warning", &level));
	ck_assert_int_eq(level, LOG_WARNING);
	ck_assert(!log_level_parse("loud", &level));
	ck_assert(!log_level_parse("", &level));
	ck_assert(!log_level_parse("Debug", &level));
}
END_TEST

START_TEST(an_error_is_one_event)
{
	Error err = ERROR_INIT;
	Capture c = capture();

	error_set(&err, ERROR_SQL, "first\nsecond");
	error_set_sqlstate(&err, "23505");
	error_add_context(&err, "lane 1");
	log_failure(LOG_ERROR, "apply", &err);
	char *line = captured(&c);
	ck_assert_ptr_nonnull(
		strstr(line, "error   apply     lane 1: first\\nsecond (SQLSTATE 23505)\n"));
	free(line);
}
END_TEST

static void *
log_much(void *arg)
{
	for (int i = 0; i < 500; i++)
		log_warning("test", "%s %d", (const char *)arg, i);
	return NULL;
}

START_TEST(lines_of_threads_do_not_mix)
{
	pthread_t threads[4];
	char names[4][200];
	Capture c = capture();

	log_set_json(true);
	for (int i = 0; i < 4; i++) {
		memset(names[i], 'a' + i, sizeof(names[i]) - 1);
		names[i][sizeof(names[i]) - 1] = '\0';
		pthread_create(&threads[i], NULL, log_much, names[i]);
	}
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	log_set_json(false);
	char *lines = captured(&c);
	size_t count = 0;
	char *state = NULL;
	for (char *line = strtok_r(lines, "\n", &state); line != NULL;
	     line = strtok_r(NULL, "\n", &state)) {
		char *message = json_message(line);
		/* 199 times the same letter, and a number. */
		ck_assert_uint_eq(strspn(message, (char[]){message[0], '\0'}), 199);
		free(message);
		count++;
	}
	ck_assert_uint_eq(count, 2000);
	free(lines);
}
END_TEST

static Suite *
make_log(void)
{
	Suite *suite = suite_create("log");
	TCase *tcase = tcase_create("log");

	tcase_add_test(tcase, text_line);
	tcase_add_test(tcase, control_characters_do_not_make_lines);
	tcase_add_test(tcase, json_holds_every_byte);
	tcase_add_test(tcase, long_messages_are_cut_at_a_character);
	tcase_add_test(tcase, levels);
	tcase_add_test(tcase, an_error_is_one_event);
	tcase_add_test(tcase, lines_of_threads_do_not_mix);
	suite_add_tcase(suite, tcase);
	return suite;
}
TEST_SUITE(make_log)
