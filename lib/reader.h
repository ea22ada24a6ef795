/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reader.h - what a tool opens to read records with a model: tokenizer, chat format, principles and template, weights, adapter, engine.
 *
 * Zero-initialise; open the cheap things first, so that a wrong name is told before weights are read; sal_reader_close.
 */
#ifndef SAL_READER_H
#define SAL_READER_H
#include "lib/chat.h"
#include "lib/eval.h"
#include "lib/prompt.h"

#define SAL_MAX_UNDER 64

struct sal_reader {
	const struct sal_common *c;
	struct sal_tokenizer *tk;
	struct sal_chat *chat;             /* NULL: not asked for */
	struct sal_principles *principles; /* these two: NULL until they are asked for */
	char *template;
	const char *principles_name, *template_name;
	struct sal_model *m;
	struct sal_adapter *a;             /* NULL: the bare model */
	struct sal_engine *e;              /* forward passes, of sal_reader_engine */
	int longest;                       /* that e was made for */
};
struct sal_under { /* the principles that a text is read under */
	int n, pick[SAL_MAX_UNDER];
	bool negated[SAL_MAX_UNDER];
};

/* The tokenizer and, if chat is set, the format of that name (NULL: the model's own). */
int sal_reader_open(struct sal_reader *r, const struct sal_common *c, bool chat, const char *format) SAL_USE_RESULT;
/* Principles and template by name, each read once; NULL: not this one. */
int sal_reader_prompts(struct sal_reader *r, const char *principles, const char *template) SAL_USE_RESULT;
int sal_reader_negatives(const struct sal_reader *r) SAL_USE_RESULT; /* -1: a principle has no negative definition */
/* The model and the adapter of c, if it names one; flags as sal_model_open, head as sal_adapter_open. */
int sal_reader_model(struct sal_reader *r, int flags, int head) SAL_USE_RESULT;
/* An engine for forward passes over sequences of that many tokens: made when the one there is too small. */
int sal_reader_engine(struct sal_reader *r, int longest) SAL_USE_RESULT;
void sal_reader_close(struct sal_reader *r);

/* The "principles" that a record brings: 1; 0: it brings none; -1: error. */
int sal_reader_under(const struct sal_reader *r, const cJSON *rec, struct sal_under *u) SAL_USE_RESULT;
/* The reward text of a record's field, in no more tokens than the model's context. */
int sal_reader_reward(const struct sal_reader *r, const cJSON *rec, const char *field, const struct sal_under *u, struct sal_reward_limits lim,
    struct sal_ids *out) SAL_USE_RESULT;

/* Lines of a dry run's plan on what is open. */
void sal_reader_plan(const struct sal_reader *r, struct sal_buf *out);
void sal_plan_model(const struct sal_model *m, struct sal_buf *out);
void sal_plan_adapter(const char *name, const struct sal_adapter *a, struct sal_buf *out);
#endif
