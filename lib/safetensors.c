/* SPDX-License-Identifier: Apache-2.0 */
/*
 * safetensors.c - read one file or all shards of a folder, write one file.
 *
 * The tensors of a file form a chain: the first begins at 0, each begins where the last ended, the last ends with the file.
 * That one rule excludes overlap, holes, and offsets outside the file together.
 */
#include "lib/tensors.h"
#include "lib/jsonl.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEADER_MAX 100000000u
#define VALUES_MAX (1 << 19) /* of a header: some 60,000 tensors */

static const struct {
	const char *name;
	int bits;
	enum sal_stored type;
} dtypes[] = {
	{ "F32", 32, SAL_ST_F32 }, { "F16", 16, SAL_ST_F16 }, { "BF16", 16, SAL_ST_BF16 }, { "F64", 64, SAL_ST_OTHER },
	{ "I64", 64, SAL_ST_OTHER }, { "I32", 32, SAL_ST_OTHER }, { "I16", 16, SAL_ST_OTHER }, { "I8", 8, SAL_ST_OTHER },
	{ "U64", 64, SAL_ST_OTHER }, { "U32", 32, SAL_ST_OTHER }, { "U16", 16, SAL_ST_OTHER }, { "U8", 8, SAL_ST_OTHER },
	{ "BOOL", 8, SAL_ST_OTHER }, { "C64", 64, SAL_ST_OTHER }, { "F8_E4M3", 8, SAL_ST_OTHER }, { "F8_E5M2", 8, SAL_ST_OTHER },
	{ "F8_E8M0", 8, SAL_ST_OTHER }, { "F8_E4M3FNUZ", 8, SAL_ST_OTHER }, { "F8_E5M2FNUZ", 8, SAL_ST_OTHER }, { "F6_E2M3", 6, SAL_ST_OTHER },
	{ "F6_E3M2", 6, SAL_ST_OTHER }, { "F4", 4, SAL_ST_OTHER },
};

struct chain {
	uint64_t begin, end;
};

static int
by_offset(const void *a, const void *b)
{
	const struct chain *x = a, *y = b;

	return x->begin != y->begin ? (x->begin > y->begin) - (x->begin < y->begin) : (x->end > y->end) - (x->end < y->end);
}

static int
by_name(const void *a, const void *b)
{
	return strcmp(((const struct sal_stored_tensor *)a)->name, ((const struct sal_stored_tensor *)b)->name);
}

/* An integer below 2^53: cJSON holds doubles, and whether it was written as one is checked on the text. */
static int
whole(const cJSON *e, uint64_t *out)
{
	if (!cJSON_IsNumber(e) || !(e->valuedouble >= 0) || e->valuedouble >= 9007199254740992.0 || e->valuedouble != (double)(uint64_t)e->valuedouble)
		return sal_err("not a whole number below 2^53");
	*out = (uint64_t)e->valuedouble;
	return 0;
}

/*
 * Before the header is parsed, outside strings: numbers are plain digits, no list has more elements than a tensor may have
 * dimensions, nothing is nested deeper than an entry's lists.  So parsing takes memory in proportion to real tensors only.
 */
static int
scan_header(const char *p, size_t n)
{
	int depth = 0, commas = 0, values = 0;
	bool list = false, string = false;

	for (size_t i = 0; i < n; i++) {
		if (!string && (p[i] == ':' || p[i] == ',') && ++values > VALUES_MAX)
			return sal_err("the header has more than %d values", VALUES_MAX);
		bool after_digit = i > 0 && p[i - 1] >= '0' && p[i - 1] <= '9';
		if (string && p[i] == '\\')
			i++;
		else if (p[i] == '"')
			string = !string;
		else if (string)
			continue;
		else if (p[i] == '.' || p[i] == '-' || p[i] == '+' || ((p[i] == 'e' || p[i] == 'E') && after_digit))
			return sal_err("the header has a number that is not written as an unsigned integer");
		else if (p[i] == '{' || p[i] == '[') {
			list = p[i] == '[';
			commas = 0;
			if (++depth > 3)
				return sal_err("the header is nested too deeply");
		} else if (p[i] == '}' || p[i] == ']') {
			list = false;
			depth--;
		} else if (list && p[i] == ',' && ++commas >= 8)
			return sal_err("the header has a list of more than 8 numbers");
	}
	return 0;
}

