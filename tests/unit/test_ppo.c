/* SPDX-License-Identifier: Apache-2.0 */
/* test_ppo.c - PPO's arithmetic against figures worked by hand, and its gradients against differences. */
#include "lib/ppo.h"
#include <math.h>
#include <string.h>

static int number, failed;

static void
ok(int good, const char *what)
{
	printf("%sok %d - %s\n", good ? "" : "not ", ++number, what);
	failed |= !good;
}

static int
near(double a, double b)
{
	return fabs(a - b) <= 1e-5 * (1 + fabs(b));
}

static float buf[4][6][8];

/* Four answers: two of group 0 with 2 and 3 tokens, two of group 1 with 1 token. */
static void
make(struct sal_answer *a)
{
	static const float lp[4][3] = { { -1, -2, 0 }, { -0.5f, -1, -3 }, { -1 }, { -2 } };
	static const float ref[4][3] = { { -1.5f, -1.5f, 0 }, { -0.5f, -2, -3.25f }, { -1 }, { -3 } };
	static const float v[4][3] = { { 1, 2, 0 }, { 0, 0.5f, -1 }, { 0.25f }, { 3 } };
	static const int len[4] = { 2, 3, 1, 1 };
	static const double reward[4] = { 1, 2, -1, 0.5 };

	for (int i = 0; i < 4; i++) {
		memcpy(buf[i][0], lp[i], sizeof lp[i]);
		memcpy(buf[i][1], ref[i], sizeof ref[i]);
		memcpy(buf[i][2], v[i], sizeof v[i]);
		a[i] = (struct sal_answer){ .n = len[i], .slots = len[i], .group = i / 2, .reward = reward[i], .factor = 1, .stopped = i != 3, .logprobs = buf[i][0],
			.ref = buf[i][1], .values = buf[i][2], .kl = buf[i][3], .advantages = buf[i][4], .returns = buf[i][5] };
	}
}

static void
moments(const struct sal_answer *a, double *mean, double *var)
{
	double s = 0, q = 0, n = 0;

	for (int i = 0; i < 4; i++)
		for (int t = 0; t < a[i].slots; t++, n++) {
			s += a[i].advantages[t];
			q += (double)a[i].advantages[t] * a[i].advantages[t];
		}
	*mean = s / n;
	*var = q / n - *mean * *mean;
}

static void
check_gradient(const struct sal_ppo *p, const struct sal_answer *a, bool value, const char *what)
{
	struct sal_ppo_sums (*loss)(const struct sal_ppo *, const struct sal_answer *, const float *, double, float *) =
	    value ? sal_ppo_value_loss : sal_ppo_policy_loss;
	float grad[8], none[8];
	int bad = 0, values = sal_ppo_values(a);

	for (int step = -8; step <= 8; step++)
		for (int t = 0; t < values; t++) {
			float x[8];
			for (int k = 0; k < values; k++)
				x[k] = (value ? a->values[k] : a->logprobs[k]) + (k == t ? 0.0625f * (float)step + 0.01f : 0);
			loss(p, a, x, 0.5, grad);
			float at = x[t], h = 1.0f / 1024;
			x[t] = at + h;
			double up = loss(p, a, x, 0.5, none).loss;
			x[t] = at - h;
			double d = (up - loss(p, a, x, 0.5, none).loss) / (2 * h) * (value ? p->vf_coef : 1);
			bad += !(fabs(d - grad[t]) <= 1e-3 * (1 + fabs(d)));
		}
	ok(!bad, what);
}

