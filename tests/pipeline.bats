#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# salmon.mk from prompts to the report on the tiny model, whole and killed on the way.
load helper

setup_file() {
	export MAKEFLAGS=
	tiny "$BATS_FILE_TMPDIR/model"
	jq '.max_position_embeddings = 2048' "$BATS_TEST_DIRNAME/data/tiny/config.json" > "$BATS_FILE_TMPDIR/model/config.json"
}
salmon() { # WORK TARGET...
	make --no-print-directory -f pipelines/smoke.mk BIN="$BIN" MODEL="$BATS_FILE_TMPDIR/model" WORK="$@"
}
whole() { [ -e "$BATS_FILE_TMPDIR/whole/report.txt" ] || salmon "$BATS_FILE_TMPDIR/whole" demo > "$BATS_FILE_TMPDIR/out" 2> "$BATS_FILE_TMPDIR/err"; }

@test "salmon.mk: every stage runs, and the report tells of each" {
	whole
	for word in minutes "contrast judge" "accuracy, principle as given" "accuracy, principle negated" "length alone" correlation "turns round when negated" "swap places  *4 of 4 pairs" \
		"step 1: reward" "step 2: reward" "log-probabilities taken 4, first update: KL 0, clipped 0" "reward before" "reward after" "KL an answer" before; do
		grep -q -- "$word" "$BATS_FILE_TMPDIR/out"
	done
	! grep -i -E 'nan|null' "$BATS_FILE_TMPDIR/whole/report.txt"
	[ "$(grep -c '^---' "$BATS_FILE_TMPDIR/out")" -eq 3 ]
}
@test "salmon.mk: nothing is made twice" {
	whole
	[ "$(salmon "$BATS_FILE_TMPDIR/whole" -n demo | grep -c 'sal-')" -eq 0 ]
}
@test "salmon.mk: killed anywhere and run again, the same bytes" {
	whole
	for at in held+.jsonl.tmp rm.jsonl.tmp rm given.jsonl.tmp state1 after.jsonl.tmp; do
		setsid make --no-print-directory -f pipelines/smoke.mk BIN="$BIN" MODEL="$BATS_FILE_TMPDIR/model" WORK="$T/run" demo > "$T/out" 2>&1 3>&- &
		for _ in $(seq 2000); do
			[ -e "$T/run/$at" ] && break
			sleep 0.01
		done
		kill -9 -- -$! || true # it may have ended
		wait $! || true
	done
	salmon "$T/run" demo > "$T/out" 2>&1
	rm -rf "$T"/run/.*.tmp
	diff -r -x '*.log' -x '*.tmp' -x report.txt "$T/run" "$BATS_FILE_TMPDIR/whole"
}
@test "salmon.mk: a stage that fails leaves no target, and its one line is shown" {
	run bash -c "make --no-print-directory -f pipelines/smoke.mk BIN='$BIN' MODEL='$T/absent.gguf' WORK='$T/w' P=nosuch demo 2>&1"
	[ "$status" -ne 0 ]
	touch "$T/absent.gguf"
	run bash -c "make --no-print-directory -f pipelines/smoke.mk BIN='$BIN' MODEL='$T/absent.gguf' WORK='$T/w' demo 2>&1"
	[ "$status" -ne 0 ]
	[[ "$output" == *"sal-generate: "*absent.gguf* ]]
	[ ! -e "$T/w/held+.jsonl" ]
}
@test "salmon.mk: a log is whole when its target is there, however slow tee is" {
	mkdir "$T/bin"
	printf '#!/bin/sh\nsleep 1\nexec %s "$@"\n' "$(command -v tee)" > "$T/bin/tee"
	chmod +x "$T/bin/tee"
	PATH=$T/bin:$PATH salmon "$T/w" "$T/w/held+.jsonl" > "$T/out" 2>&1
	grep -q '^sal-generate: 4 records' "$T/w/held+.jsonl.log"
}
@test "salmon.mk, selfalign.mk: a folder belongs to one model" {
	whole
	for mk in smoke selfalign; do
		run make --no-print-directory -f pipelines/$mk.mk BIN="$BIN" MODEL="$M" WORK="$BATS_FILE_TMPDIR/whole" demo
		[ "$status" -eq 2 ]
		[[ "$output" == *"/whole was made with MODEL=$BATS_FILE_TMPDIR/model: take another folder"* ]]
	done
}
@test "salmon.mk: with a user's own principles, from a tree with a blank in its name" {
	mkdir "$T/a tree"
	cp -R pipelines prompts "$T/a tree"
	chmod -R u+w "$T/a tree"
	printf '[{"dimension":"Kind","definition":"Be kind.","negative_definition":"Be rude."},
		{"dimension":"Brave","definition":"Be brave.","negative_definition":"Be timid."}]' > "$T/own.json"
	cd "$T/a tree"
	salmon "$T/w" P="$T/own.json" UNDER=Brave demo > "$T/out" 2> "$T/err"
	grep -q 'other than Brave: accuracy' "$T/w/report.txt"
	# a figure that cannot be had ends the report
	rm "$T/w/verbose.jsonl"
	run pipelines/report "$T/w" "$T/w" 2 Brave Brave
	[ "$status" -ne 0 ]
}
@test "steer.mk: every run is seen under every principle, and so is best of N" {
	whole
	run make --no-print-directory -f pipelines/steer.mk BIN="$BIN" MODEL="$BATS_FILE_TMPDIR/model" BASE="$BATS_FILE_TMPDIR/whole" WORK="$T/steer" \
		RUNS='Concise Concise-negated Poetic' N_PPO=4 PPO_STEPS=1 MINIBATCH=2 BEST=2 PPO_NEW=8 R=4 PPO_LR=1e-2 ALARM= steer
	[ "$status" -eq 0 ]
	for r in Concise Concise-negated Poetic; do
		[ "$(grep -c "^$r  .*+-.*+-.*+-.*+-.*+-.*+-" "$T/steer/steer.txt")" -eq 1 ]
		[ "$(grep -c "^  $r: " "$T/steer/steer.txt")" -eq 2 ]
	done
	[ "$(grep -c '^Poetic-negated  .*+-' "$T/steer/steer.txt")" -eq 1 ]
	grep -q '^compare judge: agrees with the label on [0-9]* of 4 pairs' "$T/steer/steer.txt"
	again() {
		make -s -f pipelines/steer.mk BIN="$BIN" MODEL="$BATS_FILE_TMPDIR/model" BASE="$BATS_FILE_TMPDIR/whole" WORK="$T/steer" \
			RUNS='Concise Concise-negated Poetic' N_PPO=4 PPO_STEPS=$1 MINIBATCH=2 BEST=2 PPO_NEW=8 R=4 PPO_LR=1e-2 ALARM= steer > /dev/null 2>&1
	}
	touch "$T/mark"
	again 1 # there is nothing left to do
	[ -z "$(find "$T/steer" -name '*.jsonl' -newer "$T/mark")" ]
	again 2 # one step more of each run, and the table anew
	for f in Poetic/state2/state.json Poetic/after.jsonl Poetic/reference.jsonl before/under-Poetic.jsonl steer.txt; do [ "$T/steer/$f" -nt "$T/mark" ]; done
	[ "$T/steer/many.jsonl" -ot "$T/mark" ]
	touch "$T/mark"
	again 1 # fewer: the table of the policy after the first, whose step is not taken again
	for f in Poetic/after.jsonl Poetic/reference.jsonl steer.txt; do [ "$T/steer/$f" -nt "$T/mark" ]; done
	[ "$T/steer/Poetic/ppo1.jsonl" -ot "$T/mark" ]
	[ -s "$T/steer/Poetic/state2/state.json" ]
	# all runs start from the policy that was taught to end its answers: reference and first state
	for f in before.jsonl reference.jsonl; do grep -q -- "-a $BATS_FILE_TMPDIR/whole/sft" <(make -n -B -f pipelines/salmon.mk BIN="$BIN" MODEL="$BATS_FILE_TMPDIR/model" BASE="$BATS_FILE_TMPDIR/whole" POLICY="$BATS_FILE_TMPDIR/whole/sft" WORK="$T/n" answers | grep "> $T/n/$f.tmp"); done
	cmp "$BATS_FILE_TMPDIR/whole/sft/adapter_model.safetensors" "$T/steer/Concise/state0/policy/adapter_model.safetensors"
	jq -e '.kl == 0' "$T/steer/Concise/ppo1.jsonl" # the first step is held to it
	run make -n -f pipelines/steer.mk BIN="$BIN" MODEL="$BATS_FILE_TMPDIR/model" BASE="$BATS_FILE_TMPDIR/whole" POLICY= WORK="$T/steer" PPO_NEW=8 steer
	[ "$status" -eq 2 ]
	[[ "$output" == *"/steer/Concise was made with POLICY=$BATS_FILE_TMPDIR/whole/sft: take another folder"* ]]
}
@test "salmon.mk: a step that passes an alarm stops make with its line" {
	whole
	run make --no-print-directory -f pipelines/steer.mk BIN="$BIN" MODEL="$BATS_FILE_TMPDIR/model" BASE="$BATS_FILE_TMPDIR/whole" WORK="$T/steer" \
		RUNS=Concise N_PPO=4 PPO_STEPS=1 MINIBATCH=2 PPO_NEW=8 R=4 PPO_LR=1e-2 steer
	[ "$status" -eq 2 ]
	[[ "$output" == *"sal-ppo-step: alarm: step 1: the policy has moved "*" nats a token at a learning rate of 0.01, more than 1 (--alarm lr)"* ]]
	[ ! -e "$T/steer/Concise/ppo1.jsonl" ]
	[ ! -e "$T/steer/Concise/state1" ]
}
