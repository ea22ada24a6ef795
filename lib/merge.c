/* SPDX-License-Identifier: Apache-2.0 */
/* merge.c - W + scale B A, tensor by tensor. */
#include "lib/merge.h"
#include "lib/jsonl.h"
#include "lib/lora.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct merge {
	struct sal_model *m; /* a sketch, with a device for sums */
	struct sal_adapter *a;
	struct sal_tensors *files;
};

/* The adapter's part in a tensor of that name; NULL: none. */
static const struct sal_lora *
lora_of(const struct merge *g, const char *name)
{
	static const char front[] = "base_model.model.", end[] = "weight"; /* front STEM lora_A.end belongs to STEM end */
	size_t n = strlen(name), nf = sizeof front - 1, ne = sizeof end - 1;

	if (n < ne || strcmp(name + n - ne, end) != 0)
		return NULL;
	n -= ne;
	for (int k = 0; g->a && k < g->m->cfg.num_layers * SAL_N_PROJ; k++) {
		const struct sal_lora *t = &g->a->lora[k];
		const char *s = t->r ? t->pa->name : "";
		if (strncmp(s, front, nf) == 0 && strncmp(s + nf, name, n) == 0 && strcmp(s + nf + n, "lora_A.weight") == 0)
			return t;
	}
	return NULL;
}

/* w [O, K] += scale B A: a gradient's product, with the rank in the place of tokens. */
static int
add(const struct merge *g, const struct sal_lora *t, float *w)
{
	struct sal_dev *dev = g->m->dev;
	int64_t o = t->b.out, k = t->a.in, r = t->r;
	struct sal_arena *arena = sal_arena_new(dev, sal_tensor_room(SAL_F32, o * k) + sal_tensor_room(SAL_F32, o * r));
	struct sal_tensor dw = sal_tensor_new(arena, SAL_F32, 2, o, k, 0, 0), bt = sal_tensor_new(arena, SAL_F32, 2, r, o, 0, 0);
	float *b = malloc((size_t)(o * r) * 2 * sizeof *b);

	if (b) {
		sal_download(dev, b, t->pb->w);
		for (int64_t i = 0; i < o; i++)
			for (int64_t j = 0; j < r; j++)
				b[o * r + j * o + i] = b[i * r + j];
		sal_upload(dev, bt, b + o * r);
		sal_upload(dev, dw, w);
		sal_linear_grad(dev, dw, bt, t->pa->w, t->scale, true);
		sal_download(dev, w, dw);
	}
	free(b);
	sal_arena_free(arena);
	if (b == NULL)
		return sal_err("out of memory");
	return sal_dev_sync(dev) == 0 ? 0 : sal_err("%s", sal_dev_error(dev));
}

static int
fill(void *ctx, int i, float *out)
{
	const struct merge *g = ctx;
	const struct sal_stored_tensor *s = &g->files->t[i];
	const struct sal_lora *t = lora_of(g, s->name);

	if (sal_decode_rows(s, 0, s->ndim > 1 ? s->dim[0] : 1, out) != 0)
		return -1;
	if (t == NULL)
		return 0;
	if (s->ndim != 2 || s->dim[0] != t->b.out || s->dim[1] != t->a.in)
		return sal_err("tensor '%s' is not [%lld, %lld]", s->name, (long long)t->b.out, (long long)t->a.in);
	return add(g, t, out);
}

static int
write_tensors(struct merge *g, const char *dir, bool bf16, long *n)
{
	char *path = sal_path_join(dir, "model.safetensors");
	struct sal_out_tensor *t = calloc((size_t)g->files->n + 1, sizeof *t);
	int rc = path && t ? 0 : sal_err("out of memory");

	for (int i = 0; rc == 0 && i < g->files->n; i++) {
		const struct sal_stored_tensor *s = &g->files->t[i];
		t[i] = (struct sal_out_tensor){ .name = s->name, .ndim = s->ndim };
		if (s->ndim > 4)
			rc = sal_err("tensor '%s' has %d dimensions", s->name, s->ndim);
		for (int d = 0; rc == 0 && d < s->ndim; d++)
			t[i].dim[d] = s->dim[d];
	}
	if (rc == 0)
		rc = sal_safetensors_write_from(path, t, g->files->n, bf16, fill, g);
	*n = g->files->n;
	free(t);
	free(path);
	return rc;
}

