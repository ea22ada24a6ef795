/* SPDX-License-Identifier: Apache-2.0 */
/* step.c - one PPO step: read a state, evaluate the rollouts, update policy and critic, write the next state. */
#include "lib/step.h"
#include "lib/eval.h"
#include "lib/policy.h"
#include "lib/random.h"
#include "lib/reader.h" /* sal_plan_model */
#include "lib/train.h" /* sal_schedule */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct rollout { /* one record */
	char *id;
	long line; /* of the input */
	struct sal_ids ids;
	int from;
	float *block, *entropy, *ref_entropy; /* block: the answer's six arrays, then these two */
	bool taken;
	struct sal_answer *answer;
};

struct stats { /* of one update */
	double policy_loss, value_loss, grad_norm, approx_kl, clip_fraction, value_clip_fraction, entropy, ratio, value, value_error;
};
/* Sums over an update. */
enum { LOSS, CHANGE, CLIPPED, MEAN, ERROR, SURPRISE, N_LOSS_SUMS };

struct stepper {
	const struct sal_step *s;
	struct sal_model *m;
	struct sal_adapter *policy, *value, *ref; /* value: NULL if the state has none */
	struct sal_engine *e;
	char name[17]; /* of the policy */
	int64_t step, updates, episodes;
	struct rollout *r;
	struct sal_answer *answer; /* [n] */
	int n, cap, longest;
	long tokens, slots, outs; /* of all answers; outs: figures that the models give */
	/* of the update at hand */
	const int *order;
	struct sal_seq *seq;
	float *block;
	double *weight, *sum; /* per record; sum: [N_LOSS_SUMS][n] */
	int n_batch;
	struct stats *stats;
	int n_stats;
};

enum { PAD = 0 }; /* as in the release: the token of a pad */

struct sal_step
sal_step_defaults(void)
{
	return (struct sal_step){
		.p = sal_ppo_defaults(), .temperature = 0.7, .learning_rate = 2e-5, .max_grad_norm = 1, .warmup_steps = 5, .epochs = 2,
		.minibatch = 288, .micro_batch = 1024,
	};
}

int
sal_step_alarms(struct sal_step *s)
{
	for (int i = 0; i < s->alarm.n; i++) {
		const char *x = s->alarm.s[i];
		double low = 0, high = 0;
		int end = 0;
		bool kl = sscanf(x, "kl=%lf%n", &high, &end) == 1 && !x[end], lr = !kl && sscanf(x, "lr=%lf%n", &high, &end) == 1 && !x[end];
		if (!kl && !lr && (sscanf(x, "length=%lf:%lf%n", &low, &high, &end) != 2 || x[end]))
			return sal_err("--alarm %s: none of kl=N, lr=N, length=LOW:HIGH", x);
		if (!isfinite(high) || !(high > 0) || !(low >= 0 && low <= high))
			return sal_err("--alarm %s: a limit is a number above 0, and LOW is at least 0 and at most HIGH", x);
		double *limit = kl ? &s->most_kl : lr ? &s->most_change : &s->most_length;
		if (*limit > 0)
			return sal_err("--alarm %s: given twice", x);
		*limit = high;
		s->least_length = kl || lr ? s->least_length : low;
	}
	return 0;
}

/* ---- the state's folder -------------------------------------------------- */

static const char *const state_file[] = { "policy/adapter_config.json", "policy/adapter_model.safetensors", "policy/optimizer.safetensors",
	"value/adapter_config.json", "value/adapter_model.safetensors", "value/optimizer.safetensors", "value/head.safetensors" };
static const char mark[] = "state.json"; /* of a state's folder */
enum { N_POLICY_FILES = 3, N_STATE_FILES = 7 };

static int
check_file(const char *dir, const char *name, const cJSON *files)
{
	char *path, want[17];
	const char *have = sal_json_str(files, name);
	uint64_t h;
	int err;

	if (have == NULL)
		return sal_err("%s/state.json: \"files\" has no hash of %s", dir, name);
	if ((path = sal_path_join(dir, name)) == NULL)
		return -1;
	h = sal_hash_file(path, &err);
	snprintf(want, sizeof want, "%016llx", (unsigned long long)h);
	if (err == 0 && strcmp(have, want) != 0)
		err = sal_err("%s: hash %s, but %s in state.json: the file was changed or is damaged", path, want, have);
	free(path);
	return err;
}

/* Verify all of dir and load what it holds. */
static int
open_state(struct stepper *t, const char *dir)
{
	char *path = sal_path_join(dir, mark), *sub = NULL, base[17];
	cJSON *j = path ? sal_json_read(path) : NULL;
	const cJSON *files = cJSON_GetObjectItemCaseSensitive(j, "files");
	const char *have;
	int rc = -1, n;

	snprintf(base, sizeof base, "%016llx", (unsigned long long)t->m->hash);
	if (j == NULL || (have = sal_json_str(j, "base")) == NULL || sal_json_int(j, "step", 0, INT64_C(1) << 50, &t->step) != 0 ||
	    sal_json_int(j, "updates", 0, INT64_C(1) << 50, &t->updates) != 0 ||
	    (sal_json_has(j, "episodes") && sal_json_int(j, "episodes", 0, INT64_C(1) << 50, &t->episodes) != 0)) {
		char why[512];
		snprintf(why, sizeof why, "%s", sal_errmsg());
		if (j && path)
			sal_err("%s: %s", path, why);
		goto out;
	}
	if (strcmp(have, base) != 0) {
		sal_err("%s: a state of another base model (its hash %s, here %s)", dir, have, base);
		goto out;
	}
	bool value = sal_json_has(files, state_file[N_POLICY_FILES]);
	n = value ? N_STATE_FILES : N_POLICY_FILES;
	for (int i = 0; i < n; i++)
		if (check_file(dir, state_file[i], files) != 0)
			goto out;
	if (t->s->p.advantage == SAL_GAE && !value) {
		sal_err("%s: no value adapter, which --advantage gae needs", dir);
		goto out;
	}
	if ((sub = sal_path_join(dir, "policy")) == NULL || (t->policy = sal_adapter_open(t->m, sub, 0)) == NULL)
		goto out;
	free(sub);
	sub = NULL;
	if (value && ((sub = sal_path_join(dir, "value")) == NULL || (t->value = sal_adapter_open(t->m, sub, 1)) == NULL))
		goto out;
	rc = 0;
out:
	cJSON_Delete(j);
	free(path);
	free(sub);
	return rc;
}

