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
extern const char *const sal_advantage_name[4];

struct sal_ppo {
	int estimator; /* 0 k1 (clamped at 0), 1 k3 */
	int advantage; /* enum sal_advantage */
	double kl_coef, length_bonus, length_bonus_cap, stop_penalty, reward_scale, gamma, lambda, clip_range, value_clip_range, vf_coef;
	int response_len;
};

struct sal_answer { /* one record: n response tokens, n >= 1; all arrays are the caller's, [n] */
	int n, group;                    /* answers of one prompt share group: 0 .. n_answers-1 */
	long line;                       /* of the input: an error names it */
	double reward, factor;           /* factor of the length bonus */
	bool stopped;
	float *logprobs, *ref, *values;  /* given; values are read by SAL_GAE only */
	float *kl, *advantages, *returns; /* set by sal_ppo_advantages */
	double kl_sum, bonus, score;     /* set too: score = reward and penalty and bonus, unscaled */
};

/* SALMON's values. */
struct sal_ppo sal_ppo_defaults(void);
/* Estimate of the KL divergence from one token's log-probabilities under the policy and the reference. */
double sal_ppo_kl(int estimator, double logprob, double ref);
/*
 * Shape rewards, then advantages and returns of n answers.  gae and reinforce++: returns are scaled and not whitened, advantages
 * are whitened over all tokens.  rloo and grpo: one unscaled advantage an answer; its return is the answer's reward less its KL penalty
 * (grpo: without it).  -1: an answer without others of its group where they are needed, or a result that is not finite.
 */
int sal_ppo_advantages(const struct sal_ppo *p, struct sal_answer *a, int n) SAL_USE_RESULT;

struct sal_ppo_sums { double loss, kl, clipped; }; /* of one answer: weighted loss; sums over tokens of half the squared change, of clipped tokens */
/*
 * The clipped loss of one answer under the log-probabilities (values) x of now, each token with this weight;
 * grad[t] = d(weighted loss) / dx[t] (value: times vf_coef, which is not in the loss).
 */
struct sal_ppo_sums sal_ppo_policy_loss(const struct sal_ppo *p, const struct sal_answer *a, const float *x, double weight, float *grad);
struct sal_ppo_sums sal_ppo_value_loss(const struct sal_ppo *p, const struct sal_answer *a, const float *x, double weight, float *grad);
#endif
