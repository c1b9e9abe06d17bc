#include "common/utf8.h"

#include <stdbool.h>

static bool
is_tail(unsigned char c)
{
	return (c & 0xC0) == 0x80;
}

/* How long the character is that begins with this byte; 0: none does. */
static size_t
announced_len(unsigned char lead)
{
	if (lead < 0x80)
		return 1;
	if (lead >= 0xC2 && lead <= 0xDF)
		return 2;
	if (lead >= 0xE0 && lead <= 0xEF)
		return 3;
	if (lead >= 0xF0 && lead <= 0xF4)
		return 4;
	return 0;
}

/* The lead bytes after which not every second byte makes a shortest, legal form. */
static bool
second_allowed(unsigned char lead, unsigned char second)
{
	switch (lead) {
	case 0xE0:
		return second >= 0xA0;
	case 0xED:
		return second <= 0x9F;
	case 0xF0:
		return second >= 0x90;
	case 0xF4:
		return second <= 0x8F;
	default:
		return true;
	}
}

size_t
utf8_char_len(const char *text, size_t len)
{
	const unsigned char *c = (const unsigned char *)text;
	size_t want = len > 0 ? announced_len(c[0]) : 0;

	if (want > len)
		return 0;
	for (size_t i = 1; i < want; i++)
		if (!is_tail(c[i]))
			return 0;
	return want > 1 && !second_allowed(c[0], c[1]) ? 0 : want;
}

size_t
utf8_cut(const char *text, size_t len)
{
	const unsigned char *c = (const unsigned char *)text;
	size_t lead = len;

	/* Back over at most three continuation bytes to the character's first. */
	while (lead > 0 && len - lead < 3 && is_tail(c[lead - 1]))
		lead--;
	if (lead == 0)
		return len;
	size_t want = announced_len(c[lead - 1]);
	return want > len - (lead - 1) ? lead - 1 : len;
}
