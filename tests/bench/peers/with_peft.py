# SPDX-License-Identifier: Apache-2.0
"""peft: one LoRA step on all linear layers, float32 weights under bf16 autocast, AdamW."""
from common import device, load, serve, spec, torch

import peft
from transformers import AutoModelForCausalLM

config = peft.LoraConfig(r=spec["rank"], lora_alpha=2 * spec["rank"], target_modules="all-linear", task_type="CAUSAL_LM")
model = peft.get_peft_model(load(AutoModelForCausalLM, torch.float32), config).train()
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)


def step(rows):
    x = torch.tensor(rows, device=device)
    with torch.autocast(device, torch.bfloat16):
        loss = model(input_ids=x, labels=x, use_cache=False).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    loss.item()
    return x.numel()


step([spec["rows"][0][:32]])
serve(f"peft {peft.__version__}, torch {torch.__version__}, bf16 autocast", lambda options: step(spec["rows"]))
