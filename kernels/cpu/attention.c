/* SPDX-License-Identifier: Apache-2.0 */
/*
 * attention.c - the paged key/value store and causal attention over it.
 *
 *   s_j = scale q.k_j      p_j = exp(s_j - m)      l = sum p_j      y = sum p_j v_j / l
 *   lse = m + log l        delta = y.dy            ds_j = exp(s_j - lse) (dy.v_j - delta) scale
 *   dq = sum_j ds_j k_j    dk_j = sum_i ds_ij q_i  dv_j = sum_i p_ij dy_i
 *
 * A (page, head) block holds keys transposed, [D][32], so that one vector runs
 * over keys, and values as rows, [32][D].
 *
 * BF16 on AVX-512 (PAIRS): every product is summed two terms at a time by
 * VDPBF16PS.  What is summed over then stands in pairs, a unit of four bytes in
 * the place of a float: keys [D/2][32][2], values [16][D][2], and p and ds are
 * rounded to BF16.  The loops are the same, of units.
 *
 * Order: a row goes over its pages in order, each with its own maximum and
 * correction (arXiv:2307.08691); a score is one chain over d, an element of y
 * one chain over keys.  Rows are worked on in tiles only to share the loads of
 * a page: a lane's chain is the same whichever rows share its registers, so a
 * row decoded alone equals the same row of a prefill bit for bit.  In the
 * backward pass dk and dv of a key are one chain over the rows, and in each row over the
 * heads of the group; of a key that several sequences share, over the rows of each in turn.
 */
#include "cpu.h"
#include "vec.h"

#include <omp.h>
#include <stdlib.h>

#define PAGE SAL_KV_PAGE
#define NV (PAGE / VL)       /* vectors over the keys of a page */
#define TILE 32              /* queries (rows times heads of a group) in one tile */
#define QB (VL == 16 ? 4 : 2) /* queries whose chains run side by side */
#define XV 4                 /* vectors over d that run side by side */
#define PAIRS (VL == 16)

#define INLINE static inline __attribute__((always_inline))

/* Rows of float buffers are padded with zeros to whole vectors of any instruction set. */
static int64_t
padded(int64_t D)
{
	return (D + 15) / 16 * 16;
}

/* n elements of src, from element o, to floats; zeros up to pad. */
static void
widen(float *dst, const void *src, bool h, int64_t o, int64_t n, int64_t pad)
{
	int64_t i = 0;

	if (h) {
		for (; i + VL <= n; i += VL)
			vf_store(dst + i, vf_load_bf16((const bf16 *)src + o + i));
		for (; i < n; i++)
			dst[i] = bf16_to_f32(((const bf16 *)src)[o + i]);
	} else {
		memcpy(dst, (const float *)src + o, (size_t)n * sizeof *dst);
		i = n;
	}
	for (; i < pad; i++)
		dst[i] = 0;
}

static void
narrow(void *dst, const float *src, bool h, int64_t o, int64_t n)
{
	int64_t i = 0;

	if (!h) {
		memcpy((float *)dst + o, src, (size_t)n * sizeof *src);
		return;
	}
	for (; i + VL <= n; i += VL)
		vf_store_bf16((bf16 *)dst + o + i, vf_load(src + i));
	for (; i < n; i++)
		((bf16 *)dst)[o + i] = f32_to_bf16(src[i]);
}

/* unit = lo[i] and hi[i] in one, for n of them; hi NULL: zeros */
static void
pair(float *unit, const bf16 *lo, const bf16 *hi, int64_t n)
{
	for (int64_t i = 0; i < n; i++) {
		uint32_t u = lo[i] | (hi ? (uint32_t)hi[i] << 16 : 0);
		memcpy(unit + i, &u, sizeof u);
	}
}

static void
unpair(bf16 *lo, bf16 *hi, const bf16 *unit, int64_t n)
{
	for (int64_t i = 0; i < n; i++) {
		lo[i] = unit[2 * i];
		hi[i] = unit[2 * i + 1];
	}
}

/* Bytes of a unit of what is multiplied by a broadcast one: a float, a pair, or (half without PAIRS) a BF16 to be widened. */
INLINE int64_t
unit_size(bool half)
{
	return half && !PAIRS ? 2 : 4;
}

