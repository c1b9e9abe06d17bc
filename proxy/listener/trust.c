#include "proxy/listener/trust.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/memory.h"

/* All as IPv6: an IPv4 block is one of ::ffff:0:0/96. */
typedef struct {
	uint8_t address[16];
	int bits;
} Block;

struct Trust {
	Block *blocks;
	size_t count;
	bool local;
};

static void
mapped(const struct in_addr *v4, uint8_t out[16])
{
	memset(out, 0, 10);
	out[10] = out[11] = 0xFF;
	memcpy(out + 12, v4, 4);
}

static bool
parse_block(const char *text, Block *out)
{
	char address[INET6_ADDRSTRLEN];
	struct in_addr v4;
	const char *slash = strchr(text, '/');
	size_t len = slash != NULL ? (size_t)(slash - text) : strlen(text);
	int most = 128, bits;
	char *end = NULL;

	if (len >= sizeof(address))
		return false;
	memcpy(address, text, len);
	address[len] = '\0';
	if (inet_pton(AF_INET, address, &v4) == 1) {
		mapped(&v4, out->address);
		most = 32;
	} else if (inet_pton(AF_INET6, address, out->address) != 1) {
		return false;
	}
	bits = slash != NULL ? (int)strtol(slash + 1, &end, 10) : most;
	if (slash != NULL && (end == slash + 1 || *end != '\0'))
		return false;
	out->bits = bits + 128 - most;
	return bits >= 0 && bits <= most;
}

Trust *
trust_new(const char *const *blocks, size_t count, Error *err)
{
	Trust *trust = mem_zalloc(sizeof(Trust));

	trust->blocks = mem_zalloc((count + 1) * sizeof(Block));
	for (size_t i = 0; i < count; i++) {
		if (strcmp(blocks[i], "local") == 0) {
			trust->local = true;
		} else if (!parse_block(blocks[i], &trust->blocks[trust->count++])) {
			error_set(err, ERROR_CONFIG,
			          "--listen-trust: \"%s\" is no CIDR block (like 10.0.0.0/8), and not "
			          "\"local\"",
			          blocks[i]);
			trust_free(trust);
			return NULL;
		}
	}
	return trust;
}

void
trust_free(Trust *trust)
{
	if (trust == NULL)
		return;
	free(trust->blocks);
	free(trust);
}

static bool
in_block(const Block *block, const uint8_t address[16])
{
	size_t whole = (size_t)block->bits / 8;
	uint8_t mask = (uint8_t)(0xFF00 >> (block->bits % 8));

	return memcmp(block->address, address, whole) == 0 &&
	       (mask == 0 || whole == 16 || ((block->address[whole] ^ address[whole]) & mask) == 0);
}

bool
trust_has(const Trust *trust, const struct sockaddr_storage *address)
{
	uint8_t wide[16];

	if (address->ss_family == AF_UNIX)
		return trust->local;
	if (address->ss_family == AF_INET)
		mapped(&((const struct sockaddr_in *)address)->sin_addr, wide);
	else if (address->ss_family == AF_INET6)
		memcpy(wide, &((const struct sockaddr_in6 *)address)->sin6_addr, sizeof(wide));
	else
		return false;
	for (size_t i = 0; i < trust->count; i++)
		if (in_block(&trust->blocks[i], wide))
			return true;
	return false;
}
