/* SPDX-License-Identifier: Apache-2.0 */
/* prompt.c - templates in one left-to-right pass, principle collections, weighted draws, and the reward text. */
#include "lib/prompt.h"
#include "lib/jsonl.h"
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int
sal_template_fill(const char *tmpl, const char *const *name, const char *const *value, int n, struct sal_buf *out,
    struct sal_span **plain, int *n_plain)
{
	int cap = 0;

	while (*tmpl) {
		const char *end = *tmpl == '{' ? strchr(tmpl, '}') : NULL;
		int k = 0;
		while (end && k < n && (strlen(name[k]) != (size_t)(end - tmpl - 1) || strncmp(name[k], tmpl + 1, (size_t)(end - tmpl - 1)) != 0))
			k++;
		if (end == NULL || k == n) {
			size_t len = 1 + strcspn(tmpl + 1, "{");
			sal_buf_put(out, tmpl, len);
			tmpl += len;
			continue;
		}
		if (plain) {
			if (*n_plain == cap) {
				cap = cap ? 2 * cap : 8;
				struct sal_span *p = realloc(*plain, (size_t)cap * sizeof *p);
				if (p == NULL)
					return sal_err("out of memory");
				*plain = p;
			}
			(*plain)[(*n_plain)++] = (struct sal_span){ out->len, out->len + strlen(value[k]) };
		}
		sal_buf_puts(out, value[k]);
		tmpl = end + 1;
	}
	return out->failed ? sal_err("out of memory") : 0;
}

/* A folder is not meant: a run may well have left one called "rm". */
static bool
is_there(const char *path)
{
	return access(path, F_OK) == 0 && !sal_is_dir(path);
}

/* The folder of the running tool: bin/ of an installation, build/bin/ of a source tree. */
static void
tool_dir(char *dir, size_t size)
{
	ssize_t n = readlink("/proc/self/exe", dir, size - 1);
	char *slash;

	dir[n > 0 ? n : 0] = '\0';
	if ((slash = strrchr(dir, '/')) != NULL)
		*slash = '\0';
	else
		snprintf(dir, size, ".");
}

static char *
path_of(const char *name, const char *sub, const char *suffix)
{
	const char *env = getenv("SAL_PROMPTS");
	char tool[4096];

	tool_dir(tool, sizeof tool);
	const char *const dir[][2] = { { env ? env : "prompts", "" }, { "prompts", "" }, { tool, "/../share/salmon/prompts" }, { tool, "/../../prompts" } };
	for (size_t i = 0; i < sizeof dir / sizeof *dir; i++) {
		struct sal_buf b = { 0 };
		sal_buf_printf(&b, "%s%s/%s%s%s", dir[i][0], dir[i][1], sub, name, suffix);
		if (!b.failed && is_there(b.data))
			return b.data;
		sal_buf_free(&b);
	}
	return NULL;
}

char *
sal_prompt_path(const char *name)
{
	char *p;

	if (strchr(name, '/') || is_there(name)) {
		if ((p = strdup(name)) == NULL)
			sal_err("out of memory");
		return p;
	}
	if ((p = path_of(name, "", "")) == NULL && (p = path_of(name, "principles/", ".json")) == NULL)
		sal_err("%s: no such file here, in $SAL_PROMPTS, ./prompts, or share/salmon/prompts beside the folder of the tools", name);
	return p;
}

char *
sal_prompt_read(const char *name)
{
	char *path = sal_prompt_path(name), *text, *s;
	size_t len;

	if (path == NULL)
		return NULL;
	text = sal_read_file(path, 1 << 24, &len);
	if (text && memchr(text, 0, len)) {
		sal_err("%s: a NUL in a text", path);
		free(text);
		text = NULL;
	}
	free(path);
	if (text == NULL)
		return NULL;
	while (len > 0 && isspace((unsigned char)text[len - 1]))
		text[--len] = '\0';
	for (s = text; isspace((unsigned char)*s);)
		s++;
	memmove(text, s, strlen(s) + 1);
	return text;
}

/* ---- principles ---------------------------------------------------------- */

