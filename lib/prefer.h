/* SPDX-License-Identifier: Apache-2.0 */
/*
 * prefer.h - from judgements, samples or public data sets to preferences: what sal-rmdata does, and its arithmetic.
 *
 * judged            per (id, pass): a permutation of the dimensions, its first k (k geometric), each negated by chance; the
 *                   principle with the largest |score| decides; then the rules on boilerplate and languages, then noise
 * released          the release's files, joined into judged pairs (released.h), then the same
 * contrast-samples  answers under a principle against answers under its negation, of one id: the label is known
 * hh, shp           public comparisons, without principles
 * Draws are named (seed, stage, id, pass): stages subset, negate, boilerplate, language, noise.  The n-th further record of an id adds n * 2^32.
 */
#ifndef SAL_PREFER_H
#define SAL_PREFER_H
#include "lib/filter.h"
#include "lib/prompt.h"

enum sal_prefer_from { SAL_FROM_JUDGED, SAL_FROM_CONTRAST, SAL_FROM_HH, SAL_FROM_SHP, SAL_FROM_RELEASED };
enum sal_prefer_agree { SAL_AGREE_BOTH, SAL_AGREE_MEAN };
struct sal_prefer_config {
	struct sal_common c;
	int from, agree, passes, max_principles;
	double geometric, negate, noise, rule_noise, boilerplate, language; /* noise < 0: 0.1 for judged pairs, else 0 */
	const char *dimensions, *principles;                      /* may be NULL */
};
struct sal_prefer;
struct sal_prefer *sal_prefer_open(const struct sal_prefer_config *cfg);
void sal_prefer_close(struct sal_prefer *p);
/* Lines of a dry run's plan; ctx is the struct sal_prefer. */
int sal_prefer_plan(void *ctx, struct sal_buf *out);
/* Refuse a record without a needed field: for sal_read_checked, ctx is the struct sal_prefer. */
int sal_prefer_check(void *ctx, const struct sal_record *r);
/* Write the preferences of all records to out. */
int sal_prefer_run(struct sal_prefer *p, struct sal_record **r, int n, FILE *out, struct sal_counts *count) SAL_USE_RESULT;
/* What a person should see of the run: agreement, bias, correlations, counts.  Lines are appended to out. */
void sal_prefer_report(const struct sal_prefer *p, struct sal_buf *out);

/* A preference about to be written: {"id" where r has none, "chosen", "rejected"}; the caller adds the rest.  NULL: error. */
cJSON *sal_prefer_new(const struct sal_record *r, const char *id, const char *chosen, const char *rejected);
/* Append it to r->out with the fields of r that describe the prompt, not one sample; pair is freed. */
int sal_prefer_emit_sample(struct sal_record *r, cJSON *pair) SAL_USE_RESULT;
/* An error unless j has one of prompt, messages, instruction, prompt_tokens. */
int sal_prefer_has_prompt(const cJSON *j) SAL_USE_RESULT;

/* The arithmetic. */
double sal_prefer_variance(const double *x, int n);                     /* of the population */
double sal_prefer_correlation(const double *x, const double *y, int n, size_t stride); /* Pearson; NAN where one is constant */
double sal_prefer_score(double s12, double s21, double variance, int agree); /* variance 0: 0 */
int sal_prefer_size(double p, int max, float u);                        /* geometric on 1..max, redrawn until <= max: u in [0, 1) */
/* Bytes of a and b up to the end of the last "Assistant:" that both have in common from the start; -1: none. */
int sal_prefer_split(const char *a, const char *b, size_t *at) SAL_USE_RESULT;
#endif
