/* SPDX-License-Identifier: Apache-2.0 */
/* test_packed.c - files of packed weights: who writes, and what is left alone. */
#include "lib/packed.h"
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static int number, failed;

static void
ok(bool good, const char *what)
{
	printf("%sok %d - %s\n", good ? "" : "not ", ++number, what);
	failed |= !good;
}

/* Of the file's name: 0 if there is none. */
static ino_t
inode(const char *path)
{
	struct stat st;

	return lstat(path, &st) == 0 ? st.st_ino : 0;
}

static bool
text_is(const char *path, const char *want)
{
	char *got = sal_read_file(path, 100, NULL);
	bool same = got && strcmp(got, want) == 0;

	free(got);
	return same;
}

/* A new start, which finds the image or nothing. */
static struct sal_packed
start(const char *of, char *image, bool found, const char *what)
{
	struct sal_packed p = { .room = 128, .threads = 1 };

	ok(sal_packed_open(&p, of) == 0 && (p.map != NULL) == found && !p.unusable, what);
	if (p.map)
		ok(memcmp(p.map->data, image, p.room) == 0, "and it is the image");
	sal_map_close(p.map);
	return p;
}

int
main(void)
{
	char dir[] = "/tmp/sal-packed-XXXXXX", path[256], tmp[300], other[256], cmd[300], image[128 + SAL_PACKED_SEAL];
	struct sal_packed a, b;
	int fd;

	for (size_t i = 0; i < sizeof image; i++)
		image[i] = (char)i;
	ok(mkdtemp(dir) != NULL, "a folder");
	unsetenv("SAL_CACHE");
	ok(!sal_packed_wanted(), "nothing is wanted");
	setenv("SAL_CACHE", "", 1);
	ok(!sal_packed_wanted(), "nor with an empty name");
	snprintf(path, sizeof path, "%s/x//y/", dir);
	setenv("SAL_CACHE", path, 1);
	ok(sal_packed_wanted(), "a name");
	a = start("one", image, false, "a first start finds none");
	b = start("one", image, false, "nor does one beside it");
	ok(strcmp(a.path, b.path) == 0 && sal_packed_write(&a, image) == 0, "the first writes it, in a folder below one that was not there");
	snprintf(tmp, sizeof tmp, "%s.tmp", a.path);
	ino_t first = inode(a.path);
	ok(first != 0 && inode(tmp) == 0, "it is there, and nothing else");
	ok(sal_packed_write(&b, image) == 0 && inode(a.path) == first && inode(tmp) == 0, "the other leaves it as it is");
	free(b.path);
	b = start("one", image, true, "a later start finds it");
	free(b.path);
	b = start("two", image, false, "one of something else does not");
	ok(strcmp(a.path, b.path) != 0, "it has a name of its own");
	free(b.path);
	b = (struct sal_packed){ .room = 64, .threads = 1 };
	ok(sal_packed_open(&b, "one") == 0 && b.map == NULL && b.unusable && strstr(sal_errmsg(), "cut or damaged"), "nor does one of another size");
	free(b.path);

	unlink(a.path);
	fd = open(tmp, O_RDWR | O_CREAT, 0600);
	ok(write(fd, "half", 4) == 4 && flock(fd, LOCK_EX) == 0 && sal_packed_write(&a, image) == 0 && inode(a.path) == 0 && text_is(tmp, "half"),
	    "a file that somebody is writing is left to him");
	close(fd);
	ok(sal_packed_write(&a, image) == 0 && inode(a.path) != 0 && inode(tmp) == 0, "what a dead process left is taken over");
	b = start("one", image, true, "and found");
	free(b.path);

	unlink(a.path);
	ok(mkfifo(tmp, 0600) == 0 && sal_packed_write(&a, image) == -1 && strstr(sal_errmsg(), tmp), "a fifo in the way is not waited for");
	fd = open(tmp, O_RDWR);
	ok(sal_packed_write(&a, image) == -1 && strstr(sal_errmsg(), "not a file of one name"), "nor written to when somebody reads it");
	close(fd);
	unlink(tmp);
	snprintf(other, sizeof other, "%s/other", dir);
	ok(sal_write_file(other, "mine", 4) == 0 && symlink(other, tmp) == 0 && sal_packed_write(&a, image) == -1 && text_is(other, "mine"),
	    "what a link points to is left alone");
	unlink(tmp);
	ok(link(other, tmp) == 0 && sal_packed_write(&a, image) == -1 && text_is(other, "mine"), "and a file with another name");
	unlink(tmp);
	ok(mkdir(a.path, 0700) == 0 && sal_packed_open(&b, "one") == 0 && b.map == NULL && b.unusable, "a folder of its name is not used");
	ok(sal_packed_write(&b, image) == -1 && inode(tmp) == 0 && sal_is_dir(b.path), "nor replaced");
	free(b.path);
	free(a.path);
	setenv("SAL_CACHE", other, 1);
	a = start("one", image, false, "below a file there is none");
	ok(sal_packed_write(&a, image) == -1 && strstr(sal_errmsg(), "other"), "and none can be made");
	free(a.path);

	struct sal_map *m = sal_map_open(other);
	ok(m && sal_map_same(m), "a mapped file is the same");
	ok(truncate(other, 3) == 0 && m && !sal_map_same(m), "until it is cut");
	sal_map_close(m);
	m = sal_map_open(other);
	ok(sal_write_file(other, "min", 3) == 0 && m && !sal_map_same(m), "or replaced");
	sal_map_close(m);
	snprintf(cmd, sizeof cmd, "rm -r %s", dir);
	ok(system(cmd) == 0, "clean up");
	printf("1..%d\n", number);
	return failed;
}
