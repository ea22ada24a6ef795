/* SPDX-License-Identifier: Apache-2.0 */
/*
 * logprob.cu - softmax over the vocabulary: log-probabilities, their gradient, sampling.
 *
 * Logits are made for ROWS rows by SLICE columns at a time; a softmax goes over
 * them by chunks of SAL_VOCAB_CHUNK, from 0.  Sampling reads whole rows through the same lse_update().
 *
 * A draw works on weights exp(z - max) in fixed point, so that sums over the
 * vocabulary are exact in any order and integer atomics may make them.
 */
#include "cuda.h"

#define ROWS SAL_CUDA_ROWS
#define SLICE SAL_CUDA_SLICE
#define THREADS 256
#define WARPS (THREADS / 32)

typedef unsigned long long u64;

/* A softmax under way: maximum, sum of exp(z - max), sum of exp(z - max) * (z - max). */
struct lse {
	float max, sum, zsum;
};

/* Take in a chunk of n logits, z times scale; every thread of the block holds the same s. */
__device__ static inline void
lse_chunk(struct lse *s, const float *z, int n, float scale)
{
	float top = -1e30f, sum = 0, zsum = 0;

	for (int j = threadIdx.x; j < n; j += THREADS)
		top = fmaxf(top, z[j] * scale);
	top = block_max(top);
	if (s->sum > 0 && s->max > top)
		top = s->max;
	for (int j = threadIdx.x; j < n; j += THREADS) {
		/* e^-1000 is 0; the limit keeps 0 * z from being 0 * infinity */
		float d = fmaxf(-1000.0f, z[j] * scale - top), e = expf(d);

		sum += e;
		zsum = fmaf(e, d, zsum);
	}
	sum = block_sum(sum);
	zsum = block_sum(zsum);
	if (s->sum > 0) {
		float shift = s->max - top, c = expf(shift);

		zsum = fmaf(c, fmaf(s->sum, shift, s->zsum), zsum);
		sum = fmaf(c, s->sum, sum);
	}
	s->max = top;
	s->sum = sum;
	s->zsum = zsum;
}

/* Take in the next n logits, a multiple of SAL_VOCAB_CHUNK or the last. */
__device__ static inline void
lse_update(struct lse *s, const float *z, int n, float scale)
{
	for (int c = 0; c < n; c += SAL_VOCAB_CHUNK)
		lse_chunk(s, z + c, min(n - c, SAL_VOCAB_CHUNK), scale);
}

__device__ static inline float
lse_value(const struct lse *s)
{
	return s->max + logf(s->sum);
}

/* A target outside the vocabulary is a fault, and 0. */
__device__ static inline int
target_of(int t, int vocab)
{
	return (unsigned)t < (unsigned)vocab ? t : 0;
}

/*
 * One block a row: the slice of logits from column v0 into state [n, 4], a struct lse
 * and the maximum before the slice; after the last one the results.
 */
static __global__ void __launch_bounds__(THREADS)
lse_kernel(float *logprob, float *entropy, float *state, const float *z, const int *target, int v0, int cn, int vocab,
    float scale, int *fault)
{
	int64_t i = blockIdx.x;
	int t = target_of(target[i], vocab);
	struct lse s = { 0, 0, 0 };

	if (v0 > 0) {
		s.max = state[i * 4];
		s.sum = state[i * 4 + 1];
		s.zsum = state[i * 4 + 2];
	}
	float before = s.max;
	lse_update(&s, z + i * cn, cn, scale);
	if (threadIdx.x != 0) /* no barrier follows */
		return;
	if (t != target[i])
		atomicCAS(fault, SAL_FAULT_NONE, SAL_FAULT_TARGET);
	if (t >= v0 && t < v0 + cn)
		logprob[i] = z[i * cn + t - v0] * scale;
	state[i * 4] = s.max;
	state[i * 4 + 1] = s.sum;
	state[i * 4 + 2] = s.zsum;
	state[i * 4 + 3] = before;
	if (v0 + cn < vocab)
		return;
	logprob[i] -= lse_value(&s);
	if (entropy)
		entropy[i] = logf(s.sum) - s.zsum / s.sum;
}

