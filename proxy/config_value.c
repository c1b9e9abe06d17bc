/* Values as people write them, and what they may have meant. */
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/memory.h"
#include "proxy/config_internal.h"

enum { TOKEN_MIN = 16, TOKEN_MAX = 512, NAME_MAX_LEN = 64 };

bool
value_bool(const char *name, const char *text, bool *out, Error *err)
{
	static const char *const words[] = {"true", "false", "yes", "no", "on", "off", "1", "0", NULL};

	for (int i = 0; words[i] != NULL; i++) {
		if (strcasecmp(text, words[i]) == 0) {
			*out = i % 2 == 0;
			return true;
		}
	}
	return error_set(err, ERROR_CONFIG, "%s: \"%s\" is neither true nor false", name, text);
}

bool
value_int(const char *name, const char *text, int64_t min, int64_t max, int64_t *out, Error *err)
{
	char *end;

	errno = 0;
	long long n = strtoll(text, &end, 10);
	if (end == text || *end != '\0' || isspace((unsigned char)text[0]))
		return error_set(err, ERROR_CONFIG, "%s: \"%s\" is not a whole number", name, text);
	if (errno == ERANGE || n < min || n > max)
		return error_set(err, ERROR_CONFIG, "%s: %s is not between %lld and %lld", name, text,
		                 (long long)min, (long long)max);
	*out = n;
	return true;
}

bool
value_small(const char *name, const char *text, int64_t max, int *out, Error *err)
{
	int64_t n;

	if (!value_int(name, text, 1, max, &n, err))
		return false;
	*out = (int)n;
	return true;
}

typedef struct {
	const char *name;
	double factor;
} Unit;

/* A number that is not negative, with an optional fraction and one of the
 * units; hex, exponents, inf and nan are typing errors here. */
static bool
number_with_unit(const char *text, const Unit *units, double *out)
{
	size_t digits = strspn(text, "0123456789.");
	char *end;

	if (digits == 0 || text[0] == '.')
		return false;
	char *number = mem_strndup(text, digits);
	double n = strtod(number, &end);
	bool whole = *end == '\0';
	free(number);
	if (!whole)
		return false;
	const char *unit = text + digits;
	while (*unit == ' ')
		unit++;
	for (; units->name != NULL; units++) {
		if (strcasecmp(unit, units->name) == 0) {
			*out = n * units->factor;
			return true;
		}
	}
	return false;
}

bool
value_size(const char *name, const char *text, uint64_t *out, Error *err)
{
	static const Unit units[] = {
		{"", 1},
		{"B", 1},
		{"kB", 1e3},
		{"MB", 1e6},
		{"GB", 1e9},
		{"TB", 1e12},
		{"KiB", 1024},
		{"MiB", 1024.0 * 1024},
		{"GiB", 1024.0 * 1048576},
		{"TiB", 1048576.0 * 1048576},
		{NULL, 0},
	};
	double bytes;

	if (!number_with_unit(text, units, &bytes))
		return error_set(err, ERROR_CONFIG, "%s: \"%s\" is not a size (like 64MB, 10GB, 1.5TiB)",
		                 name, text);
	if (bytes > 9e18)
		return error_set(err, ERROR_CONFIG, "%s: %s is too large", name, text);
	*out = (uint64_t)bytes;
	return true;
}

bool
value_seconds(const char *name, const char *text, int64_t min_ms, int64_t max_ms, int64_t *out_ms,
              Error *err)
{
	static const Unit units[] = {
		{"", 1e3}, {"s", 1e3}, {"ms", 1}, {"min", 6e4}, {"h", 3.6e6}, {NULL, 0},
	};
	double ms;

	if (!number_with_unit(text, units, &ms))
		return error_set(err, ERROR_CONFIG, "%s: \"%s\" is not a time in seconds (like 2, 0.5)",
		                 name, text);
	if (ms < (double)min_ms || ms > (double)max_ms)
		return error_set(err, ERROR_CONFIG, "%s: %s is not between %g and %g seconds", name, text,
		                 (double)min_ms / 1e3, (double)max_ms / 1e3);
	*out_ms = (int64_t)llround(ms);
	return true;
}

bool
value_choice(const char *name, const char *text, const char *const *choices, int *out, Error *err)
{
	char list[256] = "";
	size_t len = 0;

	for (int i = 0; choices[i] != NULL; i++) {
		if (strcmp(text, choices[i]) == 0) {
			*out = i;
			return true;
		}
		int wrote = snprintf(list + len, sizeof(list) - len, "%s%s", i > 0 ? ", " : "", choices[i]);
		len += (size_t)wrote;
	}
	return error_set(err, ERROR_CONFIG, "%s: \"%s\" is not one of: %s", name, text, list);
}

