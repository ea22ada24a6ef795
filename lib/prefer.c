/* SPDX-License-Identifier: Apache-2.0 */
/* prefer.c - principle subsets, the deciding principle, rules and noise; contrast samples; HH-RLHF and SHP; statistics. */
#include "lib/prefer.h"
#include "lib/chat.h"
#include "lib/released.h"
#include "lib/script.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BOILERPLATE "As an AI language model"
#define MAX_DIMENSIONS 64
#define MAX_JUDGEMENT 1e30
#define SHP_RATIO 2.0

struct stats { /* of one dimension */
	double variance, agree, bias, rms;
	long decided;
};

struct sal_prefer {
	const struct sal_prefer_config *cfg;
	struct sal_principles *principles;
	char *dim[MAX_DIMENSIONS];
	int n_dims;
	bool same;             /* every record must have exactly the dimensions of the first */
	double noise;
	struct stats stats[MAX_DIMENSIONS];
	double corr[MAX_DIMENSIONS][MAX_DIMENSIONS];
	long pairs, written, undecided, equal, alone, weak, flipped, ruled, foreign, languages, unjudged;
};

struct name { /* a record by its id */
	char *id;
	int i;
	uint32_t nth; /* among the records of this id */
};

/* ---- the arithmetic ------------------------------------------------------ */

double
sal_prefer_variance(const double *x, int n)
{
	double sum = 0, squares = 0, mean;

	/* less the first value, so that a constant has exactly 0 */
	for (int i = 0; i < n; i++)
		sum += x[i] - x[0];
	mean = n ? sum / n : 0;
	for (int i = 0; i < n; i++)
		squares += (x[i] - x[0] - mean) * (x[i] - x[0] - mean);
	return n ? squares / n : 0;
}

double
sal_prefer_correlation(const double *x, const double *y, int n, size_t stride)
{
	double mx = 0, my = 0, xx = 0, yy = 0, xy = 0;

	for (int i = 0; i < n; i++) {
		mx += (x[(size_t)i * stride] - x[0]) / n;
		my += (y[(size_t)i * stride] - y[0]) / n;
	}
	for (int i = 0; i < n; i++) {
		double a = x[(size_t)i * stride] - x[0] - mx, b = y[(size_t)i * stride] - y[0] - my;
		xx += a * a;
		yy += b * b;
		xy += a * b;
	}
	return xx > 0 && yy > 0 ? xy / (sqrt(xx) * sqrt(yy)) : (double)NAN;
}

double
sal_prefer_score(double s12, double s21, double variance, int agree)
{
	bool both = (s12 > 0 && s21 > 0) || (s12 < 0 && s21 < 0);

	if (!(variance > 0) || (agree == SAL_AGREE_BOTH && !both) || s12 + s21 == 0)
		return 0;
	return (s12 + s21) / 2 / variance;
}

/* Redrawing until k <= max gives the truncated distribution: its inverse needs one draw. */
int
sal_prefer_size(double p, int max, float u)
{
	double left = 1, all = 1;
	int k = 1;

	for (int i = 0; i < max; i++)
		all *= 1 - p;
	for (; k < max; k++) {
		left *= 1 - p;
		if ((double)u * (1 - all) < 1 - left)
			break;
	}
	return k;
}

int
sal_prefer_split(const char *a, const char *b, size_t *at)
{
	static const char mark[] = "Assistant:";
	const size_t m = sizeof mark - 1;
	size_t n = 0;

	while (a[n] && a[n] == b[n])
		n++;
	for (; n >= m; n--)
		if (memcmp(a + n - m, mark, m) == 0) {
			*at = n;
			return 0;
		}
	return sal_err("chosen and rejected have no \"%s\" in common", mark);
}

/* ---- opening, dimensions ------------------------------------------------- */

static int
known_principle(const struct sal_prefer *p, const char *name)
{
	int i;

	if (p->principles == NULL)
		return 0;
	if ((i = sal_principles_find(p->principles, name)) < 0)
		return sal_err("%s: no principle '%.200s'", p->cfg->principles, name);
	if (p->cfg->negate > 0 && p->principles->p[i].negative == NULL)
		return sal_err("%s: principle '%.200s' has no negative definition", p->cfg->principles, name);
	return 0;
}

static void
forget_dimensions(struct sal_prefer *p)
{
	while (p->n_dims > 0)
		free(p->dim[--p->n_dims]);
}

