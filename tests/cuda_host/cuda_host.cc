/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cuda_host.cc - the other side of on_host.h and cublas_v2.h: fibers, a
 * scheduler, memory, and matrix products as plain loops.  For tests only.
 *
 * Environment: CUDA_HOST_ORDER=forward|reverse|N (order of blocks and warps),
 * CUDA_HOST_LAZY=1 (nothing runs before the program waits), CUDA_HOST_GUARD=1
 * (device memory can be touched by kernels and copies alone), CUDA_HOST_CARDS=N,
 * CUDA_HOST_FAIL=N (the N-th cudaMalloc fails), CUDA_HOST_FAIL_SYNC=N (so does the
 * N-th wait, as after a kernel that went wrong), CUDA_HOST_MEMORY=BYTES,
 * CUDA_HOST_RECORD=FILE (launches for ptx.py, of each kernel the 1st, 2nd, 4th, 8th ...).
 */
#include "on_host.h"

#include "cublas_v2.h"
#include "cuda_bf16.h"

#include <csignal>
#include <cstdarg>
#include <map>
#include <sys/mman.h>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define ASAN 1
#else
#define ASAN 0
#define ASAN_POISON_MEMORY_REGION(p, n) ((void)0)
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)0)
#endif
#define QUIET __attribute__((no_sanitize("thread")))

namespace cuda_host {

struct thread *self;
uint3 block_index;
dim3 block_size, grid_size;
unsigned barriers, launches, block_number;
void (*on_atomic)(const volatile void *, size_t);

static const size_t OS_PAGE = 4096, STACK = 256 << 10, STATIC_SHARED = 48 << 10, MOST_SHARED = 99 << 10, ZONE = 64,
                    SHARED_ROOM = 256 << 10, RESERVE = (size_t)1 << 40;
static const char *running = "host code";

void
die(const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "cuda_host: %s", running);
	if (self)
		fprintf(stderr, ": block %u,%u,%u thread %u,%u,%u", block_index.x, block_index.y, block_index.z, self->index.x,
		    self->index.y, self->index.z);
	fprintf(stderr, ": ");
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, "\n");
	_Exit(99);
}

static long
env(const char *name, long unset)
{
	const char *s = getenv(name);

	return s && *s ? atol(s) : unset;
}

/* ---- fibers --------------------------------------------------------------- */

struct stack {
	char *low;
	void *sp;
};

#if defined(__x86_64__)
/* Save the registers that a call must keep, exchange stacks, and take them back from the other one. */
extern "C" void cuda_host_switch(void **save, void *to);
asm(".text\n.globl cuda_host_switch\n.type cuda_host_switch,@function\ncuda_host_switch:\n"
    "	pushq %rbp\n	pushq %rbx\n	pushq %r12\n	pushq %r13\n	pushq %r14\n	pushq %r15\n"
    "	movq %rsp, (%rdi)\n	movq %rsi, %rsp\n"
    "	popq %r15\n	popq %r14\n	popq %r13\n	popq %r12\n	popq %rbx\n	popq %rbp\n	ret\n");
enum { SAVED = 6 };
#elif defined(__aarch64__)
extern "C" void cuda_host_switch(void **save, void *to);
asm(".text\n.globl cuda_host_switch\n.type cuda_host_switch,%function\ncuda_host_switch:\n"
    "	sub sp, sp, #160\n	stp x19, x20, [sp]\n	stp x21, x22, [sp, #16]\n	stp x23, x24, [sp, #32]\n"
    "	stp x25, x26, [sp, #48]\n	stp x27, x28, [sp, #64]\n	stp d8, d9, [sp, #80]\n	stp d10, d11, [sp, #96]\n"
    "	stp d12, d13, [sp, #112]\n	stp d14, d15, [sp, #128]\n	stp x29, x30, [sp, #144]\n"
    "	mov x9, sp\n	str x9, [x0]\n	mov sp, x1\n"
    "	ldp x19, x20, [sp]\n	ldp x21, x22, [sp, #16]\n	ldp x23, x24, [sp, #32]\n	ldp x25, x26, [sp, #48]\n"
    "	ldp x27, x28, [sp, #64]\n	ldp d8, d9, [sp, #80]\n	ldp d10, d11, [sp, #96]\n	ldp d12, d13, [sp, #112]\n"
    "	ldp d14, d15, [sp, #128]\n	ldp x29, x30, [sp, #144]\n	add sp, sp, #160\n	ret\n");
