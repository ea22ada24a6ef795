/* SPDX-License-Identifier: Apache-2.0 */
/* test_released.c - Python's order, and the release's answers and judgements joined by it. */
#include "lib/released.h"
#include <stdlib.h>
#include <string.h>

static int number, failed;

static void
ok(int good, const char *what)
{
	printf("%sok %d - %s\n", good ? "" : "not ", ++number, what);
	failed |= !good;
}

/* The pairs of these lines as text, one a line; NULL: refused. */
static char *
join(const char *const *line, int n)
{
	struct sal_record *r[16] = { 0 }, **pair = NULL;
	struct sal_buf b = { 0 };
	int k = 0, rc = 0;

	for (int i = 0; rc == 0 && i < n; i++)
		rc = (r[i] = sal_record_parse(line[i], strlen(line[i]), i + 1)) ? sal_released_check(r[i]) : -1;
	if (rc == 0)
		rc = sal_released_join(r, n, &pair, &k);
	for (int i = 0; i < k; i++) {
		sal_buf_puts(&b, pair[i]->text);
		sal_buf_puts(&b, "\n");
		sal_record_free(pair[i]);
	}
	free(pair);
	for (int i = 0; i < n; i++)
		sal_record_free(r[i]);
	if (rc != 0)
		printf("# %s\n", sal_errmsg());
	return rc == 0 ? b.data : NULL;
}

int
main(void)
{
	static const int want[] = { 7, 3, 2, 8, 5, 6, 9, 4, 0, 1 }; /* random.Random(42).shuffle of 0 .. 9 */
	int p[1000], seen[1000] = { 0 }, good;
	/* sorted: a, b, b, c; a pair c has an answer of 15 characters, one of b has 16; so three pairs, which Python orders 1, 0, 2 */
	static const char *const in[] = {
		"{\"instruction\":\"b\",\"input\":\"\",\"output\":{\"generation\":\"the first of bbb\"}}", "{\"instruction\":\"c\",\"output\":{\"generation\":\"long enough by itself\"}}",
		"{\"instruction\":\"a\",\"input\":\"i\",\"output\":{\"generation\":\"  one answer to a \\n\\n### User\\nmore\"}}",
		"{\"instruction\":\"b\",\"input\":\"\",\"output\":{\"generation\":\"second of b, twice asked\"}}",
		"{\"instruction\":\"a\",\"input\":\"i\",\"output\":{\"generation\":\"### only a heading here\"}}", "{\"instruction\":\"b\",\"output\":\"other first of b, as text\"}",
		"{\"instruction\":\"b\",\"output\":{\"generation\":\"other second of b, as text\"}}", "{\"instruction\":\"c\",\"output\":{\"generation\":\"\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9 short!\"}}",
		"{\"example_idx\":0,\"dimension\":\"A\",\"preference\":0,\"prompt_preference\":1,\"relative_score\":[9,9]}",
		"{\"example_idx\":1,\"dimension\":\"A\",\"relative_score\":[3,4]}", "{\"example_idx\":0,\"dimension\":\"A\",\"relative_score\":[1,2]}" };

	sal_python_shuffle(42, p, 10);
	ok(memcmp(p, want, sizeof want) == 0, "the order of random.Random(42).shuffle");
	sal_python_shuffle(42, p, 1000);
	good = p[0] == 776 && p[1] == 507 && p[999] == 654; /* by Python 3.11 */
	for (int i = 0; i < 1000; i++)
		seen[p[i]]++;
	for (int i = 0; i < 1000; i++)
		good &= seen[i] == 1;
	ok(good, "a thousand, beyond one block of the generator");
	char *got = join(in, 11);
	ok(got && strcmp(got, "{\"instruction\":\"b\",\"input\":\"\",\"output_1\":\"the first of bbb\",\"output_2\":\"other first of b, as text\",\"judgements\":{\"A\":[1,2]},\"id\":0}\n"
	                      "{\"instruction\":\"a\",\"input\":\"i\",\"output_1\":\"one answer to a\",\"output_2\":\"\",\"judgements\":{\"A\":[3,4]},\"id\":1}\n") == 0,
	    "paired in sorted order, short ones left out, cut at a heading, judged by place; the last line counts");
	if (got)
		printf("# %s", got);
	free(got);
	ok(join(in, 3) == NULL && join(in + 1, 7) == NULL && join(in, 2) == NULL, "answers of other instructions, or of one run more, are refused");
	static const char *const far[] = { "{\"example_idx\":5,\"dimension\":\"A\",\"relative_score\":[1,2]}", "{\"example_idx\":0,\"dimension\":\"A\",\"relative_score\":[1]}", "{\"instruction\":\"b\"}" };
	ok(join(far, 1) == NULL && join(far + 1, 1) == NULL && join(far + 2, 1) == NULL, "a place beyond the pairs, a score that is none, no answer");
	printf("1..%d\n", number);
	return failed;
}
