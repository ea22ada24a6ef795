/* SPDX-License-Identifier: Apache-2.0 */
/* test_prefer.c - the arithmetic of preferences: variance, score, subset size, split of transcripts; and one whole run. */
#include "lib/prefer.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static int number, failed;

static void
ok(int good, const char *what)
{
	printf("%sok %d - %s\n", good ? "" : "not ", ++number, what);
	failed |= !good;
}

static int
split_is(const char *a, const char *b, const char *prefix)
{
	size_t at = 0;
	int rc = sal_prefer_split(a, b, &at);

	return prefix ? rc == 0 && at == strlen(prefix) && strncmp(a, prefix, at) == 0 : rc == -1;
}

/* The lines that a run writes; malloc'd. */
static char *
run(const struct sal_prefer_config *cfg, const char *const *line, int n, struct sal_buf *report)
{
	struct sal_prefer *p = sal_prefer_open(cfg);
	struct sal_record *r[8] = { 0 };
	struct sal_counts count = { 0 };
	char *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);
	int rc = p && f ? 0 : -1;

	for (int i = 0; rc == 0 && i < n; i++)
		rc = (r[i] = sal_record_parse(line[i], strlen(line[i]), i + 1)) && sal_prefer_check(p, r[i]) == 0 ? 0 : -1;
	if (rc == 0)
		rc = sal_prefer_run(p, r, n, f, &count);
	if (rc == 0 && report)
		sal_prefer_report(p, report);
	if (f)
		fclose(f);
	for (int i = 0; i < n; i++)
		sal_record_free(r[i]);
	sal_prefer_close(p);
	if (rc == 0)
		return text;
	printf("# %s\n", sal_errmsg());
	free(text);
	return NULL;
}

static int
gives(const struct sal_prefer_config *cfg, const char *const *line, int n, const char *want)
{
	char *got = run(cfg, line, n, NULL);
	int same = got && want ? strcmp(got, want) == 0 : !got && !want;

	if (!same)
		printf("# got %s\n", got ? got : "nothing");
	free(got);
	return same;
}

static const struct sal_prefer_config plain = { .passes = 1, .max_principles = 8, .geometric = 1e-6, .boilerplate = 0 };

static void
test_arithmetic(void)
{
	const double x[] = { 1, 2, 3, 4 }, same[] = { 0.1, 0.1, 0.1 }, y[] = { 2, 9, 4, 9, 6, 9, 8, 9 }, down[] = { 4, 3, 2, 1 };

	ok(sal_prefer_variance(x, 4) == 1.25 && sal_prefer_variance(same, 3) == 0 && sal_prefer_variance(x, 0) == 0, "variance of the population");
	ok(fabs(sal_prefer_correlation(x, down, 4, 1) + 1) < 1e-15 && fabs(sal_prefer_correlation(y, y, 4, 2) - 1) < 1e-15 &&
	    isnan(sal_prefer_correlation(x, same, 3, 1)), "correlation, with a stride, of a constant");
	ok(sal_prefer_score(1, 3, 0.5, SAL_AGREE_BOTH) == 4 && sal_prefer_score(-1, -3, 0.5, SAL_AGREE_BOTH) == -4, "orders that agree");
	ok(sal_prefer_score(-1, 3, 0.5, SAL_AGREE_BOTH) == 0 && sal_prefer_score(0, 3, 0.5, SAL_AGREE_BOTH) == 0 &&
	    sal_prefer_score(-1, 3, 0.5, SAL_AGREE_MEAN) == 2 && sal_prefer_score(1, 1, 0, SAL_AGREE_MEAN) == 0, "orders that do not, no variance");
}

static void
test_size(void)
{
	static const double want[] = { .2403, .1923, .1538, .1230, .0984, .0787, .0630, .0504 }; /* method.md 5b */
	long count[9] = { 0 }, n = 1 << 16;
	int good = 1;

	for (long i = 0; i < n; i++)
		count[sal_prefer_size(0.2, 8, (float)i / (float)n)]++;
	for (int k = 1; k <= 8; k++)
		good &= fabs((double)count[k] / (double)n - want[k - 1]) < 1e-4;
	ok(good, "sizes are geometric, redrawn until 8");
	ok(sal_prefer_size(1, 8, 0.999999f) == 1 && sal_prefer_size(0.2, 1, 0.5f) == 1 && sal_prefer_size(0.2, 3, 0x1.fffffep-1f) == 3 &&
	    sal_prefer_size(1e-6, 4, 0.76f) == 4, "sizes at the ends");
}