static int
load_moments(struct sal_adapter *a, int max_records, const char *dir, const char *name)
{
	char *sub = sal_path_join(dir, name);
	int rc = sub && sal_adapter_train(a, max_records) == 0 ? sal_adapter_load_moments(a, sub) : -1;

	free(sub);
	return rc;
}

static int
save_part(const struct sal_adapter *a, const char *dir, const char *name)
{
	char *sub = sal_path_join(dir, name);
	int rc = -1;

	if (sub && mkdir(sub, 0777) != 0)
		sal_err("%s: cannot be made", sub);
	else if (sub && sal_adapter_save(a, sub, false, false) == 0)
		rc = sal_adapter_save_moments(a, sub);
	free(sub);
	return rc;
}

static void
put_flags(struct sal_buf *b, const struct sal_step *s)
{
	static const char *const schedule[] = { "cosine", "linear", "constant" }, *const whiten[] = { "batch", "answer", "none" };
	const struct sal_ppo *p = &s->p;

	sal_buf_printf(b, "\"flags\":{\"kl_estimator\":\"%s\",\"advantage\":\"%s\",\"temperature\":%.17g,\"response_len\":%d,\"kl_coef\":%.17g,"
	    "\"length_bonus\":%.17g,\"length_bonus_cap\":%.17g,\"stop_penalty\":%.17g,\"reward_scale\":%.17g,\"gamma\":%.17g,\"lambda\":%.17g,",
	    p->estimator ? "k3" : "k1", sal_advantage_name[p->advantage], s->temperature, p->response_len, p->kl_coef, p->length_bonus,
	    p->length_bonus_cap, p->stop_penalty, p->reward_scale, p->gamma, p->lambda);
	sal_buf_printf(b, "\"clip_range\":%.17g,\"value_clip_range\":%.17g,\"vf_coef\":%.17g,\"epochs\":%d,\"minibatch\":%d,\"learning_rate\":%.17g,"
	    "\"schedule\":\"%s\",\"warmup_steps\":%d,\"total_steps\":%d,\"max_grad_norm\":%.17g,\"shuffle\":%s,\"dtype\":\"%s\",",
	    p->clip_range, p->value_clip_range, p->vf_coef, s->epochs, s->minibatch, s->learning_rate, schedule[s->schedule], s->warmup_steps,
	    s->total_steps, s->max_grad_norm, s->no_shuffle ? "false" : "true", s->c.dtype ? "f32" : "bf16");
	sal_buf_printf(b, "\"whiten\":\"%s\",\"whiten_rewards\":%s,\"compat\":\"%s\"}", whiten[p->whiten], p->whiten_rewards ? "true" : "false",
	    s->compat ? "salmon" : "none");
}

/* state.json comes last: it names what must be there. */
static int
save_index(const struct stepper *t, const char *dir)
{
	struct sal_buf b = { 0 };
	char *path = sal_path_join(dir, mark);
	int rc = path ? 0 : -1, n = t->value ? N_STATE_FILES : N_POLICY_FILES;

	sal_buf_printf(&b, "{\"step\":%lld,\"updates\":%lld,\"episodes\":%lld,\"version\":\"%s\",\"sal_cpu\":\"%s\",\"base\":\"%016llx\",\"seed\":\"%llu\",",
	    (long long)t->step, (long long)t->updates, (long long)t->episodes, SAL_VERSION, sal_dev_isa(t->m->dev), (unsigned long long)t->m->hash,
	    (unsigned long long)t->s->c.seed);
	if (!t->s->init) {
		put_flags(&b, t->s);
		sal_buf_puts(&b, ",");
	}
	sal_buf_puts(&b, "\"files\":{");
	for (int i = 0; rc == 0 && i < n; i++) {
		char *file = sal_path_join(dir, state_file[i]);
		uint64_t h = file ? sal_hash_file(file, &rc) : 0;
		sal_buf_printf(&b, "%s\n\"%s\":\"%016llx\"", i ? "," : "", state_file[i], (unsigned long long)h);
		rc = file ? rc : -1;
		free(file);
	}
	sal_buf_puts(&b, "}}\n");
	if (rc == 0)
		rc = b.failed ? sal_err("out of memory") : sal_write_file(path, b.data, b.len);
	sal_buf_free(&b);
	free(path);
	return rc;
}

static int
save_state(const struct stepper *t)
{
	char *tmp = sal_dir_begin(t->s->output, mark);

	if (tmp == NULL)
		return -1;
	if (save_part(t->policy, tmp, "policy") != 0 || (t->value && save_part(t->value, tmp, "value") != 0) || save_index(t, tmp) != 0) {
		sal_dir_abort(tmp);
		return -1;
	}
	return sal_dir_commit(tmp, t->s->output);
}

