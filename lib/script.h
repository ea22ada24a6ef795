/* SPDX-License-Identifier: Apache-2.0 */
/* script.h - the script that a text is written in, which tells many languages apart, not all: English and French share one. */
#ifndef SAL_SCRIPT_H
#define SAL_SCRIPT_H

enum sal_script {
	SAL_SCRIPT_NONE, /* no letters of those below */
	SAL_LATIN, SAL_GREEK, SAL_CYRILLIC, SAL_ARMENIAN, SAL_HEBREW, SAL_ARABIC, SAL_DEVANAGARI, SAL_BENGALI, SAL_TAMIL, SAL_TELUGU, SAL_THAI,
	SAL_GEORGIAN, SAL_HANGUL, SAL_HAN, SAL_KANA, /* kana: Japanese, with its Han */
	SAL_N_SCRIPTS
};
/* The script of most of its letters; the first of those that have as many. */
enum sal_script sal_script_of(const char *text);
#endif
