/* SPDX-License-Identifier: Apache-2.0 */
/*
 * decode.c - the running batch: prefill what enters, one token for all, release what ends.
 *
 * Every step is one forward pass over a packed batch that mixes whole prompts with single tokens.
 */
#include "lib/decode.h"
#include "lib/random.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct slot {
	struct sal_job *job; /* NULL: free */
	int sample;          /* index in job->answer */
	int n;               /* tokens whose keys are stored */
	int32_t next;        /* token to be fed, already in the answer */
	struct sal_random random;
	int32_t *page;
	int n_page;
	int seq;             /* its sequence in the batch at hand */
};

struct kept { /* the prompt that left a slot last, for those that begin like it */
	const struct sal_adapter *a;
	int32_t *ids, *page;
	int n, n_page;
};
#define WORTH 16 /* tokens in common for which a prompt waits until another is computed */

struct sal_decoder {
	struct sal_model *m;
	const struct sal_tokenizer *tk;
	struct sal_engine *e;
	struct sal_arena *arena;
	struct sal_tensor h, idx, logits, u, token, logprob;
	struct slot *slot;
	int slots, longest, pages_each;
	int32_t *free_page; /* stack */
	int n_free;
	int *refs;          /* users of a page */
	struct kept kept;
	float *lp;
	int32_t *tok;
};

static int
pages_for(int n)
{
	return (n + SAL_KV_PAGE - 1) / SAL_KV_PAGE;
}

/* Pages of a sample that ends by length. */
static int
worst_pages(const struct sal_job *j, int longest, int max_tokens)
{
	return pages_for(j->n + max_tokens < longest ? j->n + max_tokens : longest);
}

/* Prompts are computed in rows of their own beside those that decode; one sequence more has pages than there are slots. */
static size_t
engine_bytes(const struct sal_model *m, int slots, int longest, int rank, int pages)
{
	return sal_engine_bytes(m, SAL_DECODE, (longest > 512 ? longest : 512) + slots, 2 * slots + 1, pages, pages_for(longest), rank);
}

static size_t
logits_room(const struct sal_model *m, int64_t slots)
{
	return sal_tensor_room(m->dtype, slots * m->cfg.hidden_size) + sal_tensor_room(SAL_F32, slots * m->cfg.vocab_size) +
	    4 * sal_tensor_room(SAL_F32, slots);
}

size_t
sal_decoder_bytes(const struct sal_model *m, int slots, int longest, int rank, size_t *kv)
{
	size_t all = engine_bytes(m, slots, longest, rank, (slots + 1) * pages_for(longest));

	*kv = all - engine_bytes(m, slots, longest, rank, 0);
	return all + logits_room(m, slots);
}

/* Those of the largest samples that fill the slots, and of the sequence that is kept. */
int
sal_decoder_pages(const struct sal_job *job, int n, int slots, int longest, int max_tokens)
{
	int each = pages_for(longest), sum = each, *samples = calloc((size_t)each + 1, sizeof *samples); /* that take so many pages */

	if (samples == NULL)
		return (slots + 1) * each;
	for (int i = 0; i < n; i++)
		samples[worst_pages(job + i, longest, max_tokens)] += job[i].n_samples;
	for (int k = each; k > 0; k--) {
		int take = samples[k] < slots ? samples[k] : slots;
		sum += take * k;
		slots -= take;
	}
	free(samples);
	return sum;
}

