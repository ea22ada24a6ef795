/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kernels.h - devices, tensors, and the operations of a transformer.
 *
 * The only header of kernels/ that code outside kernels/ may include.
 *
 * Layout   Row-major; the last dimension is contiguous; no strides.
 * Shapes   B sequences packed end to end: N rows in all, sequence b is rows
 *          off[b] .. off[b+1]-1 (off: int32 [B+1]); C hidden size,
 *          F feed-forward size, V vocabulary; Hq query heads, Hk key/value
 *          heads (Hq is a multiple of Hk), D size of one head (even);
 *          K, O inputs and outputs of a linear map, R rank of an adapter.
 * Dtypes   "act" below is the compute type of the run, SAL_F32 or SAL_BF16;
 *          the residual stream and its gradient are always SAL_F32, gains,
 *          biases, heads and losses too.  Sums and statistics are float.
 * Order    The value of a row of an output depends on the row's own sequence
 *          and on nothing else: not on N, B, threads or what else is in the
 *          batch.  Sums over K run from 0 to K-1 in one chain; attention runs
 *          over pages of SAL_KV_PAGE keys counted from position 0; sums over
 *          the vocabulary run over chunks of SAL_VOCAB_CHUNK from 0.  So
 *          decoding, prefill, shared prefixes and training agree bit for bit.
 * Calls    Calls on one device run in the order made and may return before
 *          the work is done.  A device belongs to one thread at a time.
 * Errors   Operations return nothing.  The first failure of the device (out
 *          of memory, lost card) is kept; later operations on it do nothing;
 *          sal_dev_sync() reports it.  A wrong shape or dtype is a bug of the
 *          caller: the process is aborted with the operation's name and shapes.
 * Alias    Outputs do not overlap inputs unless it is said.
 */
#ifndef SAL_KERNELS_H
#define SAL_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum sal_dtype { SAL_F32, SAL_BF16, SAL_I32 };

#define SAL_MAX_DIM 4
#define SAL_KV_PAGE 32       /* keys in one page of a key/value cache */
#define SAL_VOCAB_CHUNK 2048 /* columns over which one partial sum of a softmax runs */

/*
 * How the elements of a matrix are kept: as numbers of the compute type, or in
 * blocks, row after row, as files store them.  kernels/blocks.c has the bytes of each.
 * SAL_INT8 is in no file: a back end makes it of elements or blocks, and multiplies it with
 * rows that it brings to 8 bits too.  Each SAL_INT8_GROUP along the sum of a matrix or a
 * row have one float: scale = largest |x| / 127, q = x / scale to the nearest.
 */
#define SAL_INT8_GROUP 64
enum sal_form { SAL_PLAIN, SAL_NF4, SAL_Q4_0, SAL_Q4_1, SAL_Q8_0, SAL_Q4_K, SAL_Q5_K, SAL_Q6_K, SAL_INT8, SAL_FORMS };

struct sal_dev;    /* a back end opened on one device */
struct sal_arena;  /* a block of its memory, handed out in order */
struct sal_layout; /* what a back end takes of memory; needs no device */

/* A view of device memory.  Copied by value; owns nothing. */
struct sal_tensor {
	enum sal_dtype dtype;
	int ndim;                 /* 1 .. SAL_MAX_DIM; 0: no tensor (an optional operand left out) */
	int64_t dim[SAL_MAX_DIM]; /* elements, outermost first */
	void *data;               /* valid until the arena is reset or freed */
};

#define SAL_NONE ((struct sal_tensor){ .ndim = 0 })

/*
 * A matrix [O, K] of a linear map, in the layout the back end multiplies from.
 * fwd serves x W^T, bwd (a second copy, transposed) serves dy W; bwd may be
 * absent where nothing is trained through the matrix, and of SAL_INT8.  Blocks are
 * decoded tile by tile as they are multiplied: the product is that of the matrix they decode to.
 */
struct sal_weight {
	enum sal_dtype dtype; /* act: SAL_F32 or SAL_BF16 */
	enum sal_form form;   /* SAL_PLAIN: elements of dtype; SAL_INT8; else blocks, which decode to dtype */
	int64_t out, in;      /* O, K */
	void *fwd, *bwd;      /* packed; layout private to the back end; bwd may be NULL */
};

