#include <netdb.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "common/memory.h"
#include "protocol/channel/channel.h"

/* DIRECTORY/.s.PGSQL.PORT; '@' stands for the zero byte of an abstract name. */
static bool
unix_address(const ConnHost *host, ChannelAddress *out, Error *err)
{
	struct sockaddr_un name = {.sun_family = AF_UNIX};
	int len = snprintf(name.sun_path, sizeof(name.sun_path), "%s/.s.PGSQL.%s", host->host,
	                   host->port);

	if (len < 0 || (size_t)len >= sizeof(name.sun_path))
		return error_set(err, ERROR_CONFIG, "the path of the Unix socket is longer than %zu bytes",
		                 sizeof(name.sun_path) - 1);
	snprintf(out->name, sizeof(out->name), "%s", name.sun_path);
	if (name.sun_path[0] == '@')
		name.sun_path[0] = '\0';
	/* An abstract name is counted; a path is terminated. */
	out->length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)len +
	                          (name.sun_path[0] != '\0'));
	memcpy(&out->address, &name, out->length);
	return true;
}

static void
inet_address(const struct addrinfo *from, ChannelAddress *out)
{
	char text[sizeof(out->name) - 2];

	memcpy(&out->address, from->ai_addr, from->ai_addrlen);
	out->length = from->ai_addrlen;
	if (getnameinfo(from->ai_addr, from->ai_addrlen, text, sizeof(text), NULL, 0, NI_NUMERICHOST) !=
	    0)
		snprintf(text, sizeof(text), "?");
	snprintf(out->name, sizeof(out->name), from->ai_family == AF_INET6 ? "[%s]" : "%s", text);
}

static bool
port_valid(const char *port)
{
	char *end;
	long value = strtol(port, &end, 10);

	return port[0] != '\0' && *end == '\0' && value >= 1 && value <= 65535;
}

bool
channel_resolve(const ConnHost *host, ChannelAddress **out, size_t *count, Error *err)
{
	struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
	struct addrinfo *list = NULL;
	const char *name = host->hostaddr != NULL ? host->hostaddr : host->host;

	if (!port_valid(host->port))
		return error_set(err, ERROR_CONFIG, "the port \"%s\" is not valid", host->port);
	if (host->hostaddr == NULL && (name[0] == '/' || name[0] == '@')) {
		*out = mem_zalloc(sizeof(ChannelAddress));
		*count = 1;
		if (unix_address(host, *out, err))
			return true;
		free(*out);
		return false;
	}
	if (host->hostaddr != NULL)
		hints.ai_flags = AI_NUMERICHOST;
	int rc = getaddrinfo(name, host->port, &hints, &list);
	if (rc != 0)
		return error_set(err, host->hostaddr != NULL ? ERROR_CONFIG : ERROR_NETWORK,
		                 "cannot find the address: %s", gai_strerror(rc));
	*count = 0;
	for (struct addrinfo *a = list; a != NULL; a = a->ai_next)
		(*count)++;
	*out = mem_zalloc(*count * sizeof(ChannelAddress));
	size_t i = 0;
	for (struct addrinfo *a = list; a != NULL; a = a->ai_next)
		inet_address(a, &(*out)[i++]);
	freeaddrinfo(list);
	return true;
}
