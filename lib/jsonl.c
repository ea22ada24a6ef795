/* SPDX-License-Identifier: Apache-2.0 */
/* jsonl.c - strict JSON records: the scanner, typed access, output with foreign fields kept as written. */
#include "lib/jsonl.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#define MAX_DEPTH 64
#define MAX_NUMBER 63 /* cJSON copies a number into 64 bytes */
#define MAX_LINE ((size_t)64 << 20)
#define MAX_FILE ((size_t)256 << 20)
#define MAX_VALUES ((size_t)4 << 20) /* cJSON takes 64 bytes and more for each */
#define FEW_KEYS 8 /* up to here keys are compared in pairs, above they are sorted */

/* A key of an object not yet closed.  A key with escapes is compared unescaped: its bytes are in scan.plain. */
struct key {
	uint64_t hash;
	size_t at, len;
	bool plain;
};

struct scan {
	const char *text;
	size_t len, at, n_values;
	int depth;
	struct key *key; /* stack: the keys of all open objects */
	size_t n_keys, cap_keys;
	struct sal_buf plain;
	struct sal_field *field; /* of the top-level object, when want_fields */
	int n_fields, cap_fields;
	bool want_fields;
};

static int fail(const struct scan *s, const char *why)
{
	return sal_err("byte %zu: %s", s->at + 1, why);
}

static int peek(const struct scan *s)
{
	return s->at < s->len ? (unsigned char)s->text[s->at] : -1;
}

static void skip_space(struct scan *s)
{
	while (s->at < s->len) {
		char c = s->text[s->at];
		if (c != ' ' && c != '\t' && c != '\n' && c != '\r')
			break;
		s->at++;
	}
}

static int unexpected(const struct scan *s, const char *want)
{
	if (s->at >= s->len)
		return sal_err("byte %zu: ends where %s should be", s->at + 1, want);
	if (s->text[s->at] == '\0')
		return fail(s, "NUL outside a string");
	return sal_err("byte %zu: not %s", s->at + 1, want);
}

/* Length of the UTF-8 sequence at p (at most n bytes), 0 if it is not one. */
static size_t utf8_len(const unsigned char *p, size_t n)
{
	unsigned char lo = 0x80, hi = 0xBF;
	size_t k;

	if (p[0] < 0x80)
		return 1;
	if (p[0] < 0xC2 || p[0] > 0xF4)
		return 0;
	k = p[0] < 0xE0 ? 2 : p[0] < 0xF0 ? 3 : 4;
	if (p[0] == 0xE0)
		lo = 0xA0;
	else if (p[0] == 0xED)
		hi = 0x9F;
	else if (p[0] == 0xF0)
		lo = 0x90;
	else if (p[0] == 0xF4)
		hi = 0x8F;
	if (n < k || p[1] < lo || p[1] > hi)
		return 0;
	for (size_t i = 2; i < k; i++)
		if ((p[i] & 0xC0) != 0x80)
			return 0;
	return k;
}

void sal_json_put_text(struct sal_buf *b, const char *s, size_t n)
{
	sal_buf_put(b, "\"", 1);
	for (size_t i = 0; i < n;) {
		unsigned char c = (unsigned char)s[i];
		size_t k = utf8_len((const unsigned char *)s + i, n - i);
		if (k == 0 || c == 0)
			sal_buf_put(b, "\xEF\xBF\xBD", 3);
		else if (c == '"' || c == '\\')
			sal_buf_printf(b, "\\%c", c);
		else if (c < 0x20)
			sal_buf_printf(b, "\\u%04x", c);
		else
			sal_buf_put(b, s + i, k);
		i += k ? k : 1;
	}
	sal_buf_put(b, "\"", 1);
}

