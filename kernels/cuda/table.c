/* SPDX-License-Identifier: Apache-2.0 */
/* table.c - the operations of the CUDA back end: the second column.  One that is missing does not link. */
#include "cuda.h"

const struct sal_backend sal_cuda_backend = {
	.name = "cuda",
	.layout = &sal_cuda_layout,
	.open = sal_cuda_open,
	.close = sal_cuda_close,
	.sync = sal_cuda_sync,
	.alloc = sal_cuda_alloc,
	.free = sal_cuda_free,
	.upload = sal_cuda_upload,
	.download = sal_cuda_download,
	.sumsq = sal_cuda_sumsq,
	.room = sal_cuda_free_bytes,
#define X(op, args) .op = sal_cuda_##op,
	SAL_OPS(X)
#undef X
};
