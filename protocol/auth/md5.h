/* md5.h: PostgreSQL's md5 authentication is md5(first || second) in hex, twice. */
#ifndef PGBATON_PROTOCOL_MD5_H
#define PGBATON_PROTOCOL_MD5_H

#include <stdbool.h>

#include "common/attr.h"
#include "common/slice.h"

/* 32 lower-case digits and a zero; false when OpenSSL refuses (FIPS mode). */
MUST_CHECK bool md5_hex(Slice first, Slice second, char out[33]);

#endif