/*
 * Keys and values of one layer, in pages of SAL_KV_PAGE positions.
 * k, v [P, Hk, SAL_KV_PAGE, D] act.  The order of elements inside one
 * (page, head) block of k and v belongs to the back end.  A page must be zeroed
 * (sal_zero) before its first use.
 */
struct sal_kv {
	struct sal_tensor k, v;
};

/* The sequences of one packed batch, as attention needs them. */
struct sal_seqs {
	struct sal_tensor off;   /* [B+1] I32; rows of sequence b */
	struct sal_tensor first; /* [B] I32; position of its first row (0 unless a cached prefix precedes it) */
	struct sal_tensor pages; /* [B, M] I32; page of positions SAL_KV_PAGE*j .. in pages[b][j] */
};

/* ---- devices and memory ------------------------------------------------- */

/*
 * Open a device: "cpu", "cuda", "cuda:1", or NULL for the CPU.
 * threads: worker threads of the CPU back end, 0 for all cores.
 * NULL on failure, with one line of explanation in err[0..errlen).
 * Close with sal_dev_close().
 */
struct sal_dev *sal_dev_open(const char *name, int threads, char *err, size_t errlen);
void sal_dev_close(struct sal_dev *dev); /* NULL does nothing */

/* The back end of a name as sal_dev_open() takes it, in this build or not; NULL: there is none of that name. */
const struct sal_layout *sal_layout(const char *name);
const struct sal_layout *sal_dev_layout(const struct sal_dev *dev);
/* Are results the same bits whatever is computed together ("Order" above)?  Else only from run to run. */
bool sal_layout_ordered(const struct sal_layout *l);
bool sal_layout_keeps(const struct sal_layout *l, enum sal_form form);
bool sal_layout_host(const struct sal_layout *l); /* is its memory the host's? */
/* Memory that the device could still hand out; SIZE_MAX: not known. */
size_t sal_dev_left(struct sal_dev *dev);

/* Instruction set in use ("portable", "avx2", "avx512") or the card's name. */
const char *sal_dev_isa(const struct sal_dev *dev);
int sal_dev_threads(const struct sal_dev *dev);

/* Wait for all work.  0, or -1 if anything failed since the device was opened. */
int sal_dev_sync(struct sal_dev *dev);
const char *sal_dev_error(const struct sal_dev *dev); /* "" if none */

/*
 * Reserve bytes of device memory.  Never NULL: a failure is kept by the device.
 * reset() forgets what was handed out since mark() and frees nothing.
 * Tensors start at multiples of 64 bytes; their content is not initialised.
 */
struct sal_arena *sal_arena_new(struct sal_dev *dev, size_t bytes);
size_t sal_arena_mark(const struct sal_arena *a); /* bytes in use */
size_t sal_arena_peak(const struct sal_arena *a); /* most bytes ever in use */
void sal_arena_reset(struct sal_arena *a, size_t mark);
void sal_arena_free(struct sal_arena *a); /* NULL does nothing */
/*
 * An arena over the caller's bytes at base, a multiple of 64, which free() leaves alone; they may be read-only: what is handed
 * out holds what stands there.  Only where device memory is the host's (sal_layout_host()).
 */
struct sal_arena *sal_arena_over(struct sal_dev *dev, const void *base, size_t bytes);
/* Where an arena begins, in host memory; NULL: it is a card's, or there was no memory for it. */
void *sal_arena_base(const struct sal_arena *a);

/*
 * A new tensor of the arena, of ndim dimensions (unused d are ignored).
 * If the arena is too small or an earlier failure is kept, the device's error
 * is set and the tensor's data is NULL: operations on it do nothing.
 */
struct sal_tensor sal_tensor_new(
    struct sal_arena *a, enum sal_dtype dtype, int ndim, int64_t d0, int64_t d1, int64_t d2, int64_t d3);