/* The next link of a chain: a + c x, c one unit and x a vector of them */
INLINE vf
chain(vf a, const float *c, const char *x, bool half)
{
	if (!half)
		return vf_fma(vf_set1(*c), vf_load((const float *)(const void *)x), a);
#if defined(__AVX512F__)
	int32_t two;
	memcpy(&two, c, sizeof two);
	return _mm512_dpbf16_ps(a, (__m512bh)_mm512_set1_epi32(two), (__m512bh)_mm512_loadu_si512(x));
#else
	return vf_fma(vf_set1(*c), vf_load_bf16((const bf16 *)(const void *)x), a);
#endif
}

/* s[i][j] = sum over n units d of q[i][d] k[d][j], for nq queries; nq is a constant where this is inlined */
INLINE void
scores_n(float *s, const float *q, int64_t ldq, const char *k, int64_t n, int nq, bool half)
{
	vf a[QB][NV];

	for (int i = 0; i < nq; i++)
		for (int t = 0; t < NV; t++)
			a[i][t] = vf_set1(0);
	for (int64_t d = 0; d < n; d++)
		for (int i = 0; i < nq; i++)
			for (int t = 0; t < NV; t++)
				a[i][t] = chain(a[i][t], q + i * ldq + d, k + (d * PAGE + t * VL) * unit_size(half), half);
	for (int i = 0; i < nq; i++)
		for (int t = 0; t < NV; t++)
			vf_store(s + i * PAGE + t * VL, a[i][t]);
}

INLINE void
scores_of(float *s, const float *q, int64_t ldq, const void *k, int64_t n, int64_t nq, bool half)
{
	int64_t i = 0;

	for (; i + QB <= nq; i += QB)
		scores_n(s + i * PAGE, q + i * ldq, ldq, k, n, QB, half);
	s += i * PAGE;
	q += i * ldq;
	switch (nq - i) {
	case 3: scores_n(s, q, ldq, k, n, QB > 3 ? 3 : 1, half); break; /* QB is 4 */
	case 2: scores_n(s, q, ldq, k, n, QB > 2 ? 2 : 1, half); break;
	case 1: scores_n(s, q, ldq, k, n, 1, half); break;
	}
}

static void
scores(float *s, const float *q, int64_t ldq, const void *k, int64_t n, int64_t nq, bool half)
{
	if (half)
		scores_of(s, q, ldq, k, n, nq, true);
	else
		scores_of(s, q, ldq, k, n, nq, false);
}

/* y[i][0..nx vectors) += sum over the units j = 0 .. n-1, in order, of c[i*ci + j*cj] x[j][..] */
INLINE void
mix_n(float *y, int64_t ldy, const float *c, int64_t ci, int64_t cj, const char *x, int64_t ldx, int64_t n, int ny, int nx,
    bool half)
{
	vf a[QB][XV];

	for (int i = 0; i < ny; i++)
		for (int t = 0; t < nx; t++)
			a[i][t] = vf_load(y + i * ldy + t * VL);
	for (int64_t j = 0; j < n; j++)
		for (int i = 0; i < ny; i++)
			for (int t = 0; t < nx; t++)
				a[i][t] = chain(a[i][t], c + i * ci + j * cj, x + (j * ldx + t * VL) * unit_size(half), half);
	for (int i = 0; i < ny; i++)
		for (int t = 0; t < nx; t++)
			vf_store(y + i * ldy + t * VL, a[i][t]);
}

INLINE void
mix_of(float *y, int64_t ldy, const float *c, int64_t ci, int64_t cj, const char *x, int64_t ldx, int64_t n, int64_t ny, int nx,
    bool half)
{
	int64_t i = 0;

	for (; i + QB <= ny; i += QB)
		mix_n(y + i * ldy, ldy, c + i * ci, ci, cj, x, ldx, n, QB, nx, half);
	y += i * ldy;
	c += i * ci;
	switch (ny - i) {
	case 3: mix_n(y, ldy, c, ci, cj, x, ldx, n, QB > 3 ? 3 : 1, nx, half); break; /* QB is 4 */
	case 2: mix_n(y, ldy, c, ci, cj, x, ldx, n, QB > 2 ? 2 : 1, nx, half); break;
	case 1: mix_n(y, ldy, c, ci, cj, x, ldx, n, 1, nx, half); break;
	}
}

