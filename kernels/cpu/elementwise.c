/* SPDX-License-Identifier: Apache-2.0 */
/*
 * elementwise.c - moving and combining tensors: gather, scatter, dropout, zero,
 * copy, add, the sum of squares, and AdamW.
 *
 *   g = grad_scale g      w = (1 - lr weight_decay) w
 *   m = b1 m + (1-b1) g   v = b2 v + (1-b2) g^2
 *   w = w - lr / (1-b1^t) * m / (sqrt(v) / sqrt(1-b2^t) + eps)
 *
 * AdamW in the order of torch.optim.AdamW; the bias corrections are computed
 * in double, as there.  Source: arXiv:1711.05101.
 */
#include "cpu.h"
#include "vec.h"

#define BLOCK 16384   /* elements one thread takes at a time; a multiple of VL */
#define SUMSQ 4096    /* elements of one partial sum: part of the contract */
#define PARTIALS 1024 /* partial sums held at a time */

static int64_t
elements(struct sal_tensor t, int from)
{
	int64_t n = 1;
	for (int i = from; i < t.ndim; i++)
		n *= t.dim[i];
	return n;
}

static size_t
width(enum sal_dtype t)
{
	return t == SAL_BF16 ? 2 : 4;
}

void
FN(sal_cpu_gather)(struct sal_dev *dev, struct sal_tensor y, struct sal_tensor x, struct sal_tensor idx)
{
	int64_t n = y.dim[0];
	size_t row = (size_t)elements(y, 1) * width(y.dtype);
	const int32_t *from = idx.data;

#pragma omp parallel for num_threads(dev->threads) if ((size_t)n * row > 65536)
	for (int64_t i = 0; i < n; i++)
		memcpy((char *)y.data + (size_t)i * row, (const char *)x.data + (size_t)from[i] * row, row);
}

void
FN(sal_cpu_scatter)(struct sal_dev *dev, struct sal_tensor y, struct sal_tensor x, struct sal_tensor g, struct sal_tensor idx)
{
	int64_t n = x.dim[0], c = x.dim[1];
	const int32_t *to = idx.data;
	const float *gi = g.ndim ? g.data : NULL;

	FN(sal_cpu_zero)(dev, y);
#pragma omp parallel for num_threads(dev->threads) if (n * c > 16384)
	for (int64_t i = 0; i < n; i++) {
		float *d = (float *)y.data + to[i] * c;
		const float *s = (const float *)x.data + i * c;
		for (int64_t j = 0; j < c; j++)
			d[j] = gi ? gi[i] * s[j] : s[j];
	}
}

