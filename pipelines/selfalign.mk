# SPDX-License-Identifier: Apache-2.0
# Self-Align: from a base model and a page of rules to a policy.  `make -n -f pipelines/selfalign.mk demo` reads as the experiment.
# Sizes are for a model of 135M parameters on two cores; the paper's values (LLaMA-2-70B) stand beside them.
include $(dir $(lastword $(MAKEFILE_LIST)))common.mk

MODEL      ?= models/SmolLM2-135M-Instruct.Q4_1.gguf
WORK       ?= runs/selfalign
PROMPTS    ?= $(HERE)/../prompts/demo.jsonl   # files of any kind that sal-prompts reads, those that win first
SELFALIGN  ?= $(HERE)/../prompts/selfalign.txt
RULES      ?= $(HERE)/../prompts/selfalign.json
IDENTITY   ?= $(HERE)/../prompts/identity.jsonl
SEED       ?= 42            # seed
CAP        ?= 24            # prompts of a source  paper: 90k ShareGPT, 10k Dolly, 10k OASST1, 40k OpenOrca
MAX_PROMPT ?= 256           # tokens of a prompt   paper: 256
MAX_NEW    ?= 256           # new tokens           paper: 512
T          ?= 0.7           # temperature          paper: 0.7
TOP_P      ?= 0.95          # top-p                paper: 0.95
MIN_CHARS  ?= 160           # shortest answer      paper: 160
FORMAT     ?=               # chat format of the policy        paper: dromedary
LR         ?= 1e-3          # learning rate        paper: 1e-4, cosine, warm-up 0.03
BATCH      ?= 16            # records an update    paper: 128
EPOCHS     ?= 3             # epochs               paper: 1
R          ?= 16            # LoRA rank r          paper: 64
ALPHA      ?= 16            # LoRA alpha           paper: 16
$(call bare,PROMPTS SELFALIGN RULES IDENTITY SEED CAP MAX_PROMPT MAX_NEW T TOP_P MIN_CHARS FORMAT LR BATCH EPOCHS R ALPHA)

format := $(if $(FORMAT),--format $(FORMAT))
policy := $(WORK)/sft.jsonl

demo: report

# 1. prompts: cleaned, within limits, each once, so many of a source
$(eval $(call for_model,$(WORK)))
$(WORK)/prompts.jsonl: $(PROMPTS) | $(WORK)/model
	cat $(PROMPTS) | sal-prompts -m $(MODEL) --max-tokens $(MAX_PROMPT) --cap $(CAP) --seed $(SEED) $(KEEP)

# 2. the model reads the rules, six examples and the prompt, thinks, and answers, until it hands the turn back
$(WORK)/raw.jsonl: $(WORK)/prompts.jsonl $(SELFALIGN)
	jq -c --rawfile rules $(SELFALIGN) '.instruction = .prompt | .prompt = ($$rules | rtrimstr("\n")) + " " + .prompt + "\n\nWatson (internal thoughts):"' $< \
	  | sal-generate -m $(MODEL) --format none --stop "$$(printf '\n\nUser:')" --max-tokens $(MAX_NEW) --temperature $(T) --top-p $(TOP_P) --seed $(SEED) $(KEEP)

# 3. the answers that are fit to train on, by ten rules
$(WORK)/kept.jsonl: $(WORK)/raw.jsonl $(RULES)
	sal-filter --rules $(RULES) --min-chars $(MIN_CHARS) < $< $(KEEP)

# 4. the policy: answers without the rules, and who it is
$(policy): $(WORK)/kept.jsonl $(IDENTITY)
	cat $^ | sal-sft -m $(MODEL) -o $(WORK)/policy $(format) --learning-rate $(LR) --schedule cosine --warmup-ratio 0.03 --batch $(BATCH) --epochs $(EPOCHS) \
	  --lora-r $(R) --lora-alpha $(ALPHA) --seed $(SEED) $(KEEP)

# 5. the same questions before and after, the likeliest answer to each
$(WORK)/questions.jsonl: $(IDENTITY) | $(WORK)/model
	head -n 3 $< | jq -c '{id, prompt}' > $@.tmp
	mv $@.tmp $@
$(WORK)/before.jsonl: $(WORK)/questions.jsonl
	sal-generate -q -m $(MODEL) $(format) --temperature 0 --max-tokens 48 < $< $(KEEP)
$(WORK)/after.jsonl: $(WORK)/questions.jsonl $(policy)
	sal-generate -q -m $(MODEL) -a $(WORK)/policy $(format) --temperature 0 --max-tokens 48 < $< $(KEEP)

report: $(WORK)/before.jsonl $(WORK)/after.jsonl
	@cat $(WORK)/prompts.jsonl.log $(WORK)/kept.jsonl.log
	@jq -rs '"sft: \(length) updates, loss \(.[0].loss) to \(.[-1].loss)"' $(WORK)/sft.jsonl
	@jq -rs '.[0] as $$b | "\n\($$b.prompt)", (.[] | "--- " + .response)' <(head -n 1 $(WORK)/before.jsonl) <(head -n 1 $(WORK)/after.jsonl)

.PHONY: demo report
