/* SPDX-License-Identifier: Apache-2.0 */
/*
 * llama.c - the decoder of Llama 2/3, SmolLM2, Mistral, Qwen2 and Qwen3, written in kernel calls.
 *
 *   h = x + Wo attention(rope(Wq n), rope(Wk n), Wv n),  n = norm(x)
 *   y = h + Wdown (silu(Wgate m) * Wup m),               m = norm(h)
 *
 * with biases (Qwen2) and norms of each query and key head (Qwen3) where the model has them, and W = W0 + scale B A
 * where an adapter stands.  The residual stream x is float; all else is of the model's dtype.
 */
#include "lib/arch.h"
#include <stdlib.h>
#include <string.h>

/* ---- buffers ------------------------------------------------------------ */

struct reserve { /* a == NULL: only add up */
	struct sal_arena *a;
	size_t room;
};

static struct sal_tensor
take(struct reserve *r, enum sal_dtype dt, int64_t d0, int64_t d1)
{
	r->room += sal_tensor_room(dt, d1 ? d0 * d1 : d0);
	return r->a ? sal_tensor_new(r->a, dt, d1 ? 2 : 1, d0, d1, 0, 0) : SAL_NONE;
}

static struct sal_kv
take_kv(struct reserve *r, const struct sal_engine *e)
{
	const struct sal_config *c = &e->model->cfg;
	struct sal_kv kv = { SAL_NONE, SAL_NONE };

	for (int i = 0; i < 2; i++) {
		struct sal_tensor *t = i ? &kv.v : &kv.k;
		r->room += sal_tensor_room(e->model->dtype, (int64_t)e->n_pages * c->num_kv_heads * SAL_KV_PAGE * c->head_dim);
		if (r->a)
			*t = sal_tensor_new(r->a, e->model->dtype, 4, e->n_pages, c->num_kv_heads, SAL_KV_PAGE, c->head_dim);
	}
	return kv;
}

/* Layers that have pages of their own. */
static int
pools(const struct sal_engine *e)
{
	return e->mode == SAL_TRAIN || e->mode == SAL_DECODE ? e->model->cfg.num_layers : 1;
}

static void
reserve(struct sal_engine *e, struct reserve *r, struct sal_bufs *layer, struct sal_tensor *x)
{
	const struct sal_config *c = &e->model->cfg;
	enum sal_dtype dt = e->model->dtype;
	int64_t n = e->max_rows, h = c->hidden_size, f = c->intermediate_size, rank = e->rank > 0 ? e->rank : 1;
	int64_t q = (int64_t)c->num_heads * c->head_dim, kv = (int64_t)c->num_kv_heads * c->head_dim;
	bool train = e->mode == SAL_TRAIN || e->mode == SAL_TRAIN_LEAN;
	int full = e->mode == SAL_TRAIN ? c->num_layers : 1;

	for (int l = 0; l < pools(e); l++) { /* no fewer than full */
		struct sal_bufs t, *b = layer ? &layer[l] : &t;
		if (l < full) {
			b->rrms1 = take(r, SAL_F32, n, 0);
			b->n1 = take(r, dt, n, h);
			b->q = take(r, dt, n, q);
			b->att = take(r, dt, n, q);
			b->lse = take(r, SAL_F32, n, c->num_heads);
			b->x2 = train ? take(r, SAL_F32, n, h) : SAL_NONE;
			b->rrms2 = take(r, SAL_F32, n, 0);
			b->n2 = take(r, dt, n, h);
			b->gate = take(r, dt, n, f);
			b->up = take(r, dt, n, f);
			b->act = take(r, dt, n, f);
			b->q0 = c->qk_norm && train ? take(r, dt, n, q) : SAL_NONE;
			b->k0 = c->qk_norm && train ? take(r, dt, n, kv) : SAL_NONE;
			b->rq = c->qk_norm ? take(r, SAL_F32, n * c->num_heads, 0) : SAL_NONE;
			b->rk = c->qk_norm ? take(r, SAL_F32, n * c->num_kv_heads, 0) : SAL_NONE;
			for (int p = 0; p < SAL_N_PROJ; p++)
				b->u[p] = take(r, dt, n * rank, 0);
		}
		b->kv = take_kv(r, e);
	}
	for (int l = 0; l < (train ? c->num_layers + 1 : 1); l++) {
		struct sal_tensor t = take(r, SAL_F32, n, h);
		if (x)
			x[l] = t;
	}
	e->hidden = take(r, dt, n, h);
	e->rrmsf = take(r, SAL_F32, n, 0);
	e->k = take(r, dt, n, kv);
	e->v = take(r, dt, n, kv);
	e->ids_d = take(r, SAL_I32, n, 0);
	e->pos_d = take(r, SAL_I32, n, 0);
	e->slot_d = take(r, SAL_I32, n, 0);
	e->off_d = take(r, SAL_I32, e->max_seqs + 1, 0);
	e->first_d = take(r, SAL_I32, e->max_seqs, 0);
	e->pages_d = take(r, SAL_I32, e->max_seqs, e->seq_pages);
	if (!train)
		return;
	e->dres = take(r, SAL_F32, n, h);
	e->dn = take(r, SAL_F32, n, h);
	e->g = take(r, dt, n, h);
	e->datt = take(r, dt, n, q);
	e->dq = take(r, dt, n, q);
	e->dk = take(r, dt, n, kv);
	e->dv = take(r, dt, n, kv);
	e->dact = take(r, dt, n, f);
	e->dgate = take(r, dt, n, f);
	e->dup = take(r, dt, n, f);
	e->du = take(r, dt, n * rank, 0);
}

