/* SPDX-License-Identifier: Apache-2.0 */
/*
 * judge.h - which of two answers follows a principle better: what sal-synthpref does.
 *
 * compare   both answers are shown, in both orders; s12, s21 are gaps of the logits of "a" and "b" in favour of output_1
 * contrast  s = [log P(y1 | principle) - log P(y1 | negation)] - [the same of y2], the principle in the system turn; s12 = s21 = s
 */
#ifndef SAL_JUDGE_H
#define SAL_JUDGE_H
#include "lib/filter.h"

struct sal_judge_config {
	struct sal_common c;
	int judge;     /* 0 compare, 1 contrast */
	int min_chars; /* samples with a shorter answer make no pair */
	const char *principles, *template, *format;
};
struct sal_judge;
struct sal_judge *sal_judge_open(const struct sal_judge_config *cfg);
void sal_judge_close(struct sal_judge *j);
const char *sal_judge_isa(const struct sal_judge *j);
struct sal_filter sal_judge_filter(struct sal_judge *j, struct sal_counts *n);
#endif
