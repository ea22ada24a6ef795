/* SPDX-License-Identifier: Apache-2.0 */
/*
 * plan.h - what a run takes of a device, and how long its card needs for it at least, before anything is started.
 *
 * Bytes come from the functions that reserve them; nothing is opened but the configuration (of a .gguf file, its header too).
 */
#ifndef SAL_PLAN_H
#define SAL_PLAN_H
#include "lib/filter.h"
#include "lib/model.h"

enum sal_stage { SAL_STAGE_PPO, SAL_STAGE_TRAIN, SAL_STAGE_SCORE, SAL_STAGE_GENERATE };
extern const char *const sal_stage_name[4];

struct sal_plan {
	struct sal_common c; /* model, device, dtype, quantize; batch: over all ranks */
	int stage;
	int length, micro_batch, ranks, lora_r; /* length: of a record, 0: the model's context */
	int trained, frozen;  /* adapters; -1: those of the stage */
	const char *lora_targets;
	double memory;        /* bytes of the device; 0: any */
	double tflops, bandwidth; /* of the device at its peak: 1e12 operations, 1e9 bytes a second; 0: an A100's, of a CPU none, and no time is told */
};

/* One JSON object as a line, and the same for people, a line each, in told (may be NULL). -1 with errmsg: also if it does not fit. */
int sal_plan_run(const struct sal_plan *p, struct sal_buf *line, struct sal_buf *told) SAL_USE_RESULT;
/* "80G", "512M", "1.5T", "1000": bytes in powers of ten; -1 with errmsg. */
int sal_plan_bytes(const char *text, double *bytes) SAL_USE_RESULT;

/* A model's configuration as one line, then each tensor as one. */
int sal_inspect(const char *path, struct sal_buf *lines, long *n) SAL_USE_RESULT;
#endif
