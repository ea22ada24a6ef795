# SPDX-License-Identifier: Apache-2.0
# SALMON from prompts to an aligned adapter.  `make -n -f pipelines/salmon.mk demo` reads as the experiment.
# Sizes are for a model of 135M parameters on two cores; the paper's values (LLaMA-2-70B) stand beside them.
# What is made stays: for another value of a variable take another WORK, or remove what depends on it.
include $(dir $(lastword $(MAKEFILE_LIST)))common.mk

MODEL     ?= models/SmolLM2-135M-Instruct.Q4_1.gguf
WORK      ?= runs/demo
BASE      ?= $(WORK)       # where stages 1 to 3 are: runs of PPO may share a reward model
PROMPTS   ?= $(HERE)/../prompts/demo.jsonl
P         ?= demo          # principles           paper: rm (11) to judge, ppo (14) in RL
TEMPLATE  ?= reward_small.txt # what the reward model reads     paper: reward.txt
SEED      ?= 42            # seed                 paper: 42
T         ?= 0.7           # temperature T        paper: 0.7
N_TRAIN   ?= 168           # prompts to learn from             paper: 9,846 (OASST1)
N_HELD    ?= 100           # prompts held out, of the reward model and of PPO
N_SAMPLES ?= 3             # answers a prompt under a drawn principle, and as many under its negation
MAX_NEW   ?= 48            # new tokens           paper: 768
RM_LR     ?= 1e-3          # reward model: learning rate       paper: 3e-5
RM_BATCH  ?= 8             # pairs an update, even: each stands both ways round   paper: 64
RM_EPOCHS ?= 1             # epochs               paper: 1
R         ?= 16            # LoRA rank r          paper: 64
ALPHA     ?= 16            # LoRA alpha           paper: 16
N_JUDGE   ?= 32            # pairs judged by contrast, and scored with their answers swapped
SFT_LR    ?= 1e-3          # policy of $(BASE)/sft: learning rate   paper: 1e-4
SFT_BATCH ?= 16            # records an update    paper: 128
SFT_EPOCHS ?= 2            # epochs               paper: 1
UNDER     ?= Concise       # principle that PPO aligns with    paper: draws of 14
NEGATED   ?=               # not empty: with its negation
POLICY    ?=               # adapter that PPO starts from, and is held to; empty: the model itself   paper: of Self-Align
BRIEF     ?= $(if $(filter demo,$(P)),Concise,$(UNDER)) # principle that length could stand in for: the report sets it apart
PPO_STEPS ?= 2             # PPO steps
N_PPO     ?= 32            # rollouts a step      paper: 576
PPO_NEW   ?= 48            # response length      paper: 1024
PPO_LR    ?= 3e-4          # learning rate        paper: 2e-5
MINIBATCH ?= 16            # rollouts an update   paper: 288
KL        ?= 0.01          # KL coefficient beta  paper: 0.01
BONUS     ?= 0             # length bonus         paper: 5; 0: the principle alone decides
ALARM     ?= kl=40 lr=1 length=4:$(PPO_NEW)# a step beyond: make stops. Nats an answer, nats a token in a step, tokens
PENALTY   ?= 0             # for an answer without a stop      paper: -6; a budget this short is rarely met
$(call bare,BASE NEGATED POLICY P TEMPLATE SEED T N_TRAIN N_HELD N_SAMPLES MAX_NEW RM_LR RM_BATCH RM_EPOCHS R ALPHA N_JUDGE SFT_LR SFT_BATCH SFT_EPOCHS UNDER BRIEF PPO_STEPS N_PPO PPO_NEW PPO_LR MINIBATCH KL BONUS PENALTY)

under := --under $(UNDER) $(if $(NEGATED),--negate)
steps := $(shell seq 1 $(PPO_STEPS))
last  := $(WORK)/state$(PPO_STEPS)
rm    := $(BASE)/rm.jsonl
score := sal-score -m $(MODEL) -a $(BASE)/rm -p $(P) --template $(TEMPLATE) --seed $(SEED)
sample = sal-generate -m $(MODEL) --tokens --max-tokens $(PPO_NEW) --temperature $(T)
first  = $(POLICY:%=-a %)

demo: | about report
# seconds, at 1000 tokens/s sampled, 1190 trained, 3000 scored, as measured on two cores with AVX-512 BF16; a text has about 35 tokens
# beside its answer, a pair is four texts; ADDED: what a pipeline adds to it
about:
	@echo "$(N_TRAIN)+$(N_HELD) prompts, $(PPO_STEPS) PPO steps: about $$(( ( ($(N_TRAIN) + $(N_HELD)) * $(N_SAMPLES) * 2 * $(MAX_NEW) / 1000 \
	  + $(N_TRAIN) * $(N_SAMPLES) * 4 * $(RM_EPOCHS) * ($(MAX_NEW) + 35) / 1190 + $(N_HELD) * $(N_SAMPLES) * 8 * ($(MAX_NEW) + 35) / 3000 \
	  + $(PPO_STEPS) * $(N_PPO) * ($(PPO_NEW) + 60) * 5 / 1190 + $(N_HELD) * 4 * $(PPO_NEW) / 1000 + 60 $(ADDED)) / 60 )) minutes on two cores with AVX-512 BF16, two to three times that with AVX2; files in $(WORK)"