/* ---- a dry run's plan ---------------------------------------------------- */

static int
plan(void *ctx, struct sal_buf *out)
{
	static const char *const schedule[] = { "cosine", "linear", "constant" };
	const struct stepper *t = ctx;
	const struct sal_step *s = t->s;

	sal_plan_model(t->m, out);
	sal_plan_adapter("policy", t->policy, out);
	if (t->ref)
		sal_plan_adapter("reference", t->ref, out);
	if (t->value)
		sal_plan_adapter("critic", t->value, out);
	if (!s->init)
		sal_buf_printf(out, "step %lld, %s, %d epoch%s in updates of %d records, learning rate %g %s\n", (long long)t->step + 1,
		    sal_advantage_name[s->p.advantage], s->epochs, s->epochs == 1 ? "" : "s", s->minibatch, s->learning_rate, schedule[s->schedule]);
	sal_buf_printf(out, "writes %s%s%s\n", s->output, s->rollouts ? " and " : "", s->rollouts ? s->rollouts : "");
	return 0;
}

/* ---- the first state ----------------------------------------------------- */

/* The adapter of a folder, or a fresh one. */
static struct sal_adapter *
first(struct stepper *t, const char *dir, int head)
{
	const struct sal_step *s = t->s;
	unsigned targets;

	if (dir)
		return sal_adapter_open(t->m, dir, head);
	return sal_targets_parse(s->lora_targets, &targets) == 0
	    ? sal_adapter_new(t->m, s->lora_r ? s->lora_r : 64, s->lora_alpha > 0 ? s->lora_alpha : 16, targets, false, s->c.seed) : NULL;
}

int
sal_step_init(const struct sal_step *s, struct sal_step_told *told)
{
	struct stepper t = { .s = s };
	const char *from = s->value ? s->value : s->value_from ? s->value_from : s->c.adapter;
	int rc = -1;

	if (sal_dir_check(s->output, mark) != 0 || (t.m = sal_model_open(s->c.model, &s->c, 0)) == NULL)
		goto out;
	snprintf(told->isa, sizeof told->isa, "%s", sal_dev_isa(t.m->dev));
	if (s->c.adapter && !s->c.quiet && (s->lora_r || s->lora_alpha > 0 || s->lora_targets))
		sal_warn(SAL_LORA_IDLE, s->c.adapter);
	if ((t.policy = first(&t, s->c.adapter, 0)) == NULL || (t.value = first(&t, from, s->value ? 1 : 0)) == NULL)
		goto out;
	if (!s->value && sal_adapter_zero_head(t.value) != 0)
		goto out;
	if (t.value->head_b == NULL) {
		sal_err("%s: the head has no bias: not a value adapter (use --value-from for the LoRA of a reward adapter)", from);
		goto out;
	}
	if (s->c.dry_run)
		rc = sal_dry_run(&s->c, plan, &t);
	else if (sal_adapter_train(t.policy, 1) == 0 && sal_adapter_train(t.value, 1) == 0)
		rc = save_state(&t);
out:
	sal_adapter_close(t.policy);
	sal_adapter_close(t.value);
	sal_model_close(t.m);
	return rc;
}

/* ---- records to rollouts ------------------------------------------------- */

static int
read_logprobs(struct stepper *t, const cJSON *j, struct rollout *x, int n)
{
	float *lp;
	int k;
	const char *name = sal_json_has(j, "policy") ? sal_json_str(j, "policy") : "";

	if (name == NULL || sal_json_floats(j, "logprobs", &lp, &k) != 0)
		return -1;
	if (k != n) {
		free(lp);
		return sal_err("\"logprobs\" has %d values for %d response tokens", k, n);
	}
	for (int i = 0; i < n; i++)
		if (!isfinite(lp[i]) || lp[i] > 0) {
			free(lp);
			return sal_err("\"logprobs\" holds a value that is no log-probability");
		}
	x->taken = strcmp(name, t->name) == 0;
	if (x->taken)
		memcpy(x->block, lp, (size_t)n * sizeof *lp);
	free(lp);
	return 0;
}

static int
read_rollout(struct stepper *t, const struct sal_record *r, struct rollout *x, struct sal_answer *a)
{
	const cJSON *j = r->json, *stop = cJSON_GetObjectItemCaseSensitive(j, "has_stop");
	int n;

	*a = (struct sal_answer){ .line = r->line, .factor = 1, .stopped = !cJSON_IsFalse(stop) };
	if (sal_json_ids(j, "prompt_tokens", t->m->cfg.vocab_size, &x->ids) != 0)
		return -1;
	x->from = x->ids.n;
	if (sal_json_ids(j, "response_tokens", t->m->cfg.vocab_size, &x->ids) != 0)
		return -1;
	a->n = n = x->ids.n - x->from;
	if (x->from < 1 || n < 1)
		return sal_err("\"%s\" is empty", n < 1 ? "response_tokens" : "prompt_tokens");
	a->slots = n;
	if (t->s->compat) {
		a->slots = t->s->p.response_len;
		if (n > a->slots)
			return sal_err("%d response tokens are more than --response-len %d", n, a->slots);
		for (int k = n; k < sal_ppo_values(a); k++)
			if (sal_ids_push(&x->ids, PAD) != 0)
				return sal_err("out of memory");
	}
	if (x->ids.n > t->m->cfg.max_positions)
		return sal_err("%d tokens are more than the context of %d", x->ids.n, t->m->cfg.max_positions);
	if (sal_json_num(j, "reward", &a->reward) != 0 || (sal_json_has(j, "length_bonus") && sal_json_num(j, "length_bonus", &a->factor) != 0))
		return -1;
	if (stop && !cJSON_IsBool(stop) && !cJSON_IsNull(stop))
		return sal_err("\"has_stop\" is neither true nor false");
	if ((x->id = sal_record_id(r)) == NULL)
		return -1;
	int k = sal_ppo_values(a);
	if ((x->block = calloc((size_t)k * 6 + (size_t)a->slots * 2, sizeof *x->block)) == NULL)
		return sal_err("out of memory");
	a->logprobs = x->block;
	a->ref = x->block + k;
	a->values = x->block + 2 * k;
	a->kl = x->block + 3 * k;
	x->entropy = x->block + 4 * k;
	x->ref_entropy = x->block + 5 * k;
	a->advantages = x->block + 6 * k;
	a->returns = a->advantages + a->slots;
	return sal_json_has(j, "logprobs") ? read_logprobs(t, j, x, n) : 0;
}

