/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tokenizer.c - byte-level and SentencePiece-style BPE, from tokenizer.json or the metadata of a GGUF file.
 *
 * A text goes through: added tokens taken out as written, normalizer, added tokens of normalized spelling, pre-tokenizer,
 * BPE of each word.  The usual word patterns are scanned by hand; others run on PCRE2 with limits.
 * BPE is a linked list of symbols and a heap of possible merges: O(n log n).
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "lib/tokenizer.h"

#include "lib/jsonl.h"

#include <math.h>
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#define MAX_STEPS 32
#define GROWTH 64 /* a text normalized or decoded is at most this many times as long: a chain of replacements could double it 32 times */
#define NONE UINT32_MAX
#define LOWER "\xe2\x96\x81" /* U+2581, SentencePiece's space */

enum { SPECIAL = 1, ADDED = 2, EXTRA = 4 }; /* EXTRA: not in the model's own vocabulary, never made by BPE */
enum norm_kind { NORM_NFC, NORM_NFD, NORM_NFKC, NORM_NFKD, NORM_PREPEND, NORM_REPLACE };
enum pre_kind { PRE_GPT2, PRE_LLAMA, PRE_REGEX, PRE_DIGITS, PRE_BYTES, PRE_META };
enum dec_kind { DEC_BYTES, DEC_REPLACE, DEC_FALLBACK, DEC_FUSE, DEC_STRIP, DEC_META };

struct step { /* of a normalizer, pre-tokenizer or decoder */
	int kind;
	char *from, *to;
	int start, stop; /* STRIP; DIGITS: start = individual; LLAMA: start = longest run of digits; META: start = 0 never, 1 first, 2 always, stop = split */
	bool keep_matches; /* REGEX: only matches are words */
	bool prefix;     /* BYTES: add_prefix_space */
	pcre2_code *re;
};
struct piece { size_t off; uint32_t len; uint8_t flags; };
struct added { char *s; size_t len; int32_t id; bool special, lstrip, rstrip, single; };
struct addeds { struct added *a; int n; };
struct merge { uint64_t pair; uint32_t rank; int32_t id; };

struct sal_tokenizer {
	char *path;
	struct sal_buf text;
	struct piece *piece;
	int n; /* ids are 0 .. n-1 */
	int32_t *slot; /* hash table of pieces */
	size_t mask;
	struct merge *merge; /* hash table of merges; pair UINT64_MAX: empty */
	size_t merge_mask;
	uint32_t *rank; /* SentencePiece of GGUF: rank of each piece by score; NULL: merges */
	struct addeds raw, norm; /* sorted by text; found before and after normalizing */
	struct step normalizer[MAX_STEPS], pre[MAX_STEPS], dec[MAX_STEPS];
	int n_norm, n_pre, n_dec;
	bool no_decoder, bytes, byte_fallback, fuse_unk, ignore_merges;
	int32_t unk, byte_id[256];
	int bos;
	bool adds_bos;
	struct sal_ids eos;
	char *chat;
};

/* ---- bytes of the byte-level alphabet ------------------------------------ */

static bool
printable(unsigned b)
{
	return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
}

/* The code point that stands for a byte: itself, or 256 and up in order. */
static uint32_t
byte_char(unsigned b)
{
	if (printable(b))
		return b;
	if (b <= 32)
		return 256 + b;
	return b <= 160 ? 256 + 33 + (b - 127) : 256 + 67;
}

static int
char_byte(uint32_t c)
{
	if (c < 256)
		return printable(c) ? (int)c : -1;
	c -= 256;
	if (c <= 32)
		return (int)c;
	if (c <= 66)
		return (int)(c - 33 + 127);
	return c == 67 ? 173 : -1;
}

/* ---- UTF-8 ---------------------------------------------------------------- */

/* Length of the valid sequence at p, or minus the length of the maximal invalid prefix (Rust's lossy decoding). */
static int
utf8_at(const uint8_t *p, size_t n, uint32_t *cp)
{
	unsigned lo = 0x80, hi = 0xbf, c = p[0];
	int need;
	uint32_t v;

	if (c < 0x80) {
		*cp = c;
		return 1;
	}
	if (c >= 0xc2 && c <= 0xdf) {
		need = 1;
		v = c & 0x1f;
	} else if (c >= 0xe0 && c <= 0xef) {
		need = 2;
		v = c & 0x0f;
		lo = c == 0xe0 ? 0xa0 : 0x80;
		hi = c == 0xed ? 0x9f : 0xbf;
	} else if (c >= 0xf0 && c <= 0xf4) {
		need = 3;
		v = c & 0x07;
		lo = c == 0xf0 ? 0x90 : 0x80;
		hi = c == 0xf4 ? 0x8f : 0xbf;
	} else {
		return -1;
	}
	for (int i = 1; i <= need; i++) {
		if ((size_t)i >= n || p[i] < lo || p[i] > hi)
			return -i;
		v = v << 6 | (p[i] & 0x3f);
		lo = 0x80;
		hi = 0xbf;
	}
	*cp = v;
	return need + 1;
}

static bool
utf8_ok(const char *s, size_t n)
{
	uint32_t cp;
	for (size_t i = 0; i < n;) {
		int k = utf8_at((const uint8_t *)s + i, n - i, &cp);
		if (k < 0)
			return false;
		i += (size_t)k;
	}
	return true;
}

static int
utf8_put(uint32_t c, char *o)
{
	return (int)utf8proc_encode_char((utf8proc_int32_t)c, (utf8proc_uint8_t *)o);
}

/* The code point at i of valid text; *len its bytes. */
static uint32_t
cp_at(const char *s, size_t n, size_t i, size_t *len)
{
	uint32_t cp = 0xfffd;
	int k = utf8_at((const uint8_t *)s + i, n - i, &cp);
	*len = (size_t)(k < 0 ? -k : k);
	return cp;
}

