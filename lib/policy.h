/* SPDX-License-Identifier: Apache-2.0 */
/* policy.h - the name of a policy: who sampled these tokens, so that a trainer may trust their log-probabilities. */
#ifndef SAL_POLICY_H
#define SAL_POLICY_H
#include "lib/lora.h"
/* 16 hex digits of adapter, base, dtype, quantize, temperature, instruction set and version. a: NULL for the bare model. */
int sal_policy_string(const struct sal_model *m, const struct sal_adapter *a, const struct sal_common *c, double temperature, char out[17]) SAL_USE_RESULT;
#endif
