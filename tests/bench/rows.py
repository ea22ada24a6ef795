# SPDX-License-Identifier: Apache-2.0
"""
rows.py - what is measured: one function a row, shortest first.  Each returns its sides; README.md says what they mean.

Goals: at_least, the ratio against the peers whose names begin so; share, of the measured peak; peak_mib, the most memory.
"""
import json
import os
import random
import re
import shutil

from measure import Failed, Side, Worker, spawn

ROWS = {}
LAYER = [(576, 576, 2), (192, 576, 2), (1536, 576, 2), (576, 1536, 1)]  # out, in, how many of a layer's seven


def row(name, title, **goals):
    def keep(f):
        ROWS[name] = (title, goals, f)
        return f

    return keep


# ---- parts ---------------------------------------------------------------------


def rate(tokens, seconds, rss, **more):
    return {"value": tokens / seconds, "tokens": tokens, "seconds": seconds, "rss": rss, **more}


def tool(b, name, args, records, model=None, threads=None, out=None, common=True, cache=""):
    """One run of one of our tools: (seconds, MiB)."""
    flags = ["-q", "-m", model or b.model, "-j", str(threads or b.threads), *b.device_flag] if common else ["-q"]
    env = dict(os.environ, SAL_PROMPTS=b.prompts_dir, SAL_CACHE=cache)
    return spawn([b.tools + "/" + name, *flags, *args], b.log("tool"), stdin=b.records(records), stdout=out or os.devnull, env=env)


def output(b, name, args, records, **more):
    """The records that one of our tools answers."""
    path = b.file("answer.jsonl")
    used = tool(b, name, args, records, out=path, **more)
    with open(path) as f:
        return [json.loads(x) for x in f], used


def python(b, script, work, spec, trl112=False):
    """A Python peer that has loaded its model, or a side that says why not."""
    env = dict(os.environ, PYTHONPATH=b.peers + "/trl112") if trl112 else None
    for needed in (b.python, b.hf) + ((b.peers + "/trl112",) if trl112 else ()):
        if not os.path.exists(needed):
            raise Failed(f"missing: {needed} is not there (make bench PEERS=install)")
    path = b.file(f"{work}.json")
    with open(path, "w") as f:
        json.dump(dict(spec, pad=b.pad), f)
    return Worker([b.python, f"{b.here}/peers/{script}.py", work, b.hf, path, str(b.threads), b.device], b.log(work), env)


def peer(b, label, script, work, spec, unit="tokens/s", options=({},), flops=None, trl112=False):
    """Sides of one Python peer, one for each of options; they share a process."""
    try:
        w = python(b, script, work, spec, trl112)
    except Failed as e:
        return [missing(label, e)]

    def once(o):
        r = w.once(o)
        return rate(r["tokens"], r["seconds"], 0, flops=flops, note=w.name)

    def named(o):
        return label + "".join(f", {k} {v}" for k, v in o.items())

    sides = [Side(named(o), lambda o=o: once(o), unit, peer=True, group=label) for o in options]
    b.opened.append((w, sides))
    return sides


def missing(label, why):
    def fail():
        raise Failed(str(why))

    return Side(label, fail, peer=True)


def llama(b, program, args, read, unit="tokens/s"):
    """A side for each type of weights that llama.cpp can read here.  read(answer, seconds, rss) makes the run's figures."""
    exe = f"{b.peers}/llama.cpp/build/bin/{program}"
    files = b.gguf_files()
    if not os.path.exists(exe):
        return [missing("llama.cpp", f"missing: {exe} is not there (make bench PEERS=install)")]
    if not files or b.device != "cpu":
        return [missing("llama.cpp", "missing: " + ("built here for the CPU alone" if files else "the model is no .gguf file"))]

    def once(path):
        out = b.file("llama.json")
        seconds, rss = spawn([exe, "-m", path, *args], b.log("llama"), stdout=out)
        with open(out, errors="replace") as f:
            return read(f.read(), seconds, rss)

    return [Side(f"llama.cpp {name}", lambda p=path: once(p), unit, peer=True, group="llama.cpp") for name, path in files]


