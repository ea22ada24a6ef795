#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Show that peft loads the adapters that the tools write, and scores with them what the tools score.

  python3 -m venv /tmp/peftvenv
  /tmp/peftvenv/bin/pip install torch transformers 'peft==0.21.*'
  /tmp/peftvenv/bin/python tests/peft.py [--bin build/bin] [--model FOLDER...]

Trains small adapters with the tools, in float32, on random tokens; the default model is tests/data/tiny.  Not part of `make check`.
One line a check, with the largest difference; the last line is 'N passed, N failed'.
"""
import argparse, json, math, os, random, shutil, subprocess, sys, tempfile, warnings

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", HF_HUB_DISABLE_PROGRESS_BARS="1", CUDA_VISIBLE_DEVICES="")
sys.path = [d for d in sys.path if os.path.realpath(d or ".") != os.path.dirname(os.path.realpath(__file__))]  # peft is the package, not this file
import peft, tokenizers, torch, transformers
from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification, PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TOL, MOVED = 1e-4, 1e-2  # allowed difference; what training must at least have changed
TEMPLATE = os.path.join(ROOT, "tests", "data", "reward.txt")
PRINCIPLES = [dict(dimension="Concise", definition="Be short.", negative_definition="Be long."), dict(dimension="Honest", definition="Say what is true.", negative_definition="Say what is false.")]
TRAIN = ["--learning-rate", "5e-3", "--schedule", "constant", "--warmup-steps", "0", "--max-grad-norm", "1", "--no-shuffle"]
npass = nfail = 0


def say(ok, name, figure):
    global npass, nfail
    npass += bool(ok); nfail += not ok
    print(("ok     " if ok else "not ok ") + f"{name}: {figure}", flush=True)


def close(name, got, want):
    """got and want: lists of lists of numbers."""
    same = [len(x) for x in got] == [len(x) for x in want]
    flat = [abs(a - b) for g, w in zip(got, want) for a, b in zip(g, w)]
    worst = max(flat) if all(math.isfinite(x) for x in flat) else math.inf
    say(same and flat and worst <= TOL, name, f"max difference {worst:.1e} of {len(flat)}, allowed {TOL:.0e}" + ("" if same else "; the number of values differs"))


def moved(name, got, base):
    """The checks above say nothing of an adapter that changes nothing."""
    d = max(abs(a - b) for g, w in zip(got, base) for a, b in zip(g, w))
    say(d > MOVED, name, f"max change {d:.1e}, at least {MOVED:.0e}")


def tool(args, records=()):
    args = [str(a) for a in args]
    p = subprocess.run([os.path.join(ARGS.bin, args[0]), "-q", *args[1:], "--dtype", "f32"], input="".join(json.dumps(r) + "\n" for r in records), capture_output=True, encoding="utf-8")
    if p.returncode != 0: raise RuntimeError(f"{' '.join(args)}: exit {p.returncode}: {p.stderr.strip()[-300:]}")
    return [json.loads(line) for line in p.stdout.split("\n") if line]


def load(name, folder, base=None, model=None):
    """The adapter on its model as peft puts it there: without a warning, and with every tensor of the file, bit for bit."""
    auto, auto_peft, extra = (AutoModelForSequenceClassification, AutoPeftModelForSequenceClassification, dict(num_labels=1)) if base == "reward" else (AutoModelForCausalLM, AutoPeftModelForCausalLM, {})
    with warnings.catch_warnings(record=True) as w:
        warnings.simplefilter("always")
        if model: m = PeftModel.from_pretrained(auto.from_pretrained(model, dtype=torch.float32, attn_implementation="eager", **extra), folder)
        else: m = auto_peft.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", **extra)
    m.eval()
    said = [str(x.message) for x in w if issubclass(x.category, UserWarning)]
    have, want = get_peft_model_state_dict(m), load_file(os.path.join(folder, "adapter_model.safetensors"))
    bad = sorted(set(have) ^ set(want)) or [k for k in want if have[k].shape != want[k].shape or not torch.equal(have[k].float(), want[k].float())]
    zero = [k for k in want if not want[k].any()]
    say(not (said or bad or zero), name, f"{len(want)} tensors" + (f"; peft says: {said[0]}" if said else "") + (f"; not the file's: {bad[0]}" if bad else "") + (f"; all zero: {zero[0]}" if zero else ""))
    return m


def ids(tokens): return torch.tensor([tokens])


@torch.no_grad()
def rewards(m, seqs): return [[m(input_ids=ids(s)).logits.item()] for s in seqs]


@torch.no_grad()
def logprobs(m, recs, temperature=1.0):
    out = []
    for r in recs:
        p, a = r["prompt_tokens"], r["response_tokens"]
        lp = (m(input_ids=ids(p + a)).logits[0].double() / temperature).log_softmax(-1)
        out.append([lp[len(p) + i - 1, t].item() for i, t in enumerate(a)])
    return out


@torch.no_grad()
def values(m, head, recs):
    out = []
    for r in recs:
        p, a = r["prompt_tokens"], r["response_tokens"]
        h = m.get_base_model().model(input_ids=ids(p + a)).last_hidden_state[0]
        out.append((h @ head["weight"][0] + head["bias"])[len(p) - 1:-1].tolist())
    return out


class without_lora:
    """The same head on the bare trunk (disable_adapter would take the head away too)."""
    def __init__(self, m): self.layers = [x for x in m.modules() if isinstance(x, LoraLayer)]
    def __enter__(self):
        self.scaling = [dict(x.scaling) for x in self.layers]
        for x in self.layers: x.scaling.update({k: 0.0 for k in x.scaling})
    def __exit__(self, *_):
        for x, s in zip(self.layers, self.scaling): x.scaling.update(s)


def reward_checks(M, t, rng, vocab, ctx, pad):
    def seq(n):
        s = [rng.randrange(vocab) for _ in range(n)]
        while s[-1] == pad: s[-1] = rng.randrange(vocab)  # there SEQ_CLS pools, a token earlier, something else
        return s
    pairs = [dict(chosen_tokens=seq(rng.randrange(3, 40)), rejected_tokens=seq(rng.randrange(3, 40))) for _ in range(12)]
    rm, rm2, rm16 = (os.path.join(t, x) for x in ("rm", "rm2", "rm16"))
    tool(["sal-rmtrain", "-m", M, "-o", rm, "--lora-r", 8, "-b", 4, "--epochs", 3, *TRAIN], pairs)
    tool(["sal-rmtrain", "-m", M, "-a", rm, "-o", rm2, "-b", 4, *TRAIN], pairs)
    tool(["sal-rmtrain", "-m", M, "-o", rm16, "--lora-r", 4, "--lora-alpha", 6, "--lora-targets", "q_proj,v_proj,down_proj", "--save-dtype", "bf16", "-b", 4, "--epochs", 3, *TRAIN], pairs)
    seqs = [seq(min(n, ctx)) for n in (1, 2, 7, 33, 70, 128, 250)]
    if pad is not None: seqs.append([pad, *seq(9)[:-1], pad, pad, *seq(1)])
    def ours(a): return [[r["reward"]] for r in tool(["sal-score", "-m", M, "-a", a], [dict(tokens=s) for s in seqs])]

    m = load("sal-rmtrain: PeftModel on AutoModelForSequenceClassification", rm, "reward", M)
    got = rewards(m, seqs)
    close("sal-rmtrain: logits are sal-score's rewards", got, ours(rm))
    with without_lora(m): moved("sal-rmtrain: its LoRA changes the logits", got, rewards(m, seqs))
    # of a text: the template filled here, the tokens from Hugging Face's tokenizer
    recs = [dict(prompt=q, response=a, principles=[dict(dimension=p["dimension"], negated=neg)]) for q, a, p, neg in
            [("hello", "the answer", PRINCIPLES[0], False), ("hello", "the answer", PRINCIPLES[0], True), ("Why?\nTell me.", "I don't know: 12 + 3?", PRINCIPLES[1], False)]]
    texts = []
    for r in recs:
        d = r["principles"][0]; p = next(x for x in PRINCIPLES if x["dimension"] == d["dimension"])
        text = open(TEMPLATE, encoding="utf-8").read().strip()
        for k, v in (("Output", r["response"]), ("Input", r["prompt"]), ("Dimensions", "- " + p["negative_definition" if d["negated"] else "definition"])): text = text.replace("{%s}" % k, v)
        texts.append(tokenizers.Tokenizer.from_file(os.path.join(M, "tokenizer.json")).encode(text).ids)
    with open(os.path.join(t, "principles.json"), "w") as f: json.dump(PRINCIPLES, f)
    out = tool(["sal-score", "-m", M, "-a", rm, "--template", TEMPLATE, "-p", f.name], recs)
    close("sal-rmtrain: logits of reward texts", rewards(m, texts), [[r["reward"]] for r in out])
    peft_copy(m, t, "sal-rmtrain: peft's own copy reads back", lambda a: ours(a), rm)
    # without the model's path
    close("sal-rmtrain -a: logits", rewards(load("sal-rmtrain -a: AutoPeftModelForSequenceClassification", rm2, "reward"), seqs), ours(rm2))
    m = load("sal-rmtrain --save-dtype bf16, three targets: PeftModel", rm16, "reward", M)
    got = rewards(m, seqs)
    close("sal-rmtrain --save-dtype bf16, three targets: logits", got, ours(rm16))
    with without_lora(m): moved("sal-rmtrain --save-dtype bf16, three targets: its LoRA changes the logits", got, rewards(m, seqs))


def peft_copy(m, t, name, ours, original):
    d = tempfile.mkdtemp(dir=t)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it looks for the base model's config on the hub
        m.save_pretrained(d)
    a, b = ours(d), ours(original)
    say(a == b, name, "the same figures from our tools" if a == b else f"other figures, by {max(abs(x - y) for g, w in zip(a, b) for x, y in zip(g, w)):.1e}")


def policy_checks(M, t, rng, vocab, ctx, _pad):
    def rec(p, a): return dict(prompt_tokens=[rng.randrange(vocab) for _ in range(p)], response_tokens=[rng.randrange(vocab) for _ in range(a)])
    def ours(a, m=M): return [r["logprobs"] for r in tool(["sal-score", "-m", m, "--logprobs", *(["-a", a] if a else [])], recs)]
    data = [rec(rng.randrange(1, 20), rng.randrange(2, 30)) for _ in range(12)]
    recs = [rec(1, 1), rec(1, 6), rec(9, 33), rec(40, 70), rec(5, min(240, ctx - 5))]
    sft, dpo, s0, s1, s2, rollouts = (os.path.join(t, x) for x in ("sft", "dpo", "s0", "s1", "s2", "rollouts"))
    bare = AutoModelForCausalLM.from_pretrained(M, dtype=torch.float32, attn_implementation="eager").eval()
    base = logprobs(bare, recs)
    close("no adapter: log-probabilities", base, ours(None))

    tool(["sal-sft", "-m", M, "-o", sft, "--lora-r", 8, "-b", 4, "--epochs", 3, *TRAIN], data)
    m = load("sal-sft: PeftModel on AutoModelForCausalLM", sft, None, M)
    first = logprobs(m, recs)
    close("sal-sft: log-probabilities are sal-score's", first, ours(sft))
    moved("sal-sft: the adapter changes them", first, base)
    peft_copy(m, t, "sal-sft: peft's own copy reads back", lambda a: ours(a), sft)
    merged = os.path.join(t, "merged"); m.merge_and_unload().save_pretrained(merged)
    for f in ("tokenizer.json", "tokenizer_config.json"):
        if os.path.exists(os.path.join(M, f)): shutil.copy(os.path.join(M, f), merged)
    close("sal-sft: merged by peft, then scored by sal-score", first, ours(None, merged))

    pairs = [dict(prompt_tokens=r["prompt_tokens"], chosen_tokens=r["response_tokens"], rejected_tokens=q["response_tokens"]) for r, q in zip(data, data[1:])]
    tool(["sal-sft", "--loss", "dpo", "-m", M, "-a", sft, "-o", dpo, "-b", 4, "--epochs", 2, *TRAIN], pairs)
    got = logprobs(load("sal-sft --loss dpo: AutoPeftModelForCausalLM", dpo), recs)
    close("sal-sft --loss dpo: log-probabilities", got, ours(dpo))
    moved("sal-sft --loss dpo: training changes them", got, first)

    tool(["sal-ppo-step", "--init", "-m", M, "-a", sft, "--value-from", os.path.join(t, "rm"), "-o", s0])
    step = ["sal-ppo-step", "-m", M, "-r", sft, *TRAIN, "--minibatch", 3, "--epochs", 4, "--temperature", 0.7, "--response-len", 64]
    scored = [dict(r, id=str(i), reward=rng.uniform(-2, 2), length_bonus=0.0) for i, r in enumerate(data)]
    tool([*step, "-s", s0, "-o", s1], scored)
    m = load("sal-ppo-step: policy on AutoModelForCausalLM", os.path.join(s1, "policy"), None, M)
    got = logprobs(m, recs)
    close("sal-ppo-step: log-probabilities are sal-score's", got, ours(os.path.join(s1, "policy")))
    moved("sal-ppo-step: the adapter changes them", got, base)
    moved("sal-ppo-step: the step changes them", got, first)
    # the step after that writes what it computes of the state that peft just read
    tool([*step, "-s", s1, "-o", s2, "--rollouts", rollouts], scored)
    out = {r["id"]: r for r in map(json.loads, open(rollouts))}; out = [out[r["id"]] for r in scored]
    close("sal-ppo-step --rollouts: logprobs at 0.7", logprobs(m, scored, 0.7), [r["logprobs"] for r in out])
    close("sal-ppo-step --rollouts: ref_logprobs at 0.7", logprobs(PeftModel.from_pretrained(bare, sft).eval(), scored, 0.7), [r["ref_logprobs"] for r in out])
    value = os.path.join(s1, "value"); head = load_file(os.path.join(value, "head.safetensors"))
    m = load("sal-ppo-step: value adapter on AutoModelForCausalLM", value, None, M)
    got = values(m, head, scored)
    close("sal-ppo-step --rollouts: values are head.safetensors on the last hidden state", got, [r["values"] for r in out])
    with without_lora(m): moved("sal-ppo-step: the value LoRA changes them", got, values(m, head, scored))


def main():
    global ARGS
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--bin", default=os.path.join(ROOT, "build", "bin"), help="folder of the sal-* executables")
    ap.add_argument("--model", nargs="+", default=[os.path.join(ROOT, "tests", "data", "tiny")], help="Hugging Face folders")
    ap.add_argument("--seed", type=int, default=1)
    ARGS = ap.parse_args()
    transformers.utils.logging.disable_progress_bar()
    warnings.simplefilter("ignore", FutureWarning)  # of transformers, about its own code
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    print(f"# peft {peft.__version__}, transformers {transformers.__version__}, torch {torch.__version__}")
    for M in map(os.path.abspath, ARGS.model):
        with open(os.path.join(M, "config.json")) as f: c = json.load(f)
        print(f"# {M}", flush=True)
        with tempfile.TemporaryDirectory() as t:
            for checks in (reward_checks, policy_checks):  # the second starts its critic from the reward adapter of the first
                try: checks(M, t, random.Random(ARGS.seed), c["vocab_size"], c["max_position_embeddings"], c.get("pad_token_id"))
                except Exception as e: say(False, f"{checks.__name__}, {os.path.basename(M)}", f"{type(e).__name__}: {str(e)[:500]}")
    print(f"{npass} passed, {nfail} failed")
    return nfail > 0


if __name__ == "__main__":
    sys.exit(main())
