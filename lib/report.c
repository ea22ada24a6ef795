/* SPDX-License-Identifier: Apache-2.0 */
/* report.c - the sections of a report, each from the files that it is about. */
#include "lib/report.h"
#include "lib/page.h"
#include "lib/tally.h"
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_ROWS 64   /* principles in a figure */
#define BINS 24       /* of a histogram */
#define CALIBRATION 8 /* bins of as many pairs each */

struct report {
	const struct sal_report_config *cfg;
	struct sal_page page;
	struct sal_counts *count;
};

/* ---- small things ----------------------------------------------------------------- */

/* A file of the run, or else of what it is based on. */
static int
load(struct report *r, struct sal_table *t, const char *name)
{
	int n = t->n, rc = sal_table_read(t, r->cfg->work, name);

	if (rc == 0 && r->cfg->base)
		rc = sal_table_read(t, r->cfg->base, name);
	r->count->records += t->n - n;
	return rc;
}

static double *
numbers(int n)
{
	double *x = calloc((size_t)n + 1, sizeof *x);

	if (x == NULL)
		sal_err("out of memory");
	return x;
}

/* A field of every record; NULL: errmsg. */
static double *
column(const struct sal_table *t, const char *field)
{
	double *x = numbers(t->n);

	for (int i = 0; x && i < t->n; i++)
		if (sal_table_num(t, i, field, &x[i]) != 0) {
			free(x);
			return NULL;
		}
	return x;
}

static bool
all_have(const struct sal_table *t, const char *field)
{
	for (int i = 0; i < t->n; i++)
		if (!sal_json_has(t->r[i]->json, field))
			return false;
	return t->n > 0;
}

static void
note(struct report *r, const char *text)
{
	sal_buf_puts(&r->page.body, "<p>");
	sal_page_text(&r->page.body, text);
	sal_buf_puts(&r->page.body, "</p>\n");
}

/* "0.758 +- 0.024", the sign as it is printed. */
static const char *
spell(char out[64], struct sal_mean m)
{
	if (isnan(m.mean))
		snprintf(out, 64, "none");
	else if (isnan(m.error))
		snprintf(out, 64, "%.3f", m.mean);
	else
		snprintf(out, 64, "%.3f ± %.3f", m.mean, m.error);
	return out;
}

static void
fact_mean(struct report *r, const char *what, struct sal_mean m, const char *of)
{
	char text[64];

	sal_page_fact(&r->page, what, "%s (%d %s of %d prompts)", spell(text, m), m.n, of, m.ids);
}

/* Names that occur, each once, sorted. */
struct names {
	const char *s[MAX_ROWS];
	int n;
};

static int
by_text(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void
add_name(struct names *l, const char *s)
{
	if (s == NULL) /* of an array where an object should be */
		return;
	for (int i = 0; i < l->n; i++)
		if (strcmp(l->s[i], s) == 0)
			return;
	if (l->n < MAX_ROWS - 1) /* one is left for all together */
		l->s[l->n++] = s;
	qsort(l->s, (size_t)l->n, sizeof *l->s, by_text);
}

static int
find_name(const struct names *l, const char *s)
{
	for (int i = 0; s && i < l->n; i++)
		if (strcmp(l->s[i], s) == 0)
			return i;
	return -1;
}

/* Points of a figure of rows: a mean for each. */
struct rows {
	double x[MAX_ROWS], y[MAX_ROWS], e[MAX_ROWS];
	int n;
};

static void
add_row(struct rows *p, double y, struct sal_mean m)
{
	if (p->n == MAX_ROWS || isnan(m.mean))
		return;
	p->x[p->n] = m.mean;
	p->y[p->n] = y;
	p->e[p->n++] = isnan(m.error) ? 0 : m.error;
}

static struct sal_series
row_series(const char *title, int color, const struct rows *p)
{
	return (struct sal_series){ .title = title, .mark = SAL_ROWS, .color = color, .n = p->n, .x = p->x, .y = p->y, .e = p->e };
}

static const char half[] = "set xrange [0:1]\nset arrow from 0.5, graph 0 to 0.5, graph 1 nohead dt 2 lc rgb '#888888'\n";

/* Centred means over 2k+1 neighbours. */
static void
smooth(const double *x, int n, int k, double *out)
{
	for (int i = 0; i < n; i++) {
		int from = i - k > 0 ? i - k : 0, to = i + k < n - 1 ? i + k : n - 1;
		double s = 0;
		for (int j = from; j <= to; j++)
			s += x[j];
		out[i] = s / (to - from + 1);
	}
}

/* Shares of numbers in BINS bins from low to high, as bars. */
static void
histogram(const double *x, int n, double low, double high, double at[BINS], double part[BINS])
{
	double w = (high - low) / BINS;

	for (int b = 0; b < BINS; b++) {
		at[b] = low + (b + 0.5) * w;
		part[b] = 0;
	}
	for (int i = 0; i < n; i++) {
		double b = (x[i] - low) / w;
		part[b >= BINS ? BINS - 1 : b >= 0 ? (int)b : 0] += 1.0 / n;
	}
}

static void
figure_histograms(struct report *r, const char *title, const char *label, const char *const name[2], double *const x[2], const int n[2])
{
	double low = INFINITY, high = -INFINITY, at[2][BINS], part[2][BINS];
	struct sal_series s[2];
	char range[64];
	int k = 0;

	for (int t = 0; t < 2; t++)
		for (int i = 0; i < n[t]; i++) {
			low = x[t][i] < low ? x[t][i] : low;
			high = x[t][i] > high ? x[t][i] : high;
		}
	if (!(low < high))
		return;
	for (int t = 0; t < 2; t++)
		if (n[t] > 0) {
			histogram(x[t], n[t], low, high, at[t], part[t]);
			s[k++] = (struct sal_series){ .title = name[t], .mark = SAL_BARS, .color = t, .n = BINS, .x = at[t], .y = part[t] };
		}
	snprintf(range, sizeof range, "set boxwidth %.9g\nset yrange [0:*]\n", fmin((high - low) / BINS, 1e30));
	sal_page_figure(&r->page, title, &(struct sal_axes){ .x = label, .y = "share", .range = range }, s, k);
}

/* ---- PPO ---------------------------------------------------------------------------- */

/* Names in the folder that are STEM, a number, TAIL: that many from 1 on; the largest such number. */
static int
largest(const char *dir, const char *stem, const char *tail)
{
	DIR *d = opendir(dir);
	struct dirent *e;
	long most = 0;

	if (d == NULL)
		return sal_err("%s: %s", dir, strerror(errno));
	while ((e = readdir(d)) != NULL) {
		char *end;
		if (strncmp(e->d_name, stem, strlen(stem)) != 0)
			continue;
		long k = strtol(e->d_name + strlen(stem), &end, 10);
		if (end > e->d_name + strlen(stem) && strcmp(end, tail) == 0 && k > most && k < 100000)
			most = k;
	}
	closedir(d);
	return (int)most;
}

static const char share[] = "set yrange [0:1]\n", from_0[] = "set yrange [*<0:*]\nset offsets graph 0.03, graph 0.03, graph 0.05, 0\n";

static void
curve(struct report *r, const char *title, const char *x_label, const char *y_label, const double *x, const double *y, const double *e, int n, int color,
    const char *range)
{
	struct sal_series s = { .mark = SAL_ERRORS, .color = color, .n = n, .x = x, .y = y, .e = e };

	if (n > 60)
		s.mark = SAL_LINE;
	sal_page_figure(&r->page, title, &(struct sal_axes){ .x = x_label, .y = y_label, .whole = true, .range = range }, &s, 1);
}

/* Fields of every update of every step. */
static int
updates(struct report *r, const struct sal_table *t)
{
	static const struct { const char *field, *title, *label, *range; } what[] = {
		{ "clip_fraction", "Clip fraction of each update", "share of tokens", from_0 },
		{ "entropy", "Entropy at each update", "nats a token", from_0 },
		{ "approx_kl", "Approximate KL of each update", "nats a token", from_0 },
		{ "value_loss", "Value error of each update", "root mean square, scaled", from_0 },
		{ "policy_loss", "Policy loss of each update", "loss", NULL },
		{ "grad_norm", "Norm of the gradient, before clipping", "norm", from_0 },
	};
	int n = 0, rc = -1;
	const cJSON *u;

	for (int i = 0; i < t->n; i++)
		n += cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(t->r[i]->json, "updates"));
	double *x = numbers(n), *y = numbers(n);
	if (x == NULL || y == NULL)
		goto out;
	for (size_t w = 0; n > 0 && w < sizeof what / sizeof *what; w++) {
		int k = 0;
		bool there = true;
		for (int i = 0; i < t->n && there; i++)
			cJSON_ArrayForEach(u, cJSON_GetObjectItemCaseSensitive(t->r[i]->json, "updates")) {
				if (k == n || !(there = cJSON_IsObject(u) && sal_json_has(u, what[w].field)))
					break;
				if (sal_json_num(u, what[w].field, &y[k]) != 0) {
					sal_table_err(t, i);
					goto out;
				}
				if (strcmp(what[w].field, "value_loss") == 0) /* half the mean square */
					y[k] = sqrt(2 * (y[k] > 0 ? y[k] : 0));
				x[k] = k + 1;
				k++;
			}
		if (there)
			curve(r, what[w].title, "update", what[w].label, x, y, NULL, k, 1, what[w].range);
	}
	rc = 0;
out:
	free(x);
	free(y);
	return rc;
}