/* The release's arithmetic: pads up to response_len, the reward in the last slot, means over all slots. */
static void
test_compat(void)
{
	struct sal_ppo p = sal_ppo_defaults();
	struct sal_answer a[4];
	double mean, var, sum = 0, slots = 0;
	float grad[8];
	int good = 1;

	p.response_len = 5;
	p.whiten = SAL_WHITEN_NONE;
	make(a);
	for (int i = 0; i < 4; i++) {
		a[i].slots = 5;
		a[i].values[a[i].n] = 4;       /* what the last token says */
		a[i].values[a[i].n + 1] = -2;  /* what a pad says */
	}
	ok(sal_ppo_values(&a[0]) == 4 && sal_ppo_values(&a[1]) == 5, "values of tokens, of the first pad and of the others");
	ok(sal_ppo_advantages(&p, a, 4) == 0, "gae with pads runs");
	/* answer 0: KL 0.5, 0; score 1 + 5 * 2/5 = 3, in slot 4; all times 10 */
	ok(near(a[0].bonus, 2) && near(a[0].returns[0], 29.95) && near(a[0].returns[1], 30) && near(a[0].returns[4], 30) &&
	    near(a[0].advantages[0], 29.95 - 1) && near(a[0].advantages[2], 30 - 4) && near(a[0].advantages[3], 30 + 2) && near(a[0].advantages[4], 30 + 2),
	    "the reward is paid in the last slot; with gamma and lambda 1 a return is the sum of what is still paid");
	for (int i = 0; i < 4; i++)
		for (int t = 0; t < 5; t++, slots++)
			sum += -a[i].advantages[t];
	mean = 0;
	for (int i = 0; i < 4; i++)
		mean += sal_ppo_policy_loss(&p, &a[i], a[i].logprobs, 1 / slots, grad).loss;
	ok(near(mean, sum / slots), "the policy's loss is a mean over all slots, pads included");
	struct sal_ppo_sums s = sal_ppo_value_loss(&p, &a[0], a[0].values, 1 / slots, grad);
	double want = 28.95 * 28.95 + 28. * 28 + 26. * 26 + 2 * 32. * 32;
	ok(near(s.loss, 0.5 * want / slots) && near(s.error, want) && near(s.x, 1 + 2 + 4 - 2 - 2), "so is the critic's, which learns on pads");
	ok(near(grad[3], 2 * p.vf_coef * -32 / slots), "and pads share a gradient");
	check_gradient(&p, &a[0], false, "gradient of the policy loss with pads");
	check_gradient(&p, &a[0], true, "gradient of the value loss with pads");
	float far[] = { 1, 2, 4, 8 };
	s = sal_ppo_value_loss(&p, &a[0], far, 1, grad); /* the pads' value moves by 10: nearer, but held back */
	ok(s.clipped == 2 && near(s.error, want - 2 * 32. * 32 + 2 * 22. * 22) && near(s.loss, 0.5 * (want - 2 * 32. * 32 + 2 * 31.8 * 31.8)), "an error is of the value, a loss of the clipped one");
	p.whiten = SAL_WHITEN_BATCH;
	ok(sal_ppo_advantages(&p, a, 4) == 0, "gae with pads again");
	moments(a, &mean, &var);
	ok(fabs(mean) < 1e-6 && near(var, 1), "advantages are whitened over all slots");
	p.gamma = 0.5;
	p.whiten = SAL_WHITEN_NONE;
	ok(sal_ppo_advantages(&p, a, 4) == 0 && near(a[0].returns[4], 30), "gae with pads, discounted");
	for (int t = 3; t >= 0; t--) { /* lambda 1: discounted sums */
		double paid = t == 0 ? -0.05 : 0;
		good &= near(a[0].returns[t], paid + 0.5 * a[0].returns[t + 1]);
	}
	ok(good, "a discount counts the pads");
}

static void
test_whitening(void)
{
	struct sal_ppo p = sal_ppo_defaults();
	struct sal_answer a[4];
	double mean, var, x[7], m = 0, v = 0;
	int good = 1;

	p.response_len = 10;
	p.whiten = SAL_WHITEN_NONE;
	make(a);
	ok(sal_ppo_advantages(&p, a, 4) == 0, "gae runs unwhitened");
	for (int i = 0; i < 4; i++)
		for (int t = 0; t < a[i].n; t++) {
			double left = 10 * a[i].score;
			for (int k = t; k < a[i].n; k++)
				left -= 0.1 * a[i].kl[k];
			good &= near(a[i].returns[t], left) && near(a[i].advantages[t], left - a[i].values[t]);
		}
	ok(good, "gamma and lambda 1: the sums telescope");
	p.whiten = SAL_WHITEN_ANSWER;
	make(a);
	ok(sal_ppo_advantages(&p, a, 4) == 0, "gae runs, whitened by answer");
	mean = var = 0;
	for (int t = 0; t < 3; t++) {
		mean += a[1].advantages[t] / 3;
		var += a[1].advantages[t] * a[1].advantages[t] / 3;
	}
	ok(fabs(mean) < 1e-6 && near(var, 1) && a[2].advantages[0] == 0, "each answer by itself");
	p.whiten = SAL_WHITEN_NONE;
	p.whiten_rewards = true;
	make(a);
	ok(sal_ppo_advantages(&p, a, 4) == 0, "gae runs with whitened rewards");
	/* payments: -0.005, 2 | 0, -0.01, 3.5 - 0.0025 | -0.5 | -5.01 */
	static const double pay[] = { -0.005, 2, 0, -0.01, 3.5 - 0, -0.5, -5.01 };
	for (int i = 0; i < 7; i++)
		m += (x[i] = pay[i]) / 7;
	x[4] = 3.5 - 0.01 * a[1].kl[2];
	m += (x[4] - 3.5) / 7;
	for (int i = 0; i < 7; i++)
		v += (x[i] - m) * (x[i] - m) / 7;
	ok(near(a[3].returns[0], (x[6] - m) / sqrt(v) + m) && near(a[0].returns[1], (x[1] - m) / sqrt(v) + m), "rewards are whitened but for their mean");
}

