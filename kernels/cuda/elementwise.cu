/* SPDX-License-Identifier: Apache-2.0 */
/*
 * elementwise.cu - moving and combining tensors: gather, scatter, dropout, zero,
 * copy, add, the sum of squares, and AdamW (the formulas are in cpu/elementwise.c).
 */
#include <math.h>
#include <stdlib.h>

#include "cuda.h"

#define SUMSQ 4096 /* elements of one partial sum: part of the contract */

/* y row to[i] or i = x row i or from[i], times g[i] where given; rows of c elements; one block a row */
template <class T>
static __global__ void
rows_kernel(T *y, const T *x, const float *g, const int *to, const int *from, int64_t c)
{
	int64_t i = blockIdx.x;
	const T *src = x + (from ? (int64_t)from[i] : i) * c;
	T *dst = y + (to ? (int64_t)to[i] : i) * c;

	for (int64_t j = threadIdx.x; j < c; j += blockDim.x)
		if (g)
			put(dst, j, g[i] * get(src, j));
		else
			dst[j] = src[j];
}

extern "C" void
sal_cuda_gather(struct sal_dev *dev, struct sal_tensor y, struct sal_tensor x, struct sal_tensor idx)
{
	struct cuda_priv *p = sal_cuda_here(dev);

	BY_TYPE(y.dtype, T, LAUNCH(rows_kernel<T>, (unsigned)y.dim[0], 128, 0, p->stream, (T *)y.data, (const T *)x.data,
	    (const float *)NULL, (const int *)NULL, (const int *)idx.data, y.dim[1]));
	sal_cuda_note(dev, "gather", cudaGetLastError());
}

extern "C" void
sal_cuda_scatter(struct sal_dev *dev, struct sal_tensor y, struct sal_tensor x, struct sal_tensor g, struct sal_tensor idx)
{
	struct cuda_priv *p = sal_cuda_here(dev);

	sal_cuda_zero(dev, y);
	LAUNCH(rows_kernel<float>, (unsigned)x.dim[0], 128, 0, p->stream, (float *)y.data, (const float *)x.data,
	    g.ndim ? (const float *)g.data : (const float *)NULL, (const int *)idx.data, (const int *)NULL, x.dim[1]);
	sal_cuda_note(dev, "scatter", cudaGetLastError());
}