static void
test_split(void)
{
	ok(split_is("Human: a\n\nAssistant: yes", "Human: a\n\nAssistant: you", "Human: a\n\nAssistant:"), "the first difference");
	ok(split_is("Human: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d", "Human: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: e",
	       "Human: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:"), "the last turn");
	ok(split_is("Human: a\n\nAssistant: y", "Human: a\n\nAssistant: yes", "Human: a\n\nAssistant:") &&
	    split_is("Human: a\n\nAssistant:", "Human: a\n\nAssistant: yes", "Human: a\n\nAssistant:"), "one is a prefix of the other");
	ok(split_is("abc", "abd", NULL) && split_is("", "", NULL) && split_is("Assistant: a", "assistant: a", NULL), "nothing in common");
}

static void
test_judged(void)
{
	/* variance of A over 1,3,-1,-3: 5; of B over 2,2,-2,2: 3 */
	const char *const in[] = { "{\"id\":\"p\",\"prompt\":\"q\",\"x\":1e3,\"output_1\":\"one\",\"output_2\":\"two\",\"judgements\":{\"A\":[1,3]}}",
		"{\"prompt\":\"q2\",\"output_1\":\"one\",\"output_2\":\"two\",\"judgements\":{\"A\":[-1,-3]}}" };
	const char *const two[] = { "{\"id\":\"p\",\"prompt\":\"q\",\"output_1\":\"1\",\"output_2\":\"2\",\"judgements\":{\"A\":[1,3],\"B\":[2,2]}}",
		"{\"id\":\"r\",\"prompt\":\"q\",\"output_1\":\"1\",\"output_2\":\"2\",\"judgements\":{\"A\":[-1,-3],\"B\":[-2,2]}}" };
	const char *const rule[] = { "{\"id\":1,\"prompt\":\"q\",\"output_1\":\"As an AI language model, no\",\"output_2\":\"yes\",\"judgements\":{\"A\":[1,3]}}",
		"{\"id\":2,\"prompt\":\"q\",\"output_1\":\"1\",\"output_2\":\"2\",\"judgements\":{\"A\":[1,-1]}}" };
	struct sal_prefer_config c = plain;
	struct sal_buf report = { 0 };

	ok(gives(&c, in, 2,
	       "{\"id\":\"p\",\"prompt\":\"q\",\"x\":1e3,\"chosen\":\"one\",\"rejected\":\"two\",\"principles\":[{\"dimension\":\"A\",\"negated\":false}],"
	       "\"deciding\":\"A\",\"scores\":{\"A\":0.40000000000000002},\"flipped\":false,\"rule\":null,\"pass\":0}\n"
	       "{\"prompt\":\"q2\",\"id\":\"bec804343a0847c0\",\"chosen\":\"two\",\"rejected\":\"one\",\"principles\":[{\"dimension\":\"A\",\"negated\":false}],"
	       "\"deciding\":\"A\",\"scores\":{\"A\":-0.40000000000000002},\"flipped\":false,\"rule\":null,\"pass\":0}\n"), "one principle decides");
	c.negate = 1;
	ok(gives(&c, in, 2,
	       "{\"id\":\"p\",\"prompt\":\"q\",\"x\":1e3,\"chosen\":\"two\",\"rejected\":\"one\",\"principles\":[{\"dimension\":\"A\",\"negated\":true}],"
	       "\"deciding\":\"A\",\"scores\":{\"A\":-0.40000000000000002},\"flipped\":false,\"rule\":null,\"pass\":0}\n"
	       "{\"prompt\":\"q2\",\"id\":\"bec804343a0847c0\",\"chosen\":\"one\",\"rejected\":\"two\",\"principles\":[{\"dimension\":\"A\",\"negated\":true}],"
	       "\"deciding\":\"A\",\"scores\":{\"A\":0.40000000000000002},\"flipped\":false,\"rule\":null,\"pass\":0}\n"), "negated, it decides the other way");
	c = plain;
	c.passes = 64;
	c.geometric = 0.5;
	char *got = run(&c, two, 2, &report);
	/* where B is alone: p is B's, r is skipped; where both are shown B (2/3) beats A (2/5) for p, and A decides for r */
	int good = got != NULL;
	long lines = 0;
	for (char *s = got ? strtok(got, "\n") : NULL; s; s = strtok(NULL, "\n"), lines++) {
		int p = strstr(s, "\"id\":\"p\"") != NULL, b = strstr(s, "\"B\",\"negated\"") != NULL;
		good &= strstr(s, b && p ? "\"deciding\":\"B\"" : "\"deciding\":\"A\"") != NULL && strstr(s, p ? "\"chosen\":\"1\"" : "\"chosen\":\"2\"") != NULL;
		good &= p || !b || strstr(s, "\"B\":0") != NULL;
	}
	ok(good && lines > 90 && lines < 128, "the largest score decides, a zero is skipped");
	ok(report.data && strstr(report.data, "100.0%   +0.0000") && strstr(report.data, " 50.0%   -1.0000") && strstr(report.data, "skipped"),
	    "agreement and bias are reported");
	free(got);
	sal_buf_free(&report);
	c = plain;
	c.boilerplate = 1;
	ok(gives(&c, rule, 2,
	       "{\"id\":1,\"prompt\":\"q\",\"chosen\":\"yes\",\"rejected\":\"As an AI language model, no\",\"principles\":[{\"dimension\":\"A\",\"negated\":false}],"
	       "\"deciding\":\"A\",\"scores\":{\"A\":1},\"flipped\":false,\"rule\":\"boilerplate\",\"pass\":0}\n"), "boilerplate loses");
	static const char *const lang[] = {
		"{\"id\":1,\"prompt\":\"Who?\",\"output_1\":\"\xE4\xBD\xA0\",\"output_2\":\"you\",\"judgements\":{\"A\":[1,3]}}",
		"{\"id\":2,\"prompt\":\"Who?\",\"output_1\":\"\xE4\xBD\xA0\",\"output_2\":\"\xE4\xBD\xA0 2\",\"judgements\":{\"A\":[-1,3]}}",
		"{\"id\":3,\"prompt\":\"3 + 4?\",\"output_1\":\"\xE4\xBD\xA0\",\"output_2\":\"7\",\"judgements\":{\"A\":[1,3]}}",
		"{\"id\":4,\"prompt\":\"Who?\",\"output_1\":\"moi\",\"output_2\":\"me\",\"lang\":[\"en\",\"fr\",\"en\"],\"judgements\":{\"A\":[1,3]}}",
		"{\"id\":5,\"prompt\":\"Who?\",\"output_1\":\"moi\",\"output_2\":\"toi\",\"lang\":[\"en\",\"fr\",\"fr\"],\"judgements\":{\"A\":[1,3]}}" };
	c = plain;
	c.language = 1;
	c.agree = SAL_AGREE_MEAN;
	got = run(&c, lang, 5, &report);
	ok(got && strstr(got, "\"id\":1,\"prompt\":\"Who?\",\"chosen\":\"you\"") && !strstr(got, "\"id\":2") &&
	    strstr(got, "\"id\":3,\"prompt\":\"3 + 4?\",\"chosen\":\"\xE4\xBD\xA0\"") && strstr(got, "\"id\":4,\"prompt\":\"Who?\",\"chosen\":\"me\"") &&
	    !strstr(got, "\"id\":5") && !strstr(got, "\"lang\"") && strstr(report.data, "2 skipped (neither answer") && strstr(report.data, "2 by the rule on languages"),
	    "an answer in another language loses, two of them are skipped");
	free(got);
	sal_buf_free(&report);
	c.language = 0;
	got = run(&c, lang, 5, NULL);
	ok(got && strstr(got, "\"id\":1,\"prompt\":\"Who?\",\"chosen\":\"\xE4\xBD\xA0\"") && strstr(got, "\"id\":2") && !strstr(got, "language"), "unless it is switched off");
	free(got);
	c = plain;
	c.boilerplate = 1;
	c.noise = c.rule_noise = 1;
	got = run(&c, rule, 2, NULL);
	ok(got && strstr(got, "\"rejected\":\"yes\"") && strstr(got, "\"flipped\":true"), "noise flips");
	free(got);
}

