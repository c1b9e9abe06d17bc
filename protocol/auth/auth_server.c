#include "protocol/auth/auth_server.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <stdlib.h>
#include <string.h>

#include "common/memory.h"
#include "protocol/auth/md5.h"
#include "protocol/message/backend.h"

#define MECHANISM "SCRAM-SHA-256"
#define MECHANISM_PLUS "SCRAM-SHA-256-PLUS"

enum { NONCE_MAX = 1024, BINDING_MAX = 64 };

/*
 *   MD5_ASKED -----------------------------------------> DONE
 *   SASL_ASKED --client-first--> FIRST_ANSWERED --proof-> DONE
 *   any --refusal--> FAILED
 */
typedef enum {
	STATE_MD5_ASKED,
	STATE_SASL_ASKED,
	STATE_FIRST_ANSWERED,
	STATE_DONE,
	STATE_FAILED
} State;

struct AuthServer {
	State state;
	char *user;
	Secret secret;
	bool doomed;
	bool tls;
	uint8_t binding[BINDING_MAX];
	size_t binding_len;
	uint8_t salt[4]; /* md5 */
	char *nonce;     /* ours */
	bool plus;       /* the mechanism that the client chose */
	char *gs2;       /* its header, as it came */
	char *first_bare;
	char *both_nonces;
	char *server_first;
	ScramKeys keys;
};

/* ---- refusals, in PostgreSQL's words ---- */

static bool
refuse(Error *err, const char *sqlstate, const char *message)
{
	error_set(err, ERROR_AUTH, "%s", message);
	return error_set_sqlstate(err, sqlstate);
}

static bool
malformed(Error *err)
{
	return refuse(err, "08P01", "malformed SCRAM message");
}

static bool
wrong_password(const AuthServer *auth, Error *err)
{
	error_set(err, ERROR_AUTH, "password authentication failed for user \"%s\"", auth->user);
	return error_set_sqlstate(err, "28P01");
}

/* ---- the first request ---- */

static bool
ask(AuthServer *auth, Buffer *request)
{
	Buffer list = BUFFER_INIT;

	if (auth->secret.kind == SECRET_MD5) {
		auth->state = STATE_MD5_ASKED;
		backend_put_auth(request, AUTH_REQUEST_MD5, slice_of(auth->salt, sizeof(auth->salt)));
		return true;
	}
	auth->state = STATE_SASL_ASKED;
	if (auth->binding_len > 0)
		buffer_put_cstr(&list, MECHANISM_PLUS);
	buffer_put_cstr(&list, MECHANISM);
	buffer_put_u8(&list, 0);
	backend_put_auth(request, AUTH_REQUEST_SASL, buffer_slice(&list));
	buffer_free(&list);
	return true;
}

AuthServer *
auth_server_new(const AuthServerOptions *options, Buffer *request, Error *err)
{
	AuthServer *auth = mem_zalloc(sizeof(AuthServer));

	auth->user = mem_strdup(options->user);
	auth->secret = *options->secret;
	auth->doomed = options->doomed;
	auth->tls = options->tls;
	CHECK(auth->secret.kind != SECRET_NONE && options->binding_data.len <= BINDING_MAX);
	if (options->tls && options->binding_data.len > 0) {
		auth->binding_len = options->binding_data.len;
		memcpy(auth->binding, options->binding_data.data, auth->binding_len);
	}
	auth->nonce = options->nonce != NULL ? mem_strdup(options->nonce) : scram_random_nonce();
	if (auth->nonce == NULL || RAND_bytes(auth->salt, sizeof(auth->salt)) != 1) {
		error_set(err, ERROR_AUTH, "no random bytes for a login");
		auth_server_free(auth);
		return NULL;
	}
	ask(auth, request);
	return auth;
}

void
auth_server_free(AuthServer *auth)
{
	if (auth == NULL)
		return;
	secret_wipe(&auth->secret);
	mem_wipe(&auth->keys, sizeof(auth->keys));
	free(auth->user);
	free(auth->nonce);
	free(auth->gs2);
	free(auth->first_bare);
	free(auth->both_nonces);
	free(auth->server_first);
	free(auth);
}

/* ---- md5 ---- */

static bool
check_md5(AuthServer *auth, Slice payload, Error *err)
{
	ByteReader r = reader_of(payload);
	const char *answer = read_cstr(&r);
	char wanted[33];

	if (!reader_done(&r))
		return refuse(err, "08P01", "invalid password packet size");
	bool ok = md5_hex(slice_of(auth->secret.md5, 32), slice_of(auth->salt, sizeof(auth->salt)),
	                  wanted) &&
	          strlen(answer) == 35 && memcmp(answer, "md5", 3) == 0 &&
	          CRYPTO_memcmp(answer + 3, wanted, 32) == 0;
	mem_wipe(wanted, sizeof(wanted));
	return (ok && !auth->doomed) || wrong_password(auth, err);
}