static inline uint64_t
mix(uint64_t z)
{
	z += 0x9e3779b97f4a7c15u;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

void
FN(sal_cpu_dropout)(struct sal_dev *dev, struct sal_tensor y, struct sal_tensor x, struct sal_tensor key, uint64_t salt, float p, bool accumulate)
{
	int64_t N = x.dim[0], K = x.dim[1];
	bool hx = x.dtype == SAL_BF16, hy = y.dtype == SAL_BF16;
	const int32_t *k = key.data;
	uint32_t falls = (uint32_t)((double)p * 0x1p32);
	float stays = 1.0f / (1.0f - p);

#pragma omp parallel for num_threads(dev->threads) if (N * K > BLOCK)
	for (int64_t i = 0; i < N; i++) {
		uint64_t row = mix(salt + (uint32_t)k[i]);

		for (int64_t j = 0; j < K; j += VL) {
			int n = vf_lanes(K - j);
			float by[VL];

			for (int l = 0; l < VL; l++)
				by[l] = mix(row + (uint64_t)(j + l)) >> 32 < falls ? 0.0f : stays;
			vf v = vf_mul(vf_load_any(x.data, hx, i * K + j, n), vf_load(by));
			if (accumulate)
				v = vf_add(v, vf_load_any(y.data, hy, i * K + j, n));
			vf_store_any(y.data, hy, i * K + j, v, n);
		}
	}
}

void
FN(sal_cpu_zero)(struct sal_dev *dev, struct sal_tensor y)
{
	int64_t N = elements(y, 0);
	size_t wd = width(y.dtype);

#pragma omp parallel for num_threads(dev->threads) if (N > BLOCK)
	for (int64_t b = 0; b < N; b += BLOCK)
		memset((char *)y.data + (size_t)b * wd, 0, (size_t)(N - b < BLOCK ? N - b : BLOCK) * wd);
}

void
FN(sal_cpu_copy)(struct sal_dev *dev, struct sal_tensor y, struct sal_tensor x)
{
	int64_t N = elements(y, 0);
	size_t wd = width(y.dtype);
	bool same = x.dtype == y.dtype, hx = x.dtype == SAL_BF16, hy = y.dtype == SAL_BF16;

#pragma omp parallel for num_threads(dev->threads) if (N > BLOCK)
	for (int64_t b = 0; b < N; b += BLOCK) {
		int64_t end = N - b < BLOCK ? N : b + BLOCK;

		if (same) {
			memcpy((char *)y.data + (size_t)b * wd, (const char *)x.data + (size_t)b * wd, (size_t)(end - b) * wd);
			continue;
		}
		for (int64_t i = b; i < end; i += VL) {
			int n = vf_lanes(end - i);
			vf_store_any(y.data, hy, i, vf_load_any(x.data, hx, i, n), n);
		}
	}
}

void
FN(sal_cpu_add)(struct sal_dev *dev, struct sal_tensor y, struct sal_tensor x)
{
	int64_t N = elements(y, 0);
	float *a = y.data;
	const float *b = x.data;

#pragma omp parallel for num_threads(dev->threads) if (N > BLOCK)
	for (int64_t i = 0; i < N; i++)
		a[i] += b[i];
}

/* The product of two floats is exact in double, so this sum is the same on every instruction set. */
static double
chunk_sumsq(const float *x, int64_t n)
{
	double acc[8] = { 0 };
	int64_t i = 0;

	for (; i + 8 <= n; i += 8)
		for (int k = 0; k < 8; k++)
			acc[k] += (double)x[i + k] * x[i + k];
	for (; i < n; i++)
		acc[i & 7] += (double)x[i] * x[i];
	return ((acc[0] + acc[4]) + (acc[2] + acc[6])) + ((acc[1] + acc[5]) + (acc[3] + acc[7]));
}

double
FN(sal_cpu_sumsq)(struct sal_dev *dev, struct sal_tensor x)
{
	int64_t N = elements(x, 0), chunks = (N + SUMSQ - 1) / SUMSQ;
	const float *p = x.data;
	double part[PARTIALS], total = 0;

	for (int64_t c0 = 0; c0 < chunks; c0 += PARTIALS) {
		int64_t nc = chunks - c0 < PARTIALS ? chunks - c0 : PARTIALS;

#pragma omp parallel for num_threads(dev->threads) if (nc > 4)
		for (int64_t c = 0; c < nc; c++) {
			int64_t o = (c0 + c) * SUMSQ;
			part[c] = chunk_sumsq(p + o, N - o < SUMSQ ? N - o : SUMSQ);
		}
		for (int64_t c = 0; c < nc; c++)
			total += part[c];
	}
	return total;
}

void
FN(sal_cpu_adamw)(struct sal_dev *dev, struct sal_tensor w, struct sal_tensor m, struct sal_tensor v, struct sal_tensor g,
    float grad_scale, float lr, float beta1, float beta2, float eps, float weight_decay, int64_t step)
{
	int64_t N = elements(w, 0);
	double bc1 = 1.0 - pow(beta1, (double)step), bc2 = 1.0 - pow(beta2, (double)step);
	vf scale = vf_set1(grad_scale), decay = vf_set1((float)(1.0 - (double)lr * weight_decay));
	vf b1 = vf_set1(beta1), c1 = vf_set1((float)(1.0 - (double)beta1));
	vf b2 = vf_set1(beta2), c2 = vf_set1((float)(1.0 - (double)beta2));
	vf size = vf_set1((float)(-lr / bc1)), root = vf_set1((float)sqrt(bc2)), ve = vf_set1(eps);

#pragma omp parallel for num_threads(dev->threads) if (N > BLOCK)
	for (int64_t b = 0; b < N; b += BLOCK) {
		int64_t end = N - b < BLOCK ? N : b + BLOCK;

		for (int64_t i = b; i < end; i += VL) {
			int n = vf_lanes(end - i);
			vf gi = vf_mul(vf_load_any(g.data, false, i, n), scale);
			vf mi = vf_fma(c1, gi, vf_mul(b1, vf_load_any(m.data, false, i, n)));
			vf vi = vf_fma(vf_mul(c2, gi), gi, vf_mul(b2, vf_load_any(v.data, false, i, n)));
			vf den = vf_add(vf_div(vf_sqrt(vi), root), ve);
			vf wi = vf_mul(vf_load_any(w.data, false, i, n), decay);
			vf_store_any(w.data, false, i, vf_fma(size, vf_div(mi, den), wi), n);
			vf_store_any(m.data, false, i, mi, n);
			vf_store_any(v.data, false, i, vi, n);
		}
	}
}
