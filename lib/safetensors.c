/* SPDX-License-Identifier: Apache-2.0 */
/*
 * safetensors.c - read one file or all shards of a folder, write one file.
 *
 * The tensors of a file form a chain: the first begins at 0, each begins where the last ended, the last ends with the file.
 * That one rule excludes overlap, holes, and offsets outside the file together.
 */
#include "lib/tensors.h"
#include "lib/jsonl.h"
#include <stdlib.h>
#include <string.h>

#define HEADER_MAX 100000000u

static const struct {
	const char *name;
	int bytes;
	enum sal_stored type;
} dtypes[] = {
	{ "F32", 4, SAL_ST_F32 }, { "F16", 2, SAL_ST_F16 }, { "BF16", 2, SAL_ST_BF16 }, { "F64", 8, SAL_ST_OTHER }, { "I64", 8, SAL_ST_OTHER },
	{ "I32", 4, SAL_ST_OTHER }, { "I16", 2, SAL_ST_OTHER }, { "I8", 1, SAL_ST_OTHER }, { "U64", 8, SAL_ST_OTHER }, { "U32", 4, SAL_ST_OTHER },
	{ "U16", 2, SAL_ST_OTHER }, { "U8", 1, SAL_ST_OTHER }, { "BOOL", 1, SAL_ST_OTHER }, { "F8_E4M3", 1, SAL_ST_OTHER }, { "F8_E5M2", 1, SAL_ST_OTHER },
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

/* Outside strings, no number of the header may have a fraction or an exponent. */
static bool
integers_only(const char *p, size_t n)
{
	bool string = false;

	for (size_t i = 0; i < n; i++) {
		if (string && p[i] == '\\')
			i++;
		else if (p[i] == '"')
			string = !string;
		else if (!string && (p[i] == '.' || ((p[i] == 'e' || p[i] == 'E') && i > 0 && p[i - 1] >= '0' && p[i - 1] <= '9')))
			return false;
	}
	return true;
}

static int
read_entry(const cJSON *e, struct sal_stored_tensor *t, struct chain *c)
{
	const cJSON *shape = cJSON_GetObjectItemCaseSensitive(e, "shape"), *off = cJSON_GetObjectItemCaseSensitive(e, "data_offsets"), *x;
	const char *dt;
	uint64_t bytes;
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
	bytes = (uint64_t)dtypes[k].bytes;
	if (!cJSON_IsArray(shape) || cJSON_GetArraySize(shape) > 8)
		return sal_err("shape is not a list of at most 8 dimensions");
	cJSON_ArrayForEach(x, shape)
	{
		uint64_t d;
		if (whole(x, &d) != 0)
			return sal_err("a dimension is not a whole number");
		t->dim[t->ndim++] = (int64_t)d;
		if (!sal_mul_ok(bytes, d, &bytes))
			return sal_err("the size does not fit 64 bits");
	}
	if (!cJSON_IsArray(off) || cJSON_GetArraySize(off) != 2 || whole(cJSON_GetArrayItem(off, 0), &c->begin) != 0 ||
	    whole(cJSON_GetArrayItem(off, 1), &c->end) != 0)
		return sal_err("data_offsets are not two whole numbers");
	if (c->end < c->begin || c->end - c->begin != bytes)
		return sal_err("shape needs %llu bytes, data_offsets give %lld", (unsigned long long)bytes, (long long)(c->end - c->begin));
	t->bytes = (size_t)bytes;
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
		return sal_err("out of memory");
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
	if (!integers_only(text, len))
		return sal_err("%s: the header has a number that is not an integer", path);
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
		sal_err("out of memory");
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
	FILE *f;
	int rc = -1;

	if (!s || !one || !index)
		sal_err("out of memory");
	else if ((f = fopen(index, "rb")) != NULL && fclose(f) == 0 && (f = fopen(one, "rb")) == NULL) {
		if ((j = sal_json_read(index)) != NULL)
			rc = add_shards(s, dir, index, cJSON_GetObjectItemCaseSensitive(j, "weight_map"));
	} else {
		if (f)
			fclose(f);
		rc = add_file(s, one);
	}
	cJSON_Delete(j);
	s = s ? finish(s, rc, dir) : NULL;
	free(one);
	free(index);
	return s;
}

int
sal_safetensors_write(const char *path, const struct sal_out_tensor *t, int n, bool bf16)
{
	struct sal_buf b = { 0 };
	uint64_t at = 0;
	uint8_t len[8];
	int rc;

	sal_buf_put(&b, "\0\0\0\0\0\0\0\0", 8);
	sal_buf_puts(&b, "{\"__metadata__\":{\"format\":\"pt\"}");
	for (int i = 0; i < n; i++) {
		uint64_t bytes = bf16 ? 2 : 4;
		sal_buf_printf(&b, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[", t[i].name, bf16 ? "BF16" : "F32");
		for (int d = 0; d < t[i].ndim; d++) {
			bytes *= (uint64_t)t[i].dim[d];
			sal_buf_printf(&b, "%s%lld", d ? "," : "", (long long)t[i].dim[d]);
		}
		sal_buf_printf(&b, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)at, (unsigned long long)(at + bytes));
		at += bytes;
	}
	sal_buf_puts(&b, "}");
	while (b.len % 8)
		sal_buf_puts(&b, " ");
	for (int i = 0; i < 8; i++)
		len[i] = (uint8_t)((uint64_t)(b.len - 8) >> (8 * i));
	if (!b.failed)
		memcpy(b.data, len, 8);
	for (int i = 0; i < n; i++) {
		size_t count = 1;
		for (int d = 0; d < t[i].ndim; d++)
			count *= (size_t)t[i].dim[d];
		if (!bf16) {
			sal_buf_put(&b, t[i].data, count * 4);
			continue;
		}
		for (size_t k = 0; k < count; k++) {
			uint32_t u;
			uint16_t h;
			memcpy(&u, &t[i].data[k], 4);
			h = (uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
			sal_buf_put(&b, &h, 2);
		}
	}
	rc = b.failed ? sal_err("out of memory") : sal_write_file(path, b.data, b.len);
	sal_buf_free(&b);
	return rc;
}
