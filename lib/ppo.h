/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ppo.h - the arithmetic of PPO on plain arrays: KL estimates, shaped rewards, advantages, clipped losses and their gradients.
 *
 * Sums of one answer run over its tokens in order, sums over answers in the fixed tree of sal_tree_sum.
 * Sources: Schulman et al. 2017, arXiv:1707.06347 (PPO); 2016, arXiv:1506.02438 (GAE); Ahmadian et al. 2024, arXiv:2402.14740 (RLOO);
 * Shao et al. 2024, arXiv:2402.03300 (GRPO); Hu et al. 2025, arXiv:2501.03262 (REINFORCE++).
 */
#ifndef SAL_PPO_H
#define SAL_PPO_H
#include "lib/util.h"

enum sal_advantage { SAL_GAE, SAL_RLOO, SAL_GRPO, SAL_REINFORCE };
enum sal_whiten { SAL_WHITEN_BATCH, SAL_WHITEN_ANSWER, SAL_WHITEN_NONE };
extern const char *const sal_advantage_name[4];

struct sal_ppo {
	int estimator; /* 0 k1 (clamped at 0), 1 k3 */
	int advantage; /* enum sal_advantage */
	double kl_coef, length_bonus, length_bonus_cap, stop_penalty, reward_scale, gamma, lambda, clip_range, value_clip_range, vf_coef;
	int response_len;
	int whiten;          /* enum sal_whiten */
	bool whiten_rewards; /* in place of reward_scale */
};

/*
 * One record: n response tokens, n >= 1, in `slots` slots: n, or with the release's arithmetic (--compat salmon) response_len, of which those
 * past n are pads.  A pad has log-probability 0 and the ratio 1; the reward is paid in the last slot; all means run over slots.  Pads are hidden
 * from attention and share a position, so the critic says the same of each: values[n] comes of the last token, values[n + 1] of any pad.
 * Arrays are the caller's: logprobs, ref and kl [n], values [sal_ppo_values], advantages and returns [slots].
 */
struct sal_answer {
	int n, slots, group;             /* answers of one prompt share group: 0 .. n_answers-1 */
	long line;                       /* of the input: an error names it */
	double reward, factor;           /* factor of the length bonus */
	bool stopped;
	float *logprobs, *ref, *values;  /* given; values are read by SAL_GAE only */
	float *kl, *advantages, *returns; /* set by sal_ppo_advantages */
	double kl_sum, bonus, score;     /* set too: score = reward and penalty and bonus, unscaled */
};

/* How many values an answer has: of its tokens, and of its pads where it has any. */
int sal_ppo_values(const struct sal_answer *a);
/* SALMON's values. */
struct sal_ppo sal_ppo_defaults(void);
/* Estimate of the KL divergence from one token's log-probabilities under the policy and the reference. */
double sal_ppo_kl(int estimator, double logprob, double ref);
/*
 * Shape rewards, then advantages and returns of n answers.  gae and reinforce++: returns are scaled and not whitened, advantages
 * are whitened as p->whiten says.  rloo and grpo: one unscaled advantage an answer; its return is the answer's reward less its KL penalty
 * (grpo: without it).  -1: an answer without others of its group where they are needed, or a result that is not finite.
 */
int sal_ppo_advantages(const struct sal_ppo *p, struct sal_answer *a, int n) SAL_USE_RESULT;

/*
 * Of one answer: weighted loss; sums over its slots of half the squared change, of clipped ones, of the ratio (value: of the value),
 * and of the squared error of a value.
 */
struct sal_ppo_sums { double loss, kl, clipped, x, error; };
/*
 * The clipped loss of one answer under the log-probabilities (values) x of now, each slot with this weight;
 * grad[t] = d(weighted loss) / dx[t] (value: times vf_coef, which is not in the loss).  x and grad: [sal_ppo_values].
 */
struct sal_ppo_sums sal_ppo_policy_loss(const struct sal_ppo *p, const struct sal_answer *a, const float *x, double weight, float *grad);
struct sal_ppo_sums sal_ppo_value_loss(const struct sal_ppo *p, const struct sal_answer *a, const float *x, double weight, float *grad);
#endif