size_t
sal_engine_bytes(const struct sal_model *m, enum sal_mode mode, int max_rows, int max_seqs, int n_pages, int seq_pages, int rank)
{
	struct sal_engine e = { .model = (struct sal_model *)m, .mode = mode, .max_rows = max_rows, .max_seqs = max_seqs,
		.n_pages = n_pages, .seq_pages = seq_pages, .rank = rank };
	struct reserve r = { 0 };

	reserve(&e, &r, NULL, NULL);
	return r.room;
}

struct sal_engine *
sal_engine_new(struct sal_model *m, enum sal_mode mode, int max_rows, int max_seqs, int n_pages, int seq_pages, int rank)
{
	struct sal_engine *e = calloc(1, sizeof *e);
	struct reserve r = { 0 };
	size_t n = (size_t)max_rows, s = (size_t)max_seqs;

	if (e == NULL) {
		sal_err("out of memory");
		return NULL;
	}
	*e = (struct sal_engine){ .model = m, .mode = mode, .max_rows = max_rows, .max_seqs = max_seqs, .n_pages = n_pages,
		.seq_pages = seq_pages, .rank = rank };
	e->layer = calloc((size_t)m->cfg.num_layers, sizeof *e->layer);
	e->x = calloc((size_t)m->cfg.num_layers + 1, sizeof *e->x);
	e->ids = malloc(n * sizeof *e->ids);
	e->pos = malloc(n * sizeof *e->pos);
	e->slot = malloc(n * sizeof *e->slot);
	e->off = calloc(s + 1, sizeof *e->off);
	e->first = malloc(s * sizeof *e->first);
	e->record = malloc(s * sizeof *e->record);
	e->pages = calloc(s * (size_t)seq_pages, sizeof *e->pages);
	e->arena = sal_arena_new(m->dev, sal_engine_bytes(m, mode, max_rows, max_seqs, n_pages, seq_pages, rank));
	r.a = e->arena;
	if (!e->layer || !e->x || !e->ids || !e->pos || !e->slot || !e->off || !e->first || !e->record || !e->pages) {
		sal_engine_free(e);
		sal_err("out of memory");
		return NULL;
	}
	reserve(e, &r, e->layer, e->x);
	if (sal_dev_sync(m->dev) != 0) {
		sal_err("activations for %d rows: %s", max_rows, sal_dev_error(m->dev));
		sal_engine_free(e);
		return NULL;
	}
	return e;
}

