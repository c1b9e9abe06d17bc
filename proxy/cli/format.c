#include "proxy/cli/format.h"

#include <math.h>
#include <string.h>

char *
format_bytes(double bytes, char out[FORMAT_SIZE])
{
	static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB"};
	size_t unit = 0;

	while (bytes >= 999.95 && unit + 1 < sizeof(units) / sizeof(*units)) {
		bytes /= 1000;
		unit++;
	}
	snprintf(out, FORMAT_SIZE, unit == 0 ? "%.0f %s" : "%.1f %s", bytes, units[unit]);
	return out;
}

char *
format_seconds(double seconds, char out[FORMAT_SIZE])
{
	long whole = (long)fmin(seconds, 1e12);

	if (seconds < 0)
		snprintf(out, FORMAT_SIZE, "?");
	else if (seconds < 60)
		snprintf(out, FORMAT_SIZE, "%.1f s", seconds);
	else if (whole < 3600)
		snprintf(out, FORMAT_SIZE, "%ld min %ld s", whole / 60, whole % 60);
	else if (whole < 86400)
		snprintf(out, FORMAT_SIZE, "%ld h %ld min", whole / 3600, whole % 3600 / 60);
	else
		snprintf(out, FORMAT_SIZE, "%ld d %ld h", whole / 86400, whole % 86400 / 3600);
	return out;
}

char *
format_count(double count, char out[FORMAT_SIZE])
{
	char digits[32];
	int len = snprintf(digits, sizeof(digits), "%.0f", fmin(count, 1e19));
	char *to = out;

	for (int i = 0; i < len; i++) {
		if (i > 0 && (len - i) % 3 == 0)
			*to++ = ',';
		*to++ = digits[i];
	}
	*to = '\0';
	return out;
}

char *
format_bar(double done, double total, int width, char out[FORMAT_SIZE])
{
	double part = total > 0 ? fmin(fmax(done / total, 0), 1) : 0;
	int filled = (int)(part * width);

	out[0] = '[';
	memset(out + 1, '#', (size_t)filled);
	memset(out + 1 + filled, '-', (size_t)(width - filled));
	/* Rounded down: 100 % only when all is there. */
	snprintf(out + 1 + width, (size_t)(FORMAT_SIZE - 1 - width), "] %3d %%", (int)(part * 100));
	return out;
}

void
print_plain(FILE *out, const char *text)
{
	for (; *text != '\0'; text++) {
		unsigned char c = (unsigned char)*text;
		fputc(c < 0x20 || c == 0x7f ? '?' : c, out);
	}
}