/* Four hex digits; -1 if they are not. */
static int hex4(const char *p, size_t n)
{
	int v = 0;

	if (n < 4)
		return -1;
	for (int i = 0; i < 4; i++) {
		int c = p[i], d;
		if (c >= '0' && c <= '9')
			d = c - '0';
		else if (c >= 'a' && c <= 'f')
			d = c - 'a' + 10;
		else if (c >= 'A' && c <= 'F')
			d = c - 'A' + 10;
		else
			return -1;
		v = v * 16 + d;
	}
	return v;
}

/* The escape at s->at (a backslash). */
static int scan_escape(struct scan *s)
{
	const char *p = s->text + s->at;
	size_t n = s->len - s->at;

	if (n < 2 || !p[1] || !strchr("\"\\/bfnrtu", p[1]))
		return fail(s, "bad escape in a string");
	if (p[1] != 'u') {
		s->at += 2;
		return 0;
	}
	int v = hex4(p + 2, n - 2);
	if (v < 0)
		return fail(s, "bad \\u escape in a string");
	if (v == 0)
		return fail(s, "NUL in a string");
	if (v >= 0xDC00 && v <= 0xDFFF)
		return fail(s, "lone surrogate in a string");
	if (v < 0xD800 || v > 0xDBFF) {
		s->at += 6;
		return 0;
	}
	int w = n >= 12 && p[6] == '\\' && p[7] == 'u' ? hex4(p + 8, n - 8) : -1;
	if (w < 0xDC00 || w > 0xDFFF)
		return fail(s, "lone surrogate in a string");
	s->at += 12;
	return 0;
}

/* A string, s->at on its opening quote; *start, *n: its inside. */
static int scan_string(struct scan *s, size_t *start, size_t *n, bool *escaped)
{
	*escaped = false;
	*start = ++s->at;
	for (;;) {
		if (s->at >= s->len)
			return fail(s, "ends inside a string");
		unsigned char c = (unsigned char)s->text[s->at];
		if (c == '"')
			break;
		if (c == '\\') {
			*escaped = true;
			if (scan_escape(s) != 0)
				return -1;
		} else if (c < 0x20) {
			return fail(s, c ? "control byte in a string" : "NUL in a string");
		} else if (c < 0x80) {
			s->at++;
		} else {
			size_t k = utf8_len((const unsigned char *)s->text + s->at, s->len - s->at);
			if (k == 0)
				return fail(s, "not UTF-8");
			s->at += k;
		}
	}
	*n = s->at++ - *start;
	return 0;
}

static int digits(struct scan *s)
{
	size_t from = s->at;

	while (peek(s) >= '0' && peek(s) <= '9')
		s->at++;
	return s->at > from ? 0 : unexpected(s, "a digit");
}

static int scan_number(struct scan *s)
{
	size_t from = s->at;
	bool exponent = false;

	if (peek(s) == '-')
		s->at++;
	if (peek(s) == '0')
		s->at++;
	else if (digits(s) != 0)
		return -1;
	if (peek(s) == '.') {
		s->at++;
		if (digits(s) != 0)
			return -1;
	}
	if (peek(s) == 'e' || peek(s) == 'E') {
		exponent = true;
		s->at++;
		if (peek(s) == '+' || peek(s) == '-')
			s->at++;
		if (digits(s) != 0)
			return -1;
	}
	size_t n = s->at - from;
	if (n > MAX_NUMBER) {
		s->at = from;
		return sal_err("byte %zu: number longer than %d digits", from + 1, MAX_NUMBER);
	}
	if (exponent) {
		char copy[MAX_NUMBER + 1];
		memcpy(copy, s->text + from, n);
		copy[n] = '\0';
		if (!isfinite(strtod(copy, NULL)))
			return sal_err("byte %zu: number too large", from + 1);
	}
	return 0;
}

