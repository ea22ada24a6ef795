# SPDX-License-Identifier: Apache-2.0
# The same bytes: of a filter for any batch, threads and split of its input, of training for any threads and micro-batch, of sampler and scorer.
load helper

setup_file() {
	cd "$BATS_FILE_TMPDIR"
	adapter rm
	train="--lora-r 4 --learning-rate 1e-2 --schedule constant --warmup-steps 0"
	# nine ids with two samples each, of many lengths
	for i in $(seq 9); do
		for k in 0 1; do printf '{"id":"s%d","prompt":"hello %*d","sample":%d,"response":"the answer %*d"}\n' "$i" "$((i * 5 % 23))" "$i" "$k" "$(((i * 7 + k * 3) % 31))" "$i"; done
	done > in
	sed -n 1,4p in > part1
	sed -n 5,14p in > part2
	sed -n 15,18p in > part3
	sal-sft -q -m "$M" -o policy $train --batch 5 < in > /dev/null
	sal-ppo-step -q --init -m "$M" -a policy --value-from rm -o s0
	sal-generate -q -m "$M" -a policy -n 2 --tokens --max-tokens 8 < in | jq -c '. + {reward: (.response_tokens | add % 7)}' > rollouts
	echo '[{"dimension":"Short","definition":"be short","negative_definition":"be long"},
		{"dimension":"Kind","definition":"be kind","negative_definition":"be rude"}]' > p.json
	echo '{UserInstruction} {OutputA} {OutputB} {Dimension} Output (' > t.txt
}

filter() { # COMMAND...: one output
	cd "$BATS_FILE_TMPDIR"
	"$@" -q < in > "$T/one"
	[ "$(wc -l < "$T/one")" -ge 9 ]
	for b in 1 7 64; do
		for j in 1 2; do
			"$@" -q -b $b -j $j < in > "$T/two"
			cmp "$T/one" "$T/two"
		done
	done
	for i in 1 2 3; do "$@" -q < part$i; done > "$T/three"
	cmp "$T/one" "$T/three"
}
@test "sal-generate: any batch, threads and split" {
	filter sal-generate -m "$M" --max-tokens 12 -n 3 --tokens --seed 3
}
@test "sal-generate under principles, with an adapter, in float32, cut by top-p, top-k and min-p: any batch, threads and split" {
	filter sal-generate -m "$M" -a policy --max-tokens 12 -n 2 --tokens -p ./p.json --sign - --dtype f32 --temperature 1.3 --top-p 0.9 --top-k 40 --min-p 0.01
}
@test "sal-generate and sal-score in 8 bits, with an adapter: any batch, threads and split" {
	filter sal-generate -m "$M" -a policy --quantize int8 --max-tokens 12 -n 2 --tokens --temperature 0.9 --top-p 0.9
	filter sal-score -m "$M" -a policy --quantize int8 --logprobs
}
@test "sal-score, log-probabilities: any batch, threads and split" {
	filter sal-score -m "$M" -a policy --logprobs --entropy
}
@test "sal-score, rewards: any batch, threads and split" {
	filter sal-score -m "$M" -a rm -p ./p.json --draw 1 --max-len 250 --template "$ROOT/tests/data/reward.txt"
}
@test "sal-synthpref, compare: any batch, threads and split" {
	filter sal-synthpref -m "$M" -p ./p.json --min-chars 0 --template t.txt
}
@test "sal-synthpref, contrast: any batch, threads and split" {
	filter sal-synthpref -m "$M" -p ./p.json --min-chars 0 --judge contrast
}
@test "prompts that begin alike, together and each alone: sal-generate, sal-score, sal-synthpref" {
	cd "$BATS_FILE_TMPDIR"
	long=$(printf 'the same long beginning of every prompt %.0s' 1 2)
	for i in 1 2 3 4 5; do
		printf '{"id":"c%d","prompt":"%s %*d","sample":0,"response":"an answer","output_1":"yes, it is","output_2":"no %d"}\n' "$i" "$long" "$i" "$i" "$i"
	done > alike
	together() { # COMMAND...
		"$@" -q < alike > "$T/all"
		while read -r line; do "$@" -q <<< "$line"; done < alike > "$T/alone"
		cmp "$T/all" "$T/alone"
	}
	together sal-generate -m "$M" --max-tokens 8 -n 2 --tokens
	together sal-generate -m "$M" --max-tokens 8 -n 2 --tokens -b 2
	jq -c 'del(.output_1, .output_2)' alike > answers
	sal-score -q -m "$M" -a policy --logprobs < answers > "$T/all"
	while read -r line; do sal-score -q -m "$M" -a policy --logprobs <<< "$line"; done < answers > "$T/alone"
	cmp "$T/all" "$T/alone"
	together sal-synthpref -m "$M" -p ./p.json --min-chars 0 --template t.txt
	together sal-synthpref -m "$M" -p ./p.json --min-chars 0 --judge contrast
}
@test "a window of short prompts after one with a long prompt, whose keys are kept: the same samples for any batch" {
	local b
	jq -nc '[range(19) | [. + 10]], [[range(220) | 250 - .]], [range(20) | . as $i | [range(92) | 100 + ($i * (. + 1)) % 100]] | .[] | {prompt_tokens: .} ' |
		jq -c '.id = "p\(input_line_number)"' > "$T/in"
	sal-generate -q -m "$M" -b 1 --max-tokens 36 --temperature 1 --tokens < "$T/in" > "$T/one"
	for b in 2 5 64; do # 5: four windows' worth is 20
		sal-generate -q -m "$M" -b $b --max-tokens 36 --temperature 1 --tokens < "$T/in" > "$T/two"
		cmp "$T/one" "$T/two"
	done
}
@test "sal-tokenize: any threads and split, refused records too" {
	cd "$BATS_FILE_TMPDIR"
	jq -c '.text = .response' in > text
	for j in 1 2 5; do sal-tokenize -q -m "$M" -j $j < text > "$T/$j"; done
	[ "$(wc -l < "$T/1")" -eq 18 ]
	cmp "$T/1" "$T/2"
	cmp "$T/1" "$T/5"
	cmp "$T/1" <(split -n l/3 --filter="sal-tokenize -q -m $M" text)
	for j in 1 3; do
		sed '3s/"text"/"test"/; 7s/.*/x/' text | sal-tokenize -q -m "$M" -j $j --skip-bad --reject "$T/bad$j" > "$T/good$j"
		cmp <(sed '3d; 7d' "$T/1") "$T/good$j"
	done
	cmp "$T/bad1" "$T/bad3"
}

