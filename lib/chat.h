/* SPDX-License-Identifier: Apache-2.0 */
/* chat.h - how turns are written: dromedary, chatml, llama2, llama3, mistral, zephyr, or none; a model's own template is recognised. */
#ifndef SAL_CHAT_H
#define SAL_CHAT_H
#include "lib/tokenizer.h"

struct sal_chat; /* a format */
/*
 * The format of that name; NULL name: the model's own, by its chat template (a model without one: "none").
 * The default system turn that a template adds by itself is taken from the template's text.
 * inference: text of prompts/inference.txt, used by dromedary only (may be NULL: a plain header).
 * NULL on error (an unknown template is an error that names --format).
 */
struct sal_chat *sal_chat_open(const char *name, const struct sal_tokenizer *tk, const char *inference);
void sal_chat_close(struct sal_chat *c);
const char *sal_chat_name(const struct sal_chat *c);
const char *sal_chat_stop(const struct sal_chat *c); /* stop text of the format ("\n\n### User" for dromedary), NULL: EOS alone */

/*
 * Where an answer in dromedary's format ends: at the first of <s>, </s>, \nUpdate, \nNote, \nComment and the stop text, or at a heading (###),
 * whose first word stays.  It is finished if the stop text ended it, and something stood before.
 */
struct sal_ending {
	bool ended, stop; /* there is an end; it is the stop text */
	size_t keep;      /* bytes of text up to and with its end */
	size_t at, n;     /* the answer itself: bytes at .. at + n - 1 */
};
struct sal_ending sal_chat_ending(const char *text);

struct sal_turn { const char *role, *content; }; /* role: system, user, assistant */
/*
 * Append the ids of the conversation to out, with BOS where the format or model has it.  generate: end with the opening of an
 * assistant turn.  With format "none" there must be one user turn: its raw text after BOS where the model adds BOS.
 * Contents never yield control tokens.
 */
int sal_chat_encode(const struct sal_chat *c, const struct sal_tokenizer *tk, const struct sal_turn *turn, int n, bool generate,
    struct sal_ids *out) SAL_USE_RESULT;
/*
 * The ids of a record's prompt: "prompt_tokens", "messages", "prompt" or "instruction"(+"\n\n"+"input"); system overrides or adds
 * the system turn (NULL: the format's own).  Tokens take no system turn: with one the text is read, and a record without text is refused.
 * An array under "prompt" is TRL's conversational form.
 */
int sal_chat_encode_record(const struct sal_chat *c, const struct sal_tokenizer *tk, const cJSON *rec, const char *system, struct sal_ids *out) SAL_USE_RESULT;
/* The text that the user asked, for reward and judge prompts: prompt, instruction(+input), or the last user message. malloc'd; NULL: error. */
char *sal_chat_instruction(const cJSON *rec);
#endif