void
sal_engine_free(struct sal_engine *e)
{
	if (e == NULL)
		return;
	sal_arena_free(e->arena);
	sal_arena_free(e->drop_arena);
	free(e->layer);
	free(e->x);
	free(e->ids);
	free(e->pos);
	free(e->slot);
	free(e->off);
	free(e->first);
	free(e->record);
	free(e->pages);
	free(e->key);
	free(e);
}

/* ---- the batch ---------------------------------------------------------- */

static int
pages_for(int n)
{
	return (n + SAL_KV_PAGE - 1) / SAL_KV_PAGE;
}

void
sal_engine_pages(struct sal_engine *e, int n)
{
	for (int l = 0; n > e->ready && l < pools(e); l++) {
		sal_zero(e->model->dev, sal_tensor_rows(e->layer[l].kv.k, e->ready, n - e->ready));
		sal_zero(e->model->dev, sal_tensor_rows(e->layer[l].kv.v, e->ready, n - e->ready));
	}
	e->ready = n > e->ready ? n : e->ready;
}

void
sal_batch_clear(struct sal_engine *e)
{
	e->n_rows = e->n_seqs = e->next_page = 0;
}

bool
sal_batch_fits(const struct sal_engine *e, int n_rows, int n_seqs)
{
	/* every sequence may leave one page part empty */
	return e->n_rows + n_rows <= e->max_rows && e->n_seqs + n_seqs <= e->max_seqs &&
	    e->next_page + pages_for(n_rows) + n_seqs <= e->n_pages;
}

void
sal_batch_add_at(struct sal_engine *e, const int32_t *ids, int n, int first, const int32_t *page, int n_page)
{
	int b = e->n_seqs++;

	e->first[b] = first;
	memcpy(e->pages + (size_t)b * (size_t)e->seq_pages, page, (size_t)n_page * sizeof *page);
	for (int i = 0; i < n; i++) {
		int r = e->n_rows + i, p = first + i;
		e->ids[r] = ids[i];
		e->pos[r] = p;
		e->slot[r] = page[p / SAL_KV_PAGE] * SAL_KV_PAGE + p % SAL_KV_PAGE;
	}
	e->n_rows += n;
	e->off[b + 1] = e->n_rows;
	e->record[b] = b;
}

void
sal_batch_add(struct sal_engine *e, const int32_t *ids, int n, int record, int shared)
{
	int np = pages_for(n), b = e->n_seqs, first = shared * SAL_KV_PAGE;
	int32_t *page = e->pages + (size_t)b * (size_t)e->seq_pages;

	for (int i = 0; i < np; i++)
		page[i] = i < shared ? page[i - e->seq_pages] : e->next_page++;
	sal_engine_pages(e, e->next_page);
	sal_batch_add_at(e, ids + first, n - first, first, page, 0);
	e->record[b] = record;
}

static struct sal_tensor
rows(const struct sal_engine *e, struct sal_tensor t)
{
	return t.ndim ? sal_tensor_rows(t, 0, e->n_rows) : t;
}

static struct sal_tensor
mat(const struct sal_engine *e, struct sal_tensor flat, int64_t cols)
{
	return sal_tensor_view(sal_tensor_rows(flat, 0, e->n_rows * cols), 2, e->n_rows, cols, 0, 0);
}

static struct sal_tensor
heads(const struct sal_engine *e, struct sal_tensor t, int n_heads)
{
	return sal_tensor_view(rows(e, t), 3, e->n_rows, n_heads, e->model->cfg.head_dim, 0);
}

/* each head of each row as a row of its own */
static struct sal_tensor
split(const struct sal_engine *e, struct sal_tensor t, int n_heads)
{
	return sal_tensor_view(rows(e, t), 2, (int64_t)e->n_rows * n_heads, e->model->cfg.head_dim, 0, 0);
}

