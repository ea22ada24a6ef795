/* SPDX-License-Identifier: Apache-2.0 */
/* device.c - devices, arenas, tensors and packed matrices: everything that is not an operation. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend.h"

#define ALIGN 64

struct sal_arena {
	struct sal_dev *dev;
	char *base;
	size_t size, used, peak;
	bool lent; /* base is the caller's */
};

void
sal_dev_fail(struct sal_dev *dev, const char *fmt, ...)
{
	va_list ap;

	if (dev->error[0])
		return;
	va_start(ap, fmt);
	vsnprintf(dev->error, sizeof dev->error, fmt, ap);
	va_end(ap);
}

/* SAL_DEBUG: words separated by commas or blanks.  The bit of a word is that of its first letter. */
static int
debug_words(unsigned *bits, const char *s, char *err, size_t errlen)
{
	static const char *const words[] = { "trace", "nan", "sync" };

	*bits = 0;
	while (s && *(s += strspn(s, ", "))) {
		size_t n = strcspn(s, ", "), i = 0;
		while (i < 3 && (strlen(words[i]) != n || memcmp(words[i], s, n)))
			i++;
		if (i == 3) {
			snprintf(err, errlen, "SAL_DEBUG: unknown word '%.*s' (trace, nan, sync)", (int)n, s);
			return -1;
		}
		*bits |= 1u << (words[i][0] - 'a');
		s += n;
	}
	return 0;
}

struct sal_dev *
sal_dev_open(const char *name, int threads, char *err, size_t errlen)
{
	const struct sal_layout *layout = sal_layout(name);
	const struct sal_backend *be = &sal_cpu_backend;
	struct sal_dev *dev;
	int ordinal = 0;

	if (!layout) {
		snprintf(err, errlen, "device '%s': not one of cpu, cuda, cuda:N", name);
		return NULL;
	}
	if (layout == &sal_cuda_layout) {
		ordinal = name[4] ? atoi(name + 5) : 0; /* sal_layout() has seen that it is a number */
#ifdef SAL_CUDA
		be = &sal_cuda_backend;
#else
		snprintf(err, errlen, "device '%s': this build has no CUDA back end", name);
		return NULL;
#endif
	}
	dev = calloc(1, sizeof *dev);
	if (!dev) {
		snprintf(err, errlen, "out of memory");
		return NULL;
	}
	dev->be = be;
	if (debug_words(&dev->debug, getenv("SAL_DEBUG"), err, errlen) ||
	    dev->be->open(dev, ordinal, threads, err, errlen)) {
		free(dev);
		return NULL;
	}
	return dev;
}

void
sal_dev_close(struct sal_dev *dev)
{
	if (!dev)
		return;
	sal_trace_close(dev);
	dev->be->close(dev);
	free(dev);
}

const struct sal_layout *
sal_dev_layout(const struct sal_dev *dev)
{
	return dev->be->layout;
}

size_t
sal_dev_left(struct sal_dev *dev)
{
	return dev->be->room && !dev->error[0] ? dev->be->room(dev) : SIZE_MAX;
}

const char *
sal_dev_isa(const struct sal_dev *dev)
{
	return dev->isa;
}

int
sal_dev_threads(const struct sal_dev *dev)
{
	return dev->threads;
}

int
sal_dev_sync(struct sal_dev *dev)
{
	int r = dev->be->sync(dev);

	return r || dev->error[0] ? -1 : 0;
}

const char *
sal_dev_error(const struct sal_dev *dev)
{
	return dev->error;
}

static size_t
round_up(size_t n)
{
	return (n + ALIGN - 1) / ALIGN * ALIGN;
}

static struct sal_arena *
empty_arena(struct sal_dev *dev)
{
	struct sal_arena *a = calloc(1, sizeof *a);

	/* never NULL: without even this little memory there is nobody to tell */
	if (!a) {
		fprintf(stderr, "sal_arena_new: out of memory\n");
		abort();
	}
	a->dev = dev;
	return a;
}

struct sal_arena *
sal_arena_new(struct sal_dev *dev, size_t bytes)
{
	struct sal_arena *a = empty_arena(dev);

	if (dev->error[0])
		return a;
	a->size = round_up(bytes ? bytes : 1);
	a->base = a->size >= bytes ? dev->be->alloc(dev, a->size) : NULL;
	if (!a->base) {
		a->size = 0;
		sal_dev_fail(dev, "out of memory: %zu bytes on device %s", bytes, dev->be->name);
	}
	return a;
}

struct sal_arena *
sal_arena_over(struct sal_dev *dev, const void *base, size_t bytes)
{
	struct sal_arena *a = empty_arena(dev);

	if (!dev->be->layout->host || (uintptr_t)base % ALIGN) {
		fprintf(stderr, "sal_arena_over: %p on device %s\n", base, dev->be->name);
		abort();
	}
	a->base = (char *)(uintptr_t)base; /* const: only what the caller knows to be writable is written */
	a->size = bytes;
	a->lent = true;
	return a;
}

void *
sal_arena_base(const struct sal_arena *a)
{
	return a->dev->be->layout->host ? a->base : NULL;
}

size_t
sal_arena_mark(const struct sal_arena *a)
{
	return a->used;
}

size_t
sal_arena_peak(const struct sal_arena *a)
{
	return a->peak;
}

void
sal_arena_reset(struct sal_arena *a, size_t mark)
{
	if (mark > a->used) {
		fprintf(stderr, "sal_arena_reset: mark %zu is past the %zu bytes in use\n", mark, a->used);
		abort();
	}
	a->used = mark;
}

void
sal_arena_free(struct sal_arena *a)
{
	if (!a)
		return;
	if (a->base && !a->lent)
		a->dev->be->free(a->dev, a->base);
	free(a);
}

