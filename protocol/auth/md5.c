#include "protocol/auth/md5.h"

#include <openssl/evp.h>

#include "common/memory.h"

bool
md5_hex(Slice first, Slice second, char out[33])
{
	static const char digits[] = "0123456789abcdef";
	uint8_t sum[EVP_MAX_MD_SIZE];
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();

	bool ok = ctx != NULL && EVP_DigestInit_ex(ctx, EVP_md5(), NULL) == 1 &&
	          EVP_DigestUpdate(ctx, first.data, first.len) == 1 &&
	          EVP_DigestUpdate(ctx, second.data, second.len) == 1 &&
	          EVP_DigestFinal_ex(ctx, sum, NULL) == 1;
	EVP_MD_CTX_free(ctx);
	for (int i = 0; ok && i < 16; i++) {
		out[2 * i] = digits[sum[i] >> 4];
		out[2 * i + 1] = digits[sum[i] & 15];
	}
	out[32] = '\0';
	mem_wipe(sum, sizeof(sum));
	return ok;
}