static struct sal_seqs
seqs(const struct sal_engine *e)
{
	return (struct sal_seqs){ .off = sal_tensor_rows(e->off_d, 0, e->n_seqs + 1), .first = sal_tensor_rows(e->first_d, 0, e->n_seqs),
		.pages = sal_tensor_rows(e->pages_d, 0, e->n_seqs) };
}

/* ---- dropout ------------------------------------------------------------ */

int
sal_engine_dropout(struct sal_engine *e, float p, uint64_t salt)
{
	const struct sal_config *c = &e->model->cfg;
	int64_t widest = (int64_t)c->num_heads * c->head_dim;

	e->dropout = p;
	e->salt = salt;
	if (p == 0 || e->drop_arena)
		return 0;
	if ((e->key = malloc((size_t)e->max_rows * sizeof *e->key)) == NULL)
		return sal_err("out of memory");
	widest = c->hidden_size > widest ? c->hidden_size : widest;
	widest = (c->intermediate_size > widest ? c->intermediate_size : widest) * e->max_rows;
	e->drop_arena = sal_arena_new(e->model->dev, sal_tensor_room(e->model->dtype, widest) + sal_tensor_room(SAL_I32, e->max_rows));
	e->dropped = sal_tensor_new(e->drop_arena, e->model->dtype, 1, widest, 0, 0, 0);
	e->key_d = sal_tensor_new(e->drop_arena, SAL_I32, 1, e->max_rows, 0, 0, 0);
	return sal_dev_sync(e->model->dev) == 0 ? 0 : sal_err("%s", sal_dev_error(e->model->dev));
}

/* Keys of the batch's rows: of what a row is, not of where it stands. */
static void
upload_keys(struct sal_engine *e)
{
	int32_t of[3] = { 0 };

	for (int b = 0; b < e->n_seqs; b++) {
		of[0] = e->record[b];
		of[1] = b > 0 && e->record[b] == e->record[b - 1] ? of[1] + 1 : 0; /* number within the record */
		for (int r = e->off[b]; r < e->off[b + 1]; r++) {
			of[2] = e->pos[r];
			e->key[r] = (int32_t)sal_hash(of, sizeof of);
		}
	}
	sal_upload(e->model->dev, rows(e, e->key_d), e->key);
}

static uint64_t
salt_of(const struct sal_engine *e, int l, int p)
{
	return e->salt + ((uint64_t)(l * SAL_N_PROJ + p) << 32); /* a key has 32 bits */
}

/* What an adapter reads of x, the input of projection p: x, or what dropout leaves of it, until the next call. */
static struct sal_tensor
read_by_adapter(struct sal_engine *e, int l, int p, struct sal_tensor x)
{
	if (e->dropout == 0)
		return x;
	struct sal_tensor y = mat(e, e->dropped, x.dim[1]);
	sal_dropout(e->model->dev, y, x, rows(e, e->key_d), salt_of(e, l, p), e->dropout, false);
	return y;
}

/* ---- forward ------------------------------------------------------------ */

static const struct sal_lora *
lora_of(const struct sal_adapter *a, int l, int p)
{
	const struct sal_lora *t = a ? &a->lora[l * SAL_N_PROJ + p] : NULL;

	return t && t->r ? t : NULL;
}

/*
 * y[i] = W x of n projections from p on, which share their input, adapter included; keeps u = A x for the backward pass.
 */
static void
project(struct sal_engine *e, const struct sal_adapter *a, int l, int p, int n, const struct sal_tensor *y, struct sal_tensor x,
    struct sal_bufs *b)
{
	const struct sal_layer *layer = &e->model->layer[l];
	struct sal_linear map[SAL_LINEARS], low[SAL_LINEARS];
	int k = 0;

