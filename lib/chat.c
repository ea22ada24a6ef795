/* SPDX-License-Identifier: Apache-2.0 */
/*
 * chat.c - turns written in a chat format.
 *
 * A conversation becomes one text, in which the spans of contents are plain, and is tokenized once.
 */
#include "lib/chat.h"

#include "lib/jsonl.h"

#include <stdlib.h>
#include <string.h>

enum format { DROMEDARY, CHATML, LLAMA2, LLAMA3, MISTRAL, ZEPHYR, RAW };
static const char *const names[] = { "dromedary", "chatml", "llama2", "llama3", "mistral", "zephyr", "none" };

#define USER "\n\n### User" /* how dromedary's turns end */

struct sal_chat {
	enum format format;
	char *system; /* chatml: the turn that the template adds by itself; dromedary: the text before the turns; or NULL */
	bool spells_bos;
	struct sal_buf bos, eos; /* as text */
};

/* ---- a model's template ------------------------------------------------------ */

/* The template's own system turn: the literal between <|im_start|>system\n and <|im_end|>.  NULL and *failed unset: it has none. */
static char *
default_system(const char *t, bool *failed)
{
	static const char open[] = "<|im_start|>system";

	for (const char *p = strstr(t, open); p; p = strstr(p + 1, open)) {
		char quote = p > t && (p[-1] == '\'' || p[-1] == '"') ? p[-1] : 0;
		const char *s = p + sizeof open - 1;
		struct sal_buf b = { 0 };
		if (*s == '\n')
			s++;
		else if (s[0] == '\\' && s[1] == 'n')
			s += 2;
		else
			continue;
		for (; *s && *s != quote && strncmp(s, "<|im_end|>", 10) != 0 && strncmp(s, "{{", 2) != 0 && strncmp(s, "{%", 2) != 0; s++) {
			char c = *s;
			if (quote && c == '\\' && s[1]) {
				s++;
				c = *s == 'n' ? '\n' : *s == 't' ? '\t' : *s == 'r' ? '\r' : *s;
			}
			sal_buf_put(&b, &c, 1);
		}
		if (b.failed) {
			sal_buf_free(&b);
			*failed = true;
			sal_err("out of memory");
			return NULL;
		}
		if (b.len && strncmp(s, "<|im_end|>", 10) == 0)
			return b.data;
		sal_buf_free(&b);
	}
	return NULL;
}

static int
recognise(const char *t, enum format *f)
{
	if (!t)
		*f = RAW;
	else if (strstr(t, "<|im_start|>"))
		*f = CHATML;
	else if (strstr(t, "<|start_header_id|>"))
		*f = LLAMA3;
	else if (strstr(t, "[INST]"))
		*f = strstr(t, "<<SYS>>") ? LLAMA2 : MISTRAL;
	else if (strstr(t, "<|user|>") && (strstr(t, "</s>") || strstr(t, "eos_token")))
		*f = ZEPHYR;
	else
		return sal_err("the model's chat template is none of those known: give --format (dromedary, chatml, llama2, llama3, mistral, "
		               "zephyr or none)");
	return 0;
}

static int
spell(const struct sal_tokenizer *tk, int32_t id, struct sal_buf *out)
{
	return id < 0 ? 0 : sal_detokenize(tk, &id, 1, out);
}

struct sal_chat *
sal_chat_open(const char *name, const struct sal_tokenizer *tk, const char *inference)
{
	const char *t = sal_tokenizer_chat_template(tk);
	struct sal_chat *c = calloc(1, sizeof *c);
	enum format own = RAW;
	const int32_t *eos;
	int n_eos = sal_tokenizer_eos(tk, &eos);
	bool failed = false, same = t != NULL;

	if (!c) {
		sal_err("out of memory");
		return NULL;
	}
	if (!name) {
		if (recognise(t, &own) != 0)
			goto fail;
		c->format = own;
	} else {
		int i = 0;
		while (i <= RAW && strcmp(names[i], name) != 0)
			i++;
		if (i > RAW) {
			sal_err("--format %s: none of dromedary, chatml, llama2, llama3, mistral, zephyr, none", name);
			goto fail;
		}
		c->format = (enum format)i;
		same = t && recognise(t, &own) == 0 && own == c->format;
	}
	c->spells_bos = same ? strstr(t, "bos_token") != NULL || strstr(t, "<|begin_of_text|>") != NULL
	                     : c->format == LLAMA2 || c->format == LLAMA3 || c->format == MISTRAL;
	if (c->format == CHATML && same)
		c->system = default_system(t, &failed);
	if (c->format == DROMEDARY) {
		size_t n;
		c->system = strdup(inference ? inference : "# Dromedary\n\n## User Conversation\n\n### User");
		if (!c->system) {
			sal_err("out of memory");
			goto fail;
		}
		n = strlen(c->system); /* the turns write their own headers */
		while (n && strchr(" \n\r\t", c->system[n - 1]))
			n--;
		if (n >= 8 && memcmp(c->system + n - 8, "### User", 8) == 0)
			n -= 8;
		while (n && strchr(" \n\r\t", c->system[n - 1]))
			n--;
		c->system[n] = 0;
	}
	if (failed || spell(tk, sal_tokenizer_bos(tk), &c->bos) != 0 || spell(tk, n_eos ? eos[0] : -1, &c->eos) != 0)
		goto fail;
	return c;
fail:
	sal_chat_close(c);
	return NULL;
}

