# SPDX-License-Identifier: Apache-2.0
"""
What the scripts of the Python peers share.

usage: with_X.py WORK MODEL INPUT.json THREADS DEVICE

A script loads its model, warms up, and prints {"peer": name and versions}.  Then, for each line on stdin, it does the work
once and answers {"tokens", "seconds"}: loading is not counted.  INPUT.json has the token ids, the same that our tools read.
"""
import json
import os
import sys
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

work, path, inputs, threads, device = sys.argv[1:6]
spec = json.load(open(inputs))
answers = os.fdopen(os.dup(1), "w")  # the peers print on stdout, too
os.dup2(2, 1)

import torch  # noqa: E402

torch.set_num_threads(int(threads))
torch.manual_seed(0)


def wait():
    """Until the driver asks for one more run; ends the script when it does not.  The options of the run."""
    line = sys.stdin.readline()
    if not line:
        answers.close()
        os._exit(0)  # trainers catch SystemExit
    return json.loads(line)


def say(**what):
    print(json.dumps(what), file=answers, flush=True)


def clock():
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


def serve(peer, once):
    """once(options) does the work and returns how many tokens it counted."""
    say(peer=peer)
    while True:
        options = wait()
        start = clock()
        tokens = once(options)
        say(tokens=tokens, seconds=clock() - start)


def load(kind, dtype, **more):
    """A model of transformers whose answers end by length alone."""
    model = kind.from_pretrained(path, dtype=dtype, **more).to(device)
    model.config.pad_token_id = spec["pad"]
    if getattr(model, "generation_config", None):
        model.generation_config.eos_token_id = None
        model.generation_config.pad_token_id = spec["pad"]
    return model


def padded(rows, left=False):
    """[n, longest] ids and their mask."""
    longest = max(map(len, rows))
    ids, mask = [], []
    for r in rows:
        pad = longest - len(r)
        ids.append([spec["pad"]] * pad + r if left else r + [spec["pad"]] * pad)
        mask.append([0] * pad + [1] * len(r) if left else [1] * len(r) + [0] * pad)
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


class Steps:
    """A callback of a trainer: each of its steps is one run.  tokens: what a step counts."""

    def __new__(cls, peer, tokens):
        from transformers import TrainerCallback

        class Callback(TrainerCallback):
            start = 0

            def on_train_begin(self, *_, **__):
                say(peer=peer)
                wait()
                Callback.start = clock()

            def on_step_end(self, *_, **__):
                say(tokens=tokens, seconds=clock() - Callback.start)
                wait()
                Callback.start = clock()

        return Callback()
