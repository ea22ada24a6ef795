/* SPDX-License-Identifier: Apache-2.0 */
/* sal-generate - prompts in, samples out.  See sal-generate(1). */
#include "lib/generate.h"
#include <stdlib.h>

int
main(int argc, char *argv[])
{
	struct sal_generate_config g = { .c = { .batch = 32 }, .n = 1, .max_tokens = 512, .temperature = 0.7, .top_p = 1 };
	const struct sal_opt opts[] = {
		SAL_OPT_MODEL(g.c),
		SAL_OPT_ADAPTER(g.c),
		SAL_OPT_BATCH(g.c, "sequences decoded together; changes no byte [32]"),
		{ 'n', "samples", SAL_OPT_INT, &g.n, 1, 4096, "N", "samples a prompt [1]" },
		{ 0, "max-tokens", SAL_OPT_INT, &g.max_tokens, 1, 1 << 20, "N", "new tokens at most [512]" },
		{ 0, "temperature", SAL_OPT_REAL, &g.temperature, 0, 100, "T", "0: the likeliest token [0.7]" },
		{ 0, "top-p", SAL_OPT_REAL, &g.top_p, 0, 1, "P", "keep the smallest set with this much mass [1]" },
		{ 0, "top-k", SAL_OPT_INT, &g.top_k, 0, 1 << 24, "K", "keep the K likeliest tokens; 0: all [0]" },
		{ 0, "min-p", SAL_OPT_REAL, &g.min_p, 0, 1, "P", "keep tokens of at least P times the largest probability [0]" },
		{ 0, "stop", SAL_OPT_LIST, &g.stop, 0, 0, "TEXT", "end an answer before this text; may be repeated" },
		{ 0, "format", SAL_OPT_STR, &g.format, 0, 0, "NAME", "dromedary, chatml, llama2, llama3, mistral, zephyr or none [the model's own]" },
		{ 0, "system", SAL_OPT_STR, &g.system, 0, 0, "TEXT", "system turn [the format's own]" },
		{ 0, "tokens", SAL_OPT_FLAG, &g.tokens, 0, 0, 0, "also write token ids, their log-probabilities and the policy" },
		{ 'p', "principles", SAL_OPT_STR, &g.principles, 0, 0, "FILE", "put one drawn principle into the system turn" },
		{ 0, "sign", SAL_OPT_CHOICE, &g.sign, 0, 0, "+|-", "the principle itself, or its negation [+]" },
		SAL_OPT_SEED(g.c),
		SAL_OPT_COMPUTE(g.c),
		SAL_OPT_STREAM(g.c),
		SAL_OPT_DRY(g.c),
		SAL_OPT_QUIET(g.c),
		SAL_OPT_END
	};
	struct sal_generate *m = NULL;
	struct sal_counts n = { 0 };
	int status = EXIT_FAILURE;

	sal_opts_parse(argc, argv, opts, "sal-generate -m PATH [options] < prompts > samples", "Sample answers to prompts.");
	if (!g.c.model)
		sal_opts_fail("-m is required");
	if (g.system && g.principles)
		sal_opts_fail("--system and --principles exclude each other");
	sal_opts_only(g.principles, "sign", "with --principles");

	if ((m = sal_generate_open(&g)) == NULL) {
		sal_warn("%s", sal_errmsg());
		goto out;
	}
	struct sal_filter f = sal_generate_filter(m, &n);
	if (sal_filter_run(&f, &g.c, stdin, stdout, &n) != 0) {
		sal_warn("%s", sal_errmsg());
		goto out;
	}
	status = EXIT_SUCCESS;

out:
	status = sal_finish(status, &g.c, &n, m ? sal_generate_isa(m) : NULL);
	sal_generate_close(m);
	free(g.stop.s);
	return status;
}