/* The same for ny rows of y, each of w elements (whole vectors). */
static void
mix(float *y, int64_t ldy, const float *c, int64_t ci, int64_t cj, const void *x, bool half, int64_t ldx, int64_t n, int64_t ny,
    int64_t w)
{
	int64_t d = 0;

	for (; d + XV * VL <= w; d += XV * VL) {
		if (half)
			mix_of(y + d, ldy, c, ci, cj, (const char *)x + d * unit_size(true), ldx, n, ny, XV, true);
		else
			mix_of(y + d, ldy, c, ci, cj, (const char *)x + d * unit_size(false), ldx, n, ny, XV, false);
	}
	for (; d < w; d += VL) {
		if (half)
			mix_of(y + d, ldy, c, ci, cj, (const char *)x + d * unit_size(true), ldx, n, ny, 1, true);
		else
			mix_of(y + d, ldy, c, ci, cj, (const char *)x + d * unit_size(false), ldx, n, ny, 1, false);
	}
}

void
FN(sal_cpu_kv_store)(struct sal_dev *dev, struct sal_kv kv, struct sal_tensor k, struct sal_tensor v, struct sal_tensor slot)
{
	int64_t N = slot.dim[0], H = kv.k.dim[1], D = kv.k.dim[3];
	const int32_t *at = slot.data;

#pragma omp parallel for num_threads(dev->threads) if (N * H * D > 16384)
	for (int64_t i = 0; i < N; i++) {
		int64_t page = at[i] / PAGE, place = at[i] % PAGE;

		for (int64_t h = 0; h < H; h++) {
			int64_t block = (page * H + h) * PAGE * D, o = (i * H + h) * D;

			if (kv.k.dtype == SAL_BF16) {
				bf16 *kb = (bf16 *)kv.k.data + block, *vb = (bf16 *)kv.v.data + block;
				const bf16 *kr = (const bf16 *)k.data + o, *vr = (const bf16 *)v.data + o;

				if (PAIRS)
					for (int64_t d = 0; d < D; d++) {
						kb[(d / 2 * PAGE + place) * 2 + d % 2] = kr[d];
						vb[(place / 2 * D + d) * 2 + place % 2] = vr[d];
					}
				else {
					for (int64_t d = 0; d < D; d++)
						kb[d * PAGE + place] = kr[d];
					memcpy(vb + place * D, vr, (size_t)D * sizeof *vb);
				}
			} else {
				float *kb = (float *)kv.k.data + block, *vb = (float *)kv.v.data + block;

				for (int64_t d = 0; d < D; d++)
					kb[d * PAGE + place] = ((const float *)k.data)[o + d];
				memcpy(vb + place * D, (const float *)v.data + o, (size_t)D * sizeof *vb);
			}
		}
	}
}

void
FN(sal_cpu_kv_copy)(struct sal_dev *dev, struct sal_kv kv, int32_t dst, int32_t src)
{
	size_t bytes = (size_t)(kv.k.dim[1] * PAGE * kv.k.dim[3]) * (kv.k.dtype == SAL_BF16 ? 2 : 4);

	(void)dev;
	if (dst == src)
		return;
	memcpy((char *)kv.k.data + (size_t)dst * bytes, (const char *)kv.k.data + (size_t)src * bytes, bytes);
	memcpy((char *)kv.v.data + (size_t)dst * bytes, (const char *)kv.v.data + (size_t)src * bytes, bytes);
}

/* What both passes know about the call. */
struct job {
	int64_t Hq, Hk, G, D, Dp; /* G: query heads of one key head */
	bool h;                   /* act is bf16 */
	float scale;
	int window;
	struct sal_kv kv;
	const int32_t *off, *first, *pages;
	int64_t B, M;
};

static struct job
job_of(struct sal_tensor q, struct sal_kv kv, struct sal_seqs seqs, int window)
{
	struct job a = { .Hk = kv.k.dim[1], .D = kv.k.dim[3], .h = q.dtype == SAL_BF16, .window = window, .kv = kv };

	a.Dp = padded(a.D);
	a.Hq = q.dim[1] / a.D;
	a.G = a.Hq / a.Hk;
	a.scale = 1.0f / sqrtf((float)a.D);
	a.off = seqs.off.data;
	a.first = seqs.first.data;
	a.pages = seqs.pages.data;
	a.B = seqs.first.dim[0];
	a.M = seqs.pages.dim[1];
	return a;
}

