/* SPDX-License-Identifier: Apache-2.0 */
/* tensors.c - sets of stored tensors, and the decoding of their elements and blocks. */
#include "lib/tensors.h"
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

void
sal_tensors_close(struct sal_tensors *s)
{
	if (s == NULL)
		return;
	for (int i = 0; i < s->n; i++)
		free(s->t[i].name);
	for (int i = 0; i < s->n_maps; i++)
		sal_map_close(s->map[i]);
	free(s->t);
	free(s->map);
	cJSON_Delete(s->meta);
	free(s->priv);
	free(s);
}

const struct sal_stored_tensor *
sal_tensors_find(const struct sal_tensors *s, const char *name)
{
	int lo = 0, hi = s->n;

	while (lo < hi) {
		int mid = lo + (hi - lo) / 2, c = strcmp(name, s->t[mid].name);
		if (c == 0)
			return &s->t[mid];
		if (c < 0)
			hi = mid;
		else
			lo = mid + 1;
	}
	return NULL;
}

void
sal_tensors_drop_pages(const struct sal_tensors *s)
{
	for (int i = 0; i < s->n_maps; i++)
		if (s->map[i]->size)
			madvise((void *)(uintptr_t)s->map[i]->data, s->map[i]->size, MADV_DONTNEED);
}

enum sal_form
sal_stored_form(const struct sal_stored_tensor *t)
{
	static const enum sal_form form[] = { [SAL_ST_Q4_0] = SAL_Q4_0, [SAL_ST_Q4_1] = SAL_Q4_1, [SAL_ST_Q8_0] = SAL_Q8_0,
		[SAL_ST_Q4_K] = SAL_Q4_K, [SAL_ST_Q5_K] = SAL_Q5_K, [SAL_ST_Q6_K] = SAL_Q6_K, [SAL_ST_OTHER] = SAL_PLAIN };

	return form[t->type];
}

int
sal_decode_rows(const struct sal_stored_tensor *t, int64_t row0, int64_t n, float *out)
{
	enum sal_form form = sal_stored_form(t);
	int64_t row = 1;

	if (t->type == SAL_ST_OTHER)
		return sal_err("tensor '%s' is stored as %s, which is not supported", t->name, t->type_name);
	int64_t rows = t->ndim > 1 ? t->dim[0] : 1;
	if (row0 < 0 || n < 0 || n > rows || row0 > rows - n)
		return sal_err("tensor '%s' has %lld rows, not %lld from %lld", t->name, (long long)rows, (long long)n, (long long)row0);
	if (t->bytes == 0 || n == 0)
		return 0;
	for (int i = t->ndim > 1 ? 1 : 0; i < t->ndim; i++) /* no dimension is 0: this fits, as the bytes do */
		row *= t->dim[i];
	int64_t from = row0 * row, count = n * row;
	const uint8_t *p = t->data + from * (t->type == SAL_ST_F32 ? 4 : 2);
	switch (t->type) {
	case SAL_ST_F32:
		memcpy(out, p, (size_t)count * 4);
		break;
	case SAL_ST_F16:
		for (int64_t i = 0; i < count; i++)
			out[i] = sal_f16(p + 2 * i);
		break;
	case SAL_ST_BF16:
		for (int64_t i = 0; i < count; i++) {
			uint32_t u = (uint32_t)p[2 * i] << 16 | (uint32_t)p[2 * i + 1] << 24;
			memcpy(out + i, &u, 4);
		}
		break;
	default:
		sal_blocks_decode(form, t->data, rows * row, from, count, out);
	}
	return 0;
}
