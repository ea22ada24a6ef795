/* SPDX-License-Identifier: Apache-2.0 */
/*
 * blocks.cu - matrices in blocks: stored as they come, decoded by a thread an element.
 *
 * The arithmetic of an element is that of kernels/blocks.c, operation for operation, so that
 * the bits are the same; the bytes are described there.
 */
#include "cuda.h"

typedef uint8_t u8;

__device__ static inline float
half_at(const u8 *p)
{
	unsigned h = p[0] | (unsigned)p[1] << 8, m = h & 0x7fff, u = (m << 13) + ((m >= 0x7c00 ? 224u : 112u) << 23);

	if (m < 0x400) /* zero and subnormal: 0.5 with m added to its last bits, less 0.5 */
		u = __float_as_uint(__uint_as_float(0x3f000000u | m) - 0.5f);
	return __uint_as_float(u | (h & 0x8000) << 16);
}

__device__ static inline float
float_at(const u8 *b, int64_t i)
{
	return ((const float *)b)[i];
}

/* Element i of a matrix of n. */
template <int FORM>
__device__ static inline float
element(const u8 *b, int64_t n, int64_t i)
{
	if constexpr (FORM == SAL_NF4) {
		int64_t block = i / 64, groups = ((n + 63) / 64 + 255) / 256;
		const u8 *codes = b + 4 * (SAL_NF4_HEAD + groups), *scales = codes + (n + 1) / 2;
		int code = i & 1 ? codes[i / 2] & 15 : codes[i / 2] >> 4;

		return float_at(b, 1 + code) * (float_at(b, 17 + scales[block]) * float_at(b, SAL_NF4_HEAD + block / 256) + float_at(b, 0));
	} else if constexpr (FORM == SAL_Q4_0 || FORM == SAL_Q4_1) {
		constexpr int HEAD = FORM == SAL_Q4_0 ? 2 : 4;
		int j = i % 32;

		b += i / 32 * (HEAD + 16);
		int q = j < 16 ? b[HEAD + j] & 15 : b[HEAD + j - 16] >> 4;
		return FORM == SAL_Q4_0 ? half_at(b) * (float)(q - 8) : half_at(b) * (float)q + half_at(b + 2);
	} else if constexpr (FORM == SAL_Q8_0) {
		b += i / 32 * 34;
		return half_at(b) * (float)(int8_t)b[2 + i % 32];
	} else if constexpr (FORM == SAL_Q4_K || FORM == SAL_Q5_K) {
		constexpr int HIGH = FORM == SAL_Q5_K ? 32 : 0; /* bytes of fifth bits */
		int j = i % 256, group = j / 32, l = j % 32, k = group - 4, scale, least;

		b += i / 256 * (144 + HIGH);
		if (group < 4) {
			scale = b[4 + group] & 63;
			least = b[8 + group] & 63;
		} else {
			scale = (b[12 + k] & 15) | b[4 + k] >> 6 << 4;
			least = b[12 + k] >> 4 | b[8 + k] >> 6 << 4;
		}
		int v = b[16 + HIGH + group / 2 * 32 + l], q = group & 1 ? v >> 4 : v & 15;
		if (HIGH && b[16 + l] >> group & 1)
			q += 16;
		return half_at(b) * (float)scale * (float)q - half_at(b + 2) * (float)least;
	} else {
		int j = i % 256, h = j / 128, quarter = j % 128 / 32, l = j % 32;

		b += i / 256 * 210;
		int low = b[h * 64 + (quarter & 1) * 32 + l], high = b[128 + h * 32 + l] >> 2 * quarter & 3;
		int q = (quarter < 2 ? low & 15 : low >> 4) | high << 4;
		return half_at(b + 208) * (float)(int8_t)b[192 + h * 8 + quarter * 2 + l / 16] * (float)(q - 32);
	}
}

template <class T, int FORM>
static __global__ void
decode_kernel(T *y, const u8 *b, int64_t n, int64_t first, int64_t count)
{
	for EACH(i, count)
		put(y, i, element<FORM>(b, n, first + i));
}

void
sal_cuda_decode(struct sal_dev *dev, void *y, const struct sal_weight *w, int64_t row0, int64_t n)
{
	struct cuda_priv *p = sal_cuda_here(dev);
	int64_t count = n * w->in;

#define DECODE(F)                                                                                                    \
	case F:                                                                                                      \
		BY_TYPE(w->dtype, T, LAUNCH((decode_kernel<T, F>), sal_cuda_blocks(count), 256, 0, p->stream, (T *)y, \
		    (const u8 *)w->fwd, w->out * w->in, row0 * w->in, count));                                       \
		break
	switch (w->form) {
		DECODE(SAL_NF4);
		DECODE(SAL_Q4_0);
		DECODE(SAL_Q4_1);
		DECODE(SAL_Q8_0);
		DECODE(SAL_Q4_K);
		DECODE(SAL_Q5_K);
		DECODE(SAL_Q6_K);
	default:
		break;
	}
#undef DECODE
	sal_cuda_note(dev, "decode", cudaGetLastError());
}

extern "C" void
sal_cuda_weight_store(struct sal_dev *dev, struct sal_weight w, enum sal_form form, int64_t row0, int64_t n, const void *src)
{
	if (w.form != SAL_PLAIN) {
		sal_cuda_upload(dev, (char *)w.fwd + (row0 ? sal_form_bytes(form, row0 * w.in) : 0), src, sal_form_bytes(form, n * w.in));
		return;
	}
	/* a tile of rows at a time: working memory is kept, a matrix of the vocabulary is large; NF4 is decoded as a whole */
	int64_t step = form == SAL_NF4 ? n : sal_cuda_tile_rows(w.dtype, n, w.in);
	struct sal_weight blocks = w;

	blocks.form = form;
	for (int64_t r = 0; r < n; r += step) {
		blocks.out = sal_cuda_least(step, n - r);
		size_t bytes = sal_form_bytes(form, blocks.out * w.in);
		if (!(blocks.fwd = sal_cuda_scratch(dev, SAL_SLOT_B, bytes)))
			return;
		sal_cuda_upload(dev, blocks.fwd, (const char *)src + (r ? sal_form_bytes(form, r * w.in) : 0), bytes);
		sal_cuda_decode(dev, (char *)w.fwd + (row0 + r) * w.in * sal_cuda_width(w.dtype), &blocks, 0, blocks.out);
	}
}

extern "C" void
sal_cuda_weight_unpack(struct sal_dev *dev, struct sal_tensor y, struct sal_weight w, int64_t row0)
{
	struct cuda_priv *p = sal_cuda_here(dev);

	if (w.form != SAL_PLAIN) {
		sal_cuda_decode(dev, y.data, &w, row0, y.dim[0]);
		return;
	}
	int64_t row = w.in * sal_cuda_width(w.dtype);
	sal_cuda_note(dev, "weight_unpack", cudaMemcpyAsync(y.data, (const char *)w.fwd + row0 * row, (size_t)(y.dim[0] * row),
	    cudaMemcpyDeviceToDevice, p->stream));
}
