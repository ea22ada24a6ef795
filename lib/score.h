/* SPDX-License-Identifier: Apache-2.0 */
/* score.h - rewards under principles, and log-probabilities, of records: what sal-score does. */
#ifndef SAL_SCORE_H
#define SAL_SCORE_H
#include "lib/filter.h"
#include "lib/prompt.h"

struct sal_score_config {
	struct sal_common c;
	bool logprobs, entropy, negate;
	double temperature; /* of log-probabilities */
	const char *principles, *template, *under, *format, *system;
	int draw;           /* principles drawn for a record that brings none */
	struct sal_reward_limits limits;
};
struct sal_score;
struct sal_score *sal_score_open(const struct sal_score_config *cfg);
void sal_score_close(struct sal_score *s);
const char *sal_score_isa(const struct sal_score *s);
struct sal_filter sal_score_filter(struct sal_score *s, struct sal_counts *n);
#endif
