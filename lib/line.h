/* SPDX-License-Identifier: Apache-2.0 */
/* line.h - lines from a person or from a pipe: edited with libedit where stdin is a terminal. */
#ifndef SAL_LINE_H
#define SAL_LINE_H
#include <stdbool.h>

struct sal_line;
/* On a terminal the prompt is shown before each line, on out ("stdout" or "stderr" as suits what else goes there). NULL: errmsg. */
struct sal_line *sal_line_open(const char *program, const char *prompt, bool prompt_on_stdout);
void sal_line_close(struct sal_line *l);
bool sal_line_terminal(const struct sal_line *l);
long sal_line_number(const struct sal_line *l); /* of the line last read, from 1 */
/* 1: *text is a line without its newline, valid until the next call; 0: the end; 2: a signal came instead; -1: errmsg. */
int sal_line_next(struct sal_line *l, const char **text);
#endif