static void
test_refused(void)
{
	const char *const bad[] = { "{\"prompt\":\"q\",\"output_1\":\"a\",\"output_2\":\"b\"}", "{\"output_1\":\"a\",\"output_2\":\"b\",\"judgements\":{\"A\":[1,2]}}",
		"{\"prompt\":\"q\",\"output_1\":\"a\",\"output_2\":\"b\",\"judgements\":{\"A\":[1]}}",
		"{\"prompt\":\"q\",\"output_1\":\"a\",\"output_2\":\"b\",\"judgements\":{\"A\":[1,\"2\"]}}",
		"{\"prompt\":\"q\",\"output_1\":\"a\",\"output_2\":\"b\",\"judgements\":{}}", "{\"prompt\":\"q\",\"output_1\":\"a\",\"judgements\":{\"A\":[1,2]}}" };
	const char *const other[] = { "{\"prompt\":\"q\",\"output_1\":\"a\",\"output_2\":\"b\",\"judgements\":{\"A\":[1,2]}}",
		"{\"prompt\":\"q\",\"output_1\":\"a\",\"output_2\":\"b\",\"judgements\":{\"A\":[1,2],\"B\":[1,2]}}" };
	struct sal_prefer_config c = plain;
	int good = 1;

	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		good &= gives(&c, bad + i, 1, NULL);
	ok(good, "records without a needed field");
	ok(gives(&c, other, 2, NULL), "other dimensions than the first record's");
	c.dimensions = "A,A";
	ok(sal_prefer_open(&c) == NULL, "a dimension given twice");
	c.dimensions = "A,";
	ok(sal_prefer_open(&c) == NULL, "a dimension without a name");
	c.dimensions = "B";
	ok(gives(&c, other, 1, NULL), "a dimension that is not judged");
	c.dimensions = "A";
	char *got = run(&c, other, 2, NULL);
	ok(got && strstr(got, "\"B\"") == NULL, "one dimension of several");
	free(got);
}

