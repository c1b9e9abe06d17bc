/* What a text mentions, found by its bytes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "protocol/message/mentions.h"
#include "tests/unit/runner.h"

/* The names with commas; "" for none. Shown from memory of exactly its size. */
static const char *
names_in(Mentions *m, const char *text, size_t len)
{
	static char out[2 * MENTIONS_NAMES_MAX];
	char *copy = malloc(len + (len == 0));

	memcpy(copy, text, len);
	*m = (Mentions){.names = BUFFER_INIT};
	mentions_scan(m, slice_of(copy, len));
	free(copy);
	out[0] = '\0';
	for (size_t at = 0; at < m->names.len;) {
		const char *name = (const char *)m->names.data + at;
		if (at > 0)
			strcat(out, ",");
		strcat(out, name);
		at += strlen(name) + 1;
	}
	return out;
}

static const struct {
	const char *text, *names;
	bool sequences, settings;
} cases[] = {
	{"SET app.tenant = 7", "app.tenant", false, false},
	{"  set\tsession App.Tenant to 'x'", "app.tenant", false, false},
	{"SET LOCAL app.tenant = 7", "app.tenant", false, false},
	{"SET \"app\".x = 1; SET \"Own\".\"Name\" TO 2", "app.x,own.name", false, false},
	{"/* a; b */ -- c\n SET a.b.c = 1", "a.b.c", false, false},
	{"BEGIN; SET a.b = 1; RESET c.d; show e.f; COMMIT", "a.b,c.d,e.f", false, false},
	{"SET a.b = 1;SET a.b = 2", "a.b", false, false},
	{"SET work_mem = '1MB'", "", false, false},
	{"UPDATE t SET t.a = 1", "", false, false},
	{"SELECT set_config('app.user', $1, false)", "app.user", false, true},
	{"SELECT pg_catalog.SET_CONFIG ( 'app.user' , $1, true)", "app.user", false, true},
	{"SELECT set_config($1, $2, false)", "", false, true},
	{"select current_setting('a.b', true), current_setting('c')", "a.b", false, false},
	{"SELECT currval('s')", "", true, false},
	{"SELECT LastVal ()", "", true, false},
	{"SELECT nextval('s'), my_currval(1), currvalue(2), set_configs('x.y')", "", false, false},
	{"INSERT INTO t VALUES (1), ((2))", "", false, false},
	{"(((((", "", false, false},
	{";;;;", "", false, false},
	{"/* never ended SET a.b = 1", "", false, false},
	{"-- only a comment", "", false, false},
};

START_TEST(what_is_mentioned)
{
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		Mentions m;
		/* With its zero, as in a message. */
		ck_assert_str_eq(names_in(&m, cases[i].text, strlen(cases[i].text) + 1), cases[i].names);
		ck_assert_msg(m.sequences == cases[i].sequences && m.settings == cases[i].settings, "%s",
		              cases[i].text);
		mentions_free(&m);
	}
}
END_TEST

/* A text that is cut tells less, and never something else. */
START_TEST(cut_texts)
{
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		for (size_t len = 0; len <= strlen(cases[i].text); len++) {
			Mentions m;
			const char *names = names_in(&m, cases[i].text, len);
			ck_assert_msg(strncmp(names, cases[i].names, strlen(names)) == 0, "%.*s: %s", (int)len,
			              cases[i].text, names);
			mentions_free(&m);
		}
	}
}
END_TEST

START_TEST(limits)
{
	char text[MENTIONS_SCAN_MAX + 200];
	Mentions m = {.names = BUFFER_INIT};

	memset(text, ' ', sizeof(text));
	memcpy(text + MENTIONS_SCAN_MAX - 8, "SET a.b=", 8);
	ck_assert_str_eq(names_in(&m, text, sizeof(text)), "a.b");
	mentions_free(&m);
	memset(text, ' ', sizeof(text));
	memcpy(text + MENTIONS_SCAN_MAX - 7, "SET a.b=", 8);
	ck_assert_str_eq(names_in(&m, text, sizeof(text)), "");
	mentions_free(&m);

	m = (Mentions){.names = BUFFER_INIT};
	for (int i = 0; i < 10000 && !m.crowded; i++) {
		char name[32];
		int len = snprintf(name, sizeof(name), "app.n%d", i);
		mentions_add(&m, slice_of(name, (size_t)len));
	}
	ck_assert(m.crowded);
	ck_assert_uint_le(m.names.len, MENTIONS_NAMES_MAX);
	mentions_free(&m);
}
END_TEST

/* Shown from memory of exactly its size, at each length. */
START_TEST(second_phases)
{
	static const struct {
		const char *text;
		size_t from; /* recognized from this length on; 0: never */
	} phases[] = {
		{"COMMIT PREPARED 'x'", 15},
		{"commit prepared 'x';", 15},
		{" \n\tRollback\r\n  PREPARED;", 23},
		{"/* app=1 */ COMMIT/* now */PREPARED 'x'", 35},
		{"-- from the pool\nROLLBACK -- yes\n PREPARED'x'", 42},
		{"COMMIT", 0},
		{"COMMIT PREPARE 'x'", 0},
		{"COMMIT AND CHAIN", 0},
		{"PREPARE TRANSACTION 'x'", 0},
		{"COMMITPREPARED 'x'", 0},
		{"SELECT 1; COMMIT PREPARED 'x'", 0},
		{"'COMMIT PREPARED'", 0},
		{"/* COMMIT PREPARED */", 0},
		{"/* never ended COMMIT PREPARED", 0},
		{"", 0},
	};

	for (size_t i = 0; i < sizeof(phases) / sizeof(phases[0]); i++) {
		const char *text = phases[i].text;
		for (size_t len = 0; len <= strlen(text) + 1; len++) {
			char *copy = malloc(len + (len == 0));
			memcpy(copy, text, len);
			bool wanted = phases[i].from > 0 && len >= phases[i].from;
			ck_assert_msg(mentions_second_phase(slice_of(copy, len)) == wanted, "%.*s", (int)len,
			              text);
			free(copy);
		}
	}
}
END_TEST

static Suite *
make(void)
{
	Suite *suite = suite_create("mentions");
	TCase *tcase = tcase_create("mentions");

	tcase_add_test(tcase, what_is_mentioned);
	tcase_add_test(tcase, cut_texts);
	tcase_add_test(tcase, limits);
	tcase_add_test(tcase, second_phases);
	suite_add_tcase(suite, tcase);
	return suite;
}

TEST_SUITE(make)
