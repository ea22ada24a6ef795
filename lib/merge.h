/* SPDX-License-Identifier: Apache-2.0 */
/* merge.h - an adapter made part of its base model, as a Hugging Face folder. */
#ifndef SAL_MERGE_H
#define SAL_MERGE_H
#include "lib/opts.h"
#include "lib/util.h"

/*
 * Write folder out (complete or absent): every tensor of c->model with W + scale B A in the place of each projection W that c->adapter (NULL: none)
 * has, in the type of c->dtype, one file, and the configuration and tokenizer beside it.  The model is a folder; one tensor at a
 * time is in memory.  A reward adapter's head stays where it is.  A folder that is at out is replaced; it may be, or hold,
 * neither model nor adapter.  *n: tensors written.
 */
int sal_merge(const struct sal_common *c, const char *out, long *n) SAL_USE_RESULT;
#endif
