/* SPDX-License-Identifier: Apache-2.0 */
/* prompts.c - shapes of data sets, the rules in their order, caps, and the counts. */
#include "lib/prompts.h"
#include "lib/clean.h"
#include "lib/dedup.h"
#include "lib/random.h"
#include "lib/tokenizer.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MAX_SOURCES 1024
#define MAX_SOURCE_NAME 64
#define DEFAULT_MIN 2
#define DEFAULT_MAX 256

enum from { AUTO, OASST1, DOLLY, SHAREGPT, OPENORCA, MATH, ALPACA, MESSAGES, PROMPT, FROMS };
enum verdict { /* why a record makes no prompt */
	KEEP, BELOW_ROOT, NO_REPLY, WAITS, TURNS, CATEGORY, INFERENCE, EMPTY, SHORT, LONG, SAME, NEAR, CAP, VERDICTS
};
static const char *const verdict_name[VERDICTS] = {
	[BELOW_ROOT] = "oasst1: a message below a root", [NO_REPLY] = "oasst1: a root without a reply",
	[TURNS] = "sharegpt: fewer than two turns, or the first is not a person's; messages: no turn of the user",
	[CATEGORY] = "dolly: another category, or with a context", [INFERENCE] = "openorca: natural-language inference",
	[EMPTY] = "empty", [SHORT] = "fewer tokens than --min-tokens", [LONG] = "more tokens than --max-tokens", [SAME] = "same text as a prompt before",
	[NEAR] = "nearly the same as a prompt before", [CAP] = "not drawn under the cap of its source",
};
static const char *const from_name[FROMS] = { "auto", "oasst1", "dolly", "sharegpt", "openorca", "math", "alpaca", "messages", "prompt" };
/* Fields that became the prompt, and answers to it: they are not passed on.  Nor are tokens, which would win over the text. */
static const char *const drop[FROMS][14] = {
	[OASST1] = { "prompt_tokens", "message_id", "parent_id", "text", "prompt" },
	[DOLLY] = { "prompt_tokens", "instruction", "context", "response" },
	[SHAREGPT] = { "prompt_tokens", "conversations", "text" },
	[OPENORCA] = { "prompt_tokens", "question", "system_prompt", "response" },
	[MATH] = { "prompt_tokens", "problem", "solution" },
	[ALPACA] = { "prompt_tokens", "instruction", "input", "output", "text", "instances" },
	[MESSAGES] = { "prompt_tokens", "messages", "prompt", "custom_id", "method", "url", "body", "input", "preferred_output",
		"non_preferred_output", "chosen", "rejected", "completion" },
	[PROMPT] = { "prompt_tokens", "prompt" },
};

struct place { /* a prompt that a cap holds at present */
	uint64_t draw;
	long number; /* in the spool */
};
struct source {
	char *name;
	long records, kept;
	int cap;             /* -1: none */
	struct place *heap;  /* the largest draw on top */
	int n, room;
};
struct item { /* a record on its way */
	struct sal_record *root; /* of OASST1: the root that this reply completes */
	struct sal_buf text;     /* as read, then cleaned */
	char *id;                /* where the data set has it under another name */
	enum from from;
	const char *part;        /* of OpenOrca */
	int source;
	enum verdict verdict;
	uint64_t hash;
	bool refused;            /* by the tokenizer: a bad record after all */
};
struct root { /* of OASST1, waiting for a reply */
	uint64_t hash;
	char *text; /* the record; NULL: a free slot */
	size_t len;
	long line;
};

struct sal_prompts {
	const struct sal_prompts_config *cfg;
	struct sal_counts *count;
	struct sal_tokenizer *tk;
	int bos, min_tokens, max_tokens;
	double bonus[3];
	struct sal_seen *seen, *replied;
	struct sal_near *near;
	struct root *root; /* open addressing, removal by shifting back */
	size_t n_roots, cap_roots;
	struct source *source;
	int n_sources;
	FILE *spool;
	long n_spooled, cut[SAL_CLEAN_RULES], verdict[VERDICTS];
};

/* ---- opening ------------------------------------------------------------- */

