#include <libpq-fe.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdlib.h>
#include <string.h>

#include "common/memory.h"
#include "protocol/auth/auth.h"
#include "protocol/auth/saslprep.h"
#include "protocol/auth/scram.h"
#include "tests/unit/runner.h"

#define BYTES(text) slice_of(text, sizeof(text) - 1)

/* RFC 7677, section 3. */
static const char rfc_nonce[] = "rOprNGfwEbeRWgbNEkqO";
static const char rfc_first[] = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
static const char rfc_server_first[] = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
									   "s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
static const char rfc_final[] = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
								"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
static const char rfc_server_final[] = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

static Scram *
rfc_scram(void)
{
	Error err = ERROR_INIT;
	Scram *scram = scram_new(
		&(ScramOptions){.user = "user", .password = "pencil", .nonce = rfc_nonce}, &err);
	ck_assert_msg(scram != NULL, "%s", err.message);
	return scram;
}

START_TEST(rfc_7677)
{
	Scram *scram = rfc_scram();
	Buffer out = BUFFER_INIT;
	Error err = ERROR_INIT;

	scram_first(scram, &out);
	ck_assert_str_eq(buffer_cstr(&out), rfc_first);
	buffer_reset(&out);
	ck_assert(scram_continue(scram, slice_cstr(rfc_server_first), &out, &err));
	ck_assert_str_eq(buffer_cstr(&out), rfc_final);
	ck_assert(scram_finish(scram, slice_cstr(rfc_server_final), &err));
	buffer_free(&out);
	scram_free(scram);
}
END_TEST

/* No beginning of the server's messages is taken for the whole. */
START_TEST(truncated_scram)
{
	Buffer out = BUFFER_INIT;
	Error err = ERROR_INIT;

	for (size_t len = 0; len < sizeof(rfc_server_first) - 1; len++) {
		Scram *scram = rfc_scram();
		uint8_t *copy = malloc(len > 0 ? len : 1);
		memcpy(copy, rfc_server_first, len);
		/* "i=4", "i=40", "i=409" are shorter, but whole, messages. */
		bool whole = len > strlen(rfc_server_first) - 4;
		ck_assert_int_eq(scram_continue(scram, slice_of(copy, len), &out, &err), whole);
		free(copy);
		scram_free(scram);
	}
	for (size_t len = 0; len < sizeof(rfc_server_final) - 1; len++) {
		Scram *scram = rfc_scram();
		ck_assert(scram_continue(scram, slice_cstr(rfc_server_first), &out, &err));
		ck_assert(!scram_finish(scram, slice_of(rfc_server_final, len), &err));
		scram_free(scram);
	}
	buffer_free(&out);
}
END_TEST

START_TEST(bad_server_first)
{
	static const struct {
		const char *message;
		ErrorClass class;
		const char *word;
	} cases[] = {
		{"r=rOprNGfwEbeRWgbNEkqO,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096", ERROR_AUTH, "nonce"},
		{"r=rOprNGfwEbeRWgbNEkqPx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096", ERROR_AUTH, "nonce"},
		{"r=other,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096", ERROR_AUTH, "nonce"},
		{"r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=1000001", ERROR_AUTH, "1000001"},
		{"r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=2147483647", ERROR_AUTH, "iterat"},
		{"r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=99999999999", ERROR_PROTOCOL, ""},
		{"r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=0", ERROR_PROTOCOL, ""},
		{"r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=-1", ERROR_PROTOCOL, ""},
		{"r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=", ERROR_PROTOCOL, ""},
		{"r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ,i=4096", ERROR_PROTOCOL, ""},
		{"r=rOprNGfwEbeRWgbNEkqOx,s=,i=4096", ERROR_PROTOCOL, ""},
		{"r=rOprNGfwEbeRWgbNEkqOx,s=!!!!,i=4096", ERROR_PROTOCOL, ""},
		{"m=ext,r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096", ERROR_PROTOCOL, ""},
	};
	Buffer out = BUFFER_INIT;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		Scram *scram = rfc_scram();
		Error err = ERROR_INIT;
		ck_assert(!scram_continue(scram, slice_cstr(cases[i].message), &out, &err));
		ck_assert_msg(err.class == cases[i].class && strstr(err.message, cases[i].word) != NULL,
		              "%s: %s", cases[i].message, err.message);
		scram_free(scram);
	}
	buffer_free(&out);
}
END_TEST

