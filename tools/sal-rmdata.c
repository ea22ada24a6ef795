/* SPDX-License-Identifier: Apache-2.0 */
/* sal-rmdata - preferences from judged pairs, contrast samples or public comparisons.  See sal-rmdata(1). */
#include "lib/prefer.h"
#include <stdlib.h>

/* Agreement, bias, correlations and counts, for a person. */
static void
report(const struct sal_prefer *p, const struct sal_common *c)
{
	struct sal_buf b = { 0 };

	if (c->quiet)
		return;
	sal_prefer_report(p, &b);
	if (!b.failed)
		fputs(b.data, stderr);
	sal_buf_free(&b);
}

int
main(int argc, char *argv[])
{
	struct sal_prefer_config f = { .passes = 4, .max_principles = 8, .geometric = 0.2, .negate = 0.5, .noise = -1, .rule_noise = 0.25,
		.boilerplate = 0.5, .language = 1 };
	const struct sal_opt opts[] = {
		{ 0, "from", SAL_OPT_CHOICE, &f.from, 0, 0, "judged|contrast-samples|hh|shp|released", "what the records are [judged]" },
		{ 'p', "principles", SAL_OPT_STR, &f.principles, 0, 0, "FILE", "collection that must know every principle used [not checked]" },
		{ 0, "dimensions", SAL_OPT_STR, &f.dimensions, 0, 0, "LIST", "dimensions to use, separated by commas [SALMON's eight, or all there are]" },
		{ 0, "passes", SAL_OPT_INT, &f.passes, 1, 1 << 20, "N", "times each pair is drawn for [4]" },
		{ 0, "max-principles", SAL_OPT_INT, &f.max_principles, 1, 64, "N", "most principles of a preference [8]" },
		{ 0, "geometric", SAL_OPT_REAL, &f.geometric, 1e-6, 1, "P", "parameter of the number of principles [0.2]" },
		{ 0, "negate", SAL_OPT_REAL, &f.negate, 0, 1, "P", "probability that a principle is negated [0.5]" },
		{ 0, "noise", SAL_OPT_REAL, &f.noise, 0, 1, "P", "probability that a label is flipped [0.1 for judged pairs, else 0]" },
		{ 0, "rule-noise", SAL_OPT_REAL, &f.rule_noise, 0, 1, "P", "the same where a rule set the label [0.25]" },
		{ 0, "boilerplate", SAL_OPT_REAL, &f.boilerplate, 0, 1, "P", "probability that an answer with \"As an AI language model\" loses [0.5]" },
		{ 0, "language", SAL_OPT_REAL, &f.language, 0, 1, "P", "probability that an answer in another language than the prompt's loses [1]" },
		{ 0, "agree", SAL_OPT_CHOICE, &f.agree, 0, 0, "both|mean", "score only where both orders agree, or always their mean [both]" },
		SAL_OPT_SEED(f.c),
		SAL_OPT_STREAM(f.c),
		SAL_OPT_DRY(f.c),
		SAL_OPT_QUIET(f.c),
		SAL_OPT_END
	};
	struct sal_prefer *p = NULL;
	struct sal_record **r = NULL;
	struct sal_counts n = { 0 };
	int n_records = 0, status = EXIT_FAILURE;

	sal_opts_parse(argc, argv, opts, "sal-rmdata [options] < judged-pairs > preferences",
	    "Turn judged pairs, or other comparisons, into preferences under principles.");

	sal_opts_only(f.from == SAL_FROM_JUDGED || f.from == SAL_FROM_RELEASED, "passes,max-principles,geometric,rule-noise,boilerplate,language,agree",
	    "with --from judged or released");

	if ((p = sal_prefer_open(&f)) == NULL) {
		sal_warn("%s", sal_errmsg());
		goto out;
	}
	if (f.c.dry_run ? sal_dry_run(&f.c, sal_prefer_plan, p) != 0
	                : sal_read_checked(&f.c, stdin, sal_prefer_check, p, &r, &n_records, &n) != 0 ||
	                      sal_prefer_run(p, r, n_records, stdout, &n) != 0) {
		sal_warn("%s", sal_errmsg());
		goto out;
	}
	if (!f.c.dry_run)
		report(p, &f.c);
	status = EXIT_SUCCESS;

out:
	status = sal_finish(status, &f.c, &n, NULL);
	for (int i = 0; i < n_records; i++)
		sal_record_free(r[i]);
	free(r);
	sal_prefer_close(p);
	return status;
}
