/* Where a session stands, told from its bytes alone, however they are cut. */
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "protocol/message/track.h"
#include "tests/unit/runner.h"

/*
 * A script is a list of words: ">" and types of messages from the client, "<" and types from
 * the server ("Zi", "Zt", "Ze" with a status). Each message has `body` bytes of body.
 */
static size_t body = 3;

static void
put_message(Buffer *out, char type, char status)
{
	buffer_put_u8(out, (uint8_t)type);
	buffer_put_u32(out, type == 'Z' ? 5 : (uint32_t)(4 + body));
	if (type == 'Z')
		buffer_put_u8(out, (uint8_t)status);
	for (size_t i = 0; type != 'Z' && i < body; i++)
		buffer_put_u8(out, 'S'); /* looks like a type */
}

static void
show(Track *track, bool client, Slice bytes, size_t piece)
{
	for (size_t at = 0; at < bytes.len; at += piece) {
		size_t len = bytes.len - at < piece ? bytes.len - at : piece;
		uint8_t *copy = malloc(len);
		memcpy(copy, bytes.data + at, len);
		if (client)
			track_client(track, slice_of(copy, len));
		else
			ck_assert(track_server(track, slice_of(copy, len)));
		free(copy);
	}
}

static void
play(Track *track, const char *script, size_t piece)
{
	bool client = true;

	for (const char *c = script; *c != '\0'; c++) {
		Buffer out = BUFFER_INIT;
		if (*c == '>' || *c == '<') {
			client = *c == '>';
			continue;
		}
		if (*c == ' ')
			continue;
		char type = *c, status = 'I';
		if (type == 'Z') {
			c++;
			status = *c == 'i' ? 'I' : *c == 't' ? 'T' : 'E';
		}
		put_message(&out, type, status);
		show(track, client, buffer_slice(&out), piece);
		buffer_free(&out);
	}
}

static const struct {
	const char *script;
	bool boundary;
} scripts[] = {
	{"", true},
	{"> Q", false},
	{"> Q < C Zi", true},
	{"> Q < C Zt", false},
	{"> Q < C Zt > Q < C Zi", true},
	{"> Q < E Ze", false},
	{"> Q < E Ze > Q < C Zi", true},
	{"> F < V Zi", true},
	{"> P B D E", false},
	{"> P B D E S", false},
	{"> P B D E S < 1 2 T D C Zi", true},
	{"> P H < 1", false},
	{"> P H < 1 > S < Zi", true},
	/* a pipeline: three Syncs, then an error in the first */
	{"> P B E S B E S B E S < E Zi", false},
	{"> P B E S B E S B E S < E Zi 2 C Zi 2 C Zi", true},
	{"> Q Q Q < C Zi C Zi", false},
	{"> Q Q Q < C Zi C Zi C Zi", true},
	/* notices and notifications come at any time */
	{"< N S A", true},
	/* COPY by a Query: data and end change nothing */
	{"> Q < G > d d", false},
	{"> Q < G > d d c", false},
	{"> Q < G > d d c < C Zi", true},
	{"> Q < G > d f < E Zi", true},
	{"> Q < G > d < E Zi > d c", true}, /* the rest of the data is ignored */
	{"> Q d d c < G C Zi", true},       /* sent before it was asked for */
	{"> Q < H d d c C Zi", true},
	/* COPY in the extended protocol: the Sync before the data is ignored */
	{"> P B E S < 1 2 G", false},
	{"> P B E S < 1 2 G > d d c", false},
	{"> P B E S < 1 2 G > d d c S < C Zi", true},
	{"> P B E S < 1 2 G > d H S f S < E Zi", true},
	{"> P B E H < 1 2 G > d c S < C Zi", true},
	{"> P B E S < 1 2 G > d < E > f S < Zi", true},
	{"> P B E d c S < 1 2 G C Zi", true}, /* all in one go */
	{"> P B E S d c S < 1 2 G C Zi", true},
	{"> P B E S P B E S d c S < C Zi 1 2 G C Zi", true},
	/* replication */
	{"> Q < W > d d < d d", false},
	{"> Q < W > d c < d c C C Zi", true},
	/* a Query behind extended messages without a Sync ends their group */
	{"> P Q", false},
	{"> P Q < 1", false},
	{"> P Q < 1 C Zi", true},
	{"> P F < 1 V Zi", true},
	{"> P B E Q P B E S < 1 2 C C Zt", false},
	{"> P B E Q P B E S < 1 2 C C Zt 1 2 C Zi", true},
	{"> P D H < 1 t T > Q d c < G C Zi", true},
	/* its own error has a ReadyForQuery */
	{"> P Q < 1 E Zi", true},
	{"> P B E Q P B E S < 1 2 s E Zi", false},
	{"> P B E Q P B E S < 1 2 s E Zi 1 2 I Zi", true},
	/* after one of theirs it is skipped, as all is up to the Sync */
	{"> P Q < E", false},
	{"> P Q < E > S", false},
	{"> P Q < E > S < Zi", true},
	{"> P < E > Q F", false},
	{"> P < E > Q F S < Zi", true},
	{"> P D C B Q P Q F S < 1 t n 3 E Zi", true},
	{"> P D C B Q P Q F S Q < 1 t n 3 E Zi", false},
	{"> P D C B Q P Q F S Q < 1 t n 3 E Zi C Zi", true},
	{"> S P Q P Q S < Zi 1 C Zi E Zi", true},
	{"> S P Q P Q S < Zi 1 C Zi 1 E Zi", false},
	/* what cannot be told is never called a boundary */
	{"> P B E S < 1 2 G > Q S < E Zi", false},
	{"> P B E Q S < 1 2 G E Zi", false},
};

