#include "protocol/auth/saslprep.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common/bytes.h"
#include "common/memory.h"

/*
 * Ranges whose characters are their own NFKC form, next to each other too: no
 * combining marks, no compatibility forms. A password of these alone is hashed
 * as it is, whatever else SASLprep thinks of it: if it is forbidden, PostgreSQL
 * takes the raw bytes, and they are the same.
 *
 * plain: also neither forbidden, nor unassigned in Unicode 3.2, nor written
 * from right to left, which matters once another character has been mapped.
 */
typedef struct {
	uint32_t first;
	uint32_t last;
	bool plain;
} Range;

static const Range stable[] = {
	{0x01, 0x1F, false},       {0x20, 0x7E, true},        {0x7F, 0x9F, false},
	{0xA1, 0xA7, true},        {0xA9, 0xA9, true},        {0xAB, 0xAC, true},
	{0xAE, 0xAE, true},        {0xB0, 0xB1, true},        {0xB6, 0xB7, true},
	{0xBB, 0xBB, true},        {0xBF, 0x131, true},       {0x134, 0x13E, true},
	{0x141, 0x148, true},      {0x14A, 0x17E, true},      {0x386, 0x386, true},
	{0x388, 0x38A, true},      {0x38C, 0x38C, true},      {0x38E, 0x3A1, true},
	{0x3A3, 0x3CE, true},      {0x400, 0x481, true},      {0x48C, 0x4C4, true},
	{0x4D0, 0x4F5, true},      {0x5D0, 0x5EA, false},     {0x621, 0x63A, false},
	{0x641, 0x64A, false},     {0xE01, 0xE30, true},      {0x1E00, 0x1E99, true},
	{0x1EA0, 0x1EF9, true},    {0x2010, 0x2010, true},    {0x2012, 0x2016, true},
	{0x2018, 0x2023, true},    {0x20AC, 0x20AC, true},    {0x2190, 0x21F3, true},
	{0x3041, 0x3094, true},    {0x30A1, 0x30FA, true},    {0x4E00, 0x9FA5, true},
	{0xAC00, 0xD7A3, true},    {0x1F300, 0x1F5FF, false}, {0x1F600, 0x1F64F, false},
	{0x1F680, 0x1F6C5, false}, {0x1F910, 0x1F93E, false},
};

/* RFC 3454, C.1.2: become a space. Looked at before B.1, as PostgreSQL does. */
static const Range spaces[] = {
	{0xA0, 0xA0, true},     {0x1680, 0x1680, true}, {0x2000, 0x200B, true},
	{0x202F, 0x202F, true}, {0x205F, 0x205F, true}, {0x3000, 0x3000, true},
};

/* RFC 3454, B.1: vanish. */
static const Range nothing[] = {
	{0xAD, 0xAD, true},     {0x34F, 0x34F, true},   {0x1806, 0x1806, true}, {0x180B, 0x180D, true},
	{0x200C, 0x200D, true}, {0x2060, 0x2060, true}, {0xFE00, 0xFE0F, true}, {0xFEFF, 0xFEFF, true},
};

#define IN(code, table) find((code), (table), sizeof(table) / sizeof((table)[0]))

static const Range *
find(uint32_t code, const Range *table, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (code >= table[i].first && code <= table[i].last)
			return &table[i];
	return NULL;
}

/* One character; its length in bytes, or 0 when this is not UTF-8. */
static int
decode_utf8(const unsigned char *at, uint32_t *code)
{
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	int len = at[0] < 0x80   ? 1
	          : at[0] < 0xC2 ? 0
	          : at[0] < 0xE0 ? 2
	          : at[0] < 0xF0 ? 3
	          : at[0] < 0xF5 ? 4
	                         : 0;

	*code = len == 1 ? at[0] : at[0] & (0x7Fu >> len);
	for (int i = 1; i < len; i++) {
		if ((at[i] & 0xC0) != 0x80)
			return 0;
		*code = *code << 6 | (at[i] & 0x3F);
	}
	if (len > 0 && (*code < least[len] || *code > 0x10FFFF || (*code >= 0xD800 && *code < 0xE000)))
		return 0;
	return len;
}

typedef enum { PREP_RAW, PREP_MAPPED, PREP_UNKNOWN } Prep;

static Prep
prepare(const char *password, Buffer *mapped)
{
	bool changed = false, only_plain = true, unknown = false;
	uint32_t code;

	for (const unsigned char *at = (const unsigned char *)password; *at != '\0';) {
		int len = decode_utf8(at, &code);
		if (len == 0)
			return PREP_RAW;
		const Range *range = IN(code, stable);
		if (IN(code, spaces) != NULL) {
			buffer_put_u8(mapped, ' ');
			changed = true;
		} else if (IN(code, nothing) != NULL) {
			changed = true;
		} else {
			buffer_put(mapped, at, (size_t)len);
			unknown |= range == NULL;
			only_plain &= range != NULL && range->plain;
		}
		at += len;
	}
	if (unknown)
		return PREP_UNKNOWN;
	if (!changed || mapped->len == 0)
		return PREP_RAW;
	return only_plain ? PREP_MAPPED : PREP_UNKNOWN;
}

bool
saslprep(const char *password, char **out, Error *err)
{
	Buffer mapped = BUFFER_INIT;
	Prep prep = prepare(password, &mapped);

	*out = NULL;
	if (prep == PREP_RAW)
		*out = mem_strdup(password);
	else if (prep == PREP_MAPPED)
		*out = mem_strdup(buffer_cstr(&mapped));
	mem_wipe(mapped.data, mapped.cap);
	buffer_free(&mapped);
	if (prep != PREP_UNKNOWN)
		return true;
	error_set(err, ERROR_AUTH,
	          "the password holds characters whose Unicode normalization is "
	          "not supported here");
	return error_set_hint(err, "give the role a password of ASCII or of plain letters");
}
