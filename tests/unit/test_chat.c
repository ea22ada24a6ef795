/* SPDX-License-Identifier: Apache-2.0 */
/* test_chat.c - where an answer in dromedary's format ends: the vectors of the release. */
#include "lib/chat.h"
#include <stdio.h>
#include <string.h>

static int number, failed;

static void
ok(int good, const char *what)
{
	printf("%sok %d - %s\n", good ? "" : "not ", ++number, what);
	failed |= !good;
}

int
main(void)
{
	static const struct { const char *raw, *cut, *answer; bool stop; } v[] = { /* what was decoded, what is kept, what the reward model reads */
		{ "\nHello.\n\n### User\nMore of it", "Hello.\n\n### User", "Hello.", true },
		{ "Hello\nNote: I did well.\n\n### User\nq", "Hello\nNote", "Hello\nNote", false },
		{ "Hello </s><unk><unk>", "Hello </s>", "Hello", false },
		{ "## a\n### Step 1 do it\nfoo\n\n### User\n", "## a\n### Step", "## a", false },
		{ "### User\n", "### User", "", false },
		{ "abc\n\n### Dromedary is here", "abc\n\n### Dromedary", "abc", false },
		{ "\n\n### User\n", "### User", "", false },
		{ "a\nUpdate: b", "a\nUpdate", "a\nUpdate", false },
		{ "a\n\n### User\nb\nComment", "a\n\n### User", "a", true },
		{ "a ### b c ### d", "a ### b", "a", false },
		{ "a ######", "a ###", "a", false },
		{ "a <|endoftext|> b", "a <|endoftext|> b", "a", false },
	};
	static const char *const open[] = { "", "still going", "a\n\n", "a\n\n##", "a Note: b" };
	int good = 1;

	for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
		struct sal_ending e = sal_chat_ending(v[i].raw);
		const char *s = v[i].raw, *end = s + e.keep;
		while (s < end && strchr(" \n", *s))
			s++;
		while (end > s && strchr(" \n", end[-1]))
			end--;
		int same = (size_t)(end - s) == strlen(v[i].cut) && memcmp(s, v[i].cut, strlen(v[i].cut)) == 0 && e.n == strlen(v[i].answer) &&
		    memcmp(v[i].raw + e.at, v[i].answer, e.n) == 0 && e.stop == v[i].stop && e.ended == (strncmp(v[i].raw, "a <|", 4) != 0);
		if (!same)
			printf("# %s -> %.*s, %.*s, %d\n", v[i].raw, (int)(end - s), s, (int)e.n, v[i].raw + e.at, e.stop);
		good &= same;
	}
	ok(good, "vectors: what is kept, what is read, whether it was finished");
	good = 1;
	for (size_t i = 0; i < sizeof open / sizeof *open; i++) {
		struct sal_ending e = sal_chat_ending(open[i]);
		good &= !e.ended && !e.stop && e.keep == strlen(open[i]);
	}
	ok(good, "a text without an end has none");
	printf("1..%d\n", number);
	return failed;
}
