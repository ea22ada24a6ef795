/* SPDX-License-Identifier: Apache-2.0 */
/* test_script.c - the script of a text. */
#include "lib/script.h"
#include <stdio.h>

int
main(void)
{
	static const struct { const char *text; enum sal_script want; } v[] = {
		{ "", SAL_SCRIPT_NONE }, { "42 \xC3\x97 3 = 126!", SAL_SCRIPT_NONE }, { "\xFF\xFE", SAL_SCRIPT_NONE },
		{ "What is it?", SAL_LATIN }, { "Qu'est-ce que c'est, \xC3\xA9t\xC3\xA9?", SAL_LATIN }, { "Ti\xE1\xBA\xBFng Vi\xE1\xBB\x87t", SAL_LATIN },
		{ "\xCE\xB1\xCE\xB2", SAL_GREEK }, { "\xD0\x9F\xD1\x80\xD0\xB8\xD0\xB2\xD0\xB5\xD1\x82 CUDA", SAL_CYRILLIC }, { "\xD7\xA9\xD7\x9C", SAL_HEBREW },
		{ "\xD8\xB3\xD9\x84", SAL_ARABIC }, { "\xE0\xA4\xB9\xE0\xA4\xBF", SAL_DEVANAGARI }, { "\xE0\xB8\xAA\xE0\xB8\xA7", SAL_THAI },
		{ "\xED\x95\x9C\xEA\xB5\xAD", SAL_HANGUL }, { "\xE4\xBD\xA0\xE5\xA5\xBD\xE4\xB8\x96", SAL_HAN }, { "\xE6\x97\xA5\xE6\x9C\xAC\xE3\x81\xAE", SAL_KANA },
		{ "\xE6\x97\xA5\xE6\x9C\xAC\xE8\xAA\x9E\xE3\x81\xAE AB", SAL_KANA }, { "\xE4\xBD\xA0\xE5\xA5\xBD means hello", SAL_LATIN }, { "\xF0\xA0\x80\x80", SAL_HAN }, { "a\xE4\xBD\xA0", SAL_LATIN },
	};
	int failed = 0, n = sizeof v / sizeof *v;

	for (int i = 0; i < n; i++) {
		int good = sal_script_of(v[i].text) == v[i].want;
		printf("%sok %d - %s\n", good ? "" : "not ", i + 1, v[i].text[0] ? v[i].text : "an empty text");
		failed |= !good;
	}
	printf("1..%d\n", n);
	return failed;
}
