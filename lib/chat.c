/* SPDX-License-Identifier: Apache-2.0 */
/* chat.c - turns to one text with its contents marked plain, tokenized in one go. */
#include "lib/chat.h"
#include "lib/jsonl.h"
#include <stdlib.h>
#include <string.h>

enum { NONE, CHATML, LLAMA2, LLAMA3, MISTRAL, ZEPHYR, DROMEDARY, N_FORMATS };
static const char *const names[N_FORMATS] = { "none", "chatml", "llama2", "llama3", "mistral", "zephyr", "dromedary" };

struct sal_chat {
	int format;
	char *system; /* the turn that the format adds by itself, or NULL */
	char *header; /* dromedary: text before the first user turn */
};

/* The literal after "<|im_start|>system" and a line break in a template, up to the quote or marker that ends it. */
static char *
default_system(const char *t)
{
	const char *p = strstr(t, "<|im_start|>system"), *end;

	for (; p; p = strstr(p + 1, "<|im_start|>system")) {
		const char *s = p + 18;
		s += strncmp(s, "\\n", 2) == 0 ? 2 : *s == '\n' ? 1 : 0;
		end = strstr(s, "<|im_end|>");
		if (end && end > s && memchr(s, '\'', (size_t)(end - s)) == NULL && memchr(s, '{', (size_t)(end - s)) == NULL)
			return strndup(s, (size_t)(end - s));
	}
	return NULL;
}

static int
recognise(const char *t)
{
	if (strstr(t, "<|im_start|>"))
		return CHATML;
	if (strstr(t, "<|start_header_id|>"))
		return LLAMA3;
	if (strstr(t, "[INST]"))
		return strstr(t, "<<SYS>>") ? LLAMA2 : MISTRAL;
	if (strstr(t, "<|user|>"))
		return ZEPHYR;
	return -1;
}

struct sal_chat *
sal_chat_open(const char *name, const struct sal_tokenizer *tk, const char *inference)
{
	const char *t = sal_tokenizer_chat_template(tk);
	struct sal_chat *c = calloc(1, sizeof *c);

	if (c == NULL) {
		sal_err("out of memory");
		return NULL;
	}
	if (name == NULL)
		c->format = t ? recognise(t) : NONE;
	else
		for (c->format = N_FORMATS - 1; c->format >= 0 && strcmp(names[c->format], name) != 0;)
			c->format--;
	if (c->format < 0) {
		if (name)
			sal_err("format '%s' is not one of none, chatml, llama2, llama3, mistral, zephyr, dromedary", name);
		else
			sal_err("the model's chat template is not known: give --format");
		free(c);
		return NULL;
	}
	if (c->format == CHATML && t)
		c->system = default_system(t);
	if (c->format == DROMEDARY) {
		size_t n = inference ? strlen(inference) : 0;
		n -= n >= 8 && strcmp(inference + n - 8, "### User") == 0 ? 8 : 0;
		c->header = inference ? strndup(inference, n) : strdup("# Dromedary\n\n## User Conversation\n\n");
	}
	return c;
}

void
sal_chat_close(struct sal_chat *c)
{
	if (c == NULL)
		return;
	free(c->system);
	free(c->header);
	free(c);
}

const char *sal_chat_name(const struct sal_chat *c) { return names[c->format]; }
const char *sal_chat_stop(const struct sal_chat *c) { return c->format == DROMEDARY ? "\n\n### User" : NULL; }

struct marked { /* text with its contents marked */
	struct sal_buf b;
	struct sal_span *span;
	int n, cap;
};

static void
content(struct marked *m, const char *s)
{
	if (m->n == m->cap) {
		int cap = m->cap ? 2 * m->cap : 8;
		struct sal_span *p = realloc(m->span, (size_t)cap * sizeof *p);
		if (p == NULL) {
			m->b.failed = true;
			return;
		}
		m->span = p;
		m->cap = cap;
	}
	size_t at = m->b.len;
	sal_buf_puts(&m->b, s);
	m->span[m->n++] = (struct sal_span){ at, m->b.len };
}

