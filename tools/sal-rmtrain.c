/* SPDX-License-Identifier: Apache-2.0 */
/* sal-rmtrain - train a reward model (LoRA and a scalar head) on preferences.  See sal-rmtrain(1). */
#include "lib/train.h"

int
main(int argc, char *argv[])
{
	struct sal_train t = sal_train_defaults(SAL_LOSS_REWARD);
	const struct sal_opt opts[] = {
		SAL_OPT_MODEL(t.c),
		SAL_OPT_ADAPTER(t.c),
		SAL_OPT_BATCH(t.c, "pairs per update [64]"),
		{ 'p', "principles", SAL_OPT_STR, &t.principles, 0, 0, "FILE", "collection that the records' principles are in [rm]" },
		{ 0, "template", SAL_OPT_STR, &t.template, 0, 0, "FILE", "text that the reward model reads [reward.txt]" },
		{ 0, "instruction-len", SAL_OPT_INT, &t.limits.instruction, 1, 1 << 20, "N", "last tokens of the instruction kept [128]" },
		{ 0, "response-len", SAL_OPT_INT, &t.limits.response, 1, 1 << 20, "N", "first tokens of the response kept [768]" },
		{ 0, "max-len", SAL_OPT_INT, &t.limits.total, 1, 1 << 20, "N", "tokens of the whole text [1280]" },
		SAL_OPT_TRAIN(t),
		SAL_OPT_SEED(t.c),
		SAL_OPT_COMPUTE_TRAIN(t.c),
		SAL_OPT_STREAM(t.c),
		SAL_OPT_DRY(t.c),
		SAL_OPT_QUIET(t.c),
		SAL_OPT_END
	};

	sal_opts_parse(argc, argv, opts, "sal-rmtrain -m PATH -o DIR [options] < preferences > log",
	    "Train a reward model that scores an answer under any principles: a LoRA adapter and a scalar head.");
	if (!t.c.model || !t.output)
		sal_opts_fail("-m and -o are required");
	return sal_train_main(&t);
}
