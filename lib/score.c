/* SPDX-License-Identifier: Apache-2.0 */
/* score.c - records to sequences, and what the model says of them back into the records. */
#include "lib/score.h"
#include <stdlib.h>
#include <string.h>

#define MAX_PRINCIPLES 64

struct sal_score {
	const struct sal_score_config *cfg;
	struct sal_model *m;
	struct sal_adapter *a;
	struct sal_tokenizer *tk;
	struct sal_chat *chat;
	struct sal_principles *principles;
	char *template;
	int under[MAX_PRINCIPLES], n_under;
	struct sal_engine *e;
	int longest; /* that e was made for */
	struct sal_counts *count;
};

struct item { /* of one record */
	struct sal_ids ids[2]; /* a sample, or chosen and rejected */
	int n, from;
	bool pair;
	int pick[MAX_PRINCIPLES], n_pick;
	bool negated[MAX_PRINCIPLES];
	float *out, *entropy, reward[2];
};

/* Principles and template are read when the first text asks for them: records of tokens need none. */
static int
need_prompts(struct sal_score *s)
{
	if (s->principles == NULL && (s->principles = sal_principles_open(s->cfg->principles)) == NULL)
		return -1;
	return s->template || (s->template = sal_prompt_read(s->cfg->template)) ? 0 : -1;
}