START_TEST(wrong_signature)
{
	Buffer out = BUFFER_INIT;
	Error err = ERROR_INIT;
	char final[sizeof(rfc_server_final)];

	for (size_t i = 2; i < sizeof(final) - 2; i++) {
		Scram *scram = rfc_scram();
		strcpy(final, rfc_server_final);
		final[i] = final[i] == 'A' ? 'B' : 'A';
		ck_assert(scram_continue(scram, slice_cstr(rfc_server_first), &out, &err));
		ck_assert(!scram_finish(scram, slice_cstr(final), &err));
		ck_assert(err.class == ERROR_AUTH || err.class == ERROR_PROTOCOL);
		scram_free(scram);
	}
	Scram *scram = rfc_scram();
	ck_assert(!scram_finish(scram, slice_cstr(rfc_server_final), &err));
	ck_assert(scram_continue(scram, slice_cstr(rfc_server_first), &out, &err));
	ck_assert(!scram_finish(scram, slice_cstr("e=invalid-proof"), &err));
	ck_assert_ptr_nonnull(strstr(err.message, "invalid-proof"));
	scram_free(scram);
	buffer_free(&out);
}
END_TEST

/* ---- A server that speaks Authentication messages ---- */

typedef struct {
	AuthOptions options;
	const char *mechanisms; /* with their zeros; NULL: PLUS with TLS, plain always */
	size_t mechanisms_len;
	const char *wrong; /* "signature", "nonce", "iterations", "skip": what it does wrong */
	char gs2[64];      /* what the client said first */
	char mechanism[32];
	char binding[128]; /* c= */
} FakeServer;

static AuthStep
say(Auth *auth, uint32_t code, Slice data, Buffer *reply, Error *err)
{
	Buffer message = BUFFER_INIT;

	buffer_reset(reply);
	buffer_put_u32(&message, code);
	buffer_put_slice(&message, data);
	AuthStep step = auth_step(auth, buffer_slice(&message), reply, err);
	buffer_free(&message);
	return step;
}

static void
sign(const char *password, const char *salt, int iterations, const char *message, char *out)
{
	uint8_t salted[32], key[32], signature[32];
	unsigned len;

	PKCS5_PBKDF2_HMAC(password, (int)strlen(password), (const uint8_t *)salt, (int)strlen(salt),
	                  iterations, EVP_sha256(), 32, salted);
	HMAC(EVP_sha256(), salted, 32, (const uint8_t *)"Server Key", 10, key, &len);
	HMAC(EVP_sha256(), key, 32, (const uint8_t *)message, strlen(message), signature, &len);
	EVP_EncodeBlock((uint8_t *)out, signature, 32);
}

