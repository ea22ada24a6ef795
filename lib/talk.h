/* SPDX-License-Identifier: Apache-2.0 */
/*
 * talk.h - a conversation with a model: turns, answers as they come, keys and values kept from turn to turn.
 *
 * An answer is, letter for letter, the one that sal-generate samples for the record that sal_talk_save would write before it:
 * {"messages":[...]}, its id, sample 0.  Each turn the whole conversation is written in the chat format again; what its tokens
 * have in common with those whose keys are stored is not computed again.
 */
#ifndef SAL_TALK_H
#define SAL_TALK_H
#include "lib/opts.h"
#include "lib/util.h"

#define SAL_TALK_CONTEXT 8192 /* of a model that can read more, unless asked for */

struct sal_talk_config { /* those of sampling may change between turns */
	struct sal_common c;
	int max_tokens, top_k, context; /* context: tokens of a conversation; 0: the model's, SAL_TALK_CONTEXT at most */
	double temperature, top_p, min_p;
	struct sal_strs stop;
	const char *format, *system, *principles; /* principles: one of them is the system turn, drawn with the first question */
	int sign;                                 /* 1: its negation */
};
struct sal_talk;
struct sal_talk *sal_talk_open(const struct sal_talk_config *cfg); /* cfg stays the caller's.  NULL: errmsg */
void sal_talk_close(struct sal_talk *t);
int sal_talk_plan(void *talk, struct sal_buf *out); /* as sal_dry_run wants it */
const char *sal_talk_isa(const struct sal_talk *t);

/*
 * Add the user's turn.  *dropped: how many of the oldest turns were left out, for the answer to have room: --max-tokens, or a quarter
 * of the context where that is less.  -1: the turn was not taken (it is not UTF-8, or leaves no room by itself).
 */
int sal_talk_ask(struct sal_talk *t, const char *text, int *dropped) SAL_USE_RESULT;

enum sal_talk_end { SAL_TALK_STOP, SAL_TALK_LENGTH, SAL_TALK_INTERRUPTED };
struct sal_talk_view {
	/* The next n bytes of the answer, whole characters of it, never the beginning of a stop text; may be NULL. */
	void (*say)(void *ctx, const char *text, size_t n);
	void *ctx;
	bool (*interrupted)(void); /* asked after each token; may be NULL */
};
/*
 * The answer to the turn asked.  *text: all of it, valid until the next call.  An interrupted answer stays as far as it was said; without
 * a letter said its question goes too.  -1: the question is taken back.
 */
int sal_talk_answer(struct sal_talk *t, const struct sal_talk_view *v, const char **text, enum sal_talk_end *end) SAL_USE_RESULT;

int sal_talk_undo(struct sal_talk *t);                       /* take back the last question and answer; 0: there was none */
void sal_talk_reset(struct sal_talk *t);                     /* forget all turns */
int sal_talk_adapter(struct sal_talk *t, const char *dir) SAL_USE_RESULT; /* NULL: the bare model; -1: as it was */
int sal_talk_save(const struct sal_talk *t, const char *path) SAL_USE_RESULT; /* all turns, one record */

/* Set one of max-tokens, temperature, top-p, top-k, min-p, seed, for the answers to come. */
int sal_talk_set(struct sal_talk_config *cfg, const char *name, const char *value) SAL_USE_RESULT;
void sal_talk_describe(const struct sal_talk *t, struct sal_buf *out); /* lines on what answers depend on, and on the last one */

struct sal_talk_state {
	const char *format;
	bool scores;                  /* the adapter has a head: it is that of a reward model or a critic */
	int turns, left_out, context; /* left_out: those of turns that the model no longer sees */
	int prompt, kept, said;       /* tokens: of the last prompt, those of it whose keys were stored already, of the answer */
	long tokens;                  /* read and said since the start */
	double busy;                  /* seconds of answering since the start */
};
struct sal_talk_state sal_talk_state(const struct sal_talk *t);
#endif
