/* SPDX-License-Identifier: Apache-2.0 */
/*
 * prompts.h - from the records of public data sets to prompts: what sal-prompts does.
 *
 * A record goes through, in this order: the rules of its source, the cleaning rules, "empty", the token limits, the exact and
 * the near duplicates, and the cap of its source.  Without caps a prompt is written as soon as it is kept; with them the prompts kept wait
 * in a temporary file, and those whose draws (seed, "subset", id) are the smallest of their source are written at the end.
 * In memory stay 64 bits for each prompt kept, the signatures of --near, 16 bytes for each place of a cap, and of OASST1 the roots
 * that no reply has followed yet and 64 bits for each other message that has a reply.
 */
#ifndef SAL_PROMPTS_H
#define SAL_PROMPTS_H
#include "lib/filter.h"

struct sal_prompts_config {
	struct sal_common c;
	int from;          /* 0: by the fields of each record; else as in the table of prompts.c */
	int compat;        /* 1: the release's fraction rule */
	int question_type; /* 0: by source; else its number and 1 */
	int min_tokens, max_tokens; /* -1: not given */
	double near;       /* similarity at which a prompt is a near duplicate; 0: off */
	const char *length_bonus; /* three numbers: general, reasoning, red-team */
	struct sal_strs cap;      /* N or SOURCE=N */
};
#define SAL_PROMPTS_FROM "auto|oasst1|dolly|sharegpt|openorca|math|alpaca|messages|prompt"

struct sal_prompts;
/* An error if cap or length_bonus cannot be read. */
int sal_prompts_check(const struct sal_prompts_config *cfg) SAL_USE_RESULT;
/* n: where tokens are counted. */
struct sal_prompts *sal_prompts_open(const struct sal_prompts_config *cfg, struct sal_counts *n);
void sal_prompts_close(struct sal_prompts *p);
struct sal_filter sal_prompts_filter(struct sal_prompts *p);
/* After the input: write what the caps leave. */
int sal_prompts_end(struct sal_prompts *p, FILE *out) SAL_USE_RESULT;
/* Sources with their records, and every rule with its count; lines are appended to out. */
void sal_prompts_report(const struct sal_prompts *p, struct sal_buf *out);
#endif
