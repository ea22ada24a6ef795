/* SPDX-License-Identifier: Apache-2.0 */
/*
 * on_host.h - CUDA on the CPU, for tests: stands in the place of NVIDIA's
 * cuda_runtime.h when a .cu file of kernels/cuda is compiled as C++.
 *
 * A thread is a fiber that runs until it waits: at __syncthreads(), at a warp
 * operation, or at its end.  The order in which warps run is CUDA_HOST_ORDER:
 * forward, reverse, or a number (a shuffle with that seed); a correct kernel
 * gives the same bytes under all of them.  Shared memory is full of NaN at the
 * start of a block and device memory when it is allocated.  Wrong use (a host
 * pointer in a launch, a barrier that not all threads reach, a lane that is not
 * in the mask) ends the process with one line and status 99.
 *
 * Only what kernels/cuda uses is here.  Whether the declarations agree with
 * NVIDIA's is seen where nvcc compiles the same files (make cuda).
 */
#ifndef SAL_CUDA_ON_HOST_H
#define SAL_CUDA_ON_HOST_H

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __noinline__ __attribute__((noinline))

struct float4 {
	float x, y, z, w;
} __attribute__((aligned(16)));

struct uint3 {
	unsigned x, y, z;
};

struct dim3 {
	unsigned x, y, z;
	constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};

/* ---- the runtime ----------------------------------------------------------- */

typedef enum {
	cudaSuccess = 0,
	cudaErrorInvalidValue = 1,
	cudaErrorMemoryAllocation = 2,
	cudaErrorInvalidConfiguration = 9,
	cudaErrorNoDevice = 100,
	cudaErrorInvalidDevice = 101,
	cudaErrorLaunchFailure = 719,
} cudaError_t;
typedef struct cuda_host_stream *cudaStream_t;
typedef enum {
	cudaMemcpyHostToHost,
	cudaMemcpyHostToDevice,
	cudaMemcpyDeviceToHost,
	cudaMemcpyDeviceToDevice
} cudaMemcpyKind;
typedef enum { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 } cudaFuncAttribute;
struct cudaDeviceProp {
	char name[256];
};

extern "C" {
cudaError_t cudaGetDeviceCount(int *n);
cudaError_t cudaSetDevice(int n);
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int n);
cudaError_t cudaStreamCreate(cudaStream_t *s);
cudaError_t cudaStreamDestroy(cudaStream_t s);
cudaError_t cudaStreamSynchronize(cudaStream_t s);
cudaError_t cudaMalloc(void **p, size_t n);
cudaError_t cudaFree(void *p);
cudaError_t cudaMemcpyAsync(void *d, const void *s, size_t n, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemsetAsync(void *d, int c, size_t n, cudaStream_t stream);
cudaError_t cudaMemGetInfo(size_t *room, size_t *all);
cudaError_t cudaGetLastError(void);
const char *cudaGetErrorString(cudaError_t e);
}

/* ---- inside a kernel ------------------------------------------------------- */

