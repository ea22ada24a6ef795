# SPDX-License-Identifier: Apache-2.0
"""usage: unpack.py MODEL.gguf DIR: the same weights in float32, as a folder that transformers reads."""
import os
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, name = os.path.split(os.path.abspath(sys.argv[1]))
model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
if hasattr(model.config, "quantization_config"):
    delattr(model.config, "quantization_config")
plain = type(model)(model.config)  # a model that does not remember where it came from
plain.load_state_dict(model.state_dict())
plain.tie_weights()
plain.save_pretrained(sys.argv[2])
AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(sys.argv[2])
