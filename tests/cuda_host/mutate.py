#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Break kernels/cuda in one place at a time, and see that the tests notice.

  mutate.py [--file NAME.cu,...] [--kind KIND,...] [--from N] [--build DIR] [--jobs N] [--list]

Kinds, at every place of every kernel: barrier (delete a __syncthreads or __syncwarp), edge (< to <=, <= to <, > to >=, >= to >), one (drop a
+ 1 or - 1), stride (halve what a loop adds), mask (a warp operation without its upper lanes), atomic (an atomic add that is none).
Run it from the top of the tree after `make check-cuda-host`, whose objects it links with; the mutated file alone is compiled again, and
the tests of its operations alone are run.  A mutant is killed by check_kernels on cuda_host in three orders of warps, by the race checker, or
under AddressSanitizer where build-san has been made too (make SAN=address,undefined build-san/cuda_host/check_kernels).

survivors.tsv, beside this script, names the mutants that no test can tell, each with the reason.  One line for each mutant on stdout, a
table of counts last; exit 1 if a mutant survives that is not named there, or if one that is named is killed.
"""
import argparse, concurrent.futures, os, re, resource, shutil, subprocess, sys, tempfile

ap = argparse.ArgumentParser()
ap.add_argument("--file")
ap.add_argument("--kind", default="barrier,edge,one,stride,mask,atomic")
ap.add_argument("--build", default="build")
ap.add_argument("--from", type=int, default=0, dest="start", help="mutants passed over: a run that was cut goes on")
ap.add_argument("--jobs", type=int, default=1)
ap.add_argument("--list", action="store_true")
A = ap.parse_args()
SRC = "kernels/cuda"
HERE = os.path.dirname(os.path.abspath(__file__))
TESTS = {"attention.cu": "attention", "blocks.cu": "blocks", "gemm.cu": "linear,pack,failure", "logprob.cu": "logprob,sample,failure", "rmsnorm.cu": "rmsnorm",
         "rope.cu": "rope", "swiglu.cu": "swiglu", "head.cu": "head", "elementwise.cu": "elements,adamw", "cuda.h": "rmsnorm,head,logprob,elements,swiglu,rope,blocks"}
USES_HEADER = ["rmsnorm.cu", "head.cu", "logprob.cu", "elementwise.cu", "swiglu.cu", "rope.cu", "gemm.cu", "blocks.cu"]
RULES = [("barrier", r"__sync(threads|warp)\(\);", ";"),
         ("edge", r"(?<=[\w)\]]) < (?=[\w(])", " <= "), ("edge", r" <= ", " < "), ("edge", r"(?<=[\w)\]]) > (?=[\w(-])", " >= "), ("edge", r" >= ", " > "),
         ("one", r" [+-] 1\b(?![.\w])", ""),
         ("stride", r"\+= (32|THREADS|blockDim\.x|WARPS|TILE_DKV|SAL_VOCAB_CHUNK|\(int64_t\)gridDim\.x \* blockDim\.x)(?=[;)])", r"+= (\1) / 2"),
         ("mask", r"0xffffffffu, (?=\w)", "0x0000ffffu, "),
         ("atomic", r"atomicAdd\(&(.*?\]), (.*)\);", r"\1 += \2;")]
ORDERS = ["reverse", "forward", "7"]


def kernel_lines(text):
    """Line numbers inside __device__ and __global__ functions, and of the loop that kernels share."""
    inside, marked, out = False, False, set()
    for n, line in enumerate(text.split("\n")):
        if line.startswith("#define EACH") or (n - 1 in out and line.startswith("\t(int64_t i = (int64_t)blockIdx.x")): out.add(n)
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
                yield name, kind, n, new.strip(), "\n".join(lines[:n] + [new] + lines[n + 1:])


def passes(cmd, env=None, seconds=180):
    """Do the tests pass, in so many seconds of the processor?  Stops at the first that does not."""
    p = subprocess.Popen(cmd, env=dict(os.environ, **(env or {})), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                         preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds)))
    try:
        for line in p.stdout:
            if line.startswith("not ok"): p.kill(); return False
        return p.wait() == 0
    finally:
        p.wait()


HOW = {"plain": (["-O1"], "cu.o", A.build), "race": (["-O1", "-fsanitize=thread"], "race.o", A.build),
       "asan": (["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"], "cu.o", A.build + "-san")}


def rest(names, how):
    """The objects that a mutant of these files is linked with."""
    flags, suffix, b = HOW[how]
    sources = sorted(f[:-3] for f in os.listdir(SRC) if f.endswith(".cu") and f not in names)
    host = [f"{b}/cuda_host/{SRC}/{f}.{suffix}" for f in sources] + [f"{b}/cuda_host/{SRC}/table.c.o"]
    host += [f"{b}/cuda_host/kernels/{f[:-2]}.c.o" for f in sorted(os.listdir("kernels")) if f.endswith(".c")]
    host += [f"{b}/cuda_host/tests/cuda_host/cuda_host.cc.o"] + ([f"{b}/cuda_host/tests/cuda_host/cuda_race.cc.o"] if how == "race" else [])
    return host + [f"{b}/tests/kernels/check_kernels.o", f"{b}/tests/kernels/ref.o"] + [f"{b}/kernels/cpu/{f}" for f in sorted(os.listdir(f"{b}/kernels/cpu")) if f.endswith(".o")]


def killed(name, kind, text):
    """By what, or None; "" if it does not compile."""
    names = USES_HEADER if name == "cuda.h" else [name]
    with tempfile.TemporaryDirectory() as d:
        os.makedirs(f"{d}/cuda")
        for f in os.listdir(SRC): shutil.copy(f"{SRC}/{f}", f"{d}/cuda")
        shutil.copy("kernels/backend.h", d); shutil.copy("kernels/kernels.h", d)
        open(f"{d}/cuda/{name}", "w").write(text)
        args = ["-v", "--only", TESTS[name], "cuda"]

        def build(how):
            flags, suffix, b = HOW[how]
            new = []
            for f in names:
                new.append(f"{d}/{f}.{how}.o")
                if subprocess.run(["g++", "-std=c++17", "-I.", "-Itests/cuda_host", "-ffp-contract=off", "-w"] + flags + ["-x", "c++", "-c", "-o", new[-1],
                                   f"{d}/cuda/{f}"], stderr=subprocess.DEVNULL).returncode: return None
            link = [f for f in flags if f.startswith("-fsanitize") and how == "asan"]
            subprocess.run(["g++", "-fopenmp"] + link + ["-o", f"{d}/{how}"] + new + rest(names, how) + ["-lm", "-ldl"], check=True)
            return f"{d}/{how}"

        def by_order(orders):
            exe = f"{d}/plain" if os.path.exists(f"{d}/plain") else build("plain")
            if exe is None: return ""
            return next((o for o in orders if not passes([exe] + args, {"CUDA_HOST_ORDER": o}, 60)), None)

        def by_race():
            exe = build("race")
            return "" if exe is None else None if passes([exe] + args) else "race"
        first, others = (lambda: by_order(ORDERS[:1])), (lambda: by_order(ORDERS[1:]))
        for step in [by_race, first, others] if kind in ("barrier", "atomic", "stride") else [first, by_race, others]:
            by = step()
            if by is not None: return by
        if os.path.exists(HOW["asan"][2] + "/cuda_host/check_kernels") and not passes([build("asan")] + args): return "asan"
        return None


def main():
    known = {}
    for line in open(f"{HERE}/survivors.tsv"):
        if line.strip() and not line.startswith("#"):
            f, kind, code, why = line.rstrip("\n").split("\t")
            known[f, kind, code] = why
    files = A.file.split(",") if A.file else sorted(TESTS)
    work = [m for name in files for m in mutants(name)][A.start:]
    if A.list:
        for name, kind, n, code, _ in work: print(f"{name}:{n + 1}: {kind}: {code}")
        return 0
    count, wrong = {}, 0
    with concurrent.futures.ThreadPoolExecutor(A.jobs) as pool:
        for (name, kind, n, code, _), by in zip(work, pool.map(lambda m: killed(m[0], m[1], m[4]), work)):
            if by == "": continue
            listed = (name, kind, code) in known
            k = count.setdefault((name, kind), [0, 0])
            k[by is None] += 1
            wrong += (by is None) != listed
            said = f"killed by {by}" + (", and is in survivors.tsv" if listed else "") if by else "survives, as told" if listed else "SURVIVES"
            print(f"{said:20} {name}:{n + 1}: {kind}: {code}", flush=True)
    for (name, kind), (dead, alive) in sorted(count.items()): print(f"{name:16} {kind:8} {dead:4} killed {alive:4} survive")
    dead, alive = (sum(v[i] for v in count.values()) for i in (0, 1))
    print(f"{dead} killed, {alive} survive, {wrong} not as survivors.tsv has it")
    return wrong > 0


sys.exit(main())
