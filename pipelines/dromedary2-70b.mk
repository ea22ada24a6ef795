# SPDX-License-Identifier: Apache-2.0
# Dromedary-2: LLaMA-2-70B aligned by SALMON, with the values of the paper and of its release (IBM/SALMON 7392a56, IBM/Dromedary 0b86740).
# `make -n -f pipelines/dromedary2-70b.mk` reads as the section on method; smollm2.mk is the same at a size for two cores.
# The step at the end of a comment is the release's: 0 Self-Align, 1 judging, 2 reward model, 3 PPO.
#
# Sampling, judging and scoring run in SHARDS parts, whose results are the same bytes for any split.  LAUNCH reads the names of the parts and
# runs its last argument for each, the name in place of {}; parts that are done are not done again.
#   one machine   LAUNCH='xargs -I {} bash -c'
#   GNU parallel  LAUNCH='parallel -j 8', or over a folder that machines share 'parallel --sshlogin a,b --wd . --env PATH --env SAL_PROMPTS'
#   Slurm         sbatch -N 8 --ntasks-per-node 1 --gpus-per-task 1 --wrap "make -f pipelines/dromedary2-70b.mk DEVICE=cuda SHARDS=32 \
#                   LAUNCH='xargs -P 8 -I {} srun -N 1 -n 1 --exact bash -c'"; run again, it goes on where its time ended
#
# What the release has and the tools have not: training on more than one processor or card, fastText
# for the rule on languages of step 2.1 (scripts are compared, or the records' `lang`), evaluation during training (AlpacaFarm), a limit on
# the tokens of a text in sal-synthpref (1536): one longer than the context is a bad record.
include $(dir $(lastword $(MAKEFILE_LIST)))common.mk

MODEL      ?= models/Llama-2-70b-hf
WORK       ?= runs/dromedary2-70b
DEVICE     ?= cpu
QUANTIZE   ?= nf4          # the base in 4 bits, double quantised                                             all
DATA       ?= data         # where the data sets are, as JSONL of the records that their publishers give
SHAREGPT   ?= $(DATA)/sharegpt.jsonl
DOLLY      ?= $(DATA)/dolly.jsonl
OASST1     ?= $(DATA)/oasst1.jsonl
OPENORCA   ?= $(DATA)/openorca.jsonl
MATH       ?= $(DATA)/math.jsonl
HH         ?= $(DATA)/hh.jsonl
SHP        ?= $(DATA)/shp.jsonl
SHARDS     ?= 4            # parts of a stage; the release: 32 in step 0, 4 in step 1
export LAUNCH ?= xargs -I {} bash -c
SEED       ?= 42           # seed; the release's two answers have 42 and 43, ours are samples 0 and 1 of 42
R          ?= 64           # LoRA rank r, on all linear layers
ALPHA      ?= 16           # LoRA alpha
CLIP       ?= 0.3          # largest norm of a gradient, SFT and reward model