size_t sal_tensor_bytes(struct sal_tensor t);
/* Bytes that one tensor takes out of an arena, rounding included; for sizing. */
size_t sal_tensor_room(enum sal_dtype dtype, int64_t elements);
/* Rows r0 .. r0+n-1 of the first dimension: a view. */
struct sal_tensor sal_tensor_rows(struct sal_tensor t, int64_t r0, int64_t n);
/* The same elements under another shape: a view. */
struct sal_tensor sal_tensor_view(struct sal_tensor t, int ndim, int64_t d0, int64_t d1, int64_t d2, int64_t d3);

/* Copy between host memory (sal_tensor_bytes(t) bytes, the tensor's own dtype) and t; waits. */
void sal_upload(struct sal_dev *dev, struct sal_tensor t, const void *src);
void sal_download(struct sal_dev *dev, void *dst, struct sal_tensor t);

/*
 * A packed matrix of the arena, [out, in] of dtype act; transposed: with bwd too.
 * Its content is set by sal_weight_pack() or sal_weight_store().  form: what it is
 * stored as; a back end that does not keep it so (sal_layout_keeps()) makes it SAL_PLAIN.
 * SAL_INT8 has no transposed copy.  room: the bytes it takes.
 */
struct sal_weight sal_weight_new(
    struct sal_arena *a, enum sal_dtype dtype, enum sal_form form, int64_t out, int64_t in, bool transposed);
size_t sal_weight_room(const struct sal_layout *l, enum sal_dtype dtype, enum sal_form form, int64_t out, int64_t in,
    bool transposed);

/* Most that the operations of passes over so many rows take beside their operands, kept from call to call. */
struct sal_work {
	enum sal_dtype dtype;
	int64_t rows, widest, vocab, hidden; /* widest: inputs or outputs of a linear map */
	int64_t heads, head_dim, pages;      /* query heads; pages of the longest sequence */
	bool blocks, train;
};
size_t sal_work_room(const struct sal_layout *l, const struct sal_work *w);

/*
 * Blocks on the host.  bytes: of a matrix of n elements; a row of SAL_NF4 need not be
 * whole blocks, of every other form it must be (sal_form_block() elements).
 * decode: elements first .. first+count-1 of n to float, first at the edge of a block;
 * the values that the back ends multiply with, before they are rounded to dtype.
 */
size_t sal_form_bytes(enum sal_form form, int64_t n);
int sal_form_block(enum sal_form form);
const char *sal_form_name(enum sal_form form); /* "nf4", "q4_0" ... */
float sal_f16(const uint8_t *p); /* two bytes, IEEE half */
void sal_blocks_decode(enum sal_form form, const void *blocks, int64_t n, int64_t first, int64_t count, float *out);
/*
 * n elements to SAL_NF4, as bitsandbytes does: 16 codes for the elements over the largest absolute
 * value of each 64 in a row; those values less their mean again over the largest of each
 * 256, in 8 bits.  dst: sal_form_bytes(SAL_NF4, n).  scales: room for (n + 63) / 64.
 * Elements come in parts, in order, each but the last a multiple of 64; the last call has first + count == n.
 * Source: Dettmers et al. 2023, arXiv:2305.14314.
 */
void sal_nf4_encode(void *dst, float *scales, int64_t n, const float *x, int64_t first, int64_t count);

/* ---- operations --------------------------------------------------------- */

/*
 * Set rows row0 .. row0+n-1 of a packed matrix to scale * src.
 *   w    [O, K]  out, SAL_PLAIN or SAL_INT8      src  [n, K]  in, F32
 */
void sal_weight_pack(struct sal_dev *dev, struct sal_weight w, int64_t row0, struct sal_tensor src, float scale);

/*
 * Set rows row0 .. row0+n-1 of a packed matrix from blocks in host memory; waits.
 *   w    [O, K]  out: of that form, or SAL_PLAIN or SAL_INT8 (then they are decoded)
 *   src  [n, K]  in, blocks of form; SAL_NF4: the whole matrix (row0 0, n O)
 */
void sal_weight_store(struct sal_dev *dev, struct sal_weight w, enum sal_form form, int64_t row0, int64_t n, const void *src);