static int
get_text(const cJSON *e, const char *name, const char *other, bool needed, char **out)
{
	const char *key = sal_json_has(e, name) ? name : other, *s;

	if (!sal_json_has(e, key))
		return needed ? sal_err("no \"%s\"", name) : 0;
	if ((s = sal_json_str(e, key)) == NULL)
		return -1;
	if (*s == '\0' || strlen(s) > 4096)
		return sal_err("\"%s\" is empty or longer than 4096 bytes", name);
	return (*out = strdup(s)) ? 0 : sal_err("out of memory");
}

static int
read_principles(struct sal_principles *ps, const cJSON *j)
{
	const cJSON *e;
	double total = 0;

	if (!cJSON_IsArray(j) || cJSON_GetArraySize(j) == 0)
		return sal_err("not a list of principles");
	if ((ps->p = calloc((size_t)cJSON_GetArraySize(j), sizeof *ps->p)) == NULL)
		return sal_err("out of memory");
	cJSON_ArrayForEach(e, j)
	{
		struct sal_principle *p = &ps->p[ps->n];
		char why[256];
		if (!cJSON_IsObject(e))
			return sal_err("principle %d is not an object", ps->n + 1);
		ps->n++;
		p->weight = 1;
		if (get_text(e, "dimension", "name", true, &p->dimension) != 0 || get_text(e, "definition", "positive", true, &p->definition) != 0 ||
		    get_text(e, "negative_definition", "negative", false, &p->negative) != 0 ||
		    (sal_json_has(e, "weight") && sal_json_num(e, "weight", &p->weight) != 0)) {
			snprintf(why, sizeof why, "%s", sal_errmsg());
			return sal_err("principle %d: %s", ps->n, why);
		}
		if (!(p->weight >= 0) || !isfinite(p->weight))
			return sal_err("principle '%s': weight %g", p->dimension, p->weight);
		for (int i = 0; i < ps->n - 1; i++)
			if (strcmp(ps->p[i].dimension, p->dimension) == 0)
				return sal_err("principle '%s' stands twice", p->dimension);
		total += p->weight;
	}
	return total > 0 ? 0 : sal_err("every weight is 0");
}

struct sal_principles *
sal_principles_open(const char *name)
{
	char *path = sal_prompt_path(name), why[512];
	struct sal_principles *ps = calloc(1, sizeof *ps);
	cJSON *j = path && ps ? sal_json_read(path) : NULL;
	int rc = j ? read_principles(ps, j) : -1;

	if (j && rc != 0) {
		snprintf(why, sizeof why, "%s", sal_errmsg());
		sal_err("%s: %s", path, why);
	}
	cJSON_Delete(j);
	free(path);
	if (rc != 0) {
		sal_principles_close(ps);
		return NULL;
	}
	return ps;
}

void
sal_principles_close(struct sal_principles *ps)
{
	if (ps == NULL)
		return;
	for (int i = 0; i < ps->n; i++) {
		free(ps->p[i].dimension);
		free(ps->p[i].definition);
		free(ps->p[i].negative);
	}
	free(ps->p);
	free(ps);
}

int
sal_principles_find(const struct sal_principles *ps, const char *dimension)
{
	for (int i = 0; i < ps->n; i++)
		if (strcmp(ps->p[i].dimension, dimension) == 0)
			return i;
	return -1;
}

static bool
contains(const char *s, const char *word)
{
	size_t n = strlen(word);

	for (; *s; s++) {
		size_t i = 0;
		while (i < n && tolower((unsigned char)s[i]) == word[i])
			i++;
		if (i == n)
			return true;
	}
	return false;
}