static AuthStep
fake_scram(FakeServer *server, Auth *auth, Error *err)
{
	static const char both[] = "SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0";
	static const char plain[] = "SCRAM-SHA-256\0";
	Slice list = server->mechanisms != NULL ? slice_of(server->mechanisms, server->mechanisms_len)
	             : server->options.tls      ? slice_of(both, sizeof(both))
	                                        : slice_of(plain, sizeof(plain));
	Buffer reply = BUFFER_INIT;
	AuthStep step = say(auth, 10, list, &reply, err);
	const char *wrong = server->wrong != NULL ? server->wrong : "";

	if (step == AUTH_CONTINUE) {
		const char *mechanism = (const char *)reply.data + 5;
		const char *first = mechanism + strlen(mechanism) + 1 + 4;
		const char *bare = strstr(buffer_cstr(&reply) + (first - (const char *)reply.data), ",,");
		ck_assert_ptr_nonnull(bare);
		mechanism = (const char *)reply.data + 5;
		first = mechanism + strlen(mechanism) + 1 + 4;
		strcpy(server->mechanism, mechanism);
		memcpy(server->gs2, first, (size_t)(bare + 2 - first));
		char *first_bare = mem_strdup(bare + 2);
		char *nonce = strstr(first_bare, "r=") + 2;
		char *server_first = mem_printf("r=%s%s,s=c2FsdA==,i=%s",
		                                strcmp(wrong, "nonce") == 0 ? "x" : "", nonce,
		                                strcmp(wrong, "iterations") == 0 ? "1000001" : "10");
		char *extended = mem_printf("r=%s+server,s=c2FsdA==,i=10", nonce);
		if (wrong[0] == '\0' || strcmp(wrong, "signature") == 0 || strcmp(wrong, "skip") == 0) {
			free(server_first);
			server_first = mem_strdup(extended);
		}
		step = say(auth, 11, slice_cstr(server_first), &reply, err);
		if (step == AUTH_CONTINUE && strcmp(wrong, "skip") != 0) {
			char *final = mem_strdup(buffer_cstr(&reply) + 5);
			*strstr(final, ",p=") = '\0';
			sscanf(final, "c=%127[^,]", server->binding);
			char *message = mem_printf("%s,%s,%s", first_bare, server_first, final);
			char signature[64] = "v=";
			sign(strcmp(wrong, "signature") == 0 ? "other" : "secret", "salt", 10, message,
			     signature + 2);
			step = say(auth, 12, slice_cstr(signature), &reply, err);
			free(message);
			free(final);
		}
		free(first_bare);
		free(server_first);
		free(extended);
	}
	if (step == AUTH_CONTINUE)
		step = say(auth, 0, SLICE_EMPTY, &reply, err);
	buffer_free(&reply);
	return step;
}

static AuthStep
run_scram(FakeServer *server, Error *err)
{
	if (server->options.user == NULL)
		server->options.user = "u";
	if (server->options.password == NULL)
		server->options.password = "secret";
	Auth *auth = auth_new(&server->options, err);
	ck_assert_msg(auth != NULL, "%s", err->message);
	AuthStep step = fake_scram(server, auth, err);
	auth_free(auth);
	return step;
}

START_TEST(scram_binding)
{
	static const Slice hash = {(const uint8_t *)"01234567890123456789012345678901", 32};
	static const char plain[] = "SCRAM-SHA-256\0";
	Error err = ERROR_INIT;

	FakeServer no_tls = {.options = {.tls = false}};
	ck_assert_msg(run_scram(&no_tls, &err) == AUTH_DONE, "%s", err.message);
	ck_assert_str_eq(no_tls.gs2, "n,,");
	ck_assert_str_eq(no_tls.binding, "biws");

	FakeServer tls = {.options = {.tls = true, .binding_data = hash}};
	ck_assert_msg(run_scram(&tls, &err) == AUTH_DONE, "%s", err.message);
	ck_assert_str_eq(tls.mechanism, "SCRAM-SHA-256-PLUS");
	ck_assert_str_eq(tls.gs2, "p=tls-server-end-point,,");
	ck_assert_str_eq(tls.binding, "cD10bHMtc2VydmVyLWVuZC1wb2ludCwsMDEyMzQ1Njc4OTAxMjM0NTY3ODkw"
	                              "MTIzNDU2Nzg5MDE=");

	/* The server's offer of PLUS is gone: say that we would have taken it. */
	FakeServer cut = {.options = {.tls = true, .binding_data = hash},
	                  .mechanisms = plain,
	                  .mechanisms_len = sizeof(plain)};
	ck_assert_msg(run_scram(&cut, &err) == AUTH_DONE, "%s", err.message);
	ck_assert_str_eq(cut.mechanism, "SCRAM-SHA-256");
	ck_assert_str_eq(cut.gs2, "y,,");
	ck_assert_str_eq(cut.binding, "eSws");

	FakeServer off = {.options = {.tls = true, .binding_data = hash, .channel_binding = "disable"}};
	ck_assert_msg(run_scram(&off, &err) == AUTH_DONE, "%s", err.message);
	ck_assert_str_eq(off.gs2, "n,,");

	cut.options.channel_binding = "require";
	ck_assert_int_eq(run_scram(&cut, &err), AUTH_FAILED);
	ck_assert_int_eq(err.class, ERROR_AUTH);
	tls.options.channel_binding = "require";
	ck_assert_int_eq(run_scram(&tls, &err), AUTH_DONE);
	no_tls.options.channel_binding = "require";
	ck_assert_int_eq(run_scram(&no_tls, &err), AUTH_FAILED);
}
END_TEST