static int
read_entry(const cJSON *e, struct sal_stored_tensor *t, struct chain *c)
{
	const cJSON *shape = cJSON_GetObjectItemCaseSensitive(e, "shape"), *off = cJSON_GetObjectItemCaseSensitive(e, "data_offsets"), *x;
	const char *dt;
	uint64_t bits;
	size_t k = 0;

	if (!cJSON_IsObject(e))
		return sal_err("entry is not an object");
	if ((dt = sal_json_str(e, "dtype")) == NULL)
		return -1;
	while (k < sizeof dtypes / sizeof *dtypes && strcmp(dtypes[k].name, dt) != 0)
		k++;
	if (k == sizeof dtypes / sizeof *dtypes)
		return sal_err("unknown dtype '%s'", dt);
	t->type = dtypes[k].type;
	snprintf(t->type_name, sizeof t->type_name, "%s", dt);
	bits = (uint64_t)dtypes[k].bits;
	if (!cJSON_IsArray(shape) || cJSON_GetArraySize(shape) > 8)
		return sal_err("shape is not a list of at most 8 dimensions");
	cJSON_ArrayForEach(x, shape)
	{
		uint64_t d = 0;
		if (whole(x, &d) != 0)
			return sal_err("a dimension is not a whole number");
		t->dim[t->ndim++] = (int64_t)d;
		if (!sal_mul_ok(bits, d, &bits))
			return sal_err("the size does not fit 64 bits");
	}
	if (!cJSON_IsArray(off) || cJSON_GetArraySize(off) != 2 || whole(cJSON_GetArrayItem(off, 0), &c->begin) != 0 ||
	    whole(cJSON_GetArrayItem(off, 1), &c->end) != 0)
		return sal_err("data_offsets are not two whole numbers");
	if (bits % 8)
		return sal_err("the size is not whole bytes");
	if (c->end < c->begin || c->end - c->begin != bits / 8)
		return sal_err("shape needs %llu bytes, data_offsets give %lld", (unsigned long long)bits / 8, (long long)c->end - (long long)c->begin);
	t->bytes = (size_t)(bits / 8);
	return 0;
}

static int
read_header(struct sal_tensors *s, const struct sal_map *m, int file, const cJSON *j, uint64_t data, struct chain *chain, int *n_chain)
{
	const cJSON *e, *x;

	cJSON_ArrayForEach(e, j)
	{
		struct sal_stored_tensor *t = &s->t[s->n];
		if (strcmp(e->string, "__metadata__") == 0) {
			if (!cJSON_IsObject(e))
				return sal_err("__metadata__ is not an object");
			cJSON_ArrayForEach(x, e)
				if (!cJSON_IsString(x))
					return sal_err("__metadata__ holds a value that is not a string");
			continue;
		}
		struct chain *c = &chain[*n_chain];
		char why[256];
		if ((t->name = strdup(e->string)) == NULL)
			return sal_err("out of memory");
		s->n++;
		(*n_chain)++;
		t->file = file;
		if (read_entry(e, t, c) != 0) {
			snprintf(why, sizeof why, "%s", sal_errmsg());
			return sal_err("tensor '%s': %s", e->string, why);
		}
		if (c->end > m->size - data)
			return sal_err("tensor '%s' ends outside the file", e->string);
		t->data = m->data + data + c->begin;
	}
	qsort(chain, (size_t)*n_chain, sizeof *chain, by_offset);
	uint64_t at = 0;
	for (int i = 0; i < *n_chain; i++) {
		if (chain[i].begin != at)
			return sal_err("data_offsets leave a hole or overlap at byte %llu of the data", (unsigned long long)(chain[i].begin < at ? chain[i].begin : at));
		at = chain[i].end;
	}
	if (data + at != m->size)
		return sal_err("the tensors end at byte %llu, the file at %zu", (unsigned long long)(data + at), m->size);
	return 0;
}

