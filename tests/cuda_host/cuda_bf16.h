/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_bf16.h - bfloat16 on the CPU, for tests; see on_host.h. */
#ifndef SAL_CUDA_HOST_BF16_H
#define SAL_CUDA_HOST_BF16_H

#include <cstdint>
#include <cstring>

struct __nv_bfloat16 {
	uint16_t bits;
};

static inline float
__bfloat162float(__nv_bfloat16 h)
{
	uint32_t u = (uint32_t)h.bits << 16;
	float f;

	memcpy(&f, &u, sizeof f);
	return f;
}

/* To nearest, ties to even; every NaN becomes the one that cards make. */
static inline __nv_bfloat16
__float2bfloat16(float f)
{
	uint32_t u;

	memcpy(&u, &f, sizeof u);
	if ((u & 0x7fffffffu) > 0x7f800000u)
		return { 0x7fff };
	return { (uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16) };
}

#endif