def quantized(b):
    """[] and the options of sal-generate for each other type that base weights may have in memory."""
    out = b.file("help.txt")
    spawn([b.tools + "/sal-generate", "--help"], b.log("tool"), stdout=out)
    with open(out) as f:
        choices = re.search(r"--quantize (\S+)", f.read()).group(1).split("|")
    return [("", [])] + [(f" --quantize {c}", ["--quantize", c]) for c in choices if c not in ("none", "nf4")]  # nf4 is decoded when it is loaded


def lora(b):
    return ["--lora-r", str(b.rank), "--lora-alpha", str(2 * b.rank), "--schedule", "constant", "--warmup-steps", "0", "--learning-rate", "1e-4"]


def scored(b, rows):
    return [{"tokens": r} for r in rows]


def answered(b, rows):
    return [{"prompt_tokens": r[:1], "response_tokens": r[1:]} for r in rows]


def sampled(b, n, args=(), threads=None):
    """Sampling n prompts: a side's run."""
    answers, (seconds, rss) = output(b, "sal-generate", ["--max-tokens", str(b.new), "--temperature", "1", "--tokens", "-b", str(n), *args], b.prompts(n), model=b.endless,
                                     threads=threads)
    made = [(len(a["prompt_tokens"]), len(a["response_tokens"])) for a in answers]
    tokens = sum(k for _, k in made)
    more = {} if tokens == n * b.new else {"note": f"{tokens} tokens were made, not {n * b.new}: answers ended early"}
    return rate(tokens, seconds, rss, flops=sum(b.flops(p + k, k) for p, k in made), **more)


# ---- the rows -------------------------------------------------------------------


def starts(b, cache=""):
    text = "The capital of France is"

    def ours(args):
        seconds, rss = tool(b, "sal-generate", ["--max-tokens", "1", "--format", "none", *args], [{"prompt": text}], cache=cache)
        return {"value": seconds, "seconds": seconds, "rss": rss}

    for _, a in quantized(b) if cache else []:  # the first start writes the file
        ours(a)
    if cache and len(os.listdir(cache)) != len(quantized(b)):
        raise Failed(f"the packed weights could not be written: {b.log('tool')}")
    os.sync()
    return [Side("salmon" + name, lambda a=a: ours(a), "s") for name, a in quantized(b)] + llama(
        b, "llama-simple", ["-n", "1", text], lambda _, seconds, rss: {"value": seconds, "seconds": seconds, "rss": rss}, "s")


@row("startup", "exec to exit with one token, files in the page cache", at_least={"llama.cpp": 1.0})
def startup(b):
    return starts(b)


@row("startup-packed", "the same, with the packed weights of an earlier start (SAL_CACHE)", at_least={"llama.cpp": 1.0})
def startup_packed(b):
    if b.device != "cpu":
        raise Failed("weights are kept packed for the CPU alone")
    shutil.rmtree(b.file("packed"), ignore_errors=True)
    return starts(b, b.file("packed"))


@row("kernels", "matrix products of a layer (cold weights, bf16): each shape, and all seven by their FLOPs", share={"forward M=512, seven": 0.85, "forward M=32, seven": 0.70})
def kernels(b):
    if b.device != "cpu":
        raise Failed("check_kernels --bench measures the CPU here")
    latest = {}

    def seven(way, m):
        t = sum(n * latest[way, m, o, k] for o, k, n in LAYER)
        flops = sum(n * 2.0 * m * o * k for o, k, n in LAYER)
        return {"value": flops / t * 1e-9, "seconds": t, "flops": flops}

    def first():
        out = b.file("kernels.txt")
        seconds, _ = spawn([b.check_kernels, "--bench", "--only", "bench_linear(SAL_BF16"], b.log("tool"), stdout=out)
        with open(out) as f:
            for way, m, o, k, us in re.findall(r"linear_(\w+) bf16 N (\d+) O (\d+) K (\d+) +([\d.]+) us", f.read()):
                latest[way, int(m), int(o), int(k)] = float(us) * 1e-6
        r = seven("forward", 512)
        return dict(r, seconds=seconds, flops=1e9 * r["value"] * seconds)

    def shape(way, m, o, k):
        t = latest[way, m, o, k]
        return {"value": 2e-9 * m * o * k / t, "seconds": t, "flops": 2.0 * m * o * k}

    sides = [Side("forward M=512, seven", first, "GFLOP/s")]
    for way, m in (("forward", 512), ("forward", 32), ("backward", 512), ("backward", 32)):
        if (way, m) != ("forward", 512):
            sides.append(Side(f"{way} M={m}, seven", lambda w=way, m=m: seven(w, m), "GFLOP/s", within=sides[0]))
        sides += [Side(f"{way} M={m}, {o} x {k}", lambda w=way, m=m, o=o, k=k: shape(w, m, o, k), "GFLOP/s", within=sides[0]) for o, k, _ in LAYER]
    return sides