/* First key that position p sees. */
static int64_t
sees_from(const struct job *a, int64_t p)
{
	return a->window > 0 && p >= a->window ? p - a->window + 1 : 0;
}

static int64_t
block_of(const struct job *a, int64_t b, int64_t j, int64_t hk)
{
	return ((int64_t)a->pages[b * a->M + j] * a->Hk + hk) * PAGE * a->D;
}

/* Keys as they are multiplied, D units (D / 2 in pairs) of [PAGE]: the block itself where asis, or floats in buf. */
static const void *
keys(const struct job *a, int64_t block, float *buf, bool asis)
{
	if (!a->h)
		return (const float *)a->kv.k.data + block;
	if (asis)
		return (const bf16 *)a->kv.k.data + block;
	widen(buf, a->kv.k.data, true, block, a->D * PAGE, 0);
	return buf;
}

/* Values likewise, PAGE units (PAGE / 2 in pairs) of [Dp]: in buf also where they need padding. */
static const void *
values(const struct job *a, int64_t block, float *buf, bool asis)
{
	if (!a->h && a->D == a->Dp)
		return (const float *)a->kv.v.data + block;
	if (asis && a->D == a->Dp)
		return (const bf16 *)a->kv.v.data + block;
	if (asis) {
		memset(buf, 0, (size_t)(PAGE / 2 * a->Dp) * sizeof *buf);
		for (int j = 0; j < PAGE / 2; j++)
			memcpy(buf + j * a->Dp, (const bf16 *)a->kv.v.data + block + j * 2 * a->D, (size_t)a->D * sizeof *buf);
	} else
		for (int j = 0; j < PAGE; j++)
			widen(buf + j * a->Dp, a->kv.v.data, a->h, block + j * a->D, a->D, a->Dp);
	return buf;
}

/* Element o and on of an activation, a row of one head, with zeros up to Dp: floats, or BF16 in pairs. */
static void
row_of(float *dst, const struct job *a, const void *src, int64_t o)
{
	if (PAIRS && a->h) {
		memcpy(dst, (const bf16 *)src + o, (size_t)a->D * sizeof(bf16));
		memset((bf16 *)(void *)dst + a->D, 0, (size_t)(a->Dp - a->D) * sizeof(bf16));
	} else
		widen(dst, src, a->h, o, a->D, a->Dp);
}

/* dst [cols][rows] = transpose of src [rows][ld], of units */
static void
transpose(float *dst, const float *src, int64_t ld, int64_t rows, int64_t cols, int64_t ldd)
{
	for (int64_t c = 0; c < cols; c++)
		for (int64_t r = 0; r < rows; r++)
			memcpy(dst + c * ldd + r, src + r * ld + c, sizeof *dst);
}

/* s becomes x at the keys of page j outside lo .. hi. */
static void
mask(float *s, int64_t j, int64_t lo, int64_t hi, float x)
{
	for (int64_t t = 0; t < PAGE; t++)
		if (j * PAGE + t < lo || j * PAGE + t > hi)
			s[t] = x;
}

/*
 * One page of the online softmax of one query: s becomes the probabilities
 * relative to the new maximum (half: BF16 in its first half), y and l are
 * brought to it.
 */
static void
soften(float *s, float *y, int64_t w, float *m, float *l, bool half)
{
	vf top = vf_load(s), sum = vf_set1(0);

	for (int t = 1; t < NV; t++)
		top = vf_max(top, vf_load(s + t * VL));
	float mb = vf_hmax(top), mn = mb > *m ? mb : *m;
	vf ref = vf_set1(mn == -INFINITY ? 0.0f : mn); /* -inf - -inf is no number */

	for (int t = 0; t < NV; t++) {
		vf p = vf_exp(vf_sub(vf_load(s + t * VL), ref));
		if (half)
			vf_store_bf16((bf16 *)(void *)s + t * VL, p);
		else
			vf_store(s + t * VL, p);
		sum = vf_add(sum, p);
	}
	/* An unchanged maximum means a correction by exactly 1, which is left out. */
	if (mn != *m) {
		float c[VL];
		vf corr = vf_exp(vf_sub(vf_set1(*m), ref));

		vf_store(c, corr);
		*l *= c[0];
		for (int64_t d = 0; d < w; d += VL)
			vf_store(y + d, vf_mul(vf_load(y + d), corr));
		*m = mn;
	}
	*l += vf_sum(sum);
}

