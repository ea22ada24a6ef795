/* SPDX-License-Identifier: Apache-2.0 */
/* sal-prompts - prompts from the records of data sets: cleaned, limited, each once.  See sal-prompts(1). */
#include "lib/prompts.h"
#include <stdlib.h>

/* Sources, and how often each rule applied, for a person. */
static void
report(const struct sal_prompts *p, const struct sal_common *c)
{
	struct sal_buf b = { 0 };

	if (c->quiet || c->dry_run)
		return;
	sal_prompts_report(p, &b);
	if (!b.failed)
		fputs(b.data, stderr);
	sal_buf_free(&b);
}

int
main(int argc, char *argv[])
{
	struct sal_prompts_config g = { .min_tokens = -1, .max_tokens = -1, .length_bonus = "1,-0.4,0" };
	const struct sal_opt opts[] = {
		{ 0, "from", SAL_OPT_CHOICE, &g.from, 0, 0, SAL_PROMPTS_FROM, "what the records are; auto: by their fields, each [auto]" },
		{ 'm', "model", SAL_OPT_STR, &g.c.model, 0, 0, "PATH", "model whose tokenizer counts: a Hugging Face folder or a .gguf file [no limits]" },
		{ 0, "min-tokens", SAL_OPT_INT, &g.min_tokens, 0, 1 << 30, "N", "fewest tokens, BOS included, with -m [2]" },
		{ 0, "max-tokens", SAL_OPT_INT, &g.max_tokens, 0, 1 << 30, "N", "most tokens, BOS included, with -m [256]" },
		{ 0, "near", SAL_OPT_REAL, &g.near, 0, 1, "S", "drop a prompt as similar as S to one kept before; 0: off [0]" },
		{ 0, "cap", SAL_OPT_LIST, &g.cap, 0, 0, "[SOURCE=]N", "draw at most N prompts of a source; may be repeated [no cap]" },
		{ 0, "question-type", SAL_OPT_CHOICE, &g.question_type, 0, 0, "source|general|reasoning|red-team", "type of the prompts [source]" },
		{ 0, "length-bonus", SAL_OPT_STR, &g.length_bonus, 0, 0, "LIST", "factors of general, reasoning and red-team prompts [1,-0.4,0]" },
		{ 0, "compat", SAL_OPT_CHOICE, &g.compat, 0, 0, "none|salmon", "salmon: cut fractions at both ends, as the release does [none]" },
		SAL_OPT_SEED(g.c),
		SAL_OPT_STREAM(g.c),
		SAL_OPT_DRY(g.c),
		SAL_OPT_QUIET(g.c),
		SAL_OPT_END
	};
	struct sal_prompts *p = NULL;
	struct sal_counts n = { 0 };
	int status = EXIT_FAILURE;

	sal_opts_parse(argc, argv, opts, "sal-prompts [options] < records > prompts", "Make prompts of the records of data sets.");
	if (!g.c.model && (g.min_tokens >= 0 || g.max_tokens >= 0))
		sal_opts_fail("--min-tokens and --max-tokens need -m");
	if (g.max_tokens >= 0 && g.min_tokens > g.max_tokens)
		sal_opts_fail("--min-tokens is above --max-tokens");
	if (sal_prompts_check(&g) != 0)
		sal_opts_fail("%s", sal_errmsg());

	if ((p = sal_prompts_open(&g, &n)) == NULL) {
		sal_warn("%s", sal_errmsg());
		goto out;
	}
	struct sal_filter f = sal_prompts_filter(p);
	if (sal_filter_run(&f, &g.c, stdin, stdout, &n) != 0 || (!g.c.dry_run && sal_prompts_end(p, stdout) != 0)) {
		sal_warn("%s", sal_errmsg());
		goto out;
	}
	report(p, &g.c);
	status = EXIT_SUCCESS;

out:
	status = sal_finish(status, &g.c, &n, NULL);
	sal_prompts_close(p);
	free(g.cap.s);
	return status;
}
