/* SPDX-License-Identifier: Apache-2.0 */
/*
 * room.h - the CUDA back end's working memory: bytes that each operation asks sal_cuda_scratch() for,
 * and what they come to for a run.  Plain C: layout.c has it without CUDA.
 */
#ifndef SAL_CUDA_ROOM_H
#define SAL_CUDA_ROOM_H

#include "../backend.h"

/* Working memory kept between calls, a block per slot; content is lost by the next call for the slot. */
enum sal_slot { SAL_SLOT_A, SAL_SLOT_B, SAL_SLOT_TILE, SAL_SLOT_COUNT };

#define SAL_CUDA_BLAS ((size_t)32 << 20)  /* what cuBLAS asks for on Hopper and later; enough for every card */
#define SAL_CUDA_TILE ((int64_t)64 << 20) /* decoded rows of a matrix in blocks: at most so many bytes, but 16 rows */
#define SAL_CUDA_TILE_ROWS 4096
#define SAL_CUDA_ROWS 512                    /* of logits at a time */
#define SAL_CUDA_SLICE (4 * SAL_VOCAB_CHUNK) /* columns of them */
#define SAL_CUDA_SPLIT 16                    /* pages of one part of attention's keys */
#define SAL_CUDA_FILL 256                    /* blocks that fill a card: with fewer, a block does one part */
#define SAL_CUDA_QUERIES 32                  /* most of one block */

static inline int64_t
sal_cuda_least(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

/* Rows of a tile: a multiple of 16, or all. */
static inline int64_t
sal_cuda_tile_rows(enum sal_dtype t, int64_t out, int64_t in)
{
	int64_t rows = SAL_CUDA_TILE / (in * (t == SAL_BF16 ? 2 : 4)) / 16 * 16;

	rows = rows < 16 ? 16 : sal_cuda_least(rows, SAL_CUDA_TILE_ROWS);
	return sal_cuda_least(rows, out);
}

static inline size_t
sal_cuda_tile_bytes(enum sal_dtype t, int64_t out, int64_t in)
{
	return (size_t)(sal_cuda_tile_rows(t, out, in) * in) * (t == SAL_BF16 ? 2 : 4);
}

/* A sum in float of an output in BF16. */
static inline size_t
sal_cuda_sum_bytes(int64_t rows, int64_t out)
{
	return (size_t)(rows * out) * 4;
}

/* Logits of a slice, and four numbers a row. */
static inline size_t
sal_cuda_logits_bytes(int64_t rows, int64_t vocab)
{
	return (size_t)(sal_cuda_least(rows, SAL_CUDA_ROWS) * (sal_cuda_least(vocab, SAL_CUDA_SLICE) + 4)) * 4;
}

static inline size_t
sal_cuda_dlogits_bytes(enum sal_dtype t, int64_t rows, int64_t vocab)
{
	return (size_t)(sal_cuda_least(rows, SAL_CUDA_ROWS) * sal_cuda_least(vocab, SAL_CUDA_SLICE)) * (t == SAL_BF16 ? 2 : 4);
}

/* Attention of n (row, query head) pairs in parts: d elements and two numbers each. */
static inline size_t
sal_cuda_parts_bytes(int64_t n, int64_t pages, int64_t d)
{
	return (size_t)(n * ((pages + SAL_CUDA_SPLIT - 1) / SAL_CUDA_SPLIT) * (d + 2)) * 4;
}

static inline size_t
sal_cuda_work_bytes(const struct sal_work *w)
{
	size_t a = w->dtype == SAL_BF16 ? sal_cuda_sum_bytes(w->rows, w->widest) : 0, z = sal_cuda_logits_bytes(w->rows, w->vocab);
	size_t parts = sal_cuda_parts_bytes(sal_cuda_least(w->rows * w->heads, SAL_CUDA_FILL * SAL_CUDA_QUERIES), w->pages, w->head_dim);
	size_t sum = SAL_CUDA_BLAS;

	a = a > z ? a : z;
	sum += a > parts ? a : parts; /* other users of the slot take less */
	if (w->train)
		sum += sal_cuda_dlogits_bytes(w->dtype, w->rows, w->vocab);
	if (w->blocks) {
		size_t wide = sal_cuda_tile_bytes(w->dtype, w->widest, w->hidden), deep = sal_cuda_tile_bytes(w->dtype, w->hidden, w->widest);
		sum += wide > deep ? wide : deep;
	}
	return sum;
}

#endif
