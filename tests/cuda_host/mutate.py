#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Break kernels/cuda in one place at a time, and see that the tests notice.

  mutate.py [--file NAME.cu,...] [--kind KIND,...] [--only N,...] [--build DIR] [--jobs N] [--list]

Kinds, at every place of every kernel: barrier (delete a __syncthreads or __syncwarp), edge (< to <=, <= to <, > to >=, >= to >), one (drop a
+ 1 or - 1), stride (halve what a loop adds), mask (a warp operation without its upper lanes), atomic (an atomic add that is none).
Run it from the top of the tree after `make check-cuda-host`, whose objects it links with.  Every mutant is compiled into one program, which
is whole or has the one that its environment names (MUTANT=N); the program is made three times, as it is, for the race checker, and for
AddressSanitizer where build-san has been made too (make SAN=address,undefined build-san/cuda_host/check_kernels).  A mutant runs the tests
of its kernel alone, up to the first that fails: in three orders of warps, under the race checker, under AddressSanitizer.  One that takes
three times as long as the whole program is killed.

survivors.tsv, beside this script, names the mutants that no test can tell, each with the reason.  One line for each mutant on stdout, a
table of counts last; exit 1 if a mutant survives that is not named there, or if one that is named is killed.
"""
import argparse, collections, concurrent.futures, os, re, resource, shutil, subprocess, sys, tempfile

ap = argparse.ArgumentParser()
ap.add_argument("--file")
ap.add_argument("--kind", default="barrier,atomic,mask,one,stride,edge")
ap.add_argument("--only", help="numbers of --list")
ap.add_argument("--build", default="build")
ap.add_argument("--jobs", type=int, default=1)
ap.add_argument("--list", action="store_true")
A = ap.parse_args()
SRC = "kernels/cuda"
HERE = os.path.dirname(os.path.abspath(__file__))
FILES = sorted(f for f in os.listdir(SRC) if f.endswith((".cu", ".h")))
# Tests of a file, or of a function of it where that is less
TESTS = {"attention.cu": "attention", "blocks.cu": "blocks", "gemm.cu": "linear,pack,failure", "logprob.cu": "logprob,sample,failure", "rmsnorm.cu": "rmsnorm",
         "rope.cu": "rope", "swiglu.cu": "swiglu", "head.cu": "head", "elementwise.cu": "elements,dropout,adamw", "cuda.h": "rmsnorm,head,logprob,elements,swiglu,rope,blocks",
         "lse_kernel": "logprob,failure", "target_of": "failure", "weights_kernel": "test_logprob(", "unit_kernel": "test_logprob(",
         "delta_kernel": "test_attention(,attention_shared", "soften": "test_attention(,attention_shared", "dq_kernel": "test_attention(,attention_shared", "dkv_kernel": "test_attention(,attention_shared",
         "key_of": "test_sample(", "mass": "test_sample(", "cut": "test_sample(",
         "draw": "test_sample,edges", "sample_kernel": "sample", "embedding_kernel": "pack,failure", "EACH": "elements,dropout,swiglu"}
# kind, pattern, what the mutant has there, what the program of all mutants has
RULES = [("barrier", r"(__sync(?:threads|warp)\(\);)", r";", r"if (mutant != {k}) \1"),
         ("edge", r"(?<=[\w)\]]) < (?=[\w(])", r" <= ", r" <LESS({k})> "), ("edge", r" <= ", r" < ", r" <LEAST({k})> "),
         ("edge", r"(?<=[\w)\]]) > (?=[\w(-])", r" >= ", r" <MORE({k})> "), ("edge", r" >= ", r" > ", r" <MOST({k})> "),
         ("one", r" ([+-]) 1\b(?![.\w])", r"", r" \1 (mutant != {k})"),
         ("stride", r"\+= (32|THREADS|blockDim\.x|WARPS|TILE_DKV|SAL_VOCAB_CHUNK|\(int64_t\)gridDim\.x \* blockDim\.x)(?=[;)])", r"+= (\1) / 2",
          r"+= (\1) / (mutant == {k} ? 2 : 1)"),
         ("mask", r"0xffffffffu, (?=[\w(])", r"0x0000ffffu, ", r"(mutant == {k} ? 0x0000ffffu : 0xffffffffu), "),
         ("atomic", r"atomicAdd\(&(.*?\]), (.*)\);", r"\1 += \2;", r"if (mutant == {k}) \1 += \2; else atomicAdd(&\1, \2);")]
# x <LESS(k)> y is x < y, and x <= y in mutant k: two operators of the same rank as those that they stand for
SUPPORT = """
#include <cstdlib>
inline int mutant = atoi(getenv("MUTANT") ? getenv("MUTANT") : "0");
struct compare { int how; };
template <class A> struct left { A a; int how; };
template <class A> inline left<A> operator<(A a, compare c) { return { a, c.how }; }
template <class A, class B> inline bool operator>(left<A> l, B b) { return l.how == 0 ? l.a < b : l.how == 1 ? l.a <= b : l.how == 2 ? l.a > b : l.a >= b; }
#define LESS(k) compare{ mutant == k }
#define LEAST(k) compare{ mutant != k }
#define MORE(k) compare{ 2 + (mutant == k) }
#define MOST(k) compare{ 2 + (mutant != k) }
"""
ORDERS = ["reverse", "forward", "7"]
# name of the program: flags, ending of the objects it is linked with, where they are
HOW = {"plain": ["-O2"], "race": ["-O1", "-fsanitize=thread"], "asan": ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]}
SUFFIX = {"plain": "cu.o", "race": "race.o", "asan": "cu.o"}
Mutant = collections.namedtuple("Mutant", "number file kind line code function which")


def kernel_lines(text):
    """{number of a line inside a __device__ or __global__ function, or of a loop that they share: name of the function}."""
    inside, marked, name, out = False, False, "", {}
    for n, line in enumerate(text.split("\n")):
        loop = re.match(r"#define (EACH\w*)\(", line) or (n and re.match(r"#define (EACH)\(.*\\$", before))
        if loop: out[n] = loop[1]
        before = line
        marked = marked or bool(re.search(r"__(device|global)__", line))
        if marked and not inside and re.match(r"\w.*?(\w+)\(", line) and "__launch_bounds__" not in line: name = re.search(r"(\w+)\(", line)[1]
        if line.startswith("{") and marked: inside = True
        if inside: out[n] = name
        if line.startswith("}"): inside = marked = False
        if marked and not inside and line.rstrip().endswith("}"): out[n] = name; marked = False
    return out


def mutate():
    """The mutants, and the text of each file with all of them."""
    mutants, texts, alike = [], {}, collections.Counter()
    for file in FILES:
        lines = open(f"{SRC}/{file}").read().split("\n")
        kernels = kernel_lines("\n".join(lines))
        for n, function in sorted(kernels.items()):
            line, code, places = lines[n], lines[n].split("/*")[0], []
            if code.lstrip().startswith("*"): continue
            for kind, pattern, by, both in RULES:
                for m in re.finditer(pattern, code):
                    new = (line[:m.start()] + m.expand(by) + line[m.end():]).strip()
                    alike[file, kind, new] += 1
                    mutants.append(Mutant(len(mutants) + 1, file, kind, n + 1, new, function, str(alike[file, kind, new])))
                    places.append((m.start(), m.end(), m.expand(both.replace("{k}", str(len(mutants))))))
            for start, end, both in sorted(places, reverse=True): line = line[:start] + both + line[end:]
            lines[n] = line
        texts[file] = "\n".join(lines)
    return mutants, texts


def build(d, how, texts):
    """The program of all mutants, or None where what it is linked with has not been made."""
    b = A.build + ("-san" if how == "asan" else "")
    if not os.path.exists(f"{b}/cuda_host/check_kernels"): return None
    os.makedirs(f"{d}/cuda", exist_ok=True)
    for f in ("backend.h", "kernels.h"): shutil.copy(f"kernels/{f}", d)
    open(f"{d}/support.h", "w").write(SUPPORT)
    for file, text in texts.items(): open(f"{d}/cuda/{file}", "w").write(text)
    objects = []
    for file in FILES:
        if file.endswith(".h"): continue
        objects.append(f"{d}/{file}.{how}.o")
        subprocess.run(["g++", "-std=c++17", "-I.", "-Itests/cuda_host", "-ffp-contract=off", "-w", "-include", f"{d}/support.h"] + HOW[how] +
                       ["-x", "c++", "-c", "-o", objects[-1], f"{d}/cuda/{file}"], check=True)
    objects += [f"{b}/cuda_host/{SRC}/table.c.o"] + [f"{b}/cuda_host/kernels/{f[:-2]}.c.o" for f in sorted(os.listdir("kernels")) if f.endswith(".c")]
    objects += [f"{b}/cuda_host/tests/cuda_host/cuda_host.cc.o"] + ([f"{b}/cuda_host/tests/cuda_host/cuda_race.cc.o"] if how == "race" else [])
    objects += [f"{b}/tests/kernels/check_kernels.o", f"{b}/tests/kernels/ref.o"]
    objects += [f"{b}/kernels/cpu/{f}" for f in sorted(os.listdir(f"{b}/kernels/cpu")) if f.endswith(".o")]
    link = [f for f in HOW[how] if how == "asan" and f.startswith("-fsanitize")]
    subprocess.run(["g++", "-fopenmp"] + link + ["-o", f"{d}/{how}"] + objects + ["-lm", "-ldl"], check=True)
    return f"{d}/{how}"


def passes(exe, tests, number, order, seconds):
    """Do the tests pass, in so many seconds of the processor?  Stops at the first that does not."""
    p = subprocess.Popen([exe, "-v", "--only", tests, "cuda"], env=dict(os.environ, MUTANT=str(number), CUDA_HOST_ORDER=order), stdout=subprocess.PIPE,
                         stderr=subprocess.DEVNULL, text=True, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds)))
    try:
        for line in p.stdout:
            if line.startswith("not ok"): p.kill(); return False
        return p.wait() == 0
    finally:
        p.wait()


def killed(m, exe, whole):
    """By what, or None."""
    tests = TESTS.get(m.function, TESTS.get(m.file))
    plain, race, asan = ([("plain", ORDERS[0])], [("race", "forward")], [("asan", "forward")])
    first = race + plain + asan if m.kind in ("atomic", "stride") else plain + race + asan if m.kind in ("barrier", "mask") else plain + asan + race
    for how, order in first + [("plain", o) for o in ORDERS[1:]]:
        if how not in exe: continue
        if (how, tests) not in whole: # seconds that the whole program takes, which must pass
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            if not passes(exe[how], tests, 0, order, 3600): sys.exit(f"mutate.py: {how}: {tests}: the program without a mutant fails")
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            whole[how, tests] = int(3 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)) + 2
        if not passes(exe[how], tests, m.number, order, whole[how, tests]): return order if how == "plain" else how
    return None


def main():
    known = {}
    for line in open(f"{HERE}/survivors.tsv"):
        if line.strip() and not line.startswith("#"):
            f, kind, which, code, why = line.rstrip("\n").split("\t")
            known[f, kind, which, code] = why
    mutants, texts = mutate()
    kinds, numbers = A.kind.split(","), [int(n) for n in A.only.split(",")] if A.only else None
    work = [m for m in mutants if (not A.file or m.file in A.file.split(",")) and m.kind in kinds and (not numbers or m.number in numbers)]
    work.sort(key=lambda m: (kinds.index(m.kind), m.number))
    if A.list:
        for m in work: print(f"{m.number}: {m.file}:{m.line}: {m.function}: {m.kind}: {m.code}")
        return 0
    count, wrong, whole = {}, 0, {}
    with tempfile.TemporaryDirectory() as d, concurrent.futures.ThreadPoolExecutor(A.jobs) as pool:
        exe = {how: e for how, e in ((how, build(d, how, texts)) for how in HOW) if e}
        for m, by in zip(work, pool.map(lambda m: killed(m, exe, whole), work)):
            listed = (m.file, m.kind, m.which, m.code) in known
            k = count.setdefault((m.file, m.kind), [0, 0])
            k[by is None] += 1
            wrong += (by is None) != listed
            said = f"killed by {by}" + (", and is in survivors.tsv" if listed else "") if by else "survives, as told" if listed else "SURVIVES"
            print(f"{said:20} {m.number}: {m.file}:{m.line}: {m.kind}: {m.code}", flush=True)
    for (name, kind), (dead, alive) in sorted(count.items()): print(f"{name:16} {kind:8} {dead:4} killed {alive:4} survive")
    dead, alive = (sum(v[i] for v in count.values()) for i in (0, 1))
    print(f"{dead} killed, {alive} survive, {wrong} not as survivors.tsv has it" + ("" if "asan" in exe else "; without AddressSanitizer: build-san is not made"))
    return wrong > 0


sys.exit(main())