@row("prefill", "whole prefill of 512 tokens, one sequence at a time", share={"salmon": 0.65})
def prefill(b):
    many, one = scored(b, b.sequences([b.seq] * 17)), scored(b, b.sequences([b.seq]))

    def ours():
        t17, rss = tool(b, "sal-score", ["-a", b.reward_adapter(), "-b", "1"], many)
        t1, _ = tool(b, "sal-score", ["-a", b.reward_adapter(), "-b", "1"], one)
        return rate(16 * b.seq, t17 - t1, rss, flops=16 * b.flops(b.seq, 0), note="17 sequences less one: start-up drops out")

    return [Side("salmon", ours)] + llama(b, "llama-bench", ["-t", str(b.threads), "-p", str(b.seq), "-n", "0", "-r", "1", "-o", "json"], bench_json(b.seq, b.flops(b.seq, 1)))


def bench_json(tokens, flops):
    def read(text, seconds, rss):
        r = json.loads(text[text.index("["):])[0]
        return rate(tokens, tokens / r["avg_ts"], rss, flops=flops)

    return read


@row("decode", "one sequence decoding 128 tokens", at_least={"llama.cpp": 1.0})
def decode(b):
    def ours(args):
        t, rss = tool(b, "sal-generate", ["--max-tokens", str(b.new + 1), "--temperature", "1", *args], b.prompts(1), model=b.endless)
        t1, _ = tool(b, "sal-generate", ["--max-tokens", "1", "--temperature", "1", *args], b.prompts(1), model=b.endless)
        return rate(b.new, t - t1, rss, flops=b.new * b.flops(1, 1), note=f"{b.new + 1} tokens less the first: start-up and prompt drop out")

    return [Side("salmon" + name, lambda a=a: ours(a)) for name, a in quantized(b)] + llama(
        b, "llama-bench", ["-t", str(b.threads), "-p", "0", "-n", str(b.new), "-r", "1", "-o", "json"], bench_json(b.new, b.new * b.flops(1, 1)))


