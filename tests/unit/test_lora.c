/* SPDX-License-Identifier: Apache-2.0 */
/* test_lora.c - gradients: their sums over records, where they leave the process, of sequences that share rows; what is planned is reserved. */
#include "lib/eval.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MODEL "tests/data/tiny"

static int number, failed;

static void
ok(int good, const char *what)
{
	printf("%sok %d - %s\n", good ? "" : "not ", ++number, what);
	failed |= !good;
}

static float
value(int record, int p, int i)
{
	return (float)sin(record * 12.7 + p * 3.1 + i) + (record == 1 ? 1e3f : 0);
}

/* Gradients of three records, pushed one after the other. */
static void
push_three(struct sal_adapter *a)
{
	for (int r = 0; r < 3; r++)
		for (int p = 0; p < a->n_params; p++) {
			int n = (int)(sal_tensor_bytes(a->param[p].g) / 4);
			float *x = malloc((size_t)n * sizeof *x);
			for (int i = 0; i < n; i++)
				x[i] = value(r, p, i);
			sal_upload(a->model->dev, a->param[p].g, x);
			sal_param_push(a, &a->param[p], r);
			free(x);
		}
	sal_adapter_grad_end(a, 3);
}

/* Is each parameter's gradient times the sum (g0 + g1) + g2, in float and in this order? */
static int
sums(struct sal_adapter *a, float times)
{
	int good = 1;

	for (int p = 0; p < a->n_params; p++) {
		int n = (int)(sal_tensor_bytes(a->param[p].g) / 4);
		float *x = malloc((size_t)n * sizeof *x);
		sal_download(a->model->dev, x, a->param[p].g);
		for (int i = 0; i < n; i++)
			good &= x[i] == times * (value(2, p, i) + (value(1, p, i) + value(0, p, i)));
		free(x);
	}
	return good;
}

static int calls, given;

static void
doubled(void *ctx, struct sal_dev *dev, const struct sal_tensor *g, int n)
{
	calls += ctx == &calls;
	given = n;
	for (int i = 0; i < n; i++)
		sal_add(dev, g[i], g[i]);
}

static void
test_sums(struct sal_model *m)
{
	struct sal_adapter *a = sal_adapter_new(m, 4, 8, (1u << SAL_N_PROJ) - 1, true, 1);
	struct sal_adam adam = { 1e-3, 0.9, 0.999, 1e-8, 0 };

	ok(a && sal_adapter_train(a, 3) == 0, "an adapter to train");
	push_three(a);
	ok(sums(a, 1), "the gradient of an update is the sum of its records, in the order of the tree");
	sal_adapter_update(a, &adam, 1, 1);
	a->reduce = doubled;
	a->reduce_ctx = &calls;
	push_three(a);
	ok(calls == 1 && given == a->n_params && a->n_params == 2 * 7 * 2 + 2, "gradients leave by one call, all of them");
	ok(sums(a, 2), "what comes back is what the update sees");
	sal_adapter_freeze(a);
	ok(a->param[0].w.data == NULL && a->head_w->w.data && a->lora[0].a.fwd, "frozen: the packed matrices and the head are there, no more");
	sal_adapter_close(a);
}

/* What is planned without a device is what is reserved, to the byte. */
static void
test_rooms(struct sal_model *m, const struct sal_common *c)
{
	size_t room = 0;
	struct sal_model *s = sal_model_sketch(MODEL, c, SAL_MODEL_TRAIN | SAL_MODEL_HEAD_GRAD, &room);
	struct sal_adapter *a = sal_adapter_new(m, 4, 8, (1u << SAL_N_PROJ) - 1, true, 1);
	struct sal_adapter_room r, f;
	struct sal_engine *e[4];

	ok(s && s->dev == NULL && room == sal_arena_peak(m->arena), "weights");
	if (!s || !a || sal_adapter_train(a, 5) != 0) {
		ok(0, "an adapter to train");
		return;
	}
	r = sal_adapter_room(s, 4, a->targets, true, 5);
	f = sal_adapter_room(s, 4, a->targets, true, 0);
	ok(r.packed == sal_arena_peak(a->arena) + 2 * sal_tensor_room(SAL_F32, m->cfg.hidden_size) && r.master == sal_arena_peak(a->master_arena), "an adapter");
	ok(r.sums + r.moments == sal_arena_peak(a->train_arena), "its gradients and moments");
	ok(f.packed == r.packed && f.master + f.sums + f.moments == 0, "a frozen one");
	for (int i = 0; i < 4; i++) {
		e[i] = sal_engine_new(m, (enum sal_mode)i, 40, 3, 9, 4, 4);
		ok(e[i] && sal_engine_bytes(s, (enum sal_mode)i, 40, 3, 9, 4, 4) == sal_arena_peak(e[i]->arena), "an engine");
		sal_engine_free(e[i]);
	}
	sal_adapter_close(a);
	sal_model_close(s);
}