/* Add the tensors of one file to s; the map is s's afterwards, whatever happens. */
static int
add_file(struct sal_tensors *s, const char *path)
{
	struct sal_map *m = sal_map_open(path), **maps;
	uint64_t n = 0, end;
	char why[512];
	cJSON *j = NULL;
	int rc = -1, count, n_chain = 0;

	if (m == NULL)
		return -1;
	if ((maps = realloc(s->map, (size_t)(s->n_maps + 1) * sizeof *maps)) == NULL) {
		sal_map_close(m);
		return sal_err("%s: out of memory", path);
	}
	s->map = maps;
	s->map[s->n_maps++] = m;
	if (m->size < 8)
		return sal_err("%s: %zu bytes are no safetensors file", path, m->size);
	for (int i = 7; i >= 0; i--)
		n = n << 8 | m->data[i];
	if (n > HEADER_MAX || !sal_add_ok(8, n, &end) || end > m->size)
		return sal_err("%s: a header of %llu bytes does not fit the file", path, (unsigned long long)n);
	const char *text = (const char *)m->data + 8;
	size_t len = (size_t)n;
	if (len == 0 || text[0] != '{')
		return sal_err("%s: the header does not begin with '{'", path);
	while (len > 0 && text[len - 1] == ' ')
		len--;
	if (text[len - 1] != '}')
		return sal_err("%s: the header does not end with '}'", path);
	if (scan_header(text, len) != 0) {
		snprintf(why, sizeof why, "%s", sal_errmsg());
		return sal_err("%s: %s", path, why);
	}
	if ((j = sal_json_parse(text, len, path)) == NULL)
		return -1;
	if (!cJSON_IsObject(j)) {
		cJSON_Delete(j);
		return sal_err("%s: the header is not an object", path);
	}
	count = cJSON_GetArraySize(j);
	struct sal_stored_tensor *t = realloc(s->t, (size_t)(s->n + count + 1) * sizeof *t);
	struct chain *chain = calloc((size_t)count + 1, sizeof *chain);
	if (t)
		s->t = t;
	if (t == NULL || chain == NULL)
		sal_err("%s: out of memory", path);
	else {
		memset(s->t + s->n, 0, (size_t)count * sizeof *t);
		rc = read_header(s, m, s->n_maps - 1, j, end, chain, &n_chain);
		if (rc != 0) {
			snprintf(why, sizeof why, "%s", sal_errmsg());
			sal_err("%s: %s", path, why);
		}
	}
	free(chain);
	cJSON_Delete(j);
	return rc;
}

static struct sal_tensors *
finish(struct sal_tensors *s, int rc, const char *path)
{
	if (rc == 0) {
		qsort(s->t, (size_t)s->n, sizeof *s->t, by_name);
		for (int i = 1; rc == 0 && i < s->n; i++)
			if (strcmp(s->t[i].name, s->t[i - 1].name) == 0)
				rc = sal_err("%s: tensor '%s' stands in two files", path, s->t[i].name);
	}
	if (rc == 0)
		return s;
	sal_tensors_close(s);
	return NULL;
}

struct sal_tensors *
sal_safetensors_open(const char *path)
{
	struct sal_tensors *s = calloc(1, sizeof *s);

	if (s == NULL) {
		sal_err("out of memory");
		return NULL;
	}
	return finish(s, add_file(s, path), path);
}

static int
add_shards(struct sal_tensors *s, const char *dir, const char *index, const cJSON *map)
{
	const cJSON *e;
	int rc = 0;

	if (!cJSON_IsObject(map))
		return sal_err("%s: no object 'weight_map'", index);
	if (map->child == NULL)
		return sal_err("%s: 'weight_map' is empty", index);
	cJSON_ArrayForEach(e, map)
	{
		const char *name = cJSON_IsString(e) ? e->valuestring : "";
		size_t len = strlen(name);
		bool seen = false;
		if (len == 0 || strchr(name, '/') || name[0] == '.' || len < 12 || strcmp(name + len - 12, ".safetensors") != 0)
			return sal_err("%s: '%s' is not the name of a shard", index, name);
		char *path = sal_path_join(dir, name);
		if (path == NULL)
			return sal_err("out of memory");
		for (int i = 0; i < s->n_maps; i++)
			seen = seen || strcmp(s->map[i]->path, path) == 0;
		if (!seen)
			rc = add_file(s, path);
		free(path);
		if (rc != 0)
			return -1;
	}
	qsort(s->t, (size_t)s->n, sizeof *s->t, by_name);
	cJSON_ArrayForEach(e, map)
	{
		const struct sal_stored_tensor *t = sal_tensors_find(s, e->string);
		const char *file = t ? strrchr(s->map[t->file]->path, '/') : NULL;
		if (file == NULL || strcmp(file + 1, e->valuestring) != 0)
			return sal_err("%s: tensor '%s' is not in '%s'", index, e->string, e->valuestring);
	}
	return 0;
}

