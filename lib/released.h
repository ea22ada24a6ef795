/* SPDX-License-Identifier: Apache-2.0 */
/*
 * released.h - SALMON's own files of step 1, joined: the answers of two runs and the judge's lines become judged pairs.
 *
 * The release pairs answers by sorting both files by instruction, leaves out those with a very short answer, shuffles the pairs with Python's
 * generator, and lets the judge name a pair by its place (example_idx); so does this.
 */
#ifndef SAL_RELEASED_H
#define SAL_RELEASED_H
#include "lib/jsonl.h"

/* What Python's random.Random(seed).shuffle makes of 0 .. n-1. */
void sal_python_shuffle(uint32_t seed, int *p, int n);
/* One record of either kind: {"instruction", "input"?, "output": {"generation"} or text} or {"example_idx", "dimension", "relative_score"}. */
int sal_released_check(const struct sal_record *r) SAL_USE_RESULT;
/*
 * r: the answers of the first run, then those of the second, as many, and the judge's lines anywhere.  *pair: judged pairs, the caller's,
 * each freed by sal_record_free and *pair by free; of a principle judged twice the last line counts, and pairs without any are left out.
 */
int sal_released_join(struct sal_record **r, int n, struct sal_record ***pair, int *n_pairs) SAL_USE_RESULT;
#endif
