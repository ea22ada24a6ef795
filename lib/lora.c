/* SPDX-License-Identifier: Apache-2.0 */
/* lora.c - adapters in PEFT's layout, their gradients in a fixed tree, and their optimiser state. */
#include "lib/lora.h"
#include "lib/jsonl.h"
#include "lib/random.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const group_name[SAL_N_PROJ] = { "self_attn", "self_attn", "self_attn", "self_attn", "mlp", "mlp", "mlp" };

int
sal_targets_parse(const char *list, unsigned *targets)
{
	*targets = 0;
	if (list == NULL || strcmp(list, "all") == 0) {
		*targets = (1u << SAL_N_PROJ) - 1;
		return 0;
	}
	while (*list) {
		size_t n = strcspn(list, ",");
		int p = 0;
		while (p < SAL_N_PROJ && (strlen(sal_proj_name[p]) != n || strncmp(sal_proj_name[p], list, n) != 0))
			p++;
		if (p == SAL_N_PROJ)
			return sal_err("unknown target module '%.*s'", (int)n, list);
		*targets |= 1u << p;
		list += n + (list[n] == ',');
	}
	return *targets ? 0 : sal_err("no target modules");
}

/* A parameter; ar NULL: only its shape. */
static struct sal_param *
add_param(struct sal_adapter *a, struct sal_arena *ar, size_t *room, const char *name, int ndim, int64_t d0, int64_t d1)
{
	struct sal_param *p = &a->param[a->n_params++];

	*room += sal_tensor_room(SAL_F32, ndim == 2 ? d0 * d1 : d0);
	if (ar == NULL) {
		p->w = (struct sal_tensor){ .dtype = SAL_F32, .ndim = ndim, .dim = { d0, d1 } };
		return p;
	}
	p->name = strdup(name);
	p->w = sal_tensor_new(ar, SAL_F32, ndim, d0, d1, 0, 0);
	return p;
}

/* Lay out all tensors; without arenas only add up their room. */
static void
lay_out(struct sal_adapter *a, size_t *room, size_t *master_room, bool head_w, bool head_b)
{
	const struct sal_model *m = a->model;
	struct sal_arena *ar = a->arena, *master = a->master_arena;
	char name[160];
	int64_t o, i;

	a->n_params = 0;
	for (int l = 0; l < m->cfg.num_layers; l++)
		for (int p = 0; p < SAL_N_PROJ; p++) {
			struct sal_lora *t = &a->lora[l * SAL_N_PROJ + p];
			if (!(a->targets >> p & 1))
				continue;
			sal_proj_shape(&m->cfg, p, &o, &i);
			t->r = a->r;
			t->scale = (float)(a->alpha / a->r);
			snprintf(name, sizeof name, "base_model.model.model.layers.%d.%s.%s.lora_A.weight", l, group_name[p], sal_proj_name[p]);
			t->pa = add_param(a, master, master_room, name, 2, a->r, i);
			snprintf(name, sizeof name, "base_model.model.model.layers.%d.%s.%s.lora_B.weight", l, group_name[p], sal_proj_name[p]);
			t->pb = add_param(a, master, master_room, name, 2, o, a->r);
			*room += sal_weight_room(m->layout, m->dtype, SAL_PLAIN, a->r, i, true) + sal_weight_room(m->layout, m->dtype, SAL_PLAIN, o, a->r, true);
			if (ar) {
				t->a = sal_weight_new(ar, m->dtype, SAL_PLAIN, a->r, i, true);
				t->b = sal_weight_new(ar, m->dtype, SAL_PLAIN, o, a->r, true);
			}
		}
	a->head_w = head_w ? add_param(a, ar, room, "head.weight", 1, m->cfg.hidden_size, 0) : NULL;
	a->head_b = head_b ? add_param(a, ar, room, "head.bias", 1, 1, 0) : NULL;
}