static int
parse_under(struct sal_score *s, const char *list)
{
	while (*list) {
		size_t n = strcspn(list, ",");
		char *name = strndup(list, n);
		int k = name ? sal_principles_find(s->principles, name) : -1;
		if (k < 0 || s->n_under == MAX_PRINCIPLES) {
			sal_err("--under: principle '%s' is not in the collection", name ? name : "");
			free(name);
			return -1;
		}
		free(name);
		s->under[s->n_under++] = k;
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
	if ((s->tk = sal_tokenizer_open(cfg->c.model)) == NULL)
		goto fail;
	if (cfg->logprobs && (s->chat = sal_chat_open(cfg->format, s->tk, NULL)) == NULL)
		goto fail;
	if (cfg->under && !cfg->logprobs && (need_prompts(s) != 0 || parse_under(s, cfg->under) != 0))
		goto fail;
	if ((s->m = sal_model_open(cfg->c.model, &cfg->c, 0)) == NULL ||
	    (cfg->c.adapter && (s->a = sal_adapter_open(s->m, cfg->c.adapter, cfg->logprobs ? 0 : 1)) == NULL))
		goto fail;
	return s;
fail:
	sal_score_close(s);
	return NULL;
}

void
sal_score_close(struct sal_score *s)
{
	if (s == NULL)
		return;
	sal_engine_free(s->e);
	sal_adapter_close(s->a);
	sal_model_close(s->m);
	sal_principles_close(s->principles);
	sal_chat_close(s->chat);
	sal_tokenizer_close(s->tk);
	free(s->template);
	free(s);
}

const char *
sal_score_isa(const struct sal_score *s)
{
	return sal_dev_isa(s->m->dev);
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
choose(struct sal_score *s, const struct sal_record *r, struct item *x)
{
	const cJSON *own = cJSON_GetObjectItemCaseSensitive(r->json, "principles"), *e;
	int64_t type = 0, sample = 0;

	if (s->n_under) {
		memcpy(x->pick, s->under, sizeof x->pick);
		x->n_pick = s->n_under;
	} else if (own && !cJSON_IsNull(own)) {
		if (!cJSON_IsArray(own))
			return sal_err("\"principles\" is not an array");
		cJSON_ArrayForEach(e, own)
		{
			const char *d = sal_json_str(e, "dimension");
			if (d == NULL)
				return -1;
			if (x->n_pick == MAX_PRINCIPLES)
				return sal_err("more than %d principles", MAX_PRINCIPLES);
			if ((x->pick[x->n_pick] = sal_principles_find(s->principles, d)) < 0)
				return sal_err("principle '%s' is not in the collection", d);
			x->negated[x->n_pick++] = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(e, "negated"));
		}
	} else if (s->cfg->draw > 0) {
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
		if (sal_principles_draw(s->principles, s->cfg->draw, (int)type, &rnd, x->pick) != 0)
			return -1;
		x->n_pick = s->cfg->draw;
	}
	for (int i = 0; i < x->n_pick; i++) {
		x->negated[i] ^= s->cfg->negate;
		if (x->negated[i] && s->principles->p[x->pick[i]].negative == NULL)
			return sal_err("principle '%s' has no negative definition", s->principles->p[x->pick[i]].dimension);
	}
	return 0;
}

static int
reward_text(struct sal_score *s, const cJSON *j, const char *field, struct item *x, struct sal_ids *out)
{
	struct sal_reward_limits lim = s->cfg->limits;
	const char *text = sal_json_str(j, field);
	char *ask;
	int rc;

	if (text == NULL || (ask = sal_chat_instruction(j)) == NULL)
		return -1;
	lim.total = lim.total < s->m->cfg.max_positions ? lim.total : s->m->cfg.max_positions;
	rc = sal_reward_ids(s->tk, s->template, ask, text, s->principles, x->pick, x->negated, x->n_pick, lim, out);
	free(ask);
	return rc;
}

static int
prepare_reward(struct sal_score *s, const struct sal_record *r, struct item *x)
{
	const cJSON *j = r->json;

	if (sal_json_has(j, "tokens")) {
		if (sal_json_ids(j, "tokens", s->m->cfg.vocab_size, &x->ids[0]) != 0)
			return -1;
		return x->ids[0].n ? 0 : sal_err("\"tokens\" is empty");
	}
	x->pair = !sal_json_has(j, "response") && sal_json_has(j, "chosen");
	if (need_prompts(s) != 0 || choose(s, r, x) != 0)
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
		if (sal_json_ids(j, "prompt_tokens", s->m->cfg.vocab_size, &x->ids[0]) != 0)
			return -1;
		x->from = x->ids[0].n;
		if (sal_json_ids(j, "response_tokens", s->m->cfg.vocab_size, &x->ids[0]) != 0)
			return -1;
	} else {
		if ((text = sal_json_str(j, "response")) == NULL || sal_chat_encode_record(s->chat, s->tk, j, s->cfg->system, &x->ids[0]) != 0)
			return -1;
		x->from = x->ids[0].n;
		if (sal_tokenize_plain(s->tk, text, strlen(text), &x->ids[0]) != 0)
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
		if (x->ids[i].n > s->m->cfg.max_positions)
			return sal_err("%d tokens are more than the context of %d", x->ids[i].n, s->m->cfg.max_positions);
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
			for (int i = 0; i < x->n_pick; i++) {
				cJSON_AddItemToArray(list, p = cJSON_CreateObject());
				cJSON_AddStringToObject(p, "dimension", s->principles->p[x->pick[i]].dimension);
				if (!cJSON_AddBoolToObject(p, "negated", x->negated[i]))
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
	if (longest > s->longest) {
		sal_engine_free(s->e);
		if ((s->e = sal_eval_engine(s->m, false, longest, 2048, s->a ? s->a->r : 0)) == NULL)
			rc = -1;
		s->longest = s->e ? longest : 0;
	}
	qsort(q, (size_t)k, sizeof *q, by_length);
	if (rc == 0)
		rc = sal_eval(s->e, s->a, q, k, what, 1.0f / (float)s->cfg->temperature);
	free(q);
	for (int i = 0; rc == 0 && i < n; i++)
		rc = emit(s, g[i]->rec[0], g[i]->user);
	return rc;
}

struct sal_filter
sal_score_filter(struct sal_score *s, struct sal_counts *n)
{
	s->count = n;
	return (struct sal_filter){ .ctx = s, .window = s->cfg->c.batch, .prepare = prepare, .run = run, .release = release };
}
