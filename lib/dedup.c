/* SPDX-License-Identifier: Apache-2.0 */
/* dedup.c - the set of hashes, and MinHash with bands. */
#include "lib/dedup.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>
#include <xxhash.h>

#define GRAM 5
#define RECALL 0.9      /* of texts exactly at the threshold, among the candidates */
#define MAX_CANDIDATES 32 /* of one band: a template that thousands of texts share is compared with the first of them */

/* ---- texts seen ---------------------------------------------------------- */

struct sal_seen {
	uint64_t *slot; /* open addressing; 0: empty */
	size_t n, cap;  /* cap: a power of two */
	bool zero;      /* the hash 0 is in the set */
};

struct sal_seen *
sal_seen_new(void)
{
	struct sal_seen *s = calloc(1, sizeof *s);

	if (s && (s->slot = calloc(s->cap = 1024, sizeof *s->slot)) == NULL) {
		free(s);
		s = NULL;
	}
	if (s == NULL)
		sal_err("out of memory");
	return s;
}

void
sal_seen_free(struct sal_seen *s)
{
	if (s)
		free(s->slot);
	free(s);
}

/* Where hash is, or would be. */
static size_t
seen_at(const struct sal_seen *s, uint64_t hash)
{
	size_t i = hash & (s->cap - 1);

	while (s->slot[i] && s->slot[i] != hash)
		i = (i + 1) & (s->cap - 1);
	return i;
}

bool
sal_seen_has(const struct sal_seen *s, uint64_t hash)
{
	return hash ? s->slot[seen_at(s, hash)] == hash : s->zero;
}

static int
seen_grow(struct sal_seen *s)
{
	struct sal_seen more = { .n = s->n, .cap = s->cap * 2, .zero = s->zero };

	if ((more.slot = calloc(more.cap, sizeof *more.slot)) == NULL)
		return sal_err("out of memory");
	for (size_t i = 0; i < s->cap; i++)
		if (s->slot[i])
			more.slot[seen_at(&more, s->slot[i])] = s->slot[i];
	free(s->slot);
	*s = more;
	return 0;
}

int
sal_seen_add(struct sal_seen *s, uint64_t hash)
{
	if (sal_seen_has(s, hash))
		return 0;
	if (hash == 0) {
		s->zero = true;
		return 1;
	}
	if (s->n >= s->cap / 4 * 3 && seen_grow(s) != 0)
		return -1;
	s->slot[seen_at(s, hash)] = hash;
	s->n++;
	return 1;
}

/* ---- signatures ---------------------------------------------------------- */

/* Letters and digits in lower case, everything between them as one space: code points into p.  How many; -1: out of memory. */
static ptrdiff_t
normal(const char *text, size_t len, int32_t **out)
{
	int32_t *p = malloc((len + 1) * sizeof *p);
	ptrdiff_t n = 0;

	*out = p;
	if (p == NULL)
		return sal_err("out of memory");
	for (size_t i = 0; i < len;) {
		unsigned char b = (unsigned char)text[i];
		int32_t c = b;
		bool word;
		if (b < 0x80) {
			i++;
			c = b >= 'A' && b <= 'Z' ? b + 32 : b;
			word = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
		} else {
			utf8proc_ssize_t k = utf8proc_iterate((const utf8proc_uint8_t *)text + i, (utf8proc_ssize_t)(len - i), &c);
			utf8proc_category_t kind = k > 0 ? utf8proc_category(c) : UTF8PROC_CATEGORY_CN;
			i += k > 0 ? (size_t)k : 1;
			c = utf8proc_tolower(c);
			word = kind >= UTF8PROC_CATEGORY_LU && kind <= UTF8PROC_CATEGORY_NO; /* letters, marks, numbers */
		}
		if (word)
			p[n++] = c;
		else if (n && p[n - 1] != ' ')
			p[n++] = ' ';
	}
	return n && p[n - 1] == ' ' ? n - 1 : n;
}

int
sal_near_sign(const char *text, size_t len, struct sal_signature *out)
{
	uint32_t salt[SAL_NEAR_HASHES], min[SAL_NEAR_HASHES];
	int32_t *p;
	ptrdiff_t n = normal(text, len, &p);

	if (n < 0)
		return -1;
	for (uint32_t k = 0; k < SAL_NEAR_HASHES; k++) {
		salt[k] = (k + 1) * 0x9E3779B9u;
		salt[k] = (salt[k] ^ salt[k] >> 15) * 0x2C1B3C6Du;
		min[k] = UINT32_MAX;
	}
	for (ptrdiff_t i = 0; i == 0 || i + GRAM <= n; i++) {
		/* a text without a letter is its bytes */
		uint32_t h = (uint32_t)(n == 0 ? XXH3_64bits(text, len) : XXH3_64bits(p + i, (size_t)(n < GRAM ? n : GRAM) * sizeof *p));
		for (int k = 0; k < SAL_NEAR_HASHES; k++) {
			uint32_t x = (h ^ salt[k]) * 0x85EBCA6Bu;
			x = (x ^ x >> 15) * 0xC2B2AE35u;
			min[k] = x < min[k] ? x : min[k];
		}
	}
	for (int k = 0; k < SAL_NEAR_HASHES; k++)
		out->min[k] = (uint8_t)min[k];
	free(p);
	return 0;
}

