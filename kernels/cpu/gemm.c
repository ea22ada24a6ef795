/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gemm.c - packed matrices and the linear maps made from them.
 *
 * Layout   A matrix (O, K) is packed in panels of SAL_NR outputs; a panel is
 *          [K][NR] for F32 and [K/2][NR][2] for BF16 (pairs along the sum, as
 *          VDPBF16PS wants them; an odd K is filled with zeros).  The
 *          transposed copy is the same of W^T.
 * Order    Every output element is one chain of multiply-adds over k = 0, 1, ..
 *          held in a register from the first k to the last, so its bits do not
 *          depend on the tile, the rows beside it or the threads.  AVX2 and
 *          portable code expand BF16 to F32 and add k, then k+1; AVX-512 adds
 *          pairs by VDPBF16PS.  In 8 bits the chain runs over groups of k: int8.h.
 * Tiles    M rows by P panels are in registers at a time.  Few rows take more
 *          panels, so that enough independent chains hide the latency.  The
 *          rows of a block stay in the second-level cache while the panels go
 *          by, and while one strip of panels is at work the next is fetched:
 *          with few rows the matrix comes from memory as fast as it is used.
 * Threads  go through a share of the (block, panel) each, in order, so that
 *          what follows is known and can be fetched; a thread at the end of its
 *          own takes from the end of the largest share that is left.
 */
#include <omp.h>

#include "cpu.h"
#include "int8.h"

#define NR SAL_NR
#define BLOCK_BYTES (256 << 10)    /* rows of one block, as the tiles read them */
#define LINE 64                    /* bytes fetched at a time */
#define AHEAD (16 * LINE)          /* of a matrix in 8 bits that one tile reads */
#define MAX_SHARES 64              /* of the work; more threads help with others' */
#define SMALL_WORK (1 << 16)       /* multiply-adds not worth a second thread */
#define INLINE static inline __attribute__((always_inline))

/* MR: rows of a full tile.  g: a vector of GL outputs.  Portable code takes the 16 bytes that every 64-bit processor has. */
#if defined(__AVX512F__)
#define GL 16
#define MR 6
#define FEW_PANELS(m) 4
typedef vf g;
INLINE g g_set1(float x) { return vf_set1(x); }
INLINE g g_load(const float *p) { return vf_load(p); }
INLINE void g_store(float *p, g a) { vf_store(p, a); }
INLINE g g_fma(g a, g b, g c) { return vf_fma(a, b, c); }
#elif defined(__AVX2__)
#define GL 8
#define MR 6
#define FEW_PANELS(m) ((m) == 1 ? 4 : (m) <= 3 ? 2 : 1)
typedef vf g;
INLINE g g_set1(float x) { return vf_set1(x); }
INLINE g g_load(const float *p) { return vf_load(p); }
INLINE void g_store(float *p, g a) { vf_store(p, a); }
INLINE g g_fma(g a, g b, g c) { return vf_fma(a, b, c); }
INLINE g
g_even(const uint32_t *p)
{
	return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_loadu_si256((const __m256i *)p), 16));
}
INLINE g
g_odd(const uint32_t *p)
{
	__m256i mask = _mm256_set1_epi32((int)0xffff0000u);
	return _mm256_castsi256_ps(_mm256_and_si256(_mm256_loadu_si256((const __m256i *)p), mask));
}
#else
#define GL 4
#define MR 2 /* of 16 registers */
#define FEW_PANELS(m) ((m) == 1 ? 2 : 1)
typedef float g __attribute__((vector_size(16)));
typedef uint32_t gu_ __attribute__((vector_size(16)));
INLINE g g_set1(float x) { return (g){ x, x, x, x }; }
INLINE g g_load(const float *p) { g a; memcpy(&a, p, sizeof a); return a; }
INLINE void g_store(float *p, g a) { memcpy(p, &a, sizeof a); }
INLINE g g_fma(g a, g b, g c) { return a * b + c; }
INLINE g g_even(const uint32_t *p) { gu_ u; memcpy(&u, p, sizeof u); return (g)(u << 16); }
INLINE g g_odd(const uint32_t *p) { gu_ u; memcpy(&u, p, sizeof u); return (g)(u & 0xffff0000u); }
#endif
#define NG (NR / GL) /* vectors in the width of a panel */
#define MAX_P 4      /* panels of the widest tile */
#define MAX_VECTORS (MR * MAX_P * NG)
/* The bounds are constants once a tile is made; unrolled, its sums are registers. */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif

/* What the tile reads of one row: BF16 pairs on AVX-512, floats elsewhere. */
#if defined(__AVX512F__)
#define PAIRS 1
#else
#define PAIRS 0
#endif

/*
 * One term of the chain for M rows and P panels.  x: row stride ldx elements; w: panel stride in elements; next, step: a
 * line to be fetched at every turn.
 */
INLINE void
term_f32(int M, int P, g *restrict acc, const float *x, int64_t ldx, const float *w, int64_t panel, int64_t k, const char *next,
    int64_t step)
{
	for (int64_t i = 0; i < k; i++, next += step) {
		g b[MAX_P * NG];
		__builtin_prefetch(next, 0, 2);
		UNROLL for (int p = 0; p < P; p++)
			UNROLL for (int v = 0; v < NG; v++)
				b[p * NG + v] = g_load(w + p * panel + i * NR + v * GL);
		UNROLL for (int m = 0; m < M; m++) {
			g a = g_set1(x[m * ldx + i]);
			UNROLL for (int p = 0; p < P; p++)
				UNROLL for (int v = 0; v < NG; v++)
					acc[(m * P + p) * NG + v] = g_fma(a, b[p * NG + v], acc[(m * P + p) * NG + v]);
		}
	}
}

#if PAIRS
INLINE uint32_t
both(const bf16 *x)
{
	uint32_t pair;
	memcpy(&pair, x, 4);
	return pair;
}

