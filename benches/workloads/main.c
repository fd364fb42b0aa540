// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/*
 * Times workloads: the same program on the host and in guests.
 *
 * workloads [NAME...]   one line each: workload NAME NANOSECONDS
 * workloads --pair      how much more two processes do than one, on two
 *                       processors: speedup FACTOR
 */
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "workload.h"

/* Long enough that reading a guest's clock costs nothing beside it. */
#define BATCH_NS 40e6
#define BATCHES 5
/* Long enough that starting a process costs nothing beside it. */
#define PAIR_NS 400e6
#define PAIRS 3

static const struct workload *const tables[] = {
	integer_workloads,
	sha256_workloads,
	vector_workloads,
	kernel_workloads,
};

void fail(const char *what)
{
	perror(what);
	exit(1);
}

void *map_pages(unsigned long bytes)
{
	void *pages = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (pages == MAP_FAILED)
		fail("mmap");
	/* A kernel without huge pages refuses, and has none. */
	madvise(pages, bytes, MADV_NOHUGEPAGE);
	return pages;
}

unsigned random_number(void)
{
	static unsigned long state = 88172645463325252;

	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state >> 32;
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1e9 + time.tv_nsec;
}

static double timed(const struct workload *workload, unsigned long count)
{
	double start = now();

	workload->run(count);
	return now() - start;
}

/* How many of run's operations take at least that long. */
static unsigned long calibrate(const struct workload *workload, double least)
{
	unsigned long count = 1;
	double time;

	if (workload->prepare)
		workload->prepare();
	while ((time = timed(workload, count)) < least)
		count *= time < least / 16 ? 8 : 2;
	return count;
}

/* The best of some batches: others' work on the machine only ever adds. */
static void measure(const struct workload *workload)
{
	unsigned long count = calibrate(workload, BATCH_NS);
	double best = timed(workload, count);

	for (int batch = 1; batch < BATCHES; batch++) {
		double time = timed(workload, count);

		if (time < best)
			best = time;
	}
	printf("workload %s %.4f\n", workload->name,
	       best / count / workload->scale);
	fflush(stdout);
}

static const struct workload *find(const char *name)
{
	for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++)
		for (const struct workload *w = tables[i]; w->name; w++)
			if (strcmp(w->name, name) == 0)
				return w;
	fprintf(stderr, "no such workload: '%s'\n", name);
	exit(2);
}

/* The time from the start of the first process to the end of the last. */
static double processes(int how_many, const unsigned long counts[2],
			const struct workload *const mix[2])
{
	double start = now();
	int status;

	for (int i = 0; i < how_many; i++) {
		pid_t child = fork();

		if (child < 0)
			fail("fork");
		if (child == 0) {
			mix[0]->run(counts[0]);
			mix[1]->run(counts[1]);
			_exit(0);
		}
	}
	for (int i = 0; i < how_many; i++)
		if (wait(&status) < 0 || status != 0)
			fail("wait");
	return now() - start;
}

static void pair(void)
{
	const struct workload *const mix[2] = { find("integer"), find("sha256") };
	unsigned long counts[2];
	double one = 0, two = 0;

	for (int i = 0; i < 2; i++)
		counts[i] = calibrate(mix[i], PAIR_NS / 2);
	for (int i = 0; i < PAIRS; i++) {
		double alone = processes(1, counts, mix);
		double both = processes(2, counts, mix);

		if (i == 0 || alone < one)
			one = alone;
		if (i == 0 || both < two)
			two = both;
	}
	printf("speedup %.4f\n", 2 * one / two);
}

/*
 * A guest has one processor, so the host has one as well: otherwise two
 * processes with a pipe between them are another workload there.
 */
static void stay_on_this_processor(void)
{
	int processor = sched_getcpu();
	cpu_set_t set;

	if (processor < 0)
		fail("sched_getcpu");
	CPU_ZERO(&set);
	CPU_SET(processor, &set);
	if (sched_setaffinity(0, sizeof(set), &set) != 0)
		fail("sched_setaffinity");
}

int main(int argc, char **argv)
{
	if (argc == 2 && strcmp(argv[1], "--pair") == 0) {
		pair();
		return 0;
	}
	stay_on_this_processor();
	for (int i = 1; i < argc; i++)
		measure(find(argv[i]));
	if (argc > 1)
		return 0;
	for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++)
		for (const struct workload *w = tables[i]; w->name; w++)
			measure(w);
	return 0;
}
