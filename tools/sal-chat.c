/* SPDX-License-Identifier: Apache-2.0 */
/* sal-chat - talk to a model with an adapter, in a terminal or a pipe.  See sal-chat(1). */
#include "lib/filter.h"
#include "lib/line.h"
#include "lib/talk.h"
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct chat {
	struct sal_talk_config g;
	struct sal_talk *talk;
	struct sal_line *line;
	bool stream; /* stdout is a terminal: tokens as they come */
	bool over;
};

static volatile sig_atomic_t interrupts;

static void
on_interrupt(int signo)
{
	(void)signo;
	interrupts = 1;
}

static bool
interrupted(void)
{
	return interrupts != 0;
}

/* On a terminal Ctrl-C ends an answer or a line, in a pipe the program. */
static void
catch_interrupts(void)
{
	struct sigaction a = { .sa_handler = on_interrupt };

	sigemptyset(&a.sa_mask);
	sigaction(SIGINT, &a, NULL);
}

/* Part of an answer on a terminal, on which no model may move the cursor: control characters but line breaks and tabs become '?'. */
static void
say(void *ctx, const char *text, size_t n)
{
	(void)ctx;
	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)text[i];
		if (c == 0xc2 && i + 1 < n && (unsigned char)text[i + 1] < 0xa0) { /* U+0080 to U+009F */
			putchar('?');
			i++;
		} else {
			putchar((c < 0x20 && c != '\n' && c != '\t') || c == 0x7f ? '?' : c);
		}
	}
	fflush(stdout);
}

/* Which folder of a run is which is easily mistaken, and the model answers with any. */
static void
look_at_adapter(const struct chat *c)
{
	if (!c->g.c.quiet && sal_talk_state(c->talk).scores)
		sal_warn("the adapter has a head: it was trained to score answers, not to give them");
}

/* ---- commands: 0, or -1 with errmsg ------------------------------------------- */

struct command {
	const char *name, *arg, *help;
	int (*run)(struct chat *c, char *arg); /* arg: "" for none; NULL: the list itself */
};
static int
run_reset(struct chat *c, char *arg)
{
	(void)arg;
	sal_talk_reset(c->talk);
	return 0;
}

static int
run_undo(struct chat *c, char *arg)
{
	(void)arg;
	return sal_talk_undo(c->talk) ? 0 : sal_err("/undo: nothing was said");
}

static int
run_save(struct chat *c, char *arg)
{
	return *arg ? sal_talk_save(c->talk, arg) : sal_err("/save: a file is wanted");
}

static int
run_adapter(struct chat *c, char *arg)
{
	if (sal_talk_adapter(c->talk, *arg ? arg : NULL) != 0)
		return -1;
	look_at_adapter(c);
	return 0;
}

static int
run_quit(struct chat *c, char *arg)
{
	(void)arg;
	c->over = true;
	return 0;
}

static int
run_params(struct chat *c, char *arg)
{
	struct sal_buf b = { 0 };
	char *value = arg + strcspn(arg, " =");

	if (*arg) {
		if (*value)
			*value++ = '\0';
		return sal_talk_set(&c->g, arg, value);
	}
	sal_talk_describe(c->talk, &b);
	if (b.failed)
		return sal_err("out of memory");
	for (char *p = b.data, *end; (end = strchr(p, '\n')) != NULL; p = end + 1)
		fprintf(stderr, "  %.*s\n", (int)(end - p), p);
	sal_buf_free(&b);
	return 0;
}

static const struct command commands[] = {
	{ "reset", "", "forget all turns", run_reset },
	{ "undo", "", "take back the last question and its answer", run_undo },
	{ "save", "FILE", "write the conversation as a record with messages", run_save },
	{ "adapter", "[DIR]", "go on with this adapter; without DIR, with none", run_adapter },
	{ "params", "[NAME VALUE]", "show what answers depend on; set one: temperature 0.2", run_params },
	{ "help", "", "this list", NULL },
	{ "quit", "", "end", run_quit },
	{ 0 },
};

