/* SPDX-License-Identifier: Apache-2.0 */
/* sal-best - the best samples of each id, or its best against its worst.  See sal-best(1). */
#include "lib/prefer.h"
#include <stdlib.h>

struct best {
	struct sal_common c;
	int n;
	bool pairs;
	long made, even; /* preferences; ids that make none */
};

static double
reward(const struct sal_record *r)
{
	double x = 0;

	return sal_json_num(r->json, "reward", &x) == 0 ? x : 0; /* prepare has seen it */
}

static int
prepare(void *ctx, struct sal_group *g)
{
	const struct best *b = ctx;
	double x;

	for (int i = 0; i < g->n; i++)
		if (sal_json_num(g->rec[i]->json, "reward", &x) != 0 ||
		    (b->pairs && (sal_prefer_has_prompt(g->rec[i]->json) != 0 || sal_json_str(g->rec[i]->json, "response") == NULL)))
			return g->n > 1 ? sal_err("record %d of its id: %s", i + 1, sal_errmsg()) : -1;
	return 0;
}

/* Those that fewer than n others beat; of equal rewards the earlier one is better.  In input order, as they were. */
static int
keep(struct sal_group *g, int n)
{
	for (int i = 0; i < g->n; i++) {
		struct sal_record *r = g->rec[i];
		int better = 0;
		for (int k = 0; k < g->n; k++)
			better += k < i ? reward(g->rec[k]) >= reward(r) : reward(g->rec[k]) > reward(r);
		if (better >= n)
			continue;
		sal_buf_put(&r->out, r->text, r->text_len);
		sal_buf_puts(&r->out, "\n");
		if (r->out.failed)
			return sal_err("out of memory");
	}
	return 0;
}

static int
pair(struct best *b, struct sal_group *g)
{
	struct sal_record *top = g->rec[0], *low = g->rec[0];
	char *id;

	for (int i = 1; i < g->n; i++) {
		top = reward(g->rec[i]) > reward(top) ? g->rec[i] : top;
		low = reward(g->rec[i]) < reward(low) ? g->rec[i] : low;
	}
	b->even += reward(top) == reward(low);
	if (reward(top) == reward(low))
		return 0;
	b->made++;
	if ((id = sal_record_id(top)) == NULL)
		return -1;
	cJSON *o = sal_prefer_new(top, id, sal_json_str(top->json, "response"), sal_json_str(low->json, "response"));
	free(id);
	if (o == NULL || sal_json_add_double(o, "reward_chosen", reward(top)) != 0 || sal_json_add_double(o, "reward_rejected", reward(low)) != 0) {
		cJSON_Delete(o);
		return -1;
	}
	return sal_prefer_emit_sample(top, o);
}

static int
run(void *ctx, struct sal_group **g, int n)
{
	struct best *b = ctx;
	int rc = 0;

	for (int i = 0; i < n && rc == 0; i++)
		rc = b->pairs ? pair(b, g[i]) : keep(g[i], b->n);
	return rc;
}

static int
plan(void *ctx, struct sal_buf *out)
{
	const struct best *b = ctx;

	if (b->pairs)
		sal_buf_printf(out, "a preference of each id: its best sample against its worst\n");
	else
		sal_buf_printf(out, "the best %d of each id\n", b->n);
	return 0;
}

/* Fewer preferences than ids are not what a person expects. */
static void
report(const struct best *b)
{
	if (b->pairs && !b->c.quiet && !b->c.dry_run)
		sal_warn("%ld preference%s; %ld id%s made none: one sample, or one reward", b->made, b->made == 1 ? "" : "s", b->even, b->even == 1 ? "" : "s");
}

int
main(int argc, char *argv[])
{
	struct best b = { .n = 1 };
	const struct sal_opt opts[] = {
		{ 'n', "best", SAL_OPT_INT, &b.n, 1, 1 << 20, "K", "samples kept of each id [1]" },
		{ 0, "pairs", SAL_OPT_FLAG, &b.pairs, 0, 0, 0, "write the best against the worst of each id as a preference" },
		SAL_OPT_STREAM(b.c),
		SAL_OPT_DRY(b.c),
		SAL_OPT_QUIET(b.c),
		SAL_OPT_END
	};
	const struct sal_filter f = { .ctx = &b, .by_id = true, .window = 1, .prepare = prepare, .run = run, .plan = plan };
	struct sal_counts n = { 0 };
	int status = EXIT_FAILURE;

	sal_opts_parse(argc, argv, opts, "sal-best [options] < scored-samples > samples",
	    "Keep the samples of highest reward of each id; samples of an id stand together.");
	if (b.pairs && b.n != 1)
		sal_opts_fail("--pairs and -n exclude each other");

	if (sal_filter_run(&f, &b.c, stdin, stdout, &n) != 0) {
		sal_warn("%s", sal_errmsg());
		goto out;
	}
	report(&b);
	status = EXIT_SUCCESS;

out:
	return sal_finish(status, &b.c, &n, NULL);
}
