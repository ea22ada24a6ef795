/* SPDX-License-Identifier: Apache-2.0 */
/*
 * backend.h - private to kernels/: the list of operations, and what a back end is.
 *
 * Every operation stands in SAL_OPS once.  A line here adds the slot, the
 * prototype in each back end, and its entry in each table; a back end that
 * lacks it does not link.  Arguments were checked in ops.c and are not
 * checked again.
 */
#ifndef SAL_BACKEND_H
#define SAL_BACKEND_H

#include "kernels.h"

typedef struct sal_dev *sal_d_; /* short names for the list below only */
#define T_ struct sal_tensor
#define W_ struct sal_weight
#define F_ enum sal_form

#define SAL_OPS(X)                                                                   \
	X(weight_pack, (sal_d_, W_, int64_t, T_, float))                             \
	X(weight_store, (sal_d_, W_, F_, int64_t, int64_t, const void *))            \
	X(weight_unpack, (sal_d_, T_, W_, int64_t))                                  \
	X(linear_forward, (sal_d_, T_, T_, W_, T_, T_, const W_ *, bool))            \
	X(linears_forward, (sal_d_, const struct sal_linear *, int, T_))                \
	X(linear_backward, (sal_d_, T_, T_, W_, T_, const W_ *, bool))               \
	X(linear_grad, (sal_d_, T_, T_, T_, float, bool))                            \
	X(embedding_forward, (sal_d_, T_, W_, T_))                                   \
	X(rmsnorm_forward, (sal_d_, T_, T_, T_, T_, float))                          \
	X(rmsnorm_backward, (sal_d_, T_, T_, T_, T_, T_, bool))                      \
	X(rope_forward, (sal_d_, T_, T_, T_))                                        \
	X(rope_backward, (sal_d_, T_, T_, T_))                                       \
	X(kv_store, (sal_d_, struct sal_kv, T_, T_, T_))                             \
	X(kv_copy, (sal_d_, struct sal_kv, int32_t, int32_t))                        \
	X(attention_forward, (sal_d_, T_, T_, T_, struct sal_kv, struct sal_seqs, int)) \
	X(attention_backward, (sal_d_, T_, T_, T_, T_, T_, T_, T_, struct sal_kv, struct sal_seqs, int)) \
	X(swiglu_forward, (sal_d_, T_, T_, T_))                                      \
	X(swiglu_backward, (sal_d_, T_, T_, T_, T_, T_))                             \
	X(logprob, (sal_d_, T_, T_, T_, T_, W_, T_, float))                          \
	X(sample, (sal_d_, T_, T_, T_, T_, float, int, float, float))                \
	X(head_forward, (sal_d_, T_, T_, T_, T_))                                    \
	X(head_backward, (sal_d_, T_, T_, T_, T_, T_, T_, bool))                     \
	X(gather, (sal_d_, T_, T_, T_))                                              \
	X(scatter, (sal_d_, T_, T_, T_, T_))                                         \
	X(dropout, (sal_d_, T_, T_, T_, uint64_t, float, bool))                      \
	X(zero, (sal_d_, T_))                                                        \
	X(copy, (sal_d_, T_, T_))                                                    \
	X(add, (sal_d_, T_, T_))                                                     \
	X(adamw, (sal_d_, T_, T_, T_, T_, float, float, float, float, float, float, int64_t))

/* What is known of a back end without opening it: layout.c has all of them, whatever this build can run. */
#define SAL_NF4_HEAD (1 + 16 + 256) /* floats before the groups of an NF4 matrix: blocks.c */
#define SAL_CPU_PANEL 16 /* outputs in one panel of the CPU's packed matrices, on every instruction set */
struct sal_layout {
	const char *name;
	bool ordered;  /* see sal_layout_ordered() */
	bool host;     /* see sal_layout_host() */
	bool one_copy; /* a packed matrix serves transposed too: bwd is fwd */
	unsigned keeps; /* bit f: matrices of enum sal_form f are kept so */
	/* bytes of one packed copy of [out, in]; a transposed copy is that of [in, out] */
	size_t (*packed_bytes)(enum sal_dtype dtype, int64_t out, int64_t in);
	size_t (*work_bytes)(const struct sal_work *w);
};
extern const struct sal_layout sal_cpu_layout, sal_cuda_layout;
size_t sal_int8_bytes(int64_t out, int64_t in); /* a packed SAL_INT8 */

struct sal_backend {
	const char *name;
	const struct sal_layout *layout;
	/* 0, or -1 with a line in err.  ordinal: number of the card; threads: of the CPU, 0 for all. */
	int (*open)(struct sal_dev *dev, int ordinal, int threads, char *err, size_t errlen);
	void (*close)(struct sal_dev *dev);
	int (*sync)(struct sal_dev *dev);
	void *(*alloc)(struct sal_dev *dev, size_t bytes); /* NULL when there is no more */
	void (*free)(struct sal_dev *dev, void *p);
	void (*upload)(struct sal_dev *dev, void *dst, const void *src, size_t bytes);
	void (*download)(struct sal_dev *dev, void *dst, const void *src, size_t bytes);
	double (*sumsq)(struct sal_dev *dev, struct sal_tensor x);
	size_t (*room)(struct sal_dev *dev); /* free memory; NULL: not known */
#define X(op, args) void (*op) args;
	SAL_OPS(X)
#undef X
};

struct sal_dev {
	const struct sal_backend *be;
	void *priv;      /* the back end's own */
	const char *isa; /* "portable", "avx2", "avx512", or a card's name */
	int threads;
	unsigned debug;  /* words of SAL_DEBUG */
	struct sal_trace *trace; /* of each operation called, with SAL_DEBUG=trace; ops.c */
	int n_trace;
	char error[256]; /* first failure; "" if none */
};

/* Keep the first failure. */
void sal_dev_fail(struct sal_dev *dev, const char *fmt, ...);

/* Print and free what was traced. */
void sal_trace_close(struct sal_dev *dev);

extern const struct sal_backend sal_cpu_backend;
#ifdef SAL_CUDA
extern const struct sal_backend sal_cuda_backend;
#endif
#endif
