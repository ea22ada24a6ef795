/* SPDX-License-Identifier: Apache-2.0 */
/*
 * model.c - read a configuration and put a model's weights on a device.
 *
 * Two families of files, one table of names each; matrices are decoded a block of rows at a time into float and
 * packed at once, so a model is never held in memory twice.
 */
#include "lib/model.h"
#include "lib/jsonl.h"
#include "lib/packed.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_POSITIONS (1 << 20) /* the table of angles is made for all of them */
#define MAX_HEAD 1024

const char *const sal_proj_name[SAL_N_PROJ] = { "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj" };

/* What differs between the architectures; everything else is one decoder. */
static const struct {
	const char *name;
	bool qkv_bias, qk_norm, permuted_gguf;
} arch_table[] = {
	{ "llama", false, false, true },
	{ "mistral", false, false, true },
	{ "qwen2", true, false, false },
	{ "qwen3", false, true, false },
};
#define QKV (1u << SAL_Q | 1u << SAL_K | 1u << SAL_V)

static const struct {
	const char *hf, *gguf;
} proj_names[SAL_N_PROJ] = {
	{ "self_attn.q_proj", "attn_q" }, { "self_attn.k_proj", "attn_k" }, { "self_attn.v_proj", "attn_v" },
	{ "self_attn.o_proj", "attn_output" }, { "mlp.gate_proj", "ffn_gate" }, { "mlp.up_proj", "ffn_up" },
	{ "mlp.down_proj", "ffn_down" },
};

void
sal_proj_shape(const struct sal_config *cfg, int proj, int64_t *out, int64_t *in)
{
	int64_t q = (int64_t)cfg->num_heads * cfg->head_dim, kv = (int64_t)cfg->num_kv_heads * cfg->head_dim;
	int64_t c = cfg->hidden_size, f = cfg->intermediate_size;

	*out = proj == SAL_Q ? q : proj == SAL_K || proj == SAL_V ? kv : proj == SAL_GATE || proj == SAL_UP ? f : c;
	*in = proj == SAL_O ? q : proj == SAL_DOWN ? f : c;
}

static int
find_arch(const char *name)
{
	for (size_t i = 0; i < sizeof arch_table / sizeof *arch_table; i++)
		if (strcmp(arch_table[i].name, name) == 0)
			return (int)i;
	return -1;
}

static int
get_int(const cJSON *j, const char *name, int64_t min, int64_t max, int def, int *out)
{
	int64_t v;

	if (!sal_json_has(j, name)) {
		if (def < 0)
			return sal_err("missing \"%s\"", name);
		*out = def;
		return 0;
	}
	if (sal_json_int(j, name, min, max, &v) != 0)
		return -1;
	*out = (int)v;
	return 0;
}

static int
get_num(const cJSON *j, const char *name, double def, double *out)
{
	*out = def;
	if (!sal_json_has(j, name))
		return isnan(def) ? sal_err("missing \"%s\"", name) : 0;
	return sal_json_num(j, name, out);
}

/* A flag of config.json, absent: false. */
static int
get_flag(const cJSON *j, const char *name, bool *out)
{
	const cJSON *v = cJSON_GetObjectItemCaseSensitive(j, name);

	*out = cJSON_IsTrue(v);
	return v && !cJSON_IsBool(v) && !cJSON_IsNull(v) ? sal_err("\"%s\" is not true or false", name) : 0;
}

/* A token of config.json, or a list of them: in the vocabulary. */
static int
check_tokens(const cJSON *j, const char *name, int vocab)
{
	const cJSON *v = cJSON_GetObjectItemCaseSensitive(j, name), *x = cJSON_IsArray(v) ? v->child : v;

	for (; x && !cJSON_IsNull(x); x = cJSON_IsArray(v) ? x->next : NULL)
		if (!cJSON_IsNumber(x) || x->valuedouble != floor(x->valuedouble) || x->valuedouble >= vocab)
			return sal_err("\"%s\" is not a token of a vocabulary of %d", name, vocab);
	return 0;
}

static int
check_config(struct sal_config *c)
{
	if (c->num_heads % c->num_kv_heads != 0)
		return sal_err("%d attention heads are not a multiple of %d key/value heads", c->num_heads, c->num_kv_heads);
	if (c->head_dim % 2 != 0)
		return sal_err("head size %d is odd", c->head_dim);
	if (!(c->rms_norm_eps > 0) || !(c->rms_norm_eps < 1))
		return sal_err("rms_norm_eps %g is not in (0, 1)", (double)c->rms_norm_eps);
	if (!(c->rope_theta > 0) || !isfinite(c->rope_theta))
		return sal_err("rope_theta %g is not positive", c->rope_theta);
	if (c->rope_scaling && !(c->rope_factor >= 1 && isfinite(c->rope_factor)))
		return sal_err("rope scaling factor %g is not at least 1", c->rope_factor);
	if (c->rope_scaling == 2 && (!(c->rope_low > 0) || !(c->rope_high > c->rope_low) || c->rope_original < 1))
		return sal_err("rope scaling of type llama3 has unusable bounds");
	return 0;
}

