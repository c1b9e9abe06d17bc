/*
 * tls.h: certificates for one test server.
 *
 * Writes into `dir`: root.crt (the authority), server.crt and server.key (for
 * localhost and 127.0.0.1), client.crt and client.key (CN = postgres). The keys
 * are 0600; server.key belongs to the server's user, the rest to us. Ends the
 * test when it cannot.
 */
#ifndef PGBATON_TESTS_HARNESS_TLS_H
#define PGBATON_TESTS_HARNESS_TLS_H

void tls_make_files(const char *dir);

#endif