static void put_utf8(struct sal_buf *b, uint32_t c)
{
	char u[4];
	size_t n;

	if (c < 0x80) {
		u[0] = (char)c;
		n = 1;
	} else if (c < 0x800) {
		u[0] = (char)(0xC0 | c >> 6);
		u[1] = (char)(0x80 | (c & 0x3F));
		n = 2;
	} else if (c < 0x10000) {
		u[0] = (char)(0xE0 | c >> 12);
		u[1] = (char)(0x80 | (c >> 6 & 0x3F));
		u[2] = (char)(0x80 | (c & 0x3F));
		n = 3;
	} else {
		u[0] = (char)(0xF0 | c >> 18);
		u[1] = (char)(0x80 | (c >> 12 & 0x3F));
		u[2] = (char)(0x80 | (c >> 6 & 0x3F));
		u[3] = (char)(0x80 | (c & 0x3F));
		n = 4;
	}
	sal_buf_put(b, u, n);
}

/* The inside of a string that the scanner accepted, unescaped. */
static void put_unescaped(struct sal_buf *b, const char *p, size_t n)
{
	static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";

	for (size_t i = 0; i < n;) {
		if (p[i] != '\\') {
			const char *next = memchr(p + i, '\\', n - i);
			size_t k = next ? (size_t)(next - p) - i : n - i;
			sal_buf_put(b, p + i, k);
			i += k;
		} else if (p[i + 1] != 'u') {
			sal_buf_put(b, &to[strchr(from, p[i + 1]) - from], 1);
			i += 2;
		} else {
			uint32_t c = (uint32_t)hex4(p + i + 2, 4);
			i += 6;
			if (c >= 0xD800 && c <= 0xDBFF) {
				c = 0x10000 + ((c - 0xD800) << 10) + ((uint32_t)hex4(p + i + 2, 4) - 0xDC00);
				i += 6;
			}
			put_utf8(b, c);
		}
	}
}

static const char *key_bytes(const struct scan *s, const struct key *k)
{
	return (k->plain ? s->plain.data : s->text) + k->at;
}

static int push_key(struct scan *s, size_t start, size_t n, bool escaped)
{
	if (s->n_keys == s->cap_keys) {
		size_t cap = s->cap_keys ? s->cap_keys * 2 : 32;
		struct key *p = realloc(s->key, cap * sizeof *p);
		if (!p)
			return sal_err("out of memory");
		s->key = p;
		s->cap_keys = cap;
	}
	struct key *k = &s->key[s->n_keys++];
	*k = (struct key){ .at = start, .len = n, .plain = escaped };
	if (escaped) {
		k->at = s->plain.len;
		put_unescaped(&s->plain, s->text + start, n);
		if (s->plain.failed)
			return sal_err("out of memory");
		k->len = s->plain.len - k->at;
	}
	k->hash = sal_hash(key_bytes(s, k), k->len);
	return 0;
}

static int by_hash(const void *a, const void *b)
{
	uint64_t x = ((const struct key *)a)->hash, y = ((const struct key *)b)->hash;

	return x < y ? -1 : x > y;
}

static int same_key(const struct scan *s, const struct key *a, const struct key *b)
{
	if (a->hash != b->hash || a->len != b->len || memcmp(key_bytes(s, a), key_bytes(s, b), a->len) != 0)
		return 0;
	return sal_err("byte %zu: key \"%.*s\" twice in an object", s->at, (int)(a->len > 100 ? 100 : a->len), key_bytes(s, a));
}

/* The object whose keys start at base is complete: no key twice. */
static int check_keys(struct scan *s, size_t base)
{
	size_t n = s->n_keys - base;
	struct key *k = s->key + base;

	if (n > FEW_KEYS)
		qsort(k, n, sizeof *k, by_hash);
	for (size_t i = 0; i < n; i++)
		for (size_t j = i + 1; j < n && (n <= FEW_KEYS || k[j].hash == k[i].hash); j++)
			if (same_key(s, &k[i], &k[j]) != 0)
				return -1;
	return 0;
}

