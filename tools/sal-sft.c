/* SPDX-License-Identifier: Apache-2.0 */
/* sal-sft - fine-tune an adapter on answers, or on preferences with DPO.  See sal-sft(1). */
#include "lib/train.h"

int
main(int argc, char *argv[])
{
	struct sal_train t = sal_train_defaults(SAL_LOSS_SFT);
	const struct sal_opt opts[] = {
		SAL_OPT_MODEL(t.c),
		SAL_OPT_ADAPTER(t.c),
		SAL_OPT_BATCH(t.c, "records per update [128]"),
		{ 0, "loss", SAL_OPT_CHOICE, &t.loss, 0, 0, "sft|dpo", "cross-entropy of the response, or DPO [sft]" },
		{ 0, "beta", SAL_OPT_REAL, &t.beta, 1e-9, 1e9, "B", "DPO's beta [0.1]" },
		{ 0, "format", SAL_OPT_STR, &t.format, 0, 0, "NAME", "chat format of text records [the model's own]" },
		{ 0, "system", SAL_OPT_STR, &t.system, 0, 0, "TEXT", "system turn of text records [the format's own]" },
		{ 0, "prompt-len", SAL_OPT_INT, &t.prompt_len, 0, 1 << 20, "N", "last tokens of a prompt kept, with its BOS; 0: all [0]" },
		{ 0, "response-len", SAL_OPT_INT, &t.response_len, 0, 1 << 20, "N", "first tokens of an answer kept; 0: all [0]" },
		SAL_OPT_TRAIN(t),
		SAL_OPT_SEED(t.c),
		SAL_OPT_COMPUTE_TRAIN(t.c),
		SAL_OPT_STREAM(t.c),
		SAL_OPT_DRY(t.c),
		SAL_OPT_QUIET(t.c),
		SAL_OPT_END
	};

	sal_opts_parse(argc, argv, opts, "sal-sft -m PATH -o DIR [options] < records > log",
	    "Fine-tune a LoRA adapter on prompt/response records, or on preferences with --loss dpo.");
	if (!t.c.model || !t.output)
		sal_opts_fail("-m and -o are required");
	sal_opts_only(t.loss == SAL_LOSS_DPO, "beta", "with --loss dpo");
	return sal_train_main(&t);
}