	for (int i = 0; i < n; i++) {
		const struct sal_lora *t = lora_of(a, l, p + i);
		map[i] = (struct sal_linear){ .y = y[i], .bias = layer->bias[p + i], .u = t ? mat(e, b->u[p + i], t->r) : SAL_NONE,
			.w = layer->w[p + i], .b = t ? &t->b : NULL };
		if (t && e->dropout > 0)
			sal_linear_forward(e->model->dev, map[i].u, read_by_adapter(e, l, p + i, x), t->a, SAL_NONE, SAL_NONE, NULL, false);
		else if (t)
			low[k++] = (struct sal_linear){ .y = map[i].u, .bias = SAL_NONE, .u = SAL_NONE, .w = t->a };
	}
	if (k)
		sal_linears_forward(e->model->dev, low, k, x);
	sal_linears_forward(e->model->dev, map, n, x);
}

/* y += W x of projection p, the same way */
static void
project_more(struct sal_engine *e, const struct sal_adapter *a, int l, int p, struct sal_tensor y, struct sal_tensor x, struct sal_bufs *b)
{
	const struct sal_layer *layer = &e->model->layer[l];
	const struct sal_lora *t = lora_of(a, l, p);
	struct sal_tensor u = t ? mat(e, b->u[p], t->r) : SAL_NONE;

	if (t)
		sal_linear_forward(e->model->dev, u, read_by_adapter(e, l, p, x), t->a, SAL_NONE, SAL_NONE, NULL, false);
	sal_linear_forward(e->model->dev, y, x, layer->w[p], layer->bias[p], u, t ? &t->b : NULL, true);
}

/* x: the layer's input, and the output when the layer keeps nothing; out: where the result goes otherwise. */
static void
layer_forward(struct sal_engine *e, const struct sal_adapter *a, int l, struct sal_bufs *b, struct sal_kv kv, struct sal_tensor x,
    struct sal_tensor out)
{
	const struct sal_config *c = &e->model->cfg;
	const struct sal_layer *w = &e->model->layer[l];
	struct sal_dev *dev = e->model->dev;
	bool keep = b->x2.ndim != 0;
	struct sal_tensor n1 = rows(e, b->n1), q = rows(e, b->q), k = rows(e, e->k), v = rows(e, e->v), att = rows(e, b->att);
	struct sal_tensor n2 = rows(e, b->n2), gate = rows(e, b->gate), up = rows(e, b->up), act = rows(e, b->act);
	struct sal_tensor pos = rows(e, e->pos_d), x2 = keep ? rows(e, b->x2) : x;

	sal_rmsnorm_forward(dev, n1, rows(e, b->rrms1), x, w->attn_norm, c->rms_norm_eps);
	struct sal_tensor qkv[] = { c->qk_norm && keep ? rows(e, b->q0) : q, c->qk_norm && keep ? rows(e, b->k0) : k, v };
	project(e, a, l, SAL_Q, 3, qkv, n1, b);
	if (c->qk_norm) {
		sal_rmsnorm_forward(dev, split(e, q, c->num_heads), sal_tensor_rows(b->rq, 0, (int64_t)e->n_rows * c->num_heads),
		    split(e, keep ? b->q0 : q, c->num_heads), w->q_norm, c->rms_norm_eps);
		sal_rmsnorm_forward(dev, split(e, k, c->num_kv_heads), sal_tensor_rows(b->rk, 0, (int64_t)e->n_rows * c->num_kv_heads),
		    split(e, keep ? b->k0 : k, c->num_kv_heads), w->k_norm, c->rms_norm_eps);
	}
	sal_rope_forward(dev, heads(e, q, c->num_heads), pos, e->model->rope);
	sal_rope_forward(dev, heads(e, k, c->num_kv_heads), pos, e->model->rope);
	sal_kv_store(dev, kv, k, v, rows(e, e->slot_d));
	sal_attention_forward(dev, att, rows(e, b->lse), q, kv, seqs(e), c->window);
	if (keep)
		sal_copy(dev, x2, x);
	project_more(e, a, l, SAL_O, x2, att, b);
	sal_rmsnorm_forward(dev, n2, rows(e, b->rrms2), x2, w->ffn_norm, c->rms_norm_eps);
	struct sal_tensor gated[] = { gate, up };
	project(e, a, l, SAL_GATE, 2, gated, n2, b);
	sal_swiglu_forward(dev, act, gate, up);
	if (keep)
		sal_copy(dev, out, x2);
	project_more(e, a, l, SAL_DOWN, keep ? out : x, act, b);
}

