/* SPDX-License-Identifier: Apache-2.0 */
/*
 * attention.cu - the paged key/value store and causal attention over it.
 *
 *   s_j = scale q.k_j      p_j = exp(s_j - m)      l = sum p_j      y = sum p_j v_j / l
 *   lse = m + log l        delta = y.dy            ds_j = exp(s_j - lse) (dy.v_j - delta) scale
 *   dq = sum_j ds_j k_j    dk_j = sum_i ds_ij q_i  dv_j = sum_i p_ij dy_i
 *
 * A (page, head) block holds rows, [32][D], of keys as of values.
 *
 * Order: a row goes over its pages in order with an online softmax
 * (arXiv:2307.08691), begun anew every SPLIT pages; the parts are joined in
 * order.  In prefill a block has a tile of queries and joins the parts as it
 * goes; where there are too few tiles to fill the card (decoding), a block has
 * one part, and join_kernel() does the same joining: the bits are the same.
 *
 * A block is four warps.  A page stands in shared memory as float, rows apart
 * by LD so that the lanes of a warp, a key each, meet no bank conflict.  Query
 * i of a tile belongs to warp i % 4; for scores a lane has a key, for sums over
 * keys a lane has elements d = lane, lane + 32, ...
 */
#include "cuda.h"

#define PAGE SAL_KV_PAGE
#define SPLIT SAL_CUDA_SPLIT
#define WARPS 4
#define THREADS (WARPS * 32)
#define TILE_DKV 8   /* queries that meet a page at a time in the backward pass */

/* Query j of this warp, of n that it has, at most QW; element e of this lane, where a head has it. */
#define EACH_QUERY(j, n) _Pragma("unroll") for (int j = 0; j < QW; j++) if (j < (n))
#define EACH_ELEMENT(e) for (int e = 0; e < ND; e++) if (lane + e * 32 < a.d)

#define LD_OF(nd) ((nd) * 32 + 4) /* room for a head of nd * 32 elements, in floats */

struct job {
	int n, hq, hk, g, d; /* g: query heads of one key head */
	int batch, most;     /* sequences; pages that a row of the table names */
	int rows, heads;     /* of one tile: rows of a sequence, heads of a group */
	int window;
	float scale;
	int parts; /* 0: a block does all parts of its tile */
};

/* First key that position p sees. */
__device__ static inline int
sees_from(const struct job *a, int p)
{
	return a->window > 0 && p >= a->window ? p - a->window + 1 : 0;
}

/* Tile t of the batch: *b and its first row in the sequence; false past the last one. */
__device__ static inline bool
find_tile(const int *off, int batch, int rows, int t, int *b, int *i0)
{
	for (int s = 0; s < batch; s++) {
		int n = (off[s + 1] - off[s] + rows - 1) / rows;

		if (t < n) {
			*b = s;
			*i0 = t * rows;
			return true;
		}
		t -= n;
	}
	return false;
}

/* A (page, head) block as float [PAGE][LD], zeros past D; all threads. */
template <class T, int ND>
__device__ static inline void
stage_page(float *dst, const T *src, int64_t page, int hk, const struct job *a)
{
	const T *block = src + (page * a->hk + hk) * PAGE * a->d;

	for (int i = threadIdx.x; i < PAGE * ND * 32; i += THREADS) {
		int t = i / (ND * 32), d = i % (ND * 32);

		dst[t * LD_OF(ND) + d] = d < a->d ? get(block, (int64_t)t * a->d + d) : 0.0f;
	}
}

/* Query heads as float [tile][LD], zeros past D and for queries past the last; the offset of query i is at(i). */
template <class T, int ND, class At>
__device__ static inline void
stage_queries(float *dst, const T *src, int tile, int nq, int d, At at)
{
	for (int i = threadIdx.x; i < tile * ND * 32; i += THREADS) {
		int q = i / (ND * 32), c = i % (ND * 32);

		dst[q * LD_OF(ND) + c] = q < nq && c < d ? get(src, at(q) + c) : 0.0f;
	}
}

