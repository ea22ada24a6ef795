/* SPDX-License-Identifier: Apache-2.0 */
/* ref.c - the operations as plain loops in double, to be read beside kernels.h. */
#include "kernels/kernels.h"
#include "ref.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void
ref_linear(double *y, double *mag, const double *x, const double *w, const double *bias, const double *u,
    const double *b, int N, int K, int O, int R)
{
	for (int i = 0; i < N; i++)
		for (int o = 0; o < O; o++) {
			double s = 0, m = 0;
			for (int k = 0; k < K; k++) {
				double t = x[i * K + k] * w[o * K + k];
				s += t;
				m += fabs(t);
			}
			for (int r = 0; u && r < R; r++) {
				double t = u[i * R + r] * b[o * R + r];
				s += t;
				m += fabs(t);
			}
			if (bias) {
				s += bias[o];
				m += fabs(bias[o]);
			}
			y[i * O + o] = s;
			mag[i * O + o] = m;
		}
}

void
ref_linear_backward(double *dx, double *mag, const double *dy, const double *w, const double *du, const double *a,
    int N, int K, int O, int R)
{
	memset(dx, 0, (size_t)N * (size_t)K * sizeof *dx);
	memset(mag, 0, (size_t)N * (size_t)K * sizeof *mag);
	for (int i = 0; i < N; i++) {
		for (int o = 0; o < O; o++)
			for (int k = 0; k < K; k++) {
				dx[i * K + k] += dy[i * O + o] * w[o * K + k];
				mag[i * K + k] += fabs(dy[i * O + o] * w[o * K + k]);
			}
		for (int r = 0; du && r < R; r++)
			for (int k = 0; k < K; k++) {
				dx[i * K + k] += du[i * R + r] * a[r * K + k];
				mag[i * K + k] += fabs(du[i * R + r] * a[r * K + k]);
			}
	}
}

void
ref_linear_grad(double *dw, double *mag, const double *dy, const double *x, double scale, int T, int K, int O)
{
	for (int o = 0; o < O; o++)
		for (int k = 0; k < K; k++) {
			double s = 0, m = 0;
			for (int t = 0; t < T; t++) {
				s += dy[t * O + o] * x[t * K + k];
				m += fabs(dy[t * O + o] * x[t * K + k]);
			}
			dw[o * K + k] = scale * s;
			mag[o * K + k] = fabs(scale) * m;
		}
}

void
ref_rmsnorm(double *y, double *rrms, const double *x, const double *w, double eps, int N, int C)
{
	for (int i = 0; i < N; i++) {
		double ss = 0;
		for (int c = 0; c < C; c++)
			ss += x[i * C + c] * x[i * C + c];
		double r = 1 / sqrt(ss / C + eps);
		for (int c = 0; c < C; c++)
			y[i * C + c] = x[i * C + c] * r * w[c];
		if (rrms)
			rrms[i] = r;
	}
}

void
ref_rmsnorm_backward(double *dx, double *mag, const double *dy, const double *x, const double *w,
    const double *rrms, int N, int C)
{
	for (int i = 0; i < N; i++) {
		double s = 0, m = 0, r = rrms[i];
		for (int c = 0; c < C; c++) {
			s += dy[i * C + c] * w[c] * x[i * C + c];
			m += fabs(dy[i * C + c] * w[c] * x[i * C + c]);
		}
		for (int c = 0; c < C; c++) {
			dx[i * C + c] = r * w[c] * dy[i * C + c] - x[i * C + c] * r * r * r * s / C;
			mag[i * C + c] = fabs(r * w[c] * dy[i * C + c]) + fabs(x[i * C + c] * r * r * r * m / C);
		}
	}
}

void
ref_rope(double *y, double *mag, const double *x, const int32_t *pos, const double *cs, int N, int H, int D, int sign)
{
	for (int i = 0; i < N; i++)
		for (int h = 0; h < H; h++)
			for (int d = 0; d < D / 2; d++) {
				int a = (i * H + h) * D + d, b = a + D / 2;
				double c = cs[pos[i] * D + d], s = sign * cs[pos[i] * D + D / 2 + d], xa = x[a], xb = x[b];
				y[a] = xa * c - xb * s;
				y[b] = xb * c + xa * s;
				mag[a] = mag[b] = fabs(xa) + fabs(xb);
			}
}

