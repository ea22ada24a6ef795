/* SPDX-License-Identifier: Apache-2.0 */
/* tally.h - the records of a file, and means of what they say with errors between prompts. */
#ifndef SAL_TALLY_H
#define SAL_TALLY_H
#include "lib/jsonl.h"

struct sal_table { /* the records of one or more files, in order; zero-initialise */
	struct sal_record **r;
	const char **path; /* [n], of each record's file; owned by file */
	int n;
	char **file; /* [n_files], paths of those read */
	int n_files;
};
/* Append a file's records.  1; 0: there is no such file; -1: errmsg "PATH:LINE: why". */
int sal_table_read(struct sal_table *t, const char *dir, const char *name) SAL_USE_RESULT;
void sal_table_free(struct sal_table *t);
/* Fields of record i; -1, or NULL: the error line names file and line. */
int sal_table_num(const struct sal_table *t, int i, const char *field, double *out) SAL_USE_RESULT;
const char *sal_table_str(const struct sal_table *t, int i, const char *field);
int sal_table_err(const struct sal_table *t, int i); /* puts "PATH:LINE: " before the error line; -1 */

struct sal_tally { /* numbers, each of a prompt; zero-initialise */
	double *x;
	char **id;
	int n, cap;
	bool failed; /* out of memory */
};
void sal_tally_add(struct sal_tally *t, const char *id, double x);
void sal_tally_free(struct sal_tally *t);
struct sal_mean {
	double mean, error; /* standard error: numbers of one id hang together, so it is taken between ids; NAN of one id alone */
	int n, ids;
};
struct sal_mean sal_tally_mean(const struct sal_tally *t);
double sal_correlation(const double *x, const double *y, int n); /* Pearson's; NAN where one does not vary */
int sal_characters(const char *s);                               /* code points of UTF-8 */
#endif
