/* SPDX-License-Identifier: Apache-2.0 */
/* eval.c - pack sequences, run a pass, pick the rows that a loss reads, and bring gradients back. */
#include "lib/eval.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

double
sal_sum(const float *x, int n)
{
	double s = 0;

	for (int i = 0; i < n; i++)
		s += x[i];
	return s;
}

double
sal_tree_sum(const double *x, int n)
{
	int half = 1;

	if (n <= 1)
		return n == 1 ? x[0] : 0;
	while (half * 2 < n)
		half *= 2;
	return sal_tree_sum(x, half) + sal_tree_sum(x + half, n - half);
}

int
sal_seq_rows(const struct sal_seq *s, enum sal_eval_what what)
{
	return what == SAL_EVAL_REWARD || what == SAL_EVAL_CHOICE ? s->n : s->n - 1; /* nothing is predicted from the last token */
}

/* n of so many rows of the batch that a head reads */
static size_t
picked_room(const struct sal_model *m, int n, int rows, bool back)
{
	int64_t c = m->cfg.hidden_size;

	return 5 * sal_tensor_room(SAL_F32, n) + sal_tensor_room(m->dtype, n * c) +
	    (back ? sal_tensor_room(SAL_F32, n * c) + sal_tensor_room(SAL_F32, rows * c) : 0);
}

struct sal_eval_shape
sal_eval_shape(const struct sal_model *m, bool train, int longest, int budget, int rank)
{
	/* keep the activations of every layer where they are small enough; else each layer's input alone */
	struct sal_eval_shape s = { .mode = train ? SAL_TRAIN : SAL_SCORE, .rows = longest > budget ? longest : budget };
	const size_t limit = (size_t)3 << 29;

	s.seqs = s.rows / 16 > 16 ? s.rows / 16 : 16; /* each may leave a page part empty: shorter ones than this need not fill the rows */
	s.width = (longest + SAL_KV_PAGE - 1) / SAL_KV_PAGE;
	s.width = s.width > 0 ? s.width : 1;
	s.pages = (s.rows + SAL_KV_PAGE - 1) / SAL_KV_PAGE + s.seqs + 8;
	if (train && sal_engine_bytes(m, s.mode, s.rows, s.seqs, s.pages, s.width, rank) > limit)
		s.mode = SAL_TRAIN_LEAN;
	s.picked = picked_room(m, s.rows, s.rows, train);
	return s;
}

struct sal_engine *
sal_eval_engine(struct sal_model *m, bool train, int longest, int budget, int rank)
{
	struct sal_eval_shape s = sal_eval_shape(m, train, longest, budget, rank);

	return sal_engine_new(m, s.mode, s.rows, s.seqs, s.pages, s.width, rank);
}

struct picked { /* the rows of a batch that a head reads */
	struct sal_arena *arena;
	struct sal_tensor idx, h, target, out, entropy, grad, dh, dh_all;
	int n;
};

static int
n_out(const struct sal_seq *s, enum sal_eval_what what)
{
	return what == SAL_EVAL_REWARD ? 1 : what == SAL_EVAL_CHOICE ? 2 : s->n - s->from;
}

static int
pick_rows(struct sal_engine *e, struct picked *p, const struct sal_seq *s, int n, enum sal_eval_what what, bool back)
{
	struct sal_model *m = e->model;
	int64_t c = m->cfg.hidden_size;
	int32_t *idx, *target;
	int k = 0, row = 0;

	p->n = 0;
	for (int i = 0; i < n; i++)
		p->n += n_out(&s[i], what);
	idx = malloc(((size_t)p->n + 1) * 2 * sizeof *idx);
	if (idx == NULL)
		return sal_err("out of memory");
	target = idx + p->n;
	for (int i = 0; i < n; i++) {
		for (int t = 0; t < n_out(&s[i], what); t++, k++) {
			bool last = what == SAL_EVAL_REWARD || what == SAL_EVAL_CHOICE;
			idx[k] = row - s[i].first + (last ? s[i].n - 1 : s[i].from - 1 + t);
			target[k] = what == SAL_EVAL_LOGPROB ? s[i].ids[s[i].from + t] : what == SAL_EVAL_CHOICE ? s[i].choice[t] : 0;
		}
		row += sal_seq_rows(&s[i], what) - s[i].first;
	}
	p->arena = sal_arena_new(m->dev, picked_room(m, p->n, e->n_rows, back));
	p->idx = sal_tensor_new(p->arena, SAL_I32, 1, p->n, 0, 0, 0);
	p->target = sal_tensor_new(p->arena, SAL_I32, 1, p->n, 0, 0, 0);
	p->h = sal_tensor_new(p->arena, m->dtype, 2, p->n, c, 0, 0);
	p->out = sal_tensor_new(p->arena, SAL_F32, 1, p->n, 0, 0, 0);
	p->entropy = sal_tensor_new(p->arena, SAL_F32, 1, p->n, 0, 0, 0);
	p->grad = sal_tensor_new(p->arena, SAL_F32, 1, p->n, 0, 0, 0);
	if (back) {
		p->dh = sal_tensor_new(p->arena, SAL_F32, 2, p->n, c, 0, 0);
		p->dh_all = sal_tensor_new(p->arena, SAL_F32, 2, e->n_rows, c, 0, 0);
	}
	sal_upload(m->dev, p->idx, idx);
	sal_upload(m->dev, p->target, target);
	free(idx);
	return 0;
}

