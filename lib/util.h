/* SPDX-License-Identifier: Apache-2.0 */
/* util.h - the last error, checked sizes, text buffers, whole files, atomic replacement, hashes. */
#ifndef SAL_UTIL_H
#define SAL_UTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define SAL_USE_RESULT __attribute__((warn_unused_result))
#define SAL_PRINTF(f, a) __attribute__((format(printf, f, a)))
#define SAL_EXIT_USAGE 2

/* lib/ functions return -1 or NULL and leave one line here (thread-local); no prefix, no full stop. */
const char *sal_errmsg(void);
/* Set the line; returns -1, so that `return sal_err(...)` reads well.  The text is cut at 1 KiB, control bytes become '?'. */
int sal_err(const char *fmt, ...) SAL_PRINTF(1, 2);
/* tools/, and what lib/ does for all of them: "PROGRAM: message" as one line on stderr. */
void sal_warn(const char *fmt, ...) SAL_PRINTF(1, 2);
/* The same on a terminal, as a line that the next one overwrites. */
void sal_status(const char *text);

/* *out = a*b, a+b; false when it does not fit. */
bool sal_mul_ok(uint64_t a, uint64_t b, uint64_t *out);
bool sal_add_ok(uint64_t a, uint64_t b, uint64_t *out);

/* A growing byte buffer; data is always NUL-terminated once something was put.  Zero-initialise; sal_buf_free. */
struct sal_buf {
	char *data;
	size_t len, cap;
	bool failed; /* out of memory: everything put since is lost; check once at the end */
};
void sal_buf_put(struct sal_buf *b, const void *p, size_t n);
void sal_buf_puts(struct sal_buf *b, const char *s);
void sal_buf_printf(struct sal_buf *b, const char *fmt, ...) SAL_PRINTF(2, 3);
void sal_buf_free(struct sal_buf *b);

/* A growing list of token ids.  Zero-initialise; free(ids->id). */
struct sal_ids {
	int32_t *id;
	int n, cap;
};
int sal_ids_push(struct sal_ids *l, int32_t id) SAL_USE_RESULT; /* -1: out of memory */
int sal_ids_append(struct sal_ids *l, const int32_t *id, int n) SAL_USE_RESULT;

/* A regular file mapped read-only.  Zero-length files map to data "" and size 0.  sal_unmap(NULL) does nothing. */
struct sal_map {
	char *path;
	const uint8_t *data;
	size_t size;
	uint64_t stamp; /* see sal_map_same() */
};
struct sal_map *sal_map_open(const char *path); /* NULL: error line names the path; a file that is not regular is refused */
void sal_map_close(struct sal_map *m);
/* Is the file of that path still the one that was opened, and unchanged since by its size and times? */
bool sal_map_same(const struct sal_map *m);
/* The whole of a regular file as malloc'd text with a NUL after it; NULL on failure or above max bytes. */
char *sal_read_file(const char *path, size_t max, size_t *len);
char *sal_path_join(const char *dir, const char *name); /* malloc'd */
bool sal_is_dir(const char *path);

/* All of it to a file descriptor.  -1: errno says why. */
int sal_write_all(int fd, const void *data, size_t len) SAL_USE_RESULT;
/* Write data to path.tmp.PID, fsync, rename to path, fsync the folder.  -1: path is as it was. */
int sal_write_file(const char *path, const void *data, size_t len) SAL_USE_RESULT;
/*
 * 0 if commit() may put a folder at final: nothing is there, an empty folder, or one that holds the file mark, an earlier output;
 * and the folder that is to hold it can be written to.  Tools ask before they begin, begin() asks again.
 */
int sal_dir_check(const char *final, const char *mark) SAL_USE_RESULT;
/*
 * Build a folder beside its final name: begin() creates FINAL.tmp.PID (removing left-overs of dead processes)
 * and returns its malloc'd path; commit() syncs every file in it, moves an old FINAL away, renames, removes the old.
 * abort() removes the temporary folder.  Both free tmp.
 */
char *sal_dir_begin(const char *final, const char *mark);
int sal_dir_commit(char *tmp, const char *final) SAL_USE_RESULT;
void sal_dir_abort(char *tmp);

uint64_t sal_hash(const void *p, size_t n);       /* XXH3-64 */
uint64_t sal_hash_wide(const void *p, size_t n, int threads); /* XXH3-64 of those of 64 parts, by that many threads */
uint64_t sal_hash_file(const char *path, int *err); /* *err = -1 on failure */
double sal_now(void);                              /* seconds, monotonic */
long sal_peak_kib(void);                           /* peak resident memory of the process */
#endif
