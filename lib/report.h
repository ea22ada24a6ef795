/* SPDX-License-Identifier: Apache-2.0 */
/*
 * report.h - a run folder as one page: curves, shares with their errors, samples before and after, provenance.
 *
 * Reads what pipelines/salmon.mk leaves in its WORK; what is not there is left out.  The same folder gives the same bytes.
 */
#ifndef SAL_REPORT_H
#define SAL_REPORT_H
#include "lib/filter.h"

struct sal_report_config {
	struct sal_common c;
	const char *work;  /* the folder */
	const char *base;  /* NULL, or another one, for what the first lacks: stages that runs share */
	const char *title; /* NULL: made of the folder's name */
	int samples;       /* prompts whose answers are shown */
};
int sal_report_plan(void *cfg, struct sal_buf *out); /* as sal_dry_run wants it */
/* The whole page, appended to html.  -1: errmsg. n->records: those read. */
int sal_report_page(const struct sal_report_config *cfg, struct sal_buf *html, struct sal_counts *n) SAL_USE_RESULT;
#endif