/* s[j] = row (warp + 4 j) of x times row (lane) of k, j = 0 .. n-1; one chain over d */
template <int QW, int ND>
__device__ static inline void
dots(float *s, const float *x, const float *k, int n, int d)
{
	const float *kt = k + threadIdx.x % 32 * LD_OF(ND), *xw = x + threadIdx.x / 32 * LD_OF(ND);

	for (int j = 0; j < QW; j++)
		s[j] = 0;
	for (int c = 0; c < d; c += 4) {
		float4 b = *(const float4 *)(kt + c);
		EACH_QUERY(j, n) {
			float4 e = *(const float4 *)(xw + j * WARPS * LD_OF(ND) + c);
			s[j] = fmaf(e.w, b.w, fmaf(e.z, b.z, fmaf(e.y, b.y, fmaf(e.x, b.x, s[j]))));
		}
	}
}

/* Join a part (m, l) to what stands before it: the new maximum, and the factors of the two. */
__device__ static inline float
join(float before, float m, float *cb, float *cm)
{
	float top = fmaxf(before, m), ref = top == -INFINITY ? 0.0f : top; /* -inf - -inf is no number */

	*cb = expf(before - ref);
	*cm = expf(m - ref);
	return top;
}

template <class T, int QW, int ND>
static __global__ void __launch_bounds__(THREADS, 2)
forward_kernel(T *y, float *lse, float *part, const T *q, const T *k, const T *v, const int *off, const int *first,
    const int *pages, struct job a)
{
	constexpr int LD = LD_OF(ND);
	SHARED_DYN(float, mem);
	float *qs = mem, *kv = qs + QW * WARPS * LD, *ps = kv + PAGE * LD;
	int lane = threadIdx.x % 32, warp = threadIdx.x / 32, b, i0;
	int chunks = (a.g + a.heads - 1) / a.heads, hk = blockIdx.y / chunks, g0 = blockIdx.y % chunks * a.heads;
	int heads = min(a.heads, a.g - g0);

	if (!find_tile(off, a.batch, a.rows, blockIdx.x, &b, &i0))
		return; /* the whole block */
	int rows = min(a.rows, off[b + 1] - off[b] - i0), nq = rows * heads, nj = (nq - warp + WARPS - 1) / WARPS;
	int p0 = first[b] + i0, row0 = off[b] + i0;
	int page0 = sees_from(&a, p0) / PAGE, page1 = (p0 + rows - 1) / PAGE; /* first and last seen by the tile */
	int part0 = page0 / SPLIT, part1 = page1 / SPLIT;
	if (a.parts) {
		if ((int)blockIdx.z < part0 || (int)blockIdx.z > part1)
			return; /* the whole block */
		part0 = part1 = blockIdx.z;
	}
	auto at = [&](int i) { return ((int64_t)(row0 + i / heads) * a.hq + hk * a.g + g0 + i % heads) * a.d; };
	stage_queries<T, ND>(qs, q, QW * WARPS, nq, a.d, at);

	float top[QW], all[QW], sum[QW][ND]; /* of the parts joined so far: maximum, l, y */
	for (int j = 0; j < QW; j++) {
		top[j] = -INFINITY;
		all[j] = 0;
		for (int i = 0; i < ND; i++)
			sum[j][i] = 0;
	}
	for (int z = part0; z <= part1; z++) {
		float m[QW], l[QW], acc[QW][ND];

		for (int j = 0; j < QW; j++) {
			m[j] = -INFINITY;
			l[j] = 0;
			for (int i = 0; i < ND; i++)
				acc[j][i] = 0;
		}
		for (int page = max(page0, z * SPLIT); page <= min(page1, z * SPLIT + SPLIT - 1); page++) {
			int64_t block = pages[(int64_t)b * a.most + page];
			float s[QW];

			stage_page<T, ND>(kv, k, block, hk, &a);
			__syncthreads();
			dots<QW, ND>(s, qs, kv, nj, a.d);
			EACH_QUERY(j, nj) {
				int i = warp + j * WARPS, p = p0 + i / heads, key = page * PAGE + lane;
				float cb, cm, x = key <= p && key >= sees_from(&a, p) ? s[j] * a.scale : -INFINITY;

				m[j] = join(m[j], warp_max(x), &cb, &cm);
				x = expf(x - (m[j] == -INFINITY ? 0.0f : m[j]));
				l[j] = fmaf(l[j], cb, warp_sum(x));
				for (int e = 0; e < ND; e++)
					acc[j][e] *= cb;
				ps[i * PAGE + lane] = x;
			}
			__syncthreads(); /* keys are done with */
			stage_page<T, ND>(kv, v, block, hk, &a);
			__syncthreads();
			for (int t = 0; t < PAGE; t++) {
				float vt[ND];

				for (int e = 0; e < ND; e++)
					vt[e] = kv[t * LD + lane + e * 32];
				EACH_QUERY(j, nj) {
					float x = ps[(warp + j * WARPS) * PAGE + t];
					for (int e = 0; e < ND; e++)
						acc[j][e] = fmaf(x, vt[e], acc[j][e]);
				}
			}
			__syncthreads(); /* values are done with */
		}
		EACH_QUERY(j, nj) {
			float cb, cm;

			if (a.parts) {
				int i = warp + j * WARPS;
				int64_t head = (int64_t)(row0 + i / heads) * a.hq + hk * a.g + g0 + i % heads;
				float *to = part + (head * a.parts + z) * (a.d + 2);

				if (lane == 0) {
					to[0] = m[j];
					to[1] = l[j];
				}
				EACH_ELEMENT(e)
					to[2 + lane + e * 32] = acc[j][e];
				continue;
			}
			top[j] = join(top[j], m[j], &cb, &cm);
			all[j] = fmaf(l[j], cm, all[j] * cb);
			for (int e = 0; e < ND; e++)
				sum[j][e] = fmaf(acc[j][e], cm, sum[j][e] * cb);
		}
	}
	if (a.parts)
		return; /* all threads */
	EACH_QUERY(j, nj) {
		int i = warp + j * WARPS;

		EACH_ELEMENT(e)
			put(y, at(i) + lane + e * 32, sum[j][e] / all[j]);
		if (lse && lane == 0)
			lse[at(i) / a.d] = top[j] + logf(all[j]);
	}
}

