# SPDX-License-Identifier: Apache-2.0
"""
TRL, bf16 autocast: reward (RewardTrainer) and ppo (trl.experimental.ppo of release 1.12, found by PYTHONPATH).

PPO: the policy is a LoRA, its reference the model without it; reward model and critic are sequence classifiers of the same
size, and the critic is trained whole: this release cannot do otherwise.
"""
import tempfile

from common import Steps, device, load, path, spec, torch, work

import trl
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
tokenizer.pad_token = tokenizer.convert_ids_to_tokens(spec["pad"])
lora = {"r": spec["rank"], "lora_alpha": 2 * spec["rank"], "target_modules": "all-linear"}
shared = {"output_dir": tempfile.mkdtemp(), "report_to": "none", "bf16": True, "use_cpu": device == "cpu", "save_strategy": "no", "logging_steps": 1000000, "disable_tqdm": True}
name = f"trl {trl.__version__}, torch {torch.__version__}, bf16 autocast"


def classifier():
    return load(AutoModelForSequenceClassification, torch.float32, num_labels=1)


def reward():
    pairs = spec["pairs"]
    tokens = sum(len(p["chosen_ids"]) + len(p["rejected_ids"]) for p in pairs)
    config = trl.RewardConfig(per_device_train_batch_size=len(pairs), num_train_epochs=1000, max_length=None, gradient_checkpointing=False, **shared)
    peft = LoraConfig(task_type="SEQ_CLS", modules_to_save=["score"], **lora)
    trl.RewardTrainer(model=classifier(), args=config, train_dataset=Dataset.from_list(pairs), processing_class=tokenizer, peft_config=peft, callbacks=[Steps(name, tokens)]).train()


def ppo():
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    rows, micro = spec["rows"], spec["batch"]
    policy = load(AutoModelForCausalLM, torch.float32)
    config = PPOConfig(per_device_train_batch_size=micro, gradient_accumulation_steps=len(rows) // micro, num_mini_batches=1, num_ppo_epochs=1,
                       total_episodes=1000 * len(rows), response_length=spec["new"], local_rollout_forward_batch_size=micro, num_sample_generations=0,
                       learning_rate=1e-5, temperature=1.0, missing_eos_penalty=None, **shared)
    data = Dataset.from_dict({"input_ids": rows})
    PPOTrainer(args=config, processing_class=tokenizer, model=policy, ref_model=None, reward_model=classifier(), value_model=classifier(), train_dataset=data,
               peft_config=LoraConfig(task_type="CAUSAL_LM", **lora), callbacks=[Steps(name, len(rows) * spec["new"])]).train()


{"reward": reward, "ppo": ppo}[work]()
