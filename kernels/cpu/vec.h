/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vec.h - one vector of floats, in the widths of the three instruction sets.
 *
 * Every file of kernels/cpu is compiled once per instruction set with
 * SAL_ISA = portable, avx2 or avx512; vec.h gives each compilation the same
 * names over VL = 8, 8 or 16 lanes.  FN(name) appends the instruction set, so
 * that the three copies link side by side.  Multiply-adds are fused where the
 * set has the instruction and two operations in portable C.
 */
#ifndef SAL_VEC_H
#define SAL_VEC_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define FN_PASTE_(a, b) a##_##b
#define FN_PASTE(a, b) FN_PASTE_(a, b)
#define FN(name) FN_PASTE(name, SAL_ISA)

typedef uint16_t bf16;

static inline float
bf16_to_f32(bf16 h)
{
	uint32_t u = (uint32_t)h << 16;
	float f;
	memcpy(&f, &u, 4);
	return f;
}

/* Round to nearest, ties to even; a NaN stays a NaN. */
static inline bf16
f32_to_bf16(float f)
{
	uint32_t u;
	memcpy(&u, &f, 4);
	if ((u & 0x7fffffffu) > 0x7f800000u)
		return (bf16)(u >> 16 | 0x40);
	return (bf16)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}

#if defined(__AVX512F__)
#include <immintrin.h>
#define VL 16
typedef __m512 vf;
static inline vf vf_set1(float x) { return _mm512_set1_ps(x); }
static inline vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void vf_store(float *p, vf a) { _mm512_storeu_ps(p, a); }
static inline vf vf_load_n(const float *p, int n) { return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p); }
static inline void vf_store_n(float *p, vf a, int n) { _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), a); }
static inline vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
static inline vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
static inline vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
static inline vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
static inline vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
static inline vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }
static inline vf vf_sqrt(vf a) { return _mm512_sqrt_ps(a); }
static inline vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); } /* a*b + c */
static inline vf vf_round(vf a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
/* a * 2^n for integral n in [-126, 127] */
static inline vf
vf_ldexp(vf a, vf n)
{
	__m512i e = _mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23);
	return _mm512_mul_ps(a, _mm512_castsi512_ps(e));
}
/* a where x >= lim, else 0 */
static inline vf vf_keep_ge(vf a, vf x, vf lim) { return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, lim, _CMP_GE_OQ), a); }
static inline float vf_sum(vf a) { return _mm512_reduce_add_ps(a); }
static inline float vf_hmax(vf a) { return _mm512_reduce_max_ps(a); }
static inline vf
vf_load_bf16(const bf16 *p)
{
	return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16));
}
static inline vf
vf_load_bf16_n(const bf16 *p, int n)
{
	bf16 t[16] = { 0 };
	memcpy(t, p, (size_t)n * 2);
	return vf_load_bf16(t);
}
/* to nearest, ties to even, as f32_to_bf16(), but for numbers below 2^-126: those become 0 */
static inline void
vf_store_bf16(bf16 *p, vf a)
{
	_mm256_storeu_si256((__m256i *)p, (__m256i)_mm512_cvtneps_pbh(a));
}
#elif defined(__AVX2__)
#include <immintrin.h>
#define VL 8
typedef __m256 vf;
static inline vf vf_set1(float x) { return _mm256_set1_ps(x); }
static inline vf vf_load(const float *p) { return _mm256_loadu_ps(p); }
static inline void vf_store(float *p, vf a) { _mm256_storeu_ps(p, a); }
static inline __m256i
vf_mask_n(int n)
{
	return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
static inline vf vf_load_n(const float *p, int n) { return _mm256_maskload_ps(p, vf_mask_n(n)); }
static inline void vf_store_n(float *p, vf a, int n) { _mm256_maskstore_ps(p, vf_mask_n(n), a); }
static inline vf vf_add(vf a, vf b) { return _mm256_add_ps(a, b); }
static inline vf vf_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
static inline vf vf_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
static inline vf vf_div(vf a, vf b) { return _mm256_div_ps(a, b); }
static inline vf vf_max(vf a, vf b) { return _mm256_max_ps(a, b); }
static inline vf vf_min(vf a, vf b) { return _mm256_min_ps(a, b); }
static inline vf vf_sqrt(vf a) { return _mm256_sqrt_ps(a); }
static inline vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
static inline vf vf_round(vf a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline vf
vf_ldexp(vf a, vf n)
{
	__m256i e = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
	return _mm256_mul_ps(a, _mm256_castsi256_ps(e));
}
static inline vf vf_keep_ge(vf a, vf x, vf lim) { return _mm256_and_ps(a, _mm256_cmp_ps(x, lim, _CMP_GE_OQ)); }
static inline float
vf_sum(vf a)
{
	__m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
	s = _mm_add_ps(s, _mm_movehl_ps(s, s));
	return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
static inline float
vf_hmax(vf a)
{
	__m128 s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
	s = _mm_max_ps(s, _mm_movehl_ps(s, s));
	return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
static inline vf
vf_load_bf16(const bf16 *p)
{
	return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16));
}
static inline vf
vf_load_bf16_n(const bf16 *p, int n)
{
	bf16 t[8] = { 0 };
	memcpy(t, p, (size_t)n * 2);
	return vf_load_bf16(t);
}
static inline void
vf_store_bf16(bf16 *p, vf a)
{
	__m256i u = _mm256_castps_si256(a);
	__m256i r = _mm256_add_epi32(u,
	    _mm256_add_epi32(_mm256_set1_epi32(0x7fff), _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1))));
	__m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
	r = _mm256_blendv_epi8(r, _mm256_or_si256(u, _mm256_set1_epi32(0x400000)), nan);
	r = _mm256_srli_epi32(r, 16);
	r = _mm256_permute4x64_epi64(_mm256_packus_epi32(r, r), 0x08);
	_mm_storeu_si128((__m128i *)p, _mm256_castsi256_si128(r));
}
#else
#define VL 8
typedef float vf __attribute__((vector_size(32)));
typedef int32_t vi_ __attribute__((vector_size(32)));
static inline vf vf_set1(float x) { return (vf){ x, x, x, x, x, x, x, x }; }
static inline vf vf_load(const float *p) { vf a; memcpy(&a, p, sizeof a); return a; }
static inline void vf_store(float *p, vf a) { memcpy(p, &a, sizeof a); }
static inline vf vf_load_n(const float *p, int n) { vf a = { 0 }; memcpy(&a, p, (size_t)n * 4); return a; }
static inline void vf_store_n(float *p, vf a, int n) { memcpy(p, &a, (size_t)n * 4); }
static inline vf vf_add(vf a, vf b) { return a + b; }
static inline vf vf_sub(vf a, vf b) { return a - b; }
static inline vf vf_mul(vf a, vf b) { return a * b; }
static inline vf vf_div(vf a, vf b) { return a / b; }
static inline vf vf_sel_(vi_ m, vf a, vf b) { return (vf)((m & (vi_)a) | (~m & (vi_)b)); }
static inline vf vf_max(vf a, vf b) { return vf_sel_(a > b, a, b); }
static inline vf vf_min(vf a, vf b) { return vf_sel_(a < b, a, b); }
static inline vf vf_sqrt(vf a) { for (int i = 0; i < VL; i++) a[i] = sqrtf(a[i]); return a; }
static inline vf vf_fma(vf a, vf b, vf c) { return a * b + c; }
/* nearest, ties to even, for |a| < 2^22 */
static inline vf vf_round(vf a) { vf big = vf_set1(12582912.0f); return (a + big) - big; }
static inline vf
vf_ldexp(vf a, vf n)
{
	vi_ e = (__builtin_convertvector(n, vi_) + 127) << 23;
	return a * (vf)e;
}
static inline vf vf_keep_ge(vf a, vf x, vf lim) { return (vf)((vi_)a & (x >= lim)); }
static inline float vf_sum(vf a) { return ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7])); }
static inline float
vf_hmax(vf a)
{
	float m = a[0];
	for (int i = 1; i < VL; i++)
		m = a[i] > m ? a[i] : m;
	return m;
}
static inline vf
vf_load_bf16_n(const bf16 *p, int n)
{
	vf a = { 0 };
	for (int i = 0; i < n; i++)
		a[i] = bf16_to_f32(p[i]);
	return a;
}
static inline vf vf_load_bf16(const bf16 *p) { return vf_load_bf16_n(p, VL); }
static inline void
vf_store_bf16(bf16 *p, vf a)
{
	for (int i = 0; i < VL; i++)
		p[i] = f32_to_bf16(a[i]);
}
#endif

