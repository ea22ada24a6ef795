/* SPDX-License-Identifier: Apache-2.0 */
/* filter.c - the loop of every record tool, bad records set aside, and the last line on stderr. */
#include "lib/filter.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PROGRESS_TTY 1.0
#define PROGRESS_PLAIN 30.0

/* ---- bad records ---- */

struct reject {
	const struct sal_common *c;
	struct sal_counts *n;
	FILE *f;
};

static int reject_write(struct reject *j, long line, const char *why, const char *text, size_t len)
{
	struct sal_buf b = { 0 };

	if (!j->c->reject) {
		if (!j->c->quiet)
			sal_warn("stdin:%ld: %s (skipped)", line, why);
		return 0;
	}
	if (!j->f && !(j->f = fopen(j->c->reject, "we")))
		return sal_err("%s: %s", j->c->reject, strerror(errno));
	sal_buf_printf(&b, "{\"line\":%ld,\"error\":", line);
	sal_json_put_text(&b, why, strlen(why));
	sal_buf_puts(&b, ",\"record\":");
	sal_json_put_text(&b, text, len);
	sal_buf_puts(&b, "}\n");
	int rc = 0;
	if (b.failed)
		rc = sal_err("out of memory");
	else if (fwrite(b.data, 1, b.len, j->f) != b.len || fflush(j->f) != 0)
		rc = sal_err("%s: %s", j->c->reject, strerror(errno));
	sal_buf_free(&b);
	return rc;
}

/* errmsg says why: count it and set it aside; -1 if the loop must stop (errmsg has the line then). */
static int reject_line(struct reject *j, long line, const char *text, size_t len)
{
	char why[1100];

	snprintf(why, sizeof why, "%s", sal_errmsg());
	j->n->bad++;
	if (!j->c->skip_bad)
		return sal_err("stdin:%ld: %s", line, why);
	return reject_write(j, line, why, text, len);
}

static int reject_group(struct reject *j, const struct sal_group *g)
{
	char why[1100];

	snprintf(why, sizeof why, "%s", sal_errmsg());
	j->n->bad += g->n;
	if (!j->c->skip_bad)
		return sal_err("stdin:%ld: %s", g->rec[0]->line, why);
	for (int i = 0; i < g->n; i++)
		if (reject_write(j, g->rec[i]->line, why, g->rec[i]->text, g->rec[i]->text_len) != 0)
			return -1;
	return 0;
}

static int reject_close(struct reject *j)
{
	if (j->f && fclose(j->f) != 0)
		return sal_err("%s: %s", j->c->reject, strerror(errno));
	return 0;
}

/* The next good record: 1; 0 at the end; -1: stop, errmsg says why. */
static int next_good(struct sal_jsonl *in, struct reject *j, struct sal_record **r)
{
	for (;;) {
		size_t len;
		int rc = sal_jsonl_next(in, r);
		if (rc == 0)
			return 0;
		if (rc == -2)
			return -1;
		j->n->records++;
		if (rc == 1)
			return 1;
		const char *text = sal_jsonl_text(in, &len);
		if (reject_line(j, sal_jsonl_line(in), text, len) != 0)
			return -1;
	}
}

/* ---- the loop ---- */

struct loop {
	const struct sal_filter *f;
	const struct sal_common *c;
	struct sal_counts *n;
	struct reject reject;
	FILE *out;
	struct sal_group **group; /* of this window */
	int n_groups, window;
	struct sal_group *open;   /* by_id: may still grow */
	int open_cap;
	bool fatal;               /* no more computing: run() or a write failed, or memory is short */
	char *open_id;
};

static void group_free(const struct sal_filter *f, struct sal_group *g, bool prepared)
{
	if (!g)
		return;
	if (prepared && f->release)
		f->release(f->ctx, g);
	for (int i = 0; i < g->n; i++)
		sal_record_free(g->rec[i]);
	free(g->rec);
	free(g->bad);
	free(g);
}

static int write_record(struct loop *l, const struct sal_record *r)
{
	const char *p = r->out.data, *end = p ? p + r->out.len : p;

	if (r->out.failed)
		return sal_err("out of memory");
	if (r->out.len && fwrite(p, 1, r->out.len, l->out) != r->out.len)
		return sal_err("stdout: %s", strerror(errno));
	while (p < end && (p = memchr(p, '\n', (size_t)(end - p))) != NULL) {
		l->n->out++;
		p++;
	}
	return 0;
}

