/* SPDX-License-Identifier: Apache-2.0 */
/* score.c - records to sequences, and what the model says of them back into the records. */
#include "lib/score.h"
#include "lib/reader.h"
#include <stdlib.h>
#include <string.h>

struct sal_score {
	const struct sal_score_config *cfg;
	struct sal_reader r;
	struct sal_under under; /* of --under */
	struct sal_counts *count;
};

struct item { /* of one record */
	struct sal_ids ids[2]; /* a sample, or chosen and rejected */
	int n, from;
	bool pair;
	struct sal_under under;
	float *out, *entropy, reward[2];
};

/* Principles and template are read when the first text asks for them: records of tokens need none. */
static int
need_prompts(struct sal_score *s)
{
	return sal_reader_prompts(&s->r, s->cfg->principles, s->cfg->template);
}

static int
parse_under(struct sal_score *s, const char *list)
{
	struct sal_under *u = &s->under;

	if (!*list)
		return sal_err("--under: no principle");
	while (*list) {
		size_t n = strcspn(list, ",");
		char *name = strndup(list, n);
		int k = name ? sal_principles_find(s->r.principles, name) : -1;
		if (k < 0 || u->n == SAL_MAX_UNDER) {
			sal_err("--under: principle '%s' is not in the collection", name ? name : "");
			free(name);
			return -1;
		}
		free(name);
		u->pick[u->n++] = k;
		list += n + (list[n] == ',');
	}
	return 0;
}

struct sal_score *
sal_score_open(const struct sal_score_config *cfg)
{
	struct sal_score *s = calloc(1, sizeof *s);

	if (s == NULL) {
		sal_err("out of memory");
		return NULL;
	}
	s->cfg = cfg;
	if (sal_reader_open(&s->r, &cfg->c, cfg->logprobs, cfg->format) != 0 ||
	    (cfg->under && !cfg->logprobs && (need_prompts(s) != 0 || parse_under(s, cfg->under) != 0)) ||
	    sal_reader_model(&s->r, 0, cfg->logprobs ? 0 : 1) != 0) {
		sal_score_close(s);
		return NULL;
	}
	return s;
}

void
sal_score_close(struct sal_score *s)
{
	if (s == NULL)
		return;
	sal_reader_close(&s->r);
	free(s);
}

const char *
sal_score_isa(const struct sal_score *s)
{
	return sal_dev_isa(s->r.m->dev);
}

static void
release(void *ctx, struct sal_group *g)
{
	struct item *x = g->user;

	(void)ctx;
	if (x == NULL)
		return;
	free(x->ids[0].id);
	free(x->ids[1].id);
	free(x->out);
	free(x->entropy);
	free(x);
	g->user = NULL;
}

/* Those of --under, else the record's own, else drawn. */
static int
choose(struct sal_score *s, const struct sal_record *r, struct sal_under *u)
{
	int64_t type = 0, sample = 0;
	int own = 1, rc = 0;

	if (s->under.n)
		*u = s->under;
	else if ((own = sal_reader_under(&s->r, r->json, u)) < 0)
		return -1;
	if (own == 0 && s->cfg->draw > 0) {
		char *id = sal_record_id(r);
		if (id == NULL)
			return -1;
		if ((sal_json_has(r->json, "question_type") && sal_json_int(r->json, "question_type", 0, INT32_MAX, &type) != 0) ||
		    (sal_json_has(r->json, "sample") && sal_json_int(r->json, "sample", 0, INT32_MAX, &sample) != 0)) {
			free(id);
			return -1;
		}
		struct sal_random rnd = sal_random_open(s->cfg->c.seed, "principles", id, (uint64_t)sample);
		free(id);
		rc = sal_principles_draw(s->r.principles, s->cfg->draw, (int)type, &rnd, u->pick);
		u->n = s->cfg->draw;
	}
	for (int i = 0; i < u->n; i++)
		u->negated[i] ^= s->cfg->negate;
	return rc;
}

static int
reward_text(struct sal_score *s, const cJSON *j, const char *field, struct item *x, struct sal_ids *out)
{
	return sal_reader_reward(&s->r, j, field, &x->under, s->cfg->limits, out);
}

static int
prepare_reward(struct sal_score *s, const struct sal_record *r, struct item *x)
{
	const cJSON *j = r->json;

	if (sal_json_has(j, "tokens")) {
		if (sal_json_ids(j, "tokens", s->r.m->cfg.vocab_size, &x->ids[0]) != 0)
			return -1;
		return x->ids[0].n ? 0 : sal_err("\"tokens\" is empty");
	}
	x->pair = !sal_json_has(j, "response") && sal_json_has(j, "chosen");
	if (need_prompts(s) != 0 || choose(s, r, &x->under) != 0)
		return -1;
	if (!x->pair)
		return reward_text(s, j, "response", x, &x->ids[0]);
	return reward_text(s, j, "chosen", x, &x->ids[0]) != 0 || reward_text(s, j, "rejected", x, &x->ids[1]) != 0 ? -1 : 0;
}

static int
prepare_logprobs(struct sal_score *s, const struct sal_record *r, struct item *x)
{
	const cJSON *j = r->json;
	const char *text;

	if (sal_json_has(j, "prompt_tokens") && sal_json_has(j, "response_tokens")) {
		if (sal_json_ids(j, "prompt_tokens", s->r.m->cfg.vocab_size, &x->ids[0]) != 0)
			return -1;
		x->from = x->ids[0].n;
		if (sal_json_ids(j, "response_tokens", s->r.m->cfg.vocab_size, &x->ids[0]) != 0)
			return -1;
	} else {
		if ((text = sal_json_str(j, "response")) == NULL || sal_chat_encode_record(s->r.chat, s->r.tk, j, s->cfg->system, &x->ids[0]) != 0)
			return -1;
		x->from = x->ids[0].n;
		if (sal_tokenize_plain(s->r.tk, text, strlen(text), &x->ids[0]) != 0)
			return -1;
	}
	if (x->from < 1)
		return sal_err("empty prompt: nothing predicts the first token");
	return 0;
}

