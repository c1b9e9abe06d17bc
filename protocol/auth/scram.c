#include "protocol/auth/scram.h"

#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

#include "common/memory.h"
#include "protocol/auth/saslprep.h"
#include "protocol/auth/scram_keys.h"

enum { NONCE_MAX = 1024 };

struct Scram {
	char *password; /* prepared; wiped after the key is derived; NULL with keys */
	bool has_keys;
	uint8_t client_key[SCRAM_KEY_SIZE]; /* given, or derived; wiped after the proof */
	uint8_t server_key[SCRAM_KEY_SIZE];
	char *nonce;
	char *first_bare; /* n=user,r=nonce */
	char *gs2;        /* n,, y,, or p=...,, */
	Buffer binding;   /* gs2 and the binding data: what c= carries */
	uint8_t server_signature[SCRAM_KEY_SIZE];
	bool signed_;
};

/* RFC 5802: ',' and '=' of a name are written =2C and =3D. */
static char *
escape_name(const char *name)
{
	Buffer out = BUFFER_INIT;

	for (; *name != '\0'; name++) {
		if (*name == ',')
			buffer_put_text(&out, "=2C");
		else if (*name == '=')
			buffer_put_text(&out, "=3D");
		else
			buffer_put_u8(&out, (uint8_t)*name);
	}
	char *text = mem_strdup(buffer_cstr(&out));
	buffer_free(&out);
	return text;
}

static bool
take_secret(Scram *scram, const ScramOptions *options, Error *err)
{
	if (options->keys == NULL)
		return saslprep(options->password, &scram->password, err);
	scram->has_keys = true;
	memcpy(scram->client_key, options->keys->client_key, SCRAM_KEY_SIZE);
	memcpy(scram->server_key, options->keys->server_key, SCRAM_KEY_SIZE);
	return true;
}

Scram *
scram_new(const ScramOptions *options, Error *err)
{
	static const char *const headers[] = {
		[SCRAM_BIND_UNSUPPORTED] = "n,,",
		[SCRAM_BIND_NOT_OFFERED] = "y,,",
		[SCRAM_BIND_TLS] = "p=tls-server-end-point,,",
	};
	Scram *scram = mem_zalloc(sizeof(Scram));

	scram->gs2 = mem_strdup(headers[options->binding]);
	buffer_put_text(&scram->binding, scram->gs2);
	if (options->binding == SCRAM_BIND_TLS)
		buffer_put_slice(&scram->binding, options->binding_data);

	scram->nonce = options->nonce != NULL ? mem_strdup(options->nonce) : scram_random_nonce();
	if (scram->nonce == NULL)
		error_set(err, ERROR_AUTH, "no random bytes for the SCRAM nonce");
	if (scram->nonce == NULL || !take_secret(scram, options, err)) {
		scram_free(scram);
		return NULL;
	}
	char *user = escape_name(options->user);
	scram->first_bare = mem_printf("n=%s,r=%s", user, scram->nonce);
	free(user);
	return scram;
}

/* What the proof was made from is not needed again. */
static void
forget_secrets(Scram *scram)
{
	mem_wipe_free_cstr(scram->password);
	scram->password = NULL;
	scram->has_keys = false;
	mem_wipe(scram->client_key, sizeof(scram->client_key));
	mem_wipe(scram->server_key, sizeof(scram->server_key));
}

void
scram_free(Scram *scram)
{
	if (scram == NULL)
		return;
	forget_secrets(scram);
	free(scram->nonce);
	free(scram->first_bare);
	free(scram->gs2);
	buffer_free(&scram->binding);
	mem_wipe(scram->server_signature, sizeof(scram->server_signature));
	free(scram);
}

void
scram_first(const Scram *scram, Buffer *out)
{
	buffer_put_text(out, scram->gs2);
	buffer_put_text(out, scram->first_bare);
}

typedef struct {
	Slice nonce;
	uint8_t salt[SCRAM_SALT_MAX];
	int salt_len;
	int iterations;
} ServerFirst;