int
main(void)
{
	struct sal_ppo p = sal_ppo_defaults();
	struct sal_answer a[4];
	double mean, var;
	float grad[8];

	ok(sal_ppo_kl(0, -1, -1.5) == 0.5 && sal_ppo_kl(0, -2, -1.5) == 0, "k1 is clamped at 0");
	ok(near(sal_ppo_kl(1, -1, -1.5), exp(-0.5) - 1 + 0.5) && sal_ppo_kl(1, -2, -2) == 0, "k3");

	p.response_len = 10;
	p.gamma = 0.9;
	p.lambda = 0.8;
	make(a);
	ok(sal_ppo_advantages(&p, a, 4) == 0, "gae runs");
	ok(a[0].kl[0] == 0.5f && a[0].kl[1] == 0 && a[0].kl_sum == 0.5, "KL of an answer");
	ok(near(a[0].bonus, 1) && near(a[1].bonus, 1.5) && near(a[0].score, 2), "length bonus");
	ok(near(a[3].score, 0.5 - 6 + 0.5), "penalty without a stop");
	/* answer 0: shaped -0.05, 20; deltas -0.05 + 0.9*2 - 1 = 0.75, 20 - 2 = 18; A = 18, 0.75 + 0.72*18 */
	ok(near(a[0].returns[1], 20) && near(a[0].returns[0], 0.75 + 0.72 * 18 + 1), "returns");
	moments(a, &mean, &var);
	ok(fabs(mean) < 1e-6 && near(var, 1), "advantages are whitened over all tokens");
	p.length_bonus_cap = 0.1;
	make(a);
	ok(sal_ppo_advantages(&p, a, 4) == 0 && near(a[1].bonus, 0.5), "cap of the length bonus");
	p.length_bonus_cap = 0.8;

	make(a);
	ok(sal_ppo_advantages(&p, a, 4) == 0, "gae again");
	struct sal_ppo_sums s = sal_ppo_policy_loss(&p, &a[1], a[1].logprobs, 1, grad);
	ok(s.kl == 0 && s.clipped == 0 && grad[0] == -a[1].advantages[0], "at ratio 1 nothing is clipped");
	check_gradient(&p, &a[1], false, "gradient of the policy loss");
	check_gradient(&p, &a[1], true, "gradient of the value loss");

	p.advantage = SAL_RLOO;
	make(a);
	ok(sal_ppo_advantages(&p, a, 4) == 0, "rloo runs");
	/* R: 1+1-0.005, 2+1.5-0.0125; the other group -1+0.5, -5-0.01 */
	ok(near(a[0].advantages[1], 1.995 - 3.4875) && near(a[1].advantages[0], 3.4875 - 1.995) && near(a[2].advantages[0], -0.5 + 5.01), "rloo");
	p.advantage = SAL_GRPO;
	make(a);
	ok(sal_ppo_advantages(&p, a, 4) == 0 && near(a[0].advantages[0], -0.75 / (1.5 / sqrt(2) + 1e-4)), "grpo");
	check_gradient(&p, &a[1], false, "gradient of grpo's loss, with its KL");
	a[3].group = 2;
	ok(sal_ppo_advantages(&p, a, 4) != 0, "a single answer of its id is refused");
	p.advantage = SAL_REINFORCE;
	make(a);
	ok(sal_ppo_advantages(&p, a, 4) == 0 && near(a[0].returns[0], -0.05 + 0.9 * 20), "reinforce++");
	moments(a, &mean, &var);
	ok(fabs(mean) < 1e-6 && near(var, 1), "reinforce++ is whitened");
	a[0].reward = 1e308;
	ok(sal_ppo_advantages(&p, a, 4) != 0, "a reward too large is refused");
	test_compat();
	test_whitening();
	printf("1..%d\n", number);
	return failed;
}