/* y [n, K] out, act of w: rows row0 .. row0+n-1 of w, decoded. */
void sal_weight_unpack(struct sal_dev *dev, struct sal_tensor y, struct sal_weight w, int64_t row0);

/*
 * y = x W^T + u B^T + bias (+ y when accumulate), the sums over K, then R, in one
 * chain; bias is added to the finished chain, old y last.
 *   y     [N, O]  out, F32 or act       x  [N, K]  in, act
 *   bias  [O]     in, F32, or SAL_NONE  u  [N, R]  in, act, or SAL_NONE
 *   w     (O, K)  in                    b  (O, R)  in, or NULL with u
 */
void sal_linear_forward(struct sal_dev *dev, struct sal_tensor y, struct sal_tensor x, struct sal_weight w,
    struct sal_tensor bias, struct sal_tensor u, const struct sal_weight *b, bool accumulate);

/*
 * The same for n maps (1 .. SAL_LINEARS) of one input, y = x W^T + u B^T + bias in each: the bits of n calls of
 * sal_linear_forward(), in less time where there are few rows.  The y must not overlap.
 */
#define SAL_LINEARS 4
struct sal_linear {
	struct sal_tensor y, bias, u; /* as above */
	struct sal_weight w;
	const struct sal_weight *b;
};
void sal_linears_forward(struct sal_dev *dev, const struct sal_linear *map, int n, struct sal_tensor x);

/*
 * dx = dy W + du A (+ dx when accumulate): w and a need their transposed copy.
 *   dx  [N, K]  out, F32 or act         dy  [N, O]  in, act
 *   w   (O, K)  in                      du  [N, R]  in, act, or SAL_NONE
 *                                       a   (R, K)  in, or NULL with du
 */
void sal_linear_backward(struct sal_dev *dev, struct sal_tensor dx, struct sal_tensor dy, struct sal_weight w,
    struct sal_tensor du, const struct sal_weight *a, bool accumulate);

/*
 * Gradient of a matrix from the rows of one record:
 * dw = scale * sum over t = 0 .. T-1, in this order, of dy_t x_t^T (+ dw when accumulate).
 *   dw  [O, K]  out, F32      dy  [T, O]  in, F32 or act      x  [T, K]  in, F32 or act
 */
void sal_linear_grad(struct sal_dev *dev, struct sal_tensor dw, struct sal_tensor dy, struct sal_tensor x,
    float scale, bool accumulate);

/* y [N, C] out, F32: rows ids [N] (I32, 0 .. O-1) of w (V, C). */
void sal_embedding_forward(struct sal_dev *dev, struct sal_tensor y, struct sal_weight w, struct sal_tensor ids);

/*
 * Root mean square normalisation of each row: y = x / rms(x) * w.
 *   y     [N, C]  out, F32 or act; may be x (for one dtype)
 *   rrms  [N]     out, F32, 1/rms of each row for the backward pass, or SAL_NONE
 *   x     [N, C]  in, F32 or act
 *   w     [C]     in, F32, gain
 *   eps           added to the mean square before the root, > 0
 * Source: Zhang and Sennrich 2019, arXiv:1910.07467.
 */
void sal_rmsnorm_forward(struct sal_dev *dev, struct sal_tensor y, struct sal_tensor rrms, struct sal_tensor x,
    struct sal_tensor w, float eps);

/*
 *   dx  [N, C]  out, dtype of x (+= when accumulate); may be dy (for one dtype)
 *   dy, x  [N, C]  in, F32 or act       w [C], rrms [N]  in, as given to the forward pass
 * The gain is frozen: no gradient for it.
 */
void sal_rmsnorm_backward(struct sal_dev *dev, struct sal_tensor dx, struct sal_tensor dy, struct sal_tensor x,
    struct sal_tensor w, struct sal_tensor rrms, bool accumulate);

/*
 * Rotate each head of each row by its position ("rotate half": element i with i + D/2).
 *   x    [N, H, D]   in/out, act
 *   pos  [N]         in, I32, 0 .. P-1
 *   cs   [P, 2, D/2] in, F32: cosines, then sines, of each position
 * backward rotates the other way.  Source: Su et al. 2021, arXiv:2104.09864.
 */
