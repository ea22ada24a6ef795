/* SPDX-License-Identifier: Apache-2.0 */
/* figure.c - a gnuplot script, its run, and the SVG made fit for a page. */
#include "lib/figure.h"
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#define ROW 26 /* bytes of a row's name that are shown */

extern char **environ;
const char *const sal_figure_color[SAL_FIGURE_COLORS] = { "#0072b2", "#d55e00", "#009e73" };
static const char grey[] = "#888888";

struct sal_figures {
	struct sal_buf script;
	char **svg;
	int n, drawn;
};

struct sal_figures *
sal_figures_new(void)
{
	struct sal_figures *f = calloc(1, sizeof *f);

	if (f == NULL)
		sal_err("out of memory");
	return f;
}

void
sal_figures_free(struct sal_figures *f)
{
	if (f == NULL)
		return;
	for (int i = 0; i < f->drawn; i++)
		free(f->svg[i]);
	free(f->svg);
	sal_buf_free(&f->script);
	free(f);
}

/* What gnuplot can draw: its axes end in errors near the largest doubles. */
static double
drawn(double x)
{
	return isnan(x) ? 0 : x > 1e30 ? 1e30 : x < -1e30 ? -1e30 : x;
}

/* ---- the script ---------------------------------------------------------------- */

/* A text in gnuplot's single quotes, in which the quote and what else is in `twice` is written twice; control characters become blanks. */
static void
quote(struct sal_buf *b, const char *s, size_t most, const char *twice)
{
	size_t n = strlen(s);

	if (n > most) {
		for (n = most; n > 0 && ((unsigned char)s[n] & 0xc0) == 0x80;)
			n--;
	}
	sal_buf_puts(b, "'");
	for (size_t i = 0; i < n; i++) {
		const char *c = (unsigned char)s[i] < 0x20 || s[i] == 0x7f ? " " : s + i;
		sal_buf_put(b, c, 1);
		if (strchr(twice, *c))
			sal_buf_put(b, c, 1);
	}
	sal_buf_puts(b, n < strlen(s) ? "…'" : "'");
}

static void
style(struct sal_buf *b, const struct sal_series *s)
{
	const char *c = s->color < 0 ? grey : sal_figure_color[s->color];

	switch (s->mark) {
	case SAL_LINE:
		sal_buf_printf(b, "with lines lw 2 lc rgb '%s'", c);
		break;
	case SAL_DASHED:
		sal_buf_printf(b, "with lines lw 1.5 dt 2 lc rgb '%s'", c);
		break;
	case SAL_DOTS:
		sal_buf_printf(b, "with points pt 7 ps 0.25 lc rgb '%s'", c);
		break;
	case SAL_ERRORS:
		sal_buf_printf(b, "with yerrorlines lw 2 pt 7 ps 0.5 lc rgb '%s'", c);
		break;
	case SAL_BARS:
		sal_buf_printf(b, "with boxes fs solid 0.35 lw 1 lc rgb '%s'", c);
		break;
	case SAL_ROWS:
		sal_buf_printf(b, "with xerrorbars lw 2 pt 7 ps 0.5 lc rgb '%s'", c);
		break;
	}
}

