/* SPDX-License-Identifier: Apache-2.0 */
/*
 * swiglu.cu - the gated unit of the feed-forward block.
 *
 *   s = 1 / (1 + exp(-gate))      y = gate s up
 *   dup = dy gate s               dgate = dy up s (1 + gate (1 - s))
 *
 * An element is read whole before anything of it is written: outputs may be inputs.
 */
#include "cuda.h"

/* exp(-x) is infinite below -88: the quotient is then 0. */
__device__ static inline float
sigmoid(float x)
{
	return 1.0f / (1.0f + expf(-x));
}

template <class T>
static __global__ void
swiglu_kernel(T *y, const T *gate, const T *up, int64_t n)
{
	for EACH(i, n) {
		float g = get(gate, i);

		put(y, i, g * sigmoid(g) * get(up, i));
	}
}

extern "C" void
sal_cuda_swiglu_forward(struct sal_dev *dev, struct sal_tensor y, struct sal_tensor gate, struct sal_tensor up)
{
	struct cuda_priv *p = sal_cuda_here(dev);
	int64_t n = sal_cuda_elements(y);

	BY_TYPE(y.dtype, T, LAUNCH(swiglu_kernel<T>, sal_cuda_blocks(n), 256, 0, p->stream, (T *)y.data,
	    (const T *)gate.data, (const T *)up.data, n));
	sal_cuda_note(dev, "swiglu_forward", cudaGetLastError());
}

template <class T>
static __global__ void
swiglu_back_kernel(T *dgate, T *dup, const T *dy, const T *gate, const T *up, int64_t n)
{
	for EACH(i, n) {
		float d = get(dy, i), g = get(gate, i), u = get(up, i), s = sigmoid(g);

		put(dgate, i, d * u * (s * fmaf(g, 1.0f - s, 1.0f)));
		put(dup, i, d * (g * s));
	}
}

extern "C" void
sal_cuda_swiglu_backward(struct sal_dev *dev, struct sal_tensor dgate, struct sal_tensor dup, struct sal_tensor dy,
    struct sal_tensor gate, struct sal_tensor up)
{
	struct cuda_priv *p = sal_cuda_here(dev);
	int64_t n = sal_cuda_elements(dy);

	BY_TYPE(dy.dtype, T, LAUNCH(swiglu_back_kernel<T>, sal_cuda_blocks(n), 256, 0, p->stream, (T *)dgate.data,
	    (T *)dup.data, (const T *)dy.data, (const T *)gate.data, (const T *)up.data, n));
	sal_cuda_note(dev, "swiglu_backward", cudaGetLastError());
}
