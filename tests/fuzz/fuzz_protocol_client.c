/*
 * A hostile client: its first packet, its SCRAM messages, and the bytes of a session, cut
 * anywhere. Invariants: a packet that is accepted fits its length, and what is passed on of it
 * is one packet again; nobody logs in without the password; the Track never counts more than
 * it was shown, and a session cut in two is where it is in one piece.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/memory.h"
#include "protocol/auth/auth_server.h"
#include "protocol/message/message.h"
#include "protocol/message/startup.h"
#include "protocol/message/track.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void
startup(Slice bytes)
{
	Startup parsed;
	Error err = ERROR_INIT;
	size_t used = 0;
	StartupResult result = startup_parse(bytes, &used, &parsed, &err);

	CHECK(result != STARTUP_BAD || err.sqlstate[0] != '\0');
	if (result != STARTUP_READY)
		return;
	CHECK(used <= bytes.len && used <= STARTUP_MAX);
	if (parsed.kind != STARTUP_SESSION)
		return;
	Buffer out = BUFFER_INIT;
	startup_put_for_server(&parsed, NULL, &out);
	Startup again;
	size_t used_again = 0;
	CHECK(startup_parse(buffer_slice(&out), &used_again, &again, &err) == STARTUP_READY);
	CHECK(used_again == out.len && strcmp(again.user, parsed.user) == 0 && again.unknown == 0);
	buffer_reset(&out);
	startup_put_negotiate(&parsed, &out);
	buffer_free(&out);
}

/* Messages with a length byte each. */
static void
scram(Slice bytes)
{
	uint8_t nonce[SCRAM_KEY_SIZE] = {0};
	Buffer reply = BUFFER_INIT;
	Error err = ERROR_INIT;
	Secret secret;
	size_t at = 0;

	secret_mock("fuzz", nonce, &secret);
	AuthServer *auth = auth_server_new(
		&(AuthServerOptions){.user = "fuzz",
	                         .secret = &secret,
	                         .tls = bytes.len % 2 == 0,
	                         .binding_data = slice_of(nonce, sizeof(nonce)),
	                         .nonce = "server"},
		&reply, &err);
	CHECK(auth != NULL);
	while (at < bytes.len) {
		size_t len = bytes.data[at++];
		if (len > bytes.len - at)
			len = bytes.len - at;
		AuthStep step = auth_server_step(auth, slice_of(bytes.data + at, len), &reply, &err);
		CHECK(step != AUTH_DONE);
		if (step == AUTH_FAILED) {
			CHECK(err.sqlstate[0] != '\0');
			break;
		}
		at += len;
	}
	auth_server_free(auth);
	buffer_free(&reply);
}

static void
secrets(Slice bytes)
{
	char *text = mem_strndup((const char *)bytes.data, bytes.len);
	Secret secret;

	if (secret_parse(text, &secret))
		CHECK(secret.kind != SECRET_SCRAM || secret.iterations > 0);
	free(text);
}

/* The first half from the client, the second from the server; whole, and cut at `cut`. */
static void
session(Slice bytes, size_t cut)
{
	size_t half = bytes.len / 2;
	Slice client = slice_of(bytes.data, half);
	Slice server = slice_of(bytes.data + half, bytes.len - half);
	Track one, two, three, four;

	track_init(&one);
	track_init(&two);
	track_init(&three);
	track_init(&four);
	track_client(&one, client);
	cut = half > 0 ? cut % half : 0;
	track_client(&two, slice_of(client.data, cut));
	track_client(&two, slice_of(client.data + cut, half - cut));
	CHECK(one.lost == two.lost && one.client.left == two.client.left);
	CHECK(one.asked_len - one.asked_first == two.asked_len - two.asked_first);
	/* A Query behind extended messages takes six bytes there. */
	CHECK(one.asked_len - one.asked_first <= half / 5 * 6 + 1);
	size_t let = track_client_until(&three, client, cut % 2 == 0);
	CHECK(let <= client.len);
	let = track_client_whole(&four, client, cut);
	CHECK(let <= client.len && client.len - let < cut + 5);
	track_client(&four, slice_of(client.data + let, client.len - let));
	CHECK(one.lost == four.lost && one.client.left == four.client.left);
	if (track_server(&one, server))
		CHECK(track_at_boundary(&one) ? !track_busy(&one) : true);
	track_free(&one);
	track_free(&two);
	track_free(&three);
	track_free(&four);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 2)
		return 0;
	Slice rest = slice_of(data + 2, size - 2);
	switch (data[0] % 4) {
	case 0:
		startup(rest);
		break;
	case 1:
		scram(rest);
		break;
	case 2:
		session(rest, data[1]);
		break;
	default:
		secrets(rest);
	}
	return 0;
}
