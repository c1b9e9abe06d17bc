/*
 * The status' list of tables. With thousands of them a document of all is megabytes, and making
 * it every second takes a core from the copy: a client is given as many as it asks for, those
 * first that need eyes.
 */
#include "common/memory.h"
#include "proxy/admin/admin_internal.h"

enum { STATES = 4, DEFAULT_LIMIT = 100 };

static const char *const state_names[STATES] = {
	[TABLE_QUEUED] = "queued",
	[TABLE_COPYING] = "copying",
	[TABLE_COPIED] = "copied",
	[TABLE_ERRORED] = "errored",
};

/* Smaller is more urgent. */
static const uint8_t ranks[STATES] = {
	[TABLE_ERRORED] = 0,
	[TABLE_COPYING] = 1,
	[TABLE_QUEUED] = 2,
	[TABLE_COPIED] = 3,
};

const char *
table_state_name(int state)
{
	return state_names[state];
}

pthread_mutex_t *
catalog_mutex(const Catalog *catalog)
{
	/* The catalogue is const to us but for its lock. */
	return (pthread_mutex_t *)(uintptr_t)&catalog->lock;
}

/* ---- which are asked for ---- */

static bool
read_size(const char *key, const char *value, size_t *out, Error *err)
{
	char *end;
	unsigned long long n = strtoull(value, &end, 10);

	if (value[0] < '0' || value[0] > '9' || *end != '\0' || n > INT32_MAX)
		return error_set(err, ERROR_CONFIG, "\"%s\" is not a number: \"%.64s\"", key, value);
	*out = (size_t)n;
	return true;
}

/* "errored,copying" */
static bool
read_states(const char *value, unsigned *out, Error *err)
{
	*out = 0;
	for (const char *at = value;; at++) {
		size_t len = strcspn(at, ",");
		int state = 0;
		while (state < STATES &&
		       (strlen(state_names[state]) != len || strncmp(at, state_names[state], len) != 0))
			state++;
		if (state == STATES)
			return error_set(err, ERROR_CONFIG,
			                 "\"state\" is a list of queued, copying, copied, errored, not "
			                 "\"%.64s\"",
			                 value);
		*out |= 1u << state;
		at += len;
		if (*at == '\0')
			return true;
	}
}

void
status_tables_default(StatusTables *out)
{
	*out = (StatusTables){.limit = DEFAULT_LIMIT};
}

bool
status_tables_set(StatusTables *which, const char *key, const char *value, Error *err)
{
	if (strcmp(key, "tables") == 0 && strcmp(value, "all") == 0) {
		which->limit = SIZE_MAX;
		return true;
	}
	if (strcmp(key, "tables") == 0)
		return read_size(key, value, &which->limit, err);
	if (strcmp(key, "offset") == 0)
		return read_size(key, value, &which->offset, err);
	if (strcmp(key, "state") == 0)
		return read_states(value, &which->states, err);
	if (strcmp(key, "match") != 0)
		return error_set(err, ERROR_CONFIG, "unknown parameter \"%.64s\"", key);
	which->match = value;
	return true;
}

/* "schema.name" has the text in it. */
static bool
name_has(const Table *table, const char *text)
{
	char name[256];

	snprintf(name, sizeof(name), "%s.%s", table->schema, table->name);
	return strstr(name, text) != NULL;
}

static bool
is_wanted(const StatusTables *which, const Table *table, int state)
{
	return (which->states == 0 || (which->states >> state & 1) != 0) &&
	       (which->match == NULL || name_has(table, which->match));
}

/* ---- the list ---- */

static void
table_pace_json(json_t *json, const Table *table)
{
	double bytes = (double)atomic_load(&table->copied_bytes);
	double expected = (double)atomic_load(&table->expected_bytes);
	double rate = (double)atomic_load(&table->copy_rate);
	bool copying = atomic_load(&table->state) == TABLE_COPYING;

	json_object_set_new(json, "bytes_expected", expected > 0 ? json_real(expected) : json_null());
	json_object_set_new(json, "rate", rate > 0 ? json_real(rate) : json_null());
	/* Past what was expected there is no telling. */
	json_object_set_new(json, "eta_seconds",
	                    copying && rate > 0 && expected > bytes
	                        ? json_real((expected - bytes) / rate)
	                        : json_null());
}

static json_t *
table_json(const Catalog *catalog, const Table *table, int state)
{
	json_t *json = json_object();

	json_object_set_new(json, "schema", json_text(table->schema));
	json_object_set_new(json, "name", json_text(table->name));
	json_object_set_new(json, "state", json_string(table_state_name(state)));
	json_object_set_new(json, "rows", json_count(atomic_load(&table->copied_rows)));
	json_object_set_new(json, "bytes", json_count(atomic_load(&table->copied_bytes)));
	json_object_set_new(json, "bytes_total", json_count(table->bytes));
	table_pace_json(json, table);
	json_object_set_new(json, "rows_estimate",
	                    table->rows_estimate < 0 ? json_null()
	                                             : json_integer(table->rows_estimate));
	json_object_set_new(json, "inserts", json_count(atomic_load(&table->inserts)));
	json_object_set_new(json, "updates", json_count(atomic_load(&table->updates)));
	json_object_set_new(json, "deletes", json_count(atomic_load(&table->deletes)));
	json_object_set_new(json, "truncates", json_count(atomic_load(&table->truncates)));

	char error[sizeof(table->error)];
	pthread_mutex_lock(catalog_mutex(catalog));
	snprintf(error, sizeof(error), "%s", table->error);
	pthread_mutex_unlock(catalog_mutex(catalog));
	json_object_set_new(json, "error", error[0] != '\0' ? json_text(error) : json_null());
	return json;
}

/* Each state is read once: a table whose state changes meanwhile is neither listed twice nor
 * passed over. Counts how many of each rank there are; NOT_WANTED for the others. */
enum { NOT_WANTED = STATES };

static uint8_t *
read_all_states(const Catalog *catalog, const StatusTables *which, size_t counts[STATES])
{
	uint8_t *states = mem_alloc(catalog->table_count + 1);

	for (size_t i = 0; i < catalog->table_count; i++) {
		int state = atomic_load(&catalog->tables[i].state);
		bool wanted = is_wanted(which, &catalog->tables[i], state);
		states[i] = wanted ? (uint8_t)state : NOT_WANTED;
		if (wanted)
			counts[ranks[state]]++;
	}
	return states;
}

json_t *
status_tables_json(const Catalog *catalog, const StatusTables *which, size_t *matching)
{
	json_t *list = json_array();
	size_t counts[STATES] = {0};
	size_t place[STATES]; /* of the next table of a rank, among all that match */

	*matching = 0;
	if (catalog == NULL)
		return list;
	uint8_t *states = read_all_states(catalog, which, counts);
	for (int rank = 0; rank < STATES; rank++) {
		place[rank] = *matching;
		*matching += counts[rank];
	}
	for (size_t i = 0; i < catalog->table_count; i++) {
		if (states[i] == NOT_WANTED)
			continue;
		size_t at = place[ranks[states[i]]]++;
		if (at >= which->offset && at - which->offset < which->limit)
			json_array_append_new(list, table_json(catalog, &catalog->tables[i], states[i]));
	}
	free(states);
	return list;
}
