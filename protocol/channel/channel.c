#include "protocol/channel/channel.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/memory.h"

static ssize_t
plain_read(Channel *channel, void *data, size_t size, Error *err)
{
	for (;;) {
		ssize_t n = recv(channel->fd, data, size, 0);
		if (n > 0)
			return n;
		channel->read_wants = POLLIN;
		if (n == 0) {
			error_set(err, ERROR_NETWORK, "the %s closed the connection", channel->peer);
			return -1;
		}
		if (errno == EAGAIN || errno == EWOULDBLOCK)
			return 0;
		if (errno != EINTR) {
			error_set_errno(err, ERROR_NETWORK, errno, "cannot read from the %s", channel->peer);
			return -1;
		}
	}
}

static ssize_t
plain_write(Channel *channel, const void *data, size_t size, Error *err)
{
	for (;;) {
		/* No SIGPIPE: a connection that is gone is an error, not the end. */
		ssize_t n = send(channel->fd, data, size, MSG_NOSIGNAL);
		if (n > 0 || (n == 0 && size == 0))
			return n;
		channel->write_wants = POLLOUT;
		if (errno == EAGAIN || errno == EWOULDBLOCK)
			return 0;
		if (errno != EINTR) {
			error_set_errno(err, ERROR_NETWORK, errno, "cannot send to the %s", channel->peer);
			return -1;
		}
	}
}

static bool
plain_pending(const Channel *channel)
{
	(void)channel;
	return false;
}

static void
plain_close(Channel *channel)
{
	(void)channel;
}

static const ChannelOps plain_ops = {plain_read, plain_write, plain_pending, plain_close};

/* A number from info; `missing` when it is not given or empty. */
static bool
read_number(const ConnInfo *info, const char *keyword, long missing, long *out, Error *err)
{
	const char *text = conninfo_get(info, keyword);
	char *end;

	*out = missing;
	if (text == NULL || text[0] == '\0')
		return true;
	errno = 0;
	*out = strtol(text, &end, 10);
	while (*end == ' ')
		end++;
	if (errno != 0 || *end != '\0' || *out < INT32_MIN || *out > INT32_MAX)
		return error_set(err, ERROR_CONFIG, "%s must be a whole number", keyword);
	return true;
}

static bool
set_option(int fd, int level, int option, long value, const char *keyword, Error *err)
{
	int number = (int)value;

	if (setsockopt(fd, level, option, &number, sizeof(number)) == 0)
		return true;
	return error_set_errno(err, ERROR_NETWORK, errno, "cannot set %s", keyword);
}

static bool
set_keepalives(int fd, const ConnInfo *info, Error *err)
{
	static const struct {
		const char *keyword;
		int option;
	} options[] = {
		{"keepalives_idle", TCP_KEEPIDLE},
		{"keepalives_interval", TCP_KEEPINTVL},
		{"keepalives_count", TCP_KEEPCNT},
		{"tcp_user_timeout", TCP_USER_TIMEOUT}, /* ms; works without keepalives too */
	};
	long on, value;

	if (!read_number(info, "keepalives", 1, &on, err) ||
	    (on != 0 && !set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1, "keepalives", err)))
		return false;
	for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
		if (!read_number(info, options[i].keyword, 0, &value, err))
			return false;
		if (value > 0 && (on != 0 || options[i].option == TCP_USER_TIMEOUT) &&
		    !set_option(fd, IPPROTO_TCP, options[i].option, value, options[i].keyword, err))
			return false;
	}
	return set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1, "TCP_NODELAY", err);
}

/* requirepeer: who owns the server's end of a Unix socket. */
static bool
check_peer(int fd, const ConnInfo *info, Error *err)
{
	const char *wanted = conninfo_get(info, "requirepeer");
	struct ucred peer;
	socklen_t length = sizeof(peer);
	struct passwd entry, *found = NULL;
	char room[4096];

	if (wanted == NULL || wanted[0] == '\0')
		return true;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0)
		return error_set_errno(err, ERROR_AUTH, errno, "cannot tell the server's user");
	if (getpwuid_r(peer.uid, &entry, room, sizeof(room), &found) == 0 && found != NULL &&
	    strcmp(entry.pw_name, wanted) == 0)
		return true;
	return error_set(err, ERROR_AUTH, "requirepeer is \"%s\", but the server is another user's",
	                 wanted);
}

