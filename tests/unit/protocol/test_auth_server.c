/* The server's half of a login, against RFC 7677's vectors and our own client's half. */
#include <stdlib.h>
#include <string.h>

#include "common/memory.h"
#include "protocol/auth/auth_server.h"
#include "protocol/auth/md5.h"
#include "protocol/message/backend.h"
#include "tests/unit/runner.h"

/* RFC 7677, section 3: password "pencil". */
static const char rfc_nonce[] = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
static const char rfc_final[] = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
								"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";

static Secret
pencil(void)
{
	uint8_t salt[64];
	int len = scram_base64_decode(slice_cstr("W22ZaJ0SNY7soEsUEjb6gQ=="), salt, sizeof(salt));
	uint8_t client[SCRAM_KEY_SIZE], stored[SCRAM_KEY_SIZE], server[SCRAM_KEY_SIZE];
	Secret secret;

	ck_assert(scram_derive("pencil", slice_of(salt, (size_t)len), 4096, client, server));
	ck_assert(scram_sha256(slice_of(client, sizeof(client)), stored));
	char *stored_text = scram_base64(slice_of(stored, sizeof(stored)));
	char *server_text = scram_base64(slice_of(server, sizeof(server)));
	char *text = mem_printf("SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$%s:%s", stored_text,
	                        server_text);
	ck_assert(secret_parse(text, &secret));
	ck_assert_int_eq(secret.kind, SECRET_SCRAM);
	free(stored_text);
	free(server_text);
	free(text);
	return secret;
}

static AuthServer *
server_for(const Secret *secret, bool doomed, Slice binding, const char *nonce, Buffer *request)
{
	Error err = ERROR_INIT;
	AuthServer *auth = auth_server_new(&(AuthServerOptions){.user = "u",
	                                                        .secret = secret,
	                                                        .doomed = doomed,
	                                                        .tls = binding.len > 0,
	                                                        .binding_data = binding,
	                                                        .nonce = nonce},
	                                   request, &err);
	ck_assert_ptr_nonnull(auth);
	return auth;
}

static void
initial(Buffer *out, const char *mechanism, const char *message)
{
	buffer_put_cstr(out, mechanism);
	buffer_put_u32(out, (uint32_t)strlen(message));
	buffer_put_text(out, message);
}

/* The first message's answer is awaited, the second one's error is returned. */
static AuthStep
exchange(const Secret *secret, const char *first, const char *final, Error *err)
{
	Buffer reply = BUFFER_INIT, message = BUFFER_INIT;
	AuthServer *auth = server_for(secret, false, SLICE_EMPTY, rfc_nonce, &reply);

	initial(&message, "SCRAM-SHA-256", first);
	AuthStep step = auth_server_step(auth, buffer_slice(&message), &reply, err);
	if (step == AUTH_CONTINUE)
		step = auth_server_step(auth, slice_cstr(final), &reply, err);
	auth_server_free(auth);
	buffer_free(&reply);
	buffer_free(&message);
	return step;
}