/* ---- two sequences of one record ----------------------------------------- */

static void
loss(void *ctx, struct sal_seq *s, int n)
{
	for (int i = 0; i < n; i++)
		for (int t = 0; t < (ctx ? 1 : s[i].n - s[i].from); t++)
			s[i].grad[t] = (float)sin(s[i].ids[s[i].n - 1] + t); /* by the sequence, not by where it stands */
}

/* Gradients of two sequences, as one record or as two, and rows that were computed, all after one update: the host's copy. */
static float *
pair_gradient(struct sal_adapter *a, struct sal_engine *e, const int32_t *x, const int32_t *y, int n, int from, bool one, enum sal_eval_what what, float *out, int *rows)
{
	struct sal_seq s[2] = { { .ids = x, .n = n, .from = from }, { .ids = y, .n = n - 7, .from = from, .record = !one } };
	float *g = NULL, back[512];
	size_t at = 0, all = 0;

	for (int i = 0; i < 2; i++) {
		s[i].out = out + 256 * i;
		s[i].grad = back + 256 * i;
	}
	if (sal_eval_grad(e, a, s, 2, what, 1.0f, loss, what == SAL_EVAL_REWARD ? a : NULL) != 0)
		return NULL;
	*rows = e->n_rows;
	sal_adapter_grad_end(a, one ? 1 : 2);
	for (int p = 0; p < a->n_params; p++)
		all += sal_tensor_bytes(a->param[p].g) / 4;
	g = malloc(all * sizeof *g);
	for (int p = 0; p < a->n_params; at += sal_tensor_bytes(a->param[p++].g) / 4)
		sal_download(a->model->dev, g + at, a->param[p].g);
	return g;
}

/* Each weight moves by e times a number of its own; what they moved along g, the gradient: its product with it. */
static double
shift(struct sal_adapter *a, int n_params, float e, const float *g)
{
	double along = 0;
	size_t at = 0;

	for (int p = 0; p < n_params; p++) {
		size_t n = sal_tensor_bytes(a->param[p].w) / 4;
		float *w = malloc(n * sizeof *w);
		sal_download(a->model->dev, w, a->param[p].w);
		for (size_t i = 0; i < n; i++, at++) {
			float d = (float)cos(1.7 * (double)at);
			w[i] += e * d;
			along += g ? (double)g[at] * d : 0;
		}
		sal_upload(a->model->dev, a->param[p].w, w);
		free(w);
	}
	sal_adapter_pack(a);
	return along;
}

/* The loss whose gradient `loss` gives, of what came out. */
static double
value_of(const float *out, const int32_t *x, const int32_t *y, int n, int from, enum sal_eval_what what)
{
	double sum = 0;

	for (int i = 0; i < 2; i++)
		for (int t = 0; t < (what == SAL_EVAL_REWARD ? 1 : n - 7 * i - from); t++)
			sum += sin((i ? y : x)[n - 7 * i - 1] + t) * out[256 * i + t];
	return sum;
}

