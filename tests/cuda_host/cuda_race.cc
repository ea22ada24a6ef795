/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cuda_race.cc - finds data races in kernels that run on cuda_host.
 *
 * The kernels are compiled with -fsanitize=thread, which makes the compiler
 * call a function at each load and store, and are linked with this file in the
 * place of the sanitizer.  Two accesses to the same bytes, one of them a write
 * and not both atomic, race when they come from two blocks of a launch, or from
 * two threads of a block with no __syncthreads() between them, nor, for threads
 * of one warp, a __syncwarp().  Shuffles order nothing.  Shared memory that is
 * read before the block has written it is told too.
 */
#include "on_host.h"

#include <dlfcn.h>
#include <unistd.h>
#include <unordered_map>

using namespace cuda_host;

namespace {

struct access {
	unsigned launch, block, epoch, meetings;
	int thread;
	bool atomic;
	const void *pc;
};

/* Of two bytes: the last write, the last read, and the last read by another thread */
struct cell {
	struct access write, read, other;
};
const uintptr_t CELLS = 512;
std::unordered_map<uintptr_t, struct cell *> pages;

struct cell *
cell_of(uintptr_t a)
{
	static uintptr_t last = ~(uintptr_t)0;
	static struct cell *found;
	uintptr_t n = a / 2;

	if (n / CELLS != last) {
		struct cell *&p = pages[n / CELLS];
		if (!p)
			p = (struct cell *)calloc(CELLS, sizeof *p);
		found = p;
		last = n / CELLS;
	}
	return &found[n % CELLS];
}

bool
race(const struct access &a, const struct access &b, bool is_shared)
{
	if (a.launch != b.launch || (a.atomic && b.atomic))
		return false;
	if (a.block != b.block)
		return !is_shared;
	if (a.thread == b.thread || a.epoch != b.epoch)
		return false;
	return a.thread / 32 != b.thread / 32 || a.meetings == b.meetings;
}

void
show(const char *what, const struct access &a)
{
	Dl_info info = {};
	char line[512];

	dladdr(a.pc, &info);
	fprintf(stderr, "  %s by block %u thread %d at ", what, a.block, a.thread);
	fflush(stderr);
	snprintf(line, sizeof line, "addr2line -e /proc/%d/exe %#tx >&2", (int)getpid(), (char *)a.pc - (char *)info.dli_fbase - 1);
	if (system(line))
		fprintf(stderr, "%p\n", a.pc);
}

void
note(const volatile void *p, size_t n, bool writes, bool atomic, const void *pc)
{
	bool is_shared = in_shared(p);

	if (!self || (!is_shared && !on_device(p)))
		return; /* host code, or a variable of the thread */
	struct access now = { launches, block_number, barriers, self->meetings, (int)self->id, atomic, pc };
	for (uintptr_t a = (uintptr_t)p & ~(uintptr_t)1; a < (uintptr_t)p + n; a += 2) {
		struct cell *c = cell_of(a);
		const struct access *with = NULL;

		if (is_shared && !writes && (c->write.launch != now.launch || c->write.block != now.block)) {
			show("read", now);
			die("shared memory is read that the block has not written");
		}
		if (race(c->write, now, is_shared))
			with = &c->write;
		else if (writes && race(c->read, now, is_shared))
			with = &c->read;
		else if (writes && race(c->other, now, is_shared))
			with = &c->other;
		if (with) {
			show(with == &c->write ? "written" : "read", *with);
			show(writes ? "written" : "read", now);
			die("a race on %s memory", is_shared ? "shared" : "device");
		}
		if (writes) {
			c->write = now;
			continue;
		}
		if (c->read.thread != now.thread || c->read.block != now.block || c->read.launch != now.launch)
			c->other = c->read;
		c->read = now;
	}
}

void
atomic_note(const volatile void *p, size_t n)
{
	note(p, n, true, true, __builtin_return_address(0));
}

} // namespace

#define FROM __builtin_return_address(0)
#define OF(n)                                                                               \
	void __tsan_read##n(void *p) { note(p, n, false, false, FROM); }                    \
	void __tsan_write##n(void *p) { note(p, n, true, false, FROM); }                    \
	void __tsan_unaligned_read##n(void *p) { note(p, n, false, false, FROM); }          \
	void __tsan_unaligned_write##n(void *p) { note(p, n, true, false, FROM); }

extern "C" {
OF(1) OF(2) OF(4) OF(8) OF(16)
void __tsan_read_range(void *p, size_t n) { note(p, n, false, false, FROM); }
void __tsan_write_range(void *p, size_t n) { note(p, n, true, false, FROM); }
void __tsan_vptr_read(void *) {}
void __tsan_vptr_update(void *, void *) {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit(void) {}
void __tsan_init(void) { on_atomic = atomic_note; }
}
