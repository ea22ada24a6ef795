/* SPDX-License-Identifier: Apache-2.0 */
/*
 * train.c - supervised, DPO and reward-model training over one loop.
 *
 * A record becomes one sequence (SFT) or two that stay together (chosen, rejected).  Its gradient is summed alone, token by
 * token, and the records of an update in a fixed tree, so that how many are computed together changes nothing.
 */
#include "lib/train.h"
#include "lib/reader.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct example { /* one record */
	struct sal_ids ids[2]; /* SFT: the sequence; else chosen, rejected */
	int from[2];
	double ref[2];         /* DPO: log-probability of the answers under the policy as it was at the start */
	double margin;         /* reward: what chosen must lead by; 0 where the record has none */
	long line;             /* of the input */
	bool same;
};

struct trainer {
	const struct sal_train *t;
	struct sal_reader r;
	struct sal_engine *e; /* with a backward pass */
	struct example *ex;
	int n_ex, cap_ex, longest;
	char name[17]; /* of the run: see name_run */
	/* of the update at hand */
	double *loss, *lead; /* per record; lead: of chosen over rejected */
	double n_tokens;
	int n_batch;
	const int *order;
	int at;
};

struct sal_train
sal_train_defaults(enum sal_loss loss)
{
	return (struct sal_train){
		.c = { .batch = loss == SAL_LOSS_REWARD ? 64 : 128 }, .loss = (int)loss, .beta = 0.1, .learning_rate = loss == SAL_LOSS_REWARD ? 3e-5 : 1e-4, .max_grad_norm = 0.3,
		.warmup_ratio = 0.03, .warmup_steps = -1, .epochs = 1, .micro_batch = 1024, .template = "reward.txt", .principles = "rm",
		.limits = { .instruction = 128, .response = 768, .total = 1280 },
	};
}

double
sal_schedule(int schedule, double peak, long s, long warmup, long total)
{
	double x;

	if (s < warmup)
		return peak * (double)(s + 1) / (double)warmup;
	if (schedule == 2)
		return peak;
	x = total > warmup ? (double)(s - warmup) / (double)(total - warmup) : 1;
	x = x > 1 ? 1 : x;
	return schedule == 1 ? peak * (1 - x) : peak * 0.5 * (1 + cos(3.14159265358979323846 * x));
}

/* ---- records to sequences ----------------------------------------------- */

static int
add_text(struct trainer *tr, const char *text, struct sal_ids *out)
{
	return sal_tokenize_plain(tr->r.tk, text, strlen(text), out);
}

/* The last tokens of a prompt, its BOS kept, and the first ones of an answer. */
static void
shorten(const struct trainer *tr, struct sal_ids *ids, int *from)
{
	int most = tr->t->prompt_len, over = most ? *from - most : 0, bos = ids->id[0] == sal_tokenizer_bos(tr->r.tk) && most > 1;

	if (over > 0) {
		memmove(ids->id + bos, ids->id + bos + over, (size_t)(ids->n - bos - over) * sizeof *ids->id);
		ids->n -= over;
		*from -= over;
	}
	if (tr->t->response_len && ids->n - *from > tr->t->response_len)
		ids->n = *from + tr->t->response_len;
}

