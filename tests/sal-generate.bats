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
@test "a truncated model, a missing key and a missing file are each one line" {
	cp -R "$M" "$T/m"
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
