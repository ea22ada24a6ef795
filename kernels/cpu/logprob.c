/* SPDX-License-Identifier: Apache-2.0 */
/*
 * logprob.c - softmax over the vocabulary: log-probabilities, their gradient, sampling.
 *
 * Logits are made for ROWS rows by one chunk of SAL_VOCAB_CHUNK columns at a time; their exponentials take their place
 * for the gradient.  sal_sample() reads whole rows of logits, through the same lse_update() over the same chunks, so that
 * the two agree bit for bit.
 */
#include <omp.h>
#include <stdlib.h>

#include "cpu.h"

#define ROWS 256
#define CHUNK SAL_VOCAB_CHUNK

/* A softmax under way: maximum, sum of exp(z - max), sum of exp(z - max) * (z - max). */
struct lse {
	float max, sum, zsum;
};

/* l of VL values of z, scaled; the lanes after them far below any other, but finite */
static inline vf
scaled(const float *z, int l, float scale)
{
	float t[VL];

	if (l == VL)
		return vf_mul(vf_load(z), vf_set1(scale));
	for (int i = 0; i < VL; i++)
		t[i] = i < l ? z[i] * scale : -1e30f;
	return vf_load(t);
}

/*
 * Take in the next n <= CHUNK logits, z times scale.  What exp(z - max) of earlier ones is to be multiplied with now is
 * returned; of these it goes to p, where given: BF16 where half; p may be z.
 */
static float
lse_update(struct lse *s, const float *z, int n, float scale, void *p, bool half)
{
	vf top = vf_set1(-1e30f), sum = vf_set1(0), zsum = vf_set1(0), low = vf_set1(-1000.0f);
	float c = 0;

	for (int j = 0; j < n; j += VL)
		top = vf_max(top, scaled(z + j, n - j < VL ? n - j : VL, scale));
	float max = vf_hmax(top);
	if (s->sum > 0 && s->max > max)
		max = s->max;
	for (int j = 0; j < n; j += VL) {
		/* e^-1000 is 0; the limit keeps 0 * z from being 0 * infinity */
		vf d = vf_max(low, vf_sub(scaled(z + j, n - j < VL ? n - j : VL, scale), vf_set1(max)));
		vf e = vf_exp(d);
		sum = vf_add(sum, e);
		zsum = vf_fma(e, d, zsum);
		if (p)
			vf_store_any(p, half, j, e, vf_lanes(n - j));
	}
	if (s->sum > 0) {
		float shift = s->max - max;
		c = expf(shift);
		s->zsum = c * (s->zsum + s->sum * shift) + vf_sum(zsum);
		s->sum = c * s->sum + vf_sum(sum);
	} else {
		s->zsum = vf_sum(zsum);
		s->sum = vf_sum(sum);
	}
	s->max = max;
	return c;
}

/* y = a y + b x */
static void
scale_row(float *y, int64_t n, float a, float b, const float *x)
{
	for (int64_t j = 0; j < n; j += VL) {
		int l = vf_lanes(n - j);
		vf s = vf_mul(vf_set1(a), vf_load_any(y, false, j, l));
		vf_store_any(y, false, j, x ? vf_fma(vf_set1(b), vf_load_any(x, false, j, l), s) : s, l);
	}
}

static float
lse_value(const struct lse *s)
{
	return s->max + logf(s->sum);
}

