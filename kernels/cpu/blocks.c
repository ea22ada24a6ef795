/* SPDX-License-Identifier: Apache-2.0 */
/* blocks.c - matrices in blocks become packed ones as they are stored; the way back, to rows. */
#include "cpu.h"

#define CHUNK (1 << 20) /* elements decoded at a time; a chunk of 64 rows is whole blocks, whatever the row */

void
FN(sal_cpu_weight_store)(struct sal_dev *dev, struct sal_weight w, enum sal_form form, int64_t row0, int64_t n, const void *src)
{
	int64_t step = CHUNK / w.in / 64 * 64, part;

	step = step < 64 ? 64 : step;
	step = step < n ? step : n;
	float *f = sal_cpu_scratch(dev, SAL_SLOT_A, (size_t)(step * w.in) * 4);
	for (int64_t r = 0; f && r < n; r += step) {
		int64_t rows = n - r < step ? n - r : step, count = rows * w.in, first = r * w.in;

		part = (count / dev->threads / 256 + 1) * 256;
#pragma omp parallel for num_threads(dev->threads)
		for (int64_t i = 0; i < count; i += part)
			sal_blocks_decode(form, src, n * w.in, first + i, count - i < part ? count - i : part, f + i);
		FN(sal_cpu_weight_pack)(dev, w, row0 + r,
		    (struct sal_tensor){ .dtype = SAL_F32, .ndim = 2, .dim = { rows, w.in }, .data = f }, 1);
	}
}

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