static int note_field(struct scan *s, struct sal_field f)
{
	if (s->n_fields == s->cap_fields) {
		if (s->cap_fields > INT_MAX / 2)
			return sal_err("too many fields");
		int cap = s->cap_fields ? s->cap_fields * 2 : 16;
		struct sal_field *p = realloc(s->field, (size_t)cap * sizeof *p);
		if (!p)
			return sal_err("out of memory");
		s->field = p;
		s->cap_fields = cap;
	}
	s->field[s->n_fields++] = f;
	return 0;
}

static int scan_value(struct scan *s);

static int scan_member(struct scan *s)
{
	struct sal_field f = { .start = s->at };
	bool escaped;

	if (peek(s) != '"')
		return unexpected(s, "a key");
	if (scan_string(s, &f.key, &f.key_len, &escaped) != 0 || push_key(s, f.key, f.key_len, escaped) != 0)
		return -1;
	skip_space(s);
	if (peek(s) != ':')
		return unexpected(s, "':'");
	s->at++;
	skip_space(s);
	if (scan_value(s) != 0)
		return -1;
	f.len = s->at - f.start;
	return s->want_fields && s->depth == 1 ? note_field(s, f) : 0;
}

/* An array or object; the depth is bounded, so is the recursion. */
static int scan_nested(struct scan *s, bool object)
{
	char close = object ? '}' : ']';
	size_t base = s->n_keys, plain = s->plain.len;

	if (s->depth == MAX_DEPTH)
		return sal_err("byte %zu: nested deeper than %d", s->at + 1, MAX_DEPTH);
	s->depth++;
	s->at++;
	skip_space(s);
	if (peek(s) == close) {
		s->at++;
		s->depth--;
		return 0;
	}
	for (;;) {
		if ((object ? scan_member(s) : scan_value(s)) != 0)
			return -1;
		skip_space(s);
		int c = peek(s);
		if (c != ',' && c != close)
			return unexpected(s, object ? "',' or '}'" : "',' or ']'");
		s->at++;
		if (c == close)
			break;
		skip_space(s);
	}
	if (object && check_keys(s, base) != 0)
		return -1;
	s->n_keys = base;
	s->plain.len = plain;
	s->depth--;
	return 0;
}

static int scan_word(struct scan *s, const char *word)
{
	size_t n = strlen(word);

	if (s->len - s->at < n || memcmp(s->text + s->at, word, n) != 0)
		return unexpected(s, "a JSON value");
	s->at += n;
	return 0;
}

static int scan_value(struct scan *s)
{
	size_t start, n;
	bool escaped;
	int c = peek(s);

	if (++s->n_values > MAX_VALUES)
		return sal_err("byte %zu: more than %zu values", s->at + 1, MAX_VALUES);
	switch (c) {
	case '{':
		return scan_nested(s, true);
	case '[':
		return scan_nested(s, false);
	case '"':
		return scan_string(s, &start, &n, &escaped);
	case 't':
		return scan_word(s, "true");
	case 'f':
		return scan_word(s, "false");
	case 'n':
		return scan_word(s, "null");
	default:
		return c == '-' || (c >= '0' && c <= '9') ? scan_number(s) : unexpected(s, "a JSON value");
	}
}

/* One JSON text and nothing after it. */
static int scan_text(struct scan *s)
{
	if (s->len >= 3 && memcmp(s->text, "\xEF\xBB\xBF", 3) == 0)
		return fail(s, "byte order mark");
	skip_space(s);
	if (scan_value(s) != 0)
		return -1;
	skip_space(s);
	return s->at == s->len ? 0 : unexpected(s, "the end (bytes after the JSON text)");
}

static void scan_free(struct scan *s)
{
	free(s->key);
	sal_buf_free(&s->plain);
}

struct sal_record *sal_record_parse(const char *text, size_t len, long line)
{
	struct scan s = { .want_fields = true };
	struct sal_record *r = calloc(1, sizeof *r);

