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

static double
shaped(const struct sal_ppo *p, const struct sal_answer *a, int t)
{
	return p->reward_scale * (-p->kl_coef * a->kl[t] + (t == a->n - 1 ? a->score : 0));
}

static void
gae(const struct sal_ppo *p, struct sal_answer *a)
{
	double last = 0;

	for (int t = a->n - 1; t >= 0; t--) {
		double next = t + 1 < a->n ? a->values[t + 1] : 0;
		last = shaped(p, a, t) + p->gamma * next - a->values[t] + p->gamma * p->lambda * last;
		a->advantages[t] = (float)last;
		a->returns[t] = (float)(last + a->values[t]);
	}
}

static void
discounted(const struct sal_ppo *p, struct sal_answer *a)
{
	double sum = 0;

	for (int t = a->n - 1; t >= 0; t--) {
		sum = shaped(p, a, t) + p->gamma * sum;
		a->advantages[t] = a->returns[t] = (float)sum;
	}
}

/* Over all tokens: less the mean, over the population's standard deviation. */
static int
whiten(struct sal_answer *a, int n)
{
	double *s = malloc(((size_t)n + 1) * sizeof *s), count = 0, mean, std;

	if (s == NULL)
		return sal_err("out of memory");
	for (int i = 0; i < n; i++) {
		s[i] = 0;
		count += a[i].n;
		for (int t = 0; t < a[i].n; t++)
			s[i] += a[i].advantages[t];
	}
	mean = sal_tree_sum(s, n) / count;
	for (int i = 0; i < n; i++) {
		s[i] = 0;
		for (int t = 0; t < a[i].n; t++)
			s[i] += (a[i].advantages[t] - mean) * (a[i].advantages[t] - mean);
	}
	std = sqrt(sal_tree_sum(s, n) / count);
	for (int i = 0; i < n; i++)
		for (int t = 0; t < a[i].n; t++)
			a[i].advantages[t] = (float)((a[i].advantages[t] - mean) / (std + 1e-8));
	free(s);
	return 0;
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
	for (int t = 0; t < a->n; t++)
		if (!isfinite(a->kl[t]) || !isfinite(a->advantages[t]) || !isfinite(a->returns[t]))
			return sal_err(TOO_LARGE, a->line);
	return 0;
}

int
sal_ppo_advantages(const struct sal_ppo *p, struct sal_answer *a, int n)
{
	bool group = p->advantage == SAL_RLOO || p->advantage == SAL_GRPO;
	int rc = 0;

	for (int i = 0; i < n && rc == 0; i++) {
		shape(p, &a[i]);
		if (p->advantage == SAL_GAE)
			gae(p, &a[i]);
		else if (p->advantage == SAL_REINFORCE)
			discounted(p, &a[i]);
		rc = group ? 0 : check_finite(&a[i]); /* before one answer's spoils those of all */
	}
	if (rc == 0)
		rc = group ? grouped(p, a, n) : whiten(a, n);
	for (int i = 0; i < n && rc == 0; i++)
		rc = check_finite(&a[i]);
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
		grad[t] = (float)(weight * g);
	}
	return s;
}

struct sal_ppo_sums
sal_ppo_value_loss(const struct sal_ppo *p, const struct sal_answer *a, const float *x, double weight, float *grad)
{
	struct sal_ppo_sums s = { 0 };

	for (int t = 0; t < a->n; t++) {
		double old = a->values[t], v = x[t], c = clamp(v, old - p->value_clip_range, old + p->value_clip_range), ret = a->returns[t];
		double l1 = (v - ret) * (v - ret), l2 = (c - ret) * (c - ret);
		bool clipped = l2 > l1;
		s.loss += weight * 0.5 * (clipped ? l2 : l1);
		s.kl += 0.5 * (v - old) * (v - old);
		s.clipped += clipped;
		grad[t] = (float)(clipped ? 0 : weight * p->vf_coef * (v - ret));
	}
	return s;
}
