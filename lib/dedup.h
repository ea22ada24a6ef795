/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dedup.h - texts seen before, and texts nearly the same as one kept before.
 *
 * A set of 64-bit hashes: 11 to 22 bytes a text.  Two different texts are taken for one with a probability of n^2 / 2^65:
 * 3e-6 for ten million.
 * Near duplicates by MinHash: 128 hash functions over the 5-grams of letters and digits (case, spacing and punctuation do not
 * count), one byte kept of each minimum; bands of them find the candidates, the whole signature decides.  About 300 bytes a text.
 * Sources: Broder, On the resemblance and containment of documents, 1997; Li and Koenig, b-bit minwise hashing, WWW 2010.
 */
#ifndef SAL_DEDUP_H
#define SAL_DEDUP_H
#include "lib/util.h"

struct sal_seen; /* a set of hashes */
struct sal_seen *sal_seen_new(void);
void sal_seen_free(struct sal_seen *s);
bool sal_seen_has(const struct sal_seen *s, uint64_t hash);
int sal_seen_add(struct sal_seen *s, uint64_t hash) SAL_USE_RESULT; /* 1: was not there; 0: was; -1: out of memory */

enum { SAL_NEAR_HASHES = 128 };
struct sal_signature { uint8_t min[SAL_NEAR_HASHES]; };
/* The signature of a text (UTF-8).  -1: out of memory. */
int sal_near_sign(const char *text, size_t len, struct sal_signature *out) SAL_USE_RESULT;
/* Share of 5-grams that two texts have in common (Jaccard), as their signatures tell: standard error at most 0.045. */
double sal_near_similarity(const struct sal_signature *a, const struct sal_signature *b);

struct sal_near; /* the signatures of the texts kept */
struct sal_near *sal_near_new(double threshold); /* in (0, 1] */
void sal_near_free(struct sal_near *s);
/* 0: a text kept is as similar as the threshold, or more; 1: none is, and this one is kept; -1: out of memory. */
int sal_near_add(struct sal_near *s, const struct sal_signature *sig) SAL_USE_RESULT;
#endif