static int
add_dimension(struct sal_prefer *p, const char *name, size_t len)
{
	if (len == 0)
		return sal_err("a dimension without a name");
	if (p->n_dims == MAX_DIMENSIONS)
		return sal_err("more than %d dimensions", MAX_DIMENSIONS);
	for (int i = 0; i < p->n_dims; i++)
		if (strlen(p->dim[i]) == len && memcmp(p->dim[i], name, len) == 0)
			return sal_err("dimension '%s' given twice", p->dim[i]);
	if ((p->dim[p->n_dims] = strndup(name, len)) == NULL)
		return sal_err("out of memory");
	p->n_dims++;
	return known_principle(p, p->dim[p->n_dims - 1]);
}

static int
parse_dimensions(struct sal_prefer *p, const char *list)
{
	for (const char *s = list;; s++) {
		size_t n = strcspn(s, ","), from = strspn(s, " "), to = n;
		from = from < n ? from : n;
		while (to > from && s[to - 1] == ' ')
			to--;
		if (add_dimension(p, s + from, to - from) != 0)
			return -1;
		s += n;
		if (*s == '\0')
			return 0;
	}
}

static bool
is_judged(const struct sal_prefer_config *c)
{
	return c->from == SAL_FROM_JUDGED || c->from == SAL_FROM_RELEASED;
}

struct sal_prefer *
sal_prefer_open(const struct sal_prefer_config *cfg)
{
	struct sal_prefer *p = calloc(1, sizeof *p);

	if (p == NULL) {
		sal_err("out of memory");
		return NULL;
	}
	p->cfg = cfg;
	p->noise = cfg->noise >= 0 ? cfg->noise : is_judged(cfg) ? 0.1 : 0;
	if ((cfg->principles && (p->principles = sal_principles_open(cfg->principles)) == NULL) ||
	    (cfg->dimensions && parse_dimensions(p, cfg->dimensions) != 0)) {
		sal_prefer_close(p);
		return NULL;
	}
	return p;
}

void
sal_prefer_close(struct sal_prefer *p)
{
	if (p == NULL)
		return;
	forget_dimensions(p);
	sal_principles_close(p->principles);
	free(p);
}

int
sal_prefer_plan(void *ctx, struct sal_buf *out)
{
	static const char *const from[] = { "judged pairs", "contrast samples", "HH-RLHF", "SHP", "the release's files" };
	const struct sal_prefer *p = ctx;
	const struct sal_prefer_config *c = p->cfg;

	sal_buf_printf(out, "preferences from %s, labels flipped with probability %g, seed %llu\n", from[c->from], p->noise,
	    (unsigned long long)c->c.seed);
	if (is_judged(c))
		sal_buf_printf(out, "%d passes, at most %d principles, geometric %g, negated with probability %g\n", c->passes, c->max_principles,
		    c->geometric, c->negate);
	if (c->dimensions)
		sal_buf_printf(out, "dimensions %s\n", c->dimensions);
	if (p->principles)
		sal_buf_printf(out, "%d principles of %s\n", p->principles->n, c->principles);
	return 0;
}

/* ---- what a record must have --------------------------------------------- */

int
sal_prefer_has_prompt(const cJSON *j)
{
	if (sal_json_has(j, "prompt") || sal_json_has(j, "messages") || sal_json_has(j, "instruction") || sal_json_has(j, "prompt_tokens"))
		return 0;
	return sal_err("no prompt, messages, instruction or prompt_tokens");
}

static int
get_judgement(const cJSON *all, const char *name, double s[2])
{
	const cJSON *e = cJSON_GetObjectItemCaseSensitive(all, name);

	if (e == NULL)
		return sal_err("judgements: no '%.200s'", name);
	if (!cJSON_IsArray(e) || cJSON_GetArraySize(e) != 2)
		return sal_err("judgements: '%.200s' is not two numbers", name);
	for (int i = 0; i < 2; i++) {
		const cJSON *x = cJSON_GetArrayItem(e, i);
		if (!cJSON_IsNumber(x) || !(fabs(x->valuedouble) <= MAX_JUDGEMENT))
			return sal_err("judgements: '%.200s' is not two numbers", name);
		s[i] = x->valuedouble;
	}
	return 0;
}

