/*
 * From what a server's session has to what is wanted: the messages.
 *
 * The order is that of what depends on what: the encoding in which all else is written, the
 * settings (the text of a statement may be read as they say), the role last of them, LISTEN,
 * then the statements. Parameter types below FIRST_UNSTABLE_OID are the same on every
 * server and are named; the others the server finds out as the first one did. (A client that
 * names one of those itself is not moved: statements.h.)
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/memory.h"
#include "protocol/message/extended.h"
#include "proxy/listener/move/carried.h"

enum { FIRST_UNSTABLE_OID = 10000, TYPES_MAX = 65535, PLANNED_MOST = 64 };

static const char set_sql[] = "SELECT pg_catalog.set_config($1, $2, false)";

/* ---- groups ---- */

static void
begin_group(Plan *plan, char progress)
{
	CHECK(plan->group_count < sizeof(plan->groups) / sizeof(plan->groups[0]));
	plan->groups[plan->group_count].first = plan->step_count;
	plan->groups[plan->group_count].progress = progress;
	plan->groups[plan->group_count].to_spare = false;
}

/* A group without a step is none. */
static void
end_group(Plan *plan)
{
	if (plan->groups[plan->group_count].first == plan->step_count)
		return;
	message_put_sync(&plan->messages);
	plan->group_count++;
}

static void
add_step(Plan *plan, StepKind kind, const char *name)
{
	if (plan->step_count == plan->step_cap) {
		plan->step_cap = plan->step_cap == 0 ? 16 : plan->step_cap * 2;
		plan->steps = mem_realloc(plan->steps, plan->step_cap * sizeof(Step));
	}
	plan->steps[plan->step_count++] = (Step){.kind = kind, .name = name};
}

/* ---- steps ---- */

static void
put_command(Plan *plan, StepKind kind, const char *name, const char *sql)
{
	add_step(plan, kind, name);
	message_put_parse(&plan->messages, "", sql, NULL, 0);
	message_put_bind(&plan->messages, "", "", NULL, 0);
	message_put_execute(&plan->messages, "");
}

static void
put_command_on(Plan *plan, StepKind kind, const char *verb, const char *name)
{
	Buffer sql = BUFFER_INIT;

	buffer_printf(&sql, "%s \"", verb);
	for (const char *c = name; *c != '\0'; c++) {
		if (*c == '"')
			buffer_put_u8(&sql, '"');
		buffer_put_u8(&sql, (uint8_t)*c);
	}
	buffer_put_u8(&sql, '"');
	put_command(plan, kind, name, buffer_cstr(&sql));
	buffer_free(&sql);
}

static void
put_set(Plan *plan, const char *name, const char *value)
{
	const char *values[] = {name, value};

	add_step(plan, STEP_SETTING, name);
	message_put_parse(&plan->messages, "", set_sql, NULL, 0);
	message_put_bind(&plan->messages, "", "", values, 2);
	message_put_execute(&plan->messages, "");
}

/* ---- settings ---- */

static const char *
report_of(const Carried *carried, const char *name)
{
	const CarriedItem *item = carried_find(carried, CARRIED_REPORT, name);

	return item != NULL ? item->value : NULL;
}

static bool
differs(const char *a, const char *b)
{
	return a == NULL || b == NULL ? a != b : strcmp(a, b) != 0;
}

/* Of either kind: what one server shows the other may hide. */
static const CarriedItem *
setting_of(const Carried *carried, const char *name)
{
	const CarriedItem *item = carried_find(carried, CARRIED_SETTING, name);

	return item != NULL ? item : carried_find(carried, CARRIED_CUSTOM, name);
}

static bool
is_setting(const CarriedItem *item)
{
	return item->kind == CARRIED_SETTING || item->kind == CARRIED_CUSTOM;
}

static bool
is_encoding(const char *name)
{
	return strcasecmp(name, "client_encoding") == 0;
}

