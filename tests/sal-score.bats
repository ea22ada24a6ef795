# SPDX-License-Identifier: Apache-2.0
load helper

@test "--help prints the options on stdout and succeeds" {
	run sal-score --help
	[ "$status" -eq 0 ]
	[[ $output == *"--logprobs"* ]]
}
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
@test "rewards: the same bytes for any batch and threads, unknown fields kept, order kept" {
	adapter "$T/rm"
	for i in 1 2 3 4 5; do printf '{"id":"s%d","prompt":"hello","response":"the answer %d","x":[1.0]}\n' $i $i; done > "$T/in"
	sal-score -q -m "$M" -a "$T/rm" --max-len 250 --template tests/data/reward.txt < "$T/in" > "$T/a"
	sal-score -q -m "$M" -a "$T/rm" --max-len 250 --template tests/data/reward.txt -b 1 -j 1 < "$T/in" > "$T/b"
	cmp "$T/a" "$T/b"
	[ "$(jq -r .id "$T/a" | tr '\n' ' ')" = "s1 s2 s3 s4 s5 " ]
	[ "$(grep -c '"x":\[1.0\]' "$T/a")" -eq 5 ]
	jq -e '.reward | type == "number"' "$T/a" > /dev/null
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
@test "no input, no output; a token outside the vocabulary is named by its line" {
	[ -z "$(sal-score -q -m "$M" --logprobs < /dev/null)" ]
	run bash -c "echo '{\"prompt_tokens\":[1],\"response_tokens\":[99999]}' | sal-score -q -m '$M' --logprobs 2> '$T/err'"
	refused 1
	grep -q 'stdin:1' "$T/err"
}
@test "a full disk is reported" {
	run bash -c "sal-score -q -m '$M' --logprobs < tests/data/forward.jsonl 2> '$T/err' > /dev/full"
	refused 1
}