/* SALMON's eight if the first good record has them, else all that it has: so the first record says what the others must have. */
static int
choose_dimensions(struct sal_prefer *p, const cJSON *all)
{
	static const char *const active[] = { "Concise", "Honest and Accurate", "Ethical", "Specific", "Educational and Engaging",
		"Methodical", "Creative", "Comprehensive" };
	const int n = sizeof active / sizeof *active;
	const cJSON *e;
	int has = 0, rc = 0;

	for (int i = 0; i < n; i++)
		has += cJSON_GetObjectItemCaseSensitive(all, active[i]) != NULL;
	p->same = has < n;
	for (int i = 0; has == n && rc == 0 && i < n; i++)
		rc = add_dimension(p, active[i], strlen(active[i]));
	if (has < n)
		cJSON_ArrayForEach(e, all)
			if (rc == 0)
				rc = add_dimension(p, e->string, strlen(e->string));
	return rc == 0 && p->n_dims == 0 ? sal_err("judgements: empty") : rc;
}

/* Whether an answer is in the prompt's language: by the record's `lang`, of prompt and answers, else by their scripts; unsure: it is. -1: error. */
static int
in_language(const cJSON *j, bool in[2])
{
	const cJSON *l = cJSON_GetObjectItemCaseSensitive(j, "lang");
	bool text = sal_json_has(j, "prompt") || sal_json_has(j, "messages") || sal_json_has(j, "instruction");
	char *prompt;

	in[0] = in[1] = true;
	if (cJSON_IsArray(l)) {
		const char *s[3];
		for (int i = 0; i < 3; i++)
			if ((s[i] = cJSON_GetStringValue(cJSON_GetArrayItem(l, i))) == NULL || cJSON_GetArraySize(l) != 3)
				return sal_err("lang: not three texts, of the prompt and both answers");
		for (int i = 0; i < 2; i++)
			in[i] = strcmp(s[0], s[1 + i]) == 0;
		return 0;
	}
	if (!text)
		return 0;
	if ((prompt = sal_chat_instruction(j)) == NULL)
		return -1;
	enum sal_script own = sal_script_of(prompt);
	free(prompt);
	for (int i = 0; i < 2; i++) {
		enum sal_script s = sal_script_of(sal_json_str(j, i ? "output_2" : "output_1"));
		in[i] = own == SAL_SCRIPT_NONE || s == SAL_SCRIPT_NONE || s == own;
	}
	return 0;
}

static int
check_judged(struct sal_prefer *p, const cJSON *j)
{
	const cJSON *all = cJSON_GetObjectItemCaseSensitive(j, "judgements");
	bool first = p->n_dims == 0, in[2];
	double s[2];
	int rc = 0;

	if (sal_prefer_has_prompt(j) != 0 || sal_json_str(j, "output_1") == NULL || sal_json_str(j, "output_2") == NULL)
		return -1;
	if (!cJSON_IsObject(all))
		return sal_err("judgements: %s", all ? "not an object" : "missing");
	if (first)
		rc = choose_dimensions(p, all);
	for (int i = 0; rc == 0 && i < p->n_dims; i++)
		rc = get_judgement(all, p->dim[i], s);
	if (rc == 0)
		rc = in_language(j, in);
	if (rc == 0 && p->same && cJSON_GetArraySize(all) != p->n_dims)
		rc = sal_err("judgements: not the dimensions of the first record (see --dimensions)");
	if (rc != 0 && first)
		forget_dimensions(p);
	return rc;
}

/* The dimension of a sample and its side; NULL on error. */
static const char *
sampled_under(const cJSON *j, bool *negated)
{
	const cJSON *u = cJSON_GetObjectItemCaseSensitive(j, "sampled_under"), *neg = cJSON_GetObjectItemCaseSensitive(u, "negated");

	if (!cJSON_IsObject(u) || !cJSON_IsBool(neg)) {
		sal_err("sampled_under: %s", u ? "not {\"dimension\": text, \"negated\": true or false}" : "missing");
		return NULL;
	}
	*negated = cJSON_IsTrue(neg);
	return sal_json_str(u, "dimension");
}

static int
check_contrast(struct sal_prefer *p, const cJSON *j)
{
	bool negated;
	const char *d;

	if (sal_prefer_has_prompt(j) != 0 || sal_json_str(j, "response") == NULL || (d = sampled_under(j, &negated)) == NULL)
		return -1;
	return known_principle(p, d);
}

static int
check_shp(const cJSON *j)
{
	double ratio;
	int64_t label;

	return sal_json_str(j, "history") && sal_json_str(j, "human_ref_A") && sal_json_str(j, "human_ref_B") &&
	        sal_json_int(j, "labels", 0, 1, &label) == 0 && sal_json_num(j, "score_ratio", &ratio) == 0 ? 0 : -1;
}

