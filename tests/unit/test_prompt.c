/* SPDX-License-Identifier: Apache-2.0 */
/* test_prompt.c - templates, principle files, weighted draws, and the reward text (with a tokenizer of one token a byte). */
#include "lib/prompt.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int number, failed;

static void
ok(int good, const char *what)
{
	printf("%sok %d - %s\n", good ? "" : "not ", ++number, what);
	failed |= !good;
}

/* ---- a tokenizer: every byte is its own token, "<c>" outside of plain spans is token 300, BOS is 301 ---- */

int
sal_tokenize(const struct sal_tokenizer *tk, const char *text, size_t len, const struct sal_span *plain, int n_plain, struct sal_ids *out)
{
	int rc = 0;

	(void)tk;
	for (size_t i = 0; rc == 0 && i < len; i++) {
		bool control = len - i >= 3 && memcmp(text + i, "<c>", 3) == 0;
		for (int k = 0; k < n_plain; k++)
			control = control && (plain[k].end <= i || plain[k].start >= i + 3);
		rc = sal_ids_push(out, control ? 300 : (unsigned char)text[i]);
		i += control ? 2 : 0;
	}
	return rc;
}

int
sal_tokenize_plain(const struct sal_tokenizer *tk, const char *text, size_t len, struct sal_ids *out)
{
	struct sal_span all = { 0, len };

	return sal_tokenize(tk, text, len, &all, 1, out);
}

int
sal_detokenize(const struct sal_tokenizer *tk, const int32_t *id, int n, struct sal_buf *out)
{
	(void)tk;
	for (int i = 0; i < n; i++) {
		char c = (char)id[i];
		sal_buf_put(out, &c, 1);
	}
	return out->failed ? -1 : 0;
}

int
sal_tokenizer_bos(const struct sal_tokenizer *tk)
{
	(void)tk;
	return 301;
}

bool
sal_tokenizer_adds_bos(const struct sal_tokenizer *tk)
{
	(void)tk;
	return true;
}

/* ---- tests ---- */

static int
fills(const char *tmpl, const char *want, int want_spans)
{
	static const char *const name[] = { "A", "Long" }, *const value[] = { "{Long}", "" };
	struct sal_buf b = { 0 };
	struct sal_span *plain = NULL;
	int n = 0, good = sal_template_fill(tmpl, name, value, 2, &b, &plain, &n) == 0 && strcmp(b.data ? b.data : "", want) == 0 && n == want_spans;

	for (int i = 0; i < n; i++)
		good &= plain[i].end - plain[i].start == 6 || plain[i].end == plain[i].start;
	free(plain);
	sal_buf_free(&b);
	return good;
}

static void
test_template(void)
{
	ok(fills("x{A}y{Long}z", "x{Long}yz", 2), "inserted text is not scanned again");
	ok(fills("{B}{a}{}{A", "{B}{a}{}{A", 0) && fills("{{A}}", "{{Long}}", 1) && fills("{B {A}", "{B {Long}", 1) && fills("", "", 0), "other braces stay");
	ok(fills("{A}{A}{A}{A}{A}{A}{A}{A}{A}", "{Long}{Long}{Long}{Long}{Long}{Long}{Long}{Long}{Long}", 9), "many spans");
}

/* The principles in text, or NULL. */
static struct sal_principles *
principles(const char *path, const char *text)
{
	return sal_write_file(path, text, strlen(text)) == 0 ? sal_principles_open(path) : NULL;
}

static int
refused(const char *path, const char *text)
{
	struct sal_principles *p = principles(path, text);
	int good = p == NULL && strncmp(sal_errmsg(), path, strlen(path)) == 0;

	sal_principles_close(p);
	if (!good)
		printf("# %s: %s\n", text, sal_errmsg());
	return good;
}

