#include "tests/unit/proxy/listener_middle.h"

#include <arpa/inet.h>
#include <check.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/bytes.h"
#include "common/memory.h"

enum { CONNECTIONS_MOST = 64 };

typedef struct {
	int client, server; /* -1: closed */
	bool ours;          /* a session of the role */
	bool known;         /* its startup packet has been seen */
	bool logged_in;
	bool stalled;
	bool skipping; /* to the ReadyForQuery */
	int generation;
	int messages;
	Buffer in; /* from the server, not yet a whole message */
} Pair;

struct Middle {
	int listening;
	int port, server_port;
	char role[64];
	pthread_t thread;
	atomic_bool stop;
	atomic_int mode, count, generation;
	atomic_int passed, struck;
	Pair pairs[CONNECTIONS_MOST];
	size_t pair_count;
};

static int
connect_to(int port)
{
	struct sockaddr_in to = {.sin_family = AF_INET,
	                         .sin_port = htons((uint16_t)port),
	                         .sin_addr = {htonl(INADDR_LOOPBACK)}};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0)
		return fd;
	if (fd >= 0)
		close(fd);
	return -1;
}

static void
end_pair(Pair *pair)
{
	if (pair->client >= 0)
		close(pair->client);
	if (pair->server >= 0)
		close(pair->server);
	pair->client = pair->server = -1;
	buffer_free(&pair->in);
}

static void
pass(Pair *pair, const void *data, size_t len)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = send(pair->client, (const char *)data + done, len - done, MSG_NOSIGNAL);
		if (n <= 0) {
			end_pair(pair);
			return;
		}
		done += (size_t)n;
	}
}

static void
from_client(Middle *m, Pair *pair)
{
	char data[65536];
	ssize_t n = recv(pair->client, data, sizeof(data), 0);

	if (n <= 0) {
		end_pair(pair);
		return;
	}
	if (!pair->known) {
		char want[80];
		int len = snprintf(want, sizeof(want), "user%c%s", 0, m->role) + 1;
		pair->known = true;
		pair->ours = memmem(data, (size_t)n, want, (size_t)len) != NULL;
		if (pair->ours && m->mode == MIDDLE_LOGIN) {
			m->struck++;
			end_pair(pair);
			return;
		}
	}
	if (!pair->stalled && send(pair->server, data, (size_t)n, MSG_NOSIGNAL) != n)
		end_pair(pair);
}

static void
put_error(Pair *pair)
{
	Buffer out = BUFFER_INIT;

	buffer_put(&out, "E\0\0\0\0", 5);
	buffer_put_cstr(&out, "SERROR");
	buffer_put_cstr(&out, "VERROR");
	buffer_put_cstr(&out, "CXX000");
	buffer_put_cstr(&out, "Mspoilt");
	buffer_put_u8(&out, 0);
	buffer_set_u32(&out, 1, (uint32_t)out.len - 1);
	pass(pair, out.data, out.len);
	buffer_free(&out);
}

static void
put_unasked(Pair *pair)
{
	Buffer out = BUFFER_INIT;

	buffer_put_u8(&out, 'A');
	buffer_put_u32(&out, 4 + 4 + 8 + 6);
	buffer_put_u32(&out, 4711);
	buffer_put_cstr(&out, "channel");
	buffer_put_cstr(&out, "hello");
	buffer_put_u8(&out, 'S');
	buffer_put_u32(&out, 4 + 5 + 8);
	buffer_put_cstr(&out, "made");
	buffer_put_cstr(&out, "unasked");
	pass(pair, out.data, out.len);
	buffer_free(&out);
}

/* One message of the server's. */
static void
message(Middle *m, Pair *pair, const uint8_t *data, size_t len)
{
	uint8_t broken[5] = {data[0], 0, 0, 0, 3};

	if (pair->generation != m->generation) {
		pair->generation = m->generation;
		pair->messages = 0;
	}
	if (!pair->ours || !pair->logged_in) {
		pair->logged_in = pair->logged_in || data[0] == 'Z';
		pass(pair, data, len);
		return;
	}
	if (pair->skipping && data[0] != 'Z')
		return;
	pair->skipping = false;
	bool hit = ++pair->messages == m->count;
	m->passed++;
	m->struck += hit && m->mode != MIDDLE_PASS;
	if (m->mode == MIDDLE_NOTIFY)
		put_unasked(pair);
	if (hit && m->mode == MIDDLE_CUT) {
		pass(pair, data, len / 2);
		end_pair(pair);
	} else if (hit && m->mode == MIDDLE_STALL) {
		pair->stalled = true;
	} else if (hit && m->mode == MIDDLE_BREAK) {
		pass(pair, broken, sizeof(broken));
	} else if (hit && m->mode == MIDDLE_ERROR) {
		put_error(pair);
		pair->skipping = true;
		if (data[0] == 'Z') {
			pair->skipping = false;
			pass(pair, data, len);
		}
	} else {
		pass(pair, data, len);
	}
}