$(eval $(call for_model,$(BASE)))
$(BASE)/train.prompts: $(PROMPTS) | $(BASE)/model
	head -n $(N_TRAIN) $< > $@.tmp
	mv $@.tmp $@
$(BASE)/held.prompts: $(PROMPTS) | $(BASE)/model
	sed -n "$$(($(N_TRAIN) + 1)),$$(($(N_TRAIN) + $(N_HELD)))p" $< > $@.tmp
	mv $@.tmp $@

# 1. sample: answers under a drawn principle (+) and under its negation (-)
.SECONDARY: $(foreach d,train held,$(BASE)/$(d)+.jsonl $(BASE)/$(d)-.jsonl $(BASE)/$(d).prefs.jsonl $(BASE)/$(d).turned.jsonl) # made by patterns: kept
$(BASE)/%+.jsonl: $(BASE)/%.prompts
	sal-generate -m $(MODEL) -p $(P) --sign + -n $(N_SAMPLES) --max-tokens $(MAX_NEW) --temperature $(T) --seed $(SEED) < $< $(KEEP)
$(BASE)/%-.jsonl: $(BASE)/%.prompts
	sal-generate -m $(MODEL) -p $(P) --sign - -n $(N_SAMPLES) --max-tokens $(MAX_NEW) --temperature $(T) --seed $(SEED) < $< $(KEEP)

# 2. judge: the label is known by construction; each pair also serves the other way round, under the negated principle
$(BASE)/%.prefs.jsonl: $(BASE)/%+.jsonl $(BASE)/%-.jsonl
	cat $^ | sal-rmdata --from contrast-samples -p $(P) --negate 0 --seed $(SEED) $(KEEP)
$(BASE)/%.turned.jsonl: $(BASE)/%+.jsonl $(BASE)/%-.jsonl
	cat $^ | sal-rmdata -q --from contrast-samples -p $(P) --negate 1 --seed $(SEED) $(KEEP)
# how far apart the two sides are: does the model itself find an answer likelier under the principle that it was given under?
$(BASE)/pairs.jsonl: $(BASE)/held.prefs.jsonl
	shuf -n $(N_JUDGE) --random-source=$< $< | jq -c '{id, prompt, deciding, output_1: .chosen, output_2: .rejected}' > $@.tmp
	mv $@.tmp $@
$(BASE)/judged.jsonl: $(BASE)/pairs.jsonl
	sal-synthpref -m $(MODEL) -p $(P) --judge contrast < $< $(KEEP)
# the same pairs by SALMON's judge, which is shown both answers in both orders: not a part of the demo
$(BASE)/compared.jsonl: $(BASE)/pairs.jsonl
	sal-synthpref -m $(MODEL) -p $(P) --judge compare < $< $(KEEP)
$(BASE)/judged.prefs.jsonl $(BASE)/compared.prefs.jsonl: $(BASE)/%.prefs.jsonl: $(BASE)/%.jsonl
	sal-rmdata --from judged -p $(P) --agree mean --passes 1 --seed $(SEED) < $< $(KEEP)

# 3. the reward model, and how it scores held-out pairs: under their principle, under its negation, and all under one.
# Both ways round of a pair stand in one update: what speaks for an answer whatever the principle then cancels in its gradient
$(rm): $(BASE)/train.prefs.jsonl $(BASE)/train.turned.jsonl
	paste $^ | shuf --random-source=$< | tr '\t' '\n' | sal-rmtrain -m $(MODEL) -o $(BASE)/rm -p $(P) --template $(TEMPLATE) \
	  --lora-r $(R) --lora-alpha $(ALPHA) --learning-rate $(RM_LR) --no-shuffle --batch $(RM_BATCH) --epochs $(RM_EPOCHS) --max-grad-norm 1 --seed $(SEED) $(KEEP)
$(BASE)/given.jsonl: $(BASE)/held.prefs.jsonl $(rm)
	$(score) < $< $(KEEP)
$(BASE)/negated.jsonl: $(BASE)/held.prefs.jsonl $(rm)
	$(score) --negate < $< $(KEEP)
# answers that change places must keep their rewards
$(BASE)/swapped.jsonl: $(BASE)/held.prefs.jsonl $(rm)
	head -n $(N_JUDGE) $< | jq -c '{chosen: .rejected, rejected: .chosen} as $$x | . + $$x' | $(score) $(KEEP)
