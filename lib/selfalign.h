/* SPDX-License-Identifier: Apache-2.0 */
/*
 * selfalign.h - from what a base model wrote under the Self-Align prompt to training data: what sal-filter does.
 *
 * The text of a sample is private thoughts, then an answer, then perhaps the next turn of the user.  Ten rules, in this order:
 * 1 it begins as every thought does; 2 it has an answer, and that is what counts; 3 a loop at its end is cut; 4 what follows
 * the answer is cut, a complete answer must be long enough, one that was cut off ends at its last space; 5 it does not quote the
 * instruction; 6 a long input is the instruction; 7 it has nothing of the prompt's examples; 8 it is not empty; 9 the name is
 * changed; 10 numbers.  What the texts are is read from a file: see prompts/selfalign.json.
 */
#ifndef SAL_SELFALIGN_H
#define SAL_SELFALIGN_H
#include "lib/filter.h"

enum { SAL_SELFALIGN_RULES = 10 };
struct sal_selfalign_config {
	struct sal_common c;
	const char *rules;  /* name of the file of texts */
	int min_chars, compat;
	bool number;
};
struct sal_selfalign;
struct sal_selfalign *sal_selfalign_open(const struct sal_selfalign_config *cfg);
void sal_selfalign_close(struct sal_selfalign *s);
struct sal_filter sal_selfalign_filter(struct sal_selfalign *s);
/* Every rule with its counts; lines are appended to out. */
void sal_selfalign_report(const struct sal_selfalign *s, struct sal_buf *out);

/*
 * Rule 3: the bytes of text that stay.  Pieces end after one of delimiters; a piece is repeated if it stood before, unless it is a
 * delimiter alone.  first (as the release does): cut at the first repeated piece.  Otherwise at the first from which on
 * every piece is repeated, if there are three of them at least: a list whose lines end alike is left alone.
 */
size_t sal_selfalign_loop(const char *text, size_t len, const char *delimiters, bool first);
#endif
