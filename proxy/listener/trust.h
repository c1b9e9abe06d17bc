/*
 * trust.h: the addresses whose clients need not prove who they are (--listen-trust).
 *
 * CIDR blocks ("10.1.0.0/16", "::1", "127.0.0.1/32") and the word "local" for Unix
 * sockets. Read only once made. IPv4 clients of an IPv6 socket count as IPv4.
 */
#ifndef PGBATON_PROXY_LISTENER_TRUST_H
#define PGBATON_PROXY_LISTENER_TRUST_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

#include "common/error.h"

typedef struct Trust Trust;

/* ERROR_CONFIG names the block that is none. */
Trust *trust_new(const char *const *blocks, size_t count, Error *err);
void trust_free(Trust *trust);
bool trust_has(const Trust *trust, const struct sockaddr_storage *address);

#endif
