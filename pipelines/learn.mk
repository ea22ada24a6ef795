# SPDX-License-Identifier: Apache-2.0
# salmon.mk with a longer PPO, on the reward model of the demo: does the policy earn more on prompts that no stage has learned from?
WORK      ?= runs/learn
BASE      ?= runs/demo
PPO_STEPS ?= 8
N_PPO     ?= 64
MINIBATCH ?= 32
include $(dir $(lastword $(MAKEFILE_LIST)))salmon.mk
