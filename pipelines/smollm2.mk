# SPDX-License-Identifier: Apache-2.0
# The recipe of Dromedary-2 at a size for two cores: every stage but PMP, on the demo's prompts.  It shows the method, not its figures.
MODEL      ?= models/SmolLM2-135M-Instruct.Q4_1.gguf
WORK       ?= runs/smollm2
SHAREGPT   ?=
DOLLY      ?=
OASST1     ?= $(dir $(lastword $(MAKEFILE_LIST)))../prompts/demo.jsonl
OPENORCA   ?=
MATH       ?=
HH         ?=
SHP        ?=
R          ?= 16
MAX_PROMPT ?= 128
RL_PROMPT  ?= 128
SA_NEW     ?= 128
SFT_LR     ?= 1e-3
SFT_BATCH  ?= 16
MAX_NEW    ?= 48
AGREE      ?= mean# so small a judge likes a place more than an answer
PASSES     ?= 1
RM_LR      ?= 5e-4
RM_BATCH   ?= 8
ROLLOUTS   ?= 64
MINIBATCH  ?= 32
PPO_NEW    ?= 48
PPO_LR     ?= 3e-4
PPO_WARM   ?= 1
PENALTY    ?= 0
ALARM      ?= kl=40 lr=1 length=4:$(PPO_NEW)
include $(dir $(lastword $(MAKEFILE_LIST)))dromedary2-70b.mk
