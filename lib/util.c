/* SPDX-License-Identifier: Apache-2.0 */
/* util.c - the last error, checked sizes, text buffers, whole files, atomic replacement, hashes. */
#define _GNU_SOURCE /* program_invocation_short_name, nftw */
#include "lib/util.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#define ERR_MAX 1024

static _Thread_local char err_line[ERR_MAX];

/* One line: control bytes become '?', and a cut does not leave half a UTF-8 sequence behind. */
static void clean_line(char *s, bool cut)
{
	size_t n = strlen(s);

	if (cut) {
		size_t back = 0;
		while (back < 4 && back < n && ((unsigned char)s[n - 1 - back] & 0xC0) == 0x80)
			back++;
		if (back < n && ((unsigned char)s[n - 1 - back] & 0xC0) == 0xC0)
			s[n - 1 - back] = '\0';
	}
	for (; *s; s++)
		if ((unsigned char)*s < 0x20 || *s == 0x7F)
			*s = '?';
}

const char *sal_errmsg(void)
{
	return err_line;
}

int sal_err(const char *fmt, ...)
{
	char text[ERR_MAX]; /* the arguments may include sal_errmsg() */
	va_list ap;

	va_start(ap, fmt);
	int n = vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	if (n < 0)
		strcpy(text, "error without a message");
	clean_line(text, n >= ERR_MAX);
	memcpy(err_line, text, sizeof text);
	return -1;
}

static bool status_shown; /* a line of sal_status is on the terminal, the cursor at its start */

void sal_warn(const char *fmt, ...)
{
	char text[4 * ERR_MAX];
	va_list ap;

	va_start(ap, fmt);
	int n = vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	if (n < 0)
		return;
	clean_line(text, (size_t)n >= sizeof text);
	fprintf(stderr, "%s%s: %s\n", status_shown ? "\033[K" : "", program_invocation_short_name, text);
	status_shown = false;
}

void sal_status(const char *text)
{
	fprintf(stderr, "%s: %s\033[K\r", program_invocation_short_name, text);
	status_shown = true;
}

bool sal_mul_ok(uint64_t a, uint64_t b, uint64_t *out)
{
	return !__builtin_mul_overflow(a, b, out);
}

bool sal_add_ok(uint64_t a, uint64_t b, uint64_t *out)
{
	return !__builtin_add_overflow(a, b, out);
}

/* Room for n more bytes and the NUL. */
static bool buf_room(struct sal_buf *b, size_t n)
{
	if (b->failed)
		return false;
	if (n >= SIZE_MAX / 4 || b->len >= SIZE_MAX / 4) {
		b->failed = true;
		return false;
	}
	size_t need = b->len + n + 1;
	if (need <= b->cap)
		return true;
	size_t cap = b->cap < 64 ? 64 : b->cap;
	while (cap < need)
		cap *= 2;
	char *p = realloc(b->data, cap);
	if (!p) {
		b->failed = true;
		return false;
	}
	b->data = p;
	b->cap = cap;
	return true;
}

void sal_buf_put(struct sal_buf *b, const void *p, size_t n)
{
	if (!buf_room(b, n))
		return;
	if (n)
		memcpy(b->data + b->len, p, n);
	b->len += n;
	b->data[b->len] = '\0';
}

void sal_buf_puts(struct sal_buf *b, const char *s)
{
	sal_buf_put(b, s, strlen(s));
}

void sal_buf_printf(struct sal_buf *b, const char *fmt, ...)
{
	va_list ap;

	if (!buf_room(b, 0))
		return;
	va_start(ap, fmt);
	int n = vsnprintf(b->data + b->len, b->cap - b->len, fmt, ap);
	va_end(ap);
	if (n < 0) {
		b->data[b->len] = '\0';
		b->failed = true;
		return;
	}
	if ((size_t)n >= b->cap - b->len) {
		b->data[b->len] = '\0';
		if (!buf_room(b, (size_t)n))
			return;
		va_start(ap, fmt);
		n = vsnprintf(b->data + b->len, b->cap - b->len, fmt, ap);
		va_end(ap);
	}
	b->len += (size_t)n;
}

void sal_buf_free(struct sal_buf *b)
{
	free(b->data);
	*b = (struct sal_buf){ 0 };
}