int
sal_principles_draw(const struct sal_principles *ps, int k, int type, struct sal_random *r, int *pick)
{
	double *w = malloc((size_t)ps->n * sizeof *w);
	int rc = w ? 0 : sal_err("out of memory");

	for (int i = 0; rc == 0 && i < ps->n; i++) {
		const char *d = ps->p[i].dimension;
		w[i] = ps->p[i].weight;
		if ((type == 1 && (contains(d, "reason") || contains(d, "numerical"))) || (type == 2 && (contains(d, "ethical") || contains(d, "harmless"))))
			w[i] += 128;
	}
	for (int n = 0; rc == 0 && n < k; n++) {
		int last = -1;
		double total = 0;
		for (int i = 0; i < ps->n; i++)
			total += w[i];
		double u = (double)sal_random_uniform(r) * total;
		for (int i = 0; i < ps->n && (last < 0 || u >= 0); i++)
			if (w[i] > 0) {
				last = i;
				u -= w[i];
			}
		if (last < 0)
			rc = sal_err("%d principles wanted, %d have a weight", k, n);
		else {
			pick[n] = last;
			w[last] = 0;
		}
	}
	free(w);
	return rc;
}

/* ---- the reward text ----------------------------------------------------- */

/* The text of tokens from .. from+n-1 of ids. */
static int
part(const struct sal_tokenizer *tk, const struct sal_ids *ids, int from, int n, struct sal_buf *out)
{
	out->len = 0;
	sal_buf_puts(out, "");
	return sal_detokenize(tk, ids->id + from, n, out);
}

int
sal_reward_ids(const struct sal_tokenizer *tk, const char *tmpl, const char *instruction, const char *response,
    const struct sal_principles *ps, const int *pick, const bool *negated, int n, struct sal_reward_limits lim, struct sal_ids *out)
{
	static const char *const name[] = { "Output", "Input", "Dimensions" };
	struct sal_ids ask = { 0 }, answer = { 0 };
	struct sal_buf dims = { 0 }, a = { 0 }, q = { 0 };
	int rc = -1, base = out->n, bos = sal_tokenizer_bos(tk), keep_q, keep_a;

	for (int i = 0; i < n; i++) {
		const struct sal_principle *p = &ps->p[pick[i]];
		if (negated && negated[i] && p->negative == NULL) {
			sal_err("principle '%s' has no negative definition", p->dimension);
			goto out;
		}
		sal_buf_printf(&dims, "%s- %s", i ? "\n" : "", negated && negated[i] ? p->negative : p->definition);
	}
	if (sal_tokenize_plain(tk, instruction, strlen(instruction), &ask) != 0 || sal_tokenize_plain(tk, response, strlen(response), &answer) != 0)
		goto out;
	keep_q = lim.instruction && ask.n > lim.instruction ? lim.instruction : ask.n;
	keep_a = lim.response && answer.n > lim.response ? lim.response : answer.n;
	for (;;) {
		const char *value[3];
		struct sal_buf text = { 0 };
		struct sal_span *plain = NULL;
		int n_plain = 0;
		out->n = base;
		/* what is whole is taken as it was written */
		if (keep_q < ask.n && part(tk, &ask, ask.n - keep_q, keep_q, &q) != 0)
			goto out;
		if (keep_a < answer.n && part(tk, &answer, 0, keep_a, &a) != 0)
			goto out;
		value[0] = keep_a < answer.n ? a.data : response;
		value[1] = keep_q < ask.n ? q.data : instruction;
		value[2] = dims.data ? dims.data : "";
		int bad = sal_template_fill(tmpl, name, value, 3, &text, &plain, &n_plain) != 0 ||
		    (sal_tokenizer_adds_bos(tk) && bos >= 0 && sal_ids_push(out, bos) != 0) ||
		    sal_tokenize(tk, text.data, text.len, plain, n_plain, out) != 0;
		sal_buf_free(&text);
		free(plain);
		if (bad)
			goto out;
		int over = lim.total ? out->n - base - lim.total : 0;
		if (over <= 0)
			break;
		if (keep_a == 0 && keep_q == 0) {
			sal_err("the reward text does not fit %d tokens even without the answer", lim.total);
			goto out;
		}
		int cut = over < keep_a ? over : keep_a;
		keep_a -= cut;
		keep_q -= over - cut < keep_q ? over - cut : keep_q;
	}
	rc = 0;
out:
	free(ask.id);
	free(answer.id);
	sal_buf_free(&dims);
	sal_buf_free(&a);
	sal_buf_free(&q);
	return rc;
}
