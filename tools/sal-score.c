/* SPDX-License-Identifier: Apache-2.0 */
/* sal-score - rewards under principles, or log-probabilities, of records.  See sal-score(1). */
#include "lib/score.h"
#include <stdlib.h>

int
main(int argc, char *argv[])
{
	struct sal_score_config s = { .c = { .batch = 64 }, .temperature = 1, .principles = "rm", .template = "reward.txt",
		.limits = { .instruction = 128, .response = 768, .total = 1280 } };
	const struct sal_opt opts[] = {
		SAL_OPT_MODEL(s.c),
		SAL_OPT_ADAPTER(s.c),
		SAL_OPT_BATCH(s.c, "records computed together; changes no byte [64]"),
		{ 0, "logprobs", SAL_OPT_FLAG, &s.logprobs, 0, 0, 0, "write the log-probability of each response token instead of a reward" },
		{ 0, "entropy", SAL_OPT_FLAG, &s.entropy, 0, 0, 0, "with --logprobs: the entropy at each of them too" },
		{ 0, "temperature", SAL_OPT_REAL, &s.temperature, 1e-6, 1e6, "T", "of the distribution that --logprobs reads [1]" },
		{ 'p', "principles", SAL_OPT_STR, &s.principles, 0, 0, "FILE", "collection of principles [rm]" },
		{ 0, "under", SAL_OPT_STR, &s.under, 0, 0, "LIST", "score under these dimensions, separated by commas [the record's own]" },
		{ 0, "draw", SAL_OPT_INT, &s.draw, 0, 64, "K", "draw K principles for a record that brings none [0]" },
		{ 0, "negate", SAL_OPT_FLAG, &s.negate, 0, 0, 0, "score under the negation of every principle" },
		{ 0, "template", SAL_OPT_STR, &s.template, 0, 0, "FILE", "text that the reward model reads [reward.txt]" },
		{ 0, "instruction-len", SAL_OPT_INT, &s.limits.instruction, 1, 1 << 20, "N", "last tokens of the instruction kept [128]" },
		{ 0, "response-len", SAL_OPT_INT, &s.limits.response, 1, 1 << 20, "N", "first tokens of the response kept [768]" },
		{ 0, "max-len", SAL_OPT_INT, &s.limits.total, 1, 1 << 20, "N", "tokens of the whole text [1280]" },
		{ 0, "format", SAL_OPT_STR, &s.format, 0, 0, "NAME", "with --logprobs: chat format of text records [the model's own]" },
		{ 0, "system", SAL_OPT_STR, &s.system, 0, 0, "TEXT", "with --logprobs: system turn of text records [the format's own]" },
		SAL_OPT_SEED(s.c),
		SAL_OPT_COMPUTE(s.c),
		SAL_OPT_STREAM(s.c),
		SAL_OPT_DRY(s.c),
		SAL_OPT_QUIET(s.c),
		SAL_OPT_END
	};
	struct sal_score *m = NULL;
	struct sal_counts n = { 0 };
	int status = EXIT_FAILURE;

	sal_opts_parse(argc, argv, opts, "sal-score -m PATH -a DIR [options] < records > records",
	    "Add the reward of a reward adapter to samples or preferences, or log-probabilities to samples.");
	if (!s.c.model || (!s.c.adapter && !s.logprobs))
		sal_opts_fail("-m is required, and -a unless --logprobs is given");
	sal_opts_only(s.logprobs, "entropy,temperature,format,system", "with --logprobs");
	sal_opts_only(!s.logprobs, "principles,under,draw,negate,template,instruction-len,response-len,max-len", "without --logprobs");
	if (s.under && s.draw)
		sal_opts_fail("--under and --draw exclude each other");

	if ((m = sal_score_open(&s)) == NULL) {
		sal_warn("%s", sal_errmsg());
		goto out;
	}
	struct sal_filter f = sal_score_filter(m, &n);
	if (sal_filter_run(&f, &s.c, stdin, stdout, &n) != 0) {
		sal_warn("%s", sal_errmsg());
		goto out;
	}
	status = EXIT_SUCCESS;

out:
	status = sal_finish(status, &s.c, &n, m ? sal_score_isa(m) : NULL);
	sal_score_close(m);
	return status;
}