static int
read_bonus(const char *list, double bonus[3])
{
	const char *s = list;

	for (int i = 0; i < 3; i++) {
		char *end;
		bonus[i] = strtod(s, &end);
		if (end == s || *end != (i < 2 ? ',' : '\0') || !(bonus[i] > -1e6 && bonus[i] < 1e6))
			return sal_err("--length-bonus: '%s' is not three numbers with commas between them", list);
		s = end + 1;
	}
	return 0;
}

static int
check_caps(const struct sal_strs *cap)
{
	for (int i = 0; i < cap->n; i++) {
		const char *eq = strrchr(cap->s[i], '='), *s = eq ? eq + 1 : cap->s[i];
		char *end;
		long n = strtol(s, &end, 10);
		if (*s < '0' || *s > '9' || *end || n < 0 || n > INT32_MAX || eq == cap->s[i])
			return sal_err("--cap: '%s' is neither N nor SOURCE=N", cap->s[i]);
	}
	return 0;
}

int
sal_prompts_check(const struct sal_prompts_config *cfg)
{
	double bonus[3];

	return read_bonus(cfg->length_bonus, bonus) != 0 || check_caps(&cfg->cap) != 0 ? -1 : 0;
}

struct sal_prompts *
sal_prompts_open(const struct sal_prompts_config *cfg, struct sal_counts *n)
{
	struct sal_prompts *p = calloc(1, sizeof *p);

	if (p == NULL) {
		sal_err("out of memory");
		return NULL;
	}
	p->cfg = cfg;
	p->count = n;
	p->min_tokens = cfg->min_tokens >= 0 ? cfg->min_tokens : DEFAULT_MIN;
	p->max_tokens = cfg->max_tokens >= 0 ? cfg->max_tokens : DEFAULT_MAX;
	if (sal_prompts_check(cfg) != 0 || read_bonus(cfg->length_bonus, p->bonus) != 0 || (p->seen = sal_seen_new()) == NULL ||
	    (p->replied = sal_seen_new()) == NULL || (cfg->near > 0 && (p->near = sal_near_new(cfg->near)) == NULL) ||
	    (cfg->c.model && (p->tk = sal_tokenizer_open(cfg->c.model)) == NULL))
		goto fail;
	p->bos = p->tk && sal_tokenizer_adds_bos(p->tk) && sal_tokenizer_bos(p->tk) >= 0;
	if (cfg->cap.n && (p->spool = tmpfile()) == NULL) {
		sal_err("temporary file: %s", strerror(errno));
		goto fail;
	}
	return p;
fail:
	sal_prompts_close(p);
	return NULL;
}

void
sal_prompts_close(struct sal_prompts *p)
{
	if (p == NULL)
		return;
	for (int i = 0; i < p->n_sources; i++) {
		free(p->source[i].name);
		free(p->source[i].heap);
	}
	for (size_t i = 0; i < p->cap_roots; i++)
		free(p->root[i].text);
	free(p->source);
	free(p->root);
	sal_seen_free(p->seen);
	sal_seen_free(p->replied);
	sal_near_free(p->near);
	sal_tokenizer_close(p->tk);
	if (p->spool)
		fclose(p->spool);
	free(p);
}

/* ---- fields -------------------------------------------------------------- */

static const cJSON *
field(const cJSON *j, const char *name)
{
	const cJSON *v = cJSON_GetObjectItemCaseSensitive(j, name);

	return v && !cJSON_IsNull(v) ? v : NULL;
}

static bool
has_text(const cJSON *j, const char *name)
{
	return cJSON_IsString(field(j, name));
}

/* The turns of TRL and OpenAI: messages, prompt, or those of a batch request or a DPO record. */
static const cJSON *
turns_of(const cJSON *j)
{
	const cJSON *m = field(j, "messages");

	m = m ? m : field(field(j, "body"), "messages");
	m = m ? m : field(field(j, "input"), "messages");
	return m ? m : cJSON_IsArray(field(j, "prompt")) ? field(j, "prompt") : NULL;
}