struct unit {
	int32_t b, i0, n; /* rows i0 .. i0+n-1 of sequence b */
};

/* Rows of one tile against every page that any of them sees, for one key head. */
static void
forward_tile(const struct job *a, const struct unit *u, int64_t hk, const void *q, void *out, float *lse, float *mem)
{
	int64_t D = a->D, Dp = a->Dp, G = a->G, nq = u->n * G;
	float *kb = mem, *vb = kb + PAGE * Dp, *qf = vb + PAGE * Dp, *y = qf + nq * Dp;
	float *s = y + nq * Dp, *m = s + nq * PAGE, *l = m + nq;
	int64_t p0 = a->first[u->b] + u->i0, row0 = a->off[u->b] + (int64_t)u->i0;
	bool pairs = PAIRS && a->h;
	bool asis = pairs || (a->h && D == Dp && nq <= QB); /* few queries: keys and values are widened as they are read */

	for (int64_t r = 0; r < u->n; r++)
		for (int64_t g = 0; g < G; g++)
			row_of(qf + (r * G + g) * Dp, a, q, ((row0 + r) * a->Hq + hk * G + g) * D);
	memset(y, 0, (size_t)(nq * Dp) * sizeof *y);
	for (int64_t i = 0; i < nq; i++) {
		m[i] = -INFINITY;
		l[i] = 0;
	}

	for (int64_t j = sees_from(a, p0) / PAGE; j <= (p0 + u->n - 1) / PAGE; j++) {
		int64_t block = block_of(a, u->b, j, hk), r0 = 0, r1 = u->n;
		const void *k = keys(a, block, kb, asis), *v = values(a, block, vb, asis);

		while (p0 + r0 < j * PAGE)
			r0++;
		while (sees_from(a, p0 + r1 - 1) > j * PAGE + PAGE - 1)
			r1--;
		float *sj = s + r0 * G * PAGE;
		scores(sj, qf + r0 * G * Dp, Dp, k, pairs ? D / 2 : D, (r1 - r0) * G, asis);
		for (int64_t r = r0; r < r1; r++) {
			int64_t p = p0 + r, lo = sees_from(a, p);

			for (int64_t i = r * G; i < r * G + G; i++) {
				float *si = s + i * PAGE;

				for (int t = 0; t < NV; t++)
					vf_store(si + t * VL, vf_mul(vf_load(si + t * VL), vf_set1(a->scale)));
				if (lo > j * PAGE || p < j * PAGE + PAGE - 1)
					mask(si, j, lo, p, -INFINITY);
				soften(si, y + i * Dp, Dp, &m[i], &l[i], pairs);
			}
		}
		mix(y + r0 * G * Dp, Dp, sj, PAGE, 1, v, asis, Dp, pairs ? PAGE / 2 : PAGE, (r1 - r0) * G, Dp);
	}

	for (int64_t r = 0; r < u->n; r++)
		for (int64_t g = 0; g < G; g++) {
			int64_t i = r * G + g, o = (row0 + r) * a->Hq + hk * G + g;
			vf inv = vf_set1(1.0f / l[i]);

			for (int64_t d = 0; d < Dp; d += VL)
				vf_store(y + i * Dp + d, vf_mul(vf_load(y + i * Dp + d), inv));
			narrow(out, y + i * Dp, a->h, o * D, D);
			if (lse)
				lse[o] = m[i] + logf(l[i]);
		}
}

void
FN(sal_cpu_attention_forward)(struct sal_dev *dev, struct sal_tensor y, struct sal_tensor lse, struct sal_tensor q,
    struct sal_kv kv, struct sal_seqs seqs, int window)
{
	struct job a = job_of(q, kv, seqs, window);
	int64_t rows = a.G < TILE ? TILE / a.G : 1, nq = rows * a.G, tiles = 0, n = 0;
	size_t each = (size_t)(2 * PAGE * a.Dp + nq * (2 * a.Dp + PAGE + 2) + 15) / 16 * 16;

