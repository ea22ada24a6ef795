/* SPDX-License-Identifier: Apache-2.0 */
/* tensors.h - named tensors in files (safetensors, GGUF), mapped, checked, decoded by rows; and the writer of safetensors. */
#ifndef SAL_TENSORS_H
#define SAL_TENSORS_H
#include "kernels/kernels.h"
#include "lib/util.h"
#include <cjson/cJSON.h>

enum sal_stored { /* how elements are stored */
	SAL_ST_F32, SAL_ST_F16, SAL_ST_BF16, SAL_ST_Q4_0, SAL_ST_Q4_1, SAL_ST_Q8_0, SAL_ST_Q4_K, SAL_ST_Q5_K, SAL_ST_Q6_K,
	SAL_ST_OTHER /* legal but not decoded here: integers, F64, other blocks */
};
struct sal_stored_tensor {
	char *name;
	enum sal_stored type;
	char type_name[16]; /* as the file spells it, for messages */
	int ndim;           /* 0 .. 8 */
	int64_t dim[8];     /* outermost first (GGUF's order is reversed on reading) */
	const uint8_t *data;
	size_t bytes;
	int file;           /* which shard */
};
/* A set of tensors: one file or all shards of a folder. */
struct sal_tensors {
	struct sal_stored_tensor *t; /* sorted by name */
	int n;
	struct sal_map **map;
	int n_maps;
	cJSON *meta; /* GGUF metadata as an object of scalars (numbers, strings, bools); arrays stay in the file: see sal_gguf_* */
	void *priv;
};
struct sal_tensors *sal_safetensors_open(const char *path);    /* one file */
struct sal_tensors *sal_safetensors_open_dir(const char *dir); /* model.safetensors, or all shards of model.safetensors.index.json */
struct sal_tensors *sal_gguf_open(const char *path);
void sal_tensors_close(struct sal_tensors *s); /* NULL does nothing */
const struct sal_stored_tensor *sal_tensors_find(const struct sal_tensors *s, const char *name); /* NULL: absent */
/* The blocks that it is stored in; SAL_PLAIN: none that kernels.h knows. */
enum sal_form sal_stored_form(const struct sal_stored_tensor *t);
/* Decode rows row0 .. row0+n-1 (of dim[0]; a 1-d tensor is one row) into out as float.  Rows are whole blocks.  -1: type not decoded. */
int sal_decode_rows(const struct sal_stored_tensor *t, int64_t row0, int64_t n, float *out) SAL_USE_RESULT;
/* Tell the system that the pages of the files are not needed for now. */
void sal_tensors_drop_pages(const struct sal_tensors *s);

/* GGUF metadata arrays: number of elements, -1 when the key is absent or not such an array. */
int64_t sal_gguf_array_len(const struct sal_tensors *s, const char *key);
/* Strings of an array: views into the map (not NUL-terminated).  malloc'd arrays of n; NULL on error. */
struct sal_str { const char *p; size_t len; };
struct sal_str *sal_gguf_strings(const struct sal_tensors *s, const char *key, int64_t *n);
float *sal_gguf_floats(const struct sal_tensors *s, const char *key, int64_t *n); /* of f32, nothing else */
int32_t *sal_gguf_ints(const struct sal_tensors *s, const char *key, int64_t *n); /* of i32 or u32 */

/* Write a safetensors file of F32 (or BF16: converted, ties to even) tensors; atomic.  names sorted by the caller's order. */
struct sal_out_tensor { const char *name; int ndim; int64_t dim[4]; const float *data; };
/* The same; a tensor without data is made by fill(ctx, its index, room for its elements) when its turn comes; -1: errmsg. */
int sal_safetensors_write_from(const char *path, const struct sal_out_tensor *t, int n, bool bf16, int (*fill)(void *ctx, int i, float *out),
    void *ctx) SAL_USE_RESULT;
int sal_safetensors_write(const char *path, const struct sal_out_tensor *t, int n, bool bf16) SAL_USE_RESULT;
#endif
