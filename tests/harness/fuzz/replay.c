/*
 * replay.c: a main for the fuzz targets without libFuzzer. Feeds each file of
 * the folder that is named to LLVMFuzzerTestOneInput, so that old findings stay
 * tests, also with a compiler that cannot fuzz; each also cut short at every
 * length (up to 512), for parsers break at the ends, and with single bytes
 * changed. Then some random inputs, always the same ones.
 */
#include <dirent.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { INPUT_MAX = 16 * 1024 * 1024, CUTS = 512, CHANGES = 2000, RANDOM_INPUTS = 5000 };

static int inputs;
static unsigned seed = 1;

/* A copy of exactly this size, so that a sanitizer sees the first byte read
 * behind it. */
static void
give(const uint8_t *data, size_t size)
{
	uint8_t *exact = malloc(size > 0 ? size : 1);

	if (exact == NULL)
		abort();
	memcpy(exact, data, size);
	LLVMFuzzerTestOneInput(exact, size);
	free(exact);
}

static int
replay_file(const char *path)
{
	uint8_t *data = malloc(INPUT_MAX);
	FILE *file = fopen(path, "rbe");

	if (file == NULL || data == NULL) {
		perror(path);
		free(data);
		return 1;
	}
	size_t size = fread(data, 1, INPUT_MAX, file);
	fclose(file);
	for (size_t cut = 0; cut < size && cut < CUTS; cut++)
		give(data, cut);
	give(data, size);
	for (int i = 0; i < CHANGES && size > 0; i++) {
		size_t at = (size_t)rand_r(&seed) % size;
		uint8_t was = data[at];
		data[at] = (uint8_t)rand_r(&seed);
		give(data, size);
		data[at] = was;
	}
	free(data);
	inputs++;
	return 0;
}

static int
replay_folder(const char *path)
{
	DIR *dir = opendir(path);
	int failed = 0;

	/* A target may have no corpus yet. */
	if (dir == NULL)
		return 0;
	for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
		char file[PATH_MAX];
		if (entry->d_name[0] == '.')
			continue;
		snprintf(file, sizeof(file), "%s/%s", path, entry->d_name);
		failed |= replay_file(file);
	}
	closedir(dir);
	return failed;
}

static void
replay_random(void)
{
	uint8_t data[600];

	for (int i = 0; i < RANDOM_INPUTS; i++) {
		size_t size = (size_t)rand_r(&seed) % sizeof(data);
		for (size_t j = 0; j < size; j++)
			data[j] = (uint8_t)rand_r(&seed);
		give(data, size);
	}
}

int
main(int argc, char **argv)
{
	int failed = 0;

	for (int i = 1; i < argc; i++)
		failed |= replay_folder(argv[i]);
	replay_random();
	printf("%s: %d files, %d random inputs\n", argv[0], inputs, RANDOM_INPUTS);
	return failed != 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
