/* SPDX-License-Identifier: Apache-2.0 */
/*
 * blocks.c - matrices in blocks: their bytes, and decoding and encoding on the host.
 *
 * Q4_0 .. Q6_K are those of GGUF files (ggml's), 32 or 256 elements each.
 *
 * NF4 is one piece for a matrix of n elements, cut in blocks of 64 and groups of 256 blocks:
 *   float  mean                 of the blocks' largest absolute values
 *   float  code[16]             what a 4-bit code stands for
 *   float  scale_code[256]      what an 8-bit code of a block's scale stands for
 *   float  group[ceil(blocks / 256)]   largest |scale - mean| of a group
 *   byte   codes[ceil(n / 2)]   two codes, the earlier element in the upper half
 *   byte   scales[blocks]
 * x = code[c] * (scale_code[s] * group + mean): bitsandbytes' double quantisation.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend.h"

#define NF4_BLOCK 64
#define NF4_GROUP 256

static const struct {
	const char *name;
	int elements, bytes;
} forms[SAL_FORMS] = {
	[SAL_PLAIN] = { "none", 1, 0 }, [SAL_NF4] = { "nf4", NF4_BLOCK, 0 }, [SAL_Q4_0] = { "q4_0", 32, 18 },
	[SAL_Q4_1] = { "q4_1", 32, 20 }, [SAL_Q8_0] = { "q8_0", 32, 34 }, [SAL_Q4_K] = { "q4_k", 256, 144 },
	[SAL_Q5_K] = { "q5_k", 256, 176 }, [SAL_Q6_K] = { "q6_k", 256, 210 }, [SAL_INT8] = { "int8", SAL_INT8_GROUP, 0 },
};

const char *
sal_form_name(enum sal_form form)
{
	return forms[form].name;
}

int
sal_form_block(enum sal_form form)
{
	return forms[form].elements;
}

size_t
sal_form_bytes(enum sal_form form, int64_t n)
{
	size_t e = (size_t)n, blocks = (e + (size_t)forms[form].elements - 1) / (size_t)forms[form].elements;

	if (form == SAL_NF4)
		return (SAL_NF4_HEAD + (blocks + NF4_GROUP - 1) / NF4_GROUP) * 4 + (e + 1) / 2 + blocks;
	return blocks * (size_t)forms[form].bytes;
}

/* ---- decoding ---------------------------------------------------------------- */

float
sal_f16(const uint8_t *p)
{
	uint32_t h = (uint32_t)p[0] | (uint32_t)p[1] << 8, m = h & 0x7fff, sign = (h & 0x8000) << 16, u;
	float x;

	if (m >= 0x400) /* normal; infinity and NaN */
		u = (m << 13) + ((m >= 0x7c00 ? 224u : 112u) << 23);
	else { /* zero and subnormal: m * 2^-24, which is 0.5 with m added to its last bits, less 0.5 */
		u = 0x3f000000 | m;
		memcpy(&x, &u, 4);
		x -= 0.5f;
		memcpy(&u, &x, 4);
	}
	u |= sign;
	memcpy(&x, &u, 4);
	return x;
}

static void
q4_0(const uint8_t *b, float *y)
{
	float d = sal_f16(b);

	for (int i = 0; i < 16; i++) {
		y[i] = d * (float)((b[2 + i] & 15) - 8);
		y[i + 16] = d * (float)((b[2 + i] >> 4) - 8);
	}
}

static void
q4_1(const uint8_t *b, float *y)
{
	float d = sal_f16(b), m = sal_f16(b + 2);

	for (int i = 0; i < 16; i++) {
		y[i] = d * (float)(b[4 + i] & 15) + m;
		y[i + 16] = d * (float)(b[4 + i] >> 4) + m;
	}
}

static void
q8_0(const uint8_t *b, float *y)
{
	float d = sal_f16(b);

	for (int i = 0; i < 32; i++)
		y[i] = d * (float)(int8_t)b[2 + i];
}

/* Six-bit scale and minimum of group j of eight, out of twelve bytes. */
static void
scale_min(const uint8_t *q, int j, int *scale, int *min)
{
	if (j < 4) {
		*scale = q[j] & 63;
		*min = q[j + 4] & 63;
	} else {
		*scale = (q[j + 4] & 15) | (q[j - 4] >> 6) << 4;
		*min = q[j + 4] >> 4 | (q[j] >> 6) << 4;
	}
}

