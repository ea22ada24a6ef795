/* SPDX-License-Identifier: Apache-2.0 */
/* prompt.h - templates, principles, and the texts that judge and reward model read. */
#ifndef SAL_PROMPT_H
#define SAL_PROMPT_H
#include "lib/random.h"
#include "lib/tokenizer.h"

/*
 * Fill a template: {Name} is replaced by value[i] where name[i] is Name; one pass, inserted text is never scanned again.
 * plain (may be NULL): spans of out that were inserted.  Braces that enclose no known name stay.
 */
int sal_template_fill(const char *tmpl, const char *const *name, const char *const *value, int n, struct sal_buf *out,
    struct sal_span **plain, int *n_plain) SAL_USE_RESULT;
/* A file of prompts/: PATH if it has a slash or exists, else $SAL_PROMPTS/NAME, ./prompts/NAME, share/salmon/prompts/NAME beside the tool's bin/, prompts/NAME above build/. Stripped at both ends. malloc'd. */
char *sal_prompt_read(const char *name);
/* The path that sal_prompt_read would open; malloc'd; NULL: error. */
char *sal_prompt_path(const char *name);

struct sal_principle { char *dimension, *definition, *negative; double weight; }; /* negative NULL: none given */
struct sal_principles { struct sal_principle *p; int n; };
struct sal_principles *sal_principles_open(const char *name); /* as sal_prompt_path, also principles/NAME.json; strict */
void sal_principles_close(struct sal_principles *p);
int sal_principles_find(const struct sal_principles *p, const char *dimension); /* -1: absent */
/*
 * Draw k without replacement, successive weighted draws; type 1 adds 128 to the weight of names with "reason" or "numerical",
 * type 2 to those with "ethical" or "harmless" (any case).  pick: k indices.  -1: fewer than k of weight > 0.
 */
int sal_principles_draw(const struct sal_principles *p, int k, int question_type, struct sal_random *r, int *pick) SAL_USE_RESULT;

/* The reward text: lengths in tokens; 0: no limit. */
struct sal_reward_limits { int instruction, response, total; };
/*
 * Ids of the reward text, BOS first where the model has one: response before instruction, "- definition" lines for Dimensions.
 * The last `instruction` tokens of the instruction and the first `response` tokens of the response are kept; if the whole is still longer than total,
 * the response, then the instruction, is shortened until it fits: the stub at the end always survives.  -1: even an empty
 * answer does not fit.  principle i is negated where negated[i] (its negative must exist).
 */
int sal_reward_ids(const struct sal_tokenizer *tk, const char *tmpl, const char *instruction, const char *response,
    const struct sal_principles *p, const int *pick, const bool *negated, int n, struct sal_reward_limits lim, struct sal_ids *out) SAL_USE_RESULT;
#endif