static void
test_principles(const char *path)
{
	static const char *const bad[] = { "", "{}", "[]", "[1]", "[{}]", "[{\"dimension\":\"A\"}]", "[{\"dimension\":\"\",\"definition\":\"x\"}]",
		"[{\"dimension\":\"A\",\"definition\":\"\"}]", "[{\"dimension\":\"A\",\"definition\":3}]",
		"[{\"dimension\":\"A\",\"definition\":\"x\",\"negative_definition\":\"\"}]", "[{\"dimension\":\"A\",\"definition\":\"x\",\"weight\":-1}]",
		"[{\"dimension\":\"A\",\"definition\":\"x\",\"weight\":\"1\"}]", "[{\"dimension\":\"A\",\"definition\":\"x\",\"weight\":0}]",
		"[{\"dimension\":\"A\",\"definition\":\"x\"},{\"dimension\":\"A\",\"definition\":\"y\"}]", "[{\"dimension\":\"A\",\"definition\":\"x\"}] x" };
	char text[5200], x[4098];
	int good = 1;
	struct sal_principles *p = principles(path, "[{\"dimension\":\"A\",\"definition\":\"x\",\"more\":[1]},{\"name\":\"B\",\"positive\":\"y\",\"negative\":\"z\",\"weight\":2.5}]");

	ok(p && p->n == 2 && p->p[0].weight == 1 && p->p[0].negative == NULL && strcmp(p->p[1].dimension, "B") == 0 && strcmp(p->p[1].definition, "y") == 0 &&
	    strcmp(p->p[1].negative, "z") == 0 && p->p[1].weight == 2.5 && sal_principles_find(p, "B") == 1 && sal_principles_find(p, "b") == -1,
	    "a collection, in both spellings");
	sal_principles_close(p);
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		good &= refused(path, bad[i]);
	ok(good, "what is no collection is refused, the file is named");
	for (int n = 4096; n <= 4097; n++) {
		memset(x, 'x', (size_t)n);
		x[n] = '\0';
		snprintf(text, sizeof text, "[{\"dimension\":\"A\",\"definition\":\"%s\"}]", x);
		p = principles(path, text);
		good &= (p != NULL) == (n == 4096);
		sal_principles_close(p);
	}
	ok(good, "a text has at most 4096 bytes");
}

static void
test_paths(const char *dir)
{
	char path[300], *s = NULL, *at;

	snprintf(path, sizeof path, "%s/principles", dir);
	if (mkdir(path, 0700) != 0)
		failed = 1;
	snprintf(path, sizeof path, "%s/principles/sal_test_x.json", dir);
	struct sal_principles *p = principles(path, "[{\"dimension\":\"A\",\"definition\":\"x\"}]");
	sal_principles_close(p);
	setenv("SAL_PROMPTS", dir, 1);
	p = sal_principles_open("sal_test_x");
	ok(p && p->n == 1, "a collection by its name");
	sal_principles_close(p);
	ok(sal_principles_open("sal_test_none") == NULL && strstr(sal_errmsg(), "sal_test_none"), "a name that is nowhere");
	at = sal_prompt_path("principles");
	ok(at == NULL || strstr(at, "principles.json"), "a folder is no prompt");
	free(at);
	snprintf(path, sizeof path, "%s/t.txt", dir);
	ok(sal_write_file(path, "\n  a b \n\n", 9) == 0 && (s = sal_prompt_read("t.txt")) && strcmp(s, "a b") == 0, "a text is stripped");
	free(s);
	s = NULL;
	ok(sal_write_file(path, " \n", 2) == 0 && (s = sal_prompt_read(path)) && *s == '\0', "an empty text");
	free(s);
	unsetenv("SAL_PROMPTS");
}

/* Relative frequency of inclusion in n draws of 3. */
static int
included(const struct sal_principles *p, int type, double *f)
{
	const int n = type ? 1 << 16 : 1 << 20;
	struct sal_random r = sal_random_open(1, "test", "draw", (uint64_t)type);
	int pick[3];

	for (int i = 0; i < p->n; i++)
		f[i] = 0;
	for (int i = 0; i < n; i++) {
		if (sal_principles_draw(p, 3, type, &r, pick) != 0 || pick[0] == pick[1] || pick[0] == pick[2] || pick[1] == pick[2])
			return -1;
		for (int k = 0; k < 3; k++)
			f[pick[k]] += 1.0 / n;
	}
	return 0;
}

static int
near(double got, double want)
{
	if (fabs(got - want) < 0.01 * want)
		return 1;
	printf("# %.4f, not %.3f\n", got, want);
	return 0;
}

static void
test_draw(const char *path)
{
	struct sal_principles *p = sal_principles_open("prompts/principles/ppo.json");
	double f[64], want;
	int good = 1, pick[4], a, b;
	struct sal_random r = sal_random_open(1, "test", "draw", 9);

	if (p == NULL || p->n != 14) {
		printf("ok %d - inclusion probabilities # skip %s\n", ++number, sal_errmsg());
	} else {
		good = included(p, 0, f) == 0;
		for (int i = 0; i < p->n; i++) {
			want = p->p[i].weight == 4 ? .4125 : p->p[i].weight == 3 ? .3255 : p->p[i].weight == 2 ? .2274 : .1187; /* by enumeration */
			good &= near(f[i], want);
		}
		ok(good, "inclusion probabilities of three draws");
		a = sal_principles_find(p, "Consistent Reasoning");
		b = sal_principles_find(p, "Numerical Sensitive");
		ok(a >= 0 && b >= 0 && included(p, 1, f) == 0 && near(f[a], .979) && near(f[b], .979), "a reasoning question");
		a = sal_principles_find(p, "Ethical");
		ok(a >= 0 && included(p, 2, f) == 0 && near(f[a], .997), "a red-team question");
	}
	sal_principles_close(p);
	p = principles(path, "[{\"dimension\":\"A\",\"definition\":\"x\",\"weight\":0},{\"dimension\":\"B\",\"definition\":\"x\"},"
	                     "{\"dimension\":\"ReASONing\",\"definition\":\"x\",\"weight\":0}]");
	ok(p && sal_principles_draw(p, 1, 0, &r, pick) == 0 && pick[0] == 1 && sal_principles_draw(p, 2, 0, &r, pick) == -1, "weight 0 is never drawn");
	ok(p && sal_principles_draw(p, 2, 1, &r, pick) == 0 && pick[0] != 0 && pick[1] != 0 && sal_principles_draw(p, 0, 0, &r, pick) == 0, "a weight by the type of question");
	sal_principles_close(p);
}