static int
sees_from(const struct ref_attn *a, int p)
{
	return a->window > 0 && p >= a->window ? p - a->window + 1 : 0;
}

/* score of query row i, head h, against key row j; *m: the sum of absolute values */
static double
score(double *m, const double *q, const double *k, int i, int h, int j, const struct ref_attn *a)
{
	int hk = h / (a->Hq / a->Hk);
	double s = 0, z = 1 / sqrt(a->D);

	*m = 0;
	for (int d = 0; d < a->D; d++) {
		double t = q[(i * a->Hq + h) * a->D + d] * k[(j * a->Hk + hk) * a->D + d] * z;
		s += t;
		*m += fabs(t);
	}
	return s;
}

void
ref_attention(double *y, double *lse, double *ymag, double *lmag, const double *q, const double *k,
    const double *v, const struct ref_attn *a)
{
	int D = a->D;

	for (int b = 0; b < a->B; b++) {
		int first = (a->koff[b + 1] - a->koff[b]) - (a->off[b + 1] - a->off[b]);
		for (int i = a->off[b]; i < a->off[b + 1]; i++)
			for (int h = 0; h < a->Hq; h++) {
				int p = first + i - a->off[b], lo = sees_from(a, p), hk = h / (a->Hq / a->Hk), o = i * a->Hq + h;
				double max = -INFINITY, sum = 0, smag = 0, m;

				for (int j = lo; j <= p; j++) {
					max = fmax(max, score(&m, q, k, i, h, a->koff[b] + j, a));
					smag = fmax(smag, m);
				}
				double *sq = calloc((size_t)D, sizeof *sq);
				for (int d = 0; d < D; d++)
					y[o * D + d] = ymag[o * D + d] = 0;
				for (int j = lo; j <= p; j++) {
					double e = exp(score(&m, q, k, i, h, a->koff[b] + j, a) - max);
					sum += e;
					for (int d = 0; d < D; d++) {
						double x = v[((a->koff[b] + j) * a->Hk + hk) * D + d];
						y[o * D + d] += e * x;
						ymag[o * D + d] += e * fabs(x);
						sq[d] += e * x * e * x;
					}
				}
				for (int d = 0; d < D; d++) {
					y[o * D + d] /= sum;
					ymag[o * D + d] = (ymag[o * D + d] * (1 + 2 * smag) + a->terms * sqrt(sq[d])) / sum;
				}
				free(sq);
				lse[o] = max + log(sum);
				lmag[o] = 1 + smag + fabs(lse[o]);
			}
	}
}

void
ref_attention_backward(double *d[3], double *dmag[3], const double *dy, const double *y, const double *q,
    const double *k, const double *v, const double *lse, const struct ref_attn *a)
{
	int D = a->D, N = a->off[a->B], NK = a->koff[a->B], n[3] = { N * a->Hq * D, NK * a->Hk * D, NK * a->Hk * D };
	double z = 1 / sqrt(D), sm, *sq[3];

	for (int t = 0; t < 3; t++) {
		sq[t] = calloc((size_t)n[t], sizeof(double));
		memset(d[t], 0, (size_t)n[t] * sizeof(double));
		memset(dmag[t], 0, (size_t)n[t] * sizeof(double));
	}
	for (int b = 0; b < a->B; b++)
		for (int i = a->off[b]; i < a->off[b + 1]; i++)
			for (int h = 0; h < a->Hq; h++) {
				int first = (a->koff[b + 1] - a->koff[b]) - (a->off[b + 1] - a->off[b]), p = first + i - a->off[b], qo = (i * a->Hq + h) * D;
				double delta = 0, deltamag = 0;

				for (int c = 0; c < D; c++) {
					delta += dy[qo + c] * y[qo + c];
					deltamag += fabs(dy[qo + c] * y[qo + c]);
				}
				for (int j = sees_from(a, p); j <= p; j++) {
					int ko = ((a->koff[b] + j) * a->Hk + h / (a->Hq / a->Hk)) * D;
					double l = lse[i * a->Hq + h], pj = exp(score(&sm, q, k, i, h, a->koff[b] + j, a) - l);
					double dp = 0, dpmag = 0, f = 1 + 2 * sm + fabs(l);

					for (int c = 0; c < D; c++) {
						dp += dy[qo + c] * v[ko + c];
						dpmag += fabs(dy[qo + c] * v[ko + c]);
					}
					double ds = pj * (dp - delta) * z, dsmag = pj * (dpmag + deltamag) * z * f;
					for (int c = 0; c < D; c++) {
						d[0][qo + c] += ds * k[ko + c];
						d[1][ko + c] += ds * q[qo + c];
						d[2][ko + c] += pj * dy[qo + c];
						dmag[0][qo + c] += dsmag * fabs(k[ko + c]);
						dmag[1][ko + c] += dsmag * fabs(q[qo + c]);
						dmag[2][ko + c] += pj * f * fabs(dy[qo + c]);
						sq[0][qo + c] += ds * k[ko + c] * ds * k[ko + c];
						sq[1][ko + c] += ds * q[qo + c] * ds * q[qo + c];
						sq[2][ko + c] += pj * dy[qo + c] * pj * dy[qo + c];
					}
				}
			}
	for (int t = 0; t < 3; t++) {
		for (int i = 0; i < n[t]; i++)
			dmag[t][i] += a->terms * sqrt(sq[t][i]);
		free(sq[t]);
	}
}