	for (int64_t b = 0; b < a.B; b++)
		tiles += (a.off[b + 1] - a.off[b] + rows - 1) / rows;
	if (!tiles)
		return;
	struct unit *unit = malloc((size_t)tiles * sizeof *unit);
	float *mem = aligned_alloc(64, each * sizeof *mem * (size_t)dev->threads);
	if (!unit || !mem) {
		sal_dev_fail(dev, "attention_forward: out of memory");
		goto out;
	}
	for (int64_t b = 0; b < a.B; b++) {
		int64_t T = a.off[b + 1] - a.off[b];
		for (int64_t i = 0; i < T; i += rows)
			unit[n++] = (struct unit){ (int32_t)b, (int32_t)i, (int32_t)(T - i < rows ? T - i : rows) };
	}

	/* Last tiles first: they see the most pages. */
#pragma omp parallel for num_threads(dev->threads) schedule(dynamic) if (tiles * a.Hk > 1)
	for (int64_t t = 0; t < tiles * a.Hk; t++)
		forward_tile(&a, &unit[tiles - 1 - t / a.Hk], t % a.Hk, q.data, y.data, lse.ndim ? lse.data : NULL,
		    mem + each * (size_t)omp_get_thread_num());
out:
	free(unit);
	free(mem);
}

struct grads {
	void *dq, *dk, *dv;
	const void *dy, *y, *q;
	const float *lse;
};

/* Floats that backward_head() needs for T rows. */
static size_t
backward_room(const struct job *a, int64_t T)
{
	int64_t nq = (a->G < TILE ? TILE / a->G : 1) * a->G;
	return (size_t)(6 * PAGE * a->Dp + (3 * nq + 1) * (a->Dp + PAGE) + T * a->G * (a->Dp + 1) + 15) / 16 * 16;
}

/* The sequence after b and those that go on from its rows. */
static int64_t
family_end(const struct job *a, int64_t b)
{
	do
		b++;
	while (b < a->B && a->first[b] > 0);
	return b;
}

/*
 * Of a page: kr, keys as rows, PAGE units (PAGE / 2 in pairs) of [Dp]; vt, values transposed, D units (D / 2) of [PAGE].
 * Returns the keys as they are multiplied.
 */
static const void *
turn(const struct job *a, int64_t block, float *kr, float *vt, float *kb, float *vb)
{
	int64_t D = a->D, Dp = a->Dp;
	bool pairs = PAIRS && a->h;
	const void *k = keys(a, block, kb, pairs), *v = values(a, block, vb, pairs);
	bf16 *tmp = (bf16 *)(void *)kb;

	if (D != Dp)
		memset(kr, 0, (size_t)(PAGE * Dp) * sizeof *kr);
	if (!pairs) {
		transpose(kr, k, PAGE, D, PAGE, Dp);
		transpose(vt, v, Dp, PAGE, D, PAGE);
		return k;
	}
	for (int64_t d = 0; d < D; d += 2)
		unpair(tmp + d * PAGE, tmp + (d + 1) * PAGE, (const bf16 *)k + d * PAGE, PAGE);
	transpose(kr, kb, PAGE / 2, D, PAGE / 2, Dp);
	for (int64_t t = 0; t < PAGE; t += 2)
		unpair(tmp + t * Dp, tmp + (t + 1) * Dp, (const bf16 *)v + t * Dp, Dp);
	transpose(vt, kb, Dp / 2, PAGE, D / 2, PAGE);
	return k;
}

/* n rows [ld] of floats become BF16 in the first halves of their places, and two at a time pairs in units [n/2][ld]. */
static void
pair_rows(float *units, float *s, int64_t n, int64_t ld)
{
	for (int64_t i = 0; i < n; i++)
		narrow(s + i * ld, s + i * ld, true, 0, ld);
	for (int64_t i = 0; i < n; i += 2)
		pair(units + i / 2 * ld, (bf16 *)(void *)(s + i * ld), i + 1 < n ? (bf16 *)(void *)(s + (i + 1) * ld) : NULL, ld);
}

/* Memory of a thread. */
struct back {
	float *kb, *kr, *vb, *vt, *dk, *dv; /* of a page */
	float *q, *g, *s, *ds, *q2, *g2, *s2, *ds2; /* of a tile: q, dy, p, ds, and in pairs the same with two rows in one */
	float *dq, *delta; /* of row row0 and on */
	int64_t row0;
};