static void
free_rollout(struct rollout *x)
{
	free(x->id);
	free(x->ids.id);
	free(x->block);
}

static int
check(void *ctx, const struct sal_record *r)
{
	struct stepper *t = ctx;

	if (t->n == t->cap) {
		int cap = t->cap ? 2 * t->cap : 256;
		struct rollout *x = realloc(t->r, (size_t)cap * sizeof *x);
		if (x)
			t->r = x;
		struct sal_answer *a = x ? realloc(t->answer, (size_t)cap * sizeof *a) : NULL;
		if (a == NULL)
			return sal_err("out of memory");
		t->answer = a;
		t->cap = cap;
	}
	struct rollout x = { .line = r->line };
	if (read_rollout(t, r, &x, &t->answer[t->n]) != 0) {
		free_rollout(&x);
		return -1;
	}
	t->longest = x.ids.n > t->longest ? x.ids.n : t->longest;
	t->tokens += t->answer[t->n].n;
	t->slots += t->answer[t->n].slots;
	t->outs += sal_ppo_values(&t->answer[t->n]);
	t->r[t->n++] = x;
	return 0;
}

static int
by_id(const void *a, const void *b)
{
	const struct rollout *x = *(const struct rollout *const *)a, *y = *(const struct rollout *const *)b;

	return strcmp(x->id, y->id);
}

static int
read_rollouts(struct stepper *t, FILE *in, struct sal_counts *count)
{
	struct sal_record **rec = NULL;
	int n = 0, rc = sal_read_checked(&t->s->c, in, check, t, &rec, &n, count), group = 0;
	const struct rollout **p;

	for (int i = 0; i < n; i++)
		sal_record_free(rec[i]);
	free(rec);
	if (rc != 0)
		return -1;
	if (t->n == 0)
		return sal_err("stdin: no records");
	if ((p = malloc((size_t)t->n * sizeof *p)) == NULL)
		return sal_err("out of memory");
	for (int i = 0; i < t->n; i++)
		p[i] = &t->r[i];
	qsort(p, (size_t)t->n, sizeof *p, by_id);
	for (int i = 0; i < t->n; i++) {
		group += i > 0 && strcmp(p[i]->id, p[i - 1]->id) != 0;
		t->answer[p[i] - t->r].group = group;
		bool alone = (i == 0 || strcmp(p[i]->id, p[i - 1]->id) != 0) && (i + 1 == t->n || strcmp(p[i]->id, p[i + 1]->id) != 0);
		if (alone && (t->s->p.advantage == SAL_RLOO || t->s->p.advantage == SAL_GRPO))
			rc = sal_err("stdin:%ld: the only answer of id %s: %s compares the answers of one prompt", p[i]->line, p[i]->id, sal_advantage_name[t->s->p.advantage]);
	}
	free(p);
	return rc;
}

/* ---- old log-probabilities, reference and values ------------------------- */

/* As the sampler rounds it, so that both have the same bits. */
static float
inverse(double temperature)
{
	return 1.0f / (float)temperature;
}

static struct sal_seq
sequence(const struct rollout *x, int record, float *out)
{
	return (struct sal_seq){ .ids = x->ids.id, .n = x->ids.n, .from = x->from, .record = record, .line = x->line, .out = out };
}

static int
evaluate(struct stepper *t, struct sal_step_told *told)
{
	struct sal_seq *q = calloc((size_t)t->n, sizeof *q);
	float inv = inverse(t->s->temperature);
	int rc, n = 0;

	if (q == NULL)
		return sal_err("out of memory");
	for (int i = 0; i < t->n; i++)
		if (!t->r[i].taken) {
			q[n] = sequence(&t->r[i], i, t->answer[i].logprobs);
			q[n++].entropy = t->r[i].entropy;
		}
	told->recomputed = n;
	told->taken = t->n - n;
	rc = sal_eval(t->e, t->policy, q, n, SAL_EVAL_LOGPROB, inv);
	for (int i = 0; i < t->n; i++) {
		q[i] = sequence(&t->r[i], i, t->answer[i].ref);
		q[i].entropy = t->r[i].ref_entropy;
	}
	if (rc == 0)
		rc = sal_eval(t->e, t->ref, q, t->n, SAL_EVAL_LOGPROB, inv);
	for (int i = 0; i < t->n; i++)
		q[i] = sequence(&t->r[i], i, t->answer[i].values);
	if (rc == 0 && t->s->p.advantage == SAL_GAE)
		rc = sal_eval(t->e, t->value, q, t->n, SAL_EVAL_VALUE, 1.0f);
	free(q);
	return rc;
}

