#include "protocol/auth/scram_keys.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <string.h>

#include "common/memory.h"

bool
scram_hmac(const uint8_t key[SCRAM_KEY_SIZE], Slice text, uint8_t out[SCRAM_KEY_SIZE])
{
	unsigned int len = 0;
	return HMAC(EVP_sha256(), key, SCRAM_KEY_SIZE, text.data, text.len, out, &len) != NULL &&
	       len == SCRAM_KEY_SIZE;
}

bool
scram_sha256(Slice bytes, uint8_t out[SCRAM_KEY_SIZE])
{
	unsigned int len = 0;
	return EVP_Digest(bytes.data, bytes.len, out, &len, EVP_sha256(), NULL) == 1 &&
	       len == SCRAM_KEY_SIZE;
}

bool
scram_derive(const char *prepared, Slice salt, int iterations, uint8_t client_key[SCRAM_KEY_SIZE],
             uint8_t server_key[SCRAM_KEY_SIZE])
{
	uint8_t salted[SCRAM_KEY_SIZE];

	bool ok = PKCS5_PBKDF2_HMAC(prepared, (int)strlen(prepared), salt.data, (int)salt.len,
	                            iterations, EVP_sha256(), SCRAM_KEY_SIZE, salted) == 1 &&
	          scram_hmac(salted, slice_cstr("Client Key"), client_key) &&
	          scram_hmac(salted, slice_cstr("Server Key"), server_key);
	mem_wipe(salted, sizeof(salted));
	return ok;
}

char *
scram_base64(Slice bytes)
{
	char *text = mem_alloc(bytes.len / 3 * 4 + 5);

	text[0] = '\0';
	EVP_EncodeBlock((unsigned char *)text, bytes.data, (int)bytes.len);
	return text;
}

int
scram_base64_decode(Slice text, uint8_t *out, size_t size)
{
	uint8_t room[SCRAM_SALT_MAX / 3 * 4 + 8];

	if (text.len == 0 || text.len % 4 != 0 || text.len / 4 * 3 > sizeof(room) ||
	    text.len > SCRAM_SALT_MAX)
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

char *
scram_random_nonce(void)
{
	uint8_t raw[SCRAM_NONCE_RAW];

	return RAND_bytes(raw, sizeof(raw)) == 1 ? scram_base64(slice_of(raw, sizeof(raw))) : NULL;
}

bool
scram_take_attribute(Slice *rest, char name, Slice *value)
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

bool
scram_parse_iterations(Slice text, int *out)
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
