# SPDX-License-Identifier: Apache-2.0
load helper

gen() { sal-generate -q -m "$M" --max-tokens 12 --seed 3 "$@"; }

@test "samples keep the order and the unknown fields of their prompts" {
	prompts 5 | gen -n 2 > "$T/out"
	[ "$(wc -l < "$T/out")" -eq 10 ]
	[ "$(jq -r .id "$T/out" | uniq | tr '\n' ' ')" = "p1 p2 p3 p4 p5 " ]
	[ "$(grep -c '"keep":{"n":1.50}' "$T/out")" -eq 10 ]
	jq -e '.finish_reason == "stop" or .finish_reason == "length"' "$T/out" > /dev/null
}
@test "temperature 0 repeats itself whatever the seed" {
	cmp <(prompts 3 | gen --temperature 0) <(prompts 3 | gen --temperature 0 --seed 9)
}
@test "a record without its prompt, invalid UTF-8 and a prompt beyond the context are named" {
	for r in '{"id":"x"}' '{"prompt":"\xff"}' "{\"prompt\":\"$(printf 'a%.0s' $(seq 600))\"}"; do
		run bash -c "printf '%b\n' '$r' | sal-generate -q -m '$M' 2> '$T/err'"
		refused 1
		grep -q 'stdin:1' "$T/err"
	done
}
@test "--top-p 0 keeps the likeliest token; an empty --stop, which ends every answer at once, is a usage error" {
	prompts 3 | sal-generate -q -m "$M" --max-tokens 9 --temperature 0 | jq .response > "$T/greedy"
	prompts 3 | sal-generate -q -m "$M" --max-tokens 9 --temperature 2 --top-p 0 | jq .response | cmp "$T/greedy" -
	prompts 3 | sal-generate -q -m "$M" --max-tokens 9 --temperature 2 --top-p 1e-300 --top-k 9 | jq .response | cmp "$T/greedy" -
	run bash -c "sal-generate -q -m '$M' --stop '' < /dev/null 2> '$T/err'"
	refused 2
}
@test "a truncated model, a missing key and a missing file are each one line" {
	tiny "$T/m"
	head -c 1000 "$M/model.safetensors" > "$T/m/model.safetensors"
	run bash -c "echo '{\"prompt\":\"a\"}' | sal-generate -q -m '$T/m' 2> '$T/err'"
	refused 1
	cp "$M/model.safetensors" "$T/m/"
	jq 'del(.num_hidden_layers)' "$M/config.json" > "$T/m/config.json"
	run bash -c "echo '{\"prompt\":\"a\"}' | sal-generate -q -m '$T/m' 2> '$T/err'"
	refused 1
	grep -q num_hidden_layers "$T/err"
	run bash -c "sal-generate -q -m '$T/none.gguf' < /dev/null 2> '$T/err'"
	refused 1
}
@test "a system turn: the text of the prompt is read, not its tokens; tokens alone are refused" {
	echo '[{"dimension":"Short","definition":"be short","negative_definition":"be long"}]' > "$T/p.json"
	text='{"id":"a","prompt":"hello"}' both='{"id":"a","prompt":"hello","prompt_tokens":[1,2]}'
	for o in "--system Hm" "-p $T/p.json --sign -"; do
		cmp <(echo "$text" | gen $o --tokens) <(echo "$both" | gen $o --tokens)
		cmp <(echo "$text" | gen $o) <(echo "$both" | gen $o)
		run bash -c "echo '{\"id\":\"a\",\"prompt_tokens\":[1,2]}' | sal-generate -q -m '$M' $o 2> '$T/err'"
		refused 1
		grep -q 'stdin:1: "prompt_tokens" take no system turn' "$T/err"
	done
	echo "$both" | gen --tokens | jq -e '.prompt_tokens == [1, 2]'
}
@test "--dry-run: weights, adapter, chat format and principles as they would be used" {
	echo '{"prompt_tokens":[1],"response_tokens":[2]}' | sal-sft -q -m "$M" -o "$T/a" --lora-r 4 > /dev/null
	gen() { sal-generate -m "$M" -a "$T/a" -p demo --sign - -n 3 -j 2 --dry-run "$@" 2> "$T/err"; }
	gen
	for s in "$M: llama of 2 layers, context 256, .* MiB of weights as bf16, 2 threads, SAL_CPU=" "adapter $T/a: rank 4, [0-9]* parameters$" \
		"chat format chatml" "[0-9]* principles of .*demo" "3 samples a prompt of at most 512 tokens" "its negation"; do
		grep -q "plan: .*$s" "$T/err"
	done
	n=$(jq 'reduce (to_entries[] | select(.key != "__metadata__") | .value.shape) as [$a, $b] (0; . + $a * $b)' <(
		f=$T/a/adapter_model.safetensors; tail -c +9 "$f" | head -c "$(od -An -tu8 -N8 "$f")"))
	grep -q "rank 4, $n parameters" "$T/err"
	for o in "--format none-such" "-p none-such"; do
		run gen $o
		refused 1
	done
}
@test "an answer in dromedary's format ends at the next turn, a heading or a remark on itself; only the first finishes it" {
	tiny "$T/m"
	jq '.max_position_embeddings = 2048' "$M/config.json" > "$T/m/config.json"
	jq -cn '{id: "a", prompt: "one", response: "Hello.\n\n### User\nMore", has_stop: false}, {id: "b", prompt: "two", response: "Hello\nNote: I did well.", has_stop: false},
		{id: "c", prompt: "three", response: "A\n### Step 1 do it\nfoo\n\n### User\n", has_stop: false}, {id: "d", prompt: "four", response: "The end"}' > "$T/in"
	jq -c 'if .id == "d" then .has_stop = null else . end' "$T/in" |
		sal-sft -q -m "$T/m" -o "$T/a" --format dromedary --lora-r 32 --lora-alpha 32 --batch 4 --epochs 60 --learning-rate 1e-2 --schedule constant --warmup-steps 5 --max-grad-norm 1 > "$T/log"
	jq -c '{id, prompt}' "$T/in" | sal-generate -q -m "$T/m" -a "$T/a" --format dromedary --temperature 0 --max-tokens 40 --tokens > "$T/out"
	[ "$(jq -c '[.id, .response, .has_stop, .finish_reason]' "$T/out" | tr -d '\n')" = '["a","Hello.",true,"stop"]["b","Hello\nNote",false,"stop"]["c","A",false,"stop"]["d","The end",true,"stop"]' ]
	jq -e '(.response_tokens | length) == (.logprobs | length)' "$T/out"
	jq -c '{tokens: .response_tokens}' "$T/out" | sal-tokenize -q -m "$T/m" --decode | jq -rs 'map(.text)[]' > "$T/text"
	printf 'Hello.\n\n### User\nHello\nNote\nA\n### Step\nThe end\n\n### User\n' | cmp - "$T/text"
}
@test "memory follows the keys that are stored, not those that the batch could have" {
	prompts 1 | sal-generate -m "$M" -b 4096 --max-tokens 200 2> "$T/err" > /dev/null # pages for 4096 sequences: 210 MiB
	[ "$(sed -n 's/.* \([0-9]*\) MiB peak.*/\1/p' "$T/err")" -lt 100 ]
}
