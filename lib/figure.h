/* SPDX-License-Identifier: Apache-2.0 */
/*
 * figure.h - figures as SVG, drawn by gnuplot: described first, then drawn by one run of it.
 *
 * The SVG is for a page of ours: without XML header, ids and <defs>, its colours are those of sal_figure_color, in lower-case hex, and
 * "black" for what is text; points are <use xlink:href='#gpPt6'>, which the page defines once (SAL_FIGURE_DEFS).
 */
#ifndef SAL_FIGURE_H
#define SAL_FIGURE_H
#include "lib/util.h"

enum sal_mark {
	SAL_LINE,
	SAL_DASHED,
	SAL_DOTS,   /* small points */
	SAL_ERRORS, /* a line through points with bars of +-e */
	SAL_BARS,   /* boxes on the x axis */
	SAL_ROWS    /* points with bars of +-e in x; y is the row, from 0 at the top */
};
#define SAL_FIGURE_COLORS 3
extern const char *const sal_figure_color[SAL_FIGURE_COLORS]; /* "#0072b2" ... */
#define SAL_FIGURE_DEFS "<circle id=\"gpPt6\" r=\"1\" fill=\"currentColor\"/>"

struct sal_series {
	const char *title; /* NULL: none in the key */
	enum sal_mark mark;
	int color; /* index of sal_figure_color; -1: grey */
	int n;
	const double *x, *y, *e; /* [n]; e only where the mark has bars; not kept */
};
struct sal_axes {
	const char *x, *y;       /* labels; NULL: none */
	const char *const *rows; /* SAL_ROWS: names of the rows */
	int n_rows;
	bool whole;              /* x counts something: no ticks between whole numbers */
	const char *range;       /* gnuplot commands for ranges and the like; NULL: as the data */
};
struct sal_figures;
struct sal_figures *sal_figures_new(void);
void sal_figures_free(struct sal_figures *f);
int sal_figure_add(struct sal_figures *f, const struct sal_axes *a, const struct sal_series *s, int n); /* its number, from 0 */
int sal_figures_draw(struct sal_figures *f) SAL_USE_RESULT;       /* all of them; -1: no gnuplot, or it failed */
const char *sal_figure_svg(const struct sal_figures *f, int i); /* after sal_figures_draw */
#endif