int
sal_figure_add(struct sal_figures *f, const struct sal_axes *a, const struct sal_series *s, int n)
{
	struct sal_buf *b = &f->script;
	double low = INFINITY, high = -INFINITY;
	int keys = 0;

	for (int i = 0; i < n; i++) {
		sal_buf_printf(b, "$s%d << EOD\n", i);
		for (int k = 0; k < s[i].n; k++) {
			sal_buf_printf(b, "%.9g %.9g %.9g\n", drawn(s[i].x[k]), drawn(s[i].y[k]), s[i].e ? drawn(s[i].e[k]) : 0.0);
			low = s[i].x[k] < low ? s[i].x[k] : low;
			high = s[i].x[k] > high ? s[i].x[k] : high;
		}
		sal_buf_puts(b, "EOD\n");
		keys += s[i].title != NULL;
	}
	sal_buf_printf(b, "reset\nset terminal svg size 400,%d dynamic noenhanced font 'sans-serif,13' linewidth 1\n",
	    (a->rows ? 84 + (n > 2 ? 40 : 30) * a->n_rows : 252) + 18 * (keys > 1 ? keys : 1));
	sal_buf_printf(b, "set border 3\nset tics nomirror scale 0.5\nset grid lw 0.5 lc rgb '%s'\nset bars small\n", grey);
	if (keys > 1) /* beside long names little is left of the plot: the key ends where it does */
		sal_buf_printf(b, "set key above %s vertical maxrows 3 Left reverse samplen 2\n", a->rows ? "right" : "left");
	else
		sal_buf_puts(b, "unset key\n");
	if (a->x) {
		sal_buf_puts(b, "set xlabel ");
		quote(b, a->x, 100, "'");
		sal_buf_puts(b, "\n");
	}
	if (a->y) {
		sal_buf_puts(b, "set ylabel ");
		quote(b, a->y, 100, "'");
		sal_buf_puts(b, "\n");
	}
	if (a->rows) {
		sal_buf_printf(b, "unset ylabel\nset yrange [%g:-0.6]\nset ytics (", a->n_rows - 0.4);
		int longest = 0;
		for (int i = 0; i < a->n_rows; i++) {
			int k = (int)strlen(a->rows[i]);
			longest = k > longest ? k : longest;
			sal_buf_puts(b, i ? ", " : "");
			quote(b, a->rows[i], ROW, "'%"); /* the label of a tic is a format */
			sal_buf_printf(b, " %d", i);
		}
		sal_buf_printf(b, ")\nset lmargin at screen %.3f\n", (14 + 8 * (longest < ROW + 1 ? longest : ROW + 1)) / 400.0); /* gnuplot leaves more */
	} else {
		sal_buf_puts(b, "set autoscale xfix\nset offsets graph 0.03, graph 0.03, graph 0.05, graph 0.05\n");
	}
	if (a->whole && high - low <= 12)
		sal_buf_puts(b, "set xtics 1\n");
	if (a->range)
		sal_buf_puts(b, a->range);
	sal_buf_puts(b, "\nplot ");
	for (int i = 0; i < n; i++) {
		sal_buf_printf(b, "%s$s%d using %s ", i ? ", " : "", i, s[i].mark == SAL_ROWS || s[i].mark == SAL_ERRORS ? "1:2:3" : "1:2");
		style(b, &s[i]);
		if (s[i].title) {
			sal_buf_puts(b, " title ");
			quote(b, s[i].title, 40, "'");
		} else {
			sal_buf_puts(b, " notitle");
		}
	}
	sal_buf_puts(b, "\nunset output\n");
	return f->n++;
}

/* ---- the run ------------------------------------------------------------------- */

static int
whole_file(FILE *f, struct sal_buf *out)
{
	char part[65536];
	size_t n;

	rewind(f);
	while ((n = fread(part, 1, sizeof part, f)) > 0)
		sal_buf_put(out, part, n);
	sal_buf_put(out, "", 0);
	return ferror(f) || out->failed ? sal_err("gnuplot: its output cannot be read") : 0;
}

static int
run(const struct sal_buf *script, struct sal_buf *out)
{
	char *argv[] = { "gnuplot", "-d", NULL };
	FILE *f[3] = { tmpfile(), tmpfile(), tmpfile() }; /* stdin, stdout, stderr */
	posix_spawn_file_actions_t act;
	posix_spawnattr_t attr;
	sigset_t usual;
	struct sal_buf said = { 0 };
	pid_t pid;
	int rc = -1, status = 0, e;

	if (!f[0] || !f[1] || !f[2] || fwrite(script->data, 1, script->len, f[0]) != script->len || fflush(f[0]) != 0) {
		sal_err("a file for gnuplot: %s", strerror(errno));
		goto out;
	}
	rewind(f[0]);
	if (posix_spawn_file_actions_init(&act) != 0) {
		sal_err("out of memory");
		goto out;
	}
	if (posix_spawnattr_init(&attr) != 0) {
		posix_spawn_file_actions_destroy(&act);
		sal_err("out of memory");
		goto out;
	}
	sigemptyset(&usual); /* a signal that we ignore would be ignored there too */
	sigaddset(&usual, SIGXFSZ);
	posix_spawnattr_setsigdefault(&attr, &usual);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGDEF);
	for (int i = 0; i < 3; i++)
		posix_spawn_file_actions_adddup2(&act, fileno(f[i]), i);
	e = posix_spawnp(&pid, "gnuplot", &act, &attr, argv, environ);
	posix_spawn_file_actions_destroy(&act);
	posix_spawnattr_destroy(&attr);
	if (e == ENOENT) {
		sal_err("gnuplot: not found; it draws the plots (Debian: apt-get install gnuplot-nox)");
		goto out;
	}
	if (e != 0) {
		sal_err("gnuplot: %s", strerror(e));
		goto out;
	}
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (whole_file(f[1], out) != 0 || whole_file(f[2], &said) != 0)
		goto out;
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
		while (said.len > 0 && strchr(" \n", said.data[said.len - 1])) /* the reason is the last line */
			said.data[--said.len] = '\0';
		const char *why = strrchr(said.data, '\n');
		sal_err("gnuplot: failed: %s", why ? why + 1 : said.len ? said.data : "no reason given");
		goto out;
	}
	rc = 0;
