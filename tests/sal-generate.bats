# SPDX-License-Identifier: Apache-2.0
load helper

gen() { sal-generate -q -m "$M" --max-tokens 12 --seed 3 "$@"; }

@test "--help prints the options on stdout and succeeds" {
	run sal-generate --help
	[ "$status" -eq 0 ]
	[[ $output == *"--max-tokens"* ]]
}
@test "an unknown option is a usage error of one line" {
	run bash -c "sal-generate --no-such 2> '$T/err'"
	refused 2
}
@test "samples keep the order and the unknown fields of their prompts" {
	prompts 5 | gen -n 2 > "$T/out"
	[ "$(wc -l < "$T/out")" -eq 10 ]
	[ "$(jq -r .id "$T/out" | uniq | tr '\n' ' ')" = "p1 p2 p3 p4 p5 " ]
	[ "$(grep -c '"keep":{"n":1.50}' "$T/out")" -eq 10 ]
	jq -e '.finish_reason == "stop" or .finish_reason == "length"' "$T/out" > /dev/null
}
@test "the same bytes for any batch and any number of threads" {
	for o in "-b 1 -j 1" "-b 7 -j 2" "-b 64 -j 1"; do prompts 9 | gen -n 2 --tokens $o | md5sum; done | uniq | wc -l > "$T/n"
	[ "$(cat "$T/n")" -eq 1 ]
}
@test "the same bytes when the input is split in three" {
	prompts 9 > "$T/in"
	gen --tokens < "$T/in" > "$T/one"
	for r in 1,2 3,7 8,9; do sed -n "${r}p" "$T/in" | gen --tokens; done > "$T/three"
	cmp "$T/one" "$T/three"
}
@test "sal-score --logprobs gives the sampler's own figures, string for string" {
	for d in bf16 f32; do
		prompts 6 | gen --tokens --dtype $d --temperature 0.7 > "$T/s"
		sal-score -q -m "$M" --logprobs --dtype $d --temperature 0.7 < "$T/s" > "$T/l"
		cmp <(jq -c .logprobs "$T/s") <(jq -c .logprobs "$T/l")
	done
}
@test "temperature 0 repeats itself whatever the seed" {
	cmp <(prompts 3 | gen --temperature 0) <(prompts 3 | gen --temperature 0 --seed 9)
}
@test "no input, no output" {
	run bash -c "sal-generate -q -m '$M' < /dev/null"
	[ "$status" -eq 0 ]
	[ -z "$output" ]
}
@test "a last line without newline is a record" {
	printf '{"prompt":"hi"}' | gen > "$T/out"
	[ "$(wc -l < "$T/out")" -eq 1 ]
}
@test "a line that is not JSON stops the tool and is named; the line before is answered" {
	run bash -c "printf '{\"prompt\":\"hi\"}\nhello\n' | sal-generate -q -m '$M' --max-tokens 3 2> '$T/err' > '$T/out'"
	refused 1
	grep -q 'stdin:2' "$T/err"
	[ "$(wc -l < "$T/out")" -eq 1 ]
}
@test "a record without its prompt, invalid UTF-8 and a prompt beyond the context are named" {
	for r in '{"id":"x"}' '{"prompt":"\xff"}' "{\"prompt\":\"$(printf 'a%.0s' $(seq 600))\"}"; do
		run bash -c "printf '%b\n' '$r' | sal-generate -q -m '$M' 2> '$T/err'"
		refused 1
		grep -q 'stdin:1' "$T/err"
	done
}
@test "--skip-bad sets a bad record aside and goes on" {
	printf 'x\n{"prompt":"hi"}\n' | gen --skip-bad --reject "$T/bad" > "$T/out"
	[ "$(wc -l < "$T/out")" -eq 1 ]
	jq -e '.line == 1' "$T/bad"
}
@test "a reader that leaves ends it quietly" {
	prompts 40 | gen -b 1 2> "$T/err" | head -1 > "$T/out"
	[ "$(wc -l < "$T/out")" -eq 1 ]
	[ ! -s "$T/err" ]
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