static int
read_rope(struct sal_config *c, const cJSON *j)
{
	const cJSON *p = cJSON_GetObjectItemCaseSensitive(j, "rope_parameters");
	const cJSON *s = cJSON_GetObjectItemCaseSensitive(j, "rope_scaling");
	const char *type;

	if (get_num(cJSON_IsObject(p) ? p : j, "rope_theta", NAN, &c->rope_theta) != 0) {
		if (sal_json_has(j, "rope_theta") || (p && sal_json_has(p, "rope_theta")))
			return -1;
		if (get_num(j, "rope_theta", 10000.0, &c->rope_theta) != 0)
			return -1;
	}
	s = cJSON_IsObject(p) ? p : s;
	if (s == NULL || cJSON_IsNull(s))
		return 0;
	if (!cJSON_IsObject(s))
		return sal_err("\"rope_scaling\" is not an object");
	if (!sal_json_has(s, "rope_type") && !sal_json_has(s, "type"))
		return 0;
	if ((type = sal_json_str(s, sal_json_has(s, "rope_type") ? "rope_type" : "type")) == NULL)
		return -1;
	if (strcmp(type, "default") == 0)
		return 0;
	c->rope_scaling = strcmp(type, "linear") == 0 ? 1 : strcmp(type, "llama3") == 0 ? 2 : 0;
	if (c->rope_scaling == 0)
		return sal_err("rope scaling of type '%s' is not supported", type);
	if (get_num(s, "factor", NAN, &c->rope_factor) != 0)
		return -1;
	if (c->rope_scaling == 2 &&
	    (get_num(s, "low_freq_factor", NAN, &c->rope_low) != 0 || get_num(s, "high_freq_factor", NAN, &c->rope_high) != 0 ||
	        get_int(s, "original_max_position_embeddings", 1, 1 << 30, -1, &c->rope_original) != 0))
		return -1;
	return 0;
}

static int
config_from_json(const cJSON *j, struct sal_config *c)
{
	const char *arch = sal_json_str(j, "model_type");
	double eps;
	bool attn, mlp;
	int a;

	if (arch == NULL)
		return -1;
	if ((a = find_arch(arch)) < 0)
		return sal_err("architecture '%s' is not supported", arch);
	snprintf(c->arch, sizeof c->arch, "%s", arch);
	c->qk_norm = arch_table[a].qk_norm;
	if (get_flag(j, "attention_bias", &attn) != 0 || get_flag(j, "mlp_bias", &mlp) != 0 || get_flag(j, "tie_word_embeddings", &c->tied) != 0)
		return -1;
	c->biases = (arch_table[a].qkv_bias ? QKV : attn ? QKV | 1u << SAL_O : 0) | (mlp ? 1u << SAL_GATE | 1u << SAL_UP | 1u << SAL_DOWN : 0);
	if (get_int(j, "hidden_size", 1, 1 << 20, -1, &c->hidden_size) != 0 ||
	    get_int(j, "intermediate_size", 1, 1 << 22, -1, &c->intermediate_size) != 0 ||
	    get_int(j, "num_hidden_layers", 1, 4096, -1, &c->num_layers) != 0 ||
	    get_int(j, "num_attention_heads", 1, 4096, -1, &c->num_heads) != 0 ||
	    get_int(j, "num_key_value_heads", 1, 4096, c->num_heads, &c->num_kv_heads) != 0 ||
	    get_int(j, "vocab_size", 1, 1 << 24, -1, &c->vocab_size) != 0 ||
	    get_int(j, "max_position_embeddings", 1, MAX_POSITIONS, -1, &c->max_positions) != 0 ||
	    check_tokens(j, "bos_token_id", c->vocab_size) != 0 || check_tokens(j, "eos_token_id", c->vocab_size) != 0 ||
	    get_num(j, "rms_norm_eps", NAN, &eps) != 0)
		return -1;
	c->rms_norm_eps = (float)eps;
	if (!sal_json_has(j, "head_dim") && c->hidden_size % c->num_heads != 0)
		return sal_err("hidden_size %d is not a multiple of num_attention_heads %d", c->hidden_size, c->num_heads);
	if (get_int(j, "head_dim", 1, MAX_HEAD, c->hidden_size / c->num_heads, &c->head_dim) != 0)
		return -1;
	if (sal_json_has(j, "hidden_act")) {
		const char *act = sal_json_str(j, "hidden_act");
		if (act == NULL)
			return -1;
		if (strcmp(act, "silu") != 0)
			return sal_err("hidden_act '%s' is not supported", act);
	}
	const cJSON *use = cJSON_GetObjectItemCaseSensitive(j, "use_sliding_window");
	if (!(use && cJSON_IsFalse(use)) && (use || strcmp(arch, "mistral") == 0) &&
	    get_int(j, "sliding_window", 1, 1 << 30, 0, &c->window) != 0)
		return -1;
	if (c->window >= c->max_positions)
		c->window = 0;
	const cJSON *types = cJSON_GetObjectItemCaseSensitive(j, "layer_types"), *t;
	cJSON_ArrayForEach(t, types)
		if (c->window && cJSON_IsString(t) && strcmp(t->valuestring, "sliding_attention") != 0)
			return sal_err("layers with and without a sliding window in one model are not supported");
	return read_rope(c, j) != 0 ? -1 : check_config(c);
}

