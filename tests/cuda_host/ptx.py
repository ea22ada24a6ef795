#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Run what nvcc made of kernels/cuda: an interpreter of PTX.

  ptx.py [--arch 80,90] [--only WORD,...] [--build DIR] [--self-test] [-v]

check_kernels on cuda_host runs with CUDA_HOST_RECORD, which writes launches with the device memory that they touch, before and after; the results
there were held against plain loops in double.  The same launches run here from the PTX, all threads of a grid in step, and must leave
the same memory: integers equal, floats to a few last places (exp and division differ), bf16 to one.  An opcode that is not known is an
error, and so are an access outside the pages of the launch or misaligned, a read of shared memory that nothing was written to, a warp operation
without a lane of its mask, a barrier that not all threads reach.  Counted for each kernel: 32-byte sectors against the least that the bytes
need, and turns of shared memory against accesses (1.00: no bank conflict).
--self-test breaks the PTX in several ways and expects to see it.  Needs numpy, nvcc and the built cuda_host; without them it says so and skips.
"""
import argparse, collections, os, re, shutil, struct, subprocess, sys, tempfile
try:
    import numpy as np
except ImportError:
    print("ptx: skipped, numpy is not there"); sys.exit(77)

ALL = "blocks,pack,test_linear(,linear_grad,linear_diff,rmsnorm,rope,swiglu,head,elements,dropout,adamw,logprob,sample,attention"
ap = argparse.ArgumentParser()
ap.add_argument("--arch", default="80,90")
ap.add_argument("--only", default=ALL)
ap.add_argument("--build", default="build")
ap.add_argument("--self-test", action="store_true")
ap.add_argument("-v", action="store_true")
A = ap.parse_args()
NVCC = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
PAGE, SECTOR = 4096, 32
MOST = 600_000  # thread-instructions times a thousand: larger launches are passed over
np.seterr(all="ignore")
U8, U16, U32, U64, S8, S16, S32, S64, F32, F64 = (np.dtype(t) for t in ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8"))
TYPES = {"u8": U8, "b8": U8, "s8": S8, "u16": U16, "b16": U16, "s16": S16, "u32": U32, "b32": U32, "s32": S32, "u64": U64, "b64": U64, "s64": S64,
         "f32": F32, "f64": F64, "pred": np.dtype(bool), "bf16": U16}
REG = {"%p": np.dtype(bool), "%rs": U16, "%r": U32, "%rd": U64, "%f": F32, "%fd": F64}


class Wrong(Exception): pass


# ---- the text ----------------------------------------------------------------

Ins = collections.namedtuple("Ins", "op parts guard negate args line")


def parse(text):
    """{name: (parameters {name: index}, instructions, labels, shared {name: (offset, bytes)}, bytes of shared, dynamic array)}"""
    kernels, module, top, dynamic = {}, {}, 0, None

    def shared(line, table, top):
        m = re.match(r"\.shared \.align (\d+) \.(\w+) ([\w$]+)(?:\[(\d+)\])?;", line)
        al, size = int(m[1]), TYPES[m[2]].itemsize * int(m[4] or 1)
        top = (top + al - 1) // al * al
        table[m[3]] = (top, size)
        return top + size
    entry = None
    for raw in text.split("\n"):
        line = raw.split("//")[0].strip()
        if entry is None:
            if line.startswith(".extern .shared"): dynamic = re.search(r"(\w+)\[\]", line)[1]
            elif line.startswith(".shared"): top = shared(line, module, top)
            m = re.match(r"(?:\.visible )?\.entry ([\w$]+)\(", line)
            if m: entry = dict(name=m[1], params={}, code=[], labels={}, shared=dict(module), top=top, dynamic=dynamic)
            continue
        m = re.match(r"\.param .*?([\w$]+)(?:\[\d+\])?,?$", line)
        if m and line.startswith(".param"): entry["params"][m[1]] = len(entry["params"]); continue
        if line.startswith(".shared"): entry["top"] = shared(line, entry["shared"], entry["top"]); continue
        if line == "}" and not entry.get("deep"): kernels[entry["name"]] = entry; entry = None; continue
        if line == "{": entry["deep"] = entry["code"] != [] ; continue
        if line == "}": entry["deep"] = False; continue
        m = re.match(r"(\$[\w$]+):", line)
        if m: entry["labels"][m[1]] = len(entry["code"]); continue
        if line.startswith("{") and line.endswith("}"): line = line[1:-1].strip()
        if not line.endswith(";") or line.startswith("."): continue
        m = re.match(r"(?:@(!?)(%p\d+) )?\s*([\w.]+)\s*(.*);$", line)
        args = [a.strip() for a in re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,{}\[\]]+", m[4]) if a.strip()]
        entry["code"].append(Ins(m[3].split(".")[0], m[3].split(".")[1:], m[2], m[1] == "!", args, line))
    return kernels


# ---- a launch ----------------------------------------------------------------

class Launch:
    def __init__(self, f):
        head = f.read(72)
        if len(head) < 72: raise EOFError
        h = struct.unpack("<9Q", head)
        self.kernel, self.grid, self.block, self.dynamic = h[0], h[1:4], h[4:7], h[7]
        self.operands = [f.read(struct.unpack("<Q", f.read(8))[0]) for _ in range(h[8])]
        n, = struct.unpack("<Q", f.read(8))
        at, before, after = [], [], []
        for _ in range(n):
            at.append(struct.unpack("<Q", f.read(8))[0]); before.append(f.read(PAGE)); after.append(f.read(PAGE))
        order = sorted(range(n), key=lambda i: at[i])
        self.pages = np.array([at[i] for i in order], U64)
        self.before, self.after = (np.frombuffer(b"".join(x[i] for i in order), U8).copy() for x in (before, after))


class Run:
    def __init__(self, entry, launch):
        self.e, self.l = entry, launch
        gx, gy, gz = launch.grid; bx, by, bz = launch.block
        self.per, self.blocks = bx * by * bz, gx * gy * gz
        self.n = self.per * self.blocks
        t = np.arange(self.n); i, b = t % self.per, t // self.per
        self.block_of, self.warp = b, b * ((self.per + 31) // 32) + i // 32
        self.lane = (i % 32).astype(U32)
        c = lambda x: x.astype(U32)
        self.special = {"%tid.x": c(i % bx), "%tid.y": c(i // bx % by), "%tid.z": c(i // bx // by), "%ctaid.x": c(b % gx), "%ctaid.y": c(b // gx % gy),
                        "%ctaid.z": c(b // gx // gy), "%laneid": self.lane}
        for k, v in zip("xyz", launch.block): self.special["%ntid." + k] = np.full(self.n, v, U32)
        for k, v in zip("xyz", launch.grid): self.special["%nctaid." + k] = np.full(self.n, v, U32)
        self.regs = {}
        self.mem = launch.before.copy()
        self.size = (entry["top"] + 15) // 16 * 16 + launch.dynamic
        if entry["dynamic"]: entry["shared"][entry["dynamic"]] = ((entry["top"] + 15) // 16 * 16, launch.dynamic)
        self.row = (self.size + 15) // 16 * 16 + 16
        self.shared = np.full(self.row * self.blocks, 0xff, U8)
        self.written = np.zeros(self.row * self.blocks, bool)
        self.sectors = self.ideal = self.turns = self.accesses = self.steps = 0

    def reg(self, name):
        r = self.regs.get(name)
        if r is None: r = self.regs[name] = np.zeros(self.n, REG[re.match(r"%[a-z]+", name)[0]])
        return r

    def get(self, a, t, act):
        """Operand a as type t, for the threads of act."""
        if a[0] == "%":
            if a in self.special: v = self.special[a][act]
            else: v = self.reg(a)[act]
            if v.dtype == t: return v
            if v.dtype.itemsize == t.itemsize: return v.view(t)
            return v.astype(v.dtype.str.replace("f", "u")).astype(t) if v.dtype.kind != "b" else v
        if a.startswith("0f"): return np.frombuffer(struct.pack("<I", int(a[2:], 16)), F32)[0]
        if a.startswith("0d"): return np.frombuffer(struct.pack("<Q", int(a[2:], 16)), F64)[0]
        if a in self.e["shared"]: return np.array(self.e["shared"][a][0], t)[()]
        k = int(a, 0) & ((1 << 8 * t.itemsize) - 1)
        return np.frombuffer(k.to_bytes(t.itemsize, "little"), t)[0]

    def put(self, a, v, act):
        if a == "_": return
        r = self.reg(a)
        v = np.broadcast_to(np.asarray(v), (len(act),)) if np.ndim(v) == 0 else v
        if r.dtype == v.dtype: r[act] = v
        elif r.dtype.itemsize == v.dtype.itemsize and r.dtype.kind != "b": r[act] = np.ascontiguousarray(v).view(r.dtype)
        elif r.dtype.kind in "u" and v.dtype.kind in "ui": r[act] = v.astype(v.dtype.str.replace("u", "i") if v.dtype.kind == "i" else v.dtype).astype(r.dtype)
        else: raise Wrong(f"{a} of {v.dtype}")

    # ---- memory ----

    def address(self, arg, act):
        m = re.match(r"\[([^\]+]+)(?:\+(-?\d+))?\]", arg)
        base = self.get(m[1], U64 if m[1].startswith("%rd") else U32, act)
        base = np.broadcast_to(np.asarray(base, U64), (len(act),))
        return base + np.uint64(int(m[2] or 0) & (2**64 - 1))

    def place_global(self, a, size):
        k = np.searchsorted(self.l.pages, a & np.uint64(~(PAGE - 1) & (2**64 - 1)))
        k = np.minimum(k, len(self.l.pages) - 1)
        off = a - self.l.pages[k]
        if not len(self.l.pages) or (off > PAGE - size).any(): raise Wrong("access outside the memory of the launch")
        return k.astype("i8") * PAGE + off.astype("i8")

    def place(self, space, a, size, act):
        if (a % np.uint64(size)).any(): raise Wrong("misaligned access")
        if space == "global":
            p = self.place_global(a, size)
            w = self.warp[act].astype(U64) << np.uint64(44)
            first = a // np.uint64(SECTOR) & np.uint64((1 << 44) - 1)
            self.sectors += len(np.unique(w | first))
            wn, counts = np.unique(np.unique((w, a & np.uint64((1 << 44) - 1)), axis=1)[0], return_counts=True)
            self.ideal += int(((counts * size + SECTOR - 1) // SECTOR).sum())
            return p, self.mem
        if (a > np.uint64(self.size - size)).any(): raise Wrong("access outside of shared memory")
        lanes = 128 // max(size, 4)  # that go at a time
        turn = self.warp[act].astype("i8") * 32 + self.lane[act] // max(1, min(32, lanes))
        word = (a // np.uint64(4)).astype("i8")
        key = np.unique(np.stack([turn, word % 32, word // 32]), axis=1)
        _, first, per = np.unique(key[0] * 32 + key[1], return_index=True, return_counts=True)
        worst = np.zeros(len(first), "i8"); groups, inverse = np.unique(key[0][first], return_inverse=True)
        most = np.zeros(len(groups), "i8"); np.maximum.at(most, inverse, per)
        self.turns += int(most.sum()); self.accesses += len(groups)
        return a.astype("i8") + self.block_of[act] * self.row, self.shared

    def load(self, ins, act):
        space, t = ins.parts[0], TYPES[ins.parts[-1]]
        many = int(ins.parts[-2][1]) if ins.parts[-2] in ("v2", "v4") else 1
        if space == "param":
            m = re.match(r"\[([\w$]+)(?:\+(\d+))?\]", ins.args[1])
            raw = self.l.operands[self.e["params"][m[1]]][int(m[2] or 0):]
            return self.widen(ins.args[0], np.full(len(act), np.frombuffer(raw[:t.itemsize], t)[0]), act)
        a = self.address(ins.args[1], act)
        p, mem = self.place(space, a, t.itemsize * many, act)
        if space == "shared" and not self.written[p].all(): raise Wrong("reads shared memory that nothing was written to")
        names = [x.strip() for x in ins.args[0].strip("{}").split(",")]
        for k, name in enumerate(names): self.widen(name, mem.view(t)[p // t.itemsize + k], act)

    def widen(self, name, v, act):
        r = REG[re.match(r"%[a-z]+", name)[0]]
        self.put(name, v if v.dtype.itemsize == r.itemsize else v.astype(r.str.replace("u", "i") if v.dtype.kind == "i" else r), act)

    def store(self, ins, act):
        space, t = ins.parts[0], TYPES[ins.parts[-1]]
        many = int(ins.parts[-2][1]) if ins.parts[-2] in ("v2", "v4") else 1
        a = self.address(ins.args[0], act)
        p, mem = self.place(space, a, t.itemsize * many, act)
        names = [x.strip() for x in ins.args[1].strip("{}").split(",")]
        for k, name in enumerate(names):
            v = self.get(name, t, act)
            mem.view(t)[p // t.itemsize + k] = v
        if space == "shared":
            for k in range(t.itemsize * many): self.written[p + k] = True

    def atomic(self, ins, act):
        space, what, t = ins.parts[0], ins.parts[1], TYPES[ins.parts[-1]]
        a = self.address(ins.args[1], act)
        p, mem = self.place(space, a, t.itemsize, act)
        if space == "shared" and not self.written[p].all(): raise Wrong("reads shared memory that nothing was written to")
        x = np.broadcast_to(self.get(ins.args[2], t, act), (len(act),)); m = mem.view(t); old = np.empty(len(act), t)
        for i, k in enumerate(p // t.itemsize):  # in the order of threads
            old[i] = m[k]
            if what == "add": m[k] = m[k] + x[i]
            elif what == "cas":
                if m[k] == x[i]: m[k] = np.broadcast_to(self.get(ins.args[3], t, act), (len(act),))[i]
            else: raise Wrong("unknown opcode: " + ins.line)
        self.put(ins.args[0], old, act)

    # ---- between lanes ----

    def whole_warps(self, mask, act, ins):
        """Lanes of the mask must be here, all of them."""
        here = np.zeros((self.blocks * ((self.per + 31) // 32), 32), bool)
        here[self.warp[act], self.lane[act]] = True
        bits = (np.broadcast_to(mask, (len(act),)).astype(U32) >> self.lane[act]) & 1
        if not bits.all(): raise Wrong("a lane is not in its own mask: " + ins.line)
        for w in np.unique(self.warp[act]):
            m = int(np.broadcast_to(mask, (len(act),))[np.argmax(self.warp[act] == w)])
            if any((m >> k & 1) and not here[w, k] for k in range(32)): raise Wrong("a lane of the mask is not there: " + ins.line)

    def shuffle(self, ins, act):
        kind = ins.parts[1]; mask = self.get(ins.args[4] if "|" in ins.args[0] else ins.args[4], U32, act)
        self.whole_warps(mask, act, ins)
        dst = ins.args[0].split("|")[0].strip(); pred = ins.args[0].split("|")[1].strip() if "|" in ins.args[0] else None
        v = self.get(ins.args[1], U32, act); b = np.broadcast_to(self.get(ins.args[2], U32, act), (len(act),)).astype("i8"); lane = self.lane[act].astype("i8")
        src = {"bfly": lane ^ b, "up": lane - b, "down": lane + b, "idx": b & 31}[kind]
        ok = (src >= 0) & (src < 32); src = np.where(ok, src, lane)
        table = np.zeros((self.blocks * ((self.per + 31) // 32), 32), U32)
        table[self.warp[act], self.lane[act]] = v
        self.put(dst, table[self.warp[act], src], act)
        if pred: self.put(pred, ok, act)

    def ballot(self, ins, act):
        self.whole_warps(self.get(ins.args[2], U32, act), act, ins)
        out = np.zeros(self.blocks * ((self.per + 31) // 32), U32)
        np.bitwise_or.at(out, self.warp[act], self.get(ins.args[1], np.dtype(bool), act).astype(U32) << self.lane[act])
        self.put(ins.args[0], out[self.warp[act]], act)

    # ---- arithmetic ----

    def step(self, ins, act):
        op, parts, a = ins.op, ins.parts, ins.args
        if op == "ld": return self.load(ins, act)
        if op == "st": return self.store(ins, act)
        if op == "atom": return self.atomic(ins, act)
        if op == "shfl": return self.shuffle(ins, act)
        if op == "vote": return self.ballot(ins, act)
        if op == "bar": return self.whole_warps(np.uint32(0xffffffff), act, ins)  # bar.warp.sync
        if op == "cvta": return self.put(a[0], self.get(a[1], U64, act), act)
        if op == "cvt": return self.convert(ins, act)
        t = TYPES[parts[-1]]; g = lambda i, tt=None: self.get(a[i], tt or t, act)
        if op == "mov":
            if a[0].startswith("{"):
                lo, hi = (x.strip() for x in a[0].strip("{}").split(","))
                half = U32 if t.itemsize == 8 else U16; v = g(1, U64 if t.itemsize == 8 else U32)
                self.put(lo, v.astype(half), act); return self.put(hi, (v >> v.dtype.type(4 * t.itemsize)).astype(half), act)
            if a[1].startswith("{"):
                half, full = (U32, U64) if t.itemsize == 8 else (U16, U32)
                lo, hi = (np.broadcast_to(self.get(x.strip(), half, act), (len(act),)).astype(full) for x in a[1].strip("{}").split(","))
                return self.put(a[0], lo | hi << full.type(4 * t.itemsize), act)
            return self.put(a[0], g(1), act)
        if op == "setp":
            x, y = g(1), g(2); k = parts[0]
            r = {"eq": lambda: x == y, "ne": lambda: x != y, "lt": lambda: x < y, "le": lambda: x <= y, "gt": lambda: x > y, "ge": lambda: x >= y,
                 "ltu": lambda: ~(x >= y), "leu": lambda: ~(x > y), "gtu": lambda: ~(x <= y), "geu": lambda: ~(x < y)}
            if k not in r: raise Wrong("unknown opcode: " + ins.line)
            return self.put(a[0], r[k](), act)
        if op == "selp": return self.put(a[0], np.where(g(3, np.dtype(bool)), g(1), g(2)).astype(t), act)
        if op in ("add", "sub", "mul", "and", "or", "xor", "min", "max", "div", "rem", "shl", "shr", "mad", "fma", "neg", "not", "abs", "sqrt", "rcp", "ex2", "lg2", "bfi",
                  "brev", "bfind"):
            v = getattr(self, "do_" + op)(parts, t, g, act)
            if v is not None: return self.put(a[0], v, act)
        raise Wrong("unknown opcode: " + ins.line)

    def do_add(self, p, t, g, act): return (g(1) + g(2)).astype(t) if p[0] in ("rn", "s32", "u32", "s64", "u64", "s16", "u16", "f32", "f64") else None
    def do_sub(self, p, t, g, act): return (g(1) - g(2)).astype(t) if p[0] in ("rn", "s32", "u32", "s64", "u64", "s16", "u16", "f32", "f64") else None

    def do_mul(self, p, t, g, act):
        if p[0] == "wide":
            w = np.dtype(t.str.replace(str(t.itemsize), str(2 * t.itemsize)))
            return np.asarray(g(1)).astype(w) * np.asarray(g(2)).astype(w)
        if p[0] == "hi":
            w = np.dtype(t.str.replace(str(t.itemsize), str(2 * t.itemsize)))
            return (np.asarray(g(1)).astype(w) * np.asarray(g(2)).astype(w) >> w.type(8 * t.itemsize)).astype(t) if t.itemsize < 8 else None
        return (g(1) * g(2)).astype(t) if p[0] in ("lo", "rn", "f32", "f64") else None

    def do_mad(self, p, t, g, act): return (g(1) * g(2) + g(3)).astype(t) if p[0] == "lo" else None

    def do_fma(self, p, t, g, act):
        if t != F32 or p[0] not in ("rn", "rm"): return None
        v = np.asarray(g(1)).astype(F64) * np.asarray(g(2)).astype(F64) + np.asarray(g(3)).astype(F64)
        r = v.astype(F32)
        return np.where(r.astype(F64) > v, np.nextafter(r, F32.type(-np.inf)), r).astype(F32) if p[0] == "rm" else r

    def do_and(self, p, t, g, act): return g(1) & g(2)
    def do_or(self, p, t, g, act): return g(1) | g(2)
    def do_xor(self, p, t, g, act): return g(1) ^ g(2)
    def do_not(self, p, t, g, act): return ~g(1)
    def do_neg(self, p, t, g, act): return -g(1)
    def do_abs(self, p, t, g, act): return np.abs(g(1))
    def do_min(self, p, t, g, act): return np.fmin(g(1), g(2)).astype(t) if t.kind == "f" else np.minimum(g(1), g(2)).astype(t)
    def do_max(self, p, t, g, act): return np.fmax(g(1), g(2)).astype(t) if t.kind == "f" else np.maximum(g(1), g(2)).astype(t)

    def do_div(self, p, t, g, act):
        if t.kind == "f": return (g(1) / g(2)).astype(t) if p[0] == "rn" else None
        x, y = np.broadcast_arrays(g(1), g(2))
        if t.kind == "u": return np.where(y == 0, t.type(-1 & (2**(8 * t.itemsize) - 1)), x // np.where(y == 0, t.type(1), y)).astype(t)
        return (np.sign(x) * np.sign(y) * (np.abs(x) // np.maximum(np.abs(y), 1))).astype(t)

    def do_rem(self, p, t, g, act):
        x, y = np.broadcast_arrays(g(1), g(2)); y = np.where(y == 0, t.type(1), y)
        return (x % y).astype(t) if t.kind == "u" else (np.sign(x) * (np.abs(x) % np.abs(y))).astype(t)

    def do_shl(self, p, t, g, act):
        k = g(2, U32); bits = 8 * t.itemsize
        return np.where(k >= bits, t.type(0), g(1) << np.minimum(k, bits - 1).astype(t)).astype(t)

    def do_shr(self, p, t, g, act): return (g(1) >> np.minimum(g(2, U32), 8 * t.itemsize - 1).astype(t)).astype(t) if t.kind == "i" else \
        np.where(g(2, U32) >= 8 * t.itemsize, t.type(0), g(1) >> np.minimum(g(2, U32), 8 * t.itemsize - 1).astype(t)).astype(t)

    def do_sqrt(self, p, t, g, act): return np.sqrt(g(1)).astype(t) if p[0] == "rn" else None
    def do_rcp(self, p, t, g, act): return (t.type(1) / g(1)).astype(t) if p[0] == "rn" else None

    def do_ex2(self, p, t, g, act):
        v = np.exp2(np.asarray(g(1)).astype(F64)).astype(F32)
        return np.where(np.abs(v) < np.float32(2.0**-126), np.float32(0), v) if "ftz" in p else v

    def do_lg2(self, p, t, g, act): return np.log2(np.asarray(g(1)).astype(F64)).astype(F32)

    def do_bfi(self, p, t, g, act):
        pos, n = int(g(3, U32)), int(g(4, U32)); m = ((1 << n) - 1) << pos
        return (g(2) & t.type(~m & (2**(8 * t.itemsize) - 1))) | ((g(1) << t.type(pos)) & t.type(m))

    def do_brev(self, p, t, g, act):
        v = np.asarray(g(1)).astype(U32); r = np.zeros_like(v)
        for i in range(32): r |= (v >> np.uint32(i) & np.uint32(1)) << np.uint32(31 - i)
        return r

    def do_bfind(self, p, t, g, act):
        v = np.asarray(g(1)).astype(U64); r = np.full(v.shape, 0xffffffff, U32)
        for i in range(32): r = np.where(v >> np.uint64(i) & np.uint64(1) > 0, np.uint32(i), r)
        return np.where(r == 0xffffffff, r, np.uint32(31) - r).astype(U32) if "shiftamt" in p else r

    def convert(self, ins, act):
        p = ins.parts; to, fr = TYPES[p[-2]], TYPES[p[-1]]
        if p[-1] == "bf16": return self.put(ins.args[0], (self.get(ins.args[1], U16, act).astype(U32) << np.uint32(16)).view(F32), act)
        v = np.broadcast_to(self.get(ins.args[1], fr, act) if ins.args[1][0] != "%" or self.reg_like(ins.args[1]).itemsize == fr.itemsize
                            else self.get(ins.args[1], self.reg_like(ins.args[1]), act).astype(fr), (len(act),))
        if p[-2] == "bf16":
            u = v.astype(F32).view(U32); r = ((u + np.uint32(0x7fff) + (u >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)).astype(U16)
            return self.put(ins.args[0], np.where(np.isnan(v), np.uint16(0x7fff), r), act)
        if fr.kind == "f" and to.kind in "ui":
            if p[0] != "rzi": raise Wrong("unknown opcode: " + ins.line)
            x = np.trunc(np.nan_to_num(v.astype(F64), nan=0.0)); info = np.iinfo(to)
            v = np.where(x >= float(info.max), to.type(info.max), np.where(x <= float(info.min), to.type(info.min), x).astype(to))
        elif "sat" in p: v = np.clip(np.nan_to_num(v, nan=0.0), 0, 1).astype(to)
        elif to.kind == "f" or fr.kind in "ui": v = v.astype(to)
        else: raise Wrong("unknown opcode: " + ins.line)
        r = self.reg_like(ins.args[0])
        if v.dtype.itemsize < r.itemsize and v.dtype.kind in "ui": v = v.astype(r.str.replace("u", "i") if v.dtype.kind == "i" else r)
        self.put(ins.args[0], v, act)

    def reg_like(self, name): return U32 if name in self.special else REG[re.match(r"%[a-z]+", name)[0]]

    # ---- the grid ----

    def run(self):
        code, labels, n = self.e["code"], self.e["labels"], self.n
        pc = np.zeros(n, "i8"); wait = np.zeros(n, bool); done = np.zeros(n, bool)
        while True:
            ready = ~(wait | done)
            if not ready.any():
                if done.all(): return
                for b in np.unique(self.block_of[wait]):  # all threads of a block, at one barrier
                    t = self.block_of == b
                    if not wait[t].all(): raise Wrong("a barrier that not all threads reach")
                    if len(set(pc[t])) > 1: raise Wrong("threads at different barriers")
                pc[wait] += 1; wait[:] = False
                continue
            at = int(pc[ready].min()); act = np.flatnonzero(ready & (pc == at)); ins = code[at]
            self.steps += 1
            if self.steps * n > MOST * 1000: raise TimeoutError
            if ins.op == "bra":
                take = act
                if ins.guard:
                    k = self.reg(ins.guard)[act] ^ ins.negate
                    pc[act] += 1; take = act[k]
                pc[take] = labels[ins.args[0]]
                continue
            if ins.op == "ret":
                if ins.guard: k = self.reg(ins.guard)[act] ^ ins.negate; done[act[k]] = True; pc[act[~k]] += 1
                else: done[act] = True
                continue
            if ins.op == "bar" and ins.parts[0] == "sync":
                wait[act] = True
                continue
            run = act[self.reg(ins.guard)[act] ^ ins.negate] if ins.guard else act
            try:
                if len(run): self.step(ins, run)
            except Wrong as e: raise Wrong(f"{e} [{ins.line}]")
            pc[act] += 1


# ---- comparison --------------------------------------------------------------

def pointers(name, launch):
    """(address, C type) of each pointer, from the demangled name."""
    plain = subprocess.run(["c++filt", name], capture_output=True, text=True).stdout.strip()
    inside = plain[plain.rindex("(") + 1:plain.rindex(")")]
    types = [t.strip() for t in re.split(r",(?![^<]*>)", inside)]
    out = []
    for t, raw in zip(types, launch.operands):
        if t.endswith("*") and len(raw) == 8 and any(raw): out.append((struct.unpack("<Q", raw)[0], t.replace("const", "").replace("*", "").strip()))
    return sorted(out)


def differences(name, launch, mem):
    """None, or what is wrong."""
    ptr = pointers(name, launch)
    flat = lambda m: m.reshape(-1, PAGE)
    got, want = flat(mem), flat(launch.after)
    for k, page in enumerate(launch.pages):
        if (got[k] == want[k]).all(): continue
        base = int(page)
        cuts = sorted({base, base + PAGE} | {a for a, _ in ptr if base < a < base + PAGE})
        for lo, hi in zip(cuts, cuts[1:]):
            owner = [t for a, t in ptr if a <= lo]
            t = owner[-1] if owner else "unsigned char"
            g, w = got[k][lo - base:hi - base], want[k][lo - base:hi - base]
            if (g == w).all(): continue
            if t in ("float", "double"):
                d = F32 if t == "float" else F64; m = len(g) // d.itemsize * d.itemsize
                x, y = (v[:m].copy().view(d).astype(F64) for v in (g, w))
                same = (g[:m].reshape(-1, d.itemsize) == w[:m].reshape(-1, d.itemsize)).all(1)
                tol = 2e-5 * np.abs(y) + 1e-6 * np.abs(y[np.isfinite(y) & (np.abs(y) < 1e8) & ~same]).max(initial=0)
            elif t == "__nv_bfloat16":
                m = len(g) // 2 * 2
                x, y = ((v[:m].copy().view(U16).astype(U32) << np.uint32(16)).view(F32).astype(F64) for v in (g, w))
                same = (g[:m].reshape(-1, 2) == w[:m].reshape(-1, 2)).all(1)
                tol = 2.0**-7 * np.abs(y) + 1e-5 * np.abs(y[np.isfinite(y) & ~same]).max(initial=0)
            else: return f"{t} at {lo - base} of page {k}: other bytes"
            bad = ~same & ~(np.abs(x - y) <= tol)
            if bad.any(): i = int(np.argmax(bad)); return f"{t}: {x[i]!r} instead of {y[i]!r}, and {int(bad.sum()) - 1} more on page {k}"
    return None


def launches(word):
    """(name, launch) of the tests that have the word in their names."""
    exe = f"{A.build}/cuda_host/check_kernels"
    names = {}
    for line in subprocess.run(["nm", exe], capture_output=True, text=True).stdout.split("\n"):
        m = re.match(r"([0-9a-f]+) [tT] (_Z\w*_kernel\w*)$", line)
        if m: names[int(m[1], 16)] = m[2].replace("_ZL", "_Z", 1)
    with tempfile.TemporaryDirectory() as d:
        p = subprocess.run([exe, "--only", word, "cuda"], env=dict(os.environ, CUDA_HOST_RECORD=f"{d}/record"), capture_output=True, text=True)
        if p.returncode: raise SystemExit(p.stdout + p.stderr)
        with open(f"{d}/record", "rb") as f:
            while True:
                try: l = Launch(f)
                except EOFError: return
                if len(l.pages): yield names[l.kernel], l


def compile_all(arch, d):
    kernels = {}
    for f in sorted(os.listdir("kernels/cuda")):
        if f.endswith(".cu"):
            out = f"{d}/{f}.{arch}"
            subprocess.run([NVCC, "-std=c++17", "-O3", "-fmad=false", "-I.", f"-arch=compute_{arch}", "-ptx", "-o", out, f"kernels/cuda/{f}"], check=True)
            kernels.update(parse(open(out).read()))
    return kernels


# ---- what must be seen --------------------------------------------------------

def broken(entry, change):
    """A copy of the kernel with one instruction changed: the first that change() takes."""
    code = list(entry["code"])
    for i, ins in enumerate(code):
        new = change(ins)
        if new: code[i] = new; return dict(entry, code=code)
    return None


SEEDS = {
    "a sum that subtracts": lambda i: i._replace(op="sub") if i.op == "add" and i.parts[-1] == "f32" else None,
    "a bound that is one off": lambda i: i._replace(parts=["gt"] + i.parts[1:]) if i.op == "setp" and i.parts[0] == "ge" and i.parts[-1] in ("s32", "s64") else None,
    "a mask without its upper lanes": lambda i: i._replace(args=i.args[:4] + ["65535"]) if i.op == "shfl" else None,
    "an opcode that is not known": lambda i: i._replace(op="tanh") if i.op == "mul" and i.parts[-1] == "f32" else None,
    "a store one element on": lambda i: i._replace(args=[re.sub(r"(\+\d+)?\]", "+4]", i.args[0])] + i.args[1:]) if i.op == "st" and i.parts[0] == "global" and i.parts[-1] == "f32" else None,
}


def self_test(kernels, name, l, seen):
    for what, change in SEEDS.items():
        b = broken(kernels[name], change)
        if b is None or seen[what] >= 3: continue
        r = Run(b, l)
        try: r.run(); wrong = differences(name, l, r.mem)
        except Wrong as e: wrong = str(e)
        except TimeoutError: continue
        seen[what] += wrong is not None


def check(kernels, arch, name, l, count, table):
    r, wrong = Run(kernels[name], l), None
    try: r.run(); wrong = differences(name, l, r.mem)
    except Wrong as e: wrong = str(e)
    except TimeoutError: count["too large"] += 1; return
    count["failed" if wrong else "passed"] += 1
    if wrong or A.v: print(f"{'not ' if wrong else ''}ok - sm_{arch} {name} grid {l.grid} block {l.block}{': ' + wrong if wrong else ''}", flush=True)
    t = table.setdefault(name, [0] * 5); t[0] += 1
    for k, v in enumerate((r.sectors, r.ideal, r.turns, r.accesses)): t[1 + k] += v


def main():
    if not os.path.exists(NVCC) or not os.path.exists(f"{A.build}/cuda_host/check_kernels"):
        print("ptx: skipped, nvcc or cuda_host is not there"); return 77
    count, tables, seen = collections.Counter(), {}, collections.Counter()
    with tempfile.TemporaryDirectory() as d:
        kernels = {arch: compile_all(arch, d) for arch in A.arch.split(",")}
        for word in A.only.split(","):
            for name, l in list(launches(word)):
                for arch, k in kernels.items():
                    if A.self_test: self_test(k, name, l, seen)
                    else: check(k, arch, name, l, count, tables.setdefault(arch, {}))
    if A.self_test:
        for what in SEEDS: print(f"{'' if seen[what] else 'not '}ok - {what} is seen")
        return not all(seen[what] for what in SEEDS)
    for arch, table in tables.items():
        print(f"{'kernel, sm_' + arch:56} launches sectors/least turns/access")
        for name, t in sorted(table.items()):
            plain = subprocess.run(["c++filt", "-p", name], capture_output=True, text=True).stdout.strip().replace("__nv_", "").replace("void ", "")
            print(f"{plain:56} {t[0]:8} {t[1] / max(1, t[2]):13.2f} {t[3] / t[4] if t[4] else 0:12.2f}")
        for name in sorted(set(kernels[arch]) - set(table)) if A.only == ALL else []: print(f"# sm_{arch}: no launch of {name} was small enough")
    print(f"ptx: {count['passed']} passed, {count['failed']} failed, {count['too large']} too large")
    return count["failed"] > 0


sys.exit(main())