static int
check_hh(const cJSON *j)
{
	const char *a = sal_json_str(j, "chosen"), *b = a ? sal_json_str(j, "rejected") : NULL;
	size_t at;

	return b ? sal_prefer_split(a, b, &at) : -1;
}

int
sal_prefer_check(void *ctx, const struct sal_record *r)
{
	struct sal_prefer *p = ctx;
	char *id;

	if (p->cfg->from == SAL_FROM_HH)
		return check_hh(r->json);
	if (p->cfg->from == SAL_FROM_SHP)
		return check_shp(r->json);
	if (p->cfg->from == SAL_FROM_RELEASED)
		return sal_released_check(r);
	if ((p->cfg->from == SAL_FROM_JUDGED ? check_judged(p, r->json) : check_contrast(p, r->json)) != 0 || (id = sal_record_id(r)) == NULL)
		return -1;
	free(id);
	return 0;
}

/* ---- writing ------------------------------------------------------------- */

cJSON *
sal_prefer_new(const struct sal_record *r, const char *id, const char *chosen, const char *rejected)
{
	cJSON *o = cJSON_CreateObject();

	if ((!sal_json_has(r->json, "id") && !cJSON_AddStringToObject(o, "id", id)) || !cJSON_AddStringToObject(o, "chosen", chosen) ||
	    !cJSON_AddStringToObject(o, "rejected", rejected)) {
		sal_err("out of memory");
		cJSON_Delete(o);
		return NULL;
	}
	return o;
}

int
sal_prefer_emit_sample(struct sal_record *r, cJSON *pair)
{
	/* the ids of the prompt are those of one sample, unless they are the prompt */
	static const char *const drop[] = { "prompt_tokens", "response_tokens", "logprobs", "entropy", "policy", "sampled_under", "sample",
		"response", "finish_reason", "has_stop", "reward", NULL };
	bool text = sal_json_has(r->json, "prompt") || sal_json_has(r->json, "messages") || sal_json_has(r->json, "instruction");
	int rc = sal_record_emit(r, pair, drop + !text);

	cJSON_Delete(pair);
	return rc;
}

/* Write the lines of r and forget them. */
static int
put(struct sal_prefer *p, struct sal_record *r, FILE *out, struct sal_counts *count)
{
	if (r->out.len && fwrite(r->out.data, 1, r->out.len, out) != r->out.len)
		return sal_err("stdout: %s", strerror(errno));
	r->out.len = 0;
	p->written++;
	count->out++;
	return 0;
}

static int
by_id(const void *a, const void *b)
{
	const struct name *x = a, *y = b;
	int c = strcmp(x->id, y->id);

	return c ? c : x->i < y->i ? -1 : x->i > y->i;
}

static int
by_place(const void *a, const void *b)
{
	const struct name *x = a, *y = b;

	return x->i < y->i ? -1 : x->i > y->i;
}

static void
names_free(struct name *name, int n)
{
	for (int i = 0; name && i < n; i++)
		free(name[i].id);
	free(name);
}

/* The ids of the records, sorted by id and then by place; nth is set. */
static struct name *
names_of(struct sal_record **r, int n)
{
	struct name *name = calloc((size_t)n + 1, sizeof *name);

	if (name == NULL) {
		sal_err("out of memory");
		return NULL;
	}
	for (int i = 0; i < n; i++) {
		name[i].i = i;
		if ((name[i].id = sal_record_id(r[i])) == NULL) {
			names_free(name, n);
			return NULL;
		}
	}
	qsort(name, (size_t)n, sizeof *name, by_id);
	for (int i = 1; i < n; i++)
		if (strcmp(name[i].id, name[i - 1].id) == 0)
			name[i].nth = name[i - 1].nth + 1;
	return name;
}

static bool
chance(const struct sal_prefer *p, const char *stage, const char *id, uint64_t number, double probability)
{
	struct sal_random r = sal_random_open(p->cfg->c.seed, stage, id, number);

	return (double)sal_random_uniform(&r) < probability;
}

/* ---- judged pairs -------------------------------------------------------- */

static void
statistics(struct sal_prefer *p, const double *s, double *mean, int n)
{
	int nd = p->n_dims;

	for (size_t i = 0; i < (size_t)n * (size_t)nd; i++)
		mean[i] = (s[2 * i] + s[2 * i + 1]) / 2;
	for (int d = 0; d < nd; d++) {
		struct stats *t = &p->stats[d];
		for (int i = 0; i < n; i++) {
			const double *x = s + 2 * ((size_t)i * (size_t)nd + (size_t)d);
			t->agree += (x[0] > 0 && x[1] > 0) || (x[0] < 0 && x[1] < 0);
			t->bias += (x[0] - x[1]) / 2;
			t->rms += (x[0] + x[1]) * (x[0] + x[1]) / 4;
		}
		t->agree /= n;
		t->bias /= n;
		t->rms = sqrt(t->rms / n);
		for (int e = 0; e < nd; e++)
			p->corr[d][e] = sal_prefer_correlation(mean + d, mean + e, n, (size_t)nd);
	}
}

