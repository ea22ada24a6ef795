/* SPDX-License-Identifier: Apache-2.0 */
/* page.h - one HTML file with everything in it: text escaped, figures in place, light and dark, for a phone and a desk. */
#ifndef SAL_PAGE_H
#define SAL_PAGE_H
#include "lib/figure.h"

struct sal_page {
	struct sal_buf facts, body; /* rows of the table at the top; sections */
	struct sal_buf links;       /* to the sections */
	struct sal_figures *figures;
	bool open; /* a section */
};
int sal_page_open(struct sal_page *p); /* p is the caller's; -1: errmsg */
void sal_page_close(struct sal_page *p);

void sal_page_text(struct sal_buf *b, const char *s); /* escaped; control characters but line breaks and tabs become U+FFFD */
void sal_page_section(struct sal_page *p, const char *id, const char *title);
void sal_page_fact(struct sal_page *p, const char *what, const char *fmt, ...) SAL_PRINTF(3, 4);
/* A figure in the section at hand; figures that follow each other stand side by side where there is room. */
void sal_page_figure(struct sal_page *p, const char *title, const struct sal_axes *a, const struct sal_series *s, int n);
/* Files of the folder, named "run" or "base": size, XXH3-64, the last line of its log; then the commands that its logs hold. */
int sal_page_provenance(struct sal_page *p, const char *dir, const char *what) SAL_USE_RESULT;
int sal_page_write(struct sal_page *p, const char *title, struct sal_buf *html) SAL_USE_RESULT; /* draws the figures */
#endif