struct sal_tensors *
sal_safetensors_open_dir(const char *dir)
{
	struct sal_tensors *s = calloc(1, sizeof *s);
	char *one = sal_path_join(dir, "model.safetensors"), *index = sal_path_join(dir, "model.safetensors.index.json");
	cJSON *j = NULL;
	int rc = -1;

	if (!s || !one || !index)
		sal_err("out of memory");
	else if (access(one, F_OK) != 0 && access(index, F_OK) == 0) {
		if ((j = sal_json_read(index)) != NULL)
			rc = add_shards(s, dir, index, cJSON_GetObjectItemCaseSensitive(j, "weight_map"));
	} else
		rc = add_file(s, one);
	cJSON_Delete(j);
	s = s ? finish(s, rc, dir) : NULL;
	free(one);
	free(index);
	return s;
}

/* ---- writing ------------------------------------------------------------- */

static void
put_name(struct sal_buf *b, const char *s)
{
	for (; *s; s++)
		if (*s == '"' || *s == '\\' || (unsigned char)*s < 0x20)
			sal_buf_printf(b, "\\u%04x", (unsigned char)*s);
		else
			sal_buf_put(b, s, 1);
}

static int
by_string(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int
names_differ(const struct sal_out_tensor *t, int n)
{
	const char **name = malloc(((size_t)n + 1) * sizeof *name);
	int rc = 0;

	if (name == NULL)
		return sal_err("out of memory");
	for (int i = 0; i < n; i++)
		name[i] = t[i].name;
	qsort(name, (size_t)n, sizeof *name, by_string);
	for (int i = 0; rc == 0 && i < n; i++)
		if (strcmp(name[i], "__metadata__") == 0 || (i > 0 && strcmp(name[i], name[i - 1]) == 0))
			rc = sal_err("tensor '%s' stands twice", name[i]);
	free(name);
	return rc;
}

/* The length and the header, padded with spaces to a multiple of 8. */
static int
make_header(struct sal_buf *b, const struct sal_out_tensor *t, int n, bool bf16)
{
	uint64_t at = 0;

	if (n < 0 || names_differ(t, n) != 0)
		return n < 0 ? sal_err("%d tensors", n) : -1;
	sal_buf_put(b, "\0\0\0\0\0\0\0\0", 8);
	sal_buf_puts(b, "{\"__metadata__\":{\"format\":\"pt\"}");
	for (int i = 0; i < n; i++) {
		uint64_t bytes = bf16 ? 2 : 4, end;
		bool good = t[i].ndim >= 0 && t[i].ndim <= 4;
		sal_buf_puts(b, ",\"");
		put_name(b, t[i].name);
		sal_buf_printf(b, "\":{\"dtype\":\"%s\",\"shape\":[", bf16 ? "BF16" : "F32");
		for (int d = 0; good && d < t[i].ndim; d++) {
			good = t[i].dim[d] >= 0 && sal_mul_ok(bytes, (uint64_t)t[i].dim[d], &bytes);
			sal_buf_printf(b, "%s%lld", d ? "," : "", (long long)t[i].dim[d]);
		}
		if (!good || !sal_add_ok(at, bytes, &end) || end > INT64_MAX / 2)
			return sal_err("tensor '%s': a shape that cannot be written", t[i].name);
		sal_buf_printf(b, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)at, (unsigned long long)end);
		at = end;
	}
	sal_buf_puts(b, "}");
	while (!b->failed && b->len % 8)
		sal_buf_puts(b, " ");
	if (b->failed)
		return sal_err("out of memory");
	if (b->len - 8 > HEADER_MAX)
		return sal_err("the header is too long");
	for (int i = 0; i < 8; i++)
		b->data[i] = (char)(uint8_t)((uint64_t)(b->len - 8) >> (8 * i));
	return 0;
}

static int
put_all(int fd, const void *data, size_t len)
{
	return sal_write_all(fd, data, len) == 0 ? 0 : sal_err("%s", strerror(errno));
}

static size_t
elements(const struct sal_out_tensor *t)
{
	size_t count = 1;

	for (int d = 0; d < t->ndim; d++)
		count *= (size_t)t->dim[d];
	return count;
}