int sal_ids_append(struct sal_ids *l, const int32_t *id, int n)
{
	if (n <= 0)
		return 0;
	if (n > INT_MAX - l->n)
		return sal_err("out of memory");
	if (l->n + n > l->cap) {
		int64_t cap = l->cap < 16 ? 16 : (int64_t)l->cap * 2;
		if (cap < l->n + n)
			cap = l->n + n;
		if (cap > INT_MAX)
			cap = INT_MAX;
		int32_t *p = realloc(l->id, (size_t)cap * sizeof *p);
		if (!p)
			return sal_err("out of memory");
		l->id = p;
		l->cap = (int)cap;
	}
	memcpy(l->id + l->n, id, (size_t)n * sizeof *id);
	l->n += n;
	return 0;
}

int sal_ids_push(struct sal_ids *l, int32_t id)
{
	return sal_ids_append(l, &id, 1);
}

/* Open a regular file for reading; O_NONBLOCK so that a FIFO is refused rather than waited for. */
static int open_regular(const char *path, struct stat *st)
{
	int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0)
		return sal_err("%s: %s", path, strerror(errno));
	if (fstat(fd, st) != 0)
		sal_err("%s: %s", path, strerror(errno));
	else if (S_ISDIR(st->st_mode))
		sal_err("%s: is a folder, not a file", path);
	else if (!S_ISREG(st->st_mode))
		sal_err("%s: not a regular file", path);
	else
		return fd;
	close(fd);
	return -1;
}

static uint64_t stamp_of(const struct stat *st)
{
	int64_t of[] = { (int64_t)st->st_dev, (int64_t)st->st_ino, st->st_size, st->st_mtim.tv_sec, st->st_mtim.tv_nsec, st->st_ctim.tv_sec,
		st->st_ctim.tv_nsec };

	return sal_hash(of, sizeof of);
}

bool sal_map_same(const struct sal_map *m)
{
	struct stat st;

	return stat(m->path, &st) == 0 && stamp_of(&st) == m->stamp;
}

struct sal_map *sal_map_open(const char *path)
{
	struct stat st;
	int fd = open_regular(path, &st);

	if (fd < 0)
		return NULL;
	struct sal_map *m = calloc(1, sizeof *m);
	if (m)
		m->path = strdup(path);
	if (!m || !m->path) {
		sal_err("%s: out of memory", path);
		free(m);
		close(fd);
		return NULL;
	}
	m->size = (size_t)st.st_size;
	m->stamp = stamp_of(&st);
	m->data = (const uint8_t *)"";
	if (m->size) {
		void *p = mmap(NULL, m->size, PROT_READ, MAP_PRIVATE, fd, 0);
		if (p == MAP_FAILED) {
			sal_err("%s: %s", path, strerror(errno));
			free(m->path);
			free(m);
			close(fd);
			return NULL;
		}
		m->data = p;
	}
	close(fd);
	return m;
}

void sal_map_close(struct sal_map *m)
{
	if (!m)
		return;
	if (m->size)
		munmap((void *)(uintptr_t)m->data, m->size);
	free(m->path);
	free(m);
}

char *sal_read_file(const char *path, size_t max, size_t *len)
{
	struct stat st;
	int fd = open_regular(path, &st);
	size_t n = 0, cap;
	char *p = NULL;

	if (fd < 0)
		return NULL;
	if ((uint64_t)st.st_size > max) {
		sal_err("%s: %lld bytes is more than %zu", path, (long long)st.st_size, max);
		goto fail;
	}
	cap = (size_t)st.st_size + 2; /* one to see the end, one for the NUL */
	p = malloc(cap);
	if (!p)
		goto memory;
	for (;;) {
		if (cap - n < 2) {
			char *q = cap > SIZE_MAX / 2 ? NULL : realloc(p, cap * 2);
			if (!q)
				goto memory;
			p = q;
			cap *= 2;
		}
		ssize_t got = read(fd, p + n, cap - n - 1);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0) {
			sal_err("%s: %s", path, strerror(errno));
			goto fail;
		}
		if (got == 0)
			break;
		n += (size_t)got;
		if (n > max) {
			sal_err("%s: more than %zu bytes", path, max);
			goto fail;
		}
	}
	close(fd);
	p[n] = '\0';
	if (len)
		*len = n;
	return p;
memory:
	sal_err("%s: out of memory", path);
fail:
	free(p);
	close(fd);
	return NULL;
}

static char *format_path(const char *a, const char *b, const char *c)
{
	size_t n = strlen(a) + strlen(b) + strlen(c) + 1;
	char *p = malloc(n);

	if (!p)
		sal_err("%s: out of memory", a);
	else
		snprintf(p, n, "%s%s%s", a, b, c);
	return p;
}

