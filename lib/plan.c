/* SPDX-License-Identifier: Apache-2.0 */
/* plan.c - memory and time of a run from its configuration. */
#include "lib/plan.h"
#include "lib/decode.h"
#include "lib/eval.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const sal_stage_name[4] = { "ppo", "train", "score", "generate" };

enum part { WEIGHTS, ADAPTERS, GRADIENTS, MOMENTS, KV_CACHE, ACTIVATIONS, WORKSPACE, PARTS };
static const char *const part_name[PARTS] = { "weights", "adapters", "gradients", "moments", "kv_cache", "activations", "workspace" };

struct sheet {
	double bytes[PARTS], sum, seconds;
	bool timed; /* the device's peaks are known */
	int batch; /* of one rank */
	int trained, frozen;
	const char *kept; /* which activations */
};

int
sal_plan_bytes(const char *text, double *bytes)
{
	static const char units[] = "KMGT";
	char *end;
	const char *u;

	*bytes = strtod(text, &end);
	u = *end ? strchr(units, *end) : NULL;
	for (long i = u ? u - units + 1 : 0; i > 0; i--)
		*bytes *= 1000;
	if (end == text || (*end && (u == NULL || end[1])) || !(*bytes > 0) || !isfinite(*bytes))
		return sal_err("'%s' is not a number of bytes such as 80G", text);
	return 0;
}

/* Is any projection kept in blocks, or in 8 bits? */
static bool
any_blocks(const struct sal_model *m)
{
	for (int l = 0; l < m->cfg.num_layers; l++)
		for (int k = 0; k < SAL_N_PROJ; k++)
			if (m->layer[l].w[k].form != SAL_PLAIN)
				return true;
	return false;
}

/* ---- memory -------------------------------------------------------------- */

static void
add_adapters(const struct sal_plan *p, struct sal_model *m, unsigned targets, struct sheet *s)
{
	struct sal_adapter_room f = sal_adapter_room(m, p->lora_r, targets, false, 0);
	struct sal_adapter_room t = sal_adapter_room(m, p->lora_r, targets, true, s->batch);

	s->bytes[ADAPTERS] = (double)f.packed * s->frozen + (double)(t.packed + t.master) * s->trained;
	s->bytes[GRADIENTS] = (double)t.sums * s->trained;
	s->bytes[MOMENTS] = (double)t.moments * s->trained;
}

static void
add_engine(const struct sal_plan *p, struct sal_model *m, struct sheet *s)
{
	bool train = s->trained > 0;
	const struct sal_config *c = &m->cfg;
	int64_t q = (int64_t)c->num_heads * c->head_dim, widest = c->intermediate_size > c->hidden_size ? c->intermediate_size : c->hidden_size;
	struct sal_work w = { .dtype = m->dtype, .widest = q > widest ? q : widest, .vocab = c->vocab_size, .hidden = c->hidden_size,
		.heads = c->num_heads, .head_dim = c->head_dim, .pages = (p->length + SAL_KV_PAGE - 1) / SAL_KV_PAGE,
		.blocks = any_blocks(m), .train = train };

	if (p->stage == SAL_STAGE_GENERATE) {
		size_t kv, all = sal_decoder_bytes(m, s->batch, p->length, p->lora_r, &kv);
		s->bytes[KV_CACHE] = (double)kv;
		s->bytes[ACTIVATIONS] = (double)(all - kv);
		s->kept = "of one layer";
		w.rows = (p->length > 512 ? p->length : 512) + s->batch;
	} else {
		struct sal_eval_shape e = sal_eval_shape(m, train, p->length, p->micro_batch, p->lora_r);
		size_t all = sal_engine_bytes(m, e.mode, e.rows, e.seqs, e.pages, e.width, p->lora_r);
		size_t bare = sal_engine_bytes(m, e.mode, e.rows, e.seqs, 0, e.width, p->lora_r);
		s->bytes[KV_CACHE] = (double)(all - bare);
		s->bytes[ACTIVATIONS] = (double)(bare + e.picked);
		s->kept = e.mode == SAL_TRAIN ? "of every layer" : e.mode == SAL_TRAIN_LEAN ? "each layer's input" : "of one layer";
		w.rows = e.rows;
	}
	s->bytes[WORKSPACE] = (double)sal_work_room(m->layout, &w);
}

/* ---- time ---------------------------------------------------------------- */

/*
 * What the card's two peaks allow, nothing else: products at 2 operations a multiply-add, and the traffic of matrices, decoded
 * before each use where they are in blocks.  A gradient through frozen weights is one product more, recomputing another.
 */