/* Minus the mean log-probability of the tokens drawn: what the entropy is the expectation of. */
static int
surprise(const struct sal_table *t, double *mean, double *error)
{
	struct sal_tally all = { 0 };
	int rc = 0;

	for (int i = 0; rc == 0 && i < t->n; i++) {
		char *id = sal_record_id(t->r[i]);
		float *lp = NULL;
		int n = 0;
		double s = 0;
		if (id == NULL || sal_json_floats(t->r[i]->json, "logprobs", &lp, &n) != 0)
			rc = sal_table_err(t, i);
		for (int k = 0; rc == 0 && k < n; k++)
			s -= (double)lp[k];
		if (rc == 0 && n > 0)
			sal_tally_add(&all, id, s / n);
		free(lp);
		free(id);
	}
	struct sal_mean m = sal_tally_mean(&all);
	*mean = m.mean;
	*error = isnan(m.error) ? 0 : m.error;
	sal_tally_free(&all);
	return rc;
}

static int
entropy(struct report *r, const struct sal_table *t, int steps)
{
	double *x = numbers(steps), *y = numbers(steps), *e = numbers(steps);
	int n = 0, rc = x && y && e ? 0 : -1;
	char name[64];

	for (int i = 1; rc == 0 && i <= steps; i++) {
		struct sal_table roll = { 0 };
		snprintf(name, sizeof name, "ppo%d.rollouts", i);
		rc = load(r, &roll, name) < 0 ? -1 : 0;
		if (rc == 0 && all_have(&roll, "logprobs")) {
			rc = surprise(&roll, &y[n], &e[n]);
			x[n] = i;
			n += !isnan(y[n]);
		}
		sal_table_free(&roll);
	}
	if (rc == 0 && all_have(t, "entropy")) {
		double *s = column(t, "step"), *h = column(t, "entropy");
		if (s && h)
			curve(r, "Entropy", "step", "nats a token", s, h, NULL, t->n, 2, NULL);
		else
			rc = -1;
		free(s);
		free(h);
	} else if (rc == 0 && n > 0) {
		curve(r, "Entropy, estimated by the tokens drawn", "step", "nats a token", x, y, e, n, 2, NULL);
	}
	free(x);
	free(y);
	free(e);
	return rc;
}

static int
steps_section(struct report *r)
{
	int steps = largest(r->cfg->work, "ppo", ".jsonl"), rc = -1;
	struct sal_table t = { 0 };
	double *step = NULL, *reward = NULL, *std = NULL, *kl = NULL, *tokens = NULL, *records = NULL, *no_stop = NULL;
	char name[64];

	if (steps <= 0)
		return steps;
	for (int i = 1; i <= steps; i++) {
		snprintf(name, sizeof name, "ppo%d.jsonl", i);
		if (load(r, &t, name) < 0)
			goto out;
	}
	if (t.n == 0) {
		rc = 0;
		goto out;
	}
	if ((step = column(&t, "step")) == NULL || (reward = column(&t, "reward")) == NULL || (std = column(&t, "reward_std")) == NULL ||
	    (kl = column(&t, "kl")) == NULL || (tokens = column(&t, "tokens")) == NULL || (records = column(&t, "records")) == NULL ||
	    (no_stop = column(&t, "no_stop")) == NULL)
		goto out;
	for (int i = 0; i < t.n; i++) {
		double n = records[i] > 0 ? records[i] : 1;
		std[i] /= sqrt(n);
		tokens[i] /= n;
		no_stop[i] /= n;
	}
	sal_page_section(&r->page, "ppo", "PPO");
	note(r, "Of the rollouts of each step, drawn before its updates; bars are standard errors. Value errors are in units of the scaled reward.");
	curve(r, "Reward", "step", "mean", step, reward, std, t.n, 0, NULL);
	curve(r, "KL from the model before PPO", "step", "nats an answer", step, kl, NULL, t.n, 0, from_0);
	curve(r, "Length of an answer", "step", "tokens", step, tokens, NULL, t.n, 0, from_0);
	curve(r, "Answers without an end of their own", "step", "share", step, no_stop, NULL, t.n, 0, share);
	if (entropy(r, &t, steps) != 0 || updates(r, &t) != 0)
		goto out;
	sal_page_fact(&r->page, "PPO: steps, rollouts of the last one", "%d, %.0f", t.n, records[t.n - 1]);
	sal_page_fact(&r->page, "PPO: reward of the rollouts, first and last step", "%.3f, %.3f", reward[0], reward[t.n - 1]);
	rc = 0;
out:
	free(step);
	free(reward);
	free(std);
	free(kl);
	free(tokens);
	free(records);
	free(no_stop);
	sal_table_free(&t);
	return rc;
}

