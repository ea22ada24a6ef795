/* SPDX-License-Identifier: Apache-2.0 */
/* talk.c - one sequence that grows: its keys and values stay, turn by turn. */
#include "lib/talk.h"
#include "lib/jsonl.h"
#include "lib/random.h"
#include "lib/reader.h"
#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#define ROWS 512 /* of a forward pass at most: changes no bit */

struct sal_talk {
	const struct sal_talk_config *cfg;
	struct sal_reader r;
	char *adapter; /* the folder of r.a */
	bool raw;      /* format none: a question is read by itself */
	const char *system; /* turn; NULL: the format's own */
	const char **stop;
	int n_stop;
	char **turn; /* the user's at even places, the answers at odd ones */
	int n_turns, first; /* first: the oldest that is still read */
	struct sal_ids prompt; /* of the question at hand */
	char *id;
	struct sal_ids stored; /* tokens whose keys and values are in the pages */
	struct sal_engine *e;
	struct sal_arena *arena;
	struct sal_tensor h, idx, logits, u, token, logprob;
	int32_t *page;
	int n_pages, context;
	struct sal_ids answer;
	struct sal_buf text, shown;
	struct sal_talk_state state;
};

static int
engine(struct sal_talk *t)
{
	int rows = t->context < ROWS ? t->context : ROWS;
	struct sal_engine *e = sal_engine_new(t->r.m, SAL_DECODE, rows, 1, t->n_pages, t->n_pages, t->r.a ? t->r.a->r : 0);

	if (e == NULL)
		return -1;
	sal_engine_free(t->e);
	t->e = e;
	t->stored.n = 0;
	return 0;
}

static int
buffers(struct sal_talk *t)
{
	struct sal_model *m = t->r.m;
	int v = m->cfg.vocab_size, c = m->cfg.hidden_size;

	if ((t->page = malloc((size_t)t->n_pages * sizeof *t->page)) == NULL)
		return sal_err("out of memory");
	for (int i = 0; i < t->n_pages; i++)
		t->page[i] = i;
	t->arena = sal_arena_new(m->dev, sal_tensor_room(m->dtype, c) + sal_tensor_room(SAL_F32, v) + 4 * sal_tensor_room(SAL_F32, 1));
	t->h = sal_tensor_new(t->arena, m->dtype, 2, 1, c, 0, 0);
	t->logits = sal_tensor_new(t->arena, SAL_F32, 2, 1, v, 0, 0);
	t->idx = sal_tensor_new(t->arena, SAL_I32, 1, 1, 0, 0, 0);
	t->u = sal_tensor_new(t->arena, SAL_F32, 1, 1, 0, 0, 0);
	t->token = sal_tensor_new(t->arena, SAL_I32, 1, 1, 0, 0, 0);
	t->logprob = sal_tensor_new(t->arena, SAL_F32, 1, 1, 0, 0, 0);
	return sal_dev_sync(m->dev) == 0 ? 0 : sal_err("a context of %d tokens: %s", t->context, sal_dev_error(m->dev));
}