static int
config_from_gguf(const struct sal_tensors *s, struct sal_config *c)
{
	const cJSON *j = s->meta;
	const char *arch = sal_json_str(j, "general.architecture"), *type;
	char k[96];
	double eps;
	int a, vocab = 0;
#define KEY(name) (snprintf(k, sizeof k, "%s." name, arch), k)

	if (arch == NULL)
		return -1;
	if ((a = find_arch(arch)) < 0)
		return sal_err("architecture '%s' is not supported", arch);
	snprintf(c->arch, sizeof c->arch, "%s", arch);
	c->qk_norm = arch_table[a].qk_norm;
	c->permuted = arch_table[a].permuted_gguf;
	c->biases = arch_table[a].qkv_bias ? QKV : 0;
	if (get_int(j, KEY("embedding_length"), 1, 1 << 20, -1, &c->hidden_size) != 0 ||
	    get_int(j, KEY("feed_forward_length"), 1, 1 << 22, -1, &c->intermediate_size) != 0 ||
	    get_int(j, KEY("block_count"), 1, 4096, -1, &c->num_layers) != 0 ||
	    get_int(j, KEY("attention.head_count"), 1, 4096, -1, &c->num_heads) != 0 ||
	    get_int(j, KEY("attention.head_count_kv"), 1, 4096, c->num_heads, &c->num_kv_heads) != 0 ||
	    get_int(j, KEY("context_length"), 1, MAX_POSITIONS, -1, &c->max_positions) != 0 ||
	    get_num(j, KEY("attention.layer_norm_rms_epsilon"), NAN, &eps) != 0 ||
	    get_num(j, KEY("rope.freq_base"), 10000.0, &c->rope_theta) != 0)
		return -1;
	c->rms_norm_eps = (float)eps;
	if (c->hidden_size % c->num_heads != 0 && !sal_json_has(j, KEY("attention.key_length")))
		return sal_err("embedding_length %d is not a multiple of head_count %d", c->hidden_size, c->num_heads);
	if (get_int(j, KEY("attention.key_length"), 1, MAX_HEAD, c->hidden_size / c->num_heads, &c->head_dim) != 0 ||
	    get_int(j, KEY("attention.sliding_window"), 1, 1 << 30, 0, &c->window) != 0 ||
	    get_int(j, KEY("rope.dimension_count"), 1, 4096, c->head_dim, &vocab) != 0)
		return -1;
	if (vocab != c->head_dim)
		return sal_err("rope dimension %d is not the head size %d", vocab, c->head_dim);
	if (c->window >= c->max_positions)
		c->window = 0;
	if (sal_json_has(j, KEY("rope.scaling.type"))) {
		if ((type = sal_json_str(j, k)) == NULL)
			return -1;
		if (strcmp(type, "linear") == 0) {
			c->rope_scaling = 1;
			if (get_num(j, KEY("rope.scaling.factor"), NAN, &c->rope_factor) != 0)
				return -1;
		} else if (strcmp(type, "none") != 0)
			return sal_err("rope scaling of type '%s' is not supported", type);
	}
	const struct sal_stored_tensor *e = sal_tensors_find(s, "token_embd.weight");
	if (e == NULL || e->ndim != 2)
		return sal_err("tensor 'token_embd.weight' is missing");
	if (e->dim[0] > 1 << 24 || e->dim[0] < 1)
		return sal_err("vocabulary of %lld tokens", (long long)e->dim[0]);
	c->vocab_size = (int)e->dim[0];
	c->tied = sal_tensors_find(s, "output.weight") == NULL;
	return check_config(c);
#undef KEY
}

static bool
is_json(const char *path)
{
	size_t n = strlen(path);

	return n > 5 && strcmp(path + n - 5, ".json") == 0;
}

/* config.json of a folder, or by its own path */
static int
read_folder(const char *path, struct sal_config *cfg)
{
	char *file = is_json(path) ? strdup(path) : sal_path_join(path, "config.json"), why[512];
	cJSON *j = file ? sal_json_read(file) : NULL;
	int rc = j ? config_from_json(j, cfg) : -1;

	if (j && rc != 0) {
		snprintf(why, sizeof why, "%s", sal_errmsg());
		sal_err("%s: %s", file, why);
	}
	cJSON_Delete(j);
	free(file);
	return rc;
}

static struct sal_tensors *
open_files(const char *path, struct sal_config *cfg)
{
	struct sal_tensors *s = NULL;
	char why[512];

	memset(cfg, 0, sizeof *cfg);
	if (sal_is_dir(path))
		return read_folder(path, cfg) == 0 ? sal_safetensors_open_dir(path) : NULL;
	if ((s = sal_gguf_open(path)) != NULL && config_from_gguf(s, cfg) != 0) {
		snprintf(why, sizeof why, "%s", sal_errmsg());
		sal_err("%s: %s", path, why);
		sal_tensors_close(s);
		s = NULL;
	}
	return s;
}