/*
 * The gradient, as cpu/logprob.c has it.  One block a row: exp(z - max) of a slice, 0 for the token itself, and the sum of
 * those before, dh [n, c] (NULL: none), brought to the largest max so far.
 */
template <class T>
static __global__ void __launch_bounds__(THREADS)
weights_kernel(T *e, float *dh, const float *state, const float *z, const int *target, int v0, int cn, int64_t c, float scale)
{
	int64_t i = blockIdx.x;
	float max = state[i * 4], shrink = dh ? expf(state[i * 4 + 3] - max) : 1;

	for (int j = threadIdx.x; j < cn; j += THREADS)
		put(e, i * cn + j, target[i] == v0 + j ? 0 : expf(z[i * cn + j] * scale - max));
	for (int64_t j = threadIdx.x; shrink != 1 && j < c; j += THREADS)
		dh[i * c + j] *= shrink;
}

/* dh = scale ((1 - p) w_y - dh / sum) */
template <class T>
static __global__ void __launch_bounds__(THREADS)
unit_kernel(float *dh, const float *logprob, const float *state, const T *w, const int *target, int vocab, int64_t c, float scale)
{
	int64_t i = blockIdx.x, t = target_of(target[i], vocab);
	float a = -scale / state[i * 4 + 1], b = -scale * expm1f(logprob[i]);

	for (int64_t j = threadIdx.x; j < c; j += THREADS)
		dh[i * c + j] = fmaf(b, get(w, t * c + j), a * dh[i * c + j]);
}

static char *
at(void *p, enum sal_dtype t, int64_t i)
{
	return (char *)p + i * sal_cuda_width(t);
}

/* z [n, cn] = rows i0 .. of h times columns v0 .. of W^T */
static void
slice_logits(struct sal_dev *dev, float *z, struct sal_tensor h, struct sal_weight w, int64_t i0, int64_t n, int64_t v0,
    int64_t cn)
{
	struct cuda_gemm g = {};

	g.ta = true;
	g.m = cn;
	g.n = n;
	g.k = w.in;
	g.a = at(w.fwd, w.dtype, v0 * w.in);
	g.lda = w.in;
	g.b = at(h.data, w.dtype, i0 * w.in);
	g.ldb = w.in;
	g.c = z;
	g.ldc = cn;
	g.dtype = w.dtype;
	g.cdtype = SAL_F32;
	g.alpha = 1;
	sal_cuda_gemm(dev, "logprob", &g);
}

extern "C" void
sal_cuda_logprob(struct sal_dev *dev, struct sal_tensor logprob, struct sal_tensor entropy, struct sal_tensor dh,
    struct sal_tensor h, struct sal_weight w, struct sal_tensor target, float inv_temperature)
{
	struct cuda_priv *p = sal_cuda_here(dev);
	int64_t rows = h.dim[0], most = sal_cuda_least(rows, ROWS);
	bool back = dh.ndim != 0;
	float *z = (float *)sal_cuda_scratch(dev, SAL_SLOT_A, sal_cuda_logits_bytes(rows, w.out));
	void *e = back ? sal_cuda_scratch(dev, SAL_SLOT_B, sal_cuda_dlogits_bytes(w.dtype, rows, w.out)) : NULL;