static void
plan_encoding(const Carried *have, const Carried *want, Plan *plan)
{
	const char *encoding = report_of(want, "client_encoding");
	bool set = carried_find(want, CARRIED_SETTING, "client_encoding") != NULL;
	bool was_set = carried_find(have, CARRIED_SETTING, "client_encoding") != NULL;

	begin_group(plan, 'C');
	if (encoding != NULL &&
	    (set != was_set || differs(encoding, report_of(have, "client_encoding"))))
		put_set(plan, "client_encoding", encoding);
	end_group(plan);
}

static void
plan_settings(const Carried *have, const Carried *want, Plan *plan)
{
	const char *user = report_of(want, "session_authorization"), *role = report_of(want, "role");

	const char *old_role = report_of(have, "role");
	bool other_role = differs(old_role, "none");

	begin_group(plan, 'C');
	/* What the session's own role has set, another one may not be allowed to. */
	if (other_role)
		put_set(plan, "role", "none");
	for (size_t i = 0; i < have->count; i++) {
		const CarriedItem *item = &have->items[i];
		if (item->kind == CARRIED_SETTING && !is_encoding(item->name) &&
		    setting_of(want, item->name) == NULL)
			put_command_on(plan, STEP_SETTING, "RESET", item->name);
	}
	for (size_t i = 0; i < want->count; i++) {
		const CarriedItem *item = &want->items[i];
		if (!is_setting(item) || is_encoding(item->name))
			continue;
		const CarriedItem *old = setting_of(have, item->name);
		if (old == NULL || strcmp(old->value, item->value) != 0)
			put_set(plan, item->name, item->value);
	}
	if (user != NULL && differs(user, report_of(have, "session_authorization")))
		put_set(plan, "session_authorization", user);
	if (role != NULL && (other_role || strcmp(role, "none") != 0))
		put_set(plan, "role", role);
	end_group(plan);
}

static void
plan_channels(const Carried *have, const Carried *want, Plan *plan)
{
	begin_group(plan, 'C');
	for (size_t i = 0; i < have->count; i++)
		if (have->items[i].kind == CARRIED_CHANNEL &&
		    carried_find(want, CARRIED_CHANNEL, have->items[i].name) == NULL)
			put_command_on(plan, STEP_CHANNEL, "UNLISTEN", have->items[i].name);
	for (size_t i = 0; i < want->count; i++)
		if (want->items[i].kind == CARRIED_CHANNEL &&
		    carried_find(have, CARRIED_CHANNEL, want->items[i].name) == NULL)
			put_command_on(plan, STEP_CHANNEL, "LISTEN", want->items[i].name);
	end_group(plan);
}

/* ---- statements ---- */

static bool
is_statement(const CarriedItem *item)
{
	return item->kind == CARRIED_PROTOCOL || item->kind == CARRIED_SQL;
}

/* The other side has the very same. */
static bool
is_kept(const CarriedItem *item, const Carried *in)
{
	const CarriedItem *other = carried_find(in, (CarriedKind)item->kind, item->name);

	return other != NULL && strcmp(item->value, other->value) == 0 &&
	       strcmp(item->type_names, other->type_names) == 0;
}

/* "{23,25}" */
static size_t
parse_types(const char *text, uint32_t *types, size_t most)
{
	size_t count = 0;

	while (*text != '\0' && *text != '}' && count < most) {
		char *end;
		text++; /* the brace, or a comma */
		unsigned long oid = strtoul(text, &end, 10);
		if (end == text)
			break;
		types[count++] = oid < FIRST_UNSTABLE_OID ? (uint32_t)oid : 0;
		text = end;
	}
	return count;
}

/* Under that name; how many parameters it has. */
static size_t
put_parse(Plan *plan, const char *name, const CarriedItem *item)
{
	uint32_t few[16] = {0}, *types = few;
	size_t most = sizeof(few) / sizeof(few[0]);

	for (const char *c = item->types; *c != '\0'; c++)
		most += *c == ',';
	if (most > sizeof(few) / sizeof(few[0]))
		types = mem_alloc(most * sizeof(uint32_t));
	size_t count = parse_types(item->types, types, most < TYPES_MAX ? most : TYPES_MAX);
	message_put_parse(&plan->messages, name, item->value, types, count);
	if (types != few)
		free(types);
	return count;
}

