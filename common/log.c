#include "common/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/clock.h"
#include "common/utf8.h"

static atomic_int minimum = LOG_INFO;
static atomic_bool as_json;

static const char *const level_names[] = {
	[LOG_DEBUG] = "debug",
	[LOG_INFO] = "info",
	[LOG_WARNING] = "warning",
	[LOG_ERROR] = "error",
};

void
log_set_level(LogLevel level)
{
	atomic_store(&minimum, (int)level);
}

void
log_set_json(bool json)
{
	atomic_store(&as_json, json);
}

bool
log_level_parse(const char *text, LogLevel *out)
{
	for (int i = LOG_DEBUG; i <= LOG_ERROR; i++) {
		if (strcmp(text, level_names[i]) == 0) {
			*out = (LogLevel)i;
			return true;
		}
	}
	return false;
}

static void
put_time(Buffer *out)
{
	int64_t now = clock_wall_us();
	time_t seconds = (time_t)(now / 1000000);
	struct tm tm;
	char text[32];

	gmtime_r(&seconds, &tm);
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm);
	buffer_printf(out, "%s.%03dZ", text, (int)(now / 1000 % 1000));
}

/* In text, only control characters are escaped; in JSON also '"' and '\\', and
 * what is no UTF-8 (a server of another encoding said it) becomes U+FFFD, since
 * JSON cannot hold it. */
static void
put_escaped(Buffer *out, const char *text, bool json)
{
	size_t len = strlen(text);

	for (size_t i = 0, step; i < len; i += step) {
		unsigned char c = (unsigned char)text[i];
		size_t valid = utf8_char_len(text + i, len - i);

		step = valid > 0 ? valid : 1;
		if (c == '\n')
			buffer_put_text(out, "\\n");
		else if (c < 0x20 || c == 0x7f)
			buffer_printf(out, json ? "\\u%04x" : "\\x%02x", c);
		else if (json && (c == '"' || c == '\\'))
			buffer_printf(out, "\\%c", c);
		else if (json && valid == 0)
			buffer_put_text(out, "\\ufffd");
		else
			buffer_put(out, text + i, step);
	}
}

void
log_event(LogLevel level, const char *component, const char *fmt, ...)
{
	if ((int)level < atomic_load(&minimum))
		return;

	Buffer message = BUFFER_INIT;
	Buffer line = BUFFER_INIT;
	bool json = atomic_load(&as_json);
	va_list args;
	char text[4096];

	va_start(args, fmt);
	int wanted = vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	if (wanted >= (int)sizeof(text))
		text[utf8_cut(text, sizeof(text) - 1)] = '\0';
	put_escaped(&message, text, json);

	if (json) {
		buffer_put_text(&line, "{\"time\":\"");
		put_time(&line);
		buffer_printf(&line, "\",\"level\":\"%s\",\"component\":\"%s\",\"message\":\"%s\"}\n",
		              level_names[level], component, buffer_cstr(&message));
	} else {
		put_time(&line);
		buffer_printf(&line, " %-7s %-9s %s\n", level_names[level], component,
		              buffer_cstr(&message));
	}

	/* One write a line: lines of different threads do not mix. */
	ssize_t ignored UNUSED = write(STDERR_FILENO, line.data, line.len);
	buffer_free(&line);
	buffer_free(&message);
}

void
log_failure(LogLevel level, const char *component, const Error *err)
{
	char text[sizeof(Error) + 64];
	log_event(level, component, "%s", error_format(err, text, sizeof(text)));
}