/* ---- the reward model --------------------------------------------------------------- */

static void
training_curve(struct report *r, const char *title, const char *label, const double *x, const double *y, int n, double chance,
    const char *range)
{
	double *s = numbers(n), end[2] = { x[0], x[n - 1] }, level[2] = { chance, chance };
	int k = n / 40;

	if (s == NULL)
		return;
	smooth(y, n, k, s);
	char mean[64];
	snprintf(mean, sizeof mean, "mean of %d", 2 * k + 1);
	struct sal_series l[3] = {
		{ .title = k ? "update" : NULL, .mark = SAL_DOTS, .color = -1, .n = n, .x = x, .y = y },
		{ .title = k ? mean : NULL, .mark = SAL_LINE, .color = 0, .n = n, .x = x, .y = s },
		{ .title = "chance", .mark = SAL_DASHED, .color = -1, .n = 2, .x = end, .y = level },
	};
	sal_page_figure(&r->page, title, &(struct sal_axes){ .x = "update", .y = label, .whole = true, .range = range }, l, isnan(chance) ? 2 : 3);
	free(s);
}

static int
training(struct report *r)
{
	static const struct { const char *field, *title, *label; double chance; } what[] = {
		{ "loss", "Loss of the reward model", "nats a pair", 0.693147180559945 },
		{ "accuracy", "Accuracy on the pairs of an update", "share", 0.5 },
		{ "margin", "Lead of the chosen answers", "reward", NAN },
		{ "mean_reward", "Mean reward", "reward", NAN },
	};
	struct sal_table t = { 0 };
	double *x = NULL, *y = NULL;
	int rc = load(r, &t, "rm.jsonl");

	if (rc <= 0 || t.n == 0)
		goto out;
	rc = -1;
	if ((x = column(&t, "step")) == NULL)
		goto out;
	for (size_t w = 0; w < sizeof what / sizeof *what; w++) {
		if (!all_have(&t, what[w].field))
			continue;
		free(y);
		if ((y = column(&t, what[w].field)) == NULL)
			goto out;
		training_curve(r, what[w].title, what[w].label, x, y, t.n, what[w].chance, w == 1 ? share : NULL);
		if (w == 0) {
			int k = (t.n + 9) / 10;
			double first = 0, last = 0;
			for (int i = 0; i < k; i++) {
				first += y[i] / k;
				last += y[t.n - 1 - i] / k;
			}
			sal_page_fact(&r->page, "Reward model: loss, first and last tenth", "%.3f, %.3f (%d updates)", first, last, t.n);
		}
	}
	rc = 1;
out:
	free(x);
	free(y);
	sal_table_free(&t);
	return rc < 0 ? -1 : 0;
}

/* A pair that the reward model has scored. */
struct pair {
	char *id;
	const char *deciding; /* of the table */
	double lead, right, shorter; /* right: 1, 0, or 1/2 where both score the same; shorter: so the chosen one */
	double sure;  /* probability that the model gives to the order it finds */
};
struct pairs {
	struct sal_table t;
	struct pair *p;
	int n;
};

/* turned: the pairs are scored under the negation of what they were chosen by. */
static int
read_pairs(struct report *r, const char *name, bool turned, struct pairs *s)
{
	int rc = load(r, &s->t, name);

	if (rc <= 0)
		return rc;
	if ((s->p = calloc((size_t)s->t.n + 1, sizeof *s->p)) == NULL)
		return sal_err("out of memory");
	for (int i = 0; i < s->t.n; i++) {
		struct pair *p = &s->p[s->n];
		const char *chosen, *rejected;
		double a, b;
		if ((p->id = sal_record_id(s->t.r[i])) == NULL)
			return sal_table_err(&s->t, i);
		s->n++;
		if (sal_table_num(&s->t, i, "reward_chosen", &a) != 0 || sal_table_num(&s->t, i, "reward_rejected", &b) != 0 ||
		    (chosen = sal_table_str(&s->t, i, "chosen")) == NULL || (rejected = sal_table_str(&s->t, i, "rejected")) == NULL ||
		    (p->deciding = sal_table_str(&s->t, i, "deciding")) == NULL)
			return -1;
		p->lead = a - b;
		p->right = a == b ? 0.5 : (a > b) != turned;
		p->sure = 1 / (1 + exp(-fabs(p->lead)));
		int c = sal_characters(chosen), d = sal_characters(rejected);
		p->shorter = c == d ? 0.5 : c < d;
	}
	return s->n > 0;
}

static void
free_pairs(struct pairs *s)
{
	for (int i = 0; i < s->n; i++)
		free(s->p[i].id);
	free(s->p);
	sal_table_free(&s->t);
}

/* The mean of one number of the pairs that this principle decided; NULL: of all. */
static struct sal_mean
pair_mean(const struct pairs *s, const char *deciding, size_t field)
{
	struct sal_tally t = { 0 };

	for (int i = 0; i < s->n; i++)
		if (!deciding || strcmp(deciding, s->p[i].deciding) == 0) {
			double x;
			memcpy(&x, (const char *)&s->p[i] + field, sizeof x);
			sal_tally_add(&t, s->p[i].id, x);
		}
	struct sal_mean m = sal_tally_mean(&t);
	sal_tally_free(&t);
	return m;
}