namespace cuda_host {

enum state { RUNS, AT_BARRIER, AT_WARP, ENDED };

struct thread {
	uint3 index;
	unsigned id;     /* in the block */
	enum state state;
	int line;        /* of the operation it waits at */
	unsigned mask;   /* of a warp operation */
	int kind, from;  /* which; the lane read */
	uint64_t value, result;
	unsigned meetings; /* warp operations that also order memory: for the race checker */
	void *sp;
	struct stack *stack;
};

extern struct thread *self; /* NULL in host code */
extern uint3 block_index;
extern dim3 block_size, grid_size;
extern unsigned barriers, launches, block_number; /* counted, for the race checker */
extern void (*on_atomic)(const volatile void *p, size_t n);

[[noreturn]] void die(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void *shared(const void *key, size_t bytes);
void barrier(int line);
enum { SYNC, BALLOT, SHUFFLE };
uint64_t meet(int kind, int line, unsigned mask, uint64_t value, int from);
bool on_device(const volatile void *p);
bool in_shared(const volatile void *p);
void later(std::function<void()> work); /* now, or at the next wait when CUDA_HOST_LAZY is set */
void run(const char *name, const void *kernel, dim3 grid, dim3 block, size_t bytes, void (*body)(void *), void *ctx);
/* For ptx.py: before and after a launch; an operand of it. */
extern bool recording;
bool record_begin(const void *kernel, dim3 grid, dim3 block, size_t bytes, int operands);
void record_operand(const void *p, size_t bytes);
void record_end(void);
cudaError_t allow_shared(const void *kernel, int bytes);

template <class T>
T
shuffle(int line, unsigned mask, T v, int from)
{
	static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
	uint64_t u = 0;

	memcpy(&u, &v, sizeof v);
	u = meet(SHUFFLE, line, mask, u, from);
	memcpy(&v, &u, sizeof v);
	return v;
}

static inline int
lane(void)
{
	return (int)(self->id % 32);
}

template <class P>
void
check_operand(const char *name, const P &p)
{
	if constexpr (std::is_pointer_v<P>)
		if (p && !on_device((const void *)p))
			die("%s: an operand is not device memory", name);
}

template <class... P, class... A>
void
launch(const char *name, void (*kernel)(P...), dim3 grid, dim3 block, size_t bytes, cudaStream_t, A... a)
{
	(check_operand<P>(name, a), ...);
	later([=] {
		auto body = [&] { kernel(P(a)...); };

		if (recording && record_begin((const void *)kernel, grid, block, bytes, (int)sizeof...(P)))
			([](const P &p) { record_operand(&p, sizeof p); }((P)a), ...);
		run(name, (const void *)kernel, grid, block, bytes, [](void *c) { (*(decltype(body) *)c)(); }, &body);
		if (recording)
			record_end();
	});
}

template <class T, class F>
__attribute__((no_sanitize("thread"))) T
atomic(T *p, F f)
{
	if (on_atomic)
		on_atomic(p, sizeof *p);
	T old = *p;
	*p = f(old);
	return old;
}

} // namespace cuda_host

#define threadIdx (cuda_host::self->index)
#define blockIdx cuda_host::block_index
#define blockDim cuda_host::block_size
#define gridDim cuda_host::grid_size

#define LAUNCH(k, grid, block, bytes, stream, ...) cuda_host::launch(#k, k, grid, block, bytes, stream, __VA_ARGS__)
#define SHARED(T, name, dims)                                     \
	typedef T name##_type dims;                               \
	static char name##_key;                                    \
	name##_type &name = *(name##_type *)cuda_host::shared(&name##_key, sizeof(name##_type))
#define SHARED_DYN(T, name) T *name = (T *)cuda_host::shared(NULL, 0)

#define __syncthreads() cuda_host::barrier(__LINE__)
#define __syncwarp() (void)cuda_host::meet(cuda_host::SYNC, __LINE__, 0xffffffffu, 0, 0)
#define __shfl_sync(mask, v, from) cuda_host::shuffle(__LINE__, mask, v, (from) & 31)
#define __shfl_xor_sync(mask, v, x) cuda_host::shuffle(__LINE__, mask, v, cuda_host::lane() ^ (x))
#define __shfl_up_sync(mask, v, n) \
	cuda_host::shuffle(__LINE__, mask, v, cuda_host::lane() < (n) ? cuda_host::lane() : cuda_host::lane() - (n))
#define __ballot_sync(mask, p) ((unsigned)cuda_host::meet(cuda_host::BALLOT, __LINE__, mask, (p) != 0, 0))

template <class T>
T
atomicAdd(T *p, std::common_type_t<T> v)
{
	static_assert(std::is_integral_v<T>, "sums of floats have one order: no atomics");
	return cuda_host::atomic(p, [=](T old) { return (T)(old + v); });
}

template <class T>
T
atomicCAS(T *p, std::common_type_t<T> want, std::common_type_t<T> v)
{
	return cuda_host::atomic(p, [=](T old) { return old == want ? v : old; });
}

static inline unsigned
__float_as_uint(float f)
{
	unsigned u;

	memcpy(&u, &f, sizeof u);
	return u;
}

static inline float
__uint_as_float(unsigned u)
{
	float f;

	memcpy(&f, &u, sizeof f);
	return f;
}

static inline int
__ffs(int x)
{
	return __builtin_ffs(x);
}

template <class T>
constexpr T
min(T a, T b)
{
	return b < a ? b : a;
}

template <class T>
constexpr T
max(T a, T b)
{
	return a < b ? b : a;
}

template <class K>
cudaError_t
cudaFuncSetAttribute(K *kernel, cudaFuncAttribute, int bytes)
{
	return cuda_host::allow_shared((const void *)kernel, bytes);
}

#endif