static void
test_sources(void)
{
	const char *const s[] = {
		"{\"id\":\"p\",\"prompt\":\"q\",\"sample\":0,\"response\":\"short\",\"sampled_under\":{\"dimension\":\"C\",\"negated\":false}}",
		"{\"id\":\"q\",\"prompt\":\"q\",\"sample\":0,\"response\":\"alone\",\"sampled_under\":{\"dimension\":\"C\",\"negated\":false}}",
		"{\"id\":\"p\",\"prompt\":\"q\",\"sample\":0,\"response\":\"very long\",\"has_stop\":true,\"sampled_under\":{\"dimension\":\"C\",\"negated\":true}}",
		"{\"id\":\"p\",\"prompt\":\"q\",\"sample\":1,\"response\":\"other\",\"sampled_under\":{\"dimension\":\"D\",\"negated\":true}}" };
	const char *const hh[] = { "{\"chosen\":\"\\n\\nHuman: a\\n\\nAssistant: yes \",\"rejected\":\"\\n\\nHuman: a\\n\\nAssistant: yes, no\"}" };
	const char *const shp[] = {
		"{\"post_id\":\"x\",\"history\":\"h\",\"human_ref_A\":\"a\",\"human_ref_B\":\"b\",\"labels\":0,\"score_ratio\":2.5}",
		"{\"post_id\":\"y\",\"history\":\"h\",\"human_ref_A\":\"a\",\"human_ref_B\":\"b\",\"labels\":1,\"score_ratio\":2.0}" };
	struct sal_prefer_config c = plain;

	c.from = SAL_FROM_CONTRAST;
	ok(gives(&c, s, 4, "{\"id\":\"p\",\"prompt\":\"q\",\"chosen\":\"short\",\"rejected\":\"very long\",\"principles\":[{\"dimension\":\"C\",\"negated\":false}],"
	                   "\"deciding\":\"C\",\"flipped\":false,\"rule\":\"by_construction\"}\n"), "a sample against its negation");
	c.negate = 1;
	ok(gives(&c, s, 4, "{\"id\":\"p\",\"prompt\":\"q\",\"chosen\":\"very long\",\"rejected\":\"short\",\"principles\":[{\"dimension\":\"C\",\"negated\":true}],"
	                   "\"deciding\":\"C\",\"flipped\":false,\"rule\":\"by_construction\"}\n"), "shown negated, the other one is chosen");
	c.from = SAL_FROM_HH;
	char *got = run(&c, hh, 1, NULL);
	ok(got && strstr(got, "\"chosen\":\"yes\",\"rejected\":\"yes, no\",\"prompt\":\"Human: a\\n\\nAssistant:\",\"principles\":[]"), "HH: one a prefix of the other");
	free(got);
	c.from = SAL_FROM_SHP;
	got = run(&c, shp, 2, NULL);
	ok(got && strstr(got, "\"post_id\":\"x\",\"score_ratio\":2.5,\"id\":\"") && strstr(got, "\"chosen\":\"b\",\"rejected\":\"a\",\"prompt\":\"h\",\"principles\":[]") &&
	    !strstr(got, "\"y\""), "SHP: label 0 is B, a ratio above 2");
	free(got);
}

