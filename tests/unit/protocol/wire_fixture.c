#include "tests/unit/protocol/wire_fixture.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/memory.h"

const char *
fixture_text(const Error *err)
{
	static char text[4096];
	return error_format(err, text, sizeof(text));
}

static Wire *
connect_text(WireOptions options, const char *text, Error *err)
{
	ConnInfo *info = conninfo_parse(text, err);

	ck_assert_msg(info != NULL, "%s: %s", text, fixture_text(err));
	options.info = info;
	Wire *wire = wire_connect(&options, err);
	conninfo_free(info);
	return wire;
}

Wire *
fixture_connect_with(WireOptions options, const char *fmt, ...)
{
	char text[2048];
	Error err = ERROR_INIT;
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	Wire *wire = connect_text(options, text, &err);
	ck_assert_msg(wire != NULL, "%s: %s", text, fixture_text(&err));
	return wire;
}

Wire *
fixture_connect(const char *fmt, ...)
{
	char text[2048];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	return fixture_connect_with((WireOptions){0}, "%s", text);
}

void
fixture_refused(ErrorClass class, Error *err, const char *fmt, ...)
{
	char text[2048];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	error_clear(err);
	Wire *wire = connect_text((WireOptions){0}, text, err);
	ck_assert_msg(wire == NULL, "%s: connected", text);
	ck_assert_msg(err->class == class, "%s: %s (class %s)", text, fixture_text(err),
	              error_class_name(err->class));
	ck_assert_ptr_null(strstr(fixture_text(err), "hunter2"));
}

char *
fixture_value(Wire *wire, const char *sql)
{
	Error err = ERROR_INIT;
	WireResult *result = NULL;

	ck_assert_msg(wire_query(wire, sql, 0, &result, &err), "%s: %s", sql, fixture_text(&err));
	const char *value = wire_result_rows(result) > 0 ? wire_result_get(result, 0, 0) : NULL;
	char *copy = mem_strdup(value != NULL ? value : "");
	wire_result_free(result);
	return copy;
}