static int
reads(const struct sal_principles *p, const char *instruction, const char *response, struct sal_reward_limits lim, const char *want)
{
	static const int pick[] = { 1, 0 };
	static const bool negated[] = { true, false };
	struct sal_ids ids = { 0 };
	struct sal_buf b = { 0 };
	int rc = sal_ids_push(&ids, 7) != 0 || sal_reward_ids(NULL, "<c>{Output}|{Input}|{Dimensions}|isok", instruction, response, p, pick, negated, 2, lim, &ids);

	if (want && rc == 0 && ids.n > 1)
		rc = ids.id[0] != 7 || ids.id[1] != 301 || ids.id[2] != 300 || sal_detokenize(NULL, ids.id + 3, ids.n - 3, &b) != 0 || strcmp(b.data, want) != 0;
	else if (want || rc == 0)
		rc = 1;
	else
		rc = 0;
	if (rc)
		printf("# %s\n", b.data ? b.data : sal_errmsg());
	free(ids.id);
	sal_buf_free(&b);
	return !rc;
}

static void
test_reward(const char *path)
{
	struct sal_principles *p = principles(path, "[{\"dimension\":\"A\",\"definition\":\"x\"},{\"dimension\":\"B\",\"definition\":\"y\",\"negative_definition\":\"z\"}]");
	const int pick[] = { 0 };
	const bool negated[] = { true };
	struct sal_ids ids = { 0 };

	if (p == NULL) {
		ok(0, "principles for the reward text");
		return;
	}
	ok(reads(p, "ask", "answer", (struct sal_reward_limits){ 0, 0, 0 }, "answer|ask|- z\n- x|isok"), "the reward text: BOS, answer, instruction, principles, stub");
	ok(reads(p, "ask", "answer", (struct sal_reward_limits){ 2, 3, 0 }, "ans|sk|- z\n- x|isok"), "the end of the instruction, the start of the answer");
	ok(reads(p, "{Output}", "<c>", (struct sal_reward_limits){ 0, 0, 0 }, "<c>|{Output}|- z\n- x|isok"), "content is content");
	/* BOS, <c>, three bars, 7 of principles, 4 of the stub: 16 */
	ok(reads(p, "ask", "answer", (struct sal_reward_limits){ 0, 0, 25 }, "answer|ask|- z\n- x|isok") &&
	    reads(p, "ask", "answer", (struct sal_reward_limits){ 0, 0, 22 }, "ans|ask|- z\n- x|isok"), "too long: the answer is shortened");
	ok(reads(p, "ask", "answer", (struct sal_reward_limits){ 0, 0, 18 }, "|sk|- z\n- x|isok") &&
	    reads(p, "ask", "answer", (struct sal_reward_limits){ 0, 0, 16 }, "||- z\n- x|isok"), "then the instruction: the stub survives");
	ok(reads(p, "ask", "answer", (struct sal_reward_limits){ 0, 0, 15 }, NULL), "a text that cannot fit");
	ok(sal_reward_ids(NULL, "{Dimensions}", "a", "b", p, pick, negated, 1, (struct sal_reward_limits){ 0, 0, 0 }, &ids) == -1 &&
	    strstr(sal_errmsg(), "'A'"), "a negation that is not there");
	free(ids.id);
	sal_principles_close(p);
}

int
main(void)
{
	char dir[] = "/tmp/sal_test_XXXXXX", path[200], cmd[200];

	if (!mkdtemp(dir))
		return 1;
	snprintf(path, sizeof path, "%s/p.json", dir);
	test_template();
	test_principles(path);
	test_paths(dir);
	test_draw(path);
	test_reward(path);
	snprintf(cmd, sizeof cmd, "rm -rf %s", dir);
	if (system(cmd) != 0)
		failed = 1;
	printf("1..%d\n", number);
	return failed;
}
