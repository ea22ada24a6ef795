# SPDX-License-Identifier: Apache-2.0
load helper

state() {
	echo '{"prompt_tokens":[1],"response_tokens":[2,3]}' | sal-sft -q -m "$M" -o "$T/p" --lora-r 4 --learning-rate 1e-2 --schedule constant --warmup-steps 0 > /dev/null
	sal-ppo-step -q --init -m "$M" -a "$T/p" -o "$T/s0"
	prompts 4 | sal-generate -q -m "$M" -a "$T/s0/policy" --tokens --max-tokens 6 --temperature 0.7 | jq -c '. + {reward: (.response_tokens | length)}' > "$T/r"
}
O="--response-len 6 --schedule constant --warmup-steps 0 --learning-rate 1e-3 --minibatch 2 --temperature 0.7"

@test "the first update is on-policy to the bit, and takes the sampler's figures" {
	state
	sal-ppo-step -q -m "$M" -s "$T/s0" -o "$T/s1" $O < "$T/r" > "$T/log"
	jq -e '.updates[0].approx_kl == 0 and .updates[0].clip_fraction == 0 and .logprobs_taken == 4' "$T/log"
	[ -f "$T/s1/state.json" ]
}
@test "a changed log-probability is seen" {
	state
	jq -c 'if .id == "p1" then .logprobs[0] -= 0.001 else . end' "$T/r" > "$T/r2"
	sal-ppo-step -q -m "$M" -s "$T/s0" -o "$T/s1" $O --no-shuffle < "$T/r2" > "$T/log"
	jq -e '.updates[0].approx_kl > 0' "$T/log"
}
@test "a reward that a float cannot hold is named by its line, and no state is written" {
	state
	for a in gae rloo grpo reinforce++; do
		{ cat "$T/r"; jq -c '.reward = 1' "$T/r"; } | jq -c '.reward = if input_line_number == 7 then 1e300 else .reward end' > "$T/in"
		run bash -c "sal-ppo-step -q -m '$M' -s '$T/s0' -o '$T/no' $O --advantage $a --skip-bad --reject '$T/bad' < '$T/in' 2> '$T/err'"
		refused 1
		grep -q '^sal-ppo-step: stdin:7: .*not finite' "$T/err"
		[ ! -e "$T/no" ]
	done
}
@test "rloo and grpo: an answer alone in its id is named" {
	state
	for a in rloo grpo; do
		run bash -c "sal-ppo-step -q -m '$M' -s '$T/s0' -o '$T/no' $O --advantage $a < '$T/r' 2> '$T/err'"
		refused 1
		grep -q '^sal-ppo-step: stdin:[1-4]: the only answer of id' "$T/err"
	done
}
