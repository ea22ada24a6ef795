/* SPDX-License-Identifier: Apache-2.0 */
/* sal-tokenize - text to tokens and back.  See sal-tokenize(1). */
#include "lib/filter.h"
#include "lib/tokenizer.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

struct config {
	struct sal_common c;
	bool decode, plain;
	struct sal_tokenizer *tk;
	struct sal_counts *n;
};

static int
encode(const struct config *cfg, const char *text, cJSON *add, struct sal_ids *ids)
{
	int rc = cfg->plain ? sal_tokenize_plain(cfg->tk, text, strlen(text), ids) : sal_tokenize(cfg->tk, text, strlen(text), NULL, 0, ids);
	return rc == 0 ? sal_json_add_ids(add, "tokens", ids->id, ids->n) : -1;
}

/* JSON text of b: tokens may spell any character, NUL too. */
static void
quote(const struct sal_buf *b, struct sal_buf *out)
{
	sal_buf_put(out, "\"", 1);
	for (size_t i = 0; i < b->len; i++) {
		unsigned char c = (unsigned char)b->data[i];
		if (c < 32 || c == 127)
			sal_buf_printf(out, "\\u%04x", c);
		else if (c == '"' || c == '\\')
			sal_buf_printf(out, "\\%c", c);
		else
			sal_buf_put(out, &c, 1);
	}
	sal_buf_put(out, "\"", 1);
}

static int
decode(const struct config *cfg, const cJSON *rec, cJSON *add, struct sal_ids *ids)
{
	struct sal_buf b = { 0 }, q = { 0 };
	int rc = -1;

	if (sal_json_ids(rec, "tokens", sal_tokenizer_vocab(cfg->tk), ids) == 0 && sal_detokenize(cfg->tk, ids->id, ids->n, &b) == 0) {
		if (b.len && memchr(b.data, 0, b.len)) { /* more than a C string holds */
			quote(&b, &q);
			rc = !q.failed && cJSON_AddRawToObject(add, "text", q.data) ? 0 : sal_err("out of memory");
		} else {
			rc = cJSON_AddStringToObject(add, "text", b.data ? b.data : "") ? 0 : sal_err("out of memory");
		}
	}
	sal_buf_free(&b);
	sal_buf_free(&q);
	return rc;
}

static int
convert(const struct config *cfg, struct sal_record *r, struct sal_ids *ids)
{
	cJSON *add = cJSON_CreateObject();
	const char *text = NULL;
	int rc = -1;

	if (!add)
		return sal_err("out of memory");
	if (cfg->decode)
		rc = decode(cfg, r->json, add, ids);
	else if ((text = sal_json_str(r->json, "text")) != NULL)
		rc = encode(cfg, text, add, ids);
	if (rc == 0)
		rc = sal_record_emit(r, add, NULL);
	cJSON_Delete(add);
	return rc;
}

/* A text that cannot be converted is a bad record. */
static int
run(void *ctx, struct sal_group **g, int n)
{
	const struct config *cfg = ctx;
	bool failed = false;
	long tokens = 0;

#pragma omp parallel for schedule(dynamic) num_threads(cfg->c.threads ? cfg->c.threads : omp_get_num_procs()) reduction(+ : tokens) reduction(|| : failed)
	for (int i = 0; i < n; i++) {
		struct sal_ids ids = { 0 };
		if (convert(cfg, g[i]->rec[0], &ids) != 0)
			failed = (g[i]->bad = strdup(sal_errmsg())) == NULL || failed;
		else
			tokens += ids.n;
		free(ids.id);
	}
	cfg->n->tokens += tokens;
	return failed ? sal_err("out of memory") : 0;
}

static int
plan(void *ctx, struct sal_buf *out)
{
	const struct config *cfg = ctx;

	sal_buf_printf(out, "%s, a vocabulary of %d tokens in %s\n", cfg->decode ? "tokens to text" : cfg->plain ? "plain text to tokens" : "text to tokens",
	    sal_tokenizer_vocab(cfg->tk), cfg->c.model);
	return 0;
}

int
main(int argc, char *argv[])
{
	struct sal_counts n = { 0 };
	struct config cfg = { .n = &n };
	const struct sal_opt opts[] = {
		SAL_OPT_MODEL(cfg.c),
		{ 0, "decode", SAL_OPT_FLAG, &cfg.decode, 0, 0, 0, "tokens to text" },
		{ 0, "plain", SAL_OPT_FLAG, &cfg.plain, 0, 0, 0, "read control tokens that a text spells as text" },
		SAL_OPT_THREADS(cfg.c),
		SAL_OPT_STREAM(cfg.c),
		SAL_OPT_DRY(cfg.c),
		SAL_OPT_QUIET(cfg.c),
		SAL_OPT_END
	};
	const struct sal_filter f = { .ctx = &cfg, .window = 256, .run = run, .plan = plan };
	int status = EXIT_FAILURE;

	sal_opts_parse(argc, argv, opts, "sal-tokenize -m PATH [options] < records > records", "Turn text into token ids, or back.");
	if (!cfg.c.model)
		sal_opts_fail("-m is required");
	if (cfg.decode && cfg.plain)
		sal_opts_fail("--plain has no meaning with --decode");

	if ((cfg.tk = sal_tokenizer_open(cfg.c.model)) == NULL || sal_filter_run(&f, &cfg.c, stdin, stdout, &n) != 0) {
		sal_warn("%s", sal_errmsg());
		goto out;
	}
	status = EXIT_SUCCESS;

out:
	status = sal_finish(status, &cfg.c, &n, NULL);
	sal_tokenizer_close(cfg.tk);
	return status;
}
