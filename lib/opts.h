/* SPDX-License-Identifier: Apache-2.0 */
/*
 * opts.h - one table per tool is its parser (getopt_long), its bounds and its --help.
 * --help and --version print on stdout and exit 0; a usage error is one line on stderr, exit 2.
 */
#ifndef SAL_OPTS_H
#define SAL_OPTS_H
#include <stdbool.h>
#include <stdint.h>

enum sal_opt_kind {
	SAL_OPT_END_, SAL_OPT_FLAG /* bool */, SAL_OPT_STR /* const char * */, SAL_OPT_INT /* int */,
	SAL_OPT_U64 /* uint64_t */, SAL_OPT_REAL /* double; finite */, SAL_OPT_CHOICE /* int: index in "a|b|c" given as arg */,
	SAL_OPT_LIST, /* struct sal_strs: may be repeated, none empty */
	SAL_OPT_COMMAND /* int: the one operand, an index in "a|b|c" given as arg; first in the table, if it is there at all */
};
struct sal_strs {
	const char **s;
	int n;
};
struct sal_opt {
	int letter; /* 0: none */
	const char *name;
	enum sal_opt_kind kind;
	void *value;     /* holds the default before parsing */
	double min, max; /* of INT and REAL; both 0: any */
	const char *arg, *help; /* help ends in the default, in brackets */
};
#define SAL_OPT_END { 0, 0, SAL_OPT_END_, 0, 0, 0, 0, 0 }

/* Choices of --quantize, in the order of SAL_QUANTIZE_CHOICES. */
enum sal_quantize { SAL_QUANTIZE_NONE, SAL_QUANTIZE_NF4, SAL_QUANTIZE_INT8 };
#define SAL_QUANTIZE_CHOICES "none|nf4|int8"

/* What every tool has; the same letter means the same everywhere. */
struct sal_common {
	const char *model, *adapter, *device, *reject;
	int dtype;    /* 0 bf16, 1 f32 */
	int quantize; /* enum sal_quantize */
	int batch, threads;
	uint64_t seed;
	bool quiet, skip_bad, dry_run;
};
#define SAL_OPT_MODEL(c) { 'm', "model", SAL_OPT_STR, &(c).model, 0, 0, "PATH", "model: a Hugging Face folder or a .gguf file (required)" }
#define SAL_OPT_ADAPTER(c) { 'a', "adapter", SAL_OPT_STR, &(c).adapter, 0, 0, "DIR", "PEFT adapter to apply" }
#define SAL_OPT_THREADS(c) { 'j', "threads", SAL_OPT_INT, &(c).threads, 0, 4096, "N", "threads, 0 for one per core [0]" }
#define SAL_OPT_QUANTIZE(c) \
	{ 0, "quantize", SAL_OPT_CHOICE, &(c).quantize, 0, 0, SAL_QUANTIZE_CHOICES, "base weights: none, as the file has them, nf4, in 4 bits, or int8, in 8 bits [none]" }
#define SAL_OPT_QUANTIZE_TRAIN(c) /* nothing is trained through 8 bits */ \
	{ 0, "quantize", SAL_OPT_CHOICE, &(c).quantize, 0, 0, "none|nf4", "base weights: none, as the file has them, or nf4, in 4 bits [none]" }
#define SAL_OPT_COMPUTE_WITH(c, quantize) \
	{ 'd', "device", SAL_OPT_STR, &(c).device, 0, 0, "NAME", "cpu or cuda[:N] [cpu]" }, \
	{ 0, "dtype", SAL_OPT_CHOICE, &(c).dtype, 0, 0, "bf16|f32", "compute type [bf16]" }, \
	quantize, SAL_OPT_THREADS(c)
#define SAL_OPT_COMPUTE(c) SAL_OPT_COMPUTE_WITH(c, SAL_OPT_QUANTIZE(c))
#define SAL_OPT_COMPUTE_TRAIN(c) SAL_OPT_COMPUTE_WITH(c, SAL_OPT_QUANTIZE_TRAIN(c))
#define SAL_OPT_BATCH(c, text) { 'b', "batch", SAL_OPT_INT, &(c).batch, 1, 65536, "N", text }
#define SAL_OPT_SEED(c) { 0, "seed", SAL_OPT_U64, &(c).seed, 0, 0, "N", "seed of every random draw [0]" }
#define SAL_OPT_STREAM(c) \
	{ 0, "skip-bad", SAL_OPT_FLAG, &(c).skip_bad, 0, 0, 0, "set bad records aside instead of stopping" }, \
	{ 0, "reject", SAL_OPT_STR, &(c).reject, 0, 0, "FILE", "where --skip-bad writes them, with line and error" }
#define SAL_OPT_QUIET(c) { 'q', "quiet", SAL_OPT_FLAG, &(c).quiet, 0, 0, 0, "nothing on stderr but errors" }
#define SAL_OPT_DRY(c) { 0, "dry-run", SAL_OPT_FLAG, &(c).dry_run, 0, 0, 0, "check options and files, print the plan on stderr, and stop" }

/*
 * Parse; usage: "sal-x -m PATH [options] < in > out", first line of --help, about: one sentence.
 * Operands are refused, but for a command.  Returns only when all is well.
 * From here on the process ignores SIGXFSZ, so that write() fails instead, and on SIGBUS it says that a mapped file was cut short and ends.
 */
void sal_opts_parse(int argc, char *argv[], const struct sal_opt *opts, const char *usage, const char *about);
/* After parsing: a usage error if one of names (separated by commas) was given and may not be: "--NAME: only WHEN". */
void sal_opts_only(bool may, const char *names, const char *when);
/* End with a usage error: "TOOL: message (try TOOL --help)", exit 2. */
_Noreturn void sal_opts_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
#endif