/* prompt ids, then the answer's: token fields win over text; a text answer that was not cut off ends with the model's first end token. */
static int
answer(struct trainer *tr, const cJSON *j, const char *tokens, const char *text, struct sal_ids *out, int *from)
{
	int vocab = tr->r.m->cfg.vocab_size;
	const int32_t *eos;
	const char *s;

	if (sal_json_has(j, "prompt_tokens") && sal_json_has(j, tokens)) {
		if (sal_json_ids(j, "prompt_tokens", vocab, out) != 0)
			return -1;
		*from = out->n;
		if (sal_json_ids(j, tokens, vocab, out) != 0)
			return -1;
	} else {
		if (sal_json_has(j, tokens) && !sal_json_has(j, text))
			return sal_err("\"%s\" without \"prompt_tokens\"", tokens);
		if ((s = sal_json_str(j, text)) == NULL || sal_chat_encode_record(tr->r.chat, tr->r.tk, j, tr->t->system, out) != 0)
			return -1;
		*from = out->n;
		if (add_text(tr, s, out) != 0)
			return -1;
		const char *stop = sal_chat_stop(tr->r.chat);
		bool cut = cJSON_IsFalse(cJSON_GetObjectItemCaseSensitive(j, "has_stop")); /* then its end is not to be learned */
		if (!cut && (stop ? add_text(tr, stop, out) != 0 : sal_tokenizer_eos(tr->r.tk, &eos) > 0 && sal_ids_push(out, eos[0]) != 0))
			return -1;
	}
	if (*from < 1)
		return sal_err("empty prompt: nothing predicts the first token");
	shorten(tr, out, from);
	return 0;
}

static int
reward_text(struct trainer *tr, const cJSON *j, const char *tokens, const char *text, struct sal_ids *out)
{
	struct sal_under u;

	if (sal_json_has(j, tokens))
		return sal_json_ids(j, tokens, tr->r.m->cfg.vocab_size, out);
	/* read when the first text asks for them: records of tokens need none */
	if (sal_reader_prompts(&tr->r, tr->t->principles, tr->t->template) != 0 || sal_reader_under(&tr->r, j, &u) < 0)
		return -1;
	return sal_reader_reward(&tr->r, j, text, &u, tr->t->limits, out);
}

static int
make_example(struct trainer *tr, const struct sal_record *r, struct example *x)
{
	const cJSON *j = r->json;
	int rc = 0, k = tr->t->loss == SAL_LOSS_SFT ? 1 : 2;

	if (tr->t->loss == SAL_LOSS_REWARD && sal_json_has(j, "margin") && sal_json_num(j, "margin", &x->margin) != 0)
		return -1;
	if (tr->t->loss == SAL_LOSS_SFT)
		rc = answer(tr, j, "response_tokens", "response", &x->ids[0], &x->from[0]);
	else if (tr->t->loss == SAL_LOSS_DPO)
		rc = answer(tr, j, "chosen_tokens", "chosen", &x->ids[0], &x->from[0]) != 0 ||
		        answer(tr, j, "rejected_tokens", "rejected", &x->ids[1], &x->from[1]) != 0 ? -1 : 0;
	else
		rc = reward_text(tr, j, "chosen_tokens", "chosen", &x->ids[0]) != 0 ||
		        reward_text(tr, j, "rejected_tokens", "rejected", &x->ids[1]) != 0 ? -1 : 0;
	for (int i = 0; rc == 0 && i < k; i++) {
		if (x->ids[i].n > tr->r.m->cfg.max_positions)
			rc = sal_err("%d tokens are more than the context of %d", x->ids[i].n, tr->r.m->cfg.max_positions);
		else if (x->ids[i].n < 1 || (tr->t->loss != SAL_LOSS_REWARD && x->ids[i].n <= x->from[i] && tr->t->loss == SAL_LOSS_SFT))
			rc = sal_err("no tokens to train on");
		else if (x->ids[i].n > tr->longest)
			tr->longest = x->ids[i].n;
	}
	if (rc == 0 && k == 2)
		x->same = x->ids[0].n == x->ids[1].n && memcmp(x->ids[0].id, x->ids[1].id, (size_t)x->ids[0].n * 4) == 0;
	return rc;
}

/* Each record becomes an example as it is read. */
static int
check(void *ctx, const struct sal_record *r)
{
	struct trainer *tr = ctx;
	struct example x = { .line = r->line };

	if (tr->n_ex == tr->cap_ex) {
		int cap = tr->cap_ex ? 2 * tr->cap_ex : 256;
		struct example *p = realloc(tr->ex, (size_t)cap * sizeof *p);
		if (p == NULL)
			return sal_err("out of memory");
		tr->ex = p;
		tr->cap_ex = cap;
	}
	if (make_example(tr, r, &x) != 0) {
		free(x.ids[0].id);
		free(x.ids[1].id);
		return -1;
	}
	tr->ex[tr->n_ex++] = x;
	return 0;
}