void sal_rope_forward(struct sal_dev *dev, struct sal_tensor x, struct sal_tensor pos, struct sal_tensor cs);
void sal_rope_backward(struct sal_dev *dev, struct sal_tensor dx, struct sal_tensor pos, struct sal_tensor cs);

/*
 * Write keys and values into their pages.
 *   kv    out; other slots keep their content     k, v  [N, Hk*D]  in, act
 *   slot  [N]  in, I32: page * SAL_KV_PAGE + place in the page, all different
 */
void sal_kv_store(struct sal_dev *dev, struct sal_kv kv, struct sal_tensor k, struct sal_tensor v, struct sal_tensor slot);
/* Copy page src to page dst (a fork of a sequence whose last page is not full). */
void sal_kv_copy(struct sal_dev *dev, struct sal_kv kv, int32_t dst, int32_t src);

/*
 * Causal attention of packed rows over paged keys, scores scaled by 1/sqrt(D).
 * Row i of sequence b stands at position p = first[b] + i - off[b] and sees keys
 * max(0, p-window+1) .. p (window <= 0: 0 .. p), which must have been stored.
 *   y    [N, Hq*D]  out, act             q  [N, Hq*D]  in, act
 *   lse  [N, Hq]    out, F32, log of the sum of exp of the scores, or SAL_NONE
 * Online softmax over pages in order; no score matrix.  Source: Dao 2023, arXiv:2307.08691.
 */
void sal_attention_forward(struct sal_dev *dev, struct sal_tensor y, struct sal_tensor lse, struct sal_tensor q,
    struct sal_kv kv, struct sal_seqs seqs, int window);

/*
 * Gradients of whole sequences.  One with first[b] > 0 goes on from the last before it with first 0: first[b] is a multiple of
 * SAL_KV_PAGE, at most that one's rows, and the pages of the positions before it are that one's; dk and dv of those positions
 * gather from all that see them.
 *   dq  [N, Hq*D]  out, act     dk, dv  [N, Hk*D]  out, act
 *   dy, y, q  [N, Hq*D]  in, act     lse  [N, Hq]  in     kv, seqs, window  as in the forward pass
 */
void sal_attention_backward(struct sal_dev *dev, struct sal_tensor dq, struct sal_tensor dk, struct sal_tensor dv,
    struct sal_tensor dy, struct sal_tensor y, struct sal_tensor q, struct sal_tensor lse, struct sal_kv kv,
    struct sal_seqs seqs, int window);

/* y = silu(gate) * up, all [N, F] act; y may be gate or up.  Source: Shazeer 2020, arXiv:2002.05202. */
void sal_swiglu_forward(struct sal_dev *dev, struct sal_tensor y, struct sal_tensor gate, struct sal_tensor up);
/* dgate, dup [N, F] out; dy, gate, up [N, F] in; all act; dgate may be gate or dy, dup may be up. */
void sal_swiglu_backward(struct sal_dev *dev, struct sal_tensor dgate, struct sal_tensor dup, struct sal_tensor dy,
    struct sal_tensor gate, struct sal_tensor up);

/*
 * Log-probability of one token per row under softmax(inv_temperature * h W^T), and what a backward pass needs of it:
 * the gradient of logprob_i by h_i, from the same logits.  They are made chunk by chunk and never stored.
 *   logprob  [n]  out, F32      entropy  [n]  out, F32, in nats, or SAL_NONE
 *   dh  [n, C]  out, F32, or SAL_NONE; then w needs its transposed copy
 *   h   [n, C]  in, act         w  (V, C)  in      target  [n]  in, I32
 */
void sal_logprob(struct sal_dev *dev, struct sal_tensor logprob, struct sal_tensor entropy, struct sal_tensor dh,
    struct sal_tensor h, struct sal_weight w, struct sal_tensor target, float inv_temperature);