static int
help(void)
{
	for (const struct command *k = commands; k->name; k++)
		fprintf(stderr, "  /%s %-*s %s\n", k->name, 20 - (int)strlen(k->name), k->arg, k->help);
	fprintf(stderr, "  a line that begins with // is a question that begins with /; Ctrl-C ends an answer, Ctrl-D the program\n");
	return 0;
}

static int
command(struct chat *c, const char *text)
{
	char word[4096];
	const struct command *k = commands;

	if (snprintf(word, sizeof word, "%s", text + 1) >= (int)sizeof word)
		return sal_err("a command of more than %zu bytes", sizeof word);
	for (size_t n = strlen(word); n > 0 && strchr(" \t", word[n - 1]); n--)
		word[n - 1] = '\0';
	char *arg = word + strcspn(word, " \t");
	if (*arg)
		*arg++ = '\0';
	arg += strspn(arg, " \t");
	while (k->name && strcmp(k->name, word) != 0)
		k++;
	if (k->name == NULL)
		return sal_err("/%s: no such command (try /help; // begins a question with /)", word);
	if (*arg && !*k->arg)
		return sal_err("/%s: takes no argument", word);
	return k->run ? k->run(c, arg) : help();
}

/* ---- questions ------------------------------------------------------------------ */

static int
answer(struct chat *c, const char *question)
{
	const struct sal_talk_view v = { .say = c->stream ? say : NULL, .ctx = c, .interrupted = interrupted };
	enum sal_talk_end end;
	const char *text;
	int dropped;

	interrupts = 0;
	if (sal_talk_ask(c->talk, question, &dropped) != 0)
		return -1;
	if (dropped && !c->g.c.quiet)
		sal_warn("the oldest %d turns no longer fit in the context of %d tokens and are left out", dropped, sal_talk_state(c->talk).context);
	if (sal_talk_answer(c->talk, &v, &text, &end) != 0) {
		if (c->stream)
			putchar('\n');
		return -1;
	}
	if (!c->stream)
		fputs(text, stdout);
	putchar('\n');
	if (fflush(stdout) != 0)
		return sal_err("stdout: %s", strerror(errno));
	if (c->stream && end == SAL_TALK_LENGTH && !c->g.c.quiet) {
		const struct sal_talk_state s = sal_talk_state(c->talk);
		if (s.said >= c->g.max_tokens)
			sal_warn("cut off after %d tokens; /params max-tokens N allows more", s.said);
		else
			sal_warn("cut off after %d tokens: the context of %d is full", s.said, s.context);
	}
	return 0;
}

/* Line by line to the end.  What cannot be done is told; in a pipe it ends the program. */
static int
talk(struct chat *c, struct sal_counts *n)
{
	bool terminal = sal_line_terminal(c->line);
	const char *text;
	int rc = 0;

	look_at_adapter(c);
	while (!c->over && !ferror(stdout) && (rc = sal_line_next(c->line, &text)) > 0) {
		if (rc == 2) { /* Ctrl-C before a line was ended */
			fputc('\n', stderr);
			continue;
		}
		if (text[strspn(text, " \t")] == '\0')
			continue;
		bool cmd = text[0] == '/' && text[1] != '/';
		n->records += !cmd;
		rc = cmd ? command(c, text) : answer(c, text + (text[0] == '/'));
		if (rc == 0)
			continue;
		if (!terminal)
			return ferror(stdout) ? -1 : sal_err("stdin:%ld: %s", sal_line_number(c->line), sal_errmsg());
		sal_warn("%s", sal_errmsg());
	}
	if (terminal && rc == 0 && !c->over)
		fputc('\n', stderr); /* after Ctrl-D */
	return rc < 0 ? -1 : 0;
}