static int
read_examples(struct trainer *tr, FILE *in, struct sal_counts *count)
{
	struct sal_record **rec = NULL;
	int n = 0, rc = sal_read_checked(&tr->t->c, in, check, tr, &rec, &n, count);

	for (int i = 0; i < n; i++)
		sal_record_free(rec[i]);
	free(rec);
	return rc == 0 && tr->n_ex == 0 ? sal_err("stdin: no records to train on") : rc;
}

/* ---- losses -------------------------------------------------------------- */

static double
log_sigmoid(double z)
{
	return z > 0 ? -log1p(exp(-z)) : z - log1p(exp(z));
}

static void
sft_loss(void *ctx, struct sal_seq *s, int n)
{
	struct trainer *tr = ctx;

	for (int i = 0; i < n; i++) {
		int k = s[i].n - s[i].from;
		tr->loss[s[i].record] = -sal_sum(s[i].out, k);
		for (int t = 0; t < k; t++)
			s[i].grad[t] = (float)(-1.0 / tr->n_tokens);
	}
}

static void
dpo_loss(void *ctx, struct sal_seq *s, int n)
{
	struct trainer *tr = ctx;

	for (int i = 0; i + 1 < n; i += 2) {
		const struct example *x = &tr->ex[tr->order[tr->at + s[i].record]];
		int kc = s[i].n - s[i].from, kr = s[i + 1].n - s[i + 1].from;
		double z = tr->t->beta * ((sal_sum(s[i].out, kc) - x->ref[0]) - (sal_sum(s[i + 1].out, kr) - x->ref[1]));
		double g = x->same ? 0 : -tr->t->beta * exp(log_sigmoid(-z)) / tr->n_batch; /* dloss/dlogprob of chosen */
		tr->loss[s[i].record] = -log_sigmoid(z);
		tr->lead[s[i].record] = z;
		for (int t = 0; t < kc; t++)
			s[i].grad[t] = (float)g;
		for (int t = 0; t < kr; t++)
			s[i + 1].grad[t] = (float)-g;
	}
}

static void
reward_loss(void *ctx, struct sal_seq *s, int n)
{
	struct trainer *tr = ctx;

	for (int i = 0; i + 1 < n; i += 2) {
		const struct example *x = &tr->ex[tr->order[tr->at + s[i].record]];
		double lead = (double)s[i].out[0] - s[i + 1].out[0], z = lead - x->margin;
		double g = x->same ? 0 : -exp(log_sigmoid(-z)) / tr->n_batch;
		tr->loss[s[i].record] = -log_sigmoid(z);
		tr->lead[s[i].record] = lead;
		s[i].grad[0] = (float)g;
		s[i + 1].grad[0] = (float)-g;
	}
}

/* The sequences of n examples in the order given; out and grad point into one block, *block. */
static struct sal_seq *
sequences(const struct trainer *tr, const int *order, int n, float **block, int *n_seqs)
{
	int k = tr->t->loss == SAL_LOSS_SFT ? 1 : 2;
	struct sal_seq *s = calloc((size_t)n * 2 + 1, sizeof *s);
	size_t total = 0, at = 0;

	*n_seqs = 0;
	for (int i = 0; i < n; i++)
		for (int j = 0; j < k; j++)
			total += (size_t)tr->ex[order[i]].ids[j].n;
	*block = malloc((2 * total + 1) * sizeof **block);
	if (s == NULL || *block == NULL) {
		free(s);
		free(*block);
		*block = NULL;
		sal_err("out of memory");
		return NULL;
	}
	for (int i = 0; i < n; i++)
		for (int j = 0; j < k; j++) {
			const struct example *x = &tr->ex[order[i]];
			s[(*n_seqs)++] = (struct sal_seq){ .ids = x->ids[j].id, .n = x->ids[j].n, .from = x->from[j], .record = i, .line = x->line,
				.out = *block + at, .grad = *block + total + at };
			at += (size_t)x->ids[j].n;
		}
	return s;
}