START_TEST(scram_of_a_liar)
{
	static const char *const wrongs[] = {"signature", "nonce", "iterations", "skip"};

	for (size_t i = 0; i < 4; i++) {
		Error err = ERROR_INIT;
		FakeServer server = {.wrong = wrongs[i]};
		ck_assert_int_eq(run_scram(&server, &err), AUTH_FAILED);
		ck_assert_msg(err.class == ERROR_AUTH, "%s: %s", wrongs[i], err.message);
	}
}
END_TEST

START_TEST(bad_mechanism_lists)
{
	static const Slice lists[] = {
		{(const uint8_t *)"", 0},
		{(const uint8_t *)"\0", 1},
		{(const uint8_t *)"SCRAM-SHA-256", 13},
		{(const uint8_t *)"SCRAM-SHA-256\0", 14},
		{(const uint8_t *)"SCRAM-SHA-256\0\0x", 16},
		{(const uint8_t *)"OAUTHBEARER\0\0", 13},
		{(const uint8_t *)"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0", 34}, /* without TLS */
	};

	for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
		Error err = ERROR_INIT;
		FakeServer server = {.mechanisms = (const char *)lists[i].data,
		                     .mechanisms_len = lists[i].len};
		ck_assert_int_eq(run_scram(&server, &err), AUTH_FAILED);
		ck_assert(err.class == ERROR_AUTH || err.class == ERROR_PROTOCOL);
	}
}
END_TEST

/* One message to a fresh Auth. */
static AuthStep
once(AuthOptions options, uint32_t code, Slice data, Buffer *reply, Error *err)
{
	options.user = "joe";
	Auth *auth = auth_new(&options, err);
	ck_assert_msg(auth != NULL, "%s", err->message);
	AuthStep step = say(auth, code, data, reply, err);
	auth_free(auth);
	return step;
}

START_TEST(password_and_md5)
{
	Buffer reply = BUFFER_INIT;
	Error err = ERROR_INIT;
	AuthOptions with = {.password = "secret"}, without = {0};

	ck_assert_int_eq(once(with, 3, SLICE_EMPTY, &reply, &err), AUTH_CONTINUE);
	ck_assert(slice_eq(buffer_slice(&reply), BYTES("p\0\0\0\x0bsecret\0")));
	ck_assert_int_eq(once(with, 5, BYTES("\1\2\3\4"), &reply, &err), AUTH_CONTINUE);
	/* md5(hex(md5("secretjoe")) . 01020304), computed with md5sum. */
	ck_assert_str_eq((char *)reply.data + 5, "md5850be429f1fe77df3f603ac424abb440");
	ck_assert_int_eq(once(with, 5, BYTES("\1\2\3"), &reply, &err), AUTH_FAILED);
	ck_assert_int_eq(err.class, ERROR_PROTOCOL);
	ck_assert_int_eq(once(without, 3, SLICE_EMPTY, &reply, &err), AUTH_FAILED);
	ck_assert_int_eq(err.class, ERROR_AUTH);
	ck_assert_int_eq(once(with, 0, SLICE_EMPTY, &reply, &err), AUTH_DONE);
	ck_assert_int_eq(once(with, 0, BYTES("x"), &reply, &err), AUTH_FAILED);
	static const uint32_t refused[] = {1, 2, 4, 6, 7, 8, 9, 13, 4711};
	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
		ck_assert_int_eq(once(with, refused[i], SLICE_EMPTY, &reply, &err), AUTH_FAILED);
		ck_assert_int_eq(err.class, ERROR_AUTH);
	}
	static const uint32_t early[] = {11, 12};
	for (size_t i = 0; i < 2; i++) {
		ck_assert_int_eq(once(with, early[i], SLICE_EMPTY, &reply, &err), AUTH_FAILED);
		ck_assert_int_eq(err.class, ERROR_PROTOCOL);
	}
	buffer_free(&reply);
}
END_TEST