/* The parts of one row and head, by one warp. */
template <class T>
static __global__ void __launch_bounds__(THREADS)
join_kernel(T *y, float *lse, const float *part, const int *off, const int *first, struct job a)
{
	int lane = threadIdx.x % 32;
	int64_t head = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
	int row = (int)(head / a.hq), b = 0;

	if (row >= a.n)
		return; /* no barrier follows */
	while (off[b + 1] <= row)
		b++;
	int p = first[b] + row - off[b], part0 = sees_from(&a, p) / PAGE / SPLIT, part1 = p / PAGE / SPLIT;
	for (int d = lane; d < a.d; d += 32) {
		float top = -INFINITY, all = 0, sum = 0, cb, cm;

		for (int z = part0; z <= part1; z++) {
			const float *from = part + (head * a.parts + z) * (a.d + 2);

			top = join(top, from[0], &cb, &cm);
			all = fmaf(from[1], cm, all * cb);
			sum = fmaf(from[2 + d], cm, sum * cb);
		}
		put(y, head * a.d + d, sum / all);
		if (lse && d == 0)
			lse[head] = top + logf(all);
	}
}

/* delta [N, Hq] = dy.y, a warp each */
template <class T>
static __global__ void __launch_bounds__(THREADS)
delta_kernel(float *delta, const T *dy, const T *y, int64_t n, int d)
{
	int64_t head = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
	float s = 0;

	if (head >= n)
		return; /* a whole warp; no barrier follows */
	for (int i = threadIdx.x % 32; i < d; i += 32)
		s = fmaf(get(dy, head * d + i), get(y, head * d + i), s);
	s = warp_sum(s);
	if (threadIdx.x % 32 == 0)
		delta[head] = s;
}

/* p and ds of one query and key, 0 where it is not seen */
__device__ static inline void
soften(float *p, float *ds, float s, float dp, float lse, float delta, int key, int pos, const struct job *a)
{
	float e = key <= pos && key >= sees_from(a, pos) ? expf(s * a->scale - lse) : 0.0f;

	*p = e;
	*ds = e * (dp - delta) * a->scale;
}