/* DPO's reference is the adapter as it stands before the first update. */
static int
reference_logprobs(struct trainer *tr)
{
	int *order = malloc((size_t)tr->n_ex * sizeof *order), n, rc = -1;
	float *block = NULL;
	struct sal_seq *s = NULL;

	for (int i = 0; order && i < tr->n_ex; i++)
		order[i] = i;
	if (order && (s = sequences(tr, order, tr->n_ex, &block, &n)) != NULL &&
	    (rc = sal_eval(tr->e, tr->r.a, s, n, SAL_EVAL_LOGPROB, 1.0f)) == 0)
		for (int i = 0; i < n; i++)
			tr->ex[i / 2].ref[i % 2] = sal_sum(s[i].out, s[i].n - s[i].from);
	free(order);
	free(block);
	free(s);
	return rc;
}

/* ---- the loop ------------------------------------------------------------ */

/* One hash over all that decides the bytes of the result: what a saved run must have in common with this one to go on. */
static int
name_run(struct trainer *tr)
{
	const struct sal_train *t = tr->t;
	struct sal_buf b = { 0 };

	sal_buf_printf(&b, "%016llx %016llx %d %d %s %s ", (unsigned long long)tr->r.m->hash, (unsigned long long)tr->r.a->hash, t->c.dtype,
	    t->c.quantize, sal_dev_isa(tr->r.m->dev), SAL_VERSION);
	sal_buf_printf(&b, "%d %.17g %.17g %.17g %.17g %.17g %.17g %d %d %d %d %d %llu", t->loss, t->beta, t->lora_dropout, t->learning_rate, t->weight_decay,
	    t->max_grad_norm, t->warmup_ratio, t->warmup_steps, t->schedule, t->epochs, t->no_shuffle, t->c.batch, (unsigned long long)t->c.seed);
	for (int i = 0; i < tr->n_ex; i++) {
		const struct example *x = &tr->ex[i];
		sal_buf_printf(&b, " %d %d %.17g", x->from[0], x->from[1], x->margin);
		for (int k = 0; k < 2; k++)
			sal_buf_printf(&b, " %016llx", (unsigned long long)sal_hash(x->ids[k].id, (size_t)x->ids[k].n * sizeof *x->ids[k].id));
	}
	if (!b.failed)
		snprintf(tr->name, sizeof tr->name, "%016llx", (unsigned long long)sal_hash(b.data, b.len));
	sal_buf_free(&b);
	return tr->name[0] ? 0 : sal_err("out of memory");
}

static int
save(struct trainer *tr, const char *dir, long step, bool moments)
{
	char *tmp = sal_dir_begin(dir, SAL_ADAPTER_CONFIG), *path;
	struct sal_buf b = { 0 };
	int rc = -1;

	if (tmp == NULL)
		return -1;
	sal_buf_printf(&b, "{\"step\":%ld,\"run\":\"%s\",\"records\":%d,\"batch\":%d,\"epochs\":%d,\"seed\":\"%llu\",\"sal_cpu\":\"%s\",\"version\":\"%s\"}\n", step,
	    tr->name, tr->n_ex, tr->t->c.batch, tr->t->epochs, (unsigned long long)tr->t->c.seed, sal_dev_isa(tr->r.m->dev), SAL_VERSION);
	path = sal_path_join(tmp, "state.json");
	if (path && !b.failed && sal_adapter_save(tr->r.a, tmp, tr->t->loss == SAL_LOSS_REWARD, !moments && tr->t->save_dtype == 1) == 0 &&
	    (!moments || sal_adapter_save_moments(tr->r.a, tmp) == 0) && sal_write_file(path, b.data, b.len) == 0)
		rc = sal_dir_commit(tmp, dir);
	else
		sal_dir_abort(tmp);
	free(path);
	sal_buf_free(&b);
	return rc;
}