/* Scatter a host array over the sequences' out (which = 0) or entropy (1), or collect grad (2). */
static void
move(struct sal_seq *s, int n, enum sal_eval_what what, float *host, int which)
{
	for (int i = 0; i < n; i++) {
		int k = n_out(&s[i], what);
		size_t bytes = (size_t)k * sizeof *host;
		if (which == 0)
			memcpy(s[i].out, host, bytes);
		else if (which == 1 && s[i].entropy)
			memcpy(s[i].entropy, host, bytes);
		else if (which == 2)
			memcpy(host, s[i].grad, bytes);
		host += k;
	}
}

static int
check_finite(const struct sal_seq *s, int n, enum sal_eval_what what)
{
	const char *name = what == SAL_EVAL_VALUE ? "value" : what == SAL_EVAL_REWARD ? "reward" : "log-probability";

	const struct sal_seq *worst = NULL;

	for (int i = 0; i < n; i++)
		for (int t = 0; t < n_out(&s[i], what); t++)
			if (!isfinite(s[i].out[t]) && (worst == NULL || s[i].line < worst->line))
				worst = &s[i];
	if (worst == NULL)
		return 0;
	return worst->line ? sal_err("stdin:%ld: a %s is not finite", worst->line, name) : sal_err("a %s is not finite", name);
}

static int
run(struct sal_engine *e, const struct sal_adapter *a, struct sal_seq *s, int n, enum sal_eval_what what, float inv_t,
    struct picked *p, bool back)
{
	struct sal_model *m = e->model;
	bool entropy = false;
	float *host;

	for (int i = 0; i < n; i++)
		entropy = entropy || (what == SAL_EVAL_LOGPROB && s[i].entropy);
	if (pick_rows(e, p, s, n, what, back) != 0)
		return -1;
	sal_gather(m->dev, p->h, sal_forward(e, a), p->idx);
	if (what == SAL_EVAL_LOGPROB || what == SAL_EVAL_CHOICE)
		sal_logprob(m->dev, p->out, entropy ? p->entropy : SAL_NONE, back ? p->dh : SAL_NONE, p->h, m->head, p->target, inv_t);
	else
		sal_head_forward(m->dev, p->out, p->h, a->head_w->w, a->head_b ? a->head_b->w : SAL_NONE);
	if (sal_dev_sync(m->dev) != 0)
		return sal_err("%s", sal_dev_error(m->dev));
	if ((host = malloc(((size_t)p->n + 1) * sizeof *host)) == NULL)
		return sal_err("out of memory");
	if (entropy) {
		sal_download(m->dev, host, p->entropy);
		move(s, n, what, host, 1);
	}
	sal_download(m->dev, host, p->out);
	move(s, n, what, host, 0);
	free(host);
	return check_finite(s, n, what);
}

/* Whole pages at the beginning of s that the sequence before it has too; rows that are read out stay its own. */
static int
common_pages(const struct sal_seq *before, const struct sal_seq *s, enum sal_eval_what what)
{
	int most = what == SAL_EVAL_REWARD || what == SAL_EVAL_CHOICE ? s->n - 1 : s->from - 1, rows = sal_seq_rows(before, what), k = 0;

	most = most < rows ? most : rows;
	while (k < most && s->ids[k] == before->ids[k])
		k++;
	return k / SAL_KV_PAGE;
}

/*
 * How many sequences from s on fit the engine together, whole records at a time; at least one record.  The second of a record
 * shares what it begins with as the first does: always, so that its gradient is the same in any batch.
 */
static int
fill(struct sal_engine *e, struct sal_seq *s, int n, enum sal_eval_what what)
{
	int i = 0, k;

	sal_batch_clear(e);
	for (; i < n; i += k) {
		int rows = 0;
		for (k = 0; i + k < n && s[i + k].record == s[i].record; k++) {
			s[i + k].first = k == 1 ? common_pages(&s[i], &s[i + 1], what) * SAL_KV_PAGE : 0;
			rows += sal_seq_rows(&s[i + k], what) - s[i + k].first;
		}
		if (i > 0 && !sal_batch_fits(e, rows, k))
			break;
		for (int j = i; j < i + k; j++)
			sal_batch_add(e, s[j].ids, sal_seq_rows(&s[j], what), s[j].record, s[j].first / SAL_KV_PAGE);
	}
	return i;
}

