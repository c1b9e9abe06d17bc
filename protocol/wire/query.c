#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/memory.h"
#include "protocol/wire/internal.h"

/* How long a cancelled query may take to end. */
enum { CANCEL_WAIT_MS = 5000 };

struct WireResult {
	int rows;
	int columns;
	char **names;  /* [columns] */
	char **values; /* [rows * columns], NULL for NULL */
	size_t room;   /* rows that fit into values */
	char *tag;
};

int
wire_result_rows(const WireResult *result)
{
	return result->rows;
}

int
wire_result_columns(const WireResult *result)
{
	return result->columns;
}

int
wire_result_column(const WireResult *result, const char *name)
{
	for (int i = 0; i < result->columns; i++)
		if (strcmp(result->names[i], name) == 0)
			return i;
	return -1;
}

const char *
wire_result_get(const WireResult *result, int row, int column)
{
	CHECK(row >= 0 && row < result->rows && column >= 0 && column < result->columns);
	return result->values[(size_t)row * (size_t)result->columns + (size_t)column];
}

const char *
wire_result_tag(const WireResult *result)
{
	return result->tag != NULL ? result->tag : "";
}

static void
clear_rows(WireResult *result)
{
	size_t cells = (size_t)result->rows * (size_t)result->columns;

	for (size_t i = 0; i < cells; i++)
		free(result->values[i]);
	for (int i = 0; i < result->columns; i++)
		free(result->names[i]);
	free(result->values);
	free(result->names);
	result->values = result->names = NULL;
	result->rows = result->columns = 0;
	result->room = 0;
}

void
wire_result_free(WireResult *result)
{
	if (result == NULL)
		return;
	clear_rows(result);
	free(result->tag);
	free(result);
}

static bool
take_columns(WireResult *result, Slice payload, Error *err)
{
	ByteReader r;
	ColumnDescription column;
	int count;

	clear_rows(result);
	if (!message_row_description_begin(payload, &r, &count, err))
		return false;
	result->names = mem_zalloc((size_t)count * sizeof(char *) + 1);
	for (; result->columns < count; result->columns++) {
		if (!message_row_description_next(&r, &column, err))
			return false;
		result->names[result->columns] = mem_strdup(column.name);
	}
	return message_end(&r, "RowDescription", err);
}

static bool
take_row(WireResult *result, Slice payload, Error *err)
{
	ByteReader r;
	Slice value;
	bool is_null;
	int count;

	if (!message_data_row_begin(payload, &r, &count, err))
		return false;
	if (count != result->columns || result->rows == INT_MAX)
		return error_set(err, ERROR_PROTOCOL, "a DataRow has %d values for %d columns", count,
		                 result->columns);
	size_t columns = (size_t)count;
	if ((size_t)result->rows == result->room) {
		result->room = result->room != 0 ? result->room * 2 : 16;
		result->values = mem_realloc(result->values, result->room * columns * sizeof(char *) + 1);
	}
	char **cells = result->values + (size_t)result->rows * columns;
	memset(cells, 0, columns * sizeof(char *));
	result->rows++;
	for (size_t i = 0; i < columns; i++) {
		if (!message_data_row_next(&r, &value, &is_null, err))
			return false;
		cells[i] = is_null ? NULL : mem_strndup((const char *)value.data, value.len);
	}
	return message_end(&r, "DataRow", err);
}

static bool
take_tag(WireResult *result, Slice payload, Error *err)
{
	const char *tag;
	uint64_t rows;

	if (!message_parse_complete(payload, &tag, &rows, err))
		return false;
	free(result->tag);
	result->tag = mem_strdup(tag);
	return true;
}

/* A COPY inside a simple query is a mistake of ours; it is ended, not served. */
static bool
refuse_copy_in(Wire *wire, Error *err)
{
	Buffer message = BUFFER_INIT;

	message_put_copy_fail(&message, "COPY is not expected here");
	bool ok = wire_send(wire, buffer_slice(&message), deadline_in_ms(CANCEL_WAIT_MS), err);
	buffer_free(&message);
	return ok;
}

static bool
take_frame(Wire *wire, const Frame *frame, WireResult *result, Error *sql, Error *err)
{
	Error this = ERROR_INIT;

	switch (frame->type) {
	case 'T':
		return take_columns(result, frame->payload, err);
	case 'D':
		return take_row(result, frame->payload, err);
	case 'C':
		return take_tag(result, frame->payload, err);
	case 'E':
		wire_take_error(wire, frame->payload, &this);
		if (sql->class == ERROR_NONE)
			*sql = this;
		return true;
	case 'G':
		return refuse_copy_in(wire, err);
	case 'I':
	case 'H':
	case 'd':
	case 'c':
		return true;
	default:
		return error_set(err, ERROR_PROTOCOL, "unexpected message '%c' in a query", frame->type);
	}
}

/*
 * Reads up to ReadyForQuery. *sql: the server's first error, if any.
 * *given_up: why we stopped wanting the answer (deadline, stop), if so; the
 * query was then cancelled and its end awaited.
 */
static bool
collect(Wire *wire, int64_t deadline_ms, WireResult *result, Error *sql, Error *given_up,
        Error *err)
{
	const Stop *stop = wire->stop;
	Frame frame;
	bool ok = true;

	for (;;) {
		Error why = ERROR_INIT;
		if (!wire_next(wire, deadline_ms, &frame, &why)) {
			bool ours = why.class == ERROR_TIMEOUT || why.class == ERROR_CANCELLED;
			Error ignored = ERROR_INIT;
			if (ours && given_up->class == ERROR_NONE) {
				*given_up = why;
				wire->stop = NULL;
				deadline_ms = deadline_in_ms(CANCEL_WAIT_MS);
				if (wire_cancel(wire, &ignored))
					continue;
			}
			ok = false;
			*err = why;
			break;
		}
		if (frame.type == 'Z')
			break;
		ok = take_frame(wire, &frame, result, sql, err);
		if (!ok || wire->state == WIRE_DEAD)
			break;
	}
	wire->stop = stop;
	wire->state = ok && wire->state != WIRE_DEAD ? WIRE_IDLE : WIRE_DEAD;
	return ok;
}

bool
wire_query(Wire *wire, const char *sql, int64_t deadline_ms, WireResult **result, Error *err)
{
	Error server = ERROR_INIT, given_up = ERROR_INIT, broken = ERROR_INIT;
	WireResult *mine;

	if (result != NULL)
		*result = NULL;
	if (!wire_start_query(wire, sql, deadline_ms, err))
		return error_add_context(err, "%s", wire->display);
	mine = mem_zalloc(sizeof(WireResult));
	bool ok = collect(wire, deadline_ms, mine, &server, &given_up, &broken);

	/* An answer that was complete before the cancel request is an answer. */
	if (ok && server.class == ERROR_NONE) {
		if (result != NULL)
			*result = mine;
		else
			wire_result_free(mine);
		return true;
	}
	wire_result_free(mine);
	Error *why = &server;
	if (given_up.class != ERROR_NONE &&
	    (server.class == ERROR_NONE || error_has_sqlstate(&server, "57014")))
		why = &given_up;
	else if (server.class == ERROR_NONE)
		why = &broken;
	if (err != NULL)
		*err = *why;
	return error_add_context(err, "%s", wire->display);
}
