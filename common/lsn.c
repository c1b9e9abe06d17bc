#include "common/lsn.h"

#include <inttypes.h>
#include <stdio.h>

char *
lsn_format(Lsn lsn, char out[LSN_TEXT_SIZE])
{
	snprintf(out, LSN_TEXT_SIZE, "%" PRIX32 "/%" PRIX32, (uint32_t)(lsn.v >> 32), (uint32_t)lsn.v);
	return out;
}

static int
hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

static bool
parse_half(const char **text, uint32_t *out)
{
	uint32_t value = 0;
	int digits = 0;

	for (int d; (d = hex_digit(**text)) >= 0; (*text)++) {
		if (++digits > 8)
			return false;
		value = value << 4 | (uint32_t)d;
	}
	*out = value;
	return digits > 0;
}

bool
lsn_parse(const char *text, Lsn *out)
{
	uint32_t high;
	uint32_t low;

	if (!parse_half(&text, &high) || *text++ != '/')
		return false;
	if (!parse_half(&text, &low) || *text != '\0')
		return false;
	*out = lsn_make((uint64_t)high << 32 | low);
	return true;
}
