/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rope.c - rotary positions: element i of a head turns with element i + D/2.
 *
 *   a' = a cos - b sin      b' = b cos + a sin
 *
 * backward is the same turn with the sine's sign changed.  Source: arXiv:2104.09864.
 */
#include "cpu.h"
#include "vec.h"

static void
rotate(struct sal_dev *dev, struct sal_tensor x, struct sal_tensor pos, struct sal_tensor cs, float sign)
{
	int64_t N = x.dim[0], H = x.dim[1], D = x.dim[2], half = D / 2;
	bool h = x.dtype == SAL_BF16;
	const int32_t *at = pos.data;
	vf turn = vf_set1(sign);

#pragma omp parallel for num_threads(dev->threads) if (N * H * D > 16384)
	for (int64_t i = 0; i < N; i++) {
		const float *co = (const float *)cs.data + (int64_t)at[i] * D, *si = co + half;

		for (int64_t k = 0; k < H; k++) {
			int64_t o = (i * H + k) * D;

			for (int64_t d = 0; d < half; d += VL) {
				int n = vf_lanes(half - d);
				vf a = vf_load_any(x.data, h, o + d, n), b = vf_load_any(x.data, h, o + half + d, n);
				vf c = vf_load_any(co, false, d, n), s = vf_mul(turn, vf_load_any(si, false, d, n));
				vf_store_any(x.data, h, o + d, vf_sub(vf_mul(a, c), vf_mul(b, s)), n);
				vf_store_any(x.data, h, o + half + d, vf_add(vf_mul(b, c), vf_mul(a, s)), n);
			}
		}
	}
}

void
FN(sal_cpu_rope_forward)(struct sal_dev *dev, struct sal_tensor x, struct sal_tensor pos, struct sal_tensor cs)
{
	rotate(dev, x, pos, cs, 1.0f);
}

void
FN(sal_cpu_rope_backward)(struct sal_dev *dev, struct sal_tensor dx, struct sal_tensor pos, struct sal_tensor cs)
{
	rotate(dev, dx, pos, cs, -1.0f);
}
