/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ops.c - the public operations: checks of shapes and dtypes, SAL_DEBUG, and the
 * call of the back end.
 *
 * Each operation lists its operands (outputs first), states what must hold, and
 * runs.  What does not hold is a bug of the caller: its text is printed with the
 * shapes and the process aborts.  Back ends rely on the checks made here and on
 * never being called for zero rows.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "backend.h"

/* Words of SAL_DEBUG; device.c sets the bit of the first letter. */
#define DEBUG_TRACE (1u << ('t' - 'a'))
#define DEBUG_NAN (1u << ('n' - 'a'))
#define DEBUG_SYNC (1u << ('s' - 'a'))

struct call {
	struct sal_dev *dev;
	const char *name;
	const struct sal_tensor *t; /* operands; the first outs are written */
	int n, outs;
	double bytes; /* moved, for the trace; 0: those of the operands */
	double start;
};

/* What the calls of one operation took. */
struct sal_trace {
	const char *name;
	long calls;
	double seconds, flops, bytes;
};

static const char *const dtype_name[] = { "f32", "bf16", "i32" };

static double
now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

static void
print_shapes(const struct call *c)
{
	for (int i = 0; i < c->n; i++) {
		const struct sal_tensor *t = &c->t[i];
		if (!t->ndim) {
			fprintf(stderr, " -");
			continue;
		}
		fprintf(stderr, " %s[", dtype_name[t->dtype]);
		for (int j = 0; j < t->ndim && j < SAL_MAX_DIM; j++)
			fprintf(stderr, j ? ",%lld" : "%lld", (long long)t->dim[j]);
		fprintf(stderr, "]");
	}
}

static _Noreturn void
bad(const struct call *c, const char *what)
{
	fprintf(stderr, "sal_%s: must hold: %s; operands", c->name, what);
	print_shapes(c);
	fprintf(stderr, "\n");
	abort();
}

/* false: the operation does nothing */
static bool
begin(struct call *c)
{
	if (c->dev->error[0])
		return false;
	for (int i = 0; i < c->n; i++)
		if (c->t[i].ndim && !c->t[i].data)
			return false;
	if (c->dev->debug & DEBUG_TRACE) {
		c->dev->be->sync(c->dev);
		c->start = now();
	}
	return true;
}

static void
check_finite(const struct call *c, int which)
{
	const struct sal_tensor *t = &c->t[which];
	size_t bytes = sal_tensor_bytes(*t), n = bytes / (t->dtype == SAL_BF16 ? 2 : 4);
	char *copy;

	if (!t->ndim || t->dtype == SAL_I32 || !bytes)
		return;
	copy = malloc(bytes);
	if (!copy)
		return;
	c->dev->be->download(c->dev, copy, t->data, bytes);
	for (size_t i = 0; i < n && !c->dev->error[0]; i++) {
		uint32_t u = 0;
		if (t->dtype == SAL_BF16) {
			uint16_t h;
			memcpy(&h, copy + 2 * i, 2);
			u = (uint32_t)h << 16;
		} else {
			memcpy(&u, copy + 4 * i, 4);
		}
		if ((u & 0x7f800000u) == 0x7f800000u) {
			fprintf(stderr, "sal_%s: element %zu of output %d is not finite; operands", c->name, i, which);
			print_shapes(c);
			fprintf(stderr, "\n");
			abort();
		}
	}
	free(copy);
}

static bool
tracing(const struct sal_dev *dev)
{
	return dev->debug & DEBUG_TRACE && !dev->error[0];
}

static void
print_rates(double seconds, double flops, double bytes)
{
	if (flops > 0 && seconds > 0)
		fprintf(stderr, " %.1f GFLOP/s", 1e-9 * flops / seconds);
	if (bytes > 0 && seconds > 0)
		fprintf(stderr, " %.1f GB/s", 1e-9 * bytes / seconds);
	fprintf(stderr, "\n");
}

