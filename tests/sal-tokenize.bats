# SPDX-License-Identifier: Apache-2.0
load helper

@test "text to tokens and back, unknown fields kept" {
	echo '{"text":"hello, the world 12\n","k":1.0}' | sal-tokenize -q -m "$M" > "$T/a"
	grep -q '"k":1.0' "$T/a"
	[ "$(sal-tokenize -q -m "$M" --decode < "$T/a" | jq -r .text)" = "$(printf 'hello, the world 12\n')" ]
}
@test "control tokens are recognised, and are text with --plain" {
	r='{"text":"<|im_end|>"}'
	[ "$(echo "$r" | sal-tokenize -q -m "$M" | jq '.tokens | length')" -eq 1 ]
	[ "$(echo "$r" | sal-tokenize -q -m "$M" --plain | jq '.tokens | length')" -gt 1 ]
}
@test "a long word takes no long time" {
	python3 -c 'print("{\"text\":\"" + "a" * 300000 + "\"}")' | timeout 20 sal-tokenize -q -m "$M" | jq -e '.tokens | length == 300000'
}
@test "--dry-run tells the vocabulary" {
	sal-tokenize -m "$M" --dry-run 2> "$T/err"
	grep -q 'plan: text to tokens, a vocabulary of 271 tokens' "$T/err"
}
