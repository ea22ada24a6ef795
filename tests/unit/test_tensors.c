/* SPDX-License-Identifier: Apache-2.0 */
/* test_tensors.c - safetensors and GGUF: what is written is read, blocks decode to known values, broken files are refused. */
#include "lib/tensors.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int number, failed;
static char dir[] = "/tmp/sal_test_XXXXXX", path[400];

static void ok(int good, const char *what)
{
	printf("%sok %d - %s\n", good ? "" : "not ", ++number, what);
	failed |= !good;
}

static const char *in_dir(const char *name)
{
	snprintf(path, sizeof path, "%s/%s", dir, name);
	return path;
}

static void remove_file(const char *name)
{
	unlink(in_dir(name));
}

/* ---- safetensors ---- */

/* A file of this header and `data` bytes 0, 1, 2 ... */
static const char *make_st(const char *name, const char *header, size_t data)
{
	struct sal_buf b = { 0 };
	uint64_t n = strlen(header);

	for (int i = 0; i < 8; i++) {
		char c = (char)(n >> (8 * i));
		sal_buf_put(&b, &c, 1);
	}
	sal_buf_puts(&b, header);
	for (size_t i = 0; i < data; i++) {
		char c = (char)i;
		sal_buf_put(&b, &c, 1);
	}
	if (b.failed || sal_write_file(in_dir(name), b.data, b.len) != 0)
		ok(0, "make a file");
	sal_buf_free(&b);
	return in_dir(name);
}

static int st_good(const char *header, size_t data)
{
	struct sal_tensors *s = sal_safetensors_open(make_st("x.safetensors", header, data));
	int good = s != NULL;

	if (!good && strncmp(sal_errmsg(), path, strlen(path)) != 0)
		printf("# the error does not name the file: %s\n", sal_errmsg());
	sal_tensors_close(s);
	remove_file("x.safetensors");
	return good;
}