/* bytes is a multiple of ALIGN; NULL with the device's error set when the arena is too small */
static void *
take(struct sal_arena *a, size_t bytes)
{
	void *p;

	if (a->dev->error[0])
		return NULL;
	if (bytes > a->size - a->used) {
		sal_dev_fail(a->dev, "arena of %zu bytes is too small: %zu in use, %zu wanted", a->size, a->used, bytes);
		return NULL;
	}
	p = a->base + a->used;
	a->used += bytes;
	if (a->used > a->peak)
		a->peak = a->used;
	return p;
}

static size_t
dtype_size(enum sal_dtype dtype)
{
	return dtype == SAL_BF16 ? 2 : 4;
}

static int64_t
elements(struct sal_tensor t)
{
	int64_t n = t.ndim > 0;

	for (int i = 0; i < t.ndim; i++)
		n *= t.dim[i];
	return n;
}

static struct sal_tensor
shaped(const char *who, enum sal_dtype dtype, int ndim, int64_t d0, int64_t d1, int64_t d2, int64_t d3)
{
	struct sal_tensor t = { .dtype = dtype, .ndim = ndim };
	int64_t d[SAL_MAX_DIM] = { d0, d1, d2, d3 };

	if (ndim < 1 || ndim > SAL_MAX_DIM) {
		fprintf(stderr, "%s: %d dimensions\n", who, ndim);
		abort();
	}
	for (int i = 0; i < ndim; i++) {
		t.dim[i] = d[i];
		if (d[i] < 0) {
			fprintf(stderr, "%s: dimension %d is %lld\n", who, i, (long long)d[i]);
			abort();
		}
	}
	return t;
}

struct sal_tensor
sal_tensor_new(struct sal_arena *a, enum sal_dtype dtype, int ndim, int64_t d0, int64_t d1, int64_t d2, int64_t d3)
{
	struct sal_tensor t = shaped("sal_tensor_new", dtype, ndim, d0, d1, d2, d3);

	t.data = take(a, sal_tensor_room(dtype, elements(t)));
	return t;
}

size_t
sal_tensor_bytes(struct sal_tensor t)
{
	return (size_t)elements(t) * dtype_size(t.dtype);
}

size_t
sal_tensor_room(enum sal_dtype dtype, int64_t n)
{
	return round_up((size_t)n * dtype_size(dtype));
}

struct sal_tensor
sal_tensor_rows(struct sal_tensor t, int64_t r0, int64_t n)
{
	if (t.ndim < 1 || r0 < 0 || n < 0 || r0 > t.dim[0] - n) {
		fprintf(stderr, "sal_tensor_rows: rows %lld, count %lld of a tensor of %lld rows\n", (long long)r0,
		    (long long)n, (long long)(t.ndim ? t.dim[0] : 0));
		abort();
	}
	if (t.data) {
		size_t row = dtype_size(t.dtype);
		for (int i = 1; i < t.ndim; i++)
			row *= (size_t)t.dim[i];
		t.data = (char *)t.data + row * (size_t)r0;
	}
	t.dim[0] = n;
	return t;
}

struct sal_tensor
sal_tensor_view(struct sal_tensor t, int ndim, int64_t d0, int64_t d1, int64_t d2, int64_t d3)
{
	struct sal_tensor v = shaped("sal_tensor_view", t.dtype, ndim, d0, d1, d2, d3);

	if (elements(v) != elements(t)) {
		fprintf(stderr, "sal_tensor_view: %lld elements seen as %lld\n", (long long)elements(t),
		    (long long)elements(v));
		abort();
	}
	v.data = t.data;
	return v;
}

void
sal_upload(struct sal_dev *dev, struct sal_tensor t, const void *src)
{
	if (!dev->error[0] && t.data)
		dev->be->upload(dev, t.data, src, sal_tensor_bytes(t));
}

void
sal_download(struct sal_dev *dev, void *dst, struct sal_tensor t)
{
	if (!dev->error[0] && t.data)
		dev->be->download(dev, dst, t.data, sal_tensor_bytes(t));
}

static size_t
copy_bytes(const struct sal_layout *l, enum sal_dtype dtype, enum sal_form form, int64_t out, int64_t in)
{
	size_t bytes = form == SAL_PLAIN ? l->packed_bytes(dtype, out, in) : form == SAL_INT8 ? sal_int8_bytes(out, in) : sal_form_bytes(form, out * in);

	return round_up(bytes);
}

struct sal_weight
sal_weight_new(struct sal_arena *a, enum sal_dtype dtype, enum sal_form form, int64_t out, int64_t in, bool transposed)
{
	const struct sal_layout *l = a->dev->be->layout;
	struct sal_weight w = { .dtype = dtype, .form = sal_layout_keeps(l, form) ? form : SAL_PLAIN, .out = out, .in = in };
	char *p = take(a, sal_weight_room(l, dtype, form, out, in, transposed));

	if (transposed && w.form == SAL_INT8) {
		fprintf(stderr, "sal_weight_new: a transposed copy in 8 bits\n");
		abort();
	}
	w.fwd = p;
	if (p && transposed)
		w.bwd = l->one_copy ? p : p + copy_bytes(l, dtype, w.form, out, in);
	return w;
}

size_t
sal_weight_room(const struct sal_layout *l, enum sal_dtype dtype, enum sal_form form, int64_t out, int64_t in, bool transposed)
{
	size_t room = copy_bytes(l, dtype, sal_layout_keeps(l, form) ? form : SAL_PLAIN, out, in);

	return room + (transposed && !l->one_copy ? copy_bytes(l, dtype, SAL_PLAIN, in, out) : 0);
}