static bool
is_space(uint32_t c)
{
	return (c >= 9 && c <= 13) || c == 32 || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 ||
	       c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

/* 'L' letter, 'N' number, 'S' white space, 'O' other. */
static int
class_of(uint32_t c)
{
	if (c < 128) {
		if ((c | 32) >= 'a' && (c | 32) <= 'z')
			return 'L';
		return c >= '0' && c <= '9' ? 'N' : is_space(c) ? 'S' : 'O';
	}
	if (is_space(c))
		return 'S';
	utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
	if (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO)
		return 'L';
	return k >= UTF8PROC_CATEGORY_ND && k <= UTF8PROC_CATEGORY_NO ? 'N' : 'O';
}

static bool
is_word(uint32_t c) /* \w of the regex crate: letters, marks, decimal numbers, letter numbers, connectors, joiners */
{
	utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
	return (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_ME) || k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_NL ||
	       k == UTF8PROC_CATEGORY_PC || c == 0x200c || c == 0x200d || (c >= 0x24b6 && c <= 0x24e9) || (c >= 0x1f130 && c <= 0x1f149) ||
	       (c >= 0x1f150 && c <= 0x1f169) || (c >= 0x1f170 && c <= 0x1f189);
}

/* ---- table of pieces ------------------------------------------------------- */

static const char *
piece_text(const struct sal_tokenizer *tk, int32_t id)
{
	return tk->text.data + tk->piece[id].off;
}

static int32_t
find(const struct sal_tokenizer *tk, const char *s, size_t n)
{
	for (size_t h = sal_hash(s, n) & tk->mask;; h = (h + 1) & tk->mask) {
		int32_t id = tk->slot[h];
		if (id < 0 || (tk->piece[id].len == n && memcmp(piece_text(tk, id), s, n) == 0))
			return id;
	}
}

static bool
alloc_pieces(struct sal_tokenizer *tk, size_t n)
{
	size_t cap = 16;

	while (cap < n * 2)
		cap *= 2;
	tk->n = (int)n;
	tk->mask = cap - 1;
	tk->slot = malloc(cap * sizeof *tk->slot);
	tk->piece = malloc((n + 1) * sizeof *tk->piece);
	if (!tk->slot || !tk->piece)
		return false;
	memset(tk->slot, 0xff, cap * sizeof *tk->slot);
	for (size_t i = 0; i < n; i++)
		tk->piece[i] = (struct piece){ 0, NONE, 0 };
	sal_buf_put(&tk->text, "", 0);
	return true;
}

static int
add_piece(struct sal_tokenizer *tk, const char *s, size_t n, int32_t id)
{
	struct piece *p = &tk->piece[id];
	size_t h;

	if (p->len != NONE)
		return sal_err("%s: two tokens with id %d", tk->path, (int)id);
	if (n >= INT32_MAX)
		return sal_err("%s: token %d is too long", tk->path, (int)id);
	for (h = sal_hash(s, n) & tk->mask; tk->slot[h] >= 0; h = (h + 1) & tk->mask) {
		struct piece *o = &tk->piece[tk->slot[h]];
		if (o->len == n && memcmp(tk->text.data + o->off, s, n) == 0)
			return sal_err("%s: token %d is token %d again", tk->path, (int)id, (int)tk->slot[h]);
	}
	p->off = tk->text.len;
	p->len = (uint32_t)n;
	sal_buf_put(&tk->text, s, n);
	if (tk->text.failed || !tk->text.data)
		return sal_err("out of memory");
	tk->slot[h] = id;
	return 0;
}

static struct merge *
merge_at(const struct sal_tokenizer *tk, int32_t a, int32_t b)
{
	uint64_t pair = (uint64_t)(uint32_t)a << 32 | (uint32_t)b, x = pair * 0x9e3779b97f4a7c15u;
	size_t h = (size_t)(x >> 20) & tk->merge_mask;

	while (tk->merge[h].pair != UINT64_MAX && tk->merge[h].pair != pair)
		h = (h + 1) & tk->merge_mask;
	return &tk->merge[h];
}

static bool
alloc_merges(struct sal_tokenizer *tk, size_t n)
{
	size_t cap = 16;

	while (cap < n * 2)
		cap *= 2;
	tk->merge_mask = cap - 1;
	if ((tk->merge = malloc(cap * sizeof *tk->merge)) == NULL)
		return false;
	for (size_t i = 0; i < cap; i++)
		tk->merge[i].pair = UINT64_MAX;
	return true;
}

static int
add_merge(struct sal_tokenizer *tk, const char *a, size_t na, const char *b, size_t nb, uint32_t rank, struct sal_buf *tmp)
{
	tmp->len = 0;
	sal_buf_put(tmp, a, na);
	sal_buf_put(tmp, b, nb);
	if (tmp->failed)
		return sal_err("out of memory");
	int32_t x = find(tk, a, na), y = find(tk, b, nb), z = find(tk, tmp->data, tmp->len);
	if (na == 0 || nb == 0 || x < 0 || y < 0 || z < 0)
		return sal_err("%s: merge %u joins or makes a token that is not in the vocabulary", tk->path, rank);
	if (tk->piece[z].flags & SPECIAL)
		return 0; /* taken out before; never made from content */
	struct merge *m = merge_at(tk, x, y);
	*m = (struct merge){ (uint64_t)(uint32_t)x << 32 | (uint32_t)y, rank, z };
	return 0;
}

/* "a b" as one string. */
static int
add_merge_string(struct sal_tokenizer *tk, const char *s, size_t n, uint32_t rank, struct sal_buf *tmp)
{
	const char *sp = n ? memchr(s, ' ', n) : NULL;
	if (!sp || memchr(sp + 1, ' ', n - (size_t)(sp + 1 - s)))
		return sal_err("%s: merge %u is not two tokens with a space between", tk->path, rank);
	return add_merge(tk, s, (size_t)(sp - s), sp + 1, n - (size_t)(sp + 1 - s), rank, tmp);
}

/* ---- added tokens ---------------------------------------------------------- */

static int
added_cmp(const void *x, const void *y)
{
	const struct added *a = x, *b = y;
	size_t n = a->len < b->len ? a->len : b->len;
	int c = memcmp(a->s, b->s, n);
	return c ? c : (a->len > b->len) - (a->len < b->len);
}

static int
put_added(struct addeds *l, const struct added *a, const char *s, size_t n)
{
	if ((l->n & (l->n - 1)) == 0) {
		struct added *p = realloc(l->a, (size_t)(l->n ? l->n * 2 : 1) * sizeof *p);
		if (!p)
			return sal_err("out of memory");
		l->a = p;
	}
	char *copy = malloc(n + 1);
	if (!copy)
		return sal_err("out of memory");
	memcpy(copy, s, n);
	copy[n] = 0;
	l->a[l->n] = *a;
	l->a[l->n].s = copy;
	l->a[l->n++].len = n;
	return 0;
}

static bool
overlaps(size_t start, size_t end, const struct sal_span *sp, int n)
{
	int lo = 0, hi = n; /* first span that ends after start */
	while (lo < hi) {
		int mid = (lo + hi) / 2;
		if (sp[mid].end > start)
			hi = mid;
		else
			lo = mid + 1;
	}
	return lo < n && sp[lo].start < end && sp[lo].start < sp[lo].end;
}

/* The longest added token at s[pos] that may stand there; NULL: none.  Narrows the sorted list byte by byte. */
static const struct added *
added_at(const struct addeds *l, const char *s, size_t n, size_t pos, const struct sal_span *sp, int n_sp)
{
	const struct added *best = NULL;
	int lo = 0, hi = l->n;

	for (size_t d = 0; lo < hi; d++) {
		while (lo < hi && l->a[lo].len == d) {
			const struct added *a = &l->a[lo++];
			if (d && (!a->special || !overlaps(pos, pos + d, sp, n_sp)))
				best = a;
		}
		if (pos + d >= n || lo >= hi)
			break;
		int c = (unsigned char)s[pos + d], x = lo, y = hi;
		while (x < y) {
			int m = (x + y) / 2;
			if ((unsigned char)l->a[m].s[d] < c)
				x = m + 1;
			else
				y = m;
		}
		lo = x;
		y = hi;
		while (x < y) {
			int m = (x + y) / 2;
			if ((unsigned char)l->a[m].s[d] <= c)
				x = m + 1;
			else
				y = m;
		}
		hi = x;
	}
	return best;
}

/* ---- BPE ------------------------------------------------------------------- */

struct sym { uint32_t start, len; int32_t prev, next, id; };
struct cand { uint64_t key; int32_t id; }; /* rank << 32 | position */
struct work { /* of one call */
	const struct sal_tokenizer *tk;
	struct sal_ids *out;
	struct sym *sym;
	struct cand *heap;
	size_t n, cap, n_heap, cap_heap;
	struct sal_buf tmp;
	pcre2_match_data *md;
	pcre2_match_context *mc;
	pcre2_jit_stack *stack;
};

static int
push_sym(struct work *w, size_t start, size_t len, int32_t id)
{
	if (w->n == w->cap) {
		size_t cap = w->cap ? w->cap * 2 : 256;
		struct sym *p = cap < INT32_MAX ? realloc(w->sym, cap * sizeof *p) : NULL;
		if (!p)
			return sal_err("out of memory");
		w->sym = p;
		w->cap = cap;
	}
	w->sym[w->n] = (struct sym){ (uint32_t)start, (uint32_t)len, (int32_t)w->n - 1, (int32_t)w->n + 1, id };
	w->n++;
	return 0;
}

/* The merge of symbol i with the next; false: none. */
static bool
merge_of(const struct work *w, const char *s, int32_t i, uint32_t *rank, int32_t *id)
{
	const struct sal_tokenizer *tk = w->tk;
	const struct sym *a = &w->sym[i], *b = &w->sym[a->next];

	if (tk->rank) {
		*id = find(tk, s + a->start, a->len + b->len);
		if (*id < 0 || tk->piece[*id].flags & SPECIAL)
			return false;
		*rank = tk->rank[*id];
		return true;
	}
	const struct merge *m = merge_at(tk, a->id, b->id);
	*rank = m->rank;
	*id = m->id;
	return m->pair != UINT64_MAX;
}

static int
push_cand(struct work *w, const char *s, int32_t i)
{
	uint32_t rank;
	int32_t id;
	size_t k;

	if (i < 0 || w->sym[i].next >= (int32_t)w->n || !merge_of(w, s, i, &rank, &id))
		return 0;
	if (w->n_heap == w->cap_heap) {
		size_t cap = w->cap_heap ? w->cap_heap * 2 : 256;
		struct cand *p = realloc(w->heap, cap * sizeof *p);
		if (!p)
			return sal_err("out of memory");
		w->heap = p;
		w->cap_heap = cap;
	}
	struct cand c = { (uint64_t)rank << 32 | (uint32_t)i, id };
	for (k = w->n_heap++; k && w->heap[(k - 1) / 2].key > c.key; k = (k - 1) / 2)
		w->heap[k] = w->heap[(k - 1) / 2];
	w->heap[k] = c;
	return 0;
}

static struct cand
pop_cand(struct work *w)
{
	struct cand top = w->heap[0], last = w->heap[--w->n_heap];
	size_t k = 0, c;

	while ((c = 2 * k + 1) < w->n_heap) {
		if (c + 1 < w->n_heap && w->heap[c + 1].key < w->heap[c].key)
			c++;
		if (w->heap[c].key >= last.key)
			break;
		w->heap[k] = w->heap[c];
		k = c;
	}
	if (w->n_heap)
		w->heap[k] = last;
	return top;
}

static int
merge_all(struct work *w, const char *s)
{
	uint32_t rank;
	int32_t id;

	w->n_heap = 0;
	for (size_t i = 0; i + 1 < w->n; i++)
		if (push_cand(w, s, (int32_t)i) != 0)
			return -1;
	while (w->n_heap) {
		struct cand c = pop_cand(w);
		int32_t i = (int32_t)(uint32_t)c.key;
		struct sym *a = &w->sym[i];
		if (a->len == 0 || a->next >= (int32_t)w->n || !merge_of(w, s, i, &rank, &id) || id != c.id)
			continue;
		struct sym *b = &w->sym[a->next];
		a->len += b->len;
		a->id = id;
		b->len = 0;
		a->next = b->next;
		if (a->next < (int32_t)w->n)
			w->sym[a->next].prev = i;
		if (push_cand(w, s, a->prev) != 0 || push_cand(w, s, i) != 0)
			return -1;
	}
	return 0;
}

static int
put_bytes(struct work *w, const char *s, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (sal_ids_push(w->out, w->tk->byte_id[(unsigned char)s[i]]) != 0)
			return sal_err("out of memory");
	return 0;
}

static bool
have_bytes(const struct sal_tokenizer *tk, const char *s, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (tk->byte_id[(unsigned char)s[i]] < 0)
			return false;
	return true;
}

/* The symbols that a word begins as. */
static int
symbols(struct work *w, const char *s, size_t n)
{
	const struct sal_tokenizer *tk = w->tk;
	size_t len, unk_start = 0, unk_len = 0;

	w->n = 0;
	if (tk->bytes) {
		for (size_t i = 0; i < n; i++) { /* a byte without token (rare: controls, planes never seen) is left out as in `tokenizers` */
			int32_t id = tk->byte_id[(unsigned char)s[i]];
			if (id < 0)
				id = tk->unk;
			if (id >= 0 && push_sym(w, i, 1, id) != 0)
				return -1;
		}
		return 0;
	}
	for (size_t i = 0; i < n; i += len) {
		uint32_t c = cp_at(s, n, i, &len);
		int32_t id = find(tk, s + i, len);
		if (id >= 0 && tk->piece[id].flags & (tk->rank ? SPECIAL : EXTRA))
			id = -1;
		if (id >= 0) {
			if (unk_len && push_sym(w, unk_start, unk_len, tk->unk) != 0)
				return -1;
			unk_len = 0;
			if (push_sym(w, i, len, id) != 0)
				return -1;
		} else if (tk->rank) { /* bytes come out after the merges: a longer piece may hold this character */
			if (push_sym(w, i, len, -1) != 0)
				return -1;
		} else if (tk->byte_fallback && have_bytes(tk, s + i, len)) {
			for (size_t k = 0; k < len; k++)
				if (push_sym(w, i + k, 1, tk->byte_id[(unsigned char)s[i + k]]) != 0)
					return -1;
		} else if (tk->unk >= 0) {
			if (unk_len && !tk->fuse_unk) {
				if (push_sym(w, unk_start, unk_len, tk->unk) != 0)
					return -1;
				unk_len = 0;
			}
			if (unk_len == 0)
				unk_start = i;
			unk_len += len;
		} else {
			return sal_err("character U+%04X has no token", c);
		}
	}
	return unk_len ? push_sym(w, unk_start, unk_len, tk->unk) : 0;
}

static int
word(struct work *w, const char *s, size_t n)
{
	const struct sal_tokenizer *tk = w->tk;

	if (n == 0)
		return 0;
	if (n >= INT32_MAX)
		return sal_err("text of more than 2 GiB");
	if (tk->ignore_merges) {
		const char *p = s;
		size_t len = n;
		if (tk->bytes) {
			char u[4];
			w->tmp.len = 0;
			for (size_t i = 0; i < n; i++)
				sal_buf_put(&w->tmp, u, (size_t)utf8_put(byte_char((unsigned char)s[i]), u));
			if (w->tmp.failed)
				return sal_err("out of memory");
			p = w->tmp.data;
			len = w->tmp.len;
		}
		int32_t id = find(tk, p, len);
		if (id >= 0 && !(tk->piece[id].flags & (SPECIAL | EXTRA)))
			return sal_ids_push(w->out, id) == 0 ? 0 : sal_err("out of memory");
	}
	if (symbols(w, s, n) != 0 || merge_all(w, s) != 0)
		return -1;
	for (int32_t i = 0; i < (int32_t)w->n; i = w->sym[i].next) {
		const struct sym *y = &w->sym[i];
		if (y->id < 0 && have_bytes(tk, s + y->start, y->len)) {
			if (put_bytes(w, s + y->start, y->len) != 0)
				return -1;
			continue;
		}
		if (y->id < 0 && tk->unk < 0)
			return sal_err("a character of the text has no token");
		if (sal_ids_push(w->out, y->id < 0 ? tk->unk : y->id) != 0)
			return sal_err("out of memory");
	}
	return 0;
}

/* ---- words ----------------------------------------------------------------- */

static size_t
run_of(const char *s, size_t n, size_t i, int class)
{
	size_t len;
	while (i < n && class_of(cp_at(s, n, i, &len)) == class)
		i += len;
	return i;
}

/* Length of 's 't 're 've 'm 'll 'd at i, 0: none. */
static size_t
contraction(const char *s, size_t n, size_t i, bool any_case)
{
	if (i + 1 >= n || s[i] != '\'')
		return 0;
	const char *p = s + i + 1;
	size_t left = n - i - 1;
	char a = p[0], b = left > 1 ? p[1] : 0;
	if (any_case) {
		if (left > 1 && memcmp(p, "\xc5\xbf", 2) == 0) /* long s folds to s */
			return 3;
		a = a >= 'A' && a <= 'Z' ? (char)(a | 32) : a;
		b = b >= 'A' && b <= 'Z' ? (char)(b | 32) : b;
	}
	if (a == 's' || a == 't' || a == 'm' || a == 'd')
		return 2;
	return (b == 'e' && (a == 'r' || a == 'v')) || (a == 'l' && b == 'l') ? 3 : 0;
}

/* \s+(?!\S)|\s+ at i, where white space begins and ends at e. */
static size_t
spaces(const char *s, size_t i, size_t e, size_t n)
{
	size_t last = e;
	if (e == n)
		return e;
	do
		last--;
	while (((unsigned char)s[last] & 0xc0) == 0x80);
	return last > i ? last : e;
}

/* End of the word at i under GPT-2's pattern. */
static size_t
word_gpt2(const char *s, size_t n, size_t i)
{
	size_t len, k = contraction(s, n, i, false), j = i;
	if (k)
		return i + k;
	if (s[i] == ' ' && i + 1 < n)
		j = i + 1;
	int c = class_of(cp_at(s, n, j, &len));
	if (c != 'S')
		return run_of(s, n, j, c);
	return spaces(s, i, run_of(s, n, i, 'S'), n);
}

/* End of the word at i under the pattern of Llama 3 and Qwen 2, which differ in the longest run of digits. */
static size_t
word_llama(const char *s, size_t n, size_t i, int digits)
{
	size_t len, len2, k = contraction(s, n, i, true);
	if (k)
		return i + k;
	uint32_t cp = cp_at(s, n, i, &len);
	int c = class_of(cp);
	if (c == 'L')
		return run_of(s, n, i, 'L');
	if (c == 'N') {
		for (k = i; digits > 0 && k < n && class_of(cp_at(s, n, k, &len)) == 'N'; digits--)
			k += len;
		return k;
	}
	if (cp != '\r' && cp != '\n' && i + len < n && class_of(cp_at(s, n, i + len, &len2)) == 'L')
		return run_of(s, n, i + len, 'L');
	k = cp == ' ' ? i + 1 : i;
	if (k < n && class_of(cp_at(s, n, k, &len2)) == 'O') {
		k = run_of(s, n, k, 'O');
		while (k < n && (s[k] == '\r' || s[k] == '\n'))
			k++;
		return k;
	}
	size_t e = run_of(s, n, i, 'S');
	for (k = e; k > i; k--)
		if (s[k - 1] == '\r' || s[k - 1] == '\n')
			return k;
	return spaces(s, i, e, n);
}

static int pretokenize(struct work *w, int step, const char *s, size_t n, bool first);

static int
split_regex(struct work *w, int step, const char *s, size_t n, bool first)
{
	const struct step *t = &w->tk->pre[step];
	size_t at = 0, from = 0, len;

	if (!w->md) {
		w->md = pcre2_match_data_create(1, NULL);
		w->mc = pcre2_match_context_create(NULL);
		w->stack = pcre2_jit_stack_create(32 << 10, 16 << 20, NULL);
		if (!w->md || !w->mc)
			return sal_err("out of memory");
		if (w->stack)
			pcre2_jit_stack_assign(w->mc, NULL, w->stack);
		pcre2_set_match_limit(w->mc, 10000000);
		pcre2_set_heap_limit(w->mc, 256 << 10);
	}
	while (at < n) {
		int rc = pcre2_match(t->re, (PCRE2_SPTR)s, n, at, PCRE2_NO_UTF_CHECK, w->md, w->mc);
		if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
			rc = pcre2_match(t->re, (PCRE2_SPTR)s, n, at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, w->md, w->mc);
		if (rc == PCRE2_ERROR_NOMATCH)
			break;
		if (rc < 0)
			return sal_err("%s: the pre_tokenizer's pattern is too slow on this text (PCRE2 error %d)", w->tk->path, rc);
		PCRE2_SIZE *o = pcre2_get_ovector_pointer(w->md);
		if (o[1] <= o[0] || o[0] < at) { /* empty */
		at = o[1] > at ? o[1] : at;
			if (at < n) {
				cp_at(s, n, at, &len);
				at += len;
			}
			continue;
		}
		if (o[0] > from && !t->keep_matches && pretokenize(w, step + 1, s + from, o[0] - from, first && from == 0) != 0)
			return -1;
		if (pretokenize(w, step + 1, s + o[0], o[1] - o[0], first && o[0] == 0) != 0)
			return -1;
		at = from = o[1];
	}
	return from < n && !t->keep_matches ? pretokenize(w, step + 1, s + from, n - from, first && from == 0) : 0;
}

static int
split_metaspace(struct work *w, int step, const char *s, size_t n, bool first)
{
	const struct step *t = &w->tk->pre[step];
	size_t k = strlen(t->from), from = 0;
	struct sal_buf b = { 0 };
	int rc = 0;

	if ((t->start == 2 || (t->start == 1 && first)) && !(n >= k && memcmp(s, t->from, k) == 0) && s[0] != ' ')
		sal_buf_puts(&b, t->from);
	for (size_t i = 0, j; i < n; i = j) {
		for (j = i; j < n && s[j] != ' ';)
			j++;
		sal_buf_put(&b, s + i, j - i);
		if (j < n) {
			sal_buf_puts(&b, t->from);
			j++;
		}
	}
	if (b.failed) {
		sal_buf_free(&b);
		return sal_err("out of memory");
	}
	if (!t->stop) {
		rc = pretokenize(w, step + 1, b.data, b.len, first);
	} else { /* each replacement begins a word */
		for (size_t i = 1; rc == 0 && i <= b.len; i++)
			if (i == b.len || (i + k <= b.len && memcmp(b.data + i, t->from, k) == 0)) {
				rc = pretokenize(w, step + 1, b.data + from, i - from, first && from == 0);
				from = i;
			}
	}
	sal_buf_free(&b);
	return rc;
}

static int
split_digits(struct work *w, int step, const char *s, size_t n, bool first)
{
	bool one = w->tk->pre[step].start;
	size_t len;

	for (size_t i = 0, j; i < n; i = j) {
		bool digit = class_of(cp_at(s, n, i, &len)) == 'N';
		for (j = i + len; j < n && !(digit && one) && (class_of(cp_at(s, n, j, &len)) == 'N') == digit; j += len)
			;
		if (pretokenize(w, step + 1, s + i, j - i, first && i == 0) != 0)
			return -1;
	}
	return 0;
}

static int
split_bytes(struct work *w, int step, const char *s, size_t n)
{
	if (w->tk->pre[step].prefix && s[0] != ' ') {
		struct sal_buf b = { 0 };
		sal_buf_put(&b, " ", 1);
		sal_buf_put(&b, s, n);
		int rc = b.failed ? sal_err("out of memory") : pretokenize(w, step + 1, b.data, b.len, false);
		sal_buf_free(&b);
		return rc;
	}
	return pretokenize(w, step + 1, s, n, false);
}

static int
pretokenize(struct work *w, int step, const char *s, size_t n, bool first)
{
	const struct step *t = &w->tk->pre[step];

	if (n == 0)
		return 0;
	if (step == w->tk->n_pre)
		return word(w, s, n);
	switch (t->kind) {
	case PRE_REGEX:
		return split_regex(w, step, s, n, first);
	case PRE_META:
		return split_metaspace(w, step, s, n, first);
	case PRE_DIGITS:
		return split_digits(w, step, s, n, first);
	case PRE_BYTES:
		return split_bytes(w, step, s, n);
	}
	for (size_t i = 0, e; i < n; i = e) {
		e = t->kind == PRE_GPT2 ? word_gpt2(s, n, i) : word_llama(s, n, i, t->start);
		if (pretokenize(w, step + 1, s + i, e - i, first && i == 0) != 0)
			return -1;
	}
	return 0;
}

/* ---- normalizer ------------------------------------------------------------ */

/* Fails (o->failed) when o would be longer than limit. */
static void
replace(const char *s, size_t n, const char *from, const char *to, size_t limit, struct sal_buf *o)
{
	size_t k = strlen(from), start = 0;

	for (size_t i = 0; k && i + k <= n && !o->failed;)
		if (memcmp(s + i, from, k) == 0) {
			sal_buf_put(o, s + start, i - start);
			sal_buf_puts(o, to);
			o->failed |= o->len > limit;
			start = i += k;
		} else {
			i++;
		}
	sal_buf_put(o, s + start, n - start);
}

static int
compose(int kind, const char *s, size_t n, struct sal_buf *o)
{
	utf8proc_option_t opt = UTF8PROC_STABLE | (kind == NORM_NFC || kind == NORM_NFKC ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) |
	    (kind == NORM_NFKC || kind == NORM_NFKD ? UTF8PROC_COMPAT : 0);
	utf8proc_uint8_t *r = NULL;
	size_t i = 0;

	while (i < n && (unsigned char)s[i] < 128)
		i++;
	if (i == n) {
		sal_buf_put(o, s, n);
		return 0;
	}
	utf8proc_ssize_t k = utf8proc_map((const utf8proc_uint8_t *)s, (utf8proc_ssize_t)n, &r, opt);
	if (k < 0)
		return sal_err("%s", utf8proc_errmsg(k));
	sal_buf_put(o, r, (size_t)k);
	free(r);
	return 0;
}

static int
normalize(const struct sal_tokenizer *tk, const char *s, size_t n, struct sal_buf *o)
{
	struct sal_buf a = { 0 };
	size_t limit = GROWTH * (n + 64);
	int rc = 0;

	sal_buf_put(o, s, n);
	for (int i = 0; i < tk->n_norm && rc == 0 && !o->failed && o->len; i++) {
		const struct step *t = &tk->normalizer[i];
		struct sal_buf swap = *o;
		*o = a;
		a = swap;
		o->len = 0;
		if (t->kind == NORM_PREPEND) {
			sal_buf_puts(o, t->to);
			sal_buf_put(o, a.data, a.len);
		} else if (t->kind == NORM_REPLACE) {
			replace(a.data, a.len, t->from, t->to, limit, o);
		} else {
			rc = compose(t->kind, a.data, a.len, o);
		}
	}
	if (rc == 0 && o->failed)
		rc = sal_err("%s: a text of %zu bytes cannot be normalized: it becomes too long, or memory is short", tk->path, n);
	sal_buf_free(&a);
	return rc;
}

/* ---- text to ids ----------------------------------------------------------- */

/* Cut s at the added tokens of l; what lies between goes to segment(). */
static int
cut(struct work *w, const struct addeds *l, const char *s, size_t n, const struct sal_span *sp, int n_sp, bool first,
    int (*segment)(struct work *w, const char *s, size_t n, size_t off, const struct sal_span *sp, int n_sp, bool first))
{
	size_t from = 0, at = 0, len;
	bool lead[256] = { false };

	for (int i = 0; i < l->n; i++)
		lead[(unsigned char)l->a[i].s[0]] = true;
	while (at < n) {
		const struct added *a = lead[(unsigned char)s[at]] ? added_at(l, s, n, at, sp, n_sp) : NULL;
		if (!a) {
			at++;
			continue;
		}
		size_t start = at, end = at + a->len;
		if (a->single) {
			size_t b = start;
			while (b > 0 && ((unsigned char)s[--b] & 0xc0) == 0x80)
				;
			if ((start > 0 && is_word(cp_at(s, n, b, &len))) || (end < n && is_word(cp_at(s, n, end, &len)))) {
				at = end;
				continue;
			}
		}
		if (a->lstrip)
			while (start > from) {
				size_t b = start;
				while (b > from && ((unsigned char)s[--b] & 0xc0) == 0x80)
					;
				if (!is_space(cp_at(s, n, b, &len)))
					break;
				start = b;
			}
		if (a->rstrip)
			while (end < n && is_space(cp_at(s, n, end, &len)))
				end += len;
		if (start > from && segment(w, s + from, start - from, from, sp, n_sp, first && from == 0) != 0)
			return -1;
		if (sal_ids_push(w->out, a->id) != 0)
			return sal_err("out of memory");
		from = at = end;
	}
	return from < n ? segment(w, s + from, n - from, from, sp, n_sp, first && from == 0) : 0;
}

static int
normalized_segment(struct work *w, const char *s, size_t n, size_t off, const struct sal_span *sp, int n_sp, bool first)
{
	(void)off;
	(void)sp;
	(void)n_sp;
	return pretokenize(w, 0, s, n, first);
}

static int
raw_segment(struct work *w, const char *s, size_t n, size_t off, const struct sal_span *sp, int n_sp, bool first)
{
	struct sal_span all = { 0, SIZE_MAX }; /* offsets are lost by normalizing: beside content no control token of normalized spelling */
	struct sal_buf b = { 0 };
	int rc = 0;

	if (w->tk->n_norm == 0)
		return cut(w, &w->tk->norm, s, n, &all, overlaps(off, off + n, sp, n_sp), first, normalized_segment);
	rc = normalize(w->tk, s, n, &b);
	if (rc == 0)
		rc = cut(w, &w->tk->norm, b.data, b.len, &all, overlaps(off, off + n, sp, n_sp), first, normalized_segment);
	sal_buf_free(&b);
	return rc;
}

int
sal_tokenize(const struct sal_tokenizer *tk, const char *text, size_t len, const struct sal_span *plain, int n_plain, struct sal_ids *out)
{
	struct work w = { .tk = tk, .out = out };

	if (len == 0)
		return 0;
	if (len >= INT32_MAX / 4)
		return sal_err("text of more than 512 MiB");
	if (!utf8_ok(text, len))
		return sal_err("text is not UTF-8");
	int rc = cut(&w, &tk->raw, text, len, plain, n_plain, true, raw_segment);
	free(w.sym);
	free(w.heap);
	sal_buf_free(&w.tmp);
	pcre2_match_data_free(w.md);
	pcre2_match_context_free(w.mc);
	pcre2_jit_stack_free(w.stack);
	return rc;
}

int
sal_tokenize_plain(const struct sal_tokenizer *tk, const char *text, size_t len, struct sal_ids *out)
{
	struct sal_span all = { 0, len };
	return sal_tokenize(tk, text, len, &all, 1, out);
}

/* ---- ids to text ----------------------------------------------------------- */

struct toks { struct sal_buf b; size_t *end; int n; }; /* texts one after another */

static void
put_byte_level(const char *s, size_t n, struct sal_buf *o)
{
	size_t len, mark = o->len;
	for (size_t i = 0; i < n; i += len) {
		int b = char_byte(cp_at(s, n, i, &len));
		if (b < 0) { /* some other text: as it is */
			o->len = mark;
			sal_buf_put(o, s, n);
			return;
		}
		char c = (char)b;
		sal_buf_put(o, &c, 1);
	}
}

static void
put_lossy(const char *s, size_t n, struct sal_buf *o)
{
	uint32_t cp;
	for (size_t i = 0; i < n;) {
		int k = utf8_at((const uint8_t *)s + i, n - i, &cp);
		if (k > 0)
			sal_buf_put(o, s + i, (size_t)k);
		else
			sal_buf_puts(o, "\xef\xbf\xbd");
		i += (size_t)(k < 0 ? -k : k);
	}
}

static int
hex(int c)
{
	return c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
}

/* The byte that a piece <0xHH> stands for, or -1. */
static int
piece_byte(const char *s, size_t n)
{
	if (n != 6 || memcmp(s, "<0x", 3) != 0 || s[5] != '>' || hex(s[3]) < 0 || hex(s[4]) < 0)
		return -1;
	return hex(s[3]) << 4 | hex(s[4]);
}

static void
put_run(struct sal_buf *run, struct toks *o)
{
	if (run->len == 0)
		return;
	if (utf8_ok(run->data, run->len))
		sal_buf_put(&o->b, run->data, run->len);
	else
		for (size_t i = 0; i < run->len; i++)
			sal_buf_puts(&o->b, "\xef\xbf\xbd");
	o->end[o->n++] = o->b.len;
	run->len = 0;
}

static void
strip(const struct step *t, const char *s, size_t n, struct sal_buf *o)
{
	size_t k = strlen(t->from), e = n;
	int i;

	for (i = 0; i < t->start && n >= k && memcmp(s, t->from, k) == 0; i++) {
		s += k;
		n -= k;
	}
	e = n;
	for (i = 0; i < t->stop && e >= k && memcmp(s + e - k, t->from, k) == 0; i++)
		e -= k;
	sal_buf_put(o, s, e);
}

/* One step of the decoder, from a to o (empty, with room for as many texts). */
static void
decode_step(const struct step *t, const struct toks *a, size_t limit, struct toks *o)
{
	struct sal_buf run = { 0 };
	size_t from = 0;

	for (int i = 0; i < a->n; from = a->end[i++]) {
		const char *s = a->b.data + from;
		size_t n = a->end[i] - from;
		char c;
		switch (t->kind) {
		case DEC_BYTES:
			put_byte_level(s, n, &run);
			continue;
		case DEC_FUSE:
			sal_buf_put(&o->b, s, n);
			continue;
		case DEC_FALLBACK:
			if (piece_byte(s, n) >= 0) {
				c = (char)piece_byte(s, n);
				sal_buf_put(&run, &c, 1);
				continue;
			}
			put_run(&run, o);
			sal_buf_put(&o->b, s, n);
			break;
		case DEC_REPLACE:
			replace(s, n, t->from, t->to, limit, &o->b);
			break;
		case DEC_META:
			replace(s, n, t->from, i == 0 && t->start ? "" : " ", limit, &o->b);
			break;
		case DEC_STRIP:
			strip(t, s, n, &o->b);
			break;
		}
		o->end[o->n++] = o->b.len;
	}
	if (t->kind == DEC_BYTES)
		put_lossy(run.data ? run.data : "", run.len, &o->b);
	if (t->kind == DEC_BYTES || t->kind == DEC_FUSE)
		o->end[o->n++] = o->b.len;
	if (t->kind == DEC_FALLBACK)
		put_run(&run, o);
	o->b.failed |= run.failed;
	sal_buf_free(&run);
}

int
sal_detokenize(const struct sal_tokenizer *tk, const int32_t *id, int n, struct sal_buf *out)
{
	struct toks a = { 0 }, b = { 0 };
	int rc = -1;

	for (int i = 0; i < n; i++)
		if (id[i] < 0 || id[i] >= tk->n)
			return sal_err("token %d is not in 0..%d", (int)id[i], tk->n - 1);
	a.end = malloc(((size_t)n + 1) * sizeof *a.end);
	b.end = malloc(((size_t)n + 1) * sizeof *b.end);
	if (!a.end || !b.end) {
		sal_err("out of memory");
		goto out;
	}
	for (int i = 0; i < n; i++) {
		if (tk->no_decoder && i)
			sal_buf_put(&a.b, " ", 1);
		sal_buf_put(&a.b, piece_text(tk, id[i]), tk->piece[id[i]].len);
		a.end[a.n++] = a.b.len;
	}
	size_t limit = GROWTH * (a.b.len + 64);
	for (int i = 0; i < tk->n_dec && !a.b.failed; i++) {
		b.b.len = 0;
		b.n = 0;
		decode_step(&tk->dec[i], &a, limit, &b);
		struct toks swap = a;
		a = b;
		b = swap;
	}
	sal_buf_put(out, a.b.data ? a.b.data : "", a.b.len);
	rc = a.b.failed || b.b.failed || out->failed ? sal_err("%s: %d tokens cannot be decoded: the text becomes too long, or memory is short", tk->path, n) : 0;
out:
	sal_buf_free(&a.b);
	sal_buf_free(&b.b);
	free(a.end);
	free(b.end);
	return rc;
}

/* ---- tokenizer.json: steps -------------------------------------------------- */

static const cJSON *
get(const cJSON *o, const char *name)
{
	const cJSON *v = cJSON_IsObject(o) ? cJSON_GetObjectItemCaseSensitive(o, name) : NULL;
	return cJSON_IsNull(v) ? NULL : v;
}

static const char *
get_str(const cJSON *o, const char *name)
{
	const cJSON *v = get(o, name);
	return cJSON_IsString(v) ? v->valuestring : NULL;
}

static bool
get_bool(const cJSON *o, const char *name, bool otherwise)
{
	const cJSON *v = get(o, name);
	return cJSON_IsBool(v) ? cJSON_IsTrue(v) : otherwise;
}

static struct step *
new_step(struct sal_tokenizer *tk, struct step *list, int *n, int kind, const char *from, const char *to)
{
	if (*n == MAX_STEPS) {
		sal_err("%s: more than %d steps", tk->path, MAX_STEPS);
		return NULL;
	}
	struct step *t = &list[*n];
	*t = (struct step){ .kind = kind, .from = from ? strdup(from) : NULL, .to = to ? strdup(to) : NULL };
	++*n;
	if ((from && !t->from) || (to && !t->to)) {
		sal_err("out of memory");
		return NULL;
	}
	return t;
}

static int
refuse(const struct sal_tokenizer *tk, const char *what, const char *type)
{
	return sal_err("%s: %s \"%s\" is not supported", tk->path, what, type ? type : "(no type)");
}

static int
read_normalizer(struct sal_tokenizer *tk, const cJSON *o)
{
	static const char *const forms[] = { "NFC", "NFD", "NFKC", "NFKD" };
	const char *type = get_str(o, "type"), *from, *to;
	const cJSON *x;

	if (!o || cJSON_IsNull(o))
		return 0;
	if (!type)
		return refuse(tk, "normalizer", type);
	for (int i = 0; i < 4; i++)
		if (strcmp(type, forms[i]) == 0)
			return new_step(tk, tk->normalizer, &tk->n_norm, NORM_NFC + i, NULL, NULL) ? 0 : -1;
	if (strcmp(type, "Sequence") == 0) {
		if (!cJSON_IsArray(get(o, "normalizers")))
			return refuse(tk, "normalizer", type);
		cJSON_ArrayForEach(x, get(o, "normalizers"))
			if (read_normalizer(tk, x) != 0)
				return -1;
		return 0;
	}
	if (strcmp(type, "Prepend") == 0 && (to = get_str(o, "prepend")) != NULL)
		return new_step(tk, tk->normalizer, &tk->n_norm, NORM_PREPEND, NULL, to) ? 0 : -1;
	from = get_str(get(o, "pattern"), "String");
	to = get_str(o, "content");
	if (strcmp(type, "Replace") == 0 && from && *from && to)
		return new_step(tk, tk->normalizer, &tk->n_norm, NORM_REPLACE, from, to) ? 0 : -1;
	return refuse(tk, "normalizer", type);
}

#define WS "|\\s+(?!\\S)|\\s+"
static const char pattern_gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+" WS;
static const char pattern_llama3[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+" WS;
static const char pattern_qwen2[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+" WS;

/* A group with an unbounded repeat inside that is itself repeated without bound: exponential. */
static bool
explosive(const char *p)
{
	bool inner[64] = { false };
	int depth = 0;

	for (; *p; p++) {
		if (*p == '\\' && p[1]) {
			p++;
		} else if (*p == '[') {
			for (p += p[1] == '^' ? 2 : 1; *p && *p != ']'; p++)
				if (*p == '\\' && p[1])
					p++;
			if (!*p)
				return false;
		} else if (*p == '(') {
			if (++depth == 64)
				return true;
			inner[depth] = false;
		} else if (*p == ')') {
			bool rep = depth > 0 && inner[depth];
			depth -= depth > 0;
			bool again = p[1] == '+' || p[1] == '*' || (p[1] == '{' && strchr(p, ',') && strchr(p, ',')[1] == '}');
			if (rep && again && p[2] != '+')
				return true;
			inner[depth] |= rep;
		} else if (*p == '+' || *p == '*' || *p == '{') {
			inner[depth] |= *p != '{' || (strchr(p, '}') && strchr(p, '}')[-1] == ',');
		}
	}
	return false;
}

static int
add_pattern(struct sal_tokenizer *tk, const char *p, bool keep_matches)
{
	struct step *t = new_step(tk, tk->pre, &tk->n_pre, PRE_REGEX, NULL, NULL);
	PCRE2_SIZE at;
	int err;

	if (!t)
		return -1;
	if (strcmp(p, pattern_gpt2) == 0) {
		t->kind = PRE_GPT2;
	} else if (strcmp(p, pattern_llama3) == 0 || strcmp(p, pattern_qwen2) == 0) {
		t->kind = PRE_LLAMA;
		t->start = strcmp(p, pattern_qwen2) == 0 ? 1 : 3;
	} else {
		if (explosive(p))
			return sal_err("%s: the pre_tokenizer's pattern repeats a repeated group: it may take exponential time", tk->path);
		t->keep_matches = keep_matches;
		t->re = pcre2_compile((PCRE2_SPTR)p, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &err, &at, NULL);
		if (!t->re) {
			char why[128];
			pcre2_get_error_message(err, (PCRE2_UCHAR *)why, sizeof why);
			return sal_err("%s: the pre_tokenizer's pattern: %s at %zu", tk->path, why, (size_t)at);
		}
		pcre2_jit_compile(t->re, PCRE2_JIT_COMPLETE); /* without JIT it runs interpreted */
	}
	return 0;
}

static int
read_split(struct sal_tokenizer *tk, const cJSON *o)
{
	const char *how = get_str(o, "behavior"), *re = get_str(get(o, "pattern"), "Regex"), *lit = get_str(get(o, "pattern"), "String");
	bool removed, invert = get_bool(o, "invert", false);

	if (!how || (!re && (!lit || !*lit)))
		return sal_err("%s: pre_tokenizer \"Split\" without pattern or behavior", tk->path);
	removed = strcmp(how, "Removed") == 0 && invert;
	if (!removed && strcmp(how, "Isolated") != 0)
		return sal_err("%s: pre_tokenizer \"Split\" with behavior \"%s\" is not supported", tk->path, how);
	if (re)
		return add_pattern(tk, re, removed);
	struct sal_buf b = { 0 };
	for (const char *c = lit; *c; c++) {
		if (strchr("\\^$.[|()?*+{}", *c))
			sal_buf_put(&b, "\\", 1);
		sal_buf_put(&b, c, 1);
	}
	int rc = b.failed ? sal_err("out of memory") : add_pattern(tk, b.data, removed);
	sal_buf_free(&b);
	return rc;
}

static int
read_metaspace(struct sal_tokenizer *tk, const cJSON *o, struct step *list, int *n, int kind)
{
	const char *r = get_str(o, "replacement"), *how = get_str(o, "prepend_scheme");
	struct step *t = new_step(tk, list, n, kind, r && *r ? r : LOWER, NULL);

	if (!t)
		return -1;
	t->stop = get_bool(o, "split", true);
	if (!how)
		t->start = get_bool(o, "add_prefix_space", true) ? 2 : 0;
	else if (strcmp(how, "always") == 0 || strcmp(how, "first") == 0 || strcmp(how, "never") == 0)
		t->start = how[0] == 'a' ? 2 : how[0] == 'f';
	else
		return sal_err("%s: Metaspace with prepend_scheme \"%s\" is not supported", tk->path, how);
	return 0;
}

static int
read_pre(struct sal_tokenizer *tk, const cJSON *o)
{
	const char *type = get_str(o, "type");
	const cJSON *x;
	struct step *t;

	if (!o || cJSON_IsNull(o))
		return 0;
	if (!type)
		return refuse(tk, "pre_tokenizer", type);
	if (tk->bytes)
		return sal_err("%s: pre_tokenizer \"%s\" after ByteLevel is not supported", tk->path, type);
	if (strcmp(type, "Sequence") == 0) {
		if (!cJSON_IsArray(get(o, "pretokenizers")))
			return refuse(tk, "pre_tokenizer", type);
		cJSON_ArrayForEach(x, get(o, "pretokenizers"))
			if (read_pre(tk, x) != 0)
				return -1;
		return 0;
	}
	if (strcmp(type, "Split") == 0)
		return read_split(tk, o);
	if (strcmp(type, "Digits") == 0) {
		if ((t = new_step(tk, tk->pre, &tk->n_pre, PRE_DIGITS, NULL, NULL)) == NULL)
			return -1;
		t->start = get_bool(o, "individual_digits", false);
		return 0;
	}
	if (strcmp(type, "ByteLevel") == 0) {
		if ((t = new_step(tk, tk->pre, &tk->n_pre, PRE_BYTES, NULL, NULL)) == NULL)
			return -1;
		t->prefix = get_bool(o, "add_prefix_space", true);
		tk->bytes = true;
		return get_bool(o, "use_regex", true) && !new_step(tk, tk->pre, &tk->n_pre, PRE_GPT2, NULL, NULL) ? -1 : 0;
	}
	if (strcmp(type, "Metaspace") == 0)
		return read_metaspace(tk, o, tk->pre, &tk->n_pre, PRE_META);
	return refuse(tk, "pre_tokenizer", type);
}

static int
read_decoder(struct sal_tokenizer *tk, const cJSON *o)
{
	const char *type = get_str(o, "type"), *from, *to;
	const cJSON *x;
	struct step *t;

	if (!type)
		return refuse(tk, "decoder", type);
	if (strcmp(type, "Sequence") == 0) {
		if (!cJSON_IsArray(get(o, "decoders")))
			return refuse(tk, "decoder", type);
		cJSON_ArrayForEach(x, get(o, "decoders"))
			if (read_decoder(tk, x) != 0)
				return -1;
		return 0;
	}
	if (strcmp(type, "ByteLevel") == 0)
		return new_step(tk, tk->dec, &tk->n_dec, DEC_BYTES, NULL, NULL) ? 0 : -1;
	if (strcmp(type, "ByteFallback") == 0)
		return new_step(tk, tk->dec, &tk->n_dec, DEC_FALLBACK, NULL, NULL) ? 0 : -1;
	if (strcmp(type, "Fuse") == 0)
		return new_step(tk, tk->dec, &tk->n_dec, DEC_FUSE, NULL, NULL) ? 0 : -1;
	if (strcmp(type, "Metaspace") == 0)
		return read_metaspace(tk, o, tk->dec, &tk->n_dec, DEC_META);
	from = get_str(get(o, "pattern"), "String");
	to = get_str(o, "content");
	if (strcmp(type, "Replace") == 0 && from && *from && to)
		return new_step(tk, tk->dec, &tk->n_dec, DEC_REPLACE, from, to) ? 0 : -1;
	if (strcmp(type, "Strip") == 0 && to && *to) {
		int64_t start, stop;
		if (sal_json_int(o, "start", 0, 1 << 20, &start) != 0 || sal_json_int(o, "stop", 0, 1 << 20, &stop) != 0)
			return sal_err("%s: decoder \"Strip\" without start or stop", tk->path);
		if ((t = new_step(tk, tk->dec, &tk->n_dec, DEC_STRIP, to, NULL)) == NULL)
			return -1;
		t->start = (int)start;
		t->stop = (int)stop;
		return 0;
	}
	return refuse(tk, "decoder", type);
}

/* Check a post_processor; *lead: the id that it puts before a text, or -1. */
static int
read_post(struct sal_tokenizer *tk, const cJSON *o, int32_t *lead)
{
	const char *type = get_str(o, "type"), *name;
	const cJSON *x;
	bool first = true;

	if (!o || cJSON_IsNull(o))
		return 0;
	if (type && strcmp(type, "ByteLevel") == 0)
		return 0;
	if (type && strcmp(type, "Sequence") == 0 && cJSON_IsArray(get(o, "processors"))) {
		cJSON_ArrayForEach(x, get(o, "processors"))
			if (read_post(tk, x, lead) != 0)
				return -1;
		return 0;
	}
	if (!type || strcmp(type, "TemplateProcessing") != 0 || !cJSON_IsArray(get(o, "single")))
		return refuse(tk, "post_processor", type);
	cJSON_ArrayForEach(x, get(o, "single")) {
		if (get(x, "SpecialToken")) {
			name = get_str(get(x, "SpecialToken"), "id");
			int32_t id = name ? find(tk, name, strlen(name)) : -1;
			if (id < 0)
				return sal_err("%s: the post_processor names a token that does not exist", tk->path);
			if (first)
				*lead = id;
		}
		first = false;
	}
	return 0;
}

/* ---- tokenizer.json: tokens -------------------------------------------------- */

/* The id in v; -1: not a whole number in 0..limit-1. */
static int32_t
id_of(const cJSON *v, int limit)
{
	if (!cJSON_IsNumber(v) || !(v->valuedouble >= 0) || v->valuedouble >= limit || v->valuedouble != (double)(int32_t)v->valuedouble)
		return -1;
	return (int32_t)v->valuedouble;
}

/* May be sought in the text as written: nothing that normalizing could change. */
static bool
same_normalized(const struct sal_tokenizer *tk, const char *s)
{
	for (int i = 0; i < tk->n_norm; i++)
		if (tk->normalizer[i].kind > NORM_NFKD)
			return false;
	for (; *s; s++)
		if ((unsigned char)*s >= 128)
			return tk->n_norm == 0;
	return true;
}

static int
read_added(struct sal_tokenizer *tk, const cJSON *list, int total)
{
	const cJSON *x;

	cJSON_ArrayForEach(x, list) {
		const char *s = get_str(x, "content");
		int32_t id = id_of(get(x, "id"), total);
		if (!s || !*s)
			return sal_err("%s: an added token without content", tk->path);
		if (id < 0)
			return sal_err("%s: the id of added token \"%s\" is not a whole number that continues the vocabulary", tk->path, s);
		int32_t old = find(tk, s, strlen(s));
		if (old >= 0 && old != id)
			return sal_err("%s: added token \"%s\" has two ids, %d and %d", tk->path, s, (int)old, (int)id);
		if (old < 0) {
			if (add_piece(tk, s, strlen(s), id) != 0)
				return -1;
			tk->piece[id].flags |= EXTRA;
		}
		if (tk->piece[id].flags & ADDED)
			return sal_err("%s: added token \"%s\" is listed twice", tk->path, s);
		struct added a = { NULL, 0, id, get_bool(x, "special", false), get_bool(x, "lstrip", false), get_bool(x, "rstrip", false),
			get_bool(x, "single_word", false) };
		tk->piece[id].flags |= a.special ? SPECIAL | ADDED : ADDED;
		if (!get_bool(x, "normalized", !a.special) || (a.special && same_normalized(tk, s))) {
			if (put_added(&tk->raw, &a, s, strlen(s)) != 0)
				return -1;
			continue;
		}
		struct sal_buf b = { 0 };
		int rc = normalize(tk, s, strlen(s), &b);
		if (rc == 0 && b.len)
			rc = put_added(&tk->norm, &a, b.data, b.len);
		sal_buf_free(&b);
		if (rc != 0)
			return -1;
	}
	return 0;
}

static int
read_merges(struct sal_tokenizer *tk, const cJSON *list)
{
	struct sal_buf tmp = { 0 };
	const cJSON *x;
	uint32_t rank = 0;
	int rc = 0;

	if (!cJSON_IsArray(list))
		return sal_err("%s: merges is not an array", tk->path);
	if (!alloc_merges(tk, (size_t)cJSON_GetArraySize(list)))
		return sal_err("out of memory");
	cJSON_ArrayForEach(x, list) {
		const cJSON *a = cJSON_IsArray(x) ? x->child : NULL, *b = a ? a->next : NULL;
		if (cJSON_IsString(x))
			rc = add_merge_string(tk, x->valuestring, strlen(x->valuestring), rank, &tmp);
		else if (b && !b->next && cJSON_IsString(a) && cJSON_IsString(b))
			rc = add_merge(tk, a->valuestring, strlen(a->valuestring), b->valuestring, strlen(b->valuestring), rank, &tmp);
		else
			rc = sal_err("%s: merge %u is not a pair of tokens", tk->path, rank);
		if (rc != 0)
			break;
		rank++;
	}
	sal_buf_free(&tmp);
	return rc;
}

/* byte_id: of the byte-level alphabet, or of the pieces <0xHH>. */
static int
find_bytes(struct sal_tokenizer *tk)
{
	char u[8];

	for (unsigned b = 0; b < 256; b++) {
		if (tk->bytes) {
			tk->byte_id[b] = find(tk, u, (size_t)utf8_put(byte_char(b), u));
		} else {
			snprintf(u, sizeof u, "<0x%02X>", b);
			tk->byte_id[b] = find(tk, u, 6);
		}
		if (tk->bytes && tk->byte_id[b] < 0 && b > 32 && b < 127)
			return sal_err("%s: byte 0x%02X has no token", tk->path, b);
	}
	return 0;
}

static int
finish(struct sal_tokenizer *tk)
{
	while (tk->n > 0 && tk->piece[tk->n - 1].len == NONE)
		tk->n--;
	for (int i = 0; i < tk->n; i++)
		if (tk->piece[i].len == NONE)
			return sal_err("%s: no token has id %d", tk->path, i);
	if (tk->raw.n)
		qsort(tk->raw.a, (size_t)tk->raw.n, sizeof *tk->raw.a, added_cmp);
	if (tk->norm.n)
		qsort(tk->norm.a, (size_t)tk->norm.n, sizeof *tk->norm.a, added_cmp);
	return find_bytes(tk);
}

static int
read_model(struct sal_tokenizer *tk, const cJSON *j)
{
	const cJSON *m = get(j, "model"), *vocab = get(m, "vocab"), *added = get(j, "added_tokens"), *x;
	const char *type = get_str(m, "type"), *s;

	if (!cJSON_IsObject(m) || (type && strcmp(type, "BPE") != 0) || (!type && !get(m, "merges")))
		return refuse(tk, "model", type);
	if (get(m, "dropout") && !(cJSON_IsNumber(get(m, "dropout")) && get(m, "dropout")->valuedouble == 0))
		return sal_err("%s: BPE dropout is not supported", tk->path);
	if (((s = get_str(m, "continuing_subword_prefix")) != NULL && *s) || ((s = get_str(m, "end_of_word_suffix")) != NULL && *s))
		return sal_err("%s: continuing_subword_prefix and end_of_word_suffix are not supported", tk->path);
	if (!cJSON_IsObject(vocab) || !vocab->child)
		return sal_err("%s: the vocabulary is not a map of tokens to ids", tk->path);
	if (added && !cJSON_IsArray(added))
		return sal_err("%s: added_tokens is not an array", tk->path);
	int total = cJSON_GetArraySize(vocab) + cJSON_GetArraySize(added);
	if (!alloc_pieces(tk, (size_t)total))
		return sal_err("out of memory");
	cJSON_ArrayForEach(x, vocab) {
		int32_t id = id_of(x, total);
		if (id < 0)
			return sal_err("%s: the id of \"%.100s\" is not a whole number below the size of the vocabulary", tk->path, x->string);
		if (add_piece(tk, x->string, strlen(x->string), id) != 0)
			return -1;
	}
	if (read_normalizer(tk, get(j, "normalizer")) != 0 || read_pre(tk, get(j, "pre_tokenizer")) != 0 ||
	    read_added(tk, added, total) != 0 || finish(tk) != 0 || read_merges(tk, get(m, "merges")) != 0)
		return -1;
	tk->no_decoder = get(j, "decoder") == NULL;
	if (!tk->no_decoder && read_decoder(tk, get(j, "decoder")) != 0)
		return -1;
	tk->byte_fallback = get_bool(m, "byte_fallback", false);
	tk->fuse_unk = get_bool(m, "fuse_unk", false);
	tk->ignore_merges = get_bool(m, "ignore_merges", false);
	if ((s = get_str(m, "unk_token")) != NULL && (tk->unk = find(tk, s, strlen(s))) < 0)
		return sal_err("%s: unk_token \"%s\" is not in the vocabulary", tk->path, s);
	return 0;
}

/* ---- the other files of a folder --------------------------------------------- */

static int
add_eos(struct sal_tokenizer *tk, int32_t id)
{
	for (int i = 0; i < tk->eos.n; i++)
		if (tk->eos.id[i] == id)
			return 0;
	return sal_ids_push(&tk->eos, id) == 0 ? 0 : sal_err("out of memory");
}

/* DIR/NAME as JSON; absent: *j stays NULL. */
static int
read_side(const char *dir, const char *name, cJSON **j)
{
	char *p = sal_path_join(dir, name);
	FILE *f = p ? fopen(p, "r") : NULL;
	int rc = p ? 0 : -1;

	if (f) {
		fclose(f);
		if ((*j = sal_json_read(p)) == NULL)
			rc = -1;
		else if (!cJSON_IsObject(*j))
			rc = sal_err("%s: not an object", p);
	}
	free(p);
	return rc;
}

/* A token by its text, as a string or {"content":...}; -1: not given or unknown. */
static int32_t
named_token(const struct sal_tokenizer *tk, const cJSON *o, const char *name)
{
	const char *s = get_str(o, name);
	if (!s)
		s = get_str(get(o, name), "content");
	return s ? find(tk, s, strlen(s)) : -1;
}

static int
eos_of(struct sal_tokenizer *tk, const cJSON *o, int limit, const char *dir, const char *file)
{
	const cJSON *v = get(o, "eos_token_id"), *x = cJSON_IsArray(v) ? v->child : v;

	for (; x; x = cJSON_IsArray(v) ? x->next : NULL) {
		int32_t id = id_of(x, limit);
		if (id < 0)
			return sal_err("%s/%s: eos_token_id is not a token of a vocabulary of %d", dir, file, limit);
		if (id < tk->n && add_eos(tk, id) != 0)
			return -1;
	}
	return 0;
}

static int
read_chat(struct sal_tokenizer *tk, const char *dir, const cJSON *tc)
{
	char *p = sal_path_join(dir, "chat_template.jinja");
	FILE *f = p ? fopen(p, "r") : NULL;
	const char *s = NULL;
	const cJSON *x, *list = get(tc, "chat_template");
	int rc = p ? 0 : -1;

	if (f) {
		fclose(f);
		size_t len;
		tk->chat = sal_read_file(p, 16 << 20, &len);
		rc = tk->chat ? 0 : -1;
	} else {
		cJSON_ArrayForEach(x, list)
			if (get_str(x, "name") && strcmp(get_str(x, "name"), "default") == 0)
				s = get_str(x, "template");
		if (!s)
			s = get_str(tc, "chat_template");
		if (s && (tk->chat = strdup(s)) == NULL)
			rc = sal_err("out of memory");
	}
	free(p);
	return rc;
}

static int
open_dir(struct sal_tokenizer *tk, const char *dir)
{
	cJSON *j = NULL, *tc = NULL, *gc = NULL, *c = NULL;
	int32_t lead = -1, id;
	char *p = sal_path_join(dir, "tokenizer.json");
	int rc = -1;

	if (!p)
		return -1;
	free(tk->path);
	tk->path = p;
	if ((j = sal_json_read(p)) == NULL || read_model(tk, j) != 0 || read_post(tk, get(j, "post_processor"), &lead) != 0 ||
	    read_side(dir, "tokenizer_config.json", &tc) != 0 || read_side(dir, "generation_config.json", &gc) != 0 ||
	    read_side(dir, "config.json", &c) != 0)
		goto out;
	tk->bos = named_token(tk, tc, "bos_token");
	if (tk->bos < 0)
		tk->bos = id_of(get(c, "bos_token_id"), tk->n);
	tk->adds_bos = tk->bos >= 0 && get_bool(tc, "add_bos_token", lead >= 0 && lead == tk->bos);
	if ((id = named_token(tk, tc, "eos_token")) >= 0 && add_eos(tk, id) != 0)
		goto out;
	/* a model may have more embeddings than its tokenizer has tokens */
	int limit = id_of(get(c, "vocab_size"), INT32_MAX);
	limit = limit > tk->n ? limit : tk->n;
	if (eos_of(tk, gc, limit, dir, "generation_config.json") != 0 || eos_of(tk, c, limit, dir, "config.json") != 0 || read_chat(tk, dir, tc) != 0)
		goto out;
	rc = 0;
out:
	cJSON_Delete(j);
	cJSON_Delete(tc);
	cJSON_Delete(gc);
	cJSON_Delete(c);
	return rc;
}

/* ---- GGUF -------------------------------------------------------------------- */

static int
gguf_id(const struct sal_tokenizer *tk, const cJSON *meta, const char *name, int32_t otherwise, int32_t *id)
{
	const cJSON *v = get(meta, name);

	*id = v ? id_of(v, tk->n) : otherwise < tk->n ? otherwise : -1;
	return v && *id < 0 ? sal_err("%s: %s is not a token", tk->path, name) : 0;
}

static int
gguf_pre(struct sal_tokenizer *tk, const char *pre)
{
	static const struct { const char *name, *pattern; bool digits, nfc, ignore; } known[] = {
		{ "gpt-2", pattern_gpt2, false, false, false }, { "gpt2", pattern_gpt2, false, false, false },
		{ "default", pattern_gpt2, false, false, false }, { "smollm", pattern_gpt2, true, false, false },
		{ "llama-bpe", pattern_llama3, false, false, true }, { "llama3", pattern_llama3, false, false, true },
		{ "llama-v3", pattern_llama3, false, false, true }, { "qwen2", pattern_qwen2, false, true, false },
		{ "deepseek-r1-qwen", pattern_qwen2, false, true, false },
	};

	for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
		if (strcmp(known[i].name, pre) != 0)
			continue;
		if (known[i].nfc && !new_step(tk, tk->normalizer, &tk->n_norm, NORM_NFC, NULL, NULL))
			return -1;
		if (known[i].digits) {
			struct step *t = new_step(tk, tk->pre, &tk->n_pre, PRE_DIGITS, NULL, NULL);
			if (!t)
				return -1;
			t->start = 1;
		}
		tk->bytes = true;
		tk->ignore_merges = known[i].ignore;
		return add_pattern(tk, known[i].pattern, false) == 0 && new_step(tk, tk->dec, &tk->n_dec, DEC_BYTES, NULL, NULL) ? 0 : -1;
	}
	return sal_err("%s: tokenizer.ggml.pre \"%s\" is not supported", tk->path, pre);
}

static int
number_cmp(const void *a, const void *b) /* highest first */
{
	float x = *(const float *)a, y = *(const float *)b;
	return (x < y) - (x > y);
}

/* One finite score a token; NULL: error. */
static float *
gguf_scores(const struct sal_tokenizer *tk, const struct sal_tensors *g)
{
	int64_t n = 0, i = 0;
	float *score = sal_gguf_floats(g, "tokenizer.ggml.scores", &n);

	if (!score) {
		sal_err("%s: %s", tk->path, sal_errmsg());
		return NULL;
	}
	while (i < n && isfinite(score[i]))
		i++;
	if (n == tk->n && i == n)
		return score;
	if (n != tk->n)
		sal_err("%s: %lld scores for %d tokens", tk->path, (long long)n, tk->n);
	else
		sal_err("%s: the score of token %lld is not finite", tk->path, (long long)i);
	free(score);
	return NULL;
}

/* Ranks of pieces by score: 0 the highest, equal scores the same. */
static int
gguf_ranks(struct sal_tokenizer *tk, const struct sal_tensors *g)
{
	float *score = gguf_scores(tk, g), *sorted = NULL;
	int64_t n = tk->n;
	int rc = -1;

	if (!score)
		return -1;
	sorted = malloc((size_t)n * sizeof *sorted);
	tk->rank = malloc((size_t)n * sizeof *tk->rank);
	if (!sorted || !tk->rank) {
		sal_err("out of memory");
		goto out;
	}
	memcpy(sorted, score, (size_t)n * sizeof *sorted);
	qsort(sorted, (size_t)n, sizeof *sorted, number_cmp);
	for (int64_t i = 0; i < n; i++) {
		int64_t lo = 0, hi = n;
		while (lo < hi) {
			int64_t mid = (lo + hi) / 2;
			if (sorted[mid] > score[i])
				lo = mid + 1;
			else
				hi = mid;
		}
		tk->rank[i] = (uint32_t)lo;
	}
	rc = 0;
out:
	free(score);
	free(sorted);
	return rc;
}

static int
gguf_spm(struct sal_tokenizer *tk, const struct sal_tensors *g)
{
	bool space = get_bool(g->meta, "tokenizer.ggml.add_space_prefix", true);

	if ((space && !new_step(tk, tk->normalizer, &tk->n_norm, NORM_PREPEND, NULL, LOWER)) ||
	    !new_step(tk, tk->normalizer, &tk->n_norm, NORM_REPLACE, " ", LOWER) ||
	    !new_step(tk, tk->dec, &tk->n_dec, DEC_REPLACE, LOWER, " ") || !new_step(tk, tk->dec, &tk->n_dec, DEC_FALLBACK, NULL, NULL) ||
	    !new_step(tk, tk->dec, &tk->n_dec, DEC_FUSE, NULL, NULL))
		return -1;
	if (space) {
		struct step *t = new_step(tk, tk->dec, &tk->n_dec, DEC_STRIP, " ", NULL);
		if (!t)
			return -1;
		t->start = 1;
	}
	tk->byte_fallback = true;
	return gguf_ranks(tk, g);
}

/* The key is there, whatever it holds. */
static bool
gguf_has(const struct sal_tensors *g, const char *key)
{
	return sal_gguf_array_len(g, key) >= 0 || get(g->meta, key) != NULL;
}

static int
gguf_tokens(struct sal_tokenizer *tk, const struct sal_tensors *g)
{
	int64_t n, nt = 0;
	struct sal_str *s = sal_gguf_strings(g, "tokenizer.ggml.tokens", &n);
	int32_t *type = NULL;
	int rc = -1;

	if (!s || n < 1 || n > INT32_MAX / 4) {
		sal_err("%s: no tokenizer.ggml.tokens", tk->path);
		goto out;
	}
	if (gguf_has(g, "tokenizer.ggml.token_type") && (type = sal_gguf_ints(g, "tokenizer.ggml.token_type", &nt)) == NULL) {
		sal_err("%s: %s", tk->path, sal_errmsg());
		goto out;
	}
	if (type && nt != n) {
		sal_err("%s: %lld token types for %lld tokens", tk->path, (long long)nt, (long long)n);
		goto out;
	}
	if (!alloc_pieces(tk, (size_t)n)) {
		sal_err("out of memory");
		goto out;
	}
	for (int64_t i = 0; i < n; i++) {
		if (!utf8_ok(s[i].p, s[i].len)) {
			sal_err("%s: token %lld is not UTF-8", tk->path, (long long)i);
			goto out;
		}
		if (add_piece(tk, s[i].p, s[i].len, (int32_t)i) != 0)
			goto out;
		int t = type ? type[i] : 1;
		if (t == 6 && piece_byte(s[i].p, s[i].len) < 0) {
			sal_err("%s: token %lld is marked as a byte but is none", tk->path, (long long)i);
			goto out;
		}
		if (t != 3 && t != 4)
			continue;
		if (s[i].len == 0) {
			sal_err("%s: control token %lld is empty", tk->path, (long long)i);
			goto out;
		}
		struct added a = { .id = (int32_t)i, .special = t == 3 };
		tk->piece[i].flags = t == 3 ? SPECIAL | ADDED : ADDED;
		if (put_added(&tk->raw, &a, s[i].p, s[i].len) != 0)
			goto out;
	}
	rc = finish(tk);
out:
	free(s);
	free(type);
	return rc;
}

static int
gguf_merges(struct sal_tokenizer *tk, const struct sal_tensors *g)
{
	struct sal_buf tmp = { 0 };
	int64_t n;
	struct sal_str *s = sal_gguf_strings(g, "tokenizer.ggml.merges", &n);
	int rc = 0;

	if (!s)
		return sal_err("%s: no tokenizer.ggml.merges", tk->path);
	if (gguf_has(g, "tokenizer.ggml.scores")) { /* not used beside merges, but as damaged as any */
		float *score = gguf_scores(tk, g);
		if (!score) {
			free(s);
			return -1;
		}
		free(score);
	}
	if (!alloc_merges(tk, (size_t)n))
		rc = sal_err("out of memory");
	for (int64_t i = 0; i < n && rc == 0; i++)
		rc = add_merge_string(tk, s[i].p, s[i].len, (uint32_t)i, &tmp);
	sal_buf_free(&tmp);
	free(s);
	return rc;
}

static int
open_gguf(struct sal_tokenizer *tk, const char *path)
{
	struct sal_tensors *g = sal_gguf_open(path);
	int rc = -1;

	if (!g)
		return -1;
	const char *model = get_str(g->meta, "tokenizer.ggml.model"), *pre = get_str(g->meta, "tokenizer.ggml.pre");
	const char *chat = get_str(g->meta, "tokenizer.chat_template");
	const struct sal_stored_tensor *embd = sal_tensors_find(g, "token_embd.weight");
	bool spm = model && strcmp(model, "llama") == 0;
	int32_t eos, eot, eom;

	if (!spm && (!model || strcmp(model, "gpt2") != 0)) {
		sal_err("%s: tokenizer.ggml.model \"%s\" is not supported", path, model ? model : "(none)");
		goto out;
	}
	if (spm) /* the steps first: whether words are bytes decides which tokens there must be */
		rc = gguf_tokens(tk, g) == 0 ? gguf_spm(tk, g) : -1;
	else
		rc = gguf_pre(tk, pre ? pre : "gpt-2") == 0 && gguf_tokens(tk, g) == 0 ? gguf_merges(tk, g) : -1;
	if (rc != 0)
		goto out;
	rc = -1;
	if (embd && embd->ndim == 2 && embd->dim[0] < tk->n) {
		sal_err("%s: %d tokens but %lld embeddings", path, tk->n, (long long)embd->dim[0]);
		goto out;
	}
	if (gguf_id(tk, g->meta, "tokenizer.ggml.bos_token_id", spm ? 1 : -1, &tk->bos) != 0 ||
	    gguf_id(tk, g->meta, "tokenizer.ggml.eos_token_id", spm ? 2 : -1, &eos) != 0 ||
	    gguf_id(tk, g->meta, "tokenizer.ggml.eot_token_id", -1, &eot) != 0 ||
	    gguf_id(tk, g->meta, "tokenizer.ggml.eom_token_id", -1, &eom) != 0 ||
	    gguf_id(tk, g->meta, "tokenizer.ggml.unknown_token_id", spm ? 0 : -1, &tk->unk) != 0 || (eos >= 0 && add_eos(tk, eos) != 0) ||
	    (eot >= 0 && add_eos(tk, eot) != 0) || (eom >= 0 && add_eos(tk, eom) != 0))
		goto out;
	tk->adds_bos = tk->bos >= 0 && get_bool(g->meta, "tokenizer.ggml.add_bos_token", spm);
	if (chat && (tk->chat = strdup(chat)) == NULL) {
		sal_err("out of memory");
		goto out;
	}
	rc = 0;
out:
	sal_tensors_close(g);
	return rc;
}

/* ---- the tokenizer ------------------------------------------------------------ */

struct sal_tokenizer *
sal_tokenizer_open(const char *path)
{
	struct sal_tokenizer *tk = calloc(1, sizeof *tk);

	if (!tk || (tk->path = strdup(path)) == NULL) {
		free(tk);
		sal_err("out of memory");
		return NULL;
	}
	tk->unk = tk->bos = -1;
	memset(tk->byte_id, 0xff, sizeof tk->byte_id);
	if ((sal_is_dir(path) ? open_dir(tk, path) : open_gguf(tk, path)) != 0) {
		sal_tokenizer_close(tk);
		return NULL;
	}
	return tk;
}

static void
free_steps(struct step *t, int n)
{
	for (int i = 0; i < n; i++) {
		free(t[i].from);
		free(t[i].to);
		pcre2_code_free(t[i].re);
	}
}

static void
free_added(struct addeds *l)
{
	for (int i = 0; i < l->n; i++)
		free(l->a[i].s);
	free(l->a);
}

void
sal_tokenizer_close(struct sal_tokenizer *tk)
{
	if (!tk)
		return;
	free_steps(tk->normalizer, tk->n_norm);
	free_steps(tk->pre, tk->n_pre);
	free_steps(tk->dec, tk->n_dec);
	free_added(&tk->raw);
	free_added(&tk->norm);
	sal_buf_free(&tk->text);
	free(tk->path);
	free(tk->piece);
	free(tk->slot);
	free(tk->merge);
	free(tk->rank);
	free(tk->eos.id);
	free(tk->chat);
	free(tk);
}

int
sal_tokenizer_vocab(const struct sal_tokenizer *tk)
{
	return tk->n;
}

int
sal_tokenizer_bos(const struct sal_tokenizer *tk)
{
	return tk->bos;
}

bool
sal_tokenizer_adds_bos(const struct sal_tokenizer *tk)
{
	return tk->adds_bos;
}

int
sal_tokenizer_eos(const struct sal_tokenizer *tk, const int32_t **id)
{
	*id = tk->eos.id;
	return tk->eos.n;
}

bool
sal_tokenizer_is_control(const struct sal_tokenizer *tk, int32_t id)
{
	return id >= 0 && id < tk->n && tk->piece[id].flags & SPECIAL;
}

const char *
sal_tokenizer_chat_template(const struct sal_tokenizer *tk)
{
	return tk->chat;
}