static void test_st_rules(void)
{
	static const struct {
		const char *header;
		size_t data;
		int good;
		const char *what;
	} c[] = {
		{ "{}", 0, 1, "no tensors" },
		{ "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}   ", 8, 1, "padding, unaligned data" },
		{ "{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", 4, 1, "rank 0" },
		{ "{\"a\":{\"dtype\":\"F32\",\"shape\":[0,3],\"data_offsets\":[0,0]},\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, 1, "no elements" },
		{ "{\"a\":{\"dtype\":\"F4\",\"shape\":[4],\"data_offsets\":[0,2]}}", 2, 1, "half bytes" },
		{ "{\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,2]}}", 2, 0, "no whole bytes" },
		{ "{\"__metadata__\":{\"a\":\"1.5\"}}", 0, 1, "metadata" },
		{ "{\"__metadata__\":{\"a\":1}}", 0, 0, "metadata that is no text" },
		{ " {}", 0, 0, "a space first" },
		{ "{}\n", 0, 0, "a line end after the header" },
		{ "{}{}", 0, 0, "two objects" },
		{ "{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16.0]}}", 16, 0, "16.0" },
		{ "{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,1.6e1]}}", 16, 0, "1.6e1" },
		{ "{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[-0,16]}}", 16, 0, "-0" },
		{ "{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,9007199254740993]}}", 16, 0, "above 2^53" },
		{ "{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,16]}}", 16, 0, "shape and size differ" },
		{ "{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0, 0, "product wraps to 0" },
		{ "{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}", 4, 1, "rank 8" },
		{ "{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}", 4, 0, "rank 9" },
		{ "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}", 3, 0, "overlap" },
		{ "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[3,5]}}", 5, 0, "hole" },
		{ "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 3, 0, "bytes at the end" },
		{ "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 1, 0, "a byte short" },
		{ "{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0, 0, "a name twice" },
		{ "{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},\"\\u0061\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0, 0, "twice by an escape" },
		{ "{\"a\\u0000\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0, 0, "NUL in a name" },
		{ "{\"a\":{\"dtype\":\"f32\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0, 0, "unknown dtype" },
		{ "{\"a\":{\"dtype\":\"F32\",\"shape\":[0]}}", 0, 0, "no offsets" },
		{ "{\"a\":[]}", 0, 0, "an entry that is no object" },
	};

	for (size_t i = 0; i < sizeof c / sizeof *c; i++)
		ok(st_good(c[i].header, c[i].data) == c[i].good, c[i].what);
	ok(sal_write_file(in_dir("x"), "\377\377\377\377\377\377\377\377{}", 10) == 0 && !sal_safetensors_open(in_dir("x")), "a header length that wraps");
	ok(sal_write_file(in_dir("x"), "{}", 2) == 0 && !sal_safetensors_open(in_dir("x")), "two bytes");
	remove_file("x");
}

static uint32_t bits(float x)
{
	uint32_t u;

	memcpy(&u, &x, 4);
	return u;
}

static void test_st_write(void)
{
	static const float a[6] = { 1, -2, 3.140625f, 1e-40f, 65536, 0 };
	float b[4] = { INFINITY, NAN, 1.00390625f /* between two BF16: to even */, 1.01171875f }, out[6];
	struct sal_out_tensor t[3] = { { "z \"quoted\\", 2, { 2, 3 }, a }, { "b", 1, { 4 }, b }, { "none", 2, { 0, 5 }, NULL } };
	struct stat st;

	for (int bf16 = 0; bf16 < 2; bf16++) {
		ok(sal_safetensors_write(in_dir("w"), t, 3, bf16) == 0, bf16 ? "write BF16" : "write F32");
		struct sal_tensors *s = sal_safetensors_open(in_dir("w"));
		const struct sal_stored_tensor *z = s ? sal_tensors_find(s, t[0].name) : NULL, *y = s ? sal_tensors_find(s, "b") : NULL;
		ok(s && s->n == 3 && z && y && z->ndim == 2 && z->dim[0] == 2 && z->dim[1] == 3 && !sal_tensors_find(s, "c"), "read it");
		ok(s && (z->data - s->map[0]->data) % 8 == 0 && y->data == z->data + z->bytes, "data is aligned, tensors in order");
		ok(z && sal_decode_rows(z, 1, 1, out) == 0 && out[1] == 65536 && out[2] == 0 && (bf16 || out[0] == 1e-40f), "decode a row");
		ok(z && sal_decode_rows(z, 1, 2, out) == -1 && sal_decode_rows(z, -1, 1, out) == -1, "rows that are not there");
		ok(y && sal_decode_rows(y, 0, 1, out) == 0 && isinf(out[0]) && isnan(out[1]), "infinity and NaN stay");
		ok(bits(out[2]) == (bf16 ? 0x3f800000 : bits(b[2])) && bits(out[3]) == (bf16 ? 0x3f820000 : bits(b[3])), "ties to even");
		if (s)
			sal_tensors_drop_pages(s);
		ok(y && sal_decode_rows(y, 0, 1, out) == 0 && isinf(out[0]), "decode after the pages were dropped");
		sal_tensors_close(s);
	}
	t[1].name = t[0].name;
	ok(sal_safetensors_write(in_dir("w"), t, 3, false) == -1, "a name twice is not written");
	t[1].name = "b";
	t[1].dim[0] = INT64_MAX;
	ok(sal_safetensors_write(in_dir("w"), t, 3, false) == -1, "a size that wraps is not written");
	struct sal_tensors *s = sal_safetensors_open(in_dir("w"));
	ok(s && s->n == 3, "the old file stays");
	sal_tensors_close(s);
	t[1].dim[0] = 4;
	ok(sal_safetensors_write(dir, t, 3, false) == -1 && strstr(sal_errmsg(), dir), "a folder is not replaced");
	ok(stat(in_dir("w"), &st) == 0 && unlink(path) == 0, "remove");

	enum { MANY = 50000 };
	struct sal_out_tensor *many = calloc(MANY, sizeof *many);
	char (*name)[16] = calloc(MANY, sizeof *name);
	for (int i = 0; many && name && i < MANY; i++) {
		snprintf(name[i], sizeof *name, "t%d", (int)((unsigned)i * 7919u % MANY));
		many[i] = (struct sal_out_tensor){ name[i], 0, { 0 }, a };
	}
	double t0 = sal_now();
	ok(sal_safetensors_write(in_dir("w"), many, MANY, false) == 0, "write 50,000 tensors");
	s = sal_safetensors_open(in_dir("w"));
	ok(s && s->n == MANY && sal_tensors_find(s, "t49999") && sal_decode_rows(sal_tensors_find(s, "t123"), 0, 1, out) == 0 && out[0] == 1, "read them");
	ok(sal_now() - t0 < 20, "in no more than linear time, roughly");
	sal_tensors_close(s);
	free(name);
	free(many);
	remove_file("w");
}

static int index_good(const char *index)
{
	if (sal_write_file(in_dir("model.safetensors.index.json"), index, strlen(index)) != 0)
		return -1;
	struct sal_tensors *s = sal_safetensors_open_dir(dir);
	int good = s ? s->n : 0;

	sal_tensors_close(s);
	return good;
}

static void test_st_dir(void)
{
	make_st("a.safetensors", "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 2);
	make_st("b.safetensors", "{\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4);
	make_st("c.safetensors", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1);
	mkfifo(in_dir("f.safetensors"), 0600);
	ok(!sal_safetensors_open_dir(dir), "neither a model nor an index");
	ok(index_good("{\"weight_map\":{\"a\":\"a.safetensors\",\"b\":\"b.safetensors\"}}") == 2, "two shards");
	ok(!index_good("{\"weight_map\":{\"a\":\"b.safetensors\",\"b\":\"a.safetensors\"}}"), "a tensor in another shard");
	ok(!index_good("{\"weight_map\":{\"a\":\"a.safetensors\",\"b\":\"b.safetensors\",\"c\":\"c.safetensors\"}}"), "a tensor in no shard");
	ok(!index_good("{\"weight_map\":{\"a\":\"a.safetensors\",\"b\":\"c.safetensors\"}}"), "a tensor in two shards");
	ok(!index_good("{\"weight_map\":{\"a\":\"no.safetensors\"}}"), "a shard that is not there");
	ok(!index_good("{\"weight_map\":{\"a\":\"./a.safetensors\"}}"), "a path");
	ok(!index_good("{\"weight_map\":{\"a\":\"\"}}"), "an empty name");
	ok(!index_good("{\"weight_map\":{\"a\":\"f.safetensors\"}}"), "a fifo");
	ok(!index_good("{\"weight_map\":{\"a\":1}}"), "a number");
	ok(!index_good("{\"weight_map\":{}}"), "an empty map");
	ok(!index_good("{\"weight_map\":[]}") && !index_good("{}") && !index_good("[]") && !index_good("{"), "no map");
	make_st("model.safetensors", "{\"m\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[0,8]}}", 8);
	struct sal_tensors *s = sal_safetensors_open_dir(dir);
	float out[1];
	ok(s && s->n == 1 && s->t[0].type == SAL_ST_OTHER && sal_decode_rows(&s->t[0], 0, 1, out) == -1, "one file wins; I64 is not decoded");
	sal_tensors_close(s);
	remove_file("model.safetensors");
	remove_file("model.safetensors.index.json");
	mkfifo(in_dir("model.safetensors"), 0600);
	ok(!sal_safetensors_open_dir(dir), "a fifo as the model");
	for (const char *const *f = (const char *const[]){ "model.safetensors", "a.safetensors", "b.safetensors", "c.safetensors", "f.safetensors", NULL }; *f; f++)
		remove_file(*f);
}

/* ---- GGUF ---- */

/* x in that many bytes, little-endian; zeros above 8. */
static void put(struct sal_buf *b, uint64_t x, int bytes)
{
	for (int i = 0; i < bytes; i++) {
		char c = i < 8 ? (char)(x >> (8 * i)) : 0;
		sal_buf_put(b, &c, 1);
	}
}

static void put_str(struct sal_buf *b, const char *s)
{
	put(b, strlen(s), 8);
	sal_buf_puts(b, s);
}

static void key(struct sal_buf *b, const char *k, uint32_t type)
{
	put_str(b, k);
	put(b, type, 4);
}

static void head(struct sal_buf *b, uint64_t n_tensors, uint64_t n_kv)
{
	sal_buf_puts(b, "GGUF");
	put(b, 3, 4);
	put(b, n_tensors, 8);
	put(b, n_kv, 8);
}

static void info(struct sal_buf *b, const char *name, int nd, const uint64_t *dim, uint32_t type, uint64_t off)
{
	put_str(b, name);
	put(b, (uint64_t)nd, 4);
	for (int i = 0; i < nd; i++)
		put(b, dim[i], 8);
	put(b, type, 4);
	put(b, off, 8);
}

/* Write b as a file, open it, empty b. */
static struct sal_tensors *gguf(struct sal_buf *b)
{
	struct sal_tensors *s = NULL;

	if (!b->failed && sal_write_file(in_dir("g.gguf"), b->data, b->len) == 0)
		s = sal_gguf_open(path);
	sal_buf_free(b);
	return s;
}

/* As gguf, for files that must be refused. */
static void refuse(struct sal_buf *b, const char *what)
{
	struct sal_tensors *s = gguf(b);

	ok(!s && strstr(sal_errmsg(), path) == sal_errmsg(), what);
	sal_tensors_close(s);
}

static void test_gguf_meta(void)
{
	struct sal_buf b = { 0 };
	int64_t n = 0;

	head(&b, 0, 9);
	key(&b, "a.u64", 10), put(&b, 1ull << 40, 8);
	key(&b, "a.i8", 1), put(&b, 0xfe, 1);
	key(&b, "a.f32", 6), put(&b, 0x3fc00000, 4);
	key(&b, "a.yes", 7), put(&b, 1, 1);
	key(&b, "a.text", 8), put_str(&b, "h\xc3\xa9");
	key(&b, "a.names", 9), put(&b, 8, 4), put(&b, 3, 8), put_str(&b, "x"), put_str(&b, ""), put_str(&b, "yz");
	key(&b, "a.nums", 9), put(&b, 5, 4), put(&b, 2, 8), put(&b, 0xffffffff, 4), put(&b, 7, 4);
	key(&b, "a.bytes", 9), put(&b, 0, 4), put(&b, 2, 8), put(&b, 1, 1), put(&b, 2, 1);
	key(&b, "a.floats", 9), put(&b, 6, 4), put(&b, 1, 8), put(&b, 0x3fc00000, 4);
	struct sal_tensors *s = gguf(&b);
	ok(s && s->n == 0 && cJSON_GetArraySize(s->meta) == 5, "metadata");
	if (!s)
		return;
	const cJSON *x = cJSON_GetObjectItemCaseSensitive(s->meta, "a.text");
	ok(cJSON_GetObjectItemCaseSensitive(s->meta, "a.u64")->valuedouble == 0x1p40 && cJSON_GetObjectItemCaseSensitive(s->meta, "a.i8")->valuedouble == -2 &&
	   cJSON_GetObjectItemCaseSensitive(s->meta, "a.f32")->valuedouble == 1.5 && cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(s->meta, "a.yes")) &&
	   strcmp(x->valuestring, "h\xc3\xa9") == 0, "scalars");
	struct sal_str *str = sal_gguf_strings(s, "a.names", &n);
	ok(str && n == 3 && str[0].len == 1 && str[1].len == 0 && str[2].len == 2 && memcmp(str[2].p, "yz", 2) == 0, "an array of strings");
	free(str);
	int32_t *num = sal_gguf_ints(s, "a.nums", &n);
	ok(num && n == 2 && num[0] == -1 && num[1] == 7, "an array of whole numbers");
	free(num);
	float *real = sal_gguf_floats(s, "a.floats", &n);
	ok(real && n == 1 && real[0] == 1.5f, "an array of floats");
	free(real);
	ok(!sal_gguf_strings(s, "a.nums", &n) && !sal_gguf_ints(s, "a.names", &n) && !sal_gguf_ints(s, "a.u64", &n), "arrays of another type");
	ok(!sal_gguf_ints(s, "a.bytes", &n) && !sal_gguf_floats(s, "a.bytes", &n) && !sal_gguf_floats(s, "a.nums", &n), "numbers of another width or kind");
	ok(sal_gguf_array_len(s, "a.names") == 3 && sal_gguf_array_len(s, "a.text") == -1 && sal_gguf_array_len(s, "no") == -1, "lengths");
	sal_tensors_close(s);
}

static void test_gguf_refused(void)
{
	static const uint64_t d[5] = { 32, 2, 1, 1, 1 }, odd[1] = { 33 }, big[2] = { 1ull << 32, 1ull << 32 };
	struct sal_buf b = { 0 };

	sal_buf_puts(&b, "GGU"), refuse(&b, "three bytes");
	sal_buf_puts(&b, "GGUX"), put(&b, 3, 8), put(&b, 0, 16), refuse(&b, "another magic");
	sal_buf_puts(&b, "GGUF"), put(&b, 4, 4), put(&b, 0, 16), refuse(&b, "version 4");
	head(&b, 0, UINT64_MAX), refuse(&b, "too many keys");
	head(&b, 1u << 30, 0), refuse(&b, "too many tensors");
	head(&b, 0, 1), key(&b, "", 4), put(&b, 1, 4), refuse(&b, "an empty key");
	head(&b, 0, 2), key(&b, "k", 4), put(&b, 1, 4), key(&b, "k", 9), put(&b, 4, 4), put(&b, 0, 8), refuse(&b, "a key twice");
	head(&b, 0, 1), key(&b, "k", 13), put(&b, 1, 8), refuse(&b, "an unknown value type");
	head(&b, 0, 1), key(&b, "k", 8), put_str(&b, "\xff"), refuse(&b, "text that is not UTF-8");
	head(&b, 0, 1), key(&b, "k", 8), put(&b, 1, 8), put(&b, 0, 8), refuse(&b, "NUL in text");
	head(&b, 0, 1), key(&b, "k", 8), put(&b, UINT64_MAX, 8), refuse(&b, "text of 2^64-1 bytes");
	head(&b, 0, 1), key(&b, "k", 9), put(&b, 10, 4), put(&b, (1ull << 61) + 1, 8), put(&b, 0, 8), refuse(&b, "an array whose size wraps");
	head(&b, 0, 1), key(&b, "k", 9), put(&b, 9, 4), put(&b, 0, 8), refuse(&b, "an array of arrays");
	head(&b, 0, 1), key(&b, "general.alignment", 4), put(&b, 48, 4), refuse(&b, "alignment 48");
	head(&b, 0, 1), key(&b, "general.alignment", 5), put(&b, 32, 4), refuse(&b, "alignment of type i32");
	head(&b, 0, 1), key(&b, "general.alignment", 4), put(&b, 1u << 17, 4), refuse(&b, "alignment 131072");
	head(&b, 1, 0), info(&b, "a", 5, d, 0, 0), put(&b, 0, 999), refuse(&b, "five dimensions");
	head(&b, 1, 0), info(&b, "a", 0, d, 0, 0), put(&b, 0, 8), put(&b, 0, 99), refuse(&b, "no dimension");
	head(&b, 1, 0), info(&b, "a", 1, odd, 2, 0), put(&b, 0, 999), refuse(&b, "a row that is not whole blocks");
	head(&b, 1, 0), info(&b, "a", 2, big, 0, 0), put(&b, 0, 999), refuse(&b, "a size that wraps");
	head(&b, 1, 0), info(&b, "a", 1, d, 4, 0), put(&b, 0, 999), refuse(&b, "a removed type");
	head(&b, 1, 0), info(&b, "a", 1, d, 0, 32), put(&b, 0, 999), refuse(&b, "an offset that is not the next");
	head(&b, 1, 0), info(&b, "a", 2, d, 0, 0), put(&b, 0, 99), refuse(&b, "data that is cut");
	head(&b, 2, 0), info(&b, "a", 1, d, 0, 0), info(&b, "a", 1, d, 0, 128), put(&b, 0, 999), refuse(&b, "a name twice");
	head(&b, 1, 0), info(&b, "0123456789012345678901234567890123456789012345678901234567890123", 1, d, 0, 0), put(&b, 0, 999), refuse(&b, "a name of 64 bytes");
}

/* One block of each type: scale 2 (and minimum 1 or 0.5), all other bytes small patterns whose values are known. */
static void test_gguf_blocks(void)
{
	static const struct {
		const char *name;
		uint32_t id;
		enum sal_stored type;
		unsigned elements, bytes;
	} c[] = { { "f32", 0, SAL_ST_F32, 32, 128 }, { "f16", 1, SAL_ST_F16, 32, 64 }, { "q4_0", 2, SAL_ST_Q4_0, 32, 18 }, { "q4_1", 3, SAL_ST_Q4_1, 32, 20 },
		{ "q8_0", 8, SAL_ST_Q8_0, 32, 34 }, { "q4_k", 12, SAL_ST_Q4_K, 256, 144 }, { "q5_k", 13, SAL_ST_Q5_K, 256, 176 },
		{ "q6_k", 14, SAL_ST_Q6_K, 256, 210 }, { "bf16", 30, SAL_ST_BF16, 32, 64 }, { "i8", 24, SAL_ST_OTHER, 32, 32 } };
	enum { N = sizeof c / sizeof *c };
	struct sal_buf b = { 0 };
	uint64_t off = 0;

	head(&b, N, 0);
	for (int i = 0; i < N; i++) {
		uint64_t dim[2] = { c[i].elements, 2 };
		info(&b, c[i].name, 2, dim, c[i].id, off);
		off += (2 * c[i].bytes + 31) / 32 * 32;
	}
	put(&b, 0, (int)(31 - (b.len + 31) % 32));
	for (int i = 0; i < N; i++) {
		for (int row = 0; row < 2; row++) { /* row 0: zeros */
			unsigned char x[256] = { 0 };
			switch (row ? c[i].type : SAL_ST_OTHER) {
			case SAL_ST_F32: memcpy(x + 4, "\0\0\x20\xc0", 4); break;                        /* [1] = -2.5 */
			case SAL_ST_BF16: memcpy(x + 2, "\x20\xc0", 2); break;                             /* [1] = -2.5 */
			case SAL_ST_F16: memcpy(x + 2, "\0\xc1\1\0\0\x7c", 6); break;                     /* [1..3] = -2.5, 2^-24, infinity */
			case SAL_ST_Q4_0: memcpy(x, "\0\x40\x2f\x80", 4); break;                          /* [0] = 2(15-8), [16] = 2(2-8), [17] = 0 */
			case SAL_ST_Q4_1: memcpy(x, "\0\x40\0\x38\x2f", 5); break;                        /* [0] = 30.5, [16] = 4.5 */
			case SAL_ST_Q8_0: memcpy(x, "\0\x40\x80\x7f", 4); break;                          /* [0] = -256, [1] = 254 */
			case SAL_ST_Q4_K: case SAL_ST_Q5_K:
				memcpy(x, "\0\x40\0\x38", 4); /* 2, 0.5 */
				x[4] = 0xc3, x[8] = 0x41, x[12] = 0x25; /* group 0: 3, 1; group 4: 5 | 48, 2 | 16 */
				if (c[i].type == SAL_ST_Q5_K)
					x[16] = 0x11, x[48] = 0x07, x[48 + 64] = 0x09; /* groups 0 and 4, element 0: 7 + 16, 9 + 16 */
				else
					x[16] = 0x07, x[16 + 64] = 0x09;
				break;
			case SAL_ST_Q6_K:
				x[0] = 0x5a, x[128] = 0xe7; /* quants 10|48, [32] 0|16, [64] 5|32, [96] 0|48 */
				x[192] = 1, x[194] = 0xff, x[196] = 2, x[198] = 3;
				memcpy(x + 208, "\0\x40", 2);
				break;
			default: break;
			}
			sal_buf_put(&b, x, c[i].bytes);
		}
		put(&b, 0, (int)((64 - 2 * c[i].bytes % 32) % 32));
	}
	struct sal_tensors *s = gguf(&b);
	ok(s && s->n == N, "one tensor of each type");
	for (int i = 0; s && i < N; i++) {
		const struct sal_stored_tensor *t = sal_tensors_find(s, c[i].name);
		float y[512] = { 0 };
		int good = t && t->type == c[i].type && t->dim[0] == 2 && t->dim[1] == (int64_t)c[i].elements && t->bytes == 2 * c[i].bytes;
		if (good && t->type == SAL_ST_OTHER)
			good = sal_decode_rows(t, 0, 1, y) == -1;
		else if (good)
			good = sal_decode_rows(t, 0, 2, y) == 0 && sal_decode_rows(t, 1, 1, y) == 0;
		switch (c[i].type) {
		case SAL_ST_F32: case SAL_ST_BF16: good = good && y[0] == 0 && y[1] == -2.5f; break;
		case SAL_ST_F16: good = good && y[1] == -2.5f && y[2] == 0x1p-24f && isinf(y[3]); break;
		case SAL_ST_Q4_0: good = good && y[0] == 14 && y[16] == -12 && y[1] == -16 && y[17] == 0; break;
		case SAL_ST_Q4_1: good = good && y[0] == 30.5f && y[16] == 4.5f && y[1] == 0.5f; break;
		case SAL_ST_Q8_0: good = good && y[0] == -256 && y[1] == 254 && y[2] == 0; break;
		case SAL_ST_Q4_K: good = good && y[0] == 2 * 3 * 7 - 0.5f && y[1] == -0.5f && y[128] == 2 * 53 * 9 - 0.5f * 18 && y[32] == 0; break;
		case SAL_ST_Q5_K: good = good && y[0] == 2 * 3 * 23 - 0.5f && y[1] == -0.5f && y[128] == 2 * 53 * 25 - 0.5f * 18 && y[32] == 0; break;
		case SAL_ST_Q6_K: good = good && y[0] == 2 * 26 && y[32] == -2 * (16 - 32) && y[64] == 4 * 5 && y[96] == 6 * 16 && y[1] == 2 * -32 && y[128] == 0; break;
		default: break;
		}
		ok(good, c[i].name);
	}
	sal_tensors_close(s);
}

int main(void)
{
	if (!mkdtemp(dir))
		return 1;
	test_st_rules();
	test_st_write();
	test_st_dir();
	test_gguf_meta();
	test_gguf_refused();
	test_gguf_blocks();
	remove_file("g.gguf");
	ok(rmdir(dir) == 0, "nothing is left behind");
	sal_tensors_close(NULL);
	printf("1..%d\n", number);
	return failed;
}
