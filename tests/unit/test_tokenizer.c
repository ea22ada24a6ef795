/* SPDX-License-Identifier: Apache-2.0 */
/* test_tokenizer.c - round trips, plain spans, bad ids, long runs, chat formats; on tests/data/tiny, or on the model named as argument. */
#include "lib/chat.h"

#include <stdlib.h>
#include <string.h>

static int number, failed;

static void ok(int good, const char *what)
{
	printf("%sok %d - %s\n", good ? "" : "not ", ++number, what);
	if (!good && *sal_errmsg())
		printf("# %s\n", sal_errmsg());
	failed |= !good;
}

static int round_trip(const struct sal_tokenizer *tk, const char *s, bool plain)
{
	struct sal_ids ids = { 0 };
	struct sal_buf b = { 0 };
	int good = (plain ? sal_tokenize_plain(tk, s, strlen(s), &ids) : sal_tokenize(tk, s, strlen(s), NULL, 0, &ids)) == 0 &&
	           sal_detokenize(tk, ids.id, ids.n, &b) == 0 && strcmp(b.data ? b.data : "", s) == 0;
	for (int i = 0; plain && i < ids.n; i++)
		good &= !sal_tokenizer_is_control(tk, ids.id[i]);
	free(ids.id);
	sal_buf_free(&b);
	return good;
}

static int long_run(const struct sal_tokenizer *tk, char c, size_t n)
{
	char *s = malloc(n);
	struct sal_ids ids = { 0 };
	double start = sal_now();
	int good = 0;
	if (s) {
		memset(s, c, n);
		good = sal_tokenize_plain(tk, s, n, &ids) == 0 && ids.n > 0 && sal_now() - start < 10;
	}
	free(s);
	free(ids.id);
	return good;
}

/* The conversation in a format, as text. */
static int chat_is(const struct sal_tokenizer *tk, const char *format, const char *content, const char *want)
{
	struct sal_chat *c = sal_chat_open(format, tk, NULL);
	struct sal_turn t = { "user", content };
	struct sal_ids ids = { 0 };
	struct sal_buf b = { 0 };
	int good = c && sal_chat_encode(c, tk, &t, 1, true, &ids) == 0 && sal_detokenize(tk, ids.id, ids.n, &b) == 0 && b.data &&
	           b.len >= strlen(want) && strcmp(b.data + b.len - strlen(want), want) == 0;
	if (!good)
		printf("# %s\n", b.data ? b.data : "(none)");
	sal_chat_close(c);
	free(ids.id);
	sal_buf_free(&b);
	return good;
}

int main(int argc, char *argv[])
{
	const char *path = argc > 1 ? argv[1] : "tests/data/tiny";
	struct sal_tokenizer *tk = sal_tokenizer_open(path);
	ok(tk != NULL, path);
	if (tk) {
		struct sal_buf b = { 0 };
		struct sal_ids ids = { 0 };
		int32_t bad[] = { -1, sal_tokenizer_vocab(tk) };
		const int32_t *eos;
		ok(round_trip(tk, "Hello, world! It's 1234.\n\n  a", false), "round trip");
		ok(round_trip(tk, "", false), "round trip of nothing");
		ok(sal_tokenizer_eos(tk, &eos) > 0, "an end token");
		if (sal_tokenizer_eos(tk, &eos) > 0 && sal_detokenize(tk, eos, 1, &b) == 0) {
			ok(sal_tokenize(tk, b.data, b.len, NULL, 0, &ids) == 0 && ids.n == 1 && ids.id[0] == eos[0], "a control token is recognised");
			ok(round_trip(tk, b.data, true), "a control token in content is text");
		}
		ok(sal_detokenize(tk, bad, 1, &b) != 0 && sal_detokenize(tk, bad + 1, 1, &b) != 0, "ids outside the vocabulary are refused");
		ok(sal_tokenize_plain(tk, "\xc3(", 2, &ids) != 0, "text that is not UTF-8 is refused");
		ok(long_run(tk, 'a', 1000000) && long_run(tk, ' ', 300000) && long_run(tk, '\n', 300000), "long runs take no long time");
		ok(chat_is(tk, "chatml", "Hi", "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"), "chatml");
		ok(chat_is(tk, "llama3", " Hi ", "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"), "llama3");
		ok(chat_is(tk, "mistral", "Hi", "[INST] Hi [/INST]"), "mistral");
		ok(chat_is(tk, "llama2", "Hi", "[INST] Hi [/INST]"), "llama2");
		ok(chat_is(tk, "dromedary", "Hi", "\n\n### User\nHi\n\n### Dromedary\n"), "dromedary");
		ok(chat_is(tk, "none", "Hi", "Hi"), "none");
		ok(!sal_chat_open("nonsense", tk, NULL) && strstr(sal_errmsg(), "--format"), "an unknown format is refused");
		free(ids.id);
		sal_buf_free(&b);
	}
	ok(!sal_tokenizer_open("/nonexistent"), "a path that is not there");
	sal_tokenizer_close(tk);
	printf("1..%d\n", number);
	return failed;
}
