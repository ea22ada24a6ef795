/* SPDX-License-Identifier: Apache-2.0 */
/* policy.c - one hash over everything that a log-probability depends on but the tokens. */
#include "lib/policy.h"

int
sal_policy_string(const struct sal_model *m, const struct sal_adapter *a, const struct sal_common *c, double temperature, char out[17])
{
	struct sal_buf b = { 0 };

	sal_buf_printf(&b, "%016llx %016llx %d %d %.9g %s %s", a ? (unsigned long long)a->hash : 0ULL, (unsigned long long)m->hash, c->dtype,
	    c->quantize, temperature, sal_dev_isa(m->dev), SAL_VERSION);
	if (b.failed) {
		sal_buf_free(&b);
		return sal_err("out of memory");
	}
	snprintf(out, 17, "%016llx", (unsigned long long)sal_hash(b.data, b.len));
	sal_buf_free(&b);
	return 0;
}