static struct sal_bufs *
bufs_of(struct sal_engine *e, int l)
{
	return &e->layer[e->mode == SAL_TRAIN ? l : 0];
}

static struct sal_kv
kv_of(struct sal_engine *e, int l)
{
	return e->layer[pools(e) > 1 ? l : 0].kv;
}

struct sal_tensor
sal_forward(struct sal_engine *e, const struct sal_adapter *a)
{
	struct sal_dev *dev = e->model->dev;
	bool train = e->mode == SAL_TRAIN || e->mode == SAL_TRAIN_LEAN;
	int n = e->model->cfg.num_layers;

	sal_upload(dev, rows(e, e->ids_d), e->ids);
	sal_upload(dev, rows(e, e->pos_d), e->pos);
	sal_upload(dev, rows(e, e->slot_d), e->slot);
	sal_upload(dev, seqs(e).off, e->off);
	sal_upload(dev, seqs(e).first, e->first);
	sal_upload(dev, seqs(e).pages, e->pages);
	if (e->dropout > 0)
		upload_keys(e);
	sal_embedding_forward(dev, rows(e, e->x[0]), e->model->embed, rows(e, e->ids_d));
	for (int l = 0; l < n; l++)
		layer_forward(e, a, l, bufs_of(e, l), kv_of(e, l), rows(e, e->x[train ? l : 0]), rows(e, e->x[train ? l + 1 : 0]));
	sal_rmsnorm_forward(dev, rows(e, e->hidden), rows(e, e->rrmsf), rows(e, e->x[train ? n : 0]), e->model->final_norm,
	    e->model->cfg.rms_norm_eps);
	return rows(e, e->hidden);
}

/* ---- backward ----------------------------------------------------------- */

/*
 * Gradient of a projection's adapter, record by record, and then of its input: dx = W^T dy (+ dx) when dx is given.
 */
static void
project_backward(struct sal_engine *e, struct sal_adapter *a, int l, int p, struct sal_tensor dx, struct sal_tensor dy,
    struct sal_tensor x, const struct sal_bufs *b, bool accumulate)
{
	const struct sal_lora *t = lora_of(a, l, p);
	struct sal_dev *dev = e->model->dev;
	struct sal_tensor du = SAL_NONE;

	if (t) {
		struct sal_tensor u = mat(e, b->u[p], t->r);
		du = mat(e, e->du, t->r);
		sal_linear_backward(dev, du, dy, t->b, SAL_NONE, NULL, false);
		x = read_by_adapter(e, l, p, x);
		for (int s = 0; s < e->n_seqs; s++) {
			int64_t r0 = e->off[s], n = e->off[s + 1] - e->off[s];
			bool more = s > 0 && e->record[s] == e->record[s - 1];
			sal_linear_grad(dev, t->pa->g, sal_tensor_rows(du, r0, n), sal_tensor_rows(x, r0, n), 1.0f, more);
			sal_linear_grad(dev, t->pb->g, sal_tensor_rows(dy, r0, n), sal_tensor_rows(u, r0, n), t->scale, more);
			if (s + 1 == e->n_seqs || e->record[s + 1] != e->record[s]) {
				sal_param_push(a, t->pa, e->record[s]);
				sal_param_push(a, t->pb, e->record[s]);
			}
		}
	}
	bool apart = t && e->dropout > 0; /* the adapter's part of dx, which is 0 where x fell */
	if (dx.ndim)
		sal_linear_backward(dev, dx, dy, e->model->layer[l].w[p], apart ? SAL_NONE : du, t && !apart ? &t->a : NULL, accumulate);
	if (dx.ndim && apart) {
		struct sal_tensor dropped = mat(e, e->dropped, dx.dim[1]);
		sal_linear_backward(dev, dropped, du, t->a, SAL_NONE, NULL, false);
		sal_dropout(dev, dx, dropped, rows(e, e->key_d), salt_of(e, l, p), e->dropout, true);
	}
}

