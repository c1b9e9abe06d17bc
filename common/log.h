/*
 * log.h: one line an event, to stderr: time, level, component, message.
 *
 * The only global of the program. Thread-safe. Text form:
 *   2026-01-31T03:00:00.123Z info  receiver  streaming from 0/1A2B3C8
 * With log_set_json: {"time":...,"level":...,"component":...,"message":...}.
 * Control characters are escaped, so one event is always one line. Secrets
 * never come here: whoever logs a connection uses its display form.
 */
#ifndef PGBATON_COMMON_LOG_H
#define PGBATON_COMMON_LOG_H

#include <stdbool.h>

#include "common/error.h"

typedef enum { LOG_DEBUG, LOG_INFO, LOG_WARNING, LOG_ERROR } LogLevel;

void log_set_level(LogLevel level); /* default LOG_INFO */
void log_set_json(bool json);
/* "debug", "info", "warning", "error"; false for anything else. */
MUST_CHECK bool log_level_parse(const char *text, LogLevel *out);

#define log_debug(component, ...) log_event(LOG_DEBUG, component, __VA_ARGS__)
#define log_info(component, ...) log_event(LOG_INFO, component, __VA_ARGS__)
#define log_warning(component, ...) log_event(LOG_WARNING, component, __VA_ARGS__)
#define log_error(component, ...) log_event(LOG_ERROR, component, __VA_ARGS__)

void log_event(LogLevel level, const char *component, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* The formatted Error as one event. */
void log_failure(LogLevel level, const char *component, const Error *err);

#endif
