/* SPDX-License-Identifier: Apache-2.0 */
/* test_prompts.c - the cleaning rules, the loop rule of Self-Align, the set of hashes, and how well signatures tell similarity. */
#include "lib/clean.h"
#include "lib/dedup.h"
#include "lib/selfalign.h"
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
cleans(const char *text, const char *want, bool compat)
{
	const char *s = text;
	size_t n = strlen(text);
	unsigned cut = sal_clean(&s, &n, compat);
	int good = n == strlen(want) && memcmp(s, want, n) == 0 && (cut != 0) == (strcmp(text, want) != 0);

	if (!good)
		printf("# %s -> %.*s, not %s\n", text, (int)n, s, want);
	return good;
}

static void
clean(void)
{
	static const char *const both[][2] = {
		{ "1 / 1Write a poem", "Write a poem" },
		{ "Hello Translate nowLanguage: Thai", "Hello Translate now" },
		{ "a 1 / 1 b 1 / 1 c", "b 1 / 1 c" },
		{ "2 / 3write a poem", "write a poem" },
		{ "1 / 1\nWrite a poem", "Write a poem" },
		{ "Write a poem\n2 / 2", "Write a poem" },
		{ "Write a poem 1 / 1", "Write a poem" },
		{ "hello\xEC\xA7\x80\xEA\xB8\x88 \xEB\xB2\x88\xEC\x97\xAD\xED\x95\x98\xEA\xB8\xB0 more", "hello" },
		{ "hello\n \n Language: English x", "hello" },
		{ "\xE3\x80\x80 hello \xC2\xA0\n", "hello" },
		{ "hello Share Prompt", "hello" },
		{ "hello Translate now", "hello" },
		{ "Language: ThaiLanguage: Czech", "" },
		{ "~~Bing said something.~~ hello", "hello" },
		{ "~~crossed out~~ hello", "~~crossed out~~ hello" },
		{ "Translate now is a button", "Translate now is a button" },
		{ "", "" },
		{ "   ", "" },
	};
	static const char *const mended[][3] = { /* text, without a harm, as released */
		{ "What is 3/4", "What is 3/4", "What is" },
		{ "What is 3 / 4", "What is 3 / 4", "What is" },
		{ "3/4 of twelve is?", "3/4 of twelve is?", "of twelve is?" },
		{ "1 / 2 of a cake", "1 / 2 of a cake", "of a cake" },
		{ "1 / 2x + 3 = 5, solve", "1 / 2x + 3 = 5, solve", "x + 3 = 5, solve" },
		{ "Is 11 / 12 more than a half?", "Is 11 / 12 more than a half?", "2 more than a half?" },
		{ "What is 1 / 1?", "What is 1 / 1?", "?" },
		{ "Reduce 4 / 2", "Reduce 4 / 2", "Reduce" },
	};
	int good = 1;

	for (size_t i = 0; i < sizeof both / sizeof *both; i++)
		good &= cleans(both[i][0], both[i][1], false) & cleans(both[i][0], both[i][1], true);
	ok(good, "counters, buttons, menus and white space go, with and without compat");
	good = 1;
	for (size_t i = 0; i < sizeof mended / sizeof *mended; i++)
		good &= cleans(mended[i][0], mended[i][1], false) & cleans(mended[i][0], mended[i][2], true);
	ok(good, "fractions stay; compat takes them");
}

static int
loop(const char *text, const char *want, bool first)
{
	size_t n = sal_selfalign_loop(text, strlen(text), "\n.?!;:,`", first);

	if (n != strlen(want) || memcmp(text, want, n) != 0)
		printf("# %s -> %.*s\n", text, (int)n, text);
	return n == strlen(want) && memcmp(text, want, n) == 0;
}

static void
loops(void)
{
	ok(loop("A b. C. A b.", "A b. C. A b.", true) && loop("1. foo\n2. foo\n3. bar", "1. foo\n2.", true) && loop("a\n\n\nb\n\n", "a\n\n\nb\n\n", true),
	    "the release's cut at the first repetition");
	ok(loop("1. foo\n2. foo\n3. bar", "1. foo\n2. foo\n3. bar", false) && loop("A. B. A.", "A. B. A.", false) && loop("", "", false),
	    "lines that end alike are left alone");
	ok(loop("X. A b. C d. A b. C d. A b. C d. A b", "X. A b. C d.", false) && loop("go go\n go on\n go on\n go on\n go", "go go\n go on\n", false),
	    "a loop to the end is cut, with its last piece cut off");
}

static void
seen(void)
{
	struct sal_seen *s = sal_seen_new();
	int good = s != NULL;

	for (uint64_t i = 0; good && i < 100000; i++)
		good = sal_seen_add(s, i * 0x9E3779B97F4A7C15u) == 1;
	for (uint64_t i = 0; good && i < 100000; i++)
		good = sal_seen_add(s, i * 0x9E3779B97F4A7C15u) == 0 && !sal_seen_has(s, i * 0x9E3779B97F4A7C15u + 1);
	ok(good, "the set has what was put into it, 0 included, and nothing else");
	sal_seen_free(s);
}

/* A text of n words, of which those from first on are other ones. */
static void
words(char *out, int n, int first)
{
	uint32_t x = 1;

	*out = '\0';
	for (int i = 0; i < n; i++) {
		x = i == first ? 12345 : x * 1664525u + 1013904223u;
		out += sprintf(out, "%x ", x >> 8);
	}
}

static void
near(void)
{
	static char a[1 << 16], b[1 << 16];
	struct sal_signature x, y;
	double worst = 0;
	struct sal_near *s;
	int good = 1;

	for (int first = 0; good && first <= 200; first += 10) { /* both have 200 words, `first` of them in common */
		words(a, 200, 200);
		words(b, 200, first);
		good = sal_near_sign(a, strlen(a), &x) == 0 && sal_near_sign(b, strlen(b), &y) == 0;
		double error = sal_near_similarity(&x, &y) - first / (400.0 - first);
		worst = fabs(error) > worst ? fabs(error) : worst;
	}
	/* 21 estimates with a standard error of up to 0.045 */
	ok(good && worst < 0.13, "signatures tell the share of common 5-grams");
	good = sal_near_sign("Write a poem about the sea!", 27, &x) == 0 && sal_near_sign("write a poem  about the SEA", 27, &y) == 0 &&
	        sal_near_similarity(&x, &y) >= 1;
	good &= sal_near_sign("???", 3, &x) == 0 && sal_near_sign("!!!", 3, &y) == 0 && sal_near_similarity(&x, &y) < 0.2;
	ok(good, "case, spacing and punctuation do not count, unless there is nothing else");

	s = sal_near_new(0.8);
	good = s != NULL;
	for (int i = 0; good && i < 3000; i++) {
		sprintf(a, "%x %x %x a text of its own with number %d", i * 2654435761u, i * 40503u * 77u, i * 97u * 1013904223u, i);
		good = sal_near_sign(a, strlen(a), &x) == 0 && sal_near_add(s, &x) == 1 && sal_near_add(s, &x) == 0;
	}
	words(a, 200, 200);
	words(b, 200, 195); /* 0.95 */
	good = good && sal_near_sign(a, strlen(a), &x) == 0 && sal_near_sign(b, strlen(b), &y) == 0 && sal_near_add(s, &x) == 1 &&
	        sal_near_add(s, &y) == 0;
	ok(good, "near duplicates are found among thousands, others are kept");
	sal_near_free(s);
}

int
main(void)
{
	clean();
	loops();
	seen();
	near();
	printf("1..%d\n", number);
	return failed;
}