/* A tile of queries against every page that any of them sees. */
template <class T, int QW, int ND>
static __global__ void __launch_bounds__(THREADS, 2)
dq_kernel(T *dq, const T *dy, const T *q, const float *lse, const float *delta, const T *k, const T *v, const int *off,
    const int *first, const int *pages, struct job a)
{
	constexpr int LD = LD_OF(ND);
	SHARED_DYN(float, mem);
	float *qs = mem, *gs = qs + QW * WARPS * LD, *ks = gs + QW * WARPS * LD, *vs = ks + PAGE * LD, *dss = vs + PAGE * LD;
	int lane = threadIdx.x % 32, warp = threadIdx.x / 32, b, i0;
	int chunks = (a.g + a.heads - 1) / a.heads, hk = blockIdx.y / chunks, g0 = blockIdx.y % chunks * a.heads;
	int heads = min(a.heads, a.g - g0);

	if (!find_tile(off, a.batch, a.rows, blockIdx.x, &b, &i0))
		return; /* the whole block */
	int rows = min(a.rows, off[b + 1] - off[b] - i0), nq = rows * heads, nj = (nq - warp + WARPS - 1) / WARPS;
	int row0 = off[b] + i0, p0 = first[b] + i0;
	auto at = [&](int i) { return ((int64_t)(row0 + i / heads) * a.hq + hk * a.g + g0 + i % heads) * a.d; };
	stage_queries<T, ND>(qs, q, QW * WARPS, nq, a.d, at);
	stage_queries<T, ND>(gs, dy, QW * WARPS, nq, a.d, at);

	float acc[QW][ND], z[QW], dl[QW];
	EACH_QUERY(j, nj) {
		int64_t head = at(warp + j * WARPS) / a.d;

		z[j] = lse[head];
		dl[j] = delta[head];
		for (int e = 0; e < ND; e++)
			acc[j][e] = 0;
	}
	for (int page = sees_from(&a, p0) / PAGE; page <= (p0 + rows - 1) / PAGE; page++) {
		int64_t block = pages[(int64_t)b * a.most + page];
		float s[QW], dp[QW];

		stage_page<T, ND>(ks, k, block, hk, &a);
		stage_page<T, ND>(vs, v, block, hk, &a);
		__syncthreads();
		dots<QW, ND>(s, qs, ks, nj, a.d);
		dots<QW, ND>(dp, gs, vs, nj, a.d);
		EACH_QUERY(j, nj) {
			float p, ds;
			int i = warp + j * WARPS;

			soften(&p, &ds, s[j], dp[j], z[j], dl[j], page * PAGE + lane, p0 + i / heads, &a);
			dss[i * PAGE + lane] = ds;
		}
		__syncwarp(); /* a warp reads only what it wrote */
		for (int t = 0; t < PAGE; t++)
			EACH_QUERY(j, nj) {
				float ds = dss[(warp + j * WARPS) * PAGE + t];
				for (int e = 0; e < ND; e++)
					acc[j][e] = fmaf(ds, ks[t * LD + lane + e * 32], acc[j][e]);
			}
		__syncthreads(); /* the page is done with */
	}
	EACH_QUERY(j, nj)
		EACH_ELEMENT(e)
			put(dq, at(warp + j * WARPS) + lane + e * 32, acc[j][e]);
}

/*
 * A page of keys against every query that sees any of them, rows in order and in each its heads; after those of its own sequence,
 * those of the sequences that go on from it behind the page.
 */