START_TEST(follows_scripts)
{
	static const size_t pieces[] = {1, 2, 5, 6, 7, 1000};
	static const size_t bodies[] = {0, 1, 3, 20};

	for (size_t b = 0; b < 4; b++) {
		body = bodies[b];
		for (size_t p = 0; p < 6; p++) {
			for (size_t i = 0; i < sizeof(scripts) / sizeof(scripts[0]); i++) {
				Track track;
				track_init(&track);
				play(&track, scripts[i].script, pieces[p]);
				ck_assert_msg(track_at_boundary(&track) == scripts[i].boundary,
				              "\"%s\" in pieces of %zu, bodies of %zu", scripts[i].script,
				              pieces[p], body);
				track_free(&track);
			}
		}
	}
}
END_TEST

/* Many requests without an answer: memory is given back when they are answered. */
START_TEST(long_pipelines)
{
	Track track;

	track_init(&track);
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < 100000; i++)
			play(&track, "> S", 1000);
		for (int i = 0; i < 100000; i++) {
			ck_assert(track_busy(&track));
			play(&track, "< Zi", 1000);
		}
		ck_assert(track_at_boundary(&track));
		ck_assert_ptr_eq(track.asked, track.asked_room);
	}
	track_free(&track);
}
END_TEST

/* Only whole messages make a boundary. */
START_TEST(parts_of_messages)
{
	Track track;

	track_init(&track);
	track_client(&track, slice_of("H\0", 2));
	ck_assert(!track_at_boundary(&track));
	track_free(&track);
	track_init(&track);
	ck_assert(track_server(&track, slice_of("N\0\0\0\x09half", 9)));
	ck_assert(!track_at_boundary(&track) && !track_server_between(&track));
	ck_assert(track_server(&track, slice_of("!", 1)));
	ck_assert(track_at_boundary(&track));
	track_free(&track);
}
END_TEST

START_TEST(wrong_lengths)
{
	static const char *const lengths[] = {"\0\0\0\0", "\0\0\0\3", "\xff\xff\xff\xff", "\x80\0\0\0"};

	for (size_t i = 0; i < 4; i++) {
		Track track;
		uint8_t message[7] = {'Q'};

		memcpy(message + 1, lengths[i], 4);
		track_init(&track);
		track_client(&track, slice_of(message, sizeof(message)));
		ck_assert(track.lost && !track_at_boundary(&track));
		message[0] = 'D';
		ck_assert(!track_server(&track, slice_of(message, sizeof(message))));
		track_free(&track);
	}
	Track track;
	track_init(&track);
	ck_assert(!track_server(&track, slice_of("Z\0\0\0\x06IX", 7)));
	track_client(&track, slice_of("~\0\0\0\x04", 5));
	ck_assert(track.lost);
	track_free(&track);
}
END_TEST

/* While it must wait: how much of `client` goes out after `before`. */
static size_t
until(const char *before, const char *client, bool between, size_t piece)
{
	Track track;
	Buffer bytes = BUFFER_INIT;
	size_t done = 0, let;

	track_init(&track);
	play(&track, before, 1000);
	for (const char *c = client; *c != '\0'; c++)
		put_message(&bytes, *c, 'I');
	do {
		size_t len = bytes.len - done < piece ? bytes.len - done : piece;
		let = track_client_until(&track, slice_of(bytes.data + done, len), between);
		done += let;
	} while (let > 0 && done < bytes.len);
	ck_assert_uint_eq(done % (5 + body), 0);
	done /= 5 + body;
	buffer_free(&bytes);
	track_free(&track);
	return done;
}

START_TEST(waits_before_requests)
{
	static const struct {
		const char *before;
		const char *client;
		size_t hold;    /* messages that go out during a hold */
		size_t between; /* while a cancel is under way */
	} cases[] = {
		{"", "Q", 0, 0},
		{"", "PBES", 0, 0},
		{"", "X", 1, 1},
		{"> Q < C Zt", "QQ", 1, 0}, /* one at a time */
		{"> Q < E Ze", "Q", 1, 0},
		{"> Q", "Q", 0, 0},
		{"> P", "BESQ", 3, 3}, /* what was begun is ended */
		{"> P", "BEQQ", 3, 3},
		{"> P < E", "QQSQ", 3, 3},
		{"> Q < C Zt", "PBESPBES", 4, 0},
		{"> Q < G", "ddcQ", 3, 3},
		{"> P B E S < 1 2 G", "dSdcSQ", 5, 5},
		{"> Q < W", "dd", 2, 2},
	};
	static const size_t pieces[] = {1, 6, 1000};

	body = 3;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		for (size_t p = 0; p < 3; p++) {
			ck_assert_msg(until(cases[i].before, cases[i].client, false, pieces[p]) ==
			                  cases[i].hold,
			              "hold: \"%s\" then \"%s\"", cases[i].before, cases[i].client);
			ck_assert_msg(until(cases[i].before, cases[i].client, true, pieces[p]) ==
			                  cases[i].between,
			              "cancel: \"%s\" then \"%s\"", cases[i].before, cases[i].client);
		}
	}
}
END_TEST