static double
seconds(const struct sal_plan *p, const struct sal_model *m, const struct sheet *s)
{
	const struct sal_config *c = &m->cfg;
	double base = 0, head = 2.0 * c->vocab_size * c->hidden_size, lora = 0, tokens = (double)s->batch * p->length, wide = m->dtype == SAL_F32 ? 4 : 2;
	double flops = p->tflops * 1e12, rate = p->bandwidth * 1e9, keys = 4.0 * c->num_layers * c->num_heads * c->head_dim * (p->length / 2.0);
	bool blocks = m->layout == sal_layout("cuda") && any_blocks(m);
	double use = 0, each = p->c.quantize == SAL_QUANTIZE_INT8 ? 1 + 4.0 / SAL_INT8_GROUP : wide; /* bytes of an element */

	for (int l = 0; l < c->num_layers; l++)
		for (int k = 0; k < SAL_N_PROJ; k++) {
			const struct sal_weight *w = &m->layer[l].w[k];
			double n = (double)w->out * (double)w->in;
			base += n;
			lora += (double)p->lora_r * (double)(w->out + w->in);
			/* bytes of one use: on a card blocks are read, decoded, and read again */
			use += blocks && w->form != SAL_PLAIN ? (double)sal_form_bytes(w->form, w->out * w->in) + 2 * wide * n : each * n;
		}
	double pass = 2 * (base + lora) + keys;
	if (p->stage == SAL_STAGE_GENERATE) { /* a pass for each token, all sequences together */
		double cache = s->bytes[KV_CACHE] / 2, step = (use + head / 2 * each + cache) / rate, work = (pass + head) * s->batch / flops;
		return p->length * (step > work ? step : work);
	}
	double passes = ceil(tokens / (p->micro_batch > p->length ? p->micro_batch : p->length)), moves = blocks ? passes * use / rate : 0;
	double forward = tokens * (pass + (p->stage == SAL_STAGE_SCORE ? head : 0)) / flops + moves;
	double train = tokens * ((strcmp(s->kept, "each layer's input") == 0 ? 3 : 2) * pass + 2 * lora + 2 * head) / flops + 3 * moves;
	/* the policy's, the reference's and the critic's figures, then two epochs of both */
	return p->stage == SAL_STAGE_SCORE ? forward : p->stage == SAL_STAGE_TRAIN ? train : 3 * forward + 2 * 2 * train;
}

/* ---- what is told -------------------------------------------------------- */

static void
tell(const struct sal_plan *p, const struct sheet *s, struct sal_buf *b)
{
	sal_buf_printf(b, "%s on %s: %d of %d records of %d tokens on each of %d, %d adapter%s trained, %d frozen, of rank %d\n", sal_stage_name[p->stage],
	    p->c.device, s->batch, p->c.batch, p->length, p->ranks, s->trained, s->trained == 1 ? "" : "s", s->frozen, p->lora_r);
	for (int k = 0; k < PARTS; k++)
		sal_buf_printf(b, "%-12s %9.2f GB%s%s%s\n", part_name[k], s->bytes[k] / 1e9, k == ACTIVATIONS ? " (" : "", k == ACTIVATIONS ? s->kept : "",
		    k == ACTIVATIONS ? ")" : "");
	sal_buf_printf(b, "%-12s %9.2f GB", "sum", s->sum / 1e9);
	if (p->memory > 0)
		sal_buf_printf(b, " of %.2f GB", p->memory / 1e9);
	if (s->timed)
		sal_buf_printf(b, "\n%-12s %9.1f s at the least, at %g TFLOP/s and %g GB/s\n", "time", s->seconds, p->tflops, p->bandwidth);
	else
		sal_buf_puts(b, "\ntime         give --tflops and --bandwidth of this processor\n");
}

static void
write_line(const struct sal_plan *p, const struct sheet *s, struct sal_buf *b)
{
	sal_buf_puts(b, "{\"model\":");
	sal_json_put_text(b, p->c.model, strlen(p->c.model));
	sal_buf_puts(b, ",\"device\":");
	sal_json_put_text(b, p->c.device, strlen(p->c.device));
	sal_buf_printf(b, ",\"stage\":\"%s\",\"batch\":%d,\"length\":%d,\"trained\":%d,\"frozen\":%d", sal_stage_name[p->stage], s->batch, p->length, s->trained,
	    s->frozen);
	for (int k = 0; k < PARTS; k++)
		sal_buf_printf(b, ",\"%s\":%.0f", part_name[k], s->bytes[k]);
	sal_buf_printf(b, ",\"sum\":%.0f", s->sum);
	if (p->memory > 0)
		sal_buf_printf(b, ",\"device_memory\":%.0f", p->memory);
	if (s->timed)
		sal_buf_printf(b, ",\"seconds\":%.9g", s->seconds);
	sal_buf_puts(b, "}\n");
}