__device__ static inline uint64_t
mix(uint64_t z)
{
	z += 0x9e3779b97f4a7c15u;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

template <class TX, class TY>
static __global__ void
dropout_kernel(TY *y, const TX *x, const int *key, int64_t n, int64_t c, uint64_t salt, unsigned falls, float stays, bool accumulate)
{
	for EACH(i, n) {
		uint64_t h = mix(mix(salt + (unsigned)key[i / c]) + (uint64_t)(i % c));
		float v = get(x, i) * ((unsigned)(h >> 32) < falls ? 0.0f : stays);

		put(y, i, accumulate ? get(y, i) + v : v);
	}
}

extern "C" void
sal_cuda_dropout(struct sal_dev *dev, struct sal_tensor y, struct sal_tensor x, struct sal_tensor key, uint64_t salt, float p, bool accumulate)
{
	struct cuda_priv *priv = sal_cuda_here(dev);
	int64_t n = sal_cuda_elements(y);

	BY_TYPE(x.dtype, TX, BY_TYPE(y.dtype, TY, LAUNCH((dropout_kernel<TX, TY>), sal_cuda_blocks(n), 256, 0, priv->stream, (TY *)y.data,
	    (const TX *)x.data, (const int *)key.data, n, x.dim[1], salt, (unsigned)((double)p * 4294967296.0), 1.0f / (1.0f - p), accumulate)));
	sal_cuda_note(dev, "dropout", cudaGetLastError());
}

extern "C" void
sal_cuda_zero(struct sal_dev *dev, struct sal_tensor y)
{
	struct cuda_priv *p = sal_cuda_here(dev);

	sal_cuda_note(dev, "zero", cudaMemsetAsync(y.data, 0, sal_tensor_bytes(y), p->stream));
}

template <class TX, class TY>
static __global__ void
copy_kernel(TY *y, const TX *x, int64_t n)
{
	for EACH(i, n)
		put(y, i, get(x, i));
}

extern "C" void
sal_cuda_copy(struct sal_dev *dev, struct sal_tensor y, struct sal_tensor x)
{
	struct cuda_priv *p = sal_cuda_here(dev);
	int64_t n = sal_cuda_elements(y);
	unsigned blocks = sal_cuda_blocks(n);

	if (y.dtype == x.dtype)
		sal_cuda_note(dev, "copy",
		    cudaMemcpyAsync(y.data, x.data, sal_tensor_bytes(y), cudaMemcpyDeviceToDevice, p->stream));
	else if (x.dtype == SAL_F32)
		LAUNCH((copy_kernel<float, bf16>), blocks, 256, 0, p->stream, (bf16 *)y.data, (const float *)x.data, n);
	else
		LAUNCH((copy_kernel<bf16, float>), blocks, 256, 0, p->stream, (float *)y.data, (const bf16 *)x.data, n);
	sal_cuda_note(dev, "copy", cudaGetLastError());
}

static __global__ void
add_kernel(float *y, const float *x, int64_t n)
{
	for EACH(i, n)
		y[i] += x[i];
}

extern "C" void
sal_cuda_add(struct sal_dev *dev, struct sal_tensor y, struct sal_tensor x)
{
	struct cuda_priv *p = sal_cuda_here(dev);
	int64_t n = sal_cuda_elements(y);

	LAUNCH(add_kernel, sal_cuda_blocks(n), 256, 0, p->stream, (float *)y.data, (const float *)x.data, n);
	sal_cuda_note(dev, "add", cudaGetLastError());
}

/* One block a chunk */
static __global__ void
sumsq_kernel(double *part, const float *x, int64_t n)
{
	int64_t o = (int64_t)blockIdx.x * SUMSQ, end = n - o < SUMSQ ? n : o + SUMSQ;
	double s = 0;

	for (int64_t i = o + threadIdx.x; i < end; i += blockDim.x)
		s += (double)x[i] * x[i];
	s = block_sum(s);
	if (threadIdx.x == 0)
		part[blockIdx.x] = s;
}

extern "C" double
sal_cuda_sumsq(struct sal_dev *dev, struct sal_tensor x)
{
	struct cuda_priv *p = sal_cuda_here(dev);
	int64_t n = sal_cuda_elements(x), chunks = (n + SUMSQ - 1) / SUMSQ;
	size_t bytes = (size_t)chunks * sizeof(double);
	double *part = (double *)sal_cuda_scratch(dev, SAL_SLOT_A, bytes), *host, total = 0;

	if (!part)
		return 0;
	if (!(host = (double *)calloc((size_t)chunks, sizeof *host))) {
		sal_dev_fail(dev, "sumsq: out of memory");
		return 0;
	}
	LAUNCH(sumsq_kernel, (unsigned)chunks, 256, 0, p->stream, part, (const float *)x.data, n);
	sal_cuda_note(dev, "sumsq", cudaGetLastError());
	sal_cuda_download(dev, host, part, bytes);
	for (int64_t i = 0; i < chunks; i++)
		total += host[i];
	free(host);
	return total;
}

struct adamw {
	float scale, decay, b1, c1, b2, c2, step, root, eps;
};

static __global__ void
adamw_kernel(float *w, float *m, float *v, const float *g, int64_t n, struct adamw a)
{
	for EACH(i, n) {
		float gi = g[i] * a.scale;
		float mi = fmaf(a.c1, gi, a.b1 * m[i]), vi = fmaf(a.c2 * gi, gi, a.b2 * v[i]);

		w[i] = fmaf(a.step, mi / (sqrtf(vi) / a.root + a.eps), w[i] * a.decay);
		m[i] = mi;
		v[i] = vi;
	}
}

extern "C" void
sal_cuda_adamw(struct sal_dev *dev, struct sal_tensor w, struct sal_tensor m, struct sal_tensor v, struct sal_tensor g,
    float grad_scale, float lr, float beta1, float beta2, float eps, float weight_decay, int64_t step)
{
	struct cuda_priv *p = sal_cuda_here(dev);
	int64_t n = sal_cuda_elements(w);
	struct adamw a;

	a.scale = grad_scale;
	a.decay = (float)(1.0 - (double)lr * weight_decay);
	a.b1 = beta1;
	a.c1 = (float)(1.0 - (double)beta1);
	a.b2 = beta2;
	a.c2 = (float)(1.0 - (double)beta2);
	a.step = (float)(-(double)lr / (1.0 - pow((double)beta1, (double)step)));
	a.root = (float)sqrt(1.0 - pow((double)beta2, (double)step));
	a.eps = eps;
	LAUNCH(adamw_kernel, sal_cuda_blocks(n), 256, 0, p->stream, (float *)w.data, (float *)m.data, (float *)v.data,
	    (const float *)g.data, n, a);
	sal_cuda_note(dev, "adamw", cudaGetLastError());
}