static struct sal_adapter *
adapter_make(struct sal_model *m, int r, double alpha, unsigned targets, bool head_w, bool head_b)
{
	struct sal_adapter *a = calloc(1, sizeof *a);
	size_t room = 0, master = 0;

	if (a == NULL)
		goto oom;
	*a = (struct sal_adapter){ .model = m, .r = r, .alpha = alpha, .targets = targets };
	a->lora = calloc((size_t)m->cfg.num_layers * SAL_N_PROJ, sizeof *a->lora);
	a->param = calloc((size_t)m->cfg.num_layers * SAL_N_PROJ * 2 + 2, sizeof *a->param);
	if (a->lora == NULL || a->param == NULL)
		goto oom;
	lay_out(a, &room, &master, head_w, head_b);
	a->arena = sal_arena_new(m->dev, room + 2 * sal_tensor_room(SAL_F32, m->cfg.hidden_size)); /* a head may come later */
	a->master_arena = sal_arena_new(m->dev, master);
	lay_out(a, &room, &master, head_w, head_b);
	if (sal_dev_sync(m->dev) != 0) {
		sal_err("adapter: %s", sal_dev_error(m->dev));
		sal_adapter_close(a);
		return NULL;
	}
	return a;
oom:
	sal_adapter_close(a);
	sal_err("out of memory");
	return NULL;
}

void
sal_adapter_close(struct sal_adapter *a)
{
	if (a == NULL)
		return;
	for (int i = 0; a->param && i < a->n_params; i++)
		free(a->param[i].name);
	sal_arena_free(a->arena);
	sal_arena_free(a->master_arena);
	sal_arena_free(a->train_arena);
	free(a->lora);
	free(a->param);
	free(a->leaving);
	free(a);
}

void
sal_adapter_freeze(struct sal_adapter *a)
{
	for (int i = 0; i < a->n_params; i++)
		if (&a->param[i] != a->head_w && &a->param[i] != a->head_b)
			a->param[i].w.data = NULL;
	sal_arena_free(a->master_arena);
	a->master_arena = NULL;
}

static int64_t
count(struct sal_tensor t)
{
	return (int64_t)(sal_tensor_bytes(t) / 4);
}

void
sal_adapter_pack(struct sal_adapter *a)
{
	for (int i = 0; i < a->model->cfg.num_layers * SAL_N_PROJ; i++) {
		struct sal_lora *t = &a->lora[i];
		if (t->r == 0)
			continue;
		sal_weight_pack(a->model->dev, t->a, 0, t->pa->w, 1.0f);
		sal_weight_pack(a->model->dev, t->b, 0, t->pb->w, t->scale);
	}
}

static bool
all_finite(const float *x, int64_t n)
{
	bool finite = true;

	for (int64_t i = 0; i < n; i++)
		finite = finite && isfinite(x[i]);
	return finite;
}

static int
hash_params(struct sal_adapter *a)
{
	uint64_t h[2] = { 0, 0 };

	for (int i = 0; i < a->n_params; i++) {
		size_t n = sal_tensor_bytes(a->param[i].w);
		float *host = malloc(n);
		if (host == NULL)
			return sal_err("out of memory");
		sal_download(a->model->dev, host, a->param[i].w);
		h[1] = sal_hash(host, n);
		h[0] = sal_hash(h, sizeof h);
		free(host);
	}
	h[1] = sal_hash(&a->alpha, sizeof a->alpha);
	a->hash = sal_hash(h, sizeof h);
	return 0;
}

static int
set_uniform(struct sal_adapter *a, struct sal_param *p, double bound, uint64_t seed)
{
	struct sal_random r = sal_random_open(seed, "init", p->name, 0);
	int64_t n = count(p->w);
	float *host = malloc((size_t)n * sizeof *host);

	if (host == NULL)
		return sal_err("out of memory");
	for (int64_t i = 0; i < n; i++)
		host[i] = (float)((2.0 * sal_random_uniform(&r) - 1.0) * bound);
	sal_upload(a->model->dev, p->w, host);
	free(host);
	return 0;
}

