/* SPDX-License-Identifier: Apache-2.0 */
/* model.h - a model: configuration, weights on a device, and the families of files that it is read from. */
#ifndef SAL_MODEL_H
#define SAL_MODEL_H
#include "kernels/kernels.h"
#include "lib/tensors.h"
#include "lib/opts.h"

enum sal_proj { SAL_Q, SAL_K, SAL_V, SAL_O, SAL_GATE, SAL_UP, SAL_DOWN, SAL_N_PROJ };
extern const char *const sal_proj_name[SAL_N_PROJ]; /* "q_proj" ... as Hugging Face spells them */

struct sal_config {
	char arch[32]; /* llama, mistral, qwen2, qwen3 */
	int hidden_size, intermediate_size, num_layers, num_heads, num_kv_heads, head_dim, vocab_size, max_positions;
	float rms_norm_eps;
	double rope_theta;
	int rope_scaling; /* 0 none, 1 linear, 2 llama3 */
	double rope_factor, rope_low, rope_high;
	int rope_original;
	int window; /* sliding window of every layer; 0: none */
	bool tied;  /* output head is the embedding */
	bool qk_norm;
	bool permuted; /* GGUF of arch llama: rows of q and k are interleaved */
	unsigned biases; /* bit p: projection p must have a bias */
};

struct sal_layer {
	struct sal_weight w[SAL_N_PROJ];
	struct sal_tensor bias[SAL_N_PROJ]; /* SAL_NONE where there is none */
	struct sal_tensor attn_norm, ffn_norm, q_norm, k_norm;
};

struct sal_model {
	struct sal_config cfg;
	char *path;
	struct sal_dev *dev;
	const struct sal_layout *layout;
	enum sal_dtype dtype;
	int quantize; /* enum sal_quantize */
	struct sal_arena *arena;
	struct sal_map *packed; /* what the arena stands over: packed.h; NULL: memory of its own */
	struct sal_weight embed, head; /* the same matrix when tied */
	struct sal_tensor final_norm, rope; /* [C]; [max_positions, 2, D/2] */
	struct sal_layer *layer;
	uint64_t hash; /* of the files' content */
};

#define SAL_MODEL_TRAIN 1 /* transposed copies of the layers' matrices, for LoRA's backward pass */
#define SAL_MODEL_HEAD_GRAD 2 /* a transposed copy of the output head too: losses over the vocabulary */

/* Check config and tensors, then load.  c: device, dtype, threads.  NULL on error. */
struct sal_model *sal_model_open(const char *path, const struct sal_common *c, int flags);
/*
 * A model without its weights: configuration, shapes and forms as sal_model_open would make them on c's device, which is not opened
 * (dev is NULL); *room: the bytes that it would reserve.  path may be a config.json; a folder needs no other file.
 */
struct sal_model *sal_model_sketch(const char *path, const struct sal_common *c, int flags, size_t *room);
void sal_model_close(struct sal_model *m);
int sal_config_read(const char *path, struct sal_config *cfg) SAL_USE_RESULT; /* folder or .gguf */
/* in, out of one projection */
void sal_proj_shape(const struct sal_config *cfg, int proj, int64_t *out, int64_t *in);
#endif