static double
sigmoid(double x)
{
	return 1 / (1 + exp(-x));
}

void
ref_swiglu(double *y, const double *gate, const double *up, int64_t n)
{
	for (int64_t i = 0; i < n; i++)
		y[i] = gate[i] * sigmoid(gate[i]) * up[i];
}

void
ref_swiglu_backward(double *dgate, double *dup, const double *dy, const double *gate, const double *up, int64_t n)
{
	for (int64_t i = 0; i < n; i++) {
		double g = gate[i], s = sigmoid(g);
		dup[i] = dy[i] * g * s;
		dgate[i] = dy[i] * up[i] * s * (1 + g * sigmoid(-g));
	}
}

static double *
room(int64_t n)
{
	double *p = malloc((size_t)n * sizeof *p);

	if (!p)
		abort();
	return p;
}

/* z [V] = inv h W^T; returns the largest sum of absolute values */
static double
logits_of(double *z, const double *h, const double *w, double inv, int C, int V)
{
	double top = 0;

	for (int v = 0; v < V; v++) {
		double s = 0, m = 0;
		for (int c = 0; c < C; c++) {
			s += h[c] * w[v * C + c];
			m += fabs(h[c] * w[v * C + c]);
		}
		z[v] = s * inv;
		top = fmax(top, m * inv);
	}
	return top;
}

void
ref_logprob(double *logprob, double *lse, double *entropy, double *mag, const double *h, const double *w,
    const int32_t *target, double inv, int n, int C, int V)
{
	double *z = room(V);

	for (int i = 0; i < n; i++) {
		double max = -INFINITY, sum = 0, zsum = 0;
		mag[i] = 1 + logits_of(z, h + i * C, w, inv, C, V);
		for (int v = 0; v < V; v++)
			max = fmax(max, z[v]);
		for (int v = 0; v < V; v++) {
			sum += exp(z[v] - max);
			zsum += exp(z[v] - max) * z[v];
		}
		lse[i] = max + log(sum);
		logprob[i] = z[target[i]] - lse[i];
		entropy[i] = lse[i] - zsum / sum;
	}
	free(z);
}

void
ref_logprob_grad(double *dh, double *mag, double *abs, const double *lse, const double *h, const double *w,
    const int32_t *target, double inv, int n, int C, int V)
{
	double *z = room(V);

	for (int i = 0; i < n; i++) {
		double f = 1 + 2 * logits_of(z, h + i * C, w, inv, C, V) + fabs(lse[i]);
		for (int c = 0; c < C; c++)
			dh[i * C + c] = mag[i * C + c] = abs[i * C + c] = 0;
		for (int v = 0; v < V; v++) {
			double p = exp(z[v] - lse[i]), one = v == target[i];
			for (int c = 0; c < C; c++) {
				double t = inv * (one - p) * w[v * C + c];
				dh[i * C + c] += t;
				abs[i * C + c] += fabs(t);
				mag[i * C + c] += fabs(inv * w[v * C + c]) * (one + p * f);
			}
		}
	}
	free(z);
}