double
sal_near_similarity(const struct sal_signature *a, const struct sal_signature *b)
{
	int same = 0;

	for (int k = 0; k < SAL_NEAR_HASHES; k++)
		same += a->min[k] == b->min[k];
	/* bytes of different minima agree once in 256 */
	double s = ((double)same / SAL_NEAR_HASHES - 1.0 / 256) / (255.0 / 256);
	return s > 0 ? s : 0;
}

/* ---- near duplicates ----------------------------------------------------- */

struct sal_near {
	double threshold;
	size_t rows, bands;
	struct sal_signature *kept;
	size_t n, cap;
	uint32_t *slot; /* open addressing by band: number of a signature, from 1; 0: empty */
	size_t n_slots, used;
};

struct sal_near *
sal_near_new(double threshold)
{
	struct sal_near *s = calloc(1, sizeof *s);

	if (s == NULL || (s->slot = calloc(s->n_slots = 1 << 14, sizeof *s->slot)) == NULL) {
		free(s);
		sal_err("out of memory");
		return NULL;
	}
	s->threshold = threshold;
	/* the widest bands that still find texts at the threshold */
	for (s->rows = 16; s->rows > 1; s->rows--)
		if (1 - pow(1 - pow(threshold, (double)s->rows), (double)(SAL_NEAR_HASHES / s->rows)) >= RECALL)
			break;
	s->bands = SAL_NEAR_HASHES / s->rows;
	return s;
}

void
sal_near_free(struct sal_near *s)
{
	if (s == NULL)
		return;
	free(s->kept);
	free(s->slot);
	free(s);
}

static size_t
band_at(const struct sal_near *s, const struct sal_signature *sig, size_t band)
{
	return XXH3_64bits_withSeed(sig->min + band * s->rows, s->rows, band) & (s->n_slots - 1);
}

/* Enter signature number i under each of its bands, unless a band has enough already. */
static void
enter(struct sal_near *s, size_t i)
{
	const struct sal_signature *sig = &s->kept[i];

	for (size_t b = 0; b < s->bands; b++) {
		size_t at = band_at(s, sig, b);
		int same = 0;
		for (; s->slot[at] && same < MAX_CANDIDATES; at = (at + 1) & (s->n_slots - 1))
			same += memcmp(s->kept[s->slot[at] - 1].min + b * s->rows, sig->min + b * s->rows, s->rows) == 0;
		if (same == MAX_CANDIDATES)
			continue;
		s->slot[at] = (uint32_t)i + 1;
		s->used++;
	}
}

static bool
is_near(const struct sal_near *s, const struct sal_signature *sig)
{
	for (size_t b = 0; b < s->bands; b++)
		for (size_t at = band_at(s, sig, b); s->slot[at]; at = (at + 1) & (s->n_slots - 1)) {
			const struct sal_signature *other = &s->kept[s->slot[at] - 1];
			if (memcmp(other->min + b * s->rows, sig->min + b * s->rows, s->rows) == 0 &&
			    sal_near_similarity(other, sig) >= s->threshold)
				return true;
		}
	return false;
}

/* Room for one more. */
static int
near_grow(struct sal_near *s)
{
	if (s->n == s->cap) {
		size_t cap = s->cap ? s->cap + s->cap / 2 : 1024;
		struct sal_signature *p = s->n < UINT32_MAX - 1 ? realloc(s->kept, cap * sizeof *p) : NULL;
		if (p == NULL)
			return sal_err("out of memory");
		s->kept = p;
		s->cap = cap;
	}
	if (s->used + s->bands > s->n_slots / 4 * 3) {
		uint32_t *p = calloc(s->n_slots * 2, sizeof *p);
		if (p == NULL)
			return sal_err("out of memory");
		free(s->slot);
		s->slot = p;
		s->n_slots *= 2;
		s->used = 0;
		for (size_t i = 0; i < s->n; i++)
			enter(s, i);
	}
	return 0;
}

int
sal_near_add(struct sal_near *s, const struct sal_signature *sig)
{
	if (is_near(s, sig))
		return 0;
	if (near_grow(s) != 0)
		return -1;
	s->kept[s->n] = *sig;
	enter(s, s->n++);
	return 1;
}
