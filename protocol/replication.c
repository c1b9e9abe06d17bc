#include "protocol/replication.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/memory.h"

void
sql_put_identifier(Buffer *out, const char *name)
{
	buffer_put_u8(out, '"');
	for (; *name != '\0'; name++) {
		if (*name == '"')
			buffer_put_u8(out, '"');
		buffer_put_u8(out, (uint8_t)*name);
	}
	buffer_put_u8(out, '"');
}

void
sql_put_literal(Buffer *out, const char *text)
{
	/* With a backslash E'' is right whatever standard_conforming_strings says.
	 * The space keeps the E from becoming part of a word before it. */
	if (strchr(text, '\\') != NULL)
		buffer_put_text(out, " E");
	buffer_put_u8(out, '\'');
	for (; *text != '\0'; text++) {
		if (*text == '\'' || *text == '\\')
			buffer_put_u8(out, (uint8_t)*text);
		buffer_put_u8(out, (uint8_t)*text);
	}
	buffer_put_u8(out, '\'');
}

/* The value of a column in a result of one row. */
static const char *
only_value(const WireResult *result, const char *column)
{
	int index = wire_result_column(result, column);

	if (index < 0 || wire_result_rows(result) != 1)
		return NULL;
	return wire_result_get(result, 0, index);
}

static bool
read_identity(const WireResult *result, SystemIdentity *out)
{
	const char *id = only_value(result, "systemid");
	const char *timeline = only_value(result, "timeline");
	const char *xlogpos = only_value(result, "xlogpos");
	const char *dbname = only_value(result, "dbname");
	char *end;

	memset(out, 0, sizeof(*out));
	if (id == NULL || timeline == NULL || xlogpos == NULL || strlen(id) >= sizeof(out->system_id))
		return false;
	strcpy(out->system_id, id);
	/* NULL on a physical replication connection. */
	if (dbname != NULL && strlen(dbname) >= sizeof(out->dbname))
		return false;
	strcpy(out->dbname, dbname != NULL ? dbname : "");
	out->timeline = (uint32_t)strtoul(timeline, &end, 10);
	return *end == '\0' && timeline[0] != '\0' && lsn_parse(xlogpos, &out->xlogpos);
}

bool
replication_identify(Wire *wire, SystemIdentity *out, Error *err)
{
	WireResult *result = NULL;

	if (!wire_query(wire, "IDENTIFY_SYSTEM", 0, &result, err))
		return error_add_context(err, "IDENTIFY_SYSTEM");
	bool ok = read_identity(result, out);
	wire_result_free(result);
	return ok || error_set(err, ERROR_PROTOCOL, "the answer to IDENTIFY_SYSTEM is malformed");
}

/* Lines of "timeline TAB position TAB reason": where the next one begins. Comments with '#'. */
Lsn
replication_history_fork(const char *history, uint32_t past)
{
	for (const char *line = history; line != NULL; line = strchr(line, '\n')) {
		char position[32];
		unsigned long timeline;
		Lsn fork;

		line += strspn(line, "\n");
		if (sscanf(line, "%lu %31s", &timeline, position) == 2 && timeline == past &&
		    lsn_parse(position, &fork))
			return fork;
	}
	return LSN_INVALID;
}

bool
replication_fork(Wire *wire, uint32_t present, uint32_t past, Lsn *fork, Error *err)
{
	char command[48];
	WireResult *result = NULL;

	snprintf(command, sizeof(command), "TIMELINE_HISTORY %u", present);
	if (!wire_query(wire, command, deadline_in_ms(30000), &result, err))
		return error_add_context(err, "%s", command);
	const char *history = only_value(result, "content");
	*fork = history != NULL ? replication_history_fork(history, past) : LSN_INVALID;
	wire_result_free(result);
	return true;
}

bool
replication_create_slot(Wire *wire, const char *name, int64_t deadline_ms, Lsn *consistent_point,
                        Error *err)
{
	Buffer sql = BUFFER_INIT;
	WireResult *result = NULL;

	/* FAILOVER: standbys that synchronize slots have it, so that a promoted one can be followed. The old
	 * keyword: 14 and older take nothing else. */
	buffer_put_text(&sql, "CREATE_REPLICATION_SLOT ");
	sql_put_identifier(&sql, name);
	buffer_put_text(&sql, wire_server_version(wire) >= 170000
	                          ? " LOGICAL pgoutput (SNAPSHOT 'nothing', FAILOVER)"
	                          : " LOGICAL pgoutput NOEXPORT_SNAPSHOT");
	bool ok = wire_query(wire, buffer_cstr(&sql), deadline_ms, &result, err);
	buffer_free(&sql);
	if (ok) {
		const char *point = only_value(result, "consistent_point");
		ok = point != NULL && lsn_parse(point, consistent_point);
		if (!ok)
			error_set(err, ERROR_PROTOCOL, "the answer to CREATE_REPLICATION_SLOT is malformed");
	}
	wire_result_free(result);
	return ok || error_add_context(err, "creating slot \"%s\"", name);
}

