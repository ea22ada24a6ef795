/* SPDX-License-Identifier: Apache-2.0 */
/*
 * step.h - one PPO step: a state and scored samples in, a new state and one record of statistics out.
 *
 * A state is a folder: policy/ and value/ are PEFT adapters with their moments in optimizer.safetensors, state.json has the step,
 * the number of updates so far, the base model's hash and the hash of every file.  It is complete or absent.
 */
#ifndef SAL_STEP_H
#define SAL_STEP_H
#include "lib/filter.h"
#include "lib/ppo.h"

struct sal_step {
	struct sal_common c; /* adapter: the policy that --init starts from; NULL: a fresh LoRA */
	bool init;
	int lora_r;                                        /* of a fresh policy; 0: 64; alpha 0: 16; targets NULL: all */
	double lora_alpha;
	const char *lora_targets;
	const char *value, *value_from;                   /* of --init */
	const char *reference, *state, *output, *rollouts; /* reference: NULL or "none": the bare model */
	struct sal_ppo p;
	double temperature, learning_rate, max_grad_norm;
	int schedule, warmup_steps, total_steps; /* schedule: 0 cosine, 1 linear, 2 constant */
	int epochs, minibatch, micro_batch;
	bool no_shuffle;
	int compat;                              /* 1: the release's arithmetic: see struct sal_answer */
	struct sal_strs alarm;                   /* as given; sal_step_alarms reads them */
	double most_kl, most_change, least_length, most_length; /* limits; 0: none */
};
struct sal_step_told { /* for the closing lines; complete after success alone */
	long step;
	int taken, recomputed; /* taken: records whose log-probabilities were the sampler's */
	char isa[16];
};

struct sal_step sal_step_defaults(void);
/* Limits from what was given: kl=N, lr=N, length=LOW:HIGH, each once.  -1: one that is none of these, or that no figure can pass. */
int sal_step_alarms(struct sal_step *s) SAL_USE_RESULT;
/* Write the first state. */
int sal_step_init(const struct sal_step *s, struct sal_step_told *told) SAL_USE_RESULT;
/* Read records from in, train, write the rollouts and the new state, then one record to out. c.dry_run: the plan alone. */
int sal_step_run(const struct sal_step *s, FILE *in, FILE *out, struct sal_counts *n, struct sal_step_told *told) SAL_USE_RESULT;
#endif