void
sal_chat_close(struct sal_chat *c)
{
	if (!c)
		return;
	free(c->system);
	sal_buf_free(&c->bos);
	sal_buf_free(&c->eos);
	free(c);
}

const char *
sal_chat_name(const struct sal_chat *c)
{
	return names[c->format];
}

const char *
sal_chat_stop(const struct sal_chat *c)
{
	return c->format == DROMEDARY ? USER : NULL;
}

/* s without white space at its ends; *end moves. */
static const char *
strip(const char *s, const char **end)
{
	while (s < *end && strchr(" \n\r\t\v\f", *s))
		s++;
	while (*end > s && strchr(" \n\r\t\v\f", (*end)[-1]))
		(*end)--;
	return s;
}

struct sal_ending
sal_chat_ending(const char *text)
{
	static const char *const mark[] = { "<s>", "</s>", "\nUpdate", "\nNote", "\nComment", USER }, *const hidden[] = { "<s>", "</s>", "###", "<|endoftext|>" };
	struct sal_ending e = { 0 };
	const char *end = text + strlen(text), *p = strstr(text, "###"), *s;

	e.ended = p != NULL;
	for (size_t i = 0; i < sizeof mark / sizeof *mark; i++) {
		const char *m = strstr(text, mark[i]);
		e.ended = e.ended || m;
		if (m && m + strlen(mark[i]) < end)
			end = m + strlen(mark[i]);
	}
	if (p && p < end) { /* of a heading the first word stays */
		const char *next = strstr(p + 3, "###"), *last = next && next < end ? next : end;
		int spaces = 0;
		for (p += 3; p < last && (spaces += *p == ' ') < 2; p++)
			;
		end = p < end ? p : end;
	}
	e.keep = (size_t)(end - text);
	s = strip(text, &end);
	p = strstr(s, USER);
	e.stop = p && p + strlen(USER) <= end;
	for (size_t i = 0; i < sizeof hidden / sizeof *hidden; i++)
		if ((p = strstr(s, hidden[i])) != NULL && p < end)
			end = p;
	s = strip(s, &end);
	e.at = (size_t)(s - text);
	e.n = (size_t)(end - s);
	return e;
}

/* ---- writing turns ------------------------------------------------------------ */

struct writer {
	struct sal_buf b;
	struct sal_span *plain;
	int n;
};

static void
content(struct writer *w, const char *s, bool trim)
{
	size_t n = strlen(s), start = w->b.len;

	if (trim) {
		while (n && strchr(" \n\r\t\v\f", s[n - 1]))
			n--;
		while (n && strchr(" \n\r\t\v\f", *s)) {
			s++;
			n--;
		}
	}
	sal_buf_put(&w->b, s, n);
	if (n)
		w->plain[w->n++] = (struct sal_span){ start, w->b.len };
}

static void
wrap(struct writer *w, const char *before, const char *text, const char *after, bool trim)
{
	sal_buf_puts(&w->b, before);
	content(w, text, trim);
	sal_buf_puts(&w->b, after);
}

static const char *
eos_text(const struct sal_chat *c)
{
	return c->eos.data && c->eos.len ? c->eos.data : "</s>";
}

static void
write_dromedary(const struct sal_chat *c, struct writer *w, const struct sal_turn *t, int n, bool generate)
{
	if (n && strcmp(t->role, "system") == 0) {
		content(w, t->content, true);
		t++;
		n--;
	} else {
		sal_buf_puts(&w->b, c->system);
	}
	for (int i = 0; i < n; i++)
		wrap(w, strcmp(t[i].role, "user") == 0 ? "\n\n### User\n" : "\n\n### Dromedary\n", t[i].content, "", false);
	if (generate)
		sal_buf_puts(&w->b, "\n\n### Dromedary\n");
}