struct sal_talk *
sal_talk_open(const struct sal_talk_config *cfg)
{
	struct sal_talk *t = calloc(1, sizeof *t);

	if (t == NULL || (t->stop = calloc((size_t)cfg->stop.n + 1, sizeof *t->stop)) == NULL) {
		sal_err("out of memory");
		goto fail;
	}
	t->cfg = cfg;
	if (sal_reader_open(&t->r, &cfg->c, true, cfg->format) != 0)
		goto fail;
	t->raw = strcmp(sal_chat_name(t->r.chat), "none") == 0;
	if (t->raw && (cfg->system || cfg->principles)) {
		sal_err("format none has no system turn: give --format");
		goto fail;
	}
	if (sal_reader_prompts(&t->r, cfg->principles, NULL) != 0 || (cfg->principles && cfg->sign && sal_reader_negatives(&t->r) != 0))
		goto fail;
	t->system = cfg->system;
	for (int i = 0; i < cfg->stop.n; i++)
		if (cfg->stop.s[i][0])
			t->stop[t->n_stop++] = cfg->stop.s[i];
	if (sal_chat_stop(t->r.chat))
		t->stop[t->n_stop++] = sal_chat_stop(t->r.chat);
	if (sal_reader_model(&t->r, 0, 2) != 0)
		goto fail;
	int most = t->r.m->cfg.max_positions;
	if (cfg->context > most) {
		sal_err("--context %d: the model reads %d tokens", cfg->context, most);
		goto fail;
	}
	t->context = cfg->context ? cfg->context : most < SAL_TALK_CONTEXT ? most : SAL_TALK_CONTEXT;
	t->n_pages = (t->context + SAL_KV_PAGE - 1) / SAL_KV_PAGE;
	if (cfg->c.adapter && (t->adapter = strdup(cfg->c.adapter)) == NULL) {
		sal_err("out of memory");
		goto fail;
	}
	if (!cfg->c.dry_run && (engine(t) != 0 || buffers(t) != 0))
		goto fail;
	return t;
fail:
	sal_talk_close(t);
	return NULL;
}

void
sal_talk_close(struct sal_talk *t)
{
	if (t == NULL)
		return;
	sal_talk_reset(t);
	free(t->turn);
	sal_engine_free(t->e);
	sal_arena_free(t->arena);
	sal_reader_close(&t->r);
	sal_buf_free(&t->text);
	sal_buf_free(&t->shown);
	free(t->answer.id);
	free(t->stored.id);
	free(t->prompt.id);
	free(t->adapter);
	free(t->stop);
	free(t->page);
	free(t->id);
	free(t);
}

int
sal_talk_plan(void *talk, struct sal_buf *out)
{
	const struct sal_talk *t = talk;
	const struct sal_talk_config *g = t->cfg;
	int rows = t->context < ROWS ? t->context : ROWS;

	sal_reader_plan(&t->r, out);
	sal_buf_printf(out, "answers of at most %d tokens, temperature %g, top-p %g, top-k %d, min-p %g, seed %llu\n", g->max_tokens, g->temperature,
	    g->top_p, g->top_k, g->min_p, (unsigned long long)g->c.seed);
	sal_buf_printf(out, "a conversation of at most %d tokens, %.1f MiB\n", t->context,
	    (double)sal_engine_bytes(t->r.m, SAL_DECODE, rows, 1, t->n_pages, t->n_pages, t->r.a ? t->r.a->r : 0) / 1048576);
	return 0;
}

const char *
sal_talk_isa(const struct sal_talk *t)
{
	return sal_dev_isa(t->r.m->dev);
}

/* ---- turns ------------------------------------------------------------------- */

static int
push_turn(struct sal_talk *t, const char *text)
{
	char **p = realloc(t->turn, (size_t)(t->n_turns + 1) * sizeof *p);

	if (p == NULL)
		return sal_err("out of memory");
	t->turn = p;
	if ((p[t->n_turns] = strdup(text)) == NULL)
		return sal_err("out of memory");
	t->n_turns++;
	return 0;
}

static void
pop_turn(struct sal_talk *t)
{
	free(t->turn[--t->n_turns]);
	if (t->first >= t->n_turns)
		t->first = 0; /* none is left that is read: begin anew with the oldest */
}

static int
add_turn(cJSON *messages, const char *role, const char *text)
{
	cJSON *m = cJSON_CreateObject();

	if (m == NULL || !cJSON_AddStringToObject(m, "role", role) || !cJSON_AddStringToObject(m, "content", text) ||
	    !cJSON_AddItemToArray(messages, m)) {
		cJSON_Delete(m);
		return -1;
	}
	return 0;
}