template <class T, int ND>
static __global__ void __launch_bounds__(THREADS, 2)
dkv_kernel(T *dk, T *dv, const T *dy, const T *q, const float *lse, const float *delta, const T *k, const T *v,
    const int *off, const int *first, const int *pages, struct job a)
{
	constexpr int LD = LD_OF(ND), QW = TILE_DKV / WARPS, KW = PAGE / WARPS;
	SHARED_DYN(float, mem);
	float *ks = mem, *vs = ks + PAGE * LD, *qs = vs + PAGE * LD, *gs = qs + TILE_DKV * LD, *ps = gs + TILE_DKV * LD;
	float *dss = ps + TILE_DKV * PAGE;
	int lane = threadIdx.x % 32, warp = threadIdx.x / 32, hk = blockIdx.y, b, k0;

	if (!find_tile(off, a.batch, PAGE, blockIdx.x, &b, &k0))
		return; /* the whole block */
	int rest = off[b + 1] - off[b] - k0, key0 = first[b] + k0; /* rows from the page on; position of its first key */
	int64_t block = pages[(int64_t)b * a.most + key0 / PAGE];
	stage_page<T, ND>(ks, k, block, hk, &a);
	stage_page<T, ND>(vs, v, block, hk, &a);

	float ak[KW][ND], av[KW][ND];
	for (int t = 0; t < KW; t++)
		for (int e = 0; e < ND; e++)
			ak[t][e] = av[t][e] = 0;
	for (int c = b; c == b || (c < a.batch && first[b] == 0 && first[c] > 0); c++) {
		int row0 = off[c], end = off[c + 1] - row0, i0 = max(key0 - first[c], 0);

		if (c != b && key0 >= first[c])
			continue; /* the whole block: this one has keys of its own there */
		if (a.window > 0)
			end = min(end, key0 + PAGE - 1 + a.window - first[c]);
		for (int64_t f = (int64_t)i0 * a.g; f < (int64_t)end * a.g; f += TILE_DKV) {
			int nq = (int)min((int64_t)TILE_DKV, (int64_t)end * a.g - f), nj = (nq - warp + WARPS - 1) / WARPS;
			float s[QW], dp[QW];
			auto at = [&](int i) { return (row0 + (f + i) / a.g) * a.hq * a.d + (hk * a.g + (f + i) % a.g) * a.d; };

			stage_queries<T, ND>(qs, q, TILE_DKV, nq, a.d, at);
			stage_queries<T, ND>(gs, dy, TILE_DKV, nq, a.d, at);
			__syncthreads();
			dots<QW, ND>(s, qs, ks, nj, a.d);
			dots<QW, ND>(dp, gs, vs, nj, a.d);
			EACH_QUERY(j, nj) {
				int i = warp + j * WARPS;
				int64_t head = at(i) / a.d;
				soften(&ps[i * PAGE + lane], &dss[i * PAGE + lane], s[j], dp[j], lse[head], delta[head], key0 + lane,
				    first[c] + (int)((f + i) / a.g), &a);
			}
			__syncthreads();
			for (int i = 0; i < nq; i++) {
				float qd[ND], gd[ND];

				for (int e = 0; e < ND; e++) {
					qd[e] = qs[i * LD + lane + e * 32];
					gd[e] = gs[i * LD + lane + e * 32];
				}
#pragma unroll
				for (int t = 0; t < KW; t++) {
					float p = ps[i * PAGE + warp * KW + t], ds = dss[i * PAGE + warp * KW + t];
					for (int e = 0; e < ND; e++) {
						ak[t][e] = fmaf(ds, qd[e], ak[t][e]);
						av[t][e] = fmaf(p, gd[e], av[t][e]);
					}
				}
			}
			__syncthreads(); /* the queries are done with */
		}
	}
#pragma unroll
	for (int t = 0; t < KW; t++) {
		int i = warp * KW + t;

		EACH_ELEMENT(e)
			if (i < rest) {
				int64_t o = ((int64_t)(off[b] + k0 + i) * a.hk + hk) * a.d + lane + e * 32;
				put(dk, o, ak[t][e]);
				put(dv, o, av[t][e]);
			}
	}
}

/* ---- operations ------------------------------------------------------------ */

/* k, v [N, Hk*D] into pages; a thread has an element of both */
template <class T>
static __global__ void
store_kernel(T *kp, T *vp, const T *k, const T *v, const int *slot, int64_t n, int heads, int d)
{
	for EACH(i, n) {
		int64_t h = i / d % heads, row = i / d / heads, page = slot[row] / PAGE, place = slot[row] % PAGE;
		int64_t o = ((page * heads + h) * PAGE + place) * d + i % d;

		kp[o] = k[i];
		vp[o] = v[i];
	}
}

extern "C" void
sal_cuda_kv_store(struct sal_dev *dev, struct sal_kv kv, struct sal_tensor k, struct sal_tensor v, struct sal_tensor slot)
{
	struct cuda_priv *p = sal_cuda_here(dev);
	int64_t n = sal_cuda_elements(k);

	BY_TYPE(k.dtype, T, LAUNCH(store_kernel<T>, sal_cuda_blocks(n), 256, 0, p->stream, (T *)kv.k.data, (T *)kv.v.data,
	    (const T *)k.data, (const T *)v.data, (const int *)slot.data, n, (int)kv.k.dim[1], (int)kv.k.dim[3]));
	sal_cuda_note(dev, "kv_store", cudaGetLastError());
}

