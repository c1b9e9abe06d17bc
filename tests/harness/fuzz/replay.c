/*
 * replay.c: a main for the fuzz targets without libFuzzer. Feeds each file that
 * is named, and each file of a folder that is named, to LLVMFuzzerTestOneInput
 * once: old findings stay tests, also with a compiler that cannot fuzz. Each
 * input is also given cut short at every length (up to 512), for parsers break
 * at the ends.
 */
#include <dirent.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_INPUT = 16 * 1024 * 1024, MAX_CUTS = 512 };

static int inputs;

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
	uint8_t *data = malloc(MAX_INPUT);
	FILE *file = fopen(path, "rbe");

	if (file == NULL || data == NULL) {
		perror(path);
		free(data);
		return 1;
	}
	size_t size = fread(data, 1, MAX_INPUT, file);
	fclose(file);
	for (size_t cut = 0; cut < size && cut < MAX_CUTS; cut++)
		give(data, cut);
	give(data, size);
	free(data);
	inputs++;
	return 0;
}

static int
replay(const char *path)
{
	DIR *dir = opendir(path);
	int failed = 0;

	if (dir == NULL)
		return replay_file(path);
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

int
main(int argc, char **argv)
{
	int failed = 0;

	for (int i = 1; i < argc; i++)
		failed |= replay(argv[i]);
	printf("%s: %d inputs\n", argv[0], inputs);
	/* Without a single input nothing was tested. */
	return failed != 0 || inputs == 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