struct sal_decoder *
sal_decoder_new(struct sal_model *m, const struct sal_tokenizer *tk, int slots, int longest, int n_pages, int rank)
{
	struct sal_decoder *d = calloc(1, sizeof *d);
	int each = pages_for(longest), v = m->cfg.vocab_size, c = m->cfg.hidden_size;
	int rows = longest > 512 ? longest : 512;

	if (d == NULL)
		goto oom;
	*d = (struct sal_decoder){ .m = m, .tk = tk, .slots = slots, .longest = longest, .pages_each = each };
	if ((d->e = sal_engine_new(m, SAL_DECODE, rows + slots, 2 * slots + 1, n_pages, each, rank)) == NULL)
		goto fail;
	d->slot = calloc((size_t)slots, sizeof *d->slot);
	d->free_page = malloc((size_t)n_pages * sizeof *d->free_page);
	d->refs = calloc((size_t)n_pages, sizeof *d->refs);
	d->lp = malloc((size_t)slots * sizeof *d->lp);
	d->tok = malloc((size_t)slots * sizeof *d->tok);
	if (!d->slot || !d->free_page || !d->refs || !d->lp || !d->tok)
		goto oom;
	for (int i = 0; i < slots; i++)
		if ((d->slot[i].page = malloc((size_t)each * sizeof(int32_t))) == NULL)
			goto oom;
	d->kept.ids = malloc((size_t)longest * sizeof(int32_t));
	d->kept.page = malloc((size_t)each * sizeof(int32_t));
	if (!d->kept.ids || !d->kept.page)
		goto oom;
	for (int i = n_pages - 1; i >= 0; i--)
		d->free_page[d->n_free++] = i;
	d->arena = sal_arena_new(m->dev, logits_room(m, slots));
	d->h = sal_tensor_new(d->arena, m->dtype, 2, slots, c, 0, 0);
	d->logits = sal_tensor_new(d->arena, SAL_F32, 2, slots, v, 0, 0);
	d->idx = sal_tensor_new(d->arena, SAL_I32, 1, slots, 0, 0, 0);
	d->u = sal_tensor_new(d->arena, SAL_F32, 1, slots, 0, 0, 0);
	d->token = sal_tensor_new(d->arena, SAL_I32, 1, slots, 0, 0, 0);
	d->logprob = sal_tensor_new(d->arena, SAL_F32, 1, slots, 0, 0, 0);
	if (sal_dev_sync(m->dev) != 0) {
		sal_err("sampling %d sequences: %s", slots, sal_dev_error(m->dev));
		goto fail;
	}
	return d;
oom:
	sal_err("out of memory");
fail:
	sal_decoder_free(d);
	return NULL;
}

void
sal_decoder_free(struct sal_decoder *d)
{
	if (d == NULL)
		return;
	for (int i = 0; d->slot && i < d->slots; i++)
		free(d->slot[i].page);
	free(d->slot);
	free(d->kept.ids);
	free(d->kept.page);
	free(d->free_page);
	free(d->refs);
	free(d->lp);
	free(d->tok);
	sal_engine_free(d->e);
	sal_arena_free(d->arena);
	free(d);
}

void
sal_answer_clear(struct sal_answer *a)
{
	free(a->tokens.id);
	free(a->logprobs);
	sal_buf_free(&a->text);
	memset(a, 0, sizeof *a);
}

static int32_t
page_take(struct sal_decoder *d)
{
	int32_t p = d->free_page[--d->n_free];

	sal_engine_pages(d->e, p + 1);
	d->refs[p] = 1;
	return p;
}

static void
drop_pages(struct sal_decoder *d, const int32_t *page, int n)
{
	for (int i = 0; i < n; i++)
		if (--d->refs[page[i]] == 0)
			d->free_page[d->n_free++] = page[i];
}

static void
share_pages(struct sal_decoder *d, int32_t *to, const int32_t *page, int n)
{
	for (int i = 0; i < n; i++)
		d->refs[to[i] = page[i]]++;
}

/* Free a slot; its prompt is kept in the place of the one before it. */
static void
slot_release(struct sal_decoder *d, struct slot *s, const struct sal_adapter *a)
{
	if (s->job) {
		struct kept *k = &d->kept;
		drop_pages(d, k->page, k->n_page);
		k->a = a;
		k->n = s->job->n;
		k->n_page = pages_for(k->n);
		memcpy(k->ids, s->job->ids, (size_t)k->n * sizeof *k->ids);
		share_pages(d, k->page, s->page, k->n_page);
	}
	drop_pages(d, s->page, s->n_page);
	s->n_page = 0;
	s->job = NULL;
}

/* Make the page of position n writable by this slot alone. */
static void
own_page(struct sal_decoder *d, struct slot *s, int n)
{
	int i = n / SAL_KV_PAGE;

	if (i == s->n_page) {
		s->page[s->n_page++] = page_take(d);
	} else if (d->refs[s->page[i]] > 1) {
		int32_t p = page_take(d);
		for (int l = 0; l < d->m->cfg.num_layers; l++)
			sal_kv_copy(d->m->dev, d->e->layer[l].kv, p, s->page[i]);
		d->refs[s->page[i]]--;
		s->page[i] = p;
	}
}

static int
push_token(struct sal_answer *a, int32_t id, float lp)
{
	float *p = realloc(a->logprobs, (size_t)(a->tokens.n + 1) * sizeof *p);

	if (p == NULL || sal_ids_push(&a->tokens, id) != 0)
		return sal_err("out of memory");
	a->logprobs = p;
	p[a->tokens.n - 1] = lp;
	return 0;
}