out:
	for (int i = 0; i < 3; i++)
		if (f[i])
			fclose(f[i]);
	sal_buf_free(&said);
	return rc;
}

/* ---- the SVG --------------------------------------------------------------------- */

/* One document of gnuplot's, [p, end), line by line: without ids, names and definitions, groups that hold nothing, and colours as rgb(). */
static char *
fit(const char *p, const char *end)
{
	static const char empty[] = "\n</g>\n";
	struct sal_buf b = { 0 };
	bool defs = false;

	while (p < end) {
		const char *eol = memchr(p, '\n', (size_t)(end - p));
		size_t n = (size_t)((eol ? eol + 1 : end) - p);
		int skip = 0;
		if (strncmp(p, "<defs>", 6) == 0)
			defs = true;
		if (defs || strncmp(p, "<?xml", 5) == 0 || strncmp(p, "<title>", 7) == 0 || strncmp(p, "<desc>", 6) == 0) {
			defs = defs && strncmp(p, "</defs>", 7) != 0;
			p += n;
			continue;
		}
		if (strncmp(p, "<g fill=", 8) == 0 && strncmp(p + n - 1, empty, sizeof empty - 1) == 0) {
			p += n + sizeof empty - 2;
			continue;
		}
		for (size_t i = 0; i < n;) {
			int c[3];
			const char *close = strncmp(p + i, "<title>", 7) == 0 ? strstr(p + i, "</title>") : NULL; /* a name that pops up */
			if (close && close < p + n) {
				i = (size_t)(close - p) + 8;
			} else if (strncmp(p + i, " id=\"", 5) == 0) {
				i += 5 + strcspn(p + i + 5, "\"") + 1;
			} else if (strncmp(p + i, "rgb(", 4) == 0 && sscanf(p + i, "rgb(%3d,%3d,%3d)%n", &c[0], &c[1], &c[2], &skip) == 3 && skip > 0) {
				sal_buf_printf(&b, "#%02x%02x%02x", c[0], c[1], c[2]);
				i += (size_t)skip;
			} else {
				sal_buf_put(&b, p + i++, 1);
			}
		}
		p += n;
	}
	if (b.failed) {
		sal_buf_free(&b);
		sal_err("out of memory");
	}
	return b.data;
}

int
sal_figures_draw(struct sal_figures *f)
{
	struct sal_buf out = { 0 };
	int rc = -1;

	if (f->script.failed || (f->svg = calloc((size_t)f->n + 1, sizeof *f->svg)) == NULL)
		return sal_err("out of memory");
	if (f->n == 0)
		return 0;
	if (run(&f->script, &out) != 0)
		goto out;
	for (const char *p = out.data, *end; f->drawn < f->n; p = end) {
		if ((p = strstr(p, "<svg")) == NULL || (end = strstr(p, "</svg>")) == NULL) {
			sal_err("gnuplot: %d of %d figures drawn", f->drawn, f->n);
			goto out;
		}
		end += strlen("</svg>");
		if ((f->svg[f->drawn] = fit(p, end)) == NULL)
			goto out;
		f->drawn++;
	}
	rc = 0;
out:
	sal_buf_free(&out);
	return rc;
}

const char *
sal_figure_svg(const struct sal_figures *f, int i)
{
	return f->svg[i];
}
