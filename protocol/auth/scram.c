#include "protocol/auth/scram.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <stdlib.h>
#include <string.h>

#include "common/memory.h"
#include "protocol/auth/saslprep.h"

enum {
	KEY_SIZE = 32,
	NONCE_RAW = 18,
	SALT_MAX = 1024,
	NONCE_MAX = 1024,
};

struct Scram {
	char *password; /* prepared; wiped after the key is derived */
	char *nonce;
	char *first_bare; /* n=user,r=nonce */
	char *gs2;        /* n,, y,, or p=...,, */
	Buffer binding;   /* gs2 and the binding data: what c= carries */
	uint8_t server_signature[KEY_SIZE];
	bool signed_;
};

static char *
base64(Slice bytes)
{
	char *text = mem_alloc(bytes.len / 3 * 4 + 5);

	text[0] = '\0';
	EVP_EncodeBlock((unsigned char *)text, bytes.data, (int)bytes.len);
	return text;
}

/* Strict: -1 when it is not base64 or too long for out. */
static int
base64_decode(Slice text, uint8_t *out, size_t size)
{
	uint8_t room[SALT_MAX / 3 * 4 + 8];

	if (text.len == 0 || text.len % 4 != 0 || text.len / 4 * 3 > sizeof(room) ||
	    text.len > SALT_MAX)
		return -1;
	int n = EVP_DecodeBlock(room, text.data, (int)text.len);
	if (n < 0)
		return -1;
	/* OpenSSL counts the padding as zero bytes. */
	n -= text.data[text.len - 1] == '=';
	n -= text.data[text.len - 2] == '=';
	if (n < 0 || (size_t)n > size)
		return -1;
	memcpy(out, room, (size_t)n);
	mem_wipe(room, sizeof(room));
	return n;
}

static char *
random_nonce(Error *err)
{
	uint8_t raw[NONCE_RAW];

	if (RAND_bytes(raw, sizeof(raw)) != 1) {
		error_set(err, ERROR_AUTH, "no random bytes for the SCRAM nonce");
		return NULL;
	}
	return base64(slice_of(raw, sizeof(raw)));
}

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

	scram->nonce = options->nonce != NULL ? mem_strdup(options->nonce) : random_nonce(err);
	if (scram->nonce == NULL || !saslprep(options->password, &scram->password, err)) {
		scram_free(scram);
		return NULL;
	}
	char *user = escape_name(options->user);
	scram->first_bare = mem_printf("n=%s,r=%s", user, scram->nonce);
	free(user);
	return scram;
}

