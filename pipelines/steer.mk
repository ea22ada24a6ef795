# SPDX-License-Identifier: Apache-2.0
# Change the principle, and the behaviour changes: from one policy and one reward model, runs of PPO that differ in their principle
# alone, and best of N under each; all answer the same prompts, which no stage has learned from.  The model as it is fills any budget
# of a few dozen tokens, so that it could not answer at greater length: the policy is first taught to end its answers.
WORK      ?= runs/steer
BASE      ?= $(WORK)/base  # samples, preferences and the reward model
POLICY    ?= $(BASE)/sft   # where all runs start
MAX_NEW   ?= 96            # new tokens
PPO_NEW   ?= 96
RUNS      ?= Concise Concise-negated Poetic# a principle of $(P), or its negation
PPO_STEPS ?= 8
N_PPO     ?= 64
MINIBATCH ?= 32
BEST      ?= 16            # answers to choose from
# seconds of the other runs, the policy, and best of N with its scores
ADDED = + ($(words $(RUNS)) - 1) * $(PPO_STEPS) * $(N_PPO) * ($(PPO_NEW) + 60) * 5 / 1190 + $(N_TRAIN) * $(N_SAMPLES) * $(SFT_EPOCHS) * ($(MAX_NEW) + 35) / 2380 \
  + $(N_HELD) * $(BEST) * ($(PPO_NEW) + $(words $(views)) * ($(PPO_NEW) + 35) / 3) / 1000
include $(dir $(lastword $(MAKEFILE_LIST)))salmon.mk
$(call bare,BEST)
export BASE POLICY MAX_NEW PPO_NEW PPO_STEPS N_PPO MINIBATCH

views := $(sort $(RUNS) $(foreach r,$(RUNS),$(if $(r:%-negated=),$(if $(filter %-negated,$(r)),$(r:%-negated=%),$(r)-negated))))
who   := before $(RUNS)
# the options of sal-score for a run or a view
view   = --under $(1:%-negated=%) $(if $(filter %-negated,$(1)),--negate)

steer: | about $(WORK)/steer.txt
	@cat $(WORK)/steer.txt

# a run of PPO under its principle; the make below says what is left of it to do, for PPO_STEPS may be others than last time
define run
$(WORK)/$(1)/after.jsonl: $(rm) $(BASE)/held.prompts $(POLICY:%=%/adapter_config.json) FORCE
	$$(MAKE) --no-print-directory -f $(HERE)/salmon.mk BIN=$(BIN) MODEL=$(MODEL) WORK=$(WORK)/$(1) UNDER=$(1:%-negated=%) \
	  NEGATED=$(filter %-negated,$(1)) answers
endef
$(foreach r,$(RUNS),$(eval $(call run,$(r))))
$(WORK)/before/after.jsonl: $(WORK)/$(firstword $(RUNS))/after.jsonl
	mkdir -p $(@D)
	cp $(WORK)/$(firstword $(RUNS))/before.jsonl $@.tmp
	mv $@.tmp $@

# the answers of each under every view: whose reward rises where
define seen
$(WORK)/$(1)/under-$(2).jsonl: $(WORK)/$(1)/after.jsonl
	$$(score) $(call view,$(2)) < $$< $$(KEEP)
endef
$(foreach w,$(who),$(foreach v,$(views),$(eval $(call seen,$(w),$(v)))))

# no PPO: the best of N answers of the policy where the runs start
$(WORK)/many.jsonl: $(BASE)/held.prompts $(rm) $(POLICY:%=%/adapter_config.json)
	mkdir -p $(@D)
	$(sample) $(first) -n $(BEST) --seed $(SEED) < $< $(KEEP)
define best
$(WORK)/best/$(1).jsonl: $(WORK)/many.jsonl
	mkdir -p $$(@D)
	$$(score) $(call view,$(1)) < $$< | sal-best $$(KEEP)
endef
$(foreach v,$(views),$(eval $(call best,$(v))))

$(WORK)/steer.txt: $(foreach w,$(who),$(foreach v,$(views),$(WORK)/$(w)/under-$(v).jsonl)) $(views:%=$(WORK)/best/%.jsonl) \
  $(BASE)/judged.prefs.jsonl $(BASE)/compared.prefs.jsonl
	$(HERE)/steer $(BASE) $(WORK) "$(RUNS)" "$(views)" $(KEEP)

.PHONY: steer FORCE