extern "C" void
sal_cuda_kv_copy(struct sal_dev *dev, struct sal_kv kv, int32_t dst, int32_t src)
{
	struct cuda_priv *p = sal_cuda_here(dev);
	size_t bytes = (size_t)(kv.k.dim[1] * PAGE * kv.k.dim[3] * sal_cuda_width(kv.k.dtype));
	char *k = (char *)kv.k.data, *v = (char *)kv.v.data;

	sal_cuda_note(dev, "kv_copy", cudaMemcpyAsync(k + (size_t)dst * bytes, k + (size_t)src * bytes, bytes, cudaMemcpyDeviceToDevice, p->stream));
	sal_cuda_note(dev, "kv_copy", cudaMemcpyAsync(v + (size_t)dst * bytes, v + (size_t)src * bytes, bytes, cudaMemcpyDeviceToDevice, p->stream));
}

/* tile: queries of one block */
static struct job
job_of(struct sal_tensor q, struct sal_kv kv, struct sal_seqs seqs, int window, int tile)
{
	struct job a = {};

	a.n = (int)q.dim[0];
	a.hk = (int)kv.k.dim[1];
	a.d = (int)kv.k.dim[3];
	a.hq = (int)q.dim[1] / a.d;
	a.g = a.hq / a.hk;
	a.batch = (int)seqs.first.dim[0];
	a.most = (int)seqs.pages.dim[1];
	a.heads = a.g < tile ? a.g : tile;
	a.rows = tile / a.heads;
	if (a.n == a.batch) /* as a rule one row each: decoding */
		a.rows = 1;
	a.window = window;
	a.scale = 1.0f / sqrtf((float)a.d);
	return a;
}

/* Blocks enough for the tiles of any cut of n rows into sequences, and for key heads and groups of heads */
static dim3
grid_of(const struct job *a)
{
	return dim3((unsigned)((a->n + (int64_t)a->batch * (a->rows - 1)) / a->rows),
	    (unsigned)(a->hk * ((a->g + a->heads - 1) / a->heads)), a->parts ? (unsigned)a->parts : 1);
}

/* The head sizes that the kernels are made for; a smaller head is padded with zeros. */
#define BY_HEAD(d, ND, ...)                    \
	do {                                   \
		if ((d) <= 32) {               \
			constexpr int ND = 1;  \
			__VA_ARGS__;           \
		} else if ((d) <= 64) {        \
			constexpr int ND = 2;  \
			__VA_ARGS__;           \
		} else if ((d) <= 128) {       \
			constexpr int ND = 4;  \
			__VA_ARGS__;           \
		} else {                       \
			constexpr int ND = 8;  \
			__VA_ARGS__;           \
		}                              \
	} while (0)

static bool
head_fits(struct sal_dev *dev, const char *who, int64_t d)
{
	if (d > 256)
		sal_dev_fail(dev, "%s on cuda: heads of %lld elements, more than 256", who, (long long)d);
	return d <= 256;
}