static void
trace(const struct call *c, double flops)
{
	struct sal_dev *dev = c->dev;
	double s = now() - c->start, bytes = c->bytes;
	struct sal_trace *t = dev->trace;

	for (int i = 0; i < c->n && c->bytes == 0; i++)
		bytes += (double)sal_tensor_bytes(c->t[i]);
	fprintf(stderr, "sal: %s", c->name);
	print_shapes(c);
	fprintf(stderr, " %.3f ms", 1e3 * s);
	print_rates(s, flops, bytes);
	while (t && t < dev->trace + dev->n_trace && strcmp(t->name, c->name))
		t++;
	if (!t || t == dev->trace + dev->n_trace) {
		t = realloc(dev->trace, (size_t)(dev->n_trace + 1) * sizeof *t);
		if (!t)
			return;
		dev->trace = t;
		t += dev->n_trace++;
		*t = (struct sal_trace){ .name = c->name };
	}
	t->calls++;
	t->seconds += s;
	t->flops += flops;
	t->bytes += bytes;
}

static int
longer(const void *a, const void *b)
{
	double x = ((const struct sal_trace *)a)->seconds, y = ((const struct sal_trace *)b)->seconds;

	return (x < y) - (x > y);
}

void
sal_trace_close(struct sal_dev *dev)
{
	double all = 0;

	for (int i = 0; i < dev->n_trace; i++)
		all += dev->trace[i].seconds;
	if (dev->n_trace)
		qsort(dev->trace, (size_t)dev->n_trace, sizeof *dev->trace, longer);
	for (int i = 0; i < dev->n_trace; i++) {
		const struct sal_trace *t = &dev->trace[i];
		fprintf(stderr, "sal: all %s %ld calls %.1f ms %.1f %%", t->name, t->calls, 1e3 * t->seconds, 100 * t->seconds / all);
		print_rates(t->seconds, t->flops, t->bytes);
	}
	free(dev->trace);
}

static void
end(struct call *c, double flops)
{
	if (!c->dev->debug)
		return;
	c->dev->be->sync(c->dev);
	if (c->dev->debug & DEBUG_TRACE)
		trace(c, flops);
	if (c->dev->debug & DEBUG_NAN)
		for (int i = 0; i < c->outs; i++)
			check_finite(c, i);
}

/* ---- what the checks are written in -------------------------------------- */

