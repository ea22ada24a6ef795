/* SPDX-License-Identifier: Apache-2.0 */
/*
 * test_formatter.c - whatever the lengths of answer and instruction, the reward text ends in its stub and fits its limit.
 *
 * 10,000 random texts for each of five kinds of tokenizers, made of tests/data/tiny and of scratch; or for those of the folders given.
 */
#include "lib/jsonl.h"
#include "lib/prompt.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TEXTS = 10000, LONGEST = 700 };
#define SPLIT "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}%s| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

static int number, failed;

static void
ok(int good, const char *what)
{
	printf("%sok %d - %s\n", good ? "" : "not ", ++number, what);
	failed |= !good;
}

/* ---- five tokenizers ----------------------------------------------------- */

/* Text pieces and their merges, as SentencePiece has them: bytes, and a few pieces that cross from text to stub. */
static cJSON *
sentencepiece(void)
{
	static const char *const piece[] = { "\xE2\x96\x81", "i", "s", "#", "S", "c", "o", "r", "e", "\n", "-", "is", "##", "\n\n", "\xE2\x96\x81is", "\xE2\x96\x81##" };
	static const char *const merge[] = { "i s", "# #", "\n \n", "\xE2\x96\x81 is", "\xE2\x96\x81 ##" };
	cJSON *j = cJSON_Parse("{\"added_tokens\":[{\"id\":0,\"content\":\"<unk>\",\"special\":true},{\"id\":1,\"content\":\"<s>\",\"special\":true},"
	                       "{\"id\":2,\"content\":\"</s>\",\"special\":true}],\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"\xE2\x96\x81\"},"
	                       "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\xE2\x96\x81\"}]},\"pre_tokenizer\":null,\"post_processor\":null,"
	                       "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":\"\xE2\x96\x81\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},"
	                       "{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]},\"model\":{\"type\":\"BPE\",\"unk_token\":\"<unk>\",\"fuse_unk\":true,"
	                       "\"byte_fallback\":true,\"ignore_merges\":false,\"vocab\":{\"<unk>\":0,\"<s>\":1,\"</s>\":2},\"merges\":[]}}");
	cJSON *model = cJSON_GetObjectItem(j, "model"), *vocab = cJSON_GetObjectItem(model, "vocab"), *merges = cJSON_GetObjectItem(model, "merges");
	char name[8];
	int id = 3;

	for (int b = 0; b < 256; b++) {
		snprintf(name, sizeof name, "<0x%02X>", b);
		cJSON_AddNumberToObject(vocab, name, id++);
	}
	for (size_t i = 0; i < sizeof piece / sizeof *piece; i++)
		cJSON_AddNumberToObject(vocab, piece[i], id++);
	for (size_t i = 0; i < sizeof merge / sizeof *merge; i++) {
		char *at = strdup(merge[i]), *space = strchr(at, ' ');
		*space = '\0';
		cJSON_AddItemToArray(merges, cJSON_CreateStringArray((const char *[]){ at, space + 1 }, 2));
		free(at);
	}
	return j;
}

/* Byte-level, cut before merging as that family cuts. */
static cJSON *
byte_level(const char *digits, bool nfc, bool ignore_merges, bool single_digits)
{
	cJSON *j = sal_json_read("tests/data/tiny/tokenizer.json"), *pre;
	char regex[256];

	if (j == NULL)
		return NULL;
	if (nfc)
		cJSON_ReplaceItemInObjectCaseSensitive(j, "normalizer", cJSON_Parse("{\"type\":\"NFC\"}"));
	if (digits) {
		snprintf(regex, sizeof regex, SPLIT, digits);
		pre = cJSON_Parse("{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{},\"behavior\":\"Isolated\",\"invert\":false},"
		                  "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":false}]}");
		cJSON_AddStringToObject(cJSON_GetObjectItem(cJSON_GetArrayItem(cJSON_GetObjectItem(pre, "pretokenizers"), 0), "pattern"), "Regex", regex);
		cJSON_ReplaceItemInObjectCaseSensitive(j, "pre_tokenizer", pre);
	} else if (!single_digits)
		cJSON_ReplaceItemInObjectCaseSensitive(j, "pre_tokenizer",
		    cJSON_Parse("{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true}"));
	cJSON_ReplaceItemInObjectCaseSensitive(cJSON_GetObjectItem(j, "model"), "ignore_merges", cJSON_CreateBool(ignore_merges));
	return j;
}

/* j is freed; its folder is dir. */
static struct sal_tokenizer *
open_of(cJSON *j, const char *dir, bool bos)
{
	char path[300], *text = j ? cJSON_PrintUnformatted(j) : NULL;
	const char *cfg = bos ? "{\"bos_token\":\"<s>\",\"eos_token\":\"</s>\",\"add_bos_token\":true}" : "{\"eos_token\":\"<|im_end|>\"}";
	struct sal_tokenizer *tk = NULL;

	snprintf(path, sizeof path, "%s/tokenizer.json", dir);
	if (text && sal_write_file(path, text, strlen(text)) == 0) {
		snprintf(path, sizeof path, "%s/tokenizer_config.json", dir);
		if (sal_write_file(path, cfg, strlen(cfg)) == 0)
			tk = sal_tokenizer_open(dir);
	}
	free(text);
	cJSON_Delete(j);
	return tk;
}

/* ---- random texts -------------------------------------------------------- */