static enum from
detect(const cJSON *j)
{
	if (field(j, "conversations"))
		return SHAREGPT;
	if (cJSON_IsObject(field(j, "prompt")) || (field(j, "message_id") && has_text(j, "text")))
		return OASST1;
	if (turns_of(j))
		return MESSAGES;
	if (has_text(j, "prompt"))
		return PROMPT;
	if (has_text(j, "problem"))
		return MATH;
	if (has_text(j, "question"))
		return OPENORCA;
	if (has_text(j, "instruction"))
		return field(j, "category") || field(j, "context") ? DOLLY : ALPACA;
	return has_text(j, "text") && strstr(field(j, "text")->valuestring, "<bot>") ? SHAREGPT : AUTO;
}

static int
put(struct sal_buf *b, const char *s, size_t n)
{
	b->len = 0;
	sal_buf_put(b, s, n);
	return b->failed ? sal_err("out of memory") : 0;
}

static int
put_field(struct item *it, const cJSON *j, const char *name)
{
	const char *s = sal_json_str(j, name);

	return s ? put(&it->text, s, strlen(s)) : -1;
}

/* ---- the sources --------------------------------------------------------- */

static int
read_dolly(struct item *it, const cJSON *j)
{
	static const char *const keep[] = { "creative_writing", "brainstorming", "open_qa", "general_qa", "classification" };
	const char *kind = sal_json_str(j, "category");
	size_t i = 0;

	if (kind == NULL || put_field(it, j, "instruction") != 0)
		return -1;
	while (i < sizeof keep / sizeof *keep && strcmp(kind, keep[i]) != 0)
		i++;
	if (i == sizeof keep / sizeof *keep || (has_text(j, "context") && field(j, "context")->valuestring[0]))
		it->verdict = CATEGORY;
	return 0;
}

/* <human>: ... <bot>: ... */
static int
read_dialogue(struct item *it, const cJSON *j)
{
	const char *s = sal_json_str(j, "text"), *end = s ? strstr(s, "<bot>") : NULL;

	if (s == NULL)
		return -1;
	if (end == NULL) {
		it->verdict = TURNS;
		return 0;
	}
	if (strncmp(s, "<human>:", 8) == 0)
		s += 8;
	return put(&it->text, s, (size_t)(end - s));
}

static int
read_sharegpt(struct item *it, const cJSON *j)
{
	const cJSON *c = field(j, "conversations"), *first;
	const char *from;

	if (c == NULL)
		return read_dialogue(it, j);
	if (!cJSON_IsArray(c))
		return sal_err("conversations: not an array");
	if (cJSON_GetArraySize(c) < 2) {
		it->verdict = TURNS;
		return 0;
	}
	first = c->child;
	if (!cJSON_IsObject(first) || (from = sal_json_str(first, "from")) == NULL)
		return sal_err("conversations[0]: not {\"from\", \"value\"}");
	if (strcmp(from, "human") != 0 && strcmp(from, "user") != 0) {
		it->verdict = TURNS;
		return 0;
	}
	return put_field(it, first, has_text(first, "markdown") ? "markdown" : "value");
}

static int
read_openorca(struct item *it, const cJSON *j)
{
	static const char *const part[] = { "niv", "flan", "t0", "cot" };
	static const char *const inference[] = { "it is not possible to tell", "Premise", "premise", "Hypothesis", "hypothesis" };

	if (put_field(it, j, "question") != 0)
		return -1;
	it->part = "other";
	for (size_t i = sizeof part / sizeof *part; i-- > 0;)
		if (has_text(j, "id") && strstr(field(j, "id")->valuestring, part[i]))
			it->part = part[i];
	for (size_t i = 0; i < sizeof inference / sizeof *inference; i++)
		if (strstr(it->text.data, inference[i]))
			it->verdict = INFERENCE;
	return 0;
}

/* instruction, with the input after an empty line; self-instruct has the input in its first instance. */
static int
read_alpaca(struct item *it, const cJSON *j)
{
	const cJSON *instances = field(j, "instances"), *with = cJSON_IsArray(instances) && instances->child ? instances->child : j;

	if (put_field(it, j, "instruction") != 0)
		return -1;
	if (!field(with, "input"))
		return 0;
	const char *in = sal_json_str(with, "input");
	if (in && *in)
		sal_buf_printf(&it->text, "\n\n%s", in);
	return in == NULL ? -1 : it->text.failed ? sal_err("out of memory") : 0;
}

