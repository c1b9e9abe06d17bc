/*
 * The listening sockets. Loop 0 accepts and hands each connection to the loop that has the
 * fewest: with few clients the kernel's own spreading (SO_REUSEPORT) leaves loops idle.
 */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/log.h"
#include "common/memory.h"
#include "proxy/listener/internal.h"

enum { BACKLOG = 4096, ACCEPTED_AT_ONCE = 64 };

/* ---- binding ---- */

static void
keep_socket(Listener *listener, int fd)
{
	listener->sockets = mem_realloc(listener->sockets, (listener->socket_count + 1) * sizeof(int));
	listener->sockets[listener->socket_count++] = fd;
}

static bool
bind_socket(Listener *listener, const struct sockaddr *address, socklen_t length, Error *err)
{
	static const int on = 1;
	int fd = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return error_set_errno(err, ERROR_CONFIG, errno, "cannot create a socket");
	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (address->sa_family == AF_INET6)
		(void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
	if (bind(fd, address, length) != 0 || listen(fd, BACKLOG) != 0) {
		error_set_errno(err, ERROR_CONFIG, errno, "cannot listen");
		close(fd);
		return false;
	}
	keep_socket(listener, fd);
	return true;
}

static bool
bind_tcp(Listener *listener, const ListenAddress *where, Error *err)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
	struct addrinfo *list = NULL;
	char port[16];
	bool ok = true;

	snprintf(port, sizeof(port), "%d", where->port);
	int rc = getaddrinfo(strcmp(where->host, "*") == 0 ? NULL : where->host, port, &hints, &list);
	if (rc != 0)
		return error_set(err, ERROR_CONFIG, "cannot find the address: %s", gai_strerror(rc));
	for (struct addrinfo *a = list; ok && a != NULL; a = a->ai_next)
		ok = bind_socket(listener, a->ai_addr, a->ai_addrlen, err);
	freeaddrinfo(list);
	return ok;
}

/* A socket that nobody listens at is left from a process that was killed. */
static void
remove_stale(const struct sockaddr_un *name)
{
	struct stat st;
	int fd;

	if (lstat(name->sun_path, &st) != 0 || !S_ISSOCK(st.st_mode))
		return;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd >= 0 && connect(fd, (const struct sockaddr *)name, sizeof(*name)) != 0 &&
	    errno == ECONNREFUSED)
		(void)unlink(name->sun_path);
	if (fd >= 0)
		close(fd);
}

static bool
bind_unix(Listener *listener, const char *path, Error *err)
{
	struct sockaddr_un name = {.sun_family = AF_UNIX};
	struct stat st;
	bool directory = stat(path, &st) == 0 && S_ISDIR(st.st_mode);
	int len = snprintf(name.sun_path, sizeof(name.sun_path), "%s%s", path,
	                   directory ? "/.s.PGSQL.5432" : "");

	if (len < 0 || (size_t)len >= sizeof(name.sun_path))
		return error_set(err, ERROR_CONFIG, "the path is longer than %zu bytes",
		                 sizeof(name.sun_path) - 1);
	remove_stale(&name);
	if (!bind_socket(listener, (const struct sockaddr *)&name, sizeof(name), err))
		return false;
	/* As unix_socket_permissions: whoever comes must log in. */
	(void)chmod(name.sun_path, 0777);
	return true;
}

bool
accept_bind(Listener *listener, Error *err)
{
	const ListenerOptions *options = &listener->options;

	for (size_t i = 0; i < options->address_count; i++) {
		const ListenAddress *where = &options->addresses[i];
		if (where->host == NULL) {
			if (!bind_unix(listener, where->path, err))
				return error_add_context(err, "--listen %s", where->path);
		} else if (!bind_tcp(listener, where, err)) {
			return error_add_context(err, "--listen %s:%d", where->host, where->port);
		}
	}
	return true;
}

void
accept_close(Listener *listener)
{
	for (size_t i = 0; i < listener->socket_count; i++) {
		struct sockaddr_un name = {0};
		socklen_t length = sizeof(name);

		if (getsockname(listener->sockets[i], (struct sockaddr *)&name, &length) == 0 &&
		    name.sun_family == AF_UNIX)
			(void)unlink(name.sun_path);
		close(listener->sockets[i]);
	}
	free(listener->sockets);
	listener->sockets = NULL;
	listener->socket_count = 0;
}