	if (!r || !(r->text = malloc(len + 1))) {
		sal_err("out of memory");
		goto fail;
	}
	if (len)
		memcpy(r->text, text, len);
	r->text[len] = '\0';
	r->text_len = len;
	r->line = line;
	if (len && memchr(text, '\n', len)) {
		sal_err("newline inside a record");
		goto fail;
	}
	s.text = r->text;
	s.len = len;
	if (scan_text(&s) != 0)
		goto fail;
	r->field = s.field;
	r->n_fields = s.n_fields;
	s.field = NULL;
	if (r->text[strspn(r->text, " \t\r")] != '{') {
		sal_err("not a JSON object");
		goto fail;
	}
	r->json = cJSON_ParseWithLengthOpts(r->text, len + 1, NULL, 1);
	if (!r->json) {
		sal_err("out of memory");
		goto fail;
	}
	scan_free(&s);
	return r;
fail:
	free(s.field);
	scan_free(&s);
	sal_record_free(r);
	return NULL;
}

void sal_record_free(struct sal_record *r)
{
	if (!r)
		return;
	cJSON_Delete(r->json);
	free(r->text);
	free(r->field);
	sal_buf_free(&r->out);
	free(r);
}

cJSON *sal_json_parse(const char *text, size_t len, const char *name)
{
	struct scan s = { .text = text, .len = len };
	cJSON *json = NULL;

	if (scan_text(&s) != 0)
		sal_err("%s: %s", name, sal_errmsg());
	else if (!(json = cJSON_ParseWithLength(text, len)))
		sal_err("%s: out of memory", name);
	scan_free(&s);
	return json;
}

cJSON *sal_json_read(const char *path)
{
	size_t len;
	char *text = sal_read_file(path, MAX_FILE, &len);
	cJSON *json = text ? sal_json_parse(text, len, path) : NULL;

	free(text);
	return json;
}

/* A member of obj; NULL with an error line if there is none. */
static const cJSON *member(const cJSON *obj, const char *name)
{
	const cJSON *v = cJSON_GetObjectItemCaseSensitive(obj, name);

	if (!v)
		sal_err("%s: missing", name);
	return v;
}

const char *sal_json_str(const cJSON *obj, const char *name)
{
	const cJSON *v = member(obj, name);

	if (!v)
		return NULL;
	if (!cJSON_IsString(v)) {
		sal_err("%s: not a string", name);
		return NULL;
	}
	return v->valuestring;
}

int sal_json_num(const cJSON *obj, const char *name, double *out)
{
	const cJSON *v = member(obj, name);

	if (!v)
		return -1;
	if (!cJSON_IsNumber(v))
		return sal_err("%s: not a number", name);
	*out = v->valuedouble;
	return 0;
}

int sal_json_int(const cJSON *obj, const char *name, int64_t min, int64_t max, int64_t *out)
{
	double x = 0;

	if (sal_json_num(obj, name, &x) != 0)
		return -1;
	if (x != floor(x))
		return sal_err("%s: %.17g is not a whole number", name, x);
	if (x < -0x1p63 || x >= 0x1p63 || (int64_t)x < min || (int64_t)x > max)
		return sal_err("%s: %.17g is not in %" PRId64 "..%" PRId64, name, x, min, max);
	*out = (int64_t)x;
	return 0;
}

bool sal_json_has(const cJSON *obj, const char *name)
{
	const cJSON *v = cJSON_GetObjectItemCaseSensitive(obj, name);

	return v && !cJSON_IsNull(v);
}

static const cJSON *array_member(const cJSON *obj, const char *name)
{
	const cJSON *v = member(obj, name);

	if (v && !cJSON_IsArray(v)) {
		sal_err("%s: not an array", name);
		return NULL;
	}
	return v;
}