struct sal_adapter *
sal_adapter_new(struct sal_model *m, int r, double alpha, unsigned targets, bool head, uint64_t seed)
{
	struct sal_adapter *a = adapter_make(m, r, alpha, targets, head, head);
	int rc = 0;

	if (a == NULL)
		return NULL;
	for (int i = 0; i < m->cfg.num_layers * SAL_N_PROJ && rc == 0; i++)
		if (a->lora[i].r) {
			rc = set_uniform(a, a->lora[i].pa, 1.0 / sqrt((double)a->lora[i].a.in), seed);
			sal_zero(m->dev, a->lora[i].pb->w);
		}
	if (rc == 0 && head) {
		rc = set_uniform(a, a->head_w, 1.0 / sqrt((double)m->cfg.hidden_size), seed);
		sal_zero(m->dev, a->head_b->w);
	}
	sal_adapter_pack(a);
	if (rc != 0 || hash_params(a) != 0) {
		sal_adapter_close(a);
		return NULL;
	}
	return a;
}

int
sal_adapter_zero_head(struct sal_adapter *a)
{
	size_t room = 0;

	if (a->head_w == NULL)
		a->head_w = add_param(a, a->arena, &room, "head.weight", 1, a->model->cfg.hidden_size, 0);
	if (a->head_b == NULL)
		a->head_b = add_param(a, a->arena, &room, "head.bias", 1, 1, 0);
	sal_zero(a->model->dev, a->head_w->w);
	sal_zero(a->model->dev, a->head_b->w);
	return hash_params(a);
}

/* ---- PEFT's folder ------------------------------------------------------ */

static int
read_targets(const cJSON *j, unsigned *targets)
{
	const cJSON *t = cJSON_GetObjectItemCaseSensitive(j, "target_modules"), *e;

	*targets = 0;
	if (cJSON_IsString(t) && strcmp(t->valuestring, "all-linear") == 0) {
		*targets = (1u << SAL_N_PROJ) - 1;
		return 0;
	}
	if (!cJSON_IsArray(t))
		return sal_err("\"target_modules\" is not a list");
	cJSON_ArrayForEach(e, t)
	{
		const char *s = cJSON_IsString(e) ? e->valuestring : NULL, *dot = s ? strrchr(s, '.') : NULL;
		int p = 0;
		while (s && p < SAL_N_PROJ && strcmp(dot ? dot + 1 : s, sal_proj_name[p]) != 0)
			p++;
		if (s == NULL || p == SAL_N_PROJ)
			return sal_err("target module '%s' is not one of the seven projections", s ? s : "?");
		*targets |= 1u << p;
	}
	return *targets ? 0 : sal_err("\"target_modules\" is empty");
}

static int
read_config(const char *path, int *r, double *alpha, unsigned *targets)
{
	cJSON *j = sal_json_read(path);
	const char *type;
	const cJSON *e;
	int64_t rank;
	int rc = -1;
	char why[512];

	if (j == NULL)
		return -1;
	if ((type = sal_json_str(j, "peft_type")) == NULL)
		goto out;
	if (strcmp(type, "LORA") != 0) {
		sal_err("peft_type '%s' is not LORA", type);
		goto out;
	}
	if (sal_json_int(j, "r", 1, 4096, &rank) != 0 || sal_json_num(j, "lora_alpha", alpha) != 0 || read_targets(j, targets) != 0)
		goto out;
	*r = (int)rank;
	static const char *const refused[] = { "use_dora", "use_rslora", "fan_in_fan_out", "lora_bias" };
	for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
		if (cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(j, refused[i]))) {
			sal_err("\"%s\" is not supported", refused[i]);
			goto out;
		}
	if (sal_json_has(j, "bias") && ((type = sal_json_str(j, "bias")) == NULL || strcmp(type, "none") != 0)) {
		sal_err("trained biases are not supported");
		goto out;
	}
	static const char *const patterns[] = { "rank_pattern", "alpha_pattern", "layers_to_transform", "layers_pattern" };
	for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
		e = cJSON_GetObjectItemCaseSensitive(j, patterns[i]);
		if (e && !cJSON_IsNull(e) && cJSON_GetArraySize(e) > 0) {
			sal_err("\"%s\" is not supported", patterns[i]);
			goto out;
		}
	}
	e = cJSON_GetObjectItemCaseSensitive(j, "modules_to_save");
	const cJSON *x;
	cJSON_ArrayForEach(x, e)
		if (!cJSON_IsString(x) || (strcmp(x->valuestring, "score") != 0 && strcmp(x->valuestring, "classifier") != 0)) {
			sal_err("module '%s' saved beside LoRA is not supported", cJSON_IsString(x) ? x->valuestring : "?");
			goto out;
		}
	rc = 0;
