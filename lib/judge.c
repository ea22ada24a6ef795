/* SPDX-License-Identifier: Apache-2.0 */
/* judge.c - pairs of answers to sequences, and their scores to judgements. */
#include "lib/judge.h"
#include "lib/reader.h"
#include <stdlib.h>
#include <string.h>

struct sal_judge {
	const struct sal_judge_config *cfg;
	struct sal_reader r;
	int32_t choice[2]; /* the tokens "a" and "b" after an open parenthesis */
	struct sal_counts *count;
};

struct pair {
	struct sal_record *rec; /* whose fields the output keeps */
	const char *y[2];
};

struct item { /* the pairs of one group */
	struct pair *pair;
	int n;
	struct sal_ids *ids; /* [n][principles][per] */
	int *from;
	float **out;
};

/* sequences of one (pair, principle): two orders, or two answers under principle and negation */
static int
per(const struct sal_judge *j)
{
	return j->cfg->judge == 0 ? 2 : 4;
}

static int
find_choice(struct sal_judge *j)
{
	static const char *const text[2] = { "\n (a", "\n (b" };

	for (int i = 0; i < 2; i++) {
		struct sal_ids ids = { 0 };
		if (sal_tokenize_plain(j->r.tk, text[i], strlen(text[i]), &ids) != 0 || ids.n == 0) {
			free(ids.id);
			return -1;
		}
		j->choice[i] = ids.id[ids.n - 1];
		free(ids.id);
	}
	return j->choice[0] != j->choice[1] ? 0 : sal_err("the tokenizer does not tell \"(a\" from \"(b\"");
}

struct sal_judge *
sal_judge_open(const struct sal_judge_config *cfg)
{
	struct sal_judge *j = calloc(1, sizeof *j);

	if (j == NULL) {
		sal_err("out of memory");
		return NULL;
	}
	j->cfg = cfg;
	bool contrast = cfg->judge == 1;
	if (sal_reader_open(&j->r, &cfg->c, contrast, cfg->format) != 0 ||
	    sal_reader_prompts(&j->r, cfg->principles, contrast ? NULL : cfg->template) != 0 ||
	    (contrast ? sal_reader_negatives(&j->r) : find_choice(j)) != 0 || sal_reader_model(&j->r, 0, 0) != 0) {
		sal_judge_close(j);
		return NULL;
	}
	return j;
}

void
sal_judge_close(struct sal_judge *j)
{
	if (j == NULL)
		return;
	sal_reader_close(&j->r);
	free(j);
}

const char *
sal_judge_isa(const struct sal_judge *j)
{
	return sal_dev_isa(j->r.m->dev);
}

static void
release(void *ctx, struct sal_group *g)
{
	struct sal_judge *j = ctx;
	struct item *x = g->user;

	if (x == NULL)
		return;
	int n = x->n * j->r.principles->n * per(j);
	for (int i = 0; i < n; i++) {
		if (x->ids)
			free(x->ids[i].id);
		if (x->out)
			free(x->out[i]);
	}
	free(x->ids);
	free(x->out);
	free(x->from);
	free(x->pair);
	free(x);
	g->user = NULL;
}

/* The pairs of a group: those given, or every two samples of the id. */
static int
make_pairs(struct sal_judge *j, struct sal_group *g, struct item *x)
{
	if ((x->pair = calloc((size_t)g->n * (size_t)g->n + 1, sizeof *x->pair)) == NULL)
		return sal_err("out of memory");
	for (int i = 0; i < g->n; i++) {
		const cJSON *a = g->rec[i]->json;
		if (sal_json_has(a, "output_1") || sal_json_has(a, "output_2")) {
			struct pair p = { g->rec[i], { sal_json_str(a, "output_1"), NULL } };
			if (p.y[0] == NULL || (p.y[1] = sal_json_str(a, "output_2")) == NULL)
				return -1;
			x->pair[x->n++] = p;
			continue;
		}
		const char *y1 = sal_json_str(a, "response"), *y2;
		if (y1 == NULL)
			return -1;
		for (int k = i + 1; k < g->n; k++) {
			if (sal_json_has(g->rec[k]->json, "output_1"))
				continue;
			if ((y2 = sal_json_str(g->rec[k]->json, "response")) == NULL)
				return -1;
			if (strlen(y1) >= (size_t)j->cfg->min_chars && strlen(y2) >= (size_t)j->cfg->min_chars)
				x->pair[x->n++] = (struct pair){ g->rec[i], { y1, y2 } };
		}
	}
	return 0;
}

static int
compare_ids(struct sal_judge *j, const struct pair *p, const struct sal_principle *d, int order, struct sal_ids *out)
{
	static const char *const name[] = { "UserInstruction", "OutputA", "OutputB", "Dimension", "Definition" };
	char *ask = sal_chat_instruction(p->rec->json);
	const char *value[] = { ask, p->y[order], p->y[1 - order], d->dimension, d->definition };
	struct sal_buf text = { 0 };
	struct sal_span *plain = NULL;
	int n_plain = 0, rc = -1, bos = sal_tokenizer_bos(j->r.tk);

	if (ask && sal_template_fill(j->r.template, name, value, 5, &text, &plain, &n_plain) == 0 &&
	    (!sal_tokenizer_adds_bos(j->r.tk) || bos < 0 || sal_ids_push(out, bos) == 0))
		rc = sal_tokenize(j->r.tk, text.data, text.len, plain, n_plain, out);
	free(ask);
	free(plain);
	sal_buf_free(&text);
	return rc;
}