/*
 * Where the earliest stop text begins in what was said so far, or -1.  The text is made again from the ids each time only
 * when there are stop texts: a token's text may depend on the ones before it.
 */
static int
find_stop(struct sal_decoder *d, const struct sal_sampling *s, struct sal_answer *a, int n_tokens, long *at)
{
	*at = -1;
	a->text.len = 0;
	if (sal_detokenize(d->tk, a->tokens.id, n_tokens, &a->text) != 0)
		return -1;
	if (a->text.data == NULL)
		return 0;
	a->text.data[a->text.len] = '\0';
	for (int i = 0; i < s->n_stop; i++) {
		char *p = strstr(a->text.data, s->stop[i]);
		if (p && (*at < 0 || p - a->text.data < *at))
			*at = (long)(p - a->text.data);
	}
	if (*at >= 0) {
		a->text.len = (size_t)*at;
		a->text.data[*at] = '\0';
	}
	return 0;
}

/* Take the token drawn for a slot; ends the slot when the answer has ended. */
static int
take_token(struct sal_decoder *d, const struct sal_adapter *ad, const struct sal_sampling *s, struct slot *t, int32_t id, float lp)
{
	struct sal_answer *a = &t->job->answer[t->sample];
	bool eos = false;
	long at = -1;

	if (!isfinite(lp))
		return sal_err("record '%s': a log-probability is not finite", t->job->id);
	if (push_token(a, id, lp) != 0)
		return -1;
	for (int i = 0; i < s->n_eos; i++)
		eos = eos || s->eos[i] == id;
	if (!eos && s->n_stop && find_stop(d, s, a, a->tokens.n, &at) != 0)
		return -1;
	a->stopped = eos || at >= 0;
	if (!a->stopped && a->tokens.n < s->max_tokens && t->n < d->longest - 1) {
		t->next = id;
		return 0;
	}
	if (at < 0 && find_stop(d, s, a, a->tokens.n - eos, &at) != 0)
		return -1;
	slot_release(d, t, ad);
	return 0;
}

struct queue {
	struct sal_job *job;
	int n, at, sample; /* next to enter */
};

static int
free_slots(const struct sal_decoder *d)
{
	int k = 0;

	for (int i = 0; i < d->slots; i++)
		k += d->slot[i].job == NULL;
	return k;
}

static int
in_common(const int32_t *a, int na, const int32_t *b, int nb)
{
	int n = na < nb ? na : nb, k = 0;

	while (k < n && a[k] == b[k])
		k++;
	return k;
}

/*
 * Tokens at the beginning of a job's prompt, but never all, whose keys stand in *page already; *soon: the same of the prompts
 * that are in the batch at hand.
 */
static int
beginning(const struct sal_decoder *d, const struct sal_adapter *a, const struct sal_job *j, const int32_t **page, int *soon)
{
	const struct kept *k = &d->kept;
	int best = k->a == a ? in_common(k->ids, k->n, j->ids, j->n - 1) : 0;

	*page = k->page;
	*soon = 0;
	for (int i = 0; i < d->slots; i++) {
		const struct slot *t = &d->slot[i];
		int n = t->job ? in_common(t->job->ids, t->job->n, j->ids, j->n - 1) : 0;
		if (n > *soon && t->next == -1)
			*soon = n;
		if (n > best && t->next != -1) {
			best = n;
			*page = t->page;
		}
	}
	return best;
}

/* Put samples of the next jobs into free slots; their prompts join the batch, once a job. */
static void
admit(struct sal_decoder *d, const struct sal_adapter *a, const struct sal_sampling *s, struct queue *q)
{
	while (q->at < q->n && free_slots(d) > 0) {
		struct sal_job *j = &q->job[q->at];
		int worst = worst_pages(j, d->longest, s->max_tokens), soon;
		const int32_t *page;
		int have = beginning(d, a, j, &page, &soon);
		struct slot *first = NULL;
		if (soon >= have + WORTH || d->e->n_rows + j->n > d->e->max_rows - d->slots || d->n_free < worst)
			return;
		for (int i = 0; i < d->slots && q->sample < j->n_samples; i++) {
			struct slot *t = &d->slot[i];
			if (t->job)
				continue;
			if (first && d->n_free < worst)
				break;
			t->job = j;
			t->sample = q->sample++;
			t->n = j->n;
			t->random = sal_random_open(s->seed, "generate", j->id, (uint64_t)(j->first_sample + t->sample));
			if (first == NULL) {
				share_pages(d, t->page, page, t->n_page = pages_for(have));
				own_page(d, t, have);
				while (t->n_page < pages_for(j->n))
					t->page[t->n_page++] = page_take(d);
				first = t;
			} else {
				share_pages(d, t->page, first->page, t->n_page = first->n_page);
			}
			t->next = -1; /* fresh from its prompt */
			t->seq = d->e->n_seqs;
		}
		sal_batch_add_at(d->e, j->ids + have, j->n - have, have, first->page, first->n_page);
		if (q->sample == j->n_samples) {
			q->at++;
			q->sample = 0;
		}
	}
}