/* ---- accepting ---- */

typedef struct {
	Job job;
	int fd;
	char from[80];
} Arrival;

/* At the limit the oldest connection that has not logged in makes room: whoever opens
 * thousands and says nothing keeps nobody out. */
static Session *
oldest_silent(const Loop *loop)
{
	Session *oldest = NULL;

	for (Session *session = loop->sessions; session != NULL; session = session->next)
		if (session->state == SESSION_GREETING || session->state == SESSION_TLS_HANDSHAKE ||
		    session->state == SESSION_AUTHENTICATING)
			oldest = session;
	return oldest;
}

static void
arrive(Loop *loop, Job *job)
{
	Arrival *arrival = (Arrival *)job;
	Listener *listener = loop->listener;
	bool full = atomic_load(&listener->connections) > (size_t)listener->options.max_clients;
	Session *silent = full ? oldest_silent(loop) : NULL;

	session_new(loop, arrival->fd, arrival->from);
	free(arrival);
	if (loop->ending) {
		session_close(loop->sessions);
	} else if (silent != NULL) {
		atomic_fetch_add(&listener->refused, 1);
		log_info("listener", "%s: made room for another connection", silent->who);
		session_close(silent);
	} else if (full) {
		loop->sessions->surplus = true;
	}
}

static size_t
sessions_of(const Loop *loop)
{
	size_t count = 0;

	for (int i = 0; i < SESSION_STATES; i++)
		count += atomic_load_explicit(&loop->states[i], memory_order_relaxed);
	return count;
}

static Loop *
emptiest_loop(Listener *listener, size_t turn)
{
	Loop *best = &listener->loops[turn % listener->loop_count];

	/* The turn breaks ties: those that were handed out just now are not counted yet. */
	for (size_t i = 0; i < listener->loop_count; i++)
		if (sessions_of(&listener->loops[i]) + 1 < sessions_of(best))
			best = &listener->loops[i];
	return best;
}

static void
name_peer(const struct sockaddr_storage *peer, socklen_t length, char *out, size_t size)
{
	if (peer->ss_family == AF_UNIX || getnameinfo((const struct sockaddr *)peer, length, out,
	                                              (socklen_t)size, NULL, 0, NI_NUMERICHOST) != 0)
		snprintf(out, size, "local");
}

static void
accept_failed(Loop *loop)
{
	if (errno != EMFILE && errno != ENFILE && errno != ENOBUFS && errno != ENOMEM)
		return;
	log_warning("listener", "cannot accept connections for a moment: %s", strerror(errno));
	accept_end(loop); /* the next tick begins again */
}

static void
on_accept(struct ev_loop *ev UNUSED, ev_io *io, int events UNUSED)
{
	Loop *loop = io->data;
	Listener *listener = loop->listener;

	for (int i = 0; i < ACCEPTED_AT_ONCE; i++) {
		struct sockaddr_storage peer = {.ss_family = AF_UNIX};
		socklen_t length = sizeof(peer);
		int fd = accept4(io->fd, (struct sockaddr *)&peer, &length, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd < 0) {
			accept_failed(loop);
			return;
		}
		Arrival *arrival = mem_zalloc(sizeof(Arrival));
		arrival->job.run = arrive;
		arrival->fd = fd;
		name_peer(&peer, length, arrival->from, sizeof(arrival->from));
		atomic_fetch_add(&listener->connections, 1);
		uint64_t turn = atomic_fetch_add(&listener->accepted, 1);
		loop_post(emptiest_loop(listener, turn), &arrival->job);
	}
}

void
accept_begin(Loop *loop)
{
	Listener *listener = loop->listener;

	loop->accepting = mem_zalloc(listener->socket_count * sizeof(ev_io));
	for (size_t i = 0; i < listener->socket_count; i++) {
		ev_io_init(&loop->accepting[i], on_accept, listener->sockets[i], EV_READ);
		loop->accepting[i].data = loop;
	}
	accept_again(loop);
}

void
accept_again(Loop *loop)
{
	for (size_t i = 0; !loop->ending && i < loop->listener->socket_count; i++)
		watch_io(loop, &loop->accepting[i], true);
}

void
accept_end(Loop *loop)
{
	for (size_t i = 0; i < loop->listener->socket_count; i++)
		watch_io(loop, &loop->accepting[i], false);
}