static void
test_shared(enum sal_eval_what what, enum sal_mode mode)
{
	struct sal_common c = { .dtype = 1, .threads = 1, .device = "cpu" };
	struct sal_model *m = sal_model_open(MODEL, &c, SAL_MODEL_TRAIN | SAL_MODEL_HEAD_GRAD);
	struct sal_adapter *a = m ? sal_adapter_new(m, 4, 8, (1u << SAL_N_PROJ) - 1, true, 1) : NULL;
	struct sal_engine *e = m ? sal_engine_new(m, mode, 250, 4, 20, 8, 4) : NULL;
	struct sal_adam adam = { 1e-2, 0.9, 0.999, 1e-8, 0 };
	int32_t x[110], y[110];
	float out[2][512], worst = 0, most = 0;
	int rows[2] = { 0 }, same = 1;

	if (!a || !e || sal_adapter_train(a, 3) != 0) {
		ok(0, "an adapter to train");
		return;
	}
	push_three(a);
	sal_adapter_update(a, &adam, 1, 1); /* B is no longer 0 */
	for (int i = 0; i < 110; i++) {
		x[i] = 3 + i * 7 % 260;
		y[i] = i < 70 ? x[i] : 3 + i * 11 % 260;
	}
	float *g[2];
	for (int i = 0; i < 2; i++)
		g[i] = pair_gradient(a, e, x, y, 110, 66, i, what, out[i], &rows[i]);
	size_t n = 0;
	for (int p = 0; p < a->n_params - (what == SAL_EVAL_REWARD ? 0 : 2); p++) /* a log-probability is not of the head, which stands last */
		n += sal_tensor_bytes(a->param[p].w) / 4;
	for (size_t i = 0; g[0] && g[1] && i < n; i++) {
		worst = fmaxf(worst, fabsf(g[0][i] - g[1][i]));
		most = fmaxf(most, fabsf(g[0][i]));
	}
	for (int t = 0; t < (what == SAL_EVAL_REWARD ? 1 : 37); t++)
		same &= out[0][t] == out[1][t] && out[0][256 + t] == out[1][256 + t];
	ok(rows[0] - rows[1] == 64, "what two sequences of a record begin with is computed once, page by page");
	ok(same, "it changes no bit of what comes out");
	ok(most > 0 && worst < 1e-5f * most, "nor the gradient, but for its rounding");
	free(g[0]);
	free(g[1]);
	/* the gradient is the slope of the loss, with what dropout leaves too */
	for (int k = 0; k < 2; k++) {
		int n_params = a->n_params - (what == SAL_EVAL_REWARD ? 0 : 2);
		double v[2], slope;
		ok(sal_engine_dropout(e, k ? 0.4f : 0, 99) == 0, k ? "dropout is on" : "dropout is off");
		float *x0 = pair_gradient(a, e, x, y, 110, 66, true, what, out[0], &rows[0]);
		slope = shift(a, n_params, 2e-3f, x0);
		free(pair_gradient(a, e, x, y, 110, 66, true, what, out[1], &rows[1]));
		v[1] = value_of(out[1], x, y, 110, 66, what);
		shift(a, n_params, -4e-3f, NULL);
		free(pair_gradient(a, e, x, y, 110, 66, true, what, out[1], &rows[1]));
		v[0] = value_of(out[1], x, y, 110, 66, what);
		shift(a, n_params, 2e-3f, NULL);
		ok(fabs((v[1] - v[0]) / 4e-3 - slope) < 0.01 * fabs(slope), k ? "with dropout, the gradient is the slope of the loss" : "the gradient is the slope of the loss");
		if (k == 1) {
			ok(sal_engine_dropout(e, 0.4f, 98) == 0, "a salt");
			free(pair_gradient(a, e, x, y, 110, 66, true, what, out[1], &rows[1]));
			ok(out[0][0] != out[1][0] && out[0][256] != out[1][256], "another salt, other draws");
		}
		free(x0);
	}
	sal_engine_free(e);
	sal_adapter_close(a);
	sal_model_close(m);
}

int
main(void)
{
	struct sal_common c = { .dtype = 0, .threads = 1, .device = "cpu" };
	struct sal_model *m = sal_model_open(MODEL, &c, SAL_MODEL_TRAIN | SAL_MODEL_HEAD_GRAD);

	ok(m != NULL, "a model");
	if (m) {
		test_sums(m);
		test_rooms(m, &c);
	}
	sal_model_close(m);
	test_shared(SAL_EVAL_REWARD, SAL_TRAIN);
	test_shared(SAL_EVAL_LOGPROB, SAL_TRAIN_LEAN);
	printf("1..%d\n", number);
	return failed;
}