void
scram_free(Scram *scram)
{
	if (scram == NULL)
		return;
	mem_wipe_free_cstr(scram->password);
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

/* Takes "x=value" up to the next comma off *rest; false if it is not there. */
static bool
take_attribute(Slice *rest, char name, Slice *value)
{
	if (rest->len < 2 || rest->data[0] != (uint8_t)name || rest->data[1] != '=')
		return false;
	const uint8_t *comma = memchr(rest->data, ',', rest->len);
	size_t len = comma != NULL ? (size_t)(comma - rest->data) : rest->len;
	*value = slice_of(rest->data + 2, len - 2);
	size_t used = comma != NULL ? len + 1 : len;
	*rest = slice_of(rest->data + used, rest->len - used);
	return true;
}

typedef struct {
	Slice nonce;
	uint8_t salt[SALT_MAX];
	int salt_len;
	int iterations;
} ServerFirst;

static bool
parse_iterations(Slice text, int *out)
{
	long value = 0;

	if (text.len == 0 || text.len > 10)
		return false;
	for (size_t i = 0; i < text.len; i++) {
		if (text.data[i] < '0' || text.data[i] > '9')
			return false;
		value = value * 10 + (text.data[i] - '0');
	}
	if (value < 1 || value > INT32_MAX)
		return false;
	*out = (int)value;
	return true;
}

static bool
parse_server_first(const Scram *scram, Slice message, ServerFirst *out, Error *err)
{
	Slice nonce, salt, iterations;
	size_t own = strlen(scram->nonce);

	if (memchr(message.data != NULL ? message.data : (const uint8_t *)"", 0, message.len) != NULL ||
	    !take_attribute(&message, 'r', &nonce) || !take_attribute(&message, 's', &salt) ||
	    !take_attribute(&message, 'i', &iterations))
		return error_set(err, ERROR_PROTOCOL, "the server's first SCRAM message is malformed");
	if (nonce.len <= own || nonce.len > NONCE_MAX || memcmp(nonce.data, scram->nonce, own) != 0)
		return error_set(err, ERROR_AUTH, "the server's SCRAM nonce does not continue ours");
	out->nonce = nonce;
	out->salt_len = base64_decode(salt, out->salt, sizeof(out->salt));
	if (out->salt_len <= 0 || !parse_iterations(iterations, &out->iterations))
		return error_set(err, ERROR_PROTOCOL, "the server's first SCRAM message is malformed");
	if (out->iterations > SCRAM_ITERATIONS_MAX)
		return error_set(err, ERROR_AUTH,
		                 "the server demands %d SCRAM iterations; more than %d are refused",
		                 out->iterations, SCRAM_ITERATIONS_MAX);
	return true;
}

static bool
hmac(const uint8_t key[KEY_SIZE], Slice text, uint8_t out[KEY_SIZE])
{
	unsigned int len = 0;
	return HMAC(EVP_sha256(), key, KEY_SIZE, text.data, text.len, out, &len) != NULL &&
	       len == KEY_SIZE;
}

static bool
sha256(const uint8_t in[KEY_SIZE], uint8_t out[KEY_SIZE])
{
	unsigned int len = 0;
	return EVP_Digest(in, KEY_SIZE, out, &len, EVP_sha256(), NULL) == 1 && len == KEY_SIZE;
}

/* RFC 5802, section 3: the proof to send, the signature to expect. */
static bool
derive(Scram *scram, const ServerFirst *first, Slice auth_message, uint8_t proof[KEY_SIZE])
{
	uint8_t salted[KEY_SIZE], client[KEY_SIZE], stored[KEY_SIZE], server[KEY_SIZE];

	bool ok = PKCS5_PBKDF2_HMAC(scram->password, (int)strlen(scram->password), first->salt,
	                            first->salt_len, first->iterations, EVP_sha256(), KEY_SIZE,
	                            salted) == 1 &&
	          hmac(salted, slice_cstr("Client Key"), client) && sha256(client, stored) &&
	          hmac(stored, auth_message, proof) && hmac(salted, slice_cstr("Server Key"), server) &&
	          hmac(server, auth_message, scram->server_signature);
	for (int i = 0; ok && i < KEY_SIZE; i++)
		proof[i] ^= client[i];
	mem_wipe(salted, sizeof(salted));
	mem_wipe(client, sizeof(client));
	mem_wipe(stored, sizeof(stored));
	mem_wipe(server, sizeof(server));
	return ok;
}

bool
scram_continue(Scram *scram, Slice server_first, Buffer *out, Error *err)
{
	ServerFirst first;

	if (scram->password == NULL)
		return error_set(err, ERROR_PROTOCOL, "the server sent its first SCRAM message twice");
	if (!parse_server_first(scram, server_first, &first, err))
		return false;

	char *binding = base64(buffer_slice(&scram->binding));
	char *bare = mem_printf("c=%s,r=%.*s", binding, (int)first.nonce.len,
	                        (const char *)first.nonce.data);
	char *auth_message = mem_printf("%s,%.*s,%s", scram->first_bare, (int)server_first.len,
	                                (const char *)server_first.data, bare);
	uint8_t proof[KEY_SIZE];

	bool ok = derive(scram, &first, slice_cstr(auth_message), proof);
	if (ok) {
		char *proof_text = base64(slice_of(proof, sizeof(proof)));
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
	mem_wipe_free_cstr(scram->password);
	scram->password = NULL;
	return ok;
}

bool
scram_finish(Scram *scram, Slice server_final, Error *err)
{
	Slice value;
	uint8_t signature[SALT_MAX];

	if (!scram->signed_)
		return error_set(err, ERROR_PROTOCOL, "the server ended SCRAM before it began");
	if (take_attribute(&server_final, 'e', &value))
		return error_set(err, ERROR_AUTH, "the server refuses: %.*s",
		                 (int)(value.len < 100 ? value.len : 100), (const char *)value.data);
	if (!take_attribute(&server_final, 'v', &value))
		return error_set(err, ERROR_PROTOCOL, "the server's final SCRAM message is malformed");
	int len = base64_decode(value, signature, sizeof(signature));
	if (len != KEY_SIZE || CRYPTO_memcmp(signature, scram->server_signature, KEY_SIZE) != 0) {
		error_set(err, ERROR_AUTH,
		          "the server does not know the password: its SCRAM "
		          "signature is wrong");
		return error_set_hint(err, "somebody may stand between us and the server");
	}
	return true;
}