def sampling(b, n, batches):
    prompts = b.prompt_ids(n)
    mean = round(sum(map(len, prompts)) / n)
    flops = sum(b.flops(len(p) + b.new, b.new) for p in prompts)

    def batched(text, seconds, rss):
        r = [json.loads(x) for x in text.splitlines() if x.startswith("{")][-1]
        return rate(n * b.new, r["t"], rss, flops=n * b.flops(mean + b.new, b.new), note=f"{n} prompts of {mean} tokens; draws nothing from the distribution")

    room = -(-n * (mean + b.new) // 256) * 256 + 256
    args = ["-t", str(b.threads), "-c", str(room), "-b", "2048", "-ub", "512", "-npp", str(mean), "-ntg", str(b.new), "-npl", str(n), "--output-format", "jsonl"]
    return ([Side("salmon" + name, lambda a=a: sampled(b, n, a)) for name, a in quantized(b)] + llama(b, "llama-batched-bench", args, batched) +
            peer(b, "transformers", "with_transformers", "sample", {"rows": prompts, "new": b.new}, options=[{"batch": k} for k in batches], flops=flops))


@row("sample32", "sample 128 tokens for 32 prompts, prefill included", at_least={"llama.cpp": 1.8, "transformers": 3.5})
def sample32(b):
    n = b.count(32)
    return sampling(b, n, [n])


@row("hidden", "score 8 x 512 tokens, reward head only", at_least={"transformers": 1.25})
def hidden(b):
    return scoring(b, b.sequences([b.seq] * b.count(16)), "hidden")


@row("logprobs", "log-probabilities of 8 x 512 tokens", at_least={"transformers": 1.8})
def logprobs(b):
    return scoring(b, b.sequences([b.seq] * b.count(16)), "logprobs")


@row("hidden-real", "score 32 sequences of 60 to 500 tokens", at_least={"transformers": 2.0})
def hidden_real(b):
    return scoring(b, b.sequences(b.lengths(b.count(32), 60, 500)), "hidden")


@row("logprobs-real", "log-probabilities of 32 sequences of 60 to 500 tokens", at_least={"transformers": 3.0})
def logprobs_real(b):
    return scoring(b, b.sequences(b.lengths(b.count(32), 60, 500)), "logprobs")


def scoring(b, rows, work, threads=None):
    tokens = sum(map(len, rows))
    flops = sum(b.flops(len(r), len(r) - 1 if work == "logprobs" else 0) for r in rows)

    def ours(options=()):
        if work == "logprobs":
            seconds, rss = tool(b, "sal-score", ["--logprobs", "-b", "8", *options], answered(b, rows), threads=threads)
        else:
            seconds, rss = tool(b, "sal-score", ["-a", b.reward_adapter(), "-b", "8", *options], scored(b, rows), threads=threads)
        return rate(tokens, seconds, rss, flops=flops)

    return ([Side(f"{work}, {threads} threads", ours)] if threads else [Side("salmon" + name, lambda a=a: ours(a)) for name, a in quantized(b)]) + (
        peer(b, "transformers", "with_transformers", work, {"rows": rows, "batch": 8}, flops=flops) if threads is None else [])


@row("sample64", "sample 128 tokens for 64 prompts, prefill included", at_least={"llama.cpp": 1.8, "transformers": 3.5}, peak_mib={"salmon": 600})
def sample64(b):
    n = b.count(64)
    return sampling(b, n, [n, n // 2])


@row("judge", "compare-judge 32 pairs, answers of 350 tokens, 11 principles, both orders", at_least={"salmon sal-score": 5.0})
def judge(b):
    with open(b.prompts_dir + "/judge.txt") as f:
        template = f.read()
    with open(b.prompts_dir + "/principles/rm.json") as f:
        principles = json.load(f)[: 2 if b.small else None]
    collection = b.file("principles.json")
    with open(collection, "w") as f:
        json.dump(principles, f)
    answers = [r["text"] for r in output(b, "sal-tokenize", ["--decode"], [{"tokens": t} for t in b.sequences([b.long_answer] * (2 * b.count(32)))])[0]]
    pairs = [{"id": f"j{i}", "prompt": p["prompt"], "output_1": answers[2 * i], "output_2": answers[2 * i + 1]} for i, p in enumerate(b.prompts(b.count(32)))]

    def texts(p):
        for order in (0, 1):
            a, z = (p["output_1"], p["output_2"])[:: -1 if order else 1]
            for d in principles:
                value = {"UserInstruction": p["prompt"], "OutputA": a, "OutputB": z, "Dimension": d["dimension"], "Definition": d["definition"]}
                yield {"text": re.sub(r"\{(\w+)\}", lambda m: value.get(m.group(1), m.group(0)), template)}

    rows = [r["tokens"] for r in output(b, "sal-tokenize", [], [t for p in pairs for t in texts(p)])[0]]
    few = rows[: 2 * len(principles) * b.count(2)]
    tokens = sum(map(len, rows))

    def shared():
        seconds, rss = tool(b, "sal-synthpref", ["-p", collection], pairs)
        return rate(tokens, seconds, rss, note=f"counts the {tokens} tokens of all {len(rows)} texts, most of them computed once")

    def alone(records, note):
        seconds, rss = tool(b, "sal-score", ["--logprobs", "-b", "1"], records)  # in a batch it would share what they begin with
        return rate(sum(map(len, few)), seconds, rss, note=f"{len(few)} of the {len(rows)} texts, nothing shared; {note}")

    return [Side("salmon", shared),
            Side("salmon sal-score, every token", lambda: alone(answered(b, few), "log-probabilities of every token"), peer=True),
            Side("salmon sal-score, last token", lambda: alone([{"prompt_tokens": r[:-1], "response_tokens": r[-1:]} for r in few], "of the last token alone"), peer=True)]


@row("sft", "LoRA SFT step, r 16 on all seven projections, 8 x 512 tokens", at_least={"peft": 2.2}, peak_mib={"salmon": 1500})
def sft(b):
    rows = b.sequences([b.seq] * b.count(8))
    flops = 2 * sum(b.flops(len(r), len(r) - 1) for r in rows)
    return [Side("salmon", lambda: sft_run(b, rows, flops))] + peer(b, "peft", "with_peft", "sft", {"rows": rows, "rank": b.rank}, flops=flops)


def sft_run(b, rows, flops, threads=None):
    seconds, rss = tool(b, "sal-sft", ["-o", b.fresh("sft"), "-b", str(len(rows)), "--epochs", "2", *lora(b)], answered(b, rows), threads=threads)
    return rate(2 * sum(map(len, rows)), seconds, rss, flops=2 * flops, note="two steps, start-up and the writing of the adapter included")


@row("reward", "reward-model step, 8 pairs of 100 to 400 tokens, r 16", at_least={"trl": 2.5})
def reward(b):
    prompts = b.prompt_ids(b.count(8))
    ends = b.sequences([max(n - len(prompts[i // 2]), 8) for i, n in enumerate(b.lengths(2 * len(prompts), 100, 400))])
    pairs = [(p + ends[2 * i], p + ends[2 * i + 1]) for i, p in enumerate(prompts)]
    tokens = sum(len(c) + len(r) for c, r in pairs)

    def ours():
        records = [{"chosen_tokens": c, "rejected_tokens": r} for c, r in pairs]
        seconds, rss = tool(b, "sal-rmtrain", ["-o", b.fresh("reward"), "-b", str(len(pairs)), "--epochs", "2", *lora(b)], records)
        return rate(2 * tokens, seconds, rss, note="two steps, start-up and the writing of the adapter included")

    return [Side("salmon", ours)] + peer(b, "trl", "with_trl", "reward", {"pairs": [{"chosen_ids": c, "rejected_ids": r} for c, r in pairs], "rank": b.rank})


@row("ppo", "PPO step, 32 prompts x 64 new tokens, one epoch, policy and value LoRA", at_least={"trl": 3.2}, peak_mib={"salmon": 2000})
def ppo(b):
    n, new = b.count(32), max(b.new // 2, 4)
    adapter = b.reward_adapter(b.rank)
    state = b.fresh("ppo-state")
    tool(b, "sal-ppo-step", ["--init", "-o", state, "--lora-r", str(b.rank), "--lora-alpha", str(2 * b.rank), "--value-from", adapter], [], model=b.endless)

    def ours():
        answers, (t1, m1) = output(b, "sal-generate", ["--max-tokens", str(new), "--temperature", "1", "--tokens", "-b", str(n), "-a", state + "/policy"], b.prompts(n), model=b.endless)
        for a in answers:
            a["tokens"] = a["prompt_tokens"] + a["response_tokens"]  # the reward reads what TRL's reads
        answers, (t2, m2) = output(b, "sal-score", ["-a", adapter], answers)
        t3, m3 = tool(b, "sal-ppo-step", ["-s", state, "-o", b.fresh("ppo"), "--epochs", "1", "--minibatch", str(n), "--temperature", "1", "--schedule", "constant",
                                          "--warmup-steps", "0", "--learning-rate", "1e-5"], answers, model=b.endless)
        tokens = sum(len(a["response_tokens"]) for a in answers)
        return rate(tokens, t1 + t2 + t3, max(m1, m2, m3), note=f"sampling {t1:.1f} s, reward {t2:.1f} s, step {t3:.1f} s, start-up of all three included")

    sides = [Side("salmon", ours)] + peer(b, "trl", "with_trl", "ppo", {"rows": b.prompt_ids(n), "new": new, "rank": b.rank, "batch": min(8, n)}, trl112=True)
    for s in sides[1:]:
        s.name = "trl 1.12, whole critic trained"
    return sides


@row("growth-context", "one sequence of 1, 2, 4, 8 k tokens: prefill, then decoding")
def growth_context(b):
    b.runs = min(b.runs, 2)
    steps = 2 * b.new  # as long as the difference of two runs must be to mean something

    def both(n):
        record = [{"prompt_tokens": b.sequences([n])[0]}]
        start, _ = tool(b, "sal-generate", ["--max-tokens", "1"], [{"prompt_tokens": b.stream()[:1]}], model=b.endless)
        t1, _ = tool(b, "sal-generate", ["--max-tokens", "1"], record, model=b.endless)
        t, rss = tool(b, "sal-generate", ["--max-tokens", str(steps + 1)], record, model=b.endless)
        return t1 - start, t - t1, rss

    took = {}

    def prefill_of(n):
        took[n] = both(n)
        return rate(n, took[n][0], took[n][2], flops=b.flops(n, 1))

    def decode_at(n):
        return rate(steps, took[n][1], took[n][2])

    sides = []
    for n in (k * b.seq for k in (2, 4, 8, 16)):
        n = min(n, b.context - steps - 1)
        sides.append(Side(f"prefill of {n}", lambda n=n: prefill_of(n)))
        sides.append(Side(f"decoding at {n}", lambda n=n: decode_at(n), within=sides[-1]))
    return sides


@row("growth-records", "100, 1000, 10000 records: rate and memory of filters")
def growth_records(b):
    b.runs = 1
    ids, texts = b.stream(), [p["prompt"] for p in b.prompts(64)]
    kinds = {
        "sal-tokenize": ([], lambda i: {"text": texts[i % 64]}, {}),
        "sal-best": ([], lambda i: {"id": f"r{i // 4}", "response": texts[i % 64], "reward": i % 7}, {"common": False}),
        "sal-score --logprobs": (["--logprobs"], lambda i: {"prompt_tokens": ids[:1], "response_tokens": [ids[i % len(ids)], ids[7]]}, {}),
        "sal-generate": (["--max-tokens", "2"], lambda i: {"id": f"r{i}", "prompt_tokens": [ids[i % len(ids)], ids[5]]}, {"model": b.endless}),
    }

    def once(name, n):
        args, make, more = kinds[name]
        seconds, rss = tool(b, name.split()[0], args, [make(i) for i in range(n)], **more)
        return {"value": n / seconds, "seconds": seconds, "rss": rss}

    return [Side(f"{name}, {n}", lambda name=name, n=n: once(name, n), "records/s") for name in kinds for n in b.records_steps]


@row("growth-threads", "one and two threads")
def growth_threads(b):
    b.runs = min(b.runs, 2)
    n, rows = b.count(32), b.sequences([b.seq] * b.count(8))
    flops = 2 * sum(b.flops(len(r), len(r) - 1) for r in rows)
    sides = []
    for t in sorted({1, b.threads}):
        for side in (Side(f"sampling, {t} threads", lambda t=t: sampled(b, n, threads=t)), *scoring(b, rows, "logprobs", t), Side(f"sft, {t} threads", lambda t=t: sft_run(b, rows, flops, t))):
            once = side.once
            side.once = lambda once=once, t=t: dict(once(), threads=t)
            sides.append(side)
    return sides


def clear(path):
    shutil.rmtree(path, ignore_errors=True)
    return path


def lengths(n, low, high):
    r = random.Random(0)
    return [r.randint(low, high) for _ in range(n)]
