/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gguf.c - read GGUF versions 2 and 3.
 *
 * Every count and length is checked against the bytes that are left before anything is reserved for it.
 */
#include "lib/tensors.h"
#include <stdlib.h>
#include <string.h>

#define KEY_MAX 65535
#define KEYS_MAX (1 << 16)    /* real files have some fifty; memory for keys and tensors stays bounded */
#define TENSORS_MAX (1 << 17)

enum { G_U8, G_I8, G_U16, G_I16, G_U32, G_I32, G_F32, G_BOOL, G_STR, G_ARR, G_U64, G_I64, G_F64, G_END };
static const int value_bytes[G_END] = { 1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8 };

static const struct {
	uint32_t id;
	const char *name;
	int elements, bytes;
	enum sal_stored type;
} types[] = {
	{ 0, "F32", 1, 4, SAL_ST_F32 }, { 1, "F16", 1, 2, SAL_ST_F16 }, { 2, "Q4_0", 32, 18, SAL_ST_Q4_0 },
	{ 3, "Q4_1", 32, 20, SAL_ST_Q4_1 }, { 6, "Q5_0", 32, 22, SAL_ST_OTHER }, { 7, "Q5_1", 32, 24, SAL_ST_OTHER },
	{ 8, "Q8_0", 32, 34, SAL_ST_Q8_0 }, { 9, "Q8_1", 32, 36, SAL_ST_OTHER }, { 10, "Q2_K", 256, 84, SAL_ST_OTHER },
	{ 11, "Q3_K", 256, 110, SAL_ST_OTHER }, { 12, "Q4_K", 256, 144, SAL_ST_Q4_K }, { 13, "Q5_K", 256, 176, SAL_ST_Q5_K },
	{ 14, "Q6_K", 256, 210, SAL_ST_Q6_K }, { 15, "Q8_K", 256, 292, SAL_ST_OTHER }, { 16, "IQ2_XXS", 256, 66, SAL_ST_OTHER },
	{ 17, "IQ2_XS", 256, 74, SAL_ST_OTHER }, { 18, "IQ3_XXS", 256, 98, SAL_ST_OTHER }, { 19, "IQ1_S", 256, 50, SAL_ST_OTHER },
	{ 20, "IQ4_NL", 32, 18, SAL_ST_OTHER }, { 21, "IQ3_S", 256, 110, SAL_ST_OTHER }, { 22, "IQ2_S", 256, 82, SAL_ST_OTHER },
	{ 23, "IQ4_XS", 256, 136, SAL_ST_OTHER }, { 24, "I8", 1, 1, SAL_ST_OTHER }, { 25, "I16", 1, 2, SAL_ST_OTHER },
	{ 26, "I32", 1, 4, SAL_ST_OTHER }, { 27, "I64", 1, 8, SAL_ST_OTHER }, { 28, "F64", 1, 8, SAL_ST_OTHER },
	{ 29, "IQ1_M", 256, 56, SAL_ST_OTHER }, { 30, "BF16", 1, 2, SAL_ST_BF16 }, { 34, "TQ1_0", 256, 54, SAL_ST_OTHER },
	{ 35, "TQ2_0", 256, 66, SAL_ST_OTHER }, { 39, "MXFP4", 32, 17, SAL_ST_OTHER }, { 40, "NVFP4", 64, 36, SAL_ST_OTHER },
};

/* A key and where its value is. */
struct pair {
	size_t key, key_len; /* in the file */
	uint32_t type;       /* of the value, of the elements of an array */
	bool array;
	uint64_t n;          /* elements of an array */
	size_t at;           /* of the first element in the file */
};
struct pairs {
	const uint8_t *file;
	int n;
	struct pair p[];
};

struct cursor {
	const uint8_t *p;
	size_t at, size;
};

static int
take(struct cursor *c, void *out, size_t n)
{
	if (n > c->size - c->at) {
		sal_err("the file ends inside its header");
		return -1; /* a plain -1 here and below: gcc then sees that *out is set otherwise */
	}
	memcpy(out, c->p + c->at, n);
	c->at += n;
	return 0;
}

