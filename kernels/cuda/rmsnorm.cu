/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rmsnorm.cu - root mean square normalisation, a block a row.
 *
 *   r = 1 / sqrt(mean(x^2) + eps)      y_c  = x_c r w_c
 *   s = sum_c dy_c w_c x_c             dx_c = r w_c dy_c - x_c r^3 s / C
 *
 * A thread writes only elements that it alone has read, after the sum: the
 * output may be the input.
 */
#include "cuda.h"

#define THREADS 256

template <class TX, class TY>
static __global__ void __launch_bounds__(THREADS)
rmsnorm_kernel(TY *y, float *rrms, const TX *x, const float *w, int c, float eps)
{
	int64_t o = (int64_t)blockIdx.x * c;
	float s = 0;

	for (int i = threadIdx.x; i < c; i += THREADS) {
		float a = get(x, o + i);
		s = fmaf(a, a, s);
	}
	s = block_sum(s);
	float r = 1.0f / sqrtf(s / (float)c + eps);
	if (rrms && threadIdx.x == 0)
		rrms[blockIdx.x] = r;
	for (int i = threadIdx.x; i < c; i += THREADS)
		put(y, o + i, get(x, o + i) * r * w[i]);
}

extern "C" void
sal_cuda_rmsnorm_forward(struct sal_dev *dev, struct sal_tensor y, struct sal_tensor rrms, struct sal_tensor x,
    struct sal_tensor w, float eps)
{
	struct cuda_priv *p = sal_cuda_here(dev);
	unsigned n = (unsigned)x.dim[0];
	int c = (int)x.dim[1];

	BY_TYPE(x.dtype, TX, BY_TYPE(y.dtype, TY, LAUNCH((rmsnorm_kernel<TX, TY>), n, THREADS, 0, p->stream, (TY *)y.data,
	    rrms.ndim ? (float *)rrms.data : NULL, (const TX *)x.data, (const float *)w.data, c, eps)));
	sal_cuda_note(dev, "rmsnorm_forward", cudaGetLastError());
}

template <class TX, class TY>
static __global__ void __launch_bounds__(THREADS)
rmsnorm_back_kernel(TX *dx, const TY *dy, const TX *x, const float *w, const float *rrms, int c, bool accumulate)
{
	int64_t o = (int64_t)blockIdx.x * c;
	float s = 0, r = rrms[blockIdx.x];

	for (int i = threadIdx.x; i < c; i += THREADS)
		s = fmaf(get(dy, o + i) * w[i], get(x, o + i), s);
	s = block_sum(s);
	float k = -(s / (float)c) * r * r * r;
	for (int i = threadIdx.x; i < c; i += THREADS) {
		float a = fmaf(get(x, o + i), k, get(dy, o + i) * w[i] * r);

		put(dx, o + i, accumulate ? get(dx, o + i) + a : a);
	}
}

extern "C" void
sal_cuda_rmsnorm_backward(struct sal_dev *dev, struct sal_tensor dx, struct sal_tensor dy, struct sal_tensor x,
    struct sal_tensor w, struct sal_tensor rrms, bool accumulate)
{
	struct cuda_priv *p = sal_cuda_here(dev);
	unsigned n = (unsigned)x.dim[0];
	int c = (int)x.dim[1];

	BY_TYPE(x.dtype, TX, BY_TYPE(dy.dtype, TY, LAUNCH((rmsnorm_back_kernel<TX, TY>), n, THREADS, 0, p->stream, (TX *)dx.data,
	    (const TY *)dy.data, (const TX *)x.data, (const float *)w.data, (const float *)rrms.data, c, accumulate)));
	sal_cuda_note(dev, "rmsnorm_backward", cudaGetLastError());
}