training() { # RECORDS COMMAND...: one log, one folder, one file of rollouts; and not nothing
	in=$1
	shift
	rm -rf "$T/1" "$T/2"
	for j in 1 2; do
		mkdir "$T/$j"
		cd "$T/$j"
		"$@" -q -o out -j $j --micro-batch $((j * j * j * 20)) < "$in" > log
	done
	[ -s log ]
	diff -r "$T/1" "$T/2"
}
train="--lora-r 4 --learning-rate 1e-2 --schedule constant --warmup-steps 0"
@test "sal-sft: any threads and micro-batch" {
	training "$BATS_FILE_TMPDIR/in" sal-sft -m "$M" $train --batch 7 --epochs 2
	cp "$T/1/log" "$T/none"
	training "$BATS_FILE_TMPDIR/in" sal-sft -m "$M" $train --batch 7 --epochs 2 --lora-dropout 0.4
	! cmp -s "$T/1/log" "$T/none"
}
@test "sal-sft --loss dpo: any threads and micro-batch" {
	jq -c '{id, prompt: ("both answers begin with the same " + .prompt), chosen: .response, rejected: "no"}' "$BATS_FILE_TMPDIR/in" > "$T/in"
	training "$T/in" sal-sft -m "$M" $train --loss dpo --batch 7
}
@test "sal-rmtrain: any threads and micro-batch" {
	jq -c '{id, prompt: ("both answers begin with the same " + .prompt), chosen: .response, rejected: "no"}' "$BATS_FILE_TMPDIR/in" > "$T/in"
	training "$T/in" sal-rmtrain -m "$M" $train --batch 7 --max-len 250 --template "$ROOT/tests/data/reward.txt"
}
@test "sal-ppo-step: any threads and micro-batch, with a critic and without" {
	F=$BATS_FILE_TMPDIR
	for a in gae grpo; do
		training "$F/rollouts" sal-ppo-step -m "$M" -s "$F/s0" --advantage $a --schedule constant --minibatch 10 --response-len 8 --rollouts rollouts
		[ "$(wc -l < rollouts)" -eq 36 ]
	done
}

agree() { # ISA: what sal-generate --tokens writes is what sal-score --logprobs computes, string for string
	export SAL_CPU=$1
	cd "$BATS_FILE_TMPDIR"
	sal-score -q -m "$M" --logprobs < /dev/null 2> "$T/err" || { grep -q "$1" "$T/err" && skip "no $1 here"; }
	for d in bf16 f32 "bf16 --quantize int8" "f32 --quantize int8"; do
		sal-generate -q -m "$M" -a policy -n 2 -b 5 --tokens --dtype $d --temperature 0.7 --top-p 0.9 --max-tokens 24 < in > "$T/s"
		sal-score -q -m "$M" -a policy -b 3 --logprobs --dtype $d --temperature 0.7 < "$T/s" > "$T/l"
		[ "$(wc -l < "$T/l")" -eq 36 ]
		cmp <(jq -c .logprobs "$T/s") <(jq -c .logprobs "$T/l")
	done
}
@test "portable: sampler and scorer write the same log-probabilities, string for string" { agree portable; }
@test "avx2: sampler and scorer write the same log-probabilities, string for string" { agree avx2; }
@test "avx512: sampler and scorer write the same log-probabilities, string for string" { agree avx512; }
