/* SPDX-License-Identifier: Apache-2.0 */
/* page.c - the frame of a report: style, escaping, figures put where they were asked for, the table of files. */
#include "lib/page.h"
#include <dirent.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define DEEPEST 8 /* folders below the run's */
#define LONGEST_LOG ((size_t)1 << 28)

static const char style[] =
    ":root{color-scheme:light dark;--fg:#1b1f24;--soft:#59636e;--bg:#fff;--line:#d8dee4;--card:#f6f8fa;--a:#0072b2;--b:#c04f00;--c:#00805c;--grid:#888}\n"
    "@media(prefers-color-scheme:dark){:root{--fg:#e6edf3;--soft:#9aa4af;--bg:#0d1117;--line:#30363d;--card:#161b22;--a:#56b4e9;--b:#f0914e;--c:#3fc79a;--grid:#777}}\n"
    "*{box-sizing:border-box}\n"
    "body{margin:0 auto;padding:1rem;max-width:76rem;background:var(--bg);color:var(--fg);font:1rem/1.5 system-ui,sans-serif}\n"
    "h1{font-size:1.6rem;margin:.5rem 0}h2{font-size:1.25rem;margin:2.5rem 0 .75rem;border-bottom:1px solid var(--line);padding-bottom:.25rem}\n"
    "h3{font-size:1rem;margin:1.5rem 0 .5rem}p{margin:.5rem 0;max-width:46rem}a{color:var(--a)}nav{margin-bottom:1rem}nav a{margin-right:1rem}.soft{color:var(--soft)}\n"
    ".wide{overflow-x:auto}table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}\n"
    "th,td{text-align:left;vertical-align:top;padding:.3rem .75rem .3rem 0;border-bottom:1px solid var(--line)}th{font-weight:600}td.n,th.n{text-align:right}td.n{white-space:nowrap}\n"
    "code,pre{font:.8rem/1.45 ui-monospace,monospace}pre{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--card);padding:.75rem;border-radius:.4rem}\n"
    ".figures{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,21rem),1fr));gap:1rem}\n"
    "figure{margin:0;padding:.75rem;background:var(--card);border-radius:.4rem}figcaption{font-size:.9rem;font-weight:600}\n"
    "figure svg{display:block;width:100%;height:auto}svg *{font-family:inherit}\n"
    "svg [color=black]{color:var(--fg)}svg [fill=black]{fill:var(--fg)}svg [stroke=black]{stroke:var(--fg)}\n"
    "svg [stroke=\"#0072b2\"]{stroke:var(--a)}svg [fill=\"#0072b2\"]{fill:var(--a)}svg [color=\"#0072b2\"]{color:var(--a)}\n"
    "svg [stroke=\"#d55e00\"]{stroke:var(--b)}svg [fill=\"#d55e00\"]{fill:var(--b)}svg [color=\"#d55e00\"]{color:var(--b)}\n"
    "svg [stroke=\"#009e73\"]{stroke:var(--c)}svg [fill=\"#009e73\"]{fill:var(--c)}svg [color=\"#009e73\"]{color:var(--c)}\n"
    "svg [stroke=\"#888888\"]{stroke:var(--grid)}svg [color=\"#888888\"]{color:var(--grid)}\n"
    ".pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,20rem),1fr));gap:1rem}\n"
    ".pair>div,.ask{background:var(--card);border-radius:.4rem;padding:.75rem;overflow-wrap:anywhere}.ask{border-left:.25rem solid var(--a)}\n"
    ".text{white-space:pre-wrap;unicode-bidi:plaintext}.ask,.pair{margin:.5rem 0}article{margin:1.5rem 0}.figures+.wide{margin-top:1rem}\n";

int
sal_page_open(struct sal_page *p)
{
	*p = (struct sal_page){ .figures = sal_figures_new() };
	return p->figures ? 0 : -1;
}

