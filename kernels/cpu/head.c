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
			int n = vf_lanes(C - c);
			acc[k & 3] = vf_fma(vf_load_any(h.data, hh, i * C + c, n), vf_load_any(w.data, false, c, n), acc[k & 3]);
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
			int n = vf_lanes(C - c);
			vf_store_any(dh.data, false, i * C + c, vf_mul(vf_set1(g[i]), vf_load_any(w.data, false, c, n)), n);
		}

	/* A thread owns columns, so the rows of each stay in order. */
#pragma omp parallel for num_threads(dev->threads) if (N * C > 16384)
	for (int64_t c = 0; c < C; c += VL) {
		int n = vf_lanes(C - c);
		vf acc = accumulate ? vf_load_any(dw.data, false, c, n) : vf_set1(0);

		for (int64_t i = 0; i < N; i++)
			acc = vf_fma(vf_set1(g[i]), vf_load_any(h.data, hh, i * C + c, n), acc);
		vf_store_any(dw.data, false, c, acc, n);
	}

	if (db.ndim) {
		float *d = db.data, acc = accumulate ? *d : 0.0f;

		for (int64_t i = 0; i < N; i++)
			acc += g[i];
		*d = acc;
	}
}