static bool
parse_server_first(const Scram *scram, Slice message, ServerFirst *out, Error *err)
{
	Slice nonce, salt, iterations;
	size_t own = strlen(scram->nonce);

	if (memchr(message.data != NULL ? message.data : (const uint8_t *)"", 0, message.len) != NULL ||
	    !scram_take_attribute(&message, 'r', &nonce) ||
	    !scram_take_attribute(&message, 's', &salt) ||
	    !scram_take_attribute(&message, 'i', &iterations))
		return error_set(err, ERROR_PROTOCOL, "the server's first SCRAM message is malformed");
	if (nonce.len <= own || nonce.len > NONCE_MAX || memcmp(nonce.data, scram->nonce, own) != 0)
		return error_set(err, ERROR_AUTH, "the server's SCRAM nonce does not continue ours");
	out->nonce = nonce;
	out->salt_len = scram_base64_decode(salt, out->salt, sizeof(out->salt));
	if (out->salt_len <= 0 || !scram_parse_iterations(iterations, &out->iterations))
		return error_set(err, ERROR_PROTOCOL, "the server's first SCRAM message is malformed");
	if (out->iterations > SCRAM_ITERATIONS_MAX)
		return error_set(err, ERROR_AUTH,
		                 "the server demands %d SCRAM iterations; more than %d are refused",
		                 out->iterations, SCRAM_ITERATIONS_MAX);
	return true;
}

/* RFC 5802, section 3: the proof to send, the signature to expect. */
static bool
prove(Scram *scram, const ServerFirst *first, Slice auth_message, uint8_t proof[SCRAM_KEY_SIZE])
{
	uint8_t stored[SCRAM_KEY_SIZE];

	bool ok = (scram->has_keys ||
	           scram_derive(scram->password, slice_of(first->salt, (size_t)first->salt_len),
	                        first->iterations, scram->client_key, scram->server_key)) &&
	          scram_sha256(slice_of(scram->client_key, SCRAM_KEY_SIZE), stored) &&
	          scram_hmac(stored, auth_message, proof) &&
	          scram_hmac(scram->server_key, auth_message, scram->server_signature);
	for (int i = 0; ok && i < SCRAM_KEY_SIZE; i++)
		proof[i] ^= scram->client_key[i];
	mem_wipe(stored, sizeof(stored));
	return ok;
}

bool
scram_continue(Scram *scram, Slice server_first, Buffer *out, Error *err)
{
	ServerFirst first;

	if (scram->password == NULL && !scram->has_keys)
		return error_set(err, ERROR_PROTOCOL, "the server sent its first SCRAM message twice");
	if (!parse_server_first(scram, server_first, &first, err))
		return false;

	char *binding = scram_base64(buffer_slice(&scram->binding));
	char *bare = mem_printf("c=%s,r=%.*s", binding, (int)first.nonce.len,
	                        (const char *)first.nonce.data);
	char *auth_message = mem_printf("%s,%.*s,%s", scram->first_bare, (int)server_first.len,
	                                (const char *)server_first.data, bare);
	uint8_t proof[SCRAM_KEY_SIZE];

	bool ok = prove(scram, &first, slice_cstr(auth_message), proof);
	if (ok) {
		char *proof_text = scram_base64(slice_of(proof, sizeof(proof)));
		buffer_printf(out, "%s,p=%s", bare, proof_text);
		mem_wipe_free_cstr(proof_text);
		scram->signed_ = true;
	} else {
		error_set(err, ERROR_AUTH, "OpenSSL cannot compute SCRAM-SHA-256");
	}
	mem_wipe(proof, sizeof(proof));
	free(binding);
	free(bare);
	free(auth_message);
	forget_secrets(scram);
	return ok;
}

bool
scram_finish(Scram *scram, Slice server_final, Error *err)
{
	Slice value;
	uint8_t signature[SCRAM_SALT_MAX];

	if (!scram->signed_)
		return error_set(err, ERROR_PROTOCOL, "the server ended SCRAM before it began");
	if (scram_take_attribute(&server_final, 'e', &value))
		return error_set(err, ERROR_AUTH, "the server refuses: %.*s",
		                 (int)(value.len < 100 ? value.len : 100), (const char *)value.data);
	if (!scram_take_attribute(&server_final, 'v', &value))
		return error_set(err, ERROR_PROTOCOL, "the server's final SCRAM message is malformed");
	int len = scram_base64_decode(value, signature, sizeof(signature));
	if (len != SCRAM_KEY_SIZE ||
	    CRYPTO_memcmp(signature, scram->server_signature, SCRAM_KEY_SIZE) != 0) {
		error_set(err, ERROR_AUTH,
		          "the server does not know the password: its SCRAM "
		          "signature is wrong");
		return error_set_hint(err, "somebody may stand between us and the server");
	}
	return true;
}