static void
by_principle(struct report *r, const struct pairs s[2])
{
	struct names l = { 0 };
	struct rows given = { 0 }, turned = { 0 }, length = { 0 };
	struct sal_tally all = { 0 };

	for (int t = 0; t < 2; t++)
		for (int i = 0; i < s[t].n; i++)
			add_name(&l, s[t].p[i].deciding);
	for (int d = 0; d < l.n; d++) {
		add_row(&given, d - 0.18, pair_mean(&s[0], l.s[d], offsetof(struct pair, right)));
		add_row(&turned, d, pair_mean(&s[1], l.s[d], offsetof(struct pair, right)));
		const struct pairs *any = s[0].n ? &s[0] : &s[1];
		struct sal_mean m = pair_mean(any, l.s[d], offsetof(struct pair, shorter));
		bool flip = m.mean < 0.5; /* the longer one, where that serves better */
		for (int i = 0; i < any->n; i++)
			if (strcmp(any->p[i].deciding, l.s[d]) == 0)
				sal_tally_add(&all, any->p[i].id, flip ? 1 - any->p[i].shorter : any->p[i].shorter);
		m.mean = flip ? 1 - m.mean : m.mean;
		add_row(&length, d + 0.18, m);
	}
	l.s[l.n] = "all";
	struct sal_mean a = pair_mean(&s[0], NULL, offsetof(struct pair, right)), b = pair_mean(&s[1], NULL, offsetof(struct pair, right));
	add_row(&given, l.n - 0.18, a);
	add_row(&turned, l.n, b);
	add_row(&length, l.n + 0.18, sal_tally_mean(&all));
	const struct sal_series show[3] = { row_series("as given", 0, &given), row_series("negated", 1, &turned), row_series("length alone", 2, &length) };
	sal_page_figure(&r->page, "Held-out pairs in the right order", &(struct sal_axes){ .x = "share", .rows = l.s, .n_rows = l.n + 1, .range = half }, show, 3);
	if (s[0].n)
		fact_mean(r, "Reward model: accuracy, principle as given", a, "held-out pairs");
	if (s[1].n) {
		char text[64];
		sal_page_fact(&r->page, "Reward model: accuracy, principle negated", "%s (%d held-out pairs of %d prompts; the given order: %.3f)", spell(text, b),
		    b.n, b.ids, 1 - b.mean);
	}
	fact_mean(r, "Length alone, the better sign of each principle", sal_tally_mean(&all), "held-out pairs");
	sal_tally_free(&all);
}

static int
by_sure(const void *a, const void *b)
{
	const struct pair *x = *(struct pair *const *)a, *y = *(struct pair *const *)b;

	return x->sure < y->sure ? -1 : x->sure > y->sure ? 1 : strcmp(x->id, y->id);
}

/* How often the order that the model finds is right, against how sure it is of it. */
static int
calibration(struct report *r, const struct pairs s[2])
{
	int n = s[0].n + s[1].n, bins = n / 20 < CALIBRATION ? n / 20 : CALIBRATION, k = 0;
	struct pair **p = malloc((size_t)(n + 1) * sizeof *p);
	double x[CALIBRATION], y[CALIBRATION], e[CALIBRATION], gap = 0, brier = 0, even[2] = { 0.5, 1 };

	if (p == NULL)
		return sal_err("out of memory");
	for (int t = 0; t < 2; t++)
		for (int i = 0; i < s[t].n; i++)
			p[k++] = &s[t].p[i];
	qsort(p, (size_t)n, sizeof *p, by_sure);
	for (int b = 0; b < bins; b++) {
		struct sal_tally sure = { 0 }, right = { 0 };
		for (int i = (int)((long)n * b / bins); i < (int)((long)n * (b + 1) / bins); i++) {
			sal_tally_add(&sure, p[i]->id, p[i]->sure);
			sal_tally_add(&right, p[i]->id, p[i]->right);
			brier += (p[i]->sure - p[i]->right) * (p[i]->sure - p[i]->right) / n;
		}
		struct sal_mean m = sal_tally_mean(&right);
		x[b] = sal_tally_mean(&sure).mean;
		y[b] = m.mean;
		e[b] = isnan(m.error) ? 0 : m.error;
		gap += fabs(x[b] - y[b]) * m.n / n;
		sal_tally_free(&sure);
		sal_tally_free(&right);
	}
	if (bins > 0) {
		const struct sal_series show[2] = {
			{ .title = "even", .mark = SAL_DASHED, .color = -1, .n = 2, .x = even, .y = even },
			{ .title = "pairs", .mark = SAL_ERRORS, .color = 0, .n = bins, .x = x, .y = y, .e = e },
		};
		sal_page_figure(&r->page, "Calibration: how often right, against how sure",
		    &(struct sal_axes){ .x = "probability the model gives to its order", .y = "share right",
		        .range = "set yrange [*:1]\n" }, show, 2);
		sal_page_fact(&r->page, "Reward model: calibration error, Brier score", "%.3f, %.3f (%d bins; a coin has a score of 0.25)", gap, brier, bins);
	}
	free(p);
	return 0;
}

static int
leads(struct report *r, const struct pairs s[2])
{
	static const char *const name[2] = { "as given", "negated" };
	double *x[2] = { numbers(s[0].n), numbers(s[1].n) };
	const int n[2] = { s[0].n, s[1].n };
	int rc = x[0] && x[1] ? 0 : -1;

	for (int t = 0; rc == 0 && t < 2; t++)
		for (int i = 0; i < n[t]; i++)
			x[t][i] = s[t].p[i].lead;
	if (rc == 0)
		figure_histograms(r, "Lead of the chosen answer, held-out pairs", "reward", name, x, n);
	free(x[0]);
	free(x[1]);
	return rc;
}

struct answer {
	double characters, reward;
	char *id;
};

static int
by_length(const void *a, const void *b)
{
	const struct answer *x = a, *y = b;

	return x->characters < y->characters ? -1 : x->characters > y->characters ? 1 : x->reward < y->reward ? -1 : x->reward > y->reward;
}

/* "Concise, Ethical negated": what a record was scored under. */
static void
under(struct sal_buf *b, const cJSON *rec)
{
	const cJSON *e;
	int n = 0;

	cJSON_ArrayForEach(e, cJSON_GetObjectItemCaseSensitive(rec, "principles")) {
		const char *d = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(e, "dimension"));
		sal_buf_printf(b, "%s%s%s", n++ ? ", " : "", d ? d : "?", cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(e, "negated")) ? " negated" : "");
	}
	sal_buf_puts(b, n ? "" : "no principle");
}

