/* SPDX-License-Identifier: Apache-2.0 */
/*
 * jsonl.h - records: one JSON object a line, read strictly, written with every unknown field kept as it was.
 *
 * A line is first checked by a scanner of our own (UTF-8, JSON grammar, no NUL, no lone surrogate, depth <= 64,
 * finite numbers, no key twice, a bounded number of values), which also notes where each top-level field stands; then cJSON parses it.
 * Output is made from the raw text of the fields that stay and the new ones, so numbers and spelling of foreign fields survive.
 */
#ifndef SAL_JSONL_H
#define SAL_JSONL_H
#include "lib/util.h"
#include <cjson/cJSON.h>

struct sal_field { size_t key, key_len, start, len; }; /* offsets in text: key without quotes; "key":value */
struct sal_record {
	long line;       /* number in the input, from 1 */
	char *text;      /* the raw line */
	size_t text_len;
	cJSON *json;     /* parsed */
	struct sal_field *field;
	int n_fields;
	struct sal_buf out; /* lines to be written in its place, each ended by \n */
	void *user;      /* the tool's own; freed by the tool */
};

/* Parse one line (without its newline).  NULL on error, errmsg without line number. */
struct sal_record *sal_record_parse(const char *text, size_t len, long line);
void sal_record_free(struct sal_record *r);
/* A JSON text on its own (config.json, principles): the same checks, top level of any type.  name goes into the error. */
cJSON *sal_json_parse(const char *text, size_t len, const char *name);
cJSON *sal_json_read(const char *path); /* file, at most 256 MiB */

/* Typed access to obj (case-sensitive); -1 with an error line naming the field if it is missing or of another type. */
const char *sal_json_str(const cJSON *obj, const char *name);      /* NULL on error */
int sal_json_num(const cJSON *obj, const char *name, double *out) SAL_USE_RESULT;
int sal_json_int(const cJSON *obj, const char *name, int64_t min, int64_t max, int64_t *out) SAL_USE_RESULT;
bool sal_json_has(const cJSON *obj, const char *name);             /* present and not null */
int sal_json_ids(const cJSON *obj, const char *name, int vocab, struct sal_ids *out) SAL_USE_RESULT; /* array of token ids, 0..vocab-1; appended */
int sal_json_floats(const cJSON *obj, const char *name, float **out, int *n) SAL_USE_RESULT; /* malloc'd; null -> error */

/*
 * Append one output line to r->out: the fields of r but those whose names are in drop (NULL-terminated, may be NULL)
 * or that are also members of add, then the members of add in order.  add: an object whose numbers were made with
 * sal_json_add_*; not consumed.  r == NULL is not allowed.
 */
int sal_record_emit(struct sal_record *r, const cJSON *add, const char *const *drop) SAL_USE_RESULT;
/* Members whose text reads back to the same value: floats with 9 digits, doubles with 17. Non-finite: -1. */
int sal_json_add_float(cJSON *obj, const char *name, float x) SAL_USE_RESULT;
int sal_json_add_double(cJSON *obj, const char *name, double x) SAL_USE_RESULT;
int sal_json_add_floats(cJSON *obj, const char *name, const float *x, int n) SAL_USE_RESULT;
int sal_json_add_ids(cJSON *obj, const char *name, const int32_t *id, int n) SAL_USE_RESULT;

/* Any bytes as a JSON string; NUL and what is not UTF-8 become U+FFFD. */
void sal_json_put_text(struct sal_buf *b, const char *s, size_t n);

/* The id of a record: its "id" (string, or a number as written), or the XXH3-64 in hex of its prompt's text. malloc'd; NULL: error. */
char *sal_record_id(const struct sal_record *r);

struct sal_jsonl; /* a stream of records */
struct sal_jsonl *sal_jsonl_open(FILE *f, const char *name);
/* 1: *r is a record; 0: end of input; -1: bad line (line() names it; reading may go on); -2: read error. Blank lines are skipped. */
int sal_jsonl_next(struct sal_jsonl *in, struct sal_record **r);
long sal_jsonl_line(const struct sal_jsonl *in);
/* The raw bytes of the line last read: for --reject. */
const char *sal_jsonl_text(const struct sal_jsonl *in, size_t *len);
void sal_jsonl_close(struct sal_jsonl *in);
#endif
