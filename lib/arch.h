/* SPDX-License-Identifier: Apache-2.0 */
/*
 * arch.h - the passes of a decoder over a packed batch, and what an architecture provides for them.
 *
 * An engine owns the activations, the key/value pages and the batch's index lists for at most max_rows rows; a batch is a
 * list of sequences packed end to end.  The forward pass gives the hidden states after the last norm; the backward pass takes
 * their gradient and adds the gradient of every record to the adapter's trees.
 */
#ifndef SAL_ARCH_H
#define SAL_ARCH_H
#include "lib/lora.h"

enum sal_mode {
	SAL_SCORE,  /* forward alone; one layer's buffers and pages serve all */
	SAL_DECODE, /* forward; keys and values of every layer stay in their pages */
	SAL_TRAIN,  /* forward and backward; every layer's activations are kept */
	SAL_TRAIN_LEAN /* the same, but only each layer's input is kept: the rest is computed again */
};

struct sal_bufs { /* of one layer */
	struct sal_tensor rrms1, n1, q, q0, k0, rq, rk, att, lse, x2, rrms2, n2, gate, up, act, u[SAL_N_PROJ];
	struct sal_kv kv;
};

struct sal_engine {
	struct sal_model *model;
	enum sal_mode mode;
	int max_rows, max_seqs, n_pages, seq_pages, rank; /* seq_pages: width of the page table */
	int ready;                  /* pages from 0 on that were zeroed */
	struct sal_arena *arena;
	struct sal_bufs *layer;     /* one, or one per layer */
	struct sal_tensor *x;       /* residual: one, or layers + 1 */
	struct sal_tensor hidden, rrmsf, k, v;
	struct sal_tensor dres, dn, g, datt, dq, dk, dv, dact, dgate, dup, du; /* training */
	struct sal_tensor ids_d, pos_d, slot_d, off_d, first_d, pages_d;
	/* the batch, on the host */
	int32_t *ids, *pos, *slot, *off, *first, *pages;
	int *record;
	int n_rows, n_seqs, next_page;
	/* dropout: sal_engine_dropout() */
	float dropout;
	uint64_t salt;
	int32_t *key; /* [max_rows], of the batch's rows */
	struct sal_arena *drop_arena;
	struct sal_tensor dropped, key_d; /* [max_rows * the widest input of a projection] act; [max_rows] I32 */
};

/* rank: the largest of any adapter to be used. NULL on error. */
struct sal_engine *sal_engine_new(struct sal_model *m, enum sal_mode mode, int max_rows, int max_seqs, int n_pages, int seq_pages, int rank);
size_t sal_engine_bytes(const struct sal_model *m, enum sal_mode mode, int max_rows, int max_seqs, int n_pages, int seq_pages, int rank);
void sal_engine_free(struct sal_engine *e);

/*
 * Pages 0 .. n-1 may be used from now on; they are zeroed at their first use, so that what is never used is address space alone
 * on a CPU.  For SAL_DECODE, whose caller chooses the pages, before a page is written for the first time.
 */
void sal_engine_pages(struct sal_engine *e, int n);
void sal_batch_clear(struct sal_engine *e);
/* Does a sequence of n rows fit beside what is there? (pages of its own; not for SAL_DECODE) */
bool sal_batch_fits(const struct sal_engine *e, int n_rows, int n_seqs);
/*
 * A sequence on pages of the engine's choosing; record: its index in the update (training).  Its first `shared` pages are
 * those of the sequence added before it, which begins with the same tokens: only the rows after them are computed.  Before a
 * backward pass that sequence shares none itself.
 */
void sal_batch_add(struct sal_engine *e, const int32_t *ids, int n, int record, int shared);
/* n tokens from position first, on the caller's pages (page[i]: positions SAL_KV_PAGE*i ..). */
void sal_batch_add_at(struct sal_engine *e, const int32_t *ids, int n, int first, const int32_t *page, int n_page);

/*
 * From now on what an adapter reads of each projection's input loses elements with probability p, PEFT's lora_dropout, by draws of
 * salt, layer, projection, record, number of the sequence in its record, and position, in both passes alike; rows that the two
 * sequences of a record share are drawn once.  0: none, as in a new engine.  The first call with p > 0 reserves an input of the widest
 * projection for all rows, which sal_engine_bytes() does not count.
 */
int sal_engine_dropout(struct sal_engine *e, float p, uint64_t salt) SAL_USE_RESULT;
/* Hidden states [n_rows, C] act, after the last norm; valid until the next pass. a: NULL for the bare model. */
struct sal_tensor sal_forward(struct sal_engine *e, const struct sal_adapter *a);
/* dh [n_rows, C] F32: gradient of what sal_forward gave for this batch and adapter. */
void sal_backward(struct sal_engine *e, struct sal_adapter *a, struct sal_tensor dh);
#endif