bool
value_address(Arena *arena, const char *name, const char *text, const char **host, int *port,
              Error *err)
{
	const char *colon = strrchr(text, ':');
	const char *from = text;
	const char *to = colon;
	int64_t number;

	if (text[0] == '[') {
		from = text + 1;
		to = strchr(text, ']');
		if (to != NULL && to + 1 != colon)
			to = NULL;
	} else if (colon != NULL && memchr(text, ':', (size_t)(colon - text)) != NULL) {
		to = NULL; /* an IPv6 address without brackets */
	}
	if (colon == NULL || to == NULL || to == from)
		return error_set(err, ERROR_CONFIG,
		                 "%s: \"%s\" is not HOST:PORT (like 127.0.0.1:7430 or [::1]:7430)", name,
		                 text);
	if (!value_int(name, colon + 1, 0, 65535, &number, err))
		return false;
	*host = arena_strndup(arena, from, (size_t)(to - from));
	*port = (int)number;
	return true;
}

bool
config_is_loopback(const char *host)
{
	struct in_addr v4;
	struct in6_addr v6;

	if (strcasecmp(host, "localhost") == 0)
		return true;
	if (inet_pton(AF_INET, host, &v4) == 1)
		return ntohl(v4.s_addr) >> 24 == 127;
	return inet_pton(AF_INET6, host, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

static bool
token_check(const char *path, const char *text, size_t len, Error *err)
{
	if (len < TOKEN_MIN || len > TOKEN_MAX)
		return error_set(err, ERROR_CONFIG,
		                 "--admin-token-file: the token in %s has %zu characters; %d to %d are "
		                 "wanted",
		                 path, len, TOKEN_MIN, TOKEN_MAX);
	for (size_t i = 0; i < len; i++) {
		if (text[i] <= ' ' || text[i] > '~')
			return error_set(err, ERROR_CONFIG,
			                 "--admin-token-file: the token in %s must be printable ASCII "
			                 "without spaces",
			                 path);
	}
	return true;
}

char *
config_read_token(const char *path, Error *err)
{
	char bytes[TOKEN_MAX + 64] = "";
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0) {
		error_set_errno(err, ERROR_CONFIG, errno, "--admin-token-file: cannot open %s", path);
		return NULL;
	}
	if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || (st.st_mode & 077) != 0) {
		close(fd);
		error_set(err, ERROR_CONFIG,
		          "--admin-token-file: %s must be a file that only its owner can read", path);
		error_set_hint(err, "chmod 600 %s", path);
		return NULL;
	}
	ssize_t got = read(fd, bytes, sizeof(bytes) - 1);
	close(fd);
	if (got < 0) {
		error_set_errno(err, ERROR_CONFIG, errno, "--admin-token-file: cannot read %s", path);
		return NULL;
	}

	const char *from = bytes + strspn(bytes, " \t\r\n");
	size_t len = strlen(from);
	while (len > 0 && isspace((unsigned char)from[len - 1]))
		len--;
	char *token = token_check(path, from, len, err) ? mem_strndup(from, len) : NULL;
	mem_wipe(bytes, sizeof(bytes));
	return token;
}

/* Levenshtein with transpositions, over names no longer than NAME_MAX_LEN. */
static size_t
edit_distance(const char *a, const char *b)
{
	size_t la = strlen(a), lb = strlen(b);
	size_t rows[3][NAME_MAX_LEN + 1];

	if (la > NAME_MAX_LEN || lb > NAME_MAX_LEN)
		return SIZE_MAX;
	for (size_t j = 0; j <= lb; j++)
		rows[0][j] = j;
	for (size_t i = 1; i <= la; i++) {
		size_t *now = rows[i % 3];
		const size_t *before = rows[(i + 2) % 3];
		const size_t *older = rows[(i + 1) % 3];

		now[0] = i;
		for (size_t j = 1; j <= lb; j++) {
			size_t best = before[j - 1] + (a[i - 1] != b[j - 1]);
			if (before[j] + 1 < best)
				best = before[j] + 1;
			if (now[j - 1] + 1 < best)
				best = now[j - 1] + 1;
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
			    older[j - 2] + 1 < best)
				best = older[j - 2] + 1;
			now[j] = best;
		}
	}
	return rows[la % 3][lb];
}

const char *
config_nearest(const char *text, const char *const *candidates, size_t count)
{
	const char *best = NULL;
	size_t best_distance = 3; /* more than two slips is another word */

	for (size_t i = 0; i < count; i++) {
		size_t distance = edit_distance(text, candidates[i]);
		if (distance < best_distance && distance < strlen(candidates[i])) {
			best = candidates[i];
			best_distance = distance;
		}
	}
	return best;
}
