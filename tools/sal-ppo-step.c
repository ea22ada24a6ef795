/* SPDX-License-Identifier: Apache-2.0 */
/* sal-ppo-step - one PPO step: old state and scored samples in, new state and one record out.  See sal-ppo-step(1). */
#include "lib/step.h"
#include <stdlib.h>

/* Usage errors that the table cannot find. */
static void
check_options(struct sal_step *s)
{
	if (!s->c.model || !s->output)
		sal_opts_fail("-m and -o are required");
	if (s->value && s->value_from)
		sal_opts_fail("--value and --value-from exclude each other");
	if (!s->init && (s->c.adapter || s->value || s->value_from))
		sal_opts_fail("-a, --value and --value-from belong to --init");
	if (s->init && s->state)
		sal_opts_fail("--init reads no state");
	if (!s->init && !s->state)
		sal_opts_fail("-s is required (or --init)");
	if (!s->init && s->schedule != 2 && s->total_steps == 0)
		sal_opts_fail("--schedule cosine and linear need --total-steps");
	sal_opts_only(s->init, "lora-r,lora-alpha,lora-targets", "with --init");
	sal_opts_only(!s->init, "reference,rollouts,alarm,skip-bad", "without --init, which reads no records");
	sal_opts_only(s->p.advantage == SAL_GAE || s->p.advantage == SAL_REINFORCE, "whiten,whiten-rewards", "with --advantage gae or reinforce++");
	if (s->compat && s->p.advantage != SAL_GAE)
		sal_opts_fail("--compat salmon has --advantage gae only");
	if (sal_step_alarms(s) != 0)
		sal_opts_fail("%s", sal_errmsg());
}

/* The step, and what is told of it. */
static int
run(const struct sal_step *s, struct sal_counts *n, struct sal_step_told *told)
{
	if ((s->init ? sal_step_init(s, told) : sal_step_run(s, stdin, stdout, n, told)) != 0) {
		sal_warn("%s", sal_errmsg());
		return EXIT_FAILURE;
	}
	if (!s->init && !s->c.quiet && !s->c.dry_run)
		sal_warn("step %ld: log-probabilities of %d records taken, of %d recomputed", told->step, told->taken, told->recomputed);
	return EXIT_SUCCESS;
}

