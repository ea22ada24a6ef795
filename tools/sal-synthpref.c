/* SPDX-License-Identifier: Apache-2.0 */
/* sal-synthpref - judge pairs of answers, principle by principle.  See sal-synthpref(1). */
#include "lib/judge.h"
#include <stdlib.h>

int
main(int argc, char *argv[])
{
	struct sal_judge_config j = { .c = { .batch = 8 }, .min_chars = 16, .principles = "rm", .template = "judge.txt" };
	const struct sal_opt opts[] = {
		SAL_OPT_MODEL(j.c),
		SAL_OPT_ADAPTER(j.c),
		SAL_OPT_BATCH(j.c, "groups of an id computed together; changes no byte [8]"),
		{ 0, "judge", SAL_OPT_CHOICE, &j.judge, 0, 0, "compare|contrast", "show both answers, or weigh likelihoods [compare]" },
		{ 'p', "principles", SAL_OPT_STR, &j.principles, 0, 0, "FILE", "collection to judge under [rm]" },
		{ 0, "template", SAL_OPT_STR, &j.template, 0, 0, "FILE", "text that compare shows [judge.txt]" },
		{ 0, "format", SAL_OPT_STR, &j.format, 0, 0, "NAME", "chat format of contrast [the model's own]" },
		{ 0, "min-chars", SAL_OPT_INT, &j.min_chars, 0, 1 << 20, "N", "samples with a shorter answer make no pair [16]" },
		SAL_OPT_COMPUTE(j.c),
		SAL_OPT_STREAM(j.c),
		SAL_OPT_DRY(j.c),
		SAL_OPT_QUIET(j.c),
		SAL_OPT_END
	};
	struct sal_judge *m = NULL;
	struct sal_counts n = { 0 };
	int status = EXIT_FAILURE;

	sal_opts_parse(argc, argv, opts, "sal-synthpref -m PATH [options] < samples-or-pairs > judged-pairs",
	    "Judge which of two answers follows each principle better.");
	if (!j.c.model)
		sal_opts_fail("-m is required");
	sal_opts_only(j.judge == 0, "template", "with --judge compare");
	sal_opts_only(j.judge == 1, "format", "with --judge contrast");

	if ((m = sal_judge_open(&j)) == NULL) {
		sal_warn("%s", sal_errmsg());
		goto out;
	}
	struct sal_filter f = sal_judge_filter(m, &n);
	if (sal_filter_run(&f, &j.c, stdin, stdout, &n) != 0) {
		sal_warn("%s", sal_errmsg());
		goto out;
	}
	status = EXIT_SUCCESS;

out:
	status = sal_finish(status, &j.c, &n, m ? sal_judge_isa(m) : NULL);
	sal_judge_close(m);
	return status;
}