static void
write_marked(const struct sal_chat *c, struct writer *w, const struct sal_turn *t, int n, bool generate)
{
	static const struct { const char *open, *sep, *close; } marks[] = {
		[CHATML] = { "<|im_start|>", "\n", "<|im_end|>\n" },
		[LLAMA3] = { "<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>" },
		[ZEPHYR] = { "<|", "|>\n", NULL },
	};
	const char *open = marks[c->format].open, *sep = marks[c->format].sep, *close = marks[c->format].close;

	if (c->format == CHATML && c->system && !(n && strcmp(t->role, "system") == 0)) {
		sal_buf_puts(&w->b, "<|im_start|>system\n");
		sal_buf_puts(&w->b, c->system);
		sal_buf_puts(&w->b, close);
	}
	for (int i = 0; i < n; i++) {
		sal_buf_puts(&w->b, open);
		sal_buf_puts(&w->b, t[i].role);
		wrap(w, sep, t[i].content, close ? close : eos_text(c), c->format == LLAMA3);
		if (!close)
			sal_buf_puts(&w->b, "\n");
	}
	if (generate) {
		sal_buf_puts(&w->b, open);
		sal_buf_puts(&w->b, "assistant");
		sal_buf_puts(&w->b, sep);
	}
}

static void
write_inst(const struct sal_chat *c, struct writer *w, const struct sal_turn *t, int n)
{
	const char *bos = c->spells_bos && c->bos.data ? c->bos.data : "";
	const char *system = n && strcmp(t->role, "system") == 0 ? t->content : NULL;
	bool llama = c->format == LLAMA2;

	if (!llama)
		sal_buf_puts(&w->b, bos);
	for (int i = system != NULL; i < n; i++) {
		if (strcmp(t[i].role, "user") == 0) {
			if (llama)
				sal_buf_puts(&w->b, bos);
			sal_buf_puts(&w->b, "[INST] ");
			if (system && llama)
				wrap(w, "<<SYS>>\n", system, "\n<</SYS>>\n\n", false);
			else if (system)
				wrap(w, "", system, "\n\n", false);
			system = NULL;
			wrap(w, "", t[i].content, " [/INST]", llama);
		} else {
			wrap(w, " ", t[i].content, llama ? " " : "", llama);
			sal_buf_puts(&w->b, eos_text(c));
		}
	}
}

static int
check_turns(const struct sal_chat *c, const struct sal_turn *t, int n)
{
	bool pairs = c->format == LLAMA2 || c->format == MISTRAL;
	int first = n && strcmp(t->role, "system") == 0;

	if (n < 1)
		return sal_err("a conversation without turns");
	if (c->format == RAW)
		return n == 1 && strcmp(t->role, "user") == 0 ? 0 : sal_err("format none takes one user turn: give --format");
	for (int i = first; i < n; i++) {
		bool user = strcmp(t[i].role, "user") == 0;
		if (!user && strcmp(t[i].role, "assistant") != 0)
			return sal_err("turn %d: role \"%.40s\" is not user or assistant (system: first turn only)", i + 1, t[i].role);
		if (pairs && user != ((i - first) % 2 == 0))
			return sal_err("format %s takes user and assistant turns by turns", names[c->format]);
	}
	return pairs && n == first ? sal_err("format %s takes a system turn with a user turn only", names[c->format]) : 0;
}

int
sal_chat_encode(const struct sal_chat *c, const struct sal_tokenizer *tk, const struct sal_turn *turn, int n, bool generate, struct sal_ids *out)
{
	struct writer w = { 0 };
	int rc = -1, bos = sal_tokenizer_bos(tk);
	bool spelled = c->spells_bos && c->bos.len > 0;

	if (check_turns(c, turn, n) != 0)
		return -1;
	if ((w.plain = malloc((size_t)n * sizeof *w.plain)) == NULL)
		return sal_err("out of memory");
	if (c->format == RAW) {
		content(&w, turn->content, false);
		spelled = false;
	} else if (c->format == DROMEDARY) {
		spelled = false;
		write_dromedary(c, &w, turn, n, generate);
	} else if (c->format == LLAMA2 || c->format == MISTRAL) {
		write_inst(c, &w, turn, n);
	} else {
		if (spelled)
			sal_buf_puts(&w.b, c->bos.data);
		write_marked(c, &w, turn, n, generate);
	}
	if (w.b.failed)
		sal_err("out of memory");
	else if (!spelled && bos >= 0 && sal_tokenizer_adds_bos(tk) && sal_ids_push(out, bos) != 0)
		sal_err("out of memory");
	else
		rc = sal_tokenize(tk, w.b.data ? w.b.data : "", w.b.len, w.plain, w.n, out);
	sal_buf_free(&w.b);
	free(w.plain);
	return rc;
}

/* ---- records ------------------------------------------------------------------ */