int
sal_config_read(const char *path, struct sal_config *cfg)
{
	struct sal_tensors *s = open_files(path, cfg);

	if (s == NULL)
		return -1;
	sal_tensors_close(s);
	return 0;
}

struct loader {
	struct sal_model *m;
	const struct sal_tensors *files;
	bool gguf;
	bool check;  /* names and shapes only: nothing is reserved before the whole model is known to be in the files */
	float *host; /* a block of decoded rows */
	size_t host_len;
	struct sal_tensor stage;
};

static const struct sal_stored_tensor *
need(const struct loader *ld, const char *name, int ndim, int64_t d0, int64_t d1)
{
	const struct sal_stored_tensor *t = sal_tensors_find(ld->files, name);

	if (t == NULL) {
		sal_err("%s: tensor '%s' is missing", ld->m->path, name);
		return NULL;
	}
	if (t->ndim != ndim || t->dim[0] != d0 || (ndim == 2 && t->dim[1] != d1)) {
		sal_err("%s: tensor '%s' has %d dimensions [%lld, %lld], expected [%lld, %lld]", ld->m->path, name, t->ndim,
		    t->ndim > 0 ? (long long)t->dim[0] : 0, t->ndim > 1 ? (long long)t->dim[1] : 0, (long long)d0, (long long)d1);
		return NULL;
	}
	if (t->type == SAL_ST_OTHER) {
		sal_err("%s: tensor '%s' is stored as %s, which is not supported", ld->m->path, name, t->type_name);
		return NULL;
	}
	return t;
}

/* Rows of q and k in a GGUF of arch llama: row 2j+s of a head is row s*D/2 + j of Hugging Face's order. */
static void
unpermute(void *rows, void *tmp, int64_t d, int64_t bytes)
{
	memcpy(tmp, rows, (size_t)(d * bytes));
	for (int64_t s = 0; s < 2; s++)
		for (int64_t j = 0; j < d / 2; j++)
			memcpy((char *)rows + (s * d / 2 + j) * bytes, (const char *)tmp + (2 * j + s) * bytes, (size_t)bytes);
}

/* Rows r .. r+n-1 of t as float in ld->host, in Hugging Face's order. */
static int
decode(struct loader *ld, const struct sal_stored_tensor *t, int64_t r, int64_t n, bool permuted)
{
	int64_t d = ld->m->cfg.head_dim, in = t->dim[1];

	if (sal_decode_rows(t, r, n, ld->host) != 0)
		return -1;
	for (int64_t h = 0; permuted && h < n; h += d)
		unpermute(ld->host + h * in, ld->host + ld->host_len / 2, d, in * (int64_t)sizeof *ld->host);
	return 0;
}

/* The whole matrix in 4 bits, then to the device. */
static int
load_nf4(struct loader *ld, const struct sal_stored_tensor *t, struct sal_weight w, bool permuted, int64_t step)
{
	int64_t n = w.out * w.in, have = 0, part;
	void *blocks = malloc(sal_form_bytes(SAL_NF4, n));
	float *scales = malloc(((size_t)n / 64 + 1) * sizeof *scales), *rest = ld->host;
	int rc = blocks && scales ? 0 : sal_err("out of memory");

	/* what is left of a block is kept before the next rows */
	for (int64_t r = 0, kept = 0, rows; rc == 0 && r < w.out; r += rows) {
		rows = w.out - r < step ? w.out - r : step;
		ld->host = rest + kept;
		rc = decode(ld, t, r, rows, permuted);
		ld->host = rest;
		kept += rows * w.in;
		part = r + rows == w.out ? kept : kept / 64 * 64;
		if (rc == 0)
			sal_nf4_encode(blocks, scales, n, rest, have, part);
		have += part;
		kept -= part;
		memmove(rest, rest + part, (size_t)kept * sizeof *rest);
	}
	if (rc == 0)
		sal_weight_store(ld->m->dev, w, SAL_NF4, 0, w.out, blocks);
	free(blocks);
	free(scales);
	return rc;
}

/* Rows as they are stored, to the device; those of permuted heads in their place. */
static int
load_blocks(struct loader *ld, const struct sal_stored_tensor *t, struct sal_weight w, bool permuted)
{
	enum sal_form form = sal_stored_form(t);
	size_t row = sal_form_bytes(form, w.in);
	int64_t d = ld->m->cfg.head_dim;
	char *head = permuted ? malloc(2 * (size_t)d * row) : NULL;

	if (!permuted) {
		sal_weight_store(ld->m->dev, w, form, 0, w.out, t->data);
		return 0;
	}
	if (head == NULL)
		return sal_err("out of memory");
	for (int64_t r = 0; r < w.out; r += d) {
		memcpy(head, t->data + (size_t)r * row, (size_t)d * row);
		unpermute(head, head + (size_t)d * row, d, (int64_t)row);
		sal_weight_store(ld->m->dev, w, form, r, d, head);
	}
	free(head);
	return 0;
}