/* ---- SCRAM: client-first-message ---- */

static bool
read_initial(AuthServer *auth, Slice payload, Slice *message, Error *err)
{
	ByteReader r = reader_of(payload);
	const char *mechanism = read_cstr(&r);
	uint32_t len = read_u32(&r);

	if (r.failed)
		return malformed(err);
	auth->plus = strcmp(mechanism, MECHANISM_PLUS) == 0;
	if (auth->plus ? auth->binding_len == 0 : strcmp(mechanism, MECHANISM) != 0)
		return refuse(err, "08P01", "client selected an invalid SASL authentication mechanism");
	/* -1: no initial response. SCRAM begins with the client: it must send one. */
	if (len == UINT32_MAX || len != reader_left(&r))
		return malformed(err);
	*message = read_bytes(&r, len);
	return memchr(message->len > 0 ? message->data : (const uint8_t *)"", 0, message->len) ==
	           NULL ||
	       malformed(err);
}

/* "n,," "y,," or "p=tls-server-end-point,,": what the client says of channel binding. */
static bool
take_gs2(AuthServer *auth, Slice *message, Error *err)
{
	static const char bound[] = "p=tls-server-end-point";
	size_t flag = 1;

	if (message->len > 0 && message->data[0] == 'p')
		flag = strlen(bound);
	if (message->len < flag + 2)
		return malformed(err);
	char kind = (char)message->data[0];
	if (kind == 'p' && memcmp(message->data, bound, flag) != 0)
		return refuse(err, "08P01", "unsupported SCRAM channel-binding type");
	if (kind != 'n' && kind != 'y' && kind != 'p')
		return malformed(err);
	if (auth->plus != (kind == 'p'))
		return malformed(err);
	/* It could bind and thinks that we cannot: somebody cut our offer away. */
	if (kind == 'y' && auth->binding_len > 0)
		return refuse(err, "28000", "SCRAM channel binding negotiation error");
	if (message->data[flag] != ',')
		return malformed(err);
	if (message->data[flag + 1] != ',')
		return refuse(err, "0A000", "client uses authorization identity, but it is not supported");
	auth->gs2 = mem_strndup((const char *)message->data, flag + 2);
	*message = slice_of(message->data + flag + 2, message->len - flag - 2);
	return true;
}

static bool
printable(Slice text)
{
	for (size_t i = 0; i < text.len; i++)
		if (text.data[i] < 0x21 || text.data[i] > 0x7E)
			return false;
	return text.len > 0;
}

static bool
take_client_first(AuthServer *auth, Slice payload, Buffer *reply, Error *err)
{
	Slice message, user, nonce;

	if (!read_initial(auth, payload, &message, err) || !take_gs2(auth, &message, err))
		return false;
	auth->first_bare = mem_strndup((const char *)message.data, message.len);
	if (message.len > 1 && message.data[0] == 'm')
		return refuse(err, "0A000", "client requires an unsupported SCRAM extension");
	/* The name is not looked at: the startup message has it. */
	if (!scram_take_attribute(&message, 'n', &user) ||
	    !scram_take_attribute(&message, 'r', &nonce) || nonce.len > NONCE_MAX)
		return malformed(err);
	if (!printable(nonce))
		return refuse(err, "08P01", "non-printable characters in SCRAM nonce");
	auth->both_nonces = mem_printf("%.*s%s", (int)nonce.len, (const char *)nonce.data, auth->nonce);
	auth->server_first = mem_printf("r=%s,s=%s,i=%d", auth->both_nonces, auth->secret.salt,
	                                auth->secret.iterations);
	backend_put_auth(reply, AUTH_REQUEST_SASL_CONTINUE, slice_cstr(auth->server_first));
	auth->state = STATE_FIRST_ANSWERED;
	return true;
}

/* ---- SCRAM: client-final-message ---- */

static bool
binding_matches(const AuthServer *auth, Slice value)
{
	Buffer wanted = BUFFER_INIT;

	buffer_put_text(&wanted, auth->gs2);
	if (auth->plus)
		buffer_put(&wanted, auth->binding, auth->binding_len);
	char *text = scram_base64(buffer_slice(&wanted));
	bool same = slice_eq_cstr(value, text);
	free(text);
	buffer_free(&wanted);
	return same;
}

typedef struct {
	Slice without_proof;
	uint8_t proof[SCRAM_KEY_SIZE];
} ClientFinal;