void
sal_page_close(struct sal_page *p)
{
	sal_figures_free(p->figures);
	sal_buf_free(&p->facts);
	sal_buf_free(&p->links);
	sal_buf_free(&p->body);
	*p = (struct sal_page){ 0 };
}

/* After 0xe2: U+202A to U+202E and U+2066 to U+2069, which put text into another order than it has. */
static bool
turns(const char *s)
{
	unsigned char c = (unsigned char)s[0], d = c ? (unsigned char)s[1] : 0;

	return (c == 0x80 && d >= 0xaa && d <= 0xae) || (c == 0x81 && d >= 0xa6 && d <= 0xa9);
}

void
sal_page_text(struct sal_buf *b, const char *s)
{
	for (; *s; s++) {
		unsigned char c = (unsigned char)*s;
		if (c == '&')
			sal_buf_puts(b, "&amp;");
		else if (c == '<')
			sal_buf_puts(b, "&lt;");
		else if (c == '>')
			sal_buf_puts(b, "&gt;");
		else if (c == '"')
			sal_buf_puts(b, "&quot;");
		else if (c == 0xc2 && (unsigned char)s[1] >= 0x80 && (unsigned char)s[1] < 0xa0) { /* U+0080 to U+009F */
			sal_buf_puts(b, "\xef\xbf\xbd");
			s++;
		} else if (c == 0xe2 && turns(s + 1)) {
			sal_buf_puts(b, "\xef\xbf\xbd");
			s += 2;
		} else if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7f)
			sal_buf_puts(b, "\xef\xbf\xbd");
		else
			sal_buf_put(b, s, 1);
	}
}

void
sal_page_section(struct sal_page *p, const char *id, const char *title)
{
	if (p->open)
		sal_buf_puts(&p->body, "</section>\n");
	p->open = true;
	sal_buf_printf(&p->links, "<a href=\"#%s\">", id);
	sal_page_text(&p->links, title);
	sal_buf_puts(&p->links, "</a>\n");
	sal_buf_printf(&p->body, "<section id=\"%s\">\n<h2>", id);
	sal_page_text(&p->body, title);
	sal_buf_puts(&p->body, "</h2>\n");
}

void
sal_page_fact(struct sal_page *p, const char *what, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	sal_buf_puts(&p->facts, "<tr><th scope=\"row\">");
	sal_page_text(&p->facts, what);
	sal_buf_puts(&p->facts, "</th><td>");
	sal_page_text(&p->facts, text);
	sal_buf_puts(&p->facts, "</td></tr>\n");
}

static const char figures_open[] = "<div class=\"figures\">\n", figures_end[] = "</div>\n";

/* In the body \1 NUMBER \1 stands where a figure will; no text has that byte. */
void
sal_page_figure(struct sal_page *p, const char *title, const struct sal_axes *a, const struct sal_series *s, int n)
{
	struct sal_buf *b = &p->body;
	size_t k = sizeof figures_end - 1;

	if (b->len >= k && memcmp(b->data + b->len - k, figures_end, k) == 0 && b->len > k + 9 && memcmp(b->data + b->len - k - 10, "</figure>\n", 10) == 0)
		b->len -= k;
	else
		sal_buf_puts(b, figures_open);
	sal_buf_puts(b, "<figure><figcaption>");
	sal_page_text(b, title);
	sal_buf_printf(b, "</figcaption>\1%d\1</figure>\n", sal_figure_add(p->figures, a, s, n));
	sal_buf_puts(b, figures_end);
}

/* ---- files --------------------------------------------------------------------- */

struct files {
	char **name; /* relative to the folder */
	int n;
};

static int
by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool
ends(const char *s, const char *tail)
{
	size_t n = strlen(s), k = strlen(tail);

	return n >= k && strcmp(s + n - k, tail) == 0;
}

