/* SPDX-License-Identifier: Apache-2.0 */
/* reader.c - open, describe and close what reads records with a model; principles and reward texts of records. */
#include "lib/reader.h"
#include "lib/jsonl.h"
#include <stdlib.h>
#include <string.h>

#define ROWS 4096 /* of a forward pass, about */

int
sal_reader_open(struct sal_reader *r, const struct sal_common *c, bool chat, const char *format)
{
	char *inference = NULL;

	r->c = c;
	if (chat && format && strcmp(format, "dromedary") == 0 && (inference = sal_prompt_read("inference.txt")) == NULL)
		return -1;
	if ((r->tk = sal_tokenizer_open(c->model)) != NULL && chat)
		r->chat = sal_chat_open(format, r->tk, inference);
	free(inference);
	return r->tk && (r->chat || !chat) ? 0 : -1;
}

int
sal_reader_prompts(struct sal_reader *r, const char *principles, const char *template)
{
	if (principles && !r->principles && (r->principles = sal_principles_open(r->principles_name = principles)) == NULL)
		return -1;
	return !template || r->template || (r->template = sal_prompt_read(r->template_name = template)) ? 0 : -1;
}

static int
need_negative(const struct sal_principle *p)
{
	return p->negative ? 0 : sal_err("principle '%s' has no negative definition", p->dimension);
}

int
sal_reader_negatives(const struct sal_reader *r)
{
	int rc = 0;

	for (int i = 0; i < r->principles->n && rc == 0; i++)
		rc = need_negative(&r->principles->p[i]);
	return rc;
}

int
sal_reader_model(struct sal_reader *r, int flags, int head)
{
	const struct sal_common *c = r->c;

	if ((r->m = sal_model_open(c->model, c, flags)) == NULL || (c->adapter && (r->a = sal_adapter_open(r->m, c->adapter, head)) == NULL))
		return -1;
	if (sal_tokenizer_vocab(r->tk) > r->m->cfg.vocab_size)
		return sal_err("%s: the tokenizer has %d tokens, the model %d", c->model, sal_tokenizer_vocab(r->tk), r->m->cfg.vocab_size);
	return 0;
}

int
sal_reader_engine(struct sal_reader *r, int longest)
{
	if (longest <= r->longest)
		return 0;
	sal_engine_free(r->e);
	r->e = sal_eval_engine(r->m, false, longest, ROWS, r->a ? r->a->r : 0);
	r->longest = r->e ? longest : 0;
	return r->e ? 0 : -1;
}

void
sal_reader_close(struct sal_reader *r)
{
	sal_engine_free(r->e);
	sal_adapter_close(r->a);
	sal_model_close(r->m);
	sal_principles_close(r->principles);
	sal_chat_close(r->chat);
	sal_tokenizer_close(r->tk);
	free(r->template);
	*r = (struct sal_reader){ 0 };
}

/* ---- records -------------------------------------------------------------- */

int
sal_reader_under(const struct sal_reader *r, const cJSON *rec, struct sal_under *u)
{
	const cJSON *own = cJSON_GetObjectItemCaseSensitive(rec, "principles"), *e;

	u->n = 0;
	if (own == NULL || cJSON_IsNull(own))
		return 0;
	if (!cJSON_IsArray(own))
		return sal_err("\"principles\" is not an array");
	cJSON_ArrayForEach(e, own)
	{
		const char *d = sal_json_str(e, "dimension");
		const cJSON *negated = cJSON_GetObjectItemCaseSensitive(e, "negated");
		if (d == NULL)
			return -1;
		if (negated && !cJSON_IsBool(negated))
			return sal_err("\"negated\" of principle '%s' is neither true nor false", d);
		if (u->n == SAL_MAX_UNDER)
			return sal_err("more than %d principles", SAL_MAX_UNDER);
		if ((u->pick[u->n] = sal_principles_find(r->principles, d)) < 0)
			return sal_err("principle '%s' is not in the collection", d);
		u->negated[u->n++] = cJSON_IsTrue(negated);
	}
	return 1;
}

int
sal_reader_reward(const struct sal_reader *r, const cJSON *rec, const char *field, const struct sal_under *u, struct sal_reward_limits lim,
    struct sal_ids *out)
{
	const char *text = sal_json_str(rec, field);
	char *ask;
	int rc = 0;

	for (int i = 0; i < u->n && rc == 0; i++)
		rc = u->negated[i] ? need_negative(&r->principles->p[u->pick[i]]) : 0;
	if (rc != 0 || text == NULL || (ask = sal_chat_instruction(rec)) == NULL)
		return -1;
	lim.total = lim.total < r->m->cfg.max_positions ? lim.total : r->m->cfg.max_positions;
	rc = sal_reward_ids(r->tk, r->template, ask, text, r->principles, u->pick, u->negated, u->n, lim, out);
	free(ask);
	return rc;
}

/* ---- the plan ------------------------------------------------------------- */

void
sal_plan_model(const struct sal_model *m, struct sal_buf *out)
{
	sal_buf_printf(out, "model %s: %s of %d layers, context %d, %.1f MiB of weights as %s, %d thread%s, SAL_CPU=%s\n", m->path, m->cfg.arch,
	    m->cfg.num_layers, m->cfg.max_positions, (double)sal_arena_mark(m->arena) / 1048576, m->dtype == SAL_F32 ? "f32" : "bf16",
	    sal_dev_threads(m->dev), sal_dev_threads(m->dev) == 1 ? "" : "s", sal_dev_isa(m->dev));
}

void
sal_plan_adapter(const char *name, const struct sal_adapter *a, struct sal_buf *out)
{
	int64_t n = 0;

	for (int i = 0; i < a->n_params; i++) {
		int64_t k = 1;
		for (int d = 0; d < a->param[i].w.ndim; d++)
			k *= a->param[i].w.dim[d];
		n += k;
	}
	sal_buf_printf(out, "%s: rank %d, %lld parameters%s\n", name, a->r, (long long)n, a->head_w ? " with a head" : "");
}

static void
plan_prompt(const char *what, const char *name, struct sal_buf *out)
{
	char *path = sal_prompt_path(name);

	sal_buf_printf(out, "%s %s\n", what, path ? path : name);
	free(path);
}

void
sal_reader_plan(const struct sal_reader *r, struct sal_buf *out)
{
	struct sal_buf name = { 0 };

	sal_plan_model(r->m, out);
	sal_buf_printf(&name, "%sadapter%s%s", r->c->adapter ? "" : "fresh ", r->c->adapter ? " " : "", r->c->adapter ? r->c->adapter : "");
	if (r->a)
		sal_plan_adapter(name.data ? name.data : "adapter", r->a, out);
	sal_buf_free(&name);
	if (r->chat)
		sal_buf_printf(out, "chat format %s\n", sal_chat_name(r->chat));
	if (r->template)
		plan_prompt("template", r->template_name, out);
	if (r->principles) {
		char what[32];
		snprintf(what, sizeof what, "%d principles of", r->principles->n);
		plan_prompt(what, r->principles_name, out);
	}
}