int
sal_chat_encode(const struct sal_chat *c, const struct sal_tokenizer *tk, const struct sal_turn *turn, int n, bool generate, struct sal_ids *out)
{
	struct marked m = { 0 };
	struct sal_buf *b = &m.b;
	int bos = sal_tokenizer_bos(tk), rc = 0;
	const char *system = c->system;

	for (int i = 0; i < n; i++)
		if (strcmp(turn[i].role, "system") == 0)
			system = i == 0 ? turn[i].content : system;
	bool given = n > 0 && strcmp(turn[0].role, "system") == 0;
	if (c->format == NONE) {
		if (n != 1 || strcmp(turn[0].role, "user") != 0)
			return sal_err("format 'none' takes one user turn; this conversation has %d", n);
		content(&m, turn[0].content);
	}
	if (c->format == DROMEDARY)
		sal_buf_puts(b, c->header);
	if (c->format == CHATML && system && !given) {
		sal_buf_puts(b, "<|im_start|>system\n");
		content(&m, system);
		sal_buf_puts(b, "<|im_end|>\n");
	}
	for (int i = 0; i < n && c->format != NONE; i++) {
		bool user = strcmp(turn[i].role, "user") == 0, sys = strcmp(turn[i].role, "system") == 0;
		switch (c->format) {
		case CHATML:
			sal_buf_printf(b, "<|im_start|>%s\n", turn[i].role);
			content(&m, turn[i].content);
			sal_buf_puts(b, "<|im_end|>\n");
			break;
		case LLAMA3:
			sal_buf_printf(b, "<|start_header_id|>%s<|end_header_id|>\n\n", turn[i].role);
			content(&m, turn[i].content);
			sal_buf_puts(b, "<|eot_id|>");
			break;
		case ZEPHYR:
			sal_buf_printf(b, "<|%s|>\n", turn[i].role);
			content(&m, turn[i].content);
			sal_buf_puts(b, "</s>\n");
			break;
		case DROMEDARY:
			if (sys)
				content(&m, turn[i].content);
			else {
				sal_buf_puts(b, user ? "### User\n" : "### Dromedary\n");
				content(&m, turn[i].content);
			}
			sal_buf_puts(b, "\n\n");
			break;
		default: /* llama2, mistral: the system turn goes into the first user turn */
			if (sys)
				break;
			sal_buf_puts(b, user ? "[INST] " : " ");
			if (user && given && i == 1) {
				sal_buf_puts(b, c->format == LLAMA2 ? "<<SYS>>\n" : "");
				content(&m, turn[0].content);
				sal_buf_puts(b, c->format == LLAMA2 ? "\n<</SYS>>\n\n" : "\n\n");
			}
			content(&m, turn[i].content);
			sal_buf_puts(b, user ? " [/INST]" : " </s>");
		}
	}
	if (generate && c->format != NONE)
		sal_buf_puts(b, c->format == CHATML ? "<|im_start|>assistant\n" : c->format == LLAMA3 ? "<|start_header_id|>assistant<|end_header_id|>\n\n" :
		    c->format == ZEPHYR ? "<|assistant|>\n" : c->format == DROMEDARY ? "### Dromedary\n" : "");
	bool add = bos >= 0 && (sal_tokenizer_adds_bos(tk) || c->format == LLAMA2 || c->format == LLAMA3 || c->format == MISTRAL);
	if (b->failed || (add && sal_ids_push(out, bos) != 0))
		rc = sal_err("out of memory");
	else
		rc = sal_tokenize(tk, b->data ? b->data : "", b->len, m.span, m.n, out);
	free(m.span);
	sal_buf_free(b);
	return rc;
}

static int
turns_of(const cJSON *list, struct sal_turn *turn, int cap, int *n)
{
	const cJSON *e;

	cJSON_ArrayForEach(e, list)
	{
		if (*n == cap)
			return sal_err("more than %d messages", cap);
		if ((turn[*n].role = sal_json_str(e, "role")) == NULL || (turn[*n].content = sal_json_str(e, "content")) == NULL)
			return -1;
		if (strcmp(turn[*n].role, "system") != 0 && strcmp(turn[*n].role, "user") != 0 && strcmp(turn[*n].role, "assistant") != 0)
			return sal_err("role '%s' is not system, user or assistant", turn[*n].role);
		(*n)++;
	}
	return *n ? 0 : sal_err("no messages");
}

int
sal_chat_encode_record(const struct sal_chat *c, const struct sal_tokenizer *tk, const cJSON *rec, const char *system, struct sal_ids *out)
{
	const cJSON *p = cJSON_GetObjectItemCaseSensitive(rec, "prompt"), *m = cJSON_GetObjectItemCaseSensitive(rec, "messages");
	struct sal_turn turn[257];
	char *ask = NULL;
	int n = 1, rc = 0;

	if (sal_json_has(rec, "prompt_tokens") && !p && !m && !sal_json_has(rec, "instruction"))
		return sal_json_ids(rec, "prompt_tokens", sal_tokenizer_vocab(tk), out);
	if (m || cJSON_IsArray(p)) {
		if (m && !cJSON_IsArray(m))
			return sal_err("\"messages\" is not a list");
		rc = turns_of(m ? m : p, turn + 1, 256, (n = 0, &n));
		n++;
	} else if ((ask = sal_chat_instruction(rec)) == NULL)
		return -1;
	else {
		turn[1] = (struct sal_turn){ "user", ask };
		n = 2;
	}
	if (rc == 0) {
		struct sal_turn *first = turn + 1;
		if (system && c->format != NONE) {
			if (strcmp(turn[1].role, "system") == 0)
				turn[1].content = system;
			else {
				turn[0] = (struct sal_turn){ "system", system };
				first = turn;
			}
		}
		rc = sal_chat_encode(c, tk, first, n - (int)(first - turn), true, out);
	}
	free(ask);
	return rc;
}

char *
sal_chat_instruction(const cJSON *rec)
{
	const cJSON *p = cJSON_GetObjectItemCaseSensitive(rec, "prompt"), *m = cJSON_GetObjectItemCaseSensitive(rec, "messages"), *e, *last = NULL;
	const char *s, *in;
	struct sal_buf b = { 0 };

	if (sal_json_has(rec, "instruction") && !p && !m) {
		if ((s = sal_json_str(rec, "instruction")) == NULL)
			return NULL;
		in = sal_json_has(rec, "input") ? sal_json_str(rec, "input") : "";
		if (in == NULL)
			return NULL;
		sal_buf_printf(&b, "%s%s%s", s, *in ? "\n\n" : "", in);
	} else if (m || cJSON_IsArray(p)) {
		cJSON_ArrayForEach(e, m ? m : p)
		{
			const cJSON *r = cJSON_GetObjectItemCaseSensitive(e, "role");
			if (cJSON_IsString(r) && strcmp(r->valuestring, "user") == 0)
				last = e;
		}
		if (last == NULL) {
			sal_err("no user message");
			return NULL;
		}
		if ((s = sal_json_str(last, "content")) == NULL)
			return NULL;
		sal_buf_puts(&b, s);
	} else {
		if ((s = sal_json_str(rec, "prompt")) == NULL)
			return NULL;
		sal_buf_puts(&b, s);
	}
	if (b.failed)
		sal_err("out of memory");
	return b.data;
}
