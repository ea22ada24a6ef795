/* SPDX-License-Identifier: Apache-2.0 */
/*
 * random.h - random numbers by name: Philox 4x32-10 keyed by XXH3-64 of the text
 * SEED US STAGE US ID US SAMPLE (US = 0x1F, numbers in decimal); draw d is word 0 of counter (d, 0, 0, 0).
 * So a draw depends on what it is for, never on how many were made elsewhere.
 * Source: Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC11.
 */
#ifndef SAL_RANDOM_H
#define SAL_RANDOM_H
#include <stdint.h>
struct sal_random {
	uint32_t key[2];
	uint32_t draw; /* number of the next draw */
};
struct sal_random sal_random_open(uint64_t seed, const char *stage, const char *id, uint64_t sample);
uint32_t sal_random_at(const struct sal_random *r, uint32_t draw);   /* the 32 bits of one draw */
uint32_t sal_random_u32(struct sal_random *r);                       /* next draw */
float sal_random_uniform(struct sal_random *r);                      /* next draw, (u32 >> 8) * 2^-24, in [0, 1) */
uint32_t sal_random_below(struct sal_random *r, uint32_t n);         /* 0 .. n-1, n > 0: floor(u32 * n / 2^32) */
/* A permutation of 0 .. n-1 into p (Fisher-Yates from the end). */
void sal_random_shuffle(struct sal_random *r, int *p, int n);
#endif
