/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check_kernels.c - every operation of kernels.h against ref.c.
 *
 * usage: check_kernels [-v] [--bench] [--only WORD,...] [DEVICE]
 * WORD: part of a test's name: linear, pack, blocks, rmsnorm, rope, attention, swiglu, head, logprob, sample, elements, dropout, adamw.
 * --bench: time, GFLOP/s and GB/s of linear, attention and rows, each result checked: all threads, weights from memory.
 *
 * Each call of an operation is made on devices of 1, 2 and 3 threads, from the
 * same bytes: the outputs must have the same bits, the guard bytes around every
 * tensor and all inputs must come back unchanged.  Inputs are rounded to their
 * dtype before the reference sees them.
 *
 * Tolerance of one element: 1e-30 (results below the normal numbers may be
 * flushed) + the unit roundoff of the output's dtype times |ref| (the last
 * rounding) + k * 2^-24 * mag, where mag is the sum of the absolute values of
 * the terms and k is said where it is chosen.
 */
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#endif

#include "kernels/kernels.h"
#include "ref.h"

#define U32 (1.0 / (1 << 24)) /* unit roundoff of float and of bf16 */
#define U16 (1.0 / (1 << 8))
#define GUARD 64
#define MAX_BUFS 64
#define PATTERN 0x5a /* as a float 1.5e16, as a bf16 the same: never mistaken for a result */
#define COUNT(a) ((int)(sizeof(a) / sizeof(a)[0]))
#define COLD ((size_t)160 << 20) /* --bench: bytes of weights that no cache holds */

/* Bytes of the arena, and what the last good state of them is. */
struct buf {
	struct sal_tensor block;
	size_t len, end; /* end: where the guard bytes behind it begin */
	char *want, *got;
	bool out;
};

static struct sal_dev *devs[3], *dev;
static struct sal_arena *arena;
static struct buf bufs[MAX_BUFS];
static int ndevs, nbufs, passed, failed, bad;
static bool verbose, fenced;
static char title[256];
static void *pool[4096];
static int npool;
static uint64_t seed;

/* ---- harness -------------------------------------------------------------- */

static void *
mem(size_t n)
{
	void *p = malloc(n ? n : 1);

	if (!p || npool == COUNT(pool)) {
		fprintf(stderr, "check_kernels: out of memory\n");
		exit(1);
	}
	return pool[npool++] = p;
}

static double *
zeros(int64_t n)
{
	double *p = mem((size_t)n * sizeof *p);

	memset(p, 0, (size_t)n * sizeof *p);
	return p;
}

__attribute__((format(printf, 1, 2))) static void
fail(const char *fmt, ...)
{
	va_list ap;

	if (bad++ < 4) {
		printf("# ");
		va_start(ap, fmt);
		vprintf(fmt, ap);
		va_end(ap);
		printf("\n");
	}
}

__attribute__((format(printf, 1, 2))) static void
begin(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(title, sizeof title, fmt, ap);
	va_end(ap);
	bad = 0;
	seed = 0x9e3779b97f4a7c15u;
}

static void
done(void)
{
	if (bad)
		failed++;
	else
		passed++;
	if (bad || verbose)
		printf("%sok %d - %s\n", bad ? "not " : "", passed + failed, title);
	fflush(stdout);
	sal_arena_reset(arena, 0);
	nbufs = 0;
	while (npool)
		free(pool[--npool]);
}

static double
uniform(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (double)(seed >> 11) / 9007199254740992.0;
}

static int
below(int n)
{
	return (int)(uniform() * n);
}

static size_t
width(enum sal_dtype t)
{
	return t == SAL_BF16 ? 2 : 4;
}

static double
unit(enum sal_dtype t)
{
	return t == SAL_BF16 ? U16 : U32;
}

