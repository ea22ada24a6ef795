/* SPDX-License-Identifier: Apache-2.0 */
/* tokenizer.h - text <-> token ids, exact on what `tokenizers` gives: byte-level BPE and SentencePiece-style BPE. */
#ifndef SAL_TOKENIZER_H
#define SAL_TOKENIZER_H
#include "lib/tensors.h"

struct sal_tokenizer;
/* path: a folder with tokenizer.json (tokenizer_config.json, generation_config.json, config.json where present) or a .gguf file. */
struct sal_tokenizer *sal_tokenizer_open(const char *path);
void sal_tokenizer_close(struct sal_tokenizer *tk);

struct sal_span { size_t start, end; }; /* bytes of a text */
/*
 * Append the ids of text (UTF-8) to out; no BOS is added.  Control tokens (added tokens) spelled in the text are
 * recognised, except where they overlap one of the plain spans (sorted, disjoint): content of records is plain.
 */
int sal_tokenize(const struct sal_tokenizer *tk, const char *text, size_t len, const struct sal_span *plain, int n_plain,
    struct sal_ids *out) SAL_USE_RESULT;
/* All of text is content. */
int sal_tokenize_plain(const struct sal_tokenizer *tk, const char *text, size_t len, struct sal_ids *out) SAL_USE_RESULT;
/* Text of ids, control tokens spelled out; invalid UTF-8 becomes U+FFFD as in `tokenizers`.  Appended to out. */
int sal_detokenize(const struct sal_tokenizer *tk, const int32_t *id, int n, struct sal_buf *out) SAL_USE_RESULT;
int sal_tokenizer_vocab(const struct sal_tokenizer *tk); /* ids are 0 .. vocab-1 */
int sal_tokenizer_bos(const struct sal_tokenizer *tk);      /* -1: none */
bool sal_tokenizer_adds_bos(const struct sal_tokenizer *tk); /* the model's own tokenizer puts BOS before a text */
int sal_tokenizer_eos(const struct sal_tokenizer *tk, const int32_t **id); /* every end token (generation_config, config, tokenizer; eot/eom of GGUF); returns how many */
bool sal_tokenizer_is_control(const struct sal_tokenizer *tk, int32_t id);
const char *sal_tokenizer_chat_template(const struct sal_tokenizer *tk); /* NULL: none */
#endif
