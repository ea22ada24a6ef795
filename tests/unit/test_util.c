/* SPDX-License-Identifier: Apache-2.0 */
/* test_util.c - the error line, buffers, files and folders. */
#include "lib/util.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int number, failed;

static void ok(int good, const char *what)
{
	printf("%sok %d - %s\n", good ? "" : "not ", ++number, what);
	failed |= !good;
}

static int text_is(const char *path, const char *want)
{
	size_t n = 0;
	char *t = sal_read_file(path, 1000, &n);
	int same = t && n == strlen(want) && memcmp(t, want, n + 1) == 0;

	free(t);
	return same;
}

int main(void)
{
	char dir[] = "/tmp/sal_test_XXXXXX", a[200], b[300], cmd[300];
	uint64_t v;

	if (!mkdtemp(dir))
		return 1;
	ok(sal_err("a\nb %d", 3) == -1 && strcmp(sal_errmsg(), "a?b 3") == 0, "control bytes in an error");
	sal_err("x: %s", sal_errmsg());
	ok(strcmp(sal_errmsg(), "x: a?b 3") == 0, "an error in an error");
	ok(!sal_mul_ok(1ull << 33, 1ull << 33, &v) && sal_mul_ok(3, 4, &v) && v == 12 && !sal_add_ok(UINT64_MAX, 1, &v), "checked sizes");

	struct sal_buf buf = { 0 };
	for (int i = 0; i < 1000; i++)
		sal_buf_printf(&buf, "%d,", i % 10);
	ok(!buf.failed && buf.len == 2000 && strlen(buf.data) == 2000 && memcmp(buf.data, "0,1,2", 5) == 0, "buffer");
	sal_buf_free(&buf);
	struct sal_ids ids = { 0 };
	int bad = 0;
	for (int i = 0; i < 1000; i++)
		bad |= sal_ids_push(&ids, i);
	ok(!bad && ids.n == 1000 && ids.id[999] == 999, "ids");
	free(ids.id);

	snprintf(a, sizeof a, "%s/f", dir);
	ok(sal_write_file(a, "hello", 5) == 0 && text_is(a, "hello"), "write and read a file");
	ok(sal_write_file(a, "", 0) == 0 && text_is(a, ""), "replace by an empty file");
	struct sal_map *m = sal_map_open(a);
	ok(m && m->size == 0 && m->data, "map an empty file");
	sal_map_close(m);
	ok(!sal_map_open(dir) && strstr(sal_errmsg(), dir), "a folder is not mapped");
	ok(sal_write_file(dir, "x", 1) == -1, "a folder is not replaced");
	snprintf(b, sizeof b, "%s/fifo", dir);
	ok(mkfifo(b, 0600) == 0 && !sal_map_open(b) && strstr(sal_errmsg(), "regular"), "a fifo is refused at once");
	ok(sal_write_file(a, "hello", 5) == 0 && !sal_read_file(a, 4, NULL), "a file above the limit");
	int err = 0;
	ok(sal_hash_file(a, &err) == sal_hash("hello", 5) && err == 0, "hash of a file");
	char wide[1000] = { 0 };
	uint64_t h = sal_hash_wide(wide, sizeof wide, 1);
	int changed = 0, cut = 0;
	for (size_t i = 0; i < sizeof wide; i++) {
		wide[i]++;
		changed += sal_hash_wide(wide, sizeof wide, 1) != h;
		wide[i]--;
		cut += sal_hash_wide(wide, i, 1) != h;
	}
	ok(changed == 1000 && cut == 1000, "a wide hash depends on every byte and on how many there are");
	ok(sal_hash_wide(wide, sizeof wide, 3) == h && sal_hash_wide(wide, 63, 2) == sal_hash_wide(wide, 63, 1), "and not on threads");
	sal_hash_file("/nonexistent", &err);
	ok(err == -1, "hash of no file");

	snprintf(a, sizeof a, "%s/out", dir);
	snprintf(b, sizeof b, "%s/out.tmp.2147483646", dir); /* no such process */
	ok(mkdir(b, 0700) == 0, "a left-over");
	for (int i = 0; i < 2; i++) {
		char *tmp = sal_dir_begin(a, "x"), *p = tmp ? sal_path_join(tmp, "x") : NULL;
		ok(p && sal_write_file(p, i ? "two" : "one", 3) == 0 && sal_dir_commit(tmp, a) == 0, "build a folder");
		free(p);
		snprintf(cmd, sizeof cmd, "%s/x", a);
		ok(text_is(cmd, i ? "two" : "one"), "its file");
	}
	ok(access(b, F_OK) != 0, "the left-over is gone");
	char *tmp = sal_dir_begin(a, "x");
	ok(tmp && sal_is_dir(tmp), "begin");
	sal_dir_abort(tmp);
	ok(sal_dir_check(a, "y") == -1 && sal_dir_begin(a, "y") == NULL && strstr(sal_errmsg(), "no y"), "a folder without the mark is refused");
	ok(sal_dir_check(b, "y") == 0 && mkdir(b, 0700) == 0 && sal_dir_check(b, "y") == 0 && rmdir(b) == 0, "no folder, or an empty one, is none");
	snprintf(cmd, sizeof cmd, "%s/none/out", dir);
	ok(sal_dir_check(cmd, "y") == -1, "a folder that cannot be made");
	snprintf(cmd, sizeof cmd, "test \"$(ls %s | tr '\\n' ' ')\" = 'f fifo out '", dir);
	ok(system(cmd) == 0, "nothing else is left");
	snprintf(cmd, sizeof cmd, "rm -r %s", dir);
	ok(system(cmd) == 0 && sal_peak_kib() > 0 && sal_now() > 0, "clean up");
	printf("1..%d\n", number);
	return failed;
}
