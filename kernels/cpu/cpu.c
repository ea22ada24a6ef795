/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cpu.c - the CPU back end: choice of the instruction set, memory, sizes.
 *
 * Compiled once, without options of any instruction set: it runs before the
 * choice is made.
 */
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define LARGE ((size_t)2 << 20) /* bytes of a large page */

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi" /* vectors of vec.h are not passed to other files */
#endif
#define SAL_ISA portable /* cpu.h declares the operations of one set; none is used here */
#include "cpu.h"

extern const struct sal_backend sal_cpu_table_avx2, sal_cpu_table_avx512;

struct cpu_priv {
	void *block[SAL_SLOT_COUNT];
	size_t size[SAL_SLOT_COUNT];
};

static bool
has_avx2(void)
{
#if defined(__x86_64__)
	return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
	return false;
#endif
}

static bool
has_avx512(void)
{
#if defined(__x86_64__)
	return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
	    __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
	    __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
#else
	return false;
#endif
}

static bool
has_portable(void)
{
	return true;
}

int
sal_cpu_open(struct sal_dev *dev, int ordinal, int threads, char *err, size_t errlen)
{
	/* best first */
	static const struct {
		const char *name;
		const struct sal_backend *table;
		bool (*usable)(void);
	} isas[] = {
		{ "avx512", &sal_cpu_table_avx512, has_avx512 },
		{ "avx2", &sal_cpu_table_avx2, has_avx2 },
		{ "portable", &sal_cpu_table_portable, has_portable },
	};
	const char *want = getenv("SAL_CPU");
	size_t i, n = sizeof isas / sizeof isas[0];

	(void)ordinal;
	if (want && !*want)
		want = NULL;
	for (i = 0; i < n; i++)
		if (want ? !strcmp(want, isas[i].name) : isas[i].usable())
			break;
	if (i == n) {
		snprintf(err, errlen, "SAL_CPU=%s: not one of portable, avx2, avx512", want);
		return -1;
	}
	if (!isas[i].usable()) {
		snprintf(err, errlen, "SAL_CPU=%s: this processor lacks the instructions", want);
		return -1;
	}
	dev->priv = calloc(1, sizeof(struct cpu_priv));
	if (!dev->priv) {
		snprintf(err, errlen, "out of memory");
		return -1;
	}
	dev->be = isas[i].table;
	dev->isa = isas[i].name;
	dev->threads = threads > 0 ? threads : omp_get_num_procs();
	return 0;
}

void
sal_cpu_close(struct sal_dev *dev)
{
	struct cpu_priv *p = dev->priv;

	for (int i = 0; i < SAL_SLOT_COUNT; i++)
		free(p->block[i]);
	free(p);
	dev->priv = NULL;
}

int
sal_cpu_sync(struct sal_dev *dev)
{
	return dev->error[0] ? -1 : 0;
}

void *
sal_cpu_alloc(struct sal_dev *dev, size_t bytes)
{
	(void)dev;
	size_t step = bytes < LARGE ? 64 : LARGE;
	void *p;

	if (bytes > SIZE_MAX - LARGE)
		return NULL;
	p = aligned_alloc(step, (bytes + step) / step * step); /* never of size 0 */
#ifdef MADV_HUGEPAGE
	if (p && bytes >= LARGE)
		madvise(p, bytes, MADV_HUGEPAGE); /* a start spends less time on faults; nothing is lost where it is refused */
#endif
	return p;
}

void
sal_cpu_free(struct sal_dev *dev, void *p)
{
	(void)dev;
	free(p);
}

void
sal_cpu_move(struct sal_dev *dev, void *dst, const void *src, size_t bytes)
{
	(void)dev;
	if (bytes)
		memcpy(dst, src, bytes);
}

void *
sal_cpu_scratch(struct sal_dev *dev, enum sal_slot slot, size_t bytes)
{
	struct cpu_priv *p = dev->priv;

	if (bytes > p->size[slot] || !p->block[slot]) {
		free(p->block[slot]);
		p->block[slot] = sal_cpu_alloc(dev, bytes);
		p->size[slot] = p->block[slot] ? bytes : 0;
		if (!p->block[slot])
			sal_dev_fail(dev, "out of memory: %zu bytes of working memory", bytes);
	}
	return p->block[slot];
}

/* What sal_dev_open() finds; open() replaces it by the table of the chosen instruction set. */
const struct sal_backend sal_cpu_backend = {
	.name = "cpu",
	.open = sal_cpu_open,
};