static int
take_string(struct cursor *c, const char **p, size_t *len)
{
	uint64_t n;

	if (take(c, &n, 8) != 0)
		return -1;
	if (n > c->size - c->at) {
		sal_err("a string of %llu bytes is longer than the file", (unsigned long long)n);
		return -1;
	}
	*p = (const char *)c->p + c->at;
	*len = (size_t)n;
	c->at += (size_t)n;
	return 0;
}

static double
number(const uint8_t *p, uint32_t type)
{
	union { uint8_t u8; int8_t i8; uint16_t u16; int16_t i16; uint32_t u32; int32_t i32; float f; uint64_t u64; int64_t i64; double d; } v;

	memcpy(&v, p, (size_t)value_bytes[type]);
	switch (type) {
	case G_U8: case G_BOOL: return v.u8;
	case G_I8: return v.i8;
	case G_U16: return v.u16;
	case G_I16: return v.i16;
	case G_U32: return v.u32;
	case G_I32: return v.i32;
	case G_F32: return (double)v.f;
	case G_U64: return (double)v.u64;
	case G_I64: return (double)v.i64;
	default: return v.d;
	}
}

/* Skip an array, noting where it is. */
static int
take_array(struct cursor *c, struct pair *a)
{
	uint64_t bytes;

	if (take(c, &a->type, 4) != 0 || take(c, &a->n, 8) != 0)
		return -1;
	if (a->type >= G_END || a->type == G_ARR)
		return sal_err("an array of values of type %u is not supported", (unsigned)a->type);
	if (!sal_mul_ok(a->n, a->type == G_STR ? 8 : (uint64_t)value_bytes[a->type], &bytes) || bytes > c->size - c->at)
		return sal_err("an array of %llu elements is longer than the file", (unsigned long long)a->n);
	a->array = true;
	a->at = c->at;
	if (a->type != G_STR) {
		c->at += (size_t)bytes;
		return 0;
	}
	for (uint64_t i = 0; i < a->n; i++) {
		const char *s;
		size_t len;
		if (take_string(c, &s, &len) != 0)
			return -1;
	}
	return 0;
}

/* Text in UTF-8 (shortest form, no surrogates) without a NUL. */
static bool
is_text(const char *s, size_t len)
{
	const uint8_t *p = (const uint8_t *)s, *end = p + len;

	while (p < end) {
		unsigned c = *p++, lo = 0x80, hi = 0xbf;
		int more = c < 0x80 ? 0 : c < 0xe0 ? 1 : c < 0xf0 ? 2 : 3;
		if (c == 0 || (c >= 0x80 && c < 0xc2) || c > 0xf4)
			return false;
		if (c == 0xe0)
			lo = 0xa0;
		else if (c == 0xed)
			hi = 0x9f;
		else if (c == 0xf0)
			lo = 0x90;
		else if (c == 0xf4)
			hi = 0x8f;
		for (; more > 0; more--, p++, lo = 0x80, hi = 0xbf)
			if (p == end || *p < lo || *p > hi)
				return false;
	}
	return true;
}

/* A scalar of the file as JSON. */
static int
take_scalar(struct cursor *c, uint32_t type, cJSON **out)
{
	uint8_t raw[8];

	if (type == G_STR) {
		const char *s;
		size_t len;
		if (take_string(c, &s, &len) != 0)
			return -1;
		if (!is_text(s, len))
			return sal_err("a string with a NUL or not in UTF-8");
		char *copy = strndup(s, len);
		*out = copy ? cJSON_CreateString(copy) : NULL;
		free(copy);
	} else {
		if (take(c, raw, (size_t)value_bytes[type]) != 0)
			return -1;
		if (type == G_BOOL && raw[0] > 1)
			return sal_err("a bool of value %d", raw[0]);
		*out = type == G_BOOL ? cJSON_CreateBool(raw[0]) : cJSON_CreateNumber(number(raw, type));
	}
	return *out ? 0 : sal_err("out of memory");
}