static int
load_matrix(struct loader *ld, const char *name, struct sal_weight w, bool permuted, enum sal_form form)
{
	const struct sal_stored_tensor *t = need(ld, name, 2, w.out, w.in);
	int64_t d = ld->m->cfg.head_dim, step = (int64_t)(ld->host_len / 2) / w.in / d * d;

	if (t == NULL || ld->check)
		return t ? 0 : -1;
	if (form == SAL_NF4)
		return load_nf4(ld, t, w, permuted, step);
	if (sal_stored_form(t) != SAL_PLAIN)
		return load_blocks(ld, t, w, permuted);
	for (int64_t r = 0; r < w.out; r += step) {
		int64_t n = w.out - r < step ? w.out - r : step;
		if (decode(ld, t, r, n, permuted) != 0)
			return -1;
		struct sal_tensor src = sal_tensor_view(sal_tensor_rows(ld->stage, 0, n * w.in), 2, n, w.in, 0, 0);
		sal_upload(ld->m->dev, src, ld->host);
		sal_weight_pack(ld->m->dev, w, r, src, 1.0f);
	}
	return 0;
}

static int
load_vector(struct loader *ld, const char *name, struct sal_tensor t, bool permuted)
{
	const struct sal_stored_tensor *s = need(ld, name, 1, t.dim[0], 0);

	if (s && ld->check)
		return 0;
	if (s == NULL || sal_decode_rows(s, 0, 1, ld->host) != 0)
		return -1;
	for (int64_t h = 0; permuted && h < t.dim[0]; h += ld->m->cfg.head_dim)
		unpermute(ld->host + h, ld->host + ld->host_len / 2, ld->m->cfg.head_dim, (int64_t)sizeof *ld->host);
	sal_upload(ld->m->dev, t, ld->host);
	return 0;
}

static void
layer_name(const struct loader *ld, char *out, size_t len, int l, const char *hf, const char *gguf, const char *what)
{
	if (ld->gguf)
		snprintf(out, len, "blk.%d.%s.%s", l, gguf, what);
	else
		snprintf(out, len, "model.layers.%d.%s.%s", l, hf, what);
}

/* What a projection is kept as, where the back end keeps it so. */
static enum sal_form
form_of(const struct loader *ld, const char *name)
{
	const struct sal_stored_tensor *t = ld->files ? sal_tensors_find(ld->files, name) : NULL;

	if (ld->m->quantize != SAL_QUANTIZE_NONE)
		return ld->m->quantize == SAL_QUANTIZE_NF4 ? SAL_NF4 : SAL_INT8;
	return t ? sal_stored_form(t) : SAL_PLAIN;
}

static int
load_layer(struct loader *ld, int l)
{
	const struct sal_config *c = &ld->m->cfg;
	struct sal_layer *y = &ld->m->layer[l];
	char name[128];

	for (int p = 0; p < SAL_N_PROJ; p++) {
		bool perm = c->permuted && ld->gguf && (p == SAL_Q || p == SAL_K);
		layer_name(ld, name, sizeof name, l, proj_names[p].hf, proj_names[p].gguf, "weight");
		if (load_matrix(ld, name, y->w[p], perm, form_of(ld, name)) != 0)
			return -1;
		layer_name(ld, name, sizeof name, l, proj_names[p].hf, proj_names[p].gguf, "bias");
		if (y->bias[p].ndim && !ld->gguf && !(c->biases >> p & 1))
			return sal_err("%s: tensor '%s' is there, but config.json has no such bias", ld->m->path, name);
		if (y->bias[p].ndim && load_vector(ld, name, y->bias[p], perm) != 0)
			return -1;
	}
	layer_name(ld, name, sizeof name, l, "input_layernorm", "attn_norm", "weight");
	if (load_vector(ld, name, y->attn_norm, false) != 0)
		return -1;
	layer_name(ld, name, sizeof name, l, "post_attention_layernorm", "ffn_norm", "weight");
	if (load_vector(ld, name, y->ffn_norm, false) != 0)
		return -1;
	if (!c->qk_norm)
		return 0;
	layer_name(ld, name, sizeof name, l, "self_attn.q_norm", "attn_q_norm", "weight");
	if (load_vector(ld, name, y->q_norm, false) != 0)
		return -1;
	layer_name(ld, name, sizeof name, l, "self_attn.k_norm", "attn_k_norm", "weight");
	return load_vector(ld, name, y->k_norm, false);
}