static inline void
vf_store_bf16_n(bf16 *p, vf a, int n)
{
	bf16 t[VL];
	vf_store_bf16(t, a);
	memcpy(p, t, (size_t)n * 2);
}

/* n <= VL elements from element i of p: BF16 where h, else F32. */
static inline vf
vf_load_any(const void *p, bool h, int64_t i, int n)
{
	if (h)
		return n == VL ? vf_load_bf16((const bf16 *)p + i) : vf_load_bf16_n((const bf16 *)p + i, n);
	return n == VL ? vf_load((const float *)p + i) : vf_load_n((const float *)p + i, n);
}

static inline void
vf_store_any(void *p, bool h, int64_t i, vf a, int n)
{
	if (h && n == VL)
		vf_store_bf16((bf16 *)p + i, a);
	else if (h)
		vf_store_bf16_n((bf16 *)p + i, a, n);
	else if (n == VL)
		vf_store((float *)p + i, a);
	else
		vf_store_n((float *)p + i, a, n);
}

static inline int
vf_lanes(int64_t left)
{
	return left < VL ? (int)left : VL;
}

/*
 * e^x to 2 ulp for x <= 88; 0 for x < -87 and for -inf.  Range reduction by Cody and
 * Waite (ln 2 in two parts), then the Taylor polynomial of degree 7 on |r| <= ln(2)/2,
 * whose remainder is below 6e-9; the error is measured in tests/kernels.
 */
static inline vf
vf_exp(vf x)
{
	vf lo = vf_set1(-87.0f), c = vf_min(vf_max(x, lo), vf_set1(88.0f));
	vf n = vf_round(vf_mul(c, vf_set1(1.44269504088896341f)));
	vf r = vf_fma(n, vf_set1(-0.693359375f), c);
	r = vf_fma(n, vf_set1(2.12194440e-4f), r);
	vf p = vf_set1(1.0f / 5040);
	p = vf_fma(p, r, vf_set1(1.0f / 720));
	p = vf_fma(p, r, vf_set1(1.0f / 120));
	p = vf_fma(p, r, vf_set1(1.0f / 24));
	p = vf_fma(p, r, vf_set1(1.0f / 6));
	p = vf_fma(p, r, vf_set1(0.5f));
	p = vf_fma(p, r, vf_set1(1.0f));
	p = vf_fma(p, r, vf_set1(1.0f));
	return vf_keep_ge(vf_ldexp(p, n), x, lo);
}

#endif
