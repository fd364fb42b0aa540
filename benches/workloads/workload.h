// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/*
 * What a workload is. The tables are in integer.c, vector.c, sha256.c and
 * kernel.c; main.c times what is in them.
 */
#ifndef WORKLOAD_H
#define WORKLOAD_H

struct workload {
	const char *name;
	/* How many of what is reported as one operation are in one of run's. */
	unsigned scale;
	/* Done once before, if not NULL. */
	void (*prepare)(void);
	void (*run)(unsigned long count);
};

/* Each ends with a workload without a name. */
extern const struct workload integer_workloads[];
extern const struct workload vector_workloads[];
extern const struct workload sha256_workloads[];
extern const struct workload kernel_workloads[];

/* What the compiler has to believe that somebody reads. */
#define USED(value) __asm__ volatile("" : : "g"(value) : "memory")

/* Ends the program, saying what could not be done. */
void fail(const char *what) __attribute__((noreturn));

/* Private memory in pages of 4 KiB, whatever the kernel's policy on huge ones is. */
void *map_pages(unsigned long bytes);

/* The next number of a sequence that is the same everywhere. */
unsigned random_number(void);

#endif