/* Regular files below dir/sub, but pages like this one and what is being written. */
static int
list(const char *dir, const char *sub, int depth, struct files *f)
{
	char *path = *sub ? sal_path_join(dir, sub) : strdup(dir);
	DIR *d = path ? opendir(path) : NULL;
	struct dirent *e;
	int rc = 0;

	if (d == NULL) {
		rc = path ? sal_err("%s: %s", path, strerror(errno)) : sal_err("out of memory");
		free(path);
		return rc;
	}
	while (rc == 0 && (e = readdir(d)) != NULL) {
		struct stat st;
		char *name = *sub ? sal_path_join(sub, e->d_name) : strdup(e->d_name), *full = name ? sal_path_join(dir, name) : NULL;
		char **more = full ? realloc(f->name, (size_t)(f->n + 1) * sizeof *more) : NULL;
		f->name = more ? more : f->name;
		if (more == NULL) {
			rc = sal_err("out of memory");
		} else if (e->d_name[0] != '.' && lstat(full, &st) == 0) {
			if (S_ISDIR(st.st_mode) && depth < DEEPEST && strstr(e->d_name, ".tmp") == NULL) {
				rc = list(dir, name, depth + 1, f);
			} else if (S_ISREG(st.st_mode) && !ends(name, ".html") && strstr(e->d_name, ".tmp") == NULL) {
				f->name[f->n++] = name;
				name = NULL;
			}
		}
		free(name);
		free(full);
	}
	closedir(d);
	free(path);
	return rc;
}

/* The last line of a text, without its end. */
static void
last_line(struct sal_buf *b, char *text)
{
	size_t n = strlen(text);

	while (n && strchr(" \r\n\t", text[n - 1]))
		text[--n] = '\0';
	char *eol = strrchr(text, '\n');
	sal_page_text(b, eol ? eol + 1 : text);
}

/* Is the line a command of ours: "sal-NAME " in it, and not one that a tool said? */
static bool
is_command(const char *s)
{
	if (strncmp(s, "sal-", 4) == 0 && s[strcspn(s, ": ")] == ':')
		return false;
	for (const char *p = s; (p = strstr(p, "sal-")) != NULL; p += 4) {
		size_t n = strspn(p + 4, "abcdefghijklmnopqrstuvwxyz-");
		if (n > 0 && p[4 + n] == ' ' && (p == s || strchr(" /|;(&", p[-1])))
			return true;
	}
	return false;
}

static void
commands_of(struct sal_buf *b, char *text)
{
	for (char *s = text, *next; *s; s = next) {
		size_t n = strcspn(s, "\n");
		next = s + n + (s[n] == '\n');
		s[n] = '\0';
		while (n > 0 && s[n - 1] == '\\' && *next) { /* goes on in the next line */
			s[n] = '\n';
			n += 1 + strcspn(next, "\n");
			next = s + n + (s[n] == '\n');
			s[n] = '\0';
		}
		if ((s[0] == '+' || s[0] == '$') && s[1] == ' ')
			s += 2;
		if (is_command(s)) {
			sal_page_text(b, s);
			sal_buf_puts(b, "\n");
		}
	}
}

static int
file_row(struct sal_buf *b, struct sal_buf *commands, const char *dir, const char *name)
{
	char *path = sal_path_join(dir, name), *log = NULL, *text = NULL;
	struct stat st;
	int rc = -1, err = 0;

	if (path == NULL || (log = malloc(strlen(path) + 5)) == NULL) {
		sal_err("out of memory");
		goto out;
	}
	sprintf(log, "%s.log", path);
	if (stat(path, &st) != 0) {
		sal_err("%s: %s", path, strerror(errno));
		goto out;
	}
	uint64_t hash = sal_hash_file(path, &err);
	if (err)
		goto out;
	if ((ends(name, ".log") || ends(name, ".out")) && (text = sal_read_file(path, LONGEST_LOG, NULL)) == NULL)
		goto out;
	if (text)
		commands_of(commands, text);
	free(text);
	text = NULL;
	sal_buf_puts(b, "<tr><td><code>");
	sal_page_text(b, name);
	sal_buf_printf(b, "</code></td><td class=\"n\">%lld</td><td><code>%016llx</code></td><td>", (long long)st.st_size, (unsigned long long)hash);
	if (stat(log, &st) == 0 && (text = sal_read_file(log, LONGEST_LOG, NULL)) == NULL)
		goto out;
	if (text)
		last_line(b, text);
	sal_buf_puts(b, "</td></tr>\n");
	rc = 0;
out:
	free(path);
	free(text);
	free(log);
	return rc;
}

