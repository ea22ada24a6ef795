#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The reward model of sal-rmtrain beside one that torch and peft train on the same pairs, from the same base and the same start.

  python3 -m venv /tmp/venv
  /tmp/venv/bin/pip install torch transformers peft
  /tmp/venv/bin/python tests/reward.py --model FOLDER --train PREFS... --held PREFS... [--bin build/bin] [--work DIR]

FOLDER is a Hugging Face folder; PREFS are preferences of text with principles, as sal-rmdata writes them (train.prefs.jsonl, train.turned.jsonl and
held.prefs.jsonl of pipelines/salmon.mk).  The line of each --train file in turn, the lines shuffled by a seed: both ways round of a pair stand in one update, as
in that recipe, and the order is the same for both.  torch scores in float32, and trains in it unless --autocast is given; the tool computes as --dtype says.  Last line: the paired difference of accuracy on the held-out pairs and its standard error between prompts; exit 1 if it is
larger than two of them.  Not part of `make check`.
"""
import argparse, json, math, os, random, subprocess, sys, time

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", HF_HUB_DISABLE_PROGRESS_BARS="1", CUDA_VISIBLE_DEVICES="")
sys.path = [d for d in sys.path if os.path.realpath(d or ".") != os.path.dirname(os.path.realpath(__file__))]  # peft is the package
import peft, torch, transformers
from peft import PeftModel
from tokenizers import Tokenizer
from transformers import AutoModelForSequenceClassification

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def read(paths): return [json.loads(line) for path in paths for line in open(path, encoding="utf-8")]


def tool(args, records, out):
    args = [os.path.join(ARGS.bin, args[0]), "-q", *[str(a) for a in args[1:]]]
    with open(out, "w") as f: subprocess.run(args, input="".join(json.dumps(r) + "\n" for r in records), stdout=f, check=True, encoding="utf-8")
    return read([out])


def text(r, answer):
    """The reward text, filled here and not by the tool."""
    lines = [PRINCIPLES[p["dimension"]]["negative_definition" if p["negated"] else "definition"] for p in r["principles"]]
    parts, out = {"{Output}": answer, "{Input}": r["prompt"], "{Dimensions}": "\n".join("- " + x for x in lines)}, TEMPLATE
    where = sorted((TEMPLATE.index(k), k) for k in parts)
    for at, k in reversed(where): out = out[:at] + parts[k] + out[at + len(k):]
    return TOKENS.encode(out).ids


def rewards(m, seqs):
    """One number a sequence; right padding, read at the last token of each."""
    n, pad = max(map(len, seqs)), m.config.pad_token_id
    ids = torch.tensor([s + [pad] * (n - len(s)) for s in seqs])
    mask = torch.tensor([[1] * len(s) + [0] * (n - len(s)) for s in seqs])
    h = m.base_model.model.model(input_ids=ids, attention_mask=mask).last_hidden_state
    return m.base_model.model.score(h[torch.arange(len(seqs)), mask.sum(1) - 1])[:, 0]


def rate(step, total):
    warm = math.ceil(0.03 * total)
    return ARGS.learning_rate * ((step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / (total - warm))))


def train(m, pairs):
    own = [p for p in m.parameters() if p.requires_grad]
    for x in m.modules():  # autocast would round them anew in every pass
        if ARGS.autocast and isinstance(x, torch.nn.Linear) and not x.weight.requires_grad: x.weight.data = x.weight.data.bfloat16()
    opt = torch.optim.AdamW(own, lr=ARGS.learning_rate, weight_decay=0)
    total, log = math.ceil(len(pairs) / ARGS.batch), []
    start = time.time()
    m.train()  # there is no dropout
    for step in range(total):
        part = pairs[step * ARGS.batch:(step + 1) * ARGS.batch]
        seqs = sorted(((len(s), i, side, s) for i, p in enumerate(part) for side, s in enumerate(p)), key=lambda x: x[0])
        out = {}
        for at in range(0, len(seqs), 8):  # of like length; the graph of all is kept
            with torch.autocast("cpu", torch.bfloat16, enabled=ARGS.autocast): r = rewards(m, [x[3] for x in seqs[at:at + 8]])
            for (_, i, side, _), x in zip(seqs[at:at + 8], r): out[i, side] = x.float()
        lead = torch.stack([out[i, 0] - out[i, 1] for i in range(len(part))])
        loss = -torch.nn.functional.logsigmoid(lead).mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(own, 1.0)
        for g in opt.param_groups: g["lr"] = rate(step, total)
        opt.step(); opt.zero_grad()
        log.append(loss.item())
        print(f"torch: update {step + 1} of {total}, loss {log[-1]:.4f}, norm {norm:.3f}, {time.time() - start:.0f} s", file=sys.stderr, flush=True)
    return log


@torch.no_grad()
def score(m, pairs):
    m.eval()
    seqs = sorted(((len(s), i, side, s) for i, p in enumerate(pairs) for side, s in enumerate(p)), key=lambda x: x[0])
    out = {}
    for at in range(0, len(seqs), 16):
        for (_, i, side, _), r in zip(seqs[at:at + 16], rewards(m, [x[3] for x in seqs[at:at + 16]])): out[i, side] = r.item()
    return [(out[i, 0], out[i, 1]) for i in range(len(pairs))]


def right(pairs): return [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs]


def clustered(x, ids):
    """Mean and its standard error; pairs of one prompt hang together."""
    mean, sums = sum(x) / len(x), {}
    for v, i in zip(x, ids): sums[i] = sums.get(i, 0) + v - mean
    return mean, math.sqrt(sum(s * s for s in sums.values())) / len(x)


def say(name, x, ids): print("%-58s %.3f +- %.3f" % (name, *clustered(x, ids)), flush=True)


def main():
    global ARGS, PRINCIPLES, TEMPLATE, TOKENS
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--bin", default=os.path.join(ROOT, "build", "bin"))
    ap.add_argument("--model", required=True)
    ap.add_argument("--train", nargs="+", required=True)
    ap.add_argument("--held", nargs="+", required=True)
    ap.add_argument("--work", required=True, help="folder for what is made")
    ap.add_argument("--template", default=os.path.join(ROOT, "prompts", "reward_small.txt"))
    ap.add_argument("--principles", default=os.path.join(ROOT, "prompts", "principles", "demo.json"))
    ap.add_argument("--dtype", default="bf16", help="of the tool")
    ap.add_argument("--autocast", action="store_true", help="torch trains under bf16 autocast")
    ap.add_argument("--pairs", type=int, help="train on the first so many of the seeded order")
    ap.add_argument("--batch", type=int, default=8)
    ap.add_argument("--learning-rate", type=float, default=1e-3)
    ap.add_argument("--threads", type=int, default=2, help="of torch")
    ap.add_argument("--seed", type=int, default=42)
    ARGS = ap.parse_args()
    torch.set_num_threads(ARGS.threads)
    torch.manual_seed(ARGS.seed)
    PRINCIPLES = {p["dimension"]: p for p in json.load(open(ARGS.principles, encoding="utf-8"))}
    TEMPLATE = open(ARGS.template, encoding="utf-8").read().strip()
    TOKENS = Tokenizer.from_file(os.path.join(ARGS.model, "tokenizer.json"))
    W = lambda name: os.path.join(ARGS.work, name)
    os.makedirs(ARGS.work, exist_ok=True)

    data = list(zip(*(read([path]) for path in ARGS.train), strict=True))
    random.Random(ARGS.seed).shuffle(data)
    data = [r for line in data for r in line][:ARGS.pairs]
    print(f"# peft {peft.__version__}, transformers {transformers.__version__}, torch {torch.__version__}", flush=True)

    # ours: the start is what an update at rate 0 leaves
    model = ["-m", ARGS.model, "-p", ARGS.principles, "--template", ARGS.template]
    flags = ["--batch", ARGS.batch, "--max-grad-norm", 1, "--no-shuffle", "--seed", ARGS.seed, "--dtype", ARGS.dtype]
    if not os.path.exists(W("init")): tool(["sal-rmtrain", *model, "-o", W("init"), "--lora-r", 16, "--lora-alpha", 16, "--learning-rate", 0, *flags], data[:1], W("init.jsonl"))
    if not os.path.exists(W("ours")): tool(["sal-rmtrain", *model, "-a", W("init"), "-o", W("ours"), "--learning-rate", ARGS.learning_rate, *flags], data, W("ours.jsonl"))
    log = read([W("ours.jsonl")])
    def load(folder, **more): return PeftModel.from_pretrained(AutoModelForSequenceClassification.from_pretrained(ARGS.model, num_labels=1, dtype=torch.float32, pad_token_id=0), folder, **more)
    if not os.path.exists(W("torch")):  # what is there from an earlier run is not made again
        m = load(W("init"), is_trainable=True)
        with open(W("torch.log"), "w") as f: json.dump(train(m, [(text(r, r["chosen"]), text(r, r["rejected"])) for r in data]), f)
        m.save_pretrained(W("torch"))
    m, losses = load(W("torch")), json.load(open(W("torch.log")))
    held = read(ARGS.held)
    ids = [r["id"] for r in held]
    print(f"# {len(data)} pairs to train on, {len(held)} held out, of {len(set(ids))} prompts")
    ours = [(r["reward_chosen"], r["reward_rejected"]) for r in tool(["sal-score", *model, "-a", W("ours"), "--dtype", ARGS.dtype], held, W("scored.jsonl"))]
    pairs = [(text(r, r["chosen"]), text(r, r["rejected"])) for r in held]
    same = score(load(W("ours")), pairs[:32])
    print("%-58s %.4f" % ("tool's adapter in torch, 64 texts: largest difference", max(abs(a - b) for x, y in zip(same, ours) for a, b in zip(x, y))), flush=True)
    theirs = score(m, pairs)
    with open(W("torch.jsonl"), "w") as f:
        for r, (a, b) in zip(held, theirs): f.write(json.dumps(dict(r, reward_chosen=a, reward_rejected=b)) + "\n")

    k = math.ceil(len(log) / 10)
    mean = lambda x: sum(x) / len(x)
    print("%-58s %.3f, %.3f and %.3f, %.3f" % ("loss, first and last tenth: tool, then torch", mean([r["loss"] for r in log[:k]]), mean([r["loss"] for r in log[-k:]]), mean(losses[:k]), mean(losses[-k:])))
    say("accuracy on held-out pairs: tool", right(ours), ids)
    say("accuracy on held-out pairs: torch and peft", right(theirs), ids)
    for d in sorted({r["deciding"] for r in held}):
        at = [i for i, r in enumerate(held) if r["deciding"] == d]
        say(f"  {d}: tool", [right(ours)[i] for i in at], [ids[i] for i in at])
        say(f"  {d}: torch and peft", [right(theirs)[i] for i in at], [ids[i] for i in at])
    short = {d: mean(right([(len(r["rejected"]), len(r["chosen"])) for r in held if r["deciding"] == d])) >= 0.5 for d in {r["deciding"] for r in held}}
    say("length alone, the better sign of each principle", right([(len(r["rejected"]), len(r["chosen"])) if short[r["deciding"]] else (len(r["chosen"]), len(r["rejected"])) for r in held]), ids)
    print("%-58s 0.500" % "a coin")
    lead = [[a - b for a, b in x] for x in (ours, theirs)]
    x, y = ([v - mean(l) for v in l] for l in lead)
    print("%-58s %.4f" % ("correlation of the leads of chosen over rejected", sum(a * b for a, b in zip(x, y)) / math.sqrt(sum(a * a for a in x) * sum(b * b for b in y))))
    d, e = clustered([a - b for a, b in zip(right(ours), right(theirs))], ids)
    print("%-58s %.3f +- %.3f" % ("difference, tool less torch, pair by pair", d, e))
    return abs(d) > 2 * e


if __name__ == "__main__":
    sys.exit(main())
