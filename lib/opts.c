/* SPDX-License-Identifier: Apache-2.0 */
/* opts.c - option tables: parser, bounds and --help from one list. */
#define _GNU_SOURCE /* program_invocation_short_name, getopt_long */
#include "lib/opts.h"

#include "lib/util.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OPT_BASE = 1000, OPT_HELP = 1, OPT_VERSION = 2, HELP_COLUMN = 28, MAX_OPTS = 96 };

static const char *given[MAX_OPTS]; /* names that the command line has, each once */
static int n_given;

void sal_opts_fail(const char *fmt, ...)
{
	char text[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	sal_warn("%s (try '%s --help')", text, program_invocation_short_name);
	exit(SAL_EXIT_USAGE);
}

/* --help and --version end here: what was printed must have arrived. */
static _Noreturn void end_stdout(void)
{
	if (fflush(stdout) != 0 || ferror(stdout)) {
		sal_warn("stdout: %s", strerror(errno));
		exit(EXIT_FAILURE);
	}
	exit(EXIT_SUCCESS);
}

static void help_line(int letter, const char *name, const char *arg, const char *help)
{
	char left[256];
	char key[8] = "    ";

	if (letter)
		snprintf(key, sizeof key, "-%c, ", letter);
	int n = snprintf(left, sizeof left, "  %s--%s%s%s", key, name, arg ? " " : "", arg ? arg : "");
	if (n > HELP_COLUMN)
		printf("%s\n%*s  %s\n", left, HELP_COLUMN, "", help);
	else
		printf("%-*s  %s\n", HELP_COLUMN, left, help);
}

static void print_help(const struct sal_opt *opts, const char *usage, const char *about)
{
	printf("usage: %s\n%s\n\n", usage, about);
	for (const struct sal_opt *o = opts + (opts->kind == SAL_OPT_COMMAND); o->kind != SAL_OPT_END_; o++)
		help_line(o->letter, o->name, o->kind == SAL_OPT_FLAG ? NULL : o->arg ? o->arg : "ARG", o->help ? o->help : "");
	help_line(0, "help", NULL, "print this and exit");
	help_line(0, "version", NULL, "print the version and exit");
}

static void set_int(const struct sal_opt *o, const char *s)
{
	bool any = o->min == 0 && o->max == 0;
	long lo = any ? INT_MIN : (long)o->min, hi = any ? INT_MAX : (long)o->max;
	char *end;

	if (!isdigit((unsigned char)s[s[0] == '-']))
		sal_opts_fail("--%s: '%s' is not a whole number", o->name, s);
	errno = 0;
	long v = strtol(s, &end, 10);
	if (*end)
		sal_opts_fail("--%s: '%s' is not a whole number", o->name, s);
	if (errno || v < lo || v > hi)
		sal_opts_fail("--%s: %s is not in %ld..%ld", o->name, s, lo, hi);
	*(int *)o->value = (int)v;
}

static void set_u64(const struct sal_opt *o, const char *s)
{
	char *end;

	errno = 0;
	unsigned long long v = strtoull(s, &end, 10);
	if (!isdigit((unsigned char)s[0]) || *end)
		sal_opts_fail("--%s: '%s' is not a whole number from 0", o->name, s);
	if (errno)
		sal_opts_fail("--%s: %s is not in 0..%llu", o->name, s, (unsigned long long)UINT64_MAX);
	*(uint64_t *)o->value = v;
}

static void set_real(const struct sal_opt *o, const char *s)
{
	char *end;
	double v = strtod(s, &end);

	if (end == s || *end || isspace((unsigned char)s[0]) || isnan(v))
		sal_opts_fail("--%s: '%s' is not a number", o->name, s);
	if (isinf(v))
		sal_opts_fail("--%s: %s is not finite", o->name, s);
	if ((o->min != 0 || o->max != 0) && (v < o->min || v > o->max))
		sal_opts_fail("--%s: %s is not in %g..%g", o->name, s, o->min, o->max);
	*(double *)o->value = v;
}

static void set_choice(const struct sal_opt *o, const char *s)
{
	size_t n = strlen(s);
	int i = 0;

	for (const char *p = o->arg; ; p++, i++) {
		size_t k = strcspn(p, "|");
		if (k == n && memcmp(p, s, n) == 0) {
			*(int *)o->value = i;
			return;
		}
		p += k;
		if (!*p)
			break;
	}
	sal_opts_fail("%s%s: '%s' is not one of %s", o->kind == SAL_OPT_COMMAND ? "" : "--", o->name, s, o->arg);
}

static void add_string(const struct sal_opt *o, const char *s)
{
	struct sal_strs *l = o->value;
	const char **p;

	if (!*s)
		sal_opts_fail("--%s: the argument is empty", o->name);
	if ((p = realloc(l->s, ((size_t)l->n + 1) * sizeof *p)) == NULL) {
		sal_warn("out of memory");
		exit(EXIT_FAILURE);
	}
	l->s = p;
	l->s[l->n++] = s;
}

static bool was_given(const char *name, size_t len)
{
	for (int i = 0; i < n_given; i++)
		if (strlen(given[i]) == len && memcmp(given[i], name, len) == 0)
			return true;
	return false;
}

void sal_opts_only(bool may, const char *names, const char *when)
{
	for (size_t n; !may && *names; names += n + (names[n] == ',')) {
		n = strcspn(names, ",");
		if (was_given(names, n))
			sal_opts_fail("--%.*s: only %s", (int)n, names, when);
	}
}

static void set_value(const struct sal_opt *o, const char *s)
{
	if (!was_given(o->name, strlen(o->name)))
		given[n_given++] = o->name;
	switch (o->kind) {
	case SAL_OPT_FLAG:
		*(bool *)o->value = true;
		break;
	case SAL_OPT_STR:
		*(const char **)o->value = s;
		break;
	case SAL_OPT_INT:
		set_int(o, s);
		break;
	case SAL_OPT_U64:
		set_u64(o, s);
		break;
	case SAL_OPT_REAL:
		set_real(o, s);
		break;
	case SAL_OPT_CHOICE:
		set_choice(o, s);
		break;
	case SAL_OPT_LIST:
		add_string(o, s);
		break;
	case SAL_OPT_COMMAND:
	case SAL_OPT_END_:
		break;
	}
}

/* getopt said '?' or ':': say which option and why. */
static _Noreturn void bad_option(const struct sal_opt *opts, int n, int answer, const char *word)
{
	if (answer == ':' && optopt >= OPT_BASE && optopt < OPT_BASE + n)
		sal_opts_fail("--%s: argument missing", opts[optopt - OPT_BASE].name);
	if (answer == ':')
		sal_opts_fail("-%c: argument missing", optopt);
	if (optopt >= OPT_BASE && optopt < OPT_BASE + n)
		sal_opts_fail("--%s: takes no argument", opts[optopt - OPT_BASE].name);
	if (optopt == OPT_HELP || optopt == OPT_VERSION)
		sal_opts_fail("--%s: takes no argument", optopt == OPT_HELP ? "help" : "version");
	if (optopt)
		sal_opts_fail("-%c: unknown option", optopt);
	sal_opts_fail("%s: unknown option", word ? word : "?");
}

/*
 * Threads that wait for each other spin for a moment, then sleep: libgomp's own default spins for milliseconds, in which a busy
 * machine does nothing else (a run of 0.2 s took 19 s), and its "passive" never spins (a third slower when idle).  It reads this
 * when it is loaded and never again, so the tool starts once more; where that fails it goes on as it is.
 */
static void spin_briefly(char *argv[])
{
	char self[4096]; /* by its own path: the process keeps its name */
	ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);

	if (n <= 0 || getenv("GOMP_SPINCOUNT") || getenv("OMP_WAIT_POLICY") || setenv("GOMP_SPINCOUNT", "5000", 1) != 0)
		return;
	self[n] = '\0';
	execv(self, argv);
}