static int64_t
min64(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

static int64_t
esize(enum sal_dtype dtype)
{
	return dtype == SAL_BF16 ? 2 : 4;
}

/* z [n, cn] = rows i0 .. of h times columns v0 .. of W^T */
static void
chunk_logits(struct sal_dev *dev, float *z, struct sal_tensor h, struct sal_weight w, int64_t i0, int64_t n,
    int64_t v0, int64_t cn)
{
	int64_t panel = (int64_t)(w.form == SAL_INT8 ? sal_int8_bytes(SAL_NR, w.in) : sal_cpu_layout.packed_bytes(w.dtype, SAL_NR, w.in));
	struct sal_gemm q = { .dtype = w.dtype, .int8 = w.form == SAL_INT8, .ydtype = SAL_F32, .n = n, .out = cn, .terms = 1, .y = z, .ldy = cn,
		.scale = 1 };

	q.term[0] = (struct sal_term){
		.x = (const char *)h.data + i0 * w.in * esize(w.dtype),
		.w = (const char *)w.fwd + v0 / SAL_NR * panel,
		.k = w.in, .ldx = w.in,
	};
	FN(sal_cpu_gemm)(dev, &q, 1);
}

/* A target outside the vocabulary is a failure, not a read out of bounds. */
static int
check_targets(struct sal_dev *dev, const int32_t *target, int64_t n, int64_t v)
{
	for (int64_t i = 0; i < n; i++)
		if (target[i] < 0 || target[i] >= v) {
			sal_dev_fail(dev, "logprob: target %d of row %lld is not below %lld", (int)target[i], (long long)i,
			    (long long)v);
			return -1;
		}
	return 0;
}

/*
 * With p = softmax(z), the gradient of the log-probability of token y is inv_temperature ((1 - p_y) W_y - sum of p_v W_v over
 * all others v).  The sum runs along with the softmax, over exp(z - max) for the largest max so far, and is divided by the sum
 * of those at the end.  The token itself stays out of it, so that nothing cancels where p_y is near 1.
 */
void
FN(sal_cpu_logprob)(struct sal_dev *dev, struct sal_tensor logprob, struct sal_tensor entropy, struct sal_tensor dh,
    struct sal_tensor h, struct sal_weight w, struct sal_tensor target, float inv_temperature)
{
	int64_t rows = h.dim[0], most = min64(rows, ROWS), c = w.in;
	int64_t panel = (w.dtype == SAL_BF16 ? (w.out + 1) / 2 * 2 : w.out) * SAL_NR;
	bool back = dh.ndim != 0, half = w.dtype == SAL_BF16;
	const int32_t *want = target.data;
	float *lp = logprob.data, *ent = entropy.ndim ? entropy.data : NULL, *grad = back ? dh.data : NULL;
	float *z = sal_cpu_scratch(dev, SAL_SLOT_A, (size_t)(most * CHUNK) * 4);
	float *wy = back ? sal_cpu_scratch(dev, SAL_SLOT_B, (size_t)(most * c) * 4) : NULL;

	if (!z || (back && !wy) || check_targets(dev, want, rows, w.out))
		return;
	for (int64_t i0 = 0; i0 < rows; i0 += ROWS) {
		int64_t n = min64(ROWS, rows - i0);
		struct lse s[ROWS];
		memset(s, 0, sizeof s);
		for (int64_t v0 = 0; v0 < w.out; v0 += CHUNK) {
			int64_t cn = min64(CHUNK, w.out - v0);
			chunk_logits(dev, z, h, w, i0, n, v0, cn);
			if (dev->error[0])
				return;
#pragma omp parallel for num_threads(n > 1 ? dev->threads : 1)
			for (int64_t i = 0; i < n; i++) {
				float *zi = z + i * cn, zt, shrink;
				int64_t t = want[i0 + i] - v0;
				bool here = t >= 0 && t < cn;

				zt = here ? zi[t] : 0;
				shrink = lse_update(&s[i], zi, (int)cn, inv_temperature, back ? zi : NULL, half);
				if (here)
					lp[i0 + i] = zt * inv_temperature;
				if (back && here)
					memset((char *)zi + t * esize(w.dtype), 0, (size_t)esize(w.dtype));
				if (back && v0 > 0 && shrink != 1)
					scale_row(grad + (i0 + i) * c, c, shrink, 0, NULL);
			}
			if (!back)
				continue;
			/* CHUNK is even: a chunk starts on a pair of the packed matrix */
			struct sal_gemm q = { .dtype = w.dtype, .ydtype = SAL_F32, .n = n, .out = c, .terms = 1,
				.y = grad + i0 * c, .ldy = c, .scale = 1, .accumulate = v0 > 0 };
			q.term[0] = (struct sal_term){ .x = z, .w = (const char *)w.bwd + v0 * SAL_NR * esize(w.dtype), .k = cn,
				.ldx = half ? 2 * cn : cn, .panel = panel };
			FN(sal_cpu_gemm)(dev, &q, 1);
		}
		for (int64_t i = 0; i < n; i++) {
			lp[i0 + i] -= lse_value(&s[i]);
			if (ent)
				ent[i0 + i] = logf(s[i].sum) - s[i].zsum / s[i].sum;
		}
		if (!back || dev->error[0])
			continue;
		FN(sal_cpu_embedding_forward)(dev, (struct sal_tensor){ .dtype = SAL_F32, .ndim = 2, .dim = { n, c }, .data = wy }, w,
		    sal_tensor_rows(target, i0, n));
#pragma omp parallel for num_threads(n > 1 ? dev->threads : 1)
		for (int64_t i = 0; i < n; i++)
			scale_row(grad + (i0 + i) * c, c, -inv_temperature / s[i].sum, -inv_temperature * expm1f(lp[i0 + i]), wy + i * c);
	}
}

/* ---- sampling ------------------------------------------------------------ */

/* Orders as the float does; of equals the lower id is the larger key. */
static uint64_t
key_of(float z, int64_t id)
{
	uint32_t u;

	z += 0.0f; /* -0 equals 0 */
	memcpy(&u, &z, 4);
	u = u >> 31 ? ~u : u | 0x80000000u;
	return (uint64_t)u << 32 | (uint32_t)~(uint32_t)id;
}

static int64_t
id_of(uint64_t key)
{
	return (int64_t)(uint32_t)~(uint32_t)key;
}

static void
sift_down(uint64_t *heap, int64_t n, int64_t i)
{
	uint64_t k = heap[i];

	for (int64_t c; (c = 2 * i + 1) < n; i = c) {
		if (c + 1 < n && heap[c + 1] > heap[c])
			c++;
		if (heap[c] <= k)
			break;
		heap[i] = heap[c];
	}
	heap[i] = k;
}

static int
by_id(const void *a, const void *b)
{
	int64_t x = id_of(*(const uint64_t *)a), y = id_of(*(const uint64_t *)b);

	return (x > y) - (x < y);
}

/*
 * Cut to top_k and top_p.  The largest are taken from a heap one by one, as few
 * are wanted as a rule; taken keys gather behind the heap.  Returns how many are
 * kept, in *kept, in order of id.
 */
static int64_t
cut(const float *z, const float *p, int64_t v, int top_k, float top_p, uint64_t *heap, uint64_t **kept)
{
	int64_t most = top_k > 0 && top_k < v ? top_k : v, n = v, taken = 0;
	double whole = 0, mass = 0;

	for (int64_t j = 0; j < v; j++)
		heap[j] = key_of(z[j], j);
	for (int64_t i = v / 2 - 1; i >= 0; i--)
		sift_down(heap, v, i);
	if (most == v) { /* top_p alone: stop as soon as there is enough */
		for (int64_t j = 0; j < v; j++)
			whole += p[j];
	}
	while (taken < most) {
		uint64_t best = heap[0];
		heap[0] = heap[--n];
		if (n > 0)
			sift_down(heap, n, 0);
		heap[n] = best;
		taken++;
		mass += p[id_of(best)];
		if (most == v && top_p < 1 && mass >= top_p * whole)
			break;
	}
	if (most < v && top_p < 1) { /* top_p of what top_k left */
		double part = 0;
		int64_t i = 0;
		while (i < taken) {
			part += p[id_of(heap[v - 1 - i])];
			i++;
			if (part >= top_p * mass)
				break;
		}
		n = v - i;
		taken = i;
	}
	*kept = heap + n;
	qsort(*kept, (size_t)taken, sizeof **kept, by_id);
	return taken;
}

static int64_t
draw(const float *z, const float *p, int64_t v, float u, int top_k, float top_p, float min_p, uint64_t *heap)
{
	uint64_t *kept = NULL;
	int64_t n = v, last = 0;
	double whole = 0, sum = 0;
	float limit = 0;

	if (heap)
		n = cut(z, p, v, top_k, top_p, heap, &kept);
	if (min_p > 0) {
		for (int64_t j = 0; j < v; j++)
			limit = p[j] > limit ? p[j] : limit;
		limit *= min_p;
	}
	for (int64_t j = 0; j < n; j++) {
		float pj = p[kept ? id_of(kept[j]) : j];
		whole += pj >= limit ? pj : 0;
	}
	for (int64_t j = 0; j < n; j++) {
		int64_t id = kept ? id_of(kept[j]) : j;
		if (!(p[id] >= limit) || !(p[id] > 0))
			continue;
		sum += p[id];
		last = id; /* rounding may leave sum at u * whole: then the last one it is */
		if (sum > u * whole)
			break;
	}
	return last;
}

void
FN(sal_cpu_sample)(struct sal_dev *dev, struct sal_tensor token, struct sal_tensor logprob, struct sal_tensor logits,
    struct sal_tensor u, float temperature, int top_k, float top_p, float min_p)
{
	int64_t n = logits.dim[0], v = logits.dim[1];
	bool greedy = temperature == 0, cuts = (top_k > 0 && top_k < v) || top_p < 1;
	float inv = greedy ? 1.0f : 1.0f / temperature;
	int threads = (int)min64(n, dev->threads);
	const float *ui = u.data;
	int32_t *tok = token.data;
	float *lp = logprob.data;
	float *probs = NULL;
	uint64_t *heaps = NULL;

	if (!greedy && !(probs = sal_cpu_scratch(dev, SAL_SLOT_A, (size_t)(threads * v) * sizeof *probs)))
		return;
	if (!greedy && cuts && !(heaps = sal_cpu_scratch(dev, SAL_SLOT_B, (size_t)(threads * v) * sizeof *heaps)))
		return;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
	for (int64_t i = 0; i < n; i++) {
		const float *z = (const float *)logits.data + i * v;
		int64_t id = 0;
		struct lse s = { 0, 0, 0 };

		for (int64_t v0 = 0; v0 < v; v0 += CHUNK)
			lse_update(&s, z + v0, (int)min64(CHUNK, v - v0), inv, NULL, false);
		if (greedy) {
			for (int64_t j = 1; j < v; j++)
				if (z[j] > z[id])
					id = j;
		} else {
			float *p = probs + omp_get_thread_num() * v;
			for (int64_t j = 0; j < v; j += VL) {
				int m = (int)min64(VL, v - j);
				vf e = vf_exp(vf_sub(scaled(z + j, m, inv), vf_set1(s.max)));
				if (m == VL)
					vf_store(p + j, e);
				else
					vf_store_n(p + j, e, m);
			}
			id = draw(z, p, v, ui[i], top_k, top_p, min_p, heaps ? heaps + omp_get_thread_num() * v : NULL);
		}
		tok[i] = (int32_t)id;
		lp[i] = z[id] * inv - lse_value(&s);
	}
}
