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
@test "--init -a with options of a fresh adapter: a note" {
	state
	sal-ppo-step --init -m "$M" -a "$T/p" --lora-r 8 -o "$T/s9" 2> "$T/err"
	grep -q "are of a fresh adapter: $T/p keeps its own" "$T/err"
	jq -e '.r == 4' "$T/s9/policy/adapter_config.json"
	sal-ppo-step --init -m "$M" -a "$T/p" -o "$T/s9" 2> "$T/err"
	! grep -q fresh "$T/err"
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

step() { sal-ppo-step -q -m "$M" -s "$T/s0" -o "$T/s1" $O "$@"; }
@test "--alarm: what is passed ends the step with a line that says by how much, and no state is written" {
	state
	jq -c '.response_tokens as $t | .logprobs |= map(. - 1) | del(.policy)' "$T/r" > "$T/r2"
	while IFS=';' read -r -u 9 alarm more why; do
		run bash -c "sal-ppo-step -q -m '$M' -s '$T/s0' -o '$T/s1' $O $more --alarm $alarm < '$T/r' 2> '$T/err'"
		refused 1
		[ -z "$output" ]
		grep -qE "^sal-ppo-step: alarm: step 1: $why" "$T/err" || { cat "$T/err"; false; }
		[ ! -e "$T/s1" ]
	done 9<<-'END'
		length=7:9;;an answer has [0-9.]* tokens in the mean, not 7 to 9 \(--alarm length\)$
		length=0:1;;an answer has [0-9.]* tokens in the mean, not 0 to 1 \(--alarm length\)$
		lr=1e-12;;the policy has moved [0-9.e-]* nats a token at a learning rate of 0.001, more than 1e-12 \(--alarm lr\)$
		lr=1;--learning-rate 0;the learning rate is 0 \(--alarm lr\)$
		kl=1e-9;-r none;the answers are [0-9.e-]* nats from the reference, more than 1e-09 \(--alarm kl\)$
	END
	step --alarm kl=100 --alarm lr=100 --alarm length=0:100 < "$T/r" | jq -e '.step == 1'
	for a in kl kl= kl=x kl=0 kl=1x kl=inf kl=nan kl=1e999 lr=-1 lr=inf length=5 length=5:4 length=1:2:3 length=0:0 length=0:inf length=nan:4 size=3 \
		"kl=1 --alarm kl=2" "length=0:9 --alarm length=1:2"; do
		run bash -c "sal-ppo-step -m '$M' -s '$T/s0' -o '$T/no' $O --alarm $a < '$T/r' 2> '$T/err'"
		refused 2
	done
}
@test "--alarm stops make, and the target is not there" {
	state
	printf 'include %s/pipelines/common.mk\nout.jsonl: r\n\tsal-ppo-step -m %s -s s0 -o s1 %s --alarm length=7:9 < r $(KEEP)\n' "$ROOT" "$M" "$O" > "$T/mk"
	run make --no-print-directory -C "$T" -f mk BIN="$BIN" out.jsonl
	[ "$status" -eq 2 ]
	[[ "$output" == *"sal-ppo-step: alarm: step 1: "* ]]
	[ ! -e "$T/out.jsonl" ]
}
@test "statistics: each of SALMON's and TRL's names has its figure, and those that say the same agree" {
	state
	step < "$T/r" > "$T/log"
	names='. as $r | ["kl_coef","kl_sum_seq","kl_avg_seq","length_bonus","shaped_rewards","non_score_rewards","rewards","lr","ref_entropies"] as $o
		| ["loss/policy","loss/value","loss/grad_norm","policy/entropy","policy/approxkl","policy/clipfrac","returns/mean","returns/var","val/vpred","val/error",
		"val/clipfrac","val/mean","val/var"] as $p | ["objective/kl","objective/entropy","objective/non_score_reward","objective/rlhf_reward","objective/scores",
		"policy/approxkl_avg","policy/clipfrac_avg","loss/policy_avg","loss/value_avg","val/clipfrac_avg","policy/entropy_avg","val/ratio","val/num_eos_tokens",
		"lr","episode"] as $t | (($o | map("objective/" + .)) + ($p | map("ppo/" + .)) + $t)'
	jq -e "$names"' as $n | all($n[]; $r[.] | type == "number")' "$T/log"
	jq -e 'def near(a; b): (a - b | fabs) < 1e-9 * (1 + (b | fabs)); .updates as $u | (.records) as $n
		| near(."ppo/loss/policy"; ($u | map(.policy_loss) | add / length)) and near(."objective/kl_avg_seq"; ."objective/kl_sum_seq" * $n / .tokens)
		and near(."objective/rlhf_reward"; ."objective/scores" + .length_bonus + ."objective/non_score_reward") and ."ppo/val/mean" == 0 and ."ppo/val/var" == 0
		and .episode == 4 and ."val/num_eos_tokens" + .no_stop == 4 and $u[0].ratio == 1 and ($u | map(.entropy) | min) > 0' "$T/log"
	# the entropy at the first update is that of the sampled distribution
	sal-score -q -m "$M" -a "$T/s0/policy" --logprobs --entropy --temperature 0.7 < "$T/r" | jq -s 'map(.entropies[]) | add / length' > "$T/h"
	step --minibatch 4 --epochs 1 < "$T/r" 2>/dev/null | jq -e --argjson h "$(cat "$T/h")" '(.updates[0].entropy - $h | fabs) < 1e-5'
	# and of all where log-probabilities are computed again
	jq -c 'del(.policy, .logprobs)' "$T/r" | step | jq -e --argjson h "$(cat "$T/h")" '(."objective/entropies" - $h | fabs) < 1e-5'
	sal-ppo-step -q -m "$M" -s "$T/s1" -o "$T/s2" $O --advantage reinforce++ < "$T/r" | jq -e '.episode == 8 and (has("ppo/val/mean") or has("ppo/loss/value") | not)'
}
@test "--compat salmon: pads to --response-len, the reward in the last slot, the first step of a warm-up at rate 0" {
	state
	compat() { step --compat salmon --gamma 1 --lambda 1 --epochs 1 --minibatch 4 --response-len 9 --length-bonus 0 "$@"; }
	compat --rollouts "$T/roll" < "$T/r" > "$T/log"
	jq -se --slurpfile r "$T/r" 'def near(a; b): (a - b | fabs) < 1e-4 * (1 + (b | fabs)); . as $all | length == 4 and all(range(4); . as $i
		| $all[$i] as $x | ($r[$i].response_tokens | length) as $n
		| ($x.returns | length) == 9 and ($x.advantages | length) == 9 and ($x.kl | length) == $n and ($x.logprobs | length) == $n and ($x.values | length) == $n + 2
		and near($x.returns[8]; 10 * ($r[$i].reward + (if $r[$i].has_stop then 0 else -6 end))))' <(jq -sc --slurpfile o "$T/r" '. as $a | $o[] | .id as $i | $a[] | select(.id == $i)' "$T/roll")
	jq -se '[.[].advantages[]] | length == 36 and (add / 36 | fabs) < 1e-6 and (map(. * .) | add / 36 - 1 | fabs) < 1e-5' "$T/roll"
	# at ratio 1 the loss is minus the mean advantage over all slots, 0; the critic's counts pads
	jq -e '(.updates[0].policy_loss | fabs) < 1e-6 and .updates[0].approx_kl == 0 and .updates[0].ratio == 1' "$T/log"
	jq -se '[.[].returns[]] | map(. * .) | add / 72' "$T/roll" > "$T/loss" # the critic begins at 0
	jq -e --argjson w "$(cat "$T/loss")" '(.updates[0].value_loss - $w | fabs) < 1e-3 * $w' "$T/log"
	# without pads it is another step
	step --gamma 1 --lambda 1 --epochs 1 --minibatch 4 --response-len 9 --length-bonus 0 < "$T/r" | jq -e --argjson w "$(cat "$T/loss")" '(.updates[0].value_loss - $w | fabs) > 1e-3 * $w'
	compat --warmup-steps 2 < "$T/r" | jq -e '.lr == 0 and ."objective/lr" == 0'
	sal-ppo-step -q -m "$M" -s "$T/s1" -o "$T/s2" $O --response-len 9 --compat salmon --warmup-steps 2 < "$T/r" | jq -e '.lr == 0.0005'
	compat -j 1 --micro-batch 1 < "$T/r" > "$T/one"
	compat -j 2 < "$T/r" > "$T/two"
	cmp "$T/one" "$T/two"
	run bash -c "sal-ppo-step -q -m '$M' -s '$T/s0' -o '$T/no' $O --response-len 5 --compat salmon < '$T/r' 2> '$T/err'"
	refused 1
	grep -q 'stdin:[1-4]: 6 response tokens are more than --response-len 5' "$T/err"
	run bash -c "sal-ppo-step -m '$M' -s '$T/s0' -o '$T/no' $O --advantage rloo --compat salmon < '$T/r' 2> '$T/err'"
	refused 2
}
@test "--whiten and --whiten-rewards" {
	state
	step --whiten none --rollouts "$T/none" < "$T/r" > "$T/log"
	jq -se '[.[] | [.advantages, .returns, .values] | transpose[] | (.[1] - .[2] - .[0]) | fabs] | max < 1e-4' "$T/none"
	step --whiten answer --rollouts "$T/each" < "$T/r" > "$T/log"
	jq -se 'all(.[]; .advantages | add | fabs < 1e-4)' "$T/each"
	step --whiten-rewards --rollouts "$T/rewards" < "$T/r" > "$T/log"
	! cmp -s "$T/none" "$T/rewards"
	jq -e '.flags | .whiten == "batch" and .whiten_rewards and .compat == "none"' "$T/s1/state.json"
}