static int
load_all(struct loader *ld)
{
	struct sal_model *m = ld->m;
	char name[128];

	layer_name(ld, name, sizeof name, m->cfg.num_layers, "input_layernorm", "attn_norm", "weight");
	if (sal_tensors_find(ld->files, name))
		return sal_err("%s: tensor '%s' is there, but the configuration has %d layers", m->path, name, m->cfg.num_layers);
	if (load_matrix(ld, ld->gguf ? "token_embd.weight" : "model.embed_tokens.weight", m->embed, false, SAL_PLAIN) != 0)
		return -1;
	for (int l = 0; l < m->cfg.num_layers; l++)
		if (load_layer(ld, l) != 0)
			return -1;
	if (load_vector(ld, ld->gguf ? "output_norm.weight" : "model.norm.weight", m->final_norm, false) != 0)
		return -1;
	return m->cfg.tied ? 0 : load_matrix(ld, ld->gguf ? "output.weight" : "lm_head.weight", m->head, false, SAL_PLAIN);
}

/* Reserve everything in one arena: a == NULL only adds up and sets the shapes. */
static struct sal_tensor
vec(struct sal_arena *a, size_t *room, int64_t n)
{
	*room += sal_tensor_room(SAL_F32, n);
	return a ? sal_tensor_new(a, SAL_F32, 1, n, 0, 0, 0) : (struct sal_tensor){ .ndim = 1, .dim = { n } };
}

static struct sal_weight
mat(struct sal_model *m, struct sal_arena *a, size_t *room, enum sal_form form, int64_t o, int64_t i, bool tr)
{
	*room += sal_weight_room(m->layout, m->dtype, form, o, i, tr);
	if (!sal_layout_keeps(m->layout, form))
		form = SAL_PLAIN;
	return a ? sal_weight_new(a, m->dtype, form, o, i, tr) : (struct sal_weight){ .dtype = m->dtype, .form = form, .out = o, .in = i };
}

static void
reserve(struct sal_model *m, struct sal_arena *a, size_t *room, const struct loader *ld, int flags)
{
	const struct sal_config *c = &m->cfg;
	enum sal_form vocab = m->quantize == SAL_QUANTIZE_INT8 ? SAL_INT8 : SAL_PLAIN; /* of embedding and head */
	char name[128];
	int64_t o, i;

	for (int l = 0; l < c->num_layers; l++) {
		struct sal_layer *y = &m->layer[l];
		for (int p = 0; p < SAL_N_PROJ; p++) {
			sal_proj_shape(c, p, &o, &i);
			layer_name(ld, name, sizeof name, l, proj_names[p].hf, proj_names[p].gguf, "weight");
			y->w[p] = mat(m, a, room, form_of(ld, name), o, i, flags & SAL_MODEL_TRAIN);
			layer_name(ld, name, sizeof name, l, proj_names[p].hf, proj_names[p].gguf, "bias");
			y->bias[p] = c->biases >> p & 1 || (ld->files && sal_tensors_find(ld->files, name)) ? vec(a, room, o) : SAL_NONE;
		}
		y->attn_norm = vec(a, room, c->hidden_size);
		y->ffn_norm = vec(a, room, c->hidden_size);
		y->q_norm = c->qk_norm ? vec(a, room, c->head_dim) : SAL_NONE;
		y->k_norm = c->qk_norm ? vec(a, room, c->head_dim) : SAL_NONE;
	}
	m->final_norm = vec(a, room, c->hidden_size);
	*room += sal_tensor_room(SAL_F32, (int64_t)c->max_positions * c->head_dim);
	if (a)
		m->rope = sal_tensor_new(a, SAL_F32, 3, c->max_positions, 2, c->head_dim / 2, 0);
	m->embed = mat(m, a, room, vocab, c->vocab_size, c->hidden_size, c->tied && (flags & SAL_MODEL_HEAD_GRAD));
	m->head = c->tied ? m->embed : mat(m, a, room, vocab, c->vocab_size, c->hidden_size, flags & SAL_MODEL_HEAD_GRAD);
}

/* The shapes of all weights, and the bytes that they take. */
static int
measure(struct sal_model *m, size_t *room, const struct loader *ld, int flags)
{
	if ((m->layer = calloc((size_t)m->cfg.num_layers, sizeof *m->layer)) == NULL)
		return sal_err("out of memory");
	*room = 0;
	reserve(m, NULL, room, ld, flags);
	return 0;
}

