/* SPDX-License-Identifier: Apache-2.0 */
/* test_blocks.c - NF4: codes are the nearest, scales are quantised again, parts make the same bytes as the whole. */
#include "kernels/kernels.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int number, failed;

static void
ok(int good, const char *what)
{
	printf("%sok %d - %s\n", good ? "" : "not ", ++number, what);
	failed |= !good;
}

static uint32_t seed = 1;

static float
bell(void)
{
	float s = 0;

	for (int i = 0; i < 6; i++)
		s += (float)((seed = seed * 1664525u + 1013904223u) >> 8) / (1 << 24) - 0.5f;
	return s;
}

/* Code c of 16 by its definition: no other is nearer to x. */
static int
is_nearest(const float *code, int c, double x)
{
	for (int k = 0; k < 16; k++)
		if (fabs(x - (double)code[k]) < fabs(x - (double)code[c]) - 1e-7)
			return 0;
	return 1;
}

static void
test(int64_t n, float scale)
{
	int64_t blocks = (n + 63) / 64, groups = (blocks + 255) / 256;
	float *x = malloc((size_t)n * 4), *y = malloc((size_t)n * 4), *top = malloc((size_t)blocks * 4), head[273];
	size_t len = sal_form_bytes(SAL_NF4, n);
	unsigned char *b = malloc(len), *parts = malloc(len), *codes = b + 4 * (273 + groups), *scales = codes + (n + 1) / 2;
	double worst = 0, mean = 0, bound = 0;
	int nearest = 1, sorted = 1;
	char text[100];

	for (int64_t i = 0; i < n; i++)
		x[i] = scale * bell();
	sal_nf4_encode(b, top, n, x, 0, n);
	memcpy(head, b, sizeof head);
	for (int64_t k = 0; k < blocks; k++)
		mean += (double)top[k] / (double)blocks;
	for (int64_t i = 0; i < n; i++) {
		int c = i & 1 ? codes[i / 2] & 15 : codes[i / 2] >> 4;
		nearest &= is_nearest(head + 1, c, (double)x[i] / (double)top[i / 64]);
	}
	for (int k = 1; k < 256; k++)
		sorted &= head[17 + k] > head[16 + k];
	for (int64_t k = 0; k < blocks; k++) { /* a scale is off by half a gap of its group's codes: 1/2^7 of 0.9 at most */
		float group;
		memcpy(&group, b + 4 * (273 + k / 256), 4);
		worst = fmax(worst, fabs((double)head[17 + scales[k]] * (double)group + (double)head[0] - (double)top[k]) / fmax(1e-30, (double)group));
	}
	snprintf(text, sizeof text, "%lld elements: the codes are the nearest, 256 codes of scales ascend", (long long)n);
	ok(nearest && sorted && head[16] == 1 && head[1] == -1 && head[17 + 255] == 1, text);
	snprintf(text, sizeof text, "%lld elements: scales within half a gap of their codes", (long long)n);
	ok(fabs(mean - (double)head[0]) <= 1e-6 * mean && worst <= 0.9 / 64 / 2 + 1e-6, text);

	sal_blocks_decode(SAL_NF4, b, n, 0, n, y);
	for (int64_t i = 0; i < n; i++) /* half the widest gap of the codes, and the error of the scale */
		bound = fmax(bound, fabs((double)y[i] - (double)x[i]) / (double)top[i / 64]);
	snprintf(text, sizeof text, "%lld elements: decoded within half a gap", (long long)n);
	ok(bound < 0.1521 + 0.02, text);

	memset(parts, 0x5a, len);
	for (int64_t i = 0, k; i < n; i += k) {
		k = n - i < 192 ? n - i : 192;
		sal_nf4_encode(parts, top, n, x + i, i, k);
	}
	snprintf(text, sizeof text, "%lld elements: the same bytes in parts", (long long)n);
	ok(memcmp(b, parts, len) == 0, text);
	free(x);
	free(y);
	free(top);
	free(b);
	free(parts);
}

static void
test_edges(void)
{
	float zeros[70] = { 0 }, y[70], top[2];
	unsigned char *b = malloc(sal_form_bytes(SAL_NF4, 70));
	int good = 1;

	sal_nf4_encode(b, top, 70, zeros, 0, 70);
	sal_blocks_decode(SAL_NF4, b, 70, 0, 70, y);
	for (int i = 0; i < 70; i++)
		good &= y[i] == 0;
	ok(good, "zeros stay zeros");
	free(b);
	ok(sal_form_bytes(SAL_NF4, 64) == 274 * 4 + 32 + 1 && sal_form_bytes(SAL_NF4, 65) == 274 * 4 + 33 + 2 &&
	        sal_form_bytes(SAL_Q4_0, 64) == 36 && sal_form_bytes(SAL_Q6_K, 512) == 420,
	    "bytes of a form");
}

int
main(void)
{
	test(1, 1);
	test(64, 0.02f);
	test(5 * 77, 3);
	test(64 * 256 * 2 + 7, 0.1f);
	test_edges();
	printf("1..%d\n", number);
	return failed;
}
