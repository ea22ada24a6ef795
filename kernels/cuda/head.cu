/* SPDX-License-Identifier: Apache-2.0 */
/*
 * head.cu - a scalar head on the hidden states (rewards and values).
 *
 *   y_i = h_i . w + b      dh_i = dy_i w      dw = sum_i dy_i h_i      db = sum_i dy_i
 *
 * dw and db are one chain over the rows each: a thread owns a column.
 */
#include "cuda.h"

/* One warp a row */
template <class T>
static __global__ void
head_kernel(float *y, const T *h, const float *w, const float *b, int64_t n, int c)
{
	int64_t row = (int64_t)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
	float s = 0;

	if (row >= n)
		return; /* a whole warp; no barrier follows */
	for (int j = threadIdx.x % 32; j < c; j += 32)
		s = fmaf(get(h, row * c + j), w[j], s);
	s = warp_sum(s);
	if (threadIdx.x % 32 == 0)
		y[row] = s + (b ? *b : 0.0f);
}

extern "C" void
sal_cuda_head_forward(struct sal_dev *dev, struct sal_tensor y, struct sal_tensor h, struct sal_tensor w, struct sal_tensor b)
{
	struct cuda_priv *p = sal_cuda_here(dev);
	int64_t n = h.dim[0];

	BY_TYPE(h.dtype, T, LAUNCH(head_kernel<T>, (unsigned)((n + 7) / 8), 256, 0, p->stream, (float *)y.data,
	    (const T *)h.data, (const float *)w.data, b.ndim ? (const float *)b.data : NULL, n, (int)h.dim[1]));
	sal_cuda_note(dev, "head_forward", cudaGetLastError());
}

static __global__ void
head_dh_kernel(float *dh, const float *dy, const float *w, int64_t n, int c)
{
	for EACH(i, n)
		dh[i] = dy[i / c] * w[i % c];
}

/* Column c is db. */
template <class T>
static __global__ void
head_dw_kernel(float *dw, float *db, const float *dy, const T *h, int64_t n, int c, bool accumulate)
{
	int j = blockIdx.x * blockDim.x + threadIdx.x;
	float *out = j < c ? dw + j : j == c ? db : NULL;

	if (!out)
		return;
	float acc = accumulate ? *out : 0.0f;
	for (int64_t i = 0; i < n; i++)
		acc = j < c ? fmaf(dy[i], get(h, i * c + j), acc) : acc + dy[i];
	*out = acc;
}

extern "C" void
sal_cuda_head_backward(struct sal_dev *dev, struct sal_tensor dh, struct sal_tensor dw, struct sal_tensor db,
    struct sal_tensor dy, struct sal_tensor h, struct sal_tensor w, bool accumulate)
{
	struct cuda_priv *p = sal_cuda_here(dev);
	int64_t n = h.dim[0], size = sal_cuda_elements(h);
	int c = (int)h.dim[1];

	LAUNCH(head_dh_kernel, sal_cuda_blocks(size), 256, 0, p->stream, (float *)dh.data, (const float *)dy.data,
	    (const float *)w.data, size, c);
	sal_cuda_note(dev, "head_backward", cudaGetLastError());
	BY_TYPE(h.dtype, T, LAUNCH(head_dw_kernel<T>, (unsigned)(c / 64 + 1), 64, 0, p->stream, (float *)dw.data,
	    db.ndim ? (float *)db.data : NULL, (const float *)dy.data, (const T *)h.data, n, c, accumulate));
	sal_cuda_note(dev, "head_backward", cudaGetLastError());
}
