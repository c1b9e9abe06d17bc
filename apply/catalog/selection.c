#include "apply/catalog/selection.h"

#include <stdlib.h>
#include <string.h>

#include "common/memory.h"

static const char *const options[SELECTION_LISTS] = {
	[INCLUDE_TABLE] = "include-table",     [EXCLUDE_TABLE] = "exclude-table",
	[INCLUDE_SCHEMA] = "include-schema",   [EXCLUDE_SCHEMA] = "exclude-schema",
	[EXCLUDE_DATA] = "exclude-table-data", [EXCLUDE_INDEX] = "exclude-index",
	[ADDED_TABLE] = "add-table",
};

const char *
selection_option(SelectionList list)
{
	return options[list];
}

bool
selection_is_all(const Selection *selection)
{
	for (int i = 0; i < SELECTION_LISTS; i++) {
		if (selection->lists[i].count > 0)
			return false;
	}
	return !selection->skip_unlogged && selection_large_objects(selection);
}

bool
selection_large_objects(const Selection *selection)
{
	return selection->large_objects == LARGE_OBJECTS_COPY ||
	       (selection->large_objects == LARGE_OBJECTS_AS_PG_DUMP &&
	        selection->lists[INCLUDE_TABLE].count == 0 &&
	        selection->lists[INCLUDE_SCHEMA].count == 0);
}

static int
by_text(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

void
selection_describe(const Selection *selection, Buffer *out)
{
	for (int i = 0; i < SELECTION_LISTS; i++) {
		const PatternList *list = &selection->lists[i];
		const char **sorted = mem_alloc(sizeof(char *) * (list->count + 1));
		for (size_t j = 0; j < list->count; j++)
			sorted[j] = list->items[j];
		qsort(sorted, list->count, sizeof(char *), by_text);
		for (size_t j = 0; j < list->count; j++) {
			if (j == 0 || strcmp(sorted[j], sorted[j - 1]) != 0)
				buffer_printf(out, "%s %s\n", options[i], sorted[j]);
		}
		free(sorted);
	}
	if (selection->skip_unlogged)
		buffer_put_text(out, "unlogged skip\n");
	if (selection->large_objects != LARGE_OBJECTS_AS_PG_DUMP)
		buffer_printf(out, "large-objects %s\n",
		              selection->large_objects == LARGE_OBJECTS_COPY ? "copy" : "skip");
}

/* A pattern holds no line break (config.c), so a line is a pattern. */
static bool
has_line(const char *text, const char *line, size_t len)
{
	for (const char *at = text; *at != '\0';) {
		size_t here = strcspn(at, "\n");
		if (here == len && memcmp(at, line, len) == 0)
			return true;
		at += here + (at[here] == '\n');
	}
	return false;
}

static void
put_missing(const char *of, const char *in, const char *word, Buffer *out)
{
	for (const char *at = of; *at != '\0';) {
		size_t len = strcspn(at, "\n");
		if (len > 0 && !has_line(in, at, len))
			buffer_printf(out, "%s%s --%.*s", out->len > 0 ? ", " : "", word, (int)len, at);
		at += len + (at[len] == '\n');
	}
}

void
selection_difference(const char *was, const char *is, Buffer *out)
{
	put_missing(was, is, "without", out);
	put_missing(is, was, "with", out);
}