/* Compute and write the window. */
static int flush_window(struct loop *l)
{
	char why[1100];
	int rc = 0;

	if (l->n_groups && l->f->run(l->f->ctx, l->group, l->n_groups) != 0)
		rc = -1;
	for (int i = 0; i < l->n_groups && rc == 0; i++) {
		if (l->group[i]->bad) {
			sal_err("%s", l->group[i]->bad);
			rc = reject_group(&l->reject, l->group[i]);
			continue;
		}
		for (int k = 0; k < l->group[i]->n && rc == 0; k++, l->n->done++)
			rc = write_record(l, l->group[i]->rec[k]);
	}
	if (rc == 0 && l->n_groups && fflush(l->out) != 0)
		rc = sal_err("stdout: %s", strerror(errno));
	snprintf(why, sizeof why, "%s", sal_errmsg());
	for (int i = 0; i < l->n_groups; i++)
		group_free(l->f, l->group[i], true);
	l->n_groups = 0;
	if (rc != 0) {
		l->fatal = true;
		return sal_err("%s", why);
	}
	sal_progress(l->c, l->n);
	return 0;
}

/* The open group is complete: prepare it, put it into the window, compute a full window. -1: stop. */
static int close_group(struct loop *l)
{
	struct sal_group *g = l->open;

	if (!g)
		return 0;
	l->open = NULL;
	free(l->open_id);
	l->open_id = NULL;
	if (l->f->prepare && l->f->prepare(l->f->ctx, g) != 0) {
		int rc = reject_group(&l->reject, g);
		group_free(l->f, g, g->user != NULL); /* prepare may have made part of it */
		return rc;
	}
	l->group[l->n_groups++] = g;
	return l->n_groups == l->window ? flush_window(l) : 0;
}

/* Takes r. */
static int add_record(struct loop *l, struct sal_record *r)
{
	char *id = NULL;

	if (l->f->by_id && !(id = sal_record_id(r))) {
		int rc = reject_line(&l->reject, r->line, r->text, r->text_len);
		sal_record_free(r);
		return rc;
	}
	bool joins = l->open && id && strcmp(id, l->open_id) == 0;
	if (!joins && close_group(l) != 0)
		goto fail;
	if (!l->open) {
		l->open = calloc(1, sizeof *l->open);
		l->open_cap = 0;
		l->open_id = id;
		id = NULL;
		if (!l->open)
			goto memory;
	}
	if (l->open->n == l->open_cap) {
		int cap = l->open_cap ? l->open_cap * 2 : l->f->by_id ? 4 : 1;
		struct sal_record **p = l->open_cap > INT_MAX / 2 ? NULL : realloc(l->open->rec, (size_t)cap * sizeof *p);
		if (!p)
			goto memory;
		l->open->rec = p;
		l->open_cap = cap;
	}
	l->open->rec[l->open->n++] = r;
	free(id);
	return l->f->by_id ? 0 : close_group(l);
memory:
	l->fatal = true;
	sal_err("out of memory");
fail:
	free(id);
	sal_record_free(r);
	return -1;
}

int sal_filter_run(const struct sal_filter *f, const struct sal_common *c, FILE *in, FILE *out, struct sal_counts *n)
{
	struct loop l = { .f = f, .c = c, .n = n, .out = out, .window = f->window > 0 ? f->window : 1, .reject = { c, n, NULL } };
	struct sal_record *r;
	char why[1100] = "";
	int rc;

	if (c->dry_run)
		return sal_dry_run(c, f->plan, f->ctx);
	if (n->start == 0)
		n->start = sal_now();
	struct sal_jsonl *stream = sal_jsonl_open(in, "stdin");
	l.group = calloc((size_t)l.window, sizeof *l.group);
	if (!stream || !l.group) {
		sal_jsonl_close(stream);
		free(l.group);
		return sal_err("out of memory");
	}
	while ((rc = next_good(stream, &l.reject, &r)) == 1 && (rc = add_record(&l, r)) == 0)
		;
	if (rc != 0)
		snprintf(why, sizeof why, "%s", sal_errmsg());
	/* at the end, and after a bad record or a read error, what came before is computed and written */
	if (!l.fatal && close_group(&l) != 0) {
		snprintf(why, sizeof why, "%s", sal_errmsg());
		rc = -1;
	}
	if (!l.fatal && flush_window(&l) != 0) {
		snprintf(why, sizeof why, "%s", sal_errmsg());
		rc = -1;
	}
	for (int i = 0; i < l.n_groups; i++)
		group_free(f, l.group[i], true);
	group_free(f, l.open, false);
	free(l.open_id);
	free(l.group);
	sal_jsonl_close(stream);
	if (reject_close(&l.reject) != 0 && rc == 0)
		return -1;
	return rc == 0 ? 0 : sal_err("%s", why);
}

int sal_read_all(const struct sal_common *c, FILE *in, struct sal_record ***out, int *n_out, struct sal_counts *count)
{
	return sal_read_checked(c, in, NULL, NULL, out, n_out, count);
}

int sal_read_checked(const struct sal_common *c, FILE *in, int (*check)(void *ctx, const struct sal_record *r), void *ctx,
    struct sal_record ***out, int *n_out, struct sal_counts *count)
{
	struct reject j = { c, count, NULL };
	struct sal_jsonl *stream = sal_jsonl_open(in, "stdin");
	struct sal_record **list = NULL, *r;
	int n = 0, cap = 0, rc;

