/* SPDX-License-Identifier: Apache-2.0 */
/* selfalign.c - the ten rules of Self-Align, in their order, with a count each. */
#define _GNU_SOURCE /* memmem */
#include "lib/selfalign.h"
#include "lib/chat.h"
#include "lib/clean.h"
#include "lib/prompt.h"
#include <stdlib.h>
#include <string.h>

#define QUOTE 16 /* an instruction or input longer than this is one that can be quoted, or promoted */
#define LOOP 3

struct sal_selfalign {
	const struct sal_selfalign_config *cfg;
	cJSON *texts;
	const char *opening, *answer, *user, *end, *delimiters, *from, *to;
	const cJSON *never;
	long dropped[SAL_SELFALIGN_RULES], changed[SAL_SELFALIGN_RULES], kept, complete;
};
static const char *const rule_name[SAL_SELFALIGN_RULES] = {
	"does not begin with the fixed sentence", "no answer after the thoughts", "a loop at the end is cut",
	"complete and too short; cut at the last space", "quotes its instruction or input", "a long input becomes the instruction",
	"has a text of the prompt or its examples", "is empty", "the name is changed", "numbered",
};

struct sample { /* on its way */
	char *response, *instruction, *input; /* instruction: NULL when the record has none under that name */
	char *ask;                            /* what was asked, under any name */
	bool stopped, complete;               /* it ended by itself; its answer did */
};

/* ---- opening ------------------------------------------------------------- */

static int
get(const cJSON *j, const char *name, const char **out)
{
	*out = sal_json_str(j, name);
	return *out ? **out ? 0 : sal_err("%s: empty", name) : -1;
}

static int
read_texts(struct sal_selfalign *s)
{
	const cJSON *e, *rename = cJSON_GetObjectItemCaseSensitive(s->texts, "rename");

	if (!cJSON_IsObject(s->texts))
		return sal_err("not an object");
	if (get(s->texts, "opening", &s->opening) != 0 || get(s->texts, "answer", &s->answer) != 0 || get(s->texts, "user", &s->user) != 0 ||
	    get(s->texts, "end", &s->end) != 0 || get(s->texts, "delimiters", &s->delimiters) != 0)
		return -1;
	s->never = cJSON_GetObjectItemCaseSensitive(s->texts, "never");
	if (!cJSON_IsArray(s->never))
		return sal_err("never: not an array");
	cJSON_ArrayForEach(e, s->never)
		if (!cJSON_IsString(e) || !e->valuestring[0])
			return sal_err("never: not an array of texts");
	if (!cJSON_IsArray(rename) || cJSON_GetArraySize(rename) != 2 || !cJSON_IsString(rename->child) || !rename->child->valuestring[0] ||
	    !cJSON_IsString(rename->child->next))
		return sal_err("rename: not two texts");
	s->from = rename->child->valuestring;
	s->to = rename->child->next->valuestring;
	return 0;
}

struct sal_selfalign *
sal_selfalign_open(const struct sal_selfalign_config *cfg)
{
	struct sal_selfalign *s = calloc(1, sizeof *s);
	char *path = sal_prompt_path(cfg->rules), why[1024];
	int rc = -1;

	if (s)
		s->cfg = cfg;
	else
		sal_err("out of memory");
	if (s && path && (s->texts = sal_json_read(path)) != NULL && (rc = read_texts(s)) != 0) {
		snprintf(why, sizeof why, "%s", sal_errmsg());
		sal_err("%s: %s", path, why);
	}
	free(path);
	if (rc != 0) {
		sal_selfalign_close(s);
		return NULL;
	}
	return s;
}

void
sal_selfalign_close(struct sal_selfalign *s)
{
	if (s)
		cJSON_Delete(s->texts);
	free(s);
}

/* ---- records ------------------------------------------------------------- */

static void
release(void *ctx, struct sal_group *g)
{
	struct sample *a = g->user;

	(void)ctx;
	if (a == NULL)
		return;
	free(a->response);
	free(a->instruction);
	free(a->input);
	free(a->ask);
	free(a);
	g->user = NULL;
}

static char *
copy(const char *s)
{
	char *t = s ? strdup(s) : NULL;

	if (s && t == NULL)
		sal_err("out of memory");
	return t;
}

/* response; or output of the release: a text, or {"generation": text}. */
static const char *
response_of(const cJSON *j)
{
	const cJSON *out = cJSON_GetObjectItemCaseSensitive(j, "output");

	if (sal_json_has(j, "response") || out == NULL)
		return sal_json_str(j, "response");
	return cJSON_IsObject(out) ? sal_json_str(out, "generation") : sal_json_str(j, "output");
}