/* The text of content: a string, or parts of which those of type text count. */
static int
put_content(struct item *it, const cJSON *turn)
{
	const cJSON *content = field(turn, "content"), *e;

	if (cJSON_IsString(content))
		return put(&it->text, content->valuestring, strlen(content->valuestring));
	if (!cJSON_IsArray(content))
		return sal_err("content: neither a string nor an array of parts");
	it->text.len = 0;
	sal_buf_puts(&it->text, "");
	cJSON_ArrayForEach(e, content)
		if (has_text(e, "text"))
			sal_buf_puts(&it->text, field(e, "text")->valuestring);
	return it->text.failed ? sal_err("out of memory") : 0;
}

static int
read_messages(struct item *it, const cJSON *j)
{
	const cJSON *m = turns_of(j), *e, *id = field(j, "custom_id");

	if (!cJSON_IsArray(m))
		return sal_err("messages: %s", m ? "not an array" : "missing");
	if (!field(j, "id") && cJSON_IsString(id) && (it->id = strdup(id->valuestring)) == NULL)
		return sal_err("out of memory");
	cJSON_ArrayForEach(e, m) {
		const char *role = cJSON_IsObject(e) ? sal_json_str(e, "role") : NULL;
		if (role == NULL)
			return sal_err("messages: a turn is not {\"role\", \"content\"}");
		if (strcmp(role, "user") == 0)
			return put_content(it, e);
	}
	it->verdict = TURNS;
	return 0;
}

/* ---- OASST1 -------------------------------------------------------------- */

static size_t
root_at(const struct sal_prompts *p, uint64_t hash)
{
	size_t i = hash & (p->cap_roots - 1);

	while (p->root[i].text && p->root[i].hash != hash)
		i = (i + 1) & (p->cap_roots - 1);
	return i;
}

static int
root_add(struct sal_prompts *p, const struct sal_record *r, uint64_t hash)
{
	if (p->n_roots + 1 > p->cap_roots / 2) {
		size_t cap = p->cap_roots, more = cap ? 2 * cap : 64;
		struct root *old = p->root, *fresh = calloc(more, sizeof *fresh);
		if (fresh == NULL)
			return sal_err("out of memory");
		p->root = fresh;
		p->cap_roots = more;
		for (size_t i = 0; i < cap; i++)
			if (old[i].text)
				p->root[root_at(p, old[i].hash)] = old[i];
		free(old);
	}
	struct root *to = &p->root[root_at(p, hash)];
	if (to->text)
		return sal_err("message_id: given to two roots");
	if ((to->text = malloc(r->text_len + 1)) == NULL)
		return sal_err("out of memory");
	memcpy(to->text, r->text, r->text_len);
	*to = (struct root){ hash, to->text, r->text_len, r->line };
	p->n_roots++;
	return 0;
}

/* The root of that hash as a record, and out of the table; NULL and no error in *rc: none waits. */
static struct sal_record *
root_take(struct sal_prompts *p, uint64_t hash, int *rc)
{
	size_t i = p->n_roots ? root_at(p, hash) : 0, mask = p->cap_roots - 1;
	struct sal_record *r;

	*rc = 0;
	if (p->n_roots == 0 || p->root[i].text == NULL)
		return NULL;
	if ((r = sal_record_parse(p->root[i].text, p->root[i].len, p->root[i].line)) == NULL)
		*rc = -1;
	free(p->root[i].text);
	p->root[i].text = NULL;
	p->n_roots--;
	/* those behind it that would no longer be found move up */
	for (size_t k = (i + 1) & mask; p->root[k].text; k = (k + 1) & mask)
		if (((k - (p->root[k].hash & mask)) & mask) >= ((k - i) & mask)) {
			p->root[i] = p->root[k];
			p->root[k].text = NULL;
			i = k;
		}
	return r;
}

static int
set_root(struct item *it, const cJSON *j, const char *id)
{
	if ((it->id = strdup(id)) == NULL)
		return sal_err("out of memory");
	return put_field(it, j, "text");
}