static struct back
back_of(const struct job *a, int64_t row0, int64_t T, float *mem)
{
	int64_t nq = (a->G < TILE ? TILE / a->G : 1) * a->G, half = (nq + 1) / 2, Dp = a->Dp;
	struct back w = { .kb = mem, .row0 = row0 };

	w.kr = w.kb + PAGE * Dp;
	w.vb = w.kr + PAGE * Dp;
	w.vt = w.vb + PAGE * Dp;
	w.dk = w.vt + PAGE * Dp;
	w.dv = w.dk + PAGE * Dp;
	w.q = w.dv + PAGE * Dp;
	w.g = w.q + nq * Dp;
	w.s = w.g + nq * Dp;
	w.ds = w.s + nq * PAGE;
	w.q2 = w.ds + nq * PAGE;
	w.g2 = w.q2 + half * Dp;
	w.s2 = w.g2 + half * Dp;
	w.ds2 = w.s2 + half * PAGE;
	w.dq = w.ds2 + half * PAGE;
	w.delta = w.dq + T * a->G * Dp;
	return w;
}

/* A page of keys from position k0 on, k as it is multiplied, nk of them there, against the queries of sequence c that see any of them. */
static void
backward_page(const struct job *a, int64_t c, int64_t hk, const struct grads *x, const struct back *w, const void *k, int64_t k0, int64_t nk)
{
	int64_t D = a->D, Dp = a->Dp, G = a->G, row0 = a->off[c], p0 = a->first[c], end = a->off[c + 1] - row0;
	int64_t rows = G < TILE ? TILE / G : 1, at = (row0 - w->row0) * G;
	bool pairs = PAIRS && a->h;
	float *q = w->q, *g = w->g, *s = w->s, *ds = w->ds;
	vf scale = vf_set1(a->scale);

	if (a->window > 0 && p0 + end - k0 > PAGE - 1 + (int64_t)a->window)
		end = k0 + PAGE - 1 + a->window - p0;
	for (int64_t i0 = k0 > p0 ? k0 - p0 : 0; i0 < end; i0 += rows) {
		int64_t n = (end - i0 < rows ? end - i0 : rows) * G, units = pairs ? (n + 1) / 2 : n;

		for (int64_t i = 0; i < n; i++) {
			int64_t o = ((row0 + i0 + i / G) * a->Hq + hk * G + i % G) * D;
			row_of(q + i * Dp, a, x->q, o);
			row_of(g + i * Dp, a, x->dy, o);
		}
		scores(s, q, Dp, k, pairs ? D / 2 : D, n, pairs);
		scores(ds, g, Dp, w->vt, pairs ? D / 2 : D, n, pairs);
		for (int64_t i = 0; i < n; i++) {
			int64_t r = i0 + i / G, p = p0 + r, lo = sees_from(a, p);
			float *si = s + i * PAGE, *di = ds + i * PAGE;
			vf z = vf_set1(x->lse[(row0 + r) * a->Hq + hk * G + i % G]);
			vf dl = vf_set1(w->delta[at + i0 * G + i]);

			for (int t = 0; t < NV; t++) {
				vf e = vf_exp(vf_sub(vf_mul(vf_load(si + t * VL), scale), z));
				vf_store(si + t * VL, e);
				vf_store(di + t * VL, vf_mul(vf_mul(e, vf_sub(vf_load(di + t * VL), dl)), scale));
			}
			if (lo > k0 || p < k0 + PAGE - 1) {
				mask(si, k0 / PAGE, lo, p, 0);
				mask(di, k0 / PAGE, lo, p, 0);
			}
		}
		if (pairs) {
			for (int64_t i = 0; i < n; i += 2) {
				const bf16 *qi = (const bf16 *)(void *)(q + i * Dp), *gi = (const bf16 *)(void *)(g + i * Dp);
				pair(w->q2 + i / 2 * Dp, qi, i + 1 < n ? qi + 2 * Dp : NULL, Dp);
				pair(w->g2 + i / 2 * Dp, gi, i + 1 < n ? gi + 2 * Dp : NULL, Dp);
			}
			pair_rows(w->s2, s, n, PAGE);
			pair_rows(w->ds2, ds, n, PAGE);
		}
		mix(w->dq + (at + i0 * G) * Dp, Dp, ds, PAGE, 1, w->kr, pairs, Dp, pairs ? PAGE / 2 : PAGE, n, Dp);
		mix(w->dk, Dp, pairs ? w->ds2 : ds, 1, PAGE, pairs ? w->q2 : q, pairs, Dp, units, nk, Dp);
		mix(w->dv, Dp, pairs ? w->s2 : s, 1, PAGE, pairs ? w->g2 : g, pairs, Dp, units, nk, Dp);
	}
}