/* A key and its value; *name is the key for messages, as soon as it is known to be text. */
static int
read_pair(struct cursor *c, cJSON *meta, struct pair *p, const char **name, size_t *len)
{
	const char *k;
	cJSON *v = NULL;

	*len = 0;
	if (take_string(c, &k, &p->key_len) != 0)
		return -1;
	if (p->key_len == 0 || p->key_len > KEY_MAX || !is_text(k, p->key_len))
		return sal_err("a key of %zu bytes, with a NUL, or not in UTF-8", p->key_len);
	p->key = (size_t)(k - (const char *)c->p);
	*name = k;
	*len = p->key_len;
	if (take(c, &p->type, 4) != 0)
		return -1;
	if (p->type >= G_END)
		return sal_err("unknown value type %u", (unsigned)p->type);
	if (p->key_len == 17 && memcmp(k, "general.alignment", 17) == 0 && p->type != G_U32)
		return sal_err("not a u32");
	if (p->type == G_ARR)
		return take_array(c, p);
	if (take_scalar(c, p->type, &v) != 0)
		return -1;
	char *copy = strndup(k, p->key_len);
	if (copy == NULL || !cJSON_AddItemToObject(meta, copy, v)) {
		free(copy);
		cJSON_Delete(v);
		return sal_err("out of memory");
	}
	free(copy);
	return 0;
}

struct sorted {
	const char *key;
	size_t len;
};

static int
by_key(const void *a, const void *b)
{
	const struct sorted *x = a, *y = b;
	int c = memcmp(x->key, y->key, x->len < y->len ? x->len : y->len);

	return c ? c : (x->len > y->len) - (x->len < y->len);
}

static int
keys_differ(const struct pairs *all)
{
	struct sorted *k = malloc(((size_t)all->n + 1) * sizeof *k);
	int rc = 0;

	if (k == NULL)
		return sal_err("out of memory");
	for (int i = 0; i < all->n; i++)
		k[i] = (struct sorted){ (const char *)all->file + all->p[i].key, all->p[i].key_len };
	qsort(k, (size_t)all->n, sizeof *k, by_key);
	for (int i = 1; rc == 0 && i < all->n; i++)
		if (by_key(&k[i], &k[i - 1]) == 0)
			rc = sal_err("metadata '%.*s' stands twice", (int)(k[i].len < 200 ? k[i].len : 200), k[i].key);
	free(k);
	return rc;
}

static int
read_tensor(struct cursor *c, struct sal_stored_tensor *t, uint64_t align, uint64_t *at, uint64_t *offset)
{
	const char *name;
	size_t len, k = 0;
	uint32_t nd, type;
	uint64_t dim[4], elements = 1, off, bytes;

	if (take_string(c, &name, &len) != 0)
		return -1;
	if (len == 0 || len >= 64 || !is_text(name, len))
		return sal_err("a tensor's name of %zu bytes, with a NUL, or not in UTF-8", len);
	if ((t->name = strndup(name, len)) == NULL)
		return sal_err("out of memory");
	if (take(c, &nd, 4) != 0)
		return -1;
	if (nd < 1 || nd > 4)
		return sal_err("%u dimensions", (unsigned)nd);
	if (take(c, dim, 8 * (size_t)nd) != 0 || take(c, &type, 4) != 0 || take(c, &off, 8) != 0)
		return -1;
	t->ndim = (int)nd;
	for (uint32_t i = 0; i < nd; i++) {
		if (dim[i] > INT64_MAX || !sal_mul_ok(elements, dim[i], &elements) || elements > INT64_MAX)
			return sal_err("the size does not fit 63 bits");
		t->dim[nd - 1 - i] = (int64_t)dim[i];
	}
	while (k < sizeof types / sizeof *types && types[k].id != type)
		k++;
	if (k == sizeof types / sizeof *types)
		return sal_err("unknown type %u", (unsigned)type);
	if (dim[0] % (uint64_t)types[k].elements != 0)
		return sal_err("a row of %llu elements is not whole blocks of %s", (unsigned long long)dim[0], types[k].name);
	t->type = types[k].type;
	snprintf(t->type_name, sizeof t->type_name, "%s", types[k].name);
	if (!sal_mul_ok(elements / (uint64_t)types[k].elements, (uint64_t)types[k].bytes, &bytes))
		return sal_err("the size does not fit 64 bits");
	if (off != *at)
		return sal_err("offset %llu, expected %llu", (unsigned long long)off, (unsigned long long)*at);
	t->bytes = (size_t)bytes;
	*offset = off;
	if (!sal_add_ok(off, bytes, at) || !sal_add_ok(*at, align - 1, at))
		return sal_err("the size does not fit 64 bits");
	*at &= ~(align - 1);
	return 0;
}

