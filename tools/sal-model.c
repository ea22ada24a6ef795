/* SPDX-License-Identifier: Apache-2.0 */
/* sal-model - what a model is, what a run of it takes, and an adapter merged into it.  See sal-model(1). */
#include "lib/merge.h"
#include "lib/plan.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { PLAN, INSPECT, MERGE };

struct config {
	struct sal_plan p;
	int command;
	const char *memory, *output;
	struct sal_counts *n;
};

static int
run(struct config *cfg, struct sal_buf *lines, struct sal_buf *told)
{
	long tensors;

	if (cfg->command == INSPECT)
		return sal_inspect(cfg->p.c.model, lines, &cfg->n->out);
	cfg->n->out = 1;
	if (cfg->command == PLAN)
		return sal_plan_run(&cfg->p, lines, told);
	if (sal_merge(&cfg->p.c, cfg->output, &tensors) != 0)
		return -1;
	sal_buf_printf(lines, "{\"output\":");
	sal_json_put_text(lines, cfg->output, strlen(cfg->output));
	sal_buf_printf(lines, ",\"tensors\":%ld}\n", tensors);
	return lines->failed ? sal_err("out of memory") : 0;
}

static int
dry(void *ctx, struct sal_buf *out)
{
	static const char *const name[] = { "plan", "inspect", "merge" };
	struct config *cfg = ctx;
	struct sal_config c;
	struct sal_buf line = { 0 };

	sal_buf_printf(out, "%s %s%s%s\n", name[cfg->command], cfg->p.c.model, cfg->command == MERGE ? " into " : "",
	    cfg->command == MERGE ? cfg->output : "");
	if (cfg->command != PLAN)
		return sal_config_read(cfg->p.c.model, &c);
	int rc = sal_plan_run(&cfg->p, &line, NULL);
	sal_buf_free(&line);
	return rc;
}

int
main(int argc, char *argv[])
{
	struct sal_counts n = { .start = sal_now() };
	struct config cfg = { .n = &n, .p = { .c = { .device = "cuda", .batch = 1 }, .length = 0, .micro_batch = 1024, .ranks = 1, .lora_r = 64,
	    .trained = -1, .frozen = -1, .lora_targets = "all" } };
	const struct sal_opt opts[] = {
		{ 0, "command", SAL_OPT_COMMAND, &cfg.command, 0, 0, "plan|inspect|merge", 0 },
		SAL_OPT_MODEL(cfg.p.c),
		{ 'a', "adapter", SAL_OPT_STR, &cfg.p.c.adapter, 0, 0, "DIR", "merge: the adapter [none]" },
		{ 'o', "output", SAL_OPT_STR, &cfg.output, 0, 0, "DIR", "merge: where the model is written (required there)" },
		{ 0, "stage", SAL_OPT_CHOICE, &cfg.p.stage, 0, 0, "ppo|train|score|generate", "what is planned [ppo]" },
		SAL_OPT_BATCH(cfg.p.c, "records of an update, or computed together, over all ranks [1]"),
		{ 0, "length", SAL_OPT_INT, &cfg.p.length, 1, 1 << 20, "N", "tokens of a record, prompt and response [the model's context]" },
		{ 0, "micro-batch", SAL_OPT_INT, &cfg.p.micro_batch, 1, 1 << 20, "N", "tokens computed together in training and scoring [1024]" },
		{ 0, "ranks", SAL_OPT_INT, &cfg.p.ranks, 1, 65536, "N", "devices that share the records [1]" },
		{ 0, "lora-r", SAL_OPT_INT, &cfg.p.lora_r, 1, 4096, "N", "rank of every adapter [64]" },
		{ 0, "lora-targets", SAL_OPT_STR, &cfg.p.lora_targets, 0, 0, "LIST", "their projections, separated by commas [all]" },
		{ 0, "trained", SAL_OPT_INT, &cfg.p.trained, 0, 64, "N", "adapters trained [those of the stage: 2, 1, 0, 0]" },
		{ 0, "frozen", SAL_OPT_INT, &cfg.p.frozen, 0, 64, "N", "adapters only read [those of the stage: 1, 0, 1, 1]" },
		{ 0, "device-memory", SAL_OPT_STR, &cfg.memory, 0, 0, "SIZE", "what the sum must fit into, as 80G [any]" },
		{ 0, "tflops", SAL_OPT_REAL, &cfg.p.tflops, 1e-6, 1e9, "T", "the device's peak, 1e12 operations a second [312; of a cpu none]" },
		{ 0, "bandwidth", SAL_OPT_REAL, &cfg.p.bandwidth, 1e-6, 1e9, "B", "of its memory, 1e9 bytes a second [2039; of a cpu none]" },
		{ 'd', "device", SAL_OPT_STR, &cfg.p.c.device, 0, 0, "NAME", "whose memory is planned, cpu or cuda [cuda]" },
		{ 0, "dtype", SAL_OPT_CHOICE, &cfg.p.c.dtype, 0, 0, "bf16|f32", "plan: compute type; merge: type that is written [bf16]" },
		SAL_OPT_QUANTIZE(cfg.p.c),
		SAL_OPT_DRY(cfg.p.c),
		SAL_OPT_QUIET(cfg.p.c),
		SAL_OPT_END
	};
	struct sal_buf lines = { 0 }, told = { 0 };
	int status = EXIT_SUCCESS;

	sal_opts_parse(argc, argv, opts, "sal-model plan|inspect|merge -m PATH [options] > record",
	    "Tell what a model is, or what a run of it takes of a device; merge an adapter into it.");
	if (!cfg.p.c.model)
		sal_opts_fail("-m is required");
	if ((cfg.command == MERGE) != (cfg.output != NULL))
		sal_opts_fail("-o is %s", cfg.output ? "for merge" : "required");
	sal_opts_only(cfg.command == MERGE, "adapter", "with merge");
	sal_opts_only(cfg.command != INSPECT, "dtype", "with plan and merge");
	sal_opts_only(cfg.command == PLAN, "stage,batch,length,micro-batch,ranks,lora-r,lora-targets,trained,frozen,device-memory,tflops,bandwidth,device,quantize",
	    "with plan");
	if (cfg.memory && sal_plan_bytes(cfg.memory, &cfg.p.memory) != 0)
		sal_opts_fail("--device-memory: %s", sal_errmsg());

	if ((cfg.p.c.dry_run ? sal_dry_run(&cfg.p.c, dry, &cfg) : run(&cfg, &lines, &told)) != 0) {
		sal_warn("%s", sal_errmsg());
		status = EXIT_FAILURE;
	}
	if (fwrite(lines.data ? lines.data : "", 1, lines.len, stdout) != lines.len || fflush(stdout) != 0) {
		if (status == EXIT_SUCCESS) /* else the cause has been told */
			sal_warn("stdout: %s", strerror(errno));
		status = EXIT_FAILURE;
	}
	if (told.len && !cfg.p.c.quiet && status == EXIT_SUCCESS) /* a refusal is one line */
		fputs(told.data, stderr);
	status = sal_finish(status, &cfg.p.c, &n, NULL);
	sal_buf_free(&lines);
	sal_buf_free(&told);
	return status;
}