static int
step(struct sal_decoder *d, const struct sal_adapter *a, const struct sal_sampling *s, struct queue *q)
{
	struct sal_engine *e = d->e;
	struct sal_dev *dev = d->m->dev;
	int n = 0, v = d->m->cfg.vocab_size;

	sal_batch_clear(e);
	for (int i = 0; i < d->slots; i++) {
		struct slot *t = &d->slot[i];
		if (t->job == NULL)
			continue;
		own_page(d, t, t->n);
		t->seq = e->n_seqs;
		sal_batch_add_at(e, &t->next, 1, t->n++, t->page, t->n_page);
	}
	admit(d, a, s, q);
	int32_t *idx = malloc((size_t)d->slots * sizeof *idx);
	float *u = malloc((size_t)d->slots * sizeof *u);
	struct slot **row = malloc((size_t)d->slots * sizeof *row);
	int rc = idx && u && row ? 0 : sal_err("out of memory");
	for (int i = 0; rc == 0 && i < d->slots; i++) {
		struct slot *t = &d->slot[i];
		if (t->job == NULL)
			continue;
		idx[n] = e->off[t->seq + 1] - 1; /* the last row of its sequence */
		u[n] = sal_random_uniform(&t->random);
		row[n++] = t;
	}
	if (rc == 0 && n > 0) {
		struct sal_tensor h = sal_tensor_rows(d->h, 0, n), id = sal_tensor_rows(d->idx, 0, n), z = sal_tensor_rows(d->logits, 0, n);
		struct sal_tensor uu = sal_tensor_rows(d->u, 0, n), tok = sal_tensor_rows(d->token, 0, n), lp = sal_tensor_rows(d->logprob, 0, n);
		sal_upload(dev, id, idx);
		sal_upload(dev, uu, u);
		sal_gather(dev, h, sal_forward(e, a), id);
		sal_linear_forward(dev, sal_tensor_view(z, 2, n, v, 0, 0), h, d->m->head, SAL_NONE, SAL_NONE, NULL, false);
		sal_sample(dev, tok, lp, z, uu, s->temperature, s->top_k, s->top_p, s->min_p);
		sal_download(dev, d->tok, tok);
		sal_download(dev, d->lp, lp);
		if (sal_dev_sync(dev) != 0)
			rc = sal_err("%s", sal_dev_error(dev));
	}
	for (int i = 0; rc == 0 && i < n; i++)
		rc = take_token(d, a, s, row[i], d->tok[i], d->lp[i]);
	if (rc == 0 && s->sampled)
		s->sampled(s->ctx, n);
	free(idx);
	free(u);
	free(row);
	return rc;
}

static int
by_prompt(const void *a, const void *b)
{
	const struct sal_job *x = a, *y = b;
	int k = in_common(x->ids, x->n, y->ids, y->n);

	if (k < x->n && k < y->n)
		return x->ids[k] < y->ids[k] ? -1 : 1;
	return x->n != y->n ? (x->n > y->n) - (x->n < y->n) : (x->answer > y->answer) - (x->answer < y->answer);
}

int
sal_decode(struct sal_decoder *d, const struct sal_adapter *a, const struct sal_sampling *s, struct sal_job *job, int n)
{
	struct queue q = { .job = job, .n = n };
	int rc = 0;

	qsort(job, (size_t)n, sizeof *job, by_prompt);
	while (rc == 0 && (q.at < q.n || free_slots(d) < d->slots))
		rc = step(d, a, s, &q);
	for (int i = 0; i < d->slots; i++)
		slot_release(d, &d->slot[i], a);
	if (rc != 0)
		d->kept.n = 0; /* its keys may never have been computed */
	return rc;
}
