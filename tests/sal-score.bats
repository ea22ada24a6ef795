# SPDX-License-Identifier: Apache-2.0
load helper

@test "log-probabilities are those of plain loops in double" {
	ran=0
	for isa in portable avx2 avx512; do
		SAL_CPU=$isa sal-score -q -m "$M" --logprobs --dtype f32 < tests/data/forward.jsonl > "$T/out" 2> "$T/err" || { grep -q "$isa" "$T/err"; continue; }
		ran=$((ran + 1))
		jq -se 'all(.[]; [.logprobs, .expect] | transpose | all(.[]; (.[0] - .[1]) | fabs < 2e-5))' "$T/out"
	done
	[ "$ran" -ge 1 ]
}
@test "bf16 is near, and not the same" {
	sal-score -q -m "$M" --logprobs < tests/data/forward.jsonl > "$T/out"
	jq -se '[.[] | [.logprobs, .expect] | transpose[] | (.[0] - .[1]) | fabs] | add / length | . > 1e-5 and . < 0.06' "$T/out"
}
@test "a reward under the principles asked for, else the record's own, else as many as --draw says" {
	adapter "$T/rm"
	score() { sal-score -q -m "$M" -a "$T/rm" --max-len 250 --template tests/data/reward.txt -p "$T/p.json" "$@"; }
	echo '[{"dimension":"A","definition":"be a","negative_definition":"be z"},{"dimension":"B","definition":"be b","negative_definition":"be y"}]' > "$T/p.json"
	r='{"prompt":"hello","response":"the answer"}'
	own='{"prompt":"hello","response":"the answer","principles":[{"dimension":"B","negated":true}]}'
	[ "$(echo "$r" | score | jq -c .principles)" = '[]' ]
	[ "$(echo "$r" | score --draw 1 | jq '.principles | length')" -eq 1 ]
	[ "$(echo "$own" | score --draw 2 | jq -c .principles)" = '[{"dimension":"B","negated":true}]' ]
	[ "$(echo "$own" | score --under A | jq -c .principles)" = '[{"dimension":"A","negated":false}]' ]
	[ "$(for o in "--under A" "--under B" "--under B --negate" "--under A,B"; do echo "$r" | score $o | jq .reward; done | sort -u | wc -l)" -eq 4 ]
	for negated in 1 '"true"' null; do
		run bash -c "echo '${own/true/$negated}' | sal-score -q -m '$M' -a '$T/rm' --max-len 250 --template tests/data/reward.txt -p '$T/p.json' 2> '$T/err'"
		refused 1
		grep -q "stdin:1: \"negated\" of principle 'B' is neither true nor false" "$T/err"
	done
	run bash -c "sal-score -q -m '$M' -a '$T/rm' -p '$T/p.json' --under '' < /dev/null 2> '$T/err'"
	refused 1
}
@test "a preference gets two rewards, those that its answers get as samples" {
	adapter "$T/rm"
	score() { sal-score -q -m "$M" -a "$T/rm" --max-len 250 --template tests/data/reward.txt; }
	echo '{"prompt":"hello","chosen":"yes","rejected":"no"}' | score | jq -c '[.reward_chosen, .reward_rejected]' > "$T/pair"
	printf '{"prompt":"hello","response":"%s"}\n' yes no | score | jq -sc 'map(.reward)' > "$T/two"
	cmp "$T/pair" "$T/two"
}
@test "an adapter for another model is refused in one line" {
	adapter "$T/rm"
	sed -i 's/"r": 4/"r": 8/' "$T/rm/adapter_config.json"
	run bash -c "echo '{\"tokens\":[1]}' | sal-score -q -m '$M' -a '$T/rm' 2> '$T/err'"
	refused 1
	grep -q 'another model' "$T/err"
}
@test "a safetensors header that points outside its file is refused" {
	adapter "$T/rm"
	truncate -s -4 "$T/rm/adapter_model.safetensors"
	run bash -c "echo '{\"tokens\":[1]}' | sal-score -q -m '$M' -a '$T/rm' 2> '$T/err'"
	refused 1
	grep -q adapter_model.safetensors "$T/err"
}
@test "a token outside the vocabulary is named by its line" {
	run bash -c "echo '{\"prompt_tokens\":[1],\"response_tokens\":[99999]}' | sal-score -q -m '$M' --logprobs 2> '$T/err'"
	refused 1
	grep -q 'stdin:1' "$T/err"
}
@test "text in dromedary's format is the sequence that sal-generate samples from" {
	tiny "$T/m"
	jq '.max_position_embeddings = 2048' "$M/config.json" > "$T/m/config.json"
	r='{"id":"a","prompt":"hi","response":"hello"}'
	ids=$(echo '{"text":"hello"}' | sal-tokenize -q -m "$T/m" | jq -c .tokens)
	echo "$r" | sal-generate -q -m "$T/m" --format dromedary --tokens --max-tokens 1 | jq -c --argjson ids "$ids" '.response_tokens = $ids' > "$T/tokens"
	score() { sal-score -q -m "$T/m" --format dromedary --logprobs | jq -c .logprobs; }
	[ "$(echo "$r" | score)" = "$(score < "$T/tokens")" ]
}
@test "int8: the file's figures but for a little, under a policy of its own; no card and no training tool has it" {
	prompts 100 | sal-generate -q -m "$M" --tokens --max-tokens 20 --temperature 0 > "$T/none"
	sal-score -q -m "$M" --quantize int8 --logprobs < "$T/none" > "$T/int8"
	jq -es --slurpfile a "$T/none" '($a | map(.logprobs) | flatten) as $x | (map(.logprobs) | flatten) as $y | [$x, $y] | transpose |
		map(.[0] - .[1] | fabs) | (add / length) as $mean | $mean > 1e-4 and $mean < 0.05' "$T/int8"
	[ "$(prompts 1 | sal-generate -q -m "$M" --quantize int8 --tokens --max-tokens 1 | jq -r .policy)" != \
		"$(prompts 1 | sal-generate -q -m "$M" --tokens --max-tokens 1 | jq -r .policy)" ]
	run bash -c "sal-model plan -q -d cuda -m '$M' --quantize int8 2> '$T/err'"
	refused 1
	run bash -c "sal-model plan -q -d cpu --stage train -m '$M' --quantize int8 2> '$T/err'"
	refused 1
	sal-model plan -q -d cpu --stage generate -m "$M" --quantize int8 | jq -e .weights
	for t in sft rmtrain ppo-step; do
		run bash -c "sal-$t -q -m '$M' -o '$T/o' --quantize int8 < /dev/null 2> '$T/err'"
		refused 2
		grep -q "none|nf4" "$T/err"
	done
}
@test "nf4: other figures than the file's, the sampler's bit for bit, under a policy of its own" {
	prompts 3 | sal-generate -q -m "$M" --quantize nf4 --tokens --max-tokens 6 --temperature 0.7 > "$T/nf4"
	sal-score -q -m "$M" --quantize nf4 --logprobs --temperature 0.7 < "$T/nf4" | jq -c .logprobs | cmp - <(jq -c .logprobs "$T/nf4")
	sal-score -q -m "$M" --logprobs --temperature 0.7 < "$T/nf4" > "$T/none"
	jq -es --slurpfile a "$T/nf4" '($a | map(.logprobs) | flatten) as $x | (map(.logprobs) | flatten) as $y | [$x, $y] | transpose |
		map(.[0] - .[1] | fabs) | (add / length) as $mean | $mean > 1e-3 and $mean < 3' "$T/none"
	prompts 3 | sal-generate -q -m "$M" --tokens --max-tokens 2 --temperature 0.7 > "$T/plain"
	[ "$(jq -r .policy "$T/nf4" | sort -u)" != "$(jq -r .policy "$T/plain" | sort -u)" ]
	for b in 1 7; do prompts 9 | sal-generate -q -m "$M" --quantize nf4 --tokens --max-tokens 6 -b $b > "$T/b$b"; done
	cmp "$T/b1" "$T/b7"
}