/* A message of the flat shape: a root is a prompt once a reply to it is seen. */
static int
read_message(struct sal_prompts *p, struct item *it, const struct sal_record *r)
{
	const char *id = sal_json_str(r->json, "message_id"), *parent;
	uint64_t hash;
	int rc;

	if (id == NULL || sal_json_str(r->json, "text") == NULL)
		return -1;
	if (!field(r->json, "parent_id")) {
		hash = sal_hash(id, strlen(id));
		if (sal_seen_has(p->replied, hash))
			return set_root(it, r->json, id);
		it->verdict = WAITS;
		return root_add(p, r, hash);
	}
	it->verdict = BELOW_ROOT;
	if ((parent = sal_json_str(r->json, "parent_id")) == NULL)
		return -1;
	hash = sal_hash(parent, strlen(parent));
	if ((it->root = root_take(p, hash, &rc)) == NULL) /* replied before, or the parent is no root, or it comes later */
		return rc != 0 || sal_seen_add(p->replied, hash) < 0 ? -1 : 0;
	it->verdict = KEEP;
	p->verdict[BELOW_ROOT]++;
	return set_root(it, it->root->json, parent);
}

/* A whole tree: {"message_tree_id", "prompt": {"message_id", "text", "replies": [...]}} */
static int
read_tree(struct item *it, const cJSON *tree)
{
	const char *id = sal_json_str(tree, "message_id");

	if (id == NULL)
		return -1;
	if (cJSON_GetArraySize(field(tree, "replies")) < 1)
		it->verdict = NO_REPLY;
	return set_root(it, tree, id);
}

static int
extract(struct sal_prompts *p, struct item *it, const struct sal_record *r)
{
	const cJSON *j = r->json;

	it->from = p->cfg->from ? (enum from)p->cfg->from : detect(j);
	switch (it->from) {
	case OASST1: return cJSON_IsObject(field(j, "prompt")) ? read_tree(it, field(j, "prompt")) : read_message(p, it, r);
	case DOLLY: return read_dolly(it, j);
	case SHAREGPT: return read_sharegpt(it, j);
	case OPENORCA: return read_openorca(it, j);
	case MATH: return put_field(it, j, "problem");
	case ALPACA: return read_alpaca(it, j);
	case MESSAGES: return read_messages(it, j);
	case PROMPT: return put_field(it, j, "prompt");
	case AUTO:
	case FROMS: break;
	}
	return sal_err("a record of no known source (see --from)");
}

/* Whether a cap for the first n bytes of c is one for that source: SOURCE= also means each part SOURCE.x. */
static bool
caps(const char *c, size_t n, const char *name)
{
	return strncmp(name, c, n) == 0 && (name[n] == '\0' || name[n] == '.');
}

/* The number of the source of that name; -1: errmsg. */
static int
source_of(struct sal_prompts *p, const char *name)
{
	int i, cap = -1;

	for (i = 0; i < p->n_sources; i++)
		if (strcmp(p->source[i].name, name) == 0)
			return i;
	if (i == MAX_SOURCES)
		return sal_err("source: more than %d of them", MAX_SOURCES);
	struct source *s = realloc(p->source, ((size_t)i + 1) * sizeof *s);
	if (s == NULL)
		return sal_err("out of memory");
	p->source = s;
	/* a later --cap wins */
	for (int k = 0; k < p->cfg->cap.n; k++) {
		const char *c = p->cfg->cap.s[k], *eq = strrchr(c, '=');
		size_t n = eq ? (size_t)(eq - c) : 0;
		if (eq == NULL || caps(c, n, name))
			cap = (int)strtol(eq ? eq + 1 : c, NULL, 10);
	}
	s[i] = (struct source){ .name = strdup(name), .cap = cap };
	if (s[i].name == NULL)
		return sal_err("out of memory");
	return p->n_sources++;
}

static int
choose_source(struct sal_prompts *p, struct item *it, const cJSON *j)
{
	const cJSON *own = field(j, "source");
	char name[MAX_SOURCE_NAME + 1];

	if (cJSON_IsString(own) && strlen(own->valuestring) <= MAX_SOURCE_NAME)
		snprintf(name, sizeof name, "%s", own->valuestring);
	else
		snprintf(name, sizeof name, "%s%s%s", from_name[it->from], it->part ? "." : "", it->part ? it->part : "");
	it->source = source_of(p, name);
	return it->source < 0 ? -1 : 0;
}

