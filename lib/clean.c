/* SPDX-License-Identifier: Apache-2.0 */
/* clean.c - the cleaning rules of SALMON's prompts, on a view of the text. */
#define _GNU_SOURCE /* memmem */
#include "lib/clean.h"
#include <string.h>
#include <utf8proc.h>

struct view {
	const char *s;
	size_t n;
};

const char *const sal_clean_name[SAL_CLEAN_RULES] = {
	"a counter N / M at the beginning", "a counter N / M at the end", "all up to a counter 1 / 1", "from the Korean translation button on",
	"from a language menu on", "white space at the ends", "\"Share Prompt\" at the end", "\"Translate now\" at the end",
	"\"Language: ...\" at the end", "a Bing disclaimer at the beginning",
};

/* ---- views --------------------------------------------------------------- */

/* What Python's str.isspace says of the characters that strip() meets. */
static bool
is_space(int32_t c)
{
	return (c >= 9 && c <= 13) || (c >= 28 && c <= 32) || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
	    c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

/* The character at byte i of a valid text, and its length; U+FFFD at the end. */
static int32_t
at(struct view v, size_t i, size_t *len)
{
	int32_t c = 0xFFFD;
	utf8proc_ssize_t k = i < v.n ? utf8proc_iterate((const utf8proc_uint8_t *)v.s + i, (utf8proc_ssize_t)(v.n - i), &c) : 0;

	*len = k > 0 ? (size_t)k : i < v.n;
	return k > 0 ? c : 0xFFFD;
}

/* The character that ends before byte i, and its length. */
static int32_t
before(struct view v, size_t i, size_t *len)
{
	size_t k = 1;

	while (k < 4 && k < i && ((unsigned char)v.s[i - k] & 0xC0) == 0x80)
		k++;
	*len = i ? k : 0;
	return i ? at(v, i - k, &k) : 0xFFFD;
}

static bool
is_letter(int32_t c)
{
	utf8proc_category_t kind = utf8proc_category(c);

	return c != 0xFFFD && kind >= UTF8PROC_CATEGORY_LU && kind <= UTF8PROC_CATEGORY_LO;
}

static bool
is_digit(int32_t c)
{
	return c >= '0' && c <= '9';
}

bool
sal_strip(const char **text, size_t *len)
{
	struct view v = { *text, *len };
	size_t k;

	while (v.n && is_space(at(v, 0, &k))) {
		v.s += k;
		v.n -= k;
	}
	while (v.n && is_space(before(v, v.n, &k)))
		v.n -= k;
	bool cut = v.n != *len;
	*text = v.s;
	*len = v.n;
	return cut;
}

static bool
drop_end(struct view *v, const char *s)
{
	size_t n = strlen(s);

	if (v->n < n || memcmp(v->s + v->n - n, s, n) != 0)
		return false;
	v->n -= n;
	return true;
}

static bool
cut_at(struct view *v, const char *s)
{
	const char *p = v->n ? memmem(v->s, v->n, s, strlen(s)) : NULL;

	if (p)
		v->n = (size_t)(p - v->s);
	return p != NULL;
}

/* ---- counters ------------------------------------------------------------ */

struct counter {
	size_t start, end;  /* bytes of "N / M" */
	unsigned long n, m;
	bool spaced;        /* one space on either side of the slash */
};

static size_t
digits(struct view v, size_t i, unsigned long *value)
{
	size_t from = i;

	for (*value = 0; i < v.n && is_digit(v.s[i]); i++)
		*value = *value < 100000000 ? *value * 10 + (unsigned long)(v.s[i] - '0') : *value;
	return i - from;
}

/* digits, white space, slash, white space, digits from byte i on. */
static bool
fraction(struct view v, size_t i, struct counter *c)
{
	size_t n = digits(v, i, &c->n), slash, k;

	c->start = i;
	if (n == 0)
		return false;
	for (i += n; is_space(at(v, i, &k)); i += k)
		;
	slash = i;
	if (i >= v.n || v.s[i] != '/')
		return false;
	for (i++; is_space(at(v, i, &k)); i += k)
		;
	if ((n = digits(v, i, &c->m)) == 0)
		return false;
	c->end = i + n;
	c->spaced = i - slash == 2 && v.s[slash + 1] == ' ' && slash && v.s[slash - 1] == ' ' && (slash < 2 || is_digit(v.s[slash - 2]));
	return true;
}

/* Where the fraction that ends the text starts. */
static bool
last_fraction(struct view v, struct counter *c)
{
	size_t i = v.n, k;

	while (i && is_digit(v.s[i - 1]))
		i--;
	while (i && is_space(before(v, i, &k)))
		i -= k;
	if (i == 0 || i == v.n || v.s[--i] != '/')
		return false;
	while (i && is_space(before(v, i, &k)))
		i -= k;
	while (i && is_digit(v.s[i - 1]))
		i--;
	return fraction(v, i, c) && c->end == v.n;
}

/* A word of two letters or more, not the name of a function, stands right at byte i. */
static bool
word_at(struct view v, size_t i)
{
	size_t k, letters = 0;
	int32_t c;

	for (; is_letter(c = at(v, i, &k)); i += k)
		letters++;
	return letters >= 2 && (c > 127 || !strchr("(^=+*/_", (int)c));
}

/* What stands before byte i ends a word, or a sentence: not a formula. */
static bool
text_before(struct view v, size_t i)
{
	size_t k;
	int32_t c;

	while (is_space(c = before(v, i, &k)))
		i -= k;
	return i == 0 || is_letter(c) || strchr(".?!:;\"')]", (int)(c < 128 ? c : ')'));
}

static bool
leading(struct view *v, bool compat)
{
	struct counter c;
	size_t k;

	if (!fraction(*v, 0, &c))
		return false;
	if (!compat) {
		bool one = c.n == 1 && c.m == 1;
		size_t i = c.end;
		if (!c.spaced || c.n < 1 || c.n > c.m)
			return false;
		if (one)
			for (; is_space(at(*v, i, &k)); i += k)
				;
		if (i < v->n && v->s[i] != '\n' && !(one ? is_letter(at(*v, i, &k)) : word_at(*v, i)))
			return false;
	}
	v->s += c.end;
	v->n -= c.end;
	return true;
}

static bool
trailing(struct view *v, bool compat)
{
	struct counter c;
	size_t k;

	if (!last_fraction(*v, &c))
		return false;
	if (!compat) {
		int32_t b = before(*v, c.start, &k);
		if (!c.spaced || c.n < 1 || c.n > c.m)
			return false;
		if (c.start && b != '\n' && !(b < 128 && strchr(".?!", (int)b)) && !(c.n == 1 && c.m == 1 && text_before(*v, c.start)))
			return false;
	}
	v->n = c.start;
	return true;
}

/* Keep what follows the first "1 / 1". */
static bool
after(struct view *v, bool compat)
{
	for (size_t i = 0; i + 5 <= v->n; i++) {
		const char *p = memmem(v->s + i, v->n - i, "1 / 1", 5);
		size_t k, end;
		if (p == NULL)
			return false;
		i = (size_t)(p - v->s);
		end = i + 5;
		if (!compat) {
			size_t next = end;
			for (; is_space(at(*v, next, &k)); next += k)
				;
			if (is_digit(before(*v, i, &k)) || !text_before(*v, i) || !is_letter(at(*v, next, &k)))
				continue;
		}
		v->s += end;
		v->n -= end;
		return true;
	}
	return false;
}

/* ---- buttons and menus --------------------------------------------------- */

static bool
language(struct view *v)
{
	static const char *const name[] = { "Arabic", "Bengali", "Chinese", "Czech", "Danish", "Dutch", "English", "Finnish", "French",
		"German", "Greek", "Hebrew", "Hindi", "Hungarian", "Indonesian", "Italian", "Japanese", "Korean", "Norwegian", "Persian",
		"Polish", "Portuguese", "Romanian", "Russian", "Spanish", "Swedish", "Thai", "Turkish", "Ukrainian", "Vietnamese" };
	static const char mark[] = "Language: ";
	bool cut = false;

	for (size_t i = 0; i < sizeof name / sizeof *name; i++) {
		struct view w = *v;
		if (drop_end(&w, name[i]) && drop_end(&w, mark)) {
			sal_strip(&w.s, &w.n);
			*v = w;
			cut = true;
		}
	}
	return cut;
}

/* ~~...Bing...~~ */
static bool
bing(struct view *v)
{
	size_t open = 0, i;

	while (open < v->n && v->s[open] == '~')
		open++;
	for (i = open; i < v->n && v->s[i] != '~'; i++)
		;
	if (open == 0 || i == v->n || memmem(v->s + open, i - open, "Bing", 4) == NULL)
		return false;
	while (i < v->n && v->s[i] == '~')
		i++;
	v->s += i;
	v->n -= i;
	return true;
}

unsigned
sal_clean(const char **text, size_t *len, bool compat)
{
	struct view v = { *text, *len };
	unsigned cut = 0;

	for (int r = 0; r < SAL_CLEAN_RULES; r++) {
		bool did = false;
		switch ((enum sal_clean_rule)r) {
		case SAL_CLEAN_LEADING: did = leading(&v, compat); break;
		case SAL_CLEAN_TRAILING: did = trailing(&v, compat); break;
		case SAL_CLEAN_AFTER: did = after(&v, compat); break;
		case SAL_CLEAN_KOREAN: did = cut_at(&v, "\uC9C0\uAE08 \uBC88\uC5ED\uD558\uAE30"); break;
		case SAL_CLEAN_MENU: did = cut_at(&v, "\n \n Language: "); break;
		case SAL_CLEAN_STRIP: did = sal_strip(&v.s, &v.n); break;
		case SAL_CLEAN_SHARE: did = drop_end(&v, "Share Prompt"); break;
		case SAL_CLEAN_TRANSLATE: did = drop_end(&v, "Translate now"); break;
		case SAL_CLEAN_LANGUAGE: did = language(&v); break;
		case SAL_CLEAN_BING: did = bing(&v); break;
		case SAL_CLEAN_RULES: break;
		}
		if (did)
			sal_strip(&v.s, &v.n);
		cut |= (unsigned)did << r;
	}
	*text = v.s;
	*len = v.n;
	return cut;
}
