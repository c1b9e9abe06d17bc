#include "apply/care/pace.h"

#include <stdatomic.h>
#include <string.h>

enum {
	TELLING_ROWS = 1000, /* so many rows tell how long the others are */
	TELLING_MS = 3000    /* of samples; less is noise */
};
/* Worker-seconds within the samples that tell a rate. */
#define TELLING_WORK_S 2.0

/* ---- what to expect ---- */

static uint64_t
copied(const Table *table)
{
	return atomic_load_explicit(&table->copied_bytes, memory_order_relaxed);
}

/* By its own rows; 0: they do not tell yet. */
static double
by_rows(const Table *table)
{
	double rows = (double)atomic_load_explicit(&table->copied_rows, memory_order_relaxed);
	double estimate = (double)table->rows_estimate;

	if (atomic_load(&table->state) == TABLE_COPIED)
		return (double)copied(table);
	if (atomic_load(&table->state) != TABLE_COPYING || estimate <= 0 || rows < TELLING_ROWS)
		return 0;
	return (double)copied(table) / rows * (rows > estimate ? rows : estimate);
}

/* Wire bytes for each byte on disk, of the tables that tell; 1: none does. */
static double
wire_ratio(const Catalog *catalog)
{
	double wire = 0;
	double disk = 0;

	for (size_t i = 0; i < catalog->table_count; i++) {
		double expected = by_rows(&catalog->tables[i]);
		if (expected <= 0 || catalog->tables[i].bytes == 0)
			continue;
		wire += expected;
		disk += (double)catalog->tables[i].bytes;
	}
	return disk > 0 ? wire / disk : 1;
}

void
pace_expect(const Catalog *catalog)
{
	double ratio = wire_ratio(catalog);

	for (size_t i = 0; i < catalog->table_count; i++) {
		Table *table = &catalog->tables[i];
		double expected = by_rows(table);
		if (expected <= 0 && atomic_load(&table->state) != TABLE_COPIED)
			expected = (double)table->bytes * ratio;
		if (expected < (double)copied(table))
			expected = (double)copied(table);
		atomic_store(&table->expected_bytes, (uint64_t)expected);
	}
}

/* ---- how fast ---- */

static const PaceSample *
newest(const Pace *pace)
{
	return &pace->samples[(pace->count - 1) % PACE_SAMPLES];
}

static const PaceSample *
oldest(const Pace *pace)
{
	return &pace->samples[pace->count <= PACE_SAMPLES ? 0 : pace->count % PACE_SAMPLES];
}

/* A table that begins anew takes its bytes back: that tells nothing, and what was known stays. */
static void
learn(double *rate, double work, double seconds)
{
	if (seconds >= TELLING_WORK_S && work > 0)
		*rate = work / seconds;
}

void
pace_add(Pace *pace, const PaceSample *sample)
{
	pace->samples[pace->count++ % PACE_SAMPLES] = *sample;
	const PaceSample *from = oldest(pace);
	learn(&pace->copy_rate, sample->copied - from->copied, sample->copying_s - from->copying_s);
	learn(&pace->index_rate, sample->indexed - from->indexed,
	      sample->indexing_s - from->indexing_s);
}

/* 0: too short to tell. */
static double
span_s(const Pace *pace)
{
	if (pace->count < 2)
		return 0;
	int64_t ms = newest(pace)->at_ms - oldest(pace)->at_ms;
	return ms >= TELLING_MS ? (double)ms / 1e3 : 0;
}

double
pace_rate(const Pace *pace)
{
	double span = span_s(pace);

	if (span <= 0)
		return 0;
	double rate = (newest(pace)->copied - oldest(pace)->copied) / span;
	return rate > 0 ? rate : 0;
}

/* ---- how long ---- */

static double
unknown(const char *reason, const char **why)
{
	*why = reason;
	return -1;
}

static double
larger(double a, double b)
{
	return a > b ? a : b;
}

double
pace_copy_eta(const Pace *pace, const PaceLeft *left, const char **why)
{
	*why = NULL;
	if (left->copy <= 0)
		return 0;
	if (left->held != NULL)
		return unknown(left->held, why);
	if (pace->copy_rate <= 0)
		return unknown("too little was copied to tell", why);
	double jobs = left->jobs > 0 ? left->jobs : 1;
	return larger(left->copy / jobs, left->copy_longest) / pace->copy_rate;
}

double
pace_eta(const Pace *pace, const PaceLeft *left, const char **why)
{
	double jobs = left->jobs > 0 ? left->jobs : 1;
	double copy = pace_copy_eta(pace, left, why);

	if (copy < 0 || left->index <= 0)
		return copy;
	if (pace->index_rate <= 0)
		return unknown("too little was indexed to tell", why);
	/* Workers do both, and the last one may have one of either to end alone. */
	double work = left->index / pace->index_rate;
	if (left->copy > 0)
		work += left->copy / pace->copy_rate;
	return larger(larger(work / jobs, left->index_longest / pace->index_rate), copy);
}

double
pace_lag_eta(const Pace *pace, uint64_t close_bytes, const char **why)
{
	double span = span_s(pace);

	*why = NULL;
	if (pace->count == 0)
		return unknown("nothing was applied yet", why);
	const PaceSample *now = newest(pace);
	double lag = (double)now->source.v - (double)now->applied.v - (double)close_bytes;
	if (lag <= 0)
		return 0;
	if (span <= 0 || oldest(pace)->applied.v == 0)
		return unknown("too little was applied to tell", why);
	double gain = (double)(now->applied.v - oldest(pace)->applied.v) -
	              (double)(now->source.v - oldest(pace)->source.v);
	if (gain <= 0)
		return unknown("changes come as fast as they are applied", why);
	return lag / (gain / span);
}

/* ---- one index ---- */

static double
part_of(int64_t done, int64_t total)
{
	if (total <= 0 || done <= 0)
		return 0;
	return done < total ? (double)done / (double)total : 1;
}

void
pace_add_index(double bytes, double share, double *done, double *longest)
{
	*done += share * bytes;
	*longest = larger(*longest, (1 - share) * bytes);
}

double
pace_index_share(const IndexProgress *progress)
{
	static const char building[] = "building index";
	const char *phase = progress->phase;
	double blocks = part_of(progress->blocks_done, progress->blocks_total);

	if (strncmp(phase, building, sizeof(building) - 1) != 0)
		return 0; /* before it, and the validation of a concurrent one, which we never make */
	phase += sizeof(building) - 1;
	if (strcmp(phase, ": sorting live tuples") == 0)
		return 0.5;
	if (strcmp(phase, ": loading tuples in tree") == 0)
		return 0.6 + 0.4 * part_of(progress->tuples_done, progress->tuples_total);
	/* The other access methods have one phase, or others' names. */
	return strcmp(phase, ": scanning table") == 0 ? 0.5 * blocks : blocks;
}