static int
by_name(const void *a, const void *b)
{
	return strcmp(((const struct sal_stored_tensor *)a)->name, ((const struct sal_stored_tensor *)b)->name);
}

static int
read_all(struct sal_tensors *s, struct cursor *c)
{
	uint32_t magic, version;
	uint64_t n_tensors, n_kv, align = 32, at = 0, *offset, data;
	const char *key = "";
	size_t key_len = 0;
	char why[400];
	int rc = -1;

	if (take(c, &magic, 4) != 0)
		return -1;
	if (memcmp(&magic, "GGUF", 4) != 0)
		return sal_err("not a GGUF file");
	if (take(c, &version, 4) != 0)
		return -1;
	if (version != 2 && version != 3)
		return sal_err("version %u is not supported%s", (unsigned)version, version & 0xffff ? "" : " (a big-endian file?)");
	if (take(c, &n_tensors, 8) != 0 || take(c, &n_kv, 8) != 0)
		return -1;
	if (n_kv > (c->size - c->at) / 14 || n_tensors > (c->size - c->at) / 32)
		return sal_err("%llu tensors and %llu keys are more than the file holds", (unsigned long long)n_tensors, (unsigned long long)n_kv);
	if (n_kv > KEYS_MAX || n_tensors > TENSORS_MAX)
		return sal_err("%llu tensors and %llu keys are more than %d and %d", (unsigned long long)n_tensors, (unsigned long long)n_kv, TENSORS_MAX, KEYS_MAX);
	s->meta = cJSON_CreateObject();
	struct pairs *all = s->priv = calloc(1, sizeof *all + ((size_t)n_kv + 1) * sizeof *all->p);
	s->t = calloc((size_t)n_tensors + 1, sizeof *s->t);
	offset = calloc((size_t)n_tensors + 1, sizeof *offset);
	if (!s->meta || !s->priv || !s->t || !offset) {
		sal_err("out of memory");
		goto out;
	}
	all->file = c->p;
	for (; all->n < (int)n_kv; all->n++)
		if (read_pair(c, s->meta, &all->p[all->n], &key, &key_len) != 0) {
			snprintf(why, sizeof why, "%s", sal_errmsg());
			sal_err("metadata '%.*s': %s", (int)(key_len < 200 ? key_len : 200), key, why);
			goto out;
		}
	if (keys_differ(all) != 0)
		goto out;
	const cJSON *a = cJSON_GetObjectItemCaseSensitive(s->meta, "general.alignment");
	if (a) {
		align = (uint64_t)a->valuedouble;
		if (align == 0 || align > 65536 || (align & (align - 1))) {
			sal_err("alignment %llu is not a power of two up to 65536", (unsigned long long)align);
			goto out;
		}
	}
	for (uint64_t i = 0; i < n_tensors; i++) {
		s->n++;
		if (read_tensor(c, &s->t[i], align, &at, &offset[i]) != 0) {
			snprintf(why, sizeof why, "%s", sal_errmsg());
			sal_err("tensor '%s': %s", s->t[i].name ? s->t[i].name : "?", why);
			goto out;
		}
	}
	data = ((uint64_t)c->at + align - 1) & ~(align - 1);
	for (uint64_t i = 0; i < n_tensors; i++) {
		uint64_t end;
		if (!sal_add_ok(data, offset[i], &end) || !sal_add_ok(end, s->t[i].bytes, &end) || end > c->size) {
			sal_err("tensor '%s' ends outside the file", s->t[i].name);
			goto out;
		}
		s->t[i].data = c->p + data + offset[i];
	}
	qsort(s->t, (size_t)s->n, sizeof *s->t, by_name);
	for (int i = 1; i < s->n; i++)
		if (strcmp(s->t[i].name, s->t[i - 1].name) == 0) {
			sal_err("tensor '%s' stands twice", s->t[i].name);
			goto out;
		}
	rc = 0;
out:
	free(offset);
	return rc;
}