MIN_PROMPT ?= 2            # tokens of a prompt, fewest                                                       0, 3.1
MAX_PROMPT ?= 256          # and most                                                                         0, 3.1
ORCA_CAP   ?= 10000        # prompts of each of OpenOrca's four parts: 40k in all                             0, 3.1
SA_T       ?= 0.7          # temperature T                                                                    0
SA_TOP_P   ?= 0.95         # top-p                                                                            0
SA_NEW     ?= 512          # new tokens                                                                       0
MIN_CHARS  ?= 160          # shortest complete answer                                                         0
SFT_LR     ?= 1e-4         # learning rate, cosine                                                            0
SFT_WARM   ?= 0.03         # warm-up ratio                                                                    0
SFT_BATCH  ?= 128          # records an update: 4 x 4 x 8 GPUs                                                0
SFT_LEN    ?= --prompt-len 512 --response-len 512#                                                            0
SFT_EPOCHS ?= 1            # epochs                                                                           0
T          ?= 0.7          # temperature T, here and in PPO                                                   1.2, 3.2
TOP_P      ?= 1.0          # top-p                                                                            1.2, 3.2
MAX_NEW    ?= 768          # new tokens                                                                       1.2
RESPONSES  ?= 2            # answers a prompt                                                                 1.2
JUDGE_P    ?= rm           # principles that the judge is asked about: 11                                     1.3
RAW_CHARS  ?= 16           # shortest answer that is judged                                                   1.3
DIMENSIONS ?= Concise,Honest and Accurate,Ethical,Specific,Educational and Engaging,Methodical,Creative,Comprehensive# 8 of the 11   2.1
AGREE      ?= both         # a score counts where both orders agree; mean: always                              2.1
PASSES     ?= 4            # draws of a pair                                                                  2.1
MAX_K      ?= 8            # most principles of a preference                                                  2.1
GEOMETRIC  ?= 0.2          # k ~ Geometric(p)                                                                 2.1
NEGATE     ?= 0.5          # a principle is negated with this probability                                     2.1
NOISE      ?= 0.1          # a label is flipped                                                               2.1
RULE_NOISE ?= 0.25         # the same where a rule set it: 0.1 x 2.5                                          2.1
RULE       ?= 0.5          # an answer "As an AI language model" loses                                        2.1
LANGUAGE   ?= 1            # an answer in another language than the prompt's loses                            2.1
PMP_LR     ?= 5e-5         # PMP: learning rate, cosine                                                       2.2
PMP_WARM   ?= 0.01         # PMP: warm-up ratio                                                               2.2
PMP_LEN    ?= --instruction-len 256 --response-len 640 --max-len 1024#                                        2.2
RM_LR      ?= 3e-5         # reward model: learning rate, cosine                                              2.3
RM_WARM    ?= 0.03         # reward model: warm-up ratio                                                      2.3
RM_LEN     ?= --instruction-len 128 --response-len 768 --max-len 1280#                                        2.3
RM_BATCH   ?= 64           # pairs an update, PMP too: 4 x 2 x 8 GPUs                                         2.2, 2.3
RM_EPOCHS  ?= 1            # epochs, PMP too                                                                  2.2, 2.3
RL_PROMPT  ?= 164          # tokens of a prompt: 256 with the system prompt and the markers                   3.2
BONUSES    ?= 1,-0.4,0     # factors of the length bonus: general, reasoning, red-team                        3.1
RL_P       ?= ppo          # principles: 14, with weights; +128 those that fit the type of the question       3.2
DRAW       ?= 3            # principles drawn for a rollout                                                   3.2
RL_LEN     ?= --instruction-len 256 --response-len 1024 --max-len 1664#                                       3.2
ROLLOUTS   ?= 576          # rollouts a step                                                                  3.2
MINIBATCH  ?= 288          # rollouts an update                                                               3.2
RL_EPOCHS  ?= 2            # passes over the prompts                                                          3.2
PPO_EPOCHS ?= 2            # passes over the rollouts of a step                                               3.2
PPO_NEW    ?= 1024         # response length                                                                  3.2
PPO_LR     ?= 2e-5         # learning rate, cosine                                                            3.2
PPO_WARM   ?= 5            # steps of warm-up                                                                 3.2
KL         ?= 0.01         # KL coefficient beta, k1 clamped at 0                                             3.2
GAMMA      ?= 1            # discount gamma                                                                   3.2
LAMBDA     ?= 1            # lambda of GAE                                                                    3.2
RANGE      ?= 0.2          # clip range epsilon                                                               3.2
V_RANGE    ?= 0.2          # clip range of values                                                             3.2
VF         ?= 0.1          # weight of the value loss                                                         3.2
BONUS      ?= 5            # length bonus                                                                     3.2
CAP        ?= 0.8          # its cap, as a share of the response length                                       3.2
PENALTY    ?= -6           # for an answer without an end                                                     3.2
SCALE      ?= 10           # reward scale                                                                     3.2
PPO_CLIP   ?= 1            # largest norm of a gradient, policy and critic                                    3.2
ALARM      ?= kl=100 lr=1 length=8:1000# what stops a run: nats an answer, nats a token in a step, tokens of an answer; not the release's   3.2
SAVE       ?= 10           # steps between the states that are kept                                           3.2
$(call bare,DATA QUANTIZE SHARDS SEED R ALPHA CLIP MIN_PROMPT MAX_PROMPT ORCA_CAP SA_T SA_TOP_P SA_NEW MIN_CHARS SFT_LR SFT_WARM SFT_BATCH SFT_EPOCHS T TOP_P \
  MAX_NEW RESPONSES JUDGE_P RAW_CHARS DIMENSIONS AGREE PASSES MAX_K GEOMETRIC NEGATE NOISE RULE_NOISE RULE LANGUAGE PMP_LR PMP_WARM RM_LR RM_WARM RM_BATCH RM_EPOCHS \
  RL_PROMPT BONUSES RL_P DRAW ROLLOUTS MINIBATCH RL_EPOCHS PPO_EPOCHS PPO_NEW PPO_LR PPO_WARM KL GAMMA LAMBDA RANGE V_RANGE VF BONUS CAP PENALTY SCALE \
  PPO_CLIP SAVE)

