# SPDX-License-Identifier: Apache-2.0
# make help lists the targets.  Variants coexist: SAN=address,undefined and DEBUG=1 build beside build/.
SHELL := /bin/bash
CC      ?= gcc
CFLAGS  ?= -O3 -g
PREFIX  ?= /usr/local
# CUDA=1|0: with or without kernels/cuda; unset, with it where there is nvcc and a card.  CUARCH: cards to compile for.
NVCC    ?= $(or $(shell command -v nvcc 2>/dev/null),$(wildcard /usr/local/cuda/bin/nvcc))
CUDA    ?= $(if $(and $(NVCC),$(wildcard /dev/nvidia0)),1,0)
CUARCH  ?= 80 90 120
ifeq ($(CUDA)$(NVCC),1)
$(error CUDA=1: there is no nvcc)
endif
BUILD   ?= build$(if $(filter command line,$(origin CUDA)),-cuda$(CUDA))$(if $(SAN),-san)$(if $(DEBUG),-debug)
PKGS    := libcjson libxxhash libpcre2-8 libutf8proc libedit
VERSION := 0.1.0

TOOLS   := $(patsubst tools/%.c,%,$(wildcard tools/*.c))
LIBOBJ  := $(patsubst %.c,$(BUILD)/%.o,$(wildcard lib/*.c lib/arch/*.c kernels/*.c))
ISAS    := portable avx2 avx512
ISA_portable := -Wno-psabi
ISA_avx2     := -mavx2 -mfma
ISA_avx512   := -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512bf16 -mavx512vnni -mavx2 -mfma
CPUSRC  := $(filter-out kernels/cpu/cpu.c,$(wildcard kernels/cpu/*.c))
CPUOBJ  := $(BUILD)/kernels/cpu/cpu.o $(foreach i,$(ISAS),$(patsubst kernels/cpu/%.c,$(BUILD)/kernels/cpu/%.$(i).o,$(CPUSRC)))
ONCARD  := $(patsubst %.cu,$(BUILD)/%.o,$(wildcard kernels/cuda/*.cu)) $(BUILD)/kernels/cuda/table.o
ONHOST  := $(patsubst %,$(BUILD)/cuda_host/%.o,$(wildcard kernels/cuda/*.cu kernels/cuda/*.c kernels/*.c tests/cuda_host/cuda_host.cc))
UNIT    := $(patsubst tests/unit/%.c,%,$(wildcard tests/unit/test_*.c))

ALLC := -std=c11 -D_POSIX_C_SOURCE=200809L -D_DEFAULT_SOURCE -DSAL_VERSION='"$(VERSION)"' -I. -fopenmp -ffp-contract=off -MMD -MP \
        -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes $(if $(WERROR),-Werror) \
        $(if $(SAN),-fsanitize=$(SAN) -fno-omit-frame-pointer -fno-sanitize-recover=undefined) $(if $(DEBUG),-O0)
CUHOME = $(patsubst %/bin/,%,$(dir $(realpath $(NVCC))))
# PTX of the first besides, from which the driver compiles for a card that is not named.
NVFLAGS = -std=c++17 -O3 -fmad=false -I. $(foreach a,$(CUARCH),-gencode arch=compute_$(a),code=sm_$(a)) \
        -gencode arch=compute_$(firstword $(CUARCH)),code=compute_$(firstword $(CUARCH)) \
        -Werror all-warnings -Xptxas -v,-warn-spills,-warn-lmem-usage,-Werror
CXXHOST = $(CXX) -std=c++17 -I. -Itests/cuda_host -ffp-contract=off -MMD -MP -O2 -ftree-vectorize -g -Wall -Wextra -Wno-unknown-pragmas $(if $(WERROR),-Werror) \
        $(if $(SAN),-fsanitize=$(SAN) -fno-omit-frame-pointer -fno-sanitize-recover=undefined)
PKGC  = $(shell pkg-config --cflags $(PKGS))
CULIBS1 = -L$(CUHOME)/lib64 -Wl,-rpath,$(CUHOME)/lib64 -lcublas -lcudart -lstdc++
CULIBS = $(CULIBS$(CUDA))
LIBS  = -Wl,--as-needed $(shell pkg-config --libs $(PKGS)) $(CULIBS) -lm

all: $(TOOLS:%=$(BUILD)/bin/%)     ## build every tool

help:                              ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-14s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

$(BUILD)/kernels/cpu/cpu.o: kernels/cpu/cpu.c
	@mkdir -p $(@D)
	$(CC) $(ALLC) $(CFLAGS) -c -o $@ $<
define isa_rule
$(BUILD)/kernels/cpu/%.$(1).o: kernels/cpu/%.c
	@mkdir -p $$(@D)
	$$(CC) $$(ALLC) $$(CFLAGS) -DSAL_ISA=$(1) $$(ISA_$(1)) -c -o $$@ $$<
endef
$(foreach i,$(ISAS),$(eval $(call isa_rule,$(i))))
$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(ALLC) $(PKGC) $(CFLAGS) -c -o $@ $<
$(BUILD)/kernels/device.o: $(BUILD)/cuda-is   # with or without the second column
.PHONY: $(if $(filter $(CUDA),$(shell cat $(BUILD)/cuda-is 2>/dev/null)),,$(BUILD)/cuda-is)
$(BUILD)/cuda-is:
	@mkdir -p $(@D)
	@echo '$(CUDA)' > $@
$(BUILD)/kernels/device.o: ALLC += $(if $(filter 1,$(CUDA)),-DSAL_CUDA)
# Files of packed weights are named after what packs: sources, compiler, options.
PACKING := $(shell { cat $(sort $(wildcard kernels/*.[ch] kernels/cpu/*.[ch])) lib/{gguf,model,packed,safetensors,tensors}.c \
        lib/{model,opts,tensors}.h; $(CC) -dumpmachine; $(CC) -dumpfullversion; echo "$(CFLAGS)"; } 2>&1 | cksum | tr ' ' -)
.PHONY: $(if $(filter $(PACKING),$(shell cat $(BUILD)/packing-is 2>/dev/null)),,$(BUILD)/packing-is)
$(BUILD)/packing-is:
	@mkdir -p $(@D)
	@echo '$(PACKING)' > $@
$(BUILD)/lib/packed.o: $(BUILD)/packing-is
$(BUILD)/lib/packed.o: ALLC += -DSAL_PACKING='"$(PACKING)"'
$(BUILD)/kernels/cuda/%.o: kernels/cuda/%.cu
	@mkdir -p $(@D)
	$(NVCC) $(NVFLAGS) -MMD -MF $(@:.o=.d) -c -o $@ $< > $(@:.o=.ptxas) 2>&1 || { cat $(@:.o=.ptxas); exit 1; }
$(BUILD)/cuda_host/%.cu.o: %.cu
	@mkdir -p $(@D)
	$(CXXHOST) -x c++ -c -o $@ $<
$(BUILD)/cuda_host/%.race.o: %.cu
	@mkdir -p $(@D)
	$(CXXHOST) -fsanitize=thread -x c++ -c -o $@ $<
$(BUILD)/cuda_host/%.cc.o: %.cc
	@mkdir -p $(@D)
	$(CXXHOST) -c -o $@ $<
$(BUILD)/cuda_host/%.c.o: %.c
	@mkdir -p $(@D)
	$(CC) $(ALLC) $(CFLAGS) -DSAL_CUDA -c -o $@ $<
$(BUILD)/cuda_host/check_kernels: $(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/kernels/*.c)) $(CPUOBJ) $(ONHOST)
	$(CXX) -fopenmp $(if $(SAN),-fsanitize=$(SAN)) $(LDFLAGS) -o $@ $^ -lm
$(BUILD)/cuda_host/check_races: $(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/kernels/*.c)) $(CPUOBJ) $(ONHOST:.cu.o=.race.o) $(BUILD)/cuda_host/tests/cuda_host/cuda_race.cc.o
	$(CXX) -fopenmp $(LDFLAGS) -o $@ $^ -lm -ldl
$(BUILD)/cuda_host/bin/%: $(BUILD)/tools/%.o $(filter-out $(BUILD)/kernels/%,$(LIBOBJ)) $(CPUOBJ) $(ONHOST)
	@mkdir -p $(@D)
	$(CXX) -fopenmp $(if $(SAN),-fsanitize=$(SAN)) $(LDFLAGS) -o $@ $^ $(LIBS)
$(BUILD)/libsal.a: $(LIBOBJ) $(CPUOBJ) $(if $(filter 1,$(CUDA)),$(ONCARD))
	@rm -f $@
	$(AR) rcs $@ $^
$(BUILD)/bin/%: $(BUILD)/tools/%.o $(BUILD)/libsal.a
	@mkdir -p $(@D)
	$(CC) $(ALLC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LIBS)
$(BUILD)/tests/test_%: $(BUILD)/tests/unit/test_%.o $(BUILD)/libsal.a
	@mkdir -p $(@D)
	$(CC) $(ALLC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LIBS)
$(BUILD)/tests/check_kernels: $(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/kernels/*.c)) $(BUILD)/libsal.a
	@mkdir -p $(@D)
	$(CC) $(ALLC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(CULIBS) -lm

HOSTBIN = $(if $(shell command -v $(CXX)),$(BUILD)/cuda_host/check_kernels $(TOOLS:%=$(BUILD)/cuda_host/bin/%))
check: deps all $(UNIT:%=$(BUILD)/tests/%) $(BUILD)/tests/check_kernels $(HOSTBIN)   ## every test; ends with passed, failed, skipped
	@BUILD=$(BUILD) tests/run
check-unit: $(UNIT:%=$(BUILD)/tests/%)   ## the C tests of lib/
	@for t in $^; do $$t || exit 1; done
check-kernels: $(BUILD)/tests/check_kernels   ## every operation against plain loops in double, on each instruction set or DEVICE=cuda
	@for i in $(if $(DEVICE),portable,$(ISAS)); do SAL_CPU=$$i $< $(DEVICE) || exit 1; done
cuda: $(if $(NVCC),$(ONCARD))      ## kernels/cuda for the cards of CUARCH [80 90 120]; a spill, local memory or a warning is an error
	@$(if $(NVCC),echo "kernels/cuda: no warning for $(CUARCH:%=sm_%)",echo "make cuda: there is no nvcc"; exit 1)
cuda-report: cuda                  ## what each kernel takes of a card: registers, shared memory, occupancy, bytes, least time
	@tests/cuda_host/report $(patsubst %.o,%.ptxas,$(filter-out %/table.o,$(ONCARD)))
check-cuda-host: all $(HOSTBIN) $(BUILD)/cuda_host/check_races   ## kernels/cuda on this processor, operations and tools, in several orders of warps
	@BUILD=$(BUILD) tests/long host
check-long: all $(HOSTBIN) $(BUILD)/cuda_host/check_races   ## hours: the same, and under sanitizers, as PTX, broken in every place; PYTHON with numpy
	@BUILD=$(BUILD) NVCC=$(NVCC) MAKE=$(MAKE) tests/long
bench: all $(BUILD)/tests/check_kernels   ## the same work by our tools and by each peer; ROW=NAME, PEERS=install, PEERS_DIR=, DEVICE=cuda
	@tests/bench/run --build $(BUILD) --model $(MODEL) $(ROW:%=--row %) $(if $(filter install,$(PEERS)),--install) $(PEERS_DIR:%=--peers %) $(DEVICE:%=--device %) $(BENCH)
lint:                              ## layers, headers and warnings as errors
	@tests/lint

DEBS := gcc g++ make pkg-config libcjson-dev libxxhash-dev libpcre2-dev libutf8proc-dev libedit-dev bats jq gnuplot-nox mandoc python3-pip
NEED  = pkg-config --exists $(PKGS) && for c in bats jq gcc g++; do command -v $$c >/dev/null || exit 1; done
deps:                              ## install what is missing (Debian, as root), or print the line to type
	@( $(NEED) ) 2>/dev/null || { if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $(DEBS); \
	  else echo "type: sudo apt-get install $(DEBS)"; exit 1; fi; }

MODEL ?= models/SmolLM2-135M-Instruct.Q4_1.gguf
model:                             ## fetch the demo's model into models/
	@$(MAKE) --no-print-directory -f pipelines/common.mk $(MODEL)
demo: PIPELINE = salmon
demo: deps                         ## the whole method on a real model; MODEL=PATH for your own
learn: PIPELINE = learn
learn: deps                        ## a longer PPO on the reward model of the demo
steer: PIPELINE = steer
steer: deps                        ## three runs of PPO and best of N that differ in their principle alone
demo learn steer:
	@$(MAKE) --no-print-directory all
	@$(MAKE) --no-print-directory -f pipelines/$(PIPELINE).mk BIN=$(BUILD)/bin MODEL=$(MODEL) $(if $(filter steer,$@),steer,demo)

INTO = $(DESTDIR)$(PREFIX)
install: all                       ## tools, pages, prompts and pipelines into PREFIX [/usr/local], below DESTDIR
	install -d $(INTO)/bin $(INTO)/share/salmon $(foreach n,1 5 7,$(INTO)/share/man/man$(n))
	install $(TOOLS:%=$(BUILD)/bin/%) $(INTO)/bin
	cp -R prompts pipelines $(INTO)/share/salmon
	$(foreach n,1 5 7,install -m 644 man/*.$(n) $(INTO)/share/man/man$(n) &&) true

clean:                             ## remove build/ and its variants
	rm -rf build build-*

.PHONY: all help check check-unit check-kernels cuda cuda-report check-cuda-host check-long bench lint deps model demo learn steer install clean
.SECONDARY:
-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
