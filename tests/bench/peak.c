/* SPDX-License-Identifier: Apache-2.0 */
/*
 * peak.c - what the cores can do: multiply-adds in a loop that touches registers alone.
 *
 * usage: peak [CPU...]: one thread on each CPU named [0 1].  One JSON line for each instruction and number of threads:
 * median of seven runs, in GFLOP/s (int8: GOP/s).  An instruction that the processor lacks is left out.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define RUNS 7
#define MAX_THREADS 64

static pthread_barrier_t bar;

static double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef float v16 __attribute__((vector_size(64)));
typedef float v8 __attribute__((vector_size(32)));

/* n turns of one step of each sum, 12 or 24 of them: enough to hide the latency of two pipes, few enough for the registers */
#define SUMS12(M) M(0) M(1) M(2) M(3) M(4) M(5) M(6) M(7) M(8) M(9) M(10) M(11)
#define SUMS24(M) SUMS12(M) M(12) M(13) M(14) M(15) M(16) M(17) M(18) M(19) M(20) M(21) M(22) M(23)
#define DECLARE(i) , s##i = x
#define LOOP(name, isa, V, SUMS, STEP)                         \
	__attribute__((target(isa))) static void name(long n)  \
	{                                                      \
		V x = { 0 }, y = { 0 } SUMS(DECLARE);          \
		while (n-- > 0) {                              \
			SUMS(STEP)                             \
		}                                              \
	}
#define FMA(i) __asm__ volatile("vfmadd231ps %2, %1, %0" : "+v"(s##i) : "v"(x), "v"(y));
#define BF16(i) __asm__ volatile("vdpbf16ps %2, %1, %0" : "+v"(s##i) : "v"(x), "v"(y));
#define INT8(i) __asm__ volatile("vpdpbusd %2, %1, %0" : "+v"(s##i) : "v"(x), "v"(y));
LOOP(fma512, "avx512f", v16, SUMS24, FMA)
LOOP(fma256, "avx2,fma", v8, SUMS12, FMA)
LOOP(bf16, "avx512f,avx512bf16", v16, SUMS24, BF16)
LOOP(int8, "avx512f,avx512vnni", v16, SUMS24, INT8)

struct job {
	int cpu;
	void (*loop)(long n);
	long n;
	double seconds;
};

static void *
run(void *p)
{
	struct job *j = p;
	cpu_set_t set;
	double t;

	CPU_ZERO(&set);
	CPU_SET(j->cpu, &set);
	pthread_setaffinity_np(pthread_self(), sizeof set, &set);
	j->loop(j->n / 8); /* the clock settles */
	pthread_barrier_wait(&bar);
	t = now();
	j->loop(j->n);
	j->seconds = now() - t;
	return NULL;
}

static int
rising(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void
measure(const char *name, void (*loop)(long n), int flops, const int *cpu, int threads)
{
	struct job job[MAX_THREADS];
	pthread_t id[MAX_THREADS];
	double rate[RUNS];
	const long n = 8000000;

	for (int r = 0; r < RUNS; r++) {
		double longest = 0;
		pthread_barrier_init(&bar, NULL, (unsigned)threads);
		for (int i = 0; i < threads; i++) {
			job[i] = (struct job){ cpu[i], loop, n, 0 };
			if (pthread_create(&id[i], NULL, run, &job[i])) {
				perror("peak: a thread");
				exit(1);
			}
		}
		for (int i = 0; i < threads; i++) {
			pthread_join(id[i], NULL);
			longest = job[i].seconds > longest ? job[i].seconds : longest;
		}
		pthread_barrier_destroy(&bar);
		rate[r] = 1e-9 * flops * (double)n * threads / longest;
	}
	qsort(rate, RUNS, sizeof *rate, rising);
	printf("{\"peak\":\"%s\",\"threads\":%d,\"gflops\":%.1f,\"worst\":%.1f,\"best\":%.1f}\n", name, threads, rate[RUNS / 2], rate[0], rate[RUNS - 1]);
	fflush(stdout);
}

int
main(int argc, char **argv)
{
	int cpu[MAX_THREADS] = { 0, 1 }, n = 2;

	if (argc > 1)
		for (n = 0; n + 1 < argc && n < MAX_THREADS; n++)
			cpu[n] = atoi(argv[n + 1]);
	for (int i = 0; i < 2; i++) {
		int threads = i ? n : 1;
		if (i && n == 1)
			break;
		if (__builtin_cpu_supports("avx512f"))
			measure("f32", fma512, 24 * 32, cpu, threads);
		else if (__builtin_cpu_supports("fma"))
			measure("f32", fma256, 12 * 16, cpu, threads);
		if (__builtin_cpu_supports("avx512bf16"))
			measure("bf16", bf16, 24 * 64, cpu, threads);
		if (__builtin_cpu_supports("avx512vnni"))
			measure("int8", int8, 24 * 128, cpu, threads);
	}
	return 0;
}