static int
prepare(void *ctx, struct sal_group *g)
{
	struct sal_prompts *p = ctx;
	struct item *it = calloc(1, sizeof *it);
	const cJSON *j = g->rec[0]->json;
	int64_t type;
	double bonus;

	g->user = it;
	if (it == NULL)
		return sal_err("out of memory");
	/* first: a bad root must not wait for its reply */
	if (field(j, "id") && !cJSON_IsString(field(j, "id")) && !cJSON_IsNumber(field(j, "id")))
		return sal_err("id: neither a string nor a number");
	if ((field(j, "question_type") && sal_json_int(j, "question_type", 0, INT32_MAX, &type) != 0) ||
	    (field(j, "length_bonus") && sal_json_num(j, "length_bonus", &bonus) != 0))
		return -1;
	if (extract(p, it, g->rec[0]) != 0)
		return -1;
	j = it->root ? it->root->json : j;
	return choose_source(p, it, j);
}

static void
release(void *ctx, struct sal_group *g)
{
	struct item *it = g->user;

	(void)ctx;
	if (it == NULL)
		return;
	sal_record_free(it->root);
	sal_buf_free(&it->text);
	free(it->id);
	free(it);
	g->user = NULL;
}

/* ---- the rules ----------------------------------------------------------- */

/* The text as the cleaning rules leave it. */
static void
clean(struct sal_prompts *p, struct item *it)
{
	const char *s = it->text.data;
	size_t n = it->text.len;
	unsigned cut = sal_clean(&s, &n, p->cfg->compat);

	for (int i = 0; i < SAL_CLEAN_RULES; i++)
		p->cut[i] += cut >> i & 1;
	memmove(it->text.data, s, n);
	it->text.len = n;
	it->text.data[n] = '\0';
}

static int
limits(struct sal_prompts *p, struct item *it)
{
	struct sal_ids ids = { 0 };
	int rc = sal_tokenize_plain(p->tk, it->text.data, it->text.len, &ids), n = ids.n + p->bos;

	p->count->tokens += ids.n;
	it->verdict = n < p->min_tokens ? SHORT : n > p->max_tokens ? LONG : KEEP;
	free(ids.id);
	it->refused = rc != 0;
	return rc;
}

/* The rules of every source, in their order; a text kept before passed the limits then. */
static int
judge(struct sal_prompts *p, struct item *it)
{
	struct sal_signature sig;
	int fresh;

	clean(p, it);
	it->hash = sal_hash(it->text.data, it->text.len);
	if (it->text.len == 0)
		it->verdict = EMPTY;
	else if (sal_seen_has(p->seen, it->hash))
		it->verdict = SAME;
	else if (p->tk && limits(p, it) != 0)
		return -1;
	if (it->verdict == KEEP && p->near) {
		if (sal_near_sign(it->text.data, it->text.len, &sig) != 0 || (fresh = sal_near_add(p->near, &sig)) < 0)
			return -1;
		it->verdict = fresh ? KEEP : NEAR;
	}
	return it->verdict == KEEP && sal_seen_add(p->seen, it->hash) < 0 ? -1 : 0;
}

/* The name of the prompt: the record's own, the data set's, or the hash of the text.  malloc'd; NULL: errmsg. */
static char *
id_of(const struct item *it, const struct sal_record *r)
{
	char hash[17], *id;

	if (field(r->json, "id"))
		return sal_record_id(r);
	snprintf(hash, sizeof hash, "%016llx", (unsigned long long)it->hash);
	if ((id = strdup(it->id ? it->id : hash)) == NULL)
		sal_err("out of memory");
	return id;
}

/* The prompt as a line of r->out. */
static int
emit(const struct sal_prompts *p, const struct item *it, struct sal_record *r, const char *id)
{
	bool own = field(r->json, "question_type") && !p->cfg->question_type;
	double type = own ? field(r->json, "question_type")->valuedouble
	        : p->cfg->question_type ? p->cfg->question_type - 1 : it->from == OPENORCA || it->from == MATH;
	cJSON *o = cJSON_CreateObject();
	int rc = 0;

	if ((!field(r->json, "id") && !cJSON_AddStringToObject(o, "id", id)) || !cJSON_AddStringToObject(o, "prompt", it->text.data) ||
	    !cJSON_AddStringToObject(o, "source", p->source[it->source].name) || (!own && !cJSON_AddNumberToObject(o, "question_type", type)) ||
	    (!field(r->json, "length_bonus") && !cJSON_AddNumberToObject(o, "length_bonus", p->bonus[type >= 0 && type <= 2 ? (int)type : 0])))
		rc = sal_err("out of memory");
	else
		rc = sal_record_emit(r, o, drop[it->from]);
	cJSON_Delete(o);
	return rc;
}