on      := -m $(MODEL) -d $(DEVICE) --quantize $(QUANTIZE)
lora    := --lora-r $(R) --lora-alpha $(ALPHA)
sft     := $(WORK)/sft
rm      := $(WORK)/rm
prompts  = sal-prompts -m $(MODEL) --min-tokens $(MIN_PROMPT) --seed $(SEED) --cap openorca.niv=$(ORCA_CAP) --cap openorca.flan=$(ORCA_CAP) \
  --cap openorca.t0=$(ORCA_CAP) --cap openorca.cot=$(ORCA_CAP)
sample   = sal-generate $(on) --format dromedary --temperature $(T) --top-p $(TOP_P)
sharded := $(HERE)/sharded $(SHARDS)
pmp     := $(if $(strip $(HH) $(SHP)),$(WORK)/pmp.jsonl)

.DEFAULT_GOAL := dromedary2
dromedary2: $(WORK)/dromedary2/adapter_config.json

$(eval $(call for_model,$(WORK)))

# 0. Self-Align: the base model reads 17 rules, 6 examples and a prompt, thinks and answers; what is fit to train on makes the policy
$(WORK)/selfalign.jsonl: $(SHAREGPT) $(DOLLY) $(OASST1) $(OPENORCA) $(SAL_PROMPTS)/selfalign.txt | $(WORK)/model
	cat $(SHAREGPT) $(DOLLY) $(OASST1) $(OPENORCA) | $(prompts) --max-tokens $(MAX_PROMPT) \
	  | jq -c --rawfile rules $(SAL_PROMPTS)/selfalign.txt '.instruction = .prompt | .prompt = ($$rules | rtrimstr("\n")) + " " + .prompt + "\n\nWatson (internal thoughts):"' $(KEEP)
$(WORK)/watson.jsonl: $(WORK)/selfalign.jsonl
	$(sharded) 1 $< $@ 'sal-generate $(on) --format none --stop "$$(printf "\n\nUser:")" --max-tokens $(SA_NEW) --temperature $(SA_T) --top-p $(SA_TOP_P) --seed $(SEED)'
$(WORK)/sft.jsonl: $(WORK)/watson.jsonl $(SAL_PROMPTS)/identity.jsonl
	sal-filter --min-chars $(MIN_CHARS) < $< | cat - $(SAL_PROMPTS)/identity.jsonl | sal-sft $(on) -o $(sft) --format dromedary $(lora) $(SFT_LEN) \
	  --learning-rate $(SFT_LR) --schedule cosine --warmup-ratio $(SFT_WARM) --batch $(SFT_BATCH) --epochs $(SFT_EPOCHS) --max-grad-norm $(CLIP) \
	  --save-every 500 --seed $(SEED) $(KEEP)

# 1.1 and 1.2 the policy answers each prompt of OASST1 (9,846) twice
$(WORK)/oasst1.jsonl: $(OASST1) | $(WORK)/model
	sal-prompts < $< $(KEEP)
$(WORK)/responses.jsonl: $(WORK)/oasst1.jsonl $(WORK)/sft.jsonl
	$(sharded) 1 $< $@ '$(sample) -a $(sft) -n $(RESPONSES) --max-tokens $(MAX_NEW) --seed $(SEED)'
# 1.3 and judges both answers, in both orders, by 11 principles
$(WORK)/judged.jsonl: $(WORK)/responses.jsonl
	$(sharded) $(RESPONSES) $< $@ 'sal-synthpref $(on) -a $(sft) --judge compare -p $(JUDGE_P) --template judge.txt --min-chars $(RAW_CHARS)'

# 2.1 preferences: k principles are drawn, each may be negated, the one with the largest gap decides
$(WORK)/preferences.jsonl: $(WORK)/judged.jsonl
	sal-rmdata --from judged -p $(JUDGE_P) --dimensions "$(DIMENSIONS)" --agree $(AGREE) --passes $(PASSES) --max-principles $(MAX_K) --geometric $(GEOMETRIC) \
	  --negate $(NEGATE) --noise $(NOISE) --rule-noise $(RULE_NOISE) --boilerplate $(RULE) --language $(LANGUAGE) --seed $(SEED) < $< $(KEEP)
# 2.2 preference model pretraining: HH (160k) and SHP (160k, ratio of votes above 2), without principles; left out where HH and SHP are empty
$(WORK)/human.jsonl: $(HH) $(SHP) | $(WORK)/model
	{ sal-rmdata --from hh < $(HH) && sal-rmdata --from shp < $(SHP); } $(KEEP)