/*
 * Draw one token per row.  logits [n, V] in, F32 (as sal_linear_forward makes them from h and w);
 *   u        [n]  in, F32, uniform in [0, 1)
 *   token    [n]  out, I32      logprob  [n]  out, F32, equal to sal_logprob's bit for bit
 * temperature 0: the largest logit (lowest id of equals), logprob at temperature 1.  Otherwise the distribution at
 * the temperature is cut to the top_k largest (0: all), then to the smallest set of at least top_p of the mass
 * (1: all; 0: the largest alone), then to those of at least min_p times the largest probability (0: all), renormalised,
 * and drawn by inversion in order of token id.  logprob is of the whole distribution, before the cuts.  Ties at the edge of
 * top_k or top_p: the lower id stays.
 */
void sal_sample(struct sal_dev *dev, struct sal_tensor token, struct sal_tensor logprob, struct sal_tensor logits,
    struct sal_tensor u, float temperature, int top_k, float top_p, float min_p);

/*
 * A scalar head: y_i = h_i . w + b.
 *   y  [n]  out, F32     h  [n, C]  in, act     w  [C]  in, F32     b  [1]  in, F32, or SAL_NONE
 */
void sal_head_forward(struct sal_dev *dev, struct sal_tensor y, struct sal_tensor h, struct sal_tensor w, struct sal_tensor b);
/*
 *   dh  [n, C]  out, F32      dw  [C], db  [1]  out (+= when accumulate), F32; db may be SAL_NONE
 *   dy  [n]     in, F32       rows are added to dw and db in order
 */
void sal_head_backward(struct sal_dev *dev, struct sal_tensor dh, struct sal_tensor dw, struct sal_tensor db,
    struct sal_tensor dy, struct sal_tensor h, struct sal_tensor w, bool accumulate);

/* y [n, C] out: rows idx [n] (I32) of x [N, C]; one dtype, any. */
void sal_gather(struct sal_dev *dev, struct sal_tensor y, struct sal_tensor x, struct sal_tensor idx);
/* y [N, C] out: row idx[i] = g[i] x[i], every other row 0; x [n, C], y and g [n] F32, g may be SAL_NONE: 1; idx [n] all different. */
void sal_scatter(struct sal_dev *dev, struct sal_tensor y, struct sal_tensor x, struct sal_tensor g, struct sal_tensor idx);

/*
 * y_ij = x_ij / (1 - p) where element j of row i stays, 0 where it falls (+ y_ij when accumulate).  It falls if the upper 32 bits
 * of mix(mix(salt + key_i) + j) are below p 2^32: of the row's key, whatever rows stand beside it.
 *   y, x  [N, K]  out, in, F32 or act      key  [N]  in, I32, taken as unsigned      p  0 .. 1, 1 excluded
 * mix: z + 0x9e3779b97f4a7c15 through the finaliser of SplitMix64, Steele et al. 2014.
 */
void sal_dropout(struct sal_dev *dev, struct sal_tensor y, struct sal_tensor x, struct sal_tensor key, uint64_t salt, float p,
    bool accumulate);

void sal_zero(struct sal_dev *dev, struct sal_tensor y);                      /* every byte 0 */
void sal_copy(struct sal_dev *dev, struct sal_tensor y, struct sal_tensor x); /* same shape; converts F32 and BF16 */
void sal_add(struct sal_dev *dev, struct sal_tensor y, struct sal_tensor x);  /* y += x, both F32 */

/* Sum of squares of x (F32), summed in double over chunks of 4096 elements in order; waits. */
double sal_sumsq(struct sal_dev *dev, struct sal_tensor x);

/*
 * One step of AdamW on w [any], m, v (moments) in/out, g in, all F32 of one shape.
 * g is multiplied by grad_scale first.  step counts from 1 (bias correction).
 *   w -= lr * (m^ / (sqrt(v^) + eps) + weight_decay * w)     as torch.optim.AdamW orders it
 * Source: Loshchilov and Hutter 2019, arXiv:1711.05101.
 */
void sal_adamw(struct sal_dev *dev, struct sal_tensor w, struct sal_tensor m, struct sal_tensor v, struct sal_tensor g,
    float grad_scale, float lr, float beta1, float beta2, float eps, float weight_decay, int64_t step);

#ifdef __cplusplus
}
#endif
#endif
