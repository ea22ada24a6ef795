# SPDX-License-Identifier: Apache-2.0
load helper
D="--lora-r 4 --learning-rate 1e-2 --schedule constant --warmup-steps 0"
pairs() { for i in 1 2 3 4 5; do printf '{"chosen_tokens":[%d,2,3,4],"rejected_tokens":[%d,5,6]}\n' $i $i; done; }

@test "--help prints the options on stdout and succeeds" {
	run sal-rmtrain --help
	[ "$status" -eq 0 ]
	[[ $output == *"--learning-rate"* ]]
}
@test "it learns to prefer, and writes a SEQ_CLS adapter with the head inside" {
	pairs | sal-rmtrain -q -m "$M" -o "$T/rm" $D --epochs 6 > "$T/log"
	jq -se '.[-1].loss < .[0].loss * 0.8 and .[-1].accuracy == 1' "$T/log"
	[ "$(jq -r .task_type "$T/rm/adapter_config.json")" = SEQ_CLS ]
	grep -aq 'base_model.model.score.weight' "$T/rm/adapter_model.safetensors"
}
@test "equal answers: loss ln 2, no gradient, counted" {
	printf '{"chosen_tokens":[1,2],"rejected_tokens":[1,2]}\n' | sal-rmtrain -q -m "$M" -o "$T/rm" $D > "$T/log"
	jq -e '(.loss - 0.6931472 | fabs) < 1e-6 and .grad_norm == 0 and .equal_pairs == 1' "$T/log"
}
@test "the same bytes for any threads and micro-batch" {
	pairs | sal-rmtrain -q -m "$M" -o "$T/a" $D -j 1 > "$T/l1"
	pairs | sal-rmtrain -q -m "$M" -o "$T/b" $D -j 2 --micro-batch 8 > "$T/l2"
	cmp "$T/l1" "$T/l2"
	cmp "$T/a/adapter_model.safetensors" "$T/b/adapter_model.safetensors"
}
@test "a record without its answers is named, and nothing is written" {
	run bash -c "printf '{\"chosen_tokens\":[1]}\n' | sal-rmtrain -q -m '$M' -o '$T/rm' 2> '$T/err'"
	refused 1
	grep -q 'stdin:1' "$T/err"
	[ ! -e "$T/rm" ]
}
