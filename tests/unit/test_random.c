/* SPDX-License-Identifier: Apache-2.0 */
/* test_random.c - Philox against the Random123 known answers, and what is made of the draws. */
#include "lib/random.c" /* for the static block function */

#include "lib/util.h"

#include <stdlib.h>

static int number, failed;

static void ok(int good, const char *what)
{
	printf("%sok %d - %s\n", good ? "" : "not ", ++number, what);
	failed |= !good;
}

static int known(const uint32_t *c0, const uint32_t *key, const uint32_t *want)
{
	uint32_t c[4] = { c0[0], c0[1], c0[2], c0[3] };

	philox(c, key);
	return memcmp(c, want, sizeof c) == 0;
}

int main(void)
{
	static const uint32_t zero[4], ones[4] = { ~0u, ~0u, ~0u, ~0u };
	static const uint32_t pi[4] = { 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344 }, pik[2] = { 0xa4093822, 0x299f31d0 };
	static const uint32_t w0[4] = { 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 };
	static const uint32_t w1[4] = { 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd };
	static const uint32_t w2[4] = { 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1 };

	ok(known(zero, zero, w0), "known answer, zeros");
	ok(known(ones, ones, w1), "known answer, ones");
	ok(known(pi, pik, w2), "known answer, pi");

	struct sal_random z = { { 0, 0 }, 0 };
	ok(sal_random_u32(&z) == 0x6627e8d5 && z.draw == 1, "draw 0 is word 0 of counter 0");

	const char *name = "7\x1Fsample\x1Fq1\x1F" "3";
	uint64_t h = sal_hash(name, strlen(name));
	struct sal_random r = sal_random_open(7, "sample", "q1", 3);
	ok(r.key[0] == (uint32_t)h && r.key[1] == (uint32_t)(h >> 32) && r.draw == 0, "the key is the hash of the name");
	char *longid = malloc(5001);
	if (!longid)
		return 1;
	memset(longid, 'x', 5000);
	longid[5000] = '\0';
	struct sal_buf b = { 0 };
	sal_buf_printf(&b, "%llu\x1Fs\x1F%s\x1F%llu", (unsigned long long)UINT64_MAX, longid, (unsigned long long)UINT64_MAX);
	h = sal_hash(b.data, b.len);
	struct sal_random rl = sal_random_open(UINT64_MAX, "s", longid, UINT64_MAX);
	ok(rl.key[0] == (uint32_t)h && rl.key[1] == (uint32_t)(h >> 32), "a long id");
	sal_buf_free(&b);
	free(longid);

	int bad = 0;
	double sum = 0;
	for (int i = 0; i < 100000; i++) {
		float u = sal_random_uniform(&r);
		bad |= !(u >= 0 && u < 1);
		sum += u;
	}
	ok(!bad && sum > 49500 && sum < 50500, "uniform in [0, 1)");
	struct sal_random again = sal_random_open(7, "sample", "q1", 3);
	ok((float)(sal_random_at(&r, 0) >> 8) * 0x1p-24f == sal_random_uniform(&again), "at() does not depend on the draws made");
	for (int i = 0; i < 1000; i++)
		bad |= sal_random_below(&r, 7) >= 7 || sal_random_below(&r, 1) != 0;
	ok(!bad, "below");

	int p[100], seen[100] = { 0 }, moved = 0;
	sal_random_shuffle(&r, p, 100);
	for (int i = 0; i < 100; i++) {
		seen[p[i]]++;
		moved += p[i] != i;
	}
	for (int i = 0; i < 100; i++)
		bad |= seen[i] != 1;
	ok(!bad && moved > 50, "shuffle is a permutation");
	sal_random_shuffle(&r, p, 0);
	printf("1..%d\n", number);
	return failed;
}