START_TEST(require_auth)
{
	static const struct {
		const char *require;
		bool trust, password, md5, scram;
	} cases[] = {
		{NULL, true, true, true, true},
		{"", true, true, true, true},
		{"none", true, false, false, false},
		{"scram-sha-256", false, false, false, true},
		{"md5,password", false, true, true, false},
		{"!password,!none", false, false, true, true},
		{"!scram-sha-256", true, true, true, false},
	};
	Buffer reply = BUFFER_INIT;
	static const char plain[] = "SCRAM-SHA-256\0";

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		AuthOptions o = {.password = "p", .require_auth = cases[i].require};
		Error err = ERROR_INIT;
		ck_assert_int_eq(once(o, 0, SLICE_EMPTY, &reply, &err) == AUTH_DONE, cases[i].trust);
		ck_assert_int_eq(once(o, 3, SLICE_EMPTY, &reply, &err) == AUTH_CONTINUE, cases[i].password);
		ck_assert_int_eq(reply.len > 0, cases[i].password);
		ck_assert_int_eq(once(o, 5, BYTES("salt"), &reply, &err) == AUTH_CONTINUE, cases[i].md5);
		ck_assert_int_eq(once(o, 10, slice_of(plain, sizeof(plain)), &reply, &err) == AUTH_CONTINUE,
		                 cases[i].scram);
	}
	static const char *const bad[] = {"scram", "md5,!none", "md5,", ",", "!"};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		Error err = ERROR_INIT;
		ck_assert_ptr_null(auth_new(&(AuthOptions){.user = "u", .require_auth = bad[i]}, &err));
		ck_assert_int_eq(err.class, ERROR_CONFIG);
	}
	buffer_free(&reply);
}
END_TEST

/* ---- SASLprep, against libpq's own ---- */

/* Does libpq hash `password` as it would the bytes `prepared`? */
static bool
libpq_agrees(const char *password, const char *prepared)
{
	PGconn *conn = PQconnectStart("channel_binding=@none@");
	char *verifier = PQencryptPasswordConn(conn, password, "u", "scram-sha-256");
	char salt64[64], stored64[64];
	uint8_t salt[48], salted[32], client[32], stored[32], got[48];
	int iterations;
	unsigned len;

	ck_assert_ptr_nonnull(verifier);
	ck_assert_int_eq(
		sscanf(verifier, "SCRAM-SHA-256$%d:%63[^$]$%63[^:]:", &iterations, salt64, stored64), 3);
	int salt_len = EVP_DecodeBlock(salt, (uint8_t *)salt64, (int)strlen(salt64));
	salt_len -= salt64[strlen(salt64) - 1] == '=';
	salt_len -= salt64[strlen(salt64) - 2] == '=';
	PKCS5_PBKDF2_HMAC(prepared, (int)strlen(prepared), salt, salt_len, iterations, EVP_sha256(), 32,
	                  salted);
	HMAC(EVP_sha256(), salted, 32, (const uint8_t *)"Client Key", 10, client, &len);
	EVP_Digest(client, 32, stored, &len, EVP_sha256(), NULL);
	EVP_DecodeBlock(got, (uint8_t *)stored64, (int)strlen(stored64));
	PQfreemem(verifier);
	PQfinish(conn);
	return memcmp(got, stored, 32) == 0;
}

static size_t
encode_utf8(uint32_t code, char *out)
{
	if (code < 0x80) {
		out[0] = (char)code;
		return 1;
	}
	int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
	out[0] = (char)((0xF00 >> more & 0xFF) | code >> 6 * more);
	for (int i = 1; i <= more; i++)
		out[i] = (char)(0x80 | (code >> 6 * (more - i) & 0x3F));
	return (size_t)more + 1;
}

/* Every character that saslprep takes alone is taken as libpq takes it: in
 * packs of 256 neighbours, bare and behind a character that is mapped. */
