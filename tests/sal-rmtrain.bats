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
@test "a margin is subtracted: loss -log sigmoid(lead - margin), and its gradient; without one it is 0" {
	one() { jq -nc "{chosen_tokens: [1,2,3], rejected_tokens: [5,6], margin: $1}" | sal-rmtrain -q -m "$M" -o "$T/rm" $D --dtype f32; }
	for m in null 0 0.5 -3 2.25; do one $m; done > "$T/log"
	jq -es 'map(.margin) | unique | length == 1' "$T/log"
	[ "$(sed -n 1p "$T/log")" = "$(sed -n 2p "$T/log")" ]
	# |dloss/dlead| = sigmoid(margin - lead), so the norms of two gradients are to each other as these
	jq -es 'def near(a; b): (a - b | fabs) < 1e-5 * b; def slope(x; m): 1 / (1 + ((x.margin - m) | exp));
		[0, 0, 0.5, -3, 2.25] as $m | . as $r | all(range(5);
		near($r[.].loss; -((1 - slope($r[.]; $m[.])) | log)) and
		near($r[.].grad_norm / $r[0].grad_norm; slope($r[.]; $m[.]) / slope($r[0]; 0)))' "$T/log"
	run bash -c "echo '{\"chosen_tokens\":[1],\"rejected_tokens\":[5],\"margin\":\"x\"}' | sal-rmtrain -q -m '$M' -o '$T/no' 2> '$T/err'"
	refused 1
	grep -q 'stdin:1: .*margin' "$T/err"
}
@test "toy: two principles; a pair of a short and a long answer is ranked by Concise, and turned round by its negation; so is one of manners" {
	echo '[{"dimension":"Concise","definition":"short","negative_definition":"long"},{"dimension":"Polite","definition":"kind","negative_definition":"rude"}]' > "$T/p.json"
	# each pair both ways round; every fourth is held out
	jq -cn '["the","and","of","to","in","it","is","on"] as $w | range(32) as $i | $w[$i % 8] as $a | $w[($i / 8 | floor) * 3 + 1 + $i % 4 - 8] as $b
		| ({id: $i, prompt: $a, principles: [{dimension: "Concise", negated: false}], chosen: $b, rejected: ($b + " " + $a + " " + $b + " and " + $a + " of " + $b)},
		{id: $i, prompt: $a, principles: [{dimension: "Polite", negated: false}], chosen: ("please " + $b), rejected: ("go " + $b)})
		| ., (.principles[0].negated = true | {chosen: .rejected, rejected: .chosen} as $x | . + $x)' > "$T/all"
	jq -c 'select(.id % 4 != 3)' "$T/all" | sal-rmtrain -q -m "$M" -o "$T/rm" -p "$T/p.json" --template tests/data/reward.txt --max-len 250 --lora-r 8 --lora-alpha 16 \
		--batch 16 --epochs 8 --learning-rate 5e-3 --schedule cosine --max-grad-norm 1 > "$T/log"
	jq -c 'select(.id % 4 == 3)' "$T/all" | sal-score -q -m "$M" -a "$T/rm" -p "$T/p.json" --template tests/data/reward.txt --max-len 250 > "$T/out"
	jq -es 'group_by([.principles[0].dimension, .principles[0].negated]) | length == 4 and
		all(.[]; length == 8 and (map(if .reward_chosen > .reward_rejected then 1 else 0 end) | add) >= 7)' "$T/out"
}
