#include "protocol/auth/secret.h"

#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/memory.h"
#include "protocol/auth/saslprep.h"

enum { DEFAULT_ITERATIONS = 4096, SALT_RAW = 16 };

/* Takes the text before `until` off *rest. */
static bool
take_until(Slice *rest, char until, Slice *out)
{
	const uint8_t *at = rest->len > 0 ? memchr(rest->data, until, rest->len) : NULL;

	if (at == NULL)
		return false;
	*out = slice_of(rest->data, (size_t)(at - rest->data));
	*rest = slice_of(at + 1, rest->len - out->len - 1);
	return true;
}

static bool
decode_key(Slice text, uint8_t out[SCRAM_KEY_SIZE])
{
	return scram_base64_decode(text, out, SCRAM_KEY_SIZE) == SCRAM_KEY_SIZE;
}

static bool
parse_scram(const char *text, Secret *out)
{
	static const char prefix[] = "SCRAM-SHA-256$";
	uint8_t raw[SECRET_SALT_MAX];
	Slice rest = slice_cstr(text), iterations, salt, stored;

	if (strncmp(text, prefix, strlen(prefix)) != 0)
		return false;
	rest = slice_of(rest.data + strlen(prefix), rest.len - strlen(prefix));
	if (!take_until(&rest, ':', &iterations) || !take_until(&rest, '$', &salt) ||
	    !take_until(&rest, ':', &stored) || salt.len >= sizeof(out->salt) ||
	    !scram_parse_iterations(iterations, &out->iterations) ||
	    scram_base64_decode(salt, raw, sizeof(raw)) <= 0 || !decode_key(stored, out->stored_key) ||
	    !decode_key(rest, out->server_key))
		return false;
	memcpy(out->salt, salt.data, salt.len);
	out->salt[salt.len] = '\0';
	out->kind = SECRET_SCRAM;
	return true;
}

static bool
parse_md5(const char *text, Secret *out)
{
	if (strlen(text) != 35 || strncmp(text, "md5", 3) != 0 ||
	    strspn(text + 3, "0123456789abcdef") != 32)
		return false;
	memcpy(out->md5, text + 3, sizeof(out->md5));
	out->kind = SECRET_MD5;
	return true;
}

bool
secret_parse(const char *text, Secret *out)
{
	*out = (Secret){.kind = SECRET_NONE};
	if (text == NULL || text[0] == '\0' || parse_scram(text, out))
		return true;
	*out = (Secret){.kind = SECRET_NONE};
	if (parse_md5(text, out))
		return true;
	size_t len = strlen(text);
	if (len >= sizeof(out->plain))
		return false;
	memcpy(out->plain, text, len + 1);
	out->kind = SECRET_PLAIN;
	return true;
}

static void
put_salt(Secret *secret, const uint8_t raw[SALT_RAW])
{
	char *text = scram_base64(slice_of(raw, SALT_RAW));

	snprintf(secret->salt, sizeof(secret->salt), "%s", text);
	free(text);
	secret->iterations = DEFAULT_ITERATIONS;
}

bool
secret_add_verifier(Secret *secret, Error *err)
{
	uint8_t raw[SALT_RAW], client_key[SCRAM_KEY_SIZE];
	char *prepared = NULL;

	if (RAND_bytes(raw, sizeof(raw)) != 1)
		return error_set(err, ERROR_AUTH, "no random bytes for a salt");
	if (!saslprep(secret->plain, &prepared, err))
		return false;
	put_salt(secret, raw);
	bool ok = scram_derive(prepared, slice_of(raw, sizeof(raw)), secret->iterations, client_key,
	                       secret->server_key) &&
	          scram_sha256(slice_of(client_key, sizeof(client_key)), secret->stored_key);
	if (!ok)
		error_set(err, ERROR_AUTH, "OpenSSL cannot compute SCRAM-SHA-256");
	mem_wipe(client_key, sizeof(client_key));
	mem_wipe_free_cstr(prepared);
	return ok;
}

void
secret_mock(const char *user, const uint8_t nonce[SCRAM_KEY_SIZE], Secret *out)
{
	uint8_t hash[SCRAM_KEY_SIZE];
	Buffer both = BUFFER_INIT;

	*out = (Secret){.kind = SECRET_SCRAM};
	buffer_put_text(&both, user);
	buffer_put(&both, nonce, SCRAM_KEY_SIZE);
	CHECK(scram_sha256(buffer_slice(&both), hash));
	buffer_free(&both);
	put_salt(out, hash);
	/* Keys that nobody has the password of. */
	CHECK(RAND_bytes(out->stored_key, SCRAM_KEY_SIZE) == 1);
	CHECK(RAND_bytes(out->server_key, SCRAM_KEY_SIZE) == 1);
}

void
secret_wipe(Secret *secret)
{
	mem_wipe(secret, sizeof(*secret));
}