static int
update(struct trainer *tr, const int *order, int at, int n, long step, long total, FILE *out)
{
	static void (*const loss[])(void *, struct sal_seq *, int) = { sft_loss, dpo_loss, reward_loss };
	const struct sal_train *t = tr->t;
	int n_seqs, rc = -1, right = 0, same = 0;
	float *block = NULL;
	struct sal_seq *s = sequences(tr, order + at, n, &block, &n_seqs);

	if (s == NULL)
		return -1;
	tr->order = order;
	tr->at = at;
	tr->n_batch = n;
	tr->n_tokens = 0;
	struct sal_random draw = sal_random_open(t->c.seed, "dropout", "", (uint64_t)step);
	if (sal_engine_dropout(tr->e, (float)t->lora_dropout, (uint64_t)draw.key[1] << 32 | draw.key[0]) != 0)
		goto out;
	for (int i = 0; i < n_seqs; i++)
		tr->n_tokens += t->loss == SAL_LOSS_REWARD ? s[i].n : s[i].n - s[i].from;
	if (sal_eval_grad(tr->e, tr->r.a, s, n_seqs, t->loss == SAL_LOSS_REWARD ? SAL_EVAL_REWARD : SAL_EVAL_LOGPROB, 1.0f,
	        loss[t->loss], tr) != 0)
		goto out;
	sal_adapter_grad_end(tr->r.a, n);
	double norm = sqrt(sal_adapter_sumsq(tr->r.a)), value = sal_tree_sum(tr->loss, n) / (t->loss == SAL_LOSS_SFT ? tr->n_tokens : n);
	if (!isfinite(norm) || !isfinite(value)) {
		sal_err("update %ld: the %s is not finite", step + 1, isfinite(value) ? "gradient" : "loss");
		goto out;
	}
	if (step == 0 && t->save_gradients && sal_adapter_save_gradients(tr->r.a, t->save_gradients) != 0)
		goto out;
	long warm = t->warmup_steps >= 0 ? t->warmup_steps : (long)ceil(t->warmup_ratio * (double)total);
	double clip = t->max_grad_norm / (norm + 1e-6), lr = sal_schedule(t->schedule, t->learning_rate, step, warm, total);
	struct sal_adam adam = { lr, 0.9, 0.999, 1e-8, t->weight_decay };
	sal_adapter_update(tr->r.a, &adam, clip < 1 ? clip : 1, step + 1);
	if (sal_dev_sync(tr->r.m->dev) != 0) {
		sal_err("%s", sal_dev_error(tr->r.m->dev));
		goto out;
	}
	double lo = INFINITY, hi = -INFINITY, mean = 0;
	for (int i = 0; i < n_seqs && t->loss == SAL_LOSS_REWARD; i++) {
		lo = fmin(lo, s[i].out[0]);
		hi = fmax(hi, s[i].out[0]);
		mean += s[i].out[0] / n_seqs;
	}
	fprintf(out, "{\"step\":%ld,\"loss\":%.9g,\"grad_norm\":%.9g,\"lr\":%.17g,\"learning_rate\":%.17g,\"num_tokens\":%.0f", step + 1, value, norm, lr,
	    lr, tr->n_tokens);
	if (t->loss != SAL_LOSS_SFT) {
		for (int i = 0; i < n; i++) {
			right += tr->lead[i] > 0;
			same += tr->ex[order[at + i]].same;
		}
		fprintf(out, ",\"accuracy\":%.9g,\"margin\":%.9g,\"equal_pairs\":%d", (double)right / n, sal_tree_sum(tr->lead, n) / n, same);
	}
	if (t->loss == SAL_LOSS_REWARD)
		fprintf(out, ",\"min_reward\":%.9g,\"mean_reward\":%.9g,\"max_reward\":%.9g", lo, mean, hi);
	fprintf(out, "}\n");
	fflush(out);
	rc = 0;
out:
	free(s);
	free(block);
	return rc;
}