static void
put_statement(Plan *plan, const CarriedItem *item)
{
	add_step(plan, STEP_STATEMENT, item->name);
	put_parse(plan, item->name, item);
}

/* As an unnamed statement: binding the client's own would count among its custom plans, by which
 * the server chooses a generic one. */
static void
put_planned(Plan *plan, const CarriedItem *item)
{
	add_step(plan, STEP_STATEMENT, item->name);
	size_t count = put_parse(plan, "", item);
	const char **nulls = mem_zalloc((count + 1) * sizeof(*nulls));
	message_put_bind(&plan->messages, "", "", nulls, count);
	free(nulls);
}

static void
plan_ahead(const Carried *have, const Carried *want, Plan *plan)
{
	size_t count = 0;

	begin_group(plan, '2');
	plan->groups[plan->group_count].to_spare = true;
	for (size_t i = 0; i < want->count && count < PLANNED_MOST; i++)
		if (want->items[i].kind == CARRIED_PROTOCOL && !is_kept(&want->items[i], have)) {
			put_planned(plan, &want->items[i]);
			count++;
		}
	end_group(plan);
}

/* Behind spaces and comments stands PREPARE. What follows it in the same text the server
 * refuses to take: one command a Parse. */
static bool
is_prepare(const char *text)
{
	for (;;) {
		const char *to = NULL;
		while (*text != '\0' && strchr(" \t\n\r\f\v", *text) != NULL)
			text++;
		if (strncmp(text, "--", 2) == 0)
			to = strchr(text, '\n');
		else if (strncmp(text, "/*", 2) == 0)
			to = strstr(text + 2, "*/");
		else
			return strncasecmp(text, "prepare", 7) == 0;
		if (to == NULL)
			return false;
		text = to + (*to == '*' ? 2 : 1);
	}
}

static bool
plan_statements(const Carried *have, const Carried *want, Plan *plan, Error *err)
{
	begin_group(plan, 'C');
	for (size_t i = 0; i < have->count; i++)
		if (is_statement(&have->items[i]) && !is_kept(&have->items[i], want))
			put_command_on(plan, STEP_SQL, "DEALLOCATE", have->items[i].name);
	for (size_t i = 0; i < want->count; i++) {
		const CarriedItem *item = &want->items[i];
		if (item->kind != CARRIED_SQL || is_kept(item, have))
			continue;
		if (!is_prepare(item->value))
			return error_set(err, ERROR_CONFIG,
			                 "prepared statement %s came with other commands in one text",
			                 item->name);
		put_command(plan, STEP_SQL, item->name, item->value);
	}
	end_group(plan);
	begin_group(plan, '1');
	for (size_t i = 0; i < want->count; i++)
		if (want->items[i].kind == CARRIED_PROTOCOL && !is_kept(&want->items[i], have))
			put_statement(plan, &want->items[i]);
	end_group(plan);
	return true;
}

/* ---- the whole ---- */

bool
carried_plan(const Carried *have, const Carried *want, bool ahead, Plan *plan, Error *err)
{
	*plan = (Plan){.messages = BUFFER_INIT};
	plan_encoding(have, want, plan);
	plan_settings(have, want, plan);
	plan_channels(have, want, plan);
	if (!plan_statements(have, want, plan, err))
		return false;
	if (ahead)
		plan_ahead(have, want, plan);
	return true;
}

void
plan_free(Plan *plan)
{
	buffer_free(&plan->messages);
	free(plan->steps);
	*plan = (Plan){.messages = BUFFER_INIT};
}

void
plan_name_step(const Plan *plan, size_t group, size_t completed, char *out, size_t size)
{
	static const char *const kinds[] = {[STEP_SETTING] = "setting",
	                                    [STEP_CHANNEL] = "LISTEN",
	                                    [STEP_SQL] = "prepared statement",
	                                    [STEP_STATEMENT] = "prepared statement"};
	size_t at = group < plan->group_count ? plan->groups[group].first + completed : 0;

	if (at >= plan->step_count)
		snprintf(out, size, "its state");
	else
		snprintf(out, size, "%s %s", kinds[plan->steps[at].kind], plan->steps[at].name);
}
