/* SPDX-License-Identifier: Apache-2.0 */
/* released.c - the release's answers and judgements by its own order of pairs. */
#include "lib/released.h"
#include <stdlib.h>
#include <string.h>

enum { SEED = 42, SHORTEST = 16 /* characters of an answer, as it came */ };

/* ---- Python's order: MT19937 (Matsumoto and Nishimura 1998), seeded by an array of one word ---- */

struct twister {
	uint32_t x[624];
	int at;
};

static void
twister_seed(struct twister *t, uint32_t seed)
{
	uint32_t *x = t->x;

	x[0] = 19650218;
	for (uint32_t i = 1; i < 624; i++)
		x[i] = 1812433253u * (x[i - 1] ^ x[i - 1] >> 30) + i;
	for (int k = 0, i = 1; k < 624; k++) {
		x[i] = (x[i] ^ (x[i - 1] ^ x[i - 1] >> 30) * 1664525u) + seed;
		if (++i == 624) {
			x[0] = x[623];
			i = 1;
		}
	}
	for (int k = 0, i = 2; k < 623; k++) {
		x[i] = (x[i] ^ (x[i - 1] ^ x[i - 1] >> 30) * 1566083941u) - (uint32_t)i;
		if (++i == 624) {
			x[0] = x[623];
			i = 1;
		}
	}
	x[0] = 0x80000000u;
	t->at = 624;
}

static uint32_t
twister_next(struct twister *t)
{
	uint32_t *x = t->x, y;

	if (t->at == 624) {
		for (int i = 0; i < 624; i++) {
			y = (x[i] & 0x80000000u) | (x[(i + 1) % 624] & 0x7FFFFFFFu);
			x[i] = x[(i + 397) % 624] ^ y >> 1 ^ (y & 1 ? 0x9908B0DFu : 0);
		}
		t->at = 0;
	}
	y = x[t->at++];
	y ^= y >> 11;
	y ^= y << 7 & 0x9D2C5680u;
	y ^= y << 15 & 0xEFC60000u;
	return y ^ y >> 18;
}

void
sal_python_shuffle(uint32_t seed, int *p, int n)
{
	struct twister t;

	twister_seed(&t, seed);
	for (int i = 0; i < n; i++)
		p[i] = i;
	for (int i = n - 1; i > 0; i--) {
		int bits = 0, swap = p[i];
		uint32_t j;
		while ((uint32_t)(i + 1) >> bits)
			bits++;
		do
			j = twister_next(&t) >> (32 - bits);
		while (j > (uint32_t)i);
		p[i] = p[j];
		p[j] = swap;
	}
}

/* ---- records ------------------------------------------------------------- */

static bool
is_judgement(const struct sal_record *r)
{
	return sal_json_has(r->json, "example_idx");
}

static const char *
generation(const cJSON *j)
{
	const cJSON *o = cJSON_GetObjectItemCaseSensitive(j, "output");

	return cJSON_IsObject(o) ? sal_json_str(o, "generation") : sal_json_str(j, "output");
}

int
sal_released_check(const struct sal_record *r)
{
	const cJSON *j = r->json, *s = cJSON_GetObjectItemCaseSensitive(j, "relative_score");
	int64_t at;

	if (!is_judgement(r))
		return sal_json_str(j, "instruction") && (!sal_json_has(j, "input") || sal_json_str(j, "input")) && generation(j) ? 0 : -1;
	if (sal_json_int(j, "example_idx", 0, INT32_MAX, &at) != 0 || sal_json_str(j, "dimension") == NULL)
		return -1;
	if (!cJSON_IsArray(s) || cJSON_GetArraySize(s) != 2 || !cJSON_IsNumber(cJSON_GetArrayItem(s, 0)) || !cJSON_IsNumber(cJSON_GetArrayItem(s, 1)))
		return sal_err("relative_score: not two numbers");
	return 0;
}

/* By instruction; where they are the same, as they came. */
static int
by_instruction(const void *a, const void *b)
{
	const struct sal_record *x = *(struct sal_record *const *)a, *y = *(struct sal_record *const *)b;
	int c = strcmp(sal_json_str(x->json, "instruction"), sal_json_str(y->json, "instruction"));

	return c ? c : (x->line > y->line) - (x->line < y->line);
}

static size_t
characters(const char *s)
{
	size_t n = 0;

	for (; *s; s++)
		n += ((unsigned char)*s & 0xC0) != 0x80;
	return n;
}

/* An answer up to the first heading, without white space at its ends. */
static int
add_answer(cJSON *o, const char *name, const char *s)
{
	const char *end = strstr(s, "###");
	char *t;

	end = end ? end : s + strlen(s);
	while (s < end && strchr(" \t\n\v\f\r", *s))
		s++;
	while (end > s && strchr(" \t\n\v\f\r", end[-1]))
		end--;
	t = strndup(s, (size_t)(end - s));
	bool good = t && cJSON_AddStringToObject(o, name, t);
	free(t);
	return good ? 0 : sal_err("out of memory");
}