int sal_json_ids(const cJSON *obj, const char *name, int vocab, struct sal_ids *out)
{
	const cJSON *v = array_member(obj, name);
	int i = 0, before = out->n;

	if (!v)
		return -1;
	for (const cJSON *e = v->child; e; e = e->next, i++) {
		double x = e->valuedouble;
		if (!cJSON_IsNumber(e))
			sal_err("%s[%d]: not a number", name, i);
		else if (!(x >= 0 && x < vocab && x == floor(x)))
			sal_err("%s[%d]: %.17g is not a token id (0..%d)", name, i, x, vocab - 1);
		else if (sal_ids_push(out, (int32_t)x) == 0)
			continue;
		out->n = before;
		return -1;
	}
	return 0;
}

int sal_json_floats(const cJSON *obj, const char *name, float **out, int *n)
{
	const cJSON *v = array_member(obj, name);
	int i = 0;

	if (!v)
		return -1;
	int count = cJSON_GetArraySize(v);
	float *x = malloc(((size_t)count + 1) * sizeof *x);
	if (!x)
		return sal_err("out of memory");
	for (const cJSON *e = v->child; e; e = e->next, i++) {
		if (!cJSON_IsNumber(e))
			sal_err("%s[%d]: not a number", name, i);
		else if (!isfinite((float)e->valuedouble))
			sal_err("%s[%d]: %.17g is too large for a float", name, i, e->valuedouble);
		else {
			x[i] = (float)e->valuedouble;
			continue;
		}
		free(x);
		return -1;
	}
	*out = x;
	*n = count;
	return 0;
}

/* A key as JSON text. */
static void put_key(struct sal_buf *b, const char *s)
{
	sal_buf_put(b, "\"", 1);
	for (; *s; s++) {
		if (*s == '"' || *s == '\\')
			sal_buf_printf(b, "\\%c", *s);
		else if ((unsigned char)*s < 0x20)
			sal_buf_printf(b, "\\u%04x", (unsigned)*s);
		else
			sal_buf_put(b, s, 1);
	}
	sal_buf_put(b, "\":", 2);
}

static bool dropped(const char *key, const cJSON *add, const char *const *drop)
{
	for (; drop && *drop; drop++)
		if (strcmp(key, *drop) == 0)
			return true;
	return add && cJSON_GetObjectItemCaseSensitive(add, key) != NULL;
}

int sal_record_emit(struct sal_record *r, const cJSON *add, const char *const *drop)
{
	struct sal_buf *b = &r->out, key = { 0 };
	size_t before = b->len;
	const char *comma = "";

	sal_buf_put(b, "{", 1);
	for (int i = 0; i < r->n_fields; i++) {
		const struct sal_field *f = &r->field[i];
		key.len = 0;
		sal_buf_put(&key, "", 0); /* an empty key is a key */
		put_unescaped(&key, r->text + f->key, f->key_len);
		if (key.failed)
			goto memory;
		if (dropped(key.data, add, drop))
			continue;
		sal_buf_puts(b, comma);
		sal_buf_put(b, r->text + f->start, f->len);
		comma = ",";
	}
	for (const cJSON *m = add ? add->child : NULL; m; m = m->next) {
		sal_buf_puts(b, comma);
		put_key(b, m->string ? m->string : "");
		comma = ",";
		if (cJSON_IsRaw(m)) {
			sal_buf_puts(b, m->valuestring);
			continue;
		}
		char *text = cJSON_PrintUnformatted(m);
		if (!text)
			goto memory;
		sal_buf_puts(b, text);
		cJSON_free(text);
	}
	sal_buf_put(b, "}\n", 2);
	if (b->failed)
		goto memory;
	sal_buf_free(&key);
	return 0;
memory:
	sal_buf_free(&key);
	if (b->data && before <= b->len) {
		b->len = before;
		b->data[before] = '\0';
	}
	return sal_err("out of memory");
}

static int add_raw(cJSON *obj, const char *name, const char *text)
{
	return cJSON_AddRawToObject(obj, name, text) ? 0 : sal_err("%s: out of memory", name);
}

