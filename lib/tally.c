/* SPDX-License-Identifier: Apache-2.0 */
/* tally.c - files of records, means, errors. */
#include "lib/tally.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- tables ------------------------------------------------------------------- */

static int
push(struct sal_table *t, struct sal_record *r, const char *path)
{
	if ((t->n & (t->n - 1)) == 0) { /* full at powers of two */
		size_t cap = t->n ? 2 * (size_t)t->n : 1;
		struct sal_record **p = realloc(t->r, cap * sizeof *p);
		if (p == NULL)
			return sal_err("out of memory");
		t->r = p;
		const char **q = realloc(t->path, cap * sizeof *q);
		if (q == NULL)
			return sal_err("out of memory");
		t->path = q;
	}
	t->path[t->n] = path;
	t->r[t->n++] = r;
	return 0;
}

static int
read_all(struct sal_table *t, FILE *f, const char *path)
{
	struct sal_jsonl *in = sal_jsonl_open(f, path);
	struct sal_record *r;
	char why[1100];
	int rc = -1;

	while (in && (rc = sal_jsonl_next(in, &r)) == 1)
		if (push(t, r, path) != 0) {
			sal_record_free(r);
			rc = -2;
			break;
		}
	if (rc == -1 && in) {
		snprintf(why, sizeof why, "%s", sal_errmsg());
		sal_err("%s:%ld: %s", path, sal_jsonl_line(in), why);
	}
	sal_jsonl_close(in);
	return rc == 0 ? 1 : -1;
}

int
sal_table_read(struct sal_table *t, const char *dir, const char *name)
{
	char *path = sal_path_join(dir, name);
	char **files = path ? realloc(t->file, (size_t)(t->n_files + 1) * sizeof *files) : NULL;
	FILE *f;
	int rc;

	if (files == NULL) {
		free(path);
		return sal_err("out of memory");
	}
	t->file = files;
	if ((f = fopen(path, "re")) == NULL) {
		rc = errno == ENOENT ? 0 : sal_err("%s: %s", path, strerror(errno));
		free(path);
		return rc;
	}
	t->file[t->n_files++] = path;
	rc = read_all(t, f, path);
	fclose(f);
	return rc;
}

void
sal_table_free(struct sal_table *t)
{
	for (int i = 0; i < t->n; i++)
		sal_record_free(t->r[i]);
	for (int i = 0; i < t->n_files; i++)
		free(t->file[i]);
	free(t->r);
	free(t->path);
	free(t->file);
	*t = (struct sal_table){ 0 };
}

int
sal_table_err(const struct sal_table *t, int i)
{
	char why[1100];

	snprintf(why, sizeof why, "%s", sal_errmsg());
	return sal_err("%s:%ld: %s", t->path[i], t->r[i]->line, why);
}

int
sal_table_num(const struct sal_table *t, int i, const char *field, double *out)
{
	return sal_json_num(t->r[i]->json, field, out) == 0 ? 0 : sal_table_err(t, i);
}

const char *
sal_table_str(const struct sal_table *t, int i, const char *field)
{
	const char *s = sal_json_str(t->r[i]->json, field);

	if (s == NULL)
		sal_table_err(t, i);
	return s;
}

/* ---- tallies ------------------------------------------------------------------ */

void
sal_tally_add(struct sal_tally *t, const char *id, double x)
{
	if (t->n == t->cap && !t->failed) {
		int cap = t->cap ? 2 * t->cap : 64;
		double *px = realloc(t->x, (size_t)cap * sizeof *px);
		char **pid;
		t->x = px ? px : t->x;
		pid = px ? realloc(t->id, (size_t)cap * sizeof *pid) : NULL;
		t->id = pid ? pid : t->id;
		t->failed = pid == NULL;
		t->cap = t->failed ? t->cap : cap;
	}
	if (t->failed || (t->id[t->n] = strdup(id)) == NULL) {
		t->failed = true;
		return;
	}
	t->x[t->n++] = x;
}

void
sal_tally_free(struct sal_tally *t)
{
	for (int i = 0; i < t->n; i++)
		free(t->id[i]);
	free(t->id);
	free(t->x);
	*t = (struct sal_tally){ 0 };
}

struct of_id {
	const char *id;
	double x;
	int place;
};

static int
by_id(const void *a, const void *b)
{
	const struct of_id *x = a, *y = b;
	int c = strcmp(x->id, y->id);

	return c ? c : x->place - y->place; /* one order of the sums */
}

struct sal_mean
sal_tally_mean(const struct sal_tally *t)
{
	struct sal_mean m = { NAN, NAN, t->n, 0 };
	struct of_id *o = t->n > 0 && !t->failed ? malloc((size_t)t->n * sizeof *o) : NULL;
	double sum = 0, squares = 0;

	if (o == NULL)
		return m;
	for (int i = 0; i < t->n; i++) {
		sum += t->x[i];
		o[i] = (struct of_id){ t->id[i], t->x[i], i };
	}
	m.mean = sum / t->n;
	qsort(o, (size_t)t->n, sizeof *o, by_id);
	for (int i = 0, k; i < t->n; i = k) {
		double d = 0;
		for (k = i; k < t->n && strcmp(o[k].id, o[i].id) == 0; k++)
			d += o[k].x - m.mean;
		squares += d * d;
		m.ids++;
	}
	m.error = m.ids > 1 ? sqrt(squares) / t->n : NAN;
	free(o);
	return m;
}

double
sal_correlation(const double *x, const double *y, int n)
{
	double a = 0, b = 0, xy = 0, xx = 0, yy = 0;

	for (int i = 0; i < n; i++) {
		a += x[i] / n;
		b += y[i] / n;
	}
	const double flat_x = 1e-24 * n * a * a, flat_y = 1e-24 * n * b * b; /* what rounding makes of numbers that are all the same */
	for (int i = 0; i < n; i++) {
		xy += (x[i] - a) * (y[i] - b);
		xx += (x[i] - a) * (x[i] - a);
		yy += (y[i] - b) * (y[i] - b);
	}
	return xx > flat_x && yy > flat_y ? xy / sqrt(xx * yy) : NAN;
}

int
sal_characters(const char *s)
{
	int n = 0;

	for (; *s; s++)
		n += ((unsigned char)*s & 0xc0) != 0x80;
	return n;
}