static int
prepare(void *ctx, struct sal_group *g)
{
	const cJSON *j = g->rec[0]->json, *stop = cJSON_GetObjectItemCaseSensitive(j, "has_stop");
	struct sample *a = g->user = calloc(1, sizeof *a);

	(void)ctx;
	if (a == NULL)
		return sal_err("out of memory");
	if (stop && !cJSON_IsBool(stop) && !cJSON_IsNull(stop))
		return sal_err("has_stop: neither true nor false");
	a->stopped = cJSON_IsTrue(stop);
	if ((a->response = copy(response_of(j))) == NULL)
		return -1;
	if (!sal_json_has(j, "instruction"))
		return (a->ask = sal_chat_instruction(j)) ? 0 : -1;
	if ((a->instruction = copy(sal_json_str(j, "instruction"))) == NULL || (a->ask = copy(a->instruction)) == NULL)
		return -1;
	return sal_json_has(j, "input") && (a->input = copy(sal_json_str(j, "input"))) == NULL ? -1 : 0;
}

/* ---- the rules ----------------------------------------------------------- */

static size_t
chars(const char *s, size_t n)
{
	size_t k = 0;

	for (size_t i = 0; i < n; i++)
		k += ((unsigned char)s[i] & 0xC0) != 0x80;
	return k;
}

struct piece {
	uint64_t hash;
	uint32_t start, len;
	bool repeated;
};

static int
by_hash(const void *a, const void *b)
{
	const struct piece *x = *(struct piece *const *)a, *y = *(struct piece *const *)b;

	return x->hash != y->hash ? (x->hash < y->hash ? -1 : 1) : x->start < y->start ? -1 : x->start > y->start;
}

/* Mark the pieces that stood before. */
static int
mark(struct piece *p, size_t n)
{
	struct piece **q = malloc((n + 1) * sizeof *q);

	if (q == NULL)
		return -1;
	for (size_t i = 0; i < n; i++)
		q[i] = &p[i];
	qsort(q, n, sizeof *q, by_hash);
	for (size_t i = 1; i < n; i++)
		q[i]->repeated = q[i]->hash == q[i - 1]->hash;
	free(q);
	return 0;
}

/* Whether the last piece, which may have been cut off, is how an earlier one begins. */
static bool
begins_one(const char *text, const struct piece *p, size_t n)
{
	const struct piece *last = &p[n - 1];

	for (size_t i = 0; i + 1 < n; i++)
		if (p[i].len >= last->len && memcmp(text + p[i].start, text + last->start, last->len) == 0)
			return true;
	return false;
}

size_t
sal_selfalign_loop(const char *text, size_t len, const char *delimiters, bool first)
{
	size_t n = 1, at, cut = len;
	struct piece *p;

	for (size_t i = 0; i < len; i++)
		n += strchr(delimiters, text[i]) != NULL;
	if (len >= UINT32_MAX || (p = malloc(n * sizeof *p)) == NULL)
		return SIZE_MAX;
	n = 0;
	for (size_t i = 0, k; i < len; i = k) {
		for (k = i; k < len && !strchr(delimiters, text[k]); k++)
			;
		k += k < len;
		if (k - i > 1 || !strchr(delimiters, text[i])) /* a delimiter alone is no piece */
			p[n++] = (struct piece){ sal_hash(text + i, k - i), (uint32_t)i, (uint32_t)(k - i), false };
	}
	if (mark(p, n) != 0) {
		free(p);
		return SIZE_MAX;
	}
	if (first) {
		for (at = 0; at < n && !p[at].repeated; at++)
			;
		cut = at < n ? p[at].start : len;
	} else if (n) {
		p[n - 1].repeated |= begins_one(text, p, n);
		for (at = n; at > 0 && p[at - 1].repeated; at--)
			;
		cut = n - at >= LOOP ? p[at].start : len;
	}
	free(p);
	return cut;
}

static char *
replace(const char *s, const char *from, const char *to, bool *any)
{
	struct sal_buf b = { 0 };

	for (const char *p; (p = strstr(s, from)) != NULL; s = p + strlen(from)) {
		sal_buf_put(&b, s, (size_t)(p - s));
		sal_buf_puts(&b, to);
		*any = true;
	}
	sal_buf_puts(&b, s);
	if (b.failed)
		sal_err("out of memory");
	return b.failed ? NULL : b.data;
}

static bool
quotes(const char *answer, const char *s)
{
	return s && chars(s, strlen(s)) > QUOTE && strstr(answer, s) != NULL;
}

static bool
has_any(const char *s, const cJSON *list)
{
	const cJSON *e;

	cJSON_ArrayForEach(e, list)
		if (strstr(s, e->valuestring))
			return true;
	return false;
}

static int
drop(struct sal_selfalign *s, int rule)
{
	s->dropped[rule - 1]++;
	return 1;
}