/* Angles in float, as the reference computes them: inverse frequency, then position times it. */
static int
make_rope(struct sal_model *m, const struct sal_tensors *files)
{
	const struct sal_config *c = &m->cfg;
	int half = c->head_dim / 2;
	const struct sal_stored_tensor *factors = sal_tensors_find(files, "rope_freqs.weight"); /* GGUF's form of llama3 scaling */
	int block = 4096 < c->max_positions ? 4096 : c->max_positions; /* positions */
	float *cs = malloc((size_t)block * (size_t)c->head_dim * sizeof *cs), *inv = malloc((size_t)half * sizeof *inv);
	const double pi = 3.14159265358979323846;

	if (cs == NULL || inv == NULL) {
		free(cs);
		free(inv);
		return sal_err("out of memory");
	}
	if (factors && (factors->ndim != 1 || factors->dim[0] != half || sal_decode_rows(factors, 0, 1, cs) != 0)) {
		free(cs);
		free(inv);
		return sal_err("%s: tensor 'rope_freqs.weight' does not hold %d factors", m->path, half);
	}
	for (int i = 0; i < half; i++) {
		float divisor = factors ? cs[i] : 1.0f;
		if (!(divisor > 0) || !isfinite(divisor)) {
			free(cs);
			free(inv);
			return sal_err("%s: tensor 'rope_freqs.weight' holds a factor of %g", m->path, (double)divisor);
		}
		inv[i] = 1.0f / (float)pow(c->rope_theta, (double)((float)(2 * i) / (float)c->head_dim)) / divisor;
		if (c->rope_scaling == 1)
			inv[i] = (float)(inv[i] / c->rope_factor);
		if (c->rope_scaling == 2) {
			double wavelen = 2 * pi / inv[i], low = c->rope_original / c->rope_low, high = c->rope_original / c->rope_high;
			double s = (c->rope_original / wavelen - c->rope_low) / (c->rope_high - c->rope_low);
			if (wavelen > low)
				inv[i] = (float)(inv[i] / c->rope_factor);
			else if (wavelen >= high)
				inv[i] = (float)((1 - s) * inv[i] / c->rope_factor + s * inv[i]);
		}
	}
	for (int p0 = 0, n; p0 < c->max_positions; p0 += n) {
		n = c->max_positions - p0 < block ? c->max_positions - p0 : block;
#pragma omp parallel for
		for (int p = 0; p < n; p++)
			for (int i = 0; i < half; i++) {
				float a = (float)(p0 + p) * inv[i];
				cs[(size_t)p * c->head_dim + i] = (float)cos((double)a);
				cs[(size_t)p * c->head_dim + half + i] = (float)sin((double)a);
			}
		sal_upload(m->dev, sal_tensor_rows(m->rope, p0, n), cs);
	}
	free(cs);
	free(inv);
	return 0;
}

static int
hash_files(struct sal_model *m, const struct sal_tensors *files)
{
	uint64_t h[2] = { 0, 0 };

	for (int i = 0; i < files->n_maps; i++) {
		h[1] = sal_hash(files->map[i]->data, files->map[i]->size);
		h[0] = sal_hash(h, sizeof h);
	}
	if (sal_is_dir(m->path)) {
		char *cfg = sal_path_join(m->path, "config.json");
		int err = cfg ? 0 : -1;
		h[1] = cfg ? sal_hash_file(cfg, &err) : 0;
		free(cfg);
		if (err)
			return -1;
		h[0] = sal_hash(h, sizeof h);
	}
	m->hash = h[0];
	return 0;
}

/* Decode and pack all of it into m's arena. */
static int
pack(struct loader *ld)
{
	struct sal_model *m = ld->m;
	const struct sal_config *c = &m->cfg;
	size_t widest = (size_t)(c->intermediate_size > c->hidden_size ? c->intermediate_size : c->hidden_size);
	struct sal_arena *stage;
	int rc = -1;

	if ((size_t)c->num_heads * (size_t)c->head_dim > widest)
		widest = (size_t)c->num_heads * (size_t)c->head_dim;
	ld->host_len = 2 * widest * (size_t)(c->head_dim > 64 ? c->head_dim : 64) * 2;
	ld->host = malloc((ld->host_len + 64) * sizeof *ld->host); /* 64: see load_nf4() */
	stage = sal_arena_new(m->dev, sal_tensor_room(SAL_F32, (int64_t)ld->host_len));
	ld->stage = sal_tensor_new(stage, SAL_F32, 1, (int64_t)ld->host_len, 0, 0, 0);
	if (ld->host == NULL || sal_dev_sync(m->dev) != 0)
		sal_err("%s: %s", m->path, ld->host ? sal_dev_error(m->dev) : "out of memory");
	else
		rc = load_all(ld) == 0 && make_rope(m, ld->files) == 0 ? 0 : -1;
	free(ld->host);
	sal_arena_free(stage);
	return rc;
}

/* The file of an earlier start's weights, if SAL_CACHE asks for one.  One that cannot be used is told and made again. */
static int
find_packed(struct sal_model *m, const struct sal_tensors *files, size_t room, int flags, struct sal_packed *p)
{
	char of[160];

	if (!sal_layout_host(m->layout) || !sal_packed_wanted())
		return 0;
	snprintf(of, sizeof of, "%016llx %016llx %d %d %d %s", (unsigned long long)m->hash, (unsigned long long)sal_hash(&m->cfg, sizeof m->cfg),
	    (int)m->dtype, m->quantize, flags, sal_dev_isa(m->dev));
	p->room = room;
	p->threads = sal_dev_threads(m->dev);
	sal_tensors_drop_pages(files); /* they were read for the hash: not both at a time */
	if (sal_packed_open(p, of) != 0)
		return -1;
	m->packed = p->map;
	if (p->unusable)
		sal_warn("%s: the weights are packed again", sal_errmsg());
	return 0;
}

