/* SPDX-License-Identifier: Apache-2.0 */
/*
 * int8.h - matrices and rows in 8 bits, and the term of a product that is made of them.
 *
 * Group    SAL_INT8_GROUP elements in a row along the sum, filled up with zeros, share one float: scale = largest |x| / 127,
 *          q = x / scale to the nearest.
 * Layout   A matrix (O, K) is packed in panels of SAL_NR outputs.  A panel is, for each group, [GROUP/4][NR][4] bytes q + 128
 *          (VPDPBUSD multiplies unsigned bytes by signed ones), then NR scales.
 * Sum      sum (q + 128) x = sum q x + 128 sum x: the integer sum of a group begins at -128 sum x.  It is exact in any order,
 *          and as a float, being below 2^24.  Groups are one chain from 0: y = fma(sum, scale of w * scale of x, y).
 * Others   No scale is too small for its inverse: a group whose largest is below 1e-30 counts as zeros.  An element that is not
 *          finite makes the scale NaN, and so the sum.
 */
#ifndef SAL_INT8_H
#define SAL_INT8_H

#include "cpu.h"

#define GROUP SAL_INT8_GROUP
#define GROUP_BYTES (GROUP * SAL_NR + SAL_NR * 4)

#if defined(__AVX512VNNI__)
typedef int8_t q8;
#else
typedef int16_t q8; /* for VPMADDWD */
#endif
struct sal_group {
	q8 q[GROUP];
	float scale;
	int32_t less; /* 128 sum q */
};

static inline int64_t
int8_groups(int64_t k)
{
	return (k + GROUP - 1) / GROUP;
}

/* n <= GROUP elements as whole numbers in q; returns their scale. */
static inline float
int8_group(float q[GROUP], const void *src, bool half, int64_t n)
{
	vf top = vf_set1(0), bad = vf_set1(0), lo = vf_set1(-127), hi = vf_set1(127);

	for (int64_t j = 0; j < GROUP; j += VL) {
		vf x = j < n ? vf_load_any(src, half, j, vf_lanes(n - j)) : vf_set1(0);
		vf_store(q + j, x);
		bad = vf_fma(x, vf_set1(0), bad); /* NaN of what is not finite */
		top = vf_max(top, vf_max(x, vf_sub(vf_set1(0), x)));
	}
	float most = vf_hmax(top);
	vf inverse = vf_set1(most > 1e-30f ? 127.0f / most : 0);
	for (int64_t j = 0; j < GROUP; j += VL)
		vf_store(q + j, vf_min(vf_max(vf_round(vf_mul(vf_load(q + j), inverse)), lo), hi));
	return most / 127.0f + vf_sum(bad);
}

/* One row of n elements. */
static inline void
int8_row(struct sal_group *dst, const void *src, bool half, int64_t n)
{
	const char *from = src;

	for (; n > 0; n -= GROUP, from += GROUP * (half ? 2 : 4), dst++) {
		float q[GROUP];
		vf sum = vf_set1(0);

		dst->scale = int8_group(q, from, half, n < GROUP ? n : GROUP);
		for (int j = 0; j < GROUP; j += VL)
			sum = vf_add(sum, vf_load(q + j));
		dst->less = 128 * (int32_t)vf_sum(sum);
#if defined(__AVX512VNNI__)
		for (int j = 0; j < GROUP; j += VL)
			_mm_storeu_si128((__m128i *)(dst->q + j), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(vf_load(q + j))));
#else
		for (int j = 0; j < GROUP; j++)
			dst->q[j] = (q8)(int)q[j];
#endif
	}
}

/* Output o of a packed matrix from a row of n floats times scale. */
static inline void
int8_pack(void *fwd, int64_t o, const float *src, float scale, int64_t n)
{
	uint8_t *w = (uint8_t *)fwd + o / SAL_NR * int8_groups(n) * GROUP_BYTES + o % SAL_NR * 4;

	for (; n > 0; n -= GROUP, src += GROUP, w += GROUP_BYTES) {
		float q[GROUP], s = scale * int8_group(q, src, false, n < GROUP ? n : GROUP);
		uint8_t b[GROUP];

		for (int j = 0; j < GROUP; j++)
			b[j] = (uint8_t)((int)q[j] + 128);
		for (int j = 0; j < GROUP; j += 4)
			memcpy(w + j * SAL_NR, b + j, 4);
		memcpy(w + GROUP * SAL_NR, &s, 4);
	}
}

/* Output o, which stands for no row: its sums are 0. */
static inline void
int8_clear(void *fwd, int64_t o, int64_t n)
{
	uint8_t *w = (uint8_t *)fwd + o / SAL_NR * int8_groups(n) * GROUP_BYTES + o % SAL_NR * 4;

	for (; n > 0; n -= GROUP, w += GROUP_BYTES)
		for (int j = 0; j <= GROUP; j += 4)
			memset(w + j * SAL_NR, 0, 4);
}

/* Element j of output o of a packed matrix of sums of length n. */
static inline float
int8_at(const void *fwd, int64_t n, int64_t o, int64_t j)
{
	const uint8_t *w = (const uint8_t *)fwd + (o / SAL_NR * int8_groups(n) + j / GROUP) * GROUP_BYTES + o % SAL_NR * 4;
	float scale;

	memcpy(&scale, w + GROUP * SAL_NR, 4);
	return scale * (float)((int)w[j % GROUP / 4 * 4 * SAL_NR + j % 4] - 128);
}

#endif
