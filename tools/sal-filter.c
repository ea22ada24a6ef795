/* SPDX-License-Identifier: Apache-2.0 */
/* sal-filter - Self-Align samples in, records for sal-sft out.  See sal-filter(1). */
#include "lib/selfalign.h"
#include <stdlib.h>

/* How often each rule applied, for a person. */
static void
report(const struct sal_selfalign *s, const struct sal_common *c)
{
	struct sal_buf b = { 0 };

	if (c->quiet || c->dry_run)
		return;
	sal_selfalign_report(s, &b);
	if (!b.failed)
		fputs(b.data, stderr);
	sal_buf_free(&b);
}

int
main(int argc, char *argv[])
{
	struct sal_selfalign_config g = { .rules = "selfalign.json", .min_chars = 160 };
	const struct sal_opt opts[] = {
		{ 0, "rules", SAL_OPT_STR, &g.rules, 0, 0, "FILE", "texts that the rules look for [selfalign.json]" },
		{ 0, "min-chars", SAL_OPT_INT, &g.min_chars, 0, 1 << 30, "N", "shortest complete answer, its end marker counted [160]" },
		{ 0, "number", SAL_OPT_FLAG, &g.number, 0, 0, 0, "add example_id: 1, 2, ... in the order of the output" },
		{ 0, "compat", SAL_OPT_CHOICE, &g.compat, 0, 0, "none|salmon", "salmon: cut at the first repetition, write the end marker [none]" },
		SAL_OPT_STREAM(g.c),
		SAL_OPT_DRY(g.c),
		SAL_OPT_QUIET(g.c),
		SAL_OPT_END
	};
	struct sal_selfalign *s = NULL;
	struct sal_counts n = { 0 };
	int status = EXIT_FAILURE;

	sal_opts_parse(argc, argv, opts, "sal-filter [options] < samples > records",
	    "Keep the Self-Align samples that are fit to train on, and what of them is.");

	if ((s = sal_selfalign_open(&g)) == NULL) {
		sal_warn("%s", sal_errmsg());
		goto out;
	}
	struct sal_filter f = sal_selfalign_filter(s);
	if (sal_filter_run(&f, &g.c, stdin, stdout, &n) != 0) {
		sal_warn("%s", sal_errmsg());
		goto out;
	}
	report(s, &g.c);
	status = EXIT_SUCCESS;

out:
	status = sal_finish(status, &g.c, &n, NULL);
	sal_selfalign_close(s);
	return status;
}
