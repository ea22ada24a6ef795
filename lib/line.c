/* SPDX-License-Identifier: Apache-2.0 */
/* line.c - libedit on a terminal, getline in a pipe. */
#include "lib/line.h"
#include "lib/util.h"
#include <errno.h>
#include <histedit.h>
#include <langinfo.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#define KEPT 1000 /* lines that can be called back */

struct sal_line {
	const char *prompt;
	EditLine *el; /* NULL: no terminal */
	History *history;
	char *text; /* the line, ours */
	size_t cap;
	long number;
};

static char *
prompt(EditLine *el)
{
	struct sal_line *l = NULL;

	el_get(el, EL_CLIENTDATA, &l);
	return (char *)l->prompt; /* libedit only reads it */
}

static int
edit(struct sal_line *l, const char *program, bool prompt_on_stdout)
{
	HistEvent event;

	/* libedit edits characters: those of UTF-8, whatever the locale says */
	if (setlocale(LC_CTYPE, "") == NULL || strcmp(nl_langinfo(CODESET), "UTF-8") != 0)
		setlocale(LC_CTYPE, "C.UTF-8");
	if ((l->history = history_init()) == NULL || (l->el = el_init(program, stdin, prompt_on_stdout ? stdout : stderr, stderr)) == NULL)
		return sal_err("the terminal cannot be edited on");
	history(l->history, &event, H_SETSIZE, KEPT);
	history(l->history, &event, H_SETUNIQUE, 1);
	el_set(l->el, EL_CLIENTDATA, l);
	el_set(l->el, EL_PROMPT, prompt);
	el_set(l->el, EL_EDITOR, "emacs");
	el_set(l->el, EL_HIST, history, l->history);
	el_set(l->el, EL_SIGNAL, 1);
	el_source(l->el, NULL);
	return 0;
}

struct sal_line *
sal_line_open(const char *program, const char *text, bool prompt_on_stdout)
{
	struct sal_line *l = calloc(1, sizeof *l);

	if (l == NULL) {
		sal_err("out of memory");
		return NULL;
	}
	l->prompt = text;
	if (isatty(STDIN_FILENO) && edit(l, program, prompt_on_stdout) != 0) {
		sal_line_close(l);
		return NULL;
	}
	return l;
}

void
sal_line_close(struct sal_line *l)
{
	if (l == NULL)
		return;
	if (l->el)
		el_end(l->el);
	if (l->history)
		history_end(l->history);
	free(l->text);
	free(l);
}

bool
sal_line_terminal(const struct sal_line *l)
{
	return l->el != NULL;
}

long
sal_line_number(const struct sal_line *l)
{
	return l->number;
}

/* What the person typed, as a copy that l owns. */
static int
edited(struct sal_line *l)
{
	HistEvent event;
	int n = 0;

	errno = 0;
	const char *s = el_gets(l->el, &n);
	if (s == NULL || n <= 0) {
		if (errno != EINTR)
			return 0;
		el_reset(l->el);
		return 2;
	}
	free(l->text);
	if ((l->text = strdup(s)) == NULL)
		return sal_err("out of memory");
	if (l->text[strspn(l->text, " \t\n")])
		history(l->history, &event, H_ENTER, l->text);
	return 1;
}

static int
piped(struct sal_line *l)
{
	errno = 0;
	ssize_t n = getline(&l->text, &l->cap, stdin);

	if (n < 0)
		return ferror(stdin) || errno ? sal_err("stdin: %s", strerror(errno ? errno : EIO)) : 0;
	if (memchr(l->text, '\0', (size_t)n)) {
		l->number++;
		return sal_err("stdin:%ld: a NUL in the line", l->number);
	}
	return 1;
}

int
sal_line_next(struct sal_line *l, const char **text)
{
	int rc = l->el ? edited(l) : piped(l);

	if (rc != 1)
		return rc;
	l->number++;
	l->text[strcspn(l->text, "\r\n")] = '\0';
	*text = l->text;
	return 1;
}