/* A saved run of the same command goes on after its last update. */
static long
resume(struct trainer *tr, const char *dir)
{
	char *path = sal_path_join(dir, "state.json");
	cJSON *j = path && sal_is_dir(dir) ? sal_json_read(path) : NULL;
	const char *run;
	int64_t step = 0;

	if (path && !j && access(path, F_OK) == 0) {
		step = -1; /* what cannot be read is not begun anew */
	} else if (j && ((run = sal_json_str(j, "run")) == NULL || sal_json_int(j, "step", 1, INT64_C(1) << 50, &step) != 0)) {
		sal_err("%s: not a saved run", dir);
		step = -1;
	} else if (j && strcmp(run, tr->name) != 0) {
		sal_err("%s: a saved run of another command, other records or another model: remove it to start anew", dir);
		step = -1;
	} else if (j) {
		struct sal_adapter *a = sal_adapter_open(tr->r.m, dir, tr->t->loss == SAL_LOSS_REWARD);
		if (a == NULL || sal_adapter_train(a, tr->t->c.batch) != 0 || sal_adapter_load_moments(a, dir) != 0) {
			sal_adapter_close(a);
			step = -1;
		} else {
			a->dropout = tr->r.a->dropout;
			sal_adapter_close(tr->r.a);
			tr->r.a = a;
		}
	}
	cJSON_Delete(j);
	free(path);
	return step;
}

static int
loop(struct trainer *tr, FILE *out, struct sal_counts *count)
{
	const struct sal_train *t = tr->t;
	int batch = t->c.batch < tr->n_ex ? t->c.batch : tr->n_ex, rc = 0;
	long per_epoch = (tr->n_ex + batch - 1) / batch, total = per_epoch * t->epochs, step = 0, done = 0;
	int *order = malloc((size_t)tr->n_ex * sizeof *order);
	struct sal_buf partial = { 0 };

	tr->loss = calloc((size_t)batch, sizeof *tr->loss);
	tr->lead = calloc((size_t)batch, sizeof *tr->lead);
	sal_buf_printf(&partial, "%s.partial", t->output);
	if (!order || !tr->loss || !tr->lead || partial.failed)
		rc = sal_err("out of memory");
	else if (name_run(tr) != 0 || (t->save_every && (sal_dir_check(partial.data, SAL_ADAPTER_CONFIG) != 0 || (done = resume(tr, partial.data)) < 0)))
		rc = -1;
	count->total = total - done;
	for (int e = 0; rc == 0 && e < t->epochs; e++) {
		char id[32];
		snprintf(id, sizeof id, "epoch-%d", e);
		struct sal_random r = sal_random_open(t->c.seed, "shuffle", id, 0);
		sal_random_shuffle(&r, order, tr->n_ex);
		for (int i = 0; t->no_shuffle && i < tr->n_ex; i++)
			order[i] = i;
		for (int at = 0; rc == 0 && at < tr->n_ex; at += batch, step++) {
			int n = tr->n_ex - at < batch ? tr->n_ex - at : batch;
			if (step < done)
				continue;
			rc = update(tr, order, at, n, step, total, out);
			count->tokens += (long)tr->n_tokens;
			count->done++;
			sal_progress(&t->c, count);
			if (rc == 0 && t->save_every && (step + 1) % t->save_every == 0 && step + 1 < total)
				rc = save(tr, partial.data, step + 1, true);
		}
	}
	if (rc == 0)
		rc = save(tr, t->output, step, false);
	if (rc == 0 && t->save_every && sal_is_dir(partial.data)) {
		/* the finished folder replaces the partial one */
		sal_dir_abort(strdup(partial.data));
	}
	free(order);
	sal_buf_free(&partial);
	return rc;
}