/* Q4_K, and Q5_K with its high bits qh. */
static void
k4_5(const uint8_t *b, const uint8_t *qh, const uint8_t *qs, float *y)
{
	float d = sal_f16(b), dmin = sal_f16(b + 2);

	for (int g = 0; g < 8; g++) {
		int scale, min;
		scale_min(b + 4, g, &scale, &min);
		for (int i = 0; i < 32; i++) {
			uint8_t v = qs[(g / 2) * 32 + i];
			int q = (g & 1 ? v >> 4 : v & 15) + (qh && (qh[i] >> g & 1) ? 16 : 0);
			y[g * 32 + i] = d * (float)scale * (float)q - dmin * (float)min;
		}
	}
}

static void q4_k(const uint8_t *b, float *y) { k4_5(b, NULL, b + 16, y); }
static void q5_k(const uint8_t *b, float *y) { k4_5(b, b + 16, b + 48, y); }

static void
q6_k(const uint8_t *b, float *y)
{
	const uint8_t *ql = b, *qh = b + 128;
	const int8_t *sc = (const int8_t *)(b + 192);
	float d = sal_f16(b + 208);

	for (int h = 0; h < 2; h++, ql += 64, qh += 32, sc += 8, y += 128)
		for (int l = 0; l < 32; l++) {
			int is = l / 16;
			y[l] = d * (float)sc[is] * (float)((int)((ql[l] & 15) | (qh[l] & 3) << 4) - 32);
			y[l + 32] = d * (float)sc[is + 2] * (float)((int)((ql[l + 32] & 15) | (qh[l] >> 2 & 3) << 4) - 32);
			y[l + 64] = d * (float)sc[is + 4] * (float)((int)((ql[l] >> 4) | (qh[l] >> 4 & 3) << 4) - 32);
			y[l + 96] = d * (float)sc[is + 6] * (float)((int)((ql[l + 32] >> 4) | (qh[l] >> 6) << 4) - 32);
		}
}

static float
nf4_float(const uint8_t *b, int64_t i)
{
	float f;

	memcpy(&f, b + 4 * i, 4);
	return f;
}

/* Elements of whole blocks and of the last, which may be part of one. */
static void
nf4(const uint8_t *b, int64_t n, int64_t first, int64_t count, float *y)
{
	int64_t blocks = (n + NF4_BLOCK - 1) / NF4_BLOCK, groups = (blocks + NF4_GROUP - 1) / NF4_GROUP;
	const uint8_t *codes = b + 4 * (SAL_NF4_HEAD + groups), *scales = codes + (n + 1) / 2;
	float code[16];

	for (int c = 0; c < 16; c++)
		code[c] = nf4_float(b, 1 + c);
	for (int64_t i = first; i < first + count;) {
		int64_t k = i / NF4_BLOCK, end = (k + 1) * NF4_BLOCK;
		float scale = nf4_float(b, 17 + scales[k]) * nf4_float(b, SAL_NF4_HEAD + k / NF4_GROUP) + nf4_float(b, 0);

		for (end = end < first + count ? end : first + count; i < end; i++)
			*y++ = code[i & 1 ? codes[i / 2] & 15 : codes[i / 2] >> 4] * scale;
	}
}

void
sal_blocks_decode(enum sal_form form, const void *blocks, int64_t n, int64_t first, int64_t count, float *out)
{
	static void (*const block[])(const uint8_t *, float *) = { [SAL_Q4_0] = q4_0, [SAL_Q4_1] = q4_1, [SAL_Q8_0] = q8_0,
		[SAL_Q4_K] = q4_k, [SAL_Q5_K] = q5_k, [SAL_Q6_K] = q6_k };
	const uint8_t *b = blocks;

	if (form == SAL_NF4) {
		nf4(b, n, first, count, out);
		return;
	}
	b += first / forms[form].elements * forms[form].bytes;
	for (int64_t i = 0; i < count; i += forms[form].elements, b += forms[form].bytes)
		block[form](b, out + i);
}