/* Scores of all pairs [n][n_dims][2], and the variances; NULL on error. */
static double *
read_scores(struct sal_prefer *p, struct sal_record **r, int n)
{
	size_t nd = (size_t)p->n_dims;
	double *s = calloc((size_t)n * nd * 2 + 1, sizeof *s), *x = calloc((size_t)n * nd * 2 + 1, sizeof *x);

	if (s == NULL || x == NULL) {
		sal_err("out of memory");
		goto fail;
	}
	for (int i = 0; i < n; i++)
		for (size_t d = 0; d < nd; d++)
			if (get_judgement(cJSON_GetObjectItemCaseSensitive(r[i]->json, "judgements"), p->dim[d], s + 2 * ((size_t)i * nd + d)) != 0)
				goto fail;
	for (size_t d = 0; d < nd; d++) {
		for (int i = 0; i < n; i++)
			memcpy(x + 2 * i, s + 2 * ((size_t)i * nd + d), 2 * sizeof *x);
		p->stats[d].variance = sal_prefer_variance(x, 2 * n);
	}
	if (n > 0)
		statistics(p, s, x, n);
	free(x);
	return s;
fail:
	free(s);
	free(x);
	return NULL;
}

static int
add_principle(cJSON *list, const char *dimension, bool negated)
{
	cJSON *e = cJSON_CreateObject();

	if (!cJSON_AddStringToObject(e, "dimension", dimension) || !cJSON_AddBoolToObject(e, "negated", negated) ||
	    !cJSON_AddItemToArray(list, e)) {
		cJSON_Delete(e);
		return sal_err("out of memory");
	}
	return 0;
}

/* One record of one pass: s are its judgements. */
static int
prefer(struct sal_prefer *p, struct sal_record *r, const struct name *name, const double *s, int pass, FILE *out, struct sal_counts *count)
{
	static const char *const drop[] = { "output_1", "output_2", "judgements", "lang", NULL };
	const struct sal_prefer_config *c = p->cfg;
	uint64_t number = (uint64_t)name->nth << 32 | (uint32_t)pass;
	struct sal_random subset = sal_random_open(c->c.seed, "subset", name->id, number), neg = sal_random_open(c->c.seed, "negate", name->id, number);
	const char *y1 = sal_json_str(r->json, "output_1"), *y2 = sal_json_str(r->json, "output_2");
	int perm[MAX_DIMENSIONS], k, best = 0, max = c->max_principles < p->n_dims ? c->max_principles : p->n_dims;
	double score[MAX_DIMENSIONS];
	bool negated[MAX_DIMENSIONS], first, flip, in[2];
	const char *rule = NULL;

	sal_random_shuffle(&subset, perm, p->n_dims);
	k = sal_prefer_size(c->geometric, max, sal_random_uniform(&subset));
	for (int i = 0; i < k; i++) {
		int d = perm[i];
		score[i] = sal_prefer_score(s[2 * d], s[2 * d + 1], p->stats[d].variance, c->agree);
		negated[i] = (double)sal_random_uniform(&neg) < c->negate;
		if (negated[i] && score[i] != 0)
			score[i] = -score[i];
		if (fabs(score[i]) > fabs(score[best]))
			best = i;
	}
	if (score[best] == 0) {
		p->undecided++;
		return 0;
	}
	first = score[best] > 0;
	bool b1 = strstr(y1, BOILERPLATE) != NULL, b2 = strstr(y2, BOILERPLATE) != NULL;
	if (b1 != b2 && chance(p, "boilerplate", name->id, number, c->boilerplate)) {
		rule = "boilerplate";
		first = b2;
	}
	if (in_language(r->json, in) != 0)
		return -1;
	if (c->language > 0 && !in[0] && !in[1]) {
		p->foreign++;
		return 0;
	}
	if (in[0] != in[1] && chance(p, "language", name->id, number, c->language)) {
		rule = "language";
		first = in[0];
	}
	flip = chance(p, "noise", name->id, number, rule ? c->rule_noise : p->noise);
	first ^= flip;
	p->flipped += flip;
	p->ruled += rule && *rule == 'b';
	p->languages += rule && *rule == 'l';
	p->stats[perm[best]].decided += !rule;

	cJSON *o = sal_prefer_new(r, name->id, first ? y1 : y2, first ? y2 : y1), *list = o ? cJSON_AddArrayToObject(o, "principles") : NULL, *scores;
	int rc = list && cJSON_AddStringToObject(o, "deciding", p->dim[perm[best]]) && (scores = cJSON_AddObjectToObject(o, "scores")) ? 0 : -1;
	for (int i = 0; rc == 0 && i < k; i++)
		rc = add_principle(list, p->dim[perm[i]], negated[i]) != 0 || sal_json_add_double(scores, p->dim[perm[i]], score[i]) != 0 ? -1 : 0;
	if (rc == 0 && (!cJSON_AddBoolToObject(o, "flipped", flip) ||
	        !(rule ? cJSON_AddStringToObject(o, "rule", rule) : cJSON_AddNullToObject(o, "rule")) || !cJSON_AddNumberToObject(o, "pass", pass)))
		rc = sal_err("out of memory");
	if (rc == 0)
		rc = sal_record_emit(r, o, drop);
	cJSON_Delete(o);
	return rc == 0 ? put(p, r, out, count) : -1;
}