INLINE void
pair_bf16(int M, int P, g *restrict acc, const bf16 *x, int64_t ldx, const bf16 *w, int64_t panel, int odd)
{
	__m512bh b[MAX_P];

	UNROLL for (int p = 0; p < P; p++)
		b[p] = (__m512bh)_mm512_loadu_si512(w + p * panel);
	UNROLL for (int m = 0; m < M; m++) {
		__m512bh a = (__m512bh)_mm512_set1_epi32((int)(odd ? x[m * ldx] : both(x + m * ldx)));
		UNROLL for (int p = 0; p < P; p++)
			acc[m * P + p] = _mm512_dpbf16_ps(acc[m * P + p], a, b[p]);
	}
}

INLINE void
term_bf16(int M, int P, g *restrict acc, const bf16 *x, int64_t ldx, const bf16 *w, int64_t panel, int64_t k, const char *next,
    int64_t step)
{
	int64_t i = 0;

	for (; i + 1 < k; i += 2, next += step) {
		__builtin_prefetch(next, 0, 2);
		pair_bf16(M, P, acc, x + i, ldx, w + i * NR, panel, 0);
	}
	if (i < k)
		pair_bf16(M, P, acc, x + i, ldx, w + i * NR, panel, 1);
}
#else
INLINE void
half_bf16(int M, int P, g *restrict acc, const float *x, int64_t ldx, const bf16 *w, int64_t panel, int odd)
{
	g b[MAX_P * NG];

	UNROLL for (int p = 0; p < P; p++)
		UNROLL for (int v = 0; v < NG; v++) {
			const uint32_t *q = (const uint32_t *)(const void *)(w + p * panel) + v * GL;
			b[p * NG + v] = odd ? g_odd(q) : g_even(q);
		}
	UNROLL for (int m = 0; m < M; m++) {
		g a = g_set1(x[m * ldx]);
		UNROLL for (int p = 0; p < P; p++)
			UNROLL for (int v = 0; v < NG; v++)
				acc[(m * P + p) * NG + v] = g_fma(a, b[p * NG + v], acc[(m * P + p) * NG + v]);
	}
}

INLINE void
term_bf16(int M, int P, g *restrict acc, const float *x, int64_t ldx, const bf16 *w, int64_t panel, int64_t k, const char *next,
    int64_t step)
{
	int64_t i = 0;

	for (; i + 1 < k; i += 2, next += step) {
		__builtin_prefetch(next, 0, 2);
		half_bf16(M, P, acc, x + i, ldx, w + i * NR, panel, 0);
		/* w is read again rather than kept: a full tile leaves no register for it */
		__asm__("" : "+r"(w));
		half_bf16(M, P, acc, x + i + 1, ldx, w + i * NR, panel, 1);
	}
	if (i < k)
		half_bf16(M, P, acc, x + i, ldx, w + i * NR, panel, 0);
}
#endif

#define MAX_SPLITS 4
/*
 * The term in 8 bits, added to sum [M][P][NR].  x: groups of the first row, ldx bytes to the next; panel: bytes.
 * Few sums are split in four, so that one does not wait for the other: they are whole numbers.
 */
INLINE void
term_int8(int M, int P, float *sum, const char *x, int64_t ldx, const uint8_t *w, int64_t panel, int64_t groups, const char *next,
    int64_t step)
{
	const int S = M * P < 4 ? MAX_SPLITS : 1;

	for (; groups > 0; groups--, x += sizeof(struct sal_group), w += GROUP_BYTES) {
#if defined(__AVX512VNNI__)
		__m512i acc[MR * 2 * MAX_SPLITS], b[2];

		UNROLL for (int m = 0; m < M; m++) {
			const struct sal_group *r = (const void *)(x + m * ldx);
			UNROLL for (int p = 0; p < P * S; p++)
				acc[m * P * S + p] = p % S ? _mm512_setzero_si512() : _mm512_set1_epi32(-r->less);
		}
		UNROLL for (int i = 0; i < GROUP / 4; i += S) {
			UNROLL for (int s = 0; s < S; s++, next += step) {
				__builtin_prefetch(next, 0, 2);
				UNROLL for (int p = 0; p < P; p++)
					b[p] = _mm512_loadu_si512(w + p * panel + (i + s) * 4 * NR);
				UNROLL for (int m = 0; m < M; m++) {
					int32_t four;
					memcpy(&four, x + m * ldx + (i + s) * 4, 4);
					__m512i a = _mm512_set1_epi32(four);
					UNROLL for (int p = 0; p < P; p++)
						acc[(m * P + p) * S + s] = _mm512_dpbusd_epi32(acc[(m * P + p) * S + s], b[p], a);
				}
			}
		}
		__builtin_prefetch(next, 0, 2);
		next += step;
		vf w_scale[2];
		UNROLL for (int p = 0; p < P; p++)
			w_scale[p] = vf_load((const float *)(const void *)(w + p * panel + GROUP * NR));
		__asm__ volatile("" ::: "memory"); /* float sums stay in memory: they would push those of the group out of their registers */
		UNROLL for (int m = 0; m < M; m++) {
			vf x_scale = vf_set1(((const struct sal_group *)(const void *)(x + m * ldx))->scale);
			UNROLL for (int p = 0; p < P; p++) {
				__m512i *s = acc + (m * P + p) * S;
				float *y = sum + (m * P + p) * NR;
				if (S == 4)
					s[0] = _mm512_add_epi32(_mm512_add_epi32(s[0], s[1]), _mm512_add_epi32(s[2], s[3]));
				vf_store(y, vf_fma(_mm512_cvtepi32_ps(s[0]), vf_mul(w_scale[p], x_scale), vf_load(y)));
			}
		}
#else
		(void)S, (void)panel; /* P is 1 */
		for (int i = 0; i < GROUP_BYTES / LINE; i++, next += step)
			__builtin_prefetch(next, 0, 2);
		for (int j = 0; j < NR; j += 8) {
			vf w_scale = vf_load((const float *)(const void *)(w + GROUP * NR) + j);
#if defined(__AVX2__)
			__m256i acc[MR * 2];

			UNROLL for (int m = 0; m < 2 * M; m++)
				acc[m] = _mm256_setzero_si256();
			for (int i = 0; i < GROUP / 4; i++) {
				const __m128i *q = (const __m128i *)(const void *)(w + i * 4 * NR + j * 4);
				__m256i b0 = _mm256_cvtepu8_epi16(_mm_loadu_si128(q)), b1 = _mm256_cvtepu8_epi16(_mm_loadu_si128(q + 1));
				UNROLL for (int m = 0; m < M; m++) {
					int64_t four;
					memcpy(&four, x + m * ldx + i * 8, 8);
					__m256i a = _mm256_set1_epi64x(four);
					acc[2 * m] = _mm256_add_epi32(acc[2 * m], _mm256_madd_epi16(b0, a));
					acc[2 * m + 1] = _mm256_add_epi32(acc[2 * m + 1], _mm256_madd_epi16(b1, a));
				}
			}
			UNROLL for (int m = 0; m < M; m++) {
				const struct sal_group *r = (const void *)(x + m * ldx);
				/* lanes of outputs 0 1 4 5 2 3 6 7 */
				__m256i s = _mm256_permute4x64_epi64(_mm256_hadd_epi32(acc[2 * m], acc[2 * m + 1]), 0xd8);
				float *y = sum + m * NR + j;
				s = _mm256_sub_epi32(s, _mm256_set1_epi32(r->less));
				vf_store(y, vf_fma(_mm256_cvtepi32_ps(s), vf_mul(w_scale, vf_set1(r->scale)), vf_load(y)));
			}
#else
			for (int m = 0; m < M; m++) {
				const struct sal_group *r = (const void *)(x + m * ldx);
				int32_t s[8] = { 0 };
				float f[8], *y = sum + m * NR + j;

				for (int i = 0; i < GROUP; i += 4) {
					const uint8_t *b = w + i * NR + j * 4;
					for (int c = 0; c < 8; c++)
						s[c] += b[4 * c] * r->q[i] + b[4 * c + 1] * r->q[i + 1] + b[4 * c + 2] * r->q[i + 2] + b[4 * c + 3] * r->q[i + 3];
				}
				for (int c = 0; c < 8; c++)
					f[c] = (float)(s[c] - r->less);
				vf_store(y, vf_fma(vf_load(f), vf_mul(w_scale, vf_set1(r->scale)), vf_load(y)));
			}
#endif
		}
#endif
	}
}

