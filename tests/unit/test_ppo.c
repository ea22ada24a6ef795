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

static float buf[4][6][3];

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
		a[i] = (struct sal_answer){ .n = len[i], .group = i / 2, .reward = reward[i], .factor = 1, .stopped = i != 3, .logprobs = buf[i][0],
			.ref = buf[i][1], .values = buf[i][2], .kl = buf[i][3], .advantages = buf[i][4], .returns = buf[i][5] };
	}
}

static void
moments(const struct sal_answer *a, double *mean, double *var)
{
	double s = 0, q = 0, n = 0;

	for (int i = 0; i < 4; i++)
		for (int t = 0; t < a[i].n; t++, n++) {
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
	float grad[3], none[3];
	int bad = 0;

	for (int step = -8; step <= 8; step++)
		for (int t = 0; t < 3; t++) {
			float x[3];
			for (int k = 0; k < 3; k++)
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

int
main(void)
{
	struct sal_ppo p = sal_ppo_defaults();
	struct sal_answer a[4];
	double mean, var;
	float grad[3];

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
	printf("1..%d\n", number);
	return failed;
}
