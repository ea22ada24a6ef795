/* SPDX-License-Identifier: Apache-2.0 */
/* blocks.c - a packed matrix back to rows.  (The way there is pack() in gemm.c.) */
#include "cpu.h"

void
FN(sal_cpu_weight_unpack)(struct sal_dev *dev, struct sal_tensor y, struct sal_weight w, int64_t row0)
{
	int64_t n = y.dim[0];
	struct sal_tensor ids = { .dtype = SAL_I32, .ndim = 1, .dim = { n }, .data = sal_cpu_scratch(dev, SAL_SLOT_B, (size_t)n * 4) };
	struct sal_tensor f = y;

	f.dtype = SAL_F32;
	if (w.dtype == SAL_BF16)
		f.data = sal_cpu_scratch(dev, SAL_SLOT_A, (size_t)(n * w.in) * 4);
	if (!ids.data || !f.data)
		return;
	for (int64_t i = 0; i < n; i++)
		((int32_t *)ids.data)[i] = (int32_t)(row0 + i);
	FN(sal_cpu_embedding_forward)(dev, f, w, ids);
	if (w.dtype == SAL_BF16)
		FN(sal_cpu_copy)(dev, y, f);
}