/* For later starts, unless a file has changed since it was opened: the hash would be of one model, the weights of another. */
static void
keep_packed(struct sal_model *m, const struct sal_tensors *files, const struct sal_packed *p)
{
	int rc = 0;

	for (int i = 0; i < files->n_maps && rc == 0; i++)
		if (!sal_map_same(files->map[i]))
			rc = sal_err("%s: it has changed while it was read", files->map[i]->path);
	if (rc != 0 || sal_packed_write(p, sal_arena_base(m->arena)) != 0)
		sal_warn("%s: the next start packs the weights again", sal_errmsg());
}

static int
load(struct sal_model *m, const struct sal_tensors *files, int flags)
{
	struct loader ld = { .m = m, .files = files, .gguf = !sal_is_dir(m->path), .check = true };
	struct sal_packed file = { 0 };
	size_t room, laid = 0;
	int rc;

	if (measure(m, &room, &ld, flags) != 0 || load_all(&ld) != 0)
		return -1;
	ld.check = false;
	if (room > sal_dev_left(m->dev))
		return sal_err("%s: the weights take %.1f MB, device '%s' has %.1f MB free", m->path, (double)room / 1e6, sal_dev_isa(m->dev),
		    (double)sal_dev_left(m->dev) / 1e6);
	if (hash_files(m, files) != 0 || find_packed(m, files, room, flags, &file) != 0)
		return -1;
	m->arena = file.map ? sal_arena_over(m->dev, file.map->data, room) : sal_arena_new(m->dev, room + (file.path ? SAL_PACKED_SEAL : 0));
	if (file.path && !file.map && sal_arena_base(m->arena))
		memset(sal_arena_base(m->arena), 0, room); /* what lies between tensors is written, too */
	reserve(m, m->arena, &laid, &ld, flags);
	if ((rc = file.map ? 0 : pack(&ld)) == 0 && (rc = sal_dev_sync(m->dev)) != 0)
		sal_err("%s: %s", m->path, sal_dev_error(m->dev));
	if (rc == 0)
		sal_tensors_drop_pages(files);
	if (rc == 0 && file.path && !file.map)
		keep_packed(m, files, &file);
	free(file.path);
	return rc;
}

static struct sal_model *
new_model(const char *path, const struct sal_common *c)
{
	struct sal_model *m = calloc(1, sizeof *m);

	if (m == NULL || (m->path = strdup(path)) == NULL) {
		free(m);
		sal_err("out of memory");
		return NULL;
	}
	m->dtype = c->dtype == 1 ? SAL_F32 : SAL_BF16;
	m->quantize = c->quantize;
	return m;
}

static int
can_quantize(const struct sal_model *m, const char *device, int flags)
{
	if (m->quantize != SAL_QUANTIZE_INT8)
		return 0;
	if (!sal_layout_keeps(m->layout, SAL_INT8))
		return sal_err("device '%s' does not multiply in 8 bits (--quantize int8): the CPU does", device);
	if (flags & (SAL_MODEL_TRAIN | SAL_MODEL_HEAD_GRAD))
		return sal_err("nothing is trained through weights in 8 bits (--quantize int8): take none or nf4");
	return 0;
}

/* The end of opening: m, or NULL if it failed. */
static struct sal_model *
opened(struct sal_model *m, struct sal_tensors *files, bool ok)
{
	sal_tensors_close(files);
	if (ok)
		return m;
	sal_model_close(m);
	return NULL;
}

struct sal_model *
sal_model_open(const char *path, const struct sal_common *c, int flags)
{
	struct sal_model *m = new_model(path, c);
	struct sal_tensors *files = m ? open_files(path, &m->cfg) : NULL;
	char err[256];

	if (files == NULL)
		return opened(m, files, false);
	if ((m->dev = sal_dev_open(c->device, c->threads, err, sizeof err)) == NULL) {
		sal_err("%s", err);
		return opened(m, files, false);
	}
	m->layout = sal_dev_layout(m->dev);
	return opened(m, files, can_quantize(m, c->device, flags) == 0 && load(m, files, flags) == 0);
}

struct sal_model *
sal_model_sketch(const char *path, const struct sal_common *c, int flags, size_t *room)
{
	struct sal_model *m = new_model(path, c);
	struct loader ld = { .m = m, .gguf = !sal_is_dir(path) && !is_json(path) };
	struct sal_tensors *files = NULL;

	if (m && (m->layout = sal_layout(c->device)) == NULL)
		sal_err("device '%s': not one of cpu, cuda, cuda:N", c->device);
	if (m == NULL || m->layout == NULL || can_quantize(m, c->device, flags) != 0 ||
	    (ld.gguf ? (files = open_files(path, &m->cfg)) == NULL : read_folder(path, &m->cfg) != 0))
		return opened(m, files, false);
	ld.files = files;
	return opened(m, files, measure(m, room, &ld, flags) == 0);
}

void
sal_model_close(struct sal_model *m)
{
	if (m == NULL)
		return;
	sal_arena_free(m->arena);
	sal_map_close(m->packed);
	sal_dev_close(m->dev);
	free(m->layer);
	free(m->path);
	free(m);
}