out:
	if (rc != 0) {
		snprintf(why, sizeof why, "%s", sal_errmsg());
		sal_err("%s: %s", path, why);
	}
	cJSON_Delete(j);
	return rc;
}

/* The tensor of that name, which has ndim dimensions d0, d1; one of 1 dimension may be stored as a row. */
static const struct sal_stored_tensor *
need(const struct sal_tensors *f, const char *file, const char *name, int ndim, int64_t d0, int64_t d1)
{
	const struct sal_stored_tensor *t = sal_tensors_find(f, name);
	int64_t have = 1;

	if (t == NULL) {
		sal_err("%s: tensor '%s' is missing", file, name);
		return NULL;
	}
	for (int i = 0; i < t->ndim; i++)
		have *= t->dim[i];
	if (ndim == 2 ? t->ndim == 2 && t->dim[0] == d0 && t->dim[1] == d1 : have == d0)
		return t;
	sal_err("%s: tensor '%s' has shape [%lld, %lld], expected [%lld, %lld]: an adapter for another model?", file, name,
	    t->ndim > 0 ? (long long)t->dim[0] : 1, t->ndim > 1 ? (long long)t->dim[1] : 1, (long long)d0, ndim > 1 ? (long long)d1 : 1);
	return NULL;
}

/* Before anything is reserved for the rank that a configuration claims: the file has a tensor of that rank everywhere. */
static int
check_rank(const struct sal_config *c, const struct sal_tensors *f, const char *file, unsigned targets, int r)
{
	char name[160];
	int64_t o, i;

	for (int l = 0; l < c->num_layers; l++)
		for (int p = 0; p < SAL_N_PROJ; p++) {
			if (!(targets >> p & 1))
				continue;
			sal_proj_shape(c, p, &o, &i);
			snprintf(name, sizeof name, "base_model.model.model.layers.%d.%s.%s.lora_A.weight", l, group_name[p], sal_proj_name[p]);
			if (need(f, file, name, 2, r, i) == NULL)
				return -1;
		}
	return 0;
}

static int
load_param(struct sal_adapter *a, const struct sal_tensors *f, const char *file, const char *name, struct sal_param *p)
{
	const struct sal_stored_tensor *t = need(f, file, name, p->w.ndim, p->w.dim[0], p->w.dim[1]);
	int64_t n = count(p->w);
	bool finite;
	float *host;

	if (t == NULL)
		return -1;
	if ((host = malloc((size_t)n * sizeof *host)) == NULL)
		return sal_err("out of memory");
	if (sal_decode_rows(t, 0, t->ndim > 1 ? t->dim[0] : 1, host) != 0) {
		free(host);
		return sal_err("%s: %s", file, sal_errmsg());
	}
	finite = all_finite(host, n);
	if (finite)
		sal_upload(a->model->dev, p->w, host);
	free(host);
	return finite ? 0 : sal_err("%s: tensor '%s' holds a value that is not finite", file, name);
}