static int
prepare(void *ctx, struct sal_group *g)
{
	struct sal_score *s = ctx;
	struct item *x = calloc(1, sizeof *x);

	if ((g->user = x) == NULL)
		return sal_err("out of memory");
	if ((s->cfg->logprobs ? prepare_logprobs(s, g->rec[0], x) : prepare_reward(s, g->rec[0], x)) != 0)
		return -1;
	x->n = x->pair ? 2 : 1;
	for (int i = 0; i < x->n; i++)
		if (x->ids[i].n > s->r.m->cfg.max_positions)
			return sal_err("%d tokens are more than the context of %d", x->ids[i].n, s->r.m->cfg.max_positions);
	if (s->cfg->logprobs) {
		size_t k = (size_t)(x->ids[0].n - x->from) + 1;
		if ((x->out = calloc(k, sizeof *x->out)) == NULL || (x->entropy = calloc(k, sizeof *x->entropy)) == NULL)
			return sal_err("out of memory");
	}
	return 0;
}

static int
emit(struct sal_score *s, struct sal_record *r, const struct item *x)
{
	cJSON *o = cJSON_CreateObject(), *list, *p;
	int rc = o ? 0 : -1;

	if (rc == 0 && s->cfg->logprobs) {
		rc = sal_json_add_floats(o, "logprobs", x->out, x->ids[0].n - x->from);
		if (rc == 0 && s->cfg->entropy)
			rc = sal_json_add_floats(o, "entropies", x->entropy, x->ids[0].n - x->from);
	} else if (rc == 0) {
		rc = x->pair ? sal_json_add_float(o, "reward_chosen", x->reward[0]) != 0 || sal_json_add_float(o, "reward_rejected", x->reward[1]) != 0
		             : sal_json_add_float(o, "reward", x->reward[0]);
		if (rc == 0 && !sal_json_has(r->json, "tokens")) {
			list = cJSON_AddArrayToObject(o, "principles");
			for (int i = 0; i < x->under.n; i++) {
				cJSON_AddItemToArray(list, p = cJSON_CreateObject());
				cJSON_AddStringToObject(p, "dimension", s->r.principles->p[x->under.pick[i]].dimension);
				if (!cJSON_AddBoolToObject(p, "negated", x->under.negated[i]))
					rc = sal_err("out of memory");
			}
		}
	}
	if (rc == 0)
		rc = sal_record_emit(r, o, NULL);
	cJSON_Delete(o);
	return rc ? -1 : 0;
}

static int
by_length(const void *a, const void *b)
{
	const struct sal_seq *x = a, *y = b;

	return (x->n > y->n) - (x->n < y->n);
}

static int
run(void *ctx, struct sal_group **g, int n)
{
	struct sal_score *s = ctx;
	enum sal_eval_what what = s->cfg->logprobs ? SAL_EVAL_LOGPROB : SAL_EVAL_REWARD;
	struct sal_seq *q = calloc((size_t)n * 2 + 1, sizeof *q);
	int k = 0, rc = 0, longest = 1;

	if (q == NULL)
		return sal_err("out of memory");
	for (int i = 0; i < n; i++) {
		struct item *x = g[i]->user;
		for (int j = 0; j < x->n; j++) {
			longest = x->ids[j].n > longest ? x->ids[j].n : longest;
			q[k++] = (struct sal_seq){ .ids = x->ids[j].id, .n = x->ids[j].n, .from = x->from, .line = g[i]->rec[0]->line,
				.out = s->cfg->logprobs ? x->out : &x->reward[j], .entropy = s->cfg->entropy ? x->entropy : NULL };
			s->count->tokens += x->ids[j].n;
		}
	}
	qsort(q, (size_t)k, sizeof *q, by_length);
	rc = sal_reader_engine(&s->r, longest);
	if (rc == 0)
		rc = sal_eval(s->r.e, s->r.a, q, k, what, 1.0f / (float)s->cfg->temperature);
	free(q);
	for (int i = 0; rc == 0 && i < n; i++)
		rc = emit(s, g[i]->rec[0], g[i]->user);
	return rc;
}

static int
plan(void *ctx, struct sal_buf *out)
{
	struct sal_score *s = ctx;
	const struct sal_score_config *cfg = s->cfg;

	if (!cfg->logprobs && need_prompts(s) != 0)
		return -1;
	sal_reader_plan(&s->r, out);
	if (cfg->logprobs) {
		sal_buf_printf(out, "log-probabilities%s at temperature %g, %d records together\n", cfg->entropy ? " and entropies" : "", cfg->temperature,
		    cfg->c.batch);
		return 0;
	}
	sal_buf_printf(out, "rewards under ");
	if (cfg->under)
		sal_buf_printf(out, "%s", cfg->under);
	else if (cfg->draw)
		sal_buf_printf(out, "the record's own principles, else %d drawn with seed %llu", cfg->draw, (unsigned long long)cfg->c.seed);
	else
		sal_buf_printf(out, "the record's own principles");
	sal_buf_printf(out, "%s, %d records together\n", cfg->negate ? ", negated" : "", cfg->c.batch);
	return 0;
}

struct sal_filter
sal_score_filter(struct sal_score *s, struct sal_counts *n)
{
	s->count = n;
	return (struct sal_filter){ .ctx = s, .window = s->cfg->c.batch, .prepare = prepare, .run = run, .release = release, .plan = plan };
}