int
ref_sample(double *margin, const float *logits, int V, double u, double temperature, int top_k, double top_p,
    double min_p)
{
	double *p = room(V), max = -INFINITY, sum = 0, mass = 0, pmax = 0;
	int *order = malloc((size_t)V * sizeof *order), n = V, last = 0;

	if (!order)
		abort();
	*margin = 1;
	/* by falling logit, then by rising id: insertion keeps equals in order */
	for (int v = 0; v < V; v++) {
		int i = v;
		for (; i > 0 && logits[order[i - 1]] < logits[v]; i--)
			order[i] = order[i - 1];
		order[i] = v;
		max = fmax(max, logits[v]);
	}
	last = order[0];
	if (temperature == 0)
		goto out;
	if (top_k > 0 && top_k < n)
		n = top_k;
	for (int i = 0; i < n; i++) {
		p[order[i]] = exp((logits[order[i]] - max) / temperature);
		pmax = fmax(pmax, p[order[i]]);
		sum += p[order[i]];
	}
	if (top_p < 1)
		for (int i = 0; i < n; i++) {
			mass += p[order[i]];
			*margin = fmin(*margin, fabs(mass / sum - top_p));
			if (mass >= top_p * sum)
				n = i + 1;
		}
	for (int i = n; i < V; i++)
		p[order[i]] = 0;
	sum = 0;
	for (int v = 0; v < V; v++) {
		if (min_p > 0 && p[v] > 0)
			*margin = fmin(*margin, fabs(p[v] / pmax - min_p) + (p[v] == pmax));
		if (p[v] < min_p * pmax)
			p[v] = 0;
		sum += p[v];
	}
	mass = 0;
	last = -1;
	for (int v = 0; v < V; v++) {
		if (p[v] == 0)
			continue;
		mass += p[v];
		if (mass < sum)
			*margin = fmin(*margin, fabs(mass / sum - u));
		if (last < 0 && (mass > u * sum || mass >= sum))
			last = v;
	}
out:
	free(p);
	free(order);
	return last;
}

void
ref_head(double *y, double *mag, const double *h, const double *w, double b, int n, int C)
{
	for (int i = 0; i < n; i++) {
		y[i] = b;
		mag[i] = fabs(b);
		for (int c = 0; c < C; c++) {
			y[i] += h[i * C + c] * w[c];
			mag[i] += fabs(h[i * C + c] * w[c]);
		}
	}
}

void
ref_head_backward(double *dh, double *dw, double *dwmag, double *db, double *dbmag, const double *dy,
    const double *h, const double *w, int n, int C)
{
	*db = *dbmag = 0;
	for (int c = 0; c < C; c++)
		dw[c] = dwmag[c] = 0;
	for (int i = 0; i < n; i++) {
		for (int c = 0; c < C; c++) {
			dh[i * C + c] = dy[i] * w[c];
			dw[c] += dy[i] * h[i * C + c];
			dwmag[c] += fabs(dy[i] * h[i * C + c]);
		}
		*db += dy[i];
		*dbmag += fabs(dy[i]);
	}
}

void
ref_adamw(double *w, double *m, double *v, const double *g, int64_t n, double grad_scale, double lr, double beta1,
    double beta2, double eps, double decay, int step)
{
	for (int64_t i = 0; i < n; i++) {
		double x = g[i] * grad_scale;
		m[i] = beta1 * m[i] + (1 - beta1) * x;
		v[i] = beta2 * v[i] + (1 - beta2) * x * x;
		double mh = m[i] / (1 - pow(beta1, step)), vh = v[i] / (1 - pow(beta2, step));
		w[i] -= lr * (mh / (sqrt(vh) + eps) + decay * w[i]);
	}
}

/* ---- blocks ---- */

static double
half(const unsigned char *p)
{
	int h = p[0] | p[1] << 8, e = h >> 10 & 31, m = h & 1023;
	double v = e ? ldexp(1024 + m, e - 25) : ldexp(m, -24);

	return h >> 15 ? -v : v;
}

