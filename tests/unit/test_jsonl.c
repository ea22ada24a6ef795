/* SPDX-License-Identifier: Apache-2.0 */
/* test_jsonl.c - what the scanner takes and refuses, output of records, the stream, the filter loop. */
#include "lib/filter.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int number, failed;

static void ok(int good, const char *what)
{
	printf("%sok %d - %s\n", good ? "" : "not ", ++number, what);
	failed |= !good;
}

static int takes(const char *s, size_t n)
{
	char *exact = malloc(n + 1); /* so that the sanitizer sees a read past the end */
	if (!exact)
		return 0;
	memcpy(exact, s, n);
	char *tight = realloc(exact, n ? n : 1);
	cJSON *j = sal_json_parse(tight, n, "t");
	int good = j != NULL;
	cJSON_Delete(j);
	free(tight);
	return good;
}
#define GOOD(s) ok(takes(s, sizeof(s) - 1), "takes")
#define BAD(s, why) ok(!takes(s, sizeof(s) - 1) && strstr(sal_errmsg(), why), "refuses: " why)

static int out_is(struct sal_record *r, const char *want)
{
	int same = r->out.data && strcmp(r->out.data, want) == 0;
	if (!same)
		printf("# %s", r->out.data ? r->out.data : "(none)\n");
	r->out.len = 0;
	return same;
}

static int prepare(void *ctx, struct sal_group *g)
{
	(void)ctx;
	return sal_json_has(g->rec[0]->json, "bad") ? sal_err("marked bad") : 0;
}

static int run(void *ctx, struct sal_group **g, int n)
{
	(void)ctx;
	for (int i = 0; i < n; i++)
		if (sal_record_emit(g[i]->rec[g[i]->n - 1], NULL, NULL) != 0)
			return -1;
	return 0;
}

static int filter(const char *input, bool by_id, bool skip, const char *want, struct sal_counts *n)
{
	struct sal_filter f = { .by_id = by_id, .window = 2, .prepare = prepare, .run = run };
	struct sal_common c = { .quiet = true, .skip_bad = skip };
	char *text = NULL;
	size_t len = 0;
	FILE *in = fmemopen((void *)(uintptr_t)input, strlen(input), "r"), *out = open_memstream(&text, &len);

	*n = (struct sal_counts){ 0 };
	if (!in || !out)
		return -2;
	int rc = sal_filter_run(&f, &c, in, out, n);
	fclose(in);
	fclose(out);
	if (strcmp(text, want) != 0) {
		printf("# %s", text);
		rc = -3;
	}
	free(text);
	return rc;
}