/* As the mean of what each answer brings to it, so that it has an error between prompts.  Answers are as x and y are. */
static struct sal_mean
correlation(const double *x, const double *y, const struct answer *a, int n)
{
	double r = sal_correlation(x, y, n), mx = 0, my = 0, xx = 0, yy = 0;
	struct sal_tally t = { 0 };

	for (int i = 0; i < n; i++) {
		mx += x[i] / n;
		my += y[i] / n;
	}
	for (int i = 0; i < n; i++) {
		xx += (x[i] - mx) * (x[i] - mx) / n;
		yy += (y[i] - my) * (y[i] - my) / n;
	}
	for (int i = 0; i < n && !isnan(r); i++) {
		double u = (x[i] - mx) / sqrt(xx), v = (y[i] - my) / sqrt(yy);
		sal_tally_add(&t, a[i].id, r + u * v - r / 2 * (u * u + v * v));
	}
	struct sal_mean m = sal_tally_mean(&t);
	sal_tally_free(&t);
	return m;
}

/* Mean reward of answers by their length, a series for each file. */
static int
reward_by_length(struct report *r)
{
	static const char *const file[2] = { "concise.jsonl", "verbose.jsonl" };
	struct sal_series s[2];
	struct sal_buf title[2] = { { 0 } };
	double x[2][10], y[2][10], e[2][10];
	int k = 0, rc = 0;

	for (int f = 0; f < 2 && rc == 0; f++) {
		struct sal_table t = { 0 };
		struct answer *a = NULL;
		double *c = NULL, *w = NULL;
		rc = load(r, &t, file[f]) < 0 ? -1 : 0;
		if (rc != 0 || t.n < 20)
			goto next;
		a = calloc((size_t)t.n, sizeof *a);
		c = numbers(t.n);
		w = column(&t, "reward");
		rc = a && c && w ? 0 : -1;
		for (int i = 0; rc == 0 && i < t.n; i++) {
			const char *text = sal_table_str(&t, i, "response");
			if (text == NULL || (a[i].id = sal_record_id(t.r[i])) == NULL) {
				rc = text ? sal_table_err(&t, i) : -1;
				break;
			}
			a[i].characters = c[i] = sal_characters(text);
			a[i].reward = w[i];
		}
		if (rc != 0)
			goto next;
		struct sal_mean corr = correlation(c, w, a, t.n);
		qsort(a, (size_t)t.n, sizeof *a, by_length);
		for (int b = 0; b < 10; b++) {
			struct sal_tally lengths = { 0 }, rewards = { 0 };
			for (int i = (int)((long)t.n * b / 10); i < (int)((long)t.n * (b + 1) / 10); i++) {
				sal_tally_add(&lengths, a[i].id, a[i].characters);
				sal_tally_add(&rewards, a[i].id, a[i].reward);
			}
			struct sal_mean m = sal_tally_mean(&rewards);
			x[k][b] = sal_tally_mean(&lengths).mean;
			y[k][b] = m.mean;
			e[k][b] = isnan(m.error) ? 0 : m.error;
			sal_tally_free(&lengths);
			sal_tally_free(&rewards);
		}
		under(&title[k], t.r[0]->json);
		char what[160];
		snprintf(what, sizeof what, "Correlation of reward and length, under %.100s", title[k].data ? title[k].data : "");
		fact_mean(r, what, corr, "answers");
		s[k] = (struct sal_series){ .title = title[k].data, .mark = SAL_ERRORS, .color = k, .n = 10, .x = x[k], .y = y[k], .e = e[k] };
		k++;
next:
		for (int i = 0; a && i < t.n; i++)
			free(a[i].id);
		free(a);
		free(c);
		free(w);
		sal_table_free(&t);
	}
	if (rc == 0 && k > 0)
		sal_page_figure(&r->page, "Reward by length, tenths of the held-out answers", &(struct sal_axes){ .x = "characters", .y = "mean reward" }, s, k);
	sal_buf_free(&title[0]);
	sal_buf_free(&title[1]);
	return rc;
}

static int
reward_section(struct report *r)
{
	struct pairs s[2] = { { .n = 0 }, { .n = 0 } };
	const struct sal_page before = r->page;
	int rc = -1;

	sal_page_section(&r->page, "reward", "Reward model");
	note(r, "Held-out pairs are answers to prompts that it was not trained on. Under the negated principle the right order is the opposite one. "
	        "Bars are standard errors between prompts.");
	const size_t bare = r->page.body.len;
	if (training(r) != 0 || read_pairs(r, "given.jsonl", false, &s[0]) < 0 || read_pairs(r, "negated.jsonl", true, &s[1]) < 0)
		goto out;
	if (s[0].n + s[1].n > 0) {
		by_principle(r, s);
		if (calibration(r, s) != 0 || leads(r, s) != 0)
			goto out;
	}
	rc = reward_by_length(r);
	if (r->page.body.len == bare) { /* the run has nothing to say of it */
		r->page.body.len = before.body.len;
		r->page.links.len = before.links.len;
		r->page.open = before.open;
	}
out:
	free_pairs(&s[0]);
	free_pairs(&s[1]);
	return rc;
}

/* ---- the judge ------------------------------------------------------------------------ */

struct verdict {
	struct sal_tally label, orders, lead; /* label: of the pairs that it decides */
};

/* Add a record's judgements, one verdict a principle; *one_order: no two numbers differ. */
static int
judge_record(const struct sal_table *t, int i, struct names *l, struct verdict *v, bool *one_order)
{
	const cJSON *d, *j = cJSON_GetObjectItemCaseSensitive(t->r[i]->json, "judgements");
	const char *deciding = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(t->r[i]->json, "deciding"));
	char *id = sal_record_id(t->r[i]);

	if (id == NULL)
		return sal_table_err(t, i);
	cJSON_ArrayForEach(d, j) {
		int k = find_name(l, d->string);
		const cJSON *a = cJSON_GetArrayItem(d, 0), *b = cJSON_GetArrayItem(d, 1);
		if (k < 0 || !cJSON_IsNumber(a) || !cJSON_IsNumber(b))
			continue;
		double x = a->valuedouble, y = b->valuedouble, s = x + y;
		*one_order = *one_order && x == y;
		sal_tally_add(&v[k].orders, id, x * y > 0 ? 1 : x * y < 0 ? 0 : 0.5);
		sal_tally_add(&v[k].lead, id, fabs(s) / 2);
		if (deciding && strcmp(deciding, d->string) == 0)
			sal_tally_add(&v[k].label, id, s > 0 ? 1 : s < 0 ? 0 : 0.5);
	}
	free(id);
	return 0;
}

