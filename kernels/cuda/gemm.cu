/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gemm.cu - linear maps by cuBLAS.
 *
 * A packed matrix is the row-major [O, K] itself, which cuBLAS, column-major,
 * reads as K x O: transposed for y = x W^T, as it is for dx = dy W.  Sums are
 * float (CUBLAS_COMPUTE_32F: no TF32 for F32).  A BF16 result of more than one
 * term is summed in F32 first and rounded once.  Matrices in blocks: multiply().
 */
#include "cuda.h"

static cudaDataType
type_of(enum sal_dtype t)
{
	return t == SAL_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

void
sal_cuda_gemm(struct sal_dev *dev, const char *who, const struct cuda_gemm *g)
{
	struct cuda_priv *p = sal_cuda_here(dev);
	cublasStatus_t s;

	s = cublasGemmEx(p->blas, g->ta ? CUBLAS_OP_T : CUBLAS_OP_N, g->tb ? CUBLAS_OP_T : CUBLAS_OP_N, (int)g->m, (int)g->n,
	    (int)g->k, &g->alpha, g->a, type_of(g->dtype), (int)g->lda, g->b, type_of(g->dtype), (int)g->ldb, &g->beta, g->c,
	    type_of(g->cdtype), (int)g->ldc, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
	if (s != CUBLAS_STATUS_SUCCESS)
		sal_dev_fail(dev, "%s: cublasGemmEx of %lld x %lld x %lld: %s", who, (long long)g->m, (long long)g->n,
		    (long long)g->k, cublasGetStatusString(s));
}

/* y = sum + bias + (old y when accumulate); sum may be y */
template <class T>
static __global__ void
finish_kernel(T *y, const float *sum, const float *bias, bool accumulate, int64_t n, int64_t cols)
{
	for EACH(i, n) {
		float v = sum[i];

		if (bias)
			v += bias[i % cols];
		if (accumulate)
			v += get(y, i);
		put(y, i, v);
	}
}

/*
 * c = x op(w) (+ c when it says so), c and x as in g.  A matrix in blocks is decoded some rows at a time: they give as
 * many columns of y = x W^T, or one term of dx = dy W.
 */
static void
multiply(struct sal_dev *dev, const char *who, struct cuda_gemm g, const struct sal_weight *w, bool back)
{
	int64_t step = w->form == SAL_PLAIN ? w->out : sal_cuda_tile_rows(w->dtype, w->out, w->in);
	int64_t x_width = sal_cuda_width(w->dtype), c_width = sal_cuda_width(g.cdtype);
	void *tile = NULL;

	g.ta = !back;
	g.lda = w->in;
	if (w->form != SAL_PLAIN && !(tile = sal_cuda_scratch(dev, SAL_SLOT_TILE, sal_cuda_tile_bytes(w->dtype, w->out, w->in))))
		return;
	for (int64_t r = 0; r < w->out; r += step) {
		struct cuda_gemm t = g;
		int64_t n = sal_cuda_least(step, w->out - r);

		t.a = w->fwd;
		if (tile) {
			sal_cuda_decode(dev, tile, w, r, n);
			t.a = tile;
		}
		if (back) {
			t.k = n;
			t.b = (const char *)g.b + r * x_width;
			t.beta = r > 0 ? 1 : g.beta;
		} else {
			t.m = n;
			t.c = (char *)g.c + r * c_width;
		}
		sal_cuda_gemm(dev, who, &t);
	}
}

/* y [n, out] = x op(w) + u op(v) + bias (+ y); back: op is as it is, else transposed */
static void
linear(struct sal_dev *dev, const char *who, struct sal_tensor y, struct sal_tensor x, const struct sal_weight *w,
    const float *bias, struct sal_tensor u, const struct sal_weight *v, bool accumulate, bool back)
{
	int64_t n = x.dim[0], out = y.dim[1], k = x.dim[1];
	bool tiles = back && w->form != SAL_PLAIN && sal_cuda_tile_rows(w->dtype, w->out, w->in) < w->out;
	bool apart = y.dtype == SAL_BF16 && (v || bias || accumulate || tiles);
	struct cuda_gemm g = {};

	g.m = out;
	g.n = n;
	g.k = k;
	g.b = x.data;
	g.ldb = k;
	g.c = y.data;
	g.ldc = out;
	g.dtype = w->dtype;
	g.cdtype = y.dtype;
	g.alpha = 1;
	g.beta = accumulate && !apart;
	if (apart) {
		g.cdtype = SAL_F32;
		if (!(g.c = sal_cuda_scratch(dev, SAL_SLOT_A, sal_cuda_sum_bytes(n, out))))
			return;
	}
	multiply(dev, who, g, w, back);
	if (v) {
		g.k = u.dim[1];
		g.b = u.data;
		g.ldb = g.k;
		g.beta = 1;
		multiply(dev, who, g, v, back);
	}
	if (!apart && !bias)
		return;
	struct cuda_priv *p = sal_cuda_here(dev);
	BY_TYPE(y.dtype, T, LAUNCH(finish_kernel<T>, sal_cuda_blocks(n * out), 256, 0, p->stream, (T *)y.data,
	    (const float *)g.c, bias, accumulate && apart, n * out, out));
	sal_cuda_note(dev, who, cudaGetLastError());
}

extern "C" void
sal_cuda_linear_forward(struct sal_dev *dev, struct sal_tensor y, struct sal_tensor x, struct sal_weight w,
    struct sal_tensor bias, struct sal_tensor u, const struct sal_weight *b, bool accumulate)
{
	linear(dev, "linear_forward", y, x, &w, bias.ndim ? (const float *)bias.data : NULL, u, b, accumulate, false);
}

extern "C" void
sal_cuda_linears_forward(struct sal_dev *dev, const struct sal_linear *map, int n, struct sal_tensor x)
{
	for (int i = 0; i < n; i++)
		sal_cuda_linear_forward(dev, map[i].y, x, map[i].w, map[i].bias, map[i].u, map[i].b, false);
}

extern "C" void
sal_cuda_linear_backward(struct sal_dev *dev, struct sal_tensor dx, struct sal_tensor dy, struct sal_weight w,
    struct sal_tensor du, const struct sal_weight *a, bool accumulate)
{
	linear(dev, "linear_backward", dx, dy, &w, NULL, du, a, accumulate, true);
}

template <class T>
static __global__ void
widen_kernel(float *y, const T *x, int64_t n)
{
	for EACH(i, n)
		y[i] = get(x, i);
}

/* x as F32, in working memory where it is not */
static const void *
widened(struct sal_dev *dev, struct sal_tensor x, enum sal_slot slot)
{
	int64_t n = sal_cuda_elements(x);
	float *f;

	if (x.dtype == SAL_F32 || !(f = (float *)sal_cuda_scratch(dev, slot, (size_t)n * 4)))
		return x.dtype == SAL_F32 ? x.data : NULL;
	struct cuda_priv *p = sal_cuda_here(dev);
	LAUNCH(widen_kernel<bf16>, sal_cuda_blocks(n), 256, 0, p->stream, f, (const bf16 *)x.data, n);
	sal_cuda_note(dev, "linear_grad", cudaGetLastError());
	return f;
}

extern "C" void
sal_cuda_linear_grad(struct sal_dev *dev, struct sal_tensor dw, struct sal_tensor dy, struct sal_tensor x, float scale,
    bool accumulate)
{
	bool mixed = dy.dtype != x.dtype;
	struct cuda_gemm g = {};

	g.tb = true;
	g.m = dw.dim[1];
	g.n = dw.dim[0];
	g.k = dy.dim[0];
	g.a = mixed ? widened(dev, x, SAL_SLOT_A) : x.data;
	g.lda = g.m;
	g.b = mixed ? widened(dev, dy, SAL_SLOT_B) : dy.data;
	g.ldb = g.n;
	g.c = dw.data;
	g.ldc = g.m;
	g.dtype = mixed ? SAL_F32 : x.dtype;
	g.cdtype = SAL_F32;
	g.alpha = scale;
	g.beta = accumulate;
	if (g.a && g.b)
		sal_cuda_gemm(dev, "linear_grad", &g);
}

template <class T>
static __global__ void
pack_kernel(T *w, const float *src, float scale, int64_t n)
{
	for EACH(i, n)
		put(w, i, scale * src[i]);
}

extern "C" void
sal_cuda_weight_pack(struct sal_dev *dev, struct sal_weight w, int64_t row0, struct sal_tensor src, float scale)
{
	struct cuda_priv *p = sal_cuda_here(dev);
	int64_t n = sal_cuda_elements(src);

	BY_TYPE(w.dtype, T, LAUNCH(pack_kernel<T>, sal_cuda_blocks(n), 256, 0, p->stream, (T *)w.fwd + row0 * w.in,
	    (const float *)src.data, scale, n));
	sal_cuda_note(dev, "weight_pack", cudaGetLastError());
}

/* One block a row */
template <class T>
static __global__ void
embedding_kernel(float *y, const T *w, const int *ids, int64_t vocab, int64_t c, int *fault)
{
	int64_t id = ids[blockIdx.x], row = blockIdx.x;

	if (id < 0 || id >= vocab) {
		if (threadIdx.x == 0)
			atomicCAS(fault, SAL_FAULT_NONE, SAL_FAULT_ID);
		id = 0;
	}
	for (int64_t j = threadIdx.x; j < c; j += blockDim.x)
		y[row * c + j] = get(w, id * c + j);
}

extern "C" void
sal_cuda_embedding_forward(struct sal_dev *dev, struct sal_tensor y, struct sal_weight w, struct sal_tensor ids)
{
	struct cuda_priv *p = sal_cuda_here(dev);

	BY_TYPE(w.dtype, T, LAUNCH(embedding_kernel<T>, (unsigned)ids.dim[0], 128, 0, p->stream, (float *)y.data,
	    (const T *)w.fwd, (const int *)ids.data, w.out, w.in, p->fault));
	sal_cuda_note(dev, "embedding_forward", cudaGetLastError());
}