int
sal_page_provenance(struct sal_page *p, const char *dir, const char *what)
{
	struct sal_buf *b = &p->body, commands = { 0 };
	struct files f = { 0 };
	int rc = list(dir, "", 0, &f);

	if (f.n)
		qsort(f.name, (size_t)f.n, sizeof *f.name, by_name);
	sal_buf_printf(b, "<details><summary>%d files of the %s: bytes, XXH3-64, and the last words of the tool that made them</summary>\n", f.n, what);
	sal_buf_puts(b, "<div class=\"wide\"><table><thead><tr><th>file</th><th class=\"n\">bytes</th><th>XXH3-64</th><th>log</th></tr></thead><tbody>\n");
	for (int i = 0; i < f.n; i++) {
		rc = rc == 0 ? file_row(b, &commands, dir, f.name[i]) : rc;
		free(f.name[i]);
	}
	free(f.name);
	sal_buf_puts(b, "</tbody></table></div></details>\n");
	if (commands.len) {
		sal_buf_puts(b, "<h3>Commands, from the logs</h3>\n<pre>");
		sal_buf_put(b, commands.data, commands.len);
		sal_buf_puts(b, "</pre>\n");
	} else {
		sal_buf_puts(b, "<p class=\"soft\">The logs hold no commands.</p>\n");
	}
	rc = rc == 0 && commands.failed ? sal_err("out of memory") : rc;
	sal_buf_free(&commands);
	return rc;
}

/* ---- the whole ------------------------------------------------------------------ */

int
sal_page_write(struct sal_page *p, const char *title, struct sal_buf *html)
{
	if (p->open)
		sal_buf_puts(&p->body, "</section>\n");
	p->open = false;
	if (p->body.failed || p->facts.failed || p->links.failed)
		return sal_err("out of memory");
	if (sal_figures_draw(p->figures) != 0)
		return -1;
	sal_buf_puts(html, "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
	                   "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n<title>");
	sal_page_text(html, title);
	sal_buf_printf(html, "</title>\n<style>\n%s</style>\n</head>\n<body>\n<svg width=\"0\" height=\"0\" style=\"position:absolute\" aria-hidden=\"true\"><defs>"
	                     SAL_FIGURE_DEFS "</defs></svg>\n<header><h1>", style);
	sal_page_text(html, title);
	sal_buf_puts(html, "</h1>\n<nav>\n");
	sal_buf_put(html, p->links.data, p->links.len);
	sal_buf_puts(html, "</nav></header>\n<main>\n<div class=\"wide\"><table><tbody>\n");
	sal_buf_put(html, p->facts.data, p->facts.len);
	sal_buf_puts(html, "</tbody></table></div>\n");
	for (const char *s = p->body.data, *end = s + p->body.len; s < end;) {
		const char *mark = memchr(s, '\1', (size_t)(end - s));
		size_t n = (size_t)((mark ? mark : end) - s);
		sal_buf_put(html, s, n);
		s += n;
		if (mark) {
			sal_buf_puts(html, sal_figure_svg(p->figures, atoi(mark + 1)));
			s = (const char *)memchr(mark + 1, '\1', (size_t)(end - mark - 1)) + 1;
		}
	}
	sal_buf_puts(html, "</main>\n<footer class=\"soft\"><p>Made by sal-report " SAL_VERSION " of the files named above; plots by gnuplot.</p></footer>\n</body>\n</html>\n");
	return html->failed ? sal_err("out of memory") : 0;
}