/* Shares of flipped labels over n pairs, of those that no rule decided and of those that one did: 4 standard deviations. */
static void
test_noise(void)
{
	enum { N = 4000 };
	struct sal_prefer_config c = plain;
	struct sal_record **r = calloc(N, sizeof *r);
	struct sal_counts count = { 0 };
	struct sal_prefer *p;
	char line[256], *text = NULL, *at;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);
	long n[2] = { 0 }, flipped[2] = { 0 };
	int rc = 0;

	c.noise = 0.1;
	c.rule_noise = 0.25;
	c.boilerplate = 0.5;
	p = sal_prefer_open(&c);
	for (int i = 0; r && p && rc == 0 && i < N; i++) {
		int k = snprintf(line, sizeof line, "{\"id\":%d,\"prompt\":\"q\",\"output_1\":\"As an AI language model\",\"output_2\":\"b\",\"judgements\":{\"A\":[%d,%d]}}", i, i % 2 ? 1 : -1, i % 2 ? 2 : -2);
		rc = (r[i] = sal_record_parse(line, (size_t)k, i + 1)) ? sal_prefer_check(p, r[i]) : -1;
	}
	rc = r && p && f && rc == 0 ? sal_prefer_run(p, r, N, f, &count) : -1;
	if (f)
		fclose(f);
	for (char *s = text ? strtok_r(text, "\n", &at) : NULL; s; s = strtok_r(NULL, "\n", &at)) {
		int k = strstr(s, "\"rule\":null") == NULL;
		n[k]++;
		flipped[k] += strstr(s, "\"flipped\":true") != NULL;
	}
	ok(rc == 0 && n[0] + n[1] == N && fabs((double)n[1] / N - 0.5) < 4 * sqrt(0.25 / N), "the boilerplate rule decides every second time");
	ok(n[0] > 0 && n[1] > 0 && fabs((double)flipped[0] / (double)n[0] - 0.1) < 4 * sqrt(0.09 / (double)n[0]) &&
	    fabs((double)flipped[1] / (double)n[1] - 0.25) < 4 * sqrt(0.1875 / (double)n[1]), "a tenth of the labels is flipped, of a rule's a quarter");
	for (int i = 0; r && i < N; i++)
		sal_record_free(r[i]);
	free(r);
	free(text);
	sal_prefer_close(p);
}

int
main(void)
{
	test_noise();
	test_arithmetic();
	test_size();
	test_split();
	test_judged();
	test_refused();
	test_sources();
	printf("1..%d\n", number);
	return failed;
}
