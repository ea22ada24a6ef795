/* SPDX-License-Identifier: Apache-2.0 */
/* ppo.c - the arithmetic of PPO on plain arrays; no device, no model. */
#include "lib/ppo.h"
#include "lib/eval.h" /* sal_tree_sum */
#include <math.h>
#include <stdlib.h>

#define TOO_LARGE "stdin:%ld: the reward or its KL is so large that an advantage or return is not finite"

const char *const sal_advantage_name[4] = { "gae", "rloo", "grpo", "reinforce++" };

struct sal_ppo
sal_ppo_defaults(void)
{
	return (struct sal_ppo){
		.kl_coef = 0.01, .length_bonus = 5, .length_bonus_cap = 0.8, .stop_penalty = -6, .reward_scale = 10, .gamma = 1, .lambda = 1,
		.clip_range = 0.2, .value_clip_range = 0.2, .vf_coef = 0.1, .response_len = 1024,
	};
}

int
sal_ppo_values(const struct sal_answer *a)
{
	return a->slots < a->n + 2 ? a->slots : a->n + 2;
}

/* Where the value of slot t is. */
static int
value_at(const struct sal_answer *a, int t)
{
	return t <= a->n ? t : a->n + 1;
}

double
sal_ppo_kl(int estimator, double logprob, double ref)
{
	double d = logprob - ref;

	if (estimator == 1)
		return expm1(-d) + d;
	return d > 0 ? d : 0;
}

/* What the answer earns at its end, and its KL. */
static void
shape(const struct sal_ppo *p, struct sal_answer *a)
{
	double share = (double)a->n / p->response_len * a->factor;

	a->bonus = p->length_bonus * (share < p->length_bonus_cap ? share : p->length_bonus_cap);
	a->score = a->reward + (a->stopped ? 0 : p->stop_penalty) + a->bonus;
	a->kl_sum = 0;
	for (int t = 0; t < a->n; t++) {
		double kl = sal_ppo_kl(p->estimator, a->logprobs[t], a->ref[t]);
		a->kl[t] = (float)kl;
		a->kl_sum += kl;
	}
}

/* What slot t pays, unscaled. */
static double
pay(const struct sal_ppo *p, const struct sal_answer *a, int t)
{
	return (t < a->n ? -p->kl_coef * a->kl[t] : 0) + (t == a->slots - 1 ? a->score : 0);
}

/* How payments are made into rewards: x to (x - mean) * scale + mean. */
struct scaling { double mean, scale; };

static double
shaped(const struct sal_ppo *p, const struct sal_answer *a, int t, struct scaling s)
{
	return p->whiten_rewards ? (pay(p, a, t) - s.mean) * s.scale + s.mean : p->reward_scale * pay(p, a, t);
}

static void
gae(const struct sal_ppo *p, struct sal_answer *a, struct scaling s)
{
	double last = 0;

	for (int t = a->slots - 1; t >= 0; t--) {
		double v = a->values[value_at(a, t)], next = t + 1 < a->slots ? a->values[value_at(a, t + 1)] : 0;
		last = shaped(p, a, t, s) + p->gamma * next - v + p->gamma * p->lambda * last;
		a->advantages[t] = (float)last;
		a->returns[t] = (float)(last + v);
	}
}

static void
discounted(const struct sal_ppo *p, struct sal_answer *a, struct scaling s)
{
	double sum = 0;

	for (int t = a->slots - 1; t >= 0; t--) {
		sum = shaped(p, a, t, s) + p->gamma * sum;
		a->advantages[t] = a->returns[t] = (float)sum;
	}
}

/* x(t) of slot t of an answer. */
typedef double slot_fn(const struct sal_ppo *p, const struct sal_answer *a, int t);

static double
advantage(const struct sal_ppo *p, const struct sal_answer *a, int t)
{
	(void)p;
	return a->advantages[t];
}

/* Mean and standard deviation of the population over the slots of n answers; s is scratch, [n]. */
static void
moments(const struct sal_ppo *p, const struct sal_answer *a, int n, slot_fn *x, double *s, double *mean, double *std)
{
	double count = 0;

	for (int i = 0; i < n; i++) {
		s[i] = 0;
		count += a[i].slots;
		for (int t = 0; t < a[i].slots; t++)
			s[i] += x(p, &a[i], t);
	}
	*mean = sal_tree_sum(s, n) / count;
	for (int i = 0; i < n; i++) {
		s[i] = 0;
		for (int t = 0; t < a[i].slots; t++)
			s[i] += (x(p, &a[i], t) - *mean) * (x(p, &a[i], t) - *mean);
	}
	*std = sqrt(sal_tree_sum(s, n) / count);
}

/* Advantages less their mean, over their deviation: those of all n answers together. */
static void
whiten(const struct sal_ppo *p, struct sal_answer *a, int n, double *s)
{
	double mean, std;

	moments(p, a, n, advantage, s, &mean, &std);
	for (int i = 0; i < n; i++)
		for (int t = 0; t < a[i].slots; t++)
			a[i].advantages[t] = (float)((a[i].advantages[t] - mean) / (std + 1e-8));
}