$(BASE)/concise.jsonl: $(BASE)/held+.jsonl $(BASE)/held-.jsonl $(rm)
	cat $(BASE)/held+.jsonl $(BASE)/held-.jsonl | $(score) --under $(BRIEF) $(KEEP)
$(BASE)/verbose.jsonl: $(BASE)/held+.jsonl $(BASE)/held-.jsonl $(rm)
	cat $(BASE)/held+.jsonl $(BASE)/held-.jsonl | $(score) --under $(BRIEF) --negate $(KEEP)

# a policy whose answers end: the model's own under every principle and every negation, without these, where they end within the budget
$(BASE)/sft/adapter_config.json: $(BASE)/train+.jsonl $(BASE)/train-.jsonl
	jq -c 'select(.has_stop)' $^ | sal-sft -m $(MODEL) -o $(@D) --lora-r $(R) --lora-alpha $(ALPHA) --learning-rate $(SFT_LR) \
	  --batch $(SFT_BATCH) --epochs $(SFT_EPOCHS) --seed $(SEED) 2>&1 > $(@D).jsonl.tmp | tee $(@D).jsonl.log >&2
	mv $(@D).jsonl.tmp $(@D).jsonl

# a folder belongs to one first policy as well; without one it is called none
from := $(if $(wildcard $(WORK)/state0/state.json),$(or $(shell cat $(WORK)/policy 2>/dev/null),none))
$(if $(filter-out $(or $(POLICY),none),$(from)),$(error $(WORK) was made with POLICY=$(from:none=): take another folder, or remove it))
# 4. PPO: each step samples, scores and updates
$(WORK)/state0/state.json: $(rm) $(POLICY:%=%/adapter_config.json)
	mkdir -p $(WORK)
	echo $(or $(POLICY),none) > $(WORK)/policy
	sal-ppo-step -q --init -m $(MODEL) $(or $(first),--lora-r $(R) --lora-alpha $(ALPHA)) --value-from $(BASE)/rm --seed $(SEED) -o $(WORK)/state0
stepped = $(if $(filter 0,$(1)),$(WORK)/state0/state.json,$(WORK)/ppo$(1).jsonl)
define ppo_step
$(WORK)/ppo$(1).rollouts: $(call stepped,$(2))
	awk -v n=$$$$(wc -l < $(BASE)/train.prompts) -v a=$$$$((($(1) - 1) * $(N_PPO))) '(NR - 1 - a % n + n) % n < $(N_PPO)' $(BASE)/train.prompts \
	  | $(sample) -a $(WORK)/state$(2)/policy --seed $(1) | $(score) $(under) $$(KEEP)
$(WORK)/ppo$(1).jsonl: $(WORK)/ppo$(1).rollouts
	sal-ppo-step -m $(MODEL) $(POLICY:%=-r %) -s $(WORK)/state$(2) -o $(WORK)/state$(1) --response-len $(PPO_NEW) --temperature $(T) --kl-coef $(KL) \
	  --length-bonus $(BONUS) --stop-penalty $(PENALTY) --learning-rate $(PPO_LR) --schedule constant --warmup-steps 0 \
	  --minibatch $(MINIBATCH) $(ALARM:%=--alarm %) --seed $(SEED) < $$< $$(KEEP)
endef
$(foreach i,$(steps),$(eval $(call ppo_step,$(i),$(shell expr $(i) - 1))))

# 5. prompts that no stage has learned from, before and after; reference: log-probabilities of the answers after, under the model before
$(WORK)/before.jsonl: $(BASE)/held.prompts $(rm) $(POLICY:%=%/adapter_config.json)
	mkdir -p $(WORK)
	$(sample) $(first) --seed $(SEED) < $< | $(score) $(under) $(KEEP)
# another number of steps, more or fewer, is another policy
.PHONY: $(if $(filter $(PPO_STEPS),$(shell cat $(WORK)/steps 2>/dev/null)),,$(WORK)/steps)
$(WORK)/steps:
	mkdir -p $(WORK)
	echo $(PPO_STEPS) > $@.tmp
	mv $@.tmp $@
$(WORK)/after.jsonl: $(BASE)/held.prompts $(call stepped,$(PPO_STEPS)) $(WORK)/steps
	$(sample) -a $(last)/policy --seed $(SEED) < $< | $(score) $(under) $(KEEP)
$(WORK)/reference.jsonl: $(WORK)/after.jsonl
	sal-score -m $(MODEL) $(first) --logprobs --temperature $(T) < $< $(KEEP)

answers: $(addprefix $(WORK)/,before.jsonl after.jsonl reference.jsonl)
report: answers $(addprefix $(BASE)/,given.jsonl negated.jsonl swapped.jsonl concise.jsonl verbose.jsonl judged.prefs.jsonl)
	@$(HERE)/report $(BASE) $(WORK) $(PPO_STEPS) "$(UNDER)$(if $(NEGATED), negated)" $(BRIEF) | tee $(WORK)/report.txt

.PHONY: demo about answers report