static int
open_all(struct trainer *tr)
{
	const struct sal_train *t = tr->t;
	bool reward = t->loss == SAL_LOSS_REWARD;
	unsigned targets;

	if (sal_targets_parse(t->lora_targets, &targets) != 0 || sal_reader_open(&tr->r, &t->c, !reward, t->format) != 0 ||
	    sal_reader_model(&tr->r, SAL_MODEL_TRAIN | (reward ? 0 : SAL_MODEL_HEAD_GRAD), reward) != 0)
		return -1;
	if (tr->r.a == NULL)
		tr->r.a = sal_adapter_new(tr->r.m, t->lora_r ? t->lora_r : 64, t->lora_alpha > 0 ? t->lora_alpha : 16, targets, reward, t->c.seed);
	else if (!t->c.quiet && (t->lora_r || t->lora_alpha > 0 || t->lora_targets))
		sal_warn(SAL_LORA_IDLE, t->c.adapter);
	if (tr->r.a == NULL)
		return -1;
	tr->r.a->dropout = t->lora_dropout;
	return 0;
}

static int
plan(void *ctx, struct sal_buf *out)
{
	static const char *const loss[] = { "cross-entropy", "DPO", "pairwise" }, *const schedule[] = { "cosine", "linear", "constant" };
	struct trainer *tr = ctx;
	const struct sal_train *t = tr->t;

	if (t->loss == SAL_LOSS_REWARD && sal_reader_prompts(&tr->r, t->principles, t->template) != 0)
		return -1;
	sal_reader_plan(&tr->r, out);
	sal_buf_printf(out, "%s loss, updates of %d records, as many as the records of %d epoch%s give, learning rate %g %s\n", loss[t->loss], t->c.batch,
	    t->epochs, t->epochs == 1 ? "" : "s", t->learning_rate, schedule[t->schedule]);
	sal_buf_printf(out, "writes %s\n", t->output);
	return 0;
}

static int
run(struct trainer *tr, struct sal_counts *n)
{
	const struct sal_train *t = tr->t;

	if (sal_dir_check(t->output, SAL_ADAPTER_CONFIG) != 0 || open_all(tr) != 0)
		return -1;
	if (t->c.dry_run)
		return sal_dry_run(&t->c, plan, tr);
	if (read_examples(tr, stdin, n) != 0 || sal_adapter_train(tr->r.a, t->c.batch < tr->n_ex ? t->c.batch : tr->n_ex) != 0)
		return -1;
	tr->e = sal_eval_engine(tr->r.m, true, tr->longest * (t->loss == SAL_LOSS_SFT ? 1 : 2), t->micro_batch, tr->r.a->r);
	if (tr->e == NULL || sal_engine_dropout(tr->e, (float)t->lora_dropout, 0) != 0 || sal_engine_dropout(tr->e, 0, 0) != 0 || /* the memory alone */
	    (t->loss == SAL_LOSS_DPO && reference_logprobs(tr) != 0))
		return -1;
	return loop(tr, stdout, n);
}

int
sal_train_main(const struct sal_train *t)
{
	struct trainer tr = { .t = t };
	struct sal_counts n = { 0 };
	int status = EXIT_SUCCESS;

	if (run(&tr, &n) != 0) {
		sal_warn("%s", sal_errmsg());
		status = EXIT_FAILURE;
	}
	status = sal_finish(status, &t->c, &n, tr.r.m ? sal_dev_isa(tr.r.m->dev) : NULL);
	for (int i = 0; i < tr.n_ex; i++) {
		free(tr.ex[i].ids[0].id);
		free(tr.ex[i].ids[1].id);
	}
	free(tr.ex);
	free(tr.loss);
	free(tr.lead);
	sal_engine_free(tr.e);
	sal_reader_close(&tr.r);
	return status;
}
