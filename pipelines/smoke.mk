# SPDX-License-Identifier: Apache-2.0
# salmon.mk at a size that ends in seconds: shows that the stages fit together, not that anything is learned.  MODEL=PATH, WORK=DIR.
N_TRAIN   := 8
N_HELD    := 4
N_SAMPLES := 2
MAX_NEW   := 12
R         := 4
RM_BATCH  := 4
N_JUDGE   := 4
N_PPO     := 4
PPO_NEW   := 12
MINIBATCH := 2
include $(dir $(lastword $(MAKEFILE_LIST)))salmon.mk
