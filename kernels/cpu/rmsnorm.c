/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rmsnorm.c - root mean square normalisation of rows.
 *
 *   r = 1 / sqrt(mean(x^2) + eps)      y_c  = x_c r w_c
 *   s = sum_c dy_c w_c x_c             dx_c = r w_c dy_c - x_c r^3 s / C
 *
 * A sum over a row runs in four vector accumulators and joins them in one
 * fixed tree, so it depends on C alone.  Source: arXiv:1910.07467.
 */
#include "cpu.h"
#include "vec.h"

void
FN(sal_cpu_rmsnorm_forward)(struct sal_dev *dev, struct sal_tensor y, struct sal_tensor rrms, struct sal_tensor x,
    struct sal_tensor w, float eps)
{
	int64_t N = x.dim[0], C = x.dim[1];
	bool hx = x.dtype == SAL_BF16, hy = y.dtype == SAL_BF16;
	const float *g = w.data;
	float *rr = rrms.ndim ? rrms.data : NULL;

#pragma omp parallel for num_threads(dev->threads) if (N * C > 16384)
	for (int64_t i = 0; i < N; i++) {
		int64_t o = i * C;
		vf acc[4] = { vf_set1(0), vf_set1(0), vf_set1(0), vf_set1(0) };

		for (int64_t c = 0, k = 0; c < C; c += VL, k++) {
			vf a = vf_load_any(x.data, hx, o + c, vf_lanes(C - c));
			acc[k & 3] = vf_fma(a, a, acc[k & 3]);
		}
		float ss = vf_sum(vf_add(vf_add(acc[0], acc[1]), vf_add(acc[2], acc[3])));
		float r = 1.0f / sqrtf(ss / (float)C + eps);
		vf vr = vf_set1(r);

		for (int64_t c = 0; c < C; c += VL) {
			int n = vf_lanes(C - c);
			vf a = vf_mul(vf_load_any(x.data, hx, o + c, n), vr);
			vf_store_any(y.data, hy, o + c, vf_mul(a, vf_load_any(g, false, c, n)), n);
		}
		if (rr)
			rr[i] = r;
	}
}

void
FN(sal_cpu_rmsnorm_backward)(struct sal_dev *dev, struct sal_tensor dx, struct sal_tensor dy, struct sal_tensor x,
    struct sal_tensor w, struct sal_tensor rrms, bool accumulate)
{
	int64_t N = x.dim[0], C = x.dim[1];
	bool hx = x.dtype == SAL_BF16, hy = dy.dtype == SAL_BF16;
	const float *g = w.data, *rr = rrms.data;

#pragma omp parallel for num_threads(dev->threads) if (N * C > 16384)
	for (int64_t i = 0; i < N; i++) {
		int64_t o = i * C;
		vf acc[4] = { vf_set1(0), vf_set1(0), vf_set1(0), vf_set1(0) };

		for (int64_t c = 0, k = 0; c < C; c += VL, k++) {
			int n = vf_lanes(C - c);
			vf a = vf_mul(vf_load_any(dy.data, hy, o + c, n), vf_load_any(g, false, c, n));
			acc[k & 3] = vf_fma(a, vf_load_any(x.data, hx, o + c, n), acc[k & 3]);
		}
		float s = vf_sum(vf_add(vf_add(acc[0], acc[1]), vf_add(acc[2], acc[3])));
		float r = rr[i];
		vf vr = vf_set1(r), vk = vf_set1(-(s / (float)C) * r * r * r);

		for (int64_t c = 0; c < C; c += VL) {
			int n = vf_lanes(C - c);
			vf a = vf_mul(vf_load_any(dy.data, hy, o + c, n), vf_load_any(g, false, c, n));
			a = vf_fma(vf_load_any(x.data, hx, o + c, n), vk, vf_mul(a, vr));
			if (accumulate)
				a = vf_add(vf_load_any(dx.data, hx, o + c, n), a);
			vf_store_any(dx.data, hx, o + c, a, n);
		}
	}
}