enum { SAVED = 20 };
#else
#error "cuda_host: fibers are written for x86-64 and AArch64"
#endif

static void *host_sp;
static void (*body)(void *);
static void *body_ctx;
static std::vector<struct stack *> &spare = *new std::vector<struct stack *>; /* for as long as the process */
#if ASAN
static const void *host_low;
static size_t host_size;
#endif

QUIET static void
wait(void)
{
#if ASAN
	void *fake = NULL;

	__sanitizer_start_switch_fiber(&fake, host_low, host_size);
#endif
	cuda_host_switch(&self->stack->sp, host_sp);
#if ASAN
	__sanitizer_finish_switch_fiber(fake, NULL, NULL);
#endif
}

QUIET static void
fiber(void)
{
#if ASAN
	__sanitizer_finish_switch_fiber(NULL, &host_low, &host_size);
#endif
	for (;;) { /* the stack of a thread that has ended serves the next */
		body(body_ctx);
		self->state = ENDED;
		wait();
	}
}

QUIET static struct stack *
new_stack(void)
{
	char *m = (char *)mmap(NULL, STACK + OS_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (m == MAP_FAILED || mprotect(m, OS_PAGE, PROT_NONE))
		die("no memory for stacks");
	void **top = (void **)(m + OS_PAGE + STACK) - 2 - SAVED;
	memset(top, 0, (SAVED + 2) * sizeof *top);
#if defined(__x86_64__)
	top[SAVED] = (void *)fiber; /* where ret goes; above it stands the missing return address */
#else
	top[SAVED - 1] = (void *)fiber;
#endif
	return new stack{ m + OS_PAGE, top };
}

QUIET static void
resume(struct thread *t)
{
	if (!t->stack) {
		if (spare.empty())
			spare.push_back(new_stack());
		t->stack = spare.back();
		spare.pop_back();
	}
	self = t;
#if ASAN
	void *fake = NULL;
	__sanitizer_start_switch_fiber(&fake, t->stack->low, STACK);
#endif
	cuda_host_switch(&host_sp, t->stack->sp);
#if ASAN
	__sanitizer_finish_switch_fiber(fake, NULL, NULL);
#endif
	self = NULL;
	if (t->state == ENDED) {
		spare.push_back(t->stack);
		t->stack = NULL;
	}
}

/* ---- what a thread waits for ------------------------------------------------ */

static std::vector<struct thread> threads;

/* Lanes of a warp, as bits: there at all and not ended; waiting at a warp operation */
struct warp {
	unsigned live, waiting;
};
static std::vector<struct warp> warp_of;

QUIET void
barrier(int line)
{
	self->state = AT_BARRIER;
	self->line = line;
	wait();
}

QUIET uint64_t
meet(int kind, int line, unsigned mask, uint64_t value, int from)
{
	struct thread *t = self, *lane0 = t - t->id % 32;
	struct warp *w = &warp_of[t->id / 32];
	unsigned lanes = mask & w->live; /* those that have ended need not come */

	if (!(lanes >> (t->id % 32) & 1))
		die("line %d: the lane is not in its own mask %08x", line, mask);
	t->state = AT_WARP;
	t->kind = kind;
	t->line = line;
	t->mask = mask;
	t->value = value;
	t->from = from;
	w->waiting |= 1u << t->id % 32;
	if ((w->waiting & lanes) != lanes) {
		wait();
		return t->result;
	}
	for (unsigned l = 0; l < 32; l++)
		if ((lanes >> l & 1) && (lane0[l].kind != kind || lane0[l].line != line || lane0[l].mask != mask))
			die("lanes of a warp wait at lines %d and %d", line, lane0[l].line);
	/* the last to come makes the exchange for all */
	uint64_t votes = 0;
	for (unsigned l = 0; l < 32; l++)
		if (lanes >> l & 1)
			votes |= (lane0[l].value & 1) << l;
	for (unsigned l = 0; l < 32; l++) {
		struct thread *o = &lane0[l];

		if (!(lanes >> l & 1))
			continue;
		if (kind == SHUFFLE && !(lanes >> o->from & 1))
			die("line %d: lane %u reads lane %d, which takes no part", line, l, o->from);
		o->result = kind == SHUFFLE ? lane0[o->from].value : votes;
		o->meetings += kind == SYNC;
	}
	for (unsigned l = 0; l < 32; l++)
		if (lanes >> l & 1)
			lane0[l].state = RUNS;
	w->waiting &= ~lanes;
	return t->result;
}

/* ---- shared memory: new in every block, full of NaN, with a zone behind each array ---- */

struct array {
	const void *key;
	char *p;
	size_t n;
};
static std::vector<struct array> arrays;
static std::map<const void *, int> allowed;
static char *shared_low;
static size_t shared_top, shared_used, shared_limit;

bool
in_shared(const volatile void *p)
{
	return shared_low && (char *)p >= shared_low && (char *)p < shared_low + SHARED_ROOM;
}

QUIET void *
shared(const void *key, size_t n)
{
	for (struct array &a : arrays)
		if (a.key == key)
			return a.p;
	size_t room = (n + 15) / 16 * 16 + ZONE;
	char *p = shared_low + shared_top;

	shared_top += room;
	shared_used += n;
	if (shared_used > shared_limit || shared_top > SHARED_ROOM)
		die("more than %zu bytes of shared memory", shared_limit);
	arrays.push_back({ key, p, n });
	ASAN_UNPOISON_MEMORY_REGION(p, n);
	memset(p, 0xff, n);
	if (!ASAN)
		memset(p + n, 0xcb, room - n);
	return p;
}

cudaError_t
allow_shared(const void *kernel, int bytes)
{
	if (bytes < 0 || (size_t)bytes > MOST_SHARED)
		return cudaErrorInvalidValue;
	allowed[kernel] = bytes;
	return cudaSuccess;
}

/* ---- device memory ----------------------------------------------------------- */

struct block {
	char *p, *map;
	size_t n, len;
};
static std::vector<struct block> blocks;
static char *reserve;
static size_t reserved;
static std::vector<std::function<void()>> queue;

bool
on_device(const volatile void *p)
{
	return reserve && (char *)p >= reserve && (char *)p < reserve + RESERVE;
}

static void
expose(bool on)
{
	static long guard = env("CUDA_HOST_GUARD", 0);

	for (size_t i = 0; guard && i < blocks.size(); i++)
		mprotect(blocks[i].map, blocks[i].len, on ? PROT_READ | PROT_WRITE : PROT_NONE);
}

struct exposed {
	exposed() { expose(true); }
	~exposed() { expose(false); }
};

static void
drain(void)
{
	std::vector<std::function<void()>> work;

	work.swap(queue);
	for (std::function<void()> &w : work)
		w();
}

void
later(std::function<void()> work)
{
	static long lazy = env("CUDA_HOST_LAZY", 0);

	if (lazy)
		queue.push_back(std::move(work));
	else
		work();
}

/* ---- launches on record -------------------------------------------------------- */

/*
 * A launch as ptx.py reads it: its operands, and the pages of device memory that it touches, before and after.  The
 * pages show themselves: all device memory is locked before the launch, and a fault opens one page.
 *   u64 kernel's offset in the program, grid x y z, block x y z, shared bytes; operands: n, then size and bytes of each;
 *   pages: n, then address, OS_PAGE bytes before, OS_PAGE bytes after
 */
bool recording = getenv("CUDA_HOST_RECORD") != NULL;
static FILE *record;
static bool taking;
static struct page {
	char *p;
	char before[OS_PAGE];
} *pages;
static size_t n_pages;
static std::map<const void *, unsigned> &seen = *new std::map<const void *, unsigned>;
extern "C" char __executable_start;
enum { MOST_PAGES = 256 };

static void
put(uint64_t u)
{
	fwrite(&u, 8, 1, record);
}

bool
record_begin(const void *kernel, dim3 grid, dim3 block, size_t bytes, int operands)
{
	unsigned k = ++seen[kernel];

	if (k & (k - 1))
		return false;
	if (!record && !(record = fopen(getenv("CUDA_HOST_RECORD"), "wb")))
		die("CUDA_HOST_RECORD: cannot be written");
	if (!pages)
		pages = (struct page *)malloc(MOST_PAGES * sizeof *pages);
	for (uint64_t u : { (uint64_t)((const char *)kernel - &__executable_start), (uint64_t)grid.x, (uint64_t)grid.y, (uint64_t)grid.z,
	         (uint64_t)block.x, (uint64_t)block.y, (uint64_t)block.z, (uint64_t)bytes, (uint64_t)operands })
		put(u);
	taking = true;
	n_pages = 0;
	for (struct block &b : blocks)
		mprotect(b.map, b.len, PROT_NONE);
	return true;
}

void
record_operand(const void *p, size_t bytes)
{
	put(bytes);
	fwrite(p, 1, bytes, record);
}

/* A page of the launch; false: no room for more. */
static bool
record_page(char *a)
{
	struct page *g = &pages[n_pages];

	if (n_pages == MOST_PAGES)
		return false;
	g->p = (char *)((uintptr_t)a & ~(uintptr_t)(OS_PAGE - 1));
	mprotect(g->p, OS_PAGE, PROT_READ | PROT_WRITE);
	memcpy(g->before, g->p, OS_PAGE);
	n_pages++;
	return true;
}

void
record_end(void)
{
	bool whole = n_pages < MOST_PAGES;

	if (!taking)
		return;
	taking = false;
	for (struct block &b : blocks)
		mprotect(b.map, b.len, PROT_READ | PROT_WRITE);
	put(whole ? n_pages : 0); /* too large a launch: without pages, it is passed over */
	for (size_t i = 0; whole && i < n_pages; i++) {
		put((uint64_t)(uintptr_t)pages[i].p);
		fwrite(pages[i].before, OS_PAGE, 1, record);
		fwrite(pages[i].p, OS_PAGE, 1, record);
	}
	fflush(record);
}

static void
on_fault(int, siginfo_t *info, void *)
{
	char *a = (char *)info->si_addr;

	for (size_t i = 0; taking && i < blocks.size(); i++)
		if (a >= blocks[i].map && a < blocks[i].map + blocks[i].len) {
			if (record_page(a))
				return;
			for (struct block &b : blocks)
				mprotect(b.map, b.len, PROT_READ | PROT_WRITE);
			return;
		}
	for (struct block &b : blocks)
		if (a >= b.map && a < b.map + b.len + OS_PAGE)
			die("%s: %td bytes into a block of %zu", self ? "access outside" : "host code touches device memory", a - b.p,
			    b.n);
	die("fault at %p%s", (void *)a, on_device(a) ? ": device memory that is free" : "");
}

static char *
allocate(size_t n)
{
	static char alternate[65536];
	size_t len = (n + OS_PAGE - 1) / OS_PAGE * OS_PAGE;
	char *map;

	if (!reserve) {
		reserve = (char *)mmap(NULL, RESERVE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (reserve == MAP_FAILED)
			die("no address space for the device");
		stack_t ss = {};
		ss.ss_sp = alternate;
		ss.ss_size = sizeof alternate;
		sigaltstack(&ss, NULL);
		struct sigaction sa = {};
		sa.sa_sigaction = on_fault;
		sa.sa_flags = SA_SIGINFO | SA_ONSTACK;
		sigaction(SIGSEGV, &sa, NULL);
	}
	if (n > RESERVE / 16 || reserved + len + OS_PAGE > RESERVE)
		return NULL;
	map = reserve + reserved;
	reserved += len + OS_PAGE; /* never used again, so that what is free stays so */
	if (mprotect(map, len, PROT_READ | PROT_WRITE))
		return NULL;
	memset(map, 0xff, len);
	ASAN_POISON_MEMORY_REGION(map, len);
	char *p = map + (len - (n + 255) / 256 * 256); /* ends, but for the rounding, at a page that faults */
	if (p < map)
		p = map;
	ASAN_UNPOISON_MEMORY_REGION(p, n);
	blocks.push_back({ p, map, n, len });
	expose(false);
	return p;
}

/* ---- a launch ------------------------------------------------------------------ */

/* Order of n things as CUDA_HOST_ORDER says */
QUIET static void
arrange(std::vector<unsigned> &order, size_t n, uint64_t *seed)
{
	const char *s = getenv("CUDA_HOST_ORDER");

	order.resize(n);
	for (size_t i = 0; i < n; i++)
		order[i] = (unsigned)(s && *s == 'r' ? n - 1 - i : i);
	if (s && *s >= '0' && *s <= '9')
		for (size_t i = n; i > 1; i--) {
			*seed = *seed * 6364136223846793005u + 1442695040888963407u + (uint64_t)atol(s);
			std::swap(order[i - 1], order[(*seed >> 33) % i]);
		}
}

QUIET static void
run_block(const std::vector<unsigned> &warps)
{
	size_t n = threads.size(), live = n;

	while (live) {
		bool moved = false;

		for (unsigned w : warps) /* each runs as far ahead of the others as it can */
			for (bool again = true; again;) {
				again = false;
				for (size_t i = w * 32; i < n && i < w * 32 + 32; i++) {
					if (threads[i].state != RUNS)
						continue;
					resume(&threads[i]);
					again = moved = true;
					if (threads[i].state == ENDED) {
						live--;
						warp_of[w].live &= ~(1u << i % 32);
					}
				}
			}
		size_t waiting = 0;
		int line = 0, other = 0;
		for (struct thread &t : threads) {
			if (t.state == AT_WARP)
				other = t.line;
			if (t.state != AT_BARRIER)
				continue;
			if (waiting++ && line != t.line)
				die("__syncthreads() of lines %d and %d at a time", line, t.line);
			line = t.line;
		}
		if (waiting && waiting == live) {
			if (live < n)
				die("__syncthreads() of line %d after %zu threads have returned", line, n - live);
			barriers++;
			for (struct thread &t : threads)
				t.state = RUNS;
		} else if (live && !moved) {
			die("for ever: %zu threads at __syncthreads() of line %d, %zu at a warp operation of line %d", waiting, line,
			    live - waiting, other);
		}
	}
}

QUIET void
run(const char *name, const void *kernel, dim3 grid, dim3 size, size_t bytes, void (*call)(void *), void *ctx)
{
	size_t n = (size_t)size.x * size.y * size.z, count = (size_t)grid.x * grid.y * grid.z;
	static uint64_t seed = 1;
	std::vector<unsigned> warps, order;

	running = name;
	if (!n || n > 1024 || size.z > 64 || !count || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
		die("no such launch: grid %u,%u,%u block %u,%u,%u", grid.x, grid.y, grid.z, size.x, size.y, size.z);
	shared_limit = allowed.count(kernel) && (size_t)allowed[kernel] > STATIC_SHARED ? (size_t)allowed[kernel] : STATIC_SHARED;
	if (!shared_low)
		shared_low = (char *)mmap(NULL, SHARED_ROOM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	grid_size = grid;
	block_size = size;
	body = call;
	body_ctx = ctx;
	launches++;
	arrange(order, count, &seed);
	exposed all;
	for (unsigned f : order) {
		block_number = f;
		barriers++;
		block_index = { f % grid.x, f / grid.x % grid.y, f / grid.x / grid.y };
		ASAN_POISON_MEMORY_REGION(shared_low, SHARED_ROOM);
		arrays.clear();
		shared_top = ZONE;
		shared_used = 0;
		shared(NULL, bytes);
		threads.assign(n, {});
		warp_of.assign((n + 31) / 32, { 0xffffffffu, 0 });
		if (n % 32)
			warp_of.back().live = (1u << n % 32) - 1;
		for (unsigned i = 0; i < n; i++) {
			threads[i].id = i;
			threads[i].index = { i % size.x, i / size.x % size.y, i / size.x / size.y };
		}
		arrange(warps, (n + 31) / 32, &seed);
		run_block(warps);
		for (size_t i = 0; !ASAN && i < arrays.size(); i++)
			for (char *p = arrays[i].p + arrays[i].n; p < arrays[i].p + (arrays[i].n + 15) / 16 * 16 + ZONE; p++)
				if (*p != (char)0xcb)
					die("block %u: a write past a shared array of %zu bytes", f, arrays[i].n);
	}
	running = "host code";
}

} // namespace cuda_host

using namespace cuda_host;

/* ---- the runtime ------------------------------------------------------------------ */

extern "C" {

struct cuda_host_stream {
	int unused;
};

cudaError_t
cudaGetDeviceCount(int *n)
{
	*n = (int)env("CUDA_HOST_CARDS", 1);
	return *n > 0 ? cudaSuccess : cudaErrorNoDevice;
}

cudaError_t
cudaSetDevice(int n)
{
	return n >= 0 && n < env("CUDA_HOST_CARDS", 1) ? cudaSuccess : cudaErrorInvalidDevice;
}

cudaError_t
cudaGetDeviceProperties(struct cudaDeviceProp *p, int)
{
	snprintf(p->name, sizeof p->name, "cuda_host");
	return cudaSuccess;
}

cudaError_t
cudaStreamCreate(cudaStream_t *s)
{
	*s = new cuda_host_stream{ 0 };
	return cudaSuccess;
}

cudaError_t
cudaStreamDestroy(cudaStream_t s)
{
	drain();
	delete s;
	return cudaSuccess;
}

cudaError_t
cudaStreamSynchronize(cudaStream_t)
{
	static long left = env("CUDA_HOST_FAIL_SYNC", 0);
	static bool lost;

	drain();
	lost = lost || (left > 0 && --left == 0); /* a card does not come back from it */
	return lost ? cudaErrorLaunchFailure : cudaSuccess;
}

static size_t
memory_left(void)
{
	static long card = env("CUDA_HOST_MEMORY", 0);
	size_t used = 0;

	for (struct block &b : blocks)
		used += b.n;
	return !card ? RESERVE / 16 : used < (size_t)card ? (size_t)card - used : 0;
}

cudaError_t
cudaMemGetInfo(size_t *room, size_t *all)
{
	*room = memory_left();
	*all = *room;
	return cudaSuccess;
}

cudaError_t
cudaMalloc(void **p, size_t n)
{
	static long left = env("CUDA_HOST_FAIL", 0);

	*p = NULL;
	if (left > 0 && --left == 0)
		return cudaErrorMemoryAllocation;
	if (n && n <= memory_left())
		*p = allocate(n);
	return n && !*p ? cudaErrorMemoryAllocation : cudaSuccess;
}

cudaError_t
cudaFree(void *p)
{
	drain();
	if (!p)
		return cudaSuccess;
	for (size_t i = 0; i < blocks.size(); i++)
		if (blocks[i].p == p) {
			madvise(blocks[i].map, blocks[i].len, MADV_DONTNEED);
			mprotect(blocks[i].map, blocks[i].len, PROT_NONE);
			blocks.erase(blocks.begin() + (long)i);
			return cudaSuccess;
		}
	die("cudaFree of what is not allocated");
}

cudaError_t
cudaMemcpyAsync(void *d, const void *s, size_t n, cudaMemcpyKind kind, cudaStream_t)
{
	bool to = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
	bool from = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;

	if (on_device(d) != to || on_device(s) != from)
		die("cudaMemcpyAsync: the kind %d is not that of the pointers", (int)kind);
	later([=] {
		exposed all;
		memcpy(d, s, n);
	});
	return cudaSuccess;
}

cudaError_t
cudaMemsetAsync(void *d, int c, size_t n, cudaStream_t)
{
	if (!on_device(d))
		die("cudaMemsetAsync: not device memory");
	later([=] {
		exposed all;
		memset(d, c, n);
	});
	return cudaSuccess;
}

cudaError_t
cudaGetLastError(void)
{
	return cudaSuccess;
}

const char *
cudaGetErrorString(cudaError_t e)
{
	return e == cudaSuccess             ? "no error" :
	    e == cudaErrorMemoryAllocation  ? "out of memory" :
	    e == cudaErrorNoDevice          ? "no CUDA-capable device is detected" :
	    e == cudaErrorInvalidDevice     ? "invalid device ordinal" :
	    e == cudaErrorLaunchFailure     ? "unspecified launch failure" :
	                                      "invalid argument";
}

/* ---- matrix products --------------------------------------------------------------- */

struct cuda_host_blas {
	int unused;
};

cublasStatus_t
cublasCreate(cublasHandle_t *h)
{
	*h = new cuda_host_blas{ 0 };
	return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t
cublasDestroy(cublasHandle_t h)
{
	delete h;
	return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t
cublasSetStream(cublasHandle_t, cudaStream_t)
{
	return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t
cublasSetWorkspace(cublasHandle_t, void *p, size_t)
{
	return on_device(p) ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t
cublasSetMathMode(cublasHandle_t, cublasMath_t)
{
	return CUBLAS_STATUS_SUCCESS;
}

static float
element(const void *p, cudaDataType t, size_t i)
{
	return t == CUDA_R_16BF ? __bfloat162float(((const __nv_bfloat16 *)p)[i]) : ((const float *)p)[i];
}

/* c [n][m] = alpha sum over l, one chain, of a [l][m] b [n][l], + beta c */
static void
product(int m, int n, int k, float alpha, const void *a, cudaDataType at, size_t la, size_t lm, const void *b,
    cudaDataType bt, size_t lb, size_t ln, float beta, void *c, cudaDataType ct, size_t ldc)
{
	std::vector<float> x((size_t)m * (size_t)k), sum((size_t)m);

	for (int i = 0; i < m; i++)
		for (int l = 0; l < k; l++)
			x[(size_t)l * (size_t)m + (size_t)i] = element(a, at, (size_t)l * la + (size_t)i * lm);
	for (int j = 0; j < n; j++) {
		float *s = sum.data();

		memset(s, 0, (size_t)m * sizeof *s);
		for (int l = 0; l < k; l++) {
			const float *row = x.data() + (size_t)l * (size_t)m;
			float e = element(b, bt, (size_t)l * lb + (size_t)j * ln);
			for (int i = 0; i < m; i++)
				s[i] += row[i] * e;
		}
		for (int i = 0; i < m; i++) {
			size_t o = (size_t)j * ldc + (size_t)i;
			float v = alpha * s[i] + (beta == 0 ? 0 : beta * element(c, ct, o));
			if (ct == CUDA_R_16BF)
				((__nv_bfloat16 *)c)[o] = __float2bfloat16(v);
			else
				((float *)c)[o] = v;
		}
	}
}

cublasStatus_t
cublasGemmEx(cublasHandle_t h, cublasOperation_t ta, cublasOperation_t tb, int m, int n, int k, const void *alpha,
    const void *a, cudaDataType at, int lda, const void *b, cudaDataType bt, int ldb, const void *beta, void *c,
    cudaDataType ct, int ldc, cublasComputeType_t compute, cublasGemmAlgo_t)
{
	bool na = ta == CUBLAS_OP_N, nb = tb == CUBLAS_OP_N;

	if (!h || m < 1 || n < 1 || k < 1 || lda < (na ? m : k) || ldb < (nb ? k : n) || ldc < m)
		return CUBLAS_STATUS_INVALID_VALUE;
	if (compute != CUBLAS_COMPUTE_32F || at != bt || (at == CUDA_R_32F && ct != CUDA_R_32F))
		return CUBLAS_STATUS_NOT_SUPPORTED;
	if (!on_device(a) || !on_device(b) || !on_device(c))
		die("cublasGemmEx: an operand is not device memory");
	float al = *(const float *)alpha, be = *(const float *)beta; /* read now, as cuBLAS does */
	later([=] {
		exposed all;
		product(m, n, k, al, a, at, na ? (size_t)lda : 1, na ? 1 : (size_t)lda, b, bt, nb ? 1 : (size_t)ldb,
		    nb ? (size_t)ldb : 1, be, c, ct, (size_t)ldc);
	});
	return CUBLAS_STATUS_SUCCESS;
}

const char *
cublasGetStatusString(cublasStatus_t s)
{
	return s == CUBLAS_STATUS_SUCCESS ? "success" : s == CUBLAS_STATUS_INVALID_VALUE ? "invalid value" : "not supported";
}
}