/* Rows of one block as the tile reads them: the caller's own, or expanded. */
struct rows {
	const void *x[2];
	int64_t ldx[2]; /* elements; bytes of groups in 8 bits */
	int esize[2];
	const char *next; /* what will be read soon, and how far from turn to turn */
	int64_t step;
};

INLINE void
tile(int M, int P, bool int8, const struct sal_gemm *q, const struct rows *r, int64_t row, int64_t p0, float *out)
{
	g acc[MAX_VECTORS];

	if (int8) {
		const struct sal_term *s = &q->term[0];
		memset(out, 0, (size_t)(M * P * NR) * sizeof *out);
		term_int8(M, P, out, (const char *)r->x[0] + row * r->ldx[0], r->ldx[0], (const uint8_t *)s->w + p0 * s->panel, s->panel,
		    int8_groups(s->k), r->next, r->step);
		if (q->terms == 1)
			return;
	}
	UNROLL for (int m = 0; m < M; m++)
		UNROLL for (int p = 0; p < P; p++)
			UNROLL for (int v = 0; v < NG; v++)
				acc[(m * P + p) * NG + v] = int8 ? g_load(out + (m * P + p) * NR + v * GL) : g_set1(0);
	for (int t = int8; t < q->terms; t++) {
		const struct sal_term *s = &q->term[t];
		const char *x = (const char *)r->x[t] + row * r->ldx[t] * r->esize[t], *next = t ? x : r->next;
		int64_t step = t ? 0 : r->step;
		if (q->dtype == SAL_F32)
			term_f32(M, P, acc, (const float *)(const void *)x, r->ldx[t], (const float *)s->w + p0 * s->panel, s->panel, s->k,
			    next, step);
		else
			term_bf16(M, P, acc, (const void *)x, r->ldx[t], (const bf16 *)s->w + p0 * s->panel, s->panel, s->k, next, step);
	}
	UNROLL for (int m = 0; m < M; m++)
		UNROLL for (int p = 0; p < P; p++)
			UNROLL for (int v = 0; v < NG; v++)
				g_store(out + (m * P + p) * NR + v * GL, acc[(m * P + p) * NG + v]);
}

/* One function per tile shape: M and P are constants in each, so the tile lives in registers. */
#define TILE_AS(name, M, P, int8)                                                                           \
	static __attribute__((noinline)) void name(                                                         \
	    const struct sal_gemm *q, const struct rows *r, int64_t row, int64_t p0, float *out)            \
	{                                                                                                   \
		tile(M, P, int8, q, r, row, p0, out);                                                       \
	}
#define TILE(M, P) TILE_AS(tile_##M##_##P, M, P, false)
#define TILE8(M, P) TILE_AS(tile8_##M##_##P, M, P, true)
typedef void tile_fn(const struct sal_gemm *q, const struct rows *r, int64_t row, int64_t p0, float *out);
/* tiles[m][p]; p runs over the powers of two up to FEW_PANELS(m) */
#if defined(__AVX512F__)
TILE(1, 1) TILE(2, 1) TILE(3, 1) TILE(4, 1) TILE(5, 1) TILE(6, 1)
TILE(1, 2) TILE(2, 2) TILE(3, 2) TILE(4, 2) TILE(5, 2) TILE(6, 2)
TILE(1, 4) TILE(2, 4) TILE(3, 4) TILE(4, 4) TILE(5, 4) TILE(6, 4)
#define ROW(m) [m] = { [1] = tile_##m##_1, [2] = tile_##m##_2, [4] = tile_##m##_4 }
static tile_fn *const tiles[MR + 1][MAX_P + 1] = { ROW(1), ROW(2), ROW(3), ROW(4), ROW(5), ROW(6) };
TILE8(1, 1) TILE8(2, 1) TILE8(3, 1) TILE8(4, 1) TILE8(5, 1) TILE8(6, 1)
TILE8(1, 2) TILE8(2, 2) TILE8(3, 2) TILE8(4, 2) TILE8(5, 2) TILE8(6, 2)
#define ROW8(m) [m] = { [1] = tile8_##m##_1, [2] = tile8_##m##_2 }
static tile_fn *const tiles8[MR + 1][MAX_P + 1] = { ROW8(1), ROW8(2), ROW8(3), ROW8(4), ROW8(5), ROW8(6) };
#define FEW_PANELS8(m) ((m) <= 2 ? 1 : 2)
#elif defined(__AVX2__)
TILE(1, 1) TILE(2, 1) TILE(3, 1) TILE(4, 1) TILE(5, 1) TILE(6, 1)
TILE(1, 4) TILE(1, 2) TILE(2, 2) TILE(3, 2)
static tile_fn *const tiles[MR + 1][MAX_P + 1] = {
	[1] = { [1] = tile_1_1, [2] = tile_1_2, [4] = tile_1_4 }, [2] = { [1] = tile_2_1, [2] = tile_2_2 },
	[3] = { [1] = tile_3_1, [2] = tile_3_2 }, [4] = { [1] = tile_4_1 }, [5] = { [1] = tile_5_1 }, [6] = { [1] = tile_6_1 } };