int
sal_plan_run(const struct sal_plan *given, struct sal_buf *line, struct sal_buf *told)
{
	struct sal_plan plan = *given, *p = &plan;
	static const int trained[] = { 2, 1, 0, 0 }, frozen[] = { 1, 0, 1, 1 };
	struct sheet s = { .batch = (p->c.batch + p->ranks - 1) / p->ranks, .trained = p->trained < 0 ? trained[p->stage] : p->trained,
		.frozen = p->frozen < 0 ? frozen[p->stage] : p->frozen };
	size_t room = 0;
	unsigned targets;

	if (sal_targets_parse(p->lora_targets, &targets) != 0)
		return -1;
	struct sal_model *m = sal_model_sketch(p->c.model, &p->c, s.trained > 0 ? SAL_MODEL_TRAIN | SAL_MODEL_HEAD_GRAD : 0, &room);
	if (m == NULL)
		return -1;
	if (p->length == 0)
		p->length = m->cfg.max_positions;
	if (p->length > m->cfg.max_positions) {
		sal_err("%s: %d tokens are more than the context of %d", p->c.model, p->length, m->cfg.max_positions);
		sal_model_close(m);
		return -1;
	}
	if ((int64_t)(s.batch + 1) * ((p->length + SAL_KV_PAGE - 1) / SAL_KV_PAGE) > INT32_MAX) {
		sal_err("%d records of %d tokens have more pages of keys than can be numbered", s.batch, p->length);
		sal_model_close(m);
		return -1;
	}
	s.bytes[WEIGHTS] = (double)room;
	add_adapters(p, m, targets, &s);
	add_engine(p, m, &s);
	for (int k = 0; k < PARTS; k++)
		s.sum += s.bytes[k];
	if (strcmp(p->c.device, "cpu") != 0) {
		p->tflops = p->tflops > 0 ? p->tflops : 312; /* an A100 with 80 GB */
		p->bandwidth = p->bandwidth > 0 ? p->bandwidth : 2039;
	}
	s.timed = p->tflops > 0 && p->bandwidth > 0;
	s.seconds = s.timed ? seconds(p, m, &s) : 0;
	sal_model_close(m);
	write_line(p, &s, line);
	if (told)
		tell(p, &s, told);
	if (line->failed || (told && told->failed))
		return sal_err("out of memory");
	if (p->memory > 0 && s.sum > p->memory)
		return sal_err("%s: %.2f GB does not fit into %.2f GB", p->c.model, s.sum / 1e9, p->memory / 1e9);
	return 0;
}

/* ---- inspect ------------------------------------------------------------- */

static void
put_config(struct sal_buf *b, const char *path, const struct sal_config *c, int tensors, double elements, double bytes)
{
	static const char *const scaling[] = { "none", "linear", "llama3" };

	sal_buf_puts(b, "{\"model\":");
	sal_json_put_text(b, path, strlen(path));
	sal_buf_printf(b, ",\"arch\":\"%s\",\"hidden_size\":%d,\"intermediate_size\":%d,\"num_hidden_layers\":%d,\"num_attention_heads\":%d,"
	    "\"num_key_value_heads\":%d,\"head_dim\":%d,\"vocab_size\":%d,\"max_position_embeddings\":%d,\"rms_norm_eps\":%.9g,\"rope_theta\":%.17g,"
	    "\"rope_scaling\":\"%s\",\"sliding_window\":%d,\"tie_word_embeddings\":%s,\"tensors\":%d,\"parameters\":%.0f,\"bytes\":%.0f}\n", c->arch,
	    c->hidden_size, c->intermediate_size, c->num_layers, c->num_heads, c->num_kv_heads, c->head_dim, c->vocab_size, c->max_positions,
	    (double)c->rms_norm_eps, c->rope_theta, scaling[c->rope_scaling], c->window, c->tied ? "true" : "false", tensors, elements, bytes);
}

static double
elements(const struct sal_stored_tensor *t)
{
	double n = 1;

	for (int d = 0; d < t->ndim; d++)
		n *= (double)t->dim[d];
	return n;
}

int
sal_inspect(const char *path, struct sal_buf *lines, long *n)
{
	struct sal_config cfg;
	struct sal_tensors *s;
	double all = 0, bytes = 0;

	if (sal_config_read(path, &cfg) != 0)
		return -1;
	if ((s = sal_is_dir(path) ? sal_safetensors_open_dir(path) : sal_gguf_open(path)) == NULL)
		return -1;
	for (int i = 0; i < s->n; i++) {
		all += elements(&s->t[i]);
		bytes += (double)s->t[i].bytes;
	}
	put_config(lines, path, &cfg, s->n, all, bytes);
	for (int i = 0; i < s->n; i++) {
		const struct sal_stored_tensor *t = &s->t[i];
		sal_buf_puts(lines, "{\"tensor\":");
		sal_json_put_text(lines, t->name, strlen(t->name));
		sal_buf_printf(lines, ",\"dtype\":\"%s\",\"shape\":[", t->type_name);
		for (int d = 0; d < t->ndim; d++)
			sal_buf_printf(lines, "%s%lld", d ? "," : "", (long long)t->dim[d]);
		sal_buf_printf(lines, "],\"bytes\":%zu}\n", t->bytes);
	}
	*n = s->n + 1;
	sal_tensors_close(s);
	return lines->failed ? sal_err("out of memory") : 0;
}
