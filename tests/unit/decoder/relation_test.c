#include "decoder/relation.h"

#include "tests/unit/decoder/messages.h"
#include "tests/unit/runner.h"

static const PgoContext plain = {.proto_version = 1};

/* Puts a Relation of that name; the message's bytes are gone afterwards, so
 * the map must have copied them. */
static Relation *
put(RelationMap *map, uint32_t oid, const char *name)
{
	Buffer buf = BUFFER_INIT;
	Arena *arena = arena_new(0);
	PgoMessage m;
	Error err = ERROR_INIT;
	message_relation(&buf, 0, oid, name);
	ck_assert(pgoutput_parse(&plain, buffer_slice(&buf), arena, &m, &err));
	Relation *out = relation_map_put(map, &m.relation);
	buffer_free(&buf);
	arena_free(arena);
	return out;
}

START_TEST(the_map_owns_what_it_holds)
{
	RelationMap *map = relation_map_new();
	ck_assert_ptr_null(relation_map_get(map, 7));
	Relation *r = put(map, 7, "a");
	ck_assert_ptr_eq(relation_map_get(map, 7), r);
	ck_assert_str_eq(r->def.name, "a");
	ck_assert_str_eq(r->def.columns[1].name, "note");
	relation_map_free(map);
}
END_TEST

START_TEST(the_same_again_changes_nothing)
{
	RelationMap *map = relation_map_new();
	int mine;
	Relation *r = put(map, 7, "a");
	uint64_t version = r->version;
	r->user = &mine;
	ck_assert_ptr_eq(put(map, 7, "a"), r);
	ck_assert_uint_eq(r->version, version);
	ck_assert_ptr_eq(r->user, &mine);
	relation_map_free(map);
}
END_TEST

START_TEST(a_new_definition_replaces_and_the_old_one_stays_readable)
{
	RelationMap *map = relation_map_new();
	Relation *old = put(map, 7, "a");
	Relation *other = put(map, 8, "x");
	Relation *new = put(map, 7, "b");
	ck_assert_ptr_ne(old, new);
	ck_assert_uint_gt(new->version, other->version);
	ck_assert_str_eq(old->def.name, "a");
	ck_assert_ptr_eq(relation_map_get(map, 7), new);
	ck_assert_ptr_null(new->user);
	relation_map_trim(map);
	ck_assert_str_eq(relation_map_get(map, 7)->def.name, "b");

	size_t count = 0;
	for (size_t i = 0; relation_map_each(map, &i) != NULL;)
		count++;
	ck_assert_uint_eq(count, 2);
	relation_map_free(map);
}
END_TEST

static Suite *
make(void)
{
	Suite *suite = suite_create("relation");
	TCase *tcase = tcase_create("relation");
	tcase_add_test(tcase, the_map_owns_what_it_holds);
	tcase_add_test(tcase, the_same_again_changes_nothing);
	tcase_add_test(tcase, a_new_definition_replaces_and_the_old_one_stays_readable);
	suite_add_tcase(suite, tcase);
	return suite;
}

TEST_SUITE(make)
