/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lora.h - adapters: what training changes.  LoRA on any of the seven projections, and perhaps a scalar head.
 *
 * Master weights are float; the matrices that the passes multiply with are packed from them in the model's dtype,
 * B with lora_alpha / r folded in.  Several adapters share one model.  Source: Hu et al. 2021, arXiv:2106.09685.
 */
#ifndef SAL_LORA_H
#define SAL_LORA_H
#include "lib/model.h"

#define SAL_LORA_IDLE "--lora-r, --lora-alpha and --lora-targets are of a fresh adapter: %s keeps its own"
#define SAL_ADAPTER_CONFIG "adapter_config.json" /* every adapter's folder has it */

/* One trained tensor. */
struct sal_param {
	char *name;           /* PEFT's; the head's are "head.weight" and "head.bias" */
	struct sal_tensor w;  /* F32 */
	struct sal_tensor g;  /* F32: gradient of the record at hand, in memory that parameters share; after sal_adapter_grad_end() of the
	                         update, in tree; SAL_NONE: frozen */
	struct sal_tensor m, v;
	struct sal_tensor tree[32]; /* partial sums over 2^i records; back ends whose sums have no such order: one sum */
};

/* Where gradients leave the process: g [n], each the sum over this process's records, becomes that over all of them. */
typedef void sal_reduce_fn(void *ctx, struct sal_dev *dev, const struct sal_tensor *g, int n);

struct sal_lora { /* one projection of one layer; r == 0: none */
	int r;
	float scale;
	struct sal_weight a, b; /* (R, in); (out, R), scaled */
	struct sal_param *pa, *pb;
};

struct sal_adapter {
	struct sal_model *model;
	struct sal_arena *arena, *master_arena, *train_arena; /* packed and head; lora A and B; sums and moments */
	int r;
	double alpha, dropout; /* dropout: told in its configuration, no more */
	unsigned targets; /* bit p: projection p */
	struct sal_lora *lora; /* [layers][SAL_N_PROJ] */
	struct sal_param *param; /* lora A and B in order, then the head */
	int n_params;
	struct sal_param *head_w, *head_b; /* NULL: none; views into param */
	bool trained; /* gradients and moments are there */
	sal_reduce_fn *reduce; /* NULL: this process has all records; called by sal_adapter_grad_end() alone, for all parameters at once */
	void *reduce_ctx;
	struct sal_tensor *leaving; /* [n_params] what it is given */
	struct sal_tensor grad[2]; /* of one record: of A and the head, of B and the bias */
	int levels;   /* of tree */
	uint64_t hash; /* of the master weights */
};

/* Read a PEFT folder.  head: 0 ignore, 1 required, 2 read if there.  NULL on error; sal_adapter_close(NULL) does nothing. */
struct sal_adapter *sal_adapter_open(struct sal_model *m, const char *dir, int head);
/* A fresh one: A uniform +-1/sqrt(in), B 0; head (if wanted) uniform +-1/sqrt(hidden), bias 0. Draws: stage "init", id the tensor's name. */
struct sal_adapter *sal_adapter_new(struct sal_model *m, int r, double alpha, unsigned targets, bool head, uint64_t seed);
void sal_adapter_close(struct sal_adapter *a);
/* It is only read from now on: what passes do not need is given back.  Not for sal_adapter_save() or training afterwards. */
void sal_adapter_freeze(struct sal_adapter *a);
/* Bytes that an adapter of that rank takes on the device: with moments and sums for so many records an update; 0: frozen. */
struct sal_adapter_room {
	size_t packed, master, sums, moments;
};
struct sal_adapter_room sal_adapter_room(struct sal_model *m, int r, unsigned targets, bool head, int max_records);
int sal_targets_parse(const char *list, unsigned *targets) SAL_USE_RESULT; /* "q_proj,v_proj" or "all" */
int sal_adapter_zero_head(struct sal_adapter *a) SAL_USE_RESULT; /* a head of zeros, weight and bias, made or overwritten */
/*
 * Write a PEFT folder into dir (which exists).  reward: SEQ_CLS with base_model.model.score.weight (the bias is not written);
 * otherwise CAUSAL_LM, and a head goes to head.safetensors.
 */
int sal_adapter_save(const struct sal_adapter *a, const char *dir, bool reward, bool bf16) SAL_USE_RESULT;
void sal_adapter_pack(struct sal_adapter *a); /* master weights -> packed matrices; after every change */

/* Gradients of up to max_records records and AdamW's moments; frozen until then. */
int sal_adapter_train(struct sal_adapter *a, int max_records) SAL_USE_RESULT;
/* g of parameter p holds the gradient of record `index` of the update: add it to the fixed tree. */
void sal_param_push(struct sal_adapter *a, struct sal_param *p, int index);
/* After all n records: g = the tree's sum, over all processes. */
void sal_adapter_grad_end(struct sal_adapter *a, int n);
double sal_adapter_sumsq(const struct sal_adapter *a); /* of g, in the order of param */
struct sal_adam { double lr, beta1, beta2, eps, weight_decay; };
void sal_adapter_update(struct sal_adapter *a, const struct sal_adam *o, double grad_scale, long step);
/* Moments to and from dir/optimizer.safetensors; the gradient to a file, PEFT's names. */
int sal_adapter_save_moments(const struct sal_adapter *a, const char *dir) SAL_USE_RESULT;
int sal_adapter_load_moments(struct sal_adapter *a, const char *dir) SAL_USE_RESULT;
int sal_adapter_save_gradients(const struct sal_adapter *a, const char *path) SAL_USE_RESULT;
#endif