bool
replication_drop_slot(Wire *wire, const char *name, Error *err)
{
	Buffer sql = BUFFER_INIT;

	buffer_put_text(&sql, "DROP_REPLICATION_SLOT ");
	sql_put_identifier(&sql, name);
	bool ok = wire_query(wire, buffer_cstr(&sql), 0, NULL, err);
	buffer_free(&sql);
	return ok || error_add_context(err, "dropping slot \"%s\"", name);
}

int
replication_proto_version(int server_version)
{
	if (server_version >= 160000)
		return 4;
	if (server_version >= 150000)
		return 3;
	return server_version >= 140000 ? 2 : 1;
}

static void
put_identifiers(const char *names, Buffer *sql)
{
	for (const char *at = names;; at++) {
		size_t len = strcspn(at, ",");
		char *name = mem_strndup(at, len);
		sql_put_identifier(sql, name);
		free(name);
		at += len;
		if (*at == '\0')
			return;
		buffer_put_u8(sql, ',');
	}
}

void
replication_start_command(const StartReplication *start, Buffer *sql)
{
	Buffer publications = BUFFER_INIT;

	/* publication_names is a list of identifiers inside one literal. The
	 * walsender's own scanner knows no E'': there a backslash is plain. */
	put_identifiers(start->publication, &publications);
	buffer_put_text(sql, "START_REPLICATION SLOT ");
	sql_put_identifier(sql, start->slot);
	buffer_printf(sql, " LOGICAL %s (proto_version '%d', publication_names '",
	              LSN_STR(start->start), start->proto_version);
	for (const char *p = buffer_cstr(&publications); *p != '\0'; p++) {
		if (*p == '\'')
			buffer_put_u8(sql, '\'');
		buffer_put_u8(sql, (uint8_t)*p);
	}
	buffer_put_u8(sql, '\'');
	if (start->binary)
		buffer_put_text(sql, ", binary 'true'");
	if (start->messages)
		buffer_put_text(sql, ", messages 'true'");
	if (start->streaming)
		buffer_put_text(sql, ", streaming 'on'");
	buffer_put_u8(sql, ')');
	buffer_free(&publications);
}

bool
replication_parse(Slice payload, ReplicationFrame *out, Error *err)
{
	ByteReader r = reader_of(payload);
	uint8_t kind = read_u8(&r);
	uint8_t reply = 0;

	*out = (ReplicationFrame){.kind = REPLICATION_KEEPALIVE};
	if (kind == 'w') {
		out->kind = REPLICATION_DATA;
		out->start = lsn_make(read_u64(&r));
		out->end = lsn_make(read_u64(&r));
		out->time_us = (int64_t)read_u64(&r);
		out->message = read_bytes(&r, reader_left(&r));
		if (out->message.len == 0)
			r.failed = true; /* a pgoutput message has at least its type */
	} else if (kind == 'k') {
		out->end = lsn_make(read_u64(&r));
		out->time_us = (int64_t)read_u64(&r);
		reply = read_u8(&r);
		out->reply_wanted = reply == 1;
	} else if (!r.failed) {
		return error_set(err, ERROR_PROTOCOL, "unknown replication message type 0x%02x", kind);
	}
	if (reader_done(&r) && reply <= 1)
		return true;
	return error_set(err, ERROR_PROTOCOL, "a replication message is malformed");
}

void
replication_status_update(Lsn written, Lsn flushed, Lsn applied, int64_t now_us, bool reply_wanted,
                          Buffer *out)
{
	buffer_put_u8(out, 'r');
	buffer_put_u64(out, written.v);
	buffer_put_u64(out, flushed.v);
	buffer_put_u64(out, applied.v);
	buffer_put_u64(out, (uint64_t)now_us);
	buffer_put_u8(out, reply_wanted);
}
