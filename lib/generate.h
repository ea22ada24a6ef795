/* SPDX-License-Identifier: Apache-2.0 */
/* generate.h - prompts in, samples out: what sal-generate does between its options and its records. */
#ifndef SAL_GENERATE_H
#define SAL_GENERATE_H
#include "lib/filter.h"

struct sal_generate_config {
	struct sal_common c;
	int n, max_tokens, top_k, sign; /* sign: 0 +, 1 - */
	double temperature, top_p, min_p;
	struct sal_strs stop;
	const char *format, *system, *principles;
	bool tokens;
};
struct sal_generate; /* an opened model with all that it needs */
struct sal_generate *sal_generate_open(const struct sal_generate_config *cfg);
void sal_generate_close(struct sal_generate *g);
const char *sal_generate_isa(const struct sal_generate *g);
/* The filter over g; valid as long as g. */
struct sal_filter sal_generate_filter(struct sal_generate *g, struct sal_counts *n);
#endif