static void
judge_table(struct report *r, const struct names *l, const struct verdict *v, bool one_order)
{
	struct sal_buf *b = &r->page.body;
	char text[64];

	sal_buf_puts(b, "<div class=\"wide\"><table><thead><tr><th>principle</th><th class=\"n\">pairs</th><th class=\"n\">mean strength</th>"
	                "<th class=\"n\">decided</th><th class=\"n\">agrees with the label</th>");
	sal_buf_puts(b, one_order ? "" : "<th class=\"n\">both orders agree</th>");
	sal_buf_puts(b, "</tr></thead><tbody>\n");
	for (int k = 0; k < l->n; k++) {
		sal_buf_puts(b, "<tr><td>");
		sal_page_text(b, l->s[k]);
		sal_buf_printf(b, "</td><td class=\"n\">%d</td><td class=\"n\">%s</td>", v[k].lead.n, spell(text, sal_tally_mean(&v[k].lead)));
		sal_buf_printf(b, "<td class=\"n\">%d</td><td class=\"n\">%s</td>", v[k].label.n, spell(text, sal_tally_mean(&v[k].label)));
		if (!one_order)
			sal_buf_printf(b, "<td class=\"n\">%s</td>", spell(text, sal_tally_mean(&v[k].orders)));
		sal_buf_puts(b, "</tr>\n");
	}
	sal_buf_puts(b, "</tbody></table></div>\n");
}

static int
judge_section(struct report *r)
{
	struct sal_table t = { 0 };
	struct names l = { 0 };
	struct verdict v[MAX_ROWS] = { { .label = { 0 } } };
	struct sal_tally all = { 0 };
	struct rows label = { 0 }, orders = { 0 };
	bool one_order = true;
	const cJSON *d;
	int rc = load(r, &t, "judged.jsonl");

	if (rc <= 0 || t.n == 0)
		goto out;
	for (int i = 0; i < t.n; i++)
		cJSON_ArrayForEach(d, cJSON_GetObjectItemCaseSensitive(t.r[i]->json, "judgements"))
			add_name(&l, d->string);
	for (int i = 0; i < t.n; i++)
		if ((rc = judge_record(&t, i, &l, v, &one_order)) != 0)
			goto out;
	sal_page_section(&r->page, "judge", "Judge");
	note(r, one_order ? "Contrast: how much likelier an answer is under the principle than under its negation, against the other answer; one order. "
	                    "The label is that of the pair: the principle that the answers were sampled under."
	                  : "Two answers compared in both orders. The label is that of the pair, where it has one.");
	for (int k = 0; k < l.n; k++) {
		add_row(&label, one_order ? k : k - 0.1, sal_tally_mean(&v[k].label));
		add_row(&orders, k + 0.1, sal_tally_mean(&v[k].orders));
		for (int i = 0; i < v[k].label.n; i++)
			sal_tally_add(&all, v[k].label.id[i], v[k].label.x[i]);
	}
	const struct sal_series show[2] = { row_series(one_order ? NULL : "agrees with the label", 0, &label), row_series("both orders agree", 1, &orders) };
	const struct sal_axes axes = { .x = "share", .rows = l.s, .n_rows = l.n, .range = half };
	if (label.n > 0)
		sal_page_figure(&r->page, "Agreement of the judge, by principle", &axes, show, one_order ? 1 : 2);
	else if (!one_order && orders.n > 0)
		sal_page_figure(&r->page, "Agreement of the two orders, by principle", &axes, show + 1, 1);
	judge_table(r, &l, v, one_order);
	if (all.n > 0)
		fact_mean(r, "Judge: agreement with the label", sal_tally_mean(&all), "pairs");
	rc = 0;
out:
	for (int k = 0; k < MAX_ROWS; k++) {
		sal_tally_free(&v[k].label);
		sal_tally_free(&v[k].orders);
		sal_tally_free(&v[k].lead);
	}
	sal_tally_free(&all);
	sal_table_free(&t);
	return rc < 0 ? -1 : 0;
}

/* ---- samples ---------------------------------------------------------------------------- */

/* Length of what was sampled under each principle and under its negation. */
static int
sampled_section(struct report *r)
{
	static const char *const file[] = { "train+.jsonl", "train-.jsonl", "held+.jsonl", "held-.jsonl" };
	struct sal_table t = { 0 };
	struct names l = { 0 };
	struct rows plus = { 0 }, minus = { 0 };
	struct sal_tally *v = NULL;
	int rc = 0, stopped = 0;

	for (size_t f = 0; f < sizeof file / sizeof *file && rc == 0; f++)
		rc = load(r, &t, file[f]) < 0 ? -1 : 0;
	if (rc != 0 || t.n == 0)
		goto out;
	rc = -1;
	if ((v = calloc(2 * MAX_ROWS, sizeof *v)) == NULL) {
		sal_err("out of memory");
		goto out;
	}
	for (int i = 0; i < t.n; i++) {
		const char *s = cJSON_GetStringValue(
		    cJSON_GetObjectItemCaseSensitive(cJSON_GetObjectItemCaseSensitive(t.r[i]->json, "sampled_under"), "dimension"));
		if (s)
			add_name(&l, s);
	}
	for (int i = 0; i < t.n; i++) {
		const cJSON *u = cJSON_GetObjectItemCaseSensitive(t.r[i]->json, "sampled_under");
		const char *s = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(u, "dimension")), *text = sal_table_str(&t, i, "response");
		int k = s ? find_name(&l, s) : -1;
		if (text == NULL)
			goto out;
		stopped += cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(t.r[i]->json, "has_stop"));
		if (k < 0)
			continue;
		char *id = sal_record_id(t.r[i]);
		if (id == NULL) {
			sal_table_err(&t, i);
			goto out;
		}
		sal_tally_add(&v[2 * k + cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(u, "negated"))], id, sal_characters(text));
		free(id);
	}
	sal_page_section(&r->page, "sampled", "Samples to learn from");
	note(r, "Answers sampled under a principle and under its negation: how long they are. Bars are standard errors between prompts.");
	for (int k = 0; k < l.n; k++) {
		add_row(&plus, k - 0.1, sal_tally_mean(&v[2 * k]));
		add_row(&minus, k + 0.1, sal_tally_mean(&v[2 * k + 1]));
	}
	const struct sal_series show[2] = { row_series("under the principle", 0, &plus), row_series("under its negation", 1, &minus) };
	if (l.n > 0)
		sal_page_figure(&r->page, "Length of answers", &(struct sal_axes){ .x = "characters", .rows = l.s, .n_rows = l.n }, show, 2);
	sal_page_fact(&r->page, "Samples to learn from, those that end by themselves", "%d, %d", t.n, stopped);
	rc = 0;