static void
from_server(Middle *m, Pair *pair)
{
	ssize_t n = recv(pair->server, buffer_reserve(&pair->in, 65536), 65536, 0);

	if (n <= 0) {
		end_pair(pair);
		return;
	}
	pair->in.len += (size_t)n;
	while (pair->client >= 0 && !pair->stalled && pair->in.len >= 5) {
		ByteReader r = reader_of(slice_of(pair->in.data + 1, 4));
		size_t len = read_u32(&r) + 1;
		if (pair->in.len < len)
			break;
		message(m, pair, pair->in.data, len);
		if (pair->client >= 0)
			buffer_consume(&pair->in, len);
	}
}

static void
accept_one(Middle *m)
{
	int client = accept4(m->listening, NULL, NULL, SOCK_CLOEXEC);
	Pair *pair = NULL;

	for (size_t i = 0; pair == NULL && i < m->pair_count; i++)
		if (m->pairs[i].client < 0)
			pair = &m->pairs[i];
	if (pair == NULL && m->pair_count < CONNECTIONS_MOST)
		pair = &m->pairs[m->pair_count++];
	if (client < 0 || pair == NULL)
		abort();
	*pair = (Pair){.client = client, .server = connect_to(m->server_port)};
	/* Message by message, and yet without waiting for acknowledgements. */
	(void)setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
	if (pair->server < 0)
		end_pair(pair);
	else
		(void)setsockopt(pair->server, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
}

static void *
run(void *arg)
{
	Middle *m = arg;

	while (!m->stop) {
		struct pollfd fds[1 + 2 * CONNECTIONS_MOST];
		fds[0] = (struct pollfd){.fd = m->listening, .events = POLLIN};
		size_t pairs = m->pair_count;
		for (size_t i = 0; i < pairs; i++) {
			fds[1 + 2 * i] = (struct pollfd){.fd = m->pairs[i].client, .events = POLLIN};
			fds[2 + 2 * i] = (struct pollfd){.fd = m->pairs[i].server, .events = POLLIN};
		}
		if (poll(fds, (nfds_t)(1 + 2 * pairs), 50) <= 0)
			continue;
		for (size_t i = 0; i < pairs; i++) {
			if (fds[1 + 2 * i].revents != 0 && m->pairs[i].client >= 0)
				from_client(m, &m->pairs[i]);
			if (fds[2 + 2 * i].revents != 0 && m->pairs[i].server >= 0)
				from_server(m, &m->pairs[i]);
		}
		if (fds[0].revents != 0)
			accept_one(m);
	}
	return NULL;
}

Middle *
middle_start(int server_port, const char *role)
{
	Middle *m = mem_zalloc(sizeof(Middle));
	struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	socklen_t length = sizeof(here);

	m->server_port = server_port;
	snprintf(m->role, sizeof(m->role), "%s", role);
	m->listening = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_eq(bind(m->listening, (struct sockaddr *)&here, sizeof(here)), 0);
	ck_assert_int_eq(listen(m->listening, 64), 0);
	ck_assert_int_eq(getsockname(m->listening, (struct sockaddr *)&here, &length), 0);
	m->port = ntohs(here.sin_port);
	ck_assert_int_eq(pthread_create(&m->thread, NULL, run, m), 0);
	return m;
}

void
middle_free(Middle *m)
{
	m->stop = true;
	pthread_join(m->thread, NULL);
	for (size_t i = 0; i < m->pair_count; i++)
		end_pair(&m->pairs[i]);
	close(m->listening);
	free(m);
}

int
middle_port(const Middle *m)
{
	return m->port;
}

void
middle_set(Middle *m, MiddleMode mode, int count)
{
	m->mode = MIDDLE_PASS;
	m->count = count;
	m->passed = m->struck = 0;
	m->generation++;
	m->mode = (int)mode;
}

int
middle_passed(const Middle *m)
{
	return m->passed;
}

int
middle_struck(const Middle *m)
{
	return m->struck;
}