int sal_json_add_float(cJSON *obj, const char *name, float x)
{
	char text[32];

	if (!isfinite(x))
		return sal_err("%s: not finite", name);
	snprintf(text, sizeof text, "%.9g", (double)x);
	return add_raw(obj, name, text);
}

int sal_json_add_double(cJSON *obj, const char *name, double x)
{
	char text[40];

	if (!isfinite(x))
		return sal_err("%s: not finite", name);
	snprintf(text, sizeof text, "%.17g", x);
	return add_raw(obj, name, text);
}

/* Close the array text in b and make it a member. */
static int add_array(cJSON *obj, const char *name, struct sal_buf *b)
{
	sal_buf_put(b, "]", 1);
	int rc = b->failed ? sal_err("%s: out of memory", name) : add_raw(obj, name, b->data);
	sal_buf_free(b);
	return rc;
}

int sal_json_add_floats(cJSON *obj, const char *name, const float *x, int n)
{
	struct sal_buf b = { 0 };
	char text[32];

	sal_buf_put(&b, "[", 1);
	for (int i = 0; i < n; i++) {
		if (!isfinite(x[i])) {
			sal_buf_free(&b);
			return sal_err("%s[%d]: not finite", name, i);
		}
		int k = snprintf(text, sizeof text, "%s%.9g", i ? "," : "", (double)x[i]);
		sal_buf_put(&b, text, (size_t)k);
	}
	return add_array(obj, name, &b);
}

int sal_json_add_ids(cJSON *obj, const char *name, const int32_t *id, int n)
{
	struct sal_buf b = { 0 };
	char text[16];

	sal_buf_put(&b, "[", 1);
	for (int i = 0; i < n; i++) {
		int k = snprintf(text, sizeof text, "%s%" PRId32, i ? "," : "", id[i]);
		sal_buf_put(&b, text, (size_t)k);
	}
	return add_array(obj, name, &b);
}

/* The text of a top-level value as written; NULL if there is no such field. */
static const char *raw_value(const struct sal_record *r, const char *name, size_t *len)
{
	struct sal_buf key = { 0 };
	const char *value = NULL;

	for (int i = 0; i < r->n_fields && !value; i++) {
		const struct sal_field *f = &r->field[i];
		key.len = 0;
		sal_buf_put(&key, "", 0);
		put_unescaped(&key, r->text + f->key, f->key_len);
		if (key.failed || strcmp(key.data, name) != 0)
			continue;
		const char *end = r->text + f->start + f->len;
		value = r->text + f->key + f->key_len + 1; /* after the quote */
		while (*value != ':')
			value++;
		value++;
		while (strchr(" \t\r\n", *value))
			value++;
		*len = (size_t)(end - value);
	}
	sal_buf_free(&key);
	return value;
}

static char *hash_name(const void *p, size_t n)
{
	char *s = malloc(17);

	if (s)
		snprintf(s, 17, "%016" PRIx64, sal_hash(p, n));
	else
		sal_err("out of memory");
	return s;
}