struct sal_tensors *
sal_gguf_open(const char *path)
{
	struct sal_tensors *s = calloc(1, sizeof *s);
	struct cursor c;
	char why[512];

	if (s == NULL || (s->map = calloc(1, sizeof *s->map)) == NULL) {
		free(s);
		sal_err("out of memory");
		return NULL;
	}
	if ((s->map[0] = sal_map_open(path)) == NULL) {
		sal_tensors_close(s);
		return NULL;
	}
	s->n_maps = 1;
	c = (struct cursor){ s->map[0]->data, 0, s->map[0]->size };
	if (read_all(s, &c) == 0)
		return s;
	snprintf(why, sizeof why, "%s", sal_errmsg());
	sal_tensors_close(s);
	sal_err("%s: %s", path, why);
	return NULL;
}

static const struct pair *
find_array(const struct sal_tensors *s, const char *key)
{
	const struct pairs *all = s->priv;
	size_t len = strlen(key);

	for (int i = 0; all && i < all->n; i++)
		if (all->p[i].array && all->p[i].key_len == len && memcmp(all->file + all->p[i].key, key, len) == 0)
			return &all->p[i];
	return NULL;
}

int64_t
sal_gguf_array_len(const struct sal_tensors *s, const char *key)
{
	const struct pair *a = find_array(s, key);

	return a ? (int64_t)a->n : -1;
}

struct sal_str *
sal_gguf_strings(const struct sal_tensors *s, const char *key, int64_t *n)
{
	const struct pair *a = find_array(s, key);
	struct sal_str *out;

	if (a == NULL || a->type != G_STR) {
		sal_err("metadata '%s' is not an array of strings", key);
		return NULL;
	}
	struct cursor c = { s->map[0]->data, a->at, s->map[0]->size };
	if ((out = malloc(((size_t)a->n + 1) * sizeof *out)) == NULL) {
		sal_err("out of memory");
		return NULL;
	}
	for (uint64_t i = 0; i < a->n; i++)
		if (take_string(&c, &out[i].p, &out[i].len) != 0) {
			free(out);
			return NULL;
		}
	*n = (int64_t)a->n;
	return out;
}

/* The elements of an array of 4-byte numbers, as they stand in the file. */
static void *
words(const struct sal_tensors *s, const char *key, uint32_t type, uint32_t also, const char *what, int64_t *n)
{
	const struct pair *a = find_array(s, key);
	void *out;

	if (a == NULL || (a->type != type && a->type != also)) {
		sal_err("metadata '%s' is not an array of %s", key, what);
		return NULL;
	}
	if ((out = malloc(((size_t)a->n + 1) * 4)) == NULL) {
		sal_err("out of memory");
		return NULL;
	}
	memcpy(out, s->map[0]->data + a->at, (size_t)a->n * 4);
	*n = (int64_t)a->n;
	return out;
}

float *
sal_gguf_floats(const struct sal_tensors *s, const char *key, int64_t *n)
{
	return words(s, key, G_F32, G_F32, "f32", n);
}

int32_t *
sal_gguf_ints(const struct sal_tensors *s, const char *key, int64_t *n)
{
	return words(s, key, G_I32, G_U32, "i32", n);
}