static int
put_tensor(int fd, const struct sal_out_tensor *t, bool bf16)
{
	uint16_t part[8192];
	size_t count = elements(t);

	if (!bf16)
		return put_all(fd, t->data, count * 4);
	for (size_t k = 0; k < count;) {
		size_t n = count - k < 8192 ? count - k : 8192;
		for (size_t i = 0; i < n; i++) {
			uint32_t u;
			memcpy(&u, &t->data[k + i], 4);
			if ((u & 0x7fffffff) > 0x7f800000) /* NaN stays NaN */
				part[i] = (uint16_t)(u >> 16 | 0x40);
			else
				part[i] = (uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
		}
		if (put_all(fd, part, n * 2) != 0)
			return -1;
		k += n;
	}
	return 0;
}

struct source {
	int (*fill)(void *ctx, int i, float *out);
	void *ctx;
};

/* Tensor i of t, made now if it has no data. */
static int
put_one(int fd, const struct sal_out_tensor *t, int i, bool bf16, const struct source *from)
{
	struct sal_out_tensor made = t[i];
	float *x;
	int rc = -1;

	if (t[i].data || from->fill == NULL)
		return put_tensor(fd, &t[i], bf16);
	if ((x = malloc((elements(&t[i]) + 1) * sizeof *x)) == NULL)
		return sal_err("tensor '%s': out of memory", t[i].name);
	made.data = x;
	if (from->fill(from->ctx, i, x) == 0)
		rc = put_tensor(fd, &made, bf16);
	free(x);
	return rc;
}

/* Rename in place and make that last. */
static int
put_in_place(const char *tmp, const char *path)
{
	const char *slash = strrchr(path, '/');
	char *dir = slash ? strndup(path, slash == path ? 1 : (size_t)(slash - path)) : strdup(".");
	int fd = dir ? open(dir, O_RDONLY | O_CLOEXEC) : -1, rc = 0;

	free(dir);
	if (fd < 0)
		return sal_err("%s", strerror(errno));
	if (rename(tmp, path) != 0)
		rc = sal_err("%s", strerror(errno));
	else if (fsync(fd) != 0 && errno != EINVAL && errno != ENOTSUP)
		rc = sal_err("%s", strerror(errno));
	close(fd);
	return rc;
}

/* As sal_write_file, but without the whole file in memory. */
static int
write_all(const char *path, const struct sal_buf *head, const struct sal_out_tensor *t, int n, bool bf16, const struct source *from)
{
	struct sal_buf tmp = { 0 };
	struct stat st;
	int rc;

	if (stat(path, &st) == 0 && !S_ISREG(st.st_mode))
		return sal_err("exists and is not a regular file");
	sal_buf_printf(&tmp, "%s.tmp.%ld", path, (long)getpid());
	if (tmp.failed) {
		sal_buf_free(&tmp);
		return sal_err("out of memory");
	}
	unlink(tmp.data); /* of a dead process with our number */
	int fd = open(tmp.data, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	if (fd < 0) {
		rc = sal_err("%s", strerror(errno));
	} else {
		rc = put_all(fd, head->data, head->len);
		for (int i = 0; rc == 0 && i < n; i++)
			rc = put_one(fd, t, i, bf16, from);
		if (rc == 0 && fsync(fd) != 0 && errno != EINVAL)
			rc = sal_err("%s", strerror(errno));
		if (close(fd) != 0 && rc == 0)
			rc = sal_err("%s", strerror(errno));
		if (rc == 0)
			rc = put_in_place(tmp.data, path);
		if (rc != 0)
			unlink(tmp.data);
	}
	sal_buf_free(&tmp);
	return rc;
}

int
sal_safetensors_write(const char *path, const struct sal_out_tensor *t, int n, bool bf16)
{
	return sal_safetensors_write_from(path, t, n, bf16, NULL, NULL);
}

int
sal_safetensors_write_from(const char *path, const struct sal_out_tensor *t, int n, bool bf16, int (*fill)(void *ctx, int i, float *out), void *ctx)
{
	struct source from = { fill, ctx };
	struct sal_buf head = { 0 };
	char why[512];
	int rc = make_header(&head, t, n, bf16);

	if (rc == 0)
		rc = write_all(path, &head, t, n, bf16, &from);
	if (rc != 0) {
		snprintf(why, sizeof why, "%s", sal_errmsg());
		sal_err("%s: %s", path, why);
	}
	sal_buf_free(&head);
	return rc;
}