static int
by_ids(const void *a, const void *b)
{
	const struct sal_seq *x = a, *y = b;
	int n = x->n < y->n ? x->n : y->n;

	for (int i = 0; i < n; i++)
		if (x->ids[i] != y->ids[i])
			return x->ids[i] < y->ids[i] ? -1 : 1;
	return (x->n > y->n) - (x->n < y->n);
}

/*
 * How many sequences from s on, in the order of by_ids(), fit the engine together.  What follows a cut shares nothing with
 * what is before it, so the cut is made in the second half where least is shared.
 */
static int
fill_shared(struct sal_engine *e, struct sal_seq *s, int n, enum sal_eval_what what)
{
	int i = 0, cut;

	sal_batch_clear(e);
	for (; i < n; i++) {
		int rows = sal_seq_rows(&s[i], what), shared = i ? common_pages(&s[i - 1], &s[i], what) : 0;
		s[i].first = shared * SAL_KV_PAGE;
		if (i > 0 && !sal_batch_fits(e, rows - s[i].first, 1)) {
			cut = i;
			for (int k = i; k > i / 2; k--)
				cut = s[k].first < s[cut].first ? k : cut;
			return cut < i ? fill_shared(e, s, cut, what) : i;
		}
		sal_batch_add(e, s[i].ids, rows, s[i].record, shared);
	}
	return i;
}

int
sal_eval(struct sal_engine *e, const struct sal_adapter *a, struct sal_seq *s, int n, enum sal_eval_what what, float inv_temperature)
{
	struct sal_seq *q = malloc(((size_t)n + 1) * sizeof *q);
	int rc = q ? 0 : sal_err("out of memory");

	if (rc == 0) {
		memcpy(q, s, (size_t)n * sizeof *q);
		qsort(q, (size_t)n, sizeof *q, by_ids);
	}
	for (int i = 0, k; rc == 0 && i < n; i += k) {
		struct picked p = { 0 };
		k = fill_shared(e, q + i, n - i, what);
		rc = run(e, a, q + i, k, what, inv_temperature, &p, false);
		sal_arena_free(p.arena);
	}
	free(q);
	return rc;
}

/* Gradient of the head, record by record. */
static void
head_backward(struct sal_engine *e, struct sal_adapter *a, struct picked *p, struct sal_seq *s, int n, enum sal_eval_what what)
{
	int64_t r = 0;

	for (int i = 0; i < n; i++) {
		int k = n_out(&s[i], what);
		bool more = i > 0 && s[i].record == s[i - 1].record;
		sal_head_backward(e->model->dev, sal_tensor_rows(p->dh, r, k), a->head_w->g, a->head_b ? a->head_b->g : SAL_NONE,
		    sal_tensor_rows(p->grad, r, k), sal_tensor_rows(p->h, r, k), a->head_w->w, more);
		r += k;
		if (i + 1 == n || s[i + 1].record != s[i].record) {
			sal_param_push(a, a->head_w, s[i].record);
			if (a->head_b)
				sal_param_push(a, a->head_b, s[i].record);
		}
	}
}

int
sal_eval_grad(struct sal_engine *e, struct sal_adapter *a, struct sal_seq *s, int n, enum sal_eval_what what, float inv_temperature,
    void (*loss)(void *ctx, struct sal_seq *s, int n), void *ctx)
{
	struct sal_model *m = e->model;

	for (int i = 0, k; i < n; i += k) {
		struct picked p = { 0 };
		k = fill(e, s + i, n - i, what);
		int rc = run(e, a, s + i, k, what, inv_temperature, &p, true);
		float *host = rc == 0 ? malloc(((size_t)p.n + 1) * sizeof *host) : NULL;
		if (rc == 0 && host == NULL)
			rc = sal_err("out of memory");
		if (rc == 0) {
			loss(ctx, s + i, k);
			move(s + i, k, what, host, 2);
			sal_upload(m->dev, p.grad, host);
			if (what != SAL_EVAL_LOGPROB)
				head_backward(e, a, &p, s + i, k, what);
			/* of a log-probability dh is the gradient by itself, of a head's output that of the loss */
			sal_scatter(m->dev, p.dh_all, p.dh, what == SAL_EVAL_LOGPROB ? p.grad : SAL_NONE, p.idx);
			sal_backward(e, a, p.dh_all);
			if (sal_dev_sync(m->dev) != 0)
				rc = sal_err("%s", sal_dev_error(m->dev));
		}
		free(host);
		sal_arena_free(p.arena);
		if (rc != 0)
			return -1;
	}
	return 0;
}