struct sal_adapter *
sal_adapter_open(struct sal_model *m, const char *dir, int head)
{
	char *cfg = sal_path_join(dir, SAL_ADAPTER_CONFIG), *file = sal_path_join(dir, "adapter_model.safetensors");
	char *hfile = sal_path_join(dir, "head.safetensors");
	static const char score[] = "base_model.model.score.weight";
	struct sal_tensors *f = NULL, *hf = NULL;
	struct sal_adapter *a = NULL;
	unsigned targets;
	double alpha;
	int r, rc = -1, known = 0;
	bool inside;

	if (!cfg || !file || !hfile) {
		sal_err("out of memory");
		goto out;
	}
	if (!sal_is_dir(dir)) {
		sal_err("%s: no such adapter folder", dir);
		goto out;
	}
	if (read_config(cfg, &r, &alpha, &targets) != 0 || (f = sal_safetensors_open(file)) == NULL)
		goto out;
	inside = sal_tensors_find(f, score) != NULL;
	FILE *probe = head ? fopen(hfile, "rb") : NULL;
	if (probe) {
		fclose(probe);
		if ((hf = sal_safetensors_open(hfile)) == NULL)
			goto out;
	}
	if (head == 1 && !inside && hf == NULL) {
		sal_err("%s: no head: neither '%s' nor head.safetensors is there", dir, score);
		goto out;
	}
	if (f->n == 0) {
		sal_err("%s: no tensors", file);
		goto out;
	}
	bool hw = head && (inside || hf), hb = hw && hf && sal_tensors_find(hf, "bias");
	if (check_rank(&m->cfg, f, file, targets, r) != 0 || (a = adapter_make(m, r, alpha, targets, hw, hb)) == NULL)
		goto out;
	for (int i = 0; i < a->n_params; i++) {
		struct sal_param *p = &a->param[i];
		if (p == a->head_w)
			rc = hf ? load_param(a, hf, hfile, "weight", p) : load_param(a, f, file, score, p);
		else if (p == a->head_b)
			rc = load_param(a, hf, hfile, "bias", p);
		else {
			rc = load_param(a, f, file, p->name, p);
			known++;
		}
		if (rc != 0)
			goto out;
	}
	rc = -1;
	if (known + inside != f->n) {
		for (int i = 0; i < f->n; i++) {
			int k = 0;
			while (k < a->n_params && strcmp(a->param[k].name, f->t[i].name) != 0)
				k++;
			if (k == a->n_params && strcmp(f->t[i].name, score) != 0) {
				sal_err("%s: tensor '%s' has no place in the model", file, f->t[i].name);
				goto out;
			}
		}
	}
	sal_adapter_pack(a);
	rc = hash_params(a);
out:
	free(cfg);
	free(file);
	free(hfile);
	sal_tensors_close(f);
	sal_tensors_close(hf);
	if (rc != 0) {
		sal_adapter_close(a);
		a = NULL;
	}
	return a;
}