/* Sequence b with those that go on from its rows, and one key head, with all query heads that use it. */
static void
backward_head(const struct job *a, int64_t b, int64_t hk, const struct grads *x, float *mem)
{
	int64_t D = a->D, Dp = a->Dp, G = a->G, row0 = a->off[b], end = family_end(a, b), T = a->off[end] - row0;
	struct back w = back_of(a, row0, T, mem);

	memset(w.dq, 0, (size_t)(T * G * Dp) * sizeof *w.dq);
	for (int64_t i = 0; i < T * G; i++) {
		int64_t o = ((row0 + i / G) * a->Hq + hk * G + i % G) * D;
		vf sum = vf_set1(0);

		widen(w.kb, x->dy, a->h, o, D, Dp);
		widen(w.kb + Dp, x->y, a->h, o, D, Dp);
		for (int64_t d = 0; d < Dp; d += VL)
			sum = vf_fma(vf_load(w.kb + d), vf_load(w.kb + Dp + d), sum);
		w.delta[i] = vf_sum(sum);
	}

	for (int64_t c = b; c < end; c++)
		for (int64_t k0 = a->first[c], n = k0 + a->off[c + 1] - a->off[c]; k0 < n; k0 += PAGE) {
			int64_t nk = n - k0 < PAGE ? n - k0 : PAGE;
			const void *k = turn(a, block_of(a, c, k0 / PAGE, hk), w.kr, w.vt, w.kb, w.vb);

			memset(w.dk, 0, (size_t)(2 * PAGE * Dp) * sizeof *w.dk);
			backward_page(a, c, hk, x, &w, k, k0, nk);
			for (int64_t e = b + 1; c == b && e < end; e++)
				if (k0 < a->first[e])
					backward_page(a, e, hk, x, &w, k, k0, nk);
			for (int64_t t = 0; t < nk; t++) {
				int64_t o = ((a->off[c] + k0 - a->first[c] + t) * a->Hk + hk) * D;
				narrow(x->dk, w.dk + t * Dp, a->h, o, D);
				narrow(x->dv, w.dv + t * Dp, a->h, o, D);
			}
		}
	for (int64_t i = 0; i < T * G; i++)
		narrow(x->dq, w.dq + i * Dp, a->h, ((row0 + i / G) * a->Hq + hk * G + i % G) * D, D);
}

void
FN(sal_cpu_attention_backward)(struct sal_dev *dev, struct sal_tensor dq, struct sal_tensor dk, struct sal_tensor dv,
    struct sal_tensor dy, struct sal_tensor y, struct sal_tensor q, struct sal_tensor lse, struct sal_kv kv,
    struct sal_seqs seqs, int window)
{
	struct job a = job_of(q, kv, seqs, window);
	struct grads x = { dq.data, dk.data, dv.data, dy.data, y.data, q.data, lse.data };
	int64_t families = 0, longest = 0;
	int64_t *family = malloc((size_t)(a.B + 1) * sizeof *family);

	for (int64_t b = 0; family && b < a.B; b = family_end(&a, b)) {
		int64_t rows = a.off[family_end(&a, b)] - a.off[b];
		longest = rows > longest ? rows : longest;
		family[families++] = b;
	}
	int64_t units = families * a.Hk;
	int threads = units < dev->threads ? (int)units : dev->threads;
	size_t each = backward_room(&a, longest);
	float *mem = longest ? aligned_alloc(64, each * sizeof *mem * (size_t)threads) : NULL;
	if (!family || (longest && !mem))
		sal_dev_fail(dev, "attention_backward: out of memory");
	else if (longest) {
#pragma omp parallel for num_threads(threads) schedule(dynamic)
		for (int64_t u = 0; u < units; u++)
			backward_head(&a, family[u / a.Hk], u % a.Hk, &x, mem + each * (size_t)omp_get_thread_num());
	}
	free(family);
	free(mem);
}