TILE8(1, 1) TILE8(2, 1) TILE8(3, 1) TILE8(4, 1) TILE8(5, 1) TILE8(6, 1)
#define ROW8(m) [m] = { [1] = tile8_##m##_1 }
static tile_fn *const tiles8[MR + 1][MAX_P + 1] = { ROW8(1), ROW8(2), ROW8(3), ROW8(4), ROW8(5), ROW8(6) };
#define FEW_PANELS8(m) 1
#else
TILE(1, 1) TILE(2, 1)
TILE(1, 2)
static tile_fn *const tiles[MR + 1][MAX_P + 1] = { [1] = { [1] = tile_1_1, [2] = tile_1_2 }, [2] = { [1] = tile_2_1 } };
TILE8(1, 1) TILE8(2, 1)
static tile_fn *const tiles8[MR + 1][MAX_P + 1] = { [1] = { [1] = tile8_1_1 }, [2] = { [1] = tile8_2_1 } };
#define FEW_PANELS8(m) 1
#endif

/* n <= NR finished sums to y: scale, bias, old y, in this order */
INLINE void
finish(const struct sal_gemm *q, const float *sum, int64_t row, int64_t col, int n)
{
	const float *bias = q->bias ? q->bias + col : NULL;
	float *yf = (float *)q->y + row * q->ldy + col;
	bf16 *yh = (bf16 *)q->y + row * q->ldy + col;
	bool half = q->ydtype == SAL_BF16;

	for (int j = 0; j < n; j += VL) {
		int l = n - j < VL ? n - j : VL;
		vf s = vf_load(sum + j);
		if (q->scale != 1.0f)
			s = vf_mul(vf_set1(q->scale), s);
		if (bias)
			s = vf_add(s, l == VL ? vf_load(bias + j) : vf_load_n(bias + j, l));
		if (half && l == VL) {
			if (q->accumulate)
				s = vf_add(s, vf_load_bf16(yh + j));
			vf_store_bf16(yh + j, s);
		} else if (half) {
			if (q->accumulate)
				s = vf_add(s, vf_load_bf16_n(yh + j, l));
			vf_store_bf16_n(yh + j, s, l);
		} else if (l == VL) {
			if (q->accumulate)
				s = vf_add(s, vf_load(yf + j));
			vf_store(yf + j, s);
		} else {
			if (q->accumulate)
				s = vf_add(s, vf_load_n(yf + j, l));
			vf_store_n(yf + j, s, l);
		}
	}
}

/* n elements of either dtype as floats */
static void
expand(float *dst, const void *src, enum sal_dtype dtype, int64_t n)
{
	const bf16 *h = src;
	int64_t i = 0;

	if (dtype == SAL_F32) {
		memcpy(dst, src, (size_t)n * 4);
		return;
	}
	for (; i + VL <= n; i += VL)
		vf_store(dst + i, vf_load_bf16(h + i));
	for (; i < n; i++)
		dst[i] = bf16_to_f32(h[i]);
}

#if !PAIRS
/* One panel of BF16 pairs as floats [k][NR]. */
static void
expand_panel(float *dst, const bf16 *w, int64_t k)
{
	const uint32_t *q = (const uint32_t *)(const void *)w;

	for (int64_t i = 0; i < k; i += 2, dst += 2 * NR, q += NR)
		for (int v = 0; v < NR; v += GL) {
			g_store(dst + v, g_even(q + v));
			g_store(dst + NR + v, g_odd(q + v));
		}
}
#endif