static int
run_judged(struct sal_prefer *p, struct sal_record **r, int n, FILE *out, struct sal_counts *count)
{
	struct name *name = names_of(r, n);
	double *s = name ? read_scores(p, r, n) : NULL;
	int rc = s ? 0 : -1;

	if (name)
		qsort(name, (size_t)n, sizeof *name, by_place);
	for (int pass = 0; rc == 0 && pass < p->cfg->passes; pass++)
		for (int i = 0; rc == 0 && i < n; i++)
			rc = prefer(p, r[i], &name[i], s + 2 * (size_t)i * (size_t)p->n_dims, pass, out, count);
	free(s);
	names_free(name, n);
	return rc;
}

/* The release's files as judged pairs; those that lack a dimension are left out. */
static int
run_released(struct sal_prefer *p, struct sal_record **r, int n, FILE *out, struct sal_counts *count)
{
	struct sal_record **pair = NULL;
	int k = 0, kept = 0, most = 0, rc = sal_released_join(r, n, &pair, &k);

	for (int i = 1; rc == 0 && i < k; i++) /* the fullest says what a pair must have */
		if (cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(pair[i]->json, "judgements")) >
		    cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(pair[most]->json, "judgements")))
			most = i;
	if (rc == 0 && k > 0)
		rc = check_judged(p, pair[most]->json);
	for (int i = 0; rc == 0 && i < k; i++) {
		struct sal_record *x = pair[i];
		if (check_judged(p, x->json) != 0) {
			p->unjudged++;
			continue;
		}
		pair[i] = pair[kept];
		pair[kept++] = x;
	}
	p->pairs = kept;
	if (rc == 0 && kept > 0)
		rc = run_judged(p, pair, kept, out, count);
	for (int i = 0; i < k; i++)
		sal_record_free(pair[i]);
	free(pair);
	return rc;
}

/* ---- samples under a principle and under its negation --------------------- */

static bool
wanted(const struct sal_prefer *p, const char *dimension)
{
	for (int i = 0; i < p->n_dims; i++)
		if (strcmp(p->dim[i], dimension) == 0)
			return true;
	return p->n_dims == 0;
}

/* A preference of the answer under d (yes) and the one under its negation (no). */
static int
contrast(struct sal_prefer *p, struct sal_record *yes, const struct sal_record *no, const char *id, const char *d, uint64_t number,
    FILE *out, struct sal_counts *count)
{
	const char *a = sal_json_str(yes->json, "response"), *b = sal_json_str(no->json, "response");
	bool negated = chance(p, "negate", id, number, p->cfg->negate), flip = chance(p, "noise", id, number, p->noise);

	if (strcmp(a, b) == 0) {
		p->equal++;
		return 0;
	}
	cJSON *o = sal_prefer_new(yes, id, negated != flip ? b : a, negated != flip ? a : b), *list = o ? cJSON_AddArrayToObject(o, "principles") : NULL;
	if (list == NULL || add_principle(list, d, negated) != 0 || !cJSON_AddStringToObject(o, "deciding", d) ||
	    !cJSON_AddBoolToObject(o, "flipped", flip) || !cJSON_AddStringToObject(o, "rule", "by_construction")) {
		cJSON_Delete(o);
		return sal_err("out of memory");
	}
	p->flipped += flip;
	return sal_prefer_emit_sample(yes, o) == 0 ? put(p, yes, out, count) : -1;
}