int main(void)
{
	GOOD("{\"a\":[1,-0.5e3,true,false,null,\"\\u00e9\\ud83d\\ude00\"]} \n");
	GOOD("0");
	GOOD("\"\xF4\x8F\xBF\xBF\x7F\"");
	BAD("\"\xC0\x80\"", "UTF-8");
	BAD("\"\xED\xA0\x80\"", "UTF-8");
	BAD("\"\xF4\x90\x80\x80\"", "UTF-8");
	BAD("\"\xE2\x82", "UTF-8");
	BAD("01", "bytes after");
	BAD("1.", "digit");
	BAD("-", "digit");
	BAD("+1", "JSON value");
	BAD("NaN", "JSON value");
	BAD("1e999", "too large");
	BAD("1111111111111111111111111111111111111111111111111111111111111111", "63 digits");
	GOOD("111111111111111111111111111111111111111111111111111111111111111");
	BAD("\"a\tb\"", "control");
	BAD("\"a\0b\"", "NUL in a string");
	BAD("\"\\u0000\"", "NUL in a string");
	BAD("[1]\0", "NUL");
	BAD("\"\\ud800\"", "surrogate");
	BAD("\"\\udc00\"", "surrogate");
	BAD("\"\\ud800\\u0041\"", "surrogate");
	BAD("\"\\x\"", "escape");
	BAD("\"\\", "escape");
	BAD("\"\\u12", "escape");
	BAD("\xEF\xBB\xBF{}", "byte order mark");
	BAD("{} x", "bytes after");
	BAD("[1,]", "JSON value");
	BAD("{\"a\":1,}", "key");
	BAD("", "ends");
	BAD("{\"a\":1,\"\\u0061\":2}", "twice");
	BAD("[{\"x\":{\"b\":1,\"b\":2}}]", "twice");
	GOOD("{\"a\":{\"a\":1},\"\":{\"\\u0062\":0},\"b\":1}");

	char deep[200];
	memset(deep, '[', 65);
	memset(deep + 64, ']', 64);
	ok(takes(deep, 128), "depth 64");
	memset(deep, '[', 65);
	memset(deep + 65, ']', 65);
	ok(!takes(deep, 130), "depth 65");
	struct sal_buf big = { 0 };
	for (int i = 0; i < 1000000; i++)
		sal_buf_put(&big, "[", 1);
	double start = sal_now();
	ok(!takes(big.data, big.len) && sal_now() - start < 1, "a million brackets");
	big.len = 0;
	for (int i = 0; i < 150000; i++)
		sal_buf_printf(&big, "%c\"\\u0041%d\":%d", i ? ',' : '{', i, i);
	sal_buf_puts(&big, "}");
	start = sal_now();
	ok(takes(big.data, big.len) && sal_now() - start < 3, "150,000 keys");
	big.len--;
	sal_buf_puts(&big, ",\"A77777\":0}");
	ok(!takes(big.data, big.len) && strstr(sal_errmsg(), "A77777"), "one of them twice");

	const char *line = "{\"id\": 1.50 , \"x\\u0079\":[1.0, 2e1],\"old\":1, \"k\":\"\\u00e9\"}";
	struct sal_record *r = sal_record_parse(line, strlen(line), 7);
	if (!r)
		return 1;
	ok(r->n_fields == 4 && r->line == 7, "fields");
	cJSON *add = cJSON_CreateObject();
	float fl[2] = { 0.1f, -0.0f };
	int32_t id3[3] = { 1, 2, 300 };
	int bad = sal_json_add_float(add, "old", 0.1f) | sal_json_add_double(add, "d\"", 0.1) |
	    sal_json_add_floats(add, "f", fl, 2) | sal_json_add_ids(add, "ids", id3, 3);
	cJSON_AddStringToObject(add, "s", "a\nb");
	const char *drop[] = { "xy", NULL };
	ok(!bad && sal_record_emit(r, add, drop) == 0 &&
	    out_is(r, "{\"id\": 1.50,\"k\":\"\\u00e9\",\"old\":0.100000001,\"d\\\"\":0.10000000000000001,\"f\":[0.100000001,-0],"
	    "\"ids\":[1,2,300],\"s\":\"a\\nb\"}\n"), "emit");
	ok(sal_json_add_float(add, "n", NAN) == -1 && sal_json_add_double(add, "n", HUGE_VAL) == -1, "not finite");
	cJSON_Delete(add);
	char *id = sal_record_id(r);
	ok(id && strcmp(id, "1.50") == 0, "id is the number as written");
	free(id);
	sal_record_free(r);
	ok(!sal_record_parse("[1]", 3, 1) && !sal_record_parse("", 0, 1), "a record is an object");

	const char *object = "{\"i\":3,\"h\":0.5,\"t\":[0,9],\"f\":[1,null],\"z\":null,\"n\":1e300}";
	cJSON *j = sal_json_parse(object, strlen(object), "t");
	int64_t v = 0;
	double d = 0;
	struct sal_ids ids = { 0 };
	float *x = NULL;
	int n = 0;
	ok(j && sal_json_int(j, "i", 0, 3, &v) == 0 && v == 3 && sal_json_int(j, "i", 0, 2, &v) == -1, "int");
	ok(sal_json_int(j, "h", 0, 2, &v) == -1 && sal_json_int(j, "n", INT64_MIN, INT64_MAX, &v) == -1, "not an int");
	ok(sal_json_num(j, "h", &d) == 0 && d == 0.5 && sal_json_num(j, "q", &d) == -1 && !sal_json_str(j, "i"), "num");
	ok(sal_json_ids(j, "t", 10, &ids) == 0 && ids.n == 2 && sal_json_ids(j, "t", 9, &ids) == -1 && ids.n == 2, "ids");
	ok(sal_json_floats(j, "f", &x, &n) == -1 && sal_json_floats(j, "t", &x, &n) == 0 && n == 2 && x[1] == 9, "floats");
	ok(!sal_json_has(j, "z") && sal_json_has(j, "i"), "has");
	free(x);
	free(ids.id);
	cJSON_Delete(j);

	struct sal_counts c;
	ok(filter("{\"a\":1}\r\n\n \t\n{\"a\":2}\n{\"a\":3}", false, false, "{\"a\":1}\n{\"a\":2}\n{\"a\":3}\n", &c) == 0 &&
	    c.records == 3 && c.out == 3, "CRLF, blank lines, no newline at the end");
	ok(filter("{\"a\":1}\n{\"a\":2}\n{\"a\":3}\n{\"a\"\n{}\n", false, false, "{\"a\":1}\n{\"a\":2}\n{\"a\":3}\n", &c) == -1 &&
	    strncmp(sal_errmsg(), "stdin:4: ", 9) == 0, "stop at a bad line");
	ok(filter("{\"a\":1}\n{\"bad\":2}\n{}\n", false, false, "{\"a\":1}\n", &c) == -1 &&
	    strcmp(sal_errmsg(), "stdin:2: marked bad") == 0, "stop at a refused record");
	ok(filter("{\"a\":1}\n{\"bad\":2}\n{]\n{}\n", false, true, "{\"a\":1}\n{}\n", &c) == 0 && c.records == 4 && c.bad == 2, "skip");
	ok(filter("{\"id\":1}\n{\"id\":1,\"x\":2}\n{\"id\":\"b\"}\n{\"id\":1}\n", true, false, "{\"id\":1,\"x\":2}\n{\"id\":\"b\"}\n{\"id\":1}\n", &c) == 0 &&
	    c.out == 3, "groups");
	ok(filter("{\"id\":1}\n{\"id\":2,\"bad\":1}\n", true, false, "{\"id\":1}\n", &c) == -1 &&
	    strncmp(sal_errmsg(), "stdin:2:", 8) == 0, "the last group refused");
	ok(filter("{\"id\":1}\n{}\n", true, true, "{\"id\":1}\n", &c) == 0 && c.bad == 1, "no id");
	FILE *folder = fopen("/", "r");
	struct sal_jsonl *in = folder ? sal_jsonl_open(folder, "stdin") : NULL;
	ok(in && sal_jsonl_next(in, &r) == -2 && strstr(sal_errmsg(), "stdin: "), "a folder is a read error");
	sal_jsonl_close(in);
	if (folder)
		fclose(folder);
	sal_buf_free(&big);
	printf("1..%d\n", number);
	return failed;
}