START_TEST(rfc_7677)
{
	Secret secret = pencil();
	Buffer reply = BUFFER_INIT, message = BUFFER_INIT;
	Error err = ERROR_INIT;
	AuthServer *auth = server_for(&secret, false, SLICE_EMPTY, rfc_nonce, &reply);
	const ScramKeys *keys;
	const char *md5, *password;

	initial(&message, "SCRAM-SHA-256", "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
	ck_assert_int_eq(auth_server_step(auth, buffer_slice(&message), &reply, &err), AUTH_CONTINUE);
	ck_assert_int_eq(auth_server_step(auth, slice_cstr(rfc_final), &reply, &err), AUTH_DONE);
	ck_assert_ptr_nonnull(
		memmem(reply.data, reply.len, "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=", 46));
	auth_server_proved(auth, &keys, &md5, &password);
	ck_assert(keys != NULL && md5 == NULL && password == NULL);
	uint8_t stored[SCRAM_KEY_SIZE];
	ck_assert(scram_sha256(slice_of(keys->client_key, SCRAM_KEY_SIZE), stored));
	ck_assert_mem_eq(stored, secret.stored_key, SCRAM_KEY_SIZE);
	auth_server_free(auth);
	buffer_free(&reply);
	buffer_free(&message);
}
END_TEST

START_TEST(wrong_messages)
{
	static const char first[] = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
	static const struct {
		const char *first;
		const char *final;
		const char *sqlstate;
	} cases[] = {
		{"", "", "08P01"},
		{"n", "", "08P01"},
		{"n,,", "", "08P01"},
		{"x,,n=,r=abc", "", "08P01"},
		{"n,a=other,n=,r=abc", "", "0A000"},
		{"p=tls-server-end-point,,n=,r=abc", "", "08P01"},
		{"p=tls-unique,,n=,r=abc", "", "08P01"},
		{"n,,m=x,n=,r=abc", "", "0A000"},
		{"n,,n=,r=", "", "08P01"},
		{"n,,n=,r=a b", "", "08P01"},
		{first, "", "08P01"},
		{first, "c=biws", "08P01"},
		{first, "c=eSws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=AAAA", "08P01"},
		{first, "c=biws,r=other,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=", "08P01"},
		{first, "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=AAAA", "08P01"},
		{first,
	     "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
	     "p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=,x=y",
	     "08P01"},
		{first,
	     "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
	     "p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVU=",
	     "28P01"},
	};
	Secret secret = pencil();

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		Error err = ERROR_INIT;
		ck_assert_int_eq(exchange(&secret, cases[i].first, cases[i].final, &err), AUTH_FAILED);
		ck_assert_msg(strcmp(err.sqlstate, cases[i].sqlstate) == 0, "case %zu: %s %s", i,
		              err.sqlstate, err.message);
	}
}
END_TEST

