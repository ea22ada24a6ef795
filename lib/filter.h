/* SPDX-License-Identifier: Apache-2.0 */
/*
 * filter.h - the loop of every record tool: read, prepare, compute in batches, write in input order, tell the truth at the end.
 *
 * A bad record (a line that does not parse, or one that prepare refuses) stops the loop: what came before is computed and
 * written, then the error "stdin:LINE: why" is left and -1 returned.  With skip_bad it is set aside in the reject file as
 * {"line":N,"error":"...","record":"raw text"} and counted.
 */
#ifndef SAL_FILTER_H
#define SAL_FILTER_H
#include "lib/jsonl.h"
#include "lib/opts.h"

struct sal_group { /* records that belong together; n is 1 unless by_id */
	struct sal_record **rec;
	int n;
	void *user; /* the tool's own, made by prepare */
	char *bad;  /* malloc'd by run: why these are bad record(s) after all */
};
struct sal_filter {
	void *ctx;
	bool by_id;  /* group adjacent records of one id */
	int window;  /* groups computed together */
	int (*prepare)(void *ctx, struct sal_group *g);           /* -1: bad record(s), errmsg says why; may be NULL */
	int (*run)(void *ctx, struct sal_group **g, int n);       /* compute; emit lines to g->rec[i]->out; -1: fatal, errmsg */
	void (*release)(void *ctx, struct sal_group *g);          /* free g->user; may be NULL */
	int (*plan)(void *ctx, struct sal_buf *out);              /* lines of what would be done, for --dry-run; -1: errmsg; may be NULL */
};
struct sal_counts {
	long records, bad, out; /* read, refused, lines written */
	long tokens;            /* set by the tool */
	long done, total;       /* records answered; of a training tool updates made, and to be made (a filter knows none: 0) */
	double start;
};
/* Read f ("stdin"), write to out.  0, or -1 with errmsg.  Counts are kept either way.  c->dry_run: the plan alone. */
int sal_filter_run(const struct sal_filter *f, const struct sal_common *c, FILE *in, FILE *out, struct sal_counts *n);
/* --dry-run of any tool: the lines of its plan on stderr, unless quiet; nothing is read. */
int sal_dry_run(const struct sal_common *c, int (*plan)(void *ctx, struct sal_buf *out), void *ctx);
/* Read all records into *r (malloc'd array of malloc'd records); 0, -1.  For tools that need their whole input. */
int sal_read_all(const struct sal_common *c, FILE *in, struct sal_record ***r, int *n, struct sal_counts *count);
/* The same; a record that check refuses (-1, errmsg) is a bad one. */
int sal_read_checked(const struct sal_common *c, FILE *in, int (*check)(void *ctx, const struct sal_record *r), void *ctx,
    struct sal_record ***r, int *n, struct sal_counts *count);
/*
 * Last words of a tool: flush and close stdout (an error there is reported and makes the status EXIT_FAILURE), then, unless
 * quiet or dry_run, the line "TOOL: N records, S s, T tokens/s, M MiB peak, SAL_CPU=isa" on stderr (isa NULL: left out).  Returns the status to exit with:
 * status, or EXIT_FAILURE; with skip_bad and no good record at all, EXIT_FAILURE.
 */
int sal_finish(int status, const struct sal_common *c, const struct sal_counts *n, const char *isa);
/*
 * How far it is, at most every second in one line on a terminal (unless the records go there), else a plain line every 30 s:
 * what is done, seconds, tokens/s, and with a total the seconds left.  quiet: nothing.
 */
void sal_progress(const struct sal_common *c, const struct sal_counts *n);
#endif