char *sal_path_join(const char *dir, const char *name)
{
	size_t n = strlen(dir);

	return format_path(dir, n && dir[n - 1] != '/' ? "/" : "", name);
}

bool sal_is_dir(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

/* The folder that holds path. */
static char *parent_of(const char *path)
{
	const char *slash = strrchr(path, '/');

	if (!slash)
		return format_path(".", "", "");
	char *p = format_path(path, "", "");
	if (p)
		p[slash == path ? 1 : slash - path] = '\0';
	return p;
}

static char *pid_path(const char *path, const char *infix)
{
	char pid[32];

	snprintf(pid, sizeof pid, "%ld", (long)getpid());
	return format_path(path, infix, pid);
}

/* fsync of a file or folder by name; file systems that cannot sync a folder say EINVAL. */
static int sync_path(const char *path)
{
	int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0)
		return sal_err("%s: %s", path, strerror(errno));
	int rc = fsync(fd);
	if (rc != 0 && errno != EINVAL && errno != ENOTSUP)
		sal_err("%s: %s", path, strerror(errno));
	else
		rc = 0;
	close(fd);
	return rc;
}

static int sync_parent(const char *path)
{
	char *dir = parent_of(path);
	int rc = dir ? sync_path(dir) : -1;

	free(dir);
	return rc;
}