static bool
parse_client_final(const AuthServer *auth, Slice message, ClientFinal *out, Error *err)
{
	Slice binding, nonce, value = SLICE_EMPTY, whole = message;

	if (message.len == 0 || memchr(message.data, 0, message.len) != NULL ||
	    !scram_take_attribute(&message, 'c', &binding))
		return malformed(err);
	if (!binding_matches(auth, binding))
		return auth->plus ? refuse(err, "28000", "SCRAM channel binding check failed")
		                  : refuse(err, "08P01",
		                           "unexpected SCRAM channel-binding attribute in client-final-"
		                           "message");
	if (!scram_take_attribute(&message, 'r', &nonce))
		return malformed(err);
	if (!slice_eq_cstr(nonce, auth->both_nonces))
		return refuse(err, "08P01", "invalid SCRAM response");
	/* Extensions may stand between; the proof is the last one. */
	const uint8_t *before = message.data;
	while (message.len > 0 && message.data[0] != 'p') {
		if (!scram_take_attribute(&message, (char)message.data[0], &value))
			return malformed(err);
		before = message.data;
	}
	if (!scram_take_attribute(&message, 'p', &value) || message.len != 0 ||
	    scram_base64_decode(value, out->proof, SCRAM_KEY_SIZE) != SCRAM_KEY_SIZE)
		return malformed(err);
	out->without_proof = slice_of(whole.data, (size_t)(before - whole.data) - 1);
	return true;
}

/* RFC 5802: ClientKey = proof XOR HMAC(StoredKey, AuthMessage), and H(ClientKey) must be
 * StoredKey. */
static bool
verify_proof(AuthServer *auth, const ClientFinal *final, uint8_t signature[SCRAM_KEY_SIZE])
{
	uint8_t mask[SCRAM_KEY_SIZE], stored[SCRAM_KEY_SIZE];
	char *message = mem_printf("%s,%s,%.*s", auth->first_bare, auth->server_first,
	                           (int) final->without_proof.len,
	                           (const char *) final->without_proof.data);

	bool ok = scram_hmac(auth->secret.stored_key, slice_cstr(message), mask) &&
	          scram_hmac(auth->secret.server_key, slice_cstr(message), signature);
	for (int i = 0; ok && i < SCRAM_KEY_SIZE; i++)
		auth->keys.client_key[i] = final->proof[i] ^ mask[i];
	ok = ok && scram_sha256(slice_of(auth->keys.client_key, SCRAM_KEY_SIZE), stored) &&
	     CRYPTO_memcmp(stored, auth->secret.stored_key, SCRAM_KEY_SIZE) == 0;
	memcpy(auth->keys.server_key, auth->secret.server_key, SCRAM_KEY_SIZE);
	mem_wipe(mask, sizeof(mask));
	mem_wipe(stored, sizeof(stored));
	free(message);
	return ok && !auth->doomed;
}

static bool
take_client_final(AuthServer *auth, Slice payload, Buffer *reply, Error *err)
{
	ClientFinal final;
	uint8_t signature[SCRAM_KEY_SIZE];

	if (!parse_client_final(auth, payload, &final, err))
		return false;
	bool ok = verify_proof(auth, &final, signature);
	mem_wipe(final.proof, sizeof(final.proof));
	if (!ok)
		return wrong_password(auth, err);
	char *text = scram_base64(slice_of(signature, sizeof(signature)));
	char *message = mem_printf("v=%s", text);
	backend_put_auth(reply, AUTH_REQUEST_SASL_FINAL, slice_cstr(message));
	free(text);
	free(message);
	return true;
}

AuthStep
auth_server_step(AuthServer *auth, Slice payload, Buffer *reply, Error *err)
{
	bool ok = false;

	switch (auth->state) {
	case STATE_MD5_ASKED:
		ok = check_md5(auth, payload, err);
		auth->state = STATE_DONE;
		break;
	case STATE_SASL_ASKED:
		ok = take_client_first(auth, payload, reply, err);
		break;
	case STATE_FIRST_ANSWERED:
		ok = take_client_final(auth, payload, reply, err);
		auth->state = STATE_DONE;
		break;
	case STATE_DONE:
	case STATE_FAILED:
		refuse(err, "08P01", "the login has ended already");
		break;
	}
	if (!ok) {
		auth->state = STATE_FAILED;
		return AUTH_FAILED;
	}
	return auth->state == STATE_DONE ? AUTH_DONE : AUTH_CONTINUE;
}

void
auth_server_proved(const AuthServer *auth, const ScramKeys **keys, const char **md5_secret,
                   const char **password)
{
	CHECK(auth->state == STATE_DONE);
	*keys = auth->secret.kind == SECRET_SCRAM ? &auth->keys : NULL;
	*md5_secret = auth->secret.kind == SECRET_MD5 ? auth->secret.md5 : NULL;
	*password = auth->secret.kind == SECRET_PLAIN ? auth->secret.plain : NULL;
}
