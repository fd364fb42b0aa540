// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/* Integer code: a loop in registers, sorting, following pointers, indirect calls. */
#include <stdlib.h>
#include <string.h>

#include "workload.h"

/* One operation is one round of the loop. */
static void integer(unsigned long count)
{
	unsigned long x = 88172645463325252, sum = 0;

	for (unsigned long i = 0; i < count; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		sum += x & i;
		if (x & 0x800)
			sum ^= i;
	}
	USED(sum);
}

#define NUMBERS 4096
/*
 * Others each time: a processor that sorts the same ones again learns by heart
 * which is the smaller of each two, and that alone would be measured. (A Zen 4
 * does it in half the time then.)
 */
#define SETS 16
static int unsorted[SETS][NUMBERS], numbers[NUMBERS];

static int compare(const void *left, const void *right)
{
	int a = *(const int *)left, b = *(const int *)right;

	return (a > b) - (a < b);
}

static void prepare_qsort(void)
{
	for (int set = 0; set < SETS; set++)
		for (int i = 0; i < NUMBERS; i++)
			unsorted[set][i] = random_number();
}

/* One operation sorts the numbers of a set. */
static void run_qsort(unsigned long count)
{
	while (count--) {
		memcpy(numbers, unsorted[count % SETS], sizeof(numbers));
		qsort(numbers, NUMBERS, sizeof(numbers[0]), compare);
		USED(numbers);
	}
	for (int i = 1; i < NUMBERS; i++)
		if (numbers[i - 1] > numbers[i])
			fail("qsort: the numbers are not sorted");
}

/* A line of the cache each, 8 MiB together. */
struct node {
	struct node *next;
	char rest[56];
};
#define NODES (8 * 1024 * 1024 / sizeof(struct node))
static struct node *nodes;

/* One cycle through all nodes, in an order that nothing foresees (Sattolo's algorithm). */
static void prepare_chase(void)
{
	unsigned *order = malloc(NODES * sizeof(*order));

	if (!order)
		fail("malloc");
	nodes = map_pages(NODES * sizeof(*nodes));
	for (unsigned i = 0; i < NODES; i++)
		order[i] = i;
	for (unsigned i = NODES - 1; i > 0; i--) {
		unsigned j = random_number() % i, swapped = order[i];

		order[i] = order[j];
		order[j] = swapped;
	}
	for (unsigned i = 0; i < NODES; i++)
		nodes[order[i]].next = &nodes[order[(i + 1) % NODES]];
	free(order);
}

/* One operation is one pointer. */
static void chase(unsigned long count)
{
	struct node *node = nodes;

	while (count--)
		node = node->next;
	USED(node);
}

#define FUNCTION(name, expression) \
	static __attribute__((noinline)) unsigned long name(unsigned long x) \
	{ \
		return expression; \
	}
FUNCTION(add, x + 12345)
FUNCTION(mix, x ^ (x >> 3))
FUNCTION(triple, x * 3)
FUNCTION(negate, ~x)
FUNCTION(rotate, (x << 7) | (x >> 57))
FUNCTION(subtract, x - 999)
FUNCTION(mask, x | 0x1010)
FUNCTION(swap, __builtin_bswap64(x))

#define CALLS 64
static unsigned long (*calls[CALLS])(unsigned long);

static void prepare_icall(void)
{
	static unsigned long (*const functions[8])(unsigned long) = {
		add, mix, triple, negate, rotate, subtract, mask, swap,
	};

	for (int i = 0; i < CALLS; i++)
		calls[i] = functions[random_number() % 8];
}

/* One operation is one call. */
static void icall(unsigned long count)
{
	unsigned long x = 1;

	for (unsigned long i = 0; i < count; i++)
		x = calls[i % CALLS](x);
	USED(x);
}

const struct workload integer_workloads[] = {
	{ "integer", 1, NULL, integer },
	{ "qsort", 1, prepare_qsort, run_qsort },
	{ "chase", 1, prepare_chase, chase },
	{ "icall", 1, prepare_icall, icall },
	{ 0 },
};
