/* SPDX-License-Identifier: Apache-2.0 */
/*
 * swiglu.c - the gated unit of the feed-forward block.
 *
 *   s = 1 / (1 + exp(-gate))      y = gate s up
 *   dup = dy gate s               dgate = dy up s (1 + gate (1 - s))
 *
 * Everything is done in float, one vector at a time: all inputs of a vector
 * are read before an output is written, so the outputs may be the inputs.
 */
#include "cpu.h"
#include "vec.h"

#define BLOCK 4096 /* elements one thread takes at a time; a multiple of VL */

/* Below -88 vf_exp is clamped, and the quotient with it: under 2^-126, where it no longer matters. */
static inline vf
sigmoid(vf x)
{
	vf one = vf_set1(1.0f);
	vf e = vf_exp(vf_sub(vf_set1(0), x));
	return vf_div(one, vf_add(one, e));
}

static int64_t
elements(struct sal_tensor t)
{
	int64_t n = 1;
	for (int i = 0; i < t.ndim; i++)
		n *= t.dim[i];
	return n;
}

void
FN(sal_cpu_swiglu_forward)(struct sal_dev *dev, struct sal_tensor y, struct sal_tensor gate, struct sal_tensor up)
{
	int64_t N = elements(y);
	bool h = y.dtype == SAL_BF16;

#pragma omp parallel for num_threads(dev->threads) if (N > BLOCK)
	for (int64_t b = 0; b < N; b += BLOCK) {
		int64_t end = N - b < BLOCK ? N : b + BLOCK;

		for (int64_t i = b; i < end; i += VL) {
			int n = vf_lanes(end - i);
			vf g = vf_load_any(gate.data, h, i, n), u = vf_load_any(up.data, h, i, n);
			vf_store_any(y.data, h, i, vf_mul(vf_mul(g, sigmoid(g)), u), n);
		}
	}
}

void
FN(sal_cpu_swiglu_backward)(struct sal_dev *dev, struct sal_tensor dgate, struct sal_tensor dup, struct sal_tensor dy,
    struct sal_tensor gate, struct sal_tensor up)
{
	int64_t N = elements(dy);
	bool h = dy.dtype == SAL_BF16;
	vf one = vf_set1(1.0f);

#pragma omp parallel for num_threads(dev->threads) if (N > BLOCK)
	for (int64_t b = 0; b < N; b += BLOCK) {
		int64_t end = N - b < BLOCK ? N : b + BLOCK;

		for (int64_t i = b; i < end; i += VL) {
			int n = vf_lanes(end - i);
			vf d = vf_load_any(dy.data, h, i, n), g = vf_load_any(gate.data, h, i, n), u = vf_load_any(up.data, h, i, n);
			vf s = sigmoid(g);
			vf du = vf_mul(d, vf_mul(g, s));
			vf slope = vf_mul(s, vf_fma(g, vf_sub(one, s), one));
			vf_store_any(dgate.data, h, i, vf_mul(vf_mul(d, u), slope), n);
			vf_store_any(dup.data, h, i, du, n);
		}
	}
}