$(WORK)/pmp.jsonl: $(WORK)/human.jsonl
	sal-rmtrain $(on) -o $(WORK)/pmp $(lora) --template reward_pmp.txt $(PMP_LEN) --learning-rate $(PMP_LR) --schedule cosine --warmup-ratio $(PMP_WARM) \
	  --batch $(RM_BATCH) --epochs $(RM_EPOCHS) --max-grad-norm $(CLIP) --save-every 100 --seed $(SEED) < $< $(KEEP)
# 2.3 the reward model goes on from it, and follows principles
$(WORK)/rm.jsonl: $(WORK)/preferences.jsonl $(pmp)
	sal-rmtrain $(on) $(if $(pmp),-a $(WORK)/pmp,$(lora)) -o $(rm) -p $(JUDGE_P) --template reward.txt $(RM_LEN) --learning-rate $(RM_LR) --schedule cosine --warmup-ratio $(RM_WARM) \
	  --batch $(RM_BATCH) --epochs $(RM_EPOCHS) --max-grad-norm $(CLIP) --save-every 40 --seed $(SEED) < $< $(KEEP)

# 3.1 prompts, general and reasoning, each pass in another order
$(WORK)/rl.jsonl: $(DOLLY) $(OASST1) $(SHAREGPT) $(OPENORCA) $(MATH) | $(WORK)/model
	cat $^ | $(prompts) --max-tokens $(RL_PROMPT) --question-type source --length-bonus $(BONUSES) $(KEEP)
$(WORK)/passes.jsonl: $(WORK)/rl.jsonl
	for i in $$(seq $(RL_EPOCHS)); do shuf --random-source=<(yes "$(SEED) $$i") $<; done > $@.tmp
	mv $@.tmp $@
# 3.2 PPO: a step samples, scores each answer under 3 principles drawn of 14 and 3 fixed ones, and updates policy and critic
$(WORK)/state/0/state.json: $(WORK)/sft.jsonl $(WORK)/rm.jsonl
	mkdir -p $(WORK)/state $(WORK)/ppo
	sal-ppo-step --init $(on) -a $(sft) --value-from $(rm) --seed $(SEED) -o $(WORK)/state/0
$(WORK)/dromedary2/adapter_config.json: $(WORK)/passes.jsonl $(WORK)/state/0/state.json
	s=$(WORK)/state; p=$(WORK)/ppo; steps=$$(($$(wc -l < $<) / $(ROLLOUTS))); [ $$steps -gt 0 ]; \
	for i in $$(seq $$(($$(ls $$s | sort -n | tail -n 1) + 1)) $$steps); do \
	  old=$$s/$$((i - 1)); \
	  sed -n "$$(((i - 1) * $(ROLLOUTS) + 1)),$$((i * $(ROLLOUTS)))p" $< > $$p/$$i.prompts; \
	  $(sharded) 1 $$p/$$i.prompts $$p/$$i.rollouts "$(sample) --tokens -a $$old/policy --max-tokens $(PPO_NEW) --seed $$i \
	    | sal-score $(on) -a $(rm) -p $(RL_P) --draw $(DRAW) --template reward_rl.txt $(RL_LEN) --seed $$i"; \
	  sal-ppo-step $(on) -r $(sft) -s $$old -o $$s/$$i --total-steps $$steps --learning-rate $(PPO_LR) --schedule cosine --warmup-steps $(PPO_WARM) \
	    --minibatch $(MINIBATCH) --epochs $(PPO_EPOCHS) --temperature $(T) --response-len $(PPO_NEW) --kl-estimator k1 --kl-coef $(KL) \
	    --length-bonus $(BONUS) --length-bonus-cap $(CAP) --stop-penalty $(PENALTY) --reward-scale $(SCALE) --advantage gae --gamma $(GAMMA) --lambda $(LAMBDA) \
	    --clip-range $(RANGE) --value-clip-range $(V_RANGE) --vf-coef $(VF) --max-grad-norm $(PPO_CLIP) $(ALARM:%=--alarm %) --seed $(SEED) \
	    < $$p/$$i.rollouts > $$p/$$i.jsonl; \
	  [ $$(((i - 1) % $(SAVE))) -eq 0 ] || rm -r $$old; \
	done; \
	rm -rf $(@D); cp -R $$s/$$steps/policy $(@D)

.PHONY: dromedary2
