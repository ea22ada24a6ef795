/* SPDX-License-Identifier: Apache-2.0 */
/* generate.c - records to jobs of the decoder and answers back to records. */
#include "lib/generate.h"
#include "lib/decode.h"
#include "lib/policy.h"
#include "lib/reader.h"
#include <stdlib.h>
#include <string.h>

struct sal_generate {
	const struct sal_generate_config *cfg;
	struct sal_reader r;
	struct sal_decoder *d;
	int longest, pages; /* that d was made for */
	const char **stop;
	int n_stop;
	char policy[17];
	struct sal_counts *count;
};

struct prompt { /* of one record */
	char *id;
	struct sal_ids *ids;        /* one, or one per sample when principles steer */
	int n_ids, *pick;           /* pick[i]: principle of sample i */
	struct sal_answer *answer;  /* [n] */
};

struct sal_generate *
sal_generate_open(const struct sal_generate_config *cfg)
{
	struct sal_generate *g = calloc(1, sizeof *g);
	struct sal_reader *r = g ? &g->r : NULL;

	if (g == NULL) {
		sal_err("out of memory");
		return NULL;
	}
	g->cfg = cfg;
	if (sal_reader_open(r, &cfg->c, true, cfg->format) != 0 || sal_reader_prompts(r, cfg->principles, NULL) != 0 ||
	    (cfg->principles && cfg->sign && sal_reader_negatives(r) != 0) || sal_reader_model(r, 0, 0) != 0 ||
	    sal_policy_string(r->m, r->a, &cfg->c, cfg->temperature, g->policy) != 0)
		goto fail;
	if ((g->stop = calloc((size_t)cfg->stop.n + 4, sizeof *g->stop)) == NULL) {
		sal_err("out of memory");
		goto fail;
	}
	for (int i = 0; i < cfg->stop.n; i++)
		g->stop[g->n_stop++] = cfg->stop.s[i];
	if (sal_chat_stop(r->chat)) {
		g->stop[g->n_stop++] = sal_chat_stop(r->chat);
		g->stop[g->n_stop++] = "\nUpdate"; /* sal_chat_ending has the last word */
		g->stop[g->n_stop++] = "\nNote";
		g->stop[g->n_stop++] = "\nComment";
	}
	return g;
fail:
	sal_generate_close(g);
	return NULL;
}

void
sal_generate_close(struct sal_generate *g)
{
	if (g == NULL)
		return;
	sal_decoder_free(g->d);
	sal_reader_close(&g->r);
	free(g->stop);
	free(g);
}

const char *
sal_generate_isa(const struct sal_generate *g)
{
	return sal_dev_isa(g->r.m->dev);
}

static void
release(void *ctx, struct sal_group *group)
{
	struct sal_generate *g = ctx;
	struct prompt *p = group->user;

	if (p == NULL)
		return;
	for (int i = 0; p->ids && i < p->n_ids; i++)
		free(p->ids[i].id);
	for (int i = 0; p->answer && i < g->cfg->n; i++)
		sal_answer_clear(&p->answer[i]);
	free(p->ids);
	free(p->answer);
	free(p->pick);
	free(p->id);
	free(p);
	group->user = NULL;
}

/* The principle of each sample: drawn without replacement, so that the samples of a prompt differ as long as they can. */
static int
draw(struct sal_generate *g, const cJSON *j, struct prompt *p)
{
	struct sal_random r = sal_random_open(g->cfg->c.seed, "principles", p->id, 0);
	int usable = 0, k, pick[64];
	int64_t type = 0;

	for (int i = 0; i < g->r.principles->n; i++)
		usable += g->r.principles->p[i].weight > 0;
	k = g->cfg->n < usable ? g->cfg->n : usable;
	k = k < 64 ? k : 64;
	if (sal_json_has(j, "question_type") && sal_json_int(j, "question_type", 0, INT32_MAX, &type) != 0)
		return -1;
	if (sal_principles_draw(g->r.principles, k, (int)type, &r, pick) != 0)
		return -1;
	for (int i = 0; i < g->cfg->n; i++)
		p->pick[i] = pick[i % k];
	return 0;
}