int
main(int argc, char *argv[])
{
	struct sal_step s = sal_step_defaults();
	const struct sal_opt opts[] = {
		SAL_OPT_MODEL(s.c),
		{ 'r', "reference", SAL_OPT_STR, &s.reference, 0, 0, "DIR", "adapter of the reference policy; none: the bare model [none]" },
		{ 's', "state", SAL_OPT_STR, &s.state, 0, 0, "DIR", "state to start from (required but with --init)" },
		{ 'o', "output", SAL_OPT_STR, &s.output, 0, 0, "DIR", "where the new state is written (required)" },
		{ 0, "init", SAL_OPT_FLAG, &s.init, 0, 0, 0, "write a first state and stop; reads no records" },
		{ 'a', "adapter", SAL_OPT_STR, &s.c.adapter, 0, 0, "DIR", "with --init: the policy [a fresh LoRA]" },
		{ 0, "lora-r", SAL_OPT_INT, &s.lora_r, 1, 4096, "N", "with --init: rank of a fresh LoRA [64]" },
		{ 0, "lora-alpha", SAL_OPT_REAL, &s.lora_alpha, 1e-6, 1e6, "N", "its alpha: the scale is alpha / rank [16]" },
		{ 0, "lora-targets", SAL_OPT_STR, &s.lora_targets, 0, 0, "LIST", "its projections, separated by commas [all]" },
		{ 0, "value", SAL_OPT_STR, &s.value, 0, 0, "DIR", "with --init: the critic, with its head [policy's LoRA, zero head]" },
		{ 0, "value-from", SAL_OPT_STR, &s.value_from, 0, 0, "DIR", "with --init: a critic of a reward adapter's LoRA and a zero head" },
		{ 0, "rollouts", SAL_OPT_STR, &s.rollouts, 0, 0, "FILE", "write log-probabilities, values, KL, advantages and returns" },
		{ 0, "advantage", SAL_OPT_CHOICE, &s.p.advantage, 0, 0, "gae|rloo|grpo|reinforce++", "gae has a critic, the others do without [gae]" },
		{ 0, "kl-estimator", SAL_OPT_CHOICE, &s.p.estimator, 0, 0, "k1|k3", "of the KL per token; k1 is clamped at 0 [k1]" },
		{ 0, "temperature", SAL_OPT_REAL, &s.temperature, 1e-6, 1e6, "T", "of the sampled distribution [0.7]" },
		{ 0, "response-len", SAL_OPT_INT, &s.p.response_len, 1, 1 << 24, "N", "length that the length bonus is relative to [1024]" },
		{ 0, "kl-coef", SAL_OPT_REAL, &s.p.kl_coef, 0, 1e6, "C", "weight of the KL penalty [0.01]" },
		{ 0, "length-bonus", SAL_OPT_REAL, &s.p.length_bonus, -1e6, 1e6, "C", "times the record's factor and share of --response-len [5]" },
		{ 0, "length-bonus-cap", SAL_OPT_REAL, &s.p.length_bonus_cap, -1e6, 1e6, "C", "largest share that counts [0.8]" },
		{ 0, "stop-penalty", SAL_OPT_REAL, &s.p.stop_penalty, -1e6, 1e6, "R", "added to the reward of an answer without end [-6]" },
		{ 0, "reward-scale", SAL_OPT_REAL, &s.p.reward_scale, -1e6, 1e6, "C", "times rewards and KL; not in rloo and grpo [10]" },
		{ 0, "whiten-rewards", SAL_OPT_FLAG, &s.p.whiten_rewards, 0, 0, 0, "whiten rewards but for their mean, in place of --reward-scale; gae, reinforce++" },
		{ 0, "whiten", SAL_OPT_CHOICE, &s.p.whiten, 0, 0, "batch|answer|none", "whiten advantages over all tokens, or each answer's; gae, reinforce++ [batch]" },
		{ 0, "gamma", SAL_OPT_REAL, &s.p.gamma, 0, 1, "G", "discount [1]" },
		{ 0, "lambda", SAL_OPT_REAL, &s.p.lambda, 0, 1, "L", "of GAE [1]" },
		{ 0, "clip-range", SAL_OPT_REAL, &s.p.clip_range, 0, 1e6, "E", "of the ratio, about 1 [0.2]" },
		{ 0, "value-clip-range", SAL_OPT_REAL, &s.p.value_clip_range, 0, 1e6, "E", "of a value, about the old one [0.2]" },
		{ 0, "vf-coef", SAL_OPT_REAL, &s.p.vf_coef, 0, 1e6, "C", "weight of the value loss [0.1]" },
		{ 0, "epochs", SAL_OPT_INT, &s.epochs, 1, 1000, "N", "passes over the records [2]" },
		{ 0, "minibatch", SAL_OPT_INT, &s.minibatch, 1, 1 << 20, "N", "records per update [288]" },
		{ 0, "learning-rate", SAL_OPT_REAL, &s.learning_rate, 0, 1e10, "R", "peak learning rate [2e-5]" },
		{ 0, "schedule", SAL_OPT_CHOICE, &s.schedule, 0, 0, "cosine|linear|constant", "over PPO steps, after the warm-up [cosine]" },
		{ 0, "warmup-steps", SAL_OPT_INT, &s.warmup_steps, 0, 1e9, "N", "PPO steps of warm-up [5]" },
		{ 0, "total-steps", SAL_OPT_INT, &s.total_steps, 0, 1e9, "N", "PPO steps of the whole run (required but by constant)" },
		{ 0, "max-grad-norm", SAL_OPT_REAL, &s.max_grad_norm, 1e-9, 1e9, "G", "clip the norm over policy and critic [1]" },
		{ 0, "no-shuffle", SAL_OPT_FLAG, &s.no_shuffle, 0, 0, 0, "keep the order of the input" },
		{ 0, "compat", SAL_OPT_CHOICE, &s.compat, 0, 0, "none|salmon", "salmon: the release's arithmetic, with pads up to --response-len [none]" },
		{ 0, "alarm", SAL_OPT_LIST, &s.alarm, 0, 0, "NAME=LIMIT", "fail where kl=N, lr=N or length=LOW:HIGH is passed; may be repeated [none]" },
		{ 0, "micro-batch", SAL_OPT_INT, &s.micro_batch, 1, 1 << 20, "N", "tokens computed together; changes no byte [1024]" },
		SAL_OPT_SEED(s.c),
		SAL_OPT_COMPUTE_TRAIN(s.c),
		SAL_OPT_STREAM(s.c),
		SAL_OPT_DRY(s.c),
		SAL_OPT_QUIET(s.c),
		SAL_OPT_END
	};
	struct sal_step_told told = { 0 };
	struct sal_counts n = { 0 };
	int status;

	sal_opts_parse(argc, argv, opts, "sal-ppo-step -m PATH -s STATE -o NEWSTATE [options] < scored > statistics",
	    "One PPO step on scored samples; with --init, write the first state.");
	check_options(&s);
	status = run(&s, &n, &told);
	free(s.alarm.s);
	return sal_finish(status, &s.c, &n, told.isa[0] ? told.isa : NULL);
}
