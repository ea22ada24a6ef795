# SPDX-License-Identifier: Apache-2.0
"""transformers in bf16: sampling (prefill included), last hidden states, log-probabilities, one token."""
from common import load, padded, serve, spec, torch, work

import transformers
from transformers import AutoModelForCausalLM

model = load(AutoModelForCausalLM, torch.bfloat16).eval()
rows = spec["rows"]


def sample(options):
    """Plain sampling at temperature 1.  Ids of all new tokens; no id ends an answer."""
    made = 0
    for i in range(0, len(rows), options["batch"]):
        ids, mask = padded(rows[i : i + options["batch"]], left=True)
        out = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=spec["new"], do_sample=True, temperature=1.0, top_k=0, top_p=1.0)
        made += (out.shape[1] - ids.shape[1]) * len(ids)
    return made


def batches():
    """Neighbours in length, so that little is padded."""
    order = sorted(rows, key=len)
    for i in range(0, len(order), spec["batch"]):
        yield order[i : i + spec["batch"]]


def hidden(options):
    """What a reward head reads: the state of each last token.  The vocabulary is left out."""
    for part in batches():
        ids, mask = padded(part)
        model.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state[torch.arange(len(part)), mask.sum(1) - 1].float().sum().item()
    return sum(map(len, rows))


def logprobs(options):
    """Of each token after the first, in float32."""
    for part in batches():
        ids, mask = padded(part)
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
        lp = torch.gather(logits, 2, ids[:, 1:, None])[..., 0].float() - torch.logsumexp(logits.float(), -1)
        (lp * mask[:, 1:]).sum().item()
    return sum(map(len, rows))


run = {"sample": sample, "hidden": hidden, "logprobs": logprobs}[work]
with torch.inference_mode():
    if work == "sample":
        ids, mask = padded(rows[:2], left=True)
        model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=2, do_sample=True)
    else:
        whole, rows = rows, rows[:2]
        run({})
        rows = whole
    serve(f"transformers {transformers.__version__}, torch {torch.__version__}, bf16", run)