/* ---- updates ------------------------------------------------------------- */

/* Sum over the slots of an answer of what a model gives; pads share a figure. */
static double
over_slots(const struct sal_answer *a, const float *x)
{
	double s = 0;

	for (int t = 0; t < a->slots; t++)
		s += x[t <= a->n ? t : a->n + 1];
	return s;
}

/* Mean over the slots of the update at hand. */
static double
mean_of(const struct stepper *t, int which, double slots)
{
	return sal_tree_sum(t->sum + which * t->n_batch, t->n_batch) / slots;
}

static void
take_loss(struct stepper *t, struct sal_seq *s, int n,
    struct sal_ppo_sums (*loss)(const struct sal_ppo *, const struct sal_answer *, const float *, double, float *))
{
	for (int i = 0; i < n; i++) {
		int k = s[i].record;
		const struct sal_answer *a = &t->answer[t->order[k]];
		struct sal_ppo_sums x = loss(&t->s->p, a, s[i].out, t->weight[k], s[i].grad);
		const double y[N_LOSS_SUMS] = { x.loss, x.kl, x.clipped, x.x, x.error, s[i].entropy ? over_slots(a, s[i].entropy) : 0 };
		for (int j = 0; j < N_LOSS_SUMS; j++)
			t->sum[j * t->n_batch + k] = y[j];
	}
}

static void
policy_loss(void *ctx, struct sal_seq *s, int n)
{
	take_loss(ctx, s, n, sal_ppo_policy_loss);
}

static void
value_loss(void *ctx, struct sal_seq *s, int n)
{
	take_loss(ctx, s, n, sal_ppo_value_loss);
}

/* Gradients of the n records in order, the clip, and AdamW. */
static int
update(struct stepper *t, const int *order, int n, double lr, struct stats *u)
{
	const struct sal_step *s = t->s;
	bool critic = s->p.advantage == SAL_GAE;
	struct sal_adam adam = { lr, 0.9, 0.999, 1e-8, 0 };
	double slots = 0, sumsq;
	size_t at = 0, outs = (size_t)t->outs;

	t->order = order;
	t->n_batch = n;
	for (int i = 0; i < n; i++)
		slots += t->answer[order[i]].slots;
	for (int i = 0; i < n; i++) {
		const struct sal_answer *a = &t->answer[order[i]];
		t->seq[i] = sequence(&t->r[order[i]], i, t->block + at);
		t->seq[i].grad = t->block + outs + at;
		t->seq[i].entropy = t->block + 2 * outs + at;
		t->weight[i] = s->p.advantage == SAL_GRPO ? 1 / ((double)a->n * n) : 1 / slots;
		at += (size_t)sal_ppo_values(a);
	}
	*u = (struct stats){ 0 };
	if (sal_eval_grad(t->e, t->policy, t->seq, n, SAL_EVAL_LOGPROB, inverse(s->temperature), policy_loss, t) != 0)
		return -1;
	sal_adapter_grad_end(t->policy, n);
	u->policy_loss = mean_of(t, LOSS, 1);
	u->approx_kl = mean_of(t, CHANGE, slots);
	u->clip_fraction = mean_of(t, CLIPPED, slots);
	u->ratio = mean_of(t, MEAN, slots);
	u->entropy = mean_of(t, SURPRISE, slots);
	sumsq = sal_adapter_sumsq(t->policy);
	if (critic) {
		if (sal_eval_grad(t->e, t->value, t->seq, n, SAL_EVAL_VALUE, 1.0f, value_loss, t) != 0)
			return -1;
		sal_adapter_grad_end(t->value, n);
		u->value_loss = mean_of(t, LOSS, 1);
		u->value_clip_fraction = mean_of(t, CLIPPED, slots);
		u->value = mean_of(t, MEAN, slots);
		u->value_error = mean_of(t, ERROR, slots);
		sumsq += sal_adapter_sumsq(t->value);
	}
	u->grad_norm = sqrt(sumsq);
	if (!isfinite(u->grad_norm) || !isfinite(u->policy_loss) || !isfinite(u->value_loss) || !isfinite(u->approx_kl))
		return sal_err("update %d: the %s is not finite", t->n_stats + 1, isfinite(u->policy_loss) && isfinite(u->value_loss) ? "gradient" : "loss");
	double clip = s->max_grad_norm / (u->grad_norm + 1e-6);
	clip = clip < 1 ? clip : 1;
	t->updates++;
	sal_adapter_update(t->policy, &adam, clip, (long)t->updates);
	if (critic)
		sal_adapter_update(t->value, &adam, clip, (long)t->updates);
	return sal_dev_sync(t->m->dev) == 0 ? 0 : sal_err("%s", sal_dev_error(t->m->dev));
}