/* The turns from that one on as a record, malloc'd. */
static char *
record(const struct sal_talk *t, int from)
{
	cJSON *o = cJSON_CreateObject(), *messages = o ? cJSON_AddArrayToObject(o, "messages") : NULL;
	int rc = messages ? 0 : -1;
	char *text = NULL;

	if (rc == 0 && t->system)
		rc = add_turn(messages, "system", t->system);
	for (int i = from; rc == 0 && i < t->n_turns; i++)
		rc = add_turn(messages, i % 2 ? "assistant" : "user", t->turn[i]);
	if (rc == 0)
		text = cJSON_PrintUnformatted(o);
	if (text == NULL)
		sal_err("out of memory");
	cJSON_Delete(o);
	return text;
}

/* Tokens and id of the prompt that begins with that turn. */
static int
encode(struct sal_talk *t, int from)
{
	char *text = record(t, from);
	struct sal_record *r = text ? sal_record_parse(text, strlen(text), 0) : NULL;
	int rc = -1;

	free(t->id);
	t->id = NULL;
	t->prompt.n = 0;
	if (r && (t->id = sal_record_id(r)) != NULL && sal_chat_encode_record(t->r.chat, t->r.tk, r->json, NULL, &t->prompt) == 0)
		rc = t->prompt.n > 0 ? 0 : sal_err("empty prompt");
	sal_record_free(r);
	free(text);
	return rc;
}

/* The principle of a conversation that begins: drawn as sal-generate does for this question. */
static int
choose(struct sal_talk *t)
{
	struct sal_record *r;
	char *text, *id = NULL;
	int pick, rc = -1;

	t->system = NULL;
	text = record(t, 0);
	r = text ? sal_record_parse(text, strlen(text), 0) : NULL;
	if (r && (id = sal_record_id(r)) != NULL) {
		struct sal_random random = sal_random_open(t->cfg->c.seed, "principles", id, 0);
		if ((rc = sal_principles_draw(t->r.principles, 1, 0, &random, &pick)) == 0)
			t->system = t->cfg->sign ? t->r.principles->p[pick].negative : t->r.principles->p[pick].definition;
	}
	sal_record_free(r);
	free(text);
	free(id);
	return rc;
}

int
sal_talk_ask(struct sal_talk *t, const char *text, int *dropped)
{
	int room = t->cfg->max_tokens < t->context / 4 ? t->cfg->max_tokens : t->context / 4, first = t->first;

	*dropped = 0;
	for (utf8proc_ssize_t i = 0, n; text[i]; i += n) {
		utf8proc_int32_t c;
		if ((n = utf8proc_iterate((const utf8proc_uint8_t *)text + i, -1, &c)) < 1)
			return sal_err("byte %td: not UTF-8", (ptrdiff_t)i + 1);
	}
	if (push_turn(t, text) != 0)
		return -1;
	if (t->r.principles && t->n_turns == 1 && choose(t) != 0)
		goto fail;
	if (t->raw)
		first = t->n_turns - 1;
	for (;; first += 2) {
		if (encode(t, first) != 0)
			goto fail;
		if (t->prompt.n + room <= t->context || first == t->n_turns - 1)
			break;
	}
	if (t->prompt.n >= t->context) {
		sal_err("a prompt of %d tokens leaves no room in the context of %d", t->prompt.n, t->context);
		goto fail;
	}
	*dropped = t->raw ? 0 : first - t->first;
	t->first = first;
	return 0;
fail:
	pop_turn(t);
	return -1;
}

int
sal_talk_undo(struct sal_talk *t)
{
	if (t->n_turns < 2)
		return 0;
	pop_turn(t);
	pop_turn(t);
	return 1;
}

void
sal_talk_reset(struct sal_talk *t)
{
	while (t->n_turns > 0)
		pop_turn(t);
}