static cJSON *
pair_of(const struct sal_record *a, const struct sal_record *b)
{
	cJSON *o = cJSON_CreateObject();

	if (!cJSON_AddStringToObject(o, "instruction", sal_json_str(a->json, "instruction")) ||
	    !cJSON_AddStringToObject(o, "input", sal_json_has(a->json, "input") ? sal_json_str(a->json, "input") : "") ||
	    add_answer(o, "output_1", generation(a->json)) != 0 || add_answer(o, "output_2", generation(b->json)) != 0 || !cJSON_AddObjectToObject(o, "judgements")) {
		sal_err("out of memory");
		cJSON_Delete(o);
		return NULL;
	}
	return o;
}

/* Pairs of both halves of the answers in the release's order. */
static int
pairs_of(struct sal_record **answer, int half, cJSON **pair, int *n)
{
	int *order = NULL, k = 0;
	cJSON **made = calloc((size_t)half + 1, sizeof *made);
	int rc = made ? 0 : sal_err("out of memory");

	qsort(answer, (size_t)half, sizeof *answer, by_instruction);
	qsort(answer + half, (size_t)half, sizeof *answer, by_instruction);
	for (int i = 0; rc == 0 && i < half; i++) {
		const struct sal_record *a = answer[i], *b = answer[half + i];
		if (strcmp(sal_json_str(a->json, "instruction"), sal_json_str(b->json, "instruction")) != 0)
			rc = sal_err("stdin:%ld: its instruction is not among those of the other run", a->line);
		else if (characters(generation(a->json)) >= SHORTEST && characters(generation(b->json)) >= SHORTEST && (made[k++] = pair_of(a, b)) == NULL)
			rc = -1;
	}
	if (rc == 0 && (order = malloc(((size_t)k + 1) * sizeof *order)) == NULL)
		rc = sal_err("out of memory");
	if (rc == 0)
		sal_python_shuffle(SEED, order, k);
	for (int i = 0; i < k; i++)
		if (rc == 0)
			pair[i] = made[order[i]];
		else
			cJSON_Delete(made[i]);
	free(order);
	free(made);
	*n = rc == 0 ? k : 0;
	return rc;
}

static int
add_judgement(cJSON *pair, const struct sal_record *r)
{
	cJSON *all = cJSON_GetObjectItemCaseSensitive(pair, "judgements"), *s = cJSON_Duplicate(cJSON_GetObjectItemCaseSensitive(r->json, "relative_score"), true);
	const char *name = sal_json_str(r->json, "dimension");

	cJSON_DeleteItemFromObjectCaseSensitive(all, name);
	return s && cJSON_AddItemToObject(all, name, s) ? 0 : sal_err("out of memory");
}

/* {"id": its place, ...} as a record. */
static struct sal_record *
record_of(cJSON *pair, int place)
{
	char *text;
	struct sal_record *r = NULL;

	if (!cJSON_AddNumberToObject(pair, "id", place) || (text = cJSON_PrintUnformatted(pair)) == NULL) {
		sal_err("out of memory");
		return NULL;
	}
	r = sal_record_parse(text, strlen(text), place + 1);
	cJSON_free(text);
	return r;
}

int
sal_released_join(struct sal_record **r, int n, struct sal_record ***pair, int *n_pairs)
{
	struct sal_record **answer = calloc((size_t)n + 1, sizeof *answer), **out = calloc((size_t)n + 1, sizeof *out);
	cJSON **j = calloc((size_t)n + 1, sizeof *j);
	int k = 0, pairs = 0, rc = answer && out && j ? 0 : sal_err("out of memory");
	int64_t at;

	*n_pairs = 0;
	for (int i = 0; rc == 0 && i < n; i++)
		if (!is_judgement(r[i]))
			answer[k++] = r[i];
	if (rc == 0 && k % 2)
		rc = sal_err("stdin: %d answers are not those of two runs, as many of each", k);
	if (rc == 0)
		rc = pairs_of(answer, k / 2, j, &pairs);
	for (int i = 0; rc == 0 && i < n; i++) {
		if (!is_judgement(r[i]))
			continue;
		if (sal_json_int(r[i]->json, "example_idx", 0, pairs - 1, &at) != 0)
			rc = sal_err("stdin:%ld: example_idx is beyond the %d pairs of the answers", r[i]->line, pairs);
		else
			rc = add_judgement(j[at], r[i]);
	}
	for (int i = 0; i < pairs; i++) {
		if (rc == 0 && cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(j[i], "judgements")) > 0 && (out[(*n_pairs)++] = record_of(j[i], i)) == NULL) {
			(*n_pairs)--;
			rc = -1;
		}
		cJSON_Delete(j[i]);
	}
	free(answer);
	free(j);
	if (rc != 0) {
		while (*n_pairs > 0)
			sal_record_free(out[--*n_pairs]);
		free(out);
		out = NULL;
	}
	*pair = out;
	return rc;
}