static bool
less(struct place a, struct place b)
{
	return a.draw != b.draw ? a.draw < b.draw : a.number < b.number;
}

/* Keep the place if it is among the smallest of its source: 1; 0: it is not, or it took another's place; -1. */
static int
offer(struct source *s, struct place x)
{
	int i = 0, grew = s->n < s->cap;

	if (grew) {
		if (s->n == s->room) {
			int room = s->room > s->cap / 2 ? s->cap : s->room ? 2 * s->room : 64;
			struct place *h = realloc(s->heap, (size_t)(room < s->n + 1 ? s->n + 1 : room) * sizeof *h);
			if (h == NULL)
				return sal_err("out of memory");
			s->heap = h;
			s->room = room < s->n + 1 ? s->n + 1 : room;
		}
		for (i = s->n++; i > 0 && less(s->heap[(i - 1) / 2], x); i = (i - 1) / 2)
			s->heap[i] = s->heap[(i - 1) / 2];
	} else {
		if (s->n == 0 || !less(x, s->heap[0]))
			return 0;
		for (int k; (k = 2 * i + 1) < s->n; i = k) {
			if (k + 1 < s->n && less(s->heap[k], s->heap[k + 1]))
				k++;
			if (!less(x, s->heap[k]))
				break;
			s->heap[i] = s->heap[k];
		}
	}
	s->heap[i] = x;
	return grew;
}

/* The line of r->out to the temporary file, marked with whether a cap decides about it. */
static int
spool(struct sal_prompts *p, struct item *it, struct sal_record *r, const char *id)
{
	struct source *s = &p->source[it->source];
	struct sal_random draw = sal_random_open(p->cfg->c.seed, "subset", id, 0);
	uint64_t high = sal_random_u32(&draw);
	struct place x = { high << 32 | sal_random_u32(&draw), p->n_spooled };
	int held = s->cap < 0 ? 1 : offer(s, x);

	if (held < 0)
		return -1;
	if (putc(s->cap < 0 ? 'u' : 'c', p->spool) == EOF || fwrite(r->out.data, 1, r->out.len, p->spool) != r->out.len)
		return sal_err("temporary file: %s", strerror(errno));
	p->n_spooled++;
	r->out.len = 0;
	s->kept += held;
	p->verdict[CAP] += !held;
	return 0;
}

static int
settle(struct sal_prompts *p, struct item *it, struct sal_record *r)
{
	struct sal_record *from = it->root ? it->root : r;
	char *id;
	int rc;

	p->source[it->source].records++;
	if (it->verdict == KEEP && judge(p, it) != 0)
		return -1;
	p->verdict[it->verdict]++;
	if (it->verdict != KEEP)
		return 0;
	if ((id = id_of(it, from)) == NULL)
		return -1;
	rc = emit(p, it, from, id);
	if (rc == 0 && p->spool) {
		rc = spool(p, it, from, id);
	} else if (rc == 0) {
		p->source[it->source].kept++;
		if (from != r) { /* the root is written where its first reply stands */
			sal_buf_free(&r->out);
			r->out = from->out;
			from->out = (struct sal_buf){ 0 };
		}
	}
	free(id);
	return rc;
}

static int
run(void *ctx, struct sal_group **g, int n)
{
	int rc = 0;

	for (int i = 0; i < n && rc == 0; i++) {
		struct item *it = g[i]->user;
		rc = settle(ctx, it, g[i]->rec[0]);
		if (it->refused && (g[i]->bad = strdup(sal_errmsg())) != NULL)
			rc = 0;
	}
	return rc;
}

