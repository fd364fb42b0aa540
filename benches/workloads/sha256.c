// SPDX-License-Identifier: MIT OR Apache-2.0 OR GPL-2.0-only
/* SHA-256 in plain C (FIPS 180-4): rotations, additions, and many live registers. */
#include <stdint.h>
#include <string.h>

#include "workload.h"

static const uint32_t constants[64] = {
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1,
	0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3,
	0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786,
	0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
	0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147,
	0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13,
	0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b,
	0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
	0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a,
	0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208,
	0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static const uint32_t initial[8] = {
	0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
	0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
};

static inline uint32_t rotate(uint32_t x, int by)
{
	return (x >> by) | (x << (32 - by));
}

static void compress(uint32_t state[8], const unsigned char block[64])
{
	uint32_t w[64], a = state[0], b = state[1], c = state[2], d = state[3];
	uint32_t e = state[4], f = state[5], g = state[6], h = state[7];

	for (int i = 0; i < 16; i++) {
		memcpy(&w[i], block + 4 * i, 4);
		w[i] = __builtin_bswap32(w[i]);
	}
	for (int i = 16; i < 64; i++) {
		uint32_t x = w[i - 15], y = w[i - 2];

		w[i] = w[i - 16] + w[i - 7] +
		       (rotate(x, 7) ^ rotate(x, 18) ^ (x >> 3)) +
		       (rotate(y, 17) ^ rotate(y, 19) ^ (y >> 10));
	}
	for (int i = 0; i < 64; i++) {
		uint32_t one = h + constants[i] + w[i] + ((e & f) ^ (~e & g)) +
			       (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25));
		uint32_t two = ((a & b) ^ (a & c) ^ (b & c)) +
			       (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22));

		h = g;
		g = f;
		f = e;
		e = d + one;
		d = c;
		c = b;
		b = a;
		a = one + two;
	}
	state[0] += a;
	state[1] += b;
	state[2] += c;
	state[3] += d;
	state[4] += e;
	state[5] += f;
	state[6] += g;
	state[7] += h;
}

static unsigned char message[4096];

/* The digest of "abc" (FIPS 180-4's example) says whether this is SHA-256. */
static void prepare(void)
{
	unsigned char block[64] = { 'a', 'b', 'c', 0x80, [63] = 24 };
	uint32_t state[8];

	memcpy(state, initial, sizeof(state));
	compress(state, block);
	if (state[0] != 0xba7816bf || state[7] != 0xf20015ad)
		fail("sha256: the digest is wrong");
	for (size_t i = 0; i < sizeof(message); i++)
		message[i] = random_number();
}

/* One operation is 4 KiB, padding left out. */
static void sha256(unsigned long count)
{
	uint32_t state[8];

	memcpy(state, initial, sizeof(state));
	while (count--)
		for (size_t at = 0; at < sizeof(message); at += 64)
			compress(state, message + at);
	USED(state);
}

const struct workload sha256_workloads[] = {
	{ "sha256", 1, prepare, sha256 },
	{ 0 },
};