static int
train(struct stepper *t, double lr, struct sal_counts *count)
{
	const struct sal_step *s = t->s;
	int mb = s->minibatch < t->n ? s->minibatch : t->n, per = (t->n + mb - 1) / mb, rc = 0;
	int *order = malloc((size_t)t->n * sizeof *order);

	t->seq = calloc((size_t)mb, sizeof *t->seq);
	t->block = malloc((size_t)t->outs * 3 * sizeof *t->block);
	t->weight = malloc((size_t)mb * sizeof *t->weight);
	t->sum = malloc((size_t)mb * N_LOSS_SUMS * sizeof *t->sum);
	t->stats = calloc((size_t)per * (size_t)s->epochs, sizeof *t->stats);
	if (!order || !t->seq || !t->block || !t->weight || !t->sum || !t->stats)
		rc = sal_err("out of memory");
	count->total = (long)per * s->epochs;
	for (int e = 0; rc == 0 && e < s->epochs; e++) {
		char id[64];
		snprintf(id, sizeof id, "ppo-%lld-%d", (long long)t->step, e);
		struct sal_random r = sal_random_open(s->c.seed, "shuffle", id, 0);
		sal_random_shuffle(&r, order, t->n);
		for (int i = 0; s->no_shuffle && i < t->n; i++)
			order[i] = i;
		for (int at = 0; rc == 0 && at < t->n; at += mb) {
			rc = update(t, order + at, t->n - at < mb ? t->n - at : mb, lr, &t->stats[t->n_stats]);
			t->n_stats++;
			count->done++;
			sal_progress(&s->c, count);
		}
	}
	free(order);
	return rc;
}

/* ---- what is written ----------------------------------------------------- */

static int
put_line(struct sal_buf *b, const cJSON *o)
{
	char *text = cJSON_PrintUnformatted(o);

	if (text) {
		sal_buf_puts(b, text);
		sal_buf_puts(b, "\n");
	}
	free(text);
	return text == NULL || b->failed ? sal_err("out of memory") : 0;
}

static int
write_rollouts(const struct stepper *t)
{
	struct sal_buf b = { 0 };
	int rc = 0;

	for (int i = 0; rc == 0 && i < t->n; i++) {
		const struct sal_answer *a = &t->answer[i];
		cJSON *o = cJSON_CreateObject();
		rc = !o || !cJSON_AddStringToObject(o, "id", t->r[i].id) ? sal_err("out of memory") : 0;
		if (rc == 0 && (sal_json_add_floats(o, "logprobs", a->logprobs, a->n) != 0 || sal_json_add_floats(o, "ref_logprobs", a->ref, a->n) != 0 ||
		        (t->s->p.advantage == SAL_GAE && sal_json_add_floats(o, "values", a->values, sal_ppo_values(a)) != 0) ||
		        sal_json_add_floats(o, "kl", a->kl, a->n) != 0 || sal_json_add_floats(o, "advantages", a->advantages, a->slots) != 0 ||
		        sal_json_add_floats(o, "returns", a->returns, a->slots) != 0 || put_line(&b, o) != 0))
			rc = -1;
		cJSON_Delete(o);
	}
	if (rc == 0)
		rc = sal_write_file(t->s->rollouts, b.data, b.len);
	sal_buf_free(&b);
	return rc;
}

enum { REWARD, REWARD_SQ, SCORE, KL, BONUS, SHARE, STOPS, RETURNS, RETURNS_SQ, VALUES, VALUES_SQ, ENTROPY, ENTROPY_SLOTS, REF_ENTROPY, SURPRISAL, N_SUMS };

/* Sums over records, each in the fixed tree; squares are about the means, so two rounds. */
static int
total(const struct stepper *t, double *sum)
{
	double *x = calloc((size_t)t->n * N_SUMS, sizeof *x), reward = 0, ret = 0, value = 0;

	if (x == NULL)
		return sal_err("out of memory");
	for (int round = 0; round < 2; round++) {
		for (int i = 0; i < t->n; i++) {
			const struct sal_answer *a = &t->answer[i];
			const struct rollout *r = &t->r[i];
			double y[N_SUMS] = { [REWARD] = a->reward, [REWARD_SQ] = (a->reward - reward) * (a->reward - reward), [SCORE] = a->score - a->bonus,
				[KL] = a->kl_sum, [BONUS] = a->bonus, [SHARE] = (double)a->n / t->s->p.response_len * a->factor, [STOPS] = !a->stopped,
				[ENTROPY] = over_slots(a, r->entropy), /* zero where it was taken */
				[ENTROPY_SLOTS] = r->taken ? 0 : a->slots, [REF_ENTROPY] = over_slots(a, r->ref_entropy), [SURPRISAL] = -sal_sum(a->logprobs, a->n) };
			for (int k = 0; k < a->slots; k++) {
				double v = a->values[k <= a->n ? k : a->n + 1];
				y[RETURNS] += a->returns[k];
				y[RETURNS_SQ] += (a->returns[k] - ret) * (a->returns[k] - ret);
				y[VALUES] += v;
				y[VALUES_SQ] += (v - value) * (v - value);
			}
			for (int k = 0; k < N_SUMS; k++)
				x[(size_t)k * (size_t)t->n + (size_t)i] = y[k];
		}
		for (int k = 0; k < N_SUMS; k++)
			sum[k] = sal_tree_sum(x + (size_t)k * (size_t)t->n, t->n);
		reward = sum[REWARD] / t->n;
		ret = sum[RETURNS] / (double)t->slots;
		value = sum[VALUES] / (double)t->slots;
	}
	free(x);
	return 0;
}

struct figure { const char *name; double x; };

static int
add_figures(cJSON *o, const struct figure *f, int n)
{
	for (int i = 0; i < n; i++)
		if (o == NULL || sal_json_add_double(o, f[i].name, f[i].x) != 0)
			return -1;
	return 0;
}

