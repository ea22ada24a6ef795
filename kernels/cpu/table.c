/* SPDX-License-Identifier: Apache-2.0 */
/* table.c - the operations of one instruction set, as a back end. */
#include "cpu.h"

const struct sal_backend FN(sal_cpu_table) = {
	.name = "cpu",
	.layout = &sal_cpu_layout,
	.open = sal_cpu_open,
	.close = sal_cpu_close,
	.sync = sal_cpu_sync,
	.alloc = sal_cpu_alloc,
	.free = sal_cpu_free,
	.upload = sal_cpu_move,
	.download = sal_cpu_move,
	.sumsq = FN(sal_cpu_sumsq),
#define X(op, args) .op = FN(sal_cpu_##op),
	SAL_OPS(X)
#undef X
};