static int
contrast_ids(struct sal_judge *j, const struct pair *p, const struct sal_principle *d, int k, struct sal_ids *out, int *from)
{
	const char *y = p->y[k / 2];

	if (sal_chat_encode_record(j->r.chat, j->r.tk, p->rec->json, k % 2 ? d->negative : d->definition, out) != 0)
		return -1;
	*from = out->n;
	return sal_tokenize_plain(j->r.tk, y, strlen(y), out);
}

static int
prepare(void *ctx, struct sal_group *g)
{
	struct sal_judge *j = ctx;
	struct item *x = calloc(1, sizeof *x);
	int k = 0, w = per(j), np = j->r.principles->n;

	if ((g->user = x) == NULL)
		return sal_err("out of memory");
	if (make_pairs(j, g, x) != 0) {
		x->n = 0;
		return -1;
	}
	size_t n = (size_t)x->n * (size_t)np * (size_t)w + 1;
	x->ids = calloc(n, sizeof *x->ids);
	x->from = calloc(n, sizeof *x->from);
	x->out = calloc(n, sizeof *x->out);
	if (!x->ids || !x->from || !x->out)
		return sal_err("out of memory");
	for (int i = 0; i < x->n; i++)
		for (int d = 0; d < np; d++)
			for (int o = 0; o < w; o++, k++) {
				const struct sal_principle *p = &j->r.principles->p[d];
				if ((w == 2 ? compare_ids(j, &x->pair[i], p, o, &x->ids[k]) : contrast_ids(j, &x->pair[i], p, o, &x->ids[k], &x->from[k])) != 0)
					return -1;
				if (x->ids[k].n > j->r.m->cfg.max_positions)
					return sal_err("a judge's text of %d tokens is more than the context of %d", x->ids[k].n, j->r.m->cfg.max_positions);
				if ((x->out[k] = malloc(((size_t)x->ids[k].n + 2) * sizeof(float))) == NULL)
					return sal_err("out of memory");
			}
	return 0;
}

static int
emit(struct sal_judge *j, const struct item *x, int i)
{
	static const char *const drop[] = { "sample", "response", "finish_reason", "has_stop", "prompt_tokens", "response_tokens", "logprobs",
		"policy", "sampled_under", "reward", NULL };
	cJSON *o = cJSON_CreateObject(), *all;
	int rc = 0, np = j->r.principles->n, w = per(j);

	if (!cJSON_AddStringToObject(o, "output_1", x->pair[i].y[0]) || !cJSON_AddStringToObject(o, "output_2", x->pair[i].y[1]) ||
	    (all = cJSON_AddObjectToObject(o, "judgements")) == NULL) {
		cJSON_Delete(o);
		return sal_err("out of memory");
	}
	for (int d = 0; rc == 0 && d < np; d++) {
		int k = (i * np + d) * w;
		float s[2];
		if (w == 2) {
			s[0] = x->out[k][0] - x->out[k][1];
			s[1] = x->out[k + 1][1] - x->out[k + 1][0];
		} else {
			double y[4];
			for (int q = 0; q < 4; q++)
				y[q] = sal_sum(x->out[k + q], x->ids[k + q].n - x->from[k + q]);
			s[0] = s[1] = (float)((y[0] - y[1]) - (y[2] - y[3]));
		}
		rc = sal_json_add_floats(all, j->r.principles->p[d].dimension, s, 2);
	}
	if (rc == 0)
		rc = sal_record_emit(x->pair[i].rec, o, drop);
	cJSON_Delete(o);
	return rc;
}

static int
run(void *ctx, struct sal_group **g, int n)
{
	struct sal_judge *j = ctx;
	int total = 0, longest = 1, k = 0, rc = 0, w = per(j), np = j->r.principles->n;

	for (int i = 0; i < n; i++)
		total += ((struct item *)g[i]->user)->n * np * w;
	struct sal_seq *q = calloc((size_t)total + 1, sizeof *q);
	if (q == NULL)
		return sal_err("out of memory");
	for (int i = 0; i < n; i++) {
		struct item *x = g[i]->user;
		for (int t = 0; t < x->n * np * w; t++) {
			longest = x->ids[t].n > longest ? x->ids[t].n : longest;
			j->count->tokens += x->ids[t].n;
			if (w == 4 && x->ids[t].n <= x->from[t])
				continue; /* an empty answer: probability 1 */
			q[k++] = (struct sal_seq){ .ids = x->ids[t].id, .n = x->ids[t].n, .from = x->from[t], .line = x->pair[t / (np * w)].rec->line,
				.out = x->out[t], .choice = { j->choice[0], j->choice[1] } };
		}
	}
	rc = sal_reader_engine(&j->r, longest);
	if (rc == 0)
		rc = sal_eval(j->r.e, j->r.a, q, k, w == 2 ? SAL_EVAL_CHOICE : SAL_EVAL_LOGPROB, 1.0f);
	free(q);
	for (int i = 0; rc == 0 && i < n; i++) {
		struct item *x = g[i]->user;
		for (int p = 0; rc == 0 && p < x->n; p++)
			rc = emit(j, x, p);
	}
	return rc;
}

static int
plan(void *ctx, struct sal_buf *out)
{
	struct sal_judge *j = ctx;

	sal_reader_plan(&j->r, out);
	sal_buf_printf(out, "judge %s: %d sequences a pair, %d groups of an id together\n", j->cfg->judge ? "contrast" : "compare",
	    j->r.principles->n * per(j), j->cfg->c.batch);
	return 0;
}

struct sal_filter
sal_judge_filter(struct sal_judge *j, struct sal_counts *n)
{
	j->count = n;
	return (struct sal_filter){ .ctx = j, .by_id = true, .window = j->cfg->c.batch, .prepare = prepare, .run = run, .release = release,
		.plan = plan };
}
