/* SPDX-License-Identifier: Apache-2.0 */
/*
 * used.c - run a program and write down what it took.
 *
 * usage: used FILE PROGRAM [ARGUMENT...]: FILE gets {"seconds", "rss_kib"}: exec to exit, and the most memory.  The exit
 * status is the program's.  A child begins with the peak of the process that forked it: this one is small, a script is not.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int
main(int argc, char **argv)
{
	struct rusage u;
	double start = now();
	int status;
	FILE *f;
	pid_t pid = argc > 2 ? fork() : -1;

	if (pid == 0) {
		execvp(argv[2], argv + 2);
		perror(argv[2]);
		_exit(127);
	}
	if (pid < 0 || wait4(pid, &status, 0, &u) != pid || !(f = fopen(argv[1], "w"))) {
		perror("used");
		return 126;
	}
	fprintf(f, "{\"seconds\":%.6f,\"rss_kib\":%ld}\n", now() - start, u.ru_maxrss);
	fclose(f);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