/* ---- encoding ---------------------------------------------------------------- */

/* The quantiles of a normal distribution that QLoRA fixed, 0 among them. */
static const float nf4_code[16] = { -1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f,
	-0.28444138169288635f, -0.18477343022823334f, -0.09105003625154495f, 0.0f, 0.07958029955625534f, 0.16093020141124725f,
	0.24611230194568634f, 0.33791524171229224f, 0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f };

static int
ascending(const void *a, const void *b)
{
	float x = *(const float *)a, y = *(const float *)b;

	return (x > y) - (x < y);
}

/*
 * The 8-bit codes of the scales (Dettmers' dynamic map): for each power of ten 1e-6 .. 1 the middles of 2^i
 * equal parts of 0.1 .. 1, with either sign; 0; 1.
 */
static void
scale_codes(float out[256])
{
	int n = 0;

	for (int i = 0; i < 7; i++)
		for (int k = 0; k < 1 << i; k++) {
			double step = 0.9 / (1 << i), a = (double)(float)(0.1 + step * k), b = (double)(float)(0.1 + step * (k + 1));
			float middle = ((float)a + (float)b) / 2.0f, x = (float)((double)(float)pow(10, i - 6) * (double)middle);
			out[n++] = x;
			out[n++] = -x;
		}
	out[n++] = 0;
	out[n++] = 1;
	qsort(out, (size_t)n, sizeof *out, ascending);
}

/* The nearest of n ascending codes; of two equally near the lower. */
static int
nearest(const float *code, int n, float x)
{
	int lo = 0, hi = n - 1;

	while (lo < hi) {
		int mid = (lo + hi) / 2;
		if ((double)x > ((double)code[mid] + (double)code[mid + 1]) / 2)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static float
largest(const float *x, int64_t n, float less)
{
	float top = 0;

	for (int64_t i = 0; i < n; i++)
		top = fmaxf(top, fabsf(x[i] - less));
	return top;
}

static void
encode_scales(uint8_t *dst, const float *scale, int64_t blocks, uint8_t *out)
{
	float head[SAL_NF4_HEAD];
	double sum = 0;

	for (int64_t k = 0; k < blocks; k++)
		sum += (double)scale[k];
	head[0] = (float)(sum / (double)blocks);
	memcpy(head + 1, nf4_code, sizeof nf4_code);
	scale_codes(head + 17);
	memcpy(dst, head, sizeof head);
	for (int64_t g = 0; g * NF4_GROUP < blocks; g++) {
		int64_t k0 = g * NF4_GROUP, n = blocks - k0 < NF4_GROUP ? blocks - k0 : NF4_GROUP;
		float top = largest(scale + k0, n, head[0]);

		memcpy(dst + 4 * (SAL_NF4_HEAD + g), &top, 4);
		for (int64_t k = k0; k < k0 + n; k++)
			out[k] = (uint8_t)nearest(head + 17, 256, top > 0 ? (scale[k] - head[0]) / top : 0);
	}
}

void
sal_nf4_encode(void *dst, float *scales, int64_t n, const float *x, int64_t first, int64_t count)
{
	int64_t blocks = (n + NF4_BLOCK - 1) / NF4_BLOCK, groups = (blocks + NF4_GROUP - 1) / NF4_GROUP;
	uint8_t *b = dst, *codes = b + 4 * (SAL_NF4_HEAD + groups);

	for (int64_t i = 0; i < count; i += NF4_BLOCK) {
		int64_t m = count - i < NF4_BLOCK ? count - i : NF4_BLOCK;
		float top = largest(x + i, m, 0), inverse = top > 0 ? 1.0f / top : 0;

		scales[(first + i) / NF4_BLOCK] = top;
		for (int64_t j = 0; j < m; j += 2) {
			int even = nearest(nf4_code, 16, x[i + j] * inverse), odd = j + 1 < m ? nearest(nf4_code, 16, x[i + j + 1] * inverse) : 7;
			codes[(first + i + j) / 2] = (uint8_t)(even << 4 | odd);
		}
	}
	if (first + count == n && n > 0)
		encode_scales(b, scales, blocks, codes + (n + 1) / 2);
}
