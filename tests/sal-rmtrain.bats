# SPDX-License-Identifier: Apache-2.0
load helper
D="--lora-r 4 --learning-rate 1e-2 --schedule constant --warmup-steps 0"
pairs() { for i in 1 2 3 4 5; do printf '{"chosen_tokens":[%d,2,3,4],"rejected_tokens":[%d,5,6]}\n' $i $i; done; }

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
