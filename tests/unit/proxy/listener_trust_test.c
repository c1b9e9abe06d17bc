/* Blocks of addresses. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>

#include "proxy/listener/trust.h"
#include "tests/unit/runner.h"

static bool
has(const char *block, const char *address)
{
	const char *blocks[] = {block};
	Error err = ERROR_INIT;
	Trust *trust = trust_new(blocks, 1, &err);
	struct sockaddr_storage peer = {.ss_family = AF_UNIX};

	ck_assert_msg(trust != NULL, "%s", err.message);
	if (address != NULL && strchr(address, ':') == NULL) {
		struct sockaddr_in v4 = {.sin_family = AF_INET};
		ck_assert_int_eq(inet_pton(AF_INET, address, &v4.sin_addr), 1);
		memcpy(&peer, &v4, sizeof(v4));
	} else if (address != NULL) {
		struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
		ck_assert_int_eq(inet_pton(AF_INET6, address, &v6.sin6_addr), 1);
		memcpy(&peer, &v6, sizeof(v6));
	}
	bool result = trust_has(trust, &peer);
	trust_free(trust);
	return result;
}

START_TEST(blocks_and_addresses)
{
	ck_assert(has("127.0.0.1", "127.0.0.1") && !has("127.0.0.1", "127.0.0.2"));
	ck_assert(has("10.0.0.0/8", "10.255.1.2") && !has("10.0.0.0/8", "11.0.0.0"));
	ck_assert(has("10.1.2.128/25", "10.1.2.129") && !has("10.1.2.128/25", "10.1.2.127"));
	ck_assert(has("10.1.2.4/31", "10.1.2.5") && !has("10.1.2.4/31", "10.1.2.6"));
	ck_assert(has("0.0.0.0/0", "8.8.8.8") && !has("0.0.0.0/0", "::1"));
	ck_assert(has("::/0", "8.8.8.8") && has("::/0", "::1"));
	ck_assert(has("fd00::/8", "fdab::1") && !has("fd00::/8", "fe80::1"));
	ck_assert(has("10.0.0.0/8", "::ffff:10.1.1.1"));
	ck_assert(has("local", NULL) && !has("0.0.0.0/0", NULL) && !has("local", "127.0.0.1"));
}
END_TEST

START_TEST(no_blocks)
{
	static const char *const wrong[] = {
		"",         "host",        "10.0.0.0/",   "10.0.0.0/33", "::1/129",
		"10.0.0/8", "10.0.0.0/-1", "10.0.0.0/8x", "1.2.3.4/8/8", "Local"};
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		Error err = ERROR_INIT;
		ck_assert_ptr_null(trust_new(&wrong[i], 1, &err));
		ck_assert_int_eq(err.class, ERROR_CONFIG);
	}
}
END_TEST

static Suite *
make(void)
{
	Suite *suite = suite_create("listener_trust");
	TCase *tcase = tcase_create("listener_trust");

	tcase_add_test(tcase, blocks_and_addresses);
	tcase_add_test(tcase, no_blocks);
	suite_add_tcase(suite, tcase);
	return suite;
}

TEST_SUITE(make)