/* config.json with the type that was written. */
static int
write_config(const char *model, const char *dir, bool bf16)
{
	char *from = sal_path_join(model, "config.json"), *to = sal_path_join(dir, "config.json"), *text = NULL;
	cJSON *j = from ? sal_json_read(from) : NULL;
	const char *type = bf16 ? "bfloat16" : "float32";
	int rc = -1;

	if (j && to) {
		cJSON_DeleteItemFromObjectCaseSensitive(j, "torch_dtype");
		cJSON_DeleteItemFromObjectCaseSensitive(j, "dtype");
		if (cJSON_AddStringToObject(j, "torch_dtype", type) && cJSON_AddStringToObject(j, "dtype", type) && (text = cJSON_Print(j)) != NULL)
			rc = sal_write_file(to, text, strlen(text));
		else
			sal_err("out of memory");
	}
	cJSON_Delete(j);
	free(text);
	free(from);
	free(to);
	return rc;
}

static int
copy_file(const char *model, const char *dir, const char *name)
{
	char *from = sal_path_join(model, name), *to = sal_path_join(dir, name), *text = NULL;
	size_t len;
	int rc = from && to ? 0 : sal_err("out of memory");

	if (rc == 0 && access(from, F_OK) == 0)
		rc = (text = sal_read_file(from, (size_t)1 << 28, &len)) ? sal_write_file(to, text, len) : -1;
	free(text);
	free(from);
	free(to);
	return rc;
}

static int
open_all(struct merge *g, const struct sal_common *c)
{
	struct sal_common f = *c;
	char err[256];
	size_t room;

	if (!sal_is_dir(c->model))
		return sal_err("%s: not a folder: the model that an adapter is merged into is one of Hugging Face's", c->model);
	f.dtype = 1; /* sums in float */
	f.device = "cpu";
	if ((g->m = sal_model_sketch(c->model, &f, 0, &room)) == NULL || (g->files = sal_safetensors_open_dir(c->model)) == NULL)
		return -1;
	if ((g->m->dev = sal_dev_open(f.device, c->threads, err, sizeof err)) == NULL)
		return sal_err("%s", err);
	if (c->adapter && (g->a = sal_adapter_open(g->m, c->adapter, 0)) == NULL)
		return -1;
	for (int k = 0; g->a && k < g->m->cfg.num_layers * SAL_N_PROJ; k++) /* all of it has a place */
		if (g->a->lora[k].r) {
			bool found = false;
			for (int i = 0; !found && i < g->files->n; i++)
				found = lora_of(g, g->files->t[i].name) == &g->a->lora[k];
			if (!found)
				return sal_err("%s: no tensor of the model is that of '%s'", c->adapter, g->a->lora[k].pa->name);
		}
	return 0;
}

/* The folder at out is removed when the new one takes its place: it may be, or hold, neither of those that are read. */
static int
check_place(const char *out, const char *read)
{
	char *o = realpath(out, NULL), *r = o && read ? realpath(read, NULL) : NULL;
	size_t n = o ? strlen(o) : 0;
	bool holds = r && strncmp(r, o, n) == 0 && (r[n] == '/' || r[n] == '\0' || n == 1);

	free(o);
	free(r);
	return holds ? sal_err("%s: would take the place of %s, which is read", out, read) : 0;
}

int
sal_merge(const struct sal_common *c, const char *out, long *n)
{
	static const char *const beside[] = { "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
		"added_tokens.json", "chat_template.jinja", "tokenizer.model" };
	struct merge g = { 0 };
	char *tmp = NULL;
	int rc = check_place(out, c->model) == 0 && check_place(out, c->adapter) == 0 && sal_dir_check(out, "config.json") == 0 ? open_all(&g, c) : -1;

	if (rc == 0 && (tmp = sal_dir_begin(out, "config.json")) == NULL)
		rc = -1;
	if (rc == 0)
		rc = write_tensors(&g, tmp, c->dtype == 0, n);
	if (rc == 0)
		rc = write_config(c->model, tmp, c->dtype == 0);
	for (size_t i = 0; rc == 0 && i < sizeof beside / sizeof *beside; i++)
		rc = copy_file(c->model, tmp, beside[i]);
	if (rc == 0)
		rc = sal_dir_commit(tmp, out);
	else if (tmp)
		sal_dir_abort(tmp);
	sal_tensors_close(g.files);
	sal_adapter_close(g.a);
	sal_model_close(g.m);
	return rc;
}
