/* SPDX-License-Identifier: Apache-2.0 */
/*
 * clean.h - what web pages left in prompts that people shared: page counters, buttons, a disclaimer.
 *
 * The rules run in this order, each strips white space at both ends after it, and all of them only cut.  A counter is "N / M",
 * the number of an edited message.  The release (compat) takes any fraction at an end of the text for one, so that
 * "What is 3/4" loses its 3/4; here a counter has its spaces, 1 <= N <= M, and is glued to a word or alone on its line.
 * "1 / 1" between two words is one wherever it stands.
 */
#ifndef SAL_CLEAN_H
#define SAL_CLEAN_H
#include "lib/util.h"

enum sal_clean_rule {
	SAL_CLEAN_LEADING, SAL_CLEAN_TRAILING, SAL_CLEAN_AFTER, SAL_CLEAN_KOREAN, SAL_CLEAN_MENU, SAL_CLEAN_STRIP,
	SAL_CLEAN_SHARE, SAL_CLEAN_TRANSLATE, SAL_CLEAN_LANGUAGE, SAL_CLEAN_BING, SAL_CLEAN_RULES
};
extern const char *const sal_clean_name[SAL_CLEAN_RULES]; /* for a person */
/* Make text (UTF-8, *len bytes) the part of itself that stays.  Bit r of the result: rule r cut something. */
unsigned sal_clean(const char **text, size_t *len, bool compat);
/* White space at both ends, as Python's strip() takes it.  Whether there was any. */
bool sal_strip(const char **text, size_t *len);
#endif
