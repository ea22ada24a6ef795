/* SPDX-License-Identifier: Apache-2.0 */
/* random.c - Philox 4x32-10 (Salmon et al., SC11), keyed by the XXH3-64 of a draw's name. */
#define XXH_INLINE_ALL /* the streaming state on the stack */
#include <xxhash.h>

#include "lib/random.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static void philox(uint32_t c[4], const uint32_t key[2])
{
	uint32_t k0 = key[0], k1 = key[1];

	for (int round = 0; round < 10; round++) {
		uint64_t a = (uint64_t)0xD2511F53u * c[0], b = (uint64_t)0xCD9E8D57u * c[2];
		uint32_t c1 = c[1], c3 = c[3];
		c[0] = (uint32_t)(b >> 32) ^ c1 ^ k0;
		c[1] = (uint32_t)b;
		c[2] = (uint32_t)(a >> 32) ^ c3 ^ k1;
		c[3] = (uint32_t)a;
		k0 += 0x9E3779B9u;
		k1 += 0xBB67AE85u;
	}
}

struct sal_random sal_random_open(uint64_t seed, const char *stage, const char *id, uint64_t sample)
{
	XXH3_state_t state;
	char number[32];

	XXH3_64bits_reset(&state);
	int n = snprintf(number, sizeof number, "%" PRIu64 "\x1F", seed);
	XXH3_64bits_update(&state, number, (size_t)n);
	XXH3_64bits_update(&state, stage, strlen(stage));
	XXH3_64bits_update(&state, "\x1F", 1);
	XXH3_64bits_update(&state, id, strlen(id));
	n = snprintf(number, sizeof number, "\x1F%" PRIu64, sample);
	XXH3_64bits_update(&state, number, (size_t)n);
	uint64_t h = XXH3_64bits_digest(&state);
	return (struct sal_random){ { (uint32_t)h, (uint32_t)(h >> 32) }, 0 };
}

uint32_t sal_random_at(const struct sal_random *r, uint32_t draw)
{
	uint32_t c[4] = { draw, 0, 0, 0 };

	philox(c, r->key);
	return c[0];
}

uint32_t sal_random_u32(struct sal_random *r)
{
	return sal_random_at(r, r->draw++);
}

float sal_random_uniform(struct sal_random *r)
{
	return (float)(sal_random_u32(r) >> 8) * 0x1p-24f;
}

uint32_t sal_random_below(struct sal_random *r, uint32_t n)
{
	return (uint32_t)(((uint64_t)sal_random_u32(r) * n) >> 32);
}

void sal_random_shuffle(struct sal_random *r, int *p, int n)
{
	for (int i = 0; i < n; i++)
		p[i] = i;
	for (int i = n - 1; i > 0; i--) {
		int j = (int)sal_random_below(r, (uint32_t)i + 1), t = p[i];
		p[i] = p[j];
		p[j] = t;
	}
}