	for (int64_t i0 = 0; z && (e || !back) && i0 < rows; i0 += ROWS) {
		float *state = z + most * sal_cuda_least(SLICE, w.out);
		int64_t n = sal_cuda_least(ROWS, rows - i0);
		float *lp = (float *)logprob.data + i0, *grad = back ? (float *)dh.data + i0 * w.in : NULL;
		const int *want = (const int *)target.data + i0;

		for (int64_t v0 = 0; v0 < w.out; v0 += SLICE) {
			int64_t cn = sal_cuda_least(SLICE, w.out - v0);
			struct cuda_gemm q = {};

			slice_logits(dev, z, h, w, i0, n, v0, cn);
			LAUNCH(lse_kernel, (unsigned)n, THREADS, 0, p->stream, lp, entropy.ndim ? (float *)entropy.data + i0 : (float *)NULL,
			    state, z, want, (int)v0, (int)cn, (int)w.out, inv_temperature, p->fault);
			sal_cuda_note(dev, "logprob", cudaGetLastError());
			if (!back)
				continue;
			BY_TYPE(w.dtype, T, LAUNCH(weights_kernel<T>, (unsigned)n, THREADS, 0, p->stream, (T *)e, v0 ? grad : NULL, state, z,
			    want, (int)v0, (int)cn, w.in, inv_temperature));
			sal_cuda_note(dev, "logprob", cudaGetLastError());
			q.m = w.in;
			q.n = n;
			q.k = cn;
			q.a = at(w.fwd, w.dtype, v0 * w.in);
			q.lda = w.in;
			q.b = e;
			q.ldb = cn;
			q.c = grad;
			q.ldc = w.in;
			q.dtype = w.dtype;
			q.cdtype = SAL_F32;
			q.alpha = 1;
			q.beta = v0 > 0;
			sal_cuda_gemm(dev, "logprob", &q);
		}
		if (!back)
			continue;
		BY_TYPE(w.dtype, T, LAUNCH(unit_kernel<T>, (unsigned)n, THREADS, 0, p->stream, grad, lp, state, (const T *)w.fwd, want,
		    (int)w.out, w.in, inv_temperature));
		sal_cuda_note(dev, "logprob", cudaGetLastError());
	}
}

/* ---- sampling ------------------------------------------------------------ */

/* Orders as the float does; of equals the lower id is the larger key. */
__device__ static inline u64
key_of(float z, int id)
{
	unsigned u = __float_as_uint(z + 0.0f); /* -0 equals 0 */

	u = u >> 31 ? ~u : u | 0x80000000u;
	return (u64)u << 32 | (unsigned)~id;
}

/* What a draw knows of its row. */
struct row {
	const float *z;
	int vocab;
	float scale, max;
	u64 floor;   /* keys below are cut off */
	float least; /* so are probabilities below, relative to the largest */
};

/* exp(z - max), at most 1, in units of 2^-40; 0 for what is cut off */
__device__ static inline u64
mass(const struct row *r, int j)
{
	float e = expf(r->z[j] * r->scale - r->max);

	if (!(e >= r->least) || key_of(r->z[j], j) < r->floor)
		return 0;
	return (u64)(e * 1099511627776.0f);
}

/*
 * The key T of the row, not below floor, at which the sum of weights of the keys
 * from the largest down to T first reaches want; weights are masses, or 1.
 * Digit by digit, from a histogram of the keys that share the digits found.
 */
__device__ static u64
cut(const struct row *r, bool by_mass, double want)
{
	SHARED(u64, hist, [256]);
	SHARED(int, count, [256]);
	SHARED(u64, found, [2]);
	SHARED(int, left, [1]);
	u64 prefix = 0, above = 0;

	for (int shift = 56; shift >= 0; shift -= 8) {
		for (int b = threadIdx.x; b < 256; b += THREADS) {
			hist[b] = 0;
			count[b] = 0;
		}
		__syncthreads();
		for (int j = threadIdx.x; j < r->vocab; j += THREADS) {
			u64 k = key_of(r->z[j], j);

			if (k < r->floor || (shift < 56 && k >> (shift + 8) != prefix))
				continue;
			atomicAdd(&hist[k >> shift & 255], by_mass ? mass(r, j) : 1ull);
			atomicAdd(&count[k >> shift & 255], 1);
		}
		__syncthreads();
		if (threadIdx.x == 0) {
			int b = 255;

			/* all together reach want, so that b stays in */
			for (; !(count[b] && (double)(above + hist[b]) >= want); b--)
				above += hist[b];
			found[0] = prefix << 8 | (u64)b;
			found[1] = above;
			left[0] = count[b];
		}
		__syncthreads();
		prefix = found[0];
		above = found[1];
		if (left[0] == 1) /* found and left are written again behind two barriers */
			return max(prefix << shift, r->floor);
	}
	return prefix;
}

