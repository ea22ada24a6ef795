/* SPDX-License-Identifier: Apache-2.0 */
/*
 * head.c - a scalar head on the hidden states (rewards and values).
 *
 *   y_i = h_i . w + b      dh_i = dy_i w      dw = sum_i dy_i h_i      db = sum_i dy_i
 *
 * A dot product runs in four vector accumulators joined in one fixed tree.  dw
 * and db are one chain over the rows each, begun at the old value when
 * accumulating: rows given in two calls give what one call gives.
 */
#include "cpu.h"
#include "vec.h"

static inline vf
load(const void *p, bool h, int64_t i, int n)
{
	if (h)
		return n == VL ? vf_load_bf16((const bf16 *)p + i) : vf_load_bf16_n((const bf16 *)p + i, n);
	return n == VL ? vf_load((const float *)p + i) : vf_load_n((const float *)p + i, n);
}

static inline void
store(void *p, bool h, int64_t i, vf a, int n)
{
	if (h && n == VL)
		vf_store_bf16((bf16 *)p + i, a);
	else if (h)
		vf_store_bf16_n((bf16 *)p + i, a, n);
	else if (n == VL)
		vf_store((float *)p + i, a);
	else
		vf_store_n((float *)p + i, a, n);
}

static inline int
lanes(int64_t left)
{
	return left < VL ? (int)left : VL;
}

void
FN(sal_cpu_head_forward)(struct sal_dev *dev, struct sal_tensor y, struct sal_tensor h, struct sal_tensor w, struct sal_tensor b)
{
	int64_t N = h.dim[0], C = h.dim[1];
	bool hh = h.dtype == SAL_BF16;
	float bias = b.ndim ? *(const float *)b.data : 0.0f;
	float *out = y.data;

#pragma omp parallel for num_threads(dev->threads) if (N * C > 16384)
	for (int64_t i = 0; i < N; i++) {
		vf acc[4] = { vf_set1(0), vf_set1(0), vf_set1(0), vf_set1(0) };

		for (int64_t c = 0, k = 0; c < C; c += VL, k++) {
			int n = lanes(C - c);
			acc[k & 3] = vf_fma(load(h.data, hh, i * C + c, n), load(w.data, false, c, n), acc[k & 3]);
		}
		out[i] = vf_sum(vf_add(vf_add(acc[0], acc[1]), vf_add(acc[2], acc[3]))) + bias;
	}
}

void
FN(sal_cpu_head_backward)(struct sal_dev *dev, struct sal_tensor dh, struct sal_tensor dw, struct sal_tensor db,
    struct sal_tensor dy, struct sal_tensor h, struct sal_tensor w, bool accumulate)
{
	int64_t N = h.dim[0], C = h.dim[1];
	bool hh = h.dtype == SAL_BF16;
	const float *g = dy.data;

#pragma omp parallel for num_threads(dev->threads) if (N * C > 16384)
	for (int64_t i = 0; i < N; i++)
		for (int64_t c = 0; c < C; c += VL) {
			int n = lanes(C - c);
			store(dh.data, false, i * C + c, vf_mul(vf_set1(g[i]), load(w.data, false, c, n)), n);
		}

	/* A thread owns columns, so the rows of each stay in order. */
#pragma omp parallel for num_threads(dev->threads) if (N * C > 16384)
	for (int64_t c = 0; c < C; c += VL) {
		int n = lanes(C - c);
		vf acc = accumulate ? load(dw.data, false, c, n) : vf_set1(0);

		for (int64_t i = 0; i < N; i++)
			acc = vf_fma(vf_set1(g[i]), load(h.data, hh, i * C + c, n), acc);
		store(dw.data, false, c, acc, n);
	}

	if (db.ndim) {
		float *d = db.data, acc = accumulate ? *d : 0.0f;

		for (int64_t i = 0; i < N; i++)
			acc += g[i];
		*d = acc;
	}
}