int
sal_talk_save(const struct sal_talk *t, const char *path)
{
	struct sal_buf b = { 0 };
	char *text = record(t, 0);
	int rc = text ? 0 : -1;

	if (rc == 0) {
		sal_buf_printf(&b, "%s\n", text);
		rc = b.failed ? sal_err("out of memory") : sal_write_file(path, b.data, b.len);
	}
	sal_buf_free(&b);
	free(text);
	return rc;
}

int
sal_talk_adapter(struct sal_talk *t, const char *dir)
{
	struct sal_adapter *a = NULL, *old = t->r.a;
	char *name = NULL;

	if (dir && ((name = strdup(dir)) == NULL || (a = sal_adapter_open(t->r.m, dir, 2)) == NULL)) {
		if (name == NULL)
			sal_err("out of memory");
		free(name);
		return -1;
	}
	t->r.a = a;
	if (a && a->r > t->e->rank && engine(t) != 0) {
		t->r.a = old;
		sal_adapter_close(a);
		free(name);
		return -1;
	}
	sal_adapter_close(old);
	free(t->adapter);
	t->adapter = name;
	t->stored.n = 0;
	return 0;
}

struct sal_talk_state
sal_talk_state(const struct sal_talk *t)
{
	struct sal_talk_state s = t->state;

	s.format = sal_chat_name(t->r.chat);
	s.turns = t->n_turns;
	s.left_out = t->first;
	s.context = t->context;
	s.scores = t->r.a && t->r.a->head_w;
	return s;
}

/* ---- what answers are sampled with --------------------------------------------- */

static const struct param {
	const char *name;
	size_t at;
	enum sal_opt_kind kind;
	double min, max;
} params[] = {
	{ "max-tokens", offsetof(struct sal_talk_config, max_tokens), SAL_OPT_INT, 1, 1 << 20 },
	{ "temperature", offsetof(struct sal_talk_config, temperature), SAL_OPT_REAL, 0, 100 },
	{ "top-p", offsetof(struct sal_talk_config, top_p), SAL_OPT_REAL, 0, 1 },
	{ "top-k", offsetof(struct sal_talk_config, top_k), SAL_OPT_INT, 0, 1 << 24 },
	{ "min-p", offsetof(struct sal_talk_config, min_p), SAL_OPT_REAL, 0, 1 },
	{ "seed", offsetof(struct sal_talk_config, c.seed), SAL_OPT_U64, 0, 0 },
};
#define N_PARAMS (sizeof params / sizeof *params)

int
sal_talk_set(struct sal_talk_config *cfg, const char *name, const char *value)
{
	const struct param *p = params;
	char *end;

	while (p < params + N_PARAMS && strcmp(p->name, name) != 0)
		p++;
	if (p == params + N_PARAMS)
		return sal_err("'%s' is none of max-tokens, temperature, top-p, top-k, min-p, seed", name);
	void *at = (char *)cfg + p->at;
	errno = 0;
	if (p->kind == SAL_OPT_U64) {
		unsigned long long x = strtoull(value, &end, 10);
		if (!(*value >= '0' && *value <= '9') || *end || errno)
			return sal_err("%s: '%s' is not a whole number from 0", name, value);
		*(uint64_t *)at = x;
		return 0;
	}
	double x = strtod(value, &end);
	if (end == value || *end || !(x >= p->min && x <= p->max) || (p->kind == SAL_OPT_INT && x != floor(x)))
		return sal_err("%s: '%s' is not a %snumber in %.10g..%.10g", name, value, p->kind == SAL_OPT_INT ? "whole " : "", p->min, p->max);
	if (p->kind == SAL_OPT_INT)
		*(int *)at = (int)x;
	else
		*(double *)at = x;
	return 0;
}