static int
prepare(void *ctx, struct sal_group *group)
{
	struct sal_generate *g = ctx;
	const cJSON *j = group->rec[0]->json;
	struct prompt *p = calloc(1, sizeof *p);
	int n = g->cfg->n;

	group->user = p;
	if (p == NULL || (p->answer = calloc((size_t)n, sizeof *p->answer)) == NULL || (p->pick = calloc((size_t)n, sizeof *p->pick)) == NULL)
		return sal_err("out of memory");
	p->n_ids = g->r.principles ? n : 1;
	if ((p->ids = calloc((size_t)p->n_ids, sizeof *p->ids)) == NULL)
		return sal_err("out of memory");
	if ((p->id = sal_record_id(group->rec[0])) == NULL || (g->r.principles && draw(g, j, p) != 0))
		return -1;
	for (int i = 0; i < p->n_ids; i++) {
		const char *system = g->cfg->system;
		if (g->r.principles) {
			const struct sal_principle *x = &g->r.principles->p[p->pick[i]];
			system = g->cfg->sign ? x->negative : x->definition;
		}
		if (sal_json_has(j, "prompt_tokens") && system == NULL
		        ? sal_json_ids(j, "prompt_tokens", g->r.m->cfg.vocab_size, &p->ids[i]) != 0
		        : sal_chat_encode_record(g->r.chat, g->r.tk, j, system, &p->ids[i]) != 0)
			return -1;
		if (p->ids[i].n < 1)
			return sal_err("empty prompt");
		if (p->ids[i].n >= g->r.m->cfg.max_positions)
			return sal_err("a prompt of %d tokens leaves no room in the context of %d", p->ids[i].n, g->r.m->cfg.max_positions);
	}
	return 0;
}

/* An answer in dromedary's format: where it ends, without the tokens after that, and whether it was finished, which an end token does not do. */
static int
end_answer(struct sal_generate *g, struct sal_answer *a, bool *finished)
{
	const int32_t *eos;
	int n = a->tokens.n, n_eos = sal_tokenizer_eos(g->r.tk, &eos), low = 0;
	struct sal_buf b = { 0 };
	bool ended = false;

	for (int i = 0; i < n_eos && n > 0; i++)
		ended = ended || a->tokens.id[n - 1] == eos[i];
	sal_buf_puts(&b, "");
	if (sal_detokenize(g->r.tk, a->tokens.id, n - ended, &b) != 0 || b.failed)
		goto fail;
	struct sal_ending e = sal_chat_ending(b.data);
	*finished = e.ended ? e.stop : a->stopped && !ended;
	if (!e.ended) {
		sal_buf_free(&b);
		return 0;
	}
	a->stopped = true;
	a->text.len = 0;
	sal_buf_put(&a->text, b.data + e.at, e.n);
	if (e.keep == b.len) /* an end token behind it stays */
		low = n;
	for (int high = n; low < high;) { /* the fewest tokens that hold it */
		int k = (low + high) / 2;
		b.len = 0;
		if (sal_detokenize(g->r.tk, a->tokens.id, k, &b) != 0)
			goto fail;
		if (b.len < e.keep)
			low = k + 1;
		else
			high = k;
	}
	a->tokens.n = low;
	sal_buf_free(&b);
	return a->text.failed ? sal_err("out of memory") : 0;
fail:
	sal_buf_free(&b);
	return sal_err("out of memory");
}

static int
emit(struct sal_generate *g, struct sal_record *r, const struct prompt *p, int i)
{
	struct sal_answer *a = &p->answer[i];
	bool finished = a->stopped;
	static const char *const drop[] = { "prompt_tokens", "response_tokens", "logprobs", "policy", "sampled_under", NULL };
	cJSON *o = cJSON_CreateObject();
	int rc = o ? 0 : -1;

	if (rc == 0 && sal_chat_stop(g->r.chat))
		rc = end_answer(g, a, &finished);
	if (rc != 0 || (!sal_json_has(r->json, "id") && !cJSON_AddStringToObject(o, "id", p->id)) || !cJSON_AddNumberToObject(o, "sample", i) ||
	    !cJSON_AddStringToObject(o, "response", a->text.data ? a->text.data : "") ||
	    !cJSON_AddStringToObject(o, "finish_reason", a->stopped ? "stop" : "length") || !cJSON_AddBoolToObject(o, "has_stop", finished))
		rc = -1;
	if (rc == 0 && g->r.principles) {
		cJSON *s = cJSON_AddObjectToObject(o, "sampled_under");
		if (!cJSON_AddStringToObject(s, "dimension", g->r.principles->p[p->pick[i]].dimension) ||
		    !cJSON_AddBoolToObject(s, "negated", g->cfg->sign))
			rc = -1;
	}
	const struct sal_ids *ids = &p->ids[p->n_ids > 1 ? i : 0];
	if (rc == 0 && g->cfg->tokens &&
	    (sal_json_add_ids(o, "prompt_tokens", ids->id, ids->n) != 0 || sal_json_add_ids(o, "response_tokens", a->tokens.id, a->tokens.n) != 0 ||
	        sal_json_add_floats(o, "logprobs", a->logprobs, a->tokens.n) != 0 || !cJSON_AddStringToObject(o, "policy", g->policy)))
		rc = -1;
	/* the input's prompt_tokens stay if they were what was answered, and are not written anew */
	if (rc == 0)
		rc = sal_record_emit(r, o, g->cfg->tokens || g->cfg->system || g->r.principles ? drop : drop + 1);
	else
		sal_err("out of memory");
	cJSON_Delete(o);
	return rc;
}