/* Download n tensors chosen by which (0 w, 1 g, 2 m, 3 v) and write them under their names. */
static int
write_params(const struct sal_adapter *a, const char *path, const int *which, int n_which, bool head, bool reward, bool bf16)
{
	int n = a->n_params * n_which, k = 0, rc = -1;
	struct sal_out_tensor *t = calloc((size_t)n + 1, sizeof *t);
	float **host = calloc((size_t)n + 1, sizeof *host);
	char **name = calloc((size_t)n + 1, sizeof *name);

	for (int i = 0; t && host && name && i < a->n_params; i++)
		for (int w = 0; w < n_which; w++) {
			const struct sal_param *p = &a->param[i];
			struct sal_tensor s = which[w] == 0 ? p->w : which[w] == 1 ? p->g : which[w] == 2 ? p->m : p->v;
			bool is_head = p == a->head_w || p == a->head_b;
			struct sal_buf b = { 0 };
			if (is_head && !head && !(reward && p == a->head_w))
				continue;
			sal_buf_printf(&b, "%s%s", reward && p == a->head_w ? "base_model.model.score.weight" : p->name,
			    which[w] == 2 ? ".exp_avg" : which[w] == 3 ? ".exp_avg_sq" : "");
			name[k] = b.data;
			if (b.failed || (host[k] = malloc(sal_tensor_bytes(s))) == NULL) {
				sal_err("out of memory");
				goto out;
			}
			sal_download(a->model->dev, host[k], s);
			if (!all_finite(host[k], count(s))) { /* no file ever holds one */
				sal_err("%s: tensor '%s' holds a value that is not finite: not written", path, name[k]);
				goto out;
			}
			t[k] = (struct sal_out_tensor){ .name = name[k], .ndim = s.ndim, .dim = { s.dim[0], s.ndim > 1 ? s.dim[1] : 0 }, .data = host[k] };
			if (is_head && reward)
				t[k] = (struct sal_out_tensor){ .name = name[k], .ndim = 2, .dim = { 1, s.dim[0] }, .data = host[k] };
			k++;
		}
	if (t && host && name)
		rc = sal_safetensors_write(path, t, k, bf16);
out:
	for (int i = 0; name && host && i < n; i++) {
		free(name[i]);
		free(host[i]);
	}
	free(t);
	free(host);
	free(name);
	return rc;
}

static int
write_head(const struct sal_adapter *a, const char *path)
{
	float bias = 0, *w = malloc(sal_tensor_bytes(a->head_w->w));
	struct sal_out_tensor t[2] = { { .name = "bias", .ndim = 1, .dim = { 1 }, .data = &bias },
		{ .name = "weight", .ndim = 2, .dim = { 1, a->head_w->w.dim[0] }, .data = w } };
	int rc;

	if (w == NULL)
		return sal_err("out of memory");
	sal_download(a->model->dev, w, a->head_w->w);
	if (a->head_b)
		sal_download(a->model->dev, &bias, a->head_b->w);
	rc = all_finite(w, t[1].dim[1]) && isfinite(bias) ? sal_safetensors_write(path, t, 2, false)
	                                                  : sal_err("%s: a value is not finite: not written", path);
	free(w);
	return rc;
}

int
sal_adapter_save(const struct sal_adapter *a, const char *dir, bool reward, bool bf16)
{
	struct sal_buf b = { 0 };
	char *cfg = sal_path_join(dir, SAL_ADAPTER_CONFIG), *file = sal_path_join(dir, "adapter_model.safetensors");
	char *hfile = sal_path_join(dir, "head.safetensors");
	cJSON *path = cJSON_CreateString(a->model->path);
	char *base = path ? cJSON_PrintUnformatted(path) : NULL;
	int rc = -1, n = 0;
	static const int w0[] = { 0 };

	sal_buf_printf(&b, "{\n  \"peft_type\": \"LORA\",\n  \"task_type\": \"%s\",\n  \"base_model_name_or_path\": %s,\n"
	    "  \"r\": %d,\n  \"lora_alpha\": %.17g,\n  \"lora_dropout\": %.17g,\n  \"target_modules\": [", reward ? "SEQ_CLS" : "CAUSAL_LM",
	    base ? base : "null", a->r, a->alpha, a->dropout);
	for (int p = 0; p < SAL_N_PROJ; p++)
		if (a->targets >> p & 1)
			sal_buf_printf(&b, "%s\"%s\"", n++ ? ", " : "", sal_proj_name[p]);
	sal_buf_printf(&b, "],\n  \"bias\": \"none\",\n  \"fan_in_fan_out\": false,\n  \"inference_mode\": true,\n  \"init_lora_weights\": true,\n"
	    "  \"modules_to_save\": %s,\n  \"use_rslora\": false,\n  \"use_dora\": false,\n  \"rank_pattern\": {},\n  \"alpha_pattern\": {}\n}\n",
	    reward ? "[\"score\"]" : "null");
	if (b.failed || !cfg || !file || !hfile)
		sal_err("out of memory");
	else if (write_params(a, file, w0, 1, false, reward, bf16) == 0 && sal_write_file(cfg, b.data, b.len) == 0)
		rc = !reward && a->head_w ? write_head(a, hfile) : 0;
	sal_buf_free(&b);
	cJSON_Delete(path);
	free(base);
	free(cfg);
	free(file);
	free(hfile);
	return rc;
}