/* Each update, and the means over them under TRL's names and SALMON's. */
static int
add_updates(cJSON *o, const struct stepper *t, double lr)
{
	cJSON *list = cJSON_AddArrayToObject(o, "updates");
	struct stats m = { 0 };
	double n = t->n_stats, norm = 0;

	for (int i = 0; i < t->n_stats; i++) {
		const struct stats *u = &t->stats[i];
		const struct figure f[] = { { "policy_loss", u->policy_loss }, { "value_loss", u->value_loss }, { "grad_norm", u->grad_norm },
			{ "approx_kl", u->approx_kl }, { "clip_fraction", u->clip_fraction }, { "value_clip_fraction", u->value_clip_fraction },
			{ "entropy", u->entropy }, { "ratio", u->ratio }, { "lr", lr } };
		cJSON *x = cJSON_CreateObject();
		if (list == NULL || x == NULL || !cJSON_AddItemToArray(list, x)) {
			cJSON_Delete(x);
			return sal_err("out of memory");
		}
		if (add_figures(x, f, sizeof f / sizeof *f) != 0)
			return -1;
		m.approx_kl += u->approx_kl / n;
		m.clip_fraction += u->clip_fraction / n;
		m.policy_loss += u->policy_loss / n;
		m.value_loss += u->value_loss / n;
		m.value_clip_fraction += u->value_clip_fraction / n;
		m.entropy += u->entropy / n;
		m.ratio += u->ratio / n;
		m.value += u->value / n;
		m.value_error += u->value_error / n;
		norm += (t->s->compat ? fmin(u->grad_norm, t->s->max_grad_norm) : u->grad_norm) / n; /* the release measures it after clipping */
	}
	const struct figure f[] = { { "policy/approxkl_avg", m.approx_kl }, { "policy/clipfrac_avg", m.clip_fraction }, { "loss/policy_avg", m.policy_loss },
		{ "loss/value_avg", m.value_loss }, { "policy/entropy_avg", m.entropy }, { "val/ratio", m.ratio },
		{ "ppo/loss/policy", m.policy_loss }, { "ppo/loss/grad_norm", norm }, { "ppo/policy/entropy", m.entropy }, { "ppo/policy/approxkl", m.approx_kl },
		{ "ppo/policy/clipfrac", m.clip_fraction } };
	const struct figure v[] = { { "val/clipfrac_avg", m.value_clip_fraction }, { "ppo/loss/value", m.value_loss }, { "ppo/val/vpred", m.value },
		{ "ppo/val/error", m.value_error }, { "ppo/val/clipfrac", m.value_clip_fraction } };
	if (add_figures(o, f, sizeof f / sizeof *f) != 0)
		return -1;
	return t->s->p.advantage == SAL_GAE ? add_figures(o, v, sizeof v / sizeof *v) : 0;
}

static int
statistics(const struct stepper *t, double lr, const struct sal_step_told *told, struct sal_buf *out)
{
	double s[N_SUMS] = { 0 }, n = t->n, tokens = (double)t->tokens, slots = (double)t->slots, coef = t->s->p.kl_coef;
	cJSON *o = cJSON_CreateObject();
	int rc = -1;

	if (o == NULL || total(t, s) != 0)
		goto out;
	double non_score = -coef * s[KL] / n, bonus = s[BONUS] / n;
	const struct figure f[] = { { "step", (double)t->step }, { "lr", lr }, { "records", n }, { "tokens", tokens }, { "reward", s[REWARD] / n },
		{ "reward_std", sqrt(s[REWARD_SQ] / n) }, { "kl", s[KL] / n }, { "kl_token", s[KL] / tokens }, { "length_bonus", bonus },
		{ "no_stop", s[STOPS] }, { "non_score_reward", non_score }, { "returns_mean", s[RETURNS] / slots }, { "returns_var", s[RETURNS_SQ] / slots },
		{ "logprobs_taken", told->taken }, { "logprobs_recomputed", told->recomputed },
		/* TRL's */
		{ "objective/kl", s[KL] / n }, { "objective/entropy", s[SURPRISAL] / n }, { "objective/non_score_reward", non_score },
		{ "objective/scores", s[SCORE] / n }, { "objective/rlhf_reward", s[SCORE] / n + bonus + non_score }, { "val/num_eos_tokens", n - s[STOPS] },
		{ "episode", (double)t->episodes },
		/* SALMON's */
		{ "objective/kl_coef", coef }, { "objective/kl_sum_seq", s[KL] / n }, { "objective/kl_avg_seq", s[KL] / slots },
		{ "objective/length_bonus", s[SHARE] / n }, { "objective/rewards", s[SCORE] / n }, { "objective/non_score_rewards", non_score },
		{ "objective/shaped_rewards", s[SCORE] / n + bonus + non_score }, { "objective/ref_entropies", s[REF_ENTROPY] / slots }, { "objective/lr", lr },
		{ "ppo/returns/mean", s[RETURNS] / slots }, { "ppo/returns/var", s[RETURNS_SQ] / slots } };
	const struct figure v[] = { { "ppo/val/mean", s[VALUES] / slots }, { "ppo/val/var", s[VALUES_SQ] / slots } };
	if (add_figures(o, f, sizeof f / sizeof *f) != 0 || !cJSON_AddStringToObject(o, "advantage", sal_advantage_name[t->s->p.advantage]))
		goto out;
	if (t->s->p.advantage == SAL_GAE && add_figures(o, v, sizeof v / sizeof *v) != 0)
		goto out;
	const struct figure h[] = { { "entropy", s[ENTROPY] / s[ENTROPY_SLOTS] }, { "objective/entropies", s[ENTROPY] / s[ENTROPY_SLOTS] } };
	if (s[ENTROPY_SLOTS] > 0 && add_figures(o, h, 2) != 0)
		goto out;
	if (add_updates(o, t, lr) == 0)
		rc = put_line(out, o);
out:
	cJSON_Delete(o);
	return rc;
}