/* The first id, in order, at which the sum of masses passes u times the whole. */
__device__ static int
draw(const struct row *r, float u)
{
	SHARED(u64, sums, [WARPS]);
	SHARED(int, id, [1]);
	int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
	int part = (r->vocab + THREADS - 1) / THREADS * 32, begin = warp * part, end = min(r->vocab, begin + part);
	u64 mine = 0, whole = 0, before = 0;

	for (int j = begin + lane; j < end; j += 32)
		mine += mass(r, j);
	mine = warp_sum(mine);
	if (lane == 0)
		sums[warp] = mine;
	if (threadIdx.x == 0)
		id[0] = 0;
	__syncthreads();
	for (int i = 0; i < WARPS; i++) {
		before += i < warp ? sums[i] : 0;
		whole += sums[i];
	}
	double stop = (double)u * (double)whole;
	/* one warp alone holds the place; its lanes stay together */
	bool here = (double)before <= stop && (double)(before + mine) > stop;
	for (int j = begin; here; j += 32) { /* sums are exact: end is not reached */
		u64 m = j + lane < end ? mass(r, j + lane) : 0, sum = m;

		for (int o = 1; o < 32; o <<= 1) {
			u64 x = __shfl_up_sync(0xffffffffu, sum, o);
			sum += lane >= o ? x : 0;
		}
		unsigned passed = __ballot_sync(0xffffffffu, (double)(before + sum) > stop);
		if (passed) {
			if (lane == 0)
				id[0] = j + __ffs((int)passed) - 1;
			break;
		}
		before += __shfl_sync(0xffffffffu, sum, 31);
	}
	__syncthreads();
	return id[0];
}

/* One block a row */
static __global__ void __launch_bounds__(THREADS)
sample_kernel(int *token, float *logprob, const float *logits, const float *u, int vocab, float scale, bool greedy,
    int top_k, float top_p, float min_p)
{
	int64_t i = blockIdx.x;
	const float *z = logits + i * vocab;
	struct lse s = { 0, 0, 0 };
	int id;

	lse_update(&s, z, vocab, scale);
	if (greedy) {
		u64 best = 0;

		for (int j = threadIdx.x; j < vocab; j += THREADS)
			best = max(best, key_of(z[j], j));
		id = (int)~(unsigned)block_max(best);
	} else {
		struct row r = { z, vocab, scale, s.max, 0, 0 };

		for (int by_mass = top_k == 0; by_mass < (top_p < 1 ? 2 : 1); by_mass++) {
			u64 whole = 0;

			for (int j = threadIdx.x; by_mass && j < vocab; j += THREADS)
				whole += mass(&r, j);
			whole = block_sum(whole);
			r.floor = cut(&r, by_mass, by_mass ? (double)top_p * (double)whole : (double)top_k);
		}
		r.least = min_p; /* the largest is exp(0) = 1 */
		id = draw(&r, u[i]);
	}
	if (threadIdx.x == 0) {
		token[i] = id;
		logprob[i] = z[id] * scale - lse_value(&s);
	}
}

extern "C" void
sal_cuda_sample(struct sal_dev *dev, struct sal_tensor token, struct sal_tensor logprob, struct sal_tensor logits,
    struct sal_tensor u, float temperature, int top_k, float top_p, float min_p)
{
	struct cuda_priv *p = sal_cuda_here(dev);

	LAUNCH(sample_kernel, (unsigned)logits.dim[0], THREADS, 0, p->stream, (int *)token.data, (float *)logprob.data,
	    (const float *)logits.data, (const float *)u.data, (int)logits.dim[1], temperature == 0 ? 1.0f : 1.0f / temperature,
	    temperature == 0, top_k < logits.dim[1] ? top_k : 0, top_p, min_p);
	sal_cuda_note(dev, "sample", cudaGetLastError());
}