/* Rules 1 to 4: the answer, at the beginning of a->response.  1: dropped. */
static int
find_answer(struct sal_selfalign *s, struct sample *a)
{
	const char *p = a->response, *end;
	size_t n = strlen(p), keep, whole;

	sal_strip(&p, &n);
	if (n < strlen(s->opening) || memcmp(p, s->opening, strlen(s->opening)) != 0)
		return drop(s, 1);
	if ((p = strstr(p, s->answer)) == NULL)
		return drop(s, 2);
	p += strlen(s->answer);
	n = strlen(p);
	sal_strip(&p, &n);
	/* the release looks for repetitions beyond the answer; a loop is one that lasts to its end */
	end = memmem(p, n, s->user, strlen(s->user));
	if (end && !s->cfg->compat)
		n = (size_t)(end - p);
	whole = n;
	if ((keep = sal_selfalign_loop(p, n, s->delimiters, s->cfg->compat)) == SIZE_MAX)
		return sal_err("out of memory");
	if (keep < n) {
		s->changed[2]++;
		n = keep;
		end = s->cfg->compat && end && end + strlen(s->user) <= p + n ? end : NULL;
		a->stopped = false;
	}
	if (end && s->cfg->compat)
		n = (size_t)(end - p);
	sal_strip(&p, &n);
	a->complete = end != NULL || a->stopped;
	if (a->complete && chars(p, n) + chars(s->end, strlen(s->end)) < (size_t)s->cfg->min_chars)
		return drop(s, 4);
	if (!a->complete && (keep == whole || s->cfg->compat)) { /* after a loop was cut, the last piece is whole */
		size_t k = n;
		while (k > 0 && p[k - 1] != ' ')
			k--;
		n = k ? k - 1 : n;
		s->changed[3]++;
	}
	memmove(a->response, p, n);
	a->response[n] = '\0';
	return 0;
}

/* All rules: 0: the record stays, 1: it is dropped, -1. */
static int
judge(struct sal_selfalign *s, struct sample *a)
{
	bool renamed = false;
	int rc = find_answer(s, a);
	char *answer;

	if (rc != 0)
		return rc;
	if (quotes(a->response, a->ask) || quotes(a->response, a->input))
		return drop(s, 5);
	if (a->input && chars(a->input, strlen(a->input)) > QUOTE) {
		free(a->instruction);
		a->instruction = a->input;
		a->input = NULL;
		s->changed[5]++;
		if ((a->input = copy("")) == NULL)
			return -1;
	}
	if (has_any(a->response, s->never))
		return drop(s, 7);
	if (a->response[0] == '\0')
		return drop(s, 8);
	if ((answer = replace(a->response, s->from, s->to, &renamed)) == NULL)
		return -1;
	free(a->response);
	a->response = answer;
	s->changed[8] += renamed;
	s->complete += a->complete;
	s->kept++;
	return 0;
}

/* What described the raw sample goes; a prompt that stands beside an instruction was the text that the base model read. */
static int
emit(const struct sal_selfalign *s, const struct sample *a, struct sal_record *r)
{
	static const char *const gone[] = { "prompt", "output", "prompt_tokens", "response_tokens", "logprobs", "entropies", "policy", NULL };
	cJSON *o = cJSON_CreateObject();
	struct sal_buf text = { 0 };
	int rc = 0;

	sal_buf_printf(&text, "%s%s", a->response, a->complete && s->cfg->compat ? s->end : "");
	if (text.failed || (a->instruction && !cJSON_AddStringToObject(o, "instruction", a->instruction)) ||
	    (a->input && !cJSON_AddStringToObject(o, "input", a->input)) || !cJSON_AddStringToObject(o, "response", text.data) ||
	    !cJSON_AddStringToObject(o, "finish_reason", a->complete ? "stop" : "length") || !cJSON_AddBoolToObject(o, "has_stop", a->complete) ||
	    (s->cfg->number && !cJSON_AddNumberToObject(o, "example_id", (double)s->kept)))
		rc = sal_err("out of memory");
	else
		rc = sal_record_emit(r, o, a->instruction ? gone : gone + 1);
	sal_buf_free(&text);
	cJSON_Delete(o);
	return rc;
}

static int
run(void *ctx, struct sal_group **g, int n)
{
	int rc = 0;

	for (int i = 0; i < n && rc >= 0; i++) {
		rc = judge(ctx, g[i]->user);
		if (rc == 0)
			rc = emit(ctx, g[i]->user, g[i]->rec[0]);
	}
	return rc < 0 ? -1 : 0;
}

static int
plan(void *ctx, struct sal_buf *out)
{
	const struct sal_selfalign *s = ctx;

	sal_buf_printf(out, "texts of %s, complete answers of %d characters or more%s%s\n", s->cfg->rules, s->cfg->min_chars,
	    s->cfg->number ? ", numbered" : "", s->cfg->compat ? ", as in the release" : "");
	return 0;
}

struct sal_filter
sal_selfalign_filter(struct sal_selfalign *s)
{
	return (struct sal_filter){ .ctx = s, .window = 1, .prepare = prepare, .run = run, .release = release, .plan = plan };
}

void
sal_selfalign_report(const struct sal_selfalign *s, struct sal_buf *b)
{
	sal_buf_puts(b, "   dropped   changed  rule\n");
	for (int i = 0; i < SAL_SELFALIGN_RULES; i++)
		sal_buf_printf(b, "%10ld %9ld  %d %s\n", s->dropped[i], i == 9 && s->cfg->number ? s->kept : s->changed[i], i + 1, rule_name[i]);
	sal_buf_printf(b, "%ld kept: %ld complete, %ld cut off\n", s->kept, s->complete, s->kept - s->complete);
}
