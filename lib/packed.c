/* SPDX-License-Identifier: Apache-2.0 */
/* packed.c - a model's packed weights in a file, sealed with their hash. */
#include "lib/packed.h"
#include <errno.h>
#include <fcntl.h>
#ifdef __GLIBC__
#include <gnu/libc-version.h>
#endif
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

struct seal {
	char magic[8];
	uint64_t key, room, sum;
	char zero[SAL_PACKED_SEAL - 32];
};

static struct seal
seal_of(const struct sal_packed *p, const void *image)
{
	return (struct seal){ .magic = "salpack", .key = p->key, .room = p->room, .sum = sal_hash_wide(image, p->room, p->threads) };
}

/* The folder, or NULL. */
static const char *
folder(void)
{
	const char *dir = getenv("SAL_CACHE");

	return dir && *dir ? dir : NULL;
}

bool
sal_packed_wanted(void)
{
	return folder() != NULL;
}

/* SAL_PACKING: the Makefile's sum of what packs.  The table of angles is the C library's, whose version is asked for when it runs. */
static uint64_t
key_of(const char *of)
{
	static const char code[] = SAL_VERSION " " SAL_PACKING;
	const char *libc = "";
#ifdef __GLIBC__
	libc = gnu_get_libc_version();
#endif
	uint64_t h[3] = { sal_hash(code, sizeof code), sal_hash(libc, strlen(libc)), sal_hash(of, strlen(of)) };

	return sal_hash(h, sizeof h);
}

int
sal_packed_open(struct sal_packed *p, const char *of)
{
	char name[32];
	struct stat st;

	p->key = key_of(of);
	p->map = NULL;
	p->unusable = false;
	snprintf(name, sizeof name, "%016llx.packed", (unsigned long long)p->key);
	if ((p->path = sal_path_join(folder(), name)) == NULL)
		return -1;
	if (stat(p->path, &st) != 0)
		return 0;
	if ((p->map = sal_map_open(p->path)) != NULL) {
		if (p->map->size == p->room + SAL_PACKED_SEAL) {
			struct seal s = seal_of(p, p->map->data);
			if (memcmp(&s, p->map->data + p->room, sizeof s) == 0)
				return 0;
		}
		sal_err("%s: cut or damaged", p->path);
	}
	sal_map_close(p->map);
	p->map = NULL;
	p->unusable = true;
	return 0;
}

/* The folder and those above it, as far as they are missing. */
static int
make_folder(const char *dir)
{
	char *path = sal_path_join(dir, "");
	int rc = path ? 0 : -1;

	for (char *p = path; rc == 0 && (p = strchr(p + 1, '/')) != NULL; *p = '/') {
		*p = '\0';
		if (mkdir(path, 0777) != 0 && errno != EEXIST)
			rc = sal_err("%s: %s", path, strerror(errno));
	}
	free(path);
	return rc;
}

/* Is tmp still a name of the file that was opened by it? */
static bool
is_at(int fd, const char *tmp, struct stat *mine)
{
	struct stat there;

	return fstat(fd, mine) == 0 && lstat(tmp, &there) == 0 && mine->st_ino == there.st_ino && mine->st_dev == there.st_dev;
}

/*
 * Write through tmp, whose lock says that somebody does: who dies leaves it to the next.  Not synced: a seal that is there without
 * its image does not fit.
 */
static int
write_locked(const struct sal_packed *p, const char *tmp, int fd, const void *image)
{
	struct stat st;

	if (flock(fd, LOCK_EX | LOCK_NB) != 0)
		return errno == EWOULDBLOCK ? 0 : sal_err("%s: %s", tmp, strerror(errno));
	if (!is_at(fd, tmp, &st)) /* who had the lock has put it in its place */
		return 0;
	if (!S_ISREG(st.st_mode) || st.st_nlink != 1)
		return sal_err("%s: not a file of one name", tmp);
	if (!p->unusable && stat(p->path, &st) == 0) { /* written since it was looked for */
		unlink(tmp);
		return 0;
	}
	if (ftruncate(fd, 0) == 0 && sal_write_all(fd, image, p->room + SAL_PACKED_SEAL) == 0) {
		if (!is_at(fd, tmp, &st))
			return sal_err("%s: removed while it was written", tmp);
		if (rename(tmp, p->path) == 0)
			return 0;
	}
	sal_err("%s: %s", p->path, strerror(errno));
	if (is_at(fd, tmp, &st))
		unlink(tmp);
	return -1;
}

int
sal_packed_write(const struct sal_packed *p, void *image)
{
	struct seal s = seal_of(p, image);
	struct sal_buf tmp = { 0 };
	int fd, rc;

	memcpy((char *)image + p->room, &s, sizeof s);
	sal_buf_printf(&tmp, "%s.tmp", p->path);
	if (tmp.failed)
		rc = sal_err("out of memory");
	else if (make_folder(folder()) != 0)
		rc = -1;
	else if ((fd = open(tmp.data, O_WRONLY | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0666)) < 0)
		rc = sal_err("%s: %s", tmp.data, strerror(errno));
	else {
		rc = write_locked(p, tmp.data, fd, image);
		close(fd);
	}
	sal_buf_free(&tmp);
	return rc;
}
