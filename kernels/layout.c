/* SPDX-License-Identifier: Apache-2.0 */
/* layout.c - what each back end takes of memory, whether this build can run it or not. */
#include <string.h>

#include "backend.h"
#include "cuda/room.h"

static size_t
cpu_packed_bytes(enum sal_dtype dtype, int64_t out, int64_t in)
{
	size_t o = (size_t)(out + SAL_CPU_PANEL - 1) / SAL_CPU_PANEL * SAL_CPU_PANEL;

	/* bf16 stands in pairs along the sum */
	return dtype == SAL_BF16 ? o * (size_t)((in + 1) / 2 * 2) * 2 : o * (size_t)in * 4;
}

size_t
sal_int8_bytes(int64_t out, int64_t in)
{
	size_t panels = (size_t)(out + SAL_CPU_PANEL - 1) / SAL_CPU_PANEL, groups = (size_t)(in + SAL_INT8_GROUP - 1) / SAL_INT8_GROUP;

	return panels * groups * SAL_CPU_PANEL * (SAL_INT8_GROUP + sizeof(float));
}

/* Blocks of rows of a thread, in cache, are not counted. */
static size_t
cpu_work_bytes(const struct sal_work *w)
{
	size_t panels = (size_t)(w->widest + SAL_CPU_PANEL) * 4;

	return w->train ? 2 * panels * (size_t)w->rows : panels;
}

static size_t
cuda_packed_bytes(enum sal_dtype dtype, int64_t out, int64_t in)
{
	return (size_t)(out * in) * (dtype == SAL_BF16 ? 2 : 4);
}

const struct sal_layout sal_cpu_layout = { .name = "cpu", .ordered = true, .host = true, .keeps = 1u << SAL_PLAIN | 1u << SAL_INT8, .packed_bytes = cpu_packed_bytes, .work_bytes = cpu_work_bytes };
const struct sal_layout sal_cuda_layout = { .name = "cuda", .one_copy = true /* cuBLAS reads a matrix either way */, .keeps = ((1u << SAL_FORMS) - 1) & ~(1u << SAL_INT8), .packed_bytes = cuda_packed_bytes,
	.work_bytes = sal_cuda_work_bytes };

const struct sal_layout *
sal_layout(const char *name)
{
	if (!name || !strcmp(name, "cpu"))
		return &sal_cpu_layout;
	if (!strcmp(name, "cuda"))
		return &sal_cuda_layout;
	size_t digits = strncmp(name, "cuda:", 5) ? 0 : strspn(name + 5, "0123456789");
	return digits >= 1 && digits <= 3 && !name[5 + digits] ? &sal_cuda_layout : NULL;
}

bool
sal_layout_keeps(const struct sal_layout *l, enum sal_form form)
{
	return l->keeps >> form & 1;
}

bool
sal_layout_host(const struct sal_layout *l)
{
	return l->host;
}

bool
sal_layout_ordered(const struct sal_layout *l)
{
	return l->ordered;
}

size_t
sal_work_room(const struct sal_layout *l, const struct sal_work *w)
{
	return l->work_bytes(w);
}
