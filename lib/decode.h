/* SPDX-License-Identifier: Apache-2.0 */
/*
 * decode.h - sampling: sequences enter a running batch when there is room and leave it when they end.
 *
 * What prompts have in common at their beginning is computed once, and a job's whole prompt once for all its samples: pages
 * are shared, the one where they part is copied.
 * What a sample is does not depend on what else runs: kernels are batch-invariant and draws are named by (seed, id, sample).
 */
#ifndef SAL_DECODE_H
#define SAL_DECODE_H
#include "lib/arch.h"
#include "lib/tokenizer.h"

struct sal_sampling {
	int max_tokens, top_k;
	float temperature, top_p, min_p;
	uint64_t seed;
	const char *const *stop; /* texts that end an answer */
	int n_stop;
	const int32_t *eos;
	int n_eos;
	void (*sampled)(void *ctx, int n); /* told after each pass: n tokens more; may be NULL */
	void *ctx;
};

struct sal_answer { /* one sample, filled by sal_decode */
	struct sal_ids tokens;  /* as sampled, with the ids that ended it */
	float *logprobs;        /* malloc'd, one a token */
	struct sal_buf text;    /* before the stop */
	bool stopped;           /* by EOS or a stop text; else by length */
};

struct sal_job { /* one prompt */
	const int32_t *ids;
	int n;
	const char *id;          /* names its draws */
	int n_samples, first_sample;
	struct sal_answer *answer; /* [n_samples], caller's, zeroed */
};

struct sal_decoder;
/* slots: sequences decoded together. longest: prompt plus new tokens at most. pages: by sal_decoder_pages(). NULL on error. */
struct sal_decoder *sal_decoder_new(struct sal_model *m, const struct sal_tokenizer *tk, int slots, int longest, int pages, int rank);
/* Pages of keys that the jobs need at most, whichever of their samples are decoded together. */
int sal_decoder_pages(const struct sal_job *job, int n, int slots, int longest, int max_tokens);
/* Bytes that it would reserve on the device if every sequence were the longest; *kv: those of keys and values.  m may be a sketch. */
size_t sal_decoder_bytes(const struct sal_model *m, int slots, int longest, int rank, size_t *kv);
void sal_decoder_free(struct sal_decoder *d);
/* Answer every job; job is put into the order of the prompts' tokens.  -1: errmsg. */
int sal_decode(struct sal_decoder *d, const struct sal_adapter *a, const struct sal_sampling *s, struct sal_job *job, int n) SAL_USE_RESULT;
void sal_answer_clear(struct sal_answer *a);
#endif
