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
# a vocabulary with LLaMA-2's layout: bytes at 3 .. 258, and of its pieces those below at their ids
@test "LLaMA-2's ids of a newline, a bracket, a marker; a continuation is what follows the newline" {
	tiny "$T/l"
	jq '.vocab_size = 32000' "$M/config.json" > "$T/l/config.json"
	jq -n '{"<unk>": 0, "<s>": 1, "</s>": 2, "▁": 29871, "▁(": 313, "(": 29898, "a": 29874, "b": 29890, "▁is": 338, "is": 275, "i": 29875, "s": 29879,
		"##": 2277, "#": 29937, "▁##": 444, "▁###": 835, "U": 29965, "e": 29872, "r": 29878, "se": 344, "▁U": 501, "▁Us": 4803, "▁User": 4911, "er": 261} as $pieces |
		[range(256) | {key: ("<0x" + ([(. / 16 | floor), . % 16] | map("0123456789ABCDEF"[.:. + 1]) | add) + ">"), value: (. + 3)}] | from_entries as $bytes |
		($pieces + $bytes) as $known | ($known | to_entries | map({key: (.value | tostring), value: true}) | from_entries) as $taken |
		([range(32000) | select($taken[tostring] | not) | {key: "<filler \(.)>", value: .}] | from_entries + $known) as $vocab |
		{version: "1.0", added_tokens: [(0, 1, 2) | {id: ., content: ["<unk>", "<s>", "</s>"][.], single_word: false, lstrip: false, rstrip: false, normalized: false, special: true}],
		 normalizer: {type: "Sequence", normalizers: [{type: "Prepend", prepend: "▁"}, {type: "Replace", pattern: {String: " "}, content: "▁"}]},
		 pre_tokenizer: null, post_processor: null,
		 decoder: {type: "Sequence", decoders: [{type: "Replace", pattern: {String: "▁"}, content: " "}, {type: "ByteFallback"}, {type: "Fuse"}, {type: "Strip", content: " ", start: 1, stop: 0}]},
		 model: {type: "BPE", dropout: null, unk_token: "<unk>", fuse_unk: true, byte_fallback: true, vocab: $vocab,
		  merges: ["e r", "i s", "▁ is", "▁ (", "# #", "▁ ##", "▁## #", "▁ U", "▁U s", "▁Us er"]}}' > "$T/l/tokenizer.json"
	ids() { jq -nc --arg t "$1" '{text: $t}' | sal-tokenize -q -m "$T/l" --plain | jq -c .tokens; }
	[ "$(ids $'\n (a')" = "[29871,13,313,29874]" ]
	[ "$(ids $'\n')" = "[29871,13]" ]
	[ "$(ids $'a is b')" = "[29871,29874,338,29871,29890]" ]
	[ "$(ids '### User')" = "[835,4911]" ]
	[ "$(ids $'\n\n### User')" = "[29871,13,13,2277,29937,4911]" ]
	for text in $'\n (a' $'a\n\n### User is é'; do
		[ "$(jq -nc --arg t "$text" '{text: $t}' | sal-tokenize -q -m "$T/l" --plain | sal-tokenize -q -m "$T/l" --decode | jq -r .text)" = "$text" ]
	done
}