static void
sampled(void *ctx, int n)
{
	struct sal_generate *g = ctx;

	g->count->tokens += n;
	sal_progress(&g->cfg->c, g->count);
}

/* A decoder that these jobs fit; the one before, if they do. */
static int
room_for(struct sal_generate *g, const struct sal_job *job, int n, int longest)
{
	const struct sal_common *c = &g->cfg->c;
	bool longer = longest > g->longest;

	g->longest = longer ? longest : g->longest;
	int pages = sal_decoder_pages(job, n, c->batch, g->longest, g->cfg->max_tokens);
	if (!longer && pages <= g->pages)
		return 0;
	sal_decoder_free(g->d);
	g->pages = pages > g->pages ? pages : g->pages;
	g->d = sal_decoder_new(g->r.m, g->r.tk, c->batch, g->longest, g->pages, g->r.a ? g->r.a->r : 0);
	return g->d ? 0 : -1;
}

static int
run(void *ctx, struct sal_group **group, int n)
{
	struct sal_generate *g = ctx;
	const struct sal_generate_config *cfg = g->cfg;
	int longest = 0, n_jobs = 0, rc = -1;
	struct sal_job *job = NULL;

	for (int i = 0; i < n; i++) {
		const struct prompt *p = group[i]->user;
		n_jobs += p->n_ids;
		for (int k = 0; k < p->n_ids; k++)
			longest = p->ids[k].n > longest ? p->ids[k].n : longest;
	}
	longest += cfg->max_tokens;
	longest = longest < g->r.m->cfg.max_positions ? longest : g->r.m->cfg.max_positions;
	if ((job = calloc((size_t)n_jobs, sizeof *job)) == NULL)
		return sal_err("out of memory");
	n_jobs = 0;
	for (int i = 0; i < n; i++) {
		struct prompt *p = group[i]->user;
		for (int k = 0; k < p->n_ids; k++)
			job[n_jobs++] = (struct sal_job){ .ids = p->ids[k].id, .n = p->ids[k].n, .id = p->id,
				.n_samples = p->n_ids > 1 ? 1 : cfg->n, .first_sample = k, .answer = p->answer + k };
	}
	struct sal_sampling s = { .max_tokens = cfg->max_tokens, .top_k = cfg->top_k, .temperature = (float)cfg->temperature,
		.top_p = (float)cfg->top_p, .min_p = (float)cfg->min_p, .seed = cfg->c.seed, .stop = g->stop, .n_stop = g->n_stop,
		.sampled = sampled, .ctx = g };
	s.n_eos = sal_tokenizer_eos(g->r.tk, &s.eos);
	rc = room_for(g, job, n_jobs, longest);
	rc = rc == 0 ? sal_decode(g->d, g->r.a, &s, job, n_jobs) : rc;
	for (int i = 0; rc == 0 && i < n; i++) {
		const struct prompt *p = group[i]->user;
		for (int k = 0; rc == 0 && k < cfg->n; k++)
			rc = emit(g, group[i]->rec[0], p, k);
	}
	free(job);
	return rc;
}

static int
plan(void *ctx, struct sal_buf *out)
{
	struct sal_generate *g = ctx;
	const struct sal_generate_config *cfg = g->cfg;

	sal_reader_plan(&g->r, out);
	sal_buf_printf(out, "%d sample%s a prompt of at most %d tokens, %d sequences together, temperature %g, top-p %g, top-k %d, min-p %g, seed %llu\n",
	    cfg->n, cfg->n == 1 ? "" : "s", cfg->max_tokens, cfg->c.batch, cfg->temperature, cfg->top_p, cfg->top_k, cfg->min_p,
	    (unsigned long long)cfg->c.seed);
	if (cfg->principles)
		sal_buf_printf(out, "system turn: one drawn principle a sample%s\n", cfg->sign ? ", its negation" : "");
	return 0;
}

struct sal_filter
sal_generate_filter(struct sal_generate *g, struct sal_counts *n)
{
	int window = 4 * g->cfg->c.batch / g->cfg->n;

	g->count = n;
	return (struct sal_filter){ .ctx = g, .window = window > 1 ? window : 1, .prepare = prepare, .run = run, .release = release,
		.plan = plan };
}