out:
	for (int k = 0; v && k < 2 * MAX_ROWS; k++)
		sal_tally_free(&v[k]);
	free(v);
	sal_table_free(&t);
	return rc;
}

/* ---- before and after --------------------------------------------------------------------- */

static void
one_answer(struct sal_buf *b, const char *when, const struct sal_record *rec)
{
	const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(rec->json, "response"));
	double reward;

	sal_buf_printf(b, "<div><strong>%s</strong> <span class=\"soft\">", when);
	if (sal_json_has(rec->json, "reward") && sal_json_num(rec->json, "reward", &reward) == 0)
		sal_buf_printf(b, "reward %.3f, ", reward);
	sal_buf_printf(b, "%d characters%s</span>\n<div class=\"text\">", sal_characters(text ? text : ""),
	    cJSON_IsFalse(cJSON_GetObjectItemCaseSensitive(rec->json, "has_stop")) ? ", cut off" : "");
	sal_page_text(b, text ? text : "");
	sal_buf_puts(b, "</div></div>\n");
}

/* What was asked: the prompt, or the last message. */
static void
asked(struct sal_buf *b, const cJSON *rec)
{
	const char *s = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(rec, "prompt"));
	const cJSON *m = cJSON_GetObjectItemCaseSensitive(rec, "messages");

	if (s == NULL)
		s = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(rec, "instruction"));
	if (s == NULL)
		s = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(cJSON_GetArrayItem(m, cJSON_GetArraySize(m) - 1), "content"));
	sal_page_text(b, s ? s : "(tokens)");
}

static void
side_by_side(struct report *r, const struct sal_table *before, const struct sal_table *after, int n)
{
	struct sal_buf *b = &r->page.body;
	int show = r->cfg->samples < n ? r->cfg->samples : n;

	sal_buf_printf(b, "<h3>Answers side by side, %d of %d</h3>\n", show, n);
	for (int k = 0; k < show; k++) {
		int i = (int)((long)n * k / show); /* evenly spread */
		struct sal_buf u = { 0 };
		under(&u, after->r[i]->json);
		sal_buf_puts(b, "<article>\n<div class=\"ask\"><div class=\"text\">");
		asked(b, before->r[i]->json);
		sal_buf_puts(b, "</div><div class=\"soft\">under ");
		sal_page_text(b, u.data ? u.data : "");
		sal_buf_puts(b, "</div></div>\n<div class=\"pair\">\n");
		one_answer(b, "before", before->r[i]);
		one_answer(b, "after", after->r[i]);
		sal_buf_puts(b, "</div>\n</article>\n");
		sal_buf_free(&u);
	}
}

/* What the log-probabilities of a record sum to. */
static int
sum_logprobs(const struct sal_table *t, int i, double *out)
{
	float *lp = NULL;
	int n = 0;

	*out = 0;
	if (sal_json_floats(t->r[i]->json, "logprobs", &lp, &n) != 0)
		return sal_table_err(t, i);
	for (int k = 0; k < n; k++)
		*out += (double)lp[k];
	free(lp);
	return 0;
}

/* Do the records of both answer the same prompts, in order?  *same; -1: errmsg. */
static int
same_prompts(const struct sal_table *a, const struct sal_table *b, bool *same)
{
	*same = a->n == b->n && a->n > 0;
	for (int i = 0; *same && i < a->n; i++) {
		char *x = sal_record_id(a->r[i]), *y = x ? sal_record_id(b->r[i]) : NULL;
		if (y == NULL) {
			free(x);
			return sal_table_err(x ? b : a, i);
		}
		*same = strcmp(x, y) == 0;
		free(x);
		free(y);
	}
	return 0;
}

static int
same_principles(const struct sal_table *a, const struct sal_table *b, bool *same)
{
	struct sal_buf x = { 0 }, y = { 0 };

	for (int i = 0; *same && i < a->n; i++) {
		x.len = y.len = 0;
		under(&x, a->r[i]->json);
		under(&y, b->r[i]->json);
		*same = x.len == y.len && memcmp(x.data, y.data, x.len) == 0;
	}
	int rc = x.failed || y.failed ? sal_err("out of memory") : 0;
	sal_buf_free(&x);
	sal_buf_free(&y);
	return rc;
}

/* Means of one side, and of what it differs by from the other where both answer the same prompts. */
static int
compare(struct report *r, const struct sal_table t[3], bool paired, bool with_reference)
{
	static const char *const when[2] = { "before", "after" };
	struct sal_tally reward[2] = { { 0 } }, gain = { 0 }, length[2] = { { 0 } }, longer = { 0 }, kl = { 0 };
	int rc = 0;

	for (int s = 0; s < 2; s++)
		for (int i = 0; rc == 0 && i < t[s].n; i++) {
			char *id = sal_record_id(t[s].r[i]);
			const char *text = sal_table_str(&t[s], i, "response");
			double x, y, a, b;
			if (id == NULL || text == NULL || sal_table_num(&t[s], i, "reward", &x) != 0) {
				rc = id ? -1 : sal_table_err(&t[s], i);
				free(id);
				break;
			}
			sal_tally_add(&reward[s], id, x);
			sal_tally_add(&length[s], id, sal_characters(text));
			if (s == 1 && paired && sal_json_num(t[0].r[i]->json, "reward", &y) == 0) {
				sal_tally_add(&gain, id, x - y);
				sal_tally_add(&longer, id, length[1].x[length[1].n - 1] - length[0].x[i]);
			}
			if (s == 1 && with_reference && (rc = sum_logprobs(&t[1], i, &a)) == 0 && (rc = sum_logprobs(&t[2], i, &b)) == 0)
				sal_tally_add(&kl, id, a - b);
			free(id);
		}
	if (rc != 0)
		goto out;
	for (int s = 0; s < 2; s++)
		if (t[s].n > 0) {
			char what[64], text[64];
			snprintf(what, sizeof what, "Held-out prompts: reward %s", when[s]);
			fact_mean(r, what, sal_tally_mean(&reward[s]), "answers");
			snprintf(what, sizeof what, "Held-out prompts: characters %s", when[s]);
			sal_page_fact(&r->page, what, "%s", spell(text, sal_tally_mean(&length[s])));
		}
	if (gain.n > 0) {
		fact_mean(r, "Held-out prompts: gain of reward, prompt by prompt", sal_tally_mean(&gain), "answers");
		fact_mean(r, "Held-out prompts: more characters, prompt by prompt", sal_tally_mean(&longer), "answers");
	}
	if (kl.n > 0)
		fact_mean(r, "Held-out prompts: KL an answer from the model before, nats", sal_tally_mean(&kl), "answers");
	const int n[2] = { reward[0].n, reward[1].n }, m[2] = { length[0].n, length[1].n };
	figure_histograms(r, "Reward of the answers to held-out prompts", "reward", when, (double *const[2]){ reward[0].x, reward[1].x }, n);
	figure_histograms(r, "Length of the answers to held-out prompts", "characters", when, (double *const[2]){ length[0].x, length[1].x }, m);
out:
	for (int s = 0; s < 2; s++) {
		sal_tally_free(&reward[s]);
		sal_tally_free(&length[s]);
	}
	sal_tally_free(&gain);
	sal_tally_free(&longer);
	sal_tally_free(&kl);
	return rc;
}