static double
single(const unsigned char *p)
{
	float f;

	memcpy(&f, p, sizeof f);
	return f;
}

/* Bits lo .. lo+n-1 of the bytes at p, counted from the lowest of the first. */
static int
bits(const unsigned char *p, int lo, int n)
{
	int v = 0;

	for (int i = 0; i < n; i++)
		v |= (p[(lo + i) / 8] >> (lo + i) % 8 & 1) << i;
	return v;
}

/* Scale (of 0) or minimum (of 1) of group g in Q4_K's 12 bytes: six bits each, the first four in the low six bits of bytes 0-3 and 4-7. */
static int
six(const unsigned char *p, int of, int g)
{
	if (g < 4)
		return bits(p, (g + 4 * of) * 8, 6);
	return bits(p, (g + 4) * 8 + 4 * of, 4) | bits(p, (g - 4 + 4 * of) * 8 + 6, 2) << 4;
}

double
ref_int8(double *y, const double *x, int64_t rows, int64_t K)
{
	double worst = 0;

	for (int64_t i = 0; i < rows; i++)
		for (int64_t g = 0; g < K; g += 64) {
			float top = 0;
			int64_t n = K - g < 64 ? K - g : 64;
			for (int64_t j = 0; j < n; j++)
				top = fmaxf(top, fabsf((float)x[i * K + g + j]));
			float scale = top / 127.0f, inverse = top > 1e-30f ? 127.0f / top : 0;
			for (int64_t j = i * K + g; j < i * K + g + n; j++) {
				y[j] = (double)rintf((float)x[j] * inverse) * (double)scale; /* to even, as the back ends do */
				if (scale > 0)
					worst = fmax(worst, fabs(y[j] - x[j]) / (0.5 * (double)scale));
			}
		}
	return worst;
}

double
ref_block(int form, const unsigned char *b, int64_t n, int64_t i, double *mag)
{
	int j = (int)(i % 256), l = (int)(i % 32), g = j / 32;
	double d, less = 0;

	switch (form) {
	case SAL_NF4: {
		int64_t blocks = (n + 63) / 64, groups = (blocks + 255) / 256;
		const unsigned char *codes = b + 4 * (273 + groups), *scales = codes + (n + 1) / 2;
		double mean = single(b), scale = single(b + 4 * (17 + scales[i / 64])) * single(b + 4 * (273 + i / 64 / 256));
		d = single(b + 4 * (1 + bits(codes + i / 2, i % 2 ? 0 : 4, 4)));
		*mag = fabs(d) * (fabs(mean) + fabs(scale));
		return d * (mean + scale);
	}
	case SAL_Q4_0:
		b += i / 32 * 18;
		d = half(b) * (bits(b + 2 + l % 16, l / 16 * 4, 4) - 8);
		break;
	case SAL_Q4_1:
		b += i / 32 * 20;
		d = half(b) * bits(b + 4 + l % 16, l / 16 * 4, 4);
		less = -half(b + 2);
		break;
	case SAL_Q8_0:
		b += i / 32 * 34;
		d = half(b) * (signed char)b[2 + l];
		break;
	case SAL_Q4_K:
		b += i / 256 * 144;
		d = half(b) * six(b + 4, 0, g) * bits(b + 16 + g / 2 * 32 + l, g % 2 * 4, 4);
		less = half(b + 2) * six(b + 4, 1, g);
		break;
	case SAL_Q5_K:
		b += i / 256 * 176;
		d = half(b) * six(b + 4, 0, g) * (bits(b + 48 + g / 2 * 32 + l, g % 2 * 4, 4) + 16 * bits(b + 16 + l, g, 1));
		less = half(b + 2) * six(b + 4, 1, g);
		break;
	default: /* SAL_Q6_K */
		b += i / 256 * 210;
		d = half(b + 208) * (signed char)b[192 + j / 16] *
		    (bits(b + j / 128 * 64 + j % 64, j % 128 / 64 * 4, 4) + 16 * bits(b + 128 + j / 128 * 32 + l, j % 128 / 32 * 2, 2) - 32);
	}
	*mag = fabs(d) + fabs(less);
	return d - less;
}