/* The samples name[0..n-1] of one id: dimension by dimension, each with the principle against each with its negation. */
static int
contrast_id(struct sal_prefer *p, struct sal_record **r, const struct name *name, int n, FILE *out, struct sal_counts *count)
{
	const char **d = calloc((size_t)n, sizeof *d);
	bool *negated = calloc((size_t)n, sizeof *negated);
	uint64_t number = 0;
	int rc = d && negated ? 0 : sal_err("out of memory");

	for (int i = 0; rc == 0 && i < n; i++)
		if ((d[i] = sampled_under(r[name[i].i]->json, &negated[i])) == NULL)
			rc = -1;
	for (int first = 0; rc == 0 && first < n; first++) {
		bool seen = !wanted(p, d[first]);
		for (int i = 0; i < first && !seen; i++)
			seen = strcmp(d[i], d[first]) == 0;
		if (seen)
			continue;
		uint64_t before = number;
		for (int i = first; rc == 0 && i < n; i++)
			for (int k = first; rc == 0 && !negated[i] && k < n; k++)
				if (negated[k] && strcmp(d[i], d[first]) == 0 && strcmp(d[k], d[first]) == 0)
					rc = contrast(p, r[name[i].i], r[name[k].i], name->id, d[first], number++, out, count);
		for (int i = first; number == before && i < n; i++)
			p->alone += strcmp(d[i], d[first]) == 0;
	}
	free(d);
	free(negated);
	return rc;
}

static int
run_contrast(struct sal_prefer *p, struct sal_record **r, int n, FILE *out, struct sal_counts *count)
{
	struct name *name = names_of(r, n), *group = calloc((size_t)n + 1, sizeof *group);
	int rc = name && group ? 0 : -1, n_groups = 0;

	/* the ids in the order of their first samples; nth: where in name */
	for (int i = 0; rc == 0 && i < n; i++)
		if (name[i].nth == 0)
			group[n_groups++] = (struct name){ name[i].id, name[i].i, (uint32_t)i };
	if (rc == 0)
		qsort(group, (size_t)n_groups, sizeof *group, by_place);
	for (int g = 0; rc == 0 && g < n_groups; g++) {
		int from = (int)group[g].nth, m = 1;
		while (from + m < n && name[from + m].nth > 0)
			m++;
		rc = contrast_id(p, r, name + from, m, out, count);
	}
	free(group);
	names_free(name, n);
	return rc;
}

/* ---- public data sets ---------------------------------------------------- */

static char *
stripped(const char *s, size_t n)
{
	static const char space[] = " \t\n\v\f\r";
	char *t;

	while (n > 0 && strchr(space, *s)) {
		s++;
		n--;
	}
	while (n > 0 && strchr(space, s[n - 1]))
		n--;
	if ((t = strndup(s, n)) == NULL)
		sal_err("out of memory");
	return t;
}

/* prompt and two answers, the first of them the better one, as a preference without principles. */
static int
public(struct sal_prefer *p, struct sal_record *r, const char *prompt, const char *better, const char *worse, uint32_t nth,
    const char *const *drop, FILE *out, struct sal_counts *count)
{
	char hash[17], *id = sal_json_has(r->json, "id") ? sal_record_id(r) : hash;
	bool flip;
	int rc;

	snprintf(hash, sizeof hash, "%016llx", (unsigned long long)sal_hash(prompt, strlen(prompt)));
	if (id == NULL)
		return -1;
	flip = chance(p, "noise", id, nth, p->noise);
	cJSON *o = sal_prefer_new(r, id, flip ? worse : better, flip ? better : worse);
	rc = o && cJSON_AddStringToObject(o, "prompt", prompt) && cJSON_AddArrayToObject(o, "principles") && cJSON_AddBoolToObject(o, "flipped", flip)
	    ? sal_record_emit(r, o, drop) : sal_err("out of memory");
	p->flipped += flip;
	cJSON_Delete(o);
	if (id != hash)
		free(id);
	return rc == 0 ? put(p, r, out, count) : -1;
}

