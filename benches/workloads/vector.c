// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/* Floating point, SSE2's integers, and copying. */
#include <emmintrin.h>
#include <string.h>

#include "workload.h"

#define SIDE 64
static double left[SIDE][SIDE], right[SIDE][SIDE], product[SIDE][SIDE];

static void prepare_fp(void)
{
	for (int i = 0; i < SIDE; i++) {
		for (int j = 0; j < SIDE; j++) {
			left[i][j] = random_number() / 4294967296.0;
			right[i][j] = random_number() / 4294967296.0;
		}
	}
}

/*
 * One operation is one product of matrices of 64 by 64, in the textbook's
 * order: each element is a sum, added up one after the other.
 */
static void fp(unsigned long count)
{
	while (count--) {
		for (int i = 0; i < SIDE; i++)
			for (int j = 0; j < SIDE; j++) {
				double sum = 0;

				for (int k = 0; k < SIDE; k++)
					sum += left[i][k] * right[k][j];
				product[i][j] = sum;
			}
		USED(product);
	}
}

#define BYTES (16 * 1024)
static unsigned char here[BYTES] __attribute__((aligned(16)));
static unsigned char there[BYTES] __attribute__((aligned(16)));

static void prepare_sse2(void)
{
	for (int i = 0; i < BYTES; i++) {
		here[i] = random_number();
		there[i] = random_number();
	}
}

/*
 * One operation goes over 16 KiB: differences added up, and one side becomes
 * the mean of both, its bytes' order changed.
 */
static void sse2(unsigned long count)
{
	__m128i sum = _mm_setzero_si128();

	while (count--) {
		for (int i = 0; i < BYTES; i += 16) {
			__m128i a = _mm_load_si128((const __m128i *)(here + i));
			__m128i b = _mm_load_si128((const __m128i *)(there + i));
			__m128i mean = _mm_avg_epu8(a, b);
			__m128i larger = _mm_cmpgt_epi8(a, b);

			sum = _mm_add_epi64(sum, _mm_sad_epu8(a, b));
			mean = _mm_xor_si128(mean, _mm_and_si128(larger, a));
			mean = _mm_shuffle_epi32(mean, _MM_SHUFFLE(0, 3, 2, 1));
			_mm_store_si128((__m128i *)(there + i), mean);
		}
	}
	USED(_mm_cvtsi128_si64(sum));
}

#define COPIED (64 * 1024)
static unsigned char from[COPIED], to[COPIED];

/* A copy in memory of its own, not of the kernel's page of zeros. */
static void prepare_memcpy(void)
{
	memset(from, 1, sizeof(from));
	memset(to, 2, sizeof(to));
}

/* One operation copies 64 KiB. */
static void run_memcpy(unsigned long count)
{
	while (count--) {
		memcpy(to, from, sizeof(to));
		USED(to);
	}
}

const struct workload vector_workloads[] = {
	{ "fp", 1, prepare_fp, fp },
	{ "sse2", 1, prepare_sse2, sse2 },
	{ "memcpy", 1, prepare_memcpy, run_memcpy },
	{ 0 },
};
