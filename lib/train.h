/* SPDX-License-Identifier: Apache-2.0 */
/* train.h - the loop of sal-sft and sal-rmtrain: records to updates, one log line each, a PEFT folder at the end. */
#ifndef SAL_TRAIN_H
#define SAL_TRAIN_H
#include "lib/filter.h"
#include "lib/prompt.h"

enum sal_loss { SAL_LOSS_SFT, SAL_LOSS_DPO, SAL_LOSS_REWARD };

struct sal_train {
	struct sal_common c;       /* adapter: start from; batch: records per update */
	const char *output;
	int loss;                  /* enum sal_loss */
	double beta;               /* of DPO */
	int lora_r;                /* of a fresh adapter; 0: 64; alpha 0: 16; targets NULL: all */
	double lora_alpha, lora_dropout;
	const char *lora_targets;
	double learning_rate, weight_decay, max_grad_norm, warmup_ratio;
	int schedule;              /* 0 cosine, 1 linear, 2 constant */
	int warmup_steps, epochs, save_every, micro_batch, save_dtype;
	bool no_shuffle;
	const char *save_gradients;
	/* text */
	const char *format, *system, *principles, *template;
	int prompt_len, response_len; /* of SFT and DPO; 0: no limit */
	struct sal_reward_limits limits;
};

/* Defaults of the options. */
struct sal_train sal_train_defaults(enum sal_loss loss);
/* The options that both tools have. */
#define SAL_OPT_TRAIN(t) \
	{ 'o', "output", SAL_OPT_STR, &(t).output, 0, 0, "DIR", "where the adapter is written (required)" }, \
	{ 0, "lora-r", SAL_OPT_INT, &(t).lora_r, 1, 4096, "N", "rank of a fresh adapter [64]" }, \
	{ 0, "lora-alpha", SAL_OPT_REAL, &(t).lora_alpha, 1e-6, 1e6, "N", "its alpha: the scale is alpha / rank [16]" }, \
	{ 0, "lora-targets", SAL_OPT_STR, &(t).lora_targets, 0, 0, "LIST", "its projections, separated by commas [all]" }, \
	{ 0, "lora-dropout", SAL_OPT_REAL, &(t).lora_dropout, 0, 0.999, "P", "probability that training drops an element that the adapter reads [0]" }, \
	{ 0, "learning-rate", SAL_OPT_REAL, &(t).learning_rate, 0, 1e10, "R", "peak learning rate [1e-4 sft, 3e-5 rmtrain]" }, \
	{ 0, "schedule", SAL_OPT_CHOICE, &(t).schedule, 0, 0, "cosine|linear|constant", "after the warm-up [cosine]" }, \
	{ 0, "warmup-steps", SAL_OPT_INT, &(t).warmup_steps, 0, 1e9, "N", "updates of warm-up [by --warmup-ratio]" }, \
	{ 0, "warmup-ratio", SAL_OPT_REAL, &(t).warmup_ratio, 0, 1, "R", "warm-up as a share of all updates [0.03]" }, \
	{ 0, "weight-decay", SAL_OPT_REAL, &(t).weight_decay, 0, 10, "W", "decoupled weight decay [0]" }, \
	{ 0, "max-grad-norm", SAL_OPT_REAL, &(t).max_grad_norm, 1e-9, 1e9, "G", "clip the global norm [0.3]" }, \
	{ 0, "epochs", SAL_OPT_INT, &(t).epochs, 1, 1e6, "N", "passes over the records [1]" }, \
	{ 0, "no-shuffle", SAL_OPT_FLAG, &(t).no_shuffle, 0, 0, 0, "keep the order of the input" }, \
	{ 0, "save-every", SAL_OPT_INT, &(t).save_every, 0, 1e9, "N", "also save every N updates and go on from there when run again; 0: never [0]" }, \
	{ 0, "save-dtype", SAL_OPT_CHOICE, &(t).save_dtype, 0, 0, "f32|bf16", "type of the adapter written [f32]" }, \
	{ 0, "save-gradients", SAL_OPT_STR, &(t).save_gradients, 0, 0, "FILE", "write the first update's gradients, before clipping" }, \
	{ 0, "micro-batch", SAL_OPT_INT, &(t).micro_batch, 1, 1 << 20, "N", "tokens computed together; changes no byte [1024]" }

/* Learning rate of update s (from 0) of total: transformers' schedules, warm-up at (s+1)/warmup. schedule as above. */
double sal_schedule(int schedule, double peak, long s, long warmup, long total);
/* Read stdin, train, write the log to stdout and the folder, with all that is told on stderr: the status to exit with. */
int sal_train_main(const struct sal_train *t);
#endif
