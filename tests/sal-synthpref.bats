# SPDX-License-Identifier: Apache-2.0
load helper
pairs() { for i in 1 2 3; do printf '{"id":"q%d","prompt":"hello","output_1":"the answer %d","output_2":"no","k":[1.0]}\n' $i $i; done; }

@test "compare: swapping the answers swaps and negates the two scores exactly" {
	principle
	pairs | sal-synthpref -q -m "$M" -p "$T/p.json" --template "$T/t.txt" > "$T/a"
	pairs | jq -c '{id, prompt, output_1: .output_2, output_2: .output_1}' | sal-synthpref -q -m "$M" -p "$T/p.json" --template "$T/t.txt" > "$T/b"
	cmp <(jq -c '.judgements.Short' "$T/a") <(jq -c '.judgements.Short | [-.[1], -.[0]]' "$T/b")
	[ "$(grep -c '"k":\[1.0\]' "$T/a")" -eq 3 ]
}
@test "contrast: one score for both orders, which changes its sign when the answers are swapped" {
	principle
	judge() { sal-synthpref -q -m "$M" -p "$T/p.json" --judge contrast | jq -c '.judgements.Short'; }
	pairs | judge > "$T/a"
	pairs | jq -c '{prompt, output_1: .output_2, output_2: .output_1}' | judge > "$T/b"
	jq -es 'length == 3 and all(.[]; .[0] == .[1] and .[0] != 0)' "$T/a"
	cmp "$T/a" <(jq -c 'map(-.)' "$T/b")
}
@test "every two samples of an id make a pair; those with short answers do not" {
	principle
	printf '{"id":"a","prompt":"hi","sample":%d,"response":"%s"}\n' 0 "a long enough answer" 1 short 2 "another answer, long" 3 "and a third one, long" > "$T/in"
	sal-synthpref -q -m "$M" -p "$T/p.json" --judge contrast < "$T/in" | jq -c '[.id, .output_1[:3], .output_2[:3], has("sample")]' > "$T/out"
	printf '["a","%s","%s",false]\n' "a l" ano "a l" and ano and | cmp - "$T/out"
}
@test "contrast reads the text of a prompt that has its tokens too, and refuses tokens alone" {
	principle
	judge() { sal-synthpref -q -m "$M" -p "$T/p.json" --judge contrast; }
	cmp <(pairs | judge) <(pairs | jq -c '.prompt_tokens = [1, 2]' | sed 's/"k":\[1\]/"k":[1.0]/' | judge)
	run bash -c "echo '{\"prompt_tokens\":[1],\"output_1\":\"a\",\"output_2\":\"b\"}' | sal-synthpref -q -m '$M' -p '$T/p.json' --judge contrast 2> '$T/err'"
	refused 1
	grep -q 'stdin:1: "prompt_tokens" take no system turn' "$T/err"
}
@test "a text longer than the context is a bad record" {
	principle
	for j in compare contrast; do
		{ pairs | head -n 1; printf '{"id":"long","prompt":"hello","output_1":"%0300d","output_2":"no"}\n' 7; } > "$T/in"
		run bash -c "sal-synthpref -q -m '$M' -p '$T/p.json' --judge $j $([ $j = contrast ] || echo --template "$T/t.txt") --skip-bad --reject '$T/bad' < '$T/in' 2> '$T/err'"
		[ "$status" -eq 0 ] && [ "${#lines[@]}" -eq 1 ] && [ ! -s "$T/err" ]
		jq -es 'length == 1 and .[0].line == 2 and (.[0].error | test("a judge.s text of [0-9]* tokens is more than the context of 256"))' "$T/bad"
	done
}