	*out = NULL;
	*n_out = 0;
	if (!stream)
		return -1;
	if (count->start == 0)
		count->start = sal_now();
	while ((rc = next_good(stream, &j, &r)) == 1) {
		if (check && check(ctx, r) != 0) {
			rc = reject_line(&j, r->line, r->text, r->text_len);
			sal_record_free(r);
			if (rc != 0)
				break;
			continue;
		}
		if (n == cap) {
			int more = cap ? cap * 2 : 64;
			struct sal_record **p = cap > INT_MAX / 2 ? NULL : realloc(list, (size_t)more * sizeof *p);
			if (!p) {
				sal_record_free(r);
				rc = sal_err("out of memory");
				break;
			}
			list = p;
			cap = more;
		}
		list[n++] = r;
	}
	sal_jsonl_close(stream);
	if (rc == 0)
		rc = reject_close(&j);
	else if (j.f)
		fclose(j.f);
	if (rc == 0 && !list && !(list = malloc(sizeof *list)))
		rc = sal_err("out of memory");
	if (rc != 0) {
		for (int i = 0; i < n; i++)
			sal_record_free(list[i]);
		free(list);
		return -1;
	}
	*out = list;
	*n_out = n;
	return 0;
}

/* ---- stderr ---- */

int sal_finish(int status, const struct sal_common *c, const struct sal_counts *n, const char *isa)
{
	bool failed = ferror(stdout) != 0;
	struct sal_buf b = { 0 };

	errno = 0;
	/* a stdout that was closed from the start is no error when there was nothing to write */
	if ((fclose(stdout) != 0 && !(errno == EBADF && n->out == 0)) || failed) {
		if (status == 0) /* else the cause has been told */
			sal_warn("stdout: %s", errno ? strerror(errno) : "cannot be written");
		status = EXIT_FAILURE;
	}
	if (c->skip_bad && n->bad > 0 && n->bad >= n->records) {
		sal_warn("no good record in the input");
		status = status ? status : EXIT_FAILURE;
	}
	if (c->quiet || c->dry_run || (status && n->records == 0)) /* the error says it all */
		return status;
	double s = n->start > 0 ? sal_now() - n->start : 0;
	sal_buf_printf(&b, "%ld record%s", n->records, n->records == 1 ? "" : "s");
	if (n->bad)
		sal_buf_printf(&b, ", %ld bad", n->bad);
	sal_buf_printf(&b, ", %.1f s", s);
	if (n->tokens > 0 && s > 0)
		sal_buf_printf(&b, ", %.0f tokens/s", (double)n->tokens / s);
	sal_buf_printf(&b, ", %ld MiB peak", sal_peak_kib() / 1024);
	if (isa)
		sal_buf_printf(&b, ", SAL_CPU=%s", isa);
	if (!b.failed)
		sal_warn("%s", b.data);
	sal_buf_free(&b);
	return status;
}

int sal_dry_run(const struct sal_common *c, int (*plan)(void *ctx, struct sal_buf *out), void *ctx)
{
	struct sal_buf b = { 0 };
	int rc = plan ? plan(ctx, &b) : 0;

	if (rc == 0 && b.failed)
		rc = sal_err("out of memory");
	for (char *p = b.data, *end; rc == 0 && !c->quiet && p && (end = strchr(p, '\n')) != NULL; p = end + 1) {
		*end = '\0';
		sal_warn("plan: %s", p);
	}
	sal_buf_free(&b);
	return rc;
}

void sal_progress(const struct sal_common *c, const struct sal_counts *n)
{
	static double last;
	double now = sal_now(), s = n->start > 0 ? now - n->start : 0;
	struct sal_buf b = { 0 };

	if (last == 0)
		last = n->start > 0 ? n->start : now;
	if (c->quiet || now - last < PROGRESS_TTY)
		return;
	bool tty = isatty(STDERR_FILENO);
	if (tty ? isatty(STDOUT_FILENO) : now - last < PROGRESS_PLAIN)
		return;
	last = now;
	if (n->total > 0)
		sal_buf_printf(&b, "%ld of %ld updates", n->done, n->total);
	else
		sal_buf_printf(&b, "%ld record%s", n->done, n->done == 1 ? "" : "s");
	sal_buf_printf(&b, ", %.0f s", s);
	if (n->tokens > 0 && s > 0)
		sal_buf_printf(&b, ", %.0f tokens/s", (double)n->tokens / s);
	if (n->done > 0 && n->total > 0)
		sal_buf_printf(&b, ", %.0f s left", s / (double)n->done * (double)(n->total - n->done));
	if (!b.failed && tty)
		sal_status(b.data);
	else if (!b.failed)
		sal_warn("%s", b.data);
	sal_buf_free(&b);
}
