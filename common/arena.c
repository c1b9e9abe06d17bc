#include "common/arena.h"

#include <stdalign.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/memory.h"

typedef struct Block {
	struct Block *next;
	size_t size;
	size_t used;
	alignas(max_align_t) uint8_t data[];
} Block;

typedef struct Adopted {
	struct Adopted *next;
	void *data;
} Adopted;

/* blocks: the current block first. first: the one that survives a reset. spare: empty ones,
 * of the usual size. */
struct Arena {
	Block *blocks;
	Block *first;
	Block *spare;
	size_t block_size;
	size_t handed_out;
	Adopted *adopted; /* itself in the blocks */
};

static Block *
block_new(size_t size)
{
	Block *block = mem_alloc(sizeof(Block) + size);
	block->next = NULL;
	block->size = size;
	block->used = 0;
	return block;
}

Arena *
arena_new(size_t block_size)
{
	Arena *arena = mem_zalloc(sizeof(Arena));
	arena->block_size = block_size != 0 ? block_size : 64 * 1024;
	arena->first = arena->blocks = block_new(arena->block_size);
	return arena;
}

static void
free_blocks(Block *block)
{
	while (block != NULL) {
		Block *next = block->next;
		free(block);
		block = next;
	}
}

void
arena_recycle(Arena *arena)
{
	Block *first = arena->first;

	free_blocks(arena->spare);
	arena->spare = NULL;
	for (Adopted *adopted = arena->adopted; adopted != NULL; adopted = adopted->next)
		free(adopted->data);
	arena->adopted = NULL;
	for (Block *block = arena->blocks; block != NULL;) {
		Block *next = block->next;
		if (block != first && block->size == arena->block_size) {
			block->next = arena->spare;
			arena->spare = block;
		} else if (block != first) {
			free(block);
		}
		block = next;
	}
	first->next = NULL;
	first->used = 0;
	arena->blocks = first;
	arena->handed_out = 0;
}

void
arena_reset(Arena *arena)
{
	arena_recycle(arena);
	free_blocks(arena->spare);
	arena->spare = NULL;
}

/* Empty, of the usual size. */
static Block *
next_block(Arena *arena)
{
	Block *block = arena->spare;

	if (block == NULL)
		return block_new(arena->block_size);
	arena->spare = block->next;
	block->used = 0;
	return block;
}

void
arena_free(Arena *arena)
{
	if (arena == NULL)
		return;
	arena_reset(arena);
	free(arena->first);
	free(arena);
}

void *
arena_alloc(Arena *arena, size_t size)
{
	const size_t align = alignof(max_align_t);
	CHECK(size <= SIZE_MAX / 2);
	size = (size + align - 1) & ~(align - 1);
	arena->handed_out += size;

	Block *block = arena->blocks;
	if (size > block->size - block->used) {
		if (size > arena->block_size / 2) {
			/* Its own block, put behind the current one, which keeps its room. */
			Block *own = block_new(size);
			own->used = size;
			own->next = block->next;
			block->next = own;
			return own->data;
		}
		block = next_block(arena);
		block->next = arena->blocks;
		arena->blocks = block;
	}
	void *out = block->data + block->used;
	block->used += size;
	return out;
}

void
arena_adopt(Arena *arena, void *data, size_t size)
{
	Adopted *adopted = arena_alloc(arena, sizeof(Adopted));

	*adopted = (Adopted){arena->adopted, data};
	arena->adopted = adopted;
	arena->handed_out += size;
}

void *
arena_zalloc(Arena *arena, size_t size)
{
	void *out = arena_alloc(arena, size);
	memset(out, 0, size);
	return out;
}

void *
arena_memdup(Arena *arena, const void *data, size_t size)
{
	void *out = arena_alloc(arena, size);
	if (size > 0)
		memcpy(out, data, size);
	return out;
}

char *
arena_strndup(Arena *arena, const char *text, size_t len)
{
	char *out = arena_alloc(arena, len + 1);
	memcpy(out, text, len);
	out[len] = '\0';
	return out;
}

char *
arena_strdup(Arena *arena, const char *text)
{
	return arena_strndup(arena, text, strlen(text));
}

Slice
arena_slice(Arena *arena, Slice from)
{
	return slice_of(arena_memdup(arena, from.data, from.len), from.len);
}

char *
arena_vprintf(Arena *arena, const char *fmt, va_list args)
{
	va_list again;
	va_copy(again, args);
	int len = vsnprintf(NULL, 0, fmt, again);
	va_end(again);
	CHECK(len >= 0);

	char *out = arena_alloc(arena, (size_t)len + 1);
	vsnprintf(out, (size_t)len + 1, fmt, args);
	return out;
}

char *
arena_printf(Arena *arena, const char *fmt, ...)
{
	va_list args;
	va_start(args, fmt);
	char *out = arena_vprintf(arena, fmt, args);
	va_end(args);
	return out;
}

size_t
arena_used(const Arena *arena)
{
	return arena->handed_out;
}