static int
plan(void *ctx, struct sal_buf *out)
{
	const struct sal_prompts *p = ctx;
	const struct sal_prompts_config *c = p->cfg;

	sal_buf_printf(out, "records of %s, cleaned%s\n", c->from ? from_name[c->from] : "any source", c->compat ? " as in the release" : "");
	if (p->tk)
		sal_buf_printf(out, "prompts of %d to %d tokens of %s\n", p->min_tokens, p->max_tokens, c->c.model);
	sal_buf_puts(out, "each text once");
	if (p->near)
		sal_buf_printf(out, ", none as similar as %g to another", c->near);
	sal_buf_puts(out, "\n");
	for (int i = 0; i < c->cap.n; i++)
		sal_buf_printf(out, "cap %s, seed %llu\n", c->cap.s[i], (unsigned long long)c->c.seed);
	return 0;
}

struct sal_filter
sal_prompts_filter(struct sal_prompts *p)
{
	return (struct sal_filter){ .ctx = p, .window = 1, .prepare = prepare, .run = run, .release = release, .plan = plan };
}

/* ---- the end ------------------------------------------------------------- */

static int
by_number(const void *a, const void *b)
{
	long x = *(const long *)a, y = *(const long *)b;

	return x < y ? -1 : x > y;
}

/* The numbers of the lines that caps hold, ascending. */
static long *
numbers_held(const struct sal_prompts *p, size_t *n)
{
	size_t all = 0;
	long *out;

	for (int i = 0; i < p->n_sources; i++)
		all += (size_t)p->source[i].n;
	*n = 0;
	if ((out = malloc((all + 1) * sizeof *out)) == NULL) {
		sal_err("out of memory");
		return NULL;
	}
	for (int i = 0; i < p->n_sources; i++)
		for (int k = 0; k < p->source[i].n; k++)
			out[(*n)++] = p->source[i].heap[k].number;
	qsort(out, *n, sizeof *out, by_number);
	return out;
}

int
sal_prompts_end(struct sal_prompts *p, FILE *out)
{
	size_t n, next = 0, room = 0;
	char *line = NULL;
	ssize_t len = 0;
	long *held;
	int rc = 0;

	if (p->spool == NULL)
		return 0;
	if (fflush(p->spool) != 0 || fseeko(p->spool, 0, SEEK_SET) != 0)
		return sal_err("temporary file: %s", strerror(errno));
	if ((held = numbers_held(p, &n)) == NULL)
		return -1;
	for (long i = 0; rc == 0 && i < p->n_spooled && (len = getline(&line, &room, p->spool)) > 0; i++) {
		if (line[0] == 'c' && (next == n || held[next] != i))
			continue;
		next += line[0] == 'c';
		if (fwrite(line + 1, 1, (size_t)len - 1, out) != (size_t)len - 1)
			rc = sal_err("stdout: %s", strerror(errno));
		p->count->out++;
	}
	if (rc == 0 && len < 0)
		rc = sal_err("temporary file: %s", ferror(p->spool) ? strerror(errno) : "shorter than it was");
	free(line);
	free(held);
	return rc;
}

void
sal_prompts_report(const struct sal_prompts *p, struct sal_buf *b)
{
	sal_buf_puts(b, "   records      kept  source\n");
	for (int i = 0; i < p->n_sources; i++)
		sal_buf_printf(b, "%10ld %9ld  %s\n", p->source[i].records, p->source[i].kept, p->source[i].name);
	for (int i = 0, k; i < p->cfg->cap.n; i++) { /* a name that was mistyped */
		const char *c = p->cfg->cap.s[i], *eq = strrchr(c, '=');
		for (k = 0; eq && k < p->n_sources && !caps(c, (size_t)(eq - c), p->source[k].name); k++)
			;
		if (eq && k == p->n_sources)
			sal_buf_printf(b, "%10d %9d  %.*s, which has a cap\n", 0, 0, (int)(eq - c), c);
	}
	sal_buf_puts(b, "   dropped   cleaned  rule, in the order of the rules\n");
	for (int i = KEEP + 1; i < VERDICTS; i++) {
		if (i == EMPTY)
			for (int k = 0; k < SAL_CLEAN_RULES; k++)
				sal_buf_printf(b, "           %9ld  %s\n", p->cut[k], sal_clean_name[k]);
		if (i != WAITS)
			sal_buf_printf(b, "%10ld            %s\n", p->verdict[i] + (i == NO_REPLY ? (long)p->n_roots : 0), verdict_name[i]);
	}
}
