/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cuda.h - private to kernels/cuda: prototypes of every operation, what the
 * device keeps, and the few helpers that kernels share.
 *
 * The files are compiled by nvcc, or by a C++ compiler with the headers of
 * tests/cuda_host in the place of NVIDIA's (a block then runs on the CPU).  So
 * that both read the same text, kernels are launched by LAUNCH alone, shared
 * memory is declared by SHARED and SHARED_DYN alone, and there is no assembly.
 *
 * Sums have one order, given by the sizes of a row and by nothing else: no
 * atomic adds of floats, and multiply-adds are fused only where fmaf() is
 * written (-fmad=false).  What cuBLAS does repeats from run to run, but may
 * depend on the number of rows.
 */
#ifndef SAL_CUDA_H
#define SAL_CUDA_H

#ifdef __cplusplus
#include <cublas_v2.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>
extern "C" {
#endif

#include "../backend.h"
#include "room.h"

#define X(op, args) void sal_cuda_##op args;
SAL_OPS(X)
#undef X
double sal_cuda_sumsq(struct sal_dev *dev, struct sal_tensor x);

/* cuda.cu: everything that is not an operation */
int sal_cuda_open(struct sal_dev *dev, int ordinal, int threads, char *err, size_t errlen);
void sal_cuda_close(struct sal_dev *dev);
int sal_cuda_sync(struct sal_dev *dev);
void *sal_cuda_alloc(struct sal_dev *dev, size_t bytes);
void sal_cuda_free(struct sal_dev *dev, void *p);
void sal_cuda_upload(struct sal_dev *dev, void *dst, const void *src, size_t bytes);
void sal_cuda_download(struct sal_dev *dev, void *dst, const void *src, size_t bytes);
size_t sal_cuda_free_bytes(struct sal_dev *dev);

#ifdef __cplusplus
}

#ifdef __CUDACC__
#define LAUNCH(k, grid, block, bytes, stream, ...) k<<<(grid), (block), (bytes), (stream)>>>(__VA_ARGS__)
#define SHARED(T, name, dims) __shared__ T name dims
#define SHARED_DYN(T, name)                                       \
	extern __shared__ __align__(16) unsigned char sal_dyn_[]; \
	T *name = reinterpret_cast<T *>(sal_dyn_)
#endif

typedef __nv_bfloat16 bf16;

/* What a kernel may find wrong with the numbers it is given; kept on the device until the next wait. */
enum sal_fault { SAL_FAULT_NONE, SAL_FAULT_ID, SAL_FAULT_TARGET };

struct cuda_priv {
	int ordinal;
	cudaStream_t stream;
	cublasHandle_t blas;
	void *blas_room; /* cuBLAS's own workspace: a fixed one makes runs repeat */
	void *block[SAL_SLOT_COUNT];
	size_t size[SAL_SLOT_COUNT];
	int *fault; /* on the device */
	char name[256];
};

/* The device's own; its card becomes the current one of the thread. */
struct cuda_priv *sal_cuda_here(struct sal_dev *dev);
/* NULL, with the device's error set, when there is no more. */
void *sal_cuda_scratch(struct sal_dev *dev, enum sal_slot slot, size_t bytes);
/* After a launch or a call of the runtime: keep what went wrong. */
void sal_cuda_note(struct sal_dev *dev, const char *who, cudaError_t e);

/* C [n, m] = alpha op(A) op(B) + beta C in cuBLAS's letters: column-major, C is m x n. */
struct cuda_gemm {
	bool ta, tb;
	int64_t m, n, k;
	const void *a, *b;
	int64_t lda, ldb, ldc;
	void *c;
	enum sal_dtype dtype, cdtype; /* of a and b; of c */
	float alpha, beta;
};
/* blocks.cu: rows row0 .. row0+n-1 of a matrix in blocks, as [n, in] of its dtype at y. */
void sal_cuda_decode(struct sal_dev *dev, void *y, const struct sal_weight *w, int64_t row0, int64_t n);
void sal_cuda_gemm(struct sal_dev *dev, const char *who, const struct cuda_gemm *g);

static inline int64_t
sal_cuda_elements(struct sal_tensor t)
{
	int64_t n = 1;

	for (int i = 0; i < t.ndim; i++)
		n *= t.dim[i];
	return n;
}

static inline int64_t
sal_cuda_width(enum sal_dtype t)
{
	return t == SAL_BF16 ? 2 : 4;
}

/* Blocks of 256 threads with an element each: fewer, and the kernel strides. */
static inline unsigned
sal_cuda_blocks(int64_t n)
{
	int64_t b = (n + 255) / 256;

	return (unsigned)(b < 1 ? 1 : b < 65536 ? b : 65536);
}

/* The statement with T as the C type of a dtype */
#define BY_TYPE(t, T, ...)                      \
	do {                                    \
		if ((t) == SAL_BF16) {          \
			typedef bf16 T;         \
			__VA_ARGS__;            \
		} else {                        \
			typedef float T;        \
			__VA_ARGS__;            \
		}                               \
	} while (0)

/* Every element i of n, for the threads of a grid of one dimension */
#define EACH(i, n) \
	(int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < (n); i += (int64_t)gridDim.x * blockDim.x)

__device__ static inline float get(const float *p, int64_t i) { return p[i]; }
__device__ static inline float get(const bf16 *p, int64_t i) { return __bfloat162float(p[i]); }
__device__ static inline void put(float *p, int64_t i, float v) { p[i] = v; }
__device__ static inline void put(bf16 *p, int64_t i, float v) { p[i] = __float2bfloat16(v); }

/* Over the 32 lanes of a warp; every lane gets the result. */
template <class T>
__device__ static inline T
warp_sum(T v)
{
	for (int o = 16; o > 0; o >>= 1)
		v += __shfl_xor_sync(0xffffffffu, v, o);
	return v;
}

template <class T>
__device__ static inline T
warp_max(T v)
{
	for (int o = 16; o > 0; o >>= 1) {
		T w = __shfl_xor_sync(0xffffffffu, v, o);
		v = w > v ? w : v;
	}
	return v;
}

/* Over a block of whole warps, at most 32; every thread gets the result. */
template <class T>
__device__ static inline T
block_sum(T v)
{
	SHARED(T, part, [32]);
	int lane = threadIdx.x % 32, warps = blockDim.x / 32;

	v = warp_sum(v);
	if (lane == 0)
		part[threadIdx.x / 32] = v;
	__syncthreads();
	v = warp_sum(lane < warps ? part[lane] : (T)0);
	__syncthreads(); /* the next call writes part again */
	return v;
}

template <class T>
__device__ static inline T
block_max(T v)
{
	SHARED(T, part, [32]);
	int lane = threadIdx.x % 32, warps = blockDim.x / 32;

	v = warp_max(v);
	if (lane == 0)
		part[threadIdx.x / 32] = v;
	__syncthreads();
	v = warp_max(part[lane < warps ? lane : 0]);
	__syncthreads(); /* the next call, if no block_sum() is between, writes part again */
	return v;
}
#endif /* __cplusplus */
#endif
