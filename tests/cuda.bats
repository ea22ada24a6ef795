# SPDX-License-Identifier: Apache-2.0
# kernels/cuda inside the tools, compiled for this processor (cuda_host): what the CPU back end says, CUDA says too.
load helper
HOST=${BIN%/bin}/cuda_host/bin
D="--dtype f32 --lora-r 4 --learning-rate 1e-3 --schedule constant --warmup-steps 0"

setup() {
	case $BATS_TEST_DESCRIPTION in *without*) return ;; esac
	[ -x "$HOST/sal-ppo-step" ] || skip "there is no C++ compiler to build cuda_host with"
	PATH=$HOST:$PATH
}
# jq program on [file one, file two] as arrays of records
agree() { jq -ens --slurpfile a "$1" --slurpfile b "$2" 'def near($x; $y; $t): ($x - $y | fabs) <= $t * (1 + ($y | fabs)); '"$3"; }

@test "without a back end or a card, --device cuda is one line and exit 1" {
	run bash -c "echo '{\"prompt\":\"a\"}' | sal-generate -q -m '$M' --device cuda 2> '$T/err'"
	[ -e /dev/nvidia0 ] || refused 1
}
@test "no card, a card that is not there, a card that is full: one line, exit 1" {
	run bash -c "CUDA_HOST_CARDS=0 sal-generate -q -m '$M' -d cuda < /dev/null 2> '$T/err'"
	refused 1
	grep -q 'no card can be used' "$T/err"
	run bash -c "sal-generate -q -m '$M' -d cuda:3 < /dev/null 2> '$T/err'"
	refused 1
	grep -q "this machine has 1" "$T/err"
	for n in 1 2 3 4 5; do
		run bash -c "echo '{\"prompt\":\"a\"}' | CUDA_HOST_FAIL=$n sal-generate -q -m '$M' -d cuda 2> '$T/err'"
		refused 1
		grep -q 'out of memory' "$T/err"
	done
}
@test "the sampler draws the same tokens on both, with log-probabilities that agree; and repeats itself" {
	for d in cpu cuda; do prompts 3 | sal-generate -q -m "$M" -d $d --dtype f32 -n 2 --tokens --max-tokens 12 --temperature 1 --top-p 0.9 > "$T/$d"; done
	agree "$T/cpu" "$T/cuda" '($a | length) == 6 and ($a | map(.response_tokens)) == ($b | map(.response_tokens)) and
		([$a, $b] | map(map(.logprobs) | flatten) | transpose | all(near(.[0]; .[1]; 1e-4)))'
	prompts 3 | sal-generate -q -m "$M" -d cuda --dtype f32 -n 2 --tokens --max-tokens 12 --temperature 1 --top-p 0.9 | cmp - "$T/cuda"
}
@test "a base in 4 bits: the figures of both agree, in the sampler and in training" {
	echo '{"prompt_tokens":[1,9,4],"response_tokens":[2,3,7,7]}' > "$T/sft.in"
	for d in cpu cuda; do
		prompts 2 | sal-generate -q -m "$M" -d $d --quantize nf4 --dtype f32 --tokens --max-tokens 8 --temperature 1 > "$T/$d"
		sal-sft -q -m "$M" -d $d --quantize nf4 -o "$T/p.$d" $D < "$T/sft.in" > "$T/sft.$d"
	done
	agree "$T/cpu" "$T/cuda" '($a | map(.response_tokens)) == ($b | map(.response_tokens)) and
		([$a, $b] | map(map(.logprobs) | flatten) | transpose | all(near(.[0]; .[1]; 1e-4)))'
	agree "$T/sft.cpu" "$T/sft.cuda" 'near($a[0].loss; $b[0].loss; 1e-5) and near($a[0].grad_norm; $b[0].grad_norm; 1e-4)'
}
@test "a kernel that went wrong, seen at a wait; a card too small, said before anything is put on it: one line, exit 1" {
	for n in 1 5 40; do
		run bash -c "echo '{\"prompt\":\"a\"}' | CUDA_HOST_FAIL_SYNC=$n sal-generate -q -m '$M' -d cuda 2> '$T/err'"
		refused 1
		grep -q 'unspecified launch failure' "$T/err"
	done
	run bash -c "echo '{\"prompt\":\"a\"}' | CUDA_HOST_MEMORY=33600000 sal-generate -q -m '$M' -d cuda 2> '$T/err'"
	refused 1
	grep -q 'the weights take 0.* MB, device .cuda_host. has 0.* MB free' "$T/err"
}
@test "both judges give the same scores" {
	principle
	for d in cpu cuda; do
		for j in "compare --template $T/t.txt" contrast; do
			for i in 1 2; do printf '{"prompt":"hello","output_1":"the answer %d","output_2":"no"}\n' $i; done |
				sal-synthpref -q -m "$M" -d $d --dtype f32 -p "$T/p.json" --judge $j
		done > "$T/$d"
	done
	agree "$T/cpu" "$T/cuda" '($a | length) == 4 and ([$a, $b] | map(map(.judgements.Short) | flatten) | transpose |
		(length == 8 and all(.[0] != 0 and near(.[0]; .[1]; 1e-4))))'
}
@test "one step of SFT, of a reward model and of PPO: losses and gradients agree" {
	echo '{"prompt_tokens":[1,9,4],"response_tokens":[2,3,7,7]}' > "$T/sft.in"
	printf '{"chosen_tokens":[1,2,3,4],"rejected_tokens":[5,6,7]}\n{"chosen_tokens":[9,8],"rejected_tokens":[7,7,7,1]}\n' > "$T/rm.in"
	jq -nc '[range(40)] as $x | {chosen_tokens: ($x + [3, 4]), rejected_tokens: ($x + [9])}' >> "$T/rm.in" # a page of keys for both
	for d in cpu cuda; do
		sal-sft -q -m "$M" -d $d -o "$T/p.$d" $D --lora-dropout 0.3 < "$T/sft.in" > "$T/sft.$d"
		sal-rmtrain -q -m "$M" -d $d -o "$T/rm.$d" $D < "$T/rm.in" > "$T/rm.$d.log"
	done
	agree "$T/sft.cpu" "$T/sft.cuda" 'near($a[0].loss; $b[0].loss; 1e-5) and near($a[0].grad_norm; $b[0].grad_norm; 1e-4)'
	agree "$T/rm.cpu.log" "$T/rm.cuda.log" 'near($a[0].loss; $b[0].loss; 1e-5) and near($a[0].grad_norm; $b[0].grad_norm; 1e-4)'
	sal-ppo-step -q --init -m "$M" -a "$T/p.cpu" -o "$T/s0"
	prompts 4 | sal-generate -q -m "$M" -a "$T/s0/policy" --tokens --max-tokens 6 --temperature 0.7 --dtype f32 |
		jq -c '. + {reward: (.response_tokens | add % 5)}' > "$T/r"
	for d in cpu cuda; do
		sal-ppo-step -q -m "$M" -d $d -s "$T/s0" -o "$T/s1.$d" --response-len 6 --schedule constant --warmup-steps 0 --learning-rate 1e-3 \
			--minibatch 2 --temperature 0.7 --dtype f32 --no-shuffle < "$T/r" > "$T/ppo.$d"
	done
	agree "$T/ppo.cpu" "$T/ppo.cuda" '[$a[0].updates[0], $b[0].updates[0]] | near(.[0].policy_loss; .[1].policy_loss; 1e-4) and
		near(.[0].value_loss; .[1].value_loss; 1e-4) and near(.[0].grad_norm; .[1].grad_norm; 1e-3)'
}
