#include "tests/harness/relay.h"

#include <arpa/inet.h>
#include <check.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/memory.h"

/*
 * A connection has two threads, one for each direction, so that neither side ever waits for
 * the other to read. Descriptors are shut down when one of them ends, and closed when the
 * relay is freed: a thread never meets a number that has become another's.
 */
typedef struct Link {
	Relay *relay;
	struct Link *next;
	int client;
	int server;
	pthread_t up;
	pthread_t down;
	bool down_joined;
	bool swallow;  /* under the relay's lock: the server's answers go nowhere */
	bool was_cut;  /* the same */
	uint8_t *late; /* a COMMIT that is to be delivered */
	size_t late_len;
	char commit[64]; /* of the client's thread: the statement that is prepared as COMMIT */
} Link;

struct Relay {
	pthread_mutex_t lock;
	pthread_t thread;
	int listener;
	int port;
	int server_port;
	Link *links;
	char application[64];
	Link *late; /* under the lock: whose COMMIT is kept */
	int left;   /* COMMITs until the cut; 0: none is wanted */
	RelayCut how;
	int cuts;
};

static struct sockaddr_in
local(int port)
{
	return (struct sockaddr_in){
		.sin_family = AF_INET,
		.sin_port = htons((uint16_t)port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
}

static bool
read_all(int fd, uint8_t *to, size_t len)
{
	while (len > 0) {
		ssize_t n = recv(fd, to, len, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		to += n;
		len -= (size_t)n;
	}
	return true;
}

static bool
write_all(int fd, const uint8_t *from, size_t len)
{
	while (len > 0) {
		ssize_t n = send(fd, from, len, MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		from += n;
		len -= (size_t)n;
	}
	return true;
}

/* A message with its header of `before` bytes in front of the length (0 at the startup). */
static uint8_t *
read_message(int fd, size_t before, size_t *len)
{
	uint8_t head[5];
	uint32_t size;

	if (!read_all(fd, head, before + 4))
		return NULL;
	memcpy(&size, head + before, 4);
	size = ntohl(size);
	ck_assert_uint_ge(size, 4);
	ck_assert_uint_lt(size, 1u << 30);
	uint8_t *message = mem_zalloc(before + size + 2); /* texts end, whatever they say */
	memcpy(message, head, before + 4);
	if (!read_all(fd, message + before + 4, size - 4)) {
		free(message);
		return NULL;
	}
	*len = before + size;
	return message;
}

/* Q: the text; P (Parse): a name, then the text; B (Bind): a portal's name, then that of a
 * statement, which a Parse before has made a COMMIT. */
static bool
is_commit(Link *link, const uint8_t *message, size_t len)
{
	const char *text = (const char *)message + 5;
	const char *name = "";

	if (message[0] == 'P') {
		name = text;
		text += strlen(text) + 1;
	} else if (message[0] == 'B') {
		text += strlen(text) + 1;
		return link->commit[0] != '\0' && text < (const char *)message + len &&
		       strcmp(text, link->commit) == 0;
	} else if (message[0] != 'Q') {
		return false;
	}
	bool commit = text < (const char *)message + len && strncmp(text, "COMMIT", 6) == 0;
	if (commit && name[0] != '\0')
		snprintf(link->commit, sizeof(link->commit), "%s", name);
	return commit && name[0] == '\0';
}

static void
cut(Link *link, bool server_too)
{
	shutdown(link->client, SHUT_RDWR);
	if (server_too)
		shutdown(link->server, SHUT_RDWR);
	pthread_mutex_lock(&link->relay->lock);
	link->relay->cuts += !link->was_cut; /* silent first, then ended by the server */
	link->was_cut = true;
	pthread_mutex_unlock(&link->relay->lock);
}

/* False: the connection has been cut here. */
static bool
pass_commit(Link *link, uint8_t **message, size_t len)
{
	Relay *relay = link->relay;

	pthread_mutex_lock(&relay->lock);
	bool now = relay->left > 0 && --relay->left == 0;
	RelayCut how = relay->how;
	if (now && how != RELAY_BEFORE)
		link->swallow = true;
	if (now && how == RELAY_LATE) {
		link->late = *message;
		link->late_len = len;
		relay->late = link;
		*message = NULL;
	}
	pthread_mutex_unlock(&relay->lock);
	if (!now || how == RELAY_AFTER)
		return true;
	cut(link, how == RELAY_BEFORE);
	return false;
}

/* The startup packet: length, version, then names and values. */
static bool
is_of_application(const uint8_t *startup, size_t len, const char *application)
{
	size_t at = 8;

	while (at < len && startup[at] != 0) {
		const char *name = (const char *)startup + at;
		const char *value = name + strlen(name) + 1;
		if (strcmp(name, "application_name") == 0)
			return strncmp(value, application, strlen(application)) == 0;
		at += strlen(name) + strlen(value) + 2;
	}
	return false;
}

static void *
up_main(void *arg)
{
	Link *link = arg;
	uint8_t *message;
	size_t len;
	bool silent = false;
	bool startup = true;
	bool watched = false;

	while ((message = read_message(link->client, startup ? 0 : 1, &len)) != NULL) {
		if (startup)
			watched = is_of_application(message, len, link->relay->application);
		bool go = startup || !watched || !is_commit(link, message, len) ||
		          pass_commit(link, &message, len);
		startup = false;
		bool sent = go && write_all(link->server, message, len);
		free(message);
		if (!go) {
			pthread_mutex_lock(&link->relay->lock);
			silent = link->swallow;
			pthread_mutex_unlock(&link->relay->lock);
		}
		if (!sent)
			break;
	}
	shutdown(link->client, SHUT_RDWR);
	if (!silent)
		shutdown(link->server, SHUT_RDWR);
	return NULL;
}

static void *
down_main(void *arg)
{
	Link *link = arg;
	uint8_t *message;
	size_t len;

	while ((message = read_message(link->server, 1, &len)) != NULL) {
		pthread_mutex_lock(&link->relay->lock);
		bool swallow = link->swallow;
		pthread_mutex_unlock(&link->relay->lock);
		/* An error: what was to be committed was refused before. */
		bool done = swallow &&
		            (message[0] == 'E' ||
		             (message[0] == 'C' && strcmp((const char *)message + 5, "COMMIT") == 0));
		bool sent = swallow || write_all(link->client, message, len);
		free(message);
		if (done && link->late == NULL)
			cut(link, true);
		if (done || !sent)
			break;
	}
	shutdown(link->client, SHUT_RDWR);
	shutdown(link->server, SHUT_RDWR);
	return NULL;
}

static void
link_add(Relay *relay, int client)
{
	struct sockaddr_in to = local(relay->server_port);
	int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int yes = 1;

	/* A message is a send: it would wait for the peer's delayed acknowledgement. */
	setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
	setsockopt(server, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
	if (connect(server, (struct sockaddr *)&to, sizeof(to)) != 0) {
		close(server);
		close(client);
		return;
	}
	Link *link = mem_zalloc(sizeof(Link));
	link->relay = relay;
	link->client = client;
	link->server = server;
	link->next = relay->links;
	relay->links = link;
	ck_assert_int_eq(pthread_create(&link->up, NULL, up_main, link), 0);
	ck_assert_int_eq(pthread_create(&link->down, NULL, down_main, link), 0);
}

static void *
accept_main(void *arg)
{
	Relay *relay = arg;
	int client;

	while ((client = accept4(relay->listener, NULL, NULL, SOCK_CLOEXEC)) >= 0)
		link_add(relay, client);
	return NULL;
}

Relay *
relay_start(int server_port, const char *application)
{
	Relay *relay = mem_zalloc(sizeof(Relay));
	struct sockaddr_in at = local(0);
	socklen_t len = sizeof(at);

	pthread_mutex_init(&relay->lock, NULL);
	relay->server_port = server_port;
	snprintf(relay->application, sizeof(relay->application), "%s", application);
	relay->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_eq(bind(relay->listener, (struct sockaddr *)&at, sizeof(at)), 0);
	ck_assert_int_eq(listen(relay->listener, 64), 0);
	ck_assert_int_eq(getsockname(relay->listener, (struct sockaddr *)&at, &len), 0);
	relay->port = ntohs(at.sin_port);
	ck_assert_int_eq(pthread_create(&relay->thread, NULL, accept_main, relay), 0);
	return relay;
}

void
relay_free(Relay *relay)
{
	shutdown(relay->listener, SHUT_RDWR);
	pthread_join(relay->thread, NULL);
	close(relay->listener);
	for (Link *link = relay->links; link != NULL;) {
		Link *next = link->next;
		shutdown(link->client, SHUT_RDWR);
		shutdown(link->server, SHUT_RDWR);
		pthread_join(link->up, NULL);
		if (!link->down_joined)
			pthread_join(link->down, NULL);
		free(link->late);
		close(link->client);
		close(link->server);
		free(link);
		link = next;
	}
	pthread_mutex_destroy(&relay->lock);
	free(relay);
}

int
relay_port(const Relay *relay)
{
	return relay->port;
}

void
relay_cut(Relay *relay, int count, RelayCut how)
{
	pthread_mutex_lock(&relay->lock);
	relay->left = count;
	relay->how = how;
	pthread_mutex_unlock(&relay->lock);
}

void
relay_deliver(Relay *relay)
{
	pthread_mutex_lock(&relay->lock);
	Link *link = relay->late;
	relay->late = NULL;
	pthread_mutex_unlock(&relay->lock);
	ck_assert_ptr_nonnull(link);
	/* Its server may have gone; down_main ends with its answer or its end. */
	(void)!write_all(link->server, link->late, link->late_len);
	pthread_join(link->down, NULL);
	link->down_joined = true;
}

int
relay_cuts(Relay *relay)
{
	pthread_mutex_lock(&relay->lock);
	int cuts = relay->cuts;
	pthread_mutex_unlock(&relay->lock);
	return cuts;
}