/* A mapped file was cut short by somebody else: there is nothing to go on with. */
static _Noreturn void cut_short(int sig)
{
	static const char why[] = ": a file was cut short while it was mapped\n";

	(void)sig;
	if (write(2, program_invocation_short_name, strlen(program_invocation_short_name)) > 0)
		(void)!write(2, why, sizeof why - 1);
	_exit(EXIT_FAILURE);
}

void sal_opts_parse(int argc, char *argv[], const struct sal_opt *opts, const char *usage, const char *about)
{
	struct option longs[MAX_OPTS + 3] = { 0 };
	char shorts[2 * MAX_OPTS + 2] = ":";
	const struct sal_opt *command = NULL;
	int n = 0, k = 1, answer;

	spin_briefly(argv);
	signal(SIGXFSZ, SIG_IGN); /* a file that may not grow further is told as a full disk is */
	signal(SIGBUS, cut_short);
	if (opts->kind == SAL_OPT_COMMAND)
		command = opts++;
	while (opts[n].kind != SAL_OPT_END_)
		if (++n > MAX_OPTS)
			abort(); /* a table of a tool, not the user's doing */
	for (int i = 0; i < n; i++) {
		int has = opts[i].kind == SAL_OPT_FLAG ? no_argument : required_argument;
		longs[i] = (struct option){ opts[i].name, has, NULL, OPT_BASE + i };
		if (opts[i].letter) {
			shorts[k++] = (char)opts[i].letter;
			if (has == required_argument)
				shorts[k++] = ':';
		}
	}
	longs[n] = (struct option){ "help", no_argument, NULL, OPT_HELP };
	longs[n + 1] = (struct option){ "version", no_argument, NULL, OPT_VERSION };
	opterr = 0;
	optind = 1;
	for (;;) {
		optopt = 0;
		answer = getopt_long(argc, argv, shorts, longs, NULL);
		if (answer == -1)
			break;
		if (answer == '?' || answer == ':')
			bad_option(opts, n, answer, optind > 0 && optind <= argc ? argv[optind - 1] : NULL);
		if (answer == OPT_HELP) {
			print_help(opts, usage, about);
			end_stdout();
		}
		if (answer == OPT_VERSION) {
			printf("%s %s\n", program_invocation_short_name, SAL_VERSION);
			end_stdout();
		}
		for (int i = 0; i < n; i++)
			if (answer == OPT_BASE + i || (opts[i].letter && answer == opts[i].letter)) {
				set_value(&opts[i], optarg);
				break;
			}
	}
	if (command && optind == argc)
		sal_opts_fail("a %s is required, one of %s", command->name, command->arg);
	if (command)
		set_choice(command, argv[optind++]);
	sal_opts_only(was_given("skip-bad", strlen("skip-bad")), "reject", "with --skip-bad");
	if (optind < argc)
		sal_opts_fail("'%s': operands are not taken", argv[optind]);
}
