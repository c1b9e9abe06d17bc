/*
 * A hostile server authenticates: a list of messages (length byte, payload) to
 * one Auth whose owner demands SCRAM. Invariants: nobody gets in without the
 * password (AUTH_DONE is never reached), the password never goes out, and a
 * failure has a class and leaves the state in which all else fails too.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/memory.h"
#include "protocol/auth/auth.h"
#include "protocol/auth/saslprep.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char password[] = "correct horse battery staple";

static void
prepare(const uint8_t *data, size_t size)
{
	char *text = mem_strndup((const char *)data, size);
	char *prepared = NULL;
	Error err = ERROR_INIT;

	if (saslprep(text, &prepared, &err)) {
		CHECK(strlen(prepared) <= strlen(text));
		mem_wipe_free_cstr(prepared);
	} else {
		CHECK(err.class == ERROR_AUTH && prepared == NULL);
	}
	free(text);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 1)
		return 0;
	bool tls = data[0] & 1;
	AuthOptions options = {.user = "u",
	                       .password = password,
	                       .require_auth = "scram-sha-256",
	                       .channel_binding = data[0] & 2 ? "require" : "prefer",
	                       .tls = tls,
	                       .binding_data = tls ? slice_cstr("01234567890123456789012345678901")
	                                           : SLICE_EMPTY,
	                       .nonce = "rOprNGfwEbeRWgbNEkqO"};
	Error err = ERROR_INIT;
	Auth *auth = auth_new(&options, &err);
	Buffer reply = BUFFER_INIT;

	CHECK(auth != NULL);
	prepare(data, size);
	for (size_t at = 1; at < size;) {
		size_t len = data[at++];
		if (len > size - at)
			len = size - at;
		AuthStep step = auth_step(auth, slice_of(data + at, len), &reply, &err);
		CHECK(step != AUTH_DONE);
		CHECK(reply.len == 0 || memmem(reply.data, reply.len, password, strlen(password)) == NULL);
		if (step == AUTH_FAILED) {
			CHECK(err.class == ERROR_AUTH || err.class == ERROR_PROTOCOL);
			break;
		}
		at += len;
	}
	auth_free(auth);
	buffer_free(&reply);
	return 0;
}