static int
run_hh(struct sal_prefer *p, struct sal_record *r, uint32_t number, FILE *out, struct sal_counts *count)
{
	const char *a = sal_json_str(r->json, "chosen"), *b = sal_json_str(r->json, "rejected");
	size_t at = 0;
	int rc = -1;

	if (sal_prefer_split(a, b, &at) != 0)
		return -1;
	char *q = stripped(a, at), *y1 = stripped(a + at, strlen(a + at)), *y2 = stripped(b + at, strlen(b + at));
	if (q && y1 && y2 && strcmp(y1, y2) == 0) {
		p->equal++;
		rc = 0;
	} else if (q && y1 && y2)
		rc = public(p, r, q, y1, y2, number, NULL, out, count);
	free(q);
	free(y1);
	free(y2);
	return rc;
}

static int
run_shp(struct sal_prefer *p, struct sal_record *r, uint32_t number, FILE *out, struct sal_counts *count)
{
	static const char *const drop[] = { "history", "human_ref_A", "human_ref_B", "labels", NULL };
	const char *a = sal_json_str(r->json, "human_ref_A"), *b = sal_json_str(r->json, "human_ref_B");
	double ratio;
	int64_t label;

	if (sal_json_num(r->json, "score_ratio", &ratio) != 0 || sal_json_int(r->json, "labels", 0, 1, &label) != 0)
		return -1;
	if (!(ratio > SHP_RATIO)) {
		p->weak++;
		return 0;
	}
	return public(p, r, sal_json_str(r->json, "history"), label ? a : b, label ? b : a, number, drop, out, count);
}

int
sal_prefer_run(struct sal_prefer *p, struct sal_record **r, int n, FILE *out, struct sal_counts *count)
{
	int rc = 0;

	p->pairs = n;
	if (p->cfg->from == SAL_FROM_JUDGED)
		return n ? run_judged(p, r, n, out, count) : 0;
	if (p->cfg->from == SAL_FROM_RELEASED)
		return run_released(p, r, n, out, count);
	if (p->cfg->from == SAL_FROM_CONTRAST)
		return run_contrast(p, r, n, out, count);
	for (int i = 0; rc == 0 && i < n; i++)
		rc = p->cfg->from == SAL_FROM_HH ? run_hh(p, r[i], (uint32_t)i, out, count) : run_shp(p, r[i], (uint32_t)i, out, count);
	return rc;
}

/* ---- what a person should see -------------------------------------------- */

void
sal_prefer_report(const struct sal_prefer *p, struct sal_buf *b)
{
	if (is_judged(p->cfg) && p->pairs > 0) {
		sal_buf_printf(b, "    %-26s %6s %9s %9s %9s %8s\n", "dimension", "agree", "bias", "rms", "variance", "decided");
		for (int d = 0; d < p->n_dims; d++) {
			const struct stats *t = &p->stats[d];
			sal_buf_printf(b, "%3d %-26s %5.1f%% %+9.4f %9.4f %9.4g %8ld\n", d + 1, p->dim[d], 100 * t->agree, t->bias, t->rms, t->variance,
			    t->decided);
		}
		sal_buf_printf(b, "correlation of the scores (mean of both orders) over %ld pairs\n   ", p->pairs);
		for (int d = 0; d < p->n_dims; d++)
			sal_buf_printf(b, " %5d", d + 1);
		for (int d = 0; d < p->n_dims; d++) {
			sal_buf_printf(b, "\n%3d", d + 1);
			for (int e = 0; e < p->n_dims; e++)
				if (isnan(p->corr[d][e]))
					sal_buf_printf(b, " %5s", "-");
				else
					sal_buf_printf(b, " %+5.2f", p->corr[d][e]);
		}
		sal_buf_puts(b, "\n");
	}
	sal_buf_printf(b, "%ld preferences", p->written);
	if (p->cfg->from == SAL_FROM_RELEASED)
		sal_buf_printf(b, ", %ld pairs skipped (not judged by every principle)", p->unjudged);
	if (is_judged(p->cfg))
		sal_buf_printf(b, ", %ld skipped (no principle decides), %ld skipped (neither answer in the prompt's language), %ld by the boilerplate rule, "
		    "%ld by the rule on languages", p->undecided, p->foreign, p->ruled, p->languages);
	if (p->cfg->from == SAL_FROM_CONTRAST)
		sal_buf_printf(b, ", %ld pairs skipped (equal answers), %ld samples without a counterpart", p->equal, p->alone);
	if (p->cfg->from == SAL_FROM_HH)
		sal_buf_printf(b, ", %ld skipped (equal answers)", p->equal);
	if (p->cfg->from == SAL_FROM_SHP)
		sal_buf_printf(b, ", %ld skipped (score ratio not above %g)", p->weak, SHP_RATIO);
	sal_buf_printf(b, ", %ld flipped as noise\n", p->flipped);
}
