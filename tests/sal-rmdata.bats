# SPDX-License-Identifier: Apache-2.0
load helper

@test "samples under a principle and its negation: the label is known" {
	printf '{"id":"a","prompt":"p","response":"x","sampled_under":{"dimension":"Concise","negated":false}}\n{"id":"a","prompt":"p","response":"yy","sampled_under":{"dimension":"Concise","negated":true}}\n' > "$T/in"
	sal-rmdata -q --from contrast-samples --negate 0 < "$T/in" > "$T/out"
	jq -e '.chosen == "x" and .rejected == "yy" and .deciding == "Concise"' "$T/out"
	sal-rmdata -q --from contrast-samples --negate 1 < "$T/in" | jq -e '.chosen == "yy" and .principles[0].negated'
}
@test "judged pairs: the same bytes for the same seed" {
	for i in 1 2 3 4 5 6; do printf '{"id":"j%d","prompt":"p","output_1":"a","output_2":"b","judgements":{"X":[%d,1.5],"Y":[-1,-%d.5]}}\n' $i $i $i; done > "$T/in"
	cmp <(sal-rmdata -q --seed 3 < "$T/in") <(sal-rmdata -q --seed 3 < "$T/in")
	sal-rmdata -q --seed 3 < "$T/in" | jq -e '.chosen and .rejected and (.principles | length > 0)' > /dev/null
}
@test "the release's files: answers of two runs and the judge's lines become preferences" {
	for f in 0 1; do for q in b a c; do jq -cn --arg q $q --arg f $f '{instruction: $q, input: "", output: {generation: "answer \($f) to \($q), of some length\n\n### User\nmore"}}'; done; done > "$T/in"
	for i in 0 1 2; do for d in X Y; do echo "{\"example_idx\":$i,\"dimension\":\"$d\",\"preference\":0,\"prompt_preference\":1,\"relative_score\":[$((i + 1)),2]}"; done; done | sed '$d' >> "$T/in"
	sal-rmdata --from released --passes 1 --negate 0 --noise 0 < "$T/in" > "$T/out" 2> "$T/err"
	# Python orders three pairs 1, 0, 2; the last was not judged by both
	[ "$(jq -c '[.id, .instruction, .chosen]' "$T/out" | tr -d '\n')" = '[0,"b","answer 0 to b, of some length"][1,"a","answer 0 to a, of some length"]' ]
	grep -q '1 pairs skipped (not judged by every principle)' "$T/err"
	run bash -c "head -n 5 '$T/in' | sal-rmdata -q --from released 2> '$T/err'"
	refused 1
}