/* ---- alarms -------------------------------------------------------------- */

/* Of the rollouts, and of a rate that changes nothing: before anything is trained. */
static int
alarm_before(const struct stepper *t, double lr)
{
	const struct sal_step *s = t->s;
	double length = (double)t->tokens / t->n, kl = 0;
	long step = (long)t->step + 1;

	for (int i = 0; i < t->n; i++)
		kl += t->answer[i].kl_sum / t->n;
	if (s->most_kl > 0 && kl > s->most_kl)
		return sal_err("alarm: step %ld: the answers are %.4g nats from the reference, more than %g (--alarm kl)", step, kl, s->most_kl);
	if (s->most_length > 0 && (length < s->least_length || length > s->most_length))
		return sal_err("alarm: step %ld: an answer has %.4g tokens in the mean, not %g to %g (--alarm length)", step, length, s->least_length, s->most_length);
	if (s->most_change > 0 && lr == 0 && !(s->compat && t->step == 0)) /* whose first step runs at 0 */
		return sal_err("alarm: step %ld: the learning rate is 0 (--alarm lr)", step);
	return 0;
}

static int
alarm_after(const struct stepper *t, double lr)
{
	double worst = 0;

	for (int i = 0; i < t->n_stats; i++)
		worst = fmax(worst, t->stats[i].approx_kl);
	if (t->s->most_change > 0 && worst > t->s->most_change)
		return sal_err("alarm: step %ld: the policy has moved %.4g nats a token at a learning rate of %g, more than %g (--alarm lr)", (long)t->step, worst,
		    lr, t->s->most_change);
	return 0;
}

/* ---- the step ------------------------------------------------------------ */

static int
open_all(struct stepper *t, struct sal_step_told *told)
{
	const struct sal_step *s = t->s;

	if ((t->m = sal_model_open(s->c.model, &s->c, SAL_MODEL_TRAIN | SAL_MODEL_HEAD_GRAD)) == NULL)
		return -1;
	snprintf(told->isa, sizeof told->isa, "%s", sal_dev_isa(t->m->dev));
	if (open_state(t, s->state) != 0)
		return -1;
	if (s->reference && strcmp(s->reference, "none") != 0 && (t->ref = sal_adapter_open(t->m, s->reference, 0)) == NULL)
		return -1;
	if (t->ref)
		sal_adapter_freeze(t->ref);
	return sal_policy_string(t->m, t->policy, &s->c, s->temperature, t->name);
}

static int
prepare(struct stepper *t)
{
	int mb = t->s->minibatch < t->n ? t->s->minibatch : t->n, rank = t->policy->r;

	rank = t->value && t->value->r > rank ? t->value->r : rank;
	rank = t->ref && t->ref->r > rank ? t->ref->r : rank;
	if (load_moments(t->policy, mb, t->s->state, "policy") != 0 || (t->value && load_moments(t->value, mb, t->s->state, "value") != 0))
		return -1;
	return (t->e = sal_eval_engine(t->m, true, t->longest, t->s->micro_batch, rank)) == NULL ? -1 : 0;
}

int
sal_step_run(const struct sal_step *s, FILE *in, FILE *out, struct sal_counts *n, struct sal_step_told *told)
{
	struct stepper t = { .s = s };
	struct sal_buf line = { 0 };
	int rc = -1;

	if (sal_dir_check(s->output, mark) != 0 || open_all(&t, told) != 0)
		goto out;
	if (s->c.dry_run) {
		rc = sal_dry_run(&s->c, plan, &t);
		goto out;
	}
	if (read_rollouts(&t, in, n) != 0)
		goto out;
	double lr = sal_schedule(s->schedule, s->learning_rate, (long)t.step, s->warmup_steps, s->total_steps);
	if (s->compat && t.step < s->warmup_steps) /* the release's first step runs at 0 */
		lr = s->learning_rate * (double)t.step / s->warmup_steps;
	if (prepare(&t) != 0 || evaluate(&t, told) != 0 || sal_ppo_advantages(&s->p, t.answer, t.n) != 0 || alarm_before(&t, lr) != 0 || train(&t, lr, n) != 0)
		goto out;
	told->step = (long)++t.step;
	t.episodes += t.n;
	if (alarm_after(&t, lr) != 0)
		goto out;
	for (int i = 0; i < t.n; i++)
		n->tokens += t.r[i].ids.n;
	if (statistics(&t, lr, told, &line) != 0 || (s->rollouts && write_rollouts(&t) != 0) || save_state(&t) != 0)
		goto out;
	if (fwrite(line.data, 1, line.len, out) == line.len) {
		n->out++;
		rc = 0;
	} else
		sal_err("stdout: cannot be written");
out:
	for (int i = 0; i < t.n; i++)
		free_rollout(&t.r[i]);
	free(t.r);
	free(t.answer);
	free(t.seq);
	free(t.block);
	free(t.weight);
	free(t.sum);
	free(t.stats);
	sal_buf_free(&line);
	sal_engine_free(t.e);
	sal_adapter_close(t.ref);
	sal_adapter_close(t.value);
	sal_adapter_close(t.policy);
	sal_model_close(t.m);
	return rc;
}