/* ---- training ----------------------------------------------------------- */

/* Partial sums for so many records: one, where the order of a sum is not kept. */
static int
tree_levels(const struct sal_model *m, int max_records)
{
	int levels = 1;

	while (sal_layout_ordered(m->layout) && (1 << (levels - 1)) < max_records)
		levels++;
	return levels;
}

/* Bytes of training: *sums with the gradients of one record, *moments; *most: elements of the largest parameter. */
static void
train_room(const struct sal_adapter *a, int levels, size_t *sums, size_t *moments, int64_t *most)
{
	*sums = *moments = 0;
	*most = 1;
	for (int i = 0; i < a->n_params; i++) {
		int64_t n = (int64_t)(sal_tensor_bytes(a->param[i].w) / 4);
		*sums += sal_tensor_room(SAL_F32, n) * (size_t)levels;
		*moments += sal_tensor_room(SAL_F32, n) * 2;
		*most = n > *most ? n : *most;
	}
	*sums += 2 * sal_tensor_room(SAL_F32, *most);
}

struct sal_adapter_room
sal_adapter_room(struct sal_model *m, int r, unsigned targets, bool head, int max_records)
{
	size_t n = (size_t)m->cfg.num_layers * SAL_N_PROJ;
	struct sal_adapter a = { .model = m, .r = r, .alpha = r, .targets = targets };
	struct sal_adapter_room room = { 0, 0, 0, 0 };
	int64_t most;

	a.lora = calloc(n, sizeof *a.lora);
	a.param = calloc(n * 2 + 2, sizeof *a.param);
	if (a.lora && a.param) {
		lay_out(&a, &room.packed, &room.master, head, head);
		room.packed += 2 * sal_tensor_room(SAL_F32, m->cfg.hidden_size);
		if (max_records > 0)
			train_room(&a, tree_levels(m, max_records), &room.sums, &room.moments, &most);
		else
			room.master = 0;
	}
	free(a.lora);
	free(a.param);
	return room;
}

/* The gradient of a record of parameter p is made where that of another was: A's beside B's, the head's beside its bias. */
static void
share_grad(struct sal_adapter *a, struct sal_param *p)
{
	struct sal_tensor g = a->grad[p == a->head_b || (p != a->head_w && (p - a->param) % 2)];

	p->g = sal_tensor_view(sal_tensor_rows(g, 0, count(p->w)), p->w.ndim, p->w.dim[0], p->w.dim[1], 0, 0);
}

int
sal_adapter_train(struct sal_adapter *a, int max_records)
{
	struct sal_dev *dev = a->model->dev;
	size_t sums, moments;
	int64_t most;

	free(a->leaving);
	if ((a->leaving = calloc((size_t)a->n_params + 1, sizeof *a->leaving)) == NULL)
		return sal_err("out of memory");
	a->levels = tree_levels(a->model, max_records);
	train_room(a, a->levels, &sums, &moments, &most);
	a->train_arena = sal_arena_new(dev, sums + moments);
	for (int i = 0; i < 2; i++)
		a->grad[i] = sal_tensor_new(a->train_arena, SAL_F32, 1, most, 0, 0, 0);
	for (int i = 0; i < a->n_params; i++) {
		struct sal_param *p = &a->param[i];
		for (int k = 0; k < 2 + a->levels; k++) {
			struct sal_tensor x = sal_tensor_new(a->train_arena, SAL_F32, p->w.ndim, p->w.dim[0], p->w.dim[1], 0, 0);
			sal_zero(dev, x);
			*(k == 0 ? &p->m : k == 1 ? &p->v : &p->tree[k - 2]) = x;
		}
		share_grad(a, p);
	}
	a->trained = true;
	return sal_dev_sync(dev) == 0 ? 0 : sal_err("%s", sal_dev_error(dev));
}

