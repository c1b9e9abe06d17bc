#include "protocol/wire/internal.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/memory.h"

enum { CANCEL_TIMEOUT_MS = 5000, GOODBYE_TIMEOUT_MS = 1000 };

void
wire_close(Wire *wire)
{
	if (wire == NULL)
		return;
	if (wire->channel.fd >= 0 && wire->state == WIRE_IDLE && wire->out_pos == wire->out.len) {
		Error ignored = ERROR_INIT;
		Buffer bye = BUFFER_INIT;
		message_put_terminate(&bye);
		(void)!channel_write_all(&wire->channel, buffer_slice(&bye), NULL,
		                         deadline_in_ms(GOODBYE_TIMEOUT_MS), &ignored);
		buffer_free(&bye);
	}
	channel_close(&wire->channel);
	frame_reader_free(&wire->in);
	buffer_free(&wire->out);
	conninfo_free(wire->info);
	tls_config_free(wire->tls);
	for (size_t i = 0; i < wire->parameter_count; i++) {
		free(wire->parameters[i].name);
		free(wire->parameters[i].value);
	}
	free(wire->parameters);
	free(wire->host);
	free(wire->display);
	mem_wipe(wire->key, sizeof(wire->key));
	free(wire);
}

const char *
wire_parameter(const Wire *wire, const char *name)
{
	for (size_t i = 0; i < wire->parameter_count; i++)
		if (strcmp(wire->parameters[i].name, name) == 0)
			return wire->parameters[i].value;
	return NULL;
}

int
wire_server_version(const Wire *wire)
{
	return wire->server_version;
}

uint32_t
wire_backend_pid(const Wire *wire)
{
	return wire->pid;
}

const char *
wire_display(const Wire *wire)
{
	return wire->display;
}

bool
wire_uses_tls(const Wire *wire)
{
	return wire->channel.fd >= 0 && tls_is(&wire->channel);
}

int
wire_socket(const Wire *wire)
{
	return wire->channel.fd;
}

/* "15.4 (Debian ...)" 150004, "9.6.24" 90624, "18beta1" 180000. */
static int
parse_version(const char *text)
{
	int part[3] = {0, 0, 0};
	int parts = 0;

	while (parts < 3 && *text >= '0' && *text <= '9') {
		for (; *text >= '0' && *text <= '9' && part[parts] < 1000; text++)
			part[parts] = part[parts] * 10 + (*text - '0');
		parts++;
		if (*text != '.')
			break;
		text++;
	}
	return part[0] >= 10 ? part[0] * 10000 + part[1] : part[0] * 10000 + part[1] * 100 + part[2];
}

static void
set_parameter(Wire *wire, const char *name, const char *value)
{
	size_t i = 0;

	if (strcmp(name, "server_version") == 0)
		wire->server_version = parse_version(value);
	while (i < wire->parameter_count && strcmp(wire->parameters[i].name, name) != 0)
		i++;
	if (i == wire->parameter_count) {
		wire->parameters = mem_realloc(wire->parameters, (i + 1) * sizeof(WireParameter));
		wire->parameters[i] = (WireParameter){mem_strdup(name), NULL};
		wire->parameter_count++;
	}
	free(wire->parameters[i].value);
	wire->parameters[i].value = mem_strdup(value);
}

static bool
lost(Wire *wire)
{
	wire->state = WIRE_DEAD;
	return false;
}

bool
wire_absorb(Wire *wire, const Frame *frame, bool *taken, Error *err)
{
	const char *name, *value;
	ServerReport report;

	*taken = true;
	switch (frame->type) {
	case 'S':
		if (!message_parse_parameter(frame->payload, &name, &value, err))
			return lost(wire);
		set_parameter(wire, name, value);
		return true;
	case 'N':
		if (!message_parse_report(frame->payload, &report, err))
			return lost(wire);
		if (report.message != NULL)
			log_debug("wire", "%s: notice: %s", wire->display, report.message);
		return true;
	case 'A': /* nobody here listens */
		return true;
	default:
		*taken = false;
		return true;
	}
}

bool
wire_receive(Wire *wire, int64_t deadline_ms, Error *err)
{
	for (;;) {
		size_t room;
		uint8_t *to = frame_reader_room(&wire->in, &room);
		ssize_t n = wire->channel.ops->read(&wire->channel, to, room, err);
		if (n < 0)
			return lost(wire);
		if (n > 0) {
			frame_reader_received(&wire->in, (size_t)n);
			return true;
		}
		if (!stop_wait_fd(wire->stop, wire->channel.fd, wire->channel.read_wants, deadline_ms, err))
			return false;
	}
}

