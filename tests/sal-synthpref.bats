# SPDX-License-Identifier: Apache-2.0
load helper
P() { printf '[{"dimension":"Short","definition":"be short","negative_definition":"be long"}]' > "$T/p.json"; printf '{UserInstruction} {OutputA} {OutputB} {Dimension} Output (' > "$T/t.txt"; }
pairs() { for i in 1 2 3; do printf '{"id":"q%d","prompt":"hello","output_1":"the answer %d","output_2":"no","k":[1.0]}\n' $i $i; done; }

@test "--help prints the options on stdout and succeeds" {
	run sal-synthpref --help
	[ "$status" -eq 0 ]
	[[ $output == *"--judge"* ]]
}
@test "compare: swapping the answers swaps and negates the two scores exactly" {
	P
	pairs | sal-synthpref -q -m "$M" -p "$T/p.json" --template "$T/t.txt" > "$T/a"
	pairs | jq -c '{id, prompt, output_1: .output_2, output_2: .output_1}' | sal-synthpref -q -m "$M" -p "$T/p.json" --template "$T/t.txt" > "$T/b"
	cmp <(jq -c '.judgements.Short' "$T/a") <(jq -c '.judgements.Short | [-.[1], -.[0]]' "$T/b")
	[ "$(grep -c '"k":\[1.0\]' "$T/a")" -eq 3 ]
}
@test "contrast: one score for both orders, the same bytes for any batch" {
	P
	pairs | sal-synthpref -q -m "$M" -p "$T/p.json" --judge contrast > "$T/a"
	pairs | sal-synthpref -q -m "$M" -p "$T/p.json" --judge contrast -b 1 -j 1 > "$T/b"
	cmp "$T/a" "$T/b"
	jq -e '.judgements.Short[0] == .judgements.Short[1]' "$T/a" > /dev/null
}
@test "no input, no output; a record without answers is named" {
	P
	[ -z "$(sal-synthpref -q -m "$M" -p "$T/p.json" --judge contrast < /dev/null)" ]
	run bash -c "echo '{\"id\":\"a\",\"prompt\":\"x\"}' | sal-synthpref -q -m '$M' -p '$T/p.json' --judge contrast 2> '$T/err'"
	refused 1
	grep -q 'stdin:1' "$T/err"
}