void
sal_talk_describe(const struct sal_talk *t, struct sal_buf *out)
{
	struct sal_talk_state s = sal_talk_state(t);

	sal_buf_printf(out, "model %s, adapter %s, format %s, system %s\n", t->r.m->path, t->adapter ? t->adapter : "none", s.format,
	    t->system ? t->system : "the format's own");
	for (size_t i = 0; i < N_PARAMS; i++) {
		const void *at = (const char *)t->cfg + params[i].at;
		if (params[i].kind == SAL_OPT_U64)
			sal_buf_printf(out, "%s %llu\n", params[i].name, (unsigned long long)*(const uint64_t *)at);
		else
			sal_buf_printf(out, "%s %.10g\n", params[i].name, params[i].kind == SAL_OPT_INT ? *(const int *)at : *(const double *)at);
	}
	sal_buf_printf(out, "%d turns, %d of them left out; context %d tokens; last prompt %d tokens, %d of them kept from before; answer %d tokens\n", s.turns,
	    s.left_out, s.context, s.prompt, s.kept, s.said);
}

/* ---- an answer --------------------------------------------------------------- */

/* Read n tokens after those stored; the last one's hidden state goes to t->h. */
static int
feed(struct sal_talk *t, const int32_t *id, int n)
{
	struct sal_dev *dev = t->r.m->dev;
	int at = t->stored.n;
	int32_t last = n - 1;

	sal_batch_clear(t->e);
	sal_engine_pages(t->e, (at + n + SAL_KV_PAGE - 1) / SAL_KV_PAGE);
	sal_batch_add_at(t->e, id, n, at, t->page, (at + n + SAL_KV_PAGE - 1) / SAL_KV_PAGE);
	sal_upload(dev, t->idx, &last);
	sal_gather(dev, t->h, sal_forward(t->e, t->r.a), t->idx);
	if (sal_dev_sync(dev) != 0)
		return sal_err("%s", sal_dev_error(dev));
	t->state.tokens += n;
	return sal_ids_append(&t->stored, id, n) == 0 ? 0 : sal_err("out of memory");
}

/* The prompt but for what is stored of it, in pieces.  1: interrupted. */
static int
prefill(struct sal_talk *t, const struct sal_talk_view *v)
{
	int keep = 0;

	while (keep < t->stored.n && keep < t->prompt.n - 1 && t->stored.id[keep] == t->prompt.id[keep])
		keep++;
	t->stored.n = keep;
	t->state.prompt = t->prompt.n;
	t->state.kept = keep;
	t->state.said = 0;
	for (int n; t->stored.n < t->prompt.n;) {
		if (v->interrupted && v->interrupted())
			return 1;
		n = t->prompt.n - t->stored.n < t->e->max_rows ? t->prompt.n - t->stored.n : t->e->max_rows;
		if (feed(t, t->prompt.id + t->stored.n, n) != 0)
			return -1;
	}
	return 0;
}

static int
draw(struct sal_talk *t, float u, int32_t *id)
{
	const struct sal_talk_config *g = t->cfg;
	struct sal_dev *dev = t->r.m->dev;
	float lp;

	sal_upload(dev, t->u, &u);
	sal_linear_forward(dev, t->logits, t->h, t->r.m->head, SAL_NONE, SAL_NONE, NULL, false);
	sal_sample(dev, t->token, t->logprob, t->logits, t->u, (float)g->temperature, g->top_k, (float)g->top_p, (float)g->min_p);
	sal_download(dev, id, t->token);
	sal_download(dev, &lp, t->logprob);
	if (sal_dev_sync(dev) != 0)
		return sal_err("%s", sal_dev_error(dev));
	return isfinite(lp) ? 0 : sal_err("a log-probability is not finite");
}

/* The text of the answer's first n tokens, up to the earliest stop text; *stopped: there was one. */
static int
spell(struct sal_talk *t, int n, bool *stopped)
{
	long at = -1;

	t->text.len = 0;
	sal_buf_put(&t->text, "", 0);
	if (sal_detokenize(t->r.tk, t->answer.id, n, &t->text) != 0)
		return -1;
	if (t->text.failed || t->text.data == NULL)
		return sal_err("out of memory");
	t->text.data[t->text.len] = '\0';
	for (int i = 0; i < t->n_stop; i++) {
		char *p = strstr(t->text.data, t->stop[i]);
		if (p && (at < 0 || p - t->text.data < at))
			at = (long)(p - t->text.data);
	}
	*stopped = at >= 0;
	if (at >= 0)
		t->text.data[t->text.len = (size_t)at] = '\0';
	return 0;
}