static void
layer_backward(struct sal_engine *e, struct sal_adapter *a, int l, struct sal_bufs *b, struct sal_kv kv, struct sal_tensor x)
{
	const struct sal_config *c = &e->model->cfg;
	const struct sal_layer *w = &e->model->layer[l];
	struct sal_dev *dev = e->model->dev;
	struct sal_tensor dres = rows(e, e->dres), dn = rows(e, e->dn), g = rows(e, e->g), pos = rows(e, e->pos_d);
	struct sal_tensor dact = rows(e, e->dact), dgate = rows(e, e->dgate), dup = rows(e, e->dup);
	struct sal_tensor datt = rows(e, e->datt), dq = rows(e, e->dq), dk = rows(e, e->dk), dv = rows(e, e->dv);
	struct sal_tensor n1 = rows(e, b->n1), n2 = rows(e, b->n2);

	sal_copy(dev, g, dres);
	project_backward(e, a, l, SAL_DOWN, dact, g, rows(e, b->act), b, false);
	sal_swiglu_backward(dev, dgate, dup, dact, rows(e, b->gate), rows(e, b->up));
	project_backward(e, a, l, SAL_GATE, dn, dgate, n2, b, false);
	project_backward(e, a, l, SAL_UP, dn, dup, n2, b, true);
	sal_rmsnorm_backward(dev, dres, dn, rows(e, b->x2), w->ffn_norm, rows(e, b->rrms2), true);

	sal_copy(dev, g, dres);
	project_backward(e, a, l, SAL_O, datt, g, rows(e, b->att), b, false);
	sal_attention_backward(dev, dq, dk, dv, datt, rows(e, b->att), rows(e, b->q), rows(e, b->lse), kv, seqs(e), c->window);
	sal_rope_backward(dev, heads(e, dq, c->num_heads), pos, e->model->rope);
	sal_rope_backward(dev, heads(e, dk, c->num_kv_heads), pos, e->model->rope);
	if (c->qk_norm) {
		sal_rmsnorm_backward(dev, split(e, dq, c->num_heads), split(e, dq, c->num_heads), split(e, b->q0, c->num_heads), w->q_norm,
		    sal_tensor_rows(b->rq, 0, (int64_t)e->n_rows * c->num_heads), false);
		sal_rmsnorm_backward(dev, split(e, dk, c->num_kv_heads), split(e, dk, c->num_kv_heads), split(e, b->k0, c->num_kv_heads),
		    w->k_norm, sal_tensor_rows(b->rk, 0, (int64_t)e->n_rows * c->num_kv_heads), false);
	}
	/* nothing is trained below the first layer: its input needs no gradient */
	struct sal_tensor dn1 = l > 0 ? dn : SAL_NONE;
	project_backward(e, a, l, SAL_Q, dn1, dq, n1, b, false);
	project_backward(e, a, l, SAL_K, dn1, dk, n1, b, true);
	project_backward(e, a, l, SAL_V, dn1, dv, n1, b, true);
	if (l > 0)
		sal_rmsnorm_backward(dev, dres, dn, x, w->attn_norm, rows(e, b->rrms1), true);
}

void
sal_backward(struct sal_engine *e, struct sal_adapter *a, struct sal_tensor dh)
{
	int n = e->model->cfg.num_layers;

	sal_rmsnorm_backward(e->model->dev, rows(e, e->dres), dh, rows(e, e->x[n]), e->model->final_norm, rows(e, e->rrmsf), false);
	for (int l = n - 1; l >= 0; l--) {
		struct sal_bufs *b = bufs_of(e, l);
		/* lean: one set of buffers, so all but the last layer's are computed again; out goes to a buffer that is free by now */
		if (e->mode == SAL_TRAIN_LEAN && l < n - 1)
			layer_forward(e, a, l, b, kv_of(e, l), rows(e, e->x[l]), rows(e, e->x[l + 1]));
		layer_backward(e, a, l, b, kv_of(e, l), rows(e, e->x[l]));
	}
}
