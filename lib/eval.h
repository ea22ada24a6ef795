/* SPDX-License-Identifier: Apache-2.0 */
/*
 * eval.h - sequences through a model: log-probabilities, values and rewards, and the gradients of losses over them.
 *
 * Sequences are packed into micro-batches that fit the engine; how they are packed changes no bit of any result.  What
 * sequences have in common at their beginning is computed once: all of a batch where only a forward pass is wanted, the two of
 * a record where gradients are.
 */
#ifndef SAL_EVAL_H
#define SAL_EVAL_H
#include "lib/arch.h"

enum sal_eval_what {
	SAL_EVAL_LOGPROB, /* out[t], entropy[t]: of token from+t given those before it, t = 0 .. n-from-1 */
	SAL_EVAL_VALUE,   /* out[t]: head before token from+t, t = 0 .. n-from-1 */
	SAL_EVAL_REWARD,  /* out[0]: head at the last token */
	SAL_EVAL_CHOICE   /* out[0], out[1]: log-probabilities of choice[0], choice[1] after the last token; forward only */
};

struct sal_seq {
	const int32_t *ids;
	int n, from;     /* from >= 1 but for rewards, where it is not used */
	int first;       /* rows before it are those of another sequence of the batch: set by both calls below */
	int record;      /* index in the update; sequences of one record are adjacent */
	long line;       /* of the input: an error names it; 0: none */
	int32_t choice[2];
	float *out;      /* caller's, [n - from], [1] or [2] */
	float *entropy;  /* caller's or NULL */
	float *grad;     /* caller's, as out: dL/dout, set by the loss */
};

/* Rows that a sequence takes in a batch, with those that it shares. */
int sal_seq_rows(const struct sal_seq *s, enum sal_eval_what what);
/* An engine for sequences of at most longest rows, for about budget rows at a time. train: with backward. */
struct sal_engine *sal_eval_engine(struct sal_model *m, bool train, int longest, int budget, int rank);
/* What it would be, and what a pass takes beside it at most; m may be a sketch. */
struct sal_eval_shape {
	enum sal_mode mode;
	int rows, seqs, pages, width;
	size_t picked;
};
struct sal_eval_shape sal_eval_shape(const struct sal_model *m, bool train, int longest, int budget, int rank);
/* Forward. -1: a device failure or a result that is not finite: its line is named. */
int sal_eval(struct sal_engine *e, const struct sal_adapter *a, struct sal_seq *s, int n, enum sal_eval_what what, float inv_temperature) SAL_USE_RESULT;
/*
 * Forward, loss(ctx, s, n) over each micro-batch (it sets grad of each sequence from out), backward into a's trees.
 * Records are never split.  The caller ends with sal_adapter_grad_end.
 */
int sal_eval_grad(struct sal_engine *e, struct sal_adapter *a, struct sal_seq *s, int n, enum sal_eval_what what, float inv_temperature,
    void (*loss)(void *ctx, struct sal_seq *s, int n), void *ctx) SAL_USE_RESULT;
/* Sum of x in order: of one sequence's tokens. */
double sal_sum(const float *x, int n);
/* Sum of x in a fixed binary tree over the index: the one order of sums over records. */
double sal_tree_sum(const double *x, int n);
#endif