bool
channel_begin(Channel *channel, const ChannelAddress *address, const ConnInfo *info,
              bool *connected, Error *err)
{
	int family = address->address.ss_family;
	int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	*channel = (Channel){.ops = &plain_ops,
	                     .fd = fd,
	                     .read_wants = POLLIN,
	                     .write_wants = POLLOUT,
	                     .peer = "server"};
	if (fd < 0)
		return error_set_errno(err, ERROR_NETWORK, errno, "cannot create a socket");

	bool ok = family == AF_UNIX || set_keepalives(fd, info, err);
	*connected = ok &&
	             connect(fd, (const struct sockaddr *)&address->address, address->length) == 0;
	/* A Unix socket whose backlog is full says EAGAIN: nothing to wait for. */
	if (ok && !*connected && errno != EINPROGRESS && errno != EINTR)
		ok = error_set_errno(err, ERROR_NETWORK, errno, "cannot connect");
	if (ok && *connected && family == AF_UNIX)
		ok = check_peer(fd, info, err);
	if (!ok)
		channel_close(channel);
	return ok;
}

bool
channel_connected(Channel *channel, const ConnInfo *info, Error *err)
{
	int reason = 0, family = 0;
	socklen_t length = sizeof(reason), family_length = sizeof(family);

	if (getsockopt(channel->fd, SOL_SOCKET, SO_ERROR, &reason, &length) != 0)
		reason = errno;
	bool ok = reason == 0 || error_set_errno(err, ERROR_NETWORK, reason, "cannot connect");
	if (ok && getsockopt(channel->fd, SOL_SOCKET, SO_DOMAIN, &family, &family_length) == 0 &&
	    family == AF_UNIX)
		ok = check_peer(channel->fd, info, err);
	if (!ok)
		channel_close(channel);
	return ok;
}

bool
channel_open(Channel *channel, const ChannelAddress *address, const ConnInfo *info,
             const Stop *stop, int64_t deadline_ms, Error *err)
{
	bool connected;

	if (!channel_begin(channel, address, info, &connected, err))
		return false;
	if (connected)
		return true;
	if (stop_wait_fd(stop, channel->fd, POLLOUT, deadline_ms, err))
		return channel_connected(channel, info, err);
	channel_close(channel);
	return false;
}

void
channel_adopt(Channel *channel, int fd)
{
	*channel = (Channel){.ops = &plain_ops,
	                     .fd = fd,
	                     .read_wants = POLLIN,
	                     .write_wants = POLLOUT,
	                     .peer = "client"};
}

void
channel_close(Channel *channel)
{
	if (channel->fd < 0)
		return;
	channel->ops->close(channel);
	close(channel->fd);
	channel->fd = -1;
}

bool
channel_write_all(Channel *channel, Slice bytes, const Stop *stop, int64_t deadline_ms, Error *err)
{
	for (size_t done = 0; done < bytes.len;) {
		ssize_t n = channel->ops->write(channel, bytes.data + done, bytes.len - done, err);
		if (n < 0)
			return false;
		done += (size_t)n;
		if (n == 0 && !stop_wait_fd(stop, channel->fd, channel->write_wants, deadline_ms, err))
			return false;
	}
	return true;
}

bool
channel_read_all(Channel *channel, void *data, size_t size, const Stop *stop, int64_t deadline_ms,
                 Error *err)
{
	for (size_t done = 0; done < size;) {
		ssize_t n = channel->ops->read(channel, (uint8_t *)data + done, size - done, err);
		if (n < 0)
			return false;
		done += (size_t)n;
		if (n == 0 && !stop_wait_fd(stop, channel->fd, channel->read_wants, deadline_ms, err))
			return false;
	}
	return true;
}