static uint16_t
to_bf16(float f)
{
	uint32_t u;

	memcpy(&u, &f, 4);
	return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static double
from_bf16(uint16_t h)
{
	uint32_t u = (uint32_t)h << 16;
	float f;

	memcpy(&f, &u, 4);
	return f;
}

static double
rounded(enum sal_dtype t, double x)
{
	return t == SAL_BF16 ? from_bf16(to_bf16((float)x)) : (double)(float)x;
}

/* n values, bell-shaped about 0, of the dtype */
static double *
vals(enum sal_dtype t, int64_t n, double scale)
{
	double *v = zeros(n);

	for (int64_t i = 0; i < n; i++)
		v[i] = rounded(t, scale * 1.7 * (uniform() + uniform() + uniform() - 1.5));
	return v;
}

static struct buf *
track(struct sal_tensor block)
{
	struct buf *b = &bufs[nbufs++];

	if (nbufs > MAX_BUFS) {
		fprintf(stderr, "check_kernels: too many tensors in %s\n", title);
		exit(1);
	}
	b->block = block;
	b->len = sal_tensor_bytes(block);
	b->end = b->len - GUARD;
	b->want = mem(b->len);
	b->got = mem(b->len);
	memset(b->want, PATTERN, b->len);
	b->out = false;
	return b;
}

static struct sal_tensor
place(enum sal_dtype t, int ndim, int64_t d0, int64_t d1, int64_t d2, int64_t d3, const void *src)
{
	struct sal_tensor x = { .dtype = t, .ndim = ndim, .dim = { d0, d1, d2, d3 } };
	size_t n = sal_tensor_bytes(x);
	struct buf *b = track(sal_tensor_new(arena, SAL_I32, 1, (int64_t)((n + 3) / 4) + 2 * GUARD / 4, 0, 0, 0));

	if (src)
		memcpy(b->want + GUARD, src, n);
	b->end = GUARD + n;
	memset(b->want + b->end, 0xff, b->len - b->end); /* NaN: what reads past the end shows */
	sal_upload(devs[0], b->block, b->want);
	x.data = (char *)b->block.data + GUARD;
	return x;
}

static void
thaw(const void *data)
{
	for (int i = 0; i < nbufs; i++)
		if ((char *)bufs[i].block.data + GUARD == data)
			bufs[i].out = true;
}

/* A tensor of values; init NULL: the pattern */
static struct sal_tensor
tensor(enum sal_dtype t, int ndim, int64_t d0, int64_t d1, int64_t d2, int64_t d3, const double *init)
{
	int64_t d[4] = { d0, d1, d2, d3 }, n = 1;
	char *h = NULL;

	for (int i = 0; i < ndim; i++)
		n *= d[i];
	if (init) {
		h = mem((size_t)n * width(t));
		for (int64_t i = 0; i < n; i++) {
			float f = (float)init[i];
			uint16_t s = to_bf16(f);
			memcpy(h + (size_t)i * width(t), t == SAL_BF16 ? (void *)&s : (void *)&f, width(t));
		}
	}
	return place(t, ndim, d0, d1, d2, d3, h);
}

#define IN1(t, v, a) tensor(t, 1, a, 0, 0, 0, v)
#define IN2(t, v, a, b) tensor(t, 2, a, b, 0, 0, v)
#define INT1(v, a) place(SAL_I32, 1, a, 0, 0, 0, v)

/* An output, of unset content or of init */
static struct sal_tensor
out2(enum sal_dtype t, const double *init, int64_t a, int64_t b)
{
	struct sal_tensor x = b ? IN2(t, init, a, b) : IN1(t, init, a);

	thaw(x.data);
	return x;
}

/* Guard bytes out of bounds, for AddressSanitizer to see what reads them; not of the CPU, whose vectors may reach there. */
static void
fence(bool on)
{
	for (int i = 0; fenced && i < nbufs; i++) {
		char *p = bufs[i].block.data;

		if (on) {
			ASAN_POISON_MEMORY_REGION(p, GUARD);
			ASAN_POISON_MEMORY_REGION(p + bufs[i].end, bufs[i].len - bufs[i].end);
		} else {
			ASAN_UNPOISON_MEMORY_REGION(p, bufs[i].len);
		}
	}
}

/* Inputs must be as before, outputs the same on every device. */
static void
verify(int d)
{
	int failure = sal_dev_sync(dev);

	fence(false);
	if (failure) {
		fail("device: %s", sal_dev_error(dev));
		return;
	}
	for (int i = 0; i < nbufs; i++) {
		struct buf *b = &bufs[i];
		char *now = d ? mem(b->len) : b->got;

		sal_download(dev, now, b->block);
		if (!b->out && memcmp(now, b->want, b->len))
			fail("operand %d: an input or its guard bytes changed", i);
		if (b->out && (memcmp(now, b->want, GUARD) || memcmp(now + b->len - GUARD, b->want + b->len - GUARD, GUARD)))
			fail("operand %d: guard bytes of an output changed", i);
		if (b->out && d && memcmp(now, b->got, b->len))
			fail("operand %d: other bits with %d threads than with one", i, sal_dev_threads(dev));
		if (d)
			free(pool[--npool]);
	}
}

static void
restore(void)
{
	for (int i = 0; i < nbufs; i++)
		if (bufs[i].out)
			sal_upload(devs[0], bufs[i].block, bufs[i].want);
}

static void
settle(void)
{
	for (int i = 0; i < nbufs; i++)
		if (bufs[i].out) {
			memcpy(bufs[i].want, bufs[i].got, bufs[i].len);
			bufs[i].out = false;
			sal_upload(devs[0], bufs[i].block, bufs[i].want);
		}
	dev = devs[0];
}

#define OP(call)                                      \
	do {                                          \
		for (int d_ = 0; d_ < ndevs; d_++) {  \
			dev = devs[d_];               \
			if (d_)                       \
				restore();            \
			fence(true);                  \
			call;                         \
			verify(d_);                   \
		}                                     \
		settle();                             \
	} while (0)

static int64_t
elements(struct sal_tensor t)
{
	return (int64_t)(sal_tensor_bytes(t) / width(t.dtype));
}

static void *
bytes_of(struct sal_tensor t)
{
	void *h = mem(sal_tensor_bytes(t));

	sal_download(devs[0], h, t);
	return h;
}

static double *
get(struct sal_tensor t)
{
	int64_t n = elements(t);
	char *h = bytes_of(t);
	double *v = zeros(n);

	for (int64_t i = 0; i < n; i++) {
		float f;
		uint16_t s;
		memcpy(&f, h + (size_t)i * width(t.dtype), t.dtype == SAL_BF16 ? 2 : 4);
		memcpy(&s, h + (size_t)i * width(t.dtype), 2);
		v[i] = t.dtype == SAL_BF16 ? from_bf16(s) : (double)f;
	}
	return v;
}

static void
same_bits(const char *what, struct sal_tensor a, struct sal_tensor b)
{
	if (sal_tensor_bytes(a) != sal_tensor_bytes(b) || memcmp(bytes_of(a), bytes_of(b), sal_tensor_bytes(a)))
		fail("%s: other bits", what);
}

/* |t - ref| <= 1e-30 + unit(dtype) |ref| + k mag; mag NULL: |ref| */
static void
near(const char *what, struct sal_tensor t, const double *ref, const double *mag, double k)
{
	double *v = get(t), worst = 0;
	int64_t n = elements(t), at = -1, wrong = 0;

	for (int64_t i = 0; i < n; i++) {
		double tol = 1e-30 + 1.01 * unit(t.dtype) * fabs(ref[i]) + k * (mag ? mag[i] : fabs(ref[i]));
		double e = fabs(v[i] - ref[i]) / tol;
		wrong += !(e <= 1);
		if (!(e <= worst)) {
			worst = e;
			at = i;
		}
	}
	if (wrong)
		fail("%s: %lld of %lld wrong; worst [%lld] %.9g, want %.9g, %.3g tolerances off", what, (long long)wrong,
		    (long long)n, (long long)at, v[at], ref[at], worst);
}

/* The tensor holds exactly these values. */
static void
exact(const char *what, struct sal_tensor t, const double *ref)
{
	double *v = get(t);

	for (int64_t i = 0; i < elements(t); i++)
		if (!(v[i] == ref[i])) {
			fail("%s: [%lld] is %.9g, want %.9g", what, (long long)i, v[i], ref[i]);
			return;
		}
}

/*
 * A sum of n float terms: rounding errors of random sign grow with the square
 * root of n; 2 sqrt(n) + 4 stands some four sigmas off, and one lost term of a
 * thousand is still a hundred times larger.
 */
static double
chain(double n)
{
	return U32 * (4 + 2 * sqrt(n));
}

/*
 * Central differences of loss(), which reads x, against the gradient.  The step
 * leaves about 1e-8 of truncation; the rest is float rounding in the kernel.
 */
static void
differences(const char *what, struct sal_tensor grad, double *x, double (*loss)(void *), void *ctx)
{
	double *g = get(grad), top = 0, h = 1e-4;
	int64_t n = elements(grad);

	for (int64_t i = 0; i < n; i++)
		top = fmax(top, fabs(g[i]));
	for (int64_t i = 0; i < n; i += n / 40 + 1) {
		double old = x[i], up, down;
		x[i] = old + h;
		up = loss(ctx);
		x[i] = old - h;
		down = loss(ctx);
		x[i] = old;
		if (!(fabs((up - down) / (2 * h) - g[i]) <= 2e-5 * top + 1e-6)) {
			fail("%s: [%lld] gradient %.9g, differences %.9g", what, (long long)i, g[i], (up - down) / (2 * h));
			return;
		}
	}
}

static double
dot(const double *a, const double *b, int64_t n)
{
	double s = 0;

	for (int64_t i = 0; i < n; i++)
		s += a[i] * b[i];
	return s;
}

/* Room for a packed matrix between guards, with the pattern in it */
static struct sal_weight
new_blocks(enum sal_dtype t, enum sal_form form, int64_t out, int64_t in, bool transposed)
{
	struct sal_tensor g = sal_tensor_new(arena, SAL_I32, 1, GUARD / 4, 0, 0, 0), e;
	struct sal_weight w = sal_weight_new(arena, t, form, out, in, transposed);

	e = sal_tensor_new(arena, SAL_I32, 1, GUARD / 4, 0, 0, 0);
	if (!e.data)
		return w;
	g.dim[0] = ((char *)e.data - (char *)g.data) / 4 + GUARD / 4;
	struct buf *b = track(g);
	b->out = true;
	sal_upload(devs[0], g, b->want);
	return w;
}

static struct sal_weight
new_weight(enum sal_dtype t, int64_t out, int64_t in, bool transposed)
{
	return new_blocks(t, SAL_PLAIN, out, in, transposed);
}

static struct sal_weight
weight(enum sal_dtype t, const double *v, int64_t out, int64_t in, bool transposed)
{
	struct sal_weight w = new_weight(t, out, in, transposed);
	struct sal_tensor src = IN2(SAL_F32, v, out, in);

	OP(sal_weight_pack(dev, w, 0, src, 1));
	return w;
}

static const char *
name_of(enum sal_dtype t)
{
	return t == SAL_BF16 ? "bf16" : "f32";
}

/* ---- linear maps ---------------------------------------------------------- */

static const struct {
	int N, O, K, R;
} linear_shapes[] = {
	{ 1, 1, 1, 0 }, { 1, 7, 13, 1 }, { 2, 17, 5, 3 }, { 3, 31, 33, 0 }, { 4, 16, 16, 16 }, { 5, 15, 2, 2 },
	{ 7, 64, 24, 8 }, { 6, 129, 31, 5 }, { 13, 97, 101, 0 }, { 33, 40, 65, 7 }, { 64, 32, 32, 4 }, { 31, 3, 127, 0 },
	{ 1, 576, 576, 16 }, { 5, 192, 576, 0 }, { 19, 1536, 576, 8 }, { 8, 576, 1536, 0 }, { 300, 48, 1024, 0 },
};

static void
test_linear(enum sal_dtype t, enum sal_dtype yt)
{
	for (int s = 0; s < COUNT(linear_shapes); s++)
		for (int acc = 0; acc < 2; acc++) {
			int N = linear_shapes[s].N, O = linear_shapes[s].O, K = linear_shapes[s].K, R = linear_shapes[s].R;
			bool biased = (s + acc) % 2;

			begin("linear %s to %s, N %d O %d K %d R %d%s%s", name_of(t), name_of(yt), N, O, K, R,
			    biased ? " bias" : "", acc ? " accumulate" : "");
			double *x = vals(t, N * K, 1), *w = vals(t, O * K, 1), *bias = vals(SAL_F32, O, 1);
			double *u = R ? vals(t, N * R, 1) : NULL, *b = vals(t, O * R, 1), *a = vals(t, R * K, 1);
			double *y = zeros(N * O), *mag = zeros(N * O), *y0 = vals(yt, N * O, 1), *dy = vals(t, N * O, 1);
			struct sal_weight W = weight(t, w, O, K, true), Bw, Aw;
			struct sal_tensor U = SAL_NONE;
			if (R) {
				Bw = weight(t, b, O, R, false);
				Aw = weight(t, a, R, K, true);
				U = IN2(t, u, N, R);
			}
			struct sal_tensor X = IN2(t, x, N, K), DY = IN2(t, dy, N, O);
			struct sal_tensor bi = biased ? IN1(SAL_F32, bias, O) : SAL_NONE, Y = out2(yt, acc ? y0 : NULL, N, O);

			OP(sal_linear_forward(dev, Y, X, W, bi, U, R ? &Bw : NULL, acc));
			ref_linear(y, mag, x, w, biased ? bias : NULL, u, b, N, K, O, R);
			for (int i = 0; acc && i < N * O; i++) {
				y[i] += y0[i];
				mag[i] += fabs(y0[i]);
			}
			near("y", Y, y, mag, chain(K + R + 2));

			double *dx0 = vals(yt, N * K, 1), *dx = zeros(N * K), *dm = zeros(N * K);
			struct sal_tensor DX = out2(yt, acc ? dx0 : NULL, N, K);
			OP(sal_linear_backward(dev, DX, DY, W, U, R ? &Aw : NULL, acc));
			ref_linear_backward(dx, dm, dy, w, u, a, N, K, O, R);
			for (int i = 0; acc && i < N * K; i++) {
				dx[i] += dx0[i];
				dm[i] += fabs(dx0[i]);
			}
			near("dx", DX, dx, dm, chain(O + R + 2));
			done();
		}
}

struct linear_ctx {
	double *x, *w, *dy, *y, *mag;
	int N, K, O;
};

static double
linear_loss(void *p)
{
	struct linear_ctx *c = p;

	ref_linear(c->y, c->mag, c->x, c->w, NULL, NULL, NULL, c->N, c->K, c->O, 0);
	return dot(c->y, c->dy, c->N * c->O);
}

static void
test_linear_grad(enum sal_dtype tdy, enum sal_dtype tx)
{
	static const int shapes[][3] = { { 1, 1, 1 }, { 2, 7, 5 }, { 7, 16, 33 }, { 31, 17, 64 }, { 100, 8, 97 }, { 33, 65, 31 },
		{ 3, 16, 576 }, { 37, 576, 16 }, { 12, 8, 1536 }, { 5, 1536, 8 } };

	for (int s = 0; s < COUNT(shapes); s++)
		for (int acc = 0; acc < 2; acc++) {
			int T = shapes[s][0], O = shapes[s][1], K = shapes[s][2];
			double scale = acc ? 0.5 : 2, *dy = vals(tdy, T * O, 1), *x = vals(tx, T * K, 1), *d0 = vals(SAL_F32, O * K, 1);
			double *dw = zeros(O * K), *mag = zeros(O * K);

			begin("linear_grad %s %s, T %d O %d K %d%s", name_of(tdy), name_of(tx), T, O, K, acc ? " accumulate" : "");
			struct sal_tensor DY = IN2(tdy, dy, T, O), X = IN2(tx, x, T, K), DW = out2(SAL_F32, acc ? d0 : NULL, O, K);
			OP(sal_linear_grad(dev, DW, DY, X, (float)scale, acc));
			ref_linear_grad(dw, mag, dy, x, scale, T, K, O);
			for (int i = 0; acc && i < O * K; i++) {
				dw[i] += d0[i];
				mag[i] += fabs(d0[i]);
			}
			near("dw", DW, dw, mag, chain(T + 2));
			done();
		}
}

static void
test_linear_differences(void)
{
	int N = 5, K = 19, O = 21;
	struct linear_ctx c = { .N = N, .K = K, .O = O };

	begin("linear: gradients by differences");
	c.x = vals(SAL_F32, N * K, 1);
	c.w = vals(SAL_F32, O * K, 1);
	c.dy = vals(SAL_F32, N * O, 1);
	c.y = zeros(N * O);
	c.mag = zeros(N * O);
	struct sal_weight W = weight(SAL_F32, c.w, O, K, true);
	struct sal_tensor X = IN2(SAL_F32, c.x, N, K), DY = IN2(SAL_F32, c.dy, N, O);
	struct sal_tensor DX = out2(SAL_F32, NULL, N, K), DW = out2(SAL_F32, NULL, O, K);
	OP(sal_linear_backward(dev, DX, DY, W, SAL_NONE, NULL, false); sal_linear_grad(dev, DW, DY, X, 1, false));
	differences("dx", DX, c.x, linear_loss, &c);
	differences("dw", DW, c.w, linear_loss, &c);
	done();
}

static void
test_linear_rows(enum sal_dtype t)
{
	static const int shapes[][3] = { { 576, 576, 16 }, { 192, 576, 0 }, { 1536, 576, 8 }, { 576, 1536, 0 }, { 33, 17, 3 },
		{ 16, 576, 0 }, { 8, 1536, 0 } };
	static const int cuts[][2] = { { 0, 1 }, { 17, 1 }, { 149, 1 }, { 3, 2 }, { 40, 5 }, { 64, 64 }, { 11, 37 } };

	for (int s = 0; s < COUNT(shapes); s++) {
		int N = 150, O = shapes[s][0], K = shapes[s][1], R = shapes[s][2];
		struct sal_weight W, Bw, Aw;
		struct sal_tensor U = SAL_NONE;

		begin("linear %s, O %d K %d R %d: a row is the same in any batch", name_of(t), O, K, R);
		W = weight(t, vals(t, O * K, 1), O, K, true);
		if (R) {
			Bw = weight(t, vals(t, O * R, 1), O, R, false);
			Aw = weight(t, vals(t, R * K, 1), R, K, true);
			U = IN2(t, vals(t, N * R, 1), N, R);
		}
		struct sal_tensor X = IN2(t, vals(t, N * K, 1), N, K), DY = IN2(t, vals(t, N * O, 1), N, O);
		struct sal_tensor Y = out2(SAL_F32, NULL, N, O), DX = out2(t, NULL, N, K);
		OP(sal_linear_forward(dev, Y, X, W, SAL_NONE, U, R ? &Bw : NULL, false);
		    sal_linear_backward(dev, DX, DY, W, U, R ? &Aw : NULL, false));
		for (int c = 0; c < COUNT(cuts); c++) {
			int i = cuts[c][0], n = cuts[c][1];
			struct sal_tensor u = R ? sal_tensor_rows(U, i, n) : SAL_NONE;
			struct sal_tensor y = out2(SAL_F32, NULL, n, O), dx = out2(t, NULL, n, K);
			OP(sal_linear_forward(dev, y, sal_tensor_rows(X, i, n), W, SAL_NONE, u, R ? &Bw : NULL, false);
			    sal_linear_backward(dev, dx, sal_tensor_rows(DY, i, n), W, u, R ? &Aw : NULL, false));
			same_bits("y", y, sal_tensor_rows(Y, i, n));
			same_bits("dx", dx, sal_tensor_rows(DX, i, n));
		}
		done();
	}
}

/* Three maps of one input in one call, the second with an adapter, the third with a bias. */
static void
test_linears(enum sal_dtype t)
{
	static const int shapes[][2] = { { 1, 64 }, { 2, 33 }, { 6, 576 }, { 32, 576 }, { 131, 48 }, { 250, 576 } };
	static const int out[3] = { 129, 40, 17 };

	for (int s = 0; s < COUNT(shapes); s++) {
		int N = shapes[s][0], K = shapes[s][1], R = 5;
		struct sal_linear map[3];

		begin("linears %s, N %d K %d", name_of(t), N, K);
		struct sal_tensor X = IN2(t, vals(t, N * K, 1), N, K), alone[3];
		struct sal_weight b = weight(t, vals(t, out[1] * R, 1), out[1], R, false);
		for (int i = 0; i < 3; i++) {
			map[i] = (struct sal_linear){ .w = weight(t, vals(t, out[i] * K, 1), out[i], K, false),
				.bias = i == 2 ? IN1(SAL_F32, vals(SAL_F32, out[i], 1), out[i]) : SAL_NONE,
				.u = i == 1 ? IN2(t, vals(t, N * R, 1), N, R) : SAL_NONE, .b = i == 1 ? &b : NULL };
		}
		for (int i = 0; i < 3; i++) {
			map[i].y = out2(i == 2 ? SAL_F32 : t, NULL, N, out[i]);
			alone[i] = out2(map[i].y.dtype, NULL, N, out[i]);
		}
		OP(sal_linears_forward(dev, map, 3, X); for (int i = 0; i < 3; i++)
		        sal_linear_forward(dev, alone[i], X, map[i].w, map[i].bias, map[i].u, map[i].b, false));
		for (int i = 0; i < 3; i++)
			same_bits("y", map[i].y, alone[i]);
		done();
	}
}

/* Packed in parts, each with its factor; read back by embedding and multiplied both ways. */
static void
test_pack(enum sal_dtype t)
{
	static const int shapes[][3] = { { 1, 1, 1 }, { 37, 9, 5 }, { 48, 32, 16 }, { 100, 31, 33 }, { 960, 576, 576 } };

	for (int s = 0; s < COUNT(shapes); s++) {
		int O = shapes[s][0], K = shapes[s][1], cut = shapes[s][2], N = 3;
		double *src = vals(SAL_F32, O * K, 1), *w = zeros(O * K), *e = zeros(O * K);
		int32_t *ids = mem((size_t)O * sizeof *ids);

		begin("weight_pack and embedding %s, %d x %d in parts of %d", name_of(t), O, K, cut);
		struct sal_tensor S = IN2(SAL_F32, src, O, K);
		struct sal_weight W = new_weight(t, O, K, true);
		void *block = (char *)bufs[nbufs - 1].block.data + GUARD;
		for (int o = 0; o < O; o += cut) {
			int n = O - o < cut ? O - o : cut;
			float scale = o ? 0.3f : 1;
			thaw(block);
			OP(sal_weight_pack(dev, W, o, sal_tensor_rows(S, o, n), scale));
			for (int i = o * K; i < (o + n) * K; i++)
				w[i] = rounded(t, (float)src[i] * scale);
		}
		for (int i = 0; i < O; i++) {
			ids[i] = (i * 7 + 3) % O;
			memcpy(e + i * K, w + ids[i] * K, (size_t)K * sizeof *e);
		}
		struct sal_tensor E = out2(SAL_F32, NULL, O, K), I = INT1(ids, O);
		OP(sal_embedding_forward(dev, E, W, I));
		exact("embedding", E, e);
		double *x = vals(t, N * K, 1), *dy = vals(t, N * O, 1), *y = zeros(N * O), *ym = zeros(N * O);
		double *dx = zeros(N * K), *dm = zeros(N * K);
		struct sal_tensor X = IN2(t, x, N, K), DY = IN2(t, dy, N, O);
		struct sal_tensor Y = out2(SAL_F32, NULL, N, O), DX = out2(SAL_F32, NULL, N, K);
		OP(sal_linear_forward(dev, Y, X, W, SAL_NONE, SAL_NONE, NULL, false);
		    sal_linear_backward(dev, DX, DY, W, SAL_NONE, NULL, false));
		ref_linear(y, ym, x, w, NULL, NULL, NULL, N, K, O, 0);
		ref_linear_backward(dx, dm, dy, w, NULL, NULL, N, K, O, 0);
		near("y", Y, y, ym, chain(K));
		near("dx", DX, dx, dm, chain(O));
		done();
	}
}

/* n elements in blocks of a form: bytes at random, scales of a moderate size; for NF4 those that encoding gives */
static unsigned char *
random_blocks(enum sal_form form, int64_t n)
{
	static const int bytes[] = { 0, 0, 18, 20, 34, 144, 176, 210 }, scale_at[] = { 0, 0, 0, 0, 0, 0, 0, 208 };
	size_t len = sal_form_bytes(form, n);
	unsigned char *b = mem(len);

	for (size_t i = 0; i < len; i++)
		b[i] = (unsigned char)below(256);
	if (form == SAL_NF4) {
		double *v = vals(SAL_F32, n, 1);
		float *x = mem((size_t)n * 4), *scales = mem((size_t)(n / 64 + 1) * 4);
		for (int64_t i = 0; i < n; i++)
			x[i] = (float)v[i];
		sal_nf4_encode(b, scales, n, x, 0, n);
		return b;
	}
	for (size_t i = 0; i < len; i += (size_t)bytes[form]) {
		unsigned char *s = b + i + scale_at[form];
		bool two = form == SAL_Q4_1 || form == SAL_Q4_K || form == SAL_Q5_K;
		s[1] = (unsigned char)(0x10 | below(0x20) | (below(2) ? 0x80 : 0)); /* some below the normal numbers of f16 */
		if (two)
			s[3] = (unsigned char)below(0x30);
		if (i == 0)
			s[1] = 0;
	}
	return b;
}

/* Scales at the edges of IEEE half: zero, below the normal numbers, the least of those, the largest, infinity; with either sign. */
static void
test_blocks_half(enum sal_dtype t)
{
	static const int halves[] = { 0, 1, 0x3ff, 0x400, 0x401, 0x7bff, 0x7c00 };
	enum { n = 2 * COUNT(halves), K = 32 * n };
	unsigned char *b = mem((size_t)n * 34);
	double *w = zeros(K);

	begin("blocks q8_0 %s, scales at the edges", name_of(t));
	memset(b, 1, (size_t)n * 34);
	for (int i = 0; i < n; i++) {
		int h = halves[i / 2];
		b[34 * i] = (unsigned char)h;
		b[34 * i + 1] = (unsigned char)(h >> 8 | i % 2 << 7);
		for (int j = 0; j < 32; j++)
			w[32 * i + j] = rounded(t, (i % 2 ? -1 : 1) * (h == 0x7c00 ? INFINITY : h < 0x400 ? ldexp(h, -24) : ldexp(1024 + h % 1024, h / 1024 - 25)));
	}
	struct sal_weight W = new_blocks(t, SAL_Q8_0, 1, K, false);
	struct sal_tensor D = out2(t, NULL, 1, K);
	OP(sal_weight_store(dev, W, SAL_Q8_0, 0, 1, b); sal_weight_unpack(dev, D, W, 0));
	exact("unpack", D, w);
	done();
}

static const struct {
	enum sal_form form;
	int O, K, N;
} block_shapes[] = {
	{ SAL_NF4, 1, 1, 1 }, { SAL_NF4, 5, 77, 3 }, { SAL_NF4, 64, 96, 2 }, { SAL_NF4, 300, 64, 7 }, { SAL_NF4, 4100, 33, 2 },
	{ SAL_Q4_0, 7, 32, 1 }, { SAL_Q4_0, 8200, 32, 2 }, { SAL_Q4_1, 33, 64, 5 }, { SAL_Q8_0, 17, 96, 3 }, { SAL_Q4_K, 9, 256, 2 },
	{ SAL_Q5_K, 9, 512, 2 }, { SAL_Q6_K, 9, 256, 3 }, { SAL_Q6_K, 40, 512, 33 },
};

/* Stored in one piece, or in two where rows are whole blocks, kept so or plain; what it decodes to; products both ways, plain and with an adapter. */
static void
test_blocks(enum sal_dtype t, enum sal_dtype yt)
{
	for (int s = 0; s < COUNT(block_shapes); s++) {
		enum sal_form form = block_shapes[s].form;
		int O = block_shapes[s].O, K = block_shapes[s].K, N = block_shapes[s].N, R = s % 2 ? 3 : 0;
		int64_t n = (int64_t)O * K, cut = form == SAL_NF4 ? 0 : O / 2;

		begin("blocks %s %s to %s, N %d O %d K %d R %d", sal_form_name(form), name_of(t), name_of(yt), N, O, K, R);
		unsigned char *b = random_blocks(form, n);
		struct sal_weight W = new_blocks(t, form, O, K, true), Bw, Aw;
		double *w = zeros(n), *mag = zeros(n);
		OP(if (cut) sal_weight_store(dev, W, form, 0, cut, b);
		    sal_weight_store(dev, W, form, cut, O - cut, b + (cut ? sal_form_bytes(form, cut * K) : 0)));
		for (int64_t i = 0; i < n; i++)
			w[i] = ref_block(form, b, n, i, &mag[i]);
		struct sal_tensor D = out2(t, NULL, O, K), tail = out2(t, NULL, O - O / 2, K);
		OP(sal_weight_unpack(dev, D, W, 0); sal_weight_unpack(dev, tail, W, O / 2));
		near("unpack", D, w, mag, 3 * U32);
		same_bits("the last rows", tail, sal_tensor_rows(D, O / 2, O - O / 2));
		struct sal_weight P = new_blocks(t, SAL_PLAIN, O, K, false);
		struct sal_tensor E = out2(t, NULL, O, K);
		OP(if (cut) sal_weight_store(dev, P, form, 0, cut, b);
		    sal_weight_store(dev, P, form, cut, O - cut, b + (cut ? sal_form_bytes(form, cut * K) : 0));
		    sal_weight_unpack(dev, E, P, 0));
		same_bits("stored plain", E, D);

		w = get(D); /* a product is that of the matrix it decodes to */
		double *x = vals(t, N * K, 1), *u = R ? vals(t, N * R, 1) : NULL, *bw = vals(t, O * R, 1), *aw = vals(t, R * K, 1);
		double *y = zeros(N * O), *ym = zeros(N * O), *dy = vals(t, N * O, 1), *dx = zeros(N * K), *dm = zeros(N * K);
		struct sal_tensor U = SAL_NONE, X = IN2(t, x, N, K), DY = IN2(t, dy, N, O);
		if (R) {
			Bw = weight(t, bw, O, R, false);
			Aw = weight(t, aw, R, K, true);
			U = IN2(t, u, N, R);
		}
		struct sal_tensor Y = out2(yt, NULL, N, O), DX = out2(yt, NULL, N, K);
		OP(sal_linear_forward(dev, Y, X, W, SAL_NONE, U, R ? &Bw : NULL, false);
		    sal_linear_backward(dev, DX, DY, W, U, R ? &Aw : NULL, false));
		ref_linear(y, ym, x, w, NULL, u, bw, N, K, O, R);
		ref_linear_backward(dx, dm, dy, w, u, aw, N, K, O, R);
		near("y", Y, y, ym, chain(K + R));
		near("dx", DX, dx, dm, chain(O + R));
		done();
	}
}

/*
 * In 8 bits: set from floats in two parts, or from blocks; read back; multiplied, with and without an adapter, against the sums of
 * the same 8-bit numbers, and rows alone against rows together.
 */
static void
test_int8(enum sal_dtype t, enum sal_dtype yt)
{
	if (!sal_layout_keeps(sal_dev_layout(devs[0]), SAL_INT8))
		return;
	for (int s = 0; s < COUNT(linear_shapes); s++) {
		int N = linear_shapes[s].N, O = linear_shapes[s].O, K = linear_shapes[s].K, R = linear_shapes[s].R, cut = O / 3, G = (K + 63) / 64;
		bool acc = s % 2, stored = K % 32 == 0;

		begin("int8 %s to %s, N %d O %d K %d R %d%s", name_of(t), name_of(yt), N, O, K, R, acc ? " accumulate" : "");
		double *w = vals(SAL_F32, O * K, 1), *x = vals(t, N * K, 1), *u = R ? vals(t, N * R, 1) : NULL, *b = vals(t, O * R, 1);
		double *bias = vals(SAL_F32, O, 1), *wq = zeros(O * K), *xq = zeros(N * K), *y = zeros(N * O), *ym = zeros(N * O), *y0 = vals(yt, N * O, 1);
		struct sal_weight W = new_blocks(t, SAL_INT8, O, K, false), Bw;
		struct sal_tensor U = SAL_NONE, X = IN2(t, x, N, K), S = IN2(SAL_F32, w, O, K);
		if (stored) {
			unsigned char *blocks = random_blocks(SAL_Q8_0, (int64_t)O * K);
			float *f = mem((size_t)(O * K) * sizeof *f);
			sal_blocks_decode(SAL_Q8_0, blocks, (int64_t)O * K, 0, (int64_t)O * K, f);
			for (int i = 0; i < O * K; i++)
				w[i] = (double)f[i];
			OP(sal_weight_store(dev, W, SAL_Q8_0, 0, cut, blocks);
			    sal_weight_store(dev, W, SAL_Q8_0, cut, O - cut, blocks + sal_form_bytes(SAL_Q8_0, (int64_t)cut * K)));
		} else {
			OP(if (cut) sal_weight_pack(dev, W, 0, sal_tensor_rows(S, 0, cut), 1);
			    sal_weight_pack(dev, W, cut, sal_tensor_rows(S, cut, O - cut), 1));
		}
		/* half a step, but for the rounding of x / scale: 127 in float */
		if (ref_int8(wq, w, O, K) > 1 + 127 * 2 * U32 || ref_int8(xq, x, N, K) > 1 + 127 * 2 * U32)
			fail("further from the number than half a step");
		struct sal_tensor D = out2(t, NULL, O, K);
		OP(sal_weight_unpack(dev, D, W, 0));
		near("unpack", D, wq, NULL, U32);

		if (R) {
			Bw = weight(t, b, O, R, false);
			U = IN2(t, u, N, R);
		}
		struct sal_tensor bi = s % 3 ? SAL_NONE : IN1(SAL_F32, bias, O), Y = out2(yt, acc ? y0 : NULL, N, O);
		OP(sal_linear_forward(dev, Y, X, W, bi, U, R ? &Bw : NULL, acc));
		ref_linear(y, ym, xq, wq, s % 3 ? NULL : bias, u, b, N, K, O, R);
		for (int i = 0; acc && i < N * O; i++) {
			y[i] += y0[i];
			ym[i] += fabs(y0[i]);
		}
		near("y", Y, y, ym, chain(2 * G + R + 2));

		struct sal_tensor all = out2(SAL_F32, NULL, N, O);
		OP(sal_linear_forward(dev, all, X, W, SAL_NONE, U, R ? &Bw : NULL, false));
		for (int i = 0, n = 1; i + n <= N; i += n, n = 1 + (n + i) % 13) {
			struct sal_tensor part = out2(SAL_F32, NULL, n, O);
			OP(sal_linear_forward(dev, part, sal_tensor_rows(X, i, n), W, SAL_NONE, R ? sal_tensor_rows(U, i, n) : U, R ? &Bw : NULL, false));
			same_bits("rows", part, sal_tensor_rows(all, i, n));
		}
		done();
	}
}

/* Zeros, numbers too small for a scale, and numbers that are none: those reach every output of their row, and no other. */
static void
test_int8_edges(void)
{
	enum { N = 5, O = 17, K = 70 };
	static const double odd[N] = { 0, 1e-38, 1, INFINITY, NAN };

	if (!sal_layout_keeps(sal_dev_layout(devs[0]), SAL_INT8))
		return;
	for (int last = 0; last < 2; last++) {
		begin("int8: odd elements, %s", last ? "in the last group" : "in the first group");
		double *x = vals(SAL_F32, N * K, 1), *y;
		struct sal_weight W = new_blocks(SAL_F32, SAL_INT8, O, K, false);
		struct sal_tensor S = IN2(SAL_F32, vals(SAL_F32, O * K, 1), O, K), Y = out2(SAL_F32, NULL, N, O);

		for (int k = 0; k < 2 * K; k++)
			x[k] = odd[k / K];
		for (int i = 2; i < N; i++)
			x[i * K + (last ? K - 1 : 3)] = odd[i];
		OP(sal_weight_pack(dev, W, 0, S, 1); sal_linear_forward(dev, Y, IN2(SAL_F32, x, N, K), W, SAL_NONE, SAL_NONE, NULL, false));
		y = get(Y);
		for (int i = 0; i < N * O; i++)
			if (i / O < 2 ? y[i] != 0 : i / O == 2 ? !isfinite(y[i]) : isfinite(y[i]))
				fail("row of %g: %g", odd[i / O], y[i]);
		done();
	}
}

/* ---- rows and elements ------------------------------------------------------ */

struct rms_ctx {
	double *x, *w, *dy, *y;
	int N, C;
};

static double
rms_loss(void *p)
{
	struct rms_ctx *c = p;

	ref_rmsnorm(c->y, NULL, c->x, c->w, 1e-5, c->N, c->C);
	return dot(c->y, c->dy, c->N * c->C);
}

static void
test_rmsnorm(enum sal_dtype tx, enum sal_dtype ty)
{
	static const int shapes[][2] = { { 1, 1 }, { 3, 2 }, { 2, 7 }, { 5, 16 }, { 4, 33 }, { 9, 64 }, { 17, 101 }, { 33, 576 },
		{ 2, 1000 } };

	for (int s = 0; s < COUNT(shapes); s++)
		for (int alias = 0; alias <= (tx == ty); alias++) {
			int N = shapes[s][0], C = shapes[s][1], n = N * C;
			struct rms_ctx c = { .N = N, .C = C };

			begin("rmsnorm %s to %s, N %d C %d%s", name_of(tx), name_of(ty), N, C, alias ? " in place" : "");
			c.x = vals(tx, n, 2);
			c.w = vals(SAL_F32, C, 1);
			c.dy = vals(ty, n, 1);
			c.y = zeros(n);
			double *rrms = zeros(N), *dx = zeros(n), *mag = zeros(n), *old = vals(tx, n, 1);
			struct sal_tensor X = IN2(tx, c.x, N, C), W = IN1(SAL_F32, c.w, C), DY = IN2(ty, c.dy, N, C);
			struct sal_tensor Y = out2(ty, alias ? c.x : NULL, N, C), R = out2(SAL_F32, NULL, N, 0);
			struct sal_tensor one = out2(ty, NULL, 1, C), DX = out2(tx, alias ? c.dy : NULL, N, C);

			OP(sal_rmsnorm_forward(dev, Y, R, alias ? Y : X, W, 1e-5f);
			    sal_rmsnorm_forward(dev, one, SAL_NONE, sal_tensor_rows(X, N - 1, 1), W, 1e-5f);
			    sal_rmsnorm_backward(dev, DX, alias ? DX : DY, X, W, R, false));
			ref_rmsnorm(c.y, rrms, c.x, c.w, 1e-5f, N, C);
			/* the sum of squares has one sign: its error halves under the root; then three products */
			near("y", Y, c.y, NULL, chain(C));
			near("rrms", R, rrms, NULL, chain(C));
			same_bits("a row alone", one, sal_tensor_rows(Y, N - 1, 1));
			ref_rmsnorm_backward(dx, mag, c.dy, c.x, c.w, rrms, N, C);
			near("dx", DX, dx, mag, 3 * chain(C)); /* r enters cubed */
			if (tx == SAL_F32 && ty == SAL_F32)
				differences("dx", DX, c.x, rms_loss, &c);
			if (!alias) {
				struct sal_tensor acc = out2(tx, old, N, C);
				OP(sal_rmsnorm_backward(dev, acc, DY, X, W, R, true));
				for (int i = 0; i < n; i++) {
					dx[i] += old[i];
					mag[i] += fabs(old[i]);
				}
				near("dx accumulated", acc, dx, mag, 3 * chain(C));
			}
			done();
		}
}

static void
test_rope(enum sal_dtype t)
{
	static const int shapes[][3] = { { 1, 1, 2 }, { 5, 3, 6 }, { 33, 9, 64 }, { 7, 3, 16 }, { 2, 2, 128 }, { 3, 1, 34 } };
	enum { P = 97 };

	for (int s = 0; s < COUNT(shapes); s++) {
		int N = shapes[s][0], H = shapes[s][1], D = shapes[s][2], n = N * H * D;
		double *x = vals(t, n, 1), *cs = zeros(P * D), *y = zeros(n), *mag = zeros(n);
		int32_t *pos = mem((size_t)N * sizeof *pos);

		begin("rope %s, N %d H %d D %d", name_of(t), N, H, D);
		for (int i = 0; i < N; i++)
			pos[i] = i == N - 1 ? P - 1 : below(P);
		for (int p = 0; p < P; p++)
			for (int d = 0; d < D / 2; d++) {
				cs[p * D + d] = (float)cos(p * pow(1e4, -2.0 * d / D));
				cs[p * D + D / 2 + d] = (float)sin(p * pow(1e4, -2.0 * d / D));
			}
		struct sal_tensor CS = tensor(SAL_F32, 3, P, 2, D / 2, 0, cs), I = INT1(pos, N);
		struct sal_tensor X = tensor(t, 3, N, H, D, 0, x), Z = tensor(t, 3, N, H, D, 0, x);
		thaw(X.data);
		thaw(Z.data);
		OP(sal_rope_forward(dev, X, I, CS); sal_rope_backward(dev, Z, I, CS));
		ref_rope(y, mag, x, pos, cs, N, H, D, 1);
		near("forward", X, y, mag, 2 * U32); /* two products and a sum */
		ref_rope(y, mag, x, pos, cs, N, H, D, -1);
		near("backward", Z, y, mag, 2 * U32);
		done();
	}
}

struct swiglu_ctx {
	double *gate, *up, *dy, *y;
	int n;
};

static double
swiglu_loss(void *p)
{
	struct swiglu_ctx *c = p;

	ref_swiglu(c->y, c->gate, c->up, c->n);
	return dot(c->y, c->dy, c->n);
}

static void
test_swiglu(enum sal_dtype t)
{
	static const int shapes[][2] = { { 1, 1 }, { 1, 7 }, { 2, 33 }, { 5, 101 }, { 9, 1536 }, { 64, 64 } };
	static const double ends[] = { 0, 100, -100, 80, -80, 20, -20, 1e-20, -1e-20 };

	for (int s = 0; s < COUNT(shapes); s++)
		for (int alias = 0; alias < 3; alias++) {
			int N = shapes[s][0], F = shapes[s][1], n = N * F;
			struct swiglu_ctx c = { .n = n };

			begin("swiglu %s, N %d F %d, alias %d", name_of(t), N, F, alias);
			c.gate = vals(t, n, 4);
			c.up = vals(t, n, 1);
			c.dy = vals(t, n, 1);
			c.y = zeros(n);
			for (int i = 0; i < COUNT(ends) && s > 0; i++)
				c.gate[i * 3 % n] = rounded(t, ends[i]);
			double *dg = zeros(n), *du = zeros(n), *dgm = zeros(n), *mag = zeros(n);
			struct sal_tensor G = IN2(t, c.gate, N, F), Up = IN2(t, c.up, N, F), DY = IN2(t, c.dy, N, F);
			struct sal_tensor Y = out2(t, alias == 1 ? c.gate : alias == 2 ? c.up : NULL, N, F);
			struct sal_tensor DG = out2(t, alias == 1 ? c.gate : alias == 2 ? c.dy : NULL, N, F);
			struct sal_tensor DU = out2(t, alias ? c.up : NULL, N, F);
			OP(sal_swiglu_forward(dev, Y, alias == 1 ? Y : G, alias == 2 ? Y : Up);
			    sal_swiglu_backward(dev, DG, DU, alias == 2 ? DG : DY, alias == 1 ? DG : G, alias ? DU : Up));
			ref_swiglu(c.y, c.gate, c.up, n);
			/*
			 * exp to 2 ulp, a sum, a quotient, two products: below 12 roundings.  Below
			 * -87 exp is held at its limit, where silu and its slope are under 1e-35.
			 */
			for (int i = 0; i < n; i++)
				mag[i] = fabs(c.y[i]) + 1e-28 * fabs(c.up[i]);
			near("y", Y, c.y, mag, 12 * U32);
			ref_swiglu_backward(dg, du, c.dy, c.gate, c.up, n);
			for (int i = 0; i < n; i++) {
				double sg = 1 / (1 + exp(-c.gate[i]));
				/* 1 + g (1 - s) cancels for g < 0: the bound is that of its parts; 1 - s is a rounding of s off */
				dgm[i] = fabs(c.dy[i] * c.up[i]) * (sg * (1 + fabs(c.gate[i])) + 1e-28);
				mag[i] = fabs(du[i]) + 1e-28 * fabs(c.dy[i]);
			}
			near("dgate", DG, dg, dgm, 14 * U32);
			near("dup", DU, du, mag, 12 * U32);
			if (t == SAL_F32) {
				for (int i = 0; i < n; i++)
					if (fabs(c.gate[i]) > 40) /* a step of loss() is lost beside terms this large */
						goto end;
				differences("dgate", DG, c.gate, swiglu_loss, &c);
				differences("dup", DU, c.up, swiglu_loss, &c);
			}
end:
			done();
		}
	if (t == SAL_F32) { /* exp over its whole range, seen through the gate: silu(g) / g = 1 / (1 + exp(-g)) */
		int n = 20001;
		struct swiglu_ctx c = { .n = n };
		begin("swiglu f32: the exponential from -80 to 80");
		c.gate = zeros(n);
		c.up = zeros(n);
		c.y = zeros(n);
		for (int i = 0; i < n; i++) {
			c.gate[i] = (float)(-80 + 160.0 * i / (n - 1));
			c.up[i] = 1;
		}
		struct sal_tensor G = IN2(t, c.gate, 1, n), Up = IN2(t, c.up, 1, n), Y = out2(t, NULL, 1, n);
		OP(sal_swiglu_forward(dev, Y, G, Up));
		ref_swiglu(c.y, c.gate, c.up, n);
		near("silu", Y, c.y, NULL, 7 * U32); /* exp 4 units, a sum, a quotient, a product, and up */
		done();
	}
}

static double
head_loss(void *p)
{
	struct linear_ctx *c = p;

	ref_head(c->y, c->mag, c->x, c->w, 0.25, c->N, c->K);
	return dot(c->y, c->dy, c->N);
}

static void
test_head(enum sal_dtype t)
{
	static const int shapes[][2] = { { 1, 1 }, { 2, 7 }, { 5, 33 }, { 100, 64 }, { 31, 576 }, { 40, 1001 } };

	for (int s = 0; s < COUNT(shapes); s++)
		for (int acc = 0; acc < 2; acc++) {
			int N = shapes[s][0], C = shapes[s][1];
			struct linear_ctx c = { .N = N, .K = C };
			double bias = 0.25, *dw0 = vals(SAL_F32, C, 1), db0 = 0.75, db, dbm;

			begin("head %s, N %d C %d%s", name_of(t), N, C, acc ? " accumulate" : "");
			c.x = vals(t, N * C, 1);
			c.w = vals(SAL_F32, C, 1);
			c.dy = vals(SAL_F32, N, 1);
			c.y = zeros(N);
			c.mag = zeros(N);
			double *dh = zeros(N * C), *dw = zeros(C), *dwm = zeros(C);
			struct sal_tensor H = IN2(t, c.x, N, C), W = IN1(SAL_F32, c.w, C), DY = IN1(SAL_F32, c.dy, N);
			struct sal_tensor b = acc ? SAL_NONE : IN1(SAL_F32, &bias, 1), Y = out2(SAL_F32, NULL, N, 0);
			struct sal_tensor one = out2(SAL_F32, NULL, 1, 0), DH = out2(SAL_F32, NULL, N, C);
			struct sal_tensor DW = out2(SAL_F32, acc ? dw0 : NULL, C, 0), DB = out2(SAL_F32, acc ? &db0 : NULL, 1, 0);
			OP(sal_head_forward(dev, Y, H, W, b); sal_head_forward(dev, one, sal_tensor_rows(H, N - 1, 1), W, b);
			    sal_head_backward(dev, DH, DW, DB, DY, H, W, acc));
			ref_head(c.y, c.mag, c.x, c.w, acc ? 0 : bias, N, C);
			near("y", Y, c.y, c.mag, chain(C));
			same_bits("a row alone", one, sal_tensor_rows(Y, N - 1, 1));
			if (!acc && t == SAL_F32) {
				differences("dh", DH, c.x, head_loss, &c);
				differences("dw", DW, c.w, head_loss, &c);
			}
			ref_head_backward(dh, dw, dwm, &db, &dbm, c.dy, c.x, c.w, N, C);
			for (int i = 0; acc && i < C; i++) {
				dw[i] += dw0[i];
				dwm[i] += fabs(dw0[i]);
			}
			db += acc ? db0 : 0;
			near("dh", DH, dh, NULL, 0);
			near("dw", DW, dw, dwm, chain(N));
			near("db", DB, &db, &dbm, chain(N));
			/* rows in order: two calls give what one gives */
			struct sal_tensor DW2 = out2(SAL_F32, acc ? dw0 : NULL, C, 0), DH2 = out2(SAL_F32, NULL, N, C);
			int n = N / 2;
			if (n > 0) {
				OP(sal_head_backward(dev, sal_tensor_rows(DH2, 0, n), DW2, SAL_NONE, sal_tensor_rows(DY, 0, n),
				       sal_tensor_rows(H, 0, n), W, acc);
				    sal_head_backward(dev, sal_tensor_rows(DH2, n, N - n), DW2, SAL_NONE, sal_tensor_rows(DY, n, N - n),
				        sal_tensor_rows(H, n, N - n), W, true));
				same_bits("dw in two calls", DW2, DW);
			}
			done();
		}
}

static void
test_elements(void)
{
	static const int sizes[] = { 1, 2, 7, 31, 4095, 4096, 4097, 70001 };
	static const enum sal_dtype types[] = { SAL_F32, SAL_BF16 };

	for (int s = 0; s < COUNT(sizes); s++) {
		int n = sizes[s];
		double *x = vals(SAL_F32, n, 1), *y = vals(SAL_F32, n, 1), *r = zeros(n), sum = 0, got = 0;

		begin("zero, copy, add, sumsq of %d", n);
		if (n > 3) { /* bf16: halfway cases go to the even one */
			x[0] = 1 + 1.0 / 256;
			x[1] = 1 + 3.0 / 256;
			x[2] = -0.0;
		}
		struct sal_tensor X = IN1(SAL_F32, x, n), Y = out2(SAL_F32, y, n, 0), Z = out2(SAL_F32, NULL, n, 0);
		OP(sal_add(dev, Y, X); sal_zero(dev, Z));
		for (int i = 0; i < n; i++) {
			r[i] = (float)(x[i] + y[i]);
			sum += x[i] * x[i];
		}
		exact("add", Y, r);
		exact("zero", Z, zeros(n));
		for (int a = 0; a < 2; a++)
			for (int b = 0; b < 2; b++) {
				struct sal_tensor A = IN1(types[a], x, n), B = out2(types[b], NULL, n, 0);
				OP(sal_copy(dev, B, A));
				for (int i = 0; i < n; i++)
					r[i] = rounded(types[b], rounded(types[a], x[i]));
				exact("copy", B, r);
			}
		OP(got = sal_sumsq(dev, X); if (fabs(got - sum) > 1e-12 * sum) fail("sumsq %.17g, want %.17g", got, sum));
		done();
	}
	for (int t = 0; t < 2; t++) {
		int N = 41, n = 13, C = 301;
		int32_t idx[13];
		double *x = vals(types[t], N * C, 1), *y = zeros(n * C), *z = zeros(N * C), g[13];

		begin("gather and scatter, %s", name_of(types[t]));
		for (int i = 0; i < n; i++)
			idx[i] = (i * 17 + 40) % N;
		struct sal_tensor X = IN2(types[t], x, N, C), I = INT1(idx, n), Y = out2(types[t], NULL, n, C);
		OP(sal_gather(dev, Y, X, I));
		for (int i = 0; i < n; i++) {
			memcpy(y + i * C, x + idx[i] * C, (size_t)C * sizeof *y);
			memcpy(z + idx[i] * C, x + idx[i] * C, (size_t)C * sizeof *y);
		}
		exact("gather", Y, y);
		if (types[t] == SAL_F32) {
			struct sal_tensor Z = out2(SAL_F32, NULL, N, C);
			OP(sal_scatter(dev, Z, Y, SAL_NONE, I));
			exact("scatter", Z, z);
			for (int i = 0; i < n; i++) {
				g[i] = ldexp(-1, i % 3 - 1); /* products are exact */
				for (int j = 0; j < C; j++)
					z[idx[i] * C + j] *= g[i];
			}
			struct sal_tensor G = IN1(SAL_F32, g, n), S = out2(SAL_F32, NULL, N, C);
			OP(sal_scatter(dev, S, Y, G, I));
			exact("scatter, scaled", S, z);
		}
		done();
	}
}

/* The generator as kernels.h gives it. */
static uint64_t
mixed(uint64_t z)
{
	z += UINT64_C(0x9e3779b97f4a7c15);
	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

static void
test_dropout(void)
{
	static const enum sal_dtype types[] = { SAL_F32, SAL_BF16 };
	static const double ps[] = { 0, 0.5, 0.75 }; /* products are exact */
	static const int shapes[][2] = { { 1, 1 }, { 3, 37 }, { 97, 301 } };

	for (int t = 0; t < 4; t++)
		for (int s = 0; s < COUNT(shapes); s++) {
			int N = shapes[s][0], C = shapes[s][1];
			enum sal_dtype a = types[t / 2], b = types[t % 2];
			double *x = vals(a, N * C, 1), *y0 = vals(b, N * C, 1), *y = zeros(N * C);
			int32_t *key = mem((size_t)N * sizeof *key);

			begin("dropout %s to %s, %d x %d", name_of(a), name_of(b), N, C);
			for (int i = 0; i < N; i++)
				key[i] = (int32_t)((uint32_t)i * 2654435761u);
			struct sal_tensor X = IN2(a, x, N, C), K = INT1(key, N);
			for (int p = 0; p < COUNT(ps); p++) {
				uint64_t salt = UINT64_C(0xfedcba9876543210) + (uint64_t)p;
				struct sal_tensor Y = out2(b, NULL, N, C), Z = out2(b, y0, N, C);
				int stays = 0;

				OP(sal_dropout(dev, Y, X, K, salt, (float)ps[p], false); sal_dropout(dev, Z, X, K, salt, (float)ps[p], true));
				for (int i = 0; i < N * C; i++) {
					bool falls = (double)(mixed(mixed(salt + (uint32_t)key[i / C]) + (uint64_t)(i % C)) >> 32) < ps[p] * 0x1p32;
					y[i] = rounded(b, falls ? 0 * x[i] : (float)(x[i] / (1 - ps[p])));
					stays += !falls;
				}
				exact("dropout", Y, y);
				for (int i = 0; i < N * C; i++)
					y[i] = rounded(b, (float)(y0[i] + (y[i] == 0 ? 0 : (float)(x[i] / (1 - ps[p])))));
				exact("dropout, added", Z, y);
				double n = N * C, sd = sqrt(n * ps[p] * (1 - ps[p]));
				if (n > 1000 && fabs(stays - n * (1 - ps[p])) > 5 * sd)
					fail("%d of %.0f stay at p %g", stays, n, ps[p]);
			}
			/* an element whose draw is p to the bit stays: the least draw, which a float holds where there are many */
			uint64_t least = UINT64_MAX, salt = 11;
			for (int i = 0; i < N * C; i++) {
				uint64_t h = mixed(mixed(salt + (uint32_t)key[i / C]) + (uint64_t)(i % C)) >> 32;
				least = h < least ? h : least;
			}
			if (least < 1 << 24) {
				struct sal_tensor Y = out2(b, NULL, N, C);
				float p = (float)least * 0x1p-32f, stays = 1 / (1 - p);

				OP(sal_dropout(dev, Y, X, K, salt, p, false));
				for (int i = 0; i < N * C; i++)
					y[i] = rounded(b, (float)(x[i] * stays));
				exact("dropout, the least draw", Y, y);
			}
			done();
		}
}

static void
test_adamw(void)
{
	static const int sizes[] = { 1, 7, 33, 1000, 40000 };

	for (int s = 0; s < COUNT(sizes); s++) {
		int n = sizes[s];
		float lr = 1e-3f, b1 = 0.9f, b2 = 0.999f, eps = 1e-8f, decay = s % 2 ? 0.1f : 0, gs = 0.5f;
		double *w = vals(SAL_F32, n, 1), *m = zeros(n), *v = zeros(n), *mag = zeros(n), *mm = zeros(n);

		begin("adamw, %d elements, 5 steps", n);
		struct sal_tensor W = IN1(SAL_F32, w, n), M = IN1(SAL_F32, m, n), V = IN1(SAL_F32, v, n);
		for (int step = 1; step <= 5; step++) {
			double *g = vals(SAL_F32, n, step % 2 ? 1 : 1e-3);
			struct sal_tensor G = IN1(SAL_F32, g, n);
			thaw(W.data);
			thaw(M.data);
			thaw(V.data);
			OP(sal_adamw(dev, W, M, V, G, gs, lr, b1, b2, eps, decay, step));
			ref_adamw(w, m, v, g, n, gs, lr, b1, b2, eps, decay, step);
			for (int i = 0; i < n; i++) {
				mm[i] = b1 * mm[i] + (1 - b1) * fabs(gs * g[i]);
				/* of each step: w is rounded twice, the step (at most some lr) about ten times */
				mag[i] += 2 * fabs(w[i]) + 10 * lr * (1 + mm[i] / (sqrt(v[i]) + 1e-30) * 2);
			}
		}
		near("m", M, m, mm, 20 * U32); /* four roundings a step */
		near("v", V, v, NULL, 25 * U32);
		near("w", W, w, mag, 1.5 * U32);
		done();
	}
}

/* ---- attention -------------------------------------------------------------- */

/* A batch of sequences, keys and values in shuffled pages */
struct attn {
	struct ref_attn r;
	int N, NK, M; /* rows of q; rows of k; pages of the longest */
	int32_t off[17], koff[17], first[16];
	int32_t *pages, *slot;
	double *q, *k, *v, *y, *lse, *ymag, *lmag, *dy;
	struct sal_tensor Q, K, V, slots, Y, L;
	struct sal_kv kv;
	struct sal_seqs seqs;
};

/* lens: rows; 0 without rows before it ends; before: cached positions or NULL; shared: these are rows of the last sequence that has none */
static void
attn_setup(struct attn *a, enum sal_dtype t, int Hq, int Hk, int D, int window, const int *lens, const int *before,
    bool shared, double scale)
{
	int P = 1, root = 0;

	memset(a, 0, sizeof *a);
	for (; lens[a->r.B] > 0 || (shared && before[a->r.B] > 0); a->r.B++) {
		int b = a->r.B, f = before ? before[b] : 0, pages = (f + lens[b] + SAL_KV_PAGE - 1) / SAL_KV_PAGE;
		a->first[b] = f;
		a->off[b + 1] = a->off[b] + lens[b];
		a->koff[b + 1] = a->koff[b] + f + lens[b];
		a->M = pages > a->M ? pages : a->M;
		P += pages;
	}
	a->N = a->off[a->r.B];
	a->NK = a->koff[a->r.B];
	a->r = (struct ref_attn){ a->r.B, Hq, Hk, D, window, a->off, a->koff, 0 };
	int B = a->r.B, nq = a->N * Hq * D, nk = a->NK * Hk * D;
	int32_t *perm = mem((size_t)P * sizeof *perm);
	for (int i = 0; i < P; i++) { /* Fisher and Yates, inside out */
		int j = below(i + 1);
		perm[i] = perm[j];
		perm[j] = i;
	}
	for (int i = 0; i < P; i++)
		if (perm[i] == P - 1) { /* the last page is the first that is seen: what reads past its end shows */
			perm[i] = perm[0];
			perm[0] = P - 1;
		}
	a->pages = mem((size_t)(B * a->M) * sizeof *a->pages);
	a->slot = mem((size_t)a->NK * sizeof *a->slot);
	for (int b = 0, p = 0; b < B; b++) {
		int n = a->koff[b + 1] - a->koff[b], pages = (n + SAL_KV_PAGE - 1) / SAL_KV_PAGE;
		root = a->first[b] ? root : b;
		for (int j = 0; j < a->M; j++) /* past the end: numbers that must not be followed */
			a->pages[b * a->M + j] = shared && j < a->first[b] / SAL_KV_PAGE ? a->pages[root * a->M + j] :
			    j < pages                                                ? perm[p + j] :
			                                                               0x3fffffff;
		for (int i = 0; i < n; i++)
			a->slot[a->koff[b] + i] = perm[p + i / SAL_KV_PAGE] * SAL_KV_PAGE + i % SAL_KV_PAGE;
		p += pages;
	}
	a->q = vals(t, nq, scale);
	a->k = vals(t, nk, 1);
	a->v = vals(t, nk, 1);
	for (int b = 0; b < B && shared; b++) {
		root = a->first[b] ? root : b;
		for (int i = 0; i < a->first[b] * Hk * D; i++) {
			a->k[a->koff[b] * Hk * D + i] = a->k[a->koff[root] * Hk * D + i];
			a->v[a->koff[b] * Hk * D + i] = a->v[a->koff[root] * Hk * D + i];
		}
	}
	a->dy = vals(t, nq, 1);
	a->y = zeros(nq);
	a->ymag = zeros(nq);
	a->lse = zeros(a->N * Hq);
	a->lmag = zeros(a->N * Hq);
	a->Q = IN2(t, a->q, a->N, Hq * D);
	a->K = IN2(t, a->k, a->NK, Hk * D);
	a->V = IN2(t, a->v, a->NK, Hk * D);
	a->slots = INT1(a->slot, a->NK);
	a->kv.k = tensor(t, 4, P, Hk, SAL_KV_PAGE, D, NULL);
	a->kv.v = tensor(t, 4, P, Hk, SAL_KV_PAGE, D, NULL);
	a->seqs.off = INT1(a->off, B + 1);
	a->seqs.first = INT1(a->first, B);
	a->seqs.pages = place(SAL_I32, 2, B, a->M, 0, 0, a->pages);
	a->Y = out2(t, NULL, a->N, Hq * D);
	a->L = out2(SAL_F32, NULL, a->N, Hq);
}

static void
attn_zero(struct attn *a)
{
	thaw(a->kv.k.data);
	thaw(a->kv.v.data);
	OP(sal_zero(dev, a->kv.k); sal_zero(dev, a->kv.v));
}

static void
attn_store(struct attn *a)
{
	attn_zero(a);
	thaw(a->kv.k.data);
	thaw(a->kv.v.data);
	OP(sal_kv_store(dev, a->kv, a->K, a->V, a->slots));
}

/* k of near() for at most so many keys */
static double
attn_bound(struct attn *a, enum sal_dtype t, int keys)
{
	/* a score is a chain over D, its error multiplies its probability; the output is a chain over keys */
	double k = chain(a->r.D) + chain(keys);

	/* AVX-512 rounds p and ds to BF16; signs are random, and 3 units of the terms' root are five sigmas */
	a->r.terms = t == SAL_BF16 && !strcmp(sal_dev_isa(dev), "avx512") ? 3 * unit(t) / k : 0;
	return k;
}

static double
attn_loss(void *p)
{
	struct attn *a = p;

	ref_attention(a->y, a->lse, a->ymag, a->lmag, a->q, a->k, a->v, &a->r);
	return dot(a->y, a->dy, a->N * a->r.Hq * a->r.D);
}

static void
test_attention(enum sal_dtype t)
{
	static const struct {
		int Hq, Hk, D, window, lens[8], before[8];
	} c[] = {
		{ 9, 3, 64, 0, { 1 }, { 0 } }, { 9, 3, 64, 0, { 31 }, { 0 } }, { 9, 3, 64, 0, { 32 }, { 0 } },
		{ 9, 3, 64, 0, { 33 }, { 0 } }, { 9, 3, 64, 0, { 100 }, { 0 } }, { 9, 3, 64, 0, { 5, 1, 64, 33, 2 }, { 0 } },
		{ 9, 3, 64, 40, { 100, 7, 41 }, { 0 } }, { 4, 4, 16, 0, { 33, 5 }, { 0 } }, { 4, 4, 16, 1, { 34, 1 }, { 0 } },
		{ 2, 1, 32, 8, { 70 }, { 0 } }, { 2, 2, 128, 0, { 40, 31 }, { 0 } }, { 6, 2, 16, 33, { 97, 3 }, { 0 } },
		{ 3, 1, 2, 0, { 37 }, { 0 } }, { 1, 1, 6, 32, { 65 }, { 0 } }, { 40, 1, 16, 0, { 35 }, { 0 } },
		{ 4, 2, 80, 0, { 33 }, { 0 } },
		{ 9, 3, 64, 0, { 1, 1, 1, 1, 1 }, { 99, 31, 32, 0, 5 } }, { 9, 3, 64, 0, { 3, 40, 1 }, { 40, 1, 64 } },
		{ 9, 3, 64, 20, { 3, 40, 1 }, { 40, 1, 64 } }, { 4, 4, 16, 7, { 30, 2, 1 }, { 3, 62, 127 } },
		{ 15, 5, 64, 0, { 29, 12 }, { 0 } }, { 1, 1, 130, 0, { 5 }, { 0 } }, { 3, 1, 256, 33, { 35, 8 }, { 0 } }, { 2, 1, 192, 0, { 3, 2 }, { 34, 530 } },
		/* more pages than a back end may give to one piece of work */
		{ 2, 2, 8, 0, { 1, 1, 2 }, { 1100, 20, 511 } }, { 16, 16, 4, 0, { 560 }, { 0 } }, { 256, 256, 4, 0, { 3 }, { 530 } }, { 2, 1, 4, 520, { 3, 1 }, { 1030, 5 } },
	};

	for (int s = 0; s < COUNT(c); s++) {
		int Hq = c[s].Hq, Hk = c[s].Hk, D = c[s].D, prefix = 0, longest = 0;
		struct attn a;

		for (int b = 0; b < 8; b++)
			prefix += c[s].before[b];
		begin("attention %s, Hq %d Hk %d D %d window %d, %d.. rows%s", name_of(t), Hq, Hk, D, c[s].window, c[s].lens[0],
		    prefix ? " after a prefix" : "");
		/* every fourth with scores of some tens, which make the online softmax correct itself */
		attn_setup(&a, t, Hq, Hk, D, c[s].window, c[s].lens, c[s].before, false, s % 4 == 1 ? 8 : 1);
		attn_store(&a);
		thaw(a.Y.data);
		thaw(a.L.data);
		OP(sal_attention_forward(dev, a.Y, a.L, a.Q, a.kv, a.seqs, c[s].window));
		for (int b = 0; b < a.r.B; b++)
			longest = a.koff[b + 1] - a.koff[b] > longest ? a.koff[b + 1] - a.koff[b] : longest;
		double k = attn_bound(&a, t, longest);
		ref_attention(a.y, a.lse, a.ymag, a.lmag, a.q, a.k, a.v, &a.r);
		near("y", a.Y, a.y, a.ymag, k);
		near("lse", a.L, a.lse, a.lmag, k);
		struct sal_tensor Y2 = out2(t, NULL, a.N, Hq * D);
		OP(sal_attention_forward(dev, Y2, SAL_NONE, a.Q, a.kv, a.seqs, c[s].window));
		same_bits("y without lse", Y2, a.Y);
		if (!prefix) {
			double *d[3], *m[3], *y = get(a.Y), *lse = get(a.L);
			struct sal_tensor DY = IN2(t, a.dy, a.N, Hq * D), DQ = out2(t, NULL, a.N, Hq * D);
			struct sal_tensor DK = out2(t, NULL, a.N, Hk * D), DV = out2(t, NULL, a.N, Hk * D);
			for (int i = 0; i < 3; i++) {
				d[i] = zeros(a.N * Hq * D);
				m[i] = zeros(a.N * Hq * D);
			}
			OP(sal_attention_backward(dev, DQ, DK, DV, DY, a.Y, a.Q, a.L, a.kv, a.seqs, c[s].window));
			ref_attention_backward(d, m, a.dy, y, a.q, a.k, a.v, lse, &a.r);
			near("dq", DQ, d[0], m[0], k);
			near("dk", DK, d[1], m[1], k + chain(longest * Hq / Hk));
			near("dv", DV, d[2], m[2], k + chain(longest * Hq / Hk));
			if (t == SAL_F32 && a.N * Hq * D < 8000 && s % 4 != 1) {
				differences("dq", DQ, a.q, attn_loss, &a);
				differences("dk", DK, a.k, attn_loss, &a);
				differences("dv", DV, a.v, attn_loss, &a);
			}
		}
		done();
	}
}

/* Gradients of sequences that go on from the rows of another: what the keys that they share are given is added up. */
static void
test_attention_shared(enum sal_dtype t)
{
	static const struct {
		int Hq, Hk, D, window, lens[8], before[8];
	} c[] = {
		{ 9, 3, 64, 0, { 70, 40 }, { 0, 32 } }, { 9, 3, 64, 0, { 64, 1, 33, 20 }, { 0, 64, 32, 0 } }, { 4, 2, 16, 0, { 64, 0, 5, 0 }, { 0, 64, 32, 64 } },
		{ 4, 4, 16, 0, { 5, 97, 12, 50, 3, 34, 2 }, { 0, 0, 96, 32, 64, 0, 32 } }, { 6, 2, 16, 33, { 70, 40, 50 }, { 0, 32, 64 } },
		{ 2, 1, 32, 1, { 40, 5 }, { 0, 32 } }, { 4, 2, 80, 40, { 97, 3, 60 }, { 0, 96, 32 } }, { 40, 1, 16, 0, { 35, 4 }, { 0, 32 } },
		{ 2, 2, 128, 70, { 100, 90 }, { 0, 64 } },
	};

	for (int s = 0; s < COUNT(c); s++) {
		int Hq = c[s].Hq, Hk = c[s].Hk, D = c[s].D, root = 0, longest = 0, w = Hk * D;
		struct attn a;

		begin("attention %s, Hq %d Hk %d D %d window %d, rows of the first of %d..", name_of(t), Hq, Hk, D, c[s].window, c[s].lens[0]);
		attn_setup(&a, t, Hq, Hk, D, c[s].window, c[s].lens, c[s].before, true, 1);
		attn_store(&a);
		thaw(a.Y.data);
		thaw(a.L.data);
		OP(sal_attention_forward(dev, a.Y, a.L, a.Q, a.kv, a.seqs, c[s].window));
		for (int b = 0; b < a.r.B; b++)
			longest += a.off[b + 1] - a.off[b];
		double k = attn_bound(&a, t, longest), *d[3], *m[3], *y = get(a.Y), *lse = get(a.L);
		struct sal_tensor DY = IN2(t, a.dy, a.N, Hq * D), DQ = out2(t, NULL, a.N, Hq * D);
		struct sal_tensor DK = out2(t, NULL, a.N, w), DV = out2(t, NULL, a.N, w);
		ref_attention(a.y, a.lse, a.ymag, a.lmag, a.q, a.k, a.v, &a.r);
		near("y", a.Y, a.y, a.ymag, k);
		for (int i = 0; i < 3; i++) {
			d[i] = zeros(a.NK * Hq * D);
			m[i] = zeros(a.NK * Hq * D);
		}
		OP(sal_attention_backward(dev, DQ, DK, DV, DY, a.Y, a.Q, a.L, a.kv, a.seqs, c[s].window));
		ref_attention_backward(d, m, a.dy, y, a.q, a.k, a.v, lse, &a.r);
		for (int i = 1; i < 3; i++) {
			double *x[] = { d[i], m[i] };
			for (int j = 0; j < 2; j++)
				for (int b = 0; b < a.r.B; b++) {
					root = a.first[b] ? root : b;
					for (int e = 0; e < a.first[b] * w; e++) /* the row of the first still stands where it was or before */
						x[j][a.off[root] * w + e] += x[j][a.koff[b] * w + e];
					memmove(x[j] + a.off[b] * w, x[j] + (a.koff[b] + a.first[b]) * w, (size_t)((a.off[b + 1] - a.off[b]) * w) * sizeof(double));
				}
		}
		near("dq", DQ, d[0], m[0], k);
		near("dk", DK, d[1], m[1], k + chain(longest * Hq / Hk));
		near("dv", DV, d[2], m[2], k + chain(longest * Hq / Hk));
		done();
	}
}

/* Row by row with a cache, in chunks, beside others, and through a copied page: the bits of prefill. */
static void
test_attention_order(enum sal_dtype t)
{
	static const struct {
		int Hq, Hk, D, window, len;
	} c[] = { { 9, 3, 64, 0, 75 }, { 9, 3, 64, 20, 75 }, { 4, 4, 16, 0, 75 }, { 2, 1, 128, 33, 75 }, { 6, 2, 10, 0, 75 },
		{ 2, 1, 160, 33, 75 }, { 14, 14, 2, 0, 550 } };

	for (int s = 0; s < COUNT(c); s++) {
		int Hq = c[s].Hq, Hk = c[s].Hk, D = c[s].D, w = c[s].window, len = c[s].len, lens[] = { 5, len, 40, -1 };
		int32_t off[2] = { 0, 1 };
		struct attn a;

		begin("attention %s, Hq %d Hk %d D %d window %d: decoding is prefill", name_of(t), Hq, Hk, D, w);
		attn_setup(&a, t, Hq, Hk, D, w, lens, NULL, false, 2);
		attn_store(&a);
		thaw(a.Y.data);
		thaw(a.L.data);
		OP(sal_attention_forward(dev, a.Y, a.L, a.Q, a.kv, a.seqs, w));
		struct sal_tensor Y2 = out2(t, NULL, a.N, Hq * D), L2 = out2(SAL_F32, NULL, a.N, Hq);
		struct sal_tensor one = INT1(off, 2), first = INT1(off, 1), pages = sal_tensor_rows(a.seqs.pages, 1, 1);
		OP(for (int i = 0; i < a.N; i++) {
			sal_copy(dev, sal_tensor_rows(Y2, i, 1), sal_tensor_rows(a.Q, i, 1));
			sal_zero(dev, sal_tensor_rows(L2, i, 1));
		});
		attn_zero(&a);
		for (int chunk = len > 75 ? 13 : 1; chunk <= 13; chunk += 12) { /* one row at a time, then thirteen */
			for (int i = 0; i < lens[1]; i += chunk) {
				int n = lens[1] - i < chunk ? lens[1] - i : chunk;
				off[1] = n;
				sal_upload(devs[0], one, off);
				sal_upload(devs[0], first, &(int32_t){ i });
				for (int b = 0; b < nbufs; b++) /* the harness is told of the two */
					if ((char *)bufs[b].block.data + GUARD == one.data || (char *)bufs[b].block.data + GUARD == first.data)
						sal_download(devs[0], bufs[b].want, bufs[b].block);
				struct sal_seqs q = { one, first, pages };
				thaw(a.kv.k.data);
				thaw(a.kv.v.data);
				thaw(Y2.data);
				thaw(L2.data);
				int row = lens[0] + i;
				OP(sal_kv_store(dev, a.kv, sal_tensor_rows(a.K, row, n), sal_tensor_rows(a.V, row, n),
				       sal_tensor_rows(a.slots, row, n));
				    sal_attention_forward(dev, sal_tensor_rows(Y2, row, n), sal_tensor_rows(L2, row, n),
				        sal_tensor_rows(a.Q, row, n), a.kv, q, w));
			}
			same_bits("y", sal_tensor_rows(Y2, lens[0], lens[1]), sal_tensor_rows(a.Y, lens[0], lens[1]));
			same_bits("lse", sal_tensor_rows(L2, lens[0], lens[1]), sal_tensor_rows(a.L, lens[0], lens[1]));
			attn_zero(&a);
		}
		/* the last page of sequence 1, under another number */
		attn_store(&a);
		int32_t other[32], last = (len - 1) / SAL_KV_PAGE, src = a.pages[a.M + last], spare = 0;
		for (int used = 1; used;) {
			used = 0;
			for (int b = 0; b < 3; b++)
				for (int j = 0; j < (lens[b] + 31) / 32; j++)
					used |= a.pages[b * a.M + j] == spare;
			spare += used;
		}
		memcpy(other, a.pages + a.M, (size_t)a.M * sizeof *other);
		other[last] = spare;
		off[1] = lens[1];
		struct sal_seqs q = { INT1(off, 2), INT1(&(int32_t){ 0 }, 1), place(SAL_I32, 2, 1, a.M, 0, 0, other) };
		struct sal_tensor Y3 = out2(t, NULL, lens[1], Hq * D);
		thaw(a.kv.k.data);
		thaw(a.kv.v.data);
		OP(sal_kv_copy(dev, a.kv, spare, src);
		    sal_attention_forward(dev, Y3, SAL_NONE, sal_tensor_rows(a.Q, lens[0], lens[1]), a.kv, q, w));
		same_bits("y through a copied page", Y3, sal_tensor_rows(a.Y, lens[0], lens[1]));
		done();
	}
}

/* ---- the vocabulary ---------------------------------------------------------- */

struct lp_ctx {
	double *h, *w, *lp, *lse, *ent, *mag, inv;
	int32_t *target;
	int n, C, V;
};

static double
lp_loss(void *p)
{
	struct lp_ctx *c = p;
	double sum = 0;

	ref_logprob(c->lp, c->lse, c->ent, c->mag, c->h, c->w, c->target, c->inv, c->n, c->C, c->V);
	for (int i = 0; i < c->n; i++)
		sum += c->lp[i];
	return sum;
}

static void
test_logprob(enum sal_dtype t)
{
	static const struct {
		int n, C, V;
		float inv;
	} s[] = { { 1, 1, 1, 1 }, { 3, 8, 2, 1 }, { 5, 33, 17, 0.7f }, { 40, 64, 100, 1.5f }, { 7, 16, 2047, 1 }, { 7, 16, 2048, 2 },
		{ 7, 17, 2049, 1 }, { 3, 64, 5000, 1 }, { 2, 576, 4099, 0.5f }, { 301, 24, 77, 1 },
		/* more columns, more rows than a back end may hold logits of */
		{ 1, 3, 8192, 1 }, { 2, 5, 16500, 0.8f }, { 4, 130, 16500, 0.8f }, { 515, 3, 19, 1 } };

	for (int i = 0; i < COUNT(s); i++) {
		int n = s[i].n, C = s[i].C, V = s[i].V;
		struct lp_ctx c = { .n = n, .C = C, .V = V, .inv = s[i].inv };

		begin("logprob %s, n %d C %d V %d at %g", name_of(t), n, C, V, c.inv);
		c.h = vals(t, n * C, 1);
		c.w = vals(t, V * C, 3 / sqrt(C));
		c.lp = zeros(n);
		c.lse = zeros(n);
		c.ent = zeros(n);
		c.mag = zeros(n);
		c.target = mem((size_t)n * sizeof *c.target);
		for (int j = 0; j < n; j++)
			c.target[j] = j == 0 ? V - 1 : j == n - 1 && V > 8192 ? 8192 : below(V); /* 8192: a slice may begin there */
		struct sal_weight W = weight(t, c.w, V, C, true);
		struct sal_tensor H = IN2(t, c.h, n, C), T = INT1(c.target, n);
		struct sal_tensor LP = out2(SAL_F32, NULL, n, 0), E = out2(SAL_F32, NULL, n, 0), DH = out2(SAL_F32, NULL, n, C);
		struct sal_tensor lp1 = out2(SAL_F32, NULL, 1, 0), lp2 = out2(SAL_F32, NULL, 1, 0), dh1 = out2(SAL_F32, NULL, 1, C);
		struct sal_tensor H1 = sal_tensor_rows(H, n - 1, 1), T1 = sal_tensor_rows(T, n - 1, 1);
		OP(sal_logprob(dev, LP, E, DH, H, W, T, s[i].inv); sal_logprob(dev, lp1, SAL_NONE, SAL_NONE, H1, W, T1, s[i].inv);
		    sal_logprob(dev, lp2, SAL_NONE, dh1, H1, W, T1, s[i].inv));
		lp_loss(&c);
		/* mag bounds a logit's terms; the sum of V exponentials keeps its relative error under the logarithm */
		double k = chain(C) + chain(V), *em = zeros(n);
		for (int j = 0; j < n; j++)
			em[j] = c.mag[j] * (2 + c.ent[j] + fabs(c.lse[j]));
		near("logprob", LP, c.lp, c.mag, 2 * k);
		near("entropy", E, c.ent, em, k);
		same_bits("logprob alone", lp1, sal_tensor_rows(LP, n - 1, 1));
		same_bits("logprob beside a gradient", lp2, lp1);

		double *dh = zeros(n * C), *mag = zeros(n * C), *abs = zeros(n * C);
		ref_logprob_grad(dh, mag, abs, c.lse, c.h, c.w, c.target, c.inv, n, C, V);
		for (int j = 0; j < n * C; j++) /* probabilities are rounded to act before they meet the matrix */
			mag[j] = k * mag[j] + (t == SAL_BF16 ? U16 * abs[j] : 0);
		near("dh", DH, dh, mag, 1);
		same_bits("dh alone", dh1, sal_tensor_rows(DH, n - 1, 1));
		if (t == SAL_F32 && n * C * V < 500000)
			differences("dh", DH, c.h, lp_loss, &c);
		done();
	}
}

/* The sampler's logprob is that of the forward pass. */
static void
test_sample_logprob(enum sal_dtype t, enum sal_form form)
{
	static const struct {
		int n, C, V;
		float temp;
	} s[] = { { 1, 8, 5, 1 }, { 9, 33, 100, 0.7f }, { 3, 16, 2049, 1.3f }, { 5, 64, 5001, 0 }, { 70, 24, 4096, 0.9f } };

	if (!sal_layout_keeps(sal_dev_layout(devs[0]), form))
		return;
	for (int i = 0; i < COUNT(s); i++) {
		int n = s[i].n, C = s[i].C, V = s[i].V;
		double *u = zeros(n);

		begin("sample %s, matrix %s, n %d C %d V %d at %g: logprob is that of the trainer", name_of(t), sal_form_name(form), n, C, V, s[i].temp);
		for (int j = 0; j < n; j++)
			u[j] = (double)(float)(uniform() * 0.999);
		struct sal_weight W = new_blocks(t, form, V, C, false);
		struct sal_tensor S = IN2(SAL_F32, vals(t, V * C, 3 / sqrt(C)), V, C);
		OP(sal_weight_pack(dev, W, 0, S, 1));
		struct sal_tensor H = IN2(t, vals(t, n * C, 1), n, C), Z = out2(SAL_F32, NULL, n, V), U = IN1(SAL_F32, u, n);
		struct sal_tensor tok = out2(SAL_I32, NULL, n, 0), lp = out2(SAL_F32, NULL, n, 0);
		struct sal_tensor lp2 = out2(SAL_F32, NULL, n, 0);
		OP(sal_linear_forward(dev, Z, H, W, SAL_NONE, SAL_NONE, NULL, false);
		    sal_sample(dev, tok, lp, Z, U, s[i].temp, 3, 0.9f, 0);
		    sal_logprob(dev, lp2, SAL_NONE, SAL_NONE, H, W, tok, s[i].temp > 0 ? 1 / s[i].temp : 1));
		same_bits("logprob", lp, lp2);
		done();
	}
}

/* Inversion over a grid of uniforms: with the right boundaries the frequencies are right. */
static void
test_sample(void)
{
	static const int sizes[] = { 1, 2, 7, 50, 301, 2100 }, ks[] = { 0, 1, 3, 40 };
	static const float temps[] = { 0, 0.5f, 1, 2 }, ps[] = { 1, 0.9f, 0.5f, 0.05f }, mins[] = { 0, 0.05f, 1 };
	enum { n = 48 };

	for (int s = 0; s < COUNT(sizes); s++)
		for (int a = 0; a < COUNT(temps); a++) {
			int V = sizes[s], close = 0, all = 0, step = V > 1000 ? 5 : 1;
			double *z = vals(SAL_F32, n * V, 2), u[n], want_lp[n], lse[n], mag[n];
			float *f = mem((size_t)(n * V) * sizeof *f);

			begin("sample, V %d at %g, %s cut", V, temps[a], step > 1 ? "every fifth" : "every");
			for (int i = 0; i < n * V; i++) {
				if (i / V % 2)
					z[i] = rint(2 * z[i]) / 2; /* every second row is full of ties */
				if (i / V % 3 == 2)
					z[i] = (float)(z[i] - 300); /* the largest far below 0 */
				f[i] = (float)z[i];
			}
			double inv = temps[a] > 0 ? (double)(1 / temps[a]) : 1;
			for (int i = 0; i < n; i++) {
				double top = z[i * V], sum = 0;
				for (int j = 0; j < V; j++)
					top = fmax(top, z[i * V + j]);
				for (int j = 0; j < V; j++)
					sum += exp(inv * (z[i * V + j] - top));
				lse[i] = inv * top + log(sum);
				mag[i] = 4 * U32 * fabs(lse[i]) + chain(V); /* of two numbers as large, and of the sum */
			}
			for (int i = 0; i < n; i++)
				u[i] = i == 0 ? 0 : i == 1 || i == n - 1 ? 1 - 1.0 / (1 << 24) : (double)(float)(uniform() * 0.9999);
			struct sal_tensor Z = IN2(SAL_F32, z, n, V), U = IN1(SAL_F32, u, n);
			struct sal_tensor tok = INT1(NULL, n), lp = IN1(SAL_F32, NULL, n);
			for (int c = 0; c < COUNT(ks) * COUNT(ps) * COUNT(mins); c += step) {
				int k = ks[c % 4];
				float p = ps[c / 4 % 4], m = mins[c / 16];

				thaw(tok.data);
				thaw(lp.data);
				OP(sal_sample(dev, tok, lp, Z, U, temps[a], k, p, m));
				int32_t *got = bytes_of(tok);
				for (int i = 0; i < n; i++)
					want_lp[i] = got[i] >= 0 && got[i] < V ? inv * z[i * V + got[i]] - lse[i] : NAN;
				near("logprob", lp, want_lp, mag, 1);
				for (int i = 0; i < n; i++) {
					double margin;
					int want = ref_sample(&margin, f + i * V, V, u[i], temps[a], k, (double)p, (double)m);
					all++;
					/* float sums of up to V terms decide nothing closer than this */
					if (margin < 2e-6) {
						close++;
						if (got[i] < 0 || got[i] >= V)
							fail("token %d", (int)got[i]);
					} else if (got[i] != want) {
						fail("top_k %d top_p %g min_p %g, row %d, u %.8g: token %d, want %d", k, (double)p, (double)m, i,
						    u[i], (int)got[i], want);
					}
				}
			}
			if (close * 5 > all) /* the two ends of u and exact ties of mass are always close */
				fail("%d of %d cases were too close to call", close, all);
			done();
		}
}

/* Equal logits have masses of exactly 1: a uniform on a boundary belongs to the token above it. */
static void
test_sample_edges(void)
{
	static const double u[] = { 0, 0.25, 0.5, 0.75 };
	static const int sizes[] = { 4, 512, 4096 };
	int32_t *got;

	for (int s = 0; s < COUNT(sizes); s++)
		for (int none = 0; none < 2; none++) {
			int V = sizes[s], part = none ? V / 4 : 0;
			double *z = zeros(4 * V);

			begin("sample: uniforms on the boundaries, V %d%s", V, none ? ", the first quarter cut off" : "");
			for (int i = 0; i < 4 * V; i++)
				z[i] = i % V < part ? -1 : 0;
			struct sal_tensor Z = IN2(SAL_F32, z, 4, V), U = IN1(SAL_F32, u, 4);
			struct sal_tensor tok = out2(SAL_I32, NULL, 4, 0), lp = out2(SAL_F32, NULL, 4, 0);
			OP(sal_sample(dev, tok, lp, Z, U, 1, 0, 1, none ? 0.5f : 0));
			got = bytes_of(tok);
			for (int i = 0; i < 4; i++) {
				int want = part + i * (V - part) / 4;
				if (got[i] != want)
					fail("u %g: token %d, want %d", u[i], (int)got[i], want);
			}
			done();
		}
}

/* ---- failures, and speed ------------------------------------------------------ */

static void
test_failure(const char *device)
{
	char err[256];
	struct sal_dev *d = sal_dev_open(device, 1, err, sizeof err);

	begin("an arena too small: kept by the device, later operations do nothing");
	if (!d) {
		fail("%s", err);
	} else {
		struct sal_arena *a = sal_arena_new(d, 4096);
		struct sal_tensor x = sal_tensor_new(a, SAL_F32, 1, 16, 0, 0, 0), y = sal_tensor_new(a, SAL_F32, 2, 100, 100, 0, 0);
		float v[16] = { 1 };

		if (!x.data || y.data || !sal_dev_error(d)[0] || sal_dev_sync(d) != -1)
			fail("not reported");
		sal_upload(d, x, v);
		sal_zero(d, x);
		sal_zero(d, y);
		if (sal_dev_sync(d) != -1)
			fail("forgotten");
		sal_arena_free(a);
		sal_dev_close(d);
	}
	for (int i = 0; i < 3; i++) { /* the id is the caller's input: a failure, not a read out of bounds */
		if ((d = sal_dev_open(device, 1, err, sizeof err)) == NULL) {
			fail("%s", err);
			break;
		}
		struct sal_arena *a = sal_arena_new(d, 4096);
		struct sal_weight w = sal_weight_new(a, SAL_F32, SAL_PLAIN, 4, 2, false);
		struct sal_tensor ids = sal_tensor_new(a, SAL_I32, 1, 2, 0, 0, 0), y = sal_tensor_new(a, SAL_F32, 2, 2, 2, 0, 0);
		struct sal_tensor l = sal_tensor_new(a, SAL_F32, 1, 2, 0, 0, 0);

		sal_upload(d, ids, i ? (int32_t[]){ 3, 4 } : (int32_t[]){ -1, 0 }); /* 4: one past the last */
		sal_upload(d, y, (float[4]){ 0 });
		sal_weight_pack(d, w, 0, sal_tensor_view(sal_tensor_new(a, SAL_F32, 1, 8, 0, 0, 0), 2, 4, 2, 0, 0), 1);
		if (i == 1)
			sal_logprob(d, l, SAL_NONE, SAL_NONE, y, w, ids, 1);
		else
			sal_embedding_forward(d, y, w, ids);
		if (sal_dev_sync(d) != -1 || !strstr(sal_dev_error(d), i == 1 ? "target" : "id"))
			fail("an id outside the vocabulary: '%s'", sal_dev_error(d));
		sal_arena_free(a);
		sal_dev_close(d);
	}
	sal_arena_free(NULL);
	sal_dev_close(NULL);
	if (sal_dev_open("no such", 1, err, sizeof err) || !err[0])
		fail("a device of no known name was opened");
	done();
}

static double
now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

static double fastest; /* of the calls that TIME made last */

static void
row(const char *what, double flops, double bytes, double seconds)
{
	printf("%-44s %10.3f us %9.1f GFLOP/s %8.2f GB/s, best %9.1f GFLOP/s\n", what, 1e6 * seconds, 1e-9 * flops / seconds,
	    1e-9 * bytes / seconds, 1e-9 * flops / fastest);
	fflush(stdout);
}

static int
rising(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* median of the calls of 0.2 s, the first left out; call may read r_, the number of the call */
#define TIME(median, call)                                                      \
	do {                                                                    \
		static double took_[1 << 14];                                   \
		double end_ = 0, t0_;                                           \
		int r_ = -1;                                                    \
		do {                                                            \
			t0_ = now();                                            \
			call;                                                   \
			sal_dev_sync(dev);                                      \
			if (r_ < 0)                                             \
				end_ = now() + 0.2;                             \
			else                                                    \
				took_[r_] = now() - t0_;                        \
		} while (++r_ < 1 || (now() < end_ && r_ < COUNT(took_)));      \
		qsort(took_, (size_t)r_, sizeof *took_, rising);                \
		median = took_[r_ / 2];                                         \
		fastest = took_[0];                                             \
	} while (0)

/* The weights come from memory, as those of a layer do: copies that no cache holds together, in turn. */
static void
bench_linear(enum sal_dtype t)
{
	static const int shapes[][2] = { { 576, 576 }, { 192, 576 }, { 1536, 576 }, { 576, 1536 }, { 49152, 576 } };
	static const int rows[] = { 1, 8, 32, 64, 512 };
	static struct sal_weight W[256];
	char text[80];
	double s, e = (double)width(t);

	for (int i = 0; i < COUNT(shapes); i++)
		for (int j = 0; j < COUNT(rows); j++) {
			int O = shapes[i][0], K = shapes[i][1], N = rows[j], copies = 0;
			bool back = O < 4096;
			if (O > 4096 && N > 64)
				continue;
			begin("bench linear %s", name_of(t));
			double *x = vals(t, N * K, 1), *w = vals(t, (int64_t)O * K, 1), *y = zeros(O), *mag = zeros(O);
			struct sal_tensor src = IN2(SAL_F32, w, O, K), X = IN2(t, x, N, K), Y = out2(SAL_F32, NULL, N, O);
			struct sal_tensor DY = back ? IN2(t, vals(t, N * O, 1), N, O) : SAL_NONE, DX = out2(t, NULL, N, K);
			size_t room = sal_weight_room(sal_dev_layout(dev), t, SAL_PLAIN, O, K, back);
			do {
				W[copies] = sal_weight_new(arena, t, SAL_PLAIN, O, K, back);
				sal_weight_pack(dev, W[copies++], 0, src, 1);
			} while (copies < COUNT(W) && (size_t)(copies + 1) * room < COLD);
			TIME(s, sal_linear_forward(dev, Y, X, W[(r_ + 1) % copies], SAL_NONE, SAL_NONE, NULL, false));
			ref_linear(y, mag, x + (N - 1) * K, w, NULL, NULL, NULL, 1, K, O, 0);
			near("y", sal_tensor_rows(Y, N - 1, 1), y, mag, chain(K));
			snprintf(text, sizeof text, "linear_forward %s N %d O %d K %d", name_of(t), N, O, K);
			row(text, 2.0 * N * O * K, e * O * K + e * N * K + 4.0 * N * O, s);
			if (back) {
				TIME(s, sal_linear_backward(dev, DX, DY, W[(r_ + 1) % copies], SAL_NONE, NULL, false));
				snprintf(text, sizeof text, "linear_backward %s N %d O %d K %d", name_of(t), N, O, K);
				row(text, 2.0 * N * O * K, e * O * K + e * N * K + e * N * O, s);
			}
			done();
		}
}

static void
bench_attention(enum sal_dtype t)
{
	char text[80];
	double s, e = (double)width(t);

	for (int i = 0; i < 2; i++) {
		int prefill[] = { 512, -1 }, one[17], cached[16], B = i ? 16 : 1, L = 512;
		struct attn a;
		double *d[3], *m[3];

		for (int b = 0; b < 16; b++) {
			one[b] = 1;
			cached[b] = L - 1;
		}
		one[16] = -1;
		begin("bench attention %s", name_of(t));
		attn_setup(&a, t, 9, 3, 64, 0, i ? one : prefill, i ? cached : NULL, false, 1);
		attn_store(&a);
		TIME(s, sal_attention_forward(dev, a.Y, a.L, a.Q, a.kv, a.seqs, 0));
		double k = attn_bound(&a, t, L);
		ref_attention(a.y, a.lse, a.ymag, a.lmag, a.q, a.k, a.v, &a.r);
		near("y", a.Y, a.y, a.ymag, k);
		snprintf(text, sizeof text, "attention_forward %s %d x %d keys", name_of(t), B, L);
		double pairs = i ? (double)B * L : 0.5 * L * (L + 1);
		row(text, pairs * 9 * 64 * 4, 2 * e * B * L * 192, s);
		if (!i) {
			struct sal_tensor DY = IN2(t, a.dy, L, 576), DQ = out2(t, NULL, L, 576), DK = out2(t, NULL, L, 192);
			struct sal_tensor DV = out2(t, NULL, L, 192);
			TIME(s, sal_attention_backward(dev, DQ, DK, DV, DY, a.Y, a.Q, a.L, a.kv, a.seqs, 0));
			for (int j = 0; j < 3; j++) {
				d[j] = zeros(L * 576);
				m[j] = zeros(L * 576);
			}
			ref_attention_backward(d, m, a.dy, get(a.Y), a.q, a.k, a.v, get(a.L), &a.r);
			near("dq", DQ, d[0], m[0], k);
			snprintf(text, sizeof text, "attention_backward %s %d x %d keys", name_of(t), B, L);
			row(text, pairs * 9 * 64 * 10, 4 * e * B * L * 192, s);
		}
		done();
	}
}

static void
bench_rows(enum sal_dtype t)
{
	char text[80];
	double s, e = (double)width(t);
	int N = 512, C = 576, F = 1536;
	double *x = vals(SAL_F32, N * C, 1), *w = vals(SAL_F32, C, 1), *g = vals(t, N * F, 2), *u = vals(t, N * F, 1);
	double *y = zeros(N * F);
	begin("bench rows %s", name_of(t));
	struct sal_tensor X = IN2(SAL_F32, x, N, C), W = IN1(SAL_F32, w, C), Y = out2(t, NULL, N, C);
	struct sal_tensor G = IN2(t, g, N, F), Up = IN2(t, u, N, F), Z = out2(t, NULL, N, F);
	TIME(s, sal_rmsnorm_forward(dev, Y, SAL_NONE, X, W, 1e-5f));
	ref_rmsnorm(y, NULL, x, w, 1e-5f, N, C);
	near("rmsnorm", Y, y, NULL, chain(C));
	snprintf(text, sizeof text, "rmsnorm_forward %s N %d C %d", name_of(t), N, C);
	row(text, 4.0 * N * C, (4 + e) * N * C, s);
	TIME(s, sal_swiglu_forward(dev, Z, G, Up));
	ref_swiglu(y, g, u, N * F);
	near("swiglu", Z, y, NULL, 12 * U32);
	snprintf(text, sizeof text, "swiglu_forward %s N %d F %d", name_of(t), N, F);
	row(text, 20.0 * N * F, 3 * e * N * F, s);
	done();
}

/* Is this call of a test among those of --only? */
static bool
wanted(const char *call, const char *only)
{
	char word[64];

	for (size_t n; only && *only; only += n + (only[n] == ',')) {
		n = strcspn(only, ",");
		snprintf(word, sizeof word, "%.*s", (int)n, only);
		if (strstr(call, word))
			return true;
	}
	return !only;
}

#define TEST(call)                         \
	do {                               \
		if (wanted(#call, only))   \
			call;              \
	} while (0)

int
main(int argc, char **argv)
{
	const char *device = NULL, *only = NULL, *isa = getenv("SAL_CPU");
	bool benching = false;
	char err[256];
	size_t room = (size_t)320 << 20;

	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "-v")) {
			verbose = true;
		} else if (!strcmp(argv[i], "--bench")) {
			benching = true;
		} else if (!strcmp(argv[i], "--only") && i + 1 < argc) {
			only = argv[++i];
		} else if (argv[i][0] != '-') {
			device = argv[i];
		} else {
			fprintf(stderr, "usage: check_kernels [-v] [--bench] [--only WORD,...] [DEVICE]\n");
			return 2;
		}
	}
	bool cpu = !device || !strcmp(device, "cpu");
	ndevs = cpu && !benching ? 3 : 1;
	fenced = !cpu;
	for (int i = 0; i < ndevs; i++) {
		devs[i] = sal_dev_open(device, benching ? 0 : i + 1, err, sizeof err);
		if (!devs[i]) {
			bool lacks = strstr(err, "lacks") != NULL;
			printf("%s - open # %s%s\n", lacks ? "ok 1" : "not ok 1", lacks ? "skip: " : "", err);
			printf("check_kernels: SAL_CPU=%s: 0 passed, %d failed, %d skipped\n", isa ? isa : "", !lacks, lacks);
			return !lacks;
		}
	}
	dev = devs[0];
	arena = sal_arena_new(dev, room);
	if (benching) {
		TEST(bench_linear(SAL_F32));
		TEST(bench_linear(SAL_BF16));
		TEST(bench_attention(SAL_F32));
		TEST(bench_attention(SAL_BF16));
		TEST(bench_rows(SAL_F32));
		TEST(bench_rows(SAL_BF16));
	} else {
		for (int i = 0; i < 2; i++) {
			enum sal_dtype t = i ? SAL_BF16 : SAL_F32;
			TEST(test_pack(t));
			TEST(test_linear(t, SAL_F32));
			TEST(test_blocks(t, SAL_F32));
			TEST(test_blocks_half(t));
			TEST(test_linear_grad(t, t));
			TEST(test_linear_rows(t));
			TEST(test_linears(t));
			TEST(test_int8(t, SAL_F32));
			TEST(test_rmsnorm(SAL_F32, t));
			TEST(test_rope(t));
			TEST(test_attention(t));
			TEST(test_attention_shared(t));
			TEST(test_attention_order(t));
			TEST(test_swiglu(t));
			TEST(test_head(t));
			TEST(test_logprob(t));
			TEST(test_sample_logprob(t, SAL_PLAIN));
			TEST(test_sample_logprob(t, SAL_INT8));
		}
		TEST(test_linear(SAL_BF16, SAL_BF16));
		TEST(test_blocks(SAL_BF16, SAL_BF16));
		TEST(test_int8(SAL_BF16, SAL_BF16));
		TEST(test_int8_edges());
		TEST(test_linear_grad(SAL_F32, SAL_BF16));
		TEST(test_linear_grad(SAL_BF16, SAL_F32));
		TEST(test_linear_differences());
		TEST(test_rmsnorm(SAL_BF16, SAL_F32));
		TEST(test_rmsnorm(SAL_BF16, SAL_BF16));
		TEST(test_sample());
		TEST(test_sample_edges());
		TEST(test_elements());
		TEST(test_dropout());
		TEST(test_adamw());
		TEST(test_failure(device));
	}
	printf("check_kernels: SAL_CPU=%s: %d passed, %d failed, 0 skipped\n", sal_dev_isa(dev), passed, failed);
	sal_arena_free(arena);
	for (int i = 0; i < ndevs; i++)
		sal_dev_close(devs[i]);
	return failed > 0;
}
