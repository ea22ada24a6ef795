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

/* ---- blocks -------------------------------------------------------------- */

static float
f16(const uint8_t *p)
{
	uint32_t h = (uint32_t)p[0] | (uint32_t)p[1] << 8, m = h & 0x7fff, sign = (h & 0x8000) << 16, u;
	float x;

	if (m >= 0x400) /* normal; infinity and NaN */
		u = (m << 13) + ((m >= 0x7c00 ? 224u : 112u) << 23);
	else { /* zero and subnormal: m * 2^-24, which is 0.5 with m added to its last bits, less 0.5 */
		u = 0x3f000000 | m;
		memcpy(&x, &u, 4);
		x -= 0.5f;
		memcpy(&u, &x, 4);
	}
	u |= sign;
	memcpy(&x, &u, 4);
	return x;
}

static void
q4_0(const uint8_t *b, float *y)
{
	float d = f16(b);

	for (int i = 0; i < 16; i++) {
		y[i] = d * (float)((b[2 + i] & 15) - 8);
		y[i + 16] = d * (float)((b[2 + i] >> 4) - 8);
	}
}

static void
q4_1(const uint8_t *b, float *y)
{
	float d = f16(b), m = f16(b + 2);

	for (int i = 0; i < 16; i++) {
		y[i] = d * (float)(b[4 + i] & 15) + m;
		y[i + 16] = d * (float)(b[4 + i] >> 4) + m;
	}
}

static void
q8_0(const uint8_t *b, float *y)
{
	float d = f16(b);

	for (int i = 0; i < 32; i++)
		y[i] = d * (float)(int8_t)b[2 + i];
}

/* Six-bit scale and minimum of group j of eight, out of twelve bytes. */
static void
scale_min(const uint8_t *q, int j, int *scale, int *min)
{
	if (j < 4) {
		*scale = q[j] & 63;
		*min = q[j + 4] & 63;
	} else {
		*scale = (q[j + 4] & 15) | (q[j - 4] >> 6) << 4;
		*min = q[j + 4] >> 4 | (q[j] >> 6) << 4;
	}
}

/* Q4_K, and Q5_K with its high bits qh. */
static void
k4_5(const uint8_t *b, const uint8_t *qh, const uint8_t *qs, float *y)
{
	float d = f16(b), dmin = f16(b + 2);

	for (int g = 0; g < 8; g++) {
		int scale, min;
		scale_min(b + 4, g, &scale, &min);
		for (int i = 0; i < 32; i++) {
			uint8_t v = qs[(g / 2) * 32 + i];
			int q = (g & 1 ? v >> 4 : v & 15) + (qh && (qh[i] >> g & 1) ? 16 : 0);
			y[g * 32 + i] = d * (float)scale * (float)q - dmin * (float)min;
		}
	}
}

static void q4_k(const uint8_t *b, float *y) { k4_5(b, NULL, b + 16, y); }
static void q5_k(const uint8_t *b, float *y) { k4_5(b, b + 16, b + 48, y); }

static void
q6_k(const uint8_t *b, float *y)
{
	const uint8_t *ql = b, *qh = b + 128;
	const int8_t *sc = (const int8_t *)(b + 192);
	float d = f16(b + 208);

	for (int h = 0; h < 2; h++, ql += 64, qh += 32, sc += 8, y += 128)
		for (int l = 0; l < 32; l++) {
			int is = l / 16;
			y[l] = d * (float)sc[is] * (float)((int)((ql[l] & 15) | (qh[l] & 3) << 4) - 32);
			y[l + 32] = d * (float)sc[is + 2] * (float)((int)((ql[l + 32] & 15) | (qh[l] >> 2 & 3) << 4) - 32);
			y[l + 64] = d * (float)sc[is + 4] * (float)((int)((ql[l] >> 4) | (qh[l] >> 4 & 3) << 4) - 32);
			y[l + 96] = d * (float)sc[is + 6] * (float)((int)((ql[l + 32] >> 4) | (qh[l] >> 6) << 4) - 32);
		}
}

int
sal_decode_rows(const struct sal_stored_tensor *t, int64_t row0, int64_t n, float *out)
{
	static void (*const block[])(const uint8_t *, float *) = { [SAL_ST_Q4_0] = q4_0, [SAL_ST_Q4_1] = q4_1, [SAL_ST_Q8_0] = q8_0,
		[SAL_ST_Q4_K] = q4_k, [SAL_ST_Q5_K] = q5_k, [SAL_ST_Q6_K] = q6_k };
	static const int bytes[] = { 4, 2, 2, 18, 20, 34, 144, 176, 210 }, elements[] = { 1, 1, 1, 32, 32, 32, 256, 256, 256 };
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
	int64_t from = row0 * row / elements[t->type], blocks = n * row / elements[t->type];
	const uint8_t *p = t->data + from * bytes[t->type];
	switch (t->type) {
	case SAL_ST_F32:
		memcpy(out, p, (size_t)blocks * 4);
		break;
	case SAL_ST_F16:
		for (int64_t i = 0; i < blocks; i++)
			out[i] = f16(p + 2 * i);
		break;
	case SAL_ST_BF16:
		for (int64_t i = 0; i < blocks; i++) {
			uint32_t u = (uint32_t)p[2 * i] << 16 | (uint32_t)p[2 * i + 1] << 24;
			memcpy(out + i, &u, 4);
		}
		break;
	default:
		for (int64_t i = 0; i < blocks; i++)
			block[t->type](p + i * bytes[t->type], out + i * elements[t->type]);
	}
	return 0;
}