/* instruction, with input after a blank line; malloc'd. */
static char *
instruction(const cJSON *rec)
{
	const char *s = sal_json_str(rec, "instruction"), *in = "";
	struct sal_buf b = { 0 };

	if (!s || (sal_json_has(rec, "input") && (in = sal_json_str(rec, "input")) == NULL))
		return NULL;
	sal_buf_puts(&b, s);
	if (*in) {
		sal_buf_puts(&b, "\n\n");
		sal_buf_puts(&b, in);
	}
	if (!b.failed && !b.data)
		sal_buf_put(&b, "", 0);
	if (b.failed || !b.data) {
		sal_buf_free(&b);
		sal_err("out of memory");
		return NULL;
	}
	return b.data;
}

/* The list of messages of a record; NULL: it has none. */
static const cJSON *
messages(const cJSON *rec)
{
	const cJSON *m = cJSON_GetObjectItemCaseSensitive(rec, "messages");
	if (m && !cJSON_IsNull(m))
		return m;
	m = cJSON_GetObjectItemCaseSensitive(rec, "prompt");
	return cJSON_IsArray(m) ? m : NULL;
}

/* Turns of messages into t[1..]; t[0] is left for a system turn. *n: how many. */
static struct sal_turn *
turns_of(const cJSON *m, int *n)
{
	const cJSON *x;

	if (!cJSON_IsArray(m) || cJSON_GetArraySize(m) == 0) {
		sal_err("\"messages\" is not an array of turns");
		return NULL;
	}
	struct sal_turn *t = malloc(((size_t)cJSON_GetArraySize(m) + 1) * sizeof *t);
	if (!t) {
		sal_err("out of memory");
		return NULL;
	}
	*n = 0;
	cJSON_ArrayForEach(x, m) {
		struct sal_turn *y = &t[++*n];
		if (!cJSON_IsObject(x)) {
			sal_err("turn %d is not an object with role and content", *n);
			free(t);
			return NULL;
		}
		if ((y->role = sal_json_str(x, "role")) == NULL || (y->content = sal_json_str(x, "content")) == NULL) {
			free(t);
			return NULL;
		}
	}
	return t;
}

int
sal_chat_encode_record(const struct sal_chat *c, const struct sal_tokenizer *tk, const cJSON *rec, const char *system, struct sal_ids *out)
{
	struct sal_turn two[2], *t = two, *first;
	const cJSON *m = messages(rec);
	char *text = NULL;
	int n = 1, rc = -1;

	if (sal_json_has(rec, "prompt_tokens")) {
		if (!system)
			return sal_json_ids(rec, "prompt_tokens", sal_tokenizer_vocab(tk), out);
		if (!m && !sal_json_has(rec, "prompt") && !sal_json_has(rec, "instruction"))
			return sal_err("\"prompt_tokens\" take no system turn, and the record has no text of its prompt");
	}
	if (m) {
		if ((t = turns_of(m, &n)) == NULL)
			return -1;
		if (strcmp(t[n].role, "assistant") == 0) {
			sal_err("the last turn is the assistant's: nothing is asked");
			goto out;
		}
	} else {
		if (sal_json_has(rec, "prompt"))
			two[1].content = sal_json_str(rec, "prompt");
		else if (sal_json_has(rec, "instruction"))
			two[1].content = text = instruction(rec);
		else
			return sal_err("none of \"prompt_tokens\", \"messages\", \"prompt\", \"instruction\"");
		if (!two[1].content)
			return -1;
		two[1].role = "user";
	}
	first = t + 1;
	if (system) {
		if (strcmp(first->role, "system") == 0) {
			first->content = system;
		} else {
			*--first = (struct sal_turn){ "system", system };
			n++;
		}
	}
	rc = sal_chat_encode(c, tk, first, n, true, out);
out:
	if (t != two)
		free(t);
	free(text);
	return rc;
}

char *
sal_chat_instruction(const cJSON *rec)
{
	const cJSON *m = messages(rec);
	const char *s = NULL;
	struct sal_turn *t;
	int n;

	if (m) {
		if ((t = turns_of(m, &n)) == NULL)
			return NULL;
		for (int i = n; i >= 1 && !s; i--)
			if (strcmp(t[i].role, "user") == 0)
				s = t[i].content;
		free(t);
		if (!s)
			sal_err("the conversation has no user turn");
	} else if (sal_json_has(rec, "prompt")) {
		s = sal_json_str(rec, "prompt");
	} else if (sal_json_has(rec, "instruction")) {
		return instruction(rec);
	} else {
		sal_err("none of \"prompt\", \"messages\", \"instruction\"");
	}
	char *copy = s ? strdup(s) : NULL;
	if (s && !copy)
		sal_err("out of memory");
	return copy;
}