START_TEST(saslprep_is_libpq_s)
{
	static const char *const fronts[] = {"a", "\xC2\xA0"};

	for (int f = 0; f < 2; f++)
		for (uint32_t from = 1; from < 0x1FA00; from += 256) {
			char pack[256 * 4 + 8];
			size_t len = strlen(fronts[f]);
			int taken = 0;
			strcpy(pack, fronts[f]);
			for (uint32_t code = from; code < from + 256; code++) {
				char one[16];
				char *prepared;
				Error err = ERROR_INIT;
				strcpy(one, fronts[f]);
				size_t one_len = strlen(one) + encode_utf8(code, one + strlen(one));
				one[one_len] = '\0';
				if (code >= 0xD800 && code < 0xE000)
					continue;
				if (!saslprep(one, &prepared, &err))
					continue;
				mem_wipe_free_cstr(prepared);
				len += encode_utf8(code, pack + len);
				taken++;
			}
			pack[len] = '\0';
			/* Long runs of one script behave alike: a sample of them is enough. */
			if (taken == 0 || (from > 0x5000 && from % 4096 != 1))
				continue;
			char *prepared;
			Error err = ERROR_INIT;
			if (!saslprep(pack, &prepared, &err))
				continue;
			ck_assert_msg(libpq_agrees(pack, prepared), "U+%04X.. %s", from, pack);
			mem_wipe_free_cstr(prepared);
		}
}
END_TEST

START_TEST(saslprep_cases)
{
	static const struct {
		const char *password, *prepared; /* NULL: refused */
	} cases[] = {
		{"secret", "secret"},
		{"", ""},
		{"gr\xC3\xBC\xC3\x9F", "gr\xC3\xBC\xC3\x9F"},
		{"a\xC2\xA0"
	     "b",
	     "a b"}, /* no-break space */
		{"a\xC2\xAD"
	     "b",
	     "ab"},                           /* soft hyphen */
		{"\xC2\xAD", "\xC2\xAD"},         /* nothing left: raw */
		{"\xFF\xC2\xAD", "\xFF\xC2\xAD"}, /* not UTF-8: raw */
		{"\xED\xA0\x80", "\xED\xA0\x80"}, /* a surrogate: raw */
		{"\xC0\xAF", "\xC0\xAF"},         /* overlong: raw */
		{"a\xCC\x88", NULL},              /* a with a combining diaeresis */
		{"\xE2\x85\xA8", NULL},           /* ROMAN NUMERAL NINE */
		{"\xC2\xAA", NULL},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char *prepared;
		Error err = ERROR_INIT;
		bool ok = saslprep(cases[i].password, &prepared, &err);
		ck_assert_int_eq(ok, cases[i].prepared != NULL);
		if (ok) {
			ck_assert_str_eq(prepared, cases[i].prepared);
			if (prepared[0] != '\0')
				ck_assert_msg(libpq_agrees(cases[i].password, prepared), "case %zu", i);
			mem_wipe_free_cstr(prepared);
		} else {
			ck_assert_int_eq(err.class, ERROR_AUTH);
			ck_assert_ptr_null(strstr(err.message, cases[i].password));
		}
	}
}
END_TEST

static Suite *
auth_suite(void)
{
	Suite *suite = suite_create("protocol/auth");
	TCase *tcase = tcase_create("auth");

	tcase_set_timeout(tcase, 120);
	tcase_add_test(tcase, rfc_7677);
	tcase_add_test(tcase, truncated_scram);
	tcase_add_test(tcase, bad_server_first);
	tcase_add_test(tcase, wrong_signature);
	tcase_add_test(tcase, scram_binding);
	tcase_add_test(tcase, scram_of_a_liar);
	tcase_add_test(tcase, bad_mechanism_lists);
	tcase_add_test(tcase, password_and_md5);
	tcase_add_test(tcase, require_auth);
	tcase_add_test(tcase, saslprep_is_libpq_s);
	tcase_add_test(tcase, saslprep_cases);
	suite_add_tcase(suite, tcase);
	return suite;
}
TEST_SUITE(auth_suite)