static int
after_section(struct report *r)
{
	static const char *const file[3] = { "before.jsonl", "after.jsonl", "reference.jsonl" };
	struct sal_table t[3] = { { .n = 0 } };
	bool paired = false, with_reference = false;
	int rc = -1;

	for (int k = 0; k < 3; k++)
		if (load(r, &t[k], file[k]) < 0)
			goto out;
	if (t[0].n + t[1].n == 0) {
		rc = 0;
		goto out;
	}
	if (same_prompts(&t[0], &t[1], &paired) != 0 || (paired && same_principles(&t[0], &t[1], &paired) != 0) ||
	    same_prompts(&t[1], &t[2], &with_reference) != 0)
		goto out;
	sal_page_section(&r->page, "after", "Before and after");
	note(r, "Answers to prompts that no stage has learned from, by the model before PPO and after it, scored under the same principles.");
	if (!paired && t[0].n > 0 && t[1].n > 0)
		note(r, "Here before.jsonl and after.jsonl do not answer the same prompts in the same order under the same principles: there is no gain prompt by "
		        "prompt, and nothing to show side by side.");
	if (compare(r, t, paired, with_reference) != 0)
		goto out;
	if (paired)
		side_by_side(r, &t[0], &t[1], t[0].n);
	rc = 0;
out:
	for (int k = 0; k < 3; k++)
		sal_table_free(&t[k]);
	return rc;
}

/* ---- the whole -------------------------------------------------------------------------------- */

/* What a state says of how it was made, as name = value. */
static int
flags(struct report *r, const char *dir, const char *name)
{
	char *path = sal_path_join(dir, name), *text;
	struct sal_buf *b = &r->page.body;
	const cJSON *e;
	FILE *f;

	if (path == NULL)
		return sal_err("out of memory");
	if ((f = fopen(path, "re")) == NULL) { /* not there */
		free(path);
		return 0;
	}
	fclose(f);
	cJSON *j = sal_json_read(path);
	free(path);
	if (j == NULL)
		return -1;
	const cJSON *in = cJSON_GetObjectItemCaseSensitive(j, "flags");
	sal_buf_puts(b, "<h3>");
	sal_page_text(b, name);
	sal_buf_puts(b, "</h3>\n<p><code>");
	for (int pass = 0; pass < 2; pass++) {
		const cJSON *of = pass ? in : j;
		cJSON_ArrayForEach(e, of) {
			if (cJSON_IsObject(e) || cJSON_IsArray(e) || (text = cJSON_PrintUnformatted(e)) == NULL)
				continue;
			sal_page_text(b, e->string);
			sal_buf_puts(b, " = ");
			if (cJSON_IsNumber(e)) /* 0.1, not 0.10000000000000001 */
				sal_buf_printf(b, "%.10g", e->valuedouble);
			else
				sal_page_text(b, text);
			sal_buf_puts(b, "; ");
			free(text);
		}
	}
	sal_buf_puts(b, "</code></p>\n");
	cJSON_Delete(j);
	return 0;
}

static int
provenance_section(struct report *r)
{
	const char *folder[2] = { r->cfg->work, r->cfg->base };
	int last = largest(r->cfg->work, "state", "");
	char name[64];

	if (last < 0)
		return -1;
	sal_page_section(&r->page, "provenance", "Provenance");
	snprintf(name, sizeof name, "state%d/state.json", last);
	for (int i = 0; i < 2 && folder[i]; i++)
		if (flags(r, folder[i], "rm/state.json") != 0 || (i == 0 && flags(r, folder[i], name) != 0) || sal_page_provenance(&r->page, folder[i], i ? "base" : "run") != 0)
			return -1;
	return 0;
}

static int
check_folders(const struct sal_report_config *c)
{
	if (!sal_is_dir(c->work))
		return sal_err("%s: not a folder", c->work);
	return c->base && !sal_is_dir(c->base) ? sal_err("%s: not a folder", c->base) : 0;
}

int
sal_report_plan(void *cfg, struct sal_buf *out)
{
	const struct sal_report_config *c = cfg;

	if (check_folders(c) != 0)
		return -1;
	sal_buf_printf(out, "a page of %s%s%s, with answers to %d prompts side by side\n", c->work, c->base ? " and " : "",
	    c->base ? c->base : "", c->samples);
	return 0;
}

int
sal_report_page(const struct sal_report_config *cfg, struct sal_buf *html, struct sal_counts *n)
{
	struct report r = { .cfg = cfg, .count = n };
	struct sal_buf title = { 0 };
	int rc = -1;

	if (check_folders(cfg) != 0)
		return -1;
	if (sal_page_open(&r.page) != 0)
		return -1;
	if (steps_section(&r) != 0 || reward_section(&r) != 0 || judge_section(&r) != 0 || sampled_section(&r) != 0 || after_section(&r) != 0)
		goto out;
	if (n->records == 0) {
		sal_err("%s: no records of a run: none of ppo1.jsonl, rm.jsonl, given.jsonl, judged.jsonl, before.jsonl", cfg->work);
		goto out;
	}
	if (provenance_section(&r) != 0)
		goto out;
	size_t k = strlen(cfg->work);
	while (k > 1 && cfg->work[k - 1] == '/')
		k--;
	size_t from = k;
	while (from > 0 && cfg->work[from - 1] != '/')
		from--;
	sal_buf_printf(&title, "SALMON run %.*s", (int)(k - from), cfg->work + from);
	rc = title.failed ? sal_err("out of memory") : sal_page_write(&r.page, cfg->title ? cfg->title : title.data, html);
out:
	sal_buf_free(&title);
	sal_page_close(&r.page);
	return rc;
}