/* Words, figures, white space and what could be mistaken for a part of the template, about n bytes. */
static void
text_of(struct sal_random *r, size_t n, struct sal_buf *out)
{
	static const char *const word[] = { "is", " is", "Score", "# Score", "\n\n# Score", " the", "a", "12", "3", " ", "  ", "\n", "\n\n", "- ", "##", ".", "\t", "\xC3\xA9", "e\xCC\x81",
		"\xE4\xBD\xA0\xE5\xA5\xBD", "\xF0\x9F\x98\x80", "<|im_end|>", "</s>", "<unk>", "{Output}", "{Dimensions}", "'s", "\xE2\x96\x81", "\r\n", "x" };

	out->len = 0;
	sal_buf_puts(out, "");
	while (out->len < n)
		sal_buf_puts(out, word[(size_t)(sal_random_uniform(r) * (float)(sizeof word / sizeof *word))]);
}

static size_t
length(struct sal_random *r) /* many are short, some none */
{
	double u = (double)sal_random_uniform(r);

	return (size_t)(LONGEST * u * u * u);
}

static void
property(const struct sal_tokenizer *tk, const char *name, int n)
{
	static const char *const file[] = { "tests/data/reward.txt", "prompts/reward_small.txt", "prompts/reward.txt", "prompts/reward_pmp.txt", "prompts/reward_rl.txt" };
	static const bool negated[] = { true, false, true };
	struct sal_principles *p = sal_principles_open("prompts/principles/rm.json");
	struct sal_random r = sal_random_open(1, "test", name, 0);
	struct sal_buf answer = { 0 }, ask = { 0 }, got = { 0 };
	char *tmpl[5];
	struct sal_ids stub[5] = { 0 };
	char what[300];
	int bad = 0, refused = 0, shortened = 0;

	for (int i = 0; i < 5; i++) {
		if ((tmpl[i] = sal_prompt_read(file[i])) == NULL || p == NULL) {
			ok(0, sal_errmsg());
			return;
		}
		const char *line = strrchr(tmpl[i], '\n') + 1;
		bad += sal_tokenize_plain(tk, line, strlen(line), &stub[i]) != 0;
	}
	for (int k = 0; k < n; k++) {
		int t = k % 20 < 9 ? 0 : k % 20 < 18 ? 1 : 2 + k / 20 % 3, pick[3], m = (int)(sal_random_uniform(&r) * 4);
		struct sal_reward_limits lim = { 0 };
		struct sal_ids ids = { 0 };
		for (int i = 0; i < m; i++)
			pick[i] = (int)(sal_random_uniform(&r) * (float)p->n);
		text_of(&r, length(&r), &answer);
		text_of(&r, length(&r), &ask);
		if (k % 3 > 0)
			lim = (struct sal_reward_limits){ 1 + (int)(sal_random_uniform(&r) * 200), 1 + (int)(sal_random_uniform(&r) * 200), 20 + (int)(sal_random_uniform(&r) * 1500) };
		if (sal_reward_ids(tk, tmpl[t], ask.data, answer.data, p, pick, negated, m, lim, &ids) != 0) {
			refused++; /* of a limit below the template alone */
			bad += strstr(sal_errmsg(), "does not fit") == NULL;
		} else {
			const struct sal_ids *s = &stub[t];
			const char *line = strrchr(tmpl[t], '\n') + 1;
			got.len = 0;
			bad += sal_detokenize(tk, ids.id, ids.n, &got) != 0 || got.len < strlen(line) || memcmp(got.data + got.len - strlen(line), line, strlen(line)) != 0;
			/* its tokens too, but for the first, which may reach back */
			bad += ids.n < s->n || memcmp(ids.id + ids.n - s->n + 1, s->id + 1, (size_t)(s->n - 1) * sizeof *s->id) != 0 || ids.id[ids.n - 1] != s->id[s->n - 1];
			bad += lim.total && ids.n > lim.total;
			shortened += lim.total && strstr(got.data, answer.data) == NULL;
		}
		free(ids.id);
	}
	snprintf(what, sizeof what, "%s: the stub ends %d texts of random lengths (%d shortened, %d that cannot fit refused)", name, n, shortened, refused);
	ok(bad == 0 && shortened > n / 20 && refused < n / 4, what);
	for (int i = 0; i < 5; i++) {
		free(tmpl[i]);
		free(stub[i].id);
	}
	sal_buf_free(&answer);
	sal_buf_free(&ask);
	sal_buf_free(&got);
	sal_principles_close(p);
}

int
main(int argc, char *argv[])
{
	char dir[] = "/tmp/sal_test_XXXXXX", cmd[200];

	if (!mkdtemp(dir))
		return 1;
	for (int i = 0; i < 5 && argc < 2; i++) {
		static const char *const name[] = { "byte-level, digits alone", "byte-level, GPT-2", "byte-level, Llama 3", "byte-level, Qwen 2", "SentencePiece, Llama 2" };
		cJSON *j = i == 0 ? byte_level(NULL, false, false, true) : i == 1 ? byte_level(NULL, false, false, false) : i == 2 ? byte_level("{1,3}", false, true, false)
		    : i == 3 ? byte_level("", true, false, false) : sentencepiece();
		struct sal_tokenizer *tk = open_of(j, dir, i == 4);
		if (tk)
			property(tk, name[i], TEXTS);
		else
			ok(0, sal_errmsg());
		sal_tokenizer_close(tk);
	}
	for (int i = 1; i < argc; i++) {
		struct sal_tokenizer *tk = sal_tokenizer_open(argv[i]);
		if (tk)
			property(tk, argv[i], TEXTS);
		else
			ok(0, sal_errmsg());
		sal_tokenizer_close(tk);
	}
	snprintf(cmd, sizeof cmd, "rm -rf %s", dir);
	if (system(cmd) != 0)
		failed = 1;
	printf("1..%d\n", number);
	return failed;
}