char *sal_record_id(const struct sal_record *r)
{
	static const char *const source[] = { "prompt", "messages", "prompt_tokens" };
	const cJSON *ask = cJSON_GetObjectItemCaseSensitive(r->json, "instruction"), *input = cJSON_GetObjectItemCaseSensitive(r->json, "input");
	const cJSON *id = cJSON_GetObjectItemCaseSensitive(r->json, "id");
	const char *text;
	size_t n = 0;
	char *copy;

	if (id && !cJSON_IsNull(id)) {
		if (cJSON_IsString(id)) {
			text = id->valuestring;
			n = strlen(text);
		} else if (!cJSON_IsNumber(id) || !(text = raw_value(r, "id", &n))) {
			sal_err("id: neither a string nor a number");
			return NULL;
		}
		copy = strndup(text, n);
		if (!copy)
			sal_err("out of memory");
		return copy;
	}
	if (cJSON_IsString(ask)) {
		struct sal_buf b = { 0 };
		sal_buf_puts(&b, ask->valuestring);
		if (cJSON_IsString(input) && input->valuestring[0])
			sal_buf_printf(&b, "\n\n%s", input->valuestring);
		copy = b.failed ? NULL : hash_name(b.data ? b.data : "", b.len);
		sal_buf_free(&b);
		return copy;
	}
	/* a prompt that is a string: its text; messages: their JSON as written */
	for (size_t i = 0; i < sizeof source / sizeof *source; i++) {
		const cJSON *p = cJSON_GetObjectItemCaseSensitive(r->json, source[i]);
		if (cJSON_IsString(p))
			return hash_name(p->valuestring, strlen(p->valuestring));
		if (p && !cJSON_IsNull(p) && (text = raw_value(r, source[i], &n)) != NULL)
			return hash_name(text, n);
	}
	sal_err("neither id nor prompt");
	return NULL;
}

struct sal_jsonl {
	FILE *f;
	char *name;
	struct sal_buf line; /* grown by hand: only put() */
	long number;
	bool ended;
};

struct sal_jsonl *sal_jsonl_open(FILE *f, const char *name)
{
	struct sal_jsonl *in = calloc(1, sizeof *in);

	if (in)
		in->name = strdup(name);
	if (!in || !in->name) {
		free(in);
		sal_err("%s: out of memory", name);
		return NULL;
	}
	in->f = f;
	return in;
}

void sal_jsonl_close(struct sal_jsonl *in)
{
	if (!in)
		return;
	sal_buf_free(&in->line);
	free(in->name);
	free(in);
}

long sal_jsonl_line(const struct sal_jsonl *in)
{
	return in->number;
}

const char *sal_jsonl_text(const struct sal_jsonl *in, size_t *len)
{
	*len = in->line.len;
	return in->line.data ? in->line.data : "";
}

/* One line into in->line, without its end. 1: a line, 0: end of input, -1: too long (skipped to its end), -2: read error. */
static int read_line(struct sal_jsonl *in)
{
	char chunk[4096];
	size_t n = 0;
	bool too_long = false, any = false;
	int c;

	in->line.len = 0;
	if (in->ended)
		return 0;
	errno = 0;
	flockfile(in->f);
	while ((c = getc_unlocked(in->f)) != EOF && c != '\n') {
		any = true;
		if (too_long)
			continue;
		chunk[n++] = (char)c;
		if (n == sizeof chunk) {
			sal_buf_put(&in->line, chunk, n);
			n = 0;
			too_long = in->line.len > MAX_LINE;
		}
	}
	int why = errno;
	funlockfile(in->f);
	sal_buf_put(&in->line, chunk, n);
	if (c == EOF) {
		in->ended = true;
		if (ferror(in->f)) {
			sal_err("%s: %s", in->name, strerror(why ? why : EIO));
			return -2;
		}
		if (!any)
			return 0;
	}
	in->number++;
	if (in->line.failed) {
		sal_err("%s: out of memory", in->name);
		return -2;
	}
	if (in->line.len && in->line.data[in->line.len - 1] == '\r')
		in->line.data[--in->line.len] = '\0';
	if (in->line.len > MAX_LINE) {
		sal_err("line longer than %zu MiB", MAX_LINE >> 20);
		return -1;
	}
	return 1;
}

int sal_jsonl_next(struct sal_jsonl *in, struct sal_record **r)
{
	*r = NULL;
	for (;;) {
		int rc = read_line(in);
		if (rc != 1)
			return rc;
		size_t i = 0;
		while (i < in->line.len && strchr(" \t\r", in->line.data[i]) && in->line.data[i])
			i++;
		if (i == in->line.len)
			continue;
		*r = sal_record_parse(in->line.data, in->line.len, in->number);
		return *r ? 1 : -1;
	}
}