/* A binary counter: after record i, tree[k] holds the sum of 2^k records where bit k of i+1 is set. */
void
sal_param_push(struct sal_adapter *a, struct sal_param *p, int index)
{
	struct sal_dev *dev = a->model->dev;
	int k = 0;

	if (!sal_layout_ordered(a->model->layout)) {
		if (index == 0)
			sal_copy(dev, p->tree[0], p->g);
		else
			sal_add(dev, p->tree[0], p->g);
		return;
	}
	for (; index >> k & 1; k++)
		sal_add(dev, p->g, p->tree[k]);
	sal_copy(dev, p->tree[k], p->g);
}

void
sal_adapter_grad_end(struct sal_adapter *a, int n)
{
	bool ordered = sal_layout_ordered(a->model->layout);

	for (int i = 0; i < a->n_params; i++) {
		struct sal_param *p = &a->param[i];
		int first = 0;
		while (ordered && !(n >> first & 1))
			first++;
		for (int k = first + 1; k < a->levels; k++)
			if (n >> k & 1)
				sal_add(a->model->dev, p->tree[first], p->tree[k]);
		a->leaving[i] = p->g = p->tree[first];
	}
	if (a->reduce)
		a->reduce(a->reduce_ctx, a->model->dev, a->leaving, a->n_params);
}

double
sal_adapter_sumsq(const struct sal_adapter *a)
{
	double s = 0;

	for (int i = 0; i < a->n_params; i++)
		s += sal_sumsq(a->model->dev, a->param[i].g);
	return s;
}

void
sal_adapter_update(struct sal_adapter *a, const struct sal_adam *o, double grad_scale, long step)
{
	for (int i = 0; i < a->n_params; i++) {
		struct sal_param *p = &a->param[i];
		sal_adamw(a->model->dev, p->w, p->m, p->v, p->g, (float)grad_scale, (float)o->lr, (float)o->beta1, (float)o->beta2,
		    (float)o->eps, (float)o->weight_decay, step);
	}
	for (int i = 0; i < a->n_params; i++)
		share_grad(a, &a->param[i]);
	sal_adapter_pack(a);
	a->hash = 0;
}

int
sal_adapter_save_moments(const struct sal_adapter *a, const char *dir)
{
	static const int which[] = { 2, 3 };
	char *path = sal_path_join(dir, "optimizer.safetensors");
	int rc = path ? write_params(a, path, which, 2, true, false, false) : -1;

	free(path);
	return rc;
}

int
sal_adapter_save_gradients(const struct sal_adapter *a, const char *path)
{
	static const int which[] = { 1 };

	return write_params(a, path, which, 1, true, false, false);
}

int
sal_adapter_load_moments(struct sal_adapter *a, const char *dir)
{
	char *path = sal_path_join(dir, "optimizer.safetensors");
	struct sal_tensors *f = path ? sal_safetensors_open(path) : NULL;
	int rc = f ? 0 : -1;

	for (int i = 0; rc == 0 && i < a->n_params; i++) {
		struct sal_param *p = &a->param[i], q = *p;
		char name[200];
		q.w = p->m;
		snprintf(name, sizeof name, "%s.exp_avg", p->name);
		rc = load_param(a, f, path, name, &q);
		q.w = p->v;
		snprintf(name, sizeof name, "%s.exp_avg_sq", p->name);
		if (rc == 0)
			rc = load_param(a, f, path, name, &q);
	}
	sal_tensors_close(f);
	free(path);
	return rc;
}
