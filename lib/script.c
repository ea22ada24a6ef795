/* SPDX-License-Identifier: Apache-2.0 */
/* script.c - letters counted by the blocks of Unicode that they stand in. */
#include "lib/script.h"
#include <stdint.h>
#include <utf8proc.h>

static const struct { int32_t first, last; enum sal_script script; } block[] = {
	{ 'A', 'Z', SAL_LATIN }, { 'a', 'z', SAL_LATIN }, { 0xC0, 0x24F, SAL_LATIN }, { 0x370, 0x3FF, SAL_GREEK }, { 0x400, 0x52F, SAL_CYRILLIC },
	{ 0x531, 0x58F, SAL_ARMENIAN }, { 0x591, 0x5FF, SAL_HEBREW }, { 0x600, 0x6FF, SAL_ARABIC }, { 0x750, 0x77F, SAL_ARABIC },
	{ 0x900, 0x97F, SAL_DEVANAGARI }, { 0x980, 0x9FF, SAL_BENGALI }, { 0xB80, 0xBFF, SAL_TAMIL }, { 0xC00, 0xC7F, SAL_TELUGU }, { 0xE01, 0xE7F, SAL_THAI },
	{ 0x10A0, 0x10FF, SAL_GEORGIAN }, { 0x1100, 0x11FF, SAL_HANGUL }, { 0x1E00, 0x1EFF, SAL_LATIN }, { 0x1F00, 0x1FFF, SAL_GREEK },
	{ 0x3041, 0x30FF, SAL_KANA }, { 0x3400, 0x4DBF, SAL_HAN }, { 0x4E00, 0x9FFF, SAL_HAN }, { 0xAC00, 0xD7AF, SAL_HANGUL }, { 0xF900, 0xFAFF, SAL_HAN },
	{ 0x20000, 0x2FA1F, SAL_HAN },
};

static enum sal_script
letter(int32_t c)
{
	for (size_t i = 0; i < sizeof block / sizeof *block; i++)
		if (c >= block[i].first && c <= block[i].last && c != 0xD7 && c != 0xF7) /* times, divided by */
			return block[i].script;
	return SAL_SCRIPT_NONE;
}

enum sal_script
sal_script_of(const char *text)
{
	long n[SAL_N_SCRIPTS] = { 0 };
	enum sal_script most = SAL_SCRIPT_NONE;
	int32_t c;
	utf8proc_ssize_t k;

	for (const utf8proc_uint8_t *s = (const utf8proc_uint8_t *)text; *s; s += k > 0 ? k : 1) {
		k = utf8proc_iterate(s, -1, &c);
		n[letter(k > 0 ? c : 0)]++;
	}
	if (n[SAL_KANA] > 0) {
		n[SAL_KANA] += n[SAL_HAN];
		n[SAL_HAN] = 0;
	}
	n[SAL_SCRIPT_NONE] = 0;
	for (int i = 1; i < SAL_N_SCRIPTS; i++)
		if (n[i] > n[most])
			most = (enum sal_script)i;
	return most;
}
