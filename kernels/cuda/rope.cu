/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rope.cu - rotary positions: element i of a head turns with element i + D/2.
 *
 *   a' = a cos - b sin      b' = b cos + a sin      backward: the sine's sign changed
 */
#include "cuda.h"

/* A thread turns one pair. */
template <class T>
static __global__ void
rope_kernel(T *x, const int *pos, const float *cs, int64_t n, int heads, int half, float sign)
{
	for EACH(i, n) {
		int64_t d = i % half, row = i / half / heads, a = i / half * 2 * half + d;
		const float *t = cs + (int64_t)pos[row] * 2 * half;
		float u = get(x, a), v = get(x, a + half), c = t[d], s = sign * t[half + d];

		put(x, a, u * c - v * s);
		put(x, a + half, v * c + u * s);
	}
}

static void
rotate(struct sal_dev *dev, const char *who, struct sal_tensor x, struct sal_tensor pos, struct sal_tensor cs, float sign)
{
	struct cuda_priv *p = sal_cuda_here(dev);
	int64_t n = sal_cuda_elements(x) / 2;

	BY_TYPE(x.dtype, T, LAUNCH(rope_kernel<T>, sal_cuda_blocks(n), 256, 0, p->stream, (T *)x.data, (const int *)pos.data,
	    (const float *)cs.data, n, (int)x.dim[1], (int)x.dim[2] / 2, sign));
	sal_cuda_note(dev, who, cudaGetLastError());
}

extern "C" void
sal_cuda_rope_forward(struct sal_dev *dev, struct sal_tensor x, struct sal_tensor pos, struct sal_tensor cs)
{
	rotate(dev, "rope_forward", x, pos, cs, 1.0f);
}

extern "C" void
sal_cuda_rope_backward(struct sal_dev *dev, struct sal_tensor dx, struct sal_tensor pos, struct sal_tensor cs)
{
	rotate(dev, "rope_backward", dx, pos, cs, -1.0f);
}