#define CALL(op, outs_, ...)                                  \
	const struct sal_tensor t_[] = { __VA_ARGS__ };       \
	struct call c_ = { .dev = dev, .name = #op, .t = t_, .n = (int)(sizeof t_ / sizeof t_[0]), .outs = outs_ }
#define NEED(cond) ((cond) ? (void)0 : bad(&c_, #cond))
#define RUN(flops, op, ...)                               \
	do {                                              \
		if (begin(&c_)) {                         \
			dev->be->op(dev, __VA_ARGS__);    \
			end(&c_, flops);                  \
		}                                         \
	} while (0)

static bool
is1(struct sal_tensor t, enum sal_dtype dtype, int64_t a)
{
	return t.ndim == 1 && t.dtype == dtype && t.dim[0] == a;
}

static bool
is2(struct sal_tensor t, int64_t a, int64_t b)
{
	return t.ndim == 2 && t.dtype != SAL_I32 && t.dim[0] == a && t.dim[1] == b;
}

static bool
f32(struct sal_tensor t)
{
	return t.dtype == SAL_F32;
}

/* F32 or the compute type */
static bool
f32_or(struct sal_tensor t, enum sal_dtype act)
{
	return t.dtype == SAL_F32 || t.dtype == act;
}

static bool
none_or1(struct sal_tensor t, int64_t a)
{
	return !t.ndim || is1(t, SAL_F32, a);
}

static bool
same(struct sal_tensor a, struct sal_tensor b)
{
	if (a.ndim != b.ndim || a.ndim < 1)
		return false;
	for (int i = 0; i < a.ndim; i++)
		if (a.dim[i] != b.dim[i])
			return false;
	return true;
}

static bool
same_all(struct sal_tensor a, struct sal_tensor b)
{
	return same(a, b) && a.dtype == b.dtype;
}

static bool
empty(struct sal_tensor t)
{
	for (int i = 0; i < t.ndim; i++)
		if (!t.dim[i])
			return true;
	return false;
}

/* The packed matrix as an operand in the list */
static struct sal_tensor
mat(struct sal_weight w)
{
	return (struct sal_tensor){ .dtype = w.dtype, .ndim = 2, .dim = { w.out, w.in }, .data = w.fwd };
}

static struct sal_tensor
mat_or_none(const struct sal_weight *w)
{
	return w ? mat(*w) : SAL_NONE;
}

/* Each element stands for itself: any row can be set and read. */
static bool
elements(struct sal_weight w)
{
	return w.form == SAL_PLAIN || w.form == SAL_INT8;
}

static double
macs(int64_t a, int64_t b, int64_t c)
{
	return 2.0 * (double)a * (double)b * (double)c;
}

/* ---- linear maps ---------------------------------------------------------- */

void
sal_weight_pack(struct sal_dev *dev, struct sal_weight w, int64_t row0, struct sal_tensor src, float scale)
{
	CALL(weight_pack, 0, mat(w), src);
	NEED(src.ndim == 2 && f32(src) && src.dim[1] == w.in);
	NEED(w.dtype != SAL_I32 && elements(w) && row0 >= 0 && row0 + src.dim[0] <= w.out);
	if (empty(src))
		return;
	c_.bytes = (w.dtype == SAL_BF16 ? 1.5 : 2) * (double)sal_tensor_bytes(src);
	RUN(0, weight_pack, w, row0, src, scale);
}

void
sal_weight_store(struct sal_dev *dev, struct sal_weight w, enum sal_form form, int64_t row0, int64_t n, const void *src)
{
	CALL(weight_store, 0, mat(w));
	NEED(form > SAL_PLAIN && form < SAL_FORMS && form != SAL_INT8 && (elements(w) || w.form == form));
	NEED(row0 >= 0 && n >= 0 && row0 + n <= w.out && (form != SAL_NF4 || n == w.out));
	NEED(form == SAL_NF4 || w.in % sal_form_block(form) == 0);
	if (n == 0 || w.in == 0)
		return;
	RUN(0, weight_store, w, form, row0, n, src);
}

void
sal_weight_unpack(struct sal_dev *dev, struct sal_tensor y, struct sal_weight w, int64_t row0)
{
	CALL(weight_unpack, 1, y, mat(w));
	NEED(y.ndim == 2 && y.dtype == w.dtype && y.dim[1] == w.in && row0 >= 0 && row0 + y.dim[0] <= w.out);
	if (empty(y))
		return;
	RUN(0, weight_unpack, y, w, row0);
}

void
sal_linear_forward(struct sal_dev *dev, struct sal_tensor y, struct sal_tensor x, struct sal_weight w,
    struct sal_tensor bias, struct sal_tensor u, const struct sal_weight *b, bool accumulate)
{
	CALL(linear_forward, 1, y, x, mat(w), bias, u, mat_or_none(b));
	NEED(x.ndim == 2 && x.dtype == w.dtype && x.dim[1] == w.in);
	NEED(is2(y, x.dim[0], w.out) && f32_or(y, w.dtype));
	NEED(none_or1(bias, w.out));
	NEED(!u.ndim == !b);
	NEED(!b || (is2(u, x.dim[0], b->in) && u.dtype == w.dtype && b->dtype == w.dtype && b->out == w.out));
	if (empty(y))
		return;
	RUN(macs(x.dim[0], w.out, w.in + (b ? b->in : 0)), linear_forward, y, x, w, bias, u, b, accumulate);
}

void
sal_linears_forward(struct sal_dev *dev, const struct sal_linear *map, int n, struct sal_tensor x)
{
	struct sal_tensor t[1 + 3 * SAL_LINEARS] = { [0] = { .ndim = 0 } };
	struct call c_ = { .dev = dev, .name = "linears_forward", .t = t, .n = 0, .outs = n };
	double flops = 0;

	for (int i = 0; i < n && i < SAL_LINEARS; i++)
		t[c_.n++] = map[i].y;
	t[c_.n++] = x;
	for (int i = 0; i < n && i < SAL_LINEARS; i++) {
		t[c_.n++] = mat(map[i].w);
		t[c_.n++] = mat_or_none(map[i].b);
		flops += macs(x.dim[0], map[i].w.out, map[i].w.in + (map[i].b ? map[i].b->in : 0));
	}
	NEED(n >= 1 && n <= SAL_LINEARS && x.ndim == 2);
	for (int i = 0; i < n; i++) {
		const struct sal_linear *m = &map[i];
		NEED(x.dtype == m->w.dtype && x.dim[1] == m->w.in);
		NEED(is2(m->y, x.dim[0], m->w.out) && f32_or(m->y, m->w.dtype));
		NEED(none_or1(m->bias, m->w.out));
		NEED(!m->u.ndim == !m->b);
		NEED(!m->b || (is2(m->u, x.dim[0], m->b->in) && m->u.dtype == m->w.dtype && m->b->dtype == m->w.dtype && m->b->out == m->w.out));
		if (empty(m->y))
			return;
	}
	RUN(flops, linears_forward, map, n, x);
}

void
sal_linear_backward(struct sal_dev *dev, struct sal_tensor dx, struct sal_tensor dy, struct sal_weight w,
    struct sal_tensor du, const struct sal_weight *a, bool accumulate)
{
	CALL(linear_backward, 1, dx, dy, mat(w), du, mat_or_none(a));
	NEED(dy.ndim == 2 && dy.dtype == w.dtype && dy.dim[1] == w.out);
	NEED(is2(dx, dy.dim[0], w.in) && f32_or(dx, w.dtype));
	NEED(!du.ndim == !a);
	NEED(!a || (is2(du, dy.dim[0], a->out) && du.dtype == w.dtype && a->dtype == w.dtype && a->in == w.in));
	NEED((w.bwd || !w.fwd) && (!a || a->bwd || !a->fwd)); /* fwd is NULL too after a failure */
	if (empty(dx))
		return;
	RUN(macs(dy.dim[0], w.in, w.out + (a ? a->out : 0)), linear_backward, dx, dy, w, du, a, accumulate);
}

void
sal_linear_grad(struct sal_dev *dev, struct sal_tensor dw, struct sal_tensor dy, struct sal_tensor x, float scale,
    bool accumulate)
{
	CALL(linear_grad, 1, dw, dy, x);
	NEED(dw.ndim == 2 && f32(dw));
	NEED(dy.ndim == 2 && dy.dtype != SAL_I32 && dy.dim[1] == dw.dim[0]);
	NEED(is2(x, dy.dim[0], dw.dim[1]));
	if (empty(dw))
		return;
	if (!dy.dim[0]) { /* a sum of nothing */
		if (!accumulate)
			sal_zero(dev, dw);
		return;
	}
	RUN(macs(dy.dim[0], dw.dim[0], dw.dim[1]), linear_grad, dw, dy, x, scale, accumulate);
}

void
sal_embedding_forward(struct sal_dev *dev, struct sal_tensor y, struct sal_weight w, struct sal_tensor ids)
{
	CALL(embedding_forward, 1, y, mat(w), ids);
	NEED(ids.ndim == 1 && ids.dtype == SAL_I32 && elements(w));
	NEED(is2(y, ids.dim[0], w.in) && f32(y));
	if (empty(y))
		return;
	c_.bytes = (w.dtype == SAL_BF16 ? 1.5 : 2) * (double)sal_tensor_bytes(y);
	RUN(0, embedding_forward, y, w, ids);
}

/* ---- normalisation, positions, attention, feed-forward --------------------- */

void
sal_rmsnorm_forward(struct sal_dev *dev, struct sal_tensor y, struct sal_tensor rrms, struct sal_tensor x,
    struct sal_tensor w, float eps)
{
	CALL(rmsnorm_forward, 2, y, rrms, x, w);
	NEED(x.ndim == 2 && is2(y, x.dim[0], x.dim[1]) && x.dtype != SAL_I32);
	NEED(none_or1(rrms, x.dim[0]) && is1(w, SAL_F32, x.dim[1]) && eps > 0);
	if (empty(y))
		return;
	RUN(0, rmsnorm_forward, y, rrms, x, w, eps);
}

void
sal_rmsnorm_backward(struct sal_dev *dev, struct sal_tensor dx, struct sal_tensor dy, struct sal_tensor x,
    struct sal_tensor w, struct sal_tensor rrms, bool accumulate)
{
	CALL(rmsnorm_backward, 1, dx, dy, x, w, rrms);
	NEED(x.ndim == 2 && x.dtype != SAL_I32 && same_all(dx, x) && is2(dy, x.dim[0], x.dim[1]));
	NEED(is1(w, SAL_F32, x.dim[1]) && is1(rrms, SAL_F32, x.dim[0]));
	if (empty(dx))
		return;
	RUN(0, rmsnorm_backward, dx, dy, x, w, rrms, accumulate);
}

static void
check_rope(struct call *c, struct sal_tensor x, struct sal_tensor pos, struct sal_tensor cs)
{
	if (x.ndim != 3 || x.dtype == SAL_I32 || x.dim[2] % 2)
		bad(c, "x is [N, H, D], D even");
	if (!is1(pos, SAL_I32, x.dim[0]))
		bad(c, "pos is I32 [N]");
	if (cs.ndim != 3 || !f32(cs) || cs.dim[1] != 2 || cs.dim[2] != x.dim[2] / 2)
		bad(c, "cs is F32 [P, 2, D/2]");
}

void
sal_rope_forward(struct sal_dev *dev, struct sal_tensor x, struct sal_tensor pos, struct sal_tensor cs)
{
	CALL(rope_forward, 1, x, pos, cs);
	check_rope(&c_, x, pos, cs);
	if (empty(x))
		return;
	c_.bytes = 2 * (double)sal_tensor_bytes(x);
	RUN(0, rope_forward, x, pos, cs);
}

void
sal_rope_backward(struct sal_dev *dev, struct sal_tensor dx, struct sal_tensor pos, struct sal_tensor cs)
{
	CALL(rope_backward, 1, dx, pos, cs);
	check_rope(&c_, dx, pos, cs);
	if (empty(dx))
		return;
	c_.bytes = 2 * (double)sal_tensor_bytes(dx);
	RUN(0, rope_backward, dx, pos, cs);
}

static bool
is_kv(struct sal_kv kv)
{
	return kv.k.ndim == 4 && same_all(kv.k, kv.v) && kv.k.dtype != SAL_I32 && kv.k.dim[2] == SAL_KV_PAGE &&
	    kv.k.dim[3] % 2 == 0;
}

void
sal_kv_store(struct sal_dev *dev, struct sal_kv kv, struct sal_tensor k, struct sal_tensor v, struct sal_tensor slot)
{
	CALL(kv_store, 0, kv.k, kv.v, k, v, slot);
	NEED(is_kv(kv));
	NEED(k.ndim == 2 && same_all(k, v) && k.dtype == kv.k.dtype && k.dim[1] == kv.k.dim[1] * kv.k.dim[3]);
	NEED(is1(slot, SAL_I32, k.dim[0]));
	if (empty(k))
		return;
	c_.bytes = 4 * (double)sal_tensor_bytes(k);
	RUN(0, kv_store, kv, k, v, slot);
}

void
sal_kv_copy(struct sal_dev *dev, struct sal_kv kv, int32_t dst, int32_t src)
{
	CALL(kv_copy, 0, kv.k, kv.v);
	NEED(is_kv(kv));
	NEED(dst >= 0 && dst < kv.k.dim[0] && src >= 0 && src < kv.k.dim[0]);
	if (empty(kv.k) || dst == src)
		return;
	c_.bytes = 4 * (double)sal_tensor_bytes(sal_tensor_rows(kv.k, dst, 1));
	RUN(0, kv_copy, kv, dst, src);
}

static void
check_attention(struct call *c, struct sal_tensor q, struct sal_tensor lse, struct sal_kv kv, struct sal_seqs s)
{
	if (!is_kv(kv))
		bad(c, "kv is [P, Hk, SAL_KV_PAGE, D], k like v");
	int64_t hk = kv.k.dim[1], d = kv.k.dim[3];
	if (q.ndim != 2 || q.dtype != kv.k.dtype || d < 1 || hk < 1 || q.dim[1] % d || q.dim[1] / d % hk)
		bad(c, "q is [N, Hq*D] of kv's dtype, Hq a multiple of Hk");
	if (lse.ndim && !(is2(lse, q.dim[0], q.dim[1] / d) && f32(lse)))
		bad(c, "lse is F32 [N, Hq]");
	if (s.first.ndim != 1 || s.first.dtype != SAL_I32 || !is1(s.off, SAL_I32, s.first.dim[0] + 1) ||
	    s.pages.ndim != 2 || s.pages.dtype != SAL_I32 || s.pages.dim[0] != s.first.dim[0])
		bad(c, "off is I32 [B+1], first I32 [B], pages I32 [B, M]");
}

/*
 * For the trace: how many pairs of a query and a key the rows see; the bytes of the call are those of its other operands
 * and of the keys and values in sight.
 */
static double
attention_pairs(struct call *c, struct sal_kv kv, struct sal_seqs s, int window)
{
	size_t n = (size_t)s.first.dim[0];
	int32_t *off = tracing(c->dev) ? malloc((2 * n + 1) * sizeof *off) : NULL, *first;
	double pairs = 0, keys = 0;

	if (!off)
		return 0;
	first = off + n + 1;
	sal_download(c->dev, off, s.off);
	sal_download(c->dev, first, s.first);
	for (size_t b = 0; b < n; b++) {
		for (int32_t p = first[b]; p < first[b] + off[b + 1] - off[b]; p++)
			pairs += window > 0 && p >= window ? window : p + 1;
		keys += first[b] + off[b + 1] - off[b];
	}
	free(off);
	for (int i = 0; i < c->n; i++)
		c->bytes += c->t[i].data == kv.k.data || c->t[i].data == kv.v.data ? 0 : (double)sal_tensor_bytes(c->t[i]);
	c->bytes += 2 * keys * (double)sal_tensor_bytes(sal_tensor_rows(kv.k, 0, 1)) / SAL_KV_PAGE;
	return pairs;
}

void
sal_attention_forward(struct sal_dev *dev, struct sal_tensor y, struct sal_tensor lse, struct sal_tensor q,
    struct sal_kv kv, struct sal_seqs seqs, int window)
{
	CALL(attention_forward, 2, y, lse, q, kv.k, kv.v, seqs.off, seqs.first, seqs.pages);
	check_attention(&c_, q, lse, kv, seqs);
	NEED(same_all(y, q));
	if (empty(y))
		return;
	double pairs = attention_pairs(&c_, kv, seqs, window);
	RUN(4 * pairs * (double)q.dim[1], attention_forward, y, lse, q, kv, seqs, window);
}

void
sal_attention_backward(struct sal_dev *dev, struct sal_tensor dq, struct sal_tensor dk, struct sal_tensor dv,
    struct sal_tensor dy, struct sal_tensor y, struct sal_tensor q, struct sal_tensor lse, struct sal_kv kv,
    struct sal_seqs seqs, int window)
{
	CALL(attention_backward, 3, dq, dk, dv, dy, y, q, lse, kv.k, kv.v, seqs.off, seqs.first, seqs.pages);
	check_attention(&c_, q, lse, kv, seqs);
	NEED(lse.ndim == 2 && same_all(dq, q) && same_all(dy, q) && same_all(y, q));
	NEED(is2(dk, q.dim[0], kv.k.dim[1] * kv.k.dim[3]) && dk.dtype == q.dtype && same_all(dk, dv));
	if (empty(dq))
		return;
	double pairs = attention_pairs(&c_, kv, seqs, window);
	RUN(10 * pairs * (double)q.dim[1], attention_backward, dq, dk, dv, dy, y, q, lse, kv, seqs, window);
}

void
sal_swiglu_forward(struct sal_dev *dev, struct sal_tensor y, struct sal_tensor gate, struct sal_tensor up)
{
	CALL(swiglu_forward, 1, y, gate, up);
	NEED(y.dtype != SAL_I32 && y.ndim == 2 && same_all(y, gate) && same_all(y, up));
	if (empty(y))
		return;
	RUN(0, swiglu_forward, y, gate, up);
}

void
sal_swiglu_backward(struct sal_dev *dev, struct sal_tensor dgate, struct sal_tensor dup, struct sal_tensor dy,
    struct sal_tensor gate, struct sal_tensor up)
{
	CALL(swiglu_backward, 2, dgate, dup, dy, gate, up);
	NEED(dy.dtype != SAL_I32 && dy.ndim == 2 && same_all(dgate, dy) && same_all(dup, dy));
	NEED(same_all(gate, dy) && same_all(up, dy));
	if (empty(dy))
		return;
	RUN(0, swiglu_backward, dgate, dup, dy, gate, up);
}

/* ---- the vocabulary -------------------------------------------------------- */

void
sal_logprob(struct sal_dev *dev, struct sal_tensor logprob, struct sal_tensor entropy, struct sal_tensor dh, struct sal_tensor h,
    struct sal_weight w, struct sal_tensor target, float inv_temperature)
{
	CALL(logprob, 3, logprob, entropy, dh, h, mat(w), target);
	NEED(h.ndim == 2 && h.dtype == w.dtype && h.dim[1] == w.in && w.out > 0 && elements(w));
	NEED(is1(logprob, SAL_F32, h.dim[0]) && none_or1(entropy, h.dim[0]));
	NEED(!dh.ndim || (same(dh, h) && f32(dh) && w.form == SAL_PLAIN && (w.bwd || !w.fwd)));
	NEED(is1(target, SAL_I32, h.dim[0]) && inv_temperature > 0);
	if (empty(h))
		return;
	RUN((dh.ndim ? 2 : 1) * macs(h.dim[0], w.out, w.in), logprob, logprob, entropy, dh, h, w, target, inv_temperature);
}

void
sal_sample(struct sal_dev *dev, struct sal_tensor token, struct sal_tensor logprob, struct sal_tensor logits,
    struct sal_tensor u, float temperature, int top_k, float top_p, float min_p)
{
	CALL(sample, 2, token, logprob, logits, u);
	NEED(logits.ndim == 2 && f32(logits) && logits.dim[1] > 0);
	NEED(is1(token, SAL_I32, logits.dim[0]) && is1(logprob, SAL_F32, logits.dim[0]) && is1(u, SAL_F32, logits.dim[0]));
	NEED(temperature >= 0 && top_k >= 0 && top_p >= 0 && top_p <= 1 && min_p >= 0 && min_p <= 1);
	if (empty(logits))
		return;
	RUN(0, sample, token, logprob, logits, u, temperature, top_k, top_p, min_p);
}

void
sal_head_forward(struct sal_dev *dev, struct sal_tensor y, struct sal_tensor h, struct sal_tensor w, struct sal_tensor b)
{
	CALL(head_forward, 1, y, h, w, b);
	NEED(h.ndim == 2 && h.dtype != SAL_I32 && is1(y, SAL_F32, h.dim[0]) && is1(w, SAL_F32, h.dim[1]) && none_or1(b, 1));
	if (empty(y))
		return;
	RUN(0, head_forward, y, h, w, b);
}

void
sal_head_backward(struct sal_dev *dev, struct sal_tensor dh, struct sal_tensor dw, struct sal_tensor db,
    struct sal_tensor dy, struct sal_tensor h, struct sal_tensor w, bool accumulate)
{
	CALL(head_backward, 3, dh, dw, db, dy, h, w);
	NEED(h.ndim == 2 && h.dtype != SAL_I32 && same(dh, h) && f32(dh) && is1(dy, SAL_F32, h.dim[0]));
	NEED(is1(w, SAL_F32, h.dim[1]) && is1(dw, SAL_F32, h.dim[1]) && none_or1(db, 1));
	if (!h.dim[0]) { /* sums of nothing */
		if (!accumulate) {
			sal_zero(dev, dw);
			if (db.ndim)
				sal_zero(dev, db);
		}
		return;
	}
	RUN(0, head_backward, dh, dw, db, dy, h, w, accumulate);
}

/* ---- elements -------------------------------------------------------------- */

void
sal_gather(struct sal_dev *dev, struct sal_tensor y, struct sal_tensor x, struct sal_tensor idx)
{
	CALL(gather, 1, y, x, idx);
	NEED(x.ndim == 2 && y.ndim == 2 && y.dtype == x.dtype && y.dim[1] == x.dim[1]);
	NEED(is1(idx, SAL_I32, y.dim[0]));
	if (empty(y))
		return;
	c_.bytes = 2 * (double)sal_tensor_bytes(y);
	RUN(0, gather, y, x, idx);
}

void
sal_scatter(struct sal_dev *dev, struct sal_tensor y, struct sal_tensor x, struct sal_tensor g, struct sal_tensor idx)
{
	CALL(scatter, 1, y, x, g, idx);
	NEED(x.ndim == 2 && y.ndim == 2 && f32(x) && f32(y) && y.dim[1] == x.dim[1] && x.dim[0] <= y.dim[0]);
	NEED(is1(idx, SAL_I32, x.dim[0]) && none_or1(g, x.dim[0]));
	if (empty(y))
		return;
	if (!x.dim[0]) {
		sal_zero(dev, y);
		return;
	}
	RUN(0, scatter, y, x, g, idx);
}

void
sal_dropout(struct sal_dev *dev, struct sal_tensor y, struct sal_tensor x, struct sal_tensor key, uint64_t salt, float p, bool accumulate)
{
	CALL(dropout, 1, y, x, key);
	NEED(x.ndim == 2 && y.ndim == 2 && x.dtype != SAL_I32 && y.dtype != SAL_I32);
	NEED(y.dim[0] == x.dim[0] && y.dim[1] == x.dim[1] && is1(key, SAL_I32, x.dim[0]) && p >= 0 && p < 1);
	if (empty(y))
		return;
	RUN(0, dropout, y, x, key, salt, p, accumulate);
}

void
sal_zero(struct sal_dev *dev, struct sal_tensor y)
{
	CALL(zero, 1, y);
	NEED(y.ndim > 0);
	if (empty(y))
		return;
	RUN(0, zero, y);
}

void
sal_copy(struct sal_dev *dev, struct sal_tensor y, struct sal_tensor x)
{
	CALL(copy, 1, y, x);
	NEED(same(y, x) && (y.dtype == SAL_I32) == (x.dtype == SAL_I32));
	if (empty(y))
		return;
	RUN(0, copy, y, x);
}

void
sal_add(struct sal_dev *dev, struct sal_tensor y, struct sal_tensor x)
{
	CALL(add, 1, y, x);
	NEED(same_all(y, x) && f32(x));
	if (empty(y))
		return;
	RUN(0, add, y, x);
}

double
sal_sumsq(struct sal_dev *dev, struct sal_tensor x)
{
	double sum;

	CALL(sumsq, 0, x);
	NEED(x.ndim > 0 && f32(x));
	if (empty(x) || !begin(&c_))
		return 0;
	sum = dev->be->sumsq(dev, x);
	end(&c_, 0);
	return sum;
}

void
sal_adamw(struct sal_dev *dev, struct sal_tensor w, struct sal_tensor m, struct sal_tensor v, struct sal_tensor g,
    float grad_scale, float lr, float beta1, float beta2, float eps, float weight_decay, int64_t step)
{
	CALL(adamw, 3, w, m, v, g);
	NEED(f32(w) && same_all(w, m) && same_all(w, v) && same_all(w, g) && step >= 1);
	if (empty(w))
		return;
	RUN(0, adamw, w, m, v, g, grad_scale, lr, beta1, beta2, eps, weight_decay, step);
}