int
main(int argc, char *argv[])
{
	struct chat c = { .g = { .max_tokens = 512, .temperature = 0.7, .top_p = 1 } };
	const struct sal_opt opts[] = {
		SAL_OPT_MODEL(c.g.c),
		SAL_OPT_ADAPTER(c.g.c),
		{ 0, "max-tokens", SAL_OPT_INT, &c.g.max_tokens, 1, 1 << 20, "N", "new tokens at most [512]" },
		{ 0, "temperature", SAL_OPT_REAL, &c.g.temperature, 0, 100, "T", "0: the likeliest token [0.7]" },
		{ 0, "top-p", SAL_OPT_REAL, &c.g.top_p, 0, 1, "P", "keep the smallest set with this much mass [1]" },
		{ 0, "top-k", SAL_OPT_INT, &c.g.top_k, 0, 1 << 24, "K", "keep the K likeliest tokens; 0: all [0]" },
		{ 0, "min-p", SAL_OPT_REAL, &c.g.min_p, 0, 1, "P", "keep tokens of at least P times the largest probability [0]" },
		{ 0, "stop", SAL_OPT_LIST, &c.g.stop, 0, 0, "TEXT", "end an answer before this text; may be repeated" },
		{ 0, "format", SAL_OPT_STR, &c.g.format, 0, 0, "NAME", "dromedary, chatml, llama2, llama3, mistral, zephyr or none [the model's own]" },
		{ 0, "system", SAL_OPT_STR, &c.g.system, 0, 0, "TEXT", "system turn [the format's own]" },
		{ 'p', "principles", SAL_OPT_STR, &c.g.principles, 0, 0, "FILE", "make one drawn principle the system turn, another after /reset" },
		{ 0, "sign", SAL_OPT_CHOICE, &c.g.sign, 0, 0, "+|-", "the principle itself, or its negation [+]" },
		{ 0, "context", SAL_OPT_INT, &c.g.context, 0, 1 << 24, "N", "tokens of a conversation; 0: the model's, 8192 at most [0]" },
		SAL_OPT_SEED(c.g.c),
		SAL_OPT_COMPUTE(c.g.c),
		SAL_OPT_DRY(c.g.c),
		SAL_OPT_QUIET(c.g.c),
		SAL_OPT_END
	};
	struct sal_counts n = { 0 };
	int status = EXIT_FAILURE;

	sal_opts_parse(argc, argv, opts, "sal-chat -m PATH [options]", "Talk to a model, in a terminal; in a pipe, one answer for each line.");
	if (!c.g.c.model)
		sal_opts_fail("-m is required");
	if (c.g.system && c.g.principles)
		sal_opts_fail("--system and --principles exclude each other");
	sal_opts_only(c.g.principles, "sign", "with --principles");

	c.stream = isatty(STDOUT_FILENO);
	if ((c.talk = sal_talk_open(&c.g)) == NULL || (!c.g.c.dry_run && (c.line = sal_line_open("sal-chat", "> ", c.stream)) == NULL) ||
	    (c.g.c.dry_run && sal_dry_run(&c.g.c, sal_talk_plan, c.talk) != 0)) {
		sal_warn("%s", sal_errmsg());
		goto out;
	}
	if (c.line && sal_line_terminal(c.line)) {
		catch_interrupts();
		if (!c.g.c.quiet)
			sal_warn("%s, format %s; /help lists the commands", c.g.c.model, sal_talk_state(c.talk).format);
	}
	if (c.line && talk(&c, &n) != 0) {
		sal_warn("%s", sal_errmsg());
		goto out;
	}
	status = EXIT_SUCCESS;

out:
	if (c.talk) { /* seconds are those of answering, not of a person who thinks */
		n.tokens = sal_talk_state(c.talk).tokens;
		n.start = sal_now() - sal_talk_state(c.talk).busy;
	}
	sal_line_close(c.line);
	status = sal_finish(status, &c.g.c, &n, c.talk ? sal_talk_isa(c.talk) : NULL);
	sal_talk_close(c.talk);
	free(c.g.stop.s);
	return status;
}
