/*
 * attr.h: compiler attributes used by every public header.
 *
 * Needs gcc or clang. MUST_CHECK marks a function whose result says whether it
 * worked; dropping it is a compile error (-Wunused-result with -Werror).
 */
#ifndef PGBATON_COMMON_ATTR_H
#define PGBATON_COMMON_ATTR_H

#define MUST_CHECK __attribute__((warn_unused_result))
#define PRINTF_LIKE(fmt, args) __attribute__((format(printf, fmt, args)))
#define UNUSED __attribute__((unused))
#define NORETURN __attribute__((noreturn))

#endif