/* More than 48 KiB of shared memory must be asked for. */
template <class K>
static void
ask(struct sal_dev *dev, const char *who, K *kernel, size_t bytes)
{
	if (bytes > 48 << 10)
		sal_cuda_note(dev, who, cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
}

template <class T, int ND>
static void
forward(struct sal_dev *dev, struct sal_tensor y, struct sal_tensor lse, struct sal_tensor q, struct sal_kv kv,
    struct sal_seqs seqs, int window)
{
	constexpr int QW = ND > 4 ? 4 : 8, TILE = QW * WARPS;
	constexpr size_t bytes = ((TILE + PAGE) * LD_OF(ND) + TILE * PAGE) * sizeof(float);
	struct cuda_priv *p = sal_cuda_here(dev);
	struct job a = job_of(q, kv, seqs, window, TILE);
	dim3 grid = grid_of(&a);
	int64_t parts = (a.most + SPLIT - 1) / SPLIT;
	float *part = NULL, *ls = lse.ndim ? (float *)lse.data : NULL;

	if (parts > 1 && (int64_t)grid.x * grid.y < SAL_CUDA_FILL) {
		part = (float *)sal_cuda_scratch(dev, SAL_SLOT_A, sal_cuda_parts_bytes((int64_t)a.n * a.hq, a.most, a.d));
		if (!part)
			return;
		a.parts = (int)parts;
		grid = grid_of(&a);
	}
	ask(dev, "attention_forward", forward_kernel<T, QW, ND>, bytes);
	LAUNCH((forward_kernel<T, QW, ND>), grid, THREADS, bytes, p->stream, (T *)y.data, ls, part, (const T *)q.data,
	    (const T *)kv.k.data, (const T *)kv.v.data, (const int *)seqs.off.data, (const int *)seqs.first.data,
	    (const int *)seqs.pages.data, a);
	sal_cuda_note(dev, "attention_forward", cudaGetLastError());
	if (!part)
		return;
	LAUNCH(join_kernel<T>, (unsigned)(((int64_t)a.n * a.hq + WARPS - 1) / WARPS), THREADS, 0, p->stream, (T *)y.data, ls,
	    (const float *)part, (const int *)seqs.off.data, (const int *)seqs.first.data, a);
	sal_cuda_note(dev, "attention_forward", cudaGetLastError());
}

extern "C" void
sal_cuda_attention_forward(struct sal_dev *dev, struct sal_tensor y, struct sal_tensor lse, struct sal_tensor q,
    struct sal_kv kv, struct sal_seqs seqs, int window)
{
	if (head_fits(dev, "attention_forward", kv.k.dim[3]))
		BY_TYPE(q.dtype, T, BY_HEAD(kv.k.dim[3], ND, forward<T, ND>(dev, y, lse, q, kv, seqs, window)));
}

template <class T, int ND>
static void
backward(struct sal_dev *dev, struct sal_tensor dq, struct sal_tensor dk, struct sal_tensor dv, struct sal_tensor dy,
    struct sal_tensor y, struct sal_tensor q, struct sal_tensor lse, struct sal_kv kv, struct sal_seqs seqs, int window)
{
	constexpr int QW = ND > 4 ? 2 : 4, TILE = QW * WARPS;
	constexpr size_t dq_bytes = (2 * (TILE + PAGE) * LD_OF(ND) + TILE * PAGE) * sizeof(float);
	constexpr size_t dkv_bytes = (2 * (TILE_DKV + PAGE) * LD_OF(ND) + 2 * TILE_DKV * PAGE) * sizeof(float);
	struct cuda_priv *p = sal_cuda_here(dev);
	struct job a = job_of(q, kv, seqs, window, TILE), keys = a;
	int64_t heads = (int64_t)a.n * a.hq;
	float *delta = (float *)sal_cuda_scratch(dev, SAL_SLOT_A, (size_t)heads * sizeof *delta);
	const int *off = (const int *)seqs.off.data, *first = (const int *)seqs.first.data, *pages = (const int *)seqs.pages.data;
	const float *ls = (const float *)lse.data;

	if (!delta)
		return;
	keys.rows = PAGE;
	keys.heads = a.g;
	LAUNCH(delta_kernel<T>, (unsigned)((heads + WARPS - 1) / WARPS), THREADS, 0, p->stream, delta, (const T *)dy.data,
	    (const T *)y.data, heads, a.d);
	sal_cuda_note(dev, "attention_backward", cudaGetLastError());
	ask(dev, "attention_backward", dq_kernel<T, QW, ND>, dq_bytes);
	LAUNCH((dq_kernel<T, QW, ND>), grid_of(&a), THREADS, dq_bytes, p->stream, (T *)dq.data, (const T *)dy.data,
	    (const T *)q.data, ls, (const float *)delta, (const T *)kv.k.data, (const T *)kv.v.data, off, first, pages, a);
	sal_cuda_note(dev, "attention_backward", cudaGetLastError());
	ask(dev, "attention_backward", dkv_kernel<T, ND>, dkv_bytes);
	LAUNCH((dkv_kernel<T, ND>), grid_of(&keys), THREADS, dkv_bytes, p->stream, (T *)dk.data, (T *)dv.data,
	    (const T *)dy.data, (const T *)q.data, ls, (const float *)delta, (const T *)kv.k.data, (const T *)kv.v.data, off,
	    first, pages, a);
	sal_cuda_note(dev, "attention_backward", cudaGetLastError());
}

extern "C" void
sal_cuda_attention_backward(struct sal_dev *dev, struct sal_tensor dq, struct sal_tensor dk, struct sal_tensor dv,
    struct sal_tensor dy, struct sal_tensor y, struct sal_tensor q, struct sal_tensor lse, struct sal_kv kv,
    struct sal_seqs seqs, int window)
{
	if (head_fits(dev, "attention_backward", kv.k.dim[3]))
		BY_TYPE(q.dtype, T,
		    BY_HEAD(kv.k.dim[3], ND, backward<T, ND>(dev, dq, dk, dv, dy, y, q, lse, kv, seqs, window)));
}