/* Every beginning of both messages is refused, and no byte behind them is read. */
START_TEST(truncations)
{
	Secret secret = pencil();
	Buffer whole = BUFFER_INIT;
	Error err = ERROR_INIT;

	initial(&whole, "SCRAM-SHA-256", "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
	for (size_t len = 0; len < whole.len; len++) {
		Buffer reply = BUFFER_INIT;
		AuthServer *auth = server_for(&secret, false, SLICE_EMPTY, rfc_nonce, &reply);
		uint8_t *copy = malloc(len > 0 ? len : 1);
		memcpy(copy, whole.data, len);
		ck_assert_int_eq(auth_server_step(auth, slice_of(copy, len), &reply, &err), AUTH_FAILED);
		free(copy);
		auth_server_free(auth);
		buffer_free(&reply);
	}
	for (size_t len = 0; len < sizeof(rfc_final) - 1; len++) {
		char *copy = mem_strndup(rfc_final, len);
		ck_assert_int_eq(exchange(&secret, "n,,n=user,r=rOprNGfwEbeRWgbNEkqO", copy, &err),
		                 AUTH_FAILED);
		free(copy);
	}
	buffer_free(&whole);
}
END_TEST

/* Both halves of ours, until both are content. client: what it has; server: what is kept. */
static AuthStep
both(Auth *client, AuthServer *server, Buffer *request, Error *err)
{
	Buffer answer = BUFFER_INIT;
	AuthStep step = AUTH_CONTINUE;

	while (step == AUTH_CONTINUE) {
		buffer_reset(&answer);
		ck_assert(request->len > 5 && request->data[0] == 'R');
		Slice payload = slice_of(request->data + 5, request->len - 5);
		if (auth_step(client, payload, &answer, err) == AUTH_FAILED)
			step = AUTH_FAILED;
		buffer_reset(request);
		if (step == AUTH_FAILED || answer.len == 0)
			break;
		step = auth_server_step(server, slice_of(answer.data + 5, answer.len - 5), request, err);
	}
	if (step == AUTH_DONE && request->len > 0 &&
	    auth_step(client, slice_of(request->data + 5, request->len - 5), &answer, err) ==
	        AUTH_FAILED)
		step = AUTH_FAILED;
	buffer_free(&answer);
	return step;
}

static AuthStep
login(const Secret *secret, bool doomed, AuthOptions options, Slice server_binding, Error *err)
{
	Buffer request = BUFFER_INIT;
	AuthServer *server = server_for(secret, doomed, server_binding, NULL, &request);
	Auth *client;
	AuthStep step;

	options.user = "u";
	client = auth_new(&options, err);
	ck_assert_ptr_nonnull(client);
	step = both(client, server, &request, err);
	auth_free(client);
	auth_server_free(server);
	buffer_free(&request);
	return step;
}

START_TEST(with_our_client)
{
	Slice here = slice_cstr("01234567890123456789012345678901");
	Slice elsewhere = slice_cstr("other567890123456789012345678901");
	Secret secret = pencil();
	Error err = ERROR_INIT;

	ck_assert_int_eq(login(&secret, false, (AuthOptions){.password = "pencil"}, SLICE_EMPTY, &err),
	                 AUTH_DONE);
	ck_assert_int_eq(login(&secret, true, (AuthOptions){.password = "pencil"}, SLICE_EMPTY, &err),
	                 AUTH_FAILED);
	ck_assert_str_eq(err.sqlstate, "28P01");
	ck_assert_int_eq(login(&secret, false, (AuthOptions){.password = "pen"}, SLICE_EMPTY, &err),
	                 AUTH_FAILED);
	AuthOptions bound = {
		.password = "pencil", .tls = true, .binding_data = here, .channel_binding = "require"};
	ck_assert_int_eq(login(&secret, false, bound, here, &err), AUTH_DONE);
	/* Somebody stands between us: the certificate that the client sees is another. */
	ck_assert_int_eq(login(&secret, false, bound, elsewhere, &err), AUTH_FAILED);
	ck_assert_str_eq(err.message, "SCRAM channel binding check failed");
	bound.channel_binding = "disable";
	ck_assert_int_eq(login(&secret, false, bound, here, &err), AUTH_DONE);
}
END_TEST

/* Somebody has cut -PLUS off our offer: the client says "y", and we know better. */
START_TEST(downgrade_is_seen)
{
	Secret secret = pencil();
	Buffer reply = BUFFER_INIT, message = BUFFER_INIT;
	Error err = ERROR_INIT;
	AuthServer *auth = server_for(&secret, false, slice_cstr("0123456789012345"), NULL, &reply);

	initial(&message, "SCRAM-SHA-256", "y,,n=,r=abc");
	ck_assert_int_eq(auth_server_step(auth, buffer_slice(&message), &reply, &err), AUTH_FAILED);
	ck_assert_str_eq(err.sqlstate, "28000");
	auth_server_free(auth);
	buffer_free(&reply);
	buffer_free(&message);
}
END_TEST

/* What a client proves in one login is enough for the next one, without its password. */
START_TEST(proved_keys_log_in)
{
	Secret secret = pencil();
	Buffer request = BUFFER_INIT;
	Error err = ERROR_INIT;
	AuthServer *server = server_for(&secret, false, SLICE_EMPTY, NULL, &request);
	Auth *client = auth_new(&(AuthOptions){.user = "u", .password = "pencil"}, &err);
	const ScramKeys *keys;
	const char *md5, *password;

	ck_assert_int_eq(both(client, server, &request, &err), AUTH_DONE);
	auth_server_proved(server, &keys, &md5, &password);
	ScramKeys kept = *keys;
	auth_free(client);
	auth_server_free(server);
	buffer_free(&request);
	ck_assert_int_eq(login(&secret, false, (AuthOptions){.scram_keys = &kept}, SLICE_EMPTY, &err),
	                 AUTH_DONE);
	kept.client_key[0] ^= 1;
	ck_assert_int_eq(login(&secret, false, (AuthOptions){.scram_keys = &kept}, SLICE_EMPTY, &err),
	                 AUTH_FAILED);
}
END_TEST

START_TEST(md5_secrets)
{
	Error err = ERROR_INIT;
	char hex[33];
	Secret secret;

	ck_assert(md5_hex(slice_cstr("pencil"), slice_cstr("u"), hex));
	char *text = mem_printf("md5%s", hex);
	ck_assert(secret_parse(text, &secret));
	ck_assert_int_eq(secret.kind, SECRET_MD5);
	ck_assert_int_eq(login(&secret, false, (AuthOptions){.password = "pencil"}, SLICE_EMPTY, &err),
	                 AUTH_DONE);
	ck_assert_int_eq(login(&secret, false, (AuthOptions){.md5_secret = hex}, SLICE_EMPTY, &err),
	                 AUTH_DONE);
	ck_assert_int_eq(login(&secret, false, (AuthOptions){.password = "pen"}, SLICE_EMPTY, &err),
	                 AUTH_FAILED);
	ck_assert_str_eq(err.sqlstate, "28P01");
	ck_assert_int_eq(login(&secret, true, (AuthOptions){.md5_secret = hex}, SLICE_EMPTY, &err),
	                 AUTH_FAILED);
	free(text);
}
END_TEST

/* A secret of one kind cannot answer the other's question, and the text says what can. */
START_TEST(secret_of_another_kind)
{
	Buffer reply = BUFFER_INIT;
	Error err = ERROR_INIT;
	ScramKeys keys = {{0}, {0}};
	Auth *auth = auth_new(&(AuthOptions){.user = "u", .scram_keys = &keys}, &err);

	ck_assert_int_eq(auth_step(auth, slice_of("\0\0\0\3", 4), &reply, &err), AUTH_FAILED);
	ck_assert_ptr_nonnull(strstr(err.hint, "--auth-file"));
	auth_free(auth);
	buffer_free(&reply);
}
END_TEST

START_TEST(secrets_of_all_kinds)
{
	static const struct {
		const char *text;
		SecretKind kind;
	} cases[] = {
		{NULL, SECRET_NONE},
		{"", SECRET_NONE},
		{"md5", SECRET_PLAIN},
		{"md50123456789abcdef0123456789abcde", SECRET_PLAIN},
		{"md50123456789abcdef0123456789abcdeF", SECRET_PLAIN},
		{"md50123456789abcdef0123456789abcdef", SECRET_MD5},
		{"SCRAM-SHA-256$", SECRET_PLAIN},
		{"SCRAM-SHA-256$4096:c2FsdA==$AAAA:AAAA", SECRET_PLAIN},
		{"SCRAM-SHA-256$0:c2FsdA==$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:"
	     "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
	     SECRET_PLAIN},
		{"SCRAM-SHA-256$4096:c2FsdA==$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:"
	     "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
	     SECRET_SCRAM},
	};
	Secret secret;
	Error err = ERROR_INIT;

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		ck_assert(secret_parse(cases[i].text, &secret));
		ck_assert_msg(secret.kind == cases[i].kind, "%s", cases[i].text);
	}
	char longer[SECRET_PLAIN_MAX + 1];
	memset(longer, 'x', SECRET_PLAIN_MAX);
	longer[SECRET_PLAIN_MAX] = '\0';
	ck_assert(!secret_parse(longer, &secret));

	ck_assert(secret_parse("pencil", &secret) && secret_add_verifier(&secret, &err));
	ck_assert_int_eq(login(&secret, false, (AuthOptions){.password = "pencil"}, SLICE_EMPTY, &err),
	                 AUTH_DONE);
}
END_TEST