int sal_write_all(int fd, const void *data, size_t len)
{
	const char *p = data;

	while (len) {
		ssize_t n = write(fd, p, len > (1u << 30) ? 1u << 30 : len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n == 0)
			errno = EIO;
		if (n <= 0)
			return -1;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

int sal_write_file(const char *path, const void *data, size_t len)
{
	struct stat st;

	if (stat(path, &st) == 0 && !S_ISREG(st.st_mode))
		return sal_err("%s: exists and is not a regular file", path);
	char *tmp = pid_path(path, ".tmp.");
	if (!tmp)
		return -1;
	unlink(tmp); /* of a dead process with our number */
	int fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	if (fd < 0) {
		sal_err("%s: %s", path, strerror(errno));
		free(tmp);
		return -1;
	}
	if (sal_write_all(fd, data, len) != 0)
		goto fail;
	if (fsync(fd) != 0 && errno != EINVAL)
		goto fail;
	int rc = close(fd);
	fd = -1;
	if (rc != 0 || rename(tmp, path) != 0)
		goto fail;
	free(tmp);
	return sync_parent(path);
fail:
	sal_err("%s: %s", path, strerror(errno));
	if (fd >= 0)
		close(fd);
	unlink(tmp);
	free(tmp);
	return -1;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st, (void)type, (void)ftw;
	return remove(path);
}

static void remove_tree(const char *path)
{
	(void)nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static int sync_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)ftw, (void)type;
	return S_ISREG(st->st_mode) || S_ISDIR(st->st_mode) ? sync_path(path) : 0;
}

/* final without the slashes at its end */
static char *plain_name(const char *final)
{
	size_t n = strlen(final);

	if (n == 0) {
		sal_err("empty folder name");
		return NULL;
	}
	char *p = format_path(final, "", "");
	while (p && n > 1 && p[n - 1] == '/')
		p[--n] = '\0';
	return p;
}

/* Whether name is BASE INFIX PID with a process that is gone (or has our own number). */
static bool left_over(const char *name, const char *base, const char *infix)
{
	size_t nb = strlen(base), ni = strlen(infix);

	if (strncmp(name, base, nb) != 0 || strncmp(name + nb, infix, ni) != 0)
		return false;
	const char *digits = name + nb + ni;
	if (!isdigit((unsigned char)*digits) || digits[strspn(digits, "0123456789")] || strlen(digits) > 10)
		return false;
	long pid = strtol(digits, NULL, 10);
	if (pid <= 0 || pid > INT_MAX)
		return false;
	return pid == (long)getpid() || (kill((pid_t)pid, 0) != 0 && errno == ESRCH);
}

/* Remove what dead processes left beside final; an old folder moved away but not replaced is put back. */
static void clear_left_overs(const char *final)
{
	const char *slash = strrchr(final, '/'), *base = slash ? slash + 1 : final;
	char *dir = parent_of(final);
	DIR *d = dir ? opendir(dir) : NULL;

	for (struct dirent *e; d && (e = readdir(d)) != NULL;) {
		bool tmp = left_over(e->d_name, base, ".tmp."), old = left_over(e->d_name, base, ".old.");
		char *path = tmp || old ? sal_path_join(dir, e->d_name) : NULL;
		if (!path)
			continue;
		if (!(old && access(final, F_OK) != 0 && rename(path, final) == 0))
			remove_tree(path);
		free(path);
	}
	if (d)
		closedir(d);
	free(dir);
}

/* A folder that can be read and holds nothing. */
static bool is_empty(const char *path)
{
	DIR *d = opendir(path);
	int n = 0;

	for (struct dirent *e; d && (e = readdir(d)) != NULL;)
		n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
	if (d)
		closedir(d);
	return d && n == 0;
}

int sal_dir_check(const char *final, const char *mark)
{
	char *name = plain_name(final), *dir = name ? parent_of(name) : NULL, *path = dir ? sal_path_join(name, mark) : NULL;
	struct stat st;
	int rc = -1;

	if (path == NULL)
		goto out;
	if (access(dir, W_OK | X_OK) != 0)
		sal_err("%s: %s", dir, strerror(errno));
	else if (stat(name, &st) != 0)
		rc = 0;
	else if (!S_ISDIR(st.st_mode))
		sal_err("%s: exists and is not a folder", name);
	else if (access(path, F_OK) != 0 && !is_empty(name))
		sal_err("%s: exists and is no earlier output, it has no %s: remove it, or name another", name, mark);
	else
		rc = 0;
out:
	free(path);
	free(dir);
	free(name);
	return rc;
}

char *sal_dir_begin(const char *final, const char *mark)
{
	char *name = plain_name(final), *tmp = NULL;

	if (!name)
		return NULL;
	if (sal_dir_check(name, mark) == 0) {
		clear_left_overs(name);
		tmp = pid_path(name, ".tmp.");
		if (tmp && mkdir(tmp, 0777) != 0) {
			sal_err("%s: %s", tmp, strerror(errno));
			free(tmp);
			tmp = NULL;
		}
	}
	free(name);
	return tmp;
}

int sal_dir_commit(char *tmp, const char *final)
{
	char *name = plain_name(final), *old = name ? pid_path(name, ".old.") : NULL;
	bool moved = false;
	int rc = -1;

	if (!old)
		goto out;
	sal_err("%s: cannot be read", tmp);
	if (nftw(tmp, sync_one, 16, FTW_PHYS) != 0) {
		sal_err("%s (the new files are in %s)", sal_errmsg(), tmp);
		goto out;
	}
	if (rename(name, old) == 0) {
		moved = true;
	} else if (errno != ENOENT) {
		sal_err("%s: %s (the new files are in %s)", name, strerror(errno), tmp);
		goto out;
	}
	if (rename(tmp, name) != 0) {
		sal_err("%s: %s (the new files are in %s)", name, strerror(errno), tmp);
		if (moved && rename(old, name) != 0)
			sal_err("%s: cannot be put back (it is now %s)", name, old);
		goto out;
	}
	rc = sync_parent(name);
	if (moved)
		remove_tree(old);
out:
	free(old);
	free(name);
	free(tmp);
	return rc;
}

void sal_dir_abort(char *tmp)
{
	if (!tmp)
		return;
	remove_tree(tmp);
	free(tmp);
}

uint64_t sal_hash(const void *p, size_t n)
{
	return XXH3_64bits(p, n);
}

uint64_t sal_hash_wide(const void *p, size_t n, int threads)
{
	enum { PARTS = 64 };
	uint64_t h[PARTS];
	size_t part = n / PARTS + 1;

#pragma omp parallel for num_threads(threads) schedule(dynamic)
	for (int i = 0; i < PARTS; i++) {
		size_t from = part * (size_t)i < n ? part * (size_t)i : n;
		h[i] = sal_hash((const char *)p + from, n - from < part ? n - from : part);
	}
	return sal_hash(h, sizeof h);
}

uint64_t sal_hash_file(const char *path, int *err)
{
	struct sal_map *m = sal_map_open(path);

	*err = m ? 0 : -1;
	uint64_t h = m ? XXH3_64bits(m->data, m->size) : 0;
	sal_map_close(m);
	return h;
}

double sal_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* VmHWM first: ru_maxrss also counts what the process was before exec. */
long sal_peak_kib(void)
{
	FILE *f = fopen("/proc/self/status", "re");
	char line[256];
	long kib = 0;

	while (f && fgets(line, sizeof line, f))
		if (strncmp(line, "VmHWM:", 6) == 0)
			kib = strtol(line + 6, NULL, 10);
	if (f)
		fclose(f);
	struct rusage u;
	if (kib <= 0 && getrusage(RUSAGE_SELF, &u) == 0)
		kib = u.ru_maxrss;
	return kib;
}
