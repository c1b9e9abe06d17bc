#include "common/memory.h"

#include <malloc.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * glibc raises its threshold for mmap to the largest block that was freed (up to 32 MB) and
 * then keeps twice as much free memory at the top of each arena. Fixed instead: the arenas'
 * blocks come from the heap, giant messages from mmap. Trimming less would be slower: a batch
 * of usual size is allocated again at once.
 */
void
mem_setup(void)
{
#ifdef M_MMAP_THRESHOLD
	mallopt(M_MMAP_THRESHOLD, 4 * 1024 * 1024);
	mallopt(M_TRIM_THRESHOLD, 32 * 1024 * 1024);
	mallopt(M_ARENA_MAX, 8);
#endif
}

static void *
must(void *data)
{
	if (data == NULL) {
		fputs("pgbaton: out of memory\n", stderr);
		abort();
	}
	return data;
}

void *
mem_alloc(size_t size)
{
	return must(malloc(size != 0 ? size : 1));
}

void *
mem_zalloc(size_t size)
{
	return must(calloc(1, size != 0 ? size : 1));
}

void *
mem_realloc(void *old, size_t size)
{
	return must(realloc(old, size != 0 ? size : 1));
}

char *
mem_strndup(const char *text, size_t len)
{
	char *out = mem_alloc(len + 1);
	memcpy(out, text, len);
	out[len] = '\0';
	return out;
}

char *
mem_strdup(const char *text)
{
	return mem_strndup(text, strlen(text));
}

char *
mem_printf(const char *fmt, ...)
{
	char *out = NULL;
	va_list args;
	va_start(args, fmt);
	int len = vasprintf(&out, fmt, args);
	va_end(args);
	return must(len < 0 ? NULL : out);
}

void
mem_wipe(void *data, size_t size)
{
	if (data != NULL)
		explicit_bzero(data, size);
}

void
mem_wipe_free_cstr(char *text)
{
	if (text == NULL)
		return;
	mem_wipe(text, strlen(text));
	free(text);
}
