/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cpu.h - private to kernels/cpu: prototypes of every operation, in the
 * instruction set of this compilation, and what the files share.
 */
#ifndef SAL_CPU_H
#define SAL_CPU_H

#include "../backend.h"
#include "vec.h"

#define SAL_NR SAL_CPU_PANEL

/* Parallel regions are opened with num_threads(dev->threads): the global setting belongs to the caller. */
#define X(op, args) void FN(sal_cpu_##op) args;
SAL_OPS(X)
#undef X
double FN(sal_cpu_sumsq)(struct sal_dev *dev, struct sal_tensor x);
extern const struct sal_backend FN(sal_cpu_table);

/* cpu.c: the parts that do not depend on the instruction set */
int sal_cpu_open(struct sal_dev *dev, int ordinal, int threads, char *err, size_t errlen);
void sal_cpu_close(struct sal_dev *dev);
int sal_cpu_sync(struct sal_dev *dev);
void *sal_cpu_alloc(struct sal_dev *dev, size_t bytes);
void sal_cpu_free(struct sal_dev *dev, void *p);
void sal_cpu_move(struct sal_dev *dev, void *dst, const void *src, size_t bytes);

/*
 * Working memory kept by the device between calls, one block per slot; content
 * is lost by the next call for the slot.  NULL, with the device's error set,
 * when there is no more.  Not to be called inside a parallel region.
 */
enum sal_slot { SAL_SLOT_GEMM, SAL_SLOT_A, SAL_SLOT_B, SAL_SLOT_COUNT };
void *sal_cpu_scratch(struct sal_dev *dev, enum sal_slot slot, size_t bytes);

/* One term of a product: rows [n, k] with row stride ldx, times panels of [k][SAL_NR]. */
struct sal_term {
	const void *x, *w;
	int64_t k, ldx;
	int64_t panel; /* elements from one panel to the next, bytes in 8 bits; 0: those of k */
};

/*
 * y[i][j] = scale * sum over k of x[i][k] w[j][k], the terms one after the other
 * in one chain, then + bias[j], then + old y.  dtype is that of x and w; where int8,
 * the first term's w is SAL_INT8 and its x is brought to 8 bits too.
 */
struct sal_gemm {
	enum sal_dtype dtype, ydtype;
	bool int8;
	int64_t n, out; /* rows and outputs */
	struct sal_term term[2];
	int terms;
	void *y;
	int64_t ldy;
	const float *bias; /* or NULL */
	float scale;
	bool accumulate;
};
/* count products (1 .. SAL_LINEARS) of the same rows: one dtype, one n. */
void FN(sal_cpu_gemm)(struct sal_dev *dev, const struct sal_gemm *g, int count);

#endif