/* However a request is cut, its first message goes on whole, or not at all, if there is room for it. */
START_TEST(requests_begin_whole)
{
	static const struct {
		const char *client; /* the last message is cut by one to all of its bytes */
		size_t room;
		bool left; /* that one is not passed */
	} cases[] = {
		{"Q", 8, true},   {"F", 8, true},     {"P", 8, true},   {"S", 8, true},
		{"QQ", 8, true},  {"PBESP", 8, true}, {"QX", 8, false}, {"Qd", 8, false},
		{"PB", 8, false}, {"PBES", 8, false}, {"Qz", 8, false}, {"Q", 7, false},
	};
	enum { MESSAGE = 8 };

	body = 3;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		for (size_t cut = 1; cut <= MESSAGE; cut++) {
			Buffer bytes = BUFFER_INIT;
			Track track;
			track_init(&track);
			for (const char *c = cases[i].client; *c != '\0'; c++)
				put_message(&bytes, *c, 'I');
			size_t before = bytes.len - MESSAGE, len = bytes.len - cut;
			bool whole = cut == MESSAGE;
			bool header = MESSAGE - cut >= 5;
			size_t let = track_client_whole(&track, slice_of(bytes.data, len), cases[i].room);
			/* Of a cut header the length is not known. */
			bool left = !whole && (cases[i].left || (cases[i].room < MESSAGE && !header));
			ck_assert_msg(let == (left ? before : len), "\"%s\" without %zu bytes: %zu",
			              cases[i].client, cut, let);
			if (left && before == 0)
				ck_assert(track_at_boundary(&track));
			let += track_client_whole(&track, slice_of(bytes.data + let, bytes.len - let),
			                          cases[i].room);
			ck_assert_uint_eq(let, bytes.len);
			track_free(&track);
			buffer_free(&bytes);
		}
	}
}
END_TEST

/* What a message is begins with its header; cut or with a wrong length it is not recognized. */
START_TEST(second_phases)
{
	static const struct {
		const char *message; /* type, length, body */
		size_t size;
		size_t from; /* bytes that must be here; 0: never */
	} cases[] = {
		{"Q\0\0\0\30COMMIT PREPARED 'a'\0", 25, 5 + 15},
		{"P\0\0\0\33\0COMMIT PREPARED 'a'\0\0\0", 28, 5 + 1 + 15},
		{"P\0\0\0\36abc\0COMMIT PREPARED 'a'\0\0\0", 31, 5 + 4 + 15},
		{"Q\0\1\0\0COMMIT PREPARED 'a'", 24, 5 + 15}, /* more is to come */
		{"Q\0\0\0\14COMMIT PREPARED 'a'\0", 25, 0},   /* a body of 8 bytes */
		{"Q\0\0\0\4COMMIT PREPARED 'a'", 24, 0},
		{"Q\0\0\0\0COMMIT PREPARED 'a'", 24, 0},
		{"Q\377\377\377\377COMMIT PREPARED 'a'", 24, 0},
		{"P\0\0\0\27COMMIT PREPARED 'a'", 24, 0}, /* all of it the name */
		{"B\0\0\0\30COMMIT PREPARED 'a'\0", 25, 0},
		{"Q\0\0\0\15SELECT 1\0", 14, 0},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		Track track;
		track_init(&track);
		for (size_t len = 0; len <= cases[i].size; len++) {
			uint8_t *copy = malloc(len + (len == 0));
			memcpy(copy, cases[i].message, len);
			size_t got = track_second_phase(&track, slice_of(copy, len));
			bool wanted = cases[i].from > 0 && len >= cases[i].from;
			const uint8_t *head = (const uint8_t *)cases[i].message;
			size_t whole = 1 + ((size_t)head[2] << 16) + ((size_t)head[3] << 8) + head[4];
			ck_assert_msg(got == (wanted ? whole : 0), "case %zu, %zu bytes: %zu", i, len, got);
			free(copy);
		}
		track_free(&track);
	}
}
END_TEST

static Suite *
make(void)
{
	Suite *suite = suite_create("track");
	TCase *tcase = tcase_create("track");

	tcase_add_test(tcase, follows_scripts);
	tcase_add_test(tcase, long_pipelines);
	tcase_add_test(tcase, parts_of_messages);
	tcase_add_test(tcase, wrong_lengths);
	tcase_add_test(tcase, waits_before_requests);
	tcase_add_test(tcase, requests_begin_whole);
	tcase_add_test(tcase, second_phases);
	suite_add_tcase(suite, tcase);
	return suite;
}

TEST_SUITE(make)
