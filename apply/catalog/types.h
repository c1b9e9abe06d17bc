/*
 * types.h: what has to be known about the types of a side's columns, at any
 * depth of array, domain, composite, range.
 */
#ifndef PGBATON_APPLY_CATALOG_TYPES_H
#define PGBATON_APPLY_CATALOG_TYPES_H

#include <stdbool.h>
#include <stdint.h>

#include "apply/sql.h"
#include "common/arena.h"
#include "common/error.h"

typedef struct TypeSet TypeSet;

/* All types used by columns of tables outside the system schemas. Two queries'
 * worth of memory in the arena; types_free frees the index only. */
TypeSet *types_load(Sql *sql, Arena *arena, Error *err);
void types_free(TypeSet *types); /* NULL is allowed */

/* Written and read by send and receive functions whose form is the same in all
 * servers that we speak to. Unknown types: false. */
bool types_binary_safe(const TypeSet *types, uint32_t oid);
/* Its binary form names a type that has another OID in another database (of an array's elements, of
 * a composite's fields), which servers before 14 refuse to read. */
bool types_name_others(const TypeSet *types, uint32_t oid);
/* Has `=` of a default btree or hash operator class. */
bool types_has_equality(const TypeSet *types, uint32_t oid);
/* That operator as SQL: "=" where it is in pg_catalog, otherwise OPERATOR(schema.=). Lives in
 * the arena. */
const char *types_equality(const TypeSet *types, uint32_t oid);
/* An array, after domains. */
bool types_is_array(const TypeSet *types, uint32_t oid);
/* The array type over it; 0: none. */
uint32_t types_array_over(const TypeSet *types, uint32_t oid);
/* What it is made of, in words: equal on both sides means made of the same things
 * (enum labels are not compared). Lives in the arena. */
const char *types_signature(const TypeSet *types, uint32_t oid);

#endif