START_TEST(mock_is_steady)
{
	uint8_t nonce[SCRAM_KEY_SIZE] = {1, 2, 3};
	Secret one, again, other;
	Error err = ERROR_INIT;

	secret_mock("ghost", nonce, &one);
	secret_mock("ghost", nonce, &again);
	secret_mock("ghosts", nonce, &other);
	ck_assert_str_eq(one.salt, again.salt);
	ck_assert_str_ne(one.salt, other.salt);
	ck_assert_int_eq(login(&one, true, (AuthOptions){.password = "x"}, SLICE_EMPTY, &err),
	                 AUTH_FAILED);
}
END_TEST

static Suite *
make(void)
{
	Suite *suite = suite_create("auth_server");
	TCase *tcase = tcase_create("auth_server");

	tcase_add_test(tcase, rfc_7677);
	tcase_add_test(tcase, wrong_messages);
	tcase_add_test(tcase, truncations);
	tcase_add_test(tcase, with_our_client);
	tcase_add_test(tcase, downgrade_is_seen);
	tcase_add_test(tcase, proved_keys_log_in);
	tcase_add_test(tcase, md5_secrets);
	tcase_add_test(tcase, secret_of_another_kind);
	tcase_add_test(tcase, secrets_of_all_kinds);
	tcase_add_test(tcase, mock_is_steady);
	suite_add_tcase(suite, tcase);
	return suite;
}

TEST_SUITE(make)
