/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ref.h - every operation of kernels.h as plain loops in double.
 *
 * Shapes and letters are those of kernels.h; everything is a dense row-major
 * array.  Where a rounding bound needs it, a function also fills mag (not
 * optional): for each output the sum of the absolute values of the terms, with
 * the factor by which errors of the inputs of exp() are multiplied.
 */
#ifndef SAL_REF_H
#define SAL_REF_H

#include <stdint.h>

/* y = x W^T + u B^T + bias; bias, u and b may be NULL */
void ref_linear(double *y, double *mag, const double *x, const double *w, const double *bias, const double *u,
    const double *b, int N, int K, int O, int R);
/* dx = dy W + du A */
void ref_linear_backward(double *dx, double *mag, const double *dy, const double *w, const double *du, const double *a,
    int N, int K, int O, int R);
void ref_linear_grad(double *dw, double *mag, const double *dy, const double *x, double scale, int T, int K, int O);

void ref_rmsnorm(double *y, double *rrms, const double *x, const double *w, double eps, int N, int C);
void ref_rmsnorm_backward(double *dx, double *mag, const double *dy, const double *x, const double *w,
    const double *rrms, int N, int C);

/* sign 1: forward, -1: backward; mag: |x_i| + |x_(i + D/2)| */
void ref_rope(double *y, double *mag, const double *x, const int32_t *pos, const double *cs, int N, int H, int D,
    int sign);

struct ref_attn {
	int B, Hq, Hk, D, window;
	const int32_t *off, *koff; /* [B+1]: rows of q, and of k and v, which hold the prefix too */
	double terms; /* weight in the bounds of the root of the sum of squared terms: p and ds that are rounded before they are multiplied */
};
void ref_attention(double *y, double *lse, double *ymag, double *lmag, const double *q, const double *k,
    const double *v, const struct ref_attn *a);
/* rows of q, and of k and v with their prefix; dmag: bounds of dq, dk, dv */
void ref_attention_backward(double *d[3], double *dmag[3], const double *dy, const double *y, const double *q,
    const double *k, const double *v, const double *lse, const struct ref_attn *a);

void ref_swiglu(double *y, const double *gate, const double *up, int64_t n);
void ref_swiglu_backward(double *dgate, double *dup, const double *dy, const double *gate, const double *up, int64_t n);

/* mag [n]: 1 + the largest sum of |h w| inv over the vocabulary */
void ref_logprob(double *logprob, double *lse, double *entropy, double *mag, const double *h, const double *w,
    const int32_t *target, double inv, int n, int C, int V);
/* dh [n, C]: of each log-probability by its own row of h.  abs: sum over v of |dlogit w| */
void ref_logprob_grad(double *dh, double *mag, double *abs, const double *lse, const double *h, const double *w,
    const int32_t *target, double inv, int n, int C, int V);

/*
 * The token.  *margin: how far, relative to 1, the nearest decision (a boundary
 * of the inversion, of top_p or of min_p) is from going the other way.
 */
int ref_sample(double *margin, const float *logits, int V, double u, double temperature, int top_k, double top_p,
    double min_p);

void ref_head(double *y, double *mag, const double *h, const double *w, double b, int n, int C);
void ref_head_backward(double *dh, double *dw, double *dwmag, double *db, double *dbmag, const double *dy,
    const double *h, const double *w, int n, int C);
void ref_adamw(double *w, double *m, double *v, const double *g, int64_t n, double grad_scale, double lr, double beta1,
    double beta2, double eps, double decay, int step);

/* Element i of a matrix of n elements in blocks; form as enum sal_form. *mag: sum of the absolute values of its terms. */
double ref_block(int form, const unsigned char *b, int64_t n, int64_t i, double *mag);

/* y [rows, K] out: x in 8 bits and back, each 64 in a row of one scale; returns the largest |y - x| over half a scale. */
double ref_int8(double *y, const double *x, int64_t rows, int64_t K);

#endif