static int64_t
min64(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

static int64_t
ceil_div(int64_t a, int64_t b)
{
	return (a + b - 1) / b;
}

/* Floats that a copied row takes: groups in 8 bits, or its k elements. */
static int64_t
room_of(bool int8, int64_t k)
{
	return int8 ? int8_groups(k) * (int64_t)(sizeof(struct sal_group) / 4) : ceil_div(k, 16) * 16;
}

/* m rows of n sums that are nothing but stored, or added to what is there; n is whole vectors. */
INLINE void
put_rows(const struct sal_gemm *q, const float *sums, int m, int n, int64_t row, int64_t col, bool half, bool accumulate)
{
	for (int j = 0; j < m; j++, sums += n) {
		float *yf = (float *)q->y + (row + j) * q->ldy + col;
		bf16 *yh = (bf16 *)q->y + (row + j) * q->ldy + col;

		for (int c = 0; c < n; c += VL) {
			vf s = vf_load(sums + c);
			if (half)
				vf_store_bf16(yh + c, accumulate ? vf_add(s, vf_load_bf16(yh + c)) : s);
			else
				vf_store(yf + c, accumulate ? vf_add(s, vf_load(yf + c)) : s);
		}
	}
}

/* sums: [m][panels][NR] of the rows from row, columns from col */
static void
finish_tile(const struct sal_gemm *q, const float *sums, int m, int panels, int64_t row, int64_t col)
{
	bool half = q->ydtype == SAL_BF16;
	int n = panels * NR;

	if (q->scale != 1.0f || q->bias || col + n > q->out) {
		for (int j = 0; j < m; j++)
			for (int c = 0; c < n; c += NR)
				finish(q, sums + j * n + c, row + j, col + c, (int)min64(NR, q->out - col - c));
	} else if (q->accumulate) {
		half ? put_rows(q, sums, m, n, row, col, true, true) : put_rows(q, sums, m, n, row, col, false, true);
	} else {
		half ? put_rows(q, sums, m, n, row, col, true, false) : put_rows(q, sums, m, n, row, col, false, false);
	}
}

/* From one panel of the first term to the next. */
static int64_t
panel_bytes(const struct sal_gemm *q)
{
	return q->term[0].panel * (q->int8 ? 1 : q->dtype == SAL_BF16 ? 2 : 4);
}

/*
 * Work on panels p0 .. p1-1 of one product for n rows from row i0; r: as the tiles read them.  after: the panel that this
 * thread will want next, or NULL.  wbuf: room for one panel as floats, or NULL.
 */
static void
strips(const struct sal_gemm *q, struct rows *r, int64_t i0, int64_t n, int64_t p0, int64_t p1, const char *after, float *wbuf)
{
	float sums[MR * MAX_P * NR] __attribute__((aligned(64)));
	int64_t steps = ceil_div(n, MR), small = n / steps, large = n % steps; /* rows of a tile: small, or one more in the first */
	int top = (int)(small + (large > 0)), few = q->int8 ? FEW_PANELS8(top) : FEW_PANELS(top);
	const struct sal_term *first = &q->term[0];
	bool near = q->int8 && few == 1 && steps == 1; /* one pass over one panel after the other: a stream */
	tile_fn *const (*shapes)[MAX_P + 1] = q->int8 ? tiles8 : tiles;
	int64_t bytes = panel_bytes(q), esize = q->ydtype == SAL_BF16 ? 2 : 4;
	const char *out = q->y;

	/* all rows over one strip of panels, then the next: the strip stays in the nearest caches */
	for (int64_t p = p0, np; p < p1; p += np) {
		const struct sal_gemm *use = q;
		int64_t shift = 0;

		np = min64(few, p1 - p);
		const char *strip = (const char *)first->w + p * bytes, *next = p + np < p1 ? strip + np * bytes : after;
#if !PAIRS
		struct sal_gemm q32;
		if (wbuf && np == 1) {
			q32 = *q;
			q32.dtype = SAL_F32;
			for (int t = 0; t < q->terms; t++) {
				const struct sal_term *s = &q->term[t];
				expand_panel(wbuf, (const bf16 *)s->w + p * s->panel, s->k);
				q32.term[t].w = wbuf;
				q32.term[t].panel = 0;
				wbuf += ceil_div(s->k, 2) * 2 * NR;
			}
			wbuf = (float *)(void *)(uintptr_t)q32.term[0].w;
			use = &q32;
			shift = p;
		}
#else
		(void)wbuf;
#endif
		for (int64_t i = 0, k = 0; k < steps; k++) {
			int m = (int)(small + (k < large));

			/* each of the first tiles fetches its part of the strip that follows */
			r->next = near ? strip + AHEAD : k < few && next ? next + k * bytes : (const char *)r->x[0];
			r->step = near || (k < few && next) ? LINE : 0;
			for (int64_t s = p; s < p + np;) {
				int wp = few;
				while (wp > p + np - s || !shapes[m][wp])
					wp /= 2;
				for (int j = 0; j < m; j++) /* where the sums will go: from memory while they are made */
					for (const char *y = out + (i0 + i + j) * q->ldy * esize + s * NR * esize, *end = y + wp * NR * esize; y < end; y += LINE)
						__builtin_prefetch(y, 1);
				shapes[m][wp](use, r, i, s - shift, sums);
				finish_tile(q, sums, m, wp, i0 + i, s * NR);
				s += wp;
			}
			i += m;
		}
	}
}

/* What is left of one share of the work: panels of all products, numbered in the order of blocks. */
struct share {
	int64_t at, end;
};

/*
 * Take n more panels of one block, from the front of the thread's own share, or, when nothing is left of it, from the end
 * of the largest.  follow: panels up to there are what this thread takes next.  False when nothing is left.
 */
static bool
claim(struct share *share, int shares, int own, int64_t panels, int64_t *at, int64_t *n, int64_t *follow)
{
	struct share *s = &share[own];

#pragma omp critical(sal_gemm_claim)
	{
		for (int i = 0; i < shares && share[own].at == share[own].end; i++)
			if (share[i].end - share[i].at > s->end - s->at)
				s = &share[i];
		int64_t left = s->end - s->at, half = left / 2;
		if (s == &share[own]) {
			*n = min64(half >= 4 ? half / 4 * 4 : min64(left, 4), panels - s->at % panels);
			*at = s->at;
			*follow = s->end;
			s->at += *n;
		} else {
			*n = min64(half >= 4 ? half / 4 * 4 : left - half, (s->end - 1) % panels + 1);
			*at = s->end - *n;
			*follow = s->end;
			s->end -= *n;
		}
	}
	return *n > 0;
}

/* Where the panel numbered p of a block is; of the one behind the last, the first. */
static const char *
follows(const struct sal_gemm *q, int count, const int64_t *start, int64_t p)
{
	int i = 0;

	p %= start[count];
	while (p >= start[i + 1])
		i++;
	return (const char *)q[i].term[0].w + (p - start[i]) * panel_bytes(&q[i]);
}

/* Is term t of both made of the same rows, and at the same place in a block's copy? */
static bool
same_rows(const struct sal_gemm *a, const struct sal_gemm *b, int t)
{
	const struct sal_term *s = &a->term[t], *o = &b->term[t];

	return t < b->terms && a->int8 == b->int8 && s->x == o->x && s->ldx == o->ldx && s->k == o->k && (t == 0 || a->term[0].k == b->term[0].k);
}

void
FN(sal_cpu_gemm)(struct sal_dev *dev, const struct sal_gemm *gemm, int count)
{
	struct sal_gemm q[SAL_LINEARS];
	int64_t n = gemm[0].n, panels = 0, work = 0, ld = 0, start[SAL_LINEARS + 1];
	bool expanded = gemm[0].dtype == SAL_BF16 && !PAIRS, copied = expanded;

	for (int i = 0; i < count; i++) {
		int64_t depth = 0, wide = 0;

		q[i] = gemm[i];
		copied |= q[i].int8;
		for (int t = 0; t < q[i].terms; t++) {
			struct sal_term *s = &q[i].term[t];
			if (!s->panel)
				s->panel = q[i].int8 && !t ? int8_groups(s->k) * GROUP_BYTES : (q[i].dtype == SAL_BF16 ? (s->k + 1) / 2 * 2 : s->k) * NR;
			depth += s->k;
			wide += room_of(q[i].int8 && !t, s->k);
		}
		start[i] = panels;
		panels += ceil_div(q[i].out, NR);
		work += n * depth * q[i].out;
		ld = wide > ld ? wide : ld;
	}
	start[count] = panels;
	if (n <= 0 || panels <= 0)
		return;
	if (ld % 1024 == 0)
		ld += 16; /* rows a multiple of 4 KiB apart would fight for the same cache lines */

	int64_t most = BLOCK_BYTES / (gemm[0].dtype == SAL_BF16 && !copied ? 2 : 4) / ld / MR * MR;
	int64_t blocks = ceil_div(n, most < MR ? MR : most);
	int threads = work < SMALL_WORK ? 1 : dev->threads;
	if (threads > 1 && blocks * panels < 4 * threads) /* few outputs: share out the rows */
		blocks = min64(ceil_div(4 * threads, panels), ceil_div(n, MR));
	int64_t block = ceil_div(ceil_div(n, blocks), MR) * MR;
	blocks = ceil_div(n, block);

	/* with many rows to a panel, it too is expanded; the products are the same */
	bool panel32 = expanded && block >= 4 * MR;
	int64_t own = block * ld + (panel32 ? ld * NR : 0); /* floats of one thread */
	float *scratch = NULL;
	if (copied && !(scratch = sal_cpu_scratch(dev, SAL_SLOT_GEMM, (size_t)(threads * own) * 4)))
		return;
	struct share share[MAX_SHARES];
	int shares = threads < MAX_SHARES ? threads : MAX_SHARES;
	for (int i = 0; i < shares; i++)
		share[i] = (struct share){ blocks * panels * i / shares, blocks * panels * (i + 1) / shares };

#pragma omp parallel num_threads(threads)
	{
		float *buf = scratch ? scratch + (int64_t)omp_get_thread_num() * own : NULL;
		float *wbuf = buf && panel32 ? buf + block * ld : NULL;
		int64_t have = -1, at, got, follow;

		while (claim(share, shares, omp_get_thread_num() % shares, panels, &at, &got, &follow)) {
			int64_t b = at / panels, i0 = b * block, rows = min64(block, n - i0), p0 = at % panels, p1 = p0 + got;

			for (int i = 0; i < count; i++) {
				int64_t f = p0 > start[i] ? p0 : start[i], l = min64(p1, start[i + 1]);
				struct rows r = { .step = 0 };

				if (f >= l)
					continue;
				for (int64_t t = 0, to = 0; t < q[i].terms; to += room_of(q[i].int8 && !t, q[i].term[t].k), t++) {
					const struct sal_term *s = &q[i].term[t];
					bool groups = q[i].int8 && !t, copy = groups || expanded;
					int64_t esize = q[i].dtype == SAL_BF16 ? 2 : 4;

					r.x[t] = copy ? (const void *)(buf + to) : (const char *)s->x + i0 * s->ldx * esize;
					r.ldx[t] = groups ? ld * 4 : copy ? ld : s->ldx;
					r.esize[t] = copy ? 4 : (int)esize;
					bool here = have >= 0 && have / count == b && same_rows(&q[i], &q[have % count], t);
					for (int64_t k = 0; copy && k < rows && !here; k++) {
						const char *x = (const char *)s->x + (i0 + k) * s->ldx * esize;
						if (groups)
							int8_row((void *)(buf + k * ld + to), x, esize == 2, s->k);
						else
							expand(buf + k * ld + to, x, SAL_BF16, s->k);
					}
				}
				have = b * count + i;
				strips(&q[i], &r, i0, rows, f - start[i], l - start[i], l < follow - b * panels ? follows(q, count, start, l) : NULL,
				    q[i].int8 ? NULL : wbuf);
			}
		}
	}
}

/* ---- packing ------------------------------------------------------------- */

/* Place of (output o, k) in a matrix whose sums have length n. */
INLINE int64_t
place(enum sal_dtype dtype, int64_t n, int64_t o, int64_t k)
{
	if (dtype == SAL_F32)
		return (o / NR * n + k) * NR + o % NR;
	return (o / NR * ((n + 1) / 2 * 2) + (k & ~(int64_t)1)) * NR + o % NR * 2 + (k & 1);
}

/* Rows o0 .. o1-1, of one panel, from src [o1-o0, K], times scale; half: room for a row. */
static void
pack_rows(struct sal_weight w, int64_t o0, int64_t o1, const float *src, float scale, bf16 *half)
{
	int64_t k = w.in, pairs = ceil_div(k, 2), deep = ceil_div(w.out, 2);

	for (int64_t o = o0; o < o1; o++, src += k) {
		if (w.form == SAL_INT8) {
			int8_pack(w.fwd, o, src, scale, k);
			continue;
		}
		if (w.dtype == SAL_F32) {
			float *f = (float *)w.fwd + place(SAL_F32, k, o, 0), *b = w.bwd;
			for (int64_t j = 0; j < k; j++)
				f[j * NR] = scale * src[j];
			for (int64_t j = 0; b && j < k; j++)
				b[place(SAL_F32, w.out, j, o)] = scale * src[j];
			continue;
		}
		uint32_t *f = (uint32_t *)w.fwd + o / NR * pairs * NR + o % NR;
		bf16 *b = w.bwd;
		half[k] = 0;
		for (int64_t j = 0; j < k; j += VL) {
			int n = vf_lanes(k - j);
			vf_store_any(half, true, j, vf_mul(vf_set1(scale), vf_load_any(src, false, j, n)), n);
		}
		for (int64_t j = 0; j < pairs; j++)
			memcpy(f + j * NR, half + 2 * j, sizeof *f);
		if (b == NULL)
			continue;
		b += o / 2 * 2 * NR + (o & 1);
		for (int64_t j = 0; j < k; j++)
			b[j / NR * deep * 2 * NR + j % NR * 2] = half[j];
	}
}

/* What no row fills: the end of the last panel of each copy, and of its last pair. */
static void
pack_ends(struct sal_weight w)
{
	int64_t e = w.dtype == SAL_BF16 ? 2 : 4, k = w.in, outs = ceil_div(w.out, NR) * NR, ins = ceil_div(k, NR) * NR;
	int64_t even = w.dtype == SAL_BF16 ? ceil_div(w.out, 2) * 2 : w.out;

	if (w.form == SAL_INT8) {
		for (int64_t o = w.out; o < outs; o++)
			int8_clear(w.fwd, o, k);
		return;
	}
	for (int64_t o = w.out; o < outs; o++)
		for (int64_t j = 0; j < k + (w.dtype == SAL_BF16 && k % 2); j++)
			memset((char *)w.fwd + place(w.dtype, k, o, j) * e, 0, (size_t)e);
	for (int64_t j = 0; w.bwd && j < ins; j++)
		for (int64_t o = j < k ? w.out : 0; o < even; o++)
			memset((char *)w.bwd + place(w.dtype, w.out, j, o) * e, 0, (size_t)e);
}

/* Set rows row0 .. row0+n-1, a panel to a task, so that no cache line has two writers.  src: floats; or blocks of form. */
static void
pack(struct sal_dev *dev, struct sal_weight w, int64_t row0, int64_t n, const void *src, enum sal_form form, float scale)
{
	int64_t k = w.in, first = row0 / NR, count = ceil_div(row0 + n, NR) - first, own = ceil_div(k + 64, 16) * 16 * (NR + 1);
	int threads = n * k < SMALL_WORK ? 1 : dev->threads;
	float *room = sal_cpu_scratch(dev, SAL_SLOT_A, (size_t)(threads * own) * sizeof *room);

	if (!room)
		return;
#pragma omp parallel for num_threads(threads) schedule(static)
	for (int64_t b = 0; b < count; b++) {
		float *half = room + omp_get_thread_num() * own, *rows = half + ceil_div(k + 64, 16) * 16;
		int64_t o0 = (first + b) * NR, o1 = min64(o0 + NR, row0 + n);

		o0 = o0 < row0 ? row0 : o0;
		if (form == SAL_PLAIN)
			pack_rows(w, o0, o1, (const float *)src + (o0 - row0) * k, scale, (bf16 *)(void *)half);
		else {
			int64_t from = (o0 - row0) * k, edge = from % sal_form_block(form);
			sal_blocks_decode(form, src, n * k, from - edge, (o1 - o0) * k + edge, rows);
			pack_rows(w, o0, o1, rows + edge, scale, (bf16 *)(void *)half);
		}
	}
	if (row0 + n == w.out)
		pack_ends(w);
}

void
FN(sal_cpu_weight_pack)(struct sal_dev *dev, struct sal_weight w, int64_t row0, struct sal_tensor src, float scale)
{
	pack(dev, w, row0, src.dim[0], src.data, SAL_PLAIN, scale);
}

void
FN(sal_cpu_weight_store)(struct sal_dev *dev, struct sal_weight w, enum sal_form form, int64_t row0, int64_t n, const void *src)
{
	pack(dev, w, row0, n, src, form, 1);
}

/* ---- operations ---------------------------------------------------------- */

static struct sal_gemm
product(const struct sal_linear *m, struct sal_tensor x, bool accumulate)
{
	struct sal_gemm q = { .dtype = m->w.dtype, .int8 = m->w.form == SAL_INT8, .ydtype = m->y.dtype, .n = x.dim[0], .out = m->w.out, .terms = m->b ? 2 : 1,
		.y = m->y.data, .ldy = m->w.out, .bias = m->bias.ndim ? m->bias.data : NULL, .scale = 1, .accumulate = accumulate };

	q.term[0] = (struct sal_term){ .x = x.data, .w = m->w.fwd, .k = m->w.in, .ldx = m->w.in };
	if (m->b)
		q.term[1] = (struct sal_term){ .x = m->u.data, .w = m->b->fwd, .k = m->b->in, .ldx = m->b->in };
	return q;
}

void
FN(sal_cpu_linear_forward)(struct sal_dev *dev, struct sal_tensor y, struct sal_tensor x, struct sal_weight w,
    struct sal_tensor bias, struct sal_tensor u, const struct sal_weight *b, bool accumulate)
{
	struct sal_linear m = { .y = y, .bias = bias, .u = u, .w = w, .b = b };
	struct sal_gemm q = product(&m, x, accumulate);

	FN(sal_cpu_gemm)(dev, &q, 1);
}

void
FN(sal_cpu_linears_forward)(struct sal_dev *dev, const struct sal_linear *map, int n, struct sal_tensor x)
{
	struct sal_gemm q[SAL_LINEARS];

	for (int i = 0; i < n; i++)
		q[i] = product(&map[i], x, false);
	FN(sal_cpu_gemm)(dev, q, n);
}

void
FN(sal_cpu_linear_backward)(struct sal_dev *dev, struct sal_tensor dx, struct sal_tensor dy, struct sal_weight w,
    struct sal_tensor du, const struct sal_weight *a, bool accumulate)
{
	struct sal_gemm q = { .dtype = w.dtype, .ydtype = dx.dtype, .n = dy.dim[0], .out = w.in, .terms = a ? 2 : 1,
		.y = dx.data, .ldy = w.in, .scale = 1, .accumulate = accumulate };

	q.term[0] = (struct sal_term){ .x = dy.data, .w = w.bwd, .k = w.out, .ldx = w.out };
	if (a)
		q.term[1] = (struct sal_term){ .x = du.data, .w = a->bwd, .k = a->out, .ldx = a->out };
	FN(sal_cpu_gemm)(dev, &q, 1);
}

/* linear_grad(): rows of a tile, vectors of its columns, and of how many t the wide operand stays in the nearest cache. */
#define OUTER_M 4
#if defined(__AVX512F__)
#define OUTER_P 6
#elif defined(__AVX2__)
#define OUTER_P 2
#else
#define OUTER_P 1
#endif
#define OUTER_COLS (OUTER_P * VL)
#define OUTER_LEN 128

/*
 * sums [OUTER_M][P * VL], from 0 where first, += rows[t][m] wide[t][c], t = 0 .. len-1; lanes: columns of the last vector;
 * next: a line of what comes after, fetched meanwhile.
 */
INLINE void
outer(int P, bool half, bool first, float *sums, const float *rows, int64_t ldr, const void *wide, int64_t ldw, int64_t len,
    int lanes, const char *next)
{
	vf acc[OUTER_M * OUTER_P];

	UNROLL for (int i = 0; i < OUTER_M * P; i++)
		acc[i] = first ? vf_set1(0) : vf_load(sums + i * VL);
	for (int64_t t = 0; t < len; t++, next += ldw * (half ? 2 : 4)) {
		vf b[OUTER_P];
		__builtin_prefetch(next);
		UNROLL for (int p = 0; p < P; p++)
			b[p] = vf_load_any(wide, half, t * ldw + p * VL, P == 1 ? lanes : VL);
		UNROLL for (int m = 0; m < OUTER_M; m++) {
			vf a = vf_set1(rows[t * ldr + m]);
			UNROLL for (int p = 0; p < P; p++)
				acc[m * P + p] = vf_fma(a, b[p], acc[m * P + p]);
		}
	}
	UNROLL for (int i = 0; i < OUTER_M * P; i++)
		vf_store(sums + i * VL, acc[i]);
}

/* The narrower operand, as floats, serves as the rows of tiles; the wider one is read where it stands. */
void
FN(sal_cpu_linear_grad)(struct sal_dev *dev, struct sal_tensor dw, struct sal_tensor dy, struct sal_tensor x,
    float scale, bool accumulate)
{
	int64_t len = dy.dim[0], out = dw.dim[0], in = dw.dim[1];
	bool turned = out > in;
	struct sal_tensor rows = turned ? x : dy, wide = turned ? dy : x;
	bool half = wide.dtype == SAL_BF16;
	int64_t n = turned ? in : out, w = turned ? out : in, ld = ceil_div(n, OUTER_M) * OUTER_M, esize = half ? 2 : 4;
	int64_t down = turned ? 1 : w, right = turned ? n : 1; /* from a sum to the next in dw */
	int threads = len * out * in < SMALL_WORK ? 1 : dev->threads;
	float *r = sal_cpu_scratch(dev, SAL_SLOT_A, (size_t)(ceil_div(len, 16) * 16 * ld + threads * ld * OUTER_COLS) * 4);

	if (!r)
		return;
	for (int64_t t = 0; t < len; t++) {
		expand(r + t * ld, (const char *)rows.data + t * n * (rows.dtype == SAL_BF16 ? 2 : 4), rows.dtype, n);
		memset(r + t * ld + n, 0, (size_t)(ld - n) * 4);
	}
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
	for (int64_t b = 0; b < ceil_div(w, OUTER_COLS); b++) {
		float *sums = r + ceil_div(len, 16) * 16 * ld + omp_get_thread_num() * ld * OUTER_COLS; /* [n][step], for one c after the other */
		int64_t c0 = b * OUTER_COLS, c1 = min64(c0 + OUTER_COLS, w), step = c1 - c0 == OUTER_COLS ? OUTER_COLS : VL;

		for (int64_t c = c0; c < c1; c += step) {
			int64_t cols = min64(step, c1 - c);

			for (int64_t t = 0; t < len; t += OUTER_LEN)
				for (int64_t i = 0; i < n; i += OUTER_M) {
					const char *from = (const char *)wide.data + (t * w + c) * esize;
					const char *next = from + OUTER_LEN * w * esize + i / OUTER_M * LINE;
					const float *ri = r + t * ld + i;
					float *si = sums + i * step;
					int64_t m = min64(OUTER_LEN, len - t);

					if (step == OUTER_COLS && half)
						outer(OUTER_P, true, t == 0, si, ri, ld, from, w, m, VL, next);
					else if (step == OUTER_COLS)
						outer(OUTER_P, false, t == 0, si, ri, ld, from, w, m, VL, next);
					else
						outer(1, half, t == 0, si, ri, ld, from, w, m, (int)cols, next);
				}
			for (int64_t i = 0; i < n; i++)
				for (int64_t j = 0; j < cols; j++) {
					float *d = (float *)dw.data + i * down + (c + j) * right, s = scale * sums[i * step + j];
					*d = accumulate ? s + *d : s;
				}
		}
	}
}

void
FN(sal_cpu_embedding_forward)(struct sal_dev *dev, struct sal_tensor y, struct sal_weight w, struct sal_tensor ids)
{
	const int32_t *id = ids.data;
	int64_t n = ids.dim[0];
	float *out = y.data;

	for (int64_t i = 0; i < n; i++)
		if (id[i] < 0 || id[i] >= w.out) {
			sal_dev_fail(dev, "embedding_forward: id %d of row %lld is not below %lld", (int)id[i], (long long)i,
			    (long long)w.out);
			return;
		}
#pragma omp parallel for num_threads(n * w.in < SMALL_WORK ? 1 : dev->threads)
	for (int64_t i = 0; i < n; i++)
		for (int64_t j = 0; j < w.in; j++) {
			int64_t at = place(w.dtype, w.in, id[i], j);
			out[i * w.in + j] = w.form == SAL_INT8 ? int8_at(w.fwd, w.in, id[i], j) : w.dtype == SAL_F32 ? ((const float *)w.fwd)[at] : bf16_to_f32(((const bf16 *)w.fwd)[at]);
		}
}