/* One advantage an answer, against the others of its group. */
static int
grouped(const struct sal_ppo *p, struct sal_answer *a, int n)
{
	double *sum = calloc((size_t)n * 2 + 1, sizeof *sum), *sq = sum ? sum + n : NULL;
	int *count = calloc((size_t)n + 1, sizeof *count), rc = -1;

	if (sum == NULL || count == NULL) {
		sal_err("out of memory");
		goto out;
	}
	for (int i = 0; i < n; i++) {
		a[i].returns[0] = (float)(a[i].score - (p->advantage == SAL_RLOO ? p->kl_coef * a[i].kl_sum : 0));
		if (!isfinite(a[i].returns[0])) {
			sal_err(TOO_LARGE, a[i].line);
			goto out;
		}
		sum[a[i].group] += a[i].returns[0];
		count[a[i].group]++;
	}
	for (int i = 0; i < n; i++) {
		double d = a[i].returns[0] - sum[a[i].group] / count[a[i].group];
		sq[a[i].group] += d * d;
	}
	for (int i = 0; i < n; i++) {
		int k = count[a[i].group];
		double r = a[i].returns[0], s = sum[a[i].group];
		if (k < 2) {
			sal_err("stdin:%ld: the only answer of its id: %s compares the answers of one prompt", a[i].line, sal_advantage_name[p->advantage]);
			goto out;
		}
		/* the standard deviation is the sample's, as TRL has it */
		double x = p->advantage == SAL_RLOO ? r - (s - r) / (k - 1) : (r - s / k) / (sqrt(sq[a[i].group] / (k - 1)) + 1e-4);
		for (int t = 0; t < a[i].n; t++) {
			a[i].advantages[t] = (float)x;
			a[i].returns[t] = a[i].returns[0];
		}
	}
	rc = 0;
out:
	free(sum);
	free(count);
	return rc;
}

static int
check_finite(const struct sal_answer *a)
{
	for (int t = 0; t < a->slots; t++)
		if ((t < a->n && !isfinite(a->kl[t])) || !isfinite(a->advantages[t]) || !isfinite(a->returns[t]))
			return sal_err(TOO_LARGE, a->line);
	return 0;
}

int
sal_ppo_advantages(const struct sal_ppo *p, struct sal_answer *a, int n)
{
	bool group = p->advantage == SAL_RLOO || p->advantage == SAL_GRPO;
	struct scaling s = { 0 };
	double *scratch = malloc(((size_t)n + 1) * sizeof *scratch);
	int rc = scratch ? 0 : sal_err("out of memory");

	for (int i = 0; i < n && rc == 0; i++) {
		shape(p, &a[i]);
		if (!isfinite((float)a[i].score))
			rc = sal_err(TOO_LARGE, a[i].line);
	}
	if (rc == 0 && p->whiten_rewards) {
		double std;
		moments(p, a, n, pay, scratch, &s.mean, &std);
		s.scale = 1 / (std + 1e-8);
	}
	for (int i = 0; i < n && rc == 0; i++) {
		if (p->advantage == SAL_GAE)
			gae(p, &a[i], s);
		else if (p->advantage == SAL_REINFORCE)
			discounted(p, &a[i], s);
		rc = group ? 0 : check_finite(&a[i]); /* before one answer's spoils those of all */
	}
	if (rc == 0 && group)
		rc = grouped(p, a, n);
	else if (rc == 0 && p->whiten == SAL_WHITEN_BATCH)
		whiten(p, a, n, scratch);
	for (int i = 0; i < n && rc == 0; i++) {
		if (!group && p->whiten == SAL_WHITEN_ANSWER)
			whiten(p, &a[i], 1, scratch);
		rc = check_finite(&a[i]);
	}
	free(scratch);
	return rc;
}

static double
clamp(double x, double lo, double hi)
{
	return x < lo ? lo : x > hi ? hi : x;
}

struct sal_ppo_sums
sal_ppo_policy_loss(const struct sal_ppo *p, const struct sal_answer *a, const float *x, double weight, float *grad)
{
	struct sal_ppo_sums s = { 0 };

	for (int t = 0; t < a->n; t++) {
		double d = (double)x[t] - a->logprobs[t], ratio = exp(d), adv = a->advantages[t];
		double free_term = -adv * ratio, clipped_term = -adv * clamp(ratio, 1 - p->clip_range, 1 + p->clip_range);
		bool clipped = clipped_term > free_term;
		double loss = clipped ? clipped_term : free_term, g = clipped ? 0 : free_term;
		if (p->advantage == SAL_GRPO) {
			double back = (double)a->ref[t] - x[t];
			loss += p->kl_coef * sal_ppo_kl(1, x[t], a->ref[t]);
			g += p->kl_coef * -expm1(back);
		}
		s.loss += weight * loss;
		s.kl += 0.5 * d * d;
		s.clipped += clipped;
		s.x += ratio;
		grad[t] = (float)(weight * g);
	}
	for (int t = a->n; t < a->slots; t++) {
		s.loss -= weight * a->advantages[t];
		s.x += 1;
	}
	for (int i = a->n; i < sal_ppo_values(a); i++)
		grad[i] = 0;
	return s;
}

struct sal_ppo_sums
sal_ppo_value_loss(const struct sal_ppo *p, const struct sal_answer *a, const float *x, double weight, float *grad)
{
	struct sal_ppo_sums s = { 0 };
	double g = 0;

	for (int t = 0; t < a->slots; t++) {
		int i = value_at(a, t);
		double old = a->values[i], v = x[i], c = clamp(v, old - p->value_clip_range, old + p->value_clip_range), ret = a->returns[t];
		double l1 = (v - ret) * (v - ret), l2 = (c - ret) * (c - ret);
		bool clipped = l2 > l1;
		s.loss += weight * 0.5 * (clipped ? l2 : l1);
		s.kl += 0.5 * (v - old) * (v - old);
		s.clipped += clipped;
		s.x += v;
		s.error += l1;
		g = (i == t ? 0 : g) + (clipped ? 0 : weight * p->vf_coef * (v - ret)); /* pads share one value */
		grad[i] = (float)g;
	}
	return s;
}