bool
wire_next(Wire *wire, int64_t deadline_ms, Frame *out, Error *err)
{
	for (;;) {
		bool taken = false;
		switch (frame_reader_next(&wire->in, out, err)) {
		case FRAME_READY:
			if (!wire_absorb(wire, out, &taken, err))
				return false;
			if (!taken)
				return true;
			break;
		case FRAME_MORE:
			if (!wire_receive(wire, deadline_ms, err))
				return false;
			break;
		case FRAME_BAD:
			return lost(wire);
		}
	}
}

bool
wire_send(Wire *wire, Slice bytes, int64_t deadline_ms, Error *err)
{
	CHECK(wire->out_pos == wire->out.len);
	/* Given up half way, the server would take what follows for the rest. */
	return channel_write_all(&wire->channel, bytes, wire->stop, deadline_ms, err) || lost(wire);
}

bool
wire_start_query(Wire *wire, const char *sql, int64_t deadline_ms, Error *err)
{
	if (wire->state == WIRE_DEAD)
		return error_set(err, ERROR_NETWORK, "the connection is closed");
	if (wire->state != WIRE_IDLE)
		return error_set(err, ERROR_BUG, "a query on a connection that is busy");

	Buffer message = BUFFER_INIT;
	message_put_query(&message, sql);
	bool ok = wire_send(wire, buffer_slice(&message), deadline_ms, err);
	buffer_free(&message);
	if (ok)
		wire->state = WIRE_BUSY;
	return ok;
}

bool
wire_take_error(Wire *wire, Slice payload, Error *err)
{
	ServerReport report;

	if (!message_parse_report(payload, &report, err))
		return lost(wire);
	server_report_to_error(&report, err);
	if (server_report_is_fatal(&report))
		lost(wire);
	return false;
}

bool
wire_finish(Wire *wire, int64_t deadline_ms, Error *sql, Error *err)
{
	Frame frame;
	char status;

	while (wire_next(wire, deadline_ms, &frame, err)) {
		if (frame.type == 'Z') {
			if (!message_parse_ready(frame.payload, &status, err))
				return lost(wire);
			wire->state = WIRE_IDLE;
			return true;
		}
		if (frame.type == 'E') {
			Error this = ERROR_INIT;
			wire_take_error(wire, frame.payload, &this);
			if (sql != NULL && sql->class == ERROR_NONE)
				*sql = this;
			if (wire->state == WIRE_DEAD) {
				if (err != NULL)
					*err = this;
				return false;
			}
		}
	}
	return lost(wire);
}

bool
wire_fail_query(Wire *wire)
{
	Error ignored = ERROR_INIT;

	if (wire->state == WIRE_DEAD)
		return false;
	/* What the server said matters more than that it then went away. */
	if (!wire_finish(wire, deadline_in_ms(CANCEL_TIMEOUT_MS), NULL, &ignored))
		wire->state = WIRE_DEAD;
	return false;
}

bool
wire_cancel(const Wire *wire, Error *err)
{
	Channel channel = {.fd = -1};
	Buffer message = BUFFER_INIT;
	Error ignored = ERROR_INIT;
	uint8_t nothing;
	int64_t deadline = deadline_in_ms(CANCEL_TIMEOUT_MS);

	if (wire->key_len == 0)
		return error_set(err, ERROR_PROTOCOL, "the server gave no key to cancel with");
	if (!wire_open_channel(wire, &channel, wire_uses_tls(wire) ? WIRE_TLS_ON : WIRE_TLS_OFF, NULL,
	                       deadline, err))
		return error_add_context(err, "cancel request");
	message_put_cancel(&message, wire->pid, slice_of(wire->key, wire->key_len));
	bool ok = channel_write_all(&channel, buffer_slice(&message), NULL, deadline, err);
	/* The server closes once the signal is sent: only then is the request done. */
	if (ok && channel_read_all(&channel, &nothing, 1, NULL, deadline, &ignored))
		ok = error_set(err, ERROR_PROTOCOL, "the server answered a cancel request");
	channel_close(&channel);
	mem_wipe(message.data, message.len);
	buffer_free(&message);
	return ok || error_add_context(err, "cancel request");
}