/* How much of the text can no longer turn into a stop text, or into another character. */
static size_t
settled(const struct sal_talk *t)
{
	const char *s = t->text.data;
	size_t n = t->text.len, safe;

	while (n >= 3 && memcmp(s + n - 3, "\xef\xbf\xbd", 3) == 0)
		n -= 3;
	safe = n;
	for (int i = 0; i < t->n_stop; i++) {
		size_t k = strlen(t->stop[i]) - 1;
		for (k = k < n ? k : n; k > 0 && memcmp(s + n - k, t->stop[i], k) != 0;)
			k--;
		safe = n - k < safe ? n - k : safe;
	}
	return safe;
}

static void
show(struct sal_talk *t, const struct sal_talk_view *v, size_t n)
{
	if (v->say == NULL || n < t->shown.len)
		return;
	if (t->shown.len && memcmp(t->shown.data, t->text.data, t->shown.len) != 0) { /* bytes that were a character are none after all */
		v->say(v->ctx, "\n", 1);
		t->shown.len = 0;
	}
	if (n > t->shown.len) {
		v->say(v->ctx, t->text.data + t->shown.len, n - t->shown.len);
		sal_buf_put(&t->shown, t->text.data + t->shown.len, n - t->shown.len);
	}
}

/* Token by token until it ends. */
static int
speak(struct sal_talk *t, const struct sal_talk_view *v, enum sal_talk_end *end)
{
	struct sal_random random = sal_random_open(t->cfg->c.seed, "generate", t->id, 0);
	const int32_t *eos;
	int n_eos = sal_tokenizer_eos(t->r.tk, &eos);
	bool over = false, stopped = false, ended = false;
	int32_t id;

	while (!over) {
		if (draw(t, sal_random_uniform(&random), &id) != 0)
			return -1;
		if (sal_ids_push(&t->answer, id) != 0)
			return sal_err("out of memory");
		t->state.said++;
		for (int i = 0; i < n_eos; i++)
			ended = ended || eos[i] == id;
		if (spell(t, t->answer.n - ended, &stopped) != 0)
			return -1;
		over = ended || stopped || t->answer.n >= t->cfg->max_tokens || t->stored.n >= t->context - 1;
		*end = ended || stopped ? SAL_TALK_STOP : SAL_TALK_LENGTH;
		if (!over && v->interrupted && v->interrupted()) {
			over = true;
			*end = SAL_TALK_INTERRUPTED;
			t->text.data[t->text.len = settled(t)] = '\0';
		}
		show(t, v, over ? t->text.len : settled(t));
		if (!over && feed(t, &id, 1) != 0)
			return -1;
	}
	return 0;
}

int
sal_talk_answer(struct sal_talk *t, const struct sal_talk_view *v, const char **text, enum sal_talk_end *end)
{
	double start = sal_now();
	int rc;

	t->answer.n = 0;
	t->text.len = t->shown.len = 0;
	sal_buf_put(&t->text, "", 0);
	*end = SAL_TALK_INTERRUPTED;
	if ((rc = prefill(t, v)) == 0)
		rc = speak(t, v, end);
	t->state.busy += sal_now() - start;
	if (t->text.failed)
		rc = sal_err("out of memory");
	bool stays = rc == 0 && !(*end == SAL_TALK_INTERRUPTED && t->text.len == 0);
	if (stays)
		rc = push_turn(t, t->text.data);
	if (!stays || rc != 0)
		pop_turn(t);
	if (rc < 0)
		return -1;
	*text = t->text.data;
	return 0;
}
