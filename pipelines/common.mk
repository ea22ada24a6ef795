# SPDX-License-Identifier: Apache-2.0
# Rules shared by the pipelines: a target is complete or absent, and what ran stands in TARGET.log.
.DELETE_ON_ERROR:
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
BIN ?= build/bin
export PATH := $(abspath $(BIN)):$(PATH)
