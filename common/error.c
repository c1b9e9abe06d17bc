#include "common/error.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/utf8.h"

static void format_cut(char *out, size_t size, const char *fmt, va_list args) PRINTF_LIKE(3, 0);

/* vsnprintf, then the cut moved back so that no UTF-8 character is halved. */
static void
format_cut(char *out, size_t size, const char *fmt, va_list args)
{
	int wanted = vsnprintf(out, size, fmt, args);

	if (wanted < 0) {
		out[0] = '\0';
		return;
	}
	if ((size_t)wanted < size)
		return;

	out[utf8_cut(out, size - 1)] = '\0';
}

bool
error_set_at(Error *err, ErrorClass class, const char *file, int line, const char *fmt, ...)
{
	if (err == NULL)
		return false;

	/* fmt's arguments may point into *err: format before clearing. */
	char message[sizeof(err->message)];
	va_list args;
	va_start(args, fmt);
	format_cut(message, sizeof(message), fmt, args);
	va_end(args);

	error_clear(err);
	err->class = class;
	err->file = file;
	err->line = line;
	memcpy(err->message, message, sizeof(message));
	return false;
}

bool
error_set_errno_at(Error *err, ErrorClass class, int errnum, const char *file, int line,
                   const char *fmt, ...)
{
	char text[640];
	char reason[128];
	va_list args;

	va_start(args, fmt);
	format_cut(text, sizeof(text), fmt, args);
	va_end(args);

	/* The XSI strerror_r of glibc under _GNU_SOURCE returns the text. */
	const char *why = strerror_r(errnum, reason, sizeof(reason));
	return error_set_at(err, class, file, line, "%s: %s", text, why);
}

bool
error_add_context(Error *err, const char *fmt, ...)
{
	if (err == NULL)
		return false;

	char outer[sizeof(err->context)];
	char joined[2 * sizeof(err->context) + 4];
	va_list args;

	va_start(args, fmt);
	format_cut(outer, sizeof(outer), fmt, args);
	va_end(args);

	if (err->context[0] != '\0')
		snprintf(joined, sizeof(joined), "%s: %s", outer, err->context);
	else
		snprintf(joined, sizeof(joined), "%s", outer);
	size_t len = strlen(joined);
	if (len >= sizeof(err->context))
		len = utf8_cut(joined, sizeof(err->context) - 1);
	memcpy(err->context, joined, len);
	err->context[len] = '\0';
	return false;
}

bool
error_set_hint(Error *err, const char *fmt, ...)
{
	if (err == NULL)
		return false;

	va_list args;
	va_start(args, fmt);
	format_cut(err->hint, sizeof(err->hint), fmt, args);
	va_end(args);
	return false;
}

bool
error_set_sqlstate(Error *err, const char *sqlstate)
{
	if (err != NULL)
		snprintf(err->sqlstate, sizeof(err->sqlstate), "%s", sqlstate != NULL ? sqlstate : "");
	return false;
}

bool
error_has_sqlstate(const Error *err, const char *sqlstate)
{
	return err != NULL && strcmp(err->sqlstate, sqlstate) == 0;
}

void
error_clear(Error *err)
{
	if (err == NULL)
		return;
	err->class = ERROR_NONE;
	err->sqlstate[0] = err->message[0] = err->context[0] = err->hint[0] = '\0';
	err->file = NULL;
	err->line = 0;
}

const char *
error_class_name(ErrorClass class)
{
	static const char *const names[] = {
		[ERROR_NONE] = "none",         [ERROR_NETWORK] = "network",
		[ERROR_PROTOCOL] = "protocol", [ERROR_AUTH] = "authentication",
		[ERROR_SQL] = "sql",           [ERROR_CONFIG] = "configuration",
		[ERROR_STORAGE] = "storage",   [ERROR_DIVERGENCE] = "divergence",
		[ERROR_TIMEOUT] = "timeout",   [ERROR_CANCELLED] = "cancelled",
		[ERROR_BUG] = "bug",
	};
	return names[class];
}

char *
error_format(const Error *err, char *out, size_t out_size)
{
	snprintf(out, out_size, "%s%s%s%s%s%s%s%s", err->context, err->context[0] ? ": " : "",
	         err->message, err->sqlstate[0] ? " (SQLSTATE " : "", err->sqlstate,
	         err->sqlstate[0] ? ")" : "", err->hint[0] ? "; " : "", err->hint);
	return out;
}

void
check_failed(const char *cond, const char *file, int line)
{
	fprintf(stderr, "pgbaton: invariant does not hold: %s (%s:%d)\n", cond, file, line);
	abort();
}
