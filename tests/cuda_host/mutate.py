#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Break kernels/cuda in one place at a time, and see that the tests notice.

  mutate.py [--file NAME.cu] [--kind KIND,...] [--build DIR] [--list]

Kinds: barrier (delete a __syncthreads or __syncwarp), edge (< and <=, >= and >), one (drop a + 1 or - 1), stride (halve
what a loop adds), mask (a warp operation without its upper lanes), atomic (atomicAdd to +=).  Run it from the top of the tree after
`make check-cuda-host`, whose objects it links with.  A mutant is killed by check_kernels on cuda_host in three orders
of warps, or by the race checker.  The last line counts; survivors are listed with their lines.
"""
import argparse, os, re, shutil, subprocess, sys, tempfile

ap = argparse.ArgumentParser()
ap.add_argument("--file")
ap.add_argument("--kind", default="barrier,edge,one,stride,mask,atomic")
ap.add_argument("--build", default="build")
ap.add_argument("--list", action="store_true")
A = ap.parse_args()
SRC = "kernels/cuda"
TESTS = {"attention.cu": "attention", "gemm.cu": "linear,pack", "logprob.cu": "logprob,sample", "rmsnorm.cu": "rmsnorm", "rope.cu": "rope",
         "swiglu.cu": "swiglu", "head.cu": "head", "elementwise.cu": "elements,adamw", "cuda.h": "rmsnorm,head,logprob,elements"}
USES_HEADER = ["rmsnorm.cu", "head.cu", "logprob.cu", "elementwise.cu"]
RULES = [("barrier", r"__sync(threads|warp)\(\);", ";"),
         ("edge", r"(?<=\w) < (?=[\w(])", " <= "), ("edge", r" <= ", " < "), ("edge", r" >= ", " > "),
         ("one", r" [+-] 1\b(?![.\w])", ""),
         ("stride", r"\+= (32|THREADS|blockDim\.x|WARPS|TILE_DKV|SAL_VOCAB_CHUNK)\b", r"+= \1 / 2"),
         ("mask", r"0xffffffffu, (?=\w)", "0x0000ffffu, "),
         ("atomic", r"atomicAdd\(&(.*?\]), (.*)\);", r"\1 += \2;")]


def kernel_lines(text):
    """Line numbers inside __device__ and __global__ functions."""
    inside, marked, out = False, False, set()
    for n, line in enumerate(text.split("\n")):
        marked = marked or bool(re.search(r"__(device|global)__", line))
        if line.startswith("{") and marked: inside = True
        if inside: out.add(n)
        if line.startswith("}"): inside = marked = False
        if marked and not inside and line.rstrip().endswith("}"): out.add(n); marked = False
    return out


def mutants(name):
    text = open(f"{SRC}/{name}").read()
    lines, kernels = text.split("\n"), kernel_lines(text)
    for n, line in enumerate(lines):
        code = line.split("/*")[0]
        if n not in kernels or code.lstrip().startswith("*"): continue
        for kind, pattern, by in RULES:
            if kind not in A.kind.split(","): continue
            for m in re.finditer(pattern, code):
                new = line[:m.start()] + m.expand(by) + line[m.end():]
                yield kind, n, line, "\n".join(lines[:n] + [new] + lines[n + 1:])


def run(cmd, env=None):
    """True if the tests pass; stops at the first that does not."""
    p = subprocess.Popen(cmd, env=dict(os.environ, **(env or {})), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        import threading
        timer = threading.Timer(150, p.kill)
        timer.start()
        for line in p.stdout:
            if line.startswith("not ok"): p.kill(); return False
        return p.wait() == 0
    finally:
        timer.cancel()
        p.wait()


def flags(race):
    return ["g++", "-std=c++17", "-I.", "-Itests/cuda_host", "-ffp-contract=off", "-O1", "-w"] + (["-fsanitize=thread"] if race else [])


def killed(name, text):
    """By what, or None."""
    with tempfile.TemporaryDirectory() as d:
        os.makedirs(f"{d}/cuda")
        for f in os.listdir(SRC): shutil.copy(f"{SRC}/{f}", f"{d}/cuda")
        shutil.copy("kernels/backend.h", d); shutil.copy("kernels/kernels.h", d)
        open(f"{d}/cuda/{name}", "w").write(text)
        names = USES_HEADER if name == "cuda.h" else [name]

        def build(race):
            suffix = "race.o" if race else "cu.o"
            new = []
            for f in names:
                o = f"{d}/{f}.{suffix}"
                if subprocess.run(flags(race) + ["-x", "c++", "-c", "-o", o, f"{d}/cuda/{f}"]).returncode: return None
                new.append(o)
            stems = [f[:-3] for f in names]
            b = A.build
            old = [f"{b}/cuda_host/{SRC}/{f[:-3]}.{suffix}" for f in sorted(os.listdir(SRC)) if f.endswith(".cu") and f[:-3] not in stems]
            old += [f"{b}/cuda_host/{SRC}/table.c.o", f"{b}/cuda_host/kernels/device.c.o", f"{b}/cuda_host/kernels/ops.c.o",
                    f"{b}/cuda_host/tests/cuda_host/cuda_host.cc.o", f"{b}/tests/kernels/check_kernels.o", f"{b}/tests/kernels/ref.o"]
            old += [f"{b}/cuda_host/tests/cuda_host/cuda_race.cc.o"] if race else []
            old += [f"{b}/kernels/cpu/{f}" for f in sorted(os.listdir(f"{b}/kernels/cpu")) if f.endswith(".o")]
            exe = f"{d}/check{race:d}"
            subprocess.run(["g++", "-fopenmp", "-o", exe] + new + old + ["-lm", "-ldl"], check=True)
            return exe
        exe = build(False)
        if exe is None: return "does not compile"
        args = ["-v", "--only", TESTS[name], "cuda"]
        for order in "reverse", "forward", "7":
            if not run([exe] + args, {"CUDA_HOST_ORDER": order}): return order
        return None if run([build(True)] + args) else "race"


count = {"killed": 0, "survived": 0}
for name in [A.file] if A.file else sorted(TESTS):
    for kind, n, line, text in mutants(name):
        if A.list: print(f"{name}:{n + 1}: {kind}: {line.strip()}"); continue
        by = killed(name, text)
        if by == "does not compile": continue
        count["killed" if by else "survived"] += 1
        print(f"{'killed by ' + by if by else 'SURVIVED':18} {name}:{n + 1}: {kind}: {line.strip()}", flush=True)
print(f"{count['killed']} killed, {count['survived']} survived")
